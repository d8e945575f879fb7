//! RBAC (`pkg/apis/rbac/validation`).

use serde_json::Value;

use super::at::{At, Errors};
use crate::names;
use crate::status::FieldError;

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn role(root: &At<'_>, namespaced: bool, errors: &mut Errors) {
    for rule in root.field("rules").items() {
        rule.field("verbs").must_be_set("verbs must contain at least one value", errors);
        let (urls, groups, resources) = (rule.field("nonResourceURLs"), rule.field("apiGroups"), rule.field("resources"));
        if urls.len() > 0 {
            if namespaced {
                errors.push(urls.invalid("namespaced rules cannot apply to non-resource URLs"));
            }
            if groups.len() + resources.len() + rule.field("resourceNames").len() > 0 {
                errors.push(urls.invalid("rules cannot apply to both regular resources and non-resource URLs"));
            }
            continue;
        }
        groups.must_be_set("resource rules must supply at least one api group", errors);
        resources.must_be_set("resource rules must supply at least one resource", errors);
    }
    let aggregation = root.field("aggregationRule");
    if !aggregation.is_absent() {
        let selectors = aggregation.field("clusterRoleSelectors");
        if selectors.len() == 0 {
            errors.push(selectors.required("at least one clusterRoleSelector required if aggregationRule is non-nil"));
        }
        selectors.items().for_each(|selector| selector.label_selector(errors));
    }
}

pub(super) fn binding(root: &At<'_>, namespaced: bool, old: Option<&Value>, errors: &mut Errors) {
    let reference = root.field("roleRef");
    let group = reference.field("apiGroup");
    if group.text() != GROUP {
        errors.push(FieldError::not_supported(group.path(), group.text(), &[GROUP]));
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    let kind = reference.field("kind");
    if !kinds.contains(&kind.text()) {
        errors.push(FieldError::not_supported(kind.path(), kind.text(), kinds));
    }
    let name = reference.field("name");
    if name.must_be_set("", errors) {
        name.all(names::path_segment(name.text()), errors);
    }
    root.field("subjects").items().for_each(|subject| self::subject(&subject, namespaced, errors));
    if let Some(old) = old
        && reference.value() != old.get("roleRef").unwrap_or(&Value::Null)
    {
        errors.push(reference.invalid("cannot change roleRef"));
    }
}

fn subject(subject: &At<'_>, namespaced: bool, errors: &mut Errors) {
    let (kind, name, group) = (subject.field("kind"), subject.field("name"), subject.field("apiGroup"));
    name.must_be_set("", errors);
    match kind.text() {
        "ServiceAccount" => {
            name.subdomain(errors);
            if !group.text().is_empty() {
                errors.push(FieldError::not_supported(group.path(), group.text(), &[""]));
            }
            if !namespaced && subject.field("namespace").text().is_empty() {
                errors.push(subject.field("namespace").required(""));
            }
        }
        "User" | "Group" => {
            if group.text() != GROUP {
                errors.push(FieldError::not_supported(group.path(), group.text(), &[GROUP]));
            }
        }
        other => errors.push(FieldError::not_supported(kind.path(), other, &["ServiceAccount", "User", "Group"])),
    }
}
