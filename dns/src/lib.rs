//! Cluster DNS: answers names of Services, endpoints and pods from watched objects, and forwards other names.
//!
//! Reads Services, EndpointSlices, Namespaces and, if pods are verified, Pods; writes nothing. Keeps nothing that one list
//! could not rebuild. Follows the Kubernetes DNS specification 1.1.0 and, beyond it, CoreDNS 1.14 with the plugins of
//! kubeadm's Corefile.
//!
//! Start reading at [`Dns`].

mod config; // What can be set,
mod error; // go wrong,
mod metrics; // and be measured; then the nouns.
mod component; // The whole,
mod bind; // where it listens,
mod server; // how it is asked,
mod engine; // and what each query goes through:
mod kubernetes; // names of the cluster,
mod index; // from a snapshot
mod feed; // that follows the objects,
mod cache; // names of elsewhere, remembered
mod forward; // or asked for
mod resolv_conf; // where the host does,
mod reply; // and told on.
mod wire; // The format of messages,
mod name; // of names,
mod cidr; // and of networks.

pub use component::Dns;
pub use config::{Cache, Config, Forward, Pods};
pub use error::{Error, Result};
