//! Containers of all three sorts.

use std::collections::BTreeSet;

use super::at::{At, Errors, port_name};
use super::resources;
use super::security;
use super::volume::Volumes;
use crate::names;
use crate::status::FieldError;

/// What a container's rules depend on beside itself.
pub(super) struct Surroundings<'a> {
    /// The pod's volumes.
    pub(super) volumes: Volumes<'a>,
    /// The names of the pod's resource claims.
    pub(super) claims: BTreeSet<&'a str>,
    /// How long the pod may take to end, in seconds.
    pub(super) grace: Option<i64>,
    /// The pod's restart policy.
    pub(super) restart: &'a str,
    /// Whether the pod's users are the node's.
    pub(super) host_users: bool,
    /// Whether this is a pod, not a template of one.
    pub(super) is_pod: bool,
}

const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];

/// Every container of a pod spec.
pub(super) fn lists(spec: &At<'_>, around: &Surroundings<'_>, errors: &mut Errors) {
    let containers = spec.field("containers");
    if containers.len() == 0 {
        errors.push(containers.required(""));
    }
    let mut main: BTreeSet<&str> = BTreeSet::new();
    for container in containers.items() {
        common(&container, around, errors);
        if !main.insert(container.field("name").text()) {
            errors.push(container.field("name").duplicate());
        }
        running(&container, around, errors);
        restart(&container, errors);
    }
    host_ports(&containers, errors);
    let mut seen = main;
    for container in spec.field("initContainers").items() {
        common(&container, around, errors);
        let name = container.field("name");
        if !seen.insert(name.text()) && !name.text().is_empty() {
            errors.push(name.duplicate());
        }
        if container.field("restartPolicy").text() == "Always" {
            running(&container, around, errors);
        } else {
            for field in ["lifecycle"].into_iter().chain(PROBES) {
                if !container.field(field).is_absent() {
                    let detail = "may not be set for init containers without restartPolicy=Always";
                    errors.push(container.field(field).forbidden(detail));
                }
            }
        }
        restart(&container, errors);
    }
    let others = seen.clone();
    for container in spec.field("ephemeralContainers").items() {
        ephemeral(&container, around, &others, &mut seen, errors);
    }
    if around.is_pod {
        for list in [containers, spec.field("initContainers")] {
            list.items().for_each(|container| trimmed_image(&container, errors));
        }
    }
}

/// What all sorts have in common.
fn common(container: &At<'_>, around: &Surroundings<'_>, errors: &mut Errors) {
    let name = container.field("name");
    if name.must_be_set("", errors) {
        name.all(names::dns1123_label(name.text()), errors);
    }
    container.field("image").must_be_set("", errors);
    container.field("terminationMessagePolicy").must_be_one_of(&["File", "FallbackToLogsOnError"], errors);
    ports(&container.field("ports"), errors);
    env(&container.field("env"), around, errors);
    env_from(&container.field("envFrom"), errors);
    mounts(container, around, errors);
    devices(container, around, errors);
    container.field("imagePullPolicy").must_be_one_of(&["Always", "IfNotPresent", "Never"], errors);
    resources::container(&container.field("resources"), &around.claims, errors);
    resize_policy(&container.field("resizePolicy"), around, errors);
    security::container(&container.field("securityContext"), around.host_users, errors);
}

/// Probes and hooks of what runs as long as the pod.
fn running(container: &At<'_>, around: &Surroundings<'_>, errors: &mut Errors) {
    let lifecycle = container.field("lifecycle");
    if !lifecycle.is_absent() {
        for hook in ["postStart", "preStop"] {
            let hook = lifecycle.field(hook);
            if !hook.is_absent() {
                handler(&hook, &["exec", "httpGet", "tcpSocket", "sleep"], around.grace, errors);
            }
        }
    }
    for field in PROBES {
        let probe = container.field(field);
        if !probe.is_absent() {
            self::probe(&probe, field == "readinessProbe", around.grace, errors);
        }
    }
}

/// When a container is started anew, and the exit codes that say otherwise.
fn restart(container: &At<'_>, errors: &mut Errors) {
    const MAX_RULES: usize = 20;
    const MAX_CODES: usize = 255;
    let (policy, rules) = (container.field("restartPolicy"), container.field("restartPolicyRules"));
    policy.one_of(&["Always", "Never", "OnFailure"], errors);
    if rules.len() == 0 {
        return;
    }
    policy.must_be_set("must specify restartPolicy when restart rules are used", errors);
    rules.at_most_items(MAX_RULES, errors);
    for rule in rules.items() {
        rule.field("action").must_be_one_of(&["Restart", "RestartAllContainers"], errors);
        let codes = rule.field("exitCodes");
        if codes.is_absent() {
            errors.push(codes.required("must be specified"));
            continue;
        }
        codes.field("operator").must_be_one_of(&["In", "NotIn"], errors);
        codes.field("values").at_most_items(MAX_CODES, errors);
    }
}

fn ephemeral<'a>(
    container: &At<'a>,
    around: &Surroundings<'_>,
    others: &BTreeSet<&'a str>,
    seen: &mut BTreeSet<&'a str>,
    errors: &mut Errors,
) {
    const DETAIL: &str = "cannot be set for an Ephemeral Container";
    common(container, around, errors);
    trimmed_image(container, errors);
    let (name, target) = (container.field("name"), container.field("targetContainerName"));
    if !seen.insert(name.text()) {
        errors.push(name.duplicate());
    }
    if !target.text().is_empty() && !others.contains(target.text()) {
        errors.push(FieldError::not_found(target.path(), target.text()));
    }
    let lists = ["ports", "resizePolicy", "restartPolicyRules"];
    for field in lists.into_iter().filter(|field| container.field(field).len() > 0) {
        errors.push(container.field(field).forbidden(DETAIL));
    }
    let resources = container.field("resources");
    if ["limits", "requests", "claims"].iter().any(|field| resources.field(field).len() > 0) {
        errors.push(resources.forbidden(DETAIL));
    }
    for field in PROBES.into_iter().chain(["lifecycle", "restartPolicy"]) {
        if !container.field(field).is_absent() {
            errors.push(container.field(field).forbidden(DETAIL));
        }
    }
    for mount in container.field("volumeMounts").items() {
        for field in ["subPath", "subPathExpr"] {
            if !mount.field(field).text().is_empty() {
                errors.push(mount.field(field).forbidden(DETAIL));
            }
        }
    }
}

fn trimmed_image(container: &At<'_>, errors: &mut Errors) {
    let image = container.field("image");
    if image.text() != image.text().trim() {
        errors.push(image.invalid("must not have leading or trailing whitespace"));
    }
}

fn ports(ports: &At<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for port in ports.items() {
        let name = port.field("name");
        if !name.text().is_empty() {
            let complaints = port_name(name.text());
            if complaints.is_empty() && !seen.insert(name.text()) {
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
        }
        port.field("protocol").must_be_one_of(&["TCP", "UDP", "SCTP"], errors);
    }
}

/// No two containers that run at once have the same port of the node.
fn host_ports(containers: &At<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for container in containers.items() {
        for port in container.field("ports").items() {
            let host = port.field("hostPort");
            let Some(number) = host.int().filter(|number| *number != 0) else { continue };
            let (protocol, ip) = (port.field("protocol").text(), port.field("hostIP").text());
            if !seen.insert((protocol, ip, number)) {
                errors.push(FieldError::duplicate(host.path(), format!("{protocol}/{ip}/{number}")));
            }
        }
    }
}

/// `IsRelaxedEnvVarName`.
fn env_name(name: &At<'_>, errors: &mut Errors) {
    if !name.text().bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=') {
        errors.push(
            name.invalid("a valid environment variable name must consist only of printable ASCII characters other than '='"),
        );
    }
}

fn env(env: &At<'_>, around: &Surroundings<'_>, errors: &mut Errors) {
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
    const SOURCES: [&str; 5] = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
    for variable in env.items() {
        let name = variable.field("name");
        if name.must_be_set("", errors) {
            env_name(&name, errors);
        }
        let from = variable.field("valueFrom");
        if from.is_absent() {
            continue;
        }
        let mut given = 0;
        for kind in SOURCES {
            let source = from.field(kind);
            if source.is_absent() {
                continue;
            }
            given += 1;
            match kind {
                "fieldRef" => field_ref(&source, &FIELDS, errors),
                "resourceFieldRef" => resource_field_ref(&source, false, errors),
                "fileKeyRef" => file_key(&source, around, errors),
                _ => {
                    let name = source.field("name");
                    let complaints = names::dns1123_subdomain(name.text());
                    let told = complaints.into_iter();
                    errors.extend(told.map(|detail| FieldError::invalid(name.path(), name.text(), detail)));
                    if source.field("key").must_be_set("", errors) {
                        source.field("key").all(key_complaints(source.field("key").text()), errors);
                    }
                }
            }
        }
        let mut wrong = |detail: &str| errors.push(FieldError::invalid(from.path(), "", detail));
        if given == 0 {
            wrong("must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`");
        } else if !variable.field("value").text().is_empty() {
            wrong("may not be specified when `value` is not empty");
        } else if given > 1 {
            wrong("may not have more than one field specified at a time");
        }
    }
}

/// A variable from a file that an init container leaves in a volume of the pod's own.
fn file_key(source: &At<'_>, around: &Surroundings<'_>, errors: &mut Errors) {
    let (key, volume, path) = (source.field("key"), source.field("volumeName"), source.field("path"));
    if key.must_be_set("", errors) {
        env_name(&key, errors);
    }
    if volume.must_be_set("", errors) {
        match around.volumes.get(volume.text()) {
            None => errors.push(FieldError::not_found(volume.path(), volume.text())),
            Some(kind) if *kind != "emptyDir" => errors.push(volume.invalid("must be an emptyDir volume")),
            Some(_) => {}
        }
    }
    if path.must_be_set("", errors) {
        path.descending_path(errors);
    }
}

/// A field of the pod itself.
pub(super) fn field_ref(at: &At<'_>, fields: &[&str], errors: &mut Errors) {
    let path = at.field("fieldPath");
    if !at.field("apiVersion").must_be_set("", errors) || !path.must_be_set("", errors) {
        return;
    }
    let subscripted = path.text().strip_suffix("']").and_then(|text| text.split_once("['"));
    match subscripted {
        Some(("metadata.annotations", key)) => {
            let complaints = names::qualified_name(&key.to_lowercase());
            errors.extend(complaints.into_iter().map(|detail| FieldError::invalid(at.path(), key.to_lowercase(), detail)));
        }
        Some(("metadata.labels", key)) => {
            let complaints = names::qualified_name(key);
            errors.extend(complaints.into_iter().map(|detail| FieldError::invalid(at.path(), key, detail)));
        }
        Some(_) => {
            let detail = format!("error converting fieldPath: field label does not support subscript: {}", path.text());
            errors.push(path.invalid(detail));
        }
        None if fields.contains(&path.text()) => {}
        None => {
            // Known to a pod, but not to what asks here; or to nobody.
            let known = [
                "metadata.annotations",
                "metadata.labels",
                "metadata.name",
                "metadata.namespace",
                "metadata.uid",
                "spec.nodeName",
                "spec.restartPolicy",
                "spec.serviceAccountName",
                "spec.schedulerName",
                "status.phase",
                "status.hostIP",
                "status.hostIPs",
                "status.podIP",
                "status.podIPs",
            ];
            if known.contains(&path.text()) {
                errors.push(path.unsupported(fields));
            } else {
                let detail = format!("error converting fieldPath: field label not supported: {}", path.text());
                errors.push(path.invalid(detail));
            }
        }
    }
}

/// A request or limit of a container.
pub(super) fn resource_field_ref(at: &At<'_>, volume: bool, errors: &mut Errors) {
    const FIELDS: [&str; 6] = [
        "limits.cpu",
        "limits.ephemeral-storage",
        "limits.memory",
        "requests.cpu",
        "requests.ephemeral-storage",
        "requests.memory",
    ];
    const BYTES: &str = "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the";
    let (container, resource, divisor) = (at.field("containerName"), at.field("resource"), at.field("divisor"));
    let name = resource.text();
    let huge = name.starts_with("requests.hugepages-") || name.starts_with("limits.hugepages-");
    if volume && container.text().is_empty() {
        errors.push(container.required(""));
    } else if name.is_empty() {
        errors.push(resource.required(""));
    } else if !FIELDS.contains(&name) && !huge {
        errors.push(resource.unsupported(&FIELDS));
    }
    let Some(quantity) = divisor.quantity().filter(|quantity| !quantity.is_zero()) else { return };
    let text = quantity.to_string();
    let bytes = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"].contains(&text.as_str());
    let detail = match name {
        "limits.cpu" | "requests.cpu" if !matches!(text.as_str(), "1m" | "1") => {
            "only divisor's values 1m and 1 are supported with the cpu resource".to_owned()
        }
        "limits.memory" | "requests.memory" if !bytes => format!("{BYTES} memory resource"),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" if !bytes => {
            format!("{BYTES} local ephemeral storage resource")
        }
        _ if huge && !bytes => format!("{BYTES} hugepages resource"),
        _ => return,
    };
    errors.push(FieldError::invalid(divisor.path(), name, detail));
}

/// Upstream tells of the list, not of the item.
fn env_from(list: &At<'_>, errors: &mut Errors) {
    for source in list.items() {
        env_name(&source.field("prefix"), errors);
        let mut given = 0;
        for kind in ["configMapRef", "secretRef"] {
            let reference = source.field(kind);
            if !reference.is_absent() {
                given += 1;
                if reference.field("name").must_be_set("", errors) {
                    reference.field("name").subdomain(errors);
                }
            }
        }
        match given {
            0 => errors.push(FieldError::invalid(list.path(), "", "must specify one of: `configMapRef` or `secretRef`")),
            1 => {}
            _ => errors.push(FieldError::invalid(list.path(), "", "may not have more than one field specified at a time")),
        }
    }
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

/// Upstream tells of paths and propagation at the list, of the rest at the item.
fn mounts(container: &At<'_>, around: &Surroundings<'_>, errors: &mut Errors) {
    let (list, devices) = (container.field("volumeMounts"), container.field("volumeDevices"));
    let mut paths = BTreeSet::new();
    for mount in list.items() {
        let (name, path) = (mount.field("name"), mount.field("mountPath"));
        name.must_be_set("", errors);
        if !around.volumes.contains_key(name.text()) {
            errors.push(FieldError::not_found(name.path(), name.text()));
        }
        path.must_be_set("", errors);
        if !paths.insert(path.text()) {
            errors.push(path.invalid("must be unique"));
        }
        for device in devices.items() {
            if device.field("name").text() == name.text() {
                errors.push(name.invalid("must not already exist in volumeDevices"));
            }
            if device.field("devicePath").text() == path.text() {
                errors.push(path.invalid("must not already exist as a path in volumeDevices"));
            }
        }
        let at_list = |field: &str| mount.field(field).told_at(format!("{}.{field}", list.path()));
        let (sub, expression) = (mount.field("subPath"), mount.field("subPathExpr"));
        if !sub.text().is_empty() {
            at_list("subPath").descending_path(errors);
        }
        if !expression.text().is_empty() {
            if !sub.text().is_empty() {
                errors.push(expression.invalid("subPathExpr and subPath are mutually exclusive"));
            }
            at_list("subPathExpr").descending_path(errors);
        }
        let propagation = mount.field("mountPropagation");
        if !propagation.is_absent() {
            let told = at_list("mountPropagation");
            told.one_of(&["None", "HostToContainer", "Bidirectional"], errors);
            if told.text() == "Bidirectional" && !container.field("securityContext").field("privileged").is_true() {
                errors.push(told.forbidden("Bidirectional mount propagation is available only to privileged containers"));
            }
        }
        let recursive = mount.field("recursiveReadOnly");
        if matches!(recursive.text(), "Enabled" | "IfPossible") {
            let told = at_list("recursiveReadOnly");
            if !mount.field("readOnly").is_true() {
                errors.push(told.forbidden("may only be specified when readOnly is true"));
            }
            if !matches!(propagation.text(), "" | "None") {
                errors.push(told.forbidden("may only be specified when mountPropagation is None or not specified"));
            }
        } else if !recursive.is_absent() {
            at_list("recursiveReadOnly").one_of(&["Disabled", "IfPossible", "Enabled"], errors);
        }
    }
}

fn devices(container: &At<'_>, around: &Surroundings<'_>, errors: &mut Errors) {
    let mounts = container.field("volumeMounts");
    let (mut names_seen, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for device in container.field("volumeDevices").items() {
        let (name, path) = (device.field("name"), device.field("devicePath"));
        name.must_be_set("", errors);
        if !name.text().is_empty() && !names_seen.insert(name.text()) {
            errors.push(name.invalid("must be unique"));
        }
        match around.volumes.get(name.text()) {
            None => errors.push(FieldError::not_found(name.path(), name.text())),
            Some(kind) if !matches!(*kind, "persistentVolumeClaim" | "ephemeral") => {
                let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.push(name.invalid(detail));
            }
            Some(_) => {}
        }
        path.must_be_set("", errors);
        if paths.contains(path.text()) {
            errors.push(path.invalid("must be unique"));
        }
        if path.text().split('/').any(|part| part == "..") {
            errors.push(path.invalid("can not contain backsteps ('..')"));
        } else {
            paths.insert(path.text());
        }
        for mount in mounts.items() {
            if mount.field("name").text() == name.text() {
                errors.push(name.invalid("must not already exist in volumeMounts"));
            }
            if mount.field("mountPath").text() == path.text() {
                errors.push(path.invalid("must not already exist as a path in volumeMounts"));
            }
        }
    }
}

/// Upstream tells of the list but for duplicates.
fn resize_policy(list: &At<'_>, around: &Surroundings<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for policy in list.items() {
        let (name, restart) = (policy.field("resourceName"), policy.field("restartPolicy"));
        if !seen.insert(name.text()) {
            errors.push(FieldError::duplicate(policy.path(), name.text()));
        }
        name.told_at(list.path()).must_be_one_of(&["cpu", "memory"], errors);
        let restart = restart.told_at(list.path());
        restart.must_be_one_of(&["NotRequired", "RestartContainer"], errors);
        if around.restart == "Never" && restart.text() != "NotRequired" {
            errors.push(restart.invalid("must be 'NotRequired' when `restartPolicy` is 'Never'"));
        }
    }
}

fn probe(probe: &At<'_>, readiness: bool, grace: Option<i64>, errors: &mut Errors) {
    handler(probe, &["exec", "httpGet", "tcpSocket", "grpc"], grace, errors);
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        probe.field(field).non_negative(errors);
    }
    let (own_grace, success) = (probe.field("terminationGracePeriodSeconds"), probe.field("successThreshold"));
    if own_grace.int().is_some_and(|seconds| seconds <= 0) {
        errors.push(own_grace.invalid("must be greater than 0"));
    }
    if readiness && !own_grace.is_absent() {
        errors.push(own_grace.invalid("must not be set for readinessProbes"));
    }
    if !readiness && success.int().is_some_and(|n| n != 1) {
        errors.push(success.invalid("must be 1"));
    }
}

fn handler(at: &At<'_>, kinds: &[&str], grace: Option<i64>, errors: &mut Errors) {
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
            "exec" => {
                action.field("command").must_be_set("", errors);
            }
            "httpGet" => http_get(&action, errors),
            "tcpSocket" | "grpc" => action.field("port").port_or_name(errors),
            "sleep" => {
                let seconds = action.field("seconds").int().unwrap_or(0);
                if let Some(grace) = grace.filter(|grace| seconds < 0 || seconds > *grace) {
                    let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                    errors.push(FieldError::invalid(action.path(), seconds, detail));
                }
            }
            _ => {}
        }
    }
    if found == 0 {
        errors.push(at.required("must specify a handler type"));
    }
}

fn http_get(action: &At<'_>, errors: &mut Errors) {
    action.field("path").must_be_set("", errors);
    action.field("port").port_or_name(errors);
    let scheme = action.field("scheme");
    if !matches!(scheme.text(), "HTTP" | "HTTPS") {
        errors.push(FieldError::not_supported(scheme.path(), scheme.text(), &["HTTP", "HTTPS"]));
    }
    let headers = action.field("httpHeaders");
    for header in headers.items() {
        let name = header.field("name").text();
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            let message = "a valid HTTP header must consist of alphanumeric characters or '-'";
            let detail = names::regex_error(message, "[-A-Za-z0-9]+", &["X-Header-Name"]);
            errors.push(FieldError::invalid(headers.path(), name, detail));
        }
    }
}
