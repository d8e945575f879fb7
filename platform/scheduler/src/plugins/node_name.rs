//! `NodeName`: a pod that names its node takes no other.

use super::{Prepared, Refusal};
use crate::{node_info::NodeInfo, pod_info::PodInfo};

pub(super) fn filter(_: &Prepared, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
    if pod.node_name().is_some_and(|name| name != node.name()) {
        return Err(Refusal::by_node("node(s) didn't match the requested node name"));
    }
    Ok(())
}
