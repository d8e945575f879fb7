use jiff::Timestamp;
use k8s_openapi::{
    api::apps::v1::{DeploymentSpec, DeploymentStatus, DeploymentStrategy, ReplicaSetStatus, RollingUpdateDeployment},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::*;
use crate::env::seconds;

fn at(second: i64) -> Time {
    seconds(Timestamp::from_second(second).unwrap())
}

fn deployment(replicas: i32, surge: &str, unavailable: &str) -> Deployment {
    let number = |text: &str| match text.parse() {
        Ok(n) => IntOrString::Int(n),
        Err(_) => IntOrString::String(text.into()),
    };
    let mut d = Deployment::default();
    d.metadata.name = Some("web".into());
    d.metadata.generation = Some(1);
    d.spec = DeploymentSpec {
        replicas: Some(replicas),
        progress_deadline_seconds: Some(600),
        revision_history_limit: Some(2),
        strategy: Some(DeploymentStrategy {
            type_: Some("RollingUpdate".into()),
            rolling_update: Some(RollingUpdateDeployment {
                max_surge: Some(number(surge)),
                max_unavailable: Some(number(unavailable)),
            }),
        }),
        ..DeploymentSpec::default()
    };
    d
}

fn set(name: &str, created: i64, replicas: i32, available: i32) -> ReplicaSet {
    let mut set = ReplicaSet::default();
    set.metadata.name = Some(name.into());
    set.metadata.uid = Some(name.into());
    set.metadata.creation_timestamp = Some(at(created));
    set.spec = ReplicaSetSpec { replicas: Some(replicas), ..ReplicaSetSpec::default() };
    set.status = Some(ReplicaSetStatus {
        replicas,
        ready_replicas: Some(available),
        available_replicas: Some(available),
        ..ReplicaSetStatus::default()
    });
    set
}

fn sizes(plan: Vec<(ReplicaSet, i32)>) -> Vec<(String, i32)> {
    plan.into_iter().map(|(set, size)| (set.metadata.name.unwrap(), size)).collect()
}

#[test]
fn percentages_round_apart() {
    let percent = IntOrString::String("25%".into());
    assert_eq!((plan::scaled(Some(&percent), 10, true), plan::scaled(Some(&percent), 10, false)), (3, 2));
    assert_eq!(plan::max_unavailable(&deployment(10, "0", "0")), 1);
    assert_eq!((plan::max_surge(&deployment(4, "25%", "25%")), plan::max_unavailable(&deployment(4, "25%", "25%"))), (1, 1));
}

#[test]
fn the_new_set_grows_within_the_surge() {
    for (old, new, expected) in [(10, 0, 3), (10, 3, 3), (8, 3, 5), (0, 8, 10), (0, 12, 10)] {
        let sets = Sets { new: Some(set("new", 2, new, new)), old: vec![set("old", 1, old, old)] };
        assert_eq!(plan::new_replicas(&deployment(10, "3", "2"), &sets), expected, "old {old} new {new}");
    }
}

#[test]
fn old_sets_shrink_within_availability() {
    for (old, old_available, new, new_available, expected) in [
        (10, 10, 3, 0, Some(8)), // Two may be missing,
        (8, 8, 5, 0, None),      // and are.
        (8, 8, 5, 3, Some(5)),
        (10, 4, 3, 0, Some(8)), // Broken ones go first, but no more than may be missing.
        (0, 0, 10, 10, None),
    ] {
        let sets = Sets { new: Some(set("new", 2, new, new_available)), old: vec![set("old", 1, old, old_available)] };
        let down = plan::scale_down_old(&deployment(10, "3", "2"), &sets);
        assert_eq!(down.first().map(|(_, size)| *size), expected, "{old}/{old_available} {new}/{new_available}");
    }
}

#[test]
fn scaling_in_a_rollout_is_proportional() {
    let mut d = deployment(20, "2", "2");
    let mut sets = Sets { new: Some(set("new", 2, 5, 0)), old: vec![set("old", 1, 7, 7)] };
    for set in sets.old.iter_mut().chain(&mut sets.new) {
        annotations::set_replicas(set, 10, 12);
    }
    let all: Vec<_> = sets.all().cloned().collect();
    assert!(plan::is_scaling(&d, &all));
    assert_eq!(sizes(plan::proportional(&d, &sets)), [("old".to_owned(), 13), ("new".to_owned(), 9)]);
    d.spec.replicas = Some(0);
    assert_eq!(sizes(plan::proportional(&d, &sets)), [("old".to_owned(), 0), ("new".to_owned(), 0)]);
    let one = Sets { new: Some(set("new", 2, 3, 3)), old: vec![set("old", 1, 0, 0)] };
    assert_eq!(sizes(plan::proportional(&deployment(7, "1", "1"), &one)), [("new".to_owned(), 7)]);
}

#[test]
fn history_keeps_the_newest_empty_sets() {
    let mut old: Vec<_> = (1..=4).map(|n| set(&format!("r{n}"), n, 0, 0)).collect();
    for (n, set) in old.iter_mut().enumerate() {
        annotations::set_new(&Deployment::default(), set, n as i64 + 1, true);
        set.metadata.generation = Some(0);
    }
    old[0].spec.replicas = Some(1);
    let gone: Vec<_> = plan::beyond_history(&deployment(1, "1", "1"), &old).iter().map(|s| owners::name(*s).to_owned()).collect();
    assert_eq!(gone, ["r2"]);
}

#[test]
fn a_roll_back_keeps_the_history() {
    let mut set = set("a", 1, 0, 0);
    assert!(annotations::set_new(&Deployment::default(), &mut set, 1, true));
    assert!(!annotations::set_new(&Deployment::default(), &mut set, 1, true));
    annotations::set_new(&Deployment::default(), &mut set, 3, true);
    annotations::set_new(&Deployment::default(), &mut set, 5, true);
    assert_eq!(annotations::revision(&set), 5);
    assert_eq!(set.metadata.annotations.unwrap()["deployment.kubernetes.io/revision-history"], "1,3");
}

#[test]
fn progress_is_told() {
    let reason = |status: &DeploymentStatus| {
        let c = status::condition(Some(status), "Progressing").unwrap();
        format!("{} {}", c.status.clone().unwrap(), c.reason.clone().unwrap())
    };
    let mut d = deployment(3, "1", "0");
    let mut sets = Sets { new: Some(set("new", 2, 1, 0)), old: vec![] };
    d.status = Some(status::rollout(&d, &sets, &at(0)));
    assert_eq!(reason(d.status.as_ref().unwrap()), "True ReplicaSetUpdated");
    assert_eq!(status::rollout(&d, &sets, &at(500)), *d.status.as_ref().unwrap(), "nothing moved, nothing to write");
    assert_eq!(status::deadline_in(&d, d.status.as_ref().unwrap(), at(500).0), Some(Duration::from_secs(101)));
    assert_eq!(reason(&status::rollout(&d, &sets, &at(601))), "False ProgressDeadlineExceeded");
    sets.new = Some(set("new", 2, 3, 3));
    d.status = Some(status::rollout(&d, &sets, &at(700)));
    assert_eq!(reason(d.status.as_ref().unwrap()), "True NewReplicaSetAvailable");
    assert!(status::is_complete(&d, d.status.as_ref()));
    let available = status::condition(d.status.as_ref(), "Available").unwrap();
    assert_eq!(available.reason.as_deref(), Some("MinimumReplicasAvailable"));
}

#[test]
fn the_new_set_carries_the_hash() {
    let mut d = deployment(1, "1", "1");
    d.spec.selector.match_labels = Some([("app".to_owned(), "web".to_owned())].into());
    let set = new_set(&d);
    let hash = set.metadata.labels.clone().unwrap()[HASH_LABEL].clone();
    assert_eq!(set.metadata.name, Some(format!("web-{hash}")));
    assert_eq!(set.spec.clone().selector.match_labels.unwrap()[HASH_LABEL], hash);
    assert!(plan::same_template(&d, &set));
}
