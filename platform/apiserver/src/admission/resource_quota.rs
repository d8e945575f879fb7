//! ResourceQuota: what a namespace may use, counted in the same commit as what uses it.
//!
//! Upstream counts up at admission and recounts in a controller; here every write that changes usage, deletes included,
//! changes `status.used` of the quotas concerned with it, by compare-and-swap. Follows
//! `staging/src/k8s.io/apiserver/pkg/admission/plugin/resourcequota` and `pkg/quota/v1/evaluator/core`.

use std::collections::BTreeMap;

use pharos_api::{quantity::Quantity, registry::Kind};
use pharos_store::{Op, Value as Stored};
use serde_json::{Value, json};

use super::{Attributes, limit_ranger::pod_sum};
use crate::status::Status;

type Amounts = BTreeMap<String, Quantity>;

/// The operations that charge an object, or the change of one, to the quotas of its namespace.
pub(crate) async fn charge(attributes: &Attributes<'_>, new: &Value, old: Option<&Value>) -> Result<Vec<Op>, Status> {
    if !counts(attributes) {
        return Ok(Vec::new());
    }
    let mut ops = Vec::new();
    for quota in attributes.api.0.storage.objects("", "resourcequotas", attributes.namespace).await? {
        let after = usage_under(&quota, attributes.kind, new);
        let before = old.map(|old| usage_under(&quota, attributes.kind, old)).unwrap_or_default();
        let delta = subtract(&after, &before);
        if old.is_none() {
            must_specify(attributes, &quota, new)?;
        }
        if let Some(changed) = add(&quota, &delta).map_err(|why| attributes.forbidden(&why))? {
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
    if !counts(attributes) {
        return Ok(Vec::new());
    }
    let mut ops = Vec::new();
    for quota in attributes.api.0.storage.objects("", "resourcequotas", attributes.namespace).await? {
        let delta = subtract(&Amounts::new(), &usage_under(&quota, attributes.kind, old));
        if let Some(changed) = add(&quota, &delta).map_err(|why| attributes.forbidden(&why))? {
            ops.push(update(&quota, &changed)?);
        }
    }
    Ok(ops)
}

/// Whether a write may concern a quota at all. Quotas themselves count when they are counted as objects, which is rare
/// enough to be left to the recount.
fn counts(attributes: &Attributes<'_>) -> bool {
    let kind = attributes.kind;
    kind.namespaced && !matches!(kind.plural.as_ref(), "events" | "leases" | "resourcequotas" | "endpoints" | "endpointslices")
}

/// Replaces a quota, if it is still as it was read.
pub(crate) fn update(quota: &Value, changed: &Value) -> Result<Op, Status> {
    let name = quota["metadata"]["name"].as_str().unwrap_or_default();
    let namespace = quota["metadata"]["namespace"].as_str().unwrap_or_default();
    let revision = quota["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
    Ok(Op::update(format!("/registry/core/resourcequotas/{namespace}/{name}"), Stored::encode(changed)?, revision))
}

fn amounts(value: &Value) -> Amounts {
    value
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, amount)| Some((name.clone(), Quantity::from_value(amount).ok()?)))
        .collect()
}

fn subtract(from: &Amounts, what: &Amounts) -> Amounts {
    let mut difference = from.clone();
    for (name, amount) in what {
        *difference.entry(name.clone()).or_insert(Quantity::ZERO) -= *amount;
    }
    difference.retain(|_, amount| !amount.is_zero());
    difference
}

/// The quota with more or less in use; `None` if it is not concerned, an error if it is exceeded.
fn add(quota: &Value, delta: &Amounts) -> Result<Option<Value>, String> {
    let hard = amounts(&quota["status"]["hard"]);
    let mut used = amounts(&quota["status"]["used"]);
    let mut exceeded = Vec::new();
    let mut changed = false;
    for (name, amount) in delta.iter().filter(|(name, _)| hard.contains_key(*name)) {
        let before = used.get(name).copied().unwrap_or(Quantity::ZERO);
        let after = before + *amount;
        if amount.sign() > 0 && after > hard[name] {
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
    if !changed {
        return Ok(None);
    }
    let mut quota = quota.clone();
    let used: BTreeMap<String, String> = used.iter().map(|(name, amount)| (name.clone(), amount.to_string())).collect();
    quota["status"]["used"] = json!(used);
    Ok(Some(quota))
}

/// A quota on compute resources makes pods say what they need.
fn must_specify(attributes: &Attributes<'_>, quota: &Value, pod: &Value) -> Result<(), Status> {
    let pods = attributes.kind.group.is_empty() && attributes.kind.plural == "pods";
    if !pods || !in_scope(quota, pod) {
        return Ok(());
    }
    let hard = amounts(&quota["status"]["hard"]);
    let mut missing: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (quota_name, field, resource) in [
        ("cpu", "requests", "cpu"),
        ("memory", "requests", "memory"),
        ("requests.cpu", "requests", "cpu"),
        ("requests.memory", "requests", "memory"),
        ("limits.cpu", "limits", "cpu"),
        ("limits.memory", "limits", "memory"),
    ] {
        if !hard.contains_key(quota_name) {
            continue;
        }
        for list in ["containers", "initContainers"] {
            for container in pod["spec"][list].as_array().into_iter().flatten() {
                if container["resources"][field].get(resource).is_none() {
                    missing.entry(quota_name).or_default().push(container["name"].as_str().unwrap_or_default());
                }
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let list: Vec<String> =
        missing.iter().map(|(resource, containers)| format!("{resource} for: {}", containers.join(","))).collect();
    let name = quota["metadata"]["name"].as_str().unwrap_or_default();
    Err(attributes.forbidden(&format!("failed quota: {name}: must specify {}", list.join("; "))))
}

fn usage_under(quota: &Value, kind: &Kind, object: &Value) -> Amounts {
    let pod = kind.group.is_empty() && kind.plural == "pods";
    let scoped =
        quota["spec"]["scopes"].as_array().is_some_and(|scopes| !scopes.is_empty()) || quota["spec"]["scopeSelector"].is_object();
    match (pod, scoped) {
        (false, true) => Amounts::new(), // Scopes select pods only.
        (true, true) if !in_scope(quota, object) => Amounts::new(),
        _ => usage(kind, object),
    }
}

/// What an object counts for, by every name a quota may use.
fn usage(kind: &Kind, object: &Value) -> Amounts {
    let one = Quantity::new(1, pharos_api::quantity::Format::DecimalSi);
    let count =
        if kind.group.is_empty() { format!("count/{}", kind.plural) } else { format!("count/{}.{}", kind.plural, kind.group) };
    let mut usage = Amounts::from([(count, one)]);
    if !kind.group.is_empty() {
        return usage;
    }
    match kind.plural.as_ref() {
        "pods" => pod_usage(object, one, &mut usage),
        "services" => {
            usage.insert("services".into(), one);
            let ports = object["spec"]["ports"].as_array().map_or(0, Vec::len) as i64;
            let ports = Quantity::new(ports, pharos_api::quantity::Format::DecimalSi);
            match object["spec"]["type"].as_str() {
                Some("NodePort") => {
                    usage.insert("services.nodeports".into(), ports);
                }
                Some("LoadBalancer") => {
                    usage.insert("services.loadbalancers".into(), one);
                    if object["spec"]["allocateLoadBalancerNodePorts"] != false {
                        usage.insert("services.nodeports".into(), ports);
                    }
                }
                _ => {}
            }
        }
        "persistentvolumeclaims" => {
            usage.insert("persistentvolumeclaims".into(), one);
            let storage = amounts(&object["spec"]["resources"]["requests"]).get("storage").copied();
            let class = object["spec"]["storageClassName"].as_str().filter(|class| !class.is_empty());
            if let Some(class) = class {
                usage.insert(format!("{class}.storageclass.storage.k8s.io/persistentvolumeclaims"), one);
            }
            if let Some(storage) = storage {
                usage.insert("requests.storage".into(), storage);
                if let Some(class) = class {
                    usage.insert(format!("{class}.storageclass.storage.k8s.io/requests.storage"), storage);
                }
            }
        }
        "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas" => {
            usage.insert(kind.plural.to_string(), one);
        }
        _ => {}
    }
    usage
}

fn pod_usage(pod: &Value, one: Quantity, usage: &mut Amounts) {
    // A pod that has ended, or whose time to end is over, uses only its place among the objects.
    if matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        return;
    }
    usage.insert("pods".into(), one);
    for (resource, amount) in pod_sum(pod, "requests") {
        if matches!(resource.as_str(), "cpu" | "memory" | "ephemeral-storage") || resource.starts_with("hugepages-") {
            usage.insert(resource.clone(), amount);
        }
        usage.insert(format!("requests.{resource}"), amount);
    }
    for (resource, amount) in pod_sum(pod, "limits") {
        usage.insert(format!("limits.{resource}"), amount);
    }
}

/// Whether a quota's scopes take a pod in.
fn in_scope(quota: &Value, pod: &Value) -> bool {
    let scopes = quota["spec"]["scopes"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let selected = quota["spec"]["scopeSelector"]["matchExpressions"].as_array().into_iter().flatten();
    scopes.into_iter().all(|scope| holds(scope, pod))
        && selected.into_iter().all(|expression| {
            let scope = expression["scopeName"].as_str().unwrap_or_default();
            if scope != "PriorityClass" {
                return holds(scope, pod);
            }
            let class = pod["spec"]["priorityClassName"].as_str().filter(|class| !class.is_empty());
            let named = || {
                let values = expression["values"].as_array();
                class.is_some_and(|class| values.is_some_and(|values| values.iter().any(|value| value == class)))
            };
            match expression["operator"].as_str() {
                Some("In") => named(),
                Some("NotIn") => !named(),
                Some("Exists") => class.is_some(),
                Some("DoesNotExist") => class.is_none(),
                _ => false,
            }
        })
}

fn holds(scope: &str, pod: &Value) -> bool {
    let best_effort = || crate::strategy::pod::qos_class(pod) == "BestEffort";
    let terminating = || pod["spec"]["activeDeadlineSeconds"].as_i64().is_some();
    match scope {
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "Terminating" => terminating(),
        "NotTerminating" => !terminating(),
        "PriorityClass" => pod["spec"]["priorityClassName"].as_str().is_some_and(|class| !class.is_empty()),
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    }
}

fn crosses_namespaces(pod: &Value) -> bool {
    let affinity = &pod["spec"]["affinity"];
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let required = affinity[*kind]["requiredDuringSchedulingIgnoredDuringExecution"].as_array();
        let preferred = affinity[*kind]["preferredDuringSchedulingIgnoredDuringExecution"].as_array();
        let terms = required.into_iter().flatten();
        let preferred = preferred.into_iter().flatten().map(|term| &term["podAffinityTerm"]);
        terms.chain(preferred).any(|term| {
            term["namespaces"].as_array().is_some_and(|names| !names.is_empty()) || term["namespaceSelector"].is_object()
        })
    })
}

/// What is in use of everything a quota limits, out of the objects of its namespace.
pub(crate) fn recount<'a>(quota: &Value, objects: impl Iterator<Item = (&'a Kind, &'a Value)>) -> Value {
    let hard = amounts(&quota["spec"]["hard"]);
    let mut used: Amounts = hard.keys().map(|name| (name.clone(), Quantity::ZERO)).collect();
    for (kind, object) in objects {
        for (name, amount) in usage_under(quota, kind, object) {
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

    #[test]
    fn charges_until_full() {
        let pods = pharos_api::registry::lookup("", "v1", "pods").unwrap();
        let pod = json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "1"}}}]}});
        let mut quota = quota(json!({"pods": "2", "requests.cpu": "1500m"}));
        quota = add(&quota, &usage(pods, &pod)).unwrap().unwrap();
        assert_eq!(quota["status"]["used"], json!({"pods": "1", "requests.cpu": "1"}));
        let error = add(&quota, &usage(pods, &pod)).unwrap_err();
        assert_eq!(error, "exceeded quota: q, requested: requests.cpu=1, used: requests.cpu=1, limited: requests.cpu=1500m");
        let back = subtract(&Amounts::new(), &usage(pods, &pod));
        assert_eq!(add(&quota, &back).unwrap().unwrap()["status"]["used"]["pods"], "0");
    }

    #[test]
    fn recounts_what_is_there() {
        let pods = pharos_api::registry::lookup("", "v1", "pods").unwrap();
        let pod = json!({"spec": {"containers": []}});
        let counted = recount(&quota(json!({"pods": "5", "secrets": "1"})), [(&**pods, &pod)].into_iter());
        assert_eq!(counted["status"]["used"], json!({"pods": "1", "secrets": "0"}));
    }
}
