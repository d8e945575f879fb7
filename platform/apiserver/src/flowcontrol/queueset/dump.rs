//! A priority level at a moment, for people.

use std::{collections::HashMap, sync::Arc};

use tokio::time::Instant;

use super::{Asked, Mode, QueueSet, state::Totals};
use crate::{
    flowcontrol::work::{SeatSeconds, Work},
    request::RequestInfo,
};

/// A level.
pub(in crate::flowcontrol) struct Dump {
    pub(in crate::flowcontrol) is_idle: bool,
    pub(in crate::flowcontrol) is_quiescing: bool,
    pub(in crate::flowcontrol) waiting: usize,
    pub(in crate::flowcontrol) executing: usize,
    pub(in crate::flowcontrol) totals: Totals,
    /// How many queues there are; only those in use are in `queues`.
    pub(in crate::flowcontrol) deck: usize,
    /// By index.
    pub(in crate::flowcontrol) queues: Vec<(usize, QueueDump)>,
    /// Served without a queue.
    pub(in crate::flowcontrol) queueless: Vec<RequestDump>,
}

/// A queue in a [`Dump`].
#[derive(Default)]
pub(in crate::flowcontrol) struct QueueDump {
    pub(in crate::flowcontrol) waiting: Vec<RequestDump>,
    pub(in crate::flowcontrol) executing: Vec<RequestDump>,
    pub(in crate::flowcontrol) seats_in_use: u64,
    pub(in crate::flowcontrol) next_r: SeatSeconds,
    pub(in crate::flowcontrol) waiting_work: SeatSeconds,
}

/// A request in a [`Dump`].
pub(in crate::flowcontrol) struct RequestDump {
    pub(in crate::flowcontrol) schema: Arc<str>,
    pub(in crate::flowcontrol) user: String,
    pub(in crate::flowcontrol) info: Arc<RequestInfo>,
    pub(in crate::flowcontrol) by_namespace: Option<bool>,
    pub(in crate::flowcontrol) work: Work,
    pub(in crate::flowcontrol) arrived: Instant,
    pub(in crate::flowcontrol) started: Option<Instant>,
}

impl RequestDump {
    fn of(asked: &Asked, arrived: Instant, started: Option<Instant>) -> Self {
        RequestDump {
            schema: asked.schema.clone(),
            user: asked.user.clone(),
            info: asked.info.clone(),
            by_namespace: asked.by_namespace,
            work: asked.work,
            arrived,
            started,
        }
    }
}

impl QueueSet {
    /// The level now.
    pub(in crate::flowcontrol) fn dump(&self) -> Dump {
        let (state, _) = self.lock();
        let mut queues: HashMap<usize, QueueDump> = HashMap::new();
        for (index, queue) in &state.queues {
            let waiting = queue.waiting.iter().map(|entry| RequestDump::of(&entry.asked, entry.arrived, None));
            queues.insert(
                *index,
                QueueDump {
                    waiting: waiting.collect(),
                    executing: Vec::new(),
                    seats_in_use: queue.seats_in_use,
                    next_r: queue.next_r,
                    waiting_work: queue.waiting_work,
                },
            );
        }
        let mut queueless = Vec::new();
        for running in state.running.values() {
            let request = RequestDump::of(&running.asked, running.arrived, Some(running.started));
            match running.queue {
                Some(queue) => queues.entry(queue).or_default().executing.push(request),
                None => queueless.push(request),
            }
        }
        let mut queues: Vec<_> = queues.into_iter().collect();
        queues.sort_by_key(|(index, _)| *index);
        Dump {
            is_idle: state.is_idle(),
            is_quiescing: state.quiescing,
            waiting: state.waiting,
            executing: state.running.len(),
            totals: state.totals,
            deck: match state.mode {
                Mode::Queue { dealer, .. } => dealer.deck(),
                Mode::Reject | Mode::Exempt => 0,
            },
            queues,
            queueless,
        }
    }
}
