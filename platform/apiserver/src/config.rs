//! What the API server can be told.

use std::{net::IpAddr, ops::RangeInclusive, sync::Arc, time::Duration};

use pharos_transport::pki::Identity;

use crate::{admission::pod_security, audit, authz};

/// Settings of the API server, with kube-apiserver's names and defaults where it has them.
#[derive(Debug, Clone)]
pub struct Config {
    /// The commit that the binary was built from, as `/version` tells it. Default empty: unknown.
    pub git_commit: &'static str,
    /// The Service networks in CIDR notation, one or two (IPv4 and IPv6), the primary first. Default `10.43.0.0/16`.
    pub service_cluster_ip_range: Vec<String>,
    /// The ports Services of type NodePort get. Default 30000–32767.
    pub service_node_port_range: RangeInclusive<u16>,
    /// The address published as the endpoint of the `kubernetes` Service. Default 127.0.0.1.
    pub advertise_address: IpAddr,
    /// The port published as the endpoint of the `kubernetes` Service. Default 6443.
    pub secure_port: u16,
    /// The certificate of the cluster's CA, PEM; published in `extension-apiserver-authentication`; nothing is
    /// published if it is empty.
    pub client_ca_pem: String,
    /// The certificate of the CA that `front_proxy` comes from, PEM; published in `extension-apiserver-authentication` too.
    pub front_proxy_ca_pem: String,
    /// The client certificate shown to extension API servers, named `front-proxy-client`, by which they believe the
    /// `X-Remote-*` headers of what is carried to them. Without it they are asked, and refuse.
    pub front_proxy: Option<Arc<Identity>>,
    /// How to speak TLS to kubelets: the roots their certificates come from, and the API server's client certificate.
    /// Without it, logs, exec and their like answer 503.
    pub kubelet_tls: Option<Arc<rustls::ClientConfig>>,
    /// How long a request that is not long-running may take. Default 60 s.
    pub request_timeout: Duration,
    /// The shortest time a watch without `timeoutSeconds` stays open; the longest is twice that. Default 30 min.
    pub min_request_timeout: Duration,
    /// Together with the next, the seats that priority levels share: about how many requests from outside are served at
    /// once. Default 400.
    pub max_requests_inflight: usize,
    /// See above; reads and writes share the sum. Default 200.
    pub max_mutating_requests_inflight: usize,
    /// Which authorizers are asked. Default: Node, then RBAC.
    pub authorization: Option<Arc<authz::Chain>>,
    /// What is written down of requests, and where. Default: nothing.
    pub audit: audit::Options,
    /// How long Events are kept. Default 1 h.
    pub event_ttl: Duration,
    /// What PodSecurity does without labels, and whom it leaves alone. Default: nothing, nobody.
    pub pod_security: pod_security::Configuration,
    /// Seconds a pod tolerates `not-ready` and `unreachable` when it says nothing. Default 300.
    pub default_toleration_seconds: i64,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            git_commit: "",
            service_cluster_ip_range: vec!["10.43.0.0/16".into()],
            service_node_port_range: 30_000..=32_767,
            advertise_address: IpAddr::from([127, 0, 0, 1]),
            secure_port: 6443,
            client_ca_pem: String::new(),
            front_proxy_ca_pem: String::new(),
            front_proxy: None,
            kubelet_tls: None,
            request_timeout: Duration::from_secs(60),
            min_request_timeout: Duration::from_secs(1800),
            max_requests_inflight: 400,
            max_mutating_requests_inflight: 200,
            authorization: None,
            audit: audit::Options::default(),
            event_ttl: Duration::from_secs(3600),
            pod_security: pod_security::Configuration::default(),
            default_toleration_seconds: 300,
        }
    }
}
