//! Any sequence of operations, against a map that cannot be wrong.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test fails by panicking and owns its tasks")]

use std::collections::BTreeMap;
use std::sync::Arc;

use pharos_store::{Config, Embedded, Error, Expect, Metrics, Op, Range, Store as _, Value};
use pharos_telemetry::Clock;
use prometheus::Registry;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<(u8, Kind, Guess)>),
    Compact(u64),
    ReadPast(u64),
    Page(u8, usize),
    Reopen,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Put(u16),
    Delete,
    Check,
}

/// How the expectation relates to the truth.
#[derive(Debug, Clone, Copy)]
enum Guess {
    Any,
    Absent,
    Right,
    Wrong,
}

/// Key to value, revision and create revision.
type Live = BTreeMap<String, (Vec<u8>, u64, u64)>;

#[derive(Default)]
struct Model {
    live: Live,
    revision: u64,
    floor: u64,
    past: BTreeMap<u64, Live>,
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![4 => any::<u16>().prop_map(Kind::Put), 2 => Just(Kind::Delete), 1 => Just(Kind::Check)];
    let guess = prop_oneof![4 => Just(Guess::Any), 1 => Just(Guess::Absent), 3 => Just(Guess::Right), 1 => Just(Guess::Wrong)];
    prop_oneof![
        12 => prop::collection::vec((0..12_u8, kind, guess), 1..4).prop_map(Step::Commit),
        1 => (0..20_u64).prop_map(Step::Compact),
        3 => (0..30_u64).prop_map(Step::ReadPast),
        2 => (0..12_u8, 0..6_usize).prop_map(|(start, limit)| Step::Page(start, limit)),
        1 => Just(Step::Reopen),
    ]
}

fn key(n: u8) -> String {
    format!("/m/{}/{n:02}", n % 3)
}

fn open(dir: &std::path::Path) -> Arc<Embedded> {
    let config = Config { segment_bytes: 64 << 10, max_commit_bytes: 16 << 10, ..Config::new(dir) };
    Embedded::open(config, Clock::system(), Metrics::new(&Registry::new()).unwrap()).unwrap()
}

impl Model {
    /// The revision after, or `None` for a conflict.
    fn commit(&mut self, ops: &[Op]) -> Option<u64> {
        let mut live = self.live.clone();
        let mut is_changed = false;
        for op in ops {
            let key = op.key().to_string();
            let before = self.live.get(&key);
            if !op.expect().holds(before.map(|(_, revision, _)| *revision)) {
                return None;
            }
            match op {
                Op::Put { value, .. } => {
                    let created = before.map_or(self.revision + 1, |(_, _, created)| *created);
                    live.insert(key, (value.bytes().to_vec(), self.revision + 1, created));
                    is_changed = true;
                }
                Op::Delete { .. } => is_changed |= live.remove(&key).is_some(),
                Op::Check { .. } => {}
            }
        }
        if is_changed {
            self.revision += 1;
            self.live = live;
            self.past.insert(self.revision, self.live.clone());
        }
        Some(self.revision)
    }

    fn op(&self, (n, kind, guess): (u8, Kind, Guess)) -> Op {
        let revision = self.live.get(&key(n)).map(|(_, revision, _)| *revision);
        let expect = match guess {
            Guess::Any => Expect::Any,
            Guess::Absent => Expect::Absent,
            Guess::Right => revision.map_or(Expect::Absent, Expect::Revision),
            Guess::Wrong => Expect::Revision(revision.unwrap_or(0) + 1),
        };
        match kind {
            Kind::Put(size) => {
                let value = Value::opaque(vec![b'a' + n; usize::from(size % 3000)]);
                Op::Put { key: key(n).into(), value, expect, ttl: None }
            }
            Kind::Delete => Op::delete(key(n), expect),
            Kind::Check => Op::check(key(n), expect),
        }
    }
}

async fn live(store: &Embedded, range: Range) -> Result<(Live, usize), Error> {
    let page = store.list(range).await?;
    let entries = page.entries.into_iter();
    let live = entries.map(|entry| (entry.key.to_string(), (entry.bytes.to_vec(), entry.revision, entry.create_revision)));
    Ok((live.collect(), page.remaining))
}

async fn check(steps: Vec<Step>) {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let mut model = Model::default();
    model.past.insert(0, Live::new());
    for step in steps {
        match step {
            Step::Commit(mut ops) => {
                ops.sort_by_key(|(n, ..)| *n);
                ops.dedup_by_key(|(n, ..)| *n);
                let ops: Vec<_> = ops.into_iter().map(|op| model.op(op)).collect();
                match (store.commit(ops.clone()).await, model.commit(&ops)) {
                    (Ok(commit), Some(revision)) => assert_eq!(commit.revision, revision),
                    (Err(Error::Conflict { .. }), None) => {}
                    (outcome, expected) => panic!("{outcome:?}, not {expected:?}"),
                }
            }
            Step::Compact(back) => {
                let revision = model.revision.saturating_sub(back);
                match store.compact(revision).await {
                    Ok(()) => model.floor = model.floor.max(revision),
                    Err(Error::Compacted { .. }) => assert!(revision < model.floor),
                    Err(e) => panic!("{e}"),
                }
            }
            Step::ReadPast(back) => {
                let at = model.revision.saturating_sub(back);
                match live(&store, Range { prefix: "/m/".into(), at: Some(at), ..Range::default() }).await {
                    Ok((found, _)) => assert_eq!(found, model.past[&at]),
                    Err(Error::Compacted { .. }) => assert!(at < model.floor),
                    Err(e) => panic!("{e}"),
                }
            }
            Step::Page(start, limit) => {
                let range = Range { prefix: "/m/1/".into(), start: Some(key(start)), limit, at: None };
                let (found, remaining) = live(&store, range).await.unwrap();
                let mut all = model.live.clone();
                all.retain(|name, _| name.starts_with("/m/1/") && *name >= key(start));
                let limit = if limit == 0 { usize::MAX } else { limit };
                assert_eq!(remaining, all.len().saturating_sub(limit));
                assert_eq!(found, all.into_iter().take(limit).collect());
            }
            Step::Reopen => {
                store.close().await;
                drop(store);
                store = open(dir.path());
                model.floor = 0; // The log still has what was compacted in memory.
            }
        }
        assert_eq!(store.revision().await.unwrap(), model.revision);
    }
    let (found, _) = live(&store, Range::default()).await.unwrap();
    assert_eq!(found, model.live);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_a_map_with_a_memory(steps in prop::collection::vec(step(), 1..60)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(check(steps));
    }
}
