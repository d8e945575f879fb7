//! Rules, evaluated over an object.
//!
//! `apiextensions-apiserver/pkg/apiserver/schema/cel/validation.go`.

use pharos_api::validation::{ErrorType, FieldError};
use pharos_cel::{Bindings, Budget, EvaluationError, RUNTIME_BUDGET};
use serde_json::Value;

use super::{
    Node, Rule, Rules,
    correlation::{self, Pair, Ratchet},
};
use crate::strategy::field_error;

/// The longest message an expression may make.
const MAX_MESSAGE: usize = 5 * 1024;

const OUT_OF_BUDGET: &str = "validation failed due to running out of cost budget, no further validation rules will be run";

/// What is wrong with an object.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) errors: Vec<FieldError>,
    /// What was wrong before, and was not touched.
    pub(crate) warnings: Vec<String>,
}

impl Rules {
    /// Evaluates all rules; `old` is the object before an update.
    pub(crate) fn check(&self, object: &Value, old: Option<&Value>) -> Findings {
        self.check_within(object, old, RUNTIME_BUDGET)
    }

    fn check_within(&self, object: &Value, old: Option<&Value>, budget: u64) -> Findings {
        let mut run = Run { budget: Budget::new(budget), findings: Findings::default() };
        let current = old.map(|old| Pair { schema: &self.schema, new: object, old });
        // What ends the run is among the findings.
        let _ = run.node(&self.root, "", object, old, Ratchet { current, nearest: None });
        run.findings
    }
}

/// The run is over: it costs too much to go on.
struct Over;

struct Run {
    budget: Budget,
    findings: Findings,
}

/// A path the way errors show it.
fn shown(path: &str) -> &str {
    if path.is_empty() { "<nil>" } else { path }
}

fn child(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

impl Run {
    fn node(&mut self, node: &Node, path: &str, new: &Value, old: Option<&Value>, ratchet: Ratchet<'_>) -> Result<(), Over> {
        if new.is_null() {
            return Ok(());
        }
        let old = old.filter(|old| !old.is_null());
        self.rules(node, path, new, old, &ratchet)?;
        for all_of in &node.all_of {
            self.node(all_of, path, new, old, Ratchet { current: None, nearest: ratchet.nearest })?;
        }
        match new {
            Value::Array(items) => {
                let Some(inner) = &node.items else { return Ok(()) };
                for (at, item) in items.iter().enumerate() {
                    let old = node.list_map_keys.as_ref().and_then(|keys| correlation::item(item, old, keys));
                    self.node(inner, &format!("{path}[{at}]"), item, old, ratchet.index(at))?;
                }
            }
            Value::Object(members) => {
                for (name, value) in members {
                    let old = old.and_then(|old| old.get(name));
                    if let Some(inner) = &node.values {
                        self.node(inner, &format!("{path}[{name}]"), value, old, ratchet.member(name))?;
                    }
                    if let Some(inner) = node.properties.get(name) {
                        self.node(inner, &child(path, name), value, old, ratchet.member(name))?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn invalid(&mut self, node: &Node, path: &str, detail: &str) {
        let value = Value::String(node.ty.clone());
        self.findings.errors.push(field_error(ErrorType::Invalid, shown(path), value, detail));
    }

    fn rules(&mut self, node: &Node, path: &str, new: &Value, old: Option<&Value>, ratchet: &Ratchet<'_>) -> Result<(), Over> {
        if node.rules.is_empty() {
            return Ok(());
        }
        if self.budget.left() == 0 {
            self.invalid(node, path, OUT_OF_BUDGET);
            return Err(Over);
        }
        for rule in &node.rules {
            // Rules of transitions need something to come from.
            if rule.uses_old && old.is_none() && !rule.optional_old {
                continue;
            }
            let program = match &rule.program {
                Ok(program) => program,
                Err(error) => {
                    self.invalid(node, path, &format!("rule compile error: {error}"));
                    continue;
                }
            };
            let mut bindings = Bindings::new().declared("self", new, &node.declaration);
            if rule.optional_old {
                bindings = bindings.optional("oldSelf", old, &node.declaration);
            } else if let Some(old) = old {
                bindings = bindings.declared("oldSelf", old, &node.declaration);
            }
            match program.evaluate_bool(&bindings, &mut self.budget) {
                Ok(true) => {}
                Ok(false) => self.failed(node, rule, path, new, &bindings, ratchet)?,
                Err(error) => self.erred(node, rule, path, &error)?,
            }
        }
        Ok(())
    }

    fn erred(&mut self, node: &Node, rule: &Rule, path: &str, error: &EvaluationError) -> Result<(), Over> {
        let name = rule.name();
        match error {
            EvaluationError::Budget => {
                self.invalid(node, path, OUT_OF_BUDGET);
                Err(Over)
            }
            EvaluationError::CostLimit => {
                let why = "no further validation rules will be run due to call cost exceeds limit for rule";
                self.invalid(node, path, &format!("'{error}': {why}: {name}"));
                Err(Over)
            }
            error if error.to_string().starts_with("no such overload") => {
                let why = "call arguments did not match a supported operator, function or macro signature for rule";
                self.invalid(node, path, &format!("'{error}': {why}: {name}"));
                Ok(())
            }
            error => {
                self.invalid(node, path, &format!("{error} evaluating rule: {name}"));
                Ok(())
            }
        }
    }

    fn failed(
        &mut self,
        node: &Node,
        rule: &Rule,
        path: &str,
        new: &Value,
        bindings: &Bindings<'_>,
        ratchet: &Ratchet<'_>,
    ) -> Result<(), Over> {
        let path = match rule.field_path.as_str() {
            "" => path.to_owned(),
            field => child(path, field),
        };
        let unchanged = !rule.uses_old && ratchet.is_unchanged();
        let detail = match self.message(rule, bindings) {
            Ok(detail) => detail,
            Err(detail) => {
                self.tell(unchanged, field_error(ErrorType::Invalid, shown(&path), Value::String(node.ty.clone()), &detail));
                return Err(Over);
            }
        };
        let container = matches!(node.ty.as_str(), "object" | "array");
        let ty = match rule.reason.as_str() {
            "FieldValueForbidden" => ErrorType::Forbidden,
            "FieldValueRequired" => ErrorType::Required,
            "FieldValueDuplicate" => ErrorType::Duplicate,
            // An object is too long to be shown.
            _ if container => ErrorType::InvalidUnshown,
            _ => ErrorType::Invalid,
        };
        let value = if container { Value::Null } else { new.clone() };
        let detail = if ty == ErrorType::Duplicate { "" } else { detail.as_str() };
        self.tell(unchanged, field_error(ty, shown(&path), value, detail));
        Ok(())
    }

    fn tell(&mut self, unchanged: bool, error: FieldError) {
        if unchanged {
            self.findings.warnings.push(error.to_string());
        } else {
            self.findings.errors.push(error);
        }
    }

    /// What to say of a rule that failed.
    ///
    /// # Errors
    ///
    /// What to say instead, when finding that out cost too much.
    fn message(&mut self, rule: &Rule, bindings: &Bindings<'_>) -> Result<String, String> {
        let otherwise = if rule.message.is_empty() { format!("failed rule: {}", rule.source) } else { rule.message.clone() };
        let Some(program) = &rule.message_program else { return Ok(otherwise) };
        match program.evaluate_string(bindings, &mut self.budget) {
            Ok(message) => {
                let message = message.trim();
                let fits = !message.is_empty() && message.len() <= MAX_MESSAGE && !message.contains('\n');
                Ok(if fits { message.to_owned() } else { otherwise })
            }
            Err(EvaluationError::Budget) => {
                Err("messageExpression evaluation failed due to running out of cost budget, no further validation rules will be \
                     run"
                .to_owned())
            }
            Err(EvaluationError::CostLimit) => {
                let source = pharos_api::status::go_quote(program.source());
                let why = "no further validation rules will be run due to call cost exceeds limit for messageExpression";
                Err(format!("{why}: {source}"))
            }
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "messageExpression evaluation failed");
                Ok(otherwise)
            }
        }
    }
}

#[cfg(test)]
mod tests;
