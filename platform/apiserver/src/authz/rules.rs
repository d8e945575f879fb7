//! Policy rules: what they match, what they cover, how they are written.
//!
//! Follows `pkg/apis/rbac/v1/evaluation_helpers.go` and
//! `staging/src/k8s.io/component-helpers/auth/rbac/validation/policy_comparator.go`.

use serde_json::{Map, Value, json};

use super::Attributes;

/// One `PolicyRule`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// What may be done; `*` is everything.
    pub verbs: Vec<String>,
    /// The API groups; `*` is all.
    pub api_groups: Vec<String>,
    /// The resources and `resource/subresource` pairs; `*` is all, `*/sub` that subresource of all.
    pub resources: Vec<String>,
    /// The only object names the rule is for; none means all.
    pub resource_names: Vec<String>,
    /// Paths; a trailing `*` matches whatever follows.
    pub non_resource_urls: Vec<String>,
}

impl Rule {
    /// Reads a rule of a Role; what is not a list of strings counts as empty, as validation lets none of it in.
    #[must_use]
    pub fn from_value(value: &Value) -> Self {
        Rule {
            verbs: strings(&value["verbs"]),
            api_groups: strings(&value["apiGroups"]),
            resources: strings(&value["resources"]),
            resource_names: strings(&value["resourceNames"]),
            non_resource_urls: strings(&value["nonResourceURLs"]),
        }
    }

    /// The rules of a Role or ClusterRole.
    #[must_use]
    pub fn list(role: &Value) -> Vec<Rule> {
        role["rules"].as_array().map(|rules| rules.iter().map(Rule::from_value).collect()).unwrap_or_default()
    }

    /// The rule as it stands in an object.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (name, list) in [
            ("apiGroups", &self.api_groups),
            ("nonResourceURLs", &self.non_resource_urls),
            ("resourceNames", &self.resource_names),
            ("resources", &self.resources),
        ] {
            if !list.is_empty() {
                map.insert(name.into(), json!(list));
            }
        }
        map.insert("verbs".into(), json!(self.verbs));
        Value::Object(map)
    }

    /// Whether the rule allows what is asked.
    #[must_use]
    pub fn matches(&self, attributes: &Attributes<'_>) -> bool {
        if !has(&self.verbs, attributes.verb) {
            return false;
        }
        if !attributes.is_resource {
            return self.non_resource_urls.iter().any(|url| url_matches(url, attributes.path));
        }
        has(&self.api_groups, attributes.group)
            && self.resources.iter().any(|rule| resource_matches(rule, attributes.resource, attributes.subresource))
            && (self.resource_names.is_empty() || self.resource_names.iter().any(|name| name == attributes.name))
    }

    /// Splits into rules of one verb and one group, resource and name, or one verb and one path.
    fn break_down(&self) -> Vec<Rule> {
        let mut parts = Vec::new();
        for verb in &self.verbs {
            for group in &self.api_groups {
                for resource in &self.resources {
                    let part = |names: &[String]| Rule {
                        verbs: vec![verb.clone()],
                        api_groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        resource_names: names.to_vec(),
                        non_resource_urls: Vec::new(),
                    };
                    if self.resource_names.is_empty() {
                        parts.push(part(&[]));
                    }
                    parts.extend(self.resource_names.iter().map(|name| part(std::slice::from_ref(name))));
                }
            }
            parts.extend(self.non_resource_urls.iter().map(|url| Rule {
                verbs: vec![verb.clone()],
                non_resource_urls: vec![url.clone()],
                ..Rule::default()
            }));
        }
        parts
    }

    /// Whether this rule allows all that `part`, a rule out of [`Rule::break_down`], allows.
    fn covers_part(&self, part: &Rule) -> bool {
        let all = |mine: &[String], theirs: &[String]| {
            mine.iter().any(|item| item == "*") || theirs.iter().all(|item| mine.contains(item))
        };
        let resources = all(&self.resources, &part.resources)
            || part.resources.iter().all(|resource| {
                self.resources.contains(resource)
                    || resource
                        .split_once('/')
                        .is_some_and(|(_, sub)| self.resources.iter().any(|mine| mine.strip_prefix("*/") == Some(sub)))
            });
        let names = if self.resource_names.is_empty() {
            true
        } else {
            !part.resource_names.is_empty() && part.resource_names.iter().all(|name| self.resource_names.contains(name))
        };
        let urls = part
            .non_resource_urls
            .iter()
            .all(|url| self.non_resource_urls.iter().any(|mine| mine == url || url_matches(mine, url)));
        all(&self.verbs, &part.verbs) && all(&self.api_groups, &part.api_groups) && resources && names && urls
    }

    /// The rule in one line, as upstream writes it into the message of a refused escalation.
    #[must_use]
    pub fn compact(&self) -> String {
        let parts: Vec<String> = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ]
        .into_iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(name, list)| format!("{name}:{}", quote_list(list)))
        .collect();
        format!("{{{}}}", parts.join(", "))
    }
}

/// The parts of `wanted` that no rule in `owned` covers.
#[must_use]
pub fn uncovered(owned: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    wanted.iter().flat_map(Rule::break_down).filter(|part| !owned.iter().any(|rule| rule.covers_part(part))).collect()
}

/// Joins rules that differ only in their verbs; rules with several groups or resources stay as they are.
#[must_use]
pub fn compact(rules: Vec<Rule>) -> Vec<Rule> {
    let mut joined: Vec<Rule> = Vec::with_capacity(rules.len());
    for rule in rules {
        let simple = rule.non_resource_urls.is_empty()
            && rule.api_groups.len() == 1
            && rule.resources.len() == 1
            && rule.resource_names.len() <= 1;
        let same = |other: &&mut Rule| {
            other.api_groups == rule.api_groups
                && other.resources == rule.resources
                && other.resource_names == rule.resource_names
                && other.non_resource_urls.is_empty()
        };
        match joined.iter_mut().find(same).filter(|_| simple) {
            Some(known) => {
                for verb in rule.verbs {
                    if !known.verbs.contains(&verb) {
                        known.verbs.push(verb);
                    }
                }
            }
            None => joined.push(rule),
        }
    }
    joined
}

/// A string in double quotes, escaped as Go's `%q` does what can occur in names and paths.
#[must_use]
pub fn quote(text: &str) -> String {
    format!("{text:?}")
}

/// A list as Go's `%q` writes a slice: `["a" "b"]`.
#[must_use]
pub fn quote_list(list: &[String]) -> String {
    format!("[{}]", list.iter().map(|item| quote(item)).collect::<Vec<_>>().join(" "))
}

pub(crate) fn strings(value: &Value) -> Vec<String> {
    value.as_array().map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect()).unwrap_or_default()
}

fn has(list: &[String], item: &str) -> bool {
    list.iter().any(|known| known == "*" || known == item)
}

fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    match rule.split_once('/') {
        None => subresource.is_empty() && rule == resource,
        Some((rule_resource, rule_subresource)) => {
            !subresource.is_empty() && rule_subresource == subresource && (rule_resource == "*" || rule_resource == resource)
        }
    }
}

fn url_matches(rule: &str, path: &str) -> bool {
    rule == "*" || rule == path || rule.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

#[cfg(test)]
mod tests;
