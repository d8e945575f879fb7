use std::{
    collections::{HashSet, VecDeque},
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    Result,
    entry::Entry,
    index::Batch,
    metrics::{InputMetrics, ShipperMetrics, Source},
    split::chain,
    wal::{Positions, Wal},
};

/// Length of the log beyond which what is left of it is written anew, when nothing is left and at all events.
const EMPTY_LOG_BYTES: u64 = 1 << 20;
const LOG_BYTES: u64 = 16 << 20;

/// Lines that wait for the server, in memory and in a write-ahead log, oldest first.
pub(super) struct Spool {
    directory: PathBuf,
    limit: usize,
    metrics: ShipperMetrics,
    /// Locked before `waiting`.
    log: Mutex<Log>,
    waiting: Mutex<Waiting>,
    /// There is something to ship.
    filled: Notify,
    /// Something was shipped.
    room: Notify,
}

struct Log {
    wal: Wal,
    positions: Positions,
    /// Segments before the one that is written to.
    older: Vec<u64>,
    /// The disk refused something, so that what is in the log is not what waits.
    is_behind: bool,
}

#[derive(Default)]
struct Waiting {
    lines: VecDeque<Arc<Entry>>,
    bytes: usize,
}

impl Spool {
    /// Opens the spool and reads what was left in it.
    pub(super) fn open(directory: &Path, limit: usize, metrics: ShipperMetrics) -> Result<Self> {
        let (wal, replay) = Wal::open(directory, &HashSet::new())?;
        if replay.torn > 0 {
            tracing::warn!(segments = replay.torn, "write-ahead log ends in an unfinished record");
        }
        let mut waiting = Waiting::default();
        for entry in replay.entries {
            waiting.push(Arc::new(entry));
        }
        let log = Log { wal, positions: replay.positions, older: replay.segments, is_behind: false };
        let spool = Self {
            directory: directory.to_owned(),
            limit,
            metrics,
            log: Mutex::new(log),
            waiting: Mutex::new(waiting),
            filled: Notify::new(),
            room: Notify::new(),
        };
        spool.condense(&mut spool.log.lock());
        spool.measure();
        Ok(spool)
    }

    pub(super) fn metrics(&self) -> &InputMetrics {
        &self.metrics.inputs
    }

    pub(super) fn positions(&self) -> Positions {
        self.log.lock().positions.clone()
    }

    /// Takes a batch: it survives the end of this process when this returns. Waits for room unless `stopping`.
    ///
    /// A disk that refuses does not fail it: the lines are kept in memory, which is counted and logged.
    pub(super) async fn append(self: &Arc<Self>, source: Source, batch: Batch, stopping: &CancellationToken) {
        // Containers' lines can wait where they are; records would be dropped, so that some room is theirs alone.
        let limit = if source == Source::Component { self.limit + self.limit / 2 } else { self.limit };
        loop {
            let room = self.room.notified();
            if self.waiting.lock().bytes < limit {
                break;
            }
            tokio::select! {
                () = room => {}
                () = stopping.cancelled() => break,
            }
        }
        let spool = self.clone();
        // Fails only when the runtime is going down or the closure panics, which is logged as a panic.
        let _ = tokio::task::spawn_blocking(move || spool.append_now(source, batch)).await;
    }

    /// Blocks on the disk.
    pub(super) fn append_now(&self, source: Source, batch: Batch) {
        let mut log = self.log.lock();
        let updates = batch.positions.iter().map(|(path, position)| (path, position.as_ref()));
        if let Err(error) = log.wal.append(&batch.entries, updates) {
            log.is_behind = true;
            self.failed(&error, "lines are kept in memory only");
        }
        for (path, position) in batch.positions {
            match position {
                Some(position) => drop(log.positions.insert(path, position)),
                None => drop(log.positions.remove(&path)),
            }
        }
        let bytes = batch.entries.iter().map(|entry| entry.line.len()).sum();
        self.metrics.inputs.ingested(source, batch.entries.len(), bytes);
        let mut waiting = self.waiting.lock();
        for entry in batch.entries {
            waiting.push(Arc::new(entry));
        }
        drop(waiting);
        drop(log);
        self.measure();
        self.filled.notify_one();
    }

    /// Waits until something may have come. Cancel-safe.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// The oldest lines, up to about so many bytes.
    pub(super) fn oldest(&self, most: usize) -> Vec<Arc<Entry>> {
        let waiting = self.waiting.lock();
        let mut bytes = 0;
        let fits = |entry: &&Arc<Entry>| {
            let is_first = bytes == 0;
            bytes += entry.weight();
            is_first || bytes <= most
        };
        waiting.lines.iter().take_while(fits).cloned().collect()
    }

    /// The oldest lines, so many, are the server's.
    pub(super) async fn done(self: Arc<Self>, count: usize) {
        let _ = tokio::task::spawn_blocking(move || self.done_now(count)).await;
    }

    /// Blocks on the disk.
    pub(super) fn done_now(&self, count: usize) {
        let mut log = self.log.lock();
        // In a log that is behind, the oldest lines are others. Until it is begun anew, a restart tells some twice.
        if !log.is_behind
            && let Err(error) = log.wal.shipped(count)
        {
            log.is_behind = true;
            self.failed(&error, "what was shipped could not be noted");
        }
        let mut waiting = self.waiting.lock();
        for entry in waiting.lines.drain(..count).collect::<Vec<_>>() {
            waiting.bytes -= entry.weight();
        }
        drop(waiting);
        self.condense(&mut log);
        drop(log);
        self.measure();
        self.room.notify_waiters();
    }

    /// Makes what was written survive a power cut.
    pub(super) async fn sync(self: Arc<Self>) {
        let synced = tokio::task::spawn_blocking(move || {
            if let Err(error) = self.log.lock().wal.sync() {
                self.failed(&error, "lines may not survive a power cut");
            }
        });
        let _ = synced.await;
    }

    /// Begins the log anew when it is long or behind, or when nothing of it is needed.
    fn condense(&self, log: &mut Log) {
        let left: Vec<_> = self.waiting.lock().lines.iter().cloned().collect();
        let is_long = log.wal.length() > if left.is_empty() { EMPTY_LOG_BYTES } else { LOG_BYTES };
        let is_over = left.is_empty() && !log.older.is_empty();
        if !(is_long || is_over || log.is_behind) {
            return;
        }
        let condensed = log.wal.condense(&log.positions, left.iter().map(|entry| &**entry)).and_then(|old| {
            log.is_behind = false;
            log.older.push(old);
            Wal::forget(&self.directory, &log.older)
        });
        match condensed {
            Ok(()) => log.older.clear(),
            Err(error) => self.failed(&error, "write-ahead log cannot be begun anew"),
        }
    }

    fn failed(&self, error: &crate::Error, what: &'static str) {
        self.metrics.wal_errors.inc();
        if self.metrics.wal_errors.get().is_power_of_two() {
            tracing::error!(error = %chain(error), "{what}");
        }
    }

    fn measure(&self) {
        let waiting = self.waiting.lock();
        let set = |gauge: &prometheus::IntGauge, value: usize| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        set(&self.metrics.spool_lines, waiting.lines.len());
        set(&self.metrics.spool_bytes, waiting.bytes);
    }
}

impl Waiting {
    fn push(&mut self, entry: Arc<Entry>) {
        self.bytes += entry.weight();
        self.lines.push_back(entry);
    }
}
