//! DefaultIngressClass: an Ingress that names no class gets the default one.
//!
//! Follows `plugin/pkg/admission/network/defaultingressclass/admission.go`.

use serde_json::{Value, json};

use super::{Attributes, Operation, default_storage_class::newest_default};
use crate::status::Status;

pub(super) async fn mutate(attributes: &Attributes<'_>, ingress: &mut Value) -> Result<(), Status> {
    let annotated = ingress["metadata"]["annotations"]["kubernetes.io/ingress.class"].is_string();
    if !attributes.is("networking.k8s.io", "ingresses", Operation::Create)
        || annotated
        || ingress["spec"]["ingressClassName"].is_string()
    {
        return Ok(());
    }
    let classes = attributes.api.0.storage.objects("networking.k8s.io", "ingressclasses", "").await?;
    if let Some(class) = newest_default(&classes, &["ingressclass.kubernetes.io/is-default-class"]) {
        ingress["spec"]["ingressClassName"] = json!(class);
    }
    Ok(())
}
