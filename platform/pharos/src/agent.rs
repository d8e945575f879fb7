//! `pharos agent`: a node that joins a server.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use http::Uri;
use pharos_client::{Credentials, Renewable};
use pharos_logging::{LogShipper, ShipperConfig};
use pharos_telemetry::{Backoff, Clock, Component, Ctx, Registries, Supervisor, health::Health};
use pharos_transport::pki::{Identity, Issued};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use crate::{
    cli::AgentOptions,
    files::{self, Layout},
    join::{self, Cluster, Joined},
    logging, node, observe, server,
};

/// Runs a node until it is told to stop.
pub async fn run(options: AgentOptions) -> anyhow::Result<()> {
    let mistakes = node::mistakes(&options.node);
    anyhow::ensure!(mistakes.is_empty(), "{}", mistakes.join("\n"));
    let (name, address) = (node::name(&options.node)?, node::address(&options.node)?);
    let registries = Registries::default();
    let logging::Outputs { records, traces, .. } = logging::init(&options.node, &registries, &name)?;
    server::process_metrics(&registries, "pharos")?;
    let mut supervisor = Supervisor::new(registries.clone(), Health::default(), Clock::system());
    tracing::info!(version = env!("CARGO_PKG_VERSION"), node = name, server = options.server, "starting");

    let folder = Layout(options.node.data_dir.clone()).node_tls();
    files::private_folder(&folder)?;
    let state = match State::read(&folder)? {
        Some(state) => state,
        None => {
            let token = token(&options)?;
            let names = vec![name.clone(), "localhost".into()];
            let (joined, ca) = join::ask(&options.server, &token, &name, names, vec![address, [127, 0, 0, 1].into()]).await?;
            tracing::info!(node = name, "joined");
            State::write(&folder, joined, &ca)?
        }
    };
    let server: Uri = options.server.parse().with_context(|| format!("--server {}", options.server))?;
    let api = Renewable::new(server, &state.ca, credentials(&state.client))?;
    let [client, proxy, dns, shipper] =
        ["kubelet", "kube-proxy", "coredns", "pharos-logging"].map(|component| api.client(component));
    let serving = Identity::from_pem(state.serving)?;
    let renewal = Renewal {
        api,
        folder,
        node: name.clone(),
        address,
        ca: state.ca.clone(),
        serving: serving.clone(),
        own: Identity::from_pem(state.client)?,
    };
    supervisor.start(renewal).await?;

    let layout = Layout(options.node.data_dir.clone());
    let logs = ShipperConfig {
        data_dir: layout.log_spool(),
        node: name.clone(),
        pod_logs_dir: layout.pod_logs(),
        push_path: observe::PUSH_PATH.to_owned(),
        ..ShipperConfig::default()
    };
    supervisor.start(LogShipper::new(logs, records, shipper, &registries.of(LogShipper::NAME))?).await?;

    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(state.ca.as_bytes()).context("read the CA's certificate")?)?;
    let machine = node::Machine {
        options: &options.node,
        name,
        address,
        cluster: state.cluster,
        dns: Some(dns),
        proxy: Some(proxy),
        client,
        serving,
        client_roots: Arc::new(roots),
    };
    node::start(machine, &registries, &mut supervisor).await?;
    tracing::info!("running");
    server::wait_for_signal().await?;
    tracing::info!("stopping");
    supervisor.stop().await;
    if let Some(traces) = traces {
        traces.shutdown();
    }
    Ok(())
}

fn token(options: &AgentOptions) -> anyhow::Result<String> {
    match (&options.token, &options.token_file) {
        (Some(token), _) => Ok(token.clone()),
        (None, Some(file)) => std::fs::read_to_string(file).with_context(|| format!("read {}", file.display())),
        (None, None) => {
            bail!("this node has not joined yet: give a token with --token or --token-file (`pharos token create` makes one)")
        }
    }
}

/// What a node keeps of having joined.
struct State {
    client: Issued,
    serving: Issued,
    ca: String,
    cluster: Cluster,
}

impl State {
    /// `None` if this node has not joined.
    fn read(folder: &Path) -> anyhow::Result<Option<Self>> {
        // Written last, so it tells that the rest is whole.
        let settings = folder.join("cluster.json");
        if !settings.exists() {
            return Ok(None);
        }
        let text = |name: &str| {
            std::fs::read_to_string(folder.join(name)).with_context(|| format!("read {}", folder.join(name).display()))
        };
        let pair = |name: &str| {
            let both = text(name)?;
            let key = both.find("-----BEGIN PRIVATE KEY-----").with_context(|| format!("{name} holds no key"))?;
            anyhow::Ok(Issued { certificate_pem: both[..key].to_owned(), key_pem: both[key..].to_owned() })
        };
        Ok(Some(Self {
            client: pair("client.pem")?,
            serving: pair("kubelet.pem")?,
            ca: text("ca.crt")?,
            cluster: serde_json::from_str(&text("cluster.json")?).with_context(|| format!("parse {}", settings.display()))?,
        }))
    }

    fn write(folder: &Path, joined: Joined, ca: &str) -> anyhow::Result<Self> {
        let file = |name: &str, text: &str| files::write(&folder.join(name), text, 0o600);
        // A certificate and its key are in one file, or a renewal that is interrupted would leave two that do not fit.
        let pair = |name: &str, issued: &Issued| file(name, &format!("{}{}", issued.certificate_pem, issued.key_pem));
        pair("client.pem", &joined.client)?;
        pair("kubelet.pem", &joined.serving)?;
        file("ca.crt", ca)?;
        file("cluster.json", &serde_json::to_string_pretty(&joined.cluster)?)?;
        Ok(Self { client: joined.client, serving: joined.serving, ca: ca.to_owned(), cluster: joined.cluster })
    }
}

fn credentials(issued: &Issued) -> Credentials {
    Credentials::Certificate { chain_pem: issued.certificate_pem.clone(), key_pem: issued.key_pem.clone() }
}

/// Renews the node's certificates before they run out, and has them used at once: by the kubelet's server, and by all clients of
/// the API.
pub struct Renewal {
    api: Renewable,
    folder: std::path::PathBuf,
    node: String,
    address: std::net::IpAddr,
    ca: String,
    serving: Arc<Identity>,
    own: Arc<Identity>,
}

impl Component for Renewal {
    const NAME: &'static str = "certificate-renewal";
    type Error = std::convert::Infallible;

    async fn run(&self, ctx: Ctx) -> Result<(), Self::Error> {
        ctx.ready();
        let mut backoff = Backoff::new(Duration::from_secs(60), Duration::from_secs(3600));
        loop {
            let due = self.own.renew_at().min(self.serving.renew_at()) - ctx.clock().now().as_second();
            // Clocks may be set: look again now and then.
            let wait = Duration::from_secs(u64::try_from(due).unwrap_or_default().min(6 * 3600));
            tokio::select! {
                () = ctx.stopped() => return Ok(()),
                () = tokio::time::sleep(wait) => {}
            }
            if due > 6 * 3600 {
                continue;
            }
            match self.renew().await {
                Ok(()) => backoff.reset(),
                Err(error) => {
                    tracing::error!(
                        error = format!("{error:#}"),
                        attempt = backoff.attempt(),
                        "certificates were not renewed, trying again"
                    );
                    tokio::select! {
                        () = ctx.stopped() => return Ok(()),
                        () = tokio::time::sleep(backoff.next_wait()) => {}
                    }
                }
            }
        }
    }
}

impl Renewal {
    async fn renew(&self) -> anyhow::Result<()> {
        let names = vec![self.node.clone(), "localhost".into()];
        let client = self.api.client("kubelet");
        let joined = join::request(&client, &self.node, names, vec![self.address, [127, 0, 0, 1].into()]).await?;
        let state = State::write(&self.folder, joined, &self.ca)?;
        self.serving.replace(state.serving)?;
        self.api.replace(credentials(&state.client))?;
        self.own.replace(state.client)?;
        tracing::info!(node = self.node, "certificates renewed");
        Ok(())
    }
}

#[cfg(test)]
mod tests;
