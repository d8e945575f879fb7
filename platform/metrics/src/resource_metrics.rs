//! The resource metrics API (`metrics.k8s.io/v1beta1`): what `kubectl top` reads.
//!
//! Answers as metrics-server does: CPU as the rate between a counter's last two samples, memory as its last sample. Kubelets'
//! `/metrics/resource` comes first; what it lacks is taken from `/metrics/cadvisor`. A pod appears once all its running
//! containers are measured. Which objects there are, and their labels, the API server says.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, ObjectMeta},
};
use serde_json::{Value, json};

use crate::{
    Shared,
    labels::{Labels, METRIC_NAME, Matcher},
    tsdb::{Sample, Tsdb, is_stale},
};

/// How old the last sample may be.
const FRESH_MS: i64 = 120_000;

/// Answers `metrics.k8s.io/v1beta1` from the store. Cheap to clone.
#[derive(Clone)]
pub struct ResourceMetricsHandler {
    pub(crate) shared: Shared,
    pub(crate) client: kube::Client,
}

/// What something used, as of when, measured over how long.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Usage {
    cpu_nanocores: i64,
    memory_bytes: i64,
    t: i64,
    window_ms: i64,
}

/// A container's place: namespace, pod, name.
type Place = (String, String, String);

/// Why there is no answer.
enum Failure {
    NotFound(&'static str, String),
    Bad(String),
    NotAllowed,
    NoPath,
    Starting,
    Client(kube::Error),
}

impl ResourceMetricsHandler {
    /// The group.
    pub const GROUP: &'static str = "metrics.k8s.io";
    /// The version.
    pub const VERSION: &'static str = "v1beta1";

    /// Answers one request; its path is relative to `/apis/metrics.k8s.io/v1beta1` and starts with a slash.
    pub async fn handle(&self, request: Request<Bytes>) -> Response<Bytes> {
        match self.answer(&request).await {
            Ok(value) => respond(StatusCode::OK, &value),
            Err(failure) => failure.into_response(),
        }
    }

    /// The `APIResource` entries of the group version, for discovery.
    #[must_use]
    pub fn resources() -> Vec<Value> {
        vec![
            json!({"name": "nodes", "singularName": "", "namespaced": false, "kind": "NodeMetrics", "verbs": ["get", "list"]}),
            json!({"name": "pods", "singularName": "", "namespaced": true, "kind": "PodMetrics", "verbs": ["get", "list"]}),
        ]
    }

    async fn answer(&self, request: &Request<Bytes>) -> Result<Value, Failure> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return Err(Failure::NotAllowed);
        }
        let mut params = ListParams::default();
        for (key, value) in url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()) {
            match &*key {
                "labelSelector" if !value.is_empty() => params.label_selector = Some(value.into_owned()),
                "fieldSelector" if !value.is_empty() => params.field_selector = Some(value.into_owned()),
                "watch" if value == "true" || value == "1" => return Err(Failure::NotAllowed),
                _ => {}
            }
        }
        let words: Vec<&str> = request.uri().path().split('/').filter(|w| !w.is_empty()).collect();
        match words[..] {
            [] => Ok(json!({
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": format!("{}/{}", Self::GROUP, Self::VERSION),
                "resources": Self::resources(),
            })),
            ["nodes"] => self.nodes(&params).await,
            ["nodes", name] => self.node(name).await,
            ["pods"] => self.pods(Api::all(self.client.clone()), &params).await,
            ["namespaces", namespace, "pods"] => self.pods(Api::namespaced(self.client.clone(), namespace), &params).await,
            ["namespaces", namespace, "pods", name] => self.pod(namespace, name).await,
            _ => Err(Failure::NoPath),
        }
    }

    async fn nodes(&self, params: &ListParams) -> Result<Value, Failure> {
        let usage = self.measure(node_usage).await?;
        let nodes = Api::<Node>::all(self.client.clone()).list_metadata(params).await?;
        let items: Vec<Value> =
            nodes.items.iter().filter_map(|node| Some(node_json(&node.metadata, usage.get(&node.name_any())?))).collect();
        Ok(list("NodeMetricsList", items))
    }

    async fn node(&self, name: &str) -> Result<Value, Failure> {
        let Some(node) = Api::<Node>::all(self.client.clone()).get_metadata_opt(name).await? else {
            return Err(Failure::NotFound("nodes", name.to_owned()));
        };
        let usage = self.measure(node_usage).await?;
        let usage = usage.get(name).ok_or_else(|| Failure::NotFound("nodes.metrics.k8s.io", name.to_owned()))?;
        Ok(typed("NodeMetrics", node_json(&node.metadata, usage)))
    }

    async fn pods(&self, api: Api<Pod>, params: &ListParams) -> Result<Value, Failure> {
        let usage = self.measure(container_usage).await?;
        let pods = api.list(params).await?;
        let items: Vec<Value> = pods.items.iter().filter_map(|pod| pod_json(pod, &usage)).collect();
        Ok(list("PodMetricsList", items))
    }

    async fn pod(&self, namespace: &str, name: &str) -> Result<Value, Failure> {
        let not_found = |resource| Failure::NotFound(resource, name.to_owned());
        let api = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let pod = api.get_opt(name).await?.ok_or_else(|| not_found("pods"))?;
        let usage = self.measure(container_usage).await?;
        let metrics = pod_json(&pod, &usage).ok_or_else(|| not_found("pods.metrics.k8s.io"))?;
        Ok(typed("PodMetrics", metrics))
    }

    async fn measure<T: Send + 'static>(&self, f: fn(&Tsdb, i64) -> T) -> Result<T, Failure> {
        let db = self.shared.db().ok_or(Failure::Starting)?;
        let now = Timestamp::now().as_millisecond();
        tokio::task::spawn_blocking(move || f(&db, now)).await.map_err(|_| Failure::Starting)
    }
}

/// What each node uses.
fn node_usage(db: &Tsdb, now: i64) -> BTreeMap<String, Usage> {
    let key = |labels: &Labels| Some(labels.get("node").to_owned()).filter(|n| !n.is_empty());
    let of = |metric: &str, path: &str, whole: bool| {
        let mut matchers = vec![Matcher::equal(METRIC_NAME, metric), Matcher::equal("metrics_path", path)];
        if whole {
            matchers.push(Matcher::equal("id", "/"));
        }
        last_two(db, &matchers, now, key)
    };
    let mut usage = join(
        &of("node_cpu_usage_seconds_total", "/metrics/resource", false),
        &of("node_memory_working_set_bytes", "/metrics/resource", false),
    );
    let path = "/metrics/cadvisor";
    let others =
        join(&of("container_cpu_usage_seconds_total", path, true), &of("container_memory_working_set_bytes", path, true));
    for (node, used) in others {
        usage.entry(node).or_insert(used);
    }
    usage
}

/// What each container uses.
fn container_usage(db: &Tsdb, now: i64) -> BTreeMap<Place, Usage> {
    let key = |labels: &Labels| {
        let place = ["namespace", "pod", "container"].map(|name| labels.get(name).to_owned());
        let named = place.iter().all(|part| !part.is_empty()) && place[2] != "POD";
        let [namespace, pod, container] = place;
        named.then_some((namespace, pod, container))
    };
    let of = |metric: &str, path: &str| {
        last_two(db, &[Matcher::equal(METRIC_NAME, metric), Matcher::equal("metrics_path", path)], now, key)
    };
    let (cpu, memory) = ("container_cpu_usage_seconds_total", "container_memory_working_set_bytes");
    let mut usage = join(&of(cpu, "/metrics/resource"), &of(memory, "/metrics/resource"));
    for (place, used) in join(&of(cpu, "/metrics/cadvisor"), &of(memory, "/metrics/cadvisor")) {
        usage.entry(place).or_insert(used);
    }
    usage
}

/// The last two samples of each series that is not stale, by key. Of several series the youngest counts.
fn last_two<K: Ord>(
    db: &Tsdb,
    matchers: &[Matcher],
    now: i64,
    key: impl Fn(&Labels) -> Option<K>,
) -> BTreeMap<K, (Option<Sample>, Sample)> {
    let mut found: BTreeMap<K, (Option<Sample>, Sample)> = BTreeMap::new();
    let mut samples = Vec::new();
    for series in db.select(matchers, now - FRESH_MS, now) {
        let Some(key) = key(series.labels()) else { continue };
        samples.clear();
        series.read(now - FRESH_MS, now, &mut samples);
        let Some(last) = samples.pop().filter(|s| !is_stale(s.v)) else { continue };
        let before = samples.pop().filter(|s| !is_stale(s.v));
        if found.get(&key).is_none_or(|(_, known)| known.t < last.t) {
            found.insert(key, (before, last));
        }
    }
    found
}

/// CPU and memory of the keys that have both.
fn join<K: Ord + Clone>(
    cpu: &BTreeMap<K, (Option<Sample>, Sample)>,
    memory: &BTreeMap<K, (Option<Sample>, Sample)>,
) -> BTreeMap<K, Usage> {
    let mut usage = BTreeMap::new();
    for (key, (before, last)) in cpu {
        let (Some(before), Some((_, memory))) = (before, memory.get(key)) else { continue };
        let window_ms = last.t - before.t;
        // A counter that fell belongs to a container that began anew: its rate is not known yet.
        if window_ms <= 0 || last.v < before.v {
            continue;
        }
        let cores = (last.v - before.v) / (window_ms as f64 / 1000.0);
        let used = Usage { cpu_nanocores: (cores * 1e9) as i64, memory_bytes: memory.v as i64, t: last.t, window_ms };
        usage.insert(key.clone(), used);
    }
    usage
}

fn usage_json(usage: &Usage) -> Value {
    json!({"cpu": format!("{}n", usage.cpu_nanocores), "memory": format!("{}Ki", usage.memory_bytes / 1024)})
}

fn metadata(meta: &ObjectMeta) -> Value {
    let mut out = json!({"name": meta.name, "creationTimestamp": seconds(Timestamp::now().as_millisecond())});
    if let Some(namespace) = &meta.namespace {
        out["namespace"] = json!(namespace);
    }
    if let Some(labels) = meta.labels.as_ref().filter(|l| !l.is_empty()) {
        out["labels"] = json!(labels);
    }
    out
}

fn node_json(meta: &ObjectMeta, usage: &Usage) -> Value {
    json!({"metadata": metadata(meta), "timestamp": seconds(usage.t), "window": window(usage.window_ms), "usage": usage_json(usage)})
}

/// `None` until each running container of the pod is measured.
fn pod_json(pod: &Pod, usage: &BTreeMap<Place, Usage>) -> Option<Value> {
    let (namespace, name) = (pod.namespace()?, pod.name_any());
    let statuses = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    let running = statuses.filter(|s| s.state.as_ref().is_some_and(|s| s.running.is_some()));
    let mut containers = Vec::new();
    let (mut t, mut window_ms) = (i64::MAX, 0);
    for status in running {
        let used = usage.get(&(namespace.clone(), name.clone(), status.name.clone()))?;
        (t, window_ms) = (t.min(used.t), window_ms.max(used.window_ms));
        containers.push(json!({"name": status.name, "usage": usage_json(used)}));
    }
    (!containers.is_empty()).then(|| {
        json!({
            "metadata": metadata(&pod.metadata),
            "timestamp": seconds(t),
            "window": window(window_ms),
            "containers": containers,
        })
    })
}

/// RFC 3339 in whole seconds.
fn seconds(t: i64) -> String {
    Timestamp::from_second(t.div_euclid(1000)).map(|t| t.to_string()).unwrap_or_default()
}

/// A duration as Go writes it.
fn window(ms: i64) -> String {
    let (minutes, rest) = (ms / 60_000, (ms % 60_000) as f64 / 1000.0);
    if minutes > 0 { format!("{minutes}m{rest}s") } else { format!("{rest}s") }
}

fn typed(kind: &str, mut value: Value) -> Value {
    value["kind"] = json!(kind);
    value["apiVersion"] = json!("metrics.k8s.io/v1beta1");
    value
}

fn list(kind: &str, items: Vec<Value>) -> Value {
    json!({"kind": kind, "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {}, "items": items})
}

fn respond(status: StatusCode, value: &Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(value.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

// === impl Failure ===

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 400 => Self::Bad(status.message.clone()),
            other => Self::Client(other),
        }
    }
}

impl Failure {
    fn into_response(self) -> Response<Bytes> {
        let (code, reason, message) = match self {
            Self::NotFound(resource, name) => (StatusCode::NOT_FOUND, "NotFound", format!("{resource} {name:?} not found")),
            Self::Bad(message) => (StatusCode::BAD_REQUEST, "BadRequest", message),
            Self::NotAllowed => {
                let message = "the server does not allow this method on the requested resource";
                (StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message.to_owned())
            }
            Self::NoPath => (StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource".to_owned()),
            Self::Starting => {
                (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", "the metrics store is not open yet".to_owned())
            }
            Self::Client(error) => {
                tracing::warn!(error = crate::chain(&error), "objects could not be read");
                (StatusCode::INTERNAL_SERVER_ERROR, "InternalError", "objects could not be read".to_owned())
            }
        };
        let status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code.as_u16(),
        });
        respond(code, &status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_comes_from_resource_metrics_then_from_cadvisor() {
        let db = Tsdb::in_memory();
        let add = |text: &[(&str, &str)], samples: &[(i64, f64)]| {
            let (id, _) = db.series(&Labels::from_pairs(text.iter().copied()));
            db.append(&samples.iter().map(|&(t, v)| (id, Sample { t, v })).collect::<Vec<_>>());
        };
        for (path, container, rate) in
            [("/metrics/resource", "a", 0.5), ("/metrics/cadvisor", "a", 9.0), ("/metrics/cadvisor", "b", 0.25)]
        {
            let labels =
                |name| [(METRIC_NAME, name), ("metrics_path", path), ("namespace", "n"), ("pod", "p"), ("container", container)];
            add(&labels("container_cpu_usage_seconds_total"), &[(0, 1.0), (15_000, 1.0 + 15.0 * rate)]);
            add(&labels("container_memory_working_set_bytes"), &[(15_000, 2048.0)]);
        }
        let usage = container_usage(&db, 20_000);
        let of = |c: &str| usage[&("n".to_owned(), "p".to_owned(), c.to_owned())];
        assert_eq!(of("a"), Usage { cpu_nanocores: 500_000_000, memory_bytes: 2048, t: 15_000, window_ms: 15_000 });
        assert_eq!(of("b").cpu_nanocores, 250_000_000);
        assert!(container_usage(&db, 15_001 + FRESH_MS).is_empty());
        assert_eq!((window(15_012), window(60_000)), ("15.012s".to_owned(), "1m0s".to_owned()));
    }
}
