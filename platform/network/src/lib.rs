//! The network of a node: how pods are connected ([`PodNetwork`]) and how Services reach them.
//!
//! It knows namespaces, addresses and rules; of pods it knows only whose a namespace is. Start reading at [`PodNetwork`].

mod pod_network;

pub use pod_network::{HostPort, PodIps, PodNetwork, PodNetworkConfig, PodNetworkError};
