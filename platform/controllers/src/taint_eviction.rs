//! `taint-eviction`: deletes pods that do not tolerate a `NoExecute` taint of their node, or no longer
//! (`pkg/controller/tainteviction`).

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use pharos_client::{Event, Key, Next, Recorder, Regarding, is_conflict, tolerates};
use serde_json::json;

use crate::{
    Result,
    env::Env,
    error::{During as _, gone_is_fine},
    owners,
};

pub(crate) fn start(env: &Env) {
    let queue = env.queue("noexec_taint_pod");
    let client = env.client("node-controller");
    let recorder = env.recorder(&client, "taint-eviction-controller");
    let put = queue.clone();
    let nodes = env.informers.nodes.clone();
    env.informers.pods.on_event(move |event| {
        let pod = event.object();
        let told = |pod: &Pod| pod.spec.as_ref().map(|spec| (spec.node_name.clone(), spec.tolerations.clone()));
        let changed = match event {
            Event::Added(_) => true,
            Event::Updated { old, new } => told(old) != told(new),
            Event::Deleted(_) => false,
        };
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        if changed && node.and_then(|name| nodes.get(&Key::cluster(name))).is_some_and(|node| !evicting(&node).is_empty()) {
            put.add(Key::of(&**pod));
        }
    });
    let (put, pods) = (queue.clone(), env.informers.pods_by_node.clone());
    env.informers.nodes.on_event(move |event| {
        let changed = match event {
            Event::Added(node) => !evicting(node).is_empty(),
            Event::Updated { old, new } => evicting(old) != evicting(new),
            Event::Deleted(_) => false,
        };
        if changed {
            pods.get(owners::name(&**event.object())).iter().for_each(|pod| put.add(Key::of(&**pod)));
        }
    });
    let env_ = env.clone();
    queue.spawn_workers(&env.ctx, 8, move |key| {
        let (env, client, recorder) = (env_.clone(), client.clone(), recorder.clone());
        async move { sync(&env, client, &recorder, &key).await }
    });
}

fn evicting(node: &Node) -> Vec<Taint> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.filter(|taint| taint.effect == "NoExecute").cloned().collect()
}

async fn sync(env: &Env, client: Client, recorder: &Recorder, key: &Key) -> Result<Next> {
    let Some(pod) = env.informers.pods.get(key).filter(|pod| !owners::is_deleting(&**pod)) else { return Ok(Next::Done) };
    let node: Option<Arc<Node>> = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_deref())
        .and_then(|name| env.informers.nodes.get(&Key::cluster(name)));
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.clone()).unwrap_or_default();
    let now = env.ctx.clock().now();
    let Some(due) = node.and_then(|node| due(&evicting(&node), &tolerations, now)) else { return Ok(Next::Done) };
    if due > now {
        return Ok(Next::After(Duration::try_from(due.duration_since(now)).unwrap_or_default()));
    }
    let api: Api<Pod> = Api::namespaced(client, &key.namespace);
    recorder.normal(&Regarding::of(&*pod), "TaintManagerEviction", format!("Marking for deletion Pod {key}"));
    disrupt(&api, &pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint", None, env).await?;
    let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match api.delete(&key.name, &params).await {
        Err(error) if is_conflict(&error) => Ok(Next::Done), // Another pod of that name.
        result => gone_is_fine(result).during("evict pod", key).map(|_| Next::Done),
    }
}

/// Says on a pod why it is about to be deleted.
pub(crate) async fn disrupt(
    api: &Api<Pod>,
    pod: &Pod,
    reason: &str,
    message: &str,
    phase: Option<&str>,
    env: &Env,
) -> Result<()> {
    let mut status = json!({"conditions": [{
        "type": "DisruptionTarget", "status": "True", "reason": reason, "message": message,
        "lastTransitionTime": env.now()}]});
    if let Some(phase) = phase {
        status["phase"] = phase.into();
    }
    let patch = json!({"metadata": {"uid": owners::uid(pod)}, "status": status});
    match api.patch_status(owners::name(pod), &PatchParams::default(), &Patch::Strategic(patch)).await {
        Err(error) if is_conflict(&error) => Ok(()),
        result => gone_is_fine(result).during("update the status of pod", &Key::of(pod)).map(|_| ()),
    }
}

/// When a pod has to go; `None` if it may stay for ever.
fn due(taints: &[Taint], tolerations: &[Toleration], now: Timestamp) -> Option<Timestamp> {
    taints
        .iter()
        .filter_map(|taint| {
            let added = taint.time_added.as_ref().map_or(now, |time| time.0);
            let tolerating: Vec<&Toleration> = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).collect();
            if tolerating.is_empty() {
                return Some(now);
            }
            // The shortest of those that set a limit; a negative one means at once.
            let seconds = tolerating.iter().filter_map(|toleration| toleration.toleration_seconds).min()?;
            Some(added + SignedDuration::from_secs(seconds.max(0)))
        })
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::seconds;

    #[test]
    fn when_pods_have_to_go() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let taint =
            |key: &str| Taint { key: key.into(), effect: "NoExecute".into(), time_added: Some(seconds(at(100))), value: None };
        let toleration = |key: &str, seconds| Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            toleration_seconds: seconds,
            ..Toleration::default()
        };
        for (tolerations, expected) in [
            (vec![], Some(150)),
            (vec![toleration("a", None)], None),
            (vec![toleration("a", Some(300))], Some(400)),
            (vec![toleration("a", Some(300)), toleration("", Some(10))], Some(110)),
            (vec![toleration("b", None)], Some(150)),
        ] {
            assert_eq!(due(&[taint("a")], &tolerations, at(150)), expected.map(at), "{tolerations:?}");
        }
    }
}
