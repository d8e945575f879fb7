//! Workload controllers, autoscalers and disruption budgets.

use serde_json::Value;

use super::at::{At, Errors};
use super::{pod, storage};
use crate::selector::LabelSelector;
use crate::status::FieldError;

fn old_at<'a>(old: Option<&'a Value>, path: &str) -> Option<&'a Value> {
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
    pod::template(&template, errors);
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

fn matches(spec: &At<'_>, selector: &At<'_>, errors: &mut Errors) {
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
    strategy.field("type").must_be_one_of(&["Recreate", "RollingUpdate"], errors);
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
    spec.field("podManagementPolicy").must_be_one_of(&["OrderedReady", "Parallel"], errors);
    let strategy = spec.field("updateStrategy");
    strategy.field("type").must_be_one_of(&["RollingUpdate", "OnDelete"], errors);
    let rolling = strategy.field("rollingUpdate");
    rolling.field("partition").non_negative(errors);
    if strategy.field("type").text() == "OnDelete" && !rolling.is_absent() {
        errors.push(rolling.invalid("only allowed for updateStrategy 'RollingUpdate'"));
    }
    spec.field("ordinals").field("start").non_negative(errors);
    let retention = spec.field("persistentVolumeClaimRetentionPolicy");
    for field in ["whenDeleted", "whenScaled"] {
        retention.field(field).one_of(&["Retain", "Delete"], errors);
    }
    for claim in spec.field("volumeClaimTemplates").items() {
        storage::persistent_volume_claim(&claim.field("spec"), None, errors);
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
    strategy.field("type").must_be_one_of(&["RollingUpdate", "OnDelete"], errors);
    if strategy.field("type").text() == "RollingUpdate" {
        let rolling = strategy.field("rollingUpdate");
        let (unavailable, surge) = (rolling.field("maxUnavailable"), rolling.field("maxSurge"));
        int_or_percent(&unavailable, errors);
        int_or_percent(&surge, errors);
        at_most_everything(&unavailable, errors);
        at_most_everything(&surge, errors);
        let (no_unavailable, no_surge) = (is_zero(&unavailable), is_zero(&surge) || surge.is_absent());
        if no_unavailable && no_surge {
            errors.push(unavailable.invalid("cannot be 0 when maxSurge is 0"));
        } else if !no_unavailable && !no_surge {
            errors.push(surge.invalid("may not be set when maxUnavailable is non-zero"));
        }
    }
}

pub(super) fn job(spec: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    job_spec(spec, errors);
    let selector = spec.field("selector");
    if selector.is_absent() {
        errors.push(selector.required(""));
    } else {
        selector.label_selector(errors);
        matches(spec, &selector, errors);
    }
    let Some(old) = old_at(old, "/spec") else { return };
    for field in ["selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "successPolicy", "managedBy"] {
        let before = old.get(field).unwrap_or(&Value::Null);
        if field != "managedBy" || !before.is_null() {
            spec.field(field).immutable(before, errors);
        }
    }
    let elastic = spec.field("completionMode").text() == "Indexed"
        && spec.field("completions").value() == spec.field("parallelism").value();
    if !elastic {
        spec.field("completions").immutable(old.get("completions").unwrap_or(&Value::Null), errors);
    }
    // Scheduling directives of a suspended job that never started may change; the rest of the template never does.
    let suspended = old.get("suspend").and_then(Value::as_bool).unwrap_or(false);
    let relaxed = |template: &Value| -> Value {
        let mut template = template.clone();
        if suspended {
            if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("labels");
                metadata.remove("annotations");
            }
            if let Some(pod) = template.get_mut("spec").and_then(Value::as_object_mut) {
                for field in ["nodeSelector", "affinity", "tolerations", "schedulingGates"] {
                    pod.remove(field);
                }
            }
        }
        template
    };
    let before = old.get("template").unwrap_or(&Value::Null);
    if relaxed(before) != relaxed(spec.field("template").value()) {
        errors.push(spec.field("template").invalid("field is immutable"));
    }
}

fn job_spec(spec: &At<'_>, errors: &mut Errors) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        spec.field(field).non_negative(errors);
    }
    let mode = spec.field("completionMode");
    mode.one_of(&["NonIndexed", "Indexed"], errors);
    if mode.text() == "Indexed" && spec.field("completions").is_absent() {
        errors.push(spec.field("completions").required("when completion mode is Indexed"));
    }
    if mode.text() != "Indexed" && !spec.field("backoffLimitPerIndex").is_absent() {
        errors.push(spec.field("backoffLimitPerIndex").invalid("requires indexed completion mode"));
    }
    if !spec.field("maxFailedIndexes").is_absent() && spec.field("backoffLimitPerIndex").is_absent() {
        errors.push(spec.field("backoffLimitPerIndex").required("when maxFailedIndexes is specified"));
    }
    spec.field("podReplacementPolicy").one_of(&["TerminatingOrFailed", "Failed"], errors);
    for rule in spec.field("podFailurePolicy").field("rules").items() {
        rule.field("action").must_be_one_of(&["Count", "FailIndex", "FailJob", "Ignore"], errors);
    }
    let template = spec.field("template");
    pod::template(&template, errors);
    let restart = template.field("spec").field("restartPolicy");
    match restart.text() {
        "" | "Always" => errors.push(restart.required("valid values: \"OnFailure\", \"Never\"")),
        _ => restart.one_of(&["OnFailure", "Never"], errors),
    }
    if !spec.field("podFailurePolicy").is_absent() && restart.text() != "Never" && restart.text() != "Always" {
        errors.push(restart.invalid("only \"Never\" is supported when podFailurePolicy is specified"));
    }
}

pub(super) fn cron_job(root: &At<'_>, errors: &mut Errors) {
    let spec = root.field("spec");
    let schedule = spec.field("schedule");
    if schedule.must_be_set("", errors) {
        if schedule.text().contains("TZ") {
            errors.push(schedule.invalid("cannot use TZ or CRON_TZ in schedule, use timeZone field instead"));
        } else if let Err(why) = cron(schedule.text()) {
            errors.push(schedule.invalid(why));
        }
    }
    let zone = spec.field("timeZone");
    if !zone.is_absent() && (zone.text().is_empty() || zone.text() == "Local" || jiff::tz::TimeZone::get(zone.text()).is_err()) {
        errors.push(zone.invalid(format!("unknown time zone {}", zone.text())));
    }
    spec.field("startingDeadlineSeconds").non_negative(errors);
    spec.field("concurrencyPolicy").must_be_one_of(&["Allow", "Forbid", "Replace"], errors);
    spec.field("successfulJobsHistoryLimit").non_negative(errors);
    spec.field("failedJobsHistoryLimit").non_negative(errors);
    let job = spec.field("jobTemplate").field("spec");
    job_spec(&job, errors);
    if job.field("manualSelector").is_true() {
        errors.push(FieldError::not_supported(job.field("manualSelector").path(), true, &["nil", "false"]));
    }
}

/// A schedule of five fields, or `@daily` and the like, as robfig/cron reads it.
fn cron(text: &str) -> Result<(), String> {
    if let Some(word) = text.strip_prefix('@') {
        let known = ["yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly"].contains(&word);
        let every = word.strip_prefix("every ").is_some_and(|d| crate::time::parse_go_duration(d).is_some());
        return if known || every { Ok(()) } else { Err(format!("unrecognized descriptor: {text}")) };
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != 5 {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
    let bounds: [(u32, u32, &[&str], u32); 5] =
        [(0, 59, &[], 0), (0, 23, &[], 0), (1, 31, &[], 0), (1, 12, MONTHS, 1), (0, 6, DAYS, 0)];
    for (field, (low, high, names, first)) in fields.iter().zip(bounds) {
        for part in field.split(',') {
            let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
            if let Some(step) = step
                && step.parse::<u32>().ok().is_none_or(|s| s == 0)
            {
                return Err(format!("step of range should be a positive number: {part}"));
            }
            if matches!(range, "*" | "?") {
                continue;
            }
            let number = |word: &str| -> Result<u32, String> {
                let named = names
                    .iter()
                    .position(|n| n.eq_ignore_ascii_case(word))
                    .and_then(|at| u32::try_from(at).ok())
                    .map(|at| at + first);
                named
                    .or_else(|| word.parse().ok())
                    .ok_or_else(|| format!("failed to parse int from {word}: strconv.Atoi: parsing {word:?}: invalid syntax"))
            };
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            let (from, to) = (number(from)?, number(to)?);
            if from < low {
                return Err(format!("beginning of range ({from}) below minimum ({low}): {part}"));
            }
            if to > high {
                return Err(format!("end of range ({to}) above maximum ({high}): {part}"));
            }
            if from > to {
                return Err(format!("beginning of range ({from}) beyond end of range ({to}): {part}"));
            }
        }
    }
    Ok(())
}

pub(super) fn horizontal_pod_autoscaler(spec: &At<'_>, errors: &mut Errors) {
    let (min, max) = (spec.field("minReplicas"), spec.field("maxReplicas"));
    if min.int().is_some_and(|n| n < 1) {
        errors.push(min.invalid("must be greater than or equal to 1"));
    }
    if max.int().unwrap_or(0) < 1 {
        errors.push(FieldError::invalid(max.path(), max.int().unwrap_or(0), "must be greater than 0"));
    } else if min.int().is_some_and(|min| max.int().unwrap_or(0) < min) {
        errors.push(max.invalid("must be greater than or equal to `minReplicas`"));
    }
    let target = spec.field("scaleTargetRef");
    target.field("kind").must_be_set("", errors);
    target.field("name").must_be_set("", errors);
    for metric in spec.field("metrics").items() {
        let ty = metric.field("type");
        if ty.must_be_set("must specify a metric source type", errors) {
            ty.one_of(&["ContainerResource", "External", "Object", "Pods", "Resource"], errors);
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
