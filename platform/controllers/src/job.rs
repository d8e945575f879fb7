//! `job`: pods that run to their end, so often as asked (`pkg/controller/job`).
//!
//! [`outcome`] says what the pods that ended amount to, [`indexes`] is the notation of completed indexes. A pod is counted once:
//! its UID goes into `uncountedTerminatedPods`, then its finalizer is removed, then its UID moves into the counts.
//!
//! Differs: back-off after failures is kept by Job rather than by pod, from the latest failures in the cache.

mod indexes;
mod outcome;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::future::join_all;
use k8s_openapi::{
    api::{
        batch::v1::{Job, JobCondition, JobStatus, UncountedTerminatedPods},
        core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use pharos_client::{Event, Key, Next, Regarding, is_conflict, is_not_found};
use serde_json::json;

use crate::{
    Result,
    controller::{Controller, Names},
    env::Env,
    error::{During as _, gone_is_fine},
    owners,
    pod_control::{BURST, namespace_is_terminating, pod_from_template, slow_start},
    pods,
    selector::Selector,
};

use self::{
    indexes::Indexes,
    outcome::{Failure, is_finished},
};

pub(crate) use outcome::finished_at;

const TRACKING: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// The most UIDs that the status holds (upstream's `MaxUncountedPods`).
const MAX_UNCOUNTED: usize = 500;
/// Back-off before a failed pod is replaced: 10 s, doubled by each failure, at most 10 min.
const BACKOFF: (u64, u64) = (10, 600);

type Jobs = Controller<Job>;

pub(crate) fn start(env: &Env) {
    let names = Names { account: "job-controller", reporter: "job-controller", queue: "job" };
    let jobs = Jobs::start(env, &names, &env.informers.jobs);
    let this = jobs.clone();
    jobs.queue.spawn_workers(&env.ctx, 5, move |key| {
        let this = this.clone();
        async move { this.sync(&key).await }
    });
    // Pods whose Job is gone must not be held by its finalizer.
    let orphans = env.queue("job_orphan_pod");
    let put = orphans.clone();
    env.informers.pods.on_event(move |event| {
        let pod = event.object();
        if is_tracked(pod) && !matches!(event, Event::Deleted(_)) {
            put.add(Key::of(&**pod));
        }
    });
    let (put, index) = (orphans.clone(), env.informers.pods_by_owner.clone());
    env.informers.jobs.on_event(move |event| {
        if let Event::Deleted(job) = event {
            index.get(owners::uid(&**job)).iter().filter(|pod| is_tracked(pod)).for_each(|pod| put.add(Key::of(&**pod)));
        }
    });
    let this = jobs.clone();
    orphans.spawn_workers(&env.ctx, 2, move |key| {
        let this = this.clone();
        async move { this.release_orphan(&key).await }
    });
    start_ttl(env);
}

fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == TRACKING)
}

impl Jobs {
    async fn release_orphan(&self, key: &Key) -> Result<Next> {
        let Some(pod) = self.env.informers.pods.get(key).filter(|pod| is_tracked(pod)) else { return Ok(Next::Done) };
        if let Some(owner) = owners::controller_key::<Job, _>(&*pod) {
            let uid = owners::controller_of(&*pod).map(|owner| owner.uid.clone()).unwrap_or_default();
            if self.env.informers.jobs.get(&owner).is_some_and(|job| owners::uid(&*job) == uid) {
                return Ok(Next::Done);
            }
            // The cache of Jobs may be behind that of pods.
            let api: Api<Job> = Api::namespaced(self.control.client.clone(), &key.namespace);
            let live = gone_is_fine(api.get(&owner.name).await).during("get job", &owner)?;
            if live.is_some_and(|job| owners::uid(&job) == uid) {
                return Ok(Next::Done);
            }
        } else if owners::controller_of(&*pod).is_some() {
            return Ok(Next::Done);
        }
        self.untrack(&pod).await?;
        Ok(Next::Done)
    }

    /// Removes the finalizer, so the pod may go.
    async fn untrack(&self, pod: &Pod) -> Result<()> {
        let key = Key::of(pod);
        let api: Api<Pod> = Api::namespaced(self.control.client.clone(), &key.namespace);
        let patch = json!({"metadata": {"uid": owners::uid(pod), "$deleteFromPrimitiveList/finalizers": [TRACKING]}});
        let result = api.patch(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        match result {
            // Another pod of that name: this one is gone.
            Err(error) if is_conflict(&error) => Ok(()),
            result => gone_is_fine(result).during("remove the finalizer of pod", &key).map(|_| ()),
        }
    }

    /// Pods that the Job itself has no more use for do not count as failures.
    async fn untrack_all(&self, pods: &[Arc<Pod>]) -> Result<()> {
        join_all(pods.iter().filter(|pod| is_tracked(pod)).map(|pod| self.untrack(pod))).await.into_iter().collect()
    }

    async fn sync(&self, key: &Key) -> Result<Next> {
        let Some(job) = self.informer.get(key) else {
            self.expectations.forget(key);
            return Ok(Next::Done);
        };
        let spec = job.spec.clone().unwrap_or_default();
        if spec.managed_by.as_deref().is_some_and(|by| by != "kubernetes.io/job-controller") {
            return Ok(Next::Done);
        }
        let selector = match Selector::new(spec.selector.as_ref()) {
            Ok(selector) => selector,
            Err(error) => {
                tracing::warn!(namespace = &*key.namespace, name = &*key.name, error, "invalid selector");
                return Ok(Next::Done);
            }
        };
        let needs_sync = self.expectations.are_met(key);
        let candidates = owners::candidates(&self.env.informers.pods_by_owner, &key.namespace, owners::uid(&*job));
        let pods = if is_finished(&job) {
            candidates
                .into_iter()
                .filter(|pod| owners::controller_of(&**pod).is_some_and(|o| o.uid == owners::uid(&*job)))
                .collect()
        } else {
            let matches = |pod: &Pod| selector.matches(owners::labels(pod));
            owners::claim_all(&self.control.client, &*job, candidates, matches).await?
        };
        if is_finished(&job) {
            // Whatever is left of it: remove finalizers, delete what still runs.
            for pod in pods.iter().filter(|pod| is_tracked(pod) && (pods::is_terminal(pod) || owners::is_deleting(&***pod))) {
                self.untrack(pod).await?;
            }
            return Ok(Next::Done);
        }
        self.advance(key, &job, &pods, needs_sync).await
    }

    async fn advance(&self, key: &Key, job: &Arc<Job>, pods: &[Arc<Pod>], needs_sync: bool) -> Result<Next> {
        let now = self.env.now();
        let spec = job.spec.clone().unwrap_or_default();
        let regarding = Regarding::of(&**job);
        let old = job.status.clone().unwrap_or_default();
        let mut status = old.clone();
        let suspended = spec.suspend.unwrap_or_default();
        if status.start_time.is_none() && !suspended {
            status.start_time = Some(now.clone());
        }
        let active: Vec<Arc<Pod>> = pods.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
        let counts = outcome::count(job, pods);
        let mut next = Next::Done;

        // What ends the Job, if anything does.
        let mut end = outcome::announced_failure(&old);
        if end.is_none() {
            end = outcome::failure(job, pods, &counts, now.0);
        }
        let mut success = None;
        if end.is_none() {
            success = outcome::success(job, &counts, &active);
        }
        let mut active_now = active.len();
        let mut managed = Ok(());
        let ending = end.is_some() || success.is_some();
        if ending || (suspended && !active.is_empty()) {
            if !needs_sync {
                // The cache lacks pods that were made, or shows pods as active that were deleted: nothing can be said to have
                // ended by it. The events that it lacks bring the Job back.
                return Ok(Next::Done);
            }
            if !active.is_empty() {
                if end.is_none() {
                    self.untrack_all(&active).await?;
                }
                self.expectations.expect_deletions(key, active.iter().map(|pod| owners::uid(&**pod).to_owned()));
                let forget = |pod: &Pod| self.expectations.deleted(key, owners::uid(pod));
                let (deleted, result) = self.control.delete_all(&regarding, &active, forget).await;
                active_now -= deleted;
                managed = result;
            }
        } else if needs_sync && !owners::is_deleting(&**job) && !suspended {
            let (running, result, wait) = self.manage(key, job, pods, &active, &counts).await;
            active_now = running;
            managed = result;
            if let Some(wait) = wait {
                next = Next::After(wait);
            }
        }
        if let (Some(seconds), Some(start), false) = (spec.active_deadline_seconds, &status.start_time, ending) {
            let due = start.0 + jiff::SignedDuration::from_secs(seconds);
            let wait = Duration::try_from(due.duration_since(now.0)).unwrap_or_default() + Duration::from_millis(500);
            next = match next {
                Next::After(sooner) => Next::After(sooner.min(wait)),
                Next::Done => Next::After(wait),
            };
        }

        outcome::suspension(&mut status, suspended, &now, |reason, message| {
            self.control.recorder.normal(&regarding, reason, message)
        });
        outcome::tally(&mut status, pods, active_now);
        if let Some(failure) = &end {
            outcome::announce(&mut status, "FailureTarget", &failure.reason, &failure.message, &now);
        } else if let Some((reason, message)) = &success {
            outcome::announce(&mut status, "SuccessCriteriaMet", reason, message, &now);
        }
        self.track(key, job, pods, &old, status, counts, Ending { failure: end, success }).await?;
        managed?;
        Ok(next)
    }

    /// Counts the pods that ended, in steps that lose none if one of them fails, and ends the Job when all are counted.
    #[expect(clippy::too_many_arguments, reason = "the state of one sync, used here only")]
    async fn track(
        &self,
        key: &Key,
        job: &Arc<Job>,
        pods: &[Arc<Pod>],
        old: &JobStatus,
        mut status: JobStatus,
        counts: outcome::Counts,
        ending: Ending,
    ) -> Result<()> {
        let indexed = outcome::is_indexed(job);
        let mut uncounted = status.uncounted_terminated_pods.take().unwrap_or_default();
        let mut succeeded: BTreeSet<String> = uncounted.succeeded.take().unwrap_or_default().into_iter().collect();
        let mut failed: BTreeSet<String> = uncounted.failed.take().unwrap_or_default().into_iter().collect();
        let fresh: Vec<&Arc<Pod>> = pods
            .iter()
            .filter(|pod| is_tracked(pod) && outcome::ended(job, pod, ending.failure.is_some() || ending.success.is_some()))
            .filter(|pod| !succeeded.contains(owners::uid(&***pod)) && !failed.contains(owners::uid(&***pod)))
            .take(MAX_UNCOUNTED.saturating_sub(succeeded.len() + failed.len()))
            .collect();
        for pod in &fresh {
            match pods::phase(pod) {
                "Succeeded" if !indexed => _ = succeeded.insert(owners::uid(&***pod).to_owned()),
                "Succeeded" => {}
                _ if outcome::has_failed(job, pod, ending.failure.is_some()) => {
                    _ = failed.insert(owners::uid(&***pod).to_owned());
                }
                _ => {}
            }
        }
        // UIDs whose pod is gone or already without finalizer are safe to count.
        let held = |uid: &String| pods.iter().any(|pod| owners::uid(&**pod) == uid && is_tracked(pod));
        let settled = |set: &mut BTreeSet<String>| {
            let done: Vec<String> = set.iter().filter(|uid| !held(uid)).cloned().collect();
            done.iter().for_each(|uid| _ = set.remove(uid));
            i32::try_from(done.len()).unwrap_or_default()
        };
        let (more_succeeded, more_failed) = (settled(&mut succeeded), settled(&mut failed));
        if indexed {
            status.completed_indexes = counts.completed.text();
            status.succeeded = some_count(counts.completed.len());
            if job.spec.as_ref().is_some_and(|spec| spec.backoff_limit_per_index.is_some()) {
                status.failed_indexes = Some(counts.failed_indexes.text().unwrap_or_default());
            }
        } else {
            status.succeeded = nonzero(status.succeeded.unwrap_or_default() + more_succeeded);
        }
        status.failed = nonzero(status.failed.unwrap_or_default() + more_failed);
        let list = |set: &BTreeSet<String>| (!set.is_empty()).then(|| set.iter().cloned().collect());
        status.uncounted_terminated_pods = Some(UncountedTerminatedPods { succeeded: list(&succeeded), failed: list(&failed) });
        let all_gone = outcome::all_gone(&status);
        let all_counted = succeeded.is_empty() && failed.is_empty() && fresh.is_empty();
        let regarding = Regarding::of(&**job);
        if all_gone && all_counted {
            let now = self.env.now();
            if let Some(failure) = &ending.failure {
                outcome::announce(&mut status, "Failed", &failure.reason, &failure.message, &now);
            } else if let Some((reason, message)) = &ending.success {
                outcome::announce(&mut status, "Complete", reason, message, &now);
                status.completion_time = Some(now);
            }
        }
        let finished = all_gone && all_counted && (ending.failure.is_some() || ending.success.is_some());
        if status != *old {
            let mut updated = (**job).clone();
            updated.status = Some(status);
            let api: Api<Job> = Api::namespaced(self.control.client.clone(), &key.namespace);
            match api.replace_status(&key.name, &PostParams::default(), &updated).await {
                Err(error) if is_not_found(&error) => return Ok(()),
                result => _ = result.during("update the status of job", key)?,
            }
            if finished {
                match &ending.failure {
                    Some(failure) => self.control.recorder.warning(&regarding, &failure.reason, failure.message.clone()),
                    None => self.control.recorder.normal(&regarding, "Completed", "Job completed"),
                }
            }
        }
        // Only now that the status names them may the pods go. Their events bring the Job back.
        let results = join_all(
            pods.iter()
                .filter(|pod| is_tracked(pod) && outcome::ended(job, pod, ending.failure.is_some() || ending.success.is_some()))
                .filter(|pod| {
                    let uid = owners::uid(&***pod);
                    succeeded.contains(uid) || failed.contains(uid) || fresh.iter().any(|f| owners::uid(&***f) == uid)
                })
                .map(|pod| self.untrack(pod)),
        )
        .await;
        results.into_iter().collect()
    }

    /// Makes or deletes pods until as many run as should. Returns how many run, and when to look again.
    async fn manage(
        &self,
        key: &Key,
        job: &Arc<Job>,
        pods: &[Arc<Pod>],
        active: &[Arc<Pod>],
        counts: &outcome::Counts,
    ) -> (usize, Result<()>, Option<Duration>) {
        let regarding = Regarding::of(&**job);
        let wanted = outcome::wanted_active(job, counts, active.len());
        let doomed = outcome::surplus(job, active, counts, wanted, self.env.ctx.clock().now());
        if !doomed.is_empty() {
            let doomed: Vec<Arc<Pod>> = doomed.into_iter().take(BURST).collect();
            if let Err(error) = self.untrack_all(&doomed).await {
                return (active.len(), Err(error), None);
            }
            self.expectations.expect_deletions(key, doomed.iter().map(|pod| owners::uid(&**pod).to_owned()));
            let forget = |pod: &Pod| self.expectations.deleted(key, owners::uid(pod));
            let (deleted, result) = self.control.delete_all(&regarding, &doomed, forget).await;
            return (active.len() - deleted, result, None);
        }
        let replacing = outcome::replaces_terminating(job);
        let going = if replacing { 0 } else { pods.iter().filter(|pod| pods::is_terminating(pod)).count() };
        let missing = wanted.saturating_sub(active.len() + going).min(BURST);
        if missing == 0 {
            return (active.len(), Ok(()), None);
        }
        if let Some(wait) = outcome::back_off(pods, BACKOFF, self.env.ctx.clock().now()) {
            return (active.len(), Ok(()), Some(wait));
        }
        let made: Vec<Pod> = if outcome::is_indexed(job) {
            let held: Vec<&Arc<Pod>> =
                pods.iter().filter(|pod| pods::is_active(pod) || (!replacing && pods::is_terminating(pod))).collect();
            outcome::next_indexes(job, counts, &held, missing)
                .into_iter()
                .map(|index| indexed_pod(job, key, index, counts.failures_of(index)))
                .collect()
        } else {
            vec![plain_pod(job, key); missing]
        };
        self.expectations.expect_creations(key, made.len());
        let (done, result) = slow_start(made.len(), |at| self.control.create(&regarding, &made[at])).await;
        self.expectations.created(key, made.len() - done);
        let result = match result {
            Err(error) if error.source_request().is_some_and(namespace_is_terminating) => Ok(()),
            result => result,
        };
        (active.len() + done, result, None)
    }
}

/// How the Job is coming to its end, if it is.
struct Ending {
    failure: Option<Failure>,
    success: Option<(&'static str, String)>,
}

fn nonzero(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

fn some_count(count: usize) -> Option<i32> {
    nonzero(i32::try_from(count).unwrap_or(i32::MAX))
}

fn plain_pod(job: &Job, key: &Key) -> Pod {
    let template = job.spec.clone().unwrap_or_default().template;
    let mut pod = pod_from_template(&template, &owners::reference_to(job), &key.namespace);
    pod.metadata.finalizers.get_or_insert_default().push(TRACKING.into());
    pod
}

/// A pod that knows its index, by annotation, label, variable and host name.
fn indexed_pod(job: &Job, key: &Key, index: usize, failures: Option<i32>) -> Pod {
    let mut pod = plain_pod(job, key);
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.into(), index.to_string());
    if let Some(failures) = failures {
        annotations.insert(INDEX_FAILURES.into(), failures.to_string());
    }
    pod.metadata.labels.get_or_insert_default().insert(INDEX.into(), index.to_string());
    let base: String = format!("{}-{index}", owners::name(job));
    pod.metadata.generate_name = Some(format!("{base}-"));
    if let Some(spec) = &mut pod.spec {
        spec.hostname = Some(base);
        let variable = EnvVar {
            name: "JOB_COMPLETION_INDEX".into(),
            value_from: Some(EnvVarSource {
                field_ref: Some(ObjectFieldSelector {
                    field_path: format!("metadata.labels['{INDEX}']"),
                    ..ObjectFieldSelector::default()
                }),
                ..EnvVarSource::default()
            }),
            ..EnvVar::default()
        };
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            let env = container.env.get_or_insert_default();
            if env.iter().all(|v| v.name != variable.name) {
                env.push(variable.clone());
            }
        }
    }
    pod
}

/// `ttl-after-finished`: deletes a Job so long after its end as it says (`pkg/controller/ttlafterfinished`).
fn start_ttl(env: &Env) {
    let queue = env.queue("ttl_jobs_to_delete");
    let client: Client = env.client("ttl-after-finished-controller");
    let put = queue.clone();
    env.informers.jobs.on_event(move |event| {
        let job = event.object();
        if is_finished(job) && job.spec.as_ref().is_some_and(|spec| spec.ttl_seconds_after_finished.is_some()) {
            put.add(Key::of(&**job));
        }
    });
    let env_ = env.clone();
    queue.spawn_workers(&env.ctx, 1, move |key| {
        let (env, client) = (env_.clone(), client.clone());
        async move {
            let due = |job: &Job| {
                let seconds = job.spec.as_ref()?.ttl_seconds_after_finished?;
                Some(finished_at(job)? + jiff::SignedDuration::from_secs(i64::from(seconds)))
            };
            let Some(job) = env.informers.jobs.get(&key).filter(|job| !owners::is_deleting(&**job)) else {
                return Ok(Next::Done);
            };
            let Some(at) = due(&job) else { return Ok(Next::Done) };
            let now = env.ctx.clock().now();
            if at > now {
                return Ok(Next::After(Duration::try_from(at.duration_since(now)).unwrap_or_default()));
            }
            // The time to live may have been raised since.
            let api: Api<Job> = Api::namespaced(client, &key.namespace);
            let Some(live) = gone_is_fine(api.get(&key.name).await).during("get job", &key)? else { return Ok(Next::Done) };
            if due(&live).is_none_or(|at| at > now) || owners::uid(&live) != owners::uid(&*job) {
                return Ok(Next::Done);
            }
            let preconditions =
                Preconditions { uid: live.metadata.uid.clone(), resource_version: live.metadata.resource_version.clone() };
            let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::foreground() };
            gone_is_fine(api.delete(&key.name, &params).await).during("delete job", &key)?;
            Ok::<_, crate::Error>(Next::Done)
        }
    });
}

#[cfg(test)]
mod tests;
