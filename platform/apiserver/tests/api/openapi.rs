//! OpenAPI documents, in the forms clients ask for.

use http::{HeaderMap, Method, StatusCode};
use pharos_transport::Body;
use serde_json::Value;

use crate::common::{Server, admin};

async fn ask(server: &Server, path: &str, headers: &[(&str, &str)]) -> (StatusCode, HeaderMap, Vec<u8>) {
    let response = server.send(&admin(), Method::GET, path, headers, Body::empty()).await;
    let (head, body) = response.into_parts();
    (head.status, head.headers, body.into_bytes(64 << 20).await.unwrap().to_vec())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_come_as_json_and_as_protobuf() {
    let server = Server::start().await;
    let index = server.get("/openapi/v3").await.body;
    for path in ["api", "api/v1", "apis", "apis/apps", "apis/apps/v1", "version", "openid/v1/jwks"] {
        let url = index["paths"][path]["serverRelativeURL"].as_str().unwrap_or_default();
        let (code, headers, body) = ask(&server, url, &[]).await;
        assert_eq!(code, 200, "{path}: {url}");
        assert_eq!(headers["content-type"], "application/json", "{path}");
        assert_eq!(headers["cache-control"], "public, immutable, max-age=31536000", "{path}");
        let document: Value = serde_json::from_slice(&body).unwrap();
        assert!(document["paths"][format!("/{path}/")]["get"].is_object(), "{path}");
        let etag = headers["etag"].to_str().unwrap();
        assert_eq!(ask(&server, url, &[("if-none-match", etag)]).await.0, 304, "{path}");
    }
    assert_eq!(ask(&server, "/openapi/v3/apis/none", &[]).await.0, 404);

    for (path, version, first) in
        [("/openapi/v2", "v2", &b"\x0a\x032.0"[..]), ("/openapi/v3/apis/apps/v1", "v3", &b"\x0a\x053.0.0"[..])]
    {
        for separator in ['.', '@'] {
            let accept = format!("application/com.github.proto-openapi.spec.{version}{separator}v1.0+protobuf");
            let (code, headers, body) = ask(&server, path, &[("accept", &accept)]).await;
            assert_eq!(code, 200, "{accept}");
            let want = format!("application/com.github.proto-openapi.spec.{version}.v1.0+protobuf");
            assert_eq!(headers["content-type"], want.as_str(), "{accept}");
            assert!(body.windows(first.len()).any(|window| window == first), "{accept}: {:?}", &body[..16]);
        }
        assert_eq!(ask(&server, path, &[("accept", "text/html")]).await.0, 406, "{path}");
    }
}
