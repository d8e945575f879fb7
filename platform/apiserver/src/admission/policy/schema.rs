//! Schemas of kinds as OpenAPI, for the types of `object` and `params`.

use pharos_api::schema::{Definition, ListType, Schema, Type};
use serde_json::{Map, Value, json};

/// A schema with all that it refers to. What has no type of its own is left out, as expressions can't see it; what a definition
/// has of itself, inside, is left open.
pub(super) fn openapi(schema: &Schema) -> Option<Value> {
    node(schema, &mut Vec::new())
}

fn open() -> Value {
    json!({"x-kubernetes-int-or-string": true})
}

fn node(schema: &Schema, inside: &mut Vec<&'static str>) -> Option<Value> {
    match schema.target {
        None => shape(schema, inside),
        Some(Definition { name, .. }) if inside.contains(name) => Some(open()),
        Some(definition) => {
            inside.push(definition.name);
            let found = shape(schema, inside);
            inside.pop();
            found
        }
    }
}

fn shape(schema: &Schema, inside: &mut Vec<&'static str>) -> Option<Value> {
    let shape = schema.shape();
    let mut found = match shape.ty {
        Type::Any => return None,
        Type::SchemaOr | Type::IntOrString | Type::Quantity => return Some(open()),
        Type::Object => {
            let properties = shape.properties.iter();
            let properties = properties.filter_map(|property| Some((property.name.to_string(), node(&property.schema, inside)?)));
            json!({"type": "object", "properties": properties.collect::<Map<_, _>>()})
        }
        Type::Map => json!({"type": "object", "additionalProperties": node(schema.items()?, inside)?}),
        Type::Array => {
            let mut list = json!({"type": "array", "items": node(schema.items()?, inside)?});
            match schema.list_type() {
                ListType::Atomic => {}
                ListType::Set => list["x-kubernetes-list-type"] = json!("set"),
                ListType::Map => {
                    list["x-kubernetes-list-type"] = json!("map");
                    list["x-kubernetes-list-map-keys"] = json!(schema.list_map_keys());
                }
            }
            list
        }
        Type::String => json!({"type": "string", "format": shape.format}),
        Type::Integer => json!({"type": "integer"}),
        Type::Number => json!({"type": "number"}),
        Type::Boolean => json!({"type": "boolean"}),
        Type::Time | Type::MicroTime => json!({"type": "string", "format": "date-time"}),
        Type::Bytes => json!({"type": "string", "format": "byte"}),
    };
    if schema.nullable {
        found["nullable"] = json!(true);
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_inside_themselves_end() {
        let pod = pharos_api::schema::definition_for("", "v1", "Pod").unwrap();
        let pod = openapi(&pod.schema).unwrap();
        for (pointer, wanted) in [
            ("/properties/metadata/properties/labels/additionalProperties/type", json!("string")),
            ("/properties/metadata/properties/creationTimestamp/format", json!("date-time")),
            ("/properties/spec/properties/containers/items/properties/image/type", json!("string")),
            ("/properties/spec/properties/containers/x-kubernetes-list-map-keys", json!(["name"])),
            ("/properties/spec/properties/priority/type", json!("integer")),
        ] {
            assert_eq!(pod.pointer(pointer), Some(&wanted), "{pointer}");
        }
        let definition = pharos_api::schema::definition_for("apiextensions.k8s.io", "v1", "CustomResourceDefinition").unwrap();
        let text = openapi(&definition.schema).unwrap().to_string();
        assert!(text.len() < 1 << 20, "{} bytes", text.len());
    }
}
