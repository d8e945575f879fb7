//! JSON Merge Patch (RFC 7386).

use serde_json::{Map, Value};

use crate::status::Status;

/// Applies a patch.
///
/// # Errors
/// 400 for a patch that is not a JSON object.
pub fn apply(document: &Value, patch: &[u8]) -> Result<Value, Status> {
    let patch = super::parse(patch)?;
    if !patch.is_object() {
        return Err(Status::bad_request("error decoding patch: Invalid JSON Patch"));
    }
    let mut result = document.clone();
    merge(&mut result, &patch);
    Ok(result)
}

/// Merges a patch into a document: null removes, objects merge, the rest replaces.
pub fn merge(document: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *document = patch.clone();
        return;
    };
    if !document.is_object() {
        *document = Value::Object(Map::new());
    }
    let Value::Object(map) = document else { return };
    for (key, change) in changes {
        match change {
            Value::Null => _ = map.remove(key),
            change => merge(map.entry(key.as_str()).or_insert(Value::Null), change),
        }
    }
}

/// The patch that turns one document into another.
pub fn diff(from: &Value, to: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (from, to) else {
        return to.clone();
    };
    let mut patch = Map::new();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in new {
        match old.get(key) {
            Some(before) if before == value => {}
            Some(before) => _ = patch.insert(key.clone(), diff(before, value)),
            None => _ = patch.insert(key.clone(), value.clone()),
        }
    }
    Value::Object(patch)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rfc_appendix() {
        let cases = [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ];
        for (document, patch, expected) in cases {
            assert_eq!(apply(&document, patch.to_string().as_bytes()).unwrap(), expected, "{document} {patch}");
        }
        assert!(apply(&json!({}), b"[]").is_err());
        let (from, to) = (json!({"a": {"b": 1, "c": 2}, "d": 3}), json!({"a": {"b": 1, "c": 4}, "e": [5]}));
        assert_eq!(diff(&from, &to), json!({"a": {"c": 4}, "d": null, "e": [5]}));
    }
}
