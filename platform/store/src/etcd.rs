//! The engine in an etcd cluster, which other servers may use too.
//!
//! A commit is one transaction that compares revisions. It is acknowledged when etcd has done it and its events have come
//! back through the watch that feeds the caches, so that an acknowledged write is in every cache here. Other servers'
//! writes come the same way. What is newest, etcd is asked; reads of caches then wait until the watch is that far, and
//! ask for progress if nothing comes, as upstream (`storage/cacher`, `ConsistentListFromCache`).
//!
//! Rejected: a watch for each resource, as upstream has. One keeps the order of everything, so that one revision says how
//! far all caches are, and progress is asked for once.

mod client;
mod codec;
mod compactor;
mod config;
mod feed;
mod joining;
mod lease;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Compare, CompareOp, DeleteOptions, GetOptions, PutOptions, Txn, TxnOp, TxnOpResponse, WatchOptions};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use parking_lot::Mutex;
use pharos_telemetry::Clock;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::FRESH_DEADLINE;
use crate::keyring::Keyring;
use crate::routes::Routes;
use crate::{
    Batch, Change, Commit, Entry, Error, EtcdMetrics, Event, Expect, Op, Page, Range, Result, Revision, Sink, Status, Store,
};
use client::{Calls, header_revision, supports_progress};
use codec::{Codec, Raw, revision, signed};
pub use compactor::Compactor;
pub use config::{EtcdConfig, EtcdTls};
use feed::Told;
use joining::Joining;
use lease::Leases;

/// Entries read with one call.
const PAGE: usize = 500;
/// How long a commit waits for its own events, which etcd sends at once.
const SEEN_DEADLINE: Duration = Duration::from_secs(10);
/// Until progress is asked for: others' events come by themselves; then again and again, as upstream
/// (`cacher/progress/watch_progress.go`).
const PROGRESS_PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(100));
/// What etcd says of a lease that is gone.
const NO_LEASE: &str = "requested lease not found";
/// How often a state is read while more comes than may wait.
const JOIN_ATTEMPTS: usize = 5;

/// The etcd engine.
pub struct Etcd {
    core: Arc<Core>,
    feed: AbortHandle,
}

/// What the feed and everyone who reads and writes share.
struct Core {
    calls: Arc<Calls>,
    codec: Codec,
    leases: Leases,
    /// Held while sinks are fed, and while one joins.
    routes: Mutex<Routes>,
    revisions: watch::Sender<Revision>,
    /// Asks the feed for a request for progress.
    progress_wanted: Notify,
    /// Whether etcd's answers to that can be relied on.
    supports_progress: bool,
    /// Why the feed does not run.
    trouble: Mutex<Option<Error>>,
    clock: Clock,
    config: EtcdConfig,
}

impl Etcd {
    /// Connects to a cluster and begins to watch it.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for settings that make no sense, and if etcd has encrypted values but there is no file of keys;
    /// [`Error::Io`] for files that can't be read; [`Error::Backend`] if etcd does not answer.
    pub async fn open(config: EtcdConfig, clock: Clock, metrics: EtcdMetrics) -> Result<Arc<Self>> {
        config.check()?;
        let has_keys = config.key_file.exists();
        let calls = Arc::new(Calls::connect(config.clone(), metrics).await?);
        if !has_keys {
            refuse_foreign_secrets(&calls, &config).await?;
        }
        let keyring = Arc::new(Keyring::open(&config.key_file, config.encrypted_prefixes.clone())?);
        let codec = Codec::new(config.prefix.clone(), config.root.clone(), keyring);
        let versions = calls.versions().await?;
        let supports_progress = versions.iter().all(|version| supports_progress(version));
        if !supports_progress {
            tracing::info!(?versions, "this etcd's progress notifications are not reliable; consistent reads may write a marker");
        }
        let core = Arc::new(Core {
            leases: Leases::new(calls.clone()),
            calls,
            codec,
            routes: Mutex::default(),
            revisions: watch::Sender::new(0),
            progress_wanted: Notify::new(),
            supports_progress,
            trouble: Mutex::new(Some(Error::Backend("the watch is not yet established".to_owned()))),
            clock,
            config,
        });
        core.revisions.send_replace(core.header_revision().await?);
        core.forget_retired_keys().await?;
        #[expect(clippy::disallowed_methods, reason = "the engine's one task, as the embedded one's thread; ends with it")]
        let feed = tokio::spawn(feed::run(core.clone())).abort_handle();
        Ok(Arc::new(Self { core, feed }))
    }

    /// Deletes every entry, as after a move here that failed.
    ///
    /// # Errors
    ///
    /// [`Error::Backend`].
    pub async fn clear(&self) -> Result<()> {
        let (start, end) = self.core.codec.range("", None)?;
        self.core.calls.delete(&start, &end).await
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.feed.abort();
    }
}

/// Without the keys of the server that encrypted them, values can't be read: better to say so than to make a key beside.
async fn refuse_foreign_secrets(calls: &Calls, config: &EtcdConfig) -> Result<()> {
    for prefix in &config.encrypted_prefixes {
        let key = format!("{}{}", config.prefix, prefix.strip_prefix(&config.root).unwrap_or(prefix));
        let found = calls.get(&key, GetOptions::new().with_prefix().with_limit(1)).await?;
        if found.kvs().iter().any(|kv| kv.value().starts_with(codec::SEALED)) {
            let file = config.key_file.display();
            return Err(Error::Invalid(format!("etcd has encrypted values; copy {file} from a server that uses it")));
        }
    }
    Ok(())
}

#[async_trait]
impl Store for Etcd {
    async fn commit(&self, ops: Vec<Op>) -> Result<Commit> {
        self.core.commit(ops).await
    }

    async fn get(&self, key: &str, at: Option<Revision>) -> Result<Option<Entry>> {
        let options = self.core.at(GetOptions::new(), at).await?;
        let key = self.core.codec.key(key)?;
        let got = self.core.calls.get(&key, options).await;
        match self.core.explain(got, at).await?.kvs().first() {
            Some(kv) => self.core.codec.decode(Raw::from(kv)),
            None => Ok(None),
        }
    }

    async fn list(&self, range: Range) -> Result<Page> {
        self.core.list(&range).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<BoxStream<'static, Result<Batch>>> {
        let core = self.core.clone();
        if after > 0 {
            // etcd would wait for a revision to come, and tell only later of one that is gone.
            let options = GetOptions::new().with_count_only().with_revision(signed(after));
            let got = core.calls.get(&core.codec.marker(), options).await;
            core.explain(got, Some(after)).await?;
        }
        let watch = feed::watch(&core, prefix, after).await?;
        let batches = stream::unfold(Some(watch), move |watch| {
            let core = core.clone();
            async move {
                let mut watch = watch?;
                let batch = loop {
                    let response = match watch.message().await {
                        Ok(Some(response)) => response,
                        Ok(None) => break Err(Error::Closed),
                        Err(error) => break Err(Error::Backend(error.to_string())),
                    };
                    match feed::read(&core, &response) {
                        Ok(Told::Created | Told::Progress(_)) => {}
                        Ok(Told::Events(events, _)) if events.is_empty() => {}
                        Ok(Told::Events(events, revision)) => break Ok(Batch { revision, events }),
                        Err(Error::Compacted { oldest, .. }) => break Err(Error::Compacted { requested: after, oldest }),
                        Err(error) => break Err(error),
                    }
                };
                let rest = batch.is_ok().then_some(watch);
                Some((batch, rest))
            }
        });
        Ok(batches.boxed())
    }

    async fn attach(&self, prefix: &str, sink: Arc<dyn Sink>) -> Result<()> {
        let joining = Arc::new(Joining::new(sink));
        {
            let mut routes = self.core.routes.lock();
            routes.check(prefix)?;
            routes.add(prefix.to_owned(), joining.clone());
        }
        let outcome = self.core.join(prefix, &joining).await;
        if outcome.is_err() {
            joining.give_up();
        }
        outcome
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        let outcome = self.core.calls.compact(revision).await;
        self.core.explain(outcome, Some(revision)).await
    }

    async fn revision(&self) -> Result<Revision> {
        let revision = self.core.header_revision().await?;
        self.core.reach(revision, Some(revision)).await?;
        Ok(revision)
    }

    async fn reach(&self, revision: Revision) -> Result<()> {
        self.core.reach(revision, None).await
    }

    fn revisions(&self) -> watch::Receiver<Revision> {
        self.core.revisions.subscribe()
    }

    fn check(&self) -> Result<()> {
        self.core.trouble.lock().clone().map_or(Ok(()), Err)
    }

    fn keyring(&self) -> &Arc<Keyring> {
        self.core.codec.keyring()
    }

    async fn status(&self) -> Result<Status> {
        let core = &self.core;
        let (version, size_bytes) = core.calls.status().await?;
        let (start, end) = core.codec.range("", None)?;
        let counted = core.calls.get(&start, GetOptions::new().with_range(end).with_count_only()).await?;
        Ok(Status {
            engine: "etcd".into(),
            version,
            place: core.config.endpoints.join(","),
            revision: header_revision(counted.header())?,
            compacted_revision: core.compacted().await?,
            keys: u64::try_from(counted.count()).unwrap_or(0),
            size_bytes,
        })
    }

    async fn defragment(&self) -> Result<()> {
        self.core.calls.defragment().await
    }
}

// === writing ===

impl Core {
    async fn commit(&self, ops: Vec<Op>) -> Result<Commit> {
        match self.attempt(&ops).await {
            // Nothing was done: etcd was set back, or the lease was revoked by hand.
            Err(Error::Backend(why)) if why.contains(NO_LEASE) => {
                self.leases.forget().await;
                self.attempt(&ops).await
            }
            outcome => outcome,
        }
    }

    async fn attempt(&self, ops: &[Op]) -> Result<Commit> {
        self.check(ops)?;
        if ops.is_empty() {
            return Ok(Commit { revision: self.header_revision().await?, changes: Vec::new() });
        }
        let keys = ops.iter().map(|op| self.codec.key(op.key())).collect::<Result<Vec<_>>>()?;
        let mut puts = Vec::with_capacity(ops.len());
        let mut steps = Vec::with_capacity(ops.len());
        for (op, key) in ops.iter().zip(&keys) {
            let (step, put) = self.step(op, key).await?;
            steps.push(step);
            puts.push(put);
        }
        let compares: Vec<_> = ops.iter().zip(&keys).flat_map(|(op, key)| compares(op.expect(), key)).collect();
        let gets: Vec<_> = keys.iter().map(|key| TxnOp::get(key.as_str(), None)).collect();
        let response = match self.calls.txn(Txn::new().when(compares).and_then(steps).or_else(gets)).await {
            Err(Error::TooLarge { limit_bytes, .. }) => return Err(Error::TooLarge { size_bytes: size(ops), limit_bytes }),
            outcome => outcome?,
        };
        let revision = header_revision(response.header())?;
        if !response.succeeded() {
            return Err(self.conflict(ops, &response.op_responses()));
        }
        let changes = self.changes(revision, puts, &response.op_responses())?;
        let is_changed = |change: &Change| revision_of(&change.current) != revision_of(&change.previous);
        if !changes.iter().any(is_changed) {
            return Ok(Commit { revision, changes });
        }
        // Acknowledged means seen: the events of it come by themselves.
        let mut revisions = self.revisions.subscribe();
        match timeout(SEEN_DEADLINE, revisions.wait_for(|seen| *seen >= revision)).await {
            Ok(Ok(_)) => Ok(Commit { revision, changes }),
            Ok(Err(_)) => Err(Error::Closed),
            Err(_) => Err(Error::Backend(format!("written at revision {revision}, but its events did not come back in time"))),
        }
    }

    fn check(&self, ops: &[Op]) -> Result<()> {
        let mut keys = HashSet::with_capacity(ops.len());
        for op in ops {
            if op.key().is_empty() || !keys.insert(op.key()) {
                return Err(Error::Invalid(format!("key {:?} is empty or named twice", op.key())));
            }
        }
        match self.config.max_commit_bytes {
            limit_bytes if size(ops) > limit_bytes => Err(Error::TooLarge { size_bytes: size(ops), limit_bytes }),
            _ => Ok(()),
        }
    }

    /// What etcd is to do for an operation, and the entry that makes, yet without revisions.
    async fn step(&self, op: &Op, key: &str) -> Result<(TxnOp, Option<Put>)> {
        match op {
            Op::Check { .. } => Ok((TxnOp::get(key, None), None)),
            Op::Delete { .. } => Ok((TxnOp::delete(key, Some(DeleteOptions::new().with_prev_key())), None)),
            Op::Put { key: name, value, ttl, .. } => {
                let mut options = PutOptions::new().with_prev_key();
                let mut expires_unix_seconds = None;
                if let Some(ttl) = ttl {
                    options = options.with_lease(self.leases.get(*ttl).await?);
                    let seconds = ttl.as_secs_f64().ceil() as u64;
                    expires_unix_seconds = Some(self.clock.now().as_second().saturating_add_unsigned(seconds));
                }
                let bytes = self.codec.encode(name, value, expires_unix_seconds)?;
                let put = Put { key: name.clone(), value: value.clone(), expires_unix_seconds };
                Ok((TxnOp::put(key, bytes, Some(options)), Some(put)))
            }
        }
    }

    /// The first key that is not as expected.
    fn conflict(&self, ops: &[Op], responses: &[TxnOpResponse]) -> Error {
        for (op, response) in ops.iter().zip(responses) {
            let TxnOpResponse::Get(got) = response else { continue };
            let current = match got.kvs().first().map(|kv| self.codec.decode(Raw::from(kv))).transpose() {
                Ok(current) => current.flatten(),
                Err(error) => return error,
            };
            if !op.expect().holds(current.as_ref().map(|entry| entry.revision)) {
                return Error::Conflict { key: op.key().clone(), current: current.map(Box::new) };
            }
        }
        Error::Backend("etcd found a conflict that is none".to_owned())
    }

    /// What a transaction changed.
    fn changes(&self, revision: Revision, puts: Vec<Option<Put>>, responses: &[TxnOpResponse]) -> Result<Vec<Change>> {
        let decode = |kv: &etcd_client::KeyValue| self.codec.decode(Raw::from(kv));
        let mut changes = Vec::with_capacity(puts.len());
        for (put, response) in puts.into_iter().zip(responses) {
            changes.push(match (put, response) {
                (Some(put), TxnOpResponse::Put(done)) => {
                    let previous = done.prev_key().map(decode).transpose()?.flatten();
                    let created = previous.as_ref().map_or(revision, |entry| entry.create_revision);
                    Change { current: Some(put.entry(revision, created)), previous }
                }
                (None, TxnOpResponse::Delete(done)) => {
                    Change { previous: done.prev_kvs().first().map(decode).transpose()?.flatten(), current: None }
                }
                (None, TxnOpResponse::Get(got)) => {
                    let current = got.kvs().first().map(decode).transpose()?.flatten();
                    Change { previous: current.clone(), current }
                }
                _ => return Err(Error::Backend("etcd answered something else than it was asked".to_owned())),
            });
        }
        Ok(changes)
    }
}

/// A value about to be stored.
struct Put {
    key: Arc<str>,
    value: crate::Value,
    expires_unix_seconds: Option<i64>,
}

impl Put {
    fn entry(self, revision: Revision, create_revision: Revision) -> Entry {
        let (bytes, revision_at) = (self.value.splice(revision), self.value.revision_at());
        Entry { key: self.key, bytes, revision, create_revision, expires_unix_seconds: self.expires_unix_seconds, revision_at }
    }
}

fn revision_of(entry: &Option<Entry>) -> Option<Revision> {
    entry.as_ref().map(|entry| entry.revision)
}

/// Bytes of keys and values.
fn size(ops: &[Op]) -> usize {
    let value = |op: &Op| if let Op::Put { value, .. } = op { value.bytes().len() } else { 0 };
    ops.iter().map(|op| op.key().len() + value(op)).sum()
}

/// What etcd is to compare for an expectation.
fn compares(expect: Expect, key: &str) -> Vec<Compare> {
    match expect {
        Expect::Any => Vec::new(),
        Expect::Absent => vec![Compare::mod_revision(key, CompareOp::Equal, 0)],
        // To etcd, what is absent has revision 0.
        Expect::Revision(at) => {
            vec![Compare::mod_revision(key, CompareOp::Equal, signed(at)), Compare::version(key, CompareOp::Greater, 0)]
        }
    }
}

// === reading ===

impl Core {
    /// etcd's newest revision, as agreed by its members.
    async fn header_revision(&self) -> Result<Revision> {
        let got = self.calls.get(&self.codec.marker(), GetOptions::new().with_count_only()).await?;
        header_revision(got.header())
    }

    /// Options to read at a revision.
    async fn at(&self, options: GetOptions, at: Option<Revision>) -> Result<GetOptions> {
        match at {
            None => Ok(options),
            // To etcd that would be the newest.
            Some(0) => Err(Error::Compacted { requested: 0, oldest: self.compacted().await?.unwrap_or(1) }),
            Some(at) => Ok(options.with_revision(signed(at))),
        }
    }

    async fn list(&self, range: &Range) -> Result<Page> {
        let (mut start, end) = self.codec.range(&range.prefix, range.start.as_deref())?;
        let limit = if range.limit == 0 { usize::MAX } else { range.limit };
        let mut at = range.at;
        let mut page = Page { revision: at.unwrap_or(0), entries: Vec::new(), remaining: 0 };
        loop {
            let count = limit.saturating_sub(page.entries.len()).min(PAGE);
            let options = self.at(GetOptions::new().with_range(end.as_str()).with_limit(count as i64), at).await?;
            let got = self.calls.get(&start, options).await;
            let got = self.explain(got, at).await?;
            if at.is_none() {
                page.revision = header_revision(got.header())?;
                at = Some(page.revision);
            }
            for kv in got.kvs() {
                page.entries.extend(self.codec.decode(Raw::from(kv))?);
            }
            page.remaining = usize::try_from(got.count()).unwrap_or(0).saturating_sub(got.kvs().len());
            let Some(last) = got.kvs().last().filter(|_| got.more() && page.entries.len() < limit) else { return Ok(page) };
            start = format!("{}\0", String::from_utf8_lossy(last.key()));
        }
    }

    /// Fills in the revisions that etcd's errors do not name.
    async fn explain<T>(&self, outcome: Result<T>, at: Option<Revision>) -> Result<T> {
        let requested = at.unwrap_or(0);
        match outcome {
            Err(Error::Compacted { .. }) => {
                Err(Error::Compacted { requested, oldest: self.compacted().await?.unwrap_or(requested + 1) })
            }
            Err(Error::FutureRevision { .. }) => Err(Error::FutureRevision { requested, current: self.header_revision().await? }),
            outcome => outcome,
        }
    }

    /// The oldest revision that can be read. etcd tells that to a watch from the very beginning only.
    async fn compacted(&self) -> Result<Option<Revision>> {
        let options = WatchOptions::new().with_start_revision(1);
        let mut watch = self.calls.watch(&self.codec.marker(), options).await?;
        let deadline = Instant::now() + Duration::from_secs(1);
        // One that is not compacted says nothing: it may have waited that long for nothing.
        while let Ok(Ok(Some(response))) = timeout_at(deadline, watch.message()).await {
            if response.compact_revision() > 0 {
                return Ok(Some(revision(response.compact_revision())));
            }
        }
        Ok(None)
    }

    /// Waits until the feed is at a revision, asking for progress if nothing comes by itself. `newest` is etcd's, if known.
    async fn reach(&self, revision: Revision, mut newest: Option<Revision>) -> Result<()> {
        let mut revisions = self.revisions.subscribe();
        let deadline = Instant::now() + FRESH_DEADLINE;
        let mut pause = PROGRESS_PAUSES.0;
        loop {
            match timeout(pause, revisions.wait_for(|seen| *seen >= revision)).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(_)) => return Err(Error::Closed),
                Err(_) if Instant::now() >= deadline => break,
                Err(_) => {}
            }
            pause = PROGRESS_PAUSES.1;
            if newest.is_none_or(|newest| newest < revision) {
                newest = Some(self.header_revision().await?);
            }
            if newest.is_none_or(|newest| newest < revision) {
                continue; // Not even etcd is there.
            }
            if self.supports_progress {
                self.progress_wanted.notify_one();
            } else {
                // Whatever was before this write has been told when its event comes.
                self.calls.put(&self.codec.marker(), "").await?;
            }
        }
        let seen = *self.revisions.borrow();
        if newest.is_some_and(|newest| newest < revision) {
            return Err(Error::FutureRevision { requested: revision, current: seen });
        }
        let why = self.trouble.lock().as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        Err(Error::Backend(format!("events up to revision {revision} did not come in time, only up to {seen}{why}")))
    }

    // === feeding ===

    /// Reads the state under a prefix for a sink that collects events already.
    async fn join(&self, prefix: &str, joining: &Joining) -> Result<()> {
        for _ in 0..JOIN_ATTEMPTS {
            joining.begin();
            let page = self.list(&Range { prefix: prefix.to_owned(), ..Range::default() }).await?;
            if joining.complete(page.revision, page.entries) {
                return Ok(());
            }
        }
        Err(Error::Backend(format!("{prefix} changes faster than it can be read")))
    }

    /// Makes events visible: to caches, then to whoever waits for their revision.
    fn publish(&self, events: &[Arc<Event>], revision: Revision) {
        let mut routes = self.routes.lock();
        routes.feed(events);
        self.revisions.send_if_modified(|seen| {
            let is_newer = revision > *seen;
            *seen = revision.max(*seen);
            is_newer
        });
    }

    /// Notes whether the feed runs, and says so once.
    fn set_trouble(&self, trouble: Option<Error>) {
        let mut known = self.trouble.lock();
        match (&*known, &trouble) {
            (Some(_), None) => tracing::info!(revision = *self.revisions.borrow(), "watching etcd"),
            (None, Some(error)) => {
                tracing::warn!(error = error as &dyn std::error::Error, "lost the watch of etcd, trying again");
            }
            _ => {}
        }
        *known = trouble;
    }

    /// Forgets retired encryption keys that no value in etcd needs.
    async fn forget_retired_keys(&self) -> Result<()> {
        if !self.codec.keyring().has_retired() {
            return Ok(());
        }
        let mut used = HashSet::new();
        for prefix in self.codec.keyring().prefixes() {
            let (mut start, end) = self.codec.range(prefix, None)?;
            loop {
                let got = self.calls.get(&start, GetOptions::new().with_range(end.as_str()).with_limit(PAGE as i64)).await?;
                used.extend(got.kvs().iter().filter_map(|kv| codec::sealed_by(kv.value())).map(|(id, _)| id));
                let Some(last) = got.kvs().last().filter(|_| got.more()) else { break };
                start = format!("{}\0", String::from_utf8_lossy(last.key()));
            }
        }
        self.codec.keyring().forget_retired(&used)
    }
}
