//! Loki's HTTP API. Errors are plain text, as Loki's are.

mod fields; // What lines have inside,
mod labels; // streams and how much there is of them,
mod params; // what is asked,
mod push; // what is sent,
mod query; // what is answered,
mod tail; // and what is followed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use pharos_telemetry::Clock;
use pharos_transport::{Body, Io, Response};
use serde_json::json;
use tokio::{sync::Semaphore, time::Instant};

use crate::{
    engine::QueryError,
    index::Index,
    logql::{self, Expr, ParseError},
    scan::Limits,
    split::chain,
};
use params::Params;

/// The Loki whose API this follows; clients decide by it what they may ask.
const LOKI_VERSION: &str = "3.8.0";

/// Queries that run at once; others wait.
const CONCURRENT: usize = 4;

/// Loki's HTTP API over the log index. Paths are relative to the mount: `/loki/api/v1/…`, `/ready`.
#[derive(Clone)]
pub struct LogsHandler {
    index: Arc<Index>,
    running: Arc<Semaphore>,
    clock: Clock,
}

/// The node that pushes, as an extension of the request: it may push lines of its own streams alone, by their label `node`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushedBy(pub String);

/// What a request is refused with.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    message: String,
}

type Answer = Result<Response, Refusal>;

impl LogsHandler {
    pub(crate) fn new(index: Arc<Index>, clock: Clock) -> Self {
        Self { index, running: Arc::new(Semaphore::new(CONCURRENT)), clock }
    }

    /// Answers one request.
    ///
    /// Cancel-safe: a query whose caller leaves is given up.
    pub async fn handle(&self, request: Request<Bytes>) -> Response {
        let started = Instant::now();
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let (route, answer) = self.route(&path, request).await;
        let response = answer.unwrap_or_else(Refusal::into_response);
        let status = response.status();
        let labels = [method.as_str(), route, status.as_str(), "false"];
        self.index.metrics.requests.with_label_values(&labels).observe(started.elapsed().as_secs_f64());
        response
    }

    /// Serves `/loki/api/v1/tail`: makes the WebSocket handshake, then sends lines as they come until the client leaves.
    pub async fn tail(&self, request: Request<()>, io: Io) {
        tail::serve(self, request, io).await;
    }

    /// The route's name and its answer.
    async fn route(&self, path: &str, request: Request<Bytes>) -> (&'static str, Answer) {
        let now = self.now();
        let get = matches!(*request.method(), Method::GET | Method::HEAD | Method::POST);
        let path = path.strip_prefix("/loki/api/v1/").unwrap_or(path);
        if path == "push" {
            let answer = if request.method() == Method::POST { push::push(self, request).await } else { Err(not_allowed()) };
            return ("loki_api_v1_push", answer);
        }
        if !get {
            return ("other", Err(not_allowed()));
        }
        let params = match Params::read(&request) {
            Ok(params) => params,
            Err(refusal) => return ("other", Err(refusal)),
        };
        match path {
            "query_range" => ("loki_api_v1_query_range", query::range(self, params, now).await),
            "query" => ("loki_api_v1_query", query::instant(self, params, now).await),
            "labels" | "label" => {
                ("loki_api_v1_labels", self.beside(params, move |handler, params| labels::names(handler, params, now)).await)
            }
            "series" => {
                ("loki_api_v1_series", self.beside(params, move |handler, params| labels::series(handler, params, now)).await)
            }
            "index/stats" => {
                ("loki_api_v1_index_stats", self.beside(params, move |handler, params| labels::stats(handler, params, now)).await)
            }
            "index/volume" => (
                "loki_api_v1_index_volume",
                self.beside(params, move |handler, params| labels::volume(handler, params, now)).await,
            ),
            "index/volume_range" => ("loki_api_v1_index_volume_range", labels::volume_range(self, params, now).await),
            "detected_labels" => (
                "loki_api_v1_detected_labels",
                self.beside(params, move |handler, params| labels::detected(handler, params, now)).await,
            ),
            "detected_fields" => ("loki_api_v1_detected_fields", fields::detected(self, params, now).await),
            "drilldown-limits" => ("loki_api_v1_drilldown_limits", Ok(self.limits())),
            "status/buildinfo" => ("loki_api_v1_status_buildinfo", Ok(build_info())),
            "tail" => ("loki_api_v1_tail", Err(Refusal::bad("tail is a WebSocket: ask for an upgrade"))),
            "/ready" => ("ready", Ok(text(StatusCode::OK, "ready\n"))),
            path => {
                if let Some(name) = path.strip_prefix("label/").and_then(|rest| rest.strip_suffix("/values")) {
                    let name = name.to_owned();
                    let values = self.beside(params, move |handler, params| labels::values(handler, params, &name, now));
                    ("loki_api_v1_label_name_values", values.await)
                } else if let Some(name) = path.strip_prefix("detected_field/").and_then(|rest| rest.strip_suffix("/values")) {
                    ("loki_api_v1_detected_field_values", fields::values(self, params, name.to_owned(), now).await)
                } else {
                    ("other", Err(Refusal { status: StatusCode::NOT_FOUND, message: "404 page not found".to_owned() }))
                }
            }
        }
    }

    /// Nanoseconds since 1970.
    fn now(&self) -> i64 {
        i64::try_from(self.clock.now().as_nanosecond()).unwrap_or(i64::MAX)
    }

    /// What a client may ask, for Grafana's Logs Drilldown.
    fn limits(&self) -> Response {
        let config = &self.index.config;
        ok(&json!({
            "limits": {
                "discover_log_levels": true,
                "max_entries_limit_per_query": config.max_entries_limit_per_query,
                "max_query_series": config.max_query_series,
                "query_timeout": format!("{}s", config.query_timeout_seconds),
                "retention_period": format!("{}s", config.retention_seconds),
                "volume_enabled": true,
                "volume_max_series": 1000,
            },
            "pattern_ingester_enabled": false,
            "version": LOKI_VERSION,
        }))
    }

    /// Reads LogQL as queries are run: its regular expressions can take long to compile.
    async fn read<T: Send + 'static>(
        &self,
        text: &str,
        reader: impl FnOnce(&str) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let text = text.to_owned();
        self.run(move |_, _| Ok(reader(&text))).await?
    }

    /// [`Self::read`] for a whole query.
    async fn parse(&self, text: &str) -> Result<Expr, Refusal> {
        self.read(text, |text| Ok(logql::parse(text)?)).await
    }

    /// Answers, as queries are run, from what is known of streams.
    async fn beside(&self, params: Params, work: impl FnOnce(&Self, &Params) -> Answer + Send + 'static) -> Answer {
        let handler = self.clone();
        self.run(move |_, _| Ok(work(&handler, &params))).await?
    }

    /// Runs a query beside the async threads, when its turn comes.
    async fn run<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Index, &Limits) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let timeout: Duration = self.index.config.query_timeout();
        let limits = Limits { deadline: Instant::now() + timeout, abandoned: Arc::new(AtomicBool::new(false)) };
        let Ok(Ok(permit)) = tokio::time::timeout_at(limits.deadline, self.running.clone().acquire_owned()).await else {
            return Err(Refusal { status: StatusCode::TOO_MANY_REQUESTS, message: "too many outstanding requests".to_owned() });
        };
        let abandon = Abandon(limits.abandoned.clone());
        let index = self.index.clone();
        let running = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let answer = query(&index, &limits);
            index.close_splits();
            answer
        });
        let answer = running.await;
        drop(abandon);
        match answer {
            Ok(answer) => answer.map_err(Refusal::from),
            Err(_) => Err(Refusal { status: StatusCode::INTERNAL_SERVER_ERROR, message: "the query failed".to_owned() }),
        }
    }
}

/// Tells a query, when dropped, that nobody waits for it.
struct Abandon(Arc<AtomicBool>);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Refusal {
    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into() }
    }

    pub(crate) fn into_response(self) -> Response {
        text(self.status, &self.message)
    }
}

impl From<ParseError> for Refusal {
    fn from(error: ParseError) -> Self {
        Self::bad(error.to_string())
    }
}

impl From<QueryError> for Refusal {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Bad(message) => Self::bad(message),
            QueryError::Late(_) => Self { status: StatusCode::GATEWAY_TIMEOUT, message: error.to_string() },
            QueryError::Index(error) => {
                tracing::error!(error = %chain(&error), "query failed");
                Self { status: StatusCode::INTERNAL_SERVER_ERROR, message: "the log index could not be read".to_owned() }
            }
        }
    }
}

fn not_allowed() -> Refusal {
    Refusal { status: StatusCode::METHOD_NOT_ALLOWED, message: "405 method not allowed".to_owned() }
}

fn build_info() -> Response {
    ok(&json!({
        "version": LOKI_VERSION,
        "revision": concat!("pharos-", env!("CARGO_PKG_VERSION")),
        "branch": "",
        "buildUser": "",
        "buildDate": "",
        "goVersion": "",
    }))
}

fn text(status: StatusCode, message: &str) -> Response {
    let mut response = Response::new(Body::full(message.to_owned()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn ok(value: &serde_json::Value) -> Response {
    let mut response = Response::new(Body::full(value.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=UTF-8"));
    response
}

#[cfg(test)]
mod tests;
