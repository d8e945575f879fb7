//! Sets of completion indexes and their notation: `1,3-5,7` (`parseIndexesFromString`).

use std::collections::BTreeSet;

/// A set of indexes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Indexes(BTreeSet<usize>);

impl Indexes {
    /// Reads the notation. What lies beyond `limit`, or cannot be read, is left out.
    pub(super) fn parse(text: &str, limit: usize) -> Self {
        let mut set = BTreeSet::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) {
                set.extend((first..=last).take_while(|index| *index < limit));
            }
        }
        Self(set)
    }

    /// The notation; `None` for the empty set.
    pub(super) fn text(&self) -> Option<String> {
        let mut parts: Vec<(usize, usize)> = Vec::new();
        for &index in &self.0 {
            match parts.last_mut() {
                Some((_, last)) if *last + 1 == index => *last = index,
                _ => parts.push((index, index)),
            }
        }
        let text = |(first, last): &(usize, usize)| match last - first {
            0 => first.to_string(),
            1 => format!("{first},{last}"),
            _ => format!("{first}-{last}"),
        };
        (!parts.is_empty()).then(|| parts.iter().map(text).collect::<Vec<_>>().join(","))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn contains(&self, index: usize) -> bool {
        self.0.contains(&index)
    }

    pub(super) fn insert(&mut self, index: usize) {
        self.0.insert(index);
    }

    /// How many of this set are in the other.
    pub(super) fn count_in(&self, other: &Self) -> usize {
        self.0.intersection(&other.0).count()
    }
}
