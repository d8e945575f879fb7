//! Merging an object into another by its schema, as server-side apply does, but owned by nobody: what a mutating admission policy
//! does with an apply configuration (`apiserver/pkg/admission/plugin/policy/mutating/patch/smd.go`).

use serde_json::Value;

use super::typed;
use crate::schema::{ANY, ListType, Schema, Type};

/// Merges `patch` into `live`. Nulls in the patch are in the result: decode it by the schema.
///
/// # Errors
/// Upstream's text, if the patch has fields the schema does not, values of other types, or sets what can only be set as a whole.
pub fn merge(schema: &Schema, live: &Value, patch: &Value) -> Result<Value, String> {
    let mut problems = Vec::new();
    check(schema, patch, &mut String::new(), &mut problems);
    if problems.is_empty() {
        problems.extend(typed::field_set(schema, patch).err());
    }
    if let Some(text) = list(&problems) {
        return Err(format!("failed to convert patch object to typed object: {text}"));
    }
    let mut atomic = Vec::new();
    find_atomic(schema, patch, &mut String::new(), &mut atomic);
    if !atomic.is_empty() {
        let paths = atomic.join(", ");
        return Err(format!("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {paths}"));
    }
    Ok(typed::merge(schema, live, patch))
}

/// `typed.ValidationErrors` as text.
fn list(problems: &[String]) -> Option<String> {
    match problems {
        [] => None,
        [one] => Some(one.clone()),
        many => Some(format!("errors:\n  {}", many.join("\n  "))),
    }
}

/// Does something below `path`, which is as before afterwards.
fn below(path: &mut String, step: &str, then: impl FnOnce(&mut String)) {
    let length = path.len();
    path.push_str(step);
    then(path);
    path.truncate(length);
}

/// Whether a value has its schema's type (`typed/validate.go` of structured-merge-diff).
fn check(schema: &Schema, value: &Value, path: &mut String, problems: &mut Vec<String>) {
    if value.is_null() {
        return;
    }
    let wanted = match (schema.ty(), value) {
        (Type::Any | Type::SchemaOr, _) => return,
        (Type::Object | Type::Map, Value::Object(fields)) => {
            for (name, value) in fields {
                below(path, &format!(".{name}"), |path| match schema.property(name) {
                    Some(schema) => check(schema, value, path, problems),
                    None if schema.preserve_unknown_fields || schema.shape().preserve_unknown_fields => {}
                    None => problems.push(format!("{path}: field not declared in schema")),
                });
            }
            return;
        }
        (Type::Array, Value::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                below(path, &format!("[{index}]"), |path| check(schema.items().unwrap_or(&ANY), item, path, problems));
            }
            return;
        }
        (Type::String | Type::Time | Type::MicroTime | Type::Bytes, Value::String(_))
        | (Type::Boolean, Value::Bool(_))
        | (Type::Integer | Type::Number, Value::Number(_))
        | (Type::IntOrString | Type::Quantity, Value::String(_) | Value::Number(_)) => return,
        (Type::Object | Type::Map, _) => "map",
        (Type::Array, _) => "list",
        (Type::String | Type::Time | Type::MicroTime | Type::Bytes, _) => "string",
        (Type::Boolean, _) => "boolean",
        (Type::Integer | Type::Number, _) => "numeric (int or float)",
        (Type::IntOrString | Type::Quantity, _) => "any scalar",
    };
    problems.push(format!("{path}: expected {wanted}, got {value}"));
}

/// The paths of what is set and cannot be merged.
fn find_atomic(schema: &Schema, value: &Value, path: &mut String, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            if schema.is_map_atomic() {
                found.push(path.clone());
            }
            let declared = fields.iter().filter_map(|(name, value)| Some((name, value, schema.property_index(name)?)));
            for (name, value, at) in declared {
                below(path, &format!(".{name}"), |path| find_atomic(&schema.properties()[at].schema, value, path, found));
            }
        }
        Value::Array(items) => {
            if schema.list_type() == ListType::Atomic {
                found.push(path.clone());
            }
            for (index, item) in items.iter().enumerate() {
                below(path, &format!("[{index}]"), |path| find_atomic(schema.items().unwrap_or(&ANY), item, path, found));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment() -> &'static Schema {
        &crate::schema::definition_for("apps", "v1", "Deployment").unwrap().schema
    }

    #[test]
    fn merges_by_key() {
        let live = json!({
            "metadata": {"name": "d", "labels": {"a": "1"}},
            "spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "a", "image": "x"}]}}},
        });
        let patch = json!({
            "metadata": {"labels": {"b": "2"}},
            "spec": {"replicas": 3, "template": {"spec": {"initContainers": [{"name": "i"}], "containers": [
                {"name": "a", "image": "y"}, {"name": "side"},
            ]}}},
        });
        assert_eq!(
            merge(deployment(), &live, &patch).unwrap(),
            json!({
                "metadata": {"name": "d", "labels": {"a": "1", "b": "2"}},
                "spec": {"replicas": 3, "template": {"spec": {
                    "containers": [{"name": "a", "image": "y"}, {"name": "side"}], "initContainers": [{"name": "i"}],
                }}},
            })
        );
    }

    #[test]
    fn refusals() {
        let cannot = "failed to convert patch object to typed object: ";
        for (patch, wanted) in [
            (json!({"spec": {"odd": 1}}), format!("{cannot}.spec.odd: field not declared in schema")),
            (json!({"spec": {"replicas": "3"}}), format!("{cannot}.spec.replicas: expected numeric (int or float), got \"3\"")),
            (json!({"spec": []}), format!("{cannot}.spec: expected map, got []")),
            (
                json!({"spec": {"paused": 1, "odd": 1}}),
                format!("{cannot}errors:\n  .spec.odd: field not declared in schema\n  .spec.paused: expected boolean, got 1"),
            ),
            (
                json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "command": ["x"]}]}}}}),
                "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: \
                 .spec.template.spec.containers[0].command"
                    .to_owned(),
            ),
            (
                json!({"spec": {"selector": {"matchLabels": {"a": "b"}}}}),
                "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.selector".to_owned(),
            ),
        ] {
            assert_eq!(merge(deployment(), &json!({}), &patch).unwrap_err(), wanted, "{patch}");
        }
    }
}
