use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Client;
use pharos_client::{Key, QueueMetrics, Recorder, WorkQueue};
use pharos_telemetry::Ctx;

use crate::{Clients, Config, informers::Informers};

/// What every controller is given. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Env {
    pub(crate) ctx: Ctx,
    pub(crate) config: Arc<Config>,
    pub(crate) informers: Arc<Informers>,
    clients: Clients,
    metrics: QueueMetrics,
}

impl Env {
    pub(crate) fn new(ctx: Ctx, clients: Clients, config: Arc<Config>, metrics: QueueMetrics) -> Self {
        // The account that may read everything.
        let informers = Arc::new(Informers::start(&ctx, &clients("generic-garbage-collector")));
        Self { ctx, config, informers, clients, metrics }
    }

    /// A client that acts as the controller.
    pub(crate) fn client(&self, controller: &str) -> Client {
        (self.clients)(controller)
    }

    /// A recorder whose events name the controller.
    pub(crate) fn recorder(&self, client: &Client, reporter: &str) -> Recorder {
        Recorder::start(&self.ctx, client.clone(), reporter, None)
    }

    /// A queue of keys.
    pub(crate) fn queue(&self, name: &str) -> WorkQueue<Key> {
        WorkQueue::new(name, &self.metrics)
    }

    /// The time as objects carry it, to the second.
    pub(crate) fn now(&self) -> Time {
        seconds(self.ctx.clock().now())
    }
}

/// A time without its fraction, as it comes back from the API server.
pub(crate) fn seconds(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(Timestamp::UNIX_EPOCH))
}
