//! What the API server measures, by upstream's names (`apiserver/pkg/endpoints/metrics/metrics.go`).

use std::time::Duration;

use pharos_telemetry::Register as _;
use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Registry, exponential_buckets};

use crate::request::RequestInfo;

/// Handles of all metrics of requests. Registered once.
#[derive(Clone)]
pub(crate) struct Metrics {
    requests: IntCounterVec,
    durations: HistogramVec,
    response_sizes: HistogramVec,
    pub(crate) inflight: IntGaugeVec,
    pub(crate) longrunning: IntGaugeVec,
    terminations: IntCounterVec,
    pub(crate) registered_watchers: IntGaugeVec,
    pub(crate) watch_events: IntCounterVec,
    pub(crate) watch_events_sizes: HistogramVec,
    pub(crate) panics: IntCounter,
}

const DURATION_BUCKETS: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
];

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let shape = ["verb", "group", "version", "resource", "subresource", "scope", "component"];
        let mut with_dry_run = vec!["verb", "dry_run"];
        with_dry_run.extend(&shape[1..]);
        let mut with_code = with_dry_run.clone();
        with_code.push("code");
        Ok(Metrics {
            requests: registry.counters(
                "apiserver_request_total",
                "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.",
                &with_code,
            )?,
            durations: registry.histograms(
                "apiserver_request_duration_seconds",
                "Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
                DURATION_BUCKETS,
                &with_dry_run,
            )?,
            response_sizes: registry.histograms(
                "apiserver_response_sizes",
                "Response size distribution in bytes for each group, version, verb, resource, subresource, scope and component.",
                exponential_buckets(1000.0, 10.0, 7)?,
                &shape,
            )?,
            inflight: registry.gauges(
                "apiserver_current_inflight_requests",
                "Maximal number of currently used inflight request limit of this apiserver per request kind in last second.",
                &["request_kind"],
            )?,
            longrunning: registry.gauges(
                "apiserver_longrunning_requests",
                "Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component. Not all requests are tracked this way.",
                &shape,
            )?,
            terminations: registry.counters(
                "apiserver_request_terminations_total",
                "Number of requests which apiserver terminated in self-defense.",
                &["verb", "group", "version", "resource", "subresource", "scope", "component", "code"],
            )?,
            registered_watchers: registry.gauges(
                "apiserver_registered_watchers",
                "Number of currently registered watchers for a given resources",
                &["group", "version", "kind"],
            )?,
            watch_events: registry.counters(
                "apiserver_watch_events_total",
                "Number of events sent in watch clients",
                &["group", "version", "kind"],
            )?,
            watch_events_sizes: registry.histograms(
                "apiserver_watch_events_sizes",
                "Watch event size distribution in bytes",
                exponential_buckets(1024.0, 2.0, 8)?,
                &["group", "version", "kind"],
            )?,
            panics: registry.counter("pharos_apiserver_panics_total", "Requests that ended in a panic: each is a bug.")?,
        })
    }

    /// Counts a request that was given up.
    pub(crate) fn terminated(&self, labels: &Labels<'_>, code: &str) {
        let [verb, group, version, resource, subresource, scope, component] = labels.shape();
        let labels = [verb, group, version, resource, subresource, scope, component, code];
        self.terminations.with_label_values(&labels).inc();
    }

    /// Counts a finished request.
    pub(crate) fn finished(&self, labels: &Labels<'_>, code: u16, elapsed: Duration, response_bytes: Option<u64>) {
        let code = code.to_string();
        let Labels { dry_run, .. } = *labels;
        let [verb, group, version, resource, subresource, scope, component] = labels.shape();
        self.requests.with_label_values(&[verb, dry_run, group, version, resource, subresource, scope, component, &code]).inc();
        if verb != "WATCH" && verb != "CONNECT" {
            self.durations
                .with_label_values(&[verb, dry_run, group, version, resource, subresource, scope, component])
                .observe(elapsed.as_secs_f64());
        }
        if let Some(bytes) = response_bytes
            && matches!(verb, "GET" | "LIST")
        {
            self.response_sizes.with_label_values(&labels.shape()).observe(bytes as f64);
        }
    }
}

/// How a request is told apart in metrics.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Labels<'a> {
    verb: &'static str,
    dry_run: &'static str,
    group: &'a str,
    version: &'a str,
    resource: &'a str,
    subresource: &'a str,
    scope: &'static str,
}

impl<'a> Labels<'a> {
    /// The labels of a request; those of unknown resources are empty, so that clients can't make series up.
    pub(crate) fn new(info: &'a RequestInfo, known: bool, dry_run: bool) -> Self {
        let connects = matches!(info.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy");
        let verb = match info.verb.as_str() {
            _ if connects => "CONNECT",
            "list" => "LIST",
            "watch" => "WATCH",
            "create" | "post" => "POST",
            "update" | "put" => "PUT",
            "patch" => "PATCH",
            "delete" => "DELETE",
            "deletecollection" => "DELETECOLLECTION",
            "get" => "GET",
            "head" => "HEAD",
            "options" => "OPTIONS",
            _ => "other",
        };
        let scope = match (info.is_resource, info.name.is_empty(), info.namespace.is_empty()) {
            (false, ..) => "",
            (true, false, _) => "resource",
            (true, true, false) => "namespace",
            (true, true, true) => "cluster",
        };
        let of = |text: &'a str| if known { text } else { "" };
        Labels {
            verb,
            dry_run: if dry_run { "All" } else { "" },
            group: of(&info.group),
            version: of(&info.version),
            resource: of(&info.resource),
            subresource: of(&info.subresource),
            scope,
        }
    }

    pub(crate) fn shape(&self) -> [&str; 7] {
        [self.verb, self.group, self.version, self.resource, self.subresource, self.scope, "apiserver"]
    }
}
