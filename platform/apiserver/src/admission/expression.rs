//! The expression language as admission uses it: which names expressions know, and what they stand for.
//!
//! Follows `apiserver/pkg/admission/plugin/cel`.

use std::sync::LazyLock;

use pharos_api::registry::Kind;
use pharos_cel::{Authorizer, Bindings, Budget, CheckAttributes, CheckDecision, Environment, EvaluationError, Program};
use serde_json::{Value, json};

use super::{
    Attributes,
    request::{self, namespace},
};
use crate::{authn::UserInfo, authz};

static NULL: Value = Value::Null;

/// Which names an expression knows beside `object`, `oldObject`, `request` and `namespaceObject`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) params: bool,
    pub(super) authorizer: bool,
    pub(super) variables: bool,
}

impl Names {
    /// The names alone: an expression that was accepted once is compiled with these to be evaluated.
    pub(super) fn environment(self) -> Environment {
        let optional = [(self.params, "params"), (self.authorizer, "authorizer"), (self.variables, "variables")];
        let optional = optional.into_iter().filter(|(known, _)| *known).map(|(_, name)| name);
        Environment::new(["object", "oldObject", "request", "namespaceObject"].into_iter().chain(optional))
    }

    /// The same with the types that are known whatever the request, and the variables by their types: what an expression is
    /// checked in before it is accepted.
    pub(super) fn checking(self, variables: &Value) -> Environment {
        let environment = self.environment().with_schema("request", &REQUEST).with_schema("namespaceObject", &NAMESPACE);
        if self.variables { environment.with_schema("variables", variables) } else { environment }
    }
}

fn object(fields: Value) -> Value {
    json!({"type": "object", "properties": fields})
}

/// `BuildRequestType` in `compile.go`. What may be anything is an integer or a string, whose type is left open too.
static REQUEST: LazyLock<Value> = LazyLock::new(|| {
    let text = json!({"type": "string"});
    let texts = json!({"type": "array", "items": text});
    let gvk = object(json!({"group": text, "version": text, "kind": text}));
    let gvr = object(json!({"group": text, "version": text, "resource": text}));
    let user = object(json!({
        "username": text, "uid": text, "groups": texts, "extra": {"type": "object", "additionalProperties": texts},
    }));
    object(json!({
        "kind": gvk, "resource": gvr, "subResource": text, "requestKind": gvk, "requestResource": gvr,
        "requestSubResource": text, "name": text, "namespace": text, "operation": text, "userInfo": user,
        "dryRun": {"type": "boolean"}, "options": {"x-kubernetes-int-or-string": true},
    }))
});

/// `BuildNamespaceType` in `compile.go`.
static NAMESPACE: LazyLock<Value> = LazyLock::new(|| {
    let text = json!({"type": "string"});
    let time = json!({"type": "string", "format": "date-time"});
    let whole = json!({"type": "integer", "format": "int64"});
    let texts = json!({"type": "array", "items": text});
    let labels = json!({"type": "object", "additionalProperties": text});
    let condition = object(json!({"status": text, "type": text, "lastTransitionTime": time, "message": text, "reason": text}));
    let metadata = object(json!({
        "name": text, "generateName": text, "namespace": text, "labels": labels, "annotations": labels, "UID": text,
        "creationTimestamp": time, "deletionGracePeriodSeconds": whole, "deletionTimestamp": time, "generation": whole,
        "resourceVersion": text, "finalizers": texts,
    }));
    let status = object(json!({"conditions": {"type": "array", "items": condition}, "phase": text}));
    let mut namespace = object(json!({"metadata": metadata, "spec": object(json!({"finalizers": texts})), "status": status}));
    namespace["nullable"] = json!(true);
    namespace
});

/// An expression, compiled; or why it could not be.
#[derive(Debug, Clone)]
pub(super) struct Expression {
    pub(super) source: String,
    program: Result<Program, String>,
}

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// It is at fault itself.
    Expression(String),
    /// All there was to spend is spent: nothing more is evaluated.
    Budget(String),
}

impl Expression {
    pub(super) fn compile(environment: &Environment, source: &str) -> Self {
        let program = Program::compile(environment, source).map_err(|error| format!("compilation failed: {error}"));
        Expression { source: source.to_owned(), program }
    }

    /// The value, or why there is none, in upstream's words.
    pub(super) fn evaluate(&self, bindings: &Bindings<'_>, budget: &mut Budget) -> Result<pharos_cel::Value, Failure> {
        let program = self.program.as_ref().map_err(|why| Failure::Expression(format!("compilation error: {why}")))?;
        program.evaluate(bindings, budget).map_err(|error| match error {
            EvaluationError::Budget => Failure::Budget(error.to_string()),
            error => Failure::Expression(format!("expression '{}' resulted in error: {error}", self.source)),
        })
    }
}

/// The variables of a policy, compiled in order. One that does not compile makes all its expressions fail.
#[derive(Debug, Clone, Default)]
pub(super) struct Variables {
    members: Vec<(String, Program)>,
    broken: Option<String>,
}

impl Variables {
    pub(super) fn compile(variables: &Value, names: Names) -> Self {
        let environment = Names { variables: true, ..names }.environment();
        let mut compiled = Variables::default();
        for variable in variables.as_array().into_iter().flatten() {
            let text = |field: &str| variable[field].as_str().unwrap_or_default();
            match Program::compile(&environment, text("expression")) {
                Ok(program) => compiled.members.push((text("name").to_owned(), program)),
                Err(error) => {
                    let why = format!("composited variable {:?} fails to compile: compilation failed: {error}", text("name"));
                    compiled.broken.get_or_insert(why);
                }
            }
        }
        compiled
    }

    /// Why no expression can be evaluated, if so.
    pub(super) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }
}

/// What the names of an expression stand for. What is absent is null.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    request: &'a Value,
    object: &'a Value,
    old: &'a Value,
    params: &'a Value,
    namespace: &'a Value,
    asker: &'a Asker<'a>,
}

impl<'a> Input<'a> {
    pub(super) fn new(request: &'a Value, object: Option<&'a Value>, old: Option<&'a Value>, asker: &'a Asker<'a>) -> Self {
        Input { request, object: object.unwrap_or(&NULL), old: old.unwrap_or(&NULL), params: &NULL, namespace: &NULL, asker }
    }

    /// For a policy: with its parameter and the namespace of the request.
    pub(super) fn with_params(self, params: &'a Value, namespace: &'a Value) -> Self {
        Input { params, namespace, ..self }
    }

    /// Match conditions know no namespace (`matchconditions/matcher.go`).
    pub(super) fn without_namespace(self) -> Self {
        Input { namespace: &NULL, ..self }
    }

    pub(super) fn bindings(&self, variables: &'a Variables) -> Bindings<'a> {
        Bindings::new()
            .json("object", self.object)
            .json("oldObject", self.old)
            .json("request", self.request)
            .json("params", self.params)
            .json("namespaceObject", self.namespace)
            .authorizer(self.asker)
            .lazy("variables", &variables.members)
    }
}

/// The variable `request`. Options that are absent are not in it.
pub(super) fn request(attributes: &Attributes<'_>, kind: &Kind) -> Value {
    let mut request = request::describe(attributes, kind);
    if let Some(fields) = request.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    request
}

/// The variable `namespaceObject`: of the metadata what a Namespace says of itself (`CreateNamespaceObject`).
pub(super) fn namespace_object(namespace: &Value) -> Value {
    const METADATA: [&str; 12] = [
        "name",
        "generateName",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "labels",
        "annotations",
        "finalizers",
    ];
    let kept = METADATA.iter().filter_map(|field| Some(((*field).to_owned(), namespace["metadata"].get(field)?.clone())));
    let mut shown = json!({"metadata": kept.collect::<serde_json::Map<_, _>>()});
    for field in ["spec", "status"] {
        shown[field] = namespace.get(field).cloned().unwrap_or_else(|| json!({}));
    }
    shown
}

/// Asks this server's own authorizer on behalf of an expression: may the user of the request do this?
pub(super) struct Asker<'a>(pub(super) &'a Attributes<'a>);

impl Authorizer for Asker<'_> {
    fn authorize(&self, check: &CheckAttributes) -> CheckDecision {
        let named = check.service_account.as_ref().map(|(namespace, name)| UserInfo::service_account(namespace, name, ""));
        let user = named.as_ref().unwrap_or(self.0.user);
        let attributes = match &check.path {
            Some(path) => authz::Attributes::path(user, &check.verb, path),
            None => authz::Attributes {
                field_selector: check.field_selector.as_deref().unwrap_or_default(),
                ..authz::Attributes::resource(user, &check.verb, &check.group, &check.resource, &check.namespace, &check.name)
            }
            .with_subresource(&check.subresource),
        };
        let decision = self.0.api.0.authorizer.authorize(&attributes);
        let denied = matches!(decision, authz::Decision::Deny(_));
        CheckDecision { allowed: decision.allowed(), denied, reason: decision.reason().to_owned(), error: None }
    }

    fn request_resource(&self) -> Option<CheckAttributes> {
        Some(CheckAttributes {
            group: self.0.kind.group.to_string(),
            resource: self.0.kind.plural.to_string(),
            subresource: self.0.subresource.to_owned(),
            namespace: namespace(self.0).to_owned(),
            name: self.0.name.to_owned(),
            ..CheckAttributes::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_without_bookkeeping() {
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": "a", "labels": {"x": "y"}, "managedFields": [], "ownerReferences": []},
            "spec": {"finalizers": ["kubernetes"]},
        });
        let wanted = json!({
            "metadata": {"name": "a", "labels": {"x": "y"}}, "spec": {"finalizers": ["kubernetes"]}, "status": {},
        });
        assert_eq!(namespace_object(&namespace), wanted);
    }
}
