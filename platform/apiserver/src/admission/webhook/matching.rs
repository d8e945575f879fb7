//! Whether a webhook is asked about a write, and in which version.
//!
//! Follows `predicates/rules/rules.go`, `predicates/{namespace,object}/matcher.go` and `generic/webhook.go`.

use std::sync::Arc;

use pharos_api::registry::Kind;
use serde_json::Value;

use super::{Attributes, Operation, configuration::Hook, is_namespace, namespace};
use crate::{background::CachedObjects, status::Status};

/// What a rule says of the requests it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    groups: Vec<String>,
    versions: Vec<String>,
    /// Resource and subresource, each perhaps `*`.
    resources: Vec<(String, String)>,
    operations: Vec<String>,
    scope: Scope,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    All,
    Cluster,
    Namespaced,
}

/// What rules are compared with.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) group: &'a str,
    pub(super) version: &'a str,
    pub(super) resource: &'a str,
    pub(super) subresource: &'a str,
    pub(super) operation: Operation,
    /// Whether it is outside of namespaces. A Namespace is.
    pub(super) cluster: bool,
}

/// How a webhook is asked.
pub(super) enum Invocation {
    /// In the version of the request.
    AsRequested,
    /// In another version of the resource, the one its rules name.
    In(Arc<Kind>),
}

impl Invocation {
    /// The resource in the version the webhook is shown.
    pub(super) fn kind<'a>(&'a self, requested: &'a Kind) -> &'a Kind {
        match self {
            Self::AsRequested => requested,
            Self::In(kind) => kind,
        }
    }
}

impl Rule {
    pub(super) fn parse(rule: &Value) -> Self {
        let texts = |field: &str| -> Vec<String> {
            rule[field].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let resources = texts("resources").into_iter().map(|text| match text.split_once('/') {
            Some((resource, subresource)) => (resource.to_owned(), subresource.to_owned()),
            None => (text, String::new()),
        });
        Rule {
            groups: texts("apiGroups"),
            versions: texts("apiVersions"),
            resources: resources.collect(),
            operations: texts("operations"),
            scope: match rule["scope"].as_str() {
                Some("Cluster") => Scope::Cluster,
                Some("Namespaced") => Scope::Namespaced,
                _ => Scope::All,
            },
        }
    }

    pub(super) fn matches(&self, subject: Subject<'_>) -> bool {
        let any = |list: &[String], wanted: &str| list.iter().any(|item| item == "*" || item == wanted);
        let fits = |pattern: &str, found: &str| pattern == "*" || pattern == found;
        (match self.scope {
            Scope::All => true,
            Scope::Cluster => subject.cluster,
            Scope::Namespaced => !subject.cluster,
        }) && any(&self.operations, subject.operation.as_str())
            && any(&self.groups, subject.group)
            && any(&self.versions, subject.version)
            && self.resources.iter().any(|(resource, below)| fits(resource, subject.resource) && fits(below, subject.subresource))
    }
}

/// The subject of a write.
fn subject<'a>(attributes: &'a Attributes<'_>) -> Subject<'a> {
    Subject {
        group: &attributes.kind.group,
        version: &attributes.kind.version,
        resource: &attributes.kind.plural,
        subresource: attributes.subresource,
        operation: attributes.operation,
        cluster: is_namespace(attributes) || attributes.namespace.is_empty(),
    }
}

/// Whether and how a webhook is asked about a write.
pub(super) fn invocation(
    hook: &Hook,
    attributes: &Attributes<'_>,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Result<Option<Invocation>, Status> {
    // Rules first: they cost least and decide most.
    let Some(invocation) = by_rules(hook, attributes) else { return Ok(None) };
    let labelled = |object: Option<&Value>| object.is_some_and(|object| hook.objects.matches_object(object));
    if !hook.objects.is_everything() && !labelled(object) && !labelled(old) {
        return Ok(None);
    }
    if !in_namespace(hook, attributes, object)? {
        return Ok(None);
    }
    Ok(Some(invocation))
}

fn by_rules(hook: &Hook, attributes: &Attributes<'_>) -> Option<Invocation> {
    let subject = subject(attributes);
    if hook.rules.iter().any(|rule| rule.matches(subject)) {
        return Some(Invocation::AsRequested);
    }
    if !hook.equivalent {
        return None;
    }
    let kind = attributes.kind;
    let registry = attributes.api.0.resources.registry();
    let others: Vec<&Arc<Kind>> = registry
        .kinds()
        .filter(|other| {
            other.storage == kind.storage
                && (other.version != kind.version || other.group != kind.group)
                && (attributes.subresource.is_empty() || other.subresource(attributes.subresource).is_some())
        })
        .collect();
    if others.is_empty() {
        return None;
    }
    hook.rules.iter().find_map(|rule| {
        let matching = others.iter().find(|other| {
            rule.matches(Subject { group: &other.group, version: &other.version, resource: &other.plural, ..subject })
        });
        matching.map(|other| Invocation::In(Arc::clone(other)))
    })
}

fn in_namespace(hook: &Hook, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<bool, Status> {
    if hook.namespaces.is_everything() {
        return Ok(true);
    }
    let own = is_namespace(attributes);
    if attributes.namespace.is_empty() && !own {
        return Ok(true); // What is in no namespace is exempt from none.
    }
    let writes = matches!(attributes.operation, Operation::Create | Operation::Update);
    if own && attributes.subresource.is_empty() && writes {
        return Ok(object.is_some_and(|object| hook.namespaces.matches_object(object)));
    }
    let name = namespace(attributes);
    let objects = CachedObjects(attributes.api.clone());
    let found = crate::authn::Objects::get(&objects, "", "namespaces", "", name);
    let found = found.ok_or_else(|| crate::status::not_found("", "namespaces", name))?;
    Ok(hook.namespaces.matches_object(&found))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rules() {
        let rule = |operations: &[&str], groups: &[&str], versions: &[&str], resources: &[&str], scope: &str| {
            Rule::parse(&json!({
                "operations": operations, "apiGroups": groups, "apiVersions": versions, "resources": resources, "scope": scope,
            }))
        };
        let subject = |group, resource, subresource, operation, cluster| Subject {
            group,
            version: "v1",
            resource,
            subresource,
            operation,
            cluster,
        };
        use Operation::{Connect, Create, Delete, Update};
        let pods = subject("", "pods", "", Create, false);
        let status = subject("", "pods", "status", Update, false);
        let attach = subject("", "pods", "attach", Connect, false);
        let node = subject("", "nodes", "", Delete, true);
        let scale = subject("apps", "deployments", "scale", Update, false);
        for (rule, wanted, subject) in [
            (rule(&["CREATE"], &[""], &["v1"], &["pods"], "*"), true, pods),
            (rule(&["*"], &["*"], &["*"], &["*/*"], "*"), true, pods),
            (rule(&["*"], &["*"], &["*"], &["*/*"], "*"), true, status),
            (rule(&["*"], &["*"], &["*"], &["*"], "*"), false, status),
            (rule(&["UPDATE"], &[""], &["v1"], &["pods"], "*"), false, pods),
            (rule(&["CREATE"], &["apps"], &["v1"], &["pods"], "*"), false, pods),
            (rule(&["CREATE"], &[""], &["v2"], &["pods"], "*"), false, pods),
            (rule(&["CREATE"], &[""], &["v1"], &["pods/*"], "*"), true, pods),
            (rule(&["UPDATE"], &[""], &["v1"], &["pods/status"], "*"), true, status),
            (rule(&["UPDATE"], &["*"], &["*"], &["*/scale"], "*"), true, scale),
            (rule(&["UPDATE"], &["*"], &["*"], &["*/scale"], "*"), false, status),
            (rule(&["CONNECT"], &[""], &["v1"], &["pods/attach"], "*"), true, attach),
            (rule(&["CREATE"], &[""], &["v1"], &["pods/attach"], "*"), false, attach),
            (rule(&["*"], &["*"], &["*"], &["*"], "Cluster"), false, pods),
            (rule(&["*"], &["*"], &["*"], &["*"], "Cluster"), true, node),
            (rule(&["*"], &["*"], &["*"], &["*"], "Namespaced"), true, pods),
            (rule(&["*"], &["*"], &["*"], &["*"], "Namespaced"), false, node),
        ] {
            assert_eq!(rule.matches(subject), wanted, "{rule:?}");
        }
    }
}
