use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{Api, Client, runtime::watcher};
use parking_lot::{Mutex, RwLock};
use pharos_client::{Event, Informer, Recorder};
use pharos_network::PodNetwork;
use pharos_runtime::{
    Runtime,
    types::{ContainerEventKind, PodSandboxFilter},
};
use pharos_telemetry::{Backoff, Component, Ctx};
use prometheus::Registry;

use crate::{
    config::Config,
    core::Core,
    error::{Error, Result},
    eviction, hosts,
    images::Images,
    machine::{self, Machine},
    metrics::Metrics,
    names, node,
    pod_status::Failure,
    pod_worker::{self, Handle, sandbox},
    references::References,
    server::{Components, Server, ServerTls},
    volumes,
};

/// Events can get lost between a runtime and us; so often everything is looked at regardless.
const RELIST: Duration = Duration::from_secs(300);

/// The kubelet: what outlives a restart of it. The rest is found again in the runtime, on disk and in the API.
pub struct Kubelet {
    config: Config,
    client: Client,
    runtime: Arc<dyn Runtime>,
    network: Arc<dyn PodNetwork>,
    tls: Option<ServerTls>,
    components: Option<Components>,
    metrics: Metrics,
    /// The running part, for whoever reads its metrics in this process.
    current: Arc<RwLock<Option<Arc<Core>>>>,
}

impl Kubelet {
    /// A kubelet. Without `tls` it serves no HTTP API.
    ///
    /// # Errors
    /// When its metrics are registered already.
    pub fn new(
        mut config: Config,
        client: Client,
        runtime: Arc<dyn Runtime>,
        network: Arc<dyn PodNetwork>,
        tls: Option<ServerTls>,
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        if config.node_name.is_empty() {
            config.node_name = Machine::read(&config).hostname;
        }
        let metrics = Metrics::new(registry)?;
        Ok(Self { config, client, runtime, network, tls, components: None, metrics, current: Arc::default() })
    }

    /// Serves the metrics of what runs beside the kubelet too, below `/metrics/components/`.
    #[must_use]
    pub fn with_components(self, components: Components) -> Self {
        Self { components: Some(components), ..self }
    }

    /// Reads the metrics of containers, for the collector in this process.
    pub fn container_metrics(&self) -> ContainerMetrics {
        ContainerMetrics(self.current.clone())
    }

    async fn core(&self, ctx: &Ctx) -> Result<Arc<Core>> {
        let config = self.config.clone();
        tokio::fs::create_dir_all(config.root_dir.join("pods"))
            .await
            .map_err(|source| Error::Io { action: format!("create {}", config.root_dir.display()), source })?;
        let version = self
            .runtime
            .version()
            .await
            .map_err(|source| Error::Runtime { action: "ask the runtime for its version", source })?;
        let machine = Machine::read(&config);
        let node_ips: Vec<IpAddr> =
            if config.node_ips.is_empty() { machine::default_ip().into_iter().collect() } else { config.node_ips.clone() };
        let resolv = config.resolv_conf.clone().unwrap_or_else(default_resolv_conf);
        let node_dns = hosts::parse_resolv_conf(&tokio::fs::read_to_string(&resolv).await.unwrap_or_default());
        let services = Informer::start(ctx, Api::<Service>::all(self.client.clone()), watcher::Config::default());
        Ok(Arc::new(Core {
            allocatable: machine.allocatable(&config),
            recorder: Recorder::start(ctx, self.client.clone(), "kubelet", Some(&config.node_name)),
            references: References::new(ctx.clone(), self.client.clone()),
            images: Images::new(config.max_parallel_image_pulls),
            ctx: ctx.clone(),
            clock: ctx.clock().clone(),
            client: self.client.clone(),
            runtime: self.runtime.clone(),
            network: self.network.clone(),
            metrics: self.metrics.clone(),
            services,
            runtime_name: version.runtime_name,
            runtime_version: version.runtime_version,
            machine,
            node_ips,
            node: RwLock::default(),
            node_dns,
            admitted: Mutex::default(),
            pods: RwLock::default(),
            pod_ips: RwLock::default(),
            pressure: RwLock::default(),
            status_wake: Arc::default(),
            tallies: Mutex::default(),
            began_at: ctx.clock().now(),
            config,
        }))
    }
}

/// Reads the metrics of containers from the kubelet in this process.
#[derive(Clone)]
pub struct ContainerMetrics(Arc<RwLock<Option<Arc<Core>>>>);

impl ContainerMetrics {
    /// The text of `/metrics/cadvisor`; `None` while the kubelet is not running.
    pub async fn cadvisor(&self) -> Option<String> {
        let core = self.0.read().clone()?;
        Some(crate::server::cadvisor::text(&core).await)
    }

    /// The text of `/metrics/resource`; `None` while the kubelet is not running.
    pub async fn resource(&self) -> Option<String> {
        let core = self.0.read().clone()?;
        Some(crate::server::resource::text(&core).await)
    }
}

/// The workers by pod UID. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Workers(Arc<Mutex<HashMap<String, Handle>>>);

impl Workers {
    /// Hands a pod to its worker, which is started if need be.
    fn update(&self, core: &Arc<Core>, pod: Arc<Pod>) {
        let uid = names::uid(&pod).to_owned();
        let mut workers = self.0.lock();
        match workers.get(&uid) {
            Some(handle) => {
                handle.mailbox.send_modify(|update| update.pod = pod);
            }
            None => {
                let (all, key) = (self.clone(), uid.clone());
                let handle = pod_worker::start(core, pod, move || {
                    all.0.lock().remove(&key);
                });
                workers.insert(uid, handle);
            }
        }
    }

    /// The pod's object is gone.
    fn remove(&self, pod: &Pod) {
        if let Some(handle) = self.0.lock().get(names::uid(pod)) {
            handle.mailbox.send_modify(|update| update.removed = true);
        }
    }

    /// The node gets rid of a pod.
    pub(crate) fn evict(&self, uid: &str, failure: Failure) {
        if let Some(handle) = self.0.lock().get(uid) {
            handle.mailbox.send_modify(|update| update.evict = Some(failure));
        }
    }

    fn wake(&self, uid: &str) {
        if let Some(handle) = self.0.lock().get(uid) {
            handle.wake.notify_one();
        }
    }

    fn wake_all(&self) {
        self.0.lock().values().for_each(|handle| handle.wake.notify_one());
    }
}

impl Component for Kubelet {
    const NAME: &'static str = "kubelet";
    type Error = Error;

    async fn run(&self, ctx: Ctx) -> Result<()> {
        let core = self.core(&ctx).await?;
        core.metrics.node_name.with_label_values(&[&core.config.node_name]).set(1);
        core.metrics
            .node_info
            .with_label_values(&[node::VERSION, "1", "37", &format!("linux/{}", core.machine.architecture)])
            .set(1.0);
        *self.current.write() = Some(core.clone());
        let workers = Workers::default();

        core.recorder.normal(&node::regarding(&core), "Starting", "Starting kubelet.");
        let server = match &self.tls {
            Some(tls) => Some(Server::bind(core.clone(), tls, self.components.clone()).await?),
            None => None,
        };
        node::register(&core).await;
        if ctx.is_stopped() {
            return Ok(());
        }
        let own = node::follow(&core);
        ctx.spawn("node-status", node::keep_status(core.clone(), own.clone()));
        ctx.spawn("node-lease", node::keep_lease(core.clone()));
        ctx.spawn("pod-cidrs", node::follow_pod_cidrs(core.clone(), own));
        ctx.spawn("eviction", eviction::watch(core.clone(), workers.clone()));
        ctx.spawn("runtime-events", follow_runtime(core.clone(), workers.clone()));
        if let Some(server) = server {
            ctx.spawn("server", server.serve());
        }

        let config = watcher::Config::default().fields(&format!("spec.nodeName={}", core.config.node_name));
        let pods: Informer<Pod> = Informer::start(&ctx, Api::all(self.client.clone()), config);
        let (core_, workers_) = (core.clone(), workers.clone());
        pods.on_event(move |event| match event {
            Event::Added(pod) => workers_.update(&core_, pod.clone()),
            Event::Updated { old, new } => {
                // A pod of the same name that took its place while nobody looked.
                if old.metadata.uid != new.metadata.uid {
                    workers_.remove(old);
                }
                workers_.update(&core_, new.clone());
            }
            Event::Deleted(pod) => workers_.remove(pod),
        });
        tokio::select! {
            () = ctx.stopped() => return Ok(()),
            () = pods.synced() => {}
        }
        ctx.ready();
        remove_orphans(&core, &pods).await;
        ctx.stopped().await;
        *self.current.write() = None;
        Ok(())
    }
}

/// systemd-resolved's stub can't be reached from pods; its real configuration lies elsewhere.
fn default_resolv_conf() -> PathBuf {
    let resolved = Path::new("/run/systemd/resolve/resolv.conf");
    let stub = std::fs::read_to_string("/etc/resolv.conf")
        .is_ok_and(|text| text.lines().any(|line| line.trim() == "nameserver 127.0.0.53"));
    if stub && resolved.exists() { resolved.to_owned() } else { "/etc/resolv.conf".into() }
}

/// Wakes workers when something happens to their containers.
async fn follow_runtime(core: Arc<Core>, workers: Workers) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
    let mut relist = tokio::time::interval(RELIST);
    relist.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let mut events = match core.runtime.events().await {
            Ok(events) => events,
            Err(error) => {
                tracing::warn!(error = error.chain(), "cannot follow the runtime's events, trying again");
                tokio::select! {
                    () = core.ctx.stopped() => return,
                    () = tokio::time::sleep(backoff.next_wait()) => continue,
                }
            }
        };
        // Whatever happened before this stream began.
        workers.wake_all();
        loop {
            tokio::select! {
                () = core.ctx.stopped() => return,
                _ = relist.tick() => workers.wake_all(),
                event = events.next() => {
                    let Some(event) = event else { break };
                    backoff.reset();
                    core.metrics.pleg_last_seen.set(core.clock.now().as_millisecond() as f64 / 1000.0);
                    match event.kind {
                        ContainerEventKind::Lagged => workers.wake_all(),
                        // Ours, known already.
                        ContainerEventKind::Created | ContainerEventKind::Deleted => {}
                        _ => workers.wake(&event.pod_uid),
                    }
                }
            }
        }
        tokio::select! {
            () = core.ctx.stopped() => return,
            () = tokio::time::sleep(backoff.next_wait()) => {}
        }
    }
}

/// Ends what is left of pods that were deleted while the kubelet was away.
async fn remove_orphans(core: &Arc<Core>, pods: &Informer<Pod>) {
    let known: BTreeSet<String> = pods.list().iter().map(|pod| names::uid(pod).to_owned()).collect();
    match core.runtime.list_pod_sandboxes(&PodSandboxFilter::default()).await {
        Ok(sandboxes) => {
            for orphan in sandboxes.iter().filter(|s| s.labels.get(names::POD_UID).is_some_and(|uid| !known.contains(uid))) {
                tracing::info!(
                    pod = orphan.metadata.name,
                    namespace = orphan.metadata.namespace,
                    uid = orphan.metadata.uid,
                    "removing an orphaned pod"
                );
                if let Err(error) = sandbox::stop_sandbox(core, orphan).await {
                    tracing::warn!(uid = orphan.metadata.uid, error, "cannot stop an orphaned pod");
                    continue;
                }
                if let Err(error) = core.runtime.remove_pod_sandbox(&orphan.id).await {
                    tracing::warn!(uid = orphan.metadata.uid, error = error.chain(), "cannot remove an orphaned pod");
                    continue;
                }
                let _ = tokio::fs::remove_dir_all(&orphan.config.log_directory).await;
            }
        }
        Err(error) => tracing::warn!(error = error.chain(), "cannot look for orphaned pods"),
    }
    let root = core.config.root_dir.join("pods");
    let cleaned = tokio::task::spawn_blocking(move || {
        for entry in std::fs::read_dir(&root)?.flatten() {
            if entry.file_name().to_str().is_some_and(|uid| !known.contains(uid)) {
                volumes::tear_down(&entry.path())?;
            }
        }
        std::io::Result::Ok(())
    });
    if let Ok(Err(error)) = cleaned.await {
        tracing::warn!(error = %error, "cannot remove the volumes of an orphaned pod");
    }
}
