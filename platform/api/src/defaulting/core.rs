//! Services, namespaces, nodes, volumes, network policies and other kinds of the core and around it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::{child, each, has, inside, pod, set, set_text, text};

/// A Secret. What is given as text becomes data, over what is there by the same name (`Convert_v1_Secret_To_core_Secret`).
pub(super) fn secret(object: &mut Value) {
    set(object, "type", "Opaque");
    let Some(secret) = object.as_object_mut() else { return };
    let Some(texts) = secret.remove("stringData") else { return };
    let Value::Object(texts) = texts else { return };
    if texts.is_empty() {
        return;
    }
    let data = secret.entry("data").or_insert(Value::Null);
    for (name, text) in texts {
        set_over(data, &name, STANDARD.encode(text.as_str().unwrap_or_default()));
    }
}

fn set_over(object: &mut Value, field: &str, value: String) {
    if !object.is_object() {
        *object = json!({});
    }
    object[field] = value.into();
}

pub(super) fn service(object: &mut Value) {
    let spec = child(object, "spec");
    set_text(spec, "sessionAffinity", "None");
    if text(spec, "sessionAffinity") == "None" {
        if let Some(spec) = spec.as_object_mut() {
            spec.remove("sessionAffinityConfig");
        }
    } else if text(spec, "sessionAffinity") == "ClientIP" {
        set(child(child(spec, "sessionAffinityConfig"), "clientIP"), "timeoutSeconds", 10_800);
    }
    set_text(spec, "type", "ClusterIP");
    each(spec, "ports", |port| {
        set_text(port, "protocol", "TCP");
        let target = port.get("targetPort");
        if target.is_none_or(|t| t.is_null() || t == 0 || t == "") {
            port["targetPort"] = port.get("port").cloned().unwrap_or(Value::Null);
        }
    });
    let ty = text(spec, "type").to_owned();
    let external = spec.get("externalIPs").and_then(Value::as_array).is_some_and(|ips| !ips.is_empty());
    if matches!(ty.as_str(), "NodePort" | "LoadBalancer") || ty == "ClusterIP" && external {
        set_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if ty != "ExternalName" {
        set(spec, "internalTrafficPolicy", "Cluster");
    }
    if ty == "LoadBalancer" {
        set(spec, "allocateLoadBalancerNodePorts", true);
        inside(object, &["status", "loadBalancer"], |status| {
            each(status, "ingress", |ingress| {
                if !text(ingress, "ip").is_empty() {
                    set(ingress, "ipMode", "VIP");
                }
            });
        });
    }
}

pub(super) fn namespace(object: &mut Value) {
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
    if !name.is_empty() {
        child(child(object, "metadata"), "labels")["kubernetes.io/metadata.name"] = name.into();
    }
    set_text(child(object, "status"), "phase", "Active");
}

pub(super) fn node(object: &mut Value) {
    inside(object, &["status"], |status| {
        if let Some(capacity) = status.get("capacity").cloned() {
            set(status, "allocatable", capacity);
        }
    });
}

pub(super) fn persistent_volume(object: &mut Value) {
    let spec = child(object, "spec");
    set_text(spec, "persistentVolumeReclaimPolicy", "Retain");
    set(spec, "volumeMode", "Filesystem");
    pod::volume_source(spec);
    set_text(child(object, "status"), "phase", "Pending");
}

pub(super) fn persistent_volume_claim(object: &mut Value) {
    set(child(object, "spec"), "volumeMode", "Filesystem");
    set_text(child(object, "status"), "phase", "Pending");
}

pub(super) fn limit_range(object: &mut Value) {
    inside(object, &["spec"], |spec| {
        each(spec, "limits", |limit| {
            if text(limit, "type") != "Container" {
                return;
            }
            let list = |limit: &Value, field: &str| limit.get(field).and_then(Value::as_object).cloned().unwrap_or_default();
            let (max, min) = (list(limit, "max"), list(limit, "min"));
            fill(limit, "default", &max);
            let default = list(limit, "default");
            fill(limit, "defaultRequest", &default);
            fill(limit, "defaultRequest", &min);
        });
    });
}

fn fill(limit: &mut Value, field: &str, from: &Map<String, Value>) {
    for (name, amount) in from {
        set(child(limit, field), name, amount.clone());
    }
}

pub(super) fn network_policy(object: &mut Value) {
    let spec = child(object, "spec");
    for direction in ["ingress", "egress"] {
        each(spec, direction, |rule| each(rule, "ports", |port| set(port, "protocol", "TCP")));
    }
    set(spec, "podSelector", Map::new());
    if spec.get("policyTypes").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        let egress = spec.get("egress").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
        spec["policyTypes"] = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
    }
}

pub(super) fn csi_driver(object: &mut Value) {
    let spec = child(object, "spec");
    set(spec, "attachRequired", true);
    for field in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
        set(spec, field, false);
    }
    set(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    if spec.get("volumeLifecycleModes").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        spec["volumeLifecycleModes"] = json!(["Persistent"]);
    }
}

/// Device requests of a resource claim's spec.
pub(super) fn device_requests(spec: &mut Value) {
    inside(spec, &["devices"], |devices| {
        each(devices, "requests", |request| {
            inside(request, &["exactly"], device_request);
            each(request, "firstAvailable", device_request);
        });
    });
}

fn device_request(request: &mut Value) {
    set_text(request, "allocationMode", "ExactCount");
    if text(request, "allocationMode") == "ExactCount" && !has(request, "count") {
        request["count"] = 1.into();
    }
    each(request, "tolerations", |toleration| set_text(toleration, "operator", "Equal"));
}
