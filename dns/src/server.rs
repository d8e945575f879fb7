//! Sockets: UDP workers that answer in place, TCP connections that pipeline.

mod udp;
mod tcp;

use std::{
    net::UdpSocket,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use futures::FutureExt as _;
use pharos_telemetry::Ctx;
use tokio::{net::TcpListener, sync::Semaphore, task::JoinHandle};

use crate::{
    engine::{Client, Engine, Pending, Step},
    metrics::ServerMetrics,
};

/// What the sockets of one address share.
pub(crate) struct Server {
    pub engine: Arc<Engine>,
    pub metrics: ServerMetrics,
    /// Shared by all addresses: how many TCP connections may be open.
    pub connections: Arc<Semaphore>,
    pub ctx: Ctx,
}

/// Serves an address until the component is stopped.
pub(crate) fn start(server: &Arc<Server>, udp: Vec<UdpSocket>, tcp: TcpListener) -> Vec<JoinHandle<()>> {
    let mut tasks = Vec::with_capacity(udp.len() + 1);
    for socket in udp {
        tasks.push(server.ctx.spawn("udp", udp::serve(server.clone(), socket)));
    }
    tasks.push(server.ctx.spawn("tcp", tcp::serve(server.clone(), tcp)));
    tasks
}

impl Server {
    fn handle(&self, client: Client, packet: &[u8], out: &mut Vec<u8>) -> Step {
        catch_unwind(AssertUnwindSafe(|| self.engine.handle(&self.metrics, client, packet, out)))
            .unwrap_or_else(|_| self.engine.panicked(packet, out))
    }

    async fn finish(&self, pending: Pending) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        let work = self.engine.finish(&self.metrics, pending, &mut out);
        if AssertUnwindSafe(work).catch_unwind().await.is_err() {
            self.engine.metrics.panics.inc();
            out.clear();
        }
        out
    }
}
