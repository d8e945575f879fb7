//! `NodeName`: a pod that names its node takes no other.

use super::{Prepared, Reasons};
use crate::{node_info::NodeInfo, pod_info::PodInfo};

pub(super) fn filter(_: &Prepared, pod: &PodInfo, node: &NodeInfo) -> Result<(), Reasons> {
    if pod.node_name().is_some_and(|name| name != node.name()) {
        return Err(vec!["node(s) didn't match the requested node name".into()]);
    }
    Ok(())
}
