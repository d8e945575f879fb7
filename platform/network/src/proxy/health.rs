//! What load balancers ask a node: whether it has endpoints of a Service of policy `Local` (`healthCheckNodePort`), and whether
//! its proxy does its work (`/healthz`, `/livez`). Follows kube-proxy's `pkg/proxy/healthcheck`.
//!
//! Who asks is not authenticated, as a load balancer can't be: the answers tell names and numbers of Services only.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use k8s_openapi::{api::core::v1::Node, jiff::Timestamp};
use parking_lot::Mutex;
use pharos_client::Key;
use pharos_telemetry::{Backoff, Clock, Ctx};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::Instant,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::metrics::Metrics;

/// A change may wait this long before the proxy counts as ill (twice kube-proxy's `syncPeriod`).
const LATE: Duration = Duration::from_secs(60);
/// How long a connection may last: a check is one short question.
const CONNECTION: Duration = Duration::from_secs(10);
/// Connections of one port at once; more wait.
const CONNECTIONS: usize = 64;
/// The Cluster Autoscaler is about to remove a node with this taint.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// How the proxy of this node is.
pub(super) struct Status {
    clock: Clock,
    metrics: Metrics,
    times: Mutex<Times>,
    eligible: AtomicBool,
}

#[derive(Default)]
struct Times {
    /// Since when a change is not in the kernel.
    pending: Option<Instant>,
    updated: Option<Timestamp>,
}

/// What is asked at an address.
#[derive(Clone)]
enum Question {
    /// How many endpoints of a Service are here.
    Service(Key, Arc<AtomicUsize>),
    /// How the proxy is.
    Proxy,
}

/// The open ports.
pub(super) struct Checks {
    ctx: Ctx,
    status: Arc<Status>,
    services: BTreeMap<(SocketAddr, Key), Open>,
    proxy: BTreeMap<SocketAddr, Open>,
}

struct Open {
    endpoints: Arc<AtomicUsize>,
    _end: DropGuard,
}

// === impl Status ===

impl Status {
    pub(super) fn new(clock: Clock, metrics: Metrics) -> Self {
        // Eligible until its Node says otherwise, as upstream.
        Self { clock, metrics, times: Mutex::default(), eligible: AtomicBool::new(true) }
    }

    /// There is a change that the kernel does not have yet.
    pub(super) fn queued(&self) {
        self.times.lock().pending.get_or_insert_with(Instant::now);
    }

    /// The kernel has every change.
    pub(super) fn updated(&self) {
        *self.times.lock() = Times { pending: None, updated: Some(self.clock.now()) };
    }

    /// Takes over what a Node says of its future.
    pub(super) fn node(&self, node: &Node) {
        let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
        let leaves = node.metadata.deletion_timestamp.is_some() || taints.any(|taint| taint.key == TO_BE_DELETED);
        self.eligible.store(!leaves, Ordering::Relaxed);
    }

    fn is_healthy(&self) -> bool {
        self.times.lock().pending.is_none_or(|since| since.elapsed() < LATE)
    }

    fn answer(&self, path: &str) -> Response<Full<Bytes>> {
        let (healthy, eligible) = (self.is_healthy(), self.eligible.load(Ordering::Relaxed));
        let now = self.clock.now();
        let (good, more, counter) = match path {
            "/healthz" => (healthy && eligible, format!(", \"nodeEligible\": {eligible}"), &self.metrics.healthz),
            "/livez" => (healthy, String::new(), &self.metrics.livez),
            _ => {
                let mut response = Response::new(Full::from("404 page not found\n"));
                *response.status_mut() = StatusCode::NOT_FOUND;
                return response;
            }
        };
        // As upstream: a proxy that is well is up to date now, whenever anything last changed.
        let updated = if good { Some(now) } else { self.times.lock().updated };
        let updated = updated.map(|at| at.to_string()).unwrap_or_else(|| "0001-01-01T00:00:00Z".to_owned());
        counter.with_label_values(&[if good { "200" } else { "503" }]).inc();
        json(good, format!("{{\"lastUpdated\": \"{updated}\",\"currentTime\": \"{now}\"{more}}}"))
    }
}

fn json(good: bool, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

// === impl Question ===

impl Question {
    fn answer(&self, status: &Status, path: &str) -> Response<Full<Bytes>> {
        let Self::Service(key, endpoints) = self else { return status.answer(path) };
        let (count, healthy) = (endpoints.load(Ordering::Relaxed), status.is_healthy());
        let body = format!(
            "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{}\",\n\t\t\"name\": \"{}\"\n\t}},\n\t\"localEndpoints\": {count},\n\t\
             \"serviceProxyHealthy\": {healthy}\n}}",
            key.namespace, key.name
        );
        json(count > 0 && healthy, body)
    }
}

// === impl Checks ===

impl Checks {
    pub(super) fn new(ctx: &Ctx, status: Arc<Status>) -> Self {
        Self { ctx: ctx.clone(), status, services: BTreeMap::new(), proxy: BTreeMap::new() }
    }

    /// Opens and closes ports until those of `wanted` are open, and answers with its counts from then on.
    pub(super) fn set_services(&mut self, wanted: &BTreeMap<(SocketAddr, Key), usize>) {
        self.services.retain(|place, _| wanted.contains_key(place));
        for ((address, key), count) in wanted {
            let place = (*address, key.clone());
            let endpoints = match self.services.get(&place) {
                Some(open) => open.endpoints.clone(),
                None => {
                    let endpoints = Arc::new(AtomicUsize::new(0));
                    let open = self.open(*address, Question::Service(key.clone(), endpoints.clone()), endpoints.clone());
                    self.services.insert(place, open);
                    endpoints
                }
            };
            endpoints.store(*count, Ordering::Relaxed);
        }
    }

    /// As [`Self::set_services`], for the proxy's own health.
    pub(super) fn set_proxy(&mut self, wanted: &BTreeSet<SocketAddr>) {
        self.proxy.retain(|address, _| wanted.contains(address));
        for address in wanted {
            if !self.proxy.contains_key(address) {
                let open = self.open(*address, Question::Proxy, Arc::default());
                self.proxy.insert(*address, open);
            }
        }
    }

    fn open(&self, address: SocketAddr, question: Question, endpoints: Arc<AtomicUsize>) -> Open {
        let end = self.ctx.token();
        let (status, token, ctx) = (self.status.clone(), end.clone(), self.ctx.clone());
        self.ctx.spawn("health check", async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = serve(address, question, status, &ctx, &token) => {}
            }
        });
        Open { endpoints, _end: end.drop_guard() }
    }
}

/// Answers at an address, for ever.
async fn serve(address: SocketAddr, question: Question, status: Arc<Status>, ctx: &Ctx, token: &CancellationToken) {
    let mut retry = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    let listener = loop {
        match listen(address) {
            Ok(listener) => break listener,
            Err(error) => {
                let wait = retry.next_wait();
                // Another Service may have had the port a moment ago.
                if retry.attempt() == 5 {
                    tracing::warn!(%address, %error, "a health check port cannot be opened, trying again");
                }
                tokio::time::sleep(wait).await;
            }
        }
    };
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, most likely.
            tokio::time::sleep(retry.next_wait()).await;
            continue;
        };
        let (question, status, token) = (question.clone(), status.clone(), token.clone());
        ctx.spawn("health check", async move {
            tokio::select! {
                () = token.cancelled() => {}
                _ = tokio::time::timeout(CONNECTION, connection(stream, &question, &status)) => {}
            }
            drop(slot);
        });
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { tokio::net::TcpSocket::new_v4()? } else { tokio::net::TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(128)
}

async fn connection(stream: TcpStream, question: &Question, status: &Status) {
    let answer = service_fn(|request: Request<Incoming>| {
        let response = question.answer(status, request.uri().path());
        async move { Ok::<_, Infallible>(response) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).keep_alive(false).max_buf_size(16 << 10);
    // Whoever hangs up has its reasons.
    let _ = http.serve_connection(TokioIo::new(stream), answer).await;
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use pharos_telemetry::Ctx;
    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn status() -> Arc<Status> {
        Arc::new(Status::new(Clock::system(), Metrics::new(&prometheus::Registry::new()).unwrap()))
    }

    async fn read(response: Response<Full<Bytes>>) -> (u16, Value) {
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        let code = response.status().as_u16();
        (code, serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_proxy_that_is_late_is_ill() {
        let status = status();
        let count = Arc::new(AtomicUsize::new(2));
        let service = Question::Service(Key::new("ns", "web"), count.clone());
        let body = |count: usize, healthy: bool| json!({"service": {"namespace": "ns", "name": "web"}, "localEndpoints": count, "serviceProxyHealthy": healthy});
        assert_eq!(read(service.answer(&status, "/")).await, (200, body(2, true)));
        count.store(0, Ordering::Relaxed);
        assert_eq!(read(service.answer(&status, "/any")).await, (503, body(0, true)));
        count.store(1, Ordering::Relaxed);
        status.queued();
        assert_eq!(read(service.answer(&status, "/")).await.0, 200);
        tokio::time::advance(LATE).await;
        assert_eq!(read(service.answer(&status, "/")).await, (503, body(1, false)));
        assert_eq!(read(status.answer("/livez")).await.0, 503);
        status.updated();
        assert_eq!(read(status.answer("/livez")).await.0, 200);
        let (code, body) = read(status.answer("/healthz")).await;
        assert_eq!((code, &body["nodeEligible"]), (200, &json!(true)));
        let node: Node =
            serde_json::from_value(json!({"spec": {"taints": [{"key": TO_BE_DELETED, "effect": "NoSchedule"}]}})).unwrap();
        status.node(&node);
        let (code, body) = read(status.answer("/healthz")).await;
        assert_eq!((code, &body["nodeEligible"]), (503, &json!(false)));
        assert_eq!(read(status.answer("/livez")).await.0, 200);
        assert_eq!(status.answer("/metrics").status(), StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn ports_open_and_close() {
        let token = CancellationToken::new();
        let mut checks = Checks::new(&Ctx::for_test(token.clone()), status());
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let ask = async || -> io::Result<String> {
            let mut stream = TcpStream::connect(free).await?;
            stream.write_all(b"GET / HTTP/1.1\r\nHost: lb\r\n\r\n").await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            Ok(text)
        };
        checks.set_services(&BTreeMap::from([((free, Key::new("ns", "web")), 3)]));
        let mut text = ask().await;
        for _ in 0..100 {
            if text.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            text = ask().await;
        }
        let text = text.unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("\"localEndpoints\": 3"), "{text}");
        checks.set_services(&BTreeMap::new());
        for _ in 0..100 {
            if ask().await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the port stays open");
    }
}
