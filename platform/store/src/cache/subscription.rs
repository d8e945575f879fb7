//! One watcher of a cache.

use std::sync::Arc;

use pharos_api::object::Object;
use tokio::sync::Notify;

use super::{Scope, Shared, Snapshot, State, WatchEvent};
use crate::{Error, EventType, Result, Revision};

/// Events taken out of the ring under one lock.
const CHUNK: usize = 64;

/// Where a watch starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the events after this revision.
    Revision(Revision),
    /// With what comes next.
    Now,
    /// With the objects there are, as additions, then [`Item::Synced`], then what comes next.
    Initial,
}

/// What a watch gives.
#[derive(Debug, Clone)]
pub enum Item {
    /// A change, or an object there already was.
    Event(Arc<WatchEvent>),
    /// The objects there already were have all been given; they were at this revision.
    Synced(Revision),
}

/// A watch: a position among a cache's events. Dropping it frees it at once.
pub struct Subscription {
    shared: Arc<Shared>,
    scope: Scope,
    key_prefix: String,
    notify: Arc<Notify>,
    /// Given before anything from the ring.
    backlog: Backlog,
    /// Position in the scope's ring of the next event to take.
    cursor: u64,
    /// Events up to here are not wanted: they were in the initial state or before the start.
    after: Revision,
    /// Revision of the last event given.
    seen: Revision,
}

/// What was gathered for a watcher but not yet given.
enum Backlog {
    Empty,
    Initial(std::vec::IntoIter<(Arc<str>, Arc<Object>)>, Revision),
    Events(std::vec::IntoIter<Arc<WatchEvent>>),
}

impl Subscription {
    pub(super) fn new(shared: &Arc<Shared>, scope: Scope, start: Start) -> Result<Self> {
        if matches!(scope, Scope::Field(_)) && shared.config.trigger.is_none() {
            return Err(Error::Invalid(format!("{} has no trigger field", shared.config.resource)));
        }
        let key_prefix = scope.key_prefix(&shared.prefix);
        let mut state = shared.state.write();
        if state.closed {
            return Err(Error::Closed);
        }
        let current = shared.revision(&state);
        let (after, events) = match start {
            Start::Revision(revision) if revision < state.floor => {
                return Err(Error::Compacted { requested: revision, oldest: state.floor });
            }
            Start::Revision(revision) => (revision, state.missed(shared, &scope, &key_prefix, revision)),
            Start::Now | Start::Initial => (current, Vec::new()),
        };
        let objects = matches!(start, Start::Initial).then(|| state.objects.clone());
        let ring = state.ring_for(&scope, &key_prefix);
        ring.watchers += 1;
        let (cursor, notify) = (ring.end(), ring.notify.clone());
        drop(state);
        shared.metrics.watchers.inc();

        let backlog = match objects {
            Some(objects) => {
                let trigger = shared.config.trigger.clone();
                let snapshot = Snapshot { prefix: shared.prefix.clone(), trigger, revision: current, objects };
                let objects = snapshot.iter(&scope, None).map(|(key, object)| (key.clone(), object.clone()));
                Backlog::Initial(objects.collect::<Vec<_>>().into_iter(), current)
            }
            None if events.is_empty() => Backlog::Empty,
            None => Backlog::Events(events.into_iter()),
        };
        Ok(Self { shared: shared.clone(), scope, key_prefix, notify, backlog, cursor, after, seen: after })
    }

    /// The next item, once there is one. Cancel-safe.
    ///
    /// # Errors
    ///
    /// Then the watch is over: [`Error::Lagged`] if events were let go of before they were read (410 for the client),
    /// [`Error::Closed`] if the cache was closed, once all events before that were given.
    pub async fn next(&mut self) -> Result<Item> {
        loop {
            let notify = self.notify.clone();
            let notified = notify.notified();
            tokio::pin!(notified);
            notified.as_mut().enable(); // Before looking, so that nothing comes unnoticed in between.
            if let Some(item) = self.try_next()? {
                return Ok(item);
            }
            notified.await;
        }
    }

    /// The next item if it is there already: lets a writer fill its buffer before it flushes.
    ///
    /// # Errors
    ///
    /// As for [`next`](Subscription::next).
    pub fn try_next(&mut self) -> Result<Option<Item>> {
        loop {
            let item = match &mut self.backlog {
                Backlog::Initial(objects, revision) => match objects.next() {
                    Some((key, object)) => Some(Item::Event(Arc::new(WatchEvent {
                        kind: EventType::Added,
                        revision: object.revision(),
                        key,
                        object,
                        previous: None,
                    }))),
                    None => Some(Item::Synced(*revision)),
                },
                Backlog::Events(events) => events.next().map(Item::Event),
                Backlog::Empty => None,
            };
            match item {
                Some(Item::Event(event)) => {
                    self.seen = self.seen.max(event.revision);
                    return Ok(Some(Item::Event(event)));
                }
                Some(Item::Synced(revision)) => {
                    self.backlog = Backlog::Empty;
                    return Ok(Some(Item::Synced(revision)));
                }
                None if self.take_chunk()? => {}
                None => return Ok(None),
            }
        }
    }

    /// A revision a client may resume from without losing anything: that of the cache once all events were given, or
    /// that of the last event. For bookmarks.
    pub fn bookmark(&self) -> Revision {
        if !matches!(self.backlog, Backlog::Empty) {
            // Within an initial state no revision can be resumed from; within events the last given one may be torn.
            return match &self.backlog {
                Backlog::Events(events) if !events.as_slice().is_empty() => self.seen.saturating_sub(1).max(self.after),
                Backlog::Initial(..) => 0,
                _ => self.caught_up(),
            };
        }
        self.caught_up()
    }

    /// Which objects it is about.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    fn caught_up(&self) -> Revision {
        let state = self.shared.state.read();
        match state.ring(&self.scope, &self.key_prefix) {
            Some(ring) if ring.end() == self.cursor => self.shared.revision(&state).max(self.after),
            _ => self.seen.saturating_sub(1).max(self.after),
        }
    }

    /// Takes the next events out of the ring; false if there are none.
    fn take_chunk(&mut self) -> Result<bool> {
        self.backlog = Backlog::Empty;
        let state = self.shared.state.read();
        let events = state.ring(&self.scope, &self.key_prefix).and_then(|ring| ring.from(self.cursor));
        let Some(events) = events else {
            self.shared.metrics.lagged.inc();
            return Err(Error::Lagged { revision: self.seen });
        };
        let mut chunk = Vec::new();
        for event in events.take(CHUNK) {
            self.cursor += 1;
            if event.revision > self.after {
                chunk.push(event.clone());
            }
        }
        let any = !chunk.is_empty();
        // What happened before the end is told before it.
        if !any && state.closed {
            return Err(Error::Closed);
        }
        self.backlog = Backlog::Events(chunk.into_iter());
        Ok(any)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.shared.state.write().leave(&self.scope, &self.key_prefix);
        self.shared.metrics.watchers.dec();
    }
}

impl State {
    /// Events of a scope that are in the main ring and after a revision.
    fn missed(&self, shared: &Shared, scope: &Scope, key_prefix: &str, after: Revision) -> Vec<Arc<WatchEvent>> {
        let trigger = shared.config.trigger.as_deref();
        let concerns = |event: &&Arc<WatchEvent>| {
            scope.holds(key_prefix, trigger, &event.key, &event.object)
                || event.previous.as_ref().is_some_and(|old| scope.holds(key_prefix, trigger, &event.key, old))
        };
        let events = self.ring.from(self.ring.after(after)).into_iter().flatten();
        events.filter(concerns).cloned().collect()
    }

    /// Wakes the watchers of rings that got events.
    pub(super) fn wake_dirty(&mut self) {
        self.rings().for_each(|ring| ring.wake_if_dirty());
    }
}
