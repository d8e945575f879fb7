//! Admission policies: expressions that refuse or change what is written.
//!
//! Follows `apiserver/pkg/admission/plugin/policy`. A policy has effect where a binding names it. Policies with bindings are kept
//! compiled in memory and replaced when one of either changes; while there are none, a request costs one look at an empty list.
//! Parameters are read from the watch caches when a policy is applied.

mod authorization; // May the writer read the parameters?
mod check; // Do expressions in policies compile?
mod definition; // Policies and bindings, compiled;
mod metrics;
mod mutating; // the two kinds of them,
mod params; // what they are about,
mod patch;
mod schema;
mod source; // and where they come from.
mod types; // Do their expressions fit what they are for?
mod validating;

use arc_swap::ArcSwap;

pub(crate) use authorization::check as may_read_params;
pub(crate) use check::validate as validate_expressions;
pub(crate) use mutating::{Mutation, mutate};
pub(crate) use source::{follow, prime};
pub(crate) use validating::validate;

use serde_json::Value;

use super::{Attributes, GROUP, expression, request};
use crate::{
    background::CachedObjects,
    status::{self, Status},
};
use definition::{Hook, Mutations, Validations};

const VALIDATING: &str = "validatingadmissionpolicies";
const VALIDATING_BINDINGS: &str = "validatingadmissionpolicybindings";
const MUTATING: &str = "mutatingadmissionpolicies";
const MUTATING_BINDINGS: &str = "mutatingadmissionpolicybindings";

/// All policies that have bindings, in the order of their names.
pub(crate) struct Policies {
    validating: ArcSwap<Vec<Hook<Validations>>>,
    mutating: ArcSwap<Vec<Hook<Mutations>>>,
    metrics: metrics::Metrics,
}

impl Policies {
    pub(crate) fn new(registry: &prometheus::Registry) -> Result<Self, prometheus::Error> {
        Ok(Policies { validating: ArcSwap::default(), mutating: ArcSwap::default(), metrics: metrics::Metrics::new(registry)? })
    }
}

/// Whether no policy is applied to a write, whatever the rules say: webhook configurations are not exempt, reviews are, which are
/// answered and forgotten (`pkg/kubeapiserver/admission/exclusion`).
fn exempt(attributes: &Attributes<'_>) -> bool {
    let kind = attributes.kind;
    let review = match (kind.group.as_ref(), kind.plural.as_ref()) {
        ("authentication.k8s.io", resource) => matches!(resource, "selfsubjectreviews" | "tokenreviews"),
        ("authorization.k8s.io", resource) => matches!(
            resource,
            "localsubjectaccessreviews" | "selfsubjectaccessreviews" | "selfsubjectrulesreviews" | "subjectaccessreviews"
        ),
        _ => false,
    };
    review || super::exempt(attributes)
}

/// Whether a kind is one of the policies or bindings.
pub(super) fn is_policy(group: &str, resource: &str) -> bool {
    group == GROUP && matches!(resource, VALIDATING | VALIDATING_BINDINGS | MUTATING | MUTATING_BINDINGS)
}

/// The variable `namespaceObject`: null outside of namespaces, and for a Namespace itself.
fn namespace_of(attributes: &Attributes<'_>) -> Result<Value, Status> {
    if request::is_namespace(attributes) || attributes.namespace.is_empty() {
        return Ok(Value::Null);
    }
    let name = attributes.namespace;
    let objects = CachedObjects(attributes.api.clone());
    let found = crate::authn::Objects::get(&objects, "", "namespaces", "", name);
    found.map(|namespace| expression::namespace_object(&namespace)).ok_or_else(|| status::not_found("", "namespaces", name))
}

/// 403 about an object, which may not have its name yet (`admission.NewForbidden`).
fn forbidden(attributes: &Attributes<'_>, object: Option<&Value>, why: &str) -> Status {
    let given = object.into_iter().flat_map(|object| ["name", "generateName"].map(|field| object["metadata"][field].as_str()));
    let name = [Some(attributes.name)].into_iter().chain(given).flatten().find(|name| !name.is_empty()).unwrap_or("Unknown");
    status::forbidden(&attributes.kind.group, &attributes.kind.plural, name, why)
}
