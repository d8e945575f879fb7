//! ConfigMaps, Secrets, leases and other small kinds.

use serde_json::Value;

use super::at::{At, Errors};
use super::volume;
use crate::status::FieldError;

/// What the data of a ConfigMap or Secret may hold.
const MAX_DATA_BYTES: usize = 1024 * 1024;

pub(super) fn config_map(root: &At<'_>, errors: &mut Errors) {
    let (data, binary) = (root.field("data"), root.field("binaryData"));
    volume::keys(&data, errors);
    volume::keys(&binary, errors);
    for (key, at) in data.entries() {
        if binary.value().get(key).is_some() {
            errors.push(FieldError::invalid(at.path(), key, "duplicate of key present in binaryData"));
        }
    }
    let size: usize = data.entries().map(|(_, at)| at.text().len()).sum::<usize>()
        + binary.entries().map(|(_, at)| decoded_len(at.text())).sum::<usize>();
    if size > MAX_DATA_BYTES {
        errors.push(FieldError::too_long("", MAX_DATA_BYTES));
    }
}

fn decoded_len(base64: &str) -> usize {
    base64.len() / 4 * 3 - base64.bytes().rev().take_while(|b| *b == b'=').count().min(base64.len())
}

pub(super) fn secret(root: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    let data = root.field("data");
    volume::keys(&data, errors);
    if data.entries().map(|(_, at)| decoded_len(at.text())).sum::<usize>() > MAX_DATA_BYTES {
        errors.push(FieldError::too_long("data", MAX_DATA_BYTES));
    }
    let ty = root.field("type");
    let mut need = |keys: &[&str]| {
        for key in keys {
            if data.value().get(*key).is_none() {
                errors.push(FieldError::required(format!("data[{key}]"), ""));
            }
        }
    };
    match ty.text() {
        "kubernetes.io/dockercfg" => need(&[".dockercfg"]),
        "kubernetes.io/dockerconfigjson" => need(&[".dockerconfigjson"]),
        "kubernetes.io/ssh-auth" => need(&["ssh-privatekey"]),
        "kubernetes.io/tls" => need(&["tls.crt", "tls.key"]),
        "kubernetes.io/basic-auth" if data.field("username").is_absent() && data.field("password").is_absent() => {
            need(&["username", "password"]);
        }
        "kubernetes.io/service-account-token" => {
            let name = root.field("metadata").field("annotations").value().get("kubernetes.io/service-account.name");
            if name.and_then(Value::as_str).unwrap_or_default().is_empty() {
                errors.push(FieldError::required("metadata.annotations[kubernetes.io/service-account.name]", ""));
            }
        }
        _ => {}
    }
    if let Some(old) = old {
        ty.immutable(old.get("type").unwrap_or(&Value::Null), errors);
    }
}

pub(super) fn priority_class(root: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    let (name, value) = (root.field("metadata").field("name"), root.field("value"));
    let system = matches!(
        (name.text(), value.int()),
        ("system-cluster-critical", Some(2_000_000_000)) | ("system-node-critical", Some(2_000_001_000))
    );
    if old.is_none() && !system {
        if name.text().starts_with("system-") {
            errors.push(name.forbidden("priority class names with 'system-' prefix are reserved for system use only. error: the PriorityClass is not a known system class"));
        } else if value.int().is_some_and(|v| v > 1_000_000_000) {
            errors.push(value.forbidden("maximum allowed value of a user defined priority is 1000000000"));
        }
    }
    if let Some(old) = old {
        if old.get("value").and_then(Value::as_i64).unwrap_or(0) != value.int().unwrap_or(0) {
            errors.push(value.forbidden("may not be changed in an update."));
        }
        let policy = root.field("preemptionPolicy");
        if policy.value() != old.get("preemptionPolicy").unwrap_or(&Value::Null) {
            errors.push(policy.invalid("field is immutable"));
        }
    }
    root.field("preemptionPolicy").one_of(&["Never", "PreemptLowerPriority"], errors);
}

pub(super) fn lease(spec: &At<'_>, errors: &mut Errors) {
    let seconds = spec.field("leaseDurationSeconds");
    if seconds.int().is_some_and(|s| s <= 0) {
        errors.push(seconds.invalid("must be greater than 0"));
    }
    spec.field("leaseTransitions").non_negative(errors);
}

pub(super) fn runtime_class(root: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    let handler = root.field("handler");
    if handler.must_be_set("", errors) {
        handler.label(errors);
    }
    if let Some(old) = old {
        handler.immutable(old.get("handler").unwrap_or(&Value::Null), errors);
    }
    let overhead = root.field("overhead").field("podFixed");
    for (_, amount) in overhead.entries() {
        if amount.quantity().is_some_and(|q| q.sign() < 0) {
            errors.push(amount.invalid("must be greater than or equal to 0"));
        }
    }
}
