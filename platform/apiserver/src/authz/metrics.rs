//! What authorization measures: `staging/src/k8s.io/apiserver/pkg/endpoints/filters/metrics.go` and
//! `pkg/authorization/metrics` of kube-apiserver.

use std::time::Duration;

use pharos_telemetry::Register as _;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, Registry, exponential_buckets};

use super::Decision;

/// Handles of all metrics of authorization. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    allowed: Outcome,
    no_opinion: Outcome,
    node: IntCounter,
    rbac: IntCounter,
    /// What only chains with webhooks need.
    attempts: IntCounterVec,
    duration: HistogramVec,
}

#[derive(Clone, Debug)]
struct Outcome {
    attempts: IntCounter,
    duration: Histogram,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    ///
    /// When they are registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let attempts: IntCounterVec = registry.counters(
            "authorization_attempts_total",
            "Counter of authorization attempts broken down by result. It can be either 'allowed', 'denied', 'no-opinion' or 'error'.",
            &["result"],
        )?;
        let duration: HistogramVec = registry.histograms(
            "authorization_duration_seconds",
            "Authorization duration in seconds broken out by result.",
            exponential_buckets(0.001, 2.0, 15)?,
            &["result"],
        )?;
        let decisions: IntCounterVec = registry.counters(
            "apiserver_authorization_decisions_total",
            "Total number of terminal decisions made by an authorizer split by authorizer type, name, and decision.",
            &["type", "name", "decision"],
        )?;
        let outcome = |result: &str| Outcome {
            attempts: attempts.with_label_values(&[result]),
            duration: duration.with_label_values(&[result]),
        };
        Ok(Metrics {
            allowed: outcome("allowed"),
            no_opinion: outcome("no-opinion"),
            node: decisions.with_label_values(&["Node", "node", "allowed"]),
            rbac: decisions.with_label_values(&["RBAC", "rbac", "allowed"]),
            attempts,
            duration,
        })
    }

    /// Counts one decision. Only terminal ones belong to an authorizer: nobody's opinion is nobody's.
    pub(super) fn decided(&self, authorizer: &str, decision: &Decision, elapsed: Duration) {
        if let Decision::Deny(_) = decision {
            self.attempts.with_label_values(&["denied"]).inc();
            self.duration.with_label_values(&["denied"]).observe(elapsed.as_secs_f64());
            return;
        }
        let outcome = if decision.allowed() {
            match authorizer {
                "Node" => self.node.inc(),
                "RBAC" => self.rbac.inc(),
                _ => {}
            }
            &self.allowed
        } else {
            &self.no_opinion
        };
        outcome.attempts.inc();
        outcome.duration.observe(elapsed.as_secs_f64());
    }
}
