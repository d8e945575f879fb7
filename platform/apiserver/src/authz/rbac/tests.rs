use serde_json::json;

use super::*;

fn role(rules: Value) -> Value {
    json!({"rules": rules})
}

fn binding(kind: &str, role: &str, subjects: Value) -> Value {
    json!({"roleRef": {"apiGroup": GROUP, "kind": kind, "name": role}, "subjects": subjects})
}

fn example() -> Rbac {
    let mut rbac = Rbac::default();
    let read = role(json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]));
    rbac.apply("clusterroles", "", "reader", Some(&read));
    rbac.apply("roles", "dev", "writer", Some(&role(json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["create"]}]))));
    rbac.apply(
        "clusterrolebindings",
        "",
        "everyone",
        Some(&binding("ClusterRole", "reader", json!([{"kind": "Group", "name": "ops"}]))),
    );
    rbac.apply(
        "rolebindings",
        "dev",
        "reads",
        Some(&binding("ClusterRole", "reader", json!([{"kind": "User", "name": "jane"}]))),
    );
    let accounts =
        json!([{"kind": "ServiceAccount", "name": "bot"}, {"kind": "ServiceAccount", "name": "ci", "namespace": "tools"}]);
    rbac.apply("rolebindings", "dev", "writes", Some(&binding("Role", "writer", accounts)));
    rbac
}

#[test]
fn decides() {
    let rbac = example();
    let check = |user: &UserInfo, verb: &str, namespace: &str, want: Option<&str>| {
        let got = rbac.authorize(&Attributes::resource(user, verb, "", "pods", namespace, ""));
        assert_eq!(got.as_deref(), want, "{} {verb} {namespace}", user.username);
    };
    let jane = UserInfo::new("jane", ["system:authenticated"]);
    let ops = UserInfo::new("otto", ["ops"]);
    check(&jane, "list", "dev", Some(r#"RBAC: allowed by RoleBinding "reads/dev" of ClusterRole "reader" to User "jane""#));
    check(&jane, "list", "prod", None);
    check(&jane, "list", "", None);
    check(&jane, "create", "dev", None);
    check(&ops, "list", "", Some(r#"RBAC: allowed by ClusterRoleBinding "everyone" of ClusterRole "reader" to Group "ops""#));
    check(&ops, "get", "prod", Some(r#"RBAC: allowed by ClusterRoleBinding "everyone" of ClusterRole "reader" to Group "ops""#));
    check(&ops, "create", "dev", None);
    let bot = UserInfo::service_account("dev", "bot", "1");
    check(
        &bot,
        "create",
        "dev",
        Some(r#"RBAC: allowed by RoleBinding "writes/dev" of Role "writer" to ServiceAccount "bot/dev""#),
    );
    check(
        &UserInfo::service_account("tools", "ci", "2"),
        "create",
        "dev",
        Some(r#"RBAC: allowed by RoleBinding "writes/dev" of Role "writer" to ServiceAccount "ci/tools""#),
    );
    check(&UserInfo::service_account("prod", "bot", "3"), "create", "dev", None);
    check(&UserInfo::new("bot", ["x"]), "create", "dev", None);
}

#[test]
fn follows_changes() {
    let mut rbac = example();
    let jane = UserInfo::new("jane", ["a"]);
    let allowed = |rbac: &Rbac| rbac.authorize(&Attributes::resource(&jane, "list", "", "pods", "dev", "")).is_some();
    assert!(allowed(&rbac));
    rbac.apply("clusterroles", "", "reader", None);
    assert!(!allowed(&rbac));
    assert_eq!(rbac.rules_for(&jane, "dev").1, [r#"clusterroles.rbac.authorization.k8s.io "reader" not found"#]);
    rbac.apply("clusterroles", "", "reader", Some(&role(json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]))));
    assert!(allowed(&rbac));
    rbac.apply("rolebindings", "dev", "reads", Some(&binding("ClusterRole", "reader", json!([{"kind": "User", "name": "joe"}]))));
    assert!(!allowed(&rbac));
    rbac.apply("rolebindings", "dev", "reads", None);
    rbac.apply("rolebindings", "dev", "writes", None);
    assert!(!rbac.bindings.contains_key("dev"), "nothing is left behind");
}

#[test]
fn aggregates() {
    let mut rbac = Rbac::default();
    let part = |label: &str, resource: &str| json!({"metadata": {"labels": {(label): "true"}}, "rules": [{"apiGroups": [""], "resources": [resource], "verbs": ["get"]}]});
    let whole = json!({"aggregationRule": {"clusterRoleSelectors": [
        {"matchLabels": {"a": "true"}},
        {"matchExpressions": [{"key": "b", "operator": "Exists"}]},
    ]}, "rules": null});
    rbac.apply("clusterroles", "", "one", Some(&part("a", "pods")));
    rbac.apply("clusterroles", "", "two", Some(&part("b", "secrets")));
    rbac.apply("clusterroles", "", "three", Some(&part("c", "nodes")));
    rbac.apply("clusterroles", "", "whole", Some(&whole));
    let stale = rbac.stale_aggregations();
    let rules = json!([
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]},
    ]);
    assert_eq!(json!(stale), json!([["whole", rules]]));
    let mut done = whole;
    done["rules"] = rules;
    rbac.apply("clusterroles", "", "whole", Some(&done));
    assert_eq!(rbac.stale_aggregations(), []);
    rbac.apply("clusterroles", "", "two", None);
    assert_eq!(rbac.stale_aggregations().len(), 1);
}

#[test]
fn forgets_what_went_unseen() {
    let mut rbac = example();
    let live = |list: &[(&str, &str)]| -> HashSet<(String, String)> {
        list.iter().map(|(namespace, name)| ((*namespace).to_owned(), (*name).to_owned())).collect()
    };
    rbac.retain("rolebindings", &live(&[("dev", "writes"), ("prod", "reads")]));
    let jane = UserInfo::new("jane", ["a"]);
    let bot = UserInfo::service_account("dev", "bot", "1");
    let ops = UserInfo::new("otto", ["ops"]);
    let allowed = |rbac: &Rbac, user, verb| rbac.authorize(&Attributes::resource(user, verb, "", "pods", "dev", "")).is_some();
    assert!(!allowed(&rbac, &jane, "list"));
    assert!(allowed(&rbac, &bot, "create"));
    assert!(allowed(&rbac, &ops, "list"), "another resource's objects stay");
    rbac.retain("roles", &live(&[]));
    assert!(!allowed(&rbac, &bot, "create"));
    rbac.retain("clusterrolebindings", &live(&[]));
    assert!(!allowed(&rbac, &ops, "list"));
    rbac.retain("clusterroles", &live(&[]));
    assert!(rbac.cluster_roles.is_empty());
}
