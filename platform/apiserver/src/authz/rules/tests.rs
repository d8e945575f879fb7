use super::*;
use crate::authn::UserInfo;

fn rule(verbs: &str, groups: &str, resources: &str, names: &str, urls: &str) -> Rule {
    let list = |text: &str| -> Vec<String> { text.split_whitespace().map(|word| word.replace("core", "")).collect() };
    Rule {
        verbs: list(verbs),
        api_groups: list(groups),
        resources: list(resources),
        resource_names: list(names),
        non_resource_urls: list(urls),
    }
}

#[test]
fn matches_resources() {
    let user = UserInfo::new("jane", ["a"]);
    let check = |rule: &Rule, asked: [&str; 5], want: bool| {
        let [verb, group, resource, subresource, name] = asked;
        let attributes = Attributes::resource(&user, verb, group, resource, "default", name).with_subresource(subresource);
        assert_eq!(rule.matches(&attributes), want, "{} {asked:?}", rule.compact());
    };
    let pods = rule("get list", "core", "pods", "", "");
    check(&pods, ["get", "", "pods", "", "a"], true);
    check(&pods, ["delete", "", "pods", "", "a"], false);
    check(&pods, ["get", "apps", "pods", "", "a"], false);
    check(&pods, ["get", "", "secrets", "", "a"], false);
    check(&pods, ["get", "", "pods", "log", "a"], false);
    check(&rule("get", "core", "pods/log", "", ""), ["get", "", "pods", "log", "a"], true);
    check(&rule("get", "core", "pods/log", "", ""), ["get", "", "pods", "", "a"], false);
    check(&rule("get", "*", "*/scale", "", ""), ["get", "apps", "deployments", "scale", "a"], true);
    check(&rule("get", "*", "*/scale", "", ""), ["get", "apps", "deployments", "", "a"], false);
    check(&rule("*", "*", "*", "", ""), ["evict", "x", "y", "z", ""], true);
    let named = rule("get list", "core", "configmaps", "one", "");
    check(&named, ["get", "", "configmaps", "", "one"], true);
    check(&named, ["get", "", "configmaps", "", "two"], false);
    check(&named, ["list", "", "configmaps", "", ""], false);
    check(&rule("*", "", "", "", "*"), ["get", "", "pods", "", "a"], false);
}

#[test]
fn matches_paths() {
    let user = UserInfo::new("jane", ["a"]);
    let check = |urls: &str, path: &str, want: bool| {
        let rule = rule("get", "", "", "", urls);
        assert_eq!(rule.matches(&Attributes::path(&user, "get", path)), want, "{urls} {path}");
        assert!(!rule.matches(&Attributes::path(&user, "post", path)));
    };
    check("/healthz", "/healthz", true);
    check("/healthz", "/healthz/ping", false);
    check("/api/*", "/api/v1", true);
    check("/api/*", "/api/", true);
    check("/api/*", "/api", false);
    check("/api*", "/apis", true);
    check("*", "/anything", true);
    check("/*/b", "/a/b", false);
}

#[test]
fn knows_what_covers_what() {
    let check = |owned: &[Rule], wanted: Rule, missing: &[&str]| {
        let got: Vec<String> = compact(uncovered(owned, std::slice::from_ref(&wanted))).iter().map(Rule::compact).collect();
        assert_eq!(got, missing, "{}", wanted.compact());
    };
    let all = [rule("*", "*", "*", "", ""), rule("*", "", "", "", "*")];
    check(&all, rule("get list", "core apps", "pods deployments/scale", "", ""), &[]);
    check(&all, rule("*", "*", "*", "", ""), &[]);
    check(&all, rule("get", "", "", "", "/metrics /api/*"), &[]);
    let some =
        [rule("get list", "core", "pods", "", ""), rule("get", "core", "secrets", "a", ""), rule("get", "*", "*/scale", "", "")];
    check(&some, rule("get", "core", "pods", "x", ""), &[]);
    check(&some, rule("get", "core", "secrets", "a", ""), &[]);
    check(&some, rule("get", "apps", "deployments/scale", "", ""), &[]);
    check(&some, rule("get", "core", "secrets", "", ""), &[r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}"#]);
    check(
        &some,
        rule("get update delete", "core", "pods", "", ""),
        &[r#"{APIGroups:[""], Resources:["pods"], Verbs:["update" "delete"]}"#],
    );
    check(
        &some,
        rule("get", "core", "secrets", "a b", ""),
        &[r#"{APIGroups:[""], Resources:["secrets"], ResourceNames:["b"], Verbs:["get"]}"#],
    );
    check(&some, rule("get", "", "", "", "/metrics"), &[r#"{NonResourceURLs:["/metrics"], Verbs:["get"]}"#]);
    check(&some, rule("*", "core", "pods", "", ""), &[r#"{APIGroups:[""], Resources:["pods"], Verbs:["*"]}"#]);
    check(&[rule("get", "", "", "", "/api/*")], rule("get", "", "", "", "/api/v1"), &[]);
    check(
        &[rule("get", "", "", "", "/api/v1")],
        rule("get", "", "", "", "/api/*"),
        &[r#"{NonResourceURLs:["/api/*"], Verbs:["get"]}"#],
    );
}

#[test]
fn reads_and_writes_itself() {
    let written = json!({"apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"], "verbs": ["get"]});
    assert_eq!(Rule::from_value(&written).to_value(), written);
    assert_eq!(Rule::from_value(&json!({"verbs": "get"})), Rule::default());
}
