//! The kernel's restraints a pod must not take off: AppArmor, SELinux, seccomp, the masks over `/proc`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Pod, Violation, named, plural, quoted, setters};

const APP_ARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_POD_ANNOTATION: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER_ANNOTATION: &str = "container.seccomp.security.alpha.kubernetes.io/";

/// The SELinux types a pod may name, each with the version that allowed it. No type is fine.
const SE_LINUX_TYPES: [(&str, u32); 5] =
    [("", 0), ("container_t", 0), ("container_init_t", 0), ("container_kvm_t", 0), ("container_engine_t", 31)];

/// The type of a profile that is set, of the pod or a container.
fn profile<'a>(of: &'a Value, field: &str) -> Option<&'a str> {
    let profile = &of["securityContext"][field];
    profile.is_object().then(|| profile["type"].as_str().unwrap_or_default())
}

fn allowed(profile: &str) -> bool {
    matches!(profile, "RuntimeDefault" | "Localhost")
}

/// Who sets a profile's type to a value that is not allowed, and to which.
fn forbidden<'a>(pod: Pod<'a>, field: &str) -> (bool, Vec<&'a str>, BTreeSet<&'a str>) {
    let mut values = BTreeSet::new();
    let mut bad = |of: &'a Value| {
        let value = profile(of, field).filter(|value| !allowed(value));
        values.extend(value);
        value.is_some()
    };
    let of_pod = bad(pod.spec);
    let of_containers = pod.containers_where(bad);
    (of_pod, of_containers, values)
}

/// `check_appArmorProfile.go`: the fields, and the annotations from before there were fields.
pub(super) fn app_armor(pod: Pod<'_>, _: u32) -> Option<Violation> {
    let (of_pod, of_containers, values) = forbidden(pod, "appArmorProfile");
    let annotations = pod.annotations.as_object().into_iter().flatten().filter_map(|(key, value)| {
        let value = value.as_str().unwrap_or_default();
        let allowed = value.is_empty() || value == "runtime/default" || value.starts_with("localhost/");
        (key.starts_with(APP_ARMOR_ANNOTATION) && !allowed).then(|| format!("{key}={value:?}"))
    });
    let annotations: BTreeSet<String> = annotations.collect();
    let noun = (!annotations.is_empty()).then(|| plural("annotation", "annotations", annotations.len()).to_owned());
    let who: Vec<String> = setters(of_pod, &of_containers).into_iter().chain(noun).collect();
    if who.is_empty() {
        return None;
    }
    let values: Vec<String> = values.into_iter().map(str::to_owned).chain(annotations).collect();
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
    Violation::new(reason, format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(values)))
}

/// `check_seLinuxOptions.go`.
pub(super) fn se_linux(pod: Pod<'_>, version: u32) -> Option<Violation> {
    let mut types = BTreeSet::new();
    let (mut user, mut role) = (false, false);
    let mut bad = |of: &Value| {
        let options = &of["securityContext"]["seLinuxOptions"];
        let text = |field: &str| options[field].as_str().unwrap_or_default();
        let known = SE_LINUX_TYPES.iter().any(|(name, since)| *name == text("type") && *since <= version);
        if !known {
            types.insert(text("type").to_owned());
        }
        user |= !text("user").is_empty();
        role |= !text("role").is_empty();
        !known || !text("user").is_empty() || !text("role").is_empty()
    };
    let of_pod = bad(pod.spec);
    let of_containers = pod.containers_where(bad);
    let who = setters(of_pod, &of_containers)?;
    let types = (!types.is_empty()).then(|| format!("{} {}", plural("type", "types", types.len()), quoted(types)));
    let user = user.then(|| "user may not be set".to_owned());
    let role = role.then(|| "role may not be set".to_owned());
    let what: Vec<String> = types.into_iter().chain(user).chain(role).collect();
    Violation::new("seLinuxOptions", format!("{who} set forbidden securityContext.seLinuxOptions: {}", what.join("; ")))
}

/// `check_procMount_baseline.go`: since 1.35 a pod in a user namespace may unmask what it likes.
pub(super) fn proc_mount(pod: Pod<'_>, version: u32) -> Option<Violation> {
    if version >= 35 && pod.in_user_namespace() { None } else { unmasked_proc_mount(pod, version) }
}

/// `check_procMount_restricted.go`.
pub(super) fn unmasked_proc_mount(pod: Pod<'_>, _: u32) -> Option<Violation> {
    let mut types = BTreeSet::new();
    let bad = pod.containers_where(|container| {
        let ty = container["securityContext"]["procMount"].as_str().filter(|ty| *ty != "Default");
        types.extend(ty);
        ty.is_some()
    });
    if bad.is_empty() {
        return None;
    }
    Violation::new("procMount", format!("{} must not set securityContext.procMount to {}", named(&bad), quoted(types)))
}

/// `check_seccompProfile_baseline.go`: annotations before 1.19, fields since.
pub(super) fn forbidden_seccomp(pod: Pod<'_>, version: u32) -> Option<Violation> {
    if version < 19 {
        return seccomp_annotations(pod);
    }
    let (of_pod, of_containers, values) = forbidden(pod, "seccompProfile");
    must_not_be(&setters(of_pod, &of_containers)?, &values)
}

fn must_not_be(who: &str, values: &BTreeSet<&str>) -> Option<Violation> {
    let values = quoted(values);
    Violation::new("seccompProfile", format!("{who} must not set securityContext.seccompProfile.type to {values}"))
}

fn seccomp_annotations(pod: Pod<'_>) -> Option<Violation> {
    let of_containers = pod.containers_where(|_| true).into_iter().map(|name| format!("{SECCOMP_CONTAINER_ANNOTATION}{name}"));
    let keys = std::iter::once(SECCOMP_POD_ANNOTATION.to_owned()).chain(of_containers);
    let forbidden = keys.filter_map(|key| {
        let value = pod.annotations[&key].as_str()?;
        let allowed = matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
        (!allowed).then(|| format!("{key}={value:?}"))
    });
    let forbidden: BTreeSet<String> = forbidden.collect();
    if forbidden.is_empty() {
        return None;
    }
    let noun = plural("annotation", "annotations", forbidden.len());
    let list = forbidden.into_iter().collect::<Vec<_>>().join(", ");
    Violation::new("seccompProfile", format!("forbidden {noun} {list}"))
}

/// `check_seccompProfile_restricted.go`. Pods for Windows cannot set the field, which counts since 1.25.
pub(super) fn seccomp(pod: Pod<'_>, version: u32) -> Option<Violation> {
    if version >= 25 && pod.is_windows() {
        return None;
    }
    let (of_pod, of_containers, values) = forbidden(pod, "seccompProfile");
    if let Some(who) = setters(of_pod, &of_containers) {
        return must_not_be(&who, &values);
    }
    let silent = pod.containers_where(|container| profile(container, "seccompProfile").is_none());
    if profile(pod.spec, "seccompProfile").is_some() || silent.is_empty() {
        return None;
    }
    let types = "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"";
    Violation::new("seccompProfile", format!("pod or {} {types}", named(&silent)))
}
