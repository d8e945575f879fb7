use std::{io, time::Duration};

use crate::{PodNetworkError, cidr::BadCidr};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with a node's network. All but [`Error::Invalid`] and [`Error::Range`] are worth another try.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused an interface, address, route or neighbour.
    #[error("{action}")]
    Netlink {
        /// What was tried, and on what.
        action: String,
        /// Why not.
        source: rtnetlink::Error,
    },
    /// A file, a kernel setting or a process failed.
    #[error("{action}")]
    Io {
        /// What was tried, and on what.
        action: String,
        /// Why not.
        source: io::Error,
    },
    /// It took too long.
    #[error("{action}: not done after {} s", .after.as_secs())]
    Deadline {
        /// What was tried, and on what.
        action: String,
        /// The time it had.
        after: Duration,
    },
    /// `nft` refused a transaction; nothing of it was applied.
    #[error("apply nftables rules: {stderr}")]
    Rules {
        /// What `nft` said.
        stderr: String,
    },
    /// A configured or published range can't be read.
    #[error(transparent)]
    Range(#[from] BadCidr),
    /// A setting is wrong or not supported.
    #[error("{0}")]
    Invalid(String),
    /// All addresses of the node's range are taken.
    #[error("no addresses available in range {0}")]
    Exhausted(String),
    /// The API server refused or could not be reached.
    #[error("{action}")]
    Api {
        /// What was tried, and on what.
        action: String,
        /// Why not.
        source: kube::Error,
    },
    /// Metrics are registered already.
    #[error("register metrics")]
    Metrics(#[from] prometheus::Error),
}

/// Says what was tried when it failed.
pub(crate) trait Doing<T> {
    fn doing(self, action: impl FnOnce() -> String) -> Result<T>;
}

// === impl Error ===

impl Error {
    /// The pod network's error for an action on a pod.
    pub(crate) fn during(self, context: String) -> PodNetworkError {
        PodNetworkError { context, source: Some(Box::new(self)) }
    }
}

/// The (positive) error number in a netlink answer.
pub(crate) fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.code.map(|code| -code.get()),
        _ => None,
    }
}

// === impl Doing ===

impl<T> Doing<T> for std::result::Result<T, rtnetlink::Error> {
    fn doing(self, action: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Netlink { action: action(), source })
    }
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, action: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io { action: action(), source })
    }
}

impl<T> Doing<T> for nix::Result<T> {
    fn doing(self, action: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io { action: action(), source: source.into() })
    }
}

impl<T> Doing<T> for std::result::Result<T, kube::Error> {
    fn doing(self, action: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Api { action: action(), source })
    }
}
