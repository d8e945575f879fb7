//! Evictions for a pod that waits for room: what was decided in [`crate::preemption`], carried out.
//!
//! Follows `pkg/scheduler/framework/preemption/executor.go`: in the background, while the pod is not tried again.

use std::{future::Future, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Time};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use pharos_client::{Key, Recorder, Regarding, is_conflict, is_not_found};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{Scheduler, pod_info::PodInfo};

/// Victims that are evicted at once (upstream's `parallelism`).
const PARALLEL: usize = 16;
const DEADLINE: Duration = Duration::from_secs(30);

/// What is to be done.
pub(crate) struct Eviction {
    /// Who waits.
    pub(crate) pod: Arc<PodInfo>,
    /// Where.
    pub(crate) node: String,
    /// Who has to go, in their newest state.
    pub(crate) victims: Vec<Arc<Pod>>,
    /// Pods of lower priority that the node was kept for.
    pub(crate) displaced: Vec<Arc<PodInfo>>,
}

/// What all evictions for one pod have in common.
struct Cause {
    client: Client,
    recorder: Recorder,
    /// Upstream's text for the event,
    told: String,
    /// and for the condition.
    message: String,
}

// === impl Eviction ===

impl Eviction {
    /// Evicts all victims, a part at a time, until one can't be evicted. Whether all were: otherwise the pod has to look again,
    /// at whatever there is then.
    pub(crate) async fn run(self, client: Client, recorder: Recorder) -> bool {
        let mut succeeded = true;
        // First, so that they look for another node the sooner.
        for displaced in &self.displaced {
            succeeded &= take_back(&client, displaced).await;
        }
        let scheduler = self.pod.spec().and_then(|s| s.scheduler_name.as_deref()).unwrap_or(Scheduler::SCHEDULER_NAME);
        let cause = Arc::new(Cause {
            client,
            recorder: recorder.doing("Preempting").relating(self.pod.regarding()),
            told: format!("Preempted by pod {} on node {}", self.pod.uid, self.node),
            message: format!("{scheduler}: preempting to accommodate a higher priority pod"),
        });
        for part in self.victims.chunks(PARALLEL) {
            let mut evictions = JoinSet::new();
            for victim in part {
                let (cause, victim) = (cause.clone(), victim.clone());
                evictions.spawn(async move { cause.evict(&victim).await });
            }
            let mut all_gone = true;
            while let Some(evicted) = evictions.join_next().await {
                all_gone &= evicted.unwrap_or(false);
            }
            if !all_gone {
                return false;
            }
        }
        succeeded
    }
}

/// Takes back the nomination of a pod. Whether that succeeded, or was not necessary any more.
async fn take_back(client: &Client, pod: &PodInfo) -> bool {
    if pod.nominated_node().is_none() {
        return true;
    }
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.key.namespace);
    let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid}, "status": {"nominatedNodeName": null}}));
    let params = PatchParams::default();
    let patched = api.patch_status(&pod.key.name, &params, &patch);
    !matches!(request(&pod.key, "take back the nomination", patched).await, Answer::Failed)
}

// === impl Cause ===

impl Cause {
    /// Says on the pod why it goes, deletes it, and tells users. Whether it is gone or going.
    async fn evict(&self, victim: &Pod) -> bool {
        let key = Key::of(victim);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let uid = victim.metadata.uid.clone();
        if let Some(condition) = target(victim, &self.message, Timestamp::now()) {
            let patch = Patch::Strategic(json!({"metadata": {"uid": uid}, "status": {"conditions": [condition]}}));
            let params = PatchParams::default();
            match request(&key, "mark the victim", api.patch_status(&key.name, &params, &patch)).await {
                Answer::Done => {}
                Answer::Gone => return true,
                Answer::Failed => return false,
            }
        }
        let preconditions = Some(Preconditions { uid, resource_version: None });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        match request(&key, "delete the victim", api.delete(&key.name, &params)).await {
            Answer::Done => {
                self.recorder.normal(&Regarding::of(victim), "Preempted", self.told.clone());
                true
            }
            Answer::Gone => true,
            Answer::Failed => false,
        }
    }
}

/// The end of a request about a pod.
enum Answer {
    Done,
    /// There is no such pod any more, or another one under its name.
    Gone,
    Failed,
}

async fn request<T>(pod: &Key, action: &'static str, request: impl Future<Output = kube::Result<T>>) -> Answer {
    match tokio::time::timeout(DEADLINE, request).await {
        Ok(Ok(_)) => Answer::Done,
        Ok(Err(error)) if is_not_found(&error) || is_conflict(&error) => Answer::Gone,
        Ok(Err(error)) => {
            tracing::warn!(victim = %pod, action, error = &error as &dyn std::error::Error, "preemption failed");
            Answer::Failed
        }
        Err(_) => {
            tracing::warn!(victim = %pod, action, error = "no answer in time", "preemption failed");
            Answer::Failed
        }
    }
}

/// The condition that says why a pod goes, or `None` if it says so already (`UpdatePodCondition`).
fn target(victim: &Pod, message: &str, now: Timestamp) -> Option<Value> {
    let (reason, generation) = ("PreemptionByScheduler", victim.metadata.generation);
    let before = victim.status.iter().flat_map(|s| s.conditions.iter().flatten()).find(|c| c.type_ == "DisruptionTarget");
    let before = before.filter(|c| c.status == "True");
    if before.is_some_and(|c| {
        c.reason.as_deref() == Some(reason) && c.message.as_deref() == Some(message) && c.observed_generation == generation
    }) {
        return None;
    }
    let since = before.and_then(|c| c.last_transition_time.clone()).unwrap_or(Time(now));
    Some(json!({
        "type": "DisruptionTarget", "status": "True", "reason": reason, "message": message,
        "lastTransitionTime": since, "observedGeneration": generation,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_victim_says_why_it_goes() {
        let (before, now) = ("2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z");
        let message = "default-scheduler: preempting to accommodate a higher priority pod";
        let pod = |status: &str, reason: &str| -> Pod {
            let condition = json!({"type": "DisruptionTarget", "status": status, "reason": reason, "message": message,
                "lastTransitionTime": before, "observedGeneration": 1});
            serde_json::from_value(json!({"metadata": {"generation": 1}, "status": {"conditions": [condition]}})).unwrap()
        };
        for (pod, expected) in [
            (Pod::default(), Some(now)),
            (pod("False", ""), Some(now)),
            (pod("True", "DeletionByTaintManager"), Some(before)),
            (pod("True", "PreemptionByScheduler"), None),
        ] {
            let condition = target(&pod, message, now.parse().unwrap());
            assert_eq!(condition.as_ref().map(|c| c["lastTransitionTime"].as_str().unwrap()), expected);
            if let Some(condition) = condition {
                assert_eq!((&condition["status"], &condition["message"]), (&json!("True"), &json!(message)));
            }
        }
    }
}
