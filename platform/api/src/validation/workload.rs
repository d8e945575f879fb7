//! Workload controllers, autoscalers and disruption budgets.

use serde_json::Value;

use super::at::{At, Errors};
use super::{pod, storage};
use crate::selector::LabelSelector;
use crate::status::FieldError;

pub(super) fn old_at<'a>(old: Option<&'a Value>, path: &str) -> Option<&'a Value> {
    old.map(|old| old.pointer(path).unwrap_or(&Value::Null))
}

/// Replicas, selector and template, as all of them have.
fn common(spec: &At<'_>, noun: &str, errors: &mut Errors) {
    spec.field("replicas").non_negative(errors);
    spec.field("minReadySeconds").non_negative(errors);
    spec.field("revisionHistoryLimit").non_negative(errors);
    selector(spec, noun, errors);
    let template = spec.field("template");
    if template.is_absent() {
        errors.push(template.required(""));
        return;
    }
    // Upstream leaves a StatefulSet's pods to be looked at when they are made: their volumes come from its claims.
    if noun == "statefulset" {
        pod::template_metadata(&template, errors);
    } else {
        pod::template(&template, errors);
    }
    always(&template, noun, errors);
}

fn selector(spec: &At<'_>, noun: &str, errors: &mut Errors) {
    let selector = spec.field("selector");
    if selector.is_absent() {
        errors.push(selector.required(""));
        return;
    }
    selector.label_selector(errors);
    if selector.field("matchLabels").len() + selector.field("matchExpressions").len() == 0 {
        errors.push(selector.invalid(format!("empty selector is invalid for {noun}")));
        return;
    }
    matches(spec, &selector, errors);
}

pub(super) fn matches(spec: &At<'_>, selector: &At<'_>, errors: &mut Errors) {
    let labels = spec.field("template").field("metadata").field("labels");
    let Ok(parsed) = LabelSelector::from_value(Some(selector.value())) else { return };
    if !parsed.matches_labels(Some(labels.value())) {
        let shown = if labels.is_absent() { Value::Object(serde_json::Map::new()) } else { labels.value().clone() };
        errors.push(FieldError::invalid(labels.path(), shown, "`selector` does not match template `labels`"));
    }
}

fn always(template: &At<'_>, noun: &str, errors: &mut Errors) {
    let spec = template.field("spec");
    let restart = spec.field("restartPolicy");
    if !restart.text().is_empty() && restart.text() != "Always" {
        errors.push(FieldError::not_supported(restart.path(), restart.text(), &["Always"]));
    }
    let deadline = spec.field("activeDeadlineSeconds");
    if !deadline.is_absent() {
        let name = match noun {
            "statefulset" => "StatefulSet",
            "daemonset" => "DaemonSet",
            _ => "ReplicaSet",
        };
        errors.push(deadline.forbidden(format!("activeDeadlineSeconds in {name} is not Supported")));
    }
}

/// A number or a percentage.
fn int_or_percent(at: &At<'_>, errors: &mut Errors) {
    match at.value() {
        Value::String(text) => {
            let digits = text.strip_suffix('%').is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()));
            if !digits {
                let detail = crate::names::regex_error(
                    "a valid percent string must be a numeric string followed by an ending '%'",
                    "[0-9]+%",
                    &["1%", "93%"],
                );
                errors.push(at.invalid(detail));
            }
        }
        _ => at.non_negative(errors),
    }
}

fn is_zero(at: &At<'_>) -> bool {
    at.int() == Some(0) || at.text().strip_suffix('%').is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b == b'0'))
}

fn at_most_everything(at: &At<'_>, errors: &mut Errors) {
    let percent = at.text().strip_suffix('%').and_then(|d| d.parse::<u64>().ok());
    if percent.is_some_and(|p| p > 100) {
        errors.push(at.invalid("must not be greater than 100%"));
    }
}

pub(super) fn deployment(spec: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    common(spec, "deployment", errors);
    if let Some(old) = old_at(old, "/spec/selector") {
        spec.field("selector").immutable(old, errors);
    }
    let strategy = spec.field("strategy");
    if !matches!(strategy.field("type").text(), "Recreate" | "RollingUpdate") {
        errors.push(strategy.unsupported(&["Recreate", "RollingUpdate"]));
    }
    let rolling = strategy.field("rollingUpdate");
    if strategy.field("type").text() == "Recreate" && !rolling.is_absent() {
        errors.push(rolling.forbidden("may not be specified when strategy `type` is 'Recreate'"));
    } else if strategy.field("type").text() == "RollingUpdate" {
        let (unavailable, surge) = (rolling.field("maxUnavailable"), rolling.field("maxSurge"));
        int_or_percent(&unavailable, errors);
        int_or_percent(&surge, errors);
        if is_zero(&unavailable) && is_zero(&surge) {
            errors.push(unavailable.invalid("may not be 0 when `maxSurge` is 0"));
        }
        at_most_everything(&unavailable, errors);
    }
    let progress = spec.field("progressDeadlineSeconds");
    progress.non_negative(errors);
    if progress.int().is_some_and(|p| p <= spec.field("minReadySeconds").int().unwrap_or(0)) {
        errors.push(progress.invalid("must be greater than minReadySeconds"));
    }
}

pub(super) fn replica_set(spec: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    common(spec, "deployment", errors);
    if let Some(old) = old_at(old, "/spec/selector") {
        spec.field("selector").immutable(old, errors);
    }
}

pub(super) fn replication_controller(spec: &At<'_>, errors: &mut Errors) {
    spec.field("replicas").non_negative(errors);
    spec.field("minReadySeconds").non_negative(errors);
    let selector = spec.field("selector");
    if selector.len() == 0 {
        errors.push(selector.required(""));
    }
    let template = spec.field("template");
    if template.is_absent() {
        errors.push(template.required(""));
        return;
    }
    let labels = template.field("metadata").field("labels");
    if selector.entries().any(|(key, value)| labels.value().get(key) != Some(value.value())) {
        errors.push(labels.invalid("`selector` does not match template `labels`"));
    }
    pod::template(&template, errors);
    always(&template, "replicationcontroller", errors);
}

pub(super) fn stateful_set(spec: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    const MUTABLE: [&str; 7] = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    common(spec, "statefulset", errors);
    let policy = spec.field("podManagementPolicy");
    match policy.text() {
        "" => errors.push(policy.required("")),
        "OrderedReady" | "Parallel" => {}
        _ => errors.push(policy.invalid("must be 'OrderedReady' or 'Parallel'")),
    }
    let strategy = spec.field("updateStrategy");
    let rolling = strategy.field("rollingUpdate");
    match strategy.field("type").text() {
        "" => errors.push(strategy.required("")),
        "OnDelete" if !rolling.is_absent() => errors.push(rolling.invalid("only allowed for updateStrategy 'RollingUpdate'")),
        "OnDelete" => {}
        "RollingUpdate" => {
            rolling.field("partition").non_negative(errors);
            let unavailable = rolling.field("maxUnavailable");
            if !unavailable.is_absent() {
                int_or_percent(&unavailable, errors);
                if is_zero(&unavailable) {
                    errors.push(unavailable.invalid("cannot be 0"));
                }
                at_most_everything(&unavailable, errors);
            }
        }
        _ => errors.push(strategy.invalid("must be 'RollingUpdate' or 'OnDelete'")),
    }
    spec.field("ordinals").field("start").non_negative(errors);
    let retention = spec.field("persistentVolumeClaimRetentionPolicy");
    for field in ["whenDeleted", "whenScaled"] {
        retention.field(field).one_of(&["Retain", "Delete"], errors);
    }
    for claim in spec.field("volumeClaimTemplates").items() {
        storage::claim_spec(&claim.field("spec"), None, errors);
    }
    let Some(old) = old_at(old, "/spec") else { return };
    let fixed = |spec: &Value| -> Vec<(String, Value)> {
        let fields = spec.as_object().into_iter().flatten();
        fields
            .filter(|(name, value)| !MUTABLE.contains(&name.as_str()) && !value.is_null())
            .map(|(n, v)| (n.clone(), v.clone()))
            .map(|(name, mut value)| {
                // Claims may have been stored before they said what they are.
                for claim in value.as_array_mut().into_iter().flatten().filter(|_| name == "volumeClaimTemplates") {
                    claim["apiVersion"] = "v1".into();
                    claim["kind"] = "PersistentVolumeClaim".into();
                }
                (name, value)
            })
            .collect()
    };
    let sorted = |mut fields: Vec<(String, Value)>| {
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        fields
    };
    if sorted(fixed(old)) != sorted(fixed(spec.value())) {
        errors.push(spec.forbidden(
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', \
             'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        ));
    }
}

pub(super) fn daemon_set(spec: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    common(spec, "daemonset", errors);
    if let Some(old) = old_at(old, "/spec/selector") {
        spec.field("selector").immutable(old, errors);
    }
    let strategy = spec.field("updateStrategy");
    if !matches!(strategy.field("type").text(), "RollingUpdate" | "OnDelete") {
        errors.push(strategy.unsupported(&["RollingUpdate", "OnDelete"]));
    }
    if strategy.field("type").text() == "RollingUpdate" {
        let rolling = strategy.field("rollingUpdate");
        let (unavailable, surge) = (rolling.field("maxUnavailable"), rolling.field("maxSurge"));
        int_or_percent(&unavailable, errors);
        int_or_percent(&surge, errors);
        at_most_everything(&unavailable, errors);
        at_most_everything(&surge, errors);
        let (no_unavailable, no_surge) = (is_zero(&unavailable), is_zero(&surge) || surge.is_absent());
        if no_unavailable && no_surge {
            errors.push(unavailable.required("cannot be 0 when maxSurge is 0"));
        } else if !no_unavailable && !no_surge {
            errors.push(surge.invalid("may not be set when maxUnavailable is non-zero"));
        }
    }
}

pub(super) fn pod_disruption_budget(spec: &At<'_>, errors: &mut Errors) {
    let (min, max) = (spec.field("minAvailable"), spec.field("maxUnavailable"));
    if !min.is_absent() && !max.is_absent() {
        errors.push(spec.invalid("minAvailable and maxUnavailable cannot be both set"));
    }
    for at in [min, max] {
        if !at.is_absent() {
            int_or_percent(&at, errors);
            at_most_everything(&at, errors);
        }
    }
    spec.field("selector").label_selector(errors);
    spec.field("unhealthyPodEvictionPolicy").one_of(&["IfHealthyBudget", "AlwaysAllow"], errors);
}

/// The counts of a workload's status: none is negative, and parts are not more than the whole.
pub(super) fn status(kind: &str, status: &At<'_>, old: &Value, errors: &mut Errors) {
    let (counts, whole): (&[&str], &str) = match kind {
        "Deployment" => (
            &[
                "observedGeneration",
                "replicas",
                "updatedReplicas",
                "readyReplicas",
                "availableReplicas",
                "unavailableReplicas",
                "terminatingReplicas",
            ],
            "cannot be greater than readyReplicas",
        ),
        "StatefulSet" => (
            &["replicas", "readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas", "observedGeneration"],
            "cannot be greater than status.readyReplicas",
        ),
        "DaemonSet" => (
            &[
                "currentNumberScheduled",
                "numberMisscheduled",
                "desiredNumberScheduled",
                "numberReady",
                "observedGeneration",
                "updatedNumberScheduled",
                "numberAvailable",
                "numberUnavailable",
            ],
            "",
        ),
        _ => (
            &[
                "replicas",
                "fullyLabeledReplicas",
                "readyReplicas",
                "availableReplicas",
                "observedGeneration",
                "terminatingReplicas",
            ],
            "cannot be greater than readyReplicas",
        ),
    };
    for field in counts {
        status.field(field).non_negative(errors);
    }
    let collisions = status.field("collisionCount");
    collisions.non_negative(errors);
    let count = |field: &str| status.field(field).int().unwrap_or(0);
    if !whole.is_empty() {
        let parts = ["fullyLabeledReplicas", "updatedReplicas", "readyReplicas", "currentReplicas", "availableReplicas"];
        for field in parts.into_iter().filter(|field| counts.contains(field)) {
            if count(field) > count("replicas") {
                errors.push(status.field(field).invalid("cannot be greater than status.replicas"));
            }
        }
        if count("availableReplicas") > count("readyReplicas") {
            errors.push(status.field("availableReplicas").invalid(whole));
        }
    }
    let before = old.pointer("/status/collisionCount").and_then(Value::as_i64);
    if before.is_some_and(|before| collisions.int().is_none_or(|now| now < before)) {
        errors.push(FieldError::invalid(collisions.path(), collisions.int().unwrap_or(0), "cannot be decremented"));
    }
}

/// How many pods a budget spares.
pub(super) fn disruption_status(status: &At<'_>, errors: &mut Errors) {
    for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        status.field(field).non_negative(errors);
    }
}

pub(super) fn controller_revision(root: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    let data = root.field("data");
    if data.is_absent() {
        errors.push(data.required("data is mandatory"));
    } else if !data.value().is_object() {
        errors.push(FieldError::invalid(data.path(), "<value omitted>", "error parsing data as JSON object"));
    }
    root.field("revision").non_negative(errors);
    if let Some(old) = old {
        data.immutable(old.get("data").unwrap_or(&Value::Null), errors);
    }
}
