//! A bounded run of events that watchers hold positions in.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::{CacheConfig, WatchEvent};
use crate::Revision;

/// A full ring grows while its oldest event is younger, as upstream (`watch_cache.go`, `eventFreshDuration`): a client
/// then has a minute and more to come back before it must list anew.
const FRESH: Duration = Duration::from_secs(75);

/// Events in order. Positions count up for ever; [`Ring::start`] is that of the oldest held.
#[derive(Default)]
pub(super) struct Ring {
    events: VecDeque<Arc<WatchEvent>>,
    start: u64,
    /// Watchers that read this ring.
    pub(super) watchers: usize,
    /// Woken when there are new events.
    pub(super) notify: Arc<Notify>,
    dirty: bool,
}

/// How many events the main ring holds, and of what age and size they are.
pub(super) struct Sizing {
    capacity: usize,
    min: usize,
    max: usize,
    max_bytes: usize,
    bytes: usize,
    /// When each event came, oldest first; as long as the ring.
    arrivals: VecDeque<Instant>,
}

impl Ring {
    pub(super) fn push(&mut self, event: Arc<WatchEvent>) {
        self.events.push_back(event);
        self.dirty = true;
    }

    /// Lets go of the oldest event.
    pub(super) fn pop(&mut self) -> Option<Arc<WatchEvent>> {
        let event = self.events.pop_front()?;
        self.start += 1;
        Some(event)
    }

    /// Lets go of events up to a revision.
    pub(super) fn pop_through(&mut self, revision: Revision) {
        while self.events.front().is_some_and(|event| event.revision <= revision) {
            self.pop();
        }
    }

    /// Lets go of all, and of the position after them: whoever was caught up has lagged too.
    pub(super) fn forget(&mut self) {
        self.start += self.events.len() as u64 + 1;
        self.events.clear();
    }

    /// The position the next event will have.
    pub(super) fn end(&self) -> u64 {
        self.start + self.events.len() as u64
    }

    /// The position of the first event after a revision.
    pub(super) fn after(&self, revision: Revision) -> u64 {
        self.start + self.events.partition_point(|event| event.revision <= revision) as u64
    }

    /// The events from a position on, `None` if some are gone.
    pub(super) fn from(&self, position: u64) -> Option<impl Iterator<Item = &Arc<WatchEvent>>> {
        let skip = usize::try_from(position.checked_sub(self.start)?).ok()?;
        Some(self.events.range(skip.min(self.events.len())..))
    }

    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    pub(super) fn last_revision(&self) -> Option<Revision> {
        self.events.back().map(|event| event.revision)
    }

    pub(super) fn wake(&mut self) {
        self.dirty = false;
        self.notify.notify_waiters();
    }

    pub(super) fn wake_if_dirty(&mut self) {
        if self.dirty {
            self.wake();
        }
    }
}

impl Sizing {
    pub(super) fn new(config: &CacheConfig) -> Self {
        let min = config.min_events.max(1);
        Self {
            capacity: min,
            min,
            max: config.max_events.max(min),
            max_bytes: config.max_event_bytes,
            bytes: 0,
            arrivals: VecDeque::new(),
        }
    }

    /// Counts an event about to be pushed, and grows or shrinks for it.
    pub(super) fn admit(&mut self, event: &WatchEvent, now: Instant, ring: &Ring) {
        if ring.len() >= self.capacity {
            let age = |at: usize| self.arrivals.get(at).map_or(Duration::MAX, |arrival| now - *arrival);
            if age(0) < FRESH && self.capacity < self.max {
                self.capacity = (self.capacity * 2).min(self.max);
            } else if age(self.arrivals.len() * 3 / 4) > FRESH && self.capacity > self.min {
                self.capacity = (self.capacity / 2).max(self.min);
            }
        }
        self.bytes += weight(event);
        self.arrivals.push_back(now);
    }

    /// Counts an event out.
    pub(super) fn released(&mut self, event: &WatchEvent) {
        self.bytes -= weight(event);
        self.arrivals.pop_front();
    }

    pub(super) fn emptied(&mut self) {
        self.bytes = 0;
        self.arrivals.clear();
    }

    /// Whether the ring holds more than it should.
    pub(super) fn is_over(&self, ring: &Ring) -> bool {
        ring.len() > self.capacity || (self.bytes > self.max_bytes && ring.len() > self.min)
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }
}

/// The bytes an event may be the last to hold.
fn weight(event: &WatchEvent) -> usize {
    event.object.bytes().len()
}
