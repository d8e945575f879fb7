//! Where the numbers come from: the runtime's statistics, with network counters read in the pods' namespaces.

use std::collections::BTreeMap;

use pharos_runtime::types::{
    CgroupStats, ContainerFilter, ContainerState, ContainerStats, ContainerStatus, PodSandboxFilter, PodSandboxStats,
};

use crate::{core::Core, names};

/// One interface's counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) rx_bytes: u64,
    pub(crate) rx_packets: u64,
    pub(crate) rx_errors: u64,
    pub(crate) rx_dropped: u64,
    pub(crate) tx_bytes: u64,
    pub(crate) tx_packets: u64,
    pub(crate) tx_errors: u64,
    pub(crate) tx_dropped: u64,
}

/// What a pod and its containers use.
pub(crate) struct PodUsage {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) cgroup_parent: String,
    pub(crate) stats: PodSandboxStats,
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) containers: Vec<(ContainerStatus, ContainerStats)>,
}

/// Reads everything once. What fails is left out.
pub(crate) async fn read(core: &Core) -> Vec<PodUsage> {
    let (sandbox_filter, running) =
        (PodSandboxFilter::default(), ContainerFilter { state: Some(ContainerState::Running), ..ContainerFilter::default() });
    let (sandboxes, statuses, stats) = tokio::join!(
        core.runtime.list_pod_sandbox_stats(&sandbox_filter),
        core.runtime.list_containers(&running),
        core.runtime.list_container_stats(&running),
    );
    let (sandboxes, statuses) = (sandboxes.unwrap_or_default(), statuses.unwrap_or_default());
    let mut by_id: BTreeMap<String, ContainerStats> =
        stats.unwrap_or_default().into_iter().map(|stats| (stats.id.clone(), stats)).collect();
    let mut pods: BTreeMap<String, PodUsage> = BTreeMap::new();
    for stats in sandboxes {
        let label = |name: &str| stats.labels.get(name).cloned().unwrap_or_default();
        let uid = label(names::POD_UID);
        let pod = core.pods.read().get(&uid).cloned();
        let host_network = pod.as_ref().and_then(|pod| pod.spec.as_ref()?.host_network).unwrap_or(false);
        let interfaces =
            if stats.pid > 0 && !host_network { interfaces(&format!("/proc/{}/net/dev", stats.pid)).await } else { Vec::new() };
        let cgroup_parent = pod.map(|pod| crate::resources::cgroup(crate::resources::qos(&pod), &uid)).unwrap_or_default();
        let usage = PodUsage {
            namespace: label(names::POD_NAMESPACE),
            name: label(names::POD_NAME),
            uid,
            cgroup_parent,
            interfaces,
            containers: Vec::new(),
            stats: stats.clone(),
        };
        pods.insert(stats.id, usage);
    }
    for status in statuses {
        if let (Some(pod), Some(stats)) = (pods.get_mut(&status.pod_sandbox_id), by_id.remove(&status.id)) {
            pod.containers.push((status, stats));
        }
    }
    pods.into_values().collect()
}

/// The counters of a `/proc/…/net/dev`.
pub(crate) async fn interfaces(path: &str) -> Vec<Interface> {
    let text = tokio::fs::read_to_string(path).await.unwrap_or_default();
    text.lines().filter_map(interface).collect()
}

fn interface(line: &str) -> Option<Interface> {
    let (name, rest) = line.split_once(':')?;
    let values: Vec<u64> = rest.split_whitespace().map_while(|word| word.parse().ok()).collect();
    let at = |index: usize| values.get(index).copied();
    let name = name.trim();
    if name == "lo" {
        return None;
    }
    Some(Interface {
        name: name.to_owned(),
        rx_bytes: at(0)?,
        rx_packets: at(1)?,
        rx_errors: at(2)?,
        rx_dropped: at(3)?,
        tx_bytes: at(8)?,
        tx_packets: at(9)?,
        tx_errors: at(10)?,
        tx_dropped: at(11)?,
    })
}

/// What the whole machine uses: CPU time, memory, as its root cgroup would tell.
pub(crate) async fn machine(core: &Core) -> CgroupStats {
    let mut usage = CgroupStats::default();
    let stat = tokio::fs::read_to_string("/proc/stat").await.unwrap_or_default();
    if let Some(line) = stat.lines().find(|line| line.starts_with("cpu ")) {
        // Hundredths of a second: user, nice, system, idle, iowait, irq, softirq, steal.
        let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
        let at = |index: usize| ticks.get(index).copied().unwrap_or(0) * 10_000_000;
        usage.cpu.user_nano_seconds = at(0) + at(1);
        usage.cpu.system_nano_seconds = at(2) + at(5) + at(6);
        usage.cpu.usage_core_nano_seconds = usage.cpu.user_nano_seconds + usage.cpu.system_nano_seconds;
    }
    let info = crate::machine::meminfo;
    let total = core.machine.memory_bytes;
    usage.memory.usage_bytes = total.saturating_sub(info("MemFree"));
    usage.memory.working_set_bytes = usage.memory.usage_bytes.saturating_sub(info("Inactive(file)"));
    usage.memory.rss_bytes = info("AnonPages");
    usage.memory.cache_bytes = info("Cached") + info("Buffers");
    usage.memory.swap_bytes = core.machine.swap_bytes.saturating_sub(info("SwapFree"));
    usage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_counters() {
        let line = "  eth0: 1500 12 1 2 0 0 0 0 900 8 3 4 0 0 0 0";
        let found = interface(line).unwrap();
        assert_eq!(
            (found.name.as_str(), found.rx_bytes, found.rx_dropped, found.tx_bytes, found.tx_dropped),
            ("eth0", 1500, 2, 900, 4)
        );
        assert_eq!(interface("    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0"), None);
        assert_eq!(interface("Inter-|   Receive"), None);
    }
}
