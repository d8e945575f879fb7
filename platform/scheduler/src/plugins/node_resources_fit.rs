//! `NodeResourcesFit`: what the pod asks for must be left on the node; emptier nodes are better (`LeastAllocated`).

use super::{MAX_SCORE, Prepared, Refusal};
use crate::{node_info::NodeInfo, pod_info::PodInfo};

pub(super) fn filter(_: &Prepared, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
    let (mut reasons, mut resolvable) = (Vec::new(), true);
    if node.pods.len() as i64 + 1 > node.allocatable.get("pods") {
        reasons.push("Too many pods".to_owned());
    }
    for (name, wanted) in pod.requests.iter() {
        if wanted > 0 && wanted > node.allocatable.get(name) - node.requested.get(name) {
            reasons.push(format!("Insufficient {name}"));
            resolvable &= wanted <= node.allocatable.get(name);
        }
    }
    if reasons.is_empty() { Ok(()) } else { Err(Refusal { reasons, resolvable }) }
}

pub(super) fn score(_: &Prepared, pod: &PodInfo, nodes: &[&NodeInfo]) -> Vec<i64> {
    nodes
        .iter()
        .map(|node| {
            let of = |name: &str| {
                let (capacity, wanted) = (node.allocatable.get(name), node.scored.get(name) + pod.scored.get(name));
                if capacity == 0 || wanted > capacity { 0 } else { (capacity - wanted) * MAX_SCORE / capacity }
            };
            (of("cpu") + of("memory")) / 2
        })
        .collect()
}
