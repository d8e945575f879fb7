//! Services, endpoints, ingresses, policies, addresses.

use std::borrow::Cow;

use serde_json::Value;

use super::{Cells, Print, first_three, items, join, labels, or, selector, text};

pub(super) fn core(kind: &str) -> Option<(&'static str, Print)> {
    Some(match kind {
        "Service" => ("Name|Type|Cluster-IP|External-IP|Port(s)|Age|Selector*", service),
        "Endpoints" => ("Name|Endpoints|Age", |o| vec![o.name(), endpoints(o.list("subsets")).into(), o.age()]),
        _ => return None,
    })
}

pub(super) fn find(kind: &str) -> Option<(&'static str, Print)> {
    Some(match kind {
        "Ingress" => ("Name|Class|Hosts|Address|Ports|Age", ingress),
        "IngressClass" => ("Name|Controller|Parameters|Age", ingress_class),
        "NetworkPolicy" => ("Name|Pod-Selector|Age", |o| vec![o.name(), selector(o.at("spec.podSelector")).into(), o.age()]),
        "ServiceCIDR" => ("Name|CIDRs|Age", |o| {
            vec![o.name(), join(o.list("spec.cidrs").iter().filter_map(Value::as_str), ",").into(), o.age()]
        }),
        "IPAddress" => ("Name|ParentRef|Age", ip_address),
        "EndpointSlice" => ("Name|AddressType|Ports|Endpoints|Age", endpoint_slice),
        _ => return None,
    })
}

fn load_balancer(o: &Cells<'_>) -> Vec<String> {
    let ingress = o.list("status.loadBalancer.ingress").iter();
    let mut addresses: Vec<String> =
        ingress.map(|i| or(text(i, "ip"), text(i, "hostname")).to_owned()).filter(|a| !a.is_empty()).collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

fn service(o: &Cells<'_>) -> Vec<Value> {
    let ty = o.text("spec.type");
    let cluster_ip = o.list("spec.clusterIPs").first().and_then(Value::as_str).unwrap_or(o.text("spec.clusterIP"));
    let external_ips: Vec<String> = o.list("spec.externalIPs").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let external = match ty {
        "ClusterIP" | "NodePort" => or(&external_ips.join(","), "<none>").to_owned(),
        "LoadBalancer" => or(&[load_balancer(o), external_ips].concat().join(","), "<pending>").to_owned(),
        "ExternalName" => o.text("spec.externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    };
    let port = |port: &Value| {
        let number = |name| port.get(name).and_then(Value::as_i64).unwrap_or_default();
        match number("nodePort") {
            0 => format!("{}/{}", number("port"), text(port, "protocol")),
            node => format!("{}:{node}/{}", number("port"), text(port, "protocol")),
        }
    };
    let ports = o.list("spec.ports").iter().map(port).collect::<Vec<_>>().join(",");
    vec![
        o.name(),
        ty.into(),
        or(cluster_ip, "<none>").into(),
        external.into(),
        or(&ports, "<none>").into(),
        o.age(),
        labels(o.at("spec.selector")).into(),
    ]
}

fn endpoints(subsets: &[Value]) -> String {
    let mut all: Vec<Cow<'_, str>> = Vec::new();
    for subset in subsets {
        let addresses = || items(&subset["addresses"]).iter().map(|a| text(a, "ip"));
        let ports = items(&subset["ports"]);
        if ports.is_empty() {
            all.extend(addresses().map(Cow::Borrowed));
        }
        for port in ports {
            let port = port.get("port").and_then(Value::as_i64).unwrap_or_default();
            all.extend(
                addresses()
                    .map(|ip| Cow::Owned(if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") })),
            );
        }
    }
    match (subsets.is_empty(), all.is_empty()) {
        (true, _) => "<none>".to_owned(),
        (false, true) => String::new(),
        _ => first_three(&all, ""),
    }
}

fn endpoint_slice(o: &Cells<'_>) -> Vec<Value> {
    let port = |port: &'_ Value| match (port.get("port").and_then(Value::as_i64), port.get("name").and_then(Value::as_str)) {
        (Some(number), _) => number.to_string(),
        (None, Some(name)) => name.to_owned(),
        (None, None) => "*".to_owned(),
    };
    let ports: Vec<Cow<'_, str>> = o.list("ports").iter().map(|p| Cow::Owned(port(p))).collect();
    let addresses: Vec<Cow<'_, str>> = o
        .list("endpoints")
        .iter()
        .flat_map(|e| e.get("addresses").map_or(&[][..], items))
        .filter_map(|a| a.as_str().map(Cow::Borrowed))
        .collect();
    vec![
        o.name(),
        o.text("addressType").into(),
        first_three(&ports, "<unset>").into(),
        first_three(&addresses, "<unset>").into(),
        o.age(),
    ]
}

fn ingress(o: &Cells<'_>) -> Vec<Value> {
    let rules = o.list("spec.rules");
    let hosts: Vec<&str> = rules.iter().map(|r| text(r, "host")).filter(|h| !h.is_empty()).collect();
    let shown = join(hosts.iter().copied().take(3), ",");
    let hosts = match hosts.len() {
        0 => "*".to_owned(),
        0..=3 if hosts.len() < 3 || rules.len() == 3 => shown,
        _ => format!("{shown} + {} more...", rules.len() - 3),
    };
    let ports = if o.list("spec.tls").is_empty() { "80" } else { "80, 443" };
    vec![
        o.name(),
        or(o.text("spec.ingressClassName"), "<none>").into(),
        hosts.into(),
        load_balancer(o).join(",").into(),
        ports.into(),
        o.age(),
    ]
}

fn ingress_class(o: &Cells<'_>) -> Vec<Value> {
    let parameters = match o.text("spec.parameters.kind") {
        "" => "<none>".to_owned(),
        kind => {
            let group = o.text("spec.parameters.apiGroup");
            let dot = if group.is_empty() { "" } else { "." };
            format!("{kind}{dot}{group}/{}", o.text("spec.parameters.name"))
        }
    };
    vec![o.name(), o.text("spec.controller").into(), parameters.into(), o.age()]
}

fn ip_address(o: &Cells<'_>) -> Vec<Value> {
    let field = |name: &str| text(o.at("spec.parentRef"), name);
    let parent = match o.at("spec.parentRef") {
        Value::Object(_) => {
            let dot = if field("group").is_empty() { "" } else { "." };
            let slash = if field("namespace").is_empty() { "" } else { "/" };
            let resource = format!("{}{dot}{}", field("resource"), field("group")).to_lowercase();
            format!("{resource}{slash}{}/{}", field("namespace"), field("name"))
        }
        _ => "<none>".to_owned(),
    };
    vec![o.name(), parent.into(), o.age()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::time;

    #[test]
    fn cells() {
        let now = time::parse("2026-01-01T01:00:00Z").unwrap();
        let print = |object: &Value| service(&Cells::new(object, now))[1..5].to_vec();
        let object = json!({"spec": {"type": "NodePort", "clusterIPs": ["10.0.0.1"], "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}});
        assert_eq!(print(&object), [json!("NodePort"), json!("10.0.0.1"), json!("<none>"), json!("80:30080/TCP,53/UDP")]);
        assert_eq!(
            print(&json!({"spec": {"type": "LoadBalancer"}})),
            [json!("LoadBalancer"), json!("<none>"), json!("<pending>"), json!("<none>")]
        );
        let subsets = json!([{"addresses": [{"ip": "1.1.1.1"}, {"ip": "::1"}], "ports": [{"port": 1}, {"port": 2}]}]);
        assert_eq!(endpoints(items(&subsets)), "1.1.1.1:1,[::1]:1,1.1.1.1:2 + 1 more...");
        assert_eq!(endpoints(&[]), "<none>");
        let slice =
            json!({"addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [{"addresses": ["a"]}, {"addresses": ["b"]}]});
        assert_eq!(endpoint_slice(&Cells::new(&slice, now))[1..4], [json!("IPv4"), json!("80"), json!("a,b")]);
        let address = json!({"spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "kubernetes"}}});
        assert_eq!(ip_address(&Cells::new(&address, now))[1], "services/default/kubernetes");
    }
}
