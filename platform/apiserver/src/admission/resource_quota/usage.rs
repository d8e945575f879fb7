//! What objects count for, by every name a quota may use.
//!
//! Follows `pkg/quota/v1/evaluator/core`.

use pharos_api::{
    quantity::{Format, Quantity},
    registry::Kind,
};
use serde_json::Value;

use super::scopes;
use crate::admission::pod_resources::{Amounts, List, amounts, taken};

/// How many devices a request for all of them counts for (`AllocationResultsMaxSize` of `resource.k8s.io`).
const MAX_DEVICES: i64 = 32;

/// What is special about a kind to quotas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Countable {
    Pod,
    Service,
    /// A PersistentVolumeClaim.
    Claim,
    /// A ResourceClaim.
    DeviceClaim,
    /// Counted by its number only.
    Other,
}

impl Countable {
    pub(super) fn of(kind: &Kind) -> Self {
        match (kind.group.as_ref(), kind.plural.as_ref()) {
            ("", "pods") => Countable::Pod,
            ("", "services") => Countable::Service,
            ("", "persistentvolumeclaims") => Countable::Claim,
            ("resource.k8s.io", "resourceclaims") => Countable::DeviceClaim,
            _ => Countable::Other,
        }
    }
}

fn number(count: i64) -> Quantity {
    Quantity::new(count, Format::DecimalSi)
}

/// Whether objects of a kind count at all: events don't, as upstream.
pub(super) fn counts(kind: &Kind) -> bool {
    kind.namespaced && !(kind.plural == "events" && matches!(kind.group.as_ref(), "" | "events.k8s.io"))
}

/// What an object counts for under a quota; nothing if it is out of its scopes.
pub(super) fn under(quota: &Value, kind: &Kind, object: &Value) -> Amounts {
    let within = counts(kind) && scopes::contain(quota, Countable::of(kind), object);
    if within { of(kind, object) } else { Amounts::new() }
}

/// What an object counts for.
pub(super) fn of(kind: &Kind, object: &Value) -> Amounts {
    let count =
        if kind.group.is_empty() { format!("count/{}", kind.plural) } else { format!("count/{}.{}", kind.plural, kind.group) };
    let mut usage = Amounts::from([(count, number(1))]);
    match Countable::of(kind) {
        Countable::Pod => pod(object, &mut usage),
        Countable::Service => service(object, &mut usage),
        Countable::Claim => claim(object, &mut usage),
        Countable::DeviceClaim => device_claim(object, &mut usage),
        Countable::Other => {
            let named = ["configmaps", "secrets", "replicationcontrollers", "resourcequotas"];
            if kind.group.is_empty() && named.contains(&kind.plural.as_ref()) {
                usage.insert(kind.plural.to_string(), number(1));
            }
        }
    }
    usage
}

/// A pod that has ended uses only its place among the objects.
fn pod(pod: &Value, usage: &mut Amounts) {
    if matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        return;
    }
    usage.insert("pods".into(), number(1));
    for (resource, amount) in taken(pod, List::Requests) {
        let plain = matches!(resource.as_str(), "cpu" | "memory" | "ephemeral-storage") || resource.starts_with("hugepages-");
        let extended = resource.contains('/') && !resource.contains("kubernetes.io/");
        if plain || extended {
            usage.insert(format!("requests.{resource}"), amount);
        }
        if plain {
            usage.insert(resource, amount);
        }
    }
    for (resource, amount) in taken(pod, List::Limits) {
        if matches!(resource.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            usage.insert(format!("limits.{resource}"), amount);
        }
    }
}

fn service(service: &Value, usage: &mut Amounts) {
    let ports = || service["spec"]["ports"].as_array().into_iter().flatten();
    let count = |ports: usize| number(i64::try_from(ports).unwrap_or(i64::MAX));
    let (node_ports, balancers) = match service["spec"]["type"].as_str() {
        Some("NodePort") => (count(ports().count()), 0),
        // Without ports of nodes for all, those count that are asked for one by one.
        Some("LoadBalancer") if service["spec"]["allocateLoadBalancerNodePorts"] == false => {
            (count(ports().filter(|port| port["nodePort"].as_i64().is_some_and(|port| port != 0)).count()), 1)
        }
        Some("LoadBalancer") => (count(ports().count()), 1),
        _ => (number(0), 0),
    };
    usage.insert("services".into(), number(1));
    usage.insert("services.nodeports".into(), node_ports);
    usage.insert("services.loadbalancers".into(), number(balancers));
}

fn claim(claim: &Value, usage: &mut Amounts) {
    usage.insert("persistentvolumeclaims".into(), number(1));
    // In whole bytes, and while it grows, what it has been given already.
    let asked = amounts(&claim["spec"]["resources"]["requests"]).remove("storage");
    let allocated = amounts(&claim["status"]["allocatedResources"]).remove("storage");
    let storage = asked.map(|asked| allocated.map_or(asked, |allocated| asked.max(allocated)));
    let storage =
        storage.map(|storage| if storage.is_integer() { storage } else { Quantity::new(storage.value(), storage.format()) });
    let annotated = claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].as_str();
    let class = annotated.or_else(|| claim["spec"]["storageClassName"].as_str()).filter(|class| !class.is_empty());
    if let Some(class) = class {
        usage.insert(format!("{class}.storageclass.storage.k8s.io/persistentvolumeclaims"), number(1));
    }
    if let Some(storage) = storage {
        usage.insert("requests.storage".into(), storage);
        if let Some(class) = class {
            usage.insert(format!("{class}.storageclass.storage.k8s.io/requests.storage"), storage);
        }
    }
}

/// The devices of each class that a claim may get at most.
fn device_claim(claim: &Value, usage: &mut Amounts) {
    let devices = |request: &Value| match request["allocationMode"].as_str() {
        Some("ExactCount") | None => request["count"].as_i64().unwrap_or(1),
        _ => MAX_DEVICES,
    };
    let mut add = |class: &str, count: i64| {
        let name = format!("{class}.deviceclass.resource.k8s.io/devices");
        *usage.entry(name).or_insert(Quantity::ZERO) += number(count);
    };
    for request in claim["spec"]["devices"]["requests"].as_array().into_iter().flatten() {
        // Of alternatives one is chosen, so the largest of each class counts.
        let mut most = std::collections::BTreeMap::<&str, i64>::new();
        let alternatives = request["firstAvailable"].as_array().into_iter().flatten();
        let exactly = Some(&request["exactly"]).filter(|exactly| exactly.is_object());
        for alternative in alternatives.chain(exactly) {
            let class = alternative["deviceClassName"].as_str().unwrap_or_default();
            let count = devices(alternative);
            most.entry(class).and_modify(|most| *most = (*most).max(count)).or_insert(count);
        }
        most.into_iter().for_each(|(class, count)| add(class, count));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn count(group: &str, version: &str, resource: &str, object: &Value) -> Value {
        let kind = pharos_api::registry::lookup(group, version, resource).unwrap();
        of(kind, object).into_iter().map(|(name, amount)| (name, json!(amount.to_string()))).collect()
    }

    #[test]
    fn pods_count() {
        let pod = json!({"spec": {"containers": [{"name": "a", "resources": {
            "requests": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi", "hugepages-2Mi": "4Mi", "example.com/gpu": "2",
                "x.kubernetes.io/y": "1"},
            "limits": {"cpu": "2", "memory": "2Gi", "ephemeral-storage": "2Gi", "hugepages-2Mi": "4Mi", "example.com/gpu": "2"},
        }}]}});
        let wanted = json!({
            "count/pods": "1", "pods": "1",
            "cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi", "hugepages-2Mi": "4Mi",
            "requests.cpu": "1", "requests.memory": "1Gi", "requests.ephemeral-storage": "1Gi", "requests.hugepages-2Mi": "4Mi",
            "requests.example.com/gpu": "2",
            "limits.cpu": "2", "limits.memory": "2Gi", "limits.ephemeral-storage": "2Gi",
        });
        assert_eq!(count("", "v1", "pods", &pod), wanted);
        let mut ended = pod;
        ended["status"] = json!({"phase": "Succeeded"});
        assert_eq!(count("", "v1", "pods", &ended), json!({"count/pods": "1"}));
    }

    #[test]
    fn services_count() {
        let ports = json!([{"port": 1, "nodePort": 30001}, {"port": 2}]);
        for (spec, node_ports, balancers) in [
            (json!({"ports": ports}), "0", "0"),
            (json!({"type": "NodePort", "ports": ports}), "2", "0"),
            (json!({"type": "LoadBalancer", "ports": ports}), "2", "1"),
            (json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": ports}), "1", "1"),
        ] {
            let wanted = json!({"count/services": "1", "services": "1", "services.nodeports": node_ports,
                "services.loadbalancers": balancers});
            assert_eq!(count("", "v1", "services", &json!({"spec": spec})), wanted, "{spec}");
        }
    }

    #[test]
    fn claims_count() {
        let claim = json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}},
            "status": {"allocatedResources": {"storage": "2Gi"}}});
        let wanted = json!({"count/persistentvolumeclaims": "1", "persistentvolumeclaims": "1", "requests.storage": "2Gi",
            "gold.storageclass.storage.k8s.io/persistentvolumeclaims": "1",
            "gold.storageclass.storage.k8s.io/requests.storage": "2Gi"});
        assert_eq!(count("", "v1", "persistentvolumeclaims", &claim), wanted);
        let odd = json!({"spec": {"resources": {"requests": {"storage": "1500m"}}}});
        assert_eq!(count("", "v1", "persistentvolumeclaims", &odd)["requests.storage"], "2");
    }

    #[test]
    fn device_claims_count() {
        let claim = json!({"spec": {"devices": {"requests": [
            {"exactly": {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 2}},
            {"exactly": {"deviceClassName": "nic", "allocationMode": "All"}},
            {"firstAvailable": [{"deviceClassName": "gpu", "count": 1}, {"deviceClassName": "gpu", "count": 3}]},
        ]}}});
        let wanted = json!({"count/resourceclaims.resource.k8s.io": "1", "gpu.deviceclass.resource.k8s.io/devices": "5",
            "nic.deviceclass.resource.k8s.io/devices": "32"});
        assert_eq!(count("resource.k8s.io", "v1", "resourceclaims", &claim), wanted);
    }

    #[test]
    fn everything_counts_as_an_object() {
        assert_eq!(count("", "v1", "secrets", &json!({})), json!({"count/secrets": "1", "secrets": "1"}));
        assert_eq!(count("apps", "v1", "deployments", &json!({})), json!({"count/deployments.apps": "1"}));
    }
}
