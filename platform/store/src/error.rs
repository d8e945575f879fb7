//! What can go wrong in a store.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::{Entry, Revision};

/// A result whose error is the store's.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a store did not do what it was asked. Cloned to everyone whose write shared a failed batch.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// An expectation did not hold; nothing was changed. Read again, decide again.
    #[error("key {key} is not as expected")]
    Conflict {
        /// The key.
        key: Arc<str>,
        /// Its state now.
        current: Option<Box<Entry>>,
    },
    /// The revision's history is gone. List anew; a client gets 410 `Expired`.
    #[error("revision {requested} has been compacted, the oldest is {oldest}")]
    Compacted {
        /// The revision asked for.
        requested: Revision,
        /// The oldest revision that can be read.
        oldest: Revision,
    },
    /// The revision does not exist yet. Retry later; a client gets 504 `Timeout`, "Too large resource version".
    #[error("revision {requested} is in the future, the current is {current}")]
    FutureRevision {
        /// The revision asked for.
        requested: Revision,
        /// The newest revision.
        current: Revision,
    },
    /// The commit is larger than the store takes. Returned to the client.
    #[error("request of {size_bytes} bytes is too large, the limit is {limit_bytes}")]
    TooLarge {
        /// Its size.
        size_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// The operation makes no sense. A bug of the caller.
    #[error("invalid operation: {0}")]
    Invalid(String),
    /// A watcher fell behind what is kept for it. Its client gets 410 and lists anew.
    #[error("watcher fell behind: revision {revision} is no longer held")]
    Lagged {
        /// The last revision it saw.
        revision: Revision,
    },
    /// The disk is full. Nothing was changed; works again when space returns.
    #[error("no space left to write {path}")]
    DiskFull {
        /// The file.
        path: PathBuf,
    },
    /// A file could not be read or written. Nothing was acknowledged; it may be tried again.
    #[error("{action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: Arc<io::Error>,
    },
    /// A file does not hold what was written. A person must decide; the store stays closed.
    #[error("corrupt file {path} at offset {offset}: {reason}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// Another process has the store open.
    #[error("store {path} is in use by another process")]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// An encrypted value's key is missing, or a value does not decrypt.
    #[error("decrypt {key} with key {key_id}")]
    Decrypt {
        /// The entry's key.
        key: Arc<str>,
        /// The encryption key's id.
        key_id: u32,
    },
    /// A remote engine did not answer as needed. Retried by the caller.
    #[error("store backend: {0}")]
    Backend(String),
    /// The store, cache or watch was closed.
    #[error("store is closed")]
    Closed,
}

impl Error {
    /// Wraps an I/O error, telling a full disk from the rest.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            _ => Self::Io { action, path, source: Arc::new(source) },
        }
    }
}
