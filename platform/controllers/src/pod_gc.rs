//! `podgc`: deletes pods that nobody will: of nodes that are gone, never scheduled and deleted, or ended in great numbers
//! (`pkg/controller/podgc`).
//!
//! Differs: events and one timer by pod instead of a scan every 20 seconds.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client,
    api::{DeleteParams, Preconditions},
};
use pharos_client::{Event, Key, Next, is_conflict};

use crate::{
    Result,
    env::Env,
    error::{During as _, gone_is_fine},
    owners, pods,
    taint_eviction::disrupt,
};

/// How long a node may be missing before its pods go: it may be on its way back.
const QUARANTINE: Duration = Duration::from_secs(40);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

pub(crate) fn start(env: &Env) {
    let queue = env.queue("pod_gc");
    let client = env.client("pod-garbage-collector");
    let (put, nodes, informer) = (queue.clone(), env.informers.nodes.clone(), env.informers.pods.clone());
    let threshold = env.config.terminated_pod_gc_threshold;
    env.informers.pods.on_event(move |event| {
        if matches!(event, Event::Deleted(_)) {
            return;
        }
        let pod = event.object();
        match node_of(pod) {
            None if owners::is_deleting(&**pod) => put.add(Key::of(&**pod)),
            Some(node) if nodes.get(&Key::cluster(node)).is_none() => put.add_after(Key::of(&**pod), QUARANTINE),
            Some(_) if owners::is_deleting(&**pod) => put.add(Key::of(&**pod)),
            _ => {}
        }
        // The oldest ended pod goes for each that is too many.
        if threshold > 0 && pods::is_terminal(pod) && informer.len() > threshold {
            put.add(Key::cluster("")); // Counted by the worker.
        }
    });
    let (put, index) = (queue.clone(), env.informers.pods_by_node.clone());
    env.informers.nodes.on_event(move |event| {
        let node = event.object();
        let wait = match event {
            Event::Deleted(_) => QUARANTINE,
            Event::Updated { new, .. } if is_out_of_service(new) => Duration::ZERO,
            _ => return,
        };
        index.get(owners::name(&**node)).iter().for_each(|pod| put.add_after(Key::of(&**pod), wait));
    });
    let env_ = env.clone();
    queue.spawn_workers(&env.ctx, 2, move |key| {
        let (env, client) = (env_.clone(), client.clone());
        async move { if key.name.is_empty() { trim(&env, &client).await } else { sync(&env, &client, &key).await } }
    });
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

fn is_out_of_service(node: &Node) -> bool {
    let tainted = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).any(|taint| taint.key == OUT_OF_SERVICE);
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    tainted && !conditions.filter(|c| c.type_ == "Ready").any(|c| c.status == "True")
}

/// Why a pod is deleted by force.
#[derive(Debug, PartialEq, Eq)]
enum Reason {
    Orphaned,
    Unscheduled,
    OutOfService,
}

fn reason(pod: &Pod, node: Option<&Node>) -> Option<Reason> {
    match (node_of(pod), node) {
        (None, _) => owners::is_deleting(pod).then_some(Reason::Unscheduled),
        (Some(_), None) => Some(Reason::Orphaned),
        (Some(_), Some(node)) => (owners::is_deleting(pod) && is_out_of_service(node)).then_some(Reason::OutOfService),
    }
}

async fn sync(env: &Env, client: &Client, key: &Key) -> Result<Next> {
    let Some(pod) = env.informers.pods.get(key) else { return Ok(Next::Done) };
    let node = node_of(&pod).and_then(|name| env.informers.nodes.get(&Key::cluster(name)));
    let Some(reason) = reason(&pod, node.as_deref()) else { return Ok(Next::Done) };
    if reason == Reason::Orphaned
        && let Some(name) = node_of(&pod)
    {
        // Not on the word of the cache alone.
        let live = Api::<Node>::all(client.clone()).get(name).await;
        if gone_is_fine(live).during("get node", &name)?.is_some() {
            return Ok(Next::Done);
        }
    }
    let text = match reason {
        Reason::Orphaned => Some("PodGC: node no longer exists"),
        Reason::OutOfService => Some("PodGC: node is out of service"),
        Reason::Unscheduled => None,
    };
    remove(env, client, &pod, text).await
}

async fn remove(env: &Env, client: &Client, pod: &Pod, text: Option<&str>) -> Result<Next> {
    let key = Key::of(pod);
    let api: Api<Pod> = Api::namespaced(client.clone(), &key.namespace);
    if let Some(text) = text.filter(|_| !pods::is_terminal(pod)) {
        disrupt(&api, pod, "DeletionByPodGC", text, Some("Failed"), env).await?;
    }
    let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }.grace_period(0);
    match api.delete(&key.name, &params).await {
        Err(error) if is_conflict(&error) => Ok(Next::Done),
        result => gone_is_fine(result).during("delete pod", &key).map(|_| Next::Done),
    }
}

/// The ended pods that are too many, oldest first, evicted ones before others.
fn surplus(pods: Vec<Arc<Pod>>, threshold: usize) -> Vec<Arc<Pod>> {
    let mut ended: Vec<Arc<Pod>> =
        pods.into_iter().filter(|pod| pods::is_terminal(pod) && !owners::is_deleting(&**pod)).collect();
    let count = ended.len().saturating_sub(threshold);
    ended.sort_by_cached_key(|pod| {
        let evicted = pod.status.as_ref().and_then(|s| s.reason.as_deref()) == Some("Evicted");
        (!evicted, pod.metadata.creation_timestamp.as_ref().map(|time| time.0), owners::name(&**pod).to_owned())
    });
    ended.truncate(count);
    ended
}

async fn trim(env: &Env, client: &Client) -> Result<Next> {
    for pod in surplus(env.informers.pods.list(), env.config.terminated_pod_gc_threshold) {
        remove(env, client, &pod, None).await?;
    }
    Ok(Next::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::testing::pod;

    #[test]
    fn reasons() {
        let node = Node::default();
        let mut going = pod("a", "", "Pending", None);
        assert_eq!(reason(&going, None), None);
        going.metadata.deletion_timestamp = Some(crate::env::seconds(jiff::Timestamp::UNIX_EPOCH));
        assert_eq!(reason(&going, None), Some(Reason::Unscheduled));
        let placed = pod("b", "n", "Running", Some(1));
        assert_eq!(reason(&placed, None), Some(Reason::Orphaned));
        assert_eq!(reason(&placed, Some(&node)), None);
    }

    #[test]
    fn the_oldest_go() {
        let pods = ["a", "b", "c"].map(|name| Arc::new(pod(name, "n", "Succeeded", None)));
        let names: Vec<_> = surplus(pods.into(), 2).iter().map(|p| owners::name(&**p).to_owned()).collect();
        assert_eq!(names, ["a"]);
    }
}
