//! Binary operators and vector matching (`VectorBinop` and its kin in `promql/engine.go`).

use ahash::AHashMap;

use super::{
    eval::{Evaluator, Grid, Result, Row, Value, failed, merge},
    plan::{Binary, Group, Matching, Op},
};
use crate::{
    labels::{Labels, METRIC_NAME},
    tsdb::{is_stale, stale},
};

/// Evaluates a binary expression.
pub(super) fn eval(e: &mut Evaluator<'_>, binary: &Binary, grid: &Grid) -> Result<Value> {
    let (lhs, rhs) = (e.eval(&binary.lhs, grid)?, e.eval(&binary.rhs, grid)?);
    Ok(match (lhs, rhs) {
        (Value::Scalar(a), Value::Scalar(b)) => Value::Scalar(a.iter().zip(&b).map(|(a, b)| both(binary.op, *a, *b)).collect()),
        (Value::Vector(rows), Value::Scalar(b)) => Value::Vector(with_scalar(binary, rows, &b, false)?),
        (Value::Scalar(a), Value::Vector(rows)) => Value::Vector(with_scalar(binary, rows, &a, true)?),
        (Value::Vector(lhs), Value::Vector(rhs)) if binary.op.is_set() => Value::Vector(set(binary, lhs, rhs, grid)),
        (Value::Vector(lhs), Value::Vector(rhs)) => Value::Vector(vectors(e, binary, lhs, rhs, grid)?),
        _ => return failed("binary expression must contain only scalar and instant vector types"),
    })
}

/// The operator's value; comparisons are 0 or 1.
fn both(op: Op, a: f64, b: f64) -> f64 {
    match op {
        Op::Add => a + b,
        Op::Sub => a - b,
        Op::Mul => a * b,
        Op::Div => a / b,
        Op::Mod => a % b,
        Op::Pow => a.powf(b),
        Op::Atan2 => a.atan2(b),
        _ => f64::from(u8::from(holds(op, a, b))),
    }
}

fn holds(op: Op, a: f64, b: f64) -> bool {
    match op {
        Op::Eq => a == b,
        Op::Ne => a != b,
        Op::Lt => a < b,
        Op::Le => a <= b,
        Op::Gt => a > b,
        Op::Ge => a >= b,
        _ => false,
    }
}

fn with_scalar(binary: &Binary, mut rows: Vec<Row>, scalar: &[f64], swapped: bool) -> Result<Vec<Row>> {
    let filters = binary.op.is_comparison() && !binary.bool;
    for row in &mut rows {
        if !filters {
            row.labels = row.labels.without_name();
        }
        for (v, s) in row.values.iter_mut().zip(scalar) {
            if is_stale(*v) {
                continue;
            }
            let (a, b) = if swapped { (*s, *v) } else { (*v, *s) };
            if !filters {
                *v = both(binary.op, a, b);
            } else if !holds(binary.op, a, b) {
                *v = stale();
            }
        }
    }
    rows.retain(|row| !row.is_empty());
    if filters { Ok(rows) } else { merge(rows) }
}

/// What two series must have in common.
fn signature(matching: &Matching, labels: &Labels) -> Labels {
    let named = |name: &str| matching.labels.iter().any(|l| l == name);
    if matching.on { labels.filter(named) } else { labels.filter(|name| name != METRIC_NAME && !named(name)) }
}

/// Numbers for the signatures of both sides.
fn signatures(matching: &Matching, lhs: &[Row], rhs: &[Row]) -> (Vec<usize>, Vec<usize>, Vec<Labels>) {
    let mut numbers: AHashMap<Labels, usize> = AHashMap::new();
    let mut all = Vec::new();
    let mut number = |row: &Row| {
        let signature = signature(matching, &row.labels);
        *numbers.entry(signature.clone()).or_insert_with(|| {
            all.push(signature);
            all.len() - 1
        })
    };
    let left = lhs.iter().map(&mut number).collect();
    let right = rhs.iter().map(&mut number).collect();
    (left, right, all)
}

fn set(binary: &Binary, mut lhs: Vec<Row>, mut rhs: Vec<Row>, grid: &Grid) -> Vec<Row> {
    let (left, right, all) = signatures(&binary.matching, &lhs, &rhs);
    let present = |rows: &[Row], of: &[usize]| {
        let mut present = vec![false; all.len() * grid.len];
        for (row, signature) in rows.iter().zip(of) {
            for (i, _) in row.values.iter().enumerate().filter(|(_, v)| !is_stale(**v)) {
                present[signature * grid.len + i] = true;
            }
        }
        present
    };
    let drop_where = |rows: &mut [Row], of: &[usize], present: &[bool], wanted: bool| {
        for (row, signature) in rows.iter_mut().zip(of) {
            for (i, v) in row.values.iter_mut().enumerate() {
                if present[signature * grid.len + i] != wanted {
                    *v = stale();
                }
            }
        }
    };
    match binary.op {
        Op::And => drop_where(&mut lhs, &left, &present(&rhs, &right), true),
        Op::Unless => drop_where(&mut lhs, &left, &present(&rhs, &right), false),
        _ => {
            drop_where(&mut rhs, &right, &present(&lhs, &left), false);
            lhs.append(&mut rhs);
        }
    }
    lhs.retain(|row| !row.is_empty());
    // `or` may bring the same labels from both sides, in different steps.
    if binary.op == Op::Or { merge_disjoint(lhs) } else { lhs }
}

/// Joins rows of the same labels; where both have a value, the first stays.
fn merge_disjoint(rows: Vec<Row>) -> Vec<Row> {
    let mut places: AHashMap<Labels, usize> = AHashMap::new();
    let mut merged: Vec<Row> = Vec::new();
    for row in rows {
        match places.get(&row.labels) {
            Some(&place) => {
                for (into, v) in merged[place].values.iter_mut().zip(row.values) {
                    if is_stale(*into) {
                        *into = v;
                    }
                }
            }
            None => {
                places.insert(row.labels.clone(), merged.len());
                merged.push(row);
            }
        }
    }
    merged
}

fn vectors(e: &mut Evaluator<'_>, binary: &Binary, lhs: Vec<Row>, rhs: Vec<Row>, grid: &Grid) -> Result<Vec<Row>> {
    let (left, right, all) = signatures(&binary.matching, &lhs, &rhs);
    let matching = &binary.matching;
    // The many side is walked, the one side looked up.
    let swapped = matching.group == Group::Right;
    let (many, many_of, one, one_of) = if swapped { (&rhs, &right, &lhs, &left) } else { (&lhs, &left, &rhs, &right) };
    let mut by_signature: Vec<Vec<usize>> = vec![Vec::new(); all.len()];
    for (row, signature) in one_of.iter().enumerate() {
        by_signature[*signature].push(row);
    }
    let mut out: AHashMap<Labels, usize> = AHashMap::new();
    let mut rows: Vec<Row> = Vec::new();
    // The row of the one side at each signature in this step.
    let mut found: Vec<Option<usize>> = vec![None; all.len()];
    let mut matched: Vec<bool> = vec![false; all.len()];
    let mut results: AHashMap<(usize, usize), usize> = AHashMap::new();
    for i in 0..grid.len {
        for (signature, candidates) in by_signature.iter().enumerate() {
            found[signature] = None;
            matched[signature] = false;
            for &row in candidates.iter().filter(|row| !is_stale(one[**row].values[i])) {
                if let Some(other) = found[signature] {
                    // Only a match that is needed can be ambiguous... upstream complains either way.
                    let side = if swapped { "left" } else { "right" };
                    return failed(format!(
                        "found duplicate series for the match group {} on the {side} hand-side of the operation: [{}, {}];\
                         many-to-many matching not allowed: matching labels must be unique on one side",
                        all[signature], one[row].labels, one[other].labels
                    ));
                }
                found[signature] = Some(row);
            }
        }
        for (m, row) in many.iter().enumerate().filter(|(_, row)| !is_stale(row.values[i])) {
            let Some(o) = found[many_of[m]] else { continue };
            let (v, w) = (row.values[i], one[o].values[i]);
            let (a, b) = if swapped { (w, v) } else { (v, w) };
            let value = if binary.op.is_comparison() && !binary.bool {
                if !holds(binary.op, a, b) {
                    continue;
                }
                a
            } else {
                both(binary.op, a, b)
            };
            if matching.group == Group::OneToOne && std::mem::replace(&mut matched[many_of[m]], true) {
                return failed("multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)");
            }
            let place = match results.get(&(m, o)) {
                Some(place) => *place,
                None => {
                    let labels = result_labels(binary, &row.labels, &one[o].labels);
                    let place = match out.get(&labels) {
                        Some(place) => *place,
                        None => {
                            e.hold(grid.len)?;
                            out.insert(labels.clone(), rows.len());
                            rows.push(Row { labels, values: vec![stale(); grid.len] });
                            rows.len() - 1
                        }
                    };
                    results.insert((m, o), place);
                    place
                }
            };
            let slot = &mut rows[place].values[i];
            if !is_stale(*slot) {
                return failed(if matching.group == Group::OneToOne {
                    "vector cannot contain metrics with the same labelset"
                } else {
                    "multiple matches for labels: grouping labels must ensure unique matches"
                });
            }
            *slot = value;
        }
    }
    Ok(rows)
}

/// The labels of a match (`resultMetric`).
fn result_labels(binary: &Binary, many: &Labels, one: &Labels) -> Labels {
    let matching = &binary.matching;
    let drops_name = !binary.op.is_comparison() || binary.bool;
    let named = |name: &str| matching.labels.iter().any(|l| l == name);
    let labels = match matching.group {
        Group::OneToOne if matching.on => many.filter(|name| named(name) && !(drops_name && name == METRIC_NAME)),
        Group::OneToOne => many.filter(|name| !(named(name) || drops_name && name == METRIC_NAME)),
        _ if drops_name => many.without_name(),
        _ => many.clone(),
    };
    if matching.include.is_empty() {
        return labels;
    }
    let mut builder = labels.builder();
    for name in &matching.include {
        match one.get(name) {
            "" => builder.remove(name),
            value => builder.set(name.as_str(), value),
        };
    }
    builder.build()
}
