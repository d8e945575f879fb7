//! Match conditions of webhooks and policies: expressions that all have to be true.
//!
//! Follows `plugin/webhook/matchconditions/matcher.go`.

use std::{collections::HashSet, time::Duration};

use pharos_cel::{Budget, MATCH_CONDITIONS_BUDGET};
use pharos_telemetry::Register as _;
use prometheus::{HistogramVec, IntCounterVec, Registry};
use serde_json::Value;
use tokio::time::Instant;

use super::{
    Attributes, Operation,
    expression::{Expression, Failure, Input, Names, Variables},
};

/// Conditions, compiled, of one webhook or policy.
#[derive(Debug, Clone)]
pub(super) struct Conditions {
    /// Whose they are: for the metrics.
    name: String,
    kind: &'static str,
    step: &'static str,
    expressions: Vec<Expression>,
    fail_open: bool,
}

/// Whether conditions hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Matched {
    Yes,
    No,
    /// They could not be evaluated, and the failure policy is `Fail`.
    Failed(String),
}

impl Conditions {
    /// Those of a webhook, which is asked at `step`.
    pub(super) fn of_webhook(hook: &Value, step: &'static str) -> Self {
        let name = hook["name"].as_str().unwrap_or_default();
        let names = Names { authorizer: true, ..Names::default() };
        Self::compile(name, "webhook", step, &hook["matchConditions"], names, hook["failurePolicy"] == "Ignore")
    }

    /// Those of a policy of either kind (upstream calls both steps `validate`).
    pub(super) fn of_policy(name: &str, spec: &Value, names: Names, fail_open: bool) -> Self {
        Self::compile(name, "policy", "validate", &spec["matchConditions"], names, fail_open)
    }

    fn compile(name: &str, kind: &'static str, step: &'static str, conditions: &Value, names: Names, fail_open: bool) -> Self {
        let conditions = conditions.as_array().map_or(&[][..], Vec::as_slice);
        let mut expressions = Vec::with_capacity(conditions.len());
        if !conditions.is_empty() {
            let environment = names.environment();
            let sources = conditions.iter().map(|condition| condition["expression"].as_str().unwrap_or_default());
            expressions.extend(sources.map(|source| Expression::compile(&environment, source)));
        }
        Conditions { name: name.to_owned(), kind, step, expressions, fail_open }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.expressions.is_empty()
    }

    /// Whether a webhook's conditions hold.
    pub(super) fn hold(&self, attributes: &Attributes<'_>, input: &Input<'_>) -> Matched {
        self.hold_with(attributes, input, &Variables::default())
    }

    /// Whether a policy's conditions hold.
    pub(super) fn hold_with(&self, attributes: &Attributes<'_>, input: &Input<'_>, variables: &Variables) -> Matched {
        if self.is_empty() {
            return Matched::Yes;
        }
        let start = Instant::now();
        let metrics = &attributes.api.0.match_conditions;
        let matched = self.evaluate(input, variables, || {
            metrics.errors.with_label_values(&[&self.name, self.kind, self.step, attributes.operation.as_str()]).inc();
        });
        metrics.evaluated(self, attributes.operation, start.elapsed());
        matched
    }

    /// One that is false decides, whatever the others come to; else an error is the failure policy's to judge.
    fn evaluate(&self, input: &Input<'_>, variables: &Variables, count_error: impl Fn()) -> Matched {
        let fail = |error: String| if self.fail_open { Matched::No } else { Matched::Failed(error) };
        let input = input.without_namespace();
        let bindings = input.bindings(variables);
        let mut budget = Budget::new(MATCH_CONDITIONS_BUDGET);
        let mut errors = Vec::new();
        for expression in &self.expressions {
            match expression.evaluate(&bindings, &mut budget) {
                Ok(value) if value.as_bool() == Some(false) => return Matched::No,
                Ok(_) => {}
                Err(Failure::Budget(error)) => return fail(error),
                Err(Failure::Expression(error)) => {
                    count_error();
                    errors.push(error);
                }
            }
        }
        if errors.is_empty() { Matched::Yes } else { fail(aggregate(&errors)) }
    }
}

/// `utilerrors.NewAggregate`: one error as it is, several in brackets, each once.
fn aggregate(errors: &[String]) -> String {
    let mut seen = HashSet::new();
    let distinct: Vec<&str> = errors.iter().map(String::as_str).filter(|error| seen.insert(*error)).collect();
    match distinct.as_slice() {
        [one] => (*one).to_owned(),
        many => format!("[{}]", many.join(", ")),
    }
}

/// What is measured of match conditions, by upstream's names (`apiserver/pkg/admission/metrics/metrics.go`).
pub(crate) struct Metrics {
    errors: IntCounterVec,
    exclusions: IntCounterVec,
    durations: HistogramVec,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        const LABELS: [&str; 4] = ["name", "kind", "type", "operation"];
        Ok(Metrics {
            errors: registry.counters(
                "apiserver_admission_match_condition_evaluation_errors_total",
                "Admission match condition evaluation errors count, identified by name of resource containing the match condition and broken out for each kind containing matchConditions (webhook or policy), operation and admission type (validate or admit).",
                &LABELS,
            )?,
            exclusions: registry.counters(
                "apiserver_admission_match_condition_exclusions_total",
                "Admission match condition evaluation exclusions count, identified by name of resource containing the match condition and broken out for each kind containing matchConditions (webhook or policy), operation and admission type (validate or admit).",
                &LABELS,
            )?,
            durations: registry.histograms(
                "apiserver_admission_match_condition_evaluation_seconds",
                "Admission match condition evaluation time in seconds, identified by name and broken out for each kind containing matchConditions (webhook or policy), operation and type (validate or admit).",
                [0.001, 0.005, 0.01, 0.025, 0.1, 0.2, 0.25],
                &LABELS,
            )?,
        })
    }

    pub(super) fn excluded(&self, name: &str, kind: &str, step: &str, operation: Operation) {
        self.exclusions.with_label_values(&[name, kind, step, operation.as_str()]).inc();
    }

    fn evaluated(&self, conditions: &Conditions, operation: Operation, elapsed: Duration) {
        let labels = [conditions.name.as_str(), conditions.kind, conditions.step, operation.as_str()];
        self.durations.with_label_values(&labels).observe(elapsed.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_together() {
        for (errors, text) in [(&["a"][..], "a"), (&["a", "a"], "a"), (&["a", "b", "a"], "[a, b]")] {
            let errors: Vec<String> = errors.iter().map(|error| (*error).to_owned()).collect();
            assert_eq!(aggregate(&errors), text);
        }
    }
}
