//! Evaluates an expression over all steps of a query.

use ahash::AHashMap;
use tokio::time::Instant;

use super::{
    Limits, Notes, QueryError, Value as Answer, aggregate, binary, functions,
    plan::{At, Node, Selector, Shift, Subquery},
    range::{self, Window},
    shape,
};
use crate::{
    labels::Labels,
    tsdb::{Sample, Tsdb, is_stale, stale},
};

/// The step of a subquery that names none: upstream's default evaluation interval.
const DEFAULT_SUBQUERY_STEP_MS: i64 = 60_000;

/// Evenly spaced times.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    pub(super) start: i64,
    pub(super) step: i64,
    pub(super) len: usize,
}

/// A value over all steps. An absent element is the staleness marker, which no expression can otherwise return.
pub(super) enum Value {
    Scalar(Vec<f64>),
    Text(String),
    Vector(Vec<Row>),
}

/// One series over all steps.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) labels: Labels,
    pub(super) values: Vec<f64>,
}

/// One evaluation of one query.
pub(super) struct Evaluator<'a> {
    db: &'a Tsdb,
    limits: &'a Limits,
    query_start: i64,
    query_end: i64,
    deadline: Instant,
    held: usize,
    /// The most that was held at once.
    peak: usize,
    loaded: usize,
    /// Samples that each step of the query looked at; those of a subquery's own steps are none of them, as upstream.
    per_step: Vec<u64>,
    subqueries: u32,
    pub(super) notes: Notes,
}

pub(super) type Result<T> = std::result::Result<T, QueryError>;

/// An error of the query's data.
pub(super) fn failed<T>(text: impl Into<String>) -> Result<T> {
    Err(QueryError::Execution(text.into()))
}

// === impl Grid ===

impl Grid {
    pub(super) fn new(start: i64, end: i64, step: i64) -> Self {
        let len = if end < start { 0 } else { usize::try_from((end - start) / step).unwrap_or(0) + 1 };
        Self { start, step, len }
    }

    pub(super) fn t(&self, i: usize) -> i64 {
        self.start + self.step * i as i64
    }

    fn end(&self) -> i64 {
        self.t(self.len.saturating_sub(1))
    }

    pub(super) fn times(&self) -> impl Iterator<Item = i64> + '_ {
        (0..self.len).map(|i| self.t(i))
    }
}

// === impl Row ===

impl Row {
    pub(super) fn is_empty(&self) -> bool {
        self.values.iter().all(|v| is_stale(*v))
    }
}

/// Applies `f` to what is there.
pub(super) fn map(values: &mut [f64], f: impl Fn(usize, f64) -> f64) {
    for (i, v) in values.iter_mut().enumerate() {
        if !is_stale(*v) {
            *v = f(i, *v);
        }
    }
}

// === impl Evaluator ===

impl<'a> Evaluator<'a> {
    pub(super) fn new(db: &'a Tsdb, limits: &'a Limits, query_start: i64, query_end: i64, deadline: Instant) -> Self {
        Self {
            db,
            limits,
            query_start,
            query_end,
            deadline,
            held: 0,
            peak: 0,
            loaded: 0,
            per_step: Vec::new(),
            subqueries: 0,
            notes: Notes::default(),
        }
    }

    /// Samples looked at by each step, and the most that were held at once.
    pub(super) fn counts(&mut self) -> (Vec<u64>, u64) {
        (std::mem::take(&mut self.per_step), self.peak as u64)
    }

    fn count(&mut self, step: usize, samples: usize) {
        if self.subqueries == 0
            && let Some(count) = self.per_step.get_mut(step)
        {
            *count += samples as u64;
        }
    }

    pub(super) fn loaded(&self) -> usize {
        self.loaded
    }

    pub(super) fn notes(self) -> Notes {
        self.notes
    }

    /// The whole query's answer.
    pub(super) fn answer(&mut self, node: &Node, grid: &Grid, instant: bool) -> Result<Answer> {
        self.per_step = vec![0; grid.len];
        if instant && matches!(node, Node::Range(..) | Node::Subquery(_)) {
            let mut series = Vec::new();
            self.windows(node, grid, &mut |_, labels, window| {
                if !window.samples.is_empty() {
                    series.push((labels.clone(), window.samples.to_vec()));
                }
                Ok(())
            })?;
            return Ok(Answer::Matrix(series));
        }
        let mut value = self.eval(node, grid)?;
        if let (true, Value::Vector(rows), Node::Call(name, _)) = (instant, &mut value, node) {
            functions::sort(name, rows);
        }
        Ok(shape(value, grid, instant))
    }

    /// Says that so many samples are held more, and that there is still time.
    pub(super) fn hold(&mut self, samples: usize) -> Result<()> {
        self.held += samples;
        self.peak = self.peak.max(self.held);
        if self.held > self.limits.max_samples {
            return failed("query processing would load too many samples into memory in query execution");
        }
        self.check_time()
    }

    fn check_time(&self) -> Result<()> {
        if Instant::now() >= self.deadline { Err(QueryError::Timeout("expression evaluation")) } else { Ok(()) }
    }

    pub(super) fn eval(&mut self, node: &Node, grid: &Grid) -> Result<Value> {
        self.check_time()?;
        Ok(match node {
            Node::Number(v) => Value::Scalar(vec![*v; grid.len]),
            Node::Text(text) => Value::Text(text.clone()),
            Node::Selector(selector) => Value::Vector(self.select(selector, grid, false)?),
            Node::Range(..) | Node::Subquery(_) => return failed("range vector is not allowed here"),
            Node::Call(name, args) => functions::call(self, name, args, grid)?,
            Node::Aggregate(aggregate) => Value::Vector(aggregate::eval(self, aggregate, grid)?),
            Node::Binary(binary) => binary::eval(self, binary, grid)?,
            Node::Negate(inner) => match self.eval(inner, grid)? {
                Value::Scalar(mut values) => {
                    values.iter_mut().for_each(|v| *v = -*v);
                    Value::Scalar(values)
                }
                Value::Vector(mut rows) => {
                    for row in &mut rows {
                        row.labels = row.labels.without_name();
                        map(&mut row.values, |_, v| -v);
                    }
                    Value::Vector(merge(rows)?)
                }
                text @ Value::Text(_) => text,
            },
        })
    }

    pub(super) fn vector(&mut self, node: &Node, grid: &Grid) -> Result<Vec<Row>> {
        match self.eval(node, grid)? {
            Value::Vector(rows) => Ok(rows),
            _ => failed("expected an instant vector"),
        }
    }

    pub(super) fn scalar(&mut self, node: &Node, grid: &Grid) -> Result<Vec<f64>> {
        match self.eval(node, grid)? {
            Value::Scalar(values) => Ok(values),
            _ => failed("expected a scalar"),
        }
    }

    /// The time that a selector looks at in a step.
    fn at(&self, shift: Shift, t: i64) -> i64 {
        let t = match shift.at {
            None => t,
            Some(At::Start) => self.query_start,
            Some(At::End) => self.query_end,
            Some(At::Time(at)) => at,
        };
        t - shift.offset
    }

    /// The youngest sample within the lookback of each step; its time instead of its value if `times`.
    pub(super) fn select(&mut self, selector: &Selector, grid: &Grid, times: bool) -> Result<Vec<Row>> {
        let (first, last) = (self.at(selector.shift, grid.start), self.at(selector.shift, grid.end()));
        // The lookback is left-open.
        let from = first - self.limits.lookback_ms + 1;
        let mut rows = Vec::new();
        let mut samples = Vec::new();
        for series in self.db.select(&selector.matchers, from, last) {
            samples.clear();
            series.read(from, last, &mut samples);
            self.loaded += samples.len();
            let mut values = Vec::with_capacity(grid.len);
            let mut next = 0;
            for i in 0..grid.len {
                let t = self.at(selector.shift, grid.t(i));
                while next < samples.len() && samples[next].t <= t {
                    next += 1;
                }
                // With `@` all steps look at one time; without, times only rise.
                let found =
                    next.checked_sub(1).map(|i| samples[i]).filter(|s| s.t > t - self.limits.lookback_ms && !is_stale(s.v));
                self.count(i, usize::from(found.is_some()));
                values.push(match found {
                    None => stale(),
                    Some(s) if times => s.t as f64 / 1000.0,
                    Some(s) => s.v,
                });
            }
            let row = Row { labels: series.labels().clone(), values };
            if !row.is_empty() {
                self.hold(grid.len)?;
                rows.push(row);
            }
        }
        Ok(rows)
    }

    /// Hands each step's window of each series of a range vector to `f`: series by series, steps in order.
    pub(super) fn windows(
        &mut self,
        node: &Node,
        grid: &Grid,
        f: &mut dyn FnMut(usize, &Labels, &Window<'_>) -> Result<()>,
    ) -> Result<()> {
        match node {
            Node::Range(selector, range) => {
                let (first, last) = (self.at(selector.shift, grid.start), self.at(selector.shift, grid.end()));
                let mut samples = Vec::new();
                for series in self.db.select(&selector.matchers, first - range + 1, last) {
                    samples.clear();
                    series.read(first - range + 1, last, &mut samples);
                    samples.retain(|s| !is_stale(s.v));
                    self.loaded += samples.len();
                    self.held += samples.len();
                    self.hold(0)?;
                    self.slide(series.labels(), &samples, *range, selector.shift, grid, f)?;
                    self.held -= samples.len();
                }
                Ok(())
            }
            Node::Subquery(sub) => {
                let rows = self.subquery(sub, grid)?;
                let (inner, rows) = rows;
                for row in rows {
                    let samples: Vec<Sample> = row
                        .values
                        .iter()
                        .enumerate()
                        .filter(|(_, v)| !is_stale(**v))
                        .map(|(i, v)| Sample { t: inner.t(i), v: *v })
                        .collect();
                    self.slide(&row.labels, &samples, sub.range, sub.shift, grid, f)?;
                }
                Ok(())
            }
            _ => failed("expected a range vector"),
        }
    }

    fn slide(
        &mut self,
        labels: &Labels,
        samples: &[Sample],
        range: i64,
        shift: Shift,
        grid: &Grid,
        f: &mut dyn FnMut(usize, &Labels, &Window<'_>) -> Result<()>,
    ) -> Result<()> {
        let (mut from, mut to) = (0, 0);
        for i in 0..grid.len {
            let end = self.at(shift, grid.t(i));
            while to < samples.len() && samples[to].t <= end {
                to += 1;
            }
            // Ranges are left-open.
            while from < to && samples[from].t <= end - range {
                from += 1;
            }
            self.count(i, to - from);
            f(i, labels, &Window { samples: &samples[from..to], start: end - range, end, range, step_t: grid.t(i) })?;
        }
        Ok(())
    }

    /// The inner expression at absolute multiples of its step.
    fn subquery(&mut self, sub: &Subquery, grid: &Grid) -> Result<(Grid, Vec<Row>)> {
        let step = sub.step.unwrap_or(DEFAULT_SUBQUERY_STEP_MS);
        let (first, last) = (self.at(sub.shift, grid.start) - sub.range, self.at(sub.shift, grid.end()));
        let mut start = first.div_euclid(step) * step;
        if start <= first {
            start += step;
        }
        let inner = Grid::new(start, last, step);
        if inner.len == 0 {
            return Ok((inner, Vec::new()));
        }
        self.hold(inner.len)?;
        self.subqueries += 1;
        let value = self.eval(&sub.expr, &inner);
        self.subqueries -= 1;
        let rows = match value? {
            Value::Vector(rows) => rows,
            Value::Scalar(values) => vec![Row { labels: Labels::default(), values }],
            Value::Text(_) => return failed("a subquery of a string has no values"),
        };
        Ok((inner, rows))
    }

    /// A function over each window, one row for each series; `keep_name` as upstream does for it.
    pub(super) fn over_time(
        &mut self,
        node: &Node,
        grid: &Grid,
        keep_name: bool,
        f: &mut dyn FnMut(usize, &Window<'_>) -> Option<f64>,
    ) -> Result<Vec<Row>> {
        let mut rows: Vec<Row> = Vec::new();
        self.windows(node, grid, &mut |i, labels, window| {
            if i == 0 {
                let labels = if keep_name { labels.clone() } else { labels.without_name() };
                rows.push(Row { labels, values: Vec::with_capacity(grid.len) });
            }
            let value = if window.samples.is_empty() { None } else { f(i, window) };
            if let Some(row) = rows.last_mut() {
                row.values.push(value.unwrap_or_else(stale));
            }
            Ok(())
        })?;
        rows.retain(|row| !row.is_empty());
        self.hold(rows.len() * grid.len)?;
        merge(rows)
    }

    /// Says, for functions that want counters, which names do not look like one.
    pub(super) fn check_counter(&mut self, node: &Node) {
        let Node::Range(selector, _) = node else { return };
        let name = selector.matchers.iter().find(|m| m.name == crate::labels::METRIC_NAME).map(|m| m.value.clone());
        if let Some(name) = name.filter(|n| range::is_unlike_counter(n)) {
            self.notes.infos.insert(format!(
                "PromQL info: metric might not be a counter, name does not end in _total/_sum/_count/_bucket: {name:?}"
            ));
        }
    }
}

/// Joins rows of the same labels.
///
/// # Errors
/// When two of them have a value in the same step.
pub(super) fn merge(rows: Vec<Row>) -> Result<Vec<Row>> {
    let mut places: AHashMap<Labels, usize> = AHashMap::with_capacity(rows.len());
    let mut merged: Vec<Row> = Vec::with_capacity(rows.len());
    for row in rows {
        let Some(&place) = places.get(&row.labels) else {
            places.insert(row.labels.clone(), merged.len());
            merged.push(row);
            continue;
        };
        for (into, v) in merged[place].values.iter_mut().zip(row.values) {
            if is_stale(v) {
                continue;
            }
            if !is_stale(*into) {
                return failed("vector cannot contain metrics with the same labelset");
            }
            *into = v;
        }
    }
    Ok(merged)
}
