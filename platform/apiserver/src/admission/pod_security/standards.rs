//! The Pod Security Standards: what baseline and restricted ask of a pod, in each version of Kubernetes.
//!
//! Each check is a line of [`CHECKS`]; what it looks at is a pure function of the pod and of the version asked for. Follows
//! `pod-security-admission/policy`: what is forbidden, since when, and how it is said.

mod host; // What a pod may share with its node,
mod identity; // whom it may run as,
mod privilege; // with which power,
mod profile; // and under which of the kernel's restraints.
mod sysctls;
#[cfg(test)]
mod tests;
mod volumes;

use serde_json::Value;

use super::policy::{Level, Standard, Version};

/// The newest version that changed a check: later ones, and `latest`, mean this.
const NEWEST: u32 = 37;

/// A pod to be, of whatever object: its annotations and its spec.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pod<'a> {
    pub(super) annotations: &'a Value,
    pub(super) spec: &'a Value,
}

impl<'a> Pod<'a> {
    /// Of a Pod, or of the template of one.
    pub(super) fn of(object: &'a Value) -> Self {
        Pod { annotations: &object["metadata"]["annotations"], spec: &object["spec"] }
    }

    /// All containers: the init containers first, as upstream visits them.
    fn containers(self) -> impl Iterator<Item = &'a Value> {
        let lists = ["initContainers", "containers", "ephemeralContainers"];
        lists.into_iter().flat_map(move |list| self.spec[list].as_array().into_iter().flatten())
    }

    /// The names of the containers for which something holds.
    fn containers_where(self, mut holds: impl FnMut(&'a Value) -> bool) -> Vec<&'a str> {
        let containers = self.containers().filter(|container| holds(container));
        containers.map(|container| container["name"].as_str().unwrap_or_default()).collect()
    }

    /// Whether its root is no root on the node: then some rules are relaxed.
    fn in_user_namespace(self) -> bool {
        self.spec["hostUsers"] == false
    }

    /// Whether it is for Windows, where some fields cannot be set.
    fn is_windows(self) -> bool {
        self.spec["os"]["name"] == "windows"
    }
}

/// Why a check does not let a pod pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Violation {
    /// What is wrong, of any pod.
    pub(super) reason: &'static str,
    /// Where in this pod.
    pub(super) detail: String,
}

impl Violation {
    fn new(reason: &'static str, detail: impl Into<String>) -> Option<Self> {
        Some(Violation { reason, detail: detail.into() })
    }
}

/// A rule of a standard.
struct Check {
    /// Upstream's name. Checks are made, and what they find is told, in its order, baseline first.
    id: &'static str,
    level: Level,
    /// The minor version that brought it.
    since: u32,
    /// The baseline check it stands in for.
    instead_of: Option<&'static str>,
    find: fn(Pod<'_>, u32) -> Option<Violation>,
}

const fn baseline(id: &'static str, since: u32, find: fn(Pod<'_>, u32) -> Option<Violation>) -> Check {
    Check { id, level: Level::Baseline, since, instead_of: None, find }
}

const fn restricted(
    id: &'static str,
    since: u32,
    instead_of: Option<&'static str>,
    find: fn(Pod<'_>, u32) -> Option<Violation>,
) -> Check {
    Check { id, level: Level::Restricted, since, instead_of, find }
}

const CHECKS: &[Check] = &[
    baseline("appArmorProfile", 0, profile::app_armor),
    baseline("capabilities_baseline", 0, privilege::added_capabilities),
    baseline("hostNamespaces", 0, host::namespaces),
    baseline("hostPathVolumes", 0, volumes::host_paths),
    baseline("hostPorts", 0, host::ports),
    baseline("hostProbesAndHostLifecycle", 34, host::probes),
    baseline("privileged", 0, privilege::privileged),
    baseline("procMount", 0, profile::proc_mount),
    baseline("seLinuxOptions", 0, profile::se_linux),
    baseline("seccompProfile_baseline", 0, profile::forbidden_seccomp),
    baseline("sysctls", 0, sysctls::sysctls),
    baseline("windowsHostProcess", 0, host::windows_process),
    restricted("allowPrivilegeEscalation", 8, None, privilege::escalation),
    restricted("capabilities_restricted", 22, Some("capabilities_baseline"), privilege::capabilities),
    restricted("procMount_restricted", 35, Some("procMount"), profile::unmasked_proc_mount),
    restricted("restrictedVolumes", 0, Some("hostPathVolumes"), volumes::kinds),
    restricted("runAsNonRoot", 0, None, identity::non_root),
    restricted("runAsUser", 23, None, identity::user),
    restricted("seccompProfile_restricted", 19, Some("seccompProfile_baseline"), profile::seccomp),
];

/// All of a standard that a pod does not meet; empty if it passes.
pub(super) fn violations(standard: Standard, pod: Pod<'_>) -> Vec<Violation> {
    let version = match standard.version {
        Version::Minor(minor) => minor.min(NEWEST),
        Version::Latest => NEWEST,
    };
    if standard.level == Level::Privileged {
        return Vec::new();
    }
    let asked = |check: &&Check| check.level <= standard.level && check.since <= version;
    let replaced = |id: &str| CHECKS.iter().filter(asked).any(|check| check.instead_of == Some(id));
    CHECKS.iter().filter(asked).filter(|check| !replaced(check.id)).filter_map(|check| (check.find)(pod, version)).collect()
}

/// What is wrong, for a message about many pods.
pub(super) fn reasons(violations: &[Violation]) -> String {
    violations.iter().map(|violation| violation.reason).collect::<Vec<_>>().join(", ")
}

/// What is wrong and where, for a message about one.
pub(super) fn details(violations: &[Violation]) -> String {
    let one = |violation: &Violation| match violation.detail.as_str() {
        "" => violation.reason.to_owned(),
        detail => format!("{} ({detail})", violation.reason),
    };
    violations.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// `"a", "b"`.
fn quoted<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| format!("\"{}\"", item.as_ref())).collect::<Vec<_>>().join(", ")
}

fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

/// `containers "a", "b"`.
fn named(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

/// `pod and container "a"`: who sets what must not be set, if anybody does.
fn setters(pod: bool, containers: &[&str]) -> Option<String> {
    let containers = (!containers.is_empty()).then(|| named(containers));
    let all: Vec<String> = pod.then(|| "pod".to_owned()).into_iter().chain(containers).collect();
    (!all.is_empty()).then(|| all.join(" and "))
}
