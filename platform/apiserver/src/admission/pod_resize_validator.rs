//! PodResizeValidator: a pod is not resized beyond what its node has.
//!
//! Follows `plugin/pkg/admission/podresize/admission.go`.

use pharos_api::quantity::Quantity;
use serde_json::Value;

use super::{
    Attributes, Operation,
    pod_resources::{List, amounts, requested},
};
use crate::status::Status;

/// An amount as it is compared and told.
type Unit = fn(Quantity) -> i64;

pub(super) async fn validate(attributes: &Attributes<'_>, pod: &Value, old: Option<&Value>) -> Result<(), Status> {
    let kind = attributes.kind;
    let resizes = kind.group.is_empty() && kind.plural == "pods" && attributes.subresource == "resize";
    let name = pod["spec"]["nodeName"].as_str().filter(|name| !name.is_empty());
    let (Some(name), Some(old), true, Operation::Update) = (name, old, resizes, attributes.operation) else { return Ok(()) };
    if old["metadata"]["generation"] == pod["metadata"]["generation"] {
        return Ok(());
    }
    let Some(node) = attributes.api.0.storage.object("", "nodes", "", name).await? else {
        return Err(attributes.forbidden(&format!("node {name:?} not found")));
    };
    check(pod, &node, name).map_err(|why| attributes.forbidden(&why))
}

fn check(pod: &Value, node: &Value, name: &str) -> Result<(), String> {
    let allocatable = amounts(&node["status"]["allocatable"]);
    let wanted = requested(pod, List::Requests);
    let units: [(&str, Unit); 2] = [("cpu", Quantity::milli_value), ("memory", Quantity::value)];
    let lacking = units.into_iter().filter_map(|(resource, unit)| {
        let of = |amounts: &super::pod_resources::Amounts| amounts.get(resource).map_or(0, |amount| unit(*amount));
        let (wanted, has) = (of(&wanted), of(&allocatable));
        (wanted > has).then(|| format!("{resource}, requested: {wanted}, allocatable: {has}"))
    });
    let lacking: Vec<String> = lacking.collect();
    if !lacking.is_empty() {
        return Err(format!("Node didn't have enough allocatable resources: {}", lacking.join("; ")));
    }
    let system = node["metadata"]["labels"]["kubernetes.io/os"].as_str().unwrap_or_default();
    if system != "linux" {
        return Err(format!("pod resize is only supported on linux nodes, node {name:?} is {system:?}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_fit_their_node() {
        let node = |system: &str| {
            let allocatable = json!({"cpu": "2", "memory": "1Ki"});
            json!({"metadata": {"labels": {"kubernetes.io/os": system}}, "status": {"allocatable": allocatable}})
        };
        let pod = |cpu: &str, memory: &str| {
            let container = json!({"resources": {"requests": {"cpu": cpu, "memory": memory}}});
            json!({"spec": {"containers": [container], "overhead": {"cpu": "100m"}}})
        };
        for (pod, system, wanted) in [
            (pod("1900m", "1Ki"), "linux", Ok(())),
            (
                pod("2", "2Ki"),
                "linux",
                Err(
                    "Node didn't have enough allocatable resources: cpu, requested: 2100, allocatable: 2000; memory, requested: \
                     2048, allocatable: 1024",
                ),
            ),
            (pod("1", "1"), "windows", Err("pod resize is only supported on linux nodes, node \"n\" is \"windows\"")),
        ] {
            assert_eq!(check(&pod, &node(system), "n"), wanted.map_err(str::to_owned));
        }
    }
}
