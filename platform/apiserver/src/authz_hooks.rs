//! Admission that is authorization: what RBAC objects may grant, what signers are for, what a kubelet may write.

use serde_json::Value;

use crate::{
    admission::{Attributes, Operation},
    authz::{
        Attributes as Asked, certificates,
        escalation::{self, Refused},
        node::restriction,
        rbac,
    },
    background::CachedObjects,
    status::{self, Status},
};

/// Writes into a new certificate request who asks for it.
pub(crate) fn mutate(attributes: &Attributes<'_>, object: &mut Value) {
    let kind = attributes.kind;
    let create = attributes.operation == Operation::Create && attributes.subresource.is_empty();
    if create && kind.group == certificates::GROUP && kind.plural == certificates::RESOURCE {
        certificates::stamp(object, attributes.user);
    }
}

/// Refuses what goes beyond the writer's own rights.
pub(crate) fn admit(attributes: &Attributes<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), Status> {
    restrict_node(attributes, object, old)?;
    let kind = attributes.kind;
    let Some(object) = object else { return Ok(()) };
    if attributes.operation == Operation::Delete {
        return Ok(());
    }
    let authorizer = &attributes.api.0.authorizer;
    let forbidden =
        |message: String| Status::new(403, "Forbidden", message).with_details(&kind.group, &kind.plural, attributes.name);
    match (kind.group.as_ref(), kind.plural.as_ref()) {
        (rbac::GROUP, resource) => {
            escalation::check(authorizer, attributes.user, resource, old, object).map_err(|refused| match refused {
                Refused::Forbidden(message) => forbidden(message),
                Refused::NotFound { resource, name, .. } => status::not_found(&kind.group, resource, &name),
            })
        }
        (certificates::GROUP, certificates::RESOURCE) => {
            certificates::admit(authorizer, attributes.user, attributes.subresource, old, object).map_err(forbidden)
        }
        (certificates::GROUP, certificates::TRUST_BUNDLES) => {
            certificates::attest(authorizer, attributes.user, old, object).map_err(|why| attributes.forbidden(&why))
        }
        _ => Ok(()),
    }
}

/// NodeRestriction.
pub(crate) fn restrict_node(attributes: &Attributes<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), Status> {
    let write = restriction::Write {
        user: attributes.user,
        operation: match attributes.operation {
            Operation::Create => restriction::Operation::Create,
            Operation::Update => restriction::Operation::Update,
            Operation::Delete => restriction::Operation::Delete,
            Operation::Connect => return Ok(()),
        },
        group: &attributes.kind.group,
        resource: &attributes.kind.plural,
        subresource: attributes.subresource,
        namespace: attributes.namespace,
        name: attributes.name,
        object,
        old,
    };
    let allowed = |asked: &Asked<'_>| attributes.api.0.authorizer.authorize(asked).allowed();
    restriction::admit(&write, &CachedObjects(attributes.api.clone()), &allowed).map_err(|refused| match refused {
        restriction::Refused::Forbidden(message) => {
            Status::new(403, "Forbidden", message).with_details(&attributes.kind.group, &attributes.kind.plural, attributes.name)
        }
        restriction::Refused::NotFound { resource, name } => status::not_found("", resource, &name),
    })
}
