//! What a namespace may use: ResourceQuotas and LimitRanges.
//!
//! Follows `ValidateResourceQuotaSpec` and `ValidateLimitRange` of `pkg/apis/core/validation/validation.go`, and
//! `pkg/apis/core/helper/helpers.go`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::at::{At, Errors};
use crate::names;
use crate::quantity::{Format, Quantity};
use crate::status::FieldError;

/// What quotas limit without a domain before its name.
const QUOTA_RESOURCES: [&str; 19] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];

/// What comes in whole numbers only.
const WHOLE: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// What the scopes of pods can be about.
const OF_PODS: [&str; 7] = ["pods", "cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];

/// What the scope of claims can be about.
const OF_CLAIMS: [&str; 2] = ["persistentvolumeclaims", "requests.storage"];

/// Scopes no pod is in both of.
const EXCLUSIVE: [[&str; 2]; 2] = [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];

fn is_huge_pages(name: &str) -> bool {
    name.starts_with("hugepages-") || name.starts_with("requests.hugepages-")
}

fn is_quota_resource(name: &str) -> bool {
    QUOTA_RESOURCES.contains(&name) || is_huge_pages(name)
}

/// Whether a name is of Kubernetes' own resources.
pub(super) fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether a name is of what nodes have beyond Kubernetes' own resources, in whole pieces.
pub(super) fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::qualified_name(&format!("requests.{name}")).is_empty()
}

/// The name of a resource is well-formed, and known if it has no domain.
pub(super) fn resource_name(name: &str, at: &At<'_>, errors: &mut Errors) {
    let complaints = names::qualified_name(name);
    let well_formed = complaints.is_empty();
    errors.extend(complaints.into_iter().map(|detail| FieldError::invalid(at.path(), name, detail)));
    let known = name.contains('/') || name == "storage" || is_quota_resource(name);
    if well_formed && !known {
        errors.push(FieldError::invalid(at.path(), name, "must be a standard resource type or fully qualified"));
    }
}

/// A name that a quota may limit.
fn quota_resource(name: &str, at: &At<'_>, errors: &mut Errors) {
    resource_name(name, at, errors);
    if !name.contains('/') && !is_quota_resource(name) {
        errors.push(FieldError::invalid(at.path(), name, "must be a standard resource for quota"));
    }
}

/// A name that a LimitRange may bound for containers and pods.
pub(super) fn container_resource(name: &str, at: &At<'_>, errors: &mut Errors) {
    resource_name(name, at, errors);
    let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !name.contains('/') {
        if !standard {
            errors.push(FieldError::invalid(at.path(), name, "must be a standard resource for containers"));
        }
    } else if !is_native(name) && !is_extended(name) {
        errors.push(FieldError::invalid(at.path(), name, "doesn't follow extended resource name standard"));
    }
}

/// The amounts of a quota, by name.
fn quota_amounts(list: &At<'_>, errors: &mut Errors) {
    for (name, amount) in list.entries() {
        quota_resource(name, &amount, errors);
        self::amount(name, &amount, errors);
    }
}

/// `ValidateResourceQuantityValue`: not negative, and whole if there are only whole ones of the resource.
pub(super) fn amount(name: &str, amount: &At<'_>, errors: &mut Errors) {
    let Some(quantity) = amount.quantity() else { return };
    if quantity.sign() < 0 {
        errors.push(amount.invalid("must be greater than or equal to 0"));
    }
    if !quantity.is_integer() && (WHOLE.contains(&name) || is_extended(name)) {
        errors.push(amount.invalid("must be an integer"));
    }
}

pub(super) fn resource_quota(spec: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    quota_amounts(&spec.field("hard"), errors);
    let scopes = spec.field("scopes");
    known_scopes(spec, &scopes.path(), &scopes.path(), scopes.value(), scopes.items(), errors);
    let selector = spec.field("scopeSelector");
    let expressions = selector.field("matchExpressions");
    let path = expressions.path();
    let named = expressions.items().map(|expression| expression.field("scopeName"));
    known_scopes(spec, &path, &format!("{path}.scopeName"), selector.value(), named, errors);
    for expression in expressions.items() {
        selected(&path, &expression, errors);
    }
    if let Some(old) = old {
        let set = |list: &Value| -> BTreeSet<String> {
            list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        if set(scopes.value()) != set(old.pointer("/spec/scopes").unwrap_or(&Value::Null)) {
            errors.push(scopes.invalid("field is immutable"));
        }
    }
}

/// Scopes that exist, go with what the quota limits, and go together. `path` is of all of them, `path_of_one` of one;
/// `value` is what is told of as wrong.
fn known_scopes<'a>(
    spec: &At<'_>,
    path: &str,
    path_of_one: &str,
    value: &Value,
    scopes: impl Iterator<Item = At<'a>>,
    errors: &mut Errors,
) {
    let mut seen = BTreeSet::new();
    for scope in scopes {
        let fits: &[&str] = match scope.text() {
            "Terminating" | "NotTerminating" | "NotBestEffort" | "PriorityClass" | "CrossNamespacePodAffinity" => &OF_PODS,
            "BestEffort" => &OF_PODS[..1],
            "VolumeAttributesClass" => &OF_CLAIMS,
            other => {
                let named = if path == path_of_one { value.clone() } else { other.into() };
                errors.push(FieldError::invalid(path_of_one, named, "unsupported scope"));
                continue;
            }
        };
        let hard: BTreeSet<&str> = spec.field("hard").entries().map(|(name, _)| name).collect();
        for _ in hard.into_iter().filter(|name| is_quota_resource(name) && !fits.contains(name)) {
            errors.push(FieldError::invalid(path, value.clone(), "unsupported scope applied to resource"));
        }
        seen.insert(scope.text());
    }
    for pair in EXCLUSIVE {
        if pair.iter().all(|scope| seen.contains(scope)) {
            errors.push(FieldError::invalid(path, spec.field("scopes").value().clone(), "conflicting scopes"));
        }
    }
}

pub(super) fn resource_quota_status(status: &At<'_>, errors: &mut Errors) {
    quota_amounts(&status.field("hard"), errors);
    quota_amounts(&status.field("used"), errors);
}

/// One expression of a scope selector. Upstream tells of the list's fields, not of an item's.
fn selected(list: &str, expression: &At<'_>, errors: &mut Errors) {
    let (scope, operator, values) = (expression.field("scopeName"), expression.field("operator"), expression.field("values"));
    let path = |field: &str| format!("{list}.{field}");
    let flags = ["BestEffort", "NotBestEffort", "Terminating", "NotTerminating", "CrossNamespacePodAffinity"];
    if flags.contains(&scope.text()) && operator.text() != "Exists" {
        errors.push(FieldError::invalid(
            path("operator"),
            operator.text(),
            "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity",
        ));
    }
    match operator.text() {
        "In" | "NotIn" if values.len() == 0 => errors.push(FieldError::required(
            path("values"),
            "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
        )),
        "Exists" | "DoesNotExist" if values.len() > 0 => errors.push(FieldError::invalid(
            path("values"),
            values.value().clone(),
            "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
        )),
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => errors.push(FieldError::invalid(path("operator"), other, "not a valid selector operator")),
    }
}

/// A pair of amounts of one resource that must not be in this order.
struct Order<'a> {
    low: &'a At<'a>,
    high: &'a At<'a>,
    /// Where it is told, and with which of the two as the value.
    place: &'a str,
    told: &'a At<'a>,
    nouns: (&'a str, &'a str),
}

impl Order<'_> {
    fn check(&self, name: &str, item: &At<'_>, errors: &mut Errors) {
        if let (Some(low), Some(high)) = (self.low.quantity(), self.high.quantity())
            && low > high
        {
            let (small, large) = self.nouns;
            errors.push(FieldError::invalid(
                format!("{}[{name}]", item.field(self.place).path()),
                self.told.value().clone(),
                format!("{small} value {low} is greater than {large} value {high}"),
            ));
        }
    }
}

pub(super) fn limit_range(spec: &At<'_>, errors: &mut Errors) {
    let mut types = BTreeSet::new();
    for item in spec.field("limits").items() {
        let ty = item.field("type");
        let complaints = names::qualified_name(ty.text());
        if complaints.is_empty()
            && !ty.text().contains('/')
            && !matches!(ty.text(), "Pod" | "Container" | "PersistentVolumeClaim")
        {
            errors.push(ty.invalid("must be a standard limit type or fully qualified"));
        }
        ty.all(complaints, errors);
        if !types.insert(ty.text()) {
            errors.push(ty.duplicate());
        }
        limit_range_item(&item, errors);
    }
}

fn limit_range_item(item: &At<'_>, errors: &mut Errors) {
    let ty = item.field("type").text();
    let mut names = BTreeSet::new();
    for field in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        let list = item.field(field);
        if ty == "Pod" && field.starts_with("default") {
            if list.len() > 0 {
                errors.push(list.forbidden("may not be specified when `type` is 'Pod'"));
            }
            continue;
        }
        for (name, at) in list.entries() {
            match ty {
                "Pod" | "Container" => container_resource(name, &at, errors),
                _ => resource_name(name, &at, errors),
            }
            names.insert(name);
        }
    }
    let storage = |field: &str| !item.field(field).field("storage").is_absent();
    if ty == "PersistentVolumeClaim" && !storage("min") && !storage("max") {
        let detail = "either minimum or maximum storage value is required, but neither was provided";
        errors.push(item.field("limits").required(detail));
    }
    for name in names {
        bounds(item, name, errors);
    }
}

/// The bounds of one resource, held against each other.
fn bounds(item: &At<'_>, name: &str, errors: &mut Errors) {
    let of = |field: &str| item.field(field).field(name);
    let (max, min, default, request, ratio) =
        (of("max"), of("min"), of("default"), of("defaultRequest"), of("maxLimitRequestRatio"));
    let orders = [
        Order { low: &min, high: &max, place: "min", told: &min, nouns: ("min", "max") },
        Order { low: &min, high: &request, place: "defaultRequest", told: &request, nouns: ("min", "default request") },
        Order { low: &request, high: &max, place: "defaultRequest", told: &request, nouns: ("default request", "max") },
        Order {
            low: &request,
            high: &default,
            place: "defaultRequest",
            told: &request,
            nouns: ("default request", "default limit"),
        },
        Order { low: &min, high: &default, place: "default", told: &min, nouns: ("min", "default") },
        Order { low: &default, high: &max, place: "default", told: &max, nouns: ("default", "max") },
    ];
    orders.iter().for_each(|order| order.check(name, item, errors));
    let path = |field: &str| format!("{}[{name}]", item.field(field).path());
    if let Some(most) = ratio.quantity() {
        let mut wrong =
            |detail: String| errors.push(FieldError::invalid(path("maxLimitRequestRatio"), ratio.value().clone(), detail));
        if most < Quantity::new(1, Format::DecimalSi) {
            wrong(format!("ratio {most} is less than 1"));
        }
        if let (Some(low), Some(high)) = (min.quantity(), max.quantity()) {
            let possible = high.as_f64() / low.as_f64();
            if most.as_f64() > possible {
                wrong(format!("ratio {most} is greater than max/min = {possible:.6}"));
            }
        }
    }
    // What cannot be overcommitted is requested as it is limited.
    let overcommitted = is_native(name) && !name.starts_with("hugepages-");
    if let (Some(given), Some(asked)) = (default.quantity(), request.quantity())
        && !overcommitted
        && given != asked
    {
        let detail = format!("default value {given} must equal to defaultRequest value {asked} in {name}");
        errors.push(FieldError::invalid(path("defaultRequest"), request.value().clone(), detail));
    }
}
