//! The controllers: each compares what is with what was asked for, and moves one towards the other.
//!
//! One module is one controller: events of shared informers put keys into a queue, a worker reads the cache, a pure function
//! decides, and a few lines carry the decision out. Each acts as its own ServiceAccount in `kube-system`. Nothing is polled,
//! nothing is written that would change nothing, and nothing is kept that one list could not rebuild.
//!
//! Follows kube-controller-manager 1.37 (`pkg/controller`); where a controller differs its module says so.
//!
//! Start reading at [`Controllers`], then [`replica_set`], which most others resemble.

mod config; // What can be set,
mod error; // go wrong,
mod env; // what every controller is given,
mod informers; // and the caches they share; then what several controllers use.
mod owners;
mod pods;
mod expectations;
mod pod_control;
mod selector;
mod controller;
mod discovery;
mod service_account; // Cluster housekeeping:
mod root_ca;
mod namespace;
mod node_ipam;
mod token_secret;
mod token_cleaner;
mod certificates;
mod garbage_collector;
mod node_lifecycle;
mod taint_eviction;
mod pod_gc;
mod storage_protection;
mod replica_set; // workloads:
mod deployment;
mod job;
mod revisions;
mod daemon_set;
mod stateful_set;
mod cron_job;
mod disruption;
mod endpoint_slice; // and Services.
mod endpoints;
mod endpoint_slice_mirroring;

pub use config::{Config, SignCertificate, SignToken};
pub use error::{Error, Result};

use std::{convert::Infallible, sync::Arc};

use kube::Client;
use pharos_client::QueueMetrics;
use pharos_telemetry::{Component, Ctx};
use prometheus::Registry;

use crate::env::Env;

/// Gives a client that acts as the named controller's ServiceAccount in `kube-system`.
pub type Clients = Arc<dyn Fn(&str) -> Client + Send + Sync>;

/// What outlives a restart: settings, clients and metric handles. The rest lives in one run.
pub struct Controllers {
    clients: Clients,
    config: Arc<Config>,
    metrics: QueueMetrics,
}

impl Controllers {
    /// All controllers, each reaching the API server through the client that `clients` gives for its name.
    ///
    /// # Errors
    /// When the metrics are registered already.
    pub fn new(clients: Clients, config: Config, registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self { clients, config: Arc::new(config), metrics: QueueMetrics::new(registry)? })
    }
}

impl Component for Controllers {
    const NAME: &'static str = "kube-controller-manager";
    type Error = Infallible;

    async fn run(&self, ctx: Ctx) -> Result<(), Infallible> {
        let env = Env::new(ctx.clone(), self.clients.clone(), self.config.clone(), self.metrics.clone());
        tokio::select! {
            biased;
            () = ctx.stopped() => return Ok(()),
            () = env.informers.synced() => {}
        }
        service_account::start(&env);
        root_ca::start(&env);
        namespace::start(&env);
        node_ipam::start(&env);
        token_secret::start(&env);
        token_cleaner::start(&env);
        certificates::start(&env);
        garbage_collector::start(&env);
        node_lifecycle::start(&env);
        taint_eviction::start(&env);
        pod_gc::start(&env);
        storage_protection::start(&env);
        replica_set::start(&env);
        deployment::start(&env);
        job::start(&env);
        daemon_set::start(&env);
        stateful_set::start(&env);
        cron_job::start(&env);
        disruption::start(&env);
        endpoint_slice::start(&env);
        endpoints::start(&env);
        endpoint_slice_mirroring::start(&env);
        ctx.ready();
        ctx.stopped().await;
        Ok(())
    }
}
