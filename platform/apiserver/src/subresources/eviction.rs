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
    options::DeleteOptions,
    status::{self, Status},
    storage,
    verbs::{
        delete, object_meta,
        update::{self, Change, Manage, Part},
    },
};

/// How often a budget that others change meanwhile is charged anew (upstream's `EvictionsRetry`).
const BUDGET_TRIES: usize = 20;

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
    let entry = call.api.0.storage.get(&call.kind, &call.info.namespace, name).await?;
    let entry = entry.ok_or_else(|| call.not_found(name))?;
    let pod = storage::parse(&entry.bytes)?;
    if needs_budget(&pod) {
        charge_budget(call, &pod, delete_options.dry_run).await?;
        if !delete_options.dry_run {
            mark(call, &write).await?;
        }
    }
    // What was decided was decided about this pod, not about another of its name.
    delete_options.uid.get_or_insert_with(|| object_meta::text(&pod, "uid").to_owned());
    delete::delete_object(call, &delete_options).await?;
    success(call)
}

/// A pod that has ended, does not run yet or is going anyway needs nobody's leave.
fn needs_budget(pod: &Value) -> bool {
    !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed" | "Pending"))
        && pod["metadata"]["deletionTimestamp"].is_null()
}

fn is_ready(pod: &Value) -> bool {
    pod["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Takes one disruption from the pod's budget.
async fn charge_budget(call: &Call, pod: &Value, dry_run: bool) -> Result<(), Status> {
    let namespace = &call.info.namespace;
    let api = &call.api.0;
    let kind = api.resources.lookup("policy", "v1", "poddisruptionbudgets").ok_or_else(status::no_such_resource)?;
    for _ in 0..BUDGET_TRIES {
        let budgets = api.storage.objects("policy", "poddisruptionbudgets", namespace).await?;
        let matching: Vec<&Value> = budgets.iter().filter(|budget| matches(budget, pod)).collect();
        let budget = match matching.as_slice() {
            [] => return Ok(()),
            [budget] => *budget,
            _ => {
                return Err(status::internal(
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
                ));
            }
        };
        if !is_ready(pod) && unhealthy_may_go(budget) {
            return Ok(());
        }
        let name = object_meta::text(budget, "name");
        let changed = decrement(budget, &call.info.name, &names::timestamp(api.clock.now()))?;
        if dry_run {
            return Ok(());
        }
        let revision = object_meta::text(budget, "resourceVersion").parse().unwrap_or(0);
        let value = pharos_store::Value::encode(&convert::to_storage(&call.api, &kind, changed).await?)?;
        match api.storage.commit(vec![Op::update(kind.key(namespace, name), value, revision)]).await {
            Ok(_) => return Ok(()),
            Err(Error::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(status::too_many_requests("couldn't update PodDisruptionBudget due to conflicts", 10))
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

fn decrement(budget: &Value, pod: &str, now: &str) -> Result<Value, Status> {
    let refuse = |cause: String, seconds: u64| {
        status::too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.", seconds)
            .with_causes(vec![json!({"reason": "DisruptionBudget", "message": cause})])
    };
    let name = object_meta::text(budget, "name");
    let observed = budget["status"]["observedGeneration"].as_i64().unwrap_or(0);
    if observed < budget["metadata"]["generation"].as_i64().unwrap_or(0) {
        return Err(refuse(format!("The disruption budget {name} is still being processed by the server."), 10));
    }
    let allowed = budget["status"]["disruptionsAllowed"].as_i64().unwrap_or(0);
    if allowed <= 0 {
        let healthy = budget["status"]["currentHealthy"].as_i64().unwrap_or(0);
        let desired = budget["status"]["desiredHealthy"].as_i64().unwrap_or(0);
        return Err(refuse(format!("The disruption budget {name} needs {desired} healthy pods and has {healthy} currently"), 0));
    }
    let mut changed = budget.clone();
    changed["status"]["disruptionsAllowed"] = json!(allowed - 1);
    changed["status"]["disruptedPods"][pod] = json!(now);
    Ok(changed)
}

/// Says on the pod why it goes.
async fn mark(call: &Call, options: &crate::options::WriteOptions) -> Result<(), Status> {
    let now = names::timestamp(call.api.0.clock.now());
    let marked = update::modify(call, Part::Internal("eviction"), options, |pod| {
        let mut object = unpinned(pod);
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let mut conditions: Vec<Value> =
            conditions.into_iter().filter(|condition| condition["type"] != "DisruptionTarget").collect();
        conditions.push(json!({
            "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting", "lastProbeTime": null, "lastTransitionTime": now,
        }));
        object["status"]["conditions"] = json!(conditions);
        Ok(Change { object, manage: Manage::Update })
    })
    .await;
    match marked {
        Ok(_) => Ok(()),
        Err(status) if status.is_not_found() => Ok(()), // Gone already: the delete will say so.
        Err(status) => Err(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_spent() {
        let budget = json!({"metadata": {"name": "b"}, "status": {"disruptionsAllowed": 1}});
        let once = decrement(&budget, "p", "t").unwrap();
        assert_eq!(once["status"]["disruptedPods"]["p"], "t");
        assert_eq!(decrement(&once, "q", "t").unwrap_err().code(), 429);
    }
}
