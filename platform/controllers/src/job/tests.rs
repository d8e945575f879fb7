use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{JobSpec, SuccessPolicy, SuccessPolicyRule};

use super::*;
use crate::pods::testing::pod;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn job(spec: JobSpec) -> Job {
    let mut job = Job::default();
    job.metadata.name = Some("work".into());
    job.spec = Some(spec);
    job
}

fn worker(name: &str, phase: &str, index: Option<usize>) -> Arc<Pod> {
    let mut pod = pod(name, "n", phase, Some(100));
    pod.metadata.finalizers = Some(vec![TRACKING.into()]);
    pod.metadata.annotations = index.map(|index| [(INDEX.to_owned(), index.to_string())].into());
    Arc::new(pod)
}

#[test]
fn the_notation_of_indexes() {
    for (text, len, back) in [
        ("", 0, None),
        ("0", 1, Some("0")),
        ("0,1", 2, Some("0,1")),
        ("0-2,4,6-9", 8, Some("0-2,4,6-9")),
        ("8-20", 2, Some("8,9")),
        ("x,3", 1, Some("3")),
    ] {
        let set = Indexes::parse(text, 10);
        assert_eq!((set.len(), set.text().as_deref()), (len, back), "{text}");
    }
}

#[test]
fn so_many_pods_run() {
    let counts = |succeeded| outcome::Counts { succeeded, ..outcome::Counts::default() };
    for (parallelism, completions, succeeded, active, expected) in
        [(2, Some(5), 0, 0, 2), (2, Some(5), 4, 0, 1), (2, Some(5), 5, 0, 0), (3, None, 0, 1, 3), (3, None, 1, 2, 2)]
    {
        let job = job(JobSpec { parallelism: Some(parallelism), completions, ..JobSpec::default() });
        assert_eq!(outcome::wanted_active(&job, &counts(succeeded), active), expected);
    }
}

#[test]
fn pods_that_ended_count_once() {
    let mut job = job(JobSpec { completions: Some(3), ..JobSpec::default() });
    let pods = [worker("a", "Succeeded", None), worker("b", "Failed", None), worker("c", "Running", None)];
    let counts = outcome::count(&job, &pods);
    assert_eq!((counts.succeeded, counts.failed), (1, 1));
    job.status = Some(JobStatus {
        uncounted_terminated_pods: Some(UncountedTerminatedPods { succeeded: Some(vec!["uid-a".into()]), failed: None }),
        failed: Some(1),
        ..JobStatus::default()
    });
    let counts = outcome::count(&job, &pods[..1]);
    assert_eq!((counts.succeeded, counts.failed), (1, 1));
}

#[test]
fn indexes_are_completed_and_failed() {
    let spec = JobSpec {
        completion_mode: Some("Indexed".into()),
        completions: Some(4),
        parallelism: Some(4),
        backoff_limit_per_index: Some(0),
        ..JobSpec::default()
    };
    let job = job(spec);
    let pods = [worker("a", "Succeeded", Some(0)), worker("b", "Failed", Some(2)), worker("c", "Running", Some(3))];
    let counts = outcome::count(&job, &pods);
    assert_eq!(counts.completed.text().as_deref(), Some("0"));
    assert_eq!(counts.failed_indexes.text().as_deref(), Some("2"));
    assert_eq!(outcome::next_indexes(&job, &counts, &[&pods[2]], 9), [1]);
    assert_eq!(outcome::wanted_active(&job, &counts, 1), 2);
    assert!(outcome::failure(&job, &pods, &counts, at(0)).is_none(), "the others may go on");
}

#[test]
fn limits_fail_a_job() {
    let reason =
        |job: &Job, pods: &[Arc<Pod>], now| outcome::failure(job, pods, &outcome::count(job, pods), now).map(|f| f.reason);
    let failed = [worker("a", "Failed", None), worker("b", "Failed", None)];
    let limited = job(JobSpec { backoff_limit: Some(1), ..JobSpec::default() });
    assert_eq!(reason(&limited, &failed[..1], at(0)), None);
    assert_eq!(reason(&limited, &failed, at(0)).as_deref(), Some("BackoffLimitExceeded"));
    let mut late = job(JobSpec { active_deadline_seconds: Some(10), ..JobSpec::default() });
    late.status = Some(JobStatus { start_time: Some(crate::env::seconds(at(0))), ..JobStatus::default() });
    assert_eq!(reason(&late, &[], at(9)), None);
    assert_eq!(reason(&late, &[], at(10)).as_deref(), Some("DeadlineExceeded"));
}

fn leaving(pod: &Arc<Pod>) -> Arc<Pod> {
    let mut pod = (**pod).clone();
    pod.metadata.deletion_timestamp = Some(crate::env::seconds(at(110)));
    Arc::new(pod)
}

#[test]
fn a_job_ends_after_its_pods() {
    let running = worker("a", "Running", None);
    let deleted = leaving(&running);
    for (pods, active, expected, gone) in [
        (vec![running.clone()], 1, (Some(1), Some(1), Some(0)), false),
        (vec![running.clone()], 0, (None, Some(0), Some(1)), false), // Deleted just now.
        (vec![deleted.clone()], 0, (None, Some(0), Some(1)), false),
        (vec![deleted.clone(), running], 0, (None, Some(0), Some(2)), false),
        (vec![], 2, (Some(2), Some(0), Some(0)), false), // Made just now.
        (vec![leaving(&worker("a", "Failed", None))], 0, (None, Some(0), Some(0)), true),
        (vec![], 0, (None, Some(0), Some(0)), true),
    ] {
        let mut status = JobStatus::default();
        outcome::tally(&mut status, &pods, active);
        assert_eq!((status.active, status.ready, status.terminating), expected);
        assert_eq!(outcome::all_gone(&status), gone);
    }
}

#[test]
fn pods_that_are_cut_short_fail_with_their_job_only() {
    let plain = job(JobSpec::default());
    let waits = job(JobSpec { pod_replacement_policy: Some("Failed".into()), ..JobSpec::default() });
    let running = worker("a", "Running", None);
    let (deleted, failed) = (leaving(&running), worker("b", "Failed", None));
    for (job, pod, failing, expected) in [
        (&plain, &deleted, true, true),
        (&plain, &deleted, false, true), // Somebody deleted it while its Job went on.
        (&waits, &deleted, true, true),
        (&waits, &deleted, false, false),
        (&waits, &failed, false, true),
        (&plain, &worker("c", "Succeeded", None), true, false),
    ] {
        assert_eq!(outcome::has_failed(job, pod, failing), expected);
    }
}

#[test]
fn success_by_count_or_policy() {
    let reason = |job: &Job, pods: &[Arc<Pod>]| outcome::success(job, &outcome::count(job, pods), &[]).map(|s| s.0);
    let done = [worker("a", "Succeeded", Some(0)), worker("b", "Succeeded", Some(1))];
    let plain = job(JobSpec { completions: Some(2), ..JobSpec::default() });
    assert_eq!(reason(&plain, &done[..1]), None);
    assert_eq!(reason(&plain, &done), Some("CompletionsReached"));
    let rule = |indexes: Option<&str>, count| SuccessPolicyRule {
        succeeded_indexes: indexes.map(str::to_owned),
        succeeded_count: count,
    };
    for (rule, met) in [
        (rule(Some("1"), None), true),
        (rule(Some("1-3"), Some(1)), true),
        (rule(Some("1-3"), None), false),
        (rule(None, Some(3)), false),
    ] {
        let job = job(JobSpec {
            completions: Some(4),
            completion_mode: Some("Indexed".into()),
            success_policy: Some(SuccessPolicy { rules: vec![rule] }),
            ..JobSpec::default()
        });
        assert_eq!(reason(&job, &done), met.then_some("SuccessPolicy"));
    }
}

#[test]
fn failures_slow_down() {
    let pods = [worker("a", "Failed", None), worker("b", "Failed", None)];
    assert_eq!(outcome::back_off(&pods[..1], BACKOFF, at(105)), Some(Duration::from_secs(5)));
    assert_eq!(outcome::back_off(&pods, BACKOFF, at(105)), Some(Duration::from_secs(15)));
    assert_eq!(outcome::back_off(&pods, BACKOFF, at(200)), None);
}
