//! `pharos server`: which components make a server, in which order they start, and what each is given.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    sync::Arc,
};

use anyhow::Context as _;
use pharos_apiserver::{
    Api, Parts,
    authn::{
        self, UserInfo,
        issuer::{self, TokenIssuer},
        jws,
    },
};
use pharos_controllers::Controllers;
use pharos_network::Cidr;
use pharos_scheduler::Scheduler;
use pharos_telemetry::{Clock, Component as _, Register as _, Registries, Supervisor, health::Health, logs::Writer};
use pharos_transport::pki::{self, Ca, Identity, Subject, Template, Usage};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    admin::AdminKubeconfig,
    admission_config,
    cli::{Part, ServerOptions},
    datastore,
    door::Door,
    files::{self, Layout},
    join::{self, Cluster, Join},
    logging, node,
    tracing_config::Tracing,
};

/// Runs a server until it is told to stop.
pub async fn run(options: ServerOptions) -> anyhow::Result<()> {
    let plan = Plan::check(options)?;
    let registries = Registries::default();
    let logging::Outputs { records, audit, traces } = logging::init(&plan.options.node, &registries, &plan.node)?;
    let health = Health::default();
    let mut supervisor = Supervisor::new(registries.clone(), health.clone(), Clock::system());
    process_metrics(&registries, "pharos")?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), node = plan.node, "starting");

    let keys = Keys::load(&plan)?;
    // Without an index nobody would read the queue.
    let index = plan.runs(Part::Logging).then_some(audit);
    let api = start_api(&plan, &keys, &registries, &health, index, &mut supervisor).await?;
    let clients = Clients(api.clone());
    let admin = clients.of(UserInfo::new("pharos", ["system:masters"]), "pharos");
    join::publish(&admin, keys.ca.certificate_pem(), &plan.url(plan.advertise)).await?;
    let kubeconfig = AdminKubeconfig {
        identity: keys.admin.clone(),
        ca: keys.ca.certificate_pem().to_owned(),
        server: plan.url(plan.local()),
        path: plan.options.write_kubeconfig.clone(),
        mode: plan.kubeconfig_mode,
    };
    // A place that cannot be written to ends the start.
    kubeconfig.write()?;
    supervisor.launch(kubeconfig)?;

    let runs = |part| plan.runs(part);
    if runs(Part::Controllers) {
        build_info(&registries, Controllers::NAME)?;
        start_controllers(&plan, &keys, &clients, &registries, &mut supervisor).await?;
    }
    if runs(Part::Scheduler) {
        build_info(&registries, "kube-scheduler")?;
        let client = clients.of(UserInfo::new("system:kube-scheduler", ["system:authenticated"]), "kube-scheduler");
        supervisor.launch(Scheduler::new(client, &registries.of("kube-scheduler"))?)?;
    }
    crate::observe::start(&plan, &keys, &clients, &api, &registries, records, &mut supervisor).await?;
    if runs(Part::Dns) {
        publish_dns(&admin, &plan.cluster).await?;
    }
    if runs(Part::Agent) {
        let kubelet = UserInfo::new(format!("system:node:{}", plan.node), ["system:nodes", "system:authenticated"]);
        let proxy = UserInfo::new("system:kube-proxy", ["system:authenticated"]);
        let machine = node::Machine {
            options: &plan.options.node,
            name: plan.node.clone(),
            address: plan.address,
            cluster: plan.cluster.clone(),
            client: clients.of(kubelet, "kubelet"),
            dns: runs(Part::Dns).then(|| clients.service_account("kube-system", "coredns", "coredns")),
            proxy: runs(Part::Proxy).then(|| clients.of(proxy, "kube-proxy")),
            serving: keys.kubelet.clone(),
            client_roots: keys.ca.roots(),
        };
        node::start(machine, &registries, &mut supervisor).await?;
    }
    tracing::info!(kubeconfig = %plan.options.write_kubeconfig.display(), "running");

    wait_for_signal().await?;
    tracing::info!("stopping");
    supervisor.stop().await;
    if let Some(traces) = traces {
        traces.shutdown();
    }
    Ok(())
}

/// Adds what the kernel tells of this process to the metrics of a component.
pub fn process_metrics(registries: &Registries, component: &str) -> anyhow::Result<()> {
    let process = prometheus::process_collector::ProcessCollector::for_self();
    registries.of(component).register(Box::new(process)).context("register process metrics")
}

/// Adds what a component was built from to its metrics, as upstream's components tell it (`component-base/version`).
pub fn build_info(registries: &Registries, component: &str) -> anyhow::Result<()> {
    const LABELS: [(&str, &str); 9] = [
        ("major", "major"),
        ("minor", "minor"),
        ("git_version", "gitVersion"),
        ("git_commit", "gitCommit"),
        ("git_tree_state", "gitTreeState"),
        ("build_date", "buildDate"),
        ("go_version", "goVersion"),
        ("compiler", "compiler"),
        ("platform", "platform"),
    ];
    let version = pharos_apiserver::version(option_env!("PHAROS_COMMIT").unwrap_or_default());
    let info: prometheus::IntGaugeVec = registries.of(component).gauges(
        "kubernetes_build_info",
        "A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.",
        &LABELS.map(|(label, _)| label),
    )?;
    info.with_label_values(&LABELS.map(|(_, field)| version[field].as_str().unwrap_or_default())).set(1);
    Ok(())
}

/// What the API server's `/metrics` shows: its own metrics, and upstream's names of what is measured of its store.
fn exposition(registries: &Registries) -> Result<String, prometheus::Error> {
    let mut families = registries.of("apiserver").gather();
    let stored = registries.of("store").gather();
    let is_upstreams = |name: &str| name.starts_with("apiserver_") || name.starts_with("etcd_");
    families.extend(stored.into_iter().filter(|family| is_upstreams(family.name())));
    prometheus::TextEncoder::new().encode_to_string(&families)
}

/// Waits for SIGTERM or SIGINT.
pub async fn wait_for_signal() -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// The options, checked and completed.
pub struct Plan {
    pub options: ServerOptions,
    pub layout: Layout,
    pub node: String,
    pub address: IpAddr,
    advertise: IpAddr,
    pub cluster: Cluster,
    node_ports: RangeInclusive<u16>,
    kubeconfig_mode: u32,
    pod_security: pharos_apiserver::pod_security::Configuration,
}

impl Plan {
    /// Finds all mistakes at once.
    fn check(mut options: ServerOptions) -> anyhow::Result<Self> {
        let mut mistakes = node::mistakes(&options.node);
        mistakes.extend(datastore::mistakes(&options.datastore, &Layout(options.node.data_dir.clone())));
        mistakes.extend(options.audit.of_server(None).mistakes());
        let own_issuer = issuer::Config::for_domain(&options.cluster_domain).issuer;
        mistakes.extend(options.authentication.of_server(&own_issuer).err().unwrap_or_default());
        mistakes.extend(options.authorization.of_server().err());
        if let Some(file) = &options.tracing_config_file {
            match Tracing::read(file) {
                Ok(_) if options.node.otlp_endpoint.is_some() => {
                    mistakes.push("--tracing-config-file: not together with --otlp-endpoint".to_owned());
                }
                Ok(tracing) => {
                    options.node.otlp_endpoint = Some(tracing.endpoint);
                    options.node.otlp_sampling = tracing.sampling;
                }
                Err(error) => mistakes.push(format!("{error:#}")),
            }
        }
        let node_ports = port_range(&options.service_node_port_range);
        if let Err(why) = &node_ports {
            mistakes.push(format!("--service-node-port-range {}: {why}", options.service_node_port_range));
        }
        if options.cluster_signing_duration.is_zero() {
            mistakes.push("--cluster-signing-duration 0s: certificates would be invalid at once".to_owned());
        }
        if options.max_requests_inflight == 0 && options.max_mutating_requests_inflight == 0 {
            mistakes.push(
                "--max-requests-inflight 0: no requests would be served, with --max-mutating-requests-inflight 0 too".into(),
            );
        }
        for san in &options.tls_san {
            if san.parse::<IpAddr>().is_err() {
                // As kubeadm has it: a wildcard stands for the first label alone.
                let wrong = pharos_api::names::dns1123_subdomain(san.strip_prefix("*.").unwrap_or(san));
                if !wrong.is_empty() {
                    mistakes.push(format!("--tls-san {san}: neither an address nor a name: {}", wrong.join("; ")));
                }
            }
        }
        let wrong = pharos_api::names::dns1123_subdomain(&options.cluster_domain);
        if !wrong.is_empty() {
            mistakes.push(format!("--cluster-domain {}: {}", options.cluster_domain, wrong.join("; ")));
        }
        let kubeconfig_mode = u32::from_str_radix(&options.write_kubeconfig_mode, 8).ok().filter(|mode| *mode <= 0o777);
        if kubeconfig_mode.is_none() {
            mistakes.push(format!("--write-kubeconfig-mode {}: not an octal mode", options.write_kubeconfig_mode));
        }
        let mut networks = |flag: &str, text: &str| {
            let found = networks(text);
            if found.is_none() {
                mistakes.push(format!("{flag} {text}: not a network such as 10.42.0.0/16"));
            }
            found.unwrap_or_default()
        };
        let pods = networks("--cluster-cidr", &options.cluster_cidr);
        let services = networks("--service-cidr", &options.service_cidr);
        for pods in &pods {
            // Of two networks that share an address, one holds the other's first.
            let overlapping = services.iter().filter(|one| pods.contains(one.network()) || one.contains(pods.network()));
            mistakes.extend(overlapping.map(|one| format!("--cluster-cidr {pods}: overlaps --service-cidr {one}")));
        }
        let cluster_dns = match (options.cluster_dns, services.first()) {
            (given, None) => given,
            // A DNS that is not this program's may be anywhere, such as a cache on each node.
            (Some(given), _) if options.disable.contains(&Part::Dns) => Some(given),
            (Some(given), _) => {
                if !services.iter().any(|network| network.contains(given)) {
                    mistakes.push(format!("--cluster-dns {given}: not in --service-cidr {}", options.service_cidr));
                }
                Some(given)
            }
            (None, Some(network)) => {
                let tenth = network.nth(10);
                if tenth.is_none() {
                    let why = "has no tenth address for the cluster DNS; say --cluster-dns";
                    mistakes.push(format!("--service-cidr {network}: {why}"));
                }
                tenth
            }
        };
        let pod_security = options.admission_control_config_file.as_deref().map(admission_config::read).transpose();
        if let Err(why) = &pod_security {
            mistakes.push(format!("--admission-control-config-file: {why:#}"));
        }
        let node = node::name(&options.node)?;
        let address = node::address(&options.node)?;
        anyhow::ensure!(mistakes.is_empty(), "{}", mistakes.join("\n"));
        Ok(Self {
            layout: Layout(options.node.data_dir.clone()),
            node,
            address,
            advertise: options.advertise_address.unwrap_or(address),
            cluster: Cluster {
                cluster_cidr: options.cluster_cidr.clone(),
                service_cidr: options.service_cidr.clone(),
                cluster_dns: cluster_dns.context("the cluster DNS has no address")?,
                cluster_domain: options.cluster_domain.clone(),
                service_node_port_range: options.service_node_port_range.clone(),
            },
            node_ports: node_ports.unwrap_or(30_000..=32_767),
            kubeconfig_mode: kubeconfig_mode.unwrap_or(0o600),
            pod_security: pod_security.ok().flatten().unwrap_or_default(),
            options,
        })
    }

    /// Whether a part is not disabled.
    pub fn runs(&self, part: Part) -> bool {
        !self.options.disable.contains(&part)
    }

    /// The address that programs on this machine use.
    fn local(&self) -> IpAddr {
        match self.options.bind_address {
            address if address.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            address => address,
        }
    }

    fn url(&self, address: IpAddr) -> String {
        format!("https://{}", SocketAddr::new(address, self.options.https_port))
    }

    /// What the API server's certificate holds for.
    fn server_names(&self) -> (Vec<String>, Vec<IpAddr>) {
        let domain = &self.cluster.cluster_domain;
        let mut names: Vec<String> =
            ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"].map(str::to_owned).into();
        names.extend([format!("kubernetes.default.svc.{domain}"), self.node.clone()]);
        let mut addresses =
            vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(std::net::Ipv6Addr::LOCALHOST), self.address, self.advertise];
        addresses.extend(first_address(&self.cluster.service_cidr));
        addresses.extend(Some(self.options.bind_address).filter(|a| !a.is_unspecified()));
        for san in &self.options.tls_san {
            match san.parse() {
                Ok(address) => addresses.push(address),
                Err(_) => names.push(san.clone()),
            }
        }
        (names, addresses)
    }
}

/// Reads FROM-TO.
fn port_range(text: &str) -> Result<RangeInclusive<u16>, &'static str> {
    let ends = text.split_once('-').and_then(|(from, to)| Some((from.parse::<u16>().ok()?, to.parse::<u16>().ok()?)));
    match ends {
        None => Err("not written FROM-TO"),
        Some((0, _)) => Err("0 is no port"),
        Some((from, to)) if from > to => Err("the range is empty"),
        Some((from, to)) => Ok(from..=to),
    }
}

/// Networks in CIDR notation, at least one.
fn networks(text: &str) -> Option<Vec<Cidr>> {
    text.split(',').map(|network| network.parse().ok()).collect()
}

/// The first usable address of a network: the `kubernetes` Service's.
fn first_address(cidrs: &str) -> Option<IpAddr> {
    networks(cidrs)?.first()?.nth(1)
}

/// The control plane's certificates and keys. They are made at the first start.
pub struct Keys {
    pub ca: Arc<Ca>,
    server: Arc<Identity>,
    pub kubelet: Arc<Identity>,
    /// What the API server shows to kubelets, and the metrics collector too.
    pub kubelet_client: Arc<Identity>,
    /// Whose client certificates tell extension API servers to believe the API server about who asks. Not the cluster's
    /// CA: anybody's certificate comes from that.
    front_proxy_ca: Arc<Ca>,
    front_proxy: Arc<Identity>,
    admin: Arc<Identity>,
    tokens: pki::SigningKey,
}

impl Keys {
    fn load(plan: &Plan) -> anyhow::Result<Self> {
        let (dir, node_dir) = (plan.layout.tls(), plan.layout.node_tls());
        files::private_folder(&dir)?;
        files::private_folder(&node_dir)?;
        let ca = Arc::new(Ca::load_or_create(&dir, "ca", "pharos-ca", Clock::system())?);
        let (names, addresses) = plan.server_names();
        let identity = |dir: &std::path::Path, name: &str, template| {
            Identity::load_or_issue(ca.clone(), dir, name, template).with_context(|| format!("certificate {name}"))
        };
        let kubelet = Template {
            subject: Subject::new(format!("system:node:{}", plan.node), &["system:nodes"]),
            ..Template::server("", vec![plan.node.clone(), "localhost".into()], vec![plan.address, Ipv4Addr::LOCALHOST.into()])
        };
        let front_proxy_ca = Arc::new(Ca::load_or_create(&dir, "front-proxy-ca", "pharos-front-proxy-ca", Clock::system())?);
        let front_proxy = Template::client(Subject::new("front-proxy-client", &[]));
        let front_proxy = Identity::load_or_issue(front_proxy_ca.clone(), &dir, "front-proxy-client", front_proxy)
            .context("certificate front-proxy-client")?;
        Ok(Self {
            front_proxy_ca,
            front_proxy,
            server: identity(&dir, "apiserver", Template::server("kube-apiserver", names, addresses))?,
            kubelet: identity(&node_dir, "kubelet", kubelet)?,
            kubelet_client: identity(&dir, "apiserver-kubelet-client", Template::client(Subject::new("kube-apiserver", &[])))?,
            admin: identity(&dir, "admin", Template::client(Subject::new("pharos-admin", &["system:masters"])))?,
            tokens: pki::load_or_create_signing_key(&dir, "service-account")?,
            ca,
        })
    }

    /// Who signs ServiceAccount tokens.
    fn issuer(&self, plan: &Plan) -> anyhow::Result<Arc<TokenIssuer>> {
        let signing = jws::SigningKey::from_pem(&self.tokens.private_pem)?;
        let config = issuer::Config::for_domain(&plan.cluster.cluster_domain);
        Ok(Arc::new(TokenIssuer::new(config, signing, Vec::new(), Clock::system())))
    }
}

/// In-process clients of the API server, each acting as somebody.
#[derive(Clone)]
pub struct Clients(Api);

impl Clients {
    /// The component is named in the `User-Agent`, and so becomes the manager of the fields it writes.
    pub fn of(&self, user: UserInfo, component: &str) -> kube::Client {
        pharos_client::in_process_as(component, self.0.service(user))
    }

    /// A client that acts as a ServiceAccount; the account need not exist.
    pub fn service_account(&self, namespace: &str, name: &str, component: &str) -> kube::Client {
        self.of(UserInfo::service_account(namespace, name, ""), component)
    }
}

/// Opens the store and starts the API server behind its socket.
async fn start_api(
    plan: &Plan,
    keys: &Keys,
    registries: &Registries,
    health: &Health,
    index: Option<Writer>,
    supervisor: &mut Supervisor,
) -> anyhow::Result<Api> {
    let store = datastore::start(&plan.options.datastore, &plan.layout, registries, health, supervisor).await?;
    let gather = {
        let registries = registries.clone();
        Arc::new(move || exposition(&registries))
    };
    process_metrics(registries, "apiserver")?;
    build_info(registries, "apiserver")?;
    let config = pharos_apiserver::Config {
        git_commit: option_env!("PHAROS_COMMIT").unwrap_or_default(),
        service_cluster_ip_range: plan.cluster.service_cidr.split(',').map(str::to_owned).collect(),
        service_node_port_range: plan.node_ports.clone(),
        max_requests_inflight: plan.options.max_requests_inflight as usize,
        max_mutating_requests_inflight: plan.options.max_mutating_requests_inflight as usize,
        advertise_address: plan.advertise,
        secure_port: plan.options.https_port,
        client_ca_pem: keys.ca.certificate_pem().to_owned(),
        front_proxy_ca_pem: keys.front_proxy_ca.certificate_pem().to_owned(),
        front_proxy: Some(keys.front_proxy.clone()),
        authorization: plan.options.authorization.of_server().map_err(anyhow::Error::msg)?,
        audit: plan.options.audit.of_server(index),
        kubelet_tls: Some(pki::client_config(keys.ca.roots(), Some(keys.kubelet_client.clone()))?),
        pod_security: plan.pod_security.clone(),
        ..pharos_apiserver::Config::default()
    };
    let issuer = keys.issuer(plan)?;
    let authentication = plan.options.authentication.of_server(issuer.issuer());
    let authentication = authentication.map_err(|mistakes| anyhow::anyhow!("{}", mistakes.join("; ")))?;
    let parts = Parts {
        store,
        authn: authn::Config { client_ca: vec![keys.ca.certificate().clone()], ..authentication },
        issuer,
        health: health.clone(),
        gather,
        clock: Clock::system(),
    };
    let api = Api::new(config, parts, &registries.of("apiserver")).await?;
    api.mount(join::PREFIX, Arc::new(Join { ca: keys.ca.clone(), cluster: plan.cluster.clone() }));
    supervisor.start(api.clone()).await?;

    let address = SocketAddr::new(plan.options.bind_address, plan.options.https_port);
    let door = Door {
        api: api.clone(),
        addresses: vec![address],
        identity: keys.server.clone(),
        client_roots: keys.ca.roots(),
        renewed: vec![keys.kubelet.clone(), keys.kubelet_client.clone()],
    };
    supervisor.start(door).await.with_context(|| format!("listen on {address}"))?;
    Ok(api)
}

async fn start_controllers(
    plan: &Plan,
    keys: &Keys,
    clients: &Clients,
    registries: &Registries,
    supervisor: &mut Supervisor,
) -> anyhow::Result<()> {
    let issuer = keys.issuer(plan)?;
    let config = pharos_controllers::Config {
        cluster_cidr: plan.cluster.cluster_cidr.split(',').map(str::to_owned).collect(),
        root_ca_pem: keys.ca.certificate_pem().to_owned(),
        sign_token: Some(Arc::new(move |namespace, account, account_uid, secret, _| {
            Ok(issuer.secret_token(namespace, account, account_uid, secret)?)
        })),
        sign_certificate: Some(signer(keys.ca.clone())),
        cluster_signing_duration: plan.options.cluster_signing_duration,
        ..pharos_controllers::Config::default()
    };
    let clients = clients.clone();
    let clients = Arc::new(move |name: &str| clients.service_account("kube-system", name, "kube-controller-manager"));
    supervisor.launch(Controllers::new(clients, config, &registries.of(Controllers::NAME))?)?;
    Ok(())
}

/// Signs what the controllers have found good, with the CA that signs the requests of joining nodes too.
fn signer(ca: Arc<Ca>) -> pharos_controllers::SignCertificate {
    Arc::new(move |request, usages, ttl| {
        let unknown = |name: &str| format!("unrecognized usage values: [{name:?}]");
        let usages: Result<Vec<_>, _> = usages.iter().map(|name| Usage::parse(name).ok_or_else(|| unknown(name))).collect();
        let signed = ca.sign_csr(request, &usages?, ttl, None).map_err(anyhow::Error::from);
        // With its causes: it is written into the request.
        Ok(signed.map_err(|error| format!("{error:#}"))?)
    })
}

/// The Service by which the cluster DNS is known. Its address is on every node itself, so the service proxy leaves it alone.
async fn publish_dns(client: &kube::Client, cluster: &Cluster) -> anyhow::Result<()> {
    let service = serde_json::json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": {
            "k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS",
            "service.kubernetes.io/service-proxy-name": "pharos-dns"}},
        "spec": {"clusterIP": cluster.cluster_dns, "clusterIPs": [cluster.cluster_dns], "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]},
    });
    join::apply(client, &service).await
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn lists_of_networks() {
        assert!(networks("10.42.0.0/16").is_some() && networks("fd00::/64,10.42.0.0/16").is_some());
        for bad in ["", "10.42.0.0", "10.42.0.0/33", "x/8", "10.42.0.0/16,"] {
            assert!(networks(bad).is_none(), "{bad}");
        }
        assert_eq!(first_address("10.43.0.0/16,fd00::/112").map(|a| a.to_string()).as_deref(), Some("10.43.0.1"));
    }

    #[test]
    fn signs_for_the_controllers() {
        let folder = tempfile::tempdir().unwrap();
        let sign = signer(Arc::new(Ca::load_or_create(folder.path(), "ca", "test", Clock::system()).unwrap()));
        let (_, request) = pki::new_csr(&Template::client(Subject::new("jane", &["dev"]))).unwrap();
        let ttl = std::time::Duration::from_secs(600);
        let usages = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let signed = sign(&request, &usages(&["client auth", "ipsec user"]), ttl).unwrap();
        assert!(signed.starts_with("-----BEGIN CERTIFICATE-----"), "{signed}");
        let refused = sign(&request, &usages(&["flying"]), ttl).unwrap_err().to_string();
        assert!(refused.contains("unrecognized usage values: [\"flying\"]"), "{refused}");
        assert!(sign("nonsense", &usages(&["any"]), ttl).is_err());
    }

    /// What `pharos server` makes of options.
    fn plan(options: &[&str]) -> anyhow::Result<Plan> {
        let always = ["pharos", "server", "--node-name=a", "--node-ip=192.0.2.1"];
        let cli = Cli::try_parse_from(always.iter().chain(options))?;
        let Command::Server(options) = cli.command else { unreachable!("the command is server") };
        Plan::check(*options)
    }

    #[test]
    fn the_cluster_dns_is_in_the_network_of_services() {
        let table: [(&[&str], &str); 5] = [
            (&[], "10.43.0.10"),
            (&["--service-cidr=10.96.0.0/12"], "10.96.0.10"),
            (&["--service-cidr=10.96.0.0/12", "--cluster-dns=10.97.0.1"], "10.97.0.1"),
            (&["--service-cidr=10.96.0.0/12,fd00::/112", "--cluster-dns=fd00::a"], "fd00::a"),
            (&["--disable=dns", "--cluster-dns=169.254.20.10"], "169.254.20.10"),
        ];
        for (options, expected) in table {
            assert_eq!(plan(options).unwrap().cluster.cluster_dns.to_string(), expected, "{options:?}");
        }
    }

    #[test]
    fn sensible_values_are_taken() {
        let options = [
            "--tls-san=*.example.org,203.0.113.7,fd00::1,kube",
            "--cluster-domain=k8s.example.org",
            "--service-node-port-range=30000-30000",
            "--log-level=warn,pharos_node=debug,hyper=off",
            "--otlp-sampling=0",
            "--node-taint=a=b:NoSchedule,a:NoExecute,example.org/c=:PreferNoSchedule",
            "--audit-index=false",
            "--audit-log-path=/var/log/audit.log",
            "--audit-log-compress",
            "--audit-log-batch-max-wait=1m30s",
        ];
        let plan = plan(&options).unwrap();
        let audit = plan.options.audit.of_server(None);
        let log = audit.log.unwrap();
        assert!(!plan.options.audit.audit_index && log.compress && log.delivery.max_batch_wait.as_secs() == 90);
        assert_eq!(plan.node_ports, 30_000..=30_000);
    }

    #[test]
    fn mistakes_end_the_start() {
        let table: &[(&[&str], &str)] = &[
            (&["--service-cidr=10.96.0.0/12", "--cluster-dns=10.43.0.10"], "--cluster-dns 10.43.0.10: not in"),
            (&["--service-cidr=10.96.0.0/30"], "has no tenth address"),
            (&["--service-cidr=10.96.0.0"], "not a network"),
            (&["--cluster-cidr=10.43.128.0/17"], "--cluster-cidr 10.43.128.0/17: overlaps --service-cidr 10.43.0.0/16"),
            (&["--cluster-cidr=10.0.0.0/8"], "overlaps"),
            (&["--cluster-domain=-x"], "--cluster-domain -x: a lowercase RFC 1123 subdomain"),
            (&["--tls-san=bad san!"], "--tls-san bad san!: neither an address nor a name"),
            (&["--tls-san=a.*.b"], "--tls-san a.*.b"),
            (&["--service-node-port-range=5-1"], "the range is empty"),
            (&["--service-node-port-range=0-1"], "0 is no port"),
            (&["--service-node-port-range=5"], "not written FROM-TO"),
            (&["--max-requests-inflight=0", "--max-mutating-requests-inflight=0"], "no requests would be served"),
            (&["--cluster-signing-duration=0s"], "certificates would be invalid at once"),
            (&["--log-level=nosuch"], "--log-level nosuch: \"nosuch\" is no level"),
            (&["--log-level=info,pharos_node=nosuch"], "--log-level info,pharos_node=nosuch"),
            (&["--otlp-sampling=7"], "--otlp-sampling 7: not from 0 to 1"),
            (&["--otlp-sampling=NaN"], "not from 0 to 1"),
            (&["--node-taint=zz"], "--node-taint zz: not written"),
            (&["--node-taint=a=b:Never"], "unsupported taint effect"),
            (&["--node-taint=a=b=c:NoSchedule"], "not written"),
            (&["--node-taint=a=b c:NoSchedule"], "--node-taint a=b c:NoSchedule"),
            (&["--node-taint=a b:NoSchedule"], "name part must consist of"),
            (&["--node-taint=a=1:NoSchedule,a=2:NoSchedule"], "given twice"),
            (&["--datastore-endpoint=10.0.0.1:2379"], "--datastore-endpoint: invalid operation: endpoint 10.0.0.1:2379 is not"),
            (&["--audit-log-path=/x", "--audit-log-mode=lazy"], "invalid audit log mode lazy, allowed modes are"),
            (&["--audit-log-path=/x", "--audit-log-maxage=-1"], "--audit-log-maxage -1 can't be a negative number"),
            (&["--audit-policy-file=/no/such"], "loading audit policy file: failed to read file path"),
            (&["--audit-webhook-config-file=/no/such"], "initializing audit webhook: read /no/such"),
            (&["--audit-webhook-batch-max-wait=soon"], "time: invalid duration"),
            (&["--oidc-issuer-url=https://a"], "oidc-issuer-url and oidc-client-id must be specified together"),
            (&["--oidc-issuer-url=http://a", "--oidc-client-id=b"], "URL scheme must be https"),
            (&["--oidc-required-claim=a"], "--oidc-required-claim a: not written CLAIM=VALUE"),
            (&["--oidc-client-id=a", "--authentication-config=/no/such"], "are mutually exclusive"),
            (&["--authentication-config=/no/such"], "--authentication-config /no/such: "),
            (&["--authentication-token-webhook-config-file=/no/such"], "read /no/such"),
            (&["--authorization-mode=ABAC"], "--authorization-mode \"ABAC\" is not a valid mode"),
            (&["--authorization-mode=Node,RBAC,Webhook"], "authorization config file not passed"),
            (&["--authorization-webhook-config-file=/no/such"], "without mode Webhook"),
            (&["--authorization-config=/no/such"], "--authorization-config /no/such: "),
            (&["--authorization-config=/x", "--authorization-mode=RBAC"], "can not be specified when"),
            (&["--tracing-config-file=/no/such"], "unable to read tracing configuration from"),
        ];
        for (options, expected) in table {
            let mistakes = plan(options).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(mistakes.contains(expected), "{options:?}: {mistakes}");
        }
    }
}
