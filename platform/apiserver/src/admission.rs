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
    audit::Audit,
    authn::UserInfo,
    call::Call,
    options::{DeleteOptions, WriteOptions},
    status::Status,
    took::Took,
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
mod metrics;
mod namespace_lifecycle;
mod persistent_volume_claim_resize;
mod pod_resize_validator;
mod pod_resources; // What several plugins count.
pub(crate) mod pod_security;
mod pod_topology_labels;
pub(crate) mod policy;
mod priority;
pub(crate) mod resource_quota;
mod runtime_class;
mod service_account;
mod storage_object_in_use_protection;
mod taint_nodes_by_condition;
pub(crate) mod webhook;

pub(crate) use metrics::Metrics;
use metrics::{Lap, Plugin, Step};

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
    /// What is written down of the request: annotations go there.
    pub(crate) audit: &'a Audit,
    /// How long webhooks took of it is added here.
    pub(crate) elsewhere: &'a Took,
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
            audit: &call.audit,
            elsewhere: &call.elsewhere,
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

    /// 403 with upstream's `pods "a" is forbidden: …`.
    pub(crate) fn forbidden(&self, why: &str) -> Status {
        crate::status::forbidden(&self.kind.group, &self.kind.plural, self.name, why)
    }
}

/// Changes the object of a create or update, or refuses it.
pub(crate) async fn mutate(attributes: &Attributes<'_>, object: &mut Value, old: Option<&Value>) -> Result<(), Status> {
    let mut lap = attributes.api.0.admission.begin(Step::Admit, attributes.operation);
    let outcome = mutate_with(attributes, object, old, &mut lap).await;
    lap.end(outcome)
}

async fn mutate_with(
    attributes: &Attributes<'_>,
    object: &mut Value,
    old: Option<&Value>,
    lap: &mut Lap<'_>,
) -> Result<(), Status> {
    let mut configured = Configured::default();
    builtin(attributes, object, old, lap).await?;
    if configured.mutate(attributes, object, old, lap).await? {
        // What policies and webhooks have added is subject to the plugins too, and those that ask for it see what others did.
        builtin(attributes, object, old, lap).await?;
        configured.mutate(attributes, object, old, lap).await?;
    }
    Ok(())
}

/// Reviews what is no object of its own: the body of a subresource, the options of a connection.
pub(crate) async fn review(attributes: &Attributes<'_>, object: &mut Value, old: Option<&Value>) -> Result<(), Status> {
    let mut lap = attributes.api.0.admission.begin(Step::Admit, attributes.operation);
    let outcome = review_with(attributes, object, old, &mut lap).await;
    lap.end(outcome)?;
    let mut lap = attributes.api.0.admission.begin(Step::Validate, attributes.operation);
    let outcome = validate_configured(attributes, Some(object), old, &mut lap).await;
    lap.end(outcome)
}

async fn review_with(
    attributes: &Attributes<'_>,
    object: &mut Value,
    old: Option<&Value>,
    lap: &mut Lap<'_>,
) -> Result<(), Status> {
    let mut configured = Configured::default();
    pod_topology_labels::mutate(attributes, object);
    lap.done(Plugin::PodTopologyLabels, Ok::<_, Status>(()))?;
    if configured.mutate(attributes, object, old, lap).await? {
        configured.mutate(attributes, object, old, lap).await?;
    }
    Ok(())
}

/// What the cluster's own policies and webhooks do to a write, in up to two rounds.
#[derive(Default)]
struct Configured {
    policies: policy::Mutation,
    webhooks: webhook::Mutation,
}

impl Configured {
    /// Whether one of them changed the object.
    async fn mutate(
        &mut self,
        attributes: &Attributes<'_>,
        object: &mut Value,
        old: Option<&Value>,
        lap: &mut Lap<'_>,
    ) -> Result<bool, Status> {
        let outcome = policy::mutate(attributes, &mut self.policies, object, old).await;
        let by_policies = lap.done(Plugin::MutatingAdmissionPolicy, outcome)?;
        let outcome = webhook::mutate(attributes, &mut self.webhooks, Some(object), old).await;
        let by_webhooks = lap.done(Plugin::MutatingAdmissionWebhook, outcome)?;
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

async fn builtin(attributes: &Attributes<'_>, object: &mut Value, old: Option<&Value>, lap: &mut Lap<'_>) -> Result<(), Status> {
    lap.done(Plugin::NamespaceLifecycle, namespace_lifecycle::admit(attributes).await)?;
    lap.done(Plugin::LimitRanger, limit_ranger::mutate(attributes, object).await)?;
    lap.done(Plugin::ServiceAccount, service_account::mutate(attributes, object).await)?;
    taint_nodes_by_condition::mutate(attributes, object);
    lap.done(Plugin::TaintNodesByCondition, Ok::<_, Status>(()))?;
    lap.done(Plugin::Priority, priority::mutate(attributes, object, old).await)?;
    default_toleration_seconds::mutate(attributes, object);
    lap.done(Plugin::DefaultTolerationSeconds, Ok::<_, Status>(()))?;
    lap.done(Plugin::RuntimeClass, runtime_class::mutate(attributes, object).await)?;
    lap.done(Plugin::DefaultStorageClass, default_storage_class::mutate(attributes, object).await)?;
    storage_object_in_use_protection::mutate(attributes, object);
    lap.done(Plugin::StorageObjectInUseProtection, Ok::<_, Status>(()))?;
    lap.done(Plugin::DefaultIngressClass, default_ingress_class::mutate(attributes, object).await)?;
    pod_topology_labels::mutate(attributes, object);
    lap.done(Plugin::PodTopologyLabels, Ok::<_, Status>(()))?;
    crate::authz_hooks::mutate(attributes, object);
    Ok(())
}

/// Refuses what must not be written or deleted. `object` is `None` for deletes.
pub(crate) async fn validate(attributes: &Attributes<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), Status> {
    if attributes.operation == Operation::Delete {
        let mut lap = attributes.api.0.admission.begin(Step::Admit, attributes.operation);
        let outcome = lap.done(Plugin::NamespaceLifecycle, namespace_lifecycle::admit(attributes).await);
        let outcome = match outcome {
            Ok(()) => {
                let asked = webhook::mutate(attributes, &mut webhook::Mutation::default(), None, old).await;
                lap.done(Plugin::MutatingAdmissionWebhook, asked).map(drop)
            }
            refused => refused,
        };
        lap.end(outcome)?;
    }
    let mut lap = attributes.api.0.admission.begin(Step::Validate, attributes.operation);
    let outcome = validate_with(attributes, object, old, &mut lap).await;
    lap.end(outcome)
}

async fn validate_with(
    attributes: &Attributes<'_>,
    object: Option<&Value>,
    old: Option<&Value>,
    lap: &mut Lap<'_>,
) -> Result<(), Status> {
    if let Some(object) = object {
        lap.done(Plugin::LimitRanger, limit_ranger::validate(attributes, object, old).await)?;
        lap.done(Plugin::PodSecurity, pod_security::validate(attributes, object, old).await)?;
        lap.done(Plugin::Priority, priority::validate(attributes, object).await)?;
        let resized = persistent_volume_claim_resize::validate(attributes, object, old).await;
        lap.done(Plugin::PersistentVolumeClaimResize, resized)?;
        lap.done(Plugin::PodResizeValidator, pod_resize_validator::validate(attributes, object, old).await)?;
    }
    lap.done(Plugin::NodeRestriction, crate::authz_hooks::admit(attributes, object, old))?;
    validate_configured(attributes, object, old, lap).await
}

/// What the cluster's own policies and webhooks say to the final object.
async fn validate_configured(
    attributes: &Attributes<'_>,
    object: Option<&Value>,
    old: Option<&Value>,
    lap: &mut Lap<'_>,
) -> Result<(), Status> {
    lap.done(Plugin::ValidatingAdmissionPolicy, policy::validate(attributes, object, old).await)?;
    lap.done(Plugin::ValidatingAdmissionWebhook, webhook::validate(attributes, object, old).await)
}
