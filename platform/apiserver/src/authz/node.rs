//! The node authorizer and the NodeRestriction admission: a kubelet touches what its own pods need, nothing more.
//!
//! The graph is kept the other way round than upstream's: of each node, what its pods refer to, counted by how many
//! refer to it. So a question is one look-up, and the end of a pod takes away exactly what came with it.
//! Follows `plugin/pkg/auth/authorizer/node` and `plugin/pkg/admission/noderestriction`.

mod references;
pub mod restriction;

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::{Attributes, Decision, rules::Rule};
use crate::authn::UserInfo;

/// The user name prefix of kubelets.
pub const USER_PREFIX: &str = "system:node:";
/// The group of kubelets.
pub const GROUP: &str = "system:nodes";
/// The namespace of the Leases by which kubelets show that they live.
pub const LEASE_NAMESPACE: &str = "kube-node-lease";

/// The name of the node a user is, if it is one.
#[must_use]
pub fn identity(user: &UserInfo) -> Option<String> {
    let name = user.username.strip_prefix(USER_PREFIX)?;
    user.groups.iter().any(|group| group == GROUP).then(|| name.to_owned())
}

/// Kinds of objects a node may be related to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Pod,
    Secret,
    ConfigMap,
    Claim,
    Volume,
    ServiceAccount,
    ResourceClaim,
    Attachment,
    Slice,
    CertificateRequest,
}

/// An object by kind, namespace and name.
type Id = (Kind, String, String);

/// Which node is related to which objects.
#[derive(Debug, Default)]
pub struct Graph {
    /// Of each node, how many times its pods, attachments and slices lead to an object.
    nodes: HashMap<String, HashMap<Id, usize>>,
    /// What each source (pod, attachment, slice, request) leads to, and of which node.
    sources: HashMap<Id, (String, HashSet<Id>)>,
    /// Persistent volumes by the claim they are bound to: namespace, name.
    volumes: HashMap<(String, String), HashMap<String, HashSet<Id>>>,
    /// The claim each persistent volume is bound to.
    claims: HashMap<String, (String, String)>,
}

impl Graph {
    /// How many edges there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.values().map(HashMap::len).sum()
    }

    /// Whether no node is related to anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Takes in the new state of an object, or its deletion.
    pub fn apply(&mut self, group: &str, resource: &str, namespace: &str, name: &str, object: Option<&Value>) {
        let id = |kind| (kind, namespace.to_owned(), name.to_owned());
        match (group, resource) {
            ("", "pods") => {
                // A finished pod keeps its edges until it is deleted, as upstream: its logs may still be wanted.
                let node = object.map(|pod| text(&pod["spec"]["nodeName"])).filter(|node| !node.is_empty());
                self.set(id(Kind::Pod), node.zip(object).map(|(node, pod)| (node, references::of_pod(pod, namespace))));
            }
            ("", "persistentvolumes") => self.set_volume(name, object),
            ("storage.k8s.io", "volumeattachments") => {
                let node = object.map(|object| text(&object["spec"]["nodeName"])).filter(|node| !node.is_empty());
                self.set(id(Kind::Attachment), node.map(|node| (node, HashSet::new())));
            }
            ("resource.k8s.io", "resourceslices") => {
                let node = object.map(|object| text(&object["spec"]["nodeName"])).filter(|node| !node.is_empty());
                self.set(id(Kind::Slice), node.map(|node| (node, HashSet::new())));
            }
            ("certificates.k8s.io", "podcertificaterequests") => {
                let node = object.map(|object| text(&object["spec"]["nodeName"])).filter(|node| !node.is_empty());
                self.set(id(Kind::CertificateRequest), node.map(|node| (node, HashSet::new())));
            }
            _ => {}
        }
    }

    /// See [`super::Authorizer::retain`].
    pub fn retain(&mut self, group: &str, resource: &str, live: &HashSet<(String, String)>) {
        let gone: Vec<(String, String)> = if (group, resource) == ("", "persistentvolumes") {
            self.claims.keys().map(|name| (String::new(), name.clone())).filter(|key| !live.contains(key)).collect()
        } else {
            let kind = match (group, resource) {
                ("", "pods") => Kind::Pod,
                ("storage.k8s.io", "volumeattachments") => Kind::Attachment,
                ("resource.k8s.io", "resourceslices") => Kind::Slice,
                ("certificates.k8s.io", "podcertificaterequests") => Kind::CertificateRequest,
                _ => return,
            };
            let known = self.sources.keys().filter(|(known, ..)| *known == kind);
            known.map(|(_, namespace, name)| (namespace.clone(), name.clone())).filter(|key| !live.contains(key)).collect()
        };
        for (namespace, name) in gone {
            self.apply(group, resource, &namespace, &name, None);
        }
    }

    /// Replaces what a source leads to. A source leads to itself too.
    fn set(&mut self, source: Id, new: Option<(&str, HashSet<Id>)>) {
        let new = new.map(|(node, mut leads_to)| {
            leads_to.insert(source.clone());
            (node.to_owned(), leads_to)
        });
        if new.as_ref() == self.sources.get(&source) {
            return;
        }
        if let Some((node, old)) = self.sources.remove(&source) {
            for id in old {
                self.count(&node, id, false);
            }
        }
        if let Some((node, leads_to)) = new {
            for id in &leads_to {
                self.count(&node, id.clone(), true);
            }
            self.sources.insert(source, (node, leads_to));
        }
    }

    fn count(&mut self, node: &str, id: Id, more: bool) {
        let edges = self.nodes.entry(node.to_owned()).or_default();
        let count = edges.entry(id.clone()).or_default();
        *count = if more { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            edges.remove(&id);
            if edges.is_empty() {
                self.nodes.remove(node);
            }
        }
    }

    /// Replaces which claim a persistent volume belongs to, and which Secrets it needs.
    fn set_volume(&mut self, name: &str, object: Option<&Value>) {
        if let Some(claim) = self.claims.remove(name)
            && let Some(volumes) = self.volumes.get_mut(&claim)
        {
            volumes.remove(name);
            if volumes.is_empty() {
                self.volumes.remove(&claim);
            }
        }
        let Some(volume) = object else { return };
        let claim = &volume["spec"]["claimRef"];
        let claim = (text(&claim["namespace"]).to_owned(), text(&claim["name"]).to_owned());
        if claim.1.is_empty() {
            return;
        }
        self.volumes.entry(claim.clone()).or_default().insert(name.to_owned(), references::of_volume(volume, &claim.0));
        self.claims.insert(name.to_owned(), claim);
    }

    /// Whether a node's pods (attachments, slices) lead to an object, if need be by way of claim and volume.
    fn related(&self, node: &str, kind: Kind, namespace: &str, name: &str) -> bool {
        let Some(edges) = self.nodes.get(node) else { return false };
        let leads_to = |kind, namespace: &str, name: &str| edges.contains_key(&(kind, namespace.to_owned(), name.to_owned()));
        if leads_to(kind, namespace, name) {
            return true;
        }
        match kind {
            Kind::Volume => self.claims.get(name).is_some_and(|(namespace, claim)| leads_to(Kind::Claim, namespace, claim)),
            // A Secret may belong to a volume of a claim of a pod of this node; only that node's claims are visited.
            Kind::Secret => {
                let wanted = (kind, namespace.to_owned(), name.to_owned());
                edges
                    .keys()
                    .filter(|(kind, ..)| *kind == Kind::Claim)
                    .filter_map(|(_, namespace, claim)| self.volumes.get(&(namespace.clone(), claim.clone())))
                    .any(|volumes| volumes.values().any(|secrets| secrets.contains(&wanted)))
            }
            _ => false,
        }
    }

    /// What the node authorizer thinks of a node's request.
    #[must_use]
    pub fn authorize(&self, node: &str, attributes: &Attributes<'_>, node_rules: &[Rule]) -> Decision {
        if node.is_empty() {
            return no(format!("unknown node for user {}", super::rules::quote(&attributes.user.username)));
        }
        if attributes.is_resource {
            let verdict = match (attributes.group, attributes.resource) {
                ("", "secrets") => self.read(node, Kind::Secret, attributes),
                ("", "configmaps") => self.read(node, Kind::ConfigMap, attributes),
                ("", "persistentvolumeclaims") if attributes.subresource == "status" => self.update_status(node, attributes),
                ("", "persistentvolumeclaims") => self.get(node, Kind::Claim, attributes),
                ("", "persistentvolumes") => self.get(node, Kind::Volume, attributes),
                ("resource.k8s.io", "resourceclaims") => self.get(node, Kind::ResourceClaim, attributes),
                ("storage.k8s.io", "volumeattachments") => self.get(node, Kind::Attachment, attributes),
                ("", "serviceaccounts") => self.service_account(node, attributes),
                ("coordination.k8s.io", "leases") => lease(node, attributes),
                ("storage.k8s.io", "csinodes") => csi_node(node, attributes),
                ("resource.k8s.io", "resourceslices") => self.slice(node, attributes),
                ("", "nodes") => node_object(node, attributes),
                ("", "pods") => self.pod(node, attributes),
                ("certificates.k8s.io", "podcertificaterequests") => self.certificate_request(node, attributes),
                _ => return uniform(attributes, node_rules),
            };
            return verdict.map_or_else(no, |()| Decision::Allow(String::new()));
        }
        uniform(attributes, node_rules)
    }

    fn one(&self, node: &str, kind: Kind, attributes: &Attributes<'_>) -> Result<(), String> {
        if attributes.name.is_empty() {
            return Err("No Object name found".into());
        }
        // Kinds without a namespace are kept under the empty one.
        let namespace = if matches!(kind, Kind::Volume | Kind::Attachment | Kind::Slice) { "" } else { attributes.namespace };
        if self.related(node, kind, namespace, attributes.name) { Ok(()) } else { Err(unrelated(node)) }
    }

    fn read(&self, node: &str, kind: Kind, attributes: &Attributes<'_>) -> Result<(), String> {
        if !matches!(attributes.verb, "get" | "list" | "watch") {
            return Err("can only read resources of this type".into());
        }
        if !attributes.subresource.is_empty() {
            return Err("cannot read subresource".into());
        }
        if attributes.namespace.is_empty() {
            return Err("can only read namespaced object of this type".into());
        }
        self.one(node, kind, attributes)
    }

    fn get(&self, node: &str, kind: Kind, attributes: &Attributes<'_>) -> Result<(), String> {
        if attributes.verb != "get" {
            return Err("can only get individual resources of this type".into());
        }
        if !attributes.subresource.is_empty() {
            return Err("cannot get subresource".into());
        }
        self.one(node, kind, attributes)
    }

    fn update_status(&self, node: &str, attributes: &Attributes<'_>) -> Result<(), String> {
        if !matches!(attributes.verb, "update" | "patch") {
            return Err("can only get/update/patch this type".into());
        }
        self.one(node, Kind::Claim, attributes)
    }

    /// Tokens of the ServiceAccounts of its pods; and the accounts themselves, whose annotations decide what image
    /// credential plugins get.
    fn service_account(&self, node: &str, attributes: &Attributes<'_>) -> Result<(), String> {
        if attributes.verb == "get" && attributes.subresource.is_empty() {
            return self.one(node, Kind::ServiceAccount, attributes);
        }
        if attributes.verb != "create" || attributes.name.is_empty() {
            return Err("can only create tokens for individual service accounts".into());
        }
        if attributes.subresource != "token" {
            return Err("can only create token subresource of serviceaccount".into());
        }
        self.one(node, Kind::ServiceAccount, attributes)
    }

    fn slice(&self, node: &str, attributes: &Attributes<'_>) -> Result<(), String> {
        if !attributes.subresource.is_empty() {
            return Err("cannot authorize ResourceSlice subresources".into());
        }
        match attributes.verb {
            "create" => Ok(()),
            "get" | "update" | "patch" | "delete" => self.one(node, Kind::Slice, attributes),
            "watch" | "list" | "deletecollection" => {
                if selects(attributes.field_selector, "spec.nodeName", node) || selects(attributes.field_selector, "nodeName", node) {
                    Ok(())
                } else {
                    Err("can only list/watch/deletecollection resourceslices with nodeName field selector".into())
                }
            }
            _ => Err("only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection".into()),
        }
    }

    fn pod(&self, node: &str, attributes: &Attributes<'_>) -> Result<(), String> {
        match (attributes.subresource, attributes.verb) {
            ("", "get") => self.get(node, Kind::Pod, attributes),
            ("", "list" | "watch") => {
                if selects(attributes.field_selector, "spec.nodeName", node) {
                    Ok(())
                } else if attributes.name.is_empty() {
                    Err("can only list/watch pods with spec.nodeName field selector".into())
                } else {
                    self.one(node, Kind::Pod, attributes)
                }
            }
            // Mirror pods and deletions, statuses and evictions: NodeRestriction looks at the object.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
            _ => Err(String::new()),
        }
    }

    fn certificate_request(&self, node: &str, attributes: &Attributes<'_>) -> Result<(), String> {
        if !attributes.subresource.is_empty() {
            return Err("nodes may not access the status subresource of PodCertificateRequests".into());
        }
        match attributes.verb {
            "create" => Ok(()),
            "get" => self.one(node, Kind::CertificateRequest, attributes),
            "list" | "watch" if selects(attributes.field_selector, "spec.nodeName", node) => Ok(()),
            "list" | "watch" => Err("can only list/watch podcertificaterequests with nodeName field selector".into()),
            _ => Err(format!("unsupported verb {} for PodCertificateRequest", attributes.verb)),
        }
    }
}

fn node_object(node: &str, attributes: &Attributes<'_>) -> Result<(), String> {
    match (attributes.subresource, attributes.verb) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
        ("", "get" | "list" | "watch") => match attributes.name {
            name if name == node => Ok(()),
            "" => Err(format!("node '{node}' cannot read all nodes, only its own Node object")),
            other => Err(format!("node '{node}' cannot read '{other}', only its own Node object")),
        },
        _ => Err(String::new()),
    }
}

fn lease(node: &str, attributes: &Attributes<'_>) -> Result<(), String> {
    if !matches!(attributes.verb, "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a node lease".into());
    }
    if attributes.namespace != LEASE_NAMESPACE {
        return Err(format!("can only access leases in the {LEASE_NAMESPACE:?} system namespace"));
    }
    if attributes.verb != "create" && attributes.name != node {
        return Err("can only access node lease with the same name as the requesting node".into());
    }
    Ok(())
}

fn csi_node(node: &str, attributes: &Attributes<'_>) -> Result<(), String> {
    if !matches!(attributes.verb, "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a CSINode".into());
    }
    if !attributes.subresource.is_empty() {
        return Err("cannot authorize CSINode subresources".into());
    }
    if attributes.verb != "create" && attributes.name != node {
        return Err("can only access CSINode with the same name as the requesting node".into());
    }
    Ok(())
}

fn uniform(attributes: &Attributes<'_>, node_rules: &[Rule]) -> Decision {
    if node_rules.iter().any(|rule| rule.matches(attributes)) { Decision::Allow(String::new()) } else { no(String::new()) }
}

/// Whether a field selector holds `field=value` (or `==`).
fn selects(selector: &str, field: &str, value: &str) -> bool {
    requirements(selector).any(|(key, wanted)| key == field && wanted == value)
}

/// The name a field selector asks for by `metadata.name=x`, or empty.
pub(super) fn selected_name(selector: &str) -> &str {
    requirements(selector).find(|(key, _)| *key == "metadata.name").map_or("", |(_, value)| value)
}

fn requirements(selector: &str) -> impl Iterator<Item = (&str, &str)> {
    selector.split(',').filter_map(|term| {
        let (key, value) = term.split_once('=')?;
        let key = key.trim();
        (!key.ends_with('!')).then(|| (key, value.strip_prefix('=').unwrap_or(value).trim()))
    })
}

fn unrelated(node: &str) -> String {
    format!("no relationship found between node '{node}' and this object")
}

fn no(reason: String) -> Decision {
    Decision::NoOpinion(reason)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests;
