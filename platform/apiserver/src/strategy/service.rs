//! Services: addresses and node ports are given, kept over updates and taken back.
//!
//! Follows `pkg/registry/core/service/storage/{alloc,storage}.go`.

use std::net::IpAddr;

use pharos_api::validation::{ErrorType, FieldError};
use serde_json::{Value, json};

use super::{
    allocator::{Allocator, Network, Reservation},
    field_error,
};

/// The addresses and node ports a Service has.
pub(crate) fn holdings(service: &Value) -> (Vec<IpAddr>, Vec<u16>) {
    (ips(service), ports(service))
}

fn ips(service: &Value) -> Vec<IpAddr> {
    let spec = &service["spec"];
    let listed = spec["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut ips: Vec<IpAddr> = listed.chain(spec["clusterIP"].as_str()).filter_map(|ip| ip.parse().ok()).collect();
    ips.sort();
    ips.dedup();
    ips
}

fn ports(service: &Value) -> Vec<u16> {
    let spec = &service["spec"];
    let mut ports: Vec<u16> = spec["ports"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|port| port["nodePort"].as_u64())
        .chain(spec["healthCheckNodePort"].as_u64())
        .filter_map(|port| u16::try_from(port).ok())
        .filter(|&port| port != 0)
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn kind(service: &Value) -> &str {
    service["spec"]["type"].as_str().unwrap_or("ClusterIP")
}

fn has_node_ports(service: &Value) -> bool {
    match kind(service) {
        "NodePort" => true,
        "LoadBalancer" => service["spec"]["allocateLoadBalancerNodePorts"].as_bool() != Some(false),
        _ => false,
    }
}

fn needs_health_port(service: &Value) -> bool {
    kind(service) == "LoadBalancer" && service["spec"]["externalTrafficPolicy"] == "Local"
}

/// Fills in what an update leaves out and the old Service has, and drops what the new type has no use for.
pub(crate) fn prepare_for_update(new: &mut Value, old: &Value) {
    let both_have_ips = kind(new) != "ExternalName" && kind(old) != "ExternalName";
    if both_have_ips {
        let unset = |service: &Value, field: &str| match &service["spec"][field] {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            _ => false,
        };
        if unset(new, "clusterIP") && unset(new, "clusterIPs") && !unset(old, "clusterIP") {
            new["spec"]["clusterIP"] = old["spec"]["clusterIP"].clone();
            new["spec"]["clusterIPs"] = old["spec"]["clusterIPs"].clone();
        }
    }
    if kind(new) == "ExternalName" && kind(old) != "ExternalName" {
        drop_addresses(new, old);
    }
    if has_node_ports(new) && has_node_ports(old) {
        let old_ports = old["spec"]["ports"].as_array().cloned().unwrap_or_default();
        for port in new["spec"]["ports"].as_array_mut().into_iter().flatten() {
            let same = |other: &&Value| other["port"] == port["port"] && protocol(other) == protocol(port);
            if port["nodePort"].as_u64().unwrap_or(0) == 0
                && let Some(old_port) = old_ports.iter().find(same)
                && old_port["nodePort"].as_u64().unwrap_or(0) != 0
            {
                port["nodePort"] = old_port["nodePort"].clone();
            }
        }
    } else if !has_node_ports(new) && kind(new) != "LoadBalancer" && has_node_ports(old) {
        // A node port the client merely carried along goes with the type.
        let old_ports = ports(old);
        for port in new["spec"]["ports"].as_array_mut().into_iter().flatten() {
            let carried = port["nodePort"].as_u64().is_some_and(|p| old_ports.iter().any(|&o| u64::from(o) == p));
            if carried && let Some(port) = port.as_object_mut() {
                port.remove("nodePort");
            }
        }
    }
    if needs_health_port(new) && needs_health_port(old) {
        if new["spec"]["healthCheckNodePort"].as_u64().unwrap_or(0) == 0 {
            new["spec"]["healthCheckNodePort"] = old["spec"]["healthCheckNodePort"].clone();
        }
    } else if !needs_health_port(new) && needs_health_port(old) {
        remove(new, "healthCheckNodePort");
    }
    if kind(new) == "ClusterIP" || kind(new) == "ExternalName" {
        remove(new, "externalTrafficPolicy");
        remove(new, "allocateLoadBalancerNodePorts");
    }
}

fn drop_addresses(new: &mut Value, old: &Value) {
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if new["spec"][field] == old["spec"][field] {
            remove(new, field);
        }
    }
    remove(new, "internalTrafficPolicy");
}

fn remove(service: &mut Value, field: &str) {
    if let Some(spec) = service["spec"].as_object_mut() {
        spec.remove(field);
    }
}

fn protocol(port: &Value) -> &str {
    port["protocol"].as_str().unwrap_or("TCP")
}

/// Gives a Service its addresses and ports. What it takes is in the reservation, to be kept once committed.
pub(crate) fn allocate(allocator: &Allocator, new: &mut Value, old: Option<&Value>) -> Result<Reservation, Vec<FieldError>> {
    let mut reservation = allocator.reservation();
    let mut errors = Vec::new();
    let (old_ips, old_ports) = old.map(holdings).unwrap_or_default();
    if kind(new) == "ExternalName" {
        if new["spec"]["clusterIP"].as_str().is_some_and(|ip| !ip.is_empty()) {
            errors.push(field_error(
                ErrorType::Forbidden,
                "spec.clusterIPs",
                Value::Null,
                "may not be set when `type` is 'ExternalName'",
            ));
        }
    } else {
        check_unchanged(new, old, &mut errors);
        families(allocator, new, old, &mut errors);
        if errors.is_empty() {
            give_ips(allocator, new, &old_ips, &mut reservation, &mut errors);
        }
    }
    if errors.is_empty() {
        give_ports(allocator, new, &old_ports, &mut reservation, &mut errors);
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let (ips, ports) = holdings(new);
    reservation.release_on_commit(
        old_ips.into_iter().filter(|ip| !ips.contains(ip)).collect(),
        old_ports.into_iter().filter(|port| !ports.contains(port)).collect(),
    );
    Ok(reservation)
}

fn check_unchanged(new: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let Some(old) = old.filter(|old| kind(old) != "ExternalName") else { return };
    let (before, after) = (&old["spec"]["clusterIP"], &new["spec"]["clusterIP"]);
    if before.as_str().is_some_and(|ip| !ip.is_empty()) && before != after {
        errors.push(field_error(ErrorType::Invalid, "spec.clusterIPs[0]", json!([after]), "may not change once set"));
    }
}

/// Settles `ipFamilies` and `ipFamilyPolicy`.
fn families(allocator: &Allocator, new: &mut Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let networks = allocator.networks();
    let spec = &mut new["spec"];
    let headless = spec["clusterIP"] == "None";
    let selectorless = spec["selector"].as_object().is_none_or(serde_json::Map::is_empty);
    let policy = match spec["ipFamilyPolicy"].as_str() {
        Some(policy) => policy.to_owned(),
        // A headless Service without selector may be reached by any family.
        None if headless && selectorless && old.is_none() => "RequireDualStack".to_owned(),
        None => "SingleStack".to_owned(),
    };
    let known = ["IPv4", "IPv6"];
    let mut wanted: Vec<String> =
        spec["ipFamilies"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    for (at, family) in wanted.iter().enumerate() {
        let configured = networks.iter().any(|network| network.family() == family);
        let any = headless && selectorless;
        if !configured && !any {
            errors.push(field_error(
                ErrorType::Invalid,
                &format!("spec.ipFamilies[{at}]"),
                json!(family),
                "not configured on this cluster",
            ));
        }
    }
    if wanted.is_empty() {
        let given: Option<IpAddr> = spec["clusterIP"].as_str().and_then(|ip| ip.parse().ok());
        wanted.push(match given {
            Some(IpAddr::V6(_)) => "IPv6".into(),
            Some(IpAddr::V4(_)) => "IPv4".into(),
            None => networks.first().map_or("IPv4", |network| network.family()).to_owned(),
        });
    }
    let dual = networks.len() > 1 || (headless && selectorless);
    match policy.as_str() {
        "RequireDualStack" if !dual => errors.push(field_error(
            ErrorType::Invalid,
            "spec.ipFamilyPolicy",
            json!(policy),
            "this cluster is not configured for dual-stack services",
        )),
        "RequireDualStack" | "PreferDualStack" if dual => {
            if let Some(other) = known.iter().find(|family| !wanted.iter().any(|w| w == *family))
                && wanted.len() < 2
            {
                wanted.push((*other).to_owned());
            }
        }
        "SingleStack" if wanted.len() > 1 => errors.push(field_error(
            ErrorType::Invalid,
            "spec.ipFamilyPolicy",
            json!(policy),
            "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified",
        )),
        _ => {}
    }
    spec["ipFamilies"] = json!(wanted);
    spec["ipFamilyPolicy"] = json!(policy);
}

fn give_ips(
    allocator: &Allocator,
    new: &mut Value,
    held: &[IpAddr],
    reservation: &mut Reservation,
    errors: &mut Vec<FieldError>,
) {
    let spec = &mut new["spec"];
    let mut ips: Vec<String> =
        spec["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    if let Some(ip) = spec["clusterIP"].as_str().filter(|ip| !ip.is_empty()) {
        match ips.first() {
            None => ips.push(ip.to_owned()),
            Some(first) if first != ip => {
                errors.push(field_error(ErrorType::Invalid, "spec.clusterIPs", json!(ips), "first value must match `clusterIP`"));
                return;
            }
            Some(_) => {}
        }
    }
    if ips.first().is_some_and(|ip| ip == "None") {
        spec["clusterIP"] = json!("None");
        spec["clusterIPs"] = json!(["None"]);
        return;
    }
    let families: Vec<String> =
        spec["ipFamilies"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    for (at, family) in families.iter().enumerate() {
        let network: Option<Network> = allocator.networks().iter().find(|network| network.family() == family).copied();
        let Some(network) = network else { continue };
        match ips.get(at).filter(|ip| !ip.is_empty()) {
            None => match allocator.any_ip(network, reservation) {
                Some(ip) => ips.push(ip.to_string()),
                None => {
                    errors.push(field_error(
                        ErrorType::Internal,
                        "spec.clusterIPs",
                        Value::Null,
                        "failed to allocate a serviceIP: range is full",
                    ));
                    return;
                }
            },
            Some(text) => {
                let field = format!("spec.clusterIPs[{at}]");
                let Ok(ip) = text.parse::<IpAddr>() else {
                    errors.push(field_error(
                        ErrorType::Invalid,
                        &field,
                        json!(text),
                        "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                    ));
                    return;
                };
                if held.contains(&ip) {
                    continue;
                }
                let problem = if !network.contains(ip) {
                    format!("failed to allocate IP {ip}: the provided network does not match the current range")
                } else if !allocator.this_ip(ip, reservation) {
                    format!("failed to allocate IP {ip}: provided IP is already allocated")
                } else {
                    continue;
                };
                errors.push(field_error(ErrorType::Invalid, "spec.clusterIPs", json!(ips), &problem));
                return;
            }
        }
    }
    ips.truncate(families.len().max(1));
    spec["clusterIP"] = json!(ips.first());
    spec["clusterIPs"] = json!(ips);
}

fn give_ports(allocator: &Allocator, new: &mut Value, held: &[u16], reservation: &mut Reservation, errors: &mut Vec<FieldError>) {
    let wants_ports = has_node_ports(new);
    let keeps_ports = wants_ports || kind(new) == "LoadBalancer";
    let mut own: Vec<(u64, u16)> = Vec::new(); // One Service may use a node port for several protocols of one port.
    for (at, port) in new["spec"]["ports"].as_array_mut().into_iter().flatten().enumerate() {
        let field = format!("spec.ports[{at}].nodePort");
        let number = port["port"].as_u64().unwrap_or(0);
        let asked = port["nodePort"].as_u64().unwrap_or(0);
        if asked != 0 {
            let Ok(node_port) = u16::try_from(asked) else { continue }; // Validation has refused it.
            if !keeps_ports {
                errors.push(field_error(ErrorType::Forbidden, &field, Value::Null, "may not be used when `type` is 'ClusterIP'"));
                return;
            }
            if held.contains(&node_port) || own.iter().any(|&(_, taken)| taken == node_port) {
                own.push((number, node_port));
                continue;
            }
            let range = allocator.ports();
            let problem = if !range.contains(&node_port) {
                format!("provided port is not in the valid range. The range of valid ports is {}-{}", range.start(), range.end())
            } else if !allocator.this_port(node_port, reservation) {
                "provided port is already allocated".to_owned()
            } else {
                own.push((number, node_port));
                continue;
            };
            errors.push(field_error(ErrorType::Invalid, &field, json!(asked), &problem));
            return;
        }
        if !wants_ports {
            continue;
        }
        let shared = own.iter().find(|&&(other, _)| other == number).map(|&(_, node_port)| node_port);
        let Some(node_port) = shared.or_else(|| allocator.any_port(reservation)) else {
            errors.push(field_error(ErrorType::Internal, &field, Value::Null, "failed to allocate a nodePort: range is full"));
            return;
        };
        port["nodePort"] = json!(node_port);
        own.push((number, node_port));
    }
    if needs_health_port(new) {
        let asked = new["spec"]["healthCheckNodePort"].as_u64().unwrap_or(0);
        match u16::try_from(asked) {
            Ok(0) => match allocator.any_port(reservation) {
                Some(port) => new["spec"]["healthCheckNodePort"] = json!(port),
                None => errors.push(field_error(
                    ErrorType::Internal,
                    "spec.healthCheckNodePort",
                    Value::Null,
                    "failed to allocate a nodePort: range is full",
                )),
            },
            Ok(port) if held.contains(&port) || allocator.this_port(port, reservation) => {}
            _ => errors.push(field_error(
                ErrorType::Invalid,
                "spec.healthCheckNodePort",
                json!(asked),
                "provided port is already allocated",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocator() -> Allocator {
        Allocator::new(vec![Network::parse("10.43.0.0/16").unwrap()], 30_000..=30_010)
    }

    #[test]
    fn gives_addresses_and_ports() {
        let allocator = allocator();
        let mut service = json!({"spec": {"type": "NodePort", "ports": [
            {"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}, {"port": 80}]}});
        allocate(&allocator, &mut service, None).unwrap().keep();
        assert_eq!(service["spec"]["ipFamilies"], json!(["IPv4"]));
        assert_eq!(service["spec"]["clusterIPs"][0], service["spec"]["clusterIP"]);
        let ports = &service["spec"]["ports"];
        assert_eq!(ports[0]["nodePort"], ports[1]["nodePort"]);
        assert_ne!(ports[0]["nodePort"], ports[2]["nodePort"]);

        let mut clash = json!({"spec": {"clusterIP": service["spec"]["clusterIP"], "ports": [{"port": 1}]}});
        assert!(allocate(&allocator, &mut clash, None).is_err());
    }

    #[test]
    fn keeps_over_updates_and_gives_back() {
        let allocator = allocator();
        let mut old = json!({"spec": {"type": "NodePort", "ports": [{"port": 80}]}});
        allocate(&allocator, &mut old, None).unwrap().keep();
        let mut new = json!({"spec": {"type": "NodePort", "ports": [{"port": 80}]}});
        prepare_for_update(&mut new, &old);
        allocate(&allocator, &mut new, Some(&old)).unwrap().keep();
        assert_eq!(new["spec"]["clusterIP"], old["spec"]["clusterIP"]);
        assert_eq!(new["spec"]["ports"], old["spec"]["ports"]);

        let mut external = json!({"spec": {"type": "ExternalName", "externalName": "a.b",
            "clusterIP": new["spec"]["clusterIP"], "clusterIPs": new["spec"]["clusterIPs"]}});
        prepare_for_update(&mut external, &new);
        allocate(&allocator, &mut external, Some(&new)).unwrap().keep();
        assert!(external["spec"].get("clusterIP").is_none());
        let ip = holdings(&new).0[0];
        assert!(allocator.this_ip(ip, &mut allocator.reservation()));
    }

    #[test]
    fn headless_has_none() {
        let mut service = json!({"spec": {"clusterIP": "None", "selector": {"a": "b"}, "ports": []}});
        allocate(&allocator(), &mut service, None).unwrap().keep();
        assert_eq!(service["spec"]["clusterIPs"], json!(["None"]));
        assert_eq!(service["spec"]["ipFamilyPolicy"], "SingleStack");
    }
}
