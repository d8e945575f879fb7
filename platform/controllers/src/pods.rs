//! What controllers ask of pods (`pkg/api/v1/pod/util.go`, `pkg/controller/controller_utils.go`).

use std::{cmp::Ordering, collections::HashMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};

use crate::owners::{is_deleting, uid};

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// Whether the pod has come to its end.
pub(crate) fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether the pod counts as one of its owner's: neither ended nor being deleted.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !is_deleting(pod)
}

/// Whether the pod is on its way out and not there yet.
pub(crate) fn is_terminating(pod: &Pod) -> bool {
    !is_terminal(pod) && is_deleting(pod)
}

pub(crate) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|c| c.type_ == kind)
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// When the pod became ready, if it is.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    condition(pod, "Ready").filter(|c| c.status == "True")?.last_transition_time.as_ref().map(|time| time.0)
}

/// Whether the pod has been ready for `min_ready_seconds`.
pub(crate) fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    is_ready(pod) && (min_ready_seconds == 0 || available_in(pod, min_ready_seconds, now).is_some_and(|wait| wait.is_zero()))
}

/// How long until a ready pod counts as available.
pub(crate) fn available_in(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
    let due = ready_since(pod)? + jiff::SignedDuration::from_secs(i64::from(min_ready_seconds));
    Some(Duration::try_from(due.duration_since(now)).unwrap_or_default())
}

fn created(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

fn deletion_cost(pod: &Pod) -> i32 {
    let cost = pod.metadata.annotations.as_ref().and_then(|a| a.get("controller.kubernetes.io/pod-deletion-cost"));
    cost.and_then(|cost| cost.parse().ok()).unwrap_or_default()
}

fn max_restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    statuses.map(|status| status.restart_count).max().unwrap_or_default()
}

fn phase_rank(pod: &Pod) -> u8 {
    match phase(pod) {
        "Pending" | "" => 0,
        "Unknown" => 1,
        _ => 2,
    }
}

/// Ages compare by their logarithm, so which of several old pods goes is not decided by seconds.
fn younger_first(a: Option<Timestamp>, b: Option<Timestamp>, now: Timestamp) -> Ordering {
    let bucket = |at: Option<Timestamp>| {
        let nanos = at.map_or(0, |at| now.duration_since(at).as_nanos());
        if nanos <= 0 { -1 } else { nanos.ilog2() as i64 }
    };
    bucket(a).cmp(&bucket(b))
}

/// The pods in the order in which they may be deleted, first those that are missed least (`ActivePodsWithRanks`).
///
/// `rank` tells how many related pods share a pod's node.
pub(crate) fn by_deletion_order(pods: &[Arc<Pod>], rank: &HashMap<String, usize>, now: Timestamp) -> Vec<Arc<Pod>> {
    let node = |pod: &Pod| pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
    let mut pods = pods.to_vec();
    pods.sort_by(|a, b| {
        let shared = |pod: &Pod| rank.get(&node(pod)).copied().unwrap_or_default();
        (!node(a).is_empty())
            .cmp(&!node(b).is_empty())
            .then_with(|| phase_rank(a).cmp(&phase_rank(b)))
            .then_with(|| is_ready(a).cmp(&is_ready(b)))
            .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
            .then_with(|| shared(b).cmp(&shared(a)))
            .then_with(|| {
                if is_ready(a) && is_ready(b) { younger_first(ready_since(a), ready_since(b), now) } else { Ordering::Equal }
            })
            .then_with(|| max_restarts(b).cmp(&max_restarts(a)))
            .then_with(|| younger_first(created(a), created(b), now))
            .then_with(|| uid(&**a).cmp(uid(&**b)))
    });
    pods
}

#[cfg(test)]
pub(crate) mod testing {
    use k8s_openapi::api::core::v1::{PodSpec, PodStatus};

    use super::*;
    use crate::env::seconds;

    /// A pod on a node, in a phase, ready since a second or not.
    pub(crate) fn pod(name: &str, node: &str, phase: &str, ready: Option<i64>) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.into());
        pod.metadata.namespace = Some("default".into());
        pod.metadata.uid = Some(format!("uid-{name}"));
        pod.metadata.creation_timestamp = Some(seconds(Timestamp::UNIX_EPOCH));
        pod.spec = Some(PodSpec { node_name: (!node.is_empty()).then(|| node.into()), ..PodSpec::default() });
        let ready = PodCondition {
            type_: "Ready".into(),
            status: if ready.is_some() { "True" } else { "False" }.into(),
            last_transition_time: ready.and_then(|s| Timestamp::from_second(s).ok()).map(seconds),
            ..PodCondition::default()
        };
        pod.status = Some(PodStatus { phase: Some(phase.into()), conditions: Some(vec![ready]), ..PodStatus::default() });
        pod
    }
}

#[cfg(test)]
mod tests {
    use super::{testing::pod, *};

    #[test]
    fn deletion_order() {
        let now = Timestamp::from_second(10_000).unwrap();
        let mut cheap = pod("cheap", "n1", "Running", Some(100));
        cheap.metadata.annotations = Some([("controller.kubernetes.io/pod-deletion-cost".to_owned(), "-5".to_owned())].into());
        let pods: Vec<Arc<Pod>> = [
            pod("old", "n2", "Running", Some(100)),
            pod("doubled", "n1", "Running", Some(100)),
            pod("young", "n2", "Running", Some(9_990)),
            cheap,
            pod("unready", "n2", "Running", None),
            pod("pending", "n2", "Pending", None),
            pod("unassigned", "", "Pending", None),
        ]
        .map(Arc::new)
        .into();
        let order = by_deletion_order(&pods, &HashMap::from([("n1".to_owned(), 2), ("n2".to_owned(), 1)]), now);
        let names: Vec<_> = order.iter().map(|p| p.metadata.name.clone().unwrap()).collect();
        assert_eq!(names, ["unassigned", "pending", "unready", "cheap", "doubled", "young", "old"]);
    }

    #[test]
    fn availability() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let pod = pod("a", "n", "Running", Some(100));
        assert!(is_available(&pod, 0, at(100)) && !is_available(&pod, 10, at(105)) && is_available(&pod, 10, at(110)));
        assert_eq!(available_in(&pod, 10, at(105)), Some(Duration::from_secs(5)));
    }
}
