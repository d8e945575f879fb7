//! For whom a kubelet may ask tokens: whom its pods' volumes are for, and whom it is granted beside.
//!
//! Follows `validateNodeServiceAccountAudience` in `plugin/pkg/admission/noderestriction/admission.go`.

use serde_json::Value;

use super::text;
use crate::authn::Objects;

/// What stands in the way of a token for a ServiceAccount of a pod; `granted` says whether the node may ask for an audience
/// whatever the pod's volumes.
///
/// # Errors
///
/// The message of the refusal.
pub(super) fn check(
    request: &Value,
    pod: &Value,
    namespace: &str,
    user: &str,
    objects: &dyn Objects,
    granted: impl FnOnce(&str) -> bool,
) -> Result<(), String> {
    let audience = match request["spec"]["audiences"].as_array().map_or(&[][..], Vec::as_slice) {
        [] => "",
        [audience] => text(audience),
        _ => return Err("node may only request 0 or 1 audiences".to_owned()),
    };
    if is_in_volumes(audience, pod, namespace, objects) || granted(audience) {
        return Ok(());
    }
    Err(format!(
        "audience {audience:?} not found in pod spec volume, {user} is not authorized to request tokens for this audience"
    ))
}

fn is_in_volumes(audience: &str, pod: &Value, namespace: &str, objects: &dyn Objects) -> bool {
    let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
    list(&pod["spec"]["volumes"]).iter().any(|volume| {
        let projected = list(&volume["projected"]["sources"]).iter().any(|source| {
            let token = &source["serviceAccountToken"];
            token.is_object() && text(&token["audience"]) == audience
        });
        projected || driver_of(volume, pod, namespace, objects).is_some_and(|driver| wants(&driver, audience, objects))
    })
}

/// The CSI driver of a volume, of its own or through a claim.
fn driver_of(volume: &Value, pod: &Value, namespace: &str, objects: &dyn Objects) -> Option<String> {
    if let Some(driver) = volume["csi"]["driver"].as_str() {
        return Some(driver.to_owned());
    }
    let claim = match volume["persistentVolumeClaim"]["claimName"].as_str() {
        Some(claim) => claim.to_owned(),
        None if volume["ephemeral"].is_object() => format!("{}-{}", text(&pod["metadata"]["name"]), text(&volume["name"])),
        None => return None,
    };
    let claim = objects.get("", "persistentvolumeclaims", namespace, &claim)?;
    let volume = objects.get("", "persistentvolumes", "", text(&claim["spec"]["volumeName"]))?;
    volume["spec"]["csi"]["driver"].as_str().map(str::to_owned)
}

/// Whether a CSI driver wants tokens for an audience.
fn wants(driver: &str, audience: &str, objects: &dyn Objects) -> bool {
    let driver = objects.get("storage.k8s.io", "csidrivers", "", driver);
    let requests = driver.as_ref().and_then(|driver| driver["spec"]["tokenRequests"].as_array());
    requests.is_some_and(|requests| requests.iter().any(|request| text(&request["audience"]) == audience))
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::Arc};

    use serde_json::json;

    use super::*;

    struct Fake(HashMap<&'static str, Arc<Value>>);

    impl Objects for Fake {
        fn get(&self, _: &str, _: &str, _: &str, name: &str) -> Option<Arc<Value>> {
            self.0.get(name).cloned()
        }
    }

    #[test]
    fn audiences_come_from_volumes() {
        let objects = Fake(HashMap::from([
            ("claim", Arc::new(json!({"spec": {"volumeName": "volume"}}))),
            ("p-scratch", Arc::new(json!({"spec": {"volumeName": "volume"}}))),
            ("volume", Arc::new(json!({"spec": {"csi": {"driver": "driver"}}}))),
            ("driver", Arc::new(json!({"spec": {"tokenRequests": [{"audience": "csi"}]}}))),
        ]));
        let token = |audience: Value| json!({"projected": {"sources": [{"serviceAccountToken": audience}]}});
        let refused = |audience: &str| {
            Err(format!(
                "audience {audience:?} not found in pod spec volume, me is not authorized to request tokens for this audience"
            ))
        };
        for (volume, audiences, wanted) in [
            (token(json!({})), json!(null), Ok(())),
            (token(json!({})), json!(["vault"]), refused("vault")),
            (token(json!({"audience": "vault"})), json!(["vault"]), Ok(())),
            (token(json!({"audience": "vault"})), json!([]), refused("")),
            (token(json!({})), json!(["granted"]), Ok(())),
            (token(json!({})), json!(["a", "b"]), Err("node may only request 0 or 1 audiences".to_owned())),
            (json!({"csi": {"driver": "driver"}}), json!(["csi"]), Ok(())),
            (json!({"csi": {"driver": "other"}}), json!(["csi"]), refused("csi")),
            (json!({"persistentVolumeClaim": {"claimName": "claim"}}), json!(["csi"]), Ok(())),
            (json!({"name": "scratch", "ephemeral": {}}), json!(["csi"]), Ok(())),
            (json!({"emptyDir": {}}), json!(["csi"]), refused("csi")),
        ] {
            let pod = json!({"metadata": {"name": "p"}, "spec": {"volumes": [volume]}});
            let request = json!({"spec": {"audiences": audiences}});
            let got = check(&request, &pod, "dev", "me", &objects, |audience| audience == "granted");
            assert_eq!(got, wanted, "{pod} {request}");
        }
    }
}
