use pharos_telemetry::Register as _;
use prometheus::{Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

/// The kubelet's metrics: names, help and buckets of `pkg/kubelet/metrics` and `pkg/kubelet/prober` of 1.37.
#[derive(Clone)]
pub(crate) struct Metrics {
    /// The registry they are in.
    pub(crate) registry: Registry,
    /// `kubelet_node_name`.
    pub(crate) node_name: IntGaugeVec,
    /// `kubelet_running_pods`.
    pub(crate) running_pods: IntGauge,
    /// `kubelet_running_containers`.
    pub(crate) running_containers: IntGaugeVec,
    /// `kubelet_desired_pods`.
    pub(crate) desired_pods: IntGaugeVec,
    /// `kubelet_active_pods`.
    pub(crate) active_pods: IntGaugeVec,
    /// `kubelet_pod_start_duration_seconds`.
    pub(crate) pod_start: Histogram,
    /// `kubelet_pod_start_sli_duration_seconds`.
    pub(crate) pod_start_sli: Histogram,
    /// `kubelet_pod_start_total_duration_seconds`.
    pub(crate) pod_start_total: Histogram,
    /// `kubelet_pod_worker_duration_seconds`.
    pub(crate) pod_worker: HistogramVec,
    /// `kubelet_pod_worker_start_duration_seconds`.
    pub(crate) pod_worker_start: Histogram,
    /// `kubelet_pod_status_sync_duration_seconds`.
    pub(crate) status_sync: Histogram,
    /// `kubelet_started_pods_total`.
    pub(crate) started_pods: IntCounter,
    /// `kubelet_started_pods_errors_total`.
    pub(crate) started_pods_errors: IntCounterVec,
    /// `kubelet_started_containers_total`.
    pub(crate) started_containers: IntCounterVec,
    /// `kubelet_started_containers_errors_total`.
    pub(crate) started_containers_errors: IntCounterVec,
    /// `kubelet_image_pull_duration_seconds`.
    pub(crate) image_pull: HistogramVec,
    /// `kubelet_runtime_operations_total`.
    pub(crate) runtime_operations: IntCounterVec,
    /// `kubelet_runtime_operations_errors_total`.
    pub(crate) runtime_errors: IntCounterVec,
    /// `kubelet_runtime_operations_duration_seconds`.
    pub(crate) runtime_duration: HistogramVec,
    /// `kubelet_pleg_last_seen_seconds`.
    pub(crate) pleg_last_seen: Gauge,
    /// `kubelet_evictions`.
    pub(crate) evictions: IntCounterVec,
    /// `kubelet_node_startup_duration_seconds`.
    pub(crate) node_startup: Gauge,
    /// `kubelet_http_requests_total`.
    pub(crate) http_requests: IntCounterVec,
    /// `kubelet_http_inflight_requests`.
    pub(crate) http_inflight: IntGaugeVec,
    /// `kubelet_sleep_action_terminated_early_total`.
    pub(crate) sleep_terminated: IntCounter,
    /// `prober_probe_total`.
    pub(crate) probes: IntCounterVec,
    /// `prober_probe_duration_seconds`.
    pub(crate) probe_duration: HistogramVec,
    /// `kubernetes_build_info`.
    pub(crate) node_info: GaugeVec,
}

const LATENCY: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const START: [f64; 23] = [
    0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0,
    1200.0, 1800.0,
];

impl Metrics {
    /// Registers all of them.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let runtime_buckets = prometheus::exponential_buckets(0.005, 2.5, 14)?;
        Ok(Self {
            registry: registry.clone(),
            node_name: registry.gauges("kubelet_node_name", "The node's name. The count is always 1.", &["node"])?,
            running_pods: registry.gauge("kubelet_running_pods", "Number of pods that have a running pod sandbox")?,
            running_containers: registry.gauges(
                "kubelet_running_containers",
                "Number of containers currently running",
                &["container_state"],
            )?,
            desired_pods: registry.gauges(
                "kubelet_desired_pods",
                "The number of pods the kubelet is being instructed to run. static is true if the pod is not from the apiserver.",
                &["static"],
            )?,
            active_pods: registry.gauges(
                "kubelet_active_pods",
                "The number of pods the kubelet considers active and which are being considered when admitting new pods. static is true if the pod is not from the apiserver.",
                &["static"],
            )?,
            pod_start: registry.histogram(
                "kubelet_pod_start_duration_seconds",
                "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run",
                START,
            )?,
            pod_start_sli: registry.histogram(
                "kubelet_pod_start_sli_duration_seconds",
                "Duration in seconds to start a pod, excluding time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch",
                START,
            )?,
            pod_start_total: registry.histogram(
                "kubelet_pod_start_total_duration_seconds",
                "Duration in seconds to start a pod since creation, including time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch",
                START,
            )?,
            pod_worker: registry.histograms(
                "kubelet_pod_worker_duration_seconds",
                "Duration in seconds to sync a single pod. Broken down by operation type: create, update, or sync",
                LATENCY,
                &["operation_type"],
            )?,
            pod_worker_start: registry.histogram(
                "kubelet_pod_worker_start_duration_seconds",
                "Duration in seconds from kubelet seeing a pod to starting a worker.",
                LATENCY,
            )?,
            status_sync: registry.histogram(
                "kubelet_pod_status_sync_duration_seconds",
                "Duration in seconds to sync a pod status update. Measures time from detection of a change to pod status until the API is successfully updated for that pod, even if multiple intevening changes to pod status occur.",
                [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0],
            )?,
            started_pods: registry.counter("kubelet_started_pods_total", "Cumulative number of pods started")?,
            started_pods_errors: registry.counters(
                "kubelet_started_pods_errors_total",
                "Cumulative number of errors when starting pods",
                &["code"],
            )?,
            started_containers: registry.counters(
                "kubelet_started_containers_total",
                "Cumulative number of containers started",
                &["container_type"],
            )?,
            started_containers_errors: registry.counters(
                "kubelet_started_containers_errors_total",
                "Cumulative number of errors when starting containers",
                &["container_type", "code"],
            )?,
            image_pull: registry.histograms(
                "kubelet_image_pull_duration_seconds",
                "Duration in seconds to pull an image.",
                [1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 180.0, 300.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0],
                &["image_size_in_bytes"],
            )?,
            runtime_operations: registry.counters(
                "kubelet_runtime_operations_total",
                "Cumulative number of runtime operations by operation type.",
                &["operation_type"],
            )?,
            runtime_errors: registry.counters(
                "kubelet_runtime_operations_errors_total",
                "Cumulative number of runtime operation errors by operation type.",
                &["operation_type"],
            )?,
            runtime_duration: registry.histograms(
                "kubelet_runtime_operations_duration_seconds",
                "Duration in seconds of runtime operations. Broken down by operation type.",
                &runtime_buckets,
                &["operation_type"],
            )?,
            pleg_last_seen: registry.gauge(
                "kubelet_pleg_last_seen_seconds",
                "Timestamp in seconds when PLEG was last seen active.",
            )?,
            evictions: registry.counters(
                "kubelet_evictions",
                "Cumulative number of pod evictions by eviction signal",
                &["eviction_signal"],
            )?,
            node_startup: registry.gauge(
                "kubelet_node_startup_duration_seconds",
                "Duration in seconds of node startup in total.",
            )?,
            http_requests: registry.counters(
                "kubelet_http_requests_total",
                "Number of the http requests received since the server started",
                &["method", "path", "server_type", "long_running"],
            )?,
            http_inflight: registry.gauges(
                "kubelet_http_inflight_requests",
                "Number of the inflight http requests",
                &["method", "path", "server_type", "long_running"],
            )?,
            sleep_terminated: registry.counter(
                "kubelet_sleep_action_terminated_early_total",
                "The number of times lifecycle sleep handler got terminated before it finishes",
            )?,
            probes: registry.counters(
                "prober_probe_total",
                "Cumulative number of a liveness, readiness or startup probe for a container by result.",
                &["probe_type", "result", "container", "pod", "namespace", "pod_uid"],
            )?,
            probe_duration: registry.histograms(
                "prober_probe_duration_seconds",
                "Duration in seconds for a probe response.",
                LATENCY,
                &["probe_type", "container", "pod", "namespace"],
            )?,
            node_info: registry.gauges(
                "kubernetes_build_info",
                "A metric with a constant '1' value labeled by the version it was built from.",
                &["git_version", "major", "minor", "platform"],
            )?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registered_once() {
        let registry = Registry::new();
        assert!(Metrics::new(&registry).is_ok());
        assert!(Metrics::new(&registry).is_err());
    }
}
