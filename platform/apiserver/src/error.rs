//! What can go wrong outside of requests; a request's error is its `Status`.

/// A result whose error is the API server's.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the API server could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting makes no sense. Returned by `Api::new`.
    #[error("configure API server: {0}")]
    Config(String),
    /// The store did not answer. The supervisor tries again.
    #[error("use store")]
    Store(#[from] pharos_store::Error),
    /// A metric is registered twice. A bug.
    #[error("register metrics")]
    Metrics(#[from] prometheus::Error),
    /// An object every cluster has could not be made. The supervisor tries again.
    #[error("bootstrap {object}: {message}")]
    Bootstrap {
        /// Which one.
        object: String,
        /// The API's answer.
        message: String,
    },
}
