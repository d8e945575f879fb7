//! LimitRanger: defaults and bounds for what containers, pods and claims may use.
//!
//! Follows `plugin/pkg/admission/limitranger/admission.go`.

use std::collections::BTreeMap;

use pharos_api::quantity::Quantity;
use serde_json::{Value, json};

use super::{Attributes, Operation};
use crate::status::Status;

type Amounts = BTreeMap<String, Quantity>;

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

pub(super) async fn validate(attributes: &Attributes<'_>, object: &Value) -> Result<(), Status> {
    let pods = attributes.is("", "pods", Operation::Create);
    let claims = attributes.is("", "persistentvolumeclaims", Operation::Create)
        || attributes.is("", "persistentvolumeclaims", Operation::Update);
    if !pods && !claims {
        return Ok(());
    }
    let ranges = attributes.api.0.storage.objects("", "limitranges", attributes.namespace).await?;
    let errors: Vec<String> =
        ranges.iter().flat_map(|range| if pods { check_pod(range, object) } else { check_claim(range, object) }).collect();
    match errors.as_slice() {
        [] => Ok(()),
        [one] => Err(attributes.forbidden(one)),
        many => Err(attributes.forbidden(&format!("[{}]", many.join(", ")))),
    }
}

fn items(range: &Value) -> impl Iterator<Item = &Value> {
    range["spec"]["limits"].as_array().into_iter().flatten()
}

fn amounts(value: &Value) -> Amounts {
    value
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, amount)| Some((name.clone(), Quantity::from_value(amount).ok()?)))
        .collect()
}

fn apply_defaults(range: &Value, pod: &mut Value) {
    let mut notes = Vec::new();
    for item in items(range).filter(|item| item["type"] == "Container") {
        for list in ["initContainers", "containers"] {
            for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
                let name = container["name"].as_str().unwrap_or_default().to_owned();
                let prefix = if list == "initContainers" { "init container" } else { "container" };
                for (field, from, noun) in [("requests", "defaultRequest", "request"), ("limits", "default", "limit")] {
                    let mut set: Vec<String> = Vec::new();
                    for (resource, amount) in item[from].as_object().into_iter().flatten() {
                        if container["resources"][field][resource].is_null() {
                            container["resources"][field][resource] = amount.clone();
                            set.push(resource.clone());
                        }
                    }
                    if container["resources"][field].is_null()
                        && let Some(resources) = container["resources"].as_object_mut()
                    {
                        resources.remove(field);
                    }
                    if !set.is_empty() {
                        set.sort();
                        notes.push(format!("{} {noun} for {prefix} {name}", set.join(", ")));
                    }
                }
            }
            if pod["spec"][list].is_null()
                && let Some(spec) = pod["spec"].as_object_mut()
            {
                spec.remove(list);
            }
        }
    }
    if !notes.is_empty() {
        pod["metadata"]["annotations"]["kubernetes.io/limit-ranger"] =
            json!(format!("LimitRanger plugin set: {}", notes.join("; ")));
    }
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
            Some("Pod") => {
                let (requests, limits) = (pod_sum(pod, "requests"), pod_sum(pod, "limits"));
                check(item, "Pod", &requests, &limits, &mut errors);
            }
            _ => {}
        }
    }
    errors
}

fn check_claim(range: &Value, claim: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    let requests = amounts(&claim["spec"]["resources"]["requests"]);
    for item in items(range).filter(|item| item["type"] == "PersistentVolumeClaim") {
        for (bound, min) in [("min", true), ("max", false)] {
            for (resource, limit) in amounts(&item[bound]) {
                let Some(request) = requests.get(&resource) else { continue };
                let broken = if min { *request < limit } else { *request > limit };
                if broken {
                    errors.push(format!(
                        "{}imum {resource} usage per PersistentVolumeClaim is {limit}, but request is {request}",
                        bound
                    ));
                }
            }
        }
    }
    errors
}

/// What a pod's containers use together; init containers run one after the other, sidecars along with the rest.
pub(super) fn pod_sum(pod: &Value, field: &str) -> Amounts {
    let mut sum = Amounts::new();
    let mut add = |container: &Value| {
        for (resource, amount) in amounts(&container["resources"][field]) {
            *sum.entry(resource).or_insert(Quantity::ZERO) += amount;
        }
    };
    let inits = pod["spec"]["initContainers"].as_array().into_iter().flatten();
    let (sidecars, inits): (Vec<&Value>, Vec<&Value>) = inits.partition(|container| container["restartPolicy"] == "Always");
    pod["spec"]["containers"].as_array().into_iter().flatten().for_each(&mut add);
    sidecars.into_iter().for_each(&mut add);
    for init in inits {
        for (resource, amount) in amounts(&init["resources"][field]) {
            let total = sum.entry(resource).or_insert(Quantity::ZERO);
            *total = (*total).max(amount);
        }
    }
    for (resource, amount) in amounts(&pod["spec"]["overhead"]) {
        if field == "requests" || sum.contains_key(&resource) {
            *sum.entry(resource).or_insert(Quantity::ZERO) += amount;
        }
    }
    sum
}

fn check(item: &Value, what: &str, requests: &Amounts, limits: &Amounts, errors: &mut Vec<String>) {
    for (resource, min) in amounts(&item["min"]) {
        match (requests.get(&resource), limits.get(&resource)) {
            (None, _) => errors.push(format!("minimum {resource} usage per {what} is {min}.  No request is specified")),
            (Some(request), _) if *request < min => {
                errors.push(format!("minimum {resource} usage per {what} is {min}, but request is {request}"));
            }
            (_, Some(limit)) if *limit < min => {
                errors.push(format!("minimum {resource} usage per {what} is {min}, but limit is {limit}"));
            }
            _ => {}
        }
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
        match (requests.get(&resource), limits.get(&resource)) {
            (Some(request), Some(limit)) if !request.is_zero() => {
                let found = limit.as_f64() / request.as_f64();
                if found > ratio.as_f64() {
                    errors.push(format!(
                        "{resource} max limit to request ratio per {what} is {ratio}, but provided ratio is {found:.6}"
                    ));
                }
            }
            (None, _) => errors.push(format!(
                "{resource} max limit to request ratio per {what} is {ratio}, but no request is specified or request is 0"
            )),
            (_, None) => errors.push(format!(
                "{resource} max limit to request ratio per {what} is {ratio}, but no limit is specified or limit is 0"
            )),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_and_bounds() {
        let range = json!({"spec": {"limits": [{"type": "Container", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "500m"},
            "max": {"cpu": "2"}}]}});
        let mut pod = json!({"spec": {"containers": [{"name": "a"}]}});
        apply_defaults(&range, &mut pod);
        assert_eq!(pod["spec"]["containers"][0]["resources"], json!({"limits": {"cpu": "1"}, "requests": {"cpu": "500m"}}));
        assert!(check_pod(&range, &pod).is_empty());
        let big = json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "3"}}}]}});
        assert_eq!(check_pod(&range, &big), ["maximum cpu usage per Container is 2, but limit is 3"]);
    }

    #[test]
    fn init_containers_count_by_their_largest() {
        let pod = json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "1"}}}],
            "initContainers": [{"resources": {"requests": {"cpu": "3"}}}, {"resources": {"requests": {"cpu": "2"}}}]}});
        assert_eq!(pod_sum(&pod, "requests")["cpu"].to_string(), "3");
    }
}
