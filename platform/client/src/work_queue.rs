use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    fmt::{Debug, Display},
    future::Future,
    hash::Hash,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures::FutureExt as _;
use parking_lot::Mutex;
use pharos_telemetry::{Ctx, Register as _};
use prometheus::{Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};
use rand::Rng as _;
use tokio::{sync::Notify, time::Instant};

/// The first wait after a failure, and the longest: client-go's `DefaultControllerRateLimiter`.
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_secs(1000);

/// Keys that are to be looked at again.
///
/// A key that waits is held once; a key that is being worked on is handed out again only after that work ended, so one
/// key never has two workers. Bounded by the number of keys that exist. Cheap to clone.
pub struct WorkQueue<T>(Arc<Inner<T>>);

struct Inner<T> {
    state: Mutex<State<T>>,
    /// One permit for one item that became ready.
    ready: Notify,
    metrics: Handles,
}

struct State<T> {
    /// Ready, in order, with the time at which they became so.
    queue: VecDeque<(T, Instant)>,
    /// Ready, or to be ready once the work on them ends.
    dirty: HashSet<T>,
    processing: HashMap<T, Instant>,
    /// Ready later. `due` says when, so a key waits at most once, for its earliest time.
    delayed: BTreeMap<(Instant, u64), T>,
    due: HashMap<T, (Instant, u64)>,
    failures: HashMap<T, u32>,
    sequence: u64,
}

/// What is to follow a success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing, until the next event.
    Done,
    /// The same key again, after this time.
    After(Duration),
}

/// The `workqueue_*` metrics of a component, shared by its queues.
///
/// Names, help and buckets follow `k8s.io/component-base/metrics/prometheus/workqueue`.
#[derive(Clone)]
pub struct QueueMetrics {
    depth: IntGaugeVec,
    adds: IntCounterVec,
    queue_duration: HistogramVec,
    work_duration: HistogramVec,
    unfinished: GaugeVec,
    longest_running: GaugeVec,
    retries: IntCounterVec,
}

struct Handles {
    depth: IntGauge,
    adds: IntCounter,
    queue_duration: Histogram,
    work_duration: Histogram,
    unfinished: Gauge,
    longest_running: Gauge,
    retries: IntCounter,
}

// === impl WorkQueue ===

impl<T> Clone for WorkQueue<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> WorkQueue<T>
where
    T: Clone + Debug + Display + Eq + Hash + Send + Sync + 'static,
{
    /// An empty queue whose metrics carry `name`.
    #[must_use]
    pub fn new(name: &str, metrics: &QueueMetrics) -> Self {
        Self(Arc::new(Inner {
            state: Mutex::new(State {
                queue: VecDeque::new(),
                dirty: HashSet::new(),
                processing: HashMap::new(),
                delayed: BTreeMap::new(),
                due: HashMap::new(),
                failures: HashMap::new(),
                sequence: 0,
            }),
            ready: Notify::new(),
            metrics: metrics.handles(name),
        }))
    }

    /// Asks for a key to be looked at, unless it waits already.
    pub fn add(&self, key: T) {
        if self.0.state.lock().make_ready(key, &self.0.metrics) {
            self.0.ready.notify_one();
        }
    }

    /// Asks for a key to be looked at after a time; an earlier request stands.
    pub fn add_after(&self, key: T, wait: Duration) {
        if wait.is_zero() {
            return self.add(key);
        }
        let mut state = self.0.state.lock();
        let at = Instant::now() + wait;
        if let Some(&slot) = state.due.get(&key) {
            if slot.0 <= at {
                return;
            }
            state.delayed.remove(&slot);
        }
        state.sequence += 1;
        let slot = (at, state.sequence);
        state.due.insert(key.clone(), slot);
        state.delayed.insert(slot, key);
        drop(state);
        // A waiting worker may have to wake earlier than it planned.
        self.0.ready.notify_one();
    }

    /// Asks for a key to be looked at after a wait that doubles with each failure, with jitter.
    pub fn add_rate_limited(&self, key: T) {
        let failures = {
            let mut state = self.0.state.lock();
            let failures = state.failures.entry(key.clone()).or_default();
            *failures += 1;
            *failures
        };
        self.0.metrics.retries.inc();
        let wait = FIRST_WAIT.saturating_mul(1 << (failures - 1).min(20)).min(LONGEST_WAIT);
        self.add_after(key, wait.mul_f64(rand::rng().random_range(0.75..=1.25)));
    }

    /// How often the key has failed in a row.
    #[must_use]
    pub fn failures(&self, key: &T) -> u32 {
        self.0.state.lock().failures.get(key).copied().unwrap_or_default()
    }

    /// How many keys are ready now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.state.lock().queue.len()
    }

    /// Whether no key is ready now.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Starts `workers` tasks that call `work` for one key after another until the component is stopped.
    ///
    /// A failure or a panic is logged and the key tried again later.
    pub fn spawn_workers<F, Fut, E>(&self, ctx: &Ctx, workers: usize, work: F)
    where
        F: Fn(T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Next, E>> + Send + 'static,
        E: std::error::Error + Send + Sync + 'static,
    {
        let work = Arc::new(work);
        for _ in 0..workers {
            let (queue, work, ctx_) = (self.clone(), work.clone(), ctx.clone());
            ctx.spawn("worker", async move {
                loop {
                    let key = tokio::select! {
                        biased;
                        () = ctx_.stopped() => return,
                        key = queue.next() => key,
                    };
                    let outcome = AssertUnwindSafe(async { work(key.clone()).await }).catch_unwind().await;
                    queue.finish(key, outcome);
                }
            });
        }
    }

    /// Waits for the next key. Cancel-safe. Whoever takes a key must hand it back with [`WorkQueue::done`].
    pub async fn next(&self) -> T {
        loop {
            let wake = {
                let mut state = self.0.state.lock();
                state.take_due(&self.0.metrics);
                if let Some((key, since)) = state.queue.pop_front() {
                    let more = !state.queue.is_empty();
                    state.dirty.remove(&key);
                    state.processing.insert(key.clone(), Instant::now());
                    self.0.metrics.depth.set(state.queue.len() as i64);
                    self.0.metrics.queue_duration.observe(since.elapsed().as_secs_f64());
                    drop(state);
                    if more {
                        self.0.ready.notify_one();
                    }
                    return key;
                }
                state.delayed.keys().next().map(|(at, _)| *at)
            };
            match wake {
                None => self.0.ready.notified().await,
                Some(at) => tokio::select! {
                    () = self.0.ready.notified() => {}
                    () = tokio::time::sleep_until(at) => {}
                },
            }
        }
    }

    /// Hands a key back. If it was added meanwhile it is ready again at once.
    pub fn done(&self, key: &T) {
        let mut state = self.0.state.lock();
        if let Some(since) = state.processing.remove(key) {
            self.0.metrics.work_duration.observe(since.elapsed().as_secs_f64());
        }
        let (sum, longest) = state
            .processing
            .values()
            .map(|since| since.elapsed().as_secs_f64())
            .fold((0.0, 0.0_f64), |(sum, longest), age| (sum + age, longest.max(age)));
        self.0.metrics.unfinished.set(sum);
        self.0.metrics.longest_running.set(longest);
        if state.dirty.contains(key) {
            state.queue.push_back((key.clone(), Instant::now()));
            self.0.metrics.depth.set(state.queue.len() as i64);
            drop(state);
            self.0.ready.notify_one();
        }
    }

    fn finish<E: std::error::Error>(&self, key: T, outcome: std::thread::Result<Result<Next, E>>) {
        match outcome {
            Ok(Ok(next)) => {
                self.0.state.lock().failures.remove(&key);
                if let Next::After(wait) = next {
                    self.add_after(key.clone(), wait);
                }
            }
            Ok(Err(error)) => {
                let error: &dyn std::error::Error = &error;
                let text =
                    std::iter::successors(Some(error), |e| e.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ");
                // Conflicts and races heal by themselves on the first retries.
                if self.failures(&key) >= 3 {
                    tracing::warn!(key = %key, error = text, attempt = self.failures(&key), "sync failed, trying again");
                } else {
                    tracing::debug!(key = %key, error = text, "sync failed, trying again");
                }
                self.add_rate_limited(key.clone());
            }
            Err(_) => {
                tracing::error!(key = %key, error = "panicked", "sync panicked, trying again");
                self.add_rate_limited(key.clone());
            }
        }
        self.done(&key);
    }
}

// === impl State ===

impl<T: Clone + Eq + Hash> State<T> {
    /// Whether a worker is to be woken.
    fn make_ready(&mut self, key: T, metrics: &Handles) -> bool {
        if !self.dirty.insert(key.clone()) {
            return false;
        }
        metrics.adds.inc();
        if self.processing.contains_key(&key) {
            return false;
        }
        self.queue.push_back((key, Instant::now()));
        metrics.depth.set(self.queue.len() as i64);
        true
    }

    fn take_due(&mut self, metrics: &Handles) {
        let now = Instant::now();
        while let Some((&slot, _)) = self.delayed.first_key_value() {
            if slot.0 > now {
                return;
            }
            if let Some(key) = self.delayed.remove(&slot) {
                self.due.remove(&key);
                self.make_ready(key, metrics);
            }
        }
    }
}

// === impl QueueMetrics ===

impl QueueMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let buckets = prometheus::exponential_buckets(10e-9, 10.0, 12)?;
        Ok(Self {
            depth: registry.gauges("workqueue_depth", "Current depth of workqueue", &["name"])?,
            adds: registry.counters("workqueue_adds_total", "Total number of adds handled by workqueue", &["name"])?,
            queue_duration: registry.histograms(
                "workqueue_queue_duration_seconds",
                "How long in seconds an item stays in workqueue before being requested.",
                &buckets,
                &["name"],
            )?,
            work_duration: registry.histograms(
                "workqueue_work_duration_seconds",
                "How long in seconds processing an item from workqueue takes.",
                &buckets,
                &["name"],
            )?,
            unfinished: registry.gauges(
                "workqueue_unfinished_work_seconds",
                "How many seconds of work has done that is in progress and hasn't been observed by work_duration. Large values indicate stuck threads. One can deduce the number of stuck threads by observing the rate at which this increases.",
                &["name"],
            )?,
            longest_running: registry.gauges(
                "workqueue_longest_running_processor_seconds",
                "How many seconds has the longest running processor for workqueue been running.",
                &["name"],
            )?,
            retries: registry.counters("workqueue_retries_total", "Total number of retries handled by workqueue", &["name"])?,
        })
    }

    fn handles(&self, name: &str) -> Handles {
        let name = &[name];
        Handles {
            depth: self.depth.with_label_values(name),
            adds: self.adds.with_label_values(name),
            queue_duration: self.queue_duration.with_label_values(name),
            work_duration: self.work_duration.with_label_values(name),
            unfinished: self.unfinished.with_label_values(name),
            longest_running: self.longest_running.with_label_values(name),
            retries: self.retries.with_label_values(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio_util::sync::CancellationToken;

    use super::*;

    fn queue() -> WorkQueue<String> {
        WorkQueue::new("test", &QueueMetrics::new(&Registry::new()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_waits_once_and_is_worked_on_once() {
        let queue = queue();
        queue.add("a".into());
        queue.add("a".into());
        assert_eq!(queue.next().await, "a");
        queue.add("a".into());
        assert!(queue.is_empty(), "not while it is worked on");
        queue.done(&"a".into());
        assert_eq!(queue.next().await, "a");
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_delay_stands() {
        let queue = queue();
        let start = Instant::now();
        queue.add_after("a".into(), Duration::from_secs(10));
        queue.add_after("a".into(), Duration::from_secs(2));
        queue.add_after("a".into(), Duration::from_secs(5));
        assert_eq!(queue.next().await, "a");
        assert_eq!(start.elapsed().as_secs(), 2);
        queue.done(&"a".into());
        assert!(tokio::time::timeout(Duration::from_secs(60), queue.next()).await.is_err());
    }

    #[derive(Debug, thiserror::Error)]
    #[error("no")]
    struct No;

    #[tokio::test(start_paused = true)]
    async fn failures_and_panics_are_tried_again() {
        let queue = queue();
        let runs = Arc::new(AtomicU32::new(0));
        let token = CancellationToken::new();
        let count = runs.clone();
        queue.spawn_workers(&Ctx::for_test(token.clone()), 2, move |_| {
            let run = count.fetch_add(1, Ordering::SeqCst);
            async move {
                match run {
                    0 => Err(No),
                    1 => panic!("once"),
                    _ => Ok(Next::Done),
                }
            }
        });
        queue.add("a".into());
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!((runs.load(Ordering::SeqCst), queue.failures(&"a".into())), (3, 0));
        token.cancel();
    }
}
