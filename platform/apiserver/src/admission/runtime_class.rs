//! RuntimeClass: a pod's overhead and placement come from the class it names.
//!
//! Follows `plugin/pkg/admission/runtimeclass/admission.go`.

use serde_json::{Value, json};

use super::{Attributes, Operation, pod_resources::amounts};
use crate::status::Status;

pub(super) async fn mutate(attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Status> {
    if !attributes.is("", "pods", Operation::Create) {
        return Ok(());
    }
    let Some(name) = pod["spec"]["runtimeClassName"].as_str().map(str::to_owned) else {
        if pod["spec"]["overhead"].as_object().is_some_and(|overhead| !overhead.is_empty()) {
            return Err(
                attributes.forbidden("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
            );
        }
        return Ok(());
    };
    let class = attributes.api.0.storage.object("node.k8s.io", "runtimeclasses", "", &name).await?;
    let Some(class) = class else {
        return Err(attributes.forbidden(&format!("pod rejected: RuntimeClass \"{name}\" not found")));
    };
    let overhead = &class["overhead"]["podFixed"];
    let given = amounts(&pod["spec"]["overhead"]);
    if overhead.is_object() {
        if !given.is_empty() && given != amounts(overhead) {
            return Err(attributes.forbidden("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"));
        }
        pod["spec"]["overhead"] = overhead.clone();
    } else if !given.is_empty() {
        return Err(attributes.forbidden("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"));
    }
    for (key, value) in class["scheduling"]["nodeSelector"].as_object().into_iter().flatten() {
        match &pod["spec"]["nodeSelector"][key] {
            Value::Null => pod["spec"]["nodeSelector"][key] = value.clone(),
            given if given == value => {}
            _ => {
                return Err(attributes.forbidden(&format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                    value.as_str().unwrap_or_default(),
                    pod["spec"]["nodeSelector"][key].as_str().unwrap_or_default()
                )));
            }
        }
    }
    let tolerations = class["scheduling"]["tolerations"].as_array().cloned().unwrap_or_default();
    if !tolerations.is_empty() {
        let mut all = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
        all.extend(tolerations.into_iter().filter(|toleration| !all.contains(toleration)).collect::<Vec<_>>());
        pod["spec"]["tolerations"] = json!(all);
    }
    Ok(())
}
