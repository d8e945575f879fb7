//! Range aggregations: numbers made of lines, for each step.

use std::{
    collections::{BTreeMap, HashMap},
    ops::ControlFlow,
};

use super::{
    QueryError,
    metric::{Evaluation, Series},
    scan_all,
};
use crate::{
    entry::{Labels, Level},
    logql::{ERROR, ERROR_DETAILS, Grouping, Line, MatchOp, Pipeline, RangeAggregation, RangeOp},
    scan::{Raw, Scan},
};

/// Cells, series times steps, that one range may fill: 32 bytes each.
const MOST_CELLS: usize = 1_000_000;

/// Samples that a quantile or a counter's rate may hold: 16 bytes each.
const MOST_POINTS: usize = 2_000_000;

/// What the samples of one step have come to.
#[derive(Clone, Default)]
enum Cell {
    #[default]
    None,
    Number(f64),
    /// How many, their mean and the sum of squares of distances from it.
    Spread(f64, f64, f64),
    /// When, and what.
    Point(i64, f64),
    Points(Vec<(i64, f64)>),
}

/// Series by the labels that are kept.
struct Cells<'q> {
    range: &'q RangeAggregation,
    steps: usize,
    series: Vec<(Labels, Vec<Cell>)>,
    by_labels: BTreeMap<Labels, usize>,
    points: usize,
    first: i64,
    step: i64,
}

/// The series of a range aggregation; `sum` is the grouping of a sum around it, which is then done here, where it keeps few series.
pub(super) fn evaluate(
    evaluation: &mut Evaluation<'_>,
    range: &RangeAggregation,
    sum: Option<&Grouping>,
) -> Result<Vec<Series>, QueryError> {
    let pipeline = Pipeline::new(&range.log.stages);
    let needles = pipeline.needles();
    let streams = |labels: &Labels| range.log.selects(labels);
    let bare = pipeline.is_empty() && range.unwrap.is_none();
    let limits = evaluation.limits.clone();
    let scan = Scan {
        start: evaluation.start - range.offset - range.range + 1,
        end: evaluation.end - range.offset + 1,
        streams: &streams,
        needles: &needles,
        backward: false,
        lines: !bare,
        limits: &limits,
    };
    let grouping = sum.or(range.grouping.as_ref());
    let mut cells = Cells {
        range,
        steps: evaluation.steps(),
        series: Vec::new(),
        by_labels: BTreeMap::new(),
        points: 0,
        first: evaluation.start,
        step: evaluation.step,
    };
    let mut failure = None;
    let mut known: HashMap<(u64, Level), usize> = HashMap::new();
    let (mut lines, mut bytes, mut kept) = (0, 0, 0);
    let mut take = |raw: Raw<'_>| {
        lines += 1;
        bytes += raw.size as u64;
        let added = if bare && raw.metadata.is_empty() {
            // Every line of a stream and a level is of one series.
            let key = (raw.stream.id, raw.level);
            let at = match known.get(&key) {
                Some(at) => Ok(*at),
                None => pipeline.run(raw).map_or(Ok(0), |line| cells.series_of(line.labels(), grouping)),
            };
            at.and_then(|at| {
                known.insert(key, at);
                kept += 1;
                cells.add(at, raw.time, range.value_of(raw.size))
            })
        } else {
            match pipeline.run(raw).map(|line| sample(range, line, raw.size)) {
                None | Some(Ok(None)) => Ok(()),
                Some(Err(error)) => Err(error),
                Some(Ok(Some((labels, value)))) => {
                    kept += 1;
                    cells.series_of(labels, grouping).and_then(|at| cells.add(at, raw.time, value))
                }
            }
        };
        match added {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        }
    };
    let chunks = evaluation.index.chunks(&scan);
    scan_all(evaluation.index, &scan, &chunks, &mut take)?;
    evaluation.work.lines += lines;
    evaluation.work.bytes += bytes;
    evaluation.work.kept += kept;
    match failure {
        Some(error) => Err(error),
        None => Ok(cells.finish()),
    }
}

/// A line's labels and value; `None` if it has no value.
fn sample(range: &RangeAggregation, mut line: Line<'_>, size: usize) -> Result<Option<(Labels, f64)>, QueryError> {
    let mut value = range.value_of(size);
    if let Some(unwrap) = &range.unwrap {
        let text = line.get(&unwrap.label).to_owned();
        if text.is_empty() {
            return Ok(None);
        }
        match unwrap.unit.read(&text) {
            Some(number) => value = number,
            None => line.fail("SampleExtractionErr", format!("cannot read label {} as a number: {text:?}", unwrap.label)),
        }
        if !unwrap.filters.iter().all(|filter| line.passes(filter)) {
            return Ok(None);
        }
    } else if range.op == RangeOp::Bytes || range.op == RangeOp::BytesRate {
        value = line.text.len() as f64;
    }
    let mut labels = line.labels();
    if let Some(error) = labels.get(ERROR) {
        return Err(QueryError::Bad(format!(
            "pipeline error: '{error}' for series: '{labels}'.\nUse a label filter to intentionally skip this error. (e.g | \
             __error__!=\"{error}\").\nTo skip all potential errors you can match empty errors.(e.g __error__=\"\")"
        )));
    }
    labels.remove(ERROR_DETAILS);
    if let Some(unwrap) = &range.unwrap {
        labels.remove(&unwrap.label);
    }
    Ok(Some((labels, value)))
}

impl RangeAggregation {
    /// What a line counts for where nothing is unwrapped.
    fn value_of(&self, size: usize) -> f64 {
        match self.op {
            RangeOp::Bytes | RangeOp::BytesRate => size as f64,
            _ => 1.0,
        }
    }

    /// Whether sums of its series are the series of its sums.
    pub(super) fn is_additive(&self) -> bool {
        matches!(self.op, RangeOp::Rate | RangeOp::Count | RangeOp::BytesRate | RangeOp::Bytes | RangeOp::Sum)
    }

    /// The series that says that there is nothing.
    pub(super) fn absence(&self) -> Labels {
        Labels::new(self.log.matchers.iter().filter(|m| m.op == MatchOp::Equal).map(|m| (m.name.as_str(), m.value.as_str())))
    }
}

impl Grouping {
    /// What is left of labels.
    pub(super) fn of(&self, mut labels: Labels) -> Labels {
        labels.retain(|name| self.labels.iter().any(|label| label == name) != self.without);
        labels
    }
}

impl Cells<'_> {
    fn series_of(&mut self, labels: Labels, grouping: Option<&Grouping>) -> Result<usize, QueryError> {
        let labels = match grouping {
            Some(grouping) => grouping.of(labels),
            None if self.range.op == RangeOp::Absent => Labels::default(),
            None => labels,
        };
        if let Some(at) = self.by_labels.get(&labels) {
            return Ok(*at);
        }
        if (self.series.len() + 1) * self.steps > MOST_CELLS {
            return Err(QueryError::Bad(format!(
                "the query gives more than {} series over {} steps before aggregation; select fewer streams, drop labels, or ask \
                 for a larger step",
                self.series.len(),
                self.steps
            )));
        }
        self.series.push((labels.clone(), vec![Cell::None; self.steps]));
        self.by_labels.insert(labels, self.series.len() - 1);
        Ok(self.series.len() - 1)
    }

    /// Counts a sample in at each step whose window, open at its start and closed at its end, holds it.
    fn add(&mut self, series: usize, time: i64, value: f64) -> Result<(), QueryError> {
        let since = time + self.range.offset - self.first;
        let from = if since <= 0 { 0 } else { (since + self.step - 1) / self.step };
        let until = since + self.range.range;
        let cells = &mut self.series[series].1;
        let mut at = from;
        while at * self.step < until && (at as usize) < self.steps {
            self.points += cells[at as usize].add(self.range.op, time, value);
            at += 1;
        }
        if self.points > MOST_POINTS {
            return Err(QueryError::Bad(format!(
                "the query needs more than {MOST_POINTS} samples at once; ask for a shorter range"
            )));
        }
        Ok(())
    }

    fn finish(self) -> Vec<Series> {
        let range = self.range;
        let finished = self
            .series
            .into_iter()
            .map(|(labels, cells)| Series { labels, values: cells.into_iter().map(|cell| cell.finish(range)).collect() });
        finished.collect()
    }
}

impl Cell {
    /// Counts a sample in; how many samples are held more.
    fn add(&mut self, op: RangeOp, time: i64, value: f64) -> usize {
        match op {
            RangeOp::Rate | RangeOp::Count | RangeOp::BytesRate | RangeOp::Bytes | RangeOp::Sum | RangeOp::Absent => {
                *self = Self::Number(self.number().unwrap_or(0.0) + value);
            }
            RangeOp::Min => *self = Self::Number(self.number().map_or(value, |least| least.min(value))),
            RangeOp::Max => *self = Self::Number(self.number().map_or(value, |most| most.max(value))),
            RangeOp::Avg | RangeOp::Stddev | RangeOp::Stdvar => {
                // Welford's.
                let (count, mean, squares) =
                    if let Self::Spread(count, mean, squares) = self { (*count, *mean, *squares) } else { (0.0, 0.0, 0.0) };
                let count = count + 1.0;
                let next = mean + (value - mean) / count;
                *self = Self::Spread(count, next, squares + (value - mean) * (value - next));
            }
            RangeOp::First | RangeOp::Last => {
                let keep = match self {
                    Self::Point(kept, _) if op == RangeOp::First => *kept <= time,
                    Self::Point(kept, _) => *kept > time,
                    _ => false,
                };
                if !keep {
                    *self = Self::Point(time, value);
                }
            }
            RangeOp::Quantile | RangeOp::RateCounter => {
                match self {
                    Self::Points(points) => points.push((time, value)),
                    _ => *self = Self::Points(vec![(time, value)]),
                }
                return 1;
            }
        }
        0
    }

    fn number(&self) -> Option<f64> {
        if let Self::Number(number) = self { Some(*number) } else { None }
    }

    fn finish(self, range: &RangeAggregation) -> Option<f64> {
        let seconds = range.range as f64 / 1e9;
        match (self, range.op) {
            (Self::None, _) => None,
            (Self::Number(number), RangeOp::Rate | RangeOp::BytesRate) => Some(number / seconds),
            (Self::Number(number) | Self::Point(_, number), _) => Some(number),
            (Self::Spread(count, _, squares), RangeOp::Stdvar) => Some(squares / count),
            (Self::Spread(count, _, squares), RangeOp::Stddev) => Some((squares / count).sqrt()),
            (Self::Spread(_, mean, _), _) => Some(mean),
            (Self::Points(mut points), RangeOp::RateCounter) => {
                points.sort_by_key(|(time, _)| *time);
                counter_rate(&points, seconds)
            }
            (Self::Points(points), _) => Some(quantile(range.parameter, points.into_iter().map(|(_, value)| value).collect())),
        }
    }
}

/// A counter's increase a second, resets taken into account.
fn counter_rate(points: &[(i64, f64)], seconds: f64) -> Option<f64> {
    if points.len() < 2 {
        return None;
    }
    let increase = points.windows(2).map(|two| if two[1].1 < two[0].1 { two[1].1 } else { two[1].1 - two[0].1 }).sum::<f64>();
    Some(increase / seconds)
}

/// As Prometheus: interpolates between the two nearest.
pub(super) fn quantile(q: f64, mut values: Vec<f64>) -> f64 {
    if values.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    values.sort_by(f64::total_cmp);
    let rank = q * (values.len() - 1) as f64;
    let (low, weight) = (rank.floor() as usize, rank.fract());
    let high = (low + 1).min(values.len() - 1);
    values[low] * (1.0 - weight) + values[high] * weight
}
