//! What an APIService says.

use std::sync::Arc;

use pharos_api::validation::FieldError;
use pharos_transport::pki;
use rustls::ClientConfig;
use serde_json::{Value, json};

use super::Remote;
use crate::{api::Api, outbound};

/// Reason and message of the condition of an APIService without a Service.
pub(super) const LOCAL: (&str, &str) = ("Local", "Local APIServices are always available");

/// Such an APIService is available from its beginning (`pkg/registry/apiservice/strategy.go`).
pub(crate) fn prepare_for_create(object: &mut Value) {
    let since = object["metadata"]["creationTimestamp"].clone();
    let Some(fields) = object.as_object_mut() else { return };
    fields.remove("status");
    if fields.get("spec").is_some_and(|spec| !spec["service"].is_object()) {
        let condition = json!({
            "type": "Available", "status": "True", "reason": LOCAL.0, "message": LOCAL.1, "lastTransitionTime": since,
        });
        fields.insert("status".to_owned(), json!({"conditions": [condition]}));
    }
}

/// What is wrong with an APIService (`pkg/apis/apiregistration/validation/validation.go`).
pub(crate) fn validate(object: &Value) -> Vec<FieldError> {
    let spec = &object["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut errors = Vec::new();
    let name = format!("{}.{}", text(&spec["version"]), text(&spec["group"]));
    if object["metadata"]["name"] != json!(name) {
        let found = object["metadata"]["name"].clone();
        errors.push(FieldError::invalid("metadata.name", found, format!("must be `spec.version+\".\"+spec.group`: {name:?}")));
    }
    if text(&spec["group"]).is_empty() && text(&spec["version"]) != "v1" {
        errors.push(FieldError::required("spec.group", "only v1 may have an empty group and it better be legacy kube"));
    }
    for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1_000)] {
        let number = spec[field].as_i64().unwrap_or(0);
        if number <= 0 || number > most {
            let why = format!("must be positive and less than {most}");
            errors.push(FieldError::invalid(format!("spec.{field}"), number, why));
        }
    }
    let has_bundle = spec["caBundle"].as_str().is_some_and(|bundle| !bundle.is_empty());
    let insecure = spec["insecureSkipTLSVerify"] == true;
    if !spec["service"].is_object() {
        if has_bundle {
            errors.push(FieldError::invalid("spec.caBundle", "...", "local APIServices may not have a caBundle"));
        }
        if insecure {
            let why = "local APIServices may not have insecureSkipTLSVerify";
            errors.push(FieldError::invalid("spec.insecureSkipTLSVerify", true, why));
        }
        return errors;
    }
    for field in ["namespace", "name"] {
        if text(&spec["service"][field]).is_empty() {
            errors.push(FieldError::required(format!("spec.service.{field}"), ""));
        }
    }
    if insecure && has_bundle {
        let why = "may not be true if caBundle is present";
        errors.push(FieldError::invalid("spec.insecureSkipTLSVerify", true, why));
    }
    errors
}

/// The other server of an APIService; `None` if it has no Service.
pub(super) fn remote(api: &Api, object: &Value) -> Option<Remote> {
    let spec = &object["spec"];
    let service = spec["service"].as_object()?;
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    Some(Remote {
        name: text(object["metadata"].get("name")),
        group: text(spec.get("group")),
        version: text(spec.get("version")),
        spec: spec.clone(),
        namespace: text(service.get("namespace")),
        service: text(service.get("name")),
        port: service.get("port").and_then(Value::as_u64).unwrap_or(443),
        tls: tls(api, spec),
        found: Default::default(),
        specification: Default::default(),
    })
}

fn tls(api: &Api, spec: &Value) -> Result<Arc<ClientConfig>, String> {
    let identity = api.0.config.front_proxy.clone();
    let config = if spec["insecureSkipTLSVerify"] == true {
        pki::client_config_without_verification(identity)
    } else {
        pki::client_config(Arc::new(outbound::roots(&outbound::ca_bundle(&spec["caBundle"]))?), identity)
    };
    config.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_checked() {
        let object = |change: Value| {
            let mut object = json!({"metadata": {"name": "v1.g"}, "spec": {"group": "g", "version": "v1",
                "groupPriorityMinimum": 1, "versionPriority": 1, "service": {"namespace": "n", "name": "s"}}});
            pharos_api::patch::merge::merge(&mut object, &change);
            object
        };
        let check = |change: Value, wanted: &[&str]| {
            let found: Vec<String> = validate(&object(change)).iter().map(|error| error.field.clone()).collect();
            assert_eq!(found, wanted);
        };
        check(json!({}), &[]);
        check(json!({"metadata": {"name": "v2.g"}}), &["metadata.name"]);
        check(json!({"metadata": {"name": "v1."}, "spec": {"group": ""}}), &[]);
        check(json!({"metadata": {"name": "v2."}, "spec": {"group": "", "version": "v2"}}), &["spec.group"]);
        check(json!({"spec": {"groupPriorityMinimum": 0}}), &["spec.groupPriorityMinimum"]);
        check(json!({"spec": {"service": null, "caBundle": "eA=="}}), &["spec.caBundle"]);
        check(json!({"spec": {"service": {"name": ""}}}), &["spec.service.name"]);
        check(json!({"spec": {"insecureSkipTLSVerify": true, "caBundle": "eA=="}}), &["spec.insecureSkipTLSVerify"]);
    }
}
