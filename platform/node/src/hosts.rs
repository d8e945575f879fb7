//! A pod's host name, `/etc/hosts` and `/etc/resolv.conf` (`kubelet_pods.go`, `network/dns/dns.go`).

use std::{fmt::Write as _, net::IpAddr};

use k8s_openapi::api::core::v1::Pod;
use pharos_runtime::types::DnsConfig;

use crate::names;

/// The most name servers a resolver reads (`MaxDNSNameservers`).
const MAX_SERVERS: usize = 3;
/// The most search domains and their length together (`MaxDNSSearchPaths`, `MaxDNSSearchListChars`).
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;

/// The pod's host name and its domain, which is empty without a subdomain.
pub(crate) fn hostname(pod: &Pod, cluster_domain: &str) -> (String, String) {
    let spec = pod.spec.as_ref();
    if let Some(name) = spec.and_then(|s| s.hostname_override.clone()).filter(|name| !name.is_empty()) {
        return (name, String::new());
    }
    let name = spec.and_then(|s| s.hostname.as_deref()).filter(|name| !name.is_empty()).unwrap_or(names::name(pod));
    let cut: String = name.chars().take(63).collect();
    let hostname = cut.trim_end_matches(['-', '.']).to_owned();
    let domain = spec
        .and_then(|s| s.subdomain.as_deref())
        .filter(|subdomain| !subdomain.is_empty())
        .map(|subdomain| format!("{subdomain}.{}.svc.{cluster_domain}", names::namespace(pod)))
        .unwrap_or_default();
    (hostname, domain)
}

/// The host name as the kernel is told it: with the domain when the pod wants that.
pub(crate) fn kernel_hostname(pod: &Pod, cluster_domain: &str) -> Result<String, String> {
    let (hostname, domain) = hostname(pod, cluster_domain);
    let as_fqdn = pod.spec.as_ref().and_then(|s| s.set_hostname_as_fqdn).unwrap_or(false);
    if !as_fqdn || domain.is_empty() {
        return Ok(hostname);
    }
    let full = format!("{hostname}.{domain}");
    if full.len() > 64 {
        return Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long (64 characters is the max, {} characters requested)",
            full.len()
        ));
    }
    Ok(full)
}

/// The text of the managed `/etc/hosts`. With the node's network it starts from the node's own file.
pub(crate) fn hosts_file(pod: &Pod, ips: &[IpAddr], cluster_domain: &str, node_file: Option<&str>) -> String {
    let mut text = match node_file {
        Some(file) => format!("# Kubernetes-managed hosts file (host network).\n{file}"),
        None => {
            let mut text = String::from(
                "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
                 fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
            );
            let (hostname, domain) = hostname(pod, cluster_domain);
            for ip in ips {
                let _ = if domain.is_empty() {
                    writeln!(text, "{ip}\t{hostname}")
                } else {
                    writeln!(text, "{ip}\t{hostname}.{domain}\t{hostname}")
                };
            }
            text
        }
    };
    let aliases = pod.spec.as_ref().and_then(|s| s.host_aliases.as_deref()).unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let _ = writeln!(text, "{}\t{}", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t"));
        }
    }
    text
}

/// Reads a `resolv.conf`; search domains of the last `search` or `domain` line count.
pub(crate) fn parse_resolv_conf(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().map(str::to_owned)),
            Some("search" | "domain") => {
                config.searches =
                    words.map(|word| if word == "." { word } else { word.trim_end_matches('.') }.to_owned()).collect();
            }
            Some("options") => config.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    config
}

/// What goes into the pod's `resolv.conf`, and what had to be left out of it.
pub(crate) fn dns(pod: &Pod, node: &DnsConfig, cluster_dns: &[String], cluster_domain: &str) -> (DnsConfig, Vec<String>) {
    let spec = pod.spec.as_ref();
    let host_network = spec.and_then(|s| s.host_network).unwrap_or(false);
    let policy = spec.and_then(|s| s.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let mut config = match policy {
        "None" => DnsConfig::default(),
        "ClusterFirst" if host_network => node.clone(),
        "ClusterFirst" | "ClusterFirstWithHostNet" if !cluster_dns.is_empty() => {
            let namespace = names::namespace(pod);
            let mut searches =
                vec![format!("{namespace}.svc.{cluster_domain}"), format!("svc.{cluster_domain}"), cluster_domain.to_owned()];
            searches.extend(node.searches.iter().cloned());
            DnsConfig { servers: cluster_dns.to_vec(), searches, options: vec!["ndots:5".to_owned()] }
        }
        _ => node.clone(),
    };
    if let Some(own) = spec.and_then(|s| s.dns_config.as_ref()) {
        config.servers.extend(own.nameservers.iter().flatten().cloned());
        config.searches.extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            config.options.retain(|o| o.split(':').next() != Some(name.as_str()));
            config.options.push(match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name,
            });
        }
    }
    dedupe(&mut config.servers);
    dedupe(&mut config.searches);
    let mut left_out = Vec::new();
    if config.servers.len() > MAX_SERVERS {
        config.servers.truncate(MAX_SERVERS);
        left_out.push(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            config.servers.join(" ")
        ));
    }
    let before = config.searches.len();
    config.searches.truncate(MAX_SEARCHES);
    while config.searches.join(" ").len() > MAX_SEARCH_CHARS {
        config.searches.pop();
    }
    if config.searches.len() < before {
        left_out.push(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            config.searches.join(" ")
        ));
    }
    (config, left_out)
}

fn dedupe(list: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec})).unwrap()
    }

    #[test]
    fn host_names() {
        let long = "a".repeat(62) + "-b";
        for (spec, expect) in [
            (json!({"containers": []}), ("p", "")),
            (json!({"containers": [], "hostname": "h", "subdomain": "s"}), ("h", "s.n.svc.cluster.local")),
            (json!({"containers": [], "hostname": long}), (&long[..62], "")),
        ] {
            let (hostname, domain) = hostname(&pod(spec), "cluster.local");
            assert_eq!((hostname.as_str(), domain.as_str()), expect);
        }
        let fqdn = pod(json!({"containers": [], "hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true}));
        assert_eq!(kernel_hostname(&fqdn, "cluster.local").unwrap(), "h.s.n.svc.cluster.local");
        let long = pod(json!({"containers": [], "hostname": "h".repeat(60), "subdomain": "s", "setHostnameAsFQDN": true}));
        assert!(kernel_hostname(&long, "cluster.local").is_err());
    }

    #[test]
    fn hosts_with_aliases() {
        let pod = pod(json!({"containers": [], "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}));
        let text = hosts_file(&pod, &[[10, 42, 0, 2].into()], "cluster.local", None);
        assert!(text.contains("10.42.0.2\tp\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"), "{text}");
        let text = hosts_file(&pod, &[], "cluster.local", Some("127.0.0.1\tlocalhost\n"));
        assert!(text.starts_with("# Kubernetes-managed hosts file (host network).\n127.0.0.1\tlocalhost\n\n# Entries"), "{text}");
    }

    #[test]
    fn dns_policies() {
        let node = parse_resolv_conf("# comment\nnameserver 1.1.1.1\nsearch example.com.\noptions edns0\n");
        let check = |spec: serde_json::Value, servers: &str, searches: &str, options: &str| {
            let (config, _) = dns(&pod(spec.clone()), &node, &["10.43.0.10".to_owned()], "cluster.local");
            assert_eq!(
                (config.servers.join(" ").as_str(), config.searches.join(" ").as_str(), config.options.join(" ").as_str()),
                (servers, searches, options),
                "{spec}"
            );
        };
        let cluster = "n.svc.cluster.local svc.cluster.local cluster.local example.com";
        check(json!({"containers": []}), "10.43.0.10", cluster, "ndots:5");
        check(json!({"containers": [], "hostNetwork": true}), "1.1.1.1", "example.com", "edns0");
        check(
            json!({"containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}),
            "10.43.0.10",
            cluster,
            "ndots:5",
        );
        check(json!({"containers": [], "dnsPolicy": "Default"}), "1.1.1.1", "example.com", "edns0");
        check(
            json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["9.9.9.9"], "searches": ["x"], "options": [{"name": "ndots", "value": "2"}, {"name": "rotate"}]}}),
            "9.9.9.9",
            "x",
            "ndots:2 rotate",
        );
        check(
            json!({"containers": [], "dnsConfig": {"nameservers": ["1", "2", "3"], "options": [{"name": "ndots", "value": "1"}]}}),
            "10.43.0.10 1 2",
            cluster,
            "ndots:1",
        );
    }
}
