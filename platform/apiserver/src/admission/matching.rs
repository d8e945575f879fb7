//! Whether a webhook is asked about a write, or a policy is for it, and in which version.
//!
//! Follows `predicates/rules/rules.go`, `predicates/{namespace,object}/matcher.go`, `generic/webhook.go` and
//! `policy/matching/matching.go`.

use std::sync::Arc;

use pharos_api::{registry::Kind, selector::LabelSelector};
use serde_json::Value;

use super::{
    Attributes, Operation,
    request::{is_namespace, namespace},
};
use crate::{background::CachedObjects, status::Status};

/// What a rule says of the requests it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    groups: Vec<String>,
    versions: Vec<String>,
    /// Resource and subresource, each perhaps `*`.
    resources: Vec<(String, String)>,
    operations: Vec<String>,
    scope: Scope,
    /// Objects by name; none are all.
    names: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    All,
    Cluster,
    Namespaced,
}

/// What rules are compared with.
#[derive(Clone, Copy)]
struct Subject<'a> {
    group: &'a str,
    version: &'a str,
    resource: &'a str,
    subresource: &'a str,
    operation: Operation,
    name: &'a str,
    /// Whether it is outside of namespaces. A Namespace is.
    cluster: bool,
}

/// Which writes a webhook, a policy or a binding is for.
#[derive(Debug, Clone)]
pub(super) struct Criteria {
    rules: Vec<Rule>,
    /// Whether having no rules means every write.
    open: bool,
    excluded: Vec<Rule>,
    /// Whether requests for other versions of what the rules name are covered.
    equivalent: bool,
    namespaces: LabelSelector,
    objects: LabelSelector,
}

/// How a webhook is asked, or a policy applied.
pub(super) enum Invocation {
    /// In the version of the request.
    AsRequested,
    /// In another version of the resource, the one its rules name.
    In(Arc<Kind>),
}

impl Invocation {
    /// The resource in the version that is shown.
    pub(super) fn kind<'a>(&'a self, requested: &'a Kind) -> &'a Kind {
        match self {
            Self::AsRequested => requested,
            Self::In(kind) => kind,
        }
    }
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// A selector; one that cannot be read (which validation prevents) selects everything, so that nothing passes unseen.
fn selector(value: &Value) -> LabelSelector {
    if value.is_null() {
        return LabelSelector::everything();
    }
    LabelSelector::from_value(Some(value)).unwrap_or_default()
}

fn rules(value: &Value) -> Vec<Rule> {
    value.as_array().into_iter().flatten().map(Rule::parse).collect()
}

impl Criteria {
    /// Those of a webhook.
    pub(super) fn of_webhook(hook: &Value) -> Self {
        Criteria { rules: rules(&hook["rules"]), open: false, ..Self::selectors(hook) }
    }

    /// `MatchResources` of a policy or binding.
    pub(super) fn of_policy(resources: &Value) -> Self {
        Criteria {
            rules: rules(&resources["resourceRules"]),
            open: true,
            excluded: rules(&resources["excludeResourceRules"]),
            ..Self::selectors(resources)
        }
    }

    fn selectors(value: &Value) -> Self {
        Criteria {
            rules: Vec::new(),
            open: false,
            excluded: Vec::new(),
            equivalent: value["matchPolicy"] != "Exact",
            namespaces: selector(&value["namespaceSelector"]),
            objects: selector(&value["objectSelector"]),
        }
    }

    /// Whether and how they cover a write. An error is one only where the rules do.
    pub(super) fn invocation(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<Option<Invocation>, Status> {
        // Rules first: they cost least and decide most.
        let Some(invocation) = self.by_rules(attributes) else { return Ok(None) };
        let labelled = |object: Option<&Value>| object.is_some_and(|object| self.objects.matches_object(object));
        if !self.objects.is_everything() && !labelled(object) && !labelled(old) {
            return Ok(None);
        }
        if !self.in_namespace(attributes, object)? {
            return Ok(None);
        }
        Ok(Some(invocation))
    }

    fn by_rules(&self, attributes: &Attributes<'_>) -> Option<Invocation> {
        if !self.excluded.is_empty() && self.covered(&self.excluded, attributes).is_some() {
            return None;
        }
        if self.open && self.rules.is_empty() {
            return Some(Invocation::AsRequested);
        }
        self.covered(&self.rules, attributes)
    }

    fn covered(&self, rules: &[Rule], attributes: &Attributes<'_>) -> Option<Invocation> {
        let subject = subject(attributes);
        if rules.iter().any(|rule| rule.matches(subject)) {
            return Some(Invocation::AsRequested);
        }
        if !self.equivalent {
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
        rules.iter().find_map(|rule| {
            let matching = others.iter().find(|other| {
                rule.matches(Subject { group: &other.group, version: &other.version, resource: &other.plural, ..subject })
            });
            matching.map(|other| Invocation::In(Arc::clone(other)))
        })
    }

    fn in_namespace(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<bool, Status> {
        if self.namespaces.is_everything() {
            return Ok(true);
        }
        let own = is_namespace(attributes);
        if attributes.namespace.is_empty() && !own {
            return Ok(true); // What is in no namespace is exempt from none.
        }
        let writes = matches!(attributes.operation, Operation::Create | Operation::Update);
        if own && attributes.subresource.is_empty() && writes {
            return Ok(object.is_some_and(|object| self.namespaces.matches_object(object)));
        }
        let name = namespace(attributes);
        let objects = CachedObjects(attributes.api.clone());
        let found = crate::authn::Objects::get(&objects, "", "namespaces", "", name);
        let found = found.ok_or_else(|| crate::status::not_found("", "namespaces", name))?;
        Ok(self.namespaces.matches_object(&found))
    }
}

impl Rule {
    fn parse(rule: &Value) -> Self {
        let resources = texts(&rule["resources"]).into_iter().map(|text| match text.split_once('/') {
            Some((resource, subresource)) => (resource.to_owned(), subresource.to_owned()),
            None => (text, String::new()),
        });
        Rule {
            groups: texts(&rule["apiGroups"]),
            versions: texts(&rule["apiVersions"]),
            resources: resources.collect(),
            operations: texts(&rule["operations"]),
            scope: match rule["scope"].as_str() {
                Some("Cluster") => Scope::Cluster,
                Some("Namespaced") => Scope::Namespaced,
                _ => Scope::All,
            },
            names: texts(&rule["resourceNames"]),
        }
    }

    fn matches(&self, subject: Subject<'_>) -> bool {
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
            && (self.names.is_empty() || self.names.iter().any(|name| name == subject.name))
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
        name: attributes.name,
        cluster: is_namespace(attributes) || attributes.namespace.is_empty(),
    }
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
            name: "a",
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

    #[test]
    fn named_rules() {
        let rule = |names: &[&str]| {
            Rule::parse(&json!({
                "operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"], "resourceNames": names,
            }))
        };
        let subject = Subject {
            group: "",
            version: "v1",
            resource: "pods",
            subresource: "",
            operation: Operation::Create,
            name: "a",
            cluster: false,
        };
        for (names, wanted) in [(&[][..], true), (&["b", "a"], true), (&["b"], false)] {
            assert_eq!(rule(names).matches(subject), wanted, "{names:?}");
        }
    }
}
