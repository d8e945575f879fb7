//! How a component reaches the API server: a `kube::Client`, and the machinery that every controller shares.
//!
//! In the server process the client calls the API core directly ([`in_process`]); on another machine it speaks HTTPS
//! ([`https`]). A component cannot tell the difference, and runs against any other Kubernetes as well. This crate knows
//! no API server: `pharos` hands it a service.
//!
//! Follows client-go (`tools/cache`, `util/workqueue`, `tools/record`). Start reading at [`Informer`].

mod connect; // The client,
mod errors; // what its errors mean,
mod key; // how an object is named,
mod informer; // a cache of objects that says what changed,
mod work_queue; // what is to be looked at again,
mod recorder; // what is told to users,
mod placement; // and which nodes suit a pod.

pub use connect::{Credentials, Renewable, https, in_process, in_process_as, kubeconfig};
pub use errors::{is_already_exists, is_conflict, is_not_found, status_of};
pub use informer::{Event, Index, Informer};
pub use key::Key;
pub use placement::{selects_node, tolerates};
pub use recorder::{Recorder, Regarding};
pub use work_queue::{Next, QueueMetrics, WorkQueue};

pub use kube;
