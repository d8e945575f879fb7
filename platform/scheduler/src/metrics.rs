//! Metrics with kube-scheduler's names, help and buckets (`pkg/scheduler/metrics/metrics.go`, 1.37).

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, core::Collector, exponential_buckets,
};

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
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let register = |collector: Box<dyn Collector>| registry.register(collector);
        let metrics = Self {
            schedule_attempts: IntCounterVec::new(
                Opts::new(
                    "scheduler_schedule_attempts_total",
                    "Number of attempts to schedule pods, by the result. 'unschedulable' means a pod could not be scheduled, while 'error' means an internal scheduler problem.",
                ),
                &["profile", "result"],
            )?,
            attempt_duration: HistogramVec::new(
                HistogramOpts::new(
                    "scheduler_scheduling_attempt_duration_seconds",
                    "Scheduling attempt latency in seconds (scheduling algorithm + binding)",
                )
                .buckets(exponential_buckets(0.001, 2.0, 15)?),
                &["profile", "result"],
            )?,
            algorithm_duration: Histogram::with_opts(
                HistogramOpts::new("scheduler_scheduling_algorithm_duration_seconds", "Scheduling algorithm latency in seconds")
                    .buckets(exponential_buckets(0.001, 2.0, 15)?),
            )?,
            sli_duration: HistogramVec::new(
                HistogramOpts::new(
                    "scheduler_pod_scheduling_sli_duration_seconds",
                    "E2e latency for a pod being scheduled, from the time the pod enters the scheduling queue and might involve multiple scheduling attempts.",
                )
                .buckets(exponential_buckets(0.01, 2.0, 20)?),
                &["attempts"],
            )?,
            attempts: Histogram::with_opts(
                HistogramOpts::new("scheduler_pod_scheduling_attempts", "Number of attempts to successfully schedule a pod.")
                    .buckets(exponential_buckets(1.0, 2.0, 5)?),
            )?,
            pending_pods: IntGaugeVec::new(
                Opts::new(
                    "scheduler_pending_pods",
                    "Number of pending pods, by the queue type. 'active' means number of pods in activeQ; 'backoff' means number of pods in backoffQ; 'unschedulable' means number of pods in unschedulablePods that the scheduler attempted to schedule and failed; 'gated' is the number of unschedulable pods that the scheduler never attempted to schedule because they are gated.",
                ),
                &["queue"],
            )?,
            queue_incoming: IntCounterVec::new(
                Opts::new("scheduler_queue_incoming_pods_total", "Number of pods added to scheduling queues by event and queue type."),
                &["event", "queue"],
            )?,
            cache_size: IntGaugeVec::new(
                Opts::new("scheduler_scheduler_cache_size", "Number of nodes, pods, and assumed (bound) pods in the scheduler cache."),
                &["type"],
            )?,
            unschedulable: IntGaugeVec::new(
                Opts::new("scheduler_unschedulable_pods", "The number of unschedulable pods broken down by plugin name."),
                &["plugin", "profile"],
            )?,
        };
        register(Box::new(metrics.schedule_attempts.clone()))?;
        register(Box::new(metrics.attempt_duration.clone()))?;
        register(Box::new(metrics.algorithm_duration.clone()))?;
        register(Box::new(metrics.sli_duration.clone()))?;
        register(Box::new(metrics.attempts.clone()))?;
        register(Box::new(metrics.pending_pods.clone()))?;
        register(Box::new(metrics.queue_incoming.clone()))?;
        register(Box::new(metrics.cache_size.clone()))?;
        register(Box::new(metrics.unschedulable.clone()))?;
        Ok(metrics)
    }
}
