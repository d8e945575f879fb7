//! HorizontalPodAutoscalers (`pkg/apis/autoscaling/validation/validation.go`).

use super::at::{At, Errors};
use super::quota;
use crate::status::FieldError;

/// The longest time scaling may look back, and the longest a policy may look at, in seconds.
const MAX_WINDOW: i64 = 3_600;
const MAX_PERIOD: i64 = 1_800;

const SOURCES: [(&str, &str); 5] = [
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];

pub(super) fn horizontal_pod_autoscaler(spec: &At<'_>, errors: &mut Errors) {
    let (min, max) = (spec.field("minReplicas"), spec.field("maxReplicas"));
    if min.int().is_some_and(|n| n < 1) {
        errors.push(min.invalid("must be greater than or equal to 1"));
    }
    if max.int().unwrap_or(0) < 1 {
        errors.push(FieldError::invalid(max.path(), max.int().unwrap_or(0), "must be greater than 0"));
    }
    if min.int().is_some_and(|min| max.int().unwrap_or(0) < min) {
        let most = max.int().unwrap_or(0);
        errors.push(FieldError::invalid(max.path(), most, "must be greater than or equal to `minReplicas`"));
    }
    reference(&spec.field("scaleTargetRef"), errors);
    // `autoscaling/v1` knows one target.
    let percent = spec.field("targetCPUUtilizationPercentage");
    if percent.int().is_some_and(|n| n < 1) {
        errors.push(percent.invalid("must be greater than 0"));
    }
    spec.field("metrics").items().for_each(|metric| self::metric(&metric, errors));
    let behavior = spec.field("behavior");
    for direction in ["scaleUp", "scaleDown"] {
        let rules = behavior.field(direction);
        if !rules.is_absent() {
            self::rules(&rules, errors);
        }
    }
}

pub(super) fn status(status: &At<'_>, errors: &mut Errors) {
    status.field("currentReplicas").non_negative(errors);
    status.field("desiredReplicas").non_negative(errors);
}

fn reference(at: &At<'_>, errors: &mut Errors) {
    at.field("kind").must_be_path_segment(errors);
    at.field("name").must_be_path_segment(errors);
}

fn rules(rules: &At<'_>, errors: &mut Errors) {
    let (window, policies) = (rules.field("stabilizationWindowSeconds"), rules.field("policies"));
    if window.int().is_some_and(|n| n < 0) {
        errors.push(window.invalid("must be greater than or equal to zero"));
    }
    if window.int().is_some_and(|n| n > MAX_WINDOW) {
        errors.push(window.invalid(format!("must be less than or equal to {MAX_WINDOW}")));
    }
    rules.field("selectPolicy").one_of(&["Disabled", "Max", "Min"], errors);
    if policies.len() == 0 {
        errors.push(policies.required("must specify at least one Policy"));
    }
    for policy in policies.items() {
        let (ty, period) = (policy.field("type"), policy.field("periodSeconds"));
        if !matches!(ty.text(), "Pods" | "Percent") {
            errors.push(FieldError::not_supported(ty.path(), ty.text(), &["Pods", "Percent"]));
        }
        for at in [policy.field("value"), policy.field("periodSeconds")] {
            if at.int().unwrap_or(0) <= 0 {
                errors.push(FieldError::invalid(at.path(), at.int().unwrap_or(0), "must be greater than zero"));
            }
        }
        if period.int().is_some_and(|n| n > MAX_PERIOD) {
            errors.push(period.invalid(format!("must be less than or equal to {MAX_PERIOD}")));
        }
    }
    let tolerance = rules.field("tolerance");
    if tolerance.quantity().is_some_and(|quantity| quantity.sign() < 0) {
        errors.push(tolerance.invalid("must be greater than or equal to 0"));
    }
}

fn metric(metric: &At<'_>, errors: &mut Errors) {
    let ty = metric.field("type");
    ty.must_be_set("must specify a metric source type", errors);
    let types = SOURCES.map(|(ty, _)| ty);
    let expected = SOURCES.iter().find(|(known, _)| *known == ty.text()).map(|(_, field)| *field);
    if expected.is_none() {
        errors.push(FieldError::not_supported(ty.path(), ty.text(), &types));
    }
    let given: Vec<&str> = SOURCES.iter().map(|(_, field)| *field).filter(|field| !metric.field(field).is_absent()).collect();
    if let Some(first) = given.first() {
        source(first, &metric.field(first), errors);
    }
    if let Some(field) = expected.filter(|field| !given.contains(field)) {
        errors.push(metric.field(field).required("must populate information for the given metric source"));
    }
    if given.len() != 1 {
        for field in given.into_iter().filter(|field| Some(*field) != expected) {
            errors.push(metric.field(field).forbidden("must populate the given metric source only"));
        }
    }
}

fn source(kind: &str, source: &At<'_>, errors: &mut Errors) {
    let target = source.field("target");
    let (value, average, utilization) = (target.field("value"), target.field("averageValue"), target.field("averageUtilization"));
    match kind {
        "object" => {
            reference(&source.field("describedObject"), errors);
            identifier(&source.field("metric"), errors);
            self::target(&target, errors);
            if value.is_absent() && average.is_absent() {
                errors.push(average.required("must set either a target value or averageValue"));
            }
        }
        "external" => {
            identifier(&source.field("metric"), errors);
            self::target(&target, errors);
            source.field("metric").field("selector").label_selector(errors);
            if value.is_absent() && average.is_absent() {
                errors.push(average.required("must set either a target value for metric or a per-pod target"));
            }
            if !value.is_absent() && !average.is_absent() {
                errors.push(value.forbidden("may not set both a target value for metric and a per-pod target"));
            }
        }
        "pods" => {
            identifier(&source.field("metric"), errors);
            self::target(&target, errors);
            if average.is_absent() {
                errors.push(average.required("must specify a positive target averageValue"));
            }
        }
        _ => {
            let name = source.field("name");
            let given = name.must_be_set("must specify a resource name", errors);
            if kind == "containerResource" {
                if given {
                    quota::container_resource(name.text(), &name, errors);
                }
                let container = source.field("container");
                if container.must_be_set("must specify a container", errors) {
                    container.label(errors);
                }
            }
            self::target(&target, errors);
            if utilization.is_absent() && average.is_absent() {
                errors.push(utilization.required("must set either a target raw value or a target utilization"));
            }
            if !utilization.is_absent() && !average.is_absent() {
                errors.push(average.forbidden("may not set both a target raw value and a target utilization"));
            }
        }
    }
}

fn identifier(metric: &At<'_>, errors: &mut Errors) {
    let name = metric.field("name");
    if name.must_be_set("must specify a metric name", errors) {
        name.all(crate::names::path_segment(name.text()), errors);
    }
}

fn target(target: &At<'_>, errors: &mut Errors) {
    let ty = target.field("type");
    ty.must_be_set("must specify a metric target type", errors);
    if !matches!(ty.text(), "Utilization" | "Value" | "AverageValue") {
        let detail = "must be either Utilization, Value, or AverageValue";
        errors.push(FieldError::invalid(ty.path(), ty.text(), detail));
    }
    for field in ["value", "averageValue"] {
        let at = target.field(field);
        if at.quantity().is_some_and(|quantity| quantity.sign() <= 0) {
            errors.push(at.invalid("must be positive"));
        }
    }
    let utilization = target.field("averageUtilization");
    if utilization.int().is_some_and(|n| n < 1) {
        errors.push(utilization.invalid("must be greater than 0"));
    }
}
