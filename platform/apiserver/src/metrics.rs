//! What the API server measures, by upstream's names (`apiserver/pkg/endpoints/metrics/metrics.go`).
//!
//! A request's children of all metrics are found by one look-up ([`Metrics::series`]), and resolved at their first use.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use ahash::RandomState;
use http::{HeaderMap, header::CONTENT_TYPE};
use parking_lot::RwLock;
use pharos_api::registry::Kind;
use pharos_telemetry::Register as _;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, exponential_buckets};

use crate::request::{Query, RequestInfo};

/// Handles of all metrics of requests. Registered once.
#[derive(Clone)]
pub(crate) struct Metrics {
    requests: IntCounterVec,
    durations: HistogramVec,
    sli_durations: HistogramVec,
    response_sizes: HistogramVec,
    longrunning: IntGaugeVec,
    terminations: IntCounterVec,
    aborts: IntCounterVec,
    self_requests: IntCounterVec,
    deprecated: IntGaugeVec,
    timestamp_comparisons: [Histogram; 2],
    pub(crate) readonly_inflight: IntGauge,
    pub(crate) mutating_inflight: IntGauge,
    pub(crate) registered_watchers: IntGaugeVec,
    pub(crate) watch_events: IntCounterVec,
    pub(crate) watch_events_sizes: HistogramVec,
    pub(crate) watch_lists: HistogramVec,
    pub(crate) lists: Lists,
    pub(crate) tls_handshake_errors: IntCounter,
    pub(crate) panics: IntCounter,
    known: Arc<Known>,
}

/// What was counted before, by the hash of its labels.
#[derive(Default)]
struct Known {
    hasher: RandomState,
    series: RwLock<HashMap<u64, Vec<Arc<Series>>, RandomState>>,
}

/// What lists read (`apiserver/pkg/storage/metrics/metrics.go`).
#[derive(Clone)]
pub(crate) struct Lists {
    total: IntCounterVec,
    fetched: IntCounterVec,
    evaluated: IntCounterVec,
    returned: IntCounterVec,
}

const DURATION_BUCKETS: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
];
const WATCH_LIST_BUCKETS: &[f64] = &[
    0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0,
    180.0, 300.0,
];
/// The codes whose counters are kept at hand.
const CODES: [u16; 20] = [0, 200, 201, 202, 304, 400, 401, 403, 404, 405, 406, 409, 410, 413, 415, 422, 429, 500, 503, 504];
/// A built-in kind that is on its way out (`zz_generated.prerelease-lifecycle.go` of `k8s.io/api/core/v1`).
pub(crate) struct Deprecated {
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    /// The release that will not have it, if that is known.
    pub(crate) removed_release: &'static str,
    /// What is said of it, whatever is asked (`deprecation.WarningMessage` upstream).
    pub(crate) warning: &'static str,
}

const DEPRECATED: [Deprecated; 2] = [
    Deprecated {
        group: "",
        version: "v1",
        resource: "componentstatuses",
        removed_release: "",
        warning: "v1 ComponentStatus is deprecated in v1.19+",
    },
    Deprecated {
        group: "",
        version: "v1",
        resource: "endpoints",
        removed_release: "",
        warning: "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
    },
];

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let shape = ["verb", "group", "version", "resource", "subresource", "scope", "component"];
        let mut with_dry_run = vec!["verb", "dry_run"];
        with_dry_run.extend(&shape[1..]);
        let mut with_code = with_dry_run.clone();
        with_code.push("code");
        let inflight: IntGaugeVec = registry.gauges(
            "apiserver_current_inflight_requests",
            "Maximal number of currently used inflight request limit of this apiserver per request kind in last second.",
            &["request_kind"],
        )?;
        let comparisons = registry.histograms(
            "apiserver_request_timestamp_comparison_time",
            "Time taken for comparison of old vs new objects in UPDATE or PATCH requests",
            [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 5.0],
            &["code_path"],
        )?;
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
            sli_durations: registry.histograms(
                "apiserver_request_sli_duration_seconds",
                "Response latency distribution (not counting webhook duration and priority & fairness queue wait times) in seconds for each verb, group, version, resource, subresource, scope and component.",
                &DURATION_BUCKETS[2..],
                &shape,
            )?,
            response_sizes: registry.histograms(
                "apiserver_response_sizes",
                "Response size distribution in bytes for each group, version, verb, resource, subresource, scope and component.",
                exponential_buckets(1000.0, 10.0, 7)?,
                &shape,
            )?,
            readonly_inflight: inflight.with_label_values(&["readOnly"]),
            mutating_inflight: inflight.with_label_values(&["mutating"]),
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
            aborts: registry.counters(
                "apiserver_request_aborts_total",
                "Number of requests which apiserver aborted possibly due to a timeout, for each group, version, verb, resource, subresource and scope",
                &shape[..6],
            )?,
            self_requests: registry.counters(
                "apiserver_selfrequest_total",
                "Counter of apiserver self-requests broken out for each verb, API resource and subresource.",
                &["verb", "group", "resource", "subresource"],
            )?,
            deprecated: registry.gauges(
                "apiserver_requested_deprecated_apis",
                "Gauge of deprecated APIs that have been requested, broken out by API group, version, resource, subresource, and removed_release.",
                &["group", "version", "resource", "subresource", "removed_release"],
            )?,
            timestamp_comparisons: ["unequalObjectsSlow", "equalObjectsSlow"].map(|path| comparisons.with_label_values(&[path])),
            registered_watchers: registry.gauges(
                "apiserver_registered_watchers",
                "Number of currently registered watchers for a given resources",
                &["group", "version", "kind"],
            )?,
            watch_events: registry.counters(
                "apiserver_watch_events_total",
                "Number of events sent in watch clients",
                &["group", "version", "resource"],
            )?,
            watch_events_sizes: registry.histograms(
                "apiserver_watch_events_sizes",
                "Watch event size distribution in bytes",
                exponential_buckets(1024.0, 2.0, 8)?,
                &["group", "version", "resource"],
            )?,
            watch_lists: registry.histograms(
                "apiserver_watch_list_duration_seconds",
                "Response latency distribution in seconds for watch list requests broken by group, version, resource and scope.",
                WATCH_LIST_BUCKETS,
                &["group", "version", "resource", "scope"],
            )?,
            lists: Lists::new(registry)?,
            tls_handshake_errors: registry.counter(
                "apiserver_tls_handshake_errors_total",
                "Number of requests dropped with 'TLS handshake error from' error",
            )?,
            panics: registry.counter("pharos_apiserver_panics_total", "Requests that ended in a panic: each is a bug.")?,
            known: Arc::default(),
        })
    }

    /// The series of a request; `kind` is that of its resource, if there is one. What is no resource or subresource here has
    /// empty labels, so that clients can't make series up.
    pub(crate) fn series(
        &self,
        info: &RequestInfo,
        kind: Option<&Kind>,
        verb: &'static str,
        dry_run: &'static str,
    ) -> Arc<Series> {
        let subresource = info.subresource.as_str();
        let known = kind.is_some_and(|kind| subresource.is_empty() || kind.subresource(subresource).is_some());
        let shape = if known {
            Shape {
                group: &info.group,
                version: &info.version,
                resource: &info.resource,
                subresource,
                ..Shape::new(info, verb, dry_run)
            }
        } else {
            Shape::new(info, verb, dry_run)
        };
        let hash = self.known.hasher.hash_one(shape);
        let find = |all: &HashMap<u64, Vec<Arc<Series>>, RandomState>| {
            all.get(&hash)?.iter().find(|series| series.shape() == shape).cloned()
        };
        if let Some(series) = find(&self.known.series.read()) {
            return series;
        }
        let mut all = self.known.series.write();
        if let Some(series) = find(&all) {
            return series;
        }
        let series = Arc::new(Series::new(&shape));
        all.entry(hash).or_default().push(series.clone());
        series
    }

    /// How long it took to find out whether an update changes anything but times.
    pub(crate) fn compared(&self, same: bool, elapsed: Duration) {
        self.timestamp_comparisons[usize::from(same)].observe(elapsed.as_secs_f64());
    }
}

impl Lists {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let (labels, indexed) = (["group", "resource", "storage"], ["group", "resource", "storage", "index"]);
        Ok(Lists {
            total: registry.counters("apiserver_storage_list_total", "Number of LIST requests served from storage", &indexed)?,
            fetched: registry.counters(
                "apiserver_storage_list_fetched_objects_total",
                "Number of objects read from storage in the course of serving a LIST request",
                &indexed,
            )?,
            evaluated: registry.counters(
                "apiserver_storage_list_evaluated_objects_total",
                "Number of objects tested in the course of serving a LIST request from storage",
                &labels,
            )?,
            returned: registry.counters(
                "apiserver_storage_list_returned_objects_total",
                "Number of objects returned for a LIST request from storage",
                &labels,
            )?,
        })
    }

    /// Counts a list that was served from the watch cache.
    pub(crate) fn served(&self, kind: &Kind, evaluated: usize, returned: usize) {
        let labels = [&*kind.group, &*kind.plural, "watchcache"];
        let indexed = [&*kind.group, &*kind.plural, "watchcache", ""];
        self.total.with_label_values(&indexed).inc();
        self.fetched.with_label_values(&indexed).inc_by(evaluated.max(returned) as u64);
        self.evaluated.with_label_values(&labels).inc_by(evaluated as u64);
        self.returned.with_label_values(&labels).inc_by(returned as u64);
    }
}

/// How a request is told apart in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Shape<'a> {
    verb: &'static str,
    dry_run: &'static str,
    group: &'a str,
    version: &'a str,
    resource: &'a str,
    subresource: &'a str,
    scope: &'static str,
}

impl<'a> Shape<'a> {
    /// Without what is said of a resource.
    fn new(info: &'a RequestInfo, verb: &'static str, dry_run: &'static str) -> Self {
        let named = !info.name.is_empty() || (info.is_resource && info.verb == "create");
        let scope = match (info.is_resource, named, info.namespace.is_empty()) {
            (false, ..) => "",
            (true, true, _) => "resource",
            (true, false, false) => "namespace",
            (true, false, true) => "cluster",
        };
        // Health checks are told apart by their path, as upstream's.
        let subresource = match info.path.as_str() {
            path @ ("/healthz" | "/livez" | "/readyz" | "/metrics") => path,
            _ => "",
        };
        Shape { verb, dry_run, group: "", version: "", resource: "", subresource, scope }
    }
}

/// The verb of a request as metrics have it: `LIST`, `WATCH`, `APPLY`, `CONNECT`, `POST`, … (`CleanVerb`).
pub(crate) fn verb(info: &RequestInfo, headers: &HeaderMap) -> &'static str {
    if matches!(info.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy") {
        return "CONNECT";
    }
    match info.verb.as_str() {
        "list" => "LIST",
        "watch" => "WATCH",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" if headers.get(CONTENT_TYPE).is_some_and(|value| value == "application/apply-patch+yaml") => "APPLY",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        "get" | "head" => "GET",
        _ => "other",
    }
}

/// What a request says of a dry run (`cleanDryRun`).
pub(crate) fn dry_run(query: &Query) -> &'static str {
    match query.get("dryRun") {
        None | Some("") => "",
        Some("All") => "All",
        Some(_) => "invalid",
    }
}

/// The children of all metrics that requests of one shape are counted in. Each comes to be when it is first needed: one that
/// never counted is not shown.
pub(crate) struct Series {
    verb: &'static str,
    dry_run: &'static str,
    scope: &'static str,
    group: Box<str>,
    version: Box<str>,
    resource: Box<str>,
    subresource: Box<str>,
    deprecated: Option<&'static Deprecated>,
    codes: [OnceLock<IntCounter>; CODES.len()],
    duration: OnceLock<Histogram>,
    sli_duration: OnceLock<Histogram>,
    response_size: OnceLock<Histogram>,
    longrunning: OnceLock<IntGauge>,
}

const COMPONENT: &str = "apiserver";

impl Series {
    fn new(shape: &Shape<'_>) -> Self {
        let path = [shape.group, shape.version, shape.resource];
        let deprecated = DEPRECATED.iter().find(|kind| [kind.group, kind.version, kind.resource] == path);
        Series {
            verb: shape.verb,
            dry_run: shape.dry_run,
            scope: shape.scope,
            group: shape.group.into(),
            version: shape.version.into(),
            resource: shape.resource.into(),
            subresource: shape.subresource.into(),
            deprecated,
            codes: std::array::from_fn(|_| OnceLock::new()),
            duration: OnceLock::new(),
            sli_duration: OnceLock::new(),
            response_size: OnceLock::new(),
            longrunning: OnceLock::new(),
        }
    }

    fn shape(&self) -> Shape<'_> {
        Shape {
            verb: self.verb,
            dry_run: self.dry_run,
            group: &self.group,
            version: &self.version,
            resource: &self.resource,
            subresource: &self.subresource,
            scope: self.scope,
        }
    }

    fn labels(&self) -> [&str; 7] {
        [self.verb, &self.group, &self.version, &self.resource, &self.subresource, self.scope, COMPONENT]
    }

    fn with_dry_run(&self) -> [&str; 8] {
        let [verb, group, version, resource, subresource, scope, component] = self.labels();
        [verb, self.dry_run, group, version, resource, subresource, scope, component]
    }

    fn requests(&self, metrics: &Metrics, code: u16) -> IntCounter {
        let text = code.to_string();
        let [verb, dry_run, group, version, resource, subresource, scope, component] = self.with_dry_run();
        metrics.requests.with_label_values(&[
            verb,
            dry_run,
            group,
            version,
            resource,
            subresource,
            scope,
            component,
            text.as_str(),
        ])
    }

    /// Counts a finished request. `elsewhere` is how long it waited for its turn and for admission webhooks.
    pub(crate) fn finished(&self, metrics: &Metrics, code: u16, elapsed: Duration, elsewhere: Duration, bytes: Option<u64>) {
        match CODES.iter().position(|known| *known == code) {
            Some(at) => self.codes[at].get_or_init(|| self.requests(metrics, code)).inc(),
            None => self.requests(metrics, code).inc(),
        }
        if let Some(deprecated) = self.deprecated {
            let labels = [&*self.group, &*self.version, &*self.resource, &*self.subresource, deprecated.removed_release];
            metrics.deprecated.with_label_values(&labels).set(1);
        }
        // How long a client looked on says nothing about this server.
        if self.verb != "WATCH" && self.verb != "CONNECT" {
            let duration = self.duration.get_or_init(|| metrics.durations.with_label_values(&self.with_dry_run()));
            duration.observe(elapsed.as_secs_f64());
            if self.dry_run.is_empty() {
                let sli = self.sli_duration.get_or_init(|| metrics.sli_durations.with_label_values(&self.labels()));
                sli.observe(elapsed.saturating_sub(elsewhere).as_secs_f64());
            }
        }
        if let Some(bytes) = bytes
            && matches!(self.verb, "GET" | "LIST")
        {
            let sizes = self.response_size.get_or_init(|| metrics.response_sizes.with_label_values(&self.labels()));
            sizes.observe(bytes as f64);
        }
    }

    /// How many such requests are open.
    pub(crate) fn longrunning(&self, metrics: &Metrics) -> IntGauge {
        self.longrunning.get_or_init(|| metrics.longrunning.with_label_values(&self.labels())).clone()
    }

    /// Counts a request that this server has ended in self-defence.
    pub(crate) fn terminated(&self, metrics: &Metrics, code: &str) {
        let [verb, group, version, resource, subresource, scope, component] = self.labels();
        let labels = [verb, group, version, resource, subresource, scope, component, code];
        metrics.terminations.with_label_values(&labels).inc();
    }

    /// Counts a request whose client went away before the answer.
    pub(crate) fn aborted(&self, metrics: &Metrics) {
        metrics.aborts.with_label_values(&self.labels()[..6]).inc();
    }

    /// Counts a request of this server's own.
    pub(crate) fn own(&self, metrics: &Metrics) {
        metrics.self_requests.with_label_values(&[self.verb, &*self.group, &*self.resource, &*self.subresource]).inc();
    }

    /// What there is to say of a kind that is on its way out.
    pub(crate) fn deprecated(&self) -> Option<&'static Deprecated> {
        self.deprecated
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn requests_have_upstreams_labels() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        let kinds = pharos_api::registry::Registry::builtin();
        let apply = HeaderMap::from_iter([(CONTENT_TYPE, http::HeaderValue::from_static("application/apply-patch+yaml"))]);
        let none = HeaderMap::new();
        let pods = "/api/v1/namespaces/a/pods";
        for (method, target, headers, want) in [
            (Method::GET, "/api/v1/pods", &none, ["LIST", "", "v1", "pods", "", "cluster"]),
            (Method::GET, pods, &none, ["LIST", "", "v1", "pods", "", "namespace"]),
            (Method::POST, pods, &none, ["POST", "", "v1", "pods", "", "resource"]),
            (Method::GET, "/api/v1/namespaces/a/pods/b", &none, ["GET", "", "v1", "pods", "", "resource"]),
            (Method::GET, "/api/v1/namespaces/a/pods/b/log", &none, ["CONNECT", "", "v1", "pods", "log", "resource"]),
            (Method::GET, "/api/v1/namespaces/a/pods/b/invented", &none, ["GET", "", "", "", "", "resource"]),
            (Method::GET, "/api/v1/inventions", &none, ["LIST", "", "", "", "", "cluster"]),
            (Method::PATCH, "/api/v1/nodes/b", &apply, ["APPLY", "", "v1", "nodes", "", "resource"]),
            (
                Method::PATCH,
                "/apis/apps/v1/namespaces/a/deployments/b",
                &none,
                ["PATCH", "apps", "v1", "deployments", "", "resource"],
            ),
            (Method::GET, "/api/v1/pods?watch=1", &none, ["WATCH", "", "v1", "pods", "", "cluster"]),
            (Method::GET, "/livez", &none, ["GET", "", "", "", "/livez", ""]),
            (Method::OPTIONS, "/x", &none, ["other", "", "", "", "", ""]),
        ] {
            let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
            let info = RequestInfo::parse(&method, path, &Query::parse(query));
            let kind = kinds.lookup(&info.group, &info.version, &info.resource);
            let series = metrics.series(&info, kind.map(|kind| &**kind), verb(&info, headers), "");
            assert_eq!(series.labels()[..6], want, "{method} {target}");
            let again = metrics.series(&info, kind.map(|kind| &**kind), verb(&info, headers), "");
            assert!(Arc::ptr_eq(&series, &again), "{target}");
        }
    }

    #[test]
    fn what_never_counted_is_not_shown() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        let info = RequestInfo::parse(&Method::GET, "/api/v1/namespaces/a/endpoints/b", &Query::parse(None));
        let kinds = pharos_api::registry::Registry::builtin();
        let kind = kinds.lookup("", "v1", "endpoints").map(|kind| &**kind);
        let series = metrics.series(&info, kind, "GET", "");
        let text = || prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert!(!text().contains("endpoints"));
        series.finished(&metrics, 200, Duration::from_millis(80), Duration::from_millis(40), Some(10));
        series.finished(&metrics, 599, Duration::from_millis(1), Duration::ZERO, None);
        let text = text();
        let labels = |component: &str| format!("group=\"\",resource=\"endpoints\",scope=\"resource\",{component}");
        for line in [
            "apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"endpoints\"",
            "apiserver_request_total{code=\"599\"",
            "apiserver_requested_deprecated_apis{group=\"\",removed_release=\"\",resource=\"endpoints\",subresource=\"\",version=\"v1\"} 1",
            &format!(
                "apiserver_request_sli_duration_seconds_bucket{{component=\"apiserver\",{}",
                labels("subresource=\"\",verb=\"GET\",version=\"v1\",le=\"0.05\"} 2")
            ),
            &format!(
                "apiserver_request_sli_duration_seconds_count{{component=\"apiserver\",{}",
                labels("subresource=\"\",verb=\"GET\",version=\"v1\"} 2")
            ),
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
