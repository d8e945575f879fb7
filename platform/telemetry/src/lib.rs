//! Telemetry: what every component of Pharos is built on.
//!
//! Gives a component its lifetime ([`Component`], [`Supervisor`]), its metric registry, its log fields, its spans and its
//! health check. Nothing runs outside it: a component that the supervisor did not start has no [`Ctx`], and
//! with no [`Ctx`] it can neither spawn tasks nor report ready.
//!
//! It knows nothing of Kubernetes, of HTTP (but for the headers that carry a trace), or of where log records and metrics end
//! up: the log index and the time-series store are handed a [`logs::Records`] queue and the [`Registries`].
//!
//! Start reading at [`Component`], then [`Supervisor::start`].

mod backoff;
mod clock;
mod component; // What runs,
pub mod health; // health,
pub mod logs; // log records,
mod registries; // and what it emits: metrics,
mod register;
mod supervisor; // what runs it,
pub mod traces; // spans.

pub use backoff::Backoff;
pub use clock::Clock;
pub use component::{Component, Ctx};
pub use register::Register;
pub use registries::Registries;
pub use supervisor::{StartError, Supervisor};
