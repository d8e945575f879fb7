//! What PodSecurity is told beside labels: a `PodSecurityConfiguration` of `pod-security.admission.config.k8s.io`.
//!
//! Follows `pod-security-admission/admission/api`.

use std::collections::BTreeSet;

use pharos_api::names;
use serde::Deserialize;
use serde_json::Value;

use super::policy::{Level, Policy, Standard, Version};

const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha1"];

/// What PodSecurity does where labels say nothing, and whom it leaves alone. Defaults ask nothing and leave out nobody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Configuration {
    /// The policy of namespaces without labels; each label replaces a part of it.
    pub defaults: Policy,
    /// Users whose writes are not looked at.
    pub exempt_usernames: Vec<String>,
    /// Namespaces in which nothing is looked at.
    pub exempt_namespaces: Vec<String>,
    /// RuntimeClasses whose pods are not looked at.
    pub exempt_runtime_classes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Wire {
    api_version: String,
    kind: String,
    #[serde(default)]
    defaults: Defaults,
    #[serde(default)]
    exemptions: Exemptions,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Defaults {
    enforce: String,
    enforce_version: String,
    audit: String,
    audit_version: String,
    warn: String,
    warn_version: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Exemptions {
    usernames: Vec<String>,
    namespaces: Vec<String>,
    runtime_classes: Vec<String>,
}

impl Configuration {
    /// Reads a `PodSecurityConfiguration`.
    ///
    /// # Errors
    ///
    /// What is wrong with it: another kind, an unknown field, a level or version that does not exist, a name that cannot be.
    pub fn from_value(value: Value) -> Result<Self, String> {
        let wire: Wire = serde_json::from_value(value).map_err(|error| error.to_string())?;
        let known = VERSIONS.iter().any(|version| wire.api_version == format!("pod-security.admission.config.k8s.io/{version}"));
        if !known || wire.kind != "PodSecurityConfiguration" {
            return Err(format!("expected PodSecurityConfiguration, got {} of {}", wire.kind, wire.api_version));
        }
        let Defaults { enforce, enforce_version, audit, audit_version, warn, warn_version } = &wire.defaults;
        let defaults = Policy {
            enforce: standard("enforce", enforce, enforce_version)?,
            audit: standard("audit", audit, audit_version)?,
            warn: standard("warn", warn, warn_version)?,
        };
        let Exemptions { usernames, namespaces, runtime_classes } = wire.exemptions;
        check(
            "usernames",
            &usernames,
            |name| if name.is_empty() { vec!["username must not be empty".into()] } else { Vec::new() },
        )?;
        check("namespaces", &namespaces, names::dns1123_label)?;
        check("runtimeClasses", &runtime_classes, names::dns1123_subdomain)?;
        Ok(Configuration {
            defaults,
            exempt_usernames: usernames,
            exempt_namespaces: namespaces,
            exempt_runtime_classes: runtime_classes,
        })
    }
}

fn standard(mode: &str, level: &str, version: &str) -> Result<Standard, String> {
    let level = if level.is_empty() { Ok(Level::default()) } else { Level::parse(level) };
    let version = if version.is_empty() { Ok(Version::default()) } else { Version::parse(version) };
    Ok(Standard {
        level: level.map_err(|why| format!("defaults.{mode}: {why}"))?,
        version: version.map_err(|why| format!("defaults.{mode}-version: {why}"))?,
    })
}

fn check(list: &str, names: &[String], wrong: impl Fn(&str) -> Vec<String>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for (index, name) in names.iter().enumerate() {
        let path = format!("exemptions.{list}[{index}]");
        let complaints = wrong(name);
        if !complaints.is_empty() {
            return Err(format!("{path}: Invalid value: {name:?}: {}", complaints.join(", ")));
        }
        if !seen.insert(name) {
            return Err(format!("{path}: Duplicate value: {name:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(defaults: Value, exemptions: Value) -> Result<Configuration, String> {
        Configuration::from_value(json!({
            "apiVersion": "pod-security.admission.config.k8s.io/v1", "kind": "PodSecurityConfiguration",
            "defaults": defaults, "exemptions": exemptions,
        }))
    }

    #[test]
    fn reads_what_upstream_reads() {
        let defaults = json!({"enforce": "baseline", "enforce-version": "v1.30", "warn": "restricted"});
        let exemptions = json!({"usernames": ["jane"], "namespaces": ["kube-system"], "runtimeClasses": ["sandboxed"]});
        let read = read(defaults, exemptions).unwrap();
        assert_eq!(read.defaults.enforce, Standard { level: Level::Baseline, version: Version::Minor(30) });
        assert_eq!(read.defaults.audit, Standard::default());
        assert_eq!(read.defaults.warn, Standard { level: Level::Restricted, version: Version::Latest });
        assert_eq!(read.exempt_usernames, ["jane"]);
        assert_eq!(read.exempt_namespaces, ["kube-system"]);
        assert_eq!(read.exempt_runtime_classes, ["sandboxed"]);
        let least = json!({"apiVersion": "pod-security.admission.config.k8s.io/v1", "kind": "PodSecurityConfiguration"});
        assert_eq!(Configuration::from_value(least), Ok(Configuration::default()));
    }

    #[test]
    fn tells_mistakes() {
        let none = json!({});
        for (defaults, exemptions, why) in [
            (json!({"enforce": "tight"}), none.clone(), "defaults.enforce: must be one of"),
            (json!({"audit-version": "1"}), none.clone(), "defaults.audit-version: must be \"latest\" or \"v1.x\""),
            (json!({"deny": "x"}), none.clone(), "unknown field `deny`"),
            (
                none.clone(),
                json!({"usernames": [""]}),
                "exemptions.usernames[0]: Invalid value: \"\": username must not be empty",
            ),
            (none.clone(), json!({"namespaces": ["A"]}), "exemptions.namespaces[0]: Invalid value: \"A\""),
            (none, json!({"namespaces": ["a", "a"]}), "exemptions.namespaces[1]: Duplicate value: \"a\""),
        ] {
            let error = read(defaults, exemptions).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let other = json!({"apiVersion": "v1", "kind": "Pod"});
        assert_eq!(Configuration::from_value(other), Err("expected PodSecurityConfiguration, got Pod of v1".to_owned()));
    }
}
