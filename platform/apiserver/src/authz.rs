//! Authorization: whether a user may do what a request asks.
//!
//! A chain, first opinion wins: the group `system:masters` may do everything; kubelets are judged by the [`node`] authorizer;
//! everyone by [`rbac`]. A [`Chain`] may say otherwise, and have webhooks. Nothing else here reads anything outside: the pipeline
//! feeds every change of the kinds in [`WATCHED`] to [`Authorizer::apply`], and a request is answered from the indexes that keeps.
//!
//! Follows kube-apiserver 1.36 (`plugin/pkg/auth/authorizer`, `pkg/registry/rbac`).

mod chain;
mod metrics;
pub mod bootstrap;
pub mod certificates;
pub mod escalation;
pub mod node;
pub mod rbac;
pub mod review;
pub mod rules;

use std::{
    borrow::Cow,
    collections::HashSet,
    future::Future,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use parking_lot::RwLock;
use serde_json::Value;
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    time::Instant,
};

pub use chain::{Chain, Modes};
pub use metrics::Metrics;

use crate::authn::UserInfo;
use chain::Link;
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
    /// It may not, whatever others think; the reason is for the client. Only webhooks say so.
    Deny(String),
    /// It was not allowed; the reason is for the client.
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
            Decision::Allow(reason) | Decision::Deny(reason) | Decision::NoOpinion(reason) => reason,
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
    /// Who is asked, if it is not Node, then RBAC.
    chain: Option<Arc<Chain>>,
    metrics: Metrics,
}

impl Authorizer {
    /// An authorizer that knows no roles yet; feed it with [`Authorizer::apply`].
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self::with_chain(metrics, None)
    }

    /// The same with a chain of its own.
    #[must_use]
    pub fn with_chain(metrics: Metrics, chain: Option<Arc<Chain>>) -> Self {
        Authorizer {
            shared: Arc::new(Shared {
                rbac: RwLock::default(),
                graph: RwLock::default(),
                node_rules: bootstrap::node_rules(),
                chain,
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

    /// Decides, and counts the decision. Where a webhook has to be asked, this thread waits for it: what can wait otherwise
    /// calls [`Authorizer::authorize_request`].
    #[must_use]
    pub fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        if let Some(chain) = &self.shared.chain {
            let refused = || Decision::Deny("webhooks cannot be asked from here".to_owned());
            return wait(self.authorize_along(chain, attributes)).unwrap_or_else(refused);
        }
        let start = Instant::now();
        let (authorizer, decision) = self.decide(&attributes.named_by_selector());
        self.shared.metrics.decided(authorizer, &decision, start.elapsed());
        decision
    }

    /// Decides, and counts the decision; waits for webhooks without holding a thread.
    pub async fn authorize_request(&self, attributes: &Attributes<'_>) -> Decision {
        match &self.shared.chain {
            None => self.authorize(attributes),
            Some(chain) => self.authorize_along(chain, attributes).await,
        }
    }

    /// Asks the authorizers of a chain until one has an opinion.
    async fn authorize_along(&self, chain: &Chain, attributes: &Attributes<'_>) -> Decision {
        let start = Instant::now();
        let attributes = &attributes.named_by_selector();
        let mut reasons = Vec::new();
        let mut decided = ("", None);
        if attributes.user.groups.iter().any(|group| group == SYSTEM_MASTERS) {
            decided = ("SystemMasters", Some(Decision::Allow(String::new())));
        }
        for link in chain.links() {
            if decided.1.is_some() {
                break;
            }
            let (authorizer, opinion) = match link {
                Link::AlwaysAllow => ("AlwaysAllow", Decision::Allow(String::new())),
                Link::AlwaysDeny => ("AlwaysDeny", Decision::NoOpinion("Everything is forbidden.".to_owned())),
                Link::Node => ("Node", self.ask_node(attributes)),
                Link::Rbac => ("RBAC", self.ask_rbac(attributes)),
                Link::Webhook(webhook) => ("Webhook", webhook.decide(attributes).await),
            };
            match opinion {
                Decision::NoOpinion(reason) => reasons.extend(Some(reason).filter(|reason| !reason.is_empty())),
                opinion => decided = (authorizer, Some(opinion)),
            }
        }
        let (authorizer, decision) = decided;
        let decision = decision.unwrap_or_else(|| Decision::NoOpinion(reasons.join("\n")));
        self.shared.metrics.decided(authorizer, &decision, start.elapsed());
        decision
    }

    fn ask_node(&self, attributes: &Attributes<'_>) -> Decision {
        match node::identity(attributes.user) {
            Some(node) => self.shared.graph.read().authorize(&node, attributes, &self.shared.node_rules),
            None => Decision::NoOpinion(String::new()),
        }
    }

    fn ask_rbac(&self, attributes: &Attributes<'_>) -> Decision {
        self.shared.rbac.read().authorize(attributes).map_or_else(|| Decision::NoOpinion(String::new()), Decision::Allow)
    }

    /// Whether RBAC has a say.
    pub(crate) fn asks_rbac(&self) -> bool {
        self.shared.chain.as_ref().is_none_or(|chain| chain.links().iter().any(|link| matches!(link, Link::Rbac)))
    }

    /// Whether everybody may do everything.
    pub(crate) fn always_allows(&self) -> bool {
        self.shared.chain.as_ref().is_some_and(|chain| chain.links().iter().any(|link| matches!(link, Link::AlwaysAllow)))
    }

    /// Whether webhooks have a say, which cannot tell all they would allow.
    pub(crate) fn asks_webhooks(&self) -> bool {
        self.shared.chain.as_ref().is_some_and(|chain| chain.asks_webhooks())
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
                Decision::NoOpinion(why) | Decision::Deny(why) => reason = why,
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

/// Waits for an answer on this thread; its other tasks go on elsewhere. None if there is no elsewhere.
fn wait<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    // Most are remembered, or need no webhook.
    if let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        return Some(done);
    }
    match Handle::try_current() {
        Ok(handle) if handle.runtime_flavor() == RuntimeFlavor::MultiThread => {
            Some(tokio::task::block_in_place(|| handle.block_on(future)))
        }
        _ => None,
    }
}

impl std::fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authorizer").finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests;
