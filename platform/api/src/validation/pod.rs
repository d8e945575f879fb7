//! Pods and pod templates (`pkg/apis/core/validation/validation.go`).

use std::collections::BTreeSet;

use super::at::{At, Errors};
use super::{container, meta, volume};
use crate::names;

/// A whole pod; its spec is fixed after creation, so on update it is not looked at again but for what may change.
pub(super) fn pod(root: &At<'_>, update: bool, errors: &mut Errors) {
    let spec = root.field("spec");
    self::spec(&spec, errors);
    if !update && spec.field("ephemeralContainers").len() > 0 {
        errors.push(spec.field("ephemeralContainers").forbidden("cannot be set on create"));
    }
}

/// `spec.template`.
pub(super) fn template(template: &At<'_>, errors: &mut Errors) {
    let metadata = template.field("metadata");
    meta::labels(&metadata.field("labels"), errors);
    meta::annotations(&metadata.field("annotations"), errors);
    let spec = template.field("spec");
    self::spec(&spec, errors);
    if spec.field("ephemeralContainers").len() > 0 {
        errors.push(spec.field("ephemeralContainers").forbidden("ephemeral containers not allowed in pod template"));
    }
}

fn spec(spec: &At<'_>, errors: &mut Errors) {
    let volumes = volume::list(&spec.field("volumes"), errors);
    container::lists(spec, &volumes, errors);
    spec.field("restartPolicy").must_be_one_of(&["Always", "OnFailure", "Never"], errors);
    dns(spec, errors);
    let grace = spec.field("terminationGracePeriodSeconds");
    if grace.is_absent() {
        errors.push(grace.required(""));
    }
    grace.non_negative(errors);
    spec.field("activeDeadlineSeconds").within(1, i64::from(i32::MAX), errors);
    meta::labels(&spec.field("nodeSelector"), errors);
    for field in ["serviceAccountName", "nodeName", "runtimeClassName", "priorityClassName"] {
        spec.field(field).subdomain(errors);
    }
    for field in ["hostname", "subdomain"] {
        spec.field(field).label(errors);
    }
    for secret in spec.field("imagePullSecrets").items() {
        secret.field("name").must_be_set("", errors);
    }
    for alias in spec.field("hostAliases").items() {
        alias.field("ip").ip(errors);
        alias.field("hostnames").items().for_each(|name| name.subdomain(errors));
    }
    spec.field("tolerations").items().for_each(|toleration| self::toleration(&toleration, errors));
    spec.field("topologySpreadConstraints").items().for_each(|constraint| spread(&constraint, errors));
    for gate in spec.field("readinessGates").items() {
        let ty = gate.field("conditionType");
        ty.all(names::qualified_name(ty.text()), errors);
    }
    let mut gates = BTreeSet::new();
    for gate in spec.field("schedulingGates").items() {
        let name = gate.field("name");
        name.all(names::qualified_name(name.text()), errors);
        if !gates.insert(name.text()) {
            errors.push(gate.duplicate());
        }
    }
    security(spec, errors);
    affinity(&spec.field("affinity"), errors);
    spec.field("preemptionPolicy").one_of(&["Never", "PreemptLowerPriority"], errors);
    spec.field("os").field("name").one_of(&["linux", "windows"], errors);
    if spec.field("shareProcessNamespace").is_true() && spec.field("hostPID").is_true() {
        errors.push(spec.field("shareProcessNamespace").invalid("ShareProcessNamespace and HostPID cannot both be enabled"));
    }
}

fn dns(spec: &At<'_>, errors: &mut Errors) {
    let policy = spec.field("dnsPolicy");
    policy.must_be_one_of(&["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"], errors);
    let config = spec.field("dnsConfig");
    let servers = config.field("nameservers");
    if policy.text() == "None" && servers.len() == 0 {
        errors.push(servers.required("must provide at least one DNS nameserver when `dnsPolicy` is None"));
    }
    if servers.len() > 3 {
        errors.push(servers.invalid("must not have more than 3 nameservers"));
    }
    servers.items().for_each(|server| server.ip(errors));
    let searches = config.field("searches");
    if searches.len() > 32 {
        errors.push(searches.invalid("must not have more than 32 search paths"));
    }
    for option in config.field("options").items() {
        option.field("name").must_be_set("must not be empty", errors);
    }
}

fn toleration(toleration: &At<'_>, errors: &mut Errors) {
    let (key, operator, value, effect) =
        (toleration.field("key"), toleration.field("operator"), toleration.field("value"), toleration.field("effect"));
    if !key.text().is_empty() {
        key.all(names::qualified_name(key.text()), errors);
    } else if operator.text() != "Exists" {
        errors
            .push(operator.invalid("operator must be Exists when `key` is empty, which means \"match all values and all keys\""));
    }
    match operator.text() {
        "" | "Equal" => operator_value(&value, errors),
        "Exists" if !value.text().is_empty() => errors.push(operator.invalid("value must be empty when `operator` is 'Exists'")),
        "Exists" => {}
        _ => operator.one_of(&["Equal", "Exists"], errors),
    }
    if !toleration.field("tolerationSeconds").is_absent() && effect.text() != "NoExecute" {
        errors.push(effect.invalid("effect must be 'NoExecute' when `tolerationSeconds` is set"));
    }
    effect.one_of(&["NoSchedule", "PreferNoSchedule", "NoExecute"], errors);
}

fn operator_value(value: &At<'_>, errors: &mut Errors) {
    value.all(names::label_value(value.text()), errors);
}

fn spread(constraint: &At<'_>, errors: &mut Errors) {
    let skew = constraint.field("maxSkew");
    if skew.int().unwrap_or(0) <= 0 {
        errors.push(crate::status::FieldError::invalid(skew.path(), skew.int().unwrap_or(0), "must be greater than zero"));
    }
    constraint.field("topologyKey").must_be_set("can not be empty", errors);
    constraint.field("whenUnsatisfiable").must_be_one_of(&["DoNotSchedule", "ScheduleAnyway"], errors);
    constraint.field("minDomains").positive(errors);
    constraint.field("labelSelector").label_selector(errors);
    for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
        constraint.field(field).one_of(&["Honor", "Ignore"], errors);
    }
}

fn security(spec: &At<'_>, errors: &mut Errors) {
    let context = spec.field("securityContext");
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        context.field(field).within(0, i64::from(i32::MAX), errors);
    }
    context.field("supplementalGroups").items().for_each(|group| group.within(0, i64::from(i32::MAX), errors));
    context.field("fsGroupChangePolicy").one_of(&["OnRootMismatch", "Always"], errors);
    let mut seen = BTreeSet::new();
    for sysctl in context.field("sysctls").items() {
        let name = sysctl.field("name");
        if name.must_be_set("", errors) {
            let fits = name.text().len() <= 253
                && name.text().split(['.', '/']).all(|part| {
                    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
                    let bytes = part.as_bytes();
                    edge(bytes.first())
                        && edge(bytes.last())
                        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
                });
            if !fits {
                let detail = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
                errors.push(name.invalid(detail));
            } else if !seen.insert(name.text()) {
                errors.push(name.duplicate());
            }
        }
    }
    container::profiles(&context, errors);
}

fn affinity(affinity: &At<'_>, errors: &mut Errors) {
    let node = affinity.field("nodeAffinity");
    let required = node.field("requiredDuringSchedulingIgnoredDuringExecution");
    if !required.is_absent() {
        let terms = required.field("nodeSelectorTerms");
        if terms.must_be_set("must have at least one node selector term", errors) {
            terms.items().for_each(|term| node_term(&term, errors));
        }
    }
    for preferred in node.field("preferredDuringSchedulingIgnoredDuringExecution").items() {
        weight(&preferred.field("weight"), errors);
        node_term(&preferred.field("preference"), errors);
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

fn weight(weight: &At<'_>, errors: &mut Errors) {
    if !(1..=100).contains(&weight.int().unwrap_or(0)) {
        errors.push(crate::status::FieldError::invalid(weight.path(), weight.int().unwrap_or(0), "must be in the range 1-100"));
    }
}

fn node_term(term: &At<'_>, errors: &mut Errors) {
    for list in ["matchExpressions", "matchFields"] {
        for expression in term.field(list).items() {
            let (key, operator, values) = (expression.field("key"), expression.field("operator"), expression.field("values"));
            match operator.text() {
                "In" | "NotIn" if values.len() == 0 => {
                    errors.push(values.required("must be specified when `operator` is 'In' or 'NotIn'"))
                }
                "Exists" | "DoesNotExist" if values.len() > 0 => {
                    errors.push(values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'"));
                }
                "Gt" | "Lt" if values.len() != 1 => {
                    errors.push(values.required("must be specified single value when `operator` is 'Lt' or 'Gt'"))
                }
                "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
                _ => errors.push(operator.invalid("not a valid selector operator")),
            }
            if list == "matchExpressions" {
                key.all(names::qualified_name(key.text()), errors);
            }
        }
    }
}

fn pod_term(term: &At<'_>, errors: &mut Errors) {
    term.field("topologyKey").must_be_set("can not be empty", errors);
    term.field("labelSelector").label_selector(errors);
    term.field("namespaceSelector").label_selector(errors);
    term.field("namespaces").items().for_each(|namespace| namespace.label(errors));
}
