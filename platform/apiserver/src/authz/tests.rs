use prometheus::Registry;
use serde_json::json;

use super::*;

/// An authorizer with the default policy, and a registry to look into.
pub(crate) fn default_policy() -> (Authorizer, Registry) {
    let registry = Registry::new();
    let authorizer = Authorizer::new(Metrics::new(&registry).unwrap());
    for object in bootstrap::objects() {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        authorizer.apply(rbac::GROUP, bootstrap::resource(&object), &text("namespace"), &text("name"), Some(&object));
    }
    (authorizer, registry)
}

#[test]
fn says_what_is_refused() {
    let jane = UserInfo::new("jane", ["dev"]);
    let check = |attributes: Attributes<'_>, denial: &str, forbidden: &str| {
        assert_eq!(attributes.denial(""), denial);
        assert_eq!(attributes.forbidden(""), forbidden);
    };
    check(
        Attributes::resource(&jane, "list", "", "pods", "default", ""),
        r#"User "jane" cannot list resource "pods" in API group "" in the namespace "default""#,
        r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "default""#,
    );
    check(
        Attributes::resource(&jane, "get", "", "nodes", "", "n1"),
        r#"User "jane" cannot get resource "nodes" in API group "" at the cluster scope"#,
        r#"nodes "n1" is forbidden: User "jane" cannot get resource "nodes" in API group "" at the cluster scope"#,
    );
    check(
        Attributes::resource(&jane, "update", "apps", "deployments", "a", "web").with_subresource("scale"),
        r#"User "jane" cannot update resource "deployments/scale" in API group "apps" in the namespace "a""#,
        r#"deployments.apps "web" is forbidden: User "jane" cannot update resource "deployments/scale" in API group "apps" in the namespace "a""#,
    );
    check(
        Attributes::path(&jane, "get", "/metrics"),
        r#"User "jane" cannot get path "/metrics""#,
        r#"forbidden: User "jane" cannot get path "/metrics""#,
    );
    let node = Attributes::resource(&jane, "get", "", "secrets", "a", "b").denial("no way");
    assert_eq!(node, r#"User "jane" cannot get resource "secrets" in API group "" in the namespace "a": no way"#);
}

#[test]
fn chains() {
    let (authorizer, registry) = default_policy();
    let check = |user: &UserInfo, attributes: Attributes<'_>, want: bool| {
        let attributes = Attributes { user, ..attributes };
        assert_eq!(authorizer.authorize(&attributes).allowed(), want, "{}: {}", user.username, attributes.denial(""));
    };
    let anonymous = UserInfo::anonymous();
    let master = UserInfo::new("root", [SYSTEM_MASTERS]);
    let any = UserInfo::new("jane", ["system:authenticated"]);
    let node = UserInfo::new("system:node:n1", [node::GROUP, "system:authenticated"]);
    check(&anonymous, Attributes::path(&anonymous, "get", "/livez"), true);
    check(&anonymous, Attributes::path(&anonymous, "get", "/version"), true);
    check(&anonymous, Attributes::path(&anonymous, "get", "/api"), false);
    check(&anonymous, Attributes::resource(&any, "list", "", "pods", "default", ""), false);
    check(&any, Attributes::path(&any, "get", "/apis/apps/v1"), true);
    check(&any, Attributes::path(&any, "get", "/observe/loki/labels"), false);
    check(&any, Attributes::resource(&any, "create", "authorization.k8s.io", "selfsubjectaccessreviews", "", ""), true);
    check(&master, Attributes::path(&any, "delete", "/anything"), true);
    check(&master, Attributes::resource(&any, "delete", "x", "y", "z", ""), true);
    check(&node, Attributes::resource(&any, "list", "", "services", "", ""), true);
    check(&node, Attributes::resource(&any, "get", "", "secrets", "default", "s"), false);
    check(&node, Attributes::resource(&any, "list", "discovery.k8s.io", "endpointslices", "", ""), true);
    let dns = UserInfo::service_account("kube-system", "coredns", "1");
    check(&dns, Attributes::resource(&any, "watch", "discovery.k8s.io", "endpointslices", "", ""), true);
    let deployments = UserInfo::service_account("kube-system", "deployment-controller", "1");
    check(&deployments, Attributes::resource(&any, "create", "apps", "replicasets", "a", ""), true);
    check(&deployments, Attributes::resource(&any, "create", "", "pods", "a", ""), false);
    check(
        &UserInfo::new("system:kube-scheduler", ["system:authenticated"]),
        Attributes::resource(&any, "create", "", "pods", "a", "p").with_subresource("binding"),
        true,
    );

    let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    for line in [
        r#"authorization_attempts_total{result="allowed"} 11"#,
        r#"authorization_attempts_total{result="no-opinion"} 5"#,
        r#"apiserver_authorization_decisions_total{decision="allowed",name="node",type="Node"} 1"#,
        r#"apiserver_authorization_decisions_total{decision="allowed",name="rbac",type="RBAC"} 8"#,
        r#"authorization_duration_seconds_count{result="allowed"} 11"#,
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}

#[test]
fn gives_a_role_inside_its_namespace_only() {
    let (authorizer, _) = default_policy();
    let binding = json!({"roleRef": {"kind": "ClusterRole", "name": "edit"}, "subjects": [{"kind": "User", "name": "jane"}]});
    authorizer.apply(rbac::GROUP, "rolebindings", "dev", "b", Some(&binding));
    let jane = UserInfo::new("jane", ["system:authenticated"]);
    let check = |verb, group, resource, namespace, want| {
        let attributes = Attributes::resource(&jane, verb, group, resource, namespace, "");
        assert_eq!(authorizer.authorize(&attributes).allowed(), want, "{}", attributes.denial(""));
    };
    check("create", "apps", "deployments", "dev", true);
    check("list", "", "pods", "dev", true);
    check("get", "", "secrets", "dev", true);
    check("create", "rbac.authorization.k8s.io", "roles", "dev", false);
    check("create", "apps", "deployments", "prod", false);
    check("list", "", "nodes", "", false);
}

#[test]
fn a_selected_name_counts_as_the_name() {
    let (authorizer, _) = default_policy();
    let role = json!({"rules": [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["one"], "verbs": ["list", "watch"]}]});
    let binding = json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "jane"}]});
    authorizer.apply(rbac::GROUP, "roles", "dev", "r", Some(&role));
    authorizer.apply(rbac::GROUP, "rolebindings", "dev", "b", Some(&binding));
    let jane = UserInfo::new("jane", ["a"]);
    let check = |field_selector: &str, want: bool| {
        let attributes = Attributes { field_selector, ..Attributes::resource(&jane, "watch", "", "configmaps", "dev", "") };
        assert_eq!(authorizer.authorize(&attributes).allowed(), want, "{field_selector}");
    };
    check("metadata.name=one", true);
    check("metadata.name=two", false);
    check("metadata.name!=one", false);
    check("", false);
}
