//! Ingresses, network policies and endpoint slices.

use std::{collections::BTreeSet, net::IpAddr};

use serde_json::Value;

use super::at::{At, Errors, port_name};
use crate::names;
use crate::status::FieldError;

pub(super) fn ingress(spec: &At<'_>, errors: &mut Errors) {
    let (rules, default) = (spec.field("rules"), spec.field("defaultBackend"));
    if rules.len() == 0 && default.is_absent() {
        errors.push(spec.invalid("either `defaultBackend` or `rules` must be specified"));
    }
    if !default.is_absent() {
        backend(&default, errors);
    }
    for rule in rules.items() {
        let host = rule.field("host");
        if host.text().parse::<IpAddr>().is_ok() {
            errors.push(host.invalid("must be a DNS name, not an IP address"));
        } else if !host.text().is_empty() {
            let name = host.text().strip_prefix("*.").unwrap_or(host.text());
            host.all(names::dns1123_subdomain(name), errors);
        }
        let http = rule.field("http");
        if http.is_absent() {
            continue;
        }
        let paths = http.field("paths");
        if paths.len() == 0 {
            errors.push(paths.required(""));
        }
        paths.items().for_each(|path| ingress_path(&path, errors));
    }
    for tls in spec.field("tls").items() {
        for host in tls.field("hosts").items() {
            let name = host.text().strip_prefix("*.").unwrap_or(host.text());
            host.all(names::dns1123_subdomain(name), errors);
        }
    }
    spec.field("ingressClassName").subdomain(errors);
}

fn ingress_path(at: &At<'_>, errors: &mut Errors) {
    let (ty, path) = (at.field("pathType"), at.field("path"));
    match ty.text() {
        "" => errors.push(ty.required("pathType must be specified")),
        "Exact" | "Prefix" => {
            if !path.text().starts_with('/') {
                errors.push(FieldError::invalid(path.path(), path.text(), "must be an absolute path"));
            }
            for sequence in ["//", "/./", "/../", "%2f", "%2F"] {
                if path.text().contains(sequence) {
                    errors.push(path.invalid(format!("must not contain '{sequence}'")));
                }
            }
            for suffix in ["/..", "/."] {
                if path.text().ends_with(suffix) {
                    errors.push(path.invalid(format!("cannot end with '{suffix}'")));
                }
            }
        }
        "ImplementationSpecific" => {
            if !path.text().is_empty() && !path.text().starts_with('/') {
                errors.push(path.invalid("must be an absolute path"));
            }
        }
        _ => errors.push(FieldError::not_supported(ty.path(), ty.text(), &["Exact", "ImplementationSpecific", "Prefix"])),
    }
    backend(&at.field("backend"), errors);
}

fn backend(at: &At<'_>, errors: &mut Errors) {
    let (service, resource) = (at.field("service"), at.field("resource"));
    match (service.is_absent(), resource.is_absent()) {
        (false, false) => errors.push(FieldError::invalid(at.path(), "", "cannot set both resource and service backends")),
        (true, true) => errors.push(at.required("resource or service backend is required")),
        (true, false) => {
            resource.field("kind").must_be_set("", errors);
            resource.field("name").must_be_set("", errors);
        }
        (false, true) => {
            let name = service.field("name");
            if name.must_be_set("", errors) {
                name.all(names::dns1035_label(name.text()), errors);
            }
            let (port_name_at, number) = (service.field("port").field("name"), service.field("port").field("number"));
            let has_number = number.int().unwrap_or(0) != 0;
            match (port_name_at.text().is_empty(), has_number) {
                (true, false) => errors.push(service.required("port name or number is required")),
                (false, true) => errors.push(FieldError::invalid(service.path(), "", "cannot set both port name & port number")),
                (false, false) => port_name_at.all(port_name(port_name_at.text()), errors),
                (true, true) => number.port(errors),
            }
        }
    }
}

pub(super) fn ingress_class(spec: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    let controller = spec.field("controller");
    if controller.must_be_set("", errors) && (controller.text().len() > 250 || !controller.text().contains('/')) {
        errors.push(controller.invalid("must be a domain-prefixed path (such as \"acme.io/foo\")"));
    }
    if let Some(old) = old {
        controller.immutable(old.pointer("/spec/controller").unwrap_or(&Value::Null), errors);
    }
}

pub(super) fn network_policy(spec: &At<'_>, errors: &mut Errors) {
    spec.field("podSelector").label_selector(errors);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.field(direction).items() {
            rule.field("ports").items().for_each(|port| policy_port(&port, errors));
            rule.field(peers).items().for_each(|peer| policy_peer(&peer, errors));
        }
    }
    let types = spec.field("policyTypes");
    if types.len() > 2 {
        errors.push(types.invalid("may not specify more than two policyTypes"));
        return;
    }
    types.items().for_each(|ty| ty.must_be_one_of(&["Egress", "Ingress"], errors));
}

fn policy_port(port: &At<'_>, errors: &mut Errors) {
    port.field("protocol").one_of(&["TCP", "UDP", "SCTP"], errors);
    let (number, end) = (port.field("port"), port.field("endPort"));
    if !number.is_absent() {
        number.port_or_name(errors);
    }
    if !end.is_absent() {
        match number.int() {
            None if number.is_absent() => errors.push(end.invalid("endPort may not be specified when port is not specified")),
            None => errors.push(end.invalid("endPort may not be specified when port is non-numeric")),
            Some(first) if end.int().unwrap_or(0) < first => errors.push(end.invalid("must be greater than or equal to `port`")),
            Some(_) => end.port(errors),
        }
    }
}

fn policy_peer(peer: &At<'_>, errors: &mut Errors) {
    let (pods, namespaces, block) = (peer.field("podSelector"), peer.field("namespaceSelector"), peer.field("ipBlock"));
    pods.label_selector(errors);
    namespaces.label_selector(errors);
    let selectors = !pods.is_absent() || !namespaces.is_absent();
    if !selectors && block.is_absent() {
        errors.push(peer.required("must specify a peer"));
    } else if selectors && !block.is_absent() {
        errors.push(peer.forbidden("may not specify both ipBlock and another peer"));
    }
    if !block.is_absent() {
        let network = block.field("cidr");
        if network.must_be_set("", errors) {
            cidr(&network, errors);
        }
        block.field("except").items().for_each(|except| cidr(&except, errors));
    }
}

fn cidr(at: &At<'_>, errors: &mut Errors) {
    let valid = at.text().split_once('/').is_some_and(|(ip, bits)| {
        let most = match ip.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        bits.parse::<u8>().is_ok_and(|bits| bits <= most)
    });
    if !valid {
        errors.push(at.invalid("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"));
    }
}

/// `validateEndpointSubsets`; subsets that an update leaves alone are not looked at.
pub(super) fn endpoints(root: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    let subsets = root.field("subsets");
    if old.is_some_and(|old| old.get("subsets").unwrap_or(&Value::Null) == subsets.value()) {
        return;
    }
    for subset in subsets.items() {
        let lists = [subset.field("addresses"), subset.field("notReadyAddresses")];
        if lists.iter().all(|list| list.len() == 0) {
            errors.push(subset.required("must specify `addresses` or `notReadyAddresses`"));
        }
        for address in lists.iter().flat_map(At::items) {
            let ip = address.field("ip");
            let parsed = ip.text().parse::<IpAddr>().ok();
            if parsed.is_none() {
                errors.push(ip.invalid("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"));
            }
            address.field("hostname").label(errors);
            address.field("nodeName").subdomain(errors);
            ordinary_address(&ip, parsed, errors);
        }
        let ports = subset.field("ports");
        for port in ports.items() {
            let name = port.field("name");
            if ports.len() > 1 {
                name.must_be_set("", errors);
            }
            name.label(errors);
            port.field("port").port(errors);
            port.field("protocol").must_be_one_of(&["TCP", "UDP", "SCTP"], errors);
        }
    }
}

/// `ValidateEndpointIP`: who may name endpoints is not to lead the cluster's proxies to what listens on their own machines alone.
fn ordinary_address(at: &At<'_>, ip: Option<IpAddr>, errors: &mut Errors) {
    let Some(ip) = ip.map(|ip| ip.to_canonical()) else { return };
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let link_local_multicast = match ip {
        IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
        IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
    };
    if ip.is_unspecified() {
        errors.push(at.invalid("may not be unspecified (0.0.0.0 or ::)"));
    } else if ip.is_loopback() {
        errors.push(at.invalid("may not be in the loopback range (127.0.0.0/8, ::1/128)"));
    } else if link_local {
        errors.push(at.invalid("may not be in the link-local range (169.254.0.0/16, fe80::/10)"));
    } else if link_local_multicast {
        errors.push(at.invalid("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"));
    }
}

pub(super) fn endpoint_slice(root: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    let ty = root.field("addressType");
    ty.must_be_one_of(&["FQDN", "IPv4", "IPv6"], errors);
    if let Some(old) = old {
        ty.immutable(old.get("addressType").unwrap_or(&Value::Null), errors);
    }
    let endpoints = root.field("endpoints");
    if endpoints.len() > 1000 {
        errors.push(FieldError::too_many(endpoints.path(), endpoints.len(), 1000));
        return;
    }
    for endpoint in endpoints.items() {
        let addresses = endpoint.field("addresses");
        if addresses.len() == 0 {
            errors.push(addresses.required("must contain at least 1 address"));
        } else if addresses.len() > 100 {
            errors.push(FieldError::too_many(addresses.path(), addresses.len(), 100));
        }
        for address in addresses.items() {
            let parsed = address.text().parse::<IpAddr>().ok();
            match ty.text() {
                "IPv4" if !parsed.is_some_and(|ip| ip.is_ipv4()) => errors.push(address.invalid("must be a valid IPv4 address")),
                "IPv6" if !parsed.is_some_and(|ip| ip.is_ipv6()) => errors.push(address.invalid("must be a valid IPv6 address")),
                "FQDN" => address.subdomain(errors),
                "IPv4" | "IPv6" => ordinary_address(&address, parsed, errors),
                _ => {}
            }
        }
        endpoint.field("hostname").label(errors);
        endpoint.field("nodeName").subdomain(errors);
    }
    let ports = root.field("ports");
    if ports.len() > 20_000 {
        errors.push(FieldError::too_many(ports.path(), ports.len(), 20_000));
        return;
    }
    let mut seen = BTreeSet::new();
    for port in ports.items() {
        let name = port.field("name");
        if !name.text().is_empty() {
            name.label(errors);
        }
        if !seen.insert(name.text()) {
            errors.push(FieldError::duplicate(name.path(), name.text()));
        }
        port.field("port").port(errors);
        let protocol = port.field("protocol");
        protocol.must_be_one_of(&["TCP", "UDP", "SCTP"], errors);
    }
}
