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
            Some(inputs::containers(self.index.clone(), &config.pod_logs_dir, self.client.clone(), &ctx)?)
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

#[cfg(test)]
mod tests {
    use std::{io::Write as _, time::Duration};

    use http::Request;
    use tokio_util::sync::CancellationToken;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    async fn find(handler: &LogsHandler, selector: &str, text: &str) -> bool {
        let query = percent_encoding::utf8_percent_encode(selector, percent_encoding::NON_ALPHANUMERIC);
        let request = Request::get(format!("/loki/api/v1/query_range?query={query}&start=0")).body(bytes::Bytes::new()).unwrap();
        let body = handler.handle(request).await.into_body().into_bytes(1 << 20).await.unwrap();
        String::from_utf8_lossy(&body).contains(text)
    }

    async fn is_found(handler: &LogsHandler, selector: &str, text: &str) {
        let look = async {
            while !find(handler, selector, text).await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), look).await.unwrap_or_else(|_| panic!("{text} is not found by {selector}"));
    }

    /// Without an API server: lines are collected all the same.
    #[tokio::test]
    async fn what_components_and_containers_write_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let pods = dir.path().join("pods");
        let config =
            Config { data_dir: dir.path().join("logs"), pod_logs_dir: pods.clone(), node: "n1".to_owned(), ..Config::default() };
        let registry = Registry::new();
        let (layer, records) = pharos_telemetry::logs::layer(&registry).unwrap();
        let client = kube::Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
        let logging = Arc::new(Logging::new(config, records, client, &registry).unwrap());
        let handler = logging.handler();
        let token = CancellationToken::new();
        let ctx = Ctx::for_test(token.clone());
        let (running, inner) = (logging.clone(), ctx.clone());
        let run = ctx.spawn("run", async move { running.run(inner).await });
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!(component = "kubelet", pod = "web", "probe failed");
        });
        is_found(&handler, r#"{component="kubelet", level="warn"} |= "probe""#, "probe failed").await;
        std::fs::create_dir_all(pods.join("default_web-1_1234/app")).unwrap();
        let mut log = std::fs::File::create(pods.join("default_web-1_1234/app/0.log")).unwrap();
        writeln!(log, "{} stdout F hello", jiff::Timestamp::now()).unwrap();
        is_found(&handler, r#"{namespace="default", pod="web-1", container="app", node="n1"}"#, "hello").await;
        let started = tokio::time::Instant::now();
        writeln!(log, "{} stdout F again", jiff::Timestamp::now()).unwrap();
        is_found(&handler, r#"{namespace="default"} |= "again""#, "again").await;
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
        token.cancel();
        run.await.unwrap().unwrap();
    }

    #[test]
    fn the_readme_lists_the_metrics() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        metrics.requests.with_label_values(&["GET", "ready", "200", "false"]);
        metrics.retired.with_label_values(&["age"]);
        let other = Registry::new();
        let _ = crate::metrics::ShipperMetrics::new(&other).unwrap();
        for family in registry.gather().into_iter().chain(other.gather()) {
            assert!(include_str!("../README.md").contains(&format!("`{}`", family.name())), "{}", family.name());
        }
    }
}
