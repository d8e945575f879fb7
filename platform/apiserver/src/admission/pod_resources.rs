//! What a pod asks for as a whole, as quotas, LimitRanges and resizes count it.
//!
//! Follows `PodRequests` and `PodLimits` in `component-helpers/resource/helpers.go`.

use std::collections::BTreeMap;

use pharos_api::quantity::Quantity;
use serde_json::Value;

/// Amounts of resources by name.
pub(super) type Amounts = BTreeMap<String, Quantity>;

/// Which of a pod's two lists is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum List {
    Requests,
    Limits,
}

impl List {
    pub(super) fn field(self) -> &'static str {
        match self {
            List::Requests => "requests",
            List::Limits => "limits",
        }
    }
}

/// The amounts of a resource list; what is no quantity has been refused before.
pub(super) fn amounts(value: &Value) -> Amounts {
    let entries = value.as_object().into_iter().flatten();
    entries.filter_map(|(name, amount)| Some((name.clone(), Quantity::from_value(amount).ok()?))).collect()
}

/// What a pod's spec asks for: the LimitRanger's view.
pub(super) fn asked(pod: &Value, list: List) -> Amounts {
    total(pod, list, |container| amounts(&container["resources"][list.field()]))
}

/// What a pod takes up: with its overhead, and as long as a resize is not carried out, the larger of before and after.
pub(super) fn taken(pod: &Value, list: List) -> Amounts {
    let infeasible = pod["status"]["conditions"].as_array().into_iter().flatten().any(|condition| {
        condition["type"] == "PodResizePending" && condition["reason"] == "Infeasible" && condition["status"] == "True"
    });
    let mut total = total(pod, list, |container| {
        let mut wanted = amounts(&container["resources"][list.field()]);
        let Some(status) = status_of(pod, container).filter(|status| status["resources"].is_object()) else { return wanted };
        if infeasible {
            wanted.clear();
        }
        raise(&mut wanted, &amounts(&status["resources"][list.field()]));
        if list == List::Requests {
            raise(&mut wanted, &amounts(&status["allocatedResources"]));
        }
        wanted
    });
    add_overhead(&mut total, pod, list);
    total
}

/// What a pod's spec asks for, with its overhead.
pub(super) fn requested(pod: &Value, list: List) -> Amounts {
    let mut total = asked(pod, list);
    add_overhead(&mut total, pod, list);
    total
}

fn add_overhead(total: &mut Amounts, pod: &Value, list: List) {
    for (resource, amount) in amounts(&pod["spec"]["overhead"]) {
        if list == List::Requests || total.get(&resource).is_some_and(|limit| !limit.is_zero()) {
            add(total, &resource, amount);
        }
    }
}

fn status_of<'a>(pod: &'a Value, container: &Value) -> Option<&'a Value> {
    let lists = ["containerStatuses", "initContainerStatuses"];
    let all = lists.into_iter().flat_map(|list| pod["status"][list].as_array().into_iter().flatten());
    all.into_iter().find(|status| status["name"] == container["name"])
}

/// The highest of what runs at once: all containers with the sidecars, or one init container with the sidecars started before
/// it. What is asked for the pod as a whole overrides both.
fn total(pod: &Value, list: List, of_container: impl Fn(&Value) -> Amounts) -> Amounts {
    let spec = &pod["spec"];
    let mut sum = Amounts::new();
    for container in spec["containers"].as_array().into_iter().flatten() {
        add_all(&mut sum, &of_container(container));
    }
    let (mut sidecars, mut highest) = (Amounts::new(), Amounts::new());
    for container in spec["initContainers"].as_array().into_iter().flatten() {
        let wanted = of_container(container);
        if container["restartPolicy"] == "Always" {
            add_all(&mut sum, &wanted);
            add_all(&mut sidecars, &wanted);
            raise(&mut highest, &sidecars);
        } else {
            let mut at_once = sidecars.clone();
            add_all(&mut at_once, &wanted);
            raise(&mut highest, &at_once);
        }
    }
    raise(&mut sum, &highest);
    let whole = amounts(&spec["resources"][list.field()]).into_iter();
    sum.extend(whole.filter(|(name, _)| matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-")));
    sum
}

fn add(sum: &mut Amounts, resource: &str, amount: Quantity) {
    match sum.get_mut(resource) {
        Some(present) => *present += amount,
        None => {
            sum.insert(resource.to_owned(), amount);
        }
    }
}

fn add_all(sum: &mut Amounts, more: &Amounts) {
    more.iter().for_each(|(resource, amount)| add(sum, resource, *amount));
}

fn raise(highest: &mut Amounts, to: &Amounts) {
    for (resource, amount) in to {
        let present = highest.entry(resource.clone()).or_insert(*amount);
        *present = (*present).max(*amount);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(amounts: &Amounts) -> Value {
        amounts.iter().map(|(name, amount)| (name.clone(), json!(amount.to_string()))).collect()
    }

    #[test]
    fn pods_ask_for_what_runs_at_once() {
        let needs = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let sidecar = |cpu: &str| json!({"restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}});
        for (spec, cpu) in [
            (json!({"containers": [needs("1"), needs("500m")]}), "1500m"),
            (json!({"containers": [needs("1")], "initContainers": [needs("3"), needs("2")]}), "3"),
            // A sidecar runs beside the containers, and beside the init containers after it.
            (json!({"containers": [needs("1")], "initContainers": [sidecar("1"), needs("1500m")]}), "2500m"),
            (json!({"containers": [needs("1")], "initContainers": [needs("1500m"), sidecar("1")]}), "2"),
            (json!({"containers": [needs("1")], "resources": {"requests": {"cpu": "5"}}}), "5"),
        ] {
            assert_eq!(texts(&asked(&json!({"spec": spec}), List::Requests)), json!({"cpu": cpu}), "{spec}");
        }
    }

    #[test]
    fn overhead_comes_on_top() {
        let container = json!({"resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}});
        let pod = json!({"spec": {"containers": [container], "overhead": {"cpu": "250m", "memory": "1Mi"}}});
        assert_eq!(texts(&taken(&pod, List::Requests)), json!({"cpu": "1250m", "memory": "1Mi"}));
        assert_eq!(texts(&taken(&pod, List::Limits)), json!({"cpu": "2250m"}));
        assert_eq!(texts(&asked(&pod, List::Requests)), json!({"cpu": "1"}));
    }

    #[test]
    fn a_resize_takes_the_larger_until_it_is_done() {
        let mut pod = json!({
            "spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}]},
            "status": {"containerStatuses": [
                {"name": "a", "allocatedResources": {"cpu": "2"}, "resources": {"requests": {"cpu": "1500m"}}},
            ]},
        });
        assert_eq!(texts(&taken(&pod, List::Requests)), json!({"cpu": "2"}));
        pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("4");
        assert_eq!(texts(&taken(&pod, List::Requests)), json!({"cpu": "4"}));
        pod["status"]["conditions"] = json!([{"type": "PodResizePending", "status": "True", "reason": "Infeasible"}]);
        assert_eq!(texts(&taken(&pod, List::Requests)), json!({"cpu": "2"}));
    }
}
