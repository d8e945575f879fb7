//! The volumes a pod may mount.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Pod, Violation, plural, quoted};

/// What restricted allows.
const HARMLESS: [&str; 9] =
    ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret"];

/// What it does not.
const OTHERS: [&str; 21] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "gitRepo",
    "nfs",
    "iscsi",
    "glusterfs",
    "rbd",
    "flexVolume",
    "cinder",
    "cephfs",
    "flocker",
    "fc",
    "azureFile",
    "vsphereVolume",
    "quobyte",
    "azureDisk",
    "photonPersistentDisk",
    "portworxVolume",
    "scaleIO",
    "storageos",
];

/// `check_hostPathVolumes.go`.
pub(super) fn host_paths(pod: Pod<'_>, _: u32) -> Option<Violation> {
    let bad = volumes_where(pod, |volume| volume["hostPath"].is_object());
    if bad.is_empty() {
        return None;
    }
    Violation::new("hostPath volumes", format!("{} {}", plural("volume", "volumes", bad.len()), quoted(&bad)))
}

/// `check_restrictedVolumes.go`.
pub(super) fn kinds(pod: Pod<'_>, _: u32) -> Option<Violation> {
    let mut types = BTreeSet::new();
    let bad = volumes_where(pod, |volume| {
        let is = |ty: &&str| !volume[*ty].is_null();
        if HARMLESS.iter().any(is) {
            return false;
        }
        types.insert(OTHERS.into_iter().find(is).unwrap_or("unknown"));
        true
    });
    if bad.is_empty() {
        return None;
    }
    let volumes = format!("{} {}", plural("volume", "volumes", bad.len()), quoted(&bad));
    let uses = plural("uses", "use", bad.len());
    let noun = plural("restricted volume type", "restricted volume types", types.len());
    Violation::new("restricted volume types", format!("{volumes} {uses} {noun} {}", quoted(types)))
}

/// The names of a pod's volumes for which something holds.
fn volumes_where<'a>(pod: Pod<'a>, mut holds: impl FnMut(&'a Value) -> bool) -> Vec<&'a str> {
    let volumes = pod.spec["volumes"].as_array().into_iter().flatten().filter(|volume| holds(volume));
    volumes.map(|volume| volume["name"].as_str().unwrap_or_default()).collect()
}
