//! Paths that are not resources: version, health, metrics, OpenAPI, token issuer.

use std::collections::BTreeSet;

use http::{HeaderMap, Method, StatusCode};
use pharos_api::{openapi, registry::Registry};
use pharos_telemetry::health::Endpoint;
use pharos_transport::{Body, Response};
use serde_json::json;

use crate::{
    api::Api,
    authn::issuer::{DISCOVERY_PATH, JWKS_PATH},
    compress, discovery, negotiate,
    request::{Query, RequestInfo},
    resources::Document,
    respond,
    status::{self, Status},
};

/// The Kubernetes minor version whose behaviour this server has.
const MINOR: &str = "37";

/// Answers a request for something that is no resource.
pub(crate) async fn answer(
    api: &Api,
    method: &Method,
    info: &RequestInfo,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Response, Status> {
    let path = info.path.as_str();
    if method != Method::GET && method != Method::HEAD {
        return Err(match path {
            "/version" | "/livez" | "/readyz" | "/healthz" | "/metrics" => status::method_not_allowed(),
            _ => status::no_such_resource(),
        });
    }
    if let Some(answer) = discovery::answer(api, path, headers) {
        return answer;
    }
    match path {
        "/" => Ok(respond::json_document(StatusCode::OK, &json!({"paths": paths(api)}))),
        "/version" | "/version/" => Ok(respond::json_document(StatusCode::OK, &version(api.0.config.git_commit))),
        "/metrics" => match (api.0.gather)() {
            Ok(text) => Ok(respond::bytes(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "metrics cannot be encoded");
                Err(status::internal("metrics cannot be encoded"))
            }
        },
        "/openapi/v2" => openapi_v2(api, headers).await,
        "/openapi/v3" | "/openapi/v3/" => openapi_v3(api, headers).await,
        DISCOVERY_PATH => Ok(issuer(api, &api.0.issuer.discovery(), "application/json")),
        JWKS_PATH => Ok(issuer(api, &api.0.issuer.jwks(), "application/jwk-set+json")),
        _ => {
            if let Some(text) = api.0.flowcontrol.debug(path, query, &api.0.clock) {
                return Ok(respond::text(StatusCode::OK, text));
            }
            if let Some(rest) = path.strip_prefix("/openapi/v3/") {
                let mut response = openapi_v3_document(api, headers, rest).await?;
                let etag = response.headers().get(http::header::ETAG).and_then(|etag| etag.to_str().ok());
                // The index names the content; under that name it never changes.
                if query.get("hash").is_some_and(|hash| etag.is_some_and(|etag| etag.trim_matches('"') == hash)) {
                    let forever = http::HeaderValue::from_static("public, immutable, max-age=31536000");
                    response.headers_mut().insert(http::header::CACHE_CONTROL, forever);
                }
                return Ok(response);
            }
            health(api, path, query).unwrap_or_else(|| Err(status::no_such_resource()))
        }
    }
}

/// What `/version` says of a server that was built from a commit.
#[must_use]
pub fn version(git_commit: &str) -> serde_json::Value {
    json!({
        "major": "1",
        "minor": MINOR,
        "gitVersion": format!("v1.{MINOR}.0+pharos-{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": git_commit,
        "gitTreeState": "clean",
        "buildDate": option_env!("PHAROS_BUILD_DATE").unwrap_or("1970-01-01T00:00:00Z"),
        "goVersion": "none: written in Rust",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, architecture()),
    })
}

/// The architecture by Go's name, as Kubernetes writes it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn paths(api: &Api) -> Vec<String> {
    let mut paths: BTreeSet<String> = [
        "/.well-known/openid-configuration",
        "/api",
        "/apis",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ]
    .map(str::to_owned)
    .into();
    for kind in api.0.resources.registry().kinds() {
        if kind.group.is_empty() {
            paths.insert(format!("/api/{}", kind.version));
        } else {
            paths.insert(format!("/apis/{}", kind.group));
            paths.insert(format!("/apis/{}/{}", kind.group, kind.version));
        }
    }
    paths.extend(api.0.mounts.prefixes());
    paths.into_iter().collect()
}

fn health(api: &Api, path: &str, query: &Query) -> Option<Result<Response, Status>> {
    let mut parts = path.trim_start_matches('/').splitn(2, '/');
    let endpoint = match parts.next()? {
        "livez" => Endpoint::Livez,
        "readyz" => Endpoint::Readyz,
        "healthz" => Endpoint::Healthz,
        _ => return None,
    };
    let one = parts.next().filter(|name| !name.is_empty());
    let exclude: BTreeSet<String> = query.all("exclude").map(str::to_owned).collect();
    let verbose = query.get("verbose").is_some();
    Some(match api.0.health.report(endpoint, one, verbose, &exclude) {
        None => Err(status::no_such_resource()),
        Some((true, text)) => Ok(respond::text(StatusCode::OK, text)),
        Some((false, text)) => Ok(respond::text(StatusCode::INTERNAL_SERVER_ERROR, text)),
    })
}

fn issuer(api: &Api, document: &serde_json::Value, content_type: &'static str) -> Response {
    let _ = api;
    let mut response = respond::bytes(StatusCode::OK, content_type, document.to_string());
    response.headers_mut().insert(http::header::CACHE_CONTROL, http::HeaderValue::from_static("public, max-age=3600"));
    response
}

/// What Go clients ask for, and what is answered: `@` may not stand in a content type, so upstream writes a dot.
const OPENAPI_V2_PROTOBUF: [&str; 2] =
    ["application/com.github.proto-openapi.spec.v2.v1.0+protobuf", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"];

async fn openapi_v2(api: &Api, headers: &HeaderMap) -> Result<Response, Status> {
    for range in negotiate::ranges(headers) {
        let others = api.clone();
        match range.media.as_str() {
            "application/json" | "*/*" | "application/*" => {
                let make = move |registry: &Registry| Some(openapi::v2(registry, &others.0.aggregation.specifications()));
                let document = off_thread(api, "/openapi/v2", make).await?;
                return large(headers, document, "application/json").await;
            }
            media if OPENAPI_V2_PROTOBUF.contains(&media) => {
                let make =
                    move |registry: &Registry| Some(openapi::v2_protobuf(registry, &others.0.aggregation.specifications()));
                let document = off_thread(api, "/openapi/v2+protobuf", make).await?;
                return large(headers, document, OPENAPI_V2_PROTOBUF[0]).await;
            }
            _ => {}
        }
    }
    Err(status::not_acceptable())
}

/// The same of version 3.
const OPENAPI_V3_PROTOBUF: [&str; 2] =
    ["application/com.github.proto-openapi.spec.v3.v1.0+protobuf", "application/com.github.proto-openapi.spec.v3@v1.0+protobuf"];

/// The index of version 3, which is JSON for all.
async fn openapi_v3(api: &Api, headers: &HeaderMap) -> Result<Response, Status> {
    let mut document = off_thread(api, "/openapi/v3", |registry| Some(openapi::v3_index(registry))).await?;
    let others = api.0.aggregation.served();
    if !others.is_empty() {
        let mut index: serde_json::Value = serde_json::from_slice(&document.body).map_err(status::internal)?;
        for (remote, found) in others {
            if let Some(entry) = &found.openapi {
                index["paths"][format!("apis/{}/{}", remote.group, remote.version)] = entry.clone();
            }
        }
        document = discovery::document(&index);
    }
    large(headers, document, "application/json").await
}

/// One document of version 3, by its path in the index.
async fn openapi_v3_document(api: &Api, headers: &HeaderMap, path: &str) -> Result<Response, Status> {
    let path = path.trim_end_matches('/').to_owned();
    let key = format!("/openapi/v3/{path}");
    for range in negotiate::ranges(headers) {
        match range.media.as_str() {
            "application/json" | "*/*" | "application/*" => {
                let document = off_thread(api, &key, move |registry| openapi::v3(registry, &path)).await?;
                return large(headers, document, "application/json").await;
            }
            media if OPENAPI_V3_PROTOBUF.contains(&media) => {
                let key = format!("{key}+protobuf");
                let document = off_thread(api, &key, move |registry| openapi::v3_protobuf(registry, &path)).await?;
                return large(headers, document, OPENAPI_V3_PROTOBUF[0]).await;
            }
            _ => {}
        }
    }
    Err(status::not_acceptable())
}

/// A document, for clients that read it so in the compressed form that is kept beside it.
async fn large(headers: &HeaderMap, document: Document, content_type: &'static str) -> Result<Response, Status> {
    let mut response = discovery::with_etag(headers, &document, content_type);
    if response.status() != StatusCode::OK || !compress::is_large(&document.body) || !compress::accepted(headers) {
        return Ok(response);
    }
    let make = move || document.compressed.get_or_init(|| compress::whole(&document.body)).clone();
    let compressed = tokio::task::spawn_blocking(make).await.map_err(|_| status::internal("the document was not compressed"))?;
    compress::label(response.headers_mut());
    Ok(response.map(|_| Body::full(compressed)))
}

/// Makes a large document on a thread where that disturbs nobody, unless it is there.
async fn off_thread(
    api: &Api,
    path: &str,
    make: impl FnOnce(&Registry) -> Option<openapi::Document> + Send + 'static,
) -> Result<Document, Status> {
    let (api, path) = (api.clone(), path.to_owned());
    let made = tokio::task::spawn_blocking(move || {
        api.0.resources.document(&path, |registry| make(registry).map(|document| Document::new(document.body, document.etag)))
    })
    .await
    .map_err(|_| status::internal("the document could not be made"))?;
    made.ok_or_else(status::no_such_resource)
}
