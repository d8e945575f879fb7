//! The component as a whole: it scrapes what runs in its process, answers, and finds its samples again.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use kube::client::Body;
use pharos_metrics::{Config, Metrics, MetricsHandler, Sources};
use pharos_telemetry::{Component as _, Ctx, Registries};
use tokio_util::sync::CancellationToken;

/// An API server that knows nothing: targets of this process must work all the same.
fn nobody() -> kube::Client {
    let service = tower::service_fn(|_: Request<Body>| async {
        let body = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","message":"none","code":404}"#;
        Ok::<_, Infallible>(Response::builder().status(404).body(Full::new(Bytes::from(body))).unwrap())
    });
    pharos_client::in_process(service)
}

async fn ask(handler: &MetricsHandler, query: &str) -> serde_json::Value {
    let request = Request::get(format!("/api/v1/query?query={query}")).body(Bytes::new()).unwrap();
    let response = handler.handle(request).await;
    serde_json::from_slice(response.body()).unwrap_or_default()
}

/// Asks until there is a result.
async fn wait(handler: &MetricsHandler, query: &str) -> serde_json::Value {
    let result = async {
        loop {
            let answer = ask(handler, query).await;
            if answer["data"]["result"].as_array().is_some_and(|r| !r.is_empty()) {
                return answer["data"]["result"].clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), result).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn scrapes_answers_and_remembers() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        dir: dir.path().to_owned(),
        node_name: "n1".into(),
        scrape_interval_seconds: 1.0,
        scrape_timeout_seconds: 1.0,
        ..Config::default()
    };
    for round in 0..2 {
        let registries = Registries::default();
        let registry = registries.of("prometheus");
        let gauge = prometheus::IntGauge::new("answer", "The answer.").unwrap();
        registries.of("kube-scheduler").register(Box::new(gauge.clone())).unwrap();
        gauge.set(42);
        let sources = Sources { registries, ..Sources::default() };
        let metrics = Metrics::new(config.clone(), sources, nobody(), &registry).unwrap();
        let (handler, token) = (metrics.handler(), CancellationToken::new());
        let ctx = Ctx::for_test(token.clone());
        let asking = async {
            if round == 1 {
                // Before this run scraped anything, the last one's samples are there.
                let counted = wait(&handler, "count_over_time(answer%5B5m%5D)").await;
                assert!(counted[0]["value"][1].as_str().unwrap().parse::<f64>().unwrap() >= 1.0);
            }
            let found = wait(&handler, "answer%7Bjob%3D%22kube-scheduler%22%7D").await;
            assert_eq!(found[0]["value"][1], "42");
            assert_eq!(found[0]["metric"]["instance"], "n1");
            wait(&handler, "node_memory_MemTotal_bytes%7Bjob%3D%22node-exporter%22%7D").await;
            wait(&handler, "prometheus_tsdb_head_series%7Bjob%3D%22prometheus-k8s%22%7D%20%3E%200").await;
            wait(&handler, "rate(prometheus_tsdb_head_samples_appended_total%5B1m%5D)%20%3E%200").await;
            assert!(ctx.is_ready());
            token.cancel();
        };
        let (outcome, ()) = tokio::join!(metrics.run(ctx.clone()), asking);
        outcome.unwrap();
    }
}
