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
    let gated = old["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty());
    let mut allowed = new["spec"].clone();
    for list in ["containers", "initContainers"] {
        let count = |pod: &Value| pod["spec"][list].as_array().map_or(0, Vec::len);
        if count(new) != count(old) {
            errors.push(field_error(
                ErrorType::Forbidden,
                &format!("spec.{list}"),
                Value::Null,
                "pod updates may not add or remove containers",
            ));
            return errors;
        }
        for (container, old) in
            allowed[list].as_array_mut().into_iter().flatten().zip(old["spec"][list].as_array().into_iter().flatten())
        {
            container["image"] = old["image"].clone();
        }
        if allowed[list].is_null()
            && let Some(spec) = allowed.as_object_mut()
        {
            spec.remove(list);
        }
    }
    let (before, after) = (&old["spec"]["activeDeadlineSeconds"], &new["spec"]["activeDeadlineSeconds"]);
    if let Some(before) = before.as_i64()
        && after.as_i64().is_none_or(|after| after > before)
    {
        errors.push(field_error(
            ErrorType::Invalid,
            "spec.activeDeadlineSeconds",
            after.clone(),
            &format!("must be less than or equal to previous value {before}"),
        ));
    }
    let kept = |field: &str| {
        let list = |pod: &Value| pod["spec"][field].as_array().cloned().unwrap_or_default();
        let new = list(new);
        list(old).iter().all(|toleration| {
            new.iter().any(|other| {
                let mut other = other.clone();
                other["tolerationSeconds"] = toleration["tolerationSeconds"].clone();
                let mut toleration = toleration.clone();
                toleration["tolerationSeconds"] = other["tolerationSeconds"].clone();
                other == toleration
            })
        })
    };
    if !kept("tolerations") {
        errors.push(field_error(
            ErrorType::Forbidden,
            "spec.tolerations",
            Value::Null,
            "existing toleration can not be modified except its tolerationSeconds",
        ));
    }
    let mut settable = vec!["activeDeadlineSeconds", "tolerations", "ephemeralContainers"];
    let negative = old["spec"]["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0);
    if negative && new["spec"]["terminationGracePeriodSeconds"] == 1 {
        settable.push("terminationGracePeriodSeconds");
    }
    if gated {
        settable.extend(["schedulingGates", "nodeSelector", "affinity"]);
        let gates = |pod: &Value| pod["spec"]["schedulingGates"].as_array().cloned().unwrap_or_default();
        let before = gates(old);
        if gates(new).iter().any(|gate| !before.contains(gate)) {
            errors.push(field_error(
                ErrorType::Forbidden,
                "spec.schedulingGates",
                Value::Null,
                "only deletion is allowed, but found new scheduling gate",
            ));
        }
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
        let fields: Vec<&str> = before
            .keys()
            .chain(after.keys())
            .filter(|field| before.get(*field) != after.get(*field))
            .map(String::as_str)
            .collect();
        let mut fields = fields;
        fields.sort_unstable();
        fields.dedup();
        let detail = format!("{MUTABLE}\nchanged: {}", fields.join(", "));
        errors.push(field_error(ErrorType::Forbidden, "spec", Value::Null, &detail));
    }
    errors
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
