use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures::future::join_all;
use kube::Client;
use pharos_telemetry::{Component, Ctx};
use prometheus::Registry;
use rand::{Rng as _, distr::Alphanumeric};
use tokio::sync::{Notify, Semaphore, watch};

use crate::{
    Config, Error, Result, bind,
    cache::Cache,
    config::Settings,
    engine::Engine,
    feed::Feed,
    forward::{Forward, Question},
    metrics::{Metrics, Proto},
    name, resolv_conf,
    server::{self, Server},
    wire::kind,
};

/// How long to wait for the first lists before serving what is known, as in CoreDNS.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Changes of the resolvers' file that come within this time are one.
const SETTLE: Duration = Duration::from_millis(200);
const PROBE_TRIES: usize = 5;
const PROBE_EVERY: Duration = Duration::from_secs(2);

/// Cluster DNS. What outlives a restart: settings, the client and metric handles.
pub struct Dns {
    settings: Arc<Settings>,
    client: Client,
    metrics: Arc<Metrics>,
    addresses: watch::Sender<Vec<SocketAddr>>,
}

impl Dns {
    /// Checks the configuration and registers the metrics.
    ///
    /// # Errors
    /// When the configuration is wrong, or the metrics are registered already.
    pub fn new(config: Config, client: Client, registry: &Registry) -> Result<Self> {
        let settings = Arc::new(config.check()?);
        Ok(Self { settings, client, metrics: Arc::new(Metrics::new(registry)?), addresses: watch::Sender::default() })
    }

    /// The addresses that are served, once they are: with the true port where port 0 was asked for.
    #[must_use]
    pub fn addresses(&self) -> watch::Receiver<Vec<SocketAddr>> {
        self.addresses.subscribe()
    }

    /// Serves names of what `feed` gives until the component is stopped. Asks for it only when the addresses are bound: what
    /// a feed has started ends with the component, not with a run that fails.
    pub(crate) async fn serve(&self, ctx: &Ctx, feed: impl FnOnce() -> Feed) -> Result<()> {
        let mut bound = Vec::new();
        for address in &self.settings.listen {
            bound.push(bind::listen(*address, self.settings.sockets)?);
        }
        let addresses: Vec<SocketAddr> = bound.iter().map(|(address, ..)| *address).collect();
        let names: Vec<String> = addresses.iter().map(|address| format!("dns://{address}")).collect();
        let engine = Arc::new(Engine {
            own: self.settings.own_addresses(),
            index: Default::default(),
            cache: Cache::new(&self.settings.cache, self.metrics.clone(), names[0].clone()),
            forward: Forward::new(self.settings.forward.max_concurrent, self.metrics.clone(), ctx.clone()),
            metrics: self.metrics.clone(),
            probe: Default::default(),
            synced: watch::Sender::new(false),
            settings: self.settings.clone(),
        });
        let upstreams = Upstreams { engine: engine.clone(), own: addresses.clone() };
        upstreams.load().await;
        ctx.spawn("records", feed().follow(ctx.clone(), engine.clone()));
        let synced = wait_synced(&engine);
        tokio::select! {
            () = ctx.stopped() => return Ok(()),
            done = tokio::time::timeout(STARTUP_TIMEOUT, synced) => {
                if done.is_err() {
                    tracing::warn!("objects are not listed yet: names that are not known are answered SERVFAIL");
                }
            }
        }
        let connections = Arc::new(Semaphore::new(self.settings.max_tcp_connections.min(Semaphore::MAX_PERMITS)));
        let mut tasks = Vec::new();
        for ((_, udp, tcp), name) in bound.into_iter().zip(names) {
            let server = Server {
                engine: engine.clone(),
                metrics: self.metrics.server(name),
                connections: connections.clone(),
                ctx: ctx.clone(),
            };
            tasks.extend(server::start(&Arc::new(server), udp, tcp));
        }
        tasks.push(ctx.spawn("upstreams", upstreams.follow(ctx.clone())));
        self.addresses.send_replace(addresses);
        tokio::select! {
            () = ctx.stopped() => {}
            () = wait_synced(&engine) => {
                tracing::info!("cluster names are served");
                ctx.ready();
            }
        }
        // Sockets are closed when this returns, so that another run can have their addresses.
        join_all(tasks).await;
        Ok(())
    }
}

impl Component for Dns {
    const NAME: &'static str = "coredns";
    type Error = Error;

    async fn run(&self, ctx: Ctx) -> Result<()> {
        bind::claim(&self.settings.claim).await?;
        let keeping = (!self.settings.claim.is_empty())
            .then(|| ctx.spawn("cluster DNS address", bind::keep(ctx.clone(), self.settings.claim.clone())));
        let done = self.serve(&ctx, || Feed::start(&ctx, &self.client, self.settings.pods)).await;
        if let Some(keeping) = keeping {
            // It would put back what is released.
            keeping.abort();
            let _ = keeping.await;
            bind::release().await?;
        }
        done
    }
}

/// Waits for the index to hold all objects.
async fn wait_synced(engine: &Engine) {
    // The sender lives in the engine, so this cannot fail.
    let _ = engine.synced.subscribe().wait_for(|synced| *synced).await;
}

/// Keeps the resolvers as the host's file has them, and looks for a loop through them.
struct Upstreams {
    engine: Arc<Engine>,
    /// The addresses that are served here: asking them would ask ourselves.
    own: Vec<SocketAddr>,
}

impl Upstreams {
    async fn load(&self) {
        let config = &self.engine.settings.forward;
        let mut servers = if config.servers.is_empty() {
            match resolv_conf::read(&config.resolv_conf).await {
                Ok(servers) => servers,
                Err(error) => {
                    self.engine.metrics.reload_failed.inc();
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        path = %config.resolv_conf.display(),
                        "resolvers cannot be read, the last known are kept"
                    );
                    return;
                }
            }
        } else {
            config.servers.clone()
        };
        servers.retain(|server| {
            let own = self.own.contains(server);
            if own {
                tracing::warn!(upstream = %server, "upstream left out, as it is served here");
            }
            !own
        });
        if servers.is_empty() {
            tracing::warn!("no upstream: names outside the cluster are answered SERVFAIL");
        }
        self.engine.forward.set_upstreams(&servers);
    }

    async fn follow(self, ctx: Ctx) {
        let config = &self.engine.settings.forward;
        let changed = Arc::new(Notify::new());
        let watcher = if config.servers.is_empty() {
            resolv_conf::watch(&config.resolv_conf, changed.clone())
                .inspect_err(|error| {
                    self.engine.metrics.reload_failed.inc();
                    tracing::warn!(error = error as &dyn std::error::Error, "resolvers are not watched for change");
                })
                .ok()
        } else {
            None
        };
        loop {
            tokio::select! {
                () = ctx.stopped() => break,
                () = self.probe() => {
                    tokio::select! {
                        () = ctx.stopped() => break,
                        () = changed.notified() => {}
                    }
                }
                () = changed.notified() => {}
            }
            tokio::time::sleep(SETTLE).await;
            self.load().await;
        }
        drop(watcher);
    }

    /// Sends a query upstream whose name nobody can guess: if it comes here, there is a loop.
    async fn probe(&self) {
        let label = || rand::rng().sample_iter(Alphanumeric).take(20).map(char::from).collect::<String>();
        let Ok(name) = name::parse(&format!("{}.{}", label(), label())) else { return };
        self.engine.probe.store(Some(Arc::new(name.clone())));
        self.engine.metrics.loop_detected.set(0);
        for _ in 0..PROBE_TRIES {
            let question = Question { name: name.as_bytes(), kind: kind::HINFO, flags: [1, 0], dnssec: false, proto: Proto::Udp };
            if self.engine.forward.ask(&question).await.is_ok() {
                return;
            }
            tokio::time::sleep(PROBE_EVERY).await;
        }
    }
}

#[cfg(test)]
mod tests;
