//! Priority: a pod's priority comes from its PriorityClass.
//!
//! Follows `plugin/pkg/admission/priority/admission.go`.

use serde_json::{Value, json};

use super::{Attributes, Operation};
use crate::status::Status;

const GROUP: &str = "scheduling.k8s.io";

pub(super) async fn mutate(attributes: &Attributes<'_>, pod: &mut Value, old: Option<&Value>) -> Result<(), Status> {
    if attributes.is("", "pods", Operation::Update) {
        // A client that leaves the resolved fields out means no change.
        if let Some(old) = old {
            for field in ["priority", "preemptionPolicy"] {
                if pod["spec"].get(field).is_none_or(Value::is_null) && !old["spec"][field].is_null() {
                    pod["spec"][field] = old["spec"][field].clone();
                }
            }
        }
        return Ok(());
    }
    if !attributes.is("", "pods", Operation::Create) {
        return Ok(());
    }
    let storage = &attributes.api.0.storage;
    let name = pod["spec"]["priorityClassName"].as_str().unwrap_or_default().to_owned();
    let class = if name.is_empty() {
        let classes = storage.objects(GROUP, "priorityclasses", "").await?;
        classes.into_iter().filter(|class| class["globalDefault"] == true).min_by_key(|class| class["value"].as_i64())
    } else {
        match storage.object(GROUP, "priorityclasses", "", &name).await? {
            Some(class) => Some(class),
            None => return Err(attributes.forbidden(&format!("no PriorityClass with name {name} was found"))),
        }
    };
    let (value, policy) = match &class {
        Some(class) => {
            pod["spec"]["priorityClassName"] = class["metadata"]["name"].clone();
            (class["value"].as_i64().unwrap_or(0), class["preemptionPolicy"].as_str().unwrap_or("PreemptLowerPriority"))
        }
        None => (0, "PreemptLowerPriority"),
    };
    if let Some(given) = pod["spec"]["priority"].as_i64().filter(|&given| given != value) {
        return Err(attributes.forbidden(&format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        )));
    }
    if let Some(given) = pod["spec"]["preemptionPolicy"].as_str().filter(|&given| given != policy) {
        return Err(attributes.forbidden(&format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        )));
    }
    pod["spec"]["priority"] = json!(value);
    pod["spec"]["preemptionPolicy"] = json!(policy);
    Ok(())
}

/// Only one class may be the default.
pub(super) async fn validate(attributes: &Attributes<'_>, class: &Value) -> Result<(), Status> {
    let written =
        attributes.is(GROUP, "priorityclasses", Operation::Create) || attributes.is(GROUP, "priorityclasses", Operation::Update);
    if !written || class["globalDefault"] != true {
        return Ok(());
    }
    let classes = attributes.api.0.storage.objects(GROUP, "priorityclasses", "").await?;
    let other = classes
        .iter()
        .filter(|other| other["globalDefault"] == true)
        .filter_map(|other| other["metadata"]["name"].as_str())
        .find(|&name| name != attributes.name);
    match other {
        Some(other) => {
            Err(attributes.forbidden(&format!("PriorityClass {other} is already marked as default. Only one default can exist")))
        }
        None => Ok(()),
    }
}
