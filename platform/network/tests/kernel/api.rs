//! As much of an API server as informers and patches need, in this process.

use std::{collections::BTreeMap, convert::Infallible, path::Path, sync::Arc, thread::JoinHandle, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, StreamBody, combinators::BoxBody};
use parking_lot::Mutex;
use pharos_client::kube;
use pharos_telemetry::{Component, Ctx};
use serde_json::{Value, json};
use tokio::{sync::mpsc::UnboundedSender, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::world::inside;

/// Objects by the path of their collection and name. All clones are one server.
#[derive(Clone, Default)]
pub(crate) struct Api(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    objects: BTreeMap<(String, String), Value>,
    watchers: Vec<(String, UnboundedSender<Bytes>)>,
    revision: u64,
}

/// A component that runs in a namespace until this is dropped.
pub(crate) struct Running {
    token: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

pub(crate) const SERVICES: &str = "/api/v1/services";
pub(crate) const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
pub(crate) const NODES: &str = "/api/v1/nodes";

impl Api {
    /// Creates or replaces an object.
    pub(crate) fn put(&self, collection: &str, mut object: Value) {
        let mut inner = self.0.lock();
        inner.revision += 1;
        object["metadata"]["resourceVersion"] = json!(inner.revision.to_string());
        let key = (collection.to_owned(), object["metadata"]["name"].as_str().unwrap().to_owned());
        let known = inner.objects.insert(key, object.clone()).is_some();
        inner.tell(collection, if known { "MODIFIED" } else { "ADDED" }, object);
    }

    pub(crate) fn delete(&self, collection: &str, name: &str) {
        let mut inner = self.0.lock();
        inner.revision += 1;
        let object = inner.objects.remove(&(collection.to_owned(), name.to_owned())).unwrap();
        inner.tell(collection, "DELETED", object);
    }

    pub(crate) fn get(&self, collection: &str, name: &str) -> Value {
        self.0.lock().objects[&(collection.to_owned(), name.to_owned())].clone()
    }

    /// Starts a component on a thread inside a namespace.
    pub(crate) fn start<C: Component>(&self, namespace: &Path, make: impl FnOnce(kube::Client) -> C + Send + 'static) -> Running {
        let (token, api, namespace) = (CancellationToken::new(), self.clone(), namespace.to_owned());
        let stop = token.clone();
        let thread = std::thread::spawn(move || {
            inside(&namespace, || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let client = pharos_client::in_process(tower::service_fn(move |request| api.clone().answer(request)));
                    make(client).run(Ctx::for_test(stop)).await.unwrap();
                });
            });
        });
        Running { token, thread: Some(thread) }
    }

    async fn answer(self, request: Request<kube::client::Body>) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        if request.method() == Method::PATCH {
            let patch: Value = serde_json::from_slice(&request.into_body().collect().await.unwrap().to_bytes()).unwrap();
            let path = path.trim_end_matches("/status");
            let (collection, name) = path.rsplit_once('/').unwrap();
            let mut object = self.get(collection, name);
            merge(&mut object, patch);
            self.put(collection, object.clone());
            return Ok(Response::new(full(object.to_string())));
        }
        let mut inner = self.0.lock();
        if !query.contains("watch=") {
            let items: Vec<&Value> = inner.objects.iter().filter(|((c, _), _)| *c == path).map(|(_, o)| o).collect();
            let list = json!({"metadata": {"resourceVersion": inner.revision.to_string()}, "items": items});
            return Ok(Response::new(full(list.to_string())));
        }
        let since: u64 =
            query.split('&').find_map(|p| p.strip_prefix("resourceVersion=")).and_then(|r| r.parse().ok()).unwrap_or(0);
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        for ((collection, _), object) in &inner.objects {
            let revision: u64 = object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
            if *collection == path && revision > since {
                sender.send(event("ADDED", object)).unwrap();
            }
        }
        inner.watchers.push((path, sender));
        let events = stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
        let frames = StreamBody::new(events.map(|e| Ok(http_body::Frame::data(e))));
        Ok(Response::new(BoxBody::new(frames)))
    }
}

impl Inner {
    fn tell(&mut self, collection: &str, kind: &str, object: Value) {
        self.watchers.retain(|(watched, sender)| watched != collection || sender.send(event(kind, &object)).is_ok());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.token.cancel();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

fn event(kind: &str, object: &Value) -> Bytes {
    format!("{}\n", json!({"type": kind, "object": object})).into()
}

fn full(text: String) -> BoxBody<Bytes, Infallible> {
    http_body_util::Full::new(Bytes::from(text)).boxed()
}

fn merge(target: &mut Value, patch: Value) {
    match patch {
        Value::Object(fields) if target.is_object() => {
            for (name, value) in fields {
                merge(&mut target[name], value);
            }
        }
        patch => *target = patch,
    }
}

/// Waits until something holds; fails after some seconds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(15), "not in time: {what}");
        std::thread::sleep(Duration::from_millis(30));
    }
}

pub(crate) fn node(name: &str, ranges: &[&str], address: &str) -> Value {
    json!({
        "metadata": {"name": name}, "spec": {"podCIDRs": ranges},
        "status": {"addresses": [{"type": "InternalIP", "address": address}], "conditions": []}
    })
}

/// A Service `default/web`, from port 80 to 80, with more fields of its spec.
pub(crate) fn service(more: Value) -> Value {
    let mut spec = json!({"clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7"], "ports": [
        {"name": "tcp", "port": 80, "protocol": "TCP"}, {"name": "udp", "port": 80, "protocol": "UDP"}
    ]});
    merge(&mut spec, more);
    json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec})
}

/// A slice of `default/web`: endpoints by address and node.
pub(crate) fn slice(name: &str, address_type: &str, endpoints: &[(&str, &str)]) -> Value {
    let endpoints: Vec<Value> = endpoints.iter().map(|(ip, node)| json!({"addresses": [ip], "nodeName": node})).collect();
    json!({
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": address_type, "endpoints": endpoints,
        "ports": [{"name": "tcp", "port": 80, "protocol": "TCP"}, {"name": "udp", "port": 80, "protocol": "UDP"}]
    })
}
