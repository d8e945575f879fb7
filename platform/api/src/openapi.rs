//! OpenAPI documents made from the schema tables and a set of kinds, at the moment they are asked for.
//!
//! Version 3 has one document a group and version and one for each thing beside them, and an index with a hash of each; version 2
//! is one for all, other servers included. A hash covers what a document is made from, so the index and a conditional request
//! cost nothing.

use std::{fmt::Write as _, sync::Arc};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha512};

use crate::registry::{Kind, Registry};

mod custom;
mod merge;
mod paths;
mod protobuf;
mod schemas;

pub use merge::below;
use paths::Page;
use schemas::Schemas;

/// The Kubernetes version the documents describe.
pub const VERSION: &str = "v1.37.0";

/// A document and its hash.
#[derive(Clone, Debug)]
pub struct Document {
    /// The JSON or protobuf.
    pub body: Vec<u8>,
    /// The entity tag: the hash in quotes.
    pub etag: String,
}

/// Which of the two formats is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    V2,
    V3,
}

/// `GET /openapi/v2`, as JSON. `others` are the documents of other servers, as [`below`] leaves them.
pub fn v2(registry: &Registry, others: &[Arc<Value>]) -> Document {
    let body = v2_value(registry, others).to_string().into_bytes();
    let etag = v2_etag(registry, others, &body);
    Document { body, etag }
}

/// `GET /openapi/v2`, as gnostic's protobuf.
pub fn v2_protobuf(registry: &Registry, others: &[Arc<Value>]) -> Document {
    let body = protobuf::document(&v2_value(registry, others));
    let etag = v2_etag(registry, others, &body);
    Document { body, etag }
}

fn v2_value(registry: &Registry, others: &[Arc<Value>]) -> Value {
    let kinds: Vec<&Kind> = registry.kinds().map(|k| &**k).collect();
    let mut schemas = Schemas::new(Format::V2);
    let mut paths = paths::all(Format::V2, &kinds, &mut schemas);
    paths::pages(&kinds).iter().for_each(|page| page.write(Format::V2, &mut paths, &mut schemas));
    let mut document = json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": VERSION},
        "paths": paths,
        "definitions": schemas.finish(),
        "securityDefinitions": {"BearerToken": {
            "description": "Bearer Token authentication", "type": "apiKey", "name": "authorization", "in": "header",
        }},
        "security": [{"BearerToken": []}],
    });
    others.iter().for_each(|other| merge::add(&mut document, other));
    document
}

fn v2_etag(registry: &Registry, others: &[Arc<Value>], body: &[u8]) -> String {
    if others.is_empty() {
        return quoted(&hash(&registry.kinds().map(|k| &**k).collect::<Vec<_>>()));
    }
    quoted(&hex(&Sha512::digest(body)))
}

/// `GET /openapi/v3`.
pub fn v3_index(registry: &Registry) -> Document {
    let mut paths = Map::new();
    let mut add = |path: &str, hash: String| {
        paths.insert(path.to_owned(), json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")}));
    };
    for (group, version) in versions(registry) {
        add(&path(&group, &version), hash(&of(registry, &group, &version)));
    }
    for page in pages(registry) {
        add(page.key(), page_hash(&page));
    }
    let body = json!({"paths": paths}).to_string().into_bytes();
    let etag = quoted(&hex(&Sha512::digest(&body)));
    Document { body, etag }
}

/// `GET /openapi/v3/{path}` with a path of the index, such as `api/v1`, `apis/apps/v1`, `apis/apps` or `version`, as JSON.
pub fn v3(registry: &Registry, path: &str) -> Option<Document> {
    let (value, etag) = v3_value(registry, path)?;
    Some(Document { body: value.to_string().into_bytes(), etag })
}

/// The same as gnostic's protobuf.
pub fn v3_protobuf(registry: &Registry, path: &str) -> Option<Document> {
    let (value, etag) = v3_value(registry, path)?;
    Some(Document { body: protobuf::v3_document(&value), etag })
}

/// A document of version 3 and its entity tag.
fn v3_value(registry: &Registry, path: &str) -> Option<(Value, String)> {
    let mut schemas = Schemas::new(Format::V3);
    let kinds = match path.split('/').collect::<Vec<_>>().as_slice() {
        ["api", version] => of(registry, "", version),
        ["apis", group, version] if !group.is_empty() => of(registry, group, version),
        _ => Vec::new(),
    };
    let (paths, hash) = if kinds.is_empty() {
        let page = pages(registry).into_iter().find(|page| page.key() == path)?;
        let mut paths = Map::new();
        page.write(Format::V3, &mut paths, &mut schemas);
        (paths, page_hash(&page))
    } else {
        (paths::all(Format::V3, &kinds, &mut schemas), hash(&kinds))
    };
    let document = json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": VERSION},
        "paths": paths,
        "components": {
            "schemas": schemas.finish(),
            "securitySchemes": {"BearerToken": {
                "type": "apiKey", "description": "Bearer Token authentication", "name": "authorization", "in": "header",
            }},
        },
    });
    Some((document, quoted(&hash)))
}

fn pages(registry: &Registry) -> Vec<Page> {
    paths::pages(&registry.kinds().map(|k| &**k).collect::<Vec<_>>())
}

fn of<'a>(registry: &'a Registry, group: &str, version: &str) -> Vec<&'a Kind> {
    registry.kinds().map(|k| &**k).filter(|k| k.group == group && k.version == version).collect()
}

fn versions(registry: &Registry) -> Vec<(String, String)> {
    let mut found: Vec<_> = registry.kinds().map(|k| (k.group.to_string(), k.version.to_string())).collect();
    found.dedup();
    found
}

fn path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// Upper-case SHA-512 over what a page is made from.
fn page_hash(page: &Page) -> String {
    let mut hasher = Sha512::new();
    hasher.update(VERSION);
    hasher.update(env!("CARGO_PKG_VERSION"));
    hasher.update(crate::schema::tables_hash());
    hasher.update(page.key());
    hex(&hasher.finalize())
}

/// Upper-case SHA-512 over what the kinds' part of a document is made from.
fn hash(kinds: &[&Kind]) -> String {
    let mut hasher = Sha512::new();
    hasher.update(VERSION);
    hasher.update(env!("CARGO_PKG_VERSION"));
    hasher.update(crate::schema::tables_hash());
    for kind in kinds {
        hasher.update(format!("{}/{}/{}/{}/{:?}", kind.group, kind.version, kind.kind, kind.plural, kind.verbs));
        for sub in &kind.subresources {
            hasher.update(format!("{}/{:?}", sub.name, sub.verbs));
        }
        if kind.custom {
            match kind.schema().owned_extra().and_then(|extra| extra.keywords.as_ref()) {
                Some(source) => hasher.update(source.to_string()),
                None => hasher.update(format!("{:?}", kind.schema())),
            }
        }
    }
    hex(&hasher.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02X}");
        text
    })
}

fn quoted(hash: &str) -> String {
    format!("\"{hash}\"")
}

fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

#[cfg(test)]
mod tests;
