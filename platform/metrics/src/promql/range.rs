//! Functions of one series over a range of time (`promql/functions.go`).

use super::number::{Sum, mean, quantile, variance};
use crate::tsdb::Sample;

/// The samples of one series in one step's range. Times in milliseconds.
pub(super) struct Window<'a> {
    pub(super) samples: &'a [Sample],
    /// Excluded.
    pub(super) start: i64,
    /// Included.
    pub(super) end: i64,
    pub(super) range: i64,
    /// The step's own time, without `offset` and `@`.
    pub(super) step_t: i64,
}

/// A function of a window; `arg` is the scalar argument, if it has one.
pub(super) type RangeFn = fn(&Window<'_>, f64) -> Option<f64>;

/// The function of a name that takes a range vector and nothing else.
pub(super) fn plain(name: &str) -> Option<RangeFn> {
    Some(match name {
        "rate" => |w, _| extrapolated(w, true, true),
        "increase" => |w, _| extrapolated(w, true, false),
        "delta" => |w, _| extrapolated(w, false, false),
        "irate" => |w, _| instant(w, true),
        "idelta" => |w, _| instant(w, false),
        "deriv" => |w, _| regression(w.samples, w.samples.first()?.t).map(|(slope, _)| slope),
        "changes" => |w, _| {
            let differs = |p: &&[Sample]| p[0].v != p[1].v && !(p[0].v.is_nan() && p[1].v.is_nan());
            Some(w.samples.windows(2).filter(differs).count() as f64)
        },
        "resets" => |w, _| Some(w.samples.windows(2).filter(|p| p[1].v < p[0].v).count() as f64),
        "avg_over_time" => |w, _| Some(mean(w.values())),
        "sum_over_time" => |w, _| {
            let mut sum = Sum::default();
            w.values().for_each(|v| sum.add(v));
            Some(sum.get())
        },
        "count_over_time" => |w, _| Some(w.samples.len() as f64),
        "min_over_time" => |w, _| w.values().reduce(|a, b| if b < a || a.is_nan() { b } else { a }),
        "max_over_time" => |w, _| w.values().reduce(|a, b| if b > a || a.is_nan() { b } else { a }),
        "stddev_over_time" => |w, _| Some(variance(w.values()).sqrt()),
        "stdvar_over_time" => |w, _| Some(variance(w.values())),
        "mad_over_time" => |w, _| {
            let mut values: Vec<f64> = w.values().collect();
            let median = quantile(0.5, &mut values);
            values.iter_mut().for_each(|v| *v = (*v - median).abs());
            Some(quantile(0.5, &mut values))
        },
        "last_over_time" => |w, _| w.samples.last().map(|s| s.v),
        "first_over_time" => |w, _| w.samples.first().map(|s| s.v),
        "present_over_time" => |_, _| Some(1.0),
        "ts_of_first_over_time" => |w, _| w.samples.first().map(|s| s.t as f64 / 1000.0),
        "ts_of_last_over_time" => |w, _| w.samples.last().map(|s| s.t as f64 / 1000.0),
        "ts_of_min_over_time" => |w, _| w.pick(|new, old| new <= old),
        "ts_of_max_over_time" => |w, _| w.pick(|new, old| new >= old),
        _ => return None,
    })
}

/// Whether the function wants a counter.
pub(super) fn wants_counter(name: &str) -> bool {
    matches!(name, "rate" | "increase" | "irate" | "resets")
}

/// Whether a name does not look like a counter's.
pub(super) fn is_unlike_counter(name: &str) -> bool {
    !["_total", "_sum", "_count", "_bucket"].iter().any(|suffix| name.ends_with(suffix))
}

impl Window<'_> {
    fn values(&self) -> impl Iterator<Item = f64> + Clone + '_ {
        self.samples.iter().map(|s| s.v)
    }

    /// The time of the last sample that is better than all before it.
    fn pick(&self, better: impl Fn(f64, f64) -> bool) -> Option<f64> {
        let best =
            self.samples.iter().copied().reduce(|old, new| if better(new.v, old.v) || old.v.is_nan() { new } else { old })?;
        Some(best.t as f64 / 1000.0)
    }
}

/// `rate`, `increase` and `delta`: the difference between first and last sample, stretched to the range's ends where the
/// series plausibly reaches them (`extrapolatedRate`).
fn extrapolated(w: &Window<'_>, counter: bool, per_second: bool) -> Option<f64> {
    let (first, last) = (w.samples.first()?, w.samples.last()?);
    if w.samples.len() < 2 {
        return None;
    }
    let mut result = last.v - first.v;
    if counter {
        for pair in w.samples.windows(2) {
            if pair[1].v < pair[0].v {
                result += pair[0].v;
            }
        }
    }
    let mut to_start = (first.t - w.start) as f64 / 1000.0;
    let mut to_end = (w.end - last.t) as f64 / 1000.0;
    let sampled = (last.t - first.t) as f64 / 1000.0;
    let between = sampled / (w.samples.len() - 1) as f64;
    let threshold = between * 1.1;
    if to_start >= threshold {
        to_start = between / 2.0;
    }
    if counter {
        // A counter starts at zero: it cannot have been below it.
        let mut to_zero = to_start;
        if result > 0.0 && first.v >= 0.0 {
            to_zero = sampled * (first.v / result);
        }
        to_start = to_start.min(to_zero);
    }
    if to_end >= threshold {
        to_end = between / 2.0;
    }
    let mut factor = (sampled + to_start + to_end) / sampled;
    if per_second {
        factor /= w.range as f64 / 1000.0;
    }
    Some(result * factor)
}

/// `irate` and `idelta`: from the last two samples.
fn instant(w: &Window<'_>, rate: bool) -> Option<f64> {
    let [.., before, last] = w.samples else { return None };
    let between = last.t - before.t;
    if between == 0 {
        return None;
    }
    if !rate {
        return Some(last.v - before.v);
    }
    let difference = if last.v < before.v { last.v } else { last.v - before.v };
    Some(difference / (between as f64 / 1000.0))
}

/// Slope per second and value at `at` of the line through the samples with least squares.
fn regression(samples: &[Sample], at: i64) -> Option<(f64, f64)> {
    if samples.len() < 2 {
        return None;
    }
    let first = samples[0].v;
    if samples.iter().all(|s| s.v == first) {
        return Some(if first.is_infinite() { (f64::NAN, f64::NAN) } else { (0.0, first) });
    }
    let (mut n, mut x, mut y, mut xy, mut xx) = (0.0, Sum::default(), Sum::default(), Sum::default(), Sum::default());
    for s in samples {
        let t = (s.t - at) as f64 / 1000.0;
        n += 1.0;
        x.add(t);
        y.add(s.v);
        xy.add(t * s.v);
        xx.add(t * t);
    }
    let (x, y) = (x.get(), y.get());
    let covariance = xy.get() - x * y / n;
    let variance = xx.get() - x * x / n;
    let slope = covariance / variance;
    Some((slope, y / n - slope * x / n))
}

/// `predict_linear`: `arg` is seconds from the step on.
pub(super) fn predict_linear(w: &Window<'_>, arg: f64) -> Option<f64> {
    regression(w.samples, w.step_t).map(|(slope, intercept)| slope * arg + intercept)
}

/// `quantile_over_time`.
pub(super) fn quantile_over_time(w: &Window<'_>, q: f64) -> Option<f64> {
    Some(quantile(q, &mut w.values().collect::<Vec<_>>()))
}

/// `double_exponential_smoothing` with smoothing and trend factors.
pub(super) fn smooth(w: &Window<'_>, sf: f64, tf: f64) -> Option<f64> {
    if w.samples.len() < 2 {
        return None;
    }
    let (mut s0, mut s1, mut b) = (0.0, w.samples[0].v, w.samples[1].v - w.samples[0].v);
    for (i, sample) in w.samples.iter().enumerate().skip(1) {
        let x = sf * sample.v;
        if i > 1 {
            b = tf * (s1 - s0) + (1.0 - tf) * b;
        }
        let y = (1.0 - sf) * (s1 + b);
        (s0, s1) = (s1, x + y);
    }
    Some(s1)
}
