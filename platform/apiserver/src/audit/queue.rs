//! Events that wait to be delivered: a bounded queue, and the task that empties it in batches.
//!
//! Follows `apiserver/plugin/pkg/audit/buffered`. An event that finds the queue full is dropped and counted in
//! `apiserver_audit_error_total{plugin="buffered"}`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use pharos_telemetry::Ctx;
use tokio::{
    sync::{Mutex, Semaphore, mpsc},
    time::Instant,
};

use super::{Delivery, metrics::Metrics};

/// What waits takes at most so much memory, whatever the number of events: bodies may be large.
const MOST_BYTES: usize = 64 << 20;
/// Batches on their way at once. Further ones wait in the queue.
const CONCURRENT: usize = 16;

/// The queue.
pub(super) struct Queue {
    sender: mpsc::Sender<String>,
    receiver: Mutex<mpsc::Receiver<String>>,
    bytes: AtomicUsize,
    most_in_batch: usize,
    longest_wait: Duration,
    throttle: Option<(f64, f64)>,
    metrics: Metrics,
}

/// Where batches go.
#[async_trait::async_trait]
pub(super) trait Sink: Send + Sync + 'static {
    /// Delivers events, or loses and counts them; whether it has them. `last`: there is no time for another attempt.
    async fn deliver(&self, batch: Vec<String>, last: bool) -> bool;
}

impl Queue {
    pub(super) fn new(delivery: &Delivery, metrics: Metrics) -> Self {
        let (sender, receiver) = mpsc::channel(usize::try_from(delivery.buffer_size).unwrap_or(1).max(1));
        Queue {
            sender,
            receiver: Mutex::new(receiver),
            bytes: AtomicUsize::new(0),
            most_in_batch: usize::try_from(delivery.max_batch_size).unwrap_or(1).max(1),
            longest_wait: delivery.max_batch_wait,
            throttle: delivery.throttle.then_some((delivery.throttle_qps, delivery.throttle_burst as f64)),
            metrics,
        }
    }

    /// Queues an event, or drops and counts it.
    pub(super) fn push(&self, event: String) {
        let length = event.len();
        let before = self.bytes.fetch_add(length, Ordering::Relaxed);
        let queued = before + length <= MOST_BYTES && self.sender.try_send(event).is_ok();
        if !queued {
            self.bytes.fetch_sub(length, Ordering::Relaxed);
            self.metrics.lost("buffered", 1);
        }
    }

    /// Delivers what is queued until told to stop, and then what is left.
    pub(super) async fn run(&self, sink: Arc<dyn Sink>, ctx: &Ctx) {
        let Ok(mut receiver) = self.receiver.try_lock() else { return };
        let mut throttle = self.throttle.map(|(qps, burst)| Throttle::new(qps, burst, Instant::now()));
        let slots = Arc::new(Semaphore::new(CONCURRENT));
        loop {
            let mut batch = Vec::new();
            let stopped = tokio::select! {
                biased;
                () = ctx.stopped() => true,
                () = self.collect(&mut receiver, &mut batch) => false,
            };
            if stopped {
                self.take(batch.len(), batch.iter().map(String::len).sum());
                return self.finish(&mut receiver, batch, &*sink).await;
            }
            let wait = async {
                if let Some(throttle) = &mut throttle {
                    tokio::time::sleep(throttle.take(Instant::now())).await;
                }
                slots.clone().acquire_owned().await.ok()
            };
            let slot = tokio::select! {
                biased;
                () = ctx.stopped() => None,
                slot = wait => slot,
            };
            self.take(batch.len(), batch.iter().map(String::len).sum());
            match slot {
                None => return self.finish(&mut receiver, batch, &*sink).await,
                Some(slot) => {
                    let sink = sink.clone();
                    ctx.spawn("audit batch", async move {
                        sink.deliver(batch, false).await;
                        drop(slot);
                    });
                }
            }
        }
    }

    /// Waits for events: a full batch, or what has come a while after the first.
    async fn collect(&self, receiver: &mut mpsc::Receiver<String>, batch: &mut Vec<String>) {
        if receiver.recv_many(batch, self.most_in_batch).await == 0 {
            return std::future::pending().await; // Never: this holds a sender.
        }
        let deadline = Instant::now() + self.longest_wait;
        while batch.len() < self.most_in_batch {
            let room = self.most_in_batch - batch.len();
            if tokio::time::timeout_at(deadline, receiver.recv_many(batch, room)).await.is_err() {
                return;
            }
        }
    }

    /// Gives the room of a batch that has left the queue to others.
    fn take(&self, events: usize, bytes: usize) {
        if events > 0 {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    async fn finish(&self, receiver: &mut mpsc::Receiver<String>, mut batch: Vec<String>, sink: &dyn Sink) {
        loop {
            while batch.len() < self.most_in_batch {
                let Ok(event) = receiver.try_recv() else { break };
                self.take(1, event.len());
                batch.push(event);
            }
            if batch.is_empty() {
                return;
            }
            if !sink.deliver(std::mem::take(&mut batch), true).await {
                // It will not take the next ones either, and the process is about to end.
                while let Ok(event) = receiver.try_recv() {
                    self.take(1, event.len());
                    self.metrics.lost("buffered", 1);
                }
                return;
            }
        }
    }
}

/// A token bucket: so many batches a second, and a few more after a quiet time.
struct Throttle {
    per_second: f64,
    burst: f64,
    tokens: f64,
    since: Instant,
}

impl Throttle {
    fn new(per_second: f64, burst: f64, now: Instant) -> Self {
        Throttle { per_second, burst, tokens: burst, since: now }
    }

    /// Takes one token; how long to wait for it.
    fn take(&mut self, now: Instant) -> Duration {
        let earned = now.duration_since(self.since).as_secs_f64() * self.per_second;
        self.since = now;
        self.tokens = (self.tokens + earned).min(self.burst) - 1.0;
        if self.tokens >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-self.tokens / self.per_second) }
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[derive(Default)]
    struct Seen(parking_lot::Mutex<Vec<(usize, bool)>>);

    #[async_trait::async_trait]
    impl Sink for Seen {
        async fn deliver(&self, batch: Vec<String>, last: bool) -> bool {
            self.0.lock().push((batch.len(), last));
            true
        }
    }

    fn queue(change: impl FnOnce(&mut Delivery)) -> (Arc<Queue>, Registry) {
        let registry = Registry::new();
        let mut delivery = Delivery::of_webhook();
        change(&mut delivery);
        (Arc::new(Queue::new(&delivery, Metrics::new(&registry).unwrap())), registry)
    }

    #[tokio::test(start_paused = true)]
    async fn events_are_sent_in_batches_and_the_rest_at_the_end() {
        let (queue, _) = queue(|delivery| delivery.max_batch_size = 3);
        let seen = Arc::new(Seen::default());
        let token = CancellationToken::new();
        let ctx = Ctx::for_test(token.clone());
        let (running, sink, context) = (queue.clone(), seen.clone(), ctx.clone());
        let run = ctx.spawn("queue", async move { running.run(sink, &context).await });
        (0..4).for_each(|at| queue.push(at.to_string()));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(*seen.0.lock(), [(3, false)]);
        tokio::time::sleep(Duration::from_secs(31)).await;
        assert_eq!(*seen.0.lock(), [(3, false), (1, false)]);
        queue.push("last".to_owned());
        token.cancel();
        run.await.unwrap();
        assert_eq!(seen.0.lock().last(), Some(&(1, true)));
        assert_eq!(queue.bytes.load(Ordering::Relaxed), 0);
    }

    struct Refuses;

    #[async_trait::async_trait]
    impl Sink for Refuses {
        async fn deliver(&self, _: Vec<String>, _: bool) -> bool {
            false
        }
    }

    #[tokio::test]
    async fn at_the_end_a_sink_that_refuses_is_asked_once() {
        let (queue, registry) = queue(|delivery| delivery.max_batch_size = 2);
        (0..5).for_each(|at| queue.push(at.to_string()));
        let token = CancellationToken::new();
        token.cancel();
        queue.run(Arc::new(Refuses), &Ctx::for_test(token)).await;
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert!(text.contains("apiserver_audit_error_total{plugin=\"buffered\"} 3"), "{text}");
        assert_eq!(queue.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let (queue, registry) = queue(|delivery| delivery.buffer_size = 2);
        (0..5).for_each(|_| queue.push("x".to_owned()));
        queue.push("y".repeat(MOST_BYTES + 1));
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert!(text.contains("apiserver_audit_error_total{plugin=\"buffered\"} 4"), "{text}");
        assert_eq!(queue.bytes.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn batches_are_throttled() {
        let start = Instant::now();
        let mut throttle = Throttle::new(10.0, 2.0, start);
        let waits: Vec<u64> = (0..4).map(|_| throttle.take(start).as_millis() as u64).collect();
        assert_eq!(waits, [0, 0, 100, 200]);
        assert_eq!(throttle.take(start + Duration::from_secs(60)), Duration::ZERO);
    }
}
