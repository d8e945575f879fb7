//! Security contexts of pods and containers (`pkg/apis/core/validation/validation.go`).

use std::collections::BTreeSet;

use super::at::{At, Errors};
use crate::names;
use crate::status::FieldError;

const WINDOWS: &str = "cannot be set for a windows pod";

/// A container's security context.
pub(super) fn container(context: &At<'_>, host_users: bool, errors: &mut Errors) {
    if context.is_absent() {
        return;
    }
    ids(context, &["runAsUser", "runAsGroup"], errors);
    let mount = context.field("procMount");
    mount.one_of(&["Default", "Unmasked"], errors);
    if host_users && mount.text() == "Unmasked" {
        errors.push(mount.invalid("`hostUsers` must be false to use `Unmasked`"));
    }
    seccomp(&context.field("seccompProfile"), errors);
    if context.field("allowPrivilegeEscalation").value() == false {
        if context.field("privileged").is_true() {
            errors.push(context.invalid("cannot set `allowPrivilegeEscalation` to false and `privileged` to true"));
        }
        for capability in context.field("capabilities").field("add").texts() {
            if capability == "CAP_SYS_ADMIN" {
                errors
                    .push(context.invalid("cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"));
            }
        }
    }
    windows_options(&context.field("windowsOptions"), errors);
    app_armor(&context.field("appArmorProfile"), errors);
}

/// A pod's security context.
pub(super) fn pod(spec: &At<'_>, errors: &mut Errors) {
    if spec.field("shareProcessNamespace").is_true() && spec.field("hostPID").is_true() {
        // Upstream keeps this field in the security context.
        let path = format!("{}.securityContext.shareProcessNamespace", spec.path());
        errors.push(FieldError::invalid(path, true, "ShareProcessNamespace and HostPID cannot both be enabled"));
    }
    let context = spec.field("securityContext");
    if context.len() == 0 {
        return;
    }
    ids(&context, &["fsGroup", "runAsUser", "runAsGroup"], errors);
    context.field("supplementalGroups").items().for_each(|group| group.within(0, i64::from(i32::MAX), errors));
    sysctls(spec, &context.field("sysctls"), errors);
    context.field("fsGroupChangePolicy").one_of(&["OnRootMismatch", "Always"], errors);
    seccomp(&context.field("seccompProfile"), errors);
    windows_options(&context.field("windowsOptions"), errors);
    app_armor(&context.field("appArmorProfile"), errors);
    context.field("supplementalGroupsPolicy").one_of(&["Merge", "Strict"], errors);
    context.field("seLinuxChangePolicy").one_of(&["Recursive", "MountOption"], errors);
}

fn ids(context: &At<'_>, fields: &[&str], errors: &mut Errors) {
    for field in fields {
        context.field(field).within(0, i64::from(i32::MAX), errors);
    }
}

fn sysctls(spec: &At<'_>, list: &At<'_>, errors: &mut Errors) {
    const DETAIL: &str = "must have at most 253 characters and match regex \
                          ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
    let mut seen = BTreeSet::new();
    for sysctl in list.items() {
        let name = sysctl.field("name");
        if name.must_be_set("", errors) {
            if !is_sysctl(name.text()) {
                errors.push(name.invalid(DETAIL));
            } else if seen.contains(name.text()) {
                errors.push(name.duplicate());
            }
            let dotted = name.text().replace('/', ".");
            let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|prefix| dotted.starts_with(prefix));
            if dotted.starts_with("net.") && spec.field("hostNetwork").is_true() {
                errors.push(name.invalid("may not be specified when 'hostNetwork' is true"));
            } else if (ipc || dotted == "kernel.sem") && spec.field("hostIPC").is_true() {
                errors.push(name.invalid("may not be specified when 'hostIPC' is true"));
            }
        }
        seen.insert(name.text());
    }
}

/// `IsValidSysctlName`.
fn is_sysctl(name: &str) -> bool {
    name.len() <= 253
        && name.split(['.', '/']).all(|part| {
            let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            let bytes = part.as_bytes();
            edge(bytes.first())
                && edge(bytes.last())
                && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
        })
}

fn seccomp(profile: &At<'_>, errors: &mut Errors) {
    if profile.is_absent() {
        return;
    }
    let (ty, local) = (profile.field("type"), profile.field("localhostProfile"));
    if ty.must_be_set("type is required when seccompProfile is set", errors) {
        ty.one_of(&["Localhost", "RuntimeDefault", "Unconfined"], errors);
    }
    if ty.text() == "Localhost" {
        if local.is_absent() {
            errors.push(local.required("must be set when seccomp type is Localhost"));
        } else {
            local.descending_path(errors);
        }
    } else if !local.is_absent() {
        let detail = "can only be set when seccomp type is Localhost";
        errors.push(FieldError::invalid(local.path(), profile.value().clone(), detail));
    }
}

fn app_armor(profile: &At<'_>, errors: &mut Errors) {
    const NEEDED: &str = "must be set when AppArmor type is Localhost";
    if profile.is_absent() {
        return;
    }
    let (ty, local) = (profile.field("type"), profile.field("localhostProfile"));
    match ty.text() {
        "Localhost" => {
            if local.is_absent() {
                errors.push(local.required(NEEDED));
            } else if local.text() != local.text().trim() {
                errors.push(local.invalid("must not be padded with whitespace"));
            } else {
                local.must_be_set(NEEDED, errors);
            }
            local.at_most_bytes(4095, errors);
        }
        "RuntimeDefault" | "Unconfined" => {
            if !local.is_absent() {
                errors.push(local.invalid("can only be set when AppArmor type is Localhost"));
            }
        }
        "" => errors.push(ty.required("type is required when appArmorProfile is set")),
        _ => errors.push(ty.unsupported(&["Localhost", "RuntimeDefault", "Unconfined"])),
    }
}

fn windows_options(options: &At<'_>, errors: &mut Errors) {
    const MAX_SPEC: usize = 64 * 1024;
    if options.is_absent() {
        return;
    }
    let (name, spec, user) =
        (options.field("gmsaCredentialSpecName"), options.field("gmsaCredentialSpec"), options.field("runAsUserName"));
    if !name.is_absent() {
        name.all(names::dns1123_subdomain(name.text()), errors);
    }
    if !spec.is_absent() {
        match spec.text().len() {
            0 => errors.push(spec.invalid("gmsaCredentialSpec cannot be an empty string")),
            length if length > MAX_SPEC => errors.push(spec.invalid("gmsaCredentialSpec size must be under 64 KiB")),
            _ => {}
        }
    }
    if !user.is_absent() {
        windows_user(&user, errors);
    }
}

/// `DOMAIN\user`, or the user alone.
fn windows_user(at: &At<'_>, errors: &mut Errors) {
    let mut wrong = |detail: &str| errors.push(at.invalid(detail));
    let text = at.text();
    if text.is_empty() {
        wrong("runAsUserName cannot be an empty string");
        return;
    }
    if text.bytes().any(|b| b.is_ascii_control()) {
        wrong("runAsUserName cannot contain control characters");
        return;
    }
    if text.matches('\\').count() > 1 {
        wrong("runAsUserName cannot contain more than one backslash");
        return;
    }
    let (domain, user) = text.split_once('\\').map_or((None, text), |(domain, user)| (Some(domain), user));
    if let Some(domain) = domain {
        if domain.len() >= 256 {
            wrong("runAsUserName's Domain length must be under 256 characters");
        }
        let net_bios = (1..=15).contains(&domain.chars().count())
            && !domain.starts_with('.')
            && !domain.contains(['\\', '/', ':', '*', '?', '"', '<', '>', '|']);
        let label = |label: &str| {
            let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
            let bytes = label.as_bytes();
            bytes.len() <= 63
                && edge(bytes.first())
                && edge(bytes.last())
                && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
        };
        if !net_bios && !domain.split('.').all(label) {
            wrong("runAsUserName's Domain doesn't match the NetBios nor the DNS format");
        }
    }
    if user.is_empty() {
        wrong("runAsUserName's User cannot be empty");
    } else if user.len() > 104 {
        wrong("runAsUserName's User length must not be longer than 104 characters");
    }
    if !user.is_empty() && user.bytes().all(|b| matches!(b, b'.' | b' ')) {
        wrong("runAsUserName's User cannot contain only periods or spaces");
    }
    if user.contains(['"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']']) {
        wrong("runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]");
    }
}

/// Every container of a pod.
fn containers<'a>(spec: &At<'a>) -> impl Iterator<Item = At<'a>> + use<'a> {
    let lists = [spec.field("initContainers"), spec.field("containers"), spec.field("ephemeralContainers")];
    lists.into_iter().flat_map(|list| list.items())
}

/// Windows' host processes: all of a pod's containers are, or none.
pub(super) fn host_process(spec: &At<'_>, errors: &mut Errors) {
    let flag = |context: &At<'_>| context.field("windowsOptions").field("hostProcess").value().as_bool();
    let own = flag(&spec.field("securityContext"));
    let (mut all, mut found) = (0_usize, 0_usize);
    for container in containers(spec) {
        let context = container.field("securityContext");
        let given = if context.is_absent() { None } else { flag(&context) };
        if let (Some(own), Some(given)) = (own, given)
            && own != given
        {
            let at = context.field("windowsOptions").field("hostProcess");
            let detail = format!("pod hostProcess value must be identical if both are specified, was {own}");
            errors.push(at.invalid(detail));
        }
        all += 1;
        found += usize::from(given.or(own).unwrap_or(false));
    }
    if found == 0 {
        return;
    }
    if found != all {
        let detail = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.push(FieldError::invalid(spec.path(), "", detail));
    }
    let network = spec.field("hostNetwork");
    if !network.is_true() {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.push(FieldError::invalid(network.path(), false, detail));
    }
}

/// A pod with users of its own shares no other namespace with its node.
pub(super) fn host_users(spec: &At<'_>, errors: &mut Errors) {
    if spec.field("hostUsers").value() != false {
        return;
    }
    for (field, told) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if spec.field(field).is_true() {
            errors.push(FieldError::forbidden(format!("{}.{told}", spec.path()), "when `pod.Spec.HostUsers` is false"));
        }
    }
}

/// What an operating system has not.
pub(super) fn os(spec: &At<'_>, errors: &mut Errors) {
    let os = spec.field("os");
    if os.is_absent() {
        return;
    }
    match os.field("name").text() {
        "" => errors.push(os.field("name").required("cannot be empty")),
        "linux" => {
            for at in std::iter::once(spec.clone()).chain(containers(spec)) {
                let options = at.field("securityContext").field("windowsOptions");
                if !options.is_absent() {
                    errors.push(options.forbidden("windows options cannot be set for a linux pod"));
                }
            }
        }
        "windows" => windows(spec, errors),
        other => errors.push(FieldError::not_supported(os.path(), other, &["linux", "windows"])),
    }
}

fn windows(spec: &At<'_>, errors: &mut Errors) {
    const POD: [&str; 11] = [
        "appArmorProfile",
        "seLinuxOptions",
        "seccompProfile",
        "fsGroup",
        "fsGroupChangePolicy",
        "sysctls",
        "runAsUser",
        "runAsGroup",
        "supplementalGroups",
        "supplementalGroupsPolicy",
        "seLinuxChangePolicy",
    ];
    const CONTAINER: [&str; 10] = [
        "appArmorProfile",
        "seLinuxOptions",
        "seccompProfile",
        "capabilities",
        "readOnlyRootFilesystem",
        "privileged",
        "allowPrivilegeEscalation",
        "procMount",
        "runAsUser",
        "runAsGroup",
    ];
    let refuse = |at: At<'_>, errors: &mut Errors| {
        if !at.is_absent() {
            errors.push(at.forbidden(WINDOWS));
        }
    };
    let context = spec.field("securityContext");
    POD.iter().for_each(|field| refuse(context.field(field), errors));
    for field in ["hostUsers", "shareProcessNamespace"] {
        refuse(spec.field(field), errors);
    }
    for field in ["hostPID", "hostIPC"] {
        if spec.field(field).is_true() {
            errors.push(spec.field(field).forbidden(WINDOWS));
        }
    }
    for container in containers(spec) {
        let context = container.field("securityContext");
        CONTAINER.iter().for_each(|field| refuse(context.field(field), errors));
    }
}
