//! Cluster DNS: answers names of Services, endpoints and pods from watched objects, and forwards other names.
//!
//! Reads Services, EndpointSlices, Namespaces and, if pods are verified, Pods; writes nothing. Keeps nothing that one list
//! could not rebuild. Follows the Kubernetes DNS specification 1.1.0 and, beyond it, CoreDNS 1.14 with the plugins of
//! kubeadm's Corefile.
//!
//! Start reading at [`Dns`].

mod config; // What can be set,
mod error; // go wrong; then the nouns.
mod cidr;
mod name;
mod component;

pub use component::Dns;
pub use config::{Cache, Config, Forward, Pods};
pub use error::{Error, Result};
