//! The priority levels: what their objects say, how many seats each has, and how they lend seats to each other
//! (`apiserver/pkg/util/flowcontrol/apf_controller.go`).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use pharos_api::flowcontrol::{CATCH_ALL, EXEMPT, mandatory_level};
use serde_json::Value;

use super::{
    allocation::{Item, divide},
    integrator::Period,
    metrics::{Metrics, ReadVsWrite},
    queueset::{Mode, QueueSet, Signals},
    shuffle::Dealer,
};

/// How often seats are divided anew while there is demand (`borrowingAdjustmentPeriod`).
pub(super) const ADJUSTMENT_PERIOD: Duration = Duration::from_secs(10);

/// What is left of past demand after an [`ADJUSTMENT_PERIOD`]: half in five minutes (`seatDemandSmoothingCoefficient`).
const SMOOTHING: f64 = 0.977;

/// The part of a level's seats that one request may take (`priorityLevelMaxSeatsPercent`).
const MAX_SEATS_PART: f64 = 0.15;

/// The most seats one request takes, whatever the level (`MaximumMutatingSeatsLimit`; lists are from memory here, and
/// cost no more).
const MAX_SEATS: u64 = 10;

/// All priority levels.
pub(super) struct Levels {
    server_limit: u64,
    metrics: Arc<Metrics>,
    signals: Arc<Signals>,
    read_vs_write: Arc<ReadVsWrite>,
    all: ArcSwap<Vec<Arc<QueueSet>>>,
    states: Mutex<BTreeMap<String, State>>,
}

/// What a PriorityLevelConfiguration says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spec {
    mode: Mode,
    shares: f64,
    lendable_percent: f64,
    /// `None`: without a limit.
    borrowing_percent: Option<f64>,
    hand: u64,
}

/// A level as schemas need it.
#[derive(Clone)]
pub(super) struct Level {
    pub(super) set: Arc<QueueSet>,
    pub(super) mode: Mode,
    /// The most seats one request takes.
    pub(super) max_seats: u64,
}

struct State {
    set: Arc<QueueSet>,
    spec: Spec,
    demand: Demand,
    nominal: u64,
    lower: u64,
    upper: u64,
    current: u64,
}

/// The seats that were wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Demand {
    average: f64,
    deviation: f64,
    high_watermark: u64,
    smoothed: f64,
}

impl Demand {
    fn update(&mut self, period: Period) {
        self.high_watermark = period.max.round() as u64;
        if period.seconds <= 0.0 {
            return;
        }
        (self.average, self.deviation) = (period.average, period.deviation);
        let envelope = period.average + period.deviation;
        // A period that is longer, because nobody wanted anything, lets more of the past fade.
        let kept = SMOOTHING.powf(period.seconds / ADJUSTMENT_PERIOD.as_secs_f64());
        self.smoothed = envelope.max(kept * self.smoothed + (1.0 - kept) * envelope);
    }
}

impl Spec {
    /// `None` for what validation would not have let pass.
    pub(super) fn parse(name: &str, spec: &Value) -> Option<Self> {
        let (limited, exempt) = (&spec["limited"], &spec["exempt"]);
        let is_exempt = spec["type"] == "Exempt";
        if is_exempt != (name == EXEMPT) || is_exempt == exempt.is_null() || is_exempt != limited.is_null() {
            return None;
        }
        let level = if is_exempt { exempt } else { limited };
        let queuing = &limited["limitResponse"]["queuing"];
        let number = |field: &str| queuing[field].as_u64().and_then(|number| u32::try_from(number).ok());
        let mode = match limited["limitResponse"]["type"].as_str() {
            _ if is_exempt => Mode::Exempt,
            Some("Reject") if queuing.is_null() => Mode::Reject,
            Some("Queue") => Mode::Queue {
                dealer: Dealer::new(number("queues")?, number("handSize")?)?,
                length: number("queueLengthLimit").filter(|length| *length > 0)? as usize,
            },
            _ => return None,
        };
        Some(Spec {
            mode,
            shares: level["nominalConcurrencyShares"].as_f64().unwrap_or(0.0).max(0.0),
            lendable_percent: level["lendablePercent"].as_f64().unwrap_or(0.0),
            borrowing_percent: level["borrowingLimitPercent"].as_f64(),
            hand: number("handSize").map_or(1, u64::from),
        })
    }
}

impl Levels {
    pub(super) fn new(server_limit: u64, metrics: Arc<Metrics>, signals: Arc<Signals>, read_vs_write: Arc<ReadVsWrite>) -> Self {
        let states = Mutex::default();
        Levels { server_limit, metrics, signals, read_vs_write, all: ArcSwap::default(), states }
    }

    /// Every level there is, by name, those that are to go included.
    pub(super) fn all(&self) -> Arc<Vec<Arc<QueueSet>>> {
        self.all.load_full()
    }

    /// Takes on what the objects say now; the levels everybody needs are there even if their objects are not. A level that
    /// is no more keeps its seats until its requests are done.
    pub(super) fn digest(&self, mut specs: BTreeMap<String, Spec>) -> HashMap<String, Level> {
        for name in [EXEMPT, CATCH_ALL] {
            let mandatory = || mandatory_level(name).and_then(|spec| Spec::parse(name, &spec));
            if !specs.contains_key(name)
                && let Some(spec) = mandatory()
            {
                specs.insert(name.to_owned(), spec);
            }
        }
        let mut states = self.states.lock();
        states.retain(|name, state| {
            let is_wanted = specs.contains_key(name);
            state.set.set_quiescing(!is_wanted);
            let is_kept = is_wanted || !state.set.is_idle();
            if !is_kept {
                self.metrics.forget_level(name);
            }
            is_kept
        });
        let before: Vec<String> = states.keys().cloned().collect();
        for (name, spec) in &specs {
            match states.get_mut(name) {
                Some(state) => state.spec = *spec,
                None => {
                    let set = QueueSet::new(name, self.metrics.level(name), self.signals.clone());
                    let state = State {
                        set: Arc::new(set),
                        spec: *spec,
                        demand: Demand::default(),
                        nominal: 0,
                        lower: 0,
                        upper: 0,
                        current: 0,
                    };
                    states.insert(name.clone(), state);
                }
            }
        }
        self.set_limits(&mut states, &before);
        self.divide_seats(&mut states, true);
        self.all.store(Arc::new(states.values().map(|state| state.set.clone()).collect()));
        let wanted = states.iter().filter(|(name, _)| specs.contains_key(*name));
        wanted.map(|(name, state)| (name.clone(), state.level())).collect()
    }

    /// Divides the server's seats by shares.
    fn set_limits(&self, states: &mut BTreeMap<String, State>, before: &[String]) {
        let all_shares: f64 = states.values().map(|state| state.spec.shares).sum();
        let (mut waiting, mut executing) = (0, 0);
        for (name, state) in states {
            let Spec { mode, shares, lendable_percent, borrowing_percent, .. } = state.spec;
            // Rounded up: the sum may be a little more than there is.
            let nominal = if all_shares > 0.0 { (self.server_limit as f64 * shares / all_shares).ceil() } else { 0.0 };
            let part = |percent: f64| (nominal * percent / 100.0).round();
            let lendable = part(lendable_percent).min(nominal);
            let borrowing = borrowing_percent.map_or(self.server_limit as f64, part);
            state.nominal = nominal as u64;
            state.lower = (nominal - lendable) as u64;
            state.upper = (nominal + borrowing) as u64;
            state.set.metrics.nominal.set(nominal);
            state.set.metrics.lower.set(nominal - lendable);
            state.set.metrics.upper.set(nominal + borrowing);
            if !before.contains(name) {
                state.current = state.nominal - lendable as u64 / 2;
            }
            executing += state.nominal;
            if let Mode::Queue { dealer, length } = mode {
                waiting += dealer.deck() as u64 * length as u64;
            }
        }
        self.read_vs_write.set_limits(waiting, executing);
    }

    /// Divides the seats anew by what was wanted of late. Whether anything was.
    pub(super) fn adjust(&self) -> bool {
        self.divide_seats(&mut self.states.lock(), false)
    }

    /// Whether any level wants, or has wanted since the last adjustment, any seats.
    pub(super) fn are_in_demand(&self) -> bool {
        self.all.load().iter().any(|level| level.is_in_demand())
    }

    fn divide_seats(&self, states: &mut BTreeMap<String, State>, configure: bool) -> bool {
        let mut wanted = false;
        for state in states.values_mut() {
            let period = state.set.take_demand();
            wanted |= period.max > 0.0;
            state.demand.update(period);
        }
        let all = states.values().map(|state| state.nominal).sum::<u64>() as f64;
        let is_exempt = |state: &&State| state.spec.mode == Mode::Exempt;
        let limited = || states.values().filter(|state| !is_exempt(state));
        let left = all - states.values().filter(is_exempt).map(State::at_least).sum::<u64>() as f64;
        let lower = limited().map(|state| state.lower).sum::<u64>() as f64;
        let at_least = limited().map(State::at_least).sum::<u64>() as f64;
        let items: Vec<Item> = limited().map(State::item).collect();
        let mut fair = 0.0;
        let shares: Vec<u64> = if left <= lower {
            limited().map(|state| state.lower).collect()
        } else if left <= at_least {
            let part = (left - lower) / (at_least - lower);
            let share = |state: &State| state.lower + ((state.at_least() - state.lower) as f64 * part).round() as u64;
            limited().map(share).collect()
        } else if let Some((shares, proportion)) = divide(all, &items) {
            fair = proportion;
            shares.into_iter().map(|share| share.round() as u64).collect()
        } else {
            tracing::error!(?items, "seats of priority levels cannot be divided anew");
            limited().map(|state| state.current).collect()
        };
        self.metrics.fair_frac.set(fair);
        let mut shares = shares.into_iter();
        for state in states.values_mut() {
            let is_exempt = state.spec.mode == Mode::Exempt;
            let target = if is_exempt { state.at_least() as f64 } else { state.item().target };
            state.current = if is_exempt { state.at_least() } else { shares.next().unwrap_or(state.current) };
            state.write(target);
            let denominator = if state.current > 0 { state.current } else { (self.server_limit / 10).max(1) };
            state.set.configure(configure.then_some(state.spec.mode), state.current, denominator);
        }
        wanted
    }
}

impl State {
    /// The seats it has to have now.
    fn at_least(&self) -> u64 {
        match self.spec.mode {
            Mode::Exempt => self.lower.max(self.demand.high_watermark),
            _ => self.lower.max(self.nominal.min(self.demand.high_watermark)),
        }
    }

    fn item(&self) -> Item {
        let lower = self.at_least() as f64;
        Item { lower, upper: self.upper as f64, target: lower.max(self.demand.smoothed) }
    }

    fn level(&self) -> Level {
        let max_seats = match self.spec.mode {
            // Not too much of the level, and no more than leaves a seat for each queue of a hand.
            Mode::Queue { .. } => {
                let part = (self.nominal as f64 * MAX_SEATS_PART).ceil() as u64;
                part.min(self.nominal / self.spec.hand).clamp(1, MAX_SEATS)
            }
            Mode::Reject | Mode::Exempt => MAX_SEATS,
        };
        Level { set: self.set.clone(), mode: self.spec.mode, max_seats }
    }

    fn write(&self, target: f64) {
        let metrics = &self.set.metrics;
        metrics.high_watermark.set(self.demand.high_watermark as f64);
        metrics.average.set(self.demand.average);
        metrics.deviation.set(self.demand.deviation);
        metrics.smoothed.set(self.demand.smoothed);
        metrics.target.set(target);
        metrics.current.set(self.current as f64);
    }
}

#[cfg(test)]
mod tests;
