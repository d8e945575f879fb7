//! CRI configurations as Docker's requests. Pure; refuses what Docker can't do.

use std::collections::HashMap;
use std::path::Path;

use bollard::models::{
    ContainerCreateBody, ContainerUpdateBody, DeviceMapping, HostConfig, HostConfigLogConfig, Mount, MountBindOptions,
    MountBindOptionsPropagationEnum, MountType, ResourcesUlimits,
};

use crate::docker::Labels;
use crate::error::{Context, Error, Result};
use crate::selinux;
use crate::spec;
use crate::types::{
    ContainerConfig, LinuxContainerResources, MountPropagation, NamespaceMode, PodSandboxConfig, SecurityProfile,
    SupplementalGroupsPolicy,
};

/// Logs are kept by Docker only until they are in the CRI file: small files, enough for a restart of Pharos.
fn log_config() -> HostConfigLogConfig {
    let options = [("max-size", "16m"), ("max-file", "2")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    HostConfigLogConfig { typ: Some("json-file".to_owned()), config: Some(HashMap::from(options)) }
}

/// A sandbox: the pause image with the pod's namespaces.
pub(crate) fn sandbox(config: &PodSandboxConfig, image: &str, parent: &str, labels: Labels) -> Result<ContainerCreateBody> {
    let security = &config.linux.security_context;
    selinux::check(security.selinux_options.as_ref(), &[])?;
    let host_network = match security.namespace_options.network {
        NamespaceMode::Pod => false,
        NamespaceMode::Node => true,
        _ => return Err(Error::InvalidArgument("a pod's network is its own or the node's".to_owned())),
    };
    let host_ipc = match security.namespace_options.ipc {
        NamespaceMode::Pod => false,
        NamespaceMode::Node => true,
        _ => return Err(Error::InvalidArgument("a pod's IPC is its own or the node's".to_owned())),
    };
    if config.linux.resources.is_some() && config.linux.cgroup_parent.is_empty() {
        return Err(Error::InvalidArgument("resources of a pod need its cgroup parent".to_owned()));
    }
    let host = HostConfig {
        cgroup_parent: Some(parent.to_owned()),
        network_mode: Some(if host_network { "host" } else { "none" }.to_owned()),
        ipc_mode: Some(if host_ipc { "host" } else { "shareable" }.to_owned()),
        sysctls: Some(config.linux.sysctls.iter().map(|(key, value)| (key.clone(), value.clone())).collect()),
        oom_score_adj: Some(i64::from(spec::allowed_oom_score(-998))),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
        readonly_rootfs: Some(true),
        ..HostConfig::default()
    };
    Ok(ContainerCreateBody {
        hostname: (!host_network && !config.hostname.is_empty()).then(|| config.hostname.clone()),
        image: Some(image.to_owned()),
        labels: Some(labels),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    })
}

/// A container in a sandbox.
pub(crate) fn container(
    config: &ContainerConfig,
    image_id: &str,
    image_user: &str,
    sandbox: &SandboxView<'_>,
    labels: Labels,
) -> Result<ContainerCreateBody> {
    check(config)?;
    let security = &config.linux.security_context;
    let options = &security.namespace_options;
    let container_of = |id: &str| Some(format!("container:{id}"));
    let mut host = HostConfig {
        cgroup_parent: Some(sandbox.cgroup_parent.to_owned()),
        network_mode: if sandbox.host_network { Some("host".to_owned()) } else { container_of(sandbox.id) },
        ipc_mode: if options.ipc == NamespaceMode::Node { Some("host".to_owned()) } else { container_of(sandbox.id) },
        pid_mode: match options.pid {
            NamespaceMode::Container => None,
            NamespaceMode::Pod => container_of(sandbox.id),
            NamespaceMode::Node => Some("host".to_owned()),
            NamespaceMode::Target => container_of(&options.target_id),
        },
        mounts: Some(mounts(config, sandbox.dir)?),
        privileged: Some(security.privileged),
        readonly_rootfs: Some(security.readonly_rootfs),
        group_add: Some(security.supplemental_groups.iter().map(ToString::to_string).collect()),
        security_opt: Some(security_options(config)?),
        oom_score_adj: Some(i64::from(spec::allowed_oom_score(config.linux.resources.oom_score_adj))),
        log_config: Some(log_config()),
        ulimits: Some(
            config
                .rlimits
                .iter()
                .map(|limit| ResourcesUlimits {
                    name: Some(limit.kind.trim_start_matches("RLIMIT_").to_lowercase()),
                    soft: Some(limit.soft as i64),
                    hard: Some(limit.hard as i64),
                })
                .collect(),
        ),
        devices: Some(
            config
                .devices
                .iter()
                .map(|device| DeviceMapping {
                    path_on_host: Some(device.host_path.display().to_string()),
                    path_in_container: Some(device.container_path.display().to_string()),
                    cgroup_permissions: Some(if device.permissions.is_empty() { "rwm" } else { &device.permissions }.to_owned()),
                })
                .collect(),
        ),
        ..HostConfig::default()
    };
    if !security.privileged {
        host.masked_paths = Some(security.masked_paths.clone());
        host.readonly_paths = Some(security.readonly_paths.clone());
        host.cap_add = Some(security.capabilities.add_capabilities.clone());
        host.cap_drop = Some(security.capabilities.drop_capabilities.clone());
    }
    limits(&config.linux.resources, &mut host)?;
    let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    Ok(ContainerCreateBody {
        // With the node's network Docker gives the node's name itself.
        user: Some(user(config, image_user)?),
        tty: Some(config.tty),
        open_stdin: Some(config.stdin),
        stdin_once: Some(config.stdin_once),
        env: Some(config.envs.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        entrypoint: some(&config.command),
        cmd: some(&config.args),
        working_dir: (!config.working_dir.is_empty()).then(|| config.working_dir.clone()),
        stop_signal: (!config.stop_signal.is_empty()).then(|| config.stop_signal.clone()),
        image: Some(image_id.to_owned()),
        labels: Some(labels),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    })
}

/// What a container needs of its sandbox.
pub(crate) struct SandboxView<'a> {
    pub(crate) id: &'a str,
    pub(crate) cgroup_parent: &'a str,
    pub(crate) host_network: bool,
    /// Directory with the pod's `resolv.conf`.
    pub(crate) dir: &'a Path,
}

fn check(config: &ContainerConfig) -> Result<()> {
    let security = &config.linux.security_context;
    let refuse = |what: &str| Err(Error::Unsupported(format!("{what} is not supported with Docker")));
    spec::capabilities(&security.capabilities, security.privileged)?;
    selinux::check(security.selinux_options.as_ref(), &config.mounts)?;
    match () {
        () if config.mounts.iter().any(|mount| mount.image.is_some()) => refuse("an image volume"),
        () if config.mounts.iter().any(|mount| mount.recursive_read_only) => refuse("a recursive read-only mount"),
        () if security.supplemental_groups_policy == SupplementalGroupsPolicy::Strict => {
            refuse("supplementalGroupsPolicy Strict")
        }
        () if security.namespace_options.network == NamespaceMode::Container
            || security.namespace_options.ipc == NamespaceMode::Container =>
        {
            Err(Error::InvalidArgument("a container has its pod's network and IPC namespaces".to_owned()))
        }
        () => Ok(()),
    }
}

fn user(config: &ContainerConfig, image_user: &str) -> Result<String> {
    let security = &config.linux.security_context;
    let (image_name, image_group) = image_user.split_once(':').unwrap_or((image_user, ""));
    let (user, group) = match (security.run_as_user, security.run_as_username.as_str()) {
        (Some(uid), _) => (uid.to_string(), ""),
        (None, "") => (image_name.to_owned(), image_group),
        (None, name) => (name.to_owned(), ""),
    };
    Ok(match security.run_as_group {
        Some(_) if user.is_empty() => {
            return Err(Error::InvalidArgument("runAsGroup needs a runAsUser or an image with a user".to_owned()));
        }
        Some(gid) => format!("{user}:{gid}"),
        None if group.is_empty() => user,
        None => format!("{user}:{group}"),
    })
}

fn mounts(config: &ContainerConfig, sandbox_dir: &Path) -> Result<Vec<Mount>> {
    let bind = |target: &Path, source: &Path, read_only: bool, propagation: MountPropagation| Mount {
        target: Some(target.display().to_string()),
        source: Some(source.display().to_string()),
        typ: Some(MountType::BIND),
        read_only: Some(read_only),
        bind_options: Some(MountBindOptions {
            propagation: Some(match propagation {
                MountPropagation::Private => MountBindOptionsPropagationEnum::RPRIVATE,
                MountPropagation::HostToContainer => MountBindOptionsPropagationEnum::RSLAVE,
                MountPropagation::Bidirectional => MountBindOptionsPropagationEnum::RSHARED,
            }),
            ..MountBindOptions::default()
        }),
        ..Mount::default()
    };
    let mut mounts = Vec::new();
    let resolv = Path::new("/etc/resolv.conf");
    if !config.mounts.iter().any(|mount| mount.container_path == resolv) {
        let read_only = config.linux.security_context.readonly_rootfs;
        mounts.push(bind(resolv, &sandbox_dir.join("resolv.conf"), read_only, MountPropagation::Private));
    }
    for mount in &config.mounts {
        mount.host_path.metadata().context(|| format!("failed to stat {:?}", mount.host_path.display().to_string()))?;
        mounts.push(bind(&mount.container_path, &mount.host_path, mount.readonly, mount.propagation));
    }
    Ok(mounts)
}

fn security_options(config: &ContainerConfig) -> Result<Vec<String>> {
    let security = &config.linux.security_context;
    let mut options = Vec::new();
    if security.no_new_privs {
        options.push("no-new-privileges".to_owned());
    }
    match &security.seccomp {
        _ if security.privileged => {}
        SecurityProfile::RuntimeDefault => {}
        SecurityProfile::Unconfined => options.push("seccomp=unconfined".to_owned()),
        SecurityProfile::Localhost(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| Error::InvalidArgument(format!("failed to load seccomp profile {path:?}: {error}")))?;
            serde_json::from_str::<serde_json::Value>(&text)
                .map_err(|error| Error::InvalidArgument(format!("seccomp profile {path:?} is invalid: {error}")))?;
            options.push(format!("seccomp={text}"));
        }
    }
    match spec::apparmor(&security.apparmor, security.privileged)? {
        Some(profile) => options.push(format!("apparmor={profile}")),
        None if security.apparmor == SecurityProfile::Unconfined => options.push("apparmor=unconfined".to_owned()),
        None => {}
    }
    Ok(options)
}

fn limits(resources: &LinuxContainerResources, host: &mut HostConfig) -> Result<()> {
    refuse_limits(resources)?;
    let set = |value: i64| (value != 0).then_some(value);
    host.cpu_shares = set(resources.cpu_shares as i64);
    host.cpu_period = set(resources.cpu_period as i64);
    host.cpu_quota = set(resources.cpu_quota);
    host.cpuset_cpus = (!resources.cpuset_cpus.is_empty()).then(|| resources.cpuset_cpus.clone());
    host.cpuset_mems = (!resources.cpuset_mems.is_empty()).then(|| resources.cpuset_mems.clone());
    host.memory = set(resources.memory_limit_in_bytes);
    host.memory_swap = set(resources.memory_swap_limit_in_bytes);
    host.pids_limit = set(resources.pids_limit);
    Ok(())
}

fn refuse_limits(resources: &LinuxContainerResources) -> Result<()> {
    if !resources.hugepage_limits.is_empty() || !resources.unified.is_empty() {
        return Err(Error::Unsupported("huge page and unified limits are not supported with Docker".to_owned()));
    }
    Ok(())
}

/// New limits of a container.
pub(crate) fn update(resources: &LinuxContainerResources) -> Result<ContainerUpdateBody> {
    refuse_limits(resources)?;
    let mut host = HostConfig::default();
    limits(resources, &mut host)?;
    Ok(ContainerUpdateBody {
        cpu_shares: host.cpu_shares,
        cpu_period: host.cpu_period,
        cpu_quota: host.cpu_quota,
        cpuset_cpus: host.cpuset_cpus,
        cpuset_mems: host.cpuset_mems,
        memory: host.memory,
        // A memory limit may not pass the one on memory and swap, which Docker sets to the double when it makes a container.
        memory_swap: host.memory_swap.or_else(|| host.memory.map(|memory| memory.saturating_mul(2))),
        pids_limit: host.pids_limit,
        ..ContainerUpdateBody::default()
    })
}
