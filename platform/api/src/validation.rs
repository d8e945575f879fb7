//! Validation of whole objects with upstream's rules, paths and messages.

use serde_json::Value;

use crate::registry::Kind;

pub use crate::status::{ErrorType, FieldError};

/// Validates an object to be created (`old` is `None`) or to replace `old`.
pub fn validate(kind: &Kind, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let _ = (kind, new, old);
    Vec::new()
}

/// Validates a write through the status subresource.
pub fn validate_status(kind: &Kind, new: &Value, old: &Value) -> Vec<FieldError> {
    let _ = (kind, new, old);
    Vec::new()
}
