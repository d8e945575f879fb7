//! What is special to single kinds: hooks the generic pipeline calls, each kind's in a file by its noun.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use pharos_api::{
    registry::Kind,
    validation::{ErrorType, FieldError},
};
use serde_json::{Value, json};

use crate::{Config, admission::policy, aggregation, api::Api, authn::UserInfo, custom, verbs::update::Part};

pub(crate) mod allocator;
mod certificate;
pub(crate) mod pod;
pub(crate) mod service;
mod trust_bundle;

pub(crate) use allocator::Reservation;

pub(crate) fn field_error(ty: ErrorType, field: &str, value: Value, detail: &str) -> FieldError {
    FieldError { ty, field: field.to_owned(), value, detail: detail.to_owned() }
}

/// The group and resource, to match on.
fn noun(kind: &Kind) -> (&str, &str) {
    (kind.group.as_ref(), kind.plural.as_ref())
}

/// Whose requests change by their status and approval alone.
const CERTIFICATES: (&str, &str) = ("certificates.k8s.io", "certificatesigningrequests");

fn remove(object: &mut Value, field: &str) {
    if let Some(object) = object.as_object_mut() {
        object.remove(field);
    }
}

/// Resets what a client may not set at creation.
pub(crate) fn prepare_for_create(kind: &Kind, object: &mut Value) {
    match noun(kind) {
        ("", "pods") => pod::prepare_for_create(object),
        ("", "nodes") => {} // A kubelet registers its node with its status.
        ("", "namespaces") => {
            object["status"] = json!({"phase": "Active"});
            let finalizers = object["spec"]["finalizers"].as_array().cloned().unwrap_or_default();
            if !finalizers.contains(&json!("kubernetes")) {
                let mut all = finalizers;
                all.push(json!("kubernetes"));
                object["spec"]["finalizers"] = json!(all);
            }
        }
        ("", "persistentvolumes" | "persistentvolumeclaims") => object["status"] = json!({"phase": "Pending"}),
        ("", "services") => object["status"] = json!({"loadBalancer": {}}),
        ("certificates.k8s.io", "certificatesigningrequests") => remove(object, "status"),
        ("apiregistration.k8s.io", "apiservices") => aggregation::prepare_for_create(object),
        ("batch", "jobs") => {
            remove(object, "status");
            job_labels(object);
        }
        _ if kind.strategy.status => remove(object, "status"),
        _ => {}
    }
}

/// A certificate signing request says who made it, whatever its maker says.
pub(crate) fn stamp_requestor(kind: &Kind, object: &mut Value, user: &UserInfo) {
    if noun(kind) != CERTIFICATES {
        return;
    }
    for field in ["username", "uid", "groups", "extra"] {
        match user.to_value().get(field) {
            Some(value) => object["spec"][field] = value.clone(),
            None => remove(&mut object["spec"], field),
        }
    }
}

/// A job's pods are found by labels the server makes up, unless the client chooses its own selector
/// (`pkg/registry/batch/job/strategy.go`).
fn job_labels(job: &mut Value) {
    if job["spec"]["manualSelector"] == true {
        return;
    }
    let uid = job["metadata"]["uid"].clone();
    let name = job["metadata"]["name"].clone();
    let labels = &mut job["spec"]["template"]["metadata"]["labels"];
    for (key, value) in [
        ("batch.kubernetes.io/job-name", &name),
        ("job-name", &name),
        ("batch.kubernetes.io/controller-uid", &uid),
        ("controller-uid", &uid),
    ] {
        labels[key] = value.clone();
    }
    job["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"] = uid;
}

/// Puts back what a write through one part may not change in the others.
pub(crate) fn keep_other_parts(kind: &Kind, part: Part, new: &mut Value, old: &Value) {
    let keep = |new: &mut Value, field: &str| match old.get(field) {
        Some(value) => new[field] = value.clone(),
        None => remove(new, field),
    };
    match part {
        Part::Main => {
            if kind.strategy.status {
                keep(new, "status");
            }
            if noun(kind) == ("", "namespaces") {
                new["spec"]["finalizers"] = old["spec"]["finalizers"].clone();
            }
            if noun(kind) == CERTIFICATES {
                keep(new, "spec");
            }
        }
        Part::Status => {
            let status = new.get("status").cloned();
            let metadata = new["metadata"].clone();
            let mut kept = old.clone();
            match status {
                Some(status) => kept["status"] = status,
                None => remove(&mut kept, "status"),
            }
            if status_alone(kind) {
                kept["metadata"]["managedFields"] = metadata["managedFields"].clone();
            } else {
                // Labels, annotations and finalizers go with it.
                kept["metadata"] = metadata;
                kept["metadata"]["ownerReferences"] = old["metadata"]["ownerReferences"].clone();
                if noun(kind) == ("apps", "deployments") {
                    match old["metadata"].get("labels") {
                        Some(labels) => kept["metadata"]["labels"] = labels.clone(),
                        None => remove(&mut kept["metadata"], "labels"),
                    }
                }
            }
            *new = kept;
        }
        Part::EphemeralContainers => {
            let containers = new["spec"]["ephemeralContainers"].clone();
            let managed = new["metadata"]["managedFields"].clone();
            *new = old.clone();
            new["spec"]["ephemeralContainers"] = containers;
            new["metadata"]["managedFields"] = managed;
        }
        Part::Resize => pod::keep_all_but_resources(new, old),
        Part::Finalize => {
            let finalizers = new["spec"]["finalizers"].clone();
            *new = old.clone();
            new["spec"]["finalizers"] = finalizers;
        }
        Part::Approval => {
            let conditions = new["status"]["conditions"].clone();
            let metadata = new["metadata"].clone();
            *new = old.clone();
            new["metadata"] = metadata;
            new["status"]["conditions"] = conditions;
        }
        Part::Internal(_) => {}
    }
}

/// Whether a write of the status changes no metadata: the kinds whose status strategy upstream calls `ResetObjectMetaForStatus`.
fn status_alone(kind: &Kind) -> bool {
    kind.custom
        || matches!(
            noun(kind),
            ("apiextensions.k8s.io", "customresourcedefinitions")
                | ("apiregistration.k8s.io", "apiservices")
                | ("flowcontrol.apiserver.k8s.io", _)
                | ("admissionregistration.k8s.io", "validatingadmissionpolicies")
                | ("resource.k8s.io", _)
        )
}

/// Settles what an update leaves out.
pub(crate) fn prepare_for_update(kind: &Kind, part: Part, new: &mut Value, old: &Value, now: Timestamp) {
    match (noun(kind), part) {
        (CERTIFICATES, Part::Status | Part::Approval) => certificate::date_conditions(new, old, now),
        (("", "pods"), _) => pod::prepare_for_update(part, new, old),
        (("", "services"), Part::Main) => service::prepare_for_update(new, old),
        // Other scopes are another count. Changes of the amounts show by themselves.
        (("", "resourcequotas"), Part::Main) if new["spec"]["scopeSelector"] != old["spec"]["scopeSelector"] => {
            new["status"] = json!({});
        }
        _ => {}
    }
}

/// What is wrong with a new object beyond its fields.
pub(crate) fn validate_create(kind: &Kind, object: &Value) -> Vec<FieldError> {
    match noun(kind) {
        ("apiextensions.k8s.io", "customresourcedefinitions") => custom::validate(object),
        ("admissionregistration.k8s.io", _) => policy::validate_expressions(kind, object, None),
        ("apiregistration.k8s.io", "apiservices") => aggregation::validate(object),
        CERTIFICATES => certificate::validate_request(object),
        ("certificates.k8s.io", "clustertrustbundles") => trust_bundle::validate(object, None),
        _ if kind.custom => custom::check_keywords(kind, object),
        _ => Vec::new(),
    }
}

/// What an update may not do.
pub(crate) fn validate_update(kind: &Kind, part: Part, new: &Value, old: &Value) -> Vec<FieldError> {
    match (noun(kind), part) {
        (("", "pods"), Part::Main) => pod::validate_update(new, old),
        (("", "pods"), Part::EphemeralContainers) => pod::validate_ephemeral_containers(new, old),
        (("", "pods"), Part::Resize) => pod::validate_resize(new, old),
        (("", "configmaps" | "secrets"), Part::Main) => immutable_data(new, old),
        (("apiextensions.k8s.io", "customresourcedefinitions"), Part::Main) => custom::validate(new),
        (("admissionregistration.k8s.io", _), Part::Main) => policy::validate_expressions(kind, new, Some(old)),
        (("apiregistration.k8s.io", "apiservices"), Part::Main) => aggregation::validate(new),
        (CERTIFICATES, Part::Status) => certificate::validate_certificate(new, old),
        (("certificates.k8s.io", "clustertrustbundles"), Part::Main) => trust_bundle::validate(new, Some(old)),
        _ if kind.custom => custom::check_keywords(kind, new),
        _ => Vec::new(),
    }
}

/// A ConfigMap or Secret marked immutable stays as it is.
fn immutable_data(new: &Value, old: &Value) -> Vec<FieldError> {
    if old["immutable"] != true {
        return Vec::new();
    }
    let mut errors = Vec::new();
    if new["immutable"] != true {
        errors.push(field_error(ErrorType::Forbidden, "immutable", Value::Null, "field is immutable when `immutable` is set"));
    }
    for field in ["data", "binaryData"] {
        if new[field] != old[field] {
            errors.push(field_error(ErrorType::Forbidden, field, Value::Null, "field is immutable when `immutable` is set"));
        }
    }
    errors
}

/// What is legal but does nothing here yet, so that nobody is left to believe it does.
pub(crate) fn warnings(kind: &Kind) -> Vec<String> {
    match noun(kind) {
        ("networking.k8s.io", "networkpolicies") => {
            vec!["networkpolicies are stored but not enforced: the pod network of Pharos does not filter traffic".to_owned()]
        }
        ("autoscaling", "horizontalpodautoscalers") => {
            vec!["horizontalpodautoscalers are stored but have no effect: Pharos has no controller of them".to_owned()]
        }
        ("networking.k8s.io", resource @ ("servicecidrs" | "ipaddresses")) => {
            vec![format!("{resource} are stored but have no effect: the addresses of Services are those of --service-cidr alone")]
        }
        _ => Vec::new(),
    }
}

/// Takes the addresses and ports a write needs, to be kept once it is committed.
pub(crate) fn reserve(
    api: &Api,
    kind: &Kind,
    new: &mut Value,
    old: Option<&Value>,
) -> Result<Option<Reservation>, Vec<FieldError>> {
    match noun(kind) {
        ("", "services") => service::allocate(&api.0.allocator, new, old).map(Some),
        _ => Ok(None),
    }
}

/// Gives back what a deleted object had.
pub(crate) fn released(api: &Api, kind: &Kind, object: &Value) {
    if noun(kind) == ("", "services") {
        let (ips, ports) = service::holdings(object);
        api.0.allocator.release(&ips, &ports);
    }
}

/// How long objects of a kind live.
pub(crate) fn time_to_live(kind: &Kind, config: &Config) -> Option<Duration> {
    (kind.plural == "events" && kind.storage.resource == "events").then_some(config.event_ttl)
}

/// The grace period of a delete, in seconds; zero for kinds that have none.
pub(crate) fn grace_period(kind: &Kind, object: &Value, asked: Option<i64>) -> i64 {
    if kind.strategy.graceful_deletion { pod::grace_period(object, asked) } else { 0 }
}

/// Takes stored Services' addresses and ports at start.
pub(crate) fn adopt(api: &Api, services: &[Arc<pharos_api::object::Object>]) {
    for service in services {
        if let Ok(object) = serde_json::from_slice::<Value>(service.bytes()) {
            let (ips, ports) = service::holdings(&object);
            api.0.allocator.adopt(ips, ports);
        }
    }
}
