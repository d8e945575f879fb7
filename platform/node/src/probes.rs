//! Probes: questions put to containers, and what their answers add up to.

pub(crate) mod grpc; // How each kind asks,
pub(crate) mod http;
pub(crate) mod prober; // who asks when,
mod state; // and what it means.

pub(crate) use prober::{Probers, Target};
pub(crate) use state::Thresholds;

/// Which probe of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// Is it up at last? Holds the others back.
    Startup,
    /// Does it still work?
    Liveness,
    /// May it get traffic?
    Readiness,
}

impl Kind {
    /// As in events and metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Good.
    Success,
    /// Good, but worth a warning.
    Warning(String),
    /// Bad.
    Failure(String),
    /// It could not be asked; changes nothing.
    Unknown(String),
}
