//! Equality and order.
//!
//! Values of different types are unequal rather than an error; numbers compare by what they count. Lists of an object whose
//! schema calls them sets or maps compare as such (`apiserver/pkg/cel/common/{valuesunstructured,equality}.go`).

use std::{cmp::Ordering, collections::BTreeSet};

use serde_json::Value as Json;

use super::{List, Map, Opaque, Val, from_json};
use crate::{
    EvaluationError,
    declaration::{Declaration, ListType},
};

/// Whether two values are equal.
///
/// # Errors
///
/// When a part of an object does not fit its schema.
pub(crate) fn equal<'v>(a: &Val<'v>, b: &Val<'v>) -> Result<bool, EvaluationError> {
    Ok(match (a, b) {
        (Val::Null, Val::Null) => true,
        (Val::Bool(a), Val::Bool(b)) => a == b,
        (Val::Int(_) | Val::Uint(_) | Val::Double(_), Val::Int(_) | Val::Uint(_) | Val::Double(_)) => {
            numbers(a, b) == Some(Ordering::Equal)
        }
        (Val::String(a), Val::String(b)) => **a == **b,
        (Val::Bytes(a), Val::Bytes(b)) => a == b,
        (Val::Timestamp(a), Val::Timestamp(b)) => a == b,
        (Val::Duration(a), Val::Duration(b)) => a == b,
        (Val::List(a), Val::List(b)) => lists(a, b)?,
        (Val::Map(a), Val::Map(b)) => maps(a, b)?,
        (Val::Optional(a), Val::Optional(b)) => match (a, b) {
            (None, None) => true,
            (Some(a), Some(b)) => equal(a, b)?,
            _ => false,
        },
        (Val::Type(a), Val::Type(b)) => a == b,
        (Val::Opaque(a), Val::Opaque(b)) => opaque(a, b),
        _ => false,
    })
}

fn opaque(a: &Opaque, b: &Opaque) -> bool {
    match (a, b) {
        (Opaque::Quantity(a), Opaque::Quantity(b)) => a.nanos() == b.nanos(),
        (Opaque::Ip(a), Opaque::Ip(b)) => a == b,
        (Opaque::Cidr(a), Opaque::Cidr(b)) => a == b,
        (Opaque::Url(a), Opaque::Url(b)) => a.text() == b.text(),
        (Opaque::Semver(a), Opaque::Semver(b)) => a.compare(b) == Ordering::Equal,
        (Opaque::Format(a), Opaque::Format(b)) => a.name == b.name,
        (Opaque::Question(a), Opaque::Question(b)) => a == b,
        (Opaque::Decision(a), Opaque::Decision(b)) => a == b,
        _ => false,
    }
}

fn lists<'v>(a: &List<'v>, b: &List<'v>) -> Result<bool, EvaluationError> {
    if a.len() != b.len() {
        return Ok(false);
    }
    match a.declaration().map(Declaration::list_type) {
        Some(ListType::Set) => Ok(keys(a, &[])? == keys(b, &[])?),
        Some(ListType::Map(names)) => {
            let others = b.items()?;
            for item in a.iter() {
                let item = item?;
                let key = item_key(&item, names);
                let other = others.iter().find(|other| item_key(other, names) == key);
                match other {
                    Some(other) if equal(&item, other)? => {}
                    _ => return Ok(false),
                }
            }
            Ok(true)
        }
        _ => {
            for (a, b) in a.iter().zip(b.iter()) {
                if !equal(&a?, &b?)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
    }
}

fn keys(list: &List<'_>, names: &[String]) -> Result<BTreeSet<String>, EvaluationError> {
    list.iter().map(|item| Ok(item_key(&item?, names))).collect()
}

/// What an item of a set or map list is told from others by.
pub(crate) fn item_key(item: &Val<'_>, names: &[String]) -> String {
    let Val::Map(map) = item else { return format!("{}:{}", item.type_name(), item.to_json().unwrap_or_default()) };
    if names.is_empty() {
        return item.to_json().unwrap_or_default().to_string();
    }
    if let Some((members, _)) = map.as_json() {
        return names.iter().map(|name| format!("{}\0", members.get(name).unwrap_or(&Json::Null))).collect();
    }
    let members = item.to_json().unwrap_or_default();
    names.iter().map(|name| format!("{}\0", members.get(name).unwrap_or(&Json::Null))).collect()
}

fn maps<'v>(a: &Map<'v>, b: &Map<'v>) -> Result<bool, EvaluationError> {
    if a.len() != b.len() || a.type_name() != b.type_name() {
        return Ok(false);
    }
    if let (Some((a, a_schema)), Some((b, b_schema))) = (a.as_json(), b.as_json()) {
        // Fields that the schema does not show count too.
        for (name, value) in a {
            let Some(other) = b.get(name) else { return Ok(false) };
            let inner =
                |declaration: Option<&'_ Declaration>| declaration.is_some_and(|declaration| declaration.raw(name).is_some());
            let same = if inner(a_schema) && inner(b_schema) && !value.is_null() && !other.is_null() {
                let a = from_json(value, a_schema.and_then(|declaration| declaration.raw(name)))?;
                let b = from_json(other, b_schema.and_then(|declaration| declaration.raw(name)))?;
                equal(&a, &b)?
            } else {
                equal(&from_json(value, None)?, &from_json(other, None)?)?
            };
            if !same {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    for (key, value) in a.entries()? {
        let Some(key) = super::Key::new(&key) else { return Ok(false) };
        let Some(other) = b.get(&key) else { return Ok(false) };
        if !equal(&value, &other?)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The order of two values; none if they have none.
pub(crate) fn compare(a: &Val<'_>, b: &Val<'_>) -> Option<Ordering> {
    match (a, b) {
        (Val::Bool(a), Val::Bool(b)) => Some(a.cmp(b)),
        (Val::String(a), Val::String(b)) => Some((**a).cmp(&**b)),
        (Val::Bytes(a), Val::Bytes(b)) => Some(a.cmp(b)),
        (Val::Timestamp(a), Val::Timestamp(b)) => Some(a.cmp(b)),
        (Val::Duration(a), Val::Duration(b)) => Some(a.cmp(b)),
        _ => numbers(a, b),
    }
}

/// The order of two numbers of any kinds, exact; none if one is not a number.
fn numbers(a: &Val<'_>, b: &Val<'_>) -> Option<Ordering> {
    let whole = |value: &Val<'_>| match value {
        Val::Int(value) => Some(i128::from(*value)),
        Val::Uint(value) => Some(i128::from(*value)),
        _ => None,
    };
    match (a, b) {
        (Val::Double(a), Val::Double(b)) => a.partial_cmp(b),
        (Val::Double(a), b) => mixed(*a, whole(b)?),
        (a, Val::Double(b)) => mixed(*b, whole(a)?).map(Ordering::reverse),
        (a, b) => Some(whole(a)?.cmp(&whole(b)?)),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "inside the bounds of both")]
fn mixed(a: f64, b: i128) -> Option<Ordering> {
    if a.is_nan() {
        return None;
    }
    if a.abs() >= 1e30 {
        return Some(if a > 0.0 { Ordering::Greater } else { Ordering::Less });
    }
    let floor = a.floor();
    Some((floor as i128).cmp(&b).then(if a > floor { Ordering::Greater } else { Ordering::Equal }))
}
