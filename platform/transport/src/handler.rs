use std::{net::SocketAddr, sync::Arc};

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{Request, Response};

/// A byte stream in both directions.
pub trait AsyncReadWrite: AsyncRead + AsyncWrite {}

impl<T: AsyncRead + AsyncWrite + ?Sized> AsyncReadWrite for T {}

/// A connection that has left HTTP: TLS, if any, is already taken off.
pub type Io = Box<dyn AsyncReadWrite + Send + Unpin>;

/// What answers requests.
///
/// Both methods run on the Tokio runtime that [`crate::Front::serve`] was called on, never on a connection's own
/// thread, so they may spawn and block in place as any other task there. They are dropped where they stand when
/// the client goes away or resets its stream: work that must outlive the client is spawned.
#[async_trait::async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. The request's extensions carry the [`Peer`].
    async fn handle(&self, request: Request) -> Response;

    /// Takes over a connection whose request asks for `Upgrade: websocket` or `Upgrade: SPDY/3.1`.
    ///
    /// Nothing has been answered yet: a refusal is written with [`crate::websocket::refuse`], and the handshake is made by
    /// [`crate::remote_command`], [`crate::port_forward`], [`crate::websocket`] or, verbatim, by [`crate::proxy::forward_upgrade`].
    async fn upgrade(&self, request: http::Request<()>, io: Io);
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The client's address.
    pub addr: SocketAddr,
    /// The address the client connected to.
    pub local: SocketAddr,
    /// The certificates the client presented, its own first; its possession of the key has been proven.
    pub certificates: Arc<[CertificateDer<'static>]>,
    /// Whether the client's certificate is one of ours.
    pub certificate: PeerCertificate,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

/// What a client's certificate is worth. As upstream, a bad one does not fail the TLS handshake: authentication decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerCertificate {
    /// The client presented none.
    None,
    /// It chained to the client CA, was in force and allowed for client authentication when the connection was made.
    Verified,
    /// It did not; why.
    Invalid(String),
}

impl Peer {
    /// The client's own certificate, if it chained to the client CA when the connection was made.
    #[must_use]
    pub fn verified_certificate(&self) -> Option<&CertificateDer<'static>> {
        match self.certificate {
            PeerCertificate::Verified => self.certificates.first(),
            PeerCertificate::None | PeerCertificate::Invalid(_) => None,
        }
    }
}
