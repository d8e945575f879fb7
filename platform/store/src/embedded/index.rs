//! The index in memory: every live key, and every key's history back to the floor.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use crate::{Entry, Error, Event, Page, Range, Result, Revision};

/// Keys and history. Changed only by the committer (and compaction), one commit at a time.
#[derive(Default)]
pub(super) struct Index {
    keys: BTreeMap<Arc<str>, Vec<Version>>,
    /// All events after the floor, oldest first.
    events: VecDeque<Arc<Event>>,
    /// When entries expire, soonest first.
    expiries: BTreeSet<(i64, Arc<str>)>,
    /// Newest revision.
    pub(super) revision: Revision,
    /// Oldest revision that can be read.
    pub(super) floor: Revision,
    /// Live keys.
    pub(super) live: usize,
    /// Bytes of live values.
    pub(super) live_bytes: usize,
    /// Bytes of values that were replaced or deleted since the floor.
    pub(super) history_bytes: usize,
}

/// A key's state from a revision on; `None`: deleted.
struct Version {
    revision: Revision,
    entry: Option<Entry>,
}

impl Index {
    /// Takes over an entry of the snapshot, before any event.
    pub(super) fn load(&mut self, entry: Entry) {
        self.count_in(&entry);
        self.keys.insert(entry.key.clone(), vec![Version { revision: entry.revision, entry: Some(entry) }]);
    }

    /// Says what revision the loaded entries are at.
    pub(super) fn loaded(&mut self, revision: Revision) {
        (self.revision, self.floor) = (revision, revision);
    }

    pub(super) fn current(&self, key: &str) -> Option<&Entry> {
        self.keys.get(key)?.last()?.entry.as_ref()
    }

    /// Applies the next event in order.
    pub(super) fn apply(&mut self, event: Arc<Event>) {
        self.revision = event.revision;
        if let Some(previous) = &event.previous {
            self.live -= 1;
            self.live_bytes -= previous.bytes.len();
            self.history_bytes += previous.bytes.len();
            if let Some(at) = previous.expires_unix_seconds {
                self.expiries.remove(&(at, event.key.clone()));
            }
        }
        if let Some(entry) = &event.current {
            self.count_in(entry);
        }
        let version = Version { revision: event.revision, entry: event.current.clone() };
        match self.keys.get_mut(&event.key) {
            Some(versions) => versions.push(version),
            None => drop(self.keys.insert(event.key.clone(), vec![version])),
        }
        self.events.push_back(event);
    }

    fn count_in(&mut self, entry: &Entry) {
        self.live += 1;
        self.live_bytes += entry.bytes.len();
        if let Some(at) = entry.expires_unix_seconds {
            self.expiries.insert((at, entry.key.clone()));
        }
    }

    /// The revision to read at.
    fn readable(&self, at: Option<Revision>) -> Result<Revision> {
        match at {
            Some(requested) if requested < self.floor => Err(Error::Compacted { requested, oldest: self.floor }),
            Some(requested) if requested > self.revision => Err(Error::FutureRevision { requested, current: self.revision }),
            Some(at) => Ok(at),
            None => Ok(self.revision),
        }
    }

    pub(super) fn get(&self, key: &str, at: Option<Revision>) -> Result<Option<Entry>> {
        let at = self.readable(at)?;
        Ok(self.keys.get(key).and_then(|versions| entry_at(versions, at)).cloned())
    }

    pub(super) fn list(&self, range: &Range) -> Result<Page> {
        let at = self.readable(range.at)?;
        let start = range.start.as_deref().filter(|start| *start > range.prefix.as_str()).unwrap_or(&range.prefix);
        let keys = self.keys.range::<str, _>((Bound::Included(start), Bound::Unbounded));
        let keys = keys.take_while(|(key, _)| key.starts_with(&range.prefix));
        let mut entries = keys.filter_map(|(_, versions)| entry_at(versions, at));
        let limit = if range.limit == 0 { usize::MAX } else { range.limit };
        let page = entries.by_ref().take(limit).cloned().collect();
        Ok(Page { revision: at, entries: page, remaining: entries.count() })
    }

    /// Whether a watch can start after a revision.
    pub(super) fn watchable(&self, after: Revision) -> Result<()> {
        self.readable(Some(after)).map(drop)
    }

    /// Events after a revision under a prefix, and how far that is: at most `scan` events are looked at, commits whole.
    pub(super) fn events_after(&self, prefix: &str, after: Revision, scan: usize) -> Result<(Revision, Vec<Arc<Event>>)> {
        if after < self.floor {
            return Err(Error::Compacted { requested: after, oldest: self.floor });
        }
        let start = self.events.partition_point(|event| event.revision <= after);
        let mut end = (start + scan).min(self.events.len());
        while end < self.events.len() && self.events[end].revision == self.events[end - 1].revision {
            end += 1;
        }
        let reached = if end == self.events.len() { self.revision } else { self.events[end - 1].revision };
        let events = self.events.range(start..end).filter(|event| event.key.starts_with(prefix));
        Ok((reached.max(after), events.cloned().collect()))
    }

    pub(super) fn history_len(&self) -> usize {
        self.events.len()
    }

    /// Forgets events up to a revision, and what only they needed; about `limit` of them. True: all were.
    pub(super) fn compact(&mut self, revision: Revision, limit: usize) -> bool {
        let reached = self.events.get(limit).map_or(revision, |event| event.revision.min(revision));
        self.forget_through(reached);
        reached == revision
    }

    fn forget_through(&mut self, revision: Revision) {
        self.floor = revision;
        while let Some(event) = self.events.pop_front_if(|event| event.revision <= revision) {
            self.history_bytes -= event.previous.as_ref().map_or(0, |previous| previous.bytes.len());
            let Some(versions) = self.keys.get_mut(&event.key) else { continue };
            // The newest version at the floor stays: it is the state there. A deletion is no state.
            let at_floor = versions.partition_point(|version| version.revision <= revision).saturating_sub(1);
            versions.drain(..at_floor);
            if versions.first().is_some_and(|version| version.entry.is_none() && version.revision <= revision) {
                versions.remove(0);
            }
            match versions.len() {
                0 => drop(self.keys.remove(&event.key)),
                len if versions.capacity() > 4 * len => versions.shrink_to_fit(),
                _ => {}
            }
        }
    }

    /// Forgets the oldest history until what is left holds at most `bytes`.
    pub(super) fn trim(&mut self, bytes: usize) {
        let mut held = self.history_bytes;
        let mut floor = None;
        for event in &self.events {
            if held <= bytes {
                break;
            }
            held -= event.previous.as_ref().map_or(0, |previous| previous.bytes.len());
            floor = Some(event.revision);
        }
        if let Some(floor) = floor {
            self.forget_through(floor);
        }
    }

    /// Keys whose time is over, with their revisions.
    pub(super) fn expired(&self, now_unix_seconds: i64, limit: usize) -> Vec<(Arc<str>, Revision)> {
        let due = self.expiries.iter().take_while(|(at, _)| *at <= now_unix_seconds);
        let entries = due.take(limit).filter_map(|(_, key)| self.current(key));
        entries.map(|entry| (entry.key.clone(), entry.revision)).collect()
    }

    /// When the next entry expires.
    pub(super) fn next_expiry(&self) -> Option<i64> {
        self.expiries.first().map(|(at, _)| *at)
    }
}

fn entry_at(versions: &[Version], at: Revision) -> Option<&Entry> {
    // Nearly always the newest is wanted.
    versions.iter().rev().find(|version| version.revision <= at)?.entry.as_ref()
}
