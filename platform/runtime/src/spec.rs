//! The OCI runtime specification of a container, out of its CRI configuration, its image and its sandbox.
//!
//! [`build`] decides and does no I/O beyond looking at devices. Defaults (mounts, capabilities, devices) are those of containerd's
//! CRI plugin; the seccomp profile is that of containers/common 0.50 (Apache-2.0), tightened to Docker's rules for namespaces
//! and mounts.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cgroup;
use crate::error::{Context, Error, Result};
use crate::types::{
    Capability, ContainerConfig, ImageConfig, LinuxContainerResources, LinuxContainerUser, MountPropagation, NamespaceMode,
    SecurityProfile,
};

/// What a container gets from outside its own configuration.
pub(crate) struct Surroundings<'a> {
    /// Root file system.
    pub(crate) rootfs: &'a Path,
    /// Its cgroup.
    pub(crate) cgroup: &'a str,
    /// The process that holds the sandbox' namespaces.
    pub(crate) sandbox_pid: i32,
    /// The sandbox' network namespace; none with the node's network.
    pub(crate) netns: Option<&'a Path>,
    /// Host name of the sandbox.
    pub(crate) hostname: &'a str,
    /// The process whose PID namespace is joined when asked for.
    pub(crate) target_pid: Option<i32>,
    /// Directory with `resolv.conf`, `hostname` and `shm` of the sandbox.
    pub(crate) sandbox_dir: &'a Path,
    /// Whether cgroup v2 is in use.
    pub(crate) unified: bool,
}

/// Capabilities a container has by default: Docker's and containerd's.
const DEFAULT_CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Every capability, by number.
const ALL_CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Where cgroups are in a container.
const CGROUPS: &str = "/sys/fs/cgroup";
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Builds the specification.
///
/// # Errors
/// [`Error::InvalidArgument`] and [`Error::Unsupported`] for what can't be run as asked.
pub(crate) fn build(
    config: &ContainerConfig,
    image: &ImageConfig,
    user: &LinuxContainerUser,
    around: &Surroundings<'_>,
) -> Result<Value> {
    let security = &config.linux.security_context;
    check(config)?;
    let capabilities = capabilities(&security.capabilities, security.privileged)?;
    let mut process = json!({
        "terminal": config.tty,
        "user": { "uid": user.uid, "gid": user.gid, "additionalGids": user.supplemental_groups },
        "args": args(config, image)?,
        "env": env(config, image, around.hostname),
        "cwd": cwd(config, image)?,
        "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
        "oomScoreAdj": allowed_oom_score(config.linux.resources.oom_score_adj),
    });
    // An explicit false would make libcontainer load the seccomp filter after the capability to do so is gone.
    if security.no_new_privs {
        process["noNewPrivileges"] = json!(true);
    }
    if !config.rlimits.is_empty() {
        process["rlimits"] =
            config.rlimits.iter().map(|limit| json!({ "type": limit.kind, "soft": limit.soft, "hard": limit.hard })).collect();
    }
    if let Some(profile) = apparmor(&security.apparmor, security.privileged)? {
        process["apparmorProfile"] = json!(profile);
    }

    let (devices, rules) = devices(config)?;
    let mut linux = json!({
        "namespaces": namespaces(config, around)?,
        "cgroupsPath": around.cgroup,
        "resources": resources(&config.linux.resources, rules, around.unified)?,
        "devices": devices,
        "maskedPaths": if security.privileged { json!([]) } else { json!(security.masked_paths) },
        "readonlyPaths": if security.privileged { json!([]) } else { json!(security.readonly_paths) },
    });
    if let Some(profile) = seccomp(&security.seccomp, security.privileged, &capabilities)? {
        linux["seccomp"] = profile;
    }
    let widest = config.mounts.iter().map(|mount| mount.propagation);
    if widest.clone().any(|one| one == MountPropagation::Bidirectional) {
        linux["rootfsPropagation"] = json!("shared");
    } else if widest.clone().any(|one| one == MountPropagation::HostToContainer) {
        linux["rootfsPropagation"] = json!("slave");
    } else {
        linux["rootfsPropagation"] = json!("private");
    }
    Ok(json!({
        "ociVersion": "1.0.2",
        "process": process,
        "root": { "path": around.rootfs, "readonly": security.readonly_rootfs },
        "mounts": mounts(config, around)?,
        "linux": linux,
    }))
}

/// Refuses what no part below could honour.
fn check(config: &ContainerConfig) -> Result<()> {
    let security = &config.linux.security_context;
    crate::selinux::check(security.selinux_options.as_ref(), &config.mounts)?;
    if security.namespace_options.network == NamespaceMode::Container
        || security.namespace_options.ipc == NamespaceMode::Container
    {
        return Err(Error::InvalidArgument("a container has its pod's network and IPC namespaces".to_owned()));
    }
    Ok(())
}

fn args(config: &ContainerConfig, image: &ImageConfig) -> Result<Vec<String>> {
    let mut args = Vec::new();
    if config.command.is_empty() {
        args.extend(image.entrypoint.iter().cloned());
        args.extend(if config.args.is_empty() { image.cmd.iter() } else { config.args.iter() }.cloned());
    } else {
        args.extend(config.command.iter().chain(&config.args).cloned());
    }
    if args.is_empty() {
        return Err(Error::InvalidArgument("no command specified".to_owned()));
    }
    if args.iter().any(|arg| arg.contains('\0')) {
        return Err(Error::InvalidArgument("the command contains a NUL byte".to_owned()));
    }
    Ok(args)
}

fn env(config: &ContainerConfig, image: &ImageConfig, hostname: &str) -> Vec<String> {
    let mut env: Vec<String> = Vec::new();
    let mut set = |name: &str, entry: String| {
        match env.iter_mut().find(|one| one.split('=').next() == Some(name)) {
            Some(one) => *one = entry,
            None => env.push(entry),
        };
    };
    set("PATH", DEFAULT_PATH.to_owned());
    if !hostname.is_empty() {
        set("HOSTNAME", format!("HOSTNAME={hostname}"));
    }
    if config.tty {
        set("TERM", "TERM=xterm".to_owned());
    }
    for entry in &image.env {
        set(entry.split('=').next().unwrap_or_default(), entry.clone());
    }
    for (name, value) in &config.envs {
        set(name, format!("{name}={value}"));
    }
    env
}

fn cwd(config: &ContainerConfig, image: &ImageConfig) -> Result<String> {
    let cwd = [&config.working_dir, &image.working_dir].into_iter().find(|dir| !dir.is_empty());
    let cwd = cwd.cloned().unwrap_or_else(|| "/".to_owned());
    if !cwd.starts_with('/') {
        return Err(Error::InvalidArgument(format!("working directory {cwd} must be an absolute path")));
    }
    Ok(cwd)
}

/// The capabilities of a container, as the kernel's names, in order.
pub(crate) fn capabilities(wish: &Capability, privileged: bool) -> Result<Vec<String>> {
    let own = own_capabilities();
    let known: Vec<&str> =
        ALL_CAPABILITIES.iter().enumerate().filter(|(number, _)| own & (1 << number) != 0).map(|(_, name)| *name).collect();
    let name = |text: &String| -> Result<String> {
        let upper = text.to_uppercase();
        let full = if upper == "ALL" || upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
        match full.as_str() {
            "ALL" => Ok(full),
            one if !ALL_CAPABILITIES.contains(&one) => Err(Error::InvalidArgument(format!("unknown capability {text}"))),
            _ => Ok(full),
        }
    };
    let add: Vec<String> = wish.add_capabilities.iter().map(name).collect::<Result<_>>()?;
    let drop: Vec<String> = wish.drop_capabilities.iter().map(name).collect::<Result<_>>()?;
    if let Some(missing) = add.iter().find(|one| *one != "ALL" && !known.contains(&one.as_str())) {
        return Err(Error::Unsupported(format!("capability {missing} can't be given: this process has none")));
    }
    let all = |list: &[String]| list.iter().any(|one| one == "ALL");
    let base: &[&str] = match () {
        () if privileged || all(&add) => &known,
        () if all(&drop) => &[],
        () => DEFAULT_CAPABILITIES,
    };
    let mut set: BTreeSet<&str> = base.iter().copied().collect();
    if !privileged {
        set.extend(add.iter().map(String::as_str).filter(|one| *one != "ALL"));
        for one in drop.iter().filter(|one| !add.contains(one)) {
            set.remove(one.as_str());
        }
    }
    Ok(known.iter().filter(|one| set.contains(*one)).map(|one| (*one).to_owned()).collect())
}

/// The effective capabilities of this process, as bits. It can give no others.
fn own_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0)
}

/// An OOM score as low as this process may set: without CAP_SYS_RESOURCE only its own or higher. As containerd's
/// `restrict_oom_score_adj`.
pub(crate) fn allowed_oom_score(wanted: i32) -> i32 {
    const CAP_SYS_RESOURCE: u64 = 1 << 24;
    if own_capabilities() & CAP_SYS_RESOURCE != 0 {
        return wanted;
    }
    let own = fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    wanted.max(own)
}

pub(crate) fn apparmor(profile: &SecurityProfile, privileged: bool) -> Result<Option<String>> {
    let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'));
    match profile {
        _ if privileged => Ok(None),
        SecurityProfile::Localhost(name) if !enabled => {
            Err(Error::Unsupported(format!("AppArmor profile {name} is asked for, but AppArmor is not enabled on this machine")))
        }
        SecurityProfile::Localhost(name) => Ok(Some(name.clone())),
        // As everywhere else, the default means none where there is no AppArmor. The embedded runtime ships no profile.
        SecurityProfile::RuntimeDefault | SecurityProfile::Unconfined => Ok(None),
    }
}

fn namespaces(config: &ContainerConfig, around: &Surroundings<'_>) -> Result<Value> {
    let options = &config.linux.security_context.namespace_options;
    let of = |pid: i32, name: &str| format!("/proc/{pid}/ns/{name}");
    let mut namespaces = vec![json!({ "type": "mount" })];
    match options.pid {
        NamespaceMode::Container => namespaces.push(json!({ "type": "pid" })),
        NamespaceMode::Pod => namespaces.push(json!({ "type": "pid", "path": of(around.sandbox_pid, "pid") })),
        NamespaceMode::Node => {}
        NamespaceMode::Target => {
            let pid = around
                .target_pid
                .ok_or_else(|| Error::FailedPrecondition(format!("target container {:?} is not running", options.target_id)))?;
            namespaces.push(json!({ "type": "pid", "path": of(pid, "pid") }));
        }
    }
    if let Some(netns) = around.netns {
        namespaces.push(json!({ "type": "network", "path": netns }));
        namespaces.push(json!({ "type": "uts", "path": of(around.sandbox_pid, "uts") }));
    }
    if options.ipc == NamespaceMode::Pod {
        namespaces.push(json!({ "type": "ipc", "path": of(around.sandbox_pid, "ipc") }));
    }
    if around.unified && !config.linux.security_context.privileged {
        namespaces.push(json!({ "type": "cgroup" }));
    }
    Ok(Value::Array(namespaces))
}

fn mounts(config: &ContainerConfig, around: &Surroundings<'_>) -> Result<Value> {
    let security = &config.linux.security_context;
    let system = if security.privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        json!({ "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] }),
        json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] }),
        json!({ "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] }),
        json!({ "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"] }),
        json!({ "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", system] }),
    ];
    let mut bind = |destination: &str, source: PathBuf, options: &[&str]| {
        if source.exists() {
            mounts.push(json!({ "destination": destination, "type": "bind", "source": source, "options": options }));
        }
    };
    let rw = if security.readonly_rootfs { "ro" } else { "rw" };
    let shm = if security.namespace_options.ipc == NamespaceMode::Node {
        PathBuf::from("/dev/shm")
    } else {
        around.sandbox_dir.join("shm")
    };
    bind("/dev/shm", shm, &["rbind", "rprivate", "nosuid", "noexec", "nodev", "rw"]);
    bind("/etc/resolv.conf", around.sandbox_dir.join("resolv.conf"), &["rbind", "rprivate", rw]);
    bind("/etc/hostname", around.sandbox_dir.join("hostname"), &["rbind", "rprivate", rw]);

    let asked: BTreeSet<&Path> = config.mounts.iter().map(|mount| mount.container_path.as_path()).collect();
    mounts.retain(|mount| {
        let destination = mount["destination"].as_str().unwrap_or_default();
        !asked.contains(Path::new(destination))
    });
    if !asked.contains(Path::new(CGROUPS)) {
        mounts.extend(cgroup_mounts(around, system));
    }
    // Parents before what lies in them.
    let mut wanted: Vec<_> = config.mounts.iter().collect();
    wanted.sort_by_key(|mount| mount.container_path.components().count());
    for mount in wanted {
        if !mount.container_path.is_absolute() {
            return Err(Error::InvalidArgument(format!("mount path {} must be absolute", mount.container_path.display())));
        }
        if mount.recursive_read_only && (!mount.readonly || mount.propagation != MountPropagation::Private) {
            return Err(Error::InvalidArgument(format!(
                "recursive read-only mount {} must be read only and private",
                mount.container_path.display()
            )));
        }
        let metadata = mount.host_path.metadata();
        if let Err(error) = metadata {
            return Err(Error::internal(format!("failed to stat {:?}", mount.host_path.display().to_string()), error));
        }
        let propagation = match mount.propagation {
            MountPropagation::Private => "rprivate",
            MountPropagation::HostToContainer => "rslave",
            MountPropagation::Bidirectional => "rshared",
        };
        let mut options = vec!["rbind", propagation, if mount.readonly { "ro" } else { "rw" }];
        if mount.recursive_read_only {
            options.push("rro");
        }
        mounts.push(json!({
            "destination": mount.container_path, "type": "bind", "source": mount.host_path, "options": options,
        }));
    }
    Ok(Value::Array(mounts))
}

/// What is at `/sys/fs/cgroup`: the container's own cgroup.
fn cgroup_mounts(around: &Surroundings<'_>, system: &str) -> Vec<Value> {
    let flags = ["nosuid", "noexec", "nodev", "relatime"];
    if around.unified {
        let options = [&flags[..], &[system]].concat();
        return vec![json!({ "destination": CGROUPS, "type": "cgroup", "source": "cgroup", "options": options })];
    }
    // Not left to libcontainer: on v1 it looks for its own process id of the container's PID namespace among the machine's, and
    // fails at random when that namespace is another container's.
    let options = [&flags[..], &["mode=755"]].concat();
    let mut mounts = vec![json!({ "destination": CGROUPS, "type": "tmpfs", "source": "tmpfs", "options": options })];
    for (point, dir) in cgroup::Hierarchies::get().v1_views(around.cgroup) {
        let Some(name) = point.file_name() else { continue };
        let options = [&["bind", "rprivate"], &flags[..], &[system]].concat();
        mounts.push(json!({ "destination": Path::new(CGROUPS).join(name), "type": "bind", "source": dir, "options": options }));
    }
    mounts
}

/// Device nodes to make, and the cgroup's rules.
fn devices(config: &ContainerConfig) -> Result<(Vec<Value>, Vec<Value>)> {
    let mut nodes = Vec::new();
    if config.linux.security_context.privileged {
        host_devices(Path::new("/dev"), &mut nodes);
        return Ok((nodes, vec![json!({ "allow": true, "access": "rwm" })]));
    }
    let mut rules = vec![json!({ "allow": false, "access": "rwm" })];
    for (kind, major, minor) in
        [("c", 1, 3), ("c", 1, 5), ("c", 1, 7), ("c", 1, 8), ("c", 1, 9), ("c", 5, 0), ("c", 5, 1), ("c", 5, 2)]
    {
        rules.push(json!({ "allow": true, "type": kind, "major": major, "minor": minor, "access": "rwm" }));
    }
    rules.push(json!({ "allow": true, "type": "c", "major": 136, "access": "rwm" }));
    // Making nodes is harmless; using them is what counts.
    rules.push(json!({ "allow": true, "type": "c", "access": "m" }));
    rules.push(json!({ "allow": true, "type": "b", "access": "m" }));
    for device in &config.devices {
        let node = device_node(&device.host_path, &device.container_path)?
            .ok_or_else(|| Error::InvalidArgument(format!("{} is not a device node", device.host_path.display())))?;
        let access = if device.permissions.is_empty() { "rwm" } else { &device.permissions };
        if !access.chars().all(|c| "rwm".contains(c)) {
            return Err(Error::InvalidArgument(format!("device permissions {access:?} may have only r, w and m")));
        }
        rules.push(json!({
            "allow": true, "type": node["type"], "major": node["major"], "minor": node["minor"], "access": access,
        }));
        nodes.push(node);
    }
    Ok((nodes, rules))
}

fn device_node(host: &Path, inside: &Path) -> Result<Option<Value>> {
    let metadata = fs::metadata(host).context(|| format!("stat device {}", host.display()))?;
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => "c",
        kind if kind.is_block_device() => "b",
        _ => return Ok(None),
    };
    let device = metadata.rdev();
    Ok(Some(json!({
        "path": inside, "type": kind, "major": nix::sys::stat::major(device), "minor": nix::sys::stat::minor(device),
        "fileMode": metadata.mode() & 0o777, "uid": metadata.uid(), "gid": metadata.gid(),
    })))
}

/// The machine's devices, for a privileged container; its own pts, shm and mqueue are mounts.
fn host_devices(dir: &Path, nodes: &mut Vec<Value>) {
    const LEFT_OUT: &[&str] = &["pts", "shm", "fd", "mqueue", "console", ".lxc", ".lxd-mounts", ".udev", "hugepages"];
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if LEFT_OUT.iter().any(|one| name == *one) {
            continue;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => host_devices(&path, nodes),
            Ok(kind) if kind.is_char_device() || kind.is_block_device() => {
                // One that vanished meanwhile is left out.
                nodes.extend(device_node(&path, &path).ok().flatten());
            }
            _ => {}
        }
    }
}

fn resources(limits: &LinuxContainerResources, rules: Vec<Value>, unified: bool) -> Result<Value> {
    if !limits.unified.is_empty() && !unified {
        return Err(Error::Unsupported("unified resources need cgroup v2".to_owned()));
    }
    let mut resources = json!({ "devices": rules });
    let mut cpu = json!({});
    if limits.cpu_shares != 0 {
        cpu["shares"] = json!(limits.cpu_shares);
    }
    if limits.cpu_quota != 0 {
        cpu["quota"] = json!(limits.cpu_quota.max(-1));
    }
    if limits.cpu_period != 0 {
        cpu["period"] = json!(limits.cpu_period);
    }
    if !limits.cpuset_cpus.is_empty() {
        cpu["cpus"] = json!(limits.cpuset_cpus);
    }
    if !limits.cpuset_mems.is_empty() {
        cpu["mems"] = json!(limits.cpuset_mems);
    }
    resources["cpu"] = cpu;
    let mut memory = json!({});
    if limits.memory_limit_in_bytes != 0 {
        memory["limit"] = json!(limits.memory_limit_in_bytes);
    }
    if limits.memory_swap_limit_in_bytes != 0 {
        memory["swap"] = json!(limits.memory_swap_limit_in_bytes);
    }
    resources["memory"] = memory;
    if limits.pids_limit != 0 {
        resources["pids"] = json!({ "limit": limits.pids_limit });
    }
    if !limits.hugepage_limits.is_empty() {
        resources["hugepageLimits"] =
            limits.hugepage_limits.iter().map(|limit| json!({ "pageSize": limit.page_size, "limit": limit.limit })).collect();
    }
    if !limits.unified.is_empty() {
        resources["unified"] = json!(limits.unified);
    }
    Ok(resources)
}

fn seccomp(profile: &SecurityProfile, privileged: bool, capabilities: &[String]) -> Result<Option<Value>> {
    match profile {
        _ if privileged => Ok(None),
        SecurityProfile::Unconfined => Ok(None),
        SecurityProfile::RuntimeDefault => {
            let profile = serde_json::from_str(include_str!("spec/seccomp.json")).context(|| "parse the seccomp profile")?;
            Ok(Some(resolve_profile(&profile, capabilities)))
        }
        SecurityProfile::Localhost(path) => {
            let bytes = fs::read(path)
                .map_err(|error| Error::InvalidArgument(format!("failed to load seccomp profile {path:?}: {error}")))?;
            let profile: Value = serde_json::from_slice(&bytes)
                .map_err(|error| Error::InvalidArgument(format!("seccomp profile {path:?} is invalid: {error}")))?;
            let profile = resolve_profile(&profile, capabilities);
            if let Err(error) = serde_json::from_value::<libcontainer::oci_spec::runtime::LinuxSeccomp>(profile.clone()) {
                return Err(Error::InvalidArgument(format!("seccomp profile {path:?} is invalid: {error}")));
            }
            Ok(Some(profile))
        }
    }
}

/// Turns a profile with Docker's conditions (`includes`, `excludes`, `archMap`) into the plain form of OCI.
fn resolve_profile(profile: &Value, capabilities: &[String]) -> Value {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => ("SCMP_ARCH_X86_64", "amd64"),
        "aarch64" => ("SCMP_ARCH_AARCH64", "arm64"),
        other => ("", other),
    };
    let mut out = json!({ "defaultAction": profile["defaultAction"] });
    for key in ["defaultErrnoRet", "flags", "architectures", "listenerPath", "listenerMetadata"] {
        if !profile[key].is_null() {
            out[key] = profile[key].clone();
        }
    }
    if let Some(map) = profile["archMap"].as_array() {
        let mut architectures = Vec::new();
        for entry in map.iter().filter(|entry| entry["architecture"] == architecture.0) {
            architectures.push(entry["architecture"].clone());
            architectures.extend(entry["subArchitectures"].as_array().into_iter().flatten().cloned());
        }
        out["architectures"] = Value::Array(architectures);
    }
    let has = |condition: &Value, key: &str, holds: &dyn Fn(&str) -> bool| -> Option<bool> {
        let list = condition[key].as_array().filter(|list| !list.is_empty())?;
        Some(list.iter().filter_map(Value::as_str).any(holds))
    };
    let capable = |name: &str| capabilities.iter().any(|one| one == name);
    let native = |name: &str| name == architecture.1;
    let mut rules = Vec::new();
    for rule in profile["syscalls"].as_array().into_iter().flatten() {
        let (includes, excludes) = (&rule["includes"], &rule["excludes"]);
        if has(includes, "caps", &capable) == Some(false)
            || has(includes, "arches", &native) == Some(false)
            || has(excludes, "caps", &capable) == Some(true)
            || has(excludes, "arches", &native) == Some(true)
        {
            continue;
        }
        // A rule that repeats the default is what libcontainer would warn about.
        if rule["action"] == profile["defaultAction"] && rule["errnoRet"] == profile["defaultErrnoRet"] {
            continue;
        }
        let mut plain = json!({ "names": rule["names"], "action": rule["action"] });
        if rule["names"].is_null() && !rule["name"].is_null() {
            plain["names"] = json!([rule["name"]]);
        }
        if !rule["errnoRet"].is_null() {
            plain["errnoRet"] = rule["errnoRet"].clone();
        }
        if let Some(conditions) = rule["args"].as_array().filter(|conditions| !conditions.is_empty()) {
            plain["args"] = conditions.iter().map(swap_masked).collect();
        }
        rules.push(plain);
    }
    out["syscalls"] = Value::Array(rules);
    out
}

/// libcontainer 0.7 takes `valueTwo` for the mask and `value` for what must remain, the reverse of the specification.
fn swap_masked(condition: &Value) -> Value {
    if condition["op"] != "SCMP_CMP_MASKED_EQ" {
        return condition.clone();
    }
    let mut swapped = condition.clone();
    swapped["value"] = if condition["valueTwo"].is_null() { json!(0) } else { condition["valueTwo"].clone() };
    swapped["valueTwo"] = condition["value"].clone();
    swapped
}

/// Replaces the limits in a specification, keeping its device rules.
pub(crate) fn set_resources(specification: &mut Value, limits: &LinuxContainerResources, unified: bool) -> Result<()> {
    let rules = specification["linux"]["resources"]["devices"].as_array().cloned().unwrap_or_default();
    specification["linux"]["resources"] = resources(limits, rules, unified)?;
    Ok(())
}

/// The cgroup of one container in its pod's.
pub(crate) fn container_cgroup(parent: &str, id: &str) -> String {
    format!("{}/{id}", parent.trim_end_matches('/'))
}

/// Whether this machine uses cgroup v2.
pub(crate) fn is_unified() -> bool {
    matches!(cgroup::Hierarchies::get(), cgroup::Hierarchies::V2(_))
}

#[cfg(test)]
mod tests;
