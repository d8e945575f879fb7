//! The review APIs: questions about authorization, answered with their status filled in.
//!
//! Follows `pkg/registry/authorization` and `pkg/apis/authorization/validation`.

use serde_json::{Map, Value, json};

use super::{Attributes, Authorizer, Decision, SYSTEM_MASTERS, node, rules::Rule, rules::strings};
use crate::authn::UserInfo;

/// Why a review is not evaluated.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// 400.
    #[error("{0}")]
    BadRequest(String),
    /// 422: the field, its value as JSON and what is wrong with it.
    #[error("{field}: Invalid value: {value}: {message}")]
    Invalid {
        /// The path of the field.
        field: &'static str,
        /// Its value.
        value: Value,
        /// What is wrong.
        message: &'static str,
    },
}

/// Answers a `SubjectAccessReview`.
///
/// # Errors
///
/// When the question is not complete.
pub fn subject_access(authorizer: &Authorizer, review: &Value) -> Result<Value, Error> {
    let user = subject(&review["spec"])?;
    evaluate(authorizer, review, &user)
}

/// Answers a `LocalSubjectAccessReview` in a namespace.
///
/// # Errors
///
/// When the question is not complete, or about another namespace.
pub fn local_subject_access(authorizer: &Authorizer, namespace: &str, review: &Value) -> Result<Value, Error> {
    let own = text(&review["metadata"]["namespace"]);
    if !own.is_empty() && own != namespace {
        return Err(Error::BadRequest(
            "the namespace of the provided object does not match the namespace sent on the request".into(),
        ));
    }
    let spec = &review["spec"];
    let user = subject(spec)?;
    if spec["nonResourceAttributes"].is_object() {
        return Err(Error::Invalid {
            field: "spec.nonResourceAttributes",
            value: spec["nonResourceAttributes"].clone(),
            message: "disallowed on this kind of request",
        });
    }
    let asked = text(&spec["resourceAttributes"]["namespace"]);
    if asked != namespace {
        return Err(Error::Invalid {
            field: "spec.resourceAttributes.namespace",
            value: json!(asked),
            message: "must match metadata.namespace",
        });
    }
    evaluate(authorizer, review, &user)
}

/// Answers a `SelfSubjectAccessReview`.
///
/// # Errors
///
/// When the question is not complete.
pub fn self_subject_access(authorizer: &Authorizer, user: &UserInfo, review: &Value) -> Result<Value, Error> {
    evaluate(authorizer, review, user)
}

/// Answers a `SelfSubjectRulesReview`.
///
/// # Errors
///
/// When it names no namespace.
pub fn self_subject_rules(authorizer: &Authorizer, user: &UserInfo, review: &Value) -> Result<Value, Error> {
    let namespace = text(&review["spec"]["namespace"]);
    if namespace.is_empty() {
        return Err(Error::BadRequest("no namespace on request".into()));
    }
    let (mut rules, mut errors) = if authorizer.asks_rbac() { authorizer.rules_for(user, namespace) } else { Default::default() };
    if authorizer.always_allows() || user.groups.iter().any(|group| group == SYSTEM_MASTERS) {
        let star = || vec!["*".to_owned()];
        rules.insert(0, Rule { verbs: star(), non_resource_urls: star(), ..Rule::default() });
        rules.insert(0, Rule { verbs: star(), api_groups: star(), resources: star(), ..Rule::default() });
    }
    let mut incomplete = !errors.is_empty();
    if node::identity(user).is_some() {
        incomplete = true;
        errors.push("node authorizer does not support user rule resolution".into());
    }
    if authorizer.asks_webhooks() {
        incomplete = true;
        errors.push("webhook authorizer does not support user rule resolution".into());
    }
    let (resource, other): (Vec<&Rule>, Vec<&Rule>) = rules.iter().partition(|rule| !rule.resources.is_empty());
    let mut status = json!({
        "resourceRules": resource.iter().map(|rule| rule.to_value()).collect::<Vec<_>>(),
        "nonResourceRules": other
            .iter()
            .filter(|rule| !rule.non_resource_urls.is_empty())
            .map(|rule| json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls}))
            .collect::<Vec<_>>(),
        "incomplete": incomplete,
    });
    if !errors.is_empty() {
        status["evaluationError"] = json!(errors.join(", "));
    }
    let mut answer = review.clone();
    answer["status"] = status;
    Ok(answer)
}

fn evaluate(authorizer: &Authorizer, review: &Value, user: &UserInfo) -> Result<Value, Error> {
    let spec = &review["spec"];
    let (resource, other) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let field_selector;
    let attributes = match (resource.is_object(), other.is_object()) {
        (true, true) => {
            return Err(Error::Invalid {
                field: "spec.nonResourceAttributes",
                value: other.clone(),
                message: "cannot be specified in combination with resourceAttributes",
            });
        }
        (false, false) => {
            return Err(Error::Invalid {
                field: "spec.resourceAttributes",
                value: Value::Null,
                message: "exactly one of nonResourceAttributes or resourceAttributes must be specified",
            });
        }
        (true, false) => {
            field_selector = selector(&resource["fieldSelector"]);
            Attributes {
                version: text(&resource["version"]),
                subresource: text(&resource["subresource"]),
                field_selector: &field_selector,
                ..Attributes::resource(
                    user,
                    text(&resource["verb"]),
                    text(&resource["group"]),
                    text(&resource["resource"]),
                    text(&resource["namespace"]),
                    text(&resource["name"]),
                )
            }
        }
        (false, true) => Attributes::path(user, text(&other["verb"]), text(&other["path"])),
    };
    let decision = authorizer.authorize(&attributes);
    let mut status = Map::new();
    status.insert("allowed".into(), json!(decision.allowed()));
    if matches!(decision, Decision::Deny(_)) {
        status.insert("denied".into(), json!(true));
    }
    if !decision.reason().is_empty() {
        status.insert("reason".into(), json!(decision.reason()));
    }
    let mut answer = review.clone();
    answer["status"] = Value::Object(status);
    Ok(answer)
}

fn subject(spec: &Value) -> Result<UserInfo, Error> {
    let groups = strings(&spec["groups"]);
    let username = text(&spec["user"]);
    if username.is_empty() && groups.is_empty() {
        return Err(Error::Invalid {
            field: "spec.user",
            value: json!(""),
            message: "at least one of user or group must be specified",
        });
    }
    let extra = spec["extra"].as_object().into_iter().flatten();
    Ok(UserInfo {
        username: username.to_owned(),
        uid: text(&spec["uid"]).to_owned(),
        groups,
        extra: extra.map(|(key, values)| (key.to_lowercase(), strings(values))).collect(),
    })
}

/// A field selector as the query parameter has it; requirements other than of one value restrict nothing here.
fn selector(attributes: &Value) -> String {
    if let Some(raw) = attributes["rawSelector"].as_str() {
        return raw.to_owned();
    }
    let requirements = attributes["requirements"].as_array().into_iter().flatten();
    let terms: Vec<String> = requirements
        .filter(|requirement| requirement["operator"] == "In")
        .filter_map(|requirement| match strings(&requirement["values"]).as_slice() {
            [value] => Some(format!("{}={value}", text(&requirement["key"]))),
            _ => None,
        })
        .collect();
    terms.join(",")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests;
