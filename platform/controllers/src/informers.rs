use std::fmt::Debug;

use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet},
    batch::v1::{CronJob, Job},
    certificates::v1::CertificateSigningRequest,
    coordination::v1::Lease,
    core::v1::{
        ConfigMap, Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController, Secret,
        Service, ServiceAccount,
    },
    discovery::v1::EndpointSlice,
    policy::v1::PodDisruptionBudget,
};
use kube::{Api, Client, Resource, runtime::watcher};
use pharos_client::{Index, Informer};
use pharos_telemetry::Ctx;
use serde::de::DeserializeOwned;

use crate::{owners, storage_protection};

/// The caches that controllers share: one list and one watch for each kind.
pub(crate) struct Informers {
    pub(crate) namespaces: Informer<Namespace>,
    pub(crate) nodes: Informer<Node>,
    pub(crate) pods: Informer<Pod>,
    pub(crate) service_accounts: Informer<ServiceAccount>,
    /// `kube-root-ca.crt` of every namespace, no other.
    pub(crate) root_ca: Informer<ConfigMap>,
    /// Secrets of type `kubernetes.io/service-account-token`, no others.
    pub(crate) token_secrets: Informer<Secret>,
    /// Secrets of type `bootstrap.kubernetes.io/token` in `kube-system`, no others.
    pub(crate) bootstrap_tokens: Informer<Secret>,
    pub(crate) certificate_requests: Informer<CertificateSigningRequest>,
    pub(crate) services: Informer<Service>,
    pub(crate) endpoints: Informer<Endpoints>,
    pub(crate) endpoint_slices: Informer<EndpointSlice>,
    pub(crate) replica_sets: Informer<ReplicaSet>,
    pub(crate) replication_controllers: Informer<ReplicationController>,
    pub(crate) deployments: Informer<Deployment>,
    pub(crate) daemon_sets: Informer<DaemonSet>,
    pub(crate) stateful_sets: Informer<StatefulSet>,
    pub(crate) controller_revisions: Informer<ControllerRevision>,
    pub(crate) jobs: Informer<Job>,
    pub(crate) cron_jobs: Informer<CronJob>,
    pub(crate) claims: Informer<PersistentVolumeClaim>,
    pub(crate) volumes: Informer<PersistentVolume>,
    pub(crate) budgets: Informer<PodDisruptionBudget>,
    /// The leases of nodes.
    pub(crate) leases: Informer<Lease>,
    /// Pods by [`owners::term`].
    pub(crate) pods_by_owner: Index<Pod>,
    /// Pods by the name of their node.
    pub(crate) pods_by_node: Index<Pod>,
    /// Pods by the claims of their volumes.
    pub(crate) pods_by_claim: Index<Pod>,
    /// ReplicaSets by [`owners::term`].
    pub(crate) replica_sets_by_owner: Index<ReplicaSet>,
    /// Revisions by [`owners::term`].
    pub(crate) revisions_by_owner: Index<ControllerRevision>,
    /// Jobs by [`owners::term`].
    pub(crate) jobs_by_owner: Index<Job>,
}

impl Informers {
    pub(crate) fn start(ctx: &Ctx, client: &Client) -> Self {
        fn all<K>(ctx: &Ctx, client: &Client) -> Informer<K>
        where
            K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
        {
            Informer::start(ctx, Api::all(client.clone()), watcher::Config::default())
        }
        let fields = |selector: &str| watcher::Config::default().fields(selector);
        let pods: Informer<Pod> = all(ctx, client);
        let replica_sets: Informer<ReplicaSet> = all(ctx, client);
        let controller_revisions: Informer<ControllerRevision> = all(ctx, client);
        let jobs: Informer<Job> = all(ctx, client);
        Self {
            namespaces: all(ctx, client),
            nodes: all(ctx, client),
            service_accounts: all(ctx, client),
            root_ca: Informer::start(ctx, Api::all(client.clone()), fields("metadata.name=kube-root-ca.crt")),
            token_secrets: Informer::start(ctx, Api::all(client.clone()), fields("type=kubernetes.io/service-account-token")),
            bootstrap_tokens: Informer::start(
                ctx,
                Api::namespaced(client.clone(), "kube-system"),
                fields("type=bootstrap.kubernetes.io/token"),
            ),
            certificate_requests: all(ctx, client),
            services: all(ctx, client),
            endpoints: all(ctx, client),
            endpoint_slices: all(ctx, client),
            replication_controllers: all(ctx, client),
            deployments: all(ctx, client),
            daemon_sets: all(ctx, client),
            stateful_sets: all(ctx, client),
            cron_jobs: all(ctx, client),
            claims: all(ctx, client),
            volumes: all(ctx, client),
            budgets: all(ctx, client),
            leases: Informer::start(ctx, Api::namespaced(client.clone(), "kube-node-lease"), watcher::Config::default()),
            pods_by_owner: pods.index(|pod| vec![owners::term(pod)]),
            pods_by_node: pods.index(|pod| pod.spec.iter().filter_map(|spec| spec.node_name.clone()).collect()),
            pods_by_claim: pods.index(storage_protection::terms),
            replica_sets_by_owner: replica_sets.index(|set| vec![owners::term(set)]),
            revisions_by_owner: controller_revisions.index(|revision| vec![owners::term(revision)]),
            jobs_by_owner: jobs.index(|job| vec![owners::term(job)]),
            pods,
            replica_sets,
            controller_revisions,
            jobs,
        }
    }

    /// Waits until every first list is in its cache.
    pub(crate) async fn synced(&self) {
        self.namespaces.synced().await;
        self.nodes.synced().await;
        self.pods.synced().await;
        self.service_accounts.synced().await;
        self.root_ca.synced().await;
        self.token_secrets.synced().await;
        self.bootstrap_tokens.synced().await;
        self.certificate_requests.synced().await;
        self.services.synced().await;
        self.endpoints.synced().await;
        self.endpoint_slices.synced().await;
        self.replica_sets.synced().await;
        self.replication_controllers.synced().await;
        self.deployments.synced().await;
        self.daemon_sets.synced().await;
        self.stateful_sets.synced().await;
        self.controller_revisions.synced().await;
        self.jobs.synced().await;
        self.cron_jobs.synced().await;
        self.claims.synced().await;
        self.volumes.synced().await;
        self.budgets.synced().await;
        self.leases.synced().await;
    }
}
