//! TaintNodesByCondition: a new node takes no pods until it is known to be ready.
//!
//! Follows `plugin/pkg/admission/nodetaint/admission.go`.

use serde_json::{Value, json};

use super::{Attributes, Operation};

pub(super) fn mutate(attributes: &Attributes<'_>, node: &mut Value) {
    if !attributes.is("", "nodes", Operation::Create) {
        return;
    }
    let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    match node["spec"]["taints"].as_array_mut() {
        Some(taints) => {
            let same = |other: &Value| other["key"] == taint["key"] && other["effect"] == taint["effect"];
            if !taints.iter().any(same) {
                taints.push(taint);
            }
        }
        None => node["spec"]["taints"] = json!([taint]),
    }
}
