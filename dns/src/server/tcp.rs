//! TCP: connections whose queries are answered as soon as they can be, in any order.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};

use super::Server;
use crate::{
    engine::{Client, Step},
    metrics::Proto,
};

/// A connection without a query for so long is closed, as in CoreDNS.
const IDLE: Duration = Duration::from_secs(10);
/// A client that does not take an answer for so long is given up.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);
/// Queries of one connection that wait for upstream at once; the connection is read no further while there are more.
const PIPELINE: usize = 100;
/// Answers that wait for a client to read; then its queries are read no further.
const ANSWERS: usize = 32;

pub(super) async fn serve(server: Arc<Server>, listener: TcpListener) {
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
