//! What a structural schema asks of values beyond their types: bounds, lengths, patterns, logical junctors.
//!
//! Texts follow `k8s.io/kube-openapi/pkg/validation/validate`.

use pharos_api::{
    registry::Kind,
    validation::{ErrorType, FieldError},
};
use regex::Regex;
use serde_json::Value;

use crate::strategy::field_error;

/// The errors of a custom object.
pub(crate) fn check(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if let Some(source) = kind.schema().owned_extra().and_then(|extra| extra.keywords.as_ref()) {
        walk(source, object, "", &mut errors);
    }
    errors
}

fn walk(schema: &Value, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if value.is_null() && schema["nullable"] == true {
        return;
    }
    bounds(schema, value, path, errors);
    junctors(schema, value, path, errors);
    match value {
        Value::Object(map) => {
            for (name, child) in map {
                if path.is_empty() && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                    continue;
                }
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match schema["properties"].get(name) {
                    Some(schema) => walk(schema, child, &path, errors),
                    None if schema["additionalProperties"].is_object() => {
                        walk(&schema["additionalProperties"], child, &path, errors);
                    }
                    None => {}
                }
            }
        }
        Value::Array(items) => {
            for (at, child) in items.iter().enumerate() {
                walk(&schema["items"], child, &format!("{path}[{at}]"), errors);
            }
        }
        _ => {}
    }
}

fn bounds(schema: &Value, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let shown = if path.is_empty() { "<nil>" } else { path };
    let mut refuse = |ty: ErrorType, what: String| {
        errors.push(field_error(ty, shown, value.clone(), &format!("{shown} in body {what}")));
    };
    let limit = |keyword: &str| schema[keyword].as_u64();
    match value {
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or(0.0);
            if let Some(min) = schema["minimum"].as_f64() {
                match schema["exclusiveMinimum"] == true {
                    true if number <= min => refuse(ErrorType::Invalid, format!("should be greater than {min}")),
                    false if number < min => refuse(ErrorType::Invalid, format!("should be greater than or equal to {min}")),
                    _ => {}
                }
            }
            if let Some(max) = schema["maximum"].as_f64() {
                match schema["exclusiveMaximum"] == true {
                    true if number >= max => refuse(ErrorType::Invalid, format!("should be less than {max}")),
                    false if number > max => refuse(ErrorType::Invalid, format!("should be less than or equal to {max}")),
                    _ => {}
                }
            }
            if let Some(step) = schema["multipleOf"].as_f64().filter(|step| *step > 0.0)
                && (number / step).fract() != 0.0
            {
                refuse(ErrorType::Invalid, format!("should be a multiple of {step}"));
            }
        }
        Value::String(text) => {
            let length = text.chars().count() as u64;
            if let Some(min) = limit("minLength").filter(|min| length < *min) {
                refuse(ErrorType::Invalid, format!("should be at least {min} chars long"));
            }
            if let Some(max) = limit("maxLength").filter(|max| length > *max) {
                refuse(ErrorType::TooLong, format!("should be at most {max} chars long"));
            }
            if let Some(pattern) = schema["pattern"].as_str()
                && !Regex::new(pattern).is_ok_and(|regex| regex.is_match(text))
            {
                refuse(ErrorType::Invalid, format!("should match '{pattern}'"));
            }
        }
        Value::Array(items) => {
            let length = items.len() as u64;
            if let Some(min) = limit("minItems").filter(|min| length < *min) {
                refuse(ErrorType::Invalid, format!("should have at least {min} items"));
            }
            if let Some(max) = limit("maxItems").filter(|max| length > *max) {
                refuse(ErrorType::TooMany, format!("should have at most {max} items"));
            }
            let unique = schema["uniqueItems"] == true || schema["x-kubernetes-list-type"] == "set";
            if unique && items.iter().enumerate().any(|(at, item)| items[..at].contains(item)) {
                refuse(ErrorType::Duplicate, "shouldn't contain duplicates".to_owned());
            }
        }
        Value::Object(map) => {
            let length = map.len() as u64;
            if let Some(min) = limit("minProperties").filter(|min| length < *min) {
                refuse(ErrorType::Invalid, format!("should have at least {min} properties"));
            }
            if let Some(max) = limit("maxProperties").filter(|max| length > *max) {
                refuse(ErrorType::TooMany, format!("should have at most {max} properties"));
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}

/// `allOf`, `anyOf`, `oneOf` and `not`: these hold value validations only, no types.
fn junctors(schema: &Value, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let shown = if path.is_empty() { "<nil>" } else { path };
    let holds = |schema: &Value| fits(schema, value, path);
    let list = |keyword: &str| schema[keyword].as_array().filter(|list| !list.is_empty());
    for schema in list("allOf").into_iter().flatten() {
        walk(schema, value, path, errors);
        missing(schema, value, path, errors);
    }
    let mut refuse = |what: String| errors.push(field_error(ErrorType::Invalid, shown, value.clone(), &what));
    if let Some(any) = list("anyOf")
        && !any.iter().any(holds)
    {
        refuse(format!("{shown} in body must validate at least one schema (anyOf)"));
    }
    if let Some(one) = list("oneOf")
        && one.iter().filter(|schema| holds(schema)).count() != 1
    {
        refuse(format!("{shown} in body must validate one and only one schema (oneOf)"));
    }
    if schema["not"].is_object() && holds(&schema["not"]) {
        refuse(format!("{shown} in body must not validate the schema (not)"));
    }
}

fn missing(schema: &Value, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if value.get(name).is_none() {
            let field = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            errors.push(field_error(ErrorType::Required, &field, Value::Null, ""));
        }
    }
}

fn fits(schema: &Value, value: &Value, path: &str) -> bool {
    let typed = match schema["type"].as_str() {
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        _ => true,
    };
    let mut errors = Vec::new();
    missing(schema, value, path, &mut errors);
    if schema["enum"].as_array().is_some_and(|allowed| !allowed.contains(value)) {
        return false;
    }
    walk(schema, value, path, &mut errors);
    if let (Some(properties), Some(map)) = (schema["properties"].as_object(), value.as_object()) {
        let child_fits = |(name, schema): (&String, &Value)| map.get(name).is_none_or(|child| fits(schema, child, name));
        if !properties.iter().all(child_fits) {
            return false;
        }
    }
    typed && errors.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bounds_and_junctors() {
        let check = |schema: Value, value: Value, count: usize| {
            let mut errors = Vec::new();
            walk(&schema, &json!({"spec": value}), "", &mut errors);
            assert_eq!(errors.len(), count, "{schema} {errors:?}");
        };
        let of = |schema: Value| json!({"properties": {"spec": schema}});
        check(of(json!({"minimum": 1})), json!(0), 1);
        check(of(json!({"pattern": "^a"})), json!("ab"), 0);
        check(of(json!({"pattern": "^a"})), json!("b"), 1);
        check(of(json!({"maxItems": 1})), json!([1, 2]), 1);
        check(of(json!({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]})), json!({"a": 1}), 0);
        check(of(json!({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]})), json!({"a": 1, "b": 1}), 1);
        check(of(json!({"not": {"required": ["a"]}})), json!({"a": 1}), 1);
    }
}
