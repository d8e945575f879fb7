//! API priority and fairness: whose requests are served when not all can be.
//!
//! A request from outside is matched by the FlowSchemas ([`schema`]), which name its priority level. A level has seats,
//! a part of the server's by its shares, and lends and borrows some as they are wanted ([`levels`]); a request takes one
//! or more of them, as it is thought to need ([`estimate`]). Where none is free it is rejected, or waits in one of the
//! level's queues, which are served fairly ([`queueset`]). The objects that say all this are followed, and those that
//! every cluster has are kept ([`keep`], [`bootstrap`]).
//!
//! Follows `apiserver/pkg/util/flowcontrol` and `apiserver/pkg/server/filters/priority-and-fairness.go` of 1.37. Requests
//! of this process are not limited: they keep the cluster going, and each of them is a call of a component that has a
//! bounded number of workers.
//!
//! What a request pays where there are free seats: a walk over compiled rules, and a level's lock twice.

mod allocation;
mod bootstrap;
mod debug;
mod dropped;
mod estimate;
mod integrator;
mod keep;
mod levels;
mod metrics;
mod queueset;
mod schema;
mod shuffle;
mod timing;
mod watches;
mod work;

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher as _,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName, HeaderValue};
use pharos_telemetry::Clock;
use prometheus::{IntGauge, Registry};
use tokio::time::Instant;

pub(crate) use keep::{load, maintain, start};
pub(crate) use watches::{Watches, Watching};

use crate::{
    Config,
    api::Api,
    authn::UserInfo,
    request::{Query, RequestInfo},
};
use levels::Levels;
use metrics::{Metrics, OverTime, Phase, ReadVsWrite};
use queueset::{Asked, Mode, Signals, Started};
use schema::{Flows, Schema, Table};

const SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// No request waits longer than this, whatever time it has.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Who is served when.
pub(crate) struct FlowControl {
    table: ArcSwap<Table>,
    levels: Arc<Levels>,
    metrics: Arc<Metrics>,
    read_vs_write: Arc<ReadVsWrite>,
    signals: Arc<Signals>,
    writes: keep::Writes,
    /// Open watches.
    pub(crate) watches: Arc<Watches>,
    /// Flows are dealt hands by a hash nobody outside can foresee.
    hasher: RandomState,
}

/// What a request was taken for: the headers of its answer.
#[derive(Debug, Clone)]
pub(crate) struct Classified {
    schema_uid: HeaderValue,
    level_uid: HeaderValue,
}

impl Classified {
    /// Says so in an answer.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        headers.insert(LEVEL_UID, self.level_uid.clone());
        headers.insert(SCHEMA_UID, self.schema_uid.clone());
    }
}

/// Permission to be served, for as long as it is held.
pub(crate) struct Seat {
    _seat: queueset::Seat,
    _counted: Counted,
}

/// A request that was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rejected {
    /// When it shall be tried again.
    pub(crate) retry_after_seconds: u64,
}

/// Counts a request among reads or writes.
struct Counted {
    read_vs_write: Arc<ReadVsWrite>,
    phase: Phase,
    is_mutating: bool,
}

impl Counted {
    fn new(read_vs_write: &Arc<ReadVsWrite>, phase: Phase, is_mutating: bool) -> Self {
        read_vs_write.add(phase, is_mutating, 1);
        Counted { read_vs_write: read_vs_write.clone(), phase, is_mutating }
    }
}

/// Counts a request that waits.
struct InQueue {
    gauge: IntGauge,
    _counted: Counted,
}

impl Drop for InQueue {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.read_vs_write.add(self.phase, self.is_mutating, -1);
    }
}

/// When a request that came at `arrived` and has `allowed` has waited for long enough (`getRequestWaitContext`).
pub(crate) fn waits_until(arrived: Instant, allowed: Duration) -> Instant {
    arrived + (allowed / 4).min(MAX_WAIT)
}

impl FlowControl {
    /// Knows the objects everybody needs alone, until [`load`].
    pub(crate) fn new(config: &Config, registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Arc::new(Metrics::new(registry)?);
        let signals = Arc::new(Signals::default());
        let read_vs_write = Arc::new(ReadVsWrite::new(Instant::now()));
        let limit = config.max_requests_inflight.saturating_add(config.max_mutating_requests_inflight);
        let levels = Levels::new(limit as u64, metrics.clone(), signals.clone(), read_vs_write.clone());
        let levels = Arc::new(levels);
        registry.register(Box::new(OverTime::new(levels.clone(), read_vs_write.clone())?))?;
        Ok(FlowControl {
            table: ArcSwap::from_pointee(Table::new(&[], |_| None)),
            levels,
            metrics,
            read_vs_write,
            signals,
            writes: keep::Writes::default(),
            watches: Arc::default(),
            hasher: RandomState::new(),
        })
    }

    /// Waits for seats for a request. Whatever comes of it, `classified` is told what it was taken for. Leaves the queue
    /// at once when it is dropped.
    pub(crate) async fn admit(
        &self,
        api: &Api,
        user: &UserInfo,
        info: &Arc<RequestInfo>,
        query: &Query,
        wait_until: Instant,
        classified: impl FnOnce(Classified),
    ) -> Result<Option<Seat>, Rejected> {
        let Some(schema) = self.table.load().classify(user, info).cloned() else { return Ok(None) };
        classified(Classified { schema_uid: schema.uid.clone(), level_uid: schema.level_uid.clone() });
        let is_mutating = !matches!(info.verb.as_str(), "get" | "list" | "watch");
        let level = schema.level.set.clone();
        let (asked, hash) = self.asked(api, &schema, user, info, query);
        let seat = match level.start(asked, hash) {
            Started::Seat(seat) => Some(seat),
            Started::Rejected(reason) => {
                tracing::debug!(flow_schema = &*schema.name, user = &*user.username, ?reason, "a request is turned away");
                None
            }
            Started::Waiting(waiting) => {
                let gauge = self.metrics.in_queue.with_label_values(&[if is_mutating { "mutating" } else { "readOnly" }]);
                gauge.inc();
                let counted = Counted::new(&self.read_vs_write, Phase::Waiting, is_mutating);
                let _in_queue = InQueue { gauge, _counted: counted };
                waiting.seat(wait_until).await
            }
        };
        match seat {
            Some(seat) => {
                let counted = Counted::new(&self.read_vs_write, Phase::Executing, is_mutating);
                Ok(Some(Seat { _seat: seat, _counted: counted }))
            }
            None => Err(Rejected { retry_after_seconds: level.dropped.record(Instant::now()) }),
        }
    }

    fn asked(&self, api: &Api, schema: &Schema, user: &UserInfo, info: &Arc<RequestInfo>, query: &Query) -> (Asked, u64) {
        let metrics = schema.metrics(&self.metrics);
        let work = estimate::work(api, &self.watches, info, query, schema.level.max_seats, metrics);
        metrics.estimated_seats.observe(work.max_seats() as f64);
        let is_told_apart = matches!(schema.level.mode, Mode::Queue { dealer, .. } if dealer.deck() > 1);
        let (by_namespace, hash) = match schema.flows {
            _ if !is_told_apart => (None, 0),
            Flows::One => (None, self.hasher.hash_one(&*schema.name)),
            Flows::ByUser => (Some(false), self.hasher.hash_one((&*schema.name, &*user.username))),
            Flows::ByNamespace => (Some(true), self.hasher.hash_one((&*schema.name, &*info.namespace))),
        };
        let asked = Asked {
            schema: schema.name.clone(),
            metrics: metrics.clone(),
            user: user.username.clone(),
            info: info.clone(),
            by_namespace,
            work,
        };
        (asked, hash)
    }

    /// Says that demand is no longer watched, unless there is some.
    fn falls_asleep(&self) -> bool {
        self.signals.awake.store(false, Ordering::Release);
        // Whoever came just before has not woken anybody.
        !self.levels.are_in_demand() || self.signals.awake.swap(true, Ordering::AcqRel)
    }

    /// The document at a path, if it is one for those who want to see what happens here.
    pub(crate) fn debug(&self, path: &str, query: &Query, clock: &Clock) -> Option<String> {
        debug::document(&self.levels.all(), path, query, clock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_time_may_be_waited() {
        let now = Instant::now();
        for (allowed, want) in [(60, 15), (4, 1), (3600, 60)] {
            assert_eq!(waits_until(now, Duration::from_secs(allowed)) - now, Duration::from_secs(want));
        }
    }
}
