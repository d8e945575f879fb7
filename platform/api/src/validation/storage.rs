//! Persistent volumes, their claims and classes.

use serde_json::Value;

use super::at::{At, Errors};
use super::volume;
use crate::status::FieldError;

const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

fn access_modes(spec: &At<'_>, errors: &mut Errors) {
    let modes = spec.field("accessModes");
    if modes.len() == 0 {
        errors.push(modes.required("at least 1 access mode is required"));
    }
    for mode in modes.items() {
        if !MODES.contains(&mode.text()) {
            errors.push(FieldError::not_supported(modes.path(), mode.text(), &MODES));
        }
    }
    if modes.len() > 1 && modes.items().any(|m| m.text() == "ReadWriteOncePod") {
        errors.push(modes.forbidden("may not use ReadWriteOncePod with other access modes"));
    }
    spec.field("volumeMode").one_of(&["Block", "Filesystem"], errors);
}

pub(super) fn persistent_volume_claim(spec: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    access_modes(spec, errors);
    spec.field("selector").label_selector(errors);
    spec.field("storageClassName").subdomain(errors);
    let storage = spec.field("resources").field("requests").field("storage");
    let path = format!("{}[storage]", spec.field("resources").field("requests").path());
    match storage.quantity() {
        None => errors.push(FieldError::required(path, "")),
        Some(quantity) if quantity.sign() <= 0 => {
            errors.push(FieldError::invalid(path, storage.value().clone(), "must be greater than zero"))
        }
        Some(_) => {}
    }
    let Some(old) = old else { return };
    let fixed = |object: &Value| -> Value {
        let mut object = object.clone();
        if let Some(spec) = object.as_object_mut() {
            for field in ["resources", "volumeAttributesClassName"] {
                spec.remove(field);
            }
            // Binding writes the volume's name once, and a default class may be filled in late.
            for field in ["volumeName", "storageClassName"] {
                if before(old, field).is_none() {
                    spec.remove(field);
                }
            }
        }
        object
    };
    if fixed(spec.value()) != fixed(old.get("spec").unwrap_or(&Value::Null)) {
        errors.push(spec.forbidden(
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        ));
    }
    let was = old.pointer("/spec/resources/requests/storage").and_then(|v| crate::quantity::Quantity::from_value(v).ok());
    if let (Some(was), Some(now)) = (was, storage.quantity()) {
        let bound = old.pointer("/status/phase").and_then(Value::as_str) == Some("Bound");
        if now < was {
            errors.push(
                spec.field("resources")
                    .field("requests")
                    .field("storage")
                    .forbidden("field can not be less than status.capacity"),
            );
        } else if now != was && !bound {
            errors.push(spec.forbidden(
                "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
            ));
        }
    }
}

fn before<'a>(old: &'a Value, field: &str) -> Option<&'a str> {
    old.get("spec")?.get(field)?.as_str().filter(|text| !text.is_empty())
}

pub(super) fn persistent_volume(spec: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    const OTHER: [&str; 11] = [
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
        "resources",
        "selector",
    ];
    access_modes(spec, errors);
    let capacity = spec.field("capacity");
    if capacity.len() == 0 {
        errors.push(capacity.required(""));
    } else if capacity.value().get("storage").is_none() || capacity.len() > 1 {
        errors.push(FieldError::not_supported(capacity.path(), capacity.value().clone(), &["storage"]));
    }
    spec.field("persistentVolumeReclaimPolicy").one_of(&["Delete", "Recycle", "Retain"], errors);
    spec.field("storageClassName").subdomain(errors);
    let mut found = 0;
    for (kind, _) in spec.entries().filter(|(kind, at)| !OTHER.contains(kind) && !at.is_absent()) {
        let source = spec.field(kind);
        found += 1;
        if found > 1 {
            errors.push(source.forbidden("may not specify more than 1 volume type"));
            continue;
        }
        match kind {
            "hostPath" => {
                volume::host_path(&source, errors);
                if spec.field("persistentVolumeReclaimPolicy").text() == "Recycle" && source.field("path").text() == "/" {
                    errors.push(source.forbidden("may not be 'recycle' for a hostPath mount of '/'"));
                }
            }
            "nfs" => {
                source.field("server").must_be_set("", errors);
                source.field("path").must_be_set("", errors);
            }
            "local" => {
                source.field("path").must_be_set("", errors);
                if spec.field("nodeAffinity").is_absent() {
                    errors.push(spec.field("nodeAffinity").required("Local volume requires node affinity"));
                }
            }
            "csi" => {
                source.field("driver").must_be_set("", errors);
                source.field("volumeHandle").must_be_set("", errors);
            }
            _ => {}
        }
    }
    if found == 0 {
        errors.push(spec.required("must specify a volume type"));
    }
    let Some(old) = old.and_then(|old| old.get("spec")) else { return };
    let source = |spec: &Value| -> Vec<(String, Value)> {
        let fields = spec.as_object().into_iter().flatten().filter(|(name, _)| !OTHER.contains(&name.as_str()));
        fields.map(|(name, value)| (name.clone(), value.clone())).collect()
    };
    if source(spec.value()) != source(old) {
        errors.push(FieldError::forbidden(
            "spec.persistentvolumesource",
            "spec.persistentvolumesource is immutable after creation",
        ));
    }
    spec.field("volumeMode").immutable(old.get("volumeMode").unwrap_or(&Value::Null), errors);
}

pub(super) fn storage_class(root: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    let provisioner = root.field("provisioner");
    provisioner.must_be_set("", errors);
    root.field("reclaimPolicy").one_of(&["Delete", "Retain"], errors);
    let mode = root.field("volumeBindingMode");
    mode.must_be_one_of(&["Immediate", "WaitForFirstConsumer"], errors);
    let Some(old) = old else { return };
    for field in ["parameters", "provisioner", "reclaimPolicy"] {
        let at = root.field(field);
        if at.value() != old.get(field).unwrap_or(&Value::Null) {
            errors.push(at.forbidden(format!("updates to {field} are forbidden.")));
        }
    }
    mode.immutable(old.get("volumeBindingMode").unwrap_or(&Value::Null), errors);
}
