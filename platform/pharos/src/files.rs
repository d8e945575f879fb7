//! The files that the binary itself writes and reads: kubeconfigs, and where things are in the data folder.

use std::{
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;

/// Where things are in the data folder.
#[derive(Clone, Debug)]
pub struct Layout(pub PathBuf);

impl Layout {
    /// Certificates and keys of the control plane.
    pub fn tls(&self) -> PathBuf {
        self.0.join("server/tls")
    }

    /// The store of objects.
    pub fn store(&self) -> PathBuf {
        self.0.join("server/db")
    }

    /// Snapshots of it, unless they are put elsewhere.
    pub fn snapshots(&self) -> PathBuf {
        self.0.join("server/snapshots")
    }

    /// Time series.
    pub fn metrics(&self) -> PathBuf {
        self.0.join("server/metrics")
    }

    /// The log index.
    pub fn logs(&self) -> PathBuf {
        self.0.join("server/logs")
    }

    /// Certificates and keys of the node.
    pub fn node_tls(&self) -> PathBuf {
        self.0.join("agent/tls")
    }

    /// What the kubelet keeps: volumes of pods and the like.
    pub fn kubelet(&self) -> PathBuf {
        self.0.join("agent/kubelet")
    }

    /// What the container runtime keeps: images and containers.
    pub fn runtime(&self) -> PathBuf {
        self.0.join("agent/runtime")
    }

    /// What a reboot ends: sockets, mounts and records of containers. On the tmpfs `/run`, where paths of sockets are short
    /// enough; the link `agent/run` in the data folder leads there.
    pub fn run(&self) -> anyhow::Result<PathBuf> {
        let data = self.0.canonicalize().with_context(|| format!("find {}", self.0.display()))?;
        let name = if data == Path::new("/var/lib/pharos") {
            "node".to_owned()
        } else {
            pharos_transport::pki::hash_of_pem(&data.display().to_string())[..7].to_owned()
        };
        Ok(Path::new("/run/pharos").join(name))
    }

    /// Where `pharos image` reaches the node.
    pub fn image_socket(&self) -> anyhow::Result<PathBuf> {
        Ok(self.run()?.join("image.sock"))
    }

    /// Where `pharos store` reaches the server.
    pub fn store_socket(&self) -> anyhow::Result<PathBuf> {
        Ok(self.run()?.join("store.sock"))
    }

    /// Where the logs of containers lie: upstream's place, unless this is not the machine's one node.
    pub fn pod_logs(&self) -> PathBuf {
        if self.0 == Path::new("/var/lib/pharos") { "/var/log/pods".into() } else { self.0.join("agent/logs") }
    }

    /// Log lines that wait for the server.
    pub fn log_spool(&self) -> PathBuf {
        self.0.join("agent/log-spool")
    }

    /// What the pod network keeps.
    pub fn network(&self) -> PathBuf {
        self.0.join("agent/network")
    }
}

/// Makes a folder that only its owner may enter.
pub fn private_folder(path: &Path) -> anyhow::Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("make folder {}", path.display()))
}

/// Replaces a file in one step, with a mode.
pub fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let context = || format!("write {}", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(context)?;
    }
    let new = path.with_extension("new");
    let _ = std::fs::remove_file(&new);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&new).with_context(context)?;
    file.write_all(text.as_bytes()).with_context(context)?;
    file.sync_all().with_context(context)?;
    std::fs::rename(&new, path).with_context(context)
}

/// A kubeconfig for one user of one server.
pub fn kubeconfig(server: &str, ca_pem: &str, certificate_pem: &str, key_pem: &str) -> anyhow::Result<String> {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "default",
        "clusters": [{"name": "default", "cluster": {"server": server, "certificate-authority-data": STANDARD.encode(ca_pem)}}],
        "contexts": [{"name": "default", "context": {"cluster": "default", "user": "default"}}],
        "users": [{"name": "default", "user": {
            "client-certificate-data": STANDARD.encode(certificate_pem), "client-key-data": STANDARD.encode(key_pem)}}],
    });
    Ok(serde_norway::to_string(&config)?)
}

/// The CA certificate (PEM) in a kubeconfig.
pub fn ca_of_kubeconfig(yaml: &str) -> anyhow::Result<String> {
    let config: serde_norway::Value = serde_norway::from_str(yaml)?;
    let cluster = config.get("clusters").and_then(|c| c.get(0)).and_then(|c| c.get("cluster"));
    let data = cluster.and_then(|c| c.get("certificate-authority-data")).and_then(|d| d.as_str());
    let data = data.context("the kubeconfig has no certificate-authority-data")?;
    String::from_utf8(STANDARD.decode(data)?).context("the CA certificate is not PEM")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_tells_its_ca() {
        let yaml = kubeconfig("https://127.0.0.1:6443", "CA", "CERT", "KEY").unwrap();
        assert_eq!(ca_of_kubeconfig(&yaml).unwrap(), "CA");
    }
}
