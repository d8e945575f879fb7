//! StorageObjectInUseProtection: volumes and claims get finalizers, so that none goes while it is in use. The
//! `pvc-protection` and `pv-protection` controllers take them off.
//!
//! Follows `plugin/pkg/admission/storage/storageobjectinuseprotection/admission.go`.

use serde_json::{Value, json};

use super::{Attributes, Operation};

pub(super) fn mutate(attributes: &Attributes<'_>, object: &mut Value) {
    if attributes.is("", "persistentvolumeclaims", Operation::Create) {
        add(object, "kubernetes.io/pvc-protection");
    } else if attributes.is("", "persistentvolumes", Operation::Create) {
        add(object, "kubernetes.io/pv-protection");
    }
}

fn add(object: &mut Value, finalizer: &str) {
    match object["metadata"]["finalizers"].as_array_mut() {
        Some(finalizers) if finalizers.iter().any(|present| present == finalizer) => {}
        Some(finalizers) => finalizers.push(json!(finalizer)),
        None => object["metadata"]["finalizers"] = json!([finalizer]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_a_finalizer_once() {
        for (before, after) in [
            (json!(null), json!(["a/b"])),
            (json!(["a/b", "c/d"]), json!(["a/b", "c/d"])),
            (json!(["c/d"]), json!(["c/d", "a/b"])),
        ] {
            let mut object = json!({"metadata": {"finalizers": before}});
            add(&mut object, "a/b");
            assert_eq!(object["metadata"]["finalizers"], after);
        }
    }
}
