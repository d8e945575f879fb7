//! Strategic merge patch: a merge patch that knows lists, after apimachinery's `util/strategicpatch`.
//!
//! The schema names each list's merge key and strategy; directives in the patch (`$patch`, `$retainKeys`, `$setElementOrder/x`,
//! `$deleteFromPrimitiveList/x`) say the rest. A field without a schema merges if it is a map and is replaced if it is a list.

use serde_json::{Map, Value};

use crate::schema::{ANY, Schema};
use crate::status::Status;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_LIST: &str = "$deleteFromPrimitiveList/";

type Result<T, E = Status> = std::result::Result<T, E>;

/// Applies a patch.
///
/// # Errors
/// 400 for a malformed patch, 422 for an unknown directive, 500 (as upstream) for a list item without its merge key.
pub fn apply(document: &Value, patch: &[u8], schema: &Schema) -> Result<Value> {
    let patch: Value = serde_json::from_slice(patch).map_err(|_| Status::bad_request("invalid JSON document"))?;
    apply_value(document, patch, schema)
}

/// Applies a patch already parsed.
///
/// # Errors
/// As [`apply`].
pub fn apply_value(document: &Value, patch: Value, schema: &Schema) -> Result<Value> {
    match (document.clone(), patch) {
        (Value::Object(original), Value::Object(patch)) => merge_map(original, patch, schema).map(Value::Object),
        _ => Err(Status::bad_request("invalid JSON document")),
    }
}

fn bad_format(what: &str) -> Status {
    Status::bad_request(format!("invalid patch format of {what}"))
}

fn no_merge_key(item: &Value, key: &str) -> Status {
    Status::failure(500, "", format!("map: {item} does not contain declared merge key: {key}"))
}

fn merge_map(mut original: Map<String, Value>, mut patch: Map<String, Value>, schema: &Schema) -> Result<Map<String, Value>> {
    if let Some(directive) = patch.remove(PATCH) {
        return match directive.as_str() {
            Some("replace") => Ok(patch),
            Some("delete") => Ok(Map::new()),
            _ => Err(Status::unprocessable()),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    set_element_order(&mut original, &mut patch, schema)?;
    for (key, change) in patch {
        if let Some(name) = key.strip_prefix(DELETE_LIST) {
            let Value::Array(unwanted) = change else {
                return Err(bad_format("primitive list"));
            };
            if let Some(Value::Array(items)) = original.get_mut(name) {
                items.retain(|item| !unwanted.contains(item));
            }
            continue;
        }
        let merged = match (original.remove(&key), change) {
            (_, Value::Null) => continue,
            (None, change) => drop_directives(change),
            (Some(before), change) => merge_value(before, change, schema.property(&key))?,
        };
        original.insert(key, merged);
    }
    Ok(original)
}

fn merge_value(before: Value, change: Value, schema: Option<&Schema>) -> Result<Value> {
    match (before, change) {
        // The strategy `replace` on a map exists nowhere in the built-in schemas.
        (Value::Object(before), Value::Object(change)) => merge_map(before, change, schema.unwrap_or(&ANY)).map(Value::Object),
        (Value::Array(before), Value::Array(change)) => match schema {
            Some(schema) if schema.patch_merge => merge_list(before, change, schema).map(Value::Array),
            _ => Ok(drop_directives(Value::Array(change))),
        },
        (_, change) => Ok(drop_directives(change)),
    }
}

/// Drops what is not named by `$retainKeys`.
fn retain_keys(original: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> Result<()> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let keys = keys.as_array().ok_or_else(|| bad_format("retainKeys"))?;
    let named = |key: &str| keys.iter().any(|k| k == key);
    let exempt = |key: &str, value: &Value| value.is_null() || key.starts_with(DELETE_LIST) || key.starts_with(SET_ORDER);
    if patch.iter().any(|(key, value)| !exempt(key, value) && !named(key)) {
        return Err(bad_format("retainKeys"));
    }
    original.retain(|key, _| named(key));
    Ok(())
}

/// Merges and reorders the lists that `$setElementOrder` names.
fn set_element_order(original: &mut Map<String, Value>, patch: &mut Map<String, Value>, schema: &Schema) -> Result<()> {
    let directives: Vec<String> = patch.keys().filter(|key| key.starts_with(SET_ORDER)).cloned().collect();
    for directive in directives {
        let Some(Value::Array(order)) = patch.remove(&directive) else {
            return Err(bad_format("setElementOrder list"));
        };
        let name = &directive[SET_ORDER.len()..];
        let field = schema.property(name);
        let key = field.and_then(Schema::patch_merge_key);
        let list = |value: Option<&Value>| match value {
            Some(Value::Array(items)) => Some(items.clone()),
            _ => None,
        };
        let (before, change) = (list(original.get(name)), list(patch.get(name)));
        if let Some(change) = &change {
            check_order(change, &order, key)?;
        }
        let merged = match (&before, change) {
            (None, None) => continue,
            (Some(before), None) => before.clone(),
            (None, Some(change)) => match drop_directives(Value::Array(change)) {
                Value::Array(items) => items,
                _ => Vec::new(),
            },
            (Some(before), Some(change)) => match field {
                Some(field) if field.patch_merge => merge_list(before.clone(), change, field)?,
                _ => change,
            },
        };
        let server_order = before.unwrap_or_default();
        original.insert(name.to_owned(), Value::Array(ordered(merged, &order, &server_order, key)));
        patch.remove(name);
    }
    Ok(())
}

/// The items of a patched list must come in the order the directive gives.
fn check_order(change: &[Value], order: &[Value], key: Option<&str>) -> Result<()> {
    let mut at = 0;
    for item in change.iter().filter(|item| item.get(PATCH).is_none()) {
        match order[at..].iter().position(|o| same(o, item, key)) {
            Some(found) => at += found + 1,
            None => {
                return Err(Status::failure(
                    500,
                    "",
                    format!(
                        "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                        show(change),
                        show(order)
                    ),
                ));
            }
        }
    }
    Ok(())
}

fn show(items: &[Value]) -> String {
    Value::from(items.to_vec()).to_string()
}

fn same(a: &Value, b: &Value, key: Option<&str>) -> bool {
    match key {
        Some(key) => matches!((a.get(key), b.get(key)), (Some(a), Some(b)) if a == b),
        None => a == b,
    }
}

fn merge_list(original: Vec<Value>, patch: Vec<Value>, schema: &Schema) -> Result<Vec<Value>> {
    let is_map = original.first().or(patch.first()).is_some_and(Value::is_object);
    if !is_map {
        let mut merged: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
        for item in original.iter().chain(&patch) {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
        }
        return Ok(ordered(merged, &patch, &original, None));
    }
    let Some(key) = schema.patch_merge_key() else {
        return Err(Status::failure(500, "", "cannot merge lists without merge key"));
    };
    let mut merged = original.clone();
    let (mut plain, mut replace) = (Vec::new(), false);
    for mut item in patch {
        match item.as_object_mut().and_then(|map| map.remove(PATCH)) {
            None => plain.push(item),
            Some(directive) => match directive.as_str() {
                Some("delete") => {
                    let value = item.get(key).ok_or_else(|| no_merge_key(&item, key))?;
                    merged.retain(|m| m.get(key) != Some(value));
                }
                Some("replace") => replace = true,
                Some("merge") => {
                    return Err(Status::failure(500, "", "merging lists cannot yet be specified in the patch"));
                }
                _ => return Err(Status::unprocessable()),
            },
        }
    }
    if replace {
        return Ok(plain.into_iter().map(drop_directives).collect());
    }
    let item_schema = schema.items().unwrap_or(&ANY);
    for item in &plain {
        let value = item.get(key).ok_or_else(|| no_merge_key(item, key))?;
        match merged.iter_mut().find(|m| m.get(key) == Some(value)) {
            Some(found) => *found = merge_value(found.take(), item.clone(), Some(item_schema))?,
            None => merged.push(drop_directives(item.clone())),
        }
    }
    Ok(ordered(merged, &plain, &original, Some(key)))
}

/// Puts items in the order the patch gives; those only the server has stay where they were in relation to the others.
fn ordered(items: Vec<Value>, patch_order: &[Value], server_order: &[Value], key: Option<&str>) -> Vec<Value> {
    let position = |order: &[Value], item: &Value| order.iter().position(|o| same(o, item, key));
    let (mut patched, mut server): (Vec<Value>, Vec<Value>) =
        items.into_iter().partition(|item| position(patch_order, item).is_some());
    patched.sort_by_key(|item| position(patch_order, item));
    server.sort_by_key(|item| position(server_order, item).unwrap_or(usize::MAX));
    let mut result = Vec::with_capacity(patched.len() + server.len());
    let (mut server, mut patched) = (server.into_iter().peekable(), patched.into_iter().peekable());
    loop {
        let server_first = match (server.peek(), patched.peek()) {
            (None, None) => return result,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(s), Some(p)) => {
                matches!((position(server_order, s), position(server_order, p)), (Some(s), Some(p)) if s < p)
            }
        };
        result.extend(if server_first { server.next() } else { patched.next() });
    }
}

/// What is left of a new value once its directives and nulls are gone.
fn drop_directives(value: Value) -> Value {
    match value {
        Value::Object(map) if map.get(PATCH).is_some_and(|d| d == "delete") => Value::Object(Map::new()),
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(key, value)| {
                let directive = key == PATCH || key == RETAIN_KEYS || key.starts_with(SET_ORDER) || key.starts_with(DELETE_LIST);
                !directive && !value.is_null()
            });
            Value::Object(kept.map(|(key, value)| (key, drop_directives(value))).collect())
        }
        Value::Array(items) => {
            let kept = items.into_iter().filter(|item| match item.get(PATCH).and_then(Value::as_str) {
                Some("delete") => false,
                Some("replace") => item.as_object().is_some_and(|map| map.len() > 1),
                _ => true,
            });
            Value::Array(kept.map(drop_directives).collect())
        }
        scalar => scalar,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::patch::test_schema;

    fn check(document: Value, patch: Value, expected: Value) {
        let schema = test_schema::deployment();
        assert_eq!(apply_value(&document, patch.clone(), &schema), Ok(expected), "{patch}");
    }

    fn containers(items: Value) -> Value {
        json!({"spec": {"containers": items}})
    }

    #[test]
    fn maps() {
        check(
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
            json!({"metadata": {"labels": {"a": null, "c": "3"}}}),
            json!({"metadata": {"labels": {"b": "2", "c": "3"}}}),
        );
        check(
            json!({"spec": {"replicas": 1, "x": 1}}),
            json!({"spec": {"$patch": "replace", "replicas": 2}}),
            json!({"spec": {"replicas": 2}}),
        );
        check(json!({"spec": {"replicas": 1}}), json!({"spec": {"$patch": "delete"}}), json!({"spec": {}}));
        check(
            json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
            json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
            json!({"spec": {"strategy": {"type": "Recreate"}}}),
        );
        check(
            json!({}),
            json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate", "x": null}}}),
            json!({"spec": {"strategy": {"type": "Recreate"}}}),
        );
    }

    #[test]
    fn lists_of_maps() {
        let two = || containers(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]));
        check(
            two(),
            containers(json!([{"name": "b", "image": "3"}])),
            containers(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "3"}])),
        );
        check(
            two(),
            containers(json!([{"name": "c", "image": "3"}])),
            containers(json!([{"name": "c", "image": "3"}, {"name": "a", "image": "1"}, {"name": "b", "image": "2"}])),
        );
        check(two(), containers(json!([{"name": "a", "$patch": "delete"}])), containers(json!([{"name": "b", "image": "2"}])));
        check(
            two(),
            containers(json!([{"$patch": "replace"}, {"name": "z", "image": "9"}])),
            containers(json!([{"name": "z", "image": "9"}])),
        );
        check(
            two(),
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}),
            containers(json!([{"name": "b", "image": "2"}, {"name": "a", "image": "1"}])),
        );
        check(
            two(),
            json!({"spec": {"$setElementOrder/containers": [{"name": "a"}, {"name": "c"}, {"name": "b"}], "containers": [{"name": "c", "image": "3"}]}}),
            containers(json!([{"name": "a", "image": "1"}, {"name": "c", "image": "3"}, {"name": "b", "image": "2"}])),
        );
        let schema = test_schema::deployment();
        assert_eq!(apply_value(&two(), containers(json!([{"image": "x"}])), &schema).unwrap_err().code, 500);
        assert_eq!(apply_value(&two(), json!({"spec": {"$patch": "frob"}}), &schema).unwrap_err().code, 422);
    }

    #[test]
    fn other_lists() {
        let finalizers = |items: Value| json!({"metadata": {"finalizers": items}});
        check(finalizers(json!(["a", "b"])), finalizers(json!(["c", "a"])), finalizers(json!(["c", "a", "b"])));
        check(
            finalizers(json!(["a", "b"])),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}),
            finalizers(json!(["b"])),
        );
        check(
            finalizers(json!(["a", "b"])),
            json!({"metadata": {"$setElementOrder/finalizers": ["b", "c"], "finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"]}}),
            finalizers(json!(["b", "c"])),
        );
        check(json!({"spec": {"args": ["a"]}}), json!({"spec": {"args": ["b"]}}), json!({"spec": {"args": ["b"]}}));
    }
}
