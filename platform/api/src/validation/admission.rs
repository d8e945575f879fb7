//! Webhook configurations (`pkg/apis/admissionregistration/validation/validation.go`), conversion webhooks, and how either is
//! reached. What webhooks and policies share is used by [`super::policy`] too.

use std::collections::HashSet;

use super::at::{At, Errors};
use crate::names;
use crate::selector::LabelSelector;
use crate::status::FieldError;

/// The `AdmissionReview` and `ConversionReview` versions there are.
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const URL_FORMAT: &str = "desired format: https://host[/path]";
const MAX_CONDITIONS: usize = 64;

/// A MutatingWebhookConfiguration or ValidatingWebhookConfiguration.
pub(super) fn webhook_configuration(root: &At<'_>, mutating: bool, errors: &mut Errors) {
    let mut names = HashSet::new();
    for hook in root.field("webhooks").items() {
        webhook(&hook, mutating, errors);
        let name = hook.field("name");
        if !name.text().is_empty() && !names.insert(name.text()) {
            errors.push(name.duplicate());
        }
    }
}

fn webhook(hook: &At<'_>, mutating: bool, errors: &mut Errors) {
    let name = hook.field("name");
    if name.must_be_set("", errors) {
        let complaints = names::dns1123_subdomain(name.text());
        if complaints.is_empty() && name.text().split('.').count() < 3 {
            errors.push(name.invalid("should be a domain with at least three segments separated by dots"));
        }
        name.all(complaints, errors);
    }
    review_versions(&hook.field("admissionReviewVersions"), errors);
    hook.field("rules").items().for_each(|rule| self::rule(&rule, errors));
    hook.field("failurePolicy").one_of(&["Fail", "Ignore"], errors);
    hook.field("matchPolicy").one_of(&["Equivalent", "Exact"], errors);
    let side_effects = hook.field("sideEffects");
    if side_effects.must_be_set("must specify one of None, NoneOnDryRun", errors) {
        side_effects.one_of(&["None", "NoneOnDryRun"], errors);
    }
    let timeout = hook.field("timeoutSeconds");
    if timeout.int().is_some_and(|seconds| !(1..=30).contains(&seconds)) {
        errors.push(timeout.invalid("the timeout value must be between 1 and 30 seconds"));
    }
    for field in ["namespaceSelector", "objectSelector"] {
        let selector = hook.field(field);
        if let Err(error) = LabelSelector::from_value(Some(selector.value())) {
            errors.push(selector.invalid(error.0));
        }
    }
    if mutating {
        hook.field("reinvocationPolicy").one_of(&["IfNeeded", "Never"], errors);
    }
    client_config(&hook.field("clientConfig"), errors);
    match_conditions(&hook.field("matchConditions"), errors);
}

pub(super) fn match_conditions(conditions: &At<'_>, errors: &mut Errors) {
    if conditions.len() > MAX_CONDITIONS {
        errors.push(FieldError::too_many(conditions.path(), conditions.len(), MAX_CONDITIONS));
    }
    let mut names = HashSet::new();
    for condition in conditions.items() {
        let name = condition.field("name");
        if name.must_be_set("", errors) {
            name.all(names::qualified_name(name.text()), errors);
            if !names.insert(name.text()) {
                errors.push(name.duplicate());
            }
        }
        let expression = condition.field("expression");
        if expression.text().trim().is_empty() {
            errors.push(expression.required(""));
        }
    }
}

/// The versions of reviews a webhook understands, of which this server must know one.
fn review_versions(versions: &At<'_>, errors: &mut Errors) {
    if versions.len() == 0 {
        errors.push(versions.required("must specify one of v1, v1beta1"));
        return;
    }
    let mut seen = HashSet::new();
    for version in versions.items() {
        if !seen.insert(version.text()) {
            errors.push(version.duplicate());
        }
        version.all(names::dns1035_label(version.text()), errors);
    }
    if !REVIEW_VERSIONS.iter().any(|version| seen.contains(version)) {
        errors.push(versions.invalid("must include at least one of v1, v1beta1"));
    }
}

pub(super) fn rule(rule: &At<'_>, errors: &mut Errors) {
    let list = |field: &str, what: &str, errors: &mut Errors| {
        let values = rule.field(field);
        if values.len() == 0 {
            errors.push(values.required(""));
        }
        if values.len() > 1 && values.items().any(|value| value.text() == "*") {
            errors.push(values.invalid(format!("if '*' is present, must not specify other {what}")));
        }
        values
    };
    for operation in list("operations", "operations", errors).items() {
        operation.must_be_one_of(&["*", "CONNECT", "CREATE", "DELETE", "UPDATE"], errors);
    }
    list("apiGroups", "API groups", errors);
    for version in list("apiVersions", "API versions", errors).items() {
        version.must_be_set("", errors);
    }
    resources(&rule.field("resources"), errors);
    rule.field("scope").one_of(&["*", "Cluster", "Namespaced"], errors);
}

/// `*/*` covers everything, `pods/*` and `*/scale` everything of theirs: nothing may be named twice over.
fn resources(resources: &At<'_>, errors: &mut Errors) {
    if resources.len() == 0 {
        errors.push(resources.required(""));
    }
    let all: Vec<&str> = resources.items().map(|resource| resource.text()).collect();
    for resource in resources.items() {
        if !resource.must_be_set("", errors) {
            continue;
        }
        let (name, below) = resource.text().split_once('/').map_or((resource.text(), None), |(name, sub)| (name, Some(sub)));
        let Some(below) = below else { continue };
        let covers = |other: &str| other != resource.text() && all.contains(&other);
        if covers(&format!("{name}/*")) {
            errors.push(resource.invalid(format!("if '{name}/*' is present, must not specify {}", resource.text())));
        }
        if covers(&format!("*/{below}")) {
            errors.push(resource.invalid(format!("if '*/{below}' is present, must not specify {}", resource.text())));
        }
    }
    if all.len() > 1 && all.contains(&"*/*") {
        errors.push(resources.invalid("if '*/*' is present, must not specify other resources"));
    }
    if all.contains(&"*") && all.iter().any(|other| *other != "*" && !other.contains('/')) {
        errors.push(resources.invalid("if '*' is present, must not specify other resources without subresources"));
    }
}

/// How a custom resource is converted (`apiextensions/validation/validation.go`).
pub(super) fn conversion(conversion: &At<'_>, errors: &mut Errors) {
    let (strategy, webhook) = (conversion.field("strategy"), conversion.field("webhook"));
    strategy.one_of(&["None", "Webhook"], errors);
    if strategy.text() != "Webhook" {
        if !webhook.is_absent() {
            errors.push(webhook.forbidden("should not be set when strategy is not set to Webhook"));
        }
        return;
    }
    if webhook.field("clientConfig").is_absent() {
        errors.push(FieldError::required(
            conversion.field("webhookClientConfig").path(),
            "required when strategy is set to Webhook",
        ));
    } else {
        client_config(&webhook.field("clientConfig"), errors);
    }
    review_versions(&webhook.field("conversionReviewVersions"), errors);
}

/// Where a webhook is: at a URL or behind a Service (`apiserver/pkg/util/webhook/validation.go`).
fn client_config(config: &At<'_>, errors: &mut Errors) {
    let (url, service) = (config.field("url"), config.field("service"));
    match (url.is_absent(), service.is_absent()) {
        (false, true) => self::url(&url, errors),
        (true, false) => {
            service.field("name").must_be_set("service name is required", errors);
            service.field("namespace").must_be_set("service namespace is required", errors);
            service_path(&service.field("path"), errors);
            let port = service.field("port");
            if port.int().is_some_and(|port| !(1..=65535).contains(&port)) {
                errors.push(port.invalid("port is not valid: must be between 1 and 65535, inclusive"));
            }
        }
        _ => errors.push(config.required("exactly one of url or service is required")),
    }
}

fn service_path(path: &At<'_>, errors: &mut Errors) {
    let text = path.text();
    if path.is_absent() || text.is_empty() || text == "/" {
        return;
    }
    if !text.starts_with('/') {
        errors.push(path.invalid("must start with a '/'"));
    }
    if text.len() > 1 && text[1..].trim_end_matches('/').split('/').any(str::is_empty) {
        errors.push(path.invalid("segments must not be empty"));
    }
}

fn url(url: &At<'_>, errors: &mut Errors) {
    let text = url.text();
    let Some((scheme, rest)) = text.split_once("://") else {
        errors.push(url.invalid(format!("url must be a valid URL; {URL_FORMAT}")));
        return;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    for (wrong, why) in [
        (scheme != "https", "'https' is the only allowed URL scheme"),
        (authority.is_empty(), "host must be specified"),
        (authority.contains('@'), "user information is not permitted in the URL"),
        (rest.contains('#'), "fragments are not permitted in the URL"),
        (rest.contains('?'), "query parameters are not permitted in the URL"),
    ] {
        if wrong {
            errors.push(url.invalid(format!("{why}; {URL_FORMAT}")));
        }
    }
}
