//! One pass over a document: checks types, drops unknown fields, notes duplicates, and brings values into the form Go writes.
//!
//! Follows `sigs.k8s.io/json` (strict errors) and `encoding/json` (type errors); their texts reach users, so they are kept.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{DecodeError, Decoded, Problem};
use crate::schema::{ANY, Definition, Property, Schema, Type, definition};
use crate::{quantity::Quantity, time};

/// `sigs.k8s.io/json` stops collecting there.
const MAX_PROBLEMS: usize = 100;

/// What a whole document is decoded by.
#[derive(Clone, Copy)]
pub(super) struct Root<'a> {
    pub(super) schema: &'a Schema,
    /// The Go name, such as `v1.Pod`, and the bare one.
    pub(super) go_name: &'a str,
    pub(super) type_name: &'a str,
    /// Of a custom kind: types are left to validation, nulls and zeros stay.
    pub(super) custom: bool,
}

pub(super) fn from_slice(root: Root<'_>, body: &[u8]) -> Result<Decoded, DecodeError> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let decoded = run(root, &mut deserializer)?;
    deserializer.end().map_err(|e| DecodeError::Syntax(e.to_string()))?;
    Ok(decoded)
}

pub(super) fn from_value(root: Root<'_>, value: Value) -> Result<Decoded, DecodeError> {
    run(root, value)
}

fn run<'de, D: serde::Deserializer<'de, Error = serde_json::Error>>(
    root: Root<'_>,
    deserializer: D,
) -> Result<Decoded, DecodeError> {
    let mut state = State { problems: Vec::new(), error: None, custom: root.custom };
    let path = Path { parent: None, step: Step::Root { go_name: root.go_name } };
    let node = Node { schema: root.schema, owner: root.type_name, path: &path, state: &mut state, typed: !root.custom };
    match node.deserialize(deserializer) {
        Ok(value) => Ok(Decoded { value: value.unwrap_or(Value::Null), problems: state.problems }),
        Err(error) => Err(state.error.unwrap_or_else(|| DecodeError::Syntax(error.to_string()))),
    }
}

struct State {
    problems: Vec<Problem>,
    error: Option<DecodeError>,
    custom: bool,
}

/// Where in the document we are; lives on the stack and is written out only for messages.
struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root { go_name: &'a str },
    Field { name: &'a str, owner: &'a str },
    Key(&'a str),
    Index(usize),
}

impl Path<'_> {
    /// `spec.containers[0].image`.
    fn strict(&self) -> String {
        let mut text = self.parent.map_or_else(String::new, Path::strict);
        match self.step {
            Step::Root { .. } => {}
            Step::Field { name, .. } | Step::Key(name) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(name);
            }
            Step::Index(index) => text.push_str(&format!("[{index}]")),
        }
        text
    }

    /// `spec.containers.image`, and the struct the last field is in.
    fn go(&self) -> (String, &str) {
        let (mut text, mut owner) = self.parent.map_or_else(|| (String::new(), ""), Path::go);
        if let Step::Field { name, owner: this } = self.step {
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(name);
            owner = this;
        }
        (text, owner)
    }

    fn root(&self) -> &str {
        match (self.parent, self.step) {
            (_, Step::Root { go_name }) => go_name,
            (Some(parent), _) => parent.root(),
            (None, _) => "",
        }
    }
}

/// A value to be decoded by a schema. `None` stands for a null that Go would not keep.
struct Node<'a, 's> {
    schema: &'a Schema,
    /// The Go struct whose fields an object's properties are.
    owner: &'a str,
    path: &'a Path<'a>,
    state: &'s mut State,
    typed: bool,
}

impl<'de> DeserializeSeed<'de> for Node<'_, '_> {
    type Value = Option<Value>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Node<'_, '_> {
    fn fail<T, E: serde::de::Error>(self, error: DecodeError) -> Result<T, E> {
        self.state.error = Some(error);
        Err(E::custom("wrong type"))
    }

    /// A value of another JSON type than the schema says.
    fn mismatch<T, E: serde::de::Error>(self, value: &str) -> Result<T, E> {
        let shape = self.schema.shape();
        let error = match shape.ty {
            Type::IntOrString => DecodeError::Value(format!("json: cannot unmarshal {value} into Go value of type int32")),
            Type::Time | Type::MicroTime => {
                DecodeError::Value(format!("json: cannot unmarshal {value} into Go value of type string"))
            }
            Type::Quantity => DecodeError::Value(Quantity::parse("").err().map_or_else(String::new, |e| e.to_string())),
            _ => {
                let (field, owner) = self.path.go();
                if field.is_empty() {
                    DecodeError::Value(format!("json: cannot unmarshal {value} into Go value of type {}", self.path.root()))
                } else {
                    DecodeError::Type { value: value.to_owned(), field: format!("{owner}.{field}"), ty: go_type(self.schema) }
                }
            }
        };
        self.fail(error)
    }

    fn number<E: serde::de::Error>(self, number: Number) -> Result<Option<Value>, E> {
        let text = || format!("number {number}");
        match self.schema.ty() {
            _ if !self.typed => Ok(Some(Value::Number(number))),
            Type::Any | Type::Number | Type::SchemaOr => Ok(Some(Value::Number(number))),
            Type::Integer => {
                let fits = number.as_i64().is_some_and(|n| self.schema.format != "int32" || i32::try_from(n).is_ok());
                if fits {
                    Ok(Some(Value::Number(number)))
                } else {
                    let text = text();
                    self.mismatch(&text)
                }
            }
            Type::IntOrString => {
                let fits = number.as_i64().is_some_and(|n| i32::try_from(n).is_ok());
                if fits {
                    Ok(Some(Value::Number(number)))
                } else {
                    let text = text();
                    self.mismatch(&text)
                }
            }
            Type::Quantity => self.quantity(&number.to_string()),
            _ => self.mismatch("number"),
        }
    }

    fn quantity<E: serde::de::Error>(self, text: &str) -> Result<Option<Value>, E> {
        match Quantity::parse(text.trim()) {
            Ok(quantity) => Ok(Some(Value::String(quantity.to_string()))),
            Err(error) => self.fail(DecodeError::Value(error.to_string())),
        }
    }

    fn string<E: serde::de::Error>(self, text: String) -> Result<Option<Value>, E> {
        match self.schema.ty() {
            _ if !self.typed => {}
            Type::Any | Type::String | Type::IntOrString | Type::SchemaOr => {}
            Type::Quantity => return self.quantity(&text),
            Type::Bytes => {
                let compact: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
                if let Err(error) = STANDARD.decode(&compact) {
                    let at = match error {
                        base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                        _ => compact.len() - compact.len() % 4,
                    };
                    return self.fail(DecodeError::Value(format!("illegal base64 data at input byte {at}")));
                }
                return Ok(Some(Value::String(compact)));
            }
            Type::Time | Type::MicroTime if text.is_empty() => return Ok(None),
            ty @ (Type::Time | Type::MicroTime) => {
                let format = if ty == Type::Time { time::format } else { time::format_micro };
                let parsed = time::parse(&text).map(format);
                return match parsed {
                    Some(text) => Ok(Some(Value::String(text))),
                    None => {
                        let layout =
                            if ty == Type::Time { "2006-01-02T15:04:05Z07:00" } else { "2006-01-02T15:04:05.000000Z07:00" };
                        self.fail(DecodeError::Value(format!(
                            "parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\""
                        )))
                    }
                };
            }
            _ => return self.mismatch("string"),
        }
        Ok(Some(Value::String(text)))
    }

    fn note(&mut self, problem: Problem) {
        if self.state.problems.len() < MAX_PROBLEMS {
            self.state.problems.push(problem);
        }
    }

    /// The schema of a field that the root or an embedded resource has whatever its own schema says.
    fn implied(&self, name: &str) -> Option<&'static Schema> {
        static STRING: Schema = Schema::new(Type::String);
        let resource = self.schema.embedded_resource || matches!(self.path.step, Step::Root { .. });
        match name {
            _ if !self.state.custom || !resource => None,
            "apiVersion" | "kind" => Some(&STRING),
            "metadata" => definition("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").map(|d| &d.schema),
            _ => None,
        }
    }
}

impl<'de> Visitor<'de> for Node<'_, '_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        let kept = !self.typed
            || self.schema.nullable
            || self.schema.ty() == Type::Any && matches!(self.path.step, Step::Key(_) | Step::Index(_));
        Ok(kept.then_some(Value::Null))
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Self::Value, E> {
        match self.schema.ty() {
            Type::Any | Type::Boolean | Type::SchemaOr => Ok(Some(Value::Bool(value))),
            _ if !self.typed => Ok(Some(Value::Bool(value))),
            _ => self.mismatch("bool"),
        }
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Self::Value, E> {
        self.number(value.into())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Self::Value, E> {
        self.number(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Self::Value, E> {
        match Number::from_f64(value) {
            Some(number) => self.number(number),
            None => self.mismatch("number"),
        }
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        self.string(text.to_owned())
    }

    fn visit_string<E: serde::de::Error>(self, text: String) -> Result<Self::Value, E> {
        self.string(text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let shape = self.schema.shape();
        let items = match shape.ty {
            Type::Array => shape.items.as_deref().unwrap_or(&ANY),
            Type::Any => &ANY,
            Type::SchemaOr => shape,
            _ if !self.typed => &ANY,
            _ => return self.mismatch("array"),
        };
        let mut list = Vec::new();
        loop {
            let path = Path { parent: Some(self.path), step: Step::Index(list.len()) };
            let node = Node {
                schema: items,
                owner: struct_name(items, self.owner),
                path: &path,
                state: &mut *self.state,
                typed: self.typed,
            };
            match access.next_element_seed(node)? {
                // Go decodes a null item as the type's zero.
                Some(item) => list.push(item.unwrap_or_else(|| zero(items))),
                None => return Ok(Some(Value::Array(list))),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<Self::Value, A::Error> {
        let shape = self.schema.shape();
        match shape.ty {
            Type::Object | Type::SchemaOr => self.object(access),
            Type::Map => self.entries(shape.items.as_deref().unwrap_or(&ANY), access),
            Type::Any => self.entries(&ANY, access),
            _ if !self.typed => self.entries(&ANY, access),
            _ => self.mismatch("object"),
        }
    }
}

impl Node<'_, '_> {
    fn object<'de, A: MapAccess<'de>>(mut self, mut access: A) -> Result<Option<Value>, A::Error> {
        let shape = self.schema.shape();
        let properties: &[Property] = &shape.properties;
        let mut seen = 0_u128;
        let mut object = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            let found = properties.binary_search_by(|p| p.name.as_ref().cmp(&name));
            let path = Path { parent: Some(self.path), step: Step::Field { name: &name, owner: self.owner } };
            let (schema, property) = match found {
                Ok(at) => {
                    let bit = 1_u128.checked_shl(u32::try_from(at).unwrap_or(u32::MAX)).unwrap_or(0);
                    if seen & bit != 0 {
                        self.note(Problem::Duplicate(path.strict()));
                    }
                    seen |= bit;
                    (&properties[at].schema, Some(&properties[at]))
                }
                Err(_) => match (self.implied(&name), &shape.items) {
                    (Some(schema), _) => (schema, None),
                    // A custom object may have both properties and a rule for the rest.
                    (None, Some(rest)) => (&**rest, None),
                    (None, None) if self.schema.preserve_unknown_fields || shape.preserve_unknown_fields => (&ANY, None),
                    (None, None) => {
                        if object.contains_key(&name) {
                            self.note(Problem::Duplicate(path.strict()));
                        }
                        self.note(Problem::Unknown(path.strict()));
                        access.next_value::<serde::de::IgnoredAny>()?;
                        continue;
                    }
                },
            };
            let implied = property.is_none() && name == "metadata" && self.implied(&name).is_some();
            let typed = self.typed || implied;
            let node = Node {
                schema,
                owner: struct_name(schema, if implied { "ObjectMeta" } else { self.owner }),
                path: &path,
                state: &mut *self.state,
                typed,
            };
            let Some(value) = access.next_value_seed(node)? else {
                object.remove(&name);
                continue;
            };
            if typed && property.is_some_and(|p| omitted(p, &value)) {
                object.remove(&name);
            } else {
                object.insert(name, value);
            }
        }
        Ok(Some(Value::Object(object)))
    }

    fn entries<'de, A: MapAccess<'de>>(mut self, items: &Schema, mut access: A) -> Result<Option<Value>, A::Error> {
        let mut object = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            let path = Path { parent: Some(self.path), step: Step::Key(&name) };
            let node = Node {
                schema: items,
                owner: struct_name(items, self.owner),
                path: &path,
                state: &mut *self.state,
                typed: self.typed,
            };
            let value = access.next_value_seed(node)?.unwrap_or_else(|| zero(items));
            if object.contains_key(&name) {
                self.note(Problem::Duplicate(path.strict()));
            }
            object.insert(name, value);
        }
        Ok(Some(Value::Object(object)))
    }
}

/// Whether Go's `omitempty` would leave the field out.
pub(crate) fn omitted(property: &Property, value: &Value) -> bool {
    if property.required {
        return false;
    }
    let ty = property.schema.ty();
    let zero = match (ty, value) {
        (Type::Any, _) => return false,
        (_, Value::Null) => return true,
        (Type::Array, Value::Array(list)) => return list.is_empty(),
        (Type::Map, Value::Object(map)) => return map.is_empty(),
        (Type::Boolean, Value::Bool(b)) => !b,
        (Type::Integer | Type::Number, Value::Number(n)) => n.as_f64() == Some(0.0),
        (Type::String | Type::Bytes, Value::String(s)) => s.is_empty(),
        _ => false,
    };
    zero && !property.optional_zero
}

/// The zero Go has for a type.
fn zero(schema: &Schema) -> Value {
    match schema.ty() {
        Type::String | Type::Bytes => Value::String(String::new()),
        Type::Integer | Type::Number | Type::IntOrString => Value::from(0),
        Type::Quantity => Value::from("0"),
        Type::Boolean => Value::Bool(false),
        Type::Object => Value::Object(Map::new()),
        _ => Value::Null,
    }
}

fn struct_name<'a>(schema: &'a Schema, outer: &'a str) -> &'a str {
    let of = |d: &'static Definition| d.type_name();
    schema.target.map_or(outer, of)
}

/// The Go type of a field, as far as the schema tells.
fn go_type(schema: &Schema) -> String {
    if let Some(definition) = schema.target {
        return definition.go_name().to_owned();
    }
    let items = || schema.items.as_deref().map_or_else(|| "interface {}".to_owned(), go_type);
    match schema.ty {
        Type::Array => format!("[]{}", items()),
        Type::Map => format!("map[string]{}", items()),
        Type::Bytes => "[]uint8".to_owned(),
        Type::Boolean => "bool".to_owned(),
        Type::Integer if schema.format == "int32" => "int32".to_owned(),
        Type::Integer => "int64".to_owned(),
        Type::Number => "float64".to_owned(),
        Type::String => "string".to_owned(),
        _ => "interface {}".to_owned(),
    }
}

#[cfg(test)]
mod tests;
