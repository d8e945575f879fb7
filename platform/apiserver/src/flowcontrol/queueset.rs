//! The queues of a priority level, and whose turn it is: fair queuing for server requests
//! (`apiserver/pkg/util/flowcontrol/fairqueuing/queueset`, whose `doc.go` explains the method).
//!
//! A virtual clock, R, runs at the rate at which each busy queue would be served if the level's seats were divided evenly
//! among the busy queues. A queue knows the R at which its next request would begin in that ideal world; the request that
//! would end first is served first. What a request costs is estimated when it is served, and set right when it ends.
//!
//! Only queues that are in use are held: one that nothing waits in or is served from would begin anew anyway. So a level
//! may have millions of queues, and the sums that upstream takes over all queues each time are kept.
//!
//! A level's state is behind one lock, held for well under a microsecond; a request takes it twice, when it begins and ends.

mod dump;
mod state;

use std::{
    cmp::Reverse,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

pub(super) use dump::RequestDump;
use state::{Bounds, Lingering, Running, State};

use super::{
    dropped::Dropped,
    integrator::Period,
    metrics::{FlowMetrics, LevelHistograms, LevelMetrics, Reason},
    shuffle::Dealer,
    work::{SERVICE, Work, seat_seconds, to_seconds},
};
use crate::request::RequestInfo;

/// What becomes of requests that find no seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// There are seats for all.
    Exempt,
    /// They are rejected.
    Reject,
    /// They wait in one of these queues, of this length.
    Queue { dealer: Dealer, length: usize },
}

/// How the tasks beside are woken.
#[derive(Default)]
pub(super) struct Signals {
    /// Seats are held on by a request that has ended, and shall be given back.
    pub(super) lingering: Notify,
    /// Somebody wants seats, after a time when nobody did.
    pub(super) demand: Notify,
    /// Whether demand is being watched already.
    pub(super) awake: AtomicBool,
    /// A level that is to go is idle.
    pub(super) drained: Notify,
}

/// A request as its level knows it.
pub(super) struct Asked {
    /// The schema it matched.
    pub(super) schema: Arc<str>,
    pub(super) metrics: Arc<FlowMetrics>,
    pub(super) user: String,
    pub(super) info: Arc<RequestInfo>,
    /// Whether flows are told apart by their namespaces rather than users; `None` if not at all.
    pub(super) by_namespace: Option<bool>,
    pub(super) work: Work,
}

/// A priority level's seats and queues.
pub(super) struct QueueSet {
    name: Arc<str>,
    pub(super) metrics: LevelMetrics,
    /// How long the rejected are told to wait.
    pub(super) dropped: Dropped,
    signals: Arc<Signals>,
    state: Mutex<State>,
}

/// What a request gets.
pub(super) enum Started {
    Seat(Seat),
    Waiting(Waiting),
    Rejected(Reason),
}

/// The seats of a request that is served; dropping it gives them back.
pub(crate) struct Seat {
    set: Arc<QueueSet>,
    id: u64,
}

/// A request in a queue. Dropping it leaves the queue at once.
pub(super) struct Waiting {
    /// `None` once it is served.
    set: Option<Arc<QueueSet>>,
    id: u64,
    queue: usize,
    /// Whether it has waited for as long as it may.
    late: bool,
    granted: oneshot::Receiver<()>,
}

// === impl QueueSet ===

impl QueueSet {
    pub(super) fn new(name: &str, metrics: LevelMetrics, signals: Arc<Signals>) -> Self {
        let now = Instant::now();
        QueueSet { name: name.into(), metrics, dropped: Dropped::new(now), signals, state: Mutex::new(State::new(now)) }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Locks the state and brings it up to now.
    fn lock(&self) -> (MutexGuard<'_, State>, Instant) {
        let mut state = self.state.lock();
        let now = Instant::now();
        state.sync(now);
        self.metrics.current_r.set(to_seconds(state.r));
        (state, now)
    }

    /// Sets what becomes of requests, or leaves that as it is, and how many seats there are; `denominator` is what
    /// utilization is a fraction of. Whoever may now be served is.
    pub(super) fn configure(&self, mode: Option<Mode>, limit: u64, denominator: u64) {
        let (mut state, now) = self.lock();
        state.mode = mode.unwrap_or(state.mode);
        state.limit = limit;
        let room = match state.mode {
            Mode::Queue { dealer, length } => dealer.deck() as f64 * length as f64,
            Mode::Reject | Mode::Exempt => 1.0,
        };
        let over_time = &mut state.over_time;
        over_time.waiting.set_denominator(now, room);
        for timing in [&mut over_time.seats, &mut over_time.executing, &mut over_time.demand] {
            timing.set_denominator(now, denominator as f64);
        }
        state.dispatch_all(now, &self.metrics);
        state.note(now);
    }

    /// Whether the level shall go once it is idle.
    pub(super) fn set_quiescing(&self, quiescing: bool) {
        self.state.lock().quiescing = quiescing;
    }

    /// Whether nothing waits or is served.
    pub(super) fn is_idle(&self) -> bool {
        self.state.lock().is_idle()
    }

    /// Gives a request seats or a place in a queue, or rejects it. `hash` is its flow's.
    pub(super) fn start(self: &Arc<Self>, mut asked: Asked, hash: u64) -> Started {
        if !self.signals.awake.load(Ordering::Relaxed) && !self.signals.awake.swap(true, Ordering::AcqRel) {
            self.signals.demand.notify_one();
        }
        let (mut state, now) = self.lock();
        let id = state.next_id;
        state.next_id += 1;
        let seats = asked.work.max_seats();
        let Mode::Queue { dealer, length } = state.mode else {
            if !state.accommodates(seats) {
                return self.rejected(&mut state, &asked, Reason::ConcurrencyLimit);
            }
            state.run(id, asked, None, now, now);
            state.note(now);
            return Started::Seat(Seat { set: self.clone(), id });
        };
        let queue = state.choose_queue(dealer, hash);
        if state.waiting == 0 && state.seats_in_use < state.limit && state.accommodates(seats) {
            // What enqueuing and dispatching it at once comes to.
            asked.metrics.queue_length.observe(1.0);
            asked.work = asked.work.reshaped(state.limit);
            let (r, seats, total) = (state.r, asked.work.max_seats(), asked.work.total());
            let bounds = state.edit(queue, |queue| {
                queue.next_r = if queue.is_active() { queue.next_r.max(r) } else { r };
                let bounds = Bounds::of(queue.next_r, queue.seats_in_use);
                queue.begin(seats, total);
                bounds
            });
            state.robin = queue;
            bounds.write(&self.metrics, r, bounds.min);
            state.run(id, asked, Some(queue), now, now);
            state.note(now);
            return Started::Seat(Seat { set: self.clone(), id });
        }
        let waiting = state.queues.get(&queue).map_or(0, |queue| queue.waiting.len());
        // Upstream lets a queue grow past its limit while a wide request waits for seats that are free one by one; that
        // has no bound.
        if waiting >= length {
            return self.rejected(&mut state, &asked, Reason::QueueFull);
        }
        let (granted, receiver) = oneshot::channel();
        state.enqueue(queue, id, asked, now, granted);
        state.dispatch_all(now, &self.metrics);
        state.note(now);
        Started::Waiting(Waiting { set: Some(self.clone()), id, queue, late: false, granted: receiver })
    }

    fn rejected(&self, state: &mut State, asked: &Asked, reason: Reason) -> Started {
        state.totals.rejected += 1;
        asked.metrics.rejected(reason);
        asked.metrics.waited(0.0, false);
        self.drained(state);
        Started::Rejected(reason)
    }

    /// Takes back the seats of a request, now or once its additional latency is over.
    fn finish(&self, id: u64) {
        let (mut state, now) = self.lock();
        let Some(running) = state.running.remove(&id) else { return };
        let Running { asked, queue, started, .. } = running;
        let served = now.duration_since(started);
        asked.metrics.executing_requests.dec();
        asked.metrics.executed(served.as_secs_f64(), asked.info.verb == "watch");
        if let Some(queue) = queue {
            let seats = asked.work.initial_seats as f64;
            state.edit(queue, |queue| {
                queue.executing -= 1;
                queue.next_r += seat_seconds(seats, served) - seat_seconds(seats, SERVICE);
                queue.bound();
            });
        }
        let seats = asked.work.max_seats();
        let latency = asked.work.additional_latency;
        if latency.is_zero() {
            state.release(seats, queue, &asked.metrics);
        } else {
            let until = now + latency;
            let is_next = state.lingering.peek().is_none_or(|Reverse(next)| until < next.until);
            state.lingering.push(Reverse(Lingering { until, seats, queue, metrics: asked.metrics }));
            if is_next {
                self.signals.lingering.notify_one();
            }
        }
        state.dispatch_all(now, &self.metrics);
        state.note(now);
        self.drained(&state);
    }

    /// A request that waited is gone: from its queue, or if it had just been given seats, from those.
    fn leave(&self, queue: usize, id: u64, late: bool) {
        let (mut state, now) = self.lock();
        let Some(entry) = state.remove(queue, id) else {
            drop(state);
            return self.finish(id);
        };
        let seats = entry.asked.work.max_seats();
        state.waiting -= 1;
        state.seats_waiting -= seats;
        state.totals.rejected += 1;
        state.totals.timed_out += u64::from(late);
        state.totals.cancelled += u64::from(!late);
        let metrics = &entry.asked.metrics;
        metrics.inqueue_requests.dec();
        metrics.inqueue_seats.sub(seats as i64);
        metrics.rejected(Reason::TimeOut);
        metrics.waited(now.duration_since(entry.arrived).as_secs_f64(), false);
        // Another may have waited for this one, if it was wide.
        state.dispatch_all(now, &self.metrics);
        state.note(now);
        self.drained(&state);
    }

    /// Tells that a level that is to go is idle.
    fn drained(&self, state: &State) {
        if state.quiescing && state.is_idle() {
            self.signals.drained.notify_one();
        }
    }

    /// Gives back the seats whose time is over, and tells when that of others will be.
    pub(super) fn tick(&self) -> Option<Instant> {
        let (mut state, now) = self.lock();
        state.dispatch_all(now, &self.metrics);
        state.note(now);
        state.lingering.peek().map(|Reverse(next)| next.until)
    }

    /// The seats that were wanted since this was last asked.
    pub(super) fn take_demand(&self) -> Period {
        let (mut state, now) = self.lock();
        state.demand.take(now)
    }

    /// Whether any were.
    pub(super) fn is_in_demand(&self) -> bool {
        self.state.lock().demand.max() > 0.0
    }

    /// The histograms over time up to now.
    pub(super) fn histograms(&self) -> LevelHistograms {
        let (mut state, now) = self.lock();
        let over_time = &mut state.over_time;
        LevelHistograms {
            seats: over_time.seats.histogram(now),
            waiting: over_time.waiting.histogram(now),
            executing: over_time.executing.histogram(now),
            demand: over_time.demand.histogram(now),
        }
    }
}

// === impl Waiting, Seat ===

impl Waiting {
    /// Waits for seats until then.
    pub(super) async fn seat(mut self, deadline: Instant) -> Option<Seat> {
        match tokio::time::timeout_at(deadline, &mut self.granted).await {
            Ok(Ok(())) => Some(Seat { set: self.set.take()?, id: self.id }),
            // The place in the queue goes with `self`.
            _ => {
                self.late = true;
                None
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(set) = self.set.take() {
            set.leave(self.queue, self.id, self.late);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.set.finish(self.id);
    }
}

#[cfg(test)]
mod tests;
