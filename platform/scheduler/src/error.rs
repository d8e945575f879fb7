/// Why a pod could not be bound. Retried after a back-off, as every failed attempt is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or did not answer.
    #[error("bind pod {pod} to {node}")]
    Bind {
        /// The pod.
        pod: pharos_client::Key,
        /// The node that was chosen.
        node: String,
        /// What the API server said.
        #[source]
        source: kube::Error,
    },
    /// The API server took too long; the binding may or may not have happened, the watch will tell.
    #[error("bind pod {pod} to {node}: no answer in time")]
    Deadline {
        /// The pod.
        pod: pharos_client::Key,
        /// The node that was chosen.
        node: String,
    },
}

// === impl Error ===

impl Error {
    /// What users read in the event and the condition: upstream's words, with the message of the API server's answer.
    pub(crate) fn told(&self) -> String {
        let why = match self {
            Self::Bind { source, .. } => {
                pharos_client::status_of(source).map_or_else(|| source.to_string(), |s| s.message.clone())
            }
            Self::Deadline { .. } => "no answer in time".to_owned(),
        };
        format!("running Bind plugin \"DefaultBinder\": {why}")
    }
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
