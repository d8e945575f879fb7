mod connection; // One connection, from its first byte,
mod head; // its first request's head,
mod http1; // as HTTP/1.1,
mod http2; // or HTTP/2;
mod outgoing; // what leaves on it;
mod tls; // and who is behind it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustls::{RootCertStore, server::ResolvesServerCert};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::Handler;

use connection::Shared;

/// Where a [`Front`] listens, how it encrypts, and how much it lets in.
pub struct FrontConfig {
    /// The addresses to listen on, all alike. Port 0 takes a free one.
    pub addresses: Vec<SocketAddr>,
    /// Certificates; without, the front speaks plain TCP, which is meant for loopback only.
    pub tls: Option<Tls>,
    /// How much it lets in, and for how long.
    pub limits: Limits,
}

/// The front's side of TLS.
pub struct Tls {
    /// The server's certificate, asked for at each handshake, so that it can be renewed ([`crate::pki::Identity`]).
    pub certificate: Arc<dyn ResolvesServerCert>,
    /// The CAs client certificates are held against. Clients are asked for a certificate, and may come without.
    pub client_roots: Option<Arc<RootCertStore>>,
}

/// How much a front lets in, and for how long.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once; further ones wait in the kernel's queue. Default 16,384.
    pub connections: usize,
    /// Streams at once on one HTTP/2 connection. Upstream has 250; kube-rs, which does not open a second connection as
    /// client-go does, wants more. Default 1,000.
    pub streams_per_connection: u32,
    /// The longest request head, in bytes. Default 128 KiB.
    pub head_bytes: usize,
    /// The time a client has for its TLS handshake. Default 10 s.
    pub handshake: Duration,
    /// The time a client has to send a request's head. Default 32 s, as upstream.
    pub head: Duration,
    /// How long an HTTP/1.1 connection with no request stays open. Default 90 s, as upstream.
    pub idle: Duration,
    /// How often a silent HTTP/2 connection is asked whether it is alive; it has as long again to answer. Default 20 s.
    pub ping: Duration,
    /// How long requests may take to finish once the server stops. Default 10 s.
    pub drain: Duration,
    /// Threads that serve HTTP/1.1 connections; default: one per CPU, at most 4.
    pub http1_threads: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            streams_per_connection: 1_000,
            head_bytes: 128 * 1024,
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(32),
            idle: Duration::from_secs(90),
            ping: Duration::from_secs(20),
            drain: Duration::from_secs(10),
            http1_threads: std::thread::available_parallelism().map_or(1, usize::from).min(4),
        }
    }
}

/// Why a front could not start.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    /// The address is taken or not ours.
    #[error("listen on {addr}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// TLS could not be set up: a bug, or client CAs that are no certificates.
    #[error("set up TLS")]
    Tls(#[source] rustls::Error),
}

/// The front: listens, and turns what comes in into calls of a [`Handler`].
pub struct Front {
    listeners: Vec<(TcpListener, SocketAddr)>,
    tls: Option<(TlsAcceptor, tls::Verifier)>,
    limits: Limits,
    on_handshake_error: Box<dyn Fn() + Send + Sync>,
}

impl Front {
    /// Listens on the configured addresses. Nothing is accepted before [`Front::serve`].
    ///
    /// # Errors
    ///
    /// If an address cannot be listened on, or TLS cannot be set up.
    pub async fn bind(config: FrontConfig) -> Result<Self, FrontError> {
        let tls = config.tls.map(tls::acceptor).transpose().map_err(FrontError::Tls)?;
        let mut listeners = Vec::with_capacity(config.addresses.len());
        for addr in config.addresses {
            let listen = |source| FrontError::Listen { addr, source };
            let listener = TcpListener::bind(addr).await.map_err(listen)?;
            let local = listener.local_addr().map_err(listen)?;
            listeners.push((listener, local));
        }
        Ok(Self { listeners, tls, limits: config.limits, on_handshake_error: Box::new(|| {}) })
    }

    /// Has a TLS handshake that fails or takes too long told, to be counted.
    #[must_use]
    pub fn on_handshake_error(mut self, tell: impl Fn() + Send + Sync + 'static) -> Self {
        self.on_handshake_error = Box::new(tell);
        self
    }

    /// The addresses it listens on, in the order of the configuration, with the ports the kernel chose.
    #[must_use]
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|(_, addr)| *addr).collect()
    }

    /// Serves until `stop` is cancelled, then takes no new connections or requests, ends long-running bodies, lets the other
    /// requests finish within [`Limits::drain`], and cuts off what is left.
    pub async fn serve(self, handler: Arc<dyn Handler>, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        let kill = CancellationToken::new();
        let slots = Arc::new(Semaphore::new(self.limits.connections));
        let drain = self.limits.drain;
        let shared = Arc::new(Shared {
            handler,
            http1: http1::Workers::start(&self.limits),
            limits: self.limits,
            tls: self.tls,
            on_handshake_error: self.on_handshake_error,
            stop: stop.clone(),
            kill: kill.clone(),
            tasks: tasks.clone(),
            runtime: tokio::runtime::Handle::current(),
        });
        for (listener, local) in self.listeners {
            tasks.spawn(accept(listener, local, shared.clone(), slots.clone()));
        }
        drop(shared);
        stop.cancelled().await;
        tasks.close();
        if tokio::time::timeout(drain, tasks.wait()).await.is_err() {
            tracing::warn!(tasks = tasks.len(), "requests did not finish in time and are cut off");
            kill.cancel();
            tasks.wait().await;
        }
    }
}

/// Accepts connections until told to stop. Running out of file descriptors or the like is waited out, not fatal.
async fn accept(listener: TcpListener, local: SocketAddr, shared: Arc<Shared>, slots: Arc<Semaphore>) {
    let mut pause = Duration::ZERO;
    loop {
        let next = async {
            tokio::time::sleep(pause).await;
            let slot = slots.clone().acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            next = next => next,
        };
        let Ok(slot) = slot else { return };
        match accepted {
            Ok((stream, addr)) => {
                pause = Duration::ZERO;
                shared.tasks.spawn(connection::serve(stream, addr, local, slot, shared.clone()));
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if pause.is_zero() {
                    tracing::warn!(%local, error = %error, "cannot accept connections, retrying");
                }
                pause = (pause * 2).clamp(Duration::from_millis(5), Duration::from_secs(1));
            }
        }
    }
}

/// Whether an error of `accept` says something about the connection that was to be accepted, not about the listener.
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Sends small frames at once, and notices within half a minute that the other machine is gone.
///
/// Without `TCP_NODELAY` an HTTP/2 answer waits some 40 ms for the client's delayed acknowledgement.
fn set_options(stream: &TcpStream) {
    use nix::sys::socket::{setsockopt, sockopt};
    let set = || {
        setsockopt(stream, sockopt::TcpNoDelay, &true)?;
        setsockopt(stream, sockopt::KeepAlive, &true)?;
        setsockopt(stream, sockopt::TcpKeepIdle, &15)?;
        setsockopt(stream, sockopt::TcpKeepInterval, &5)?;
        setsockopt(stream, sockopt::TcpKeepCount, &3)?;
        setsockopt(stream, sockopt::TcpUserTimeout, &30_000)
    };
    if let Err(error) = set() {
        tracing::debug!(%error, "cannot set socket options");
    }
}
