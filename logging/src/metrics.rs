use pharos_telemetry::Register as _;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, Registry, exponential_buckets};

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A component of Pharos.
    Component,
    /// A container's output.
    Container,
    /// A Kubernetes event.
    Event,
    /// A client's push.
    Push,
}

const SOURCES: [(Source, &str); 4] =
    [(Source::Component, "component"), (Source::Container, "container"), (Source::Event, "event"), (Source::Push, "push")];

/// What is measured of what comes in.
#[derive(Clone)]
pub(crate) struct InputMetrics {
    lines: [IntCounter; 4],
    bytes: [IntCounter; 4],
    pub(crate) container_files: IntGauge,
    pub(crate) container_lost: IntCounter,
}

/// What is measured of the index.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) inputs: InputMetrics,
    /// Loki's `pkg/util/…` names it so for all its routes.
    pub(crate) requests: HistogramVec,
    pub(crate) memory_streams: IntGauge,
    pub(crate) head_lines: IntGauge,
    pub(crate) head_bytes: IntGauge,
    pub(crate) splits: IntGauge,
    pub(crate) split_bytes: IntGauge,
    pub(crate) wal_bytes: IntGauge,
    pub(crate) wal_seconds: Histogram,
    pub(crate) wal_errors: IntCounter,
    pub(crate) seal_seconds: Histogram,
    pub(crate) seal_errors: IntCounter,
    pub(crate) retired: IntCounterVec,
    pub(crate) tails: IntGauge,
    pub(crate) tail_lagged: IntCounter,
}

/// What is measured of shipping.
#[derive(Clone)]
pub(crate) struct ShipperMetrics {
    pub(crate) inputs: InputMetrics,
    pub(crate) spool_lines: IntGauge,
    pub(crate) spool_bytes: IntGauge,
    pub(crate) wal_errors: IntCounter,
    pub(crate) shipped: IntCounter,
    pub(crate) refused: IntCounter,
    pub(crate) push_seconds: Histogram,
    pub(crate) push_errors: IntCounter,
}

impl InputMetrics {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let lines: IntCounterVec =
            registry.counters("pharos_logging_ingested_lines_total", "Lines taken in, by where they came from.", &["source"])?;
        let bytes: IntCounterVec = registry.counters(
            "pharos_logging_ingested_bytes_total",
            "Bytes of lines taken in, by where they came from.",
            &["source"],
        )?;
        Ok(Self {
            lines: SOURCES.map(|(_, name)| lines.with_label_values(&[name])),
            bytes: SOURCES.map(|(_, name)| bytes.with_label_values(&[name])),
            container_files: registry.gauge("pharos_logging_container_files", "Container log files that are followed.")?,
            container_lost: registry.counter(
                "pharos_logging_container_lost_files_total",
                "Container log files that were removed or replaced before they were read to their end.",
            )?,
        })
    }

    pub(crate) fn ingested(&self, source: Source, lines: usize, bytes: usize) {
        let at = SOURCES.iter().position(|(known, _)| *known == source).unwrap_or_default();
        self.lines[at].inc_by(lines as u64);
        self.bytes[at].inc_by(bytes as u64);
    }
}

impl ShipperMetrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            inputs: InputMetrics::new(registry)?,
            spool_lines: registry.gauge("pharos_logging_spool_lines", "Lines that the server does not have yet.")?,
            spool_bytes: registry.gauge("pharos_logging_spool_bytes", "Memory of lines that the server does not have yet.")?,
            wal_errors: registry.counter(WAL_ERRORS, WAL_ERRORS_HELP)?,
            shipped: registry.counter("pharos_logging_shipped_lines_total", "Lines that the server has stored.")?,
            refused: registry.counter("pharos_logging_refused_lines_total", "Lines that the server will never store.")?,
            push_seconds: registry.histogram(
                "pharos_logging_push_seconds",
                "Time until the server has stored a batch.",
                exponential_buckets(0.001, 4.0, 9)?,
            )?,
            push_errors: registry
                .counter("pharos_logging_push_errors_total", "Batches that did not reach the server and are sent again.")?,
        })
    }
}

const WAL_ERRORS: &str = "pharos_logging_wal_errors_total";
const WAL_ERRORS_HELP: &str = "Batches that are in memory only: the disk refused them.";

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let seconds = |name, help| {
            let buckets = exponential_buckets(0.000_01, 4.0, 11)?;
            registry.histogram(name, help, buckets)
        };
        let buckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0];
        Ok(Self {
            inputs: InputMetrics::new(registry)?,
            requests: registry.histograms(
                "loki_request_duration_seconds",
                "Time (in seconds) spent serving HTTP requests.",
                buckets,
                &["method", "route", "status_code", "ws"],
            )?,
            memory_streams: registry
                .gauge("loki_ingester_memory_streams", "The total number of streams in memory per tenant.")?,
            head_lines: registry.gauge("pharos_logging_head_lines", "Lines in memory that are in no split yet.")?,
            head_bytes: registry.gauge("pharos_logging_head_bytes", "Memory of lines that are in no split yet.")?,
            splits: registry.gauge("pharos_logging_splits", "Sealed splits.")?,
            split_bytes: registry.gauge("pharos_logging_split_bytes", "Disk space of sealed splits.")?,
            wal_bytes: registry.gauge("pharos_logging_wal_bytes", "Length of the write-ahead log's current segment.")?,
            wal_seconds: seconds("pharos_logging_wal_append_seconds", "Time to append a batch to the write-ahead log.")?,
            wal_errors: registry.counter(WAL_ERRORS, WAL_ERRORS_HELP)?,
            seal_seconds: seconds("pharos_logging_seal_seconds", "Time to seal the head into a split.")?,
            seal_errors: registry.counter("pharos_logging_seal_errors_total", "Attempts to seal the head that failed.")?,
            retired: registry.counters("pharos_logging_retired_lines_total", "Lines deleted, by reason.", &["reason"])?,
            tails: registry.gauge("pharos_logging_tails", "Clients that follow a query.")?,
            tail_lagged: registry
                .counter("pharos_logging_tail_lagged_total", "Times that lines were not sent to a client that was too slow.")?,
        })
    }
}
