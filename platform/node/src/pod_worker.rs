//! One task for each pod: it alone acts on the pod, one thing at a time, always on the latest word.
//!
//! The mailbox keeps only the newest update. What has been done is never remembered but read back from the runtime, so a
//! restart of the kubelet changes nothing for running containers. Follows `pod_workers.go` and `kuberuntime_manager.go`.

mod containers; // How containers start,
mod kill; // and end;
mod messages; // what they leave behind,
pub(crate) mod sandbox; // what they run in,
mod status; // and what is told of it all.
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, ServiceAccount},
};
use kube::{
    Api,
    api::{DeleteParams, PostParams, Preconditions},
};
use pharos_client::{Regarding, is_conflict, is_not_found};
use pharos_runtime::types::{ContainerState, LinuxContainerResources};
use pharos_telemetry::Backoff;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tracing::Instrument as _;

use crate::{
    actions::{self, Health},
    admission,
    backoff::Backoffs,
    core::Core,
    names::{self, Role},
    objects,
    pod_status::{Failure, Waiting},
    pod_view::PodView,
    probes::{Probers, Target},
    references::Held,
    volumes::{self, Ready, TokenWanted},
};

/// How long a pod whose object is gone may take to end.
const REMOVED_GRACE: i64 = 1;
/// Work that keeps a worker from ending is tried again so soon, doubling.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LIMIT: Duration = Duration::from_secs(122);

/// The latest word about a pod.
#[derive(Clone)]
pub(crate) struct Update {
    /// The pod.
    pub(crate) pod: Arc<Pod>,
    /// Whether its object is gone.
    pub(crate) removed: bool,
    /// Set when the node is to get rid of it.
    pub(crate) evict: Option<Failure>,
}

/// How others reach a worker.
#[derive(Clone)]
pub(crate) struct Handle {
    /// Keeps the newest update only.
    pub(crate) mailbox: Arc<watch::Sender<Update>>,
    /// Tells it to look again.
    pub(crate) wake: Arc<Notify>,
}

/// What is to happen next.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Nothing until something happens, or this much time has passed.
    Wait(Option<Duration>),
    /// It is all over.
    Done,
}

struct Worker {
    core: Arc<Core>,
    pod: Arc<Pod>,
    removed: bool,
    mailbox: watch::Receiver<Update>,
    wake: Arc<Notify>,
    held: Held,
    tokens: BTreeMap<TokenWanted, (String, Timestamp)>,
    volumes: BTreeMap<String, Ready>,
    waiting: BTreeMap<String, Waiting>,
    messages: BTreeMap<String, String>,
    backoffs: Backoffs,
    probers: Probers,
    failure: Option<Failure>,
    admitted: bool,
    /// Everything has been ended and cleaned up.
    finished: bool,
    /// The object was asked to go.
    deleted: bool,
    /// Addresses of the sandbox of this ID.
    ips: Option<(String, Vec<IpAddr>)>,
    /// Limits that were last given to a container, by runtime ID.
    applied: BTreeMap<String, LinuxContainerResources>,
    resizing: BTreeSet<String>,
    retry: Backoff,
    seen_at: Instant,
    pulling: Duration,
    running_told: bool,
    first: bool,
    /// When to look again at the latest.
    look_at: Option<Instant>,
}

/// Starts the worker of a pod. `done` is called when it has ended for good.
pub(crate) fn start(core: &Arc<Core>, pod: Arc<Pod>, done: impl FnOnce() + Send + 'static) -> Handle {
    let wake = Arc::new(Notify::new());
    let (sender, mailbox) = watch::channel(Update { pod: pod.clone(), removed: false, evict: None });
    let span = tracing::info_span!("pod", namespace = names::namespace(&pod), pod = names::name(&pod), uid = names::uid(&pod));
    let worker = Worker::new(core.clone(), pod, mailbox, wake.clone());
    let ctx = core.ctx.clone();
    core.ctx.spawn(
        "pod-worker",
        async move {
            tokio::select! {
                // What runs goes on running; the next kubelet takes it over.
                () = ctx.stopped() => {}
                () = worker.run() => done(),
            }
        }
        .instrument(span),
    );
    Handle { mailbox: Arc::new(sender), wake }
}

// === impl Worker ===

impl Worker {
    fn new(core: Arc<Core>, pod: Arc<Pod>, mailbox: watch::Receiver<Update>, wake: Arc<Notify>) -> Self {
        Self {
            core,
            pod,
            removed: false,
            mailbox,
            wake,
            held: Held::default(),
            tokens: BTreeMap::new(),
            volumes: BTreeMap::new(),
            waiting: BTreeMap::new(),
            messages: BTreeMap::new(),
            backoffs: Backoffs::default(),
            probers: Probers::default(),
            failure: None,
            admitted: false,
            finished: false,
            deleted: false,
            ips: None,
            applied: BTreeMap::new(),
            resizing: BTreeSet::new(),
            retry: Backoff::new(RETRY_FIRST, RETRY_LIMIT),
            seen_at: Instant::now(),
            pulling: Duration::ZERO,
            running_told: false,
            first: true,
            look_at: None,
        }
    }

    async fn run(mut self) {
        self.core.metrics.pod_worker_start.observe(self.seen_at.elapsed().as_secs_f64());
        let mut operation = "create";
        loop {
            self.adopt();
            let began = Instant::now();
            self.look_at = None;
            let step = match self.sync().await {
                Ok(step) => {
                    self.retry.reset();
                    step
                }
                Err(error) => {
                    tracing::warn!(error, "pod is not in the wanted state, trying again");
                    Step::Wait(Some(self.retry.next_wait()))
                }
            };
            self.core.metrics.pod_worker.with_label_values(&[operation]).observe(began.elapsed().as_secs_f64());
            let Step::Wait(wait) = step else { return };
            let until = [wait.map(|wait| Instant::now() + wait), self.look_at].into_iter().flatten().min();
            let timer = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            operation = "sync";
            tokio::select! {
                changed = self.mailbox.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    operation = "update";
                }
                () = self.wake.notified() => {}
                () = timer => {}
            }
        }
    }

    /// Takes over the newest update, except for a status that is older than what was written since.
    fn adopt(&mut self) {
        let update = self.mailbox.borrow_and_update().clone();
        self.removed |= update.removed;
        if update.evict.is_some() && self.failure.is_none() {
            self.failure = update.evict;
        }
        let version = |pod: &Pod| pod.metadata.resource_version.as_deref().and_then(|v| v.parse::<u64>().ok()).unwrap_or(0);
        if version(&update.pod) >= version(&self.pod) {
            self.pod = update.pod;
            self.publish();
        }
    }

    fn uid(&self) -> String {
        names::uid(&self.pod).to_owned()
    }

    fn pod_dir(&self) -> PathBuf {
        self.core.config.pod_dir(names::uid(&self.pod))
    }

    /// Shows the pod to the HTTP API.
    fn publish(&self) {
        self.core.pods.write().insert(self.uid(), self.pod.clone());
    }

    fn look_after(&mut self, wait: Duration) {
        let at = Instant::now() + wait;
        self.look_at = Some(self.look_at.map_or(at, |before| before.min(at)));
    }

    /// Whether the pod is to end.
    fn ending(&self) -> bool {
        let phase = self.pod.status.as_ref().and_then(|status| status.phase.as_deref());
        self.removed
            || self.failure.is_some()
            || self.pod.metadata.deletion_timestamp.is_some()
            || matches!(phase, Some("Succeeded" | "Failed"))
    }

    async fn sync(&mut self) -> Result<Step, String> {
        if !self.ending() {
            self.check_deadline();
        }
        if self.ending() {
            return self.end().await;
        }
        let mut view = self.core.view(names::uid(&self.pod)).await.map_err(|error| error.chain())?;
        if !self.admitted {
            let known = !view.sandboxes.is_empty();
            if let Err(failure) = self.admit(known) {
                let regarding = Regarding::of(&*self.pod);
                self.core.recorder.warning(&regarding, &failure.reason, failure.message.trim_start_matches("Pod was rejected: "));
                self.failure = Some(failure);
                return self.end().await;
            }
        }
        let wanted = objects::references(&self.pod);
        self.core.references.clone().follow(&mut self.held, names::namespace(&self.pod), &wanted, &self.wake);
        let objects = self.held.objects().await;
        self.find_addresses(&view).await?;
        self.start_probes(&view);
        let actions = actions::compute(&self.pod, &view, self.ips.is_some(), &|id| self.probers.health(id));
        if actions.kill_pod && actions.create_sandbox.is_none() && actions.start.is_empty() && !view.sandboxes.is_empty() {
            return self.end().await;
        }
        if self.first {
            self.first = false;
            self.write_status(&view, false).await;
        }
        let result = self.act(&view, &actions, &objects).await;
        view = self.core.view(names::uid(&self.pod)).await.map_err(|error| error.chain())?;
        self.find_addresses(&view).await?;
        self.start_probes(&view);
        self.collect(&view).await;
        self.resize(&view).await;
        self.write_status(&view, false).await;
        self.measure(&view);
        match result {
            Ok(true) => self.wake.notify_one(), // There may be more to do right away.
            Ok(false) => {}
            Err(error) => return Err(error),
        }
        Ok(Step::Wait(None))
    }

    /// Does what is to be done; returns whether something was started.
    async fn act(&mut self, view: &PodView, actions: &actions::Actions, objects: &objects::Objects) -> Result<bool, String> {
        for kill in &actions.kill {
            self.kill_for_restart(view, kill).await?;
        }
        if !actions.start.is_empty() || !self.volumes.is_empty() || view.ready_sandbox().is_some() {
            self.set_up_volumes(objects).await?;
        }
        let mut sandbox = view.ready_sandbox().cloned();
        if let Some(attempt) = actions.create_sandbox {
            sandbox = Some(self.make_sandbox(view, attempt).await?);
        }
        let Some(sandbox) = sandbox else { return Ok(false) };
        let mut started = false;
        // Only what is still in trouble keeps its reason.
        let start: BTreeSet<&str> = actions.start.iter().map(String::as_str).collect();
        self.waiting.retain(|name, _| start.contains(name.as_str()));
        for name in &actions.start {
            if self.interrupted() {
                break;
            }
            started |= self.start_container(view, &sandbox, name, objects).await;
        }
        Ok(started)
    }

    /// Whether there is news that makes further work pointless.
    fn interrupted(&self) -> bool {
        let update = self.mailbox.borrow();
        update.removed || update.evict.is_some() || update.pod.metadata.deletion_timestamp.is_some()
    }

    fn admit(&mut self, known: bool) -> Result<(), Failure> {
        let uid = self.uid();
        let mut admitted = self.core.admitted.lock();
        // What ran before a restart was admitted then.
        if !known {
            let others = admitted.iter().filter(|(other, _)| **other != uid).map(|(_, pod)| &**pod);
            let node = self.core.node.read().clone();
            let sysctls = &self.core.config.allowed_unsafe_sysctls;
            admission::admit(&self.pod, others, &self.core.allocatable, sysctls, node.as_deref())?;
        }
        admitted.insert(uid, self.pod.clone());
        self.admitted = true;
        Ok(())
    }

    fn check_deadline(&mut self) {
        let Some(seconds) = self.pod.spec.as_ref().and_then(|spec| spec.active_deadline_seconds) else { return };
        let Some(start) = self.pod.status.as_ref().and_then(|status| status.start_time.clone()) else { return };
        let active = self.core.clock.now().duration_since(start.0).as_secs();
        if active >= seconds {
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            self.core.recorder.normal(&Regarding::of(&*self.pod), "DeadlineExceeded", message.as_str());
            self.failure = Some(Failure { reason: "DeadlineExceeded".to_owned(), message, disrupted: false });
        } else {
            self.look_after(Duration::from_secs(u64::try_from(seconds - active).unwrap_or(1)));
        }
    }

    fn health(&self, id: &str) -> Health {
        self.probers.health(id)
    }

    fn start_probes(&mut self, view: &PodView) {
        let running: BTreeSet<&str> = view.running().map(|container| container.id.as_str()).collect();
        self.probers.retain(|id| running.contains(id));
        let Some((_, ips)) = &self.ips else { return };
        let ip = ips.first().map(ToString::to_string).unwrap_or_default();
        let pod = self.pod.clone();
        let status = pod.status.as_ref();
        for (role, container) in names::containers(&pod) {
            if !matches!(role, Role::Main | Role::Sidecar) {
                continue;
            }
            let Some(latest) = view.latest(&container.name).filter(|c| c.state == ContainerState::Running) else { continue };
            if self.probers.knows(&latest.id) {
                continue;
            }
            let before = status
                .into_iter()
                .flat_map(|s| s.container_statuses.iter().chain(&s.init_container_statuses).flatten())
                .find(|s| s.container_id.as_deref().is_some_and(|id| id.ends_with(&latest.id)))
                .map_or((false, false), |s| (s.started == Some(true), s.ready));
            let target = Target {
                pod: &pod,
                regarding: names::regarding(&pod, role, &container.name),
                container: &container,
                id: &latest.id,
                started_at: latest.started_at.unwrap_or(latest.created_at),
                ip: ip.clone(),
                before,
            };
            self.probers.start(&self.core, &target, &self.wake);
        }
    }

    /// Brings all volumes up to date.
    async fn set_up_volumes(&mut self, objects: &objects::Objects) -> Result<(), String> {
        let regarding = Regarding::of(&*self.pod);
        if let Err(error) = self.renew_tokens().await {
            let name = token_volume(&self.pod);
            let message = format!("MountVolume.SetUp failed for volume {name:?} : failed to fetch token: {error}");
            if self.volumes.is_empty() {
                self.core.recorder.warning(&regarding, "FailedMount", message.as_str());
                return Err(message);
            }
            // Running containers still have the old one.
            tracing::warn!(error, "cannot renew a service account token");
            self.look_after(Duration::from_secs(30));
        }
        let claims = self.claims().await;
        let tokens: BTreeMap<TokenWanted, String> =
            self.tokens.iter().map(|(wanted, (token, _))| (wanted.clone(), token.clone())).collect();
        let place = self.core.place(self.ips.as_ref().map(|(_, ips)| ips.as_slice()).unwrap_or_default());
        let (pod, objects, pod_dir) = (self.pod.clone(), objects.clone(), self.pod_dir());
        let done = tokio::task::spawn_blocking(move || {
            let sources =
                volumes::Sources { pod_dir: &pod_dir, objects: &objects, tokens: &tokens, claims: &claims, place: &place };
            volumes::set_up(&pod, &sources)
        })
        .await
        .map_err(|error| error.to_string())?;
        match done {
            Ok(ready) => {
                self.volumes = ready;
                Ok(())
            }
            Err(not_ready) => {
                self.core.recorder.warning(&regarding, "FailedMount", not_ready.message.as_str());
                tracing::debug!(volume = not_ready.volume, error = not_ready.message, "volume is not ready");
                Err(not_ready.message)
            }
        }
    }

    async fn renew_tokens(&mut self) -> Result<(), String> {
        let now = self.core.clock.now();
        let wanted = volumes::tokens_wanted(&self.pod);
        self.tokens.retain(|token, _| wanted.contains(token));
        for token in wanted {
            if let Some((_, renew_at)) = self.tokens.get(&token)
                && *renew_at > now
            {
                let left = Duration::try_from(renew_at.duration_since(now)).unwrap_or_default();
                self.look_after(left);
                continue;
            }
            let (value, renew_at) = self.request_token(&token, now).await?;
            self.look_after(Duration::try_from(renew_at.duration_since(now)).unwrap_or_default());
            self.tokens.insert(token, (value, renew_at));
        }
        Ok(())
    }

    async fn request_token(&self, wanted: &TokenWanted, now: Timestamp) -> Result<(String, Timestamp), String> {
        let account =
            self.pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone()).unwrap_or_else(|| "default".to_owned());
        let api: Api<ServiceAccount> = Api::namespaced(self.core.client.clone(), names::namespace(&self.pod));
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(wanted.audience.clone()).filter(|audience| !audience.is_empty()).map(|audience| vec![audience]),
                expiration_seconds: Some(wanted.expiration_seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: self.pod.metadata.name.clone(),
                    uid: self.pod.metadata.uid.clone(),
                }),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let answer =
            api.create_token_request(&account, &PostParams::default(), &request).await.map_err(|error| error.to_string())?;
        let status = answer.status.ok_or("token request without an answer")?;
        let token = status.token.ok_or("token request without a token")?;
        // At 80 % of its life, at most after a day, as upstream.
        let life = status.expiration_timestamp.map_or(wanted.expiration_seconds, |at| at.0.duration_since(now).as_secs()).max(0);
        let wait = (life * 8 / 10).clamp(1, 24 * 3600);
        Ok((token, now + jiff::SignedDuration::from_secs(wait)))
    }

    /// Where the claims of the pod lie.
    async fn claims(&self) -> BTreeMap<String, Result<PathBuf, String>> {
        let mut found = BTreeMap::new();
        for claim in volumes::claims(&self.pod) {
            let path = self.claim(&claim).await;
            found.insert(claim, path);
        }
        found
    }

    async fn claim(&self, name: &str) -> Result<PathBuf, String> {
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.core.client.clone(), names::namespace(&self.pod));
        let claim = claims.get_opt(name).await.map_err(|error| error.to_string())?;
        let claim = claim.ok_or_else(|| format!("persistentvolumeclaim \"{name}\" not found"))?;
        let bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).filter(|_| bound);
        let volume = volume.ok_or_else(|| format!("persistentvolumeclaim \"{name}\" is not bound to a volume"))?;
        let volumes: Api<PersistentVolume> = Api::all(self.core.client.clone());
        let found = volumes.get_opt(&volume).await.map_err(|error| error.to_string())?;
        let spec = found.and_then(|volume| volume.spec).ok_or_else(|| format!("persistentvolume \"{volume}\" not found"))?;
        if spec.volume_mode.as_deref() == Some("Block") {
            return Err(format!("persistentvolume \"{volume}\": volumeMode Block is not supported by this node"));
        }
        match (spec.host_path, spec.local) {
            (Some(source), _) => {
                if source.type_.as_deref().is_some_and(|kind| kind.ends_with("OrCreate")) {
                    tokio::fs::create_dir_all(&source.path).await.map_err(|error| format!("create {}: {error}", source.path))?;
                }
                Ok(source.path.into())
            }
            (None, Some(source)) => Ok(source.path.into()),
            (None, None) => {
                Err(format!("persistentvolume \"{volume}\": only hostPath and local volumes are supported by this node"))
            }
        }
    }

    /// Ends the pod and cleans up; then, if its object is to go, tells the API server that it may.
    async fn end(&mut self) -> Result<Step, String> {
        if !self.finished {
            if self.ips.is_none() {
                // For preStop hooks, after a restart.
                let view = self.core.view(names::uid(&self.pod)).await.map_err(|error| error.chain())?;
                if let Err(error) = self.find_addresses(&view).await {
                    tracing::debug!(error, "hooks go without the pod's address");
                }
            }
            self.kill_all().await?;
            let view = self.core.view(names::uid(&self.pod)).await.map_err(|error| error.chain())?;
            self.probers.retain(|_| false);
            self.stop_sandboxes(&view).await?;
            let view = self.core.view(names::uid(&self.pod)).await.map_err(|error| error.chain())?;
            self.write_status(&view, true).await;
            self.measure(&view);
            self.held = Held::default();
            self.tokens.clear();
            let dir = self.pod_dir();
            tokio::task::spawn_blocking(move || volumes::tear_down(&dir))
                .await
                .map_err(|error| error.to_string())?
                .map_err(|error| format!("tear down volumes: {error}"))?;
            self.volumes.clear();
            self.core.admitted.lock().remove(&self.uid());
            crate::probes::prober::forget(&self.core.metrics, &self.pod);
            self.finished = true;
        }
        self.adopt();
        if self.removed {
            self.forget().await?;
            return Ok(Step::Done);
        }
        if self.pod.metadata.deletion_timestamp.is_some() && !self.deleted {
            let view = self.core.view(names::uid(&self.pod)).await.map_err(|error| error.chain())?;
            if !self.write_status(&view, true).await {
                return Err("the final status was not written".to_owned());
            }
            let api: Api<Pod> = Api::namespaced(self.core.client.clone(), names::namespace(&self.pod));
            let params = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(Preconditions { uid: self.pod.metadata.uid.clone(), resource_version: None }),
                ..DeleteParams::default()
            };
            match api.delete(names::name(&self.pod), &params).await {
                Ok(_) => {}
                // Another pod has its name already.
                Err(error) if is_not_found(&error) || is_conflict(&error) => self.removed = true,
                Err(error) => return Err(format!("delete pod: {error}")),
            }
            self.deleted = true;
            if self.removed {
                self.forget().await?;
                return Ok(Step::Done);
            }
        }
        Ok(Step::Wait(None))
    }

    /// Removes the last traces.
    async fn forget(&mut self) -> Result<(), String> {
        let view = self.core.view(names::uid(&self.pod)).await.map_err(|error| error.chain())?;
        for sandbox in &view.sandboxes {
            self.core
                .observe("remove_podsandbox", self.core.runtime.remove_pod_sandbox(&sandbox.id))
                .await
                .map_err(|error| format!("remove sandbox: {}", error.chain()))?;
        }
        let uid = self.uid();
        let logs = self.core.config.pod_logs(names::namespace(&self.pod), names::name(&self.pod), &uid);
        if let Err(error) = tokio::fs::remove_dir_all(&logs).await
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(error = %error, "cannot remove the pod's logs");
        }
        self.core.pods.write().remove(&uid);
        self.core.pod_ips.write().remove(&uid);
        self.core.tallies.lock().remove(&uid);
        self.core.tally();
        Ok(())
    }
}

/// The volume that asks for a token, for messages.
fn token_volume(pod: &Pod) -> &str {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mut asking = volumes.filter(|volume| {
        volume.projected.iter().flat_map(|p| p.sources.iter().flatten()).any(|source| source.service_account_token.is_some())
    });
    asking.next().map(|volume| volume.name.as_str()).unwrap_or_default()
}
