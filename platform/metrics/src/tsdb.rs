//! The time-series store: compressed chunks in memory, an inverted index over labels, and a write-ahead log.
//!
//! Samples of a series must come in order of time; older ones are refused and counted, as upstream without an
//! out-of-order window. A sample survives `kill -9` once [`Tsdb::flush`] wrote it. Memory is bounded by retention:
//! sealed chunks older than a time, or beyond a number of bytes, are dropped. There are no blocks on disk: the log and the
//! checkpoint hold what memory holds.
//!
//! Follows Prometheus' head (`tsdb/head.go`), with chunks in memory instead of memory-mapped files.

mod chunk;
mod index;
mod wal;
#[cfg(test)]
mod tests;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use ahash::{AHashMap, AHashSet};
use parking_lot::{Mutex, RwLock};

pub use chunk::Sample;

use self::{
    chunk::{FULL, Open, Sealed},
    index::Index,
    wal::{Record, Wal},
};
use crate::{
    Result,
    labels::{Labels, Matcher, Sym},
    metrics::TsdbMetrics,
};

/// The value that marks a series as gone: a NaN of its own (`model/value`).
pub const STALE: u64 = 0x7ff0_0000_0000_0002;

/// The marker as a number.
#[must_use]
pub fn stale() -> f64 {
    f64::from_bits(STALE)
}

/// Whether a value is the staleness marker.
#[must_use]
pub fn is_stale(v: f64) -> bool {
    v.to_bits() == STALE
}

/// What bounds a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the log is kept; `None`: nowhere.
    pub dir: Option<PathBuf>,
    /// Milliseconds a sample is kept; 0: for ever.
    pub retention_ms: i64,
    /// Bytes of sealed chunks; 0: no limit.
    pub retention_bytes: usize,
    /// Bytes of log after which a checkpoint is due.
    pub checkpoint_bytes: u64,
}

/// Names a series of a running store. Never used twice.
pub type SeriesId = u64;

/// One series: its labels and its samples.
pub struct Series {
    id: SeriesId,
    labels: Labels,
    state: Mutex<State>,
}

struct State {
    sealed: Vec<Sealed>,
    open: Open,
}

/// The store.
pub struct Tsdb {
    options: Options,
    /// Lock order: `head`, then a series' `state`, then `wal`. `checkpointing` comes before all.
    head: RwLock<Head>,
    wal: Option<Mutex<Wal>>,
    checkpointing: Mutex<()>,
    sealed_bytes: AtomicU64,
    pub(crate) metrics: TsdbMetrics,
}

#[derive(Default)]
struct Head {
    series: AHashMap<SeriesId, Arc<Series>>,
    by_labels: AHashMap<Labels, SeriesId>,
    index: Index,
    symbols: AHashSet<Sym>,
    next_id: SeriesId,
    /// While the log is read: series that were removed and made again under another id are one.
    aliases: AHashMap<SeriesId, SeriesId>,
}

/// What became of a batch of samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Stored.
    pub appended: usize,
    /// Older than the series' last sample: refused.
    pub out_of_order: usize,
    /// At the time of the series' last sample with another value: refused.
    pub duplicate: usize,
    /// Of a series that retention removed meanwhile: refused, the caller asks for the series again.
    pub unknown: usize,
}

/// Counts about the store's content.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Series in memory.
    pub series: usize,
    /// Distinct pairs of label name and value.
    pub label_pairs: usize,
    /// Chunks in memory.
    pub chunks: usize,
    /// Time of the oldest sample, in milliseconds.
    pub min_t: i64,
    /// Time of the youngest sample, in milliseconds.
    pub max_t: i64,
    /// Series of each metric name.
    pub by_name: Vec<(Sym, usize)>,
    /// Values of each label name.
    pub values_by_label: Vec<(Sym, usize)>,
    /// Bytes of values of each label name.
    pub bytes_by_label: Vec<(Sym, usize)>,
    /// Series of each label pair.
    pub by_pair: Vec<(String, usize)>,
}

// === impl Series ===

impl Series {
    /// Its labels.
    #[must_use]
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// Appends the samples from `min_t` to `max_t`, both included, to `out`.
    pub fn read(&self, min_t: i64, max_t: i64, out: &mut Vec<Sample>) {
        let state = self.state.lock();
        let wanted = |s: &Sample| s.t >= min_t && s.t <= max_t;
        let from = state.sealed.partition_point(|c| c.max_t < min_t);
        for chunk in state.sealed[from..].iter().take_while(|c| c.min_t <= max_t) {
            out.extend(chunk.read().filter(wanted));
        }
        if state.open.last().is_some_and(|last| last.t >= min_t && state.open.min_t() <= max_t) {
            out.extend(state.open.read().filter(wanted));
        }
    }

    /// The times of the oldest and the youngest sample.
    fn span(&self) -> Option<(i64, i64)> {
        let state = self.state.lock();
        let min = state.sealed.first().map(|c| c.min_t).or_else(|| state.open.last().map(|_| state.open.min_t()))?;
        let max = state.open.last().map(|s| s.t).or_else(|| state.sealed.last().map(|c| c.max_t))?;
        Some((min, max))
    }

    fn has_samples_in(&self, min_t: i64, max_t: i64) -> bool {
        self.span().is_some_and(|(first, last)| first <= max_t && last >= min_t)
    }
}

impl State {
    fn last(&self) -> Option<(i64, Option<f64>)> {
        match self.open.last() {
            Some(last) => Some((last.t, Some(last.v))),
            None => self.sealed.last().map(|c| (c.max_t, None)),
        }
    }
}

// === impl Tsdb ===

impl Tsdb {
    /// Opens a store, reading its checkpoint and log back.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub(crate) fn open(options: Options, metrics: TsdbMetrics) -> Result<Self> {
        let mut db = Self {
            head: RwLock::default(),
            wal: None,
            checkpointing: Mutex::default(),
            sealed_bytes: AtomicU64::new(0),
            options,
            metrics,
        };
        if let Some(dir) = db.options.dir.clone() {
            let wal = Wal::open(&dir, &db.metrics, &mut |record| db.replay(record))?;
            db.wal = Some(Mutex::new(wal));
            db.head.get_mut().aliases = AHashMap::new();
        }
        db.gauges();
        Ok(db)
    }

    /// A store without files or retention, for tests.
    #[must_use]
    pub fn in_memory() -> Self {
        let options = Options { dir: None, retention_ms: 0, retention_bytes: 0, checkpoint_bytes: u64::MAX };
        Self {
            head: RwLock::default(),
            wal: None,
            checkpointing: Mutex::default(),
            sealed_bytes: AtomicU64::new(0),
            options,
            metrics: TsdbMetrics::detached(),
        }
    }

    /// The series of a label set, made if there is none. Says also whether it is new.
    pub fn series(&self, labels: &Labels) -> (SeriesId, bool) {
        if let Some(id) = self.head.read().by_labels.get(labels) {
            return (*id, false);
        }
        let mut head = self.head.write();
        if let Some(id) = head.by_labels.get(labels) {
            return (*id, false);
        }
        let id = head.next_id + 1;
        let labels = head.insert(id, labels);
        if let Some(wal) = &self.wal {
            wal.lock().series(id, &labels);
        }
        self.metrics.series_created.inc();
        self.metrics.head_series.set(head.series.len() as i64);
        (id, true)
    }

    /// Stores samples, each in its series.
    pub fn append(&self, samples: &[(SeriesId, Sample)]) -> Outcome {
        let head = self.head.read();
        let mut outcome = Outcome::default();
        let mut accepted = Vec::with_capacity(if self.wal.is_some() { samples.len() } else { 0 });
        for &(id, sample) in samples {
            let Some(series) = head.series.get(&id) else {
                outcome.unknown += 1;
                continue;
            };
            match self.push(series, sample) {
                Ok(true) => {
                    outcome.appended += 1;
                    if self.wal.is_some() {
                        accepted.push((id, sample));
                    }
                }
                Ok(false) => {}
                Err(true) => outcome.out_of_order += 1,
                Err(false) => outcome.duplicate += 1,
            }
        }
        if let Some(wal) = self.wal.as_ref().filter(|_| !accepted.is_empty()) {
            wal.lock().samples(&accepted);
        }
        self.metrics.appended.inc_by(outcome.appended as u64);
        self.metrics.out_of_order.inc_by(outcome.out_of_order as u64);
        outcome
    }

    /// Whether the sample was stored (`false`: the series has it already); else whether it was out of order or a duplicate.
    fn push(&self, series: &Series, sample: Sample) -> Result<bool, bool> {
        let mut state = series.state.lock();
        if let Some((t, v)) = state.last() {
            if sample.t < t {
                return Err(true);
            }
            if sample.t == t {
                return if v.is_none_or(|v| v.to_bits() == sample.v.to_bits()) { Ok(false) } else { Err(false) };
            }
        }
        if state.open.count() >= FULL {
            let sealed = state.open.seal();
            self.sealed_bytes.fetch_add(sealed.size() as u64, Ordering::Relaxed);
            self.metrics.chunks_created.inc();
            state.sealed.push(sealed);
        }
        state.open.append(sample);
        Ok(true)
    }

    /// The series that all matchers hold of and that may have samples from `min_t` to `max_t`, in order of their labels.
    #[must_use]
    pub fn select(&self, matchers: &[Matcher], min_t: i64, max_t: i64) -> Vec<Arc<Series>> {
        let head = self.head.read();
        let fits = |series: &&Arc<Series>| Matcher::all_match(matchers, &series.labels) && series.has_samples_in(min_t, max_t);
        let mut found: Vec<Arc<Series>> = match head.index.candidates(matchers) {
            Some(ids) => ids.iter().filter_map(|id| head.series.get(id)).filter(fits).cloned().collect(),
            None => head.series.values().filter(fits).cloned().collect(),
        };
        drop(head);
        found.sort_by(|a, b| a.labels.cmp(&b.labels));
        found
    }

    /// All label names, sorted.
    #[must_use]
    pub fn label_names(&self) -> Vec<Sym> {
        self.head.read().index.names()
    }

    /// All values of a label, sorted.
    #[must_use]
    pub fn label_values(&self, name: &str) -> Vec<Sym> {
        self.head.read().index.values(name)
    }

    /// Writes what was appended to the log. Blocks on the file.
    ///
    /// # Errors
    /// When the log cannot be written; what was not written stays pending.
    pub fn flush(&self) -> Result<()> {
        match &self.wal {
            Some(wal) => wal.lock().flush(&self.metrics),
            None => Ok(()),
        }
    }

    /// Whether something waits for [`Tsdb::flush`].
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.wal.as_ref().is_some_and(|wal| wal.lock().is_dirty())
    }

    /// Flushes and makes the log durable against power loss. Blocks.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn sync(&self) -> Result<()> {
        match &self.wal {
            Some(wal) => {
                let mut wal = wal.lock();
                wal.flush(&self.metrics)?;
                wal.sync()
            }
            None => Ok(()),
        }
    }

    /// Drops what retention says, then writes a checkpoint if the log has grown enough. Blocks.
    ///
    /// # Errors
    /// When the checkpoint cannot be written; the log then stays as it is.
    pub fn maintain(&self, now_ms: i64) -> Result<()> {
        self.retain(now_ms);
        let due = self.wal.as_ref().is_some_and(|wal| wal.lock().size() >= self.options.checkpoint_bytes);
        if due { self.checkpoint() } else { Ok(()) }
    }

    /// Drops chunks that are too old or too many, and series left without samples.
    pub fn retain(&self, now_ms: i64) {
        let mut cutoff = i64::MIN;
        if self.options.retention_ms > 0 {
            cutoff = now_ms - self.options.retention_ms;
        }
        if self.options.retention_bytes > 0
            && let Some(by_size) = self.size_cutoff(self.options.retention_bytes)
        {
            self.metrics.size_retentions.inc();
            cutoff = cutoff.max(by_size);
        }
        if cutoff == i64::MIN {
            return;
        }
        let mut gone = Vec::new();
        for series in self.all() {
            let mut state = series.state.lock();
            let old = state.sealed.partition_point(|c| c.max_t < cutoff);
            if old > 0 {
                let freed: usize = state.sealed.drain(..old).map(|c| c.size()).sum();
                state.sealed.shrink_to_fit();
                self.sealed_bytes.fetch_sub(freed as u64, Ordering::Relaxed);
                self.metrics.chunks_removed.inc_by(old as u64);
            }
            if state.sealed.is_empty() && state.open.last().is_none_or(|last| last.t < cutoff) {
                gone.push(series.id);
            }
        }
        if !gone.is_empty() {
            self.remove(&gone, cutoff);
        }
        self.gauges();
    }

    /// Where to cut so that sealed chunks fill at most nine tenths of `limit`; `None` when they fit already.
    fn size_cutoff(&self, limit: usize) -> Option<i64> {
        let total = self.sealed_bytes.load(Ordering::Relaxed) as usize;
        if total <= limit {
            return None;
        }
        let mut chunks: Vec<(i64, usize)> = Vec::new();
        for series in self.all() {
            chunks.extend(series.state.lock().sealed.iter().map(|c| (c.max_t, c.size())));
        }
        chunks.sort_unstable();
        let mut excess = total.saturating_sub(limit / 10 * 9);
        for (max_t, size) in chunks {
            if excess <= size {
                return Some(max_t + 1);
            }
            excess -= size;
        }
        None
    }

    fn remove(&self, gone: &[SeriesId], cutoff: i64) {
        let mut head = self.head.write();
        let mut removed = AHashSet::new();
        for id in gone {
            // A sample may have come meanwhile; none can come under the write lock.
            let Some(series) = head.series.get(id).filter(|s| s.span().is_none_or(|(_, last)| last < cutoff)).cloned() else {
                continue;
            };
            head.series.remove(id);
            head.by_labels.remove(&series.labels);
            removed.insert(*id);
        }
        head.index.remove(&removed);
        self.metrics.series_removed.inc_by(removed.len() as u64);
        drop(removed);
        head.symbols.retain(|s| Arc::strong_count(s) > 1);
    }

    /// Writes all of memory to a checkpoint and begins a new log. Blocks.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn checkpoint(&self) -> Result<()> {
        let Some(wal) = &self.wal else { return Ok(()) };
        let _one = self.checkpointing.lock();
        // What is appended from here on goes into the new segment, and may be in the checkpoint too: replay skips it there.
        let mut checkpoint = wal.lock().rotate(&self.metrics)?;
        for series in self.all() {
            let chunks: Vec<Sealed> = {
                let state = series.state.lock();
                let open = (state.open.count() > 0).then(|| state.open.clone().seal());
                state.sealed.iter().cloned().chain(open).collect()
            };
            checkpoint.series(series.id, &series.labels, &chunks)?;
        }
        checkpoint.finish()?;
        self.metrics.checkpoints.inc();
        Ok(())
    }

    fn all(&self) -> Vec<Arc<Series>> {
        self.head.read().series.values().cloned().collect()
    }

    fn replay(&self, record: Record) {
        let mut head = self.head.write();
        match record {
            Record::Series(id, labels) => {
                head.next_id = head.next_id.max(id);
                match head.by_labels.get(&labels).copied() {
                    Some(known) if known != id => drop(head.aliases.insert(id, known)),
                    Some(_) => {}
                    None => drop(head.insert(id, &labels)),
                }
            }
            Record::Samples(samples) => {
                for (id, sample) in samples {
                    let id = head.aliases.get(&id).copied().unwrap_or(id);
                    match head.series.get(&id) {
                        // What the checkpoint holds already comes again: refused as old.
                        Some(series) => drop(self.push(series, sample)),
                        None => self.metrics.wal_unknown.inc(),
                    }
                }
            }
            Record::Chunks(id, mut chunks) => {
                let Some(series) = head.series.get(&id) else { return };
                let mut state = series.state.lock();
                let last = chunks.last().is_some_and(|c| c.count < FULL).then(|| chunks.pop()).flatten();
                let bytes: usize = chunks.iter().map(Sealed::size).sum();
                self.sealed_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
                state.sealed = chunks;
                for sample in last.iter().flat_map(Sealed::read) {
                    state.open.append(sample);
                }
            }
        }
    }

    fn gauges(&self) {
        let series = self.all();
        let chunks: usize = series.iter().map(|s| s.state.lock().sealed.len() + 1).sum();
        let spans = || series.iter().filter_map(|s| s.span());
        self.metrics.head_series.set(series.len() as i64);
        self.metrics.head_chunks.set(chunks as i64);
        self.metrics.chunk_bytes.set(self.sealed_bytes.load(Ordering::Relaxed) as i64);
        self.metrics.min_time.set(spans().map(|s| s.0).min().unwrap_or(0));
        self.metrics.max_time.set(spans().map(|s| s.1).max().unwrap_or(0));
        self.metrics.symbols.set(self.head.read().symbols.iter().map(|s| s.len() as i64).sum());
    }

    /// Counts for the status page; at most `limit` of each list.
    #[must_use]
    pub fn stats(&self, limit: usize) -> Stats {
        let series = self.all();
        let spans: Vec<(i64, i64)> = series.iter().filter_map(|s| s.span()).collect();
        let mut stats = self.head.read().index.stats(limit);
        stats.series = series.len();
        stats.chunks = series.iter().map(|s| s.state.lock().sealed.len() + 1).sum();
        stats.min_t = spans.iter().map(|s| s.0).min().unwrap_or(i64::MAX);
        stats.max_t = spans.iter().map(|s| s.1).max().unwrap_or(i64::MIN);
        stats
    }
}

// === impl Head ===

impl Head {
    /// Adds a series, its strings shared with all others.
    fn insert(&mut self, id: SeriesId, labels: &Labels) -> Labels {
        let pairs: Vec<(Sym, Sym)> = labels.iter().map(|(n, v)| (self.symbol(n), self.symbol(v))).collect();
        let labels = Labels::from_pairs(pairs);
        let state = Mutex::new(State { sealed: Vec::new(), open: Open::new() });
        self.index.insert(id, &labels);
        self.by_labels.insert(labels.clone(), id);
        self.series.insert(id, Arc::new(Series { id, labels: labels.clone(), state }));
        self.next_id = self.next_id.max(id);
        labels
    }

    fn symbol(&mut self, text: &Sym) -> Sym {
        if let Some(known) = self.symbols.get(text) {
            return known.clone();
        }
        self.symbols.insert(text.clone());
        text.clone()
    }
}
