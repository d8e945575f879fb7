use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use k8s_openapi::{
    api::{
        core::v1::{Node, ObjectReference, Pod, Service, ServicePort},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::{owners, pods};

pub(super) const ZONE: &str = "topology.kubernetes.io/zone";

/// The ports of a set of endpoints, sorted, so that equal ones are equal.
type Ports = Vec<EndpointPort>;

/// What is to be told: for each address type the endpoints, by the ports that they serve.
pub(crate) type Wanted = BTreeMap<&'static str, Vec<(Ports, Vec<Endpoint>)>>;

/// Whether a pod's addresses are told at all: it has some, and has not ended.
pub(crate) fn subset_member(pod: &Pod, even_terminating: bool) -> bool {
    !pods::is_terminal(pod)
        && pod.status.as_ref().is_some_and(|s| s.pod_ip.as_ref().is_some_and(|ip| !ip.is_empty()))
        && (even_terminating || !owners::is_deleting(pod))
}

/// A pod's port for a Service's, by number or by a container's name for it.
pub(crate) fn find_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let spec = pod.spec.as_ref()?;
            let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
            spec.containers
                .iter()
                .chain(sidecars)
                .flat_map(|container| container.ports.iter().flatten())
                .find(|p| p.name.as_ref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol)
                .map(|p| p.container_port)
        }
    }
}

/// Whether an update of a pod changes what endpoints tell.
pub(super) fn tells_something_new(old: &Pod, new: &Pod) -> bool {
    let told = |pod: &Pod| {
        let status = pod.status.as_ref();
        let spec = pod.spec.as_ref();
        (
            status.and_then(|s| s.pod_ip.clone()),
            status.and_then(|s| s.pod_ips.clone()),
            pods::is_ready(pod),
            pods::is_terminal(pod),
            owners::is_deleting(pod),
            spec.and_then(|s| s.node_name.clone()),
            spec.map(|s| (s.hostname.clone(), s.subdomain.clone())),
            pod.metadata.labels.clone(),
        )
    };
    told(old) != told(new)
}

/// The addresses of a pod of one family.
fn addresses(pod: &Pod, v6: bool) -> Vec<String> {
    let status = pod.status.as_ref();
    let many = status.into_iter().flat_map(|s| s.pod_ips.iter().flatten()).map(|ip| ip.ip.clone());
    let mut found: Vec<String> = many.filter(|ip| ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6() == v6)).collect();
    if found.is_empty() {
        let one = status.and_then(|s| s.pod_ip.clone());
        found.extend(one.filter(|ip| ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6() == v6)));
    }
    found
}

/// What there is to tell of a Service and the pods that it selects.
pub(super) fn of(service: &Service, selected: &[Arc<Pod>], node: &dyn Fn(&str) -> Option<Arc<Node>>) -> Wanted {
    let spec = service.spec.clone().unwrap_or_default();
    let even_unready = spec.publish_not_ready_addresses.unwrap_or_default();
    let mut families = spec.ip_families.clone().unwrap_or_default();
    if families.is_empty() {
        let v6 = spec.cluster_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok()).is_some_and(|ip| ip.is_ipv6());
        families.push(if v6 { "IPv6" } else { "IPv4" }.into());
    }
    let mut wanted = Wanted::new();
    for family in &families {
        let (family, v6) = if family == "IPv6" { ("IPv6", true) } else { ("IPv4", false) };
        let groups = wanted.entry(family).or_default();
        for pod in selected.iter().filter(|pod| subset_member(pod, true)) {
            let addresses = addresses(pod, v6);
            if addresses.is_empty() {
                continue;
            }
            let ports = ports(&spec.ports.clone().unwrap_or_default(), pod);
            let endpoint = endpoint(service, pod, addresses, even_unready, node);
            match groups.iter_mut().find(|(known, _)| *known == ports) {
                Some((_, endpoints)) => endpoints.push(endpoint),
                None => groups.push((ports, vec![endpoint])),
            }
        }
    }
    wanted
}

fn ports(service: &[ServicePort], pod: &Pod) -> Ports {
    let mut ports: Ports = service
        .iter()
        .filter_map(|port| {
            Some(EndpointPort {
                port: Some(find_port(pod, port)?),
                name: Some(port.name.clone().unwrap_or_default()),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    ports.sort_by(|a, b| (&a.name, a.port, &a.protocol).cmp(&(&b.name, b.port, &b.protocol)));
    ports
}

fn endpoint(
    service: &Service,
    pod: &Pod,
    addresses: Vec<String>,
    even_unready: bool,
    node: &dyn Fn(&str) -> Option<Arc<Node>>,
) -> Endpoint {
    let serving = pods::is_ready(pod);
    let terminating = owners::is_deleting(pod);
    let spec = pod.spec.clone().unwrap_or_default();
    let named = spec.hostname.filter(|name| !name.is_empty()).filter(|_| spec.subdomain == service.metadata.name);
    Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(even_unready || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: named,
        zone: spec.node_name.as_deref().and_then(node).and_then(|node| owners::labels(&*node).get(ZONE).cloned()),
        node_name: spec.node_name,
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}
