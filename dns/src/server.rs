//! Sockets: UDP workers that answer in place, TCP connections that pipeline.

use std::{
    io,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use futures::FutureExt as _;
use pharos_telemetry::Ctx;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Semaphore, mpsc},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    engine::{Client, Engine, Pending, Step},
    metrics::{Proto, ServerMetrics},
};

/// Packets that a worker takes before it lets other tasks run.
const BURST: usize = 64;
/// A query over UDP is never longer; what a client sends beyond is cut off, and malformed.
const LARGEST_QUERY: usize = 4096;
/// A connection without a query for so long is closed, as in CoreDNS.
const IDLE: Duration = Duration::from_secs(10);
/// A client that does not take an answer for so long is given up.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);
/// Queries of one connection that wait for upstream at once; the connection is read no further while there are more.
const PIPELINE: usize = 100;
/// Answers that wait for a client to read; then its queries are read no further.
const ANSWERS: usize = 32;

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
        tasks.push(server.ctx.spawn("udp", serve_udp(server.clone(), Arc::new(socket))));
    }
    tasks.push(server.ctx.spawn("tcp", serve_tcp(server.clone(), tcp)));
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

async fn serve_udp(server: Arc<Server>, socket: Arc<UdpSocket>) {
    let mut packet = vec![0; LARGEST_QUERY];
    let mut out = Vec::with_capacity(LARGEST_QUERY);
    loop {
        tokio::select! {
            biased;
            () = server.ctx.stopped() => return,
            ready = socket.readable() => {
                if ready.is_err() {
                    return;
                }
            }
        }
        for _ in 0..BURST {
            match socket.try_recv_from(&mut packet) {
                Ok((length, from)) => answer_udp(&server, &socket, &packet[..length], from, &mut out),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // A client that went away; the next packet is another's.
                Err(_) => {}
            }
        }
        tokio::task::consume_budget().await;
    }
}

fn answer_udp(server: &Arc<Server>, socket: &Arc<UdpSocket>, packet: &[u8], from: SocketAddr, out: &mut Vec<u8>) {
    // A reply to port 0 goes nowhere.
    if from.port() == 0 {
        return;
    }
    match server.handle(Client { proto: Proto::Udp, ipv6: from.is_ipv6() }, packet, out) {
        // If the send buffer is full, the answer is lost as any packet may be.
        Step::Reply => drop(socket.try_send_to(out, from)),
        Step::Ignore => {}
        Step::Ask(pending) => {
            let (server, socket) = (server.clone(), socket.clone());
            server.ctx.clone().spawn("forward", async move {
                tokio::select! {
                    () = server.ctx.stopped() => {}
                    out = server.finish(*pending) => {
                        if !out.is_empty() {
                            drop(socket.send_to(&out, from).await);
                        }
                    }
                }
            });
        }
    }
}

async fn serve_tcp(server: Arc<Server>, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = server.ctx.stopped() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of files: wait for connections to end.
                tracing::warn!(error = &error as &dyn std::error::Error, "accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(permit) = server.connections.clone().try_acquire_owned() else {
            server.engine.metrics.connections_refused.inc();
            continue;
        };
        let connection = server.clone();
        server.ctx.spawn("connection", async move {
            let gauge = connection.engine.metrics.connections.clone();
            gauge.inc();
            tokio::select! {
                () = connection.ctx.stopped() => {}
                // A client that breaks off is no event.
                _ = serve_connection(&connection, stream, from) => {}
            }
            gauge.dec();
            drop(permit);
        });
    }
}

async fn serve_connection(server: &Arc<Server>, mut stream: TcpStream, from: SocketAddr) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let client = Client { proto: Proto::Tcp, ipv6: from.is_ipv6() };
    let (mut reader, mut writer) = stream.split();
    let (answers, mut ready) = mpsc::channel::<Vec<u8>>(ANSWERS);
    let pipeline = Arc::new(Semaphore::new(PIPELINE));
    let read = async move {
        let mut packet = Vec::new();
        loop {
            let Ok(Ok(length)) = timeout(IDLE, reader.read_u16()).await else { return Ok(()) };
            packet.resize(usize::from(length), 0);
            let Ok(whole) = timeout(IDLE, reader.read_exact(&mut packet)).await else { return Ok(()) };
            whole?;
            let mut out = Vec::with_capacity(256);
            match server.handle(client, &packet, &mut out) {
                Step::Reply => {
                    if answers.send(out).await.is_err() {
                        return Ok(());
                    }
                }
                // What is no query breaks the framing, too.
                Step::Ignore => return Ok(()),
                Step::Ask(pending) => {
                    let Ok(permit) = pipeline.clone().acquire_owned().await else { return Ok(()) };
                    let (server, answers) = (server.clone(), answers.clone());
                    server.ctx.clone().spawn("forward", async move {
                        tokio::select! {
                            () = server.ctx.stopped() => {}
                            out = server.finish(*pending) => {
                                if !out.is_empty() {
                                    drop(answers.send(out).await);
                                }
                            }
                        }
                        drop(permit);
                    });
                }
            }
        }
    };
    let write = async {
        // Ends when the reader and all queries under way are done.
        while let Some(answer) = ready.recv().await {
            let mut framed = Vec::with_capacity(answer.len() + 2);
            framed.extend_from_slice(&(answer.len() as u16).to_be_bytes());
            framed.extend_from_slice(&answer);
            timeout(WRITE_DEADLINE, writer.write_all(&framed)).await??;
        }
        Ok::<(), io::Error>(())
    };
    tokio::try_join!(read, write).map(|_| ())
}
