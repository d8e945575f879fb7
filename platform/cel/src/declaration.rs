//! What a schema says of a value: its type, the names of its members, how large it can be.
//!
//! Follows `staging/src/k8s.io/apiserver/pkg/cel/common/schemas.go` (`SchemaDeclType`).

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value as Json;

use crate::{escape::escape, types::Ty};

/// The largest request, which bounds what the schema leaves open.
pub(crate) const MAX_REQUEST_BYTES: u64 = 3 * 1024 * 1024;

/// A value's type, from its OpenAPI schema.
#[derive(Debug, Clone)]
pub struct Declaration {
    shape: Shape,
    nullable: bool,
    list_type: ListType,
    name: Arc<str>,
    max_elements: u64,
    min_size: u64,
}

#[derive(Debug, Clone)]
enum Shape {
    Scalar(Scalar),
    List(Arc<Declaration>),
    Map(Arc<Declaration>),
    /// By the names expressions use.
    Object(BTreeMap<String, Field>),
}

#[derive(Debug, Clone)]
struct Field {
    raw: String,
    declaration: Arc<Declaration>,
}

/// What is neither list nor map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scalar {
    IntOrString,
    Bool,
    Int,
    Double,
    String,
    Bytes,
    Duration,
    Date,
    DateTime,
}

/// How a list compares and merges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ListType {
    Atomic,
    Set,
    Map(Vec<String>),
}

impl Declaration {
    /// What a schema declares; none if expressions can't see such a value. `root` is true for the schema of a whole object:
    /// `apiVersion`, `kind`, `metadata.name` and `metadata.generateName` are always there.
    #[must_use]
    pub fn new(schema: &Json, root: bool) -> Option<Arc<Self>> {
        Self::named(schema, root, "selfType0")
    }

    fn named(schema: &Json, root: bool, name: &str) -> Option<Arc<Self>> {
        let with_meta;
        let schema = if root && schema["x-kubernetes-int-or-string"] != true {
            with_meta = with_object_meta(schema);
            &with_meta
        } else {
            schema
        };
        let count = |keyword: &str| schema[keyword].as_i64().map(|count| u64::try_from(count).unwrap_or(0));
        let embedded = |schema: &Json| schema["x-kubernetes-embedded-resource"] == true;
        let (shape, max_elements, min_size) = if schema["x-kubernetes-int-or-string"] == true {
            let max = count("maxLength").map_or(MAX_REQUEST_BYTES - 2, |max| max.saturating_mul(4));
            (Shape::Scalar(Scalar::IntOrString), max, 1)
        } else {
            match schema["type"].as_str()? {
                "array" => {
                    let items = &schema["items"];
                    let items = Self::named(items, embedded(items), &format!("{name}.@idx"))?;
                    let max = count("maxItems").unwrap_or((MAX_REQUEST_BYTES - 2) / (items.min_size + 1));
                    (Shape::List(items), max, 2)
                }
                "object" if schema["additionalProperties"].is_object() => {
                    let values = &schema["additionalProperties"];
                    let values = Self::named(values, embedded(values), &format!("{name}.@elem"))?;
                    let max = count("maxProperties").unwrap_or((MAX_REQUEST_BYTES - 2) / (values.min_size + 6));
                    (Shape::Map(values), max, 2)
                }
                "object" => {
                    let (fields, min_size) = fields(schema, name);
                    (Shape::Object(fields), 0, min_size)
                }
                "string" => string(schema, count("maxLength")),
                "boolean" => (Shape::Scalar(Scalar::Bool), 0, 4),
                "number" => (Shape::Scalar(Scalar::Double), 0, 1),
                "integer" => (Shape::Scalar(Scalar::Int), 0, 1),
                _ => return None,
            }
        };
        let list_type = match schema["x-kubernetes-list-type"].as_str() {
            Some("set") => ListType::Set,
            Some("map") => {
                let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
                ListType::Map(keys.filter_map(|key| key.as_str().map(str::to_owned)).collect())
            }
            _ => ListType::Atomic,
        };
        let nullable = schema["nullable"] == true;
        Some(Arc::new(Self { shape, nullable, list_type, name: name.into(), max_elements, min_size }))
    }

    /// What the items of a list, or the values of a map, are.
    #[must_use]
    pub fn items(&self) -> Option<&Arc<Self>> {
        match &self.shape {
            Shape::List(inner) | Shape::Map(inner) => Some(inner),
            _ => None,
        }
    }

    /// What a field of an object is, by the name it has in the object. Of a map: any value.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&Arc<Self>> {
        match &self.shape {
            Shape::Object(fields) => fields.get(&escape(name)?).map(|field| &field.declaration),
            Shape::Map(inner) => Some(inner),
            _ => None,
        }
    }

    /// How often such a value can be in an object, at most.
    ///
    /// `maxCardinality` of `apiextensions-apiserver/pkg/apiserver/schema/cel/compilation.go`.
    #[must_use]
    pub fn max_cardinality(&self) -> u64 {
        MAX_REQUEST_BYTES / (self.min_size + 1)
    }

    /// How many elements the schema allows; what it leaves open, as many as fit in a request.
    pub(crate) fn max_elements(&self) -> u64 {
        self.max_elements
    }

    pub(crate) fn element(&self) -> Option<&Self> {
        self.items().map(|inner| &**inner)
    }

    pub(crate) fn raw(&self, name: &str) -> Option<&Self> {
        self.property(name).map(|inner| &**inner)
    }

    pub(crate) fn is_list(&self) -> bool {
        matches!(self.shape, Shape::List(_))
    }

    pub(crate) fn is_map(&self) -> bool {
        matches!(self.shape, Shape::Map(_))
    }

    pub(crate) fn is_object(&self) -> bool {
        matches!(self.shape, Shape::Object(_))
    }

    pub(crate) fn nullable(&self) -> bool {
        self.nullable
    }

    pub(crate) fn list_type(&self) -> &ListType {
        &self.list_type
    }

    pub(crate) fn scalar(&self) -> Option<Scalar> {
        match self.shape {
            Shape::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    /// The name messages give the type of an object.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// A member by the name expressions use: the name it has in the object, and what it is.
    pub(crate) fn member<'s: 'n, 'n>(&'s self, name: &'n str) -> Option<(&'n str, &'s Self)> {
        match &self.shape {
            Shape::Object(fields) => fields.get(name).map(|field| (field.raw.as_str(), &*field.declaration)),
            Shape::Map(inner) => Some((name, inner)),
            _ => None,
        }
    }

    /// The type of a member, by the name expressions use.
    pub(crate) fn member_type(&self, name: &str) -> Option<Ty> {
        match &self.shape {
            Shape::Object(fields) => fields.get(name).map(|field| field.declaration.ty()),
            _ => None,
        }
    }

    /// Also by the names its members have in the object: those that the API server itself declares are not escaped, as in
    /// `request.namespace` (`BuildRequestType`).
    #[must_use]
    pub fn with_plain_names(mut self: Arc<Self>) -> Arc<Self> {
        if let Shape::Object(fields) = &mut Arc::make_mut(&mut self).shape {
            for field in fields.values_mut() {
                field.declaration = field.declaration.clone().with_plain_names();
            }
            let plain: Vec<Field> =
                fields.iter().filter(|(name, field)| **name != field.raw).map(|(_, field)| field.clone()).collect();
            fields.extend(plain.into_iter().map(|field| (field.raw.clone(), field)));
        }
        self
    }

    /// The name expressions use for a member, by its name in the object; none if they do not see it.
    pub(crate) fn shown_name<'s>(&'s self, name: &'s str) -> Option<&'s str> {
        match &self.shape {
            Shape::Object(fields) => {
                let (shown, _) = fields.get_key_value(&escape(name)?)?;
                Some(shown)
            }
            Shape::Map(_) => Some(name),
            _ => None,
        }
    }

    /// The type the checker works with.
    pub(crate) fn ty(self: &Arc<Self>) -> Ty {
        match &self.shape {
            Shape::Scalar(scalar) => match scalar {
                Scalar::IntOrString => Ty::Dyn,
                Scalar::Bool => Ty::Bool,
                Scalar::Int => Ty::Int,
                Scalar::Double => Ty::Double,
                Scalar::String => Ty::String,
                Scalar::Bytes => Ty::Bytes,
                Scalar::Duration => Ty::Duration,
                Scalar::Date | Scalar::DateTime => Ty::Timestamp,
            },
            Shape::List(inner) => Ty::list(inner.ty()),
            Shape::Map(inner) => Ty::map(Ty::String, inner.ty()),
            Shape::Object(_) => Ty::Object(self.clone()),
        }
    }
}

/// The fields that expressions see, and the shortest JSON that has all that are required.
fn fields(schema: &Json, name: &str) -> (BTreeMap<String, Field>, u64) {
    let mut min_size = 2;
    let mut fields = BTreeMap::new();
    let required = |name: &str| schema["required"].as_array().is_some_and(|names| names.iter().any(|other| other == name));
    for (raw, property) in schema["properties"].as_object().into_iter().flatten() {
        let embedded = property["x-kubernetes-embedded-resource"] == true;
        let escaped = escape(raw);
        let inner = format!("{name}.{}", escaped.as_deref().unwrap_or(raw));
        let Some(declaration) = Declaration::named(property, embedded, &inner) else { continue };
        if required(raw) && property.get("default").is_none() {
            min_size += raw.len() as u64 + declaration.min_size + 4;
        }
        if let Some(escaped) = escaped {
            fields.insert(escaped, Field { raw: raw.clone(), declaration });
        }
    }
    (fields, min_size)
}

fn string(schema: &Json, max_length: Option<u64>) -> (Shape, u64, u64) {
    let (scalar, max, min_size) = match schema["format"].as_str() {
        Some("byte") => (Scalar::Bytes, max_length.unwrap_or(MAX_REQUEST_BYTES - 2), 2),
        Some("duration") => (Scalar::Duration, 32, 3),
        Some("date") => (Scalar::Date, 12, 12),
        Some("date-time") => (Scalar::DateTime, 32, 21),
        _ => {
            let values = schema["enum"].as_array().filter(|values| !values.is_empty());
            let longest =
                values.map(|values| values.iter().filter_map(Json::as_str).map(|value| value.len() as u64).max().unwrap_or(0));
            // A character is up to four bytes.
            let max = max_length.map(|max| max.saturating_mul(4)).or(longest).unwrap_or(MAX_REQUEST_BYTES - 2);
            (Scalar::String, max, 2)
        }
    };
    (Shape::Scalar(scalar), max, min_size)
}

/// The schema with what every object has.
fn with_object_meta(schema: &Json) -> Json {
    let string = serde_json::json!({"type": "string"});
    let mut schema = schema.clone();
    if !schema.is_object() {
        return schema;
    }
    schema["type"] = "object".into();
    let mut metadata = serde_json::json!({"type": "object", "properties": {}});
    for name in ["name", "generateName"] {
        let declared = &schema["properties"]["metadata"]["properties"][name];
        metadata["properties"][name] = if declared["type"] == "string" { declared.clone() } else { string.clone() };
    }
    if !schema["properties"].is_object() {
        schema["properties"] = serde_json::json!({});
    }
    for name in ["kind", "apiVersion"] {
        if schema["properties"][name]["type"] != "string" {
            schema["properties"][name] = string.clone();
        }
    }
    schema["properties"]["metadata"] = metadata;
    schema
}
