//! Which series have which label pair.

use std::collections::BTreeMap;

use ahash::AHashSet;

use super::{SeriesId, Stats};
use crate::labels::{Labels, METRIC_NAME, MatchOp, Matcher, Sym};

/// For each name, for each value, the series in order of their ids.
#[derive(Default)]
pub(super) struct Index(BTreeMap<Sym, BTreeMap<Sym, Vec<SeriesId>>>);

impl Index {
    /// Adds a series; ids must rise, or come from a log that wrote them so.
    pub(super) fn insert(&mut self, id: SeriesId, labels: &Labels) {
        for (name, value) in labels.iter() {
            self.0.entry(name.clone()).or_default().entry(value.clone()).or_default().push(id);
        }
    }

    pub(super) fn remove(&mut self, gone: &AHashSet<SeriesId>) {
        for values in self.0.values_mut() {
            values.retain(|_, ids| {
                ids.retain(|id| !gone.contains(id));
                !ids.is_empty()
            });
        }
        self.0.retain(|_, values| !values.is_empty());
    }

    /// A set of series that contains all that the matchers hold of; `None` when only looking at every series tells.
    pub(super) fn candidates(&self, matchers: &[Matcher]) -> Option<Vec<SeriesId>> {
        // A matcher that an absent label meets selects nothing by itself.
        matchers
            .iter()
            .filter(|m| !m.matches(""))
            .map(|m| self.postings(m))
            .min_by_key(|lists| lists.iter().map(|l| l.len()).sum::<usize>())
            .map(|lists| lists.into_iter().flatten().copied().collect())
    }

    /// The lists of the values that a matcher holds of. A series is in one of them at most.
    fn postings(&self, matcher: &Matcher) -> Vec<&Vec<SeriesId>> {
        let Some(values) = self.0.get(matcher.name.as_str()) else { return Vec::new() };
        let exact = match &matcher.op {
            MatchOp::Equal => Some(vec![matcher.value.as_str()]),
            MatchOp::Regex(_) => matcher.words(),
            _ => None,
        };
        match exact {
            Some(mut words) => {
                words.sort_unstable();
                words.dedup();
                words.into_iter().filter_map(|w| values.get(w)).collect()
            }
            None => values.iter().filter(|(value, _)| matcher.matches(value)).map(|(_, ids)| ids).collect(),
        }
    }

    pub(super) fn names(&self) -> Vec<Sym> {
        self.0.keys().cloned().collect()
    }

    pub(super) fn values(&self, name: &str) -> Vec<Sym> {
        self.0.get(name).map(|values| values.keys().cloned().collect()).unwrap_or_default()
    }

    pub(super) fn stats(&self, limit: usize) -> Stats {
        let top = |mut list: Vec<(Sym, usize)>| {
            list.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            list.truncate(limit);
            list
        };
        let by_name = self.0.get(METRIC_NAME).into_iter().flatten().map(|(name, ids)| (name.clone(), ids.len())).collect();
        let mut by_pair: Vec<(String, usize)> = Vec::new();
        for (name, values) in &self.0 {
            by_pair.extend(values.iter().map(|(value, ids)| (format!("{name}={value}"), ids.len())));
        }
        by_pair.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        by_pair.truncate(limit);
        Stats {
            label_pairs: self.0.values().map(BTreeMap::len).sum(),
            by_name: top(by_name),
            values_by_label: top(self.0.iter().map(|(name, values)| (name.clone(), values.len())).collect()),
            bytes_by_label: top(self
                .0
                .iter()
                .map(|(name, values)| (name.clone(), values.keys().map(|v| v.len()).sum()))
                .collect()),
            by_pair,
            ..Stats::default()
        }
    }
}
