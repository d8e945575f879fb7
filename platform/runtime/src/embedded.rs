//! The default runtime: OCI containers by libcontainer, a shim process for each, images in an own store.
//!
//! Start reading at [`Embedded`]. [`shim`] runs and survives on its own; [`pause`] holds a sandbox' namespaces; [`exec`] runs one
//! command; [`client`] is this process' side of them. libcontainer runs in those single-threaded processes only.

pub(crate) mod client;
pub(crate) mod exec;
pub(crate) mod log;
pub(crate) mod pause;
pub(crate) mod protocol;
pub(crate) mod reasons;
pub(crate) mod shim;
pub(crate) mod state;
pub(crate) mod sys;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use jiff::Timestamp;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::cgroup;
use crate::embedded::client::{ShimClient, ask, container_dir, helper};
use crate::embedded::exec::ExecJob;
use crate::embedded::pause::{PauseAnswer, PauseConfig};
use crate::embedded::protocol::{Event, Request, ShimConfig, ShimStatus};
use crate::embedded::state::{Container, ContainerRecord, Phase, Sandbox, SandboxRecord, Table, process_started, reason};
use crate::error::{Context, Error, Result};
use crate::image::pull::{Puller, blocking};
use crate::image::store::{ImageStore, Record, remove_all, write_atomically};
use crate::image::{archive, mount as overlay, user};
use crate::runtime::{Runtime, collect_output, with_deadline};
use crate::spec::{self, Surroundings};
use crate::types::*;

/// First argument of a shim's command line.
pub(crate) const SHIM_COMMAND: &str = "container-shim";
/// First argument of a sandbox helper's.
pub(crate) const PAUSE_COMMAND: &str = "container-pause";
/// First argument of an exec helper's.
pub(crate) const EXEC_COMMAND: &str = "container-exec";

/// Where helpers and shims live, so that a service manager that ends Pharos' own cgroup leaves them.
const SHIM_CGROUP: &str = "/pharos-shims";

/// Calls that only touch this machine end within this.
const CALL_DEADLINE: Duration = Duration::from_secs(120);
/// How long a killed container may take to be gone.
const KILL_DEADLINE: Duration = Duration::from_secs(30);
/// Events kept for a slow reader; then it gets `Lagged`.
const EVENT_BACKLOG: usize = 1024;
/// How long a walk over a container's own layer is good for.
const USAGE_AGE: Duration = Duration::from_secs(30);

/// Runs this process as a helper when its arguments (program first) say so, and returns its exit code. To be called first thing in
/// `main`, before any thread starts.
pub fn shim_main(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> Option<i32> {
    let arguments: Vec<String> = arguments.into_iter().skip(1).take(2).map(|one| one.to_string_lossy().into_owned()).collect();
    let command = arguments.first()?.as_str();
    if ![SHIM_COMMAND, PAUSE_COMMAND, EXEC_COMMAND].contains(&command) {
        return None;
    }
    // Where this machine forbids it, the helper stays in Pharos' cgroup.
    if let Err(error) = cgroup::join(SHIM_CGROUP, nix::unistd::getpid().as_raw()) {
        use std::io::Write;
        let _ = writeln!(io::stderr(), "{}", error.chain());
    }
    let argument = arguments.get(1).map(String::as_str).unwrap_or_default();
    Some(match command {
        SHIM_COMMAND => shim::run(Path::new(argument)),
        PAUSE_COMMAND => pause::run(argument),
        _ => exec::run(),
    })
}

/// Settings of the embedded runtime.
#[derive(Clone, Debug)]
pub struct EmbeddedConfig {
    /// Images and containers' own layers. Default `/var/lib/pharos/runtime`.
    pub root: PathBuf,
    /// Sockets, mounts and records, best on a tmpfs: what a reboot ends. Default `/run/pharos/runtime`.
    pub state: PathBuf,
    /// Registries spoken to in plain HTTP beside loopback ones, as `host:port`. Default none.
    pub insecure_registries: Vec<String>,
    /// The cgroup of pods that name none. Default `/pharos`.
    pub cgroup_parent: String,
    /// The program run as a helper; it must call [`shim_main`]. Default this very program.
    pub helper: PathBuf,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self {
            root: "/var/lib/pharos/runtime".into(),
            state: "/run/pharos/runtime".into(),
            insecure_registries: Vec::new(),
            cgroup_parent: "/pharos".to_owned(),
            helper: "/proc/self/exe".into(),
        }
    }
}

/// The embedded runtime. Dropping it leaves containers running; a new one over the same directories finds them.
#[derive(Clone)]
pub struct Embedded(Arc<Inner>);

struct Inner {
    config: EmbeddedConfig,
    images: Arc<ImageStore>,
    puller: Puller,
    table: Mutex<Table>,
    events: broadcast::Sender<ContainerEvent>,
    // One task for each running container and ready sandbox, asleep until it ends.
    tasks: Mutex<JoinSet<()>>,
    usage: Mutex<BTreeMap<String, (Instant, FilesystemUsage)>>,
}

// === impl Embedded ===

impl Embedded {
    /// Opens the runtime: makes its directories, finds its containers again, drops what belongs to none.
    ///
    /// # Errors
    /// [`Error::Internal`] when a directory can't be made or read.
    pub async fn open(config: EmbeddedConfig) -> Result<Self> {
        let root = config.root.clone();
        let state = config.state.clone();
        let images = blocking(move || {
            for dir in [state.join("netns"), state.join("sandboxes"), state.join("containers")] {
                fs::create_dir_all(&dir).context(|| format!("create {}", dir.display()))?;
            }
            fs::create_dir_all(&root).context(|| format!("create {}", root.display()))?;
            let program = root.join("pause");
            let bytes = pause::program();
            if fs::read(&program).ok().as_ref() != Some(&bytes) {
                write_atomically(&program, &bytes)?;
                fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))
                    .context(|| format!("set mode of {}", program.display()))?;
            }
            if let Err(error) = cgroup::create(SHIM_CGROUP) {
                tracing::warn!(error = error.chain(), "no cgroup for shims; they share this process' own");
            }
            ImageStore::open(&root)
        })
        .await?;
        let puller = Puller::new(config.insecure_registries.clone());
        let (events, _) = broadcast::channel(EVENT_BACKLOG);
        let inner = Arc::new(Inner {
            config,
            images: Arc::new(images),
            puller,
            table: Mutex::default(),
            events,
            tasks: Mutex::default(),
            usage: Mutex::default(),
        });
        inner.recover().await?;
        Ok(Self(inner))
    }
}

// === impl Inner ===

impl Inner {
    fn sandbox_dir(&self, id: &str) -> PathBuf {
        self.config.state.join("sandboxes").join(id)
    }

    fn container_dir(&self, id: &str) -> PathBuf {
        container_dir(&self.config.state, id)
    }

    fn sandbox(&self, id: &str) -> Result<Sandbox> {
        self.table.lock().sandboxes.get(id).cloned().ok_or_else(|| Error::not_found("pod sandbox", id))
    }

    fn container(&self, id: &str) -> Result<Container> {
        self.table.lock().containers.get(id).cloned().ok_or_else(|| Error::not_found("container", id))
    }

    fn containers_of(&self, sandbox: &str) -> Vec<Container> {
        self.table.lock().containers.values().filter(|one| one.record.sandbox_id == sandbox).cloned().collect()
    }

    fn emit(&self, id: &str, sandbox: &str, kind: ContainerEventKind) {
        let pod_uid = self.table.lock().sandboxes.get(sandbox).map(|one| one.record.config.metadata.uid.clone());
        let event = ContainerEvent {
            id: id.to_owned(),
            pod_sandbox_id: sandbox.to_owned(),
            pod_uid: pod_uid.unwrap_or_default(),
            created_at: Timestamp::now(),
            kind,
        };
        // Nobody may be listening.
        let _ = self.events.send(event);
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    /// Builds the table from disk.
    async fn recover(self: &Arc<Self>) -> Result<()> {
        let (sandboxes, containers) = {
            let inner = Arc::clone(self);
            blocking(move || {
                Ok((
                    read_records::<SandboxRecord>(&inner.config.state.join("sandboxes"), "sandbox.json"),
                    read_records::<ContainerRecord>(&inner.config.state.join("containers"), "container.json"),
                ))
            })
            .await?
        };
        for record in sandboxes {
            let ready = !record.stopped && process_started(record.pid) == Some(record.pid_started);
            let sandbox = Sandbox { record, ready, turn: Arc::default() };
            self.table.lock().sandboxes.insert(sandbox.record.id.clone(), sandbox.clone());
            if ready {
                self.watch_sandbox(&sandbox.record)?;
            }
        }
        for record in containers {
            let dir = self.container_dir(&record.id);
            let status = read_status(&dir);
            match status {
                None => {
                    let container = Container::new(record, Phase::Created);
                    self.table.lock().containers.insert(container.record.id.clone(), container);
                }
                Some(status) if status.finished_at.is_some() => {
                    let _ = overlay::unmount(&dir.join("rootfs"));
                    let container = Container::new(record, Phase::Exited(status));
                    self.table.lock().containers.insert(container.record.id.clone(), container);
                }
                Some(status) => {
                    let id = record.id.clone();
                    let container = Container::new(record, Phase::Running(status));
                    self.table.lock().containers.insert(id.clone(), container.clone());
                    match ShimClient::request(&dir, &Request::Watch).await {
                        Ok(client) => self.watch_container(&container, client),
                        Err(_) => self.lost(&id).await,
                    }
                }
            }
        }
        let known: Vec<String> = self.table.lock().containers.keys().cloned().collect();
        let inner = Arc::clone(self);
        blocking(move || {
            for snapshot in inner.images.snapshots().into_iter().filter(|one| !known.contains(one)) {
                let dir = inner.container_dir(&snapshot);
                let _ = overlay::unmount(&dir.join("rootfs"));
                inner.images.remove_snapshot(&snapshot)?;
                remove_all(&dir)?;
            }
            Ok(())
        })
        .await
    }

    /// Follows a sandbox' pause process to its end.
    fn watch_sandbox(self: &Arc<Self>, record: &SandboxRecord) -> Result<()> {
        let pidfd = sys::pidfd_open(record.pid).context(|| format!("watch pod sandbox {}", record.id))?;
        let pidfd = sys::watch_fd(pidfd).context(|| "watch pod sandbox")?;
        let (inner, id) = (Arc::downgrade(self), record.id.clone());
        self.spawn(async move {
            // An error would be the descriptor's own, which can't be.
            let _ = pidfd.readable().await;
            if let Some(inner) = inner.upgrade() {
                let was_ready = match inner.table.lock().sandboxes.get_mut(&id) {
                    Some(sandbox) => std::mem::replace(&mut sandbox.ready, false),
                    None => false,
                };
                if was_ready {
                    inner.emit(&id, &id, ContainerEventKind::Stopped { exit_code: 0, reason: "Completed".to_owned() });
                }
            }
        });
        Ok(())
    }

    /// Follows a container's shim to its end.
    fn watch_container(self: &Arc<Self>, container: &Container, mut client: ShimClient) {
        let (inner, id) = (Arc::downgrade(self), container.record.id.clone());
        let sandbox = container.record.sandbox_id.clone();
        self.spawn(async move {
            loop {
                let frame = client.receive().await;
                let Some(inner) = Weak::upgrade(&inner) else { return };
                match frame {
                    Ok(Some((protocol::EVENT, bytes))) => match serde_json::from_slice(&bytes) {
                        Ok(Event::Oom) => inner.emit(&id, &sandbox, ContainerEventKind::Oom),
                        Ok(Event::Exit(status)) => return inner.exited(&id, status).await,
                        Err(error) => tracing::error!(container = id, error = %error, "unreadable event of a shim"),
                    },
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => return inner.lost(&id).await,
                }
            }
        });
    }

    /// Takes note of a container's end.
    async fn exited(self: &Arc<Self>, id: &str, status: ShimStatus) {
        let Ok(container) = self.container(id) else { return };
        let rootfs = self.container_dir(id).join("rootfs");
        let unmounted = blocking(move || overlay::unmount(&rootfs).context(|| "unmount root file system")).await;
        if let Err(error) = unmounted {
            tracing::warn!(container = id, error = error.chain(), "root file system stays mounted until removal");
        }
        let kind = ContainerEventKind::Stopped { exit_code: status.exit_code, reason: reason(&status).to_owned() };
        container.phase.send_replace(Phase::Exited(status));
        self.emit(id, &container.record.sandbox_id, kind);
    }

    /// The shim is gone: with a record when the container ended while nobody listened, else it died itself.
    async fn lost(self: &Arc<Self>, id: &str) {
        let Ok(container) = self.container(id) else { return };
        let dir = self.container_dir(id);
        let cgroup = container.record.cgroup.clone();
        let status = blocking(move || {
            let mut status = read_status(&dir).unwrap_or_default();
            if status.finished_at.is_none() {
                // Nobody would reap it or write its log any more.
                cgroup::kill_all(&cgroup);
                let _ = cgroup::remove(&cgroup);
                status.finished_at = Some(Timestamp::now());
                status.exit_code = 255;
                status.message = "the container's shim died".to_owned();
                let bytes = serde_json::to_vec(&status).context(|| "encode status")?;
                write_atomically(&dir.join(protocol::STATUS), &bytes)?;
            }
            Ok(status)
        })
        .await;
        match status {
            Ok(status) => self.exited(id, status).await,
            Err(error) => tracing::error!(container = id, error = error.chain(), "end of container can't be recorded"),
        }
    }

    async fn run_sandbox(self: &Arc<Self>, config: &PodSandboxConfig) -> Result<PodSandbox> {
        check_sandbox(config)?;
        let id = uuid::Uuid::new_v4().simple().to_string();
        let host_network = config.linux.security_context.namespace_options.network == NamespaceMode::Node;
        let netns = (!host_network).then(|| self.config.state.join("netns").join(&id));
        let cgroup_parent = match config.linux.cgroup_parent.as_str() {
            "" => format!("{}/pod{}", self.config.cgroup_parent, config.metadata.uid),
            parent => parent.to_owned(),
        };
        let record = SandboxRecord {
            id: id.clone(),
            config: config.clone(),
            created_at: Timestamp::now(),
            pid: 0,
            pid_started: 0,
            netns: netns.clone(),
            cgroup_parent: cgroup_parent.clone(),
            stopped: false,
        };
        {
            let mut table = self.table.lock();
            let same = |one: &&Sandbox| {
                let (a, b) = (&one.record.config.metadata, &config.metadata);
                a.uid == b.uid && a.attempt == b.attempt && !a.uid.is_empty()
            };
            if let Some(other) = table.sandboxes.values().find(same) {
                return Err(Error::AlreadyExists { what: "pod sandbox", id: other.record.id.clone() });
            }
            table.sandboxes.insert(id.clone(), Sandbox { record: record.clone(), ready: false, turn: Arc::default() });
        }
        let made = self.make_sandbox(record).await;
        match made {
            Ok(record) => {
                self.watch_sandbox(&record)?;
                if let Some(sandbox) = self.table.lock().sandboxes.get_mut(&id) {
                    sandbox.record = record.clone();
                    sandbox.ready = true;
                }
                self.emit(&id, &id, ContainerEventKind::Created);
                self.emit(&id, &id, ContainerEventKind::Started);
                Ok(PodSandbox { id, netns, pid: record.pid })
            }
            Err(error) => {
                let record = self.table.lock().sandboxes.remove(&id).map(|one| one.record);
                if let Some(record) = record
                    && let Err(error) = self.clear_sandbox(&record, true).await
                {
                    tracing::warn!(pod = config.metadata.name, error = error.chain(), "half-made pod sandbox can't be removed");
                }
                Err(error)
            }
        }
    }

    async fn make_sandbox(self: &Arc<Self>, mut record: SandboxRecord) -> Result<SandboxRecord> {
        let inner = Arc::clone(self);
        let prepared = record.clone();
        let pause = blocking(move || inner.prepare_sandbox(&prepared)).await?;
        let argument = serde_json::to_string(&pause).context(|| "encode sandbox configuration")?;
        let (answer, mut child) =
            ask::<PauseAnswer>(helper(&self.config.helper, &[PAUSE_COMMAND, &argument]), "pod sandbox").await?;
        if let Some(error) = answer.error {
            let _ = child.wait().await;
            return Err(Error::internal("start pod sandbox", error));
        }
        // Reaps it, or the helper that made it, whenever it ends.
        self.spawn(async move {
            let _ = child.wait().await;
        });
        record.pid = answer.pid;
        record.pid_started =
            process_started(answer.pid).ok_or_else(|| Error::internal("start pod sandbox", "its process is gone"))?;
        self.save_sandbox(&record).await?;
        Ok(record)
    }

    async fn save_sandbox(&self, record: &SandboxRecord) -> Result<()> {
        let file = self.sandbox_dir(&record.id).join("sandbox.json");
        let bytes = serde_json::to_vec(record).context(|| "encode pod sandbox")?;
        blocking(move || write_atomically(&file, &bytes)).await
    }

    fn prepare_sandbox(&self, record: &SandboxRecord) -> Result<PauseConfig> {
        let (dir, config) = (self.sandbox_dir(&record.id), &record.config);
        fs::create_dir_all(&dir).context(|| format!("create {}", dir.display()))?;
        if !config.log_directory.as_os_str().is_empty() {
            fs::create_dir_all(&config.log_directory).context(|| format!("create {}", config.log_directory.display()))?;
        }
        let resolv = match &config.dns_config {
            Some(dns) => resolv_conf(dns),
            None => fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
        };
        fs::write(dir.join("resolv.conf"), resolv).context(|| "write resolv.conf")?;
        let hostname = match (&record.netns, config.hostname.as_str()) {
            (Some(_), name) if !name.is_empty() => name.to_owned(),
            _ => nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        };
        fs::write(dir.join("hostname"), format!("{hostname}\n")).context(|| "write hostname")?;
        let options = &config.linux.security_context.namespace_options;
        if options.ipc == NamespaceMode::Pod {
            let shm = dir.join("shm");
            fs::create_dir_all(&shm).context(|| format!("create {}", shm.display()))?;
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            mount(Some("shm"), &shm, Some("tmpfs"), flags, Some("mode=1777,size=65536k"))
                .context(|| format!("mount {}", shm.display()))?;
        }
        if let Some(netns) = &record.netns {
            fs::File::create(netns).context(|| format!("create {}", netns.display()))?;
        }
        let cgroup = spec::container_cgroup(&record.cgroup_parent, &record.id);
        cgroup::create(&record.cgroup_parent)?;
        if let Some(resources) = &config.linux.resources {
            cgroup::apply(&record.cgroup_parent, resources)?;
        }
        create_leaf(&cgroup)?;
        Ok(PauseConfig {
            netns: record.netns.clone(),
            hostname,
            ipc: options.ipc == NamespaceMode::Pod,
            shared_pid: options.pid == NamespaceMode::Pod,
            sysctls: config.linux.sysctls.clone(),
            cgroup,
            program: self.config.root.join("pause"),
        })
    }

    /// Ends the pause process and takes away what it held; with `all` the sandbox' directory and cgroup too.
    async fn clear_sandbox(self: &Arc<Self>, record: &SandboxRecord, all: bool) -> Result<()> {
        let (inner, record) = (Arc::clone(self), record.clone());
        blocking(move || {
            if record.pid != 0 && process_started(record.pid) == Some(record.pid_started) {
                kill_process(record.pid, record.pid_started);
            }
            let cgroup = spec::container_cgroup(&record.cgroup_parent, &record.id);
            cgroup::kill_all(&cgroup);
            cgroup::remove(&cgroup)?;
            if let Some(netns) = &record.netns {
                overlay::unmount(netns).context(|| format!("unmount {}", netns.display()))?;
                remove_all(netns)?;
            }
            let dir = inner.sandbox_dir(&record.id);
            overlay::unmount(&dir.join("shm")).context(|| "unmount shm")?;
            if all {
                remove_all(&dir)?;
                let shared = inner
                    .table
                    .lock()
                    .sandboxes
                    .values()
                    .any(|one| one.record.id != record.id && one.record.cgroup_parent == record.cgroup_parent);
                if !shared && record.cgroup_parent.trim_matches('/').contains('/') {
                    // Someone else's cgroups may be below.
                    cgroup::remove_if_empty(&record.cgroup_parent);
                }
            }
            Ok(())
        })
        .await
    }

    async fn stop_sandbox(self: &Arc<Self>, id: &str) -> Result<()> {
        let sandbox = match self.sandbox(id) {
            Err(error) if error.is_not_found() => return Ok(()),
            sandbox => sandbox?,
        };
        let _turn = sandbox.turn.lock().await;
        let stops = self.containers_of(id).into_iter().map(|one| async move { self.stop(&one.record.id, Duration::ZERO).await });
        for stopped in futures::future::join_all(stops).await {
            stopped?;
        }
        let mut record = self.sandbox(id)?.record;
        record.stopped = true;
        self.save_sandbox(&record).await?;
        self.clear_sandbox(&record, false).await?;
        let was_ready = match self.table.lock().sandboxes.get_mut(id) {
            Some(sandbox) => {
                sandbox.record.stopped = true;
                std::mem::replace(&mut sandbox.ready, false)
            }
            None => false,
        };
        if was_ready {
            self.emit(id, id, ContainerEventKind::Stopped { exit_code: 0, reason: "Completed".to_owned() });
        }
        Ok(())
    }

    async fn remove_sandbox(self: &Arc<Self>, id: &str) -> Result<()> {
        let sandbox = match self.sandbox(id) {
            Err(error) if error.is_not_found() => return Ok(()),
            sandbox => sandbox?,
        };
        self.stop_sandbox(id).await?;
        let _turn = sandbox.turn.lock().await;
        for container in self.containers_of(id) {
            self.remove(&container.record.id).await?;
        }
        self.clear_sandbox(&sandbox.record, true).await?;
        self.emit(id, id, ContainerEventKind::Deleted);
        self.table.lock().sandboxes.remove(id);
        Ok(())
    }

    async fn create(self: &Arc<Self>, sandbox_id: &str, config: &ContainerConfig) -> Result<String> {
        let sandbox = self.sandbox(sandbox_id)?;
        if !sandbox.ready {
            return Err(Error::FailedPrecondition(format!("pod sandbox {sandbox_id} is not ready")));
        }
        let image = self.images.find(&config.image.image).ok_or_else(|| Error::not_found("image", &config.image.image))?;
        let id = uuid::Uuid::new_v4().simple().to_string();
        let target = match config.linux.security_context.namespace_options.pid {
            NamespaceMode::Target => self.container(&config.linux.security_context.namespace_options.target_id)?.pid(),
            _ => None,
        };
        {
            let table = self.table.lock();
            let same = |one: &&Container| {
                one.record.sandbox_id == sandbox_id
                    && one.record.config.metadata == config.metadata
                    && !config.metadata.name.is_empty()
            };
            if let Some(other) = table.containers.values().find(same) {
                return Err(Error::AlreadyExists { what: "container", id: other.record.id.clone() });
            }
        }
        let (inner, config, new) = (Arc::clone(self), config.clone(), id.clone());
        let record = blocking(move || {
            inner.prepare_container(&new, &sandbox.record, &config, &image, target).inspect_err(|_| {
                if let Err(error) = inner.clear_container(&new) {
                    tracing::warn!(container = new, error = error.chain(), "half-made container can't be removed");
                }
            })
        })
        .await?;
        self.table.lock().containers.insert(id.clone(), Container::new(record, Phase::Created));
        self.emit(&id, sandbox_id, ContainerEventKind::Created);
        Ok(id)
    }

    fn prepare_container(
        &self,
        id: &str,
        sandbox: &SandboxRecord,
        config: &ContainerConfig,
        image: &Record,
        target_pid: Option<i32>,
    ) -> Result<ContainerRecord> {
        let dir = self.container_dir(id);
        let rootfs = dir.join("rootfs");
        fs::create_dir_all(&rootfs).context(|| format!("create {}", rootfs.display()))?;
        self.images.create_snapshot(id, image)?;
        self.images.mount_snapshot(id, &rootfs)?;
        let user = user::resolve(&rootfs, &image.config.user, &config.linux.security_context)?;

        let mut effective = config.clone();
        let mut images_mounted = Vec::new();
        for (index, mount) in effective.mounts.iter_mut().enumerate() {
            let Some(wanted) = mount.image.clone() else { continue };
            let record = self.images.find(&wanted.image).ok_or_else(|| Error::not_found("image", &wanted.image))?;
            let target = dir.join(format!("image-{index}"));
            fs::create_dir_all(&target).context(|| format!("create {}", target.display()))?;
            self.images.mount_image(&record, &target)?;
            images_mounted.push(target.clone());
            mount.host_path = user::inside(&target, Path::new(&mount.image_sub_path))
                .ok_or_else(|| Error::InvalidArgument(format!("image sub path {:?} is a loop", mount.image_sub_path)))?;
            mount.readonly = true;
        }
        let hostname = fs::read_to_string(self.sandbox_dir(&sandbox.id).join("hostname")).unwrap_or_default();
        let cgroup = spec::container_cgroup(&sandbox.cgroup_parent, id);
        let specification = spec::build(
            &effective,
            &image.config,
            &user,
            &Surroundings {
                rootfs: &rootfs,
                cgroup: &cgroup,
                sandbox_pid: sandbox.pid,
                netns: sandbox.netns.as_deref(),
                hostname: hostname.trim(),
                target_pid,
                sandbox_dir: &self.sandbox_dir(&sandbox.id),
                unified: spec::is_unified(),
            },
        )?;
        if let Some(cwd) = specification["process"]["cwd"].as_str()
            && let Some(cwd) = user::inside(&rootfs, Path::new(cwd))
        {
            // As runc does. Where a mount will be, libcontainer makes what is missing.
            fs::create_dir_all(&cwd).context(|| format!("create working directory {}", cwd.display()))?;
        }
        let stop_signal = [&config.stop_signal, &image.config.stop_signal].into_iter().find(|one| !one.is_empty());
        let log_path = match config.log_path.as_os_str().is_empty() {
            true => PathBuf::new(),
            false => sandbox.config.log_directory.join(&config.log_path),
        };
        let shim = ShimConfig {
            id: id.to_owned(),
            log_path: log_path.clone(),
            log_rotation: config.log_rotation,
            stdin: config.stdin,
            stdin_once: config.stdin_once,
            tty: config.tty,
            cgroup: cgroup.clone(),
            own_pid_namespace: config.linux.security_context.namespace_options.pid == NamespaceMode::Container,
        };
        let record = ContainerRecord {
            id: id.to_owned(),
            sandbox_id: sandbox.id.clone(),
            config: config.clone(),
            created_at: Timestamp::now(),
            image_id: image.id.clone(),
            image_ref: image.image_ref(),
            user,
            log_path,
            cgroup,
            stop_signal: signal_number(stop_signal.map_or("SIGTERM", String::as_str))?,
            images_mounted,
        };
        let write = |name: &str, bytes: serde_json::Result<Vec<u8>>| {
            let file = dir.join(name);
            fs::write(&file, bytes.context(|| format!("encode {name}"))?).context(|| format!("write {}", file.display()))
        };
        write("config.json", serde_json::to_vec(&specification))?;
        write(protocol::CONFIG, serde_json::to_vec(&shim))?;
        write("container.json", serde_json::to_vec(&record))?;
        Ok(record)
    }

    /// Takes away everything a container has on this machine but its log.
    fn clear_container(&self, id: &str) -> Result<()> {
        let dir = self.container_dir(id);
        overlay::unmount(&dir.join("rootfs")).context(|| format!("unmount root file system of {id}"))?;
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("image-") {
                overlay::unmount(&entry.path()).context(|| format!("unmount {}", entry.path().display()))?;
            }
        }
        remove_all(&dir)?;
        self.images.remove_snapshot(id)
    }

    async fn start(self: &Arc<Self>, id: &str) -> Result<()> {
        let container = self.container(id)?;
        let _turn = container.turn.lock().await;
        match &*container.phase.borrow() {
            Phase::Created => {}
            Phase::Running(_) => return Err(Error::FailedPrecondition(format!("container {id} is running already"))),
            Phase::Exited(_) => return Err(Error::FailedPrecondition(format!("container {id} has exited"))),
        }
        if !self.sandbox(&container.record.sandbox_id)?.ready {
            return Err(Error::FailedPrecondition(format!("pod sandbox {} is not ready", container.record.sandbox_id)));
        }
        let dir = self.container_dir(id);
        let mut command = helper(&self.config.helper, &[SHIM_COMMAND, &dir.to_string_lossy()]);
        if let Ok(log) = fs::File::create(dir.join(protocol::LOG)) {
            command.stderr(log);
        }
        let started = async {
            let (answer, mut child) = ask::<protocol::Answer>(command, "container").await?;
            if let Some(error) = answer.error {
                let _ = child.wait().await;
                return Err(Error::internal(format!("start container {id}"), error));
            }
            self.spawn(async move {
                let _ = child.wait().await;
            });
            Ok(())
        };
        if let Err(error) = started.await {
            let status = ShimStatus {
                finished_at: Some(Timestamp::now()),
                exit_code: 128,
                message: error.chain(),
                ..ShimStatus::default()
            };
            let (file, bytes) = (dir.join(protocol::STATUS), serde_json::to_vec(&status).context(|| "encode status")?);
            let cgroup = container.record.cgroup.clone();
            let cleared = blocking(move || {
                cgroup::kill_all(&cgroup);
                write_atomically(&file, &bytes)?;
                cgroup::remove(&cgroup)
            });
            if let Err(error) = cleared.await {
                tracing::warn!(container = id, error = error.chain(), "half-started container can't be cleared");
            }
            self.exited(id, status).await;
            return Err(error);
        }
        let status = {
            let dir = dir.clone();
            blocking(move || read_status(&dir).ok_or_else(|| Error::internal("start container", "its shim left no status")))
                .await?
        };
        container.phase.send_replace(Phase::Running(status));
        self.emit(id, &container.record.sandbox_id, ContainerEventKind::Started);
        match ShimClient::request(&dir, &Request::Watch).await {
            Ok(client) => self.watch_container(&container, client),
            // It has ended already.
            Err(_) => self.lost(id).await,
        }
        Ok(())
    }

    async fn signal(&self, id: &str, signal: i32, all: bool) -> Result<()> {
        match ShimClient::request(&self.container_dir(id), &Request::Kill { signal, all }).await {
            // Gone with its shim: its end is on the way.
            Ok(_) | Err(Error::Unavailable { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn stop(&self, id: &str, grace: Duration) -> Result<()> {
        let container = match self.container(id) {
            Err(error) if error.is_not_found() => return Ok(()),
            container => container?,
        };
        let mut phase = container.phase.subscribe();
        if !matches!(*phase.borrow_and_update(), Phase::Running(_)) {
            return Ok(());
        }
        // Fails only when the container is gone from the table, which is what is wanted.
        let ended = async |phase: &mut tokio::sync::watch::Receiver<Phase>, limit| {
            timeout(limit, phase.wait_for(|phase| matches!(phase, Phase::Exited(_)))).await.is_ok()
        };
        if !grace.is_zero() {
            self.signal(id, container.record.stop_signal, false).await?;
            if ended(&mut phase, grace).await {
                return Ok(());
            }
        }
        self.signal(id, Signal::SIGKILL as i32, true).await?;
        if ended(&mut phase, KILL_DEADLINE).await {
            return Ok(());
        }
        Err(Error::DeadlineExceeded { operation: "stop container", timeout: KILL_DEADLINE })
    }

    async fn remove(self: &Arc<Self>, id: &str) -> Result<()> {
        let container = match self.container(id) {
            Err(error) if error.is_not_found() => return Ok(()),
            container => container?,
        };
        let _turn = container.turn.lock().await;
        self.stop(id, Duration::ZERO).await?;
        let (inner, record) = (Arc::clone(self), Arc::clone(&container.record));
        blocking(move || {
            cgroup::kill_all(&record.cgroup);
            cgroup::remove(&record.cgroup)?;
            inner.clear_container(&record.id)
        })
        .await?;
        self.usage.lock().remove(id);
        if self.table.lock().containers.remove(id).is_some() {
            self.emit(id, &container.record.sandbox_id, ContainerEventKind::Deleted);
        }
        Ok(())
    }

    async fn stats(self: &Arc<Self>, container: Container) -> Result<ContainerStats> {
        let inner = Arc::clone(self);
        blocking(move || {
            let record = &container.record;
            let cgroup = cgroup::stats(&record.cgroup).map_err(|error| match error {
                Error::NotFound { .. } => Error::FailedPrecondition(format!("container {} is not running", record.id)),
                error => error,
            })?;
            Ok(ContainerStats {
                id: record.id.clone(),
                pod_sandbox_id: record.sandbox_id.clone(),
                metadata: record.config.metadata.clone(),
                labels: record.config.labels.clone(),
                timestamp: Timestamp::now(),
                cgroup,
                writable_layer: inner.layer_usage(&record.id),
            })
        })
        .await
    }

    fn layer_usage(&self, id: &str) -> FilesystemUsage {
        let now = Instant::now();
        if let Some((at, usage)) = self.usage.lock().get(id)
            && now.duration_since(*at) < USAGE_AGE
        {
            return usage.clone();
        }
        let usage = self.images.snapshot_usage(id);
        self.usage.lock().insert(id.to_owned(), (now, usage.clone()));
        usage
    }

    async fn sandbox_stats(self: &Arc<Self>, sandbox: Sandbox) -> Result<PodSandboxStats> {
        blocking(move || {
            let record = &sandbox.record;
            Ok(PodSandboxStats {
                id: record.id.clone(),
                metadata: record.config.metadata.clone(),
                labels: record.config.labels.clone(),
                timestamp: Timestamp::now(),
                cgroup: cgroup::stats(&record.cgroup_parent)?,
                pid: record.pid,
            })
        })
        .await
    }

    fn list_sandboxes(&self, filter: &PodSandboxFilter) -> Vec<Sandbox> {
        let table = self.table.lock();
        let mut found: Vec<Sandbox> = table
            .sandboxes
            .values()
            .filter(|one| filter.id.as_ref().is_none_or(|id| *id == one.record.id))
            .filter(|one| filter.state.is_none_or(|state| (state == PodSandboxState::Ready) == one.ready))
            .filter(|one| has_labels(&one.record.config.labels, &filter.label_selector))
            // Not whole yet.
            .filter(|one| one.record.pid != 0)
            .cloned()
            .collect();
        found.sort_by_key(|one| one.record.created_at);
        found
    }

    fn list_containers(&self, filter: &ContainerFilter) -> Vec<Container> {
        let table = self.table.lock();
        let mut found: Vec<Container> = table
            .containers
            .values()
            .filter(|one| filter.id.as_ref().is_none_or(|id| *id == one.record.id))
            .filter(|one| filter.pod_sandbox_id.as_ref().is_none_or(|id| *id == one.record.sandbox_id))
            .filter(|one| filter.state.is_none_or(|state| state == one.status().state))
            .filter(|one| has_labels(&one.record.config.labels, &filter.label_selector))
            .cloned()
            .collect();
        found.sort_by_key(|one| one.record.created_at);
        found
    }

    fn job(&self, container: &Container, args: &[String], tty: bool) -> Result<ExecJob> {
        let id = &container.record.id;
        let pid = container.pid().ok_or_else(|| Error::FailedPrecondition(format!("container {id} is not running")))?;
        if args.is_empty() {
            return Err(Error::InvalidArgument("no command to exec".to_owned()));
        }
        Ok(ExecJob { dir: self.container_dir(id), pid, args: args.to_vec(), tty })
    }
}

fn check_sandbox(config: &PodSandboxConfig) -> Result<()> {
    let linux = &config.linux;
    let options = &linux.security_context.namespace_options;
    crate::selinux::check(linux.security_context.selinux_options.as_ref(), &[])?;
    if !matches!(options.network, NamespaceMode::Pod | NamespaceMode::Node)
        || !matches!(options.ipc, NamespaceMode::Pod | NamespaceMode::Node)
    {
        return Err(Error::InvalidArgument("a pod's network and IPC are its own or the node's".to_owned()));
    }
    if linux.resources.is_some() && linux.cgroup_parent.is_empty() {
        return Err(Error::InvalidArgument("resources of a pod need its cgroup parent".to_owned()));
    }
    for name in linux.sysctls.keys() {
        let net = name.starts_with("net.");
        let ipc = name.starts_with("kernel.shm")
            || name.starts_with("kernel.msg")
            || name.starts_with("fs.mqueue.")
            || name == "kernel.sem";
        if name.contains("..") || name.contains('/') || !(net || ipc) {
            return Err(Error::InvalidArgument(format!("sysctl {name} is not namespaced")));
        }
        if net && options.network == NamespaceMode::Node || ipc && options.ipc == NamespaceMode::Node {
            return Err(Error::InvalidArgument(format!("sysctl {name} is not allowed with the node's namespace")));
        }
    }
    Ok(())
}

pub(crate) fn resolv_conf(dns: &DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    text
}

/// A cgroup for processes: its parents hand down controllers, it does not.
fn create_leaf(path: &str) -> Result<()> {
    match cgroup::Hierarchies::get() {
        cgroup::Hierarchies::V1(_) => cgroup::create(path),
        cgroup::Hierarchies::V2(root) => {
            let dir = root.join(path.trim_start_matches('/'));
            match fs::create_dir(&dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    Err(Error::internal(format!("create cgroup {}", dir.display()), error))
                }
                _ => Ok(()),
            }
        }
    }
}

/// Kills a process that is still the one meant.
fn kill_process(pid: i32, started: u64) {
    let Ok(pidfd) = sys::pidfd_open(pid) else { return };
    if process_started(pid) == Some(started) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        wait_for_end(&pidfd);
    }
}

fn wait_for_end(pidfd: &OwnedFd) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    let _ = poll(&mut fds, PollTimeout::from(5_000u16));
}

fn read_status(dir: &Path) -> Option<ShimStatus> {
    serde_json::from_slice(&fs::read(dir.join(protocol::STATUS)).ok()?).ok()
}

/// Records below a directory; one that was not finished is skipped.
fn read_records<T: for<'de> serde::Deserialize<'de>>(dir: &Path, name: &str) -> Vec<T> {
    let mut records = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let file = entry.path().join(name);
        match fs::read(&file)
            .map_err(|error| error.to_string())
            .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string()))
        {
            Ok(record) => records.push(record),
            Err(error) => tracing::warn!(path = %file.display(), error, "unreadable record"),
        }
    }
    records
}

pub(crate) fn has_labels(labels: &Map, selector: &Map) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Number of a signal by name (with or without `SIG`) or number.
pub(crate) fn signal_number(name: &str) -> Result<i32> {
    if let Ok(number) = name.parse::<i32>()
        && (1..=64).contains(&number)
    {
        return Ok(number);
    }
    let upper = name.to_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    if let Some(rest) = full.strip_prefix("SIGRTMIN+") {
        return rest.parse().map(|offset: i32| 34 + offset).map_err(|_| Error::InvalidArgument(format!("unknown signal {name}")));
    }
    full.parse::<Signal>().map(|signal| signal as i32).map_err(|_| Error::InvalidArgument(format!("unknown signal {name}")))
}

pub(crate) fn event_stream(receiver: broadcast::Receiver<ContainerEvent>) -> BoxStream<'static, ContainerEvent> {
    futures::stream::unfold(receiver, |mut receiver| async move {
        match receiver.recv().await {
            Ok(event) => Some((event, receiver)),
            Err(broadcast::error::RecvError::Lagged(_)) => {
                let lagged = ContainerEvent {
                    id: String::new(),
                    pod_sandbox_id: String::new(),
                    pod_uid: String::new(),
                    created_at: Timestamp::now(),
                    kind: ContainerEventKind::Lagged,
                };
                Some((lagged, receiver))
            }
            Err(broadcast::error::RecvError::Closed) => None,
        }
    })
    .boxed()
}

#[async_trait]
impl Runtime for Embedded {
    async fn version(&self) -> Result<Version> {
        Ok(Version {
            runtime_name: "pharos".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: "v1".to_owned(),
        })
    }

    async fn status(&self) -> Result<Vec<RuntimeCondition>> {
        let state = self.0.config.state.clone();
        let (status, message) = blocking(move || {
            Ok(match fs::read_dir(state.join("containers")) {
                Ok(_) => (true, String::new()),
                Err(error) => (false, format!("{}: {error}", state.display())),
            })
        })
        .await?;
        let reason = if status { String::new() } else { "StateDirectoryUnavailable".to_owned() };
        Ok(vec![RuntimeCondition { kind: "RuntimeReady".to_owned(), status, reason, message }])
    }

    async fn run_pod_sandbox(&self, config: &PodSandboxConfig) -> Result<PodSandbox> {
        with_deadline("run pod sandbox", CALL_DEADLINE, self.0.run_sandbox(config)).await
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<()> {
        with_deadline("stop pod sandbox", CALL_DEADLINE, self.0.stop_sandbox(id)).await
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<()> {
        with_deadline("remove pod sandbox", CALL_DEADLINE, self.0.remove_sandbox(id)).await
    }

    async fn pod_sandbox_status(&self, id: &str) -> Result<PodSandboxStatus> {
        self.0.sandbox(id).map(|sandbox| sandbox.status())
    }

    async fn list_pod_sandboxes(&self, filter: &PodSandboxFilter) -> Result<Vec<PodSandboxStatus>> {
        Ok(self.0.list_sandboxes(filter).iter().map(Sandbox::status).collect())
    }

    async fn create_container(&self, pod_sandbox_id: &str, config: &ContainerConfig) -> Result<String> {
        with_deadline("create container", CALL_DEADLINE, self.0.create(pod_sandbox_id, config)).await
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        with_deadline("start container", CALL_DEADLINE, self.0.start(id)).await
    }

    async fn stop_container(&self, id: &str, timeout: Duration) -> Result<()> {
        let limit = timeout.saturating_add(CALL_DEADLINE);
        with_deadline("stop container", limit, self.0.stop(id, timeout)).await
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        with_deadline("remove container", CALL_DEADLINE, self.0.remove(id)).await
    }

    async fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        self.0.container(id).map(|container| container.status())
    }

    async fn list_containers(&self, filter: &ContainerFilter) -> Result<Vec<ContainerStatus>> {
        Ok(self.0.list_containers(filter).iter().map(Container::status).collect())
    }

    async fn update_container_resources(&self, id: &str, resources: &LinuxContainerResources) -> Result<()> {
        let inner = Arc::clone(&self.0);
        let container = inner.container(id)?;
        let _turn = container.turn.lock().await;
        let mut record = (*container.record).clone();
        record.config.linux.resources = merge(&container.resources, resources);
        let wanted = resources.clone();
        let running = container.pid().is_some();
        let dir = inner.container_dir(id);
        let (merged, id) = (record.config.linux.resources.clone(), id.to_owned());
        blocking(move || {
            if running {
                cgroup::apply(&record.cgroup, &wanted)?;
            } else {
                let file = dir.join("config.json");
                let text = fs::read(&file).context(|| format!("read {}", file.display()))?;
                let mut specification: serde_json::Value = serde_json::from_slice(&text).context(|| "parse specification")?;
                spec::set_resources(&mut specification, &record.config.linux.resources, spec::is_unified())?;
                let bytes = serde_json::to_vec(&specification).context(|| "encode specification")?;
                write_atomically(&file, &bytes)?;
            }
            let bytes = serde_json::to_vec(&record).context(|| "encode container")?;
            write_atomically(&dir.join("container.json"), &bytes)?;
            if let Some(container) = inner.table.lock().containers.get_mut(&id) {
                container.resources = merged;
            }
            Ok(())
        })
        .await
    }

    async fn update_pod_sandbox_resources(&self, id: &str, resources: &LinuxContainerResources) -> Result<()> {
        let sandbox = self.0.sandbox(id)?;
        let _turn = sandbox.turn.lock().await;
        if sandbox.record.config.linux.cgroup_parent.is_empty() {
            return Err(Error::InvalidArgument("resources of a pod need its cgroup parent".to_owned()));
        }
        let resources = resources.clone();
        blocking(move || cgroup::apply(&sandbox.record.cgroup_parent, &resources)).await
    }

    async fn reopen_container_log(&self, id: &str) -> Result<()> {
        let container = self.0.container(id)?;
        if container.pid().is_none() {
            return Err(Error::FailedPrecondition(format!("container {id} is not running")));
        }
        ShimClient::request(&self.0.container_dir(id), &Request::ReopenLog).await.map(drop)
    }

    async fn exec(&self, request: &ExecRequest, streams: Streams) -> Result<i32> {
        let container = self.0.container(&request.container_id)?;
        let job = self.0.job(&container, &request.cmd, request.tty)?;
        client::exec(&self.0.config.helper, job, streams).await
    }

    async fn exec_sync(&self, container_id: &str, cmd: &[String], timeout: Duration) -> Result<ExecSyncResponse> {
        let container = self.0.container(container_id)?;
        let job = self.0.job(&container, cmd, false)?;
        collect_output(timeout, |streams| client::exec(&self.0.config.helper, job, streams)).await
    }

    async fn attach(&self, container_id: &str, streams: Streams) -> Result<()> {
        let container = self.0.container(container_id)?;
        if container.pid().is_none() {
            return Err(Error::FailedPrecondition(format!("container {container_id} is not running")));
        }
        let request = Request::Attach { stdin: streams.stdin.is_some() };
        let client = ShimClient::request(&self.0.container_dir(container_id), &request).await?;
        client.attach(streams, container.record.config.tty).await
    }

    async fn container_stats(&self, id: &str) -> Result<ContainerStats> {
        let container = self.0.container(id)?;
        with_deadline("container stats", CALL_DEADLINE, self.0.stats(container)).await
    }

    async fn list_container_stats(&self, filter: &ContainerFilter) -> Result<Vec<ContainerStats>> {
        let mut found = Vec::new();
        for container in self.0.list_containers(filter).into_iter().filter(|one| one.pid().is_some()) {
            match self.0.stats(container).await {
                Ok(stats) => found.push(stats),
                // It has ended meanwhile.
                Err(Error::FailedPrecondition(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    async fn pod_sandbox_stats(&self, id: &str) -> Result<PodSandboxStats> {
        self.0.sandbox_stats(self.0.sandbox(id)?).await
    }

    async fn list_pod_sandbox_stats(&self, filter: &PodSandboxFilter) -> Result<Vec<PodSandboxStats>> {
        let mut found = Vec::new();
        for sandbox in self.0.list_sandboxes(filter).into_iter().filter(|one| one.ready) {
            match self.0.sandbox_stats(sandbox).await {
                Ok(stats) => found.push(stats),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    async fn events(&self) -> Result<BoxStream<'static, ContainerEvent>> {
        Ok(event_stream(self.0.events.subscribe()))
    }

    async fn list_images(&self, filter: Option<&ImageSpec>) -> Result<Vec<Image>> {
        Ok(match filter {
            Some(spec) => self.0.images.find(&spec.image).iter().map(Record::image).collect(),
            None => self.0.images.list().iter().map(Record::image).collect(),
        })
    }

    async fn image_status(&self, image: &ImageSpec) -> Result<Option<Image>> {
        Ok(self.0.images.find(&image.image).map(|record| record.image()))
    }

    async fn pull_image(&self, image: &ImageSpec, auth: &RegistryAuth) -> Result<String> {
        let record = self.0.puller.pull(&self.0.images, &image.image, auth).await?;
        Ok(record.image_ref())
    }

    async fn remove_image(&self, image: &ImageSpec) -> Result<()> {
        let (images, name) = (Arc::clone(&self.0.images), image.image.clone());
        blocking(move || images.remove(&name)).await
    }

    async fn load_image(&self, archive: &Path) -> Result<Vec<Image>> {
        let (images, archive) = (Arc::clone(&self.0.images), archive.to_owned());
        blocking(move || archive::load(&images, &archive)).await
    }

    async fn image_fs_info(&self) -> Result<ImageFsInfo> {
        let images = Arc::clone(&self.0.images);
        with_deadline("image filesystem info", CALL_DEADLINE, blocking(move || images.usage())).await
    }
}

/// Limits after an update: what is set replaces, the rest stays.
fn merge(old: &LinuxContainerResources, new: &LinuxContainerResources) -> LinuxContainerResources {
    let pick = |a: i64, b: i64| if b != 0 { b } else { a };
    let pick_u = |a: u64, b: u64| if b != 0 { b } else { a };
    let text = |a: &String, b: &String| if b.is_empty() { a.clone() } else { b.clone() };
    LinuxContainerResources {
        cpu_period: pick_u(old.cpu_period, new.cpu_period),
        cpu_quota: pick(old.cpu_quota, new.cpu_quota),
        cpu_shares: pick_u(old.cpu_shares, new.cpu_shares),
        memory_limit_in_bytes: pick(old.memory_limit_in_bytes, new.memory_limit_in_bytes),
        oom_score_adj: old.oom_score_adj,
        cpuset_cpus: text(&old.cpuset_cpus, &new.cpuset_cpus),
        cpuset_mems: text(&old.cpuset_mems, &new.cpuset_mems),
        hugepage_limits: if new.hugepage_limits.is_empty() { old.hugepage_limits.clone() } else { new.hugepage_limits.clone() },
        unified: old.unified.iter().chain(&new.unified).map(|(key, value)| (key.clone(), value.clone())).collect(),
        memory_swap_limit_in_bytes: pick(old.memory_swap_limit_in_bytes, new.memory_swap_limit_in_bytes),
        pids_limit: pick(old.pids_limit, new.pids_limit),
    }
}
