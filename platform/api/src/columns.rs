//! The columns of every built-in kind, and what is in them (kube-apiserver's `pkg/printers/internalversion`).

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::Value;

use crate::quantity::Quantity;
use crate::selector::LabelSelector;
use crate::{meta, time};

mod access; // RBAC, certificates, service accounts;
mod admission; // webhooks and policies;
mod cluster; // nodes, namespaces, events, leases, quotas;
mod network; // services, endpoints, ingresses, addresses;
mod pod; // pods;
mod storage; // volumes and classes;
mod workload; // what makes pods.

/// Makes the cells of one object.
type Print = fn(&Cells<'_>) -> Vec<Value>;

/// An object about to be printed.
pub(crate) struct Cells<'a> {
    object: &'a Value,
    now: Timestamp,
}

impl<'a> Cells<'a> {
    pub(crate) fn new(object: &'a Value, now: Timestamp) -> Self {
        Self { object, now }
    }

    fn name(&self) -> Value {
        meta::name(self.object).into()
    }

    fn age(&self) -> Value {
        self.since("metadata.creationTimestamp").into()
    }

    /// How long ago the time at a path was.
    fn since(&self, path: &str) -> String {
        time::age(get(self.object, path).as_str(), self.now)
    }

    fn at(&self, path: &str) -> &'a Value {
        get(self.object, path)
    }

    fn text(&self, path: &str) -> &'a str {
        self.at(path).as_str().unwrap_or_default()
    }

    fn number(&self, path: &str) -> i64 {
        self.at(path).as_i64().unwrap_or_default()
    }

    fn flag(&self, path: &str, default: bool) -> Value {
        self.at(path).as_bool().unwrap_or(default).into()
    }

    fn list(&self, path: &str) -> &'a [Value] {
        items(self.at(path))
    }

    /// The number of entries in the list or map at a path.
    fn count(&self, path: &str) -> i64 {
        let count = match self.at(path) {
            Value::Array(items) => items.len(),
            Value::Object(map) => map.len(),
            _ => 0,
        };
        i64::try_from(count).unwrap_or(i64::MAX)
    }
}

/// The value at a dotted path, or null.
fn get<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('.').try_fold(value, |at, name| at.get(name)).unwrap_or(&Value::Null)
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    get(value, path).as_str().unwrap_or_default()
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn or<'a>(text: &'a str, absent: &'a str) -> &'a str {
    if text.is_empty() { absent } else { text }
}

fn join<'a>(parts: impl IntoIterator<Item = &'a str>, between: &str) -> String {
    parts.into_iter().collect::<Vec<_>>().join(between)
}

/// The first three, and how many more there are.
fn first_three(all: &[Cow<'_, str>], none: &str) -> String {
    let shown = join(all.iter().take(3).map(AsRef::as_ref), ",");
    match all.len() {
        0 => none.to_owned(),
        1..=3 => shown,
        more => format!("{shown} + {} more...", more - 3),
    }
}

/// `a=b,c=d`, or `<none>`.
fn labels(map: &Value) -> String {
    let pairs: Vec<String> =
        map.as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    or(&pairs.join(","), "<none>").to_owned()
}

/// A `LabelSelector` as text, or `<none>`.
fn selector(selector: &Value) -> String {
    match LabelSelector::from_value(Some(selector)) {
        Ok(selector) => or(&selector.to_string(), "<none>").to_owned(),
        Err(_) => "<error>".to_owned(),
    }
}

/// Names and images of containers.
fn containers(list: &[Value]) -> [Value; 2] {
    let column = |field| Value::from(join(list.iter().map(|c| text(c, field)), ","));
    [column("name"), column("image")]
}

/// A quantity in canonical form; nothing counts as 0.
fn quantity(value: &Value) -> String {
    Quantity::from_value(value).map_or_else(|_| value.as_str().unwrap_or_default().to_owned(), |q| q.to_string())
}

fn int_or_string(value: &Value, absent: &str) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => absent.to_owned(),
        other => other.to_string(),
    }
}

/// The status of a condition, or nothing.
fn condition<'a>(conditions: &'a [Value], ty: &str) -> Option<&'a str> {
    conditions.iter().find(|c| text(c, "type") == ty).map(|c| text(c, "status"))
}

fn name_and_age(o: &Cells<'_>) -> Vec<Value> {
    vec![o.name(), o.age()]
}

/// What upstream's generic table shows: the creation time itself.
fn name_and_creation(o: &Cells<'_>) -> Vec<Value> {
    let created = meta::creation_timestamp(o.object).map_or_else(String::new, time::format);
    vec![o.name(), created.into()]
}

/// The kinds with columns of their own.
#[cfg(test)]
pub(crate) const KINDS: &[(&str, &str)] = &[
    ("", "Pod"),
    ("", "PodTemplate"),
    ("", "ReplicationController"),
    ("", "Service"),
    ("", "Endpoints"),
    ("", "Node"),
    ("", "Event"),
    ("events.k8s.io", "Event"),
    ("", "Namespace"),
    ("", "Secret"),
    ("", "ServiceAccount"),
    ("", "PersistentVolume"),
    ("", "PersistentVolumeClaim"),
    ("", "ComponentStatus"),
    ("", "ConfigMap"),
    ("", "ResourceQuota"),
    ("", "LimitRange"),
    ("apps", "Deployment"),
    ("apps", "ReplicaSet"),
    ("apps", "StatefulSet"),
    ("apps", "DaemonSet"),
    ("apps", "ControllerRevision"),
    ("batch", "Job"),
    ("batch", "CronJob"),
    ("autoscaling", "HorizontalPodAutoscaler"),
    ("autoscaling", "Scale"),
    ("policy", "PodDisruptionBudget"),
    ("networking.k8s.io", "Ingress"),
    ("networking.k8s.io", "IngressClass"),
    ("networking.k8s.io", "NetworkPolicy"),
    ("networking.k8s.io", "ServiceCIDR"),
    ("networking.k8s.io", "IPAddress"),
    ("discovery.k8s.io", "EndpointSlice"),
    ("rbac.authorization.k8s.io", "Role"),
    ("rbac.authorization.k8s.io", "ClusterRole"),
    ("rbac.authorization.k8s.io", "RoleBinding"),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"),
    ("certificates.k8s.io", "CertificateSigningRequest"),
    ("certificates.k8s.io", "ClusterTrustBundle"),
    ("coordination.k8s.io", "Lease"),
    ("coordination.k8s.io", "LeaseCandidate"),
    ("storage.k8s.io", "StorageClass"),
    ("storage.k8s.io", "VolumeAttributesClass"),
    ("storage.k8s.io", "VolumeAttachment"),
    ("storage.k8s.io", "CSINode"),
    ("storage.k8s.io", "CSIDriver"),
    ("storage.k8s.io", "CSIStorageCapacity"),
    ("scheduling.k8s.io", "PriorityClass"),
    ("node.k8s.io", "RuntimeClass"),
    ("flowcontrol.apiserver.k8s.io", "FlowSchema"),
    ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration"),
    ("admissionregistration.k8s.io", "MutatingWebhookConfiguration"),
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy"),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding"),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicy"),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding"),
    ("apiextensions.k8s.io", "CustomResourceDefinition"),
    ("apiregistration.k8s.io", "APIService"),
    ("resource.k8s.io", "ResourceClaim"),
    ("resource.k8s.io", "ResourceSlice"),
    ("storagemigration.k8s.io", "StorageVersionMigration"),
    ("internal.apiserver.k8s.io", "StorageVersion"),
];

/// The columns of a kind and what fills them. See `table::parse_columns` for the marks.
pub(crate) fn find(group: &str, kind: &str) -> (&'static str, Print) {
    let found: Option<(&'static str, Print)> = match group {
        "" => pod::find(kind)
            .or_else(|| workload::core(kind))
            .or_else(|| network::core(kind))
            .or_else(|| cluster::core(kind))
            .or_else(|| storage::core(kind)),
        "apps" | "batch" | "autoscaling" | "policy" => workload::find(kind),
        "networking.k8s.io" | "discovery.k8s.io" => network::find(kind),
        "storage.k8s.io" => storage::find(kind),
        "rbac.authorization.k8s.io" | "certificates.k8s.io" => access::find(kind),
        "admissionregistration.k8s.io" => admission::find(kind),
        _ => cluster::find(group, kind),
    };
    found.unwrap_or(("Name|Age", name_and_age))
}
