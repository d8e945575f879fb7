//! Schemas of custom resources in OpenAPI version 2.

use serde_json::{Map, Value};

/// Whether fields without a schema are kept.
pub(super) const PRESERVE_UNKNOWN: &str = "x-kubernetes-preserve-unknown-fields";

/// Takes out of a custom resource's schema what version 2 can't say, or kubectl can't read in it
/// (`apiextensions-apiserver/pkg/controller/openapi/v2/conversion.go`).
pub(super) fn to_v2(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    for junctor in ["allOf", "oneOf", "anyOf", "not"] {
        map.remove(junctor);
    }
    let is_set = |map: &Map<String, Value>, key: &str| map.get(key) == Some(&Value::Bool(true));
    let nullable = is_set(map, "nullable");
    map.remove("nullable");
    let preserve = is_set(map, PRESERVE_UNKNOWN);
    if nullable || preserve {
        map.remove("items");
        map.remove("properties");
    }
    let ty = map.get("type").and_then(Value::as_str).unwrap_or_default();
    if nullable || (ty == "array" && !map.contains_key("items")) || (ty == "object" && preserve) {
        map.remove("type");
    }
    let nullables: Vec<String> = map.get("properties").and_then(Value::as_object).map_or_else(Vec::new, |properties| {
        properties.iter().filter(|(_, schema)| schema["nullable"] == true).map(|(name, _)| name.clone()).collect()
    });
    if let Some(Value::Array(required)) = map.get_mut("required") {
        required.retain(|name| !nullables.iter().any(|nullable| name == nullable));
        if required.is_empty() {
            map.remove("required");
        }
    }
    if map.get("additionalProperties").is_some_and(|values| values["nullable"] == true) {
        map.remove("required");
    }
    for place in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(place) {
            to_v2(inner);
        }
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(to_v2);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_version_2_cannot_say_is_left_out() {
        let open = json!({"type": "object", PRESERVE_UNKNOWN: true, "properties": {"a": {"type": "string"}}});
        for (schema, want) in [
            (json!({"type": "string", "oneOf": [{}], "anyOf": [{}], "allOf": [{}], "not": {}}), json!({"type": "string"})),
            (json!({"type": "object", "nullable": true, "properties": {"a": {}}}), json!({})),
            (open.clone(), json!({PRESERVE_UNKNOWN: true})),
            (json!({"type": "array", "items": open}), json!({"type": "array", "items": {PRESERVE_UNKNOWN: true}})),
            (json!({"type": "array", "nullable": true, "items": {}}), json!({})),
            (
                json!({"type": "object", "required": ["a", "b"],
                    "properties": {"a": {"type": "string", "nullable": true}, "b": {"type": "string"}}}),
                json!({"type": "object", "required": ["b"], "properties": {"a": {}, "b": {"type": "string"}}}),
            ),
        ] {
            let mut out = schema.clone();
            to_v2(&mut out);
            assert_eq!(out, want, "{schema}");
        }
    }
}
