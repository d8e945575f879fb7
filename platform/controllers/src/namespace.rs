//! `namespace`: empties a namespace that is being deleted, pods first, then lets it go (`pkg/controller/namespace/deletion`).
//!
//! Differs: a namespace whose content is not gone yet is looked at again when one of its pods goes, and else after half the
//! time that the content is given, as upstream.

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{Namespace, NamespaceCondition, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, ListParams, PostParams},
    core::PartialObjectMeta,
};
use pharos_client::{Event, Key, Next, is_conflict, is_not_found, status_of};

use crate::{
    Result,
    discovery::{Served, discover},
    env::Env,
    error::{During as _, gone_is_fine},
    owners::is_deleting,
};

/// How long content with finalizers is given (`finalizerEstimateSeconds`).
const FINALIZERS_ESTIMATE: i64 = 15;
const FINALIZER: &str = "kubernetes";

pub(crate) fn start(env: &Env) {
    let queue = env.queue("namespace");
    let put = queue.clone();
    env.informers.namespaces.on_event(move |event| {
        if !matches!(event, Event::Deleted(_)) && is_deleting(&**event.object()) {
            put.add(Key::of(&**event.object()));
        }
    });
    let (put, namespaces) = (queue.clone(), env.informers.namespaces.clone());
    env.informers.pods.on_event(move |event| {
        if let Event::Deleted(pod) = event {
            let key = Key::cluster(pod.metadata.namespace.as_deref().unwrap_or_default());
            if namespaces.get(&key).is_some_and(|namespace| is_deleting(&*namespace)) {
                put.add(key);
            }
        }
    });
    let (env_, client) = (env.clone(), env.client("namespace-controller"));
    queue.spawn_workers(&env.ctx, 5, move |key| {
        let (env, client) = (env_.clone(), client.clone());
        async move { sync(&env, client, &key).await }
    });
}

/// What one pass over the content found.
#[derive(Default)]
struct Findings {
    discovery_failure: Option<String>,
    content_failures: Vec<String>,
    /// Resource, its group and how many objects of it remain.
    remaining: Vec<(String, String, usize)>,
    /// Finalizer and how many objects carry it.
    finalizers: std::collections::BTreeMap<String, usize>,
    estimate_seconds: i64,
}

async fn sync(env: &Env, client: Client, key: &Key) -> Result<Next> {
    let Some(cached) = env.informers.namespaces.get(key).filter(|namespace| is_deleting(&**namespace)) else {
        return Ok(Next::Done);
    };
    let api: Api<Namespace> = Api::all(client.clone());
    let Some(live) = gone_is_fine(api.get(&key.name).await).during("get namespace", key)? else { return Ok(Next::Done) };
    if live.metadata.uid != cached.metadata.uid || !is_deleting(&live) {
        return Ok(Next::Done);
    }
    let held = live.spec.iter().flat_map(|spec| spec.finalizers.iter().flatten()).any(|f| f == FINALIZER);
    if !held {
        return Ok(Next::Done); // Somebody else's finalizers are waited for.
    }
    let findings = empty(&client, key).await?;
    let conditions = conditions(&live, &findings, &env.now());
    let mut live = live;
    if live.status.as_ref().and_then(|s| s.conditions.as_ref()) != Some(&conditions)
        || live.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Terminating")
    {
        let status = live.status.get_or_insert_default();
        status.phase = Some("Terminating".into());
        status.conditions = Some(conditions);
        match api.replace_status(&key.name, &PostParams::default(), &live).await {
            Ok(updated) => live = updated,
            Err(error) if is_not_found(&error) => return Ok(Next::Done),
            Err(error) => return Err(error).during("update the status of namespace", key),
        }
    }
    if let Some(first) = findings.content_failures.first().or(findings.discovery_failure.as_ref()) {
        return Err(crate::Error::refused("empty namespace", key, first.clone()));
    }
    if !findings.remaining.is_empty() {
        let wait = u64::try_from(findings.estimate_seconds / 2 + 1).unwrap_or(1);
        return Ok(Next::After(Duration::from_secs(wait)));
    }
    if let Some(finalizers) = live.spec.get_or_insert_default().finalizers.as_mut() {
        finalizers.retain(|finalizer| finalizer != FINALIZER);
    }
    match api.replace_subresource("finalize", &key.name, &PostParams::default(), &live).await {
        Err(error) if is_not_found(&error) => Ok(Next::Done),
        Err(error) if is_conflict(&error) => Ok(Next::After(Duration::from_millis(50))),
        result => result.during("finalize namespace", key).map(|_| Next::Done),
    }
}

/// Deletes what can be deleted and counts what is left: pods alone while there are any, then the rest.
async fn empty(client: &Client, key: &Key) -> Result<Findings> {
    let mut findings = Findings::default();
    let found = discover(client).await.during("discover what is in namespace", key)?;
    if !found.stale.is_empty() {
        findings.discovery_failure = Some(format!("Discovery failed for some groups: {}", found.stale.join(", ")));
    }
    let mut resources: Vec<Served> =
        found.resources.into_iter().filter(|r| r.namespaced && r.can("delete") && r.can("list")).collect();
    resources.sort_by_key(|r| r.name() != "pods");
    for resource in &resources {
        if let Err(error) = empty_of(client, &key.name, resource, &mut findings).await {
            let message = status_of(&error).map_or_else(|| error.to_string(), |s| s.message.clone());
            findings.content_failures.push(format!("{}: {message}", resource.name()));
        }
        if resource.name() == "pods" && !(findings.remaining.is_empty() && findings.content_failures.is_empty()) {
            findings.estimate_seconds = findings.estimate_seconds.max(pods_estimate(client, &key.name).await.unwrap_or(0));
            break;
        }
    }
    Ok(findings)
}

async fn empty_of(client: &Client, namespace: &str, resource: &Served, findings: &mut Findings) -> kube::Result<()> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource.api_resource());
    let ignore = |error: &kube::Error| status_of(error).is_some_and(|s| matches!(s.code, 404 | 405));
    let listed = match api.list_metadata(&ListParams::default()).await {
        Err(error) if ignore(&error) => return Ok(()),
        result => result?.items,
    };
    if listed.is_empty() {
        return Ok(());
    }
    let background = DeleteParams::background();
    if resource.can("deletecollection") {
        match api.delete_collection(&background, &ListParams::default()).await {
            Err(error) if ignore(&error) => {}
            result => _ = result?,
        }
    } else {
        for name in listed.iter().filter_map(|object| object.metadata.name.as_deref()) {
            gone_is_fine(api.delete(name, &background).await)?;
        }
    }
    let left = match api.list_metadata(&ListParams::default()).await {
        Err(error) if ignore(&error) => return Ok(()),
        result => result?.items,
    };
    count(findings, resource, &left);
    Ok(())
}

fn count(findings: &mut Findings, resource: &Served, left: &[PartialObjectMeta<DynamicObject>]) {
    if left.is_empty() {
        return;
    }
    findings.remaining.push((resource.plural.clone(), resource.group.clone(), left.len()));
    for finalizer in left.iter().flat_map(|object| object.metadata.finalizers.iter().flatten()) {
        *findings.finalizers.entry(finalizer.clone()).or_default() += 1;
        findings.estimate_seconds = findings.estimate_seconds.max(FINALIZERS_ESTIMATE);
    }
}

/// The longest grace period of the pods that remain.
async fn pods_estimate(client: &Client, namespace: &str) -> kube::Result<i64> {
    let pods = Api::<Pod>::namespaced(client.clone(), namespace).list(&ListParams::default()).await?;
    let grace = |pod: &Pod| match pod.status.as_ref().and_then(|s| s.phase.as_deref()) {
        Some("Succeeded" | "Failed") => 0,
        _ => pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(0),
    };
    Ok(pods.items.iter().map(grace).max().unwrap_or(0))
}

/// The conditions that tell users what a deletion waits for. A condition appears once there is something to tell.
fn conditions(namespace: &Namespace, findings: &Findings, now: &Time) -> Vec<NamespaceCondition> {
    // Sorted, so that the text changes only when there is news.
    let list = |parts: &mut dyn Iterator<Item = String>| {
        let mut parts: Vec<String> = parts.collect();
        parts.sort();
        parts.join(", ")
    };
    let remaining = (!findings.remaining.is_empty()).then(|| {
        // The core group has no name; its dot stays, as in upstream's text.
        let parts = list(&mut findings.remaining.iter().map(|(r, group, n)| format!("{r}.{group} has {n} resource instances")));
        ("SomeResourcesRemain", format!("Some resources are remaining: {parts}"))
    });
    let finalizers = (!findings.finalizers.is_empty()).then(|| {
        let parts = list(&mut findings.finalizers.iter().map(|(f, n)| format!("{f} in {n} resource instances")));
        ("SomeFinalizersRemain", format!("Some content in the namespace has finalizers remaining: {parts}"))
    });
    let failures = (!findings.content_failures.is_empty()).then(|| {
        let parts = findings.content_failures.join(", ");
        (
            "ContentDeletionFailed",
            format!("Failed to delete all resource types, {} remaining: {parts}", findings.content_failures.len()),
        )
    });
    let discovery = findings.discovery_failure.clone().map(|message| ("DiscoveryFailed", message));
    let mut conditions = namespace.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    for (kind, bad, good, good_message) in [
        ("NamespaceDeletionDiscoveryFailure", discovery, "ResourcesDiscovered", "All resources successfully discovered"),
        ("NamespaceDeletionGroupVersionParsingFailure", None, "ParsedGroupVersions", "All legacy kube types successfully parsed"),
        (
            "NamespaceDeletionContentFailure",
            failures,
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        ("NamespaceContentRemaining", remaining, "ContentRemoved", "All content successfully removed"),
        ("NamespaceFinalizersRemaining", finalizers, "ContentHasNoFinalizers", "All content-preserving finalizers finished"),
    ] {
        let status = if bad.is_some() { "True" } else { "False" };
        let (reason, message) = bad.unwrap_or((good, good_message.to_owned()));
        let condition = NamespaceCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_transition_time: Some(now.clone()),
        };
        match conditions.iter_mut().find(|c| c.type_ == kind) {
            Some(old) if old.status == condition.status && old.reason == condition.reason && old.message == condition.message => {
            }
            Some(old) if old.status == condition.status => {
                *old = NamespaceCondition { last_transition_time: old.last_transition_time.clone(), ..condition }
            }
            Some(old) => *old = condition,
            None => conditions.push(condition),
        }
    }
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_say_what_remains() {
        let now = crate::env::seconds(jiff::Timestamp::UNIX_EPOCH);
        let findings = Findings {
            remaining: vec![("pods".into(), String::new(), 2), ("deployments".into(), "apps".into(), 1)],
            finalizers: [("example.com/x".to_owned(), 1)].into(),
            ..Findings::default()
        };
        let made = conditions(&Namespace::default(), &findings, &now);
        let told: Vec<_> = made.iter().map(|c| format!("{}={} {}", c.type_, c.status, c.reason.clone().unwrap())).collect();
        assert_eq!(
            told,
            [
                "NamespaceDeletionDiscoveryFailure=False ResourcesDiscovered",
                "NamespaceDeletionGroupVersionParsingFailure=False ParsedGroupVersions",
                "NamespaceDeletionContentFailure=False ContentDeleted",
                "NamespaceContentRemaining=True SomeResourcesRemain",
                "NamespaceFinalizersRemaining=True SomeFinalizersRemain",
            ]
        );
        assert_eq!(
            made[3].message.as_deref(),
            Some("Some resources are remaining: deployments.apps has 1 resource instances, pods. has 2 resource instances")
        );
        let mut namespace = Namespace::default();
        namespace.status.get_or_insert_default().conditions = Some(made.clone());
        assert_eq!(conditions(&namespace, &findings, &crate::env::seconds(jiff::Timestamp::MAX)), made);
    }
}
