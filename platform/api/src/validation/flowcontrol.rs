//! API priority and fairness (`pkg/apis/flowcontrol/validation/validation.go`).

use std::collections::HashSet;

use serde_json::{Value, json};

use super::at::{At, Errors};
use crate::flowcontrol::{self, EXEMPT, MAX_HASH_BITS, entropy_bits};
use crate::names;
use crate::status::FieldError;

const MAX_PRECEDENCE: i64 = 10_000;
const MAX_QUEUES: i64 = 10_000_000;
const VERBS: [&str; 9] = ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

/// Where a subject of each kind has its name.
const SUBJECTS: [(&str, &str); 3] = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];

/// A FlowSchema.
pub(super) fn flow_schema(root: &At<'_>, errors: &mut Errors) {
    let (name, spec) = (name(root), root.field("spec"));
    let precedence = spec.field("matchingPrecedence");
    let number = precedence.int().unwrap_or(0);
    if number <= 0 {
        errors.push(FieldError::invalid(precedence.path(), number, "must be a positive value"));
    }
    if number > MAX_PRECEDENCE {
        errors.push(precedence.invalid(format!("must not be greater than {MAX_PRECEDENCE}")));
    }
    if number == 1 && name != EXEMPT {
        errors.push(precedence.invalid("only the schema named 'exempt' may have matchingPrecedence 1"));
    }
    let method = spec.field("distinguisherMethod");
    if !method.is_absent() {
        supported(&method.field("type"), &["ByNamespace", "ByUser"], errors);
    }
    let level = spec.field("priorityLevelConfiguration").field("name");
    if level.must_be_set("must reference a priority level", errors) {
        level.subdomain(errors);
    }
    spec.field("rules").items().for_each(|rule| self::rule(&rule, errors));
    if let Some(mandatory) = flowcontrol::mandatory_schema(name)
        && !flowcontrol::same(spec.value(), &mandatory)
    {
        errors.push(spec.invalid(format!("spec of '{name}' must equal the fixed value")));
    }
    conditions(root, errors);
}

fn name<'a>(root: &At<'a>) -> &'a str {
    root.value()["metadata"]["name"].as_str().unwrap_or_default()
}

/// Must be one of these; nothing is none of them.
fn supported(at: &At<'_>, values: &[&str], errors: &mut Errors) {
    if !values.contains(&at.text()) {
        errors.push(FieldError::not_supported(at.path(), at.text(), values));
    }
}

fn rule(rule: &At<'_>, errors: &mut Errors) {
    let subjects = rule.field("subjects");
    if subjects.must_be_set("subjects must contain at least one value", errors) {
        subjects.items().for_each(|subject| self::subject(&subject, errors));
    }
    let (resources, urls) = (rule.field("resourceRules"), rule.field("nonResourceRules"));
    if resources.len() + urls.len() == 0 {
        errors.push(rule.required("at least one of resourceRules and nonResourceRules has to be non-empty"));
    }
    resources.items().for_each(|rule| resource_rule(&rule, errors));
    urls.items().for_each(|rule| url_rule(&rule, errors));
}

fn subject(subject: &At<'_>, errors: &mut Errors) {
    let kind = subject.field("kind");
    if !SUBJECTS.iter().any(|(name, _)| *name == kind.text()) {
        errors.push(FieldError::not_supported(kind.path(), kind.text(), &SUBJECTS.map(|(name, _)| name)));
        return;
    }
    for (name, field) in SUBJECTS {
        let at = subject.field(field);
        match (name == kind.text(), at.is_absent()) {
            (true, true) => errors.push(at.required(&format!("{field} is required when subject kind is '{name}'"))),
            (false, false) => errors.push(at.forbidden(format!("{field} is forbidden when subject kind is not '{name}'"))),
            (true, false) if name == "ServiceAccount" => service_account(&at, errors),
            (true, false) => drop(at.field("name").must_be_set("", errors)),
            (false, true) => {}
        }
    }
}

fn service_account(account: &At<'_>, errors: &mut Errors) {
    let (name, namespace) = (account.field("name"), account.field("namespace"));
    if name.must_be_set("", errors) && name.text() != "*" {
        name.subdomain(errors);
    }
    if namespace.must_be_set("must specify namespace for service account", errors) {
        namespace.label(errors);
    }
}

/// Must not be empty, and `*` stands alone.
fn list(rule: &At<'_>, field: &str, missing: &str, what: &str, errors: &mut Errors) {
    let values = rule.field(field);
    if values.len() == 0 {
        errors.push(values.required(missing));
    } else if values.len() > 1 && values.items().any(|value| value.text() == "*") {
        errors.push(values.invalid(format!("if '*' is present, must not specify other {what}")));
    }
}

fn verbs(rule: &At<'_>, errors: &mut Errors) {
    list(rule, "verbs", "verbs must contain at least one value", "verbs", errors);
    let verbs = rule.field("verbs");
    let any = verbs.items().any(|verb| verb.text() == "*");
    if !any && verbs.items().any(|verb| !VERBS.contains(&verb.text())) {
        errors.push(FieldError::not_supported(verbs.path(), verbs.value().clone(), &VERBS));
    }
}

fn resource_rule(rule: &At<'_>, errors: &mut Errors) {
    verbs(rule, errors);
    list(rule, "apiGroups", "resource rules must supply at least one api group", "api groups", errors);
    list(rule, "resources", "resource rules must supply at least one resource", "resources", errors);
    let namespaces = rule.field("namespaces");
    if namespaces.len() == 0 && rule.field("clusterScope").is_true() {
        return;
    }
    let missing = "resource rules that are not cluster scoped must supply at least one namespace";
    list(rule, "namespaces", missing, "namespaces", errors);
    if namespaces.items().any(|namespace| namespace.text() == "*") {
        return;
    }
    for namespace in namespaces.items() {
        for wrong in names::dns1123_label(namespace.text()) {
            errors.push(namespace.invalid(format!("each member of this list must be '*' or a DNS-1123 label; {wrong}")));
        }
    }
}

fn url_rule(rule: &At<'_>, errors: &mut Errors) {
    verbs(rule, errors);
    let missing = "nonResourceURLs must contain at least one value";
    list(rule, "nonResourceURLs", missing, "non-resource URLs", errors);
    let urls = rule.field("nonResourceURLs");
    if urls.items().any(|url| url.text() == "*") {
        return;
    }
    for url in urls.items() {
        let text = url.text();
        let stars = text.matches('*').count();
        let wrong = match text {
            "" => "must not be empty",
            "/" => continue,
            _ if !text.starts_with('/') => "must start with slash",
            _ if text.contains(' ') => "must not contain white-space",
            _ if text.contains("//") => "must not contain double slash",
            _ if stars > 1 || (stars == 1 && !text.ends_with("/*")) => "wildcard can only do suffix matching",
            _ => continue,
        };
        errors.push(url.invalid(wrong));
    }
}

/// A PriorityLevelConfiguration.
pub(super) fn priority_level(root: &At<'_>, errors: &mut Errors) {
    let (name, spec) = (name(root), root.field("spec"));
    let (ty, limited, exempt) = (spec.field("type"), spec.field("limited"), spec.field("exempt"));
    if (name == EXEMPT) != (ty.text() == "Exempt") {
        let wrong = "type must be 'Exempt' if and only if name is 'exempt'";
        errors.push(FieldError::invalid(ty.path(), ty.text(), wrong));
    }
    match ty.text() {
        "Exempt" => {
            if !limited.is_absent() {
                errors.push(limited.forbidden("must be nil if the type is not Limited"));
            }
            if !exempt.is_absent() {
                shares(&exempt, errors);
                lendable(&exempt, errors);
            }
        }
        "Limited" => {
            if !exempt.is_absent() {
                errors.push(exempt.forbidden("must be nil if the type is Limited"));
            }
            if limited.is_absent() {
                errors.push(limited.required("must not be empty when type is Limited"));
            } else {
                shares(&limited, errors);
                response(&limited.field("limitResponse"), errors);
                lendable(&limited, errors);
                let borrowing = limited.field("borrowingLimitPercent");
                if borrowing.int().is_some_and(|percent| percent < 0) {
                    errors.push(borrowing.invalid("if specified, must be a non-negative integer"));
                }
            }
        }
        _ => supported(&ty, &["Exempt", "Limited"], errors),
    }
    mandatory_level(name, &spec, errors);
    conditions(root, errors);
}

fn mandatory_level(name: &str, spec: &At<'_>, errors: &mut Errors) {
    let Some(mut mandatory) = flowcontrol::mandatory_level(name) else { return };
    if name == EXEMPT {
        // How much the exempt lend is the administrator's to choose.
        mandatory["exempt"] = Value::Null;
        let mut rest = spec.value().clone();
        if rest.is_object() {
            rest["exempt"] = Value::Null;
        }
        if !flowcontrol::same(&rest, &mandatory) {
            let wrong = format!("spec of '{name}' except the 'spec.exempt' field must equal the fixed value");
            errors.push(spec.invalid(wrong));
        }
    } else if !flowcontrol::same(spec.value(), &mandatory) {
        errors.push(spec.invalid(format!("spec of '{name}' must equal the fixed value")));
    }
}

fn shares(level: &At<'_>, errors: &mut Errors) {
    let shares = level.field("nominalConcurrencyShares");
    if shares.int().is_some_and(|shares| shares < 0) {
        errors.push(shares.invalid("must be a non-negative integer"));
    }
}

fn lendable(level: &At<'_>, errors: &mut Errors) {
    level.field("lendablePercent").within(0, 100, errors);
}

fn response(response: &At<'_>, errors: &mut Errors) {
    let (ty, queuing) = (response.field("type"), response.field("queuing"));
    match ty.text() {
        "Reject" if !queuing.is_absent() => {
            errors.push(queuing.forbidden("must be nil if limited.limitResponse.type is not Limited"));
        }
        "Reject" => {}
        "Queue" if queuing.is_absent() => {
            errors.push(queuing.required("must not be empty if limited.limitResponse.type is Limited"));
        }
        "Queue" => self::queuing(&queuing, errors),
        _ => supported(&ty, &["Queue", "Reject"], errors),
    }
}

fn queuing(queuing: &At<'_>, errors: &mut Errors) {
    let (length, queues, hand) = (queuing.field("queueLengthLimit"), queuing.field("queues"), queuing.field("handSize"));
    let number = |at: &At<'_>| at.int().unwrap_or(0);
    let invalid = |at: &At<'_>, wrong: String| FieldError::invalid(at.path(), json!(number(at)), wrong);
    let positive = || "must be positive".to_owned();
    if number(&length) <= 0 {
        errors.push(invalid(&length, positive()));
    }
    if number(&queues) <= 0 {
        errors.push(invalid(&queues, positive()));
    } else if number(&queues) > MAX_QUEUES {
        errors.push(invalid(&queues, format!("must not be greater than {MAX_QUEUES}")));
    }
    if number(&hand) <= 0 {
        errors.push(invalid(&hand, positive()));
    } else if number(&hand) > number(&queues) {
        errors.push(invalid(&hand, format!("should not be greater than queues ({})", number(&queues))));
    } else {
        let (deck, size) = (number(&queues), number(&hand));
        let bits = entropy_bits(u32::try_from(deck).unwrap_or(u32::MAX), u32::try_from(size).unwrap_or(u32::MAX));
        if bits > MAX_HASH_BITS {
            errors.push(invalid(
                &hand,
                format!(
                    "required entropy bits of deckSize {deck} and handSize {size} should not be greater than {MAX_HASH_BITS}"
                ),
            ));
        }
    }
}

/// The conditions in the status of either.
pub(super) fn conditions(root: &At<'_>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for condition in root.field("status").field("conditions").items() {
        let ty = condition.field("type");
        if !seen.insert(ty.text()) {
            errors.push(ty.duplicate());
        }
        ty.must_be_set("must not be empty", errors);
    }
}
