use std::{path::PathBuf, time::Duration};

use serde::Deserialize;

/// What can be set.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// Where the index lives; it is made if missing. Default `/var/lib/pharos/logs`.
    pub data_dir: PathBuf,
    /// The node's name, for the label `node`. Default empty: the label is left out.
    pub node: String,
    /// Where container logs are read, one directory for each pod; empty to read none. Default `/var/log/pods`.
    pub pod_logs_dir: PathBuf,
    /// Whether to record Kubernetes events: on one node of a cluster only. Default true.
    pub events: bool,
    /// How long a line is kept, in seconds; 0 for ever. Default 604800, a week.
    pub retention_seconds: u64,
    /// How much disk the sealed index may use, in bytes; the oldest splits go first; 0 for no bound. Default 10 GiB.
    pub retention_bytes: u64,
    /// How many bytes of lines the head holds before it is sealed into a split. Default 4 MiB.
    pub head_bytes: usize,
    /// How old the head's oldest line gets before it is sealed, in seconds. Default 3600.
    pub head_seconds: u64,
    /// The most lines a query returns, as Loki's `max_entries_limit_per_query`. Default 5000.
    pub max_entries_limit_per_query: usize,
    /// The most series a metric query returns, as Loki's `max_query_series`; the rest is cut off with a warning. Default 500.
    pub max_query_series: usize,
    /// How long a query may take, in seconds. Default 60.
    pub query_timeout_seconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "/var/lib/pharos/logs".into(),
            node: String::new(),
            pod_logs_dir: "/var/log/pods".into(),
            events: true,
            retention_seconds: 7 * 24 * 3600,
            retention_bytes: 10 << 30,
            head_bytes: 4 << 20,
            head_seconds: 3600,
            max_entries_limit_per_query: 5000,
            max_query_series: 500,
            query_timeout_seconds: 60,
        }
    }
}

impl Config {
    pub(crate) fn query_timeout(&self) -> Duration {
        Duration::from_secs(self.query_timeout_seconds)
    }
}
