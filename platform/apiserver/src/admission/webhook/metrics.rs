//! What is measured of webhooks, by upstream's names (`apiserver/pkg/admission/metrics/metrics.go`).

use std::time::Duration;

use pharos_telemetry::Register as _;
use prometheus::{HistogramVec, IntCounterVec, Registry};

use crate::admission::Operation;

/// Handles of the metrics of webhooks.
pub(super) struct Metrics {
    durations: HistogramVec,
    requests: IntCounterVec,
    rejections: IntCounterVec,
    fail_opens: IntCounterVec,
}

/// What kind of webhook was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Mutating,
    Validating,
}

impl Step {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Step::Mutating => "admit",
            Step::Validating => "validating",
        }
    }
}

impl Step {
    /// How keys of audit annotations name it.
    pub(super) fn annotation(self) -> &'static str {
        match self {
            Step::Mutating => "mutation",
            Step::Validating => "validating",
        }
    }
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Metrics {
            durations: registry.histograms(
                "apiserver_admission_webhook_admission_duration_seconds",
                "Admission webhook latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).",
                [0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0],
                &["name", "type", "operation", "rejected"],
            )?,
            requests: registry.counters(
                "apiserver_admission_webhook_request_total",
                "Admission webhook request total, identified by name and broken out for each admission type (validating or mutating) and operation. Additional labels specify whether the request was rejected or not and an HTTP status code. Codes greater than 600 are truncated to 600, to keep the metrics cardinality bounded.",
                &["name", "type", "operation", "code", "rejected"],
            )?,
            rejections: registry.counters(
                "apiserver_admission_webhook_rejection_count",
                "Admission webhook rejection count, identified by name and broken out for each admission type (validating or admit) and operation. Additional labels specify an error type (calling_webhook_error or apiserver_internal_error if an error occurred; no_error otherwise) and optionally a non-zero rejection code if the webhook rejects the request with an HTTP status code (honored by the apiserver when the code is greater or equal to 400). Codes greater than 600 are truncated to 600, to keep the metrics cardinality bounded.",
                &["name", "type", "operation", "error_type", "rejection_code"],
            )?,
            fail_opens: registry.counters(
                "apiserver_admission_webhook_fail_open_count",
                "Admission webhook fail open count, identified by name and broken out for each admission type (validating or admit).",
                &["name", "type"],
            )?,
        })
    }

    pub(super) fn asked(&self, name: &str, step: Step, operation: Operation, elapsed: Duration, code: u16, rejected: bool) {
        let (step, operation, rejected) = (step.as_str(), operation.as_str(), if rejected { "true" } else { "false" });
        let code = code.min(600).to_string();
        self.durations.with_label_values(&[name, step, operation, rejected]).observe(elapsed.as_secs_f64());
        self.requests.with_label_values(&[name, step, operation, &code, rejected]).inc();
    }

    pub(super) fn rejected(&self, name: &str, step: Step, operation: Operation, error_type: &str, code: u16) {
        let code = code.min(600).to_string();
        self.rejections.with_label_values(&[name, step.as_str(), operation.as_str(), error_type, &code]).inc();
    }

    pub(super) fn failed_open(&self, name: &str, step: Step) {
        self.fail_opens.with_label_values(&[name, step.as_str()]).inc();
    }
}
