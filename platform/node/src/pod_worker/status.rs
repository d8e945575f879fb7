use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use pharos_client::{is_conflict, is_not_found};
use pharos_runtime::types::ContainerState;
use tokio::time::Instant;

use super::Worker;
use crate::{
    core::Tally,
    names,
    pod_status::{self, Inputs},
    pod_view::PodView,
};

/// How often a status is tried in a row before the worker comes back to it.
const TRIES: usize = 3;

impl Worker {
    /// Writes what has changed of the status; `terminal` when everything has been ended. Returns whether the API server
    /// has it now.
    pub(super) async fn write_status(&mut self, view: &PodView, terminal: bool) -> bool {
        self.read_messages(view).await;
        let began = Instant::now();
        for _ in 0..TRIES {
            let health = |id: &str| self.health(id);
            let terminating = self.ending();
            let wanted = pod_status::compute(&Inputs {
                pod: &self.pod,
                view,
                waiting: &self.waiting,
                messages: &self.messages,
                health: &health,
                pod_ips: self.ips.as_ref().map(|(_, ips)| ips.as_slice()).unwrap_or_default(),
                host_ips: &self.core.node_ips,
                // It fails when it has ended, not before.
                failure: self.failure.as_ref().filter(|_| terminal),
                terminal,
                terminating,
                resizing: &self.resizing,
                runtime: &self.core.runtime_name,
                now: self.core.clock.now(),
            });
            let Some(patch) = pod_status::patch(&self.pod, &wanted) else { return true };
            if self.removed {
                return false;
            }
            let api: Api<Pod> = Api::namespaced(self.core.client.clone(), names::namespace(&self.pod));
            match api.patch_status(names::name(&self.pod), &PatchParams::default(), &Patch::Strategic(patch)).await {
                Ok(pod) => {
                    self.core.metrics.status_sync.observe(began.elapsed().as_secs_f64());
                    if pod.metadata.uid == self.pod.metadata.uid {
                        self.pod = pod.into();
                        self.publish();
                    }
                    return true;
                }
                // Gone, or another pod of that name: nobody is left to be told.
                Err(error) if is_not_found(&error) => return true,
                Err(error) if is_conflict(&error) => {
                    tracing::debug!(error = %error, "status met a conflict");
                    match api.get_opt(names::name(&self.pod)).await {
                        Ok(Some(pod)) if pod.metadata.uid == self.pod.metadata.uid => self.pod = pod.into(),
                        _ => return true,
                    }
                }
                Err(error) => {
                    tracing::warn!(error = %error, "cannot write the pod's status");
                    self.look_after(std::time::Duration::from_secs(5));
                    return false;
                }
            }
        }
        self.look_after(std::time::Duration::from_secs(5));
        false
    }

    /// Counts what runs, and how long the start took.
    pub(super) fn measure(&mut self, view: &PodView) {
        let count = |state| view.containers.iter().filter(|container| container.state == state).count() as i64;
        let tally = Tally {
            sandbox: view.ready_sandbox().is_some(),
            running: count(ContainerState::Running),
            exited: count(ContainerState::Exited),
            created: count(ContainerState::Created),
            unknown: count(ContainerState::Unknown),
            active: !self.finished && !self.ending(),
        };
        self.core.tallies.lock().insert(self.uid(), tally);
        self.core.tally();
        let all_run = self
            .pod
            .spec
            .iter()
            .flat_map(|spec| &spec.containers)
            .all(|container| view.latest(&container.name).is_some_and(|latest| latest.state == ContainerState::Running));
        if all_run && !self.running_told {
            self.running_told = true;
            let began_here = view.running().all(|container| container.created_at >= self.core.began_at);
            if began_here {
                self.core.metrics.pod_start.observe(self.seen_at.elapsed().as_secs_f64());
                if let Some(created) = &self.pod.metadata.creation_timestamp {
                    let total = self.core.clock.now().duration_since(created.0).as_secs_f64().max(0.0);
                    self.core.metrics.pod_start_total.observe(total);
                    self.core.metrics.pod_start_sli.observe((total - self.pulling.as_secs_f64()).max(0.0));
                }
            }
        }
    }
}
