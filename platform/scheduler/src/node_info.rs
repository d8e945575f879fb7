use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use k8s_openapi::api::core::v1::{Node, Taint};

use crate::{
    pod_info::{HostPort, PodInfo},
    resources::Resources,
};

/// A node and the pods on it, those being bound to it included.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeInfo {
    /// `None` while only pods are known of it.
    pub(crate) node: Option<Arc<Node>>,
    pub(crate) allocatable: Resources,
    pub(crate) requested: Resources,
    pub(crate) scored: Resources,
    pub(crate) pods: HashMap<String, Arc<PodInfo>>,
}

impl NodeInfo {
    pub(crate) fn set_node(&mut self, node: Option<Arc<Node>>) {
        let allocatable =
            node.as_ref().and_then(|n| n.status.as_ref()).and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
        self.allocatable = Resources::parse(allocatable);
        self.node = node;
    }

    pub(crate) fn add(&mut self, pod: Arc<PodInfo>) {
        if let Some(before) = self.pods.remove(&pod.uid) {
            self.subtract(&before);
        }
        self.requested.add(&pod.requests);
        self.scored.add(&pod.scored);
        self.pods.insert(pod.uid.clone(), pod);
    }

    pub(crate) fn remove(&mut self, uid: &str) {
        if let Some(pod) = self.pods.remove(uid) {
            self.subtract(&pod);
        }
    }

    fn subtract(&mut self, pod: &PodInfo) {
        self.requested.subtract(&pod.requests);
        self.scored.subtract(&pod.scored);
    }

    pub(crate) fn name(&self) -> &str {
        self.node.as_ref().and_then(|n| n.metadata.name.as_deref()).unwrap_or_default()
    }

    pub(crate) fn labels(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.node.as_ref().and_then(|n| n.metadata.labels.as_ref()).unwrap_or(&NONE)
    }

    pub(crate) fn taints(&self) -> &[Taint] {
        self.node.as_ref().and_then(|n| n.spec.as_ref()?.taints.as_deref()).unwrap_or_default()
    }

    pub(crate) fn is_unschedulable(&self) -> bool {
        self.node.as_ref().and_then(|n| n.spec.as_ref()?.unschedulable).unwrap_or_default()
    }

    /// Whether a pod on the node has the port already. The wildcard address clashes with every address.
    pub(crate) fn has_port(&self, (address, protocol, port): &HostPort) -> bool {
        self.pods.values().flat_map(|p| &p.host_ports).any(|(a, proto, number)| {
            number == port && proto == protocol && (a == address || a == "0.0.0.0" || address == "0.0.0.0")
        })
    }
}
