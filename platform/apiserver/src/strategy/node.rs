//! Nodes.

use pharos_api::validation::{ErrorType, FieldError};
use serde_json::Value;

use super::field_error;

/// A node's pod network is settled once.
pub(super) fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (before, after) = (&old["spec"]["podCIDRs"], &new["spec"]["podCIDRs"]);
    if before.as_array().is_some_and(|cidrs| !cidrs.is_empty()) && before != after {
        errors.push(field_error(
            ErrorType::Forbidden,
            "spec.podCIDRs",
            Value::Null,
            "node updates may not change podCIDR except from \"\" to valid",
        ));
    }
    let (before, after) = (&old["spec"]["providerID"], &new["spec"]["providerID"]);
    if before.as_str().is_some_and(|id| !id.is_empty()) && before != after {
        errors.push(field_error(
            ErrorType::Forbidden,
            "spec.providerID",
            Value::Null,
            "node updates may not change providerID except from \"\" to valid",
        ));
    }
    errors
}
