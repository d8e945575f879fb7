//! The proxy's nftables tables as data, and the transaction that leads from one state to the next. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use crate::cidr::Cidr;

/// An address family and its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

/// A verdict map, or a set, of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Map {
    /// All cluster IPs: a set.
    ClusterIps,
    /// Address, protocol and port of a Service to its chain.
    ServiceIps,
    /// Protocol and node port to a chain.
    ServiceNodeports,
    /// As `ServiceIps`, to a refusal.
    NoEndpointServices,
    /// As `ServiceNodeports`, to a refusal.
    NoEndpointNodeports,
    /// Load balancer addresses that only some sources may use.
    FirewallIps,
}

/// What Services add to one family's table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rules {
    /// A chain's rules, in order.
    pub(super) chains: BTreeMap<String, Vec<String>>,
    /// Sets that remember clients, each with its timeout in seconds. A name never changes its timeout.
    pub(super) affinities: BTreeMap<String, u32>,
    /// The value of a set's element is empty.
    pub(super) elements: BTreeMap<(Map, String), String>,
}

// === impl Family ===

impl Family {
    pub(super) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The keyword in rules and the name of the table's family.
    pub(super) fn ip(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    fn table(self) -> &'static str {
        match self {
            Self::V4 => "ip pharos-proxy",
            Self::V6 => "ip6 pharos-proxy",
        }
    }

    fn address_type(self) -> &'static str {
        match self {
            Self::V4 => "ipv4_addr",
            Self::V6 => "ipv6_addr",
        }
    }
}

// === impl Map ===

impl Map {
    const ALL: [Self; 6] = [
        Self::ClusterIps,
        Self::ServiceIps,
        Self::ServiceNodeports,
        Self::NoEndpointServices,
        Self::NoEndpointNodeports,
        Self::FirewallIps,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::ClusterIps => "cluster-ips",
            Self::ServiceIps => "service-ips",
            Self::ServiceNodeports => "service-nodeports",
            Self::NoEndpointServices => "no-endpoint-services",
            Self::NoEndpointNodeports => "no-endpoint-nodeports",
            Self::FirewallIps => "firewall-ips",
        }
    }

    fn declaration(self, family: Family) -> String {
        let (table, name, address) = (family.table(), self.name(), family.address_type());
        match self {
            Self::ClusterIps => format!("add set {table} {name} {{ type {address} ; }}"),
            Self::ServiceIps | Self::NoEndpointServices | Self::FirewallIps => {
                format!("add map {table} {name} {{ type {address} . inet_proto . inet_service : verdict ; }}")
            }
            Self::ServiceNodeports | Self::NoEndpointNodeports => {
                format!("add map {table} {name} {{ type inet_proto . inet_service : verdict ; }}")
            }
        }
    }
}

// === impl Rules ===

impl Rules {
    /// Adds another's.
    pub(super) fn merge(&mut self, other: &Self) {
        self.chains.extend(other.chains.iter().map(|(k, v)| (k.clone(), v.clone())));
        self.affinities.extend(other.affinities.iter().map(|(k, v)| (k.clone(), *v)));
        self.elements.extend(other.elements.iter().map(|(k, v)| (k.clone(), v.clone())));
    }
}

/// The transaction that replaces a family's table by an empty one with the chains that all Services share.
///
/// Chains and hooks follow kube-proxy (`pkg/proxy/nftables`). Node ports are at the node's addresses in `places`.
pub(super) fn base(family: Family, places: &[Cidr]) -> String {
    let (table, ip) = (family.table(), family.ip());
    let loopback = match family {
        Family::V4 => "127.0.0.0/8",
        Family::V6 => "::1",
    };
    let mut script = format!("add table {table}\ndelete table {table}\nadd table {table}\n");
    for map in Map::ALL {
        let _ = writeln!(script, "{}", map.declaration(family));
    }
    let service = format!("{ip} daddr . meta l4proto . th dport vmap");
    let places: Vec<&Cidr> = places.iter().filter(|range| range.is_ipv4() == (family == Family::V4)).collect();
    let within = match places.as_slice() {
        [] => None,
        places if places.iter().any(|range| range.prefix == 0) => Some(String::new()),
        places => {
            let texts: BTreeSet<String> = places
                .iter()
                // An anonymous set must not overlap.
                .filter(|r| !places.iter().any(|wider| wider.prefix < r.prefix && wider.contains(r.network())))
                .map(|range| Cidr { address: range.network(), prefix: range.prefix }.to_string())
                .collect();
            Some(format!("{ip} daddr {{ {} }} ", texts.into_iter().collect::<Vec<_>>().join(", ")))
        }
    };
    let with_node_ports = |first: String, map: &str| {
        let node_ports = within
            .as_ref()
            .map(|within| format!("fib daddr type local {ip} daddr != {loopback} {within}meta l4proto . th dport vmap @{map}"));
        [first].into_iter().chain(node_ports).collect::<Vec<String>>()
    };
    // Chains that are jumped to.
    let plain: [(&str, Vec<String>); 7] = [
        ("mark-for-masquerade", vec!["meta mark set meta mark or 0x4000".into()]),
        (
            "masquerading",
            vec![
                "meta mark and 0x4000 == 0 return".into(),
                "meta mark set meta mark xor 0x4000".into(),
                "masquerade fully-random".into(),
            ],
        ),
        ("reject-chain", vec!["reject".into()]),
        ("services", with_node_ports(format!("{service} @service-ips"), "service-nodeports")),
        ("endpoints-check", with_node_ports(format!("{service} @no-endpoint-services"), "no-endpoint-nodeports")),
        ("firewall-check", vec![format!("{service} @firewall-ips")]),
        ("cluster-ips-check", vec![format!("{ip} daddr @cluster-ips reject")]),
    ];
    // Chains at hooks: kind, hook, priority, rules.
    let hooked: [(&str, &str, &str, i32, &[&str]); 8] = [
        ("nat-prerouting", "nat", "prerouting", -100, &["jump services"]),
        ("nat-output", "nat", "output", -100, &["jump services"]),
        ("nat-postrouting", "nat", "postrouting", 100, &["jump masquerading"]),
        ("filter-prerouting", "filter", "prerouting", -110, &["ct state new jump firewall-check"]),
        ("filter-output", "filter", "output", -110, &["ct state new jump firewall-check"]),
        ("filter-input", "filter", "input", 0, &["ct state new jump endpoints-check"]),
        ("filter-forward", "filter", "forward", 0, &["ct state new jump endpoints-check", "ct state new jump cluster-ips-check"]),
        (
            "filter-output-post-dnat",
            "filter",
            "output",
            0,
            &["ct state new jump endpoints-check", "ct state new jump cluster-ips-check"],
        ),
    ];
    for (chain, rules) in &plain {
        let _ = writeln!(script, "add chain {table} {chain}");
        for rule in rules {
            let _ = writeln!(script, "add rule {table} {chain} {rule}");
        }
    }
    for (chain, kind, hook, priority, rules) in hooked {
        let _ = writeln!(script, "add chain {table} {chain} {{ type {kind} hook {hook} priority {priority} ; }}");
        for rule in rules {
            let _ = writeln!(script, "add rule {table} {chain} {rule}");
        }
    }
    script
}

/// The transaction that leads from `old` to `new`; empty when they are the same.
///
/// The order keeps every reference valid: what is referred to is made first and removed last.
pub(super) fn diff(family: Family, old: &Rules, new: &Rules) -> String {
    let table = family.table();
    let mut script = String::new();
    for (name, timeout) in new.affinities.iter().filter(|(name, _)| !old.affinities.contains_key(*name)) {
        let address = family.address_type();
        // Bounded: a flood of forged sources must not fill the kernel's memory.
        let _ = writeln!(
            script,
            "add set {table} {name} {{ type {address} ; flags dynamic, timeout ; timeout {timeout}s ; size 65535 ; }}"
        );
    }
    let changed: Vec<(&String, &Vec<String>)> =
        new.chains.iter().filter(|(name, rules)| old.chains.get(*name) != Some(rules)).collect();
    for (name, _) in &changed {
        let verb = if old.chains.contains_key(*name) { "flush" } else { "add" };
        let _ = writeln!(script, "{verb} chain {table} {name}");
    }
    for ((map, key), value) in &old.elements {
        if new.elements.get(&(*map, key.clone())) != Some(value) {
            let _ = writeln!(script, "delete element {table} {} {{ {key} }}", map.name());
        }
    }
    for (name, rules) in changed {
        for rule in rules {
            let _ = writeln!(script, "add rule {table} {name} {rule}");
        }
    }
    for ((map, key), value) in &new.elements {
        if old.elements.get(&(*map, key.clone())) != Some(value) {
            let value = if value.is_empty() { String::new() } else { format!(" : {value}") };
            let _ = writeln!(script, "add element {table} {} {{ {key}{value} }}", map.name());
        }
    }
    let gone = || old.chains.keys().filter(|name| !new.chains.contains_key(*name));
    for name in gone() {
        let _ = writeln!(script, "flush chain {table} {name}");
    }
    for name in gone() {
        let _ = writeln!(script, "delete chain {table} {name}");
    }
    for name in old.affinities.keys().filter(|name| !new.affinities.contains_key(*name)) {
        let _ = writeln!(script, "delete set {table} {name}");
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(chains: &[(&str, &[&str])], affinities: &[&str], elements: &[(Map, &str, &str)]) -> Rules {
        Rules {
            chains: chains
                .iter()
                .map(|(name, rules)| ((*name).to_owned(), rules.iter().map(|r| (*r).to_owned()).collect()))
                .collect(),
            affinities: affinities.iter().map(|name| ((*name).to_owned(), 60)).collect(),
            elements: elements.iter().map(|(map, key, value)| ((*map, (*key).to_owned()), (*value).to_owned())).collect(),
        }
    }

    fn check(old: &Rules, new: &Rules, expect: &[&str]) {
        let script = diff(Family::V4, old, new).replace("ip pharos-proxy ", "");
        assert_eq!(script.lines().collect::<Vec<_>>(), expect);
    }

    #[test]
    fn references_are_valid_at_every_step() {
        let none = Rules::default();
        let one = rules(
            &[("s", &["goto e"]), ("e", &["update @a", "dnat"])],
            &["a"],
            &[(Map::ServiceIps, "10.0.0.1 . tcp . 80", "goto s"), (Map::ClusterIps, "10.0.0.1", "")],
        );
        check(
            &none,
            &one,
            &[
                "add set a { type ipv4_addr ; flags dynamic, timeout ; timeout 60s ; size 65535 ; }",
                "add chain e",
                "add chain s",
                "add rule e update @a",
                "add rule e dnat",
                "add rule s goto e",
                "add element cluster-ips { 10.0.0.1 }",
                "add element service-ips { 10.0.0.1 . tcp . 80 : goto s }",
            ],
        );
        check(&one, &one, &[]);
        check(
            &one,
            &none,
            &[
                "delete element cluster-ips { 10.0.0.1 }",
                "delete element service-ips { 10.0.0.1 . tcp . 80 }",
                "flush chain e",
                "flush chain s",
                "delete chain e",
                "delete chain s",
                "delete set a",
            ],
        );
    }

    #[test]
    fn node_ports_are_at_some_addresses() {
        let rule = |places: &[&str], family: Family| {
            let places: Vec<Cidr> = places.iter().map(|place| place.parse().unwrap()).collect();
            let script = base(family, &places);
            let line = script.lines().find(|line| line.contains("@service-nodeports")).map(str::to_owned);
            line.map(|line| line.split_once("daddr != ").unwrap().1.to_owned())
        };
        for (places, v4, v6) in [
            (&[][..], None, None),
            (&["192.168.7.2/32"][..], Some("127.0.0.0/8 ip daddr { 192.168.7.2/32 }"), None),
            (
                &["10.0.0.0/8", "10.1.0.0/16", "fd00::1/128"],
                Some("127.0.0.0/8 ip daddr { 10.0.0.0/8 }"),
                Some("::1 ip6 daddr { fd00::1/128 }"),
            ),
            (&["0.0.0.0/0", "10.0.0.0/8"], Some("127.0.0.0/8"), None),
        ] {
            let line = |text: &str| format!("{text} meta l4proto . th dport vmap @service-nodeports");
            assert_eq!((rule(places, Family::V4), rule(places, Family::V6)), (v4.map(line), v6.map(line)), "{places:?}");
        }
    }

    #[test]
    fn only_what_changed_is_touched() {
        let old = rules(&[("s", &["goto e1"]), ("e1", &["dnat 1"]), ("x", &["dnat"])], &[], &[(Map::ServiceIps, "k", "goto s")]);
        let new = rules(&[("s", &["goto e2"]), ("e2", &["dnat 2"]), ("x", &["dnat"])], &[], &[(Map::ServiceIps, "k", "goto s")]);
        check(
            &old,
            &new,
            &["add chain e2", "flush chain s", "add rule e2 dnat 2", "add rule s goto e2", "flush chain e1", "delete chain e1"],
        );
        let moved = rules(&[("x", &["dnat"])], &[], &[(Map::ServiceIps, "k", "goto x")]);
        check(
            &rules(&[("x", &["dnat"])], &[], &[(Map::ServiceIps, "k", "drop")]),
            &moved,
            &["delete element service-ips { k }", "add element service-ips { k : goto x }"],
        );
    }
}
