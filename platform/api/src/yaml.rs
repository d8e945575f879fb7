//! YAML bodies, read as the JSON documents they stand for.

use std::fmt;

use serde::de::{DeserializeSeed, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_norway::Value as Yaml;

/// Text that is not YAML, or says something JSON cannot.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Malformed, an infinite number, a key that is a list or a map.
    #[error("error converting YAML to JSON: yaml: {0}")]
    Syntax(#[from] serde_norway::Error),
}

/// What was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The document. Of a key that is set more than once, the last value counts.
    pub value: Value,
    /// The keys that are set more than once in one map, in order of appearance. Strict decoding refuses them.
    pub duplicates: Vec<String>,
}

/// Reads one document. Keys become strings, tags are dropped; JSON is YAML too.
///
/// # Errors
/// Malformed YAML, more than one document.
pub fn decode(text: &[u8]) -> Result<Document, Error> {
    let mut duplicates = Vec::new();
    let value = Node(&mut duplicates).deserialize(serde_norway::Deserializer::from_slice(text))?;
    Ok(Document { value, duplicates })
}

/// Writes a document.
///
/// # Errors
/// None for JSON values; the signature is the serializer's.
pub fn encode(value: &Value) -> Result<String, Error> {
    Ok(serde_norway::to_string(value)?)
}

/// A value to be read. The library's own values refuse keys that are set twice, so they are read past it.
struct Node<'a>(&'a mut Vec<String>);

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Self::Value, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom(format_args!("unsupported number {value}")))?;
        Ok(Value::Number(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
        Ok(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = access.next_element_seed(Node(&mut *self.0))? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut object = Map::new();
        while let Some(found) = access.next_key::<Yaml>()? {
            let name = key(found).ok_or_else(|| <A::Error as serde::de::Error>::custom("unsupported map key"))?;
            let value = access.next_value_seed(Node(&mut *self.0))?;
            if object.contains_key(&name) {
                self.0.push(name.clone());
            }
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<Self::Value, A::Error> {
        let (_tag, contents) = access.variant::<String>()?;
        contents.newtype_variant_seed(self)
    }
}

fn key(yaml: Yaml) -> Option<String> {
    match yaml {
        Yaml::String(s) => Some(s),
        Yaml::Bool(b) => Some(b.to_string()),
        Yaml::Number(n) => Some(n.to_string()),
        Yaml::Null => Some("null".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents() {
        let read = |text: &[u8]| decode(text).map(|document| document.value);
        let value = read(b"a: 1\nb: [x, 'true', true, ~, !t y]\n1: {c: 1.5, d: -2}\n").unwrap();
        assert_eq!(value, json!({"a": 1, "b": ["x", "true", true, null, "y"], "1": {"c": 1.5, "d": -2}}));
        assert_eq!(read(encode(&value).unwrap().as_bytes()).unwrap(), value);
        assert_eq!(read(br#"{"a": ["b"]}"#).unwrap(), json!({"a": ["b"]}));
        for wrong in [&b"a: ["[..], b"a: .inf", b"[a]: b", b"a: 1\n---\nb: 2"] {
            let text = decode(wrong).unwrap_err().to_string();
            assert_eq!(text.matches("error converting YAML to JSON: yaml: ").count(), 1, "{text}");
        }
    }

    #[test]
    fn keys_that_are_set_twice() {
        let document = decode(b"a: 1\na: 2\nb:\n- {c: 1, c: 2, d: 3}\na: 3\n").unwrap();
        assert_eq!(document.value, json!({"a": 3, "b": [{"c": 2, "d": 3}]}));
        assert_eq!(document.duplicates, ["a", "c", "a"]);
    }
}
