//! Runs the cases of `testdata/promql/*.test`, in the format of Prometheus' own test files (`promql/promqltest/README.md`):
//! `clear`, `load STEP`, `eval instant at T EXPR`, `eval range from A to B step S EXPR`, `expect fail|warn|info|ordered`.

use std::{sync::Arc, time::Duration};

use super::*;
use crate::{labels::METRIC_NAME, tsdb::stale};

struct Runner {
    db: Arc<Tsdb>,
    place: String,
}

enum Expected {
    Fail,
    Warn,
    Info,
    Ordered,
}

fn duration(text: &str) -> i64 {
    if let Ok(seconds) = text.parse::<f64>() {
        return (seconds * 1000.0) as i64;
    }
    promql_parser::util::parse_duration(text).unwrap_or_else(|e| panic!("{text}: {e}")).as_millis() as i64
}

/// `name{label="value"} rest`.
fn series(line: &str) -> (Labels, &str) {
    let (text, rest) = match (line.find('{'), line.find('}')) {
        (Some(open), Some(close)) if !line[..open].contains(' ') => line.split_at(close + 1),
        _ => line.split_at(line.find(' ').unwrap_or(line.len())),
    };
    let (name, pairs) = text.split_once('{').map_or((text, ""), |(name, pairs)| (name, pairs.trim_end_matches('}')));
    let mut builder = Labels::default().builder();
    builder.set(METRIC_NAME, name);
    for pair in pairs.split(',').filter(|p| !p.trim().is_empty()) {
        let (label, value) = pair.split_once('=').unwrap_or_else(|| panic!("label in {line}"));
        builder.set(label.trim(), value.trim().trim_matches('"'));
    }
    (builder.build(), rest.trim())
}

/// `1 2 _ stale 0+10x5 3x2`: values with gaps.
fn values(text: &str) -> Vec<Option<f64>> {
    let number = |text: &str| number::parse_float(text).unwrap_or_else(|| panic!("number {text}"));
    let mut out = Vec::new();
    for word in text.split_whitespace() {
        let (base, times) = match word.rsplit_once('x') {
            Some((base, times)) if !word.starts_with("0x") => (base, times.parse::<usize>().unwrap()),
            _ => {
                out.push(match word {
                    "_" => None,
                    "stale" => Some(stale()),
                    _ => Some(number(word)),
                });
                continue;
            }
        };
        if base == "_" {
            out.extend(std::iter::repeat_n(None, times));
            continue;
        }
        // The sign of the step is the last one that follows a digit.
        let at = base.char_indices().skip(1).filter(|(i, c)| "+-".contains(*c) && !base[..*i].ends_with('e')).last();
        let (start, step) = match at {
            Some((i, _)) => (number(&base[..i]), number(&base[i..])),
            None => (number(base), 0.0),
        };
        out.extend((0..=times).map(|i| Some(start + step * i as f64)));
    }
    out
}

impl Runner {
    fn run(name: &str, text: &str) -> usize {
        let mut runner = Self { db: Arc::new(Tsdb::in_memory()), place: String::new() };
        let mut lines = text.lines().enumerate().map(|(n, l)| (n + 1, l.split('#').next().unwrap_or_default())).peekable();
        let mut count = 0;
        while let Some((n, line)) = lines.next() {
            runner.place = format!("{name}:{n}: {line}");
            let mut block = Vec::new();
            while let Some((_, next)) = lines.next_if(|(_, l)| l.starts_with([' ', '\t']) && !l.trim().is_empty()) {
                block.push(next.trim().to_owned());
            }
            match line.split_whitespace().next() {
                None => {}
                Some("clear") => runner.db = Arc::new(Tsdb::in_memory()),
                Some("load") => runner.load(duration(line["load".len()..].trim()), &block),
                Some("eval") => {
                    runner.eval(line, &block);
                    count += 1;
                }
                Some(other) => panic!("{}: unknown command {other}", runner.place),
            }
        }
        count
    }

    fn load(&self, step: i64, block: &[String]) {
        for line in block {
            let (labels, rest) = series(line);
            let (id, _) = self.db.series(&labels);
            let at = values(rest).into_iter().enumerate();
            let batch: Vec<_> = at.filter_map(|(i, v)| Some((id, Sample { t: step * i as i64, v: v? }))).collect();
            assert_eq!(self.db.append(&batch).appended, batch.len(), "{}", self.place);
        }
    }

    fn eval(&self, line: &str, block: &[String]) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let after = |n: usize| {
            let mut rest = line.trim();
            for _ in 0..n {
                rest = rest.split_once(char::is_whitespace).map_or("", |(_, rest)| rest.trim_start());
            }
            rest
        };
        let (times, query) = match words[1] {
            "instant" => (Times::Instant(duration(words[3])), after(4)),
            _ => (Times::Range { start: duration(words[3]), end: duration(words[5]), step: duration(words[7]) }, after(8)),
        };
        let (mut wanted, mut expected) = (Vec::new(), Vec::new());
        for line in block {
            match line.strip_prefix("expect ").map(|w| w.split_whitespace().next().unwrap_or_default()) {
                Some("fail") => expected.push(Expected::Fail),
                Some("warn") => expected.push(Expected::Warn),
                Some("info") => expected.push(Expected::Info),
                Some("ordered") => expected.push(Expected::Ordered),
                Some(other) => panic!("{}: unknown expectation {other}", self.place),
                None => wanted.push(line.as_str()),
            }
        }
        let engine = Engine::new(self.db.clone(), Limits::default(), EngineMetrics::detached());
        let answer = plan::parse(query)
            .map_err(QueryError::Parse)
            .and_then(|node| engine.evaluate(&node, times, Instant::now() + Duration::from_secs(10)));
        if expected.iter().any(|e| matches!(e, Expected::Fail)) {
            assert!(answer.is_err(), "{}: {answer:?}", self.place);
            return;
        }
        let answer = answer.unwrap_or_else(|error| panic!("{}: {error}", self.place));
        assert_eq!(
            expected.iter().any(|e| matches!(e, Expected::Warn)),
            !answer.warnings.is_empty(),
            "{}: {answer:?}",
            self.place
        );
        assert_eq!(expected.iter().any(|e| matches!(e, Expected::Info)), !answer.infos.is_empty(), "{}: {answer:?}", self.place);
        self.compare(answer.value, &wanted, times, expected.iter().any(|e| matches!(e, Expected::Ordered)));
    }

    fn compare(&self, value: Value, wanted: &[&str], times: Times, ordered: bool) {
        let start = match times {
            Times::Instant(t) => (t, 1),
            Times::Range { start, step, .. } => (start, step),
        };
        let series_of = |labels: Labels, samples: Vec<Sample>| (labels, samples);
        let got: Vec<(Labels, Vec<Sample>)> = match value {
            Value::Scalar(s) => {
                let want = number::parse_float(wanted[0]).unwrap();
                assert!(close(s.v, want), "{}: {} is not {want}", self.place, s.v);
                return;
            }
            Value::Text(_, text) => return assert_eq!(text, wanted[0], "{}", self.place),
            Value::Vector(all) => all.into_iter().map(|(l, s)| series_of(l, vec![s])).collect(),
            Value::Matrix(all) => all,
        };
        assert_eq!(got.len(), wanted.len(), "{}: {got:?}", self.place);
        for (i, line) in wanted.iter().enumerate() {
            let (labels, rest) = series(line);
            let found = if ordered { got.get(i).filter(|g| g.0 == labels) } else { got.iter().find(|g| g.0 == labels) };
            let Some((_, samples)) = found else { panic!("{}: no {labels} in {got:?}", self.place) };
            let want: Vec<(i64, f64)> =
                values(rest).into_iter().enumerate().filter_map(|(i, v)| Some((start.0 + start.1 * i as i64, v?))).collect();
            assert_eq!(samples.len(), want.len(), "{}: {samples:?}", self.place);
            for (sample, (t, v)) in samples.iter().zip(want) {
                assert!(sample.t == t && close(sample.v, v), "{}: {sample:?} is not {v} at {t}", self.place);
            }
        }
    }
}

fn close(a: f64, b: f64) -> bool {
    a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= 1e-6 * a.abs().max(b.abs())
}

#[test]
fn cases() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/promql");
    let (mut files, mut count) = (0, 0);
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        files += 1;
        count += Runner::run(&path.file_name().unwrap().to_string_lossy(), &std::fs::read_to_string(&path).unwrap());
    }
    assert!(files >= 5 && count >= 150, "{files} files, {count} cases");
}

#[test]
fn limits() {
    let db = Arc::new(Tsdb::in_memory());
    let (id, _) = db.series(&Labels::from_pairs([("__name__", "a")]));
    db.append(&(0..100).map(|i| (id, Sample { t: i * 1000, v: 1.0 })).collect::<Vec<_>>());
    let limits = Limits { max_samples: 50, ..Limits::default() };
    let engine = Engine::new(db, limits, EngineMetrics::detached());
    let node = plan::parse("sum_over_time(a[5m])").unwrap();
    let far = Instant::now() + Duration::from_secs(10);
    let error = engine.evaluate(&node, Times::Instant(100_000), far).unwrap_err();
    assert_eq!(error.to_string(), "query processing would load too many samples into memory in query execution");
    let late = engine.evaluate(&node, Times::Instant(100_000), Instant::now()).unwrap_err();
    assert_eq!(late, QueryError::Timeout("expression evaluation"));
}
