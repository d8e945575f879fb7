//! From a pod's spec to what the runtime is asked for (`kuberuntime_container.go`, `kuberuntime_sandbox.go`, `pkg/securitycontext`).

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{Container, Pod, SeccompProfile, SecurityContext};
use pharos_runtime::types::{
    Capability, ContainerConfig, ContainerMetadata, DEFAULT_MASKED_PATHS, DEFAULT_READONLY_PATHS, DnsConfig, Image, ImageSpec,
    LinuxContainerConfig, LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, LogRotation, Map,
    Mount, MountPropagation, NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata, PortMapping, Protocol,
    SecurityProfile, SelinuxOption, SupplementalGroupsPolicy,
};

use crate::{
    config::Config,
    expansion::expand_from,
    hosts,
    names::{self, Role},
    resources,
    volumes::Ready,
};

/// Labels of everything that belongs to a pod.
fn labels(pod: &Pod) -> Map {
    let mut labels: Map = pod.metadata.labels.clone().unwrap_or_default();
    labels.insert(names::POD_NAME.to_owned(), names::name(pod).to_owned());
    labels.insert(names::POD_NAMESPACE.to_owned(), names::namespace(pod).to_owned());
    labels.insert(names::POD_UID.to_owned(), names::uid(pod).to_owned());
    labels
}

fn namespaces(pod: &Pod) -> NamespaceOption {
    let spec = pod.spec.as_ref();
    let node = |field: Option<bool>, otherwise| if field == Some(true) { NamespaceMode::Node } else { otherwise };
    let shared = spec.and_then(|s| s.share_process_namespace) == Some(true);
    NamespaceOption {
        network: node(spec.and_then(|s| s.host_network), NamespaceMode::Pod),
        ipc: node(spec.and_then(|s| s.host_ipc), NamespaceMode::Pod),
        pid: node(spec.and_then(|s| s.host_pid), if shared { NamespaceMode::Pod } else { NamespaceMode::Container }),
        target_id: String::new(),
    }
}

/// The sandbox of a pod.
pub(crate) fn sandbox(pod: &Pod, attempt: u32, dns: DnsConfig, config: &Config) -> Result<PodSandboxConfig, String> {
    let spec = pod.spec.as_ref().ok_or("pod without spec")?;
    let context = spec.security_context.as_ref();
    if spec.host_users == Some(false) {
        return Err("hostUsers: false: user namespaces are not supported by this node".to_owned());
    }
    let host_network = spec.host_network == Some(true);
    let mut port_mappings = Vec::new();
    for port in spec
        .init_containers
        .iter()
        .flatten()
        .filter(|c| names::is_sidecar(c))
        .chain(&spec.containers)
        .flat_map(|c| c.ports.iter().flatten())
    {
        let number = |port: i32| u16::try_from(port).map_err(|_| format!("invalid port number: {port}"));
        let host_port = number(port.host_port.unwrap_or(0))?;
        if host_port > 0 && !host_network {
            port_mappings.push(PortMapping {
                protocol: match port.protocol.as_deref() {
                    None | Some("TCP") => Protocol::Tcp,
                    Some("UDP") => Protocol::Udp,
                    Some("SCTP") => Protocol::Sctp,
                    Some(other) => return Err(format!("unknown protocol: {other}")),
                },
                container_port: number(port.container_port)?,
                host_port,
                host_ip: port.host_ip.clone().unwrap_or_default(),
            });
        }
    }
    let privileged =
        names::containers(pod).iter().any(|(_, c)| c.security_context.as_ref().and_then(|s| s.privileged) == Some(true));
    let qos = resources::qos(pod);
    Ok(PodSandboxConfig {
        metadata: PodSandboxMetadata {
            name: names::name(pod).to_owned(),
            uid: names::uid(pod).to_owned(),
            namespace: names::namespace(pod).to_owned(),
            attempt,
        },
        hostname: hosts::kernel_hostname(pod, &config.cluster_domain)?,
        log_directory: config.pod_logs(names::namespace(pod), names::name(pod), names::uid(pod)),
        dns_config: Some(dns),
        port_mappings,
        labels: labels(pod),
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        linux: LinuxPodSandboxConfig {
            cgroup_parent: resources::cgroup(qos, names::uid(pod)),
            security_context: LinuxSandboxSecurityContext {
                namespace_options: namespaces(pod),
                selinux_options: context.and_then(|c| c.se_linux_options.as_ref()).map(selinux),
                privileged,
            },
            sysctls: context
                .into_iter()
                .flat_map(|c| c.sysctls.iter().flatten())
                .map(|s| (s.name.clone(), s.value.clone()))
                .collect(),
            resources: Some(resources::of_pod_cgroup(pod, config.pod_pids_limit)),
        },
    })
}

fn selinux(options: &k8s_openapi::api::core::v1::SELinuxOptions) -> SelinuxOption {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    SelinuxOption {
        user: text(&options.user),
        role: text(&options.role),
        r#type: text(&options.type_),
        level: text(&options.level),
    }
}

/// What a container is made from, beside its spec.
pub(crate) struct Parts<'a> {
    /// The pod.
    pub(crate) pod: &'a Pod,
    /// Where it stands in the spec.
    pub(crate) role: Role,
    /// Its definition.
    pub(crate) container: &'a Container,
    /// Which start this is.
    pub(crate) attempt: u32,
    /// Its environment.
    pub(crate) variables: Vec<(String, String)>,
    /// The pod's volumes.
    pub(crate) volumes: &'a BTreeMap<String, Ready>,
    /// Its image.
    pub(crate) image: &'a Image,
    /// The managed `/etc/hosts`, if there is to be one.
    pub(crate) hosts: Option<&'a Path>,
    /// The file for its termination message.
    pub(crate) message_file: &'a Path,
    /// The runtime ID of the container whose processes it shall see.
    pub(crate) target: Option<String>,
    /// Settings.
    pub(crate) config: &'a Config,
    /// The node's memory in bytes.
    pub(crate) node_memory: i64,
}

/// The container; an error is the message of `CreateContainerConfigError`. `sub_path` binds a part of a volume: volume
/// path, path below it, and a name for the bind.
pub(crate) fn container(
    parts: &Parts<'_>,
    sub_path: &mut dyn FnMut(&Path, &str, &str) -> Result<PathBuf, String>,
) -> Result<ContainerConfig, String> {
    let (pod, spec) = (parts.pod, parts.container);
    if spec.volume_devices.as_ref().is_some_and(|devices| !devices.is_empty()) {
        return Err("volumeDevices are not supported by this node".to_owned());
    }
    let variables: BTreeMap<String, String> = parts.variables.iter().cloned().collect();
    let words = |list: &Option<Vec<String>>| list.iter().flatten().map(|word| expand_from(word, &variables)).collect::<Vec<_>>();
    let mut annotations: Map = Map::new();
    annotations.insert(names::CONTAINER_HASH.to_owned(), names::hash(spec));
    annotations.insert(names::RESTART_COUNT.to_owned(), parts.attempt.to_string());
    annotations.insert(names::TERMINATION_MESSAGE_FILE.to_owned(), parts.message_file.display().to_string());
    let policy = spec.termination_message_policy.clone().unwrap_or_else(|| "File".to_owned());
    annotations.insert(names::TERMINATION_MESSAGE_POLICY.to_owned(), policy);
    if let Some(grace) = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds) {
        annotations.insert(names::GRACE_PERIOD.to_owned(), grace.to_string());
    }
    if let Some(pre_stop) = spec.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) {
        let json = serde_json::to_string(pre_stop).map_err(|error| error.to_string())?;
        annotations.insert(names::PRE_STOP.to_owned(), json);
    }
    let mut labels = labels(pod);
    labels.insert(names::CONTAINER_NAME.to_owned(), spec.name.clone());
    Ok(ContainerConfig {
        metadata: ContainerMetadata { name: spec.name.clone(), attempt: parts.attempt },
        image: ImageSpec { image: spec.image.clone().unwrap_or_default() },
        command: words(&spec.command),
        args: words(&spec.args),
        working_dir: spec.working_dir.clone().unwrap_or_default(),
        envs: parts.variables.clone(),
        mounts: mounts(parts, &variables, sub_path)?,
        labels,
        annotations,
        log_path: PathBuf::from(&spec.name).join(format!("{}.log", parts.attempt)),
        log_rotation: LogRotation {
            max_size_bytes: parts.config.container_log_max_size_bytes,
            max_files: parts.config.container_log_max_files,
        },
        stdin: spec.stdin.unwrap_or(false),
        stdin_once: spec.stdin_once.unwrap_or(false),
        tty: spec.tty.unwrap_or(false),
        stop_signal: spec.lifecycle.as_ref().and_then(|l| l.stop_signal.clone()).unwrap_or_default(),
        linux: LinuxContainerConfig {
            resources: resources::of_container(pod, spec, parts.role, parts.node_memory),
            security_context: security(parts)?,
        },
        ..ContainerConfig::default()
    })
}

fn mounts(
    parts: &Parts<'_>,
    variables: &BTreeMap<String, String>,
    sub_path: &mut dyn FnMut(&Path, &str, &str) -> Result<PathBuf, String>,
) -> Result<Vec<Mount>, String> {
    let spec = parts.container;
    let mut mounts = Vec::new();
    let mut own_hosts = parts.hosts.is_some();
    for (index, mount) in spec.volume_mounts.iter().flatten().enumerate() {
        let volume = parts
            .volumes
            .get(&mount.name)
            .ok_or_else(|| format!("cannot find volume {:?} to mount into container {:?}", mount.name, spec.name))?;
        let container_path = Path::new("/").join(&mount.mount_path);
        own_hosts &= container_path != Path::new("/etc/hosts");
        if mount.bind_mount_options.as_ref().is_some_and(|options| !options.is_empty()) {
            return Err(format!("bindMountOptions of volume mount {:?} are not supported by this node", mount.name));
        }
        let expr = mount.sub_path_expr.as_deref().unwrap_or_default();
        let below = if expr.is_empty() { mount.sub_path.clone().unwrap_or_default() } else { whole(expr, variables)? };
        let readonly = mount.read_only.unwrap_or(false);
        let recursive = readonly && matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"));
        let propagation = match mount.mount_propagation.as_deref() {
            None | Some("None") => MountPropagation::Private,
            Some("HostToContainer") => MountPropagation::HostToContainer,
            Some("Bidirectional") => MountPropagation::Bidirectional,
            Some(other) => return Err(format!("invalid MountPropagation mode: {other:?}")),
        };
        let base = Mount {
            container_path,
            readonly,
            recursive_read_only: recursive && propagation == MountPropagation::Private,
            propagation,
            ..Mount::default()
        };
        mounts.push(match volume {
            Ready::Image(reference) => {
                Mount { readonly: true, image: Some(ImageSpec { image: reference.clone() }), image_sub_path: below, ..base }
            }
            Ready::Path { path, read_only } => {
                let host_path = if below.is_empty() {
                    path.clone()
                } else {
                    sub_path(path, &below, &format!("{}/{}/{index}", mount.name, spec.name)).map_err(|error| {
                        format!(
                            "failed to prepare subPath for volumeMount {:?} of container {:?}: {error}",
                            mount.name, spec.name
                        )
                    })?
                };
                Mount { host_path, readonly: readonly || *read_only, ..base }
            }
        });
    }
    if let Some(hosts) = parts.hosts.filter(|_| own_hosts) {
        mounts.push(Mount { container_path: "/etc/hosts".into(), host_path: hosts.to_owned(), ..Mount::default() });
    }
    let message_path = spec.termination_message_path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/dev/termination-log");
    mounts.push(Mount { container_path: message_path.into(), host_path: parts.message_file.to_owned(), ..Mount::default() });
    Ok(mounts)
}

/// A `subPathExpr` must expand whole.
fn whole(expr: &str, variables: &BTreeMap<String, String>) -> Result<String, String> {
    let missing = std::cell::RefCell::new(None);
    let text = crate::expansion::expand(expr, |name| {
        let value = variables.get(name).cloned();
        if value.is_none() {
            missing.borrow_mut().get_or_insert_with(|| name.to_owned());
        }
        value
    });
    match missing.into_inner() {
        Some(name) => Err(format!("missing value for \"{name}\"")),
        None if text.starts_with('/') => Err(format!("error SubPath `{text}` must not be an absolute path")),
        None => Ok(text),
    }
}

fn security(parts: &Parts<'_>) -> Result<LinuxContainerSecurityContext, String> {
    let (pod, spec, image) = (parts.pod, parts.container, parts.image);
    let of_pod = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let empty = SecurityContext::default();
    let own = spec.security_context.as_ref().unwrap_or(&empty);
    if own.windows_options.is_some() || of_pod.is_some_and(|c| c.windows_options.is_some()) {
        return Err("windowsOptions can't be applied on Linux".to_owned());
    }
    let run_as_user = own.run_as_user.or(of_pod.and_then(|c| c.run_as_user));
    let mut run_as_group = own.run_as_group.or(of_pod.and_then(|c| c.run_as_group));
    let non_root = own.run_as_non_root.or(of_pod.and_then(|c| c.run_as_non_root)).unwrap_or(false);
    let whose = || format!("(pod: \"{}\", container: {})", names::display(pod), spec.name);
    if non_root {
        match run_as_user {
            Some(0) => return Err(format!("container's runAsUser breaks non-root policy {}", whose())),
            Some(_) => {}
            None if image.uid.is_none() && !image.username.is_empty() => {
                return Err(format!(
                    "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root {}",
                    image.username,
                    whose()
                ));
            }
            None if image.uid.unwrap_or(0) == 0 => {
                return Err(format!("container has runAsNonRoot and image will run as root {}", whose()));
            }
            None => {}
        }
    }
    let mut run_as_username = String::new();
    let mut run_as_user = run_as_user;
    if run_as_group.is_some() && run_as_user.is_none() {
        // The runtime takes a group only with a user.
        match image.uid {
            Some(uid) => run_as_user = Some(uid),
            None if !image.username.is_empty() => run_as_username = image.username.clone(),
            None => run_as_user = Some(0),
        }
    }
    if run_as_group == Some(-1) {
        run_as_group = None;
    }
    let privileged = own.privileged.unwrap_or(false);
    let mut supplemental_groups: Vec<i64> =
        of_pod.into_iter().flat_map(|c| c.supplemental_groups.iter().flatten().copied()).collect();
    supplemental_groups.extend(of_pod.and_then(|c| c.fs_group));
    let mut namespace_options = namespaces(pod);
    if let Some(target) = &parts.target {
        namespace_options.pid = NamespaceMode::Target;
        namespace_options.target_id = target.clone();
    }
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked") || privileged;
    let list = |paths: &[&str]| if unmasked { Vec::new() } else { paths.iter().map(|path| (*path).to_owned()).collect() };
    let capabilities = own.capabilities.as_ref();
    Ok(LinuxContainerSecurityContext {
        capabilities: Capability {
            add_capabilities: capabilities.and_then(|c| c.add.clone()).unwrap_or_default(),
            drop_capabilities: capabilities.and_then(|c| c.drop.clone()).unwrap_or_default(),
        },
        privileged,
        namespace_options,
        selinux_options: own.se_linux_options.as_ref().or(of_pod.and_then(|c| c.se_linux_options.as_ref())).map(selinux),
        run_as_user,
        run_as_group,
        run_as_username,
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups,
        supplemental_groups_policy: match of_pod.and_then(|c| c.supplemental_groups_policy.as_deref()) {
            Some("Strict") => SupplementalGroupsPolicy::Strict,
            _ => SupplementalGroupsPolicy::Merge,
        },
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: list(DEFAULT_MASKED_PATHS),
        readonly_paths: list(DEFAULT_READONLY_PATHS),
        seccomp: seccomp(
            own.seccomp_profile.as_ref().or(of_pod.and_then(|c| c.seccomp_profile.as_ref())),
            privileged,
            parts.config,
        )?,
        apparmor: apparmor(own, of_pod)?,
    })
}

fn seccomp(profile: Option<&SeccompProfile>, privileged: bool, config: &Config) -> Result<SecurityProfile, String> {
    Ok(match profile.map(|p| p.type_.as_str()) {
        // Privileged containers are never confined.
        _ if privileged => SecurityProfile::Unconfined,
        None | Some("Unconfined") => SecurityProfile::Unconfined,
        Some("RuntimeDefault") => SecurityProfile::RuntimeDefault,
        Some("Localhost") => {
            let name = profile.and_then(|p| p.localhost_profile.as_deref()).unwrap_or_default();
            if name.is_empty() || Path::new(name).components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
                return Err(
                    "localhostProfile must be set to a path below the seccomp profile root if seccompProfile type is Localhost."
                        .to_owned(),
                );
            }
            SecurityProfile::Localhost(config.seccomp_profile_root.join(name).display().to_string())
        }
        Some(other) => return Err(format!("unknown seccomp profile type {other:?}")),
    })
}

fn apparmor(
    own: &SecurityContext,
    of_pod: Option<&k8s_openapi::api::core::v1::PodSecurityContext>,
) -> Result<SecurityProfile, String> {
    let profile = own.app_armor_profile.as_ref().or(of_pod.and_then(|c| c.app_armor_profile.as_ref()));
    Ok(match profile.map(|p| p.type_.as_str()) {
        // As upstream: without a profile the runtime's default, which passes where there is no AppArmor.
        None | Some("RuntimeDefault") => SecurityProfile::RuntimeDefault,
        Some("Unconfined") => SecurityProfile::Unconfined,
        Some("Localhost") => SecurityProfile::Localhost(profile.and_then(|p| p.localhost_profile.clone()).unwrap_or_default()),
        Some(other) => return Err(format!("unknown AppArmor profile type {other:?}")),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn build(spec: Value, image: &Image) -> Result<ContainerConfig, String> {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec})).unwrap();
        let (role, spec) = names::containers(&pod).remove(0);
        let volumes = BTreeMap::from([("v".to_owned(), Ready::Path { path: "/host/v".into(), read_only: false })]);
        let parts = Parts {
            pod: &pod,
            role,
            container: &spec,
            attempt: 2,
            variables: vec![("A".to_owned(), "a".to_owned())],
            volumes: &volumes,
            image,
            hosts: Some(Path::new("/host/hosts")),
            message_file: Path::new("/host/message"),
            target: None,
            config: &Config::default(),
            node_memory: 1 << 30,
        };
        container(&parts, &mut |path, below, _| Ok(path.join(below)))
    }

    fn one(container: Value) -> Value {
        json!({"containers": [container]})
    }

    #[test]
    fn words_mounts_and_logs() {
        let built = build(
            one(json!({"name": "c", "image": "i", "command": ["sh", "$(A)$$(A)"],
                "volumeMounts": [{"name": "v", "mountPath": "/data", "subPathExpr": "x-$(A)", "readOnly": true}]})),
            &Image::default(),
        )
        .unwrap();
        assert_eq!(built.command, ["sh", "a$(A)"]);
        assert_eq!(built.log_path, Path::new("c/2.log"));
        let paths: Vec<_> =
            built.mounts.iter().map(|m| (m.container_path.to_str().unwrap(), m.host_path.to_str().unwrap())).collect();
        assert_eq!(paths, [("/data", "/host/v/x-a"), ("/etc/hosts", "/host/hosts"), ("/dev/termination-log", "/host/message")]);
        assert!(built.mounts[0].readonly);
    }

    #[test]
    fn users() {
        let root = Image { uid: Some(0), ..Image::default() };
        let named = Image { username: "web".into(), ..Image::default() };
        let non_root = one(json!({"name": "c", "securityContext": {"runAsNonRoot": true}}));
        assert_eq!(
            build(non_root.clone(), &root).unwrap_err(),
            "container has runAsNonRoot and image will run as root (pod: \"p_n(u)\", container: c)"
        );
        assert!(build(non_root, &named).unwrap_err().contains("non-numeric user (web)"));
        let group =
            build(one(json!({"name": "c", "securityContext": {"runAsGroup": 5}})), &named).unwrap().linux.security_context;
        assert_eq!((group.run_as_group, group.run_as_username.as_str()), (Some(5), "web"));
        let both = json!({"securityContext": {"runAsUser": 1, "fsGroup": 9, "supplementalGroups": [8]},
            "containers": [{"name": "c", "securityContext": {"runAsUser": 2}}]});
        let both = build(both, &root).unwrap().linux.security_context;
        assert_eq!((both.run_as_user, both.supplemental_groups), (Some(2), vec![8, 9]));
    }

    #[test]
    fn refuses_what_it_cannot_do() {
        for container in [
            json!({"name": "c", "volumeDevices": [{"name": "v", "devicePath": "/dev/x"}]}),
            json!({"name": "c", "volumeMounts": [{"name": "none", "mountPath": "/x"}]}),
            json!({"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/x", "subPathExpr": "$(NONE)"}]}),
            json!({"name": "c", "securityContext": {"seccompProfile": {"type": "Localhost", "localhostProfile": "../x"}}}),
        ] {
            assert!(build(one(container.clone()), &Image::default()).is_err(), "{container}");
        }
    }
}
