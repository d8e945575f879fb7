use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::pod_info::PodInfo;

/// Which pending pod waits for which node: room was made for it there, so that others must leave it alone (upstream's
/// `nominator`). Bounded by the number of pending pods.
///
/// What was decided here counts before `status.nominatedNodeName` tells it, and until that says something new.
#[derive(Default)]
pub(crate) struct Nominator {
    /// By UID.
    nominees: HashMap<String, Nominee>,
    /// UIDs by node; none of the maps is empty.
    by_node: HashMap<String, BTreeMap<String, Arc<PodInfo>>>,
}

struct Nominee {
    /// As it was last seen.
    pod: Arc<PodInfo>,
    /// `None` if the nomination was taken back, and the status does not know it yet.
    node: Option<String>,
}

impl Nominator {
    /// Takes note of a pending pod: a nomination that its status tells anew replaces the one known here.
    pub(crate) fn update(&mut self, pod: Arc<PodInfo>) {
        let told = pod.nominated_node();
        let node = match self.nominees.get(&pod.uid) {
            Some(known) if known.pod.nominated_node() == told => known.node.clone(),
            _ => told.map(str::to_owned),
        };
        self.set(pod, node);
    }

    /// Nominates a pod, or takes its nomination back. Whether it leaves a node with that.
    pub(crate) fn set(&mut self, pod: Arc<PodInfo>, node: Option<String>) -> bool {
        let before = self.take(&pod.uid);
        let left = before.is_some() && before != node;
        if let Some(node) = &node {
            self.by_node.entry(node.clone()).or_default().insert(pod.uid.clone(), pod.clone());
        }
        if node.is_some() || pod.nominated_node().is_some() {
            self.nominees.insert(pod.uid.clone(), Nominee { pod, node });
        }
        left
    }

    /// Forgets a pod. Whether it was nominated.
    pub(crate) fn remove(&mut self, uid: &str) -> bool {
        self.take(uid).is_some()
    }

    fn take(&mut self, uid: &str) -> Option<String> {
        let node = self.nominees.remove(uid)?.node?;
        if let Some(pods) = self.by_node.get_mut(&node) {
            pods.remove(uid);
            if pods.is_empty() {
                self.by_node.remove(&node);
            }
        }
        Some(node)
    }

    /// The node that a pod is nominated for.
    pub(crate) fn node_of(&self, uid: &str) -> Option<&str> {
        self.nominees.get(uid)?.node.as_deref()
    }

    /// The pods that are nominated for a node.
    pub(crate) fn on(&self, node: &str) -> impl Iterator<Item = &Arc<PodInfo>> {
        self.by_node.get(node).into_iter().flat_map(BTreeMap::values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, told: Option<&str>) -> Arc<PodInfo> {
        let pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": uid, "namespace": "a", "uid": uid}, "status": {"nominatedNodeName": told}}));
        Arc::new(PodInfo::new(Arc::new(pod.unwrap())))
    }

    fn on(nominator: &Nominator, node: &str) -> Vec<String> {
        nominator.on(node).map(|pod| pod.uid.clone()).collect()
    }

    #[test]
    fn what_is_decided_counts_until_the_status_says_something_new() {
        let mut nominator = Nominator::default();
        nominator.update(pod("p", None));
        assert!(nominator.nominees.is_empty());
        assert!(!nominator.set(pod("p", None), Some("n".into())));
        nominator.update(pod("p", None));
        assert_eq!(nominator.node_of("p"), Some("n"), "an update without news");
        nominator.update(pod("p", Some("n")));
        assert_eq!(on(&nominator, "n"), ["p"]);
        assert!(nominator.set(pod("p", Some("n")), None));
        nominator.update(pod("p", Some("n")));
        assert_eq!(nominator.node_of("p"), None, "taken back, and not yet told");
        nominator.update(pod("p", Some("m")));
        assert_eq!((on(&nominator, "n").len(), on(&nominator, "m")), (0, vec!["p".to_owned()]), "told anew");
        nominator.update(pod("p", None));
        assert!(nominator.nominees.is_empty() && nominator.by_node.is_empty());
    }

    #[test]
    fn pods_leave() {
        let mut nominator = Nominator::default();
        nominator.update(pod("p", Some("n")));
        nominator.update(pod("q", Some("n")));
        assert_eq!(on(&nominator, "n"), ["p", "q"]);
        assert!(!nominator.set(pod("p", Some("n")), Some("n".into())), "it stays");
        assert!(nominator.remove("p") && !nominator.remove("p"));
        assert!(nominator.remove("q"));
        assert!(nominator.by_node.is_empty());
    }
}
