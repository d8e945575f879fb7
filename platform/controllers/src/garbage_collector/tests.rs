use super::*;

fn resource() -> Arc<Served> {
    Arc::new(Served {
        group: String::new(),
        version: "v1".into(),
        kind: "ConfigMap".into(),
        plural: "configmaps".into(),
        namespaced: true,
        verbs: Vec::new(),
        scale: false,
    })
}

fn owner(uid: &str) -> OwnerReference {
    OwnerReference { uid: uid.into(), name: uid.into(), block_owner_deletion: Some(true), ..OwnerReference::default() }
}

fn meta(uid: &str, owners: &[&str], finalizer: Option<&str>) -> ObjectMeta {
    ObjectMeta {
        uid: Some(uid.into()),
        name: Some(uid.into()),
        namespace: Some("default".into()),
        owner_references: Some(owners.iter().map(|uid| owner(uid)).collect()),
        deletion_timestamp: finalizer.map(|_| crate::env::seconds(jiff::Timestamp::UNIX_EPOCH)),
        finalizers: finalizer.map(|f| vec![f.to_owned()]),
        ..ObjectMeta::default()
    }
}

#[test]
fn the_graph_wakes_whom_it_concerns() {
    let mut graph = Graph::default();
    let seen = |graph: &mut Graph, meta: ObjectMeta| graph.observe(&resource(), &meta);
    assert_eq!(seen(&mut graph, meta("child", &["parent"], None)).delete, ["child"], "its owner is not known");
    assert_eq!(seen(&mut graph, meta("parent", &[], None)), Wake::default());
    assert_eq!(seen(&mut graph, meta("child", &["parent"], None)), Wake::default(), "nothing changed");
    let waiting = seen(&mut graph, meta("parent", &[], Some(FOREGROUND)));
    assert_eq!(waiting.delete, ["child", "parent"]);
    assert_eq!(graph.blocking("parent").len(), 1);
    assert_eq!(graph.forget("child").delete, ["parent"], "the last one that blocked is gone");
    assert!(graph.blocking("parent").is_empty());
    seen(&mut graph, meta("child", &["parent"], None));
    assert_eq!(graph.forget("parent").delete, ["child"]);
    assert_eq!(seen(&mut graph, meta("other", &[], Some(ORPHAN))).orphan, ["other"]);
}

#[test]
fn a_list_forgets_what_it_lacks() {
    let mut graph = Graph::default();
    graph.observe(&resource(), &meta("a", &[], None));
    graph.observe(&resource(), &meta("b", &["a"], None));
    assert_eq!(graph.keep_only(&resource(), &HashSet::from(["b".to_owned()])).delete, ["b"]);
    assert!(graph.get("a").is_none() && graph.get("b").is_some());
}

#[test]
fn decisions() {
    let mut graph = Graph::default();
    graph.observe(&resource(), &meta("waiting", &["item"], Some(FOREGROUND)));
    graph.observe(&resource(), &meta("plain", &["item2"], None));
    let waiting = graph.dependents("item");
    let plain = graph.dependents("item2");
    let delete = |policy, unblock| Action::Delete { policy, unblock };
    use Owner::{Absent, Solid, Unresolved, WaitsForDependents};
    for (owners, finalizer, dependents, expected) in [
        (&[][..], None, &[][..], Action::Keep),
        (&[("a", Solid)], None, &[], Action::Keep),
        (&[("a", Absent)], None, &[], delete(PropagationPolicy::Background, false)),
        (&[("a", Absent)], Some(ORPHAN), &[], delete(PropagationPolicy::Orphan, false)),
        (&[("a", Absent)], Some(FOREGROUND), &[], delete(PropagationPolicy::Foreground, false)),
        (&[("a", Absent), ("b", Solid)], None, &[], Action::DropOwners(vec![owner("b")])),
        (&[("a", WaitsForDependents), ("b", Solid)], None, &[], Action::DropOwners(vec![owner("b")])),
        (&[("a", Absent), ("b", Unresolved)], None, &[], Action::Keep),
        (&[("a", WaitsForDependents)], None, &[], delete(PropagationPolicy::Background, false)),
        (&[("a", WaitsForDependents)], None, &plain, delete(PropagationPolicy::Foreground, false)),
        (&[("a", WaitsForDependents)], None, &waiting, delete(PropagationPolicy::Foreground, true)),
    ] {
        let finalizers: Vec<String> = finalizer.into_iter().map(str::to_owned).collect();
        let owners: Vec<_> = owners.iter().map(|(uid, state)| (owner(uid), *state)).collect();
        assert_eq!(decide(&owners, &finalizers, dependents), expected, "{owners:?}");
    }
}
