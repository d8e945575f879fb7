//! From protobuf to JSON.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Number, Value, json};

use super::wire::{self, Field};
use super::{Error, MAGIC};
use crate::fields::omitted;
use crate::schema::{ANY, Property, Schema, Type, definition};
use crate::time;

/// Messages nest no deeper than JSON may.
const MAX_DEPTH: u32 = 120;

/// A message by its schema.
pub(super) fn message(schema: &Schema, bytes: &[u8], depth: u32) -> Result<Value, Error> {
    if depth > MAX_DEPTH {
        return Err(Error::Malformed("nested too deep"));
    }
    let mut object = Map::new();
    fields(schema.properties(), 0, bytes, depth, &mut object)?;
    for property in schema.properties() {
        if object.get(property.name.as_ref()).is_some_and(|value| omitted(property, value)) {
            object.remove(property.name.as_ref());
        }
    }
    Ok(Value::Object(object))
}

/// The fields of a message, or (`via` not 0) of a struct embedded in it, which JSON has flattened.
fn fields(properties: &[Property], via: u32, bytes: &[u8], depth: u32, object: &mut Map<String, Value>) -> Result<(), Error> {
    wire::each(bytes, |number, field| {
        let found = properties.iter().find(|p| p.tag == number && p.via == via && p.tag != 0);
        if let Some(property) = found {
            return put(object, property, field, depth);
        }
        let deeper = match via {
            0 => number,
            outer if outer >> 16 == 0 => outer | number << 16,
            _ => return Ok(()),
        };
        let mask = if via == 0 { 0xffff } else { u32::MAX };
        if properties.iter().any(|p| p.via != 0 && p.via & mask == deeper) {
            return fields(properties, deeper, field.bytes()?, depth, object);
        }
        Ok(()) // A field newer than the table: dropped, as any protobuf reader does.
    })
}

fn put(object: &mut Map<String, Value>, property: &Property, field: Field<'_>, depth: u32) -> Result<(), Error> {
    let name = property.name.as_ref();
    let shape = property.schema.shape();
    let items = || shape.items.as_deref().unwrap_or(&ANY);
    match shape.ty {
        Type::Array => {
            let list = object.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(list) = list else { return Ok(()) };
            match (items().ty(), field) {
                (Type::Integer, Field::Bytes(bytes)) => wire::packed(bytes, |n| list.push(n.into()))?,
                (Type::Boolean, Field::Bytes(bytes)) => wire::packed(bytes, |n| list.push((n != 0).into()))?,
                _ => list.push(value(items(), field, depth)?.unwrap_or(Value::Null)),
            }
        }
        Type::Map => {
            let map = object.entry(name).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(map) = map else { return Ok(()) };
            let (key, entry) = entry(items(), field.bytes()?, depth)?;
            map.insert(key, entry);
        }
        _ => {
            if let Some(decoded) = value(&property.schema, field, depth)? {
                object.insert(name.to_owned(), decoded);
            }
        }
    }
    Ok(())
}

fn entry(items: &Schema, bytes: &[u8], depth: u32) -> Result<(String, Value), Error> {
    let mut key = String::new();
    let mut found = None;
    wire::each(bytes, |number, field| {
        match number {
            1 => field.text()?.clone_into(&mut key),
            2 => found = value(items, field, depth)?,
            _ => {}
        }
        Ok(())
    })?;
    let empty = || match items.ty() {
        Type::String | Type::Bytes => json!(""),
        Type::Array => json!([]),
        Type::Quantity => json!("0"),
        _ => Value::Null,
    };
    Ok((key, found.unwrap_or_else(empty)))
}

/// One value. `None` is a time that was never set.
fn value(schema: &Schema, field: Field<'_>, depth: u32) -> Result<Option<Value>, Error> {
    let shape = schema.shape();
    let decoded = match shape.ty {
        Type::String => field.text()?.into(),
        Type::Integer => field.int()?.into(),
        Type::Boolean => (field.int()? != 0).into(),
        Type::Number => Number::from_f64(field.double()?).map_or(Value::Null, Value::Number),
        Type::Bytes => STANDARD.encode(field.bytes()?).into(),
        Type::Object => message(schema, field.bytes()?, depth + 1)?,
        // A named list (`ExtraValue`) is a message of its own.
        Type::Array => {
            let mut list = Vec::new();
            let items = shape.items.as_deref().unwrap_or(&ANY);
            wire::each(field.bytes()?, |number, field| {
                if number == 1 {
                    list.push(value(items, field, depth + 1)?.unwrap_or(Value::Null));
                }
                Ok(())
            })?;
            Value::Array(list)
        }
        Type::Map => {
            let mut map = Map::new();
            let items = shape.items.as_deref().unwrap_or(&ANY);
            wire::each(field.bytes()?, |_, field| {
                let (key, decoded) = entry(items, field.bytes()?, depth + 1)?;
                map.insert(key, decoded);
                Ok(())
            })?;
            Value::Object(map)
        }
        Type::Time | Type::MicroTime => return timestamp(shape.ty, field.bytes()?),
        Type::Quantity => {
            let mut text = "0";
            wire::each(field.bytes()?, |number, field| {
                if number == 1 {
                    text = field.text()?;
                }
                Ok(())
            })?;
            if text.is_empty() { "0".into() } else { text.into() }
        }
        Type::IntOrString => int_or_string(field.bytes()?)?,
        Type::Any => raw(field.bytes()?)?,
        Type::SchemaOr => schema_or(schema, field.bytes()?, depth)?,
    };
    Ok(Some(decoded))
}

fn timestamp(ty: Type, bytes: &[u8]) -> Result<Option<Value>, Error> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (mut seconds, mut nanos) = (0, 0);
    wire::each(bytes, |number, field| {
        match number {
            1 => seconds = field.int()?,
            2 => nanos = i32::try_from(field.int()?).map_err(|_| Error::Malformed("nanoseconds out of range"))?,
            _ => {}
        }
        Ok(())
    })?;
    let at = Timestamp::new(seconds, nanos).map_err(|_| Error::Malformed("time out of range"))?;
    let format = if ty == Type::Time { time::format } else { time::format_micro };
    Ok(Some(format(at).into()))
}

fn int_or_string(bytes: &[u8]) -> Result<Value, Error> {
    let (mut is_string, mut number_value, mut text) = (false, 0, "");
    wire::each(bytes, |number, field| {
        match number {
            1 => is_string = field.int()? == 1,
            2 => number_value = field.int()?,
            3 => text = field.text()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(if is_string { text.into() } else { number_value.into() })
}

/// `RawExtension`, `JSON` and `FieldsV1`: JSON, or an enveloped message, in field 1.
fn raw(bytes: &[u8]) -> Result<Value, Error> {
    let mut raw = &[][..];
    wire::each(bytes, |number, field| {
        if number == 1 {
            raw = field.bytes()?;
        }
        Ok(())
    })?;
    if raw.is_empty() {
        return Ok(Value::Null);
    }
    if raw.starts_with(&MAGIC) {
        return super::decode(raw, None).map(|message| message.value);
    }
    serde_json::from_slice(raw).map_err(|_| Error::Malformed("embedded object is not JSON"))
}

/// The unions of `JSONSchemaProps`; their field numbers are in apiextensions' `generated.proto`.
fn schema_or(schema: &Schema, bytes: &[u8], depth: u32) -> Result<Value, Error> {
    let or_bool = schema.target.is_some_and(|d| d.name.ends_with("OrBool"));
    let props = props();
    let (mut object, mut list, mut allows) = (None, Vec::new(), false);
    wire::each(bytes, |number, field| {
        match (or_bool, number, field) {
            (true, 1, _) => allows = field.int()? != 0,
            (true, 2, _) | (false, 1, _) => object = Some(message(props, field.bytes()?, depth + 1)?),
            (false, 2, _) if schema.target.is_some_and(|d| d.name.ends_with("OrArray")) => {
                list.push(message(props, field.bytes()?, depth + 1)?)
            }
            (false, 2, _) => list.push(field.text()?.into()),
            _ => {}
        }
        Ok(())
    })?;
    Ok(match object {
        Some(object) => object,
        None if or_bool => allows.into(),
        None => Value::Array(list),
    })
}

pub(super) fn props() -> &'static Schema {
    definition("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps").map_or(&ANY, |d| &d.schema)
}
