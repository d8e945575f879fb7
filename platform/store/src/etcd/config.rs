//! What can be set of the etcd engine.

use std::path::PathBuf;

use serde::Deserialize;

use crate::{Error, Result};

/// Settings of the etcd engine.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct EtcdConfig {
    /// Where members of the cluster listen, as `https://HOST:PORT` or `http://HOST:PORT`; all alike.
    pub endpoints: Vec<String>,
    /// How TLS is spoken, to `https` endpoints.
    pub tls: EtcdTls,
    /// What all keys in etcd start with. Default `/registry`.
    pub prefix: String,
    /// What all keys of the store start with; the prefix takes its place. Default `/registry`.
    pub root: String,
    /// Keys whose values are encrypted start with one of these. Default: Secrets, `/registry/core/secrets/`.
    pub encrypted_prefixes: Vec<String>,
    /// The file of encryption keys, the same for all servers of one etcd.
    pub key_file: PathBuf,
    /// Bytes of a commit, keys and values together, before etcd is asked. etcd's own limit is `--max-request-bytes`, 1.5 MiB
    /// if not set. Default 3 MiB.
    pub max_commit_bytes: usize,
}

/// Certificates to speak TLS with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct EtcdTls {
    /// CA certificates (PEM) that vouch for etcd.
    pub ca_file: Option<PathBuf>,
    /// Our client certificate (PEM).
    pub cert_file: Option<PathBuf>,
    /// Its private key (PEM).
    pub key_file: Option<PathBuf>,
}

impl Default for EtcdConfig {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            tls: EtcdTls::default(),
            prefix: "/registry".to_owned(),
            root: "/registry".to_owned(),
            encrypted_prefixes: vec!["/registry/core/secrets/".to_owned()],
            key_file: "/var/lib/pharos/store/encryption.keys".into(),
            max_commit_bytes: 3 << 20,
        }
    }
}

impl EtcdConfig {
    /// The defaults, for a cluster.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>, key_file: impl Into<PathBuf>) -> Self {
        let endpoints = endpoints.into_iter().map(Into::into).collect();
        Self { endpoints, key_file: key_file.into(), ..Self::default() }
    }

    /// Finds all mistakes at once.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] that names them.
    pub fn check(&self) -> Result<()> {
        let mut mistakes = Vec::new();
        if self.endpoints.is_empty() {
            mistakes.push("no endpoint is given".to_owned());
        }
        for endpoint in &self.endpoints {
            let rest = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
            if rest.is_none_or(|rest| rest.trim_end_matches('/').is_empty()) {
                mistakes.push(format!("endpoint {endpoint} is not https://HOST:PORT or http://HOST:PORT"));
            }
        }
        let secure = self.endpoints.iter().filter(|endpoint| endpoint.starts_with("https://")).count();
        if secure != 0 && secure != self.endpoints.len() {
            mistakes.push("some endpoints are https, some are not".to_owned());
        }
        if secure == 0 && self.tls != EtcdTls::default() {
            mistakes.push("certificates are given, but no endpoint is https".to_owned());
        }
        if self.tls.cert_file.is_some() != self.tls.key_file.is_some() {
            mistakes.push("a client certificate needs its key, and a key its certificate".to_owned());
        }
        let is_bad = |prefix: &str| !prefix.is_empty() && (!prefix.starts_with('/') || prefix.ends_with('/'));
        for (name, prefix) in [("prefix", &self.prefix), ("root", &self.root)] {
            if is_bad(prefix) {
                mistakes.push(format!("{name} {prefix} does not begin with a slash, or ends with one"));
            }
        }
        if mistakes.is_empty() { Ok(()) } else { Err(Error::Invalid(mistakes.join("; "))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_found() {
        let good = || EtcdConfig::new(["https://10.0.0.1:2379"], "keys");
        good().check().unwrap();
        let with = |change: fn(&mut EtcdConfig)| {
            let mut config = good();
            change(&mut config);
            config.check().map_err(|error| error.to_string()).unwrap_err()
        };
        for (change, expected) in [
            ((|config| config.endpoints.clear()) as fn(&mut EtcdConfig), "no endpoint"),
            (|config| config.endpoints.push("10.0.0.2:2379".to_owned()), "endpoint 10.0.0.2:2379 is not"),
            (|config| config.endpoints.push("http://10.0.0.2:2379".to_owned()), "some endpoints are https"),
            (|config| config.endpoints = vec!["https://".to_owned()], "endpoint https:// is not"),
            (|config| config.tls.cert_file = Some("x".into()), "needs its key"),
            (|config| config.prefix = "registry".to_owned(), "prefix registry does not begin"),
            (|config| config.prefix = "/registry/".to_owned(), "or ends with one"),
        ] {
            let text = with(change);
            assert!(text.contains(expected), "{text}");
        }
    }
}
