//! `deployment`: moves pods from one template to the next, ReplicaSet by ReplicaSet (`pkg/controller/deployment`).
//!
//! [`plan`] holds the arithmetic of rollouts, [`annotations`] the revisions that `kubectl rollout` reads, [`status`] what is told.

mod plan;
mod annotations;
mod status;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec},
        core::v1::{Pod, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, Time},
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use pharos_api::names;
use pharos_client::{Event, Key, Next, Recorder, Regarding, WorkQueue, is_already_exists, status_of};

use crate::{
    Result,
    env::Env,
    error::{During as _, gone_is_fine},
    owners,
    pod_control::namespace_is_terminating,
    pods,
    selector::Selector,
};

pub(crate) use plan::scaled;

const HASH_LABEL: &str = "pod-template-hash";

pub(crate) fn start(env: &Env) {
    let client = env.client("deployment-controller");
    let controller = Arc::new(Deployments {
        recorder: env.recorder(&client, "deployment-controller"),
        client,
        queue: env.queue("deployment"),
        env: env.clone(),
    });
    let queue = controller.queue.clone();
    env.informers.deployments.on_event(move |event| queue.add(Key::of(&**event.object())));
    let this = controller.clone();
    env.informers.replica_sets.on_event(move |event| this.on_replica_set(event));
    let this = controller.clone();
    env.informers.pods.on_event(move |event| this.on_pod(event));
    let this = controller.clone();
    controller.queue.spawn_workers(&env.ctx, 5, move |key| {
        let this = this.clone();
        async move { this.sync(&key).await }
    });
}

struct Deployments {
    env: Env,
    client: Client,
    recorder: Recorder,
    queue: WorkQueue<Key>,
}

/// The ReplicaSets of a Deployment: the one of its present template, if there is one, and the others.
#[derive(Clone, Default)]
struct Sets {
    new: Option<ReplicaSet>,
    old: Vec<ReplicaSet>,
}

impl Sets {
    fn all(&self) -> impl Iterator<Item = &ReplicaSet> {
        self.old.iter().chain(&self.new)
    }

    /// Replaces a set by what it has become.
    fn put(&mut self, set: ReplicaSet) {
        let slot = self.old.iter_mut().chain(&mut self.new).find(|known| owners::uid(*known) == owners::uid(&set));
        if let Some(slot) = slot {
            *slot = set;
        }
    }
}

impl Deployments {
    fn on_replica_set(&self, event: &Event<ReplicaSet>) {
        let set = event.object();
        let owner = owners::controller_key::<Deployment, _>(&**set);
        if let Event::Updated { old, .. } = event {
            let before = owners::controller_key::<Deployment, _>(&**old);
            if before != owner
                && let Some(before) = before
            {
                self.queue.add(before);
            }
        }
        match owner {
            Some(owner) => self.queue.add(owner),
            None if matches!(event, Event::Deleted(_)) || owners::controller_of(&**set).is_some() => {}
            None => {
                let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
                for deployment in self.env.informers.deployments.in_namespace(namespace) {
                    let selector = Selector::new(Some(&deployment.spec.selector));
                    if selector.is_ok_and(|s| !s.is_everything() && s.matches(owners::labels(&**set))) {
                        self.queue.add(Key::of(&*deployment));
                    }
                }
            }
        }
    }

    /// Recreate goes on when the last old pod is gone or has ended.
    fn on_pod(&self, event: &Event<Pod>) {
        let ended = match event {
            Event::Deleted(_) => true,
            Event::Updated { old, new } => !pods::is_terminal(old) && pods::is_terminal(new),
            Event::Added(_) => false,
        };
        if !ended {
            return;
        }
        let owner = owners::controller_key::<ReplicaSet, _>(&**event.object())
            .and_then(|key| self.env.informers.replica_sets.get(&key))
            .and_then(|set| owners::controller_key::<Deployment, _>(&*set));
        if let Some(owner) = owner
            && self.env.informers.deployments.get(&owner).is_some_and(|d| plan::is_recreate(&d))
        {
            self.queue.add(owner);
        }
    }

    fn api(&self, key: &Key) -> Api<Deployment> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }

    fn set_api(&self, key: &Key) -> Api<ReplicaSet> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }

    fn now(&self) -> Time {
        self.env.now()
    }

    async fn sync(&self, key: &Key) -> Result<Next> {
        let Some(cached) = self.env.informers.deployments.get(key) else { return Ok(Next::Done) };
        let mut d = (*cached).clone();
        let selector = match Selector::new(Some(&d.spec.selector)) {
            Ok(selector) if !selector.is_everything() => selector,
            Ok(_) => {
                let text = "This deployment is selecting all pods. A non-empty selector is required.";
                self.recorder.warning(&Regarding::of(&d), "SelectingAll", text);
                return self.observe(key, d).await;
            }
            Err(error) => {
                tracing::warn!(namespace = &*key.namespace, name = &*key.name, error, "invalid selector");
                return self.observe(key, d).await;
            }
        };
        let candidates = owners::candidates(&self.env.informers.replica_sets_by_owner, &key.namespace, owners::uid(&d));
        let claimed =
            owners::claim_all(&self.client, &d, candidates, |set: &ReplicaSet| selector.matches(owners::labels(set))).await?;
        let claimed: Vec<ReplicaSet> = claimed.into_iter().map(|set| (*set).clone()).collect();
        if owners::is_deleting(&d) {
            let sets = plan::split(&d, claimed);
            return self.write_status(key, &mut d, &sets).await.map(|()| Next::Done);
        }
        self.note_pause(key, &mut d).await?;
        if plan::is_paused(&d) || plan::is_scaling(&d, &claimed) {
            return self.scale_only(key, &mut d, claimed).await;
        }
        if plan::is_recreate(&d) { self.recreate(key, &mut d, claimed).await } else { self.roll(key, &mut d, claimed).await }
    }

    async fn observe(&self, key: &Key, mut d: Deployment) -> Result<Next> {
        let generation = d.metadata.generation;
        if d.status.as_ref().and_then(|s| s.observed_generation) < generation {
            d.status.get_or_insert_default().observed_generation = generation;
            self.api(key).replace_status(&key.name, &PostParams::default(), &d).await.during("update the status of", key)?;
        }
        Ok(Next::Done)
    }

    async fn put_status(&self, key: &Key, d: &mut Deployment) -> Result<()> {
        *d = self.api(key).replace_status(&key.name, &PostParams::default(), d).await.during("update the status of", key)?;
        Ok(())
    }

    /// The time between pause and resumption does not count towards the deadline.
    async fn note_pause(&self, key: &Key, d: &mut Deployment) -> Result<()> {
        if let Some(condition) = status::pause_condition(d, &self.now()) {
            status::set_condition(d.status.get_or_insert_default(), condition);
            self.put_status(key, d).await?;
        }
        Ok(())
    }

    async fn roll(&self, key: &Key, d: &mut Deployment, claimed: Vec<ReplicaSet>) -> Result<Next> {
        let mut sets = self.sets(key, d, claimed, true).await?;
        if let Some(new) = sets.new.clone() {
            let wanted = plan::new_replicas(d, &sets);
            if wanted != plan::replicas(&new) {
                self.scale(key, d, &mut sets, &new, wanted).await?;
                return self.rollout_status(key, d, &sets).await;
            }
        }
        let down = plan::scale_down_old(d, &sets);
        if !down.is_empty() {
            for (set, replicas) in down {
                self.scale(key, d, &mut sets, &set, replicas).await?;
            }
            return self.rollout_status(key, d, &sets).await;
        }
        if status::is_complete(d, d.status.as_ref()) {
            self.clean_up(key, d, &sets).await?;
        }
        self.rollout_status(key, d, &sets).await
    }

    async fn recreate(&self, key: &Key, d: &mut Deployment, claimed: Vec<ReplicaSet>) -> Result<Next> {
        let mut sets = self.sets(key, d, claimed.clone(), false).await?;
        let active: Vec<_> = sets.old.iter().filter(|set| plan::replicas(set) > 0).cloned().collect();
        if !active.is_empty() {
            for set in active {
                self.scale(key, d, &mut sets, &set, 0).await?;
            }
            return self.rollout_status(key, d, &sets).await;
        }
        if self.old_pods_run(&sets) {
            return self.rollout_status(key, d, &sets).await;
        }
        if sets.new.is_none() {
            sets = self.sets(key, d, claimed, true).await?;
        }
        if let Some(new) = sets.new.clone()
            && plan::replicas(&new) != plan::wanted(d)
        {
            self.scale(key, d, &mut sets, &new, plan::wanted(d)).await?;
        }
        if status::is_complete(d, d.status.as_ref()) {
            self.clean_up(key, d, &sets).await?;
        }
        self.rollout_status(key, d, &sets).await
    }

    fn old_pods_run(&self, sets: &Sets) -> bool {
        sets.old.iter().any(|set| {
            set.status.as_ref().is_some_and(|s| s.replicas > 0)
                || self.env.informers.pods_by_owner.get(owners::uid(set)).iter().any(|pod| !pods::is_terminal(pod))
        })
    }

    async fn scale_only(&self, key: &Key, d: &mut Deployment, claimed: Vec<ReplicaSet>) -> Result<Next> {
        let mut sets = self.sets(key, d, claimed, false).await?;
        for (set, replicas) in plan::proportional(d, &sets) {
            self.scale(key, d, &mut sets, &set, replicas).await?;
        }
        if plan::is_paused(d) {
            self.clean_up(key, d, &sets).await?;
        }
        self.write_status(key, d, &sets).await?;
        Ok(Next::Done)
    }

    /// Writes a set's size and the annotations that say what the Deployment asked for when it was sized.
    async fn scale(&self, key: &Key, d: &Deployment, sets: &mut Sets, set: &ReplicaSet, replicas: i32) -> Result<()> {
        let before = plan::replicas(set);
        let mut scaled = set.clone();
        let annotated = annotations::set_replicas(&mut scaled, plan::wanted(d), plan::wanted(d) + plan::max_surge(d));
        if before == replicas && !annotated {
            return Ok(());
        }
        scaled.spec.replicas = Some(replicas);
        let name = owners::name(set);
        let updated =
            self.set_api(key).replace(name, &PostParams::default(), &scaled).await.during("scale replica set", &name)?;
        if before != replicas {
            let direction = if before < replicas { "up" } else { "down" };
            let text = format!("Scaled {direction} replica set {name} from {before} to {replicas}");
            self.recorder.normal(&Regarding::of(d), "ScalingReplicaSet", text);
        }
        sets.put(updated);
        Ok(())
    }

    /// The ReplicaSets, with revisions in order; the one of the present template is made if `create` says so.
    async fn sets(&self, key: &Key, d: &mut Deployment, claimed: Vec<ReplicaSet>, create: bool) -> Result<Sets> {
        let mut sets = plan::split(d, claimed);
        let revision = sets.old.iter().map(annotations::revision).max().unwrap_or_default() + 1;
        let mut changed = false;
        if let Some(existing) = &sets.new {
            let mut set = existing.clone();
            let annotated = annotations::set_new(d, &mut set, revision, true);
            let min_ready = d.spec.min_ready_seconds;
            let spec = &mut set.spec;
            if annotated || spec.min_ready_seconds.unwrap_or_default() != min_ready.unwrap_or_default() {
                spec.min_ready_seconds = min_ready;
                let name = owners::name(&set).to_owned();
                let updated = self.set_api(key).replace(&name, &PostParams::default(), &set).await;
                sets.new = Some(updated.during("update replica set", &name)?);
                return Ok(sets);
            }
            changed |= annotations::set_revision(d, &annotations::revision(&set).to_string());
            if status::has_deadline(d) && status::condition(d.status.as_ref(), "Progressing").is_none() {
                let text = format!("Found new replica set \"{}\"", owners::name(&set));
                let condition = status::progressing("True", "FoundNewReplicaSet", text, &self.now());
                status::set_condition(d.status.get_or_insert_default(), condition);
                changed = true;
            }
        } else if create {
            let made = self.create_set(key, d, &sets, revision).await?;
            if let Some((set, fresh)) = made {
                changed |= annotations::set_revision(d, &revision.to_string());
                if fresh && status::has_deadline(d) {
                    let text = format!("Created new replica set \"{}\"", owners::name(&set));
                    let condition = status::progressing("True", "NewReplicaSetCreated", text, &self.now());
                    status::set_condition(d.status.get_or_insert_default(), condition);
                    changed = true;
                }
                sets.new = Some(set);
            }
        }
        if changed {
            self.put_status(key, d).await?;
        }
        Ok(sets)
    }

    /// The new set, and whether it was made just now. `None` if the namespace is going away.
    async fn create_set(&self, key: &Key, d: &mut Deployment, sets: &Sets, revision: i64) -> Result<Option<(ReplicaSet, bool)>> {
        let mut set = new_set(d);
        annotations::set_new(d, &mut set, revision, false);
        let with_new = Sets { new: Some(set.clone()), old: sets.old.clone() };
        let replicas = plan::new_replicas(d, &with_new);
        set.spec.replicas = Some(replicas);
        let name = owners::name(&set).to_owned();
        let error = match self.set_api(key).create(&PostParams::default(), &set).await {
            Ok(created) => {
                if replicas > 0 {
                    let text = format!("Scaled up replica set {name} from 0 to {replicas}");
                    self.recorder.normal(&Regarding::of(d), "ScalingReplicaSet", text);
                }
                return Ok(Some((created, true)));
            }
            Err(error) => error,
        };
        if is_already_exists(&error) {
            // Ours, not yet in the cache; or another's template with the same hash.
            let existing = self.set_api(key).get(&name).await.during("get replica set", &name)?;
            let ours = owners::controller_of(&existing).is_some_and(|owner| owner.uid == owners::uid(d));
            if ours && plan::same_template(d, &existing) {
                return Ok(Some((existing, false)));
            }
            let status = d.status.get_or_insert_default();
            status.collision_count = Some(status.collision_count.unwrap_or_default() + 1);
            self.put_status(key, d).await?;
            return Err(error).during("create replica set", &name);
        }
        if namespace_is_terminating(&error) {
            return Ok(None);
        }
        let message = status_of(&error).map_or_else(|| error.to_string(), |s| s.message.clone());
        let text = format!("Failed to create new replica set \"{name}\": {message}");
        if status::has_deadline(d) {
            let condition = status::progressing("False", "ReplicaSetCreateError", text.clone(), &self.now());
            let mut wanted = d.status.clone().unwrap_or_default();
            status::set_condition(&mut wanted, condition);
            if d.status.as_ref() != Some(&wanted) {
                d.status = Some(wanted);
                self.put_status(key, d).await?;
            }
        }
        self.recorder.warning(&Regarding::of(d), "ReplicaSetCreateError", text);
        Err(error).during("create replica set", &name)
    }

    /// Deletes empty old sets beyond the history limit, oldest revision first.
    async fn clean_up(&self, key: &Key, d: &Deployment, sets: &Sets) -> Result<()> {
        for set in plan::beyond_history(d, &sets.old) {
            let name = owners::name(set);
            let deleted = self.set_api(key).delete(name, &DeleteParams::background()).await;
            gone_is_fine(deleted).during("delete replica set", &name)?;
        }
        Ok(())
    }

    async fn write_status(&self, key: &Key, d: &mut Deployment, sets: &Sets) -> Result<()> {
        let new = status::calculate(d, sets, &self.now());
        if d.status.as_ref() == Some(&new) {
            return Ok(());
        }
        d.status = Some(new);
        let written = self.api(key).replace_status(&key.name, &PostParams::default(), d).await;
        gone_is_fine(written).during("update the status of", key)?;
        Ok(())
    }

    async fn rollout_status(&self, key: &Key, d: &mut Deployment, sets: &Sets) -> Result<Next> {
        let new = status::rollout(d, sets, &self.now());
        if d.status.as_ref() == Some(&new) {
            return Ok(status::deadline_in(d, &new, self.env.ctx.clock().now()).map_or(Next::Done, Next::After));
        }
        d.status = Some(new.clone());
        self.put_status(key, d).await?;
        let wait = status::deadline_in(d, &new, self.env.ctx.clock().now());
        Ok(wait.map_or(Next::Done, |wait| Next::After(wait.max(Duration::from_secs(1)))))
    }
}

/// The ReplicaSet of a Deployment's present template, still without replicas.
fn new_set(d: &Deployment) -> ReplicaSet {
    let spec = d.spec.clone();
    let collisions = d.status.as_ref().and_then(|s| s.collision_count).map(i64::from);
    let hash = names::template_hash(&serde_json::to_value(&spec.template).unwrap_or_default(), collisions);
    let mut template: PodTemplateSpec = spec.template;
    let labels = {
        let labels: &mut BTreeMap<String, String> = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(HASH_LABEL.into(), hash.clone());
        labels.clone()
    };
    let mut selector: LabelSelector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.clone());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", owners::name(d))),
            namespace: d.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![owners::reference_to(d)]),
            ..ObjectMeta::default()
        },
        spec: ReplicaSetSpec { replicas: Some(0), min_ready_seconds: spec.min_ready_seconds, selector, template: Some(template) },
        status: None,
    }
}

#[cfg(test)]
mod tests;
