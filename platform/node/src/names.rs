//! Names by which pods and containers are found again in the runtime and on disk: upstream's labels and annotations
//! (`pkg/kubelet/types/labels.go`, `kuberuntime/labels.go`).

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod};
use pharos_client::Regarding;

/// Label: the pod's name.
pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
/// Label: the pod's namespace.
pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Label: the pod's UID.
pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
/// Label: the container's name.
pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Annotation: what of the container's definition makes a new one necessary.
pub(crate) const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
/// Annotation: which start this is.
pub(crate) const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Annotation: node path of the termination message file.
pub(crate) const TERMINATION_MESSAGE_FILE: &str = "io.kubernetes.container.terminationMessageFile";
/// Annotation: policy of the termination message.
pub(crate) const TERMINATION_MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// Annotation: the pod's grace period.
pub(crate) const GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";
/// Annotation: the preStop handler.
pub(crate) const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";

/// The pod's UID, or nothing.
pub(crate) fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// The pod's namespace.
pub(crate) fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

/// The pod's name.
pub(crate) fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// The pod in messages: upstream's `format.Pod`.
pub(crate) fn display(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// Which list of the pod spec a container stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// `spec.initContainers`, runs to its end.
    Init,
    /// `spec.initContainers` with `restartPolicy: Always`.
    Sidecar,
    /// `spec.containers`.
    Main,
    /// `spec.ephemeralContainers`.
    Ephemeral,
}

/// An ephemeral container as an ordinary one; they have the same fields.
pub(crate) fn ephemeral(container: &EphemeralContainer) -> Container {
    let c = container.clone();
    Container {
        args: c.args,
        command: c.command,
        env: c.env,
        env_from: c.env_from,
        image: c.image,
        image_pull_policy: c.image_pull_policy,
        name: c.name,
        resources: c.resources,
        security_context: c.security_context,
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        termination_message_path: c.termination_message_path,
        termination_message_policy: c.termination_message_policy,
        tty: c.tty,
        volume_devices: c.volume_devices,
        volume_mounts: c.volume_mounts,
        working_dir: c.working_dir,
        ..Container::default()
    }
}

/// Every container of a pod with its role, in order of start.
pub(crate) fn containers(pod: &Pod) -> Vec<(Role, Container)> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let mut all = Vec::new();
    for container in spec.init_containers.iter().flatten() {
        all.push((if is_sidecar(container) { Role::Sidecar } else { Role::Init }, container.clone()));
    }
    all.extend(spec.containers.iter().map(|container| (Role::Main, container.clone())));
    all.extend(spec.ephemeral_containers.iter().flatten().map(|container| (Role::Ephemeral, ephemeral(container))));
    all
}

/// A container of the pod by name.
pub(crate) fn find(pod: &Pod, name: &str) -> Option<(Role, Container)> {
    containers(pod).into_iter().find(|(_, container)| container.name == name)
}

/// Whether an init container is restartable.
pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The part of a pod an event is about.
pub(crate) fn regarding(pod: &Pod, role: Role, container: &str) -> Regarding {
    let list = match role {
        Role::Init | Role::Sidecar => "initContainers",
        Role::Main => "containers",
        Role::Ephemeral => "ephemeralContainers",
    };
    Regarding::of(pod).part(format!("spec.{list}{{{container}}}"))
}

/// What of a container's definition makes a new one necessary: its name and image, as upstream (`HashContainer`).
pub(crate) fn hash(container: &Container) -> String {
    let mut hasher = DefaultHasher::new();
    (&container.name, &container.image).hash(&mut hasher);
    format!("{:x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_follow_the_spec() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {
                "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
                "containers": [{"name": "m"}],
                "ephemeralContainers": [{"name": "e", "targetContainerName": "m"}],
            }
        }))
        .unwrap();
        let roles: Vec<_> = containers(&pod).into_iter().map(|(role, c)| (role, c.name)).collect();
        let expect = [(Role::Init, "i"), (Role::Sidecar, "s"), (Role::Main, "m"), (Role::Ephemeral, "e")];
        assert_eq!(roles, expect.map(|(role, name)| (role, name.to_owned())));
        assert_eq!(display(&pod), "p_n(u)");
        assert_eq!(regarding(&pod, Role::Sidecar, "s").field_path, "spec.initContainers{s}");
    }
}
