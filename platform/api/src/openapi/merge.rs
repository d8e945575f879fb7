//! Other servers' documents of version 2 in the one of all.
//!
//! Follows `kube-openapi/pkg/aggregator`: of another server's document only the paths of its group version count, and what
//! those need. Definitions that are alike are shared; one that has another's name gets one of its own.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value};

const DEFINITIONS: &str = "#/definitions/";
const PARAMETERS: &str = "#/parameters/";
const GVK: &str = "x-kubernetes-group-version-kind";

/// What a document says of the paths below `prefix`: those, and the definitions they need.
pub fn below(mut document: Value, prefix: &str) -> Value {
    let mut section = |name: &str| match document.get_mut(name).map(Value::take) {
        Some(Value::Object(map)) => map,
        _ => Map::new(),
    };
    let (mut paths, mut definitions, parameters) = (section("paths"), section("definitions"), section("parameters"));
    paths.retain(|path, _| path.starts_with(prefix));
    let mut paths = Value::Object(paths);
    spell_out(&mut paths, &parameters);
    let mut needed = BTreeSet::new();
    let mut todo = Vec::new();
    refer(&paths, &mut todo);
    while let Some(name) = todo.pop() {
        if let Some(definition) = definitions.get(&name)
            && needed.insert(name)
        {
            refer(definition, &mut todo);
        }
    }
    definitions.retain(|name, _| needed.contains(name));
    Value::Object(Map::from_iter([("paths".to_owned(), paths), ("definitions".to_owned(), Value::Object(definitions))]))
}

/// Adds another server's document, as [`below`] leaves it. A path that is there already stays as it is.
pub(super) fn add(document: &mut Value, other: &Value) {
    let Some(known) = document["definitions"].as_object_mut() else { return };
    let empty = Map::new();
    let theirs = other["definitions"].as_object().unwrap_or(&empty);
    let mut renamed: HashMap<&str, String> = HashMap::new();
    for (name, definition) in theirs {
        let Some(same) = known.get_mut(name) else { continue };
        if alike(same, definition) {
            unite(same, definition);
            continue;
        }
        // One that an earlier server brought along under another name may be the same.
        let mut names = (2_u32..).map(|number| format!("{name}_v{number}"));
        let is_free = |candidate: &String| match known.get(candidate) {
            Some(taken) => alike(taken, definition),
            None => !theirs.contains_key(candidate),
        };
        if let Some(free) = names.find(is_free) {
            renamed.insert(name, free);
        }
    }
    for (name, definition) in theirs {
        let name = renamed.get(name.as_str()).unwrap_or(name);
        if !known.contains_key(name) {
            let mut definition = definition.clone();
            rename(&mut definition, &renamed);
            known.insert(name.clone(), definition);
        }
    }
    let Some(paths) = document["paths"].as_object_mut() else { return };
    for (path, item) in other["paths"].as_object().into_iter().flatten() {
        if !paths.contains_key(path) {
            let mut item = item.clone();
            rename(&mut item, &renamed);
            paths.insert(path.clone(), item);
        }
    }
}

/// Whether two definitions are the same, whatever kinds they are said to be of.
fn alike(one: &Value, other: &Value) -> bool {
    let (Some(one), Some(other)) = (one.as_object(), other.as_object()) else { return one == other };
    let said = |map: &Map<String, Value>| map.len() - usize::from(map.contains_key(GVK));
    said(one) == said(other) && one.iter().all(|(key, value)| key == GVK || other.get(key) == Some(value))
}

/// Adds the kinds a definition is of to those of one that is alike.
fn unite(known: &mut Value, other: &Value) {
    let Some(others) = other[GVK].as_array() else { return };
    match known[GVK].as_array_mut() {
        Some(kinds) => {
            for kind in others {
                if !kinds.contains(kind) {
                    kinds.push(kind.clone());
                }
            }
        }
        None => known[GVK] = other[GVK].clone(),
    }
}

/// The name that a reference ends with.
fn name_of(reference: &str, section: &str) -> Option<String> {
    reference.strip_prefix(section).map(|name| name.replace("~1", "/").replace("~0", "~"))
}

/// The names of the definitions that something refers to.
fn refer(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str).and_then(|reference| name_of(reference, DEFINITIONS)));
            map.values().for_each(|value| refer(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| refer(value, found)),
        _ => {}
    }
}

/// Puts shared parameters where they are referred to.
fn spell_out(value: &mut Value, parameters: &Map<String, Value>) {
    let reference = value.get("$ref").and_then(Value::as_str).and_then(|reference| name_of(reference, PARAMETERS));
    if let Some(parameter) = reference.and_then(|name| parameters.get(&name)) {
        *value = parameter.clone();
        return;
    }
    match value {
        Value::Object(map) => map.values_mut().for_each(|value| spell_out(value, parameters)),
        Value::Array(list) => list.iter_mut().for_each(|value| spell_out(value, parameters)),
        _ => {}
    }
}

fn rename(value: &mut Value, renamed: &HashMap<&str, String>) {
    if renamed.is_empty() {
        return;
    }
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get_mut("$ref")
                && let Some(name) = name_of(reference, DEFINITIONS).and_then(|name| renamed.get(name.as_str()))
            {
                *reference = format!("{DEFINITIONS}{}", name.replace('~', "~0").replace('/', "~1"));
            }
            map.values_mut().for_each(|value| rename(value, renamed));
        }
        Value::Array(list) => list.iter_mut().for_each(|value| rename(value, renamed)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reference(name: &str) -> Value {
        json!({"$ref": format!("{DEFINITIONS}{name}")})
    }

    #[test]
    fn of_a_document_only_a_group_version_is_kept() {
        let document = json!({
            "swagger": "2.0", "info": {},
            "paths": {
                "/apis/g/v1/": {"get": {"parameters": [{"$ref": "#/parameters/p"}, {"name": "q"}]}},
                "/apis/g/v1/things": {"post": {"schema": reference("Thing")}},
                "/apis/g/v1beta1/things": {"post": {"schema": reference("Old")}},
            },
            "definitions": {
                "Thing": {"properties": {"meta": reference("Meta"), "self": reference("Thing")}},
                "Meta": {"type": "object"},
                "Old": {"type": "object"},
            },
            "parameters": {"p": {"name": "p", "in": "query"}},
        });
        let kept = below(document, "/apis/g/v1/");
        let names = |section: &str| kept[section].as_object().map(|map| map.keys().cloned().collect::<Vec<_>>());
        assert_eq!(kept.as_object().map(Map::len), Some(2));
        assert_eq!(names("paths"), Some(vec!["/apis/g/v1/".to_owned(), "/apis/g/v1/things".to_owned()]));
        assert_eq!(names("definitions"), Some(vec!["Meta".to_owned(), "Thing".to_owned()]));
        let parameters = &kept["paths"]["/apis/g/v1/"]["get"]["parameters"];
        assert_eq!(*parameters, json!([{"name": "p", "in": "query"}, {"name": "q"}]));
        assert_eq!(below(json!(null), "/"), json!({"paths": {}, "definitions": {}}));
    }

    #[test]
    fn definitions_of_the_same_name_are_shared_or_renamed() {
        let (ours, theirs) = (json!({"type": "object"}), json!({"type": "object", "description": "another"}));
        let mut document = json!({"paths": {"/a": 1}, "definitions": {
            "Same": {"type": "string", GVK: [{"kind": "A"}]}, "Meta": ours,
        }});
        let other = |path: &str| {
            json!({
                "paths": {"/a": 2, path: {"schema": reference("Thing")}},
                "definitions": {
                    "Same": {"type": "string", GVK: [{"kind": "A"}, {"kind": "B"}]},
                    "Meta": theirs,
                    "Thing": {"properties": {"meta": reference("Meta"), "same": reference("Same")}},
                },
            })
        };
        add(&mut document, &other("/b"));
        let want = json!({
            "paths": {"/a": 1, "/b": {"schema": reference("Thing")}},
            "definitions": {
                "Same": {"type": "string", GVK: [{"kind": "A"}, {"kind": "B"}]},
                "Meta": ours,
                "Meta_v2": theirs,
                "Thing": {"properties": {"meta": reference("Meta_v2"), "same": reference("Same")}},
            },
        });
        assert_eq!(document, want);
        // The next one's `Meta` is there already, its `Thing` is another.
        add(&mut document, &other("/c"));
        assert_eq!(document["paths"]["/c"]["schema"], reference("Thing_v2"));
        assert_eq!(document["definitions"].as_object().map(Map::len), Some(5));
    }
}
