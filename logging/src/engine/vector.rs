//! What is computed from series: aggregations, operators, labels.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    QueryError,
    metric::{Series, Value},
};
use crate::{
    entry::Labels,
    logql::{Aggregation, AggregationOp, Binary, BinaryOp, LabelReplace, Matching},
};

pub(super) fn aggregate(aggregation: &Aggregation, series: Vec<Series>, steps: usize) -> Vec<Series> {
    match aggregation.op {
        AggregationOp::Sort | AggregationOp::SortDesc => return sorted(series, aggregation.op == AggregationOp::SortDesc),
        AggregationOp::Topk | AggregationOp::Bottomk => return extremes(aggregation, series, steps),
        _ => {}
    }
    let mut groups: BTreeMap<Labels, Vec<Series>> = BTreeMap::new();
    for one in series {
        groups.entry(aggregation.grouping.of(one.labels.clone())).or_default().push(one);
    }
    let reduced = groups.into_iter().map(|(labels, group)| {
        let reduce = |step: usize| {
            let values: Vec<f64> = group.iter().filter_map(|series| series.values[step]).collect();
            (!values.is_empty()).then(|| aggregated(aggregation.op, &values))
        };
        Series { labels, values: (0..steps).map(reduce).collect() }
    });
    reduced.collect()
}

fn aggregated(op: AggregationOp, values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let sum = values.iter().sum::<f64>();
    let variance = || values.iter().map(|value| (value - sum / count).powi(2)).sum::<f64>() / count;
    match op {
        AggregationOp::Sum => sum,
        AggregationOp::Avg => sum / count,
        AggregationOp::Max => values.iter().copied().fold(f64::NAN, f64::max),
        AggregationOp::Min => values.iter().copied().fold(f64::NAN, f64::min),
        AggregationOp::Stddev => variance().sqrt(),
        AggregationOp::Stdvar => variance(),
        AggregationOp::Count | AggregationOp::Topk | AggregationOp::Bottomk | AggregationOp::Sort | AggregationOp::SortDesc => {
            count
        }
    }
}

/// The greatest or smallest of each group, at each step; they keep their labels.
fn extremes(aggregation: &Aggregation, series: Vec<Series>, steps: usize) -> Vec<Series> {
    let mut groups: BTreeMap<Labels, Vec<usize>> = BTreeMap::new();
    for (at, one) in series.iter().enumerate() {
        groups.entry(aggregation.grouping.of(one.labels.clone())).or_default().push(at);
    }
    let mut kept: Vec<Vec<Option<f64>>> = vec![vec![None; steps]; series.len()];
    for (members, step) in groups.values().flat_map(|members| (0..steps).map(move |step| (members, step))) {
        let mut values: Vec<(usize, f64)> =
            members.iter().filter_map(|at| series[*at].values[step].map(|value| (*at, value))).collect();
        values.sort_by(|a, b| if aggregation.op == AggregationOp::Topk { b.1.total_cmp(&a.1) } else { a.1.total_cmp(&b.1) });
        for (at, value) in values.into_iter().take(aggregation.parameter) {
            kept[at][step] = Some(value);
        }
    }
    let kept = series.into_iter().zip(kept).map(|(series, values)| Series { values, ..series });
    sorted(kept.filter(|series| series.values.iter().any(Option::is_some)).collect(), aggregation.op == AggregationOp::Topk)
}

/// In the order of their values at the last step.
fn sorted(mut series: Vec<Series>, descending: bool) -> Vec<Series> {
    let last = |series: &Series| series.values.last().copied().flatten().unwrap_or(f64::NAN);
    series.sort_by(|a, b| if descending { last(b).total_cmp(&last(a)) } else { last(a).total_cmp(&last(b)) });
    series
}

pub(super) fn binary(binary: &Binary, left: Value, right: Value, steps: usize) -> Result<Value, QueryError> {
    match (left, right) {
        (Value::Scalar(left), Value::Scalar(right)) => Ok(Value::Scalar(match binary.op {
            BinaryOp::Compare(comparison) => f64::from(u8::from(comparison.holds(left, right))),
            op => calculated(op, left, right),
        })),
        (Value::Vector(series), Value::Scalar(scalar)) => Ok(Value::Vector(with_scalar(binary, series, scalar, false))),
        (Value::Scalar(scalar), Value::Vector(series)) => Ok(Value::Vector(with_scalar(binary, series, scalar, true))),
        (Value::Vector(left), Value::Vector(right)) => match binary.op {
            BinaryOp::And | BinaryOp::Or | BinaryOp::Unless => Ok(Value::Vector(sets(binary, left, right, steps))),
            _ => matched(binary, left, right, steps).map(Value::Vector),
        },
    }
}

fn calculated(op: BinaryOp, left: f64, right: f64) -> f64 {
    match op {
        BinaryOp::Add => left + right,
        BinaryOp::Subtract => left - right,
        BinaryOp::Multiply => left * right,
        BinaryOp::Divide => left / right,
        BinaryOp::Modulo => left % right,
        BinaryOp::Power => left.powf(right),
        BinaryOp::And | BinaryOp::Or | BinaryOp::Unless | BinaryOp::Compare(_) => f64::NAN,
    }
}

/// The result at one step; a comparison that fails gives none, unless it gives a bool.
fn combined(binary: &Binary, left: f64, right: f64, kept: f64) -> Option<f64> {
    match binary.op {
        BinaryOp::Compare(comparison) => {
            let holds = comparison.holds(left, right);
            if binary.to_bool { Some(f64::from(u8::from(holds))) } else { holds.then_some(kept) }
        }
        op => Some(calculated(op, left, right)),
    }
}

fn with_scalar(binary: &Binary, series: Vec<Series>, scalar: f64, scalar_left: bool) -> Vec<Series> {
    let apply = |value: f64| {
        let (left, right) = if scalar_left { (scalar, value) } else { (value, scalar) };
        combined(binary, left, right, value)
    };
    let applied = series
        .into_iter()
        .map(|series| Series { values: series.values.into_iter().map(|value| value.and_then(apply)).collect(), ..series });
    applied.filter(|series| series.values.iter().any(Option::is_some)).collect()
}

impl Matching {
    /// The labels by which samples belong together.
    fn key(&self, labels: &Labels) -> Labels {
        let mut key = labels.clone();
        key.retain(|name| self.labels.iter().any(|label| label == name) == self.on);
        key
    }
}

fn sets(binary: &Binary, left: Vec<Series>, right: Vec<Series>, steps: usize) -> Vec<Series> {
    let present = |side: &[Series], step: usize| -> BTreeSet<Labels> {
        side.iter().filter(|series| series.values[step].is_some()).map(|series| binary.matching.key(&series.labels)).collect()
    };
    let (kept, others) = match binary.op {
        BinaryOp::Or => (right, &left),
        _ => (left.clone(), &right),
    };
    let others: Vec<_> = (0..steps).map(|step| present(others, step)).collect();
    let wants_other = binary.op == BinaryOp::And;
    let filtered = kept.into_iter().map(|series| {
        let key = binary.matching.key(&series.labels);
        let values =
            series.values.iter().enumerate().map(|(step, value)| value.filter(|_| others[step].contains(&key) == wants_other));
        Series { values: values.collect(), labels: series.labels.clone() }
    });
    let filtered = filtered.filter(|series| series.values.iter().any(Option::is_some));
    if binary.op == BinaryOp::Or { left.into_iter().chain(filtered).collect() } else { filtered.collect() }
}

/// Arithmetic and comparison of samples that belong together.
fn matched(binary: &Binary, left: Vec<Series>, right: Vec<Series>, steps: usize) -> Result<Vec<Series>, QueryError> {
    let group = binary.matching.group.as_ref();
    // "one" has at most one series for each key.
    let one_is_left = group.is_some_and(|group| !group.left);
    let (many, one) = if one_is_left { (right, left) } else { (left, right) };
    let mut ones: BTreeMap<Labels, Series> = BTreeMap::new();
    for series in one {
        let key = binary.matching.key(&series.labels);
        if let Some(twin) = ones.insert(key.clone(), series)
            && twin.values.iter().zip(&ones[&key].values).any(|(a, b)| a.is_some() && b.is_some())
        {
            return Err(QueryError::Bad(format!(
                "found duplicate series on the {} hand-side for the match group {key}: many-to-many matching not allowed: matching \
                 labels must be unique on one side",
                if one_is_left { "left" } else { "right" }
            )));
        }
    }
    let mut results: BTreeMap<Labels, Series> = BTreeMap::new();
    for series in many {
        let key = binary.matching.key(&series.labels);
        let Some(other) = ones.get(&key) else { continue };
        let mut labels = match (group, binary.op) {
            (Some(_), _) => series.labels.clone(),
            (None, BinaryOp::Compare(_)) if !binary.to_bool => series.labels.clone(),
            (None, _) => key,
        };
        for name in group.iter().flat_map(|group| &group.include) {
            labels.set(name.as_str(), other.labels.get(name).unwrap_or_default());
        }
        let combine = |step: usize| {
            let (many, one) = (series.values[step]?, other.values[step]?);
            let (left, right) = if one_is_left { (one, many) } else { (many, one) };
            combined(binary, left, right, left)
        };
        let values: Vec<_> = (0..steps).map(combine).collect();
        if values.iter().all(Option::is_none) {
            continue;
        }
        if let Some(twin) = results.get(&labels)
            && twin.values.iter().zip(&values).any(|(a, b)| a.is_some() && b.is_some())
        {
            return Err(QueryError::Bad(
                "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)".to_owned(),
            ));
        }
        results.insert(labels.clone(), Series { labels, values });
    }
    Ok(results.into_values().collect())
}

pub(super) fn label_replace(replace: &LabelReplace, series: Vec<Series>) -> Result<Vec<Series>, QueryError> {
    let mut seen = BTreeSet::new();
    let mut replaced = Vec::with_capacity(series.len());
    for mut one in series {
        let source = one.labels.get(&replace.source).unwrap_or_default().to_owned();
        if let Some(captures) = replace.regex.captures(&source) {
            let mut value = String::new();
            captures.expand(&replace.replacement, &mut value);
            one.labels.set(replace.destination.as_str(), value);
        }
        if !seen.insert(one.labels.clone()) {
            return Err(QueryError::Bad("vector cannot contain metrics with the same labelset".to_owned()));
        }
        replaced.push(one);
    }
    Ok(replaced)
}
