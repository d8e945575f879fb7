//! `statefulset`: pods with names, order and claims of their own (`pkg/controller/statefulset`).
//!
//! [`plan`] decides what one sync does; with `OrderedReady` that is one step at a time.

mod plan;

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::{
    apps::v1::{ControllerRevision, StatefulSet},
    core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec},
};
use kube::{Api, api::PostParams};
use pharos_client::{Key, Next, Regarding, is_already_exists, is_not_found, status_of};

use crate::{
    Result,
    controller::{Controller, Names},
    env::Env,
    error::{During as _, gone_is_fine},
    owners,
    pod_control::namespace_is_terminating,
    pods,
    revisions::{self, HASH},
    selector::Selector,
};

type StatefulSets = Controller<StatefulSet>;

pub(crate) fn start(env: &Env) {
    let names = Names { account: "statefulset-controller", reporter: "statefulset-controller", queue: "statefulset" };
    let sets = StatefulSets::start(env, &names, &env.informers.stateful_sets);
    sets.follow_revisions();
    let this = sets.clone();
    sets.queue.spawn_workers(&env.ctx, 5, move |key| {
        let this = this.clone();
        async move { this.sync(&key).await }
    });
}

impl StatefulSets {
    async fn sync(&self, key: &Key) -> Result<Next> {
        let Some(cached) = self.informer.get(key) else {
            self.expectations.forget(key);
            return Ok(Next::Done);
        };
        let mut set = (*cached).clone();
        let selector = match Selector::new(Some(&set.spec.selector)) {
            Ok(selector) if !selector.is_everything() => selector,
            _ => return Ok(Next::Done), // Refused by validation.
        };
        let candidates = owners::candidates(&self.env.informers.pods_by_owner, &key.namespace, owners::uid(&set));
        // Only pods that are called like the set's are adopted.
        let matches = |pod: &Pod| selector.matches(owners::labels(pod)) && plan::ordinal(&set, pod).is_some();
        let pods = owners::claim_all(&self.control.client, &set, candidates, matches).await?;
        if owners::is_deleting(&set) {
            return Ok(Next::Done);
        }
        let mut collisions = set.status.as_ref().and_then(|status| status.collision_count);
        let history =
            revisions::sync(&self.env, &self.control.client, &set, &selector, &set.spec.template, &mut collisions).await;
        if collisions != set.status.as_ref().and_then(|status| status.collision_count) {
            set.status.get_or_insert_default().collision_count = collisions;
            self.put_status(key, &set).await?;
        }
        let history = history?;
        let named = set.status.as_ref().and_then(|status| status.current_revision.clone());
        let current = history.all.iter().find(|revision| Some(owners::name(*revision)) == named.as_deref());
        let current = current.unwrap_or(&history.current).clone();
        let update = history.current.clone();

        let now = self.env.ctx.clock().now();
        let mut result = Ok(());
        if self.expectations.are_met(key) {
            let steps = plan::steps(&set, owners::name(&current), owners::name(&update), &pods, now);
            result = self.carry_out(key, &set, &steps, &current, &update).await;
        }
        let status = plan::status(&set, owners::name(&current), owners::name(&update), &pods, now);
        if set.status.as_ref() != Some(&status) {
            set.status = Some(status);
            self.put_status(key, &set).await?;
        }
        result?;
        self.retain_claims(key, &set, &pods).await?;
        let limit = set.spec.revision_history_limit.unwrap_or(10);
        revisions::trim(&self.control.client, &history, limit, |revision| {
            owners::name(revision) == owners::name(&current)
                || pods.iter().any(|pod| owners::labels(&**pod).get(HASH).is_some_and(|hash| hash == owners::name(revision)))
        })
        .await?;
        let min_ready = set.spec.min_ready_seconds.unwrap_or_default();
        let wait = pods
            .iter()
            .filter(|pod| min_ready > 0 && !pods::is_available(pod, min_ready, now))
            .filter_map(|pod| pods::available_in(pod, min_ready, now))
            .min();
        Ok(wait.map_or(Next::Done, |wait| Next::After(wait.max(Duration::from_secs(1)))))
    }

    async fn put_status(&self, key: &Key, set: &StatefulSet) -> Result<()> {
        let api: Api<StatefulSet> = Api::namespaced(self.control.client.clone(), &key.namespace);
        match api.replace_status(&key.name, &PostParams::default(), set).await {
            Err(error) if is_not_found(&error) => Ok(()),
            result => result.during("update the status of statefulset", key).map(|_| ()),
        }
    }

    async fn carry_out(
        &self,
        key: &Key,
        set: &StatefulSet,
        steps: &plan::Steps,
        current: &ControllerRevision,
        update: &ControllerRevision,
    ) -> Result<()> {
        if steps.create.is_empty() && steps.delete.is_empty() {
            return Ok(());
        }
        let uids = steps.delete.iter().map(|(pod, _)| owners::uid(&**pod).to_owned());
        self.expectations.expect(key, steps.create.len(), uids);
        let mut result = Ok(());
        for (ordinal, revision) in &steps.create {
            let of = if revision == owners::name(current) { current } else { update };
            let template = revisions::template_of(of).unwrap_or_else(|| set.spec.template.clone());
            let made = match &result {
                Ok(()) => self.create(key, set, *ordinal, revision, &template).await,
                Err(_) => Ok(false),
            };
            match made {
                Ok(true) => {}
                Ok(false) => self.expectations.created(key, 1),
                Err(error) => {
                    self.expectations.created(key, 1);
                    result = Err(error);
                }
            }
        }
        for (pod, reason) in &steps.delete {
            match self.delete(set, pod, *reason).await {
                Ok(true) => {}
                Ok(false) => self.expectations.deleted(key, owners::uid(&**pod)),
                Err(error) => {
                    self.expectations.deleted(key, owners::uid(&**pod));
                    result = result.and(Err(error));
                }
            }
        }
        result
    }

    /// Makes a pod's claims, then the pod. Returns whether the pod is new.
    async fn create(
        &self,
        key: &Key,
        set: &StatefulSet,
        ordinal: i32,
        revision: &str,
        template: &PodTemplateSpec,
    ) -> Result<bool> {
        let regarding = Regarding::of(set);
        let recorder = &self.control.recorder;
        let pod = plan::pod(set, template, ordinal, revision);
        let name = owners::name(&pod).to_owned();
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.control.client.clone(), &key.namespace);
        for claim in plan::claims(set, ordinal) {
            let claim_name = owners::name(&claim).to_owned();
            if let Some(existing) = self.env.informers.claims.get(&Key::new(key.namespace.clone(), claim_name.as_str())) {
                if owners::is_deleting(&*existing) {
                    let text = format!("PVC {claim_name} is being deleted");
                    return Err(crate::Error::refused("create pod", &Key::new(key.namespace.clone(), name), text));
                }
                continue;
            }
            match claims.create(&PostParams::default(), &claim).await {
                Ok(_) => {
                    let text = format!("create Claim {claim_name} Pod {name} in StatefulSet {} success", key.name);
                    recorder.normal(&regarding, "SuccessfulCreate", text);
                }
                Err(error) if is_already_exists(&error) => {}
                Err(error) => {
                    let message = status_of(&error).map_or_else(|| error.to_string(), |s| s.message.clone());
                    let text =
                        format!("create Claim {claim_name} for Pod {name} in StatefulSet {} failed error: {message}", key.name);
                    recorder.warning(&regarding, "FailedCreate", text);
                    return Err(error).during("create claim", &Key::new(key.namespace.clone(), claim_name));
                }
            }
        }
        let api: Api<Pod> = Api::namespaced(self.control.client.clone(), &key.namespace);
        match api.create(&PostParams::default(), &pod).await {
            Ok(_) => {
                let text = format!("create Pod {name} in StatefulSet {} successful", key.name);
                recorder.normal(&regarding, "SuccessfulCreate", text);
                Ok(true)
            }
            // Still there, or not in the cache yet.
            Err(error) if is_already_exists(&error) => Ok(false),
            Err(error) if namespace_is_terminating(&error) => Ok(false),
            Err(error) => {
                let message = status_of(&error).map_or_else(|| error.to_string(), |s| s.message.clone());
                let text = format!("create Pod {name} in StatefulSet {} failed error: {message}", key.name);
                recorder.warning(&regarding, "FailedCreate", text);
                Err(error).during("create pod", &Key::new(key.namespace.clone(), name))
            }
        }
    }

    async fn delete(&self, set: &StatefulSet, pod: &Pod, reason: plan::Reason) -> Result<bool> {
        let (regarding, name) = (Regarding::of(set), owners::name(pod));
        let recorder = &self.control.recorder;
        match reason {
            plan::Reason::Failed => {
                let text = format!("StatefulSet {} is recreating failed Pod {name}", Key::of(set));
                recorder.warning(&regarding, "RecreatingFailedPod", text);
            }
            plan::Reason::Succeeded => {
                let text = format!("StatefulSet {} is recreating terminated Pod {name}", Key::of(set));
                recorder.normal(&regarding, "RecreatingTerminatedPod", text);
            }
            plan::Reason::Scaled | plan::Reason::Updated => {}
        }
        let api: Api<Pod> = Api::namespaced(self.control.client.clone(), &regarding.namespace);
        let deleted = gone_is_fine(api.delete(name, &Default::default()).await);
        match deleted {
            Ok(Some(_)) => {
                let text = format!("delete Pod {name} in StatefulSet {} successful", owners::name(set));
                recorder.normal(&regarding, "SuccessfulDelete", text);
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(error) => {
                let text = format!("delete Pod {name} in StatefulSet {} failed error: {error}", owners::name(set));
                recorder.warning(&regarding, "FailedDelete", text);
                Err(error).during("delete pod", &Key::of(pod))
            }
        }
    }

    /// Says by owner references with whom each claim goes.
    async fn retain_claims(&self, key: &Key, set: &StatefulSet, pods: &[Arc<Pod>]) -> Result<()> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.control.client.clone(), &key.namespace);
        for pod in pods {
            let Some(ordinal) = plan::ordinal(set, pod) else { continue };
            for claim in plan::claims(set, ordinal) {
                let claim_key = Key::of(&claim);
                let Some(existing) = self.env.informers.claims.get(&claim_key) else { continue };
                let Some(wanted) = plan::claim_owners(set, pod, ordinal, &existing) else { continue };
                let mut updated = (*existing).clone();
                updated.metadata.owner_references = (!wanted.is_empty()).then_some(wanted);
                let result = api.replace(&claim_key.name, &PostParams::default(), &updated).await;
                gone_is_fine(result).during("update the owners of claim", &claim_key)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
