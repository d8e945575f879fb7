//! `NodeAffinity`: the pod's node selector and node affinity.

use super::{Prepared, Refusal, normalize};
use crate::{labels::term_matches, node_info::NodeInfo, pod_info::PodInfo};

pub(super) fn filter(_: &Prepared, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
    if matches(pod, node) { Ok(()) } else { Err(Refusal::by_node("node(s) didn't match Pod's node affinity/selector")) }
}

/// Whether a node matches what the pod requires of it.
pub(super) fn matches(pod: &PodInfo, node: &NodeInfo) -> bool {
    let selector = pod.spec().and_then(|s| s.node_selector.as_ref());
    let required =
        pod.affinity().and_then(|a| a.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref());
    selector.into_iter().flatten().all(|(key, value)| node.labels().get(key) == Some(value))
        && required.is_none_or(|r| r.node_selector_terms.iter().any(|term| term_matches(term, node.name(), node.labels())))
}

pub(super) fn score(_: &Prepared, pod: &PodInfo, nodes: &[&NodeInfo]) -> Vec<i64> {
    let preferred = pod
        .affinity()
        .and_then(|a| a.node_affinity.as_ref()?.preferred_during_scheduling_ignored_during_execution.as_deref())
        .unwrap_or_default();
    let weight = |node: &&NodeInfo| {
        let matching = preferred.iter().filter(|p| term_matches(&p.preference, node.name(), node.labels()));
        matching.map(|p| i64::from(p.weight)).sum()
    };
    normalize(&nodes.iter().map(weight).collect::<Vec<_>>(), false)
}
