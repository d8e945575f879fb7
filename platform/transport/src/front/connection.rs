use std::{net::SocketAddr, panic::AssertUnwindSafe, sync::Arc};

use bytes::BytesMut;
use futures::FutureExt as _;
use http::StatusCode;
use tokio::{net::TcpStream, sync::OwnedSemaphorePermit, time::timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{Body, Handler, Io, Limits, Peer, PeerCertificate, Request, Response};

use super::{
    head::{self, First, Rewind},
    http1, http2,
    outgoing::{InFlight, InFlightCount, Outgoing},
    tls::{self, Verifier},
};

/// What all connections of a front share.
pub(super) struct Shared {
    pub(super) handler: Arc<dyn Handler>,
    pub(super) http1: http1::Workers,
    pub(super) limits: Limits,
    pub(super) tls: Option<(TlsAcceptor, Verifier)>,
    /// Told of each handshake that fails.
    pub(super) on_handshake_error: Box<dyn Fn() + Send + Sync>,
    /// Cancelled when no more is to be taken in,
    pub(super) stop: CancellationToken,
    /// and when what is still there is to be cut off.
    pub(super) kill: CancellationToken,
    pub(super) tasks: TaskTracker,
    /// Where handlers run.
    pub(super) runtime: tokio::runtime::Handle,
}

/// One connection that speaks HTTP.
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) peer: Peer,
    pub(super) in_flight: Arc<InFlightCount>,
    _slot: OwnedSemaphorePermit,
}

/// Serves a connection that was just accepted.
pub(super) async fn serve(
    stream: TcpStream,
    addr: SocketAddr,
    listening: SocketAddr,
    slot: OwnedSemaphorePermit,
    shared: Arc<Shared>,
) {
    super::set_options(&stream);
    let local = stream.local_addr().unwrap_or(listening);
    let mut peer =
        Peer { addr, local, certificates: Arc::default(), certificate: PeerCertificate::None, tls: shared.tls.is_some() };
    let stop = shared.stop.clone();
    let handshake = async {
        let Some((acceptor, verifier)) = &shared.tls else { return Some((Box::new(stream) as Io, false)) };
        let stream = match timeout(shared.limits.handshake, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%addr, %error, "TLS handshake failed");
                (shared.on_handshake_error)();
                return None;
            }
            Err(_) => {
                tracing::debug!(%addr, "TLS handshake timed out");
                (shared.on_handshake_error)();
                return None;
            }
        };
        let (_, session) = stream.get_ref();
        if let Some(chain) = session.peer_certificates() {
            peer.certificates = chain.iter().map(|cert| cert.clone().into_owned()).collect();
            peer.certificate = tls::judge(verifier, &peer.certificates);
        }
        let is_http2 = session.alpn_protocol() == Some(b"h2");
        Some((Box::new(stream) as Io, is_http2))
    };
    let begun = tokio::select! {
        biased;
        () = stop.cancelled() => return,
        begun = handshake => begun,
    };
    let Some((io, is_http2)) = begun else { return };
    let connection = Arc::new(Connection { shared, peer, in_flight: Arc::default(), _slot: slot });
    if is_http2 {
        http2::serve(io, connection).await;
    } else {
        connection.serve_http1(io).await;
    }
}

impl Connection {
    /// Serves a connection that begins with the head of a request.
    async fn serve_http1(self: Arc<Self>, mut io: Io) {
        let limits = &self.shared.limits;
        let mut buffer = BytesMut::with_capacity(4096);
        let first = tokio::select! {
            biased;
            () = self.shared.stop.cancelled() => return,
            first = timeout(limits.head, head::read_first(&mut io, &mut buffer, limits.head_bytes)) => first,
        };
        match first {
            Ok(Ok(First::Http2)) => http2::serve(Rewind::new(buffer.freeze(), io), self).await,
            Ok(Ok(First::Http1)) => http1::serve(Rewind::new(buffer.freeze(), io), self).await,
            Ok(Ok(First::Upgrade(mut head, length))) => {
                let rest = buffer.split_off(length).freeze();
                head.extensions_mut().insert(self.peer.clone());
                self.upgrade(*head, Box::new(Rewind::new(rest, io))).await;
            }
            Ok(Ok(First::Nothing)) => {}
            Ok(Err(error)) => tracing::debug!(addr = %self.peer.addr, %error, "connection broke before a request"),
            Err(_) => tracing::debug!(addr = %self.peer.addr, "no request in time"),
        }
    }

    async fn upgrade(&self, head: http::Request<()>, io: Io) {
        let handle = AssertUnwindSafe(self.shared.handler.upgrade(head, io)).catch_unwind();
        tokio::select! {
            () = self.shared.kill.cancelled() => {}
            done = handle => if done.is_err() {
                tracing::error!(error = "panic", "a handler of upgraded connections panicked");
            }
        }
    }

    /// Answers one request. Runs on the runtime that the front was started on.
    pub(super) async fn answer(self: Arc<Self>, mut request: Request) -> http::Response<Outgoing> {
        let in_flight: InFlight = self.in_flight.enter();
        request.extensions_mut().insert(self.peer.clone());
        let response = AssertUnwindSafe(self.shared.handler.handle(request)).catch_unwind().await;
        response
            .unwrap_or_else(|_| {
                tracing::error!(error = "panic", "a handler of requests panicked");
                internal_error()
            })
            .map(|body| Outgoing::new(body, &self.shared.stop, in_flight))
    }
}

/// The answer when there is none.
pub(super) fn internal_error() -> Response {
    let mut response = Response::new(Body::full("internal server error\n"));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
}
