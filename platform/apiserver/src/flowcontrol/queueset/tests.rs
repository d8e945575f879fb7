use std::{collections::HashMap, pin::Pin, time::Duration};

use futures::FutureExt as _;
use prometheus::Registry;

use super::*;
use crate::flowcontrol::metrics::Metrics;

struct Fixture {
    set: Arc<QueueSet>,
    flow: Arc<FlowMetrics>,
    registry: Registry,
}

/// Requests that wait, each with a name.
type Waiters = Vec<(char, Pin<Box<dyn Future<Output = Option<Seat>>>>)>;

fn fixture(mode: Mode, limit: u64) -> Fixture {
    let registry = Registry::new();
    let metrics = Metrics::new(&registry).unwrap();
    let flow = Arc::new(metrics.flow("l", "s"));
    let set = Arc::new(QueueSet::new("l", metrics.level("l"), Arc::default()));
    set.configure(Some(mode), limit, limit);
    Fixture { set, flow, registry }
}

/// Queues of one card a hand: a flow's queue is its hash's remainder.
fn queues(queues: u32, length: usize) -> Mode {
    Mode::Queue { dealer: Dealer::new(queues, 1).unwrap(), length }
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

impl Fixture {
    fn start(&self, hash: u64, work: Work) -> Started {
        let asked = Asked {
            schema: "s".into(),
            metrics: self.flow.clone(),
            user: "u".into(),
            info: Arc::default(),
            by_namespace: Some(false),
            work,
        };
        self.set.start(asked, hash)
    }

    fn seat(&self, hash: u64, seats: u64) -> Option<Seat> {
        match self.start(hash, Work::seats(seats)) {
            Started::Seat(seat) => Some(seat),
            Started::Waiting(_) | Started::Rejected(_) => None,
        }
    }

    fn waiting(&self, hash: u64, seats: u64) -> Waiting {
        match self.start(hash, Work::seats(seats)) {
            Started::Waiting(waiting) => waiting,
            Started::Seat(_) => panic!("there was a seat"),
            Started::Rejected(reason) => panic!("{reason:?}"),
        }
    }

    fn rejection(&self, hash: u64) -> Option<Reason> {
        match self.start(hash, Work::seats(1)) {
            Started::Rejected(reason) => Some(reason),
            Started::Seat(_) | Started::Waiting(_) => None,
        }
    }

    /// The sum of a family's counters or gauges.
    fn measured(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let found = families.iter().filter(|family| family.name() == format!("apiserver_flowcontrol_{name}"));
        let metrics = found.flat_map(|family| family.get_metric());
        metrics.map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value()).sum()
    }

    /// That nothing is left of any request.
    fn assert_clean(&self) {
        let state = self.set.state.lock();
        assert_eq!((state.waiting, state.seats_waiting, state.seats_in_use), (0, 0, 0));
        assert!(state.running.is_empty() && state.queues.is_empty() && state.is_idle());
        drop(state);
        for name in ["current_inqueue_requests", "current_inqueue_seats", "current_executing_requests", "current_executing_seats"]
        {
            assert_eq!(self.measured(name), 0.0, "{name}");
        }
    }
}

/// Takes out the one request that has been given seats.
fn granted(waiters: &mut Waiters) -> (char, Seat) {
    for at in 0..waiters.len() {
        if let Some(Some(seat)) = waiters[at].1.as_mut().now_or_never() {
            return (waiters.remove(at).0, seat);
        }
    }
    panic!("nobody is served");
}

#[tokio::test(start_paused = true)]
async fn those_who_may_not_wait_are_rejected() {
    let fixture = fixture(Mode::Reject, 2);
    let (first, second) = (fixture.seat(0, 1).unwrap(), fixture.seat(0, 1).unwrap());
    assert_eq!(fixture.rejection(0), Some(Reason::ConcurrencyLimit));
    drop(first);
    assert!(fixture.seat(0, 2).is_none(), "one seat is free");
    assert!(fixture.seat(0, 5).is_none(), "who is wider than all there is has to be alone");
    drop(second);
    let wide = fixture.seat(0, 5).unwrap();
    assert_eq!(fixture.rejection(0), Some(Reason::ConcurrencyLimit));
    drop(wide);
    fixture.assert_clean();
    assert_eq!(fixture.measured("rejected_requests_total"), 4.0);
    assert_eq!(fixture.measured("dispatched_requests_total"), 3.0);
}

#[tokio::test(start_paused = true)]
async fn the_exempt_are_never_limited() {
    let fixture = fixture(Mode::Exempt, 0);
    let seats: Vec<Seat> = (0..100).filter_map(|_| fixture.seat(0, 10)).collect();
    assert_eq!(seats.len(), 100);
    drop(seats);
    fixture.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_queue_has_an_end() {
    let fixture = fixture(queues(2, 2), 1);
    let seat = fixture.seat(0, 1).unwrap();
    let (first, second) = (fixture.waiting(0, 1), fixture.waiting(0, 1));
    assert_eq!(fixture.rejection(0), Some(Reason::QueueFull));
    assert_eq!(fixture.rejection(1), None, "another queue has room");
    drop(seat);
    let seat = first.seat(far()).now_or_never().flatten().unwrap();
    assert_eq!(fixture.measured("current_inqueue_requests"), 1.0);
    drop(seat);
    drop(second.seat(far()).now_or_never().flatten().unwrap());
    fixture.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_or_leaves_is_out_of_the_queue_at_once() {
    let fixture = fixture(queues(1, 10), 1);
    let seat = fixture.seat(0, 1).unwrap();
    let (late, left, last) = (fixture.waiting(0, 1), fixture.waiting(0, 1), fixture.waiting(0, 1));
    assert!(late.seat(Instant::now() + Duration::from_secs(15)).await.is_none());
    assert_eq!(fixture.set.dump().waiting, 2);
    drop(left);
    let dump = fixture.set.dump();
    assert_eq!((dump.waiting, dump.totals.timed_out, dump.totals.cancelled), (1, 1, 1));
    drop(seat);
    drop(last.seat(far()).await.unwrap());
    fixture.assert_clean();
    // Whoever leaves when it has just been given seats gives them back.
    let seat = fixture.seat(0, 1).unwrap();
    let unlucky = fixture.waiting(0, 1);
    drop(seat);
    drop(unlucky);
    fixture.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn flows_take_turns() {
    let fixture = fixture(queues(2, 100), 1);
    let mut seat = fixture.seat(0, 1).unwrap();
    let mut waiters: Waiters = Vec::new();
    for (name, hash, count) in [('a', 0, 20), ('b', 1, 5)] {
        for _ in 0..count {
            waiters.push((name, Box::pin(fixture.waiting(hash, 1).seat(far()))));
        }
    }
    let mut order = String::new();
    for _ in 0..12 {
        tokio::time::advance(SERVICE).await;
        drop(seat);
        let (name, next) = granted(&mut waiters);
        order.push(name);
        seat = next;
    }
    assert_eq!(order, "bababababaaa", "a flood does not hold up the other");
    drop((seat, waiters));
    fixture.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn flows_get_the_same_time_not_the_same_number() {
    let fixture = fixture(queues(2, 1000), 1);
    let mut current = ('a', fixture.seat(0, 1).unwrap());
    let mut waiters: Waiters = Vec::new();
    for (name, hash) in [('a', 0), ('b', 1)] {
        for _ in 0..200 {
            waiters.push((name, Box::pin(fixture.waiting(hash, 1).seat(far()))));
        }
    }
    let mut served: HashMap<char, u32> = HashMap::new();
    for _ in 0..66 {
        let (name, seat) = current;
        tokio::time::advance(if name == 'a' { SERVICE * 10 } else { SERVICE }).await;
        drop(seat);
        current = granted(&mut waiters);
        *served.entry(current.0).or_default() += 1;
    }
    assert!(served[&'b'] >= 8 * served[&'a'], "{served:?}");
    drop((current, waiters));
    fixture.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_wide_request_waits_for_its_seats_and_those_behind_it_for_it() {
    let fixture = fixture(queues(1, 10), 3);
    let (first, second) = (fixture.seat(0, 1).unwrap(), fixture.seat(0, 1).unwrap());
    let (wide, narrow) = (fixture.waiting(0, 3), fixture.waiting(0, 1));
    drop(first);
    assert_eq!(fixture.set.dump().executing, 1, "two are free, but it wants three");
    assert!(fixture.measured("request_dispatch_no_accommodation_total") > 0.0);
    drop(second);
    let wide = wide.seat(far()).now_or_never().flatten().unwrap();
    let other = fixture.waiting(0, 3);
    drop(wide);
    let narrow = narrow.seat(far()).now_or_never().flatten().unwrap();
    let behind = fixture.waiting(0, 1);
    drop(other);
    assert!(behind.seat(far()).now_or_never().flatten().is_some(), "what it waited for has left");
    drop(narrow);
    fixture.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn seats_linger_while_watchers_are_told() {
    let fixture = fixture(queues(1, 10), 2);
    let latency = Duration::from_millis(5);
    let work = Work { final_seats: 2, additional_latency: latency, ..Work::seats(1) };
    let Started::Seat(seat) = fixture.start(0, work) else { panic!("there are seats") };
    let next = fixture.waiting(0, 1);
    tokio::time::advance(Duration::from_millis(1)).await;
    drop(seat);
    tokio::time::timeout(Duration::from_millis(1), fixture.set.signals.lingering.notified()).await.unwrap();
    assert_eq!(fixture.set.dump().executing, 0, "nobody waits for it any more");
    assert_eq!(fixture.set.tick(), Some(Instant::now() + latency));
    let next = next.seat(far());
    tokio::pin!(next);
    assert!(next.as_mut().now_or_never().is_none());
    tokio::time::advance(latency).await;
    assert_eq!(fixture.set.tick(), None);
    assert!(next.as_mut().now_or_never().flatten().is_some());
    fixture.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn more_seats_are_used_at_once() {
    let fixture = fixture(queues(4, 10), 1);
    let seat = fixture.seat(0, 1).unwrap();
    let mut waiters: Waiters = (0..3).map(|hash| ('w', Box::pin(fixture.waiting(hash, 1).seat(far())) as _)).collect();
    fixture.set.configure(None, 3, 3);
    let more = [granted(&mut waiters), granted(&mut waiters)];
    assert_eq!((fixture.set.dump().executing, waiters.len()), (3, 1));
    // Those who wait when queues are done away with are still served.
    fixture.set.configure(Some(Mode::Reject), 3, 3);
    drop(seat);
    drop(granted(&mut waiters));
    drop(more);
    fixture.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn demand_is_what_is_held_and_waited_for() {
    let fixture = fixture(queues(1, 10), 1);
    let seat = fixture.seat(0, 1).unwrap();
    let waiting = fixture.waiting(0, 1);
    tokio::time::advance(Duration::from_secs(5)).await;
    drop(waiting);
    tokio::time::advance(Duration::from_secs(5)).await;
    drop(seat);
    let demand = fixture.set.take_demand();
    assert_eq!((demand.seconds, demand.average, demand.max), (10.0, 1.5, 2.0));
    assert!(!fixture.set.is_in_demand());
}
