//! A server the API server calls, with TLS, on loopback.

use std::{net::SocketAddr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::future::BoxFuture;
use pharos_telemetry::Clock;
use pharos_transport::{
    Body, Front, FrontConfig, Handler, Io, Limits, Request, Response, Tls,
    pki::{Ca, Identity, Template},
};
use rustls::RootCertStore;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

type Answer = Arc<dyn Fn(String, Value) -> BoxFuture<'static, Value> + Send + Sync>;

/// A running server.
pub(crate) struct Remote {
    pub(crate) address: SocketAddr,
    pub(crate) ca: Arc<Ca>,
    seen: Arc<Mutex<Vec<(String, Value)>>>,
    stop: CancellationToken,
    _dir: TempDir,
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Handling {
    answer: Answer,
    seen: Arc<Mutex<Vec<(String, Value)>>>,
}

#[async_trait::async_trait]
impl Handler for Handling {
    async fn handle(&self, request: Request) -> Response {
        let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
        let bytes = request.into_body().into_bytes(16 << 20).await.unwrap();
        let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        self.seen.lock().await.push((path.clone(), body.clone()));
        Response::new(Body::full((self.answer)(path, body).await.to_string()))
    }

    async fn upgrade(&self, _: http::Request<()>, _: Io) {}
}

impl Remote {
    /// Starts one that answers each document posted to it, and null for a GET. Its certificate is for 127.0.0.1 and `hook.test.svc`.
    pub(crate) async fn start<F>(answer: impl Fn(String, Value) -> F + Send + Sync + 'static) -> Remote
    where
        F: Future<Output = Value> + Send + 'static,
    {
        let seen = Arc::default();
        let answer: Answer = Arc::new(move |path, body| Box::pin(answer(path, body)));
        Self::serve(Arc::new(Handling { answer, seen: Arc::clone(&seen) }), seen, None).await
    }

    /// Starts one with a handler of its own; clients are asked for certificates of these roots.
    pub(crate) async fn serve(
        handler: Arc<dyn Handler>,
        seen: Arc<Mutex<Vec<(String, Value)>>>,
        client_roots: Option<Arc<RootCertStore>>,
    ) -> Remote {
        let dir = tempfile::tempdir().unwrap();
        let ca = Arc::new(Ca::load_or_create(dir.path(), "ca", "remote", Clock::system()).unwrap());
        let names = vec!["hook.test.svc".to_owned()];
        let template = Template::server("remote", names, vec!["127.0.0.1".parse().unwrap()]);
        let identity = Identity::load_or_issue(ca.clone(), dir.path(), "server", template).unwrap();
        let front = Front::bind(FrontConfig {
            addresses: vec![SocketAddr::from(([0, 0, 0, 0], 0))],
            tls: Some(Tls { certificate: identity, client_roots }),
            limits: Limits::default(),
        })
        .await
        .unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], front.local_addresses()[0].port()));
        let stop = CancellationToken::new();
        tokio_util::task::TaskTracker::new().spawn(front.serve(handler, stop.clone()));
        Remote { address, ca, seen, stop, _dir: dir }
    }

    /// The address for an EndpointSlice, which may not name loopback.
    pub(crate) fn endpoint(&self) -> String {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect("192.0.2.1:9").expect("the machine has an address; no packet is sent");
        socket.local_addr().unwrap().ip().to_string()
    }

    pub(crate) fn ca_bundle(&self) -> String {
        STANDARD.encode(self.ca.certificate_pem())
    }

    /// The `clientConfig` by which it is called.
    pub(crate) fn client_config(&self, path: &str) -> Value {
        json!({"url": format!("https://{}{path}", self.address), "caBundle": self.ca_bundle()})
    }

    /// What was asked so far, with the paths; forgotten by this.
    pub(crate) async fn take(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut *self.seen.lock().await)
    }
}
