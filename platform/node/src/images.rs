//! Images: pull policies, back-off, credentials and the events that tell of them (`pkg/kubelet/images/image_manager.go`).

use std::{collections::BTreeMap, path::Path, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::{
    ByteString,
    api::core::v1::{Pod, Secret},
};
use parking_lot::Mutex;
use pharos_client::Regarding;
use pharos_runtime::{
    Error,
    image::Reference,
    types::{Image, ImageSpec, RegistryAuth},
};
use tokio::sync::Semaphore;

use crate::{backoff::Backoffs, core::Core, names, objects::Objects, pod_status::Waiting};

/// What all pods' pulls share.
pub(crate) struct Images {
    slots: Arc<Semaphore>,
    /// Locked for a look or a change only.
    backoffs: Mutex<Backoffs>,
    /// Why the last pull of a key failed.
    reasons: Mutex<BTreeMap<String, String>>,
}

impl Images {
    /// At most so many pulls at once; more wait their turn.
    pub(crate) fn new(parallel: usize) -> Self {
        Self { slots: Arc::new(Semaphore::new(parallel.max(1))), backoffs: Mutex::default(), reasons: Mutex::default() }
    }
}

/// Why there is no image, and how long to wait before the next try.
#[derive(Debug)]
pub(crate) struct NoImage {
    /// For the container's state.
    pub(crate) waiting: Waiting,
    /// When to try again; `None`: at the back-off's end, which the next try finds.
    pub(crate) retry_in: Option<std::time::Duration>,
}

/// Makes sure the image is here, as the policy says.
pub(crate) async fn ensure(
    core: &Core,
    pod: &Pod,
    regarding: &Regarding,
    image: &str,
    policy: Option<&str>,
    objects: &Objects,
) -> Result<Image, NoImage> {
    let no = |reason: &str, message: String| NoImage { waiting: Waiting { reason: reason.to_owned(), message }, retry_in: None };
    let spec = ImageSpec { image: image.to_owned() };
    // A name that is none is never asked for (`applyDefaultImageTag`).
    if image.parse::<Reference>().is_err() {
        let message =
            format!("Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: invalid reference format");
        core.recorder.warning(regarding, "InspectFailed", message.as_str());
        return Err(no("InvalidImageName", message));
    }
    let policy = policy.unwrap_or_else(|| default_policy(image));
    let present = match core.observe("image_status", core.runtime.image_status(&spec)).await {
        Ok(present) => present,
        Err(error) => {
            let message = format!("Failed to inspect image {image:?}: {}", error.chain());
            core.recorder.warning(regarding, "InspectFailed", message.as_str());
            return Err(no("ImageInspectError", message));
        }
    };
    match (policy, present) {
        ("Never" | "IfNotPresent", Some(image_)) => {
            core.recorder.normal(
                regarding,
                "Pulled",
                format!("Container image {image:?} already present on machine and can be accessed by the pod"),
            );
            return Ok(image_);
        }
        ("Never", None) => {
            let message = format!("Container image {image:?} is not present with pull policy of Never");
            core.recorder.warning(regarding, "ErrImageNeverPull", message.as_str());
            return Err(no("ErrImageNeverPull", message));
        }
        _ => {}
    }
    let key = format!("{}_{image}", names::uid(pod));
    let now = core.clock.now();
    if let Some((_, left)) = core.images.backoffs.lock().waiting_since_update(&key, now) {
        let because = core.images.reasons.lock().get(&key).cloned().unwrap_or_default();
        let message = format!("Back-off pulling image {image:?}: {because}");
        core.recorder.normal(regarding, "BackOff", message.as_str());
        let waiting = Waiting { reason: "ImagePullBackOff".to_owned(), message };
        return Err(NoImage { waiting, retry_in: Some(left) });
    }
    let waited = tokio::time::Instant::now();
    // Closed never; a permit is all that is waited for.
    let _slot = core.images.slots.clone().acquire_owned().await;
    core.recorder.normal(regarding, "Pulling", format!("Pulling image {image:?}"));
    let began = tokio::time::Instant::now();
    let auths = credentials(core, pod, image, objects).await;
    let mut result = Err(Error::Unauthenticated("no credentials".to_owned()));
    for auth in auths {
        result = core.observe("pull_image", core.runtime.pull_image(&spec, &auth)).await;
        if result.is_ok() {
            break;
        }
    }
    let pulled = match result {
        Ok(_) => core.observe("image_status", core.runtime.image_status(&spec)).await.map_err(|error| error.chain()),
        Err(error) => Err(error.chain()),
    };
    let pulled = pulled.and_then(|found| found.ok_or_else(|| "the image is gone right after its pull".to_owned()));
    match pulled {
        Ok(found) => {
            let size = found.size_bytes;
            core.metrics.image_pull.with_label_values(&[bucket(size)]).observe(began.elapsed().as_secs_f64());
            core.recorder.normal(
                regarding,
                "Pulled",
                format!(
                    "Successfully pulled image {image:?} in {} ({} including waiting). Image size: {size} bytes.",
                    seconds(began.elapsed()),
                    seconds(waited.elapsed())
                ),
            );
            core.images.reasons.lock().remove(&key);
            Ok(found)
        }
        Err(error) => {
            core.images.backoffs.lock().next(&key, core.clock.now());
            core.images.reasons.lock().insert(key.clone(), format!("ErrImagePull: {error}"));
            core.recorder.warning(regarding, "Failed", format!("Failed to pull image {image:?}: {error}"));
            // The next look, soon, tells of the back-off.
            Err(NoImage {
                waiting: Waiting { reason: "ErrImagePull".to_owned(), message: error },
                retry_in: Some(std::time::Duration::from_secs(2)),
            })
        }
    }
}

/// Without a policy: always for `latest` and no tag, as the API server's default.
fn default_policy(image: &str) -> &'static str {
    let name = image.rsplit('/').next().unwrap_or(image);
    match name.split_once(':') {
        _ if image.contains('@') => "IfNotPresent",
        Some((_, tag)) if tag != "latest" => "IfNotPresent",
        _ => "Always",
    }
}

fn seconds(duration: std::time::Duration) -> String {
    if duration.as_secs() > 0 { format!("{:.3}s", duration.as_secs_f64()) } else { format!("{}ms", duration.as_millis()) }
}

fn bucket(size: u64) -> &'static str {
    match size >> 20 {
        0..10 => "0-10MB",
        10..100 => "10MB-100MB",
        100..500 => "100MB-500MB",
        500..1024 => "500MB-1GB",
        1024..5120 => "1GB-5GB",
        5120..10240 => "5GB-10GB",
        10240..20480 => "10GB-20GB",
        20480..30720 => "20GB-30GB",
        30720..40960 => "30GB-40GB",
        40960..61440 => "40GB-60GB",
        61440..102_400 => "60GB-100GB",
        _ => "GT100GB",
    }
}

/// Credentials to try, in order: those of pull secrets, of the node's own file, none.
async fn credentials(core: &Core, pod: &Pod, image: &str, objects: &Objects) -> Vec<RegistryAuth> {
    let mut auths = Vec::new();
    for reference in pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten()) {
        match objects.secret(&reference.name) {
            Ok(secret) => auths.extend(of_secret(secret, image)),
            Err(error) => core.recorder.warning(
                &Regarding::of(pod),
                "FailedToRetrieveImagePullSecret",
                format!(
                    "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed: {error}.",
                    reference.name
                ),
            ),
        }
    }
    let file = core.config.root_dir.join("config.json");
    if let Some(text) = read(&file).await {
        auths.extend(of_config(&text, image));
    }
    auths.push(RegistryAuth::Anonymous);
    auths
}

async fn read(path: &Path) -> Option<Vec<u8>> {
    tokio::fs::read(path).await.ok()
}

fn of_secret(secret: &Secret, image: &str) -> Vec<RegistryAuth> {
    let get = |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map(|ByteString(bytes)| bytes.as_slice());
    match (get(".dockerconfigjson"), get(".dockercfg")) {
        (Some(json), _) => of_config(json, image),
        (None, Some(json)) => {
            let auths: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
            of_auths(&auths, image)
        }
        (None, None) => Vec::new(),
    }
}

fn of_config(json: &[u8], image: &str) -> Vec<RegistryAuth> {
    let config: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
    of_auths(&config["auths"], image)
}

fn of_auths(auths: &serde_json::Value, image: &str) -> Vec<RegistryAuth> {
    let wanted = normal(image);
    let mut found: Vec<(usize, RegistryAuth)> = auths
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(server, entry)| {
            let server = server.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
            let server = server.trim_end_matches("/v1").trim_end_matches("/v2");
            let server = if matches!(server, "index.docker.io" | "registry-1.docker.io") { "docker.io" } else { server };
            let rest = wanted.strip_prefix(server)?;
            (rest.is_empty() || rest.starts_with(['/', ':', '@'])).then_some(())?;
            let text = |key: &str| entry[key].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
            let auth = match (text("username"), text("password"), text("auth"), text("registrytoken")) {
                (.., Some(token)) => RegistryAuth::Bearer(token),
                (Some(username), Some(password), ..) => RegistryAuth::Basic { username, password },
                (_, _, Some(auth), _) => {
                    let plain = String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok()?;
                    let (username, password) = plain.split_once(':')?;
                    RegistryAuth::Basic { username: username.to_owned(), password: password.trim_end_matches('\0').to_owned() }
                }
                _ => return None,
            };
            Some((server.len(), auth))
        })
        .collect();
    // The most exact match first.
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found.into_iter().map(|(_, auth)| auth).collect()
}

/// The image with its registry.
fn normal(image: &str) -> String {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => image.to_owned(),
        Some(_) => format!("docker.io/{image}"),
        None => format!("docker.io/library/{image}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_policies() {
        for (image, policy) in [
            ("busybox", "Always"),
            ("busybox:latest", "Always"),
            ("busybox:1.36", "IfNotPresent"),
            ("localhost:5000/busybox", "Always"),
            ("localhost:5000/busybox:1", "IfNotPresent"),
            ("busybox@sha256:abc", "IfNotPresent"),
        ] {
            assert_eq!(default_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn credentials_by_registry() {
        let auths = serde_json::json!({
            "https://index.docker.io/v1/": {"auth": STANDARD.encode("hub:pw")},
            "example.com": {"username": "u", "password": "p"},
            "example.com/team": {"username": "team", "password": "p"},
        });
        let users = |image: &str| {
            of_auths(&auths, image)
                .into_iter()
                .map(|auth| match auth {
                    RegistryAuth::Basic { username, .. } => username,
                    _ => String::new(),
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(users("busybox"), ["hub"]);
        assert_eq!(users("example.com/team/app:1"), ["team", "u"]);
        assert_eq!(users("example.com/other"), ["u"]);
        assert!(users("example.community/x").is_empty());
    }
}
