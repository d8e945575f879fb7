use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use serde::Deserialize;

use crate::{
    Error, Result,
    cidr::Cidr,
    name::{self, WireName},
};

/// What can be set of cluster DNS.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Config {
    /// The zone of cluster names. Default `cluster.local`.
    pub cluster_domain: String,
    /// The networks of Services and pods: their reverse zones are answered here and never forwarded. Default none.
    pub cluster_cidrs: Vec<String>,
    /// Addresses that are put on a dummy interface `pharos-dns` of this node and served on `port`. Default none.
    pub cluster_dns: Vec<IpAddr>,
    /// The port at `cluster_dns`. Default 53.
    pub port: u16,
    /// Further addresses to serve on, for instance `127.0.0.1:5353`; these must exist already. Default none.
    pub listen: Vec<SocketAddr>,
    /// Whether pods have names. Default `insecure`.
    pub pods: Pods,
    /// Seconds that clients may keep an answer about the cluster: 0 to 3600. Default 5.
    pub ttl: u32,
    /// UDP sockets for each address, sharing its port. 0: one for each CPU. Default 0.
    pub sockets: usize,
    /// The largest answer over UDP in bytes, whatever the client can take: 512 to 4096. Default 1232.
    pub max_udp_response_bytes: u16,
    /// TCP connections open at once; more are closed at once. Default 1024.
    pub max_tcp_connections: usize,
    /// Where other names are asked for.
    pub forward: Forward,
    /// What of that is kept.
    pub cache: Cache,
}

/// CoreDNS' option `pods`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Pods {
    /// Pods have no names.
    Disabled,
    /// `a-b-c-d.<namespace>.pod.<zone>` answers a.b.c.d, whether there is such a pod or not.
    Insecure,
    /// It answers if a pod of the namespace has that address. Costs a watch of all pods.
    Verified,
}

/// CoreDNS' plugin `forward`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Forward {
    /// The file that names the resolvers, watched for change. Default `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// Resolvers to use instead of those of the file, at most 15. Default none.
    pub servers: Vec<SocketAddr>,
    /// Queries under way at once; more are refused. Default 1000.
    pub max_concurrent: usize,
}

/// CoreDNS' plugin `cache`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Cache {
    /// The longest a positive answer is kept, in seconds. Default 30.
    pub success_seconds: u32,
    /// The longest a negative answer is kept, in seconds. Default 30.
    pub denial_seconds: u32,
    /// Answers of each of the two sorts that are kept. 0: nothing is cached. Default 9984.
    pub capacity: usize,
}

/// The configuration, checked.
#[derive(Debug)]
pub(crate) struct Settings {
    pub zone: WireName,
    pub cidrs: Vec<Cidr>,
    pub listen: Vec<SocketAddr>,
    pub claim: Vec<IpAddr>,
    pub pods: Pods,
    pub ttl: u32,
    pub sockets: usize,
    pub max_udp_response_bytes: usize,
    pub max_tcp_connections: usize,
    pub forward: Forward,
    pub cache: Cache,
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster_domain: "cluster.local".to_owned(),
            cluster_cidrs: Vec::new(),
            cluster_dns: Vec::new(),
            port: 53,
            listen: Vec::new(),
            pods: Pods::Insecure,
            ttl: 5,
            sockets: 0,
            max_udp_response_bytes: 1232,
            max_tcp_connections: 1024,
            forward: Forward::default(),
            cache: Cache::default(),
        }
    }
}

impl Default for Forward {
    fn default() -> Self {
        Self { resolv_conf: PathBuf::from("/etc/resolv.conf"), servers: Vec::new(), max_concurrent: 1000 }
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self { success_seconds: 30, denial_seconds: 30, capacity: 9984 }
    }
}

impl Config {
    pub(crate) fn check(&self) -> Result<Settings> {
        let mut mistakes = Vec::new();
        let zone = name::parse(&self.cluster_domain).unwrap_or_else(|why| {
            mistakes.push(format!("clusterDomain: {why}"));
            WireName::root()
        });
        if zone.is_root() && mistakes.is_empty() {
            mistakes.push("clusterDomain: must not be the root".to_owned());
        }
        let mut cidrs = Vec::new();
        for text in &self.cluster_cidrs {
            match text.parse() {
                Ok(cidr) => cidrs.push(cidr),
                Err(why) => mistakes.push(format!("clusterCidrs: {text}: {why}")),
            }
        }
        if self.ttl > 3600 {
            mistakes.push("ttl: must be in the range 0 to 3600".to_owned());
        }
        if !(512..=4096).contains(&self.max_udp_response_bytes) {
            mistakes.push("maxUdpResponseBytes: must be in the range 512 to 4096".to_owned());
        }
        if self.forward.servers.len() > 15 {
            mistakes.push("forward.servers: more than 15".to_owned());
        }
        if self.max_tcp_connections == 0 || self.forward.max_concurrent == 0 {
            mistakes.push("maxTcpConnections, forward.maxConcurrent: must be positive".to_owned());
        }
        let listen: Vec<_> =
            self.cluster_dns.iter().map(|ip| SocketAddr::new(*ip, self.port)).chain(self.listen.iter().copied()).collect();
        if listen.is_empty() {
            mistakes.push("clusterDns, listen: no address to serve on".to_owned());
        }
        if !mistakes.is_empty() {
            return Err(Error::Config(mistakes.join("; ")));
        }
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Settings {
            zone,
            cidrs,
            listen,
            claim: self.cluster_dns.clone(),
            pods: self.pods,
            ttl: self.ttl,
            sockets: if self.sockets == 0 { cpus } else { self.sockets },
            max_udp_response_bytes: usize::from(self.max_udp_response_bytes),
            max_tcp_connections: self.max_tcp_connections,
            forward: self.forward.clone(),
            cache: self.cache.clone(),
        })
    }
}

impl Settings {
    /// The addresses that name servers of the cluster zone have: those that are not wildcards.
    pub(crate) fn own_addresses(&self) -> Vec<IpAddr> {
        let mut own: Vec<IpAddr> = self.listen.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified()).collect();
        if own.is_empty() {
            own.push(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        own.sort_unstable();
        own.dedup();
        own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_mistakes_are_told_together() {
        let config =
            Config { cluster_domain: "a..b".into(), cluster_cidrs: vec!["10.0.0.0/33".into()], ttl: 3601, ..Config::default() };
        let text = config.check().unwrap_err().to_string();
        for part in ["clusterDomain", "10.0.0.0/33", "ttl", "no address"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn unknown_fields_are_mistakes() {
        let text = serde_json::from_str::<Config>(r#"{"ttl": 5, "stubDomains": {}}"#).unwrap_err().to_string();
        assert!(text.contains("stubDomains"), "{text}");
    }
}
