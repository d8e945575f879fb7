//! Ingresses, network policies and endpoint slices.

use std::{collections::BTreeSet, net::IpAddr};

use serde_json::Value;

use super::address;
use super::at::{At, Errors, port_name};
use crate::names;
use crate::status::FieldError;

pub(super) fn ingress(root: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    let spec = root.field("spec");
    let (rules, default) = (spec.field("rules"), spec.field("defaultBackend"));
    if rules.len() == 0 && default.is_absent() {
        errors.push(FieldError::invalid(
            spec.path(),
            rules.value().clone(),
            "either `defaultBackend` or `rules` must be specified",
        ));
    }
    if !default.is_absent() {
        backend(&default, errors);
    }
    // Below a wildcard, what was wrong before these rules were may stay so.
    let lenient = old.is_some_and(|old| {
        let mut ignored = Vec::new();
        for rule in At::root(old).field("spec").field("rules").items().filter(|rule| rule.field("host").text().contains('*')) {
            http(&rule.field("http"), &mut ignored);
        }
        !ignored.is_empty()
    });
    for rule in rules.items() {
        let host = rule.field("host");
        if !host.text().is_empty() {
            if host.text().parse::<IpAddr>().is_ok() {
                errors.push(host.invalid("must be a DNS name, not an IP address"));
            }
            host_name(&host, errors);
        }
        if !(lenient && host.text().contains('*')) {
            http(&rule.field("http"), errors);
        }
    }
    let secret_name = |tls: &At<'_>, errors: &mut Errors| tls.field("secretName").subdomain(errors);
    let known_wrong = old.is_some_and(|old| {
        let mut ignored = Vec::new();
        At::root(old).field("spec").field("tls").items().for_each(|tls| secret_name(&tls, &mut ignored));
        !ignored.is_empty()
    });
    for tls in spec.field("tls").items() {
        tls.field("hosts").items().for_each(|host| host_name(&host, errors));
        if !known_wrong {
            secret_name(&tls, errors);
        }
    }
    let class = spec.field("ingressClassName");
    if !class.is_absent() {
        class.all(names::dns1123_subdomain(class.text()), errors);
    }
    let annotation = root.field("metadata").field("annotations").field("kubernetes.io/ingress.class");
    if old.is_none() && !annotation.is_absent() && !class.is_absent() && annotation.text() != class.text() {
        let detail = "must match `ingressClassName` when both are specified";
        errors.push(FieldError::invalid("annotations.kubernetes.io/ingress.class", annotation.text(), detail));
    }
}

/// A name, or `*.` and one.
fn host_name(host: &At<'_>, errors: &mut Errors) {
    if host.text().contains('*') {
        host.all(names::wildcard_subdomain(host.text()), errors);
    } else {
        host.all(names::dns1123_subdomain(host.text()), errors);
    }
}

fn http(http: &At<'_>, errors: &mut Errors) {
    if http.is_absent() {
        return;
    }
    let paths = http.field("paths");
    if paths.len() == 0 {
        errors.push(paths.required(""));
    }
    paths.items().for_each(|path| ingress_path(&path, errors));
}

fn ingress_path(at: &At<'_>, errors: &mut Errors) {
    let (ty, path) = (at.field("pathType"), at.field("path"));
    match ty.text() {
        "" => {
            errors.push(ty.required("pathType must be specified"));
            return;
        }
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
        (true, true) => errors.push(FieldError::invalid(at.path(), "", "resource or service backend is required")),
        (true, false) => local_reference(&resource, errors),
        (false, true) => {
            let name = service.field("name");
            if name.must_be_set("", errors) {
                name.all(names::dns1035_label(name.text()), errors);
            }
            let (port_name_at, number) = (service.field("port").field("name"), service.field("port").field("number"));
            let has_number = number.int().unwrap_or(0) != 0;
            match (port_name_at.text().is_empty(), has_number) {
                (true, false) => errors.push(at.required("port name or number is required")),
                (false, true) => errors.push(FieldError::invalid(at.path(), "", "cannot set both port name & port number")),
                (false, false) => port_name_at.all(port_name(port_name_at.text()), errors),
                (true, true) => number.port(errors),
            }
        }
    }
}

/// An object by group, kind and name.
fn local_reference(at: &At<'_>, errors: &mut Errors) {
    let group = at.field("apiGroup");
    if !group.is_absent() {
        group.all(names::dns1123_subdomain(group.text()), errors);
    }
    at.field("kind").must_be_path_segment(errors);
    at.field("name").must_be_path_segment(errors);
}

/// Where an Ingress or a Service of type LoadBalancer is reached.
pub(super) fn load_balancer_status(status: &At<'_>, errors: &mut Errors) {
    for ingress in status.field("ingress").items() {
        ingress.field("ip").ip(errors);
        let host = ingress.field("hostname");
        if !host.text().is_empty() {
            host.subdomain(errors);
            if host.text().parse::<IpAddr>().is_ok() {
                errors.push(host.invalid("must be a DNS name, not an IP address"));
            }
        }
    }
}

pub(super) fn ingress_class(spec: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    let controller = spec.field("controller");
    if let Some(old) = old {
        controller.immutable(old.pointer("/spec/controller").unwrap_or(&Value::Null), errors);
    }
    controller.at_most_bytes(250, errors);
    controller.domain_prefixed_path(errors);
    let parameters = spec.field("parameters");
    if parameters.is_absent() {
        return;
    }
    local_reference(&parameters, errors);
    let (scope, namespace) = (parameters.field("scope"), parameters.field("namespace"));
    if scope.is_absent() {
        errors.push(scope.required(""));
        return;
    }
    match scope.text() {
        "Namespace" if namespace.is_absent() => {
            errors.push(namespace.required("`parameters.scope` is set to 'Namespace'"));
        }
        "Namespace" => namespace.all(names::dns1123_label(namespace.text()), errors),
        "Cluster" if !namespace.is_absent() => errors.push(namespace.forbidden("`parameters.scope` is set to 'Cluster'")),
        "Cluster" => {}
        _ => errors.push(scope.unsupported(&["Cluster", "Namespace"])),
    }
}

pub(super) fn network_policy(spec: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    // A block that was accepted once may stay, wherever it stands now.
    let known: BTreeSet<&str> = old.into_iter().flat_map(|old| blocks(&At::root(old).field("spec"))).collect();
    spec.field("podSelector").label_selector(errors);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.field(direction).items() {
            rule.field("ports").items().for_each(|port| policy_port(&port, errors));
            rule.field(peers).items().for_each(|peer| policy_peer(&peer, &known, errors));
        }
    }
    let types = spec.field("policyTypes");
    if types.len() > 2 {
        errors.push(types.invalid("may not specify more than two policyTypes"));
        return;
    }
    for ty in types.items().filter(|ty| !matches!(ty.text(), "Egress" | "Ingress")) {
        errors.push(ty.unsupported(&["Egress", "Ingress"]));
    }
}

/// The blocks of addresses a policy names.
fn blocks<'a>(spec: &At<'a>) -> Vec<&'a str> {
    let mut found = Vec::new();
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.field(direction).items() {
            for peer in rule.field(peers).items() {
                let block = peer.field("ipBlock");
                found.push(block.field("cidr").text());
                found.extend(block.field("except").texts());
            }
        }
    }
    found
}

fn policy_port(port: &At<'_>, errors: &mut Errors) {
    port.field("protocol").one_of(&["TCP", "UDP", "SCTP"], errors);
    let (number, end) = (port.field("port"), port.field("endPort"));
    if end.is_absent() {
        if !number.is_absent() {
            number.port_or_name(errors);
        }
        return;
    }
    match number.int() {
        None if number.is_absent() => errors.push(end.invalid("may not be specified when `port` is not specified")),
        None => {
            errors.push(end.invalid("may not be specified when `port` is non-numeric"));
            number.port_or_name(errors);
        }
        Some(first) => {
            number.port_or_name(errors);
            if end.int().unwrap_or(0) < first {
                errors.push(end.invalid("must be greater than or equal to `port`"));
            }
            end.port(errors);
        }
    }
}

fn policy_peer(peer: &At<'_>, known: &BTreeSet<&str>, errors: &mut Errors) {
    let (pods, namespaces, block) = (peer.field("podSelector"), peer.field("namespaceSelector"), peer.field("ipBlock"));
    pods.label_selector(errors);
    namespaces.label_selector(errors);
    if !block.is_absent() {
        ip_block(&block, known, errors);
    }
    let selectors = !pods.is_absent() || !namespaces.is_absent();
    if !selectors && block.is_absent() {
        errors.push(peer.required("must specify a peer"));
    } else if selectors && !block.is_absent() {
        errors.push(peer.forbidden("may not specify both ipBlock and another peer"));
    }
}

fn ip_block(block: &At<'_>, known: &BTreeSet<&str>, errors: &mut Errors) {
    let network = block.field("cidr");
    if !network.must_be_set("", errors) {
        return;
    }
    let mut parsed = |at: &At<'_>| match known.contains(at.text()) {
        true => address::cidr(at.text()).ok(),
        false => at.cidr(errors),
    };
    let Some((network, length)) = parsed(&network) else { return };
    let mut outside = Vec::new();
    for except in block.field("except").items() {
        let Some((ip, bits)) = parsed(&except) else { continue };
        let within = ip.is_ipv4() == network.is_ipv4() && address::masked(ip, length) == network;
        if !within || length >= bits {
            outside.push(except.invalid("must be a strict subset of `cidr`"));
        }
    }
    errors.append(&mut outside);
}

/// An address that is in use: what by.
pub(super) fn ip_address(spec: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    let parent = spec.field("parentRef");
    if let Some(old) = old {
        parent.immutable(old.pointer("/spec/parentRef").unwrap_or(&Value::Null), errors);
        return;
    }
    if parent.is_absent() {
        errors.push(parent.required(""));
        return;
    }
    parent.field("group").subdomain(errors);
    parent.field("resource").must_be_path_segment(errors);
    parent.field("name").must_be_path_segment(errors);
    let namespace = parent.field("namespace");
    namespace.all(names::path_segment(namespace.text()), errors);
}

/// The blocks Services' addresses come from, one of each family.
pub(super) fn service_cidr(spec: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    let cidrs = spec.field("cidrs");
    let Some(old) = old else {
        service_blocks(spec, &cidrs, errors);
        return;
    };
    let before = old.pointer("/spec/cidrs").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut kept = || {
        for (cidr, before) in cidrs.items().zip(before) {
            cidr.immutable(before, errors);
        }
    };
    match (before.len(), cidrs.len()) {
        (before, now) if before == now => kept(),
        (1, 2) => {
            kept();
            service_blocks(spec, &cidrs, errors);
        }
        _ => errors.push(cidrs.invalid("field is immutable")),
    }
}

fn service_blocks(spec: &At<'_>, cidrs: &At<'_>, errors: &mut Errors) {
    if cidrs.len() == 0 {
        errors.push(cidrs.required("at least one CIDR required"));
        return;
    }
    if cidrs.len() > 2 {
        errors.push(FieldError::invalid(cidrs.path(), spec.value().clone(), "may only hold up to 2 values"));
        return;
    }
    let mut families = Vec::new();
    for cidr in cidrs.items() {
        let Some((ip, length)) = cidr.cidr(errors) else { continue };
        families.push(ip.is_ipv4());
        let canonical = format!("{ip}/{length}");
        if canonical != cidr.text() {
            errors.push(cidr.invalid(format!("must be in canonical form ({canonical:?})")));
        }
    }
    if let [first, second] = families[..]
        && first == second
    {
        let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.push(cidrs.invalid(detail));
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
