use super::*;
use crate::{entry::Labels, scan::Raw};
use std::{collections::HashMap, ops::ControlFlow};

/// A part of the index as of one moment: lines in order of time.
pub(crate) enum Chunk {
    /// Lines of the head or a frozen head that a scan wants.
    Memory(Vec<Arc<Entry>>),
    /// A split that may hold some.
    Split(Arc<Split>),
}

/// A stream, and how much of it there is.
#[derive(Clone, Debug)]
pub(crate) struct StreamStats {
    pub(crate) stream: Arc<Stream>,
    pub(crate) lines: u64,
    pub(crate) bytes: u64,
    pub(crate) min_time: i64,
    pub(crate) max_time: i64,
    /// Parts of the index it is in.
    pub(crate) chunks: u64,
}

impl Index {
    /// The parts of the index that a scan has to look at, in the order in which it wants lines.
    pub(crate) fn chunks(&self, scan: &Scan<'_>) -> Vec<Chunk> {
        let state = self.state.read();
        let wanted = |entries: &[Arc<Entry>]| -> Vec<Arc<Entry>> {
            // A stream is looked at once, not once a line.
            let mut known = HashMap::new();
            let wants = |entry: &&Arc<Entry>| {
                (scan.start..scan.end).contains(&entry.time)
                    && *known.entry(entry.stream.id).or_insert_with(|| (scan.streams)(&entry.stream.labels))
            };
            entries.iter().filter(wants).cloned().collect()
        };
        let mut head = wanted(&state.head.entries);
        let frozen: Vec<_> = state.frozen.clone();
        let mut chunks: Vec<_> =
            state.splits.iter().filter(|split| split.overlaps(scan.start, scan.end)).cloned().map(Chunk::Split).collect();
        drop(state);
        head.sort_by_key(|entry| entry.time);
        let memory = frozen.iter().map(|frozen| wanted(&frozen.entries)).chain([head]);
        chunks.extend(memory.filter(|entries| !entries.is_empty()).map(Chunk::Memory));
        if scan.backward {
            chunks.sort_by_key(|chunk| std::cmp::Reverse(chunk.times().1));
        } else {
            chunks.sort_by_key(|chunk| chunk.times().0);
        }
        chunks
    }

    /// The streams that have lines in a stretch of time, in order of their labels. Counts are of whole parts, not cut to the stretch.
    pub(crate) fn streams(&self, start: i64, end: i64, matches: &dyn Fn(&Labels) -> bool) -> Vec<StreamStats> {
        let state = self.state.read();
        let mut streams: BTreeMap<u64, StreamStats> = BTreeMap::new();
        let mut add = |stats: StreamStats| {
            if stats.min_time < end && stats.max_time >= start && matches(&stats.stream.labels) {
                let share = stats.within(start, end);
                streams.entry(stats.stream.id).and_modify(|sum| sum.merge(&share)).or_insert(share);
            }
        };
        for split in state.splits.iter().filter(|split| split.overlaps(start, end)) {
            for (stream, meta) in split.streams.iter().zip(&split.meta.streams) {
                add(StreamStats {
                    stream: stream.clone(),
                    lines: meta.lines,
                    bytes: meta.bytes,
                    min_time: meta.min_time,
                    max_time: meta.max_time,
                    chunks: 1,
                });
            }
        }
        let memory = state.frozen.iter().map(|frozen| &frozen.streams).chain([&state.head.streams]);
        memory.flat_map(BTreeMap::values).cloned().for_each(&mut add);
        let mut streams: Vec<_> = streams.into_values().collect();
        streams.sort_by(|a, b| a.stream.labels.cmp(&b.stream.labels));
        streams
    }

    /// Keeps only the splits open that were used last.
    pub(crate) fn close_splits(&self) {
        const MOST_OPEN: usize = 8;
        let open: Vec<_> = self.state.read().splits.iter().filter(|split| split.is_open()).cloned().collect();
        for split in open.iter().take(open.len().saturating_sub(MOST_OPEN)) {
            split.close();
        }
    }
}

impl Chunk {
    /// The times of its first line and its last.
    pub(crate) fn times(&self) -> (i64, i64) {
        match self {
            Self::Memory(entries) => {
                (entries.first().map_or(i64::MAX, |entry| entry.time), entries.last().map_or(i64::MIN, |entry| entry.time))
            }
            Self::Split(split) => (split.meta.min_time, split.meta.max_time),
        }
    }

    /// Hands over lines in order of time until told to stop, or until it is too late, which [`Scan::is_late`] tells.
    pub(crate) fn scan(&self, scan: &Scan<'_>, sink: &mut dyn FnMut(Raw<'_>) -> ControlFlow<()>) -> Result<ControlFlow<()>> {
        match self {
            Self::Memory(entries) => Ok(scan.over(entries, sink)),
            Self::Split(split) => split.scan(scan, sink),
        }
    }
}

impl StreamStats {
    pub(super) fn none(stream: &Arc<Stream>) -> Self {
        Self { stream: stream.clone(), lines: 0, bytes: 0, min_time: i64::MAX, max_time: i64::MIN, chunks: 1 }
    }

    pub(super) fn add(&mut self, entry: &Entry) {
        self.lines += 1;
        self.bytes += entry.line.len() as u64;
        self.min_time = self.min_time.min(entry.time);
        self.max_time = self.max_time.max(entry.time);
    }

    /// Its share of a stretch of time, as if lines came evenly.
    fn within(&self, start: i64, end: i64) -> Self {
        let whole = (self.max_time - self.min_time).max(1) as f64;
        let part = (self.max_time.min(end) - self.min_time.max(start)).max(0) as f64;
        let share = if self.min_time >= start && self.max_time < end { 1.0 } else { (part / whole).clamp(0.0, 1.0) };
        let scaled = |count: u64| ((count as f64 * share).round() as u64).max(u64::from(count > 0));
        Self { lines: scaled(self.lines), bytes: scaled(self.bytes), ..self.clone() }
    }

    fn merge(&mut self, other: &Self) {
        self.lines += other.lines;
        self.bytes += other.bytes;
        self.chunks += other.chunks;
        self.min_time = self.min_time.min(other.min_time);
        self.max_time = self.max_time.max(other.max_time);
    }
}
