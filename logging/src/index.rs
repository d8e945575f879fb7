//! The index: a head in memory behind a write-ahead log, and sealed splits.
//!
//! A batch is written to the log, then put into the head, then told to those who follow. A full or old head is frozen and, beside
//! everything else, written as a split; then its segments of the log are deleted. A query sees head, frozen heads and splits as of one
//! moment. When two frozen heads wait to be sealed, those who append wait too.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use tokio::{
    sync::{Notify, broadcast},
    time::Instant,
};

use crate::{
    Config, Result,
    entry::{Entry, Stream},
    metrics::{Metrics, Source},
    scan::Scan,
    split::{Split, chain},
    wal::{Position, Positions, Wal},
};

mod chunks;
mod maintain;

pub(crate) use chunks::{Chunk, StreamStats};

/// Frozen heads that may wait to be sealed.
const MOST_FROZEN: usize = 2;

/// Batches that one who follows may lag behind; what is older is skipped and told as dropped.
const TAIL_BATCHES: usize = 256;

/// Lines to store together with how far their file was read.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) entries: Vec<Entry>,
    pub(crate) positions: Vec<(PathBuf, Option<Position>)>,
}

/// Batches of lines as they come.
pub(crate) type Following = broadcast::Receiver<Arc<[Arc<Entry>]>>;

/// See the module.
pub(crate) struct Index {
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
    /// Locked before `state`.
    log: Mutex<Log>,
    state: RwLock<State>,
    tails: broadcast::Sender<Arc<[Arc<Entry>]>>,
    /// There is something to sync, to seal or to wait for.
    work: Notify,
    /// A frozen head was sealed.
    room: Notify,
}

struct Log {
    wal: Wal,
    positions: Positions,
    unsynced_since: Option<Instant>,
}

struct State {
    head: Head,
    frozen: Vec<Arc<Frozen>>,
    /// In order of their first line's time.
    splits: Vec<Arc<Split>>,
    next_split: u64,
}

/// Lines in the order they came.
#[derive(Default)]
struct Head {
    entries: Vec<Arc<Entry>>,
    streams: BTreeMap<u64, StreamStats>,
    bytes: usize,
    since: Option<Instant>,
    wal: Vec<u64>,
}

/// A head that is complete, in order of time.
struct Frozen {
    entries: Vec<Arc<Entry>>,
    streams: BTreeMap<u64, StreamStats>,
    wal: Vec<u64>,
}

// === impl Index ===

impl Index {
    pub(crate) fn open(config: Config, metrics: Metrics) -> Result<Self> {
        let splits = Split::open_all(&config.data_dir)?;
        let sealed: HashSet<u64> = splits.iter().flat_map(|split| split.meta.wal.iter().copied()).collect();
        let (wal, replay) = Wal::open(&config.data_dir.join("wal"), &sealed)?;
        if replay.torn > 0 {
            tracing::warn!(segments = replay.torn, "write-ahead log ends in an unfinished record");
        }
        let numbers = splits.iter().flat_map(|split| split.meta.replaces.iter().copied().chain([split.number]));
        let next_split = numbers.max().map_or(1, |last| last + 1);
        let mut head = Head { wal: replay.segments, ..Head::default() };
        head.wal.push(wal.segment);
        for entry in replay.entries {
            head.push(Arc::new(entry));
        }
        let log = Log { wal, positions: replay.positions, unsynced_since: None };
        let index = Self {
            config,
            metrics,
            log: Mutex::new(log),
            state: RwLock::new(State { head, frozen: Vec::new(), splits, next_split }),
            tails: broadcast::Sender::new(TAIL_BATCHES),
            work: Notify::new(),
            room: Notify::new(),
        };
        index.measure();
        Ok(index)
    }

    /// Stores a batch: it can be queried, and survives the end of this process, when this returns.
    ///
    /// A disk that refuses does not fail it: the lines are kept in memory, which is counted and logged.
    pub(crate) async fn append(self: &Arc<Self>, source: Source, batch: Batch) {
        loop {
            let room = self.room.notified();
            if self.state.read().frozen.len() < MOST_FROZEN {
                break;
            }
            room.await;
        }
        let index = self.clone();
        // Fails only when the runtime is going down or the closure panics, which is logged as a panic.
        let _ = tokio::task::spawn_blocking(move || index.append_now(source, batch)).await;
    }

    /// Blocks on the disk.
    pub(crate) fn append_now(&self, source: Source, batch: Batch) {
        let mut log = self.log.lock();
        let Log { wal, positions, unsynced_since } = &mut *log;
        let timer = self.metrics.wal_seconds.start_timer();
        let updates = batch.positions.iter().map(|(path, position)| (path, position.as_ref()));
        if let Err(error) = wal.append(&batch.entries, updates) {
            self.metrics.wal_errors.inc();
            if self.metrics.wal_errors.get().is_power_of_two() {
                tracing::error!(error = %chain(&error), "lines are kept in memory only");
            }
        }
        timer.observe_duration();
        for (path, position) in batch.positions {
            match position {
                Some(position) => drop(positions.insert(path, position)),
                None => drop(positions.remove(&path)),
            }
        }
        let mut wake = unsynced_since.is_none();
        unsynced_since.get_or_insert_with(Instant::now);
        let bytes = batch.entries.iter().map(|entry| entry.line.len()).sum();
        self.metrics.inputs.ingested(source, batch.entries.len(), bytes);
        let entries: Arc<[Arc<Entry>]> = batch.entries.into_iter().map(Arc::new).collect();
        let full = {
            let mut state = self.state.write();
            for entry in &*entries {
                state.head.push(entry.clone());
            }
            state.head.bytes >= self.config.head_bytes
        };
        if full {
            self.freeze(&mut log);
            wake = true;
        }
        if !entries.is_empty() {
            // Nobody may be following. Under the lock, so that [`Index::follow`] misses nothing and gets nothing twice.
            let _ = self.tails.send(entries);
        }
        drop(log);
        if wake {
            self.work.notify_one();
        }
        self.measure();
    }

    /// What a scan has to look at, and the lines that come after that.
    pub(crate) fn follow(&self, scan: &Scan<'_>) -> (Vec<Chunk>, Following) {
        let _log = self.log.lock();
        (self.chunks(scan), self.tails.subscribe())
    }

    /// How far container logs were read.
    pub(crate) fn positions(&self) -> Positions {
        self.log.lock().positions.clone()
    }

    /// Makes the head a frozen one. If the log cannot begin a segment, the head goes on.
    fn freeze(&self, log: &mut Log) {
        if self.state.read().head.entries.is_empty() {
            return;
        }
        if let Err(error) = log.wal.rotate(&log.positions) {
            self.metrics.wal_errors.inc();
            tracing::error!(error = %chain(&error), "write-ahead log cannot begin a segment");
            return;
        }
        let mut state = self.state.write();
        let next = Head { wal: vec![log.wal.segment], ..Head::default() };
        let head = std::mem::replace(&mut state.head, next);
        state.frozen.push(Arc::new(head.freeze()));
    }

    fn measure(&self) {
        let state = self.state.read();
        let set = |gauge: &prometheus::IntGauge, value: usize| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        let frozen = state.frozen.iter().map(|frozen| frozen.entries.len()).sum::<usize>();
        set(&self.metrics.head_lines, state.head.entries.len() + frozen);
        set(&self.metrics.head_bytes, state.head.bytes);
        set(&self.metrics.memory_streams, state.head.streams.len());
        set(&self.metrics.splits, state.splits.len());
        set(&self.metrics.split_bytes, state.splits.iter().map(|split| split.disk_bytes as usize).sum());
    }
}

impl Head {
    fn push(&mut self, entry: Arc<Entry>) {
        self.since.get_or_insert_with(Instant::now);
        self.bytes += entry.weight();
        self.streams.entry(entry.stream.id).or_insert_with(|| StreamStats::none(&entry.stream)).add(&entry);
        self.entries.push(entry);
    }

    fn freeze(mut self) -> Frozen {
        self.entries.sort_by_key(|entry| entry.time);
        Frozen { entries: self.entries, streams: self.streams, wal: self.wal }
    }
}

#[cfg(test)]
pub(crate) mod tests;
