//! The fields of `metadata` that are the server's to write.
//!
//! Follows `staging/src/k8s.io/apiserver/pkg/registry/rest/{create,update,meta}.go`.

use pharos_api::{
    registry::Kind,
    validation::{ErrorType, FieldError},
};
use serde_json::{Map, Value, json};

use crate::{
    names,
    status::{self, Status},
};

/// The metadata of an object, made if it has none.
pub(crate) fn of(object: &mut Value) -> &mut Map<String, Value> {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    match &mut object["metadata"] {
        Value::Object(metadata) => metadata,
        _ => unreachable!("made an object above"),
    }
}

/// A text of the metadata, empty if it is not there.
pub(crate) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// Settles name and namespace of a new object against the URL.
pub(crate) fn place(kind: &Kind, object: &mut Value, namespace: &str, name: &str) -> Result<(), Status> {
    let given = text(object, "namespace").to_owned();
    if kind.namespaced {
        if namespace.is_empty() {
            return Err(status::bad_request("an empty namespace may not be set during creation"));
        }
        if !given.is_empty() && given != namespace {
            return Err(status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        of(object).insert("namespace".into(), json!(namespace));
    } else if !given.is_empty() {
        return Err(status::bad_request("namespace is not allowed on this type"));
    } else {
        of(object).remove("namespace");
    }
    if !name.is_empty() {
        let given = text(object, "name").to_owned();
        if !given.is_empty() && given != name {
            return Err(status::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({name})"
            )));
        }
        of(object).insert("name".into(), json!(name));
    }
    Ok(())
}

/// Whether a new object has a name, and whether the server is to make it up.
pub(crate) fn wants_generated_name(kind: &Kind, object: &Value) -> Result<bool, Status> {
    if !text(object, "name").is_empty() {
        return Ok(false);
    }
    if text(object, "generateName").is_empty() {
        return Err(status::invalid_field(
            kind,
            "",
            ErrorType::Required,
            "metadata.name",
            Value::Null,
            "name or generateName is required",
        ));
    }
    Ok(true)
}

/// Fills in what every new object gets.
pub(crate) fn fill(kind: &Kind, object: &mut Value, now: jiff::Timestamp) {
    let generation = kind.strategy.generation;
    let metadata = of(object);
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation", "resourceVersion"] {
        metadata.remove(field);
    }
    metadata.insert("uid".into(), json!(uuid::Uuid::new_v4().to_string()));
    metadata.insert("creationTimestamp".into(), json!(names::timestamp(now)));
    if generation {
        metadata.insert("generation".into(), json!(1));
    }
}

/// Takes over what an update may not change and mostly does not send.
pub(crate) fn carry_over(new: &mut Value, old: &Value) {
    let old = old["metadata"].clone();
    let metadata = of(new);
    metadata.remove("selfLink");
    for field in [
        "uid",
        "creationTimestamp",
        "generateName",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "namespace",
        "resourceVersion",
    ] {
        match old.get(field) {
            Some(value) => metadata.insert(field.to_owned(), value.clone()),
            None => metadata.remove(field),
        };
    }
}

/// What an update may not do to the metadata. To be asked before [`carry_over`].
pub(crate) fn check_update(kind: &Kind, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut immutable = |field: &str| {
        errors.push(FieldError {
            ty: ErrorType::Invalid,
            field: format!("metadata.{field}"),
            value: new["metadata"][field].clone(),
            detail: "field is immutable".into(),
        });
    };
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
        let (before, after) = (&old["metadata"][field], &new["metadata"][field]);
        if !after.is_null() && after != before {
            immutable(field);
        }
    }
    if !old["metadata"]["deletionTimestamp"].is_null() {
        let list = |object: &Value| object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        let before = list(old);
        let added: Vec<Value> = list(new).into_iter().filter(|finalizer| !before.contains(finalizer)).collect();
        if !added.is_empty() {
            errors.push(FieldError {
                ty: ErrorType::Forbidden,
                field: "metadata.finalizers".into(),
                value: Value::Null,
                detail: format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    added.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
                ),
            });
        }
    }
    let _ = kind;
    errors
}

/// Whether anything but metadata and status differs.
pub(crate) fn spec_differs(new: &Value, old: &Value) -> bool {
    let relevant = |object: &Value| -> Map<String, Value> {
        object
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(field, _)| !matches!(field.as_str(), "metadata" | "status" | "apiVersion" | "kind"))
            .map(|(field, value)| (field.clone(), value.clone()))
            .collect()
    };
    relevant(new) != relevant(old)
}

/// Whether what a client asks for differs: the spec, or labels that ask for something.
pub(crate) fn spec_or_labels_differ(new: &Value, old: &Value) -> bool {
    new["metadata"]["labels"] != old["metadata"]["labels"] || spec_differs(new, old)
}

/// Whether two states of an object are the same but for the times in `managedFields`.
pub(crate) fn same(new: &Value, old: &Value) -> bool {
    let strip = |object: &Value| {
        let mut object = object.clone();
        let metadata = of(&mut object);
        metadata.remove("resourceVersion");
        if let Some(Value::Array(fields)) = metadata.get_mut("managedFields") {
            for entry in fields {
                if let Some(entry) = entry.as_object_mut() {
                    entry.remove("time");
                }
            }
        }
        object
    };
    strip(new) == strip(old)
}

/// Removes empty labels, annotations, finalizers and owner references, as upstream's encoding does.
pub(crate) fn tidy(object: &mut Value) {
    let metadata = of(object);
    for field in ["labels", "annotations", "finalizers", "ownerReferences", "managedFields"] {
        let empty = match metadata.get(field) {
            Some(Value::Null) => true,
            Some(Value::Array(items)) => items.is_empty(),
            Some(Value::Object(items)) => items.is_empty(),
            _ => false,
        };
        if empty {
            metadata.remove(field);
        }
    }
}
