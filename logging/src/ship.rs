//! The log index of another process: what a node without an index of its own collects is kept in a spool and pushed to the
//! server's, by Loki's `push`.
//!
//! A line that is in the spool survives the end of this process, and leaves it when the server has stored it. A push whose
//! answer was lost is made again: lines come at least once.

mod encode;
mod spool;

use std::{path::PathBuf, sync::Arc, time::Duration};

use http::{Request, header};
use kube::Client;
use pharos_telemetry::{
    Backoff, Component, Ctx,
    logs::{Record, Records},
};
use prometheus::Registry;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::{
    Error, Result,
    entry::Entry,
    index::Batch,
    inputs::{self, Sink},
    metrics::{InputMetrics, ShipperMetrics, Source},
    split::chain,
    wal::Positions,
};
use spool::Spool;

/// What can be set.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ShipperConfig {
    /// Where lines wait for the server; it is made if missing. Default `/var/lib/pharos/log-spool`.
    pub data_dir: PathBuf,
    /// The node's name, for the label `node`. Default empty.
    pub node: String,
    /// Where container logs are read, one directory for each pod. Default `/var/log/pods`.
    pub pod_logs_dir: PathBuf,
    /// The path of Loki's `push` on the server. Default `/observe/loki/loki/api/v1/push`.
    pub push_path: String,
    /// Bytes of lines that may wait for the server, in memory and on disk; then containers' lines wait in their files and
    /// components' records in their queue. Default 4 MiB.
    pub spool_bytes: usize,
}

/// How long lines are gathered before they are pushed.
const GATHER: Duration = Duration::from_millis(100);
/// Bytes of lines in a push.
const PUSH_BYTES: usize = 1 << 20;
/// How long the server may take to store them.
const PUSH_DEADLINE: Duration = Duration::from_secs(30);
/// How long a stop waits for the server to take what is left.
const LAST_PUSHES: Duration = Duration::from_secs(3);

/// What the connection to the server says of itself at `debug` would be pushed, and so be said again, without end.
const OF_THE_CONNECTION: [&str; 6] = ["hyper", "h2", "kube_client", "tower", "rustls", "tokio"];

/// Ships a node's lines to the server, as a component.
pub struct LogShipper {
    config: ShipperConfig,
    records: tokio::sync::Mutex<Records>,
    client: Client,
    spool: Arc<Spool>,
    metrics: ShipperMetrics,
}

/// What the inputs of one run fill.
struct Inlet {
    node: String,
    spool: Arc<Spool>,
    /// When this is cancelled, nothing waits for room any more.
    stopping: CancellationToken,
}

/// Why a push failed.
enum PushError {
    /// It can be made again.
    Failed(String),
    /// It would fail again.
    Refused(String),
}

// === impl ShipperConfig ===

impl Default for ShipperConfig {
    fn default() -> Self {
        Self {
            data_dir: "/var/lib/pharos/log-spool".into(),
            node: String::new(),
            pod_logs_dir: "/var/log/pods".into(),
            push_path: "/observe/loki/loki/api/v1/push".to_owned(),
            spool_bytes: 4 << 20,
        }
    }
}

// === impl LogShipper ===

impl LogShipper {
    /// Opens the spool. The client acts as the node.
    ///
    /// # Errors
    /// When the data directory cannot be read or written, or the metrics are registered already.
    pub fn new(config: ShipperConfig, records: Records, client: Client, registry: &Registry) -> Result<Self> {
        let metrics = ShipperMetrics::new(registry)?;
        let spool = Arc::new(Spool::open(&config.data_dir, config.spool_bytes, metrics.clone())?);
        Ok(Self { config, records: tokio::sync::Mutex::new(records), client, spool, metrics })
    }
}

impl Component for LogShipper {
    const NAME: &'static str = "log-shipper";
    type Error = Error;

    async fn run(&self, ctx: Ctx) -> Result<()> {
        let mut records = self.records.try_lock().map_err(|_| Error::Busy)?;
        let inlet = Inlet { node: self.config.node.clone(), spool: self.spool.clone(), stopping: ctx.token() };
        let inlet = Arc::new(inlet);
        let containers = inputs::containers(inlet.clone(), &self.config.pod_logs_dir, self.client.clone(), &ctx)?;
        let drained = CancellationToken::new();
        let guard = drained.clone().drop_guard(); // A run that is given up must not leave the task behind.
        let ship = Ship {
            spool: self.spool.clone(),
            client: self.client.clone(),
            path: self.config.push_path.clone(),
            metrics: self.metrics.clone(),
        };
        let shipping = ctx.spawn("ship", ship.run(drained));
        ctx.ready();
        inputs::records(&inlet, &mut records, &ctx).await;
        // What was read is in the spool before the server is asked for the last time.
        let _ = containers.await;
        drop(guard);
        let _ = shipping.await;
        self.spool.clone().sync().await;
        Ok(())
    }
}

// === impl Inlet ===

impl Sink for Inlet {
    fn node(&self) -> &str {
        &self.node
    }

    fn positions(&self) -> Positions {
        self.spool.positions()
    }

    async fn append(self: &Arc<Self>, source: Source, batch: Batch) {
        self.spool.append(source, batch, &self.stopping).await;
    }

    fn takes(&self, record: &Record) -> bool {
        record.level <= tracing::Level::INFO || !OF_THE_CONNECTION.iter().any(|name| record.target.starts_with(name))
    }

    fn metrics(&self) -> &InputMetrics {
        self.spool.metrics()
    }
}

/// The task that empties the spool.
struct Ship {
    spool: Arc<Spool>,
    client: Client,
    path: String,
    metrics: ShipperMetrics,
}

impl Ship {
    /// Pushes what comes, until told that nothing more will come; then what is left, if the server takes it soon.
    async fn run(self, drained: CancellationToken) {
        let late = async {
            drained.cancelled().await;
            tokio::time::sleep(LAST_PUSHES).await;
        };
        tokio::select! {
            () = self.push_all(&drained) => {}
            () = late => {}
        }
    }

    async fn push_all(&self, drained: &CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(15));
        loop {
            let batch = self.spool.oldest(PUSH_BYTES);
            if batch.is_empty() {
                tokio::select! {
                    biased;
                    () = self.spool.filled() => {}
                    () = drained.cancelled() => return,
                }
                tokio::select! {
                    () = tokio::time::sleep(GATHER) => {}
                    () = drained.cancelled() => {}
                }
                continue;
            }
            let timer = self.metrics.push_seconds.start_timer();
            match self.push(&batch).await {
                Ok(()) => {
                    timer.observe_duration();
                    self.metrics.shipped.inc_by(batch.len() as u64);
                    backoff.reset();
                    self.spool.clone().done(batch.len()).await;
                }
                Err(PushError::Refused(error)) => {
                    timer.stop_and_discard();
                    self.metrics.refused.inc_by(batch.len() as u64);
                    tracing::error!(error, lines = batch.len(), "the server refused log lines, which are lost");
                    self.spool.clone().done(batch.len()).await;
                }
                Err(PushError::Failed(error)) => {
                    timer.stop_and_discard();
                    self.metrics.push_errors.inc();
                    let wait = backoff.next_wait();
                    if backoff.attempt().is_power_of_two() {
                        tracing::warn!(error, attempt = backoff.attempt(), "log lines did not reach the server, trying again");
                    }
                    // The wait may be long: what is kept for it should survive a power cut.
                    self.spool.clone().sync().await;
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = drained.cancelled() => return,
                    }
                }
            }
        }
    }

    async fn push(&self, batch: &[Arc<Entry>]) -> Result<(), PushError> {
        let body = encode::push_request(batch).map_err(|error| PushError::Refused(error.to_string()))?;
        let request = Request::post(&self.path).header(header::CONTENT_TYPE, "application/x-protobuf").body(body);
        let request = request.map_err(|error| PushError::Refused(error.to_string()))?;
        match tokio::time::timeout(PUSH_DEADLINE, self.client.request_text(request)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 400 | 413 | 415) => {
                Err(PushError::Refused(status.message.clone()))
            }
            Ok(Err(error)) => Err(PushError::Failed(chain(&error))),
            Err(_) => Err(PushError::Failed("no answer in time".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests;
