//! FlowSchemas, compiled: which requests are of which, and to which level they go (`apiserver/pkg/util/flowcontrol/rule.go`).

use std::sync::{Arc, OnceLock};

use http::HeaderValue;
use pharos_api::flowcontrol::{CATCH_ALL, EXEMPT, mandatory_schema};
use serde_json::Value;

use super::{
    levels::Level,
    metrics::{FlowMetrics, Metrics},
};
use crate::{authn::UserInfo, request::RequestInfo};

/// The schemas in the order they are tried. Replaced as a whole.
pub(super) struct Table {
    schemas: Vec<Arc<Schema>>,
    catch_all: usize,
}

/// One FlowSchema.
pub(super) struct Schema {
    pub(super) name: Arc<str>,
    pub(super) uid: HeaderValue,
    pub(super) level: Level,
    pub(super) level_uid: HeaderValue,
    pub(super) flows: Flows,
    precedence: i64,
    rules: Vec<Rule>,
    metrics: OnceLock<Arc<FlowMetrics>>,
}

/// What tells a schema's flows apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flows {
    /// Nothing: they are one.
    One,
    ByUser,
    ByNamespace,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    urls: Vec<UrlRule>,
}

#[derive(Debug, PartialEq, Eq)]
enum Subject {
    Anybody,
    User(String),
    Group(String),
    /// Any account of a namespace: what such a user's name begins with.
    Accounts(String),
}

#[derive(Debug, PartialEq, Eq)]
struct ResourceRule {
    verbs: Names,
    groups: Names,
    resources: Names,
    namespaces: Names,
    cluster_scope: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct UrlRule {
    verbs: Names,
    urls: Urls,
}

/// Some names, or all.
#[derive(Debug, PartialEq, Eq)]
enum Names {
    All,
    These(Vec<String>),
}

#[derive(Debug, PartialEq, Eq)]
enum Urls {
    All,
    /// Each as it is, and with the slash that what is below begins with.
    These(Vec<(String, String)>),
}

// === impl Table ===

impl Table {
    /// Puts schemas in order; those that everybody needs are there even if their objects are not. `level` finds a level
    /// and its UID by name; schemas of levels that are not there are passed over.
    pub(super) fn new(objects: &[Value], level: impl Fn(&str) -> Option<(Level, HeaderValue)>) -> Self {
        let compile = |object: &Value| Schema::new(object, &level).map(Arc::new);
        let mut schemas: Vec<_> = objects.iter().filter_map(compile).collect();
        schemas.sort_by(|left, right| (left.precedence, &left.name).cmp(&(right.precedence, &right.name)));
        let imagine = |name: &str| {
            let spec = mandatory_schema(name).unwrap_or_default();
            compile(&serde_json::json!({"metadata": {"name": name}, "spec": spec}))
        };
        if !schemas.iter().any(|schema| &*schema.name == EXEMPT) {
            drop(schemas.splice(0..0, imagine(EXEMPT)));
        }
        if !schemas.iter().any(|schema| &*schema.name == CATCH_ALL) {
            schemas.extend(imagine(CATCH_ALL));
        }
        let last = schemas.len().saturating_sub(1);
        let catch_all = schemas.iter().position(|schema| &*schema.name == CATCH_ALL).unwrap_or(last);
        Table { schemas, catch_all }
    }

    /// The schema of a request. `None` only before there are any.
    pub(super) fn classify(&self, user: &UserInfo, info: &RequestInfo) -> Option<&Arc<Schema>> {
        let found = self.schemas.iter().find(|schema| schema.matches(user, info));
        found.or_else(|| self.schemas.get(self.catch_all))
    }
}

// === impl Schema ===

/// The UID of an object, as the header that names it; empty if there is no such object.
pub(super) fn uid(object: &Value) -> HeaderValue {
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    HeaderValue::from_str(uid).unwrap_or(HeaderValue::from_static(""))
}

impl Schema {
    fn new(object: &Value, level: impl Fn(&str) -> Option<(Level, HeaderValue)>) -> Option<Self> {
        let spec = &object["spec"];
        let (level, level_uid) = level(spec["priorityLevelConfiguration"]["name"].as_str()?)?;
        Some(Schema {
            name: object["metadata"]["name"].as_str()?.into(),
            uid: uid(object),
            level,
            level_uid,
            flows: match spec["distinguisherMethod"]["type"].as_str() {
                Some("ByUser") => Flows::ByUser,
                Some("ByNamespace") => Flows::ByNamespace,
                _ => Flows::One,
            },
            precedence: spec["matchingPrecedence"].as_i64().unwrap_or(i64::MAX),
            rules: items(&spec["rules"]).map(Rule::parse).collect(),
            metrics: OnceLock::new(),
        })
    }

    fn matches(&self, user: &UserInfo, info: &RequestInfo) -> bool {
        self.rules.iter().any(|rule| rule.matches(user, info))
    }

    /// The handles of its requests' metrics, made for the first of them.
    pub(super) fn metrics(&self, metrics: &Metrics) -> &Arc<FlowMetrics> {
        self.metrics.get_or_init(|| Arc::new(metrics.flow(self.level.set.name(), &self.name)))
    }
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

// === impl Rule ===

impl Rule {
    pub(super) fn parse(rule: &Value) -> Self {
        Rule {
            subjects: items(&rule["subjects"]).filter_map(Subject::parse).collect(),
            resources: items(&rule["resourceRules"]).map(ResourceRule::parse).collect(),
            urls: items(&rule["nonResourceRules"]).map(UrlRule::parse).collect(),
        }
    }

    pub(super) fn matches(&self, user: &UserInfo, info: &RequestInfo) -> bool {
        if !self.subjects.iter().any(|subject| subject.matches(user)) {
            return false;
        }
        if info.is_resource {
            return self.resources.iter().any(|rule| rule.matches(info));
        }
        self.urls.iter().any(|rule| rule.matches(info))
    }
}

impl Subject {
    fn parse(subject: &Value) -> Option<Self> {
        let subject = match subject["kind"].as_str()? {
            "User" => match subject["user"]["name"].as_str()? {
                "*" => Subject::Anybody,
                name => Subject::User(name.to_owned()),
            },
            "Group" => match subject["group"]["name"].as_str()? {
                "*" => Subject::Anybody,
                name => Subject::Group(name.to_owned()),
            },
            "ServiceAccount" => {
                let account = &subject["serviceAccount"];
                let start = format!("system:serviceaccount:{}:", account["namespace"].as_str()?);
                match account["name"].as_str()? {
                    "*" => Subject::Accounts(start),
                    name => Subject::User(start + name),
                }
            }
            _ => return None,
        };
        Some(subject)
    }

    fn matches(&self, user: &UserInfo) -> bool {
        match self {
            Subject::Anybody => true,
            Subject::User(name) => user.username == *name,
            Subject::Group(name) => user.groups.contains(name),
            Subject::Accounts(start) => user.username.starts_with(start),
        }
    }
}

impl ResourceRule {
    fn parse(rule: &Value) -> Self {
        ResourceRule {
            verbs: Names::parse(&rule["verbs"]),
            groups: Names::parse(&rule["apiGroups"]),
            resources: Names::parse(&rule["resources"]),
            namespaces: Names::parse(&rule["namespaces"]),
            cluster_scope: rule["clusterScope"] == true,
        }
    }

    fn matches(&self, info: &RequestInfo) -> bool {
        self.verbs.have(&info.verb)
            && self.resources.have_resource(&info.resource, &info.subresource)
            && self.groups.have(&info.group)
            && if info.namespace.is_empty() { self.cluster_scope } else { self.namespaces.have(&info.namespace) }
    }
}

impl UrlRule {
    fn parse(rule: &Value) -> Self {
        let urls: Vec<String> = items(&rule["nonResourceURLs"]).map(text).collect();
        let below = |url: &String| {
            let start = url.strip_suffix('*').unwrap_or(url);
            if start.ends_with('/') { start.to_owned() } else { format!("{start}/") }
        };
        let urls = match urls.iter().any(|url| url == "*") {
            true => Urls::All,
            false => Urls::These(urls.iter().map(|url| (url.clone(), below(url))).collect()),
        };
        UrlRule { verbs: Names::parse(&rule["verbs"]), urls }
    }

    fn matches(&self, info: &RequestInfo) -> bool {
        self.verbs.have(&info.verb)
            && match &self.urls {
                Urls::All => true,
                Urls::These(urls) => urls.iter().any(|(url, below)| info.path == *url || info.path.starts_with(below)),
            }
    }
}

impl Names {
    fn parse(names: &Value) -> Self {
        let names: Vec<String> = items(names).map(text).collect();
        if names == ["*"] { Names::All } else { Names::These(names) }
    }

    fn have(&self, name: &str) -> bool {
        match self {
            Names::All => true,
            Names::These(names) => names.iter().any(|own| own == name),
        }
    }

    fn have_resource(&self, resource: &str, subresource: &str) -> bool {
        match self {
            Names::All => true,
            Names::These(names) => names.iter().any(|own| match own.split_once('/') {
                None => subresource.is_empty() && own == resource,
                Some(own) => !subresource.is_empty() && own == (resource, subresource),
            }),
        }
    }
}

#[cfg(test)]
mod tests;
