//! What the pods of a Job amount to (`pkg/controller/job/job_controller.go`, `pod_failure_policy.go`, `success_policy.go`).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    batch::v1::{PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule},
    core::v1::ContainerStatus,
};

use super::*;

/// Why a Job fails.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Failure {
    pub(super) reason: String,
    pub(super) message: String,
}

/// What the pods amount to, together with what the status has counted before.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) succeeded: usize,
    pub(super) failed: usize,
    pub(super) completed: Indexes,
    pub(super) failed_indexes: Indexes,
    /// Failures of each index that count towards its limit; only with `backoffLimitPerIndex`.
    pub(super) index_failures: Option<BTreeMap<usize, i32>>,
}

impl Counts {
    pub(super) fn failures_of(&self, index: usize) -> Option<i32> {
        self.index_failures.as_ref().map(|failures| failures.get(&index).copied().unwrap_or_default())
    }
}

pub(super) fn is_indexed(job: &Job) -> bool {
    job.spec.as_ref().and_then(|spec| spec.completion_mode.as_deref()) == Some("Indexed")
}

fn completions(job: &Job) -> Option<usize> {
    job.spec.as_ref().and_then(|spec| spec.completions).and_then(|n| usize::try_from(n).ok())
}

fn true_condition<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == "True")
}

/// Whether the Job is complete or has failed.
pub(super) fn is_finished(job: &Job) -> bool {
    job.status.as_ref().is_some_and(|s| true_condition(s, "Complete").or(true_condition(s, "Failed")).is_some())
}

/// When the Job came to its end.
pub(crate) fn finished_at(job: &Job) -> Option<Timestamp> {
    let status = job.status.as_ref()?;
    let condition = true_condition(status, "Complete").or_else(|| true_condition(status, "Failed"))?;
    condition.last_transition_time.as_ref().map(|time| time.0)
}

/// Whether a pod's end counts now: it ended, or it is being deleted and will not be waited for.
pub(super) fn ended(job: &Job, pod: &Pod, ending: bool) -> bool {
    if pods::is_terminal(pod) {
        return true;
    }
    // With a policy, a pod counts once it is known how it ended.
    let waits = job
        .spec
        .as_ref()
        .is_some_and(|spec| spec.pod_failure_policy.is_some() || spec.pod_replacement_policy.as_deref() == Some("Failed"));
    owners::is_deleting(pod) && (ending || !waits)
}

/// Whether a pod whose end counts has failed. What a failing Job cuts short has; what a successful one has no more use for
/// has not.
pub(super) fn has_failed(job: &Job, pod: &Pod, failing: bool) -> bool {
    pods::phase(pod) != "Succeeded" && !is_ignored(job, pod) && (failing || ended(job, pod, false))
}

/// Counts the pods that have not ended, of which `active` still run. The cache does not show yet what was deleted just now:
/// those are on their way out, and the Job must not end before them.
pub(super) fn tally(status: &mut JobStatus, pods: &[Arc<Pod>], active: usize) {
    let cached = pods.iter().filter(|pod| pods::is_active(pod)).count();
    let ready = pods.iter().filter(|pod| pods::is_active(pod) && pods::is_ready(pod)).count();
    let terminating = pods.iter().filter(|pod| pods::is_terminating(pod)).count() + cached.saturating_sub(active);
    status.active = some_count(active);
    status.ready = Some(i32::try_from(ready.min(active)).unwrap_or(i32::MAX));
    status.terminating = Some(i32::try_from(terminating).unwrap_or(i32::MAX));
}

/// Whether no pod runs or is on its way out any more.
pub(super) fn all_gone(status: &JobStatus) -> bool {
    status.active.is_none() && status.terminating.unwrap_or_default() == 0
}

pub(super) fn replaces_terminating(job: &Job) -> bool {
    let spec = job.spec.as_ref();
    match spec.and_then(|spec| spec.pod_replacement_policy.as_deref()) {
        Some(policy) => policy == "TerminatingOrFailed",
        None => spec.is_none_or(|spec| spec.pod_failure_policy.is_none()),
    }
}

fn index_of(pod: &Pod) -> Option<usize> {
    pod.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok()
}

/// Counts pods that ended and are not in the status's counts yet.
pub(super) fn count(job: &Job, pods: &[Arc<Pod>]) -> Counts {
    let status = job.status.clone().unwrap_or_default();
    let spec = job.spec.clone().unwrap_or_default();
    let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
    let (known_succeeded, known_failed) = (uncounted.succeeded.unwrap_or_default(), uncounted.failed.unwrap_or_default());
    let size = |count: Option<i32>| usize::try_from(count.unwrap_or_default()).unwrap_or_default();
    let fresh = |pod: &&Arc<Pod>| {
        let uid = owners::uid(&***pod);
        is_tracked(pod) && !known_succeeded.iter().chain(&known_failed).any(|known| known == uid)
    };
    let mut counts = Counts {
        succeeded: size(status.succeeded) + known_succeeded.len(),
        failed: size(status.failed) + known_failed.len(),
        ..Counts::default()
    };
    for pod in pods.iter().filter(fresh).filter(|pod| ended(job, pod, false)) {
        match pods::phase(pod) {
            "Succeeded" => counts.succeeded += 1,
            _ if is_ignored(job, pod) => {}
            _ => counts.failed += 1,
        }
    }
    let Some(limit) = completions(job).filter(|_| is_indexed(job)) else { return counts };
    counts.completed = Indexes::parse(status.completed_indexes.as_deref().unwrap_or_default(), limit);
    counts.failed_indexes = Indexes::parse(status.failed_indexes.as_deref().unwrap_or_default(), limit);
    let mut failures: BTreeMap<usize, i32> = BTreeMap::new();
    for pod in pods {
        let Some(index) = index_of(pod).filter(|index| *index < limit) else { continue };
        if pods::phase(pod) == "Succeeded" && is_tracked(pod) {
            counts.completed.insert(index);
        }
        let before: i32 = pod
            .metadata
            .annotations
            .as_ref()
            .and_then(|a| a.get(INDEX_FAILURES))
            .and_then(|n| n.parse().ok())
            .unwrap_or_default();
        let failed = pods::phase(pod) == "Failed" || (ended(job, pod, false) && pods::phase(pod) != "Succeeded");
        let own = i32::from(failed && !is_ignored(job, pod));
        let most = failures.entry(index).or_default();
        *most = (*most).max(before + own);
        if failed && matches!(policy_action(job, pod), Some(("FailIndex", _))) {
            counts.failed_indexes.insert(index);
        }
    }
    if let Some(per_index) = spec.backoff_limit_per_index {
        for (index, count) in &failures {
            if *count > per_index && !counts.completed.contains(*index) {
                counts.failed_indexes.insert(*index);
            }
        }
        counts.index_failures = Some(failures);
    }
    counts.succeeded = counts.completed.len();
    counts
}

/// The first rule of the failure policy that a failed pod meets, with its index.
fn policy_action<'a>(job: &'a Job, pod: &Pod) -> Option<(&'a str, usize)> {
    let policy = job.spec.as_ref()?.pod_failure_policy.as_ref()?;
    if pods::phase(pod) != "Failed" {
        return None;
    }
    policy.rules.iter().enumerate().find(|(_, rule)| meets(rule, pod)).map(|(at, rule)| (rule.action.as_str(), at))
}

fn meets(rule: &PodFailurePolicyRule, pod: &Pod) -> bool {
    if let Some(codes) = &rule.on_exit_codes {
        return exit_code(codes, pod).is_some();
    }
    rule.on_pod_conditions.iter().flatten().any(|pattern| {
        pods::condition(pod, &pattern.type_).is_some_and(|c| c.status == pattern.status.as_deref().unwrap_or("True"))
    })
}

/// The container and exit code that meet a requirement; success never does.
fn exit_code(codes: &PodFailurePolicyOnExitCodesRequirement, pod: &Pod) -> Option<(String, i32)> {
    let status = pod.status.as_ref()?;
    let statuses = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let code = |status: &ContainerStatus| status.state.as_ref()?.terminated.as_ref().map(|t| t.exit_code);
    statuses
        .filter(|status| codes.container_name.as_ref().is_none_or(|name| *name == status.name))
        .filter_map(|status| Some((status.name.clone(), code(status)?)))
        .find(|(_, code)| *code != 0 && (codes.operator == "In") == codes.values.contains(code))
}

/// Whether the failure policy says not to count a failed pod.
fn is_ignored(job: &Job, pod: &Pod) -> bool {
    matches!(policy_action(job, pod), Some(("Ignore", _)))
}

/// A failure that was announced and is being carried out.
pub(super) fn announced_failure(status: &JobStatus) -> Option<Failure> {
    true_condition(status, "FailureTarget")
        .map(|c| Failure { reason: c.reason.clone().unwrap_or_default(), message: c.message.clone().unwrap_or_default() })
}

/// Why the Job fails now, if it does.
pub(super) fn failure(job: &Job, pods: &[Arc<Pod>], counts: &Counts, now: Timestamp) -> Option<Failure> {
    let spec = job.spec.clone().unwrap_or_default();
    if job.status.as_ref().is_some_and(|s| true_condition(s, "SuccessCriteriaMet").is_some()) {
        return None;
    }
    let fail = |reason: &str, message: String| Some(Failure { reason: reason.into(), message });
    for pod in pods {
        if let Some(("FailJob", at)) = policy_action(job, pod) {
            let rule = &spec.pod_failure_policy.as_ref()?.rules[at];
            let (namespace, name) = (pod.metadata.namespace.as_deref().unwrap_or_default(), owners::name(&**pod));
            let message = match &rule.on_exit_codes {
                Some(codes) => {
                    let (container, code) = exit_code(codes, pod).unwrap_or_default();
                    format!(
                        "Container {container} for pod {namespace}/{name} failed with exit code {code} matching FailJob rule at index {at}"
                    )
                }
                None => {
                    let kind = rule.on_pod_conditions.iter().flatten().find(|p| pods::condition(pod, &p.type_).is_some());
                    let kind = kind.map(|p| p.type_.clone()).unwrap_or_default();
                    format!("Pod {namespace}/{name} has condition {kind} matching FailJob rule at index {at}")
                }
            };
            return fail("PodFailurePolicy", message);
        }
    }
    // By default six failures are too many; with a limit by index there is none for the whole.
    let limit = spec.backoff_limit.unwrap_or(if spec.backoff_limit_per_index.is_some() { i32::MAX } else { 6 });
    let limit = usize::try_from(limit).unwrap_or_default();
    if counts.failed > limit || restarts_exceed(job, pods, limit) {
        return fail("BackoffLimitExceeded", "Job has reached the specified backoff limit".into());
    }
    let start = job.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|time| time.0);
    if let (Some(seconds), Some(start), false) = (spec.active_deadline_seconds, start, spec.suspend.unwrap_or_default())
        && now.duration_since(start) >= SignedDuration::from_secs(seconds)
    {
        return fail("DeadlineExceeded", "Job was active longer than specified deadline".into());
    }
    let most = spec.max_failed_indexes.and_then(|n| usize::try_from(n).ok());
    if most.is_some_and(|most| counts.failed_indexes.len() > most) {
        return fail("MaxFailedIndexesExceeded", "Job has exceeded the specified maximal number of failed indexes".into());
    }
    let all = completions(job).unwrap_or(usize::MAX);
    if counts.failed_indexes.len() > 0 && counts.failed_indexes.len() + counts.completed.len() >= all {
        return fail("FailedIndexes", "Job has failed indexes".into());
    }
    None
}

/// Containers that are restarted in place count too.
fn restarts_exceed(job: &Job, pods: &[Arc<Pod>], limit: usize) -> bool {
    let restarts_in_place = job.spec.as_ref().and_then(|spec| spec.template.spec.as_ref()?.restart_policy.clone());
    if restarts_in_place.as_deref() != Some("OnFailure") {
        return false;
    }
    let running = |pod: &&Arc<Pod>| matches!(pods::phase(pod), "Running" | "Pending");
    let statuses = |pod: &Arc<Pod>| -> i64 {
        let status = pod.status.clone().unwrap_or_default();
        let all = status.container_statuses.into_iter().flatten().chain(status.init_container_statuses.into_iter().flatten());
        all.map(|status| i64::from(status.restart_count)).sum()
    };
    let restarts: i64 = pods.iter().filter(running).map(statuses).sum();
    let restarts = usize::try_from(restarts).unwrap_or_default();
    if limit == 0 { restarts > 0 } else { restarts >= limit }
}

/// Why the Job is a success now, if it is: reason and message.
pub(super) fn success(job: &Job, counts: &Counts, active: &[Arc<Pod>]) -> Option<(&'static str, String)> {
    let spec = job.spec.clone().unwrap_or_default();
    let reached = || ("CompletionsReached", "Reached expected number of succeeded pods".to_owned());
    if let Some(condition) = job.status.as_ref().and_then(|s| true_condition(s, "SuccessCriteriaMet")) {
        let policy = condition.reason.as_deref() == Some("SuccessPolicy");
        return Some(if policy { ("SuccessPolicy", condition.message.clone().unwrap_or_default()) } else { reached() });
    }
    if let (Some(policy), Some(limit)) = (&spec.success_policy, completions(job)) {
        let met = policy.rules.iter().position(|rule| {
            let among = rule.succeeded_indexes.as_deref().map(|text| Indexes::parse(text, limit));
            let have = among.as_ref().map_or(counts.completed.len(), |among| among.count_in(&counts.completed));
            let need = rule.succeeded_count.and_then(|n| usize::try_from(n).ok());
            have >= need.or(among.map(|among| among.len())).unwrap_or(usize::MAX)
        });
        if let Some(at) = met {
            return Some(("SuccessPolicy", format!("Matched rules at index {at}")));
        }
    }
    let all_done = match completions(job) {
        // A work queue: one success says that there is no more work, the rest finishes by itself.
        None => counts.succeeded > 0 && active.is_empty(),
        Some(completions) => counts.succeeded >= completions,
    };
    all_done.then(reached)
}

/// How many pods should run.
pub(super) fn wanted_active(job: &Job, counts: &Counts, active: usize) -> usize {
    let spec = job.spec.clone().unwrap_or_default();
    let parallelism = usize::try_from(spec.parallelism.unwrap_or(1)).unwrap_or_default();
    match completions(job) {
        None if counts.succeeded > 0 => active.min(parallelism),
        None => parallelism,
        Some(completions) => {
            let done = if is_indexed(job) { counts.completed.len() + counts.failed_indexes.len() } else { counts.succeeded };
            parallelism.min(completions.saturating_sub(done))
        }
    }
}

/// The pods that are too many: of indexes that are done or held twice first, then by deletion order.
pub(super) fn surplus(job: &Job, active: &[Arc<Pod>], counts: &Counts, wanted: usize, now: Timestamp) -> Vec<Arc<Pod>> {
    let mut doomed: Vec<Arc<Pod>> = Vec::new();
    let mut rest = active.to_vec();
    if let Some(limit) = completions(job).filter(|_| is_indexed(job)) {
        let mut seen = Indexes::default();
        let (keep, drop) = rest.into_iter().partition(|pod| {
            let valid = index_of(pod).is_some_and(|i| {
                i < limit && !counts.completed.contains(i) && !counts.failed_indexes.contains(i) && !seen.contains(i)
            });
            if let Some(index) = index_of(pod).filter(|_| valid) {
                seen.insert(index);
            }
            valid
        });
        (rest, doomed) = (keep, drop);
    }
    let more = rest.len().saturating_sub(wanted);
    if more > 0 {
        doomed.extend(pods::by_deletion_order(&rest, &std::collections::HashMap::new(), now).into_iter().take(more));
    }
    doomed
}

/// The lowest indexes without a pod that still have to run.
pub(super) fn next_indexes(job: &Job, counts: &Counts, held: &[&Arc<Pod>], count: usize) -> Vec<usize> {
    let mut taken = Indexes::default();
    held.iter().filter_map(|pod| index_of(pod)).for_each(|index| taken.insert(index));
    (0..completions(job).unwrap_or_default())
        .filter(|i| !counts.completed.contains(*i) && !counts.failed_indexes.contains(*i) && !taken.contains(*i))
        .take(count)
        .collect()
}

/// How long to wait before a failed pod is replaced; the waits double with each failure since the last success.
pub(super) fn back_off(pods: &[Arc<Pod>], (base, most): (u64, u64), now: Timestamp) -> Option<Duration> {
    let finished = |pod: &Pod| {
        let status = pod.status.as_ref()?;
        let ends = status.container_statuses.iter().flatten();
        let ends = ends.filter_map(|s| s.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()).map(|time| time.0);
        ends.max().or_else(|| pods::condition(pod, "Ready")?.last_transition_time.as_ref().map(|time| time.0))
    };
    let of = |phase: &'static str| pods.iter().filter(move |pod| pods::phase(pod) == phase).filter_map(|pod| finished(pod));
    let last_success = of("Succeeded").max();
    let failures: Vec<Timestamp> = of("Failed").filter(|at| last_success.is_none_or(|success| *at > success)).collect();
    let last = failures.iter().max()?;
    let doublings = u32::try_from(failures.len() - 1).unwrap_or(u32::MAX).min(10);
    let wait = base.saturating_mul(1 << doublings).min(most);
    let due = *last + SignedDuration::from_secs(i64::try_from(wait).unwrap_or(i64::MAX));
    Duration::try_from(due.duration_since(now)).ok().filter(|wait| !wait.is_zero())
}

/// Sets a condition to true, once.
pub(super) fn announce(status: &mut JobStatus, kind: &str, reason: &str, message: &str, now: &Time) {
    set(status, kind, "True", reason, message, now);
}

fn set(status: &mut JobStatus, kind: &str, value: &str, reason: &str, message: &str, now: &Time) {
    let conditions = status.conditions.get_or_insert_default();
    let condition = JobCondition {
        type_: kind.into(),
        status: value.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: Some(now.clone()),
        last_transition_time: Some(now.clone()),
    };
    match conditions.iter_mut().find(|c| c.type_ == kind) {
        Some(old) if old.status == value => {}
        Some(old) => *old = condition,
        None => conditions.push(condition),
    }
}

/// Tells that the Job was suspended or resumed; a resumed one starts its time anew.
pub(super) fn suspension(status: &mut JobStatus, suspended: bool, now: &Time, tell: impl Fn(&'static str, &'static str)) {
    let is = true_condition(status, "Suspended").is_some();
    if suspended && !is {
        set(status, "Suspended", "True", "JobSuspended", "Job suspended", now);
        status.start_time = None;
        tell("Suspended", "Job suspended");
    } else if !suspended && is {
        set(status, "Suspended", "False", "JobResumed", "Job resumed", now);
        status.start_time = Some(now.clone());
        tell("Resumed", "Job resumed");
    }
}
