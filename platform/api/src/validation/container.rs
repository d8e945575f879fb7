//! Containers of all three sorts.

use std::collections::BTreeSet;

use super::at::{At, Errors, port_name};
use crate::names;
use crate::status::FieldError;

/// Which list a container is in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    Main,
    Init,
    Ephemeral,
}

/// Every container of a pod spec.
pub(super) fn lists(spec: &At<'_>, volumes: &BTreeSet<&str>, errors: &mut Errors) {
    let containers = spec.field("containers");
    if containers.len() == 0 {
        errors.push(containers.required(""));
    }
    let mut seen = BTreeSet::new();
    let mut host_ports = BTreeSet::new();
    let host_network = spec.field("hostNetwork").is_true();
    for (list, sort) in [("containers", Sort::Main), ("initContainers", Sort::Init), ("ephemeralContainers", Sort::Ephemeral)] {
        for container in spec.field(list).items() {
            let name = container.field("name");
            if name.must_be_set("", errors) {
                name.all(names::dns1123_label(name.text()), errors);
                if !seen.insert(name.text()) {
                    errors.push(name.duplicate());
                }
            }
            one(&container, sort, volumes, errors);
            if sort == Sort::Main {
                ports(&container.field("ports"), host_network, &mut host_ports, errors);
            }
        }
    }
}

fn one(container: &At<'_>, sort: Sort, volumes: &BTreeSet<&str>, errors: &mut Errors) {
    let image = container.field("image");
    if image.must_be_set("", errors) && image.text() != image.text().trim() {
        errors.push(image.invalid("must not have leading or trailing whitespace"));
    }
    container.field("terminationMessagePolicy").one_of(&["File", "FallbackToLogsOnError"], errors);
    container.field("imagePullPolicy").one_of(&["Always", "IfNotPresent", "Never"], errors);
    env(container, errors);
    mounts(container, volumes, errors);
    resources(&container.field("resources"), errors);
    security(&container.field("securityContext"), errors);
    let probes = ["livenessProbe", "readinessProbe", "startupProbe"];
    let restart = container.field("restartPolicy");
    let sidecar = restart.text() == "Always";
    match sort {
        Sort::Ephemeral => {
            for field in probes.into_iter().chain(["lifecycle", "ports"]) {
                let at = container.field(field);
                if !at.is_absent() {
                    errors.push(at.forbidden("cannot be set for an Ephemeral Container"));
                }
            }
            return;
        }
        Sort::Init => {
            restart.one_of(&["Always", "Never", "OnFailure"], errors);
            if !sidecar {
                for field in probes.into_iter().chain(["lifecycle"]) {
                    let at = container.field(field);
                    if !at.is_absent() {
                        errors.push(at.forbidden("may not be set for init containers without restartPolicy=Always"));
                    }
                }
            }
        }
        Sort::Main => restart.one_of(&["Always", "Never", "OnFailure"], errors),
    }
    for field in probes {
        probe(&container.field(field), field == "readinessProbe", errors);
    }
    for hook in ["postStart", "preStop"] {
        let hook = container.field("lifecycle").field(hook);
        if !hook.is_absent() {
            handler(&hook, &["exec", "httpGet", "tcpSocket", "sleep"], errors);
        }
    }
}

fn ports<'a>(ports: &At<'a>, host_network: bool, host_ports: &mut BTreeSet<String>, errors: &mut Errors) {
    let mut names_seen: BTreeSet<&'a str> = BTreeSet::new();
    for port in ports.items() {
        let name = port.field("name");
        if !name.text().is_empty() {
            let complaints = port_name(name.text());
            if complaints.is_empty() && !names_seen.insert(name.text()) {
                errors.push(name.duplicate());
            }
            name.all(complaints, errors);
        }
        let (number, host) = (port.field("containerPort"), port.field("hostPort"));
        if number.int().unwrap_or(0) == 0 {
            errors.push(number.required(""));
        } else {
            number.port(errors);
        }
        if host.int().unwrap_or(0) != 0 {
            host.port(errors);
            let key = format!("{}/{}/{}", port.field("hostIP").text(), port.field("protocol").text(), host.value());
            if !host_ports.insert(key.clone()) {
                errors.push(FieldError::duplicate(host.path(), key));
            }
        }
        if host_network && host.value() != number.value() {
            errors.push(number.invalid("must match `hostPort` when `hostNetwork` is true"));
        }
        port.field("protocol").must_be_one_of(&["TCP", "UDP", "SCTP"], errors);
        port.field("hostIP").ip(errors);
    }
}

fn env(container: &At<'_>, errors: &mut Errors) {
    const FIELDS: [&str; 9] = [
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.serviceAccountName",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    ];
    for variable in container.field("env").items() {
        let name = variable.field("name");
        if name.must_be_set("", errors) && !name.text().bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=') {
            errors.push(
                name.invalid("a valid environment variable name must consist only of printable ASCII characters other than '='"),
            );
        }
        let from = variable.field("valueFrom");
        if from.is_absent() {
            continue;
        }
        let sources = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
        let given: Vec<At<'_>> = sources.iter().map(|s| from.field(s)).filter(|s| !s.is_absent()).collect();
        let empty = |detail: &str| FieldError::invalid(from.path(), "", detail);
        if given.is_empty() {
            errors.push(empty("must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`"));
        } else if !variable.field("value").text().is_empty() {
            errors.push(empty("may not be specified when `value` is not empty"));
        } else if given.len() > 1 {
            errors.push(empty("may not have more than one field specified at a time"));
        }
        let path = from.field("fieldRef").field("fieldPath");
        if !from.field("fieldRef").is_absent() && path.must_be_set("", errors) {
            let keyed = ["metadata.labels['", "metadata.annotations['"]
                .iter()
                .any(|p| path.text().starts_with(p) && path.text().ends_with("']"));
            if !keyed {
                path.one_of(&FIELDS, errors);
            }
        }
        let resource = from.field("resourceFieldRef");
        if !resource.is_absent() {
            resource.field("resource").must_be_set("", errors);
        }
        for reference in ["configMapKeyRef", "secretKeyRef"] {
            let reference = from.field(reference);
            if !reference.is_absent() && reference.field("key").must_be_set("", errors) {
                key(&reference.field("key"), errors);
            }
        }
    }
    for source in container.field("envFrom").items() {
        let given = ["configMapRef", "secretRef"].iter().filter(|s| !source.field(s).is_absent()).count();
        match given {
            0 => errors.push(FieldError::invalid(source.path(), "", "must specify one of: `configMapRef` or `secretRef`")),
            1 => {}
            _ => errors.push(FieldError::invalid(source.path(), "", "may not have more than one field specified at a time")),
        }
    }
}

/// A key of a ConfigMap or Secret.
pub(super) fn key(key: &At<'_>, errors: &mut Errors) {
    key.all(key_complaints(key.text()), errors);
}

/// `IsConfigMapKey`.
pub(super) fn key_complaints(key: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if key.len() > 253 {
        complaints.push("must be no more than 253 characters".to_owned());
    }
    if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        let message = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        complaints.push(names::regex_error(message, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"]));
    }
    match key {
        "." => complaints.push("must not be '.'".to_owned()),
        ".." => complaints.push("must not be '..'".to_owned()),
        _ if key.starts_with("..") => complaints.push("must not start with '..'".to_owned()),
        _ => {}
    }
    complaints
}

fn mounts(container: &At<'_>, volumes: &BTreeSet<&str>, errors: &mut Errors) {
    let mut paths = BTreeSet::new();
    for mount in container.field("volumeMounts").items() {
        let (name, path) = (mount.field("name"), mount.field("mountPath"));
        if name.must_be_set("", errors) && !volumes.contains(name.text()) {
            errors.push(FieldError::not_found(name.path(), name.text()));
        }
        path.must_be_set("", errors);
        if !path.text().is_empty() && !paths.insert(path.text()) {
            errors.push(path.invalid("must be unique"));
        }
        mount.field("subPath").descending_path(errors);
        let expression = mount.field("subPathExpr");
        expression.descending_path(errors);
        if !expression.text().is_empty() && !mount.field("subPath").text().is_empty() {
            errors.push(expression.invalid("subPathExpr and subPath are mutually exclusive"));
        }
        mount.field("mountPropagation").one_of(&["None", "HostToContainer", "Bidirectional"], errors);
        if mount.field("mountPropagation").text() == "Bidirectional"
            && !container.field("securityContext").field("privileged").is_true()
        {
            errors.push(
                mount
                    .field("mountPropagation")
                    .forbidden("Bidirectional mount propagation is available only to privileged containers"),
            );
        }
    }
    for device in container.field("volumeDevices").items() {
        if device.field("name").must_be_set("", errors) && !volumes.contains(device.field("name").text()) {
            errors.push(FieldError::not_found(device.field("name").path(), device.field("name").text()));
        }
        device.field("devicePath").must_be_set("", errors);
    }
}

/// Limits and requests.
pub(super) fn resources(resources: &At<'_>, errors: &mut Errors) {
    let (limits, requests) = (resources.field("limits"), resources.field("requests"));
    for list in [&limits, &requests] {
        for (name, amount) in list.entries() {
            resource_name(list, name, errors);
            match amount.quantity() {
                Some(quantity) if quantity.sign() < 0 => errors.push(amount.invalid("must be greater than or equal to 0")),
                _ => {}
            }
        }
    }
    for (name, amount) in requests.entries() {
        let limit = limits.field(name);
        match (amount.quantity(), limit.quantity()) {
            (Some(request), Some(most)) if name.contains('/') && request != most && !name.starts_with("hugepages-") => {
                errors.push(FieldError::invalid(
                    requests.path(),
                    amount.value().clone(),
                    format!("must be equal to {name} limit of {most}"),
                ));
            }
            (Some(request), Some(most)) if request > most => {
                let detail = format!("must be less than or equal to {name} limit of {most}");
                errors.push(FieldError::invalid(requests.path(), amount.value().clone(), detail));
            }
            (Some(_), None) if name.contains('/') => {
                errors.push(limits.required("Limit must be set for non overcommitable resources"))
            }
            _ => {}
        }
    }
}

fn resource_name(list: &At<'_>, name: &str, errors: &mut Errors) {
    let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !name.contains('/') && !standard {
        errors.push(FieldError::invalid(list.path(), name, "must be a standard resource for containers"));
        errors.push(FieldError::invalid(list.path(), name, "must be a standard resource type or fully qualified"));
    }
    errors.extend(names::qualified_name(name).into_iter().map(|detail| FieldError::invalid(list.path(), name, detail)));
}

fn security(context: &At<'_>, errors: &mut Errors) {
    for field in ["runAsUser", "runAsGroup"] {
        context.field(field).within(0, i64::from(i32::MAX), errors);
    }
    let escalation = context.field("allowPrivilegeEscalation");
    if escalation.value() == false {
        if context.field("privileged").is_true() {
            errors.push(context.invalid("cannot set `allowPrivilegeEscalation` to false and `privileged` to true"));
        }
        let added = context.field("capabilities").field("add");
        if added.items().any(|c| matches!(c.text(), "CAP_SYS_ADMIN" | "SYS_ADMIN")) {
            errors.push(context.invalid("cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"));
        }
    }
    context.field("procMount").one_of(&["Default", "Unmasked"], errors);
    profiles(context, errors);
}

/// Seccomp and AppArmor profiles.
pub(super) fn profiles(context: &At<'_>, errors: &mut Errors) {
    for name in ["seccompProfile", "appArmorProfile"] {
        let profile = context.field(name);
        if profile.is_absent() {
            continue;
        }
        profile.field("type").must_be_one_of(&["Localhost", "RuntimeDefault", "Unconfined"], errors);
        let local = profile.field("localhostProfile");
        match (profile.field("type").text() == "Localhost", local.text().is_empty()) {
            (true, true) => errors.push(local.required(&format!(
                "must be set when {} type is Localhost",
                if name == "seccompProfile" { "seccomp" } else { "AppArmor" }
            ))),
            (false, false) => errors.push(local.invalid(format!(
                "can only be set when {} type is Localhost",
                if name == "seccompProfile" { "seccomp" } else { "AppArmor" }
            ))),
            _ => {}
        }
        if name == "seccompProfile" {
            local.descending_path(errors);
        }
    }
}

fn probe(probe: &At<'_>, readiness: bool, errors: &mut Errors) {
    if probe.is_absent() {
        return;
    }
    handler(probe, &["exec", "httpGet", "tcpSocket", "grpc"], errors);
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        probe.field(field).non_negative(errors);
    }
    let grace = probe.field("terminationGracePeriodSeconds");
    if readiness && !grace.is_absent() {
        errors.push(grace.invalid("must not be set for readinessProbes"));
    }
    grace.positive(errors);
    let success = probe.field("successThreshold");
    if !readiness && success.int().is_some_and(|n| n != 1) {
        errors.push(success.invalid("must be 1"));
    }
}

fn handler(at: &At<'_>, kinds: &[&str], errors: &mut Errors) {
    let mut found = 0;
    for kind in kinds {
        let action = at.field(kind);
        if action.is_absent() {
            continue;
        }
        found += 1;
        if found > 1 {
            errors.push(action.forbidden("may not specify more than 1 handler type"));
            continue;
        }
        match *kind {
            "exec" => drop(action.field("command").must_be_set("", errors)),
            "httpGet" => {
                action.field("path").must_be_set("", errors);
                action.field("port").port_or_name(errors);
                action.field("scheme").one_of(&["HTTP", "HTTPS"], errors);
                for header in action.field("httpHeaders").items() {
                    header.field("name").must_be_set("", errors);
                }
            }
            "tcpSocket" => action.field("port").port_or_name(errors),
            "grpc" => action.field("port").port(errors),
            _ => {}
        }
    }
    if found == 0 {
        errors.push(at.required("must specify a handler type"));
    }
}
