//! PodTopologyLabels: a pod is labelled with the zone and region of the node it is bound to.
//!
//! Follows `plugin/pkg/admission/podtopologylabels/admission.go`.

use serde_json::Value;

use super::{Attributes, Operation};
use crate::{authn::Objects as _, background::CachedObjects};

const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

/// Labels a Binding, whose labels go to its pod, or a pod that is made for a node.
pub(super) fn mutate(attributes: &Attributes<'_>, object: &mut Value) {
    let kind = attributes.kind;
    if !kind.group.is_empty() || kind.plural != "pods" || attributes.operation != Operation::Create {
        return;
    }
    let node = match attributes.subresource {
        "" => &object["spec"]["nodeName"],
        "binding" if object["target"]["kind"] == "Node" => &object["target"]["name"],
        _ => return,
    };
    let Some(node) = node.as_str().filter(|node| !node.is_empty()) else { return };
    if let Some(node) = CachedObjects(attributes.api.clone()).get("", "nodes", "", node) {
        label(object, &node);
    }
}

fn label(object: &mut Value, node: &Value) {
    for key in LABELS {
        let value = &node["metadata"]["labels"][key];
        if value.is_string() {
            object["metadata"]["labels"][key] = value.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels_come_from_the_node() {
        let node = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "z", "other": "x"}}});
        let mut binding = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "mine", "app": "a"}}});
        label(&mut binding, &node);
        assert_eq!(binding["metadata"]["labels"], json!({"topology.kubernetes.io/zone": "z", "app": "a"}));
        let mut plain = json!({"metadata": {}});
        label(&mut plain, &json!({"metadata": {}}));
        assert_eq!(plain, json!({"metadata": {}}));
    }
}
