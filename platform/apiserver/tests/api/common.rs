//! An API server over a store in a temporary directory, and short ways to ask it things.

use std::sync::Arc;

use http::{Method, StatusCode};
use pharos_apiserver::{
    Api, Config, Parts,
    authn::{
        self, UserInfo,
        issuer::{self, TokenIssuer},
        jws::SigningKey,
    },
};
use pharos_store::Embedded;
use pharos_telemetry::{Clock, Component as _, Ctx, health::Health};
use pharos_transport::{Body, Response};
use prometheus::Registry;
use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tower::Service as _;

/// A running API server.
pub(crate) struct Server {
    pub(crate) api: Api,
    /// What it measures.
    pub(crate) registry: Registry,
    ctx: Ctx,
    stop: CancellationToken,
    _dir: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// An answer, read whole.
pub(crate) struct Answer {
    pub(crate) code: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Value,
    pub(crate) text: String,
}

impl Server {
    /// Starts one and waits until it is ready.
    pub(crate) async fn start() -> Server {
        Self::start_with(Config::default()).await
    }

    /// Starts one with these settings and waits until it is ready.
    pub(crate) async fn start_with(settings: Config) -> Server {
        Self::start_believing(settings, authn::Config::default()).await
    }

    /// Starts one that believes these credentials and waits until it is ready.
    pub(crate) async fn start_believing(settings: Config, authn: authn::Config) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::new();
        let clock = Clock::system();
        let config = pharos_store::Config { dir: dir.path().join("store"), ..pharos_store::Config::default() };
        let store = Embedded::open(config, clock.clone(), pharos_store::Metrics::new(&registry).unwrap()).unwrap();
        let key = SigningKey::from_pkcs8(&SigningKey::generate().unwrap()).unwrap();
        let issuer = TokenIssuer::new(issuer::Config::for_domain("cluster.local"), key, Vec::new(), clock.clone());
        let parts = Parts {
            store,
            authn,
            issuer: Arc::new(issuer),
            health: Health::default(),
            gather: Arc::new(|| Ok(String::new())),
            clock,
        };
        let api = Api::new(settings, parts, &registry).await.unwrap();
        let stop = CancellationToken::new();
        let ctx = Ctx::for_test(stop.clone());
        let (running, context) = (api.clone(), ctx.clone());
        ctx.spawn("apiserver", async move { running.run(context).await.unwrap() });
        let server = Server { api, registry, ctx, stop, _dir: dir };
        server.until_ready().await;
        server
    }

    async fn until_ready(&self) {
        // Bootstrap ends with the endpoints of the `kubernetes` Service.
        let path =
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?watch=true&fieldSelector=metadata.name=kubernetes";
        let response = self.send(&admin(), Method::GET, path, &[], Body::empty()).await;
        let mut stream = response.into_body().into_stream();
        futures::StreamExt::next(&mut stream).await;
        while !self.ctx.is_ready() {
            tokio::task::yield_now().await;
        }
    }

    /// Sends a request as a user.
    pub(crate) async fn send(
        &self,
        user: &UserInfo,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Response {
        let mut request = http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.api.service(user.clone()).call(request.body(body.into()).unwrap()).await.unwrap()
    }

    /// Sends a request as an administrator and reads the answer.
    pub(crate) async fn ask(&self, method: Method, path: &str, content_type: &str, body: impl Into<Body>) -> Answer {
        read(self.send(&admin(), method, path, &[("content-type", content_type)], body).await).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, "", Body::empty()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask(Method::POST, path, "application/json", body.to_string()).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.ask(Method::PUT, path, "application/json", body.to_string()).await
    }

    pub(crate) async fn merge(&self, path: &str, body: &Value) -> Answer {
        self.ask(Method::PATCH, path, "application/merge-patch+json", body.to_string()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.ask(Method::DELETE, path, "", Body::empty()).await
    }

    /// Creates something that has to succeed.
    pub(crate) async fn create(&self, path: &str, body: Value) -> Value {
        let answer = self.post(path, &body).await;
        assert_eq!(answer.code, 201, "{path}: {}", answer.text);
        answer.body
    }
}

/// Someone who may do everything.
pub(crate) fn admin() -> UserInfo {
    UserInfo::new("admin", ["system:masters"])
}

/// Reads an answer whole.
pub(crate) async fn read(response: Response) -> Answer {
    let (head, body) = response.into_parts();
    let bytes = body.into_bytes(64 << 20).await.unwrap();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    Answer { code: head.status, headers: head.headers, body, text }
}
