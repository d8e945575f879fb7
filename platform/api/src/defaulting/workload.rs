//! Workload controllers (`pkg/apis/{apps,batch,autoscaling}`, and the replication controller of core).

use serde_json::{Map, Value, json};

use super::{child, core, each, has, inside, pod, set, set_text, text};

pub(super) fn deployment(object: &mut Value) {
    let spec = child(object, "spec");
    set(spec, "replicas", 1);
    let strategy = child(spec, "strategy");
    set_text(strategy, "type", "RollingUpdate");
    if text(strategy, "type") == "RollingUpdate" {
        let rolling = child(strategy, "rollingUpdate");
        set(rolling, "maxUnavailable", "25%");
        set(rolling, "maxSurge", "25%");
    }
    set(spec, "revisionHistoryLimit", 10);
    set(spec, "progressDeadlineSeconds", 600);
    inside(spec, &["template"], pod::template);
}

pub(super) fn replica_set(object: &mut Value) {
    let spec = child(object, "spec");
    set(spec, "replicas", 1);
    inside(spec, &["template"], pod::template);
}

pub(super) fn replication_controller(object: &mut Value) {
    let labels =
        object.pointer("/spec/template/metadata/labels").filter(|l| l.as_object().is_some_and(|m| !m.is_empty())).cloned();
    if let Some(labels) = labels {
        set(child(object, "spec"), "selector", labels.clone());
        set(child(object, "metadata"), "labels", labels);
    }
    replica_set(object);
}

pub(super) fn stateful_set(object: &mut Value) {
    let spec = child(object, "spec");
    set_text(spec, "podManagementPolicy", "OrderedReady");
    let strategy = child(spec, "updateStrategy");
    if text(strategy, "type").is_empty() {
        strategy["type"] = "RollingUpdate".into();
        set(child(strategy, "rollingUpdate"), "partition", 0);
    }
    if text(strategy, "type") == "RollingUpdate" {
        inside(strategy, &["rollingUpdate"], |rolling| set(rolling, "partition", 0));
    }
    let retention = child(spec, "persistentVolumeClaimRetentionPolicy");
    set_text(retention, "whenDeleted", "Retain");
    set_text(retention, "whenScaled", "Retain");
    set(spec, "replicas", 1);
    set(spec, "revisionHistoryLimit", 10);
    inside(spec, &["template"], pod::template);
    each(spec, "volumeClaimTemplates", |claim| {
        // Whatever was given, as upstream's conversion, which knows no other kind there.
        claim["apiVersion"] = "v1".into();
        claim["kind"] = "PersistentVolumeClaim".into();
        core::persistent_volume_claim(claim);
    });
}

pub(super) fn daemon_set(object: &mut Value) {
    let spec = child(object, "spec");
    let strategy = child(spec, "updateStrategy");
    set_text(strategy, "type", "RollingUpdate");
    if text(strategy, "type") == "RollingUpdate" {
        let rolling = child(strategy, "rollingUpdate");
        set(rolling, "maxUnavailable", 1);
        set(rolling, "maxSurge", 0);
    }
    set(spec, "revisionHistoryLimit", 10);
    inside(spec, &["template"], pod::template);
}

pub(super) fn job(object: &mut Value) {
    let labels =
        object.pointer("/spec/template/metadata/labels").filter(|l| l.as_object().is_some_and(|m| !m.is_empty())).cloned();
    if let (Some(labels), true) =
        (labels, object.pointer("/metadata/labels").and_then(Value::as_object).is_none_or(Map::is_empty))
    {
        child(object, "metadata")["labels"] = labels;
    }
    let spec = child(object, "spec");
    if !has(spec, "completions") && !has(spec, "parallelism") {
        set(spec, "completions", 1);
    }
    set(spec, "parallelism", 1);
    let limit = if has(spec, "backoffLimitPerIndex") { i32::MAX } else { 6 };
    set(spec, "backoffLimit", limit);
    set(spec, "completionMode", "NonIndexed");
    set(spec, "suspend", false);
    let replacement = if has(spec, "podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    set(spec, "podReplacementPolicy", replacement);
    inside(spec, &["podFailurePolicy"], |policy| {
        each(policy, "rules", |rule| each(rule, "onPodConditions", |condition| set_text(condition, "status", "True")));
    });
    inside(spec, &["template"], pod::template);
}

pub(super) fn cron_job(object: &mut Value) {
    let spec = child(object, "spec");
    set_text(spec, "concurrencyPolicy", "Allow");
    set(spec, "suspend", false);
    set(spec, "successfulJobsHistoryLimit", 3);
    set(spec, "failedJobsHistoryLimit", 1);
    set(child(spec, "jobTemplate"), "metadata", Map::new());
    inside(spec, &["jobTemplate", "spec", "template"], pod::template);
}

pub(super) fn horizontal_pod_autoscaler(object: &mut Value) {
    // Version 1 has this in spec and the rest in annotations; only version 2 has a list of metrics.
    let first = object["apiVersion"] == "autoscaling/v1";
    let spec = child(object, "spec");
    set(spec, "minReplicas", 1);
    if first {
        return;
    }
    let metrics = spec.get("metrics").and_then(Value::as_array).is_none_or(Vec::is_empty);
    if metrics {
        spec["metrics"] = json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]);
    }
    inside(spec, &["behavior"], |behavior| {
        let up = child(behavior, "scaleUp");
        set(up, "stabilizationWindowSeconds", 0);
        set(up, "selectPolicy", "Max");
        set(
            up,
            "policies",
            json!([{"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]),
        );
        let down = child(behavior, "scaleDown");
        set(down, "selectPolicy", "Max");
        set(down, "policies", json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]));
    });
}
