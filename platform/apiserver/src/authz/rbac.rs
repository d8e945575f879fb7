//! RBAC: Roles, ClusterRoles and their bindings, indexed by subject.
//!
//! A decision looks up the bindings of the user and of each of their groups; it never goes over all bindings.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use serde_json::Value;

use super::{
    Attributes,
    rules::{Rule, quote},
};
use crate::authn::{self, UserInfo};

/// The API group of all RBAC kinds.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// Every role and binding of the cluster.
#[derive(Debug, Default)]
pub struct Rbac {
    cluster_roles: BTreeMap<String, ClusterRole>,
    /// By namespace and name.
    roles: HashMap<String, HashMap<String, Vec<Rule>>>,
    /// By namespace; the empty one holds ClusterRoleBindings.
    bindings: HashMap<String, Bindings>,
}

#[derive(Debug)]
struct ClusterRole {
    rules: Vec<Rule>,
    labels: BTreeMap<String, String>,
    /// Label selectors as they stand in the object; `None` without an aggregation rule.
    aggregates: Option<Vec<Value>>,
}

#[derive(Debug, Default)]
struct Bindings {
    by_name: HashMap<String, Arc<Binding>>,
    /// Two maps, so that a name is looked up as it is.
    by_user: HashMap<String, Vec<Arc<Binding>>>,
    by_group: HashMap<String, Vec<Arc<Binding>>>,
}

#[derive(Debug)]
struct Binding {
    name: String,
    subjects: Vec<Subject>,
    role_kind: String,
    role_name: String,
}

#[derive(Debug)]
enum Subject {
    /// ServiceAccounts are users too, by their user name.
    User(String),
    Group(String),
}

impl Rbac {
    /// Takes in the new state of one object, or its deletion.
    pub fn apply(&mut self, resource: &str, namespace: &str, name: &str, object: Option<&Value>) {
        match (resource, object) {
            ("clusterroles", Some(object)) => {
                self.cluster_roles.insert(name.to_owned(), ClusterRole::read(object));
            }
            ("clusterroles", None) => {
                self.cluster_roles.remove(name);
            }
            ("roles", Some(object)) => {
                self.roles.entry(namespace.to_owned()).or_default().insert(name.to_owned(), Rule::list(object));
            }
            ("roles", None) => {
                if let Some(roles) = self.roles.get_mut(namespace) {
                    roles.remove(name);
                    if roles.is_empty() {
                        self.roles.remove(namespace);
                    }
                }
            }
            ("clusterrolebindings" | "rolebindings", object) => {
                let bindings = self.bindings.entry(namespace.to_owned()).or_default();
                bindings.remove(name);
                if let Some(object) = object {
                    bindings.insert(Binding::read(name, namespace, object));
                } else if bindings.by_name.is_empty() {
                    self.bindings.remove(namespace);
                }
            }
            _ => {}
        }
    }

    /// See [`super::Authorizer::retain`].
    pub fn retain(&mut self, resource: &str, live: &HashSet<(String, String)>) {
        let mut known: Vec<(String, String)> = Vec::new();
        match resource {
            "clusterroles" => known.extend(self.cluster_roles.keys().map(|name| (String::new(), name.clone()))),
            "roles" => {
                let names = |(namespace, roles): (&String, &HashMap<String, Vec<Rule>>)| {
                    roles.keys().map(|name| (namespace.clone(), name.clone())).collect::<Vec<_>>()
                };
                known.extend(self.roles.iter().flat_map(names));
            }
            _ => {
                let cluster = resource == "clusterrolebindings";
                for (namespace, bindings) in self.bindings.iter().filter(|(namespace, _)| namespace.is_empty() == cluster) {
                    known.extend(bindings.by_name.keys().map(|name| (namespace.clone(), name.clone())));
                }
            }
        }
        for (namespace, name) in known.into_iter().filter(|key| !live.contains(key)) {
            self.apply(resource, &namespace, &name, None);
        }
    }

    /// Why a request is allowed, or `None`.
    #[must_use]
    pub fn authorize(&self, attributes: &Attributes<'_>) -> Option<String> {
        let mut allowed = None;
        self.visit(attributes.user, attributes.namespace, |found| {
            if found.rules.is_some_and(|rules| rules.iter().any(|rule| rule.matches(attributes))) {
                allowed = Some(found.reason());
                return false;
            }
            true
        });
        allowed
    }

    /// Every rule for a user in a namespace, and one sentence per reference that leads nowhere.
    #[must_use]
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let mut rules = Vec::new();
        let mut errors = Vec::new();
        self.visit(user, namespace, |found| {
            match found.rules {
                Some(list) => rules.extend_from_slice(list),
                None => errors.push(format!(
                    "{}.{GROUP} {} not found",
                    if found.binding.role_kind == "Role" { "roles" } else { "clusterroles" },
                    quote(&found.binding.role_name)
                )),
            }
            true
        });
        (rules, errors)
    }

    /// The rules behind a role reference.
    #[must_use]
    pub fn role_rules(&self, kind: &str, name: &str, namespace: &str) -> Option<&[Rule]> {
        match kind {
            "ClusterRole" => self.cluster_roles.get(name).map(|role| role.rules.as_slice()),
            "Role" => self.roles.get(namespace)?.get(name).map(Vec::as_slice),
            _ => None,
        }
    }

    /// See [`super::Authorizer::stale_aggregations`].
    #[must_use]
    pub fn stale_aggregations(&self) -> Vec<(String, Vec<Value>)> {
        let mut stale = Vec::new();
        for (name, role) in &self.cluster_roles {
            let Some(selectors) = &role.aggregates else { continue };
            let mut rules: Vec<Rule> = Vec::new();
            for selector in selectors {
                let selected =
                    self.cluster_roles.iter().filter(|(other, role)| *other != name && selector_matches(selector, &role.labels));
                for rule in selected.flat_map(|(_, role)| &role.rules) {
                    if !rules.contains(rule) {
                        rules.push(rule.clone());
                    }
                }
            }
            // Order is not meaning: the stored rules may come from another writer.
            let same = rules.len() == role.rules.len() && rules.iter().all(|rule| role.rules.contains(rule));
            if !same {
                stale.push((name.clone(), rules.iter().map(Rule::to_value).collect()));
            }
        }
        stale
    }

    /// Goes over the bindings of a user until `visit` returns false: cluster-wide ones first, as upstream does.
    fn visit<'a>(&'a self, user: &'a UserInfo, namespace: &'a str, mut visit: impl FnMut(Found<'a>) -> bool) {
        let scopes: &[&'a str] = if namespace.is_empty() { &[""] } else { &["", namespace] };
        for &scope in scopes {
            let Some(bindings) = self.bindings.get(scope) else { continue };
            let of_user = bindings.by_user.get(&user.username).into_iter().flatten();
            let of_user = of_user.map(|binding| (binding, "User", &user.username));
            let of_groups = user.groups.iter().flat_map(|group| {
                bindings.by_group.get(group).into_iter().flatten().map(move |binding| (binding, "Group", group))
            });
            for (binding, kind, name) in of_user.chain(of_groups) {
                let rules = self.role_rules(&binding.role_kind, &binding.role_name, scope);
                let found = Found { scope, binding, rules, kind, name };
                if !visit(found) {
                    return;
                }
            }
        }
    }
}

/// One binding that concerns a user.
struct Found<'a> {
    scope: &'a str,
    binding: &'a Binding,
    /// `None` when the role it names does not exist.
    rules: Option<&'a [Rule]>,
    /// What of the user is bound, `User` or `Group`.
    kind: &'static str,
    /// That user's or group's name.
    name: &'a str,
}

impl Found<'_> {
    fn reason(&self) -> String {
        let Binding { name, role_kind, role_name, .. } = self.binding;
        let subject = match authn::split_service_account_username(self.name) {
            Some((namespace, name)) if self.kind == "User" => {
                format!("ServiceAccount {}", quote(&format!("{name}/{namespace}")))
            }
            _ => format!("{} {}", self.kind, quote(self.name)),
        };
        let (kind, name) = if self.scope.is_empty() {
            ("ClusterRoleBinding", name.clone())
        } else {
            ("RoleBinding", format!("{name}/{}", self.scope))
        };
        format!("RBAC: allowed by {kind} {} of {role_kind} {} to {subject}", quote(&name), quote(role_name))
    }
}

impl ClusterRole {
    fn read(object: &Value) -> Self {
        let labels = object["metadata"]["labels"].as_object();
        ClusterRole {
            rules: Rule::list(object),
            labels: labels
                .into_iter()
                .flatten()
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect(),
            aggregates: object["aggregationRule"]
                .as_object()
                .map(|rule| rule.get("clusterRoleSelectors").and_then(Value::as_array).cloned().unwrap_or_default()),
        }
    }
}

impl Binding {
    fn read(name: &str, namespace: &str, object: &Value) -> Self {
        let subjects = object["subjects"].as_array();
        Binding {
            name: name.to_owned(),
            subjects: subjects.into_iter().flatten().filter_map(|subject| Subject::read(subject, namespace)).collect(),
            role_kind: object["roleRef"]["kind"].as_str().unwrap_or_default().to_owned(),
            role_name: object["roleRef"]["name"].as_str().unwrap_or_default().to_owned(),
        }
    }
}

impl Subject {
    /// A ServiceAccount without a namespace is in the binding's.
    fn read(subject: &Value, binding_namespace: &str) -> Option<Self> {
        let name = subject["name"].as_str()?;
        match subject["kind"].as_str()? {
            "User" => Some(Subject::User(name.to_owned())),
            "Group" => Some(Subject::Group(name.to_owned())),
            "ServiceAccount" => {
                let namespace = match subject["namespace"].as_str() {
                    None | Some("") => binding_namespace,
                    Some(namespace) => namespace,
                };
                // In a ClusterRoleBinding it has to name its namespace, else it is nobody.
                (!namespace.is_empty()).then(|| Subject::User(authn::service_account_username(namespace, name)))
            }
            _ => None,
        }
    }
}

impl Bindings {
    fn insert(&mut self, binding: Binding) {
        let binding = Arc::new(binding);
        for subject in &binding.subjects {
            let (map, name) = self.index(subject);
            let known = map.entry(name.to_owned()).or_default();
            if !known.iter().any(|other| Arc::ptr_eq(other, &binding)) {
                known.push(Arc::clone(&binding));
            }
        }
        self.by_name.insert(binding.name.clone(), binding);
    }

    fn remove(&mut self, name: &str) {
        let Some(binding) = self.by_name.remove(name) else { return };
        for subject in &binding.subjects {
            let (map, name) = self.index(subject);
            if let Some(known) = map.get_mut(name) {
                known.retain(|other| !Arc::ptr_eq(other, &binding));
                if known.is_empty() {
                    map.remove(name);
                }
            }
        }
    }

    fn index<'a>(&mut self, subject: &'a Subject) -> (&mut HashMap<String, Vec<Arc<Binding>>>, &'a str) {
        match subject {
            Subject::User(name) => (&mut self.by_user, name),
            Subject::Group(name) => (&mut self.by_group, name),
        }
    }
}

/// Whether a `metav1.LabelSelector` object selects these labels; an empty one selects everything.
pub(crate) fn selector_matches(selector: &Value, labels: &BTreeMap<String, String>) -> bool {
    let exact = selector["matchLabels"].as_object().into_iter().flatten();
    for (key, value) in exact {
        if labels.get(key).map(String::as_str) != value.as_str() {
            return false;
        }
    }
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    for expression in expressions {
        let key = expression["key"].as_str().unwrap_or_default();
        let values = super::rules::strings(&expression["values"]);
        let label = labels.get(key);
        let holds = match expression["operator"].as_str() {
            Some("In") => label.is_some_and(|label| values.contains(label)),
            Some("NotIn") => label.is_none_or(|label| !values.contains(label)),
            Some("Exists") => label.is_some(),
            Some("DoesNotExist") => label.is_none(),
            _ => false,
        };
        if !holds {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests;
