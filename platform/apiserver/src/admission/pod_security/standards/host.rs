//! What of its node a pod may use.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Pod, Violation, named, plural, quoted, setters};

/// `check_hostNamespaces.go`.
pub(super) fn namespaces(pod: Pod<'_>, _: u32) -> Option<Violation> {
    let fields = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| pod.spec[*field] == true);
    let shared: Vec<String> = fields.map(|field| format!("{field}=true")).collect();
    if shared.is_empty() { None } else { Violation::new("host namespaces", shared.join(", ")) }
}

/// `check_hostPorts.go`.
pub(super) fn ports(pod: Pod<'_>, _: u32) -> Option<Violation> {
    let mut ports = BTreeSet::new();
    let bad = pod.containers_where(|container| {
        let all = container["ports"].as_array().into_iter().flatten();
        let used: Vec<i64> = all.filter_map(|port| port["hostPort"].as_i64()).filter(|port| *port != 0).collect();
        ports.extend(used.iter().map(i64::to_string));
        !used.is_empty()
    });
    if bad.is_empty() {
        return None;
    }
    let uses = plural("uses", "use", bad.len());
    let noun = plural("hostPort", "hostPorts", ports.len());
    let ports = ports.into_iter().collect::<Vec<_>>().join(", ");
    Violation::new("hostPort", format!("{} {uses} {noun} {ports}", named(&bad)))
}

/// `check_hostProbesAndhostLifecycle.go`: a kubelet told to probe another host is a way through the network's walls.
pub(super) fn probes(pod: Pod<'_>, _: u32) -> Option<Violation> {
    let mut hosts = BTreeSet::new();
    let bad: BTreeSet<&str> = pod
        .containers_where(|container| {
            let lifecycle = &container["lifecycle"];
            let handlers = [
                &container["livenessProbe"],
                &container["readinessProbe"],
                &container["startupProbe"],
                &lifecycle["postStart"],
                &lifecycle["preStop"],
            ];
            let named = handlers.into_iter().flat_map(|handler| [&handler["httpGet"]["host"], &handler["tcpSocket"]["host"]]);
            let named: Vec<&str> = named.filter_map(Value::as_str).filter(|host| !host.is_empty()).collect();
            hosts.extend(named.iter().copied());
            !named.is_empty()
        })
        .into_iter()
        .collect();
    if bad.is_empty() {
        return None;
    }
    let bad: Vec<&str> = bad.into_iter().collect();
    let uses = plural("uses", "use", bad.len());
    let noun = plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len());
    Violation::new("probe or lifecycle host", format!("{} {uses} {noun} {}", named(&bad), quoted(hosts)))
}

/// `check_windowsHostProcess.go`.
pub(super) fn windows_process(pod: Pod<'_>, _: u32) -> Option<Violation> {
    let set = |of: &Value| of["securityContext"]["windowsOptions"]["hostProcess"] == true;
    let who = setters(set(pod.spec), &pod.containers_where(set))?;
    Violation::new("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}
