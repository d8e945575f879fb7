//! Metrics with kube-scheduler's names, help and buckets (`pkg/scheduler/metrics/metrics.go`, 1.37).

use pharos_telemetry::Register as _;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Registry, exponential_buckets};

/// The handles; cheap to clone.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) schedule_attempts: IntCounterVec,
    pub(crate) attempt_duration: HistogramVec,
    pub(crate) algorithm_duration: Histogram,
    pub(crate) sli_duration: HistogramVec,
    pub(crate) attempts: Histogram,
    pub(crate) pending_pods: IntGaugeVec,
    pub(crate) queue_incoming: IntCounterVec,
    pub(crate) cache_size: IntGaugeVec,
    pub(crate) unschedulable: IntGaugeVec,
    pub(crate) preemption_attempts: IntCounter,
    pub(crate) preemption_victims: Histogram,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            schedule_attempts: registry.counters(
                "scheduler_schedule_attempts_total",
                "Number of attempts to schedule pods, by the result. 'unschedulable' means a pod could not be scheduled, while 'error' means an internal scheduler problem.",
                &["profile", "result"],
            )?,
            attempt_duration: registry.histograms(
                "scheduler_scheduling_attempt_duration_seconds",
                "Scheduling attempt latency in seconds (scheduling algorithm + binding)",
                exponential_buckets(0.001, 2.0, 15)?,
                &["profile", "result"],
            )?,
            algorithm_duration: registry.histogram(
                "scheduler_scheduling_algorithm_duration_seconds",
                "Scheduling algorithm latency in seconds",
                exponential_buckets(0.001, 2.0, 15)?,
            )?,
            sli_duration: registry.histograms(
                "scheduler_pod_scheduling_sli_duration_seconds",
                "E2e latency for a pod being scheduled, from the time the pod enters the scheduling queue and might involve multiple scheduling attempts.",
                exponential_buckets(0.01, 2.0, 20)?,
                &["attempts"],
            )?,
            attempts: registry.histogram(
                "scheduler_pod_scheduling_attempts",
                "Number of attempts to successfully schedule a pod.",
                exponential_buckets(1.0, 2.0, 5)?,
            )?,
            pending_pods: registry.gauges(
                "scheduler_pending_pods",
                "Number of pending pods, by the queue type. 'active' means number of pods in activeQ; 'backoff' means number of pods in backoffQ; 'unschedulable' means number of pods in unschedulablePods that the scheduler attempted to schedule and failed; 'gated' is the number of unschedulable pods that the scheduler never attempted to schedule because they are gated.",
                &["queue"],
            )?,
            queue_incoming: registry.counters(
                "scheduler_queue_incoming_pods_total",
                "Number of pods added to scheduling queues by event and queue type.",
                &["event", "queue"],
            )?,
            cache_size: registry.gauges(
                "scheduler_scheduler_cache_size",
                "Number of nodes, pods, and assumed (bound) pods in the scheduler cache.",
                &["type"],
            )?,
            unschedulable: registry.gauges(
                "scheduler_unschedulable_pods",
                "The number of unschedulable pods broken down by plugin name.",
                &["plugin", "profile"],
            )?,
            preemption_attempts: registry
                .counter("scheduler_preemption_attempts_total", "Total preemption attempts in the cluster till now")?,
            preemption_victims: registry.histogram(
                "scheduler_preemption_victims",
                "Number of selected preemption victims",
                exponential_buckets(1.0, 2.0, 7)?,
            )?,
        })
    }
}
