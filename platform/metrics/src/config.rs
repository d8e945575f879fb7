use std::{path::PathBuf, sync::Arc, time::Duration};

use pharos_telemetry::Registries;
use serde::{Deserialize, Serialize};

/// What can be set. Field names are camelCase in files; unknown fields are errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// Directory of the write-ahead log and the checkpoint, for one process at a time. Default `/var/lib/pharos/metrics`.
    pub dir: PathBuf,
    /// This node's name: the `instance` of targets in this process and of the node collector. Default empty.
    pub node_name: String,
    /// Seconds between two scrapes of a target, from 1. Default 15.
    pub scrape_interval_seconds: f64,
    /// Seconds a scrape may take, at most the interval. Default 10.
    pub scrape_timeout_seconds: f64,
    /// Samples a scrape may return; one with more fails as a whole. 0: no limit. Default 100,000.
    pub sample_limit: usize,
    /// Bytes of a scraped page, uncompressed. 0: no limit. Default 16 MiB.
    pub body_size_limit_bytes: u64,
    /// Seconds a sample is kept. 0: for ever. Default 24 h.
    pub retention_seconds: u64,
    /// Bytes of sealed chunks kept, oldest dropped first. 0: no limit. Default 24 MiB.
    pub retention_bytes: u64,
    /// Bytes of write-ahead log after which everything is written to a checkpoint and the log begins anew. Default 16 MiB.
    pub wal_checkpoint_bytes: u64,
    /// Samples a query may hold in memory. Default 50,000,000, as upstream's `--query.max-samples`.
    pub query_max_samples: usize,
    /// Seconds a query may take. Default 120, as upstream's `--query.timeout`.
    pub query_timeout_seconds: f64,
    /// Queries that run at once; more wait. Default 20, as upstream's `--query.max-concurrency`.
    pub query_max_concurrency: usize,
    /// Seconds an instant selector looks back for a sample. Default 300, as upstream's `--query.lookback-delta`.
    pub query_lookback_delta_seconds: f64,
}

/// What the metrics component collects from.
#[derive(Clone, Default)]
pub struct Sources {
    /// Registries of the components in this process; components that start later are found too.
    pub registries: Registries,
    /// TLS towards the kubelets (`pharos_transport::pki::client_config`). `None`: kubelets are not scraped over HTTPS.
    pub kubelet_tls: Option<Arc<rustls::ClientConfig>>,
    /// Components that run on each node beside its kubelet, which serves their metrics at `/metrics/components/NAME`.
    pub node_components: Vec<String>,
    /// TLS towards pods and services annotated with `prometheus.io/scheme: https`. `None`: these targets are down.
    pub pod_tls: Option<Arc<rustls::ClientConfig>>,
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            dir: "/var/lib/pharos/metrics".into(),
            node_name: String::new(),
            scrape_interval_seconds: 15.0,
            scrape_timeout_seconds: 10.0,
            sample_limit: 100_000,
            body_size_limit_bytes: 16 << 20,
            retention_seconds: 24 * 3600,
            retention_bytes: 24 << 20,
            wal_checkpoint_bytes: 16 << 20,
            query_max_samples: 50_000_000,
            query_timeout_seconds: 120.0,
            query_max_concurrency: 20,
            query_lookback_delta_seconds: 300.0,
        }
    }
}

impl Config {
    /// Every mistake, each as one line; empty when the configuration can be used.
    #[must_use]
    pub fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        if !(1.0..=86_400.0).contains(&self.scrape_interval_seconds) {
            mistakes.push(format!("scrapeIntervalSeconds {}: not from 1 to 86400", self.scrape_interval_seconds));
        }
        if !(self.scrape_timeout_seconds > 0.0 && self.scrape_timeout_seconds <= self.scrape_interval_seconds) {
            mistakes.push(format!("scrapeTimeoutSeconds {}: not above 0 and up to the interval", self.scrape_timeout_seconds));
        }
        if !(self.query_timeout_seconds > 0.0 && self.query_timeout_seconds <= 86_400.0) {
            mistakes.push(format!("queryTimeoutSeconds {}: not above 0 and up to 86400", self.query_timeout_seconds));
        }
        if !(self.query_lookback_delta_seconds > 0.0 && self.query_lookback_delta_seconds <= 86_400.0) {
            mistakes
                .push(format!("queryLookbackDeltaSeconds {}: not above 0 and up to 86400", self.query_lookback_delta_seconds));
        }
        if self.query_max_concurrency == 0 {
            mistakes.push("queryMaxConcurrency 0: nothing could be asked".to_owned());
        }
        if self.wal_checkpoint_bytes < 64 << 10 {
            mistakes.push(format!("walCheckpointBytes {}: below 65536", self.wal_checkpoint_bytes));
        }
        mistakes
    }

    pub(crate) fn interval(&self) -> Duration {
        Duration::from_secs_f64(self.scrape_interval_seconds)
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.scrape_timeout_seconds)
    }
}
