//! The roles and bindings every cluster begins with, and how they are kept.
//!
//! The table beside this file states upstream's default policy at the level of Kubernetes 1.36
//! (`plugin/pkg/auth/authorizer/rbac/bootstrappolicy`) and what Pharos adds, one rule a line. At start each object is
//! [`reconcile`]d like upstream does (`pkg/registry/rbac/reconciliation`): what is missing is added, what people
//! added stays, and the annotation `rbac.authorization.kubernetes.io/autoupdate: "false"` keeps an object as it is.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{
    rbac::{GROUP, Rbac},
    rules::{Rule, uncovered},
};

const TABLE: &str = include_str!("bootstrap/policy.txt");
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const BOOTSTRAPPING: (&str, &str) = ("kubernetes.io/bootstrapping", "rbac-defaults");
const AGGREGATE: &str = "rbac.authorization.k8s.io/aggregate-to-";

/// What a default object needs.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Nothing: it is there and grants all it should.
    Keep,
    /// To be created.
    Create(Value),
    /// To be updated to this.
    Update(Value),
    /// To be deleted and created: its `roleRef` cannot be changed.
    Recreate(Value),
}

/// Every default object, in the order to write them: ClusterRoles, ClusterRoleBindings, Roles, RoleBindings. The
/// namespaces they are in are `kube-system` and `kube-public`.
#[must_use]
pub fn objects() -> Vec<Value> {
    let mut objects = parse(TABLE);
    aggregate(&mut objects);
    let rank = |object: &Value| {
        let order = ["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"];
        order.iter().position(|kind| object["kind"] == *kind)
    };
    objects.sort_by_key(rank);
    objects
}

/// The plural resource of an object out of [`objects`].
#[must_use]
pub fn resource(object: &Value) -> &'static str {
    match object["kind"].as_str() {
        Some("ClusterRole") => "clusterroles",
        Some("ClusterRoleBinding") => "clusterrolebindings",
        Some("Role") => "roles",
        _ => "rolebindings",
    }
}

/// The rules the node authorizer holds uniform requests of kubelets against: those of `system:node`.
#[must_use]
pub fn node_rules() -> Vec<Rule> {
    parse(TABLE)
        .iter()
        .find(|object| object["kind"] == "ClusterRole" && object["metadata"]["name"] == "system:node")
        .map(Rule::list)
        .unwrap_or_default()
}

/// What to do about one default object, given what is in the store under its name.
#[must_use]
pub fn reconcile(existing: Option<&Value>, wanted: &Value) -> Step {
    let Some(existing) = existing else { return Step::Create(wanted.clone()) };
    if existing["metadata"]["annotations"][AUTOUPDATE] == "false" {
        return Step::Keep;
    }
    if wanted["roleRef"].is_object() && !same_role(&existing["roleRef"], &wanted["roleRef"]) {
        return Step::Recreate(wanted.clone());
    }
    let mut new = existing.clone();
    for part in ["labels", "annotations"] {
        for (key, value) in wanted["metadata"][part].as_object().into_iter().flatten() {
            if new["metadata"][part][key].is_null() {
                new["metadata"][part][key] = value.clone();
            }
        }
    }
    if wanted["aggregationRule"].is_object() {
        let selectors = "clusterRoleSelectors";
        add_missing(&mut new["aggregationRule"][selectors], &wanted["aggregationRule"][selectors]);
    } else if wanted["rules"].is_array() {
        let missing = uncovered(&Rule::list(existing), &Rule::list(wanted));
        if !missing.is_empty() {
            let mut rules = existing["rules"].as_array().cloned().unwrap_or_default();
            rules.extend(super::rules::compact(missing).iter().map(Rule::to_value));
            new["rules"] = Value::Array(rules);
        }
    }
    if wanted["subjects"].is_array() {
        add_missing(&mut new["subjects"], &wanted["subjects"]);
    }
    if new == *existing { Step::Keep } else { Step::Update(new) }
}

fn same_role(a: &Value, b: &Value) -> bool {
    ["apiGroup", "kind", "name"].into_iter().all(|field| a[field] == b[field])
}

fn add_missing(list: &mut Value, wanted: &Value) {
    let mut all = list.as_array().cloned().unwrap_or_default();
    let known = all.len();
    for item in wanted.as_array().into_iter().flatten() {
        if !all.contains(item) {
            all.push(item.clone());
        }
    }
    if all.len() > known {
        *list = Value::Array(all);
    }
}

/// Fills in the rules of aggregated roles, so that they work from the first moment.
fn aggregate(objects: &mut [Value]) {
    let mut rbac = Rbac::default();
    for object in objects.iter().filter(|object| object["kind"] == "ClusterRole") {
        rbac.apply("clusterroles", "", object["metadata"]["name"].as_str().unwrap_or_default(), Some(object));
    }
    // `admin` selects `edit`, which selects `view`: three rounds settle it, the bound is for a mistake in the table.
    for _ in 0..8 {
        let stale: BTreeMap<String, Vec<Value>> = rbac.stale_aggregations().into_iter().collect();
        if stale.is_empty() {
            return;
        }
        for object in objects.iter_mut().filter(|object| object["kind"] == "ClusterRole") {
            let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            if let Some(rules) = stale.get(&name) {
                object["rules"] = json!(rules);
                rbac.apply("clusterroles", "", &name, Some(object));
            }
        }
    }
}

/// Reads the table. A line that is not indented begins an object, an indented one is a rule of it; the top of the
/// table explains both. What it cannot read it leaves out, and a test sees to it that there is no such line.
fn parse(table: &str) -> Vec<Value> {
    let mut objects: Vec<Value> = Vec::new();
    for line in table.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        if let Some(rule) = line.strip_prefix("  ") {
            if let Some(role) =
                objects.iter_mut().rev().find(|object| object["kind"] == "ClusterRole" || object["kind"] == "Role")
                && let Some(rules) = role["rules"].as_array_mut()
            {
                rules.extend(parse_rule(rule).as_ref().map(Rule::to_value));
            }
            continue;
        }
        let mut words = line.split_whitespace();
        let (Some(kind), Some(name)) = (words.next(), words.next()) else { continue };
        let words: Vec<&str> = words.collect();
        match kind {
            "ClusterRole" => objects.push(role(kind, "", name, &words)),
            "Role" => {
                let (namespace, name) = name.split_once('/').unwrap_or(("", name));
                objects.push(role(kind, namespace, name, &words));
            }
            "Controller" => {
                let full = format!("system:controller:{name}");
                let subject = format!("ServiceAccount/kube-system/{name}");
                objects.push(binding("ClusterRoleBinding", "", &full, ("ClusterRole", &full), &[&subject]));
                objects.push(role("ClusterRole", "", &full, &[]));
            }
            // Bind NAME ROLE SUBJECT…
            "Bind" => {
                if let [role, subjects @ ..] = words.as_slice() {
                    objects.push(binding("ClusterRoleBinding", "", name, ("ClusterRole", role), subjects));
                }
            }
            // BindIn NAMESPACE/NAME ROLE SUBJECT…
            "BindIn" => {
                let (namespace, name) = name.split_once('/').unwrap_or(("", name));
                if let [role, subjects @ ..] = words.as_slice() {
                    objects.push(binding("RoleBinding", namespace, name, ("Role", role), subjects));
                }
            }
            _ => {}
        }
    }
    objects
}

fn role(kind: &str, namespace: &str, name: &str, words: &[&str]) -> Value {
    let mut object = object(kind, namespace, name);
    object["rules"] = json!([]);
    for word in words {
        if let Some(into) = word.strip_prefix('>') {
            object["metadata"]["labels"][format!("{AGGREGATE}{into}")] = json!("true");
        } else if let Some(from) = word.strip_prefix('<') {
            let selector = json!({"matchLabels": {(format!("{AGGREGATE}{from}")): "true"}});
            object["aggregationRule"] = json!({"clusterRoleSelectors": [selector]});
        }
    }
    object
}

fn binding(kind: &str, namespace: &str, name: &str, role: (&str, &str), subjects: &[&str]) -> Value {
    let mut object = object(kind, namespace, name);
    object["roleRef"] = json!({"apiGroup": GROUP, "kind": role.0, "name": role.1});
    let subject = |text: &&str| -> Option<Value> {
        let (kind, name) = text.split_once('/')?;
        Some(match (kind, name.split_once('/')) {
            ("ServiceAccount", Some((namespace, name))) => json!({"kind": kind, "name": name, "namespace": namespace}),
            _ => json!({"apiGroup": GROUP, "kind": kind, "name": name}),
        })
    };
    let subjects: Vec<Value> = subjects.iter().filter_map(subject).collect();
    if !subjects.is_empty() {
        object["subjects"] = Value::Array(subjects);
    }
    object
}

fn object(kind: &str, namespace: &str, name: &str) -> Value {
    let mut metadata = Map::new();
    metadata.insert("name".into(), json!(name));
    if !namespace.is_empty() {
        metadata.insert("namespace".into(), json!(namespace));
    }
    metadata.insert("labels".into(), json!({(BOOTSTRAPPING.0): BOOTSTRAPPING.1}));
    metadata.insert("annotations".into(), json!({(AUTOUPDATE): "true"}));
    json!({"apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": metadata})
}

/// Reads `VERBS @ PATHS` or `VERBS : GROUPS : RESOURCES [: NAMES]`.
fn parse_rule(line: &str) -> Option<Rule> {
    if let Some((verbs, urls)) = line.split_once(" @ ") {
        return Some(Rule { verbs: verb_list(verbs), non_resource_urls: list(urls), ..Rule::default() });
    }
    let parts: Vec<&str> = line.split(" : ").collect();
    let (verbs, groups, resources, names) = match parts.as_slice() {
        [verbs, groups, resources] => (verbs, groups, resources, ""),
        [verbs, groups, resources, names] => (verbs, groups, resources, *names),
        _ => return None,
    };
    let group = |group: String| if group == "core" { String::new() } else { group };
    let mut api_groups: Vec<String> = list(groups).into_iter().map(group).collect();
    api_groups.sort_unstable();
    Some(Rule {
        verbs: verb_list(verbs),
        api_groups,
        resources: list(resources),
        resource_names: list(names),
        non_resource_urls: Vec::new(),
    })
}

fn verb_list(words: &str) -> Vec<String> {
    let mut verbs: Vec<String> = Vec::new();
    for word in words.split_whitespace() {
        match word {
            "READ" => verbs.extend(["get", "list", "watch"].map(Into::into)),
            "WRITE" => verbs.extend(["create", "update", "patch", "delete", "deletecollection"].map(Into::into)),
            verb => verbs.push(verb.into()),
        }
    }
    verbs.sort_unstable();
    verbs.dedup();
    verbs
}

fn list(words: &str) -> Vec<String> {
    let mut list: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
    list.sort_unstable();
    list
}

#[cfg(test)]
mod tests;
