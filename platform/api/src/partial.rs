//! `PartialObjectMetadata`: objects reduced to their metadata.

use serde_json::{Value, json};

/// Reduces an object. `version` is that of `meta.k8s.io`: `v1` or `v1beta1`.
pub fn metadata(object: &Value, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({})),
    })
}

/// Reduces a list.
pub fn list(list: &Value, version: &str) -> Value {
    let items = list.get("items").and_then(Value::as_array).into_iter().flatten();
    list_of(items.map(|item| metadata(item, version)).collect(), list.get("metadata").cloned(), version)
}

/// Makes a list of objects already reduced.
pub fn list_of(items: Vec<Value>, list_metadata: Option<Value>, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadataList",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": list_metadata.unwrap_or_else(|| json!({})),
        "items": items,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reduces() {
        let input =
            json!({"metadata": {"resourceVersion": "7"}, "items": [{"kind": "Pod", "metadata": {"name": "a"}, "spec": {}}]});
        let output = list(&input, "v1");
        assert_eq!(
            output,
            json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": "7"},
                "items": [{"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {"name": "a"}}]})
        );
    }
}
