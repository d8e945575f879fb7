//! Policies and their bindings, compiled.

use std::sync::Arc;

use pharos_api::{meta, selector::LabelSelector};
use serde_json::Value;

use crate::admission::{
    conditions::Conditions,
    expression::{Expression, Names, Variables},
    matching::Criteria,
};

/// A policy and what binds it.
#[derive(Debug, Clone)]
pub(super) struct Hook<R> {
    pub(super) policy: Arc<Policy<R>>,
    pub(super) bindings: Vec<Binding>,
}

/// A policy whose rules are `R`.
#[derive(Debug)]
pub(super) struct Policy<R> {
    pub(super) name: String,
    pub(super) fail_open: bool,
    pub(super) param_kind: Option<ParamKind>,
    pub(super) criteria: Criteria,
    pub(super) conditions: Conditions,
    pub(super) variables: Variables,
    pub(super) rules: R,
}

/// What kind parameters are of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ParamKind {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) kind: String,
}

impl ParamKind {
    pub(super) fn parse(value: &Value) -> Option<Self> {
        if value.is_null() {
            return None;
        }
        let (group, version) = meta::split_api_version(value["apiVersion"].as_str().unwrap_or_default());
        let kind = value["kind"].as_str().unwrap_or_default();
        Some(ParamKind { group: group.to_owned(), version: version.to_owned(), kind: kind.to_owned() })
    }
}

/// What a policy says of parameters and names: the same for both kinds.
pub(super) fn names(spec: &Value) -> Names {
    Names { params: !spec["paramKind"].is_null(), authorizer: true, variables: true }
}

/// The rules of a policy that refuses.
#[derive(Debug)]
pub(super) struct Validations {
    pub(super) validations: Vec<Validation>,
    pub(super) annotations: Vec<Annotation>,
}

#[derive(Debug)]
pub(super) struct Validation {
    pub(super) expression: Expression,
    pub(super) message: String,
    pub(super) message_expression: Option<Expression>,
    pub(super) reason: String,
}

#[derive(Debug)]
pub(super) struct Annotation {
    pub(super) key: String,
    pub(super) value: Expression,
}

/// The rules of a policy that changes.
#[derive(Debug)]
pub(super) struct Mutations {
    pub(super) mutations: Vec<Change>,
    /// Whether it wants to see what others have done after it.
    pub(super) reinvoke: bool,
}

#[derive(Debug)]
pub(super) struct Change {
    pub(super) kind: ChangeKind,
    pub(super) expression: Expression,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChangeKind {
    Apply,
    JsonPatch,
}

/// Rules that are read from a policy's `spec`.
pub(super) trait Rules: Sized + Send + Sync + 'static {
    fn compile(spec: &Value, names: Names) -> Self;
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value[field].as_array().into_iter().flatten()
}

impl Rules for Validations {
    fn compile(spec: &Value, names: Names) -> Self {
        let environment = names.environment();
        // A message is for whoever is refused: it is not to tell what others may do.
        let for_messages = Names { authorizer: false, ..names }.environment();
        let validation = |rule: &Value| Validation {
            expression: Expression::compile(&environment, text(rule, "expression")),
            message: text(rule, "message").to_owned(),
            message_expression: rule["messageExpression"]
                .as_str()
                .filter(|source| !source.is_empty())
                .map(|source| Expression::compile(&for_messages, source)),
            reason: rule["reason"].as_str().unwrap_or("Invalid").to_owned(),
        };
        let annotation = |annotation: &Value| Annotation {
            key: text(annotation, "key").to_owned(),
            value: Expression::compile(&environment, text(annotation, "valueExpression")),
        };
        Validations {
            validations: list(spec, "validations").map(validation).collect(),
            annotations: list(spec, "auditAnnotations").map(annotation).collect(),
        }
    }
}

impl Rules for Mutations {
    fn compile(spec: &Value, names: Names) -> Self {
        let environment = names.environment();
        let change = |mutation: &Value| {
            let (kind, member) = match text(mutation, "patchType") {
                "JSONPatch" => (ChangeKind::JsonPatch, "jsonPatch"),
                _ => (ChangeKind::Apply, "applyConfiguration"),
            };
            Change { kind, expression: Expression::compile(&environment, text(&mutation[member], "expression")) }
        };
        Mutations { mutations: list(spec, "mutations").map(change).collect(), reinvoke: spec["reinvocationPolicy"] == "IfNeeded" }
    }
}

impl<R: Rules> Policy<R> {
    pub(super) fn compile(policy: &Value) -> Self {
        let (name, spec) = (text(&policy["metadata"], "name"), &policy["spec"]);
        let names = names(spec);
        let fail_open = spec["failurePolicy"] == "Ignore";
        Policy {
            name: name.to_owned(),
            fail_open,
            param_kind: ParamKind::parse(&spec["paramKind"]),
            criteria: Criteria::of_policy(&spec["matchConstraints"]),
            conditions: Conditions::of_policy(name, spec, names, fail_open),
            variables: Variables::compile(&spec["variables"], names),
            rules: R::compile(spec, names),
        }
    }
}

/// What becomes of a write that a policy refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Deny,
    Warn,
    Audit,
}

impl Action {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Action::Deny => "Deny",
            Action::Warn => "Warn",
            Action::Audit => "Audit",
        }
    }
}

/// What makes a policy have effect.
#[derive(Debug, Clone)]
pub(super) struct Binding {
    pub(super) name: String,
    /// Which of the writes that the policy is for, if not all.
    pub(super) criteria: Option<Criteria>,
    pub(super) params: Option<ParamRef>,
    pub(super) actions: Vec<Action>,
}

/// Which objects are the parameters.
#[derive(Debug, Clone)]
pub(super) struct ParamRef {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) selector: Option<LabelSelector>,
    /// Whether there must be one.
    pub(super) required: bool,
}

impl Binding {
    pub(super) fn compile(binding: &Value) -> Self {
        let spec = &binding["spec"];
        let action = |action: &Value| match action.as_str()? {
            "Deny" => Some(Action::Deny),
            "Warn" => Some(Action::Warn),
            "Audit" => Some(Action::Audit),
            _ => None,
        };
        let resources = &spec["matchResources"];
        let params = &spec["paramRef"];
        Binding {
            name: text(&binding["metadata"], "name").to_owned(),
            criteria: (!resources.is_null()).then(|| Criteria::of_policy(resources)),
            params: (!params.is_null()).then(|| ParamRef {
                name: text(params, "name").to_owned(),
                namespace: text(params, "namespace").to_owned(),
                // One that cannot be read, which validation prevents, selects nothing.
                selector: params
                    .get("selector")
                    .filter(|selector| !selector.is_null())
                    .map(|selector| LabelSelector::from_value(Some(selector)).unwrap_or_else(|_| LabelSelector::nothing())),
                required: params["parameterNotFoundAction"] == "Deny",
            }),
            actions: list(spec, "validationActions").filter_map(action).collect(),
        }
    }
}
