//! Classic histograms: buckets that count all observations up to `le` (`promql/quantile.go`).

use ahash::AHashMap;

use super::{
    eval::{Evaluator, Grid, Result, Row, merge},
    number::parse_float,
};
use crate::{
    labels::{Labels, METRIC_NAME},
    tsdb::{is_stale, stale},
};

const LE: &str = "le";
/// Differences between neighbouring buckets below this share are noise of floating point.
const TOLERANCE: f64 = 1e-12;

#[derive(Clone, Copy)]
struct Bucket {
    le: f64,
    count: f64,
}

/// The rows of one histogram.
struct Histogram {
    labels: Labels,
    buckets: Vec<(f64, Vec<f64>)>,
}

/// `histogram_quantile`.
pub(super) fn quantile(evaluator: &mut Evaluator<'_>, q: &[f64], rows: Vec<Row>, grid: &Grid) -> Result<Vec<Row>> {
    for bad in q.iter().filter(|q| q.is_nan() || **q < 0.0 || **q > 1.0).take(1) {
        let note = format!("PromQL warning: quantile value should be between 0 and 1, got {bad}");
        evaluator.notes.warnings.insert(note);
    }
    each(evaluator, rows, grid, |i, buckets, forced| bucket_quantile(q[i], buckets, forced))
}

/// `histogram_fraction`.
pub(super) fn fraction(
    evaluator: &mut Evaluator<'_>,
    lower: &[f64],
    upper: &[f64],
    rows: Vec<Row>,
    grid: &Grid,
) -> Result<Vec<Row>> {
    each(evaluator, rows, grid, |i, buckets, forced| bucket_fraction(lower[i], upper[i], buckets, forced))
}

fn each(
    evaluator: &mut Evaluator<'_>,
    rows: Vec<Row>,
    grid: &Grid,
    f: impl Fn(usize, &mut Vec<Bucket>, &mut bool) -> f64,
) -> Result<Vec<Row>> {
    let mut places: AHashMap<Labels, usize> = AHashMap::new();
    let mut histograms: Vec<Histogram> = Vec::new();
    for row in rows {
        let Some(le) = parse_float(row.labels.get(LE)) else {
            let (le, name) = (row.labels.get(LE), row.labels.name());
            evaluator.notes.warnings.insert(format!(
                "PromQL warning: bucket label \"le\" is missing or has a malformed value of {le:?} for metric name {name:?}"
            ));
            continue;
        };
        let labels = row.labels.filter(|name| name != LE);
        let place = *places.entry(labels.clone()).or_insert_with(|| {
            histograms.push(Histogram { labels, buckets: Vec::new() });
            histograms.len() - 1
        });
        histograms[place].buckets.push((le, row.values));
    }
    let (mut out, mut buckets) = (Vec::with_capacity(histograms.len()), Vec::new());
    for histogram in histograms {
        let (mut values, mut forced) = (Vec::with_capacity(grid.len), false);
        for i in 0..grid.len {
            buckets.clear();
            let there = histogram.buckets.iter().filter(|(_, v)| !is_stale(v[i]));
            buckets.extend(there.map(|(le, v)| Bucket { le: *le, count: v[i] }));
            values.push(if buckets.is_empty() { stale() } else { f(i, &mut buckets, &mut forced) });
        }
        if forced {
            let name = histogram.labels.name();
            evaluator.notes.infos.insert(format!(
                "PromQL info: input to histogram_quantile needed to be fixed for monotonicity (see \
                 https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile) for metric name {name:?}"
            ));
        }
        out.push(Row { labels: histogram.labels.filter(|name| name != METRIC_NAME), values });
    }
    merge(out)
}

/// Sorts, joins equal bounds and makes counts rise; says whether there is a `+Inf` bucket.
fn prepare(buckets: &mut Vec<Bucket>, forced: &mut bool) -> bool {
    buckets.sort_by(|a, b| a.le.total_cmp(&b.le));
    if buckets.last().is_none_or(|b| b.le != f64::INFINITY) {
        return false;
    }
    buckets.dedup_by(|next, kept| {
        let same = next.le == kept.le;
        if same {
            kept.count += next.count;
        }
        same
    });
    let mut previous = buckets[0].count;
    for bucket in &mut buckets[1..] {
        let scale = (bucket.count.abs() + previous.abs()).max(f64::MIN_POSITIVE);
        if (bucket.count - previous).abs() / scale < TOLERANCE {
            bucket.count = previous;
        } else if bucket.count < previous {
            bucket.count = previous;
            *forced = true;
        } else {
            previous = bucket.count;
        }
    }
    true
}

fn bucket_quantile(q: f64, buckets: &mut Vec<Bucket>, forced: &mut bool) -> f64 {
    if q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    if !prepare(buckets, forced) || buckets.len() < 2 {
        return f64::NAN;
    }
    let last = buckets.len() - 1;
    let observations = buckets[last].count;
    if observations == 0.0 || observations.is_nan() {
        return f64::NAN;
    }
    let mut rank = q * observations;
    let b = buckets[..last].partition_point(|bucket| bucket.count < rank);
    if b == last {
        return buckets[last - 1].le;
    }
    if b == 0 && buckets[0].le <= 0.0 {
        return buckets[0].le;
    }
    let (mut start, end, mut count) = (0.0, buckets[b].le, buckets[b].count);
    if b > 0 {
        start = buckets[b - 1].le;
        count -= buckets[b - 1].count;
        rank -= buckets[b - 1].count;
    }
    start + (end - start) * (rank / count)
}

fn bucket_fraction(lower: f64, upper: f64, buckets: &mut Vec<Bucket>, forced: &mut bool) -> f64 {
    if !prepare(buckets, forced) || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    let count = buckets[buckets.len() - 1].count;
    if count == 0.0 || count.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    let rank = |v: f64| {
        let (mut start, mut below) = (if buckets[0].le > 0.0 { 0.0 } else { f64::NEG_INFINITY }, 0.0);
        for bucket in buckets.iter() {
            if v <= start {
                return below;
            }
            if v <= bucket.le {
                return if bucket.le.is_infinite() || start.is_infinite() {
                    // Where in an endless bucket they lie is not known: none below its end.
                    if v == bucket.le { bucket.count } else { below }
                } else {
                    below + (bucket.count - below) * (v - start) / (bucket.le - start)
                };
            }
            (start, below) = (bucket.le, bucket.count);
        }
        below
    };
    (rank(upper) - rank(lower)) / count
}
