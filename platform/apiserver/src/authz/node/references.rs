//! What pods and volumes refer to.

use std::collections::HashSet;

use serde_json::Value;

use super::{Id, Kind, text};

/// The annotation of a pod that only mirrors one the kubelet found on its disk. Such a pod gives its node nothing: a
/// node could otherwise make one that names any Secret.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Everything a pod's node may read on its account.
pub(super) fn of_pod(pod: &Value, namespace: &str) -> HashSet<Id> {
    let mut found = HashSet::new();
    if !pod["metadata"]["annotations"][MIRROR].is_null() {
        return found;
    }
    let mut add = |kind, name: &Value| {
        let name = text(name);
        if !name.is_empty() {
            found.insert((kind, namespace.to_owned(), name.to_owned()));
        }
    };
    let spec = &pod["spec"];
    add(Kind::ServiceAccount, &spec["serviceAccountName"]);
    for secret in list(&spec["imagePullSecrets"]) {
        add(Kind::Secret, &secret["name"]);
    }
    for containers in ["initContainers", "containers", "ephemeralContainers"] {
        for container in list(&spec[containers]) {
            for source in list(&container["envFrom"]) {
                add(Kind::Secret, &source["secretRef"]["name"]);
                add(Kind::ConfigMap, &source["configMapRef"]["name"]);
            }
            for variable in list(&container["env"]) {
                add(Kind::Secret, &variable["valueFrom"]["secretKeyRef"]["name"]);
                add(Kind::ConfigMap, &variable["valueFrom"]["configMapKeyRef"]["name"]);
            }
        }
    }
    for volume in list(&spec["volumes"]) {
        add(Kind::Secret, &volume["secret"]["secretName"]);
        add(Kind::ConfigMap, &volume["configMap"]["name"]);
        for source in list(&volume["projected"]["sources"]) {
            add(Kind::Secret, &source["secret"]["name"]);
            add(Kind::ConfigMap, &source["configMap"]["name"]);
        }
        add(Kind::Claim, &volume["persistentVolumeClaim"]["claimName"]);
        if volume["ephemeral"].is_object() {
            let claim = format!("{}-{}", text(&pod["metadata"]["name"]), text(&volume["name"]));
            add(Kind::Claim, &Value::String(claim));
        }
        for plugin in ["azureFile", "cephfs", "cinder", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"] {
            add(Kind::Secret, &volume[plugin]["secretRef"]["name"]);
        }
        add(Kind::Secret, &volume["azureFile"]["secretName"]);
        add(Kind::Secret, &volume["csi"]["nodePublishSecretRef"]["name"]);
    }
    for claim in list(&spec["resourceClaims"]) {
        add(Kind::ResourceClaim, &claim["resourceClaimName"]);
        if !claim["resourceClaimTemplateName"].is_null() {
            // Made from a template, its name stands in the status once it exists.
            let status = list(&pod["status"]["resourceClaimStatuses"]).find(|status| status["name"] == claim["name"]);
            add(Kind::ResourceClaim, status.map_or(&Value::Null, |status| &status["resourceClaimName"]));
        }
    }
    add(Kind::ResourceClaim, &pod["status"]["extendedResourceClaimStatus"]["resourceClaimName"]);
    found
}

/// The Secrets a persistent volume needs to be mounted (`pkg/api/v1/persistentvolume/util.go`).
pub(super) fn of_volume(volume: &Value, claim_namespace: &str) -> HashSet<Id> {
    let spec = &volume["spec"];
    let mut found = HashSet::new();
    let mut add = |reference: &Value, field: &str| {
        let name = text(&reference[field]);
        let namespace = match text(&reference["namespace"]) {
            "" => match text(&reference["secretNamespace"]) {
                "" => claim_namespace,
                namespace => namespace,
            },
            namespace => namespace,
        };
        if !name.is_empty() {
            found.insert((Kind::Secret, namespace.to_owned(), name.to_owned()));
        }
    };
    add(&spec["azureFile"], "secretName");
    for plugin in ["cephfs", "cinder", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"] {
        add(&spec[plugin]["secretRef"], "name");
    }
    for reference in ["nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"] {
        add(&spec["csi"][reference], "name");
    }
    found
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
