use std::{sync::Arc, time::Duration};

/// Signs the token of a ServiceAccount for a Secret: namespace, account's name and UID, Secret's name and UID.
pub type SignToken =
    Arc<dyn Fn(&str, &str, &str, &str, &str) -> Result<String, Box<dyn std::error::Error + Send + Sync>> + Send + Sync>;

/// Signs a request for a certificate, PEM, with the cluster's CA: the request, what its certificate may be used for, how long it
/// is valid. Gives the certificate, PEM.
pub type SignCertificate =
    Arc<dyn Fn(&str, &[String], Duration) -> Result<String, Box<dyn std::error::Error + Send + Sync>> + Send + Sync>;

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
    /// Signs approved CertificateSigningRequests. Without it they get no certificates.
    pub sign_certificate: Option<SignCertificate>,
    /// How long such a certificate is valid, at most. Default a year.
    pub cluster_signing_duration: Duration,
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
            sign_certificate: None,
            cluster_signing_duration: Duration::from_secs(365 * 24 * 3600),
            node_monitor_grace_period: Duration::from_secs(50),
            terminated_pod_gc_threshold: 12_500,
        }
    }
}
