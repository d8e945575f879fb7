//! A runtime that only keeps books, a network of one address, and an API server that knows one pod.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt as _, stream::BoxStream};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::client::Body;
use parking_lot::Mutex;
use pharos_client::{Informer, Recorder};
use pharos_network::{PodIps, PodNetwork, PodNetworkConfig, PodNetworkError};
use pharos_runtime::{
    Error, Result, Runtime,
    types::{
        ContainerConfig, ContainerEvent, ContainerFilter, ContainerState, ContainerStats, ContainerStatus, ExecRequest,
        ExecSyncResponse, Image, ImageFsInfo, ImageSpec, LinuxContainerResources, PodSandbox, PodSandboxConfig, PodSandboxFilter,
        PodSandboxState, PodSandboxStats, PodSandboxStatus, RegistryAuth, RuntimeCondition, Streams, Version,
    },
};
use pharos_telemetry::{Clock, Ctx};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::super::{Handle, start};
use crate::{
    config::Config, core::Core, images::Images, machine::Machine, metrics::Metrics, pod_status::tests::container,
    references::References,
};

/// Everything a worker is run against.
pub(super) struct World {
    pub(super) runtime: Arc<FakeRuntime>,
    pub(super) api: Arc<FakeApi>,
    core: Arc<Core>,
    root: PathBuf,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

/// A world with this pod.
pub(super) async fn world(pod: Value) -> World {
    // Dates go with the paused clock.
    let began = tokio::time::Instant::now();
    let clock = Clock::from_fn(move || Timestamp::from_second(1_800_000_000).unwrap() + began.elapsed());
    let runtime = Arc::new(FakeRuntime::new(clock.clone()));
    let api = Arc::new(FakeApi { pod: Mutex::new((pod, false)), events: Mutex::default() });
    let service = {
        let api = api.clone();
        tower::service_fn(move |request: http::Request<Body>| {
            let api = api.clone();
            async move { std::result::Result::<_, std::convert::Infallible>::Ok(api.answer(request).await) }
        })
    };
    let client = kube::Client::new(service, "default");
    let ctx = Ctx::for_test(CancellationToken::new());
    let root = std::env::temp_dir().join(format!("pharos-worker-{}-{}", std::process::id(), rand::random::<u32>()));
    let config =
        Config { node_name: "node".into(), root_dir: root.join("kubelet"), pod_log_dir: root.join("logs"), ..Config::default() };
    let machine = Machine { cores: 2, memory_bytes: 4 << 30, disk_bytes: 10 << 30, ..Machine::default() };
    let services = Informer::detached();
    let core = Arc::new(Core {
        allocatable: machine.allocatable(&config),
        recorder: Recorder::start(&ctx, client.clone(), "kubelet", Some("node")),
        references: References::new(ctx.clone(), client.clone()),
        images: Images::new(1),
        client,
        runtime: runtime.clone(),
        network: Arc::new(FakeNetwork(runtime.clone())),
        metrics: Metrics::new(&prometheus::Registry::new()).unwrap(),
        services,
        runtime_name: "fake".into(),
        runtime_version: "1".into(),
        machine,
        node_ips: vec![[10, 0, 0, 1].into()],
        node: Default::default(),
        node_dns: Default::default(),
        admitted: Default::default(),
        pods: Default::default(),
        pod_ips: Default::default(),
        pressure: Default::default(),
        status_wake: Default::default(),
        tallies: Default::default(),
        began_at: clock.now(),
        clock,
        ctx,
        config,
    });
    World { runtime, api, core, root }
}

impl World {
    /// A worker for the pod as it is.
    pub(super) fn start(&self) -> Handle {
        start(&self.core, Arc::new(serde_json::from_value(self.api.pod()).unwrap()), || {})
    }

    /// What `kubectl delete` does, and the watch brings.
    pub(super) fn delete(&self, handle: &Handle, grace: i64) {
        self.api.change(|pod| {
            pod["metadata"]["deletionTimestamp"] = json!(self.core.clock.now());
            pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        });
        let pod: Pod = serde_json::from_value(self.api.pod()).unwrap();
        handle.mailbox.send_modify(|update| update.pod = Arc::new(pod));
    }

    /// The watch says that the object is gone.
    pub(super) fn gone(&self, handle: &Handle) {
        handle.mailbox.send_modify(|update| update.removed = true);
    }
}

/// What an API server has of one pod.
pub(super) struct FakeApi {
    /// It, and whether it was deleted for good.
    pod: Mutex<(Value, bool)>,
    /// The different events about it.
    events: Mutex<Vec<String>>,
}

impl FakeApi {
    pub(super) fn pod(&self) -> Value {
        self.pod.lock().0.clone()
    }

    pub(super) fn is_deleted(&self) -> bool {
        self.pod.lock().1
    }

    /// The events about its containers: type, reason and message, each once, in order.
    pub(super) fn events(&self) -> Vec<String> {
        self.events.lock().clone()
    }

    fn change(&self, change: impl FnOnce(&mut Value)) -> Value {
        let mut state = self.pod.lock();
        change(&mut state.0);
        let version: u64 = state.0["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        state.0["metadata"]["resourceVersion"] = json!((version + 1).to_string());
        state.0.clone()
    }

    async fn answer(&self, request: http::Request<Body>) -> http::Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let answer = match (parts.method.as_str(), parts.uri.path()) {
            ("PATCH", "/api/v1/namespaces/n/pods/p/status") => {
                let patch: Value = serde_json::from_slice(&body).unwrap();
                self.change(|pod| merge(&mut pod["status"], &patch["status"]))
            }
            ("DELETE", "/api/v1/namespaces/n/pods/p") => {
                self.pod.lock().1 = true;
                self.pod()
            }
            ("GET", "/api/v1/namespaces/n/pods/p") => self.pod(),
            ("POST", "/api/v1/namespaces/n/events") => {
                let event: Value = serde_json::from_slice(&body).unwrap();
                if event["involvedObject"]["fieldPath"].is_string() {
                    let text = |field: &str| event[field].as_str().unwrap_or_default();
                    self.events.lock().push(format!("{} {} {}", text("type"), text("reason"), text("message")));
                }
                event
            }
            // It happened again.
            ("PATCH", path) if path.starts_with("/api/v1/namespaces/n/events/") => {
                json!({"apiVersion": "v1", "kind": "Event", "metadata": {}, "involvedObject": {}})
            }
            (method, path) => panic!("unexpected {method} {path}"),
        };
        http::Response::new(Body::from(answer.to_string().into_bytes()))
    }
}

/// As much of a strategic merge as a status needs.
fn merge(status: &mut Value, patch: &Value) {
    for (field, value) in patch.as_object().unwrap() {
        match (field.as_str(), value) {
            (_, Value::Null) => {
                status.as_object_mut().unwrap().remove(field);
            }
            ("conditions", Value::Array(list)) => {
                let mut all: Vec<Value> = status["conditions"].as_array().cloned().unwrap_or_default();
                for new in list {
                    all.retain(|old| old["type"] != new["type"]);
                    let mut new = new.clone();
                    new.as_object_mut().unwrap().retain(|_, value| !value.is_null());
                    all.push(new);
                }
                status["conditions"] = Value::Array(all);
            }
            _ => status[field] = value.clone(),
        }
    }
}

struct FakeNetwork(Arc<FakeRuntime>);

#[async_trait]
impl PodNetwork for FakeNetwork {
    async fn configure(&self, _: &[String]) -> std::result::Result<(), PodNetworkError> {
        Ok(())
    }

    async fn not_ready(&self) -> Option<String> {
        None
    }

    async fn attach(&self, _: &PodNetworkConfig) -> std::result::Result<PodIps, PodNetworkError> {
        *self.0.attached.lock() = true;
        Ok(vec![[10, 42, 0, 2].into()])
    }

    async fn detach(&self, _: &PodNetworkConfig) -> std::result::Result<(), PodNetworkError> {
        self.0.called("detach");
        *self.0.attached.lock() = false;
        Ok(())
    }

    async fn status(&self, _: &PodNetworkConfig) -> std::result::Result<Option<PodIps>, PodNetworkError> {
        Ok(self.0.attached.lock().then(|| vec![[10, 42, 0, 2].into()]))
    }
}

/// Keeps books.
pub(super) struct FakeRuntime {
    clock: Clock,
    sandboxes: Mutex<Vec<PodSandboxStatus>>,
    containers: Mutex<Vec<ContainerStatus>>,
    calls: Mutex<Vec<String>>,
    /// Whether the pod is attached.
    attached: Mutex<bool>,
    /// Whether commands in containers fail.
    execs_fail: AtomicBool,
    /// Whether there are images nowhere.
    images_lost: AtomicBool,
}

impl FakeRuntime {
    fn new(clock: Clock) -> Self {
        Self {
            clock,
            sandboxes: Mutex::default(),
            containers: Mutex::default(),
            calls: Mutex::default(),
            attached: Mutex::default(),
            execs_fail: AtomicBool::default(),
            images_lost: AtomicBool::default(),
        }
    }

    /// From now on, commands in containers fail.
    pub(super) fn fail_execs(&self) {
        self.execs_fail.store(true, Ordering::Relaxed);
    }

    /// From now on, no image is here nor in a registry.
    pub(super) fn lose_images(&self) {
        self.images_lost.store(true, Ordering::Relaxed);
    }

    fn called(&self, call: &str) {
        self.calls.lock().push(call.to_owned());
    }

    pub(super) fn calls(&self) -> Vec<String> {
        self.calls.lock().clone()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sandboxes.lock().is_empty() && self.containers.lock().is_empty()
    }

    /// The ID of a running container.
    pub(super) fn running(&self, name: &str) -> Option<String> {
        let containers = self.containers.lock();
        let found = containers.iter().rfind(|c| c.metadata.name == name && c.state == ContainerState::Running);
        found.map(|container| container.id.clone())
    }

    /// The container ends by itself.
    pub(super) fn exit(&self, name: &str, code: i32, handle: &Handle) {
        let id = self.running(name).unwrap();
        self.end(&id, code);
        handle.wake.notify_one();
    }

    fn end(&self, id: &str, code: i32) {
        if let Some(container) = self.containers.lock().iter_mut().find(|c| c.id == id && c.state == ContainerState::Running) {
            container.state = ContainerState::Exited;
            container.exit_code = code;
            container.finished_at = Some(self.clock.now());
        }
    }

    fn not_found<T>(&self, id: &str) -> Result<T> {
        Err(Error::NotFound { what: "container", id: id.to_owned() })
    }
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn version(&self) -> Result<Version> {
        Ok(Version { runtime_name: "fake".into(), runtime_version: "1".into(), runtime_api_version: "v1".into() })
    }

    async fn status(&self) -> Result<Vec<RuntimeCondition>> {
        Ok(Vec::new())
    }

    async fn run_pod_sandbox(&self, config: &PodSandboxConfig) -> Result<PodSandbox> {
        self.called("run_pod_sandbox");
        let id = format!("sandbox-{}", config.metadata.attempt);
        self.sandboxes.lock().push(PodSandboxStatus {
            id: id.clone(),
            metadata: config.metadata.clone(),
            state: PodSandboxState::Ready,
            created_at: self.clock.now(),
            netns: Some("/proc/1/ns/net".into()),
            pid: 1,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            config: config.clone(),
        });
        Ok(PodSandbox { id, netns: None, pid: 1 })
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<()> {
        for sandbox in self.sandboxes.lock().iter_mut().filter(|sandbox| sandbox.id == id) {
            sandbox.state = PodSandboxState::NotReady;
        }
        Ok(())
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<()> {
        self.sandboxes.lock().retain(|sandbox| sandbox.id != id);
        self.containers.lock().retain(|container| container.pod_sandbox_id != id);
        Ok(())
    }

    async fn pod_sandbox_status(&self, id: &str) -> Result<PodSandboxStatus> {
        let found = self.sandboxes.lock().iter().find(|sandbox| sandbox.id == id).cloned();
        found.map_or_else(|| self.not_found(id), Ok)
    }

    async fn list_pod_sandboxes(&self, _: &PodSandboxFilter) -> Result<Vec<PodSandboxStatus>> {
        Ok(self.sandboxes.lock().clone())
    }

    async fn create_container(&self, sandbox: &str, config: &ContainerConfig) -> Result<String> {
        let mut containers = self.containers.lock();
        let id = format!("{}-{}", config.metadata.name, config.metadata.attempt);
        let mut made = container(&config.metadata.name, ContainerState::Created, 0, 0);
        made.id = id.clone();
        made.pod_sandbox_id = sandbox.to_owned();
        made.metadata = config.metadata.clone();
        made.created_at = self.clock.now();
        made.annotations = config.annotations.clone();
        made.labels = config.labels.clone();
        containers.push(made);
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        for container in self.containers.lock().iter_mut().filter(|container| container.id == id) {
            container.state = ContainerState::Running;
            container.started_at = Some(self.clock.now());
        }
        Ok(())
    }

    async fn stop_container(&self, id: &str, _: Duration) -> Result<()> {
        self.called("stop_container");
        self.end(id, 143);
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        self.containers.lock().retain(|container| container.id != id);
        Ok(())
    }

    async fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        let found = self.containers.lock().iter().find(|container| container.id == id).cloned();
        found.map_or_else(|| self.not_found(id), Ok)
    }

    async fn list_containers(&self, _: &ContainerFilter) -> Result<Vec<ContainerStatus>> {
        Ok(self.containers.lock().clone())
    }

    async fn update_container_resources(&self, _: &str, _: &LinuxContainerResources) -> Result<()> {
        Ok(())
    }

    async fn update_pod_sandbox_resources(&self, _: &str, _: &LinuxContainerResources) -> Result<()> {
        Ok(())
    }

    async fn reopen_container_log(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn exec(&self, _: &ExecRequest, _: Streams) -> Result<i32> {
        Ok(0)
    }

    async fn exec_sync(&self, _: &str, _: &[String], _: Duration) -> Result<ExecSyncResponse> {
        Ok(ExecSyncResponse { exit_code: i32::from(self.execs_fail.load(Ordering::Relaxed)), ..ExecSyncResponse::default() })
    }

    async fn attach(&self, _: &str, _: Streams) -> Result<()> {
        Ok(())
    }

    async fn container_stats(&self, id: &str) -> Result<ContainerStats> {
        self.not_found(id)
    }

    async fn list_container_stats(&self, _: &ContainerFilter) -> Result<Vec<ContainerStats>> {
        Ok(Vec::new())
    }

    async fn pod_sandbox_stats(&self, id: &str) -> Result<PodSandboxStats> {
        self.not_found(id)
    }

    async fn list_pod_sandbox_stats(&self, _: &PodSandboxFilter) -> Result<Vec<PodSandboxStats>> {
        Ok(Vec::new())
    }

    async fn events(&self) -> Result<BoxStream<'static, ContainerEvent>> {
        Ok(futures::stream::pending().boxed())
    }

    async fn list_images(&self, _: Option<&ImageSpec>) -> Result<Vec<Image>> {
        Ok(Vec::new())
    }

    async fn image_status(&self, _: &ImageSpec) -> Result<Option<Image>> {
        let here = !self.images_lost.load(Ordering::Relaxed);
        Ok(here.then(|| Image { id: "sha256:1".into(), ..Image::default() }))
    }

    async fn pull_image(&self, image: &ImageSpec, _: &RegistryAuth) -> Result<String> {
        if self.images_lost.load(Ordering::Relaxed) {
            return Err(Error::NotFound { what: "image", id: image.image.clone() });
        }
        Ok(image.image.clone())
    }

    async fn remove_image(&self, _: &ImageSpec) -> Result<()> {
        Ok(())
    }

    async fn load_image(&self, _: &Path) -> Result<Vec<Image>> {
        Ok(Vec::new())
    }

    async fn image_fs_info(&self) -> Result<ImageFsInfo> {
        Ok(ImageFsInfo::default())
    }
}
