//! What is measured of admission, by upstream's names (`apiserver/pkg/admission/metrics/metrics.go`).

use std::sync::OnceLock;

use pharos_telemetry::Register as _;
use prometheus::{Histogram, HistogramVec, Registry};
use tokio::time::Instant;

use super::Operation;

const BUCKETS: [f64; 6] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5];

/// A built-in plugin, by upstream's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plugin {
    NamespaceLifecycle,
    LimitRanger,
    ServiceAccount,
    TaintNodesByCondition,
    Priority,
    DefaultTolerationSeconds,
    RuntimeClass,
    DefaultStorageClass,
    StorageObjectInUseProtection,
    DefaultIngressClass,
    PodTopologyLabels,
    PodSecurity,
    PersistentVolumeClaimResize,
    PodResizeValidator,
    /// NodeRestriction, CertificateApproval, CertificateSigning, CertificateSubjectRestriction and the checks of RBAC.
    NodeRestriction,
    MutatingAdmissionPolicy,
    MutatingAdmissionWebhook,
    ValidatingAdmissionPolicy,
    ValidatingAdmissionWebhook,
}

const PLUGINS: usize = Plugin::ValidatingAdmissionWebhook as usize + 1;

/// Whether objects are changed or refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Admit,
    Validate,
}

/// The children of one plugin, or of a whole step: by step, operation, and whether it refused.
type Children = [[[OnceLock<Histogram>; 2]; 4]; 2];

/// Handles of the metrics of admission. A child comes to be when it is first needed.
pub(crate) struct Metrics {
    steps: HistogramVec,
    plugins: HistogramVec,
    of_steps: Children,
    of_plugins: [Children; PLUGINS],
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Metrics {
            steps: registry.histograms(
                "apiserver_admission_step_admission_duration_seconds",
                "Admission sub-step latency histogram in seconds, broken out for each operation and API resource and step type (validate or admit).",
                BUCKETS,
                &["type", "operation", "rejected"],
            )?,
            plugins: registry.histograms(
                "apiserver_admission_controller_admission_duration_seconds",
                "Admission controller latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).",
                BUCKETS,
                &["name", "type", "operation", "rejected"],
            )?,
            of_steps: Children::default(),
            of_plugins: std::array::from_fn(|_| Children::default()),
        })
    }

    /// Begins to measure a step.
    pub(super) fn begin(&self, step: Step, operation: Operation) -> Lap<'_> {
        let now = Instant::now();
        Lap { metrics: self, step, operation, begun: now, since: now }
    }
}

/// Measures the plugins of a step, each from the end of the one before it.
pub(super) struct Lap<'a> {
    metrics: &'a Metrics,
    step: Step,
    operation: Operation,
    begun: Instant,
    since: Instant,
}

impl Lap<'_> {
    /// A plugin is done; hands its outcome on.
    pub(super) fn done<T, E>(&mut self, plugin: Plugin, outcome: Result<T, E>) -> Result<T, E> {
        let now = Instant::now();
        let (step, operation, rejected) = (self.step, self.operation, outcome.is_err());
        let child = &self.metrics.of_plugins[plugin as usize][step as usize][operation as usize][usize::from(rejected)];
        let child = child.get_or_init(|| {
            let name = format!("{plugin:?}");
            let labels = [name.as_str(), step.name(), operation.as_str(), if rejected { "true" } else { "false" }];
            self.metrics.plugins.with_label_values(&labels)
        });
        child.observe((now - self.since).as_secs_f64());
        self.since = now;
        outcome
    }

    /// The step is done; hands its outcome on.
    pub(super) fn end<T, E>(self, outcome: Result<T, E>) -> Result<T, E> {
        let (step, operation, rejected) = (self.step, self.operation, outcome.is_err());
        let child = &self.metrics.of_steps[step as usize][operation as usize][usize::from(rejected)];
        let child = child.get_or_init(|| {
            let labels = [step.name(), operation.as_str(), if rejected { "true" } else { "false" }];
            self.metrics.steps.with_label_values(&labels)
        });
        child.observe(self.begun.elapsed().as_secs_f64());
        outcome
    }
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Step::Admit => "admit",
            Step::Validate => "validate",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_and_plugins_are_told_apart() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        let mut lap = metrics.begin(Step::Admit, Operation::Create);
        assert!(lap.done(Plugin::NamespaceLifecycle, Ok::<_, ()>(())).is_ok());
        let refused = lap.done(Plugin::LimitRanger, Err::<(), _>(()));
        assert!(lap.end(refused).is_err());
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for line in [
            "apiserver_admission_controller_admission_duration_seconds_count{name=\"NamespaceLifecycle\",operation=\"CREATE\",rejected=\"false\",type=\"admit\"} 1",
            "apiserver_admission_controller_admission_duration_seconds_count{name=\"LimitRanger\",operation=\"CREATE\",rejected=\"true\",type=\"admit\"} 1",
            "apiserver_admission_step_admission_duration_seconds_count{operation=\"CREATE\",rejected=\"true\",type=\"admit\"} 1",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!text.contains("DELETE"));
    }
}
