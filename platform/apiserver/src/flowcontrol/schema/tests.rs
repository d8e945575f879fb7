use http::Method;
use prometheus::Registry;
use serde_json::json;

use super::*;
use crate::{
    flowcontrol::{
        bootstrap,
        queueset::{Mode, QueueSet, Signals},
    },
    request::Query,
};

fn level(name: &str) -> Option<(Level, HeaderValue)> {
    let metrics = Metrics::new(&Registry::new()).unwrap();
    let set = Arc::new(QueueSet::new(name, metrics.level(name), Arc::new(Signals::default())));
    Some((Level { set, mode: Mode::Reject, max_seats: 10 }, HeaderValue::from_static("")))
}

fn info(method: &Method, target: &str) -> RequestInfo {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    RequestInfo::parse(method, path, &Query::parse(query))
}

#[test]
fn requests_go_where_upstream_sends_them() {
    let table = Table::new(&bootstrap::schemas(), level);
    let all = "system:authenticated";
    let node = || UserInfo::new("system:node:a", ["system:nodes", all]);
    let account = |namespace: &str| UserInfo::service_account(namespace, "a", "");
    let user = |name: &str| UserInfo::new(name, [all]);
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/a";
    for (user, method, target, schema, to) in [
        (UserInfo::new("root", ["system:masters", all]), Method::DELETE, "/api/v1/nodes/a", "exempt", "exempt"),
        (user("joe"), Method::GET, "/healthz", "probes", "exempt"),
        (user("joe"), Method::GET, "/readyz/etcd", "probes", "exempt"),
        (UserInfo::anonymous(), Method::GET, "/livez", "probes", "exempt"),
        (user("joe"), Method::POST, "/healthz", "global-default", "global-default"),
        (user("system:kube-scheduler"), Method::PUT, lease, "system-leader-election", "leader-election"),
        (account("kube-system"), Method::GET, lease, "system-leader-election", "leader-election"),
        (account("kube-system"), Method::DELETE, lease, "kube-system-service-accounts", "workload-high"),
        (node(), Method::PUT, lease, "system-node-high", "node-high"),
        (node(), Method::PATCH, "/api/v1/nodes/a/status", "system-node-high", "node-high"),
        (node(), Method::GET, "/api/v1/nodes", "system-node-high", "node-high"),
        (node(), Method::GET, "/api/v1/pods?watch=1", "system-nodes", "system"),
        (node(), Method::GET, "/version", "system-nodes", "system"),
        (user("system:kube-controller-manager"), Method::GET, "/api/v1/pods", "kube-controller-manager", "workload-high"),
        (user("system:kube-scheduler"), Method::GET, "/api/v1/pods", "kube-scheduler", "workload-high"),
        (account("default"), Method::GET, "/api/v1/pods", "service-accounts", "workload-low"),
        (user("joe"), Method::GET, "/api/v1/pods", "global-default", "global-default"),
        (UserInfo::anonymous(), Method::GET, "/version", "global-default", "global-default"),
        (UserInfo::new("odd", [""; 0]), Method::GET, "/version", "catch-all", "catch-all"),
    ] {
        let found = table.classify(&user, &info(&method, target)).unwrap();
        assert_eq!((&*found.name, found.level.set.name()), (schema, to), "{} {method} {target}", user.username);
    }
}

#[test]
fn rules() {
    let joe = UserInfo::new("joe", ["g", "h"]);
    let subject =
        |subject: Value| json!({"subjects": [subject], "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]});
    for (of, want) in [
        (json!({"kind": "User", "user": {"name": "joe"}}), true),
        (json!({"kind": "User", "user": {"name": "jo"}}), false),
        (json!({"kind": "User", "user": {"name": "*"}}), true),
        (json!({"kind": "Group", "group": {"name": "h"}}), true),
        (json!({"kind": "Group", "group": {"name": "joe"}}), false),
        (json!({"kind": "Group", "group": {"name": "*"}}), true),
        (json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "n", "name": "joe"}}), false),
    ] {
        assert_eq!(Rule::parse(&subject(of.clone())).matches(&joe, &info(&Method::GET, "/a")), want, "{of}");
    }
    let account = UserInfo::service_account("ns", "a", "");
    for (namespace, name, want) in
        [("ns", "a", true), ("ns", "*", true), ("n", "*", false), ("ns", "b", false), ("s", "a", false)]
    {
        let of = json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": namespace, "name": name}});
        assert_eq!(Rule::parse(&subject(of)).matches(&account, &info(&Method::GET, "/a")), want, "{namespace} {name}");
    }
    let anybody = json!([{"kind": "User", "user": {"name": "*"}}]);
    for (url, path, want) in [
        ("*", "/a/b", true),
        ("/a", "/a", true),
        ("/a", "/a/b", true),
        ("/a", "/ab", false),
        ("/a/*", "/a/b", true),
        ("/a/*", "/a", false),
        ("/", "/", true),
    ] {
        let rule = json!({"subjects": anybody, "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": [url]}]});
        let rule = Rule::parse(&rule);
        assert_eq!(rule.matches(&joe, &info(&Method::GET, path)), want, "{url} {path}");
        assert!(!rule.matches(&joe, &info(&Method::POST, path)), "{url} {path}");
    }
    let pods = "/api/v1/namespaces/n/pods";
    let rule = |change: Value| {
        let mut rule = json!({"verbs": ["list"], "apiGroups": [""], "resources": ["pods"], "namespaces": ["n"]});
        pharos_api::patch::merge::merge(&mut rule, &change);
        Rule::parse(&json!({"subjects": anybody, "resourceRules": [rule]}))
    };
    for (change, target, want) in [
        (json!({}), pods, true),
        (json!({"verbs": ["get"]}), pods, false),
        (json!({"verbs": ["get"]}), "/api/v1/namespaces/n/pods/a", true),
        (json!({"apiGroups": ["apps"]}), pods, false),
        (json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}), "/apis/apps/v1/namespaces/n/deployments/a/scale", true),
        (json!({"namespaces": ["m"]}), pods, false),
        (json!({"namespaces": ["*"]}), pods, true),
        (json!({"namespaces": ["*"]}), "/api/v1/pods", false),
        (json!({"clusterScope": true}), "/api/v1/pods", true),
        (json!({"verbs": ["get"]}), "/api/v1/namespaces/n/pods/a/status", false),
        (json!({"verbs": ["get"], "resources": ["pods/status"]}), "/api/v1/namespaces/n/pods/a/status", true),
        (json!({"verbs": ["get"], "resources": ["pods/status"]}), "/api/v1/namespaces/n/pods/a", false),
        (json!({}), "/version", false),
    ] {
        assert_eq!(rule(change.clone()).matches(&joe, &info(&Method::GET, target)), want, "{change} {target}");
    }
}

#[test]
fn those_that_everybody_needs_are_always_there() {
    let lost = json!({"metadata": {"name": "lost"}, "spec": {"matchingPrecedence": 5,
        "priorityLevelConfiguration": {"name": "gone"}, "rules": [pharos_api::flowcontrol::everything(&json!([
            {"kind": "User", "user": {"name": "*"}}]))]}});
    let table = Table::new(&[lost], |name| level(name).filter(|_| name != "gone"));
    for (groups, schema) in [("system:masters", "exempt"), ("system:authenticated", "catch-all"), ("other", "catch-all")] {
        let found = table.classify(&UserInfo::new("joe", [groups]), &info(&Method::GET, "/version")).unwrap();
        assert_eq!(&*found.name, schema, "{groups}");
    }
}

#[test]
fn order_is_by_precedence_then_name() {
    let schema = |name: &str, precedence: i64| {
        json!({"metadata": {"name": name}, "spec": {"matchingPrecedence": precedence,
            "priorityLevelConfiguration": {"name": "l"}, "rules": [pharos_api::flowcontrol::everything(&json!([
                {"kind": "User", "user": {"name": "*"}}]))]}})
    };
    let objects = [schema("c", 10), schema("b", 10), schema("a", 20)];
    let table = Table::new(&objects, level);
    assert_eq!(&*table.classify(&UserInfo::anonymous(), &info(&Method::GET, "/version")).unwrap().name, "b");
}
