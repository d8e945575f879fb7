use super::*;
use crate::labels::{MatchOp, anchored_regex};

fn labels(text: &str) -> Labels {
    Labels::from_pairs(text.split(',').map(|pair| pair.split_once('=').unwrap()))
}

fn options(dir: &std::path::Path) -> Options {
    Options { dir: Some(dir.to_owned()), retention_ms: 0, retention_bytes: 0, checkpoint_bytes: u64::MAX }
}

fn open(options: Options) -> Tsdb {
    Tsdb::open(options, TsdbMetrics::detached()).unwrap()
}

fn add(db: &Tsdb, text: &str, samples: &[(i64, f64)]) -> Outcome {
    let (id, _) = db.series(&labels(text));
    let batch: Vec<_> = samples.iter().map(|&(t, v)| (id, Sample { t, v })).collect();
    db.append(&batch)
}

fn dump(db: &Tsdb) -> Vec<(String, Vec<(i64, f64)>)> {
    db.select(&[], i64::MIN, i64::MAX)
        .iter()
        .map(|series| {
            let mut out = Vec::new();
            series.read(i64::MIN, i64::MAX, &mut out);
            (series.labels().to_string(), out.iter().map(|s| (s.t, s.v)).collect())
        })
        .collect()
}

#[test]
fn selects_by_every_kind_of_matcher() {
    let db = Tsdb::in_memory();
    for text in ["__name__=a,x=1", "__name__=a,x=2,y=1", "__name__=b,x=1", "__name__=b"] {
        add(&db, text, &[(1000, 1.0)]);
    }
    let matcher = |op: &str, name: &str, value: &str| Matcher {
        name: name.into(),
        value: value.into(),
        op: match op {
            "=" => MatchOp::Equal,
            "!=" => MatchOp::NotEqual,
            "=~" => MatchOp::Regex(anchored_regex(value).unwrap()),
            _ => MatchOp::NotRegex(anchored_regex(value).unwrap()),
        },
    };
    let check = |matchers: &[(&str, &str, &str)], want: usize| {
        let matchers: Vec<Matcher> = matchers.iter().map(|(n, op, v)| matcher(op, n, v)).collect();
        assert_eq!(db.select(&matchers, 0, 2000).len(), want, "{matchers:?}");
    };
    check(&[("__name__", "=", "a")], 2);
    check(&[("__name__", "=~", "a|b")], 4);
    check(&[("__name__", "=~", ".+"), ("x", "=", "")], 1);
    check(&[("x", "!=", "1")], 2);
    check(&[("x", "!~", "1|2")], 1);
    check(&[("x", "=~", "[12]"), ("y", "!=", "")], 1);
    check(&[("x", "=~", ".*")], 4);
    check(&[("nope", "=", "x")], 0);
    assert_eq!(db.select(&[], 0, 999).len(), 0);
}

#[test]
fn refuses_what_is_out_of_order() {
    let db = Tsdb::in_memory();
    let outcome = add(&db, "__name__=a", &[(10, 1.0), (20, 2.0), (15, 9.0), (20, 2.0), (20, 3.0)]);
    assert_eq!(outcome, Outcome { appended: 2, out_of_order: 1, duplicate: 1, unknown: 0 });
    assert_eq!(db.append(&[(99, Sample { t: 1, v: 1.0 })]).unknown, 1);
}

#[test]
fn what_was_flushed_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let many: Vec<(i64, f64)> = (0..500).map(|i| (i * 15_000, i as f64 * 0.5)).collect();
    let db = open(options(dir.path()));
    add(&db, "__name__=a,x=1", &many);
    db.flush().unwrap();
    let flushed = dump(&db);
    add(&db, "__name__=lost", &[(1, 1.0)]);
    drop(db);
    let db = open(options(dir.path()));
    assert_eq!(dump(&db), flushed);
    // A checkpoint, then more log.
    db.checkpoint().unwrap();
    add(&db, "__name__=a,x=1", &[(500 * 15_000, 7.0)]);
    add(&db, "__name__=b", &[(5, 1.0)]);
    db.flush().unwrap();
    let all = dump(&db);
    assert_eq!(all.len(), 2);
    drop(db);
    let db = open(options(dir.path()));
    assert_eq!(dump(&db), all);
    // A new series does not take the id of an old one.
    add(&db, "__name__=c", &[(5, 3.0)]);
    assert_eq!(dump(&db)[..2], all[..]);
}

#[test]
fn a_torn_tail_is_cut_and_appended_after() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(options(dir.path()));
    add(&db, "__name__=a", &[(1, 1.0)]);
    db.flush().unwrap();
    add(&db, "__name__=a", &[(2, 2.0)]);
    db.flush().unwrap();
    drop(db);
    let path = dir.path().join("00000001.wal");
    let data = std::fs::read(&path).unwrap();
    // Cut anywhere: nothing panics, and what comes before the cut stays.
    for end in 0..=data.len() {
        std::fs::write(&path, &data[..end]).unwrap();
        let db = open(options(dir.path()));
        add(&db, "__name__=b", &[(3, 3.0)]);
        db.flush().unwrap();
        drop(db);
        let db = open(options(dir.path()));
        let names: Vec<String> = dump(&db).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names.last().map(String::as_str), Some("{__name__=\"b\"}"), "cut at {end}");
    }
    // Any byte turned over: nothing panics.
    for at in 0..data.len() {
        let mut bad = data.clone();
        bad[at] ^= 0x55;
        std::fs::write(&path, &bad).unwrap();
        drop(open(options(dir.path())));
    }
}

#[test]
fn a_series_made_again_is_one_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let bounds = || Options { retention_ms: 60_000, ..options(dir.path()) };
    let db = open(bounds());
    add(&db, "__name__=a", &[(1000, 1.0)]);
    db.retain(100_000);
    assert!(dump(&db).is_empty());
    add(&db, "__name__=a", &[(100_000, 2.0)]);
    db.flush().unwrap();
    drop(db);
    let db = open(bounds());
    assert_eq!(dump(&db)[0].1, [(1000, 1.0), (100_000, 2.0)]);
    add(&db, "__name__=b", &[(100_000, 3.0)]);
    db.flush().unwrap();
    let all = dump(&db);
    drop(db);
    assert_eq!(dump(&open(bounds())), all);
}

#[test]
fn retention_drops_old_chunks_and_empty_series() {
    let bounds = Options { dir: None, retention_ms: 3_600_000, retention_bytes: 0, checkpoint_bytes: u64::MAX };
    let db = open(bounds.clone());
    let many: Vec<(i64, f64)> = (0..1000).map(|i| (i * 15_000, 1.0)).collect();
    add(&db, "__name__=old", &many[..200]);
    add(&db, "__name__=new", &many);
    db.retain(15_000_000);
    let left = dump(&db);
    assert_eq!(left.len(), 1);
    assert!(left[0].1[0].0 > 15_000_000 - 3_600_000 - 120 * 15_000);
    assert_eq!(db.label_values("__name__").len(), 1);

    let db = open(Options { retention_ms: 0, retention_bytes: 2000, ..bounds });
    let noise: Vec<(i64, f64)> = (0..5000).map(|i| (i * 15_000, (i * i % 977) as f64)).collect();
    add(&db, "__name__=a", &noise);
    db.retain(0);
    let left = &dump(&db)[0].1;
    assert!(left.len() < 1500 && left.last().unwrap().0 == 4999 * 15_000, "{}", left.len());
}
