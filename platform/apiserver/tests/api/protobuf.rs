//! `application/vnd.kubernetes.protobuf`, as client-go asks for it.

use futures::StreamExt as _;
use http::Method;
use pharos_api::protobuf::decode;
use pharos_transport::Body;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use crate::common::{Server, admin};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const BOTH: &str = "application/vnd.kubernetes.protobuf,application/json";

/// The content type and the body.
async fn ask(server: &Server, path: &str, accept: &str) -> (u16, String, Vec<u8>) {
    let response = server.send(&admin(), Method::GET, path, &[("accept", accept)], Body::empty()).await;
    let code = response.status().as_u16();
    let content_type = response.headers()["content-type"].to_str().unwrap().to_owned();
    (code, content_type, response.into_body().into_bytes(64 << 20).await.unwrap().to_vec())
}

async fn object(server: &Server, path: &str, accept: &str) -> (u16, Value) {
    let (code, content_type, body) = ask(server, path, accept).await;
    assert_eq!(content_type, PROTOBUF, "{path}");
    (code, decode(&body, None).unwrap().value)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_lists_and_refusals() {
    let server = Server::start().await;
    for name in ["a", "b"] {
        server.create(MAPS, json!({"metadata": {"name": name}, "data": {"k": name}})).await;
    }
    let path = format!("{MAPS}/a");
    let mut want = server.get(&path).await.body;
    assert_eq!(object(&server, &path, BOTH).await, (200, want.clone()));

    let (code, list) = object(&server, MAPS, PROTOBUF).await;
    let again = object(&server, MAPS, PROTOBUF).await.1;
    let as_json = server.get(MAPS).await.body;
    assert_eq!((code, list["kind"].as_str()), (200, Some("ConfigMapList")));
    assert_eq!((&list, &list["metadata"]), (&again, &as_json["metadata"]));
    for field in ["apiVersion", "kind"] {
        want.as_object_mut().unwrap().remove(field); // Items of a list don't say what they are.
    }
    assert_eq!(list["items"].as_array().map(Vec::len), Some(2), "{list}");
    assert_eq!(list["items"].as_array().unwrap().iter().find(|item| item["metadata"]["name"] == "a"), Some(&want));

    let (code, refusal) = object(&server, &format!("{MAPS}/none"), BOTH).await;
    assert_eq!((code, &refusal["reason"], &refusal["kind"]), (404, &json!("NotFound"), &json!("Status")));
    let (_, content_type, body) = ask(&server, &path, &format!("{PROTOBUF};as=PartialObjectMetadata;g=meta.k8s.io;v=v1")).await;
    assert_eq!(content_type, PROTOBUF);
    assert!(body.windows(21).any(|part| part == b"PartialObjectMetadata"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_such_form_comes_as_json_or_not_at_all() {
    let server = Server::start().await;
    let definition = json!({"metadata": {"name": "things.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "things", "kind": "Thing"}, "versions": [{"name": "v1", "served": true, "storage": true,
        "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}});
    server.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).await;
    let things = "/apis/example.com/v1/namespaces/default/things";
    while server.get(things).await.code == 404 {
        tokio::task::yield_now().await;
    }
    assert_eq!(ask(&server, things, BOTH).await.1, "application/json");
    assert_eq!(ask(&server, things, PROTOBUF).await.0, 406);
    let table = format!("{PROTOBUF};as=Table;g=meta.k8s.io;v=v1,application/json;as=Table;g=meta.k8s.io;v=v1");
    assert_eq!(ask(&server, MAPS, &table).await.1, "application/json");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_send_frames() {
    let server = Server::start().await;
    server.create(MAPS, json!({"metadata": {"name": "a"}})).await;
    let path = format!("{MAPS}?watch=true&fieldSelector=metadata.name%3Da");
    let response = server.send(&admin(), Method::GET, &path, &[("accept", BOTH)], Body::empty()).await;
    assert_eq!(response.headers()["content-type"], "application/vnd.kubernetes.protobuf;stream=watch");
    let mut stream = response.into_body().into_stream();
    let mut bytes = Vec::new();
    let mut next = async || loop {
        if let Some((length, rest)) = bytes.split_first_chunk::<4>()
            && let Some(frame) = rest.get(..u32::from_be_bytes(*length) as usize)
        {
            let frame = frame.to_vec();
            bytes.drain(..frame.len() + 4);
            return frame;
        }
        bytes.extend_from_slice(&stream.next().await.unwrap().unwrap());
    };
    let names = |frame: &[u8], event: &str| {
        let at = frame.windows(4).position(|part| part == b"k8s\0").unwrap();
        assert!(frame[..at].windows(event.len()).any(|part| part == event.as_bytes()), "{frame:?}");
        decode(&frame[at..], None).unwrap().value["metadata"]["name"].clone()
    };
    assert_eq!(names(&next().await, "ADDED"), "a");
    server.merge(&format!("{MAPS}/a"), &json!({"data": {"x": "y"}})).await;
    assert_eq!(names(&next().await, "MODIFIED"), "a");
    server.delete(&format!("{MAPS}/a")).await;
    assert_eq!(names(&next().await, "DELETED"), "a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn discovery_comes_as_protobuf() {
    let server = Server::start().await;
    for path in ["/api", "/apis", "/api/v1", "/apis/apps", "/apis/apps/v1"] {
        let (code, content_type, body) = ask(&server, path, BOTH).await;
        assert_eq!((code, content_type.as_str()), (200, PROTOBUF), "{path}");
        assert!(body.starts_with(b"k8s\0"), "{path}");
        let (_, content_type, _) = ask(&server, path, "application/json, application/vnd.kubernetes.protobuf").await;
        assert_eq!(content_type, "application/json", "{path}");
    }
    for version in ["v2", "v2beta1"] {
        let accept = format!("{PROTOBUF};g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
        let (code, content_type, body) = ask(&server, "/apis", &format!("{accept},application/json")).await;
        assert_eq!((code, &content_type), (200, &accept));
        assert!(body.windows(10).any(|window| window == b"daemonsets"));
        // What has no other form is answered plainly.
        let (_, content_type, _) = ask(&server, "/apis/apps/v1", &format!("{accept},application/json")).await;
        assert_eq!(content_type, "application/json");
    }
}

/// The first message of a watch over a WebSocket, and its opcode; `None` if nobody may watch.
async fn first_message(server: &Server, accept: &str) -> Option<(u8, Vec<u8>)> {
    let (mut client, io) = tokio::io::duplex(1 << 16);
    let request = http::Request::get(format!("{MAPS}?watch=true"))
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("accept", accept)
        .body(())
        .unwrap();
    let reading = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await.unwrap());
        }
        if !head.starts_with(b"HTTP/1.1 101 ") {
            return None;
        }
        let opcode = client.read_u8().await.unwrap() & 0x0f;
        let length = match client.read_u8().await.unwrap() {
            126 => usize::from(client.read_u16().await.unwrap()),
            length => usize::from(length),
        };
        let mut message = vec![0; length];
        client.read_exact(&mut message).await.unwrap();
        Some((opcode, message))
    };
    tokio::select! {
        found = reading => found,
        () = server.api.upgrade(request, Box::new(io)) => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_over_a_websocket_are_text_or_protobuf() {
    let server = Server::start().await;
    server.create(MAPS, json!({"metadata": {"name": "a"}, "data": {"k": "v"}})).await;
    let rules = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["watch"]}]);
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    server.create(&format!("{rbac}/clusterroles"), json!({"metadata": {"name": "watch"}, "rules": rules})).await;
    let binding = json!({"metadata": {"name": "watch"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "watch"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:anonymous"}]});
    server.create(&format!("{rbac}/clusterrolebindings"), binding).await;
    let allowed = async {
        loop {
            if let Some(message) = first_message(&server, "*/*").await {
                return message;
            }
            tokio::task::yield_now().await;
        }
    };
    let (opcode, message) = tokio::time::timeout(std::time::Duration::from_secs(20), allowed).await.expect("it is allowed");
    let event: Value = serde_json::from_slice(&message).unwrap();
    assert_eq!((opcode, &event["type"], &event["object"]["data"]["k"]), (1, &json!("ADDED"), &json!("v")));

    let (opcode, message) = first_message(&server, PROTOBUF).await.expect("an event");
    assert_eq!((opcode, &message[..7]), (2, &b"\x0a\x05ADDED"[..]));
    let at = message.windows(4).position(|window| window == b"k8s\0").expect("an object");
    assert_eq!(decode(&message[at..], None).unwrap().value["data"]["k"], "v");
}
