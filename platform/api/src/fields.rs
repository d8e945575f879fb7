//! Decoding of objects by schema: unknown, duplicate and wrongly typed fields, with upstream's messages.

use std::fmt;

use serde_json::Value;

use crate::registry::{Kind, KindSchema};
use crate::schema::Definition;

mod decode;
pub(crate) use decode::omitted;

/// What `fieldValidation` asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Problems fail the request.
    Strict,
    /// Problems become warnings.
    #[default]
    Warn,
    /// Problems are dropped.
    Ignore,
}

/// An object after decoding: known fields only, and what was wrong with the rest.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The object, without unknown fields and nulls.
    pub value: Value,
    /// Unknown and duplicate fields, in order of appearance.
    pub problems: Vec<Problem>,
}

/// A field that strict decoding refuses and lenient decoding drops.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The schema has no such field.
    #[error("unknown field {0:?}")]
    Unknown(String),
    /// The field appears twice in one object; the last one counts.
    #[error("duplicate field {0:?}")]
    Duplicate(String),
    /// Keys of a YAML document that appear twice in one map, wherever they are; the last one counts.
    #[error("yaml: unmarshal errors:{}", already_set(.0))]
    Yaml(Vec<String>),
}

/// As upstream's YAML library says it, but for the lines.
fn already_set(keys: &[String]) -> String {
    keys.iter().map(|key| format!("\n  key {key:?} already set in map")).collect()
}

/// A body that cannot be decoded in any mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON.
    #[error("{0}")]
    Syntax(String),
    /// A field has another type than its schema says.
    #[error("json: cannot unmarshal {value} into Go struct field {field} of type {ty}")]
    Type {
        /// The JSON type found: `string`, `number`, `object`, `array`, `bool`, `number 1.5`.
        value: String,
        /// The Go struct and the path: `DeploymentSpec.spec.replicas`.
        field: String,
        /// The Go type wanted.
        ty: String,
    },
    /// A value its type's own parser refuses: times, quantities, base64.
    #[error("{0}")]
    Value(String),
}

/// `strict decoding error: unknown field "spec.foo", duplicate field "spec.bar"`.
pub fn strict_error(problems: &[Problem]) -> String {
    let list: Vec<String> = problems.iter().map(ToString::to_string).collect();
    format!("strict decoding error: {}", list.join(", "))
}

impl Mode {
    /// Parses the query parameter; empty means [`Mode::Warn`].
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Warn" => Some(Self::Warn),
            "Strict" => Some(Self::Strict),
            "Ignore" => Some(Self::Ignore),
            _ => None,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Strict => "Strict",
            Self::Warn => "Warn",
            Self::Ignore => "Ignore",
        })
    }
}

/// Decodes a JSON body of the given kind.
///
/// # Errors
/// Malformed JSON and wrong types; unknown and duplicate fields are reported in the result.
pub fn decode(kind: &Kind, body: &[u8]) -> Result<Decoded, DecodeError> {
    with_root(kind, |root| decode::from_slice(root, body))
}

/// The same for a document already parsed (YAML, the result of a patch).
///
/// # Errors
/// As [`decode`].
pub fn check(kind: &Kind, value: Value) -> Result<Decoded, DecodeError> {
    with_root(kind, |root| decode::from_value(root, value))
}

/// Decodes a body of a built-in type that is no resource: `DeleteOptions`, `Scale`, `Eviction`.
///
/// # Errors
/// As [`decode`].
pub fn decode_as(definition: &'static Definition, body: &[u8]) -> Result<Decoded, DecodeError> {
    decode::from_slice(root(definition), body)
}

/// The same for a document already parsed.
///
/// # Errors
/// As [`decode`].
pub fn check_as(definition: &'static Definition, value: Value) -> Result<Decoded, DecodeError> {
    decode::from_value(root(definition), value)
}

/// Drops unknown fields, and nulls and zeros that Go would not write. An object of wrong types is left as it is.
pub fn prune(kind: &Kind, object: &mut Value) {
    if let Ok(decoded) = check(kind, object.clone()) {
        *object = decoded.value;
    }
}

fn root(definition: &'static Definition) -> decode::Root<'static> {
    let (go_name, type_name) = (definition.go_name(), definition.type_name());
    decode::Root { schema: &definition.schema, go_name, type_name, custom: false }
}

fn with_root<T>(kind: &Kind, run: impl FnOnce(decode::Root<'_>) -> T) -> T {
    match &kind.schema {
        KindSchema::Builtin(definition) => run(root(definition)),
        KindSchema::Custom(schema) => run(decode::Root { schema, go_name: &kind.kind, type_name: &kind.kind, custom: true }),
    }
}
