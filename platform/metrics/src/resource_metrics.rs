//! The resource metrics API (`metrics.k8s.io/v1beta1`): what `kubectl top` reads.

use bytes::Bytes;
use http::{Request, Response};

use crate::Shared;

/// Answers `metrics.k8s.io/v1beta1` from the store. Cheap to clone.
#[derive(Clone)]
pub struct ResourceMetricsHandler {
    pub(crate) shared: Shared,
}

impl ResourceMetricsHandler {
    /// The group.
    pub const GROUP: &'static str = "metrics.k8s.io";
    /// The version.
    pub const VERSION: &'static str = "v1beta1";

    /// Answers one request; its path is relative to `/apis/metrics.k8s.io/v1beta1` and starts with a slash.
    pub async fn handle(&self, request: Request<Bytes>) -> Response<Bytes> {
        let _ = (&self.shared, request);
        let mut response = Response::new(Bytes::from_static(b"starting\n"));
        *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
        response
    }

    /// The `APIResource` entries of the group version, for discovery.
    #[must_use]
    pub fn resources() -> Vec<serde_json::Value> {
        vec![
            serde_json::json!({"name": "nodes", "singularName": "", "namespaced": false, "kind": "NodeMetrics", "verbs": ["get", "list"]}),
            serde_json::json!({"name": "pods", "singularName": "", "namespaced": true, "kind": "PodMetrics", "verbs": ["get", "list"]}),
        ]
    }
}
