//! PromQL: Prometheus 3's semantics over the store.
//!
//! A query is evaluated series by series over all its steps, not step by step. Differences from upstream: no native
//! histograms, no `fill`, `anchored`, `smoothed`, `info()` or `limit_ratio` (each is refused), and infos and warnings carry no positions.

mod aggregate;
mod binary;
mod eval;
mod functions;
mod histogram;
pub(crate) mod number;
pub(crate) mod plan;
mod range;
#[cfg(test)]
mod tests;
mod tokens;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{sync::Semaphore, time::Instant};

use self::{
    eval::{Evaluator, Grid, Value as Evaluated},
    plan::{Node, Type},
};
use crate::{
    labels::Labels,
    metrics::EngineMetrics,
    tsdb::{Sample, Tsdb, is_stale},
};

/// What bounds a query.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Samples in memory.
    pub max_samples: usize,
    /// Time to answer, waiting included.
    pub timeout: Duration,
    /// Queries at once.
    pub max_concurrency: usize,
    /// Milliseconds an instant selector looks back.
    pub lookback_ms: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_samples: 50_000_000, timeout: Duration::from_secs(120), max_concurrency: 20, lookback_ms: 300_000 }
    }
}

/// Why a query has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The query is not PromQL, or not what this call takes.
    #[error("{0}")]
    Parse(String),
    /// The query's data do not allow an answer.
    #[error("{0}")]
    Execution(String),
    /// It took too long.
    #[error("query timed out in {0}")]
    Timeout(&'static str),
    /// The evaluation panicked: a bug.
    #[error("query evaluation failed unexpectedly")]
    Internal,
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// One number at the evaluation time.
    Scalar(Sample),
    /// One string at the evaluation time, in milliseconds.
    Text(i64, String),
    /// One sample of each series.
    Vector(Vec<(Labels, Sample)>),
    /// Several samples of each series.
    Matrix(Vec<(Labels, Vec<Sample>)>),
}

/// An answer and what is to be said about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The answer.
    pub value: Value,
    /// Likely mistakes that change the answer.
    pub warnings: Vec<String>,
    /// Likely mistakes.
    pub infos: Vec<String>,
    /// What it took.
    pub stats: Stats,
}

/// What a query took.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Waiting for its turn.
    pub queued: Duration,
    /// Reading the query.
    pub prepared: Duration,
    /// Evaluating it.
    pub evaluated: Duration,
    /// The most samples held at once.
    pub peak_samples: u64,
    /// Samples looked at, by the time of each step in milliseconds.
    pub samples: Vec<(i64, u64)>,
}

/// The times at which a query is evaluated, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// Once.
    Instant(i64),
    /// From `start` to `end` every `step`.
    Range {
        /// The first time.
        start: i64,
        /// No time is later than this.
        end: i64,
        /// Above zero.
        step: i64,
    },
}

/// Evaluates queries, a bounded number at once. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    db: Arc<Tsdb>,
    limits: Limits,
    slots: Arc<Semaphore>,
    metrics: EngineMetrics,
}

// === impl Engine ===

impl Engine {
    pub(crate) fn new(db: Arc<Tsdb>, limits: Limits, metrics: EngineMetrics) -> Self {
        let slots = Arc::new(Semaphore::new(limits.max_concurrency));
        Self { db, limits, slots, metrics }
    }

    /// Reads and evaluates a query, both off the async threads; `lookback_ms` is used instead of the limits' own.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn query(
        &self,
        text: &str,
        times: Times,
        timeout: Option<Duration>,
        lookback_ms: Option<i64>,
    ) -> Result<Answer, QueryError> {
        let timeout = timeout.map_or(self.limits.timeout, |t| t.min(self.limits.timeout));
        let (asked, deadline) = (Instant::now(), Instant::now() + timeout);
        let _counted = Counted::new(&self.metrics.queries);
        let slot = match tokio::time::timeout_at(deadline, self.slots.clone().acquire_owned()).await {
            Ok(slot) => slot.map_err(|_| QueryError::Internal)?,
            Err(_) => return Err(QueryError::Timeout("query queue")),
        };
        let queued = asked.elapsed();
        self.metrics.duration.with_label_values(&["queue_time"]).observe(queued.as_secs_f64());
        let (mut engine, text) = (self.clone(), text.to_owned());
        engine.limits.lookback_ms = lookback_ms.unwrap_or(engine.limits.lookback_ms);
        let answer = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            let began = Instant::now();
            let node = plan::parse(&text).map_err(QueryError::Parse)?;
            let prepared = began.elapsed();
            if let (Times::Range { .. }, kind @ (Type::Matrix | Type::Text)) = (times, node.kind()) {
                return Err(QueryError::Parse(format!(
                    "invalid expression type \"{}\" for range query, must be Scalar or instant Vector",
                    kind.documented()
                )));
            }
            let mut answer = engine.evaluate(&node, times, deadline)?;
            (answer.stats.queued, answer.stats.prepared) = (queued, prepared);
            Ok(answer)
        });
        answer.await.unwrap_or(Err(QueryError::Internal))
    }

    /// Evaluates a query here and now.
    pub(crate) fn evaluate(&self, node: &Node, times: Times, deadline: Instant) -> Result<Answer, QueryError> {
        let began = Instant::now();
        let (start, end, step) = match times {
            Times::Instant(t) => (t, t, 1),
            Times::Range { start, end, step } => (start, end, step),
        };
        let grid = Grid::new(start, end, step);
        let mut evaluator = Evaluator::new(&self.db, &self.limits, start, end, deadline);
        let value = evaluator.answer(node, &grid, matches!(times, Times::Instant(_)));
        self.metrics.samples.inc_by(evaluator.loaded() as u64);
        self.metrics.duration.with_label_values(&["inner_eval"]).observe(began.elapsed().as_secs_f64());
        let (per_step, peak_samples) = evaluator.counts();
        let notes = evaluator.notes();
        let value = value?;
        let samples = per_step.into_iter().enumerate().map(|(i, count)| (grid.t(i), count)).collect();
        let stats = Stats { evaluated: began.elapsed(), peak_samples, samples, ..Stats::default() };
        Ok(Answer { value, warnings: notes.warnings.into_iter().collect(), infos: notes.infos.into_iter().collect(), stats })
    }
}

/// What is to be said about an answer; each thing once.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) warnings: BTreeSet<String>,
    pub(crate) infos: BTreeSet<String>,
}

/// A gauge that is one higher for a while.
struct Counted<'a>(&'a prometheus::IntGauge);

impl<'a> Counted<'a> {
    fn new(gauge: &'a prometheus::IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The answer's shape for the caller: a scalar or vector over one step, or a matrix.
fn shape(value: Evaluated, grid: &Grid, instant: bool) -> Value {
    let samples = |values: &[f64]| {
        values.iter().enumerate().filter(|(_, v)| !is_stale(**v)).map(|(i, v)| Sample { t: grid.t(i), v: *v }).collect::<Vec<_>>()
    };
    match value {
        Evaluated::Text(text) => Value::Text(grid.t(0), text),
        Evaluated::Scalar(values) if instant => {
            Value::Scalar(Sample { t: grid.t(0), v: values.first().copied().unwrap_or(f64::NAN) })
        }
        Evaluated::Scalar(values) => Value::Matrix(vec![(Labels::default(), samples(&values))]),
        Evaluated::Vector(rows) if instant => {
            Value::Vector(rows.into_iter().filter_map(|row| samples(&row.values).first().map(|s| (row.labels, *s))).collect())
        }
        Evaluated::Vector(rows) => {
            let mut series: Vec<(Labels, Vec<Sample>)> =
                rows.into_iter().map(|row| (row.labels, samples(&row.values))).filter(|(_, s)| !s.is_empty()).collect();
            series.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Matrix(series)
        }
    }
}
