use serde_json::json;

use super::*;
use crate::authz::{bootstrap, tests::default_policy};

fn grant(authorizer: &Authorizer, user: &str, role: &str, namespace: &str) {
    let binding = json!({"roleRef": {"kind": "ClusterRole", "name": role}, "subjects": [{"kind": "User", "name": user}]});
    let resource = if namespace.is_empty() { "clusterrolebindings" } else { "rolebindings" };
    authorizer.apply(GROUP, resource, namespace, &format!("{user}-{role}"), Some(&binding));
}

#[test]
fn grants_only_what_one_holds() {
    let (authorizer, _) = default_policy();
    grant(&authorizer, "admin", "admin", "dev");
    let admin = UserInfo::new("admin", ["system:authenticated", "dev"]);
    let check = |object: Value, want: Result<(), &str>| {
        let got = check(&authorizer, &admin, "roles", None, &object);
        assert_eq!(got.map_err(|refused| refused.to_string()), want.map_err(str::to_owned), "{object}");
    };
    let role = |rules: Value| json!({"metadata": {"namespace": "dev", "name": "r"}, "rules": rules});
    check(role(json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "create"]}])), Ok(()));
    check(
        role(json!([{"apiGroups": ["", "x"], "resources": ["pods"], "verbs": ["get", "escalate"]}])),
        Err(concat!(
            r#"roles.rbac.authorization.k8s.io "r" is forbidden: user "admin" (groups=["system:authenticated" "dev"])"#,
            " is attempting to grant RBAC permissions not currently held:\n",
            r#"{APIGroups:[""], Resources:["pods"], Verbs:["escalate"]}"#,
            "\n",
            r#"{APIGroups:["x"], Resources:["pods"], Verbs:["get" "escalate"]}"#
        )),
    );
}

#[test]
fn metadata_may_change() {
    let (authorizer, _) = default_policy();
    let jane = UserInfo::new("jane", ["a"]);
    let old = json!({"metadata": {"namespace": "dev", "name": "r", "finalizers": ["x"]}, "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]});
    let mut new = old.clone();
    new["metadata"]["finalizers"] = json!([]);
    assert_eq!(check(&authorizer, &jane, "roles", Some(&old), &new), Ok(()));
    new["rules"][0]["verbs"] = json!(["get"]);
    assert!(check(&authorizer, &jane, "roles", Some(&old), &new).is_err());
}

#[test]
fn masters_escalate_and_binders_bind() {
    let (authorizer, _) = default_policy();
    let binding = json!({
        "metadata": {"namespace": "dev", "name": "b"},
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "User", "name": "jane"}],
    });
    let jane = UserInfo::new("jane", ["a"]);
    let try_bind = |user: &UserInfo, binding: &Value| check(&authorizer, user, "rolebindings", None, binding);
    assert_eq!(try_bind(&UserInfo::new("root", [SYSTEM_MASTERS]), &binding), Ok(()));
    let refused = try_bind(&jane, &binding).unwrap_err().to_string();
    assert!(
        refused
            .starts_with(r#"rolebindings.rbac.authorization.k8s.io "b" is forbidden: user "jane" (groups=["a"]) is attempting"#)
    );
    assert!(refused.contains("{NonResourceURLs:[\"*\"], Verbs:[\"*\"]}"), "{refused}");
    let mut lost = binding.clone();
    lost["roleRef"]["name"] = json!("nothing");
    assert_eq!(try_bind(&jane, &lost).unwrap_err().to_string(), r#"clusterroles.rbac.authorization.k8s.io "nothing" not found"#);

    let binder = json!({"rules": [{"apiGroups": [GROUP], "resources": ["clusterroles"], "resourceNames": ["cluster-admin"], "verbs": ["bind"]}]});
    authorizer.apply(GROUP, "clusterroles", "", "binder", Some(&binder));
    grant(&authorizer, "jane", "binder", "dev");
    assert_eq!(try_bind(&jane, &binding), Ok(()));
    let mut elsewhere = binding.clone();
    elsewhere["metadata"]["namespace"] = json!("prod");
    assert!(try_bind(&jane, &elsewhere).is_err());
    assert!(
        check(
            &authorizer,
            &jane,
            "clusterrolebindings",
            None,
            &json!({"metadata": {"name": "b"}, "roleRef": binding["roleRef"]})
        )
        .is_err()
    );
}

#[test]
fn aggregation_needs_everything() {
    let (authorizer, _) = default_policy();
    let aggregated = bootstrap::objects().into_iter().find(|object| object["metadata"]["name"] == "view").unwrap();
    let jane = UserInfo::new("jane", ["a"]);
    grant(&authorizer, "jane", "view", "");
    assert_eq!(
        check(&authorizer, &jane, "clusterroles", None, &aggregated).unwrap_err().to_string(),
        r#"clusterroles.rbac.authorization.k8s.io "view" is forbidden: must have cluster-admin privileges to use the aggregationRule"#
    );
    grant(&authorizer, "jane", "cluster-admin", "");
    assert_eq!(check(&authorizer, &jane, "clusterroles", None, &aggregated), Ok(()));
    // The controller that writes aggregated rules may escalate.
    let controller = UserInfo::service_account("kube-system", "clusterrole-aggregation-controller", "1");
    assert_eq!(check(&authorizer, &controller, "clusterroles", None, &aggregated), Ok(()));
}
