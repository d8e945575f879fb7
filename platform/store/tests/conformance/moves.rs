//! Snapshots, and moves from one engine to the other.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pharos_store::{Archive, Config, Embedded, Entry, Error, Expect, Metrics, Op, Range, Result, Store, Value, copy};
use pharos_telemetry::Clock;
use prometheus::Registry;

use crate::server::Server;

fn open(dir: &Path) -> Result<Arc<Embedded>> {
    Embedded::open(Config::new(dir), Clock::system(), Metrics::new(&Registry::new()).unwrap())
}

fn now() -> i64 {
    Clock::system().now().as_second()
}

/// Objects, a Secret, something that expires, and something deleted.
async fn fill(store: &dyn Store) {
    for n in 0..1500 {
        let object = serde_json::json!({"metadata": {"name": n.to_string()}, "n": n});
        store.commit(vec![Op::create(format!("/registry/core/nodes/{n}"), Value::encode(&object).unwrap())]).await.unwrap();
    }
    let secret = serde_json::json!({"metadata": {"name": "s", "namespace": "n"}, "data": "hidden"});
    store.commit(vec![Op::create("/registry/core/secrets/n/s", Value::encode(&secret).unwrap())]).await.unwrap();
    let event = Op::create("/registry/core/events/n/e", Value::opaque("event")).with_ttl(Duration::from_secs(3600));
    store.commit(vec![event]).await.unwrap();
    store.commit(vec![Op::delete("/registry/core/nodes/7", Expect::Any)]).await.unwrap();
}

async fn all(store: &dyn Store) -> Vec<Entry> {
    store.list(Range::default()).await.unwrap().entries
}

/// What a move keeps: not revisions, and of an expiry a second more or less.
fn kept(entries: &[Entry]) -> Vec<(String, Value, bool)> {
    entries.iter().map(|entry| (entry.key.to_string(), entry.value(), entry.expires_unix_seconds.is_some())).collect()
}

async fn close(store: Arc<Embedded>) {
    store.close().await;
}

#[tokio::test]
async fn a_snapshot_is_restored_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (db, file) = (dir.path().join("db"), dir.path().join("snapshot"));
    let store = open(&db).unwrap();
    fill(&*store).await;
    let (before, revision) = (all(&*store).await, store.revision().await.unwrap());
    let written = Archive::write(&*store, &file, 77).await.unwrap();
    assert_eq!((written.revision, written.entries, written.taken_unix_seconds), (revision, 1501, 77));
    let bytes = std::fs::read(&file).unwrap();
    assert!(!bytes.windows(6).any(|window| window == b"hidden"));
    assert!(matches!(Archive::write(&*store, &file, 77).await, Err(Error::Io { .. })));

    // Later changes are undone, once no server has the store.
    store.commit(vec![Op::delete("/registry/core/nodes/8", Expect::Any)]).await.unwrap();
    let archive = Archive::read(&file).unwrap();
    assert!(matches!(archive.restore(&Config::new(&db), None, 0, 5), Err(Error::Locked { .. })));
    close(store).await;
    let old = archive.restore(&Config::new(&db), None, 0, 5).unwrap();
    assert_eq!(old, Some(dir.path().join("db-old-5")));
    let store = open(&db).unwrap();
    assert_eq!((all(&*store).await, store.revision().await.unwrap()), (before.clone(), revision));
    let next = store.commit(vec![Op::put("/registry/x", Value::opaque("x"))]).await.unwrap().revision;
    assert_eq!(next, revision + 1);
    close(store).await;
    let store = open(&db).unwrap();
    assert_eq!(all(&*store).await.len(), before.len() + 1);
    close(store).await;
    assert_eq!(all(&*open(&dir.path().join("db-old-5")).unwrap()).await.len(), before.len() - 1);

    // Elsewhere it needs the keys.
    let other = dir.path().join("other");
    assert!(matches!(archive.restore(&Config::new(&other), None, 0, 6), Err(Error::Decrypt { .. })));
    assert!(!other.exists());
    assert_eq!(archive.restore(&Config::new(&other), Some(&db.join("encryption.keys")), 1000, 6).unwrap(), None);
    let store = open(&other).unwrap();
    assert_eq!((all(&*store).await, store.revision().await.unwrap()), (before, revision + 1000));
}

#[tokio::test]
async fn a_torn_snapshot_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("snapshot");
    let store = open(&dir.path().join("db")).unwrap();
    store.commit(vec![Op::put("/registry/a", Value::opaque("a"))]).await.unwrap();
    Archive::write(&*store, &file, 0).await.unwrap();
    let whole = std::fs::read(&file).unwrap();
    for len in 0..whole.len() {
        std::fs::write(&file, &whole[..len]).unwrap();
        assert!(matches!(Archive::read(&file), Err(Error::Corrupt { .. })), "{len}");
    }
    for at in 0..whole.len() {
        let mut altered = whole.clone();
        altered[at] ^= 1;
        std::fs::write(&file, &altered).unwrap();
        assert!(matches!(Archive::read(&file), Err(Error::Corrupt { .. })), "{at}");
    }
    std::fs::write(&file, &whole).unwrap();
    assert_eq!(Archive::read(&file).unwrap().entries, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_moves_to_etcd_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let from = open(&dir.path().join("db")).unwrap();
    fill(&*from).await;
    let before = kept(&all(&*from).await);
    let etcd = server.open(server.config("keys")).await;
    assert_eq!(copy(&*from, &*etcd, now()).await.unwrap(), 1501);
    assert_eq!(kept(&all(&*etcd).await), before);
    assert!(matches!(copy(&*from, &*etcd, now()).await, Err(Error::Invalid(_))));

    // A snapshot of etcd is like any other.
    let file = dir.path().join("snapshot");
    assert_eq!(Archive::write(&*etcd, &file, now()).await.unwrap().entries, 1501);

    let config = || Config::new(dir.path().join("back"));
    let metrics = || Metrics::new(&Registry::new()).unwrap();
    assert_eq!(Embedded::copy_from(&*etcd, config(), Clock::system(), metrics()).await.unwrap(), 1501);
    let again = Embedded::copy_from(&*etcd, config(), Clock::system(), metrics()).await;
    assert!(matches!(again, Err(Error::Invalid(_))));
    let back = open(&dir.path().join("back")).unwrap();
    assert_eq!(kept(&all(&*back).await), before);
    etcd.clear().await.unwrap();
    assert_eq!(all(&*etcd).await, []);
}
