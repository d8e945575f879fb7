use std::{io, path::PathBuf};

/// Why the log index could not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk refused; the supervisor tries again.
    #[error("{action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A split could not be written or read.
    #[error("{action} split {path}")]
    Split {
        /// What was tried.
        action: &'static str,
        /// The split's directory.
        path: PathBuf,
        /// Why it failed.
        source: tantivy::TantivyError,
    },
    /// A split's description is not one of ours.
    #[error("read split {path}")]
    Meta {
        /// The split's directory.
        path: PathBuf,
        /// Why it failed.
        source: serde_json::Error,
    },
    /// Metrics are registered already: a bug.
    #[error("register metrics")]
    Metrics(#[from] prometheus::Error),
    /// Files cannot be watched.
    #[error("watch container logs")]
    Watch(#[from] notify::Error),
    /// Another component is using the queue of records: a bug.
    #[error("component runs twice")]
    Busy,
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Adds what was tried, and where, to an I/O error.
pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::Io { action, path, source }
}
