//! The [`Runtime`] trait.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use tokio::io::{AsyncReadExt, DuplexStream, duplex};
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::types::EXEC_SYNC_LIMIT_BYTES;
use crate::types::{
    ContainerConfig, ContainerEvent, ContainerFilter, ContainerStats, ContainerStatus, ExecRequest, ExecSyncResponse, Image,
    ImageFsInfo, ImageSpec, LinuxContainerResources, PodSandbox, PodSandboxConfig, PodSandboxFilter, PodSandboxStats,
    PodSandboxStatus, RegistryAuth, RuntimeCondition, Streams, Version,
};

/// Runs pods' sandboxes and containers and keeps images: CRI v1's `RuntimeService` and `ImageService` as one trait.
///
/// IDs are the runtime's own. Every call but [`exec`](Self::exec), [`attach`](Self::attach) and [`events`](Self::events),
/// which last as long as what they follow, ends within a deadline: that of its argument plus a margin, or a fixed one. What
/// was made outlives this value and its process; a new one over the same state directory or daemon sees it all.
///
/// The order for a pod: `run_pod_sandbox`, network, then for each container `pull_image`, `create_container`,
/// `start_container`. Stop and remove calls are idempotent; removing what is not there succeeds.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Names the runtime and its version.
    async fn version(&self) -> Result<Version>;

    /// Whether the runtime can take work now: the condition `RuntimeReady`.
    async fn status(&self) -> Result<Vec<RuntimeCondition>>;

    /// Makes and starts a sandbox: cgroup parent, namespaces and the process that holds them. The network namespace has
    /// only a loopback interface, which is up.
    ///
    /// # Errors
    /// [`AlreadyExists`](crate::Error::AlreadyExists) when the same pod UID and attempt has one.
    async fn run_pod_sandbox(&self, config: &PodSandboxConfig) -> Result<PodSandbox>;

    /// Kills its containers and ends the sandbox. Detach the network first.
    async fn stop_pod_sandbox(&self, id: &str) -> Result<()>;

    /// Removes the sandbox and its containers, running ones forcibly.
    async fn remove_pod_sandbox(&self, id: &str) -> Result<()>;

    /// Tells one sandbox.
    async fn pod_sandbox_status(&self, id: &str) -> Result<PodSandboxStatus>;

    /// Lists sandboxes, oldest first.
    async fn list_pod_sandboxes(&self, filter: &PodSandboxFilter) -> Result<Vec<PodSandboxStatus>>;

    /// Makes a container in a ready sandbox and returns its ID.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) for the sandbox or image; [`InvalidArgument`](crate::Error::InvalidArgument) and
    /// [`Unsupported`](crate::Error::Unsupported) for what can't work.
    async fn create_container(&self, pod_sandbox_id: &str, config: &ContainerConfig) -> Result<String>;

    /// Starts a created container.
    async fn start_container(&self, id: &str) -> Result<()>;

    /// Sends the stop signal, waits up to `timeout`, then kills. Zero kills at once. Returns when it is over.
    async fn stop_container(&self, id: &str, timeout: Duration) -> Result<()>;

    /// Removes a container, a running one forcibly. Its log stays.
    async fn remove_container(&self, id: &str) -> Result<()>;

    /// Tells one container.
    async fn container_status(&self, id: &str) -> Result<ContainerStatus>;

    /// Lists containers, oldest first.
    async fn list_containers(&self, filter: &ContainerFilter) -> Result<Vec<ContainerStatus>>;

    /// Changes the limits of a created or running container; zero and empty fields stay as they are.
    async fn update_container_resources(&self, id: &str, resources: &LinuxContainerResources) -> Result<()>;

    /// Changes the limits of the pod's cgroup.
    async fn update_pod_sandbox_resources(&self, id: &str, resources: &LinuxContainerResources) -> Result<()>;

    /// Makes the log writer open its file anew, after someone else moved it away.
    async fn reopen_container_log(&self, id: &str) -> Result<()>;

    /// Runs a command in a running container and returns its exit code (128 + signal) when it and its output have ended.
    /// Dropping the future kills the command.
    async fn exec(&self, request: &ExecRequest, streams: Streams) -> Result<i32>;

    /// Runs a command with its output collected; at the timeout it is killed.
    ///
    /// # Errors
    /// [`DeadlineExceeded`](crate::Error::DeadlineExceeded) at `timeout`; zero means none.
    async fn exec_sync(&self, container_id: &str, cmd: &[String], timeout: Duration) -> Result<ExecSyncResponse>;

    /// Connects to a running container's own streams, from now on; ends with the container, or when both `streams.stdout`
    /// and `streams.stderr` refuse writes.
    async fn attach(&self, container_id: &str, streams: Streams) -> Result<()>;

    /// What one running container has used.
    async fn container_stats(&self, id: &str) -> Result<ContainerStats>;

    /// What the running containers have used.
    async fn list_container_stats(&self, filter: &ContainerFilter) -> Result<Vec<ContainerStats>>;

    /// What one ready pod has used.
    async fn pod_sandbox_stats(&self, id: &str) -> Result<PodSandboxStats>;

    /// What the ready pods have used.
    async fn list_pod_sandbox_stats(&self, filter: &PodSandboxFilter) -> Result<Vec<PodSandboxStats>>;

    /// What happens from now on. Never ends while the runtime lives; a slow reader gets
    /// [`Lagged`](crate::types::ContainerEventKind::Lagged) and must list again.
    async fn events(&self) -> Result<BoxStream<'static, ContainerEvent>>;

    /// Lists images; of one name only when `filter` is given.
    async fn list_images(&self, filter: Option<&ImageSpec>) -> Result<Vec<Image>>;

    /// Tells one image; `None` when it is not here.
    async fn image_status(&self, image: &ImageSpec) -> Result<Option<Image>>;

    /// Fetches an image and returns its reference (repository digest, else ID). Calls for the same image are joined.
    ///
    /// # Errors
    /// [`Unauthenticated`](crate::Error::Unauthenticated), [`NotFound`](crate::Error::NotFound),
    /// [`Unavailable`](crate::Error::Unavailable); [`DeadlineExceeded`](crate::Error::DeadlineExceeded) when nothing arrives
    /// for a minute.
    async fn pull_image(&self, image: &ImageSpec, auth: &RegistryAuth) -> Result<String>;

    /// Removes an image: by tag only that tag, by ID all its names. Containers that use it keep their layers.
    async fn remove_image(&self, image: &ImageSpec) -> Result<()>;

    /// Loads every image of an OCI-layout or docker-save archive (tar; plain, gzip or zstd) and returns them.
    async fn load_image(&self, archive: &Path) -> Result<Vec<Image>>;

    /// Space taken by images and containers.
    async fn image_fs_info(&self) -> Result<ImageFsInfo>;
}

/// Ends a call that takes too long.
pub(crate) async fn with_deadline<T>(
    operation: &'static str,
    limit: Duration,
    call: impl Future<Output = Result<T>>,
) -> Result<T> {
    match timeout(limit, call).await {
        Ok(result) => result,
        Err(_) => Err(Error::DeadlineExceeded { operation, timeout: limit }),
    }
}

/// Runs a command with its output collected, up to [`EXEC_SYNC_LIMIT_BYTES`] a stream. Zero means no timeout.
pub(crate) async fn collect_output<F: Future<Output = Result<i32>>>(
    limit: Duration,
    run: impl FnOnce(Streams) -> F,
) -> Result<ExecSyncResponse> {
    let (out_reader, out_writer) = duplex(64 << 10);
    let (err_reader, err_writer) = duplex(64 << 10);
    let streams = Streams { stdout: Some(Box::new(out_writer)), stderr: Some(Box::new(err_writer)), ..Streams::default() };
    let all = async {
        let (code, stdout, stderr) = tokio::join!(run(streams), read_limited(out_reader), read_limited(err_reader));
        Ok(ExecSyncResponse { stdout, stderr, exit_code: code? })
    };
    if limit.is_zero() { all.await } else { with_deadline("exec", limit, all).await }
}

async fn read_limited(mut reader: DuplexStream) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count) = reader.read(&mut buffer).await {
        if count == 0 {
            break;
        }
        let room = EXEC_SYNC_LIMIT_BYTES - kept.len();
        kept.extend_from_slice(&buffer[..count.min(room)]);
    }
    kept
}
