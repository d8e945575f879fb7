//! From JSON, as a schema reads it, and back.
//!
//! Rules and texts from `staging/src/k8s.io/apiserver/pkg/cel/common/valuesunstructured.go`.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map as JsonMap, Value as Json, json};

use super::{Key, List, Map, Opaque, Text, Val, Value};
use crate::{
    EvaluationError,
    declaration::{Declaration, Scalar},
    time,
};

/// A value of an object; without a schema by what it looks like.
///
/// # Errors
///
/// When it does not fit its schema.
pub(crate) fn from_json<'a>(json: &'a Json, declaration: Option<&'a Declaration>) -> Result<Val<'a>, EvaluationError> {
    let Some(declaration) = declaration else { return Ok(untyped(json)) };
    if json.is_null() {
        return if declaration.nullable() {
            Ok(Val::Null)
        } else {
            Err(EvaluationError::new("invalid data, got null for schema with nullable=false"))
        };
    }
    let refuse = |text: &str| Err(EvaluationError::new(format!("invalid data, expected {text}")));
    if let Some(scalar) = declaration.scalar() {
        return match (scalar, json) {
            (Scalar::IntOrString, Json::String(text)) => Ok(Val::String(Text::Borrowed(text))),
            (Scalar::IntOrString | Scalar::Int, Json::Number(number)) if whole(number).is_some() => {
                Ok(Val::Int(whole(number).unwrap_or_default()))
            }
            (Scalar::IntOrString, _) => refuse("XIntOrString value to be either a string or integer"),
            (Scalar::Bool, Json::Bool(value)) => Ok(Val::Bool(*value)),
            (Scalar::Bool, _) => refuse("bool"),
            (Scalar::Int, _) => refuse("int"),
            (Scalar::Double, Json::Number(number)) => Ok(Val::Double(number.as_f64().unwrap_or_default())),
            (Scalar::Double, _) => refuse("float"),
            (_, Json::String(text)) => formatted(scalar, text),
            _ => refuse("string"),
        };
    }
    match json {
        Json::Array(items) if declaration.is_list() => Ok(Val::List(List::json(items, Some(declaration)))),
        Json::Object(members) if !declaration.is_list() => Ok(Val::Map(Map::json(members, Some(declaration)))),
        _ if declaration.is_list() => refuse("an array for the provided schema with type=array"),
        _ => refuse("a map for the provided schema with type=object"),
    }
}

/// A whole number, also when it is written with a fraction of zero.
#[expect(clippy::cast_possible_truncation, reason = "inside the bounds of both")]
fn whole(number: &serde_json::Number) -> Option<i64> {
    number
        .as_i64()
        .or_else(|| number.as_f64().filter(|value| value.fract() == 0.0 && value.abs() < 9.2e18).map(|value| value as i64))
}

fn formatted(scalar: Scalar, text: &str) -> Result<Val<'_>, EvaluationError> {
    let refuse = |what: &str| EvaluationError::new(format!("Invalid {what} formatted string {text}"));
    match scalar {
        Scalar::Duration => time::schema_duration(text).map(Val::Duration).ok_or_else(|| refuse("duration")),
        Scalar::Date => time::date(text).map(Val::Timestamp).ok_or_else(|| refuse("date")),
        Scalar::DateTime => time::timestamp(text).map(Val::Timestamp).ok_or_else(|| refuse("date-time")),
        Scalar::Bytes => match STANDARD.decode(text) {
            Ok(bytes) => Ok(Val::Bytes(bytes.into())),
            Err(_) => Err(refuse("byte")),
        },
        _ => Ok(Val::String(Text::Borrowed(text))),
    }
}

fn untyped(json: &Json) -> Val<'_> {
    match json {
        Json::Null => Val::Null,
        Json::Bool(value) => Val::Bool(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(value), _) => Val::Int(value),
            (None, Some(value)) => Val::Uint(value),
            _ => Val::Double(number.as_f64().unwrap_or_default()),
        },
        Json::String(text) => Val::String(Text::Borrowed(text)),
        Json::Array(items) => Val::List(List::json(items, None)),
        Json::Object(members) => Val::Map(Map::json(members, None)),
    }
}

impl Val<'_> {
    /// The same value, without references to what it was made of.
    ///
    /// # Errors
    ///
    /// When a part of an object does not fit its schema.
    pub fn into_owned(self) -> Result<Value, EvaluationError> {
        Ok(match self {
            Val::Null => Val::Null,
            Val::Bool(value) => Val::Bool(value),
            Val::Int(value) => Val::Int(value),
            Val::Uint(value) => Val::Uint(value),
            Val::Double(value) => Val::Double(value),
            Val::String(text) => Val::String(Text::Shared(text.into_shared())),
            Val::Bytes(bytes) => Val::Bytes(bytes),
            Val::Timestamp(value) => Val::Timestamp(value),
            Val::Duration(value) => Val::Duration(value),
            Val::List(list) => Val::list(list.iter().map(|item| item?.into_owned()).collect::<Result<_, _>>()?),
            Val::Map(map) => {
                let mut members = BTreeMap::new();
                for (key, value) in map.entries()? {
                    if let Some(key) = Key::new(&key.into_owned()?) {
                        members.insert(key, value.into_owned()?);
                    }
                }
                Val::Map(match map.type_name() {
                    Some(name) => Map::message(name.into(), members),
                    None => Map::owned(members),
                })
            }
            Val::Optional(None) => Val::Optional(None),
            Val::Optional(Some(value)) => Val::some((*value).clone().into_owned()?),
            Val::Type(name) => Val::Type(name),
            Val::Opaque(opaque) => Val::Opaque(opaque),
        })
    }

    /// The value as JSON, as protobuf's mapping of `google.protobuf.Value` has it.
    ///
    /// # Errors
    ///
    /// For what JSON cannot hold: types, questions to the authorizer, numbers that are not finite.
    pub fn to_json(&self) -> Result<Json, EvaluationError> {
        let refuse = || EvaluationError::Type(format!("type conversion error from '{}' to JSON", self.type_name()).into());
        Ok(match self {
            Val::Null | Val::Optional(None) => Json::Null,
            Val::Bool(value) => json!(value),
            Val::Int(value) => json!(value),
            Val::Uint(value) => json!(value),
            Val::Double(value) => Json::Number(serde_json::Number::from_f64(*value).ok_or_else(refuse)?),
            Val::String(text) => Json::String(text.to_string()),
            Val::Bytes(bytes) => Json::String(STANDARD.encode(bytes)),
            Val::Timestamp(value) => Json::String(value.to_string()),
            Val::Duration(value) => Json::String(time::seconds(*value)),
            Val::List(list) => Json::Array(list.iter().map(|item| item?.to_json()).collect::<Result<_, _>>()?),
            Val::Map(map) => {
                if let Some((members, None)) = map.as_json() {
                    return Ok(Json::Object(members.clone()));
                }
                let mut members = JsonMap::new();
                for (key, value) in map.entries()? {
                    let name = match key {
                        Val::Bool(value) => value.to_string(),
                        Val::Int(value) => value.to_string(),
                        Val::Uint(value) => value.to_string(),
                        Val::String(text) => text.to_string(),
                        _ => return Err(refuse()),
                    };
                    members.insert(name, value.to_json()?);
                }
                Json::Object(members)
            }
            Val::Optional(Some(value)) => value.to_json()?,
            Val::Opaque(Opaque::Quantity(value)) => Json::String(value.to_string()),
            Val::Opaque(Opaque::Ip(value)) => Json::String(value.to_string()),
            Val::Opaque(Opaque::Cidr(value)) => Json::String(value.to_string()),
            Val::Opaque(Opaque::Url(value)) => Json::String(value.text().to_owned()),
            Val::Opaque(Opaque::Semver(value)) => Json::String(value.to_string()),
            Val::Type(_) | Val::Opaque(_) => return Err(refuse()),
        })
    }

    /// A value of its own from JSON.
    #[must_use]
    pub fn of_json(json: &Json) -> Value {
        match json {
            Json::Array(items) => Val::list(items.iter().map(Self::of_json).collect()),
            Json::Object(members) => {
                let members =
                    members.iter().map(|(name, value)| (Key::String(Text::Shared(name.as_str().into())), Self::of_json(value)));
                Val::Map(Map::owned(members.collect()))
            }
            Json::String(text) => Val::text(Arc::<str>::from(text.as_str())),
            // What holds no reference.
            Json::Null => Val::Null,
            Json::Bool(value) => Val::Bool(*value),
            Json::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(value), _) => Val::Int(value),
                (None, Some(value)) => Val::Uint(value),
                _ => Val::Double(number.as_f64().unwrap_or_default()),
            },
        }
    }
}
