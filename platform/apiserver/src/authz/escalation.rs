//! Nobody grants what they do not hold: checks for writes of roles and bindings.
//!
//! Follows `pkg/registry/rbac/{role,clusterrole,rolebinding,clusterrolebinding}/policybased` and
//! `pkg/registry/rbac/validation/rule.go`.

use serde_json::Value;

use super::{
    Attributes, Authorizer, SYSTEM_MASTERS,
    rbac::GROUP,
    rules::{Rule, compact, quote, quote_list, uncovered},
};
use crate::authn::UserInfo;

/// Why a write of a role or binding is refused.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum Refused {
    /// 403, with the whole message.
    #[error("{0}")]
    Forbidden(String),
    /// 404: the role a binding names.
    #[error("{resource}.{GROUP} {name:?} not found")]
    NotFound {
        /// `roles` or `clusterroles`.
        resource: &'static str,
        /// The role's name.
        name: String,
    },
}

/// Checks a create (`old` is `None`) or update of an object of any of the four RBAC resources; other resources pass.
///
/// # Errors
///
/// When the object grants what the user neither holds nor may grant.
pub fn check(authorizer: &Authorizer, user: &UserInfo, resource: &str, old: Option<&Value>, new: &Value) -> Result<(), Refused> {
    if user.groups.iter().any(|group| group == SYSTEM_MASTERS) {
        return Ok(());
    }
    match resource {
        "roles" | "clusterroles" => check_role(authorizer, user, resource, old, new),
        "rolebindings" | "clusterrolebindings" => check_binding(authorizer, user, resource, old, new),
        _ => Ok(()),
    }
}

fn check_role(authorizer: &Authorizer, user: &UserInfo, resource: &str, old: Option<&Value>, new: &Value) -> Result<(), Refused> {
    // What only changes metadata grants nothing new (the garbage collector has to remove finalizers).
    if old.is_some_and(|old| old["rules"] == new["rules"] && old["aggregationRule"] == new["aggregationRule"]) {
        return Ok(());
    }
    let (namespace, name) = (text(&new["metadata"]["namespace"]), text(&new["metadata"]["name"]));
    let escalate = Attributes { version: "v1", ..Attributes::resource(user, "escalate", GROUP, resource, namespace, name) };
    if authorizer.authorize(&escalate).allowed() {
        return Ok(());
    }
    let forbidden = |why: &str| Refused::Forbidden(format!("{resource}.{GROUP} {} is forbidden: {why}", quote(name)));
    let aggregates = new["aggregationRule"].is_object() || old.is_some_and(|old| old["aggregationRule"].is_object());
    if aggregates {
        let star = || vec!["*".to_owned()];
        let everything = [
            Rule { verbs: star(), api_groups: star(), resources: star(), ..Rule::default() },
            Rule { verbs: star(), non_resource_urls: star(), ..Rule::default() },
        ];
        confirm(authorizer, user, namespace, &everything)
            .map_err(|_| forbidden("must have cluster-admin privileges to use the aggregationRule"))?;
    }
    confirm(authorizer, user, namespace, &Rule::list(new)).map_err(|why| forbidden(&why))
}

fn check_binding(
    authorizer: &Authorizer,
    user: &UserInfo,
    resource: &str,
    old: Option<&Value>,
    new: &Value,
) -> Result<(), Refused> {
    if old.is_some_and(|old| old["subjects"] == new["subjects"] && old["roleRef"] == new["roleRef"]) {
        return Ok(());
    }
    let (namespace, name) = (text(&new["metadata"]["namespace"]), text(&new["metadata"]["name"]));
    let (kind, role) = (text(&new["roleRef"]["kind"]), text(&new["roleRef"]["name"]));
    let roles = if kind == "Role" { "roles" } else { "clusterroles" };
    // `bind` on a ClusterRole may be granted in the binding's namespace too.
    let bind = Attributes { version: "*", ..Attributes::resource(user, "bind", GROUP, roles, namespace, role) };
    if authorizer.authorize(&bind).allowed() {
        return Ok(());
    }
    let rules = authorizer
        .role_rules(kind, role, namespace)
        .ok_or_else(|| Refused::NotFound { resource: roles, name: role.to_owned() })?;
    confirm(authorizer, user, namespace, &rules)
        .map_err(|why| Refused::Forbidden(format!("{resource}.{GROUP} {} is forbidden: {why}", quote(name))))
}

/// Confirms that a user holds all these rules in a namespace.
fn confirm(authorizer: &Authorizer, user: &UserInfo, namespace: &str, rules: &[Rule]) -> Result<(), String> {
    let (owned, errors) = authorizer.rules_for(user, namespace);
    let missing = uncovered(&owned, rules);
    if missing.is_empty() {
        return Ok(());
    }
    let mut missing: Vec<String> = compact(missing).iter().map(Rule::compact).collect();
    missing.sort_unstable();
    missing.dedup();
    let mut message = format!(
        "user {} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        quote(&user.username),
        quote_list(&user.groups),
        missing.join("\n")
    );
    if !errors.is_empty() {
        message.push_str(&format!("; resolution errors: [{}]", errors.join(", ")));
    }
    Err(message)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests;
