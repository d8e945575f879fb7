use std::{net::SocketAddr, time::Duration};

use serde::Deserialize;

use crate::{
    cidr::Cidr,
    error::{Error, Result},
};

/// How Services are implemented. Names follow kube-proxy's `mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyMode {
    /// nftables.
    #[default]
    Nftables,
    /// iptables; not supported.
    Iptables,
    /// IPVS; not supported.
    Ipvs,
}

/// Settings of [`crate::ServiceProxy`]. Names follow `KubeProxyConfiguration` where it has them.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ProxyConfig {
    /// This node's name: tells which endpoints are local.
    pub node_name: String,
    /// Default `nftables`; no other mode is supported.
    pub mode: ProxyMode,
    /// The ranges of all pods, to tell traffic of pods from that of others. Empty: nothing is told apart.
    #[serde(rename = "clusterCIDRs")]
    pub cluster_cidrs: Vec<String>,
    /// Whether all traffic to cluster IPs gets the node's source address. Default `false`.
    pub masquerade_all: bool,
    /// Where node ports are: `primary`, the Node's own addresses, or ranges of addresses such as `192.168.0.0/16`; `0.0.0.0/0`
    /// and `::/0` are all. Never on loopback. Default `primary`, as kube-proxy's in this mode.
    pub node_port_addresses: Vec<String>,
    /// Where `/healthz` and `/livez` are served to load balancers; an unspecified address is that of node ports, empty is
    /// nowhere. Default `0.0.0.0:10256`.
    pub healthz_bind_address: String,
    /// Least seconds between two transactions once two have followed each other at once. Default 0.25; 0 means at once.
    pub min_sync_period_seconds: f64,
}

/// Checked settings.
#[derive(Clone, Debug)]
pub(super) struct Checked {
    pub(super) node_name: String,
    pub(super) cluster_cidrs: Vec<Cidr>,
    pub(super) masquerade_all: bool,
    pub(super) node_port_addresses: NodePortAddresses,
    pub(super) healthz: Option<SocketAddr>,
    pub(super) min_sync_period: Duration,
}

/// Which of the node's addresses have node ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NodePortAddresses {
    /// Those that its Node tells.
    Primary,
    /// Those in ranges.
    Ranges(Vec<Cidr>),
}

// === impl ProxyConfig ===

impl Default for ProxyConfig {
    fn default() -> Self {
        Self {
            node_name: String::new(),
            mode: ProxyMode::default(),
            cluster_cidrs: Vec::new(),
            masquerade_all: false,
            node_port_addresses: vec!["primary".to_owned()],
            healthz_bind_address: "0.0.0.0:10256".to_owned(),
            min_sync_period_seconds: 0.25,
        }
    }
}

impl ProxyConfig {
    pub(super) fn check(&self) -> Result<Checked> {
        let mut mistakes = Vec::new();
        if self.mode != ProxyMode::Nftables {
            mistakes.push(format!("mode: {:?} is not supported, only nftables is", self.mode).to_lowercase());
        }
        if self.node_name.is_empty() {
            mistakes.push("nodeName: required".to_owned());
        }
        let mut cluster_cidrs = Vec::new();
        for text in &self.cluster_cidrs {
            match text.parse() {
                Ok(range) => cluster_cidrs.push(range),
                Err(error) => mistakes.push(format!("clusterCIDRs: {error}")),
            }
        }
        let node_port_addresses = match self.node_port_addresses.as_slice() {
            [] => NodePortAddresses::Primary,
            [one] if one == "primary" => NodePortAddresses::Primary,
            texts => {
                let mut ranges = Vec::new();
                for text in texts {
                    match text.parse() {
                        Ok(range) => ranges.push(range),
                        Err(_) if text == "primary" => {
                            mistakes.push("nodePortAddresses: `primary` stands alone".to_owned());
                        }
                        Err(error) => mistakes.push(format!("nodePortAddresses: {error}")),
                    }
                }
                NodePortAddresses::Ranges(ranges)
            }
        };
        let healthz = match self.healthz_bind_address.as_str() {
            "" => None,
            text => match text.parse() {
                Ok(address) => Some(address),
                Err(_) => {
                    mistakes.push(format!("healthzBindAddress: {text:?} is not written ADDRESS:PORT"));
                    None
                }
            },
        };
        let period = Duration::try_from_secs_f64(self.min_sync_period_seconds);
        if !period.as_ref().is_ok_and(|p| *p <= Duration::from_secs(3600)) {
            mistakes.push(format!("minSyncPeriodSeconds: {} is not between 0 and 3600", self.min_sync_period_seconds));
        }
        if !mistakes.is_empty() {
            return Err(Error::Invalid(mistakes.join("; ")));
        }
        Ok(Checked {
            node_name: self.node_name.clone(),
            cluster_cidrs,
            masquerade_all: self.masquerade_all,
            node_port_addresses,
            healthz,
            min_sync_period: period.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_told_together() {
        let config = ProxyConfig {
            mode: ProxyMode::Ipvs,
            cluster_cidrs: vec!["x".into()],
            min_sync_period_seconds: -1.0,
            ..ProxyConfig::default()
        };
        assert_eq!(
            config.check().unwrap_err().to_string(),
            "mode: ipvs is not supported, only nftables is; nodeName: required; clusterCIDRs: \"x\" is not a range of addresses \
             such as 10.42.0.0/24; minSyncPeriodSeconds: -1 is not between 0 and 3600"
        );
        let config = ProxyConfig {
            node_name: "n".into(),
            node_port_addresses: vec!["primary".into(), "10.0.0.0/8".into(), "y".into()],
            healthz_bind_address: "10256".into(),
            ..ProxyConfig::default()
        };
        assert_eq!(
            config.check().unwrap_err().to_string(),
            "nodePortAddresses: `primary` stands alone; nodePortAddresses: \"y\" is not a range of addresses such as \
             10.42.0.0/24; healthzBindAddress: \"10256\" is not written ADDRESS:PORT"
        );
        assert!(ProxyConfig { node_name: "n".into(), ..ProxyConfig::default() }.check().is_ok());
    }
}
