//! Custom resources in several versions, converted by a webhook.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::time::Duration;

use futures::StreamExt as _;

use crate::{common::Server, objects::watch, remote::Remote};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const V1: &str = "/apis/example.com/v1/namespaces/default/things";
const V2: &str = "/apis/example.com/v2/namespaces/default/things";

/// The versions of upstream's conformance test: v1 has `hostPort`, v2 `host` and `port`.
fn definition(stored: &str, conversion: Value) -> Value {
    let version = |name: &str, properties: Value| {
        json!({"name": name, "served": true, "storage": name == stored, "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}}})
    };
    let text = json!({"type": "string"});
    let versions = [version("v1", json!({"hostPort": text})), version("v2", json!({"host": text, "port": text}))];
    json!({"metadata": {"name": "things.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "things", "kind": "Thing"}, "versions": versions, "conversion": conversion}})
}

fn convert(review: &Value) -> Value {
    let desired = review["request"]["desiredAPIVersion"].as_str().unwrap();
    let convert = |object: &Value| {
        let mut object = object.clone();
        object["apiVersion"] = json!(desired);
        let fields = object.as_object_mut().unwrap();
        if desired == "example.com/v2" {
            if let Some(both) = fields.remove("hostPort") {
                let (host, port) = both.as_str().unwrap().split_once(':').unwrap();
                fields.insert("host".into(), json!(host));
                fields.insert("port".into(), json!(port));
            }
        } else if let (Some(host), Some(port)) = (fields.remove("host"), fields.remove("port")) {
            fields.insert("hostPort".into(), json!(format!("{}:{}", host.as_str().unwrap(), port.as_str().unwrap())));
        }
        object
    };
    let objects: Vec<Value> = review["request"]["objects"].as_array().unwrap().iter().map(convert).collect();
    json!({"apiVersion": review["apiVersion"], "kind": "ConversionReview", "response": {
        "uid": review["request"]["uid"], "convertedObjects": objects, "result": {"status": "Success"}}})
}

/// Waits until both versions are served and objects are stored in that one.
async fn served(server: &Server, stored: &str) {
    let waiting = async {
        loop {
            let definition = server.get(&format!("{DEFINITIONS}/things.example.com")).await.body;
            let versions = definition["status"]["storedVersions"].as_array().cloned().unwrap_or_default();
            if versions.contains(&json!(stored)) && server.get("/apis/example.com/v2").await.code == 200 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("the definition is served");
}

fn thing(version: &str, name: &str, fields: Value) -> Value {
    let mut thing = json!({"apiVersion": format!("example.com/{version}"), "kind": "Thing", "metadata": {"name": name}});
    pharos_api::patch::merge::merge(&mut thing, &fields);
    thing
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_are_converted_by_the_webhook() {
    let server = Server::start().await;
    let remote = Remote::start(|_, review| async move { convert(&review) }).await;
    let webhook = json!({"strategy": "Webhook", "webhook": {
        "clientConfig": remote.client_config("/crdconvert"), "conversionReviewVersions": ["v1", "v1beta1"]}});
    server.create(DEFINITIONS, definition("v1", webhook)).await;
    served(&server, "v1").await;

    // Written and read as stored, nobody is asked.
    server.create(V1, thing("v1", "a", json!({"hostPort": "h:1"}))).await;
    assert_eq!(server.get(&format!("{V1}/a")).await.body["hostPort"], "h:1");
    assert!(remote.take().await.is_empty());

    let read = server.get(&format!("{V2}/a")).await.body;
    assert_eq!((&read["apiVersion"], &read["host"], &read["port"]), (&json!("example.com/v2"), &json!("h"), &json!("1")));
    assert!(read["hostPort"].is_null());
    let mut events = watch(&server, &format!("{V2}?watch=true")).await;
    let event = events.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["host"]), (&json!("ADDED"), &json!("h")));

    // Written in the other version, it is stored in the first.
    let made = server.create(V2, thing("v2", "b", json!({"host": "i", "port": "2"}))).await;
    assert_eq!((&made["apiVersion"], &made["host"]), (&json!("example.com/v2"), &json!("i")));
    assert_eq!(events.next().await.unwrap()["object"]["port"], "2");
    remote.take().await;
    assert_eq!(server.get(&format!("{V1}/b")).await.body["hostPort"], "i:2");
    assert!(remote.take().await.is_empty());
    let changed = server.merge(&format!("{V2}/b"), &json!({"port": "3"})).await;
    assert_eq!(changed.body["port"], "3", "{}", changed.text);
    assert_eq!(events.next().await.unwrap()["object"]["port"], "3");

    // From now on, objects are stored in v2, and a list holds both.
    let mut now = server.get(&format!("{DEFINITIONS}/things.example.com")).await.body;
    now["spec"]["versions"][0]["storage"] = json!(false);
    now["spec"]["versions"][1]["storage"] = json!(true);
    // A patch, here and below, since the definition's own controller may still be writing its status.
    let versions = json!({"spec": {"versions": now["spec"]["versions"]}});
    let answer = server.merge(&format!("{DEFINITIONS}/things.example.com"), &versions).await;
    assert_eq!(answer.code, 200, "{}", answer.text);
    served(&server, "v2").await;
    let made = server.create(V2, thing("v2", "c", json!({"host": "j", "port": "4"}))).await;
    assert_eq!(made["host"], "j");
    remote.take().await;
    let list = server.get(V2).await.body;
    let hosts: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|item| &item["host"]).collect();
    assert_eq!(hosts, [&json!("h"), &json!("i"), &json!("j")]);
    let seen = remote.take().await;
    assert_eq!((seen.len(), seen[0].0.as_str()), (1, "/crdconvert?timeout=30s"), "one question for the whole list");
    assert_eq!(seen[0].1["request"]["objects"].as_array().unwrap().len(), 2);
    let list = server.get(V1).await.body;
    assert!(list["items"].as_array().unwrap().iter().all(|item| item["hostPort"].is_string()), "{list}");

    // A write that changes nothing brings an object into today's version.
    remote.take().await;
    let one = server.get(&format!("{V2}/a")).await.body;
    let again = server.put(&format!("{V2}/a"), &one).await.body;
    assert_ne!(again["metadata"]["resourceVersion"], one["metadata"]["resourceVersion"]);
    remote.take().await;
    assert_eq!(server.get(&format!("{V2}/a")).await.body["host"], "h");
    assert!(remote.take().await.is_empty(), "stored as it is served");

    let mut gone = server.get(&format!("{DEFINITIONS}/things.example.com")).await.body;
    gone["spec"]["versions"].as_array_mut().unwrap().remove(0);
    let versions = json!({"spec": {"versions": gone["spec"]["versions"]}});
    let answer = server.merge(&format!("{DEFINITIONS}/things.example.com"), &versions).await;
    assert!(
        answer.text.contains("status.storedVersions[0]: Invalid value: \\\"v1\\\": must appear in spec.versions"),
        "{}",
        answer.text
    );
    assert_eq!(server.delete(&format!("{V1}/b")).await.code, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_webhook_the_name_changes() {
    let server = Server::start().await;
    server.create(DEFINITIONS, definition("v1", json!({"strategy": "None"}))).await;
    served(&server, "v1").await;
    server.create(V1, thing("v1", "a", json!({"hostPort": "h:1"}))).await;
    let read = server.get(&format!("{V2}/a")).await.body;
    assert_eq!(read["apiVersion"], "example.com/v2");
    assert!(read["hostPort"].is_null(), "v2 has no such field: {read}");
    assert_eq!(server.get(&format!("{V1}/a")).await.body["hostPort"], "h:1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_conversions_are_told() {
    let server = Server::start().await;
    let remote = Remote::start(|_, review| async move {
        json!({"apiVersion": review["apiVersion"], "kind": "ConversionReview", "response": {
            "uid": review["request"]["uid"], "result": {"status": "Failed", "message": "cannot do"}}})
    })
    .await;
    let webhook = |versions: Value| {
        let bundle = STANDARD.encode(remote.ca.certificate_pem());
        let url = format!("https://{}/", remote.address);
        json!({"strategy": "Webhook", "webhook": {"clientConfig": {"url": url, "caBundle": bundle}, "conversionReviewVersions": versions}})
    };
    for (conversion, wanted) in [
        (webhook(json!(["v7"])), "spec.conversion.webhook.conversionReviewVersions: Invalid value"),
        (
            json!({"strategy": "Webhook"}),
            "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook",
        ),
        (json!({"strategy": "Magic"}), "spec.conversion.strategy: Unsupported value: \\\"Magic\\\""),
    ] {
        let answer = server.post(DEFINITIONS, &definition("v1", conversion)).await;
        assert_eq!(answer.code, 422);
        assert!(answer.text.contains(wanted), "{}", answer.text);
    }
    server.create(DEFINITIONS, definition("v1", webhook(json!(["v1"])))).await;
    served(&server, "v1").await;
    server.create(V1, thing("v1", "a", json!({"hostPort": "h:1"}))).await;
    let answer = server.get(&format!("{V2}/a")).await;
    assert_eq!(answer.code, 500);
    assert_eq!(
        answer.body["message"],
        "Internal error occurred: conversion webhook for example.com/v1, Kind=Thing failed: cannot do"
    );
    let mut events = watch(&server, &format!("{V2}?watch=true")).await;
    assert_eq!(events.next().await.unwrap()["type"], "ERROR");
}
