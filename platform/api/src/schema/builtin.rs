//! The built-in definitions, as constant tables: nothing is decoded at start, and descriptions stay compressed until asked for.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::{ExtraRef, ListType, Node, Property, Schema, StaticExtra, Str, Type};

/// A named OpenAPI definition.
#[derive(Debug)]
pub struct Definition {
    /// The full name, such as `io.k8s.api.core.v1.Pod`.
    pub name: &'static str,
    /// The group, version and kind it is the schema of; usually one, or none.
    pub gvks: &'static [(&'static str, &'static str, &'static str)],
    /// The schema.
    pub schema: Schema,
    /// The place of its description; its properties' descriptions follow in their order.
    pub(crate) doc: usize,
    /// `x-kubernetes-unions` as JSON, or empty.
    pub(crate) unions: &'static str,
}

#[allow(clippy::all, reason = "generated")]
mod generated {
    use super::*;
    include!(concat!(env!("OUT_DIR"), "/definitions.rs"));
    pub(super) fn all() -> &'static [&'static Definition] {
        &DEFINITIONS
    }
}

static DESCRIPTIONS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.zst"));

/// Every description, in the order of the tables. Takes over a megabyte: build it, use it, drop it.
pub struct Descriptions(Vec<Box<str>>);

impl Definition {
    /// `v1.Pod`: the Go name, as decoding errors have it.
    pub fn go_name(&self) -> &'static str {
        self.name.rmatch_indices('.').nth(1).map_or(self.name, |(at, _)| &self.name[at + 1..])
    }

    /// `Pod`: the bare type name.
    pub fn type_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }
}

impl Descriptions {
    /// Decompresses them.
    pub fn load() -> Self {
        let bytes = zstd::decode_all(DESCRIPTIONS).expect("compressed by build.rs");
        let text = String::from_utf8(bytes).expect("taken from strings by build.rs");
        Self(text.split('\0').map(Into::into).collect())
    }

    /// The description of a definition.
    pub fn definition(&self, definition: &Definition) -> &str {
        self.0.get(definition.doc).map_or("", |s| s)
    }

    /// The description of a definition's property, by its position.
    pub fn property(&self, definition: &Definition, position: usize) -> &str {
        self.0.get(definition.doc + 1 + position).map_or("", |s| s)
    }
}

/// A hash over the inputs of the tables.
pub(crate) fn tables_hash() -> &'static str {
    env!("PHAROS_TABLES_HASH")
}

/// Every built-in definition, by name.
pub fn definitions() -> &'static [&'static Definition] {
    generated::all()
}

/// The definition of that full name.
pub fn definition(name: &str) -> Option<&'static Definition> {
    let all = definitions();
    all.binary_search_by(|d| d.name.cmp(name)).ok().map(|at| all[at])
}

/// The definition of a kind.
pub fn definition_for(group: &str, version: &str, kind: &str) -> Option<&'static Definition> {
    type Key = (&'static str, &'static str, &'static str);
    static BY_KIND: LazyLock<HashMap<Key, &'static Definition>> = LazyLock::new(|| {
        let kinds = definitions().iter().flat_map(|d| d.gvks.iter().map(move |gvk| (*gvk, *d)));
        kinds.collect()
    });
    BY_KIND.get(&(group, version, kind)).copied()
}

/// The description of a definition, or of one of its properties.
pub fn description(definition: &Definition, property: Option<&str>) -> String {
    let all = Descriptions::load();
    match property {
        None => all.definition(definition).to_owned(),
        Some(name) => {
            let position = definition.schema.properties.iter().position(|p| p.name == name);
            position.map_or_else(String::new, |at| all.property(definition, at).to_owned())
        }
    }
}
