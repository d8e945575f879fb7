//! Decisions as a table: nodes, pods that are there, the pod, and what must come of it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use pharos_client::Informer;
use serde_json::{Value, json};

use super::*;
use crate::cache::Cache;

fn node(name: &str, mut extra: Value) -> Arc<Node> {
    let labels = extra.get("labels").cloned().unwrap_or_else(|| json!({}));
    let mut labels = labels.as_object().unwrap().clone();
    labels.insert("kubernetes.io/hostname".into(), json!(name));
    let spec = extra.get_mut("spec").map(Value::take).unwrap_or_else(|| json!({}));
    let allocatable =
        extra.get_mut("allocatable").map(Value::take).unwrap_or_else(|| json!({"cpu": "2", "memory": "4Gi", "pods": "10"}));
    Arc::new(
        serde_json::from_value(
            json!({"metadata": {"name": name, "labels": labels}, "spec": spec, "status": {"allocatable": allocatable}}),
        )
        .unwrap(),
    )
}

fn pod(name: &str, labels: Value, spec: Value) -> Arc<PodInfo> {
    let mut whole = json!({"containers": [{"name": "c"}]});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let pod: Pod = serde_json::from_value(
        json!({"metadata": {"name": name, "namespace": "a", "uid": name, "labels": labels}, "spec": whole}),
    )
    .unwrap();
    Arc::new(PodInfo::new(Arc::new(pod)))
}

fn decide_on(nodes: &[Arc<Node>], placed: &[(Arc<PodInfo>, &str)], pod: &PodInfo) -> Outcome {
    let mut cache = Cache::default();
    for node in nodes {
        cache.set_node(node.metadata.name.as_deref().unwrap(), Some(node.clone()));
    }
    for (pod, node) in placed {
        cache.place(pod.clone(), node, false);
    }
    let (namespaces, claims, volumes) = (Informer::detached(), Informer::detached(), Informer::detached());
    let nodes = cache.nodes();
    let snapshot = Snapshot {
        nodes: &nodes,
        has_affinity: cache.has_affinity(),
        namespaces: &namespaces,
        claims: &claims,
        volumes: &volumes,
    };
    decide(&Plugins::default(), &snapshot, pod, &mut 0)
}

/// A message is compared up to what it says about preemption; see `nobody_is_evicted`.
#[track_caller]
fn check(nodes: &[Arc<Node>], placed: &[(Arc<PodInfo>, &str)], pod: &PodInfo, expected: &str) {
    match decide_on(nodes, placed, pod) {
        Outcome::Node(node) => assert_eq!(node, expected),
        Outcome::Unschedulable { message, .. } => {
            assert_eq!(message.split(" no new claims").next().unwrap(), expected);
        }
    }
}

fn asks(cpu: &str) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]})
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
fn nobody_is_evicted() {
    let nodes = [
        node("a", json!({})),
        node("b", json!({"spec": {"unschedulable": true}})),
        node("c", json!({"allocatable": {"cpu": "1", "memory": "4Gi", "pods": "10"}})),
    ];
    let with = |priority: i32, spec: Value| {
        let mut spec = spec;
        spec.as_object_mut().unwrap().insert("priority".into(), json!(priority));
        spec
    };
    let full = pod("full", json!({}), with(5, asks("2")));
    let reasons = "0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu.";
    let never = json!({"containers": asks("1500m")["containers"], "preemptionPolicy": "Never"});
    for (what, nodes, pod, expected) in [
        (
            "c is too small, b is cordoned, and a's pod is as important",
            &nodes[..],
            pod("p", json!({}), with(5, asks("1500m"))),
            format!(
                "{reasons} no new claims to deallocate, preemption: 0/3 nodes are available: \
                 1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling."
            ),
        ),
        ("a's pod is less important", &nodes[..], pod("p", json!({}), with(6, asks("1500m"))), reasons.to_owned()),
        (
            "the pod does not want it",
            &nodes[..],
            pod("p", json!({}), with(6, never)),
            format!("{reasons} no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never."),
        ),
        (
            "no eviction makes the node larger",
            &nodes[..1],
            pod("p", json!({}), with(6, asks("3"))),
            "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: \
             1 Preemption is not helpful for scheduling."
                .to_owned(),
        ),
        (
            "only pods are in the way",
            &nodes[..1],
            pod("p", json!({}), with(0, asks("1"))),
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
        "0/1 nodes are available: persistentvolumeclaim \"c\" not found.",
    );
}

#[test]
fn a_share_of_many_nodes_is_enough() {
    for (nodes, expected) in [(10, 10), (100, 100), (1000, 420), (5000, 500), (10000, 500)] {
        assert_eq!(enough(nodes), expected, "{nodes}");
    }
}
