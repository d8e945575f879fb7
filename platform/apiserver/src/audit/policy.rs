//! The policy: which requests are audited, and how much of them is kept.
//!
//! Follows `apiserver/pkg/audit/policy` and `apiserver/pkg/apis/audit/validation`.

use pharos_api::validation::FieldError;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{authn::UserInfo, request::RequestInfo};

/// What is audited when no policy is given.
const DEFAULT: &str = include_str!("default-policy.yaml");

/// How much of a request is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) enum Level {
    None,
    Metadata,
    Request,
    RequestResponse,
}

impl Level {
    pub(super) const ALL: [Level; 4] = [Level::None, Level::Metadata, Level::Request, Level::RequestResponse];

    pub(super) fn name(self) -> &'static str {
        match self {
            Level::None => "None",
            Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        }
    }
}

/// Where on its way a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

impl Stage {
    const ALL: [Stage; 4] = [Stage::RequestReceived, Stage::ResponseStarted, Stage::ResponseComplete, Stage::Panic];

    pub(super) fn name(self) -> &'static str {
        match self {
            Stage::RequestReceived => "RequestReceived",
            Stage::ResponseStarted => "ResponseStarted",
            Stage::ResponseComplete => "ResponseComplete",
            Stage::Panic => "Panic",
        }
    }
}

/// Stages for which no event is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Stages(u8);

impl Stages {
    fn named(names: &[String]) -> Self {
        let bits = Stage::ALL.into_iter().filter(|stage| names.iter().any(|name| name == stage.name()));
        Stages(bits.fold(0, |bits, stage| bits | 1 << stage as u8))
    }

    fn or(self, other: Stages) -> Stages {
        Stages(self.0 | other.0)
    }

    pub(super) fn contains(self, stage: Stage) -> bool {
        self.0 & (1 << stage as u8) != 0
    }
}

/// What is to be done about one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) level: Level,
    pub(super) omitted: Stages,
    pub(super) omit_managed_fields: bool,
}

/// A policy that was read and checked: its first rule that matches a request decides.
#[derive(Debug, Clone)]
pub struct Policy {
    rules: Vec<Rule>,
    otherwise: Decision,
}

#[derive(Debug, Clone)]
struct Rule {
    decision: Decision,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<GroupResources>,
    namespaces: Vec<String>,
    non_resource_urls: Vec<String>,
}

/// A policy as it is written (`audit.k8s.io/v1`).
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Written {
    rules: Vec<WrittenRule>,
    omit_stages: Vec<String>,
    omit_managed_fields: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WrittenRule {
    level: String,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<GroupResources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    omit_stages: Vec<String>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GroupResources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

const POLICY_FIELDS: [&str; 6] = ["apiVersion", "kind", "metadata", "rules", "omitStages", "omitManagedFields"];
const RULE_FIELDS: [&str; 9] =
    ["level", "users", "userGroups", "verbs", "resources", "namespaces", "nonResourceURLs", "omitStages", "omitManagedFields"];
const RESOURCES_FIELDS: [&str; 3] = ["group", "resources", "resourceNames"];

impl Default for Policy {
    /// Metadata of writes, of access to Secrets and of ways into containers; nothing for what the system reads, nor for its
    /// heartbeats; never a body.
    fn default() -> Self {
        Policy::parse(DEFAULT.as_bytes()).expect("the policy is part of the program")
    }
}

impl Policy {
    /// Reads a policy from YAML or JSON. Unknown fields are logged and left out, as upstream does.
    ///
    /// # Errors
    ///
    /// In upstream's words, when it is no policy of `audit.k8s.io/v1`, breaks a rule (`ValidatePolicy`) or has no rules.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let document = pharos_api::yaml::decode(text).map_err(|error| format!("failed decoding: {error}"))?;
        let value = document.value;
        let field = |name: &str| value[name].as_str().unwrap_or_default();
        let (version, kind) = (field("apiVersion"), field("kind"));
        for (name, text) in [("Kind", kind), ("apiVersion", version)] {
            if text.is_empty() {
                return Err(format!("failed decoding: Object '{name}' is missing in the policy"));
            }
        }
        if version != "audit.k8s.io/v1" || kind != "Policy" {
            return Err(format!("failed decoding: no kind {kind:?} is registered for version {version:?}"));
        }
        let mut mistakes = unknown_fields(&value);
        mistakes.extend(document.duplicates.iter().map(|key| format!("duplicate field {key:?}")));
        if !mistakes.is_empty() {
            let error = mistakes.join(", ");
            tracing::warn!(error, "Audit policy contains errors, falling back to lenient decoding");
        }
        let written: Written = serde_json::from_value(value).map_err(|error| format!("failed decoding: {error}"))?;
        let errors = validate(&written);
        match errors.as_slice() {
            [] => {}
            [one] => return Err(one.to_string()),
            many => return Err(format!("[{}]", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))),
        }
        if written.rules.is_empty() {
            return Err("loaded illegal policy with 0 rules".to_owned());
        }
        Ok(Self::compile(written))
    }

    fn compile(written: Written) -> Self {
        let omitted = Stages::named(&written.omit_stages);
        let default = written.omit_managed_fields;
        let rules = written.rules.into_iter().map(|rule| Rule {
            decision: Decision {
                level: Level::ALL.into_iter().find(|level| level.name() == rule.level).unwrap_or(Level::None),
                omitted: omitted.or(Stages::named(&rule.omit_stages)),
                omit_managed_fields: rule.omit_managed_fields.unwrap_or(default),
            },
            users: rule.users,
            user_groups: rule.user_groups,
            verbs: rule.verbs,
            resources: rule.resources,
            namespaces: rule.namespaces,
            non_resource_urls: rule.non_resource_urls,
        });
        let otherwise = Decision { level: Level::None, omitted, omit_managed_fields: default };
        Policy { rules: rules.collect(), otherwise }
    }

    /// What is to be done about a request; `user` is `None` where nobody was authenticated.
    pub(super) fn decide(&self, user: Option<&UserInfo>, info: &RequestInfo) -> Decision {
        self.rules.iter().find(|rule| rule.matches(user, info)).map_or(self.otherwise, |rule| rule.decision)
    }
}

fn has(list: &[String], text: &str) -> bool {
    list.iter().any(|item| item == text)
}

impl Rule {
    fn matches(&self, user: Option<&UserInfo>, info: &RequestInfo) -> bool {
        if !self.users.is_empty() && !user.is_some_and(|user| has(&self.users, &user.username)) {
            return false;
        }
        let in_group = |user: &UserInfo| user.groups.iter().any(|group| has(&self.user_groups, group));
        if !self.user_groups.is_empty() && !user.is_some_and(in_group) {
            return false;
        }
        if !self.verbs.is_empty() && !has(&self.verbs, &info.verb) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return self.matches_resource(info);
        }
        if !self.non_resource_urls.is_empty() {
            return !info.is_resource && self.non_resource_urls.iter().any(|spec| path_matches(&info.path, spec));
        }
        true
    }

    fn matches_resource(&self, info: &RequestInfo) -> bool {
        if !info.is_resource || (!self.namespaces.is_empty() && !has(&self.namespaces, &info.namespace)) {
            return false;
        }
        self.resources.is_empty() || self.resources.iter().any(|wanted| wanted.matches(info))
    }
}

impl GroupResources {
    fn matches(&self, info: &RequestInfo) -> bool {
        if self.group != "*" && self.group != info.group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        let (resource, subresource) = (info.resource.as_str(), info.subresource.as_str());
        (self.resource_names.is_empty() || has(&self.resource_names, &info.name))
            && self.resources.iter().any(|wanted| match wanted.split_once('/') {
                None => wanted == "*" || (subresource.is_empty() && wanted == resource),
                Some((of, "*")) if of == resource => true,
                Some(("*", of)) => !subresource.is_empty() && of == subresource,
                Some((of, below)) => of == resource && !below.is_empty() && below == subresource,
            })
    }
}

fn path_matches(path: &str, spec: &str) -> bool {
    spec == "*" || spec == path || (spec.ends_with('*') && path.starts_with(spec.trim_end_matches('*')))
}

/// Fields of a policy that there are not, as a strict decoder tells them.
fn unknown_fields(policy: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut look = |path: &str, value: &Value, known: &[&str]| {
        for key in value.as_object().into_iter().flat_map(|object| object.keys()) {
            if !known.contains(&key.as_str()) {
                found.push(format!("unknown field \"{path}{key}\""));
            }
        }
    };
    look("", policy, &POLICY_FIELDS);
    for (at, rule) in policy["rules"].as_array().into_iter().flatten().enumerate() {
        look(&format!("rules[{at}]."), rule, &RULE_FIELDS);
        for (below, resources) in rule["resources"].as_array().into_iter().flatten().enumerate() {
            look(&format!("rules[{at}].resources[{below}]."), resources, &RESOURCES_FIELDS);
        }
    }
    found
}

fn validate(policy: &Written) -> Vec<FieldError> {
    let mut errors = validate_stages(&policy.omit_stages, "omitStages");
    for (at, rule) in policy.rules.iter().enumerate() {
        let path = format!("rules[{at}]");
        let level = format!("{path}.level");
        match rule.level.as_str() {
            "" => errors.push(FieldError::required(level, "")),
            given if Level::ALL.iter().any(|level| level.name() == given) => {}
            given => errors.push(FieldError::not_supported(level, given, &Level::ALL.map(Level::name))),
        }
        for (at, url) in rule.non_resource_urls.iter().enumerate().filter(|(_, url)| *url != "*") {
            let field = format!("{path}.nonResourceURLs[{at}]");
            if !url.starts_with('/') {
                let why = "non-resource URL rules must begin with a '/' character";
                errors.push(FieldError::invalid(field.as_str(), url.as_str(), why));
            }
            if url.find('*').is_some_and(|star| star + 1 < url.len()) {
                let why = "non-resource URL wildcards '*' must be the final character of the rule";
                errors.push(FieldError::invalid(field, url.as_str(), why));
            }
        }
        for wanted in &rule.resources {
            if !wanted.group.is_empty() && wanted.group != "*" {
                let wrong = pharos_api::names::dns1123_subdomain(&wanted.group);
                if !wrong.is_empty() {
                    let field = format!("{path}.resources.group");
                    errors.push(FieldError::invalid(field, wanted.group.as_str(), wrong.join(",")));
                }
            }
            if !wanted.resource_names.is_empty() && wanted.resources.is_empty() {
                let why = "using resourceNames requires at least one resource";
                let field = format!("{path}.resources.resourceNames");
                errors.push(FieldError::invalid(field, wanted.resource_names.clone(), why));
            }
        }
        errors.extend(validate_stages(&rule.omit_stages, &format!("{path}.omitStages")));
        let of_resources = !rule.resources.is_empty() || !rule.namespaces.is_empty();
        if !rule.non_resource_urls.is_empty() && of_resources {
            let why = "rules cannot apply to both regular resources and non-resource URLs";
            errors.push(FieldError::invalid(format!("{path}.nonResourceURLs"), rule.non_resource_urls.clone(), why));
        }
    }
    errors
}

fn validate_stages(stages: &[String], path: &str) -> Vec<FieldError> {
    let known = Stage::ALL.map(Stage::name);
    let unknown = stages.iter().enumerate().filter(|(_, stage)| !known.contains(&stage.as_str()));
    let why = format!("allowed stages are {}", known.join(","));
    unknown.map(|(at, stage)| FieldError::invalid(format!("{path}[{at}]"), stage.as_str(), why.as_str())).collect()
}

#[cfg(test)]
mod tests;
