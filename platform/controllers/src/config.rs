use std::{sync::Arc, time::Duration};

/// Signs the token of a ServiceAccount for a Secret: namespace, account's name and UID, Secret's name and UID.
pub type SignToken =
    Arc<dyn Fn(&str, &str, &str, &str, &str) -> Result<String, Box<dyn std::error::Error + Send + Sync>> + Send + Sync>;

/// What can be set. Names and defaults are kube-controller-manager's flags.
#[derive(Clone)]
pub struct Config {
    /// Networks that pod networks of nodes are cut from, at most one IPv4 and one IPv6, such as `10.42.0.0/16`.
    pub cluster_cidr: Vec<String>,
    /// Prefix length of a node's IPv4 pod network. Default 24.
    pub node_cidr_mask_size_ipv4: u8,
    /// Prefix length of a node's IPv6 pod network. Default 64.
    pub node_cidr_mask_size_ipv6: u8,
    /// The CA that pods verify the API server with, in PEM; published as `kube-root-ca.crt`.
    pub root_ca_pem: String,
    /// Signs tokens for Secrets of type `kubernetes.io/service-account-token`. Without it they stay empty.
    pub sign_token: Option<SignToken>,
    /// How long a node may be silent before it counts as unreachable. Default 50 s.
    pub node_monitor_grace_period: Duration,
    /// How many ended pods are kept; above it the oldest are deleted. 0 keeps all. Default 12500.
    pub terminated_pod_gc_threshold: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster_cidr: vec!["10.42.0.0/16".into()],
            node_cidr_mask_size_ipv4: 24,
            node_cidr_mask_size_ipv6: 64,
            root_ca_pem: String::new(),
            sign_token: None,
            node_monitor_grace_period: Duration::from_secs(50),
            terminated_pod_gc_threshold: 12_500,
        }
    }
}
