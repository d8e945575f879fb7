//! The bench a behaviour runs on: a runtime, an image and shorthands.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use pharos_runtime::image::{BuildFile, BuildImage, build};
use pharos_runtime::types::*;
use pharos_runtime::{Result, Runtime};

pub(crate) type Outcome<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
pub(crate) type Opening = Pin<Box<dyn Future<Output = Result<Arc<dyn Runtime>>> + Send>>;

pub(crate) const IMAGE: &str = "pharos.test/busybox:1";

pub(crate) struct Bench {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) dir: PathBuf,
    pub(crate) cgroup_parent: String,
    open: Box<dyn Fn() -> Opening + Send + Sync>,
    count: u32,
}

/// Commands busybox answers to in the test image.
const APPLETS: &[&str] = &[
    "sh", "sleep", "cat", "echo", "id", "true", "false", "ls", "mount", "hostname", "stty", "tty", "kill", "ps", "dd", "head",
    "seq", "touch", "grep", "env", "pwd", "unshare", "ip", "mkdir", "chmod", "tail", "yes", "wc", "test", "umount", "ifconfig",
    "chroot",
];

impl Bench {
    pub(crate) async fn new(dir: PathBuf, cgroup_parent: String, open: Box<dyn Fn() -> Opening + Send + Sync>) -> Outcome<Self> {
        std::fs::create_dir_all(&dir)?;
        let runtime = open().await?;
        let bench = Self { runtime, dir, cgroup_parent, open, count: 0 };
        let archive = bench.archive("busybox.tar", IMAGE, |_| {})?;
        let images = bench.runtime.load_image(&archive).await?;
        if images.len() != 1 || !images[0].repo_tags.contains(&IMAGE.to_owned()) {
            return Err(format!("loaded {images:?}").into());
        }
        Ok(bench)
    }

    /// Writes an archive of the test image under a name.
    pub(crate) fn archive(&self, file: &str, name: &str, change: impl FnOnce(&mut BuildImage)) -> Outcome<PathBuf> {
        let content = |to: &str, text: &str| BuildFile::Content { to: to.into(), bytes: text.into(), mode: 0o644 };
        let mut image = BuildImage {
            name: name.to_owned(),
            files: vec![
                BuildFile::Copy { from: "/bin/busybox".into(), to: "/bin/busybox".into() },
                content("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102::/home/web:/bin/sh\n"),
                content("/etc/group", "root:x:0:\nweb:x:102:\nlogs:x:7:web\n"),
                BuildFile::Directory { at: "/tmp".into(), mode: 0o1777 },
            ],
            config: ImageConfig {
                env: vec!["PATH=/bin".to_owned(), "FROM_IMAGE=yes".to_owned()],
                cmd: vec!["sh".to_owned(), "-c".to_owned(), "echo from the image".to_owned()],
                ..ImageConfig::default()
            },
        };
        image
            .files
            .extend(APPLETS.iter().map(|name| BuildFile::Link { at: format!("/bin/{name}").into(), target: "busybox".into() }));
        change(&mut image);
        let path = self.dir.join(file);
        build(&image, &path)?;
        Ok(path)
    }

    /// A new runtime over the same state, as after a restart of the process.
    pub(crate) async fn restart(&mut self) -> Outcome {
        self.away(Duration::ZERO).await
    }

    /// No runtime for a while, then a new one.
    pub(crate) async fn away(&mut self, time: Duration) -> Outcome {
        drop(std::mem::replace(&mut self.runtime, Arc::new(Nothing)));
        tokio::time::sleep(time).await;
        self.runtime = (self.open)().await?;
        Ok(())
    }

    pub(crate) fn pod(&mut self) -> PodSandboxConfig {
        self.count += 1;
        let name = format!("pod-{}", self.count);
        PodSandboxConfig {
            metadata: PodSandboxMetadata {
                name: name.clone(),
                uid: format!("uid-{}-{}", std::process::id(), self.count),
                namespace: "default".to_owned(),
                attempt: 0,
            },
            hostname: name.clone(),
            log_directory: self.dir.join("logs").join(&name),
            labels: BTreeMap::from([("suite".to_owned(), "pharos".to_owned())]),
            linux: LinuxPodSandboxConfig {
                cgroup_parent: format!("{}/pod{}", self.cgroup_parent, self.count),
                ..LinuxPodSandboxConfig::default()
            },
            ..PodSandboxConfig::default()
        }
    }

    pub(crate) async fn sandbox(&mut self) -> Outcome<String> {
        let pod = self.pod();
        Ok(self.runtime.run_pod_sandbox(&pod).await?.id)
    }

    /// Makes and starts a container that runs a shell script.
    pub(crate) async fn start(&self, sandbox: &str, script: &str, change: impl FnOnce(&mut ContainerConfig)) -> Outcome<String> {
        let mut config = shell(script);
        change(&mut config);
        let id = self.runtime.create_container(sandbox, &config).await?;
        self.runtime.start_container(&id).await?;
        Ok(id)
    }

    /// Waits for a container's end.
    pub(crate) async fn ended(&self, id: &str) -> Outcome<ContainerStatus> {
        for _ in 0..600 {
            let status = self.runtime.container_status(id).await?;
            if status.state == ContainerState::Exited {
                return Ok(status);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(format!("container {id} does not end").into())
    }

    /// Runs a script in a new pod to its end, and returns status and log lines without their stamps.
    pub(crate) async fn run(
        &mut self,
        script: &str,
        change: impl FnOnce(&mut ContainerConfig),
    ) -> Outcome<(ContainerStatus, Vec<String>)> {
        let sandbox = self.sandbox().await?;
        let id = self.start(&sandbox, script, change).await?;
        let status = self.ended(&id).await?;
        let lines = self.log(&status).await?;
        Ok((status, lines))
    }

    /// Log lines without time stamps.
    pub(crate) async fn log(&self, status: &ContainerStatus) -> Outcome<Vec<String>> {
        // Docker's log is written by a follower, which may be a moment behind.
        let mut text = String::new();
        for _ in 0..50 {
            let new = std::fs::read_to_string(&status.log_path).unwrap_or_default();
            if !new.is_empty() && new == text {
                break;
            }
            text = new;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut lines = Vec::new();
        for line in text.lines() {
            let (stamp, rest) = line.split_once(' ').ok_or_else(|| format!("log line {line:?}"))?;
            stamp.parse::<jiff::Timestamp>()?;
            lines.push(rest.to_owned());
        }
        Ok(lines)
    }

    pub(crate) async fn exec(&self, id: &str, script: &str) -> Outcome<(i32, String)> {
        let command = ["sh".to_owned(), "-c".to_owned(), script.to_owned()];
        let response = self.runtime.exec_sync(id, &command, Duration::from_secs(20)).await?;
        let text = String::from_utf8_lossy(&response.stdout).into_owned() + &String::from_utf8_lossy(&response.stderr);
        Ok((response.exit_code, text))
    }

    /// Removes all pods.
    pub(crate) async fn clear(&mut self) -> Outcome {
        let filter = PodSandboxFilter {
            label_selector: BTreeMap::from([("suite".to_owned(), "pharos".to_owned())]),
            ..PodSandboxFilter::default()
        };
        for sandbox in self.runtime.list_pod_sandboxes(&filter).await? {
            self.runtime.remove_pod_sandbox(&sandbox.id).await?;
        }
        Ok(())
    }
}

pub(crate) fn shell(script: &str) -> ContainerConfig {
    ContainerConfig {
        metadata: ContainerMetadata { name: format!("c{}", script.len()), attempt: 0 },
        image: IMAGE.into(),
        command: vec!["sh".to_owned(), "-c".to_owned()],
        args: vec![script.to_owned()],
        log_path: PathBuf::from(format!("c{}/0.log", script.len())),
        ..ContainerConfig::default()
    }
}

pub(crate) fn check(good: bool, what: impl std::fmt::Debug) -> Outcome {
    if good { Ok(()) } else { Err(format!("{what:?}").into()) }
}

/// Mounts, processes and cgroups that are still there.
pub(crate) fn leftovers(dir: &Path) -> Vec<String> {
    let dir = dir.display().to_string();
    let mut left: Vec<String> = std::fs::read_to_string("/proc/self/mounts")
        .unwrap_or_default()
        .lines()
        .filter(|line| line.contains(&dir))
        .map(str::to_owned)
        .collect();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let command = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        if command.contains(&dir) {
            left.push(command);
        }
    }
    left
}

/// Takes away the suite's own directory, mounts and cgroup.
pub(crate) fn sweep(dir: &Path, cgroup: &str) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for point in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)).filter(|point| Path::new(point).starts_with(dir))
    {
        let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
    }
    let _ = std::fs::remove_dir_all(dir);
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        // A cgroup with something in it stays.
        let _ = std::fs::remove_dir(hierarchy.path().join(cgroup.trim_start_matches('/')));
    }
}

/// Stands in while a runtime is dropped.
struct Nothing;

macro_rules! nothing {
    ($($name:ident($($arg:ty),*) -> $out:ty;)*) => {
        #[async_trait::async_trait]
        impl Runtime for Nothing {
            $(async fn $name(&self, $(_: $arg),*) -> Result<$out> { unreachable!("no runtime") })*
        }
    };
}

nothing! {
    version() -> Version;
    status() -> Vec<RuntimeCondition>;
    run_pod_sandbox(&PodSandboxConfig) -> PodSandbox;
    stop_pod_sandbox(&str) -> ();
    remove_pod_sandbox(&str) -> ();
    pod_sandbox_status(&str) -> PodSandboxStatus;
    list_pod_sandboxes(&PodSandboxFilter) -> Vec<PodSandboxStatus>;
    create_container(&str, &ContainerConfig) -> String;
    start_container(&str) -> ();
    stop_container(&str, Duration) -> ();
    remove_container(&str) -> ();
    container_status(&str) -> ContainerStatus;
    list_containers(&ContainerFilter) -> Vec<ContainerStatus>;
    update_container_resources(&str, &LinuxContainerResources) -> ();
    update_pod_sandbox_resources(&str, &LinuxContainerResources) -> ();
    reopen_container_log(&str) -> ();
    exec(&ExecRequest, Streams) -> i32;
    exec_sync(&str, &[String], Duration) -> ExecSyncResponse;
    attach(&str, Streams) -> ();
    container_stats(&str) -> ContainerStats;
    list_container_stats(&ContainerFilter) -> Vec<ContainerStats>;
    pod_sandbox_stats(&str) -> PodSandboxStats;
    list_pod_sandbox_stats(&PodSandboxFilter) -> Vec<PodSandboxStats>;
    events() -> futures::stream::BoxStream<'static, ContainerEvent>;
    list_images(Option<&ImageSpec>) -> Vec<Image>;
    image_status(&ImageSpec) -> Option<Image>;
    pull_image(&ImageSpec, &RegistryAuth) -> String;
    remove_image(&ImageSpec) -> ();
    load_image(&Path) -> Vec<Image>;
    image_fs_info() -> ImageFsInfo;
}
