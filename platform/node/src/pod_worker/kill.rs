use std::{sync::Arc, time::Duration};

use futures::{FutureExt as _, future::join_all};
use k8s_openapi::api::core::v1::{Container, Pod};
use pharos_runtime::types::{ContainerState, ContainerStatus};
use tokio::time::Instant;

use super::{REMOVED_GRACE, Worker};
use crate::{
    actions::{Kill, Probe},
    core::Core,
    lifecycle,
    names::{self, Role},
    pod_view::PodView,
};

/// However little is left of the grace period, a container gets this long (`minimumGracePeriodInSeconds`).
const MINIMUM: Duration = Duration::from_secs(2);

impl Worker {
    fn ip(&self) -> String {
        self.ips.as_ref().and_then(|(_, ips)| ips.first()).map(ToString::to_string).unwrap_or_default()
    }

    /// The grace period in force for the whole pod, in seconds.
    fn grace(&self) -> i64 {
        let spec = self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
        if self.removed || self.failure.as_ref().is_some_and(|failure| failure.reason == "Evicted") {
            return REMOVED_GRACE.min(spec);
        }
        self.pod.metadata.deletion_grace_period_seconds.unwrap_or(spec).max(1)
    }

    /// Ends one container that is to be replaced.
    pub(super) async fn kill_for_restart(&mut self, view: &PodView, kill: &Kill) -> Result<(), String> {
        let Some(status) = view.containers.iter().find(|container| container.id == kill.id) else { return Ok(()) };
        let Some((role, container)) = names::find(&self.pod, &kill.name) else { return Ok(()) };
        let spec = self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
        let own = match kill.by {
            Some(Probe::Liveness) => container.liveness_probe.as_ref().and_then(|p| p.termination_grace_period_seconds),
            Some(Probe::Startup) => container.startup_probe.as_ref().and_then(|p| p.termination_grace_period_seconds),
            None => None,
        };
        self.probers.retain(|id| id != kill.id);
        let victim = Victim {
            core: self.core.clone(),
            pod: self.pod.clone(),
            role,
            container,
            id: status.id.clone(),
            ip: self.ip(),
            message: kill.message.clone(),
            runs: status.state == ContainerState::Running,
            told: false,
        };
        victim.kill(own.unwrap_or(spec)).await
    }

    /// Ends every container, in order. A shorter grace period that comes meanwhile takes effect at once.
    pub(super) async fn kill_all(&mut self) -> Result<(), String> {
        let mut told = false;
        loop {
            let view = self.core.view(names::uid(&self.pod)).await.map_err(|error| error.chain())?;
            let victims = self.victims(&view, told);
            if victims.is_empty() {
                return Ok(());
            }
            told = true;
            self.write_status(&view, false).await;
            let grace = self.grace();
            let mut killing = Box::pin(kill_in_order(victims, grace));
            loop {
                tokio::select! {
                    done = &mut killing => return done,
                    changed = self.mailbox.changed() => {
                        if changed.is_err() {
                            return killing.await;
                        }
                        self.adopt();
                        if self.grace() < grace {
                            break;
                        }
                    }
                    () = self.wake.notified() => {
                        let view = self.core.view(names::uid(&self.pod)).await.map_err(|error| error.chain())?;
                        let running: Vec<String> = view.running().map(|container| container.id.clone()).collect();
                        self.probers.retain(|id| running.iter().any(|running| running == id));
                        self.write_status(&view, false).await;
                    }
                }
            }
        }
    }

    fn victims(&self, view: &PodView, told: bool) -> Vec<Victim> {
        let ip = self.ip();
        let victim = |status: &ContainerStatus| {
            let (role, container) = names::find(&self.pod, &status.metadata.name)
                .unwrap_or_else(|| (Role::Main, Container { name: status.metadata.name.clone(), ..Container::default() }));
            Victim {
                core: self.core.clone(),
                pod: self.pod.clone(),
                role,
                message: format!("Stopping container {}", container.name),
                container,
                id: status.id.clone(),
                ip: ip.clone(),
                runs: true,
                told,
            }
        };
        view.running().map(victim).collect()
    }
}

/// A container to end.
pub(super) struct Victim {
    pub(super) core: Arc<Core>,
    pub(super) pod: Arc<Pod>,
    pub(super) role: Role,
    pub(super) container: Container,
    pub(super) id: String,
    pub(super) ip: String,
    pub(super) message: String,
    pub(super) runs: bool,
    pub(super) told: bool,
}

/// Sidecars end after all others, the last one first, within one grace period.
async fn kill_in_order(victims: Vec<Victim>, grace: i64) -> Result<(), String> {
    let until = Instant::now() + Duration::from_secs(u64::try_from(grace).unwrap_or(0));
    let order: Vec<String> = victims
        .first()
        .map(|victim| names::containers(&victim.pod).into_iter().map(|(_, container)| container.name).collect())
        .unwrap_or_default();
    let (mut sidecars, others): (Vec<_>, Vec<_>) = victims.into_iter().partition(|victim| victim.role == Role::Sidecar);
    join_all(others.into_iter().map(|victim| victim.kill(grace))).await.into_iter().collect::<Result<Vec<()>, _>>()?;
    sidecars.sort_by_key(|victim| std::cmp::Reverse(order.iter().position(|name| *name == victim.container.name)));
    for sidecar in sidecars {
        let left = until.saturating_duration_since(Instant::now()).as_secs();
        sidecar.kill(i64::try_from(left).unwrap_or(0)).await?;
    }
    Ok(())
}

// === impl Victim ===

impl Victim {
    /// Runs the preStop hook, asks the container to end, and kills it when the grace period is over.
    pub(super) async fn kill(self, grace: i64) -> Result<(), String> {
        let regarding = names::regarding(&self.pod, self.role, &self.container.name);
        if !self.told {
            self.core.recorder.normal(&regarding, "Killing", self.message.as_str());
        }
        let mut left = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
        let hook = self.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.clone());
        if let Some(hook) = hook.filter(|_| self.runs && !left.is_zero()) {
            let began = Instant::now();
            let run = lifecycle::run(&self.core, &self.id, &self.ip, &self.container, &hook).boxed();
            match tokio::time::timeout(left, run).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(container = self.container.name, error, "preStop hook failed");
                    self.core.recorder.warning(&regarding, "FailedPreStopHook", "PreStopHook failed");
                }
                Err(_) => {
                    if hook.sleep.is_some() {
                        self.core.metrics.sleep_terminated.inc();
                    }
                    tracing::info!(container = self.container.name, "preStop hook did not end within the grace period");
                }
            }
            left = left.saturating_sub(began.elapsed());
        }
        if grace > 0 {
            left = left.max(MINIMUM);
        }
        match self.core.observe("stop_container", self.core.runtime.stop_container(&self.id, left)).await {
            Ok(()) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(format!("stop container {}: {}", self.container.name, error.chain())),
        }
    }
}
