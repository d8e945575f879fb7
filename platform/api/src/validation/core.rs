//! ConfigMaps, Secrets, leases and other small kinds.

use serde_json::Value;

use super::at::{At, Errors};
use super::{meta, pod, quota, volume};
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
        "kubernetes.io/dockercfg" if data.field(".dockercfg").is_absent() => need(&[".dockercfg"]),
        "kubernetes.io/dockercfg" => json_object(&data.key(".dockercfg"), errors),
        "kubernetes.io/dockerconfigjson" if data.field(".dockerconfigjson").is_absent() => need(&[".dockerconfigjson"]),
        "kubernetes.io/dockerconfigjson" => json_object(&data.key(".dockerconfigjson"), errors),
        "kubernetes.io/ssh-auth" if !data.field("ssh-privatekey").text().is_empty() => {}
        "kubernetes.io/ssh-auth" => errors.push(data.key("ssh-privatekey").required("")),
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

/// What is decoded to be a JSON object; it is not told.
fn json_object(at: &At<'_>, errors: &mut Errors) {
    use base64::Engine as _;
    let decoded = base64::engine::general_purpose::STANDARD.decode(at.text()).unwrap_or_default();
    let why = match serde_json::from_slice::<Value>(&decoded) {
        Ok(Value::Object(_) | Value::Null) => return,
        Ok(_) => "json: cannot unmarshal into Go value of type map[string]interface {}".to_owned(),
        Err(_) if decoded.is_empty() => "unexpected end of JSON input".to_owned(),
        Err(error) => error.to_string(),
    };
    errors.push(FieldError::invalid(at.path(), "<secret contents redacted>", why));
}

pub(super) fn priority_class(root: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    let (name, value, policy) = (root.field("metadata").field("name"), root.field("value"), root.field("preemptionPolicy"));
    if let Some(old) = old {
        if old.get("value").and_then(Value::as_i64).unwrap_or(0) != value.int().unwrap_or(0) {
            errors.push(value.forbidden("may not be changed in an update."));
        }
        policy.immutable(old.get("preemptionPolicy").unwrap_or(&Value::Null), errors);
        return;
    }
    if name.text().starts_with("system-") {
        let known = matches!(
            (name.text(), value.int()),
            ("system-cluster-critical", Some(2_000_000_000)) | ("system-node-critical", Some(2_000_001_000))
        );
        if !known {
            let why = match name.text() {
                "system-cluster-critical" => "value of system-cluster-critical PriorityClass must be 2000000000".to_owned(),
                "system-node-critical" => "value of system-node-critical PriorityClass must be 2000001000".to_owned(),
                other => format!("{other} is not a known system priority class"),
            };
            errors.push(
                name.forbidden(format!(
                    "priority class names with 'system-' prefix are reserved for system use only. error: {why}"
                )),
            );
        }
    } else if value.int().is_some_and(|v| v > 1_000_000_000) {
        errors.push(value.forbidden("maximum allowed value of a user defined priority is 1000000000"));
    }
    if !policy.is_absent() {
        policy.must_be_one_of(&["Never", "PreemptLowerPriority"], errors);
    }
}

pub(super) fn lease(spec: &At<'_>, errors: &mut Errors) {
    let (seconds, transitions) = (spec.field("leaseDurationSeconds"), spec.field("leaseTransitions"));
    if seconds.int().is_some_and(|s| s <= 0) {
        errors.push(seconds.invalid("must be greater than 0"));
    }
    if transitions.int().is_some_and(|n| n < 0) {
        errors.push(transitions.invalid("must be greater than or equal to 0"));
    }
    let (strategy, preferred) = (spec.field("strategy"), spec.field("preferredHolder"));
    if !strategy.text().is_empty() && strategy.text() != "OldestEmulationVersion" {
        strategy.domain_prefixed_path(errors);
    }
    if !preferred.text().is_empty() && strategy.text().is_empty() {
        errors.push(preferred.forbidden("may only be specified if `strategy` is defined"));
    }
}

pub(super) fn runtime_class(root: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    let handler = root.field("handler");
    if let Some(old) = old {
        handler.immutable(old.get("handler").unwrap_or(&Value::Null), errors);
        return;
    }
    handler.all(crate::names::dns1123_label(handler.text()), errors);
    for (name, amount) in root.field("overhead").field("podFixed").entries() {
        quota::container_resource(name, &amount, errors);
        quota::amount(name, &amount, errors);
    }
    let scheduling = root.field("scheduling");
    if scheduling.is_absent() {
        return;
    }
    meta::labels(&scheduling.field("nodeSelector"), errors);
    let tolerations = scheduling.field("tolerations");
    pod::tolerations(&tolerations, errors);
    let list = tolerations.value().as_array().map_or(&[][..], Vec::as_slice);
    for (index, toleration) in tolerations.items().enumerate() {
        if list[..index].contains(toleration.value()) {
            errors.push(toleration.duplicate());
        }
    }
}

/// A rewrite of stored objects is of one resource, and is not redirected.
pub(super) fn storage_version_migration(spec: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    if let Some(old) = old {
        spec.immutable(old.get("spec").unwrap_or(&Value::Null), errors);
        return;
    }
    let resource = spec.field("resource");
    resource.field("group").subdomain(errors);
    resource.field("resource").must_be_path_segment(errors);
}
