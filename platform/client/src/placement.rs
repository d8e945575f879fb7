//! Whether a pod may be on a node (`k8s.io/component-helpers/scheduling/corev1`), for those who decide it beside the scheduler.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration};

type Labels = BTreeMap<String, String>;

/// Whether a node is one that a pod asks for, by node selector and required node affinity.
#[must_use]
pub fn selects_node(pod: &PodSpec, node: &Node) -> bool {
    let none = Labels::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    let required = pod
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref());
    pod.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value))
        && required.is_none_or(|r| r.node_selector_terms.iter().any(|term| term_matches(term, node)))
}

/// Whether a toleration covers a taint.
#[must_use]
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let same = |ours: &Option<String>, theirs: &str| ours.as_deref().is_none_or(|o| o.is_empty() || o == theirs);
    if !same(&toleration.effect, &taint.effect) || !same(&toleration.key, &taint.key) {
        return false;
    }
    let (ours, theirs) = (toleration.value.as_deref().unwrap_or_default(), taint.value.as_deref().unwrap_or_default());
    let numbers = || Some((theirs.parse::<i64>().ok()?, ours.parse::<i64>().ok()?));
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => ours == theirs,
        "Exists" => true,
        "Gt" => numbers().is_some_and(|(theirs, ours)| theirs > ours),
        "Lt" => numbers().is_some_and(|(theirs, ours)| theirs < ours),
        _ => false,
    }
}

/// Whether a term of a node selector matches; a term that asks for nothing matches no node.
fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let name = Labels::from([("metadata.name".to_owned(), node.metadata.name.clone().unwrap_or_default())]);
    let none = Labels::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|r| holds(r, labels))
        && fields.iter().all(|r| holds(r, &name))
}

/// One requirement. `Gt` and `Lt` compare integers.
fn holds(requirement: &NodeSelectorRequirement, labels: &Labels) -> bool {
    let value = labels.get(&requirement.key);
    let values = requirement.values.as_deref().unwrap_or_default();
    let numbers = || Some((value?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|v| values.contains(v)),
        "NotIn" => value.is_none_or(|v| !values.contains(v)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(is, bound)| is > bound),
        "Lt" => numbers().is_some_and(|(is, bound)| is < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn pods_ask_for_nodes() {
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "n1", "labels": {"zone": "a", "gen": "7"}}})).unwrap();
        let affinity = |terms: Value| {
            json!({"containers": [], "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": terms}}}})
        };
        let by = |key: &str, operator: &str, values: &[&str]| {
            affinity(json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]))
        };
        for (spec, expected) in [
            (json!({"containers": []}), true),
            (json!({"containers": [], "nodeSelector": {"zone": "a"}}), true),
            (json!({"containers": [], "nodeSelector": {"zone": "b"}}), false),
            (by("zone", "In", &["a", "b"]), true),
            (by("zone", "NotIn", &["a"]), false),
            (by("none", "NotIn", &["a"]), true),
            (by("none", "Exists", &[]), false),
            (by("none", "DoesNotExist", &[]), true),
            (by("gen", "Gt", &["6"]), true),
            (by("gen", "Lt", &["6"]), false),
            (by("zone", "Gt", &["6"]), false),
            (affinity(json!([{}])), false),
            (affinity(json!([{}, {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}])), true),
        ] {
            let pod: PodSpec = serde_json::from_value(spec.clone()).unwrap();
            assert_eq!(selects_node(&pod, &node), expected, "{spec}");
        }
    }

    #[test]
    fn tolerations() {
        let taint: Taint = serde_json::from_value(json!({"key": "a", "value": "5", "effect": "NoExecute"})).unwrap();
        for (toleration, expected) in [
            (json!({"operator": "Exists"}), true),
            (json!({"key": "a", "value": "5"}), true),
            (json!({"key": "a", "value": "6"}), false),
            (json!({"key": "b", "operator": "Exists"}), false),
            (json!({"key": "a", "operator": "Exists", "effect": "NoSchedule"}), false),
            (json!({"key": "a", "operator": "Gt", "value": "4"}), true),
            (json!({"key": "a", "operator": "Lt", "value": "4"}), false),
        ] {
            let one: Toleration = serde_json::from_value(toleration.clone()).unwrap();
            assert_eq!(tolerates(&one, &taint), expected, "{toleration}");
        }
    }
}
