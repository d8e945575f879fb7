//! Revisions and sizes that are kept in annotations; `kubectl rollout history` and `undo` read them.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";
/// What is not copied from a Deployment to its ReplicaSets.
const SKIPPED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAXIMUM,
    "deprecated.daemonset.template.generation",
];
/// The length of a history, in characters.
const HISTORY_LIMIT: usize = 2000;

fn number(set: &ReplicaSet, annotation: &str) -> Option<i32> {
    set.metadata.annotations.as_ref()?.get(annotation)?.parse().ok()
}

/// The revision of a set; 0 without one.
pub(super) fn revision(set: &ReplicaSet) -> i64 {
    let text = set.metadata.annotations.as_ref().and_then(|annotations| annotations.get(REVISION));
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// How many replicas the Deployment wanted when the set was sized.
pub(super) fn desired(set: &ReplicaSet) -> Option<i32> {
    number(set, DESIRED)
}

/// How many replicas the Deployment allowed when the set was sized.
pub(super) fn maximum(set: &ReplicaSet) -> Option<i32> {
    number(set, MAXIMUM)
}

/// Whether the annotations had to be changed.
pub(super) fn set_replicas(set: &mut ReplicaSet, desired: i32, maximum: i32) -> bool {
    let annotations = set.metadata.annotations.get_or_insert_default();
    let (desired, maximum) = (desired.to_string(), maximum.to_string());
    let changed = annotations.get(DESIRED) != Some(&desired) || annotations.get(MAXIMUM) != Some(&maximum);
    annotations.insert(DESIRED.into(), desired);
    annotations.insert(MAXIMUM.into(), maximum);
    changed
}

/// Whether the Deployment's revision had to be changed.
pub(super) fn set_revision(d: &mut Deployment, revision: &str) -> bool {
    let annotations = d.metadata.annotations.get_or_insert_default();
    annotations.insert(REVISION.into(), revision.to_owned()).as_deref() != Some(revision)
}

/// Copies the Deployment's annotations to its new set and raises its revision. Returns whether anything changed.
pub(super) fn set_new(d: &Deployment, set: &mut ReplicaSet, new_revision: i64, exists: bool) -> bool {
    let mut changed = false;
    let old_revision = revision(set);
    let annotations = set.metadata.annotations.get_or_insert_default();
    for (key, value) in d.metadata.annotations.iter().flatten() {
        if !SKIPPED.contains(&key.as_str()) && annotations.get(key) != Some(value) {
            annotations.insert(key.clone(), value.clone());
            changed = true;
        }
    }
    if old_revision < new_revision {
        let before = annotations.insert(REVISION.into(), new_revision.to_string());
        // A set that had a revision comes back: a roll-back.
        if let Some(before) = before {
            let history = annotations.entry(HISTORY.into()).or_default();
            *history = appended(history, &before);
        }
        changed = true;
    }
    if !exists {
        let wanted = super::plan::wanted(d);
        changed |= set_replicas(set, wanted, wanted + super::plan::max_surge(d));
    }
    changed
}

/// The history with one more revision, without its oldest ones if it grows too long.
fn appended(history: &str, revision: &str) -> String {
    let mut parts: Vec<&str> = history.split(',').filter(|part| !part.is_empty()).collect();
    parts.push(revision);
    let mut start = 0;
    while start + 1 < parts.len() && parts[start..].join(",").len() > HISTORY_LIMIT {
        start += 1;
    }
    parts[start..].join(",")
}
