//! `NodePorts`: a port of a node belongs to one pod.

use super::{Prepared, Refusal};
use crate::{node_info::NodeInfo, pod_info::PodInfo};

pub(super) fn filter(_: &Prepared, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
    if pod.host_ports.iter().any(|port| node.has_port(port)) {
        return Err(Refusal::by_pods("node(s) didn't have free ports for the requested pod ports"));
    }
    Ok(())
}
