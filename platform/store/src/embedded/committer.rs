//! The one thread that writes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::log::Log;
use super::record::{self, Logged, Stored};
use super::{Core, Waiting};
use crate::{Change, Commit, Entry, Error, Event, Op, Result, Revision};

/// Commits made durable together at most; the bytes of a batch are bounded by the segment.
const BATCH_COMMITS: usize = 1024;
/// Bytes an operation takes in the log besides its key and value, at most.
const OP_OVERHEAD: usize = 64;

/// A commit that waits, and where its answer goes.
pub(super) struct Job {
    pub(super) ops: Vec<Op>,
    pub(super) reply: oneshot::Sender<Result<Commit>>,
    /// Counts it while it is queued.
    pub(super) waiting: Waiting,
}

pub(super) struct Committer {
    core: Arc<Core>,
    log: Log,
    batch: Batch,
}

/// Commits that were checked and encoded but are not yet durable.
#[derive(Default)]
struct Batch {
    frames: Vec<u8>,
    events: Vec<Arc<Event>>,
    /// Keys these events change, and their state after.
    overlay: HashMap<Arc<str>, Option<Entry>>,
    replies: Vec<(oneshot::Sender<Result<Commit>>, Result<Commit>)>,
}

impl Committer {
    pub(super) fn new(core: Arc<Core>, log: Log) -> Self {
        Self { core, log, batch: Batch::default() }
    }

    /// Works until nobody can queue any more.
    pub(super) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(job) = jobs.blocking_recv() {
            let timer = self.core.metrics.commit_seconds.start_timer();
            self.take(job);
            let batch_bytes = self.core.config.segment_bytes as usize / 4;
            while self.batch.replies.len() < BATCH_COMMITS && self.batch.frames.len() < batch_bytes {
                let Ok(job) = jobs.try_recv() else { break };
                self.take(job);
            }
            self.finish();
            drop(timer);
        }
        let fsync_seconds = &self.core.metrics.fsync_seconds;
        if let Err(error) = self.log.close(fsync_seconds) {
            tracing::warn!(error = &error as &dyn std::error::Error, "could not end the log in order");
        }
        self.core.closed.cancel();
    }

    /// Checks a commit and adds it to the batch.
    fn take(&mut self, job: Job) {
        drop(job.waiting);
        let outcome = self.plan(job.ops);
        self.batch.replies.push((job.reply, outcome));
    }

    fn plan(&mut self, ops: Vec<Op>) -> Result<Commit> {
        self.check(&ops)?;
        let core = self.core.clone();
        let index = core.index.read();
        let newest = self.batch.events.last().map_or(index.revision, |event| event.revision);
        let now = || core.clock.now().as_second();

        let current = |key: &Arc<str>| match self.batch.overlay.get(key) {
            Some(entry) => entry.clone(),
            None => index.current(key).cloned(),
        };
        let mut changes = Vec::with_capacity(ops.len());
        for op in &ops {
            let previous = current(op.key());
            if !op.expect().holds(previous.as_ref().map(|entry| entry.revision)) {
                return Err(Error::Conflict { key: op.key().clone(), current: previous.map(Box::new) });
            }
            changes.push(Change { current: previous.clone(), previous });
        }
        drop(index);

        let revision = newest + 1;
        let mut is_changed = false;
        for (op, change) in ops.into_iter().zip(&mut changes) {
            change.current = match op {
                Op::Check { .. } => continue,
                Op::Delete { .. } => None,
                Op::Put { key, value, ttl, .. } => Some(Entry {
                    key,
                    bytes: value.splice(revision),
                    revision,
                    create_revision: change.previous.as_ref().map_or(revision, |entry| entry.create_revision),
                    expires_unix_seconds: ttl.map(|ttl| now().saturating_add_unsigned(ttl.as_secs_f64().ceil() as u64)),
                    revision_at: value.revision_at(),
                }),
            };
            is_changed |= change.current.is_some() || change.previous.is_some();
        }
        if !is_changed {
            return Ok(Commit { revision: newest, changes });
        }
        self.encode(revision, &changes)?;
        for change in &changes {
            let Some(event) = event(revision, change) else { continue };
            self.batch.overlay.insert(event.key.clone(), event.current.clone());
            self.batch.events.push(Arc::new(event));
        }
        Ok(Commit { revision, changes })
    }

    fn check(&self, ops: &[Op]) -> Result<()> {
        let mut keys = HashSet::with_capacity(ops.len());
        let mut size_bytes = 0;
        for op in ops {
            if op.key().is_empty() || !keys.insert(op.key()) {
                return Err(Error::Invalid(format!("key {:?} is empty or named twice", op.key())));
            }
            let value = if let Op::Put { value, .. } = op { value.bytes().len() } else { 0 };
            size_bytes += op.key().len() + value + OP_OVERHEAD;
        }
        match self.core.config.max_commit_bytes {
            limit_bytes if size_bytes > limit_bytes => Err(Error::TooLarge { size_bytes, limit_bytes }),
            _ => Ok(()),
        }
    }

    /// Writes a commit's frame into the batch; leaves the batch as it was if that fails.
    fn encode(&mut self, revision: Revision, changes: &[Change]) -> Result<()> {
        let events: Vec<_> = changes.iter().filter_map(|change| event(revision, change)).collect();
        let frames = &mut self.batch.frames;
        let start = record::begin_frame(frames, revision, events.len());
        for event in &events {
            let entry = event.current.as_ref();
            let sealed = entry
                .map(|entry| {
                    let context = record::context(&entry.key, revision);
                    self.core.keyring.seal(&entry.key, &context, &entry.bytes)
                })
                .transpose();
            let sealed = sealed.inspect_err(|_| frames.truncate(start))?.flatten();
            let put = entry.map(|entry| Stored {
                create_revision: entry.create_revision,
                revision_at: entry.revision_at,
                expires_unix_seconds: entry.expires_unix_seconds,
                seal: sealed.as_ref().map(|sealed| (sealed.key_id, sealed.nonce)),
                data: sealed.as_ref().map_or(&entry.bytes, |sealed| &sealed.data),
            });
            record::put_change(frames, &Logged { key: &event.key, put });
        }
        record::finish_frame(frames, start);
        Ok(())
    }

    /// Makes the batch durable and visible, then answers. If that fails, nobody's write happened.
    fn finish(&mut self) {
        let mut batch = std::mem::take(&mut self.batch);
        let failed = self.write(&mut batch).err();
        if let Some(error) = &failed {
            tracing::error!(error = error as &dyn std::error::Error, "could not write a batch of commits");
        } else {
            self.core.publish(&batch.events);
            self.core.measure();
        }
        let metrics = &self.core.metrics;
        for (reply, outcome) in batch.replies {
            // Even a conflict may have been with a write of this batch.
            let outcome = failed.clone().map_or(outcome, Err);
            let label = match &outcome {
                Ok(_) => "ok",
                Err(Error::Conflict { .. }) => "conflict",
                Err(Error::Invalid(_) | Error::TooLarge { .. }) => "invalid",
                Err(_) => "failed",
            };
            metrics.commits.with_label_values(&[label]).inc();
            drop(reply.send(outcome)); // Whoever asked may have gone.
        }
        // Keeps the room for the next batch, unless it was a rare large one.
        batch.frames.clear();
        batch.frames.shrink_to(1 << 20);
        self.batch.frames = batch.frames;
    }

    fn write(&mut self, batch: &mut Batch) -> Result<()> {
        let Some(last) = batch.events.last() else { return Ok(()) };
        let metrics = &self.core.metrics;
        if let Some(sealed) = self.log.append(&mut batch.frames, last.revision, &metrics.fsync_seconds)? {
            self.core.sealed.lock().push_back(sealed);
            self.core.maintenance.notify_one();
        }
        metrics.batch_commits.observe(batch.replies.len() as f64);
        let log_bytes = self.log.bytes(self.core.sealed.lock().len()) as i64;
        metrics.log_bytes.set(log_bytes);
        metrics.size_bytes.set(log_bytes + metrics.db_bytes.get());
        Ok(())
    }
}

/// The event a change makes; checks and removals of nothing make none.
fn event(revision: Revision, change: &Change) -> Option<Event> {
    let (current, previous) = (&change.current, &change.previous);
    let is_new = current.as_ref().map(|entry| entry.revision) == Some(revision);
    let is_gone = current.is_none() && previous.is_some();
    let key = current.as_ref().or(previous.as_ref())?.key.clone();
    (is_new || is_gone).then(|| Event { revision, key, current: current.clone(), previous: previous.clone() })
}
