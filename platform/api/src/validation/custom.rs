//! Custom resources, by their structural schema: types, formats and required fields. (Bounds and validation rules are the
//! API server's.)

use serde_json::Value;

use super::at::Errors;
use super::format;
use crate::schema::{Schema, Type};
use crate::status::FieldError;

pub(super) fn object(schema: &Schema, value: &Value, errors: &mut Errors) {
    check(schema, value, String::new(), errors);
}

fn check(schema: &Schema, value: &Value, path: String, errors: &mut Errors) {
    let shape = schema.shape();
    if value.is_null() && schema.nullable {
        return;
    }
    let (wanted, fits) = match shape.ty {
        Type::Object | Type::Map => ("object", value.is_object()),
        Type::Array => ("array", value.is_array()),
        Type::String => ("string", value.is_string()),
        Type::Integer => ("integer", value.is_i64() || value.is_u64()),
        Type::Number => ("number", value.is_number()),
        Type::Boolean => ("boolean", value.is_boolean()),
        Type::IntOrString => ("integer,string", value.is_i64() || value.is_u64() || value.is_string()),
        _ => ("", true),
    };
    let shown = if path.is_empty() { "<nil>".to_owned() } else { path.clone() };
    if !fits {
        let found = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(n) if n.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        errors.push(FieldError::type_invalid(
            shown.clone(),
            found,
            format!("{shown} in body must be of type {wanted}: {found:?}"),
        ));
        return;
    }
    let join = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Object(map) => {
            for name in schema.required() {
                if !map.contains_key(name.as_ref()) {
                    errors.push(FieldError::required(join(name), ""));
                }
            }
            for (name, child) in map {
                if path.is_empty() && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                    continue;
                }
                if let Some(at) = shape.property_index(name) {
                    check(&shape.properties[at].schema, child, join(name), errors);
                } else if let Some(items) = shape.items.as_deref() {
                    check(items, child, join(name), errors);
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = shape.items.as_deref() {
                list.iter().enumerate().for_each(|(index, child)| check(items, child, format!("{path}[{index}]"), errors));
            }
        }
        Value::String(text) if shape.ty == Type::String && !shape.format.is_empty() && !format::fits(&shape.format, text) => {
            let detail = format!("{shown} in body must be of type {}: {text:?}", shape.format);
            errors.push(FieldError::type_invalid(shown.clone(), text.as_str(), detail));
        }
        _ => {}
    }
    let allowed = schema.owned_extra().map_or(&[][..], |extra| &extra.enumeration);
    if !allowed.is_empty() && !allowed.contains(value) {
        let texts: Vec<String> = allowed.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect();
        errors.push(FieldError::not_supported(shown, value.clone(), &texts));
    }
}
