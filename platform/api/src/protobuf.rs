//! `application/vnd.kubernetes.protobuf`: a transcoder between Kubernetes' protobuf messages and JSON, driven by the schema table.

use serde_json::Value;

/// A decoded message.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The envelope's `apiVersion`, or the caller's where the envelope is blank.
    pub api_version: String,
    /// The envelope's `kind`, likewise.
    pub kind: String,
    /// The object as JSON, `apiVersion` and `kind` included.
    pub value: Value,
}

/// A body that is not valid protobuf of a known kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No `k8s\0` in front.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Prefix,
    /// Cut short, or a field of the wrong wire type.
    #[error("malformed protobuf: {0}")]
    Malformed(&'static str),
    /// A kind without a protobuf form.
    #[error("no kind {kind:?} is registered for version {api_version:?} with a protobuf form")]
    UnknownKind {
        /// The `apiVersion`.
        api_version: String,
        /// The `kind`.
        kind: String,
    },
}

/// The bytes every message begins with.
pub const MAGIC: [u8; 4] = *b"k8s\0";

/// Decodes an enveloped message. `default` is the `(apiVersion, kind)` to take where the envelope names none.
///
/// # Errors
/// Anything that is not a well-formed message of a built-in kind.
pub fn decode(body: &[u8], default: Option<(&str, &str)>) -> Result<Message, Error>;

/// Encodes an object (or a list of a built-in kind) with its envelope; `apiVersion` and `kind` are read from it.
///
/// # Errors
/// [`Error::UnknownKind`] for custom kinds and views such as `Table`.
pub fn encode(value: &Value) -> Result<Vec<u8>, Error>;

/// One watch frame: a length-delimited `WatchEvent` around an encoded object.
///
/// # Errors
/// As [`encode`].
pub fn watch_frame(event_type: &str, object: &Value) -> Result<Vec<u8>, Error>;

/// Whether the kind has a protobuf form.
pub fn supports(api_version: &str, kind: &str) -> bool;
