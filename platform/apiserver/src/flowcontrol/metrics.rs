//! What API priority and fairness measures, by upstream's names (`apiserver/pkg/util/flowcontrol/metrics/metrics.go`).

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use parking_lot::Mutex;
use pharos_telemetry::Register as _;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
    core::{Collector, Desc},
    proto,
};
use tokio::time::Instant;

use super::{levels::Levels, timing::Timing};

const SECONDS: &[f64] = &[0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];
const LENGTHS: &[f64] = &[0.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0];

/// Bounds of `priority_level_seat_utilization`.
pub(super) const SEAT_UTILIZATION: &[f64] = &[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0];
/// Bounds of `priority_level_request_utilization`.
pub(super) const REQUEST_UTILIZATION: &[f64] = &[0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 1.0];
/// Bounds of `demand_seats`.
pub(super) const DEMAND: &[f64] = &[0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.7, 2.0, 2.8, 4.0, 6.0];
const READ_VS_WRITE: &[f64] = &[0.0, 0.001, 0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0];

/// Handles of all metrics but those over time. Registered once.
pub(super) struct Metrics {
    rejected: IntCounterVec,
    dispatched: IntCounterVec,
    inqueue_requests: IntGaugeVec,
    inqueue_seats: IntGaugeVec,
    queue_length: HistogramVec,
    executing_requests: IntGaugeVec,
    executing_seats: IntGaugeVec,
    waiting_seconds: HistogramVec,
    execution_seconds: HistogramVec,
    watch_count: HistogramVec,
    estimated_seats: HistogramVec,
    no_accommodation: IntCounterVec,
    epochs: IntCounterVec,
    of_level: Vec<GaugeVec>,
    bounds: [GaugeVec; 2],
    pub(super) fair_frac: Gauge,
    /// Requests that wait, by whether they want to change something; it is of no subsystem.
    pub(super) in_queue: IntGaugeVec,
}

/// Gauges of a priority level that have no other label, in the order of [`LevelMetrics`].
const OF_LEVEL: [(&str, &str); 12] = [
    ("current_r", "R(time of last change)"),
    ("dispatch_r", "R(time of last dispatch)"),
    ("latest_s", "S(most recently dispatched request)"),
    ("nominal_limit_seats", "Nominal number of execution seats configured for each priority level"),
    ("lower_limit_seats", "Configured lower bound on number of execution seats available to each priority level"),
    ("upper_limit_seats", "Configured upper bound on number of execution seats available to each priority level"),
    ("demand_seats_high_watermark", "High watermark, over last adjustment period, of demand_seats"),
    ("demand_seats_average", "Time-weighted average, over last adjustment period, of demand_seats"),
    ("demand_seats_stdev", "Time-weighted standard deviation, over last adjustment period, of demand_seats"),
    ("demand_seats_smoothed", "Smoothed seat demands"),
    ("target_seats", "Seat allocation targets"),
    ("current_limit_seats", "current derived number of execution seats available to each priority level"),
];

fn full(name: &str) -> String {
    format!("apiserver_flowcontrol_{name}")
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        const LEVEL: &str = "priority_level";
        let flow = [LEVEL, "flow_schema"];
        let bounds = |name: &str, help: &str| registry.gauges(&full(name), help, &[LEVEL, "bound"]);
        Ok(Metrics {
            rejected: registry.counters(
                &full("rejected_requests_total"),
                "Number of requests rejected by API Priority and Fairness subsystem",
                &[LEVEL, "flow_schema", "reason"],
            )?,
            dispatched: registry.counters(
                &full("dispatched_requests_total"),
                "Number of requests executed by API Priority and Fairness subsystem",
                &flow,
            )?,
            inqueue_requests: registry.gauges(
                &full("current_inqueue_requests"),
                "Number of requests currently pending in queues of the API Priority and Fairness subsystem",
                &flow,
            )?,
            inqueue_seats: registry.gauges(
                &full("current_inqueue_seats"),
                "Number of seats currently pending in queues of the API Priority and Fairness subsystem",
                &flow,
            )?,
            queue_length: registry.histograms(
                &full("request_queue_length_after_enqueue"),
                "Length of queue in the API Priority and Fairness subsystem, as seen by each request after it is enqueued",
                LENGTHS,
                &flow,
            )?,
            executing_requests: registry.gauges(
                &full("current_executing_requests"),
                "Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and Fairness subsystem",
                &flow,
            )?,
            executing_seats: registry.gauges(
                &full("current_executing_seats"),
                "Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage otherwise) requests in the API Priority and Fairness subsystem",
                &flow,
            )?,
            waiting_seconds: registry.histograms(
                &full("request_wait_duration_seconds"),
                "Length of time a request spent waiting in its queue",
                SECONDS,
                &[LEVEL, "flow_schema", "execute"],
            )?,
            execution_seconds: registry.histograms(
                &full("request_execution_seconds"),
                "Duration of initial stage (for a WATCH) or any (for a non-WATCH) stage of request execution in the API Priority and Fairness subsystem",
                SECONDS,
                &[LEVEL, "flow_schema", "type"],
            )?,
            watch_count: registry.histograms(
                &full("watch_count_samples"),
                "count of watchers for mutating requests in API Priority and Fairness",
                [0.0, 1.0, 10.0, 100.0, 1000.0, 10000.0],
                &flow,
            )?,
            estimated_seats: registry.histograms(
                &full("work_estimated_seats"),
                "Number of estimated seats (maximum of initial and final seats) associated with requests in API Priority and Fairness",
                [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 100.0],
                &flow,
            )?,
            no_accommodation: registry.counters(
                &full("request_dispatch_no_accommodation_total"),
                "Number of times a dispatch attempt resulted in a non accommodation due to lack of available seats",
                &flow,
            )?,
            epochs: registry.counters(
                &full("epoch_advance_total"),
                "Number of times the queueset's progress meter jumped backward",
                &[LEVEL, "success"],
            )?,
            of_level: OF_LEVEL
                .iter()
                .map(|(name, help)| registry.gauges(&full(name), help, &[LEVEL]))
                .collect::<Result<_, _>>()?,
            bounds: [
                bounds("next_s_bounds", "min and max, over queues, of S(oldest waiting request in queue)")?,
                bounds(
                    "next_discounted_s_bounds",
                    "min and max, over queues, of S(oldest waiting request in queue) - estimated work in progress",
                )?,
            ],
            in_queue: registry.gauges(
                "apiserver_current_inqueue_requests",
                "Maximal number of queued requests in this apiserver per request kind in last second.",
                &["request_kind"],
            )?,
            fair_frac: registry.gauge(
                &full("seat_fair_frac"),
                "Fair fraction of server's concurrency to allocate to each priority level that can use it",
            )?,
        })
    }

    /// The handles of a level.
    pub(super) fn level(&self, level: &str) -> LevelMetrics {
        let gauge = |at: usize| self.of_level[at].with_label_values(&[level]);
        let bound = |at: usize, bound: &str| self.bounds[at].with_label_values(&[level, bound]);
        // Upstream's meter would overflow one day and is set back before; ours holds more than a server's life.
        self.epochs.with_label_values(&[level, "true"]);
        LevelMetrics {
            current_r: gauge(0),
            dispatch_r: gauge(1),
            latest_s: gauge(2),
            nominal: gauge(3),
            lower: gauge(4),
            upper: gauge(5),
            high_watermark: gauge(6),
            average: gauge(7),
            deviation: gauge(8),
            smoothed: gauge(9),
            target: gauge(10),
            current: gauge(11),
            next_s: [bound(0, "min"), bound(0, "max")],
            next_discounted_s: [bound(1, "min"), bound(1, "max")],
        }
    }

    /// Forgets what is said of a level that is no more.
    pub(super) fn forget_level(&self, level: &str) {
        for gauge in &self.of_level {
            let _ = gauge.remove_label_values(&[level]);
        }
        for gauge in &self.bounds {
            for bound in ["min", "max"] {
                let _ = gauge.remove_label_values(&[level, bound]);
            }
        }
        let _ = self.epochs.remove_label_values(&[level, "true"]);
    }

    /// The handles of a schema's requests to a level.
    pub(super) fn flow(&self, level: &str, schema: &str) -> FlowMetrics {
        let flow = [level, schema];
        FlowMetrics {
            rejected: ["concurrency-limit", "queue-full", "time-out"]
                .map(|reason| Lazy::new(&self.rejected, &[level, schema, reason])),
            dispatched: self.dispatched.with_label_values(&flow),
            inqueue_requests: self.inqueue_requests.with_label_values(&flow),
            inqueue_seats: self.inqueue_seats.with_label_values(&flow),
            queue_length: self.queue_length.with_label_values(&flow),
            executing_requests: self.executing_requests.with_label_values(&flow),
            executing_seats: self.executing_seats.with_label_values(&flow),
            waited: ["false", "true"].map(|execute| LazyHistogram::new(&self.waiting_seconds, &[level, schema, execute])),
            executed: ["regular", "watch"].map(|kind| LazyHistogram::new(&self.execution_seconds, &[level, schema, kind])),
            watch_count: LazyHistogram::new(&self.watch_count, &flow),
            estimated_seats: self.estimated_seats.with_label_values(&flow),
            no_accommodation: Lazy::new(&self.no_accommodation, &flow),
        }
    }
}

/// Handles of a level's gauges.
pub(super) struct LevelMetrics {
    pub(super) current_r: Gauge,
    pub(super) dispatch_r: Gauge,
    pub(super) latest_s: Gauge,
    pub(super) nominal: Gauge,
    pub(super) lower: Gauge,
    pub(super) upper: Gauge,
    pub(super) high_watermark: Gauge,
    pub(super) average: Gauge,
    pub(super) deviation: Gauge,
    pub(super) smoothed: Gauge,
    pub(super) target: Gauge,
    pub(super) current: Gauge,
    /// Minimum and maximum.
    pub(super) next_s: [Gauge; 2],
    /// Likewise.
    pub(super) next_discounted_s: [Gauge; 2],
}

/// Handles for the requests of a schema. What rarely happens has no series before it does.
pub(super) struct FlowMetrics {
    rejected: [Lazy; 3],
    pub(super) dispatched: IntCounter,
    pub(super) inqueue_requests: IntGauge,
    pub(super) inqueue_seats: IntGauge,
    pub(super) queue_length: Histogram,
    pub(super) executing_requests: IntGauge,
    pub(super) executing_seats: IntGauge,
    waited: [LazyHistogram; 2],
    executed: [LazyHistogram; 2],
    watch_count: LazyHistogram,
    pub(super) estimated_seats: Histogram,
    no_accommodation: Lazy,
}

/// Why a request was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// No seat is free, and nobody may wait.
    ConcurrencyLimit,
    /// Its queue is full.
    QueueFull,
    /// It has waited for as long as it may, or its client went away.
    TimeOut,
}

impl FlowMetrics {
    pub(super) fn rejected(&self, reason: Reason) {
        self.rejected[reason as usize].get().inc();
    }

    pub(super) fn waited(&self, seconds: f64, executed: bool) {
        self.waited[usize::from(executed)].get().observe(seconds);
    }

    pub(super) fn executed(&self, seconds: f64, watch: bool) {
        self.executed[usize::from(watch)].get().observe(seconds);
    }

    pub(super) fn watchers(&self, count: usize) {
        self.watch_count.get().observe(count as f64);
    }

    pub(super) fn not_accommodated(&self) {
        self.no_accommodation.get().inc();
    }
}

/// A counter that is made when it is first used.
struct Lazy(OnceLock<IntCounter>, IntCounterVec, Vec<String>);

impl Lazy {
    fn new(family: &IntCounterVec, labels: &[&str]) -> Self {
        Lazy(OnceLock::new(), family.clone(), labels.iter().map(|label| (*label).to_owned()).collect())
    }

    fn get(&self) -> &IntCounter {
        self.0.get_or_init(|| self.1.with_label_values(&self.2))
    }
}

/// A histogram, likewise.
struct LazyHistogram(OnceLock<Histogram>, HistogramVec, Vec<String>);

impl LazyHistogram {
    fn new(family: &HistogramVec, labels: &[&str]) -> Self {
        LazyHistogram(OnceLock::new(), family.clone(), labels.iter().map(|label| (*label).to_owned()).collect())
    }

    fn get(&self) -> &Histogram {
        self.0.get_or_init(|| self.1.with_label_values(&self.2))
    }
}

/// How many reads and writes wait and are served, over time.
pub(super) struct ReadVsWrite(Mutex<[Counted; 4]>);

struct Counted {
    count: u64,
    timing: Timing,
}

/// What a request does, and whether it wants to change something.
#[derive(Debug, Clone, Copy)]
pub(super) enum Phase {
    Waiting,
    Executing,
}

impl ReadVsWrite {
    pub(super) fn new(now: Instant) -> Self {
        ReadVsWrite(Mutex::new([(); 4].map(|()| Counted { count: 0, timing: Timing::new(READ_VS_WRITE, now) })))
    }

    /// How many may wait and be served, which the counts are fractions of.
    pub(super) fn set_limits(&self, waiting: u64, executing: u64) {
        let (now, mut counted) = (Instant::now(), self.0.lock());
        for (at, counted) in counted.iter_mut().enumerate() {
            let limit = if at < 2 { waiting } else { executing };
            counted.timing.set_denominator(now, limit as f64);
        }
    }

    /// One more or one less.
    pub(super) fn add(&self, phase: Phase, mutating: bool, delta: i64) {
        let at = 2 * phase as usize + usize::from(mutating);
        let (now, mut counted) = (Instant::now(), self.0.lock());
        let counted = &mut counted[at];
        counted.count = counted.count.saturating_add_signed(delta);
        counted.timing.set(now, counted.count as f64);
    }
}

/// Tells the metrics over time when they are asked for.
pub(super) struct OverTime {
    levels: Arc<Levels>,
    read_vs_write: Arc<ReadVsWrite>,
    descriptions: [Desc; 4],
}

impl OverTime {
    pub(super) fn new(levels: Arc<Levels>, read_vs_write: Arc<ReadVsWrite>) -> Result<Self, prometheus::Error> {
        let describe = |name: &str, help: &str, labels: &[&str]| {
            let labels = labels.iter().map(|label| (*label).to_owned()).collect();
            Desc::new(full(name), help.to_owned(), labels, HashMap::new())
        };
        Ok(OverTime {
            levels,
            read_vs_write,
            descriptions: [
                describe(
                    "priority_level_seat_utilization",
                    "Observations, at the end of every nanosecond, of utilization of seats for any stage of execution (but only initial stage for WATCHes)",
                    &["phase", "priority_level"],
                )?,
                describe(
                    "priority_level_request_utilization",
                    "Observations, at the end of every nanosecond, of number of requests (as a fraction of the relevant limit) waiting or in any stage of execution (but only initial stage for WATCHes)",
                    &["phase", "priority_level"],
                )?,
                describe(
                    "demand_seats",
                    "Observations, at the end of every nanosecond, of (the number of seats each priority level could use) / (nominal number of seats for that level)",
                    &["priority_level"],
                )?,
                describe(
                    "read_vs_write_current_requests",
                    "Observations, at the end of every nanosecond, of the number of requests (as a fraction of the relevant limit) waiting or in regular stage of execution",
                    &["phase", "request_kind"],
                )?,
            ],
        })
    }
}

/// The histograms of a level over time, as far as there is something to tell.
pub(super) struct LevelHistograms {
    pub(super) seats: Option<proto::Histogram>,
    pub(super) waiting: Option<proto::Histogram>,
    pub(super) executing: Option<proto::Histogram>,
    pub(super) demand: Option<proto::Histogram>,
}

fn family(description: &Desc, metrics: Vec<proto::Metric>) -> proto::MetricFamily {
    let mut family = proto::MetricFamily::default();
    family.set_name(description.fq_name.clone());
    family.set_help(description.help.clone());
    family.set_field_type(proto::MetricType::HISTOGRAM);
    family.set_metric(metrics);
    family
}

fn metric(labels: &[(&str, &str)], histogram: Option<proto::Histogram>) -> Option<proto::Metric> {
    let histogram = histogram?;
    let labels = labels.iter().map(|(name, value)| {
        let mut label = proto::LabelPair::default();
        label.set_name((*name).to_owned());
        label.set_value((*value).to_owned());
        label
    });
    let mut metric = proto::Metric::from_label(labels.collect());
    metric.set_histogram(histogram);
    Some(metric)
}

impl Collector for OverTime {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let (mut seats, mut requests, mut demand) = (Vec::new(), Vec::new(), Vec::new());
        for level in self.levels.all().iter() {
            let name = level.name();
            let histograms = level.histograms();
            let (executing, waiting) =
                ([("phase", "executing"), ("priority_level", name)], [("phase", "waiting"), ("priority_level", name)]);
            seats.extend(metric(&executing, histograms.seats));
            requests.extend(metric(&executing, histograms.executing));
            requests.extend(metric(&waiting, histograms.waiting));
            demand.extend(metric(&[("priority_level", name)], histograms.demand));
        }
        let mut counted = self.read_vs_write.0.lock();
        let now = Instant::now();
        let kinds = [("waiting", "readOnly"), ("waiting", "mutating"), ("executing", "readOnly"), ("executing", "mutating")];
        let read_vs_write = kinds.iter().zip(counted.iter_mut()).filter_map(|((phase, kind), counted)| {
            metric(&[("phase", phase), ("request_kind", kind)], counted.timing.histogram(now))
        });
        let read_vs_write = read_vs_write.collect();
        let families = [seats, requests, demand, read_vs_write];
        // A family without metrics cannot be written.
        let families = self.descriptions.iter().zip(families).filter(|(_, metrics)| !metrics.is_empty());
        families.map(|(description, metrics)| family(description, metrics)).collect()
    }
}
