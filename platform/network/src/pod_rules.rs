//! The nftables rules of the pod network, table `inet pharos-pods`: masquerading and host ports. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::IpAddr,
};

use crate::{addresses::Record, cidr::Cidr};

const TABLE: &str = "inet pharos-pods";

/// Replaces the whole table.
pub(crate) fn replace_all<'a>(
    bridge: &str,
    ranges: &[Cidr],
    cluster: &[Cidr],
    records: impl Iterator<Item = &'a Record>,
) -> String {
    let mut script = format!("add table {TABLE}\ndelete table {TABLE}\nadd table {TABLE}\n");
    let mut line = |text: String| {
        script.push_str(&text);
        script.push('\n');
    };
    line(format!("add chain {TABLE} host-ports"));
    for (family, n, address) in [("ip", "4", "ipv4_addr"), ("ip6", "6", "ipv6_addr")] {
        line(format!(
            "add map {TABLE} host-ips{n} {{ type {address} . inet_proto . inet_service : {address} . inet_service ; }}"
        ));
        line(format!("add map {TABLE} host-ports{n} {{ type inet_proto . inet_service : {address} . inet_service ; }}"));
        line(format!("add set {TABLE} hairpin{n} {{ type {address} . {address} ; }}"));
        line(format!(
            "add rule {TABLE} host-ports meta nfproto ipv{n} dnat {family} to {family} daddr . meta l4proto . th dport map @host-ips{n}"
        ));
        line(format!(
            "add rule {TABLE} host-ports meta nfproto ipv{n} dnat {family} to meta l4proto . th dport map @host-ports{n}"
        ));
    }
    // After the service proxy's chains: like the CNI plugin portmap, a Service's port wins over a pod's.
    for hook in ["prerouting", "output"] {
        line(format!("add chain {TABLE} {hook} {{ type nat hook {hook} priority -95 ; }}"));
        line(format!("add rule {TABLE} {hook} fib daddr type local jump host-ports"));
    }
    line(format!("add chain {TABLE} postrouting {{ type nat hook postrouting priority 100 ; }}"));
    // A pod that reaches itself through the node must not answer itself directly.
    line(format!("add rule {TABLE} postrouting ip saddr . ip daddr @hairpin4 masquerade"));
    line(format!("add rule {TABLE} postrouting ip6 saddr . ip6 daddr @hairpin6 masquerade"));
    line(format!("add rule {TABLE} postrouting oifname {bridge:?} ip saddr 127.0.0.0/8 ct status dnat masquerade"));
    for range in ranges {
        let (family, multicast) = if range.is_ipv4() { ("ip", "224.0.0.0/4") } else { ("ip6", "ff00::/8") };
        let inside: BTreeSet<String> = ranges
            .iter()
            .chain(cluster)
            .filter(|c| c.is_ipv4() == range.is_ipv4())
            // Elements of an anonymous interval set must not overlap.
            .filter(|c| !cluster.iter().any(|wider| wider.prefix < c.prefix && wider.contains(c.network())))
            .map(ToString::to_string)
            .collect();
        let inside: Vec<&str> = inside.iter().map(String::as_str).chain([multicast]).collect();
        line(format!(
            "add rule {TABLE} postrouting {family} saddr {range} {family} daddr != {{ {} }} masquerade fully-random",
            inside.join(", ")
        ));
    }
    // route_localnet, which host ports on 127.0.0.1 need, would let pods reach what listens on the node's loopback.
    line(format!("add chain {TABLE} loopback {{ type filter hook prerouting priority -300 ; }}"));
    line(format!("add rule {TABLE} loopback iifname {bridge:?} ip daddr 127.0.0.0/8 drop"));
    script.push_str(&host_ports(records));
    script
}

/// Replaces what the host ports lead to.
pub(crate) fn host_ports<'a>(records: impl Iterator<Item = &'a Record>) -> String {
    // By map and key: two pods can't have one port; the later sandbox of a pod wins over the earlier, dying one.
    let mut elements: BTreeMap<(&str, String), String> = BTreeMap::new();
    for record in records {
        for port in &record.host_ports {
            let protocol = port.protocol.to_ascii_lowercase();
            let host_ip = port.host_ip.filter(|ip| !ip.is_unspecified());
            for ip in &record.ips {
                if host_ip.or(port.host_ip).is_some_and(|host| host.is_ipv4() != ip.is_ipv4()) {
                    continue;
                }
                let (ips, ports, hairpin) = match ip {
                    IpAddr::V4(_) => ("host-ips4", "host-ports4", "hairpin4"),
                    IpAddr::V6(_) => ("host-ips6", "host-ports6", "hairpin6"),
                };
                let target = format!(" : {ip} . {}", port.container_port);
                match host_ip {
                    Some(host) => elements.insert((ips, format!("{host} . {protocol} . {}", port.host_port)), target),
                    None => elements.insert((ports, format!("{protocol} . {}", port.host_port)), target),
                };
                elements.insert((hairpin, format!("{ip} . {ip}")), String::new());
            }
        }
    }
    let mut script = String::new();
    for (kind, name) in ["4", "6"]
        .iter()
        .flat_map(|n| [("map", "host-ips"), ("map", "host-ports"), ("set", "hairpin")].map(|(k, m)| (k, format!("{m}{n}"))))
    {
        let _ = writeln!(script, "flush {kind} {TABLE} {name}");
    }
    for ((name, key), value) in elements {
        let _ = writeln!(script, "add element {TABLE} {name} {{ {key}{value} }}");
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HostPort;

    fn record(ips: &[&str], host_ip: Option<&str>) -> Record {
        Record {
            sandbox_id: "a".into(),
            namespace: "default".into(),
            name: "web".into(),
            uid: "u".into(),
            ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            host_ports: vec![HostPort {
                protocol: "TCP".into(),
                host_ip: host_ip.map(|ip| ip.parse().unwrap()),
                host_port: 80,
                container_port: 8080,
            }],
        }
    }

    fn elements(record: Record) -> Vec<String> {
        host_ports([record].iter())
            .lines()
            .filter_map(|l| l.strip_prefix("add element inet pharos-pods "))
            .map(Into::into)
            .collect()
    }

    #[test]
    fn host_ports_follow_address_and_family() {
        let both = ["10.42.0.2", "fd00::2"];
        assert_eq!(
            elements(record(&both, None)),
            [
                "hairpin4 { 10.42.0.2 . 10.42.0.2 }",
                "hairpin6 { fd00::2 . fd00::2 }",
                "host-ports4 { tcp . 80 : 10.42.0.2 . 8080 }",
                "host-ports6 { tcp . 80 : fd00::2 . 8080 }",
            ]
        );
        assert_eq!(
            elements(record(&both, Some("192.168.1.1"))),
            ["hairpin4 { 10.42.0.2 . 10.42.0.2 }", "host-ips4 { 192.168.1.1 . tcp . 80 : 10.42.0.2 . 8080 }"]
        );
        assert_eq!(
            elements(record(&both, Some("0.0.0.0"))),
            ["hairpin4 { 10.42.0.2 . 10.42.0.2 }", "host-ports4 { tcp . 80 : 10.42.0.2 . 8080 }"]
        );
    }

    #[test]
    fn traffic_inside_the_cluster_keeps_its_source() {
        let script = replace_all("pharos0", &["10.42.3.0/24".parse().unwrap()], &["10.42.0.0/16".parse().unwrap()], [].iter());
        assert!(
            script.contains(
                "postrouting ip saddr 10.42.3.0/24 ip daddr != { 10.42.0.0/16, 224.0.0.0/4 } masquerade fully-random\n"
            ),
            "{script}"
        );
    }
}
