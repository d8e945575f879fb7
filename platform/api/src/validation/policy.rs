//! Admission policies and their bindings (`pkg/apis/admissionregistration/validation/validation.go`). Whether the expressions in
//! them compile is the API server's to say, which has the compiler.

use std::collections::HashSet;

use super::admission::{match_conditions, rule};
use super::at::{At, Errors};
use crate::names;
use crate::status::FieldError;

const MAX_AUDIT_ANNOTATIONS: usize = 20;
/// Less than what the value may have, as an expression that puts texts together mostly gives more than it is long.
const MAX_VALUE_EXPRESSION_BYTES: usize = 5 * 1024;
const ONE_OF_BOTH: &str = "validations or auditAnnotations must contain at least one item";
const EXCLUSIVE: &str = "name and selector are mutually exclusive";
/// What a policy can change: a delete has nothing to change.
const MUTABLE: [&str; 4] = ["*", "CONNECT", "CREATE", "UPDATE"];

/// A ValidatingAdmissionPolicy.
pub(super) fn validating(root: &At<'_>, errors: &mut Errors) {
    let spec = root.field("spec");
    common(&spec, errors);
    let (validations, annotations) = (spec.field("validations"), spec.field("auditAnnotations"));
    if validations.len() == 0 && annotations.len() == 0 {
        errors.push(validations.required(ONE_OF_BOTH));
        errors.push(annotations.required(ONE_OF_BOTH));
        return;
    }
    validations.items().for_each(|rule| validation(&rule, errors));
    if annotations.len() > MAX_AUDIT_ANNOTATIONS {
        errors.push(annotations.invalid(format!("must not have more than {MAX_AUDIT_ANNOTATIONS} auditAnnotations")));
    }
    let policy = root.field("metadata").field("name");
    let mut keys = HashSet::new();
    for annotation in annotations.items() {
        let key = annotation.field("key");
        let full = format!("{}/{}", policy.text(), key.text());
        errors.extend(names::qualified_name(&full).into_iter().map(|why| FieldError::invalid(key.path(), full.as_str(), why)));
        let value = annotation.field("valueExpression");
        match value.text().trim().len() {
            0 => errors.push(value.required("valueExpression is not specified")),
            length if length > MAX_VALUE_EXPRESSION_BYTES => {
                errors.push(value.required(&format!("must not exceed {MAX_VALUE_EXPRESSION_BYTES} bytes in length")));
            }
            _ => {}
        }
        if !keys.insert(key.text()) {
            errors.push(key.duplicate());
        }
    }
}

/// A MutatingAdmissionPolicy.
pub(super) fn mutating(spec: &At<'_>, errors: &mut Errors) {
    common(spec, errors);
    operations(&spec.field("matchConstraints").field("resourceRules"), errors);
    let mutations = spec.field("mutations");
    if mutations.len() == 0 {
        errors.push(mutations.required("mutations must contain at least one item"));
    }
    mutations.items().for_each(|mutation| self::mutation(&mutation, errors));
    spec.field("reinvocationPolicy").must_be_one_of(&["IfNeeded", "Never"], errors);
}

/// A binding of either kind of policy.
pub(super) fn binding(spec: &At<'_>, mutating: bool, errors: &mut Errors) {
    let policy = spec.field("policyName");
    if policy.must_be_set("", errors) {
        policy.all(names::dns1123_subdomain(policy.text()), errors);
    }
    let reference = spec.field("paramRef");
    if !reference.is_absent() {
        param_ref(&reference, errors);
    }
    let resources = spec.field("matchResources");
    if !resources.is_absent() {
        match_resources(&resources, errors);
    }
    if mutating {
        operations(&resources.field("resourceRules"), errors);
    } else {
        validation_actions(&spec.field("validationActions"), errors);
    }
}

/// The status of a ValidatingAdmissionPolicy.
pub(super) fn status(status: &At<'_>, errors: &mut Errors) {
    for warning in status.field("typeChecking").field("expressionWarnings").items() {
        warning.field("warning").must_be_set("", errors);
        let reference = warning.field("fieldRef");
        if reference.text().trim().is_empty() {
            errors.push(reference.required(""));
        }
    }
}

/// What both kinds of policy have.
fn common(spec: &At<'_>, errors: &mut Errors) {
    spec.field("failurePolicy").must_be_one_of(&["Fail", "Ignore"], errors);
    let kind = spec.field("paramKind");
    if !kind.is_absent() {
        param_kind(&kind, errors);
    }
    let constraints = spec.field("matchConstraints");
    if constraints.is_absent() {
        errors.push(constraints.required(""));
    } else {
        match_resources(&constraints, errors);
        // Without one nothing says what types the expressions see.
        let rules = constraints.field("resourceRules");
        if rules.len() == 0 {
            errors.push(rules.required(""));
        }
    }
    match_conditions(&spec.field("matchConditions"), errors);
    for variable in spec.field("variables").items() {
        let (name, expression) = (variable.field("name"), variable.field("expression"));
        if name.text().trim().is_empty() {
            errors.push(name.required("name is not specified"));
        } else if !is_identifier(name.text()) {
            errors.push(name.invalid("name is not a valid CEL identifier"));
        }
        if expression.text().trim().is_empty() {
            errors.push(expression.required("expression is not specified"));
        }
    }
}

fn is_identifier(text: &str) -> bool {
    let mut letters = text.bytes();
    letters.next().is_some_and(|first| first == b'_' || first.is_ascii_alphabetic())
        && letters.all(|letter| letter == b'_' || letter.is_ascii_alphanumeric())
        && !names::is_reserved_in_expressions(text)
}

fn param_kind(kind: &At<'_>, errors: &mut Errors) {
    let version = kind.field("apiVersion");
    if version.must_be_set("", errors) {
        api_version(&version, errors);
    }
    let name = kind.field("kind");
    if name.must_be_set("", errors) {
        let complaints = names::dns1035_label(&name.text().to_ascii_lowercase());
        if !complaints.is_empty() {
            errors.push(name.invalid(format!("may have mixed case, but should otherwise match: {}", complaints.join(","))));
        }
    }
}

fn api_version(at: &At<'_>, errors: &mut Errors) {
    let text = at.text();
    let (group, version) = match text.matches('/').count() {
        0 => ("", text),
        1 => text.split_once('/').unwrap_or_default(),
        _ => {
            errors.push(at.invalid(format!("unexpected GroupVersion string: {text}")));
            return;
        }
    };
    let mut complain = |value: &str, complaints: Vec<String>| {
        if !complaints.is_empty() {
            errors.push(FieldError::invalid(at.path(), value, complaints.join(",")));
        }
    };
    if !group.is_empty() {
        complain(group, names::dns1123_subdomain(group));
    }
    if version.is_empty() {
        complain(text, vec!["version must be specified".to_owned()]);
    } else {
        complain(version, names::dns1035_label(version));
    }
}

fn match_resources(at: &At<'_>, errors: &mut Errors) {
    at.field("matchPolicy").must_be_one_of(&["Equivalent", "Exact"], errors);
    for field in ["namespaceSelector", "objectSelector"] {
        let selector = at.field(field);
        if selector.is_absent() {
            errors.push(selector.required(""));
        } else {
            selector.label_selector(errors);
        }
    }
    for list in ["resourceRules", "excludeResourceRules"] {
        for named in at.field(list).items() {
            let mut seen = HashSet::new();
            for name in named.field("resourceNames").items() {
                name.all(names::path_segment(name.text()), errors);
                if !seen.insert(name.text()) {
                    errors.push(name.duplicate());
                }
            }
            rule(&named, errors);
        }
    }
}

/// The operations of rules that are to change something.
fn operations(rules: &At<'_>, errors: &mut Errors) {
    for operation in rules.items().flat_map(|rule| rule.field("operations").items()) {
        if !MUTABLE.contains(&operation.text()) {
            errors.push(FieldError::not_supported(format!("{}.operations", rules.path()), operation.text(), &MUTABLE));
        }
    }
}

fn validation(at: &At<'_>, errors: &mut Errors) {
    let expression = at.field("expression");
    if expression.text().trim().is_empty() {
        errors.push(expression.required("expression is not specified"));
    }
    let blank = |field: &At<'_>| !field.text().is_empty() && field.text().trim().is_empty();
    let (message, message_expression) = (at.field("message"), at.field("messageExpression"));
    if blank(&message_expression) {
        errors.push(message_expression.invalid("must be non-empty if specified"));
    }
    if blank(&message) {
        errors.push(message.invalid("message must be non-empty if specified"));
    } else if message.text().trim().contains(['\n', '\r']) {
        errors.push(message.invalid("message must not contain line breaks"));
    }
    at.field("reason").one_of(&["Forbidden", "Invalid", "RequestEntityTooLarge"], errors);
}

/// A change of either kind: the member its `patchType` names, and no other.
fn mutation(at: &At<'_>, errors: &mut Errors) {
    let kind = at.field("patchType");
    kind.must_be_one_of(&["ApplyConfiguration", "JSONPatch"], errors);
    for (name, field) in [("ApplyConfiguration", "applyConfiguration"), ("JSONPatch", "jsonPatch")] {
        let member = at.field(field);
        match (kind.text() == name, member.is_absent()) {
            (true, true) => errors.push(member.required(&format!("must be specified when patchType is {name}"))),
            (true, false) => {
                let expression = member.field("expression");
                if expression.text().trim().is_empty() {
                    errors.push(expression.required("expression is not specified"));
                }
            }
            (false, false) if matches!(kind.text(), "ApplyConfiguration" | "JSONPatch") => {
                let why = format!("must not be specified when patchType is {}", kind.text());
                errors.push(FieldError::invalid(member.path(), format!("{{{field}}}"), why));
            }
            (false, _) => {}
        }
    }
}

fn validation_actions(actions: &At<'_>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for action in actions.items() {
        let allowed = ["Audit", "Deny", "Warn"];
        if !allowed.contains(&action.text()) {
            errors.push(FieldError::not_supported(action.path(), action.text(), &allowed));
        }
        if !seen.insert(action.text()) {
            errors.push(action.duplicate());
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        errors.push(actions.invalid(
            "must not contain both Deny and Warn (repeating the same validation failure information in the API response and \
             headers serves no purpose)",
        ));
    }
    if seen.is_empty() {
        errors.push(actions.required("at least one validation action is required"));
    }
}

fn param_ref(at: &At<'_>, errors: &mut Errors) {
    let (name, selector) = (at.field("name"), at.field("selector"));
    let named = !name.text().is_empty();
    if named {
        name.all(names::path_segment(name.text()), errors);
        if !selector.is_absent() {
            errors.push(name.forbidden(EXCLUSIVE));
        }
    }
    if !selector.is_absent() {
        selector.label_selector(errors);
        if named {
            errors.push(selector.forbidden(EXCLUSIVE));
        }
    } else if !named {
        errors.push(at.required("one of name or selector must be specified"));
    }
    at.field("parameterNotFoundAction").must_be_one_of(&["Allow", "Deny"], errors);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::registry;

    fn complaints(kind: &str, object: &Value) -> Vec<String> {
        let kind = registry::by_kind("admissionregistration.k8s.io", "v1", kind).unwrap();
        let mut object = object.clone();
        crate::defaulting::apply(kind, &mut object);
        crate::validation::validate(kind, &object, None).iter().map(ToString::to_string).collect()
    }

    fn constraints() -> Value {
        json!({"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}]})
    }

    fn check(kind: &str, base: &Value, table: &[(&str, Value, &[&str])]) {
        assert_eq!(complaints(kind, base), Vec::<String>::new(), "{kind}");
        for (pointer, value, wanted) in table {
            let mut object = base.clone();
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            let parent = if parent.is_empty() { &mut object } else { object.pointer_mut(parent).unwrap() };
            parent[field] = value.clone();
            let found = complaints(kind, &object);
            for wanted in *wanted {
                assert!(found.iter().any(|text| text.starts_with(wanted)), "{pointer} = {value}: {wanted:?} in {found:?}");
            }
            assert_eq!(found.is_empty(), wanted.is_empty(), "{pointer} = {value}: {found:?}");
        }
    }

    #[test]
    fn validating_policies() {
        let base = json!({"metadata": {"name": "p"}, "spec": {
            "matchConstraints": constraints(), "validations": [{"expression": "true"}],
        }});
        let many: Vec<Value> = (0..21).map(|n| json!({"key": format!("k{n}"), "valueExpression": "'v'"})).collect();
        check(
            "ValidatingAdmissionPolicy",
            &base,
            &[
                (
                    "/spec/failurePolicy",
                    json!("other"),
                    &["spec.failurePolicy: Unsupported value: \"other\": supported values: \"Fail\", \"Ignore\""],
                ),
                ("/spec/matchConstraints", Value::Null, &["spec.matchConstraints: Required value"]),
                ("/spec/matchConstraints", json!({}), &["spec.matchConstraints.resourceRules: Required value"]),
                (
                    "/spec/validations",
                    json!([]),
                    &[
                        "spec.validations: Required value: validations or auditAnnotations must contain at least one item",
                        "spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item",
                    ],
                ),
                (
                    "/spec/validations",
                    json!([{"expression": " "}]),
                    &["spec.validations[0].expression: Required value: expression is not specified"],
                ),
                (
                    "/spec/validations",
                    json!([{"expression": "true", "message": " "}]),
                    &["spec.validations[0].message: Invalid value: \" \": message must be non-empty if specified"],
                ),
                (
                    "/spec/validations",
                    json!([{"expression": "true", "message": "a\nb"}]),
                    &["spec.validations[0].message: Invalid value: \"a\\nb\": message must not contain line breaks"],
                ),
                (
                    "/spec/validations",
                    json!([{"expression": "true", "messageExpression": " "}]),
                    &["spec.validations[0].messageExpression: Invalid value: \" \": must be non-empty if specified"],
                ),
                (
                    "/spec/validations",
                    json!([{"expression": "true", "reason": "Odd"}]),
                    &["spec.validations[0].reason: Unsupported value: \"Odd\""],
                ),
                ("/spec/validations", json!([{"expression": "true ||\nfalse", "reason": "Forbidden"}]), &[]),
                (
                    "/spec/variables",
                    json!([{"name": "a-b", "expression": "1"}]),
                    &["spec.variables[0].name: Invalid value: \"a-b\": name is not a valid CEL identifier"],
                ),
                (
                    "/spec/variables",
                    json!([{"name": "in", "expression": ""}]),
                    &[
                        "spec.variables[0].name: Invalid value: \"in\"",
                        "spec.variables[0].expression: Required value: expression is not specified",
                    ],
                ),
                ("/spec/paramKind", json!({"apiVersion": "v1", "kind": "ConfigMap"}), &[]),
                (
                    "/spec/paramKind",
                    json!({"apiVersion": "a/b/c", "kind": "X"}),
                    &["spec.paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c"],
                ),
                (
                    "/spec/paramKind",
                    json!({"apiVersion": "a/", "kind": "X_"}),
                    &[
                        "spec.paramKind.apiVersion: Invalid value: \"a/\": version must be specified",
                        "spec.paramKind.kind: Invalid value: \"X_\": may have mixed case, but should otherwise match: ",
                    ],
                ),
                (
                    "/spec/paramKind",
                    json!({}),
                    &["spec.paramKind.apiVersion: Required value", "spec.paramKind.kind: Required value"],
                ),
                (
                    "/spec/auditAnnotations",
                    json!([{"key": "", "valueExpression": ""}]),
                    &[
                        "spec.auditAnnotations[0].key: Invalid value: \"p/\"",
                        "spec.auditAnnotations[0].valueExpression: Required value: valueExpression is not specified",
                    ],
                ),
                (
                    "/spec/auditAnnotations",
                    json!([{"key": "k", "valueExpression": "'v'"}, {"key": "k", "valueExpression": "'v'"}]),
                    &["spec.auditAnnotations[1].key: Duplicate value: \"k\""],
                ),
                ("/spec/auditAnnotations", json!(many), &["spec.auditAnnotations: Invalid value: "]),
                (
                    "/spec/matchConditions",
                    json!([{"name": "a", "expression": " "}]),
                    &["spec.matchConditions[0].expression: Required value"],
                ),
            ],
        );
    }

    #[test]
    fn mutating_policies() {
        let apply = json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{}"}});
        let base = json!({"metadata": {"name": "p"}, "spec": {
            "matchConstraints": constraints(), "reinvocationPolicy": "Never", "mutations": [apply],
        }});
        check(
            "MutatingAdmissionPolicy",
            &base,
            &[
                ("/spec/mutations", json!([]), &["spec.mutations: Required value: mutations must contain at least one item"]),
                ("/spec/mutations", json!([{}]), &["spec.mutations[0].patchType: Required value"]),
                (
                    "/spec/mutations",
                    json!([{"patchType": "JSONPatch", "applyConfiguration": {"expression": "Object{}"}}]),
                    &[
                        "spec.mutations[0].applyConfiguration: Invalid value: \"{applyConfiguration}\": must not be specified when patchType is JSONPatch",
                        "spec.mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch",
                    ],
                ),
                (
                    "/spec/mutations",
                    json!([{"patchType": "JSONPatch", "jsonPatch": {"expression": " "}}]),
                    &["spec.mutations[0].jsonPatch.expression: Required value"],
                ),
                ("/spec/reinvocationPolicy", Value::Null, &["spec.reinvocationPolicy: Required value"]),
                (
                    "/spec/matchConstraints/resourceRules/0/operations",
                    json!(["DELETE"]),
                    &[
                        "spec.matchConstraints.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\"",
                    ],
                ),
            ],
        );
    }

    #[test]
    fn bindings() {
        let base = json!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Deny"]}});
        check(
            "ValidatingAdmissionPolicyBinding",
            &base,
            &[
                ("/spec/policyName", json!(""), &["spec.policyName: Required value"]),
                ("/spec/policyName", json!("!!!"), &["spec.policyName: Invalid value: \"!!!\""]),
                (
                    "/spec/validationActions",
                    json!([]),
                    &["spec.validationActions: Required value: at least one validation action is required"],
                ),
                ("/spec/validationActions", json!(["Deny", "Warn"]), &["spec.validationActions: Invalid value: "]),
                (
                    "/spec/validationActions",
                    json!(["Audit", "Audit"]),
                    &["spec.validationActions[1]: Duplicate value: \"Audit\""],
                ),
                (
                    "/spec/validationActions",
                    json!(["Log"]),
                    &["spec.validationActions[0]: Unsupported value: \"Log\": supported values: \"Audit\", \"Deny\", \"Warn\""],
                ),
                ("/spec/matchResources", json!({}), &[]),
                ("/spec/paramRef", json!({"name": "x"}), &["spec.paramRef.parameterNotFoundAction: Required value"]),
                (
                    "/spec/paramRef",
                    json!({"parameterNotFoundAction": "Deny"}),
                    &["spec.paramRef: Required value: one of name or selector must be specified"],
                ),
                (
                    "/spec/paramRef",
                    json!({"name": "x", "selector": {}, "parameterNotFoundAction": "Allow"}),
                    &[
                        "spec.paramRef.name: Forbidden: name and selector are mutually exclusive",
                        "spec.paramRef.selector: Forbidden: name and selector are mutually exclusive",
                    ],
                ),
            ],
        );
        let base = json!({"metadata": {"name": "b"}, "spec": {"policyName": "p"}});
        let deletes = json!({"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["DELETE"]}]});
        check(
            "MutatingAdmissionPolicyBinding",
            &base,
            &[(
                "/spec/matchResources",
                deletes,
                &["spec.matchResources.resourceRules.operations: Unsupported value: \"DELETE\""],
            )],
        );
    }
}
