//! NamespaceLifecycle: nothing is created in a namespace that is missing or going away.
//!
//! Follows `staging/src/k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle/admission.go`.

use serde_json::json;

use super::{Attributes, Operation};
use crate::status::{self, Status};

/// Namespaces that may not be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) async fn admit(attributes: &Attributes<'_>) -> Result<(), Status> {
    let kind = attributes.kind;
    if kind.group.is_empty() && kind.plural == "namespaces" {
        if attributes.operation == Operation::Delete && IMMORTAL.contains(&attributes.name) {
            return Err(attributes.forbidden("this namespace may not be deleted"));
        }
        return Ok(());
    }
    if !kind.namespaced || attributes.operation != Operation::Create {
        return Ok(());
    }
    if kind.plural == "localsubjectaccessreviews" && kind.group == "authorization.k8s.io" {
        return Ok(());
    }
    let namespace = attributes.namespace;
    let Some(object) = attributes.api.0.storage.object("", "namespaces", "", namespace).await? else {
        return Err(status::not_found("", "namespaces", namespace));
    };
    if object["metadata"]["deletionTimestamp"].is_null() {
        return Ok(());
    }
    let refused =
        attributes.forbidden(&format!("unable to create new content in namespace {namespace} because it is being terminated"));
    Err(refused.with_causes(vec![json!({
        "reason": "NamespaceTerminating",
        "message": format!("namespace {namespace} is being terminated"),
        "field": "metadata.namespace",
    })]))
}
