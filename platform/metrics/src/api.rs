//! The Prometheus HTTP API.

use bytes::Bytes;
use http::{Request, Response};

use crate::Shared;

/// Answers the Prometheus HTTP API (`/api/v1/query`, `/-/healthy`, `/federate`, …). Cheap to clone.
#[derive(Clone)]
pub struct MetricsHandler {
    pub(crate) shared: Shared,
}

impl MetricsHandler {
    /// Answers one request; its path is relative to the mount and starts with a slash.
    pub async fn handle(&self, request: Request<Bytes>) -> Response<Bytes> {
        let _ = (&self.shared, request);
        let mut response = Response::new(Bytes::from_static(b"starting\n"));
        *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
        response
    }
}
