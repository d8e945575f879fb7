//! Evictions: deletes of pods that respect disruption budgets.
//!
//! Follows `pkg/registry/core/pod/storage/eviction.go`.

use pharos_store::{Error, Op};
use pharos_transport::Response;
use serde_json::{Value, json};

use super::{options, success, unpinned};
use crate::{
    admission::{self, Attributes},
    body,
    call::Call,
    convert, names,
    options::{DeleteOptions, WriteOptions},
    status::{self, Status},
    storage,
    verbs::{
        create::Written,
        delete, object_meta,
        update::{self, Change, Manage, Part},
    },
};

/// How often it is tried again when others change the budget or the pod meanwhile (upstream's `EvictionsRetry`).
const TRIES: usize = 20;
/// With more evictions than these that the controller has not confirmed, a budget refuses others (`MaxDisruptedPodSize`).
const MAX_DISRUPTED_PODS: usize = 2000;

pub(super) async fn create(call: &Call) -> Result<Response, Status> {
    let write = options(call)?;
    let mut eviction = body::object_of(call, "policy/v1", "Eviction", write.field_validation)?;
    let attributes = Attributes::of_subresource(call, &write);
    crate::authz_hooks::restrict_node(&attributes, Some(&eviction), None)?;
    admission::review(&attributes, &mut eviction, None).await?;
    let given = object_meta::text(&eviction, "name");
    let name = call.info.name.as_str();
    if !given.is_empty() && given != name {
        return Err(status::bad_request("name in URL does not match name in Eviction object"));
    }
    let mut delete_options = DeleteOptions::parse(&call.query, eviction.get("deleteOptions").filter(|o| o.is_object()))?;
    delete_options.dry_run |= write.dry_run;
    let pinned = delete_options.resource_version.is_some();
    for tries_left in (0..TRIES).rev() {
        let entry = call.api.0.storage.get(&call.kind, &call.info.namespace, name).await?;
        let entry = entry.ok_or_else(|| call.not_found(name))?;
        let pod = storage::parse(&entry.bytes)?;
        let leave = match needs_budget(&pod) {
            true => charge_budget(call, &pod, delete_options.dry_run).await?,
            // Once it is ready, a budget may guard it.
            false if is_pending(&pod) => Leave::WhileItIsSo { budget: None },
            false => Leave::Given,
        };
        let mut options = delete_options.clone();
        // What was decided was decided about this pod, not about another of its name.
        options.uid.get_or_insert_with(|| object_meta::text(&pod, "uid").to_owned());
        if matches!(leave, Leave::WhileItIsSo { .. }) && !pinned {
            options.resource_version = Some(object_meta::text(&pod, "resourceVersion").to_owned());
        }
        match (mark_and_delete(call, &write, options).await, leave) {
            (Ok(()), _) => return success(call),
            (Err(status), Leave::WhileItIsSo { budget }) if status.reason() == "Conflict" && !pinned => match budget {
                Some(budget) => return Err(still_processing(&budget)),
                None if tries_left == 0 => return Err(status),
                None => {}
            },
            (Err(status), _) => return Err(status),
        }
    }
    Err(call.not_found(name))
}

/// What nothing is in the way of.
enum Leave {
    /// The eviction, whatever becomes of the pod.
    Given,
    /// The eviction of the pod as it is: it is not guarded only because it is not ready, by this budget if any.
    WhileItIsSo { budget: Option<String> },
}

/// A pod that has ended, does not run yet or is going anyway needs nobody's leave.
fn needs_budget(pod: &Value) -> bool {
    !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed" | "Pending")) && !is_deleting(pod)
}

fn is_pending(pod: &Value) -> bool {
    pod["status"]["phase"] == "Pending" && !is_deleting(pod)
}

fn is_deleting(pod: &Value) -> bool {
    !pod["metadata"]["deletionTimestamp"].is_null()
}

fn is_ready(pod: &Value) -> bool {
    pod["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Takes one disruption from the pod's budget, unless the pod is none that counts there.
async fn charge_budget(call: &Call, pod: &Value, dry_run: bool) -> Result<Leave, Status> {
    let namespace = &call.info.namespace;
    let api = &call.api.0;
    let kind = api.resources.lookup("policy", "v1", "poddisruptionbudgets").ok_or_else(status::no_such_resource)?;
    let mut name = String::new();
    for _ in 0..TRIES {
        let budgets = api.storage.objects("policy", "poddisruptionbudgets", namespace).await?;
        let matching: Vec<&Value> = budgets.iter().filter(|budget| matches(budget, pod)).collect();
        let budget = match matching.as_slice() {
            [] => return Ok(Leave::Given),
            [budget] => *budget,
            _ => {
                let message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                return Err(Status::new(500, "", message));
            }
        };
        name = object_meta::text(budget, "name").to_owned();
        if !is_ready(pod) && unhealthy_may_go(budget) {
            return Ok(Leave::WhileItIsSo { budget: Some(name) });
        }
        let changed = decrement(budget, &call.info.name, &names::timestamp(api.clock.now()))?;
        if dry_run {
            return Ok(Leave::Given);
        }
        let revision = object_meta::text(budget, "resourceVersion").parse().unwrap_or(0);
        let value = pharos_store::Value::encode(&convert::to_storage(&call.api, &kind, changed).await?)?;
        match api.storage.commit(vec![Op::update(kind.key(namespace, &name), value, revision)]).await {
            Ok(_) => return Ok(Leave::Given),
            Err(Error::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(status::timeout(format!("couldn't update PodDisruptionBudget {name:?} due to conflicts")).with_retry_after(10))
}

fn matches(budget: &Value, pod: &Value) -> bool {
    let selector = &budget["spec"]["selector"];
    if !selector.is_object() {
        return false;
    }
    let labels = pod["metadata"]["labels"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect();
    crate::authz::rbac::selector_matches(selector, &labels)
}

fn unhealthy_may_go(budget: &Value) -> bool {
    let (current, desired) =
        (budget["status"]["currentHealthy"].as_i64().unwrap_or(0), budget["status"]["desiredHealthy"].as_i64().unwrap_or(0));
    match budget["spec"]["unhealthyPodEvictionPolicy"].as_str() {
        Some("AlwaysAllow") => true,
        _ => current >= desired && desired > 0,
    }
}

fn refused(cause: String, retry_after_seconds: u64) -> Status {
    status::too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.", retry_after_seconds)
        .with_causes(vec![json!({"reason": "DisruptionBudget", "message": cause})])
}

fn still_processing(budget: &str) -> Status {
    refused(format!("The disruption budget {budget} is still being processed by the server."), 10)
}

fn decrement(budget: &Value, pod: &str, now: &str) -> Result<Value, Status> {
    let name = object_meta::text(budget, "name");
    let status = &budget["status"];
    let forbidden = |why: &str| Err(status::forbidden("policy", "poddisruptionbudget", name, why));
    let number = |field: &str| status[field].as_i64().unwrap_or(0);
    if number("observedGeneration") < budget["metadata"]["generation"].as_i64().unwrap_or(0) {
        return Err(still_processing(name));
    }
    let allowed = number("disruptionsAllowed");
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    if status["disruptedPods"].as_object().is_some_and(|pods| pods.len() > MAX_DISRUPTED_PODS) {
        return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if allowed == 0 {
        let (healthy, desired) = (number("currentHealthy"), number("desiredHealthy"));
        return Err(refused(format!("The disruption budget {name} needs {desired} healthy pods and has {healthy} currently"), 0));
    }
    let mut changed = budget.clone();
    changed["status"]["disruptionsAllowed"] = json!(allowed - 1);
    changed["status"]["disruptedPods"][pod] = json!(now);
    if allowed == 1 {
        let condition = json!({
            "type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
            "observedGeneration": number("observedGeneration"),
        });
        set_condition(&mut changed, condition, now);
    }
    Ok(changed)
}

/// Sets a condition in its place. Its time is that of the last change of its status.
fn set_condition(object: &mut Value, mut condition: Value, now: &str) {
    let mut conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let before = conditions.iter_mut().find(|before| before["type"] == condition["type"]);
    let since = before.as_ref().filter(|before| before["status"] == condition["status"]);
    condition["lastTransitionTime"] = since.map_or_else(|| json!(now), |before| before["lastTransitionTime"].clone());
    match before {
        Some(before) => *before = condition,
        None => conditions.push(condition),
    }
    object["status"]["conditions"] = json!(conditions);
}

/// Says on the pod why it goes, and deletes it.
async fn mark_and_delete(call: &Call, write: &WriteOptions, mut options: DeleteOptions) -> Result<(), Status> {
    if !options.dry_run {
        let marked = mark(call, write, &options).await?;
        // The mark is the one change that may come between.
        options.resource_version = options.resource_version.map(|_| object_meta::text(&marked, "resourceVersion").to_owned());
    }
    delete::delete_object(call, &options).await.map(drop)
}

/// The pod with the mark.
async fn mark(call: &Call, write: &WriteOptions, preconditions: &DeleteOptions) -> Result<Value, Status> {
    let now = names::timestamp(call.api.0.clock.now());
    let marked = update::modify(call, Part::Internal("eviction"), write, |pod| {
        check(pod, preconditions)?;
        let mut object = unpinned(pod);
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting", "lastProbeTime": null,
            "observedGeneration": pod["metadata"]["generation"],
        });
        set_condition(&mut object, condition, &now);
        Ok(Change { object, manage: Manage::Update })
    })
    .await?;
    match marked {
        Written::Stored(bytes) => storage::parse(&bytes),
        Written::DryRun(object) => Ok(object),
    }
}

/// Upstream's texts for a pod that is another than was meant, or in another state.
fn check(pod: &Value, wanted: &DeleteOptions) -> Result<(), Status> {
    let refuse = |why: String| Err(status::conflict("", "Pod", object_meta::text(pod, "name"), &why));
    let (uid, version) = (object_meta::text(pod, "uid"), object_meta::text(pod, "resourceVersion"));
    if let Some(wanted) = wanted.uid.as_deref().filter(|wanted| !wanted.is_empty() && *wanted != uid) {
        return refuse(format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The object might have been deleted \
             and then recreated"
        ));
    }
    if let Some(wanted) = wanted.resource_version.as_deref().filter(|wanted| !wanted.is_empty() && *wanted != version) {
        return refuse(format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({version}). The \
             object might have been modified"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_spent() {
        let budget = json!({"metadata": {"name": "b", "generation": 2}, "status": {"disruptionsAllowed": 2,
            "observedGeneration": 2, "conditions": [{"type": "DisruptionAllowed", "status": "True",
            "reason": "SufficientPods", "lastTransitionTime": "before"}]}});
        let once = decrement(&budget, "p", "t").unwrap();
        assert_eq!(once["status"]["disruptedPods"]["p"], "t");
        assert_eq!(once["status"]["conditions"], budget["status"]["conditions"]);
        let twice = decrement(&once, "q", "t").unwrap();
        let condition = &twice["status"]["conditions"][0];
        assert_eq!((&condition["reason"], &condition["lastTransitionTime"]), (&json!("InsufficientPods"), &json!("t")));
        assert_eq!(twice["status"]["conditions"].as_array().unwrap().len(), 1);
        assert_eq!(decrement(&twice, "r", "t").unwrap_err().code(), 429);
    }

    #[test]
    fn what_a_budget_can_not_be_spent_for() {
        let many: serde_json::Map<_, _> = (0..=MAX_DISRUPTED_PODS).map(|n| (n.to_string(), json!("t"))).collect();
        for (status, code, text) in [
            (json!({"disruptionsAllowed": 1}), 429, "Cannot evict pod"),
            (json!({"disruptionsAllowed": 0, "observedGeneration": 1}), 429, "Cannot evict pod"),
            (json!({"disruptionsAllowed": -1, "observedGeneration": 1}), 403, "pdb disruptions allowed is negative"),
            (json!({"disruptionsAllowed": 1, "observedGeneration": 1, "disruptedPods": many}), 403, "map too big"),
        ] {
            let refused =
                decrement(&json!({"metadata": {"name": "b", "generation": 1}, "status": status}), "p", "t").unwrap_err();
            assert_eq!(refused.code(), code);
            assert!(refused.message().contains(text), "{}", refused.message());
        }
    }

    #[test]
    fn whose_leave_a_pod_needs() {
        let going = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        for (phase, metadata, needs, pending) in [
            ("Running", json!({}), true, false),
            ("Unknown", json!({}), true, false),
            ("Pending", json!({}), false, true),
            ("Succeeded", json!({}), false, false),
            ("Running", going.clone(), false, false),
            ("Pending", going, false, false),
        ] {
            let pod = json!({"metadata": metadata, "status": {"phase": phase}});
            assert_eq!((needs_budget(&pod), is_pending(&pod)), (needs, pending), "{pod}");
        }
        let budget = |policy: &str, current: i64| json!({"spec": {"unhealthyPodEvictionPolicy": policy}, "status": {"currentHealthy": current, "desiredHealthy": 1}});
        for (policy, current, expected) in
            [("AlwaysAllow", 0, true), ("IfHealthyBudget", 0, false), ("IfHealthyBudget", 1, true), ("", 1, true)]
        {
            assert_eq!(unhealthy_may_go(&budget(policy, current)), expected, "{policy} {current}");
        }
    }
}
