//! Object metadata (`apimachinery/pkg/api/validation/objectmeta.go`).

use serde_json::Value;

use super::at::{At, Errors};
use crate::names;
use crate::registry::{Kind, NameRule};
use crate::status::FieldError;

const MAX_ANNOTATIONS_BYTES: usize = 256 * 1024;
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

/// The metadata of a whole object. A name that was accepted once is not looked at again.
pub(super) fn object(kind: &Kind, root: &At<'_>, update: bool, errors: &mut Errors) {
    let meta = root.field("metadata");
    let name = meta.field("name");
    if !update {
        if name.text().is_empty() {
            errors.push(name.required("name or generateName is required"));
        } else {
            name.all(name_errors(kind, name.text()), errors);
        }
        if kind.namespaced {
            let namespace = meta.field("namespace");
            if !namespace.text().is_empty() {
                namespace.all(names::dns1123_label(namespace.text()), errors);
            }
        }
    }
    labels(&meta.field("labels"), errors);
    annotations(&meta.field("annotations"), errors);
    owners(&meta.field("ownerReferences"), errors);
    meta.field("finalizers").items().for_each(|finalizer| self::finalizer(&finalizer, errors));
}

/// The name of a finalizer.
pub(super) fn finalizer(finalizer: &At<'_>, errors: &mut Errors) {
    finalizer.qualified(errors);
    if !finalizer.text().contains('/') && !STANDARD_FINALIZERS.contains(&finalizer.text()) && !finalizer.text().is_empty() {
        let detail = "name is neither a standard finalizer name nor is it fully qualified";
        errors.push(finalizer.invalid(detail));
    }
}

fn name_errors(kind: &Kind, name: &str) -> Vec<String> {
    if kind.group == "batch" && kind.kind == "CronJob" && name.len() > 52 {
        return vec!["must be no more than 52 characters".to_owned()];
    }
    match kind.strategy.name {
        NameRule::Subdomain => names::dns1123_subdomain(name),
        NameRule::Label => names::dns1123_label(name),
        NameRule::Label1035 => names::dns1035_label(name),
        NameRule::PathSegment => names::path_segment(name),
        NameRule::IpAddress => match name.parse::<std::net::IpAddr>() {
            Ok(ip) if ip.to_string() == name => Vec::new(),
            _ => vec!["must be a valid IP address in canonical form".to_owned()],
        },
        NameRule::Any => Vec::new(),
    }
}

/// A map of labels.
pub(super) fn labels(at: &At<'_>, errors: &mut Errors) {
    for (key, value) in at.entries() {
        errors.extend(names::qualified_name(key).into_iter().map(|detail| FieldError::invalid(at.path(), key, detail)));
        errors.extend(
            names::label_value(value.text()).into_iter().map(|detail| FieldError::invalid(at.path(), value.text(), detail)),
        );
    }
}

/// A map of annotations.
pub(super) fn annotations(at: &At<'_>, errors: &mut Errors) {
    let mut size = 0;
    for (key, value) in at.entries() {
        let complaints = names::qualified_name(&key.to_lowercase());
        errors.extend(complaints.into_iter().map(|detail| FieldError::invalid(at.path(), key, detail)));
        size += key.len() + value.text().len();
    }
    if size > MAX_ANNOTATIONS_BYTES {
        errors.push(FieldError::too_long(at.path(), MAX_ANNOTATIONS_BYTES));
    }
}

/// The metadata of an object that is made from a template: labels and annotations, and nothing else.
pub(super) fn template(meta: &At<'_>, errors: &mut Errors) {
    annotations(&meta.field("annotations"), errors);
    labels(&meta.field("labels"), errors);
    for (field, at) in meta.entries() {
        if !matches!(field, "annotations" | "labels") && is_given(at.value()) {
            errors.push(meta.field(field).forbidden("cannot be set"));
        }
    }
}

/// Whether Go would find more than the zero of a field's type.
fn is_given(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

fn owners(at: &At<'_>, errors: &mut Errors) {
    let mut controller: Option<At<'_>> = None;
    for owner in at.items() {
        let version = owner.field("apiVersion");
        if version.text().rsplit('/').next().unwrap_or_default().is_empty() {
            errors.push(version.invalid("version must not be empty"));
        }
        for field in ["kind", "name", "uid"] {
            let field_at = owner.field(field);
            if field_at.text().is_empty() {
                let detail =
                    if field == "kind" { "kind must not be empty".to_owned() } else { format!("{field} must not be empty") };
                errors.push(FieldError::invalid(field_at.path(), "", detail));
            }
        }
        if owner.field("controller").is_true() {
            if let Some(first) = &controller {
                let name = |o: &At<'_>| o.field("name").text().to_owned();
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {} and {}",
                    name(first),
                    name(&owner)
                );
                errors.push(at.invalid(detail));
            }
            controller = Some(owner);
        }
    }
}
