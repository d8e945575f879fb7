//! Volumes of pods: what is in them, where they lie, and how they come to be there and go.
//!
//! Paths and layout are upstream's: `pods/<uid>/volumes/kubernetes.io~<plugin>/<name>`.

mod atomic_writer; // Files that change all at once,
mod payload; // what they hold;
mod empty_dir; // the other kinds;
mod host_path;
mod ownership; // whom they belong to,
mod sub_path; // parts of them,
mod tear_down; // and their end.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{Pod, Volume};

use crate::{fields::Place, objects::Objects};

pub(crate) use empty_dir::on_disk;
pub(crate) use payload::{TokenWanted, tokens_wanted};
pub(crate) use sub_path::bind as bind_sub_path;
pub(crate) use tear_down::tear_down;

/// A volume that can be mounted into containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    /// A directory or file of the node.
    Path {
        /// Where.
        path: PathBuf,
        /// Whether the source allows reading only.
        read_only: bool,
    },
    /// An image.
    Image(String),
}

/// Why a volume is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NotReady {
    /// Its name in the pod.
    pub(crate) volume: String,
    /// For the event `FailedMount`.
    pub(crate) message: String,
}

/// What the volumes of a pod are made from, all of it here already.
pub(crate) struct Sources<'a> {
    /// The pod's own directory.
    pub(crate) pod_dir: &'a Path,
    /// Objects it reads.
    pub(crate) objects: &'a Objects,
    /// Its tokens.
    pub(crate) tokens: &'a BTreeMap<TokenWanted, String>,
    /// Paths of the claims it uses, or why there is none.
    pub(crate) claims: &'a BTreeMap<String, Result<PathBuf, String>>,
    /// What fields tell of the place.
    pub(crate) place: &'a Place,
}

/// Sets up, or brings up to date, every volume of a pod. Blocking.
///
/// Calling it again changes only what is out of date, so running containers see new contents of ConfigMaps and the like.
pub(crate) fn set_up(pod: &Pod, sources: &Sources<'_>) -> Result<BTreeMap<String, Ready>, NotReady> {
    let mut ready = BTreeMap::new();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let done = set_up_one(pod, volume, sources).map_err(|reason| NotReady {
            volume: volume.name.clone(),
            message: format!("MountVolume.SetUp failed for volume {:?} : {reason}", volume.name),
        })?;
        ready.insert(volume.name.clone(), done);
    }
    Ok(ready)
}

fn set_up_one(pod: &Pod, volume: &Volume, sources: &Sources<'_>) -> Result<Ready, String> {
    let dir = |plugin: &str| place(sources.pod_dir, plugin, &volume.name);
    let path = |path: PathBuf| Ok(Ready::Path { path, read_only: false });
    let owner = ownership::of(pod);
    if let Some(source) = &volume.empty_dir {
        let dir = dir("empty-dir");
        empty_dir::set_up(&dir, source, &owner)?;
        return path(dir);
    }
    if let Some(source) = &volume.host_path {
        host_path::check(source)?;
        return path(PathBuf::from(&source.path));
    }
    if let Some((plugin, files)) = payload::of(pod, volume, sources, &owner)? {
        let dir = dir(plugin);
        atomic_writer::write(&dir, &files, owner.fs_group).map_err(|error| format!("write {}: {error}", dir.display()))?;
        return Ok(Ready::Path { path: dir, read_only: false });
    }
    let claim = match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some((claim.claim_name.clone(), claim.read_only.unwrap_or(false))),
        (None, Some(_)) => Some((format!("{}-{}", crate::names::name(pod), volume.name), false)),
        (None, None) => None,
    };
    if let Some((claim, read_only)) = claim {
        let path =
            sources.claims.get(&claim).cloned().unwrap_or_else(|| Err(format!("persistentvolumeclaim \"{claim}\" not found")))?;
        if !path.exists() {
            return Err(format!("path \"{}\" does not exist", path.display()));
        }
        if !read_only {
            ownership::apply_tree(&path, &owner, pod).map_err(|error| format!("apply fsGroup to {}: {error}", path.display()))?;
        }
        return Ok(Ready::Path { path, read_only });
    }
    if let Some(source) = &volume.image {
        return source
            .reference
            .clone()
            .filter(|r| !r.is_empty())
            .map(Ready::Image)
            .ok_or_else(|| "image volume without a reference".to_owned());
    }
    Err("no volume plugin matched: this node has emptyDir, hostPath, configMap, secret, projected, downwardAPI, image, and claims of hostPath and local volumes".to_owned())
}

fn place(pod_dir: &Path, plugin: &str, name: &str) -> PathBuf {
    pod_dir.join("volumes").join(format!("kubernetes.io~{plugin}")).join(name)
}

/// Where a volume lies that is counted as its pod's own use of the node's disk (`IsLocalEphemeralVolume`).
pub(crate) fn local(pod_dir: &Path, volume: &Volume) -> Option<PathBuf> {
    if volume.empty_dir.as_ref().is_some_and(on_disk) {
        return Some(place(pod_dir, "empty-dir", &volume.name));
    }
    volume.config_map.is_some().then(|| place(pod_dir, "configmap", &volume.name))
}

/// Where a volume lies of which usage is told: those that the kubelet makes itself.
pub(crate) fn measured(pod_dir: &Path, volume: &Volume) -> Option<PathBuf> {
    let plugin = match volume {
        Volume { empty_dir: Some(_), .. } => "empty-dir",
        Volume { config_map: Some(_), .. } => "configmap",
        Volume { secret: Some(_), .. } => "secret",
        Volume { projected: Some(_), .. } => "projected",
        Volume { downward_api: Some(_), .. } => "downward-api",
        _ => return None,
    };
    Some(place(pod_dir, plugin, &volume.name))
}

/// Claims a pod uses by name.
pub(crate) fn claims(pod: &Pod) -> Vec<String> {
    let name = crate::names::name(pod);
    pod.spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten())
        .filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(claim), _) => Some(claim.claim_name.clone()),
            (None, Some(_)) => Some(format!("{name}-{}", volume.name)),
            (None, None) => None,
        })
        .collect()
}
