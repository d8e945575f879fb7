//! Aggregations.

use ahash::AHashMap;

use super::{
    eval::{Evaluator, Grid, Result, Row, failed},
    number::{mean, plain_float, quantile, variance},
    plan::{Aggregate, AggregateOp},
};
use crate::{
    labels::{Labels, METRIC_NAME},
    tsdb::{is_stale, stale},
};

/// Rows that are aggregated into one.
struct Group {
    labels: Labels,
    rows: Vec<usize>,
}

/// Evaluates an aggregation.
pub(super) fn eval(e: &mut Evaluator<'_>, aggregate: &Aggregate, grid: &Grid) -> Result<Vec<Row>> {
    let parameter = match (&aggregate.param, aggregate.op) {
        (Some(_), AggregateOp::CountValues) | (None, _) => Vec::new(),
        (Some(param), _) => e.scalar(param, grid)?,
    };
    let rows = e.vector(&aggregate.expr, grid)?;
    let groups = group(&rows, aggregate);
    e.hold(groups.len() * grid.len)?;
    match aggregate.op {
        AggregateOp::CountValues => return count_values(e, aggregate, &rows, groups, grid),
        AggregateOp::Topk | AggregateOp::Bottomk | AggregateOp::Limitk => {
            if parameter.iter().any(|k| k.is_nan() || k.abs() > i64::MAX as f64) {
                return failed(format!(
                    "Scalar value {} overflows int64",
                    parameter.first().copied().map(plain_float).unwrap_or_default()
                ));
            }
            return Ok(select(aggregate.op, &parameter, rows, &groups, grid));
        }
        AggregateOp::Quantile => {
            if let Some(q) = parameter.iter().find(|q| q.is_nan() || **q < 0.0 || **q > 1.0) {
                let note = format!("PromQL warning: quantile value should be between 0 and 1, got {q}");
                e.notes.warnings.insert(note);
            }
        }
        _ => {}
    }
    let mut out = Vec::with_capacity(groups.len());
    let mut values = Vec::new();
    for group in groups {
        let mut row = Row { labels: group.labels, values: Vec::with_capacity(grid.len) };
        for i in 0..grid.len {
            values.clear();
            values.extend(group.rows.iter().map(|r| rows[*r].values[i]).filter(|v| !is_stale(*v)));
            let parameter = parameter.get(i).copied().unwrap_or_default();
            row.values.push(if values.is_empty() { stale() } else { reduce(aggregate.op, parameter, &mut values) });
        }
        out.push(row);
    }
    Ok(out)
}

fn reduce(op: AggregateOp, parameter: f64, values: &mut [f64]) -> f64 {
    let all = values.iter().copied();
    match op {
        AggregateOp::Sum => {
            let mut sum = super::number::Sum::default();
            all.for_each(|v| sum.add(v));
            sum.get()
        }
        AggregateOp::Avg => mean(all),
        AggregateOp::Count => values.len() as f64,
        AggregateOp::Min => all.reduce(|a, b| if b < a || a.is_nan() { b } else { a }).unwrap_or(f64::NAN),
        AggregateOp::Max => all.reduce(|a, b| if b > a || a.is_nan() { b } else { a }).unwrap_or(f64::NAN),
        AggregateOp::Stddev => variance(all).sqrt(),
        AggregateOp::Stdvar => variance(all),
        AggregateOp::Quantile => quantile(parameter, values),
        AggregateOp::Group | AggregateOp::Topk | AggregateOp::Bottomk | AggregateOp::CountValues | AggregateOp::Limitk => 1.0,
    }
}

fn group(rows: &[Row], aggregate: &Aggregate) -> Vec<Group> {
    let mut places: AHashMap<Labels, usize> = AHashMap::new();
    let mut groups: Vec<Group> = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        let named = |name: &str| aggregate.labels.iter().any(|l| l == name);
        let labels = match aggregate.without {
            true => row.labels.filter(|name| name != METRIC_NAME && !named(name)),
            false if aggregate.labels.is_empty() => Labels::default(),
            false => row.labels.filter(named),
        };
        let place = *places.entry(labels.clone()).or_insert_with(|| {
            groups.push(Group { labels, rows: Vec::new() });
            groups.len() - 1
        });
        groups[place].rows.push(at);
    }
    groups
}

/// `topk`, `bottomk` and `limitk`: some of the rows as they are.
fn select(op: AggregateOp, parameter: &[f64], rows: Vec<Row>, groups: &[Group], grid: &Grid) -> Vec<Row> {
    let mut keep: Vec<Vec<bool>> = vec![vec![false; grid.len]; rows.len()];
    let mut order: Vec<usize> = Vec::new();
    for group in groups {
        #[expect(clippy::needless_range_loop, reason = "the step indexes several lists")]
        for i in 0..grid.len {
            let mut there: Vec<usize> = group.rows.iter().copied().filter(|r| !is_stale(rows[*r].values[i])).collect();
            if op != AggregateOp::Limitk {
                there.sort_by(|a, b| {
                    let (a, b) = (rows[*a].values[i], rows[*b].values[i]);
                    match (a.is_nan(), b.is_nan()) {
                        (false, false) if op == AggregateOp::Topk => b.total_cmp(&a),
                        (false, false) => a.total_cmp(&b),
                        (a_nan, b_nan) => a_nan.cmp(&b_nan),
                    }
                });
            }
            let k = parameter.get(i).copied().unwrap_or_default().max(0.0) as usize;
            for row in there.into_iter().take(k) {
                keep[row][i] = true;
                if grid.len == 1 {
                    order.push(row);
                }
            }
        }
    }
    // An instant query gets them in order of value.
    if grid.len > 1 {
        order = (0..rows.len()).collect();
    }
    let mut rows: Vec<Option<Row>> = rows.into_iter().map(Some).collect();
    let mut out = Vec::new();
    for at in order {
        let Some(mut row) = rows[at].take() else { continue };
        for (v, keep) in row.values.iter_mut().zip(&keep[at]) {
            if !keep {
                *v = stale();
            }
        }
        if !row.is_empty() {
            out.push(row);
        }
    }
    out
}

fn count_values(e: &mut Evaluator<'_>, aggregate: &Aggregate, rows: &[Row], groups: Vec<Group>, grid: &Grid) -> Result<Vec<Row>> {
    let Some(super::plan::Node::Text(label)) = &aggregate.param else { return failed("expected a string") };
    if label.is_empty() {
        return failed(format!("invalid label name {label:?}"));
    }
    let mut places: AHashMap<Labels, usize> = AHashMap::new();
    let mut out: Vec<Row> = Vec::new();
    for group in groups {
        for i in 0..grid.len {
            for v in group.rows.iter().map(|r| rows[*r].values[i]).filter(|v| !is_stale(*v)) {
                let mut builder = group.labels.builder();
                builder.set(label.as_str(), plain_float(v));
                let labels = builder.build();
                let place = match places.get(&labels) {
                    Some(place) => *place,
                    None => {
                        e.hold(grid.len)?;
                        places.insert(labels.clone(), out.len());
                        out.push(Row { labels, values: vec![stale(); grid.len] });
                        out.len() - 1
                    }
                };
                let count = &mut out[place].values[i];
                *count = if is_stale(*count) { 1.0 } else { *count + 1.0 };
            }
        }
    }
    Ok(out)
}
