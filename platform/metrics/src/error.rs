use std::path::PathBuf;

/// What can go wrong with the metrics component as a whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be used: all mistakes, one a line. Never retried.
    #[error("configuration of metrics: {0}")]
    Config(String),
    /// Its own metrics are registered already: a bug in the wiring.
    #[error("register metrics of the metrics component")]
    Register(#[from] prometheus::Error),
    /// A file of the store could not be read or written. Retried by the supervisor.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A file of the store is damaged where a crash cannot have damaged it.
    #[error("{} is damaged at byte {offset}: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// In which way.
        why: &'static str,
    },
}

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
