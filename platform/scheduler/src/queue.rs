use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use pharos_client::Key;
use tokio::time::Instant;

use crate::{Scheduler, metrics::Metrics, pod_info::PodInfo};

/// Waits after failed attempts: 1 s, doubling to 10 s (`podInitialBackoffSeconds`, `podMaxBackoffSeconds`).
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// An unschedulable pod is tried again after this time even if no event promised anything.
const UNSCHEDULABLE_FOR: Duration = Duration::from_secs(300);

/// Pods that wait for a node: active ones by priority and age, those that back off, those that nothing has changed for, and gated
/// ones. Bounded by the number of pending pods.
pub(crate) struct Queue {
    pods: HashMap<Key, Queued>,
    active: BTreeSet<(std::cmp::Reverse<i32>, u64, Key)>,
    backoff: BTreeMap<(Instant, u64), Key>,
    unschedulable: BTreeMap<(Instant, u64), Key>,
    gated: BTreeSet<Key>,
    taken: BTreeSet<Key>,
    sequence: u64,
    metrics: Metrics,
}

struct Queued {
    info: Arc<PodInfo>,
    place: Place,
    order: u64,
    attempts: u32,
    since: Instant,
    /// When it may be tried again at the earliest, after a failed attempt.
    not_before: Instant,
    /// Who refused the pod at the last attempt. They are counted in the metric for as long as they are here.
    refused_by: Vec<&'static str>,
}

/// Why an attempt came to nothing.
pub(crate) enum Failed {
    /// No node fits, these plugins said: only an event or time makes another try worthwhile.
    Unschedulable(Vec<&'static str>),
    /// Something went wrong; the pod may fit.
    Error,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Active,
    Backoff(Instant),
    Unschedulable(Instant),
    Gated,
    /// Taken by an attempt; events meanwhile are remembered.
    Taken {
        moved: bool,
    },
}

/// A pod taken for an attempt.
pub(crate) struct Attempt {
    pub(crate) pod: Arc<PodInfo>,
    /// Counting this one.
    pub(crate) attempts: u32,
    /// When the pod first entered the queue.
    pub(crate) since: Instant,
}

impl Queue {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self {
            pods: HashMap::new(),
            active: BTreeSet::new(),
            backoff: BTreeMap::new(),
            unschedulable: BTreeMap::new(),
            gated: BTreeSet::new(),
            taken: BTreeSet::new(),
            sequence: 0,
            metrics,
        }
    }

    /// Adds a pod, or takes note of its new state; a pod whose spec or labels changed is worth another try.
    pub(crate) fn put(&mut self, info: Arc<PodInfo>) {
        let key = info.key.clone();
        let gated = info.is_gated();
        if let Some(queued) = self.pods.get_mut(&key) {
            if queued.info.uid == info.uid {
                let changed =
                    queued.info.pod.spec != info.pod.spec || queued.info.pod.metadata.labels != info.pod.metadata.labels;
                queued.info = info;
                match queued.place {
                    Place::Gated if !gated => self.activate(&key, "PodUpdate"),
                    Place::Unschedulable(_) if changed => self.retry(&key, "PodUpdate"),
                    Place::Taken { .. } if changed => queued.place = Place::Taken { moved: true },
                    _ => {}
                }
                return;
            }
            self.remove(&key);
        }
        self.sequence += 1;
        let now = Instant::now();
        let queued = Queued {
            info,
            place: Place::Gated,
            order: self.sequence,
            attempts: 0,
            since: now,
            not_before: now,
            refused_by: Vec::new(),
        };
        self.pods.insert(key.clone(), queued);
        self.gated.insert(key.clone());
        if gated {
            self.metrics.queue_incoming.with_label_values(&["PodAdd", "unschedulable"]).inc();
            self.report();
        } else {
            self.activate(&key, "PodAdd");
        }
    }

    pub(crate) fn remove(&mut self, key: &Key) {
        self.leave(key);
        self.no_longer_refused(key);
        self.pods.remove(key);
        self.report();
    }

    /// The pod to try next, or `None`.
    pub(crate) fn take(&mut self) -> Option<Attempt> {
        self.wake();
        let (_, _, key) = self.active.pop_first()?;
        self.no_longer_refused(&key);
        let queued = self.pods.get_mut(&key)?;
        queued.place = Place::Taken { moved: false };
        self.taken.insert(key);
        queued.attempts += 1;
        let attempt = Attempt { pod: queued.info.clone(), attempts: queued.attempts, since: queued.since };
        self.report();
        Some(attempt)
    }

    /// Whether a pod that waits for an event wants to be near others, so that a new neighbour may be the event.
    pub(crate) fn any_with_affinity(&self) -> bool {
        self.unschedulable.values().filter_map(|key| self.pods.get(key)).any(|q| q.info.affinity().is_some())
    }

    /// When the next pod's wait ends.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        let backoff = self.backoff.keys().next().map(|(at, _)| *at);
        let unschedulable = self.unschedulable.keys().next().map(|(since, _)| *since + UNSCHEDULABLE_FOR);
        backoff.into_iter().chain(unschedulable).min()
    }

    pub(crate) fn has_active(&self) -> bool {
        !self.active.is_empty()
    }

    /// Puts back a pod whose attempt failed.
    pub(crate) fn put_back(&mut self, key: &Key, uid: &str, why: Failed) {
        let Some(queued) = self.pods.get_mut(key).filter(|q| q.info.uid == uid) else { return };
        let Place::Taken { moved } = queued.place else { return };
        let wait = FIRST_BACKOFF.saturating_mul(1 << (queued.attempts - 1).min(10)).min(LONGEST_BACKOFF);
        queued.not_before = Instant::now() + wait;
        let unschedulable = matches!(why, Failed::Unschedulable(_));
        if let Failed::Unschedulable(plugins) = why {
            for plugin in &plugins {
                self.metrics.unschedulable.with_label_values(&[*plugin, Scheduler::SCHEDULER_NAME]).inc();
            }
            queued.refused_by = plugins;
        }
        if unschedulable && !moved {
            let now = Instant::now();
            queued.place = Place::Unschedulable(now);
            self.taken.remove(key);
            self.unschedulable.insert((now, queued.order), key.clone());
            self.metrics.queue_incoming.with_label_values(&["ScheduleAttemptFailure", "unschedulable"]).inc();
            self.report();
        } else {
            self.retry(&key.clone(), "ScheduleAttemptFailure");
        }
    }

    /// Something changed in the cluster that may make room: every unschedulable pod is tried again.
    pub(crate) fn move_all(&mut self, event: &str) {
        let waiting: Vec<Key> = self.unschedulable.values().cloned().collect();
        for key in waiting {
            self.retry(&key, event);
        }
        for key in &self.taken {
            if let Some(queued) = self.pods.get_mut(key) {
                queued.place = Place::Taken { moved: true };
            }
        }
    }

    /// Something changed for one pod: if it waits for an event, this is one.
    pub(crate) fn reconsider(&mut self, key: &Key, uid: &str, event: &str) {
        let Some(queued) = self.pods.get_mut(key).filter(|q| q.info.uid == uid) else { return };
        match queued.place {
            Place::Unschedulable(_) => self.retry(key, event),
            Place::Taken { .. } => queued.place = Place::Taken { moved: true },
            Place::Active | Place::Backoff(_) | Place::Gated => {}
        }
    }

    /// Moves pods whose wait is over.
    fn wake(&mut self) {
        let now = Instant::now();
        while let Some((&slot, _)) = self.backoff.first_key_value() {
            if slot.0 > now {
                break;
            }
            if let Some(key) = self.backoff.remove(&slot) {
                self.activate(&key, "BackoffComplete");
            }
        }
        let expired: Vec<Key> = self
            .unschedulable
            .iter()
            .take_while(|((since, _), _)| *since + UNSCHEDULABLE_FOR <= now)
            .map(|(_, key)| key.clone())
            .collect();
        for key in expired {
            self.activate(&key, "UnschedulableTimeout");
        }
    }

    /// Into the active queue once its back-off is over.
    fn retry(&mut self, key: &Key, event: &str) {
        let Some(queued) = self.pods.get(key) else { return };
        let (at, order) = (queued.not_before, queued.order);
        if at <= Instant::now() {
            return self.activate(key, event);
        }
        self.leave(key);
        if let Some(queued) = self.pods.get_mut(key) {
            queued.place = Place::Backoff(at);
            self.backoff.insert((at, order), key.clone());
        }
        self.metrics.queue_incoming.with_label_values(&[event, "backoff"]).inc();
        self.report();
    }

    fn activate(&mut self, key: &Key, event: &str) {
        self.leave(key);
        let Some(queued) = self.pods.get_mut(key) else { return };
        queued.place = Place::Active;
        self.active.insert((std::cmp::Reverse(queued.info.priority), queued.order, key.clone()));
        self.metrics.queue_incoming.with_label_values(&[event, "active"]).inc();
        self.report();
    }

    fn leave(&mut self, key: &Key) {
        let Some(queued) = self.pods.get(key) else { return };
        match queued.place {
            Place::Active => {
                self.active.remove(&(std::cmp::Reverse(queued.info.priority), queued.order, key.clone()));
            }
            Place::Backoff(at) => {
                self.backoff.remove(&(at, queued.order));
            }
            Place::Unschedulable(since) => {
                self.unschedulable.remove(&(since, queued.order));
            }
            Place::Gated => {
                self.gated.remove(key);
            }
            Place::Taken { .. } => {
                self.taken.remove(key);
            }
        }
    }

    /// Counts the pod no longer among those that plugins refused: another attempt is under way, or the pod left. As upstream,
    /// it counts until then even if an event has moved it on.
    fn no_longer_refused(&mut self, key: &Key) {
        let Some(queued) = self.pods.get_mut(key) else { return };
        for plugin in queued.refused_by.drain(..) {
            self.metrics.unschedulable.with_label_values(&[plugin, Scheduler::SCHEDULER_NAME]).dec();
        }
    }

    fn report(&self) {
        for (queue, count) in [
            ("active", self.active.len()),
            ("backoff", self.backoff.len()),
            ("unschedulable", self.unschedulable.len()),
            ("gated", self.gated.len()),
        ] {
            self.metrics.pending_pods.with_label_values(&[queue]).set(count as i64);
        }
    }
}

#[cfg(test)]
mod tests;
