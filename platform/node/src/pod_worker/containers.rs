use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Container, Pod, Service};
use pharos_client::Regarding;
use pharos_runtime::types::{ContainerState, Image, LinuxContainerResources, PodSandboxStatus};
use tokio::time::Instant;

use super::{Worker, kill::Victim};
use crate::{
    container_config::{self, Parts},
    core::Core,
    env, hosts, images, lifecycle,
    names::{self, Role},
    objects::Objects,
    pod_status::Waiting,
    pod_view::PodView,
    resources,
    volumes::{self, Ready},
};

/// A container that could not be made or started is tried again so soon (`backOffPeriod`).
const FAILED_START: Duration = Duration::from_secs(10);

impl Worker {
    /// Starts a container, or notes why it waits. Returns whether it was started.
    pub(super) async fn start_container(
        &mut self,
        view: &PodView,
        sandbox: &PodSandboxStatus,
        name: &str,
        objects: &Objects,
    ) -> bool {
        let Some((role, container)) = names::find(&self.pod, name) else { return false };
        let regarding = names::regarding(&self.pod, role, name);
        if self.backs_off(view, &container, &regarding) {
            return false;
        }
        let result = self.try_start(view, sandbox, role, &container, &regarding, objects).await;
        let kind = match role {
            Role::Init | Role::Sidecar => "init_container",
            Role::Main => "container",
            Role::Ephemeral => "ephemeral_container",
        };
        self.core.metrics.started_containers.with_label_values(&[kind]).inc();
        match result {
            Ok(()) => {
                self.waiting.remove(name);
                true
            }
            Err(waiting) => {
                if !waiting.reason.contains("Image") {
                    self.look_after(FAILED_START);
                }
                self.core.metrics.started_containers_errors.with_label_values(&[kind, &waiting.reason]).inc();
                self.waiting.insert(name.to_owned(), waiting);
                false
            }
        }
    }

    /// Whether a container that failed must wait before it is started again.
    ///
    /// What counts is the newest instance that had ended when this look began (`doBackOff`). One that is ended now, for a
    /// probe say, still runs in this view: the end before it decides, and the next look counts from its own.
    fn backs_off(&mut self, view: &PodView, container: &Container, regarding: &Regarding) -> bool {
        let name = &container.name;
        let Some(last) = view.instances(name).find(|instance| instance.state == ContainerState::Exited) else { return false };
        let ended = last.finished_at.unwrap_or(last.created_at);
        let now = self.core.clock.now();
        let key = format!("{name}/{}", names::hash(container));
        if let Some((wait, left)) = self.backoffs.waiting(&key, ended, now) {
            let pod = names::display(&self.pod);
            self.core.recorder.warning(regarding, "BackOff", format!("Back-off restarting failed container {name} in pod {pod}"));
            let message = format!("back-off {} restarting failed container={name} pod={pod}", shown(wait));
            self.waiting.insert(name.clone(), Waiting { reason: "CrashLoopBackOff".to_owned(), message });
            self.look_after(left + Duration::from_millis(10));
            return true;
        }
        self.backoffs.next(&key, ended);
        false
    }

    async fn try_start(
        &mut self,
        view: &PodView,
        sandbox: &PodSandboxStatus,
        role: Role,
        container: &Container,
        regarding: &Regarding,
        objects: &Objects,
    ) -> Result<(), Waiting> {
        let core = self.core.clone();
        let fail = |reason: &str, message: String| {
            core.recorder.warning(regarding, "Failed", format!("Error: {message}"));
            Waiting { reason: reason.to_owned(), message }
        };
        let image = self.image(container, regarding, objects).await?;
        self.volume_images(regarding, container, objects).await?;
        let attempt = view.latest(&container.name).map_or(0, |last| last.metadata.attempt + 1);
        let target = self.target(view, &container.name);
        let config = self
            .configure(role, container, attempt, &image, target, objects)
            .await
            .map_err(|e| fail("CreateContainerConfigError", e))?;
        let applied = config.linux.resources.clone();
        let id = core
            .observe("create_container", core.runtime.create_container(&sandbox.id, &config))
            .await
            .map_err(|error| fail("CreateContainerError", error.chain()))?;
        self.applied.insert(id.clone(), applied);
        core.recorder.normal(regarding, "Created", "Container created");
        core.observe("start_container", core.runtime.start_container(&id))
            .await
            .map_err(|error| fail("RunContainerError", error.chain()))?;
        core.recorder.normal(regarding, "Started", "Container started");
        self.post_start(role, container, regarding, &id).await
    }

    async fn image(&mut self, container: &Container, regarding: &Regarding, objects: &Objects) -> Result<Image, Waiting> {
        let reference = container.image.clone().unwrap_or_default();
        self.pull(&reference, container.image_pull_policy.as_deref(), regarding, objects).await
    }

    /// Pulls the images that are mounted as volumes.
    async fn volume_images(&mut self, regarding: &Regarding, container: &Container, objects: &Objects) -> Result<(), Waiting> {
        for mount in container.volume_mounts.iter().flatten() {
            let Some(Ready::Image(reference)) = self.volumes.get(&mount.name).cloned() else { continue };
            let policy = self
                .pod
                .spec
                .iter()
                .flat_map(|spec| spec.volumes.iter().flatten())
                .find(|volume| volume.name == mount.name)
                .and_then(|volume| volume.image.as_ref()?.pull_policy.clone());
            self.pull(&reference, policy.as_deref(), regarding, objects).await?;
        }
        Ok(())
    }

    /// Pulls, unless the pod is to end meanwhile.
    async fn pull(
        &mut self,
        reference: &str,
        policy: Option<&str>,
        regarding: &Regarding,
        objects: &Objects,
    ) -> Result<Image, Waiting> {
        let began = Instant::now();
        let mut news = self.mailbox.clone();
        let (core, pod) = (self.core.clone(), self.pod.clone());
        let ensure = images::ensure(&core, &pod, regarding, reference, policy, objects);
        let ends = async {
            loop {
                if news.wait_for(|u| u.removed || u.evict.is_some() || u.pod.metadata.deletion_timestamp.is_some()).await.is_ok()
                {
                    return;
                }
                std::future::pending::<()>().await;
            }
        };
        let result = tokio::select! {
            result = ensure => result,
            () = ends => return Err(Waiting { reason: "ErrImagePull".to_owned(), message: "pull canceled: the pod is being deleted".to_owned() }),
        };
        self.pulling += began.elapsed();
        result.map_err(|no| {
            // Whatever the reason, and whether the image is the container's own or a volume's (`startContainer`).
            self.core.recorder.warning(regarding, "Failed", format!("Error: {}", no.waiting.reason));
            // Without a back-off of its own: looked at again a little later.
            self.look_after(no.retry_in.unwrap_or(Duration::from_secs(10)) + Duration::from_millis(10));
            no.waiting
        })
    }

    fn target(&self, view: &PodView, name: &str) -> Option<String> {
        let spec = self.pod.spec.as_ref()?;
        let ephemeral = spec.ephemeral_containers.iter().flatten().find(|container| container.name == name)?;
        let target = ephemeral.target_container_name.as_deref().filter(|target| !target.is_empty())?;
        view.latest(target).map(|container| container.id.clone())
    }

    async fn configure(
        &mut self,
        role: Role,
        container: &Container,
        attempt: u32,
        image: &Image,
        target: Option<String>,
        objects: &Objects,
    ) -> Result<pharos_runtime::types::ContainerConfig, String> {
        let ips = self.ips.as_ref().map(|(_, ips)| ips.clone()).unwrap_or_default();
        let services: Vec<Arc<Service>> = self.services().await;
        let variables = env::variables(&self.pod, container, objects, &services, &self.core.place(&ips))?;
        let pod_dir = self.pod_dir();
        let message_dir = pod_dir.join("containers").join(&container.name);
        let message_file = message_dir.join(format!("{:08x}", rand::random::<u32>()));
        let hosts_path = pod_dir.join("etc-hosts");
        let prepare = async {
            tokio::fs::create_dir_all(&message_dir).await?;
            tokio::fs::write(&message_file, b"").await?;
            set_mode(&message_file, 0o666).await?;
            let node = if self.host_network() { tokio::fs::read_to_string("/etc/hosts").await.ok() } else { None };
            let text = hosts::hosts_file(&self.pod, &ips, &self.core.config.cluster_domain, node.as_deref());
            if tokio::fs::read_to_string(&hosts_path).await.ok().as_deref() != Some(&text) {
                tokio::fs::write(&hosts_path, text).await?;
                set_mode(&hosts_path, 0o644).await?;
            }
            std::io::Result::Ok(())
        };
        prepare.await.map_err(|error| format!("prepare files of container {:?}: {error}", container.name))?;
        let parts = Parts {
            pod: &self.pod,
            role,
            container,
            attempt,
            variables,
            volumes: &self.volumes,
            image,
            hosts: Some(&hosts_path),
            message_file: &message_file,
            target,
            config: &self.core.config,
            node_memory: i64::try_from(self.core.machine.memory_bytes).unwrap_or(i64::MAX),
        };
        let sub_paths = pod_dir.join("volume-subpaths");
        container_config::container(&parts, &mut |volume, below, name| {
            volumes::bind_sub_path(volume, below, &sub_paths.join(name))
        })
    }

    async fn services(&self) -> Vec<Arc<Service>> {
        // Variables are written once, so the cache must be whole before the first container starts.
        let _ = tokio::time::timeout(Duration::from_secs(10), self.core.services.synced()).await;
        self.core.services.list()
    }

    async fn post_start(&mut self, role: Role, container: &Container, regarding: &Regarding, id: &str) -> Result<(), Waiting> {
        let Some(hook) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.clone()) else { return Ok(()) };
        let ip = self.ips.as_ref().and_then(|(_, ips)| ips.first()).map(ToString::to_string).unwrap_or_default();
        let core: Arc<Core> = self.core.clone();
        let mut news = self.mailbox.clone();
        let result = tokio::select! {
            result = lifecycle::run(&core, id, &ip, container, &hook) => result,
            changed = news.wait_for(|u| u.removed || u.pod.metadata.deletion_timestamp.is_some()) => {
                drop(changed);
                return Ok(()); // The whole pod is about to end.
            }
        };
        let Err(error) = result else { return Ok(()) };
        tracing::warn!(container = container.name, error, "postStart hook failed");
        core.recorder.warning(regarding, "FailedPostStartHook", "PostStartHook failed");
        let grace = self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
        let pod: Arc<Pod> = self.pod.clone();
        let victim = Victim {
            core,
            pod,
            role,
            container: container.clone(),
            id: id.to_owned(),
            ip,
            message: "FailedPostStartHook".to_owned(),
            runs: true,
            told: false,
        };
        if let Err(error) = victim.kill(grace).await {
            tracing::warn!(error, "cannot end a container whose postStart hook failed");
        }
        Err(Waiting { reason: "PostStartHookError".to_owned(), message: error })
    }

    /// Gives running containers the limits of the spec, if those have changed (in-place resize).
    pub(super) async fn resize(&mut self, view: &PodView) {
        let memory = i64::try_from(self.core.machine.memory_bytes).unwrap_or(i64::MAX);
        self.applied.retain(|id, _| view.containers.iter().any(|container| container.id == *id));
        let pod = self.pod.clone();
        let mut resizing = std::collections::BTreeSet::new();
        let mut resized = false;
        for (role, container) in names::containers(&pod) {
            let Some(latest) = view.latest(&container.name).filter(|c| c.state == ContainerState::Running) else { continue };
            let wanted = resources::of_container(&pod, &container, role, memory);
            // After a restart the runtime tells what is in force.
            let applied = self.applied.entry(latest.id.clone()).or_insert_with(|| LinuxContainerResources {
                cpu_quota: latest.resources.cpu_quota,
                cpu_shares: latest.resources.cpu_shares,
                memory_limit_in_bytes: latest.resources.memory_limit_in_bytes,
                ..wanted.clone()
            });
            let of = |r: &LinuxContainerResources| (r.cpu_quota, r.cpu_shares, r.memory_limit_in_bytes);
            if of(applied) == of(&wanted) {
                continue;
            }
            let mut change = wanted.clone();
            // Zero means "as it is"; taking a limit away must be said.
            if change.cpu_quota == 0 {
                change.cpu_quota = -1;
            }
            change.oom_score_adj = 0;
            if !resized {
                let limits = resources::of_pod_cgroup(&pod, self.core.config.pod_pids_limit);
                if let Some(sandbox) = view.ready_sandbox()
                    && let Err(error) = self.core.runtime.update_pod_sandbox_resources(&sandbox.id, &limits).await
                {
                    tracing::warn!(error = error.chain(), "cannot resize the pod's cgroup");
                }
                resized = true;
            }
            let regarding = names::regarding(&pod, role, &container.name);
            let update = self.core.runtime.update_container_resources(&latest.id, &change);
            match self.core.observe("update_container", update).await {
                Ok(()) => {
                    self.core.recorder.normal(&regarding, "ResizeCompleted", "Container resources were updated in place");
                    self.applied.insert(latest.id.clone(), wanted);
                }
                Err(error) => {
                    self.core.recorder.warning(&regarding, "ResizeError", error.chain());
                    resizing.insert(container.name.clone());
                    self.look_after(Duration::from_secs(30));
                }
            }
        }
        self.resizing = resizing;
    }
}

async fn set_mode(path: &std::path::Path, mode: u32) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    tokio::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).await
}

/// As Go prints whole seconds: `10s`, `1m20s`, `5m0s`.
fn shown(wait: Duration) -> String {
    let seconds = wait.as_secs();
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}
