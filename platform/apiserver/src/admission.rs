//! Built-in admission: what is changed in an object, or refused, because of who asks and of what else is stored.
//!
//! Each plugin is a file with upstream's name. [`mutate`] runs before defaults are applied a second time, [`validate`]
//! on the final object. Validation that concerns the object alone is not here but in `pharos-api`.

use serde_json::Value;

use crate::{api::Api, authn::UserInfo, status::Status};
use pharos_api::registry::Kind;

mod default_ingress_class;
mod default_storage_class;
mod default_toleration_seconds;
mod limit_ranger;
mod namespace_lifecycle;
mod priority;
pub(crate) mod resource_quota;
mod runtime_class;
mod service_account;
mod taint_nodes_by_condition;

/// What a write does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
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
}

impl Attributes<'_> {
    /// A create of a subresource of the call's object.
    pub(crate) fn of_subresource<'c>(call: &'c crate::call::Call) -> Attributes<'c> {
        Attributes {
            api: &call.api,
            user: &call.user,
            kind: &call.kind,
            subresource: &call.info.subresource,
            namespace: &call.info.namespace,
            name: &call.info.name,
            operation: Operation::Create,
        }
    }

    /// Whether this is a write of that resource itself, by that operation.
    fn is(&self, group: &str, resource: &str, operation: Operation) -> bool {
        self.kind.group == group && self.kind.plural == resource && self.operation == operation && self.subresource.is_empty()
    }

    /// 403 with upstream's `pods "a" is forbidden: …`.
    fn forbidden(&self, why: &str) -> Status {
        crate::status::forbidden(&self.kind.group, &self.kind.plural, self.name, why)
    }
}

/// Changes the object of a create or update, or refuses it.
pub(crate) async fn mutate(attributes: &Attributes<'_>, object: &mut Value, old: Option<&Value>) -> Result<(), Status> {
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
    }
    if let Some(object) = object {
        limit_ranger::validate(attributes, object).await?;
        priority::validate(attributes, object).await?;
    }
    crate::authz_hooks::admit(attributes, object, old)
}
