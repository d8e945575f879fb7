//! Defaulting: upstream's `SetDefaults_*` of Kubernetes 1.37, as tables and small functions over JSON.
//!
//! Each group of kinds has a file. Defaults a kind gets when it is written, not whenever it is read (cluster addresses,
//! generated selectors, initial phases), are the API server's.

use serde_json::{Map, Value, json};

use crate::registry::{Kind, KindSchema};
use crate::schema::{Schema, Type};

mod access;
mod core;
mod extension;
mod pod;
mod workload;

/// Fills in every default an object of this kind has. Calling it again changes nothing.
pub fn apply(kind: &Kind, object: &mut Value) {
    if let KindSchema::Custom(schema) = &kind.schema {
        structural(schema, object);
        return;
    }
    apply_builtin(&kind.group, &kind.kind, object);
}

/// The same for a built-in kind that may be no resource, such as `TokenRequest`.
pub fn apply_builtin(group: &str, kind: &str, object: &mut Value) {
    match (group, kind) {
        ("", "Pod") => pod::pod(object),
        ("", "PodTemplate") => inside(object, &["template"], pod::template),
        ("", "Service") => core::service(object),
        ("", "ReplicationController") => workload::replication_controller(object),
        ("", "Secret") => core::secret(object),
        ("", "Endpoints") => each(object, "subsets", |subset| each(subset, "ports", |port| set(port, "protocol", "TCP"))),
        ("", "Namespace") => core::namespace(object),
        ("", "Node") => core::node(object),
        ("", "PersistentVolume") => core::persistent_volume(object),
        ("", "PersistentVolumeClaim") => core::persistent_volume_claim(object),
        ("", "LimitRange") => core::limit_range(object),
        ("apps", "Deployment") => workload::deployment(object),
        ("apps", "ReplicaSet") => workload::replica_set(object),
        ("apps", "StatefulSet") => workload::stateful_set(object),
        ("apps", "DaemonSet") => workload::daemon_set(object),
        ("batch", "Job") => workload::job(object),
        ("batch", "CronJob") => workload::cron_job(object),
        ("autoscaling", "HorizontalPodAutoscaler") => workload::horizontal_pod_autoscaler(object),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => access::binding(object),
        ("authentication.k8s.io", "TokenRequest") => set(child(object, "spec"), "expirationSeconds", 3600),
        ("networking.k8s.io", "NetworkPolicy") => core::network_policy(object),
        ("networking.k8s.io", "IngressClass") => {
            inside(object, &["spec", "parameters"], |parameters| set(parameters, "scope", "Cluster"))
        }
        ("discovery.k8s.io", "EndpointSlice") => each(object, "ports", |port| {
            set(port, "name", "");
            set(port, "protocol", "TCP");
        }),
        ("storage.k8s.io", "StorageClass") => {
            set(object, "reclaimPolicy", "Delete");
            set(object, "volumeBindingMode", "Immediate");
        }
        ("storage.k8s.io", "CSIDriver") => core::csi_driver(object),
        ("scheduling.k8s.io", "PriorityClass") => set(object, "preemptionPolicy", "PreemptLowerPriority"),
        ("resource.k8s.io", "ResourceClaim") => inside(object, &["spec"], core::device_requests),
        ("resource.k8s.io", "ResourceClaimTemplate") => inside(object, &["spec", "spec"], core::device_requests),
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => set(child(object, "spec"), "matchingPrecedence", 1000),
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => access::priority_level(object),
        ("admissionregistration.k8s.io", _) => extension::admission(kind, object),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => extension::definition(object),
        ("apiregistration.k8s.io", "APIService") => inside(object, &["spec", "service"], |service| set(service, "port", 443)),
        _ => {}
    }
}

/// Sets a field that is absent or null.
fn set(object: &mut Value, field: &str, value: impl Into<Value>) {
    if object.is_null() {
        *object = json!({});
    }
    if let Value::Object(map) = object {
        let at = map.entry(field).or_insert(Value::Null);
        if at.is_null() {
            *at = value.into();
        }
    }
}

/// Sets a string that is absent or empty.
fn set_text(object: &mut Value, field: &str, value: &str) {
    if text(object, field).is_empty() {
        if let Value::Object(map) = object {
            map.insert(field.to_owned(), value.into());
        } else if object.is_null() {
            *object = json!({field: value});
        }
    }
}

/// A string field; empty if absent.
fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// Whether a field is set at all.
fn has(object: &Value, field: &str) -> bool {
    object.get(field).is_some_and(|v| !v.is_null())
}

/// Visits every item of a list that is there.
fn each(object: &mut Value, field: &str, visit: impl FnMut(&mut Value)) {
    if let Some(Value::Array(items)) = object.get_mut(field) {
        items.iter_mut().for_each(visit);
    }
}

/// Visits what is at a path, if it is there.
fn inside(object: &mut Value, path: &[&str], visit: impl FnOnce(&mut Value)) {
    let found = path.iter().try_fold(object, |at, name| at.get_mut(*name).filter(|v| !v.is_null()));
    if let Some(found) = found {
        visit(found);
    }
}

/// The object at a field, made if absent.
fn child<'a>(object: &'a mut Value, field: &str) -> &'a mut Value {
    set(object, field, Map::new());
    &mut object[field]
}

/// Defaults declared by a custom resource's schema, outermost first.
fn structural(schema: &Schema, value: &mut Value) {
    let shape = schema.shape();
    match value {
        Value::Object(map) => {
            for property in shape.properties.iter() {
                let default = property.schema.owned_extra().and_then(|extra| extra.default.as_ref());
                if let Some(default) = default {
                    let present = map.get(property.name.as_ref()).is_some_and(|v| !v.is_null() || property.schema.nullable);
                    if !present {
                        map.insert(property.name.to_string(), default.clone());
                    }
                }
                if let Some(child) = map.get_mut(property.name.as_ref()) {
                    structural(&property.schema, child);
                }
            }
            if let Some(items) = shape.items.as_deref().filter(|_| shape.ty != Type::Array) {
                let rest = map.iter_mut().filter(|(name, _)| shape.property_index(name).is_none());
                rest.for_each(|(_, child)| structural(items, child));
            }
        }
        Value::Array(list) => {
            if let Some(items) = shape.items.as_deref() {
                list.iter_mut().for_each(|item| structural(items, item));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
