use http::HeaderValue;
use serde_json::json;

use super::*;
use crate::authz::{rbac, tests::default_policy};

fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in list {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn act(requestor: &UserInfo, list: &[(&'static str, &str)], grants: &serde_json::Value) -> Result<UserInfo, Error> {
    let (authorizer, _) = default_policy();
    authorizer.apply(rbac::GROUP, "clusterroles", "", "actor", Some(&json!({"rules": grants})));
    let binding = json!({"roleRef": {"kind": "ClusterRole", "name": "actor"}, "subjects": [{"kind": "User", "name": "jane"}]});
    authorizer.apply(rbac::GROUP, "clusterrolebindings", "", "actor", Some(&binding));
    Request::read(&headers(list))?.unwrap().authorize(requestor, &authorizer)
}

#[test]
fn becomes_who_it_may() {
    let jane = UserInfo::new("jane", ["a"]);
    let grants = json!([
        {"apiGroups": [""], "resources": ["users"], "resourceNames": ["joe"], "verbs": ["impersonate"]},
        {"apiGroups": [""], "resources": ["groups"], "resourceNames": ["dev"], "verbs": ["impersonate"]},
        {"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["impersonate"]},
        {"apiGroups": ["authentication.k8s.io"], "resources": ["userextras/scopes"], "resourceNames": ["view"], "verbs": ["impersonate"]},
        {"apiGroups": ["authentication.k8s.io"], "resources": ["uids"], "resourceNames": ["7"], "verbs": ["impersonate"]},
    ]);
    let check = |list: &[(&'static str, &str)], want: Result<UserInfo, &str>| {
        let done = act(&jane, list, &grants);
        assert!(matches!(done, Ok(_) | Err(Error::Forbidden { .. })), "{done:?}");
        assert_eq!(done.map_err(|error| error.to_string()), want.map_err(str::to_owned), "{list:?}");
    };
    check(&[(USER, "joe")], Ok(UserInfo::new("joe", [ALL_AUTHENTICATED])));
    let mut full = UserInfo::new("joe", ["dev", ALL_AUTHENTICATED]);
    full.uid = "7".into();
    full.extra.insert("scopes".into(), vec!["view".into()]);
    check(&[(USER, "joe"), (GROUP, "dev"), (UID, "7"), ("impersonate-extra-scopes", "view")], Ok(full));
    check(
        &[(USER, "root")],
        Err(r#"users "root" is forbidden: User "jane" cannot impersonate resource "users" in API group "" at the cluster scope"#),
    );
    check(
        &[(USER, "joe"), (GROUP, "system:masters")],
        Err(
            r#"groups "system:masters" is forbidden: User "jane" cannot impersonate resource "groups" in API group "" at the cluster scope"#,
        ),
    );
    check(
        &[(USER, "joe"), ("impersonate-extra-scopes", "edit")],
        Err(
            r#"userextras.authentication.k8s.io "edit" is forbidden: User "jane" cannot impersonate resource "userextras/scopes" in API group "authentication.k8s.io" at the cluster scope"#,
        ),
    );
    check(
        &[(USER, "system:serviceaccount:dev:bot")],
        Ok(UserInfo::new(
            "system:serviceaccount:dev:bot",
            ["system:serviceaccounts", "system:serviceaccounts:dev", ALL_AUTHENTICATED],
        )),
    );
    let nobody = UserInfo::new("otto", ["a"]);
    assert!(
        matches!(act(&nobody, &[(USER, "system:serviceaccount:dev:bot")], &grants), Err(Error::Forbidden { message, resource: "serviceaccounts", name, .. })
        if name == "bot" && message == r#"serviceaccounts "bot" is forbidden: User "otto" cannot impersonate resource "serviceaccounts" in API group "" in the namespace "dev""#)
    );
    let root = UserInfo::new("admin", ["system:masters"]);
    assert_eq!(act(&root, &[(USER, ANONYMOUS)], &grants), Ok(UserInfo::anonymous()));
}

#[test]
fn reads_headers() {
    assert_eq!(Request::read(&headers(&[("accept", "x")])), Ok(None));
    assert_eq!(
        Request::read(&headers(&[(GROUP, "dev")])),
        Err(Error::Invalid(r#"requested ["dev"] without impersonating a user"#.into()))
    );
    let request = Request::read(&headers(&[(USER, "joe"), ("impersonate-extra-a%2fb", "c"), ("impersonate-extra-a%2fb", "d")]))
        .unwrap()
        .unwrap();
    assert_eq!(request.extra["a/b"], ["c", "d"]);
    let mut map =
        headers(&[(USER, "joe"), (GROUP, "a"), (GROUP, "b"), (UID, "1"), ("impersonate-extra-x", "c"), ("accept", "y")]);
    Request::strip(&mut map);
    assert_eq!(map.len(), 1);
}
