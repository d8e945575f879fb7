use super::*;
use crate::authz::tests::default_policy;

fn review(spec: Value) -> Value {
    json!({"kind": "SubjectAccessReview", "spec": spec})
}

#[test]
fn answers_questions_about_others() {
    let (authorizer, _) = default_policy();
    let check = |spec: Value, want: Value| {
        let got = subject_access(&authorizer, &review(spec.clone()))
            .map_or_else(|error| json!(error.to_string()), |answer| answer["status"].clone());
        assert_eq!(got, want, "{spec}");
    };
    let list_pods = json!({"verb": "list", "resource": "pods", "namespace": "a"});
    check(json!({"user": "root", "groups": ["system:masters"], "resourceAttributes": list_pods}), json!({"allowed": true}));
    check(
        json!({"user": "system:kube-scheduler", "resourceAttributes": list_pods}),
        json!({"allowed": true, "reason": r#"RBAC: allowed by ClusterRoleBinding "system:kube-scheduler" of ClusterRole "system:kube-scheduler" to User "system:kube-scheduler""#}),
    );
    check(json!({"user": "jane", "resourceAttributes": list_pods}), json!({"allowed": false}));
    check(
        json!({"user": "system:node:n1", "groups": ["system:nodes"], "resourceAttributes": list_pods}),
        json!({"allowed": false, "reason": "can only list/watch pods with spec.nodeName field selector"}),
    );
    let mine = json!({"verb": "list", "resource": "pods", "fieldSelector": {"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["n1"]}]}});
    check(json!({"user": "system:node:n1", "groups": ["system:nodes"], "resourceAttributes": mine}), json!({"allowed": true}));
    check(
        json!({"groups": ["system:unauthenticated"], "nonResourceAttributes": {"verb": "get", "path": "/livez"}}),
        json!({"allowed": true, "reason": r#"RBAC: allowed by ClusterRoleBinding "system:public-info-viewer" of ClusterRole "system:public-info-viewer" to Group "system:unauthenticated""#}),
    );
    check(
        json!({"user": "jane"}),
        json!(
            "spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified"
        ),
    );
    check(
        json!({"resourceAttributes": {}}),
        json!("spec.user: Invalid value: \"\": at least one of user or group must be specified"),
    );
    check(
        json!({"user": "jane", "resourceAttributes": {}, "nonResourceAttributes": {}}),
        json!("spec.nonResourceAttributes: Invalid value: {}: cannot be specified in combination with resourceAttributes"),
    );
}

#[test]
fn stays_in_its_namespace() {
    let (authorizer, _) = default_policy();
    let ask = |namespace: &str| {
        local_subject_access(
            &authorizer,
            "dev",
            &review(json!({"user": "jane", "resourceAttributes": {"namespace": namespace, "verb": "get"}})),
        )
    };
    assert_eq!(ask("dev").unwrap()["status"], json!({"allowed": false}));
    assert_eq!(
        ask("prod").unwrap_err().to_string(),
        r#"spec.resourceAttributes.namespace: Invalid value: "prod": must match metadata.namespace"#
    );
}

#[test]
fn lists_ones_own_rules() {
    let (authorizer, _) = default_policy();
    let ask =
        |user: &UserInfo| self_subject_rules(&authorizer, user, &review(json!({"namespace": "dev"}))).unwrap()["status"].clone();
    let everyone = ask(&UserInfo::new("jane", ["system:authenticated"]));
    assert_eq!(everyone["incomplete"], false);
    assert_eq!(everyone["evaluationError"], Value::Null);
    let self_reviews = json!({"apiGroups": ["authorization.k8s.io"], "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"], "verbs": ["create"]});
    assert!(everyone["resourceRules"].as_array().unwrap().contains(&self_reviews), "{everyone}");
    assert!(
        everyone["nonResourceRules"]
            .as_array()
            .unwrap()
            .iter()
            .any(|rule| rule["nonResourceURLs"].as_array().unwrap().contains(&json!("/version")))
    );
    let master = ask(&UserInfo::new("root", [SYSTEM_MASTERS]));
    assert_eq!(master["resourceRules"][0], json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}));
    assert_eq!(master["nonResourceRules"][0], json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    let node = ask(&UserInfo::new("system:node:n1", ["system:nodes"]));
    assert_eq!(node["incomplete"], true);
    assert_eq!(node["evaluationError"], "node authorizer does not support user rule resolution");
    assert_eq!(
        self_subject_rules(&authorizer, &UserInfo::anonymous(), &review(json!({}))).unwrap_err().to_string(),
        "no namespace on request"
    );
}
