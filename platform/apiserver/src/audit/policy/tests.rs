use http::Method;
use serde_json::json;

use super::*;
use crate::request::Query;

/// A policy of these rules.
fn policy(rules: Value) -> Result<Policy, String> {
    let text = json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules}).to_string();
    Policy::parse(text.as_bytes())
}

fn info(method: Method, target: &str) -> RequestInfo {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    RequestInfo::parse(&method, path, &Query::parse(query))
}

fn jane() -> UserInfo {
    UserInfo::new("jane", ["devs", "system:authenticated"])
}

#[test]
fn rules_match_as_upstream() {
    let pod = "/api/v1/namespaces/dev/pods/a";
    let table = [
        (json!({}), pod, true),
        (json!({"users": ["jane"]}), pod, true),
        (json!({"users": ["joe"]}), pod, false),
        (json!({"userGroups": ["ops", "devs"]}), pod, true),
        (json!({"userGroups": ["ops"]}), pod, false),
        (json!({"users": ["jane"], "userGroups": ["ops"]}), pod, false),
        (json!({"verbs": ["get"]}), pod, true),
        (json!({"verbs": ["list"]}), pod, false),
        (json!({"namespaces": ["dev"]}), pod, true),
        (json!({"namespaces": [""]}), pod, false),
        (json!({"namespaces": [""]}), "/api/v1/nodes/a", true),
        (json!({"namespaces": ["dev"]}), "/version", false),
        (json!({"resources": [{}]}), pod, true),
        (json!({"resources": [{"group": "apps"}]}), pod, false),
        (json!({"resources": [{"group": "*"}]}), pod, true),
        (json!({"resources": [{"resources": ["pods"]}]}), pod, true),
        (json!({"resources": [{"resources": ["pods"]}]}), "/api/v1/namespaces/dev/pods/a/log", false),
        (json!({"resources": [{"resources": ["pods/log"]}]}), "/api/v1/namespaces/dev/pods/a/log", true),
        (json!({"resources": [{"resources": ["*/log"]}]}), "/api/v1/namespaces/dev/pods/a/log", true),
        (json!({"resources": [{"resources": ["*/log"]}]}), pod, false),
        (json!({"resources": [{"resources": ["pods/*"]}]}), "/api/v1/namespaces/dev/pods/a/log", true),
        // Upstream's rule has it so: the subresource of none is one.
        (json!({"resources": [{"resources": ["pods/*"]}]}), pod, true),
        (json!({"resources": [{"resources": ["*"]}]}), "/api/v1/namespaces/dev/pods/a/log", true),
        (json!({"resources": [{"resources": ["pods"], "resourceNames": ["a"]}]}), pod, true),
        (json!({"resources": [{"resources": ["pods"], "resourceNames": ["b"]}]}), pod, false),
        (json!({"nonResourceURLs": ["/version"]}), "/version", true),
        (json!({"nonResourceURLs": ["/healthz*"]}), "/healthz/ping", true),
        (json!({"nonResourceURLs": ["/healthz"]}), "/healthz/ping", false),
        (json!({"nonResourceURLs": ["*"]}), "/livez", true),
        (json!({"nonResourceURLs": ["*"]}), pod, false),
    ];
    for (mut rule, target, matches) in table {
        rule["level"] = json!("Metadata");
        let policy = policy(json!([rule])).unwrap();
        let level = policy.decide(Some(&jane()), &info(Method::GET, target)).level;
        assert_eq!(level == Level::Metadata, matches, "{rule} {target}");
    }
}

#[test]
fn nobody_is_in_no_group() {
    let rules = json!([{"level": "Metadata", "userGroups": ["devs"]}, {"level": "Request", "users": [""]}]);
    assert_eq!(policy(rules).unwrap().decide(None, &info(Method::GET, "/version")).level, Level::None);
}

#[test]
fn the_first_rule_decides() {
    let text = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- {level: None, verbs: [watch]}
- {level: RequestResponse, verbs: [get], omitStages: [Panic], omitManagedFields: false}
- {level: Metadata, verbs: [get, list]}
";
    let policy = Policy::parse(text.as_bytes()).unwrap();
    let decide = |target: &str| policy.decide(Some(&jane()), &info(Method::GET, target));
    let get = decide("/api/v1/nodes/a");
    assert_eq!((get.level, get.omit_managed_fields), (Level::RequestResponse, false));
    let omitted = |decision: Decision| Stage::ALL.map(|stage| decision.omitted.contains(stage));
    assert_eq!(omitted(get), [true, false, false, true]);
    let list = decide("/api/v1/nodes");
    assert_eq!((list.level, list.omit_managed_fields), (Level::Metadata, true));
    assert_eq!(omitted(list), [true, false, false, false]);
    assert_eq!(decide("/api/v1/nodes?watch=1").level, Level::None);
    assert_eq!(policy.decide(Some(&jane()), &info(Method::POST, "/x")), policy.otherwise);
}

#[test]
fn mistakes_are_told_as_upstream_tells_them() {
    let table = [
        (json!([{}]), "rules[0].level: Required value"),
        (
            json!([{"level": "All"}]),
            "rules[0].level: Unsupported value: \"All\": supported values: \"Metadata\", \"None\", \"Request\", \"RequestResponse\"",
        ),
        (
            json!([{"level": "None", "nonResourceURLs": ["version"]}]),
            "rules[0].nonResourceURLs[0]: Invalid value: \"version\": non-resource URL rules must begin with a '/' character",
        ),
        (
            json!([{"level": "None", "nonResourceURLs": ["/a*b"]}]),
            "rules[0].nonResourceURLs[0]: Invalid value: \"/a*b\": non-resource URL wildcards '*' must be the final character of the rule",
        ),
        (
            json!([{"level": "None", "nonResourceURLs": ["/a"], "namespaces": ["b"]}]),
            "rules[0].nonResourceURLs: Invalid value: [\"/a\"]: rules cannot apply to both regular resources and non-resource URLs",
        ),
        (
            json!([{"level": "None", "resources": [{"resourceNames": ["a"]}]}]),
            "rules[0].resources.resourceNames: Invalid value: [\"a\"]: using resourceNames requires at least one resource",
        ),
        (
            json!([{"level": "None", "omitStages": ["Done"]}]),
            "rules[0].omitStages[0]: Invalid value: \"Done\": allowed stages are RequestReceived,ResponseStarted,ResponseComplete,Panic",
        ),
        (json!([]), "loaded illegal policy with 0 rules"),
    ];
    for (rules, message) in table {
        assert_eq!(policy(rules.clone()).unwrap_err(), message, "{rules}");
    }
    let group = policy(json!([{"level": "None", "resources": [{"group": "rbac.authorization.k8s.io/v1"}]}])).unwrap_err();
    assert!(group.starts_with("rules[0].resources.group: Invalid value: \"rbac.authorization.k8s.io/v1\": a lowercase RFC 1123"));
    let two = policy(json!([{}, {}])).unwrap_err();
    assert_eq!(two, "[rules[0].level: Required value, rules[1].level: Required value]");
    for (text, message) in [
        ("kind: Policy\nrules: [{level: None}]\n", "failed decoding: Object 'apiVersion' is missing in the policy"),
        (
            "apiVersion: audit.k8s.io/v1beta1\nkind: Policy\n",
            "failed decoding: no kind \"Policy\" is registered for version \"audit.k8s.io/v1beta1\"",
        ),
    ] {
        assert_eq!(Policy::parse(text.as_bytes()).unwrap_err(), message);
    }
}

#[test]
fn unknown_fields_are_found() {
    let policy = json!({"apiVersion": "", "x": 1, "rules": [{"level": "", "y": 1, "resources": [{"z": 1}]}]});
    let found = unknown_fields(&policy);
    assert_eq!(found, ["unknown field \"x\"", "unknown field \"rules[0].y\"", "unknown field \"rules[0].resources[0].z\""]);
}

#[test]
fn the_default_keeps_what_people_do() {
    let policy = Policy::default();
    let node = UserInfo::new("system:node:a", ["system:nodes", "system:authenticated"]);
    let controller = UserInfo::service_account("kube-system", "deployment-controller", "");
    let scheduler = UserInfo::new("system:kube-scheduler", ["system:authenticated"]);
    let admin = UserInfo::new("admin", ["system:masters"]);
    let check = |user: &UserInfo, method: Method, target: &str, level: Level| {
        let decision = policy.decide(Some(user), &info(method.clone(), target));
        assert_eq!(decision.level, level, "{} {method} {target}", user.username);
        assert!(decision.omitted.contains(Stage::RequestReceived) || level == Level::None);
    };
    let secret = "/api/v1/namespaces/a/secrets/b";
    check(&jane(), Method::GET, secret, Level::Metadata);
    check(&admin, Method::GET, "/api/v1/secrets?watch=1", Level::Metadata);
    check(&node, Method::GET, secret, Level::None);
    check(&controller, Method::GET, "/api/v1/secrets", Level::None);
    check(&jane(), Method::GET, "/api/v1/pods", Level::None);
    check(&jane(), Method::GET, "/api/v1/namespaces/a/pods/b/exec", Level::Metadata);
    check(&jane(), Method::GET, "/version", Level::None);
    check(&jane(), Method::DELETE, "/api/v1/namespaces/a/pods/b", Level::Metadata);
    check(&controller, Method::POST, "/api/v1/namespaces/a/pods", Level::Metadata);
    check(&controller, Method::PATCH, "/apis/apps/v1/namespaces/a/deployments/b/status", Level::None);
    check(&node, Method::PUT, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/a", Level::None);
    check(&node, Method::PATCH, "/api/v1/nodes/a/status", Level::None);
    check(&node, Method::PATCH, "/api/v1/nodes/a", Level::Metadata);
    check(&scheduler, Method::POST, "/api/v1/namespaces/a/pods/b/binding", Level::Metadata);
    check(&scheduler, Method::POST, "/apis/events.k8s.io/v1/namespaces/a/events", Level::None);
    check(&jane(), Method::PATCH, "/api/v1/nodes/a/status", Level::Metadata);
    check(&jane(), Method::POST, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", Level::None);
    check(&node, Method::POST, "/observe/loki/loki/api/v1/push", Level::None);
    assert_eq!(policy.decide(None, &info(Method::POST, "/api/v1/namespaces/a/pods")).level, Level::Metadata);
}
