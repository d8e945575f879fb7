//! `pvc-protection` and `pv-protection`: a claim goes once no pod uses it, a volume once no claim is bound to it
//! (`pkg/controller/volume/pvcprotection`, `pkg/controller/volume/pvprotection`).
//!
//! The API server's StorageObjectInUseProtection gives both kinds a finalizer. These take it off in time, and give it to what is
//! older than the plugin.

use std::fmt::Debug;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::{
    Api, Client, Resource,
    api::{ListParams, PostParams},
};
use pharos_client::{Event, Key, Next, is_conflict};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Result,
    env::Env,
    error::{During as _, gone_is_fine},
    owners::{self, is_deleting},
};

const OF_CLAIMS: &str = "kubernetes.io/pvc-protection";
const OF_VOLUMES: &str = "kubernetes.io/pv-protection";

pub(crate) fn start(env: &Env) {
    start_claims(env);
    start_volumes(env);
}

fn start_claims(env: &Env) {
    let queue = env.queue("pvcprotection");
    let put = queue.clone();
    env.informers.claims.on_event(move |event| {
        if !matches!(event, Event::Deleted(_)) && wants_a_look(&**event.object(), OF_CLAIMS) {
            put.add(Key::of(&**event.object()));
        }
    });
    let (put, claims) = (queue.clone(), env.informers.claims.clone());
    env.informers.pods.on_event(move |event| {
        // Only a pod that goes, or has no node, lets go of its claims.
        let pod = event.object();
        if !matches!(event, Event::Deleted(_)) && is_scheduled(pod) {
            return;
        }
        for key in claims_of(pod) {
            if claims.get(&key).is_some_and(|claim| wants_a_look(&*claim, OF_CLAIMS)) {
                put.add(key);
            }
        }
    });
    let (env_, client) = (env.clone(), env.client("pvc-protection-controller"));
    queue.spawn_workers(&env.ctx, 1, move |key| {
        let (env, client) = (env_.clone(), client.clone());
        async move { sync_claim(&env, client, &key).await }
    });
}

fn start_volumes(env: &Env) {
    let queue = env.queue("pvprotection");
    let put = queue.clone();
    env.informers.volumes.on_event(move |event| {
        if !matches!(event, Event::Deleted(_)) && wants_a_look(&**event.object(), OF_VOLUMES) {
            put.add(Key::of(&**event.object()));
        }
    });
    let (env_, client) = (env.clone(), env.client("pv-protection-controller"));
    queue.spawn_workers(&env.ctx, 1, move |key| {
        let (env, client) = (env_.clone(), client.clone());
        async move { sync_volume(&env, client, &key).await }
    });
}

async fn sync_claim(env: &Env, client: Client, key: &Key) -> Result<Next> {
    let Some(claim) = env.informers.claims.get(key) else { return Ok(Next::Done) };
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &key.namespace);
    if is_deleting(&*claim) {
        // The cache may be behind, so a claim that seems unused is asked about where all pods are.
        let cached = env.informers.pods_by_claim.get(&term(key));
        if cached.iter().any(|pod| uses(pod, &claim)) {
            return Ok(Next::Done);
        }
        let pods: Api<Pod> = Api::namespaced(client, &key.namespace);
        let live = pods.list(&ListParams::default()).await.during("list the pods that may use", key)?;
        if live.items.iter().any(|pod| uses(pod, &claim)) {
            return Ok(Next::Done);
        }
    }
    settle(&api, &*claim, OF_CLAIMS, key).await
}

async fn sync_volume(env: &Env, client: Client, key: &Key) -> Result<Next> {
    let Some(volume) = env.informers.volumes.get(key) else { return Ok(Next::Done) };
    let bound = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    if is_deleting(&*volume) && bound {
        return Ok(Next::Done);
    }
    settle(&Api::all(client), &*volume, OF_VOLUMES, key).await
}

/// Takes the finalizer off what is being deleted, and gives it to what is not.
async fn settle<K>(api: &Api<K>, object: &K, finalizer: &str, key: &Key) -> Result<Next>
where
    K: Resource + Clone + Debug + Serialize + DeserializeOwned,
{
    if !wants_a_look(object, finalizer) {
        return Ok(Next::Done);
    }
    let mut changed = object.clone();
    let finalizers = changed.meta_mut().finalizers.get_or_insert_default();
    if is_deleting(object) {
        finalizers.retain(|present| present != finalizer);
    } else {
        finalizers.push(finalizer.to_owned());
    }
    match api.replace(&key.name, &PostParams::default(), &changed).await {
        // The newer state is on its way here.
        Err(error) if is_conflict(&error) => Ok(Next::Done),
        result => gone_is_fine(result).during("settle the finalizer of", key).map(|_| Next::Done),
    }
}

/// Whether an object has the finalizer while it is deleted, or lacks it while it is not.
fn wants_a_look<K: Resource>(object: &K, finalizer: &str) -> bool {
    let protected = object.meta().finalizers.iter().flatten().any(|present| present == finalizer);
    protected == is_deleting(object)
}

fn is_scheduled(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).is_some_and(|node| !node.is_empty())
}

/// The claims of a pod's volumes, by name; whether one made for the pod alone is its own, [`uses`] tells.
fn claims_of(pod: &Pod) -> Vec<Key> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let names = volumes.filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", owners::name(pod), volume.name)),
        _ => None,
    });
    names.map(|name| Key::new(namespace, name)).collect()
}

/// Whether a pod uses a claim. One without a node does not: no kubelet starts it with a claim that is being deleted.
fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let name = owners::name(claim);
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    is_scheduled(pod)
        && volumes.into_iter().any(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(source), _) => source.claim_name == name,
            (None, Some(_)) => {
                let own = owners::controller_of(claim).is_some_and(|owner| Some(&owner.uid) == pod.metadata.uid.as_ref());
                own && name == format!("{}-{}", owners::name(pod), volume.name)
            }
            _ => false,
        })
}

/// What pods are found by in the index of claims.
fn term(claim: &Key) -> String {
    format!("{}/{}", claim.namespace, claim.name)
}

/// The terms of a pod in that index.
pub(crate) fn terms(pod: &Pod) -> Vec<String> {
    claims_of(pod).iter().map(term).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(metadata: Value) -> PersistentVolumeClaim {
        let mut object = json!({"metadata": metadata, "spec": {}});
        object["metadata"]["name"] = json!("data");
        object["metadata"]["namespace"] = json!("n");
        serde_json::from_value(object).unwrap()
    }

    fn pod(node: &str, volume: Value) -> Pod {
        let mut volume = volume;
        volume["name"] = json!("data");
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"nodeName": node, "containers": [], "volumes": [volume, {"name": "scratch", "emptyDir": {}}]},
        }))
        .unwrap()
    }

    #[test]
    fn pods_on_nodes_use_their_claims() {
        let by_name = |name: &str| json!({"persistentVolumeClaim": {"claimName": name}});
        let plain = claim(json!({}));
        for (pod, used) in [
            (pod("a", by_name("data")), true),
            (pod("", by_name("data")), false),
            (pod("a", by_name("other")), false),
            (pod("a", json!({"emptyDir": {}})), false),
        ] {
            assert_eq!(uses(&pod, &plain), used, "{pod:?}");
        }
    }

    #[test]
    fn a_claim_made_for_a_pod_is_used_by_that_pod_alone() {
        let ephemeral = pod("a", json!({"ephemeral": {}}));
        let owned = |uid: &str| {
            let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid, "controller": true});
            let mut claim = claim(json!({"ownerReferences": [owner]}));
            claim.metadata.name = Some("p-data".into());
            claim
        };
        assert_eq!(terms(&ephemeral), ["n/p-data"]);
        assert!(uses(&ephemeral, &owned("u")));
        assert!(!uses(&ephemeral, &owned("other")));
    }

    #[test]
    fn finalizers_are_settled_once() {
        let deleted = "2026-01-01T00:00:00Z";
        for (metadata, look) in [
            (json!({}), true),
            (json!({"finalizers": [OF_CLAIMS]}), false),
            (json!({"finalizers": [OF_CLAIMS], "deletionTimestamp": deleted}), true),
            (json!({"finalizers": ["a/b"], "deletionTimestamp": deleted}), false),
        ] {
            assert_eq!(wants_a_look(&claim(metadata.clone()), OF_CLAIMS), look, "{metadata}");
        }
    }
}
