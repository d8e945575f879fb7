//! Metrics: collects them, keeps them, answers PromQL.
//!
//! Scrapes the registries of this process directly and everything else over HTTP, keeps samples in an own time-series
//! store, and serves the Prometheus HTTP API and the resource metrics API. It reads Nodes, Pods, Services, EndpointSlices
//! and workloads through a client; it writes no object, and listens on no socket.
//!
//! Follows Prometheus 3 (`promql`, `scrape`, `web/api/v1`). Differences are said at the top of the file.
//!
//! Start reading at [`Metrics`]. A new collector of this process is one file in `collect`.

mod config; // What can be set,
mod error; // go wrong,
mod metrics; // and be measured; then the nouns.
pub mod labels;
pub mod tsdb;
pub mod promql;
mod exposition;
mod scrape;
mod collect;
pub mod api;
pub mod resource_metrics;

use std::{path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use parking_lot::RwLock;
use pharos_telemetry::{Component, Ctx};
use prometheus::Registry;
use tokio::sync::Notify;

pub use api::MetricsHandler;
pub use collect::node::Collector as NodeCollector;
pub use config::{Config, Sources};
pub use error::{Error, Result};
pub use resource_metrics::ResourceMetricsHandler;

use metrics::OwnMetrics;
use promql::{Engine, Limits};
use scrape::discovery::Discovery;
use tsdb::{Options, Tsdb};

/// How often what was scraped is written to the log, at most.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// How often retention is applied and the log's size looked at.
const MAINTAIN_EVERY: Duration = Duration::from_secs(60);

/// The component: owns scraping, the write-ahead log and retention. What outlives a restart is the store in memory.
pub struct Metrics {
    client: kube::Client,
    shared: Shared,
}

/// What the component and its handlers share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) config: Arc<Config>,
    pub(crate) sources: Sources,
    pub(crate) own: OwnMetrics,
    pub(crate) targets: scrape::Targets,
    pub(crate) started: Timestamp,
    store: Arc<RwLock<Option<Store>>>,
}

/// The store, once it is open.
#[derive(Clone)]
struct Store {
    db: Arc<Tsdb>,
    engine: Engine,
}

// === impl Metrics ===

impl Metrics {
    /// A component that collects from `sources` and finds targets through `client`.
    ///
    /// # Errors
    /// When the configuration cannot be used, or its own metrics are registered in `registry` already.
    pub fn new(config: Config, sources: Sources, client: kube::Client, registry: &Registry) -> Result<Self> {
        let mistakes = config.mistakes();
        if !mistakes.is_empty() {
            return Err(Error::Config(mistakes.join("; ")));
        }
        let own = OwnMetrics::new(registry)?;
        Ok(Self { client, shared: Shared::new(config, sources, own) })
    }

    /// The Prometheus HTTP API, to be mounted at `/observe/prometheus`.
    #[must_use]
    pub fn handler(&self) -> MetricsHandler {
        MetricsHandler { shared: self.shared.clone() }
    }

    /// The resource metrics API, to be mounted at `/apis/metrics.k8s.io/v1beta1`.
    #[must_use]
    pub fn resource_metrics(&self) -> ResourceMetricsHandler {
        ResourceMetricsHandler { shared: self.shared.clone(), client: self.client.clone() }
    }
}

impl Component for Metrics {
    const NAME: &'static str = "prometheus";
    type Error = Error;

    async fn run(&self, ctx: Ctx) -> Result<()> {
        let shared = &self.shared;
        let db = shared.open(ctx.clock().now()).await?;
        let changed = Arc::new(Notify::new());
        let discovery = Discovery::start(&ctx, &self.client, shared, &changed);
        ctx.ready();
        let (ctx_, shared_) = (ctx.clone(), shared.clone());
        let scraping = ctx.spawn("scrape manager", async move { scrape::run(&ctx_, &shared_, &discovery, &changed).await });
        let outcome = keep(&ctx, &db).await;
        // Its tasks end with the component; a failed run must not leave a second set behind.
        scraping.abort();
        let closing = db.clone();
        blocking(&shared.config.dir, move || closing.sync()).await?;
        outcome
    }
}

/// Flushes and maintains the store until the component is stopped.
async fn keep(ctx: &Ctx, db: &Arc<Tsdb>) -> Result<()> {
    let mut maintain = tokio::time::interval(MAINTAIN_EVERY);
    let mut flush = tokio::time::interval(FLUSH_EVERY);
    for timer in [&mut maintain, &mut flush] {
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    }
    loop {
        tokio::select! {
            () = ctx.stopped() => return Ok(()),
            _ = maintain.tick() => {
                let (db, now) = (db.clone(), ctx.clock().now().as_millisecond());
                report(tokio::task::spawn_blocking(move || db.maintain(now)).await, "maintenance failed");
            }
            _ = flush.tick() => {
                if db.is_dirty() {
                    let db = db.clone();
                    report(tokio::task::spawn_blocking(move || db.flush()).await, "samples could not be logged yet");
                }
            }
        }
    }
}

/// A full disk must not end collection: what was not written stays pending and is tried again.
fn report(outcome: Result<Result<()>, tokio::task::JoinError>, what: &'static str) {
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(error = chain(&error), "{what}"),
        Err(error) => tracing::error!(error = %error, "{what}"),
    }
}

async fn blocking<T: Send + 'static>(dir: &std::path::Path, f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let dir: PathBuf = dir.to_owned();
    let outcome = tokio::task::spawn_blocking(f).await;
    outcome.unwrap_or_else(|error| Err(Error::io("use", dir)(std::io::Error::other(error))))
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new(config: Config, sources: Sources, own: OwnMetrics) -> Self {
        Self {
            config: Arc::new(config),
            sources,
            own,
            targets: scrape::Targets::default(),
            started: Timestamp::now(),
            store: Arc::default(),
        }
    }

    /// Opens the store, or takes the one that an earlier run opened.
    async fn open(&self, now: Timestamp) -> Result<Arc<Tsdb>> {
        if let Some(db) = self.db() {
            return Ok(db);
        }
        let options = Options {
            dir: Some(self.config.dir.clone()),
            retention_ms: i64::try_from(self.config.retention_seconds).unwrap_or(i64::MAX / 1000).saturating_mul(1000),
            retention_bytes: usize::try_from(self.config.retention_bytes).unwrap_or(usize::MAX),
            checkpoint_bytes: self.config.wal_checkpoint_bytes,
        };
        let metrics = self.own.tsdb.clone();
        let db = blocking(&self.config.dir, move || {
            let db = Tsdb::open(options, metrics)?;
            db.retain(now.as_millisecond());
            Ok(Arc::new(db))
        })
        .await?;
        self.serve(db.clone());
        Ok(db)
    }

    /// Makes a store the one that is asked.
    pub(crate) fn serve(&self, db: Arc<Tsdb>) {
        let limits = Limits {
            max_samples: self.config.query_max_samples,
            timeout: Duration::from_secs_f64(self.config.query_timeout_seconds),
            max_concurrency: self.config.query_max_concurrency,
            lookback_ms: (self.config.query_lookback_delta_seconds * 1000.0) as i64,
        };
        let engine = Engine::new(db.clone(), limits, self.own.engine.clone());
        *self.store.write() = Some(Store { db, engine });
    }

    pub(crate) fn db(&self) -> Option<Arc<Tsdb>> {
        self.store.read().as_ref().map(|store| store.db.clone())
    }

    pub(crate) fn engine(&self) -> Option<Engine> {
        self.store.read().as_ref().map(|store| store.engine.clone())
    }
}

/// An error with its causes, `outer: inner`.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
