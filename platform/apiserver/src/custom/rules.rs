//! Validation rules of custom resources: `x-kubernetes-validations`.
//!
//! Follows `staging/src/k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel`. Rules are compiled once, with the definition;
//! [`Rules::check`] evaluates them.

mod correlation; // What an update leaves alone,
mod definition; // what is wrong with rules themselves,
mod path; // the paths that rules name,
mod run; // and what is wrong with objects.

use std::{collections::BTreeMap, sync::Arc};

use pharos_cel::{Declaration, Environment, Program, Type};
use serde_json::Value;

pub(super) use definition::check as check_definition;
pub(crate) use run::Findings;

/// The rules of a schema and of all below it.
#[derive(Debug)]
pub(crate) struct Rules {
    root: Node,
    schema: Arc<Value>,
}

/// The rules of one part of a schema.
#[derive(Debug)]
struct Node {
    /// What `self` is.
    declaration: Arc<Declaration>,
    /// The schema's type.
    ty: String,
    rules: Vec<Rule>,
    /// Whether members of an object keep their names when it changes.
    list_map_keys: Option<Vec<String>>,
    items: Option<Box<Node>>,
    values: Option<Box<Node>>,
    properties: BTreeMap<String, Node>,
    all_of: Vec<Node>,
}

/// One rule.
#[derive(Debug)]
struct Rule {
    source: String,
    message: String,
    reason: String,
    /// Below the path of `self`, if errors are to be told there.
    field_path: String,
    optional_old: bool,
    uses_old: bool,
    program: Result<Program, String>,
    message_program: Option<Program>,
}

/// What comes of compiling a rule.
struct Compiled {
    program: Result<Program, String>,
    uses_old: bool,
    message: Option<Result<Program, String>>,
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_default()
}

fn rules_of(schema: &Value) -> impl Iterator<Item = &Value> {
    schema["x-kubernetes-validations"].as_array().into_iter().flatten()
}

/// Whether there are rules in a schema at all.
fn has_rules(schema: &Value) -> bool {
    let inside = |value: &Value| value.is_object() && has_rules(value);
    rules_of(schema).next().is_some()
        || schema["properties"].as_object().is_some_and(|properties| properties.values().any(inside))
        || schema["allOf"].as_array().is_some_and(|all| all.iter().any(inside))
        || ["items", "additionalProperties"].iter().any(|place| inside(&schema[*place]))
}

fn compile(rule: &Value, declaration: &Arc<Declaration>) -> Compiled {
    let environment = Environment::new([]).with_declaration("self", declaration);
    let environment = if rule["optionalOldSelf"] == true {
        environment.with_optional("oldSelf", declaration)
    } else {
        environment.with_declaration("oldSelf", declaration)
    };
    let of_type = |source: &str, ty: Type, prefix: &str, refusal: &str| match Program::compile(&environment, source) {
        Err(error) => Err(format!("{prefix}compilation failed: {error}")),
        Ok(program) if program.result_type() != ty => Err(refusal.to_owned()),
        Ok(program) => Ok(program),
    };
    let program = of_type(text(rule, "rule"), Type::Bool, "", "cel expression must evaluate to a bool");
    let message = text(rule, "messageExpression");
    let message = (!message.is_empty() && program.is_ok())
        .then(|| of_type(message, Type::String, "messageExpression ", "messageExpression must evaluate to a string"));
    Compiled { uses_old: program.as_ref().is_ok_and(|program| program.uses("oldSelf")), program, message }
}

impl Rules {
    /// The rules of a whole schema; none if it has none.
    pub(super) fn new(schema: &Value) -> Option<Self> {
        if !has_rules(schema) {
            return None;
        }
        let declaration = Declaration::new(schema, true)?;
        Some(Self { root: Node::new(schema, schema, &declaration)?, schema: Arc::new(schema.clone()) })
    }

    /// Whether these are the rules of that schema.
    pub(super) fn is_of(&self, schema: &Value) -> bool {
        *self.schema == *schema
    }
}

impl Node {
    /// `validation` has the rules, `schema` the types: in `allOf` they are apart. None if there are no rules here or below.
    fn new(validation: &Value, schema: &Value, declaration: &Arc<Declaration>) -> Option<Self> {
        let below = |place: &str| {
            let (validation, schema) = (&validation[place], &schema[place]);
            if !validation.is_object() || !schema.is_object() {
                return None;
            }
            Self::new(validation, schema, declaration.items()?).map(Box::new)
        };
        let (items, values) = (below("items"), below("additionalProperties"));
        let mut properties = BTreeMap::new();
        for (name, inner) in validation["properties"].as_object().into_iter().flatten() {
            let Some(property) = schema["properties"].get(name) else { continue };
            // What expressions cannot name has a declaration all the same.
            let declared = match pharos_cel::escape(name) {
                Some(_) => declaration.property(name).cloned(),
                None => Declaration::new(property, property["x-kubernetes-embedded-resource"] == true),
            };
            if let Some(node) = declared.and_then(|declared| Self::new(inner, property, &declared)) {
                properties.insert(name.clone(), node);
            }
        }
        let all_of = validation["allOf"].as_array().into_iter().flatten();
        let all_of: Vec<Self> = all_of.filter_map(|inner| Self::new(inner, schema, declaration)).collect();
        let rules: Vec<Rule> = rules_of(validation).map(|rule| Rule::new(rule, schema, declaration)).collect();
        if rules.is_empty() && items.is_none() && values.is_none() && properties.is_empty() && all_of.is_empty() {
            return None;
        }
        let list_map_keys = (schema["x-kubernetes-list-type"] == "map").then(|| correlation::keys(schema));
        let ty = text(schema, "type").to_owned();
        Some(Self { declaration: declaration.clone(), ty, rules, list_map_keys, items, values, properties, all_of })
    }
}

impl Rule {
    fn new(rule: &Value, schema: &Value, declaration: &Arc<Declaration>) -> Self {
        let compiled = compile(rule, declaration);
        let field_path = match text(rule, "fieldPath") {
            "" => String::new(),
            path => path::normalized(path, schema).unwrap_or_default(),
        };
        Self {
            source: text(rule, "rule").trim().to_owned(),
            message: text(rule, "message").trim().to_owned(),
            reason: text(rule, "reason").to_owned(),
            field_path,
            optional_old: rule["optionalOldSelf"] == true,
            uses_old: compiled.uses_old,
            program: compiled.program,
            message_program: compiled.message.and_then(Result::ok),
        }
    }

    /// How errors name the rule.
    fn name(&self) -> &str {
        if self.message.is_empty() { &self.source } else { &self.message }
    }
}
