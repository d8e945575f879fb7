//! The engine in this process: a commit log on disk, an index in memory.
//!
//! Writes wait in a bounded queue. One thread, the committer, takes all that wait, checks each against the index and
//! the writes before it, appends them to the log as one batch with one `fdatasync`, applies them to the index, feeds
//! the caches, announces the revision, and only then acknowledges. So nothing is visible that is not durable, and an
//! acknowledged write is in every cache. Nobody else changes the index, except that compaction forgets.
//!
//! Rejected: redb or fjall for the commit path (batches of 256 are three to six times slower and the tail is longer),
//! and checking writes where they are made (needs locks per key, and a second check at commit anyway).

mod config;
mod committer;
mod index;
mod log;
pub(crate) mod record;
pub(crate) mod restore;
mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::{HashSet, VecDeque};
use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use parking_lot::{Mutex, RwLock};
use pharos_telemetry::Clock;
use prometheus::IntGauge;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::keyring::Keyring;
use crate::routes::Routes;
use crate::{Batch, Commit, Entry, Error, Event, Metrics, Op, Page, Range, Result, Revision, Sink, Status, Store, files};
use committer::{Committer, Job};
pub use config::Config;
use index::Index;
use log::{Log, Sealed};
use record::Stored;
use snapshot::SnapshotFile;

/// The file of encryption keys in the store's directory.
pub const KEY_FILE: &str = "encryption.keys";
/// Events a watch looks at under one lock.
const WATCH_SCAN: usize = 1024;
/// Events compaction forgets under one lock.
const COMPACT_STEP: usize = 4096;

/// The embedded engine. One process at a time has a directory open.
pub struct Embedded {
    core: Arc<Core>,
    queue: Mutex<Option<mpsc::Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the committer and everyone who reads share. Locks in the order of the fields.
struct Core {
    /// Held while a batch is applied and fed, and while a cache joins: it misses nothing and gets nothing twice.
    routes: Mutex<Routes>,
    index: RwLock<Index>,
    /// Sealed segments not yet in the snapshot, oldest first.
    sealed: Mutex<VecDeque<Sealed>>,
    /// Held while segments are folded.
    snapshot: Mutex<SnapshotFile>,
    revisions: watch::Sender<Revision>,
    /// Cancelled when the committer has ended.
    closed: CancellationToken,
    /// Woken when maintenance may have something new to do.
    maintenance: Notify,
    keyring: Arc<Keyring>,
    clock: Clock,
    metrics: Metrics,
    config: Config,
    /// Locked as long as the store is open.
    _lock: File,
}

impl Embedded {
    /// Opens the store in a directory, made if need be. Blocks while it reads the snapshot and the log.
    ///
    /// Dropping it ends the committer after what is queued; [`close`](Embedded::close) also waits for that.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`]; [`Error::Corrupt`] if files do not hold what was written, except for a torn batch at the end,
    /// which was never acknowledged and is cut; [`Error::Decrypt`] if a key is missing; [`Error::Io`].
    pub fn open(config: Config, clock: Clock, metrics: Metrics) -> Result<Arc<Self>> {
        config.check()?;
        files::create_dir(&config.dir)?;
        let lock = lock(&config.dir)?;
        let keyring = Arc::new(Keyring::open(config.dir.join(KEY_FILE), config.encrypted_prefixes.clone())?);
        let snapshot = SnapshotFile::new(&config.dir);

        let mut index = Index::default();
        let mut used_keys = HashSet::new();
        let meta = snapshot.load(|key, revision, stored| {
            used_keys.extend(stored.seal.map(|(key_id, _)| key_id));
            index.load(entry(&keyring, key.into(), revision, stored)?);
            Ok(())
        })?;
        index.loaded(meta.revision);
        let from = (meta.segment + 1, meta.revision);
        let recovered = Log::recover(&config.dir, config.segment_bytes, from, |revision, changes| {
            for change in changes {
                let key: Arc<str> = change.key.into();
                used_keys.extend(change.put.and_then(|stored| stored.seal).map(|(key_id, _)| key_id));
                let current = change.put.map(|stored| entry(&keyring, key.clone(), revision, &stored)).transpose()?;
                let previous = index.current(&key).cloned();
                index.apply(Arc::new(Event { revision, key, current, previous }));
            }
            Ok(())
        })?;
        index.trim(config.max_history_bytes);
        keyring.forget_retired(&used_keys)?;

        let (queue, jobs) = mpsc::channel(config.queue_commits); // Full: commits wait in `commit`.
        let core = Arc::new(Core {
            routes: Mutex::default(),
            revisions: watch::Sender::new(index.revision),
            index: RwLock::new(index),
            sealed: Mutex::new(recovered.sealed.into()),
            snapshot: Mutex::new(snapshot),
            closed: CancellationToken::new(),
            maintenance: Notify::new(),
            keyring,
            clock,
            metrics,
            config,
            _lock: lock,
        });
        core.measure();
        let committer = Committer::new(core.clone(), recovered.log);
        let thread = thread::Builder::new().name("store-commit".to_owned()).spawn(move || committer.run(jobs));
        let thread = thread.map_err(|e| Error::io("start the committer of", &core.config.dir, e))?;
        Ok(Arc::new(Self { core, queue: Mutex::new(Some(queue)), thread: Mutex::new(Some(thread)) }))
    }

    /// Takes no more commits, does those that wait, ends the log in order and lets go of the directory once the last
    /// reference is dropped.
    pub async fn close(&self) {
        drop(self.queue.lock().take());
        self.core.closed.cancelled().await;
        if let Some(thread) = self.thread.lock().take() {
            drop(thread.join()); // Has nothing left to do.
        }
    }

    /// Deletes up to 1,000 entries whose time to live is over. Returns how many went.
    pub(crate) async fn expire(&self) -> Result<usize> {
        let due = self.core.index.read().expired(self.core.clock.now().as_second(), 1000);
        let deletions = due.into_iter().map(|(key, revision)| {
            // Renewed in the meantime: lives on.
            self.commit(vec![Op::delete(key, crate::Expect::Revision(revision))])
        });
        let mut expired = 0;
        for outcome in futures::future::join_all(deletions).await {
            match outcome {
                Ok(_) => expired += 1,
                Err(Error::Conflict { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        self.core.metrics.expired.inc_by(expired as u64);
        Ok(expired)
    }

    /// When the next entry expires, in seconds of Unix time.
    pub(crate) fn next_expiry(&self) -> Option<i64> {
        self.core.index.read().next_expiry()
    }

    /// Whether there is history to compact.
    pub(crate) fn has_history(&self) -> bool {
        self.core.index.read().history_len() > 0
    }

    /// Woken when there may be something new for maintenance to do.
    pub(crate) fn maintenance(&self) -> &Notify {
        &self.core.maintenance
    }

    /// Folds sealed log segments into the snapshot and removes them.
    pub(crate) async fn fold(&self) -> Result<()> {
        if self.core.sealed.lock().is_empty() {
            return Ok(());
        }
        self.core.clone().blocking(Core::fold).await
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.core.metrics
    }
}

#[async_trait]
impl Store for Embedded {
    async fn commit(&self, ops: Vec<Op>) -> Result<Commit> {
        let queue = self.queue.lock().clone().ok_or(Error::Closed)?;
        let (reply, answer) = oneshot::channel();
        let waiting = Waiting::new(&self.core.metrics.queue_commits);
        queue.send(Job { ops, reply, waiting }).await.map_err(|_| Error::Closed)?;
        drop(queue);
        answer.await.map_err(|_| Error::Closed)?
    }

    async fn get(&self, key: &str, at: Option<Revision>) -> Result<Option<Entry>> {
        self.core.index.read().get(key, at)
    }

    async fn list(&self, range: Range) -> Result<Page> {
        self.core.index.read().list(&range)
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<BoxStream<'static, Result<Batch>>> {
        self.core.index.read().watchable(after)?;
        let watcher = Watcher { revisions: self.core.revisions.subscribe(), core: self.core.clone(), after };
        let prefix: Arc<str> = prefix.into();
        let batches = stream::unfold(Some(watcher), move |watcher| {
            let prefix = prefix.clone();
            async move {
                let mut watcher = watcher?;
                let batch = watcher.next(&prefix).await;
                let rest = batch.is_ok().then_some(watcher);
                Some((batch, rest))
            }
        });
        Ok(batches.boxed())
    }

    async fn attach(&self, prefix: &str, sink: Arc<dyn Sink>) -> Result<()> {
        let prefix = prefix.to_owned();
        self.core.clone().blocking(move |core| core.attach(prefix, sink)).await
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        self.core.clone().blocking(move |core| core.compact(revision)).await
    }

    async fn revision(&self) -> Result<Revision> {
        Ok(*self.core.revisions.borrow())
    }

    fn revisions(&self) -> watch::Receiver<Revision> {
        self.core.revisions.subscribe()
    }

    fn check(&self) -> Result<()> {
        match &*self.thread.lock() {
            Some(thread) if !thread.is_finished() => Ok(()),
            _ => Err(Error::Closed),
        }
    }

    fn keyring(&self) -> &Arc<Keyring> {
        &self.core.keyring
    }

    async fn status(&self) -> Result<Status> {
        self.core.clone().blocking(Core::status).await
    }

    async fn defragment(&self) -> Result<()> {
        self.core.clone().blocking(Core::defragment).await
    }
}

// === impl Core ===

impl Core {
    /// Runs what takes long off the async threads.
    async fn blocking<T: Send + 'static>(self: Arc<Self>, act: impl FnOnce(&Self) -> Result<T> + Send + 'static) -> Result<T> {
        tokio::task::spawn_blocking(move || act(&self)).await.unwrap_or(Err(Error::Closed))
    }

    fn attach(&self, prefix: String, sink: Arc<dyn Sink>) -> Result<()> {
        let mut routes = self.routes.lock();
        routes.check(&prefix)?;
        let page = self.index.read().list(&Range { prefix: prefix.clone(), ..Range::default() })?;
        sink.reset(page.revision, page.entries);
        routes.add(prefix, sink);
        Ok(())
    }

    /// Makes a durable batch visible: to reads, then to caches, then to whoever waits for its revision.
    fn publish(&self, events: &[Arc<Event>]) {
        let Some(last) = events.last() else { return };
        let mut routes = self.routes.lock();
        let had_history = {
            let mut index = self.index.write();
            let had_history = index.history_len() > 0;
            let expiry = index.next_expiry();
            for event in events {
                index.apply(event.clone());
            }
            if index.history_bytes > self.config.max_history_bytes {
                index.trim(self.config.max_history_bytes / 4 * 3);
            }
            had_history && index.next_expiry().is_none_or(|next| expiry.is_some_and(|expiry| expiry <= next))
        };
        routes.feed(events);
        self.revisions.send_replace(last.revision);
        drop(routes);
        if !had_history {
            self.maintenance.notify_one(); // There is something to compact, or to expire earlier, now.
        }
    }

    fn compact(&self, revision: Revision) -> Result<()> {
        let _timer = self.metrics.compaction_seconds.start_timer();
        {
            let index = self.index.read();
            if revision < index.floor {
                return Err(Error::Compacted { requested: revision, oldest: index.floor });
            }
            if revision > index.revision {
                return Err(Error::FutureRevision { requested: revision, current: index.revision });
            }
        }
        while !self.index.write().compact(revision, COMPACT_STEP) {}
        self.measure();
        Ok(())
    }

    fn fold(&self) -> Result<()> {
        let snapshot = self.snapshot.lock();
        loop {
            let Some(segment) = self.sealed.lock().front().cloned() else { return Ok(()) };
            let _timer = self.metrics.snapshot_seconds.start_timer();
            snapshot.fold(&segment)?;
            files::remove(&segment.path)?;
            self.sealed.lock().pop_front();
            self.metrics.db_bytes.set(snapshot.bytes() as i64);
            tracing::debug!(segment = segment.id, "folded a log segment into the snapshot");
        }
    }

    fn status(&self) -> Result<Status> {
        let dir = &self.config.dir;
        let size_bytes = files::size(dir)?;
        let index = self.index.read();
        Ok(Status {
            engine: "embedded".into(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            place: dir.display().to_string(),
            revision: index.revision,
            compacted_revision: Some(index.floor),
            keys: index.live as u64,
            size_bytes,
        })
    }

    /// Gives space that the snapshot does not use back to the file system.
    fn defragment(&self) -> Result<()> {
        self.fold()?;
        let snapshot = self.snapshot.lock();
        snapshot.compact()?;
        self.metrics.db_bytes.set(snapshot.bytes() as i64);
        Ok(())
    }

    fn measure(&self) {
        let (metrics, index) = (&self.metrics, self.index.read());
        metrics.keys.set(index.live as i64);
        metrics.value_bytes.set(index.live_bytes as i64);
        metrics.history_events.set(index.history_len() as i64);
        metrics.history_bytes.set(index.history_bytes as i64);
        metrics.revision.set(index.revision as i64);
        metrics.compacted_revision.set(index.floor as i64);
    }
}

// === watching ===

/// A position in the history.
struct Watcher {
    core: Arc<Core>,
    revisions: watch::Receiver<Revision>,
    after: Revision,
}

impl Watcher {
    async fn next(&mut self, prefix: &str) -> Result<Batch> {
        loop {
            let newest = *self.revisions.borrow_and_update();
            while self.after < newest {
                let (revision, events) = self.core.index.read().events_after(prefix, self.after, WATCH_SCAN)?;
                self.after = revision;
                if !events.is_empty() {
                    return Ok(Batch { revision, events });
                }
            }
            tokio::select! {
                biased;
                changed = self.revisions.changed() => changed.map_err(|_| Error::Closed)?,
                () = self.core.closed.cancelled() => {
                    // What was committed last is still given.
                    if *self.revisions.borrow() <= self.after {
                        return Err(Error::Closed);
                    }
                }
            }
        }
    }
}

// === reading ===

/// Makes an entry of what was written.
fn entry(keyring: &Keyring, key: Arc<str>, revision: Revision, stored: &Stored<'_>) -> Result<Entry> {
    let bytes = match stored.seal {
        Some(seal) => keyring.open_sealed(&key, &record::context(&key, revision), seal, stored.data)?,
        None => Bytes::copy_from_slice(stored.data),
    };
    Ok(Entry {
        key,
        bytes,
        revision,
        create_revision: stored.create_revision,
        expires_unix_seconds: stored.expires_unix_seconds,
        revision_at: stored.revision_at,
    })
}

/// Takes the directory for this process.
pub(crate) fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let file = files::create_private(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { path: dir.to_owned() }),
        Err(TryLockError::Error(e)) => Err(Error::io("lock", path, e)),
    }
}

/// Counts a commit as waiting until it is dropped.
struct Waiting(IntGauge);

impl Waiting {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.dec();
    }
}
