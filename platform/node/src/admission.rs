//! Whether this node takes a pod (`pkg/kubelet/lifecycle/predicate.go`, `sysctl/allowlist.go`). A refused pod fails for good.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Node, Pod, Taint},
    apimachinery::pkg::api::resource::Quantity,
};
use pharos_client::{selects_node, tolerates};

use crate::{pod_status::Failure, quantity::milli_of, resources};

/// Sysctls that can't harm other pods (`pkg/kubelet/sysctl/safe_sysctls.go`).
const SAFE: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// Refuses, or not. `others` are the pods that use the node already; `node` is its object, once that is known.
pub(crate) fn admit<'a>(
    pod: &Pod,
    others: impl Iterator<Item = &'a Pod> + Clone,
    allocatable: &BTreeMap<String, Quantity>,
    unsafe_sysctls: &[String],
    node: Option<&Node>,
) -> Result<(), Failure> {
    let refuse = |reason: &str, message: String| {
        Err(Failure { reason: reason.to_owned(), message: format!("Pod was rejected: {message}"), disrupted: false })
    };
    let Some(spec) = &pod.spec else { return Ok(()) };
    for sysctl in spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten()) {
        let name = sysctl.name.replace('/', ".");
        let allowed = SAFE.contains(&name.as_str())
            || unsafe_sysctls.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => *pattern == name,
            });
        if !allowed {
            return refuse("SysctlForbidden", format!("forbidden sysctl: \"{name}\" not allowlisted"));
        }
    }
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        return refuse("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS".to_owned());
    }
    if spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
        return refuse("UnexpectedAdmissionError", "resource claims are not supported by this node".to_owned());
    }
    let capacity = allocatable.get("pods").map_or(110_000, milli_of) / 1000;
    let used = others.clone().count() as i128;
    if used + 1 > capacity {
        let message = format!("Node didn't have enough resource: pods, requested: 1, used: {used}, capacity: {capacity}");
        return refuse("OutOfpods", message);
    }
    for (name, quantity) in allocatable.iter().filter(|(name, _)| *name != "pods") {
        let wanted = resources::of_pod(pod, name, false).unwrap_or(0);
        if wanted == 0 {
            continue;
        }
        let used: i128 = others.clone().map(|other| resources::of_pod(other, name, false).unwrap_or(0)).sum();
        let capacity = milli_of(quantity);
        if used + wanted > capacity {
            let unit = if name == "cpu" { 1 } else { 1000 };
            let message = format!(
                "Node didn't have enough resource: {name}, requested: {}, used: {}, capacity: {}",
                wanted / unit,
                used / unit,
                capacity / unit
            );
            return refuse(&format!("OutOf{name}"), message);
        }
    }
    let predicate = |name: &str, why: &str| refuse(name, format!("Predicate {name} failed: {why}"));
    if node.is_some_and(|node| !selects_node(spec, node)) {
        return predicate("NodeAffinity", "node(s) didn't match Pod's node affinity/selector");
    }
    let taken: Vec<_> = others.clone().flat_map(host_ports).collect();
    let is_taken = |(address, protocol, number): (&str, &str, i32)| {
        taken
            .iter()
            .any(|(other, by, port)| *port == number && *by == protocol && (address == *other || address == ANY || *other == ANY))
    };
    if host_ports(pod).any(is_taken) {
        return predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports");
    }
    let taints = node.and_then(|node| node.spec.as_ref()?.taints.as_deref()).unwrap_or_default();
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let is_tolerated = |taint: &Taint| tolerations.iter().any(|toleration| tolerates(toleration, taint));
    if taints.iter().any(|taint| taint.effect == "NoExecute" && !is_tolerated(taint)) {
        return predicate("TaintToleration", "node(s) had taints that the pod didn't tolerate");
    }
    Ok(())
}

/// Every address of the node.
const ANY: &str = "0.0.0.0";

/// The ports of the node that a pod takes: address, protocol, number.
fn host_ports(pod: &Pod) -> impl Iterator<Item = (&str, &str, i32)> {
    let spec = pod.spec.iter();
    let containers = spec.flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    containers.flat_map(|container| container.ports.iter().flatten()).filter_map(|port| {
        let number = port.host_port.filter(|number| *number > 0)?;
        let address = port.host_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "::").unwrap_or(ANY);
        Some((address, port.protocol.as_deref().unwrap_or("TCP"), number))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"spec": spec})).unwrap()
    }

    #[test]
    fn refusals() {
        let allocatable: BTreeMap<String, Quantity> =
            [("cpu", "2"), ("memory", "1Gi"), ("pods", "3")].map(|(k, v)| (k.to_owned(), Quantity(v.to_owned()))).into();
        let cpu = |value: &str| json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": value}}}]});
        let sysctl = |name: &str| json!({"containers": [], "securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
        let port = |ip: &str, protocol: &str| {
            json!({"containers": [{"name": "a", "ports": [
            {"containerPort": 1, "hostPort": 80, "hostIP": ip, "protocol": protocol}]}]})
        };
        let no_port = "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        let others = [pod(cpu("1")), pod(port("10.0.0.1", "TCP"))];
        for (spec, expect) in [
            (cpu("1"), None),
            (
                cpu("1500m"),
                Some("Pod was rejected: Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000"),
            ),
            (sysctl("kernel.shm_rmid_forced"), None),
            (sysctl("kernel.msgmax"), Some("Pod was rejected: forbidden sysctl: \"kernel.msgmax\" not allowlisted")),
            (sysctl("net.core.somaxconn"), None),
            (port("10.0.0.1", "TCP"), Some(no_port)),
            (port("", "TCP"), Some(no_port)),
            (port("10.0.0.2", "TCP"), None),
            (port("", "UDP"), None),
            (
                json!({"containers": [], "os": {"name": "windows"}}),
                Some("Pod was rejected: Failed to admit pod as the OS field doesn't match node OS"),
            ),
        ] {
            let refused = admit(&pod(spec.clone()), others.iter(), &allocatable, &["net.core.*".to_owned()], None).err();
            assert_eq!(refused.map(|failure| failure.message).as_deref(), expect, "{spec}");
        }
        let three = [pod(cpu("0")), pod(cpu("0")), pod(cpu("0"))];
        assert_eq!(admit(&pod(cpu("0")), three.iter(), &allocatable, &[], None).unwrap_err().reason, "OutOfpods");
    }

    #[test]
    fn nodes_that_do_not_suit() {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "n1", "labels": {"disk": "ssd"}},
            "spec": {"taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "b", "value": "1", "effect": "NoExecute"}]}
        }))
        .unwrap();
        let tolerated = json!([{"key": "b", "operator": "Exists", "tolerationSeconds": 300}]);
        for (spec, expect) in [
            (json!({"containers": [], "tolerations": tolerated}), None),
            (
                json!({"containers": []}),
                Some(("TaintToleration", "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate")),
            ),
            (
                json!({"containers": [], "tolerations": tolerated, "nodeSelector": {"disk": "hdd"}}),
                Some(("NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector")),
            ),
        ] {
            let refused = admit(&pod(spec.clone()), [].into_iter(), &BTreeMap::new(), &[], Some(&node)).err();
            let refused = refused.map(|failure| (failure.reason, failure.message));
            let expect = expect.map(|(reason, message)| (reason.to_owned(), format!("Pod was rejected: {message}")));
            assert_eq!(refused, expect, "{spec}");
        }
    }
}
