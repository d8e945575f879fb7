//! `NodeUnschedulable`: a cordoned node takes only pods that tolerate `node.kubernetes.io/unschedulable`.

use k8s_openapi::api::core::v1::Taint;

use super::{Prepared, Refusal, taint_toleration::tolerates};
use crate::{node_info::NodeInfo, pod_info::PodInfo};

pub(super) fn filter(_: &Prepared, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
    let taint = Taint { key: "node.kubernetes.io/unschedulable".into(), effect: "NoSchedule".into(), ..Taint::default() };
    if node.is_unschedulable() && !tolerates(pod.tolerations(), &taint) {
        return Err(Refusal::by_node("node(s) were unschedulable"));
    }
    Ok(())
}
