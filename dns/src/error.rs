use std::{io, net::SocketAddr};

/// Why cluster DNS could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is wrong; every mistake is told.
    #[error("check the configuration of dns: {0}")]
    Config(String),
    /// Metrics are registered already: a bug.
    #[error("register metrics")]
    Metrics(#[from] prometheus::Error),
    /// An address cannot be served; the supervisor tries again.
    #[error("listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why it failed.
        source: io::Error,
    },
    /// The node's interfaces refused; the supervisor tries again.
    #[error("{action}")]
    Interface {
        /// What was tried.
        action: String,
        /// Why it failed.
        source: io::Error,
    },
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
