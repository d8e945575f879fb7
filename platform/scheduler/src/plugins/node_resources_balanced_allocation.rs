//! `NodeResourcesBalancedAllocation`: nodes whose CPU and memory would be used to a similar degree are better.

use super::{MAX_SCORE, Prepared};
use crate::{node_info::NodeInfo, pod_info::PodInfo};

pub(super) fn score(_: &Prepared, pod: &PodInfo, nodes: &[&NodeInfo]) -> Vec<i64> {
    nodes
        .iter()
        .map(|node| {
            let used = |name: &str| {
                let wanted = (node.requested.get(name) + pod.requests.get(name)) as f64;
                (wanted / (node.allocatable.get(name) as f64).max(1.0)).min(1.0)
            };
            // For two resources the standard deviation is half their distance.
            let deviation = (used("cpu") - used("memory")).abs() / 2.0;
            ((1.0 - deviation) * MAX_SCORE as f64) as i64
        })
        .collect()
}
