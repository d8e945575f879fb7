//! Matching labels against the selectors that pods carry.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};

type Labels = BTreeMap<String, String>;

/// One requirement. `Gt` and `Lt` compare integers, and hold for nodes only.
fn requirement(labels: &Labels, key: &str, operator: &str, values: &[String]) -> bool {
    let value = labels.get(key);
    match operator {
        "In" => value.is_some_and(|v| values.contains(v)),
        "NotIn" => value.is_none_or(|v| !values.contains(v)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" | "Lt" => {
            let number = |text: Option<&String>| text.and_then(|t| t.parse::<i64>().ok());
            match (number(value), number(values.first())) {
                (Some(is), Some(bound)) => (operator == "Gt" && is > bound) || (operator == "Lt" && is < bound),
                _ => false,
            }
        }
        _ => false,
    }
}

/// Whether a label selector matches; an absent one matches nothing, an empty one everything.
pub(crate) fn selects(selector: Option<&LabelSelector>, labels: &Labels) -> bool {
    selector.is_some_and(|selector| {
        selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value))
            && selector
                .match_expressions
                .iter()
                .flatten()
                .all(|r| requirement(labels, &r.key, &r.operator, r.values.as_deref().unwrap_or_default()))
    })
}

/// Whether a term of a node selector matches; a term that asks for nothing matches no node.
pub(crate) fn term_matches(term: &NodeSelectorTerm, name: &str, labels: &Labels) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let by_field = Labels::from([("metadata.name".to_owned(), name.to_owned())]);
    let all = |requirements: &[NodeSelectorRequirement], labels: &Labels| {
        requirements.iter().all(|r| requirement(labels, &r.key, &r.operator, r.values.as_deref().unwrap_or_default()))
    };
    all(expressions, labels) && all(fields, &by_field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements() {
        let labels = Labels::from([("zone".to_owned(), "a".to_owned()), ("gen".to_owned(), "7".to_owned())]);
        for (key, operator, values, expected) in [
            ("zone", "In", vec!["a", "b"], true),
            ("zone", "NotIn", vec!["a"], false),
            ("none", "NotIn", vec!["a"], true),
            ("none", "Exists", vec![], false),
            ("none", "DoesNotExist", vec![], true),
            ("gen", "Gt", vec!["6"], true),
            ("gen", "Lt", vec!["6"], false),
            ("zone", "Gt", vec!["6"], false),
            ("zone", "Like", vec!["a"], false),
        ] {
            let values: Vec<String> = values.into_iter().map(str::to_owned).collect();
            assert_eq!(requirement(&labels, key, operator, &values), expected, "{key} {operator} {values:?}");
        }
    }
}
