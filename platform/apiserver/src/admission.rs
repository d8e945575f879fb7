//! Admission: what is changed in an object, or refused, because of who asks, of what else is stored, or of what a policy or a
//! webhook says.
//!
//! Each built-in plugin is a file with upstream's name; [`policy`] evaluates expressions, [`webhook`] asks other servers.
//! [`mutate`] runs before defaults are applied a second time, [`validate`] on the final object. Validation that concerns the object alone is not here but in
//! `pharos-api`.

use parking_lot::Mutex;
use serde_json::Value;

use crate::{
    api::Api,
    authn::UserInfo,
    call::Call,
    options::{DeleteOptions, WriteOptions},
    status::Status,
};
use pharos_api::registry::Kind;

pub(crate) mod conditions; // Whom webhooks and policies are for,
mod expression;
mod matching;
mod request; // and how they are told.
mod versions;
mod default_ingress_class;
mod default_storage_class;
mod default_toleration_seconds;
mod limit_ranger;
mod namespace_lifecycle;
pub(crate) mod policy;
mod priority;
pub(crate) mod resource_quota;
mod runtime_class;
mod service_account;
mod taint_nodes_by_condition;
pub(crate) mod webhook;

const GROUP: &str = "admissionregistration.k8s.io";

/// What a write does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
    /// Of a subresource that streams: exec, attach, port-forward, proxy.
    Connect,
}

/// The options of a write.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Options<'a> {
    Create(&'a WriteOptions),
    Update(&'a WriteOptions),
    Delete(&'a DeleteOptions),
    /// Those who connect have none.
    None,
    /// The server's own writing, part of one that webhooks have seen.
    Unreviewed,
}

/// A write on its way to the store.
pub(crate) struct Attributes<'a> {
    pub(crate) api: &'a Api,
    pub(crate) user: &'a UserInfo,
    pub(crate) kind: &'a Kind,
    pub(crate) subresource: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) operation: Operation,
    pub(crate) options: Options<'a>,
    /// What the client is told on the side.
    pub(crate) warnings: &'a Mutex<Vec<String>>,
}

impl Attributes<'_> {
    /// A create of a subresource of the call's object, or of a kind that is answered and forgotten.
    pub(crate) fn of_subresource<'c>(call: &'c Call, options: &'c WriteOptions) -> Attributes<'c> {
        Attributes {
            api: &call.api,
            user: &call.user,
            kind: &call.kind,
            subresource: &call.info.subresource,
            namespace: &call.info.namespace,
            name: &call.info.name,
            operation: Operation::Create,
            options: Options::Create(options),
            warnings: &call.warnings,
        }
    }

    /// Whether this is a write of that resource itself, by that operation.
    fn is(&self, group: &str, resource: &str, operation: Operation) -> bool {
        self.kind.group == group && self.kind.plural == resource && self.operation == operation && self.subresource.is_empty()
    }

    /// Tells the client something on the side, once however often the write is tried.
    fn warn(&self, text: String) {
        let mut warnings = self.warnings.lock();
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// Tells the audit log something about the request.
    fn annotate(&self, key: &str, value: &str) {
        let Attributes { namespace, name, .. } = self;
        tracing::debug!(key, value, namespace, name, "audit annotation of an admission plugin");
    }

    /// 403 with upstream's `pods "a" is forbidden: …`.
    fn forbidden(&self, why: &str) -> Status {
        crate::status::forbidden(&self.kind.group, &self.kind.plural, self.name, why)
    }
}

/// Changes the object of a create or update, or refuses it.
pub(crate) async fn mutate(attributes: &Attributes<'_>, object: &mut Value, old: Option<&Value>) -> Result<(), Status> {
    let mut configured = Configured::default();
    builtin(attributes, object, old).await?;
    if configured.mutate(attributes, object, old).await? {
        // What policies and webhooks have added is subject to the plugins too, and those that ask for it see what others did.
        builtin(attributes, object, old).await?;
        configured.mutate(attributes, object, old).await?;
    }
    Ok(())
}

/// Asks policies and webhooks about what is no object of its own: the body of a subresource, the options of a connection.
pub(crate) async fn review(attributes: &Attributes<'_>, object: &mut Value, old: Option<&Value>) -> Result<(), Status> {
    let mut configured = Configured::default();
    if configured.mutate(attributes, object, old).await? {
        configured.mutate(attributes, object, old).await?;
    }
    policy::validate(attributes, Some(object), old).await?;
    webhook::validate(attributes, Some(object), old).await
}

/// What the cluster's own policies and webhooks do to a write, in up to two rounds.
#[derive(Default)]
struct Configured {
    policies: policy::Mutation,
    webhooks: webhook::Mutation,
}

impl Configured {
    /// Whether one of them changed the object.
    async fn mutate(&mut self, attributes: &Attributes<'_>, object: &mut Value, old: Option<&Value>) -> Result<bool, Status> {
        let by_policies = policy::mutate(attributes, &mut self.policies, object, old).await?;
        let by_webhooks = webhook::mutate(attributes, &mut self.webhooks, Some(object), old).await?;
        Ok(by_policies || by_webhooks)
    }
}

/// Whether neither policies nor webhooks see a write, whatever their rules say.
fn exempt(attributes: &Attributes<'_>) -> bool {
    if attributes.options == Options::Unreviewed {
        return true;
    }
    // What decides about everything else must stay changeable.
    if policy::is_policy(&attributes.kind.group, &attributes.kind.plural) {
        return true;
    }
    attributes.user.username == "system:apiserver" && !attributes.api.0.webhooks.is_bootstrapped()
}

async fn builtin(attributes: &Attributes<'_>, object: &mut Value, old: Option<&Value>) -> Result<(), Status> {
    namespace_lifecycle::admit(attributes).await?;
    limit_ranger::mutate(attributes, object).await?;
    service_account::mutate(attributes, object).await?;
    taint_nodes_by_condition::mutate(attributes, object);
    priority::mutate(attributes, object, old).await?;
    default_toleration_seconds::mutate(attributes, object);
    runtime_class::mutate(attributes, object).await?;
    default_storage_class::mutate(attributes, object).await?;
    default_ingress_class::mutate(attributes, object).await?;
    crate::authz_hooks::mutate(attributes, object);
    Ok(())
}

/// Refuses what must not be written or deleted. `object` is `None` for deletes.
pub(crate) async fn validate(attributes: &Attributes<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), Status> {
    if attributes.operation == Operation::Delete {
        namespace_lifecycle::admit(attributes).await?;
        webhook::mutate(attributes, &mut webhook::Mutation::default(), None, old).await?;
    }
    if let Some(object) = object {
        limit_ranger::validate(attributes, object).await?;
        priority::validate(attributes, object).await?;
    }
    crate::authz_hooks::admit(attributes, object, old)?;
    policy::validate(attributes, object, old).await?;
    webhook::validate(attributes, object, old).await
}
