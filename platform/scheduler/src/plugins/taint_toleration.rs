//! `TaintToleration`: a node's taints keep pods off that do not tolerate them, and make others less welcome.

use k8s_openapi::api::core::v1::{Taint, Toleration};

use super::{Prepared, Refusal, normalize};
use crate::{node_info::NodeInfo, pod_info::PodInfo};

pub(super) fn filter(_: &Prepared, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
    let binding = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
    if node.taints().iter().filter(binding).all(|taint| tolerates(pod.tolerations(), taint)) {
        return Ok(());
    }
    Err(Refusal::by_node("node(s) had untolerated taint(s)"))
}

pub(super) fn score(_: &Prepared, pod: &PodInfo, nodes: &[&NodeInfo]) -> Vec<i64> {
    let tolerations: Vec<Toleration> = pod
        .tolerations()
        .iter()
        .filter(|t| t.effect.as_deref().is_none_or(|effect| effect.is_empty() || effect == "PreferNoSchedule"))
        .cloned()
        .collect();
    let intolerable = |node: &&NodeInfo| {
        node.taints().iter().filter(|t| t.effect == "PreferNoSchedule" && !tolerates(&tolerations, t)).count() as i64
    };
    normalize(&nodes.iter().map(intolerable).collect::<Vec<_>>(), true)
}

/// Whether any of the tolerations covers the taint.
pub(super) fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| {
        let same = |ours: &Option<String>, theirs: &str| ours.as_deref().is_none_or(|o| o.is_empty() || o == theirs);
        if !same(&toleration.effect, &taint.effect) || !same(&toleration.key, &taint.key) {
            return false;
        }
        let (ours, theirs) = (toleration.value.as_deref().unwrap_or_default(), taint.value.as_deref().unwrap_or_default());
        let number = |text: &str| text.parse::<i64>().ok();
        match toleration.operator.as_deref().unwrap_or_default() {
            "" | "Equal" => ours == theirs,
            "Exists" => true,
            "Gt" => matches!((number(theirs), number(ours)), (Some(t), Some(o)) if t > o),
            "Lt" => matches!((number(theirs), number(ours)), (Some(t), Some(o)) if t < o),
            _ => false,
        }
    })
}
