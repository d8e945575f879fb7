//! Pods: quality of service, what may change after creation, grace periods.
//!
//! Follows `pkg/registry/core/pod/strategy.go`, `pkg/apis/core/v1/helper/qos` and `ValidatePodUpdate`.

use pharos_api::{
    quantity::Quantity,
    validation::{ErrorType, FieldError},
};
use serde_json::{Map, Value, json};

use super::field_error;
use crate::verbs::update::Part;

pub(super) fn prepare_for_create(pod: &mut Value) {
    pod["status"] = json!({"phase": "Pending", "qosClass": qos_class(pod)});
    if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
        pod["status"]["conditions"] = json!([{
            "type": "PodScheduled",
            "status": "False",
            "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
        }]);
    }
}

pub(super) fn prepare_for_update(part: Part, new: &mut Value, old: &Value) {
    if part == Part::Main {
        // The cluster's own choices, which a client that writes a whole pod may leave out.
        if new["spec"]["nodeName"].is_null() && !old["spec"]["nodeName"].is_null() {
            new["spec"]["nodeName"] = old["spec"]["nodeName"].clone();
        }
        new["spec"]["ephemeralContainers"] = old["spec"]["ephemeralContainers"].clone();
        if new["spec"]["ephemeralContainers"].is_null()
            && let Some(spec) = new["spec"].as_object_mut()
        {
            spec.remove("ephemeralContainers");
        }
    }
    if part == Part::Status {
        let qos = &old["status"]["qosClass"];
        if !qos.is_null() {
            new["status"]["qosClass"] = qos.clone();
        }
    }
}

/// Replaces only the containers' resources and resize policies.
pub(super) fn keep_all_but_resources(new: &mut Value, old: &Value) {
    let mut kept = old.clone();
    for list in ["containers", "initContainers"] {
        for container in kept["spec"][list].as_array_mut().into_iter().flatten() {
            let Some(changed) = new["spec"][list].as_array().into_iter().flatten().find(|c| c["name"] == container["name"])
            else {
                continue;
            };
            for field in ["resources", "resizePolicy"] {
                if let Some(value) = changed.get(field) {
                    container[field] = value.clone();
                }
            }
        }
        if kept["spec"][list].is_null()
            && let Some(spec) = kept["spec"].as_object_mut()
        {
            spec.remove(list);
        }
    }
    kept["metadata"]["managedFields"] = new["metadata"]["managedFields"].clone();
    *new = kept;
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub(crate) fn qos_class(pod: &Value) -> &'static str {
    let resources = ["cpu", "memory"];
    let spec = &pod["spec"];
    let lists = ["containers", "initContainers"];
    let containers = || lists.iter().flat_map(|list| spec[*list].as_array().into_iter().flatten());
    let positive = |list: &Value, resource: &str| Quantity::from_value(&list[resource]).ok().filter(|amount| !amount.is_zero());
    let mut any = false;
    let mut guaranteed = true;
    for container in containers() {
        let (requests, limits) = (&container["resources"]["requests"], &container["resources"]["limits"]);
        for resource in resources {
            let limit = positive(limits, resource);
            let request = positive(requests, resource).or(limit);
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && request == limit;
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// How long a pod may take to stop, in seconds.
pub(super) fn grace_period(pod: &Value, asked: Option<i64>) -> i64 {
    let seconds = asked.or_else(|| pod["spec"]["terminationGracePeriodSeconds"].as_i64()).unwrap_or(30);
    let unscheduled = pod["spec"]["nodeName"].as_str().is_none_or(str::is_empty);
    let finished = matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"));
    match seconds {
        _ if unscheduled || finished => 0,
        ..0 => 1,
        seconds => seconds,
    }
}

const MUTABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// A pod's spec is fixed, but for a few fields.
pub(super) fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if new["spec"] == old["spec"] {
        return errors;
    }
    let mut allowed = new["spec"].clone();
    for list in ["containers", "initContainers"] {
        let count = |pod: &Value| pod["spec"][list].as_array().map_or(0, Vec::len);
        if count(new) != count(old) {
            errors.push(FieldError::forbidden(format!("spec.{list}"), "pod updates may not add or remove containers"));
            return errors;
        }
        let containers = allowed.get_mut(list).and_then(Value::as_array_mut);
        for (container, old) in containers.into_iter().flatten().zip(old["spec"][list].as_array().into_iter().flatten()) {
            container["image"] = old["image"].clone();
        }
    }
    if !deadline(&new["spec"]["activeDeadlineSeconds"], &old["spec"]["activeDeadlineSeconds"], &mut errors) {
        return errors;
    }
    if !keeps_tolerations(new, old) {
        errors.push(FieldError::forbidden(
            "spec.tolerations",
            "existing toleration can not be modified except its tolerationSeconds",
        ));
    }
    let gates = |pod: &Value| pod["spec"]["schedulingGates"].as_array().cloned().unwrap_or_default();
    let (gates_before, gates_after) = (gates(old), gates(new));
    for (index, gate) in gates_after.iter().enumerate().filter(|(_, gate)| !gates_before.contains(gate)) {
        let name = gate["name"].as_str().unwrap_or_default();
        errors.push(FieldError::forbidden(
            format!("spec.schedulingGates[{index}].name"),
            format!("only deletion is allowed, but found new scheduling gate '{name}'"),
        ));
    }
    let mut settable = vec!["activeDeadlineSeconds", "tolerations", "ephemeralContainers", "schedulingGates"];
    let negative = old["spec"]["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0);
    if negative && new["spec"]["terminationGracePeriodSeconds"] == 1 {
        settable.push("terminationGracePeriodSeconds");
    }
    if !gates_before.is_empty() {
        gated(&mut allowed, &old["spec"], &mut errors);
        settable.push("nodeSelector");
    }
    let strip = |spec: &Value| -> Map<String, Value> {
        spec.as_object()
            .into_iter()
            .flatten()
            .filter(|(field, value)| !settable.contains(&field.as_str()) && !value.is_null())
            .map(|(field, value)| (field.clone(), value.clone()))
            .collect()
    };
    let (before, after) = (strip(&old["spec"]), strip(&allowed));
    if before != after {
        let mut fields: Vec<&str> = before
            .keys()
            .chain(after.keys())
            .filter(|field| before.get(*field) != after.get(*field))
            .map(String::as_str)
            .collect();
        fields.sort_unstable();
        fields.dedup();
        errors.push(FieldError::forbidden("spec", format!("{MUTABLE}\nchanged: {}", fields.join(", "))));
    }
    errors
}

/// A deadline may be set and come closer. False if it does not, which is all that upstream tells then.
fn deadline(new: &Value, old: &Value, errors: &mut Vec<FieldError>) -> bool {
    const FIELD: &str = "spec.activeDeadlineSeconds";
    match (new.as_i64(), old.as_i64()) {
        (Some(new), _) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            let detail = format!("must be between 0 and {}, inclusive", i32::MAX);
            errors.push(FieldError::invalid(FIELD, new, detail));
            false
        }
        (Some(new), Some(old)) if old < new => {
            errors.push(FieldError::invalid(FIELD, new, "must be less than or equal to previous value"));
            false
        }
        (None, Some(_)) => {
            errors.push(FieldError::invalid(FIELD, Value::Null, "must not update from a positive integer to nil value"));
            true
        }
        _ => true,
    }
}

/// Whether every toleration is still there, but for how long it holds.
fn keeps_tolerations(new: &Value, old: &Value) -> bool {
    let list = |pod: &Value| pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
    let new = list(new);
    list(old).iter().all(|toleration| {
        new.iter().any(|other| {
            let mut toleration = toleration.clone();
            toleration["tolerationSeconds"] = other["tolerationSeconds"].clone();
            let mut other = other.clone();
            other["tolerationSeconds"] = toleration["tolerationSeconds"].clone();
            other == toleration
        })
    })
}

/// What a pod that is held back by gates may change: its node selector may get more labels, its node affinity more to fit.
fn gated(new: &mut Value, old: &Value, errors: &mut Vec<FieldError>) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    let labels = |spec: &Value| spec["nodeSelector"].as_object().cloned().unwrap_or_default();
    let (before, after) = (labels(old), labels(new));
    if before.iter().any(|(key, value)| after.get(key) != Some(value)) {
        let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.push(FieldError::invalid("spec.nodeSelector", Value::Object(after), detail));
    }
    let terms =
        |spec: &Value| spec["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"].as_array().cloned().unwrap_or_default();
    let (before, after) = (terms(old), terms(new));
    let path = format!("spec.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms");
    if !before.is_empty() && before.len() != after.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        errors.push(FieldError::invalid(path, Value::Array(after), detail));
    } else {
        for (index, (old, new)) in before.iter().zip(&after).enumerate() {
            if !only_adds(new, old) {
                let detail = "only additions are allowed (no mutations or deletions)";
                errors.push(FieldError::invalid(format!("{path}[{index}]"), new.clone(), detail));
            }
        }
    }
    // What is left is compared: affinity to other pods is fixed.
    let node = old["affinity"]["nodeAffinity"].clone();
    if new["affinity"].is_object() {
        new["affinity"]["nodeAffinity"] = node;
        let rest = new["affinity"].as_object().is_some_and(|affinity| affinity.values().all(Value::is_null));
        if rest && let Some(spec) = new.as_object_mut() {
            spec.remove("affinity");
        } else if let Some(affinity) = new["affinity"].as_object_mut() {
            affinity.retain(|_, value| !value.is_null());
        }
    } else if !node.is_null() {
        new["affinity"] = json!({"nodeAffinity": node});
    }
}

fn only_adds(new: &Value, old: &Value) -> bool {
    let list = |term: &Value, field: &str| term[field].as_array().cloned().unwrap_or_default();
    let fields = ["matchExpressions", "matchFields"];
    if fields.into_iter().all(|field| list(old, field).is_empty()) {
        return fields.into_iter().all(|field| list(new, field).is_empty());
    }
    fields.into_iter().all(|field| list(new, field).starts_with(&list(old, field)))
}

/// What containers ask for may change while they run, but not cease to be asked for, nor be of another class of service.
pub(super) fn validate_resize(new: &Value, old: &Value) -> Vec<FieldError> {
    let refuse = |why: &str| vec![FieldError::forbidden("", why)];
    if !old["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_null() {
        return refuse("static pods cannot be resized");
    }
    if old["spec"]["os"]["name"] == "windows" {
        return refuse("windows pods cannot be resized");
    }
    let mut errors = Vec::new();
    if qos_class(new) != qos_class(old) {
        let class = new["status"]["qosClass"].clone();
        errors.push(FieldError::invalid("spec", class, "Pod QOS Class may not change as a result of resizing"));
    }
    for list in ["initContainers", "containers"] {
        let (before, after) = (old["spec"][list].as_array(), new["spec"][list].as_array());
        for (index, (old, new)) in before.into_iter().flatten().zip(after.into_iter().flatten()).enumerate() {
            if list == "initContainers" && old["restartPolicy"] != "Always" {
                if new != old {
                    errors.push(FieldError::forbidden("spec", "resources for non-sidecar init containers are immutable"));
                }
                continue;
            }
            let path = format!("spec.{list}[{index}].resources");
            resize(&path, list == "initContainers", &new["resources"], &old["resources"], &mut errors);
        }
    }
    errors
}

fn resize(path: &str, sidecar: bool, new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let amounts = |resources: &Value, list: &str| resources[list].as_object().cloned().unwrap_or_default();
    let mut others = false;
    for list in ["requests", "limits"] {
        let (before, after) = (amounts(old, list), amounts(new, list));
        if before.keys().any(|name| !after.contains_key(name)) {
            errors.push(FieldError::forbidden(format!("{path}.{list}"), format!("resource {list} cannot be removed")));
        }
        let quantity = |amount: Option<&Value>| amount.and_then(|amount| Quantity::from_value(amount).ok());
        others |= before
            .keys()
            .chain(after.keys())
            .filter(|name| !matches!(name.as_str(), "cpu" | "memory"))
            .any(|name| quantity(before.get(name)) != quantity(after.get(name)));
    }
    if others {
        let of = if sidecar { " for sidecar containers" } else { "" };
        errors.push(FieldError::forbidden("spec", format!("only cpu and memory resources{of} are mutable")));
    }
}

/// Ephemeral containers can only be added.
pub(super) fn validate_ephemeral_containers(new: &Value, old: &Value) -> Vec<FieldError> {
    let list = |pod: &Value| pod["spec"]["ephemeralContainers"].as_array().cloned().unwrap_or_default();
    let (before, after) = (list(old), list(new));
    before
        .iter()
        .filter(|container| !after.contains(container))
        .map(|container| {
            let there = after.iter().any(|other| other["name"] == container["name"]);
            let what = if there { "changed" } else { "removed" };
            field_error(
                ErrorType::Forbidden,
                "spec.ephemeralContainers",
                Value::Null,
                &format!("existing ephemeral containers {} may not be {what}", container["name"]),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_service() {
        let pod = |resources: Value| json!({"spec": {"containers": [{"name": "a", "resources": resources}]}});
        assert_eq!(qos_class(&pod(json!({}))), "BestEffort");
        assert_eq!(qos_class(&pod(json!({"requests": {"cpu": "1"}}))), "Burstable");
        let both = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(qos_class(&pod(json!({"limits": both}))), "Guaranteed");
        assert_eq!(qos_class(&pod(json!({"limits": both, "requests": {"cpu": "500m", "memory": "1Gi"}}))), "Burstable");
    }

    #[test]
    fn only_some_fields_change() {
        let old = json!({"spec": {"nodeName": "n", "containers": [{"name": "a", "image": "x"}]}});
        let mut new = old.clone();
        new["spec"]["containers"][0]["image"] = json!("y");
        assert!(validate_update(&new, &old).is_empty());
        new["spec"]["containers"][0]["command"] = json!(["z"]);
        assert_eq!(validate_update(&new, &old)[0].field, "spec");
    }

    #[test]
    fn grace_is_for_running_pods() {
        let pod = json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 5}, "status": {"phase": "Running"}});
        assert_eq!(grace_period(&pod, None), 5);
        assert_eq!(grace_period(&pod, Some(0)), 0);
        assert_eq!(grace_period(&json!({"spec": {}}), None), 0);
    }
}
