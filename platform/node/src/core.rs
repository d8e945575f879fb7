use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Node, Pod, Service},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::Client;
use parking_lot::{Mutex, RwLock};
use pharos_client::{Informer, Recorder};
use pharos_network::PodNetwork;
use pharos_runtime::{
    Runtime,
    types::{ContainerFilter, DnsConfig, Map, PodSandboxFilter},
};
use pharos_telemetry::{Clock, Ctx};

use crate::{
    config::Config, fields::Place, images::Images, machine::Machine, metrics::Metrics, names, pod_view::PodView,
    references::References,
};

/// How long a call of the pod network may take.
pub(crate) const NETWORK_DEADLINE: Duration = Duration::from_secs(60);

/// What all parts of one run of the kubelet share.
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) ctx: Ctx,
    pub(crate) clock: Clock,
    pub(crate) client: Client,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) network: Arc<dyn PodNetwork>,
    pub(crate) metrics: Metrics,
    pub(crate) recorder: Recorder,
    pub(crate) references: References,
    pub(crate) services: Informer<Service>,
    pub(crate) images: Images,
    /// The runtime's name and version, as in `containerRuntimeVersion`.
    pub(crate) runtime_name: String,
    pub(crate) runtime_version: String,
    pub(crate) machine: Machine,
    /// What pods may use together.
    pub(crate) allocatable: BTreeMap<String, Quantity>,
    pub(crate) node_ips: Vec<IpAddr>,
    /// This node's object, as it was last told.
    pub(crate) node: RwLock<Option<Arc<Node>>>,
    /// The machine's resolver configuration.
    pub(crate) node_dns: DnsConfig,
    /// The pods this node has accepted, by UID. Locked for a look or a change, never across a wait.
    pub(crate) admitted: Mutex<HashMap<String, Arc<Pod>>>,
    /// The pods as they were last told, with their latest status, by UID: what the HTTP API serves.
    pub(crate) pods: RwLock<HashMap<String, Arc<Pod>>>,
    /// Addresses by pod UID.
    pub(crate) pod_ips: RwLock<HashMap<String, Vec<IpAddr>>>,
    /// Set while the node has too little of something: condition types.
    pub(crate) pressure: RwLock<std::collections::BTreeSet<&'static str>>,
    /// Tells the node-status task that something may have changed.
    pub(crate) status_wake: Arc<tokio::sync::Notify>,
    /// What runs of each pod, by UID.
    pub(crate) tallies: Mutex<HashMap<String, Tally>>,
    /// When the run began.
    pub(crate) began_at: Timestamp,
}

/// What runs of a pod.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    /// Whether its sandbox is up.
    pub(crate) sandbox: bool,
    /// Containers that run,
    pub(crate) running: i64,
    /// have ended,
    pub(crate) exited: i64,
    /// are made,
    pub(crate) created: i64,
    /// or lost.
    pub(crate) unknown: i64,
    /// Whether it is neither over nor ending.
    pub(crate) active: bool,
}

impl Core {
    /// What fields tell of a pod with these addresses.
    pub(crate) fn place(&self, pod_ips: &[IpAddr]) -> Place {
        Place { host_ips: self.node_ips.clone(), pod_ips: pod_ips.to_vec(), allocatable: self.allocatable.clone() }
    }

    /// What the runtime has of a pod.
    pub(crate) async fn view(&self, uid: &str) -> pharos_runtime::Result<PodView> {
        let labels: Map = [(names::POD_UID.to_owned(), uid.to_owned())].into();
        let sandboxes = PodSandboxFilter { label_selector: labels.clone(), ..PodSandboxFilter::default() };
        let containers = ContainerFilter { label_selector: labels, ..ContainerFilter::default() };
        let (sandboxes, containers) = tokio::try_join!(
            self.observe("list_podsandbox", self.runtime.list_pod_sandboxes(&sandboxes)),
            self.observe("list_containers", self.runtime.list_containers(&containers)),
        )?;
        Ok(PodView::new(sandboxes, containers))
    }

    /// Counts and times a call of the runtime.
    pub(crate) async fn observe<T>(
        &self,
        operation: &str,
        call: impl Future<Output = pharos_runtime::Result<T>>,
    ) -> pharos_runtime::Result<T> {
        let began = tokio::time::Instant::now();
        let result = call.await;
        self.metrics.runtime_operations.with_label_values(&[operation]).inc();
        self.metrics.runtime_duration.with_label_values(&[operation]).observe(began.elapsed().as_secs_f64());
        if result.is_err() {
            self.metrics.runtime_errors.with_label_values(&[operation]).inc();
        }
        result
    }

    /// Sums the tallies up in the metrics.
    pub(crate) fn tally(&self) {
        let tallies = self.tallies.lock();
        let sum = |of: fn(&Tally) -> i64| tallies.values().map(of).sum::<i64>();
        let metrics = &self.metrics;
        metrics.running_pods.set(sum(|t| i64::from(t.sandbox)));
        for (state, count) in [
            ("running", sum(|t| t.running)),
            ("exited", sum(|t| t.exited)),
            ("created", sum(|t| t.created)),
            ("unknown", sum(|t| t.unknown)),
        ] {
            metrics.running_containers.with_label_values(&[state]).set(count);
        }
        metrics.active_pods.with_label_values(&["false"]).set(sum(|t| i64::from(t.active)));
        metrics.desired_pods.with_label_values(&["false"]).set(i64::try_from(tallies.len()).unwrap_or(0));
    }

    /// A pod of this node by namespace and name.
    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.pods.read().values().find(|pod| names::namespace(pod) == namespace && names::name(pod) == name).cloned()
    }
}
