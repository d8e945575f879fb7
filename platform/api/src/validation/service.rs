//! Services.

use std::collections::BTreeSet;

use super::at::{At, Errors};
use super::meta;
use crate::names;
use crate::status::FieldError;

/// A service; addresses and node ports are checked where they are allocated.
pub(super) fn service(root: &At<'_>, errors: &mut Errors) {
    let spec = root.field("spec");
    let ty = spec.field("type");
    ty.must_be_one_of(&["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"], errors);
    let headless = spec.field("clusterIP").text() == "None";
    let ports = spec.field("ports");
    if ports.len() == 0 && !headless && ty.text() != "ExternalName" {
        errors.push(ports.required(""));
    }
    match ty.text() {
        "LoadBalancer" | "NodePort" if headless => {
            let noun = if ty.text() == "NodePort" { "NodePort services" } else { "LoadBalancer services" };
            errors.push(FieldError::invalid("spec.clusterIPs[0]", "None", format!("may not be set to 'None' for {noun}")));
        }
        "ExternalName" => {
            let name = spec.field("externalName");
            let trimmed = name.text().trim_end_matches('.');
            if trimmed.is_empty() {
                errors.push(name.required(""));
            } else {
                name.all(names::dns1123_subdomain(trimmed), errors);
            }
        }
        _ => {}
    }
    self::ports(&ports, ty.text(), headless, errors);
    meta::labels(&spec.field("selector"), errors);
    affinity(&spec, errors);
    for (index, ip) in spec.field("externalIPs").items().enumerate() {
        let _ = index;
        ip.ip(errors);
        let parsed = ip.text().parse::<std::net::IpAddr>();
        if parsed.is_ok_and(|ip| ip.is_unspecified() || ip.is_loopback()) {
            errors.push(ip.invalid("may not be an unspecified or loopback address"));
        }
    }
    policies(&spec, ty.text(), errors);
}

fn ports(ports: &At<'_>, ty: &str, headless: bool, errors: &mut Errors) {
    let many = ports.len() > 1;
    let (mut names_seen, mut numbers, mut node_ports) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for port in ports.items() {
        let name = port.field("name");
        if many && name.text().is_empty() {
            errors.push(name.required(""));
        } else if !name.text().is_empty() {
            name.label(errors);
            if !names_seen.insert(name.text()) {
                errors.push(name.duplicate());
            }
        }
        let number = port.field("port");
        if number.int().is_none_or(|n| !(1..=65535).contains(&n)) {
            errors.push(FieldError::invalid(number.path(), number.int().unwrap_or(0), "must be between 1 and 65535, inclusive"));
        }
        let protocol = port.field("protocol");
        protocol.must_be_one_of(&["TCP", "UDP", "SCTP"], errors);
        let target = port.field("targetPort");
        if !target.is_absent() {
            target.port_or_name(errors);
            if headless && target.int().is_some() && target.value() != number.value() {
                // Legal, and without effect: DNS gives the pods' own addresses.
            }
        }
        if !numbers.insert((number.int(), protocol.text())) {
            let value = serde_json::json!({"port": number.value(), "protocol": protocol.value()});
            errors.push(FieldError::duplicate(port.path(), value));
        }
        let node_port = port.field("nodePort");
        if node_port.int().unwrap_or(0) != 0 {
            if matches!(ty, "ClusterIP" | "ExternalName") {
                errors.push(node_port.forbidden(format!("may not be used when `type` is '{ty}'")));
            } else if !node_ports.insert((node_port.int(), protocol.text())) {
                errors.push(node_port.duplicate());
            }
        }
    }
}

fn affinity(spec: &At<'_>, errors: &mut Errors) {
    let (affinity, config) = (spec.field("sessionAffinity"), spec.field("sessionAffinityConfig"));
    affinity.must_be_one_of(&["ClientIP", "None"], errors);
    if affinity.text() == "ClientIP" {
        let seconds = config.field("clientIP").field("timeoutSeconds");
        if seconds.int().is_none_or(|s| s <= 0 || s > 86_400) {
            errors.push(seconds.invalid("must be greater than 0 and less than 86400"));
        }
    } else if !config.is_absent() {
        errors.push(config.forbidden("must not be set when session affinity is None"));
    }
}

fn policies(spec: &At<'_>, ty: &str, errors: &mut Errors) {
    let external = spec.field("externalTrafficPolicy");
    external.one_of(&["Cluster", "Local"], errors);
    spec.field("internalTrafficPolicy").one_of(&["Cluster", "Local"], errors);
    let exposed = matches!(ty, "NodePort" | "LoadBalancer") || spec.field("externalIPs").len() > 0;
    if !external.text().is_empty() && !exposed {
        errors.push(external.invalid("may only be set for externally-accessible services"));
    }
    if ty != "LoadBalancer" {
        for field in ["loadBalancerClass", "allocateLoadBalancerNodePorts"] {
            let at = spec.field(field);
            if !at.is_absent() {
                errors.push(at.forbidden("may only be used when `type` is 'LoadBalancer'"));
            }
        }
        let ranges = spec.field("loadBalancerSourceRanges");
        if ranges.len() > 0 {
            errors.push(ranges.forbidden("may only be used when `type` is 'LoadBalancer'"));
        }
    }
    let health = spec.field("healthCheckNodePort");
    if health.int().unwrap_or(0) != 0 && !(ty == "LoadBalancer" && external.text() == "Local") {
        errors.push(health.invalid("may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"));
    }
    spec.field("trafficDistribution").one_of(&["PreferClose", "PreferSameZone", "PreferSameNode"], errors);
}
