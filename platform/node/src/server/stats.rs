//! `/stats/summary`: the same numbers as JSON (`k8s.io/kubelet/pkg/apis/stats/v1alpha1`).

use std::collections::BTreeMap;

use jiff::Timestamp;
use pharos_runtime::types::CgroupStats;
use serde_json::{Map, Value, json};

use super::usage::{self, Interface};
use crate::{
    core::Core,
    machine::{self, Space, Used},
};

/// The whole summary.
pub(crate) async fn summary(core: &Core, only_cpu_and_memory: bool) -> Value {
    let (pods, whole) = tokio::join!(usage::read(core), usage::machine(core));
    let now = core.clock.now();
    let mut node = Map::new();
    node.insert("nodeName".into(), json!(core.config.node_name));
    node.insert("startTime".into(), json!(core.began_at));
    let available = machine::meminfo("MemAvailable");
    node.extend(cgroup(&whole, now, Some(available)));
    if !only_cpu_and_memory {
        let disk = machine::space(&core.config.root_dir);
        node.insert("network".into(), network(&usage::interfaces("/proc/self/net/dev").await, now));
        node.insert(
            "fs".into(),
            json!({
                "time": now,
                "availableBytes": disk.available_bytes,
                "capacityBytes": disk.capacity_bytes,
                "usedBytes": disk.capacity_bytes.saturating_sub(disk.available_bytes),
                "inodesFree": disk.inodes_free,
                "inodes": disk.inodes,
                "inodesUsed": disk.inodes.saturating_sub(disk.inodes_free),
            }),
        );
        if let Ok(images) = core.runtime.image_fs_info().await {
            let fs = json!({
                "time": now,
                "availableBytes": images.available_bytes,
                "capacityBytes": images.capacity_bytes,
                "usedBytes": images.image.used_bytes,
                "inodesFree": images.inodes_free,
                "inodes": images.inodes,
                "inodesUsed": images.image.inodes_used,
            });
            node.insert("runtime".into(), json!({"imageFs": fs, "containerFs": fs}));
        }
    }
    let mut volumes = if only_cpu_and_memory { BTreeMap::new() } else { volumes(core, &pods).await };
    let list: Vec<Value> = pods
        .iter()
        .map(|pod| {
            let at = pod.stats.timestamp;
            let containers: Vec<Value> = pod
                .containers
                .iter()
                .map(|(status, stats)| {
                    let mut container = Map::new();
                    container.insert("name".into(), json!(status.metadata.name));
                    container.insert("startTime".into(), json!(status.started_at));
                    container.extend(cgroup(&stats.cgroup, stats.timestamp, None));
                    if !only_cpu_and_memory {
                        let layer = &stats.writable_layer;
                        container.insert(
                            "rootfs".into(),
                            json!({"time": stats.timestamp, "usedBytes": layer.used_bytes, "inodesUsed": layer.inodes_used}),
                        );
                    }
                    Value::Object(container)
                })
                .collect();
            let mut entry = Map::new();
            entry.insert("podRef".into(), json!({"name": pod.name, "namespace": pod.namespace, "uid": pod.uid}));
            let started = core.pods.read().get(&pod.uid).and_then(|pod| pod.status.as_ref()?.start_time.clone());
            entry.insert("startTime".into(), json!(started));
            entry.insert("containers".into(), Value::Array(containers));
            entry.extend(cgroup(&pod.stats.cgroup, at, None));
            if !only_cpu_and_memory {
                entry.insert("network".into(), network(&pod.interfaces, at));
                let volumes = volumes.remove(&pod.uid).unwrap_or_default();
                entry.insert("ephemeral-storage".into(), ephemeral(pod, &volumes, now, core));
                if !volumes.is_empty() {
                    entry.insert("volume".into(), volumes.into_iter().map(|volume| volume.told(now)).collect());
                }
                entry.insert("process_stats".into(), json!({"process_count": pod.stats.cgroup.process.process_count}));
            }
            Value::Object(entry)
        })
        .collect();
    json!({"node": node, "pods": list})
}

/// What a volume of a pod takes.
struct VolumeUsage {
    name: String,
    /// Whether it counts as its pod's own use of the node's disk.
    ephemeral: bool,
    used: Used,
    space: Space,
}

impl VolumeUsage {
    fn told(self, now: Timestamp) -> Value {
        json!({
            "time": now,
            "name": self.name,
            "availableBytes": self.space.available_bytes,
            "capacityBytes": self.space.capacity_bytes,
            "usedBytes": self.used.bytes,
            "inodesFree": self.space.inodes_free,
            "inodes": self.space.inodes,
            "inodesUsed": self.used.inodes,
        })
    }
}

/// The volumes of pods that the kubelet made, by the pods' UIDs.
async fn volumes(core: &Core, pods: &[usage::PodUsage]) -> BTreeMap<String, Vec<VolumeUsage>> {
    let mut places = Vec::new();
    for pod in pods {
        let Some(object) = core.pods.read().get(&pod.uid).cloned() else { continue };
        let dir = core.config.pod_dir(&pod.uid);
        for volume in object.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            if let Some(path) = crate::volumes::measured(&dir, volume) {
                let ephemeral = crate::volumes::local(&dir, volume).is_some();
                places.push((pod.uid.clone(), volume.name.clone(), ephemeral, path));
            }
        }
    }
    let measured = tokio::task::spawn_blocking(move || {
        let mut found: BTreeMap<String, Vec<VolumeUsage>> = BTreeMap::new();
        for (uid, name, ephemeral, path) in places.into_iter().filter(|(.., path)| path.exists()) {
            let usage = VolumeUsage { name, ephemeral, used: machine::disk_usage(&path), space: machine::space(&path) };
            found.entry(uid).or_default().push(usage);
        }
        found
    });
    measured.await.unwrap_or_default()
}

/// What a pod keeps on the node's disk: its containers' layers and some of its volumes.
fn ephemeral(pod: &usage::PodUsage, volumes: &[VolumeUsage], now: Timestamp, core: &Core) -> Value {
    let disk = machine::space(&core.config.root_dir);
    let layers = pod.containers.iter().map(|(_, stats)| (stats.writable_layer.used_bytes, stats.writable_layer.inodes_used));
    let own = volumes.iter().filter(|volume| volume.ephemeral).map(|volume| (volume.used.bytes, volume.used.inodes));
    let (bytes, inodes) = layers.chain(own).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    json!({
        "time": now,
        "availableBytes": disk.available_bytes,
        "capacityBytes": disk.capacity_bytes,
        "usedBytes": bytes,
        "inodesFree": disk.inodes_free,
        "inodes": disk.inodes,
        "inodesUsed": inodes,
    })
}

fn cgroup(stats: &CgroupStats, at: Timestamp, available: Option<u64>) -> Map<String, Value> {
    let memory = &stats.memory;
    let mut of_memory = json!({
        "time": at,
        "usageBytes": memory.usage_bytes,
        "workingSetBytes": memory.working_set_bytes,
        "rssBytes": memory.rss_bytes,
        "pageFaults": memory.page_faults,
        "majorPageFaults": memory.major_page_faults,
    });
    let available = available.or((memory.limit_bytes > 0).then(|| memory.limit_bytes.saturating_sub(memory.working_set_bytes)));
    if let Some(available) = available {
        of_memory["availableBytes"] = json!(available);
    }
    let mut map = Map::new();
    map.insert("cpu".into(), json!({"time": at, "usageCoreNanoSeconds": stats.cpu.usage_core_nano_seconds}));
    map.insert("memory".into(), of_memory);
    map.insert("swap".into(), json!({"time": at, "swapUsageBytes": memory.swap_bytes}));
    map
}

fn network(interfaces: &[Interface], at: Timestamp) -> Value {
    let one = |i: &Interface| json!({"name": i.name, "rxBytes": i.rx_bytes, "rxErrors": i.rx_errors, "txBytes": i.tx_bytes, "txErrors": i.tx_errors});
    let all: Vec<Value> = interfaces.iter().map(one).collect();
    let mut value = json!({"time": at, "interfaces": all});
    let first = interfaces.iter().find(|i| i.name == "eth0").or(interfaces.first());
    if let (Some(first), Some(fields)) = (first.map(one), value.as_object_mut()) {
        fields.extend(first.as_object().cloned().unwrap_or_default());
    }
    value
}
