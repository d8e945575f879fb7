//! Objects seen through their schema: the fields they have, what changed between two, merging and pruning.
//!
//! The rules are those of structured-merge-diff: scalars, atomic lists and atomic maps are leaves; maps are walked by name, lists
//! of type `map` by their keys, lists of type `set` by value.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::FieldSet;
use crate::schema::{ANY, ListType, Schema, Seq, Type};

/// Fields of built-in types that Go always writes, so that adding them is no change.
const ALWAYS_PRESENT: [&str; 8] =
    ["metadata", "spec", "status", "template", "strategy", "updateStrategy", "jobTemplate", "containers"];

/// What changed from one object to another. An added or removed map or list is itself in the set, with all it holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Comparison {
    pub(super) added: FieldSet,
    pub(super) modified: FieldSet,
    pub(super) removed: FieldSet,
}

/// How a value is taken apart.
enum Parts<'a> {
    Leaf,
    Map(&'a Map<String, Value>),
    List(&'a [Value]),
}

fn parts<'a>(schema: &Schema, value: &'a Value) -> Parts<'a> {
    match value {
        Value::Object(map) if !schema.is_map_atomic() => Parts::Map(map),
        Value::Array(items) if schema.list_type() != ListType::Atomic => Parts::List(items),
        _ => Parts::Leaf,
    }
}

fn child<'a>(schema: &'a Schema, name: &str) -> &'a Schema {
    schema.property(name).unwrap_or(&ANY)
}

fn items(schema: &Schema) -> &Schema {
    schema.items().unwrap_or(&ANY)
}

/// Whether the name is a field of a struct, and not a key of a map.
fn declared(schema: &Schema, name: &str) -> bool {
    schema.ty() == Type::Object && schema.properties().iter().any(|p| p.name == name)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// The edge that leads to an item of a list; `None` if it has none of the list's keys.
pub(super) fn edge(schema: &Schema, item: &Value) -> Option<String> {
    if schema.list_type() == ListType::Set {
        return Some(format!("v:{item}"));
    }
    let mut keys = Map::new();
    for key in schema.list_map_keys() {
        let default = || {
            let declared = items(schema).property(key).and_then(|s| s.owned_extra()?.default.clone());
            // The one key of built-in lists that has a default.
            declared.or_else(|| (key == "protocol").then(|| Value::from("TCP")))
        };
        if let Some(value) = item.get(key.as_ref()).filter(|v| !v.is_null()).cloned().or_else(default) {
            keys.insert(key.to_string(), value);
        }
    }
    (!keys.is_empty()).then(|| format!("k:{}", Value::Object(keys)))
}

fn indexed<'a>(schema: &Schema, list: &'a [Value]) -> Vec<(String, &'a Value)> {
    list.iter().filter_map(|item| Some((edge(schema, item)?, item))).collect()
}

/// The fields an applied object claims, or the first thing that makes it unusable (upstream's text).
pub(super) fn field_set(schema: &Schema, value: &Value) -> Result<FieldSet, String> {
    let mut set = FieldSet::default();
    claim(schema, value, &mut set, "")?;
    Ok(set)
}

fn claim(schema: &Schema, value: &Value, set: &mut FieldSet, path: &str) -> Result<(), String> {
    match parts(schema, value) {
        Parts::Leaf => set.member = true,
        Parts::Map(map) => {
            for (name, value) in map {
                let below = set.children.entry(format!("f:{name}")).or_default();
                claim(child(schema, name), value, below, &format!("{path}.{name}"))?;
                below.member |= is_empty(value) && !value.is_array() || !declared(schema, name);
                if below.is_empty() {
                    set.children.remove(&format!("f:{name}"));
                }
            }
        }
        Parts::List(list) => {
            for item in list {
                let Some(edge) = edge(schema, item) else {
                    let keys: Vec<&str> = schema.list_map_keys().iter().map(AsRef::as_ref).collect();
                    return Err(format!(
                        "{path}: element 0: associative list with keys has an element that omits all key fields {keys:?} (and doesn't \
                         have default values for any key fields)"
                    ));
                };
                if set.children.contains_key(&edge) {
                    let key = FieldSet { member: false, children: BTreeMap::from([(edge, leaf())]) };
                    return Err(format!("{path}: duplicate entries for key {}", key.paths().join("")));
                }
                let below = set.children.entry(edge).or_default();
                below.member = true;
                claim(items(schema), item, below, path)?;
            }
        }
    }
    Ok(())
}

fn leaf() -> FieldSet {
    FieldSet { member: true, children: BTreeMap::new() }
}

/// All fields of a value, its inner nodes included.
fn everything(schema: &Schema, value: &Value, set: &mut FieldSet, present: bool) {
    match parts(schema, value) {
        Parts::Leaf => set.member = true,
        Parts::Map(map) => {
            set.member |= !present || map.is_empty();
            for (name, value) in map {
                let below = set.children.entry(format!("f:{name}")).or_default();
                everything(child(schema, name), value, below, always_present(schema, name));
            }
        }
        Parts::List(list) => {
            set.member |= !present || list.is_empty();
            for (edge, item) in indexed(schema, list) {
                everything(items(schema), item, set.children.entry(edge).or_default(), false);
            }
        }
    }
}

fn always_present(schema: &Schema, name: &str) -> bool {
    let Seq::Static(properties) = schema.shape().properties else {
        return false;
    };
    properties.iter().any(|p| p.name == name && (p.required || ALWAYS_PRESENT.contains(&name)))
}

/// Compares two objects.
pub(super) fn compare(schema: &Schema, old: &Value, new: &Value) -> Comparison {
    let mut comparison = Comparison::default();
    compare_into(schema, old, new, &mut comparison.added, &mut comparison.modified, &mut comparison.removed);
    comparison
}

fn compare_into(
    schema: &Schema,
    old: &Value,
    new: &Value,
    added: &mut FieldSet,
    modified: &mut FieldSet,
    removed: &mut FieldSet,
) {
    let pairs = match (parts(schema, old), parts(schema, new)) {
        (Parts::Map(old), Parts::Map(new)) if !(old.is_empty() && new.is_empty()) => {
            let mut pairs: BTreeMap<String, Pair<'_>> = BTreeMap::new();
            for (name, value) in old {
                pairs
                    .entry(format!("f:{name}"))
                    .or_insert_with(|| Pair::new(child(schema, name), always_present(schema, name)))
                    .old = Some(value);
            }
            for (name, value) in new {
                pairs
                    .entry(format!("f:{name}"))
                    .or_insert_with(|| Pair::new(child(schema, name), always_present(schema, name)))
                    .new = Some(value);
            }
            pairs
        }
        (Parts::List(old), Parts::List(new)) => {
            let mut pairs: BTreeMap<String, Pair<'_>> = BTreeMap::new();
            for (edge, item) in indexed(schema, old) {
                pairs.entry(edge).or_insert_with(|| Pair::new(items(schema), false)).old = Some(item);
            }
            for (edge, item) in indexed(schema, new) {
                pairs.entry(edge).or_insert_with(|| Pair::new(items(schema), false)).new = Some(item);
            }
            pairs
        }
        _ => {
            modified.member |= old != new;
            return;
        }
    };
    for (edge, pair) in pairs {
        match (pair.old, pair.new) {
            (None, Some(new)) => everything(pair.schema, new, added.children.entry(edge).or_default(), pair.present),
            (Some(old), None) => everything(pair.schema, old, removed.children.entry(edge).or_default(), false),
            (Some(old), Some(new)) => {
                let (mut a, mut m, mut r) = (FieldSet::default(), FieldSet::default(), FieldSet::default());
                compare_into(pair.schema, old, new, &mut a, &mut m, &mut r);
                for (set, below) in [(&mut *added, a), (&mut *modified, m), (&mut *removed, r)] {
                    if !below.is_empty() {
                        set.children.insert(edge.clone(), below);
                    }
                }
            }
            (None, None) => {}
        }
    }
    added.children.retain(|_, below| !below.is_empty());
}

struct Pair<'a> {
    schema: &'a Schema,
    present: bool,
    old: Option<&'a Value>,
    new: Option<&'a Value>,
}

impl<'a> Pair<'a> {
    fn new(schema: &'a Schema, present: bool) -> Self {
        Self { schema, present, old: None, new: None }
    }
}

/// Merges an applied object into a live one; the applied one wins at the leaves and decides the order of lists.
pub(super) fn merge(schema: &Schema, live: &Value, applied: &Value) -> Value {
    match (parts(schema, live), parts(schema, applied)) {
        (Parts::Map(old), Parts::Map(new)) => {
            let mut merged = old.clone();
            for (name, value) in new {
                let value = match old.get(name) {
                    Some(before) => merge(child(schema, name), before, value),
                    None => value.clone(),
                };
                merged.insert(name.clone(), value);
            }
            Value::Object(merged)
        }
        (Parts::List(old), Parts::List(new)) => Value::Array(merge_list(schema, old, new)),
        _ => applied.clone(),
    }
}

fn merge_list(schema: &Schema, old: &[Value], new: &[Value]) -> Vec<Value> {
    let (old, new) = (indexed(schema, old), indexed(schema, new));
    let in_new = |edge: &str| new.iter().any(|(e, _)| e == edge);
    let mut merged = Vec::with_capacity(old.len() + new.len());
    let mut at = 0;
    for (edge, item) in &new {
        let found = old.iter().position(|(e, _)| e == edge);
        while let Some((old_edge, old_item)) = old.get(at) {
            match found {
                _ if !in_new(old_edge) => merged.push((*old_item).clone()),
                Some(found) if found >= at => {}
                _ => break,
            }
            at += 1;
            if old_edge == edge {
                break;
            }
        }
        merged.push(match found {
            Some(found) => merge(items(schema), old[found].1, item),
            None => (*item).clone(),
        });
    }
    merged.extend(old[at..].iter().filter(|(edge, _)| !in_new(edge)).map(|(_, item)| (*item).clone()));
    merged
}

/// Removes what an applier applied before (`last`) and nobody owns any more.
pub(super) fn prune(schema: &Schema, value: &mut Value, last: &FieldSet, owned: &FieldSet) {
    let nobody = FieldSet::default();
    match value {
        Value::Object(map) if !schema.is_map_atomic() => {
            for (edge, last) in &last.children {
                let Some(name) = edge.strip_prefix("f:") else { continue };
                let Some(found) = map.get_mut(name) else { continue };
                let owned = owned.children.get(edge).unwrap_or(&nobody);
                if prune_child(child(schema, name), found, last, owned) {
                    map.remove(name);
                }
            }
        }
        Value::Array(list) if schema.list_type() != ListType::Atomic => {
            list.retain_mut(|item| {
                let Some(edge) = edge(schema, item) else { return true };
                let Some(last) = last.children.get(&edge) else { return true };
                let owned = owned.children.get(&edge).unwrap_or(&nobody);
                let keys: Vec<(String, Value)> = schema
                    .list_map_keys()
                    .iter()
                    .filter_map(|key| Some((key.to_string(), item.get(key.as_ref())?.clone())))
                    .collect();
                let gone = prune_child(items(schema), item, last, owned);
                if let (false, Value::Object(map)) = (gone, item) {
                    keys.into_iter().for_each(|(key, value)| _ = map.entry(key).or_insert(value));
                }
                !gone
            });
        }
        _ => {}
    }
}

/// Prunes below; says whether the value itself is to go.
fn prune_child(schema: &Schema, value: &mut Value, last: &FieldSet, owned: &FieldSet) -> bool {
    let is_leaf = matches!(parts(schema, value), Parts::Leaf);
    if !is_leaf {
        prune(schema, value, last, owned);
    }
    owned.is_empty() && (if is_leaf { last.member } else { is_empty(value) })
}
