//! Jobs and CronJobs (`pkg/apis/batch/validation/validation.go`).

use std::collections::BTreeSet;

use serde_json::Value;

use super::at::{At, Errors};
use super::pod;
use super::workload::{matches, old_at};
use crate::status::FieldError;

const MAX_PARALLELISM: i64 = 100_000;
const MAX_FAILED_INDEXES: i64 = 100_000;
/// Above so many completions with a limit of failures each, the others are bounded tighter.
const MANY_COMPLETIONS: i64 = 100_000;
const MAX_OF_MANY: i64 = 10_000;
const MAX_FAILURE_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;
const MAX_CONDITION_PATTERNS: usize = 20;
const MAX_SUCCESS_RULES: usize = 20;
const MAX_SUCCEEDED_INDEXES_BYTES: usize = 64 * 1024;
const MAX_MANAGER: usize = 63;

pub(super) fn job(root: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    let spec = root.field("spec");
    job_spec(&spec, errors);
    let selector = spec.field("selector");
    if selector.is_absent() {
        errors.push(selector.required(""));
    } else {
        selector.label_selector(errors);
        matches(&spec, &selector, errors);
    }
    let Some(old) = old_at(old, "/spec") else {
        pod_names(root, &spec, errors);
        return;
    };
    let before = |field: &str| old.get(field).unwrap_or(&Value::Null);
    completions(&spec, before("completions"), errors);
    spec.field("selector").immutable(before("selector"), errors);
    template_update(&spec, old, errors);
    for field in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        spec.field(field).immutable(before(field), errors);
    }
}

/// The names of an indexed job's pods end in their index, and have to fit.
fn pod_names(root: &At<'_>, spec: &At<'_>, errors: &mut Errors) {
    let name = root.field("metadata").field("name");
    let last = spec.field("completions").int().unwrap_or(0) - 1;
    if spec.field("completionMode").text() != "Indexed" || last < 0 {
        return;
    }
    let longest = format!("{}-{last}", name.text());
    if !crate::names::dns1123_label(&longest).is_empty() {
        errors.push(name.invalid(format!("will not able to create pod with invalid DNS label: {longest}")));
    }
}

/// Only an indexed job's completions may change, together with its parallelism.
fn completions(spec: &At<'_>, before: &Value, errors: &mut Errors) {
    let now = spec.field("completions");
    if spec.field("completionMode").text() != "Indexed" {
        now.immutable(before, errors);
    } else if now.value() != before && !now.is_absent() && now.value() != spec.field("parallelism").value() {
        errors.push(now.invalid("can only be modified in tandem with spec.parallelism"));
    }
}

/// Scheduling directives and resources of a suspended job that has no pods may change; the rest of the template never does.
fn template_update(spec: &At<'_>, old: &Value, errors: &mut Errors) {
    let template = spec.field("template");
    let before = old.get("template").unwrap_or(&Value::Null);
    if template.value() == before {
        return;
    }
    let suspended = old.get("suspend").and_then(Value::as_bool).unwrap_or(false);
    let relaxed = |template: &Value| -> Value {
        let mut template = template.clone();
        if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("labels");
            metadata.remove("annotations");
        }
        if let Some(pod) = template.get_mut("spec").and_then(Value::as_object_mut) {
            for field in ["nodeSelector", "tolerations", "schedulingGates"] {
                pod.remove(field);
            }
            if let Some(affinity) = pod.get_mut("affinity").and_then(Value::as_object_mut) {
                affinity.remove("nodeAffinity");
                if affinity.values().all(Value::is_null) {
                    pod.remove("affinity");
                }
            }
            for list in ["containers", "initContainers"] {
                for container in pod.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                    if let Some(container) = container.as_object_mut() {
                        container.remove("resources");
                    }
                }
            }
        }
        template
    };
    if !suspended || relaxed(before) != relaxed(template.value()) {
        errors.push(template.invalid("field is immutable"));
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
    if !spec.field("maxFailedIndexes").is_absent() && spec.field("backoffLimitPerIndex").is_absent() {
        errors.push(spec.field("backoffLimitPerIndex").required("when maxFailedIndexes is specified"));
    }
    let manager = spec.field("managedBy");
    if !manager.is_absent() {
        manager.domain_prefixed_path(errors);
        manager.at_most_bytes(MAX_MANAGER, errors);
    }
    let mode = spec.field("completionMode");
    mode.one_of(&["NonIndexed", "Indexed"], errors);
    match mode.text() {
        "Indexed" => indexed(spec, errors),
        "" | "NonIndexed" => {
            for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
                if !spec.field(field).is_absent() {
                    errors.push(spec.field(field).invalid("requires indexed completion mode"));
                }
            }
        }
        _ => {}
    }
    failure_policy(spec, errors);
    let success = spec.field("successPolicy");
    if !success.is_absent() {
        if mode.text() == "Indexed" {
            success_policy(spec, &success, errors);
        } else {
            errors.push(success.invalid("requires indexed completion mode"));
        }
    }
    let replacement = spec.field("podReplacementPolicy");
    if spec.field("podFailurePolicy").is_absent() {
        replacement.one_of(&["TerminatingOrFailed", "Failed"], errors);
    } else {
        replacement.one_of(&["Failed"], errors);
    }
    let template = spec.field("template");
    pod::template(&template, errors);
    let restart = template.field("spec").field("restartPolicy");
    match restart.text() {
        "" | "Always" => errors.push(restart.required("valid values: \"OnFailure\", \"Never\"")),
        "Never" => {}
        "OnFailure" if spec.field("podFailurePolicy").is_absent() => {}
        "OnFailure" => errors.push(restart.invalid("only \"Never\" is supported when podFailurePolicy is specified")),
        _ => errors.push(restart.unsupported(&["OnFailure", "Never"])),
    }
}

/// A job whose pods have indexes.
fn indexed(spec: &At<'_>, errors: &mut Errors) {
    let (completions, parallelism, failed) =
        (spec.field("completions"), spec.field("parallelism"), spec.field("maxFailedIndexes"));
    let above = |at: &At<'_>, most: i64| at.int().is_some_and(|n| n > most);
    if completions.is_absent() {
        errors.push(completions.required("when completion mode is Indexed"));
    }
    if above(&parallelism, MAX_PARALLELISM) {
        let detail = format!("must be less than or equal to {MAX_PARALLELISM} when completion mode is Indexed");
        errors.push(parallelism.invalid(detail));
    }
    if completions.int().is_some_and(|completions| above(&failed, completions)) {
        errors.push(failed.invalid("must be less than or equal to completions"));
    }
    if above(&failed, MAX_FAILED_INDEXES) {
        errors.push(failed.invalid(format!("must be less than or equal to {MAX_FAILED_INDEXES}")));
    }
    if above(&completions, MANY_COMPLETIONS) && !spec.field("backoffLimitPerIndex").is_absent() {
        if failed.is_absent() {
            let detail = format!("must be specified when completions is above {MANY_COMPLETIONS}");
            errors.push(failed.required(&detail));
        }
        for at in [&parallelism, &failed] {
            if above(at, MAX_OF_MANY) {
                errors.push(at.invalid(format!(
                    "must be less than or equal to {MAX_OF_MANY} when completions are above {MANY_COMPLETIONS} and used with \
                     backoff limit per index"
                )));
            }
        }
    }
}

fn failure_policy(spec: &At<'_>, errors: &mut Errors) {
    let rules = spec.field("podFailurePolicy").field("rules");
    if rules.len() == 0 {
        return;
    }
    rules.at_most_items(MAX_FAILURE_RULES, errors);
    let pod = spec.field("template").field("spec");
    let containers: BTreeSet<&str> = ["containers", "initContainers"]
        .into_iter()
        .flat_map(|list| pod.field(list).items())
        .map(|container| container.field("name").text())
        .collect();
    let per_index = !spec.field("backoffLimitPerIndex").is_absent();
    for rule in rules.items() {
        let action = rule.field("action");
        match action.text() {
            "" => errors.push(action.required("valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]")),
            "FailIndex" if !per_index => errors.push(action.invalid("requires the backoffLimitPerIndex to be set")),
            _ => action.one_of(&["Count", "FailIndex", "FailJob", "Ignore"], errors),
        }
        let (codes, conditions) = (rule.field("onExitCodes"), rule.field("onPodConditions"));
        if !codes.is_absent() {
            exit_codes(&codes, &containers, errors);
        }
        conditions.at_most_items(MAX_CONDITION_PATTERNS, errors);
        for pattern in conditions.items() {
            pattern.field("type").qualified(errors);
            let status = pattern.field("status");
            if status.must_be_set("valid values: [\"False\" \"True\" \"Unknown\"]", errors) {
                status.one_of(&["False", "True", "Unknown"], errors);
            }
        }
        match (codes.is_absent(), conditions.len() == 0) {
            (false, false) => {
                errors.push(rule.invalid_unshown("specifying both OnExitCodes and OnPodConditions is not supported"));
            }
            (true, true) => errors.push(rule.invalid_unshown("specifying one of OnExitCodes and OnPodConditions is required")),
            _ => {}
        }
    }
}

fn exit_codes(codes: &At<'_>, containers: &BTreeSet<&str>, errors: &mut Errors) {
    let (operator, container, values) = (codes.field("operator"), codes.field("containerName"), codes.field("values"));
    if operator.must_be_set("valid values: [\"In\" \"NotIn\"]", errors) {
        operator.one_of(&["In", "NotIn"], errors);
    }
    if !container.is_absent() && !containers.contains(container.text()) {
        errors.push(container.invalid("must be one of the container or initContainer names in the pod template"));
    }
    if values.len() == 0 {
        errors.push(values.invalid("at least one value is required"));
    }
    values.at_most_items(MAX_EXIT_CODES, errors);
    let mut seen = BTreeSet::new();
    let (mut last, mut ordered) = (i64::MIN, true);
    for value in values.items() {
        let code = value.int().unwrap_or(0);
        if operator.text() == "In" && code == 0 {
            errors.push(value.invalid("must not be 0 for the In operator"));
        }
        if !seen.insert(code) {
            errors.push(value.duplicate());
        }
        ordered &= last <= code;
        last = code;
    }
    if !ordered {
        errors.push(values.invalid("must be ordered"));
    }
}

fn success_policy(spec: &At<'_>, policy: &At<'_>, errors: &mut Errors) {
    let (rules, completions) = (policy.field("rules"), spec.field("completions").int().unwrap_or(0));
    if rules.len() == 0 {
        errors.push(rules.required("at least one rules must be specified when the successPolicy is specified"));
    }
    rules.at_most_items(MAX_SUCCESS_RULES, errors);
    for rule in rules.items() {
        let (count, indexes) = (rule.field("succeededCount"), rule.field("succeededIndexes"));
        if count.is_absent() && indexes.is_absent() {
            errors.push(rule.required("at least one of succeededCount or succeededIndexes must be specified"));
        }
        indexes.at_most_bytes(MAX_SUCCEEDED_INDEXES_BYTES, errors);
        let total = self::indexes(indexes.text(), completions).unwrap_or_else(|why| {
            errors.push(indexes.invalid(format!("error parsing succeededIndexes: {why}")));
            0
        });
        count.non_negative(errors);
        let Some(given) = count.int() else { continue };
        if given > completions {
            let detail = format!("must be less than or equal to {completions} (the number of specified completions)");
            errors.push(count.invalid(detail));
        }
        if !indexes.is_absent() && given > total {
            errors.push(count.invalid(format!(
                "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
            )));
        }
    }
}

/// How many indexes a text such as `1,3-5` names.
fn indexes(text: &str, completions: i64) -> Result<i64, String> {
    let mut total = 0;
    let mut last: Option<i64> = None;
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (first, end) = interval(part, completions)?;
        if let Some(last) = last.filter(|last| *last >= first) {
            return Err(format!("non-increasing order, previous: {last}, current: {first}"));
        }
        total += end - first + 1;
        last = Some(end);
    }
    Ok(total)
}

fn interval(text: &str, completions: i64) -> Result<(i64, i64), String> {
    if text.matches('-').count() > 1 {
        return Err(format!(
            "the fragment {text:?} violates the requirement that an index interval can have at most two parts separated by '-'"
        ));
    }
    let index = |text: &str| -> Result<i64, String> {
        let index = text.parse::<i64>().map_err(|_| format!("cannot convert string to integer for index: {text:?}"))?;
        if index >= completions {
            return Err(format!("too large index: {text:?}"));
        }
        Ok(index)
    };
    let Some((first, end)) = text.split_once('-') else {
        let only = index(text)?;
        return Ok((only, only));
    };
    let (first, end) = (index(first)?, index(end)?);
    if first >= end {
        return Err(format!("non-increasing order, previous: {first}, current: {end}"));
    }
    Ok((first, end))
}

/// How far a job is, which a job that is over says for the last time.
pub(super) fn job_status(root: &At<'_>, old: &Value, errors: &mut Errors) {
    let (spec, status) = (root.field("spec"), root.field("status"));
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        status.field(field).non_negative(errors);
    }
    let uncounted = status.field("uncountedTerminatedPods");
    let mut seen = BTreeSet::new();
    for uid in ["succeeded", "failed"].into_iter().flat_map(|list| uncounted.field(list).items()) {
        if uid.text().is_empty() {
            errors.push(uid.invalid("must not be empty"));
        } else if !seen.insert(uid.text()) {
            errors.push(uid.duplicate());
        }
    }
    let is = |status: &Value, ty: &str| {
        let conditions = status.get("conditions").and_then(Value::as_array);
        conditions.into_iter().flatten().any(|c| c["type"] == ty && c["status"] == "True")
    };
    let old = old.get("status").unwrap_or(&Value::Null);
    if status.value() == old {
        return;
    }
    let (was, now) = (|ty: &str| is(old, ty), |ty: &str| is(status.value(), ty));
    let conditions = status.field("conditions");
    let (complete, failed, success, target) = (now("Complete"), now("Failed"), now("SuccessCriteriaMet"), now("FailureTarget"));
    for (wrong, detail) in [
        (complete && failed, "cannot set Complete=True and Failed=true conditions"),
        (complete && target, "cannot set Complete=True and FailureTarget=true conditions"),
        (failed && !target && !was("Failed"), "cannot set Failed=True condition without the FailureTarget=true condition"),
        (
            complete && !success && !was("Complete"),
            "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
        ),
        (success && failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions"),
        (success && target, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions"),
        (was("Failed") && !failed, "cannot disable the terminal Failed=True condition"),
        (was("Complete") && !complete, "cannot disable the terminal Complete=True condition"),
        (was("FailureTarget") && !target, "cannot disable the terminal FailureTarget=True condition"),
        (was("SuccessCriteriaMet") && !success, "cannot disable the SuccessCriteriaMet=True condition"),
        (
            was("Complete") && !was("SuccessCriteriaMet") && success,
            "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions",
        ),
    ] {
        if wrong {
            errors.push(conditions.invalid_unshown(detail));
        }
    }
    times(&spec, &status, old, complete, complete || failed, errors);
    let before = |field: &str| old.get(field).and_then(Value::as_i64).unwrap_or(0);
    for field in ["failed", "succeeded"] {
        let at = status.field(field);
        if at.int().unwrap_or(0) < before(field) {
            errors.push(FieldError::invalid(at.path(), at.int().unwrap_or(0), format!("cannot decrease the {field} counter")));
        }
    }
    let (active, ready, terminating) = (status.field("active"), status.field("ready"), status.field("terminating"));
    if ready.int().is_some_and(|ready| ready > active.int().unwrap_or(0)) {
        errors.push(ready.invalid("cannot set more ready pods than active"));
    }
    if complete || failed {
        if active.int().is_some_and(|n| n > 0) {
            errors.push(active.invalid("active>0 is invalid for finished job"));
        }
        if terminating.int().is_some_and(|n| n > 0) {
            errors.push(terminating.invalid("terminating>0 is invalid for finished job"));
        }
        if uncounted.field("succeeded").len() + uncounted.field("failed").len() > 0 {
            errors.push(uncounted.invalid("uncountedTerminatedPods needs to be empty for finished job"));
        }
    }
    index_status(&spec, &status, errors);
}

fn times(spec: &At<'_>, status: &At<'_>, old: &Value, complete: bool, finished: bool, errors: &mut Errors) {
    let (start, completion) = (status.field("startTime"), status.field("completionTime"));
    let time = |text: &str| crate::time::parse(text);
    let before = |field: &str| old.get(field).and_then(Value::as_str).unwrap_or_default();
    if !completion.is_absent() && !complete {
        errors.push(completion.invalid("cannot set completionTime when there is no Complete=True condition"));
    }
    if completion.is_absent() && complete {
        errors.push(completion.required("completionTime is required for Complete jobs"));
    }
    if let (Some(start), Some(end)) = (time(start.text()), time(completion.text()))
        && end < start
    {
        errors.push(completion.invalid("completionTime cannot be set before startTime"));
    }
    if start.is_absent() && finished {
        errors.push(start.required("startTime is required for finished job"));
    }
    let ended = before("completionTime");
    if !ended.is_empty() && !completion.is_absent() && time(ended) != time(completion.text()) {
        errors.push(completion.invalid("completionTime cannot be mutated"));
    }
    let started = before("startTime");
    if !started.is_empty() && time(started) != time(start.text()) && !spec.field("suspend").is_true() {
        errors.push(start.required("startTime cannot be removed for unsuspended job"));
    }
}

fn index_status(spec: &At<'_>, status: &At<'_>, errors: &mut Errors) {
    let (completed, failed) = (status.field("completedIndexes"), status.field("failedIndexes"));
    if let Some(completions) = spec.field("completions").int() {
        if let Err(why) = indexes(completed.text(), completions) {
            errors.push(completed.invalid(format!("error parsing completedIndexes: {why}")));
        }
        if !failed.is_absent() && !spec.field("backoffLimitPerIndex").is_absent() {
            if let Err(why) = indexes(failed.text(), completions) {
                errors.push(failed.invalid(format!("error parsing failedIndexes: {why}")));
            }
            let parts =
                |text: &str| -> Vec<(i64, i64)> { text.split(',').filter_map(|part| interval(part, completions).ok()).collect() };
            let done = parts(completed.text());
            let overlap = parts(failed.text()).into_iter().find_map(|(from, to)| {
                done.iter().find(|(first, last)| *first <= to && from <= *last).map(|(first, _)| from.max(*first))
            });
            if let Some(index) = overlap {
                errors.push(failed.invalid(format!("failedIndexes and completedIndexes overlap at index: {index}")));
            }
        }
    }
    if !completed.text().is_empty() && spec.field("completionMode").text() != "Indexed" {
        errors.push(completed.invalid("cannot set non-empty completedIndexes when non-indexed completion mode"));
    }
    if !failed.is_absent() && spec.field("backoffLimitPerIndex").is_absent() {
        errors.push(failed.invalid("cannot set non-null failedIndexes when backoffLimitPerIndex is null"));
    }
}

pub(super) fn cron_job(root: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    let spec = root.field("spec");
    let (schedule, zone) = (spec.field("schedule"), spec.field("timeZone"));
    let before = |field: &str| old.and_then(|old| old.get("spec")?.get(field)?.as_str());
    if schedule.must_be_set("", errors) {
        let allowed = before("schedule").is_some_and(|schedule| schedule.contains("TZ"));
        let named = schedule.text().contains("TZ");
        // A zone before the schedule was allowed once.
        let rest = schedule.text().strip_prefix("TZ=").or_else(|| schedule.text().strip_prefix("CRON_TZ="));
        let fields = rest.and_then(|rest| rest.split_once(' ')).map_or(schedule.text(), |(_, fields)| fields.trim());
        if let Err(why) = cron(fields) {
            errors.push(schedule.invalid(why));
        }
        if named && allowed && !zone.is_absent() {
            errors.push(schedule.invalid("cannot use both timeZone field and TZ or CRON_TZ in schedule"));
        } else if named && !allowed {
            errors.push(schedule.invalid("cannot use TZ or CRON_TZ in schedule, use timeZone field instead"));
        }
    }
    spec.field("startingDeadlineSeconds").non_negative(errors);
    if old.is_none() || before("timeZone") != zone.value().as_str() {
        time_zone(&zone, errors);
    }
    spec.field("concurrencyPolicy").must_be_one_of(&["Allow", "Forbid", "Replace"], errors);
    let job = spec.field("jobTemplate").field("spec");
    job_spec(&job, errors);
    if !job.field("selector").is_absent() {
        errors.push(job.field("selector").invalid("`selector` will be auto-generated"));
    }
    if job.field("manualSelector").is_true() {
        errors.push(FieldError::not_supported(job.field("manualSelector").path(), true, &["nil", "false"]));
    }
    spec.field("successfulJobsHistoryLimit").non_negative(errors);
    spec.field("failedJobsHistoryLimit").non_negative(errors);
}

/// A zone of the IANA's database, by name.
fn time_zone(zone: &At<'_>, errors: &mut Errors) {
    if zone.is_absent() {
        return;
    }
    if zone.text().is_empty() {
        errors.push(zone.invalid("timeZone must be nil or non-empty string"));
        return;
    }
    let malformed = zone.text().split('/').any(|part| {
        matches!(part, "" | "." | "..")
            || part.starts_with('-')
            || part.len() > 14
            || !part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'+'))
    });
    if malformed {
        errors.push(zone.invalid(format!("unknown time zone {}", zone.text())));
        return;
    }
    if zone.text().eq_ignore_ascii_case("local") {
        let detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.push(zone.invalid(detail));
    }
    if zone.text() != "Local" && jiff::tz::TimeZone::get(zone.text()).is_err() {
        errors.push(zone.invalid(format!("unknown time zone {}", zone.text())));
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
