//! The network of a node: how pods are connected ([`PodNetwork`]) and how Services reach them.
//!
//! It knows namespaces, addresses and rules; of pods it knows only whose a namespace is. Everything it does happens in the
//! network namespace that the process runs in. Start reading at [`PodNetwork`], then [`BridgeNetwork`].

mod config; // What can be set
mod error; // and go wrong;
mod cidr; // ranges of addresses;
mod netlink; // the kernel's interfaces,
mod nft; // and its rules;
mod pod_network; // what the kubelet calls,
mod addresses; // who has which address,
mod pod_rules; // how pods leave the node and are reached through it,
mod bridge; // how they are connected,
mod routes; // how they reach those of other nodes,
mod proxy; // and how Services lead to them.

pub use bridge::BridgeNetwork;
pub use cidr::{BadCidr, Cidr};
pub use config::{Backend, BridgeConfig};
pub use error::{Error, Result};
pub use pod_network::{HostPort, PodIps, PodNetwork, PodNetworkConfig, PodNetworkError};
pub use proxy::{ProxyConfig, ProxyMode, ServiceProxy};
pub use routes::{PodRoutes, RoutesConfig, VTEP_MAC};
