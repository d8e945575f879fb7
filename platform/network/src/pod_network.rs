use std::{net::IpAddr, path::PathBuf};

use async_trait::async_trait;

/// A pod's sandbox that is to join, or to leave, the pod network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodNetworkConfig {
    /// The sandbox' ID, which names its interface and addresses.
    pub sandbox_id: String,
    /// Path of its network namespace; on detach `None` when it is gone already.
    pub netns: Option<PathBuf>,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's UID.
    pub uid: String,
    /// Ports of the node that lead into the pod.
    pub host_ports: Vec<HostPort>,
}

/// A port of the node that leads to a port of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostPort {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Address on the node; `None` means all.
    pub host_ip: Option<IpAddr>,
    /// Port on the node.
    pub host_port: u16,
    /// Port in the pod.
    pub container_port: u16,
}

/// The addresses of a pod, the primary one first; at most one of each family.
pub type PodIps = Vec<IpAddr>;

/// Why a pod network call failed. All are worth another try.
#[derive(Debug, thiserror::Error)]
#[error("{context}")]
pub struct PodNetworkError {
    /// The action and its object.
    pub context: String,
    /// Why.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Connects pods' network namespaces: what a CNI plugin does, and the kubelet's view of it.
///
/// Addresses are kept on disk, so that a new process knows those that are in use.
#[async_trait]
pub trait PodNetwork: Send + Sync + 'static {
    /// Gives the network the node's pod ranges (`spec.podCIDRs`); until then nothing can be attached. Told again on change and
    /// after a restart; the same ranges change nothing.
    async fn configure(&self, pod_cidrs: &[String]) -> Result<(), PodNetworkError>;

    /// Why pods can't be attached now; `None` when they can. The node condition `Ready` tells it as `NetworkPluginNotReady`.
    async fn not_ready(&self) -> Option<String>;

    /// Gives the namespace an interface, addresses and routes, and opens its host ports. Idempotent: the same sandbox gets the
    /// same addresses again.
    async fn attach(&self, pod: &PodNetworkConfig) -> Result<PodIps, PodNetworkError>;

    /// Takes interface, host ports and addresses back. What is not there is success.
    async fn detach(&self, pod: &PodNetworkConfig) -> Result<(), PodNetworkError>;

    /// The addresses of an attached sandbox; `None` when it is not attached.
    async fn status(&self, pod: &PodNetworkConfig) -> Result<Option<PodIps>, PodNetworkError>;
}
