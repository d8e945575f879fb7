//! What PodSecurity counts, by upstream's names (`pod-security-admission/metrics/metrics.go`).

use pharos_telemetry::Register as _;
use prometheus::{IntCounterVec, Registry};

use super::{
    Attributes, Operation, Subject,
    policy::{Level, Standard, Version},
};

/// The minor version of Kubernetes this server is.
const MINOR: u32 = 37;

/// Handles of the metrics.
pub(super) struct Metrics {
    evaluations: IntCounterVec,
    exemptions: IntCounterVec,
    errors: IntCounterVec,
}

/// What a pod got for an answer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Decision {
    Allow,
    Deny,
}

/// What a standard is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Mode {
    Enforce,
    Audit,
    Warn,
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Metrics {
            evaluations: registry.counters(
                "pod_security_evaluations_total",
                "Number of policy evaluations that occurred, not counting ignored or exempt requests.",
                &["decision", "policy_level", "policy_version", "mode", "request_operation", "resource", "subresource"],
            )?,
            exemptions: registry.counters(
                "pod_security_exemptions_total",
                "Number of exempt requests, not counting ignored or out of scope requests.",
                &["request_operation", "resource", "subresource"],
            )?,
            errors: registry.counters(
                "pod_security_errors_total",
                "Number of errors preventing normal evaluation. Non-fatal errors may result in the latest restricted profile being used for evaluation.",
                &["fatal", "request_operation", "resource", "subresource"],
            )?,
        };
        // These are there from the start, as upstream.
        for operation in ["create", "update"] {
            metrics.evaluations.with_label_values(&["allow", "privileged", "latest", "enforce", operation, "pod", ""]);
            for resource in ["pod", "controller"] {
                metrics.exemptions.with_label_values(&[operation, resource, ""]);
            }
        }
        Ok(metrics)
    }

    pub(super) fn evaluation(
        &self,
        decision: Decision,
        standard: Standard,
        mode: Mode,
        attributes: &Attributes<'_>,
        subject: Subject,
    ) {
        let decision = match decision {
            Decision::Allow => "allow",
            Decision::Deny => "deny",
        };
        let mode = match mode {
            Mode::Enforce => "enforce",
            Mode::Audit => "audit",
            Mode::Warn => "warn",
        };
        let level = standard.level.as_str();
        let [operation, resource, subresource] = labels(attributes, subject);
        self.evaluations.with_label_values(&[decision, level, &version(standard), mode, operation, resource, subresource]).inc();
    }

    pub(super) fn exemption(&self, attributes: &Attributes<'_>, subject: Subject) {
        self.exemptions.with_label_values(&labels(attributes, subject)).inc();
    }

    pub(super) fn error(&self, fatal: bool, attributes: &Attributes<'_>, subject: Subject) {
        let [operation, resource, subresource] = labels(attributes, subject);
        let fatal = if fatal { "true" } else { "false" };
        self.errors.with_label_values(&[fatal, operation, resource, subresource]).inc();
    }
}

fn labels<'a>(attributes: &Attributes<'a>, subject: Subject) -> [&'a str; 3] {
    let operation = if attributes.operation == Operation::Create { "create" } else { "update" };
    let resource = match subject {
        Subject::Pod => "pod",
        Subject::Namespace => "namespace",
        Subject::Controller => "controller",
    };
    [operation, resource, attributes.subresource]
}

/// The version as a label. Those to come are one, so that labels of namespaces can't make series up.
fn version(standard: Standard) -> String {
    match standard.version {
        _ if standard.level == Level::Privileged => "latest".to_owned(),
        Version::Minor(minor) if minor > MINOR => "future".to_owned(),
        version => version.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_few() {
        for (level, asked, label) in [
            (Level::Privileged, Version::Minor(5), "latest"),
            (Level::Baseline, Version::Latest, "latest"),
            (Level::Baseline, Version::Minor(37), "v1.37"),
            (Level::Restricted, Version::Minor(38), "future"),
        ] {
            assert_eq!(version(Standard { level, version: asked }), label);
        }
    }
}
