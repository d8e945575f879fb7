//! PersistentVolumeClaimResize: a claim grows only if its StorageClass lets it.
//!
//! Follows `plugin/pkg/admission/storage/persistentvolume/resize/admission.go`.

use serde_json::Value;

use super::{Attributes, Operation, pod_resources::amounts};
use crate::status::Status;

pub(super) async fn validate(attributes: &Attributes<'_>, claim: &Value, old: Option<&Value>) -> Result<(), Status> {
    let Some(old) = old.filter(|old| attributes.is("", "persistentvolumeclaims", Operation::Update) && grows(old, claim)) else {
        return Ok(());
    };
    if old["status"]["phase"] != "Bound" {
        return Err(attributes.forbidden("Only bound persistent volume claims can be expanded"));
    }
    let class = match (class(old), class(claim)) {
        (Some(old), Some(new)) if old == new => {
            attributes.api.0.storage.object("storage.k8s.io", "storageclasses", "", new).await?
        }
        _ => None,
    };
    if class.is_some_and(|class| class["allowVolumeExpansion"] == true) {
        return Ok(());
    }
    Err(attributes.forbidden(
        "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
    ))
}

fn grows(old: &Value, new: &Value) -> bool {
    let size = |claim: &Value| amounts(&claim["spec"]["resources"]["requests"]).remove("storage");
    match (size(old), size(new)) {
        (Some(old), Some(new)) => new > old,
        (None, Some(new)) => new.sign() > 0,
        _ => false,
    }
}

/// The class of a claim; the annotation is older than the field.
fn class(claim: &Value) -> Option<&str> {
    let annotated = claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].as_str();
    annotated.or_else(|| claim["spec"]["storageClassName"].as_str()).filter(|class| !class.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn growth_is_told_by_amount() {
        let claim = |storage: &str| json!({"spec": {"resources": {"requests": {"storage": storage}}}});
        for (old, new, bigger) in [("1Gi", "2Gi", true), ("1Gi", "1024Mi", false), ("2Gi", "1Gi", false)] {
            assert_eq!(grows(&claim(old), &claim(new)), bigger, "{old} {new}");
        }
    }
}
