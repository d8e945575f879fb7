//! A structural schema, from the OpenAPI of a definition.

use std::sync::Arc;

use pharos_api::schema::{Extra, ExtraRef, ListType, Node, Property, Schema, Seq, Str, Type, definition};
use serde_json::Value;

/// The schema of a whole object, with what every object has.
pub(super) fn root(source: &Value) -> Schema {
    let mut schema = node(source, true);
    add_type_meta(&mut schema);
    schema
}

fn add_type_meta(schema: &mut Schema) {
    let mut properties: Vec<Property> = schema.properties.to_vec();
    properties.retain(|property| !matches!(property.name.as_ref(), "apiVersion" | "kind" | "metadata"));
    for name in ["apiVersion", "kind"] {
        properties.push(property(name, Schema::new(Type::String)));
    }
    let mut metadata = Schema::new(Type::Object);
    metadata.target = definition("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
    properties.push(property("metadata", metadata));
    properties.sort_by(|a, b| a.name.cmp(&b.name));
    schema.properties = Seq::Owned(properties.into());
}

fn property(name: &str, schema: Schema) -> Property {
    Property {
        name: name.to_owned().into(),
        tag: 0,
        via: 0,
        required: false,
        optional_zero: true, // What a client writes is kept, zeros too.
        default: None,
        schema,
    }
}

fn texts(value: &Value) -> Vec<Str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(|text| text.to_owned().into()).collect()
}

fn node(source: &Value, is_root: bool) -> Schema {
    let additional = source["additionalProperties"].is_object() || source["additionalProperties"] == true;
    let preserve = source["x-kubernetes-preserve-unknown-fields"] == true;
    let ty = match source["type"].as_str() {
        _ if source["x-kubernetes-int-or-string"] == true => Type::IntOrString,
        Some("object") if additional && !source["properties"].is_object() => Type::Map,
        Some("object") => Type::Object,
        Some("array") => Type::Array,
        Some("string") => Type::String,
        Some("integer") => Type::Integer,
        Some("number") => Type::Number,
        Some("boolean") => Type::Boolean,
        _ => Type::Any,
    };
    let mut schema = Schema::new(ty);
    schema.format = source["format"].as_str().unwrap_or_default().to_owned().into();
    schema.list_type = match source["x-kubernetes-list-type"].as_str() {
        Some("set") => ListType::Set,
        Some("map") => ListType::Map,
        _ => ListType::Atomic,
    };
    schema.map_atomic = source["x-kubernetes-map-type"] == "atomic";
    schema.nullable = source["nullable"] == true;
    schema.preserve_unknown_fields = preserve;
    schema.embedded_resource = source["x-kubernetes-embedded-resource"] == true;
    let mut properties: Vec<Property> = source["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, source)| property(name, node(source, false)))
        .collect();
    properties.sort_by(|a, b| a.name.cmp(&b.name));
    schema.properties = Seq::Owned(properties.into());
    let items = if ty == Type::Array { &source["items"] } else { &source["additionalProperties"] };
    if items.is_object() {
        schema.items = Some(Node::Owned(Arc::new(node(items, false))));
    } else if items == &Value::Bool(true) {
        schema.items = Some(Node::Owned(Arc::new(any())));
    }
    schema.extra = Some(ExtraRef::Owned(Arc::new(Extra {
        list_map_keys: texts(&source["x-kubernetes-list-map-keys"]),
        patch_merge_key: None,
        required: texts(&source["required"]),
        enumeration: source["enum"].as_array().cloned().unwrap_or_default(),
        default: source.get("default").cloned(),
        keywords: is_root.then(|| source.clone()),
    })));
    if schema.embedded_resource {
        add_type_meta(&mut schema);
    }
    schema
}

fn any() -> Schema {
    let mut schema = Schema::new(Type::Any);
    schema.preserve_unknown_fields = true;
    schema
}
