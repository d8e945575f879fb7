//! Transport: sockets to `http::Request` and back.
//!
//! The front ([`Front`]) turns TCP and TLS, HTTP/1.1 and HTTP/2 into calls of a [`Handler`], and hands connections that ask
//! for WebSocket or SPDY/3.1 over raw. [`remote_command`] and [`port_forward`] make one interface out of both of those,
//! [`proxy`] carries a request to another server, and [`pki`] owns certificates.
//!
//! It knows nothing of Kubernetes objects, authentication or authorization: a client certificate is passed on in
//! [`Peer`], with whether it chains to the client CA. The API server and the kubelet both stand behind it.
//!
//! Start reading at [`Front::serve`].

mod body; // What is carried,
mod handler; // who answers,
mod front; // where it comes in;
pub mod pki; // whose certificates those are;
pub mod spdy; // then what a connection can be upgraded to,
pub mod websocket;
pub mod remote_command; // and what runs over that,
pub mod port_forward;
pub mod proxy; // or elsewhere.

pub use body::{Body, BoxError, ReadError};
pub use front::{Front, FrontConfig, FrontError, Limits, Tls};
pub use handler::{AsyncReadWrite, Handler, Io, Peer, PeerCertificate};

/// A request as the front hands it over: its extensions carry the [`Peer`].
pub type Request = http::Request<Body>;
/// An answer.
pub type Response = http::Response<Body>;
