//! The rules that one Service needs. Pure. Follows kube-proxy's `pkg/proxy/nftables/proxier.go`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use k8s_openapi::api::{
    core::v1::{Service, ServicePort},
    discovery::v1::EndpointSlice,
};

use super::{
    config::Checked,
    endpoints::{self, Chosen, Endpoint, Here},
    table::{Family, Map, Rules},
};
use crate::cidr::Cidr;

/// Services with this label are another proxy's; so is the cluster DNS, whose address is the node's own.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
const HEADLESS: &str = "service.kubernetes.io/headless";
const DEFAULT_AFFINITY_SECONDS: i32 = 10_800;

/// What one Service adds to the tables, and what its UDP flows may lead to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fragment {
    pub(super) v4: Rules,
    pub(super) v6: Rules,
    pub(super) udp: BTreeMap<UdpFront, BTreeSet<(IpAddr, u16)>>,
    /// What load balancers may ask.
    pub(super) check: Option<HealthCheck>,
    /// Ports that have no endpoint on this node although a policy `Local` asks for one: internal, external.
    pub(super) without_local: (i64, i64),
}

/// A Service's `healthCheckNodePort`, and how many ready endpoints of it are on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HealthCheck {
    pub(super) port: u16,
    pub(super) v4: usize,
    pub(super) v6: usize,
}

/// Where UDP clients send to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum UdpFront {
    /// A Service's address and port.
    Address(IpAddr, u16),
    /// A port of the node.
    NodePort(u16),
}

/// A Service's port in one family.
struct Port<'a> {
    family: Family,
    /// `namespace/name/protocol/port name`.
    name: String,
    protocol: String,
    port: u16,
    node_port: Option<u16>,
    cluster_ip: IpAddr,
    external_ips: Vec<IpAddr>,
    load_balancer_ips: Vec<IpAddr>,
    source_ranges: Option<Vec<Cidr>>,
    internal_local: bool,
    external_local: bool,
    affinity_seconds: Option<u32>,
    config: &'a Checked,
}

/// Whether this proxy implements a Service at all.
pub(super) fn is_ours(service: &Service) -> bool {
    let labels = service.metadata.labels.as_ref();
    let Some(spec) = &service.spec else { return false };
    labels.is_none_or(|l| !l.contains_key(PROXY_NAME) && !l.contains_key(HEADLESS))
        && spec.type_.as_deref() != Some("ExternalName")
        && spec.cluster_ip.as_deref().is_some_and(|ip| !ip.is_empty() && ip != "None")
}

/// The rules of a Service.
pub(super) fn fragment(service: &Service, slices: &[impl AsRef<EndpointSlice>], here: &Here, config: &Checked) -> Fragment {
    let mut fragment = Fragment::default();
    if !is_ours(service) {
        return fragment;
    }
    fragment.check = health_check_port(service).map(|port| {
        let count = |family| endpoints::local_ready(slices, family, here);
        HealthCheck { port, v4: count(Family::V4), v6: count(Family::V6) }
    });
    for family in Family::BOTH {
        for service_port in service.spec.iter().flat_map(|s| s.ports.iter().flatten()) {
            let Some(port) = Port::new(service, service_port, family, config) else { continue };
            let protocol = service_port.protocol.as_deref().unwrap_or("TCP");
            let name = service_port.name.as_deref().unwrap_or_default();
            let all = endpoints::endpoints(slices, family, name, protocol, here);
            port.add(&mut fragment, &endpoints::choose(&all, here));
        }
    }
    fragment
}

/// Where load balancers ask for a Service: only they have use for it, and only where endpoints elsewhere do not count.
fn health_check_port(service: &Service) -> Option<u16> {
    let spec = service.spec.as_ref()?;
    let asked = spec.type_.as_deref() == Some("LoadBalancer") && spec.external_traffic_policy.as_deref() == Some("Local");
    spec.health_check_node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| asked && *port != 0)
}

// === impl Fragment ===

impl Fragment {
    pub(super) fn rules(&self, family: Family) -> &Rules {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    pub(super) fn rules_mut(&mut self, family: Family) -> &mut Rules {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

// === impl Port ===

impl<'a> Port<'a> {
    fn new(service: &Service, port: &ServicePort, family: Family, config: &'a Checked) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        let of_family = |ip: &IpAddr| ip.is_ipv4() == (family == Family::V4);
        let cluster_ips = spec.cluster_ips.clone().unwrap_or_else(|| spec.cluster_ip.iter().cloned().collect());
        let cluster_ip = cluster_ips.iter().filter_map(|ip| ip.parse().ok()).find(of_family)?;
        let protocol = port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
        let external = |ips: Option<&Vec<String>>| -> Vec<IpAddr> {
            ips.into_iter().flatten().filter_map(|ip| ip.parse().ok()).filter(of_family).collect()
        };
        let exposed = matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
        let ingress = service.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|l| l.ingress.as_ref());
        let load_balancer_ips = ingress
            .into_iter()
            .flatten()
            .filter(|_| spec.type_.as_deref() == Some("LoadBalancer"))
            .filter(|i| i.ip_mode.as_deref() != Some("Proxy"))
            .filter_map(|i| i.ip.as_ref()?.parse().ok())
            .filter(of_family)
            .collect();
        let affinity = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref()?.timeout_seconds);
        Some(Self {
            family,
            name: format!(
                "{}/{}/{protocol}/{}",
                service.metadata.namespace.as_deref().unwrap_or_default(),
                service.metadata.name.as_deref().unwrap_or_default(),
                port.name.as_deref().unwrap_or_default()
            ),
            protocol,
            port: u16::try_from(port.port).ok()?,
            node_port: port.node_port.and_then(|p| u16::try_from(p).ok()).filter(|p| exposed && *p != 0),
            cluster_ip,
            external_ips: external(spec.external_ips.as_ref()),
            load_balancer_ips,
            source_ranges: spec.load_balancer_source_ranges.as_ref().filter(|r| !r.is_empty()).map(|ranges| {
                let ranges = ranges.iter().filter_map(|r| r.trim().parse::<Cidr>().ok());
                ranges.filter(|r| r.is_ipv4() == (family == Family::V4)).collect()
            }),
            internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
            affinity_seconds: (spec.session_affinity.as_deref() == Some("ClientIP"))
                .then(|| affinity.unwrap_or(DEFAULT_AFFINITY_SECONDS).clamp(1, 86_400) as u32),
            config,
        })
    }

    fn add(&self, fragment: &mut Fragment, chosen: &Chosen) {
        let external: Vec<IpAddr> = self.external_ips.iter().chain(&self.load_balancer_ips).copied().collect();
        let is_exposed = !external.is_empty() || self.node_port.is_some();
        let (has_any, has_local) = (!chosen.cluster.is_empty(), !chosen.local.is_empty());
        fragment.without_local.0 += i64::from(self.internal_local && has_any && !has_local);
        fragment.without_local.1 += i64::from(self.external_local && is_exposed && has_any && !has_local);
        self.udp(fragment, chosen, &external);

        let mut rules = std::mem::take(fragment.rules_mut(self.family));
        let uses_cluster = has_any && (!self.internal_local || is_exposed);
        let uses_local = has_local && (self.internal_local || (is_exposed && self.external_local));
        let (cluster_chain, local_chain, external_chain) =
            (self.chain("service", ""), self.chain("local", ""), self.chain("external", ""));
        if uses_cluster {
            self.balance(&mut rules, &cluster_chain, &chosen.cluster);
        }
        if uses_local {
            self.balance(&mut rules, &local_chain, &chosen.local);
        }

        // The cluster IP.
        rules.elements.insert((Map::ClusterIps, self.cluster_ip.to_string()), String::new());
        let internal = match (self.internal_local, has_any, has_local) {
            (_, false, _) => Err("goto reject-chain"),
            (true, true, false) => Err("drop"),
            (true, true, true) => Ok(&local_chain),
            (false, true, _) => Ok(&cluster_chain),
        };
        let key = self.key(self.cluster_ip);
        match internal {
            Ok(chain) => rules.elements.insert((Map::ServiceIps, key), format!("goto {chain}")),
            Err(refusal) => rules.elements.insert((Map::NoEndpointServices, key), refusal.into()),
        };

        // Everything that comes from outside.
        if is_exposed && has_any {
            rules.chains.insert(external_chain.clone(), self.external(&cluster_chain, has_local.then_some(&local_chain)));
        }
        let refusal = match (has_any, self.external_local && !has_local) {
            (false, _) => Some("goto reject-chain"),
            (true, true) => Some("drop"),
            (true, false) => None,
        };
        let fronts = external.iter().map(|ip| (Map::ServiceIps, Map::NoEndpointServices, self.key(*ip)));
        let node_port =
            self.node_port.map(|p| (Map::ServiceNodeports, Map::NoEndpointNodeports, format!("{} . {p}", self.protocol)));
        for (map, no_endpoint, key) in fronts.chain(node_port) {
            if has_any {
                rules.elements.insert((map, key.clone()), format!("goto {external_chain}"));
            }
            if let Some(refusal) = refusal {
                rules.elements.insert((no_endpoint, key), refusal.into());
            }
        }
        self.firewall(&mut rules);
        *fragment.rules_mut(self.family) = rules;
    }

    /// Who may use the load balancer's addresses.
    fn firewall(&self, rules: &mut Rules) {
        let Some(ranges) = self.source_ranges.as_ref().filter(|_| !self.load_balancer_ips.is_empty()) else { return };
        let chain = self.chain("firewall", "");
        let rule =
            if ranges.is_empty() { "drop".to_owned() } else { format!("{} saddr != {} drop", self.family.ip(), set(ranges)) };
        rules.chains.insert(chain.clone(), vec![rule]);
        for ip in &self.load_balancer_ips {
            rules.elements.insert((Map::FirewallIps, self.key(*ip)), format!("goto {chain}"));
        }
    }

    /// The chain that spreads over endpoints, and the endpoints' own.
    fn balance(&self, rules: &mut Rules, chain: &str, endpoints: &[Endpoint]) {
        let ip = self.family.ip();
        let mut balance = Vec::new();
        let ranges: Vec<Cidr> =
            self.config.cluster_cidrs.iter().filter(|c| c.is_ipv4() == (self.family == Family::V4)).copied().collect();
        if self.config.masquerade_all {
            balance.push(format!("{ip} daddr {} jump mark-for-masquerade", self.cluster_ip));
        } else if !ranges.is_empty() {
            // Whoever is no pod would be answered past this node.
            balance.push(format!("{ip} daddr {} {ip} saddr != {} jump mark-for-masquerade", self.cluster_ip, set(&ranges)));
        }
        let mut choices = Vec::new();
        for endpoint in endpoints {
            let target = self.chain("endpoint", &format!("{}/{}", endpoint.ip, endpoint.port));
            // A pod that reaches itself must not answer itself directly.
            let mut steps = vec![format!("{ip} saddr {} jump mark-for-masquerade", endpoint.ip)];
            if let Some(seconds) = self.affinity_seconds {
                let remembered = self.chain("affinity", &format!("{}/{}/{seconds}", endpoint.ip, endpoint.port));
                balance.push(format!("{ip} saddr @{remembered} goto {target}"));
                steps.push(format!("update @{remembered} {{ {ip} saddr }}"));
                rules.affinities.insert(remembered, seconds);
            }
            let to = std::net::SocketAddr::new(endpoint.ip, endpoint.port);
            steps.push(format!("meta l4proto {} dnat to {to}", self.protocol));
            rules.chains.insert(target.clone(), steps);
            choices.push(target);
        }
        match choices.as_slice() {
            [only] => balance.push(format!("goto {only}")),
            _ => {
                let choices: Vec<String> = choices.iter().enumerate().map(|(n, c)| format!("{n} : goto {c}")).collect();
                balance.push(format!("numgen random mod {} vmap {{ {} }}", choices.len(), choices.join(", ")));
            }
        }
        rules.chains.insert(chain.to_owned(), balance);
    }

    /// The chain of traffic to node ports, external and load balancer addresses.
    fn external(&self, cluster_chain: &str, local_chain: Option<&String>) -> Vec<String> {
        if !self.external_local {
            return vec!["jump mark-for-masquerade".into(), format!("goto {cluster_chain}")];
        }
        let ip = self.family.ip();
        // Pods and the node itself are inside, whatever address they use.
        let inside = self.config.cluster_cidrs.iter().filter(|c| c.is_ipv4() == (self.family == Family::V4));
        let mut rules: Vec<String> = inside.map(|range| format!("{ip} saddr {range} goto {cluster_chain}")).collect();
        rules.push("fib saddr type local jump mark-for-masquerade".into());
        rules.push(format!("fib saddr type local goto {cluster_chain}"));
        rules.extend(local_chain.map(|chain| format!("goto {chain}")));
        rules
    }

    fn udp(&self, fragment: &mut Fragment, chosen: &Chosen, external: &[IpAddr]) {
        if self.protocol != "udp" {
            return;
        }
        let targets: BTreeSet<(IpAddr, u16)> = chosen.cluster.iter().chain(&chosen.local).map(|e| (e.ip, e.port)).collect();
        let addresses = external.iter().chain([&self.cluster_ip]).map(|ip| UdpFront::Address(*ip, self.port));
        for front in addresses.chain(self.node_port.map(UdpFront::NodePort)) {
            fragment.udp.entry(front).or_default().extend(&targets);
        }
    }

    fn key(&self, ip: IpAddr) -> String {
        format!("{ip} . {} . {}", self.protocol, self.port)
    }

    /// A name that tells what it is for and, by its hash, stays unique when cut to what the kernel allows (127 bytes).
    fn chain(&self, kind: &str, target: &str) -> String {
        let hash = format!("{}__{target}", self.name)
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
        let separator = if target.is_empty() { "" } else { "__" };
        let target = target.replace(':', ".");
        let mut name = format!("{kind}-{:010x}-{}{separator}{target}", hash >> 24, self.name);
        name.truncate(120);
        name
    }
}

/// An anonymous set of ranges, without those inside another: nftables refuses overlaps.
fn set(ranges: &[Cidr]) -> String {
    let texts: BTreeSet<String> = ranges
        .iter()
        .filter(|r| !ranges.iter().any(|wider| wider.prefix < r.prefix && wider.contains(r.network())))
        .map(ToString::to_string)
        .collect();
    format!("{{ {} }}", texts.into_iter().collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests;
