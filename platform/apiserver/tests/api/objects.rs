//! What happens to objects: created, changed, listed, watched, deleted.

use crate::common::{Server, admin};
use futures::StreamExt as _;
use http::Method;
use pharos_transport::Body;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

async fn account(server: &Server) {
    server.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_move_the_revision_only_when_something_changes() {
    let server = Server::start().await;
    let made = server.create(MAPS, json!({"metadata": {"generateName": "m-"}, "data": {"a": "1"}})).await;
    let name = made["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("m-") && name.len() == 7);
    let path = format!("{MAPS}/{name}");
    let same = server.put(&path, &made).await;
    assert_eq!(same.body["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let changed = server.merge(&path, &json!({"data": {"b": "2"}})).await;
    assert_eq!(changed.body["data"], json!({"a": "1", "b": "2"}));
    assert_ne!(changed.body["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    assert_eq!(server.put(&path, &made).await.code, 409);
    let dry = server.merge(&format!("{path}?dryRun=All"), &json!({"data": {"c": "3"}})).await;
    assert_eq!(dry.body["data"]["c"], "3");
    assert!(server.get(&path).await.body["data"].get("c").is_none());
    let deleted = server.delete(&path).await;
    assert_eq!((deleted.code.as_u16(), deleted.body["status"].as_str()), (200, Some("Success")));
    assert_eq!(server.get(&path).await.code, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unconditional_writers_do_not_lose_each_others_changes() {
    let server = Server::start().await;
    server.create(MAPS, json!({"metadata": {"name": "shared"}})).await;
    let patches = (0..100).map(|at| {
        let server = &server;
        async move { server.merge(&format!("{MAPS}/shared"), &json!({"data": {format!("k{at}"): "v"}})).await.code }
    });
    let codes = futures::future::join_all(patches).await;
    assert!(codes.iter().all(|code| *code == 200), "{codes:?}");
    assert_eq!(server.get(&format!("{MAPS}/shared")).await.body["data"].as_object().unwrap().len(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_come_in_pages_of_one_revision() {
    let server = Server::start().await;
    for name in ["a", "b", "c"] {
        server.create(MAPS, json!({"metadata": {"name": name, "labels": {"l": name}}})).await;
    }
    let first = server.get(&format!("{MAPS}?limit=2")).await.body;
    assert_eq!(first["items"].as_array().unwrap().len(), 2);
    assert_eq!(first["metadata"]["remainingItemCount"], 1);
    server.create(MAPS, json!({"metadata": {"name": "d"}})).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = server.get(&format!("{MAPS}?limit=2&continue={token}")).await.body;
    assert_eq!(second["items"][0]["metadata"]["name"], "c");
    assert_eq!(second["items"].as_array().unwrap().len(), 1);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let selected = server.get(&format!("{MAPS}?labelSelector=l+in+(a,c)")).await.body;
    assert_eq!(selected["items"].as_array().unwrap().len(), 2);
    let exact = first["metadata"]["resourceVersion"].as_str().unwrap();
    let old = server.get(&format!("{MAPS}?resourceVersion={exact}&resourceVersionMatch=Exact")).await.body;
    assert_eq!(old["items"].as_array().unwrap().len(), 3);
    let future = server.get(&format!("{MAPS}?resourceVersion=999999999")).await;
    assert_eq!(future.code, 504);
    assert_eq!(future.body["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
}

/// Opens a watch and gives its events one by one.
pub(crate) async fn watch(server: &Server, path: &str) -> futures::stream::BoxStream<'static, Value> {
    let response = server.send(&admin(), Method::GET, path, &[], Body::empty()).await;
    assert_eq!(response.status(), 200);
    let chunks = response.into_body().into_stream();
    Box::pin(chunks.flat_map(|chunk| {
        let text = String::from_utf8(chunk.unwrap().to_vec()).unwrap();
        let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        futures::stream::iter(events)
    }))
}

fn summary(event: &Value) -> (String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&event["type"]), text(&event["object"]["metadata"]["name"]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_show_what_their_selector_sees() {
    let server = Server::start().await;
    server.create(MAPS, json!({"metadata": {"name": "a", "labels": {"x": "1"}}})).await;
    let path = format!(
        "{MAPS}?watch=1&labelSelector=x=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let mut events = watch(&server, &path).await;
    let mut next = async || summary(&events.next().await.unwrap());
    assert_eq!(next().await, ("ADDED".into(), "a".into()));
    assert_eq!(next().await.0, "BOOKMARK");
    server.merge(&format!("{MAPS}/a"), &json!({"metadata": {"labels": {"x": "2"}}})).await;
    assert_eq!(next().await, ("DELETED".into(), "a".into()));
    server.merge(&format!("{MAPS}/a"), &json!({"metadata": {"labels": {"x": "1"}}})).await;
    assert_eq!(next().await, ("ADDED".into(), "a".into()));
    server.merge(&format!("{MAPS}/a"), &json!({"data": {"k": "v"}})).await;
    assert_eq!(next().await, ("MODIFIED".into(), "a".into()));
    server.delete(&format!("{MAPS}/a")).await;
    assert_eq!(next().await, ("DELETED".into(), "a".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_is_too_old_says_so_in_its_stream() {
    let server = Server::start().await;
    let mut events = watch(&server, &format!("{MAPS}?watch=true&resourceVersion=1&timeoutSeconds=1")).await;
    // Revision 1 is within what is kept here, so the watch replays or waits; either way it ends at its timeout.
    while let Some(event) = events.next().await {
        assert_ne!(event["type"], "ERROR");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_get_what_admission_gives() {
    let server = Server::start().await;
    account(&server).await;
    let made = server.create(PODS, pod("p")).await;
    assert_eq!(made["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    assert!(made["spec"]["volumes"][0]["name"].as_str().unwrap().starts_with("kube-api-access-"));
    assert_eq!(made["spec"]["tolerations"].as_array().unwrap().len(), 2);
    assert_eq!(made["spec"]["priority"], 0);
    assert_eq!(made["metadata"]["generation"], 1);
    let mut critical = pod("critical");
    critical["spec"]["priorityClassName"] = json!("system-node-critical");
    assert_eq!(server.create(PODS, critical).await["spec"]["priority"], 2_000_001_000);
    let mut odd = pod("odd");
    odd["spec"]["priorityClassName"] = json!("nosuch");
    assert_eq!(server.post(PODS, &odd).await.code, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_are_bound_once_and_go_gracefully() {
    let server = Server::start().await;
    account(&server).await;
    server.create(PODS, pod("p")).await;
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    assert_eq!(server.post(&format!("{PODS}/p/binding"), &binding).await.code, 201);
    let again = server.post(&format!("{PODS}/p/binding"), &binding).await;
    assert_eq!(again.code, 409, "{}", again.text);
    let bound = server.get(&format!("{PODS}/p")).await.body;
    assert_eq!(bound["spec"]["nodeName"], "n");
    assert_eq!(bound["metadata"]["generation"], 1);
    let running =
        server.merge(&format!("{PODS}/p/status"), &json!({"status": {"phase": "Running"}, "spec": {"nodeName": "m"}})).await;
    assert_eq!(
        (running.body["status"]["phase"].as_str(), running.body["spec"]["nodeName"].as_str()),
        (Some("Running"), Some("n"))
    );
    let marked = server.delete(&format!("{PODS}/p")).await.body;
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(server.get(&format!("{PODS}/p")).await.code, 200);
    assert_eq!(server.delete(&format!("{PODS}/p?gracePeriodSeconds=0")).await.code, 200);
    assert_eq!(server.get(&format!("{PODS}/p")).await.code, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ephemeral_containers_are_added_and_stay() {
    let server = Server::start().await;
    account(&server).await;
    let mut owner = pod("a");
    owner["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "2m"}});
    server.create(PODS, owner).await;
    let path = format!("{PODS}/a/ephemeralcontainers");
    let kind = "application/strategic-merge-patch+json";
    let add = |name: &str| json!({"spec": {"ephemeralContainers": [{"name": name, "image": "i"}]}}).to_string();
    for name in ["d", "e"] {
        let added = server.ask(Method::PATCH, &path, kind, add(name)).await;
        assert_eq!(added.code, 200, "{}", added.body);
    }
    let resize = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1m"}}}]}}).to_string();
    let resized = server.ask(Method::PATCH, &format!("{PODS}/a/resize"), kind, resize).await;
    assert_eq!(resized.body["spec"]["ephemeralContainers"].as_array().map(Vec::len), Some(2), "{}", resized.body);
    let mut none = server.get(&format!("{PODS}/a")).await.body;
    none["spec"]["ephemeralContainers"] = json!([]);
    let refused = server.put(&path, &none).await;
    assert_eq!(refused.code, 422, "{}", refused.body);
    assert_eq!(server.ask(Method::PATCH, &path, kind, add("c")).await.code, 422, "the name is taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finalizers_hold_and_let_go() {
    let server = Server::start().await;
    server.create(MAPS, json!({"metadata": {"name": "f", "finalizers": ["a.b/c"]}})).await;
    let path = format!("{MAPS}/f");
    assert!(server.delete(&path).await.body["metadata"]["deletionTimestamp"].is_string());
    let more = server.merge(&path, &json!({"metadata": {"finalizers": ["a.b/c", "d.e/f"]}})).await;
    assert_eq!(more.code, 422);
    assert_eq!(server.merge(&path, &json!({"metadata": {"finalizers": null}})).await.code, 200);
    assert_eq!(server.get(&path).await.code, 404);
    server.create(MAPS, json!({"metadata": {"name": "g"}})).await;
    let options = json!({"propagationPolicy": "Foreground"}).to_string();
    let pending = server.ask(Method::DELETE, &format!("{MAPS}/g"), "application/json", options).await;
    assert_eq!((pending.code.as_u16(), &pending.body["metadata"]["finalizers"]), (202, &json!(["foregroundDeletion"])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_get_addresses_nobody_else_has() {
    let server = Server::start().await;
    let services = "/api/v1/namespaces/default/services";
    let creates = (0..30).map(|at| {
        let server = &server;
        let service = json!({"metadata": {"name": format!("s{at}")}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
        async move { server.create(services, service).await }
    });
    let made = futures::future::join_all(creates).await;
    let unique =
        |of: &dyn Fn(&Value) -> Value| made.iter().map(|s| of(s).to_string()).collect::<std::collections::HashSet<_>>().len();
    assert_eq!(unique(&|service| service["spec"]["clusterIP"].clone()), 30);
    assert_eq!(unique(&|service| service["spec"]["ports"][0]["nodePort"].clone()), 30);
    let taken = json!({"metadata": {"name": "t"}, "spec": {"clusterIP": made[0]["spec"]["clusterIP"], "ports": [{"port": 80}]}});
    assert_eq!(server.post(services, &taken).await.code, 422);
    server.delete(&format!("{services}/s0")).await;
    assert_eq!(server.post(services, &taken).await.code, 201);
    let kubernetes = server.get(&format!("{services}/kubernetes")).await.body;
    assert_eq!(kubernetes["spec"]["clusterIP"], "10.43.0.1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scales_are_a_view_of_replicas() {
    let server = Server::start().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": template});
    server.create(deployments, json!({"metadata": {"name": "d"}, "spec": spec})).await;
    let scale = server.get(&format!("{deployments}/d/scale")).await.body;
    assert_eq!((scale["kind"].as_str(), scale["spec"]["replicas"].as_i64()), (Some("Scale"), Some(2)));
    assert_eq!(scale["status"]["selector"], "a=b");
    let changed = server.merge(&format!("{deployments}/d/scale"), &json!({"spec": {"replicas": 5}})).await;
    assert_eq!(changed.body["spec"]["replicas"], 5, "{}", changed.text);
    let deployment = server.get(&format!("{deployments}/d")).await.body;
    assert_eq!((deployment["spec"]["replicas"].as_i64(), deployment["metadata"]["generation"].as_i64()), (Some(5), Some(2)));
    let negative = server.merge(&format!("{deployments}/d/scale"), &json!({"spec": {"replicas": -1}})).await;
    assert_eq!(negative.code, 422);
    for (patch, field) in [
        (json!({"spec": {"replicas": 9_999_999_999_i64}}), "spec.replicas"),
        (json!({"spec": {"replicas": "3"}}), "spec.replicas"),
        (json!({"spec": 3}), "spec"),
    ] {
        let answer = server.merge(&format!("{deployments}/d/scale"), &patch).await;
        assert_eq!(answer.code, 422, "{}", answer.text);
        assert!(answer.body["message"].as_str().unwrap_or_default().contains(field), "{}", answer.text);
    }
    assert_eq!(server.get(&format!("{deployments}/d")).await.body["spec"]["replicas"], 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scales_are_applied() {
    let server = Server::start().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": template});
    server.create(&format!("{deployments}?fieldManager=owner"), json!({"metadata": {"name": "d"}, "spec": spec})).await;
    let apply = |query: &'static str, replicas: i64| {
        let (server, path) = (&server, format!("{deployments}/d/scale{query}"));
        let spec = json!({"replicas": replicas});
        let body = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": spec});
        async move { server.ask(Method::PATCH, &path, "application/apply-patch+yaml", body.to_string()).await }
    };
    assert_eq!(apply("", 3).await.code, 422);
    let conflict = apply("?fieldManager=scaler", 3).await;
    assert_eq!(conflict.code, 409, "{}", conflict.text);
    assert_eq!(conflict.body["details"]["causes"][0]["field"], ".spec.replicas", "{}", conflict.text);
    let applied = apply("?fieldManager=scaler&force=true", 3).await;
    assert_eq!((applied.code.as_u16(), applied.body["spec"]["replicas"].as_i64()), (200, Some(3)), "{}", applied.text);
    let deployment = server.get(&format!("{deployments}/d")).await.body;
    let entries = deployment["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let scaler = entries.iter().find(|entry| entry["manager"] == "scaler").unwrap();
    assert_eq!((scaler["operation"].as_str(), scaler["subresource"].as_str()), (Some("Apply"), Some("scale")));
    assert_eq!(scaler["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(apply("?fieldManager=scaler", 0).await.code, 200);
    assert_eq!(server.get(&format!("{deployments}/d")).await.body["spec"]["replicas"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_set_twice_in_yaml_are_told() {
    let server = Server::start().await;
    let post = |validation: &'static str, name: &'static str| {
        let (server, path) = (&server, format!("{MAPS}?fieldValidation={validation}"));
        let body = format!("metadata: {{name: {name}}}\ndata:\n  a: '1'\n  a: '2'\n");
        async move { server.ask(Method::POST, &path, "application/yaml", body).await }
    };
    let ignored = post("Ignore", "i").await;
    assert_eq!((ignored.code.as_u16(), ignored.body["data"]["a"].as_str()), (201, Some("2")), "{}", ignored.text);
    assert!(!ignored.headers.contains_key("warning"));
    let warned = post("Warn", "w").await;
    assert_eq!(warned.code, 201, "{}", warned.text);
    let warning = warned.headers["warning"].to_str().unwrap();
    assert!(warning.starts_with("299 - \"") && warning.contains(r#"key \"a\" already set in map"#), "{warning}");
    let strict = post("Strict", "s").await;
    assert_eq!(strict.code, 400, "{}", strict.text);
    let message = strict.body["message"].as_str().unwrap_or_default();
    assert!(message.contains("strict decoding error: yaml: unmarshal errors:\n  key \"a\" already set in map"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applies_own_fields_and_conflict() {
    let server = Server::start().await;
    let path = format!("{MAPS}/x?fieldManager=one");
    let apply = |path: String, body: Value| {
        let server = &server;
        async move { server.ask(Method::PATCH, &path, "application/apply-patch+yaml", body.to_string()).await }
    };
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": "1", "b": "1"}});
    let made = apply(path.clone(), config.clone()).await;
    assert_eq!(made.code, 201, "{}", made.text);
    assert_eq!(made.body["metadata"]["managedFields"][0]["operation"], "Apply");
    let again = apply(path.clone(), config).await;
    assert_eq!(again.body["metadata"]["resourceVersion"], made.body["metadata"]["resourceVersion"]);
    let other = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": "2"}});
    let conflict = apply(format!("{MAPS}/x?fieldManager=two"), other.clone()).await;
    assert_eq!(conflict.code, 409, "{}", conflict.text);
    assert_eq!(conflict.body["details"]["causes"][0]["reason"], "FieldManagerConflict");
    assert_eq!(apply(format!("{MAPS}/x?fieldManager=two&force=true"), other).await.body["data"]["a"], "2");
    let less = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {}});
    assert_eq!(apply(path, less).await.body["data"], json!({"a": "2"}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_are_kept_under_concurrency() {
    let server = Server::start().await;
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    server.create(quotas, json!({"metadata": {"name": "q"}, "spec": {"hard": {"count/configmaps": "5"}}})).await;
    let mut events = watch(&server, &format!("{quotas}?watch=1")).await;
    while events.next().await.unwrap()["object"]["status"]["hard"].is_null() {}
    let creates = (0..20).map(|at| {
        let server = &server;
        async move { server.post(MAPS, &json!({"metadata": {"name": format!("m{at}")}})).await.code.as_u16() }
    });
    let codes = futures::future::join_all(creates).await;
    assert_eq!(codes.iter().filter(|code| **code == 201).count(), 5, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == 403).count(), 15, "{codes:?}");
    let used = server.get(&format!("{quotas}/q")).await.body["status"]["used"].clone();
    assert_eq!(used, json!({"count/configmaps": "5"}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn custom_kinds_are_served_once_established() {
    let server = Server::start().await;
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "required": ["size"],
        "properties": {"size": {"type": "integer", "minimum": 1}, "color": {"type": "string", "default": "red"}}}}});
    let version = json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}}});
    let definition = json!({"metadata": {"name": "things.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "things", "kind": "Thing"}, "versions": [version]}});
    server.create(definitions, definition).await;
    let mut events = watch(&server, &format!("{definitions}?watch=1")).await;
    let established = |event: &Value| {
        let conditions = event["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True")
    };
    while !established(&events.next().await.unwrap()) {}
    let things = "/apis/example.com/v1/namespaces/default/things";
    let made = server
        .create(
            things,
            json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "t"},
        "spec": {"size": 3, "unknown": 1}}),
        )
        .await;
    assert_eq!(made["spec"], json!({"size": 3, "color": "red"}));
    for bad in [json!({}), json!({"size": 0}), json!({"size": "x"})] {
        let thing = json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "u"}, "spec": bad});
        assert_eq!(server.post(things, &thing).await.code, 422, "{thing}");
    }
    let found = server.get("/apis/example.com/v1").await.body;
    assert!(found["resources"].as_array().unwrap().iter().any(|r| r["name"] == "things/status"));
    let mut seen = watch(&server, &format!("{things}?watch=1")).await;
    server.delete(&format!("{definitions}/things.example.com")).await;
    while events.next().await.unwrap()["type"] != "DELETED" {}
    // As upstream, the path goes soon after its definition, not with it.
    let gone = async {
        while server.get(things).await.code != 404 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), gone).await.expect("the kind is not served any more");
    // Its watches end: with no error, as they showed all there was.
    let mut types = Vec::new();
    while let Some(event) = seen.next().await {
        types.push(event["type"].clone());
    }
    assert_eq!(types.last(), Some(&json!("DELETED")), "{types:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evictions_respect_budgets() {
    let server = Server::start().await;
    account(&server).await;
    let mut labelled = pod("p");
    labelled["metadata"]["labels"] = json!({"a": "b"});
    server.create(PODS, labelled).await;
    let binding = json!({"metadata": {"name": "p"}, "target": {"name": "n"}});
    server.create(&format!("{PODS}/p/binding"), binding).await;
    let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    server.merge(&format!("{PODS}/p/status"), &ready).await;
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let spec = json!({"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}});
    server.create(budgets, json!({"metadata": {"name": "b"}, "spec": spec})).await;
    let state = |allowed: i64| {
        json!({"status": {"observedGeneration": 1, "disruptionsAllowed": allowed,
        "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}})
    };
    server.merge(&format!("{budgets}/b/status"), &state(0)).await;
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    let refused = server.post(&format!("{PODS}/p/eviction"), &eviction).await;
    assert_eq!(refused.code, 429, "{}", refused.text);
    let cause =
        json!({"reason": "DisruptionBudget", "message": "The disruption budget b needs 1 healthy pods and has 1 currently"});
    assert_eq!(refused.body["details"]["causes"], json!([cause]));
    server.merge(&format!("{budgets}/b/status"), &state(1)).await;
    assert_eq!(server.post(&format!("{PODS}/p/eviction"), &eviction).await.code, 201);
    let gone = server.get(&format!("{PODS}/p")).await.body;
    assert!(gone["metadata"]["deletionTimestamp"].is_string());
    let conditions = gone["status"]["conditions"].as_array().unwrap();
    let condition = conditions.iter().find(|condition| condition["type"] == "DisruptionTarget").unwrap();
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("True"), &json!("EvictionByEvictionAPI")));
    let spent = server.get(&format!("{budgets}/b")).await.body;
    assert_eq!(spent["status"]["disruptionsAllowed"], 0);
    assert!(spent["status"]["disruptedPods"]["p"].is_string(), "{spent}");
    assert_eq!(spent["status"]["conditions"][0]["reason"], "InsufficientPods");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evictions_of_pods_that_budgets_do_not_count() {
    let server = Server::start().await;
    account(&server).await;
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let spec = json!({"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}});
    server.create(budgets, json!({"metadata": {"name": "b"}, "spec": spec})).await;
    let status = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 0,
        "currentHealthy": 0, "desiredHealthy": 1, "expectedPods": 1}});
    server.merge(&format!("{budgets}/b/status"), &status).await;
    let labelled = async |name: &str, phase: &str| {
        let mut labelled = pod(name);
        labelled["metadata"]["labels"] = json!({"a": "b"});
        server.create(PODS, labelled).await;
        let binding = json!({"metadata": {"name": name}, "target": {"name": "n"}});
        server.create(&format!("{PODS}/{name}/binding"), binding).await;
        server.merge(&format!("{PODS}/{name}/status"), &json!({"status": {"phase": phase}})).await;
    };
    let evict = async |name: &str| {
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
        server.post(&format!("{PODS}/{name}/eviction"), &eviction).await
    };
    labelled("unready", "Running").await;
    assert_eq!(evict("unready").await.code, 429, "too few are healthy");
    for (name, phase) in [("pending", "Pending"), ("over", "Succeeded")] {
        labelled(name, phase).await;
        let answer = evict(name).await;
        assert_eq!(answer.code, 201, "{}", answer.text);
    }
    server.merge(&format!("{budgets}/b"), &json!({"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}})).await;
    let answer = evict("unready").await;
    assert_eq!(answer.code, 201, "{}", answer.text);
    let untouched = server.get(&format!("{budgets}/b")).await.body;
    assert!(untouched["status"].get("disruptedPods").is_none(), "{untouched}");

    server.create(budgets, json!({"metadata": {"name": "c"}, "spec": {"minAvailable": 1, "selector": {}}})).await;
    labelled("twice", "Running").await;
    let refused = evict("twice").await;
    assert_eq!(refused.code, 500, "{}", refused.text);
    assert!(refused.body["message"].as_str().unwrap().starts_with("This pod has more than one PodDisruptionBudget"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_go_once_they_are_finalized() {
    let server = Server::start().await;
    server.create("/api/v1/namespaces", json!({"metadata": {"name": "t"}})).await;
    let marked = server.delete("/api/v1/namespaces/t").await.body;
    assert_eq!(marked["status"]["phase"], "Terminating");
    let refused = server.post("/api/v1/namespaces/t/configmaps", &json!({"metadata": {"name": "a"}})).await;
    assert_eq!(refused.body["details"]["causes"][0]["reason"], "NamespaceTerminating");
    assert_eq!(server.delete("/api/v1/namespaces/t").await.code, 409);
    let mut finalized = server.get("/api/v1/namespaces/t").await.body;
    finalized["spec"]["finalizers"] = json!([]);
    let answer = server.put("/api/v1/namespaces/t/finalize", &finalized).await;
    assert_eq!(answer.code, 200, "{}", answer.text);
    assert_eq!(server.get("/api/v1/namespaces/t").await.code, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collections_are_deleted_by_selector() {
    let server = Server::start().await;
    for name in ["a", "b", "c"] {
        server.create(MAPS, json!({"metadata": {"name": name, "labels": {"keep": (name == "c").to_string()}}})).await;
    }
    let answer = server.delete(&format!("{MAPS}?labelSelector=keep=false")).await;
    assert_eq!(answer.code, 200, "{}", answer.text);
    let left = server.get(MAPS).await.body;
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_one_kind_in_two_groups() {
    let server = Server::start().await;
    let core = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "reason": "Started", "message": "hello", "type": "Normal", "firstTimestamp": "2026-01-01T00:00:00Z"});
    server.create("/api/v1/namespaces/default/events", core).await;
    let event = server.get("/apis/events.k8s.io/v1/namespaces/default/events/e").await.body;
    assert_eq!((event["note"].as_str(), event["regarding"]["name"].as_str()), (Some("hello"), Some("p")), "{event}");
    let selected = server.get("/api/v1/namespaces/default/events?fieldSelector=involvedObject.name=p,reason=Started").await;
    assert_eq!(selected.body["items"].as_array().unwrap().len(), 1, "{}", selected.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn discovery_and_openapi_are_cached_by_etag() {
    let server = Server::start().await;
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    for (path, accept) in
        [("/apis", aggregated), ("/api", aggregated), ("/openapi/v3", "application/json"), ("/openapi/v2", "application/json")]
    {
        let first = server.send(&admin(), Method::GET, path, &[("accept", accept)], Body::empty()).await;
        assert_eq!(first.status(), 200, "{path}");
        let etag = first.headers()["etag"].to_str().unwrap().to_owned();
        let again =
            server.send(&admin(), Method::GET, path, &[("accept", accept), ("if-none-match", &etag)], Body::empty()).await;
        assert_eq!(again.status(), 304, "{path}");
    }
    let index = server.get("/openapi/v3").await.body;
    let pods = index["paths"]["api/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    assert!(server.get(&pods).await.body["components"]["schemas"]["io.k8s.api.core.v1.Pod"].is_object());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_of_the_status_changes_the_metadata_its_kind_allows() {
    let server = Server::start().await;
    let change = json!({"metadata": {"labels": {"l": "new"}, "annotations": {"a": "new"}}});
    let meta = json!({"name": "o", "labels": {"l": "old"}, "annotations": {"a": "old"}});
    let template = json!({"metadata": {"labels": {"x": "y"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let apps = json!({"metadata": meta, "spec": {"selector": {"matchLabels": {"x": "y"}}, "template": template}});
    let flow = json!({"metadata": meta, "spec": {"priorityLevelConfiguration": {"name": "exempt"}}});
    for (collection, object, want) in [
        ("/apis/apps/v1/namespaces/default/replicasets", &apps, ("new", "new")),
        ("/apis/apps/v1/namespaces/default/deployments", &apps, ("old", "new")),
        ("/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas", &flow, ("old", "old")),
    ] {
        server.create(collection, object.clone()).await;
        let got = server.merge(&format!("{collection}/o/status"), &change).await.body;
        let got = (got["metadata"]["labels"]["l"].as_str(), got["metadata"]["annotations"]["a"].as_str());
        assert_eq!(got, (Some(want.0), Some(want.1)), "{collection}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_selected_by_the_fields_of_either_version() {
    let server = Server::start().await;
    let event = json!({"metadata": {"name": "e"}, "regarding": {"kind": "Pod", "name": "p", "namespace": "default"},
        "reportingController": "test-controller", "reportingInstance": "i", "action": "a", "reason": "r", "type": "Normal",
        "eventTime": "2026-01-02T03:04:05.000000Z"});
    let new = "/apis/events.k8s.io/v1/namespaces/default/events";
    let old = "/api/v1/namespaces/default/events";
    server.create(new, event).await;
    for (path, selector, want) in [
        (new, "reportingController=test-controller", 1),
        (new, "reportingController=another", 0),
        (new, "regarding.name=p,reason=r", 1),
        (old, "source=test-controller", 1),
        (old, "involvedObject.name!=p,reportingComponent=test-controller", 0),
    ] {
        let found = server.get(&format!("{path}?fieldSelector={selector}")).await.body;
        assert_eq!(found["items"].as_array().map(Vec::len), Some(want), "{selector}: {found}");
    }
    assert_eq!(server.get(&format!("{new}?fieldSelector=involvedObject.name=p")).await.code, 400);
}

/// A PEM request for a certificate, in base64.
fn certificate_request() -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let key = rcgen::KeyPair::generate().unwrap();
    STANDARD.encode(rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_request_changes_by_its_approval_and_its_status() {
    let server = Server::start().await;
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let object = |signer: &str, request: &str| json!({"metadata": {"name": "c"}, "spec": {"signerName": signer, "usages": ["client auth"], "request": request}});
    let pem = certificate_request();
    for (signer, request, why) in [
        ("example.com/a", "eA==", "PEM block type must be CERTIFICATE REQUEST"),
        ("nowhere", &*pem, "must be a fully qualified domain and path of the form 'example.com/signer-name'"),
        ("kubernetes.io/legacy-unknown", &*pem, "the legacy signerName is not allowed via this API version"),
    ] {
        let refused = server.post(requests, &object(signer, request)).await;
        assert!(refused.code == 422 && refused.text.contains(why), "{signer}: {}", refused.text);
    }
    let made = server.post(requests, &object("kubernetes.io/kube-apiserver-client", &pem)).await;
    assert!(made.code == 201 && !made.headers.contains_key("warning"), "{}", made.text);
    let path = format!("{requests}/c");
    // What is asked for stays, and nobody approves by the way.
    let change = json!({"spec": {"usages": ["server auth"]}, "status": {"conditions": [{"type": "Approved", "status": "True"}]}});
    let same = server.merge(&path, &change).await.body;
    assert_eq!((&same["spec"]["usages"], &same["status"]["conditions"]), (&json!(["client auth"]), &Value::Null), "{same}");
    let early = server.merge(&format!("{path}/status"), &json!({"status": change["status"]})).await;
    assert!(early.text.contains("updates may not add a condition of type"), "{}", early.text);
    let approved = server.merge(&format!("{path}/approval"), &json!({"status": change["status"]})).await.body;
    let condition = &approved["status"]["conditions"][0];
    assert!(condition["lastUpdateTime"].is_string() && condition["lastTransitionTime"].is_string(), "{approved}");
    let nonsense = server.merge(&format!("{path}/status"), &json!({"status": {"certificate": "eA=="}})).await;
    assert!(nonsense.text.contains("must contain at least one CERTIFICATE PEM block"), "{}", nonsense.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approval_takes_metadata_along_and_nothing_else() {
    let server = Server::start().await;
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let spec = json!({"signerName": "example.com/signer", "usages": ["client auth"], "request": certificate_request()});
    server.create(requests, json!({"metadata": {"name": "c"}, "spec": spec})).await;
    let condition = json!({"type": "Approved", "status": "True", "reason": "r"});
    let change = json!({"metadata": {"annotations": {"a": "b"}}, "status": {"conditions": [condition], "certificate": "eA=="}});
    let got = server.merge(&format!("{requests}/c/approval"), &change).await.body;
    assert_eq!((&got["metadata"]["annotations"]["a"], &got["status"]["certificate"]), (&json!("b"), &Value::Null), "{got}");
    assert_eq!(got["status"]["conditions"][0]["type"], "Approved");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_default_that_came_later_is_there_when_the_object_is_read() {
    let server = Server::start().await;
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let definition = |colour: Value| {
        json!({"metadata": {"name": "paints.example.com"}, "spec": {"group": "example.com",
        "scope": "Namespaced", "names": {"plural": "paints", "kind": "Paint"}, "versions": [{"name": "v1", "served": true,
        "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object",
        "default": {}, "properties": {"colour": colour}}}}}}]}})
    };
    server.create(definitions, definition(json!({"type": "string"}))).await;
    let paints = "/apis/example.com/v1/namespaces/default/paints";
    while server.get(paints).await.code == 404 {
        tokio::task::yield_now().await;
    }
    let object = json!({"apiVersion": "example.com/v1", "kind": "Paint", "metadata": {"name": "p"}});
    server.create(paints, object).await;
    let described = server.get("/openapi/v2").await.body;
    let metadata = &described["definitions"]["com.example.v1.Paint"]["properties"]["metadata"]["description"];
    assert!(metadata.as_str().unwrap().starts_with("Standard object's metadata."), "{metadata}");
    // A patch, since the definition's own controller may still be writing its status.
    let change = definition(json!({"type": "string", "default": "red"}));
    let changed = server.merge(&format!("{definitions}/paints.example.com"), &json!({"spec": change["spec"]})).await;
    assert_eq!(changed.code, 200, "{}", changed.text);
    while server.get(&format!("{paints}/p")).await.body["spec"]["colour"] != "red" {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.get(paints).await.body["items"][0]["spec"]["colour"], "red");
}
