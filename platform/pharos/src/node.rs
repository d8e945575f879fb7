//! What a server and an agent both start on their machine: the node.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
};

use anyhow::Context as _;
use pharos_dns::Dns;
use pharos_logging::LogShipper;
use pharos_metrics::NodeCollector;
use pharos_network::{Backend, BridgeConfig, BridgeNetwork, PodRoutes, ProxyConfig, RoutesConfig, ServiceProxy};
use pharos_node::{Components, Config, Kubelet, ServerTls};
use pharos_runtime::{Docker, DockerConfig, Embedded, EmbeddedConfig, Runtime};
use pharos_telemetry::{Component as _, Registries, Supervisor};
use pharos_transport::pki::Identity;
use rustls::RootCertStore;

use crate::{agent::Renewal, cli::NodeOptions, files::Layout, image_socket::ImageSocket, join::Cluster};

/// What runs on a node beside its kubelet, which serves the metrics of it to the server's collector.
pub const COMPONENTS: [&str; 8] =
    ["pharos", ServiceProxy::NAME, Dns::NAME, PodRoutes::NAME, ImageSocket::NAME, Renewal::NAME, LogShipper::NAME, NODE_EXPORTER];
/// The machine itself.
const NODE_EXPORTER: &str = "node-exporter";

/// This node's name: as asked for, or the host's, in lower case as node names are.
pub fn name(options: &NodeOptions) -> anyhow::Result<String> {
    let name = match &options.node_name {
        Some(name) => name.clone(),
        None => nix::unistd::gethostname().context("read the host name")?.to_string_lossy().to_lowercase(),
    };
    let mistakes = pharos_api::names::dns1123_subdomain(&name);
    anyhow::ensure!(mistakes.is_empty(), "node name {name:?}: {}", mistakes.join("; "));
    Ok(name)
}

/// What is senseless about the options of a node.
pub fn mistakes(options: &NodeOptions) -> Vec<String> {
    let mut mistakes: Vec<String> = options.node_taint.iter().filter_map(|text| taint(text).err()).collect();
    let mut taints: Vec<(&str, &str)> = options.node_taint.iter().filter_map(|text| taint(text).ok()).collect();
    taints.sort_unstable();
    for pair in taints.windows(2).filter(|pair| pair[0] == pair[1]) {
        mistakes.push(format!("--node-taint: {} with effect {} is given twice", pair[0].0, pair[0].1));
    }
    if let Err(error) = labels(&options.node_label) {
        mistakes.push(error.to_string());
    }
    if let Err(error) = crate::logging::filter(&options.log_level) {
        mistakes.push(format!("{error:#}"));
    }
    if !(0.0..=1.0).contains(&options.otlp_sampling) {
        mistakes.push(format!("--otlp-sampling {}: not from 0 to 1", options.otlp_sampling));
    }
    mistakes
}

/// The key and the effect of a taint that the kubelet takes (`ParseTaints` in `pkg/util/taints`), or what is wrong with it.
fn taint(text: &str) -> Result<(&str, &str), String> {
    let wrong = |why: &str| Err(format!("--node-taint {text}: {why}"));
    let Some((left, effect)) = text.split_once(':') else { return wrong("not written KEY=VALUE:EFFECT or KEY:EFFECT") };
    if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
        return wrong("unsupported taint effect: there are NoSchedule, PreferNoSchedule and NoExecute");
    }
    let (key, value) = left.split_once('=').unwrap_or((left, ""));
    if value.contains('=') {
        return wrong("not written KEY=VALUE:EFFECT or KEY:EFFECT");
    }
    let mut mistakes = pharos_api::names::qualified_name(key);
    mistakes.extend(pharos_api::names::label_value(value));
    if mistakes.is_empty() { Ok((key, effect)) } else { wrong(&mistakes.join("; ")) }
}

/// This node's address: as asked for, or the one that packets to the outside would carry.
pub fn address(options: &NodeOptions) -> anyhow::Result<IpAddr> {
    if let Some(address) = options.node_ip {
        return Ok(address);
    }
    // Connecting a datagram socket sends nothing; the kernel only chooses the route.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("open a socket")?;
    let outside = SocketAddr::from(([192, 0, 2, 1], 9));
    let chosen = socket.connect(outside).and_then(|()| socket.local_addr());
    let chosen = chosen.context("this machine has no default route: say with --node-ip which address other nodes reach it at")?;
    Ok(chosen.ip())
}

/// What the node of a machine is started with.
pub struct Machine<'a> {
    pub options: &'a NodeOptions,
    pub name: String,
    pub address: IpAddr,
    pub cluster: Cluster,
    /// Acts as `system:node:NAME`.
    pub client: kube::Client,
    /// Acts as the cluster DNS; `None`: not here.
    pub dns: Option<kube::Client>,
    /// Acts as the service proxy; `None`: not here.
    pub proxy: Option<kube::Client>,
    /// The kubelet's serving certificate.
    pub serving: Arc<Identity>,
    /// The CA of those who may ask the kubelet.
    pub client_roots: Arc<RootCertStore>,
}

/// Starts runtime, service proxy, DNS, pod network and kubelet, in this order.
pub async fn start(machine: Machine<'_>, registries: &Registries, supervisor: &mut Supervisor) -> anyhow::Result<()> {
    let layout = Layout(machine.options.data_dir.clone());
    let runtime = runtime(machine.options, &layout).await?;
    supervisor.start(ImageSocket { path: layout.image_socket()?, runtime: runtime.clone() }).await?;

    if let Some(client) = machine.proxy {
        let cluster_cidrs = machine.cluster.cluster_cidr.split(',').map(str::to_owned).collect();
        let config = ProxyConfig {
            node_name: machine.name.clone(),
            cluster_cidrs,
            node_port_addresses: machine.options.nodeport_addresses.clone(),
            ..ProxyConfig::default()
        };
        crate::server::build_info(registries, "kube-proxy")?;
        supervisor.launch(ServiceProxy::new(&config, client, &registries.of("kube-proxy"))?)?;
    }
    if let Some(client) = machine.dns {
        let mut forward = pharos_dns::Forward::default();
        if let Some(file) = &machine.options.resolv_conf {
            forward.resolv_conf = file.clone();
        }
        let networks = [&machine.cluster.cluster_cidr, &machine.cluster.service_cidr];
        let config = pharos_dns::Config {
            cluster_domain: machine.cluster.cluster_domain.clone(),
            cluster_cidrs: networks.iter().flat_map(|n| n.split(',')).map(str::to_owned).collect(),
            cluster_dns: vec![machine.cluster.cluster_dns],
            forward,
            ..pharos_dns::Config::default()
        };
        supervisor.launch(Dns::new(config, client, &registries.of("coredns"))?)?;
    }

    let config = RoutesConfig { node_name: machine.name.clone(), backend: Backend::default() };
    supervisor.launch(PodRoutes::new(config, machine.client.clone(), &registries.of(PodRoutes::NAME))?)?;
    let cidrs = machine.cluster.cluster_cidr.split(',').map(str::parse).collect::<Result<Vec<_>, _>>()?;
    let network = Arc::new(BridgeNetwork::new(BridgeConfig::new(layout.network(), cidrs)));

    let config = Config {
        node_name: machine.name.clone(),
        node_ips: vec![machine.address],
        node_labels: labels(&machine.options.node_label)?,
        register_with_taints: machine.options.node_taint.clone(),
        root_dir: layout.kubelet(),
        pod_log_dir: layout.pod_logs(),
        port: machine.options.kubelet_port,
        cluster_dns: vec![machine.cluster.cluster_dns.to_string()],
        cluster_domain: machine.cluster.cluster_domain.clone(),
        resolv_conf: machine.options.resolv_conf.clone(),
        ..Config::default()
    };
    let tls = ServerTls { certificate: machine.serving, client_roots: machine.client_roots };
    let kubelet = Kubelet::new(config, machine.client, runtime, network, Some(tls), &registries.of("kubelet"))?;
    supervisor.launch(kubelet.with_components(components(&machine.name, registries)))?;
    Ok(())
}

/// The metrics of [`COMPONENTS`], and of nothing else: who may ask a kubelet need not be allowed to ask the API server.
fn components(node: &str, registries: &Registries) -> Components {
    let (machine, registries) = (NodeCollector::new(node.to_owned()), registries.clone());
    Arc::new(move |name: &str| match name {
        NODE_EXPORTER => Some(Ok(machine.page())),
        name => COMPONENTS.contains(&name).then(|| registries.encode(name)).flatten(),
    })
}

async fn runtime(options: &NodeOptions, layout: &Layout) -> anyhow::Result<Arc<dyn Runtime>> {
    let state = layout.run()?;
    crate::files::private_folder(&state)?;
    let link = layout.0.join("agent/run");
    if std::fs::read_link(&link).ok().as_deref() != Some(&state) {
        std::fs::create_dir_all(layout.0.join("agent"))?;
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(&state, &link).with_context(|| format!("link {}", link.display()))?;
    }
    match options.runtime {
        crate::cli::Runtime::Embedded => {
            let endpoint = &options.container_runtime_endpoint;
            anyhow::ensure!(
                endpoint.is_none(),
                "--container-runtime-endpoint: the embedded runtime has none; say --runtime docker"
            );
            let config = EmbeddedConfig {
                root: layout.runtime(),
                state,
                insecure_registries: options.insecure_registry.clone(),
                ..EmbeddedConfig::default()
            };
            let runtime = Embedded::open(config).await.context("open the container runtime")?;
            Ok(Arc::new(runtime))
        }
        crate::cli::Runtime::Docker => {
            let mut config = DockerConfig { state, ..DockerConfig::default() };
            if let Some(endpoint) = &options.container_runtime_endpoint {
                config.socket = endpoint.strip_prefix("unix://").unwrap_or(endpoint).into();
            }
            let runtime = Docker::open(config).await.context("reach the Docker Engine")?;
            Ok(Arc::new(runtime))
        }
    }
}

/// Reads KEY=VALUE pairs.
fn labels(pairs: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let read = |pair: &String| {
        let (key, value) = pair.split_once('=').with_context(|| format!("--node-label {pair}: not written KEY=VALUE"))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    pairs.iter().map(read).collect()
}
