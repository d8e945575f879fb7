use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

/// What can be set of a kubelet. Names and defaults are those of upstream's `KubeletConfiguration` and flags.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// The node's name; default the machine's host name in lower case.
    pub node_name: String,
    /// Addresses of the node, the primary one first; default that of the default route.
    pub node_ips: Vec<IpAddr>,
    /// Labels the node is registered with, besides the well-known ones.
    pub node_labels: BTreeMap<String, String>,
    /// Taints the node is registered with, as `key=value:Effect`.
    pub register_with_taints: Vec<String>,
    /// Where pods' volumes lie. Default `/var/lib/kubelet`.
    pub root_dir: PathBuf,
    /// Where containers' logs lie. Default `/var/log/pods`.
    pub pod_log_dir: PathBuf,
    /// Port of the HTTPS server. Default 10250.
    pub port: u16,
    /// Address of the HTTPS server. Default `0.0.0.0`.
    pub address: IpAddr,
    /// Addresses of the cluster DNS.
    #[serde(rename = "clusterDNS")]
    pub cluster_dns: Vec<String>,
    /// The cluster's DNS domain. Default `cluster.local`.
    pub cluster_domain: String,
    /// The machine's resolver configuration. Default `/etc/resolv.conf`, or systemd-resolved's own when that is in use.
    pub resolv_conf: Option<PathBuf>,
    /// The most pods. Default 110.
    pub max_pods: u32,
    /// The most processes in a pod; −1 means no limit. Default −1.
    pub pod_pids_limit: i64,
    /// Resources kept for the kubelet and the system: `cpu`, `memory`, `ephemeral-storage`. Default none.
    pub system_reserved: BTreeMap<String, String>,
    /// Hard eviction thresholds, as upstream: quantities or percentages.
    pub eviction_hard: BTreeMap<String, String>,
    /// How long pressure is reported after it has gone, in seconds. Default 300.
    pub eviction_pressure_transition_period_seconds: u64,
    /// Size at which a container's log is rotated, in bytes. Default 10 MiB.
    pub container_log_max_size_bytes: u64,
    /// How many log files of a container are kept. Default 5.
    pub container_log_max_files: u32,
    /// How often the Lease is renewed, in seconds. Default 10.
    pub node_lease_renew_seconds: u64,
    /// How long the Lease lasts, in seconds. Default 40.
    pub node_lease_duration_seconds: u32,
    /// How often an unchanged node status is written, in seconds. Default 300.
    pub node_status_report_seconds: u64,
    /// The most pulls at once. Default 5.
    pub max_parallel_image_pulls: usize,
    /// Sysctls outside the safe set that pods may ask for; `*` at the end matches a prefix.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Names of volumes' seccomp profiles are looked up here. Default `/var/lib/kubelet/seccomp`.
    pub seccomp_profile_root: PathBuf,
    /// Whether `/logs/` shows what is below `/var/log` to those who may read the node's logs. Default `true`.
    pub enable_system_log_handler: bool,
    /// Percentage of disk use at which unused images are removed. Default 85.
    pub image_gc_high_threshold_percent: u8,
    /// Percentage down to which they are removed. Default 80.
    pub image_gc_low_threshold_percent: u8,
}

impl Default for Config {
    fn default() -> Self {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Self {
            node_name: String::new(),
            node_ips: Vec::new(),
            node_labels: BTreeMap::new(),
            register_with_taints: Vec::new(),
            root_dir: "/var/lib/kubelet".into(),
            pod_log_dir: "/var/log/pods".into(),
            port: 10250,
            address: IpAddr::from([0, 0, 0, 0]),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            resolv_conf: None,
            max_pods: 110,
            pod_pids_limit: -1,
            system_reserved: BTreeMap::new(),
            eviction_hard: map(&[
                ("memory.available", "100Mi"),
                ("nodefs.available", "10%"),
                ("nodefs.inodesFree", "5%"),
                ("imagefs.available", "15%"),
            ]),
            eviction_pressure_transition_period_seconds: 300,
            container_log_max_size_bytes: 10 << 20,
            container_log_max_files: 5,
            node_lease_renew_seconds: 10,
            node_lease_duration_seconds: 40,
            node_status_report_seconds: 300,
            max_parallel_image_pulls: 5,
            allowed_unsafe_sysctls: Vec::new(),
            seccomp_profile_root: "/var/lib/kubelet/seccomp".into(),
            enable_system_log_handler: true,
            image_gc_high_threshold_percent: 85,
            image_gc_low_threshold_percent: 80,
        }
    }
}

impl Config {
    /// Where a pod's own files lie.
    pub(crate) fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root_dir.join("pods").join(uid)
    }

    /// Where the logs of a pod's containers lie: upstream's `<namespace>_<name>_<uid>`.
    pub(crate) fn pod_logs(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.pod_log_dir.join(format!("{namespace}_{name}_{uid}"))
    }

    /// How often the Lease is renewed.
    pub(crate) fn renew(&self) -> Duration {
        Duration::from_secs(self.node_lease_renew_seconds.max(1))
    }
}
