//! Who has to go, as tables.

use serde_json::{Value, json};

use super::*;
use crate::{
    cycle::Outcome,
    testing::{World, asks, node, pod, pod_with_status, with},
};

/// The node and the victims, or why there are none.
fn verdict(world: &World, pod: &PodInfo) -> Result<(String, Vec<String>), String> {
    let Outcome::Unschedulable { preemption, .. } = world.decide(pod) else { panic!("a node has room") };
    match preemption.expect("it was tried") {
        Verdict::Evict(Candidate { node, victims, .. }) => Ok((node, victims.iter().map(|victim| victim.uid.clone()).collect())),
        Verdict::NotEligible(why) => Err(why.to_owned()),
        Verdict::Nobody(why) => Err(why),
    }
}

fn goes(node: &str, victims: &[&str]) -> Result<(String, Vec<String>), String> {
    Ok((node.to_owned(), victims.iter().map(|victim| (*victim).to_owned()).collect()))
}

/// A pod with the label `app`, of a priority, that asks for CPU and has run since the minute.
fn running(name: &str, app: &str, priority: i32, cpu: &str, minute: u32) -> Arc<PodInfo> {
    let status = json!({"startTime": format!("2026-01-01T00:{minute:02}:00Z")});
    pod_with_status(name, json!({"app": app}), with(asks(cpu), json!({"priority": priority})), status)
}

fn wanting(cpu: &str, priority: i32) -> Arc<PodInfo> {
    pod("p", json!({}), with(asks(cpu), json!({"priority": priority})))
}

#[test]
fn as_many_as_possible_stay() {
    let nodes = [node("a", json!({}))];
    let placed = |pods: &[Arc<PodInfo>]| World::new(&nodes, &pods.iter().map(|pod| (pod.clone(), "a")).collect::<Vec<_>>());
    for (what, world, pod, expected) in [
        (
            "the least important goes",
            placed(&[running("x", "w", 1, "1", 0), running("y", "w", 2, "1", 0)]),
            wanting("1", 3),
            goes("a", &["x"]),
        ),
        (
            "of two that are as important, the younger",
            placed(&[running("x", "w", 1, "1", 0), running("y", "w", 1, "1", 5)]),
            wanting("1", 3),
            goes("a", &["y"]),
        ),
        (
            "a small one that would not help stays",
            placed(&[running("x", "w", 1, "100m", 0), running("y", "w", 2, "1800m", 0)]),
            wanting("1", 3),
            goes("a", &["y"]),
        ),
        (
            "the most important victim is the first",
            placed(&[running("x", "w", 1, "1", 0), running("y", "w", 2, "1", 0)]),
            wanting("2", 3),
            goes("a", &["y", "x"]),
        ),
        (
            "others do not make room enough",
            placed(&[running("x", "w", 1, "1", 0), running("y", "w", 3, "1", 0)]),
            wanting("2", 3),
            Err("0/1 nodes are available: 1 Insufficient cpu.".to_owned()),
        ),
    ] {
        assert_eq!(verdict(&world, &pod), expected, "{what}");
    }
}

#[test]
fn budgets_are_respected_as_far_as_possible() {
    let nodes = [node("a", json!({}))];
    let pods = [running("x", "guarded", 1, "1", 0), running("y", "free", 2, "1", 0)].map(|pod| (pod, "a"));
    // Allowed disruptions, and the pods that were counted already.
    type Budget<'a> = Option<(i32, &'a [&'a str])>;
    let cases: [(&str, Budget<'_>, &str, &[&str]); 5] = [
        ("no budget", None, "1", &["x"]),
        ("the more important pod goes rather than the guarded", Some((0, &[])), "1", &["y"]),
        ("the budget allows it", Some((1, &[])), "1", &["x"]),
        ("it was counted already", Some((0, &["x"])), "1", &["x"]),
        ("there is no other way", Some((0, &[])), "2", &["y", "x"]),
    ];
    for (what, budget, cpu, expected) in cases {
        let world = World::new(&nodes, &pods);
        let world = match budget {
            Some((allowed, disrupted)) => world.budget("guarded", allowed, disrupted),
            None => world,
        };
        assert_eq!(verdict(&world, &wanting(cpu, 3)), goes("a", expected), "{what}");
    }
}

#[test]
fn the_cheapest_node_is_chosen() {
    let nodes = [node("a", json!({})), node("b", json!({}))];
    let on = |node: &'static str, pods: Vec<Arc<PodInfo>>| pods.into_iter().map(move |pod| (pod, node));
    for (what, a, b, expected) in [
        (
            "no budget is violated",
            vec![running("x", "guarded", 1, "2", 0)],
            vec![running("y", "free", 5, "2", 0)],
            goes("b", &["y"]),
        ),
        (
            "its most important victim is less important",
            vec![running("x", "w", 1, "1", 0), running("x2", "w", 1, "1", 0)],
            vec![running("y", "w", 2, "2", 0)],
            goes("a", &["x", "x2"]),
        ),
        (
            "less is lost in sum",
            vec![running("x", "w", 3, "1", 0), running("x2", "w", 2, "1", 0)],
            vec![running("y", "w", 3, "1", 0), running("y2", "w", 1, "1", 0)],
            goes("b", &["y", "y2"]),
        ),
        (
            "negative priorities do not add up to less",
            vec![running("x", "w", -5, "1", 0), running("x2", "w", -5, "1", 0)],
            vec![running("y", "w", -5, "2", 0)],
            goes("b", &["y"]),
        ),
        (
            "its victim has run for a shorter time",
            vec![running("x", "w", 1, "2", 9)],
            vec![running("y", "w", 1, "2", 5)],
            goes("a", &["x"]),
        ),
    ] {
        let placed: Vec<_> = on("a", a).chain(on("b", b)).collect();
        let world = World::new(&nodes, &placed).budget("guarded", 0, &[]);
        assert_eq!(verdict(&world, &wanting("2", 10)), expected, "{what}");
    }
}

#[test]
fn fewer_victims_are_better() {
    // The same sum needs priorities that differ: 2^31 counts for every pod.
    let candidate = |priorities: &[i32]| Candidate {
        node: "n".into(),
        victims: priorities.iter().map(|priority| running("x", "w", *priority, "1", 0)).collect(),
        violations: 0,
    };
    assert!(candidate(&[0]).cost() < candidate(&[0, i32::MIN]).cost());
    assert_eq!(candidate(&[0]).cost().2, candidate(&[0, i32::MIN]).cost().2);
}

#[test]
fn a_pod_waits_for_its_victims() {
    let going = |reason: &str| {
        let conditions = json!([{"type": "DisruptionTarget", "status": "True", "reason": reason}]);
        let status = json!({"conditions": conditions, "deletionTimestamp": "2026-01-01T00:00:00Z"});
        pod_with_status("x", json!({}), with(asks("2"), json!({"priority": 1})), status)
    };
    let nodes = [node("a", json!({}))];
    let waits = Err("not eligible due to a terminating pod on the nominated node.".to_owned());
    for (what, victim, nominated, expected) in [
        ("for those of this kind", going("PreemptionByScheduler"), Some("a"), waits),
        ("but not for others", going("DeletionByTaintManager"), Some("a"), goes("a", &["x"])),
        ("nor on other nodes", going("PreemptionByScheduler"), None, goes("a", &["x"])),
        ("nor on one that is gone", going("PreemptionByScheduler"), Some("b"), goes("a", &["x"])),
    ] {
        let pod = wanting("1", 3);
        let world = World::new(&nodes, &[(victim, "a")]);
        let world = match nominated {
            Some(node) => world.nominate(&pod, node),
            None => world,
        };
        assert_eq!(verdict(&world, &pod), expected, "{what}");
    }
}

#[test]
fn extended_resources_count() {
    let fake = |priority: i32, amount: u32| json!({"priority": priority, "containers": [{"name": "c", "resources": {"requests": {"example.com/fakecpu": amount}}}]});
    let nodes = [node("a", json!({"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10", "example.com/fakecpu": "1000"}}))];
    let placed = [(1, 200), (2, 300), (3, 450)]
        .map(|(priority, amount)| (pod(&format!("pod{priority}"), json!({}), fake(priority, amount)), "a"));
    let preemptor = pod("pod4", json!({}), fake(4, 500));
    assert_eq!(verdict(&World::new(&nodes, &placed), &preemptor), goes("a", &["pod2", "pod1"]));
    // Those that the ReplicaSets make in their place find no room, and nobody to evict.
    let world = World::new(&nodes, &placed[2..]).nominate(&preemptor, "a");
    for priority in [1, 2] {
        let again = pod("again", json!({}), fake(priority, 200));
        let expected = "0/1 nodes are available: 1 No preemption victims found for incoming pod.".to_owned();
        assert_eq!(verdict(&world, &again), Err(expected));
    }
    assert!(matches!(world.decide(&preemptor), Outcome::Node(node) if node == "a"));
}

#[test]
fn what_victims_meant_for_spreading_and_affinity_is_forgotten() {
    let spread = json!({"priority": 9, "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "w"}}}]});
    let nodes = [node("a", json!({})), node("b", json!({"spec": {"unschedulable": true}}))];
    let placed = [(running("x", "w", 1, "100m", 0), "a"), (running("y", "w", 2, "100m", 0), "a")];
    let world = World::new(&nodes, &placed);
    // b counts, and has none: only one may be on a, which is the pod itself.
    assert_eq!(verdict(&world, &pod("p", json!({"app": "w"}), spread)), goes("a", &["y", "x"]));

    let away = |priority: i32| -> Value {
        json!({"priority": priority, "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "db"}}}]}}})
    };
    let db = running("db", "db", 1, "100m", 0);
    let world = World::new(&nodes[..1], &[(db, "a"), (running("x", "w", 1, "100m", 0), "a")]);
    assert_eq!(verdict(&world, &pod("p", json!({}), away(9))), goes("a", &["db"]), "the pod keeps away from it");
    let shy = pod("shy", json!({}), away(1));
    let world = World::new(&nodes[..1], &[(shy, "a"), (running("x", "w", 1, "100m", 0), "a")]);
    assert_eq!(verdict(&world, &pod("p", json!({"app": "db"}), json!({"priority": 9}))), goes("a", &["shy"]), "it keeps away");
}

#[test]
fn enough_candidates_are_enough() {
    let nodes: Vec<_> = (0..300).map(|n| node(&format!("n{n:03}"), json!({}))).collect();
    let names: Vec<_> = (0..300).map(|n| format!("n{n:03}")).collect();
    let placed: Vec<_> = names.iter().map(|name| (running(name, "w", 1, "2", 0), name.as_str())).collect();
    let (node, victims) = verdict(&World::new(&nodes, &placed), &wanting("1", 3)).unwrap();
    assert_eq!(victims, [node]);
}
