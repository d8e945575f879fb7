//! Snapshots, new keys for Secrets, and the move to etcd, with the commands an administrator has.

use std::{
    fs,
    process::{Child, Stdio},
    time::Duration,
};

use pharos_tests::{Cluster, eventually};

/// A process that ends with this.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_cluster_is_backed_up_restored_and_moved_to_etcd() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.yaml");
    fs::write(&config, "").unwrap();
    let mut cluster = Cluster::with(1, &["--disable=agent", &format!("--config={}", config.display())]);
    let data = cluster.data(0).display().to_string();
    let pharos = |cluster: &Cluster, arguments: &[&str]| cluster.pharos(&[arguments, &["--data-dir", &data]].concat());
    let ready = |cluster: &Cluster| {
        eventually("the API answers", Duration::from_secs(60), || cluster.try_kubectl(&["get", "--raw", "/readyz"]));
    };
    let secret = |cluster: &Cluster| cluster.get(&["secret", "s"])["data"]["k"].as_str().map(str::to_owned);
    cluster.apply("{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {k: hidden}}");
    let hidden = secret(&cluster);
    assert!(hidden.is_some());

    // A snapshot of the running server, and everything after it undone.
    let file = folder.path().join("snapshot").display().to_string();
    let said = pharos(&cluster, &["store", "snapshot", "--output", &file]);
    assert!(said.starts_with(&format!("wrote {file}: revision ")), "{said}");
    assert!(pharos(&cluster, &["store", "status", &file]).contains("entries"));
    let status: serde_json::Value = serde_json::from_str(&pharos(&cluster, &["store", "status", "-o", "json"])).unwrap();
    assert_eq!(status["engine"], "embedded");
    assert_eq!(pharos(&cluster, &["store", "defrag"]), "defragmented\n");
    let _ = cluster.kubectl(&["delete", "secret", "s"]).success();
    cluster.stop(0);
    let said = pharos(&cluster, &["store", "restore", &file]);
    assert!(said.contains("restored revision") && said.contains("what was there is in"), "{said}");
    cluster.launch(0);
    ready(&cluster);
    assert_eq!(secret(&cluster), hidden);

    // A new key, step by step.
    let stage = |cluster: &Cluster| {
        let text = pharos(cluster, &["secrets-encrypt", "status"]);
        text.lines().find_map(|line| line.strip_prefix("Current Rotation Stage: ")).unwrap_or_default().to_owned()
    };
    assert_eq!(stage(&cluster), "start");
    for (command, expected) in [("prepare", "prepare"), ("rotate", "rotate"), ("reencrypt", "reencrypt_finished")] {
        let _ = pharos(&cluster, &["secrets-encrypt", command]);
        assert_eq!(stage(&cluster), expected);
    }
    assert_eq!(secret(&cluster), hidden);

    // To etcd, which runs beside the server.
    cluster.stop(0);
    let mut etcd = cluster.command(0, "etcd");
    etcd.arg("--data-dir").arg(folder.path().join("etcd")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let _etcd = Ends(etcd.spawn().expect("etcd starts; `scripts/deps test` installs it"));
    let endpoint = "--datastore-endpoint=http://127.0.0.1:2379";
    let mut copied = String::new();
    eventually("etcd answers", Duration::from_secs(30), || {
        let output = pharos_tests::run(
            cluster.pharos_command().args(["store", "migrate", "--to", "etcd", endpoint, "--data-dir", &data]),
            "",
        );
        copied.clone_from(&output.stdout);
        if output.ok() { Ok(()) } else { Err(output.stderr) }
    });
    assert!(copied.starts_with("copied "), "{copied}");
    fs::write(&config, "datastore-endpoint: http://127.0.0.1:2379\n").unwrap();
    cluster.launch(0);
    ready(&cluster);
    let status: serde_json::Value = serde_json::from_str(&pharos(&cluster, &["store", "status", "-o", "json"])).unwrap();
    assert_eq!(status["engine"], "etcd");
    assert_eq!(secret(&cluster), hidden);
    cluster.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {k: in etcd}}");
    assert_eq!(cluster.get(&["configmap", "c"])["data"]["k"], "in etcd");
    assert_eq!(cluster.kubectl(&["get", "--raw", "/readyz/etcd"]).success(), "ok");
}
