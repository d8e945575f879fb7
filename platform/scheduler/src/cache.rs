use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use k8s_openapi::api::core::v1::Node;

use crate::{node_info::NodeInfo, pod_info::PodInfo};

/// Nodes with their pods, as the scheduler believes them to be: what the watch told, plus the bindings it has decided itself
/// (assumed pods), so that the next decision counts them before the watch does.
#[derive(Default)]
pub(crate) struct Cache {
    nodes: BTreeMap<String, NodeInfo>,
    /// The node of each pod that counts, by UID.
    placed: HashMap<String, Placed>,
    /// Pods whose affinity concerns others, so that the costly checks are skipped when there are none.
    with_affinity: usize,
}

struct Placed {
    node: String,
    assumed: bool,
    has_affinity: bool,
}

impl Cache {
    pub(crate) fn set_node(&mut self, name: &str, node: Option<Arc<Node>>) {
        match node {
            Some(node) => self.nodes.entry(name.to_owned()).or_default().set_node(Some(node)),
            None => {
                if let Some(info) = self.nodes.get_mut(name) {
                    info.set_node(None);
                    if info.pods.is_empty() {
                        self.nodes.remove(name);
                    }
                }
            }
        }
    }

    /// Counts a pod on a node; if it counted elsewhere, no longer there.
    pub(crate) fn place(&mut self, pod: Arc<PodInfo>, node: &str, assumed: bool) {
        self.forget(&pod.uid);
        let has_affinity = !pod.required_anti_affinity().is_empty() || pod.affinity().is_some_and(|a| a.pod_affinity.is_some());
        self.with_affinity += usize::from(has_affinity);
        self.placed.insert(pod.uid.clone(), Placed { node: node.to_owned(), assumed, has_affinity });
        self.nodes.entry(node.to_owned()).or_default().add(pod);
    }

    /// Counts a pod no longer. Whether it counted.
    pub(crate) fn forget(&mut self, uid: &str) -> bool {
        let Some(placed) = self.placed.remove(uid) else { return false };
        self.with_affinity -= usize::from(placed.has_affinity);
        if let Some(info) = self.nodes.get_mut(&placed.node) {
            info.remove(uid);
            if info.node.is_none() && info.pods.is_empty() {
                self.nodes.remove(&placed.node);
            }
        }
        true
    }

    /// Whether a pod counts because the scheduler decided so and the watch has not confirmed it.
    pub(crate) fn is_assumed(&self, uid: &str) -> bool {
        self.placed.get(uid).is_some_and(|p| p.assumed)
    }

    /// The nodes that exist, in order of name.
    pub(crate) fn nodes(&self) -> Vec<&NodeInfo> {
        self.nodes.values().filter(|n| n.node.is_some()).collect()
    }

    /// Whether any placed pod has an affinity that new pods must be held against.
    pub(crate) fn has_affinity(&self) -> bool {
        self.with_affinity > 0
    }

    /// Numbers of nodes, pods and assumed pods.
    pub(crate) fn size(&self) -> (usize, usize, usize) {
        (self.nodes.len(), self.placed.len(), self.placed.values().filter(|p| p.assumed).count())
    }
}
