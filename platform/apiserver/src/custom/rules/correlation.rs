//! What a part of an object was before an update, where that can be told.
//!
//! `staging/src/k8s.io/apiserver/pkg/cel/common/{equality,maplist}.go`: members of objects and maps are told by their names,
//! items of lists only by the keys of a map list.

use serde_json::Value;

/// The keys of a map list.
pub(super) fn keys(schema: &Value) -> Vec<String> {
    let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
    keys.filter_map(|key| key.as_str().map(str::to_owned)).collect()
}

/// The item of an older list that has an item's keys; none if several have them.
pub(super) fn item<'v>(item: &Value, old: Option<&'v Value>, keys: &[String]) -> Option<&'v Value> {
    let mut found = old?.as_array()?.iter().filter(|old| keys.iter().all(|key| old[key.as_str()] == item[key.as_str()]));
    let first = found.next()?;
    if found.next().is_some() { None } else { Some(first) }
}

/// A part of an object, and what it was.
#[derive(Clone, Copy)]
pub(super) struct Pair<'v> {
    pub(super) schema: &'v Value,
    pub(super) new: &'v Value,
    pub(super) old: &'v Value,
}

/// Whether errors of a part are to be held against an update.
#[derive(Clone, Copy, Default)]
pub(super) struct Ratchet<'v> {
    /// The part, if it can be told what it was.
    pub(super) current: Option<Pair<'v>>,
    /// What is above it, and could.
    pub(super) nearest: Option<Pair<'v>>,
}

impl<'v> Ratchet<'v> {
    /// Whether the part, or the nearest above it that can be compared, is as it was.
    pub(super) fn is_unchanged(&self) -> bool {
        self.current.or(self.nearest).is_some_and(|pair| unchanged(&pair))
    }

    pub(super) fn member(&self, name: &str) -> Self {
        let Some(current) = self.current else { return *self };
        if self.nearest.is_none() && matches!(name, "apiVersion" | "kind") {
            return Self::default();
        }
        Self { current: current.member(name), nearest: Some(current) }
    }

    pub(super) fn index(&self, at: usize) -> Self {
        let Some(current) = self.current else { return *self };
        Self { current: current.index(at), nearest: Some(current) }
    }
}

impl<'v> Pair<'v> {
    fn member(&self, name: &str) -> Option<Self> {
        let (new, old) = (self.new.as_object()?.get(name)?, self.old.as_object()?.get(name)?);
        let schema = match self.schema["properties"].get(name) {
            Some(schema) => schema,
            None => Some(&self.schema["additionalProperties"]).filter(|schema| schema.is_object())?,
        };
        Some(Self { schema, new, old })
    }

    fn index(&self, at: usize) -> Option<Self> {
        if self.schema["x-kubernetes-list-type"] != "map" {
            return None;
        }
        let new = self.new.as_array()?.get(at)?;
        let old = item(new, Some(self.old), &keys(self.schema))?;
        let schema = Some(&self.schema["items"]).filter(|schema| schema.is_object())?;
        Some(Self { schema, new, old })
    }
}

/// Whether two states are the same; map lists in any order.
fn unchanged(pair: &Pair<'_>) -> bool {
    match (pair.new, pair.old) {
        (Value::Array(new), Value::Array(old)) if pair.schema["x-kubernetes-list-type"] == "map" => {
            new.len() == old.len() && (0..new.len()).all(|at| pair.index(at).is_some_and(|pair| unchanged(&pair)))
        }
        (Value::Object(new), Value::Object(old)) => {
            new.len() == old.len()
                && new.iter().all(|(name, value)| match pair.member(name) {
                    Some(pair) => unchanged(&pair),
                    // What no schema describes.
                    None => old.get(name) == Some(value),
                })
        }
        (new, old) => new == old,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ratchets() {
        let list = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "string"}}}});
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "list": list, "name": {"type": "string"}}}}});
        let state = |name: &str, first: &str, second: &str| json!({"spec": {"name": name, "list": [{"k": first, "v": "1"}, {"k": second, "v": "2"}]}});
        let (old, new) =
            (state("a", "x", "y"), json!({"spec": {"name": "b", "list": [{"k": "y", "v": "2"}, {"k": "x", "v": "1"}]}}));
        let root = Ratchet { current: Some(Pair { schema: &schema, new: &new, old: &old }), nearest: None };
        assert!(!root.is_unchanged());
        let spec = root.member("spec");
        assert!(!spec.is_unchanged());
        assert!(!spec.member("name").is_unchanged());
        assert!(spec.member("list").is_unchanged());
        assert!(spec.member("list").index(0).member("v").is_unchanged());
        assert!(spec.member("absent").nearest.is_some());
    }
}
