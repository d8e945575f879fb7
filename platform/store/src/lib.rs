//! The store: where objects live, in one revisioned history.
//!
//! [`Store`] is etcd's model: one global revision assigned at commit, compare-and-swap on a key's last revision,
//! ordered watches from any revision not compacted, leases as a time to live. [`Embedded`] keeps it on this machine's
//! disk; an acknowledged write survives `kill -9` and power loss. [`Etcd`] keeps it in an etcd cluster, which several
//! servers may share. [`Cache`] answers lists, gets and watches of one resource from memory.
//!
//! It never looks into values (the cache reads index cards, lazily), knows no kinds and no HTTP. Follows etcd 3.6
//! (`server/storage/mvcc`) and the watch cache of kube-apiserver 1.37 (`storage/cacher`).
//!
//! Start reading at [`Store`], then [`Embedded::open`], [`Etcd::open`] and [`Cache::attach`].

mod error; // What can go wrong,
mod metrics; // and be measured;
mod model; // what is said,
mod files;
mod keyring; // what is encrypted, and how,
mod routes; // who is fed,
mod embedded; // the engines,
mod etcd;
mod cache; // what lists and watches are served from,
mod maintenance; // what keeps the embedded engine small,
mod archive; // snapshots in files, moves between engines,
mod rewrite; // and new keys for old values.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use tokio::sync::watch;
use tokio::time::timeout;

pub use archive::{Archive, copy};
pub use cache::{Cache, CacheConfig, Item, List, ListOptions, Scope, Snapshot, Start, Subscription, WatchEvent};
pub use embedded::{Config, Embedded, KEY_FILE};
pub use error::{Error, Result};
pub use etcd::{Compactor, Etcd, EtcdConfig, EtcdTls};
pub use keyring::{KeyInfo, Keyring, Stage};
pub use maintenance::Maintenance;
pub use metrics::{CacheMetrics, EtcdMetrics, Metrics};
pub use model::{Batch, Change, Commit, Entry, Event, EventType, Expect, Op, Page, Range, Revision, Status, Value};
pub use rewrite::reencrypt;

/// How long a read waits for a revision the store has not reached, as upstream (`watch_cache.go`, `blockTimeout`).
const FRESH_DEADLINE: Duration = Duration::from_secs(3);

/// Where objects live. Object-safe; implementations pass the suite in `tests/conformance`.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Does all of `ops` at one new revision, or none. Returns once they are durable and in every attached cache.
    ///
    /// Dropping the future does not undo the commit.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] naming the first key not as expected; [`Error::TooLarge`], [`Error::Invalid`] (a key named
    /// twice); [`Error::DiskFull`] and [`Error::Io`] with nothing changed. After [`Error::Backend`] a remote store may have
    /// done it or not.
    async fn commit(&self, ops: Vec<Op>) -> Result<Commit>;

    /// The state of a key, now or at a revision.
    ///
    /// # Errors
    ///
    /// [`Error::Compacted`] and [`Error::FutureRevision`] if there is no such revision.
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<Option<Entry>>;

    /// A range of keys, in order, all at one revision.
    ///
    /// # Errors
    ///
    /// As for [`get`](Store::get).
    async fn list(&self, range: Range) -> Result<Page>;

    /// All events of keys that start with `prefix`, after a revision, in order.
    ///
    /// The stream ends after an error: [`Error::Compacted`] if it fell behind compaction, [`Error::Closed`].
    ///
    /// # Errors
    ///
    /// [`Error::Compacted`] if events after `after` are gone, [`Error::FutureRevision`].
    async fn watch(&self, prefix: &str, after: Revision) -> Result<BoxStream<'static, Result<Batch>>>;

    /// Feeds `sink` with everything under `prefix`: its state first, before this returns, then every event in order.
    /// The prefixes of sinks either equal or exclude each other.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if the prefix is within another sink's.
    async fn attach(&self, prefix: &str, sink: Arc<dyn Sink>) -> Result<()>;

    /// Forgets history up to and including `revision`; the state at it stays readable.
    ///
    /// # Errors
    ///
    /// [`Error::Compacted`] if already done, [`Error::FutureRevision`].
    async fn compact(&self, revision: Revision) -> Result<()>;

    /// The newest revision, whoever made it. Everything up to it is durable and in every attached cache.
    ///
    /// # Errors
    ///
    /// [`Error::Backend`] if a remote store does not tell, or its events do not come in time.
    async fn revision(&self) -> Result<Revision>;

    /// Follows the newest revision that is in every attached cache.
    fn revisions(&self) -> watch::Receiver<Revision>;

    /// Waits until every attached cache is at a revision or later.
    ///
    /// # Errors
    ///
    /// [`Error::FutureRevision`] after three seconds, if there is no such revision; [`Error::Backend`] if its events do
    /// not come.
    async fn reach(&self, revision: Revision) -> Result<()> {
        let mut revisions = self.revisions();
        match timeout(FRESH_DEADLINE, revisions.wait_for(|current| *current >= revision)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Error::Closed),
            Err(_) => {
                let current = *self.revisions().borrow();
                Err(Error::FutureRevision { requested: revision, current })
            }
        }
    }

    /// Whether the store works. Does not block, and asks nobody: what it knows is enough.
    ///
    /// # Errors
    ///
    /// Why it does not.
    fn check(&self) -> Result<()>;

    /// The keys of the encryption at rest.
    fn keyring(&self) -> &Arc<Keyring>;

    /// What the store tells of itself.
    ///
    /// # Errors
    ///
    /// [`Error::Backend`].
    async fn status(&self) -> Result<Status>;

    /// Gives space that is not used back to the file system.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::Backend`].
    async fn defragment(&self) -> Result<()>;
}

/// Takes what happens under a prefix. Called in order, from one thread at a time; must not block.
pub trait Sink: Send + Sync {
    /// The whole state at a revision, replacing what was known.
    fn reset(&self, revision: Revision, entries: Vec<Entry>);

    /// Events after everything before.
    fn events(&self, events: &[Arc<Event>]);

    /// Whether nobody wants events any more; the sink is then dropped.
    fn is_closed(&self) -> bool;
}
