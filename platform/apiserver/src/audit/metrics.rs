//! What is measured of auditing, by upstream's names (`apiserver/pkg/audit/metrics.go`).

use pharos_telemetry::Register as _;
use prometheus::{IntCounter, IntCounterVec, Registry};

use super::policy::Level;

/// Handles of the metrics of auditing.
#[derive(Clone)]
pub(super) struct Metrics {
    pub(super) events: IntCounter,
    pub(super) rejected: IntCounter,
    errors: IntCounterVec,
    levels: [IntCounter; 4],
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let levels: IntCounterVec = registry.counters(
            "apiserver_audit_level_total",
            "Counter of policy levels for audit events (1 per request).",
            &["level"],
        )?;
        Ok(Metrics {
            events: registry
                .counter("apiserver_audit_event_total", "Counter of audit events generated and sent to the audit backend.")?,
            rejected: registry.counter(
                "apiserver_audit_requests_rejected_total",
                "Counter of apiserver requests rejected due to an error in audit logging backend.",
            )?,
            errors: registry.counters(
                "apiserver_audit_error_total",
                "Counter of audit events that failed to be audited properly. Plugin identifies the plugin affected by the error.",
                &["plugin"],
            )?,
            levels: Level::ALL.map(|level| levels.with_label_values(&[level.name()])),
        })
    }

    pub(super) fn level(&self, level: Level) {
        self.levels[level as usize].inc();
    }

    /// Counts events that are lost.
    pub(super) fn lost(&self, plugin: &str, events: usize) {
        self.errors.with_label_values(&[plugin]).inc_by(events as u64);
    }
}
