//! Admission policies, and the match conditions of webhooks.

use http::Method;
use pharos_apiserver::authn::UserInfo;
use serde_json::{Value, json};
use std::time::Duration;

use crate::{
    common::{Answer, Server, read},
    remote::Remote,
};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints?dryRun=All";

fn rules(group: &str, resource: &str, operations: &[&str]) -> Value {
    json!({"resourceRules": [{"apiGroups": [group], "apiVersions": ["v1"], "resources": [resource], "operations": operations}]})
}

fn merged(mut base: Value, with: &Value) -> Value {
    pharos_api::patch::merge::merge(&mut base, with);
    base
}

/// The spec of a policy about ConfigMaps that refuses, changed by `with`.
fn refusing(validations: Value, with: &Value) -> Value {
    merged(json!({"matchConstraints": rules("", "configmaps", &["CREATE", "UPDATE"]), "validations": validations}), with)
}

/// The spec of a policy about ConfigMaps that changes them.
fn changing(mutations: Value, with: &Value) -> Value {
    let base = json!({
        "matchConstraints": rules("", "configmaps", &["CREATE", "UPDATE"]), "reinvocationPolicy": "Never", "mutations": mutations,
    });
    merged(base, with)
}

fn apply(expression: &str) -> Value {
    json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}})
}

fn json_patch(expression: &str) -> Value {
    json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}})
}

async fn policy(server: &Server, kind: &str, name: &str, spec: Value) -> Value {
    let resource = if kind == "Validating" { "validatingadmissionpolicies" } else { "mutatingadmissionpolicies" };
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": format!("{kind}AdmissionPolicy"),
        "metadata": {"name": name}, "spec": spec,
    });
    server.create(&format!("{GROUP}/{resource}"), policy).await
}

async fn bind(server: &Server, kind: &str, name: &str, policy: &str, with: &Value) {
    let resource = if kind == "Validating" { "validatingadmissionpolicybindings" } else { "mutatingadmissionpolicybindings" };
    let mut spec = json!({"policyName": policy});
    if kind == "Validating" {
        spec["validationActions"] = json!(["Deny"]);
    }
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": format!("{kind}AdmissionPolicyBinding"),
        "metadata": {"name": name}, "spec": merged(spec, with),
    });
    server.create(&format!("{GROUP}/{resource}"), binding).await;
}

/// Waits until what was written before has effect: one policy more, about what no test is about, tells.
async fn until_effective(server: &Server, kind: &str, marker: &str) {
    let name = format!("marker-{marker}");
    let constraints = json!({"matchConstraints": rules("", "endpoints", &["CREATE"])});
    let spec = if kind == "Validating" {
        let expression = format!("object.metadata.name != '{marker}'");
        refusing(json!([{"expression": expression, "message": "marker"}]), &constraints)
    } else {
        let expression = "Object{metadata: Object.metadata{labels: {'marker': object.metadata.name}}}";
        changing(json!([apply(expression)]), &constraints)
    };
    policy(server, kind, &name, spec).await;
    bind(server, kind, &name, &name, &json!({})).await;
    let waiting = async {
        loop {
            let answer = server.post(ENDPOINTS, &json!({"metadata": {"name": marker}})).await;
            if answer.text.contains("denied request: marker") || answer.body["metadata"]["labels"]["marker"] == marker {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("policies have effect");
}

/// Makes a policy and binds it, and waits until it has effect.
async fn install(server: &Server, kind: &str, name: &str, spec: Value, binding: &Value) {
    policy(server, kind, name, spec).await;
    bind(server, kind, name, name, binding).await;
    until_effective(server, kind, name).await;
}

async fn remove(server: &Server, kind: &str, name: &str) {
    let resource = if kind == "Validating" { "validatingadmissionpolicies" } else { "mutatingadmissionpolicies" };
    assert_eq!(server.delete(&format!("{GROUP}/{resource}/{name}")).await.code, 200);
    until_effective(server, kind, &format!("without-{name}")).await;
}

fn map(name: &str, a: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"a": a}})
}

fn warnings(answer: &Answer) -> Vec<&str> {
    answer.headers.get_all("warning").iter().map(|value| value.to_str().unwrap()).collect()
}

#[tokio::test]
async fn validating_policies_refuse() {
    let server = Server::start().await;
    let validations = json!([
        {"expression": "object.data.a != 'plain'"},
        {"expression": "object.data.a != 'said'", "message": " it is said "},
        {"expression": "object.data.a != 'forbidden'", "message": "no", "reason": "Forbidden"},
        {"expression": "object.data.a != 'large'", "message": "no", "reason": "RequestEntityTooLarge"},
        {"expression": "variables.a != 'computed'", "message": "no", "messageExpression": "'a is ' + variables.a"},
        {"expression": "object.data.a != 'blank'", "message": "fallen back", "messageExpression": "' '"},
        {"expression": "object.data.a != 'lines'", "messageExpression": "'one\\ntwo'"},
        {"expression": "request.operation == 'CREATE' || oldObject.data.a != 'kept' || object.data.a == 'kept'"},
        {"expression": "namespaceObject.metadata.name == request.namespace"},
        {"expression": "request.userInfo.username == 'admin' && request.resource.resource == 'configmaps'"},
    ]);
    let with = json!({"variables": [
        {"name": "data", "expression": "object.data"},
        {"name": "a", "expression": "string(variables.data.a)"},
        // What nobody looks at is not evaluated.
        {"name": "broken", "expression": "object.none.none"},
    ]});
    install(&server, "Validating", "data", refusing(validations, &with), &json!({})).await;
    for (a, code, reason, message) in [
        ("plain", 422, "Invalid", "failed expression: object.data.a != 'plain'"),
        ("said", 422, "Invalid", "it is said"),
        ("forbidden", 403, "Forbidden", "no"),
        ("large", 413, "RequestEntityTooLarge", "no"),
        ("computed", 422, "Invalid", "a is computed"),
        ("blank", 422, "Invalid", "fallen back"),
        ("lines", 422, "Invalid", "failed expression: object.data.a != 'lines'"),
    ] {
        let answer = server.post(CONFIG_MAPS, &map("m", a)).await;
        let inner = format!("ValidatingAdmissionPolicy 'data' with binding 'data' denied request: {message}");
        assert_eq!((answer.code.as_u16(), answer.body["reason"].as_str()), (code, Some(reason)), "{}", answer.text);
        assert_eq!(answer.body["message"], format!("configmaps \"m\" is forbidden: {inner}"));
        assert_eq!(answer.body["details"], json!({"name": "m", "kind": "configmaps", "causes": [{"message": inner}]}));
    }
    server.create(CONFIG_MAPS, map("m", "kept")).await;
    let answer = server.merge(&format!("{CONFIG_MAPS}/m"), &json!({"data": {"a": "b"}})).await;
    assert_eq!(answer.code, 422, "{}", answer.text);
    // An error is the policy's failure policy's to judge, and a refusal by default.
    let answer = server.post(CONFIG_MAPS, &json!({"metadata": {"name": "n"}})).await;
    let wanted = "denied request: expression 'object.data.a != 'plain'' resulted in error: no such key: data";
    assert!(answer.text.contains(wanted), "{}", answer.text);
    // What has none of the rules' resources is nobody's business.
    server.create("/api/v1/namespaces/default/secrets", json!({"metadata": {"name": "s"}})).await;
    remove(&server, "Validating", "data").await;
    server.create(CONFIG_MAPS, map("n", "plain")).await;
}

#[tokio::test]
async fn deletes_and_connections() {
    let server = Server::start().await;
    let with = json!({"matchConstraints": rules("", "configmaps", &["DELETE"])});
    let validations = json!([{
        "expression": "object == null && !('keep' in oldObject.metadata.?labels.orValue({}))", "messageExpression": "oldObject.metadata.name + ' is kept'",
    }]);
    install(&server, "Validating", "keep", refusing(validations, &with), &json!({})).await;
    server.create(CONFIG_MAPS, json!({"metadata": {"name": "a", "labels": {"keep": "yes"}}})).await;
    server.create(CONFIG_MAPS, json!({"metadata": {"name": "b"}})).await;
    assert_eq!(server.delete(&format!("{CONFIG_MAPS}/b")).await.code, 200);
    for path in [CONFIG_MAPS.to_owned(), format!("{CONFIG_MAPS}/a")] {
        let answer = server.delete(&path).await;
        assert!(answer.code == 422 && answer.text.contains("denied request: a is kept"), "{}", answer.text);
    }

    let with = json!({"matchConstraints": rules("", "services/proxy", &["CONNECT"])});
    let expression = "!(request.subResource == 'proxy' && object.kind == 'ServiceProxyOptions' && object.path == '/secret')";
    install(
        &server,
        "Validating",
        "proxy",
        refusing(json!([{"expression": expression, "message": "closed"}]), &with),
        &json!({}),
    )
    .await;
    let answer = server.get("/api/v1/namespaces/default/services/x/proxy/secret").await;
    assert!(answer.text.contains("denied request: closed"), "{}", answer.text);
    let answer = server.get("/api/v1/namespaces/default/services/x/proxy/open").await;
    assert!(!answer.text.contains("denied request"), "{}", answer.text);
}

#[tokio::test]
async fn bindings_choose_actions_and_requests() {
    let server = Server::start().await;
    let validations = json!([{"expression": "object.data.a == 'good'", "message": "a is not good"}]);
    policy(&server, "Validating", "data", refusing(validations, &json!({}))).await;
    bind(&server, "Validating", "warn", "data", &json!({"validationActions": ["Warn", "Audit"]})).await;
    let narrow = json!({"matchResources": {"objectSelector": {"matchLabels": {"strict": "yes"}}}});
    bind(&server, "Validating", "strict", "data", &narrow).await;
    until_effective(&server, "Validating", "actions").await;
    let answer = server.post(CONFIG_MAPS, &map("m", "bad")).await;
    assert_eq!(answer.code, 201, "{}", answer.text);
    let wanted = "299 - \"Validation failed for ValidatingAdmissionPolicy 'data' with binding 'warn': a is not good\"";
    assert_eq!(warnings(&answer), [wanted]);
    let strict = json!({"metadata": {"name": "s", "labels": {"strict": "yes"}}, "data": {"a": "bad"}});
    let answer = server.post(CONFIG_MAPS, &strict).await;
    assert!(answer.text.contains("with binding 'strict' denied request: a is not good"), "{}", answer.text);

    let counted = |name: &str, labels: &[(&str, &str)]| -> f64 {
        let families = server.registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap_or_else(|| panic!("no {name}"));
        let fits = |metric: &&prometheus::proto::Metric| {
            labels.iter().all(|(key, value)| metric.get_label().iter().any(|l| l.name() == *key && l.value() == *value))
        };
        family.get_metric().iter().filter(fits).map(|metric| metric.get_counter().get_value()).sum()
    };
    let checks = "apiserver_validating_admission_policy_check_total";
    for (binding, action, wanted) in
        [("warn", "warn", 2.0), ("warn", "audit", 2.0), ("strict", "deny", 1.0), ("strict", "warn", 0.0)]
    {
        let labels = [("policy", "data"), ("policy_binding", binding), ("enforcement_action", action)];
        assert_eq!(counted(checks, &labels), wanted, "{binding} {action}");
    }

    // Exclusions, names and namespaces.
    let validations = json!([{"expression": "false", "message": "never"}]);
    let with = json!({"matchConstraints": {
        "excludeResourceRules": [{
            "apiGroups": [""], "apiVersions": ["*"], "resources": ["configmaps"], "operations": ["*"], "resourceNames": ["free"],
        }],
        "namespaceSelector": {"matchLabels": {"guard": "yes"}},
    }});
    server.create("/api/v1/namespaces", json!({"metadata": {"name": "guarded", "labels": {"guard": "yes"}}})).await;
    install(&server, "Validating", "guard", refusing(validations, &with), &json!({})).await;
    let guarded = "/api/v1/namespaces/guarded/configmaps";
    for (path, name, refused) in [(guarded, "x", true), (guarded, "free", false), (CONFIG_MAPS, "y", false)] {
        let answer = server.post(path, &map(name, "good")).await;
        assert_eq!(answer.text.contains("denied request: never"), refused, "{path} {name}: {}", answer.text);
    }
}

#[tokio::test]
async fn failures_follow_the_policy() {
    let server = Server::start().await;
    let broken = json!([{"expression": "object.none.none == 1"}]);
    for (name, validations, with, wanted) in [
        ("fails", &broken, json!({}), "resulted in error: no such key: none"),
        ("ignores", &broken, json!({"failurePolicy": "Ignore"}), ""),
        (
            "unknown",
            &json!([{"expression": "true"}]),
            json!({"paramKind": {"apiVersion": "none.example.com/v1", "kind": "None"}}),
            "ValidatingAdmissionPolicy 'unknown' denied request: failed to configure policy: failed to find resource referenced by paramKind: 'none.example.com/v1, Kind=None'",
        ),
        (
            "condition",
            &json!([{"expression": "false"}]),
            json!({"matchConditions": [{"name": "c", "expression": "object.none.none == 1"}]}),
            "with binding 'condition' denied request: expression 'object.none.none == 1' resulted in error: no such key: none",
        ),
        (
            "decided",
            &json!([{"expression": "false"}]),
            json!({"matchConditions": [
                {"name": "c", "expression": "object.none.none == 1"}, {"name": "d", "expression": "request.operation == 'UPDATE'"},
            ]}),
            "",
        ),
    ] {
        install(&server, "Validating", name, refusing(validations.clone(), &with), &json!({})).await;
        let answer = server.post(&format!("{CONFIG_MAPS}?dryRun=All"), &map("m", "b")).await;
        if wanted.is_empty() {
            assert_eq!(answer.code, 201, "{name}: {}", answer.text);
        } else {
            let message = answer.body["message"].as_str().unwrap_or_default();
            assert!(answer.code == 422 && message.contains(wanted), "{name}: {}", answer.text);
        }
        remove(&server, "Validating", name).await;
    }
}

#[tokio::test]
async fn parameters() {
    let server = Server::start().await;
    server.create("/api/v1/namespaces", json!({"metadata": {"name": "params"}})).await;
    let params = "/api/v1/namespaces/params/configmaps";
    for (name, a, kind) in [("x", "x", "p"), ("y", "y", "p"), ("z", "z", "q")] {
        let object = json!({"metadata": {"name": name, "labels": {"kind": kind}}, "data": {"a": a}});
        server.create(params, object).await;
    }
    let validations = json!([{"expression": "params == null || object.data.a != params.data.a", "messageExpression": "'not ' + params.data.a"}]);
    let kind = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}});
    let reference = |reference: Value| json!({"paramRef": merged(json!({"namespace": "params", "parameterNotFoundAction": "Deny"}), &reference)});
    for (name, binding, table) in [
        ("by-name", reference(json!({"name": "x"})), &[("x", "not x"), ("y", ""), ("z", "")][..]),
        (
            "by-label",
            reference(json!({"selector": {"matchLabels": {"kind": "p"}}})),
            &[("x", "not x"), ("y", "not y"), ("z", "")],
        ),
        ("all", reference(json!({"selector": {}})), &[("z", "not z")]),
        ("unused", json!({}), &[("x", "")]),
        (
            "absent",
            reference(json!({"name": "none"})),
            &[("x", "no params found for policy binding with `Deny` parameterNotFoundAction")],
        ),
        ("allowed", reference(json!({"name": "none", "parameterNotFoundAction": "Allow"})), &[("x", "")]),
        ("own-namespace", reference(json!({"name": "x", "namespace": null})), &[("x", "no params found")]),
    ] {
        install(&server, "Validating", name, refusing(validations.clone(), &kind), &binding).await;
        for (a, wanted) in table {
            let answer = server.post(&format!("{CONFIG_MAPS}?dryRun=All"), &map("m", a)).await;
            assert_eq!(answer.code.as_u16(), if wanted.is_empty() { 201 } else { 422 }, "{name} {a}: {}", answer.text);
            assert!(answer.text.contains(wanted), "{name} {a}: {}", answer.text);
        }
        remove(&server, "Validating", name).await;
    }

    // Of a kind of one's own, outside of namespaces.
    let schema = json!({"type": "object", "properties": {"limit": {"type": "integer"}}});
    let definition = json!({"metadata": {"name": "limits.example.com"}, "spec": {"group": "example.com", "scope": "Cluster",
        "names": {"plural": "limits", "kind": "Limit"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
    server.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).await;
    let limit = json!({"apiVersion": "example.com/v1", "kind": "Limit", "metadata": {"name": "l"}, "limit": 2});
    let waiting = async {
        while server.post("/apis/example.com/v1/limits", &limit).await.code != 201 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("the kind is served");
    let validations =
        json!([{"expression": "object.spec.replicas <= params.limit", "messageExpression": "'at most ' + string(params.limit)"}]);
    let with = json!({
        "paramKind": {"apiVersion": "example.com/v1", "kind": "Limit"},
        "matchConstraints": rules("apps", "deployments", &["CREATE"]),
    });
    let cluster = json!({"paramRef": {"name": "l", "parameterNotFoundAction": "Deny"}});
    install(&server, "Validating", "limit", refusing(validations.clone(), &with), &cluster).await;
    let answer = server.post(&format!("{DEPLOYMENTS}?dryRun=All"), &deployment("d", 3)).await;
    assert!(answer.text.contains("denied request: at most 2"), "{}", answer.text);
    assert_eq!(server.post(&format!("{DEPLOYMENTS}?dryRun=All"), &deployment("d", 2)).await.code, 201);
    remove(&server, "Validating", "limit").await;
    install(
        &server,
        "Validating",
        "odd",
        refusing(validations, &with),
        &merged(cluster, &json!({"paramRef": {"namespace": "a"}})),
    )
    .await;
    let answer = server.post(&format!("{DEPLOYMENTS}?dryRun=All"), &deployment("d", 2)).await;
    let wanted = "failed to configure binding: paramRef.namespace must not be provided for a cluster-scoped `paramKind`";
    assert!(answer.text.contains(wanted), "{}", answer.text);
}

fn deployment(name: &str, replicas: i64) -> Value {
    json!({"metadata": {"name": name}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

#[tokio::test]
async fn the_authorizer_answers() {
    let server = Server::start().await;
    let rules = json!([
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]},
        {"apiGroups": ["example.com"], "resources": ["breakglass"], "verbs": ["use"]},
    ]);
    server
        .create("/apis/rbac.authorization.k8s.io/v1/clusterroles", json!({"metadata": {"name": "writer"}, "rules": rules}))
        .await;
    let binding = json!({"metadata": {"name": "writer"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "writer"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}]});
    server.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
    let validations = json!([
        {"expression": "object.data.a != 'group' || authorizer.group('example.com').resource('breakglass').check('use').allowed()", "message": "group"},
        {"expression": "object.data.a != 'request' || authorizer.requestResource.check('create').allowed()", "message": "request"},
        {"expression": "object.data.a != 'other' || authorizer.requestResource.check('delete').allowed()", "message": "other"},
        {"expression": "object.data.a != 'path' || authorizer.path('/metrics').check('get').allowed()", "message": "path"},
        {"expression": "object.data.a != 'account' || authorizer.serviceAccount('default', 'none').group('').resource('configmaps').check('create').allowed()", "message": "account"},
    ]);
    install(&server, "Validating", "rights", refusing(validations, &json!({})), &json!({})).await;
    let jane = UserInfo::new("jane", ["system:authenticated"]);
    for (a, refused) in [("group", false), ("request", false), ("other", true), ("path", true), ("account", true)] {
        let path = format!("{CONFIG_MAPS}?dryRun=All");
        let body = map("m", a).to_string();
        let answer = read(server.send(&jane, Method::POST, &path, &[("content-type", "application/json")], body).await).await;
        assert_eq!(answer.text.contains(&format!("denied request: {a}")), refused, "{a}: {}", answer.text);
    }
}

#[tokio::test]
async fn mutating_policies_change() {
    let server = Server::start().await;
    // In the order of the policies' names; the first wants to see what the second did.
    let first = changing(
        json!([json_patch(
            "has(object.data.second) ? [JSONPatch{op: 'add', path: '/data/again', value: 'yes'}] : \
             [JSONPatch{op: 'add', path: '/metadata/annotations', value: {}}, \
              JSONPatch{op: 'add', path: '/metadata/annotations/' + jsonpatch.escapeKey('example.com/x'), value: variables.a}]"
        )]),
        &json!({"reinvocationPolicy": "IfNeeded", "variables": [{"name": "a", "expression": "string(object.data.a)"}]}),
    );
    policy(&server, "Mutating", "a", first).await;
    bind(&server, "Mutating", "a", "a", &json!({})).await;
    let second = changing(
        json!([
            apply("Object{data: {'second': 'yes'}, metadata: Object.metadata{labels: {'team': request.userInfo.username}}}"),
            json_patch(
                "[JSONPatch{op: 'test', path: '/data/a', value: 'c'}, JSONPatch{op: 'add', path: '/data/c', value: 'tested'}]"
            ),
        ]),
        &json!({}),
    );
    install(&server, "Mutating", "b", second, &json!({})).await;
    let made = server.create(CONFIG_MAPS, map("m", "b")).await;
    assert_eq!(made["data"], json!({"a": "b", "second": "yes", "again": "yes"}));
    assert_eq!(made["metadata"]["annotations"], json!({"example.com/x": "b"}));
    assert_eq!(made["metadata"]["labels"], json!({"team": "admin"}));
    let made = server.create(CONFIG_MAPS, map("n", "c")).await;
    assert_eq!(made["data"]["c"], "tested");
    remove(&server, "Mutating", "a").await;
    remove(&server, "Mutating", "b").await;

    // Merged by key, with defaults for what is added, seen by the policies that refuse.
    let side = "Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{\
                initContainers: [Object.spec.template.spec.initContainers{name: 'mesh', image: 'proxy', restartPolicy: 'Always'}]}}}}";
    let with = json!({"matchConstraints": rules("apps", "deployments", &["CREATE"])});
    install(&server, "Mutating", "side", changing(json!([apply(side)]), &with), &json!({})).await;
    let refuse = json!([{"expression": "object.spec.template.spec.?initContainers.orValue([]).size() == 0 || object.metadata.name != 'no'"}]);
    install(&server, "Validating", "see", refusing(refuse, &with), &json!({})).await;
    let made = server.create(DEPLOYMENTS, deployment("d", 1)).await;
    let container = &made["spec"]["template"]["spec"]["initContainers"][0];
    assert_eq!((&container["name"], &container["terminationMessagePolicy"]), (&json!("mesh"), &json!("File")), "{made}");
    assert_eq!(server.post(DEPLOYMENTS, &deployment("no", 1)).await.code, 422);
}

#[tokio::test]
async fn mutations_that_fail() {
    let server = Server::start().await;
    for (name, mutation, code, wanted) in [
        (
            "odd",
            apply("Object{odd: 'x'}"),
            403,
            "error applying patch: failed to convert patch object to typed object: .odd: field not declared in schema",
        ),
        ("typed", apply("Object{data: {'a': 1}}"), 403, ".data.a: expected string, got 1"),
        ("named", apply("Object{metadata: Object.wrong{}}"), 403, "type mismatch: unexpected type name \\\"Object.wrong\\\""),
        (
            "missing",
            json_patch("[JSONPatch{op: 'replace', path: '/none/x', value: 1}]"),
            403,
            "JSON Patch: replace operation does not apply: ",
        ),
        ("error", json_patch("[JSONPatch{op: 'add', path: object.none, value: 1}]"), 403, "no such key: none"),
        (
            "renamed",
            json_patch("[JSONPatch{op: 'add', path: '/metadata/name', value: 'x'}]"),
            403,
            "attempted to modify metadata.name",
        ),
        ("unknown", json_patch("[JSONPatch{op: 'add', path: '/odd', value: 1}]"), 500, "unknown field \\\"odd\\\""),
    ] {
        install(&server, "Mutating", name, changing(json!([mutation]), &json!({})), &json!({})).await;
        let answer = server.post(CONFIG_MAPS, &map("m", "b")).await;
        assert!(answer.code == code && answer.text.contains(wanted), "{name}: {}", answer.text);
        if code == 403 {
            let prefix = format!("policy '{name}' with binding '{name}' denied request: ");
            assert!(answer.body["message"].as_str().unwrap().starts_with(&prefix), "{}", answer.text);
            assert_eq!(answer.body["reason"], "Invalid");
        }
        remove(&server, "Mutating", name).await;
    }
    let spec =
        changing(json!([apply("Object{odd: 'x'}"), apply("Object{data: {'b': 'c'}}")]), &json!({"failurePolicy": "Ignore"}));
    install(&server, "Mutating", "ignored", spec, &json!({})).await;
    assert_eq!(server.create(CONFIG_MAPS, map("m", "b")).await["data"], json!({"a": "b", "b": "c"}));
}

#[tokio::test]
async fn specs_are_checked() {
    let server = Server::start().await;
    let validating = format!("{GROUP}/validatingadmissionpolicies");
    let one = |expression: &str| json!([{"expression": expression}]);
    for (spec, wanted) in [
        (
            refusing(one("object.x =="), &json!({})),
            "spec.validations[0].expression: Invalid value: \"object.x ==\": compilation failed: ERROR: <input>:1:12: Syntax error",
        ),
        (refusing(one("odd == 1"), &json!({})), "undeclared reference to 'odd' (in container '')"),
        (refusing(one("1 + 1"), &json!({})), "must evaluate to bool but got int"),
        (refusing(one("object.x"), &json!({})), "must evaluate to bool but got dyn"),
        (refusing(one("params.x == 1"), &json!({})), "undeclared reference to 'params'"),
        (refusing(one("request.odd == 1"), &json!({})), "undefined field 'odd'"),
        (refusing(one("variables.b == 1"), &json!({"variables": [{"name": "a", "expression": "1"}]})), "undefined field 'b'"),
        (
            refusing(one("variables.a"), &json!({"variables": [{"name": "a", "expression": "1"}]})),
            "must evaluate to bool but got int",
        ),
        (
            refusing(
                json!([{"expression": "true", "messageExpression": "authorizer.path('/').check('get').reason()"}]),
                &json!({}),
            ),
            "spec.validations[0].messageExpression: Invalid value: ",
        ),
        (refusing(json!([{"expression": "true", "messageExpression": "1"}]), &json!({})), "must evaluate to string but got int"),
        (
            refusing(one("true"), &json!({"auditAnnotations": [{"key": "k", "valueExpression": "1"}]})),
            "spec.auditAnnotations[0].valueExpression: Invalid value: \"1\": must evaluate to one of [string null_type] but got int",
        ),
        (
            refusing(one("true"), &json!({"matchConditions": [{"name": "c", "expression": "'x'"}]})),
            "spec.matchConditions[0].expression: Invalid value: \"'x'\": must evaluate to bool but got string",
        ),
    ] {
        let answer = server.post(&validating, &json!({"metadata": {"name": "p"}, "spec": spec})).await;
        let message = answer.body["message"].as_str().unwrap_or_default();
        assert!(answer.code == 422 && message.contains(wanted), "{wanted}: {}", answer.text);
    }
    for spec in [
        refusing(one("variables.a"), &json!({"variables": [{"name": "a", "expression": "object.x == 1"}]})),
        refusing(one("namespaceObject == null || namespaceObject.metadata.labels['x'] == 'y'"), &json!({})),
        refusing(one("[1, 2].all(x,\n  x < 3) &&\n!has(object.y)"), &json!({})),
    ] {
        let answer = server.post(&format!("{validating}?dryRun=All"), &json!({"metadata": {"name": "p"}, "spec": spec})).await;
        assert_eq!(answer.code, 201, "{}", answer.text);
        assert!(warnings(&answer).is_empty(), "{:?}", answer.headers);
    }
    for (mutation, wanted) in [
        (
            apply("{'a': 1}"),
            "spec.mutations[0].applyConfiguration.expression: Invalid value: \"{'a': 1}\": must evaluate to Object but got map",
        ),
        (
            json_patch("'x'"),
            "spec.mutations[0].jsonPatch.expression: Invalid value: \"'x'\": must evaluate to list(JSONPatch) but got string",
        ),
    ] {
        let policy = json!({"metadata": {"name": "p"}, "spec": changing(json!([mutation]), &json!({}))});
        let answer = server.post(&format!("{GROUP}/mutatingadmissionpolicies"), &policy).await;
        assert!(answer.code == 422 && answer.body["message"].as_str().unwrap().contains(wanted), "{}", answer.text);
    }
}

#[tokio::test]
async fn writers_must_be_able_to_read_parameters() {
    let server = Server::start().await;
    let rules = json!([{"apiGroups": ["admissionregistration.k8s.io"], "resources": ["*"], "verbs": ["*"]}]);
    server
        .create("/apis/rbac.authorization.k8s.io/v1/clusterroles", json!({"metadata": {"name": "policies"}, "rules": rules}))
        .await;
    let binding = json!({"metadata": {"name": "policies"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "policies"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}]});
    server.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
    let spec = refusing(json!([{"expression": "true"}]), &json!({"paramKind": {"apiVersion": "v1", "kind": "Secret"}}));
    let jane = UserInfo::new("jane", ["system:authenticated"]);
    let policy = json!({"metadata": {"name": "p"}, "spec": spec}).to_string();
    let path = format!("{GROUP}/validatingadmissionpolicies");
    let allowed = async {
        while server.send(&jane, Method::GET, &path, &[], "").await.status() != 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), allowed).await.expect("jane has her role");
    let json = [("content-type", "application/json")];
    let answer = read(server.send(&jane, Method::POST, &path, &json, policy).await).await;
    let wanted = "spec.paramKind: Forbidden: user &{jane  [system:authenticated] map[]} must have \"get\" permission on all \
                  objects of the referenced paramKind (kind=Secret, apiVersion=v1)";
    assert!(answer.body["message"].as_str().unwrap().contains(wanted), "{}", answer.text);
    let binding = json!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Deny"],
        "paramRef": {"name": "s", "namespace": "default", "parameterNotFoundAction": "Deny"}}});
    let path = format!("{GROUP}/validatingadmissionpolicybindings");
    let answer = read(server.send(&jane, Method::POST, &path, &json, binding.to_string()).await).await;
    assert!(answer.text.contains("does not have \\\"get\\\" permission on the object referenced by paramRef"), "{}", answer.text);
}

#[tokio::test]
async fn statuses_tell_of_types() {
    let server = Server::start().await;
    let spec = refusing(
        json!([{"expression": "object.spec.replicas > 1"}, {"expression": "object.spec.odd == 1", "messageExpression": "object.spec.replicas"}]),
        &json!({"matchConstraints": rules("apps", "deployments", &["CREATE"])}),
    );
    let refused =
        server.post(&format!("{GROUP}/validatingadmissionpolicies"), &json!({"metadata": {"name": "t"}, "spec": spec})).await;
    // A message that is not known to be a text is refused before anybody looks at its types.
    assert_eq!(refused.code, 422, "{}", refused.text);
    let spec = refusing(
        json!([{"expression": "object.spec.replicas > 1"}, {"expression": "object.spec.odd == 1"}]),
        &json!({"matchConstraints": rules("apps", "deployments", &["CREATE"])}),
    );
    policy(&server, "Validating", "t", spec).await;
    let path = format!("{GROUP}/validatingadmissionpolicies/t");
    let waiting = async {
        loop {
            let status = server.get(&path).await.body["status"].clone();
            if status["observedGeneration"] == 1 {
                return status;
            }
            tokio::task::yield_now().await;
        }
    };
    let status = tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("the status is written");
    let warnings = status["typeChecking"]["expressionWarnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1, "{status}");
    assert_eq!(warnings[0]["fieldRef"], "spec.validations[1].expression");
    let text = warnings[0]["warning"].as_str().unwrap();
    assert!(text.starts_with("apps/v1, Kind=Deployment: ERROR: <input>:1:12: undefined field 'odd'\n"), "{text}");
}

#[tokio::test]
async fn policies_cannot_lock_themselves_in() {
    let server = Server::start().await;
    let everything = json!({"matchConstraints": {"resourceRules": [{
        "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["configmaps", "endpoints", "validatingadmissionpolicies", "selfsubjectreviews"], "operations": ["*"],
    }]}});
    let validations = json!([{"expression": "object != null && object.kind == 'Endpoints'", "message": "never"}]);
    install(&server, "Validating", "all", refusing(validations, &everything), &json!({})).await;
    assert!(server.post(CONFIG_MAPS, &map("m", "b")).await.text.contains("denied request: never"));
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    assert_eq!(server.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &review).await.code, 201);
    remove(&server, "Validating", "all").await;
    server.create(CONFIG_MAPS, map("m", "b")).await;
}

#[tokio::test]
async fn webhooks_have_conditions() {
    let server = Server::start().await;
    let remote = Remote::start(|_, review| async move {
        json!({"apiVersion": review["apiVersion"], "kind": "AdmissionReview",
            "response": {"uid": review["request"]["uid"], "allowed": false, "status": {"message": "asked"}}})
    })
    .await;
    let path = format!("{GROUP}/validatingwebhookconfigurations");
    let configuration = |conditions: Value, policy: &str| {
        let name = policy.to_lowercase();
        json!({"metadata": {"name": name}, "webhooks": [{
            "name": format!("{name}.example.com"), "clientConfig": remote.client_config("/"), "admissionReviewVersions": ["v1"],
            "sideEffects": "None", "failurePolicy": policy, "matchConditions": conditions,
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
        }]})
    };
    let condition = |expression: &str| json!([{"name": "c", "expression": expression}]);
    let answer = server.post(&path, &configuration(condition("object.x =="), "Fail")).await;
    assert!(answer.code == 422 && answer.text.contains("webhooks[0].matchConditions[0].expression"), "{}", answer.text);
    let answer = server.post(&path, &configuration(condition("variables.x == 1"), "Fail")).await;
    assert!(answer.text.contains("undeclared reference to 'variables'"), "{}", answer.text);

    let conditions = json!([
        {"name": "a", "expression": "request.userInfo.username == 'admin' && namespaceObject == null"},
        {"name": "b", "expression": "object.data.a != 'free'"},
    ]);
    for (policy, absent) in
        [("Fail", "configmaps \\\"m\\\" is forbidden: expression 'object.data.a != 'free'' resulted in error"), ("Ignore", "")]
    {
        server.create(&path, configuration(conditions.clone(), policy)).await;
        let wanted = format!("\"{}.example.com\\\" denied the request: asked", policy.to_lowercase());
        let waiting = async {
            while !server.post(&format!("{CONFIG_MAPS}?dryRun=All"), &map("m", "b")).await.text.contains(&wanted) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("the webhook is asked");
        remote.take().await;
        assert_eq!(server.post(&format!("{CONFIG_MAPS}?dryRun=All"), &map("m", "free")).await.code, 201);
        let answer = server.post(&format!("{CONFIG_MAPS}?dryRun=All"), &json!({"metadata": {"name": "m"}})).await;
        assert!(answer.text.contains(absent), "{}", answer.text);
        assert_eq!(answer.code, if policy == "Fail" { 403 } else { 201 });
        assert!(remote.take().await.is_empty());
        server.delete(&format!("{path}/{}", policy.to_lowercase())).await;
    }
}

#[tokio::test]
async fn policies_come_before_webhooks() {
    let server = Server::start().await;
    let remote = Remote::start(|_, review| async move {
        let allowed = review["request"]["object"]["data"]["a"] != "refused";
        json!({"apiVersion": review["apiVersion"], "kind": "AdmissionReview",
            "response": {"uid": review["request"]["uid"], "allowed": allowed, "status": {"message": "asked"}}})
    })
    .await;
    let spec = changing(json!([apply("Object{data: {'policy': 'yes'}}")]), &json!({}));
    install(&server, "Mutating", "first", spec, &json!({})).await;
    let configuration = json!({"metadata": {"name": "w"}, "webhooks": [{
        "name": "w.example.com", "clientConfig": remote.client_config("/"), "admissionReviewVersions": ["v1"],
        "sideEffects": "None", "reinvocationPolicy": "IfNeeded",
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
    }]});
    server.create(&format!("{GROUP}/mutatingwebhookconfigurations"), configuration).await;
    let path = format!("{CONFIG_MAPS}?dryRun=All");
    let waiting = async {
        while !server.post(&path, &map("m", "refused")).await.text.contains("denied the request: asked") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("the webhook is asked");
    remote.take().await;
    let made = server.create(CONFIG_MAPS, map("m", "b")).await;
    assert_eq!(made["data"], json!({"a": "b", "policy": "yes"}));
    // It has seen what the policy did, so there is no need to ask it again.
    let seen = remote.take().await;
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0].1["request"]["object"]["data"]["policy"], "yes");
}
