//! Pods that say they are about to be disrupted, and are not: whoever said so has failed or given up.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use pharos_client::{Event, Key, Next};
use serde_json::json;

use crate::{
    Result,
    env::Env,
    error::{During as _, gone_is_fine},
    owners, pods,
};

/// How long a pod may say so without being deleted (upstream's `stalePodDisruptionTimeout`).
const TIMEOUT: SignedDuration = SignedDuration::from_secs(120);

pub(super) fn start(env: &Env, client: &Client) {
    let queue = env.queue("stale_pod_disruption");
    let (put, clock) = (queue.clone(), env.ctx.clock().clone());
    env.informers.pods.on_event(move |event| {
        if let Event::Added(pod) | Event::Updated { new: pod, .. } = event
            && let Some(due) = due(pod)
        {
            put.add_after(Key::of(&**pod), until(due, clock.now()));
        }
    });
    let (env_, client) = (env.clone(), client.clone());
    queue.spawn_workers(&env.ctx, 1, move |key| {
        let (env, client) = (env_.clone(), client.clone());
        async move { sync(&env, client, &key).await }
    });
}

/// When the pod is to say so no more; `None` if it does not say so, or is on its way or over. What the kubelet says stays: it
/// ends the pod itself, and may take its time.
fn due(pod: &Pod) -> Option<Timestamp> {
    if owners::is_deleting(pod) || pods::is_terminal(pod) {
        return None;
    }
    let condition = pods::condition(pod, "DisruptionTarget").filter(|condition| condition.status == "True")?;
    if condition.reason.as_deref() == Some("TerminationByKubelet") {
        return None;
    }
    Some(condition.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0) + TIMEOUT)
}

fn until(due: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(due.duration_since(now)).unwrap_or_default()
}

async fn sync(env: &Env, client: Client, key: &Key) -> Result<Next> {
    let Some(pod) = env.informers.pods.get(key) else { return Ok(Next::Done) };
    let Some(due) = due(&pod) else { return Ok(Next::Done) };
    let wait = until(due, env.ctx.clock().now());
    if !wait.is_zero() {
        return Ok(Next::After(wait));
    }
    let api: Api<Pod> = Api::namespaced(client, &key.namespace);
    // Only what was looked at: it may be on its way meanwhile.
    let patch = json!({
        "metadata": {"uid": owners::uid(&*pod), "resourceVersion": pod.metadata.resource_version},
        "status": {"conditions": [{
            "type": "DisruptionTarget", "status": "False", "reason": null, "message": null,
            "lastTransitionTime": env.now(), "observedGeneration": pod.metadata.generation,
        }]},
    });
    let patched = api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
    gone_is_fine(patched).during("reset the stale DisruptionTarget condition of pod", key)?;
    Ok(Next::Done)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodCondition;

    use super::*;
    use crate::{env::seconds, pods::testing::pod};

    #[test]
    fn what_is_stale() {
        let at = |second| Timestamp::from_second(second).unwrap();
        for (phase, status, reason, deleting, expected) in [
            ("Running", "True", "PreemptionByScheduler", false, Some(220)),
            ("Pending", "True", "EvictionByEvictionAPI", false, Some(220)),
            ("Running", "True", "EvictionByEvictionAPI", true, None),
            ("Failed", "True", "EvictionByEvictionAPI", false, None),
            ("Running", "False", "", false, None),
            ("Running", "True", "TerminationByKubelet", false, None),
        ] {
            let mut pod = pod("p", "n", phase, None);
            pod.metadata.deletion_timestamp = deleting.then(|| seconds(at(100)));
            pod.status.as_mut().unwrap().conditions.as_mut().unwrap().push(PodCondition {
                type_: "DisruptionTarget".into(),
                status: status.into(),
                reason: Some(reason.into()),
                last_transition_time: Some(seconds(at(100))),
                ..PodCondition::default()
            });
            assert_eq!(due(&pod), expected.map(at), "{phase} {status} {reason}");
        }
        assert_eq!(due(&pod("p", "n", "Running", None)), None);
        assert_eq!((until(at(220), at(100)), until(at(220), at(300))), (Duration::from_secs(120), Duration::ZERO));
    }
}
