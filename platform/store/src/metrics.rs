//! What is measured. Names that are not `pharos_store_*` are upstream's, from `apiserver/pkg/storage` of Kubernetes 1.37.

use pharos_telemetry::Register as _;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, exponential_buckets};

/// Metrics of the embedded engine.
#[derive(Clone)]
pub struct Metrics {
    pub(crate) commit_seconds: Histogram,
    pub(crate) fsync_seconds: Histogram,
    pub(crate) batch_commits: Histogram,
    pub(crate) queue_commits: IntGauge,
    pub(crate) commits: IntCounterVec,
    pub(crate) log_bytes: IntGauge,
    pub(crate) db_bytes: IntGauge,
    pub(crate) size_bytes: IntGauge,
    pub(crate) keys: IntGauge,
    pub(crate) value_bytes: IntGauge,
    pub(crate) history_events: IntGauge,
    pub(crate) history_bytes: IntGauge,
    pub(crate) revision: IntGauge,
    pub(crate) compacted_revision: IntGauge,
    pub(crate) compaction_seconds: Histogram,
    pub(crate) snapshot_seconds: Histogram,
    pub(crate) snapshot_failures: IntCounter,
    pub(crate) expired: IntCounter,
}

/// Metrics of the etcd engine, with upstream's names.
#[derive(Clone)]
pub struct EtcdMetrics {
    pub(crate) request_seconds: HistogramVec,
    pub(crate) errors: IntCounterVec,
}

/// Metrics of all watch caches.
#[derive(Clone)]
pub struct CacheMetrics {
    watchers: IntGaugeVec,
    events: IntCounterVec,
    lagged: IntCounterVec,
    objects: IntGaugeVec,
    storage_objects: IntGaugeVec,
    capacity: IntGaugeVec,
}

/// Metrics of one resource's cache.
pub(crate) struct ResourceMetrics {
    pub(crate) watchers: IntGauge,
    pub(crate) events: IntCounter,
    pub(crate) lagged: IntCounter,
    objects: IntGauge,
    storage_objects: IntGauge,
    pub(crate) capacity: IntGauge,
}

impl ResourceMetrics {
    pub(crate) fn set_objects(&self, count: usize) {
        self.objects.set(count as i64);
        self.storage_objects.set(count as i64);
    }
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    ///
    /// If they are registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let micros = || exponential_buckets(0.000_032, 2.0, 16); // 32 µs to 1 s.
        let millis = || exponential_buckets(0.001, 2.0, 14); // 1 ms to 8 s.
        let sizes: IntGaugeVec = registry.gauges(
            "apiserver_storage_size_bytes",
            "Size of the storage database file physically allocated in bytes.",
            &["storage_cluster_id"],
        )?;
        Ok(Self {
            commit_seconds: registry.histogram(
                "pharos_store_commit_duration_seconds",
                "Time from taking a batch of commits to acknowledging it.",
                micros()?,
            )?,
            fsync_seconds: registry.histogram(
                "pharos_store_fsync_duration_seconds",
                "Time of the fdatasync that makes a batch durable.",
                micros()?,
            )?,
            batch_commits: registry.histogram(
                "pharos_store_batch_commits",
                "Commits made durable together.",
                exponential_buckets(1.0, 2.0, 12)?,
            )?,
            queue_commits: registry.gauge("pharos_store_queue_commits", "Commits waiting for the committer.")?,
            commits: registry.counters(
                "pharos_store_commits_total",
                "Commits by outcome: ok, conflict, invalid, failed.",
                &["outcome"],
            )?,
            log_bytes: registry.gauge("pharos_store_log_bytes", "Size of the commit log's segments.")?,
            db_bytes: registry.gauge("pharos_store_snapshot_bytes", "Size of the snapshot.")?,
            size_bytes: sizes.with_label_values(&["etcd-0"]), // Upstream's name for the first store it is given.
            keys: registry.gauge("pharos_store_keys", "Live keys.")?,
            value_bytes: registry.gauge("pharos_store_value_bytes", "Bytes of live values.")?,
            history_events: registry.gauge("pharos_store_history_events", "Events kept since the last compaction.")?,
            history_bytes: registry.gauge("pharos_store_history_bytes", "Bytes of values that only history holds.")?,
            revision: registry.gauge("pharos_store_revision", "The newest revision.")?,
            compacted_revision: registry.gauge("pharos_store_compacted_revision", "The oldest revision that can be read.")?,
            compaction_seconds: registry.histogram(
                "pharos_store_compaction_duration_seconds",
                "Time of a compaction.",
                millis()?,
            )?,
            snapshot_seconds: registry.histogram(
                "pharos_store_snapshot_duration_seconds",
                "Time of folding sealed log segments into the snapshot.",
                millis()?,
            )?,
            snapshot_failures: registry
                .counter("pharos_store_snapshot_failures_total", "Snapshots that failed and will be retried.")?,
            expired: registry.counter("pharos_store_expired_keys_total", "Keys deleted because their time to live was over.")?,
        })
    }
}

impl EtcdMetrics {
    /// Registers them.
    ///
    /// # Errors
    ///
    /// If they are registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            request_seconds: registry.histograms(
                "etcd_request_duration_seconds",
                "Etcd request latency in seconds for each operation.",
                exponential_buckets(0.001, 2.0, 14)?, // 1 ms to 8 s.
                &["operation"],
            )?,
            errors: registry.counters(
                "etcd_request_errors_total",
                "Etcd failed request counts for each operation.",
                &["operation"],
            )?,
        })
    }
}

impl CacheMetrics {
    /// Registers them.
    ///
    /// # Errors
    ///
    /// If they are registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let labels = ["group", "resource"];
        Ok(Self {
            watchers: registry.gauges("pharos_store_watchers", "Watches open on a watch cache.", &labels)?,
            events: registry.counters(
                "apiserver_watch_cache_events_received_total",
                "Counter of events received in watch cache broken by resource type.",
                &labels,
            )?,
            lagged: registry.counters(
                "apiserver_terminated_watchers_total",
                "Counter of watchers closed due to unresponsiveness broken by resource type.",
                &labels,
            )?,
            objects: registry.gauges(
                "apiserver_resource_objects",
                "Number of stored objects at the time of last check split by kind.",
                &labels,
            )?,
            storage_objects: registry.gauges(
                "apiserver_storage_objects",
                "[DEPRECATED, consider using apiserver_resource_objects instead] Number of stored objects at the time of last check split by kind.",
                &["resource"],
            )?,
            capacity: registry.gauges(
                "apiserver_watch_cache_capacity",
                "Total capacity of watch cache broken by resource type.",
                &labels,
            )?,
        })
    }

    pub(crate) fn resource(&self, group: &str, resource: &str) -> ResourceMetrics {
        let labels = [group, resource];
        let qualified = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        ResourceMetrics {
            watchers: self.watchers.with_label_values(&labels),
            events: self.events.with_label_values(&labels),
            lagged: self.lagged.with_label_values(&labels),
            objects: self.objects.with_label_values(&labels),
            storage_objects: self.storage_objects.with_label_values(&[qualified]),
            capacity: self.capacity.with_label_values(&labels),
        }
    }
}
