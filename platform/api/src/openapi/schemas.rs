//! The schemas a document refers to, collected as paths mention them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::custom::{self, PRESERVE_UNKNOWN};
use super::{Format, gvk};
use crate::registry::{Kind, KindSchema};
use crate::schema::{Definition, Descriptions, ExtraRef, ListType, Property, Schema, Type, definition, definition_for};

/// Where the API's conventions are told.
const CONVENTIONS: &str = "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md";
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

/// Definitions gathered for one document.
pub(super) struct Schemas {
    format: Format,
    descriptions: Descriptions,
    todo: Vec<&'static Definition>,
    done: BTreeMap<String, Value>,
}

impl Schemas {
    pub(super) fn new(format: Format) -> Self {
        Self { format, descriptions: Descriptions::load(), todo: Vec::new(), done: BTreeMap::new() }
    }

    /// A reference to a definition by name; the definition is added with all it needs.
    pub(super) fn named(&mut self, name: &str) -> Value {
        match definition(name) {
            Some(definition) => self.reference(definition),
            None => json!({"type": "object"}),
        }
    }

    /// A reference to the schema of a kind.
    pub(super) fn kind(&mut self, kind: &Kind) -> Value {
        match &kind.schema {
            KindSchema::Builtin(definition) => self.reference(definition),
            KindSchema::Custom(schema) => {
                let name = custom_name(kind, &kind.kind);
                if !self.done.contains_key(&name) {
                    let object = self.custom(kind, schema);
                    self.done.insert(name.clone(), object);
                }
                self.link(&name)
            }
        }
    }

    /// A reference to the schema of a kind's list.
    pub(super) fn list(&mut self, kind: &Kind) -> Value {
        if !kind.custom {
            return self.gvk(&kind.group, &kind.version, &kind.list_kind());
        }
        let name = custom_name(kind, &kind.list_kind());
        let items = self.kind(kind);
        let mut list = json!({
            "description": format!("{} is a list of {}", kind.list_kind(), kind.kind),
            "type": "object",
            "required": ["items"],
            "properties": {
                "items": {
                    "description": format!("List of {}. More info: {CONVENTIONS}", kind.plural),
                    "type": "array",
                    "items": items,
                },
            },
            "x-kubernetes-group-version-kind": [gvk(&kind.group, &kind.version, &kind.list_kind())],
        });
        self.object_properties(&mut list["properties"], "io.k8s.api.core.v1.PodList", LIST_META);
        self.done.insert(name.clone(), list);
        self.link(&name)
    }

    /// A reference to the definition of a group, version and kind.
    pub(super) fn gvk(&mut self, group: &str, version: &str, kind: &str) -> Value {
        match definition_for(group, version, kind) {
            Some(definition) => self.reference(definition),
            None => json!({"type": "object"}),
        }
    }

    /// Every definition mentioned so far, and what those mention.
    pub(super) fn finish(mut self) -> Map<String, Value> {
        while let Some(next) = self.todo.pop() {
            if !self.done.contains_key(next.name) {
                let schema = self.definition(next);
                self.done.insert(next.name.to_owned(), schema);
            }
        }
        self.done.into_iter().collect()
    }

    fn link(&self, name: &str) -> Value {
        match self.format {
            Format::V2 => json!({"$ref": format!("#/definitions/{name}")}),
            Format::V3 => json!({"$ref": format!("#/components/schemas/{name}")}),
        }
    }

    fn reference(&mut self, definition: &'static Definition) -> Value {
        self.todo.push(definition);
        self.link(definition.name)
    }

    fn definition(&mut self, definition: &'static Definition) -> Value {
        let mut out = match definition.schema.ty {
            Type::Object => self.object(definition),
            Type::IntOrString if self.format == Format::V3 => {
                json!({"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"})
            }
            Type::IntOrString => json!({"type": "string", "format": "int-or-string"}),
            Type::Quantity if self.format == Format::V3 => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            Type::Quantity => json!({"type": "string"}),
            Type::Time | Type::MicroTime => json!({"type": "string", "format": "date-time"}),
            Type::Any if definition.name.ends_with(".JSON") => json!({}),
            Type::Any => json!({"type": "object"}),
            Type::SchemaOr => json!({}),
            _ => self.schema(&definition.schema),
        };
        let description = self.descriptions.definition(definition);
        if !description.is_empty() {
            out["description"] = description.into();
        }
        if !definition.gvks.is_empty() {
            let gvks: Vec<Value> = definition.gvks.iter().map(|(g, v, k)| gvk(g, v, k)).collect();
            out["x-kubernetes-group-version-kind"] = gvks.into();
        }
        if let Ok(unions) = serde_json::from_str::<Value>(definition.unions) {
            out["x-kubernetes-unions"] = unions;
        }
        out
    }

    fn object(&mut self, definition: &'static Definition) -> Value {
        let schema = &definition.schema;
        let mut out = json!({"type": "object"});
        let mut properties = Map::new();
        for (position, property) in schema.properties.iter().enumerate() {
            let mut field = self.property(property);
            let description = self.descriptions.property(definition, position);
            if !description.is_empty() {
                field["description"] = description.into();
            }
            properties.insert(property.name.to_string(), field);
        }
        if !properties.is_empty() {
            out["properties"] = properties.into();
        }
        if !schema.required().is_empty() {
            out["required"] = json!(schema.required());
        }
        extensions(schema, &mut out);
        out
    }

    fn property(&mut self, property: &Property) -> Value {
        let mut field = self.schema(&property.schema);
        let default = property.default.and_then(|text| serde_json::from_str::<Value>(text).ok());
        match default {
            Some(default) if self.format == Format::V3 => field["default"] = default,
            None if self.format == Format::V3 && property.required && property.schema.target.is_none() => {
                match property.schema.ty {
                    Type::String => field["default"] = "".into(),
                    Type::Integer => field["default"] = 0.into(),
                    Type::Boolean => field["default"] = false.into(),
                    _ => {}
                }
            }
            _ => {}
        }
        field
    }

    fn schema(&mut self, schema: &Schema) -> Value {
        let mut out = match schema.target {
            Some(target) => {
                let link = self.reference(target);
                // A reference may have no siblings in version 3.
                if self.format == Format::V3 { json!({"allOf": [link]}) } else { link }
            }
            None => match schema.ty {
                Type::Array => json!({"type": "array", "items": self.items(schema)}),
                Type::Map => json!({"type": "object", "additionalProperties": self.items(schema)}),
                Type::Object => json!({"type": "object"}),
                Type::String => json!({"type": "string"}),
                Type::Bytes => json!({"type": "string"}),
                Type::Integer => json!({"type": "integer"}),
                Type::Number => json!({"type": "number"}),
                Type::Boolean => json!({"type": "boolean"}),
                _ => json!({}),
            },
        };
        if schema.target.is_none() && !schema.format.is_empty() {
            out["format"] = json!(schema.format);
        }
        extensions(schema, &mut out);
        out
    }

    fn items(&mut self, schema: &Schema) -> Value {
        let Some(items) = schema.items.as_deref() else { return json!({"type": "object"}) };
        let mut out = self.schema(items);
        if self.format == Format::V3 {
            if items.target.is_some() && items.ty == Type::Object {
                out["default"] = json!({});
            } else if items.ty == Type::String {
                out["default"] = "".into();
            }
        }
        out
    }

    /// Gives a custom kind the properties that every object has, described as the built-in kind `model` describes them.
    fn object_properties(&mut self, properties: &mut Value, model: &str, meta: &'static str) {
        let meta = self.named(meta);
        let described = |name: &str| -> Value {
            let model = definition(model);
            let at = model.and_then(|model| Some((model, model.schema.property_index(name)?)));
            at.map_or("", |(model, at)| self.descriptions.property(model, at)).into()
        };
        properties["apiVersion"] = json!({"type": "string", "description": described("apiVersion")});
        properties["kind"] = json!({"type": "string", "description": described("kind")});
        let mut meta = if self.format == Format::V3 { json!({"allOf": [meta]}) } else { meta };
        meta["description"] = described("metadata");
        properties["metadata"] = meta;
    }

    /// A custom resource's own schema, with what every object has.
    fn custom(&mut self, kind: &Kind, schema: &Schema) -> Value {
        let source = schema.owned_extra().and_then(|extra| extra.keywords.clone());
        let gvk = json!([gvk(&kind.group, &kind.version, &kind.kind)]);
        let open = source.as_ref().is_none_or(|source| source[PRESERVE_UNKNOWN] == true);
        if self.format == Format::V2 && open {
            // With any property kubectl would refuse all others.
            return json!({"type": "object", "x-kubernetes-group-version-kind": gvk});
        }
        let mut out = source.unwrap_or_else(|| json!({"type": "object", PRESERVE_UNKNOWN: true}));
        if self.format == Format::V2 {
            custom::to_v2(&mut out);
        }
        if !out.get("properties").is_some_and(Value::is_object) {
            out["properties"] = json!({});
        }
        self.object_properties(&mut out["properties"], "io.k8s.api.core.v1.Pod", OBJECT_META);
        out["x-kubernetes-group-version-kind"] = gvk;
        out
    }
}

/// `com.example.v1.Widget` for `Widget` of `example.com/v1`.
fn custom_name(kind: &Kind, name: &str) -> String {
    let reversed: Vec<&str> = kind.group.rsplit('.').collect();
    format!("{}.{}.{name}", reversed.join("."), kind.version)
}

fn extensions(schema: &Schema, out: &mut Value) {
    match (schema.ty, schema.list_type) {
        (_, ListType::Map) => out["x-kubernetes-list-type"] = "map".into(),
        (_, ListType::Set) => out["x-kubernetes-list-type"] = "set".into(),
        // The table does not tell "atomic" from unsaid; they mean the same.
        (Type::Array, ListType::Atomic) if !schema.patch_merge => out["x-kubernetes-list-type"] = "atomic".into(),
        _ => {}
    }
    if schema.map_atomic {
        out["x-kubernetes-map-type"] = "atomic".into();
    }
    let strategy: Vec<&str> =
        [(schema.patch_merge, "merge"), (schema.patch_retain_keys, "retainKeys")].iter().filter(|s| s.0).map(|s| s.1).collect();
    if !strategy.is_empty() {
        out["x-kubernetes-patch-strategy"] = strategy.join(",").into();
    }
    if let Some(ExtraRef::Static(extra)) = &schema.extra {
        if !extra.list_map_keys.is_empty() {
            out["x-kubernetes-list-map-keys"] = json!(extra.list_map_keys);
        }
        if let Some(key) = extra.patch_merge_key {
            out["x-kubernetes-patch-merge-key"] = key.into();
        }
    }
}
