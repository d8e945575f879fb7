//! Whom a pod may run as. In a user namespace that is its own affair, since 1.35.

use super::{Pod, Violation, named, setters};

const REASON: &str = "runAsNonRoot != true";

fn relaxed(pod: Pod<'_>, version: u32) -> bool {
    version >= 35 && pod.in_user_namespace()
}

/// `check_runAsNonRoot.go`.
pub(super) fn non_root(pod: Pod<'_>, version: u32) -> Option<Violation> {
    if relaxed(pod, version) {
        return None;
    }
    let of_pod = pod.spec["securityContext"]["runAsNonRoot"].as_bool();
    let set_to = |value: Option<bool>| {
        pod.containers_where(move |container| container["securityContext"]["runAsNonRoot"].as_bool() == value)
    };
    if let Some(who) = setters(of_pod == Some(false), &set_to(Some(false))) {
        return Violation::new(REASON, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    let silent = set_to(None);
    if of_pod == Some(true) || silent.is_empty() {
        return None;
    }
    Violation::new(REASON, format!("pod or {} must set securityContext.runAsNonRoot=true", named(&silent)))
}

/// `check_runAsUser.go`.
pub(super) fn user(pod: Pod<'_>, version: u32) -> Option<Violation> {
    if relaxed(pod, version) {
        return None;
    }
    let root = |of: &serde_json::Value| of["securityContext"]["runAsUser"].as_i64() == Some(0);
    let who = setters(root(pod.spec), &pod.containers_where(root))?;
    Violation::new("runAsUser=0", format!("{who} must not set runAsUser=0"))
}
