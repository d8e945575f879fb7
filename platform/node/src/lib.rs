//! The kubelet: runs the pods of one node and tells how they and the node are.
//!
//! Watches the pods that are bound to its node; drives a runtime and a pod network, sets up volumes, asks probes, and serves
//! logs, exec, attach, port-forward and statistics. Writes pods' status, the Node with its Lease, and Events, nothing else. It
//! decides about no other node, and remembers nothing that the runtime, the disk and the API could not tell it again.
//!
//! Follows kubelet 1.37 (`pkg/kubelet`); where it differs, the place says so. Start reading at [`Kubelet`], then `pod_worker`.

mod config; // What can be set,
mod error; // go wrong,
mod metrics; // and be measured.
mod kubelet; // What runs:
mod core; // what all of it shares;
mod pod_worker; // a task for each pod,
mod actions; // what it decides,
mod pod_view; // from what it sees,
mod pod_status; // and what it tells;
mod admission; // whether a pod may come,
mod backoff; // how long a failed one waits.
mod container_config; // A container's settings,
mod env; // its environment,
mod expansion;
mod fields;
mod hosts; // its names,
mod images; // image,
mod lifecycle; // hooks,
mod probes; // probes,
mod resources; // limits,
mod volumes; // volumes,
mod objects; // and the objects it reads.
mod references;
mod node; // The node itself,
mod machine; // what it is made of,
mod eviction; // and what it does when that runs out.
mod names; // Small things.
mod quantity;
mod server; // The HTTP API.

pub use config::Config;
pub use error::{Error, Result};
pub use kubelet::{ContainerMetrics, Kubelet};
pub use server::{Components, ServerTls};
