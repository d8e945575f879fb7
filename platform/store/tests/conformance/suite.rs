//! What every [`Store`] does. Each case gets an empty store.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use pharos_store::{
    Batch, Cache, CacheConfig, CacheMetrics, Entry, Error, Event, EventType, Expect, Item, ListOptions, Op, Range, Result,
    Revision, Scope, Sink, Stage, Start, Store, Value, reencrypt,
};
use prometheus::Registry;

type Engine = Arc<dyn Store>;

fn value(text: &str) -> Value {
    Value::opaque(text.as_bytes().to_vec())
}

async fn put(store: &Engine, key: &str, text: &str) -> Revision {
    store.commit(vec![Op::put(key, value(text))]).await.unwrap().revision
}

async fn delete(store: &Engine, key: &str) -> Revision {
    store.commit(vec![Op::delete(key, Expect::Any)]).await.unwrap().revision
}

async fn read(store: &Engine, key: &str, at: Option<Revision>) -> Option<String> {
    store.get(key, at).await.unwrap().map(|entry| text(&entry))
}

fn text(entry: &Entry) -> String {
    String::from_utf8(entry.bytes.to_vec()).unwrap()
}

fn range(prefix: &str) -> Range {
    Range { prefix: prefix.to_owned(), ..Range::default() }
}

async fn keys(store: &Engine, range: Range) -> (Vec<String>, usize) {
    let page = store.list(range).await.unwrap();
    (page.entries.iter().map(|entry| entry.key.to_string()).collect(), page.remaining)
}

/// Takes `count` events off a watch, as `revision kind key`.
async fn events(watch: &mut BoxStream<'static, Result<Batch>>, count: usize) -> Vec<String> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let batch = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap().unwrap().unwrap();
        seen.extend(batch.events.iter().map(|event| describe(event)));
    }
    seen
}

fn describe(event: &Event) -> String {
    format!("{} {} {}", event.revision, event.kind().as_str(), event.key)
}

pub(crate) async fn revisions_are_global_and_gapless(store: Engine) {
    let start = store.revision().await.unwrap();
    assert_eq!(put(&store, "/a", "1").await, start + 1);
    assert_eq!(put(&store, "/b", "1").await, start + 2);
    assert_eq!(put(&store, "/a", "2").await, start + 3);
    let entry = store.get("/a", None).await.unwrap().unwrap();
    assert_eq!((entry.create_revision, entry.revision), (start + 1, start + 3));
    assert_eq!(delete(&store, "/a").await, start + 4);
    assert_eq!(put(&store, "/a", "3").await, start + 5);
    assert_eq!(store.get("/a", None).await.unwrap().unwrap().create_revision, start + 5);
    assert_eq!(store.revision().await.unwrap(), start + 5);
    assert_eq!(*store.revisions().borrow(), start + 5);
}

pub(crate) async fn expectations_are_checked(store: Engine) {
    let first = store.commit(vec![Op::create("/a", value("1"))]).await.unwrap().revision;
    for op in [
        Op::create("/a", value("2")),
        Op::update("/a", value("2"), first + 1),
        Op::delete("/a", Expect::Revision(first - 1)),
        Op::check("/a", Expect::Absent),
    ] {
        match store.commit(vec![op]).await {
            Err(Error::Conflict { key, current }) => {
                assert_eq!((&*key, current.map(|entry| text(&entry))), ("/a", Some("1".to_owned())));
            }
            other => panic!("{other:?}"),
        }
    }
    for op in [Op::update("/none", value("2"), first), Op::delete("/none", Expect::Revision(first))] {
        assert!(matches!(store.commit(vec![op]).await, Err(Error::Conflict { current: None, .. })));
    }
    let second = store.commit(vec![Op::update("/a", value("2"), first)]).await.unwrap();
    assert_eq!(second.changes[0].previous.as_ref().map(text), Some("1".to_owned()));
    assert_eq!(second.changes[0].current.as_ref().map(text), Some("2".to_owned()));
    store.commit(vec![Op::delete("/a", Expect::Revision(second.revision))]).await.unwrap();
    store.commit(vec![Op::create("/a", value("3"))]).await.unwrap();
}

pub(crate) async fn a_commit_is_all_or_nothing(store: Engine) {
    let before = put(&store, "/a", "1").await;
    let ops = || {
        vec![
            Op::update("/a", value("2"), before),
            Op::create("/b", value("1")),
            Op::check("/c", Expect::Absent),
            Op::delete("/d", Expect::Any),
        ]
    };
    let blocker = put(&store, "/c", "1").await;
    assert!(matches!(store.commit(ops()).await, Err(Error::Conflict { key, .. }) if &*key == "/c"));
    assert_eq!((read(&store, "/a", None).await, read(&store, "/b", None).await), (Some("1".to_owned()), None));
    assert_eq!(store.revision().await.unwrap(), blocker);
    delete(&store, "/c").await;
    let commit = store.commit(ops()).await.unwrap();
    let (a, b) = (store.get("/a", None).await.unwrap().unwrap(), store.get("/b", None).await.unwrap().unwrap());
    assert_eq!((a.revision, b.revision), (commit.revision, commit.revision));
    assert_eq!(commit.changes.len(), 4);
}

pub(crate) async fn what_changes_nothing_makes_no_revision(store: Engine) {
    let revision = put(&store, "/a", "1").await;
    assert_eq!(delete(&store, "/none").await, revision);
    let check = store.commit(vec![Op::check("/a", Expect::Revision(revision))]).await.unwrap();
    assert_eq!(check.revision, revision);
    assert_eq!(store.commit(vec![]).await.unwrap().revision, revision);
    assert_eq!(store.revision().await.unwrap(), revision);
}

pub(crate) async fn invalid_and_large_commits_are_refused(store: Engine) {
    let twice = vec![Op::put("/a", value("1")), Op::delete("/a", Expect::Any)];
    assert!(matches!(store.commit(twice).await, Err(Error::Invalid(_))));
    assert!(matches!(store.commit(vec![Op::put("", value("1"))]).await, Err(Error::Invalid(_))));
    let large = vec![Op::put("/a", Value::opaque(vec![b'x'; 16 << 20]))];
    assert!(matches!(store.commit(large).await, Err(Error::TooLarge { .. })));
    assert_eq!(read(&store, "/a", None).await, None);
}

pub(crate) async fn the_revision_is_spliced(store: Engine) {
    let object = serde_json::json!({"kind": "Pod", "metadata": {"name": "a", "resourceVersion": "99"}, "spec": {}});
    for _ in 0..12 {
        let revision = store.commit(vec![Op::put("/a", Value::encode(&object).unwrap())]).await.unwrap().revision;
        let entry = store.get("/a", None).await.unwrap().unwrap();
        let mut expected = object.clone();
        expected["metadata"]["resourceVersion"] = revision.to_string().into();
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&entry.bytes).unwrap(), expected);
        assert_eq!(entry.value(), Value::encode(&object).unwrap());
        expected["metadata"]["resourceVersion"] = "123456".into();
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&entry.bytes_at(123_456)).unwrap(), expected);
    }
}

pub(crate) async fn lists_page_in_key_order(store: Engine) {
    for key in ["/p/c", "/p/a", "/q/a", "/p/b", "/o/z", "/p", "/p/d"] {
        put(&store, key, "1").await;
    }
    let all = ["/p/a", "/p/b", "/p/c", "/p/d"].map(str::to_owned).to_vec();
    assert_eq!(keys(&store, range("/p/")).await, (all.clone(), 0));
    assert_eq!(keys(&store, Range { limit: 3, ..range("/p/") }).await, (all[..3].to_vec(), 1));
    assert_eq!(keys(&store, Range { limit: 4, ..range("/p/") }).await, (all.clone(), 0));
    assert_eq!(keys(&store, Range { start: Some("/p/c".into()), ..range("/p/") }).await, (all[2..].to_vec(), 0));
    assert_eq!(keys(&store, Range { start: Some("/p/b0".into()), limit: 1, ..range("/p/") }).await, (all[2..3].to_vec(), 1));
    assert_eq!(keys(&store, Range { start: Some("/a".into()), ..range("/p/") }).await, (all, 0));
    assert_eq!(keys(&store, range("/none/")).await, (vec![], 0));
}

pub(crate) async fn long_lists_are_whole(store: Engine) {
    for n in 0..27 {
        let ops = (0..50).map(|m| Op::put(format!("/l/{:05}", n * 50 + m), value("x"))).collect();
        store.commit(ops).await.unwrap();
    }
    let (all, remaining) = keys(&store, range("/l/")).await;
    assert_eq!((all.len(), remaining), (1350, 0));
    assert!(all.is_sorted() && all[1349] == "/l/01349");
    let (some, remaining) = keys(&store, Range { limit: 700, start: Some("/l/00100".into()), ..range("/l/") }).await;
    assert_eq!((some.len(), some[0].as_str(), remaining), (700, "/l/00100", 550));
}

pub(crate) async fn the_past_can_be_read(store: Engine) {
    let mut revisions = Vec::new();
    for text in ["1", "2", "3"] {
        revisions.push(put(&store, "/a", text).await);
    }
    revisions.push(delete(&store, "/a").await);
    revisions.push(put(&store, "/a", "5").await);
    for (at, expected) in revisions.iter().zip([Some("1"), Some("2"), Some("3"), None, Some("5")]) {
        assert_eq!(read(&store, "/a", Some(*at)).await.as_deref(), expected);
        let page = store.list(Range { at: Some(*at), ..range("/a") }).await.unwrap();
        assert_eq!((page.revision, page.entries.len()), (*at, usize::from(expected.is_some())));
    }
    let future = revisions[4] + 1;
    assert!(matches!(store.get("/a", Some(future)).await, Err(Error::FutureRevision { requested, .. }) if requested == future));
    assert!(matches!(store.list(Range { at: Some(future), ..range("/") }).await, Err(Error::FutureRevision { .. })));
}

pub(crate) async fn compaction_forgets(store: Engine) {
    let first = put(&store, "/a", "1").await;
    put(&store, "/b", "1").await;
    let second = put(&store, "/a", "2").await;
    let gone = delete(&store, "/b").await;
    let third = put(&store, "/a", "3").await;
    store.compact(second).await.unwrap();
    assert!(matches!(store.get("/a", Some(first)).await, Err(Error::Compacted { oldest, .. }) if oldest == second));
    assert!(matches!(store.list(Range { at: Some(first), ..range("/") }).await, Err(Error::Compacted { .. })));
    assert!(matches!(store.compact(first).await, Err(Error::Compacted { .. })));
    assert!(matches!(store.compact(third + 1).await, Err(Error::FutureRevision { .. })));
    assert_eq!(keys(&store, Range { at: Some(second), ..range("/") }).await.0, ["/a", "/b"]);
    assert_eq!(read(&store, "/a", Some(second)).await.as_deref(), Some("2"));
    store.compact(third).await.unwrap();
    assert!(matches!(store.get("/a", Some(gone)).await, Err(Error::Compacted { .. })));
    assert_eq!(keys(&store, range("/")).await, (vec!["/a".to_owned()], 0));
    assert_eq!(read(&store, "/a", None).await.as_deref(), Some("3"));
    assert_eq!(put(&store, "/b", "4").await, third + 1);
}

pub(crate) async fn a_watch_starts_at_any_revision(store: Engine) {
    let first = put(&store, "/w/a", "1").await;
    put(&store, "/x", "1").await;
    put(&store, "/w/a", "2").await;
    delete(&store, "/w/a").await;
    let mut watch = store.watch("/w/", first).await.unwrap();
    let expected = |revision, kind: EventType| format!("{} {} /w/a", revision, kind.as_str());
    assert_eq!(events(&mut watch, 2).await, [expected(first + 2, EventType::Modified), expected(first + 3, EventType::Deleted)]);
    put(&store, "/w/a", "3").await;
    assert_eq!(events(&mut watch, 1).await, [expected(first + 4, EventType::Added)]);
    let mut all = store.watch("/w/", first - 1).await.unwrap();
    assert_eq!(events(&mut all, 4).await.len(), 4);
    assert!(matches!(store.watch("/w/", first + 9).await, Err(Error::FutureRevision { .. })));
}

pub(crate) async fn a_watch_keeps_commits_whole_and_in_order(store: Engine) {
    let start = store.revision().await.unwrap();
    let mut watch = store.watch("/k/", start).await.unwrap();
    let writers = (0..8).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for _ in 0..50 {
                let ops = (0..3).map(|n| Op::put(format!("/k/{writer}/{n}"), value("x"))).collect();
                store.commit(ops).await.unwrap();
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut last = start;
    let mut seen = 0;
    while seen < 8 * 50 * 3 {
        let batch = watch.next().await.unwrap().unwrap();
        for commit in batch.events.chunk_by(|a, b| a.revision == b.revision) {
            assert_eq!((commit[0].revision, commit.len()), (last + 1, 3));
            last = commit[0].revision;
        }
        assert!(batch.revision >= last);
        seen += batch.events.len();
    }
    for writer in writers {
        writer.await.unwrap();
    }
}

pub(crate) async fn a_watch_behind_compaction_ends(store: Engine) {
    let first = put(&store, "/a", "1").await;
    let mut watch = store.watch("/", first).await.unwrap();
    put(&store, "/a", "2").await;
    let last = put(&store, "/a", "3").await;
    store.compact(last).await.unwrap();
    assert!(matches!(store.watch("/", first).await, Err(Error::Compacted { oldest, .. }) if oldest == last));
    // Either it had got the events before, or it says that it cannot.
    loop {
        match watch.next().await {
            Some(Ok(batch)) if batch.revision < last => {}
            Some(Ok(_)) => return,
            Some(Err(Error::Compacted { .. })) => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(watch.next().await.is_none());
}

#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

impl Sink for Recorder {
    fn reset(&self, revision: Revision, entries: Vec<Entry>) {
        let keys: Vec<_> = entries.iter().map(|entry| &*entry.key).collect();
        self.0.lock().push(format!("{revision} reset {}", keys.join(" ")));
    }

    fn events(&self, events: &[Arc<Event>]) {
        self.0.lock().extend(events.iter().map(|event| describe(event)));
    }

    fn is_closed(&self) -> bool {
        false
    }
}

pub(crate) async fn a_sink_gets_state_then_events(store: Engine) {
    put(&store, "/s/a", "1").await;
    let start = put(&store, "/t/a", "1").await;
    let sink = Arc::new(Recorder::default());
    store.attach("/s/", sink.clone()).await.unwrap();
    assert_eq!(*sink.0.lock(), [format!("{start} reset /s/a")]);
    put(&store, "/t/b", "1").await;
    put(&store, "/s/b", "1").await;
    delete(&store, "/s/a").await;
    tokio::time::timeout(Duration::from_secs(10), async {
        while sink.0.lock().len() < 3 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert_eq!(sink.0.lock()[1..], [format!("{} ADDED /s/b", start + 2), format!("{} DELETED /s/a", start + 3)]);
}

pub(crate) async fn sinks_do_not_overlap(store: Engine) {
    let sink = || Arc::new(Recorder::default());
    store.attach("/s/a/", sink()).await.unwrap();
    store.attach("/s/a/", sink()).await.unwrap();
    store.attach("/s/b/", sink()).await.unwrap();
    for prefix in ["/s/", "/s/a/b/"] {
        assert!(matches!(store.attach(prefix, sink()).await, Err(Error::Invalid(_))), "{prefix}");
    }
}

pub(crate) async fn concurrent_writers_of_one_key_take_turns(store: Engine) {
    put(&store, "/n", "0").await;
    let writers = (0..8).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut done = 0;
            while done < 25 {
                let entry = store.get("/n", None).await.unwrap().unwrap();
                let next = text(&entry).parse::<u32>().unwrap() + 1;
                match store.commit(vec![Op::update("/n", value(&next.to_string()), entry.revision)]).await {
                    Ok(_) => done += 1,
                    Err(Error::Conflict { .. }) => {}
                    Err(e) => panic!("{e}"),
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    assert_eq!(read(&store, "/n", None).await.as_deref(), Some("200"));
}

pub(crate) async fn what_is_acknowledged_is_in_the_cache(store: Engine) {
    let metrics = CacheMetrics::new(&Registry::new()).unwrap();
    let cache = Cache::attach(store.clone(), CacheConfig::new("", "pods", Arc::default()), &metrics).await.unwrap();
    let mut watch = cache.subscribe(Scope::All, Start::Now).unwrap();
    for n in 0..100 {
        let name = format!("p{n:03}");
        let object = serde_json::json!({"metadata": {"name": name, "namespace": "n"}});
        let op = Op::create(cache.key("n", &name), Value::encode(&object).unwrap());
        let revision = store.commit(vec![op]).await.unwrap().revision;
        let list = cache.list(&ListOptions { at_least: revision, ..ListOptions::default() }).await.unwrap();
        assert_eq!((list.objects.len(), list.revision), (n + 1, revision));
        let (object, _) = cache.get("n", &name);
        assert_eq!(object.unwrap().name(), name);
        assert!(matches!(watch.next().await.unwrap(), Item::Event(event) if event.revision == revision));
    }
}

pub(crate) async fn it_tells_of_itself(store: Engine) {
    // An engine across the network is well once its watch is there.
    for _ in 0..100 {
        if store.check().is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    store.check().unwrap();
    let last = put(&store, "/a", "1").await;
    store.defragment().await.unwrap();
    let status = store.status().await.unwrap();
    assert_eq!((status.revision, status.keys), (last, 1));
    assert!(status.size_bytes > 0 && !status.version.is_empty() && !status.place.is_empty(), "{status:?}");
    let again = put(&store, "/a", "2").await;
    store.compact(again).await.unwrap();
    assert_eq!(store.status().await.unwrap().compacted_revision, Some(again));
    store.reach(again).await.unwrap();
    assert!(matches!(store.reach(again + 5).await, Err(Error::FutureRevision { .. })));
}

pub(crate) async fn encrypted_values_are_written_again(store: Engine) {
    let key = |n: usize| format!("/registry/core/secrets/n/{n:04}");
    for n in 0..60 {
        put(&store, &key(n), &format!("secret {n}")).await;
    }
    let other = put(&store, "/registry/core/configmaps/n/c", "plain").await;
    let keyring = store.keyring().clone();
    assert_eq!((keyring.stage(), keyring.list().len()), (Stage::Start, 1));
    keyring.prepare().unwrap();
    assert!(matches!(reencrypt(&*store, 0).await, Err(Error::Invalid(_))));
    keyring.rotate().unwrap();
    assert_eq!(reencrypt(&*store, 0).await.unwrap(), 60);
    assert_eq!(keyring.stage(), Stage::Reencrypted);
    for n in 0..60 {
        let entry = store.get(&key(n), None).await.unwrap().unwrap();
        assert_eq!((text(&entry), entry.revision > other), (format!("secret {n}"), true));
    }
    assert_eq!(store.get("/registry/core/configmaps/n/c", None).await.unwrap().unwrap().revision, other);
    assert_eq!(keyring.list().iter().map(|key| key.word).collect::<Vec<_>>(), ["retired", ""]);
}
