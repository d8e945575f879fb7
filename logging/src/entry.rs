//! What is kept: lines, each of a stream.

mod level;

use std::{fmt, sync::Arc};

pub(crate) use level::Level;

/// Names and values in order of name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Labels(Vec<(Box<str>, Box<str>)>);

/// A set of labels and its identity, the same in every process and on disk.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stream {
    pub(crate) id: u64,
    pub(crate) labels: Labels,
}

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    /// Nanoseconds since 1970.
    pub(crate) time: i64,
    pub(crate) stream: Arc<Stream>,
    pub(crate) line: Box<str>,
    /// What is known of the line beside it; `detected_level` is made from `level` when read.
    pub(crate) metadata: Box<[(Box<str>, Box<str>)]>,
    pub(crate) level: Level,
}

/// The longest line that is kept, as Loki's `max_line_size`; the rest is cut off.
pub(crate) const LONGEST_LINE: usize = 256 * 1024;

/// Labels from which Loki derives `service_name`, in its order.
const SERVICE_NAMES: [&str; 10] = [
    "service",
    "app",
    "application",
    "app_name",
    "name",
    "app_kubernetes_io_name",
    "container",
    "container_name",
    "component",
    "job",
];

// === impl Labels ===

impl Labels {
    pub(crate) fn new<N: Into<Box<str>>, V: Into<Box<str>>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        let mut labels = Self::default();
        for (name, value) in pairs {
            labels.set(name, value);
        }
        labels
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.find(name).ok().map(|at| &*self.0[at].1)
    }

    /// Sets a label; an empty value removes it, as in Prometheus.
    pub(crate) fn set(&mut self, name: impl Into<Box<str>>, value: impl Into<Box<str>>) {
        let (name, value) = (name.into(), value.into());
        match (self.find(&name), value.is_empty()) {
            (Ok(at), true) => drop(self.0.remove(at)),
            (Ok(at), false) => self.0[at].1 = value,
            (Err(_), true) => {}
            (Err(at), false) => self.0.insert(at, (name, value)),
        }
    }

    /// Sets a label, also to an empty value: Loki keeps what its parsers found in a line.
    pub(crate) fn keep(&mut self, name: impl Into<Box<str>>, value: impl Into<Box<str>>) {
        let (name, value) = (name.into(), value.into());
        match self.find(&name) {
            Ok(at) => self.0[at].1 = value,
            Err(at) => self.0.insert(at, (name, value)),
        }
    }

    pub(crate) fn remove(&mut self, name: &str) {
        if let Ok(at) = self.find(name) {
            self.0.remove(at);
        }
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|(name, _)| keep(name));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(n, _)| (**n).cmp(name))
    }

    /// FNV-1a over names and values: part of the on-disk format.
    fn hash(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut eat = |bytes: &[u8]| {
            for byte in bytes.iter().chain(&[0xff]) {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        };
        for (name, value) in self.iter() {
            eat(name.as_bytes());
            eat(value.as_bytes());
        }
        hash
    }
}

/// As in LogQL and Loki's JSON: `{app="web", pod="a"}`.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (at, (name, value)) in self.iter().enumerate() {
            write!(f, "{}{name}={value:?}", if at > 0 { ", " } else { "" })?;
        }
        f.write_str("}")
    }
}

impl serde::Serialize for Labels {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> serde::Deserialize<'de> for Labels {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::new(std::collections::BTreeMap::<Box<str>, Box<str>>::deserialize(deserializer)?))
    }
}

// === impl Stream ===

impl Stream {
    /// A stream of these labels, with the label `service_name` as Loki adds it.
    pub(crate) fn new(mut labels: Labels) -> Arc<Self> {
        if labels.get("service_name").is_none() {
            let name = SERVICE_NAMES.iter().find_map(|name| labels.get(name)).unwrap_or("unknown_service").to_owned();
            labels.set("service_name", name);
        }
        Self::exactly(labels)
    }

    /// A stream of these labels, as they were stored.
    pub(crate) fn exactly(labels: Labels) -> Arc<Self> {
        Arc::new(Self { id: labels.hash(), labels })
    }
}

// === impl Entry ===

impl Entry {
    /// An entry of a line, whose level is read from `metadata`, the stream or the line itself, in Loki's order.
    pub(crate) fn new(time: i64, stream: &Arc<Stream>, line: &str, metadata: Vec<(Box<str>, Box<str>)>) -> Self {
        let mut end = line.len().min(LONGEST_LINE);
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        let line = &line[..end];
        let named = metadata.iter().find(|(name, _)| &**name == "detected_level").map(|(_, value)| Level::of_name(value));
        let level = named.unwrap_or_else(|| Level::detect(&stream.labels, line));
        let metadata = metadata.into_iter().filter(|(name, _)| &**name != "detected_level").collect();
        Self { time, stream: stream.clone(), line: line.into(), metadata, level }
    }

    /// About how much memory it takes.
    pub(crate) fn weight(&self) -> usize {
        size_of::<Self>() + 32 + self.line.len() + self.metadata.iter().map(|(n, v)| n.len() + v.len() + 48).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_a_set_in_order() {
        let labels = Labels::new([("pod", "a"), ("app", "web"), ("empty", ""), ("pod", "b")]);
        assert_eq!(labels.to_string(), r#"{app="web", pod="b"}"#);
        let mut parsed = labels.clone();
        parsed.keep("empty", "");
        assert_eq!(parsed.to_string(), r#"{app="web", empty="", pod="b"}"#);
        assert_eq!(Stream::new(labels.clone()).labels.get("service_name"), Some("web"));
        assert_eq!(Stream::exactly(labels.clone()).id, 8_658_195_102_957_953_805, "identities are on disk and must not change");
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let stream = Stream::new(Labels::default());
        let line = format!("x{}", "é".repeat(LONGEST_LINE));
        assert_eq!(Entry::new(0, &stream, &line, vec![]).line.len(), LONGEST_LINE - 1);
    }
}
