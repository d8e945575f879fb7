use std::sync::Arc;

use pharos_telemetry::{Clock, Component, Ctx, logs::Records};
use prometheus::Registry;

use crate::{Config, Error, LogsHandler, Result, index::Index, inputs, metrics::Metrics};

/// The log index as a component: collects, seals and deletes.
///
/// The records' queue is bounded and drops what does not fit, counted by `telemetry`. Container logs and events are read only as
/// fast as they are stored: nothing is dropped, and a container never waits.
pub struct Logging {
    index: Arc<Index>,
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
        let index = Arc::new(Index::open(config, Metrics::new(registry)?)?);
        let handler = LogsHandler::new(index.clone(), Clock::system());
        Ok(Self { index, records: tokio::sync::Mutex::new(records), client, handler })
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
        let mut records = self.records.try_lock().map_err(|_| Error::Busy)?;
        let maintenance = ctx.spawn("maintain", self.index.clone().maintain(ctx.clone()));
        let config = &self.index.config;
        if config.events {
            ctx.spawn("events", inputs::events(self.index.clone(), self.client.clone(), ctx.clone()));
        }
        let containers = if config.pod_logs_dir.as_os_str().is_empty() {
            None
        } else {
            Some(inputs::containers(self.index.clone(), self.client.clone(), &ctx)?)
        };
        ctx.ready();
        inputs::records(&self.index, &mut records, &ctx).await;
        // What was read is stored before the log is synced for the last time.
        if let Some(containers) = containers {
            let _ = containers.await;
        }
        let _ = maintenance.await;
        Ok(())
    }
}
