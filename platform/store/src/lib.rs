//! The store: where objects live, in one revisioned history.
//!
//! [`Store`] is etcd's model: one global revision assigned at commit, compare-and-swap on a key's last revision,
//! ordered watches from any revision not compacted, leases as a time to live. [`Embedded`] keeps it on this machine's
//! disk; an acknowledged write survives `kill -9` and power loss. [`Cache`] answers lists, gets and watches of one
//! resource from memory.
//!
//! It never looks into values (the cache reads index cards, lazily), knows no kinds and no HTTP. Follows etcd 3.6
//! (`server/storage/mvcc`) and the watch cache of kube-apiserver 1.37 (`storage/cacher`).
//!
//! Start reading at [`Store`], then [`Embedded::open`] and [`Cache::attach`].

mod error; // What can go wrong,
mod metrics; // and be measured;
mod model; // what is said,
mod embedded; // the engine,
mod cache; // what lists and watches are served from,
mod maintenance; // and what keeps it small.

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use tokio::sync::watch;

pub use cache::{Cache, CacheConfig, Item, List, ListOptions, Scope, Snapshot, Start, Subscription, WatchEvent};
pub use embedded::{Config, Embedded};
pub use error::{Error, Result};
pub use maintenance::Maintenance;
pub use metrics::{CacheMetrics, Metrics};
pub use model::{Batch, Change, Commit, Entry, Event, EventType, Expect, Op, Page, Range, Revision, Value};

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
    /// twice); [`Error::DiskFull`] and [`Error::Io`] with nothing changed.
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

    /// The newest revision. Everything up to it is durable and in every attached cache (a remote store's caches
    /// follow).
    async fn revision(&self) -> Result<Revision>;

    /// Follows the newest revision.
    fn revisions(&self) -> watch::Receiver<Revision>;
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
