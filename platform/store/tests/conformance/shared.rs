//! What only etcd does: several stores on one, leases, and what happens when it goes away.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, GetOptions};
use futures::StreamExt as _;
use pharos_store::{
    Cache, CacheConfig, CacheMetrics, Compactor, Error, Etcd, EtcdConfig, EventType, Item, ListOptions, Op, Scope, Start, Store,
    Value,
};
use pharos_telemetry::{Component as _, Ctx};
use prometheus::Registry;
use tokio_util::sync::CancellationToken;

use crate::server::Server;

const SOON: Duration = Duration::from_secs(20);

async fn pods(store: &Arc<Etcd>) -> Cache {
    let metrics = CacheMetrics::new(&Registry::new()).unwrap();
    Cache::attach(store.clone(), CacheConfig::new("", "pods", Arc::default()), &metrics).await.unwrap()
}

fn pod(name: &str, note: &str) -> Value {
    Value::encode(&serde_json::json!({"metadata": {"name": name, "namespace": "n"}, "note": note})).unwrap()
}

/// What etcd itself has under a key.
async fn raw(config: &EtcdConfig, key: &str) -> Option<Vec<u8>> {
    let mut client = Client::connect(&config.endpoints, None).await.unwrap();
    let got = client.get(key, Some(GetOptions::new())).await.unwrap();
    got.kvs().first().map(|kv| kv.value().to_vec())
}

/// Tries until it is so.
async fn soon(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let tries = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(SOON, tries).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_stores_share_one_etcd() {
    let server = Server::start().await;
    let (a, b) = (server.open(server.config("keys")).await, server.open(server.config("keys")).await);
    let (pods_a, pods_b) = (pods(&a).await, pods(&b).await);
    let mut watch = pods_b.subscribe(Scope::All, Start::Now).unwrap();

    let created = a.commit(vec![Op::create(pods_a.key("n", "p"), pod("p", "by a"))]).await.unwrap().revision;
    // Who asks what is newest finds it in its own cache.
    let newest = b.revision().await.unwrap();
    assert!(newest >= created);
    let list = pods_b.list(&ListOptions { at_least: newest, ..ListOptions::default() }).await.unwrap();
    assert_eq!(list.objects.iter().map(|pod| pod.name()).collect::<Vec<_>>(), ["p"]);
    let event = tokio::time::timeout(SOON, watch.next()).await.unwrap().unwrap();
    assert!(matches!(event, Item::Event(event) if event.revision == created && event.kind == EventType::Added));

    // One wins, the other is told what is there.
    let key = pods_a.key("n", "p");
    let changed = b.commit(vec![Op::update(key.as_str(), pod("p", "by b"), created)]).await.unwrap().revision;
    match a.commit(vec![Op::update(key.as_str(), pod("p", "late"), created)]).await {
        Err(Error::Conflict { current: Some(current), .. }) => assert_eq!(current.revision, changed),
        other => panic!("{other:?}"),
    }

    // Writers at once lose nothing.
    let writers = [&a, &b].into_iter().enumerate().map(|(n, store)| {
        let (store, prefix) = (store.clone(), pods_a.prefix().to_owned());
        tokio::spawn(async move {
            for m in 0..50 {
                store.commit(vec![Op::create(format!("{prefix}n/{n}-{m}"), pod("x", ""))]).await.unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    for (store, cache) in [(&a, &pods_a), (&b, &pods_b)] {
        let at_least = store.revision().await.unwrap();
        assert_eq!(cache.list(&ListOptions { at_least, ..ListOptions::default() }).await.unwrap().objects.len(), 101);
    }
    // An object is its JSON in etcd, a Secret is not.
    let stored = String::from_utf8(raw(&server.config("keys"), &key).await.unwrap()).unwrap();
    assert_eq!(stored, r#"{"metadata":{"resourceVersion":"","name":"p","namespace":"n"},"note":"by b"}"#);
    let secret = "/registry/core/secrets/n/s";
    a.commit(vec![Op::create(secret, Value::opaque("hidden"))]).await.unwrap();
    assert_eq!(b.get(secret, None).await.unwrap().unwrap().bytes, "hidden");
    let stored = raw(&server.config("keys"), secret).await.unwrap();
    assert!(stored.starts_with(b"k8s:enc:aesgcm:v1:") && !stored.windows(6).any(|window| window == b"hidden"));

    // Keys of one's own beside others' values would lose them.
    let metrics = pharos_store::EtcdMetrics::new(&Registry::new()).unwrap();
    let strange = Etcd::open(server.config("other-keys"), pharos_telemetry::Clock::system(), metrics).await;
    assert!(matches!(strange.err(), Some(Error::Invalid(text)) if text.contains("other-keys")));
    assert!(!server.path("other-keys").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_elsewhere_does_not_hold_up_reads() {
    let server = Server::start().await;
    let store = server.open(server.config("keys")).await;
    let pods = pods(&store).await;
    let elsewhere = server.open(EtcdConfig { prefix: "/elsewhere".to_owned(), ..server.config("keys") }).await;
    let far = elsewhere.commit(vec![Op::put("/registry/a", Value::opaque("x"))]).await.unwrap().revision;
    let revision = store.revision().await.unwrap();
    assert!(revision >= far);
    pods.wait(far).await.unwrap();
    assert!(pods.revision() >= far);
    // Neither sees the other's, nor what marks progress.
    assert_eq!(store.list(pharos_store::Range::default()).await.unwrap().entries, []);
    assert_eq!(elsewhere.list(pharos_store::Range::default()).await.unwrap().entries.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_a_lifetime_is_deleted_by_its_lease() {
    let server = Server::start().await;
    let store = server.open(server.config("keys")).await;
    let start = store.revision().await.unwrap();
    let mut watch = store.watch("/registry/core/events/", start).await.unwrap();
    for n in 0..3 {
        let op = Op::create(format!("/registry/core/events/n/{n}"), pod("e", "")).with_ttl(Duration::from_secs(2));
        let entry = store.commit(vec![op]).await.unwrap().changes[0].current.clone().unwrap();
        assert!(entry.expires_unix_seconds.is_some());
        assert_eq!(store.get(&entry.key, None).await.unwrap().unwrap(), entry);
    }
    let mut deleted = 0;
    while deleted < 3 {
        let batch = tokio::time::timeout(SOON, watch.next()).await.unwrap().unwrap().unwrap();
        deleted += batch.events.iter().filter(|event| event.kind() == EventType::Deleted).count();
    }
    assert_eq!(store.list(pharos_store::Range::default()).await.unwrap().entries, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_goes_on_when_etcd_comes_back() {
    let mut server = Server::start().await;
    let store = server.open(server.config("keys")).await;
    let pods = pods(&store).await;
    soon("a watch", async || store.check().is_ok()).await;
    store.commit(vec![Op::create(pods.key("n", "a"), pod("a", ""))]).await.unwrap();
    let mut watch = pods.subscribe(Scope::All, Start::Now).unwrap();

    server.kill();
    soon("trouble", async || store.check().is_err()).await;
    assert!(matches!(store.commit(vec![Op::create(pods.key("n", "x"), pod("x", ""))]).await, Err(Error::Backend(_))));
    assert!(matches!(store.revision().await, Err(Error::Backend(_))));
    assert_eq!(pods.snapshot().len(), 1);

    server.run().await;
    soon("a watch again", async || store.check().is_ok()).await;
    let revision = store.commit(vec![Op::create(pods.key("n", "b"), pod("b", ""))]).await.unwrap().revision;
    let event = tokio::time::timeout(SOON, watch.next()).await.unwrap().unwrap();
    assert!(matches!(event, Item::Event(event) if event.revision == revision && event.object.name() == "b"));
    assert_eq!(pods.snapshot().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_state_is_read_anew() {
    let mut server = Server::start().await;
    let store = server.open(server.config("keys")).await;
    let pods = pods(&store).await;
    for name in ["a", "b", "c"] {
        store.commit(vec![Op::create(pods.key("n", name), pod(name, ""))]).await.unwrap();
    }
    let event = || Op::put("/registry/core/events/n/e", pod("e", "")).with_ttl(Duration::from_secs(3600));
    store.commit(vec![event()]).await.unwrap();
    let before = pods.revision();
    let mut watch = pods.subscribe(Scope::All, Start::Now).unwrap();

    server.wipe();
    server.run().await;
    soon("an empty cache", async || pods.snapshot().is_empty() && store.check().is_ok()).await;
    assert!(pods.revision() < before);
    assert!(matches!(watch.next().await, Err(Error::Lagged { .. })));
    let revision = store.commit(vec![Op::create(pods.key("n", "d"), pod("d", ""))]).await.unwrap().revision;
    assert_eq!((pods.snapshot().len(), pods.revision()), (1, revision));
    // Its lease is gone too.
    store.commit(vec![event()]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_is_compacted_by_one_server_at_a_time() {
    let server = Server::start().await;
    let (a, b) = (server.open(server.config("keys")).await, server.open(server.config("keys")).await);
    let token = CancellationToken::new();
    let run = |store: &Arc<Etcd>| {
        let (compactor, ctx) =
            (Compactor::new(store.clone()).with_interval(Duration::from_millis(100)), Ctx::for_test(token.clone()));
        tokio::spawn(async move { compactor.run(ctx).await })
    };
    let tasks = [run(&a), run(&b)];
    let first = a.commit(vec![Op::put("/registry/a", Value::opaque("1"))]).await.unwrap().revision;
    soon("compaction", async || {
        a.commit(vec![Op::put("/registry/a", Value::opaque("2"))]).await.unwrap();
        matches!(b.get("/registry/a", Some(first)).await, Err(Error::Compacted { oldest, .. }) if oldest > first)
    })
    .await;
    assert!(raw(&server.config("keys"), "compact_rev_key").await.is_some());
    a.revision().await.unwrap();
    b.revision().await.unwrap();
    token.cancel();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
}
