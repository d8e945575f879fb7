//! From requests and limits to cgroups and quality of service.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};
use pharos_runtime::types::{HugepageLimit, LinuxContainerResources};

use crate::{
    names::{self, Role},
    quantity::{milli_of, value_of},
};

/// The CFS period, in microseconds (`cm.QuotaPeriod`).
pub(crate) const PERIOD: u64 = 100_000;

/// Quality of service, worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Qos {
    /// Every container has equal requests and limits of CPU and memory.
    Guaranteed,
    /// Some container has a request or limit.
    Burstable,
    /// None has.
    BestEffort,
}

impl Qos {
    /// Kubernetes' word.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// Follows `pkg/apis/core/v1/helper/qos`; a status that has a class keeps it, as classes never change.
pub(crate) fn qos(pod: &Pod) -> Qos {
    match pod.status.as_ref().and_then(|status| status.qos_class.as_deref()) {
        Some("Guaranteed") => return Qos::Guaranteed,
        Some("Burstable") => return Qos::Burstable,
        Some("BestEffort") => return Qos::BestEffort,
        _ => {}
    }
    let spec = pod.spec.as_ref();
    if let Some(resources) = spec.and_then(|spec| spec.resources.as_ref()).filter(|r| r.limits.is_some() || r.requests.is_some())
    {
        return qos_of([Some(resources)].into_iter());
    }
    qos_of(
        spec.into_iter()
            .flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
            .map(|container| container.resources.as_ref()),
    )
}

fn qos_of<'a>(all: impl Iterator<Item = Option<&'a ResourceRequirements>>) -> Qos {
    let (mut any, mut guaranteed) = (false, true);
    for resources in all {
        for name in ["cpu", "memory"] {
            let limit = resources.and_then(|r| r.limits.as_ref()?.get(name)).map(milli_of).filter(|v| *v > 0);
            let request = resources.and_then(|r| r.requests.as_ref()?.get(name)).map(milli_of).filter(|v| *v > 0);
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

/// The pod's cgroup: upstream's cgroupfs names.
pub(crate) fn cgroup(qos: Qos, uid: &str) -> String {
    match qos {
        Qos::Guaranteed => format!("/kubepods/pod{uid}"),
        Qos::Burstable => format!("/kubepods/burstable/pod{uid}"),
        Qos::BestEffort => format!("/kubepods/besteffort/pod{uid}"),
    }
}

/// CPU shares of so many thousandths (`MilliCPUToShares`).
pub(crate) fn shares(milli: i128) -> u64 {
    if milli == 0 { 2 } else { u64::try_from(milli * 1024 / 1000).unwrap_or(2).clamp(2, 262_144) }
}

/// CFS quota of so many thousandths (`MilliCPUToQuota`).
pub(crate) fn quota(milli: i128) -> i64 {
    if milli == 0 { 0 } else { i64::try_from(milli * i128::from(PERIOD) / 1000).unwrap_or(i64::MAX).max(1000) }
}

fn get<'a>(map: Option<&'a BTreeMap<String, Quantity>>, name: &str) -> Option<&'a Quantity> {
    map?.get(name)
}

/// A container's request; upstream takes the limit where there is no request.
pub(crate) fn request(container: &Container, name: &str) -> Option<Quantity> {
    let resources = container.resources.as_ref()?;
    get(resources.requests.as_ref(), name).or_else(|| get(resources.limits.as_ref(), name)).cloned()
}

/// A container's limit.
pub(crate) fn limit(container: &Container, name: &str) -> Option<Quantity> {
    get(container.resources.as_ref()?.limits.as_ref(), name).cloned()
}

/// How readily the kernel kills a container for memory (`qos.GetContainerOOMScoreAdjust`).
pub(crate) fn oom_score_adj(pod: &Pod, container: &Container, role: Role, node_memory: i64) -> i32 {
    let spec = pod.spec.as_ref();
    if spec.and_then(|s| s.priority).unwrap_or_default() >= 2_000_000_000 {
        return -997; // Critical pods.
    }
    match qos(pod) {
        Qos::Guaranteed => return -997,
        Qos::BestEffort => return 1000,
        Qos::Burstable => {}
    }
    let memory = |c: &Container| request(c, "memory").as_ref().map_or(0, value_of);
    let of = |bytes: i64| 1000 - (1000 * i128::from(bytes) / i128::from(node_memory.max(1))) as i32;
    let mut adjust = of(memory(container));
    if role == Role::Sidecar {
        // No likelier to go than the pod's own containers.
        let least = spec.map(|s| s.containers.iter().map(memory).min().unwrap_or(0)).unwrap_or(0);
        adjust = adjust.min(of(least));
    }
    // Above 2 so that it goes before guaranteed ones, below 1000 so that best-effort ones go first.
    adjust.clamp(3, 999)
}

/// What a container's cgroup is given.
pub(crate) fn of_container(pod: &Pod, container: &Container, role: Role, node_memory: i64) -> LinuxContainerResources {
    let cpu_limit = limit(container, "cpu").as_ref().map_or(0, milli_of);
    let memory_limit = limit(container, "memory").as_ref().map_or(0, value_of);
    LinuxContainerResources {
        cpu_period: PERIOD,
        cpu_quota: quota(cpu_limit),
        cpu_shares: shares(request(container, "cpu").as_ref().map_or(0, milli_of)),
        memory_limit_in_bytes: memory_limit,
        // No swap: the same limit with and without.
        memory_swap_limit_in_bytes: memory_limit,
        oom_score_adj: oom_score_adj(pod, container, role, node_memory),
        hugepage_limits: hugepages(container.resources.as_ref().and_then(|r| r.limits.as_ref())),
        ..LinuxContainerResources::default()
    }
}

fn hugepages(limits: Option<&BTreeMap<String, Quantity>>) -> Vec<HugepageLimit> {
    limits
        .into_iter()
        .flatten()
        .filter_map(|(name, quantity)| {
            let size = name.strip_prefix("hugepages-")?;
            let page_size = size.strip_suffix('i').map_or_else(|| size.to_owned(), |size| format!("{size}B"));
            Some(HugepageLimit { page_size, limit: value_of(quantity).max(0) as u64 })
        })
        .collect()
}

/// What a pod asks for as a whole: the larger of its containers together (sidecars included) and any single init
/// container with the sidecars before it, plus overhead. Pod-level resources come first.
pub(crate) fn of_pod(pod: &Pod, name: &str, limits: bool) -> Option<i128> {
    let spec = pod.spec.as_ref()?;
    let overhead = get(spec.overhead.as_ref(), name).map_or(0, milli_of);
    let level =
        spec.resources.as_ref().and_then(|r| if limits { get(r.limits.as_ref(), name) } else { get(r.requests.as_ref(), name) });
    if let Some(level) = level {
        return Some(milli_of(level) + overhead);
    }
    let of = |c: &Container| (if limits { limit(c, name) } else { request(c, name) }).as_ref().map(milli_of);
    let mut unlimited = false;
    let mut read = |c: &Container| {
        of(c).unwrap_or_else(|| {
            unlimited = true;
            0
        })
    };
    let (mut sidecars, mut peak) = (0, 0);
    for container in spec.init_containers.iter().flatten() {
        let value = read(container);
        if names::is_sidecar(container) {
            sidecars += value;
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars + value);
        }
    }
    let main: i128 = spec.containers.iter().map(&mut read).sum();
    // One container without a limit leaves the pod without.
    (!(limits && unlimited)).then(|| (main + sidecars).max(peak) + overhead)
}

/// What the pod's own cgroup is given (`cm.ResourceConfigForPod`).
pub(crate) fn of_pod_cgroup(pod: &Pod, pids_limit: i64) -> LinuxContainerResources {
    let best_effort = qos(pod) == Qos::BestEffort;
    let cpu = if best_effort { 0 } else { of_pod(pod, "cpu", false).unwrap_or(0) };
    let memory = of_pod(pod, "memory", true).unwrap_or(0) / 1000;
    LinuxContainerResources {
        cpu_period: PERIOD,
        cpu_quota: quota(of_pod(pod, "cpu", true).unwrap_or(0)),
        cpu_shares: shares(cpu),
        memory_limit_in_bytes: i64::try_from(memory).unwrap_or(0),
        pids_limit: pids_limit.max(0),
        ..LinuxContainerResources::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    #[test]
    fn classes() {
        let both = |cpu: &str, memory: &str| json!({"cpu": cpu, "memory": memory});
        for (expect, resources) in [
            (Qos::BestEffort, json!({})),
            (Qos::BestEffort, json!({"requests": both("0", "0")})),
            (Qos::Burstable, json!({"requests": {"cpu": "1"}})),
            (Qos::Burstable, json!({"limits": {"cpu": "1"}})),
            (Qos::Burstable, json!({"limits": both("1", "1Gi"), "requests": both("500m", "1Gi")})),
            (Qos::Guaranteed, json!({"limits": both("1", "1Gi"), "requests": both("1000m", "1024Mi")})),
            (Qos::Guaranteed, json!({"limits": both("1", "1Gi")})),
        ] {
            let pod = pod(json!({"containers": [{"name": "a", "resources": resources}]}));
            assert_eq!(qos(&pod), expect, "{resources}");
        }
    }

    #[test]
    fn cpu_to_cgroup() {
        for (milli, shares_, quota_) in
            [(0, 2, 0), (1, 2, 1000), (100, 102, 10_000), (1000, 1024, 100_000), (2500, 2560, 250_000)]
        {
            assert_eq!((shares(milli), quota(milli)), (shares_, quota_), "{milli}");
        }
        assert_eq!(cgroup(Qos::Burstable, "u"), "/kubepods/burstable/podu");
    }

    #[test]
    fn pods_add_up() {
        let cpu = |value: &str| json!({"requests": {"cpu": value}, "limits": {"cpu": value}});
        let pod = pod(json!({
            "overhead": {"cpu": "10m"},
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "resources": cpu("100m")},
                {"name": "i", "resources": cpu("500m")},
            ],
            "containers": [{"name": "a", "resources": cpu("200m")}, {"name": "b", "resources": cpu("200m")}],
        }));
        assert_eq!(of_pod(&pod, "cpu", false), Some(610));
        assert_eq!(of_pod(&pod, "memory", true), None);
    }

    #[test]
    fn memory_scores() {
        let pod = pod(json!({"containers": [{"name": "a", "resources": {"requests": {"memory": "1Gi"}}}]}));
        let container = &pod.spec.as_ref().unwrap().containers[0];
        assert_eq!(oom_score_adj(&pod, container, Role::Main, 4 << 30), 750);
        assert_eq!(oom_score_adj(&pod, container, Role::Main, 1 << 30), 3);
    }
}
