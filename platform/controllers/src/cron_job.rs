//! `cronjob`: Jobs by the clock (`pkg/controller/cronjob`).

mod schedule;

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use k8s_openapi::{
    api::{
        batch::v1::{CronJob, Job},
        core::v1::ObjectReference,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use pharos_client::{Key, Next, Recorder, Regarding, is_already_exists, is_not_found};

use self::schedule::Schedule;
use crate::{
    Result,
    env::{Env, seconds},
    error::{During as _, gone_is_fine},
    job::finished_at,
    owners,
    pod_control::namespace_is_terminating,
};

struct CronJobs {
    env: Env,
    client: Client,
    recorder: Recorder,
}

pub(crate) fn start(env: &Env) {
    let queue = env.queue("cronjob");
    let client = env.client("cronjob-controller");
    let controller = Arc::new(CronJobs { recorder: env.recorder(&client, "cronjob-controller"), client, env: env.clone() });
    let put = queue.clone();
    env.informers.cron_jobs.on_event(move |event| put.add(Key::of(&**event.object())));
    let put = queue.clone();
    env.informers.jobs.on_event(move |event| {
        if let Some(owner) = owners::controller_key::<CronJob, _>(&**event.object()) {
            put.add(owner);
        }
    });
    queue.spawn_workers(&env.ctx, 5, move |key| {
        let this = controller.clone();
        async move { this.sync(&key).await }
    });
}

fn succeeded(job: &Job) -> bool {
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Complete" && c.status == "True")
}

fn reference(job: &Job) -> ObjectReference {
    ObjectReference {
        kind: Some("Job".into()),
        api_version: Some("batch/v1".into()),
        namespace: job.metadata.namespace.clone(),
        name: job.metadata.name.clone(),
        uid: job.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// The Jobs that are too many of those that ended, oldest first.
fn beyond(jobs: &[Arc<Job>], limit: Option<i32>, success: bool) -> Vec<Arc<Job>> {
    let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { return Vec::new() };
    let mut ended: Vec<Arc<Job>> =
        jobs.iter().filter(|job| finished_at(job).is_some() && succeeded(job) == success).cloned().collect();
    ended.sort_by_key(|job| {
        (job.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|time| time.0), owners::name(&**job).to_owned())
    });
    let surplus = ended.len().saturating_sub(limit);
    ended.truncate(surplus);
    ended
}

impl CronJobs {
    async fn sync(&self, key: &Key) -> Result<Next> {
        let Some(cached) = self.env.informers.cron_jobs.get(key) else { return Ok(Next::Done) };
        let mut cron = (*cached).clone();
        let regarding = Regarding::of(&cron);
        let jobs = self.env.informers.jobs_by_owner.get(owners::uid(&cron));
        self.settle(key, &mut cron, &jobs, &regarding).await?;
        let next = if owners::is_deleting(&cron) { Next::Done } else { self.schedule(key, &mut cron, &jobs, &regarding).await? };
        let api: Api<Job> = Api::namespaced(self.client.clone(), &key.namespace);
        let successful = beyond(&jobs, cron.spec.successful_jobs_history_limit, true);
        let failed = beyond(&jobs, cron.spec.failed_jobs_history_limit, false);
        for job in successful.iter().chain(&failed) {
            let name = owners::name(&**job);
            if gone_is_fine(api.delete(name, &DeleteParams::background()).await).during("delete job", &name)?.is_some() {
                self.recorder.normal(&regarding, "SuccessfulDelete", format!("Deleted job {name}"));
            }
        }
        // Also what the last schedule changed.
        if cron.status != cached.status {
            let api: Api<CronJob> = Api::namespaced(self.client.clone(), &key.namespace);
            match api.replace_status(&key.name, &PostParams::default(), &cron).await {
                Err(error) if is_not_found(&error) => {}
                result => _ = result.during("update the status of cronjob", key)?,
            }
        }
        Ok(next)
    }

    /// Brings the list of active Jobs in line with what there is.
    async fn settle(&self, key: &Key, cron: &mut CronJob, jobs: &[Arc<Job>], regarding: &Regarding) -> Result<()> {
        let status = cron.status.get_or_insert_default();
        let mut active = status.active.take().unwrap_or_default();
        for job in jobs {
            let at = active.iter().position(|reference| reference.uid == job.metadata.uid);
            match (at, finished_at(job)) {
                (Some(at), Some(end)) => {
                    active.remove(at);
                    let how = if succeeded(job) { "Complete" } else { "Failed" };
                    let text = format!("Saw completed job: {}, condition: {how}", owners::name(&**job));
                    self.recorder.normal(regarding, "SawCompletedJob", text);
                    if succeeded(job) && status.last_successful_time.as_ref().is_none_or(|last| last.0 < end) {
                        status.last_successful_time = Some(seconds(end));
                    }
                }
                (None, None) if !owners::is_deleting(&**job) => {
                    // Made by a run that could not write it down.
                    active.push(reference(job));
                }
                _ => {}
            }
        }
        let mut kept = Vec::new();
        for reference in active {
            let name = reference.name.clone().unwrap_or_default();
            if jobs.iter().any(|job| job.metadata.uid == reference.uid) {
                kept.push(reference);
                continue;
            }
            let live = Api::<Job>::namespaced(self.client.clone(), &key.namespace).get(&name).await;
            match gone_is_fine(live).during("get job", &name)? {
                Some(job) if job.metadata.uid == reference.uid => kept.push(reference),
                _ => self.recorder.normal(regarding, "MissingJob", format!("Active job went missing: {name}")),
            }
        }
        status.active = (!kept.is_empty()).then_some(kept);
        Ok(())
    }

    async fn schedule(&self, key: &Key, cron: &mut CronJob, jobs: &[Arc<Job>], regarding: &Regarding) -> Result<Next> {
        let zone = match cron.spec.time_zone.as_deref() {
            None => TimeZone::UTC,
            Some(name) => match TimeZone::get(name) {
                Ok(zone) => zone,
                Err(_) => {
                    self.recorder.warning(regarding, "UnknownTimeZone", format!("invalid timeZone: \"{name}\""));
                    return Ok(Next::Done);
                }
            },
        };
        if cron.spec.suspend.unwrap_or_default() {
            return Ok(Next::Done);
        }
        let schedule = match Schedule::parse(&cron.spec.schedule, zone) {
            Ok(schedule) => schedule,
            Err(error) => {
                let text = format!("unparseable schedule: \"{}\" : {error}", cron.spec.schedule);
                self.recorder.warning(regarding, "UnparseableSchedule", text);
                return Ok(Next::Done);
            }
        };
        let now = self.env.ctx.clock().now();
        let wait = |at: Option<Timestamp>| match at {
            Some(at) => Next::After(Duration::try_from(at.duration_since(now)).unwrap_or_default() + Duration::from_millis(100)),
            None => Next::Done,
        };
        let next = wait(schedule.next(now));
        let deadline = cron.spec.starting_deadline_seconds;
        let Some((due, missed)) = schedule.latest(earliest(cron, now), now) else { return Ok(next) };
        if missed >= 100 {
            let text = format!(
                "too many missed start times: {}. Set or decrease .spec.startingDeadlineSeconds or check clock skew",
                missed + 1
            );
            self.recorder.warning(regarding, "TooManyMissedTimes", text);
        }
        if deadline.is_some_and(|seconds| due + SignedDuration::from_secs(seconds) < now) {
            let text = format!("Missed scheduled time to start a job: {}", pharos_api::time::format(due));
            self.recorder.warning(regarding, "MissSchedule", text);
            return Ok(next);
        }
        let name = job_name(&key.name, due);
        let status = cron.status.get_or_insert_default();
        let active = status.active.clone().unwrap_or_default();
        if active.iter().any(|reference| reference.name.as_deref() == Some(&name))
            || status.last_schedule_time == Some(seconds(due))
        {
            return Ok(next);
        }
        let api: Api<Job> = Api::namespaced(self.client.clone(), &key.namespace);
        match cron.spec.concurrency_policy.as_deref() {
            Some("Forbid") if !active.is_empty() => {
                let text = "Not starting job because prior execution is running and concurrency policy is Forbid";
                self.recorder.normal(regarding, "JobAlreadyActive", text);
                return Ok(next);
            }
            Some("Replace") => {
                for reference in &active {
                    let old = reference.name.clone().unwrap_or_default();
                    gone_is_fine(api.delete(&old, &DeleteParams::background()).await).during("delete job", &old)?;
                    self.recorder.normal(regarding, "SuccessfulDelete", format!("Deleted job {old}"));
                }
                status.active = None;
            }
            _ => {}
        }
        let job = job_for(cron, &name, due);
        let made = match api.create(&PostParams::default(), &job).await {
            Ok(made) => {
                self.recorder.normal(regarding, "SuccessfulCreate", format!("Created job {name}"));
                made
            }
            Err(error) if namespace_is_terminating(&error) => return Ok(Next::Done),
            Err(error) if is_already_exists(&error) => {
                let existing = jobs.iter().find(|job| owners::name(&***job) == name).map(|job| (**job).clone());
                match existing {
                    Some(existing) if finished_at(&existing).is_none() => existing,
                    _ => {
                        cron.status.get_or_insert_default().last_schedule_time = Some(seconds(due));
                        return Ok(next);
                    }
                }
            }
            Err(error) => {
                self.recorder.warning(regarding, "FailedCreate", format!("Error creating job: {error}"));
                return Err(error).during("create job", &Key::new(key.namespace.clone(), name));
            }
        };
        let status = cron.status.get_or_insert_default();
        let active = status.active.get_or_insert_default();
        if active.iter().all(|reference| reference.uid != made.metadata.uid) {
            active.push(reference(&made));
        }
        status.last_schedule_time = Some(seconds(due));
        Ok(next)
    }
}

/// Since when a start could have been missed.
fn earliest(cron: &CronJob, now: Timestamp) -> Timestamp {
    let last = cron.status.as_ref().and_then(|status| status.last_schedule_time.as_ref()).map(|time| time.0);
    let created = cron.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let since = last.or(created).unwrap_or(now);
    match cron.spec.starting_deadline_seconds {
        Some(seconds) => since.max(now - SignedDuration::from_secs(seconds)),
        None => since,
    }
}

/// The same time gives the same name, so no time is served twice.
fn job_name(cron: &str, due: Timestamp) -> String {
    format!("{cron}-{}", due.as_second() / 60)
}

fn job_for(cron: &CronJob, name: &str, due: Timestamp) -> Job {
    let template = cron.spec.job_template.clone();
    let meta = template.metadata.unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert("batch.kubernetes.io/cronjob-scheduled-timestamp".into(), pharos_api::time::format(due));
    Job {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: cron.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![owners::reference_to(cron)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_starts() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(job_name("tick", at(120)), "tick-2");
        let mut cron = CronJob::default();
        cron.metadata.creation_timestamp = Some(seconds(at(100)));
        assert_eq!(earliest(&cron, at(1000)), at(100));
        cron.spec.starting_deadline_seconds = Some(60);
        assert_eq!(earliest(&cron, at(1000)), at(940));
        let job = job_for(&cron, "tick-2", at(120));
        assert_eq!(job.metadata.owner_references.unwrap()[0].kind, "CronJob");
    }
}
