//! Large answers for clients that read gzip.

use std::io::Read as _;

use http::{HeaderMap, Method, StatusCode};
use pharos_transport::Body;
use serde_json::{Value, json};

use crate::common::{Server, admin};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn ask(server: &Server, path: &str, accept_encoding: &str) -> (HeaderMap, Vec<u8>) {
    let response = server.send(&admin(), Method::GET, path, &[("accept-encoding", accept_encoding)], Body::empty()).await;
    assert_eq!(response.status(), StatusCode::OK, "{path}");
    let (head, body) = response.into_parts();
    (head.headers, body.into_bytes(64 << 20).await.unwrap().to_vec())
}

fn unzip(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
    plain
}

/// What an answer says; a list but for its revision, which others raise.
fn said(body: &[u8]) -> Value {
    let mut value: Value = serde_json::from_slice(body).unwrap();
    if value["items"].is_array() {
        value["metadata"] = Value::Null;
    }
    value
}

/// What `path` answers is the same for all, and compressed for those who ask for that.
async fn check(server: &Server, path: &str, compressed: bool) {
    let (headers, plain) = ask(server, path, "identity").await;
    assert!(!headers.contains_key("content-encoding"), "{path}");
    let (headers, body) = ask(server, path, "deflate, gzip").await;
    assert_eq!(headers.get("content-encoding").is_some_and(|value| value == "gzip"), compressed, "{path}");
    if compressed {
        assert!(headers.get_all("vary").iter().any(|value| value == "Accept-Encoding"), "{path}");
        assert!(body.len() < plain.len() / 2, "{path}");
        assert!(said(&unzip(&body)) == said(&plain), "{path}");
    } else {
        assert!(body == plain, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_answers_are_compressed() {
    let server = Server::start().await;
    for name in ["a", "b"] {
        let text = "all work and no play ".repeat(5000);
        server.create(MAPS, json!({"metadata": {"name": name}, "data": {"text": text}})).await;
    }
    check(&server, MAPS, true).await;
    check(&server, &format!("{MAPS}/a"), false).await; // It has 105 kB.
    check(&server, "/openapi/v2", true).await;
    check(&server, "/openapi/v3/apis/apps/v1", true).await;
    check(&server, "/version", false).await;

    let (_, body) = ask(&server, MAPS, "gzip").await;
    let list: Value = serde_json::from_slice(&unzip(&body)).unwrap();
    assert_eq!(list["items"].as_array().unwrap().len(), 2);

    let watch = format!("{MAPS}?watch=true&timeoutSeconds=1");
    let response = server.send(&admin(), Method::GET, &watch, &[("accept-encoding", "gzip")], Body::empty()).await;
    assert!(!response.headers().contains_key("content-encoding"));
}
