//! Server-side apply.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::FieldSet;
use super::managed_fields::{self, Entry, Operation, Write};
use super::typed;
use crate::schema::Schema;
use crate::status::{Cause, Status, go_quote};
use crate::{meta, time};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Applies a configuration to the live object (`None`: creates it) and returns the result with its `managedFields`. A result equal to
/// the live object is that object, times and all, so the caller can tell that there is nothing to store.
///
/// `config` is the body as JSON. Nulls in it are still in the result: decode it by the schema before storing.
///
/// # Errors
/// 400 if the configuration carries `managedFields`, 409 if other managers own fields it changes and `force` is not set, 500 (as
/// upstream) if it does not fit the schema's lists.
pub fn apply(schema: &Schema, live: Option<&Value>, config: &Value, write: Write<'_>, force: bool) -> Result<Value, Status> {
    if meta::managed_fields(config).next().is_some() {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let new = match try_apply(schema, live, config, write, force) {
        Ok(new) => Ok(new),
        Err(Failure::Status(status)) => Err(status),
        Err(Failure::Conflicts(conflicts)) => match live {
            Some(live) if write.manager == "kubectl" => {
                let remaining = without_client_side(schema, live, conflicts);
                match remaining.is_empty() {
                    true => return apply(schema, Some(live), config, write, true),
                    false => Err(conflict_status(&remaining)),
                }
            }
            _ => Err(conflict_status(&conflicts)),
        },
    }?;
    Ok(sync_last_applied(new, config, write))
}

enum Failure {
    Status(Status),
    Conflicts(Vec<Entry>),
}

fn try_apply(schema: &Schema, live: Option<&Value>, config: &Value, write: Write<'_>, force: bool) -> Result<Value, Failure> {
    let nothing = json!({});
    let current = live.unwrap_or(&nothing);
    let mut entries = live.map_or_else(Vec::new, |live| managed_fields::before_apply(schema, live, &write));
    let claimed = typed::field_set(schema, &managed_fields::stripped(config)).map_err(|text| {
        let (api_version, kind) = (meta::api_version(config), meta::kind(config));
        let (namespace, name) = (meta::namespace(config), meta::name(config));
        let message = format!("failed to create typed patch object ({namespace}/{name}; {api_version}, Kind={kind}): {text}");
        Failure::Status(Status::failure(500, "", message))
    })?;
    let claimed = managed_fields::without_metadata_itself(claimed);
    let last = entries.iter().position(|e| e.is(&write, Operation::Apply)).map(|at| entries.remove(at));

    let mut merged = typed::merge(schema, current, config);
    if let Some(last) = &last {
        let mut owned = claimed.clone();
        entries.iter().for_each(|e| owned.union(&e.fields));
        typed::prune(schema, &mut merged, &last.fields, &owned);
    }
    let comparison = typed::compare(schema, &managed_fields::stripped(current), &managed_fields::stripped(&merged));
    let mut changed = comparison.added;
    changed.union(&comparison.modified);
    let conflicts: Vec<Entry> = entries
        .iter()
        .map(|e| Entry { fields: e.fields.intersection(&changed), ..e.clone() })
        .filter(|e| !e.fields.is_empty())
        .collect();
    if !force && !conflicts.is_empty() {
        return Err(Failure::Conflicts(conflicts));
    }
    for entry in &mut entries {
        entry.fields.subtract(&changed);
        entry.fields.subtract(&comparison.removed);
    }
    entries.push(Entry {
        manager: write.manager.to_owned(),
        operation: Operation::Apply,
        api_version: write.api_version.to_owned(),
        subresource: write.subresource.to_owned(),
        time: Some(time::format(write.now)),
        fields: claimed,
    });
    managed_fields::encode(&mut merged, entries);
    if let Some(live) = live {
        managed_fields::keep_times(live, &mut merged);
    }
    Ok(merged)
}

/// The conflicts that client-side apply does not explain: kubectl may take over what its own annotation says it applied.
fn without_client_side(schema: &Schema, live: &Value, conflicts: Vec<Entry>) -> Vec<Entry> {
    let last: Option<Value> = meta::annotation(live, LAST_APPLIED).and_then(|text| serde_json::from_str(text).ok());
    let Some(last) = last.map(|last| managed_fields::stripped(&last)) else {
        return conflicts;
    };
    let Ok(mut allowed) = typed::field_set(schema, &last) else {
        return conflicts;
    };
    let comparison = typed::compare(schema, &last, &managed_fields::stripped(live));
    allowed.subtract(&comparison.modified);
    allowed.subtract(&comparison.removed);
    let remaining = conflicts.into_iter().map(|mut entry| {
        entry.fields.subtract(&allowed);
        entry
    });
    remaining.filter(|e| !e.fields.is_empty()).collect()
}

/// Keeps the annotation of client-side apply true while an object still has it.
fn sync_last_applied(mut new: Value, config: &Value, write: Write<'_>) -> Value {
    if write.manager == "kubectl" && write.subresource.is_empty() && meta::annotation(&new, LAST_APPLIED).is_some() {
        let mut applied = config.clone();
        if let Some(Value::Object(annotations)) = applied.pointer_mut("/metadata/annotations") {
            annotations.remove(LAST_APPLIED);
        }
        let text = format!("{applied}\n");
        let same = meta::annotation(&new, LAST_APPLIED)
            .and_then(|old| serde_json::from_str::<Value>(old).ok())
            .is_some_and(|old| old == applied);
        if !same && text.len() < 256 * 1024 {
            meta::set_annotation(&mut new, LAST_APPLIED, &text);
        }
    }
    new
}

fn print_manager(entry: &Entry) -> String {
    let mut text = go_quote(&entry.manager);
    if !entry.subresource.is_empty() {
        text += &format!(" with subresource {}", go_quote(&entry.subresource));
    }
    if entry.operation == Operation::Update {
        text += &format!(" using {}", entry.api_version);
    }
    text
}

fn conflict_status(conflicts: &[Entry]) -> Status {
    let mut by_manager: BTreeMap<String, FieldSet> = BTreeMap::new();
    for entry in conflicts {
        by_manager.entry(print_manager(entry)).or_default().union(&entry.fields);
    }
    let mut causes = Vec::new();
    let mut lines = Vec::new();
    for (manager, fields) in &by_manager {
        lines.push(format!("conflicts with {manager}:"));
        for path in fields.paths() {
            lines.push(format!("- {path}"));
            causes.push(Cause {
                reason: "FieldManagerConflict".into(),
                message: format!("conflict with {manager}"),
                field: path,
            });
        }
    }
    let message = match causes.as_slice() {
        [one] => format!("Apply failed with 1 conflict: {}: {}", one.message, one.field),
        many => format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n")),
    };
    Status::apply_conflict(message, causes)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::patch::test_schema;

    fn write(manager: &str, second: i64) -> Write<'_> {
        Write { manager, api_version: "apps/v1", subresource: "", now: Timestamp::from_second(second).unwrap() }
    }

    fn config(spec: Value) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec})
    }

    #[test]
    fn creates_with_managed_fields() {
        let schema = test_schema::deployment();
        let config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"a": "1"}, "finalizers": ["f"]},
            "spec": {"selector": {"matchLabels": {"x": "y"}}, "containers": [{"name": "c", "ports": [{"containerPort": 80}]}]}});
        let live = apply(&schema, None, &config, write("me", 0), false).unwrap();
        assert_eq!(
            live["metadata"]["managedFields"],
            json!([{"manager": "me", "operation": "Apply", "apiVersion": "apps/v1", "time": "1970-01-01T00:00:00Z", "fieldsType": "FieldsV1",
                "fieldsV1": {
                    "f:metadata": {"f:labels": {"f:a": {}}, "f:finalizers": {"v:\"f\"": {}}},
                    "f:spec": {"f:selector": {}, "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:name": {},
                        "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}}}}])
        );
        assert_eq!(apply(&schema, Some(&live), &config, write("me", 99), false).unwrap(), live);
    }

    #[test]
    fn conflicts_and_force() {
        let schema = test_schema::deployment();
        let live = apply(&schema, None, &config(json!({"replicas": 1, "args": ["a"]})), write("one", 0), false).unwrap();
        let same = apply(&schema, Some(&live), &config(json!({"replicas": 1})), write("two", 1), false).unwrap();
        assert_eq!(managed_fields::decode(&same).len(), 2);
        let error = apply(&schema, Some(&live), &config(json!({"replicas": 2})), write("two", 1), false).unwrap_err();
        assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas");
        assert_eq!(
            (error.code, error.causes()[0].reason.as_str(), error.causes()[0].field.as_str()),
            (409, "FieldManagerConflict", ".spec.replicas")
        );
        let error =
            apply(&schema, Some(&live), &config(json!({"replicas": 2, "args": ["b"]})), write("two", 1), false).unwrap_err();
        assert_eq!(error.message, "Apply failed with 2 conflicts: conflicts with \"one\":\n- .spec.args\n- .spec.replicas");
        let forced = apply(&schema, Some(&live), &config(json!({"replicas": 2})), write("two", 1), true).unwrap();
        let entries = managed_fields::decode(&forced);
        assert!(entries.iter().all(|e| e.fields.contains(["f:spec", "f:replicas"]) == (e.manager == "two")));
        let mut updated = live.clone();
        updated["spec"]["replicas"] = json!(5);
        managed_fields::update(&schema, Some(&live), &mut updated, write("hpa", 3));
        let error =
            apply(&schema, Some(&updated), &config(json!({"replicas": 1, "args": ["a"]})), write("one", 4), false).unwrap_err();
        assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"hpa\" using apps/v1: .spec.replicas");
    }

    #[test]
    fn removal() {
        let schema = test_schema::deployment();
        let two =
            config(json!({"strategy": {"type": "X"}, "containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]}));
        let live = apply(&schema, None, &two, write("me", 0), false).unwrap();
        let one = config(json!({"containers": [{"name": "b", "image": "2"}]}));
        let after = apply(&schema, Some(&live), &one, write("me", 1), false).unwrap();
        assert_eq!(after["spec"], json!({"containers": [{"name": "b", "image": "2"}]}));
        // What someone else owns, or set without owning, stays.
        let mut defaulted = live.clone();
        defaulted["spec"]["containers"][0]["args"] = json!(["x"]);
        let shared = apply(&schema, Some(&live), &config(json!({"strategy": {"type": "X"}})), write("you", 1), false).unwrap();
        let after = apply(&schema, Some(&shared), &one, write("me", 2), false).unwrap();
        assert_eq!(after["spec"]["strategy"], json!({"type": "X"}));
        let after = apply(&schema, Some(&defaulted), &one, write("me", 2), false).unwrap();
        assert_eq!(after["spec"]["containers"][0], json!({"name": "a", "args": ["x"]}));
    }

    #[test]
    fn list_order() {
        let schema = test_schema::deployment();
        let names = |object: &Value| -> Vec<String> {
            object["spec"]["containers"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect()
        };
        let list = |names: &[&str]| config(json!({"containers": names.iter().map(|n| json!({"name": n})).collect::<Vec<_>>()}));
        let live = apply(&schema, None, &list(&["a", "b", "c"]), write("one", 0), false).unwrap();
        for (applied, expected) in [
            (vec!["d"], vec!["a", "b", "c", "d"]),
            (vec!["c", "a"], vec!["b", "c", "a"]),
            (vec!["a", "d", "c"], vec!["a", "b", "d", "c"]),
        ] {
            let after = apply(&schema, Some(&live), &list(&applied), write("two", 1), false).unwrap();
            assert_eq!(names(&after), expected, "{applied:?}");
        }
    }

    #[test]
    fn refusals() {
        let schema = test_schema::deployment();
        let twice = config(json!({"containers": [{"name": "a"}, {"name": "a"}]}));
        let error = apply(&schema, None, &twice, write("me", 0), false).unwrap_err();
        assert_eq!(
            error.message,
            "failed to create typed patch object (/d; apps/v1, Kind=Deployment): .spec.containers: duplicate entries for key [name=\"a\"]"
        );
        let mut managed = config(json!({}));
        managed["metadata"]["managedFields"] = json!([{"manager": "x"}]);
        assert_eq!(apply(&schema, None, &managed, write("me", 0), false).unwrap_err().code, 400);
    }

    #[test]
    fn after_client_side_apply() {
        let schema = test_schema::deployment();
        let mut live = config(json!({"replicas": 1, "args": ["a"]}));
        let text = live.to_string();
        meta::set_annotation(&mut live, LAST_APPLIED, &text);
        managed_fields::update(&schema, None, &mut live, write("kubectl-client-side-apply", 0));
        let next = config(json!({"replicas": 2, "args": ["a"]}));
        let after = apply(&schema, Some(&live), &next, write("kubectl", 1), false).unwrap();
        assert_eq!(after["spec"]["replicas"], 2);
        let annotation: Value = serde_json::from_str(meta::annotation(&after, LAST_APPLIED).unwrap()).unwrap();
        assert_eq!(annotation, next);
        assert_eq!(apply(&schema, Some(&live), &next, write("other", 1), false).unwrap_err().code, 409);
    }
}
