//! Pods and pod templates (`pkg/apis/core/validation/validation.go`).

use std::collections::BTreeSet;

use serde_json::Value;

use super::at::{At, Errors};
use super::container::Surroundings;
use super::{container, meta, resources, security, volume};
use crate::names;
use crate::status::FieldError;

/// A whole pod. What of it may change after creation is the API server's to check.
pub(super) fn pod(root: &At<'_>, update: bool, errors: &mut Errors) {
    let (metadata, spec) = (root.field("metadata"), root.field("spec"));
    self::spec(&spec, Some(metadata.field("name").text()), errors);
    if spec.field("serviceAccountName").text().is_empty() {
        for volume in spec.field("volumes").items() {
            for source in volume.field("projected").field("sources").items() {
                let token = source.field("serviceAccountToken");
                if !token.is_absent() {
                    errors.push(token.forbidden("must not be specified when serviceAccountName is not set"));
                }
            }
        }
    }
    annotations(&metadata.field("annotations"), errors);
    if update {
        return;
    }
    if spec.field("ephemeralContainers").len() > 0 {
        errors.push(spec.field("ephemeralContainers").forbidden("cannot be set on create"));
    }
    if !spec.field("nodeName").text().is_empty() && spec.field("schedulingGates").len() > 0 {
        errors.push(spec.field("nodeName").forbidden("cannot be set until all schedulingGates have been cleared"));
    }
}

/// `spec.template`.
pub(super) fn template(template: &At<'_>, errors: &mut Errors) {
    template_metadata(template, errors);
    let spec = template.field("spec");
    self::spec(&spec, None, errors);
    if spec.field("ephemeralContainers").len() > 0 {
        errors.push(spec.field("ephemeralContainers").forbidden("ephemeral containers not allowed in pod template"));
    }
}

/// The labels and annotations of `spec.template`.
pub(super) fn template_metadata(template: &At<'_>, errors: &mut Errors) {
    let metadata = template.field("metadata");
    // Upstream leaves `metadata` out of these two paths.
    meta::labels(&metadata.field("labels").told_at(format!("{}.labels", template.path())), errors);
    let annotated = metadata.field("annotations").told_at(format!("{}.annotations", template.path()));
    meta::annotations(&annotated, errors);
    annotations(&annotated, errors);
}

/// Annotations that are more than notes.
fn annotations(at: &At<'_>, errors: &mut Errors) {
    const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
    if at.is_absent() {
        return;
    }
    let cost = at.field(COST);
    if cost.is_absent() {
        return;
    }
    let text = cost.text();
    let plain = text == "0" || !text.strip_prefix('-').unwrap_or(text).starts_with('0') && !text.starts_with('+');
    if !plain || text.parse::<i32>().is_err() {
        errors.push(FieldError::invalid(at.key(COST).path(), text, "must be a 32bit integer"));
    }
}

/// The spec of a pod, or of one to be made; `pod` is the name of a pod there is.
fn spec(spec: &At<'_>, pod: Option<&str>, errors: &mut Errors) {
    let grace = spec.field("terminationGracePeriodSeconds");
    if grace.is_absent() {
        errors.push(grace.required(""));
    }
    let volumes = volume::list(&spec.field("volumes"), pod, errors);
    let claims = resources::pod_claims(&spec.field("resourceClaims"), errors);
    let restart = spec.field("restartPolicy");
    let around = Surroundings {
        volumes,
        claims,
        grace: grace.int(),
        restart: restart.text(),
        host_users: spec.field("hostUsers").value() != false,
        is_pod: pod.is_some(),
    };
    container::lists(spec, &around, errors);
    resources::pod(spec, errors);
    if spec.field("hostNetwork").is_true() {
        host_network(spec, pod.is_some(), errors);
    }
    restart.must_be_one_of(&["Always", "OnFailure", "Never"], errors);
    let policy = spec.field("dnsPolicy");
    policy.must_be_one_of(&["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"], errors);
    meta::labels(&spec.field("nodeSelector"), errors);
    security::pod(spec, errors);
    affinity(&spec.field("affinity"), errors);
    dns(policy.text(), &spec.field("dnsConfig"), errors);
    for gate in spec.field("readinessGates").items() {
        gate.field("conditionType").qualified(errors);
    }
    gates(&spec.field("schedulingGates"), errors);
    spreads(&spec.field("topologySpreadConstraints"), errors);
    security::host_process(spec, errors);
    security::host_users(spec, errors);
    for field in ["serviceAccountName", "nodeName"] {
        spec.field(field).subdomain(errors);
    }
    spec.field("activeDeadlineSeconds").within(1, i64::from(i32::MAX), errors);
    for field in ["hostname", "subdomain"] {
        spec.field(field).label(errors);
    }
    host_name(spec, errors);
    tolerations(&spec.field("tolerations"), errors);
    for alias in spec.field("hostAliases").items() {
        alias.field("ip").must_be_ip(errors);
        for name in alias.field("hostnames").items() {
            name.all(names::dns1123_subdomain(name.text()), errors);
        }
    }
    spec.field("priorityClassName").subdomain(errors);
    let class = spec.field("runtimeClassName");
    if !class.is_absent() {
        class.all(names::dns1123_subdomain(class.text()), errors);
    }
    let preemption = spec.field("preemptionPolicy");
    if !preemption.is_absent() {
        preemption.must_be_one_of(&["Never", "PreemptLowerPriority"], errors);
    }
    let overhead = spec.field("overhead");
    if !overhead.is_absent() {
        for (name, amount) in overhead.entries() {
            super::quota::container_resource(name, &amount, errors);
            super::quota::amount(name, &amount, errors);
        }
    }
    security::os(spec, errors);
}

/// A name that replaces the one a pod would have on its own.
fn host_name(spec: &At<'_>, errors: &mut Errors) {
    let own = spec.field("hostnameOverride");
    if own.is_absent() {
        return;
    }
    own.all(names::dns1123_subdomain(own.text()), errors);
    own.at_most_bytes(64, errors);
    if spec.field("hostNetwork").is_true() {
        errors.push(own.forbidden("may not be specified when hostNetwork is true"));
    }
    if spec.field("setHostnameAsFQDN").is_true() {
        errors.push(own.forbidden("may not be specified when setHostnameAsFQDN is true"));
    }
}

/// A container in the node's network has the ports it says.
fn host_network(spec: &At<'_>, is_pod: bool, errors: &mut Errors) {
    for container in spec.field("containers").items() {
        for port in container.field("ports").items() {
            let (host, number) = (port.field("hostPort"), port.field("containerPort"));
            let given = host.int().unwrap_or(0);
            if (is_pod || given != 0) && given != number.int().unwrap_or(0) {
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.push(FieldError::invalid(host.path(), given, detail));
            }
        }
    }
}

fn dns(policy: &str, config: &At<'_>, errors: &mut Errors) {
    const MAX_SERVERS: usize = 3;
    const MAX_SEARCHES: usize = 32;
    const MAX_SEARCH_CHARACTERS: usize = 2048;
    let servers = config.field("nameservers");
    if policy == "None" {
        if config.is_absent() {
            errors.push(config.required("must provide `dnsConfig` when `dnsPolicy` is None"));
            return;
        }
        if servers.len() == 0 {
            errors.push(servers.required("must provide at least one DNS nameserver when `dnsPolicy` is None"));
            return;
        }
    }
    if config.is_absent() {
        return;
    }
    if servers.len() > MAX_SERVERS {
        errors.push(servers.invalid(format!("must not have more than {MAX_SERVERS} nameservers")));
    }
    servers.items().for_each(|server| server.must_be_ip(errors));
    let searches = config.field("searches");
    if searches.len() > MAX_SEARCHES {
        errors.push(searches.invalid(format!("must not have more than {MAX_SEARCHES} search paths")));
    }
    let length = searches.texts().map(|text| text.len() + 1).sum::<usize>().saturating_sub(1);
    if length > MAX_SEARCH_CHARACTERS {
        let detail = format!("must not have more than {MAX_SEARCH_CHARACTERS} characters (including spaces) in the search list");
        errors.push(searches.invalid(detail));
    }
    for search in searches.items().filter(|search| search.text() != ".") {
        let text = search.text().strip_suffix('.').unwrap_or(search.text());
        let complaints = names::underscored_subdomain(text);
        errors.extend(complaints.into_iter().map(|detail| FieldError::invalid(search.path(), text, detail)));
    }
    for option in config.field("options").items().filter(|option| option.field("name").text().is_empty()) {
        errors.push(option.required("must not be empty"));
    }
}

/// Upstream tells of the item, not of its name.
fn gates(gates: &At<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for gate in gates.items() {
        let name = gate.field("name").told_at(gate.path());
        name.qualified(errors);
        if !seen.insert(name.text()) {
            errors.push(name.duplicate());
        }
    }
}

/// Tolerations of a pod or of a RuntimeClass.
pub(super) fn tolerations(list: &At<'_>, errors: &mut Errors) {
    list.items().for_each(|toleration| self::toleration(&toleration, errors));
}

fn toleration(toleration: &At<'_>, errors: &mut Errors) {
    let (key, operator, value, effect) =
        (toleration.field("key"), toleration.field("operator"), toleration.field("value"), toleration.field("effect"));
    let told = |detail: String| FieldError::invalid(operator.path(), value.text(), detail);
    if !key.text().is_empty() {
        key.qualified(errors);
    } else if operator.text() != "Exists" {
        let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.push(FieldError::invalid(operator.path(), operator.text(), detail));
    }
    if !toleration.field("tolerationSeconds").is_absent() && effect.text() != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.push(FieldError::invalid(effect.path(), effect.text(), detail));
    }
    match operator.text() {
        "" | "Equal" => {
            let complaints = names::label_value(value.text());
            if !complaints.is_empty() {
                errors.push(told(complaints.join(";")));
            }
        }
        "Exists" if !value.text().is_empty() => {
            errors.push(told("value must be empty when `operator` is 'Exists'".to_owned()));
        }
        "Exists" => {}
        _ => errors.push(operator.unsupported(&["Equal", "Exists"])),
    }
    effect.one_of(&["NoSchedule", "PreferNoSchedule", "NoExecute"], errors);
}

fn spreads(constraints: &At<'_>, errors: &mut Errors) {
    let mut pairs: Vec<(&str, &str)> =
        constraints.items().map(|c| (c.field("topologyKey").text(), c.field("whenUnsatisfiable").text())).collect();
    pairs.reverse();
    for constraint in constraints.items() {
        let pair = pairs.pop();
        spread(&constraint, errors);
        if let Some((key, action)) = pair.filter(|pair| pairs.contains(pair)) {
            let path = format!("{}.{{topologyKey, whenUnsatisfiable}}", constraint.path());
            errors.push(FieldError::duplicate(path, format!("{{{key}, {action}}}")));
        }
        spread_rest(&constraint, errors);
    }
}

fn spread(constraint: &At<'_>, errors: &mut Errors) {
    let (skew, action) = (constraint.field("maxSkew"), constraint.field("whenUnsatisfiable"));
    if skew.int().unwrap_or(0) <= 0 {
        errors.push(FieldError::invalid(skew.path(), skew.int().unwrap_or(0), "must be greater than zero"));
    }
    constraint.field("topologyKey").must_be_set("can not be empty", errors);
    if !matches!(action.text(), "DoNotSchedule" | "ScheduleAnyway") {
        errors.push(FieldError::not_supported(action.path(), action.text(), &["DoNotSchedule", "ScheduleAnyway"]));
    }
}

fn spread_rest(constraint: &At<'_>, errors: &mut Errors) {
    let (action, domains) = (constraint.field("whenUnsatisfiable"), constraint.field("minDomains"));
    domains.positive(errors);
    if !domains.is_absent() && action.text() != "DoNotSchedule" {
        let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {}", action.text());
        errors.push(domains.invalid(detail));
    }
    for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
        let policy = constraint.field(field);
        if !policy.is_absent() && !matches!(policy.text(), "Honor" | "Ignore") {
            errors.push(policy.unsupported(&["Honor", "Ignore"]));
        }
    }
    let (keys, selector) = (constraint.field("matchLabelKeys"), constraint.field("labelSelector"));
    if keys.len() > 0 {
        if selector.is_absent() {
            errors.push(keys.forbidden("must not be specified when labelSelector is not set"));
        }
        for key in keys.items() {
            key.qualified(errors);
            if selects_by(&selector, key.text()) {
                errors.push(key.invalid("exists in both matchLabelKeys and labelSelector"));
            }
        }
    }
    selector.label_selector(errors);
}

/// Whether a selector names a label.
fn selects_by(selector: &At<'_>, key: &str) -> bool {
    selector.field("matchLabels").value().get(key).is_some()
        || selector.field("matchExpressions").items().any(|expression| expression.field("key").text() == key)
}

fn affinity(affinity: &At<'_>, errors: &mut Errors) {
    if affinity.is_absent() {
        return;
    }
    let node = affinity.field("nodeAffinity");
    let required = node.field("requiredDuringSchedulingIgnoredDuringExecution");
    if !required.is_absent() {
        node_selector(&required, errors);
    }
    for preferred in node.field("preferredDuringSchedulingIgnoredDuringExecution").items() {
        weight(&preferred.field("weight"), errors);
        node_term(&preferred.field("preference"), false, errors);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let pods = affinity.field(kind);
        pods.field("requiredDuringSchedulingIgnoredDuringExecution").items().for_each(|term| pod_term(&term, errors));
        for preferred in pods.field("preferredDuringSchedulingIgnoredDuringExecution").items() {
            weight(&preferred.field("weight"), errors);
            pod_term(&preferred.field("podAffinityTerm"), errors);
        }
    }
}

/// Which nodes fit: those of any of the terms.
pub(super) fn node_selector(selector: &At<'_>, errors: &mut Errors) {
    let terms = selector.field("nodeSelectorTerms");
    if terms.must_be_set("must have at least one node selector term", errors) {
        terms.items().for_each(|term| node_term(&term, true, errors));
    }
}

fn weight(weight: &At<'_>, errors: &mut Errors) {
    if !(1..=100).contains(&weight.int().unwrap_or(0)) {
        errors.push(FieldError::invalid(weight.path(), weight.int().unwrap_or(0), "must be in the range 1-100"));
    }
}

/// One term; labels' values are looked at only where nodes have to fit.
fn node_term(term: &At<'_>, must: bool, errors: &mut Errors) {
    for expression in term.field("matchExpressions").items() {
        let (key, operator, values) = (expression.field("key"), expression.field("operator"), expression.field("values"));
        match operator.text() {
            "In" | "NotIn" if values.len() == 0 => {
                errors.push(values.required("must be specified when `operator` is 'In' or 'NotIn'"));
            }
            "Exists" | "DoesNotExist" if values.len() > 0 => {
                errors.push(values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'"));
            }
            "Gt" | "Lt" if values.len() != 1 => {
                errors.push(values.required("must be specified single value when `operator` is 'Lt' or 'Gt'"));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            _ => errors.push(operator.invalid("not a valid selector operator")),
        }
        key.qualified(errors);
        if must {
            values.items().for_each(|value| value.all(names::label_value(value.text()), errors));
        }
    }
    for expression in term.field("matchFields").items() {
        let (key, operator, values) = (expression.field("key"), expression.field("operator"), expression.field("values"));
        match operator.text() {
            "In" | "NotIn" if values.len() != 1 => {
                errors.push(values.required("must be only one value when `operator` is 'In' or 'NotIn' for node field selector"))
            }
            "In" | "NotIn" => {}
            _ => errors.push(operator.invalid("not a valid selector operator")),
        }
        if key.text() == "metadata.name" {
            values.items().for_each(|value| value.all(names::dns1123_subdomain(value.text()), errors));
        } else {
            errors.push(key.invalid("not a valid field selector key"));
        }
    }
}

fn pod_term(term: &At<'_>, errors: &mut Errors) {
    let selector = term.field("labelSelector");
    selector.label_selector(errors);
    term.field("namespaceSelector").label_selector(errors);
    for namespace in term.field("namespaces").texts() {
        let path = format!("{}.namespace", term.path());
        let complaints = names::dns1123_label(namespace);
        errors.extend(complaints.into_iter().map(|detail| FieldError::invalid(path.clone(), namespace, detail)));
    }
    let (keys, others) = (term.field("matchLabelKeys"), term.field("mismatchLabelKeys"));
    for list in [&keys, &others] {
        if list.len() > 0 && selector.is_absent() {
            errors.push(list.forbidden("must not be specified when labelSelector is not set"));
        } else {
            list.items().for_each(|key| key.qualified(errors));
        }
    }
    if !selector.is_absent() {
        for (index, key) in keys.texts().enumerate() {
            if selects_by(&selector, key) {
                let path = format!("{}[{index}]", term.path());
                errors.push(FieldError::invalid(path, key, "exists in both matchLabelKeys and labelSelector"));
            }
        }
    }
    for key in keys.items().filter(|key| others.texts().any(|other| other == key.text())) {
        errors.push(key.invalid("exists in both matchLabelKeys and mismatchLabelKeys"));
    }
    let topology = term.field("topologyKey");
    topology.must_be_set("can not be empty", errors);
    topology.qualified(errors);
}

/// What a status update must not do.
pub(super) fn status(root: &At<'_>, old: &Value, errors: &mut Errors) {
    let (spec, status) = (root.field("spec"), root.field("status"));
    for (index, condition) in status.field("conditions").items().enumerate() {
        let ty = condition.field("type");
        if !matches!(ty.text(), "PodScheduled" | "Ready" | "Initialized") {
            ty.told_at(format!("metadata.conditions[{index}].Type")).qualified(errors);
        }
    }
    let before = |pointer: &str| old.pointer(pointer).unwrap_or(&Value::Null);
    let nominated = status.field("nominatedNodeName");
    if nominated.value() != before("/status/nominatedNodeName") {
        nominated.subdomain(errors);
    }
    let qos = status.field("qosClass");
    if qos.text() != before("/status/qosClass").as_str().unwrap_or_default() {
        errors.push(qos.invalid("field is immutable"));
    }
    let restart = spec.field("restartPolicy").text();
    for (list, restart, containers) in [
        ("containerStatuses", restart, "containers"),
        ("initContainerStatuses", restart, "initContainers"),
        ("ephemeralContainerStatuses", "Never", "ephemeralContainers"),
    ] {
        let now = status.field(list);
        transitions(&now, before(&format!("/status/{list}")), restart, &spec.field(containers), errors);
    }
    resource_claims(&spec, &status.field("resourceClaimStatuses"), errors);
    addresses(&status.field("podIPs"), errors);
    let hosts = status.field("hostIPs");
    if let Some(first) = hosts.items().next() {
        let ip = first.field("ip");
        if ip.text() != status.field("hostIP").text() {
            errors.push(ip.invalid("must be equal to `hostIP`"));
        }
    }
    addresses(&hosts, errors);
}

/// A container that ended and is not started again stays ended.
fn transitions(now: &At<'_>, old: &Value, restart: &str, containers: &At<'_>, errors: &mut Errors) {
    if restart == "Always" {
        return;
    }
    for (index, before) in old.as_array().into_iter().flatten().enumerate() {
        let Some(ended) = before.pointer("/state/terminated").filter(|ended| !ended.is_null()) else { continue };
        if restart == "OnFailure" && ended["exitCode"].as_i64().unwrap_or(0) != 0 {
            continue;
        }
        // One with a policy of its own may start again.
        let own = containers
            .items()
            .any(|container| *container.field("name").value() == before["name"] && !container.field("restartPolicy").is_absent());
        let running = now.items().any(|status| {
            *status.field("name").value() == before["name"] && status.field("state").field("terminated").is_absent()
        });
        if running && !own {
            let path = format!("{}[{index}].state", now.path());
            errors.push(FieldError::forbidden(path, "may not be transitioned to non-terminated state"));
        }
    }
}

fn resource_claims(spec: &At<'_>, statuses: &At<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for status in statuses.items() {
        let (name, claim) = (status.field("name"), status.field("resourceClaimName"));
        if !spec.field("resourceClaims").items().any(|claim| claim.field("name").text() == name.text()) {
            errors.push(name.invalid("must match the name of an entry in `spec.resourceClaims`"));
        }
        if !seen.insert(name.text()) {
            errors.push(name.duplicate());
        }
        if !claim.is_absent() {
            claim.told_at(name.path()).all(names::dns1123_subdomain(claim.text()), errors);
        }
    }
}

/// At most one address of each family. Upstream tells of the item, not of its address.
fn addresses(list: &At<'_>, errors: &mut Errors) {
    let mut families = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for item in list.items() {
        let ip = item.field("ip").told_at(item.path());
        ip.must_be_ip(errors);
        families.insert(ip.text().contains(':'));
        if !seen.insert(ip.text()) {
            errors.push(item.duplicate());
        }
    }
    if list.len() > 1 && (list.len() > 2 || families.len() < 2) {
        errors.push(list.invalid("may specify no more than one IP for each IP family"));
    }
}
