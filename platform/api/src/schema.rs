//! Schemas: what fields an object has, of which type, and how lists and maps in it are merged.
//!
//! Built-in schemas are constant tables made by `build.rs` from the published OpenAPI definitions; those of custom resources
//! are built at run time. Both are the same [`Schema`], so defaulting, pruning, patches and server-side apply see no difference.

use std::borrow::Cow;
use std::ops::Deref;
use std::sync::Arc;

use serde_json::Value;

mod builtin;
pub(crate) use builtin::tables_hash;
pub use builtin::{Definition, Descriptions, definition, definition_for, definitions, description};

/// A string that is constant for built-in kinds and owned for custom ones.
pub type Str = Cow<'static, str>;

/// A slice that is constant for built-in kinds and owned for custom ones.
#[derive(Clone, Debug)]
pub enum Seq<T: 'static> {
    /// Part of the built-in tables.
    Static(&'static [T]),
    /// Built at run time.
    Owned(Arc<[T]>),
}

/// The JSON type of a field, and the few wire types with rules of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Anything: raw extensions, `JSON`, and whatever has no schema.
    Any,
    /// An object with named properties.
    Object,
    /// An object with arbitrary keys and values of one schema.
    Map,
    /// A list.
    Array,
    /// A string.
    String,
    /// A whole number.
    Integer,
    /// Any number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// `intstr.IntOrString`.
    IntOrString,
    /// `resource.Quantity`: a string, or a number taken for one.
    Quantity,
    /// `metav1.Time`: RFC 3339 with seconds.
    Time,
    /// `metav1.MicroTime`: RFC 3339 with microseconds.
    MicroTime,
    /// Base64 in JSON, bytes in protobuf.
    Bytes,
    /// `JSONSchemaPropsOrBool`, `-OrArray` and `-OrStringArray`: a schema, or the other thing.
    SchemaOr,
}

/// How server-side apply merges a list (`x-kubernetes-list-type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    /// Replaced as a whole.
    #[default]
    Atomic,
    /// A set of scalars.
    Set,
    /// Items identified by [`Schema::list_map_keys`].
    Map,
}

/// The rarely set parts of a schema.
#[derive(Clone, Debug, Default)]
pub struct Extra {
    /// `x-kubernetes-list-map-keys`.
    pub list_map_keys: Vec<Str>,
    /// `x-kubernetes-patch-merge-key`.
    pub patch_merge_key: Option<Str>,
    /// Names that must be present.
    pub required: Vec<Str>,
    /// Allowed values; empty means any.
    pub enumeration: Vec<Value>,
    /// The declared default.
    pub default: Option<Value>,
    /// The raw OpenAPI keywords a custom resource's validation needs.
    pub keywords: Option<Value>,
}

/// One node of a schema tree: a field together with its metadata.
///
/// A field that refers to a definition has the definition in `target`; the accessors look through it.
#[derive(Clone, Debug)]
pub struct Schema {
    /// The JSON type.
    pub ty: Type,
    /// `int32`, `int64`, `double`, `byte`, `date-time` … or empty.
    pub format: Str,
    /// How apply merges it, if a list.
    pub list_type: ListType,
    /// `x-kubernetes-map-type: atomic`.
    pub map_atomic: bool,
    /// Strategic merge replaces items of the list by merging (`x-kubernetes-patch-strategy` has `merge`).
    pub patch_merge: bool,
    /// Strategic merge keeps only the named keys (`x-kubernetes-patch-strategy` has `retainKeys`).
    pub patch_retain_keys: bool,
    /// A `null` is a value of its own (custom resources only).
    pub nullable: bool,
    /// `x-kubernetes-preserve-unknown-fields`.
    pub preserve_unknown_fields: bool,
    /// `x-kubernetes-embedded-resource`.
    pub embedded_resource: bool,
    /// Properties sorted by name.
    pub properties: Seq<Property>,
    /// The schema of list items or of map values.
    pub items: Option<Node>,
    /// The definition referred to.
    pub target: Option<&'static Definition>,
    /// The rarely set rest.
    pub extra: Option<ExtraRef>,
}

/// A named property.
#[derive(Clone, Debug)]
pub struct Property {
    /// The JSON name.
    pub name: Str,
    /// The protobuf field number; 0 for none.
    pub tag: u32,
    /// The number of the embedded message the field is in, and in the upper half that of one inside it; 0 for the message itself.
    pub via: u32,
    /// Always written in JSON, even if empty.
    pub required: bool,
    /// A zero is different from absence (a pointer in Go).
    pub optional_zero: bool,
    /// The declared default, as JSON text.
    pub default: Option<&'static str>,
    /// What it holds.
    pub schema: Schema,
}

/// A child schema, constant or owned.
#[derive(Clone, Debug)]
pub enum Node {
    /// Part of the built-in tables.
    Static(&'static Schema),
    /// Built at run time.
    Owned(Arc<Schema>),
}

/// The rare part of a schema, constant or owned.
#[derive(Clone, Debug)]
pub enum ExtraRef {
    /// Part of the built-in tables.
    Static(&'static StaticExtra),
    /// Built at run time.
    Owned(Arc<Extra>),
}

/// [`Extra`] for the built-in tables.
#[derive(Debug)]
pub struct StaticExtra {
    /// `x-kubernetes-list-map-keys`.
    pub list_map_keys: &'static [Str],
    /// `x-kubernetes-patch-merge-key`.
    pub patch_merge_key: Option<&'static str>,
    /// Names that must be present.
    pub required: &'static [Str],
}

/// A schema that accepts anything and merges nothing.
pub static ANY: Schema = Schema::new(Type::Any);

impl<T> Deref for Seq<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::Static(items) => items,
            Self::Owned(items) => items,
        }
    }
}

impl Deref for Node {
    type Target = Schema;

    fn deref(&self) -> &Schema {
        match self {
            Self::Static(schema) => schema,
            Self::Owned(schema) => schema,
        }
    }
}

impl Schema {
    /// An empty schema of the given type.
    pub const fn new(ty: Type) -> Self {
        Self {
            ty,
            format: Cow::Borrowed(""),
            list_type: ListType::Atomic,
            map_atomic: false,
            patch_merge: false,
            patch_retain_keys: false,
            nullable: false,
            preserve_unknown_fields: false,
            embedded_resource: false,
            properties: Seq::Static(&[]),
            items: None,
            target: None,
            extra: None,
        }
    }

    /// A row of the built-in tables.
    #[allow(clippy::too_many_arguments, reason = "called by generated code only")]
    pub(crate) const fn constant(
        ty: Type,
        format: &'static str,
        list_type: ListType,
        map_atomic: bool,
        patch_merge: bool,
        patch_retain_keys: bool,
        properties: &'static [Property],
        items: Option<Node>,
        target: Option<&'static Definition>,
        extra: Option<ExtraRef>,
    ) -> Self {
        Self {
            ty,
            format: Cow::Borrowed(format),
            list_type,
            map_atomic,
            patch_merge,
            patch_retain_keys,
            nullable: false,
            preserve_unknown_fields: false,
            embedded_resource: false,
            properties: Seq::Static(properties),
            items,
            target,
            extra,
        }
    }

    /// The node that holds properties and items: the definition referred to, or the schema itself.
    pub fn shape(&self) -> &Schema {
        match self.target {
            Some(definition) => definition.schema.shape(),
            _ => self,
        }
    }

    /// The type, seen through a reference.
    pub fn ty(&self) -> Type {
        self.shape().ty
    }

    /// The properties, sorted by name.
    pub fn properties(&self) -> &[Property] {
        &self.shape().properties
    }

    /// The schema of the named property, or of a map's values.
    pub fn property(&self, name: &str) -> Option<&Schema> {
        let shape = self.shape();
        match shape.properties.binary_search_by(|p| p.name.as_ref().cmp(name)) {
            Ok(found) => Some(&shape.properties[found].schema),
            Err(_) if shape.ty == Type::Map => shape.items.as_deref(),
            Err(_) => None,
        }
    }

    /// The position of a named property.
    pub fn property_index(&self, name: &str) -> Option<usize> {
        self.shape().properties.binary_search_by(|p| p.name.as_ref().cmp(name)).ok()
    }

    /// The schema of list items or map values.
    pub fn items(&self) -> Option<&Schema> {
        self.shape().items.as_deref()
    }

    /// How apply merges this list.
    pub fn list_type(&self) -> ListType {
        self.list_type
    }

    /// Whether apply replaces this object or map as a whole.
    pub fn is_map_atomic(&self) -> bool {
        self.map_atomic || self.shape().map_atomic
    }

    /// The names of the keys that identify an item of this list for apply.
    pub fn list_map_keys(&self) -> &[Str] {
        match &self.extra {
            Some(ExtraRef::Static(extra)) => extra.list_map_keys,
            Some(ExtraRef::Owned(extra)) => &extra.list_map_keys,
            None => &[],
        }
    }

    /// The name of the key that identifies an item of this list for strategic merge.
    pub fn patch_merge_key(&self) -> Option<&str> {
        match self.extra.as_ref()? {
            ExtraRef::Static(extra) => extra.patch_merge_key,
            ExtraRef::Owned(extra) => extra.patch_merge_key.as_deref(),
        }
    }

    /// The names that must be present.
    pub fn required(&self) -> &[Str] {
        match &self.shape().extra {
            Some(ExtraRef::Static(extra)) => extra.required,
            Some(ExtraRef::Owned(extra)) => &extra.required,
            None => &[],
        }
    }

    /// The run-time extras of a custom resource's schema: enum, default, raw keywords.
    pub fn owned_extra(&self) -> Option<&Extra> {
        match &self.extra {
            Some(ExtraRef::Owned(extra)) => Some(extra),
            _ => None,
        }
    }

    /// Follows a path of property names; a list is entered through its items without a step of its own.
    pub fn lookup<'a>(&self, path: impl IntoIterator<Item = &'a str>) -> Option<&Schema> {
        path.into_iter().try_fold(self, |schema, name| {
            let mut at = schema;
            while at.ty() == Type::Array {
                at = at.items()?;
            }
            at.property(name)
        })
    }
}
