//! ResourceQuota: what a namespace may use, counted in the same commit as what uses it.
//!
//! Upstream counts up at admission and recounts in a controller; here every write that changes usage, deletes included,
//! changes `status.used` of the quotas concerned with it, by compare-and-swap. As upstream, only some writes are refused:
//! the others, such as a status, tell of what has happened already. Follows
//! `staging/src/k8s.io/apiserver/pkg/admission/plugin/resourcequota`.

mod scopes; // Which objects a quota is about,
mod usage; // and what they count for.

use std::collections::{BTreeMap, BTreeSet};

use pharos_api::{quantity::Quantity, registry::Kind};
use pharos_store::{Op, Value as Stored};
use serde_json::{Value, json};

use super::{
    Attributes, Operation,
    pod_resources::{Amounts, amounts},
};
use crate::status::Status;
use usage::Countable;

/// The operations that charge an object, or the change of one, to the quotas of its namespace.
pub(crate) async fn charge(attributes: &Attributes<'_>, new: &Value, old: Option<&Value>) -> Result<Vec<Op>, Status> {
    let countable = Countable::of(attributes.kind);
    // Most objects count for the same as long as they live.
    if old.is_some() && countable == Countable::Other {
        return Ok(Vec::new());
    }
    let enforced = enforces(attributes, countable);
    let mut ops = Vec::new();
    for quota in quotas(attributes, new).await? {
        let after = usage::under(&quota, attributes.kind, new);
        let before = old.map(|old| usage::under(&quota, attributes.kind, old)).unwrap_or_default();
        if enforced && countable == Countable::Pod {
            must_specify(&quota, new).map_err(|why| attributes.forbidden(&why))?;
        }
        let delta = subtract(&after, &before);
        let changed = add(&quota, &delta, enforced).map_err(|why| attributes.forbidden(&why))?;
        if let Some(changed) = changed {
            ops.push(update(&quota, &changed)?);
        }
    }
    Ok(ops)
}

/// Whether the quotas of its namespace allow an object, without charging it.
pub(crate) async fn check(attributes: &Attributes<'_>, new: &Value, old: Option<&Value>) -> Result<(), Status> {
    charge(attributes, new, old).await.map(drop)
}

/// The operations that give back what an object used.
pub(crate) async fn credit(attributes: &Attributes<'_>, old: &Value) -> Result<Vec<Op>, Status> {
    let mut ops = Vec::new();
    for quota in quotas(attributes, old).await? {
        let delta = subtract(&Amounts::new(), &usage::under(&quota, attributes.kind, old));
        if let Ok(Some(changed)) = add(&quota, &delta, false) {
            ops.push(update(&quota, &changed)?);
        }
    }
    Ok(ops)
}

/// The quotas an object may be charged to. No quota is charged to itself.
async fn quotas(attributes: &Attributes<'_>, object: &Value) -> Result<Vec<Value>, Status> {
    let kind = attributes.kind;
    if !usage::counts(kind) {
        return Ok(Vec::new());
    }
    let mut quotas = attributes.api.0.storage.objects("", "resourcequotas", attributes.namespace).await?;
    if kind.group.is_empty() && kind.plural == "resourcequotas" {
        quotas.retain(|quota| quota["metadata"]["name"] != object["metadata"]["name"]);
    }
    Ok(quotas)
}

/// Whether a write is refused if it exceeds a quota (`Handles` of upstream's evaluators).
fn enforces(attributes: &Attributes<'_>, countable: Countable) -> bool {
    match (attributes.operation, countable, attributes.subresource) {
        (Operation::Create, ..) => true,
        (Operation::Update, Countable::Pod, subresource) => subresource == "resize",
        (Operation::Update, Countable::Service | Countable::Claim | Countable::DeviceClaim, subresource) => {
            subresource.is_empty()
        }
        _ => false,
    }
}

/// Replaces a quota, if it is still as it was read.
pub(crate) fn update(quota: &Value, changed: &Value) -> Result<Op, Status> {
    let name = quota["metadata"]["name"].as_str().unwrap_or_default();
    let namespace = quota["metadata"]["namespace"].as_str().unwrap_or_default();
    let revision = quota["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
    Ok(Op::update(format!("/registry/core/resourcequotas/{namespace}/{name}"), Stored::encode(changed)?, revision))
}

fn subtract(from: &Amounts, what: &Amounts) -> Amounts {
    let mut difference = from.clone();
    for (name, amount) in what {
        *difference.entry(name.clone()).or_insert(Quantity::ZERO) -= *amount;
    }
    difference.retain(|_, amount| !amount.is_zero());
    difference
}

/// The quota with more or less in use; `None` if it is not concerned, an error if it would be exceeded and that is refused.
fn add(quota: &Value, delta: &Amounts, enforced: bool) -> Result<Option<Value>, String> {
    let hard = amounts(&quota["status"]["hard"]);
    let mut used = amounts(&quota["status"]["used"]);
    let mut exceeded = Vec::new();
    let mut changed = false;
    for (name, amount) in delta.iter().filter(|(name, _)| hard.contains_key(*name)) {
        let before = used.get(name).copied().unwrap_or(Quantity::ZERO);
        let after = before + *amount;
        if enforced && amount.sign() > 0 && after > hard[name] {
            exceeded.push((name, *amount, before));
        }
        used.insert(name.clone(), if after.sign() < 0 { Quantity::ZERO } else { after });
        changed = true;
    }
    if !exceeded.is_empty() {
        let list = |of: &dyn Fn(&(&String, Quantity, Quantity)) -> String| {
            exceeded.iter().map(|item| format!("{}={}", item.0, of(item))).collect::<Vec<_>>().join(",")
        };
        return Err(format!(
            "exceeded quota: {}, requested: {}, used: {}, limited: {}",
            quota["metadata"]["name"].as_str().unwrap_or_default(),
            list(&|item| item.1.to_string()),
            list(&|item| item.2.to_string()),
            list(&|item| hard[item.0].to_string()),
        ));
    }
    // A count under way has perhaps not seen this write: a new revision makes it start over.
    let counting = quota["status"]["hard"] != quota["spec"]["hard"];
    let missed = counting && delta.keys().any(|name| quota["spec"]["hard"].get(name).is_some());
    if !changed && !missed {
        return Ok(None);
    }
    let mut quota = quota.clone();
    if changed {
        let used: BTreeMap<String, String> = used.iter().map(|(name, amount)| (name.clone(), amount.to_string())).collect();
        quota["status"]["used"] = json!(used);
    }
    Ok(Some(quota))
}

/// A quota on CPU or memory makes the containers of pods say what they need of it.
fn must_specify(quota: &Value, pod: &Value) -> Result<(), String> {
    if !scopes::contain(quota, Countable::Pod, pod) {
        return Ok(());
    }
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (quota_name, field, resource) in [
        ("cpu", "requests", "cpu"),
        ("memory", "requests", "memory"),
        ("requests.cpu", "requests", "cpu"),
        ("requests.memory", "requests", "memory"),
        ("limits.cpu", "limits", "cpu"),
        ("limits.memory", "limits", "memory"),
    ] {
        if quota["status"]["hard"].get(quota_name).is_none() {
            continue;
        }
        let lists = ["containers", "initContainers"];
        let containers = lists.iter().flat_map(|list| pod["spec"][*list].as_array().into_iter().flatten());
        let silent = containers.filter(|container| container["resources"][field].get(resource).is_none());
        let silent: BTreeSet<&str> = silent.filter_map(|container| container["name"].as_str()).collect();
        if !silent.is_empty() {
            missing.insert(quota_name, silent);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let one = |(resource, containers): (&str, BTreeSet<&str>)| {
        format!("{resource} for: {}", containers.into_iter().collect::<Vec<_>>().join(","))
    };
    let list: Vec<String> = missing.into_iter().map(one).collect();
    let name = quota["metadata"]["name"].as_str().unwrap_or_default();
    Err(format!("failed quota: {name}: must specify {}", list.join("; ")))
}

/// What is in use of everything a quota limits, out of the objects of its namespace.
pub(crate) fn recount<'a>(quota: &Value, objects: impl Iterator<Item = (&'a Kind, &'a Value)>) -> Value {
    let hard = amounts(&quota["spec"]["hard"]);
    let mut used: Amounts = hard.keys().map(|name| (name.clone(), Quantity::ZERO)).collect();
    for (kind, object) in objects {
        for (name, amount) in usage::under(quota, kind, object) {
            if let Some(total) = used.get_mut(&name) {
                *total += amount;
            }
        }
    }
    let mut quota = quota.clone();
    let used: BTreeMap<String, String> = used.iter().map(|(name, amount)| (name.clone(), amount.to_string())).collect();
    quota["status"] = json!({"hard": quota["spec"]["hard"], "used": used});
    quota
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(hard: Value) -> Value {
        json!({"metadata": {"name": "q"}, "spec": {"hard": hard}, "status": {"hard": hard, "used": {}}})
    }

    fn pods() -> &'static Kind {
        pharos_api::registry::lookup("", "v1", "pods").unwrap()
    }

    #[test]
    fn charges_until_full() {
        let pod = json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "1"}}}]}});
        let usage = usage::of(pods(), &pod);
        let mut quota = quota(json!({"pods": "2", "requests.cpu": "1500m"}));
        quota = add(&quota, &usage, true).unwrap().unwrap();
        assert_eq!(quota["status"]["used"], json!({"pods": "1", "requests.cpu": "1"}));
        let error = add(&quota, &usage, true).unwrap_err();
        assert_eq!(error, "exceeded quota: q, requested: requests.cpu=1, used: requests.cpu=1, limited: requests.cpu=1500m");
        // What has happened already is counted.
        let over = add(&quota, &usage, false).unwrap().unwrap();
        assert_eq!(over["status"]["used"], json!({"pods": "2", "requests.cpu": "2"}));
        let back = subtract(&Amounts::new(), &usage);
        assert_eq!(add(&quota, &back, false).unwrap().unwrap()["status"]["used"]["pods"], "0");
    }

    #[test]
    fn a_count_under_way_starts_over() {
        let usage = usage::of(pods(), &json!({"spec": {}}));
        let mut counting = quota(json!({"pods": "2"}));
        counting["status"] = json!({});
        assert_eq!(add(&counting, &usage, true), Ok(Some(counting.clone())));
        counting["spec"]["hard"] = json!({"secrets": "1"});
        assert_eq!(add(&counting, &usage, true), Ok(None));
    }

    #[test]
    fn containers_say_what_they_need() {
        let pod = json!({"spec": {"containers": [{"name": "b"}, {"name": "a", "resources": {"requests": {"cpu": "1"}}}],
            "initContainers": [{"name": "c", "resources": {"limits": {"memory": "1"}}}]}});
        let error = must_specify(&quota(json!({"requests.cpu": "1", "limits.memory": "1", "ephemeral-storage": "1"})), &pod);
        assert_eq!(error, Err("failed quota: q: must specify limits.memory for: a,b; requests.cpu for: b,c".to_owned()));
        let mut scoped = quota(json!({"requests.cpu": "1"}));
        scoped["spec"]["scopes"] = json!(["Terminating"]);
        assert_eq!(must_specify(&scoped, &pod), Ok(()));
    }

    #[test]
    fn recounts_what_is_there() {
        let pod = json!({"spec": {"containers": []}});
        let counted = recount(&quota(json!({"pods": "5", "secrets": "1"})), [(pods(), &pod)].into_iter());
        assert_eq!(counted["status"]["used"], json!({"pods": "1", "secrets": "0"}));
    }
}
