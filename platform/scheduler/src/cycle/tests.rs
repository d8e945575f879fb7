//! Decisions as a table: nodes, pods that are there, the pod, and what must come of it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use super::*;
use crate::testing::{World, asks, node, pod, with};

fn decide_on(nodes: &[Arc<Node>], placed: &[(Arc<PodInfo>, &str)], pod: &PodInfo) -> Outcome {
    World::new(nodes, placed).decide(pod)
}

/// A message is compared up to what it says about preemption; see `why_nobody_is_evicted`.
#[track_caller]
fn check(nodes: &[Arc<Node>], placed: &[(Arc<PodInfo>, &str)], pod: &PodInfo, expected: &str) {
    match decide_on(nodes, placed, pod) {
        Outcome::Node(node) => assert_eq!(node, expected),
        Outcome::Unschedulable { message, .. } => {
            assert_eq!(message.split(" no new claims").next().unwrap(), expected);
        }
    }
}

#[test]
fn resources() {
    let nodes = [node("a", json!({})), node("b", json!({}))];
    let big = pod("big", json!({}), asks("1500m"));
    check(&nodes, &[(big.clone(), "a")], &pod("p", json!({}), asks("1")), "b");
    check(
        &nodes,
        &[(big.clone(), "a"), (pod("other", json!({}), asks("1500m")), "b")],
        &pod("p", json!({}), asks("1")),
        "0/2 nodes are available: 2 Insufficient cpu.",
    );
    check(&[], &[], &big, "no nodes available to schedule pods");
    let tiny = [node("a", json!({"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "1"}}))];
    check(
        &tiny,
        &[(pod("x", json!({}), json!({})), "a")],
        &pod("p", json!({}), json!({})),
        "0/1 nodes are available: 1 Too many pods.",
    );
}

#[test]
fn nodes_that_refuse() {
    let nodes = [
        node("a", json!({"spec": {"unschedulable": true}})),
        node("b", json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}})),
        node("c", json!({"labels": {"disk": "hdd"}})),
    ];
    check(
        &nodes,
        &[],
        &pod("p", json!({}), json!({"nodeSelector": {"disk": "ssd"}})),
        "0/3 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable.",
    );
    check(&nodes[1..2], &[], &pod("p", json!({}), json!({"tolerations": [{"key": "k", "operator": "Exists"}]})), "b");
    check(&nodes[..1], &[], &pod("p", json!({}), json!({"tolerations": [{"operator": "Exists"}]})), "a");
    let affinity = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["c"]}]}]}}}});
    check(&nodes, &[], &pod("p", json!({}), affinity), "c");
}

#[test]
fn host_ports() {
    let port =
        |ip: &str| json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080, "hostIP": ip}]}]});
    let nodes = [node("a", json!({}))];
    let taken = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.";
    check(&nodes, &[(pod("x", json!({}), port("")), "a")], &pod("p", json!({}), port("127.0.0.1")), taken);
    check(&nodes, &[(pod("x", json!({}), port("127.0.0.2")), "a")], &pod("p", json!({}), port("127.0.0.1")), "a");
}

#[test]
fn affinity_between_pods() {
    let near = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "db"}}}]}}});
    let away = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "db"}}}]}}});
    let nodes = [node("a", json!({})), node("b", json!({}))];
    let db = pod("db", json!({"app": "db"}), json!({}));
    check(&nodes, &[(db.clone(), "b")], &pod("p", json!({}), near.clone()), "b");
    check(&nodes, &[(db.clone(), "b")], &pod("p", json!({}), away.clone()), "a");
    check(&nodes, &[], &pod("p", json!({}), near.clone()), "0/2 nodes are available: 2 node(s) didn't match pod affinity rules.");
    check(&nodes[..1], &[], &pod("p", json!({"app": "db"}), near), "a");
    let shy = pod("shy", json!({"app": "db"}), away);
    check(
        &nodes[..1],
        &[(shy, "a")],
        &db,
        "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules.",
    );
}

#[test]
fn spreading() {
    let spec = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "w"}}}]});
    let nodes = [node("a", json!({})), node("b", json!({}))];
    let web = |name: &str| pod(name, json!({"app": "w"}), spec.clone());
    check(&nodes, &[(web("1"), "a")], &web("p"), "b");
    let full = [nodes[0].clone(), node("b", json!({"spec": {"unschedulable": true}}))];
    check(
        &full,
        &[(web("1"), "a")],
        &web("p"),
        "0/2 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 node(s) were unschedulable.",
    );
    let owned = |name: &str| {
        let mut pod = (*pod(name, json!({}), json!({})).pod).clone();
        pod.metadata.owner_references = serde_json::from_value(
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]),
        )
        .unwrap();
        Arc::new(PodInfo::new(Arc::new(pod)))
    };
    check(&nodes, &[(owned("1"), "a"), (owned("2"), "a")], &owned("p"), "b");
}

#[test]
fn why_nobody_is_evicted() {
    let nodes = [
        node("a", json!({})),
        node("b", json!({"spec": {"unschedulable": true}})),
        node("c", json!({"allocatable": {"cpu": "1", "memory": "4Gi", "pods": "10"}})),
    ];
    let full = pod("full", json!({}), with(asks("2"), json!({"priority": 5})));
    let reasons = "0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu.";
    for (what, nodes, pod, expected) in [
        (
            "c is too small, b is cordoned, and a's pod is as important",
            &nodes[..],
            pod("p", json!({}), with(asks("1500m"), json!({"priority": 5}))),
            format!(
                "{reasons} no new claims to deallocate, preemption: 0/3 nodes are available: \
                 1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling."
            ),
        ),
        (
            "a's pod is less important, and goes",
            &nodes[..],
            pod("p", json!({}), with(asks("1500m"), json!({"priority": 6}))),
            reasons.to_owned(),
        ),
        (
            "the pod does not want it",
            &nodes[..],
            pod("p", json!({}), with(asks("1500m"), json!({"priority": 6, "preemptionPolicy": "Never"}))),
            format!("{reasons} no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never."),
        ),
        (
            "no eviction makes the node larger",
            &nodes[..1],
            pod("p", json!({}), with(asks("3"), json!({"priority": 6}))),
            "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: \
             1 Preemption is not helpful for scheduling."
                .to_owned(),
        ),
        (
            "only pods are in the way",
            &nodes[..1],
            pod("p", json!({}), with(asks("1"), json!({"priority": 0}))),
            "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: \
             1 No preemption victims found for incoming pod."
                .to_owned(),
        ),
    ] {
        let Outcome::Unschedulable { message, .. } = decide_on(nodes, &[(full.clone(), "a")], &pod) else { panic!("{what}") };
        assert_eq!(message, expected, "{what}");
    }
}

#[test]
fn nodes_are_kept_for_whom_room_was_made() {
    let nodes = [node("a", json!({})), node("b", json!({"allocatable": {"cpu": "1", "memory": "4Gi", "pods": "10"}}))];
    let waiting = pod("waiting", json!({}), with(asks("1500m"), json!({"priority": 5})));
    let world = World::new(&nodes, &[]).nominate(&waiting, "a");
    for (what, pod, expected) in [
        ("who waits gets it", waiting.clone(), Some("a")),
        ("a more important pod does not care", pod("p", json!({}), with(asks("1500m"), json!({"priority": 6}))), Some("a")),
        ("one as important does", pod("p", json!({}), with(asks("1500m"), json!({"priority": 5}))), None),
        ("less important ones go elsewhere", pod("p", json!({}), asks("600m")), Some("b")),
        ("what is left is for all", pod("p", json!({}), with(asks("300m"), json!({"nodeName": "a"}))), Some("a")),
    ] {
        match world.decide(&pod) {
            Outcome::Node(node) => assert_eq!(Some(node.as_str()), expected, "{what}"),
            Outcome::Unschedulable { message, .. } => assert_eq!(None, expected, "{what}: {message}"),
        }
    }
    // Its place is taken, but it may go elsewhere.
    let world = World::new(&nodes, &[(pod("x", json!({}), asks("1500m")), "a")]);
    let small = pod("small", json!({}), asks("1"));
    assert!(matches!(world.nominate(&small, "a").decide(&small), Outcome::Node(node) if node == "b"));
}

#[test]
fn those_a_node_is_kept_for_keep_others_away() {
    let away = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "db"}}}]}}});
    let nodes = [node("a", json!({}))];
    let db = pod("db", json!({"app": "db"}), json!({}));
    let shy = pod("shy", json!({}), away);
    for (waiting, pod, expected) in [
        (&db, &shy, "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules."),
        (&shy, &db, "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules."),
    ] {
        let Outcome::Unschedulable { message, .. } = World::new(&nodes, &[]).nominate(waiting, "a").decide(pod) else {
            panic!("{expected}")
        };
        assert_eq!(message.split(" no new claims").next().unwrap(), expected);
    }
}

#[test]
fn what_is_not_supported_is_said() {
    let spec = json!({"resourceClaims": [{"name": "gpu", "resourceClaimName": "gpu"}]});
    check(
        &[node("a", json!({}))],
        &[],
        &pod("p", json!({}), spec),
        "0/1 nodes are available: resource claims are not supported by this scheduler.",
    );
    let claim = json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]});
    check(
        &[node("a", json!({}))],
        &[],
        &pod("p", json!({}), claim),
        "0/1 nodes are available: persistentvolumeclaim \"c\" not found. not found",
    );
}

#[test]
fn a_share_of_many_nodes_is_enough() {
    for (nodes, expected) in [(10, 10), (100, 100), (1000, 420), (5000, 500), (10000, 500)] {
        assert_eq!(enough(nodes), expected, "{nodes}");
    }
}
