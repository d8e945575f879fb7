//! The scheduler: chooses a node for each pending pod and binds it there.
//!
//! Reads Pods, Nodes, Namespaces, PersistentVolumeClaims, PersistentVolumes and PodDisruptionBudgets; writes Bindings, the
//! pod condition `PodScheduled`, `status.nominatedNodeName` and Events, and evicts pods of lower priority, nothing else.
//! Keeps nothing that one list could not rebuild.
//!
//! Follows kube-scheduler 1.37 (`pkg/scheduler`): queue, snapshot, filter, score, reserve, bind, and preemption where no
//! node is left. There is no dynamic resource allocation: a pod that asks for resource claims stays pending and is told so.
//!
//! Start reading at [`Scheduler`]. A new filter or score is one file in [`plugins`].

mod error; // What can go wrong,
mod metrics; // and be measured; then the nouns.
mod resources;
mod labels;
mod pod_info;
mod node_info;
mod cache;
mod nominator;
mod queue;
mod cycle;
mod preemption;
mod eviction;
mod inbox;
mod state;
pub mod plugins;
#[cfg(test)]
mod testing;

pub use error::{Error, Result};

use std::convert::Infallible;

use kube::Client;
use pharos_telemetry::{Component, Ctx};
use prometheus::Registry;

/// What outlives a restart: the client and metric handles. The rest lives in one run.
pub struct Scheduler {
    client: Client,
    metrics: metrics::Metrics,
}

impl Scheduler {
    /// Pods that name this scheduler, or none, are scheduled.
    pub const SCHEDULER_NAME: &'static str = "default-scheduler";

    /// A scheduler that reaches the API server through `client`.
    ///
    /// # Errors
    /// When its metrics are registered already.
    pub fn new(client: Client, registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self { client, metrics: metrics::Metrics::new(registry)? })
    }
}

impl Component for Scheduler {
    const NAME: &'static str = "kube-scheduler";
    type Error = Infallible;

    async fn run(&self, ctx: Ctx) -> Result<(), Infallible> {
        let Some(mut state) = state::State::sync(&self.client, &self.metrics, &ctx).await else {
            return Ok(()); // Stopped before the first lists were there.
        };
        ctx.ready();
        loop {
            tokio::select! {
                biased; // Stop before taking new work.
                () = ctx.stopped() => {
                    state.drain().await;
                    return Ok(());
                }
                event = state.next() => state.apply(event), // Waits and decides nothing; then decides and never waits.
            }
        }
    }
}
