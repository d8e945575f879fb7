//! UDP: each socket has a thread that takes packets in batches and answers what it can at once.
//!
//! A thread, as a task of the runtime costs more than the answer: to be polled again for a packet, it takes a turn of epoll,
//! the wake of another worker, and a read that finds nothing. It also has answers not wait behind other tasks.

use std::{
    io::{IoSlice, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use nix::sys::socket::{MsgFlags, MultiHeaders, Shutdown, SockaddrStorage, recvmmsg, sendmmsg, sendto, shutdown};

use super::Server;
use crate::{
    engine::{Client, Step},
    metrics::Proto,
};

/// Packets that are taken, and answers that are sent, by one system call.
const BATCH: usize = 32;
/// A query over UDP is never longer; what a client sends beyond is cut off, and malformed.
const LARGEST_QUERY: usize = 4096;

/// Serves a socket until the component is stopped.
pub(super) async fn serve(server: Arc<Server>, socket: UdpSocket) {
    let (ctx, socket) = (server.ctx.clone(), Arc::new(socket));
    let end = End { socket: socket.clone(), said: Arc::default() };
    let said = end.said.clone();
    let mut worker = tokio::task::spawn_blocking(move || Worker::new(server, socket).run(&said));
    tokio::select! {
        () = ctx.stopped() => {
            drop(end);
            let _ = worker.await;
        }
        _ = &mut worker => {}
    }
}

/// Ends a worker when it is dropped, be it with the runtime, which waits for its threads.
struct End {
    socket: Arc<UdpSocket>,
    said: Arc<AtomicBool>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.said.store(true, Ordering::Release);
        // Wakes the thread; that there is no connection is said, but only then.
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Read);
    }
}

struct Worker {
    server: Arc<Server>,
    socket: Arc<UdpSocket>,
    /// The answers of a batch, and behind them buffers to be used again.
    answers: [Vec<u8>; BATCH],
    /// To whom each of them goes.
    clients: Vec<Option<SockaddrStorage>>,
    headers: MultiHeaders<SockaddrStorage>,
}

impl Worker {
    fn new(server: Arc<Server>, socket: Arc<UdpSocket>) -> Self {
        Self {
            server,
            socket,
            answers: [const { Vec::new() }; BATCH],
            clients: Vec::with_capacity(BATCH),
            headers: MultiHeaders::preallocate(BATCH, None),
        }
    }

    fn run(mut self, end: &AtomicBool) {
        let mut packets = Box::new([[0; LARGEST_QUERY]; BATCH]);
        let mut headers = MultiHeaders::preallocate(BATCH, None);
        loop {
            let mut slices = packets.each_mut().map(|packet| [IoSliceMut::new(packet)]);
            // Waits for a packet and takes what is there by then.
            let received = recvmmsg(self.socket.as_raw_fd(), &mut headers, &mut slices, MsgFlags::MSG_WAITFORONE, None);
            if end.load(Ordering::Acquire) {
                return;
            }
            // An error is about a client that went away; the next packet is another's.
            for message in received.into_iter().flatten() {
                if let Some(from) = message.address {
                    self.answer(message.iovs().next().unwrap_or_default(), from);
                }
            }
            self.send();
        }
    }

    fn answer(&mut self, packet: &[u8], from: SockaddrStorage) {
        let Some(client) = address(&from) else { return };
        // A reply to port 0 goes nowhere.
        if client.port() == 0 {
            return;
        }
        let out = &mut self.answers[self.clients.len()];
        match self.server.handle(Client { proto: Proto::Udp, ipv6: client.is_ipv6() }, packet, out) {
            Step::Reply => self.clients.push(Some(from)),
            Step::Ignore => {}
            Step::Ask(pending) => {
                let (server, socket) = (self.server.clone(), self.socket.clone());
                server.ctx.clone().spawn("forward", async move {
                    tokio::select! {
                        () = server.ctx.stopped() => {}
                        out = server.finish(*pending) => {
                            if !out.is_empty() {
                                // If the send buffer is full, the answer is lost as any packet may be.
                                let _ = sendto(socket.as_raw_fd(), &out, &from, MsgFlags::MSG_DONTWAIT);
                            }
                        }
                    }
                });
            }
        }
    }

    /// Sends the answers of a batch.
    fn send(&mut self) {
        let answers = self.answers.each_ref().map(|answer| [IoSlice::new(answer)]);
        let (fd, mut first) = (self.socket.as_raw_fd(), 0);
        while let clients @ [_, ..] = &self.clients[first..] {
            let sent = sendmmsg(fd, &mut self.headers, &answers[first..], clients, [], MsgFlags::MSG_DONTWAIT);
            // An answer that cannot be sent is lost, the others are not.
            first += sent.map_or(1, |sent| sent.count().max(1));
        }
        self.clients.clear();
    }
}

fn address(from: &SockaddrStorage) -> Option<SocketAddr> {
    match (from.as_sockaddr_in(), from.as_sockaddr_in6()) {
        (Some(v4), _) => Some(SocketAddr::V4((*v4).into())),
        (None, Some(v6)) => Some(SocketAddr::V6((*v6).into())),
        (None, None) => None,
    }
}
