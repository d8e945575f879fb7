//! `VolumeBinding`: claims must be bound, and their volumes reachable from the node.
//!
//! Differs from upstream: claims that wait for their first consumer are not bound by the scheduler, so a pod with such a claim
//! stays pending until something else binds it.

use k8s_openapi::api::core::v1::PersistentVolume;
use pharos_client::Key;
use std::sync::Arc;

use super::{Refusal, Snapshot};
use crate::{labels::term_matches, node_info::NodeInfo, pod_info::PodInfo};

/// The volumes that the pod's claims are bound to.
#[derive(Clone)]
pub(super) struct Prepared(Vec<Arc<PersistentVolume>>);

pub(super) fn prepare(snapshot: &Snapshot<'_>, pod: &PodInfo) -> Result<Prepared, String> {
    let mut bound = Vec::new();
    for volume in pod.spec().and_then(|s| s.volumes.as_deref()).unwrap_or_default() {
        let name = match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(claim), _) => claim.claim_name.clone(),
            (None, Some(_)) => format!("{}-{}", pod.key.name, volume.name),
            (None, None) => continue,
        };
        let Some(claim) = snapshot.claims.get(&Key::new(pod.key.namespace.clone(), name.as_str())) else {
            return Err(if volume.ephemeral.is_some() {
                format!("waiting for ephemeral volume controller to create the persistentvolumeclaim \"{name}\"")
            } else {
                format!("persistentvolumeclaim \"{name}\" not found")
            });
        };
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
        }
        let volume_name = claim.spec.as_ref().and_then(|s| s.volume_name.clone()).filter(|n| !n.is_empty());
        let is_bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        let Some(volume_name) = volume_name.filter(|_| is_bound) else {
            return Err("pod has unbound immediate PersistentVolumeClaims".into());
        };
        match snapshot.volumes.get(&Key::cluster(volume_name.as_str())) {
            Some(volume) => bound.push(volume),
            None => return Err("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)".into()),
        }
    }
    Ok(Prepared(bound))
}

pub(super) fn filter(prepared: &super::Prepared, _: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
    let reaches = |volume: &Arc<PersistentVolume>| {
        let required = volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref()?.required.as_ref());
        required.is_none_or(|r| r.node_selector_terms.iter().any(|term| term_matches(term, node.name(), node.labels())))
    };
    if prepared.volumes.0.iter().all(reaches) {
        return Ok(());
    }
    Err(Refusal::by_node("node(s) didn't match PersistentVolume's node affinity"))
}
