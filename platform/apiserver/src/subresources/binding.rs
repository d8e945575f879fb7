//! Bindings: a scheduler puts a pod on a node.
//!
//! Follows `pkg/registry/core/pod/storage/storage.go` (`BindingREST`).

use pharos_transport::Response;
use serde_json::{Value, json};

use super::{options, success, unpinned};
use crate::{
    admission::{self, Attributes},
    body,
    call::Call,
    names,
    status::{self, Status},
    verbs::{
        object_meta,
        update::{self, Change, Manage, Part},
    },
};

/// Answers `pods/{name}/binding`, and `bindings`, where the name is in the body.
pub(super) async fn create(call: &Call, name: &str) -> Result<Response, Status> {
    let options = options(call)?;
    let mut binding = body::object_of(call, "v1", "Binding", options.field_validation)?;
    admission::review(&Attributes::of_subresource(call, &options), &mut binding, None).await?;
    let given = object_meta::text(&binding, "name");
    let name = match (name, given) {
        ("", "") => return Err(status::bad_request("name must be provided")),
        ("", given) => given.to_owned(),
        (name, given) if !given.is_empty() && given != name => {
            return Err(status::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({name})"
            )));
        }
        (name, _) => name.to_owned(),
    };
    let target = &binding["target"];
    let node = target["name"].as_str().unwrap_or_default();
    if !matches!(target["kind"].as_str(), None | Some("" | "Node")) || node.is_empty() {
        let detail = "Required value: a binding names the node its pod goes to".to_owned();
        return Err(status::invalid_one("", "Binding", &name, "FieldValueRequired", "target.name", detail));
    }
    let pods = call.api.0.resources.lookup("", "v1", "pods").ok_or_else(status::no_such_resource)?;
    let pod_call =
        call.derive(crate::request::RequestInfo { resource: "pods".into(), name: name.clone(), ..call.info.clone() }, pods);
    let now = names::timestamp(call.api.0.clock.now());
    update::modify(&pod_call, Part::Internal("binding"), &options, |pod| {
        bind(pod, &binding, node, &name, &now).map(|object| Change { object, manage: Manage::Update })
    })
    .await?;
    success(call)
}

fn bind(pod: &Value, binding: &Value, node: &str, name: &str, now: &str) -> Result<Value, Status> {
    let refuse = |why: String| Err(status::conflict("", "pods/binding", name, &why));
    let wanted = object_meta::text(binding, "uid");
    let uid = object_meta::text(pod, "uid");
    if !wanted.is_empty() && wanted != uid {
        return refuse(format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}"));
    }
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        return refuse(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    if let Some(present) = pod["spec"]["nodeName"].as_str().filter(|present| !present.is_empty()) {
        return refuse(format!("pod {name} is already assigned to node \"{present}\""));
    }
    if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
        return refuse(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let mut bound = unpinned(pod);
    bound["spec"]["nodeName"] = json!(node);
    for field in ["annotations", "labels"] {
        for (key, value) in binding["metadata"][field].as_object().into_iter().flatten() {
            bound["metadata"][field][key] = value.clone();
        }
    }
    let condition = json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now,
        "observedGeneration": pod["metadata"]["generation"],
    });
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let mut conditions: Vec<Value> = conditions.into_iter().filter(|condition| condition["type"] != "PodScheduled").collect();
    conditions.push(condition);
    bound["status"]["conditions"] = json!(conditions);
    // Where room was made for it, or was to be, is of no interest any more (`ClearingNominatedNodeNameAfterBinding`).
    if let Some(status) = bound["status"].as_object_mut() {
        status.remove("nominatedNodeName");
    }
    Ok(bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds_once() {
        let status = json!({"phase": "Pending", "nominatedNodeName": "m"});
        let pod = json!({"metadata": {"name": "a", "resourceVersion": "1"}, "spec": {}, "status": status});
        let bound = bind(&pod, &json!({}), "n", "a", "2026-01-01T00:00:00Z").unwrap();
        assert_eq!(bound["spec"]["nodeName"], "n");
        assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
        assert_eq!((&bound["status"]["phase"], bound["status"].get("nominatedNodeName")), (&json!("Pending"), None));
        assert!(bind(&bound, &json!({}), "m", "a", "").unwrap_err().message().contains("already assigned"));
    }
}
