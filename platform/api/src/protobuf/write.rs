//! From JSON to protobuf.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use super::{Error, read, wire};
use crate::schema::{ANY, Schema, Type};

/// Appends the fields of a message.
pub(super) fn message(out: &mut Vec<u8>, schema: &Schema, value: &Value) -> Result<(), Error> {
    let Value::Object(object) = value else { return Err(Error::Malformed("object expected")) };
    // Embedded structs are messages of their own, at most two deep; the inner number is in the upper half.
    let mut embedded: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    for property in schema.properties() {
        let Some(value) = object.get(property.name.as_ref()).filter(|v| !v.is_null() && property.tag != 0) else { continue };
        let out = if property.via == 0 { &mut *out } else { embedded.entry(property.via).or_default() };
        field(out, property.tag, &property.schema, value)?;
    }
    while let Some((via, bytes)) = embedded.pop_last() {
        match (via & 0xffff, via >> 16) {
            (outer, 0) => wire::put_bytes(out, outer, &bytes),
            (outer, inner) => wire::put_bytes(embedded.entry(outer).or_default(), inner, &bytes),
        }
    }
    Ok(())
}

fn field(out: &mut Vec<u8>, number: u32, schema: &Schema, value: &Value) -> Result<(), Error> {
    let shape = schema.shape();
    let items = || shape.items.as_deref().unwrap_or(&ANY);
    match (shape.ty, value) {
        (Type::Array, Value::Array(list)) => list.iter().try_for_each(|item| one(out, number, items(), item)),
        (Type::Map, Value::Object(map)) => map.iter().try_for_each(|(key, item)| {
            let mut entry = Vec::new();
            wire::put_bytes(&mut entry, 1, key.as_bytes());
            one(&mut entry, 2, items(), item)?;
            wire::put_bytes(out, number, &entry);
            Ok(())
        }),
        _ => one(out, number, schema, value),
    }
}

fn one(out: &mut Vec<u8>, number: u32, schema: &Schema, value: &Value) -> Result<(), Error> {
    let shape = schema.shape();
    let mut nested = Vec::new();
    match (shape.ty, value) {
        // An item or entry never set: the zero of its type, which is an empty message or nothing at all.
        (Type::Time | Type::MicroTime | Type::Object | Type::Quantity, Value::Null) => {}
        (_, Value::Null) => return Ok(()),
        (Type::String, Value::String(text)) => {
            wire::put_bytes(out, number, text.as_bytes());
            return Ok(());
        }
        (Type::Bytes, Value::String(text)) => {
            let bytes = STANDARD.decode(text).map_err(|_| Error::Malformed("base64 expected"))?;
            wire::put_bytes(out, number, &bytes);
            return Ok(());
        }
        (Type::Integer, Value::Number(n)) => {
            let n = n.as_i64().ok_or(Error::Malformed("integer expected"))?;
            wire::put_varint(out, number, n.cast_unsigned());
            return Ok(());
        }
        (Type::Boolean, Value::Bool(b)) => {
            wire::put_varint(out, number, u64::from(*b));
            return Ok(());
        }
        (Type::Number, Value::Number(n)) => {
            wire::put_double(out, number, n.as_f64().ok_or(Error::Malformed("number expected"))?);
            return Ok(());
        }
        (Type::Object, Value::Object(_)) => message(&mut nested, schema, value)?,
        (Type::Array, Value::Array(_)) | (Type::Map, Value::Object(_)) => field(&mut nested, 1, schema, value)?,
        (Type::Quantity, Value::String(text)) => wire::put_bytes(&mut nested, 1, text.as_bytes()),
        (Type::Quantity, Value::Number(n)) => wire::put_bytes(&mut nested, 1, n.to_string().as_bytes()),
        (Type::Time | Type::MicroTime, Value::String(text)) => {
            let time: Timestamp = text.parse().map_err(|_| Error::Malformed("time expected"))?;
            wire::put_varint(&mut nested, 1, time.as_second().cast_unsigned());
            let nanos = if shape.ty == Type::Time { 0 } else { time.subsec_nanosecond() };
            wire::put_varint(&mut nested, 2, i64::from(nanos).cast_unsigned());
        }
        (Type::IntOrString, Value::String(text)) => {
            wire::put_varint(&mut nested, 1, 1);
            wire::put_varint(&mut nested, 2, 0);
            wire::put_bytes(&mut nested, 3, text.as_bytes());
        }
        (Type::IntOrString, Value::Number(n)) => {
            let n = n.as_i64().ok_or(Error::Malformed("integer expected"))?;
            wire::put_varint(&mut nested, 1, 0);
            wire::put_varint(&mut nested, 2, n.cast_unsigned());
            wire::put_bytes(&mut nested, 3, b"");
        }
        (Type::Any, _) => wire::put_bytes(&mut nested, 1, value.to_string().as_bytes()),
        (Type::SchemaOr, _) => schema_or(&mut nested, schema, value)?,
        _ => return Err(Error::Malformed("a value of another type than its schema's")),
    }
    wire::put_bytes(out, number, &nested);
    Ok(())
}

fn schema_or(out: &mut Vec<u8>, schema: &Schema, value: &Value) -> Result<(), Error> {
    let or_bool = schema.target.is_some_and(|d| d.name.ends_with("OrBool"));
    let object = |out: &mut Vec<u8>, number, value: &Value| -> Result<(), Error> {
        let mut nested = Vec::new();
        message(&mut nested, read::props(), value)?;
        wire::put_bytes(out, number, &nested);
        Ok(())
    };
    match value {
        Value::Bool(allows) => wire::put_varint(out, 1, u64::from(*allows)),
        Value::Object(_) if or_bool => {
            wire::put_varint(out, 1, 1);
            object(out, 2, value)?;
        }
        Value::Object(_) => object(out, 1, value)?,
        Value::Array(list) => {
            for item in list {
                match item {
                    Value::String(text) => wire::put_bytes(out, 2, text.as_bytes()),
                    _ => object(out, 2, item)?,
                }
            }
        }
        _ => return Err(Error::Malformed("a schema expected")),
    }
    Ok(())
}
