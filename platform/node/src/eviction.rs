//! Pressure: what the machine runs out of, told as node conditions, and what is done about it (`pkg/kubelet/eviction`).
//!
//! First unused images go, then pods, one at a time, those first that use more than they asked for. Before that go those that
//! keep more on disk than they may.

mod local_storage;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use pharos_client::Regarding;
use pharos_runtime::types::{ContainerFilter, ImageSpec, PodSandboxFilter};
use tokio::time::Instant;

use crate::{
    core::Core,
    kubelet::Workers,
    machine::{self, threshold},
    names,
    pod_status::Failure,
    resources::{self, Qos},
};

/// How often the machine is looked at: nobody tells of memory or disk running out (`evictionMonitoringPeriod`).
const PERIOD: Duration = Duration::from_secs(10);

/// One reading of a signal.
#[derive(Clone, Copy, Debug)]
struct Reading {
    available: u64,
    capacity: u64,
}

/// The condition a signal is told as.
fn condition(signal: &str) -> Option<&'static str> {
    Some(match signal {
        "memory.available" => "MemoryPressure",
        "nodefs.available" | "nodefs.inodesFree" | "imagefs.available" | "imagefs.inodesFree" => "DiskPressure",
        "pid.available" => "PIDPressure",
        _ => return None,
    })
}

/// Signals below their thresholds.
fn crossed(readings: &BTreeMap<&'static str, Reading>, hard: &BTreeMap<String, String>) -> Vec<&'static str> {
    readings
        .iter()
        .filter(|(signal, reading)| {
            hard.get(**signal).is_some_and(|text| reading.capacity > 0 && reading.available < threshold(text, reading.capacity))
        })
        .map(|(signal, _)| *signal)
        .collect()
}

/// Watches the machine until the kubelet stops.
pub(crate) async fn watch(core: Arc<Core>, workers: Workers) {
    let mut seen: BTreeMap<&'static str, Instant> = BTreeMap::new();
    let hold = Duration::from_secs(core.config.eviction_pressure_transition_period_seconds);
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut was_trouble = false;
    let mut image_fs = None;
    let mut told = BTreeSet::new();
    loop {
        tokio::select! {
            () = core.ctx.stopped() => return,
            _ = tick.tick() => {}
        }
        let images = image_space(&core, &mut image_fs).await;
        let readings = read(&core, images.as_ref());
        let signals = crossed(&readings, &core.config.eviction_hard);
        let now = Instant::now();
        for signal in &signals {
            if let Some(condition) = condition(signal) {
                seen.insert(condition, now);
            }
        }
        seen.retain(|_, at| now.duration_since(*at) <= hold);
        let pressure: BTreeSet<&'static str> = seen.keys().copied().collect();
        let trouble = core.network.not_ready().await.is_some() || core.runtime.status().await.is_err();
        let changed = *core.pressure.read() != pressure || trouble != was_trouble;
        was_trouble = trouble;
        if changed {
            *core.pressure.write() = pressure;
            core.status_wake.notify_one();
        }
        // As upstream: what these leave behind is seen at the next look.
        if local_storage::evict(&core, &workers, &mut told).await {
            continue;
        }
        collect_images(&core, images.as_ref(), signals.iter().any(|signal| condition(signal) == Some("DiskPressure"))).await;
        if let Some(signal) = signals.first() {
            let text = core.config.eviction_hard.get(*signal).cloned().unwrap_or_default();
            core.recorder.warning(
                &crate::node::regarding(&core),
                "EvictionThresholdMet",
                format!("Attempting to reclaim {}", resource(signal)),
            );
            evict(&core, &workers, signal, readings[signal], &text).await;
        }
    }
}

fn resource(signal: &str) -> &'static str {
    match condition(signal) {
        Some("MemoryPressure") => "memory",
        Some("PIDPressure") => "pids",
        _ => "ephemeral-storage",
    }
}

/// Space where images are. The runtime is asked but once, for the place: what it would tell besides takes it a walk over every
/// layer.
async fn image_space(core: &Core, place: &mut Option<PathBuf>) -> Option<machine::Space> {
    if place.is_none() {
        *place = core.runtime.image_fs_info().await.ok().map(|info| info.image.mountpoint);
    }
    place.as_deref().map(machine::space)
}

fn read(core: &Core, images: Option<&machine::Space>) -> BTreeMap<&'static str, Reading> {
    let mut readings = BTreeMap::new();
    readings
        .insert("memory.available", Reading { available: machine::meminfo("MemAvailable"), capacity: core.machine.memory_bytes });
    let node = machine::space(&core.config.root_dir);
    readings.insert("nodefs.available", Reading { available: node.available_bytes, capacity: node.capacity_bytes });
    readings.insert("nodefs.inodesFree", Reading { available: node.inodes_free, capacity: node.inodes });
    if let Some(info) = images {
        readings.insert("imagefs.available", Reading { available: info.available_bytes, capacity: info.capacity_bytes });
        readings.insert("imagefs.inodesFree", Reading { available: info.inodes_free, capacity: info.inodes });
    }
    let number = |path: &str| std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let threads = std::fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|text| text.split_whitespace().nth(3)?.split_once('/')?.1.parse::<u64>().ok());
    if let (Some(limit), Some(threads)) = (number("/proc/sys/kernel/pid_max"), threads) {
        readings.insert("pid.available", Reading { available: limit.saturating_sub(threads), capacity: limit });
    }
    readings
}

/// Removes unused images while the disk is too full.
async fn collect_images(core: &Core, space: Option<&machine::Space>, urgent: bool) {
    let Some(info) = space else { return };
    if info.capacity_bytes == 0 {
        return;
    }
    let used = info.capacity_bytes.saturating_sub(info.available_bytes);
    let percent = used * 100 / info.capacity_bytes;
    if !urgent && percent < u64::from(core.config.image_gc_high_threshold_percent) {
        return;
    }
    let low = info.capacity_bytes * u64::from(core.config.image_gc_low_threshold_percent) / 100;
    let mut excess = used.saturating_sub(low);
    let (Ok(images), Ok(containers)) =
        (core.runtime.list_images(None).await, core.runtime.list_containers(&ContainerFilter::default()).await)
    else {
        return;
    };
    let in_use: BTreeSet<&str> = containers.iter().map(|container| container.image_id.as_str()).collect();
    for image in images.iter().filter(|image| !image.pinned && !in_use.contains(image.id.as_str())) {
        if excess == 0 {
            break;
        }
        match core.runtime.remove_image(&ImageSpec { image: image.id.clone() }).await {
            Ok(()) => {
                tracing::info!(image = image.id, bytes = image.size_bytes, "removed an unused image");
                excess = excess.saturating_sub(image.size_bytes);
            }
            Err(error) => tracing::warn!(image = image.id, error = error.chain(), "cannot remove an unused image"),
        }
    }
}

/// How a pod stands when memory is short; the greatest goes first.
fn rank(pod: &Pod, used: u64) -> (bool, i64, i128) {
    let asked = resources::of_pod(pod, "memory", false).unwrap_or(0) / 1000;
    let over = i128::from(used) - asked;
    let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
    (over > 0 || resources::qos(pod) == Qos::BestEffort, -i64::from(priority), over)
}

/// Whether a pod is never evicted (`IsCriticalPod`).
fn is_critical(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0) >= 2_000_000_000
}

async fn evict(core: &Core, workers: &Workers, signal: &'static str, reading: Reading, text: &str) {
    let Ok(stats) = core.runtime.list_pod_sandbox_stats(&PodSandboxFilter::default()).await else { return };
    let used: BTreeMap<&str, u64> =
        stats.iter().map(|stats| (stats.metadata.uid.as_str(), stats.cgroup.memory.working_set_bytes)).collect();
    let pods: Vec<Arc<Pod>> = core.admitted.lock().values().cloned().collect();
    let victim = pods
        .iter()
        .filter(|pod| !is_critical(pod) && pod.metadata.deletion_timestamp.is_none())
        .max_by_key(|pod| rank(pod, used.get(names::uid(pod)).copied().unwrap_or(0)));
    let Some(victim) = victim else { return };
    let message = format!(
        "The node was low on resource: {}. Threshold quantity: {text}, available: {}Ki. ",
        resource(signal),
        reading.available / 1024
    );
    core.recorder.warning(&Regarding::of(&**victim), "Evicted", message.as_str());
    core.metrics.evictions.with_label_values(&[signal]).inc();
    workers.evict(names::uid(victim), Failure { reason: "Evicted".to_owned(), message, disrupted: true });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn thresholds_are_crossed_from_above() {
        let readings = BTreeMap::from([
            ("memory.available", Reading { available: 50 << 20, capacity: 1 << 30 }),
            ("nodefs.available", Reading { available: 11, capacity: 100 }),
            ("pid.available", Reading { available: 1, capacity: 100 }),
        ]);
        let hard = [("memory.available", "100Mi"), ("nodefs.available", "10%")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        assert_eq!(crossed(&readings, &hard), ["memory.available"]);
    }

    #[test]
    fn those_over_their_requests_go_first() {
        let pod = |priority: i32, memory: &str| -> Pod {
            serde_json::from_value(json!({"spec": {"priority": priority, "containers": [{"name": "a", "resources": {"requests": {"memory": memory}}}]}}))
                .unwrap()
        };
        let over = rank(&pod(0, "1Mi"), 2 << 20);
        assert!(over > rank(&pod(0, "4Mi"), 2 << 20));
        assert!(over > rank(&pod(5, "1Mi"), 3 << 20));
        assert!(over < rank(&pod(0, "1Mi"), 3 << 20));
    }
}
