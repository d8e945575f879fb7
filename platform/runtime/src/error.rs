//! What can go wrong.

use std::error::Error as StdError;
use std::time::Duration;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong, as gRPC codes tell it apart in CRI.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such object. Removals treat it as success.
    #[error("{what} {id:?} not found")]
    NotFound {
        /// `container`, `pod sandbox` or `image`.
        what: &'static str,
        /// The ID or reference asked for.
        id: String,
    },
    /// The object exists or its name is taken.
    #[error("{what} {id:?} already exists")]
    AlreadyExists {
        /// `container`, `pod sandbox` or `image`.
        what: &'static str,
        /// The ID or name.
        id: String,
    },
    /// The request can never succeed as it is.
    #[error("{0}")]
    InvalidArgument(String),
    /// The request asks for what this runtime or kernel can't do.
    #[error("{0}")]
    Unsupported(String),
    /// The object is in the wrong state; retried after the state has changed.
    #[error("{0}")]
    FailedPrecondition(String),
    /// The call took too long. Its effect is unknown: ask for the status, then retry.
    #[error("{operation} did not finish within {timeout:?}")]
    DeadlineExceeded {
        /// The call.
        operation: &'static str,
        /// Its deadline.
        timeout: Duration,
    },
    /// The registry refused the credentials, or hides the image without them.
    #[error("{0}")]
    Unauthenticated(String),
    /// The registry, the runtime's daemon or a shim can't be reached; retried.
    #[error("{context}")]
    Unavailable {
        /// What was done.
        context: String,
        /// Why it failed.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// Anything else.
    #[error("{context}")]
    Internal {
        /// What was done.
        context: String,
        /// Why it failed.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
}

// === impl Error ===

impl Error {
    /// Whether this says that the object is gone, which removals take as success.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// The whole chain of causes in one line, for conditions and events.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let next = error.to_string();
            if !text.ends_with(&next) {
                text.push_str(": ");
                text.push_str(&next);
            }
            cause = error.source();
        }
        text
    }

    pub(crate) fn internal(context: impl Into<String>, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Internal { context: context.into(), source: source.into() }
    }

    pub(crate) fn unavailable(context: impl Into<String>, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Unavailable { context: context.into(), source: source.into() }
    }

    pub(crate) fn not_found(what: &'static str, id: impl Into<String>) -> Self {
        Self::NotFound { what, id: id.into() }
    }
}

/// Says what was being done when an I/O or parse error came.
pub(crate) trait Context<T> {
    /// Wraps the error as [`Error::Internal`].
    fn context<S: Into<String>>(self, context: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> Context<T> for std::result::Result<T, E> {
    fn context<S: Into<String>>(self, context: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|source| Error::internal(context(), source))
    }
}
