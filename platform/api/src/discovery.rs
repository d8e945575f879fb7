//! Discovery documents made from a set of kinds: the legacy ones, one a group and version, and the aggregated ones.
//!
//! Follows `pkg/endpoints/discovery` of apiserver 1.37: order of groups, verbs and subresources as there.

use std::{cmp::Reverse, collections::BTreeMap};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::registry::{Kind, Registry, Subresource, Verbs};

mod protobuf;

pub use protobuf::protobuf;

/// The version of the aggregated document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregated {
    /// `apidiscovery.k8s.io/v2`.
    V2,
    /// `apidiscovery.k8s.io/v2beta1`, for kubectl before 1.30.
    V2Beta1,
}

/// `groupPriorityMinimum` and `versionPriority` of the APIServices of the built-in group versions, by which groups are in order
/// (`cmd/kube-apiserver/app/aggregator.go` and `pkg/controlplane/apiserver/aggregator.go`).
const PRIORITIES: [(&str, &str, i64, i64); 22] = [
    ("", "v1", 18_000, 1),
    ("apps", "v1", 17_800, 15),
    ("events.k8s.io", "v1", 17_750, 15),
    ("authentication.k8s.io", "v1", 17_700, 15),
    ("authorization.k8s.io", "v1", 17_600, 15),
    ("autoscaling", "v1", 17_500, 15),
    ("autoscaling", "v2", 17_500, 30),
    ("batch", "v1", 17_400, 15),
    ("certificates.k8s.io", "v1", 17_300, 15),
    ("networking.k8s.io", "v1", 17_200, 15),
    ("policy", "v1", 17_100, 15),
    ("rbac.authorization.k8s.io", "v1", 17_000, 15),
    ("storage.k8s.io", "v1", 16_800, 15),
    ("apiextensions.k8s.io", "v1", 16_700, 15),
    ("admissionregistration.k8s.io", "v1", 16_700, 15),
    ("scheduling.k8s.io", "v1", 16_600, 15),
    ("coordination.k8s.io", "v1", 16_500, 15),
    ("node.k8s.io", "v1", 16_300, 15),
    ("discovery.k8s.io", "v1", 16_200, 15),
    ("resource.k8s.io", "v1", 16_200, 20),
    ("flowcontrol.apiserver.k8s.io", "v1", 16_100, 21),
    ("storagemigration.k8s.io", "v1", 15_800, 15),
];

/// The same of custom resources' group versions (`controller/crdregistration`).
pub const CUSTOM_PRIORITY: (i64, i64) = (1_000, 100);

/// The group of APIServices themselves, which has none of its own and comes first (`pkg/apiserver/handler_apis.go` of
/// kube-aggregator).
const FIRST: &str = "apiregistration.k8s.io";

/// The priorities of a built-in group version, of the group and of the version within it; none of that of APIServices.
pub fn priority(group: &str, version: &str) -> Option<(i64, i64)> {
    let found = PRIORITIES.iter().find(|(known, of, ..)| *known == group && *of == version)?;
    Some((found.2, found.3))
}

/// Where a group of this server's is in the order of groups: higher ones come first.
pub fn group_priority(group: &str) -> i64 {
    if group == FIRST {
        return i64::MAX;
    }
    PRIORITIES.iter().find(|(known, ..)| *known == group).map_or(CUSTOM_PRIORITY.0, |found| found.2)
}

/// A group with its versions, best first.
struct Group<'a> {
    name: &'a str,
    versions: Vec<(&'a str, Vec<&'a Kind>)>,
}

/// `GET /api`.
pub fn api_versions(server_address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
    })
}

/// `GET /apis`.
pub fn group_list(registry: &Registry) -> Value {
    let groups: Vec<Value> = groups(registry).iter().filter(|g| !g.name.is_empty()).map(|g| group_entry(g)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `GET /apis/{group}`.
pub fn group(registry: &Registry, group: &str) -> Option<Value> {
    let groups = groups(registry);
    let found = groups.iter().find(|g| g.name == group && !g.name.is_empty())?;
    let mut document = group_entry(found);
    document["kind"] = "APIGroup".into();
    document["apiVersion"] = "v1".into();
    Some(document)
}

/// `GET /api/v1` and `GET /apis/{group}/{version}`.
pub fn resource_list(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let groups = groups(registry);
    let (_, kinds) = groups.iter().find(|g| g.name == group)?.versions.iter().find(|(v, _)| *v == version)?;
    let mut resources = Vec::new();
    for kind in kinds {
        resources.push(resource(kind));
        resources.extend(kind.subresources.iter().map(|sub| subresource(kind, sub)));
    }
    let mut document = json!({"kind": "APIResourceList", "groupVersion": join(group, version), "resources": resources});
    if !group.is_empty() {
        document["apiVersion"] = "v1".into();
    }
    Some(document)
}

/// `GET /api` (`core`) or `GET /apis` as an `APIGroupDiscoveryList`.
pub fn aggregated(registry: &Registry, core: bool, version: Aggregated) -> Value {
    let items: Vec<Value> = groups(registry).iter().filter(|g| g.name.is_empty() == core).map(aggregated_group).collect();
    let version = match version {
        Aggregated::V2 => "v2",
        Aggregated::V2Beta1 => "v2beta1",
    };
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {}, "items": items})
}

/// The opaque hash by which clients see that objects of a resource must be migrated.
pub fn storage_version_hash(kind: &Kind) -> String {
    let storage = &kind.storage;
    let text = format!("{}/{}/{}", storage.api_group, storage.version, kind.kind);
    STANDARD.encode(&Sha256::digest(text.as_bytes())[..8])
}

/// The kinds of a group by version.
type Versions<'a> = BTreeMap<&'a str, Vec<&'a Kind>>;

fn groups(registry: &Registry) -> Vec<Group<'_>> {
    let mut by_name: BTreeMap<(Reverse<i64>, &str), Versions<'_>> = BTreeMap::new();
    for kind in registry.kinds() {
        let rank = Reverse(group_priority(&kind.group));
        by_name.entry((rank, &kind.group)).or_default().entry(&kind.version).or_default().push(kind);
    }
    let ordered = by_name.into_iter().map(|((_, name), versions)| {
        let mut versions: Vec<_> = versions.into_iter().collect();
        versions.sort_by_key(|(version, _)| Reverse(version_rank(version)));
        Group { name, versions }
    });
    ordered.collect()
}

/// Orders versions by stability and number: v2 over v1 over v1beta2 over v1alpha1 over anything else (`version.CompareKubeAwareVersionStrings`).
pub fn version_rank(version: &str) -> (u8, u32, u32, Reverse<String>) {
    let parse = || -> Option<(u8, u32, u32)> {
        let rest = version.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major = rest[..digits].parse().ok()?;
        let (level, minor) = match &rest[digits..] {
            "" => return Some((3, major, 0)),
            tail => tail.strip_prefix("beta").map(|n| (2, n)).or_else(|| tail.strip_prefix("alpha").map(|n| (1, n)))?,
        };
        Some((level, major, minor.parse().ok()?))
    };
    let (level, major, minor) = parse().unwrap_or((0, 0, 0));
    (level, major, minor, Reverse(version.to_owned()))
}

fn join(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

fn group_entry(group: &Group<'_>) -> Value {
    let version = |v: &str| json!({"groupVersion": join(group.name, v), "version": v});
    let versions: Vec<Value> = group.versions.iter().map(|(v, _)| version(v)).collect();
    let preferred = versions.first().cloned().unwrap_or(Value::Null);
    json!({"name": group.name, "versions": versions, "preferredVersion": preferred})
}

fn resource(kind: &Kind) -> Value {
    let mut entry = json!({
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": kind.verbs.names().collect::<Vec<_>>(),
    });
    if !kind.short_names.is_empty() {
        entry["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        entry["categories"] = json!(kind.categories);
    }
    if kind.verbs.contains(Verbs::GET) && !kind.strategy.virtual_only {
        entry["storageVersionHash"] = storage_version_hash(kind).into();
    }
    entry
}

fn subresource(kind: &Kind, sub: &Subresource) -> Value {
    let mut entry = json!({
        "name": format!("{}/{}", kind.plural, sub.name),
        "singularName": "",
        "namespaced": kind.namespaced,
        "kind": sub.kind,
        "verbs": sub.verbs.names().collect::<Vec<_>>(),
    });
    if let Some((group, version)) = &sub.group_version {
        entry["group"] = json!(group);
        entry["version"] = json!(version);
    }
    entry
}

fn aggregated_group(group: &Group<'_>) -> Value {
    let versions = group.versions.iter().map(|(version, kinds)| {
        let resources: Vec<Value> = kinds.iter().map(|kind| aggregated_resource(kind)).collect();
        json!({"version": version, "resources": resources, "freshness": "Current"})
    });
    let mut metadata = Map::new();
    if !group.name.is_empty() {
        metadata.insert("name".to_owned(), group.name.into());
    }
    metadata.insert("creationTimestamp".to_owned(), Value::Null);
    json!({"metadata": metadata, "versions": versions.collect::<Vec<_>>()})
}

fn aggregated_resource(kind: &Kind) -> Value {
    let response_kind = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let mut entry = json!({
        "resource": kind.plural,
        "responseKind": response_kind(&kind.group, &kind.version, &kind.kind),
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": kind.verbs.names().collect::<Vec<_>>(),
    });
    if !kind.short_names.is_empty() {
        entry["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        entry["categories"] = json!(kind.categories);
    }
    let subresources = kind.subresources.iter().map(|sub| {
        let (group, version) = sub.group_version.as_ref().map_or((&kind.group, &kind.version), |(g, v)| (g, v));
        json!({
            "subresource": sub.name,
            "responseKind": response_kind(group, version, &sub.kind),
            "verbs": sub.verbs.names().collect::<Vec<_>>(),
        })
    });
    let subresources: Vec<Value> = subresources.collect();
    if !subresources.is_empty() {
        entry["subresources"] = subresources.into();
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_stability() {
        let mut versions = ["v1alpha1", "foo", "v10", "v1", "v2", "v1beta2", "v2beta1"];
        versions.sort_by_key(|version| Reverse(version_rank(version)));
        assert_eq!(versions, ["v10", "v2", "v1", "v2beta1", "v1beta2", "v1alpha1", "foo"]);
    }

    #[test]
    fn documents_list_kinds_and_subresources() {
        let registry = Registry::builtin();
        let core = resource_list(&registry, "", "v1").expect("core");
        let find = |name: &str| {
            core["resources"].as_array().and_then(|r| r.iter().find(|r| r["name"] == name)).cloned().expect("resource")
        };
        assert_eq!(find("pods")["shortNames"], json!(["po"]));
        assert_eq!(
            find("pods/eviction"),
            json!({"name": "pods/eviction", "singularName": "", "namespaced": true, "group": "policy",
            "version": "v1", "kind": "Eviction", "verbs": ["create"]})
        );
        assert_eq!(group(&registry, "autoscaling").expect("group")["preferredVersion"]["version"], "v2");
        assert!(group(&registry, "").is_none());
        assert_eq!(group_list(&registry)["groups"][0]["name"], "apiregistration.k8s.io");
        let apis = aggregated(&registry, false, Aggregated::V2);
        assert_eq!(apis["items"][1]["metadata"]["name"], "apps");
        assert_eq!(aggregated(&registry, true, Aggregated::V2)["items"].as_array().map(Vec::len), Some(1));
    }
}
