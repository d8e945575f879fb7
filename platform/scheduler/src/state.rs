//! One run of the scheduler: everything it knows, owned by one task.

use std::{collections::HashMap, sync::Arc, time::Duration};

use k8s_openapi::{
    api::{
        core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod},
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    runtime::watcher,
};
use pharos_client::{Informer, Key, Recorder, is_conflict, is_not_found};
use pharos_telemetry::Ctx;
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};
use tracing::Instrument as _;

use crate::{
    Error, Scheduler,
    cache::Cache,
    cycle::{self, Outcome},
    eviction::Eviction,
    inbox::{Changes, Inbox},
    metrics::Metrics,
    nominator::Nominator,
    plugins::{Plugins, Snapshot},
    pod_info::PodInfo,
    preemption::{Candidate, Verdict},
    queue::{Attempt, Failed, Queue},
};

/// Bindings on their way at once; a further decision waits for one of them.
const BINDINGS: usize = 256;
const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct State {
    client: Client,
    metrics: Metrics,
    recorder: Recorder,
    plugins: Plugins,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    namespaces: Informer<Namespace>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    budgets: Informer<PodDisruptionBudget>,
    inbox: Inbox,
    cache: Cache,
    nominator: Nominator,
    queue: Queue,
    /// UIDs by key, to know a pod that was deleted and made anew under its old name.
    known: HashMap<Key, String>,
    /// Bindings, evictions and condition writes on their way.
    writes: JoinSet<Option<Written>>,
    slots: Arc<Semaphore>,
    start: usize,
}

/// What the scheduler's task waits for.
pub(crate) enum Event {
    /// Objects changed.
    Changed(Changes),
    /// A write came to its end; bindings and evictions say how.
    Written(Option<Written>),
    /// A pod is to be tried.
    Try,
}

/// The end of a write that says how it ended.
pub(crate) enum Written {
    Bound(Bound),
    Evicted(Evicted),
}

/// The end of the evictions for a pod.
pub(crate) struct Evicted {
    pod: Arc<PodInfo>,
    /// Who refused the pod, so that they were necessary.
    plugins: Vec<&'static str>,
    succeeded: bool,
}

/// The end of a binding.
pub(crate) struct Bound {
    pod: Arc<PodInfo>,
    node: String,
    attempts: u32,
    since: Instant,
    began: Instant,
    outcome: Result<(), Error>,
}

impl State {
    /// Lists everything. `None` if the component was stopped before that was done.
    pub(crate) async fn sync(client: &Client, metrics: &Metrics, ctx: &Ctx) -> Option<Self> {
        let inbox = Inbox::default();
        let pods = Informer::start(ctx, Api::<Pod>::all(client.clone()), watcher::Config::default());
        let nodes = Informer::start(ctx, Api::<Node>::all(client.clone()), watcher::Config::default());
        let namespaces = Informer::start(ctx, Api::<Namespace>::all(client.clone()), watcher::Config::default());
        let claims = Informer::start(ctx, Api::<PersistentVolumeClaim>::all(client.clone()), watcher::Config::default());
        let volumes = Informer::start(ctx, Api::<PersistentVolume>::all(client.clone()), watcher::Config::default());
        let budgets = Informer::start(ctx, Api::<PodDisruptionBudget>::all(client.clone()), watcher::Config::default());
        let put = inbox.clone();
        pods.on_event(move |event| {
            let key = Key::of(&**event.object());
            put.put(|changes| _ = changes.pods.insert(key));
        });
        let put = inbox.clone();
        nodes.on_event(move |event| {
            let name = event.object().metadata.name.clone().unwrap_or_default();
            put.put(|changes| _ = changes.nodes.insert(name));
        });
        let put = inbox.clone();
        claims.on_event(move |_| put.put(|changes| changes.volumes = true));
        let put = inbox.clone();
        volumes.on_event(move |_| put.put(|changes| changes.volumes = true));
        tokio::select! {
            () = ctx.stopped() => return None,
            () = async {
                pods.synced().await;
                nodes.synced().await;
                namespaces.synced().await;
                claims.synced().await;
                volumes.synced().await;
                budgets.synced().await;
            } => {}
        }
        Some(Self {
            recorder: Recorder::start(ctx, client.clone(), Scheduler::SCHEDULER_NAME, None),
            client: client.clone(),
            queue: Queue::new(metrics.clone()),
            metrics: metrics.clone(),
            plugins: Plugins::default(),
            pods,
            nodes,
            namespaces,
            claims,
            volumes,
            budgets,
            inbox,
            cache: Cache::default(),
            nominator: Nominator::default(),
            known: HashMap::new(),
            writes: JoinSet::new(),
            slots: Arc::new(Semaphore::new(BINDINGS)),
            start: 0,
        })
    }

    /// Waits for what is next. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Event {
        let wake = self.queue.next_wake();
        let may_try = self.queue.has_active() && self.slots.available_permits() > 0;
        tokio::select! {
            biased; // News first: a decision should know them.
            changes = self.inbox.take() => Event::Changed(changes),
            Some(written) = self.writes.join_next() => Event::Written(written.ok().flatten()),
            () = std::future::ready(()), if may_try => Event::Try,
            () = sleep_until(wake) => Event::Try,
        }
    }

    pub(crate) fn apply(&mut self, event: Event) {
        match event {
            Event::Changed(changes) => self.note(changes),
            Event::Written(None) => {}
            Event::Written(Some(Written::Bound(bound))) => self.bound(bound),
            Event::Written(Some(Written::Evicted(evicted))) => self.evicted(evicted),
            Event::Try => {
                if self.slots.available_permits() > 0
                    && let Some(attempt) = self.queue.take()
                {
                    self.attempt(attempt);
                }
            }
        }
        let (nodes, pods, assumed) = self.cache.size();
        for (kind, count) in [("nodes", nodes), ("pods", pods), ("assumed_pods", assumed)] {
            self.metrics.cache_size.with_label_values(&[kind]).set(count as i64);
        }
    }

    /// Lets the bindings and evictions on their way come to their end.
    pub(crate) async fn drain(mut self) {
        while self.writes.join_next().await.is_some() {}
    }

    fn note(&mut self, changes: Changes) {
        let node_changed = !changes.nodes.is_empty();
        for name in changes.nodes {
            self.cache.set_node(&name, self.nodes.get(&Key::cluster(name.as_str())));
        }
        if node_changed {
            self.queue.move_all("NodeUpdate");
        }
        if changes.volumes {
            self.queue.move_all("PvcUpdate");
        }
        for key in changes.pods {
            self.note_pod(&key);
        }
    }

    fn note_pod(&mut self, key: &Key) {
        let now = self.pods.get(key).map(|pod| Arc::new(PodInfo::new(pod)));
        if let Some(uid) = self.known.get(key).cloned()
            && now.as_ref().is_none_or(|info| info.uid != uid)
        {
            self.known.remove(key);
            self.leave(key, &uid);
        }
        let Some(info) = now else { return };
        self.known.insert(key.clone(), info.uid.clone());
        if info.is_terminal() {
            self.leave(key, &info.uid);
        } else if let Some(node) = info.node_name().map(str::to_owned) {
            self.queue.remove(key);
            self.nominator.remove(&info.uid);
            self.cache.place(info, &node, false);
            if self.plugins_care_for_placed_pods() {
                self.queue.move_all("AssignedPodAdd");
            }
        } else if self.is_responsible(&info) && !info.is_deleting() {
            if !self.cache.is_assumed(&info.uid) {
                self.nominator.update(info.clone());
                self.queue.put(info);
            }
        } else {
            self.leave_queue(key, &info.uid);
        }
    }

    /// A pod is over: what it used, or what was kept for it, is free.
    fn leave(&mut self, key: &Key, uid: &str) {
        self.leave_queue(key, uid);
        if self.cache.forget(uid) {
            self.queue.move_all("AssignedPodDelete");
        }
    }

    /// A pod is not to be scheduled any more. For others a nominated pod was like one that is there.
    fn leave_queue(&mut self, key: &Key, uid: &str) {
        self.queue.remove(key);
        if self.nominator.remove(uid) {
            self.queue.move_all("AssignedPodDelete");
        }
    }

    /// A pod that arrives on a node makes room for nothing but pods with affinity to it.
    fn plugins_care_for_placed_pods(&self) -> bool {
        self.cache.has_affinity() || self.queue.any_with_affinity()
    }

    fn is_responsible(&self, info: &PodInfo) -> bool {
        let name = info.spec().and_then(|s| s.scheduler_name.as_deref()).filter(|n| !n.is_empty());
        name.is_none_or(|name| name == Scheduler::SCHEDULER_NAME)
    }

    /// One attempt: a decision, and what follows from it.
    fn attempt(&mut self, attempt: Attempt) {
        let began = Instant::now();
        let outcome = {
            let nodes = self.cache.nodes();
            let snapshot = Snapshot {
                nodes: &nodes,
                has_affinity: self.cache.has_affinity(),
                namespaces: &self.namespaces,
                claims: &self.claims,
                volumes: &self.volumes,
                budgets: &self.budgets,
                nominated: &self.nominator,
            };
            cycle::decide(&self.plugins, &snapshot, &attempt.pod, &mut self.start)
        };
        self.metrics.algorithm_duration.observe(began.elapsed().as_secs_f64());
        match outcome {
            Outcome::Node(node) => self.bind(attempt, node, began),
            Outcome::Unschedulable { message, plugins, preemption } => {
                self.count_attempt("unschedulable", began);
                if preemption.is_some() {
                    self.metrics.preemption_attempts.inc();
                }
                match preemption {
                    Some(Verdict::Evict(candidate)) => {
                        let node = Some(candidate.node.clone());
                        self.nominator.set(attempt.pod.clone(), node.clone());
                        self.fail(&attempt.pod, "Unschedulable", message, Some(node));
                        self.evict(attempt.pod, plugins, candidate);
                    }
                    Some(Verdict::Nobody(_)) => {
                        self.queue.put_back(&attempt.pod.key, &attempt.pod.uid, Failed::Unschedulable(plugins));
                        if self.nominator.set(attempt.pod.clone(), None) {
                            self.queue.move_all("AssignedPodDelete");
                        }
                        self.fail(&attempt.pod, "Unschedulable", message, Some(None));
                    }
                    Some(Verdict::NotEligible(_)) | None => {
                        self.queue.put_back(&attempt.pod.key, &attempt.pod.uid, Failed::Unschedulable(plugins));
                        self.fail(&attempt.pod, "Unschedulable", message, None);
                    }
                }
            }
        }
    }

    /// Makes room for a pod on its node. The pod is put back only when that is done: it would not know what to make of a node
    /// that half of the victims have left, and what happens meanwhile counts as an event for it.
    fn evict(&mut self, pod: Arc<PodInfo>, plugins: Vec<&'static str>, candidate: Candidate) {
        let Candidate { node, victims, .. } = candidate;
        let newest = |victim: Arc<PodInfo>| {
            let newest = self.pods.get(&victim.key)?;
            let is_there =
                newest.metadata.uid.as_deref() == Some(victim.uid.as_str()) && newest.metadata.deletion_timestamp.is_none();
            is_there.then_some(newest)
        };
        let count = victims.len();
        let victims: Vec<Arc<Pod>> = victims.into_iter().filter_map(newest).collect();
        if victims.is_empty() {
            // They are going already.
            return self.queue.put_back(&pod.key, &pod.uid, Failed::Unschedulable(plugins));
        }
        self.metrics.preemption_victims.observe(count as f64);
        // There may be no room for them any more, and they had better look elsewhere.
        let displaced: Vec<_> = self.nominator.on(&node).filter(|other| other.priority < pod.priority).cloned().collect();
        for other in &displaced {
            self.nominator.set(other.clone(), None);
            self.queue.reconsider(&other.key, &other.uid, "PodUpdate");
        }
        let span = tracing::info_span!("preempt", namespace = %pod.key.namespace, pod = %pod.key.name, node);
        tracing::debug!(parent: &span, victims = victims.len(), "pods of lower priority have to go");
        let eviction = Eviction { pod: pod.clone(), node, victims, displaced };
        let (slots, client, recorder) = (self.slots.clone(), self.client.clone(), self.recorder.clone());
        self.writes.spawn(
            async move {
                let _slot = slots.acquire_owned().await;
                let succeeded = eviction.run(client, recorder).await;
                Some(Written::Evicted(Evicted { pod, plugins, succeeded }))
            }
            .instrument(span),
        );
    }

    fn evicted(&mut self, evicted: Evicted) {
        let Evicted { pod, plugins, succeeded } = evicted;
        let outcome = if succeeded { Failed::Unschedulable(plugins) } else { Failed::Error };
        self.queue.put_back(&pod.key, &pod.uid, outcome);
    }

    /// Counts the pod on its node at once, and tells the API server meanwhile.
    fn bind(&mut self, attempt: Attempt, node: String, began: Instant) {
        let Attempt { pod, attempts, since } = attempt;
        self.cache.place(pod.clone(), &node, true);
        self.nominator.remove(&pod.uid);
        let Ok(slot) = self.slots.clone().try_acquire_owned() else {
            // `next` makes sure that there is one.
            self.cache.forget(&pod.uid);
            self.nominator.update(pod.clone());
            return self.queue.put_back(&pod.key, &pod.uid, Failed::Error);
        };
        let client = self.client.clone();
        let span = tracing::info_span!("bind", namespace = %pod.key.namespace, pod = %pod.key.name, node);
        self.writes.spawn(
            async move {
                let _slot = slot;
                let outcome = tokio::time::timeout(DEADLINE, create_binding(&client, &pod, &node)).await;
                let outcome = match outcome {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(source)) => Err(Error::Bind { pod: pod.key.clone(), node: node.clone(), source }),
                    Err(_) => Err(Error::Deadline { pod: pod.key.clone(), node: node.clone() }),
                };
                Some(Written::Bound(Bound { pod, node, attempts, since, began, outcome }))
            }
            .instrument(span),
        );
    }

    fn bound(&mut self, bound: Bound) {
        let Bound { pod, node, attempts, since, began, outcome } = bound;
        match outcome {
            Ok(()) => {
                self.count_attempt("scheduled", began);
                self.metrics.attempts.observe(f64::from(attempts));
                let label = if attempts > 15 { "16+".to_owned() } else { attempts.to_string() };
                self.metrics.sli_duration.with_label_values(&[&label]).observe(since.elapsed().as_secs_f64());
                self.queue.remove(&pod.key);
                let text = format!("Successfully assigned {} to {node}", pod.key);
                self.recorder.doing("Binding").normal(&pod.regarding(), "Scheduled", text);
            }
            Err(error) => {
                self.cache.forget(&pod.uid);
                self.nominate_again(&pod);
                self.queue.move_all("ScheduleAttemptFailure");
                self.count_attempt("error", began);
                self.queue.put_back(&pod.key, &pod.uid, Failed::Error);
                // Gone, or bound by somebody else: the watch tells, there is nothing to do.
                if matches!(&error, Error::Bind { source, .. } if is_not_found(source) || is_conflict(source)) {
                    tracing::debug!(pod = %pod.key, node, error = &error as &dyn std::error::Error, "binding was refused");
                } else {
                    tracing::warn!(pod = %pod.key, node, error = &error as &dyn std::error::Error, "binding failed");
                    self.fail(&pod, "SchedulerError", error.told(), None);
                }
            }
        }
    }

    /// A pod that was not bound after all has the nomination again that its status tells.
    fn nominate_again(&mut self, pod: &PodInfo) {
        let newest = self.pods.get(&pod.key).map(PodInfo::new).filter(|newest| newest.uid == pod.uid);
        if let Some(newest) = newest.filter(|newest| newest.node_name().is_none() && !newest.is_deleting()) {
            self.nominator.update(Arc::new(newest));
        }
    }

    /// Tells users why the pod is pending and, if that is to change, which node it is nominated for.
    fn fail(&mut self, pod: &Arc<PodInfo>, reason: &'static str, message: String, nominate: Option<Option<String>>) {
        self.recorder.doing("Scheduling").warning(&pod.regarding(), "FailedScheduling", message.clone());
        // The attempt may have begun before its predecessor's condition was seen.
        let newest = self.pods.get(&pod.key);
        let newest: &Pod = newest.as_deref().unwrap_or(&pod.pod);
        // A binding without an answer may have happened, and the watch may be about to tell: only a pod that is still the one
        // that is known is told that it is not scheduled.
        let version = newest.metadata.resource_version.clone().filter(|_| reason == "SchedulerError");
        let Some(status) = status_of_failure(newest, reason, &message, nominate, jiff::Timestamp::now()) else { return };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.key.namespace);
        let pod = pod.clone();
        // A pod of the same name that was made since must not be told this.
        let mut metadata = serde_json::json!({"uid": pod.uid});
        if let Some(version) = version {
            metadata["resourceVersion"] = version.into();
        }
        let patch = serde_json::json!({"metadata": metadata, "status": status});
        let (slots, client_span) = (self.slots.clone(), tracing::info_span!("condition", pod = %pod.key));
        self.writes.spawn(
            async move {
                let _slot = slots.acquire_owned().await;
                let (params, patch) = (PatchParams::default(), Patch::Strategic(patch));
                let patched = api.patch_status(&pod.key.name, &params, &patch);
                match tokio::time::timeout(DEADLINE, patched).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) if is_not_found(&error) || is_conflict(&error) => {}
                    Ok(Err(error)) => {
                        tracing::warn!(pod = %pod.key, error = &error as &dyn std::error::Error, "condition was not written")
                    }
                    Err(_) => tracing::warn!(pod = %pod.key, error = "no answer in time", "condition was not written"),
                }
                None
            }
            .instrument(client_span),
        );
    }
}

/// What a failed attempt changes in the pod's status, or `None` if that is nothing.
fn status_of_failure(
    pod: &Pod,
    reason: &str,
    message: &str,
    nominate: Option<Option<String>>,
    now: jiff::Timestamp,
) -> Option<serde_json::Value> {
    if pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).is_some_and(|node| !node.is_empty()) {
        return None; // Bound after all.
    }
    let mut status = serde_json::Map::new();
    if let Some(condition) = not_scheduled(pod, reason, message, now) {
        status.insert("conditions".to_owned(), serde_json::json!([condition]));
    }
    let nominated = pod.status.as_ref().and_then(|s| s.nominated_node_name.as_deref()).unwrap_or_default();
    if let Some(node) = nominate.filter(|node| node.as_deref().unwrap_or_default() != nominated) {
        status.insert("nominatedNodeName".to_owned(), node.into());
    }
    (!status.is_empty()).then_some(status.into())
}

/// The condition that says why the pod is pending, or `None` if the pod says so already. Its time is that of a
/// change of the status, not of the reason or the message (`UpdatePodCondition`).
fn not_scheduled(pod: &Pod, reason: &str, message: &str, now: jiff::Timestamp) -> Option<serde_json::Value> {
    let before = pod.status.iter().flat_map(|s| s.conditions.iter().flatten()).find(|c| c.type_ == "PodScheduled");
    let before = before.filter(|c| c.status == "False");
    if before.is_some_and(|c| c.reason.as_deref() == Some(reason) && c.message.as_deref() == Some(message)) {
        return None;
    }
    let since = before.and_then(|c| c.last_transition_time.clone()).unwrap_or(Time(now));
    Some(serde_json::json!({
        "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
        "lastTransitionTime": since, "observedGeneration": pod.metadata.generation,
    }))
}

async fn create_binding(client: &Client, pod: &PodInfo, node: &str) -> kube::Result<()> {
    let body = serde_json::json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": &*pod.key.name, "namespace": &*pod.key.namespace, "uid": pod.uid},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    let path = format!("/api/v1/namespaces/{}/pods/{}/binding", pod.key.namespace, pod.key.name);
    let request = http::Request::post(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(serde_json::to_vec(&body).map_err(kube::Error::SerdeError)?)
        .map_err(kube::Error::HttpError)?;
    client.request::<serde_json::Value>(request).await.map(drop)
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl State {
    fn count_attempt(&self, result: &str, began: Instant) {
        let labels = &[Scheduler::SCHEDULER_NAME, result];
        self.metrics.schedule_attempts.with_label_values(labels).inc();
        self.metrics.attempt_duration.with_label_values(labels).observe(began.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_conditions_time_is_that_of_its_status() {
        let (before, now) = ("2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z");
        let pod = |status: &str| -> Pod {
            let condition = json!({"type": "PodScheduled", "status": status, "reason": "Unschedulable", "message": "m",
                "lastTransitionTime": before});
            serde_json::from_value(json!({"metadata": {"generation": 3}, "status": {"conditions": [condition]}})).unwrap()
        };
        for (pod, reason, message, expected) in [
            (Pod::default(), "Unschedulable", "m", Some(now)),
            (pod("True"), "Unschedulable", "m", Some(now)),
            (pod("False"), "Unschedulable", "m", None),
            (pod("False"), "Unschedulable", "other", Some(before)),
            (pod("False"), "SchedulerError", "m", Some(before)),
        ] {
            let condition = not_scheduled(&pod, reason, message, now.parse().unwrap());
            let time = condition.as_ref().map(|c| c["lastTransitionTime"].as_str().unwrap());
            assert_eq!(time, expected, "{reason} {message}");
            if let Some(condition) = &condition {
                assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!(reason)));
                assert_eq!(
                    (&condition["message"], &condition["observedGeneration"]),
                    (&json!(message), &json!(pod.metadata.generation))
                );
            }
        }
    }

    #[test]
    fn a_failure_changes_no_more_than_it_has_to() {
        let pod = |node: Option<&str>, nominated: Option<&str>| -> Pod {
            let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "m"});
            serde_json::from_value(json!({"spec": {"containers": [], "nodeName": node},
                "status": {"conditions": [condition], "nominatedNodeName": nominated}}))
            .unwrap()
        };
        let to = |node: &str| Some(Some(node.to_owned()));
        for (pod, nominate, expected) in [
            (pod(None, None), None, None),
            (pod(None, Some("n")), None, None),
            (pod(None, None), Some(None), None),
            (pod(None, Some("n")), to("n"), None),
            (pod(None, None), to("n"), Some(json!({"nominatedNodeName": "n"}))),
            (pod(None, Some("n")), to("m"), Some(json!({"nominatedNodeName": "m"}))),
            (pod(None, Some("n")), Some(None), Some(json!({"nominatedNodeName": null}))),
            (pod(Some("n"), None), to("m"), None),
        ] {
            let status = status_of_failure(&pod, "Unschedulable", "m", nominate.clone(), jiff::Timestamp::now());
            assert_eq!(status, expected, "{nominate:?}");
        }
        let status = status_of_failure(&pod(None, None), "Unschedulable", "other", to("n"), jiff::Timestamp::now()).unwrap();
        assert_eq!((&status["conditions"][0]["message"], &status["nominatedNodeName"]), (&json!("other"), &json!("n")));
        assert!(status_of_failure(&pod(Some("n"), None), "SchedulerError", "other", None, jiff::Timestamp::now()).is_none());
    }

    #[test]
    fn users_are_told_why_a_binding_failed() {
        let status = kube::core::Status::failure("pods \"p\" is forbidden: no", "Forbidden").with_code(403);
        let (pod, node) = (Key::new("a", "p"), "n".to_owned());
        for (error, expected) in [
            (
                Error::Bind { pod: pod.clone(), node: node.clone(), source: kube::Error::Api(Box::new(status)) },
                "running Bind plugin \"DefaultBinder\": pods \"p\" is forbidden: no",
            ),
            (Error::Deadline { pod, node }, "running Bind plugin \"DefaultBinder\": no answer in time"),
        ] {
            assert_eq!(error.told(), expected);
        }
    }
}
