//! Which endpoints a Service's traffic may go to. Pure. Follows kube-proxy's `pkg/proxy/topology.go`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::table::Family;

/// Where this proxy runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Here {
    pub(super) node: String,
    pub(super) zone: Option<String>,
}

/// One address and port behind a Service's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) ip: IpAddr,
    pub(super) port: u16,
    ready: bool,
    serving: bool,
    terminating: bool,
    local: bool,
    for_nodes: Vec<String>,
    for_zones: Vec<String>,
}

/// The endpoints to use, for each traffic policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) cluster: Vec<Endpoint>,
    pub(super) local: Vec<Endpoint>,
}

/// The endpoints of a Service's port in one family, in order of address.
pub(super) fn endpoints(
    slices: &[impl AsRef<EndpointSlice>],
    family: Family,
    port_name: &str,
    protocol: &str,
    here: &Here,
) -> Vec<Endpoint> {
    let mut found: BTreeMap<(IpAddr, u16), Endpoint> = BTreeMap::new();
    for slice in slices.iter().map(AsRef::as_ref).filter(|s| s.address_type == address_type(family)) {
        let port =
            slice.ports.iter().flatten().find(|p| {
                p.name.as_deref().unwrap_or_default() == port_name && p.protocol.as_deref().unwrap_or("TCP") == protocol
            });
        let Some(port) = port.and_then(|p| u16::try_from(p.port?).ok()) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            // Further addresses of one endpoint are, by contract, for no one.
            let Some(ip) = endpoint.addresses.first().and_then(|a| a.parse().ok()) else { continue };
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let ready = conditions.ready.unwrap_or(true);
            let hints = endpoint.hints.clone().unwrap_or_default();
            let endpoint = Endpoint {
                ip,
                port,
                ready,
                serving: conditions.serving.unwrap_or(ready),
                terminating: conditions.terminating.unwrap_or(false),
                local: endpoint.node_name.as_deref() == Some(&here.node),
                for_nodes: hints.for_nodes.into_iter().flatten().map(|n| n.name).collect(),
                for_zones: hints.for_zones.into_iter().flatten().map(|z| z.name).collect(),
            };
            // While an endpoint moves between slices it is in two; the ready one counts.
            let known = found.get(&(ip, port));
            if known.is_none_or(|k| !k.ready && endpoint.ready) {
                found.insert((ip, port), endpoint);
            }
        }
    }
    found.into_values().collect()
}

/// Chooses: ready ones that hints allow here; if none is ready, those that still serve while they terminate.
pub(super) fn choose(all: &[Endpoint], here: &Here) -> Chosen {
    let hinted = hints(all, here);
    Chosen {
        cluster: first_non_empty([
            all.iter().filter(|e| e.ready && hinted(e)).cloned().collect(),
            all.iter().filter(|e| e.serving && e.terminating).cloned().collect(),
        ]),
        local: first_non_empty([
            all.iter().filter(|e| e.local && e.ready).cloned().collect(),
            all.iter().filter(|e| e.local && e.serving && e.terminating).cloned().collect(),
        ]),
    }
}

/// How many addresses of ready endpoints are here, whatever their ports (`LocalReadyEndpoints`).
pub(super) fn local_ready(slices: &[impl AsRef<EndpointSlice>], family: Family, here: &Here) -> usize {
    let mut found: BTreeSet<IpAddr> = BTreeSet::new();
    for slice in slices.iter().map(AsRef::as_ref).filter(|s| s.address_type == address_type(family)) {
        for endpoint in slice.endpoints.iter().flatten() {
            let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
            if ready && endpoint.node_name.as_deref() == Some(&here.node) {
                found.extend(endpoint.addresses.first().and_then(|a| a.parse::<IpAddr>().ok()));
            }
        }
    }
    found.len()
}

fn address_type(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

fn first_non_empty([first, second]: [Vec<Endpoint>; 2]) -> Vec<Endpoint> {
    if first.is_empty() { second } else { first }
}

/// Hints count only if every ready endpoint has one and one of them is for here.
fn hints<'a>(all: &[Endpoint], here: &'a Here) -> Box<dyn Fn(&Endpoint) -> bool + 'a> {
    let ready = || all.iter().filter(|e| e.ready);
    if ready().all(|e| !e.for_nodes.is_empty()) && ready().any(|e| e.for_nodes.contains(&here.node)) {
        return Box::new(|e| e.for_nodes.contains(&here.node));
    }
    if let Some(zone) = &here.zone
        && ready().all(|e| !e.for_zones.is_empty())
        && ready().any(|e| e.for_zones.contains(zone))
    {
        return Box::new(move |e| e.for_zones.contains(zone));
    }
    Box::new(|_| true)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn check(here_zone: Option<&str>, given: serde_json::Value, cluster: &[&str], local: &[&str]) {
        let slice: EndpointSlice = serde_json::from_value(serde_json::json!({
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": given
        }))
        .unwrap();
        let here = Here { node: "n1".into(), zone: here_zone.map(Into::into) };
        let all = endpoints(&[Arc::new(slice)], Family::V4, "http", "TCP", &here);
        let chosen = choose(&all, &here);
        let ips = |list: &[Endpoint]| list.iter().map(|e| e.ip.to_string()).collect::<Vec<_>>();
        assert_eq!(ips(&chosen.cluster), cluster);
        assert_eq!(ips(&chosen.local), local);
    }

    #[test]
    fn readiness_and_locality() {
        check(
            None,
            serde_json::json!([
                {"addresses": ["10.0.0.1"], "nodeName": "n1"},
                {"addresses": ["10.0.0.2"], "nodeName": "n2", "conditions": {"ready": true}},
                {"addresses": ["10.0.0.3"], "nodeName": "n1", "conditions": {"ready": false}}
            ]),
            &["10.0.0.1", "10.0.0.2"],
            &["10.0.0.1"],
        );
    }

    #[test]
    fn terminating_ones_serve_when_none_is_ready() {
        let dying = serde_json::json!({"ready": false, "serving": true, "terminating": true});
        check(
            None,
            serde_json::json!([
                {"addresses": ["10.0.0.1"], "nodeName": "n1", "conditions": dying},
                {"addresses": ["10.0.0.2"], "nodeName": "n2", "conditions": {"ready": false, "serving": false, "terminating": true}}
            ]),
            &["10.0.0.1"],
            &["10.0.0.1"],
        );
        check(
            None,
            serde_json::json!([
                {"addresses": ["10.0.0.1"], "nodeName": "n1", "conditions": dying},
                {"addresses": ["10.0.0.2"], "nodeName": "n2"}
            ]),
            &["10.0.0.2"],
            &["10.0.0.1"],
        );
    }

    #[test]
    fn hints_count_when_all_have_them() {
        let zone = |ip: &str, zone: &str| serde_json::json!({"addresses": [ip], "hints": {"forZones": [{"name": zone}]}});
        check(Some("a"), serde_json::json!([zone("10.0.0.1", "a"), zone("10.0.0.2", "b")]), &["10.0.0.1"], &[]);
        check(Some("c"), serde_json::json!([zone("10.0.0.1", "a"), zone("10.0.0.2", "b")]), &["10.0.0.1", "10.0.0.2"], &[]);
        check(None, serde_json::json!([zone("10.0.0.1", "a"), zone("10.0.0.2", "b")]), &["10.0.0.1", "10.0.0.2"], &[]);
        check(Some("a"), serde_json::json!([zone("10.0.0.1", "a"), {"addresses": ["10.0.0.2"]}]), &["10.0.0.1", "10.0.0.2"], &[]);
        let node = |ip: &str, node: &str| serde_json::json!({"addresses": [ip], "hints": {"forNodes": [{"name": node}], "forZones": [{"name": "a"}]}});
        check(Some("a"), serde_json::json!([node("10.0.0.1", "n2"), node("10.0.0.2", "n1")]), &["10.0.0.2"], &[]);
    }
}
