//! Levels, versions, and what a namespace's labels make of them.
//!
//! Follows `pod-security-admission/api/helpers.go`.

use std::fmt;

use pharos_api::validation::{ErrorType, FieldError};
use serde_json::{Value, json};

use crate::strategy::field_error;

/// What all labels of PodSecurity begin with; so do its audit annotations.
pub(super) const PREFIX: &str = "pod-security.kubernetes.io/";

/// How strict a standard is, the laxest first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything is allowed.
    #[default]
    Privileged,
    /// Known ways out of a container are closed.
    Baseline,
    /// Best practice of hardening.
    Restricted,
}

impl Level {
    /// As labels name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        }
    }

    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let levels = [Level::Privileged, Level::Baseline, Level::Restricted];
        let level = levels.into_iter().find(|level| level.as_str() == text);
        level.ok_or("must be one of privileged, baseline, restricted")
    }
}

/// The Kubernetes minor version whose standards are meant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// Those of `v1.x`.
    Minor(u32),
    /// The newest this server knows.
    #[default]
    Latest,
}

impl Version {
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        if text == "latest" {
            return Ok(Version::Latest);
        }
        let minor = text
            .strip_prefix("v1.")
            .filter(|minor| minor.bytes().all(|byte| byte.is_ascii_digit()) && (*minor == "0" || !minor.starts_with('0')));
        let minor = minor.and_then(|minor| minor.parse().ok());
        minor.map(Version::Minor).ok_or("must be \"latest\" or \"v1.x\"")
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Version::Minor(minor) => write!(f, "v1.{minor}"),
            Version::Latest => f.write_str("latest"),
        }
    }
}

/// A standard: a level as of a version. The default demands nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standard {
    /// How strict.
    pub level: Level,
    /// As of when.
    pub version: Version,
}

impl Standard {
    /// Whether it asks the same: privileged does so in every version.
    fn equivalent(self, other: Self) -> bool {
        self.level == Level::Privileged && other.level == Level::Privileged || self == other
    }
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.level.as_str(), self.version)
    }
}

/// What is asked of the pods of a namespace. The default asks nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// What a pod must meet.
    pub enforce: Standard,
    /// What is told in the audit annotations if not met.
    pub audit: Standard,
    /// What the client is warned of if not met.
    pub warn: Standard,
}

impl Policy {
    pub(super) fn fully_privileged(self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|standard| standard.level == Level::Privileged)
    }

    fn equivalent(self, other: Self) -> bool {
        self.enforce.equivalent(other.enforce) && self.audit.equivalent(other.audit) && self.warn.equivalent(other.warn)
    }

    /// The policy of a namespace with these labels, and what is wrong with them. Wrong labels enforce the strictest standard,
    /// and audit and warn of nothing.
    pub(super) fn of_labels(labels: &Value, defaults: Policy) -> (Policy, Vec<FieldError>) {
        let mut policy = defaults;
        let mut errors = Vec::new();
        let mut level = |mode: &str, wrong: Level| {
            let (key, text) = label(labels, mode)?;
            let parsed = Level::parse(text).map_err(|why| errors.push(invalid(&key, text, why)));
            Some((parsed.unwrap_or(wrong), parsed.is_ok()))
        };
        let enforce = level("enforce", Level::Restricted);
        let audit = level("audit", Level::Privileged);
        let warn = level("warn", Level::Privileged);
        let mut version = |mode: &str| {
            let (key, text) = label(labels, mode)?;
            Some(Version::parse(text).map_err(|why| errors.push(invalid(&key, text, why))).unwrap_or(Version::Latest))
        };
        let versions = [version("enforce-version"), version("audit-version"), version("warn-version")];
        let modes = [(&mut policy.enforce, enforce), (&mut policy.audit, audit), (&mut policy.warn, warn)];
        for ((standard, level), version) in modes.into_iter().zip(versions) {
            standard.level = level.map_or(standard.level, |(level, _)| level);
            standard.version = version.unwrap_or(standard.version);
        }
        // Who asks for a standard and says nothing of warnings wants to be warned of what it forbids.
        let asked = enforce.is_some_and(|(_, valid)| valid);
        if warn.is_none() && asked && policy.enforce.level > policy.warn.level {
            policy.warn.level = policy.enforce.level;
            if versions[2].is_none() {
                policy.warn.version = policy.enforce.version;
            }
        }
        // Upstream's order: mode by mode.
        let order = ["enforce", "enforce-version", "audit", "audit-version", "warn", "warn-version"];
        errors.sort_by_key(|error| order.iter().position(|mode| error.field == path(mode)));
        (policy, errors)
    }

    /// The warning that the policy of an exempt namespace has no effect, if it has one beyond the defaults.
    pub(super) fn exempt_warning(self, namespace: &str, labels: &Value, defaults: Policy) -> Option<String> {
        if self.fully_privileged() || self.equivalent(defaults) {
            return None;
        }
        let modes = [("enforce", self.enforce), ("audit", self.audit), ("warn", self.warn)];
        let told = modes.into_iter().filter(|(mode, standard)| {
            let set = label(labels, mode).is_some() || label(labels, &format!("{mode}-version")).is_some();
            standard.level != Level::Privileged && set
        });
        let told: Vec<String> = told.map(|(mode, standard)| format!("{mode}={standard}")).collect();
        Some(format!("namespace {namespace:?} is exempt from Pod Security, and the policy ({}) will be ignored", told.join(", ")))
    }
}

fn label<'a>(labels: &'a Value, mode: &str) -> Option<(String, &'a str)> {
    let key = format!("{PREFIX}{mode}");
    let text = labels[&key].as_str()?;
    Some((key, text))
}

fn path(mode: &str) -> String {
    format!("metadata.labels[{PREFIX}{mode}]")
}

fn invalid(key: &str, text: &str, why: &str) -> FieldError {
    field_error(ErrorType::Invalid, &format!("metadata.labels[{key}]"), json!(text), why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standard(level: Level, version: Version) -> Standard {
        Standard { level, version }
    }

    #[test]
    fn reads_versions() {
        for (text, version) in [
            ("latest", Some(Version::Latest)),
            ("v1.0", Some(Version::Minor(0))),
            ("v1.37", Some(Version::Minor(37))),
            ("v1.999", Some(Version::Minor(999))),
            ("v1.01", None),
            ("v1.", None),
            ("v2.0", None),
            ("1.30", None),
            ("v1.+1", None),
            ("", None),
        ] {
            assert_eq!(Version::parse(text).ok(), version, "{text}");
        }
        assert!(Version::Minor(99) < Version::Latest);
    }

    #[test]
    fn reads_labels() {
        use Level::{Baseline, Privileged, Restricted};
        use Version::{Latest, Minor};
        // Labels, and level and version of each mode.
        let table = [
            (json!({}), [(Privileged, Latest), (Privileged, Latest), (Privileged, Latest)]),
            (json!({"enforce": "baseline"}), [(Baseline, Latest), (Privileged, Latest), (Baseline, Latest)]),
            (
                json!({"enforce": "baseline", "enforce-version": "v1.22"}),
                [(Baseline, Minor(22)), (Privileged, Latest), (Baseline, Minor(22))],
            ),
            (
                json!({"enforce": "baseline", "enforce-version": "v1.22", "warn-version": "v1.30"}),
                [(Baseline, Minor(22)), (Privileged, Latest), (Baseline, Minor(30))],
            ),
            (
                json!({"enforce": "restricted", "warn": "privileged", "audit": "baseline", "audit-version": "v1.5"}),
                [(Restricted, Latest), (Baseline, Minor(5)), (Privileged, Latest)],
            ),
        ];
        for (modes, wanted) in table {
            let (policy, errors) = Policy::of_labels(&labels(&modes), Policy::default());
            let [enforce, audit, warn] = wanted.map(|(level, version)| standard(level, version));
            assert_eq!((policy, errors.len()), (Policy { enforce, audit, warn }, 0), "{modes}");
        }
    }

    #[test]
    fn wrong_labels_are_told_and_enforce_the_strictest() {
        let modes = json!({"enforce": "strict", "warn": "x", "audit": "y", "enforce-version": "v1", "warn-version": "v1.4"});
        let (policy, errors) = Policy::of_labels(&labels(&modes), Policy::default());
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let levels = "must be one of privileged, baseline, restricted";
        assert_eq!(
            texts,
            [
                format!("metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": {levels}"),
                "metadata.labels[pod-security.kubernetes.io/enforce-version]: Invalid value: \"v1\": must be \"latest\" or \"v1.x\""
                    .to_owned(),
                format!("metadata.labels[pod-security.kubernetes.io/audit]: Invalid value: \"y\": {levels}"),
                format!("metadata.labels[pod-security.kubernetes.io/warn]: Invalid value: \"x\": {levels}"),
            ]
        );
        assert_eq!(policy.enforce, standard(Level::Restricted, Version::Latest));
        assert_eq!(policy.audit, standard(Level::Privileged, Version::Latest));
        assert_eq!(policy.warn, standard(Level::Privileged, Version::Minor(4)));
    }

    #[test]
    fn exempt_namespaces_are_told_what_is_ignored() {
        let modes = json!({"enforce": "baseline", "audit": "restricted", "audit-version": "v1.20", "warn": "privileged"});
        let labels = labels(&modes);
        let (policy, _) = Policy::of_labels(&labels, Policy::default());
        assert_eq!(
            policy.exempt_warning("a", &labels, Policy::default()).unwrap(),
            "namespace \"a\" is exempt from Pod Security, and the policy (enforce=baseline:latest, audit=restricted:v1.20) will be ignored"
        );
        assert_eq!(policy.exempt_warning("a", &labels, policy), None);
        assert_eq!(Policy::default().exempt_warning("a", &json!({}), Policy::default()), None);
    }

    fn labels(modes: &Value) -> Value {
        modes.as_object().unwrap().iter().map(|(mode, value)| (format!("{PREFIX}{mode}"), value.clone())).collect()
    }
}
