use prometheus::Registry;
use serde_json::json;
use tokio::time::Instant;

use super::*;
use crate::{
    flowcontrol::{
        bootstrap,
        metrics::FlowMetrics,
        queueset::{Asked, Seat, Started},
        work::Work,
    },
    request::RequestInfo,
};

struct Fixture {
    levels: Levels,
    flow: Arc<FlowMetrics>,
}

fn fixture(server_limit: u64) -> Fixture {
    let metrics = Arc::new(Metrics::new(&Registry::new()).unwrap());
    let flow = Arc::new(metrics.flow("l", "s"));
    let read_vs_write = Arc::new(ReadVsWrite::new(Instant::now()));
    Fixture { levels: Levels::new(server_limit, metrics, Arc::default(), read_vs_write), flow }
}

fn specs(objects: &[Value]) -> BTreeMap<String, Spec> {
    let spec = |object: &Value| {
        let name = object["metadata"]["name"].as_str().unwrap();
        (name.to_owned(), Spec::parse(name, &object["spec"]).unwrap_or_else(|| panic!("{object}")))
    };
    objects.iter().map(spec).collect()
}

impl Fixture {
    /// Nominal, lower, upper and current limit.
    fn limits(&self, name: &str) -> [u64; 4] {
        let states = self.levels.states.lock();
        let state = &states[name];
        [state.nominal, state.lower, state.upper, state.current]
    }

    fn start(&self, level: &Level) -> Option<Seat> {
        let asked = Asked {
            schema: "s".into(),
            metrics: self.flow.clone(),
            user: String::new(),
            info: Arc::new(RequestInfo::default()),
            by_namespace: None,
            work: Work::seats(1),
        };
        match level.set.start(asked, 0) {
            Started::Seat(seat) => Some(seat),
            Started::Waiting(_) | Started::Rejected(_) => None,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn seats_are_divided_by_shares() {
    let fixture = fixture(600);
    let levels = fixture.levels.digest(specs(&bootstrap::levels()));
    // What upstream documents for a server of 600.
    for (name, nominal, lower) in [
        ("leader-election", 25, 25),
        ("node-high", 98, 73),
        ("system", 74, 50),
        ("workload-high", 98, 49),
        ("workload-low", 245, 24),
        ("global-default", 49, 24),
        ("catch-all", 13, 13),
        ("exempt", 0, 0),
    ] {
        let [got, at_least, at_most, _] = fixture.limits(name);
        assert_eq!((got, at_least, at_most), (nominal, lower, nominal + 600), "{name}");
    }
    assert_eq!((levels["workload-low"].max_seats, levels["leader-election"].max_seats), (10, 4));
}

#[tokio::test(start_paused = true)]
async fn idle_levels_lend_to_busy_ones() {
    let fixture = fixture(600);
    let levels = fixture.levels.digest(specs(&bootstrap::levels()));
    assert!(!fixture.levels.adjust(), "nobody wants anything");
    let busy: Vec<Seat> = (0..40).filter_map(|_| fixture.start(&levels["global-default"])).collect();
    assert_eq!(busy.len(), 40);
    tokio::time::advance(ADJUSTMENT_PERIOD).await;
    assert!(fixture.levels.are_in_demand() && fixture.levels.adjust());
    let [nominal, _, _, current] = fixture.limits("global-default");
    assert!(current > nominal, "{current} of {nominal}");
    let all: u64 = fixture.levels.states.lock().values().map(|state| state.current).sum();
    let of = |limits: fn(&State) -> u64| fixture.levels.states.lock().values().map(limits).sum::<u64>();
    assert!(all.abs_diff(of(|state| state.nominal)) <= 8, "no seat is made or lost but by rounding: {all}");
    assert!(fixture.levels.states.lock().values().all(|state| state.current >= state.lower));
    drop(busy);
    fixture.levels.adjust();
    tokio::time::advance(ADJUSTMENT_PERIOD).await;
    assert!(!fixture.levels.adjust(), "it is quiet again");
    assert!(!fixture.levels.are_in_demand());
}

#[tokio::test(start_paused = true)]
async fn a_level_goes_when_its_requests_are_done() {
    let fixture = fixture(100);
    let mut objects = bootstrap::levels();
    objects.push(json!({"metadata": {"name": "own"}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": 10, "limitResponse": {"type": "Reject"}}}}));
    let levels = fixture.levels.digest(specs(&objects));
    let seat = fixture.start(&levels["own"]).unwrap();
    objects.pop();
    let levels = fixture.levels.digest(specs(&objects));
    assert!(!levels.contains_key("own"), "nobody is sent there any more");
    assert!(fixture.levels.states.lock().contains_key("own"), "but somebody is there");
    drop(seat);
    tokio::time::timeout(Duration::from_secs(1), fixture.levels.signals.drained.notified()).await.unwrap();
    fixture.levels.digest(specs(&objects));
    assert!(!fixture.levels.states.lock().contains_key("own"));
}

#[test]
fn broken_specs_are_passed_over() {
    for (name, spec) in [
        ("a", json!({"type": "Exempt", "exempt": {}})),
        ("exempt", json!({"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}})),
        ("a", json!({"type": "Limited"})),
        ("a", json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue"}}})),
        (
            "a",
            json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue",
            "queuing": {"queues": 1, "handSize": 2, "queueLengthLimit": 1}}}}),
        ),
    ] {
        assert_eq!(Spec::parse(name, &spec), None, "{name} {spec}");
    }
}
