//! Pods and pod templates (`pkg/apis/core/v1/defaults.go`).

use serde_json::{Map, Value, json};

use super::{child, each, has, inside, set, set_text, text};
use crate::quantity::Quantity;

/// A pod: its spec, and what only a pod itself gets.
pub(super) fn pod(pod: &mut Value) {
    let spec = child(pod, "spec");
    for list in ["containers", "initContainers"] {
        each(spec, list, requests_from_limits);
    }
    pod_requests(spec);
    set(spec, "enableServiceLinks", true);
    if spec.get("hostNetwork") == Some(&Value::Bool(true)) {
        for list in ["containers", "initContainers"] {
            each(spec, list, |container| each(container, "ports", host_port));
        }
    }
    pod_spec(spec);
    host_ips(pod);
}

/// `spec.template` of a workload.
pub(super) fn template(template: &mut Value) {
    if template.is_object() {
        set(template, "metadata", Map::new());
        pod_spec(child(template, "spec"));
    }
}

/// A pod spec, in a pod or in a template.
pub(super) fn pod_spec(spec: &mut Value) {
    set_text(spec, "dnsPolicy", "ClusterFirst");
    set_text(spec, "restartPolicy", "Always");
    set(spec, "securityContext", Map::new());
    set(spec, "terminationGracePeriodSeconds", 30);
    set_text(spec, "schedulerName", "default-scheduler");
    // The deprecated alias follows the name, in both directions.
    let account =
        if text(spec, "serviceAccountName").is_empty() { text(spec, "serviceAccount") } else { text(spec, "serviceAccountName") };
    if !account.is_empty() {
        let account = account.to_owned();
        spec["serviceAccountName"] = account.as_str().into();
        spec["serviceAccount"] = account.into();
    }
    each(spec, "volumes", volume);
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        each(spec, list, container);
    }
}

fn container(container: &mut Value) {
    let policy = pull_policy(text(container, "image"));
    set_text(container, "imagePullPolicy", policy);
    set_text(container, "terminationMessagePath", "/dev/termination-log");
    set_text(container, "terminationMessagePolicy", "File");
    set(container, "resources", Map::new());
    each(container, "ports", |port| set_text(port, "protocol", "TCP"));
    each(container, "env", |env| inside(env, &["valueFrom", "fieldRef"], field_ref));
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        inside(container, &[name], probe);
    }
    for hook in ["postStart", "preStop"] {
        inside(container, &["lifecycle", hook, "httpGet"], http_get);
    }
}

fn probe(probe: &mut Value) {
    for (field, value) in [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)] {
        if probe.get(field).and_then(Value::as_i64).unwrap_or(0) == 0 {
            probe[field] = value.into();
        }
    }
    inside(probe, &["httpGet"], http_get);
    inside(probe, &["grpc"], |grpc| set(grpc, "service", ""));
}

fn http_get(action: &mut Value) {
    set_text(action, "path", "/");
    set_text(action, "scheme", "HTTP");
}

fn field_ref(reference: &mut Value) {
    set_text(reference, "apiVersion", "v1");
}

/// `Always` for `latest` and for no tag at all, unless pinned by digest.
pub(super) fn pull_policy(image: &str) -> &'static str {
    if image.contains('@') {
        return "IfNotPresent";
    }
    let name = image.rsplit('/').next().unwrap_or(image);
    match name.split_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

fn volume(volume: &mut Value) {
    let sources =
        volume.as_object().map_or(0, |map| map.iter().filter(|(name, source)| *name != "name" && !source.is_null()).count());
    if sources == 0 {
        volume["emptyDir"] = json!({});
    }
    volume_source(volume);
    for name in ["secret", "configMap", "downwardAPI", "projected"] {
        inside(volume, &[name], |source| set(source, "defaultMode", 0o644));
    }
    inside(volume, &["downwardAPI"], downward_items);
    inside(volume, &["projected"], |projected| {
        each(projected, "sources", |source| {
            inside(source, &["serviceAccountToken"], |token| set(token, "expirationSeconds", 3600));
            inside(source, &["podCertificate"], |certificate| set(certificate, "maxExpirationSeconds", 86400));
            inside(source, &["downwardAPI"], downward_items);
        })
    });
    inside(volume, &["ephemeral", "volumeClaimTemplate", "spec"], |claim| set(claim, "volumeMode", "Filesystem"));
    inside(volume, &["image"], |image| {
        let policy = pull_policy(text(image, "reference"));
        set_text(image, "pullPolicy", policy);
    });
}

fn downward_items(source: &mut Value) {
    each(source, "items", |item| inside(item, &["fieldRef"], field_ref));
}

/// The sources that volumes of pods and persistent volumes share.
pub(super) fn volume_source(volume: &mut Value) {
    const TEXTS: [(&str, &str, &str); 6] = [
        ("iscsi", "iscsiInterface", "default"),
        ("rbd", "pool", "rbd"),
        ("rbd", "user", "admin"),
        ("rbd", "keyring", "/etc/ceph/keyring"),
        ("scaleIO", "storageMode", "ThinProvisioned"),
        ("scaleIO", "fsType", "xfs"),
    ];
    for (source, field, value) in TEXTS {
        inside(volume, &[source], |source| set_text(source, field, value));
    }
    inside(volume, &["hostPath"], |path| set(path, "type", ""));
    inside(volume, &["azureDisk"], |disk| {
        set(disk, "cachingMode", "ReadWrite");
        set(disk, "kind", "Shared");
        set(disk, "fsType", "ext4");
        set(disk, "readOnly", false);
    });
}

/// A limit without a request is a request too.
fn requests_from_limits(container: &mut Value) {
    let Some(Value::Object(limits)) = container.get("resources").and_then(|r| r.get("limits")).cloned() else { return };
    let requests = child(child(container, "resources"), "requests");
    for (name, limit) in limits {
        set(requests, &name, limit);
    }
    if requests.as_object().is_some_and(Map::is_empty)
        && let Some(resources) = container["resources"].as_object_mut()
    {
        resources.remove("requests");
    }
}

/// Requests of a pod with limits of its own: what its containers ask for, or else the limit.
fn pod_requests(spec: &mut Value) {
    let Some(Value::Object(limits)) = spec.get("resources").and_then(|r| r.get("limits")).cloned() else { return };
    let asked = |name: &str| -> Option<Quantity> {
        let containers = spec.get("containers")?.as_array()?;
        let amounts =
            containers.iter().filter_map(|c| Quantity::from_value(c.get("resources")?.get("requests")?.get(name)?).ok());
        amounts.reduce(|a, b| a + b)
    };
    let requests: Vec<(String, Value)> = limits
        .into_iter()
        .map(|(name, limit)| {
            let request = asked(&name).map_or(limit, |sum| sum.to_string().into());
            (name, request)
        })
        .collect();
    let own = child(&mut spec["resources"], "requests");
    for (name, request) in requests {
        set(own, &name, request);
    }
}

fn host_port(port: &mut Value) {
    if port.get("hostPort").and_then(Value::as_i64).unwrap_or(0) == 0 && has(port, "containerPort") {
        port["hostPort"] = port["containerPort"].clone();
    }
}

/// The single address and the list of addresses follow each other.
fn host_ips(pod: &mut Value) {
    let Some(Value::Object(status)) = pod.get_mut("status") else { return };
    let first = |list: Option<&Value>| list.and_then(|l| l.get(0)?.get("ip")).cloned();
    let (ip, ips) = (status.get("podIP").cloned(), first(status.get("podIPs")));
    match (ip.filter(|ip| ip != ""), ips) {
        (None, Some(first)) => drop(status.insert("podIP".to_owned(), first)),
        (Some(ip), None) => drop(status.insert("podIPs".to_owned(), json!([{"ip": ip}]))),
        _ => {}
    }
}
