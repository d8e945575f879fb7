use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::StatefulSetStatus,
        core::v1::{PersistentVolumeClaimVolumeSource, Volume},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};

use super::*;
use crate::deployment::scaled;

/// Why a pod is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Failed,
    Succeeded,
    Scaled,
    Updated,
}

/// What one sync does.
#[derive(Debug, Default)]
pub(super) struct Steps {
    /// Ordinals and the revisions of their pods.
    pub(super) create: Vec<(i32, String)>,
    pub(super) delete: Vec<(Arc<Pod>, Reason)>,
}

/// The ordinal of a pod that is called like the set's.
pub(super) fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let rest = owners::name(pod).strip_prefix(owners::name(set))?.strip_prefix('-')?;
    rest.parse().ok().filter(|ordinal: &i32| ordinal.to_string() == rest)
}

fn first(set: &StatefulSet) -> i32 {
    set.spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or_default()
}

fn replicas(set: &StatefulSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

fn ordinals(set: &StatefulSet) -> std::ops::Range<i32> {
    first(set)..first(set) + replicas(set)
}

fn is_rolling(set: &StatefulSet) -> bool {
    set.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete")
}

fn partition(set: &StatefulSet) -> Option<i32> {
    set.spec.update_strategy.as_ref()?.rolling_update.as_ref()?.partition
}

fn revision_of(pod: &Pod) -> &str {
    owners::labels(pod).get(HASH).map(String::as_str).unwrap_or_default()
}

/// The revision that a missing pod is made of.
fn revision_for<'a>(set: &StatefulSet, ordinal: i32, current: &'a str, update: &'a str) -> &'a str {
    if !is_rolling(set) {
        return update;
    }
    let kept = match partition(set) {
        Some(partition) => partition,
        None => set.status.as_ref().and_then(|status| status.current_replicas).unwrap_or_default(),
    };
    if ordinal < first(set) + kept { current } else { update }
}

/// Decides (`defaultStatefulSetControl.updateStatefulSet`).
pub(super) fn steps(set: &StatefulSet, current: &str, update: &str, pods: &[Arc<Pod>], now: Timestamp) -> Steps {
    let monotonic = set.spec.pod_management_policy.as_deref() != Some("Parallel");
    let min_ready = set.spec.min_ready_seconds.unwrap_or_default();
    let healthy = |pod: &Pod| pods::phase(pod) == "Running" && pods::is_ready(pod) && !owners::is_deleting(pod);
    let available = |pod: &Pod| healthy(pod) && pods::is_available(pod, min_ready, now);
    let by_ordinal: BTreeMap<i32, Arc<Pod>> = pods.iter().filter_map(|pod| Some((ordinal(set, pod)?, pod.clone()))).collect();
    let mut steps = Steps::default();
    for ordinal in ordinals(set) {
        let Some(pod) = by_ordinal.get(&ordinal) else {
            steps.create.push((ordinal, revision_for(set, ordinal, current, update).to_owned()));
            if monotonic {
                return steps;
            }
            continue;
        };
        if !owners::is_deleting(&**pod) && pods::is_terminal(pod) {
            let reason = if pods::phase(pod) == "Failed" { Reason::Failed } else { Reason::Succeeded };
            steps.delete.push((pod.clone(), reason));
            if monotonic {
                return steps;
            }
        } else if monotonic && !available(pod) {
            return steps; // One that never becomes ready stops everything, as upstream; only its deletion helps.
        }
    }
    // Pods beyond the range, the highest first.
    let condemned: Vec<&Arc<Pod>> =
        by_ordinal.iter().rev().filter(|(o, _)| !ordinals(set).contains(o)).map(|(_, pod)| pod).collect();
    for (at, pod) in condemned.iter().enumerate() {
        if owners::is_deleting(&***pod) {
            if monotonic {
                return steps;
            }
            continue;
        }
        // An unhealthy one below waits for nobody, but nothing above may go before it is looked at.
        let first_unhealthy = condemned.iter().rposition(|pod| !healthy(pod));
        if monotonic && !available(pod) && first_unhealthy.is_some_and(|unhealthy| unhealthy != at) {
            return steps;
        }
        steps.delete.push(((*pod).clone(), Reason::Scaled));
        if monotonic {
            return steps;
        }
    }
    if !is_rolling(set) || !condemned.is_empty() {
        return steps;
    }
    let most = set.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref()?.max_unavailable.clone());
    let most = most.map_or(1, |most| scaled(Some(&most), replicas(set), true).max(1));
    let mut unavailable = ordinals(set).filter(|o| by_ordinal.get(o).is_none_or(|pod| !available(pod))).count() as i64;
    let from = first(set) + partition(set).unwrap_or_default();
    for ordinal in ordinals(set).rev().filter(|ordinal| *ordinal >= from) {
        let Some(pod) = by_ordinal.get(&ordinal) else { continue };
        if revision_of(pod) == update || owners::is_deleting(&**pod) {
            if !available(pod) && most == 1 {
                return steps; // One after the other.
            }
            continue;
        }
        let broken = !available(pod);
        if !broken && unavailable >= i64::from(most) {
            return steps;
        }
        steps.delete.push((pod.clone(), Reason::Updated));
        unavailable += i64::from(!broken);
        if most == 1 {
            return steps;
        }
    }
    steps
}

/// The counts and revisions of the status.
pub(super) fn status(set: &StatefulSet, current: &str, update: &str, pods: &[Arc<Pod>], now: Timestamp) -> StatefulSetStatus {
    let old = set.status.clone().unwrap_or_default();
    let min_ready = set.spec.min_ready_seconds.unwrap_or_default();
    let count = |test: &dyn Fn(&Pod) -> bool| i32::try_from(pods.iter().filter(|pod| test(pod)).count()).unwrap_or(i32::MAX);
    let ready = |pod: &Pod| pods::phase(pod) == "Running" && pods::is_ready(pod);
    let nonzero = |count: i32| (count != 0).then_some(count);
    let mut status = StatefulSetStatus {
        observed_generation: set.metadata.generation,
        replicas: count(&|_| true),
        ready_replicas: nonzero(count(&ready)),
        available_replicas: Some(count(&|pod| ready(pod) && pods::is_available(pod, min_ready, now))),
        current_replicas: nonzero(count(&|pod| !owners::is_deleting(pod) && revision_of(pod) == current)),
        updated_replicas: nonzero(count(&|pod| !owners::is_deleting(pod) && revision_of(pod) == update)),
        current_revision: Some(current.to_owned()),
        update_revision: Some(update.to_owned()),
        collision_count: Some(old.collision_count.unwrap_or_default()),
        conditions: old.conditions,
    };
    // The update is complete: what was the update is what is.
    let all = |count: Option<i32>| count.unwrap_or_default() == status.replicas;
    if is_rolling(set) && all(status.updated_replicas) && all(status.ready_replicas) && status.replicas == replicas(set) {
        status.current_revision = Some(update.to_owned());
        status.current_replicas = status.updated_replicas;
    }
    status
}

fn claim_name(template: &PersistentVolumeClaim, set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{}-{ordinal}", owners::name(template), owners::name(set))
}

/// The claims of one pod.
pub(super) fn claims(set: &StatefulSet, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let of = |template: &PersistentVolumeClaim| {
        let mut claim = template.clone();
        claim.metadata.name = Some(claim_name(template, set, ordinal));
        claim.metadata.namespace = set.metadata.namespace.clone();
        let labels = claim.metadata.labels.get_or_insert_default();
        labels.extend(set.spec.selector.match_labels.clone().unwrap_or_default());
        claim.status = None;
        claim
    };
    set.spec.volume_claim_templates.iter().flatten().map(of).collect()
}

/// The pod of an ordinal: its name, its address and its claims are its own.
pub(super) fn pod(set: &StatefulSet, template: &PodTemplateSpec, ordinal: i32, revision: &str) -> Pod {
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let mut pod = crate::pod_control::pod_from_template(template, &owners::reference_to(set), namespace);
    let name = format!("{}-{ordinal}", owners::name(set));
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(name.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert("statefulset.kubernetes.io/pod-name".into(), name.clone());
    labels.insert("apps.kubernetes.io/pod-index".into(), ordinal.to_string());
    labels.insert(HASH.into(), revision.to_owned());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name);
    spec.subdomain = set.spec.service_name.clone();
    let templates = set.spec.volume_claim_templates.as_deref().unwrap_or_default();
    let volumes = spec.volumes.get_or_insert_default();
    volumes.retain(|volume| templates.iter().all(|template| owners::name(template) != volume.name));
    volumes.extend(templates.iter().map(|template| Volume {
        name: owners::name(template).to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim_name(template, set, ordinal),
            read_only: None,
        }),
        ..Volume::default()
    }));
    spec.volumes = spec.volumes.take().filter(|volumes| !volumes.is_empty());
    pod
}

/// The owners that a claim is to have by the retention policy, or `None` if it has them.
pub(super) fn claim_owners(
    set: &StatefulSet,
    pod: &Pod,
    ordinal: i32,
    claim: &PersistentVolumeClaim,
) -> Option<Vec<OwnerReference>> {
    let policy = set.spec.persistent_volume_claim_retention_policy.clone().unwrap_or_default();
    let deletes = |when: &Option<String>| when.as_deref() == Some("Delete");
    let condemned = !ordinals(set).contains(&ordinal);
    let current = claim.metadata.owner_references.clone().unwrap_or_default();
    let is_ours = |owner: &OwnerReference| owner.uid == owners::uid(set) || owner.uid == owners::uid(pod);
    let mut wanted: Vec<OwnerReference> = current.iter().filter(|owner| !is_ours(owner)).cloned().collect();
    if condemned && deletes(&policy.when_scaled) {
        wanted.push(OwnerReference { controller: Some(true), block_owner_deletion: Some(true), ..owners::reference_to(pod) });
    } else if deletes(&policy.when_deleted) {
        wanted.push(owners::reference_to(set));
    }
    let plain =
        |owners: &[OwnerReference]| owners.iter().map(|owner| owner.uid.clone()).collect::<std::collections::BTreeSet<_>>();
    (plain(&wanted) != plain(&current)).then_some(wanted)
}
