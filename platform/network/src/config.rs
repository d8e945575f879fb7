use std::path::PathBuf;

use serde::Deserialize;

use crate::cidr::Cidr;

/// How pods reach pods of other nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// Through VXLAN, over any network that carries UDP between nodes.
    #[default]
    Vxlan,
    /// By routes to the other nodes' addresses, which must be neighbours on one network.
    HostGw,
}

/// Settings of [`crate::BridgeNetwork`].
#[derive(Clone, Debug)]
pub struct BridgeConfig {
    /// Where it keeps which sandbox has which address.
    pub state_dir: PathBuf,
    /// The bridge's name; at most 15 bytes.
    pub bridge: String,
    /// The ranges of all pods of the cluster: what goes there keeps its source address.
    pub cluster_cidrs: Vec<Cidr>,
    /// How pods reach other nodes, for what VXLAN adds to each packet.
    pub backend: Backend,
    /// Bytes of the largest packet; `None`: the uplink's, less what VXLAN adds.
    pub mtu: Option<u32>,
}

// === impl Backend ===

impl Backend {
    /// Bytes that a packet grows by on its way to another node.
    #[must_use]
    pub fn overhead(self, ipv6: bool) -> u32 {
        match (self, ipv6) {
            // Ethernet 14, VXLAN 8, UDP 8, IP 20 or 40.
            (Self::Vxlan, false) => 50,
            (Self::Vxlan, true) => 70,
            (Self::HostGw, _) => 0,
        }
    }
}

// === impl BridgeConfig ===

impl BridgeConfig {
    /// Defaults: bridge `pharos0`, VXLAN, MTU from the uplink.
    #[must_use]
    pub fn new(state_dir: impl Into<PathBuf>, cluster_cidrs: Vec<Cidr>) -> Self {
        Self { state_dir: state_dir.into(), bridge: "pharos0".into(), cluster_cidrs, backend: Backend::default(), mtu: None }
    }
}
