//! `metadata.managedFields`: who set which field, kept up to date by every write (apimachinery's `util/managedfields`).
//!
//! All entries are taken to be of the version the object is written in; upstream converts older ones first.

use std::cmp::Ordering;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{FieldSet, typed};
use crate::schema::Schema;
use crate::{meta, time};

/// More updaters than this are folded into one.
const MAX_UPDATERS: usize = 10;
const ANCIENT: &str = "ancient-changes";
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// How a manager wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// By server-side apply.
    Apply,
    /// By create, update or any other patch.
    Update,
}

/// Who writes, and how.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// The field manager, by parameter or from the `User-Agent` (see [`manager_of_user_agent`]).
    pub manager: &'a str,
    /// The version the object is written in.
    pub api_version: &'a str,
    /// The subresource written through; empty for the object itself.
    pub subresource: &'a str,
    /// The time of the write.
    pub now: Timestamp,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) manager: String,
    pub(super) operation: Operation,
    pub(super) api_version: String,
    pub(super) subresource: String,
    pub(super) time: Option<String>,
    pub(super) fields: FieldSet,
}

impl Operation {
    fn text(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

impl Entry {
    fn decode(value: &Value) -> Option<Self> {
        let text = |name| value.get(name).and_then(Value::as_str).unwrap_or_default();
        let operation = match text("operation") {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        Some(Self {
            manager: text("manager").to_owned(),
            operation,
            api_version: text("apiVersion").to_owned(),
            subresource: text("subresource").to_owned(),
            time: value.get("time").and_then(Value::as_str).map(str::to_owned),
            fields: FieldSet::decode(value.get("fieldsV1").unwrap_or(&Value::Null)),
        })
    }

    fn encode(&self) -> Value {
        let mut map = Map::new();
        let mut put = |name: &str, value: &str| {
            if !value.is_empty() {
                map.insert(name.to_owned(), value.into());
            }
        };
        put("manager", &self.manager);
        put("operation", self.operation.text());
        put("apiVersion", &self.api_version);
        put("time", self.time.as_deref().unwrap_or_default());
        put("fieldsType", "FieldsV1");
        put("subresource", &self.subresource);
        map.insert("fieldsV1".to_owned(), self.fields.encode());
        Value::Object(map)
    }

    /// Appliers are the same manager in every version.
    pub(super) fn is(&self, write: &Write<'_>, operation: Operation) -> bool {
        self.operation == operation
            && self.manager == write.manager
            && self.subresource == write.subresource
            && (operation == Operation::Apply || self.api_version == write.api_version)
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |e: &Self| (e.operation, e.time.clone(), e.manager.clone(), e.api_version.clone(), e.subresource.clone());
        key(self).cmp(&key(other))
    }
}

/// The field manager of a client that names none: what its `User-Agent` begins with.
pub fn manager_of_user_agent(user_agent: &str) -> &str {
    let prefix = user_agent.split('/').next().unwrap_or_default();
    let mut end = prefix.len().min(128);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    &prefix[..end]
}

/// The object without the fields no manager can own.
pub(super) fn stripped(object: &Value) -> Value {
    let mut object = object.clone();
    if let Value::Object(map) = &mut object {
        map.remove("apiVersion");
        map.remove("kind");
        if let Some(Value::Object(metadata)) = map.get_mut("metadata") {
            for name in [
                "name",
                "namespace",
                "creationTimestamp",
                "selfLink",
                "uid",
                "clusterName",
                "generation",
                "managedFields",
                "resourceVersion",
            ] {
                metadata.remove(name);
            }
        }
    }
    object
}

/// Removes what must not be owned from a set that came from an object not stripped.
pub(super) fn without_metadata_itself(mut set: FieldSet) -> FieldSet {
    if let Some(metadata) = set.children.get_mut("f:metadata") {
        metadata.member = false;
        if metadata.is_empty() {
            set.children.remove("f:metadata");
        }
    }
    set
}

pub(super) fn decode(object: &Value) -> Vec<Entry> {
    meta::managed_fields(object).filter_map(Entry::decode).collect()
}

pub(super) fn encode(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|e| !e.fields.is_empty());
    cap(&mut entries);
    entries.sort_by(Entry::order);
    meta::set(object, "managedFields", entries.iter().map(Entry::encode).collect::<Vec<_>>());
}

/// Folds the oldest updaters into one, per version.
fn cap(entries: &mut Vec<Entry>) {
    let mut updaters = entries.iter().filter(|e| e.operation == Operation::Update).count();
    if updaters <= MAX_UPDATERS {
        return;
    }
    entries.sort_by(Entry::order);
    while updaters > MAX_UPDATERS {
        let foldable = |e: &Entry| e.operation == Operation::Update && e.manager != ANCIENT && e.subresource.is_empty();
        let Some(oldest) = entries.iter().position(foldable) else { return };
        let entry = entries.remove(oldest);
        match entries.iter_mut().find(|e| e.manager == ANCIENT && e.api_version == entry.api_version) {
            Some(ancient) => {
                ancient.fields.union(&entry.fields);
                ancient.time = ancient.time.take().max(entry.time);
                updaters -= 1;
            }
            None => {
                // The first one is only renamed: it takes a second to make the list shorter.
                entries.push(Entry { manager: ANCIENT.to_owned(), ..entry });
            }
        }
    }
}

/// Whether a client asks to forget all managers (`managedFields: [{}]`).
fn is_reset(object: &Value) -> bool {
    match object.pointer("/metadata/managedFields") {
        Some(Value::Array(items)) => items.iter().all(|i| i.as_object().is_none_or(Map::is_empty)),
        _ => false,
    }
}

/// Records a write that is no apply. `old` is the live object, or `None` when creating; `new` is the object about to be stored, and
/// gets its `managedFields`.
pub fn update(schema: &Schema, old: Option<&Value>, new: &mut Value, write: Write<'_>) {
    let mut entries = match old {
        Some(old) if !write.subresource.is_empty() => decode(old),
        Some(_) if is_reset(new) => Vec::new(),
        Some(old) => match decode(new) {
            sent if sent.is_empty() => decode(old),
            sent => sent,
        },
        None => decode(new),
    };
    if old.is_some() && entries.is_empty() {
        // Nobody is tracked: the object predates tracking, or its managers were reset.
        meta::set(new, "managedFields", Value::Null);
        return;
    }
    let empty = json!({});
    let comparison = typed::compare(schema, &old.map_or(empty, stripped), &stripped(new));
    let mut changed = comparison.added;
    changed.union(&comparison.modified);
    let changed = without_metadata_itself(changed);
    for entry in &mut entries {
        entry.fields.subtract(&changed);
        entry.fields.subtract(&comparison.removed);
    }
    if !changed.is_empty() {
        record(&mut entries, &write, Operation::Update, &changed);
    }
    encode(new, entries);
    if let Some(old) = old {
        keep_times(old, new);
    }
}

fn record(entries: &mut Vec<Entry>, write: &Write<'_>, operation: Operation, fields: &FieldSet) {
    let now = Some(time::format(write.now));
    match entries.iter_mut().find(|e| e.is(write, operation)) {
        Some(entry) => {
            entry.fields.union(fields);
            entry.time = now;
        }
        None => entries.push(Entry {
            manager: write.manager.to_owned(),
            operation,
            api_version: write.api_version.to_owned(),
            subresource: write.subresource.to_owned(),
            time: now,
            fields: fields.clone(),
        }),
    }
}

/// The entries of a live object before an apply; one without any gets all its fields booked to a manager of the past.
pub(super) fn before_apply(schema: &Schema, live: &Value, write: &Write<'_>) -> Vec<Entry> {
    let mut entries = decode(live);
    if entries.is_empty() {
        let fields = without_metadata_itself(typed::compare(schema, &json!({}), &stripped(live)).added);
        record(&mut entries, &Write { manager: BEFORE_FIRST_APPLY, subresource: "", ..*write }, Operation::Update, &fields);
    }
    entries
}

/// Takes over the old times if nothing but times differs, so that a write without effect stays one.
pub fn keep_times(old: &Value, new: &mut Value) {
    let untimed = |object: &Value| {
        let mut entries = decode(object);
        entries.iter_mut().for_each(|e| e.time = None);
        entries.sort_by(Entry::order);
        entries
    };
    let bare = |object: &Value| {
        let mut object = object.clone();
        meta::set(&mut object, "managedFields", Value::Null);
        meta::set(&mut object, "resourceVersion", Value::Null);
        object
    };
    if untimed(old) == untimed(new) && bare(old) == bare(new) {
        let before = old.pointer("/metadata/managedFields").cloned().unwrap_or(Value::Null);
        meta::set(new, "managedFields", before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patch::test_schema;

    fn write(manager: &str, second: i64) -> Write<'_> {
        Write { manager, api_version: "apps/v1", subresource: "", now: Timestamp::from_second(second).unwrap() }
    }

    #[test]
    fn create_and_update() {
        let schema = test_schema::deployment();
        let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"a": "1"}},
            "spec": {"replicas": 1, "containers": [{"name": "c", "image": "x"}]}});
        update(&schema, None, &mut object, write("kubectl-create", 0));
        assert_eq!(
            object["metadata"]["managedFields"],
            json!([{"manager": "kubectl-create", "operation": "Update", "apiVersion": "apps/v1", "time": "1970-01-01T00:00:00Z",
                "fieldsType": "FieldsV1", "fieldsV1": {
                    "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
                    "f:spec": {".": {}, "f:replicas": {}, "f:containers": {".": {}, "k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:image": {}}}}}}])
        );
        let mut next = object.clone();
        next["spec"]["replicas"] = json!(2);
        update(&schema, Some(&object), &mut next, write("hpa", 5));
        let entries = decode(&next);
        assert_eq!(entries.len(), 2);
        assert!(!entries[0].fields.contains(["f:spec", "f:replicas"]) && entries[1].fields.contains(["f:spec", "f:replicas"]));
        let mut same = next.clone();
        update(&schema, Some(&next), &mut same, write("hpa", 9));
        assert_eq!(same, next);
        let mut reset = next.clone();
        reset["metadata"]["managedFields"] = json!([{}]);
        update(&schema, Some(&next), &mut reset, write("x", 9));
        assert_eq!(reset["metadata"].get("managedFields"), None);
    }

    #[test]
    fn many_updaters() {
        let schema = test_schema::deployment();
        let mut object = json!({"metadata": {"labels": {}}});
        update(&schema, None, &mut object, write("m", 0));
        for i in 0..20 {
            let mut next = object.clone();
            next["metadata"]["labels"][format!("l{i}")] = json!("x");
            update(&schema, Some(&object), &mut next, write(&format!("m{i}"), i));
            object = next;
        }
        let entries = decode(&object);
        assert_eq!(entries.len(), MAX_UPDATERS);
        assert!(entries.iter().any(|e| e.manager == ANCIENT && e.fields.contains(["f:metadata", "f:labels", "f:l3"])));
    }
}
