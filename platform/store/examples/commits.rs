//! Measures durable creates: `commits DIR WRITERS SECONDS`. Prints creates a second and what went wrong.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods, reason = "a measurement on a command line")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pharos_store::{Cache, CacheConfig, CacheMetrics, Config, Embedded, Maintenance, Metrics, Op, Store, Value};
use pharos_telemetry::{Clock, Component, Ctx};
use prometheus::Registry;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let args: Vec<String> = std::env::args().collect();
    let (writers, seconds) = (args[2].parse::<usize>().unwrap(), args[3].parse().unwrap());
    let registry = Registry::new();
    let opening = Instant::now();
    let store = Embedded::open(Config::new(&args[1]), Clock::system(), Metrics::new(&registry).unwrap()).unwrap();
    println!("opened at revision {} in {:?}", store.revision().await.unwrap(), opening.elapsed());
    let metrics = CacheMetrics::new(&registry).unwrap();
    let cache = Cache::attach(store.clone(), CacheConfig::new("", "pods", Arc::default()), &metrics).await.unwrap();
    let token = CancellationToken::new();
    let maintenance = tokio::spawn({
        let (store, ctx) = (store.clone(), Ctx::for_test(token.clone()));
        async move { Maintenance::new(store).run(ctx).await }
    });
    let object = serde_json::json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"x": "x".repeat(1400)}});
    let (value, began) = (Value::encode(&object).unwrap(), Instant::now());
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let (store, value) = (store.clone(), value.clone());
            let prefix = format!("{}n/{began:?}-{writer}-", cache.prefix());
            tokio::spawn(async move {
                let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
                let mut n = 0;
                while began.elapsed() < Duration::from_secs(seconds) {
                    n += 1;
                    let outcome = store.commit(vec![Op::create(format!("{prefix}{n}"), value.clone())]).await;
                    let failed = outcome.is_err();
                    *outcomes.entry(outcome.map_or_else(|e| e.to_string(), |_| "ok".into())).or_default() += 1;
                    if failed {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
                outcomes
            })
        })
        .collect();
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    for task in tasks {
        for (outcome, count) in task.await.unwrap() {
            *outcomes.entry(outcome).or_default() += count;
        }
    }
    for (outcome, count) in outcomes {
        println!("{outcome}: {count}, {:.0}/s", count as f64 / began.elapsed().as_secs_f64());
    }
    token.cancel();
    maintenance.await.unwrap().unwrap();
    let held = cache.snapshot().len();
    store.close().await;
    println!("{held} objects, revision {}", store.revision().await.unwrap());
}
