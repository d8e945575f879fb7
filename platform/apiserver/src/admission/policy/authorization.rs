//! Who writes a policy or a binding must be allowed to read the parameters it is evaluated with: what is refused tells of them.
//!
//! Follows `pkg/registry/admissionregistration/{validatingadmissionpolicy,validatingadmissionpolicybinding}/authz.go`, and the
//! same of the mutating kinds.

use pharos_api::{registry::Registry, validation::FieldError};
use serde_json::Value;

use super::{MUTATING, MUTATING_BINDINGS, VALIDATING, VALIDATING_BINDINGS, definition::ParamKind};
use crate::{
    admission::{self, GROUP},
    api::Api,
    authn::{Objects as _, UserInfo},
    authz::{Attributes, SYSTEM_MASTERS},
    background::CachedObjects,
};

/// Whether the writer of a new state may read its parameters; what is wrong, if not.
pub(crate) fn check(attributes: &admission::Attributes<'_>, new: &Value, old: Option<&Value>) -> Option<FieldError> {
    if attributes.kind.group != GROUP || !attributes.subresource.is_empty() {
        return None;
    }
    let (api, user, resource) = (attributes.api, attributes.user, attributes.kind.plural.as_ref());
    // As `rbacregistry.EscalationAllowed`.
    if user.groups.iter().any(|group| group == SYSTEM_MASTERS) {
        return None;
    }
    match resource {
        VALIDATING | MUTATING => policy(api, user, &new["spec"], old.map(|old| &old["spec"])),
        VALIDATING_BINDINGS => binding(api, user, VALIDATING, &new["spec"], old.map(|old| &old["spec"])),
        MUTATING_BINDINGS => binding(api, user, MUTATING, &new["spec"], old.map(|old| &old["spec"])),
        _ => None,
    }
}

/// Group, version and resource of a kind of parameters, each `*` while it is not known.
fn resource(registry: &Registry, kind: Option<&ParamKind>) -> [String; 3] {
    let Some(kind) = kind else { return ["*", "*", "*"].map(str::to_owned) };
    let found = registry.by_kind(&kind.group, &kind.version, &kind.kind);
    let resource = found.map_or_else(|| "*".to_owned(), |kind| kind.plural.to_string());
    [kind.group.clone(), kind.version.clone(), resource]
}

fn allowed(api: &Api, user: &UserInfo, kind: Option<&ParamKind>, namespace: &str, name: &str) -> bool {
    let [group, version, resource] = resource(&api.0.resources.registry(), kind);
    let attributes = Attributes { version: &version, ..Attributes::resource(user, "get", &group, &resource, namespace, name) };
    api.0.authorizer.authorize(&attributes).allowed()
}

fn policy(api: &Api, user: &UserInfo, new: &Value, old: Option<&Value>) -> Option<FieldError> {
    let kind = ParamKind::parse(&new["paramKind"])?;
    if old.is_some_and(|old| old["paramKind"] == new["paramKind"]) || allowed(api, user, Some(&kind), "*", "*") {
        return None;
    }
    let text = |field: &str| new["paramKind"][field].as_str().unwrap_or_default();
    let why = format!(
        "user {} must have \"get\" permission on all objects of the referenced paramKind (kind={}, apiVersion={})",
        go(user),
        text("kind"),
        text("apiVersion")
    );
    Some(FieldError::forbidden("spec.paramKind", why))
}

fn binding(api: &Api, user: &UserInfo, policies: &str, new: &Value, old: Option<&Value>) -> Option<FieldError> {
    let reference = &new["paramRef"];
    let same = |old: &Value| old["paramRef"] == *reference && old["policyName"] == new["policyName"];
    if reference.is_null() || old.is_some_and(same) {
        return None;
    }
    let policy = CachedObjects(api.clone()).get(GROUP, policies, "", new["policyName"].as_str().unwrap_or_default());
    let kind = policy.and_then(|policy| ParamKind::parse(&policy["spec"]["paramKind"]));
    let text = |field: &str| reference[field].as_str().unwrap_or_default();
    if allowed(api, user, kind.as_ref(), text("namespace"), text("name")) {
        return None;
    }
    let why = format!("user {} does not have \"get\" permission on the object referenced by paramRef", go(user));
    Some(FieldError::forbidden("spec.paramRef", why))
}

/// A user as Go prints it.
fn go(user: &UserInfo) -> String {
    let extra: Vec<String> = user.extra.iter().map(|(key, values)| format!("{key}:[{}]", values.join(" "))).collect();
    format!("&{{{} {} [{}] map[{}]}}", user.username, user.uid, user.groups.join(" "), extra.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_as_go_prints_them() {
        assert_eq!(go(&UserInfo::new("jane", ["a", "b"])), "&{jane  [a b] map[]}");
    }
}
