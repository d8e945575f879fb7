//! `daemonset`: one pod on every node that suits (`pkg/controller/daemon`).
//!
//! The scheduler places the pods: each asks for its node by affinity. [`plan`] decides which nodes are to run one and which
//! pods have to go, [`FailedPods`] how long a failed one is left.

mod plan;
mod failed_pods;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::api::{
    apps::v1::{DaemonSet, DaemonSetStatus},
    core::v1::{Node, Pod},
};
use kube::{Api, api::PostParams};
use pharos_client::{Event, Key, Next, Regarding, is_not_found};

use crate::{
    Result,
    controller::{Controller, Names},
    env::Env,
    error::During as _,
    owners,
    pod_control::{BURST, namespace_is_terminating, pod_from_template, slow_start},
    pods,
    revisions::{self, HASH},
    selector::Selector,
};

use self::failed_pods::FailedPods;

type DaemonSets = Controller<DaemonSet>;

pub(crate) fn start(env: &Env) {
    let names = Names { account: "daemon-set-controller", reporter: "daemonset-controller", queue: "daemonset" };
    let sets = DaemonSets::start(env, &names, &env.informers.daemon_sets);
    let this = sets.clone();
    env.informers.nodes.on_event(move |event| {
        // Heartbeats concern nobody here.
        let told = |node: &Node| {
            (node.metadata.labels.clone(), node.spec.as_ref().map(|spec| (spec.taints.clone(), spec.unschedulable)))
        };
        if let Event::Updated { old, new } = event
            && told(old) == told(new)
        {
            return;
        }
        this.env.informers.daemon_sets.list().iter().for_each(|set| this.queue.add(Key::of(&**set)));
    });
    sets.follow_revisions();
    let (this, failed) = (sets.clone(), Arc::new(FailedPods::default()));
    sets.queue.spawn_workers(&env.ctx, 2, move |key| {
        let (this, failed) = (this.clone(), failed.clone());
        async move { this.sync(&key, &failed).await }
    });
}

impl DaemonSets {
    async fn sync(&self, key: &Key, failed: &FailedPods) -> Result<Next> {
        let Some(cached) = self.informer.get(key) else {
            self.expectations.forget(key);
            return Ok(Next::Done);
        };
        let mut set = (*cached).clone();
        let selector = match Selector::new(Some(&set.spec.selector)) {
            Ok(selector) if !selector.is_everything() => selector,
            _ => {
                let text = "This daemon set is selecting all pods. A non-empty selector is required.";
                self.control.recorder.warning(&Regarding::of(&set), "SelectingAll", text);
                return Ok(Next::Done);
            }
        };
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
        let hash = owners::labels(&history.current).get(HASH).cloned().unwrap_or_default();
        let candidates = owners::candidates(&self.env.informers.pods_by_owner, &key.namespace, owners::uid(&set));
        let pods =
            owners::claim_all(&self.control.client, &set, candidates, |pod: &Pod| selector.matches(owners::labels(pod))).await?;
        let nodes = self.env.informers.nodes.list();
        let by_node = plan::by_node(&pods);
        let now = self.env.ctx.clock().now();
        let mut next = Next::Done;
        let mut managed = Ok(());
        if self.expectations.are_met(key) {
            let work = plan::plan(&set, &hash, &nodes, &by_node, failed, now);
            if let Some(wait) = work.wait {
                next = Next::After(wait);
            }
            managed = self.carry_out(key, &set, &hash, work).await;
        }
        let status = plan::status(&set, &hash, &nodes, &by_node, now);
        if set.status.as_ref() != Some(&status) {
            set.status = Some(status.clone());
            self.put_status(key, &set).await?;
        }
        managed?;
        let limit = set.spec.revision_history_limit.unwrap_or(10);
        revisions::trim(&self.control.client, &history, limit, |revision| {
            let hash = owners::labels(revision).get(HASH);
            pods.iter().any(|pod| owners::labels(&**pod).get(HASH) == hash)
        })
        .await?;
        let min_ready = set.spec.min_ready_seconds.unwrap_or_default();
        if min_ready > 0 && status.number_ready != status.number_available.unwrap_or_default() {
            let wait = Duration::from_secs(u64::try_from(min_ready).unwrap_or_default());
            next = match next {
                Next::After(sooner) => Next::After(sooner.min(wait)),
                Next::Done => Next::After(wait),
            };
        }
        Ok(next)
    }

    async fn put_status(&self, key: &Key, set: &DaemonSet) -> Result<()> {
        let api: Api<DaemonSet> = Api::namespaced(self.control.client.clone(), &key.namespace);
        match api.replace_status(&key.name, &PostParams::default(), set).await {
            Err(error) if is_not_found(&error) => Ok(()),
            result => result.during("update the status of daemonset", key).map(|_| ()),
        }
    }

    async fn carry_out(&self, key: &Key, set: &DaemonSet, hash: &str, work: plan::Work) -> Result<()> {
        let regarding = Regarding::of(set);
        for pod in &work.delete {
            let (verb, reason, warn) = match pods::phase(pod) {
                "Failed" => ("Found failed daemon pod", "FailedDaemonPod", true),
                "Succeeded" => ("Found succeeded daemon pod", "SucceededDaemonPod", false),
                _ => continue,
            };
            let node = plan::target_node(pod).unwrap_or_default();
            let text =
                format!("{verb} {} on node {node}, will try to {} it", Key::of(&**pod), if warn { "kill" } else { "delete" });
            if warn {
                self.control.recorder.warning(&regarding, reason, text);
            } else {
                self.control.recorder.normal(&regarding, reason, text);
            }
        }
        let create: Vec<String> = work.create.into_iter().take(BURST).collect();
        let delete: Vec<Arc<Pod>> = work.delete.into_iter().take(BURST).collect();
        if create.is_empty() && delete.is_empty() {
            return Ok(());
        }
        self.expectations.expect(key, create.len(), delete.iter().map(|pod| owners::uid(&**pod).to_owned()));
        let template = plan::template(set, hash);
        let base = pod_from_template(&template, &owners::reference_to(set), &key.namespace);
        let made: Vec<Pod> = create.iter().map(|node| plan::for_node(base.clone(), node)).collect();
        let (done, created) = slow_start(made.len(), |at| self.control.create(&regarding, &made[at])).await;
        self.expectations.created(key, made.len() - done);
        let forget = |pod: &Pod| self.expectations.deleted(key, owners::uid(pod));
        let (_, deleted) = self.control.delete_all(&regarding, &delete, forget).await;
        match created {
            Err(error) if error.source_request().is_some_and(namespace_is_terminating) => deleted,
            created => created.and(deleted),
        }
    }
}

#[cfg(test)]
mod tests;
