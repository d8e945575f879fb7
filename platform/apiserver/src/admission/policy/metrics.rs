//! What is measured of policies, by upstream's names (`policy/validating/metrics`, `policy/mutating/metrics`).

use std::time::Duration;

use pharos_telemetry::Register as _;
use prometheus::{HistogramVec, IntCounterVec, Registry};

/// From half a microsecond, which reading a field takes, to a second, which costs what an expression may cost at most.
const BUCKETS: [f64; 5] = [0.000_000_5, 0.001, 0.01, 0.1, 1.0];

/// Handles of the metrics of policies.
pub(super) struct Metrics {
    validating: IntCounterVec,
    validating_durations: HistogramVec,
    mutating: IntCounterVec,
    mutating_durations: HistogramVec,
}

/// The label `error_type` of an outcome; `None` is one without an error.
pub(super) fn error_type(error: Option<&str>) -> &'static str {
    match error {
        None => "no_error",
        Some(text) if text.starts_with("compilation") => "compile_error",
        Some(text) if text.starts_with("validation failed due to running out of cost budget") => "out_of_budget",
        Some(_) => "invalid_error",
    }
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        const LABELS: [&str; 4] = ["policy", "policy_binding", "error_type", "enforcement_action"];
        Ok(Metrics {
            validating: registry.counters(
                "apiserver_validating_admission_policy_check_total",
                "Validation admission policy check total, labeled by policy and further identified by binding and enforcement action taken.",
                &LABELS,
            )?,
            validating_durations: registry.histograms(
                "apiserver_validating_admission_policy_check_duration_seconds",
                "Validation admission latency for individual validation expressions in seconds, labeled by policy and further including binding and enforcement action taken.",
                BUCKETS,
                &LABELS,
            )?,
            mutating: registry.counters(
                "apiserver_mutating_admission_policy_check_total",
                "Mutation admission policy check total, labeled by policy and further identified by binding.",
                &LABELS[..3],
            )?,
            mutating_durations: registry.histograms(
                "apiserver_mutating_admission_policy_check_duration_seconds",
                "Mutation admission latency for individual mutation expressions in seconds, labeled by policy and binding.",
                BUCKETS,
                &LABELS[..3],
            )?,
        })
    }

    /// A validation came to something; `action` is what was done about it.
    pub(super) fn validated(&self, policy: &str, binding: &str, error_type: &str, action: &str, elapsed: Duration) {
        let labels = [policy, binding, error_type, action];
        self.validating.with_label_values(&labels).inc();
        self.validating_durations.with_label_values(&labels).observe(elapsed.as_secs_f64());
    }

    /// A mutation was made, or failed.
    pub(super) fn mutated(&self, policy: &str, binding: &str, error_type: &str, elapsed: Duration) {
        let labels = [policy, binding, error_type];
        self.mutating.with_label_values(&labels).inc();
        self.mutating_durations.with_label_values(&labels).observe(elapsed.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_errors() {
        for (error, wanted) in [
            (None, "no_error"),
            (Some("compilation error: compilation failed: ERROR"), "compile_error"),
            (Some("validation failed due to running out of cost budget, no further"), "out_of_budget"),
            (Some("expression 'x' resulted in error: no such key"), "invalid_error"),
        ] {
            assert_eq!(error_type(error), wanted, "{error:?}");
        }
    }
}
