//! `application/vnd.kubernetes.protobuf`: a transcoder between Kubernetes' protobuf messages and JSON, driven by the schema table.
//!
//! The wire form is `k8s\0` and a `runtime.Unknown` envelope around the message. JSON comes out as Go would write it: zero
//! scalars are left out unless their field is always written or tells zero from absent.

use serde_json::Value;

use crate::schema::{Definition, definition, definition_for};

mod read;
pub(crate) mod wire;
mod write;

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
pub fn decode(body: &[u8], default: Option<(&str, &str)>) -> Result<Message, Error> {
    let envelope = body.strip_prefix(&MAGIC).ok_or(Error::Prefix)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    wire::each(envelope, |number, field| {
        match number {
            1 => wire::each(field.bytes()?, |number, field| {
                match number {
                    1 => api_version = field.text()?.to_owned(),
                    2 => kind = field.text()?.to_owned(),
                    _ => {}
                }
                Ok(())
            })?,
            2 => raw = field.bytes()?,
            _ => {}
        }
        Ok(())
    })?;
    if let Some((default_version, default_kind)) = default {
        if api_version.is_empty() {
            default_version.clone_into(&mut api_version);
        }
        if kind.is_empty() {
            default_kind.clone_into(&mut kind);
        }
    }
    let definition = find(&api_version, &kind)?;
    let mut object = read::message(&definition.schema, raw, 0)?;
    if let Value::Object(map) = &mut object {
        map.insert("apiVersion".to_owned(), api_version.as_str().into());
        map.insert("kind".to_owned(), kind.as_str().into());
    }
    Ok(Message { api_version, kind, value: object })
}

/// Encodes an object (or a list of a built-in kind) with its envelope; `apiVersion` and `kind` are read from it.
///
/// # Errors
/// [`Error::UnknownKind`] for custom kinds and `Table`.
pub fn encode(value: &Value) -> Result<Vec<u8>, Error> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let mut message = Vec::new();
    match (api_version, kind) {
        ("meta.k8s.io/v1" | "meta.k8s.io/v1beta1", "PartialObjectMetadata") => partial(&mut message, value)?,
        ("meta.k8s.io/v1" | "meta.k8s.io/v1beta1", "PartialObjectMetadataList") => {
            put_message(&mut message, LIST_METADATA, LIST_META, &value["metadata"])?;
            for item in value["items"].as_array().into_iter().flatten() {
                let mut one = Vec::new();
                partial(&mut one, item)?;
                wire::put_bytes(&mut message, LIST_ITEM, &one);
            }
        }
        _ => write::message(&mut message, &find(api_version, kind)?.schema, value)?,
    }
    Ok(envelope(api_version, kind, &message))
}

/// A list of enveloped objects, each as [`encode`] made it; `metadata` is a `ListMeta`.
///
/// # Errors
/// What was not made by [`encode`], and metadata of the wrong form.
pub fn encode_list<'a>(
    api_version: &str,
    kind: &str,
    metadata: &Value,
    items: impl Iterator<Item = &'a [u8]> + Clone,
) -> Result<Vec<u8>, Error> {
    let size = items.clone().map(|item| item.len() + 8).sum::<usize>() + 128;
    let mut message = Vec::with_capacity(size);
    put_message(&mut message, LIST_METADATA, LIST_META, metadata)?;
    for item in items {
        wire::put_bytes(&mut message, LIST_ITEM, within(item)?);
    }
    Ok(envelope(api_version, kind, &message))
}

/// One watch frame: four bytes of length (big-endian), then a `WatchEvent` around the enveloped object.
///
/// # Errors
/// An object larger than a length can say.
pub fn watch_frame(event_type: &str, enveloped: &[u8]) -> Result<Vec<u8>, Error> {
    let mut extension = Vec::with_capacity(enveloped.len() + 8);
    wire::put_bytes(&mut extension, 1, enveloped);
    let mut event = Vec::with_capacity(extension.len() + 24);
    wire::put_bytes(&mut event, 1, event_type.as_bytes());
    wire::put_bytes(&mut event, 2, &extension);
    let length = u32::try_from(event.len()).map_err(|_| Error::Malformed("event too large"))?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.append(&mut event);
    Ok(frame)
}

/// The numbers every list has for its metadata and its items.
const LIST_METADATA: u32 = 1;
const LIST_ITEM: u32 = 2;
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

fn partial(out: &mut Vec<u8>, value: &Value) -> Result<(), Error> {
    put_message(out, 1, OBJECT_META, &value["metadata"])
}

fn put_message(out: &mut Vec<u8>, number: u32, name: &'static str, value: &Value) -> Result<(), Error> {
    let definition = definition(name).ok_or(Error::Malformed("no such definition"))?;
    let mut message = Vec::new();
    write::message(&mut message, &definition.schema, value)?;
    wire::put_bytes(out, number, &message);
    Ok(())
}

/// `runtime.Unknown` around a message, with the magic in front.
pub(crate) fn envelope(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let mut type_meta = Vec::new();
    wire::put_bytes(&mut type_meta, 1, api_version.as_bytes());
    wire::put_bytes(&mut type_meta, 2, kind.as_bytes());
    let mut body = Vec::with_capacity(message.len() + type_meta.len() + 24);
    body.extend_from_slice(&MAGIC);
    wire::put_bytes(&mut body, 1, &type_meta);
    wire::put_bytes(&mut body, 2, message);
    wire::put_bytes(&mut body, 3, b"");
    wire::put_bytes(&mut body, 4, b"");
    body
}

/// The message inside an envelope.
fn within(enveloped: &[u8]) -> Result<&[u8], Error> {
    let mut message = &[][..];
    wire::each(enveloped.strip_prefix(&MAGIC).ok_or(Error::Prefix)?, |number, field| {
        if number == 2 {
            message = field.bytes()?;
        }
        Ok(())
    })?;
    Ok(message)
}

/// Whether the kind has a protobuf form.
pub fn supports(api_version: &str, kind: &str) -> bool {
    find(api_version, kind).is_ok()
}

fn find(api_version: &str, kind: &str) -> Result<&'static Definition, Error> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    definition_for(group, version, kind)
        .ok_or_else(|| Error::UnknownKind { api_version: api_version.to_owned(), kind: kind.to_owned() })
}

#[cfg(test)]
mod tests;
