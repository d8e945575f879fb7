use std::fmt::Display;

/// Why a key could not be brought in order. Retried with back-off, always.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or did not answer.
    #[error("{action} {object}")]
    Request {
        /// What was tried.
        action: &'static str,
        /// On what.
        object: String,
        /// What the API server said.
        #[source]
        source: kube::Error,
    },
    /// The object or the cluster is not (yet) in a state to act on.
    #[error("{action} {object}: {reason}")]
    Refused {
        /// What was tried.
        action: &'static str,
        /// On what.
        object: String,
        /// Why not.
        reason: String,
    },
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn refused(action: &'static str, object: &impl Display, reason: impl Into<String>) -> Self {
        Self::Refused { action, object: object.to_string(), reason: reason.into() }
    }

    /// What the API server said, if it was asked.
    pub(crate) fn source_request(&self) -> Option<&kube::Error> {
        match self {
            Self::Request { source, .. } => Some(source),
            Self::Refused { .. } => None,
        }
    }

    /// The text that events and conditions carry: the API server's message where there is one.
    pub(crate) fn message(&self) -> String {
        match self.source_request().and_then(pharos_client::status_of) {
            Some(status) => status.message.clone(),
            None => std::iter::successors(Some(self as &dyn std::error::Error), |e| e.source())
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(": "),
        }
    }
}

/// Says what a request was for.
pub(crate) trait During<T> {
    /// Wraps the error with the action and its object.
    fn during(self, action: &'static str, object: &impl Display) -> Result<T>;
}

impl<T> During<T> for kube::Result<T> {
    fn during(self, action: &'static str, object: &impl Display) -> Result<T> {
        self.map_err(|source| Error::Request { action, object: object.to_string(), source })
    }
}

/// Treats "it is gone already" as done.
pub(crate) fn gone_is_fine<T>(result: kube::Result<T>) -> kube::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if pharos_client::is_not_found(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
