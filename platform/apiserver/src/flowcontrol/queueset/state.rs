//! Where the requests of a priority level are, and which is served next. Everything here happens under the level's lock.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    sync::Arc,
};

use tokio::{sync::oneshot, time::Instant};

use super::{Asked, Mode};
use crate::flowcontrol::{
    integrator::Integrator,
    metrics::{DEMAND, FlowMetrics, LevelMetrics, REQUEST_UTILIZATION, SEAT_UTILIZATION},
    shuffle::Dealer,
    timing::Timing,
    work::{SERVICE, SeatSeconds, seat_seconds, to_seconds},
};

/// A level's state.
pub(super) struct State {
    pub(super) mode: Mode,
    pub(super) limit: u64,
    /// Whether the level shall go once it is idle.
    pub(super) quiescing: bool,
    /// Those in use.
    pub(super) queues: HashMap<usize, Queue>,
    /// How many have requests, waiting or served.
    active: u64,
    pub(super) r: SeatSeconds,
    /// When `r` was that.
    synced: Instant,
    /// The queue served last.
    pub(super) robin: usize,
    enqueues: usize,
    pub(super) next_id: u64,
    pub(super) waiting: usize,
    pub(super) seats_waiting: u64,
    pub(super) running: HashMap<u64, Running>,
    pub(super) seats_in_use: u64,
    /// Those of them that belong to queues.
    queued_seats_in_use: u64,
    /// Seats held on, the next to be given back first.
    pub(super) lingering: BinaryHeap<Reverse<Lingering>>,
    pub(super) demand: Integrator,
    pub(super) over_time: OverTime,
    pub(super) totals: Totals,
}

/// What is measured over time.
pub(super) struct OverTime {
    pub(super) seats: Timing,
    pub(super) waiting: Timing,
    pub(super) executing: Timing,
    pub(super) demand: Timing,
}

/// How many requests there were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::flowcontrol) struct Totals {
    pub(in crate::flowcontrol) dispatched: u64,
    pub(in crate::flowcontrol) rejected: u64,
    pub(in crate::flowcontrol) timed_out: u64,
    pub(in crate::flowcontrol) cancelled: u64,
}

/// One queue.
#[derive(Default)]
pub(super) struct Queue {
    /// The R at which its next request would begin.
    pub(super) next_r: SeatSeconds,
    pub(super) waiting: VecDeque<Entry>,
    pub(super) waiting_work: SeatSeconds,
    pub(super) executing: u64,
    pub(super) seats_in_use: u64,
}

/// A request that waits.
pub(super) struct Entry {
    pub(super) id: u64,
    pub(super) asked: Asked,
    pub(super) total_work: SeatSeconds,
    pub(super) arrival_r: SeatSeconds,
    pub(super) arrived: Instant,
    pub(super) granted: oneshot::Sender<()>,
}

/// A request that is served.
pub(super) struct Running {
    pub(super) asked: Asked,
    pub(super) queue: Option<usize>,
    pub(super) arrived: Instant,
    pub(super) started: Instant,
}

/// Seats that are held on.
pub(super) struct Lingering {
    pub(super) until: Instant,
    pub(super) seats: u64,
    pub(super) queue: Option<usize>,
    pub(super) metrics: Arc<FlowMetrics>,
}

impl PartialEq for Lingering {
    fn eq(&self, other: &Self) -> bool {
        self.until == other.until
    }
}

impl Eq for Lingering {}

impl PartialOrd for Lingering {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Lingering {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.until.cmp(&other.until)
    }
}

/// The range, over queues, of the R at which they would go on.
pub(super) struct Bounds {
    pub(super) min: SeatSeconds,
    max: SeatSeconds,
    discounted_min: SeatSeconds,
    discounted_max: SeatSeconds,
}

impl Bounds {
    /// Those of one queue.
    pub(super) fn of(s: SeatSeconds, seats_in_use: u64) -> Self {
        let discounted = s - seat_seconds(seats_in_use as f64, SERVICE);
        Bounds { min: s, max: s, discounted_min: discounted, discounted_max: discounted }
    }

    fn join(&mut self, other: &Bounds) {
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.discounted_min = self.discounted_min.min(other.discounted_min);
        self.discounted_max = self.discounted_max.max(other.discounted_max);
    }

    /// Tells them, with the R at which one of the queues went on just now, `s`.
    pub(super) fn write(&self, metrics: &LevelMetrics, r: SeatSeconds, s: SeatSeconds) {
        metrics.dispatch_r.set(to_seconds(r));
        metrics.latest_s.set(to_seconds(s));
        for (gauge, value) in metrics.next_s.iter().zip([self.min, self.max]) {
            gauge.set(to_seconds(value));
        }
        for (gauge, value) in metrics.next_discounted_s.iter().zip([self.discounted_min, self.discounted_max]) {
            gauge.set(to_seconds(value));
        }
    }
}

// === impl State ===

impl State {
    pub(super) fn new(now: Instant) -> Self {
        State {
            mode: Mode::Reject,
            limit: 0,
            quiescing: false,
            queues: HashMap::new(),
            active: 0,
            r: 0,
            synced: now,
            robin: 0,
            enqueues: 0,
            next_id: 0,
            waiting: 0,
            seats_waiting: 0,
            running: HashMap::new(),
            seats_in_use: 0,
            queued_seats_in_use: 0,
            lingering: BinaryHeap::new(),
            demand: Integrator::new(now),
            over_time: OverTime {
                seats: Timing::new(SEAT_UTILIZATION, now),
                waiting: Timing::new(REQUEST_UTILIZATION, now),
                executing: Timing::new(REQUEST_UTILIZATION, now),
                demand: Timing::new(DEMAND, now),
            },
            totals: Totals::default(),
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiting == 0 && self.running.is_empty()
    }

    /// Gives back seats whose time is over, each at its time, and moves R on.
    pub(super) fn sync(&mut self, now: Instant) {
        while let Some(Reverse(next)) = self.lingering.peek()
            && next.until <= now
        {
            let Some(Reverse(due)) = self.lingering.pop() else { break };
            self.advance(due.until);
            self.release(due.seats, due.queue, &due.metrics);
            self.note(due.until);
        }
        self.advance(now);
    }

    fn advance(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.synced);
        self.synced = self.synced.max(now);
        if self.active > 0 {
            let seats = (self.queued_seats_in_use + self.seats_waiting).min(self.limit);
            self.r += seat_seconds(seats as f64 / self.active as f64, elapsed);
        }
    }

    /// Writes down, for what is measured over time, how things stand.
    pub(super) fn note(&mut self, now: Instant) {
        let demand = (self.seats_in_use + self.seats_waiting) as f64;
        self.demand.set(now, demand);
        self.over_time.demand.set(now, demand);
        self.over_time.seats.set(now, self.seats_in_use as f64);
        self.over_time.waiting.set(now, self.waiting as f64);
        self.over_time.executing.set(now, self.running.len() as f64);
    }

    pub(super) fn accommodates(&self, seats: u64) -> bool {
        match self.mode {
            Mode::Exempt => true,
            // Wider than all there is: alone, then.
            _ if seats > self.limit => self.running.is_empty(),
            _ => self.seats_in_use + seats <= self.limit,
        }
    }

    /// The queue of a flow's hand with the least work waiting.
    pub(super) fn choose_queue(&mut self, dealer: Dealer, hash: u64) -> usize {
        let offset = self.enqueues;
        self.enqueues = self.enqueues.wrapping_add(1);
        let work = |queue: usize| self.queues.get(&queue).map_or(0, |queue| queue.waiting_work);
        let hand = dealer.deal(hash);
        // The first of equals.
        hand.from(offset).min_by_key(|queue| work(*queue)).unwrap_or_default()
    }

    /// Changes a queue, which comes into being by that, or is let go of.
    pub(super) fn edit<R>(&mut self, index: usize, change: impl FnOnce(&mut Queue) -> R) -> R {
        let queue = self.queues.entry(index).or_default();
        let before = queue.is_active();
        let outcome = change(queue);
        let after = queue.is_active();
        if !after && queue.seats_in_use == 0 {
            self.queues.remove(&index);
        }
        self.active = self.active + u64::from(after) - u64::from(before);
        outcome
    }

    pub(super) fn enqueue(&mut self, queue: usize, id: u64, asked: Asked, now: Instant, granted: oneshot::Sender<()>) {
        let (r, total_work) = (self.r, asked.work.total());
        let seats = asked.work.max_seats();
        asked.metrics.inqueue_requests.inc();
        asked.metrics.inqueue_seats.add(seats as i64);
        let metrics = asked.metrics.clone();
        let length = self.edit(queue, |queue| {
            if !queue.is_active() {
                queue.next_r = r;
            }
            queue.waiting_work += total_work;
            queue.waiting.push_back(Entry { id, asked, total_work, arrival_r: r, arrived: now, granted });
            queue.bound();
            queue.waiting.len()
        });
        metrics.queue_length.observe(length as f64);
        self.waiting += 1;
        self.seats_waiting += seats;
    }

    /// Takes a request out of its queue.
    pub(super) fn remove(&mut self, queue: usize, id: u64) -> Option<Entry> {
        // A queue's requests are in the order in which they came.
        let at = self.queues.get(&queue)?.waiting.binary_search_by_key(&id, |entry| entry.id).ok()?;
        self.edit(queue, |queue| {
            let entry = queue.waiting.remove(at)?;
            queue.waiting_work -= entry.total_work;
            queue.bound();
            Some(entry)
        })
    }

    /// Lets as many be served as there are seats for.
    pub(super) fn dispatch_all(&mut self, now: Instant, metrics: &LevelMetrics) {
        while self.waiting > 0 && self.seats_in_use < self.limit && self.dispatch(now, metrics) {}
    }

    fn dispatch(&mut self, now: Instant, metrics: &LevelMetrics) -> bool {
        let Some((index, bounds)) = self.next_queue() else { return false };
        let Some(head) = self.queues.get(&index).and_then(|queue| queue.waiting.front()) else { return false };
        let work = head.asked.work;
        if !self.accommodates(work.max_seats()) {
            head.asked.metrics.not_accommodated();
            return false;
        }
        let fitting = work.reshaped(self.limit);
        let taken = self.edit(index, |queue| {
            let entry = queue.waiting.pop_front()?;
            queue.waiting_work -= entry.total_work;
            let s = queue.next_r;
            queue.begin(fitting.max_seats(), entry.total_work);
            queue.bound();
            Some((entry, s))
        });
        let Some((Entry { id, mut asked, arrived, granted, .. }, s)) = taken else { return false };
        // Among equals the queue served last comes last.
        self.robin = index;
        bounds.write(metrics, self.r, s);
        self.waiting -= 1;
        self.seats_waiting -= work.max_seats();
        asked.metrics.inqueue_requests.dec();
        asked.metrics.inqueue_seats.sub(work.max_seats() as i64);
        asked.work = fitting;
        self.run(id, asked, Some(index), arrived, now);
        // If nobody listens any more, `leave` is on its way.
        let _ = granted.send(());
        true
    }

    /// The queue whose first request would end first; the next in turn of equals.
    fn next_queue(&self) -> Option<(usize, Bounds)> {
        let mut bounds: Option<Bounds> = None;
        let mut best: Option<((SeatSeconds, usize), usize)> = None;
        for (index, queue) in &self.queues {
            let Some(head) = queue.waiting.front() else { continue };
            let own = Bounds::of(queue.next_r, queue.seats_in_use);
            match &mut bounds {
                Some(bounds) => bounds.join(&own),
                None => bounds = Some(own),
            }
            // How far it is from the queue served last, going round.
            let turn = index.wrapping_sub(self.robin.wrapping_add(1));
            let key = (queue.next_r + head.total_work, turn);
            if best.is_none_or(|(least, _)| key < least) {
                best = Some((key, *index));
            }
        }
        best.map(|(_, index)| index).zip(bounds)
    }

    /// A request begins to be served; its queue, if it has one, knows already.
    pub(super) fn run(&mut self, id: u64, asked: Asked, queue: Option<usize>, arrived: Instant, now: Instant) {
        let seats = asked.work.max_seats();
        self.seats_in_use += seats;
        if queue.is_some() {
            self.queued_seats_in_use += seats;
        }
        self.totals.dispatched += 1;
        let metrics = &asked.metrics;
        metrics.dispatched.inc();
        metrics.executing_requests.inc();
        metrics.executing_seats.add(seats as i64);
        if self.mode != Mode::Exempt {
            metrics.waited(now.duration_since(arrived).as_secs_f64(), true);
        }
        self.running.insert(id, Running { asked, queue, arrived, started: now });
    }

    pub(super) fn release(&mut self, seats: u64, queue: Option<usize>, metrics: &FlowMetrics) {
        self.seats_in_use -= seats;
        metrics.executing_seats.sub(seats as i64);
        if let Some(queue) = queue {
            self.queued_seats_in_use -= seats;
            self.edit(queue, |queue| queue.seats_in_use -= seats);
        }
    }
}

// === impl Queue ===

impl Queue {
    /// A request of this much work begins to be served.
    pub(super) fn begin(&mut self, seats: u64, total_work: SeatSeconds) {
        self.next_r += total_work;
        self.executing += 1;
        self.seats_in_use += seats;
    }

    pub(super) fn is_active(&self) -> bool {
        self.executing > 0 || !self.waiting.is_empty()
    }

    /// Nothing begins before it came: a queue that cannot use its share does not save it up.
    pub(super) fn bound(&mut self) {
        if let Some(head) = self.waiting.front() {
            self.next_r = self.next_r.max(head.arrival_r);
        }
    }
}
