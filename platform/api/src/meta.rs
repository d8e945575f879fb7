//! Access to the metadata of objects held as JSON.

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::time;

/// `metadata` itself.
pub fn metadata(object: &Value) -> Option<&Map<String, Value>> {
    object.get("metadata")?.as_object()
}

/// `metadata`, made if absent. Anything but an object there is replaced.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    object_mut(child_mut(object, "metadata"))
}

fn child_mut<'a>(object: &'a mut Value, name: &str) -> &'a mut Value {
    object_mut(object).entry(name).or_insert(Value::Null)
}

fn object_mut(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made an object above"),
    }
}

fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    metadata(object).and_then(|m| m.get(name)).and_then(Value::as_str).unwrap_or_default()
}

/// `apiVersion`, or the empty string.
pub fn api_version(object: &Value) -> &str {
    object.get("apiVersion").and_then(Value::as_str).unwrap_or_default()
}

/// `kind`, or the empty string.
pub fn kind(object: &Value) -> &str {
    object.get("kind").and_then(Value::as_str).unwrap_or_default()
}

/// Group and version of an `apiVersion`.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// `metadata.name`, or the empty string.
pub fn name(object: &Value) -> &str {
    text(object, "name")
}

/// `metadata.generateName`, or the empty string.
pub fn generate_name(object: &Value) -> &str {
    text(object, "generateName")
}

/// `metadata.namespace`, or the empty string.
pub fn namespace(object: &Value) -> &str {
    text(object, "namespace")
}

/// `metadata.uid`, or the empty string.
pub fn uid(object: &Value) -> &str {
    text(object, "uid")
}

/// `metadata.resourceVersion`, or the empty string.
pub fn resource_version(object: &Value) -> &str {
    text(object, "resourceVersion")
}

/// `metadata.creationTimestamp`.
pub fn creation_timestamp(object: &Value) -> Option<Timestamp> {
    time::parse(text(object, "creationTimestamp"))
}

/// `metadata.deletionTimestamp`.
pub fn deletion_timestamp(object: &Value) -> Option<Timestamp> {
    time::parse(text(object, "deletionTimestamp"))
}

/// Whether deletion has begun.
pub fn is_deleting(object: &Value) -> bool {
    !text(object, "deletionTimestamp").is_empty()
}

/// `metadata.deletionGracePeriodSeconds`.
pub fn deletion_grace_period_seconds(object: &Value) -> Option<i64> {
    metadata(object)?.get("deletionGracePeriodSeconds")?.as_i64()
}

/// `metadata.generation`, or 0.
pub fn generation(object: &Value) -> i64 {
    metadata(object).and_then(|m| m.get("generation")).and_then(Value::as_i64).unwrap_or_default()
}

/// The value of a label.
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    metadata(object)?.get("labels")?.get(key)?.as_str()
}

/// All labels.
pub fn labels(object: &Value) -> impl Iterator<Item = (&str, &str)> {
    strings(object, "labels")
}

/// The value of an annotation.
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    metadata(object)?.get("annotations")?.get(key)?.as_str()
}

/// All annotations.
pub fn annotations(object: &Value) -> impl Iterator<Item = (&str, &str)> {
    strings(object, "annotations")
}

fn strings<'a>(object: &'a Value, name: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let map = metadata(object).and_then(|m| m.get(name)).and_then(Value::as_object);
    map.into_iter().flatten().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
}

/// `metadata.finalizers`.
pub fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    list(object, "finalizers").filter_map(Value::as_str)
}

/// Whether a finalizer is set.
pub fn has_finalizer(object: &Value, finalizer: &str) -> bool {
    finalizers(object).any(|f| f == finalizer)
}

/// Adds a finalizer; false if it was there.
pub fn add_finalizer(object: &mut Value, finalizer: &str) -> bool {
    if has_finalizer(object, finalizer) {
        return false;
    }
    let list = metadata_mut(object).entry("finalizers").or_insert(Value::Null);
    match list {
        Value::Array(items) => items.push(finalizer.into()),
        other => *other = Value::Array(vec![finalizer.into()]),
    }
    true
}

/// Removes a finalizer; false if it was not there.
pub fn remove_finalizer(object: &mut Value, finalizer: &str) -> bool {
    let metadata = metadata_mut(object);
    let Some(Value::Array(items)) = metadata.get_mut("finalizers") else {
        return false;
    };
    let before = items.len();
    items.retain(|f| f != finalizer);
    let (after, removed) = (items.len(), items.len() < before);
    if after == 0 {
        metadata.remove("finalizers");
    }
    removed
}

/// `metadata.ownerReferences`.
pub fn owner_references(object: &Value) -> impl Iterator<Item = &Value> {
    list(object, "ownerReferences")
}

/// The owner that controls the object.
pub fn controller(object: &Value) -> Option<&Value> {
    owner_references(object).find(|o| o.get("controller") == Some(&Value::Bool(true)))
}

/// `metadata.managedFields`.
pub fn managed_fields(object: &Value) -> impl Iterator<Item = &Value> {
    list(object, "managedFields")
}

fn list<'a>(object: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    metadata(object).and_then(|m| m.get(name)).and_then(Value::as_array).into_iter().flatten()
}

/// Sets a field of `metadata`; an empty string, null, or zero removes it.
pub fn set(object: &mut Value, name: &str, value: impl Into<Value>) {
    let value = value.into();
    let empty = match &value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    match empty {
        true => _ = metadata_mut(object).remove(name),
        false => _ = metadata_mut(object).insert(name.to_owned(), value),
    }
}

/// Sets a label.
pub fn set_label(object: &mut Value, key: &str, value: &str) {
    set_string(object, "labels", key, value);
}

/// Sets an annotation.
pub fn set_annotation(object: &mut Value, key: &str, value: &str) {
    set_string(object, "annotations", key, value);
}

fn set_string(object: &mut Value, map: &str, key: &str, value: &str) {
    let map = metadata_mut(object).entry(map).or_insert(Value::Null);
    object_mut(map).insert(key.to_owned(), value.into());
}

/// The value at a path of field names.
pub fn at<'a>(object: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(object, |at, name| at.get(name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn access() {
        let mut object = json!({"metadata": {"name": "a", "labels": {"x": "y"}, "generation": 3,
            "ownerReferences": [{"uid": "1"}, {"uid": "2", "controller": true}]}});
        assert_eq!((name(&object), namespace(&object), generation(&object)), ("a", "", 3));
        assert_eq!(label(&object, "x"), Some("y"));
        assert_eq!(controller(&object).unwrap()["uid"], "2");
        assert!(add_finalizer(&mut object, "f") && !add_finalizer(&mut object, "f"));
        assert!(remove_finalizer(&mut object, "f") && !remove_finalizer(&mut object, "f"));
        assert_eq!(object["metadata"].get("finalizers"), None);
        set(&mut object, "name", "");
        set_annotation(&mut object, "k", "v");
        assert_eq!((name(&object), annotation(&object, "k")), ("", Some("v")));
        assert_eq!(split_api_version("apps/v1"), ("apps", "v1"));
    }
}
