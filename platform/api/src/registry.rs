//! The registry of kinds: one row says all that the API server must know of a kind.
//!
//! Built-in kinds come from [`builtin`]; a custom or aggregated kind is a [`Kind`] built at run time and added to a [`Registry`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use serde_json::Value;

use crate::schema::{Definition, Schema, Str};

mod columns;
mod table;

/// The verbs a resource can have, as a set of bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verbs(u16);

/// Everything about one kind in one version.
#[derive(Clone, Debug)]
pub struct Kind {
    /// The API group; empty for the core group.
    pub group: Str,
    /// The version.
    pub version: Str,
    /// The kind's name.
    pub kind: Str,
    /// The resource name, lower-case plural.
    pub plural: Str,
    /// The lower-case singular, as in discovery.
    pub singular: Str,
    /// Short names for the command line.
    pub short_names: Vec<Str>,
    /// Categories such as `all`.
    pub categories: Vec<Str>,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// What can be done with it.
    pub verbs: Verbs,
    /// What hangs below an object.
    pub subresources: Vec<Subresource>,
    /// Where objects are stored. Versions of one resource share it.
    pub storage: Storage,
    /// What an object looks like.
    pub schema: KindSchema,
    /// Field selectors beyond `metadata.name` and `metadata.namespace`.
    pub fields: Vec<SelectableField>,
    /// Columns of the table view.
    pub columns: Vec<Column>,
    /// How writes are treated.
    pub strategy: Strategy,
    /// Whether the kind comes from a custom resource definition.
    pub custom: bool,
}

/// Where a resource's objects are stored, and in which version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Storage {
    /// The group part of the key; `core` for the core group.
    pub group: Str,
    /// The resource part of the key.
    pub resource: Str,
    /// The group of the stored objects' `apiVersion`; empty for core.
    pub api_group: Str,
    /// The version objects are stored in.
    pub version: Str,
}

/// Where a kind's schema lives.
#[derive(Clone, Debug)]
pub enum KindSchema {
    /// A built-in definition.
    Builtin(&'static Definition),
    /// Built from a custom resource definition.
    Custom(Arc<Schema>),
}

/// A subresource as discovery lists it.
#[derive(Clone, Debug)]
pub struct Subresource {
    /// Its name: `status`, `scale`, `log`.
    pub name: Str,
    /// The group of the kind it speaks; `None` for the parent's group and version.
    pub group_version: Option<(Str, Str)>,
    /// The kind it speaks.
    pub kind: Str,
    /// What can be done with it.
    pub verbs: Verbs,
}

/// A field that a list or watch can be selected by.
#[derive(Clone, Debug)]
pub struct SelectableField {
    /// The name in a selector, such as `spec.nodeName`.
    pub label: Str,
    /// Where the value is: alternatives, of which the first non-empty counts.
    pub paths: Vec<Vec<Str>>,
    /// What an absent value counts as.
    pub absent: Str,
}

/// A column of the table view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The heading.
    pub name: Str,
    /// `string`, `integer`, `boolean`, `date`, `number`.
    pub ty: Str,
    /// `name` for the first column of most kinds; otherwise mostly empty.
    pub format: Str,
    /// The help text.
    pub description: Str,
    /// 0 for the normal view, above for the wide one.
    pub priority: i32,
    /// Where a custom resource finds its value (a JSON path); empty for built-in kinds.
    pub json_path: Str,
}

/// How writes of a kind are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strategy {
    /// Has a `status` that only the status subresource writes.
    pub status: bool,
    /// `metadata.generation` starts at 1 and rises when anything but metadata and status changes.
    pub generation: bool,
    /// Deletion waits for a grace period (pods).
    pub graceful_deletion: bool,
    /// A PUT of an absent object creates it.
    pub create_on_update: bool,
    /// A PUT without resourceVersion overwrites.
    pub unconditional_update: bool,
    /// What becomes of dependents when a delete says nothing.
    pub orphan_dependents: bool,
    /// What a name must look like.
    pub name: NameRule,
    /// Objects pass through: nothing is stored (reviews, bindings).
    pub virtual_only: bool,
    /// What is stored may lack defaults that its definition got later: they are filled in when it is read.
    pub defaults_on_read: bool,
}

/// The rule an object's name follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// An RFC 1123 subdomain, up to 253 characters.
    Subdomain,
    /// An RFC 1123 label, up to 63 characters.
    Label,
    /// An RFC 1035 label, up to 63 characters.
    Label1035,
    /// Anything that fits into a path segment (RBAC).
    PathSegment,
    /// A canonical IP address.
    IpAddress,
    /// No rule: the name is not the client's to choose or is checked elsewhere.
    Any,
}

/// A set of kinds that can be looked up by resource or by kind.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    by_resource: BTreeMap<(Str, Str, Str), Arc<Kind>>,
}

impl Verbs {
    /// None.
    pub const NONE: Self = Self(0);
    /// `create`.
    pub const CREATE: Self = Self(1);
    /// `delete`.
    pub const DELETE: Self = Self(1 << 1);
    /// `deletecollection`.
    pub const DELETE_COLLECTION: Self = Self(1 << 2);
    /// `get`.
    pub const GET: Self = Self(1 << 3);
    /// `list`.
    pub const LIST: Self = Self(1 << 4);
    /// `patch`.
    pub const PATCH: Self = Self(1 << 5);
    /// `update`.
    pub const UPDATE: Self = Self(1 << 6);
    /// `watch`.
    pub const WATCH: Self = Self(1 << 7);
    /// All eight.
    pub const ALL: Self = Self(0xff);
    /// What a status subresource has: get, patch, update.
    pub const STATUS: Self = Self(Self::GET.0 | Self::PATCH.0 | Self::UPDATE.0);

    const NAMES: [&'static str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

    /// Both sets together.
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is in the set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The names, in alphabetical order as discovery has them.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().enumerate().filter(move |(bit, _)| self.0 & (1 << bit) != 0).map(|(_, name)| name)
    }

    /// The verb of that name, lower case.
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().position(|n| *n == name).map(|bit| Self(1 << bit))
    }
}

impl KindSchema {
    /// The schema of a whole object.
    pub fn schema(&self) -> &Schema {
        match self {
            Self::Builtin(definition) => &definition.schema,
            Self::Custom(schema) => schema,
        }
    }
}

impl Kind {
    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `PodList`.
    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }

    /// The schema of a whole object.
    pub fn schema(&self) -> &Schema {
        self.schema.schema()
    }

    /// The named subresource.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// `/registry/{group or core}/{resource}/`, which every key of the kind begins with.
    pub fn key_prefix(&self) -> String {
        format!("/registry/{}/{}/", self.storage.group, self.storage.resource)
    }

    /// The key of one object.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        let prefix = self.key_prefix();
        if self.namespaced { format!("{prefix}{namespace}/{name}") } else { format!("{prefix}{name}") }
    }

    /// The `apiVersion` that objects are stored with.
    pub fn storage_api_version(&self) -> String {
        let Storage { api_group, version, .. } = &self.storage;
        if api_group.is_empty() { version.to_string() } else { format!("{api_group}/{version}") }
    }

    /// The selectable field of that label.
    pub fn selectable(&self, label: &str) -> Option<&SelectableField> {
        self.fields.iter().find(|f| f.label == label)
    }
}

impl SelectableField {
    /// The field's value in an object, as selectors compare it.
    pub fn value<'a>(&'a self, object: &'a Value) -> Cow<'a, str> {
        let found = self.paths.iter().find_map(|path| {
            let value = path.iter().try_fold(object, |at, name| at.get(name.as_ref()))?;
            match value {
                Value::String(s) if s.is_empty() => None,
                Value::String(s) => Some(Cow::Borrowed(s.as_str())),
                Value::Null => None,
                other => Some(Cow::Owned(other.to_string())),
            }
        });
        found.unwrap_or(Cow::Borrowed(self.absent.as_ref()))
    }
}

impl Registry {
    /// The built-in kinds.
    pub fn builtin() -> Self {
        let mut registry = Self::default();
        builtin().iter().cloned().for_each(|kind| registry.insert(kind));
        registry
    }

    /// Adds a kind, or replaces the one of the same group, version and resource.
    pub fn insert(&mut self, kind: Arc<Kind>) {
        self.by_resource.insert((kind.group.clone(), kind.version.clone(), kind.plural.clone()), kind);
    }

    /// Removes a kind.
    pub fn remove(&mut self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        self.by_resource.remove(&key(group, version, plural))
    }

    /// The kind of a resource.
    pub fn lookup(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.by_resource.get(&key(group, version, plural))
    }

    /// The kind of that name.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Kind>> {
        self.by_resource.values().find(|k| k.kind == kind && k.group == group && k.version == version)
    }

    /// Every kind, by group, version and resource.
    pub fn kinds(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.by_resource.values()
    }
}

fn key(group: &str, version: &str, plural: &str) -> (Str, Str, Str) {
    (Cow::Owned(group.to_owned()), Cow::Owned(version.to_owned()), Cow::Owned(plural.to_owned()))
}

/// Every built-in kind, in the order groups are listed by discovery.
pub fn builtin() -> &'static [Arc<Kind>] {
    static KINDS: LazyLock<Vec<Arc<Kind>>> = LazyLock::new(table::kinds);
    &KINDS
}

/// Every built-in kind (the same as [`builtin`]).
pub fn kinds() -> &'static [Arc<Kind>] {
    builtin()
}

/// The built-in kind of a resource.
pub fn lookup(group: &str, version: &str, plural: &str) -> Option<&'static Arc<Kind>> {
    builtin().iter().find(|k| k.plural == plural && k.group == group && k.version == version)
}

/// The built-in kind of that name.
pub fn by_kind(group: &str, version: &str, kind: &str) -> Option<&'static Arc<Kind>> {
    builtin().iter().find(|k| k.kind == kind && k.group == group && k.version == version)
}
