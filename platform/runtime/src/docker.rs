//! The same trait over the Docker Engine API.
//!
//! Docker holds all state: what CRI knows and Docker doesn't is in labels. A sandbox is a container of a pause image made here
//! (no registry needed) with no network; containers join its namespaces. Docker's logs are followed into CRI log files. Needs
//! Docker's `cgroupfs` driver, for pods' cgroups are named by the kubelet.

mod config;
mod follow;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bollard::Docker as Client;
use bollard::auth::DockerCredentials;
use bollard::container::LogOutput;
use bollard::errors::Error as ClientError;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum, EventMessage, SystemInfoCgroupDriverEnum,
};
use bollard::query_parameters::{
    AttachContainerOptions, CreateContainerOptions, CreateImageOptions, DownloadFromContainerOptions, EventsOptions,
    ImportImageOptions, InspectContainerOptions, KillContainerOptions, ListContainersOptions, ListImagesOptions,
    RemoveContainerOptions, RemoveImageOptions, ResizeContainerTTYOptions, ResizeExecOptions, WaitContainerOptions,
};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::broadcast;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::cgroup;
use crate::docker::config::SandboxView;
use crate::embedded::log::LogWriter;
use crate::embedded::{event_stream, has_labels, pause, resolv_conf, state::process_started};
use crate::error::{Context, Error, Result};
use crate::image::pull::blocking;
use crate::image::store::remove_all;
use crate::image::{BuildFile, BuildImage, Reference, build, user};
use crate::runtime::{Runtime, collect_output, with_deadline};
use crate::types::*;

type Labels = HashMap<String, String>;

const KIND: &str = "io.pharos.kind";
const STATE: &str = "io.pharos.state";
const SANDBOX: &str = "io.pharos.sandbox";
const POD_UID: &str = "io.pharos.pod.uid";
const RECORD: &str = "io.pharos.record";
const PAUSE_IMAGE: &str = "pharos.local/pause:1";

const CALL_DEADLINE: Duration = Duration::from_secs(120);
const KILL_DEADLINE: Duration = Duration::from_secs(30);
/// A pull of which nothing is heard for this long has failed.
const PROGRESS_DEADLINE: Duration = Duration::from_secs(60);
/// How often and how long apart a new exec's process is looked for: it is there within a second.
const FIND_TRIES: u32 = 100;
const FIND_PAUSE: Duration = Duration::from_millis(20);
const EVENT_BACKLOG: usize = 1024;
/// How long Docker's walk over a container's own layer is good for.
const USAGE_AGE: Duration = Duration::from_secs(30);

/// Settings of the Docker runtime.
#[derive(Clone, Debug)]
pub struct DockerConfig {
    /// Docker's socket. Default `/var/run/docker.sock`.
    pub socket: PathBuf,
    /// Directory of the pods' `resolv.conf` files; also tells this node's containers from others'. Default `/run/pharos/docker`.
    pub state: PathBuf,
    /// The cgroup of pods that name none. Default `/pharos`.
    pub cgroup_parent: String,
}

impl Default for DockerConfig {
    fn default() -> Self {
        Self { socket: "/var/run/docker.sock".into(), state: "/run/pharos/docker".into(), cgroup_parent: "/pharos".to_owned() }
    }
}

/// What CRI knows of a container and Docker doesn't.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct ContainerRecord {
    config: ContainerConfig,
    created_at: Timestamp,
    log_path: PathBuf,
    image_ref: String,
}

/// And of a sandbox.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct SandboxRecord {
    config: PodSandboxConfig,
    created_at: Timestamp,
    cgroup_parent: String,
    /// Its directory below the state directory; the ID is Docker's and comes later.
    dir: String,
}

/// The Docker runtime. Dropping it leaves containers running; a new one finds them.
#[derive(Clone)]
pub struct Docker(Arc<Inner>);

struct Inner {
    config: DockerConfig,
    client: Client,
    events: broadcast::Sender<ContainerEvent>,
    tasks: Mutex<JoinSet<()>>,
    logs: Mutex<BTreeMap<String, Arc<Mutex<LogWriter>>>>,
    usage: Mutex<BTreeMap<String, (Instant, u64)>>,
    // Names are looked up in the container's own files, once.
    users: Mutex<BTreeMap<String, LinuxContainerUser>>,
}

// === impl Docker ===

impl Docker {
    /// Connects, makes the pause image when it is not there, follows events, and the logs of running containers.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when Docker can't be reached; [`Error::Unsupported`] with another cgroup driver than `cgroupfs`.
    pub async fn open(config: DockerConfig) -> Result<Self> {
        let unreachable = |error: ClientError| Error::unavailable(format!("reach Docker at {}", config.socket.display()), error);
        let client = Client::connect_with_socket(&config.socket.to_string_lossy(), 300, bollard::API_DEFAULT_VERSION)
            .map_err(unreachable)?
            .negotiate_version()
            .await
            .map_err(unreachable)?;
        let info = client.info().await.map_err(unreachable)?;
        if info.cgroup_driver != Some(SystemInfoCgroupDriverEnum::CGROUPFS) {
            return Err(Error::Unsupported(
                "Docker must use the cgroupfs driver: set \"exec-opts\": [\"native.cgroupdriver=cgroupfs\"]".to_owned(),
            ));
        }
        let state = config.state.clone();
        blocking(move || std::fs::create_dir_all(state.join("pods")).context(|| format!("create {}", state.display()))).await?;
        let (events, _) = broadcast::channel(EVENT_BACKLOG);
        let inner = Arc::new(Inner {
            config,
            client,
            events,
            tasks: Mutex::default(),
            logs: Mutex::default(),
            usage: Mutex::default(),
            users: Mutex::default(),
        });
        inner.ensure_pause_image().await?;
        let follower = Arc::downgrade(&inner);
        let since = Timestamp::now();
        let client = inner.client.clone();
        let filters = inner.own(&[]);
        inner.spawn(follow_events(follower, client, filters, since));
        inner.follow_all().await?;
        Ok(Self(inner))
    }
}

/// Turns Docker's events into CRI's, for good. Lost connections are made again from the last event.
async fn follow_events(
    inner: std::sync::Weak<Inner>,
    client: Client,
    mut filters: HashMap<String, Vec<String>>,
    mut since: Timestamp,
) {
    filters.insert("type".to_owned(), vec!["container".to_owned()]);
    let actions = ["create", "start", "die", "oom", "destroy"];
    filters.insert("event".to_owned(), actions.map(str::to_owned).to_vec());
    loop {
        let at = format!("{}.{:09}", since.as_second(), since.subsec_nanosecond());
        let options = EventsOptions { since: Some(at), until: None, filters: Some(filters.clone()) };
        let mut stream = std::pin::pin!(client.events(Some(options)));
        while let Some(Ok(event)) = stream.next().await {
            let Some(inner) = inner.upgrade() else { return };
            if let Some(at) = event.time_nano.and_then(|nanos| Timestamp::from_nanosecond(i128::from(nanos) + 1).ok()) {
                since = at;
            }
            inner.translate(&event).await;
        }
        if inner.upgrade().is_none() {
            return;
        }
        tracing::warn!("event stream of Docker ended; connecting again");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

// === impl Inner ===

impl Inner {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    /// A filter for this node's own containers with more labels.
    fn own(&self, labels: &[(&str, &str)]) -> HashMap<String, Vec<String>> {
        let mut list = vec![format!("{STATE}={}", self.config.state.display())];
        list.extend(labels.iter().map(|(key, value)| format!("{key}={value}")));
        HashMap::from([("label".to_owned(), list)])
    }

    async fn ensure_pause_image(&self) -> Result<()> {
        if self.inspect_image(PAUSE_IMAGE).await?.is_some() {
            return Ok(());
        }
        let archive = self.config.state.join("pause.tar");
        let file = archive.clone();
        blocking(move || {
            let image = BuildImage {
                name: PAUSE_IMAGE.to_owned(),
                files: vec![BuildFile::Content { to: "/pause".into(), bytes: pause::program(), mode: 0o755 }],
                config: ImageConfig { entrypoint: vec!["/pause".to_owned()], ..ImageConfig::default() },
            };
            build(&image, &file)
        })
        .await?;
        let loaded = self.load(&archive).await;
        blocking(move || remove_all(&archive)).await?;
        loaded.map(drop)
    }

    async fn translate(self: &Arc<Self>, event: &EventMessage) {
        let Some(actor) = &event.actor else { return };
        let (Some(id), Some(labels)) = (actor.id.clone(), &actor.attributes) else { return };
        let is_sandbox = labels.get(KIND).is_some_and(|kind| kind == "sandbox");
        let sandbox = if is_sandbox { id.clone() } else { labels.get(SANDBOX).cloned().unwrap_or_default() };
        let kind = match event.action.as_deref() {
            Some("create") => ContainerEventKind::Created,
            Some("start") => ContainerEventKind::Started,
            Some("oom") => ContainerEventKind::Oom,
            Some("destroy") => ContainerEventKind::Deleted,
            Some("die") => {
                let exit_code = labels.get("exitCode").and_then(|code| code.parse().ok()).unwrap_or(255);
                let oom = match self.inspect(&id).await {
                    Ok(Some(found)) => found.state.and_then(|state| state.oom_killed).unwrap_or(false),
                    _ => false,
                };
                ContainerEventKind::Stopped { exit_code, reason: reason(exit_code, oom).to_owned() }
            }
            _ => return,
        };
        let created_at = event.time_nano.and_then(|nanos| Timestamp::from_nanosecond(i128::from(nanos)).ok());
        // Nobody may be listening.
        let _ = self.events.send(ContainerEvent {
            id,
            pod_sandbox_id: sandbox,
            pod_uid: labels.get(POD_UID).cloned().unwrap_or_default(),
            created_at: created_at.unwrap_or_else(Timestamp::now),
            kind,
        });
    }

    /// The status with the user as it was resolved.
    fn status(&self, found: &ContainerInspectResponse) -> Result<ContainerStatus> {
        let mut status = status(found)?;
        if let Some(user) = self.users.lock().get(&status.id) {
            status.user = user.clone();
        }
        Ok(status)
    }

    /// Follows the logs of containers that were started before this process, and looks their users up.
    async fn follow_all(self: &Arc<Self>) -> Result<()> {
        for found in self.list("container", &[]).await? {
            let status = status(&found)?;
            let text = found.config.as_ref().and_then(|config| config.user.clone()).unwrap_or_default();
            let config: ContainerRecord = record(&found)?;
            match self.user_of(&status.id, &text, &config.config).await {
                Ok(user) => drop(self.users.lock().insert(status.id.clone(), user)),
                // It may be on its way out.
                Err(error) => tracing::warn!(container = status.id, error = error.chain(), "user of container can't be told"),
            }
            if status.started_at.is_some() {
                let record: ContainerRecord = record(&found)?;
                let path = record.log_path.clone();
                let (exists, last) = blocking(move || Ok((path.exists(), follow::last_stamp(&path)))).await?;
                // A finished container's log that was taken away stays away.
                if status.state == ContainerState::Running || exists {
                    self.follow_log(&status.id, &record, last)?;
                }
            }
        }
        Ok(())
    }

    fn follow_log(&self, id: &str, record: &ContainerRecord, after: Option<Timestamp>) -> Result<()> {
        if record.config.log_path.as_os_str().is_empty() {
            return Ok(());
        }
        let writer = LogWriter::open(&record.log_path, record.config.log_rotation)
            .context(|| format!("open log {}", record.log_path.display()))?;
        let writer = Arc::new(Mutex::new(writer));
        self.logs.lock().insert(id.to_owned(), Arc::clone(&writer));
        self.spawn(follow::follow(self.client.clone(), id.to_owned(), writer, after));
        Ok(())
    }

    /// `None` when Docker has no such container or it is not ours.
    async fn inspect(&self, id: &str) -> Result<Option<ContainerInspectResponse>> {
        match self.client.inspect_container(id, None::<InspectContainerOptions>).await {
            Ok(found) => {
                let ours = label(&found, STATE).is_some_and(|state| Path::new(state) == self.config.state);
                Ok(ours.then_some(found))
            }
            Err(error) => not_found_is_none(explain("inspect container", error)),
        }
    }

    async fn found(&self, id: &str, kind: &str, what: &'static str) -> Result<ContainerInspectResponse> {
        let found = self.inspect(id).await?.filter(|found| label(found, KIND) == Some(kind));
        found.ok_or_else(|| Error::not_found(what, id))
    }

    async fn container(&self, id: &str) -> Result<ContainerInspectResponse> {
        self.found(id, "container", "container").await
    }

    async fn sandbox(&self, id: &str) -> Result<ContainerInspectResponse> {
        self.found(id, "sandbox", "pod sandbox").await
    }

    /// Everything of a kind, in full, oldest first.
    async fn list(&self, kind: &str, labels: &[(&str, &str)]) -> Result<Vec<ContainerInspectResponse>> {
        let mut all = vec![(KIND, kind)];
        all.extend_from_slice(labels);
        let options = ListContainersOptions { all: true, filters: Some(self.own(&all)), ..ListContainersOptions::default() };
        let list = self.client.list_containers(Some(options)).await.map_err(|error| explain("list containers", error))?;
        let mut found = Vec::new();
        for id in list.into_iter().filter_map(|summary| summary.id) {
            // One that is removed meanwhile is left out.
            found.extend(self.inspect(&id).await?);
        }
        found.sort_by_key(|one| label(one, RECORD).and_then(created_at));
        Ok(found)
    }

    async fn make(&self, name: String, body: ContainerCreateBody, what: &'static str) -> Result<String> {
        let options = CreateContainerOptions { name: Some(name.clone()), ..CreateContainerOptions::default() };
        match self.client.create_container(Some(options), body).await {
            Ok(made) => Ok(made.id),
            Err(ClientError::DockerResponseServerError { status_code: 409, .. }) => Err(Error::AlreadyExists { what, id: name }),
            Err(error) => Err(explain("create container", error)),
        }
    }

    async fn destroy(&self, id: &str) -> Result<()> {
        let options = RemoveContainerOptions { force: true, v: true, link: false };
        let result = self.client.remove_container(id, Some(options)).await;
        match result.map_err(|error| explain("remove container", error)) {
            // Someone else is removing it: wait until it is gone.
            Err(Error::FailedPrecondition(_)) => {
                let options = WaitContainerOptions { condition: "removed".to_owned() };
                let gone = self.client.wait_container(id, Some(options)).try_collect::<Vec<_>>();
                let _ = timeout(KILL_DEADLINE, gone).await;
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            result => result,
        }
    }

    fn pod_dir(&self, name: &str) -> PathBuf {
        self.config.state.join("pods").join(name)
    }

    async fn run_sandbox(&self, config: &PodSandboxConfig) -> Result<PodSandbox> {
        let cgroup_parent = match config.linux.cgroup_parent.as_str() {
            "" => format!("{}/pod{}", self.config.cgroup_parent, config.metadata.uid),
            parent => parent.to_owned(),
        };
        let record = SandboxRecord {
            config: config.clone(),
            created_at: Timestamp::now(),
            cgroup_parent: cgroup_parent.clone(),
            dir: uuid::Uuid::new_v4().simple().to_string(),
        };
        let labels = self.labels("sandbox", &config.metadata.uid, &record)?;
        let body = config::sandbox(config, PAUSE_IMAGE, &cgroup_parent, labels)?;
        let (dir, prepared) = (self.pod_dir(&record.dir), config.clone());
        blocking(move || {
            std::fs::create_dir_all(&dir).context(|| format!("create {}", dir.display()))?;
            if !prepared.log_directory.as_os_str().is_empty() {
                let logs = &prepared.log_directory;
                std::fs::create_dir_all(logs).context(|| format!("create {}", logs.display()))?;
            }
            let text = match &prepared.dns_config {
                Some(dns) => resolv_conf(dns),
                None => std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
            };
            std::fs::write(dir.join("resolv.conf"), text).context(|| "write resolv.conf")?;
            cgroup::create(&cgroup_parent)?;
            prepared.linux.resources.iter().try_for_each(|resources| cgroup::apply(&cgroup_parent, resources))
        })
        .await?;
        let name = match config.metadata.uid.as_str() {
            "" => format!("pharos-pod-{}", record.dir),
            uid => format!("pharos-pod-{uid}-{}", config.metadata.attempt),
        };
        let started = async {
            let id = self.make(name, body, "pod sandbox").await?;
            let started = self.client.start_container(&id, None).await.map_err(|error| explain("start pod sandbox", error));
            let pid = match started {
                Ok(()) => pid(&self.sandbox(&id).await?),
                Err(error) => {
                    self.destroy(&id).await?;
                    return Err(error);
                }
            };
            Ok((id, pid))
        };
        match started.await {
            Ok((id, pid)) => {
                let host = config.linux.security_context.namespace_options.network == NamespaceMode::Node;
                Ok(PodSandbox { id, netns: (!host).then(|| netns(pid)), pid })
            }
            Err(error) => {
                let dir = self.pod_dir(&record.dir);
                blocking(move || remove_all(&dir)).await?;
                Err(error)
            }
        }
    }

    fn labels(&self, kind: &str, uid: &str, record: &impl Serialize) -> Result<Labels> {
        let record = serde_json::to_string(record).context(|| "encode configuration")?;
        let state = self.config.state.display().to_string();
        let all = [(KIND, kind.to_owned()), (STATE, state), (POD_UID, uid.to_owned()), (RECORD, record)];
        Ok(all.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }

    async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let sandbox = match self.sandbox(id).await {
            Err(error) if error.is_not_found() => return Ok(()),
            sandbox => sandbox?,
        };
        for container in self.list("container", &[(SANDBOX, id)]).await? {
            self.stop(&status(&container)?.id, Duration::ZERO).await?;
        }
        if is_running(&sandbox) {
            self.signal(id, "SIGKILL").await?;
            self.wait(id, KILL_DEADLINE).await?;
        }
        Ok(())
    }

    async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let sandbox = match self.sandbox(id).await {
            Err(error) if error.is_not_found() => return Ok(()),
            sandbox => sandbox?,
        };
        self.stop_sandbox(id).await?;
        for container in self.list("container", &[(SANDBOX, id)]).await? {
            self.remove(&status(&container)?.id).await?;
        }
        let record: SandboxRecord = record(&sandbox)?;
        self.destroy(id).await?;
        let dir = self.pod_dir(&record.dir);
        blocking(move || {
            remove_all(&dir)?;
            // Another attempt of the pod may be in it.
            if record.cgroup_parent.trim_matches('/').contains('/') {
                cgroup::remove_if_empty(&record.cgroup_parent);
            }
            Ok(())
        })
        .await
    }

    async fn create(&self, sandbox_id: &str, config: &ContainerConfig) -> Result<String> {
        let sandbox = self.sandbox(sandbox_id).await?;
        if !is_running(&sandbox) {
            return Err(Error::FailedPrecondition(format!("pod sandbox {sandbox_id} is not ready")));
        }
        let image =
            self.inspect_image(&config.image.image).await?.ok_or_else(|| Error::not_found("image", &config.image.image))?;
        let pod: SandboxRecord = record(&sandbox)?;
        let log_path = match config.log_path.as_os_str().is_empty() {
            true => PathBuf::new(),
            false => pod.config.log_directory.join(&config.log_path),
        };
        let record = ContainerRecord {
            config: config.clone(),
            created_at: Timestamp::now(),
            log_path,
            image_ref: image.repo_digests.first().cloned().unwrap_or_else(|| image.id.clone()),
        };
        let mut labels = self.labels("container", &pod.config.metadata.uid, &record)?;
        labels.insert(SANDBOX.to_owned(), sandbox_id.to_owned());
        let view = SandboxView {
            id: sandbox_id,
            cgroup_parent: &pod.cgroup_parent,
            host_network: pod.config.linux.security_context.namespace_options.network == NamespaceMode::Node,
            dir: &self.pod_dir(&pod.dir),
        };
        let body = config::container(config, &image.id, &image.config.user, &view, labels)?;
        let short = &sandbox_id[..sandbox_id.len().min(20)];
        let name = match config.metadata.name.as_str() {
            "" => format!("pharos-{short}-{}", uuid::Uuid::new_v4().simple()),
            name => format!("pharos-{short}-{name}-{}", config.metadata.attempt),
        };
        let id = self.make(name, body, "container").await?;
        // Docker looks users up only when it starts them; the kubelet is to know now.
        match self.user_of(&id, &image.config.user, config).await {
            Ok(user) => {
                self.users.lock().insert(id.clone(), user);
                Ok(id)
            }
            Err(error) => {
                self.destroy(&id).await?;
                Err(error)
            }
        }
    }

    async fn user_of(&self, id: &str, image_user: &str, config: &ContainerConfig) -> Result<LinuxContainerUser> {
        let (passwd, group) = tokio::try_join!(self.file_of(id, "/etc/passwd"), self.file_of(id, "/etc/group"))?;
        user::resolve_in(&passwd, &group, image_user, &config.linux.security_context)
    }

    /// A small text file of a container; empty when it has none.
    async fn file_of(&self, id: &str, path: &str) -> Result<String> {
        let options = DownloadFromContainerOptions { path: path.to_owned() };
        let mut stream = std::pin::pin!(self.client.download_from_container(id, Some(options)));
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next().await {
            match chunk.map_err(|error| explain("read file of container", error)) {
                Ok(chunk) if bytes.len() < 4 << 20 => bytes.extend_from_slice(&chunk),
                Ok(_) => break,
                Err(error) if error.is_not_found() => return Ok(String::new()),
                Err(error) => return Err(error),
            }
        }
        let mut text = String::new();
        if let Some(entry) = tar::Archive::new(bytes.as_slice()).entries().context(|| "read file of container")?.next() {
            let mut entry = entry.context(|| "read file of container")?;
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut content).context(|| "read file of container")?;
            text = String::from_utf8_lossy(&content).into_owned();
        }
        Ok(text)
    }

    async fn start(&self, id: &str) -> Result<()> {
        let found = self.container(id).await?;
        match status(&found)?.state {
            ContainerState::Created => {}
            state => return Err(Error::FailedPrecondition(format!("container {id} is {state:?}, not created"))),
        }
        let record: ContainerRecord = record(&found)?;
        self.client.start_container(id, None).await.map_err(|error| explain("start container", error))?;
        self.follow_log(id, &record, None)
    }

    async fn signal(&self, id: &str, signal: &str) -> Result<()> {
        let options = KillContainerOptions { signal: signal.to_owned() };
        match self.client.kill_container(id, Some(options)).await.map_err(|error| explain("signal container", error)) {
            // It is not running, or gone.
            Err(Error::FailedPrecondition(_) | Error::NotFound { .. }) => Ok(()),
            result => result,
        }
    }

    /// Waits for a container's end; says whether it came.
    async fn wait(&self, id: &str, limit: Duration) -> Result<bool> {
        let options = WaitContainerOptions { condition: "not-running".to_owned() };
        let mut stream = std::pin::pin!(self.client.wait_container(id, Some(options)));
        match timeout(limit, stream.next()).await {
            Err(_) => Ok(false),
            // An exit code other than 0 is an error to this client.
            Ok(None | Some(Ok(_)) | Some(Err(ClientError::DockerContainerWaitError { .. }))) => Ok(true),
            Ok(Some(Err(error))) => match explain("wait for container", error) {
                error if error.is_not_found() => Ok(true),
                error => Err(error),
            },
        }
    }

    async fn stop(&self, id: &str, grace: Duration) -> Result<()> {
        let found = match self.container(id).await {
            Err(error) if error.is_not_found() => return Ok(()),
            found => found?,
        };
        if !is_running(&found) {
            return Ok(());
        }
        if !grace.is_zero() {
            let wish = found.config.as_ref().and_then(|config| config.stop_signal.clone()).filter(|one| !one.is_empty());
            self.signal(id, wish.as_deref().unwrap_or("SIGTERM")).await?;
            if self.wait(id, grace).await? {
                return Ok(());
            }
        }
        self.signal(id, "SIGKILL").await?;
        if self.wait(id, KILL_DEADLINE).await? {
            return Ok(());
        }
        Err(Error::DeadlineExceeded { operation: "stop container", timeout: KILL_DEADLINE })
    }

    async fn remove(&self, id: &str) -> Result<()> {
        match self.container(id).await {
            Err(error) if error.is_not_found() => return Ok(()),
            found => found.map(drop)?,
        }
        self.destroy(id).await?;
        self.logs.lock().remove(id);
        self.usage.lock().remove(id);
        self.users.lock().remove(id);
        Ok(())
    }

    async fn stats(&self, found: &ContainerInspectResponse) -> Result<ContainerStats> {
        let status = status(found)?;
        let record: ContainerRecord = record(found)?;
        if status.pid == 0 {
            return Err(Error::FailedPrecondition(format!("container {} is not running", status.id)));
        }
        let pid = status.pid;
        let cgroup = blocking(move || cgroup::stats(&cgroup::path_of(pid)?))
            .await
            .map_err(|_| Error::FailedPrecondition(format!("container {} is not running", status.id)))?;
        let used_bytes = self.layer_bytes(&status.id).await?;
        Ok(ContainerStats {
            id: status.id,
            pod_sandbox_id: status.pod_sandbox_id,
            metadata: record.config.metadata,
            labels: record.config.labels,
            timestamp: Timestamp::now(),
            cgroup,
            writable_layer: FilesystemUsage { mountpoint: "/var/lib/docker".into(), used_bytes, inodes_used: 0 },
        })
    }

    async fn layer_bytes(&self, id: &str) -> Result<u64> {
        let now = Instant::now();
        if let Some((at, bytes)) = self.usage.lock().get(id).copied()
            && now.duration_since(at) < USAGE_AGE
        {
            return Ok(bytes);
        }
        let options = InspectContainerOptions { size: true };
        let found =
            self.client.inspect_container(id, Some(options)).await.map_err(|error| explain("inspect container", error))?;
        let bytes = found.size_rw.unwrap_or(0).max(0) as u64;
        self.usage.lock().insert(id.to_owned(), (now, bytes));
        Ok(bytes)
    }

    async fn sandbox_stats(&self, found: &ContainerInspectResponse) -> Result<PodSandboxStats> {
        let record: SandboxRecord = record(found)?;
        let cgroup = blocking(move || cgroup::stats(&record.cgroup_parent)).await?;
        Ok(PodSandboxStats {
            id: found.id.clone().unwrap_or_default(),
            metadata: record.config.metadata,
            labels: record.config.labels,
            timestamp: Timestamp::now(),
            cgroup,
            pid: pid(found),
        })
    }

    async fn exec(&self, request: &ExecRequest, streams: Streams) -> Result<i32> {
        let found = self.container(&request.container_id).await?;
        if !is_running(&found) {
            return Err(Error::FailedPrecondition(format!("container {} is not running", request.container_id)));
        }
        if request.cmd.is_empty() {
            return Err(Error::InvalidArgument("no command to exec".to_owned()));
        }
        let Streams { stdin, stdout, stderr, mut resize } = streams;
        let options = CreateExecOptions {
            attach_stdin: Some(stdin.is_some()),
            // Attached in any case, or the end would not be seen.
            attach_stdout: Some(true),
            attach_stderr: Some(!request.tty),
            tty: Some(request.tty),
            cmd: Some(request.cmd.clone()),
            ..CreateExecOptions::default()
        };
        let failed = |error| explain("exec", error);
        let exec = self.client.create_exec(&request.container_id, options).await.map_err(failed)?.id;
        let start = StartExecOptions { detach: false, tty: request.tty, output_capacity: None };
        let StartExecResults::Attached { output, input } = self.client.start_exec(&exec, Some(start)).await.map_err(failed)?
        else {
            return Err(Error::internal("exec", "Docker did not attach"));
        };
        // Docker can't kill a command, but its process can be killed.
        let guard = KillOnDrop::default();
        let resizing = async {
            while let Some(sizes) = &mut resize
                && let Some(size) = sizes.recv().await
            {
                let options = ResizeExecOptions { h: i32::from(size.height), w: i32::from(size.width) };
                // The command may just have ended.
                let _ = self.client.resize_exec(&exec, options).await;
            }
        };
        let finding = async {
            // Docker answers before the process is there.
            for _ in 0..FIND_TRIES {
                match self.client.inspect_exec(&exec).await.map(|found| found.pid) {
                    Ok(Some(pid)) if pid > 0 => return guard.arm(pid as i32),
                    _ => tokio::time::sleep(FIND_PAUSE).await,
                }
            }
        };
        let beside = async {
            tokio::join!(resizing, finding);
        };
        carry(output, input, stdin, stdout, stderr, beside).await.map_err(failed)?;
        let ended = self.client.inspect_exec(&exec).await.map_err(failed)?;
        guard.disarm();
        Ok(ended.exit_code.unwrap_or(255) as i32)
    }

    async fn attach(&self, id: &str, streams: Streams) -> Result<()> {
        let found = self.container(id).await?;
        if !is_running(&found) {
            return Err(Error::FailedPrecondition(format!("container {id} is not running")));
        }
        let Streams { stdin, stdout, stderr, mut resize } = streams;
        let options = AttachContainerOptions {
            stream: true,
            stdin: stdin.is_some(),
            stdout: true,
            stderr: true,
            ..AttachContainerOptions::default()
        };
        let failed = |error| explain("attach", error);
        let attached = self.client.attach_container(id, Some(options)).await.map_err(failed)?;
        let resizing = async {
            while let Some(sizes) = &mut resize
                && let Some(size) = sizes.recv().await
            {
                let options = ResizeContainerTTYOptions { h: i32::from(size.height), w: i32::from(size.width) };
                // The container may just have ended.
                let _ = self.client.resize_container_tty(id, options).await;
            }
        };
        carry(attached.output, attached.input, stdin, stdout, stderr, resizing).await.map_err(failed)
    }

    async fn inspect_image(&self, name: &str) -> Result<Option<Image>> {
        let found = match self.client.inspect_image(&docker_name(name)).await {
            Ok(found) => found,
            Err(error) => return not_found_is_none(explain("inspect image", error)),
        };
        let config = found.config.unwrap_or_default();
        let normal = |list: Option<Vec<String>>| {
            let mut names: Vec<String> = list
                .unwrap_or_default()
                .iter()
                .filter_map(|name| name.parse::<Reference>().ok())
                .map(|reference| reference.to_string())
                .collect();
            names.sort();
            names
        };
        let user = config.user.clone().unwrap_or_default();
        let name = user.split(':').next().unwrap_or_default();
        let uid = name.parse().ok();
        Ok(Some(Image {
            id: found.id.unwrap_or_default(),
            repo_tags: normal(found.repo_tags),
            repo_digests: normal(found.repo_digests),
            size_bytes: found.size.unwrap_or(0).max(0) as u64,
            uid,
            username: if uid.is_none() { name.to_owned() } else { String::new() },
            pinned: false,
            config: ImageConfig {
                user,
                env: config.env.unwrap_or_default(),
                entrypoint: config.entrypoint.unwrap_or_default(),
                cmd: config.cmd.unwrap_or_default(),
                working_dir: config.working_dir.unwrap_or_default(),
                volumes: config.volumes.unwrap_or_default(),
                exposed_ports: config.exposed_ports.unwrap_or_default(),
                labels: config.labels.unwrap_or_default().into_iter().collect(),
                stop_signal: config.stop_signal.unwrap_or_default(),
            },
        }))
    }

    async fn load(&self, archive: &Path) -> Result<Vec<Image>> {
        let file = tokio::fs::File::open(archive).await.context(|| format!("open {}", archive.display()))?;
        let chunks = tokio_util::io::ReaderStream::with_capacity(file, 256 << 10);
        let options = ImportImageOptions { quiet: true, ..ImportImageOptions::default() };
        let mut progress = std::pin::pin!(self.client.import_image_stream(options, chunks, None));
        let mut names = Vec::new();
        let failed = |text: String| Error::InvalidArgument(format!("load image archive {}: {text}", archive.display()));
        loop {
            let step = timeout(PROGRESS_DEADLINE, progress.next())
                .await
                .map_err(|_| Error::DeadlineExceeded { operation: "load image", timeout: PROGRESS_DEADLINE })?;
            let Some(step) = step else { break };
            let step = step.map_err(|error| failed(error.to_string()))?;
            if let Some(message) = step.error_detail.and_then(|detail| detail.message) {
                return Err(failed(message));
            }
            for line in step.stream.unwrap_or_default().lines() {
                let name = line.strip_prefix("Loaded image: ").or_else(|| line.strip_prefix("Loaded image ID: "));
                names.extend(name.map(|name| name.trim().to_owned()));
            }
        }
        let mut images = Vec::new();
        for name in &names {
            images.extend(self.inspect_image(name).await?);
        }
        if images.is_empty() {
            return Err(failed("it has no image".to_owned()));
        }
        Ok(images)
    }

    async fn pull(&self, image: &str, auth: &RegistryAuth) -> Result<String> {
        let reference: Reference = image.parse()?;
        let credentials = match auth {
            RegistryAuth::Anonymous => None,
            RegistryAuth::Basic { username, password } => Some(DockerCredentials {
                username: Some(username.clone()),
                password: Some(password.clone()),
                serveraddress: Some(reference.registry.clone()),
                ..DockerCredentials::default()
            }),
            RegistryAuth::Bearer(token) => {
                Some(DockerCredentials { registrytoken: Some(token.clone()), ..DockerCredentials::default() })
            }
        };
        let tag = reference.digest.clone().or_else(|| reference.tag.clone());
        let options = CreateImageOptions { from_image: Some(reference.name()), tag, ..CreateImageOptions::default() };
        let mut progress = std::pin::pin!(self.client.create_image(Some(options), None, credentials));
        loop {
            let step = timeout(PROGRESS_DEADLINE, progress.next())
                .await
                .map_err(|_| Error::DeadlineExceeded { operation: "pull image", timeout: PROGRESS_DEADLINE })?;
            let message = match step {
                None => break,
                Some(Ok(step)) => step.error_detail.and_then(|detail| detail.message),
                Some(Err(error)) => Some(error.to_string()),
            };
            if let Some(message) = message {
                return Err(explain_pull(&reference, message));
            }
        }
        let found = self.inspect_image(&reference.to_string()).await?.ok_or_else(|| Error::not_found("image", image))?;
        let own = format!("{}@", reference.name());
        let digest = found.repo_digests.iter().find(|digest| digest.starts_with(&own)).or(found.repo_digests.first());
        Ok(digest.cloned().unwrap_or(found.id))
    }
}

/// Copies streams of an exec or attach until the output ends.
async fn carry(
    mut output: Pin<Box<dyn Stream<Item = std::result::Result<LogOutput, ClientError>> + Send>>,
    mut input: Pin<Box<dyn AsyncWrite + Send>>,
    stdin: Option<Box<dyn tokio::io::AsyncRead + Send + Unpin>>,
    mut stdout: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    mut stderr: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    resizing: impl Future<Output = ()>,
) -> std::result::Result<(), ClientError> {
    let feeding = async {
        if let Some(mut stdin) = stdin {
            let mut buffer = vec![0; 32 << 10];
            while let Ok(count) = stdin.read(&mut buffer).await {
                if count == 0 || input.write_all(&buffer[..count]).await.is_err() || input.flush().await.is_err() {
                    break;
                }
            }
            // The other side may have ended first.
            let _ = input.shutdown().await;
        }
        std::future::pending::<()>().await
    };
    let copying = async {
        while let Some(item) = output.next().await {
            let (slot, bytes): (_, Bytes) = match item? {
                LogOutput::StdErr { message } => (&mut stderr, message),
                LogOutput::StdOut { message } | LogOutput::Console { message } | LogOutput::StdIn { message } => {
                    (&mut stdout, message)
                }
            };
            if let Some(writer) = slot
                && (writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err())
            {
                // The client has gone; the rest is read and dropped.
                *slot = None;
            }
        }
        Ok(())
    };
    let resizing = async {
        resizing.await;
        std::future::pending::<()>().await
    };
    let result = tokio::select! {
        result = copying => result,
        () = feeding => Ok(()),
        () = resizing => Ok(()),
    };
    for writer in [&mut stdout, &mut stderr].into_iter().flatten() {
        let _ = writer.shutdown().await;
    }
    result
}

/// Kills an exec's process unless it has ended.
#[derive(Default)]
struct KillOnDrop(Mutex<Option<(i32, u64)>>);

impl KillOnDrop {
    fn arm(&self, pid: i32) {
        *self.0.lock() = process_started(pid).map(|started| (pid, started));
    }

    fn disarm(&self) {
        *self.0.lock() = None;
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some((pid, started)) = *self.0.lock()
            && process_started(pid) == Some(started)
        {
            // It may end at this very moment.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

fn label<'a>(found: &'a ContainerInspectResponse, key: &str) -> Option<&'a str> {
    found.config.as_ref()?.labels.as_ref()?.get(key).map(String::as_str)
}

fn record<T: for<'de> Deserialize<'de>>(found: &ContainerInspectResponse) -> Result<T> {
    let text = label(found, RECORD).unwrap_or_default();
    serde_json::from_str(text).context(|| format!("parse record of container {}", found.id.clone().unwrap_or_default()))
}

fn created_at(record: &str) -> Option<Timestamp> {
    serde_json::from_str::<serde_json::Value>(record).ok()?["created_at"].as_str()?.parse().ok()
}

fn is_running(found: &ContainerInspectResponse) -> bool {
    found.state.as_ref().and_then(|state| state.running).unwrap_or(false)
}

fn pid(found: &ContainerInspectResponse) -> i32 {
    if is_running(found) { found.state.as_ref().and_then(|state| state.pid).unwrap_or(0) as i32 } else { 0 }
}

fn netns(pid: i32) -> PathBuf {
    format!("/proc/{pid}/ns/net").into()
}

fn reason(exit_code: i32, oom_killed: bool) -> &'static str {
    match exit_code {
        0 => "Completed",
        _ if oom_killed => "OOMKilled",
        _ => "Error",
    }
}

/// Docker's time stamps; the year 1 is "never".
fn stamp(text: &Option<String>) -> Option<Timestamp> {
    text.as_ref()?.parse::<Timestamp>().ok().filter(|at| at.as_second() > 0)
}

/// All but the user, which [`Inner::status`] knows.
fn status(found: &ContainerInspectResponse) -> Result<ContainerStatus> {
    let record: ContainerRecord = record(found)?;
    let state = found.state.clone().unwrap_or_default();
    let host = found.host_config.clone().unwrap_or_default();
    let error = state.error.clone().unwrap_or_default();
    let exit_code = state.exit_code.unwrap_or(0) as i32;
    let (phase, reason, exit_code) = match state.status {
        // A start that failed leaves it "created" with an error.
        Some(ContainerStateStatusEnum::CREATED) if !error.is_empty() => {
            (ContainerState::Exited, "ContainerCannotRun", exit_code.max(1))
        }
        Some(ContainerStateStatusEnum::CREATED) => (ContainerState::Created, "", 0),
        Some(ContainerStateStatusEnum::RUNNING | ContainerStateStatusEnum::PAUSED | ContainerStateStatusEnum::RESTARTING) => {
            (ContainerState::Running, "", 0)
        }
        _ => (ContainerState::Exited, reason(exit_code, state.oom_killed.unwrap_or(false)), exit_code),
    };
    let exited = phase == ContainerState::Exited;
    // Docker may tell of an end just before the start that it noted late.
    let finished_at = stamp(&state.finished_at).max(stamp(&state.started_at).filter(|_| exited));
    let mut resources = record.config.linux.resources.clone();
    // These change by updates.
    let now = |old: &mut i64, new: Option<i64>| *old = new.filter(|value| *value != 0).unwrap_or(*old);
    now(&mut resources.memory_limit_in_bytes, host.memory);
    now(&mut resources.cpu_quota, host.cpu_quota);
    resources.cpu_shares = host.cpu_shares.filter(|value| *value > 0).map_or(resources.cpu_shares, |value| value as u64);
    resources.cpu_period = host.cpu_period.filter(|value| *value > 0).map_or(resources.cpu_period, |value| value as u64);
    Ok(ContainerStatus {
        id: found.id.clone().unwrap_or_default(),
        pod_sandbox_id: label(found, SANDBOX).unwrap_or_default().to_owned(),
        metadata: record.config.metadata,
        state: phase,
        created_at: record.created_at,
        started_at: stamp(&state.started_at),
        finished_at: if exited { finished_at.or(Some(record.created_at)) } else { None },
        exit_code,
        signal: if exited && exit_code > 128 { exit_code - 128 } else { 0 },
        image: record.config.image,
        image_ref: record.image_ref,
        image_id: found.image.clone().unwrap_or_default(),
        reason: reason.to_owned(),
        message: error,
        pid: pid(found),
        labels: record.config.labels,
        annotations: record.config.annotations,
        mounts: record.config.mounts,
        log_path: record.log_path,
        resources,
        user: LinuxContainerUser::default(),
        stdin: record.config.stdin,
        tty: record.config.tty,
    })
}

fn sandbox_status(found: &ContainerInspectResponse) -> Result<PodSandboxStatus> {
    let record: SandboxRecord = record(found)?;
    let ready = is_running(found);
    let host = record.config.linux.security_context.namespace_options.network == NamespaceMode::Node;
    Ok(PodSandboxStatus {
        id: found.id.clone().unwrap_or_default(),
        metadata: record.config.metadata.clone(),
        state: if ready { PodSandboxState::Ready } else { PodSandboxState::NotReady },
        created_at: record.created_at,
        netns: (ready && !host).then(|| netns(pid(found))),
        pid: pid(found),
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        config: record.config,
    })
}

/// A name as Docker stores it; an ID stays.
fn docker_name(name: &str) -> String {
    match name.parse::<Reference>() {
        Ok(reference) if !name.starts_with("sha256:") => match &reference.digest {
            Some(digest) => format!("{}@{digest}", reference.name()),
            None => reference.to_string(),
        },
        _ => name.to_owned(),
    }
}

fn not_found_is_none<T>(error: Error) -> Result<Option<T>> {
    if error.is_not_found() { Ok(None) } else { Err(error) }
}

fn explain(what: &'static str, error: ClientError) -> Error {
    match error {
        ClientError::DockerResponseServerError { status_code, message } => match status_code {
            404 => Error::not_found("container", message),
            409 => Error::FailedPrecondition(format!("{what}: {message}")),
            400 => Error::InvalidArgument(format!("{what}: {message}")),
            _ => Error::internal(what, message),
        },
        ClientError::RequestTimeoutError => Error::DeadlineExceeded { operation: what, timeout: CALL_DEADLINE },
        error @ (ClientError::HyperResponseError { .. } | ClientError::IOError { .. } | ClientError::HttpClientError { .. }) => {
            Error::unavailable(what, error)
        }
        error => Error::internal(what, error),
    }
}

/// Docker tells registries' errors only in words.
fn explain_pull(reference: &Reference, message: String) -> Error {
    let lower = message.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if has(&["unauthorized", "authentication required", "no basic auth", "denied", "forbidden"]) {
        return Error::Unauthenticated(format!("failed to pull image {reference}: authorization failed: {message}"));
    }
    if has(&["manifest unknown", "not found", "name unknown"]) {
        return Error::NotFound { what: "image", id: reference.to_string() };
    }
    Error::unavailable(format!("failed to pull image {reference}"), message)
}

#[async_trait]
impl Runtime for Docker {
    async fn version(&self) -> Result<Version> {
        let found = with_deadline("version", CALL_DEADLINE, async {
            self.0.client.version().await.map_err(|error| explain("version", error))
        });
        Ok(Version {
            runtime_name: "docker".to_owned(),
            runtime_version: found.await?.version.unwrap_or_default(),
            runtime_api_version: "v1".to_owned(),
        })
    }

    async fn status(&self) -> Result<Vec<RuntimeCondition>> {
        let ping = timeout(Duration::from_secs(10), self.0.client.ping()).await;
        let (status, message) = match ping {
            Ok(Ok(_)) => (true, String::new()),
            Ok(Err(error)) => (false, error.to_string()),
            Err(_) => (false, "Docker does not answer".to_owned()),
        };
        let reason = if status { String::new() } else { "DockerDaemonNotReady".to_owned() };
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
        with_deadline("pod sandbox status", CALL_DEADLINE, async { sandbox_status(&self.0.sandbox(id).await?) }).await
    }

    async fn list_pod_sandboxes(&self, filter: &PodSandboxFilter) -> Result<Vec<PodSandboxStatus>> {
        let list = with_deadline("list pod sandboxes", CALL_DEADLINE, self.0.list("sandbox", &[])).await?;
        let mut found = Vec::new();
        for one in &list {
            let status = sandbox_status(one)?;
            if filter.id.as_ref().is_none_or(|id| *id == status.id)
                && filter.state.is_none_or(|state| state == status.state)
                && has_labels(&status.labels, &filter.label_selector)
            {
                found.push(status);
            }
        }
        Ok(found)
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
        with_deadline("container status", CALL_DEADLINE, async { self.0.status(&self.0.container(id).await?) }).await
    }

    async fn list_containers(&self, filter: &ContainerFilter) -> Result<Vec<ContainerStatus>> {
        let list = with_deadline("list containers", CALL_DEADLINE, self.0.list("container", &[])).await?;
        let all: Vec<ContainerStatus> = list.iter().map(|one| self.0.status(one)).collect::<Result<_>>()?;
        Ok(all.into_iter().filter(|one| selected(one, filter)).collect())
    }

    async fn update_container_resources(&self, id: &str, resources: &LinuxContainerResources) -> Result<()> {
        let body = config::update(resources)?;
        with_deadline("update container resources", CALL_DEADLINE, async {
            self.0.container(id).await?;
            self.0.client.update_container(id, body).await.map_err(|error| explain("update container", error))
        })
        .await
    }

    async fn update_pod_sandbox_resources(&self, id: &str, resources: &LinuxContainerResources) -> Result<()> {
        let record: SandboxRecord = record(&self.0.sandbox(id).await?)?;
        if record.config.linux.cgroup_parent.is_empty() {
            return Err(Error::InvalidArgument("resources of a pod need its cgroup parent".to_owned()));
        }
        let resources = resources.clone();
        blocking(move || cgroup::apply(&record.cgroup_parent, &resources)).await
    }

    async fn reopen_container_log(&self, id: &str) -> Result<()> {
        let found = self.0.container(id).await?;
        if !is_running(&found) {
            return Err(Error::FailedPrecondition(format!("container {id} is not running")));
        }
        let writer = self.0.logs.lock().get(id).cloned();
        match writer {
            Some(writer) => blocking(move || writer.lock().reopen().context(|| "reopen log")).await,
            None => Ok(()),
        }
    }

    async fn exec(&self, request: &ExecRequest, streams: Streams) -> Result<i32> {
        self.0.exec(request, streams).await
    }

    async fn exec_sync(&self, container_id: &str, cmd: &[String], timeout: Duration) -> Result<ExecSyncResponse> {
        let request = ExecRequest { container_id: container_id.to_owned(), cmd: cmd.to_vec(), tty: false };
        collect_output(timeout, |streams| self.0.exec(&request, streams)).await
    }

    async fn attach(&self, container_id: &str, streams: Streams) -> Result<()> {
        self.0.attach(container_id, streams).await
    }

    async fn container_stats(&self, id: &str) -> Result<ContainerStats> {
        with_deadline("container stats", CALL_DEADLINE, async { self.0.stats(&self.0.container(id).await?).await }).await
    }

    async fn list_container_stats(&self, filter: &ContainerFilter) -> Result<Vec<ContainerStats>> {
        let list = with_deadline("list container stats", CALL_DEADLINE, self.0.list("container", &[])).await?;
        let mut found = Vec::new();
        for one in &list {
            if is_running(one) && selected(&status(one)?, filter) {
                match self.0.stats(one).await {
                    Ok(stats) => found.push(stats),
                    // It has ended meanwhile.
                    Err(Error::FailedPrecondition(_) | Error::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(found)
    }

    async fn pod_sandbox_stats(&self, id: &str) -> Result<PodSandboxStats> {
        let found = self.0.sandbox(id).await?;
        self.0.sandbox_stats(&found).await
    }

    async fn list_pod_sandbox_stats(&self, filter: &PodSandboxFilter) -> Result<Vec<PodSandboxStats>> {
        let mut found = Vec::new();
        for one in self.0.list("sandbox", &[]).await?.iter().filter(|one| is_running(one)) {
            let status = sandbox_status(one)?;
            if filter.id.as_ref().is_none_or(|id| *id == status.id) && has_labels(&status.labels, &filter.label_selector) {
                match self.0.sandbox_stats(one).await {
                    Ok(stats) => found.push(stats),
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(found)
    }

    async fn events(&self) -> Result<BoxStream<'static, ContainerEvent>> {
        Ok(event_stream(self.0.events.subscribe()))
    }

    async fn list_images(&self, filter: Option<&ImageSpec>) -> Result<Vec<Image>> {
        if let Some(spec) = filter {
            return Ok(self.0.inspect_image(&spec.image).await?.into_iter().collect());
        }
        let list = self.0.client.list_images(None::<ListImagesOptions>).await.map_err(|error| explain("list images", error))?;
        let mut found = Vec::new();
        for summary in list {
            found.extend(self.0.inspect_image(&summary.id).await?);
        }
        Ok(found)
    }

    async fn image_status(&self, image: &ImageSpec) -> Result<Option<Image>> {
        with_deadline("image status", CALL_DEADLINE, self.0.inspect_image(&image.image)).await
    }

    async fn pull_image(&self, image: &ImageSpec, auth: &RegistryAuth) -> Result<String> {
        self.0.pull(&image.image, auth).await
    }

    async fn remove_image(&self, image: &ImageSpec) -> Result<()> {
        let Some(found) = self.0.inspect_image(&image.image).await? else { return Ok(()) };
        let by_id = found.id == image.image || found.id.strip_prefix("sha256:") == Some(image.image.as_str());
        let options = RemoveImageOptions { force: by_id, ..RemoveImageOptions::default() };
        let name = docker_name(&image.image);
        match self.0.client.remove_image(&name, Some(options), None).await.map_err(|error| explain("remove image", error)) {
            Err(error) if error.is_not_found() => Ok(()),
            result => result.map(drop),
        }
    }

    async fn load_image(&self, archive: &Path) -> Result<Vec<Image>> {
        self.0.load(archive).await
    }

    async fn image_fs_info(&self) -> Result<ImageFsInfo> {
        let failed = |error| explain("image filesystem info", error);
        with_deadline("image filesystem info", CALL_DEADLINE, async {
            let root =
                self.0.client.info().await.map_err(failed)?.docker_root_dir.unwrap_or_else(|| "/var/lib/docker".to_owned());
            let images = self.0.client.list_images(None::<ListImagesOptions>).await.map_err(failed)?;
            let image_bytes = images.iter().map(|image| image.size.max(0) as u64).sum();
            let mut container_bytes = 0;
            for one in self.0.list("container", &[]).await? {
                container_bytes += self.0.layer_bytes(&one.id.unwrap_or_default()).await.unwrap_or(0);
            }
            let stat = nix::sys::statvfs::statvfs(root.as_str()).context(|| format!("stat {root}"))?;
            let part = |used_bytes| FilesystemUsage { mountpoint: root.clone().into(), used_bytes, inodes_used: 0 };
            Ok(ImageFsInfo {
                image: part(image_bytes),
                container: part(container_bytes),
                capacity_bytes: stat.blocks() * stat.fragment_size(),
                available_bytes: stat.blocks_available() * stat.fragment_size(),
                inodes: stat.files(),
                inodes_free: stat.files_available(),
            })
        })
        .await
    }
}

fn selected(one: &ContainerStatus, filter: &ContainerFilter) -> bool {
    filter.id.as_ref().is_none_or(|id| *id == one.id)
        && filter.pod_sandbox_id.as_ref().is_none_or(|id| *id == one.pod_sandbox_id)
        && filter.state.is_none_or(|state| state == one.state)
        && has_labels(&one.labels, &filter.label_selector)
}
