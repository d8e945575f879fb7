#![allow(clippy::disallowed_methods, reason = "tests start tasks outside any component")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};

use pharos_telemetry::Ctx;
use prometheus::Registry;
use tempfile::TempDir;

use super::*;
use crate::{Maintenance, Value};

/// A directory and how to open it.
struct Fixture {
    dir: TempDir,
    now: Arc<AtomicI64>,
    segment_bytes: u64,
}

impl Fixture {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), now: Arc::new(AtomicI64::new(1_000)), segment_bytes: 64 << 10 }
    }

    fn config(&self) -> Config {
        Config { segment_bytes: self.segment_bytes, max_commit_bytes: 16 << 10, ..Config::new(self.dir.path().join("store")) }
    }

    fn try_open(&self) -> Result<Arc<Embedded>> {
        let now = self.now.clone();
        let clock = Clock::from_fn(move || jiff_seconds(now.load(Ordering::Relaxed)));
        Embedded::open(self.config(), clock, Metrics::new(&Registry::new()).unwrap())
    }

    fn open(&self) -> Arc<Embedded> {
        self.try_open().unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.config().dir.join(name)
    }

    fn segments(&self) -> Vec<PathBuf> {
        let mut paths: Vec<_> = fs::read_dir(self.config().dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
        paths.sort();
        paths
    }
}

fn jiff_seconds(seconds: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(seconds).unwrap()
}

fn text(n: u64) -> Value {
    Value::opaque(format!("value {n}").into_bytes())
}

async fn put(store: &Embedded, key: &str, value: Value) -> Revision {
    store.commit(vec![Op::put(key, value)]).await.unwrap().revision
}

/// Everything live, as `(key, revision, create revision, bytes)`.
async fn state(store: &Embedded) -> Vec<(String, Revision, Revision, Bytes)> {
    let page = store.list(Range::default()).await.unwrap();
    let entries = page.entries.into_iter();
    entries.map(|entry| (entry.key.to_string(), entry.revision, entry.create_revision, entry.bytes)).collect()
}

async fn reopen(fixture: &Fixture, store: Arc<Embedded>) -> Arc<Embedded> {
    store.close().await;
    drop(store);
    fixture.open()
}

#[tokio::test]
async fn a_restart_changes_nothing() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    for round in 0..5 {
        for n in 0..100 {
            put(&store, &format!("/k/{n}"), text(round * 100 + n)).await;
        }
        store.commit(vec![Op::delete(format!("/k/{round}"), crate::Expect::Any)]).await.unwrap();
        if round == 2 {
            store.fold().await.unwrap();
        }
        let (before, revision) = (state(&store).await, store.revision().await.unwrap());
        store = reopen(&fixture, store).await;
        assert_eq!(state(&store).await, before);
        assert_eq!(store.revision().await.unwrap(), revision);
    }
    // What the log still holds can be watched again after a restart.
    let newest = store.revision().await.unwrap();
    let mut watch = store.watch("/k/", newest - 10).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().events.len(), 10);
}

#[tokio::test]
async fn the_check_is_whether_commits_are_taken() {
    let store = Fixture::new().open();
    store.check().unwrap();
    store.close().await;
    assert!(matches!(store.check(), Err(Error::Closed)));
}

#[tokio::test]
async fn folding_bounds_the_log() {
    let fixture = Fixture::new();
    let store = fixture.open();
    for n in 0..600 {
        put(&store, &format!("/k/{}", n % 20), Value::opaque(vec![b'x'; 1000])).await;
    }
    assert!(fixture.segments().len() > 5);
    store.fold().await.unwrap();
    assert_eq!(fixture.segments().len(), 1);
    let before = state(&store).await;
    let store = reopen(&fixture, store).await;
    assert_eq!(state(&store).await, before);
    // A segment folded but not yet removed when the process died.
    put(&store, "/k/1", text(1)).await;
    store.close().await;
    drop(store);
    let newest = fixture.segments().pop().unwrap();
    fs::copy(&newest, fixture.path(&format!("{:016x}.log", 1))).unwrap();
    assert_eq!(fixture.open().get("/k/1", None).await.unwrap().unwrap().bytes, "value 1");
}

/// Writes some commits one by one; returns the log's bytes after each, and the states.
async fn written(fixture: &Fixture) -> (Vec<u8>, Vec<(usize, u64)>) {
    let store = fixture.open();
    let mut ends = Vec::new();
    for n in 1..=6 {
        put(&store, &format!("/k/{n}"), text(n)).await;
        let bytes = fs::read(&fixture.segments()[0]).unwrap();
        ends.push((bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1, n));
    }
    let bytes = fs::read(&fixture.segments()[0]).unwrap(); // As if killed: no frame ends the log in order.
    store.close().await;
    (bytes, ends)
}

#[tokio::test]
async fn a_torn_end_is_cut_at_any_offset() {
    let fixture = Fixture::new();
    let (bytes, ends) = written(&fixture).await;
    let path = fixture.segments()[0].clone();
    let last = ends.last().unwrap().0;
    for cut in (record::SEGMENT_HEADER..=last).step_by(3).chain([last]) {
        let mut torn = bytes.clone();
        torn[cut..].fill(0);
        for whole in [true, false] {
            if !whole {
                torn.truncate(cut); // The file ends there, too.
            }
            fs::write(&path, &torn).unwrap();
            let store = fixture.open();
            let expected = ends.iter().filter(|(end, _)| *end <= cut).count() as u64;
            assert_eq!(store.revision().await.unwrap(), expected, "cut at {cut}");
            assert_eq!(put(&store, "/new", text(0)).await, expected + 1);
            let store = reopen(&fixture, store).await;
            assert_eq!(state(&store).await.len() as u64, expected + 1, "cut at {cut}");
            store.close().await;
        }
    }
}

#[tokio::test]
async fn a_flipped_bit_is_never_silent() {
    let fixture = Fixture::new();
    let (bytes, ends) = written(&fixture).await;
    let path = fixture.segments()[0].clone();
    let (before_last, last) = (ends[ends.len() - 2].0, ends.last().unwrap().0);
    for offset in 0..last {
        let mut flipped = bytes.clone();
        flipped[offset] ^= 1 << (offset % 8);
        fs::write(&path, &flipped).unwrap();
        match fixture.try_open() {
            Err(Error::Corrupt { path: named, offset: at, .. }) => {
                assert_eq!(named, path);
                assert!(at as usize <= offset, "{at} for {offset}");
            }
            Err(e) => panic!("{e} for {offset}"),
            // Only the last batch may be taken for torn, and padding holds nothing.
            Ok(store) => {
                let revision = store.revision().await.unwrap();
                let is_last = offset >= before_last && revision == 5;
                assert!(is_last || (revision == 6 && flipped[offset] == 1 << (offset % 8)), "{offset}: {revision}");
                store.close().await;
            }
        }
    }
}

#[tokio::test]
async fn after_an_orderly_end_no_flip_is_taken_for_torn() {
    let fixture = Fixture::new();
    let (_, ends) = written(&fixture).await;
    let path = fixture.segments()[0].clone();
    let bytes = fs::read(&path).unwrap();
    let (start, end) = (ends[ends.len() - 2].0.next_multiple_of(8), ends.last().unwrap().0);
    for offset in start..end {
        let mut flipped = bytes.clone();
        flipped[offset] ^= 1;
        fs::write(&path, &flipped).unwrap();
        assert!(matches!(fixture.try_open(), Err(Error::Corrupt { .. })), "{offset}");
    }
}

#[tokio::test]
async fn a_missing_or_damaged_file_is_an_error() {
    let fixture = Fixture::new();
    let store = fixture.open();
    for n in 0..400 {
        put(&store, &format!("/k/{}", n % 50), Value::opaque(vec![b'x'; 1000])).await;
        if n == 200 {
            store.fold().await.unwrap();
        }
    }
    let live = state(&store).await;
    store.close().await;
    drop(store);
    let segments = fixture.segments();
    assert!(segments.len() > 2);
    for victim in &segments {
        let bytes = fs::read(victim).unwrap();
        fs::remove_file(victim).unwrap();
        let outcome = fixture.try_open();
        // Without the last segment the one before cannot be told from the newest; all others are missed.
        if victim != segments.last().unwrap() {
            assert!(matches!(outcome, Err(Error::Corrupt { .. })), "{}", victim.display());
        }
        drop(outcome);
        fs::write(victim, bytes).unwrap();
    }
    let path = fixture.path("snapshot.redb");
    let snapshot = fs::read(&path).unwrap();
    let mut noticed = 0;
    for offset in (0..snapshot.len()).step_by(997) {
        let mut flipped = snapshot.clone();
        flipped[offset] ^= 0x10;
        fs::write(&path, &flipped).unwrap();
        match fixture.try_open() {
            Ok(store) => {
                assert_eq!(state(&store).await, live, "{offset}"); // It hit what holds nothing.
                store.close().await;
            }
            Err(Error::Corrupt { .. } | Error::Io { .. }) => noticed += 1,
            Err(e) => panic!("{e}"),
        }
    }
    assert!(noticed > 0);
    fs::remove_file(&path).unwrap();
    assert!(matches!(fixture.try_open(), Err(Error::Corrupt { .. })));
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_loses_nothing() {
    let fixture = Fixture::new();
    let dir = fixture.config().dir;
    let store = fixture.open();
    put(&store, "/a", text(1)).await;
    log::FAILS.lock().push(dir.clone());
    for _ in 0..3 {
        let ops = vec![Op::put("/a", text(2)), Op::put("/b", text(2))];
        assert!(matches!(store.commit(ops).await, Err(Error::DiskFull { .. })));
        assert_eq!(store.get("/a", None).await.unwrap().unwrap().bytes, "value 1");
        assert_eq!(store.revision().await.unwrap(), 1);
    }
    log::FAILS.lock().retain(|failing| *failing != dir);
    assert_eq!(put(&store, "/a", text(3)).await, 2);
    put(&store, "/c", text(4)).await;
    let before = state(&store).await;
    let store = reopen(&fixture, store).await;
    assert_eq!(state(&store).await, before);
    store.fold().await.unwrap();
    let store = reopen(&fixture, store).await;
    assert_eq!(state(&store).await, before);
}

#[tokio::test]
async fn one_process_at_a_time() {
    let fixture = Fixture::new();
    let store = fixture.open();
    assert!(matches!(fixture.try_open(), Err(Error::Locked { .. })));
    store.close().await;
    assert!(matches!(store.commit(vec![]).await, Err(Error::Closed)));
    drop(store);
    fixture.open();
}

#[tokio::test]
async fn secrets_are_encrypted_at_rest() {
    let fixture = Fixture::new();
    let key = "/registry/core/secrets/n/s";
    let mut store = fixture.open();
    for round in 0..3 {
        put(&store, key, Value::opaque("the plain secret".repeat(10))).await;
        put(&store, "/registry/core/configmaps/n/c", Value::opaque("the plain config")).await;
        for n in 0..100 {
            put(&store, &format!("/registry/core/secrets/n/{n}"), Value::opaque("the plain secret".repeat(50))).await;
        }
        store.keyring().add().unwrap();
        store.fold().await.unwrap();
        store = reopen(&fixture, store).await;
        let entry = store.get(key, None).await.unwrap().unwrap();
        assert_eq!(entry.bytes, "the plain secret".repeat(10), "{round}");
    }
    store.close().await;
    drop(store);
    let mut configs = 0;
    for file in fs::read_dir(fixture.config().dir).unwrap() {
        let bytes = fs::read(file.unwrap().path()).unwrap();
        let holds = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        assert!(!holds(b"plain secret"));
        configs += usize::from(holds(b"plain config"));
    }
    assert!(configs > 0);

    let keys = fixture.path("encryption.keys");
    assert_eq!(fs::metadata(&keys).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&keys).unwrap();
    assert_eq!(text.lines().count(), 4);
    fs::write(&keys, text.lines().last().unwrap()).unwrap();
    assert!(matches!(fixture.try_open(), Err(Error::Decrypt { .. })));
    fs::write(&keys, "nonsense").unwrap();
    assert!(matches!(fixture.try_open(), Err(Error::Corrupt { .. })));
    fs::write(&keys, &text).unwrap();
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(fixture.try_open(), Err(Error::Invalid(_))));
}

#[tokio::test]
async fn what_has_a_lifetime_is_deleted_with_a_revision() {
    let fixture = Fixture::new();
    let hour = std::time::Duration::from_secs(3600);
    let store = fixture.open();
    for key in ["/e/1", "/e/2", "/e/3"] {
        store.commit(vec![Op::put(key, text(1)).with_ttl(hour)]).await.unwrap();
    }
    fixture.now.fetch_add(1800, Ordering::Relaxed);
    store.commit(vec![Op::put("/e/2", text(2)).with_ttl(hour)]).await.unwrap();
    put(&store, "/e/3", text(3)).await; // Now for ever.
    let store = reopen(&fixture, store).await;
    assert_eq!(store.expire().await.unwrap(), 0);
    assert_eq!(store.next_expiry(), Some(4600));
    let revision = store.revision().await.unwrap();

    fixture.now.store(4600, Ordering::Relaxed);
    let mut watch = store.watch("/e/", revision).await.unwrap();
    assert_eq!(store.expire().await.unwrap(), 1);
    let batch = watch.next().await.unwrap().unwrap();
    assert_eq!(
        (batch.revision, &*batch.events[0].key, batch.events[0].kind()),
        (revision + 1, "/e/1", crate::EventType::Deleted)
    );
    fixture.now.store(9000, Ordering::Relaxed);
    assert_eq!(store.expire().await.unwrap(), 1);
    assert_eq!(state(&store).await.len(), 1);
    assert_eq!(store.next_expiry(), None);
}

#[tokio::test]
async fn history_is_bounded_in_bytes() {
    let fixture = Fixture::new();
    let config = Config { max_history_bytes: 50_000, ..fixture.config() };
    let store = Embedded::open(config, Clock::system(), Metrics::new(&Registry::new()).unwrap()).unwrap();
    for _ in 0..200 {
        put(&store, "/a", Value::opaque(vec![b'x'; 1000])).await;
    }
    assert!(store.core.index.read().history_bytes <= 50_000);
    assert!(matches!(store.get("/a", Some(100)).await, Err(Error::Compacted { .. })));
    assert!(store.get("/a", Some(170)).await.unwrap().is_some());
}

#[tokio::test]
async fn maintenance_compacts_expires_and_folds() {
    let fixture = Fixture::new();
    let store = fixture.open();
    for n in 0..200 {
        put(&store, &format!("/k/{}", n % 20), Value::opaque(vec![b'x'; 1000])).await;
    }
    let lifetime = std::time::Duration::from_secs(1);
    store.commit(vec![Op::put("/e", text(1)).with_ttl(lifetime)]).await.unwrap();
    let token = CancellationToken::new();
    let ctx = Ctx::for_test(token.clone());
    let interval = std::time::Duration::from_millis(50);
    let maintenance = Maintenance::new(store.clone()).with_compaction_interval(interval);
    let running = tokio::spawn({
        let ctx = ctx.clone();
        async move { pharos_telemetry::Component::run(&maintenance, ctx).await }
    });
    until(|| fixture.segments().len() == 1).await;
    until(|| store.core.index.read().floor == 201).await;
    assert!(ctx.is_ready() && !store.has_history());
    fixture.now.fetch_add(1, Ordering::Relaxed);
    until(|| store.core.index.read().current("/e").is_none()).await;
    until(|| store.core.index.read().floor == 202).await;
    token.cancel();
    running.await.unwrap().unwrap();
}

/// Waits for work on other threads.
async fn until(holds: impl Fn() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(3)).await;
    }
    panic!("it never held");
}

#[test]
fn a_frame_elsewhere_is_no_frame() {
    let mut batch = Vec::new();
    let start = record::begin_frame(&mut batch, 7, 1);
    record::put_change(&mut batch, &record::Logged { key: "k", put: None });
    record::finish_frame(&mut batch, start);
    record::seal_batch(&mut batch, 3, 0);
    assert_eq!(record::frame_at(3, &batch, 0).unwrap().revision, 7);
    assert!(record::frame_at(4, &batch, 0).is_none());
    let moved = [&[0; 8][..], &batch].concat();
    assert!(record::frame_at(3, &moved, 8).is_none());
}
