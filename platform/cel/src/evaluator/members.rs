//! Members of values: fields, keys, indices.

use std::sync::Arc;

use crate::{
    EvaluationError, Val,
    value::{Key, Text},
};

type Outcome<'a> = Result<Val<'a>, EvaluationError>;

pub(super) fn no_such_key(name: &str) -> EvaluationError {
    EvaluationError::new(format!("no such key: {name}"))
}

/// A key or index the way errors show it.
pub(super) fn shown(value: &Val<'_>) -> String {
    match value {
        Val::String(text) => text.to_string(),
        Val::Int(value) => value.to_string(),
        Val::Uint(value) => value.to_string(),
        Val::Bool(value) => value.to_string(),
        Val::Double(value) => value.to_string(),
        other => other.type_name().to_owned(),
    }
}

pub(super) fn not_optional(value: &Val<'_>) -> EvaluationError {
    EvaluationError::new(format!("cannot initialize optional entry from non-optional value of type {}", value.type_name()))
}

/// `value.field`.
pub(super) fn field<'a>(value: &Val<'a>, name: &Arc<str>) -> Outcome<'a> {
    match value {
        Val::Map(map) => map.get(&Key::String(Text::Shared(name.clone()))).unwrap_or_else(|| Err(no_such_key(name))),
        // An optional's member is an optional.
        Val::Optional(None) => Ok(Val::Optional(None)),
        Val::Optional(Some(inner)) => optional_field(inner, name),
        _ => Err(EvaluationError::overload()),
    }
}

fn optional_field<'a>(value: &Val<'a>, name: &Arc<str>) -> Outcome<'a> {
    match value {
        Val::Map(map) => match map.get(&Key::String(Text::Shared(name.clone()))) {
            Some(value) => value.map(Val::some),
            None => Ok(Val::Optional(None)),
        },
        Val::Optional(Some(inner)) => optional_field(inner, name),
        Val::Optional(None) => Ok(Val::Optional(None)),
        _ => Err(EvaluationError::overload()),
    }
}

/// `has(value.field)`.
pub(super) fn has(value: &Val<'_>, name: &Arc<str>) -> Result<bool, EvaluationError> {
    match value {
        Val::Map(map) => match map.get(&Key::String(Text::Shared(name.clone()))) {
            None => Ok(false),
            Some(Err(error)) => Err(error),
            Some(Ok(_)) => Ok(true),
        },
        Val::Optional(None) => Ok(false),
        Val::Optional(Some(inner)) => has(inner, name),
        _ => Err(EvaluationError::overload()),
    }
}

/// `value[key]`.
pub(super) fn index<'a>(value: &Val<'a>, key: &Val<'a>) -> Outcome<'a> {
    match value {
        Val::Optional(_) => optional_index(value, key),
        Val::List(list) => {
            let at = place(key)?;
            let outside = || EvaluationError::new(format!("index out of bounds: {}", shown(key)));
            at.and_then(|at| list.get(at)).unwrap_or_else(|| Err(outside()))
        }
        Val::Map(map) => {
            let missing = || no_such_key(&shown(key));
            let Some(key) = Key::lookup(key) else { return Err(missing()) };
            map.get(&key).unwrap_or_else(|| Err(missing()))
        }
        _ => Err(EvaluationError::overload()),
    }
}

/// The place in a list that a number names; none for a negative one.
fn place(key: &Val<'_>) -> Result<Option<usize>, EvaluationError> {
    match Key::lookup(key) {
        Some(Key::Int(at)) => Ok(usize::try_from(at).ok()),
        Some(Key::Uint(at)) => Ok(usize::try_from(at).ok()),
        _ => Err(EvaluationError::new(format!("unsupported index type '{}' in list", key.type_name()))),
    }
}

/// `value[?key]` and `value.?key`.
pub(super) fn optional_index<'a>(value: &Val<'a>, key: &Val<'a>) -> Outcome<'a> {
    let found = match value {
        Val::Optional(None) => None,
        Val::Optional(Some(inner)) => return optional_index(inner, key),
        Val::List(list) => place(key)?.and_then(|at| list.get(at)),
        Val::Map(map) => Key::lookup(key).and_then(|key| map.get(&key)),
        _ => return Err(EvaluationError::overload()),
    };
    match found {
        Some(value) => value.map(Val::some),
        None => Ok(Val::Optional(None)),
    }
}
