#![allow(clippy::disallowed_methods, reason = "tests start tasks outside any component")]

use std::time::Duration;

use pharos_api::object::Field;
use pharos_telemetry::Clock;
use prometheus::Registry;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::{Config, Embedded, Expect, Metrics, Op, Value};

struct Fixture {
    store: Arc<Embedded>,
    cache: Cache,
    _dir: TempDir,
}

async fn fixture(change: impl FnOnce(&mut CacheConfig)) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { segment_bytes: 256 << 10, max_commit_bytes: 64 << 10, ..Config::new(dir.path()) };
    let store = Embedded::open(config, Clock::system(), Metrics::new(&Registry::new()).unwrap()).unwrap();
    let fields = Arc::new(Fields::new([Field::plain("spec.nodeName")]));
    let mut config = CacheConfig { trigger: Some("spec.nodeName".into()), ..CacheConfig::new("", "pods", fields) };
    change(&mut config);
    let metrics = CacheMetrics::new(&Registry::new()).unwrap();
    let cache = Cache::attach(store.clone(), config, &metrics).await.unwrap();
    Fixture { store, cache, _dir: dir }
}

impl Fixture {
    async fn put(&self, namespace: &str, name: &str, node: &str) -> Revision {
        let object = json!({"metadata": {"namespace": namespace, "name": name}, "spec": {"nodeName": node}});
        let op = Op::put(self.cache.key(namespace, name), Value::encode(&object).unwrap());
        self.store.commit(vec![op]).await.unwrap().revision
    }

    async fn delete(&self, namespace: &str, name: &str) -> Revision {
        let op = Op::delete(self.cache.key(namespace, name), Expect::Any);
        self.store.commit(vec![op]).await.unwrap().revision
    }

    fn watch(&self, scope: Scope, start: Start) -> Subscription {
        self.cache.subscribe(scope, start).unwrap()
    }
}

fn name(namespace: &str, name: &str) -> Scope {
    Scope::Name { namespace: namespace.into(), name: name.into() }
}

/// What is there to be read, as `KIND name revision`.
fn ready(watch: &mut Subscription) -> Vec<String> {
    let mut seen = Vec::new();
    while let Some(item) = watch.try_next().unwrap() {
        seen.push(match item {
            Item::Event(event) => format!("{} {} {}", event.kind.as_str(), event.object.name(), event.revision),
            Item::Synced(revision) => format!("SYNCED {revision}"),
        });
    }
    seen
}

#[tokio::test]
async fn a_watch_sees_its_scope_only() {
    let f = fixture(|_| ()).await;
    f.put("n", "a", "").await;
    f.put("n", "ab", "x").await;
    let mut watches = [
        f.watch(Scope::All, Start::Initial),
        f.watch(Scope::Namespace("n".into()), Start::Initial),
        f.watch(name("n", "a"), Start::Initial),
        f.watch(Scope::Field("x".into()), Start::Initial),
        f.watch(Scope::Field("y".into()), Start::Now),
        f.watch(Scope::Namespace("n".into()), Start::Revision(1)),
    ];
    f.put("n", "a", "x").await; // 3
    f.put("nn", "a", "x").await; // 4
    f.put("n", "ab", "y").await; // 5: leaves x, joins y
    f.delete("n", "a").await; // 6
    let initial = ["ADDED a 1", "ADDED ab 2", "SYNCED 2"];
    let in_n = ["MODIFIED a 3", "MODIFIED ab 5", "DELETED a 6"];
    assert_eq!(ready(&mut watches[0])[3..], ["MODIFIED a 3", "ADDED a 4", "MODIFIED ab 5", "DELETED a 6"]);
    assert_eq!(ready(&mut watches[1]), [&initial[..], &in_n].concat());
    assert_eq!(ready(&mut watches[2]), ["ADDED a 1", "SYNCED 2", "MODIFIED a 3", "DELETED a 6"]);
    let node_x = ["ADDED ab 2", "SYNCED 2", "MODIFIED a 3", "ADDED a 4", "MODIFIED ab 5", "DELETED a 6"];
    assert_eq!(ready(&mut watches[3]), node_x);
    assert_eq!(ready(&mut watches[4]), ["MODIFIED ab 5"]);
    assert_eq!(ready(&mut watches[5]), [&["ADDED ab 2"][..], &in_n].concat());
    // Those who come later read the same out of the main ring.
    for (scope, expected) in [
        (Scope::Namespace("n".into()), &["ADDED ab 2", "MODIFIED a 3", "MODIFIED ab 5", "DELETED a 6"][..]),
        (name("n", "a"), &["MODIFIED a 3", "DELETED a 6"]),
        (Scope::Field("y".into()), &["MODIFIED ab 5"]),
        (Scope::Field("x".into()), &["ADDED ab 2", "MODIFIED a 3", "ADDED a 4", "MODIFIED ab 5", "DELETED a 6"]),
    ] {
        assert_eq!(ready(&mut f.watch(scope.clone(), Start::Revision(1))), expected, "{scope:?}");
    }
}

#[tokio::test]
async fn an_event_has_both_states() {
    let f = fixture(|_| ()).await;
    let mut watch = f.watch(Scope::All, Start::Now);
    f.put("n", "a", "x").await;
    f.put("n", "a", "y").await;
    let gone = f.delete("n", "a").await;
    let mut nodes = Vec::new();
    for _ in 0..3 {
        let Item::Event(event) = watch.next().await.unwrap() else { panic!() };
        let node = |object: &Object| object.field("spec.nodeName").unwrap().to_owned();
        nodes.push((event.previous.as_deref().map(node), node(&event.object)));
        let version: serde_json::Value = serde_json::from_slice(event.object.bytes()).unwrap();
        assert_eq!(version["metadata"]["resourceVersion"], event.revision.to_string());
    }
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(nodes, [(None, "x".into()), (some("x"), "y".into()), (some("y"), "y".into())]);
    assert_eq!(watch.bookmark(), gone);
}

#[tokio::test]
async fn a_watcher_that_lags_is_told() {
    let f = fixture(|config| (config.min_events, config.max_events) = (4, 8)).await;
    f.put("n", "a", "x").await;
    let mut slow = [f.watch(Scope::All, Start::Now), f.watch(Scope::Namespace("n".into()), Start::Now)];
    let mut idle = f.watch(Scope::Field("elsewhere".into()), Start::Now);
    for _ in 0..9 {
        f.put("n", "a", "x").await;
    }
    for watch in &mut slow {
        assert!(matches!(watch.next().await, Err(Error::Lagged { revision: 1 })));
        assert!(matches!(watch.try_next(), Err(Error::Lagged { .. })));
    }
    // Nothing for it went by: it has not lagged, and may be told how far things are.
    assert!(matches!(idle.try_next(), Ok(None)));
    assert_eq!(idle.bookmark(), 10);
    let compacted = f.cache.subscribe(Scope::All, Start::Revision(1));
    assert!(matches!(compacted, Err(Error::Compacted { requested: 1, oldest: 2 })));
    assert_eq!(ready(&mut f.watch(Scope::All, Start::Revision(2))).len(), 8);
}

#[tokio::test]
async fn events_are_bounded_in_bytes() {
    let f = fixture(|config| (config.min_events, config.max_event_bytes) = (2, 1000)).await;
    for _ in 0..100 {
        f.put("n", "a", &"x".repeat(400)).await;
    }
    assert_eq!(f.cache.shared.state.read().ring.len(), 2);
}

#[tokio::test]
async fn a_dropped_watch_leaves_nothing() {
    let f = fixture(|_| ()).await;
    let scopes = [Scope::All, Scope::Namespace("n".into()), name("n", "a"), Scope::Field("x".into())];
    let watches: Vec<_> = scopes.iter().chain(&scopes).map(|scope| f.watch(scope.clone(), Start::Now)).collect();
    let counts = || {
        let state = f.cache.shared.state.read();
        (state.ring.watchers, state.by_key.len(), state.by_field.len(), f.cache.shared.metrics.watchers.get())
    };
    assert_eq!(counts(), (2, 2, 1, 8));
    drop(watches);
    assert_eq!(counts(), (0, 0, 0, 0));
}

#[tokio::test]
async fn closing_the_cache_ends_its_watches() {
    let f = fixture(|_| ()).await;
    let mut watch = f.watch(Scope::Namespace("n".into()), Start::Now);
    let waiting = tokio::spawn(async move { watch.next().await.map(drop) });
    tokio::task::yield_now().await;
    drop(f.cache);
    assert!(matches!(waiting.await.unwrap(), Err(Error::Closed)));
}

#[tokio::test]
async fn lists_are_pages_of_one_revision() {
    let f = fixture(|_| ()).await;
    for (namespace, name) in [("a", "1"), ("a", "2"), ("a", "3"), ("b", "1"), ("ab", "1")] {
        f.put(namespace, name, if name == "2" { "x" } else { "" }).await;
    }
    let list = async |options: ListOptions| f.cache.list(&options).await.unwrap();
    let all = list(ListOptions::default()).await;
    assert_eq!((all.objects.len(), all.next, all.remaining, all.revision), (5, None, Some(0), 5));
    let of = |scope| ListOptions { scope, ..ListOptions::default() };
    for (scope, count) in [
        (Scope::Namespace("a".into()), 3),
        (Scope::Namespace("ab".into()), 1),
        (Scope::Namespace("c".into()), 0),
        (name("a", "1"), 1),
        (Scope::Field("x".into()), 1),
    ] {
        assert_eq!(list(of(scope.clone())).await.objects.len(), count, "{scope:?}");
    }
    let first = list(ListOptions { limit: 2, ..ListOptions::default() }).await;
    assert_eq!((first.objects.len(), first.remaining), (2, Some(3)));
    // What happens in between is not in the pages that follow.
    f.put("a", "3", "new").await;
    f.delete("b", "1").await;
    let next = ListOptions { limit: 2, start: first.next, exact: Some(first.revision), ..ListOptions::default() };
    let second = list(next.clone()).await;
    let names = |list: &List| list.objects.iter().map(|o| format!("{}/{}", o.namespace(), o.name())).collect::<Vec<_>>();
    assert_eq!((names(&second), second.remaining), (vec!["a/3".to_owned(), "ab/1".to_owned()], Some(1)));
    assert_eq!(second.objects[0].field("spec.nodeName"), Some(""));
    let third = list(ListOptions { start: second.next, ..next.clone() }).await;
    assert_eq!((names(&third), third.next, third.revision), (vec!["b/1".to_owned()], None, 5));
    f.store.compact(7).await.unwrap();
    assert!(matches!(f.cache.list(&next).await, Err(Error::Compacted { .. })));

    let matching = f.cache.list_matching(&ListOptions { limit: 1, ..ListOptions::default() }, |o| o.name() == "1").await.unwrap();
    assert_eq!((names(&matching), matching.remaining), (vec!["a/1".to_owned()], None));
    assert!(matching.next.is_some());
}

#[tokio::test]
async fn a_revision_to_come_is_waited_for() {
    let f = fixture(|_| ()).await;
    let options = ListOptions { at_least: 1, ..ListOptions::default() };
    let (list, _) = tokio::join!(f.cache.list(&options), f.put("n", "a", ""));
    assert_eq!(list.unwrap().objects.len(), 1);
    tokio::time::pause();
    let before = Instant::now();
    assert!(matches!(f.cache.wait(9).await, Err(Error::FutureRevision { requested: 9, current: 1 })));
    assert!(before.elapsed() >= crate::FRESH_DEADLINE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_under_load_miss_nothing_and_see_order() {
    const WRITES: usize = 300;
    let f = Arc::new(fixture(|_| ()).await);
    let scopes = [Scope::All, Scope::Namespace("n0".into()), Scope::Field("x1".into()), name("n1", "p")];
    let watchers: Vec<_> = (0..12)
        .map(|i| {
            let (f, scope) = (f.clone(), scopes[i % scopes.len()].clone());
            tokio::spawn(async move {
                // Some start from the state, some catch up, while writes go on.
                let start = if i % 2 == 0 { Start::Initial } else { Start::Revision(0) };
                let mut watch = f.watch(scope.clone(), start);
                let (mut last, mut state) = (0, std::collections::BTreeMap::new());
                while last < 4 * WRITES as u64 + 1 {
                    match watch.next().await.unwrap() {
                        Item::Synced(revision) => last = revision,
                        Item::Event(event) => {
                            assert!(event.revision > last || matches!(start, Start::Initial) && event.kind == EventType::Added);
                            let prior = state.insert(event.key.clone(), event.revision);
                            // The state before is the one seen before: nothing was skipped.
                            if let (Some(prior), Some(previous)) = (prior, &event.previous) {
                                assert_eq!(prior, previous.revision());
                            }
                            last = last.max(event.revision);
                        }
                    }
                    if event_scope_is_done(&f, &watch) {
                        break;
                    }
                }
                state.len()
            })
        })
        .collect();
    let writers = (0..4).map(|w| {
        let f = f.clone();
        tokio::spawn(async move {
            for _ in 0..WRITES {
                f.put(&format!("n{w}"), "p", &format!("x{w}")).await;
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    f.put("n0", "end", "x1").await;
    f.put("n1", "p", "x1").await;
    for watcher in watchers {
        let seen = tokio::time::timeout(Duration::from_secs(20), watcher).await.unwrap().unwrap();
        assert!(seen > 0);
    }
}

/// Whether all writes of the load test are done and the watch has given all of them.
fn event_scope_is_done(f: &Fixture, watch: &Subscription) -> bool {
    watch.bookmark() >= 1202 && f.cache.revision() >= 1202
}

#[tokio::test]
async fn the_size_follows_the_objects() {
    let f = fixture(|_| ()).await;
    assert_eq!(f.cache.size(), (0, 0));
    let bytes = || {
        let snapshot = f.cache.snapshot();
        let sizes: Vec<usize> = snapshot.iter(&Scope::All, None).map(|(_, object)| object.bytes().len()).collect();
        (sizes.len(), sizes.iter().sum::<usize>())
    };
    f.put("n", "a", "").await;
    f.put("n", "b", "a long name of a node").await;
    assert_eq!(f.cache.size(), bytes());
    f.put("n", "a", "another").await;
    f.delete("n", "b").await;
    assert_eq!(f.cache.size(), bytes());
    assert_eq!(f.cache.size().0, 1);
}
