use pharos_network::PodNetworkError;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the kubelet's run ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or could not be reached; the supervisor starts the kubelet again.
    #[error("{action}")]
    Api {
        /// What was asked.
        action: String,
        /// Why it failed.
        #[source]
        source: Box<kube::Error>,
    },
    /// The runtime can't be used.
    #[error("{action}")]
    Runtime {
        /// What was asked.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: pharos_runtime::Error,
    },
    /// The pod network failed.
    #[error("{action}")]
    Network {
        /// What was asked.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: PodNetworkError,
    },
    /// A file or directory of the kubelet can't be used.
    #[error("{action}")]
    Io {
        /// What was done, with the path.
        action: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The HTTPS server can't listen.
    #[error("serve the kubelet's API")]
    Serve(#[source] pharos_transport::FrontError),
    /// A task of the kubelet ended that never may.
    #[error("{0} ended")]
    Ended(&'static str),
}

/// All causes of an error in one line, for events and messages.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
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
