use pharos_telemetry::{Component as _, Ctx};
use prometheus::Registry;

use super::*;
use crate::entry::Labels;

/// An index in a directory, which seals after so many bytes.
pub(crate) fn open(directory: &std::path::Path, head_bytes: usize) -> Arc<Index> {
    let config = Config { data_dir: directory.to_owned(), head_bytes, retention_seconds: 0, ..Config::default() };
    Arc::new(Index::open(config, Metrics::new(&Registry::new()).unwrap()).unwrap())
}

pub(crate) fn entries(labels: &[(&str, &str)], lines: impl IntoIterator<Item = (i64, String)>) -> Vec<Entry> {
    let stream = Stream::exactly(Labels::new(labels.iter().copied()));
    lines.into_iter().map(|(time, line)| Entry::new(time, &stream, &line, vec![])).collect()
}

pub(crate) fn append(index: &Index, entries: Vec<Entry>) {
    index.append_now(Source::Push, Batch { entries, positions: vec![] });
}

/// Makes a split of all that is in the head.
pub(crate) fn seal(index: &Index) {
    index.freeze(&mut index.log.lock());
    while !index.state.read().frozen.is_empty() {
        index.seal(jiff::Timestamp::now()).unwrap();
    }
}

/// The lines that a query finds, oldest first.
pub(crate) fn find(index: &Index, query: &str) -> Vec<String> {
    use crate::{engine, logql, scan::Limits};
    let logql::Expr::Log(expr) = logql::parse(query).unwrap() else { panic!("{query} gives no lines") };
    let query = engine::LogQuery { expr: &expr, start: i64::MIN, end: i64::MAX, limit: usize::MAX, backward: false, interval: 0 };
    let limits = Limits { deadline: Instant::now() + Duration::from_secs(60), abandoned: Arc::default() };
    engine::logs(index, &query, &limits).unwrap().0.into_iter().map(|line| line.text).collect()
}

#[test]
fn lines_are_found_in_head_and_splits_and_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path(), usize::MAX);
    append(&index, entries(&[("app", "web")], [(1, "one".to_owned()), (3, "three".to_owned())]));
    seal(&index);
    append(&index, entries(&[("app", "web")], [(2, "two".to_owned()), (4, "four".to_owned())]));
    assert_eq!(find(&index, r#"{app="web"}"#), ["one", "two", "three", "four"]);
    std::mem::forget(index); // As if killed: nothing is flushed or closed.
    let index = open(dir.path(), usize::MAX);
    assert_eq!(find(&index, r#"{app="web"}"#), ["one", "two", "three", "four"]);
    assert_eq!(find(&index, r#"{app="web"} |= "hre""#), ["three"]);
    seal(&index);
    assert_eq!(find(&index, r#"{app="web"}"#), ["one", "two", "three", "four"]);
    let index = open(dir.path(), usize::MAX);
    assert_eq!(find(&index, r#"{app="web"}"#), ["one", "two", "three", "four"]);
}

#[test]
fn splits_are_merged_in_order_and_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path(), usize::MAX);
    let mut expected = Vec::new();
    for round in 0..20_i64 {
        let lines = (0..50).map(|line| (round * 40 + line, format!("round {round} line {line}")));
        expected.extend(lines.clone());
        append(&index, entries(&[("app", if round % 2 == 0 { "even" } else { "odd" })], lines));
        seal(&index);
    }
    assert!(index.state.read().splits.len() < 10, "{}", index.state.read().splits.len());
    expected.sort_by_key(|(time, _)| *time);
    let mut found = find(&index, r#"{app=~".+"}"#);
    assert_eq!(found.len(), expected.len());
    found.sort();
    let mut lines: Vec<_> = expected.into_iter().map(|(_, line)| line).collect();
    lines.sort();
    assert_eq!(found, lines);
    drop(index);
    let index = open(dir.path(), usize::MAX);
    assert_eq!(find(&index, r#"{app=~".+"} |= "line 7""#).len(), 20);
    assert_eq!(find(&index, r#"{app="odd"} |= "round 13 line 4""#).len(), 11);
}

#[test]
fn old_lines_and_too_many_are_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { data_dir: dir.path().to_owned(), retention_seconds: 60, ..Config::default() };
    let index = Index::open(config, Metrics::new(&Registry::new()).unwrap()).unwrap();
    let now = jiff::Timestamp::from_second(1000).unwrap();
    append(&index, entries(&[("app", "web")], [(930_000_000_000, "old".to_owned())]));
    seal_at(&index, now);
    append(&index, entries(&[("app", "web")], [(950_000_000_000, "new".to_owned())]));
    seal_at(&index, now);
    assert_eq!(find(&index, r#"{app="web"}"#), ["new"]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "one split and the log");
}

fn seal_at(index: &Index, now: jiff::Timestamp) {
    index.freeze(&mut index.log.lock());
    index.seal(now).unwrap();
}

#[test]
fn what_follows_a_look_comes_once() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path(), usize::MAX);
    append(&index, entries(&[("app", "web")], [(1, "one".to_owned())]));
    let limits = crate::scan::Limits { deadline: Instant::now() + Duration::from_secs(60), abandoned: Arc::default() };
    let scan = Scan { start: 0, end: i64::MAX, streams: &|_| true, needles: &[], backward: false, lines: true, limits: &limits };
    let (chunks, mut following) = index.follow(&scan);
    append(&index, entries(&[("app", "web")], [(2, "two".to_owned())]));
    assert_eq!(chunks.len(), 1);
    assert_eq!(&*following.try_recv().unwrap()[0].line, "two");
    assert!(following.try_recv().is_err());
}

/// Needles are looked up in the index; what they leave out must not contain them.
#[test]
fn a_filter_finds_in_splits_what_it_finds_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path(), usize::MAX);
    let words = ["GET", "timeout", "deadbeef01", "12345", "pod/web-1", "Größe", "x=y", "TIMEOUT:", "a.b.c"];
    let lines: Vec<_> =
        (0..500_usize).map(|at| (at as i64, format!("{} {} {}", words[at % 9], words[at / 3 % 9], words[at / 7 % 9]))).collect();
    append(&index, entries(&[("app", "web")], lines.clone()));
    seal(&index);
    for needle in
        ["GET", "timeout", "imeou", "beef", "2345 ", "web-1 ", "Größ", "b.c", "x=", "TIMEOUT: GET", "d/w", "nowhere", " "]
    {
        let expected: Vec<_> = lines.iter().filter(|(_, line)| line.contains(needle)).map(|(_, line)| line.clone()).collect();
        assert_eq!(find(&index, &format!("{{app=\"web\"}} |= \"{needle}\"")), expected, "{needle}");
    }
}

#[tokio::test]
async fn a_full_head_is_sealed_and_memory_stays_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path(), 64 * 1024);
    let token = tokio_util::sync::CancellationToken::new();
    let ctx = Ctx::for_test(token.clone());
    let maintenance = ctx.spawn("maintain", index.clone().maintain(ctx.clone()));
    for round in 0..200_i64 {
        let lines = (0..50).map(|line| (round * 50 + line, format!("line {line} of round {round}: {}", "x".repeat(100))));
        index.append(Source::Push, Batch { entries: entries(&[("app", "web")], lines), positions: vec![] }).await;
        let state = index.state.read();
        assert!(state.head.bytes < 128 * 1024 && state.frozen.len() <= MOST_FROZEN);
    }
    assert_eq!(find(&index, r#"{app="web"} |= "line 7 of""#).len(), 200);
    token.cancel();
    maintenance.await.unwrap();
    assert_eq!(crate::Logging::NAME, "logging");
}

/// The child writes until it is killed, telling what it was told is stored; nothing of that may be missing or there twice.
#[test]
fn what_was_stored_survives_kill_9() {
    use std::io::BufRead as _;
    const CHILD: &str = "PHAROS_LOGGING_TEST_CHILD";
    if let Some(dir) = std::env::var_os(CHILD) {
        let index = open(dir.as_ref(), 16 * 1024);
        for number in 0..i64::MAX {
            append(&index, entries(&[("app", "web")], [(number, format!("line {number}"))]));
            println!("stored {number}");
            if !index.state.read().frozen.is_empty() {
                index.seal(jiff::Timestamp::now()).unwrap();
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["index::tests::what_was_stored_survives_kill_9", "--exact", "--nocapture"])
        .env(CHILD, dir.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let output = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut stored = 0;
    for line in output.lines().map_while(Result::ok) {
        if let Some(number) = line.strip_prefix("stored ") {
            stored = number.parse::<usize>().unwrap() + 1;
            if stored == 700 {
                child.kill().unwrap();
            }
        }
    }
    child.wait().unwrap();
    let found = find(&open(dir.path(), usize::MAX), r#"{app="web"}"#);
    assert!(found.len() >= stored && stored >= 700, "{} of {stored}", found.len());
    assert!(found.iter().enumerate().all(|(number, line)| *line == format!("line {number}")));
}
