//! What the server shows: its metrics store and log index, mounted behind the API server's door.

use std::sync::Arc;

use bytes::Bytes;
use http::{StatusCode, header};
use pharos_apiserver::{Api, ApiGroup, Mount, authn::UserInfo};
use pharos_logging::{Logging, LogsHandler, PushedBy};
use pharos_metrics::{Metrics, MetricsHandler, ResourceMetricsHandler, Sources};
use pharos_telemetry::{Registries, Supervisor, logs::Records};
use pharos_transport::{Body, Io, Request, Response, pki};

use crate::{
    cli::Part,
    node,
    server::{Clients, Keys, Plan},
};

/// Where Loki's API is, and below it the one path that nodes may post to.
const LOKI: &str = "/observe/loki";
/// See [`LOKI`].
pub const PUSH_PATH: &str = "/observe/loki/loki/api/v1/push";
/// The longest form that a query may be posted as.
const MAX_BODY: usize = 1 << 20;
/// The largest push of log lines.
const MAX_PUSH: usize = 16 << 20;

/// Starts the metrics store and the log index, as far as they are not disabled, and mounts their APIs.
pub async fn start(
    plan: &Plan,
    keys: &Keys,
    clients: &Clients,
    api: &Api,
    registries: &Registries,
    records: Records,
    supervisor: &mut Supervisor,
) -> anyhow::Result<()> {
    if plan.runs(Part::Metrics) {
        let tls = pki::client_config(keys.ca.roots(), Some(keys.kubelet_client.clone()))?;
        let config = pharos_metrics::Config { dir: plan.layout.metrics(), node_name: plan.node.clone(), ..Default::default() };
        let sources = Sources {
            registries: registries.clone(),
            kubelet_tls: Some(tls),
            node_components: node::COMPONENTS.map(str::to_owned).into(),
            pod_tls: Some(pki::client_config_without_verification(None)?),
        };
        let client = clients.service_account("kube-system", "pharos-metrics", "pharos-metrics");
        let metrics = Metrics::new(config, sources, client, &registries.of("prometheus"))?;
        api.mount("/observe/prometheus", Arc::new(Prometheus(metrics.handler())));
        let group = ApiGroup { group: "metrics.k8s.io", version: "v1beta1", resources: ResourceMetricsHandler::resources() };
        api.mount_group(group, Arc::new(Resource(metrics.resource_metrics())));
        supervisor.launch(metrics)?;
    }
    if plan.runs(Part::Logging) {
        let config = pharos_logging::Config {
            data_dir: plan.layout.logs(),
            node: plan.node.clone(),
            pod_logs_dir: plan.layout.pod_logs(),
            ..Default::default()
        };
        let client = clients.service_account("kube-system", "pharos-logging", "pharos-logging");
        let logging = Logging::new(config, records, client, &registries.of("logging"))?;
        api.mount(LOKI, Arc::new(Loki(logging.handler())));
        supervisor.launch(logging)?;
    }
    Ok(())
}

struct Prometheus(MetricsHandler);
struct Resource(ResourceMetricsHandler);
struct Loki(LogsHandler);

#[async_trait::async_trait]
impl Mount for Prometheus {
    async fn handle(&self, request: Request) -> Response {
        match whole(request, MAX_BODY).await {
            Ok(request) => self.0.handle(request).await.map(Body::full),
            Err(refusal) => *refusal,
        }
    }
}

#[async_trait::async_trait]
impl Mount for Resource {
    async fn handle(&self, request: Request) -> Response {
        match whole(request, MAX_BODY).await {
            Ok(request) => self.0.handle(request).await.map(Body::full),
            Err(refusal) => *refusal,
        }
    }
}

#[async_trait::async_trait]
impl Mount for Loki {
    async fn handle(&self, mut request: Request) -> Response {
        if let Some(node) = request.extensions().get().and_then(node_of) {
            request.extensions_mut().insert(PushedBy(node));
        }
        match whole(request, MAX_PUSH).await {
            Ok(request) => self.0.handle(request).await,
            Err(refusal) => *refusal,
        }
    }

    async fn upgrade(&self, request: http::Request<()>, io: Io) {
        self.0.tail(request, io).await;
    }
}

/// The node that a user is, if it is one.
fn node_of(user: &UserInfo) -> Option<String> {
    let is_node = user.groups.iter().any(|group| group == "system:nodes");
    user.username.strip_prefix("system:node:").filter(|_| is_node).map(str::to_owned)
}

/// The request with its body read.
async fn whole(request: Request, limit: usize) -> Result<http::Request<Bytes>, Box<Response>> {
    let (head, body) = request.into_parts();
    match body.into_bytes(limit).await {
        Ok(bytes) => Ok(http::Request::from_parts(head, bytes)),
        Err(error) => {
            let code = match error {
                pharos_transport::ReadError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
                _ => StatusCode::BAD_REQUEST,
            };
            let mut response = Response::new(Body::full(format!("{error}\n")));
            *response.status_mut() = code;
            response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
            Err(Box::new(response))
        }
    }
}
