//! What the kubelet and a runtime tell each other: the messages of CRI v1 (`k8s.io/cri-api/pkg/apis/runtime/v1`), by
//! their upstream names, as plain serde types. A field a runtime can't honour makes the call fail with
//! [`Error::Unsupported`](crate::Error::Unsupported); none is ignored.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

/// Labels or annotations, kept with the object and given back by every list and status call.
pub type Map = BTreeMap<String, String>;

/// What [`Runtime::version`](crate::Runtime::version) tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// `pharos` or `docker`.
    pub runtime_name: String,
    /// Version of the runtime itself.
    pub runtime_version: String,
    /// CRI version whose semantics are followed: `v1`.
    pub runtime_api_version: String,
}

/// `RuntimeReady` and `NetworkReady` conditions, as CRI's `Status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeCondition {
    /// `RuntimeReady`.
    pub kind: String,
    /// Whether the condition holds.
    pub status: bool,
    /// One CamelCase word; empty when the condition holds.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// Whose namespace a container joins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceMode {
    /// One for the whole pod.
    #[default]
    Pod,
    /// One for each container.
    Container,
    /// The machine's.
    Node,
    /// That of the container in [`NamespaceOption::target_id`] (PID only).
    Target,
}

/// The namespaces of a sandbox or container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NamespaceOption {
    /// `Pod` or `Node`.
    pub network: NamespaceMode,
    /// Any mode; Kubernetes' default is `Container`.
    pub pid: NamespaceMode,
    /// `Pod` or `Node`.
    pub ipc: NamespaceMode,
    /// Container whose PID namespace is joined when `pid` is `Target`.
    pub target_id: String,
}

impl Default for NamespaceOption {
    fn default() -> Self {
        Self { network: NamespaceMode::Pod, pid: NamespaceMode::Container, ipc: NamespaceMode::Pod, target_id: String::new() }
    }
}

/// Names a pod's sandbox; a restarted sandbox has the next `attempt`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSandboxMetadata {
    /// Pod name.
    pub name: String,
    /// Pod UID.
    pub uid: String,
    /// Pod namespace.
    pub namespace: String,
    /// Counts the sandboxes this pod has had, from 0.
    pub attempt: u32,
}

/// What goes into a pod's `/etc/resolv.conf`. `None` in the sandbox config leaves the node's file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsConfig {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The `search` line.
    pub searches: Vec<String>,
    /// The `options` line.
    pub options: Vec<String>,
}

/// Layer-4 protocol of a port mapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A host port. Kept with the sandbox for the pod network, which acts on it; runtimes don't.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortMapping {
    /// Protocol.
    pub protocol: Protocol,
    /// Port in the pod.
    pub container_port: u16,
    /// Port on the node.
    pub host_port: u16,
    /// Address on the node; empty means all.
    pub host_ip: String,
}

/// Seccomp or AppArmor profile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SecurityProfile {
    /// No profile.
    #[default]
    Unconfined,
    /// The runtime's default profile.
    RuntimeDefault,
    /// Seccomp: absolute path of a JSON profile on the node. AppArmor: name of a loaded profile.
    Localhost(String),
}

/// SELinux labels; refused by both runtimes on machines that have SELinux on, and without effect on others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SelinuxOption {
    /// User label.
    pub user: String,
    /// Role label.
    pub role: String,
    /// Type label.
    pub r#type: String,
    /// Level label.
    pub level: String,
}

/// Security settings of the sandbox itself; containers carry their own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxSandboxSecurityContext {
    /// Namespaces the pod shares.
    pub namespace_options: NamespaceOption,
    /// Refused when set.
    pub selinux_options: Option<SelinuxOption>,
    /// Whether a privileged container will run in the pod.
    pub privileged: bool,
}

/// Linux settings of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxPodSandboxConfig {
    /// The pod's cgroup, as `/kubepods/burstable/pod<uid>`, below which its containers get theirs. Created when absent and
    /// removed with the sandbox. Empty means a default parent.
    pub cgroup_parent: String,
    /// Security settings.
    pub security_context: LinuxSandboxSecurityContext,
    /// Namespaced sysctls, as `net.ipv4.ip_unprivileged_port_start` → `0`.
    pub sysctls: Map,
    /// Limits of the pod's cgroup as a whole, applied to `cgroup_parent` (so it may be set only when that is).
    pub resources: Option<LinuxContainerResources>,
}

/// A pod to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSandboxConfig {
    /// Whose sandbox.
    pub metadata: PodSandboxMetadata,
    /// Host name inside; ignored by definition with the node's network.
    pub hostname: String,
    /// Directory below which the containers' `log_path`s lie. Created when absent.
    pub log_directory: PathBuf,
    /// `/etc/resolv.conf` of its containers.
    pub dns_config: Option<DnsConfig>,
    /// Host ports.
    pub port_mappings: Vec<PortMapping>,
    /// Labels.
    pub labels: Map,
    /// Annotations.
    pub annotations: Map,
    /// Linux settings.
    pub linux: LinuxPodSandboxConfig,
}

/// A sandbox that was just started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSandbox {
    /// Its ID.
    pub id: String,
    /// Path of its network namespace; `None` with the node's network.
    pub netns: Option<PathBuf>,
    /// The process that holds the namespaces.
    pub pid: i32,
}

/// Whether a sandbox runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodSandboxState {
    /// Its namespaces stand.
    Ready,
    /// Stopped, or its process is gone.
    #[default]
    NotReady,
}

/// What is known of a sandbox.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PodSandboxStatus {
    /// Its ID.
    pub id: String,
    /// Whose.
    pub metadata: PodSandboxMetadata,
    /// Whether it runs.
    pub state: PodSandboxState,
    /// When it was made.
    pub created_at: Timestamp,
    /// Path of its network namespace while it is ready; `None` with the node's network.
    pub netns: Option<PathBuf>,
    /// The process that holds the namespaces; 0 when not ready.
    pub pid: i32,
    /// Labels it was made with.
    pub labels: Map,
    /// Annotations it was made with.
    pub annotations: Map,
    /// All of what it was made with.
    pub config: PodSandboxConfig,
}

/// Selects sandboxes; empty fields match all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSandboxFilter {
    /// This ID only.
    pub id: Option<String>,
    /// In this state only.
    pub state: Option<PodSandboxState>,
    /// With all these labels.
    pub label_selector: Map,
}

/// Names a container within its pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerMetadata {
    /// Name in the pod spec.
    pub name: String,
    /// Counts the restarts, from 0.
    pub attempt: u32,
}

/// An image by reference (`busybox`, `registry/name:tag`, `name@sha256:…`) or ID (`sha256:…`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageSpec {
    /// The reference.
    pub image: String,
}

impl From<&str> for ImageSpec {
    fn from(image: &str) -> Self {
        Self { image: image.to_owned() }
    }
}

/// How mounts travel between container and node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountPropagation {
    /// `None`: rprivate.
    #[default]
    Private,
    /// rslave.
    HostToContainer,
    /// rshared.
    Bidirectional,
}

/// A directory or file of the node in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// Absolute path in the container.
    pub container_path: PathBuf,
    /// Absolute path on the node; it must exist.
    pub host_path: PathBuf,
    /// Read only.
    pub readonly: bool,
    /// Submounts are read only too. Needs `readonly` and private propagation.
    pub recursive_read_only: bool,
    /// Refused when set.
    pub selinux_relabel: bool,
    /// How mounts travel.
    pub propagation: MountPropagation,
    /// Mounts an image read only instead of `host_path`; refused by Docker.
    pub image: Option<ImageSpec>,
    /// Directory inside `image` to mount.
    pub image_sub_path: String,
}

/// A device of the node in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// Path in the container.
    pub container_path: PathBuf,
    /// Path on the node.
    pub host_path: PathBuf,
    /// Of `r`, `w`, `m`.
    pub permissions: String,
}

/// A limit on pages of one size.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HugepageLimit {
    /// As `2MB`.
    pub page_size: String,
    /// Bytes.
    pub limit: u64,
}

/// Limits. Zero and empty mean "not set", as in CRI.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxContainerResources {
    /// CFS period in microseconds.
    pub cpu_period: u64,
    /// CFS quota in microseconds; negative means no limit.
    pub cpu_quota: i64,
    /// CPU shares (weight on cgroup v2).
    pub cpu_shares: u64,
    /// Memory limit in bytes.
    pub memory_limit_in_bytes: i64,
    /// OOM score adjustment, −1000 to 1000.
    pub oom_score_adj: i32,
    /// CPUs, as `0-3`.
    pub cpuset_cpus: String,
    /// Memory nodes.
    pub cpuset_mems: String,
    /// Huge pages.
    pub hugepage_limits: Vec<HugepageLimit>,
    /// cgroup v2 files written as they are.
    pub unified: Map,
    /// Memory and swap together in bytes.
    pub memory_swap_limit_in_bytes: i64,
    /// Most processes. Not in CRI, where the kubelet sets it on the pod's cgroup.
    pub pids_limit: i64,
}

/// Linux capabilities, with or without `CAP_`; `ALL` for all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capability {
    /// Added to the default set.
    pub add_capabilities: Vec<String>,
    /// Taken from it.
    pub drop_capabilities: Vec<String>,
}

/// What Kubernetes masks with the `Default` proc mount (`pkg/securitycontext/util.go`, 1.32).
pub const DEFAULT_MASKED_PATHS: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// What Kubernetes makes read only with the `Default` proc mount.
pub const DEFAULT_READONLY_PATHS: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// How `supplemental_groups` and the image's `/etc/group` combine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SupplementalGroupsPolicy {
    /// Both.
    #[default]
    Merge,
    /// Only those given.
    Strict,
}

/// Whom and what a container's process may be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxContainerSecurityContext {
    /// Capabilities.
    pub capabilities: Capability,
    /// All capabilities, all devices, nothing masked.
    pub privileged: bool,
    /// Namespaces; network and ipc must be the sandbox's choice.
    pub namespace_options: NamespaceOption,
    /// Refused when set.
    pub selinux_options: Option<SelinuxOption>,
    /// UID; the image's user when unset.
    pub run_as_user: Option<i64>,
    /// GID; needs a user or user name.
    pub run_as_group: Option<i64>,
    /// User name, looked up in the image.
    pub run_as_username: String,
    /// Read-only root.
    pub readonly_rootfs: bool,
    /// Extra groups.
    pub supplemental_groups: Vec<i64>,
    /// How they combine with the image's.
    pub supplemental_groups_policy: SupplementalGroupsPolicy,
    /// `no_new_privs`.
    pub no_new_privs: bool,
    /// Paths hidden; Kubernetes' default list is the kubelet's to give (see [`DEFAULT_MASKED_PATHS`]).
    pub masked_paths: Vec<String>,
    /// Paths made read only.
    pub readonly_paths: Vec<String>,
    /// Seccomp.
    pub seccomp: SecurityProfile,
    /// AppArmor: `RuntimeDefault` is honoured where the kernel has AppArmor and passes where it has none.
    pub apparmor: SecurityProfile,
}

/// Linux settings of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxContainerConfig {
    /// Limits.
    pub resources: LinuxContainerResources,
    /// Security settings.
    pub security_context: LinuxContainerSecurityContext,
}

/// A process limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rlimit {
    /// As `RLIMIT_NOFILE`.
    pub kind: String,
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// Rotation of a container's log, done by the writer itself at the size, so that nobody has to poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogRotation {
    /// kubelet's `containerLogMaxSize` in bytes. Default 10 MiB; 0 turns rotation off.
    pub max_size_bytes: u64,
    /// kubelet's `containerLogMaxFiles`, the live one included. Default 5, at least 2.
    pub max_files: u32,
}

impl Default for LogRotation {
    fn default() -> Self {
        Self { max_size_bytes: 10 << 20, max_files: 5 }
    }
}

/// A container to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    /// Which.
    pub metadata: ContainerMetadata,
    /// Image, which must be present.
    pub image: ImageSpec,
    /// Replaces the image's entrypoint; when set, the image's cmd is dropped.
    pub command: Vec<String>,
    /// Replaces the image's cmd.
    pub args: Vec<String>,
    /// Working directory; the image's when empty.
    pub working_dir: String,
    /// Environment, after the image's.
    pub envs: Vec<(String, String)>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Devices.
    pub devices: Vec<Device>,
    /// Labels.
    pub labels: Map,
    /// Annotations.
    pub annotations: Map,
    /// Log file, relative to the sandbox' `log_directory`; empty means no log.
    pub log_path: PathBuf,
    /// How the log rotates.
    pub log_rotation: LogRotation,
    /// Keep stdin open for attach.
    pub stdin: bool,
    /// The first attach' end of input ends stdin for good.
    pub stdin_once: bool,
    /// Give it a terminal.
    pub tty: bool,
    /// Replaces the image's stop signal, as `SIGTERM`.
    pub stop_signal: String,
    /// Process limits; inherited when empty.
    pub rlimits: Vec<Rlimit>,
    /// Linux settings.
    pub linux: LinuxContainerConfig,
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// Running.
    Running,
    /// Over.
    Exited,
    /// Its supervisor is gone without a record.
    #[default]
    Unknown,
}

/// What is known of a container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Its ID.
    pub id: String,
    /// Its sandbox.
    pub pod_sandbox_id: String,
    /// Which.
    pub metadata: ContainerMetadata,
    /// Where it is in its life.
    pub state: ContainerState,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// How it ended: the exit code, or 128 + the signal.
    pub exit_code: i32,
    /// The signal that ended it; 0 for none.
    pub signal: i32,
    /// Image as asked for.
    pub image: ImageSpec,
    /// Resolved image: a repository digest where there is one, else the image's ID. A pod's `imageID`.
    pub image_ref: String,
    /// ID of the image.
    pub image_id: String,
    /// `Completed`, `Error`, `OOMKilled`, `ContainerCannotRun`, `StartError` once over; empty before.
    pub reason: String,
    /// For people.
    pub message: String,
    /// The container's process; 0 unless running.
    pub pid: i32,
    /// Labels it was made with.
    pub labels: Map,
    /// Annotations it was made with.
    pub annotations: Map,
    /// Mounts it was made with.
    pub mounts: Vec<Mount>,
    /// Absolute path of its log; empty means no log.
    pub log_path: PathBuf,
    /// Limits in force.
    pub resources: LinuxContainerResources,
    /// The identity its process started with.
    pub user: LinuxContainerUser,
    /// Whether stdin is open for attach.
    pub stdin: bool,
    /// Whether it has a terminal.
    pub tty: bool,
}

/// Identity of a container's first process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxContainerUser {
    /// UID.
    pub uid: i64,
    /// GID.
    pub gid: i64,
    /// Extra groups.
    pub supplemental_groups: Vec<i64>,
}

/// Selects containers; empty fields match all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerFilter {
    /// This ID only.
    pub id: Option<String>,
    /// Of this sandbox only.
    pub pod_sandbox_id: Option<String>,
    /// In this state only.
    pub state: Option<ContainerState>,
    /// With all these labels.
    pub label_selector: Map,
}

/// Size of a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// Ends of an exec or attach. Dropping `stdin`'s writer or its end of file closes the process' stdin.
#[derive(Default)]
pub struct Streams {
    /// Read and given to the process.
    pub stdin: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Gets what the process writes to stdout (and stderr with a terminal). Shut down at the end.
    pub stdout: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Gets what the process writes to stderr. Shut down at the end.
    pub stderr: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// New sizes of the terminal; only with one.
    pub resize: Option<mpsc::Receiver<TerminalSize>>,
}

/// A command to run in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecRequest {
    /// The container.
    pub container_id: String,
    /// Command and arguments.
    pub cmd: Vec<String>,
    /// Give it a terminal.
    pub tty: bool,
}

/// What a synchronous exec gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecSyncResponse {
    /// Standard output, at most [`EXEC_SYNC_LIMIT_BYTES`].
    pub stdout: Vec<u8>,
    /// Standard error, likewise.
    pub stderr: Vec<u8>,
    /// Exit code, or 128 + the signal.
    pub exit_code: i32,
}

/// The most a synchronous exec keeps of each stream; the rest is read and dropped, as in containerd.
pub const EXEC_SYNC_LIMIT_BYTES: usize = 16 << 20;

/// CPU time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuUsage {
    /// Since the start, in nanoseconds.
    pub usage_core_nano_seconds: u64,
    /// In user mode, in nanoseconds.
    pub user_nano_seconds: u64,
    /// In the kernel, in nanoseconds.
    pub system_nano_seconds: u64,
    /// Elapsed CFS periods.
    pub periods: u64,
    /// Throttled CFS periods.
    pub throttled_periods: u64,
    /// Time throttled, in nanoseconds.
    pub throttled_nano_seconds: u64,
}

/// Memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryUsage {
    /// Usage less inactive file pages: what eviction looks at.
    pub working_set_bytes: u64,
    /// Everything charged.
    pub usage_bytes: u64,
    /// Highest usage, where the kernel tells.
    pub max_usage_bytes: u64,
    /// Anonymous memory.
    pub rss_bytes: u64,
    /// Page cache.
    pub cache_bytes: u64,
    /// Mapped files.
    pub mapped_file_bytes: u64,
    /// Swap.
    pub swap_bytes: u64,
    /// Limit; 0 means none.
    pub limit_bytes: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Major page faults.
    pub major_page_faults: u64,
    /// Times the limit was hit.
    pub failcnt: u64,
    /// Processes killed for lack of memory.
    pub oom_kills: u64,
}

/// Processes and threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessUsage {
    /// How many there are.
    pub process_count: u64,
    /// How many there may be; 0 means no limit.
    pub limit: u64,
}

/// Transfers to and from one block device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskIo {
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// Space on a filesystem.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesystemUsage {
    /// A path on it.
    pub mountpoint: PathBuf,
    /// Bytes in use by this.
    pub used_bytes: u64,
    /// Inodes in use by this.
    pub inodes_used: u64,
}

/// What a cgroup has used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupStats {
    /// CPU.
    pub cpu: CpuUsage,
    /// Memory.
    pub memory: MemoryUsage,
    /// Processes.
    pub process: ProcessUsage,
    /// Block devices.
    pub io: Vec<DiskIo>,
}

/// What a container has used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerStats {
    /// Its ID.
    pub id: String,
    /// Its sandbox.
    pub pod_sandbox_id: String,
    /// Which.
    pub metadata: ContainerMetadata,
    /// Labels.
    pub labels: Map,
    /// When this was read.
    pub timestamp: Timestamp,
    /// CPU, memory, processes, I/O.
    pub cgroup: CgroupStats,
    /// The container's own layer.
    pub writable_layer: FilesystemUsage,
}

/// What a pod has used: the sandbox' cgroup parent, everything in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PodSandboxStats {
    /// Its ID.
    pub id: String,
    /// Whose.
    pub metadata: PodSandboxMetadata,
    /// Labels.
    pub labels: Map,
    /// When this was read.
    pub timestamp: Timestamp,
    /// CPU, memory, processes, I/O of the whole pod.
    pub cgroup: CgroupStats,
    /// The pause process; 0 when not ready. Network counters are read in its namespace.
    pub pid: i32,
}

/// Space taken by images and containers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFsInfo {
    /// Where images are.
    pub image: FilesystemUsage,
    /// Where the containers' own layers are.
    pub container: FilesystemUsage,
    /// Size of the filesystem.
    pub capacity_bytes: u64,
    /// Free on it.
    pub available_bytes: u64,
    /// Inodes of the filesystem.
    pub inodes: u64,
    /// Free inodes.
    pub inodes_free: u64,
}

/// What happened to a container or sandbox. `id` is the container's, or the sandbox' for its own start and stop, as in CRI.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerEvent {
    /// The container or sandbox.
    pub id: String,
    /// The sandbox.
    pub pod_sandbox_id: String,
    /// UID of the pod.
    pub pod_uid: String,
    /// When.
    pub created_at: Timestamp,
    /// What.
    pub kind: ContainerEventKind,
}

/// Kinds of [`ContainerEvent`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerEventKind {
    /// Made.
    Created,
    /// Started.
    Started,
    /// Over.
    Stopped {
        /// Exit code, or 128 + the signal.
        exit_code: i32,
        /// As [`ContainerStatus::reason`].
        reason: String,
    },
    /// A process in it was killed for lack of memory; the container may live on.
    Oom,
    /// Removed.
    Deleted,
    /// The receiver was too slow and events were lost: list again. `id` is empty.
    Lagged,
}

/// Credentials for a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RegistryAuth {
    /// None.
    #[default]
    Anonymous,
    /// User and password.
    Basic {
        /// User.
        username: String,
        /// Password.
        password: String,
    },
    /// A bearer token.
    Bearer(String),
}

/// An image that is present.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Image {
    /// Digest of its configuration, `sha256:…`.
    pub id: String,
    /// Names with tags, as `docker.io/library/busybox:1.36`.
    pub repo_tags: Vec<String>,
    /// Names with digests.
    pub repo_digests: Vec<String>,
    /// Bytes on disk.
    pub size_bytes: u64,
    /// Numeric user it runs as, when numeric.
    pub uid: Option<i64>,
    /// User name it runs as, when a name.
    pub username: String,
    /// Never collected.
    pub pinned: bool,
    /// Its configuration.
    pub config: ImageConfig,
}

/// What an image says about how to run it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// `User`.
    pub user: String,
    /// `Env`, as `NAME=value`.
    pub env: Vec<String>,
    /// `Entrypoint`.
    pub entrypoint: Vec<String>,
    /// `Cmd`.
    pub cmd: Vec<String>,
    /// `WorkingDir`.
    pub working_dir: String,
    /// `Volumes`.
    pub volumes: Vec<String>,
    /// `ExposedPorts`, as `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// `Labels`.
    pub labels: Map,
    /// `StopSignal`.
    pub stop_signal: String,
}
