//! What is wrong with the rules of a definition.
//!
//! `apiextensions-apiserver/pkg/apis/apiextensions/validation/{validation,cel_validation}.go`.

use std::sync::Arc;

use pharos_api::validation::{ErrorType, FieldError};
use pharos_cel::Declaration;
use serde_json::{Value, json};

use super::{compile, path, rules_of, text};
use crate::strategy::field_error;

/// What one rule may cost, by estimate.
const RULE_LIMIT: u64 = 10_000_000;

/// What all rules of a schema may cost together, by estimate.
const SCHEMA_LIMIT: u64 = 100_000_000;

const REASONS: [&str; 4] = ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

/// The errors of a schema's rules. `path` is where the schema is.
pub(crate) fn check(schema: &Value, path: &str) -> Vec<FieldError> {
    if !super::has_rules(schema) {
        return Vec::new();
    }
    let mut check = Check::default();
    let at = At { path: path.to_owned(), cardinality: Some(1), uncorrelatable: None };
    check.schema(schema, &at, Declaration::new(schema, true).as_ref());
    // What is wrong with a rule's form comes before what is wrong with its expression.
    let mut errors = check.form;
    let formed = errors.is_empty();
    if formed {
        errors = check.expressions;
    }
    if formed && check.total > SCHEMA_LIMIT {
        check.expensive.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
        for (path, _) in check.expensive.iter().take(4) {
            let why = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            errors.push(field_error(ErrorType::Forbidden, path, Value::Null, why));
        }
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        errors.push(field_error(ErrorType::Forbidden, path, Value::Null, &exceeds(what, check.total, SCHEMA_LIMIT)));
    }
    errors
}

#[derive(Default)]
struct Check {
    form: Vec<FieldError>,
    expressions: Vec<FieldError>,
    total: u64,
    expensive: Vec<(String, u64)>,
}

/// Where in a schema the check is.
struct At {
    path: String,
    /// How often there can be such a value; none if that is not bounded.
    cardinality: Option<u64>,
    /// The nearest schema above whose parts cannot be told from what they were.
    uncorrelatable: Option<String>,
}

/// How much more often than a container there can be what it contains.
fn factor(schema: &Value) -> Option<u64> {
    let limit = |keyword: &str| schema[keyword].as_i64().map(|limit| u64::try_from(limit).unwrap_or(0));
    match schema["type"].as_str() {
        Some("object") if schema["additionalProperties"].is_object() || schema["additionalProperties"] == true => {
            limit("maxProperties")
        }
        Some("array") => limit("maxItems"),
        _ => Some(1),
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with a digit or two")]
fn exceeds(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = match factor {
        factor if factor > 100.0 => "more than 100x".to_owned(),
        factor if factor < 1.5 => format!("{factor:.6}x"),
        factor => format!("{factor:.1}x"),
    };
    let advice =
        "try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared";
    format!("{what} exceeds budget by factor of {factor} ({advice})")
}

/// A rule as upstream shows it: its internal type.
fn shown(rule: &Value) -> Value {
    json!({
        "Rule": text(rule, "rule"),
        "Message": text(rule, "message"),
        "MessageExpression": text(rule, "messageExpression"),
        "Reason": rule.get("reason"),
        "FieldPath": text(rule, "fieldPath"),
        "OptionalOldSelf": rule.get("optionalOldSelf"),
    })
}

impl Check {
    fn schema(&mut self, schema: &Value, at: &At, declaration: Option<&Arc<Declaration>>) {
        let below = at.cardinality.zip(factor(schema)).map(|(count, factor)| count.saturating_mul(factor));
        let items = declaration.and_then(|declaration| declaration.items());
        let inner = |place: &str, uncorrelatable: Option<String>| At {
            path: format!("{}.{place}", at.path),
            cardinality: below,
            uncorrelatable,
        };
        if schema["additionalProperties"].is_object() {
            let at = inner("additionalProperties", at.uncorrelatable.clone());
            self.schema(&schema["additionalProperties"], &at, items);
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let declared = match pharos_cel::escape(name) {
                Some(_) => declaration.and_then(|declaration| declaration.property(name).cloned()),
                None => Declaration::new(property, property["x-kubernetes-embedded-resource"] == true),
            };
            self.schema(property, &inner(&format!("properties[{name}]"), at.uncorrelatable.clone()), declared.as_ref());
        }
        if schema["items"].is_object() {
            // Only map lists tell which item was which.
            let told = schema["x-kubernetes-list-type"] == "map";
            let uncorrelatable = if told { at.uncorrelatable.clone() } else { Some(at.path.clone()) };
            self.schema(&schema["items"], &inner("items", uncorrelatable), items);
        }
        for (index, rule) in rules_of(schema).enumerate() {
            let path = format!("{}.x-kubernetes-validations[{index}]", at.path);
            self.form(rule, schema, &path);
            match declaration {
                Some(declaration) => self.expression(rule, &path, at, declaration),
                None => self.expressions.push(field_error(
                    ErrorType::Internal,
                    &format!("{}.x-kubernetes-validations", at.path),
                    Value::Null,
                    "internal error: failed to construct type information for x-kubernetes-validations rules: unable to convert \
                     structural schema to CEL declarations",
                )),
            }
        }
    }

    fn form(&mut self, rule: &Value, schema: &Value, path: &str) {
        let mut refuse = |ty: ErrorType, field: &str, detail: &str| {
            let value = if ty == ErrorType::Required { Value::Null } else { rule[field].clone() };
            self.form.push(field_error(ty, &format!("{path}.{field}"), value, detail));
        };
        let lines = |text: &str| text.contains(['\n', '\r']);
        let (source, message) = (text(rule, "rule").trim(), text(rule, "message").trim());
        if source.is_empty() {
            refuse(ErrorType::Required, "rule", "rule is not specified");
        } else if !text(rule, "message").is_empty() && message.is_empty() {
            refuse(ErrorType::Invalid, "message", "must be non-empty if specified");
        } else if lines(message) {
            refuse(ErrorType::Invalid, "message", "must not contain line breaks");
        } else if lines(source) && message.is_empty() {
            refuse(ErrorType::Required, "message", "message must be specified if rule contains line breaks");
        }
        let expression = text(rule, "messageExpression");
        if !expression.is_empty() && expression.trim().is_empty() {
            refuse(ErrorType::Required, "messageExpression", "messageExpression must be non-empty if specified");
        }
        let field = text(rule, "fieldPath");
        if !field.is_empty() && field.trim().is_empty() {
            refuse(ErrorType::Invalid, "fieldPath", "must be non-empty if specified");
        }
        if lines(field) {
            refuse(ErrorType::Invalid, "fieldPath", "must not contain line breaks");
        }
        if !field.is_empty() && path::normalized(field, schema).is_none() {
            refuse(ErrorType::Invalid, "fieldPath", "must be a valid path");
        }
        if let Some(reason) = rule["reason"].as_str().filter(|reason| !REASONS.contains(reason)) {
            self.form.push(FieldError::not_supported(format!("{path}.reason"), reason, &REASONS));
        }
    }

    fn cost(&mut self, path: String, what: &str, cost: u64) {
        if cost > RULE_LIMIT {
            self.expressions.push(field_error(ErrorType::Forbidden, &path, Value::Null, &exceeds(what, cost, RULE_LIMIT)));
        }
        self.total = self.total.saturating_add(cost);
        if cost >= SCHEMA_LIMIT / 100 {
            self.expensive.push((path, cost));
        }
    }

    fn expression(&mut self, rule: &Value, path: &str, at: &At, declaration: &Arc<Declaration>) {
        if text(rule, "rule").trim().is_empty() {
            return;
        }
        let compiled = compile(rule, declaration);
        let mut refuse = |field: &str, value: Value, detail: &str| {
            self.expressions.push(field_error(ErrorType::Invalid, &format!("{path}.{field}"), value, detail));
        };
        if let Err(error) = &compiled.program {
            refuse("rule", shown(rule), error);
        }
        if let Some(Err(error)) = &compiled.message {
            refuse("messageExpression", shown(rule), error);
        }
        if compiled.uses_old {
            if let Some(above) = &at.uncorrelatable {
                let detail = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {above}");
                refuse("rule", rule["rule"].clone(), &detail);
            }
        } else if compiled.program.is_ok() && rule["optionalOldSelf"].is_boolean() {
            refuse("optionalOldSelf", rule["optionalOldSelf"].clone(), "may not be set if oldSelf is not used in rule");
        }
        if let Ok(program) = &compiled.program {
            let cost = program.max_cost().saturating_mul(at.cardinality.unwrap_or(declaration.max_cardinality()));
            self.cost(format!("{path}.rule"), "estimated rule cost", cost);
        }
        if let Some(Ok(program)) = &compiled.message {
            let cost = program.max_cost();
            self.cost(format!("{path}.messageExpression"), "estimated messageExpression cost", cost);
        }
    }
}
