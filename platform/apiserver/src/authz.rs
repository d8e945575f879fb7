//! Authorization: whether a user may do what a request asks.
//!
//! A chain, first opinion wins: the group `system:masters` may do everything; kubelets are judged by the
//! [`node`] authorizer; everyone by [`rbac`]. Nothing here reads the store: the pipeline feeds every change of the
//! kinds in [`WATCHED`] to [`Authorizer::apply`], and a request is answered from the indexes that keeps.
//!
//! Follows kube-apiserver 1.36 (`plugin/pkg/auth/authorizer`, `pkg/registry/rbac`).

mod metrics;
pub mod bootstrap;
pub mod certificates;
pub mod escalation;
pub mod node;
pub mod rbac;
pub mod review;
pub mod rules;

use std::{borrow::Cow, collections::HashSet, sync::Arc};

use parking_lot::RwLock;
use serde_json::Value;
use tokio::time::Instant;

pub use metrics::Metrics;

use crate::authn::UserInfo;
use node::Graph;
use rbac::Rbac;

/// The group whose members may do everything, without being asked further.
pub const SYSTEM_MASTERS: &str = "system:masters";

/// The group and resource of every kind whose changes [`Authorizer::apply`] wants to see.
pub const WATCHED: &[(&str, &str)] = &[
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("rbac.authorization.k8s.io", "roles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
    ("", "pods"),
    ("", "persistentvolumes"),
    ("storage.k8s.io", "volumeattachments"),
    ("resource.k8s.io", "resourceslices"),
    ("certificates.k8s.io", "podcertificaterequests"),
];

/// What a request wants to do.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    /// Who asks.
    pub user: &'a UserInfo,
    /// `get`, `list`, `watch`, `create`, …; for other paths the lower-case method.
    pub verb: &'a str,
    /// The API group, empty for the core group.
    pub group: &'a str,
    /// The API version.
    pub version: &'a str,
    /// The resource, in plural.
    pub resource: &'a str,
    /// The subresource, or empty.
    pub subresource: &'a str,
    /// The object's name, or empty.
    pub name: &'a str,
    /// The namespace, empty for cluster scope and for all namespaces.
    pub namespace: &'a str,
    /// The path of a request that is not for a resource.
    pub path: &'a str,
    /// Whether this is for a resource; else only `verb` and `path` count.
    pub is_resource: bool,
    /// The `fieldSelector` parameter as sent, or empty; a kubelet may list only its own pods.
    pub field_selector: &'a str,
}

impl<'a> Attributes<'a> {
    /// A question about a resource.
    #[must_use]
    pub fn resource(
        user: &'a UserInfo,
        verb: &'a str,
        group: &'a str,
        resource: &'a str,
        namespace: &'a str,
        name: &'a str,
    ) -> Self {
        Attributes {
            user,
            verb,
            group,
            version: "*",
            resource,
            subresource: "",
            name,
            namespace,
            path: "",
            is_resource: true,
            field_selector: "",
        }
    }

    /// A question about a path that is not a resource's.
    #[must_use]
    pub fn path(user: &'a UserInfo, verb: &'a str, path: &'a str) -> Self {
        Attributes {
            user,
            verb,
            group: "",
            version: "",
            resource: "",
            subresource: "",
            name: "",
            namespace: "",
            path,
            is_resource: false,
            field_selector: "",
        }
    }

    /// The same question about a subresource.
    #[must_use]
    pub fn with_subresource(mut self, subresource: &'a str) -> Self {
        self.subresource = subresource;
        self
    }

    /// The sentence a refused client reads, such as
    /// `User "jane" cannot list resource "pods" in API group "" in the namespace "default"`, with the authorizer's
    /// reason behind a colon if it gave one.
    #[must_use]
    pub fn denial(&self, reason: &str) -> String {
        let mut message = format!("User {}", rules::quote(&self.user.username));
        if self.is_resource {
            let resource = self.combined_resource();
            message.push_str(&format!(
                " cannot {} resource {} in API group {}",
                self.verb,
                rules::quote(&resource),
                rules::quote(self.group)
            ));
            if self.namespace.is_empty() {
                message.push_str(" at the cluster scope");
            } else {
                message.push_str(&format!(" in the namespace {}", rules::quote(self.namespace)));
            }
        } else {
            message.push_str(&format!(" cannot {} path {}", self.verb, rules::quote(self.path)));
        }
        if !reason.is_empty() {
            message.push_str(": ");
            message.push_str(reason);
        }
        message
    }

    /// The whole message of the 403 `Status`: the object asked for, `is forbidden`, and [`Attributes::denial`].
    #[must_use]
    pub fn forbidden(&self, reason: &str) -> String {
        let denial = self.denial(reason);
        if !self.is_resource {
            return format!("forbidden: {denial}");
        }
        let mut qualified = self.resource.to_owned();
        if !self.group.is_empty() {
            qualified.push('.');
            qualified.push_str(self.group);
        }
        if self.name.is_empty() {
            format!("{qualified} is forbidden: {denial}")
        } else {
            format!("{qualified} {} is forbidden: {denial}", rules::quote(self.name))
        }
    }

    /// A list or watch of `metadata.name=x` is about the object `x`, so a rule with resource names can allow it
    /// (upstream's `RequestInfoFactory`).
    fn named_by_selector(&self) -> Self {
        let mut named = *self;
        if self.is_resource && self.name.is_empty() && matches!(self.verb, "list" | "watch") {
            let name = node::selected_name(self.field_selector);
            if !matches!(name, "." | "..") && !name.contains(['/', '%']) {
                named.name = name;
            }
        }
        named
    }

    fn combined_resource(&self) -> Cow<'a, str> {
        if self.subresource.is_empty() {
            Cow::Borrowed(self.resource)
        } else {
            Cow::Owned(format!("{}/{}", self.resource, self.subresource))
        }
    }
}

/// What the chain, or one authorizer in it, thinks of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It may go on; the reason is for the audit log.
    Allow(String),
    /// It was not allowed; the reason is for the client. The chain treats both ways of not allowing alike.
    NoOpinion(String),
}

impl Decision {
    /// Whether the request may go on.
    #[must_use]
    pub fn allowed(&self) -> bool {
        matches!(self, Decision::Allow(_))
    }

    /// Why.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Decision::Allow(reason) | Decision::NoOpinion(reason) => reason,
        }
    }
}

/// The authorization chain and the live indexes it answers from. Cheap to clone.
#[derive(Clone)]
pub struct Authorizer {
    shared: Arc<Shared>,
}

struct Shared {
    // Never held together: a decision takes one after the other.
    rbac: RwLock<Rbac>,
    graph: RwLock<Graph>,
    node_rules: Vec<rules::Rule>,
    metrics: Metrics,
}

impl Authorizer {
    /// An authorizer that knows no roles yet; feed it with [`Authorizer::apply`].
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Authorizer {
            shared: Arc::new(Shared {
                rbac: RwLock::default(),
                graph: RwLock::default(),
                node_rules: bootstrap::node_rules(),
                metrics,
            }),
        }
    }

    /// Takes in one change of an object of a kind in [`WATCHED`]: its new state, or `None` when it was deleted.
    pub fn apply(&self, group: &str, resource: &str, namespace: &str, name: &str, object: Option<&Value>) {
        match group {
            rbac::GROUP => self.shared.rbac.write().apply(resource, namespace, name, object),
            _ => self.shared.graph.write().apply(group, resource, namespace, name, object),
        }
    }

    /// Forgets every object of a resource that is not among the live ones, given by namespace and name: the end of a
    /// fresh start after changes were missed.
    pub fn retain(&self, group: &str, resource: &str, live: &HashSet<(String, String)>) {
        match group {
            rbac::GROUP => self.shared.rbac.write().retain(resource, live),
            _ => self.shared.graph.write().retain(group, resource, live),
        }
    }

    /// Decides, and counts the decision.
    #[must_use]
    pub fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        let start = Instant::now();
        let (authorizer, decision) = self.decide(&attributes.named_by_selector());
        self.shared.metrics.decided(authorizer, &decision, start.elapsed());
        decision
    }

    /// Decides and says which authorizer allowed it.
    fn decide(&self, attributes: &Attributes<'_>) -> (&'static str, Decision) {
        if attributes.user.groups.iter().any(|group| group == SYSTEM_MASTERS) {
            return ("SystemMasters", Decision::Allow(String::new()));
        }
        let mut reason = String::new();
        if let Some(node) = node::identity(attributes.user) {
            match self.shared.graph.read().authorize(&node, attributes, &self.shared.node_rules) {
                Decision::Allow(reason) => return ("Node", Decision::Allow(reason)),
                Decision::NoOpinion(why) => reason = why,
            }
        }
        match self.shared.rbac.read().authorize(attributes) {
            Some(why) => ("RBAC", Decision::Allow(why)),
            None => ("RBAC", Decision::NoOpinion(reason)),
        }
    }

    /// Every rule that holds for a user in a namespace (empty for cluster scope), and the references that led
    /// nowhere.
    #[must_use]
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<rules::Rule>, Vec<String>) {
        self.shared.rbac.read().rules_for(user, namespace)
    }

    /// The rules behind a `roleRef` used in a namespace (empty for a ClusterRoleBinding), if its role exists.
    #[must_use]
    pub fn role_rules(&self, kind: &str, name: &str, namespace: &str) -> Option<Vec<rules::Rule>> {
        self.shared.rbac.read().role_rules(kind, name, namespace).map(<[_]>::to_vec)
    }

    /// The aggregated ClusterRoles whose stored rules are not the union of the roles they select, each with the
    /// rules it should have. Whoever watches ClusterRoles writes them back (upstream's
    /// clusterrole-aggregation-controller).
    #[must_use]
    pub fn stale_aggregations(&self) -> Vec<(String, Vec<Value>)> {
        self.shared.rbac.read().stale_aggregations()
    }
}

impl std::fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authorizer").finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests;
