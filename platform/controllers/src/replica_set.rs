//! `replicaset` and `replicationcontroller`: so many pods of one template (`pkg/controller/replicaset`).
//!
//! The two differ in their selector and in little else; [`Replicated`] is what they share.

use std::{collections::HashMap, fmt::Debug, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus},
        core::v1::{Pod, PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{Api, Resource, api::PostParams};
use pharos_client::{Event, Informer, Key, Next, Regarding, WorkQueue, is_not_found};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Error, Result,
    env::Env,
    error::During as _,
    expectations::Expectations,
    owners,
    pod_control::{BURST, PodControl, namespace_is_terminating, pod_from_template, slow_start},
    pods,
    selector::Selector,
};

/// What a ReplicaSet and a ReplicationController have in common.
trait Replicated:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// The controller's account and event source, and its queue.
    const CONTROLLER: (&'static str, &'static str);

    fn informer(env: &Env) -> &Informer<Self>;
    fn replicas(&self) -> i32;
    fn min_ready_seconds(&self) -> i32;
    fn selector(&self) -> Result<Selector, String>;
    fn template(&self) -> PodTemplateSpec;
    fn status(&self) -> Status;
    fn set_status(&mut self, status: Status);
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Status {
    replicas: i32,
    fully_labeled: i32,
    ready: i32,
    available: i32,
    terminating: Option<i32>,
    observed_generation: i64,
    /// Reason, message and since when, if pods cannot be created or deleted.
    failure: Option<(String, String, Option<Time>)>,
    others: Vec<ReplicaSetCondition>,
}

fn nonzero(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

fn failure_of(condition: &ReplicaSetCondition) -> (String, String, Option<Time>) {
    (
        condition.reason.clone().unwrap_or_default(),
        condition.message.clone().unwrap_or_default(),
        condition.last_transition_time.clone(),
    )
}

fn is_failure(condition: &ReplicaSetCondition) -> bool {
    condition.type_.as_deref() == Some("ReplicaFailure") && condition.status.as_deref() == Some("True")
}

fn conditions_of(status: &Status) -> Option<Vec<ReplicaSetCondition>> {
    let failure = status.failure.clone().map(|(reason, message, since)| ReplicaSetCondition {
        type_: Some("ReplicaFailure".into()),
        status: Some("True".into()),
        reason: Some(reason),
        message: Some(message),
        last_transition_time: since,
    });
    let conditions: Vec<_> = status.others.iter().cloned().chain(failure).collect();
    (!conditions.is_empty()).then_some(conditions)
}

impl Replicated for ReplicaSet {
    const CONTROLLER: (&'static str, &'static str) = ("replicaset-controller", "replicaset");

    fn informer(env: &Env) -> &Informer<Self> {
        &env.informers.replica_sets
    }

    fn replicas(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.min_ready_seconds.unwrap_or_default()
    }

    fn selector(&self) -> Result<Selector, String> {
        Selector::new(Some(&self.spec.selector))
    }

    fn template(&self) -> PodTemplateSpec {
        self.spec.template.clone().unwrap_or_default()
    }

    fn status(&self) -> Status {
        let status = self.status.clone().unwrap_or_default();
        let (failures, others): (Vec<_>, Vec<_>) = status.conditions.unwrap_or_default().into_iter().partition(is_failure);
        Status {
            replicas: status.replicas,
            fully_labeled: status.fully_labeled_replicas.unwrap_or_default(),
            ready: status.ready_replicas.unwrap_or_default(),
            available: status.available_replicas.unwrap_or_default(),
            terminating: status.terminating_replicas,
            observed_generation: status.observed_generation.unwrap_or_default(),
            failure: failures.first().map(failure_of),
            others,
        }
    }

    fn set_status(&mut self, status: Status) {
        self.status = Some(ReplicaSetStatus {
            replicas: status.replicas,
            fully_labeled_replicas: nonzero(status.fully_labeled),
            ready_replicas: nonzero(status.ready),
            available_replicas: nonzero(status.available),
            terminating_replicas: status.terminating,
            observed_generation: Some(status.observed_generation),
            conditions: conditions_of(&status),
        });
    }
}

impl Replicated for ReplicationController {
    const CONTROLLER: (&'static str, &'static str) = ("replication-controller", "replicationmanager");

    fn informer(env: &Env) -> &Informer<Self> {
        &env.informers.replication_controllers
    }

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or_default()
    }

    fn selector(&self) -> Result<Selector, String> {
        match self.spec.as_ref().and_then(|spec| spec.selector.as_ref()).filter(|labels| !labels.is_empty()) {
            Some(labels) => Ok(Selector::from_labels(labels)),
            None => Selector::new(None),
        }
    }

    fn template(&self) -> PodTemplateSpec {
        self.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default()
    }

    fn status(&self) -> Status {
        let status = self.status.clone().unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default().into_iter().map(|c| ReplicaSetCondition {
            type_: Some(c.type_),
            status: Some(c.status),
            reason: c.reason,
            message: c.message,
            last_transition_time: c.last_transition_time,
        });
        let (failures, others): (Vec<_>, Vec<_>) = conditions.partition(is_failure);
        Status {
            replicas: status.replicas,
            fully_labeled: status.fully_labeled_replicas.unwrap_or_default(),
            ready: status.ready_replicas.unwrap_or_default(),
            available: status.available_replicas.unwrap_or_default(),
            terminating: None,
            observed_generation: status.observed_generation.unwrap_or_default(),
            failure: failures.first().map(failure_of),
            others,
        }
    }

    fn set_status(&mut self, status: Status) {
        let conditions = conditions_of(&status).map(|conditions| {
            let convert = |c: ReplicaSetCondition| ReplicationControllerCondition {
                type_: c.type_.unwrap_or_default(),
                status: c.status.unwrap_or_default(),
                reason: c.reason,
                message: c.message,
                last_transition_time: c.last_transition_time,
            };
            conditions.into_iter().map(convert).collect()
        });
        self.status = Some(ReplicationControllerStatus {
            replicas: status.replicas,
            fully_labeled_replicas: nonzero(status.fully_labeled),
            ready_replicas: nonzero(status.ready),
            available_replicas: nonzero(status.available),
            observed_generation: Some(status.observed_generation),
            conditions,
        });
    }
}

pub(crate) fn start(env: &Env) {
    Sets::<ReplicaSet>::start(env);
    Sets::<ReplicationController>::start(env);
}

struct Sets<K> {
    env: Env,
    control: PodControl,
    queue: WorkQueue<Key>,
    expectations: Expectations,
    informer: Informer<K>,
}

impl<K: Replicated> Sets<K> {
    fn start(env: &Env) {
        let client = env.client(K::CONTROLLER.0);
        let sets = Arc::new(Self {
            control: PodControl { recorder: env.recorder(&client, K::CONTROLLER.0), client },
            queue: env.queue(K::CONTROLLER.1),
            expectations: Expectations::default(),
            informer: K::informer(env).clone(),
            env: env.clone(),
        });
        let this = sets.clone();
        sets.informer.on_event(move |event| {
            let key = Key::of(&**event.object());
            if let Event::Deleted(_) = event {
                this.expectations.forget(&key);
            }
            this.queue.add(key);
        });
        let this = sets.clone();
        env.informers.pods.on_event(move |event| this.on_pod(event));
        let this = sets.clone();
        sets.queue.spawn_workers(&env.ctx, 5, move |key| {
            let this = this.clone();
            async move { this.sync(&key).await }
        });
    }

    fn on_pod(&self, event: &Event<Pod>) {
        let pod = event.object();
        let owner = owners::controller_key::<K, _>(&**pod);
        match event {
            Event::Added(_) => {
                if let Some(owner) = &owner {
                    self.expectations.created(owner, 1);
                }
            }
            Event::Updated { old, new } => {
                let before = owners::controller_key::<K, _>(&**old);
                if before != owner
                    && let Some(before) = before
                {
                    self.queue.add(before);
                }
                // A pod that is being deleted is as good as gone: another may be made for it at once.
                if owners::is_deleting(&**new)
                    && let Some(owner) = &owner
                {
                    self.expectations.deleted(owner, owners::uid(&**new));
                }
                if let Some(owner) = &owner
                    && !pods::is_ready(old)
                    && pods::is_ready(new)
                    && let Some(set) = self.informer.get(owner).filter(|set| set.min_ready_seconds() > 0)
                {
                    let wait = u64::try_from(set.min_ready_seconds()).unwrap_or_default();
                    self.queue.add_after(owner.clone(), Duration::from_secs(wait + 1));
                }
            }
            Event::Deleted(pod) => {
                if let Some(owner) = &owner {
                    self.expectations.deleted(owner, owners::uid(&**pod));
                }
            }
        }
        match owner {
            Some(owner) => self.queue.add(owner),
            None if matches!(event, Event::Deleted(_)) || owners::controller_of(&**pod).is_some() => {}
            None => self.wake_adopters(pod),
        }
    }

    /// An orphan may belong to any set of its namespace that selects it.
    fn wake_adopters(&self, pod: &Pod) {
        for set in self.informer.in_namespace(pod.metadata.namespace.as_deref().unwrap_or_default()) {
            if set.selector().is_ok_and(|selector| selector.matches(owners::labels(pod))) {
                self.queue.add(Key::of(&*set));
            }
        }
    }

    async fn sync(&self, key: &Key) -> Result<Next> {
        let Some(set) = self.informer.get(key) else {
            self.expectations.forget(key);
            return Ok(Next::Done);
        };
        let needs_sync = self.expectations.are_met(key);
        let selector = match set.selector() {
            Ok(selector) => selector,
            Err(error) => {
                // Only another spec can help.
                tracing::warn!(namespace = &*key.namespace, name = &*key.name, error, "invalid selector");
                return Ok(Next::Done);
            }
        };
        let candidates = owners::candidates(&self.env.informers.pods_by_owner, &key.namespace, owners::uid(&*set));
        let (active, rest): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|pod| pods::is_active(pod));
        let terminating = rest
            .iter()
            .filter(|pod| {
                pods::is_terminating(pod) && owners::controller_of(&***pod).is_some_and(|o| o.uid == owners::uid(&*set))
            })
            .count();
        let active =
            owners::claim_all(&self.control.client, &*set, active, |pod: &Pod| selector.matches(owners::labels(pod))).await?;
        let managed = if needs_sync && !owners::is_deleting(&*set) { self.manage(key, &set, &active).await } else { Ok(()) };

        let now = self.env.ctx.clock().now();
        let old = set.status();
        let diff = active.len() as i64 - i64::from(set.replicas());
        let new = status(&*set, &old, &active, terminating, failure(&managed, diff), now);
        if new != old {
            let mut updated = (*set).clone();
            updated.set_status(new.clone());
            let api: Api<K> = Api::namespaced(self.control.client.clone(), &key.namespace);
            match api.replace_status(&key.name, &PostParams::default(), &updated).await {
                Err(error) if is_not_found(&error) => return Ok(Next::Done),
                result => _ = result.during("update the status of", key)?,
            }
        }
        managed?;
        // Clocks differ: what the status counts as unavailable must be looked at again even if no event comes.
        let wait = active
            .iter()
            .filter(|pod| !pods::is_available(pod, set.min_ready_seconds(), now))
            .filter_map(|pod| pods::available_in(pod, set.min_ready_seconds(), now))
            .min();
        Ok(wait.map_or(Next::Done, |wait| Next::After(wait.max(Duration::from_secs(1)))))
    }

    async fn manage(&self, key: &Key, set: &Arc<K>, active: &[Arc<Pod>]) -> Result<()> {
        let replicas = usize::try_from(set.replicas()).unwrap_or_default();
        let regarding = Regarding::of(&**set);
        if active.len() < replicas {
            let count = (replicas - active.len()).min(BURST);
            self.expectations.expect_creations(key, count);
            let pod = pod_from_template(&set.template(), &owners::reference_to(&**set), &key.namespace);
            let (done, result) = slow_start(count, |_| self.control.create(&regarding, &pod)).await;
            self.expectations.created(key, count - done);
            return match result {
                Err(error) if error.source_request().is_some_and(namespace_is_terminating) => Ok(()),
                result => result,
            };
        }
        if active.len() > replicas {
            let count = (active.len() - replicas).min(BURST);
            let order = pods::by_deletion_order(active, &self.related(set), self.env.ctx.clock().now());
            let doomed = &order[..count];
            self.expectations.expect_deletions(key, doomed.iter().map(|pod| owners::uid(&**pod).to_owned()));
            let forget = |pod: &Pod| self.expectations.deleted(key, owners::uid(pod));
            return self.control.delete_all(&regarding, doomed, forget).await.1;
        }
        Ok(())
    }

    /// How many active pods of this set and its siblings (those of the same Deployment) run on each node.
    fn related(&self, set: &Arc<K>) -> HashMap<String, usize> {
        let mut uids = vec![owners::uid(&**set).to_owned()];
        if let Some(parent) = owners::controller_of(&**set) {
            let siblings = self.informer.in_namespace(set.meta().namespace.as_deref().unwrap_or_default());
            uids = siblings
                .iter()
                .filter(|s| owners::controller_of(&***s).is_some_and(|o| o.uid == parent.uid))
                .map(|s| owners::uid(&**s).to_owned())
                .collect();
        }
        let mut counts = HashMap::new();
        for pod in uids.iter().flat_map(|uid| self.env.informers.pods_by_owner.get(uid)).filter(|pod| pods::is_active(pod)) {
            if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) {
                *counts.entry(node).or_default() += 1;
            }
        }
        counts
    }
}

/// What the status says went wrong.
fn failure(managed: &Result<()>, diff: i64) -> Option<(&'static str, String)> {
    let error = managed.as_ref().err()?;
    let reason = match diff {
        ..0 => "FailedCreate",
        0 => return None,
        _ => "FailedDelete",
    };
    Some((reason, Error::message(error)))
}

/// Counts pods. A failure keeps its time while it lasts, and its first text, as upstream.
fn status<K: Replicated>(
    set: &K,
    old: &Status,
    active: &[Arc<Pod>],
    terminating: usize,
    failure: Option<(&'static str, String)>,
    now: Timestamp,
) -> Status {
    let template = Selector::from_labels(&set.template().metadata.and_then(|meta| meta.labels).unwrap_or_default());
    let count = |test: &dyn Fn(&Pod) -> bool| i32::try_from(active.iter().filter(|pod| test(pod)).count()).unwrap_or(i32::MAX);
    Status {
        replicas: count(&|_| true),
        fully_labeled: count(&|pod| template.matches(owners::labels(pod))),
        ready: count(&pods::is_ready),
        available: count(&|pod| pods::is_available(pod, set.min_ready_seconds(), now)),
        terminating: (K::CONTROLLER.1 == "replicaset").then(|| i32::try_from(terminating).unwrap_or(i32::MAX)),
        observed_generation: set.meta().generation.unwrap_or_default(),
        failure: match (failure, &old.failure) {
            (None, _) => None,
            (Some(_), Some(old)) => Some(old.clone()),
            (Some((reason, message)), None) => Some((reason.to_owned(), message, Some(crate::env::seconds(now)))),
        },
        others: old.others.clone(),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::ReplicaSetSpec;

    use super::*;
    use crate::pods::testing::pod;

    #[test]
    fn status_counts_and_keeps_failures() {
        let now = Timestamp::from_second(1000).unwrap();
        let mut set = ReplicaSet::default();
        set.metadata.generation = Some(3);
        set.spec = ReplicaSetSpec { replicas: Some(3), min_ready_seconds: Some(60), ..ReplicaSetSpec::default() };
        let pods: Vec<_> =
            [pod("a", "n", "Running", Some(10)), pod("b", "n", "Running", Some(990)), pod("c", "n", "Pending", None)]
                .map(Arc::new)
                .into();
        let first = status(&set, &set.status(), &pods, 1, Some(("FailedCreate", "quota".into())), now);
        assert_eq!((first.replicas, first.ready, first.available, first.terminating), (3, 2, 1, Some(1)));
        assert_eq!(first.observed_generation, 3);
        set.set_status(first.clone());
        assert_eq!(set.status(), first, "a status survives being written");
        let later = Timestamp::from_second(1001).unwrap();
        assert_eq!(status(&set, &first, &pods, 1, Some(("FailedCreate", "other".into())), later), first);
        assert_eq!(status(&set, &first, &pods, 1, None, later).failure, None);
    }

    #[test]
    fn failures_have_a_direction() {
        let refused = || Err(Error::refused("create pod for", &"default/web", "no"));
        assert_eq!(failure(&refused(), -1).map(|f| f.0), Some("FailedCreate"));
        assert_eq!(failure(&refused(), 1).map(|f| f.0), Some("FailedDelete"));
        assert_eq!(failure(&Ok(()), -1), None);
    }
}
