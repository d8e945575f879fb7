//! Functions (`promql/functions.go`).

use super::{
    eval::{Evaluator, Grid, Result, Row, Value, failed, map, merge},
    histogram,
    plan::{Node, Type},
    range,
};
use crate::{
    labels::{Labels, METRIC_NAME, MatchOp, Matcher, anchored_regex},
    tsdb::{is_stale, stale},
};

/// Whether this file knows the function; the parser knows more.
pub(super) fn is_known(name: &str) -> bool {
    const OTHERS: &[&str] = &[
        "absent",
        "absent_over_time",
        "clamp",
        "clamp_max",
        "clamp_min",
        "day_of_month",
        "day_of_week",
        "day_of_year",
        "days_in_month",
        "double_exponential_smoothing",
        "histogram_avg",
        "histogram_count",
        "histogram_fraction",
        "histogram_quantile",
        "histogram_stddev",
        "histogram_stdvar",
        "histogram_sum",
        "hour",
        "label_join",
        "label_replace",
        "minute",
        "month",
        "pi",
        "predict_linear",
        "quantile_over_time",
        "round",
        "scalar",
        "sort",
        "sort_by_label",
        "sort_by_label_desc",
        "sort_desc",
        "time",
        "timestamp",
        "vector",
        "year",
    ];
    OTHERS.contains(&name) || range::plain(name).is_some() || math(name).is_some()
}

/// Functions of one number.
fn math(name: &str) -> Option<fn(f64) -> f64> {
    Some(match name {
        "abs" => f64::abs,
        "acos" => f64::acos,
        "acosh" => f64::acosh,
        "asin" => f64::asin,
        "asinh" => f64::asinh,
        "atan" => f64::atan,
        "atanh" => f64::atanh,
        "ceil" => f64::ceil,
        "cos" => f64::cos,
        "cosh" => f64::cosh,
        "deg" => f64::to_degrees,
        "exp" => f64::exp,
        "floor" => f64::floor,
        "ln" => f64::ln,
        "log10" => f64::log10,
        "log2" => f64::log2,
        "rad" => f64::to_radians,
        "sgn" => |v| {
            if v > 0.0 {
                1.0
            } else if v < 0.0 {
                -1.0
            } else {
                v
            }
        },
        "sin" => f64::sin,
        "sinh" => f64::sinh,
        "sqrt" => f64::sqrt,
        "tan" => f64::tan,
        "tanh" => f64::tanh,
        _ => return None,
    })
}

/// Functions of a date.
fn date(name: &str) -> Option<fn(&Date) -> i64> {
    Some(match name {
        "minute" => |d| d.second_of_day / 60 % 60,
        "hour" => |d| d.second_of_day / 3600,
        "day_of_week" => |d| (d.days + 4).rem_euclid(7),
        "day_of_month" => |d| d.day,
        "day_of_year" => |d| d.days - days_from_civil(d.year, 1, 1) + 1,
        "days_in_month" => |d| {
            let (year, month) = if d.month == 12 { (d.year + 1, 1) } else { (d.year, d.month + 1) };
            days_from_civil(year, month, 1) - days_from_civil(d.year, d.month, 1)
        },
        "month" => |d| d.month,
        "year" => |d| d.year,
        _ => return None,
    })
}

/// Evaluates a call.
pub(super) fn call(e: &mut Evaluator<'_>, name: &'static str, args: &[Node], grid: &Grid) -> Result<Value> {
    if let Some(f) = range::plain(name) {
        if range::wants_counter(name) {
            e.check_counter(&args[0]);
        }
        let keep_name = matches!(name, "last_over_time" | "first_over_time");
        return Ok(Value::Vector(e.over_time(&args[0], grid, keep_name, &mut |_, w| f(w, 0.0))?));
    }
    if let Some(f) = math(name) {
        let rows = e.vector(&args[0], grid)?;
        return each(rows, |_, v| f(v));
    }
    if let Some(f) = date(name) {
        let rows = match args.first() {
            Some(arg) => e.vector(arg, grid)?,
            None => vec![Row { labels: Labels::default(), values: grid.times().map(|t| t as f64 / 1000.0).collect() }],
        };
        return each(rows, |_, v| if v.is_finite() { f(&Date::new(v)) as f64 } else { f64::NAN });
    }
    match name {
        "time" => Ok(Value::Scalar(grid.times().map(|t| t as f64 / 1000.0).collect())),
        "pi" => Ok(Value::Scalar(vec![std::f64::consts::PI; grid.len])),
        "vector" => Ok(Value::Vector(vec![Row { labels: Labels::default(), values: e.scalar(&args[0], grid)? }])),
        "scalar" => scalar(e, args, grid),
        "timestamp" => timestamp(e, args, grid),
        "absent" => absent(e, args, grid),
        "absent_over_time" => absent_over_time(e, args, grid),
        "clamp" | "clamp_min" | "clamp_max" | "round" => bounded(e, name, args, grid),
        "label_replace" => label_replace(e, args, grid),
        "label_join" => label_join(e, args, grid),
        "sort" | "sort_desc" => Ok(Value::Vector(e.vector(&args[0], grid)?)),
        "sort_by_label" | "sort_by_label_desc" => sort_by_label(e, name, args, grid),
        "predict_linear" | "quantile_over_time" | "double_exponential_smoothing" => with_scalars(e, name, args, grid),
        "histogram_quantile" => {
            let q = e.scalar(&args[0], grid)?;
            let rows = e.vector(&args[1], grid)?;
            Ok(Value::Vector(histogram::quantile(e, &q, rows, grid)?))
        }
        "histogram_fraction" => {
            let (lower, upper) = (e.scalar(&args[0], grid)?, e.scalar(&args[1], grid)?);
            let rows = e.vector(&args[2], grid)?;
            Ok(Value::Vector(histogram::fraction(e, &lower, &upper, rows, grid)?))
        }
        // Of native histograms only; there are none, and floats are left out.
        "histogram_avg" | "histogram_count" | "histogram_stddev" | "histogram_stdvar" | "histogram_sum" => {
            e.vector(&args[0], grid)?;
            Ok(Value::Vector(Vec::new()))
        }
        _ => failed(format!("function {name:?} is not supported")),
    }
}

/// Applies `f` to every value and drops names.
fn each(mut rows: Vec<Row>, f: impl Fn(usize, f64) -> f64) -> Result<Value> {
    for row in &mut rows {
        row.labels = row.labels.without_name();
        map(&mut row.values, &f);
    }
    Ok(Value::Vector(merge(rows)?))
}

fn text(args: &[Node], i: usize) -> Result<&str> {
    match args.get(i) {
        Some(Node::Text(text)) => Ok(text),
        _ => failed("expected a string"),
    }
}

fn scalar(e: &mut Evaluator<'_>, args: &[Node], grid: &Grid) -> Result<Value> {
    let rows = e.vector(&args[0], grid)?;
    let one = |i: usize| {
        let mut there = rows.iter().map(|row| row.values[i]).filter(|v| !is_stale(*v));
        match (there.next(), there.next()) {
            (Some(v), None) => v,
            _ => f64::NAN,
        }
    };
    Ok(Value::Scalar((0..grid.len).map(one).collect()))
}

fn timestamp(e: &mut Evaluator<'_>, args: &[Node], grid: &Grid) -> Result<Value> {
    if let Node::Selector(selector) = &args[0] {
        let rows = e.select(selector, grid, true)?;
        return each(rows, |_, v| v);
    }
    let rows = e.vector(&args[0], grid)?;
    each(rows, |i, _| grid.t(i) as f64 / 1000.0)
}

/// The labels that a selector fixes: what `absent` answers with.
fn fixed_labels(node: &Node) -> Labels {
    let (Node::Selector(selector) | Node::Range(selector, _)) = node else { return Labels::default() };
    let is_twice = |name: &str| selector.matchers.iter().filter(|m| m.name == name).count() > 1;
    let fixed = |m: &&Matcher| matches!(m.op, MatchOp::Equal) && m.name != METRIC_NAME && !is_twice(&m.name);
    Labels::from_pairs(selector.matchers.iter().filter(fixed).map(|m| (m.name.as_str(), m.value.as_str())))
}

fn absent(e: &mut Evaluator<'_>, args: &[Node], grid: &Grid) -> Result<Value> {
    let rows = e.vector(&args[0], grid)?;
    let value = |i: usize| if rows.iter().any(|row| !is_stale(row.values[i])) { stale() } else { 1.0 };
    Ok(Value::Vector(vec![Row { labels: fixed_labels(&args[0]), values: (0..grid.len).map(value).collect() }]))
}

fn absent_over_time(e: &mut Evaluator<'_>, args: &[Node], grid: &Grid) -> Result<Value> {
    let mut values = vec![1.0; grid.len];
    e.windows(&args[0], grid, &mut |i, _, window| {
        if !window.samples.is_empty() {
            values[i] = stale();
        }
        Ok(())
    })?;
    Ok(Value::Vector(vec![Row { labels: fixed_labels(&args[0]), values }]))
}

fn bounded(e: &mut Evaluator<'_>, name: &str, args: &[Node], grid: &Grid) -> Result<Value> {
    // As Go's math.Min and math.Max: NaN wins.
    let least = |a: f64, b: f64| if a.is_nan() || b.is_nan() { f64::NAN } else { a.min(b) };
    let most = |a: f64, b: f64| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) };
    let rows = e.vector(&args[0], grid)?;
    let first = match args.get(1) {
        Some(arg) => e.scalar(arg, grid)?,
        None => vec![1.0; grid.len],
    };
    match name {
        "clamp_min" => each(rows, |i, v| most(v, first[i])),
        "clamp_max" => each(rows, |i, v| least(v, first[i])),
        "round" => each(rows, |i, v| {
            let inverse = 1.0 / first[i];
            (v * inverse + 0.5).floor() / inverse
        }),
        _ => {
            let upper = e.scalar(&args[2], grid)?;
            each(rows, |i, v| if upper[i] < first[i] { stale() } else { most(first[i], least(upper[i], v)) })
        }
    }
}

fn with_scalars(e: &mut Evaluator<'_>, name: &str, args: &[Node], grid: &Grid) -> Result<Value> {
    let is_scalar = |node: &&Node| node.kind() == Type::Scalar;
    let scalars = args.iter().filter(is_scalar).map(|arg| e.scalar(arg, grid)).collect::<Result<Vec<_>>>()?;
    let Some(range) = args.iter().find(|arg| arg.kind() == Type::Matrix) else { return failed("expected a range vector") };
    let first = &scalars[0];
    Ok(Value::Vector(match name {
        "predict_linear" => e.over_time(range, grid, false, &mut |i, w| range::predict_linear(w, first[i]))?,
        "quantile_over_time" => {
            if let Some(q) = first.iter().find(|q| q.is_nan() || **q < 0.0 || **q > 1.0) {
                let note = format!("PromQL warning: quantile value should be between 0 and 1, got {q}");
                e.notes.warnings.insert(note);
            }
            e.over_time(range, grid, false, &mut |i, w| range::quantile_over_time(w, first[i]))?
        }
        _ => {
            let second = &scalars[1];
            for (what, factors) in [("smoothing", first), ("trend", second)] {
                if let Some(bad) = factors.iter().find(|f| !(0.0..=1.0).contains(*f) || **f == 0.0 || **f == 1.0) {
                    return failed(format!(
                        "invalid {what} factor. Expected: 0 < {} < 1, got: {bad}",
                        if what == "trend" { "tf" } else { "sf" }
                    ));
                }
            }
            e.over_time(range, grid, false, &mut |i, w| range::smooth(w, first[i], second[i]))?
        }
    }))
}

/// Any non-empty UTF-8 text can be a label's name since Prometheus 3.
fn check_label(function: &str, name: &str) -> Result<()> {
    if name.is_empty() { failed(format!("invalid destination label name in {function}(): {name}")) } else { Ok(()) }
}

fn label_replace(e: &mut Evaluator<'_>, args: &[Node], grid: &Grid) -> Result<Value> {
    let (to, replacement, from, pattern) = (text(args, 1)?, text(args, 2)?, text(args, 3)?, text(args, 4)?);
    let Ok(regex) = anchored_regex(pattern) else {
        return failed(format!("invalid regular expression in label_replace(): {pattern}"));
    };
    check_label("label_replace", to)?;
    let mut rows = e.vector(&args[0], grid)?;
    for row in &mut rows {
        let mut value = String::new();
        match regex.captures(row.labels.get(from)) {
            Some(captures) => captures.expand(replacement, &mut value),
            None => continue,
        }
        let mut builder = row.labels.builder();
        builder.set(to, value);
        row.labels = builder.build();
    }
    Ok(Value::Vector(merge(rows)?))
}

fn label_join(e: &mut Evaluator<'_>, args: &[Node], grid: &Grid) -> Result<Value> {
    let (to, separator) = (text(args, 1)?, text(args, 2)?);
    let from = (3..args.len()).map(|i| text(args, i)).collect::<Result<Vec<_>>>()?;
    check_label("label_join", to)?;
    if let Some(empty) = from.iter().find(|name| name.is_empty()) {
        return failed(format!("invalid source label name in label_join(): {empty}"));
    }
    let mut rows = e.vector(&args[0], grid)?;
    for row in &mut rows {
        let values: Vec<&str> = from.iter().map(|name| row.labels.get(name)).collect();
        let mut builder = row.labels.builder();
        builder.set(to, values.join(separator));
        row.labels = builder.build();
    }
    Ok(Value::Vector(merge(rows)?))
}

fn sort_by_label(e: &mut Evaluator<'_>, name: &str, args: &[Node], grid: &Grid) -> Result<Value> {
    let names = (1..args.len()).map(|i| text(args, i)).collect::<Result<Vec<_>>>()?;
    let mut rows = e.vector(&args[0], grid)?;
    rows.sort_by(|a, b| {
        let by_label = names.iter().map(|name| natural(a.labels.get(name), b.labels.get(name))).find(|o| o.is_ne());
        by_label.unwrap_or_else(|| a.labels.cmp(&b.labels))
    });
    if name == "sort_by_label_desc" {
        rows.reverse();
    }
    Ok(Value::Vector(rows))
}

/// Order of texts in which numbers count as numbers.
fn natural(a: &str, b: &str) -> std::cmp::Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let digits = |s: &str| s.len() - s.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (da, db) = (digits(a), digits(b));
        if da > 0 && db > 0 {
            let (na, nb) = (a[..da].trim_start_matches('0'), b[..db].trim_start_matches('0'));
            let order = na.len().cmp(&nb.len()).then_with(|| na.cmp(nb));
            if order.is_ne() {
                return order;
            }
            (a, b) = (&a[da..], &b[db..]);
            continue;
        }
        let (mut ca, mut cb) = (a.chars(), b.chars());
        match (ca.next(), cb.next()) {
            (None, None) => return std::cmp::Ordering::Equal,
            (x, y) if x != y => return x.cmp(&y),
            _ => (a, b) = (ca.as_str(), cb.as_str()),
        }
    }
}

/// Puts the rows of an instant query in the order that its outermost function asks for. NaN comes last.
pub(super) fn sort(name: &str, rows: &mut [Row]) {
    let value = |row: &Row| row.values.first().copied().unwrap_or(f64::NAN);
    let descending = match name {
        "sort" => false,
        "sort_desc" => true,
        _ => return,
    };
    rows.sort_by(|a, b| {
        let (a, b) = (value(a), value(b));
        match (a.is_nan(), b.is_nan()) {
            (false, false) if descending => b.total_cmp(&a),
            (false, false) => a.total_cmp(&b),
            (a_nan, b_nan) => a_nan.cmp(&b_nan),
        }
    });
}

/// A date in UTC.
struct Date {
    days: i64,
    second_of_day: i64,
    year: i64,
    month: i64,
    day: i64,
}

impl Date {
    fn new(seconds: f64) -> Self {
        let seconds = seconds as i64;
        let days = seconds.div_euclid(86_400);
        // Howard Hinnant's `civil_from_days`.
        let z = days + 719_468;
        let era = z.div_euclid(146_097);
        let of_era = z.rem_euclid(146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        Self { days, second_of_day: seconds.rem_euclid(86_400), year, month, day }
    }
}

/// Howard Hinnant's `days_from_civil`.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}
