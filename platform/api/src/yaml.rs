//! YAML bodies, read as the JSON documents they stand for.

use serde_json::{Map, Number, Value};
use serde_norway::Value as Yaml;

/// Text that is not YAML, or says something JSON cannot.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Malformed.
    #[error("error converting YAML to JSON: yaml: {0}")]
    Syntax(#[from] serde_norway::Error),
    /// An infinite number, or not a number.
    #[error("error converting YAML to JSON: yaml: unsupported number {0}")]
    Number(String),
    /// A key that is a list or a map.
    #[error("error converting YAML to JSON: yaml: unsupported map key")]
    Key,
}

/// Reads one document. Keys become strings, tags are dropped; JSON is YAML too.
///
/// # Errors
/// Malformed YAML, duplicate keys, more than one document.
pub fn decode(text: &[u8]) -> Result<Value, Error> {
    convert(serde_norway::from_slice(text)?)
}

/// Writes a document.
///
/// # Errors
/// None for JSON values; the signature is the serializer's.
pub fn encode(value: &Value) -> Result<String, Error> {
    Ok(serde_norway::to_string(value)?)
}

fn convert(yaml: Yaml) -> Result<Value, Error> {
    Ok(match yaml {
        Yaml::Null => Value::Null,
        Yaml::Bool(b) => Value::Bool(b),
        Yaml::Number(n) => number(&n)?,
        Yaml::String(s) => Value::String(s),
        Yaml::Sequence(items) => Value::Array(items.into_iter().map(convert).collect::<Result<_, _>>()?),
        Yaml::Mapping(map) => {
            let mut out = Map::new();
            for (key, value) in map {
                out.insert(self::key(key)?, convert(value)?);
            }
            Value::Object(out)
        }
        Yaml::Tagged(tagged) => convert(tagged.value)?,
    })
}

fn number(n: &serde_norway::Number) -> Result<Value, Error> {
    let number = match (n.as_i64(), n.as_u64(), n.as_f64()) {
        (Some(i), _, _) => Some(Number::from(i)),
        (_, Some(u), _) => Some(Number::from(u)),
        (_, _, Some(f)) => Number::from_f64(f),
        _ => None,
    };
    number.map(Value::Number).ok_or_else(|| Error::Number(n.to_string()))
}

fn key(yaml: Yaml) -> Result<String, Error> {
    match yaml {
        Yaml::String(s) => Ok(s),
        Yaml::Bool(b) => Ok(b.to_string()),
        Yaml::Number(n) => Ok(n.to_string()),
        Yaml::Null => Ok("null".to_owned()),
        _ => Err(Error::Key),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents() {
        let value = decode(b"a: 1\nb: [x, 'true', true, ~]\n1: {c: 1.5}\n").unwrap();
        assert_eq!(value, json!({"a": 1, "b": ["x", "true", true, null], "1": {"c": 1.5}}));
        assert_eq!(decode(encode(&value).unwrap().as_bytes()).unwrap(), value);
        assert_eq!(decode(br#"{"a": ["b"]}"#).unwrap(), json!({"a": ["b"]}));
        assert!(decode(b"a: [").is_err() && decode(b"a: 1\na: 2").is_err() && decode(b"a: .inf").is_err());
    }
}
