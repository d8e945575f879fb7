//! `--admission-control-config-file`: an `AdmissionConfiguration` of `apiserver.config.k8s.io`, as kube-apiserver reads it.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use pharos_apiserver::pod_security;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AdmissionConfiguration {
    api_version: String,
    kind: String,
    #[serde(default)]
    plugins: Vec<Plugin>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Plugin {
    name: String,
    /// A file beside this one, or anywhere, that holds the configuration.
    path: Option<PathBuf>,
    configuration: Option<Value>,
}

/// Reads the file. PodSecurity is the one plugin that takes a configuration here; any other is refused.
pub fn read(file: &Path) -> anyhow::Result<pod_security::Configuration> {
    let given: AdmissionConfiguration = parse(file)?;
    let versions = ["apiserver.config.k8s.io/v1", "apiserver.k8s.io/v1alpha1"];
    anyhow::ensure!(
        given.kind == "AdmissionConfiguration" && versions.contains(&given.api_version.as_str()),
        "expected AdmissionConfiguration, got {} of {}",
        given.kind,
        given.api_version
    );
    let mut found = None;
    for plugin in given.plugins {
        anyhow::ensure!(plugin.name == "PodSecurity", "plugin {:?} takes no configuration here", plugin.name);
        anyhow::ensure!(found.is_none(), "plugin {:?} is configured twice", plugin.name);
        let value = match (plugin.configuration, plugin.path) {
            (Some(value), None) => value,
            (None, Some(path)) => parse(&file.parent().unwrap_or(Path::new("")).join(path))?,
            _ => anyhow::bail!("plugin {:?} needs either a configuration or the path of one", plugin.name),
        };
        let configuration = pod_security::Configuration::from_value(value);
        found = Some(configuration.map_err(|why| anyhow::anyhow!("plugin {:?}: {why}", plugin.name))?);
    }
    Ok(found.unwrap_or_default())
}

fn parse<T: serde::de::DeserializeOwned>(file: &Path) -> anyhow::Result<T> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    serde_norway::from_str(&text).with_context(|| format!("parse {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECURITY: &str = "{apiVersion: pod-security.admission.config.k8s.io/v1, kind: PodSecurityConfiguration, \
                            exemptions: {namespaces: [kube-system]}}";

    fn read_text(text: &str) -> Result<pod_security::Configuration, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("admission.yaml");
        std::fs::write(&file, text).unwrap();
        std::fs::write(folder.path().join("security.yaml"), SECURITY).unwrap();
        read(&file).map_err(|error| format!("{error:#}"))
    }

    fn with(plugins: &str) -> Result<pod_security::Configuration, String> {
        read_text(&format!("apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins: {plugins}\n"))
    }

    #[test]
    fn pod_security_is_read_from_here_or_there() {
        for plugins in [
            format!("[{{name: PodSecurity, configuration: {SECURITY}}}]"),
            "[{name: PodSecurity, path: security.yaml}]".to_owned(),
        ] {
            assert_eq!(with(&plugins).unwrap().exempt_namespaces, ["kube-system"], "{plugins}");
        }
        assert_eq!(with("[]"), Ok(pod_security::Configuration::default()));
    }

    #[test]
    fn what_would_do_nothing_is_refused() {
        for (plugins, why) in [
            ("[{name: EventRateLimit, configuration: {}}]", "plugin \"EventRateLimit\" takes no configuration here"),
            ("[{name: PodSecurity}]", "needs either a configuration or the path of one"),
            ("[{name: PodSecurity, path: none.yaml}]", "none.yaml"),
            ("[{name: PodSecurity, configuration: {kind: Pod, apiVersion: v1}}]", "expected PodSecurityConfiguration"),
            ("[{name: PodSecurity, extra: 1}]", "unknown field `extra`"),
        ] {
            let error = with(plugins).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        assert!(read_text("apiVersion: v1\nkind: Pod\n").unwrap_err().contains("expected AdmissionConfiguration, got Pod of v1"));
    }
}
