//! Nodes (`pkg/apis/core/validation/validation.go`: `ValidateNode`, `ValidateNodeUpdate`).

use std::collections::BTreeSet;

use serde_json::Value;

use super::at::{At, Errors};
use super::quota;
use crate::names;
use crate::status::FieldError;

/// A whole node. Upstream looks at status whatever is written.
pub(super) fn node(root: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    let spec = root.field("spec");
    status(&root.field("status"), old.is_some(), errors);
    match old {
        None => pod_cidrs(&spec.field("podCIDRs"), errors),
        Some(old) => {
            let at = spec.field("podCIDRs");
            let before = old.pointer("/spec/podCIDRs").unwrap_or(&Value::Null);
            if before.as_array().is_some_and(|cidrs| !cidrs.is_empty()) {
                if before != at.value() {
                    errors.push(at.forbidden("node updates may not change podCIDR except from \"\" to valid"));
                }
            } else {
                pod_cidrs(&at, errors);
            }
            let id = spec.field("providerID");
            let before = old.pointer("/spec/providerID").and_then(Value::as_str).unwrap_or_default();
            if !before.is_empty() && before != id.text() {
                errors.push(id.forbidden("node updates may not change providerID except from \"\" to valid"));
            }
            let external = old.pointer("/spec/externalID").and_then(Value::as_str).unwrap_or_default();
            if external != spec.field("externalID").text() {
                errors.push(spec.field("externalID").forbidden("may not be updated"));
            }
        }
    }
    taints(&spec.field("taints"), errors);
}

/// Amounts of resources, and addresses.
pub(super) fn status(status: &At<'_>, update: bool, errors: &mut Errors) {
    if status.is_absent() {
        return;
    }
    for list in ["capacity", "allocatable"] {
        for (name, amount) in status.field(list).entries() {
            quota::amount(name, &amount.told_at(format!("status.{list}.{name}")), errors);
        }
    }
    if update {
        let addresses = status.field("addresses");
        let mut seen = BTreeSet::new();
        for address in addresses.items() {
            if !seen.insert((address.field("type").text(), address.field("address").text())) {
                errors.push(address.duplicate());
            }
        }
    }
}

/// Upstream tells of taints below `metadata`.
fn taints(taints: &At<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (index, taint) in taints.items().enumerate() {
        let taint = taint.told_at(format!("metadata.taints[{index}]"));
        let (key, value, effect) = (taint.field("key"), taint.field("value"), taint.field("effect"));
        key.qualified(errors);
        let complaints = names::label_value(value.text());
        if !complaints.is_empty() {
            errors.push(value.invalid(complaints.join(";")));
        }
        effect.must_be_one_of(&["NoSchedule", "PreferNoSchedule", "NoExecute"], errors);
        if !seen.insert((key.text(), effect.text())) {
            let mut error = taint.duplicate();
            error.detail = "taints must be unique by key and effect pair".to_owned();
            errors.push(error);
        }
    }
}

fn pod_cidrs(cidrs: &At<'_>, errors: &mut Errors) {
    let mut families = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut duplicates = Vec::new();
    for cidr in cidrs.items() {
        if let Some((ip, _)) = cidr.cidr(errors) {
            families.insert(ip.is_ipv6());
        }
        if !seen.insert(cidr.text()) {
            duplicates.push(cidr.duplicate());
        }
    }
    if cidrs.len() > 1 {
        if cidrs.len() > 2 || families.len() < 2 {
            errors.push(cidrs.invalid("may specify no more than one CIDR for each IP family"));
        }
        errors.append(&mut duplicates);
    }
}

/// Namespaces: what holds them back while they are being deleted.
pub(super) fn namespace(root: &At<'_>, errors: &mut Errors) {
    for finalizer in root.field("spec").field("finalizers").items() {
        let at = finalizer.told_at("spec.finalizers");
        super::meta::finalizer(&at, errors);
    }
}

/// A namespace's phase says whether it is being deleted, and nothing else.
pub(super) fn namespace_status(root: &At<'_>, errors: &mut Errors) {
    let phase = root.field("status").field("phase");
    let deleted = !root.field("metadata").field("deletionTimestamp").is_absent();
    let (wanted, detail) = match deleted {
        false => ("Active", "may only be 'Active' if `deletionTimestamp` is empty"),
        true => ("Terminating", "may only be 'Terminating' if `deletionTimestamp` is not empty"),
    };
    if phase.text() != wanted {
        errors.push(FieldError::invalid("status.Phase", phase.text(), detail));
    }
}
