//! Sets of fields, as `metadata.managedFields` records them (`fieldpath.Set`, FieldsV1).
//!
//! A set is kept in the encoding of FieldsV1, a tree whose edges are `f:name`, `k:{"key":"value"}`, `v:"value"` or `i:0`, so
//! reading and writing it needs no translation.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// A set of paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// Whether the path that leads here is itself in the set.
    pub(super) member: bool,
    /// The sets below.
    pub(super) children: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    /// Reads a FieldsV1.
    pub fn decode(fields: &Value) -> Self {
        let mut set = Self::default();
        for (edge, below) in fields.as_object().into_iter().flatten() {
            if edge == "." {
                set.member = true;
            } else {
                let mut child = Self::decode(below);
                child.member |= child.children.is_empty();
                set.children.insert(edge.clone(), child);
            }
        }
        set
    }

    /// Writes a FieldsV1.
    pub fn encode(&self) -> Value {
        let mut map = Map::new();
        if self.member && !self.children.is_empty() {
            map.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for (edge, child) in &self.children {
            map.insert(edge.clone(), child.encode());
        }
        Value::Object(map)
    }

    /// Whether no path is in the set.
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    /// Adds a path.
    pub fn insert<'a>(&mut self, path: impl IntoIterator<Item = &'a str>) {
        let mut at = self;
        for edge in path {
            at = at.children.entry(edge.to_owned()).or_default();
        }
        at.member = true;
    }

    /// Whether a path is in the set.
    pub fn contains<'a>(&self, path: impl IntoIterator<Item = &'a str>) -> bool {
        path.into_iter().try_fold(self, |at, edge| at.children.get(edge)).is_some_and(|at| at.member)
    }

    /// Takes over all paths of another set.
    pub fn union(&mut self, other: &Self) {
        self.member |= other.member;
        for (edge, theirs) in &other.children {
            self.children.entry(edge.clone()).or_default().union(theirs);
        }
    }

    /// Removes all paths of another set.
    pub fn subtract(&mut self, other: &Self) {
        self.member &= !other.member;
        for (edge, theirs) in &other.children {
            if let Some(ours) = self.children.get_mut(edge) {
                ours.subtract(theirs);
                if ours.is_empty() {
                    self.children.remove(edge);
                }
            }
        }
    }

    /// The paths in both sets.
    pub fn intersection(&self, other: &Self) -> Self {
        let mut both = Self { member: self.member && other.member, children: BTreeMap::new() };
        for (edge, ours) in &self.children {
            if let Some(theirs) = other.children.get(edge) {
                let child = ours.intersection(theirs);
                if !child.is_empty() {
                    both.children.insert(edge.clone(), child);
                }
            }
        }
        both
    }

    /// Every path as upstream prints it: `.spec.containers[name="a"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect(&mut String::new(), &mut paths);
        paths
    }

    fn collect(&self, prefix: &mut String, paths: &mut Vec<String>) {
        if self.member {
            paths.push(prefix.clone());
        }
        for (edge, child) in &self.children {
            let length = prefix.len();
            prefix.push_str(&print_edge(edge));
            child.collect(prefix, paths);
            prefix.truncate(length);
        }
    }
}

fn print_edge(edge: &str) -> String {
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap_or(Value::Null);
    match edge.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("v", value)) => format!("[={value}]"),
        Some(("i", index)) => format!("[{index}]"),
        Some(("k", keys)) => {
            let keys = json(keys);
            let parts: Vec<String> = keys.as_object().into_iter().flatten().map(|(k, v)| format!("{k}={v}")).collect();
            format!("[{}]", parts.join(","))
        }
        _ => edge.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn encoding_and_algebra() {
        let fields = json!({"f:a": {".": {}, "f:b": {}}, "f:l": {"k:{\"name\":\"x\",\"port\":80}": {".": {}, "f:image": {}}, "v:\"q\"": {}}});
        let set = FieldSet::decode(&fields);
        assert_eq!(set.encode(), fields);
        assert_eq!(set.paths(), [".a", ".a.b", ".l[name=\"x\",port=80]", ".l[name=\"x\",port=80].image", ".l[=\"q\"]"]);
        let mut rest = set.clone();
        rest.subtract(&FieldSet::decode(&json!({"f:a": {}, "f:l": {"v:\"q\"": {}}})));
        assert_eq!(
            rest.encode(),
            json!({"f:a": {"f:b": {}}, "f:l": {"k:{\"name\":\"x\",\"port\":80}": {".": {}, "f:image": {}}}})
        );
        assert_eq!(set.intersection(&rest), rest);
        rest.union(&set);
        assert_eq!(rest, set);
        assert!(set.contains(["f:a", "f:b"]) && !set.contains(["f:l"]));
    }
}
