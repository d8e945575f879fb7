//! Whether the expressions in policies and webhook configurations compile, and to values of the right type.
//!
//! Follows `pkg/apis/admissionregistration/validation/validation.go`.

use pharos_api::{registry::Kind, validation::FieldError};
use pharos_cel::{Environment, Program, Type};
use serde_json::{Map, Value, json};

use super::{MUTATING, VALIDATING, definition};
use crate::admission::{GROUP, expression::Names};

/// What is wrong with the expressions of a new state. Conditions that stay as they were are not looked at again.
pub(crate) fn validate(kind: &Kind, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut check = Check { errors: Vec::new() };
    if kind.group != GROUP {
        return check.errors;
    }
    match kind.plural.as_ref() {
        VALIDATING => check.validating(&new["spec"], old.map(|old| &old["spec"])),
        MUTATING => check.mutating(&new["spec"], old.map(|old| &old["spec"])),
        "mutatingwebhookconfigurations" | "validatingwebhookconfigurations" => {
            check.webhooks(&new["webhooks"], old.map(|old| &old["webhooks"]));
        }
        _ => {}
    }
    check.errors
}

struct Check {
    errors: Vec<FieldError>,
}

/// What an expression may come to.
#[derive(Clone, Copy)]
enum Wanted {
    Bool,
    String,
    StringOrNull,
    /// `Object{…}`.
    Object,
    /// A list of `JSONPatch{…}`.
    Patches,
    Any,
}

impl Wanted {
    /// What is wrong with an expression's type, if something is.
    fn complaint(self, program: &Program) -> Option<String> {
        let found = name_of(program);
        let (fits, wanted) = match self {
            Wanted::Any => return None,
            Wanted::Bool => (program.result_type() == Type::Bool, "bool"),
            Wanted::String => (program.result_type() == Type::String, "string"),
            Wanted::StringOrNull => {
                let fits = matches!(program.result_type(), Type::String | Type::Null);
                return (!fits).then(|| format!("must evaluate to one of [string null_type] but got {found}"));
            }
            Wanted::Object => (found == "Object", "Object"),
            Wanted::Patches => (found == "list(JSONPatch)", "list(JSONPatch)"),
        };
        (!fits).then(|| format!("must evaluate to {wanted} but got {found}"))
    }
}

/// A program's type as cel-go prints it.
fn name_of(program: &Program) -> &str {
    match program.result_type() {
        Type::Null => "null_type",
        Type::Timestamp => "google.protobuf.Timestamp",
        Type::Duration => "google.protobuf.Duration",
        _ => program.result_type_name(),
    }
}

/// The variables of a policy by their types, as a schema; grows with each that is checked.
#[derive(Default)]
pub(super) struct VariableTypes(Map<String, Value>);

impl VariableTypes {
    pub(super) fn add(&mut self, name: &str, program: Option<&Program>) {
        self.0.insert(name.to_owned(), schema_of(program.map_or(Type::Dyn, Program::result_type)));
    }

    pub(super) fn schema(&self) -> Value {
        json!({"type": "object", "properties": self.0})
    }
}

/// A schema whose values have a type. What can have members of any kind is left open, as an integer or a string would be.
fn schema_of(ty: Type) -> Value {
    let open = || json!({"x-kubernetes-int-or-string": true});
    match ty {
        Type::Bool => json!({"type": "boolean"}),
        Type::Int => json!({"type": "integer", "format": "int64"}),
        Type::Double => json!({"type": "number"}),
        Type::String => json!({"type": "string"}),
        Type::Bytes => json!({"type": "string", "format": "byte"}),
        Type::Timestamp => json!({"type": "string", "format": "date-time"}),
        Type::Duration => json!({"type": "string", "format": "duration"}),
        Type::List => json!({"type": "array", "items": open()}),
        Type::Map => json!({"type": "object", "additionalProperties": open()}),
        _ => open(),
    }
}

fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = (usize, &'a Value)> + use<'a> {
    value[field].as_array().into_iter().flatten().enumerate()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

impl Check {
    fn validating(&mut self, spec: &Value, old: Option<&Value>) {
        let (names, variables) = self.common(spec, old);
        let environment = names.checking(&variables.schema());
        let for_messages = Names { authorizer: false, ..names }.checking(&variables.schema());
        for (index, rule) in list(spec, "validations") {
            let path = |field: &str| format!("spec.validations[{index}].{field}");
            self.expression(&environment, text(rule, "expression"), Wanted::Bool, path("expression"));
            let message = text(rule, "messageExpression");
            self.expression(&for_messages, message, Wanted::String, path("messageExpression"));
        }
        for (index, annotation) in list(spec, "auditAnnotations") {
            let path = format!("spec.auditAnnotations[{index}].valueExpression");
            self.expression(&environment, text(annotation, "valueExpression").trim(), Wanted::StringOrNull, path);
        }
    }

    fn mutating(&mut self, spec: &Value, old: Option<&Value>) {
        let (names, variables) = self.common(spec, old);
        let environment = names.checking(&variables.schema());
        for (index, mutation) in list(spec, "mutations") {
            for (member, wanted) in [("applyConfiguration", Wanted::Object), ("jsonPatch", Wanted::Patches)] {
                let path = format!("spec.mutations[{index}].{member}.expression");
                self.expression(&environment, text(&mutation[member], "expression"), wanted, path);
            }
        }
    }

    /// Match conditions and variables, which both kinds of policy have; names and types of the latter.
    fn common(&mut self, spec: &Value, old: Option<&Value>) -> (Names, VariableTypes) {
        let names = definition::names(spec);
        let same = |old: &Value| old["matchConditions"] == spec["matchConditions"] && old["paramKind"] == spec["paramKind"];
        if !old.is_some_and(same) {
            // Variables are for what a policy says of an object, not for whether it says anything.
            self.conditions(spec, Names { variables: false, ..names }, "spec.matchConditions");
        }
        let mut variables = VariableTypes::default();
        for (index, variable) in list(spec, "variables") {
            let environment = names.checking(&variables.schema());
            let path = format!("spec.variables[{index}].expression");
            let program = self.expression(&environment, text(variable, "expression"), Wanted::Any, path);
            variables.add(text(variable, "name"), program.as_ref());
        }
        (names, variables)
    }

    fn webhooks(&mut self, new: &Value, old: Option<&Value>) {
        let conditions = |webhooks: &Value| -> Vec<Value> {
            webhooks.as_array().into_iter().flatten().map(|webhook| webhook["matchConditions"].clone()).collect()
        };
        if old.is_some_and(|old| conditions(old) == conditions(new)) {
            return;
        }
        let names = Names { authorizer: true, ..Names::default() };
        for (index, webhook) in new.as_array().into_iter().flatten().enumerate() {
            self.conditions(webhook, names, &format!("webhooks[{index}].matchConditions"));
        }
    }

    fn conditions(&mut self, holder: &Value, names: Names, path: &str) {
        if holder["matchConditions"].as_array().is_none_or(Vec::is_empty) {
            return;
        }
        let environment = names.checking(&Value::Null);
        for (index, condition) in list(holder, "matchConditions") {
            let path = format!("{path}[{index}].expression");
            self.expression(&environment, text(condition, "expression").trim(), Wanted::Bool, path);
        }
    }

    /// Compiles one expression. One that is blank is another check's to refuse.
    fn expression(&mut self, environment: &Environment, source: &str, wanted: Wanted, path: String) -> Option<Program> {
        if source.trim().is_empty() {
            return None;
        }
        let complaint = match Program::compile(environment, source) {
            Ok(program) => match wanted.complaint(&program) {
                None => return Some(program),
                Some(complaint) => complaint,
            },
            Err(error) => format!("compilation failed: {error}"),
        };
        self.errors.push(FieldError::invalid(path, source, complaint));
        None
    }
}
