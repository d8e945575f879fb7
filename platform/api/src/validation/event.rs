//! Events of both groups (`pkg/apis/core/validation/events.go`). Upstream looks at what is stored, so errors name the fields
//! of `v1` in both.

use serde_json::Value;

use super::at::{At, Errors};
use crate::names;
use crate::status::FieldError;

/// What a field of `events.k8s.io/v1` is called in `v1`, which an event is stored as.
const STORED: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
    ("reportingComponent", "reportingController"),
];

/// An event; `strict` for those that come through `events.k8s.io/v1`.
pub(super) fn event(root: &At<'_>, old: Option<&Value>, strict: bool, errors: &mut Errors) {
    legacy(root, strict, errors);
    if !strict {
        return;
    }
    let series = root.field("series");
    match old {
        None => {
            self::series(&series, errors);
            created(root, errors);
        }
        Some(old) => {
            if series.value() != old.get("series").unwrap_or(&Value::Null) {
                self::series(&series, errors);
            }
            for field in [
                "regarding",
                "reason",
                "note",
                "deprecatedSource",
                "deprecatedFirstTimestamp",
                "deprecatedLastTimestamp",
                "deprecatedCount",
                "type",
                "eventTime",
                "action",
                "related",
                "reportingController",
                "reportingInstance",
            ] {
                let before = old.get(field).unwrap_or(&Value::Null);
                root.field(field).told_at(stored(field)).immutable(before, errors);
            }
        }
    }
}

fn stored(field: &str) -> &str {
    STORED.iter().find(|(new, _)| *new == field).map_or(field, |(_, core)| *core)
}

fn created(root: &At<'_>, errors: &mut Errors) {
    if root.field("eventTime").text().is_empty() {
        errors.push(FieldError::required("eventTime", ""));
    }
    let ty = root.field("type");
    if !matches!(ty.text(), "Normal" | "Warning") {
        errors.push(FieldError::invalid("type", "", format!("has invalid value: {}", ty.text())));
    }
    let source = root.field("deprecatedSource");
    for (field, is_set) in [
        ("firstTimestamp", !root.field("deprecatedFirstTimestamp").text().is_empty()),
        ("lastTimestamp", !root.field("deprecatedLastTimestamp").text().is_empty()),
        ("count", root.field("deprecatedCount").int().unwrap_or(0) != 0),
        ("source", !source.field("component").text().is_empty() || !source.field("host").text().is_empty()),
    ] {
        if is_set {
            errors.push(FieldError::invalid(field, "", "needs to be unset"));
        }
    }
}

fn series(series: &At<'_>, errors: &mut Errors) {
    if series.is_absent() {
        return;
    }
    if series.field("count").int().unwrap_or(0) < 2 {
        errors.push(FieldError::invalid("series.count", "", "should be at least 2"));
    }
    if series.field("lastObservedTime").text().is_empty() {
        errors.push(FieldError::required("series.lastObservedTime", ""));
    }
}

/// What every event has to be. Those without `eventTime` are of the old form, and little is asked of them.
fn legacy(root: &At<'_>, strict: bool, errors: &mut Errors) {
    let (involved, message, controller) =
        if strict { ("regarding", "note", "reportingController") } else { ("involvedObject", "message", "reportingComponent") };
    let namespace = root.field("metadata").field("namespace");
    let about = root.field(involved).field("namespace");
    let mismatch = || FieldError::invalid("involvedObject.namespace", about.text(), "does not match event.namespace");
    if root.field("eventTime").text().is_empty() {
        let fits = match about.text() {
            "" => matches!(namespace.text(), "" | "default"),
            other => other == namespace.text(),
        };
        if !fits {
            errors.push(mismatch());
        }
    } else {
        if about.text().is_empty() && !matches!(namespace.text(), "default" | "kube-system") {
            errors.push(mismatch());
        }
        let controller = root.field(controller).told_at("reportingController");
        controller.must_be_set("", errors);
        controller.qualified(errors);
        for (field, needed, most) in
            [("reportingInstance", true, 128), ("action", true, 128), ("reason", true, 128), (message, false, 1024)]
        {
            let at = root.field(field).told_at(stored(field));
            if needed {
                at.must_be_set("", errors);
            }
            if at.text().len() > most {
                errors.push(FieldError::invalid(at.path(), "", format!("can have at most {most} characters")));
            }
        }
    }
    let complaints = names::dns1123_subdomain(namespace.text());
    errors.extend(complaints.into_iter().map(|detail| FieldError::invalid("namespace", namespace.text(), detail)));
}
