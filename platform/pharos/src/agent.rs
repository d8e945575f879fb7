//! `pharos agent`: a node that joins a server.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use http::Uri;
use pharos_client::Credentials;
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
    logging, node, server,
};

/// Runs a node until it is told to stop.
pub async fn run(options: AgentOptions) -> anyhow::Result<()> {
    let (name, address) = (node::name(&options.node)?, node::address(&options.node)?);
    let registries = Registries::default();
    let (records, traces) = logging::init(&options.node, &registries, &name)?;
    // An agent has no log index: its records are on standard error.
    drop(records);
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
    let credentials =
        Credentials::Certificate { chain_pem: state.client.certificate_pem.clone(), key_pem: state.client.key_pem.clone() };
    let client = pharos_client::https(server, &state.ca, credentials)?;
    let serving = Identity::from_pem(state.serving)?;
    supervisor
        .start(Renewal {
            client: client.clone(),
            folder,
            node: name.clone(),
            address,
            ca: state.ca.clone(),
            serving: serving.clone(),
            own: Identity::from_pem(state.client)?,
        })
        .await?;

    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(state.ca.as_bytes()).context("read the CA's certificate")?)?;
    let machine = node::Machine {
        options: &options.node,
        name,
        address,
        cluster: state.cluster,
        dns: Some(client.clone()),
        proxy: Some(client.clone()),
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
        Ok(Some(Self {
            client: Issued { certificate_pem: text("client.crt")?, key_pem: text("client.key")? },
            serving: Issued { certificate_pem: text("kubelet.crt")?, key_pem: text("kubelet.key")? },
            ca: text("ca.crt")?,
            cluster: serde_json::from_str(&text("cluster.json")?).with_context(|| format!("parse {}", settings.display()))?,
        }))
    }

    fn write(folder: &Path, joined: Joined, ca: &str) -> anyhow::Result<Self> {
        let file = |name: &str, text: &str| files::write(&folder.join(name), text, 0o600);
        file("client.crt", &joined.client.certificate_pem)?;
        file("client.key", &joined.client.key_pem)?;
        file("kubelet.crt", &joined.serving.certificate_pem)?;
        file("kubelet.key", &joined.serving.key_pem)?;
        file("ca.crt", ca)?;
        file("cluster.json", &serde_json::to_string_pretty(&joined.cluster)?)?;
        Ok(Self { client: joined.client, serving: joined.serving, ca: ca.to_owned(), cluster: joined.cluster })
    }
}

/// Renews the node's certificates before they run out. The kubelet's serving certificate is replaced while it serves; the client
/// certificate is used from the next start on.
struct Renewal {
    client: kube::Client,
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
        let joined = join::request(&self.client, &self.node, names, vec![self.address, [127, 0, 0, 1].into()]).await?;
        let state = State::write(&self.folder, joined, &self.ca)?;
        self.serving.replace(state.serving)?;
        self.own.replace(state.client)?;
        tracing::info!(node = self.node, "certificates renewed");
        Ok(())
    }
}
