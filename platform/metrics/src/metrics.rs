//! The component's own metrics, with upstream's names (`tsdb/head.go`, `tsdb/wlog`, `promql/engine.go`, `scrape/metrics.go`).

use pharos_telemetry::Register as _;
use prometheus::{GaugeVec, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

/// What the store counts.
#[derive(Clone)]
pub(crate) struct TsdbMetrics {
    pub(crate) head_series: IntGauge,
    pub(crate) head_chunks: IntGauge,
    pub(crate) chunk_bytes: IntGauge,
    pub(crate) min_time: IntGauge,
    pub(crate) max_time: IntGauge,
    pub(crate) symbols: IntGauge,
    pub(crate) series_created: IntCounter,
    pub(crate) series_removed: IntCounter,
    pub(crate) chunks_created: IntCounter,
    pub(crate) chunks_removed: IntCounter,
    pub(crate) appended: IntCounter,
    pub(crate) out_of_order: IntCounter,
    pub(crate) size_retentions: IntCounter,
    pub(crate) checkpoints: IntCounter,
    pub(crate) corruptions: IntCounter,
    pub(crate) write_failures: IntCounter,
    pub(crate) wal_bytes: IntGauge,
    pub(crate) wal_unknown: IntCounter,
}

/// What the query engine counts.
#[derive(Clone)]
pub(crate) struct EngineMetrics {
    pub(crate) queries: IntGauge,
    pub(crate) duration: HistogramVec,
    pub(crate) samples: IntCounter,
    pub(crate) requests: IntCounterVec,
}

/// What scraping counts.
#[derive(Clone)]
pub(crate) struct ScrapeMetrics {
    pub(crate) interval: HistogramVec,
    pub(crate) sync: IntCounterVec,
    pub(crate) targets: IntGaugeVec,
    pub(crate) sample_limit: IntCounter,
    pub(crate) body_limit: IntCounter,
    pub(crate) out_of_order: IntCounter,
    pub(crate) duplicate: IntCounter,
    pub(crate) cache_entries: GaugeVec,
}

/// All of them.
#[derive(Clone)]
pub(crate) struct OwnMetrics {
    pub(crate) tsdb: TsdbMetrics,
    pub(crate) engine: EngineMetrics,
    pub(crate) scrape: ScrapeMetrics,
}

type Result<T> = std::result::Result<T, prometheus::Error>;

// === impl OwnMetrics ===

impl OwnMetrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self> {
        Ok(Self {
            tsdb: TsdbMetrics::new(registry)?,
            engine: EngineMetrics::new(registry)?,
            scrape: ScrapeMetrics::new(registry)?,
        })
    }
}

// === impl TsdbMetrics ===

impl TsdbMetrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self> {
        Ok(Self {
            head_series: registry.gauge("prometheus_tsdb_head_series", "Total number of series in the head block.")?,
            head_chunks: registry.gauge("prometheus_tsdb_head_chunks", "Total number of chunks in the head block.")?,
            chunk_bytes: registry.gauge("pharos_prometheus_tsdb_sealed_chunk_bytes", "Bytes of sealed chunks in memory.")?,
            min_time: registry.gauge(
                "prometheus_tsdb_head_min_time",
                "Minimum time bound of the head block. The unit is decided by the library consumer.",
            )?,
            max_time: registry.gauge(
                "prometheus_tsdb_head_max_time",
                "Maximum timestamp of the head block. The unit is decided by the library consumer.",
            )?,
            symbols: registry
                .gauge("prometheus_tsdb_symbol_table_size_bytes", "Size of symbol table in memory for loaded blocks")?,
            series_created: registry
                .counter("prometheus_tsdb_head_series_created_total", "Total number of series created in the head")?,
            series_removed: registry
                .counter("prometheus_tsdb_head_series_removed_total", "Total number of series removed in the head")?,
            chunks_created: registry
                .counter("prometheus_tsdb_head_chunks_created_total", "Total number of chunks created in the head")?,
            chunks_removed: registry
                .counter("prometheus_tsdb_head_chunks_removed_total", "Total number of chunks removed in the head")?,
            appended: registry.counter("prometheus_tsdb_head_samples_appended_total", "Total number of appended samples.")?,
            out_of_order: registry.counter(
                "prometheus_tsdb_out_of_order_samples_total",
                "Total number of out of order samples ingestion failed attempts due to out of order being disabled.",
            )?,
            size_retentions: registry.counter(
                "prometheus_tsdb_size_retentions_total",
                "The number of times that blocks were deleted because the maximum number of bytes was exceeded.",
            )?,
            checkpoints: registry
                .counter("prometheus_tsdb_checkpoint_creations_total", "Total number of checkpoint creations attempted.")?,
            corruptions: registry.counter("prometheus_tsdb_wal_corruptions_total", "Total number of WAL corruptions.")?,
            write_failures: registry
                .counter("prometheus_tsdb_wal_writes_failed_total", "Total number of WAL writes that failed.")?,
            wal_bytes: registry.gauge("prometheus_tsdb_wal_storage_size_bytes", "Size of the write log directory.")?,
            wal_unknown: registry.counter(
                "pharos_prometheus_tsdb_wal_unknown_series_total",
                "Samples of the log whose series the log does not hold.",
            )?,
        })
    }

    /// Handles that nothing reads.
    pub(crate) fn detached() -> Self {
        Self::new(&Registry::new()).expect("an empty registry has no clashes")
    }
}

// === impl EngineMetrics ===

impl EngineMetrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self> {
        Ok(Self {
            queries: registry.gauge("prometheus_engine_queries", "The current number of queries being executed or waiting.")?,
            duration: registry.histograms(
                "prometheus_engine_query_duration_histogram_seconds",
                "The histogram of timings for queries.",
                [0.01, 0.1, 1.0, 10.0],
                &["slice"],
            )?,
            samples: registry
                .counter("prometheus_engine_query_samples_total", "The total number of samples loaded by all queries.")?,
            requests: registry.counters("prometheus_http_requests_total", "Counter of HTTP requests.", &["handler", "code"])?,
        })
    }

    #[cfg(test)]
    pub(crate) fn detached() -> Self {
        Self::new(&Registry::new()).expect("an empty registry has no clashes")
    }
}

// === impl ScrapeMetrics ===

impl ScrapeMetrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self> {
        Ok(Self {
            interval: registry.histograms(
                "prometheus_target_interval_length_histogram_seconds",
                "Actual intervals between scrapes.",
                [1.0, 5.0, 14.0, 14.9, 15.0, 15.1, 16.0, 30.0, 60.0],
                &["interval"],
            )?,
            sync: registry.counters(
                "prometheus_target_scrape_pool_sync_total",
                "Total number of syncs that were executed on a scrape pool.",
                &["scrape_job"],
            )?,
            targets: registry.gauges(
                "prometheus_target_scrape_pool_targets",
                "Current number of targets in this scrape pool.",
                &["scrape_job"],
            )?,
            sample_limit: registry.counter(
                "prometheus_target_scrapes_exceeded_sample_limit_total",
                "Total number of scrapes that hit the sample limit and were rejected.",
            )?,
            body_limit: registry.counter(
                "prometheus_target_scrapes_exceeded_body_size_limit_total",
                "Total number of scrapes that hit the body size limit",
            )?,
            out_of_order: registry.counter(
                "prometheus_target_scrapes_sample_out_of_order_total",
                "Total number of samples rejected due to not being out of the expected order.",
            )?,
            duplicate: registry.counter(
                "prometheus_target_scrapes_sample_duplicate_timestamp_total",
                "Total number of samples rejected due to duplicate timestamps but different values.",
            )?,
            cache_entries: registry.gauges(
                "prometheus_target_metadata_cache_entries",
                "Total number of metric metadata entries in the cache",
                &["scrape_job"],
            )?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The README lists what there is, by upstream's rules of naming.
    #[test]
    fn readme_lists_every_metric() {
        let registry = Registry::new();
        let own = OwnMetrics::new(&registry).unwrap();
        own.engine.duration.with_label_values(&["inner_eval"]).observe(0.0);
        own.engine.requests.with_label_values(&["/", "200"]).inc();
        own.scrape.interval.with_label_values(&["15s"]).observe(0.0);
        own.scrape.sync.with_label_values(&["j"]).inc();
        own.scrape.targets.with_label_values(&["j"]).set(0);
        own.scrape.cache_entries.with_label_values(&["j"]).set(0.0);
        let families = registry.gather();
        let kinds: BTreeMap<String, String> =
            families.iter().map(|f| (f.name().to_owned(), format!("{:?}", f.get_field_type()).to_lowercase())).collect();
        let listed: BTreeMap<String, String> = include_str!("../README.md")
            .lines()
            .filter_map(|l| l.strip_prefix("| `")?.split_once("` | "))
            .filter(|(name, _)| name.starts_with("prometheus_") || name.starts_with("pharos_"))
            .map(|(name, kind)| (name.split('{').next().unwrap().to_owned(), kind.trim_end_matches(" |").to_owned()))
            .collect();
        assert_eq!(kinds, listed);
        for (name, kind) in kinds {
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
        }
        assert!(OwnMetrics::new(&registry).is_err());
    }

    /// The README's queries can be parsed.
    #[test]
    fn readme_examples_parse() {
        let (_, examples) = include_str!("../README.md").split_once("## Examples").unwrap();
        let mut count = 0;
        for query in examples.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            crate::promql::plan::parse(query).unwrap_or_else(|error| panic!("{query}: {error}"));
            count += 1;
        }
        assert!(count >= 4);
    }
}
