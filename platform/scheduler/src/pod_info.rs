use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Affinity, Pod, PodAffinityTerm, PodSpec, Toleration};
use pharos_client::{Key, Regarding};

use crate::resources::{self, Resources};

/// A pod and what scheduling asks of it again and again.
#[derive(Debug)]
pub(crate) struct PodInfo {
    pub(crate) pod: Arc<Pod>,
    pub(crate) key: Key,
    pub(crate) uid: String,
    /// What it asks for.
    pub(crate) requests: Resources,
    /// What it is taken to use when nodes are scored.
    pub(crate) scored: Resources,
    /// Ports of the node it takes: address (`0.0.0.0` for all), protocol, port.
    pub(crate) host_ports: Vec<HostPort>,
    pub(crate) priority: i32,
}

pub(crate) type HostPort = (String, String, i32);

impl PodInfo {
    pub(crate) fn new(pod: Arc<Pod>) -> Self {
        let (requests, scored) = resources::of_pod(&pod);
        let spec = pod.spec.as_ref();
        let host_ports = spec
            .into_iter()
            .flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()))
            .flat_map(|c| c.ports.iter().flatten())
            .filter_map(|port| {
                let number = port.host_port.filter(|p| *p > 0)?;
                let address = port.host_ip.clone().filter(|ip| !ip.is_empty() && ip != "::").unwrap_or_else(|| "0.0.0.0".into());
                Some((address, port.protocol.clone().unwrap_or_else(|| "TCP".into()), number))
            })
            .collect();
        Self {
            key: Key::of(&*pod),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            requests,
            scored,
            host_ports,
            priority: spec.and_then(|s| s.priority).unwrap_or_default(),
            pod,
        }
    }

    pub(crate) fn spec(&self) -> Option<&PodSpec> {
        self.pod.spec.as_ref()
    }

    /// The node it is bound to.
    pub(crate) fn node_name(&self) -> Option<&str> {
        self.spec()?.node_name.as_deref().filter(|n| !n.is_empty())
    }

    /// Whether it will use nothing any more.
    pub(crate) fn is_terminal(&self) -> bool {
        matches!(self.pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
    }

    /// The node where room was made for it, as its status tells.
    pub(crate) fn nominated_node(&self) -> Option<&str> {
        self.pod.status.as_ref()?.nominated_node_name.as_deref().filter(|n| !n.is_empty())
    }

    pub(crate) fn is_deleting(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    /// Whether it is going because a scheduler wanted its place.
    pub(crate) fn is_being_preempted(&self) -> bool {
        let mut conditions = self.pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
        self.is_deleting()
            && conditions
                .find(|c| c.type_ == "DisruptionTarget")
                .is_some_and(|c| c.status == "True" && c.reason.as_deref() == Some("PreemptionByScheduler"))
    }

    /// Since when the kubelet knows it.
    pub(crate) fn start_time(&self) -> Option<Timestamp> {
        self.pod.status.as_ref()?.start_time.as_ref().map(|time| time.0)
    }

    /// What comes first is more important: a higher priority, then the longer run (`MoreImportantPod`). A pod that has not
    /// started counts as if it started `now`.
    pub(crate) fn importance(&self, now: Timestamp) -> (Reverse<i32>, Timestamp) {
        (Reverse(self.priority), self.start_time().unwrap_or(now))
    }

    pub(crate) fn is_gated(&self) -> bool {
        self.spec().and_then(|s| s.scheduling_gates.as_ref()).is_some_and(|gates| !gates.is_empty())
    }

    pub(crate) fn tolerations(&self) -> &[Toleration] {
        self.spec().and_then(|s| s.tolerations.as_deref()).unwrap_or_default()
    }

    pub(crate) fn affinity(&self) -> Option<&Affinity> {
        self.spec()?.affinity.as_ref()
    }

    pub(crate) fn labels(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.pod.metadata.labels.as_ref().unwrap_or(&NONE)
    }

    /// The terms it must be near to.
    pub(crate) fn required_affinity(&self) -> &[PodAffinityTerm] {
        self.affinity()
            .and_then(|a| a.pod_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_deref())
            .unwrap_or_default()
    }

    /// The terms it must be away from.
    pub(crate) fn required_anti_affinity(&self) -> &[PodAffinityTerm] {
        self.affinity()
            .and_then(|a| a.pod_anti_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_deref())
            .unwrap_or_default()
    }

    /// The UID of the controller that made it.
    pub(crate) fn controller(&self) -> Option<&str> {
        let owners = self.pod.metadata.owner_references.iter().flatten();
        owners.filter(|o| o.controller == Some(true)).map(|o| o.uid.as_str()).next()
    }

    pub(crate) fn regarding(&self) -> Regarding {
        Regarding::of(&*self.pod)
    }
}
