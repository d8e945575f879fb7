use std::{collections::HashMap, sync::Arc};

use serde_json::json;

use super::*;

struct Fake(HashMap<(String, String), Arc<Value>>);

impl Objects for Fake {
    fn get(&self, _: &str, resource: &str, _: &str, name: &str) -> Option<Arc<Value>> {
        self.0.get(&(resource.to_owned(), name.to_owned())).cloned()
    }
}

fn fake() -> Fake {
    let entry = |resource: &str, name: &str, value: Value| ((resource.to_owned(), name.to_owned()), Arc::new(value));
    Fake(HashMap::from([
        entry("nodes", "n1", json!({"metadata": {"name": "n1", "uid": "u1"}})),
        entry(
            "pods",
            "mine",
            json!({"metadata": {"uid": "p1"}, "spec": {"nodeName": "n1", "volumes": [
                {"projected": {"sources": [{"serviceAccountToken": {}}]}},
            ]}}),
        ),
        entry("pods", "other", json!({"metadata": {"uid": "p2"}, "spec": {"nodeName": "n2"}})),
    ]))
}

/// What is refused, behind `is forbidden: `; empty when it passes.
fn check(operation: Operation, resource: &str, name: &str, object: Option<Value>, old: Option<Value>, want: &str) {
    let user = UserInfo::new("system:node:n1", ["system:nodes"]);
    let (group, resource) = match resource.split_once('|') {
        Some((group, resource)) => (group, resource),
        None => ("", resource),
    };
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let namespace = if resource == "leases" { LEASE_NAMESPACE } else { "dev" };
    let write = Write {
        user: &user,
        operation,
        group,
        resource,
        subresource,
        namespace,
        name,
        object: object.as_ref(),
        old: old.as_ref(),
    };
    let got = admit(&write, &fake(), &|_| false).map_err(|refused| refused.to_string()).err().unwrap_or_default();
    let got = got.split_once("is forbidden: ").map_or(got.as_str(), |(_, why)| why);
    assert_eq!(got, want, "{operation:?} {resource}/{subresource} {name}");
}

fn mirror() -> Value {
    json!({
        "metadata": {
            "name": "static-n1",
            "annotations": {"kubernetes.io/config.mirror": "x"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u1", "controller": true}],
        },
        "spec": {"nodeName": "n1", "containers": [{"name": "a"}]},
    })
}

#[test]
fn pods() {
    use Operation::{Create, Delete, Update};
    check(Create, "pods", "", Some(mirror()), None, "");
    let broken = |path: &str, value: Value| {
        let mut pod = mirror();
        *pod.pointer_mut(path).unwrap() = value;
        Some(pod)
    };
    check(
        Create,
        "pods",
        "",
        broken("/metadata/annotations", json!({})),
        None,
        r#"pod does not have "kubernetes.io/config.mirror" annotation, node "n1" can only create mirror pods"#,
    );
    check(
        Create,
        "pods",
        "",
        broken("/spec/nodeName", json!("n2")),
        None,
        r#"node "n1" can only create pods with spec.nodeName set to itself"#,
    );
    check(
        Create,
        "pods",
        "",
        broken("/metadata/ownerReferences", json!([])),
        None,
        r#"node "n1" can only create pods with an owner reference set to itself"#,
    );
    check(
        Create,
        "pods",
        "",
        broken("/metadata/ownerReferences/0/uid", json!("u9")),
        None,
        "node n1 UID mismatch: expected u9 got u1",
    );
    check(
        Create,
        "pods",
        "",
        broken("/spec/containers/0", json!({"envFrom": [{"secretRef": {"name": "s"}}]})),
        None,
        r#"node "n1" can not create pods that reference secrets"#,
    );
    for (source, what) in [("clusterTrustBundle", "clustertrustbundles"), ("podCertificate", "podcertificates")] {
        let projected = json!({"nodeName": "n1", "volumes": [{"projected": {"sources": [{source: {}}]}}]});
        let refused = format!("node \"n1\" can not create pods that reference {what}");
        check(Create, "pods", "", broken("/spec", projected), None, &refused);
    }
    check(Delete, "pods", "mine", None, Some(json!({"spec": {"nodeName": "n1"}})), "");
    check(
        Delete,
        "pods",
        "other",
        None,
        Some(json!({"spec": {"nodeName": "n2"}})),
        r#"node "n1" can only delete pods with spec.nodeName set to itself"#,
    );
    check(
        Update,
        "pods",
        "mine",
        Some(json!({})),
        Some(json!({})),
        r#"unexpected operation "UPDATE", node "n1" can only create and delete mirror pods"#,
    );
    let pod = |node: &str, label: &str| Some(json!({"metadata": {"labels": {"a": label}}, "spec": {"nodeName": node}}));
    check(Update, "pods/status", "mine", pod("n1", "b"), pod("n1", "b"), "");
    check(Update, "pods/status", "mine", pod("n1", "c"), pod("n1", "b"), r#"node "n1" cannot update labels through pod status"#);
    check(
        Update,
        "pods/status",
        "other",
        pod("n2", "b"),
        pod("n2", "b"),
        r#"node "n1" can only update pod status for pods with spec.nodeName set to itself"#,
    );
    check(Create, "pods/eviction", "mine", Some(json!({})), None, "");
    check(
        Create,
        "pods/eviction",
        "other",
        Some(json!({})),
        None,
        "node n1 can only evict pods with spec.nodeName set to itself",
    );
    check(Create, "pods/eviction", "none", Some(json!({})), None, r#"pods "none" not found"#);
    check(
        Create,
        "pods/exec",
        "mine",
        Some(json!({})),
        None,
        r#"unexpected pod subresource "exec", only 'status' and 'eviction' are allowed"#,
    );
}

#[test]
fn nodes_and_what_is_named_like_them() {
    use Operation::{Create, Update};
    let node = |labels: Value| Some(json!({"metadata": {"name": "n1", "labels": labels}, "spec": {}}));
    check(
        Create,
        "nodes",
        "",
        node(json!({"kubernetes.io/os": "linux", "mine": "x", "topology.kubernetes.io/zone": "a", "x.node.kubernetes.io/y": ""})),
        None,
        "",
    );
    check(
        Create,
        "nodes",
        "",
        node(json!({"node-restriction.kubernetes.io/a": "", "kubernetes.io/evil": ""})),
        None,
        r#"node "n1" is not allowed to set the following labels: kubernetes.io/evil, node-restriction.kubernetes.io/a"#,
    );
    check(
        Create,
        "nodes",
        "",
        Some(json!({"metadata": {"name": "n2"}})),
        None,
        r#"node "n1" is not allowed to modify node "n2""#,
    );
    check(
        Update,
        "nodes",
        "n1",
        node(json!({"node-role.kubernetes.io/control-plane": ""})),
        node(json!({})),
        "is not allowed to modify labels: node-role.kubernetes.io/control-plane",
    );
    check(
        Update,
        "nodes/status",
        "n1",
        Some(json!({"metadata": {"name": "n1"}, "spec": {"taints": [{"key": "a"}]}})),
        node(json!({})),
        r#"node "n1" is not allowed to modify taints"#,
    );
    check(Update, "nodes/status", "n1", node(json!({"a": "b"})), node(json!({"a": "b"})), "");
    check(Create, "coordination.k8s.io|leases", "", Some(json!({"metadata": {"name": "n1"}})), None, "");
    check(
        Create,
        "coordination.k8s.io|leases",
        "",
        Some(json!({"metadata": {"name": "n2"}})),
        None,
        "can only access node lease with the same name as the requesting node",
    );
    check(
        Create,
        "storage.k8s.io|csinodes",
        "",
        Some(json!({"metadata": {"name": "n2"}})),
        None,
        "can only access CSINode with the same name as the requesting node",
    );
    check(Create, "|events", "e", Some(json!({})), None, "");
}

#[test]
fn tokens_and_claims() {
    use Operation::{Create, Update};
    let request = |reference: Value| Some(json!({"spec": {"boundObjectRef": reference}}));
    let pod = |name: &str, uid: &str| request(json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}));
    check(Create, "serviceaccounts/token", "app", pod("mine", "p1"), None, "");
    check(
        Create,
        "serviceaccounts/token",
        "app",
        pod("other", "p2"),
        None,
        "node requested token bound to a pod scheduled on a different node",
    );
    check(Create, "serviceaccounts/token", "app", pod("mine", ""), None, "node requested token with a pod binding without a uid");
    check(
        Create,
        "serviceaccounts/token",
        "app",
        pod("mine", "p9"),
        None,
        "the UID in the bound object reference (p9) does not match the UID in record. The object might have been deleted and then recreated",
    );
    check(Create, "serviceaccounts/token", "app", request(Value::Null), None, "node requested token not bound to a pod");
    let mut foreign = pod("mine", "p1");
    foreign.as_mut().unwrap()["spec"]["audiences"] = json!(["vault"]);
    check(
        Create,
        "serviceaccounts/token",
        "app",
        foreign,
        None,
        "audience \"vault\" not found in pod spec volume, system:node:n1 is not authorized to request tokens for this audience",
    );
    let claim = |capacity: &str, class: &str| {
        Some(json!({"spec": {"storageClassName": class}, "status": {"capacity": {"storage": capacity}}}))
    };
    check(Update, "persistentvolumeclaims/status", "data", claim("2Gi", "a"), claim("1Gi", "a"), "");
    check(
        Update,
        "persistentvolumeclaims/status",
        "data",
        claim("2Gi", "b"),
        claim("1Gi", "a"),
        r#"node "n1" is not allowed to update fields other than status.capacity and status.conditions"#,
    );
    check(Update, "persistentvolumeclaims", "data", claim("2Gi", "a"), claim("1Gi", "a"), "may only update PVC status");
}

#[test]
fn others_pass() {
    let user = UserInfo::new("jane", ["system:nodes"]);
    let write = Write {
        user: &user,
        operation: Operation::Delete,
        group: "",
        resource: "nodes",
        subresource: "",
        namespace: "",
        name: "n1",
        object: None,
        old: None,
    };
    assert_eq!(admit(&write, &fake(), &|_| false), Ok(()));
}
