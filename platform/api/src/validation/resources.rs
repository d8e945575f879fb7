//! What containers and pods ask for (`validateResourceRequirements`).

use std::collections::{BTreeMap, BTreeSet};

use super::at::{At, Errors};
use super::quota;
use crate::names;
use crate::quantity::Quantity;
use crate::status::FieldError;

/// Limits, requests and claims of a container.
pub(super) fn container(resources: &At<'_>, claims: &BTreeSet<&str>, errors: &mut Errors) {
    if resources.is_absent() {
        return;
    }
    requirements(resources, quota::container_resource, errors);
    claim_names(&resources.field("claims"), claims, errors);
}

/// A name that a pod as a whole may ask for.
fn pod_resource(name: &str, at: &At<'_>, errors: &mut Errors) {
    let before = errors.len();
    quota::resource_name(name, at, errors);
    if errors.len() == before && !matches!(name, "cpu" | "memory") && !name.starts_with("hugepages-") {
        errors.push(FieldError::not_supported(at.path(), name, &["cpu", "hugepages-", "memory"]));
    }
}

fn requirements(resources: &At<'_>, check: fn(&str, &At<'_>, &mut Errors), errors: &mut Errors) {
    let (limits, requests) = (resources.field("limits"), resources.field("requests"));
    let (mut basic, mut huge) = (false, false);
    for (list, requested) in [(&limits, false), (&requests, true)] {
        for (name, amount) in list.entries() {
            check(name, &amount, errors);
            quota::amount(name, &amount, errors);
            if requested {
                within_limit(name, &amount, &limits, &requests, errors);
            }
            if let Some(page) = name.strip_prefix("hugepages-") {
                huge = true;
                whole_pages(name, page, &amount, errors);
            }
            basic |= matches!(name, "cpu" | "memory");
        }
    }
    if huge && !basic {
        errors.push(resources.forbidden("HugePages require cpu or memory"));
    }
}

/// A request against the limit of it; what cannot be overcommitted is requested as it is limited.
fn within_limit(name: &str, amount: &At<'_>, limits: &At<'_>, requests: &At<'_>, errors: &mut Errors) {
    let overcommitted = quota::is_native(name) && !name.starts_with("hugepages-");
    let Some(request) = amount.quantity() else { return };
    match limits.field(name).quantity() {
        Some(limit) if !overcommitted && request != limit => {
            let detail = format!("must be equal to {name} limit of {limit}");
            errors.push(FieldError::invalid(requests.path(), amount.value().clone(), detail));
        }
        Some(limit) if request > limit => {
            let detail = format!("must be less than or equal to {name} limit of {limit}");
            errors.push(FieldError::invalid(requests.path(), amount.value().clone(), detail));
        }
        None if !overcommitted => errors.push(limits.required("Limit must be set for non overcommitable resources")),
        _ => {}
    }
}

fn whole_pages(name: &str, page: &str, amount: &At<'_>, errors: &mut Errors) {
    let Some(quantity) = amount.quantity() else { return };
    let page = Quantity::parse(page).map_or(0, Quantity::value);
    if page <= 0 || quantity.value() % page != 0 {
        errors.push(amount.invalid(format!("{quantity} is not positive integer multiple of {name}")));
    }
}

/// The claims a container uses are claims of its pod, and each is named once.
fn claim_names(list: &At<'_>, known: &BTreeSet<&str>, errors: &mut Errors) {
    let mut seen: BTreeSet<(&str, &str)> = BTreeSet::new();
    for claim in list.items() {
        let (name, request) = (claim.field("name").text(), claim.field("request"));
        if name.is_empty() {
            errors.push(claim.required(""));
            continue;
        }
        request.label(errors);
        if seen.contains(&(name, "")) {
            errors.push(FieldError::duplicate(claim.path(), name));
        } else if !seen.insert((name, request.text())) {
            errors.push(FieldError::duplicate(claim.path(), format!("{name}/{}", request.text())));
        } else if request.text().is_empty() {
            for _ in seen.iter().filter(|(other, request)| *other == name && !request.is_empty()) {
                errors.push(FieldError::duplicate(claim.path(), name));
            }
        }
        if !known.contains(name) {
            let mut error = FieldError::not_found(claim.path(), name);
            let names: Vec<&str> = known.iter().copied().collect();
            error.detail = match names.is_empty() {
                true => "must be one of the names in pod.spec.resourceClaims which is empty".to_owned(),
                false => format!("must be one of the names in pod.spec.resourceClaims: {}", names.join(", ")),
            };
            errors.push(error);
        }
    }
}

/// The claims of a pod, by the names its containers use.
pub(super) fn pod_claims<'a>(list: &At<'a>, errors: &mut Errors) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    for claim in list.items() {
        let (name, object, template) =
            (claim.field("name"), claim.field("resourceClaimName"), claim.field("resourceClaimTemplateName"));
        if name.must_be_set("", errors) {
            if seen.insert(name.text()) {
                name.label(errors);
            } else {
                errors.push(name.duplicate());
            }
        }
        match (object.is_absent(), template.is_absent()) {
            (false, false) => {
                errors.push(claim.invalid("at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"))
            }
            (true, true) => {
                errors.push(claim.invalid("must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"));
            }
            _ => {}
        }
        for at in [object, template] {
            if !at.is_absent() {
                at.all(names::dns1123_subdomain(at.text()), errors);
            }
        }
    }
    seen
}

/// What a pod as a whole asks for covers what its containers do.
pub(super) fn pod(spec: &At<'_>, errors: &mut Errors) {
    let resources = spec.field("resources");
    if resources.is_absent() {
        return;
    }
    if !resources.field("claims").is_absent() {
        errors.push(resources.field("claims").forbidden("claims cannot be set for Resources at pod-level"));
    }
    requirements(&resources, pod_resource, errors);
    let (limits, requests) = (resources.field("limits"), resources.field("requests"));
    for (name, total) in aggregate(spec) {
        let given = requests.field(name).quantity().unwrap_or(Quantity::ZERO);
        if pod_level(name) && total > given {
            let detail = format!("must be greater than or equal to aggregate container requests of {total}");
            errors.push(FieldError::invalid(format!("{}[{name}]", requests.path()), given.to_string(), detail));
        }
    }
    for (index, container) in spec.field("containers").items().enumerate() {
        for (name, limit) in container.field("resources").field("limits").entries() {
            if let (Some(limit), Some(most)) = (limit.quantity(), limits.field(name).quantity())
                && limit > most
            {
                let path = format!("{}.containers[{index}][{name}].limits", resources.path());
                let detail = format!("must be less than or equal to pod limits of {most}");
                errors.push(FieldError::invalid(path, limit.to_string(), detail));
            }
        }
    }
}

fn pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

/// The most that a pod's containers ask for at once.
fn aggregate<'a>(spec: &At<'a>) -> BTreeMap<&'a str, Quantity> {
    let requests = |container: &At<'a>| -> Vec<(&'a str, Quantity)> {
        let list = container.field("resources").field("requests");
        list.entries().filter_map(|(name, amount)| Some((name, amount.quantity()?))).collect()
    };
    let mut total: BTreeMap<&'a str, Quantity> = BTreeMap::new();
    for container in spec.field("containers").items() {
        for (name, amount) in requests(&container) {
            *total.entry(name).or_insert(Quantity::ZERO) += amount;
        }
    }
    // Sidecars that were started before an init container run beside it, and beside everything afterwards.
    let mut beside: BTreeMap<&'a str, Quantity> = BTreeMap::new();
    let mut starting: BTreeMap<&'a str, Quantity> = BTreeMap::new();
    for container in spec.field("initContainers").items() {
        let sidecar = container.field("restartPolicy").text() == "Always";
        for (name, amount) in requests(&container) {
            let before = beside.get(name).copied().unwrap_or(Quantity::ZERO);
            let now = before + amount;
            if sidecar {
                beside.insert(name, now);
                *total.entry(name).or_insert(Quantity::ZERO) += amount;
            }
            let most = starting.entry(name).or_insert(Quantity::ZERO);
            *most = (*most).max(now);
        }
    }
    for (name, amount) in starting {
        let most = total.entry(name).or_insert(Quantity::ZERO);
        *most = (*most).max(amount);
    }
    total
}
