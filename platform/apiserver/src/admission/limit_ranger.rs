//! LimitRanger: defaults and bounds for what containers, pods and claims may use.
//!
//! Follows `plugin/pkg/admission/limitranger/admission.go`.

use std::collections::BTreeSet;

use pharos_api::quantity::Quantity;
use serde_json::{Value, json};

use super::{
    Attributes, Operation,
    pod_resources::{Amounts, List, amounts, asked},
};
use crate::status::Status;

pub(super) async fn mutate(attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Status> {
    if !attributes.is("", "pods", Operation::Create) {
        return Ok(());
    }
    let ranges = attributes.api.0.storage.objects("", "limitranges", attributes.namespace).await?;
    for range in &ranges {
        apply_defaults(range, pod);
    }
    Ok(())
}

/// Holds new pods, pods being resized, and claims against the bounds of their namespace. The first LimitRange that is broken
/// is told of, with all that breaks it.
pub(super) async fn validate(attributes: &Attributes<'_>, object: &Value, old: Option<&Value>) -> Result<(), Status> {
    let resized = attributes.kind.group.is_empty() && attributes.kind.plural == "pods" && attributes.subresource == "resize";
    let pods = attributes.is("", "pods", Operation::Create) || resized;
    let claims = attributes.is("", "persistentvolumeclaims", Operation::Create)
        || attributes.is("", "persistentvolumeclaims", Operation::Update);
    let leaving = old.is_some_and(|old| !old["metadata"]["deletionTimestamp"].is_null());
    if !pods && !claims || leaving {
        return Ok(());
    }
    for range in attributes.api.0.storage.objects("", "limitranges", attributes.namespace).await? {
        let errors = if pods { check_pod(&range, object) } else { check_claim(&range, object) };
        match errors.as_slice() {
            [] => {}
            [one] => return Err(attributes.forbidden(one)),
            many => return Err(attributes.forbidden(&format!("[{}]", many.join(", ")))),
        }
    }
    Ok(())
}

fn items(range: &Value) -> impl Iterator<Item = &Value> {
    range["spec"]["limits"].as_array().into_iter().flatten()
}

/// What a LimitRange gives to containers that ask for nothing, of one of their two lists.
fn defaults(range: &Value, from: &str) -> serde_json::Map<String, Value> {
    let items = items(range).filter(|item| item["type"] == "Container");
    items
        .flat_map(|item| item[from].as_object().into_iter().flatten())
        .map(|(name, amount)| (name.clone(), amount.clone()))
        .collect()
}

fn apply_defaults(range: &Value, pod: &mut Value) {
    let (requests, limits) = (defaults(range, "defaultRequest"), defaults(range, "default"));
    let mut notes = Vec::new();
    for (list, noun) in [("containers", "container"), ("initContainers", "init container")] {
        for container in pod["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let name = container["name"].as_str().unwrap_or_default().to_owned();
            for (field, defaults) in [(List::Requests, &requests), (List::Limits, &limits)] {
                let set = fill(container, field.field(), defaults);
                if !set.is_empty() {
                    let what = field.field().trim_end_matches('s');
                    notes.push(format!("{} {what} for {noun} {name}", set.join(", ")));
                }
            }
        }
    }
    if !notes.is_empty() {
        pod["metadata"]["annotations"]["kubernetes.io/limit-ranger"] =
            json!(format!("LimitRanger plugin set: {}", notes.join("; ")));
    }
}

/// Gives a container what it does not say itself; the names of what was given.
fn fill(container: &mut Value, field: &str, defaults: &serde_json::Map<String, Value>) -> Vec<String> {
    let silent = |name: &String| container["resources"][field].get(name).is_none_or(Value::is_null);
    let missing: BTreeSet<String> = defaults.keys().filter(|name| silent(name)).cloned().collect();
    for name in &missing {
        container["resources"][field][name] = defaults[name].clone();
    }
    missing.into_iter().collect()
}

fn check_pod(range: &Value, pod: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    for item in items(range) {
        match item["type"].as_str() {
            Some("Container") => {
                for list in ["containers", "initContainers"] {
                    for container in pod["spec"][list].as_array().into_iter().flatten() {
                        let resources = &container["resources"];
                        check(item, "Container", &amounts(&resources["requests"]), &amounts(&resources["limits"]), &mut errors);
                    }
                }
            }
            Some("Pod") => check(item, "Pod", &asked(pod, List::Requests), &asked(pod, List::Limits), &mut errors),
            _ => {}
        }
    }
    errors
}

fn check_claim(range: &Value, claim: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    let requests = amounts(&claim["spec"]["resources"]["requests"]);
    let what = "PersistentVolumeClaim";
    for item in items(range).filter(|item| item["type"] == what) {
        for (resource, min) in amounts(&item["min"]) {
            errors.extend(below(&resource, what, min, requests.get(&resource), None));
        }
        for (resource, max) in amounts(&item["max"]) {
            match requests.get(&resource) {
                None => errors.push(format!("maximum {resource} usage per {what} is {max}.  No request is specified")),
                Some(request) if *request > max => {
                    errors.push(format!("maximum {resource} usage per {what} is {max}, but request is {request}"));
                }
                Some(_) => {}
            }
        }
    }
    errors
}

/// What is below its minimum, or says nothing.
fn below(resource: &str, what: &str, min: Quantity, request: Option<&Quantity>, limit: Option<&Quantity>) -> Option<String> {
    match (request, limit) {
        (None, _) => Some(format!("minimum {resource} usage per {what} is {min}.  No request is specified")),
        (Some(request), _) if *request < min => {
            Some(format!("minimum {resource} usage per {what} is {min}, but request is {request}"))
        }
        (_, Some(limit)) if *limit < min => Some(format!("minimum {resource} usage per {what} is {min}, but limit is {limit}")),
        _ => None,
    }
}

fn check(item: &Value, what: &str, requests: &Amounts, limits: &Amounts, errors: &mut Vec<String>) {
    for (resource, min) in amounts(&item["min"]) {
        errors.extend(below(&resource, what, min, requests.get(&resource), limits.get(&resource)));
    }
    for (resource, max) in amounts(&item["max"]) {
        match (requests.get(&resource), limits.get(&resource)) {
            (_, None) => errors.push(format!("maximum {resource} usage per {what} is {max}.  No limit is specified")),
            (_, Some(limit)) if *limit > max => {
                errors.push(format!("maximum {resource} usage per {what} is {max}, but limit is {limit}"));
            }
            (Some(request), _) if *request > max => {
                errors.push(format!("maximum {resource} usage per {what} is {max}, but request is {request}"));
            }
            _ => {}
        }
    }
    for (resource, ratio) in amounts(&item["maxLimitRequestRatio"]) {
        let of = |amounts: &Amounts| amounts.get(&resource).copied().filter(|amount| !amount.is_zero());
        let most = format!("{resource} max limit to request ratio per {what} is {ratio}");
        match (of(requests), of(limits)) {
            (None, _) => errors.push(format!("{most}, but no request is specified or request is 0")),
            (_, None) => errors.push(format!("{most}, but no limit is specified or limit is 0")),
            (Some(request), Some(limit)) => {
                let found = limit.as_f64() / request.as_f64();
                if found > ratio.as_f64() {
                    errors.push(format!("{most}, but provided ratio is {found:.6}"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(item: Value) -> Value {
        json!({"spec": {"limits": [item]}})
    }

    #[test]
    fn defaults_and_bounds() {
        let range =
            range(json!({"type": "Container", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "500m", "memory": "1Mi"},
            "max": {"cpu": "2"}}));
        let own = json!({"limits": {"cpu": "2"}, "requests": {"cpu": "1", "memory": "2Mi"}});
        let mut pod =
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "resources": own}], "initContainers": [{"name": "i"}]}});
        apply_defaults(&range, &mut pod);
        let given = json!({"limits": {"cpu": "1"}, "requests": {"cpu": "500m", "memory": "1Mi"}});
        assert_eq!(pod["spec"]["containers"][0]["resources"], given);
        assert_eq!(pod["spec"]["containers"][1]["resources"], own);
        assert_eq!(pod["spec"]["initContainers"][0]["resources"], given);
        assert_eq!(
            pod["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
            "LimitRanger plugin set: cpu, memory request for container a; cpu limit for container a; \
             cpu, memory request for init container i; cpu limit for init container i"
        );
        assert!(check_pod(&range, &pod).is_empty());
    }

    #[test]
    fn what_is_given_to_nobody_leaves_no_trace() {
        let mut pod = json!({"spec": {"containers": [{"name": "a"}]}});
        let before = pod.clone();
        apply_defaults(&range(json!({"type": "Pod", "max": {"cpu": "1"}})), &mut pod);
        assert_eq!(pod, before);
    }

    #[test]
    fn bounds_of_containers_and_pods() {
        let resources = |requests: Value, limits: Value| json!({"resources": {"requests": requests, "limits": limits}});
        let cpu = |request: &str, limit: &str| resources(json!({"cpu": request}), json!({"cpu": limit}));
        let pod = |containers: Value| json!({"spec": {"containers": containers}});
        let table: Vec<(Value, Value, &[&str])> = vec![
            (
                json!({"type": "Container", "max": {"cpu": "2"}}),
                pod(json!([cpu("1", "3")])),
                &["maximum cpu usage per Container is 2, but limit is 3"],
            ),
            (
                json!({"type": "Container", "min": {"cpu": "2"}, "max": {"memory": "1Gi"}}),
                pod(json!([cpu("1", "3")])),
                &[
                    "minimum cpu usage per Container is 2, but request is 1",
                    "maximum memory usage per Container is 1Gi.  No limit is specified",
                ],
            ),
            (
                json!({"type": "Container", "min": {"memory": "1Gi"}}),
                pod(json!([{}])),
                &["minimum memory usage per Container is 1Gi.  No request is specified"],
            ),
            (
                json!({"type": "Pod", "max": {"cpu": "3"}}),
                pod(json!([cpu("1", "2"), cpu("1", "2")])),
                &["maximum cpu usage per Pod is 3, but limit is 4"],
            ),
            (json!({"type": "Pod", "max": {"cpu": "4"}, "min": {"cpu": "2"}}), pod(json!([cpu("1", "2"), cpu("1", "2")])), &[]),
            (
                json!({"type": "Pod", "max": {"cpu": "4"}}),
                json!({"spec": {"containers": [cpu("1", "2")], "resources": {"limits": {"cpu": "5"}}}}),
                &["maximum cpu usage per Pod is 4, but limit is 5"],
            ),
            (
                json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}}),
                pod(json!([cpu("1", "3"), cpu("1", "2"), cpu("0", "1"), resources(json!({"cpu": "1"}), json!({}))])),
                &[
                    "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
                    "cpu max limit to request ratio per Container is 2, but no request is specified or request is 0",
                    "cpu max limit to request ratio per Container is 2, but no limit is specified or limit is 0",
                ],
            ),
        ];
        for (item, pod, wanted) in table {
            assert_eq!(check_pod(&range(item.clone()), &pod), wanted, "{item} {pod}");
        }
    }

    #[test]
    fn bounds_of_claims() {
        let bounds = range(json!({"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}}));
        let claim = |storage: &str| json!({"spec": {"resources": {"requests": {"storage": storage}}}});
        for (storage, wanted) in [
            ("1536Mi", None),
            ("512Mi", Some("minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 512Mi")),
            ("3Gi", Some("maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi")),
        ] {
            assert_eq!(check_claim(&bounds, &claim(storage)), wanted.into_iter().collect::<Vec<_>>(), "{storage}");
        }
    }
}
