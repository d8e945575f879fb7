//! Operators.

use std::cmp::Ordering;

use crate::{
    EvaluationError, Val, time,
    value::{Key, List, compare, equal, merged},
};

type Outcome<'a> = Result<Val<'a>, EvaluationError>;

fn overflow(what: &str) -> EvaluationError {
    EvaluationError::new(format!("{what} overflow"))
}

/// An operator of two values; none if it is no operator.
pub(super) fn binary<'a>(function: &str, a: &Val<'a>, b: &Val<'a>) -> Option<Outcome<'a>> {
    let outcome = match function {
        "_==_" => equal(a, b).map(Val::Bool),
        "_!=_" => equal(a, b).map(|equal| Val::Bool(!equal)),
        "_<_" => ordered(a, b, Ordering::is_lt),
        "_<=_" => ordered(a, b, Ordering::is_le),
        "_>_" => ordered(a, b, Ordering::is_gt),
        "_>=_" => ordered(a, b, Ordering::is_ge),
        "_+_" => add(a, b),
        "_-_" => subtract(a, b),
        "_*_" => multiply(a, b),
        "_/_" => divide(a, b),
        "_%_" => modulo(a, b),
        "@in" => contained(a, b),
        _ => return None,
    };
    Some(outcome)
}

fn ordered<'a>(a: &Val<'a>, b: &Val<'a>, test: fn(Ordering) -> bool) -> Outcome<'a> {
    match compare(a, b) {
        Some(order) => Ok(Val::Bool(test(order))),
        // Nothing is less or greater than what is not a number.
        None if matches!((a, b), (Val::Double(_), _) | (_, Val::Double(_))) && number(a) && number(b) => Ok(Val::Bool(false)),
        None => Err(EvaluationError::overload()),
    }
}

fn number(value: &Val<'_>) -> bool {
    matches!(value, Val::Int(_) | Val::Uint(_) | Val::Double(_))
}

/// `a + b`.
pub(crate) fn add<'a>(a: &Val<'a>, b: &Val<'a>) -> Outcome<'a> {
    match (a, b) {
        (Val::Int(a), Val::Int(b)) => a.checked_add(*b).map(Val::Int).ok_or_else(|| overflow("integer")),
        (Val::Uint(a), Val::Uint(b)) => a.checked_add(*b).map(Val::Uint).ok_or_else(|| overflow("unsigned integer")),
        (Val::Double(a), Val::Double(b)) => Ok(Val::Double(a + b)),
        (Val::String(a), Val::String(b)) => Ok(Val::text(format!("{}{}", &**a, &**b))),
        (Val::Bytes(a), Val::Bytes(b)) => Ok(Val::Bytes([&**a, &**b].concat().into())),
        (Val::List(a), Val::List(b)) => merged(a, b).map(Val::List),
        (Val::Duration(a), Val::Duration(b)) => a.checked_add(*b).map(Val::Duration).ok_or_else(|| overflow("duration")),
        (Val::Timestamp(moment), Val::Duration(nanos)) | (Val::Duration(nanos), Val::Timestamp(moment)) => {
            time::add(*moment, *nanos).map(Val::Timestamp).ok_or_else(|| overflow("timestamp"))
        }
        _ => Err(EvaluationError::overload()),
    }
}

fn subtract<'a>(a: &Val<'a>, b: &Val<'a>) -> Outcome<'a> {
    match (a, b) {
        (Val::Int(a), Val::Int(b)) => a.checked_sub(*b).map(Val::Int).ok_or_else(|| overflow("integer")),
        (Val::Uint(a), Val::Uint(b)) => a.checked_sub(*b).map(Val::Uint).ok_or_else(|| overflow("unsigned integer")),
        (Val::Double(a), Val::Double(b)) => Ok(Val::Double(a - b)),
        (Val::Duration(a), Val::Duration(b)) => a.checked_sub(*b).map(Val::Duration).ok_or_else(|| overflow("duration")),
        (Val::Timestamp(a), Val::Timestamp(b)) => time::between(*b, *a).map(Val::Duration).ok_or_else(|| overflow("duration")),
        (Val::Timestamp(moment), Val::Duration(nanos)) => {
            let negated = nanos.checked_neg().ok_or_else(|| overflow("timestamp"))?;
            time::add(*moment, negated).map(Val::Timestamp).ok_or_else(|| overflow("timestamp"))
        }
        _ => Err(EvaluationError::overload()),
    }
}

fn multiply<'a>(a: &Val<'a>, b: &Val<'a>) -> Outcome<'a> {
    match (a, b) {
        (Val::Int(a), Val::Int(b)) => a.checked_mul(*b).map(Val::Int).ok_or_else(|| overflow("integer")),
        (Val::Uint(a), Val::Uint(b)) => a.checked_mul(*b).map(Val::Uint).ok_or_else(|| overflow("unsigned integer")),
        (Val::Double(a), Val::Double(b)) => Ok(Val::Double(a * b)),
        _ => Err(EvaluationError::overload()),
    }
}

fn divide<'a>(a: &Val<'a>, b: &Val<'a>) -> Outcome<'a> {
    match (a, b) {
        (Val::Int(_), Val::Int(0)) | (Val::Uint(_), Val::Uint(0)) => Err(EvaluationError::new("division by zero")),
        (Val::Int(a), Val::Int(b)) => a.checked_div(*b).map(Val::Int).ok_or_else(|| overflow("integer")),
        (Val::Uint(a), Val::Uint(b)) => Ok(Val::Uint(a / b)),
        (Val::Double(a), Val::Double(b)) => Ok(Val::Double(a / b)),
        _ => Err(EvaluationError::overload()),
    }
}

fn modulo<'a>(a: &Val<'a>, b: &Val<'a>) -> Outcome<'a> {
    match (a, b) {
        (Val::Int(_), Val::Int(0)) | (Val::Uint(_), Val::Uint(0)) => Err(EvaluationError::new("modulus by zero")),
        (Val::Int(a), Val::Int(b)) => a.checked_rem(*b).map(Val::Int).ok_or_else(|| overflow("integer")),
        (Val::Uint(a), Val::Uint(b)) => Ok(Val::Uint(a % b)),
        _ => Err(EvaluationError::overload()),
    }
}

/// `-a`.
pub(super) fn negate<'a>(a: &Val<'a>) -> Outcome<'a> {
    match a {
        Val::Int(value) => value.checked_neg().map(Val::Int).ok_or_else(|| overflow("integer")),
        Val::Double(value) => Ok(Val::Double(-value)),
        _ => Err(EvaluationError::overload()),
    }
}

fn contained<'a>(a: &Val<'a>, b: &Val<'a>) -> Outcome<'a> {
    match b {
        Val::List(list) => in_list(a, list).map(Val::Bool),
        Val::Map(map) => match Key::lookup(a).and_then(|key| map.get(&key)) {
            None => Ok(Val::Bool(false)),
            Some(Ok(_)) => Ok(Val::Bool(true)),
            Some(Err(error)) => Err(error),
        },
        _ => Err(EvaluationError::overload()),
    }
}

/// Whether a list has a value.
pub(crate) fn in_list<'v>(value: &Val<'v>, list: &List<'v>) -> Result<bool, EvaluationError> {
    for item in list.iter() {
        if equal(value, &item?)? {
            return Ok(true);
        }
    }
    Ok(false)
}
