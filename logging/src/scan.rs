//! What a query asks of the head and of splits, and what it gets.

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::time::Instant;

use crate::entry::{Entry, Labels, Level, Stream};

/// A request for lines.
pub(crate) struct Scan<'a> {
    /// Nanoseconds; the first that counts.
    pub(crate) start: i64,
    /// Nanoseconds; the first that no longer counts.
    pub(crate) end: i64,
    pub(crate) streams: &'a (dyn Fn(&Labels) -> bool + Sync),
    /// A line must contain one text of each of these; a hint, to be checked by who asks.
    pub(crate) needles: &'a [Vec<String>],
    /// Newest first.
    pub(crate) backward: bool,
    /// Whether lines are needed, not only sizes.
    pub(crate) lines: bool,
    pub(crate) limits: &'a Limits,
}

/// When a query gives up.
#[derive(Clone)]
pub(crate) struct Limits {
    pub(crate) deadline: Instant,
    /// Whoever asked has left.
    pub(crate) abandoned: Arc<AtomicBool>,
}

/// A line as it is kept.
#[derive(Clone, Copy)]
pub(crate) struct Raw<'a> {
    pub(crate) time: i64,
    pub(crate) stream: &'a Arc<Stream>,
    /// Empty unless [`Scan::lines`].
    pub(crate) line: &'a str,
    /// The line's bytes.
    pub(crate) size: usize,
    pub(crate) metadata: &'a [(Box<str>, Box<str>)],
    pub(crate) level: Level,
}

impl Scan<'_> {
    pub(crate) fn is_late(&self) -> bool {
        self.limits.abandoned.load(Ordering::Relaxed) || Instant::now() >= self.limits.deadline
    }

    pub(crate) fn wants(&self, entry: &Entry) -> bool {
        (self.start..self.end).contains(&entry.time) && (self.streams)(&entry.stream.labels)
    }

    /// Hands over entries, which are in order of time, until told to stop.
    pub(crate) fn over(&self, entries: &[Arc<Entry>], sink: &mut dyn FnMut(Raw<'_>) -> ControlFlow<()>) -> ControlFlow<()> {
        if self.backward {
            entries.iter().rev().filter(|entry| self.wants(entry)).try_for_each(|entry| sink(entry.raw()))
        } else {
            entries.iter().filter(|entry| self.wants(entry)).try_for_each(|entry| sink(entry.raw()))
        }
    }
}

impl Entry {
    pub(crate) fn raw(&self) -> Raw<'_> {
        Raw {
            time: self.time,
            stream: &self.stream,
            line: &self.line,
            size: self.line.len(),
            metadata: &self.metadata,
            level: self.level,
        }
    }
}
