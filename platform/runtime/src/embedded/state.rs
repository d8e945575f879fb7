//! What the embedded runtime knows: records on disk, and the table of live state built from them.
//!
//! ```text
//! <state>/netns/<sandbox>                    network namespace, mounted
//! <state>/sandboxes/<id>/sandbox.json        [`SandboxRecord`]; next to resolv.conf, hostname, shm/
//! <state>/containers/<id>/container.json     [`ContainerRecord`]; next to config.json, rootfs/, status.json, shim.sock
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};

use crate::embedded::protocol::ShimStatus;
use crate::types::{
    ContainerConfig, ContainerState, ContainerStatus, LinuxContainerUser, PodSandboxConfig, PodSandboxState, PodSandboxStatus,
};

/// A sandbox on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub(crate) id: String,
    pub(crate) config: PodSandboxConfig,
    pub(crate) created_at: Timestamp,
    /// The pause process, and when it started in clock ticks since boot, which tells it from a later one of that number.
    pub(crate) pid: i32,
    pub(crate) pid_started: u64,
    pub(crate) netns: Option<PathBuf>,
    pub(crate) cgroup_parent: String,
    /// Whether it was stopped on purpose.
    pub(crate) stopped: bool,
}

/// A sandbox in memory.
#[derive(Clone, Debug)]
pub(crate) struct Sandbox {
    pub(crate) record: SandboxRecord,
    pub(crate) ready: bool,
    /// Held by whoever changes it.
    pub(crate) turn: Arc<Mutex<()>>,
}

impl Sandbox {
    pub(crate) fn status(&self) -> PodSandboxStatus {
        PodSandboxStatus {
            id: self.record.id.clone(),
            metadata: self.record.config.metadata.clone(),
            state: if self.ready { PodSandboxState::Ready } else { PodSandboxState::NotReady },
            created_at: self.record.created_at,
            netns: self.record.netns.clone().filter(|_| self.ready),
            pid: if self.ready { self.record.pid } else { 0 },
            labels: self.record.config.labels.clone(),
            annotations: self.record.config.annotations.clone(),
            config: self.record.config.clone(),
        }
    }
}

/// A container on disk. How it goes is in `status.json`, which is its shim's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) id: String,
    pub(crate) sandbox_id: String,
    pub(crate) config: ContainerConfig,
    pub(crate) created_at: Timestamp,
    pub(crate) image_id: String,
    pub(crate) image_ref: String,
    pub(crate) user: LinuxContainerUser,
    pub(crate) log_path: PathBuf,
    pub(crate) cgroup: String,
    pub(crate) stop_signal: i32,
    /// The sandbox had the node's network, whatever it is now.
    pub(crate) images_mounted: Vec<PathBuf>,
}

/// How far a container is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Phase {
    Created,
    Running(ShimStatus),
    Exited(ShimStatus),
}

/// A container in memory.
#[derive(Clone, Debug)]
pub(crate) struct Container {
    pub(crate) record: Arc<ContainerRecord>,
    pub(crate) phase: watch::Sender<Phase>,
    /// Limits in force, which updates change.
    pub(crate) resources: crate::types::LinuxContainerResources,
    /// Held by whoever changes it.
    pub(crate) turn: Arc<Mutex<()>>,
}

impl Container {
    pub(crate) fn new(record: ContainerRecord, phase: Phase) -> Self {
        let resources = record.config.linux.resources.clone();
        Self { record: Arc::new(record), phase: watch::Sender::new(phase), resources, turn: Arc::default() }
    }

    pub(crate) fn pid(&self) -> Option<i32> {
        match &*self.phase.borrow() {
            Phase::Running(status) => Some(status.pid),
            _ => None,
        }
    }

    pub(crate) fn status(&self) -> ContainerStatus {
        let (record, phase) = (&self.record, self.phase.borrow().clone());
        let (state, shim) = match phase {
            Phase::Created => (ContainerState::Created, ShimStatus::default()),
            Phase::Running(shim) => (ContainerState::Running, shim),
            Phase::Exited(shim) => (ContainerState::Exited, shim),
        };
        let exited = state == ContainerState::Exited;
        ContainerStatus {
            id: record.id.clone(),
            pod_sandbox_id: record.sandbox_id.clone(),
            metadata: record.config.metadata.clone(),
            state,
            created_at: record.created_at,
            started_at: shim.started_at,
            finished_at: shim.finished_at,
            exit_code: shim.exit_code,
            signal: shim.signal,
            image: record.config.image.clone(),
            image_ref: record.image_ref.clone(),
            image_id: record.image_id.clone(),
            reason: if exited { reason(&shim).to_owned() } else { String::new() },
            message: shim.message.clone(),
            pid: if state == ContainerState::Running { shim.pid } else { 0 },
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
            mounts: record.config.mounts.clone(),
            log_path: record.log_path.clone(),
            resources: self.resources.clone(),
            user: record.user.clone(),
            stdin: record.config.stdin,
            tty: record.config.tty,
        }
    }
}

/// Why a container is over, in kubelet's words.
pub(crate) fn reason(status: &ShimStatus) -> &'static str {
    match status {
        status if status.started_at.is_none() => "StartError",
        status if status.oom_killed && status.exit_code != 0 => "OOMKilled",
        status if status.exit_code == 0 => "Completed",
        _ => "Error",
    }
}

/// All of it. Locked shortly, never across an await.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) sandboxes: BTreeMap<String, Sandbox>,
    pub(crate) containers: BTreeMap<String, Container>,
}

/// When a process started, in clock ticks since boot; `None` when there is no such process, or only what is left of one.
pub(crate) fn process_started(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}
