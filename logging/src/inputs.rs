//! Where lines come from.

mod containers; // What containers write,
mod events; // what happens to objects,
mod records; // and what Pharos says itself.

use std::{future::Future, sync::Arc};

use pharos_telemetry::logs::Record;

pub(crate) use containers::containers;
pub(crate) use events::events;
pub(crate) use records::records;

use crate::{
    index::{Batch, Index},
    metrics::{InputMetrics, Source},
    wal::Positions,
};

/// Where lines go: this process' index, or the way to another's.
pub(crate) trait Sink: Send + Sync + 'static {
    /// The node's name, for the label `node`.
    fn node(&self) -> &str;

    /// How far container logs were read.
    fn positions(&self) -> Positions;

    /// Takes a batch; waits as long as there is no room. It survives the end of this process when this returns.
    fn append(self: &Arc<Self>, source: Source, batch: Batch) -> impl Future<Output = ()> + Send;

    /// Whether to take a component's record at all.
    fn takes(&self, _: &Record) -> bool {
        true
    }

    /// What is measured.
    fn metrics(&self) -> &InputMetrics;
}

impl Sink for Index {
    fn node(&self) -> &str {
        &self.config.node
    }

    fn positions(&self) -> Positions {
        Self::positions(self)
    }

    async fn append(self: &Arc<Self>, source: Source, batch: Batch) {
        Self::append(self, source, batch).await;
    }

    fn metrics(&self) -> &InputMetrics {
        &self.metrics.inputs
    }
}
