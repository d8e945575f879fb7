//! What a Deployment's status tells (`pkg/controller/deployment/progress.go`, `sync.go`).

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{Sets, plan};
use crate::owners;

pub(super) fn condition<'a>(status: Option<&'a DeploymentStatus>, kind: &str) -> Option<&'a DeploymentCondition> {
    status?.conditions.iter().flatten().find(|c| c.type_.as_deref() == Some(kind))
}

fn make(kind: &str, status: &str, reason: &str, message: String, now: &Time) -> DeploymentCondition {
    DeploymentCondition {
        type_: Some(kind.into()),
        status: Some(status.into()),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: Some(now.clone()),
        last_transition_time: Some(now.clone()),
    }
}

pub(super) fn progressing(status: &str, reason: &str, message: String, now: &Time) -> DeploymentCondition {
    make("Progressing", status, reason, message, now)
}

/// A condition of the same status and reason stays as it is; one of the same status keeps its time of transition.
pub(super) fn set_condition(status: &mut DeploymentStatus, mut condition: DeploymentCondition) {
    let conditions = status.conditions.get_or_insert_default();
    if let Some(at) = conditions.iter().position(|c| c.type_ == condition.type_) {
        if conditions[at].status == condition.status {
            if conditions[at].reason == condition.reason {
                return;
            }
            condition.last_transition_time = conditions[at].last_transition_time.clone();
        }
        conditions.remove(at);
    }
    conditions.push(condition);
}

fn remove_condition(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|c| c.type_.as_deref() != Some(kind));
    }
    status.conditions = status.conditions.take().filter(|conditions| !conditions.is_empty());
}

fn deadline_seconds(d: &Deployment) -> Option<i32> {
    d.spec.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX)
}

pub(super) fn has_deadline(d: &Deployment) -> bool {
    deadline_seconds(d).is_some()
}

/// The condition that a pause or its end asks for, if it is not there.
pub(super) fn pause_condition(d: &Deployment, now: &Time) -> Option<DeploymentCondition> {
    if !has_deadline(d) {
        return None;
    }
    let reason = condition(d.status.as_ref(), "Progressing").and_then(|c| c.reason.as_deref());
    if reason == Some("ProgressDeadlineExceeded") {
        return None;
    }
    match (plan::is_paused(d), reason == Some("DeploymentPaused")) {
        (true, false) => Some(progressing("Unknown", "DeploymentPaused", "Deployment is paused".into(), now)),
        (false, true) => Some(progressing("Unknown", "DeploymentResumed", "Deployment is resumed".into(), now)),
        _ => None,
    }
}

/// Whether all pods are of the present template and available.
pub(super) fn is_complete(d: &Deployment, status: Option<&DeploymentStatus>) -> bool {
    let Some(status) = status else { return false };
    let wanted = plan::wanted(d);
    let count = |n: Option<i32>| n.unwrap_or_default();
    count(status.updated_replicas) == wanted
        && count(status.replicas) == wanted
        && count(status.available_replicas) == wanted
        && status.observed_generation >= d.metadata.generation
}

fn is_progressing(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let count = |n: Option<i32>| n.unwrap_or_default();
    let stale = |status: &DeploymentStatus| count(status.replicas) - count(status.updated_replicas);
    count(new.updated_replicas) > count(old.updated_replicas)
        || stale(new) < stale(old)
        || count(new.ready_replicas) > count(old.ready_replicas)
        || count(new.available_replicas) > count(old.available_replicas)
}

fn has_timed_out(d: &Deployment, now: Timestamp) -> bool {
    let Some(condition) = condition(d.status.as_ref(), "Progressing") else { return false };
    match (condition.reason.as_deref(), condition.last_update_time.as_ref(), deadline_seconds(d)) {
        (Some("NewReplicaSetAvailable"), ..) => false,
        (Some("ProgressDeadlineExceeded"), ..) => true,
        (_, Some(since), Some(seconds)) => since.0 + SignedDuration::from_secs(i64::from(seconds)) < now,
        _ => false,
    }
}

/// When a rollout that does not move has to be looked at again.
pub(super) fn deadline_in(d: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    let seconds = deadline_seconds(d)?;
    let condition = condition(Some(status), "Progressing")?;
    if is_complete(d, Some(status)) || condition.reason.as_deref() == Some("ProgressDeadlineExceeded") {
        return None;
    }
    let due = condition.last_update_time.as_ref()?.0 + SignedDuration::from_secs(i64::from(seconds));
    Some(Duration::try_from(due.duration_since(now)).unwrap_or_default() + Duration::from_secs(1))
}

fn nonzero(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

/// The counts and the condition `Available`.
pub(super) fn calculate(d: &Deployment, sets: &Sets, now: &Time) -> DeploymentStatus {
    let sum = |count: &dyn Fn(&ReplicaSet) -> i32| sets.all().map(count).sum::<i32>();
    let status = |set: &ReplicaSet| set.status.clone().unwrap_or_default();
    let available = sum(&|set| status(set).available_replicas.unwrap_or_default());
    let old = d.status.clone().unwrap_or_default();
    let mut new = DeploymentStatus {
        observed_generation: d.metadata.generation,
        replicas: nonzero(sum(&|set| status(set).replicas)),
        updated_replicas: nonzero(sets.new.as_ref().map_or(0, |set| status(set).replicas)),
        ready_replicas: nonzero(sum(&|set| status(set).ready_replicas.unwrap_or_default())),
        available_replicas: nonzero(available),
        unavailable_replicas: nonzero((sum(&plan::replicas) - available).max(0)),
        terminating_replicas: Some(sum(&|set| status(set).terminating_replicas.unwrap_or_default())),
        collision_count: old.collision_count,
        conditions: old.conditions,
    };
    let condition = if available >= plan::wanted(d) - plan::max_unavailable(d) {
        make("Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.".into(), now)
    } else {
        let text = "Deployment does not have minimum availability.";
        make("Available", "False", "MinimumReplicasUnavailable", text.into(), now)
    };
    set_condition(&mut new, condition);
    new
}

/// The status in the course of a rollout: also how it gets on, and whether pods can be made at all.
pub(super) fn rollout(d: &Deployment, sets: &Sets, now: &Time) -> DeploymentStatus {
    let mut new = calculate(d, sets, now);
    let old = d.status.clone().unwrap_or_default();
    let current = condition(Some(&old), "Progressing").cloned();
    if !has_deadline(d) {
        remove_condition(&mut new, "Progressing");
    }
    let done = new.replicas == new.updated_replicas
        && current.as_ref().and_then(|c| c.reason.as_deref()) == Some("NewReplicaSetAvailable");
    if has_deadline(d) && !done {
        let subject = match &sets.new {
            Some(set) => format!("ReplicaSet \"{}\"", owners::name(set)),
            None => format!("Deployment \"{}\"", owners::name(d)),
        };
        if is_complete(d, Some(&new)) {
            let text = format!("{subject} has successfully progressed.");
            set_condition(&mut new, progressing("True", "NewReplicaSetAvailable", text, now));
        } else if is_progressing(&old, &new) {
            let mut condition = progressing("True", "ReplicaSetUpdated", format!("{subject} is progressing."), now);
            // Each step counts: the time of the update moves even if nothing else does.
            if let Some(current) = current {
                if current.status.as_deref() == Some("True") {
                    condition.last_transition_time = current.last_transition_time;
                }
                remove_condition(&mut new, "Progressing");
            }
            set_condition(&mut new, condition);
        } else if has_timed_out(d, now.0) {
            let text = format!("{subject} has timed out progressing.");
            set_condition(&mut new, progressing("False", "ProgressDeadlineExceeded", text, now));
        }
    }
    match replica_failure(sets) {
        Some(failure) => set_condition(&mut new, failure),
        None => remove_condition(&mut new, "ReplicaFailure"),
    }
    new
}

/// The new set's failure to make pods, else an old one's.
fn replica_failure(sets: &Sets) -> Option<DeploymentCondition> {
    let failure = |set: &ReplicaSet| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        let found = conditions.iter().find(|c| c.type_.as_deref() == Some("ReplicaFailure"))?;
        Some(DeploymentCondition {
            type_: found.type_.clone(),
            status: found.status.clone(),
            reason: found.reason.clone(),
            message: found.message.clone(),
            last_transition_time: found.last_transition_time.clone(),
            last_update_time: found.last_transition_time.clone(),
        })
    };
    sets.new.iter().chain(&sets.old).find_map(failure)
}
