//! ServiceAccount: every pod runs as one, has its token mounted and its pull secrets.
//!
//! Follows `plugin/pkg/admission/serviceaccount/admission.go`.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Attributes, Operation};
use crate::{names::random_suffix, status::Status};

/// Where the token is mounted.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// How long a pod's creation waits for the ServiceAccount that a controller is about to make (upstream: ten tries, 100 ms).
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) async fn mutate(attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Status> {
    if !attributes.is("", "pods", Operation::Create) {
        return Ok(());
    }
    if pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string() {
        return refuse_mirror_pod(attributes, pod);
    }
    let name = match pod["spec"]["serviceAccountName"].as_str() {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => "default".to_owned(),
    };
    pod["spec"]["serviceAccountName"] = json!(name);
    pod["spec"]["serviceAccount"] = json!(name);
    let account = wait_for(attributes, &name).await?;
    let wants = |object: &Value| object["automountServiceAccountToken"].as_bool();
    if wants(&pod["spec"]).or_else(|| wants(&account)).unwrap_or(true) {
        mount_token(&mut pod["spec"]);
    }
    let unset = pod["spec"]["imagePullSecrets"].as_array().is_none_or(Vec::is_empty);
    if unset && let Some(secrets) = account["imagePullSecrets"].as_array().filter(|secrets| !secrets.is_empty()) {
        pod["spec"]["imagePullSecrets"] = json!(secrets);
    }
    Ok(())
}

fn refuse_mirror_pod(attributes: &Attributes<'_>, pod: &Value) -> Result<(), Status> {
    if pod["spec"]["serviceAccountName"].as_str().is_some_and(|name| !name.is_empty()) {
        return Err(attributes.forbidden("a mirror pod may not reference service accounts"));
    }
    let volumes = pod["spec"]["volumes"].as_array();
    if volumes.into_iter().flatten().any(|volume| volume.get("secret").is_some()) {
        return Err(attributes.forbidden("a mirror pod may not reference secrets"));
    }
    Ok(())
}

/// The ServiceAccount, or 403 if it doesn't turn up in time.
async fn wait_for(attributes: &Attributes<'_>, name: &str) -> Result<Value, Status> {
    let storage = &attributes.api.0.storage;
    let mut revisions = storage.revisions();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        revisions.mark_unchanged();
        if let Some(account) = storage.object("", "serviceaccounts", attributes.namespace, name).await? {
            return Ok(account);
        }
        match tokio::time::timeout_at(deadline, revisions.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => {
                return Err(attributes.forbidden(&format!(
                    "error looking up service account {}/{name}: serviceaccount \"{name}\" not found",
                    attributes.namespace
                )));
            }
        }
    }
}

fn mount_token(spec: &mut Value) {
    let existing = spec["volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|volume| volume["name"].as_str())
        .find(|name| name.starts_with("kube-api-access-"))
        .map(str::to_owned);
    let known = existing.is_some();
    let name = existing.unwrap_or_else(|| format!("kube-api-access-{}", random_suffix()));
    let mut used = false;
    for list in ["initContainers", "containers"] {
        for container in spec[list].as_array_mut().into_iter().flatten() {
            let mounts = container["volumeMounts"].as_array();
            if mounts.into_iter().flatten().any(|mount| mount["mountPath"] == MOUNT_PATH) {
                continue;
            }
            let mount = json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH});
            match container["volumeMounts"].as_array_mut() {
                Some(mounts) => mounts.push(mount),
                None => container["volumeMounts"] = json!([mount]),
            }
            used = true;
        }
        if spec[list].is_null()
            && let Some(spec) = spec.as_object_mut()
        {
            spec.remove(list);
        }
    }
    if !used || known {
        return;
    }
    // 3607: an hour and a bit, so that the kubelet knows the token is not one a user asked for.
    let volume = json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}});
    match spec["volumes"].as_array_mut() {
        Some(volumes) => volumes.push(volume),
        None => spec["volumes"] = json!([volume]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_the_token_where_nothing_is() {
        let mut spec =
            json!({"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"name": "x", "mountPath": MOUNT_PATH}]}]});
        mount_token(&mut spec);
        let volume = spec["volumes"][0]["name"].clone();
        assert!(volume.as_str().unwrap().starts_with("kube-api-access-"));
        assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], volume);
        assert_eq!(spec["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
        assert!(spec.get("initContainers").is_none());
        let again = spec.clone();
        mount_token(&mut spec);
        assert_eq!(spec, again);
    }
}
