use serde_json::json;

use super::*;
use crate::authz::bootstrap;

fn pod(node: &str) -> Value {
    json!({
        "metadata": {"name": "web", "namespace": "dev", "uid": "p1"},
        "spec": {
            "nodeName": node,
            "serviceAccountName": "app",
            "imagePullSecrets": [{"name": "pull"}],
            "initContainers": [{"envFrom": [{"configMapRef": {"name": "init"}}]}],
            "containers": [{"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "env", "key": "a"}}}]}],
            "volumes": [
                {"name": "s", "secret": {"secretName": "vol"}},
                {"name": "p", "projected": {"sources": [{"serviceAccountToken": {}}, {"configMap": {"name": "kube-root-ca.crt"}}]}},
                {"name": "d", "persistentVolumeClaim": {"claimName": "data"}},
                {"name": "tmp", "ephemeral": {"volumeClaimTemplate": {}}},
            ],
            "resourceClaims": [{"name": "g", "resourceClaimName": "gpu"}, {"name": "t", "resourceClaimTemplateName": "x"}],
        },
        "status": {"resourceClaimStatuses": [{"name": "t", "resourceClaimName": "web-t-abc"}]},
    })
}

fn example() -> Graph {
    let mut graph = Graph::default();
    graph.apply("", "pods", "dev", "web", Some(&pod("n1")));
    let volume = json!({"spec": {
        "claimRef": {"namespace": "dev", "name": "data"},
        "csi": {"driver": "x", "nodePublishSecretRef": {"name": "mount", "namespace": "storage"}},
    }});
    graph.apply("", "persistentvolumes", "", "pv-1", Some(&volume));
    graph.apply("storage.k8s.io", "volumeattachments", "", "va-1", Some(&json!({"spec": {"nodeName": "n1"}})));
    graph
}

fn ask(graph: &Graph, node: &str, asked: [&str; 5], field_selector: &str) -> Decision {
    let [verb, group, resource, namespace, name] = asked;
    let user = UserInfo::new(format!("{USER_PREFIX}{node}"), [GROUP]);
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let attributes = Attributes { field_selector, ..Attributes::resource(&user, verb, group, resource, namespace, name) };
    let attributes = attributes.with_subresource(subresource).named_by_selector();
    graph.authorize(node, &attributes, &bootstrap::node_rules())
}

#[test]
fn knows_nodes() {
    let check = |user: UserInfo, want: Option<&str>| assert_eq!(identity(&user).as_deref(), want);
    check(UserInfo::new("system:node:n1", [GROUP]), Some("n1"));
    check(UserInfo::new("system:node:n1", ["other"]), None);
    check(UserInfo::new("n1", [GROUP]), None);
    check(UserInfo::new("system:node:", [GROUP]), Some(""));
}

#[test]
fn reads_what_its_pods_need() {
    let graph = example();
    let check = |asked: [&str; 5], want: bool| {
        assert_eq!(ask(&graph, "n1", asked, "").allowed(), want, "n1 {asked:?}");
        // Whatever is bound to one node is closed to another.
        assert!(!ask(&graph, "n2", asked, "").allowed(), "n2 {asked:?}");
    };
    for name in ["pull", "env", "vol"] {
        check(["get", "", "secrets", "dev", name], true);
        check(["watch", "", "secrets", "dev", name], true);
        check(["get", "", "secrets", "prod", name], false);
        check(["update", "", "secrets", "dev", name], false);
    }
    check(["get", "", "secrets", "dev", "other"], false);
    check(["list", "", "secrets", "dev", ""], false);
    check(["get", "", "secrets", "storage", "mount"], true);
    check(["get", "", "configmaps", "dev", "init"], true);
    check(["get", "", "configmaps", "dev", "kube-root-ca.crt"], true);
    check(["get", "", "persistentvolumeclaims", "dev", "data"], true);
    check(["get", "", "persistentvolumeclaims", "dev", "web-tmp"], true);
    check(["list", "", "persistentvolumeclaims", "dev", "data"], false);
    check(["patch", "", "persistentvolumeclaims/status", "dev", "data"], true);
    check(["get", "", "persistentvolumes", "", "pv-1"], true);
    check(["get", "", "persistentvolumes", "", "pv-2"], false);
    check(["get", "resource.k8s.io", "resourceclaims", "dev", "gpu"], true);
    check(["get", "resource.k8s.io", "resourceclaims", "dev", "web-t-abc"], true);
    check(["get", "storage.k8s.io", "volumeattachments", "", "va-1"], true);
    check(["create", "", "serviceaccounts/token", "dev", "app"], true);
    check(["create", "", "serviceaccounts/token", "dev", "default"], false);
    check(["get", "", "pods", "dev", "web"], true);
}

#[test]
fn touches_only_its_own() {
    let graph = example();
    let check = |asked: [&str; 5], selector: &str, want: Result<(), &str>| {
        let got = match ask(&graph, "n1", asked, selector) {
            Decision::Allow(_) => Ok(()),
            Decision::NoOpinion(reason) | Decision::Deny(reason) => Err(reason),
        };
        assert_eq!(got, want.map_err(str::to_owned), "{asked:?} {selector}");
    };
    check(["get", "", "nodes", "", "n1"], "", Ok(()));
    check(["get", "", "nodes", "", "n2"], "", Err("node 'n1' cannot read 'n2', only its own Node object"));
    check(["list", "", "nodes", "", ""], "", Err("node 'n1' cannot read all nodes, only its own Node object"));
    check(["watch", "", "nodes", "", ""], "metadata.name=n1", Ok(()));
    check(["patch", "", "nodes/status", "", "n1"], "", Ok(()));
    check(["delete", "", "nodes", "", "n1"], "", Err(""));
    check(["list", "", "pods", "", ""], "spec.nodeName=n1", Ok(()));
    check(["list", "", "pods", "", ""], "a=b,spec.nodeName==n1", Ok(()));
    check(["list", "", "pods", "", ""], "spec.nodeName!=n1", Err("can only list/watch pods with spec.nodeName field selector"));
    check(["list", "", "pods", "", ""], "spec.nodeName=n2", Err("can only list/watch pods with spec.nodeName field selector"));
    check(["create", "", "pods", "dev", ""], "", Ok(()));
    check(["update", "", "pods", "dev", "web"], "", Err(""));
    check(["create", "", "pods/binding", "dev", "web"], "", Err(""));
    check(["update", "coordination.k8s.io", "leases", LEASE_NAMESPACE, "n1"], "", Ok(()));
    check(
        ["update", "coordination.k8s.io", "leases", LEASE_NAMESPACE, "n2"],
        "",
        Err("can only access node lease with the same name as the requesting node"),
    );
    check(
        ["get", "coordination.k8s.io", "leases", "dev", "n1"],
        "",
        Err("can only access leases in the \"kube-node-lease\" system namespace"),
    );
    check(["get", "storage.k8s.io", "csinodes", "", "n1"], "", Ok(()));
    check(
        ["get", "storage.k8s.io", "csinodes", "", "n2"],
        "",
        Err("can only access CSINode with the same name as the requesting node"),
    );
    check(["get", "", "secrets", "dev", "other"], "", Err("no relationship found between node 'n1' and this object"));
    check(["create", "", "events", "dev", ""], "", Ok(()));
    check(["list", "node.k8s.io", "runtimeclasses", "", ""], "", Ok(()));
    check(["list", "apps", "deployments", "", ""], "", Err(""));
}

#[test]
fn forgets_with_the_pod() {
    let mut graph = example();
    let mut second = pod("n1");
    second["metadata"]["name"] = json!("web-2");
    graph.apply("", "pods", "dev", "web-2", Some(&second));
    let reads = |graph: &Graph| ask(graph, "n1", ["get", "", "secrets", "dev", "vol"], "").allowed();
    graph.apply("", "pods", "dev", "web", None);
    assert!(reads(&graph), "the other pod still needs it");
    graph.apply("", "pods", "dev", "web-2", None);
    assert!(!reads(&graph));
    graph.apply("storage.k8s.io", "volumeattachments", "", "va-1", None);
    graph.apply("", "persistentvolumes", "", "pv-1", None);
    assert!(graph.is_empty() && graph.sources.is_empty() && graph.volumes.is_empty() && graph.claims.is_empty());
}

#[test]
fn unscheduled_and_mirror_pods_grant_nothing() {
    let mut graph = Graph::default();
    graph.apply("", "pods", "dev", "web", Some(&pod("")));
    assert!(graph.is_empty());
    let mut mirror = pod("n1");
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    graph.apply("", "pods", "dev", "web", Some(&mirror));
    assert!(!ask(&graph, "n1", ["get", "", "secrets", "dev", "vol"], "").allowed());
    assert!(ask(&graph, "n1", ["get", "", "pods", "dev", "web"], "").allowed());
}

#[test]
fn forgets_what_went_unseen() {
    let mut graph = example();
    graph.retain("", "pods", &HashSet::from([("dev".to_owned(), "other".to_owned())]));
    graph.retain("", "persistentvolumes", &HashSet::new());
    assert!(!ask(&graph, "n1", ["get", "", "secrets", "dev", "vol"], "").allowed());
    assert!(graph.claims.is_empty());
    assert!(ask(&graph, "n1", ["get", "storage.k8s.io", "volumeattachments", "", "va-1"], "").allowed());
}
