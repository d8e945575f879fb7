use bytes::Bytes;
use http::Request;
use pharos_transport::{Body, Io, Response};

/// Loki's HTTP API over the log index. Paths are relative to the mount: `/loki/api/v1/…`, `/ready`.
#[derive(Clone)]
pub struct LogsHandler {}

impl LogsHandler {
    /// Answers one request.
    pub async fn handle(&self, request: Request<Bytes>) -> Response {
        let mut response = Response::new(Body::full(request.uri().path().to_owned()));
        *response.status_mut() = http::StatusCode::NOT_FOUND;
        response
    }

    /// Serves `/loki/api/v1/tail`: makes the WebSocket handshake, then sends lines as they come until the client leaves.
    pub async fn tail(&self, request: Request<()>, io: Io) {
        drop((request, io));
    }
}
