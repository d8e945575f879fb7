use std::collections::HashSet;

use super::*;

fn find(kind: &str, name: &str) -> Value {
    objects().into_iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name).unwrap()
}

#[test]
fn the_table_is_read_whole() {
    for line in TABLE.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        match line.strip_prefix("  ") {
            Some(rule) => {
                let rule = parse_rule(rule).unwrap_or_else(|| panic!("{line}"));
                assert!(!rule.verbs.is_empty() && (rule.non_resource_urls.is_empty() != rule.resources.is_empty()), "{line}");
            }
            None => assert!(
                ["ClusterRole", "Controller", "Role", "Bind", "BindIn"].contains(&line.split(' ').next().unwrap()),
                "{line}"
            ),
        }
    }
    let mut seen = HashSet::new();
    let roles: HashSet<String> = objects()
        .iter()
        .filter(|object| object["rules"].is_array())
        .map(|object| {
            format!("{}/{}/{}", object["kind"].as_str().unwrap(), object["metadata"]["namespace"], object["metadata"]["name"])
        })
        .collect();
    for object in objects() {
        let metadata = &object["metadata"];
        assert_eq!(metadata["labels"]["kubernetes.io/bootstrapping"], "rbac-defaults", "{object}");
        assert_eq!(metadata["annotations"][AUTOUPDATE], "true", "{object}");
        assert!(seen.insert(format!("{}/{}/{}", object["kind"], metadata["namespace"], metadata["name"])), "twice: {object}");
        if object["kind"] == "Role" || object["kind"] == "ClusterRole" {
            assert!(!object["rules"].as_array().unwrap().is_empty(), "{object}");
        } else {
            let role = &object["roleRef"];
            let namespace = if role["kind"] == "Role" { &metadata["namespace"] } else { &Value::Null };
            assert!(roles.contains(&format!("{}/{namespace}/{}", role["kind"].as_str().unwrap(), role["name"])), "{object}");
            assert!(object["subjects"].is_array() || metadata["name"] == "system:node", "{object}");
        }
    }
}

#[test]
fn reads_as_upstream_has_it() {
    let binding = find("ClusterRoleBinding", "system:controller:job-controller");
    assert_eq!(
        binding,
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {
                "name": "system:controller:job-controller",
                "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
                "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
            },
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:controller:job-controller"},
            "subjects": [{"kind": "ServiceAccount", "name": "job-controller", "namespace": "kube-system"}],
        })
    );
    let role = find("ClusterRole", "system:controller:job-controller");
    assert_eq!(
        role["rules"][0],
        json!({"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list", "patch", "update", "watch"]})
    );
    assert_eq!(
        role["rules"][4],
        json!({"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch", "update"]})
    );
    let admin = find("ClusterRole", "cluster-admin");
    assert_eq!(
        admin["rules"],
        json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}, {"nonResourceURLs": ["*"], "verbs": ["*"]}])
    );
    let reader = find("Role", "extension-apiserver-authentication-reader");
    assert_eq!(reader["metadata"]["namespace"], "kube-system");
    assert_eq!(reader["rules"][0]["resourceNames"], json!(["extension-apiserver-authentication"]));
}

#[test]
fn aggregated_roles_come_filled_in() {
    let rules = |name: &str| Rule::list(&find("ClusterRole", name));
    let (admin, edit, view) = (rules("admin"), rules("edit"), rules("view"));
    assert!(view.len() >= 10 && edit.len() > view.len() && admin.len() > edit.len());
    assert_eq!(uncovered(&admin, &edit), []);
    assert_eq!(uncovered(&edit, &view), []);
    assert!(!uncovered(&edit, &admin).is_empty());
    let mut rbac = Rbac::default();
    for object in objects().iter().filter(|object| object["kind"] == "ClusterRole") {
        rbac.apply("clusterroles", "", object["metadata"]["name"].as_str().unwrap(), Some(object));
    }
    assert_eq!(rbac.stale_aggregations(), []);
}

#[test]
fn keeps_what_people_changed() {
    let wanted = find("ClusterRole", "system:kube-dns");
    assert_eq!(reconcile(None, &wanted), Step::Create(wanted.clone()));
    assert_eq!(reconcile(Some(&wanted), &wanted), Step::Keep);
    let mut stored = wanted.clone();
    stored["metadata"]["resourceVersion"] = json!("7");
    stored["rules"].as_array_mut().unwrap().push(json!({"apiGroups": ["x"], "resources": ["y"], "verbs": ["get"]}));
    assert_eq!(reconcile(Some(&stored), &wanted), Step::Keep, "more is fine");
    stored["rules"][0]["verbs"] = json!(["list"]);
    let Step::Update(new) = reconcile(Some(&stored), &wanted) else { panic!("a missing verb comes back") };
    assert_eq!(new["metadata"]["resourceVersion"], "7");
    assert_eq!(new["rules"].as_array().unwrap().len(), 4);
    assert_eq!(reconcile(Some(&new), &wanted), Step::Keep);
    stored["metadata"]["annotations"][AUTOUPDATE] = json!("false");
    assert_eq!(reconcile(Some(&stored), &wanted), Step::Keep);

    let wanted = find("ClusterRoleBinding", "system:kube-dns");
    let mut stored = wanted.clone();
    stored["subjects"] = json!([{"kind": "User", "name": "x", "apiGroup": GROUP}]);
    let Step::Update(new) = reconcile(Some(&stored), &wanted) else { panic!("the subject comes back") };
    assert_eq!(new["subjects"].as_array().unwrap().len(), 2);
    stored["roleRef"]["name"] = json!("other");
    assert_eq!(reconcile(Some(&stored), &wanted), Step::Recreate(wanted));

    // Aggregated rules are the aggregation's to write.
    let wanted = find("ClusterRole", "admin");
    let mut stored = wanted.clone();
    stored["rules"] = json!([]);
    assert_eq!(reconcile(Some(&stored), &wanted), Step::Keep);
}
