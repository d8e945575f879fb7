use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    RollingUpdateStatefulSetStrategy, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetUpdateStrategy,
};

use super::*;
use crate::pods::testing::pod;

fn set(replicas: i32, policy: &str, partition: Option<i32>) -> StatefulSet {
    let mut set = StatefulSet::default();
    set.metadata.name = Some("db".into());
    set.metadata.namespace = Some("default".into());
    set.metadata.uid = Some("set".into());
    set.spec.replicas = Some(replicas);
    set.spec.pod_management_policy = Some(policy.into());
    set.spec.update_strategy = Some(StatefulSetUpdateStrategy {
        type_: Some("RollingUpdate".into()),
        rolling_update: Some(RollingUpdateStatefulSetStrategy { partition, ..Default::default() }),
    });
    set
}

/// `db-ORDINAL`; `+` is ready, `-` is not, `x` has failed, `~` is being deleted; a `'` after it means the old revision.
fn members(text: &str) -> Vec<Arc<Pod>> {
    let of = |(ordinal, state): (usize, &str)| {
        let phase = if state.starts_with('x') { "Failed" } else { "Running" };
        let mut pod = pod(&format!("db-{ordinal}"), "n", phase, state.starts_with('+').then_some(1));
        pod.metadata.labels = Some([(HASH.to_owned(), if state.ends_with('\'') { "old" } else { "new" }.to_owned())].into());
        if state.starts_with('~') {
            pod.metadata.deletion_timestamp = Some(crate::env::seconds(Timestamp::UNIX_EPOCH));
        }
        Arc::new(pod)
    };
    text.split_whitespace().enumerate().filter(|(_, state)| *state != ".").map(of).collect()
}

fn check(set: &StatefulSet, pods: &str, expected: &str) {
    let now = Timestamp::from_second(1000).unwrap();
    let steps = plan::steps(set, "old", "new", &members(pods), now);
    let mut told: Vec<String> = steps.create.iter().map(|(ordinal, revision)| format!("+{ordinal}:{revision}")).collect();
    told.extend(steps.delete.iter().map(|(pod, reason)| format!("-{} {reason:?}", plan::ordinal(set, pod).unwrap())));
    assert_eq!(told.join(", "), expected, "{pods}");
}

#[test]
fn in_order() {
    let set = set(3, "OrderedReady", Some(0));
    check(&set, "", "+0:new");
    check(&set, "-", "");
    check(&set, "+", "+1:new");
    check(&set, "+ + +", "");
    check(&set, "+ x +", "-1 Failed");
    check(&set, "+ ~ +", "");
    check(&set, ". + +", "+0:new");
    check(&set, "+ + + + +", "-4 Scaled");
    check(&set, "+ + + + ~", "");
}

#[test]
fn at_once() {
    let set = set(3, "Parallel", Some(0));
    check(&set, "", "+0:new, +1:new, +2:new");
    check(&set, "- -", "+2:new");
    check(&set, "+ + + + +", "-4 Scaled, -3 Scaled");
}

#[test]
fn updates_go_down_to_the_partition() {
    check(&set(3, "OrderedReady", Some(0)), "+' +' +'", "-2 Updated");
    check(&set(3, "OrderedReady", Some(0)), "+' +' +", "-1 Updated");
    check(&set(3, "OrderedReady", Some(0)), "+' +' -", "");
    check(&set(3, "OrderedReady", Some(2)), "+' +' +", "");
    check(&set(3, "OrderedReady", Some(1)), "", "+0:old");
}

#[test]
fn the_status_moves_on_when_an_update_is_complete() {
    let now = Timestamp::from_second(1000).unwrap();
    let of = |pods: &str| plan::status(&set(2, "OrderedReady", Some(0)), "old", "new", &members(pods), now);
    let half = of("+' +");
    assert_eq!((half.current_replicas, half.updated_replicas, half.current_revision.as_deref()), (Some(1), Some(1), Some("old")));
    let whole = of("+ +");
    assert_eq!(
        (whole.current_replicas, whole.updated_replicas, whole.current_revision.as_deref()),
        (Some(2), Some(2), Some("new"))
    );
}

#[test]
fn a_pod_has_its_own_name_and_claims() {
    let mut set = set(1, "OrderedReady", None);
    set.spec.service_name = Some("db".into());
    let mut template = PersistentVolumeClaim::default();
    template.metadata.name = Some("data".into());
    set.spec.volume_claim_templates = Some(vec![template]);
    let pod = plan::pod(&set, &PodTemplateSpec::default(), 3, "new");
    assert_eq!(pod.metadata.name.as_deref(), Some("db-3"));
    let spec = pod.spec.clone().unwrap();
    assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("db-3"), Some("db")));
    assert_eq!(spec.volumes.unwrap()[0].persistent_volume_claim.as_ref().unwrap().claim_name, "data-db-3");
    let claim = &plan::claims(&set, 3)[0];
    assert_eq!(claim.metadata.name.as_deref(), Some("data-db-3"));
    assert_eq!(plan::claim_owners(&set, &pod, 3, claim), None);
    set.spec.persistent_volume_claim_retention_policy = Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
        when_deleted: Some("Delete".into()),
        when_scaled: Some("Retain".into()),
    });
    assert_eq!(plan::claim_owners(&set, &pod, 0, claim).unwrap()[0].uid, "set");
}
