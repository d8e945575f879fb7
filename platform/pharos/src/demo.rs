//! `pharos demo`: what the demo image runs. A small web server that has something of everything the cluster shows: it answers,
//! counts requests, logs a line for each, and checks now and then that the cluster's DNS answers.

pub mod tar;

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use parking_lot::Mutex;
use pharos_telemetry::Register as _;
use pharos_transport::{Body, Front, FrontConfig, Handler, Io, Request, Response};
use prometheus::{IntCounterVec, IntGauge, Registry, TextEncoder};
use tokio_util::sync::CancellationToken;

use crate::{cli::DemoOptions, commands::say};

pub async fn run(options: DemoOptions) -> anyhow::Result<()> {
    let demo = Arc::new(Demo::new(&options)?);
    let front = Front::bind(FrontConfig { addresses: vec![options.listen], tls: None, limits: Default::default() }).await?;
    say(&format!("level=info msg=\"listening\" address={}", options.listen));
    let stop = CancellationToken::new();
    let checks = demo.clone().check_dns(Duration::from_secs(options.check_seconds.max(1)));
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        () = front.serve(demo, stop.clone()) => {}
        () = checks => {}
        _ = terminate.recv() => say("level=info msg=\"terminated\""),
        _ = tokio::signal::ctrl_c() => say("level=info msg=\"interrupted\""),
    }
    stop.cancel();
    Ok(())
}

struct Demo {
    host: String,
    resolve: String,
    registry: Registry,
    requests: IntCounterVec,
    dns_checks: IntCounterVec,
    dns_up: IntGauge,
    last_check: Mutex<String>,
}

impl Demo {
    fn new(options: &DemoOptions) -> anyhow::Result<Self> {
        let registry = Registry::new();
        let requests = registry.counters("demo_requests_total", "Requests, by path and code.", &["path", "code"])?;
        let dns_checks = registry.counters("demo_dns_checks_total", "DNS checks, by result.", &["result"])?;
        let dns_up = registry.gauge("demo_dns_up", "Whether the last DNS check found the name.")?;
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let host = nix::unistd::gethostname()?.to_string_lossy().into_owned();
        let last_check = Mutex::new("not checked yet".to_owned());
        Ok(Self { host, resolve: options.resolve.clone(), registry, requests, dns_checks, dns_up, last_check })
    }

    /// Resolves a name of the cluster again and again.
    async fn check_dns(self: Arc<Self>, every: Duration) {
        loop {
            let found = tokio::time::timeout(Duration::from_secs(5), tokio::net::lookup_host((self.resolve.as_str(), 443))).await;
            let outcome = match found {
                Ok(Ok(mut addresses)) => addresses.next().map(|a| a.ip().to_string()).ok_or_else(|| "no address".to_owned()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("no answer in 5 s".to_owned()),
            };
            self.dns_up.set(i64::from(outcome.is_ok()));
            let line = match &outcome {
                Ok(address) => format!("level=info msg=\"DNS check\" name={} address={address}", self.resolve),
                Err(error) => format!("level=error msg=\"DNS check\" name={} error={error:?}", self.resolve),
            };
            self.dns_checks.with_label_values(&[if outcome.is_ok() { "ok" } else { "failed" }]).inc();
            say(&line);
            *self.last_check.lock() = line;
            tokio::time::sleep(every).await;
        }
    }

    fn answer(&self, path: &str) -> (StatusCode, String) {
        match path {
            "/" => (StatusCode::OK, format!("Hello from {}\n", self.host)),
            "/healthz" => (StatusCode::OK, "ok\n".into()),
            "/dns" => {
                let code = if self.dns_up.get() == 1 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                (code, format!("{}\n", self.last_check.lock()))
            }
            "/metrics" => match TextEncoder::new().encode_to_string(&self.registry.gather()) {
                Ok(text) => (StatusCode::OK, text),
                Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            },
            _ => (StatusCode::NOT_FOUND, "not found\n".into()),
        }
    }
}

#[async_trait::async_trait]
impl Handler for Demo {
    async fn handle(&self, request: Request) -> Response {
        let path = request.uri().path();
        let (code, text) = self.answer(path);
        // Paths that are not ours share one label value, or a scanner could make any number.
        let label = if code == StatusCode::NOT_FOUND { "other" } else { path };
        self.requests.with_label_values(&[label, code.as_str()]).inc();
        say(&format!("level=info msg=\"request\" method={} path={path:?} code={}", request.method(), code.as_u16()));
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = code;
        let kind = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        response
    }

    async fn upgrade(&self, _: http::Request<()>, io: Io) {
        drop(io); // Nothing here upgrades.
    }
}
