//! `kill -9` at any moment: what was acknowledged is there afterwards.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test fails by panicking and owns its tasks")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;

use pharos_store::{Config, Embedded, Metrics, Op, Range, Store as _, Value};
use pharos_telemetry::Clock;
use prometheus::Registry;

const DIR: &str = "PHAROS_STORE_KILL_TEST_DIR";

fn open(dir: &str) -> Arc<Embedded> {
    let config = Config { segment_bytes: 256 << 10, max_commit_bytes: 64 << 10, ..Config::new(dir) };
    Embedded::open(config, Clock::system(), Metrics::new(&Registry::new()).unwrap()).unwrap()
}

/// The process to be killed: eight writers, each acknowledgement a line `key number`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let store = open(&dir);
    let start = store.revision().await.unwrap();
    let writers = (0..8).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in start.. {
                let (a, b) = (format!("/k/{writer}/a"), format!("/k/{writer}/b/{}", n % 50));
                let value = || Value::opaque(format!("{n} {}", "x".repeat((n % 700) as usize)));
                store.commit(vec![Op::put(a.clone(), value()), Op::put(b.clone(), value())]).await.unwrap();
                let mut out = std::io::stdout().lock();
                writeln!(out, "ack {a} {n}\nack {b} {n}").unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn acknowledged_writes_survive_being_killed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().to_str().unwrap();
    let mut acknowledged: BTreeMap<String, u64> = BTreeMap::new();
    for round in 0..8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env(DIR, dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        while let Some(Ok(line)) = lines.next() {
            if let Some((key, n)) = line.strip_prefix("ack ").and_then(|ack| ack.split_once(' ')) {
                acknowledged.insert(key.to_owned(), n.parse().unwrap());
                seen += 1;
                if seen == 200 + round * 97 {
                    child.kill().unwrap(); // SIGKILL; what is in the pipe was still acknowledged.
                }
            }
        }
        child.wait().unwrap();
        let store = open(dir);
        let page = store.list(Range::default()).await.unwrap();
        let found: BTreeMap<_, u64> = page
            .entries
            .iter()
            .map(|entry| {
                let text = std::str::from_utf8(&entry.bytes).unwrap();
                (entry.key.to_string(), text.split(' ').next().unwrap().parse().unwrap())
            })
            .collect();
        for (key, n) in &acknowledged {
            assert!(found.get(key).is_some_and(|found| found >= n), "round {round}: {key} {n} {:?}", found.get(key));
        }
        // Both keys of a commit, or neither.
        for (key, n) in found.iter().filter(|(key, _)| key.ends_with("/a")) {
            let pair = format!("{}b/{}", &key[..key.len() - 1], n % 50);
            assert_eq!(found.get(&pair), Some(n), "{pair}");
        }
        store.close().await;
    }
}
