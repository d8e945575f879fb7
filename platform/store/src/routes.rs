//! Who is fed with what.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::{Error, Event, Result, Sink};

/// Sinks by the prefix of the keys they want.
#[derive(Default)]
pub(crate) struct Routes(BTreeMap<String, Vec<Arc<dyn Sink>>>);

impl Routes {
    /// Whether a prefix may join: sinks share all or nothing.
    pub(crate) fn check(&mut self, prefix: &str) -> Result<()> {
        self.0.retain(|_, sinks| {
            sinks.retain(|sink| !sink.is_closed());
            !sinks.is_empty()
        });
        let overlaps = |other: &&String| *other != prefix && (other.starts_with(prefix) || prefix.starts_with(&**other));
        match self.0.keys().find(overlaps) {
            Some(other) => Err(Error::Invalid(format!("prefix {prefix} overlaps {other}"))),
            None => Ok(()),
        }
    }

    /// Gives each sink its events of a batch, in one call.
    pub(crate) fn feed(&mut self, events: &[Arc<Event>]) {
        let mut batches: BTreeMap<String, Vec<Arc<Event>>> = BTreeMap::new();
        for event in events {
            let nearest = self.0.range::<str, _>((Bound::Unbounded, Bound::Included(&*event.key))).next_back();
            let Some((prefix, _)) = nearest.filter(|(prefix, _)| event.key.starts_with(&***prefix)) else { continue };
            match batches.get_mut(prefix) {
                Some(batch) => batch.push(event.clone()),
                None => drop(batches.insert(prefix.clone(), vec![event.clone()])),
            }
        }
        for (prefix, events) in batches {
            let Some(sinks) = self.0.get_mut(&prefix) else { continue };
            sinks.retain(|sink| !sink.is_closed());
            sinks.iter().for_each(|sink| sink.events(&events));
            if sinks.is_empty() {
                self.0.remove(&prefix);
            }
        }
    }

    /// All sinks, by prefix.
    pub(crate) fn all(&self) -> Vec<(String, Vec<Arc<dyn Sink>>)> {
        self.0.iter().map(|(prefix, sinks)| (prefix.clone(), sinks.clone())).collect()
    }

    /// Adds a sink whose prefix was checked.
    pub(crate) fn add(&mut self, prefix: String, sink: Arc<dyn Sink>) {
        self.0.entry(prefix).or_default().push(sink);
    }
}
