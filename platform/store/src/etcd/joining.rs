//! A sink that joins a feed under way: events wait until its state has been read, then it gets what followed.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::{Entry, Event, Revision, Sink};

/// Events that wait at most; with more of them the state is read again.
const MAX_WAITING: usize = 16_384;

pub(super) struct Joining {
    sink: Arc<dyn Sink>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The revision of the state it got.
    reset_at: Option<Revision>,
    waiting: Vec<Arc<Event>>,
    /// More events came than may wait: those kept are not all.
    overflowed: bool,
    /// Nobody waits for it any more.
    given_up: bool,
}

impl Joining {
    pub(super) fn new(sink: Arc<dyn Sink>) -> Self {
        Self { sink, state: Mutex::default() }
    }

    /// Begins anew to collect what follows a state that is about to be read.
    pub(super) fn begin(&self) {
        let mut state = self.state.lock();
        state.waiting.clear();
        state.overflowed = false;
    }

    /// Gives the state, and what came since. False: too much came, read again.
    pub(super) fn complete(&self, revision: Revision, entries: Vec<Entry>) -> bool {
        let mut state = self.state.lock();
        if state.reset_at.is_some() {
            return true; // The feed itself has begun anew meanwhile.
        }
        if state.overflowed {
            return false;
        }
        state.reset(&*self.sink, revision, entries);
        true
    }

    /// Lets go of it: its state could not be read.
    pub(super) fn give_up(&self) {
        self.state.lock().given_up = true;
    }
}

impl State {
    fn reset(&mut self, sink: &dyn Sink, revision: Revision, entries: Vec<Entry>) {
        sink.reset(revision, entries);
        self.reset_at = Some(revision);
        let waiting: Vec<_> = std::mem::take(&mut self.waiting).into_iter().filter(|event| event.revision > revision).collect();
        if !waiting.is_empty() {
            sink.events(&waiting);
        }
    }
}

impl Sink for Joining {
    fn reset(&self, revision: Revision, entries: Vec<Entry>) {
        let mut state = self.state.lock();
        state.waiting.clear(); // The state has them, and what follows it is yet to come.
        state.reset(&*self.sink, revision, entries);
    }

    fn events(&self, events: &[Arc<Event>]) {
        let mut state = self.state.lock();
        match state.reset_at {
            None if state.waiting.len() + events.len() > MAX_WAITING => {
                state.overflowed = true;
                state.waiting.clear();
            }
            None => state.waiting.extend_from_slice(events),
            Some(at) => {
                let first = events.partition_point(|event| event.revision <= at);
                if first < events.len() {
                    self.sink.events(&events[first..]);
                }
            }
        }
    }

    fn is_closed(&self) -> bool {
        self.sink.is_closed() || self.state.lock().given_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Seen(Mutex<Vec<String>>);

    impl Sink for Seen {
        fn reset(&self, revision: Revision, _: Vec<Entry>) {
            self.0.lock().push(format!("reset {revision}"));
        }

        fn events(&self, events: &[Arc<Event>]) {
            self.0.lock().extend(events.iter().map(|event| event.revision.to_string()));
        }

        fn is_closed(&self) -> bool {
            false
        }
    }

    fn event(revision: Revision) -> Arc<Event> {
        Arc::new(Event { revision, key: "/a".into(), current: None, previous: None })
    }

    #[test]
    fn what_the_state_has_is_not_told_again() {
        let seen = Arc::new(Seen::default());
        let joining = Joining::new(seen.clone());
        joining.begin();
        joining.events(&[event(3), event(5), event(6)]);
        assert!(joining.complete(5, Vec::new()));
        joining.events(&[event(5)]);
        joining.events(&[event(7)]);
        Sink::reset(&joining, 9, Vec::new());
        assert!(joining.complete(4, Vec::new()));
        joining.events(&[event(9), event(10)]);
        assert_eq!(*seen.0.lock(), ["reset 5", "6", "7", "reset 9", "10"]);
    }

    #[test]
    fn with_too_many_events_it_begins_again() {
        let joining = Joining::new(Arc::new(Seen::default()));
        joining.begin();
        joining.events(&vec![event(1); MAX_WAITING + 1]);
        assert!(!joining.complete(1, Vec::new()));
        joining.begin();
        assert!(joining.complete(2, Vec::new()));
        assert!(!joining.is_closed());
        joining.give_up();
        assert!(joining.is_closed());
    }
}
