//! The kernel's settings a pod may change.

use super::{Pod, Violation};

/// Those that touch nobody else, each with the version that allowed it.
const SAFE: [(&str, u32); 14] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
    ("net.ipv4.tcp_slow_start_after_idle", 37),
    ("net.ipv4.tcp_notsent_lowat", 37),
];

/// `check_sysctls.go`.
pub(super) fn sysctls(pod: Pod<'_>, version: u32) -> Option<Violation> {
    let set = pod.spec["securityContext"]["sysctls"].as_array().into_iter().flatten();
    let names = set.map(|sysctl| sysctl["name"].as_str().unwrap_or_default());
    let safe = |name: &str| SAFE.iter().any(|(safe, since)| *safe == name && *since <= version);
    let forbidden: Vec<&str> = names.filter(|name| !safe(name)).collect();
    if forbidden.is_empty() { None } else { Violation::new("forbidden sysctls", forbidden.join(", ")) }
}
