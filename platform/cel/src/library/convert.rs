//! Conversions between types.

use jiff::Timestamp;

use crate::{EvaluationError, Val, time, value::Opaque};

type Outcome<'a> = Result<Val<'a>, EvaluationError>;

/// A conversion; none if it is something else.
pub(crate) fn call<'a>(function: &str, args: &[Val<'a>]) -> Option<Outcome<'a>> {
    let [value] = args else { return None };
    Some(match function {
        "dyn" => Ok(value.clone()),
        "type" => Ok(Val::Type(value.type_name().into())),
        "bool" => bool(value),
        "int" => int(value),
        "uint" => uint(value),
        "double" => double(value),
        "string" => string(value),
        "bytes" => match value {
            Val::Bytes(_) => Ok(value.clone()),
            Val::String(text) => Ok(Val::Bytes(text.as_bytes().into())),
            _ => Err(EvaluationError::overload()),
        },
        "duration" => match value {
            Val::Duration(_) => Ok(value.clone()),
            Val::Int(seconds) => seconds.checked_mul(1_000_000_000).map(Val::Duration).ok_or_else(|| overflow("duration")),
            Val::String(text) => time::duration(text).map(Val::Duration).ok_or_else(|| refuse(value, "google.protobuf.Duration")),
            _ => Err(EvaluationError::overload()),
        },
        "timestamp" => match value {
            Val::Timestamp(_) => Ok(value.clone()),
            Val::Int(seconds) => match Timestamp::from_second(*seconds) {
                Ok(moment) if time::in_range(&moment) => Ok(Val::Timestamp(moment)),
                _ => Err(overflow("timestamp")),
            },
            Val::String(text) => {
                time::timestamp(text).map(Val::Timestamp).ok_or_else(|| refuse(value, "google.protobuf.Timestamp"))
            }
            _ => Err(EvaluationError::overload()),
        },
        _ => return None,
    })
}

fn refuse(value: &Val<'_>, to: &str) -> EvaluationError {
    EvaluationError::new(format!("type conversion error from '{}' to '{to}'", value.type_name()))
}

fn overflow(what: &str) -> EvaluationError {
    EvaluationError::new(format!("{what} overflow"))
}

fn bool<'a>(value: &Val<'a>) -> Outcome<'a> {
    match value {
        Val::Bool(_) => Ok(value.clone()),
        Val::String(text) => match &**text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Val::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Val::Bool(false)),
            _ => Err(refuse(value, "bool")),
        },
        _ => Err(EvaluationError::overload()),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "checked to be inside the bounds")]
fn int<'a>(value: &Val<'a>) -> Outcome<'a> {
    match value {
        Val::Int(_) => Ok(value.clone()),
        Val::Uint(number) => i64::try_from(*number).map(Val::Int).map_err(|_| overflow("integer")),
        Val::Double(number) if number.abs() < 9_223_372_036_854_775_808.0 => Ok(Val::Int(*number as i64)),
        Val::Double(_) => Err(overflow("integer")),
        Val::String(text) => text.parse().map(Val::Int).map_err(|_| refuse(value, "int")),
        Val::Timestamp(moment) => Ok(Val::Int(moment.as_second())),
        Val::Duration(nanos) => Ok(Val::Int(*nanos)),
        _ => Err(EvaluationError::overload()),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be inside the bounds")]
fn uint<'a>(value: &Val<'a>) -> Outcome<'a> {
    match value {
        Val::Uint(_) => Ok(value.clone()),
        Val::Int(number) => u64::try_from(*number).map(Val::Uint).map_err(|_| overflow("unsigned integer")),
        Val::Double(number) if *number >= 0.0 && *number < 18_446_744_073_709_551_616.0 => Ok(Val::Uint(*number as u64)),
        Val::Double(_) => Err(overflow("unsigned integer")),
        Val::String(text) => text.parse().map(Val::Uint).map_err(|_| refuse(value, "uint")),
        _ => Err(EvaluationError::overload()),
    }
}

#[expect(clippy::cast_precision_loss, reason = "the nearest is wanted")]
fn double<'a>(value: &Val<'a>) -> Outcome<'a> {
    match value {
        Val::Double(_) => Ok(value.clone()),
        Val::Int(number) => Ok(Val::Double(*number as f64)),
        Val::Uint(number) => Ok(Val::Double(*number as f64)),
        Val::String(text) => text.parse().map(Val::Double).map_err(|_| refuse(value, "double")),
        _ => Err(EvaluationError::overload()),
    }
}

/// A value as `string()` writes it.
///
/// # Errors
///
/// When the value has no such form.
pub(crate) fn string<'a>(value: &Val<'a>) -> Outcome<'a> {
    Ok(match value {
        Val::String(_) => value.clone(),
        Val::Bool(value) => Val::text(value.to_string()),
        Val::Int(value) => Val::text(value.to_string()),
        Val::Uint(value) => Val::text(value.to_string()),
        Val::Double(value) => Val::text(shortest(*value)),
        Val::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Val::text(text),
            Err(_) => return Err(EvaluationError::new("invalid UTF-8 in bytes, cannot convert to string")),
        },
        Val::Timestamp(moment) => Val::text(moment.to_string()),
        Val::Duration(nanos) => Val::text(time::seconds(*nanos)),
        Val::Opaque(Opaque::Ip(ip)) => Val::text(ip.to_string()),
        Val::Opaque(Opaque::Cidr(cidr)) => Val::text(cidr.to_string()),
        _ => return Err(EvaluationError::overload()),
    })
}

/// Go's `%g` with as many digits as it takes.
pub(crate) fn shortest(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let text = format!("{value:e}");
    let Some((digits, exponent)) = text.split_once('e') else { return text };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) {
        return format!("{value}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}
