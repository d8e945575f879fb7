//! Limits on what a pod keeps on the node's disk: `sizeLimit` of emptyDirs and `ephemeral-storage` of containers
//! (`localStorageEviction`).
//!
//! Nothing tells of such growth, so it is measured at each look, but only for pods that have such a limit.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use pharos_client::Regarding;
use pharos_runtime::types::{ContainerFilter, ContainerState, FilesystemUsage};

use crate::{
    core::Core,
    kubelet::Workers,
    machine::disk_usage,
    names,
    pod_status::Failure,
    quantity::{canonical, value_of},
    resources, volumes,
};

/// The resource.
const STORAGE: &str = "ephemeral-storage";

/// The most of something.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Limit {
    bytes: i128,
    /// As messages show it.
    shown: String,
}

/// What a pod may keep.
#[derive(Debug, PartialEq, Eq)]
struct Limits {
    /// In emptyDirs, by name.
    volumes: Vec<(String, Limit)>,
    /// In containers' layers and logs, by name.
    containers: Vec<(String, Limit)>,
    /// Altogether; set when any container has a limit.
    pod: Option<Limit>,
}

/// What a pod keeps, as far as it has limits.
#[derive(Debug, Default)]
struct Usage {
    volumes: BTreeMap<String, u64>,
    containers: BTreeMap<String, u64>,
    pod: u64,
}

/// Evicts the pods that keep more than they may; returns whether there were any. `told` holds the UIDs of those that are on
/// their way.
pub(super) async fn evict(core: &Core, workers: &Workers, told: &mut BTreeSet<String>) -> bool {
    let pods = pods(core);
    told.retain(|uid| pods.iter().any(|pod| names::uid(pod) == uid));
    let mut any = false;
    for pod in &pods {
        let uid = names::uid(pod);
        if told.contains(uid) || pod.metadata.deletion_timestamp.is_some() || super::is_critical(pod) {
            continue;
        }
        let Some(limits) = Limits::of(pod) else { continue };
        let usage = measure(core, pod, &limits).await;
        let Some((signal, message)) = excess(&limits, &usage) else { continue };
        core.recorder.warning(&Regarding::of(&**pod), "Evicted", message.as_str());
        core.metrics.evictions.with_label_values(&[signal]).inc();
        // It is the pod's own doing: no disruption.
        workers.evict(uid, Failure { reason: "Evicted".to_owned(), message, disrupted: false });
        told.insert(uid.to_owned());
        any = true;
    }
    any
}

/// The pods that use the node, as they were last told.
fn pods(core: &Core) -> Vec<Arc<Pod>> {
    let uids: Vec<String> = core.admitted.lock().keys().cloned().collect();
    let pods = core.pods.read();
    uids.iter().filter_map(|uid| pods.get(uid).cloned()).collect()
}

/// What is exceeded first, in upstream's order: the signal of the metric and the message.
fn excess(limits: &Limits, usage: &Usage) -> Option<(&'static str, String)> {
    let over = |used: Option<&u64>, limit: &Limit| used.is_some_and(|used| i128::from(*used) > limit.bytes);
    if let Some((name, limit)) = limits.volumes.iter().find(|(name, limit)| over(usage.volumes.get(name), limit)) {
        return Some(("emptydirfs.limit", format!("Usage of EmptyDir volume {name:?} exceeds the limit {:?}. ", limit.shown)));
    }
    if let Some(limit) = &limits.pod
        && over(Some(&usage.pod), limit)
    {
        let message = format!("Pod ephemeral local storage usage exceeds the total limit of containers {}. ", limit.shown);
        return Some(("ephemeralpodfs.limit", message));
    }
    let (name, limit) = limits.containers.iter().find(|(name, limit)| over(usage.containers.get(name), limit))?;
    let message = format!("Container {name} exceeded its local ephemeral storage limit {:?}. ", limit.shown);
    Some(("ephemeralcontainerfs.limit", message))
}

/// Measures what has a limit.
async fn measure(core: &Core, pod: &Pod, limits: &Limits) -> Usage {
    let uid = names::uid(pod);
    // A container's limit is part of its pod's.
    let whole = limits.pod.is_some();
    let layers = if whole { layers(core, uid).await } else { Vec::new() };
    let dir = core.config.pod_dir(uid);
    let dirs: Vec<(String, PathBuf)> = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten())
        .filter(|volume| whole || limits.volumes.iter().any(|(name, _)| *name == volume.name))
        .filter_map(|volume| Some((volume.name.clone(), volumes::local(&dir, volume)?)))
        .collect();
    let logs = core.config.pod_logs(names::namespace(pod), names::name(pod), uid);
    let root = core.config.root_dir.clone();
    let measured = tokio::task::spawn_blocking(move || {
        let mut usage = Usage::default();
        for (name, path) in dirs {
            let bytes = disk_usage(&path).bytes;
            usage.pod += bytes;
            usage.volumes.insert(name, bytes);
        }
        if whole {
            usage.pod += disk_usage(&dir.join("etc-hosts")).bytes;
        }
        for (name, layer) in layers {
            let log = disk_usage(&logs.join(&name)).bytes;
            usage.pod += log + layer.used_bytes;
            // Upstream counts no layer against its container when layers have a file system of their own.
            let apart = device(&layer.mountpoint).is_some_and(|device_| Some(device_) != device(&root));
            usage.containers.insert(name, if apart { log } else { log + layer.used_bytes });
        }
        usage
    });
    // A measurement that fails exceeds nothing.
    measured.await.unwrap_or_default()
}

/// The layers of a pod's running containers, by name.
async fn layers(core: &Core, uid: &str) -> Vec<(String, FilesystemUsage)> {
    let filter = ContainerFilter {
        state: Some(ContainerState::Running),
        label_selector: [(names::POD_UID.to_owned(), uid.to_owned())].into(),
        ..ContainerFilter::default()
    };
    match core.observe("list_container_stats", core.runtime.list_container_stats(&filter)).await {
        Ok(stats) => stats.into_iter().map(|stats| (stats.metadata.name, stats.writable_layer)).collect(),
        Err(error) => {
            tracing::debug!(uid, error = error.chain(), "cannot measure the containers of a pod");
            Vec::new()
        }
    }
}

fn device(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|metadata| metadata.dev())
}

// === impl Limits ===

impl Limits {
    /// The limits of a pod; `None` when it has none.
    fn of(pod: &Pod) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        let volumes: Vec<(String, Limit)> = spec
            .volumes
            .iter()
            .flatten()
            .filter_map(|volume| {
                // One in memory is as large as its limit and can't grow.
                let source = volume.empty_dir.as_ref().filter(|source| volumes::on_disk(source))?;
                let quantity = source.size_limit.as_ref()?;
                let limit = Limit::new(value_of(quantity).into(), &quantity.0);
                (limit.bytes > 0).then(|| (volume.name.clone(), limit))
            })
            .collect();
        let containers = spec
            .containers
            .iter()
            .filter_map(|container| {
                let quantity = resources::limit(container, STORAGE)?;
                let limit = Limit::new(value_of(&quantity).into(), &quantity.0);
                (limit.bytes > 0).then(|| (container.name.clone(), limit))
            })
            .collect();
        let pod = altogether(spec);
        (pod.is_some() || !volumes.is_empty()).then_some(Self { volumes, containers, pod })
    }
}

/// The limits of all containers together (`PodLimits`). Unlike for cgroups, one without a limit adds nothing and takes
/// nothing away.
fn altogether(spec: &PodSpec) -> Option<Limit> {
    let mut like = None;
    let mut of = |container: &Container| {
        resources::limit(container, STORAGE).map_or(0, |quantity| {
            let value = i128::from(value_of(&quantity));
            like.get_or_insert(quantity.0);
            value
        })
    };
    let main: i128 = spec.containers.iter().map(&mut of).sum();
    let (mut sidecars, mut peak) = (0, 0);
    for container in spec.init_containers.iter().flatten() {
        let value = of(container);
        if names::is_sidecar(container) {
            sidecars += value;
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars + value);
        }
    }
    let like: String = like?;
    let mut bytes = (main + sidecars).max(peak);
    if bytes > 0 {
        bytes += spec.overhead.as_ref().and_then(|overhead| overhead.get(STORAGE)).map_or(0, |over| i128::from(value_of(over)));
    }
    Some(Limit::new(bytes, &like))
}

// === impl Limit ===

impl Limit {
    /// So many bytes, shown with suffixes of the kind that `like` has.
    fn new(bytes: i128, like: &str) -> Self {
        Self { bytes, shown: canonical(bytes, like) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn limits(spec: Value) -> Option<Limits> {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
        Limits::of(&pod)
    }

    /// A container with a limit, or without for an empty text.
    fn container(name: &str, limit: &str) -> Value {
        let limits = if limit.is_empty() { json!({}) } else { json!({"ephemeral-storage": limit}) };
        json!({"name": name, "resources": {"limits": limits}})
    }

    #[test]
    fn pods_without_limits_are_not_measured() {
        for volume in [
            json!({"name": "v", "emptyDir": {}}),
            json!({"name": "v", "emptyDir": {"sizeLimit": "0"}}),
            json!({"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}),
            json!({"name": "v", "configMap": {"name": "c"}}),
        ] {
            assert_eq!(limits(json!({"containers": [container("a", "")], "volumes": [volume]})), None, "{volume}");
        }
    }

    #[test]
    fn containers_add_up_to_their_pod() {
        let sidecar = |limit: &str| {
            let mut sidecar = container("s", limit);
            sidecar["restartPolicy"] = json!("Always");
            sidecar
        };
        for (init, main, expect) in [
            (vec![], vec![container("a", "1Mi")], "1Mi"),
            (vec![], vec![container("a", "1Mi"), container("b", "")], "1Mi"),
            (vec![], vec![container("a", "512Ki"), container("b", "512Ki")], "1Mi"),
            (vec![], vec![container("a", "1500k"), container("b", "500k")], "2M"),
            (vec![container("i", "3Mi")], vec![container("a", "1Mi")], "3Mi"),
            (vec![sidecar("1Mi"), container("i", "1Mi")], vec![container("a", "2Mi")], "3Mi"),
            (vec![sidecar("1Mi"), container("i", "4Mi")], vec![container("a", "2Mi")], "5Mi"),
        ] {
            let limits = limits(json!({"initContainers": init, "containers": main})).unwrap();
            assert_eq!(limits.pod.unwrap().shown, expect, "{init:?} {main:?}");
        }
    }

    #[test]
    fn what_is_exceeded_is_told_in_order() {
        let limits = limits(json!({
            "containers": [container("a", "1Mi"), container("b", "3Mi")],
            "volumes": [{"name": "e", "emptyDir": {"sizeLimit": "2Mi"}}],
        }))
        .unwrap();
        let usage = |volume: u64, a: u64, pod: u64| Usage {
            volumes: [("e".to_owned(), volume)].into(),
            containers: [("a".to_owned(), a)].into(),
            pod,
        };
        let mebi = 1 << 20;
        for (usage, expect) in [
            (usage(2 * mebi, mebi, 4 * mebi), None),
            (
                usage(2 * mebi + 1, mebi + 1, 4 * mebi + 1),
                Some(("emptydirfs.limit", "Usage of EmptyDir volume \"e\" exceeds the limit \"2Mi\". ")),
            ),
            (
                usage(0, mebi + 1, 4 * mebi + 1),
                Some(("ephemeralpodfs.limit", "Pod ephemeral local storage usage exceeds the total limit of containers 4Mi. ")),
            ),
            (
                usage(0, mebi + 1, mebi + 1),
                Some(("ephemeralcontainerfs.limit", "Container a exceeded its local ephemeral storage limit \"1Mi\". ")),
            ),
        ] {
            let found = excess(&limits, &usage);
            assert_eq!(found.as_ref().map(|(signal, message)| (*signal, message.as_str())), expect, "{usage:?}");
        }
    }

    #[test]
    fn trees_are_measured_as_they_lie_on_disk() {
        let dir = std::env::temp_dir().join(format!("pharos-disk-usage-{}-{}", std::process::id(), rand::random::<u32>()));
        fs::create_dir_all(dir.join("below")).unwrap();
        fs::write(dir.join("below/file"), vec![1_u8; 1 << 20]).unwrap();
        // Some file systems count blocks when they are written only.
        fs::File::open(dir.join("below/file")).unwrap().sync_all().unwrap();
        fs::hard_link(dir.join("below/file"), dir.join("again")).unwrap();
        std::os::unix::fs::symlink("/proc", dir.join("elsewhere")).unwrap();
        let sparse = fs::File::create(dir.join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        let used = disk_usage(&dir).bytes;
        assert!((1 << 20..2 << 20).contains(&used), "{used}");
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(disk_usage(&dir).bytes, 0);
    }
}
