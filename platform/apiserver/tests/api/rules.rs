//! Validation rules of custom resources.

use std::time::Duration;

use serde_json::{Value, json};

use crate::common::Server;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const THINGS: &str = "/apis/example.com/v1/namespaces/default/things";

fn definition(rules: &Value) -> Value {
    let spec = json!({"type": "object", "required": ["replicas"], "x-kubernetes-validations": rules, "properties": {
        "replicas": {"type": "integer"}, "min": {"type": "integer"}, "name": {"type": "string", "maxLength": 20},
        "host": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "host is immutable"}]}}});
    let status = json!({"type": "object", "properties": {"ready": {"type": "integer",
        "x-kubernetes-validations": [{"rule": "self >= 0"}]}}});
    let schema = json!({"type": "object", "properties": {"spec": spec, "status": status},
        "x-kubernetes-validations": [{"rule": "self.metadata.name.size() < 10", "message": "name is too long"}]});
    let version = json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}}});
    json!({"metadata": {"name": "things.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "things", "kind": "Thing"}, "versions": [version]}})
}

fn thing(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": name}, "spec": spec})
}

/// A server with the definition served.
async fn server(rules: Value) -> Server {
    let server = Server::start().await;
    let made = server.post(DEFINITIONS, &definition(&rules)).await;
    assert_eq!(made.code, 201, "{}", made.body);
    assert!(made.headers.get("warning").is_none(), "rules are evaluated");
    let waiting = async {
        while server.get(THINGS).await.code != 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("the definition is served");
    server
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_are_held_to_rules() {
    let rules = json!([
        {"rule": "!has(self.min) || self.min <= self.replicas", "message": "replicas must be at least min", "fieldPath": ".replicas"},
        {"rule": "!has(self.name) || !format.dns1123Label().validate(self.name).hasValue()"},
    ]);
    let server = server(rules).await;
    let refused = server.post(THINGS, &thing("a", json!({"replicas": 1, "min": 2, "name": "NO"}))).await;
    assert_eq!(refused.code, 422);
    let causes = refused.body["details"]["causes"].as_array().unwrap();
    assert_eq!(causes.len(), 2, "{}", refused.body);
    assert_eq!(causes[0]["field"], "spec.replicas");
    assert_eq!(causes[0]["message"], "Invalid value: replicas must be at least min");
    assert_eq!(causes[0]["reason"], "FieldValueInvalid");
    assert!(causes[1]["message"].as_str().unwrap().starts_with("Invalid value: failed rule: !has(self.name)"));
    let long = server.post(THINGS, &thing("much-too-long", json!({"replicas": 1}))).await;
    assert_eq!(long.body["details"]["causes"][0]["field"], "<nil>");
    // What breaks the schema itself comes first.
    let broken = server.post(THINGS, &thing("a", json!({"min": 2}))).await;
    assert_eq!(broken.code, 422);
    assert!(broken.body["message"].as_str().unwrap().contains("some validation rules were not checked"), "{}", broken.body);

    server.create(THINGS, thing("a", json!({"replicas": 3, "min": 2, "host": "h"}))).await;
    let path = format!("{THINGS}/a");
    let moved = server.merge(&path, &json!({"spec": {"host": "other"}})).await;
    assert_eq!(moved.code, 422);
    assert_eq!(moved.body["details"]["causes"][0]["message"], "Invalid value: \"other\": host is immutable");
    assert_eq!(server.merge(&path, &json!({"spec": {"replicas": 4}})).await.code, 200);
    let status = server.merge(&format!("{path}/status"), &json!({"status": {"ready": -1}})).await;
    assert_eq!(status.code, 422);
    assert_eq!(server.merge(&format!("{path}/status"), &json!({"status": {"ready": 1}})).await.code, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_mistakes_are_warned_of() {
    let server = server(json!([])).await;
    server.create(THINGS, thing("a", json!({"replicas": 1, "min": 2}))).await;
    let stricter = definition(&json!([{"rule": "!has(self.min) || self.min <= self.replicas"}]));
    let versions = json!({"spec": {"versions": stricter["spec"]["versions"]}});
    let patched = server.merge(&format!("{DEFINITIONS}/things.example.com"), &versions).await;
    assert_eq!(patched.code, 200, "{}", patched.body);
    let path = format!("{THINGS}/a");
    let waiting = async {
        // Served anew once its event has come round.
        while server.post(THINGS, &thing("probe", json!({"replicas": 1, "min": 2}))).await.code != 422 {
            server.delete(&format!("{THINGS}/probe")).await;
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("the rule is in force");
    let labelled = server.merge(&path, &json!({"metadata": {"labels": {"a": "b"}}})).await;
    assert_eq!(labelled.code, 200, "{}", labelled.body);
    let warning = labelled.headers.get("warning").unwrap().to_str().unwrap();
    assert!(warning.contains("failed rule"), "{warning}");
    assert_eq!(server.merge(&path, &json!({"spec": {"min": 3}})).await.code, 422);
    assert_eq!(server.merge(&path, &json!({"spec": {"min": 1}})).await.code, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn definitions_with_broken_rules_are_refused() {
    let server = Server::start().await;
    let refused = server.post(DEFINITIONS, &definition(&json!([{"rule": "self.replica > 0"}]))).await;
    assert_eq!(refused.code, 422);
    let cause = &refused.body["details"]["causes"][0];
    assert_eq!(cause["field"], "spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule");
    let message = cause["message"].as_str().unwrap();
    assert!(
        message.ends_with("compilation failed: ERROR: <input>:1:5: undefined field 'replica'\n | self.replica > 0\n | ....^"),
        "{message}"
    );
}
