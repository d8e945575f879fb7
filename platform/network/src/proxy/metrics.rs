use pharos_telemetry::Register as _;
use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

/// Metric handles. Names, help and buckets follow kube-proxy's `pkg/proxy/metrics`.
#[derive(Clone)]
pub(super) struct Metrics {
    pub(super) sync_duration: Histogram,
    pub(super) full_sync_duration: Histogram,
    pub(super) partial_sync_duration: Histogram,
    pub(super) last_timestamp: Gauge,
    pub(super) last_queued_timestamp: Gauge,
    pub(super) programming_duration: Histogram,
    pub(super) endpoint_changes: IntCounter,
    pub(super) endpoint_changes_pending: IntGauge,
    pub(super) service_changes: IntCounter,
    pub(super) service_changes_pending: IntGauge,
    pub(super) failures: IntCounter,
    pub(super) no_local_endpoints: IntGaugeVec,
    pub(super) conntrack_deleted: IntCounter,
    pub(super) healthz: IntCounterVec,
    pub(super) livez: IntCounterVec,
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let sync = prometheus::exponential_buckets(0.001, 2.0, 15)?;
        let programming = (1..=2)
            .map(|n| f64::from(n) * 0.25)
            .chain((1..=59).map(f64::from))
            .chain((0..12).map(|n| 60.0 + f64::from(n) * 5.0))
            .chain((0..7).map(|n| 120.0 + f64::from(n) * 30.0))
            .collect::<Vec<_>>();
        let no_local_endpoints = registry.gauges(
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
            "Number of services with a Local traffic policy and no endpoints",
            &["traffic_policy"],
        )?;
        let healthz = registry.counters("kubeproxy_proxy_healthz_total", "Cumulative proxy healthz HTTP status", &["code"])?;
        let livez = registry.counters("kubeproxy_proxy_livez_total", "Cumulative proxy livez HTTP status", &["code"])?;
        Ok(Self {
            healthz,
            livez,
            sync_duration: registry.histogram(
                "kubeproxy_sync_proxy_rules_duration_seconds",
                "SyncProxyRules latency in seconds",
                &sync,
            )?,
            full_sync_duration: registry.histogram(
                "kubeproxy_sync_full_proxy_rules_duration_seconds",
                "SyncProxyRules latency in seconds for full resyncs",
                &sync,
            )?,
            partial_sync_duration: registry.histogram(
                "kubeproxy_sync_partial_proxy_rules_duration_seconds",
                "SyncProxyRules latency in seconds for partial resyncs",
                &sync,
            )?,
            last_timestamp: registry.gauge(
                "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
                "The last time proxy rules were successfully synced",
            )?,
            last_queued_timestamp: registry.gauge(
                "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
                "The last time a sync of proxy rules was queued",
            )?,
            programming_duration: registry.histogram(
                "kubeproxy_network_programming_duration_seconds",
                "In Cluster Network Programming Latency in seconds",
                &programming,
            )?,
            endpoint_changes: registry
                .counter("kubeproxy_sync_proxy_rules_endpoint_changes_total", "Cumulative proxy rules Endpoint changes")?,
            endpoint_changes_pending: registry
                .gauge("kubeproxy_sync_proxy_rules_endpoint_changes_pending", "Pending proxy rules Endpoint changes")?,
            service_changes: registry
                .counter("kubeproxy_sync_proxy_rules_service_changes_total", "Cumulative proxy rules Service changes")?,
            service_changes_pending: registry
                .gauge("kubeproxy_sync_proxy_rules_service_changes_pending", "Pending proxy rules Service changes")?,
            failures: registry
                .counter("kubeproxy_sync_proxy_rules_nftables_sync_failures_total", "Cumulative proxy nftables sync failures")?,
            no_local_endpoints,
            conntrack_deleted: registry.counter(
                "kubeproxy_conntrack_reconciler_deleted_entries_total",
                "Cumulative conntrack flows deleted by conntrack reconciler",
            )?,
        })
    }
}
