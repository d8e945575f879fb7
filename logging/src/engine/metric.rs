use super::{QueryError, Work, range, vector};
use crate::{
    entry::Labels,
    index::Index,
    logql::{AggregationOp, Expr, RangeOp},
    scan::Limits,
};

/// A metric query over steps; an instant query has one.
pub(crate) struct Evaluation<'i> {
    pub(crate) index: &'i Index,
    /// Nanoseconds of the first step.
    pub(crate) start: i64,
    /// Nanoseconds; no step is later.
    pub(crate) end: i64,
    /// Nanoseconds.
    pub(crate) step: i64,
    pub(crate) limits: Limits,
    pub(crate) work: Work,
}

/// What an expression comes to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Scalar(f64),
    Vector(Vec<Series>),
}

/// Labels, and a value for each step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Series {
    pub(crate) labels: Labels,
    pub(crate) values: Vec<Option<f64>>,
}

impl Evaluation<'_> {
    pub(crate) fn steps(&self) -> usize {
        if self.step <= 0 { 1 } else { ((self.end - self.start) / self.step) as usize + 1 }
    }

    pub(crate) fn value(&mut self, expr: &Expr) -> Result<Value, QueryError> {
        match expr {
            Expr::Log(_) => Err(QueryError::Bad("a log query has no value".to_owned())),
            Expr::Number(number) => Ok(Value::Scalar(*number)),
            Expr::Vector(number) => Ok(Value::Vector(vec![self.constant(Labels::default(), *number)])),
            Expr::Range(range) if range.op == RangeOp::Absent => {
                let present = range::evaluate(self, range, None)?;
                let absent = |step: usize| present.iter().all(|series| series.values[step].is_none()).then_some(1.0);
                let values: Vec<_> = (0..self.steps()).map(absent).collect();
                let any = values.iter().any(Option::is_some);
                Ok(Value::Vector(if any { vec![Series { labels: range.absence(), values }] } else { Vec::new() }))
            }
            Expr::Range(range) => range::evaluate(self, range, None).map(Value::Vector),
            Expr::Aggregation(aggregation) => {
                if let (AggregationOp::Sum, Expr::Range(range)) = (aggregation.op, &aggregation.expr)
                    && range.is_additive()
                {
                    return range::evaluate(self, range, Some(&aggregation.grouping)).map(Value::Vector);
                }
                match self.value(&aggregation.expr)? {
                    Value::Vector(series) => Ok(Value::Vector(vector::aggregate(aggregation, series, self.steps()))),
                    Value::Scalar(_) => Err(QueryError::Bad("cannot aggregate a scalar".to_owned())),
                }
            }
            Expr::Binary(binary) => {
                let (left, right) = (self.value(&binary.left)?, self.value(&binary.right)?);
                vector::binary(binary, left, right, self.steps())
            }
            Expr::LabelReplace(replace) => match self.value(&replace.expr)? {
                Value::Vector(series) => vector::label_replace(replace, series).map(Value::Vector),
                Value::Scalar(_) => Err(QueryError::Bad("label_replace needs a vector".to_owned())),
            },
        }
    }

    fn constant(&self, labels: Labels, value: f64) -> Series {
        Series { labels, values: vec![Some(value); self.steps()] }
    }
}
