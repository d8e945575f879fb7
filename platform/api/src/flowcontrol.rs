//! What of API priority and fairness both the rules of its objects and the API server have to know.

use serde_json::{Value, json};

/// Bits of a flow's hash that dealing may use: more would make the last card uneven
/// (`MaxHashBits` of `apiserver/pkg/util/shufflesharding`).
pub const MAX_HASH_BITS: u32 = 60;

/// The schema, and the priority level, of those who are never limited.
pub const EXEMPT: &str = "exempt";

/// The schema, and the priority level, of whatever nothing else is for.
pub const CATCH_ALL: &str = "catch-all";

/// A quick estimate, on the safe side, of the bits of a hash that are used up to deal a hand from a deck
/// (`RequiredEntropyBits` of `apiserver/pkg/util/shufflesharding`).
#[must_use]
pub fn entropy_bits(deck: u32, hand: u32) -> u32 {
    (f64::from(deck).log2() * f64::from(hand)).ceil() as u32
}

/// The spec a FlowSchema of this name must have, if it is one that every server has
/// (`apiserver/pkg/apis/flowcontrol/bootstrap/default.go`).
#[must_use]
pub fn mandatory_schema(name: &str) -> Option<Value> {
    let spec = match name {
        EXEMPT => json!({
            "priorityLevelConfiguration": {"name": EXEMPT},
            "matchingPrecedence": 1,
            "rules": [everything(&groups(&["system:masters"]))],
        }),
        CATCH_ALL => json!({
            "priorityLevelConfiguration": {"name": CATCH_ALL},
            "matchingPrecedence": 10_000,
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [everything(&groups(&["system:unauthenticated", "system:authenticated"]))],
        }),
        _ => return None,
    };
    Some(spec)
}

/// The spec a PriorityLevelConfiguration of this name must have, likewise. What is in `exempt` may be chosen.
#[must_use]
pub fn mandatory_level(name: &str) -> Option<Value> {
    match name {
        EXEMPT => Some(json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}})),
        CATCH_ALL => Some(json!({"type": "Limited", "limited": {
            "nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"}}})),
        _ => None,
    }
}

/// Some groups as a rule's subjects.
#[must_use]
pub fn groups(names: &[&str]) -> Value {
    names.iter().map(|name| json!({"kind": "Group", "group": {"name": name}})).collect()
}

/// The rule that covers whatever these subjects ask for.
#[must_use]
pub fn everything(subjects: &Value) -> Value {
    json!({
        "subjects": subjects,
        "resourceRules": [
            {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true},
        ],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    })
}

/// Whether two specs say the same: what is absent, null or an empty list is one.
#[must_use]
pub fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Object(left), Value::Object(right)) => {
            let of = |map: &serde_json::Map<String, Value>, key: &str| map.get(key).cloned().unwrap_or(Value::Null);
            left.keys().chain(right.keys()).all(|key| same(&of(left, key), &of(right, key)))
        }
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same(left, right))
        }
        _ => left == right || (is_nothing(left) && is_nothing(right)),
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy() {
        for (deck, hand, bits) in [(64, 6, 36), (128, 6, 42), (1, 1, 0), (50, 5, 29), (512, 7, 63)] {
            assert_eq!(entropy_bits(deck, hand), bits, "{deck} {hand}");
        }
    }

    #[test]
    fn specs_that_say_the_same() {
        for (left, right, want) in [
            (json!({"a": 1}), json!({"a": 1, "b": []}), true),
            (json!({"a": 1, "b": null}), json!({"a": 1}), true),
            (json!({"a": 1}), json!({"a": 2}), false),
            (json!({"a": 1}), json!({"a": 1, "b": false}), false),
            (json!({"a": [{"b": 1}]}), json!({"a": [{"b": 1}]}), true),
            (json!({"a": [{"b": 1}]}), json!({"a": []}), false),
            (json!({}), json!({"a": 1}), false),
        ] {
            assert_eq!(same(&left, &right), want, "{left} {right}");
            assert_eq!(same(&right, &left), want, "{right} {left}");
        }
    }
}
