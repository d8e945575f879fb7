//! Names of message literals: below `Object{…}` each is named by the path of fields that leads to it.
//!
//! Follows `CheckTypeNamesMatchFieldPathNames` in `staging/src/k8s.io/apiserver/pkg/cel/mutation/dynamic/objects.go`.

use crate::Val;

impl Val<'_> {
    /// What is wrong with the first message literal that is not named by the fields it is in, such as the inner one of
    /// `Object.spec{selector: Object.spec.other{}}`. Of a list of `JSONPatch{…}` their values are looked at.
    #[must_use]
    pub fn mismatched_type_name(&self) -> Option<String> {
        match self {
            Val::List(list) => list.iter().flatten().find_map(|item| item.mismatched_type_name()),
            Val::Map(map) => match map.type_name()? {
                "JSONPatch" => {
                    let members = map.entries().ok()?;
                    let value = members.iter().find(|(key, _)| key.as_str() == Some("value"));
                    value.filter(|(_, value)| matches!(value, Val::Map(_))).and_then(|(_, value)| value.mismatched_type_name())
                }
                name => mismatch(self, name),
            },
            _ => None,
        }
    }
}

fn mismatch(value: &Val<'_>, path: &str) -> Option<String> {
    match value {
        // What is in a list or a plain map is where these are.
        Val::List(list) => list.iter().flatten().find_map(|item| mismatch(&item, path)),
        Val::Map(map) => {
            let name = map.type_name();
            if name.is_some_and(|name| name != path) {
                let found = name.unwrap_or_default();
                return Some(format!(
                    "unexpected type name {found:?}, expected {path:?}, which matches field name path from root Object type"
                ));
            }
            map.entries().ok()?.iter().find_map(|(key, value)| match (name, key.as_str()) {
                (Some(_), Some(field)) => mismatch(value, &format!("{path}.{field}")),
                _ => mismatch(value, path),
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use super::*;
    use crate::value::{Key, Map};

    fn message(name: &str, fields: Vec<(&str, Val<'static>)>) -> Val<'static> {
        let fields: BTreeMap<_, _> =
            fields.into_iter().filter_map(|(field, value)| Some((Key::new(&Val::text(field))?, value))).collect();
        Val::Map(Map::message(Arc::from(name), fields))
    }

    #[test]
    fn names_follow_fields() {
        let spec = || message("Object.spec", vec![("replicas", Val::Int(1))]);
        let list = |name: &str| message("Object", vec![("items", Val::list(vec![message(name, vec![])]))]);
        let patch = |value: Val<'static>| Val::list(vec![message("JSONPatch", vec![("value", value)])]);
        let wrong = |found: &str, wanted: &str| {
            Some(format!(
                "unexpected type name {found:?}, expected {wanted:?}, which matches field name path from root Object type"
            ))
        };
        for (value, wanted) in [
            (message("Object", vec![("spec", spec())]), None),
            (message("Object", vec![("status", spec())]), wrong("Object.spec", "Object.status")),
            (list("Object.items"), None),
            (list("Object.other"), wrong("Object.other", "Object.items")),
            (patch(spec()), None),
            (patch(message("Object.spec", vec![("a", spec())])), wrong("Object.spec", "Object.spec.a")),
            (patch(Val::Int(1)), None),
        ] {
            assert_eq!(value.mismatched_type_name(), wanted, "{value:?}");
        }
    }
}
