//! NodeRestriction: what a kubelet may write, judged by the object.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{LEASE_NAMESPACE, identity, text};
use crate::{
    authn::{Objects, UserInfo},
    authz::{Attributes, rules::quote},
};

mod audience;

const MIRROR: &str = "kubernetes.io/config.mirror";
const RESTRICTED: &str = "node-restriction.kubernetes.io";

/// The `kubernetes.io` labels a kubelet sets on its own Node (`k8s.io/kubelet/pkg/apis/well_known_labels.go`).
const KUBELET_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];
const KUBELET_LABEL_NAMESPACES: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];

/// What is done to the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A create.
    Create,
    /// An update, patch or apply of something that exists.
    Update,
    /// A delete.
    Delete,
}

/// A write on its way to the store.
#[derive(Debug, Clone, Copy)]
pub struct Write<'a> {
    /// Who writes.
    pub user: &'a UserInfo,
    /// What is done.
    pub operation: Operation,
    /// The API group.
    pub group: &'a str,
    /// The resource.
    pub resource: &'a str,
    /// The subresource, or empty.
    pub subresource: &'a str,
    /// The namespace, or empty.
    pub namespace: &'a str,
    /// The name in the request; on create it may stand only in the object.
    pub name: &'a str,
    /// The new object; none on delete.
    pub object: Option<&'a Value>,
    /// The object as it is; none on create.
    pub old: Option<&'a Value>,
}

/// Why a write is refused.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum Refused {
    /// 403, with the whole message.
    #[error("{0}")]
    Forbidden(String),
    /// 404: the pod or node that decides.
    #[error("{resource} {name:?} not found")]
    NotFound {
        /// The resource.
        resource: &'static str,
        /// The object's name.
        name: String,
    },
}

/// Lets a write pass, unless it is a kubelet's and reaches beyond its node. `allowed` says what the kubelet may beside.
///
/// # Errors
///
/// See [`Refused`].
pub fn admit(write: &Write<'_>, objects: &dyn Objects, allowed: &dyn Fn(&Attributes<'_>) -> bool) -> Result<(), Refused> {
    let Some(node) = identity(write.user) else { return Ok(()) };
    let check = Check { write, node: &node, objects, allowed };
    if node.is_empty() {
        return Err(check.forbidden(format!("could not determine node from user {}", quote(&write.user.username))));
    }
    match (write.group, write.resource, write.subresource) {
        ("", "pods", "") => check.pod(),
        ("", "pods", "status") => check.pod_status(),
        ("", "pods", "eviction") => check.eviction(),
        ("", "pods", other) => {
            Err(check.forbidden(format!("unexpected pod subresource {}, only 'status' and 'eviction' are allowed", quote(other))))
        }
        ("", "nodes", _) => check.node_object(),
        ("", "persistentvolumeclaims", "status") => check.claim_status(),
        ("", "persistentvolumeclaims", _) => Err(check.forbidden("may only update PVC status".into())),
        ("", "serviceaccounts", _) => check.token(),
        ("coordination.k8s.io", "leases", _) => check.lease(),
        ("storage.k8s.io", "csinodes", _) => {
            check.named_like_node("can only access CSINode with the same name as the requesting node")
        }
        ("resource.k8s.io", "resourceslices", _) => check.slice(),
        ("certificates.k8s.io", "podcertificaterequests", "") if write.operation == Operation::Create => {
            check.certificate_request()
        }
        _ => Ok(()),
    }
}

struct Check<'a> {
    write: &'a Write<'a>,
    node: &'a str,
    objects: &'a dyn Objects,
    allowed: &'a dyn Fn(&Attributes<'_>) -> bool,
}

impl Check<'_> {
    fn forbidden(&self, why: String) -> Refused {
        let Write { group, resource, .. } = self.write;
        let qualified = if group.is_empty() { (*resource).to_owned() } else { format!("{resource}.{group}") };
        Refused::Forbidden(format!("{qualified} {} is forbidden: {why}", quote(self.name())))
    }

    fn name(&self) -> &str {
        if self.write.name.is_empty() { text(&self.object()["metadata"]["name"]) } else { self.write.name }
    }

    fn object(&self) -> &Value {
        self.write.object.unwrap_or(&Value::Null)
    }

    fn old(&self) -> &Value {
        self.write.old.unwrap_or(&Value::Null)
    }

    fn require(&self, holds: bool, why: impl FnOnce() -> String) -> Result<(), Refused> {
        if holds { Ok(()) } else { Err(self.forbidden(why())) }
    }

    fn unexpected(&self) -> Refused {
        let operation = match self.write.operation {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
        };
        self.forbidden(format!("unexpected operation {operation:?}"))
    }

    fn pod(&self) -> Result<(), Refused> {
        let node = quote(self.node);
        match self.write.operation {
            Operation::Create => self.mirror_pod(),
            Operation::Delete => self.require(text(&self.old()["spec"]["nodeName"]) == self.node, || {
                format!("node {node} can only delete pods with spec.nodeName set to itself")
            }),
            Operation::Update => {
                Err(self
                    .forbidden(format!("unexpected operation \"UPDATE\", node {node} can only create and delete mirror pods")))
            }
        }
    }

    fn mirror_pod(&self) -> Result<(), Refused> {
        let (pod, node) = (self.object(), quote(self.node));
        self.require(!pod["metadata"]["annotations"][MIRROR].is_null(), || {
            format!("pod does not have {MIRROR:?} annotation, node {node} can only create mirror pods")
        })?;
        self.require(text(&pod["spec"]["nodeName"]) == self.node, || {
            format!("node {node} can only create pods with spec.nodeName set to itself")
        })?;
        let owners = pod["metadata"]["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
        let owner = match owners {
            [] => return Err(self.forbidden(format!("node {node} can only create pods with an owner reference set to itself"))),
            [owner] => owner,
            _ => {
                return Err(
                    self.forbidden(format!("node {node} can only create pods with a single owner reference set to itself"))
                );
            }
        };
        let itself = text(&owner["apiVersion"]) == "v1" && text(&owner["kind"]) == "Node" && text(&owner["name"]) == self.node;
        self.require(itself, || format!("node {node} can only create pods with an owner reference set to itself"))?;
        self.require(owner["controller"] == true, || {
            format!("node {node} can only create pods with a controller owner reference set to itself")
        })?;
        self.require(owner["blockOwnerDeletion"] != true, || {
            format!("node {node} must not set blockOwnerDeletion on an owner reference")
        })?;
        let live = self
            .objects
            .get("", "nodes", "", self.node)
            .ok_or_else(|| Refused::NotFound { resource: "nodes", name: self.node.to_owned() })?;
        let (wanted, uid) = (text(&owner["uid"]), text(&live["metadata"]["uid"]));
        self.require(wanted == uid, || format!("node {} UID mismatch: expected {wanted} got {uid}", self.node))?;
        // The annotation would hide the references from the graph, so it is taken off to see them.
        let mut plain = pod.clone();
        if let Some(annotations) = plain["metadata"]["annotations"].as_object_mut() {
            annotations.remove(MIRROR);
        }
        let references = super::references::of_pod(&plain, self.write.namespace);
        let what = |kind| match kind {
            super::Kind::ServiceAccount => "a service account",
            super::Kind::Secret => "secrets",
            super::Kind::ConfigMap => "configmaps",
            super::Kind::ResourceClaim => "resourceclaims",
            _ => "persistentvolumeclaims",
        };
        let refused = |what: &str| Err(self.forbidden(format!("node {node} can not create pods that reference {what}")));
        if let Some((kind, ..)) = references.iter().next() {
            return refused(what(*kind));
        }
        let projects = |field: &str| {
            let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
            let mut sources = volumes.flat_map(|volume| volume["projected"]["sources"].as_array().into_iter().flatten());
            sources.any(|source| source[field].is_object())
        };
        match () {
            () if projects("clusterTrustBundle") => refused("clustertrustbundles"),
            () if projects("podCertificate") => refused("podcertificates"),
            () => Ok(()),
        }
    }

    fn pod_status(&self) -> Result<(), Refused> {
        if self.write.operation != Operation::Update {
            return Err(self.unexpected());
        }
        let (old, new, node) = (self.old(), self.object(), quote(self.node));
        self.require(text(&old["spec"]["nodeName"]) == self.node, || {
            format!("node {node} can only update pod status for pods with spec.nodeName set to itself")
        })?;
        self.require(same(&old["metadata"]["labels"], &new["metadata"]["labels"]), || {
            format!("node {node} cannot update labels through pod status")
        })?;
        let claims = "resourceClaimStatuses";
        self.require(same(&old["status"][claims], &new["status"][claims]), || {
            format!("node {node} cannot update resource claim statues")
        })?;
        let extended = "extendedResourceClaimStatus";
        self.require(same(&old["status"][extended], &new["status"][extended]), || {
            format!("node {node} cannot update extended resource claim status")
        })
    }

    fn eviction(&self) -> Result<(), Refused> {
        if self.write.operation != Operation::Create {
            return Err(self.unexpected());
        }
        let name = self.name();
        self.require(!name.is_empty(), || "could not determine pod from request data".into())?;
        let pod = self
            .objects
            .get("", "pods", self.write.namespace, name)
            .ok_or_else(|| Refused::NotFound { resource: "pods", name: name.to_owned() })?;
        self.require(text(&pod["spec"]["nodeName"]) == self.node, || {
            format!("node {} can only evict pods with spec.nodeName set to itself", self.node)
        })
    }

    fn claim_status(&self) -> Result<(), Refused> {
        if self.write.operation != Operation::Update {
            return Err(self.unexpected());
        }
        let strip = |claim: &Value| {
            let mut claim = claim.clone();
            if let Some(metadata) = claim["metadata"].as_object_mut() {
                metadata.remove("resourceVersion");
                metadata.remove("managedFields");
            }
            if let Some(status) = claim["status"].as_object_mut() {
                for field in ["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"] {
                    status.remove(field);
                }
            }
            claim
        };
        self.require(strip(self.old()) == strip(self.object()), || {
            format!("node {} is not allowed to update fields other than status.capacity and status.conditions", quote(self.node))
        })
    }

    fn node_object(&self) -> Result<(), Refused> {
        let (name, node) = (self.name(), quote(self.node));
        self.require(name == self.node, || format!("node {node} is not allowed to modify node {}", quote(name)))?;
        let (old, new) = (self.old(), self.object());
        match self.write.operation {
            Operation::Create => {
                let labels = forbidden_labels(&Value::Null, &new["metadata"]["labels"]);
                self.require(labels.is_empty(), || {
                    format!("node {node} is not allowed to set the following labels: {}", labels.join(", "))
                })
            }
            Operation::Update => {
                self.require(same(&old["spec"]["taints"], &new["spec"]["taints"]), || {
                    format!("node {node} is not allowed to modify taints")
                })?;
                let labels = forbidden_labels(&old["metadata"]["labels"], &new["metadata"]["labels"]);
                self.require(labels.is_empty(), || format!("is not allowed to modify labels: {}", labels.join(", ")))?;
                // Deleting and making it anew is not a node's business either: it would drop taints.
                self.require(same(&old["metadata"]["ownerReferences"], &new["metadata"]["ownerReferences"]), || {
                    format!("node {node} is not allowed to modify owner references")
                })
            }
            Operation::Delete => Ok(()),
        }
    }

    fn token(&self) -> Result<(), Refused> {
        if self.write.operation != Operation::Create || self.write.subresource != "token" {
            return Ok(());
        }
        let reference = &self.object()["spec"]["boundObjectRef"];
        let (name, uid) = (text(&reference["name"]), text(&reference["uid"]));
        let to_pod = text(&reference["apiVersion"]) == "v1" && text(&reference["kind"]) == "Pod" && !name.is_empty();
        self.require(to_pod, || "node requested token not bound to a pod".into())?;
        self.require(!uid.is_empty(), || "node requested token with a pod binding without a uid".into())?;
        let pod = self
            .objects
            .get("", "pods", self.write.namespace, name)
            .ok_or_else(|| Refused::NotFound { resource: "pods", name: name.to_owned() })?;
        self.require(text(&pod["metadata"]["uid"]) == uid, || {
            format!("the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated")
        })?;
        self.require(text(&pod["spec"]["nodeName"]) == self.node, || {
            "node requested token bound to a pod scheduled on a different node".into()
        })?;
        let Write { user, namespace, name: account, .. } = *self.write;
        let granted = |audience: &str| {
            let verb = "request-serviceaccounts-token-audience";
            (self.allowed)(&Attributes::resource(user, verb, "", audience, namespace, account))
        };
        audience::check(self.object(), &pod, namespace, &user.username, self.objects, granted).map_err(|why| self.forbidden(why))
    }

    fn lease(&self) -> Result<(), Refused> {
        self.require(self.write.namespace == LEASE_NAMESPACE, || {
            format!("can only access leases in the {LEASE_NAMESPACE:?} system namespace")
        })?;
        self.named_like_node("can only access node lease with the same name as the requesting node")
    }

    fn named_like_node(&self, why: &str) -> Result<(), Refused> {
        self.require(self.name() == self.node, || why.to_owned())
    }

    fn slice(&self) -> Result<(), Refused> {
        let object = if self.write.operation == Operation::Create { self.object() } else { self.old() };
        self.require(text(&object["spec"]["nodeName"]) == self.node, || match self.write.operation {
            Operation::Create => "can only create ResourceSlice with the same NodeName as the requesting node".into(),
            _ => "can only delete ResourceSlice with the same NodeName as the requesting node".into(),
        })
    }

    fn certificate_request(&self) -> Result<(), Refused> {
        let spec = &self.object()["spec"];
        self.require(text(&spec["nodeName"]) == self.node, || {
            format!(
                "PodCertificateRequest.Spec.NodeName={} which is not the requesting node {}",
                quote(text(&spec["nodeName"])),
                quote(self.node)
            )
        })?;
        let name = text(&spec["podName"]);
        let pod = self
            .objects
            .get("", "pods", self.write.namespace, name)
            .ok_or_else(|| Refused::NotFound { resource: "pods", name: name.to_owned() })?;
        let matches = text(&pod["metadata"]["uid"]) == text(&spec["podUID"]) && text(&pod["spec"]["nodeName"]) == self.node;
        self.require(matches, || {
            format!("PodCertificateRequest for pod {} that is not running on the requesting node", quote(name))
        })
    }
}

/// Labels that changed and that a kubelet may not touch.
fn forbidden_labels(old: &Value, new: &Value) -> Vec<String> {
    let keys: BTreeSet<&String> = [old, new].into_iter().filter_map(Value::as_object).flat_map(|labels| labels.keys()).collect();
    keys.into_iter()
        .filter(|key| old[key.as_str()] != new[key.as_str()])
        .filter(|key| {
            let namespace = key.split_once('/').map_or("", |(namespace, _)| namespace);
            within(namespace, RESTRICTED)
                || (within(namespace, "kubernetes.io") || within(namespace, "k8s.io"))
                    && !KUBELET_LABELS.contains(&key.as_str())
                    && !KUBELET_LABEL_NAMESPACES.iter().any(|allowed| within(namespace, allowed))
        })
        .cloned()
        .collect()
}

fn within(namespace: &str, domain: &str) -> bool {
    namespace.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Whether two fields say the same, where absent and empty are one.
fn same(a: &Value, b: &Value) -> bool {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    a == b || empty(a) && empty(b)
}

#[cfg(test)]
mod tests;
