use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSetUpdateStrategy, RollingUpdateDaemonSet},
        core::v1::{NodeSpec, Taint},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::*;
use crate::pods::testing::pod;

fn now() -> Timestamp {
    Timestamp::from_second(1000).unwrap()
}

fn node(name: &str, taint: Option<(&str, &str)>) -> Arc<Node> {
    let mut node = Node::default();
    node.metadata.name = Some(name.into());
    node.metadata.labels = Some([("kubernetes.io/os".to_owned(), "linux".to_owned())].into());
    let taints = taint.map(|(key, effect)| vec![Taint { key: key.into(), effect: effect.into(), ..Taint::default() }]);
    node.spec = Some(NodeSpec { taints, ..NodeSpec::default() });
    Arc::new(node)
}

fn daemon(name: &str, node: &str, hash: &str, phase: &str, ready: Option<i64>) -> Arc<Pod> {
    let mut pod = pod(name, node, phase, ready);
    pod.metadata.labels = Some([(HASH.to_owned(), hash.to_owned())].into());
    Arc::new(pod)
}

fn set(surge: i32, unavailable: i32) -> DaemonSet {
    let mut set = DaemonSet::default();
    set.spec.update_strategy = Some(DaemonSetUpdateStrategy {
        type_: Some("RollingUpdate".into()),
        rolling_update: Some(RollingUpdateDaemonSet {
            max_surge: Some(IntOrString::Int(surge)),
            max_unavailable: Some(IntOrString::Int(unavailable)),
        }),
    });
    set
}

fn check(set: &DaemonSet, nodes: &[Arc<Node>], pods: &[Arc<Pod>], create: &[&str], delete: &[&str]) {
    let work = plan::plan(set, "new", nodes, &plan::by_node(pods), &FailedPods::default(), now());
    let mut names: Vec<_> = work.delete.iter().map(|pod| owners::name(&**pod).to_owned()).collect();
    names.sort();
    assert_eq!(
        (work.create, names),
        (create.iter().map(|s| (*s).to_owned()).collect(), delete.iter().map(|s| (*s).to_owned()).collect())
    );
}

#[test]
fn every_suitable_node_gets_one() {
    let nodes = [
        node("a", None),
        node("b", Some(("gpu", "NoSchedule"))),
        node("c", Some(("node.kubernetes.io/unschedulable", "NoSchedule"))),
        node("d", Some(("gpu", "NoExecute"))),
    ];
    check(&set(0, 1), &nodes, &[], &["a", "c"], &[]);
    let on_b = daemon("p", "b", "new", "Running", Some(1));
    let on_d = daemon("q", "d", "new", "Running", Some(1));
    check(&set(0, 1), &nodes, &[on_b, on_d], &["a", "c"], &["q"]);
}

#[test]
fn failed_ones_and_doubles_go() {
    let nodes = [node("a", None)];
    check(&set(0, 1), &nodes, &[daemon("p", "a", "new", "Failed", None)], &[], &["p"]);
    let twice = [daemon("p", "a", "new", "Running", Some(1)), daemon("q", "a", "new", "Running", Some(1))];
    check(&set(0, 1), &nodes, &twice, &[], &["q"]);
    check(&set(0, 1), &nodes, &[plan_for("gone")], &["a"], &["waiting"]);
}

#[test]
fn a_pod_that_fails_again_is_left_for_a_while() {
    let (nodes, failed) = ([node("a", None)], FailedPods::default());
    let plan = |name: &str| {
        let pods = [daemon(name, "a", "new", "Failed", None)];
        let work = plan::plan(&set(0, 1), "new", &nodes, &plan::by_node(&pods), &failed, now());
        (work.create.len(), work.delete.len(), work.wait)
    };
    assert_eq!(plan("first"), (0, 1, None));
    assert_eq!(plan("second"), (0, 0, Some(Duration::from_secs(1))));
}

fn plan_for(node: &str) -> Arc<Pod> {
    let mut waiting = pod("waiting", "", "Pending", None);
    waiting = plan::for_node(waiting, node);
    Arc::new(waiting)
}

#[test]
fn updates_keep_within_their_limits() {
    let nodes = ["a", "b", "c"].map(|name| node(name, None));
    let old = ["a", "b", "c"].map(|name| daemon(name, name, "old", "Running", Some(1)));
    check(&set(0, 1), &nodes, &old, &[], &["a"]);
    check(&set(0, 2), &nodes, &old, &[], &["a", "b"]);
    check(&set(1, 0), &nodes, &old, &["a"], &[]);
    let mut broken = old.clone();
    broken[2] = daemon("c", "c", "old", "Running", None);
    check(&set(0, 1), &nodes, &broken, &[], &["c"]);
    let mut surged = old.to_vec();
    surged.push(daemon("a2", "a", "new", "Running", Some(1)));
    check(&set(1, 0), &nodes, &surged, &[], &["a"]);
    let mut manual = set(0, 1);
    manual.spec.update_strategy.as_mut().unwrap().type_ = Some("OnDelete".into());
    check(&manual, &nodes, &old, &[], &[]);
}

#[test]
fn pods_ask_for_their_node_and_tolerate_trouble() {
    let template = plan::template(&set(0, 1), "new");
    assert_eq!(template.spec.unwrap().tolerations.unwrap().len(), 6);
    assert_eq!(plan::target_node(&plan_for("a")).as_deref(), Some("a"));
}

#[test]
fn the_status_counts_nodes() {
    let nodes = ["a", "b"].map(|name| node(name, None));
    let pods = [daemon("a", "a", "new", "Running", Some(1)), daemon("b", "b", "old", "Running", None)];
    let status = plan::status(&set(0, 1), "new", &nodes, &plan::by_node(&pods), now());
    assert_eq!((status.desired_number_scheduled, status.current_number_scheduled, status.number_ready), (2, 2, 1));
    assert_eq!(
        (status.number_available, status.number_unavailable, status.updated_number_scheduled),
        (Some(1), Some(1), Some(1))
    );
}
