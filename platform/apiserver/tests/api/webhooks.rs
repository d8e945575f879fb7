//! Admission webhooks, asked over TLS.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;

use crate::{
    audit::Audited,
    common::{Answer, Server, admin, read},
    remote::Remote,
};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn registration(mutating: bool) -> String {
    let kind = if mutating { "mutatingwebhookconfigurations" } else { "validatingwebhookconfigurations" };
    format!("/apis/admissionregistration.k8s.io/v1/{kind}")
}

/// A webhook about ConfigMaps, changed by `with`.
fn hook(name: &str, client: Value, with: Value) -> Value {
    let mut hook = json!({
        "name": name,
        "clientConfig": client,
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
    });
    for (key, value) in with.as_object().into_iter().flatten() {
        hook[key] = value.clone();
    }
    hook
}

/// Registers webhooks and waits until they are asked: one more, about what no test is about, tells.
async fn register(server: &Server, mutating: bool, name: &str, mut hooks: Vec<Value>) -> Remote {
    let marker = Remote::start(|_, review| async move { refuse(&review, "marker") }).await;
    let rules = json!([{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["endpoints"]}]);
    let with = json!({"objectSelector": {"matchLabels": {"marker": name}}, "rules": rules});
    hooks.push(hook("marker.example.com", marker.client_config("/"), with));
    let kind = if mutating { "MutatingWebhookConfiguration" } else { "ValidatingWebhookConfiguration" };
    let configuration = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "webhooks": hooks,
    });
    server.create(&registration(mutating), configuration).await;
    let endpoints = json!({"metadata": {"name": "marker", "labels": {"marker": name}}});
    for _ in 0..1000 {
        let answer = server.post("/api/v1/namespaces/default/endpoints?dryRun=All", &endpoints).await;
        if answer.text.contains("denied the request: marker") {
            return marker;
        }
    }
    panic!("webhooks of {name} are not asked");
}

fn response(review: &Value, mut response: Value) -> Value {
    response["uid"] = review["request"]["uid"].clone();
    json!({"apiVersion": review["apiVersion"], "kind": "AdmissionReview", "response": response})
}

fn allow(review: &Value) -> Value {
    response(review, json!({"allowed": true}))
}

fn refuse(review: &Value, why: &str) -> Value {
    response(review, json!({"allowed": false, "status": {"message": why}}))
}

fn patch(review: &Value, operations: Value) -> Value {
    let patch = STANDARD.encode(operations.to_string());
    response(review, json!({"allowed": true, "patchType": "JSONPatch", "patch": patch}))
}

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"a": "b"}})
}

fn warnings(answer: &Answer) -> Vec<&str> {
    answer.headers.get_all("warning").iter().map(|value| value.to_str().unwrap()).collect()
}

#[tokio::test]
async fn validating_webhooks_refuse() {
    let server = Server::start().await;
    let remote = Remote::start(|path, review| async move {
        if path.starts_with("/warn") {
            return response(&review, json!({"allowed": true, "warnings": ["mind"], "auditAnnotations": {"k": "v"}}));
        }
        match review["request"]["name"].as_str() {
            Some("bad") => refuse(&review, "it is bad"),
            Some("kept") if review["request"]["operation"] == "DELETE" => refuse(&review, "it is kept"),
            Some("coded") => response(
                &review,
                json!({"allowed": false, "status": {"code": 403, "reason": "Forbidden", "message": "m", "details": {"causes": [{"field": "f"}]}}}),
            ),
            _ => allow(&review),
        }
    })
    .await;
    let hooks = vec![
        hook("deny.example.com", remote.client_config("/deny"), json!({})),
        hook("warn.example.com", remote.client_config("/warn"), json!({"admissionReviewVersions": ["v2", "v1beta1"]})),
    ];
    let _marker = register(&server, false, "deny", hooks).await;
    remote.take().await;

    let answer = server.post(CONFIG_MAPS, &map("bad")).await;
    assert_eq!(answer.code, 400);
    assert_eq!(answer.body["message"], "admission webhook \"deny.example.com\" denied the request: it is bad");
    let answer = server.post(CONFIG_MAPS, &map("coded")).await;
    assert_eq!((answer.code.as_u16(), answer.body["reason"].as_str()), (403, Some("Forbidden")));
    assert_eq!(answer.body["details"]["causes"][0]["field"], "f");
    remote.take().await;

    let answer = server.post(&format!("{CONFIG_MAPS}?fieldManager=me"), &map("kept")).await;
    assert_eq!(answer.code, 201, "{}", answer.text);
    assert_eq!(warnings(&answer), ["299 - \"mind\""]);
    let mut seen = remote.take().await;
    seen.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!((seen[0].0.as_str(), seen[1].0.as_str()), ("/deny?timeout=10s", "/warn?timeout=10s"));
    assert_eq!(seen[0].1["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(seen[1].1["apiVersion"], "admission.k8s.io/v1beta1");
    let request = &seen[0].1["request"];
    assert_eq!(request["kind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert_eq!(request["requestResource"], json!({"group": "", "version": "v1", "resource": "configmaps"}));
    assert_eq!((&request["operation"], &request["dryRun"]), (&json!("CREATE"), &json!(false)));
    assert_eq!((&request["namespace"], &request["name"]), (&json!("default"), &json!("kept")));
    assert_eq!(request["userInfo"]["username"], "admin");
    assert_eq!(request["options"]["fieldManager"], "me");
    assert_eq!((&request["object"]["data"]["a"], &request["oldObject"]), (&json!("b"), &Value::Null));

    server.merge(&format!("{CONFIG_MAPS}/kept"), &json!({"data": {"a": "c"}})).await;
    let request = remote.take().await.remove(0).1["request"].clone();
    assert_eq!(request["operation"], "UPDATE");
    assert_eq!((&request["object"]["data"]["a"], &request["oldObject"]["data"]["a"]), (&json!("c"), &json!("b")));
    let answer = server.delete(&format!("{CONFIG_MAPS}/kept")).await;
    assert!(answer.text.contains("it is kept"), "{}", answer.text);
    let deleted = server.delete(CONFIG_MAPS).await;
    assert!(deleted.text.contains("it is kept"), "{}", deleted.text);
    assert_eq!(server.get(&format!("{CONFIG_MAPS}/kept")).await.code, 200);

    // The configurations themselves, and what has none of the rules' resources, are nobody's business.
    remote.take().await;
    assert_eq!(server.delete(&format!("{}/deny", registration(false))).await.code, 200);
    assert_eq!(server.post("/api/v1/namespaces/default/secrets", &json!({"metadata": {"name": "s"}})).await.code, 201);
    assert!(remote.take().await.is_empty());
}

#[tokio::test]
async fn failures_follow_the_policy() {
    let server = Server::start().await;
    let slow = Remote::start(|_, review| async move {
        tokio::time::sleep(Duration::from_secs(5)).await;
        allow(&review)
    })
    .await;
    let odd = Remote::start(|_, _| async move { json!({"response": {"uid": "x"}}) }).await;
    let client = |remote: &Remote| remote.client_config("/p");
    let mut untrusted = client(&odd);
    untrusted["caBundle"] = json!("");
    let refused = json!({"url": "https://127.0.0.1:1/p", "caBundle": odd.ca_bundle()});
    let absent = json!({"service": {"namespace": "none", "name": "none"}, "caBundle": odd.ca_bundle()});
    for (name, client, with, wanted) in [
        ("slow", client(&slow), json!({"timeoutSeconds": 1}), "/p?timeout=1s\": context deadline exceeded"),
        ("odd", client(&odd), json!({}), "received invalid webhook response: expected response.uid="),
        ("untrusted", untrusted, json!({}), "certificate signed by unknown authority"),
        ("refused", refused, json!({}), "failed to call webhook: Post \"https://127.0.0.1:1/p?timeout=10s\": "),
        ("absent", absent, json!({}), "Post \"https://none.none.svc:443/?timeout=10s\": service \"none\" not found"),
    ] {
        let full = format!("{name}.example.com");
        let _marker = register(&server, false, name, vec![hook(&full, client.clone(), with.clone())]).await;
        let answer = server.post(CONFIG_MAPS, &map(name)).await;
        assert_eq!((answer.code.as_u16(), answer.body["reason"].as_str()), (500, Some("InternalError")), "{}", answer.text);
        let prefix = format!("Internal error occurred: failed calling webhook \"{full}\": ");
        let message = answer.body["message"].as_str().unwrap();
        assert!(message.starts_with(&prefix) && message.contains(wanted), "{message}");
        server.delete(&format!("{}/{name}", registration(false))).await;

        let mut open = with;
        open["failurePolicy"] = json!("Ignore");
        let _marker = register(&server, false, &format!("{name}-open"), vec![hook(&full, client, open)]).await;
        let answer = server.post(CONFIG_MAPS, &map(name)).await;
        assert_eq!(answer.code, 201, "{}", answer.text);
        server.delete(&format!("{}/{name}-open", registration(false))).await;
    }
}

#[tokio::test]
async fn mutating_webhooks_change() {
    let server = Server::start().await;
    let remote = Remote::start(|path, review| async move {
        let data = &review["request"]["object"]["data"];
        let stage = path.split('?').next().unwrap().trim_start_matches('/').to_owned();
        let operations = match stage.as_str() {
            "first" if data["second"].is_string() => json!([{"op": "add", "path": "/data/again", "value": "yes"}]),
            "first" => json!([{"op": "add", "path": "/data/first", "value": "yes"}]),
            "second" if data["first"].is_string() => json!([{"op": "add", "path": "/data/second", "value": "yes"}]),
            "rename" => json!([{"op": "replace", "path": "/metadata/name", "value": "x"}]),
            "broken" => json!([{"op": "remove", "path": "/nothing"}]),
            _ => json!([]),
        };
        patch(&review, operations)
    })
    .await;
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    // In the order of the configurations' names, not of their creation.
    let _b = register(&server, true, "b", vec![hook("second.example.com", remote.client_config("/second"), json!({}))]).await;
    let _a = register(&server, true, "a", vec![hook("first.example.com", remote.client_config("/first"), again)]).await;
    let made = server.create(CONFIG_MAPS, map("m")).await;
    assert_eq!(made["data"], json!({"a": "b", "first": "yes", "second": "yes", "again": "yes"}));
    server.delete(&format!("{}/a", registration(true))).await;
    server.delete(&format!("{}/b", registration(true))).await;

    for (name, wanted) in [("rename", "attempted to modify metadata.name"), ("broken", "Internal error occurred: ")] {
        let full = format!("{name}.example.com");
        let client = remote.client_config(&format!("/{name}"));
        let _marker = register(&server, true, name, vec![hook(&full, client, json!({}))]).await;
        let answer = server.post(CONFIG_MAPS, &map("n")).await;
        assert_eq!(answer.code, 500, "{}", answer.text);
        assert!(answer.text.contains(wanted), "{}", answer.text);
        server.delete(&format!("{}/{name}", registration(true))).await;
    }
}

#[tokio::test]
async fn what_webhooks_say_for_the_audit_log_is_there() {
    let audited = Audited::new();
    let server = Server::start_with(audited.config()).await;
    let remote = Remote::start(|path, review| async move {
        if path.starts_with("/patch") {
            return patch(&review, json!([{"op": "add", "path": "/data/added", "value": "yes"}]));
        }
        response(&review, json!({"allowed": true, "auditAnnotations": {"k": "v"}}))
    })
    .await;
    let ignore = json!({"failurePolicy": "Ignore"});
    let gone = json!({"url": "https://127.0.0.1:1/", "caBundle": remote.ca_bundle()});
    let _m = register(&server, true, "m", vec![hook("patch.example.com", remote.client_config("/patch"), json!({}))]).await;
    let hooks = vec![hook("note.example.com", remote.client_config("/note"), json!({})), hook("gone.example.com", gone, ignore)];
    let _v = register(&server, false, "v", hooks).await;
    server.create(CONFIG_MAPS, map("m")).await;
    let event = audited.events().pop().unwrap();
    let annotations = &event["annotations"];
    assert_eq!(annotations["note.example.com/k"], "v");
    assert_eq!(annotations["failed-open.validating.webhook.admission.k8s.io/round_0_index_1"], "gone.example.com");
    let told = |key: &str| -> Value { serde_json::from_str(annotations[key].as_str().unwrap()).unwrap() };
    let mutation = json!({"configuration": "m", "webhook": "patch.example.com", "mutated": true});
    assert_eq!(told("mutation.webhook.admission.k8s.io/round_0_index_0"), mutation);
    assert_eq!(told("patch.webhook.admission.k8s.io/round_0_index_0")["patch"][0]["path"], "/data/added");
    assert!(event["requestObject"]["data"]["added"].is_null() && event["responseObject"]["data"]["added"] == "yes", "{event}");
}

#[tokio::test]
async fn clients_that_do_not_wait_are_counted_and_written_down() {
    let audited = Audited::new();
    let server = Server::start_with(audited.config()).await;
    let remote = Remote::start(|_, review| async move {
        tokio::time::sleep(Duration::from_secs(3)).await;
        allow(&review)
    })
    .await;
    let _m = register(&server, false, "slow", vec![hook("slow.example.com", remote.client_config("/"), json!({}))]).await;
    let body = map("m");
    let posted = tokio::time::timeout(Duration::from_millis(300), server.post(CONFIG_MAPS, &body)).await;
    assert!(posted.is_err(), "the webhook takes longer");
    let event = audited.events().pop().unwrap();
    assert_eq!((&event["stage"], &event["objectRef"]["name"]), (&json!("ResponseComplete"), &json!("m")));
    assert_eq!(event["responseStatus"]["message"], "Connection closed early");
    let text = server.exposition();
    let labels = r#"group="",resource="configmaps",scope="resource",subresource="",verb="POST",version="v1""#;
    assert!(text.contains(&format!("apiserver_request_aborts_total{{{labels}}} 1")), "{text}");
}

#[tokio::test]
async fn what_webhooks_add_is_defaulted_and_checked() {
    let server = Server::start().await;
    let remote = Remote::start(|_, review| async move {
        let container = json!({"name": "added", "image": "i"});
        patch(
            &review,
            json!([
                {"op": "add", "path": "/spec/initContainers", "value": [container]},
                {"op": "add", "path": "/spec/unknown", "value": 1},
            ]),
        )
    })
    .await;
    server.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    let pods = json!({"rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]});
    let _marker = register(&server, true, "pods", vec![hook("pods.example.com", remote.client_config("/"), pods)]).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let made = server.create("/api/v1/namespaces/default/pods", pod).await;
    assert_eq!(made["spec"]["initContainers"][0]["terminationMessagePolicy"], "File");
    // What a webhook brings is subject to the built-in plugins like the rest: the account's token is mounted.
    assert!(made["spec"]["initContainers"][0]["volumeMounts"][0]["mountPath"].is_string(), "{made}");
    assert!(made["spec"]["unknown"].is_null());
}

#[tokio::test]
async fn selectors_dry_runs_and_scopes() {
    let server = Server::start().await;
    let remote = Remote::start(|_, review| async move { refuse(&review, "no") }).await;
    let everything = json!([{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}]);
    let client = || remote.client_config("/");
    let hooks = vec![
        hook("ns.example.com", client(), json!({"namespaceSelector": {"matchLabels": {"guard": "yes"}}, "rules": everything})),
        hook(
            "object.example.com",
            client(),
            json!({"objectSelector": {"matchExpressions": [{"key": "guard", "operator": "Exists"}]}}),
        ),
    ];
    let _marker = register(&server, false, "selecting", hooks).await;
    server.create("/api/v1/namespaces", json!({"metadata": {"name": "guarded"}})).await;
    let guard = json!({"metadata": {"labels": {"guard": "yes"}}});
    // Labelled by this very update, a namespace guards itself.
    assert!(server.merge("/api/v1/namespaces/guarded", &guard).await.text.contains("denied the request"));
    assert!(
        server
            .post("/api/v1/namespaces", &json!({"metadata": {"name": "g", "labels": {"guard": "yes"}}}))
            .await
            .text
            .contains("denied")
    );
    assert_eq!(server.post(CONFIG_MAPS, &map("plain")).await.code, 201);
    let labelled = json!({"metadata": {"name": "l", "labels": {"guard": ""}}});
    assert!(server.post(CONFIG_MAPS, &labelled).await.text.contains("object.example.com"));

    server.delete(&format!("{}/selecting", registration(false))).await;
    let dry = json!({"rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["secrets"]}]});
    let mut hooks = vec![hook("dry.example.com", client(), dry)];
    hooks[0]["sideEffects"] = json!("None");
    let _marker = register(&server, false, "dry", hooks).await;
    remote.take().await;
    let answer = server.post("/api/v1/namespaces/default/secrets?dryRun=All", &json!({"metadata": {"name": "s"}})).await;
    assert!(answer.text.contains("denied the request"), "{}", answer.text);
    assert_eq!(remote.take().await[0].1["request"]["dryRun"], true);
}

#[tokio::test]
async fn subresources_and_connections_are_reviewed() {
    let server = Server::start().await;
    let remote = Remote::start(|_, review| async move {
        if review["request"]["operation"] == "CONNECT" {
            return refuse(&review, "no way in");
        }
        if review["request"]["kind"]["kind"] == "Scale" {
            return patch(&review, json!([{"op": "replace", "path": "/spec/replicas", "value": 7}]));
        }
        allow(&review)
    })
    .await;
    let rule = |operation: &str, group: &str, resource: &str| json!({"operations": [operation], "apiGroups": [group], "apiVersions": ["*"], "resources": [resource]});
    let rules = json!({"rules": [rule("UPDATE", "apps", "deployments/scale"), rule("CREATE", "", "pods/eviction")]});
    let _m = register(&server, true, "scale", vec![hook("scale.example.com", remote.client_config("/"), rules)]).await;
    let rules = json!({"rules": [rule("CONNECT", "", "pods/attach"), rule("CONNECT", "", "pods/proxy")]});
    let _v = register(&server, false, "connect", vec![hook("connect.example.com", remote.client_config("/"), rules)]).await;

    let labels = json!({"app": "a"});
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    server.create("/apis/apps/v1/namespaces/default/deployments", deployment).await;
    remote.take().await;
    let scale = server.merge("/apis/apps/v1/namespaces/default/deployments/d/scale", &json!({"spec": {"replicas": 3}})).await;
    assert_eq!(scale.body["spec"]["replicas"], 7, "{}", scale.text);
    let request = remote.take().await.remove(0).1["request"].clone();
    assert_eq!(request["kind"], json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}));
    assert_eq!((&request["subResource"], &request["object"]["spec"]["replicas"]), (&json!("scale"), &json!(3)));
    assert_eq!(request["oldObject"]["spec"]["replicas"], 1);

    server.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    server.create("/api/v1/namespaces/default/pods", pod).await;
    let answer = read(
        server
            .send(&admin(), Method::POST, "/api/v1/namespaces/default/pods/p/proxy/x", &[], pharos_transport::Body::empty())
            .await,
    )
    .await;
    assert!(answer.text.contains("no way in"), "{}", answer.text);
    let request = remote.take().await.remove(0).1["request"].clone();
    assert_eq!(request["object"]["kind"], "PodProxyOptions");
    assert_eq!(request["object"]["path"], "/x");
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    let answer = server.post("/api/v1/namespaces/default/pods/p/eviction", &eviction).await;
    assert_eq!(answer.code, 201, "{}", answer.text);
    let request = remote.take().await.remove(0).1["request"].clone();
    assert_eq!((&request["kind"]["kind"], &request["operation"]), (&json!("Eviction"), &json!("CREATE")));
}

#[tokio::test]
async fn other_versions_are_converted() {
    let server = Server::start().await;
    let remote =
        Remote::start(
            |_, review| async move { patch(&review, json!([{"op": "replace", "path": "/spec/maxReplicas", "value": 9}])) },
        )
        .await;
    let rules = |policy: &str| {
        json!({"matchPolicy": policy, "rules": [
            {"operations": ["CREATE"], "apiGroups": ["autoscaling"], "apiVersions": ["v1"], "resources": ["horizontalpodautoscalers"]},
        ]})
    };
    let hooks = vec![
        hook("exact.example.com", remote.client_config("/exact"), rules("Exact")),
        hook("any.example.com", remote.client_config("/any"), rules("Equivalent")),
    ];
    let _marker = register(&server, true, "versions", hooks).await;
    let autoscaler = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3,
        "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"},
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]}});
    let made = server.create("/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers", autoscaler).await;
    assert_eq!((&made["apiVersion"], &made["spec"]["maxReplicas"]), (&json!("autoscaling/v2"), &json!(9)));
    assert_eq!(made["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
    let seen = remote.take().await;
    assert_eq!(seen.len(), 1);
    let request = &seen[0].1["request"];
    assert_eq!((&request["kind"]["version"], &request["requestKind"]["version"]), (&json!("v1"), &json!("v2")));
    assert_eq!(request["object"]["spec"]["targetCPUUtilizationPercentage"], 50);
}

#[tokio::test]
async fn services_are_reached_at_their_endpoints() {
    let server = Server::start().await;
    let remote = Remote::start(|_, review| async move { refuse(&review, "from behind a service") }).await;
    server.create("/api/v1/namespaces", json!({"metadata": {"name": "test"}})).await;
    let service = json!({"metadata": {"name": "hook"}, "spec": {"ports": [{"name": "h", "port": 8443}]}});
    server.create("/api/v1/namespaces/test/services", service).await;
    let client =
        json!({"service": {"namespace": "test", "name": "hook", "port": 8443, "path": "/p"}, "caBundle": remote.ca_bundle()});
    let _marker = register(&server, false, "service", vec![hook("service.example.com", client, json!({}))]).await;
    let answer = server.post(CONFIG_MAPS, &map("m")).await;
    assert!(answer.text.contains("no endpoints available for service \\\"hook\\\""), "{}", answer.text);
    let slice = json!({
        "metadata": {"name": "hook-1", "labels": {"kubernetes.io/service-name": "hook"}}, "addressType": "IPv4",
        "endpoints": [{"addresses": [remote.endpoint()], "conditions": {"ready": true}}],
        "ports": [{"name": "h", "port": remote.address.port(), "protocol": "TCP"}],
    });
    server.create("/apis/discovery.k8s.io/v1/namespaces/test/endpointslices", slice).await;
    let answer = server.post(CONFIG_MAPS, &map("m")).await;
    assert!(answer.text.contains("from behind a service"), "{}", answer.text);
}

#[tokio::test]
async fn bad_configurations_are_refused() {
    let server = Server::start().await;
    let check = async |with: Value, wanted: &str| {
        let webhook = hook("a.example.com", json!({"url": "https://h/p"}), with);
        let body = json!({"metadata": {"name": "x"}, "webhooks": [webhook]});
        let answer = server.post(&registration(true), &body).await;
        assert_eq!(answer.code, 422, "{}", answer.text);
        let message = answer.body["message"].as_str().unwrap();
        assert!(message.contains(wanted), "{message}");
    };
    check(json!({"name": "a.b"}), "webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three segments")
        .await;
    check(json!({"sideEffects": "Some"}), "webhooks[0].sideEffects: Unsupported value: \"Some\"").await;
    check(json!({"timeoutSeconds": 31}), "the timeout value must be between 1 and 30 seconds").await;
    check(json!({"admissionReviewVersions": ["v3"]}), "must include at least one of v1, v1beta1").await;
    check(json!({"clientConfig": {}}), "webhooks[0].clientConfig: Required value: exactly one of url or service is required")
        .await;
    check(json!({"clientConfig": {"url": "http://h"}}), "'https' is the only allowed URL scheme").await;
    check(json!({"clientConfig": {"url": "https://u@h?q#f"}}), "query parameters are not permitted in the URL").await;
    let service = |path: &str| json!({"clientConfig": {"service": {"namespace": "n", "name": "s", "path": path}}});
    check(service("p"), "webhooks[0].clientConfig.service.path: Invalid value: \"p\": must start with a '/'").await;
    check(json!({"failurePolicy": "Maybe"}), "supported values: \"Fail\", \"Ignore\"").await;
    check(json!({"rules": [{"operations": ["READ"], "apiGroups": ["*", ""], "apiVersions": [], "resources": ["pods/*", "pods/log"]}]}), "if 'pods/*' is present, must not specify pods/log").await;
    let webhook = hook("a.example.com", json!({"url": "https://h/p"}), service(""));
    let answer = server.post(&registration(true), &json!({"metadata": {"name": "x"}, "webhooks": [webhook]})).await;
    assert_eq!(answer.code, 201, "an empty path is none: {}", answer.text);
}
