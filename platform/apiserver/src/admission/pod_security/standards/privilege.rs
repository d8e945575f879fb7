//! The power a container may have.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Pod, Violation, named, quoted};

/// What a container may add to what a runtime gives by default: nothing beyond that.
const DEFAULT: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// `check_privileged.go`.
pub(super) fn privileged(pod: Pod<'_>, _: u32) -> Option<Violation> {
    let bad = pod.containers_where(|container| container["securityContext"]["privileged"] == true);
    if bad.is_empty() {
        return None;
    }
    Violation::new("privileged", format!("{} must not set securityContext.privileged=true", named(&bad)))
}

/// `check_allowPrivilegeEscalation.go`. Pods for Windows cannot set the field, which counts since 1.25.
pub(super) fn escalation(pod: Pod<'_>, version: u32) -> Option<Violation> {
    if version >= 25 && pod.is_windows() {
        return None;
    }
    let bad = pod.containers_where(|container| container["securityContext"]["allowPrivilegeEscalation"] != false);
    if bad.is_empty() {
        return None;
    }
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", named(&bad));
    Violation::new("allowPrivilegeEscalation != false", detail)
}

/// The names in one list of a container's capabilities.
fn capabilities_in<'a>(container: &'a Value, list: &str) -> impl Iterator<Item = &'a str> {
    container["securityContext"]["capabilities"][list].as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// The containers that add capabilities that are not allowed, and which.
fn adding<'a>(pod: Pod<'a>, allowed: &[&str]) -> Option<String> {
    let mut forbidden: BTreeSet<&'a str> = BTreeSet::new();
    let bad = pod.containers_where(|container| {
        let added: Vec<&'a str> = capabilities_in(container, "add").filter(|name| !allowed.contains(name)).collect();
        forbidden.extend(&added);
        !added.is_empty()
    });
    let detail = || format!("{} must not include {} in securityContext.capabilities.add", named(&bad), quoted(&forbidden));
    (!bad.is_empty()).then(detail)
}

/// `check_capabilities_baseline.go`.
pub(super) fn added_capabilities(pod: Pod<'_>, _: u32) -> Option<Violation> {
    Violation::new("non-default capabilities", adding(pod, &DEFAULT)?)
}

/// `check_capabilities_restricted.go`. Pods for Windows have none to drop, which counts since 1.25.
pub(super) fn capabilities(pod: Pod<'_>, version: u32) -> Option<Violation> {
    if version >= 25 && pod.is_windows() {
        return None;
    }
    let keeping = pod.containers_where(|container| !capabilities_in(container, "drop").any(|name| name == "ALL"));
    let keeping =
        (!keeping.is_empty()).then(|| format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", named(&keeping)));
    let details: Vec<String> = keeping.into_iter().chain(adding(pod, &["NET_BIND_SERVICE"])).collect();
    if details.is_empty() { None } else { Violation::new("unrestricted capabilities", details.join("; ")) }
}
