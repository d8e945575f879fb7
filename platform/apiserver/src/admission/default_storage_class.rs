//! DefaultStorageClass: a claim that names no class gets the default one.
//!
//! Follows `plugin/pkg/admission/storage/storageclass/setdefault/admission.go`.

use serde_json::{Value, json};

use super::{Attributes, Operation};
use crate::status::Status;

pub(super) async fn mutate(attributes: &Attributes<'_>, claim: &mut Value) -> Result<(), Status> {
    let annotated = claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].is_string();
    if !attributes.is("", "persistentvolumeclaims", Operation::Create)
        || annotated
        || claim["spec"].get("storageClassName").is_some_and(|name| !name.is_null())
    {
        return Ok(());
    }
    let classes = attributes.api.0.storage.objects("storage.k8s.io", "storageclasses", "").await?;
    if let Some(class) = newest_default(
        &classes,
        &["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"],
    ) {
        claim["spec"]["storageClassName"] = json!(class);
    }
    Ok(())
}

/// The newest of the classes annotated as default; of equally old ones, the first by name.
pub(super) fn newest_default<'a>(classes: &'a [Value], annotations: &[&str]) -> Option<&'a str> {
    classes
        .iter()
        .filter(|class| annotations.iter().any(|annotation| class["metadata"]["annotations"][*annotation] == "true"))
        .filter_map(|class| Some((class["metadata"]["creationTimestamp"].as_str()?, class["metadata"]["name"].as_str()?)))
        .max_by(|a, b| a.0.cmp(b.0).then(b.1.cmp(a.1)))
        .map(|(_, name)| name)
}
