//! The kubelet's HTTPS API: logs, exec, attach, port-forward, pods, statistics and metrics (`pkg/kubelet/server`).
//!
//! Whoever calls is authenticated by a certificate of the cluster's CA or by a token, and must be allowed the `nodes`
//! subresource that the path stands for; the API server decides both.

mod auth; // Who may;
pub(crate) mod cadvisor; // what is measured of containers,
pub(crate) mod resource; // in short,
pub(crate) mod stats; // and in JSON;
mod logs; // what they wrote;
mod files; // what the machine wrote;
mod streams; // what runs in them now;
mod usage; // where the numbers come from.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use http::{Method, StatusCode, header};
use pharos_transport::{Body, Front, FrontConfig, Handler, Io, Limits, Peer, Request, Response, Tls, remote_command, websocket};
use prometheus::{Encoder as _, TextEncoder};
use rustls::{RootCertStore, server::ResolvesServerCert};

use crate::{
    core::Core,
    error::{Error, Result},
    names,
};

/// What the server proves itself with, and whose clients it knows.
#[derive(Clone)]
pub struct ServerTls {
    /// Its certificate.
    pub certificate: Arc<dyn ResolvesServerCert>,
    /// The cluster's client CA.
    pub client_roots: Arc<RootCertStore>,
}

/// The metrics of another component of this process, by its name, as text; `None`: there is no such component. May block.
pub type Components = Arc<dyn Fn(&str) -> Option<Result<String, prometheus::Error>> + Send + Sync>;

/// The server, listening.
pub(crate) struct Server {
    front: Front,
    api: Arc<KubeletApi>,
}

/// What answers.
struct KubeletApi {
    core: Arc<Core>,
    components: Option<Components>,
    auth: auth::Auth,
}

/// A failure the client is told of.
struct Refusal(StatusCode, String);

impl Server {
    /// Listens; nothing is accepted before [`Server::serve`].
    pub(crate) async fn bind(core: Arc<Core>, tls: &ServerTls, components: Option<Components>) -> Result<Self> {
        let front = Front::bind(FrontConfig {
            addresses: vec![SocketAddr::new(core.config.address, core.config.port)],
            tls: Some(Tls { certificate: tls.certificate.clone(), client_roots: Some(tls.client_roots.clone()) }),
            limits: Limits { http1_threads: 1, ..Limits::default() },
        })
        .await
        .map_err(Error::Serve)?;
        Ok(Self { front, api: Arc::new(KubeletApi { auth: auth::Auth::new(core.client.clone()), core, components }) })
    }

    /// Serves until the kubelet stops.
    pub(crate) async fn serve(self) {
        let stop = self.api.core.ctx.token();
        self.front.serve(self.api, stop).await;
    }
}

#[async_trait::async_trait]
impl Handler for KubeletApi {
    async fn handle(&self, request: Request) -> Response {
        let (parts, _) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let root = format!("/{}", path.split('/').nth(1).unwrap_or_default());
        let long = matches!(root.as_str(), "/exec" | "/attach" | "/portForward" | "/containerLogs" | "/run");
        let labels = [parts.method.as_str(), known(&root), "readwrite", if long { "true" } else { "false" }];
        self.core.metrics.http_requests.with_label_values(&labels).inc();
        let inflight = self.core.metrics.http_inflight.with_label_values(&labels);
        inflight.inc();
        let answer = self.answer(&parts, &path).await;
        inflight.dec();
        answer.unwrap_or_else(Refusal::response)
    }

    async fn upgrade(&self, request: http::Request<()>, io: Io) {
        let (parts, ()) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let admitted = match self.authorize(&parts, &path).await {
            Ok(()) => self.stream_target(&path, &query(&parts.uri)).await,
            Err(refusal) => Err(refusal),
        };
        let request = http::Request::from_parts(parts, ());
        let result = match admitted {
            Err(refusal) => {
                if let Err(error) = websocket::refuse(io, refusal.response()).await {
                    tracing::debug!(error = %error, "cannot refuse an upgrade");
                }
                return;
            }
            Ok(target) => streams::serve(&self.core, target, request, io).await,
        };
        if let Err(error) = result {
            tracing::debug!(error, "a stream of a container ended badly");
        }
    }
}

/// The path as a label: only those there are.
fn known(root: &str) -> &'static str {
    const PATHS: [&str; 11] = [
        "/pods",
        "/healthz",
        "/metrics",
        "/stats",
        "/containerLogs",
        "/exec",
        "/attach",
        "/portForward",
        "/run",
        "/configz",
        "/logs",
    ];
    PATHS.into_iter().find(|path| *path == root).map_or("other", |path| &path[1..])
}

/// The parameters of a query; a name may come more than once.
fn query(uri: &http::Uri) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        all.entry(name.into_owned()).or_default().push(value.into_owned());
    }
    all
}

fn flag(query: &BTreeMap<String, Vec<String>>, name: &str) -> bool {
    query
        .get(name)
        .and_then(|values| values.first())
        .is_some_and(|value| matches!(value.as_str(), "1" | "true" | "True" | "TRUE" | "t" | "T"))
}

impl KubeletApi {
    async fn authorize(&self, parts: &http::request::Parts, path: &str) -> std::result::Result<(), Refusal> {
        let peer = parts.extensions.get::<Peer>();
        let user =
            self.auth.authenticate(peer, &parts.headers).await.map_err(|error| Refusal(StatusCode::UNAUTHORIZED, error))?;
        let node = &self.core.config.node_name;
        self.auth.authorize(&user, &parts.method, path, node).await.map_err(|error| Refusal(StatusCode::FORBIDDEN, error))
    }

    async fn answer(&self, parts: &http::request::Parts, path: &str) -> std::result::Result<Response, Refusal> {
        self.authorize(parts, path).await?;
        let query = query(&parts.uri);
        let core = &self.core;
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        Ok(match segments.as_slice() {
            ["healthz"] | ["healthz", "ping"] => text("ok"),
            ["healthz", "syncloop"] if core.ctx.is_ready() => text("ok"),
            ["pods"] | ["runningpods"] => {
                let pods: Vec<_> = core.pods.read().values().map(|pod| pod.as_ref().clone()).collect();
                json(&serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods}))
            }
            ["configz"] => json(&serde_json::json!({"kubeletconfig": core.config})),
            ["metrics"] => exposition(core)?,
            ["metrics", "cadvisor"] => metrics(cadvisor::text(core).await),
            ["metrics", "resource"] => metrics(resource::text(core).await),
            ["metrics", "probes"] => metrics(probes(core)?),
            ["metrics", "components", name] => self.component(name).await?,
            ["stats", "summary"] => json(&stats::summary(core, flag(&query, "only_cpu_and_memory")).await),
            ["logs", ..] if core.config.enable_system_log_handler && matches!(parts.method, Method::GET | Method::HEAD) => {
                files::serve(std::path::Path::new(files::ROOT), path.strip_prefix("/logs").unwrap_or_default()).await
            }
            ["containerLogs", namespace, pod, container] => self.logs(namespace, pod, container, &query).await?,
            ["run", namespace, pod, container] | ["run", namespace, pod, _, container] if parts.method == Method::POST => {
                self.run(namespace, pod, container, &query).await?
            }
            ["exec" | "attach" | "portForward", ..] => {
                return Err(Refusal(StatusCode::BAD_REQUEST, "Upgrade request required".to_owned()));
            }
            _ => return Err(Refusal(StatusCode::NOT_FOUND, "404 page not found".to_owned())),
        })
    }

    /// Pharos' own: what runs beside the kubelet in this process has no HTTP server of its own.
    async fn component(&self, name: &str) -> std::result::Result<Response, Refusal> {
        let unknown = || Refusal(StatusCode::NOT_FOUND, format!("component \"{name}\" not found"));
        let components = self.components.clone().ok_or_else(unknown)?;
        let wanted = name.to_owned();
        let page =
            tokio::task::spawn_blocking(move || components(&wanted)).await.map_err(|error| internal(&error.to_string()))?;
        let page = page.ok_or_else(unknown)?.map_err(|error| internal(&error.to_string()))?;
        Ok(metrics(page))
    }

    async fn logs(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &BTreeMap<String, Vec<String>>,
    ) -> std::result::Result<Response, Refusal> {
        let now = self.core.clock.now();
        let options = logs::Options::parse(query, now).map_err(|error| Refusal(StatusCode::UNPROCESSABLE_ENTITY, error))?;
        let found = self.pod(namespace, pod)?;
        if names::find(&found, container).is_none() {
            return Err(Refusal(StatusCode::NOT_FOUND, format!("container {container} is not valid for pod {pod}")));
        }
        let view = self.core.view(names::uid(&found)).await.map_err(|error| internal(&error.chain()))?;
        let mut instances = view.instances(container).filter(|c| !c.log_path.as_os_str().is_empty());
        let instance = if options.previous { instances.nth(1) } else { instances.next() };
        let Some(instance) = instance.cloned() else {
            let message = if options.previous {
                format!("previous terminated container \"{container}\" in pod \"{pod}\" not found")
            } else {
                format!("container \"{container}\" in pod \"{pod}\" is waiting to start: {}", waiting(&found, container))
            };
            return Err(Refusal(StatusCode::BAD_REQUEST, message));
        };
        let follow = options.follow;
        let stream = logs::stream(self.core.clone(), instance, options);
        let body = Body::stream(stream);
        let body = if follow { body.long_running() } else { body };
        let mut response = Response::new(body);
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
        Ok(response)
    }

    async fn run(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &BTreeMap<String, Vec<String>>,
    ) -> std::result::Result<Response, Refusal> {
        let id = self.running(namespace, pod, container).await?;
        let command: Vec<String> = match query.get("cmd") {
            Some(words) if words.len() == 1 => words[0].split_whitespace().map(str::to_owned).collect(),
            Some(words) => words.clone(),
            None => query.get("command").cloned().unwrap_or_default(),
        };
        let done = self
            .core
            .runtime
            .exec_sync(&id, &command, std::time::Duration::ZERO)
            .await
            .map_err(|error| internal(&error.chain()))?;
        let mut output = done.stdout;
        output.extend(done.stderr);
        if done.exit_code != 0 {
            let text = String::from_utf8_lossy(&output).into_owned();
            return Err(internal(&format!("command '{}' exited with {}: {text}", command.join(" "), done.exit_code)));
        }
        let mut response = Response::new(Body::full(output));
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
        Ok(response)
    }

    fn pod(&self, namespace: &str, name: &str) -> std::result::Result<Arc<k8s_openapi::api::core::v1::Pod>, Refusal> {
        self.core.pod(namespace, name).ok_or_else(|| Refusal(StatusCode::NOT_FOUND, format!("pod \"{name}\" not found")))
    }

    /// The runtime ID of a running container.
    async fn running(&self, namespace: &str, pod: &str, container: &str) -> std::result::Result<String, Refusal> {
        let found = self.pod(namespace, pod)?;
        let view = self.core.view(names::uid(&found)).await.map_err(|error| internal(&error.chain()))?;
        let id = view.running().find(|c| c.metadata.name == container).map(|c| c.id.clone());
        id.ok_or_else(|| Refusal(StatusCode::NOT_FOUND, format!("container not found (\"{container}\")")))
    }

    async fn stream_target(
        &self,
        path: &str,
        query: &BTreeMap<String, Vec<String>>,
    ) -> std::result::Result<streams::Target, Refusal> {
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let options = || remote_command::Options {
            stdin: flag(query, "input") || flag(query, "stdin"),
            stdout: flag(query, "output") || flag(query, "stdout"),
            stderr: flag(query, "error") || flag(query, "stderr"),
            tty: flag(query, "tty"),
        };
        match segments.as_slice() {
            ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] => Ok(streams::Target::Exec {
                id: self.running(namespace, pod, container).await?,
                command: query.get("command").cloned().unwrap_or_default(),
                options: options(),
            }),
            ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
                Ok(streams::Target::Attach { id: self.running(namespace, pod, container).await?, options: options() })
            }
            ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
                let found = self.pod(namespace, pod)?;
                let view = self.core.view(names::uid(&found)).await.map_err(|error| internal(&error.chain()))?;
                let sandbox = view.ready_sandbox().ok_or_else(|| {
                    Refusal(
                        StatusCode::BAD_REQUEST,
                        format!(
                            "unable to do port forwarding: pod is not running. Current status={:?}",
                            found.status.as_ref().and_then(|s| s.phase.clone()).unwrap_or_default()
                        ),
                    )
                })?;
                Ok(streams::Target::PortForward { netns: sandbox.netns.clone() })
            }
            _ => Err(Refusal(StatusCode::NOT_FOUND, "404 page not found".to_owned())),
        }
    }
}

fn waiting(pod: &k8s_openapi::api::core::v1::Pod, container: &str) -> String {
    pod.status
        .iter()
        .flat_map(|s| {
            s.container_statuses.iter().chain(&s.init_container_statuses).chain(&s.ephemeral_container_statuses).flatten()
        })
        .find(|status| status.name == container)
        .and_then(|status| {
            let waiting = status.state.as_ref()?.waiting.as_ref()?;
            Some(match waiting.reason.as_deref() {
                Some("ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull") => "trying and failing to pull image".to_owned(),
                Some(reason) => reason.to_owned(),
                None => "ContainerCreating".to_owned(),
            })
        })
        .unwrap_or_else(|| "ContainerCreating".to_owned())
}

fn internal(message: &str) -> Refusal {
    Refusal(StatusCode::INTERNAL_SERVER_ERROR, message.to_owned())
}

impl Refusal {
    fn response(self) -> Response {
        let mut response = text(&self.1);
        *response.status_mut() = self.0;
        response
    }
}

fn with_type(body: Body, kind: &'static str) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

fn text(text: &str) -> Response {
    with_type(Body::full(text.to_owned()), "text/plain; charset=utf-8")
}

fn json(value: &serde_json::Value) -> Response {
    with_type(Body::full(value.to_string()), "application/json")
}

fn metrics(text: String) -> Response {
    with_type(Body::full(text), "text/plain; version=0.0.4; charset=utf-8")
}

fn encode(families: &[prometheus::proto::MetricFamily]) -> std::result::Result<String, Refusal> {
    let mut bytes = Vec::new();
    TextEncoder::new().encode(families, &mut bytes).map_err(|error| internal(&error.to_string()))?;
    String::from_utf8(bytes).map_err(|error| internal(&error.to_string()))
}

/// Served apart, for there are some for each container.
fn is_of_probes(family: &prometheus::proto::MetricFamily) -> bool {
    family.name().starts_with("prober_")
}

fn exposition(core: &Core) -> std::result::Result<Response, Refusal> {
    let families: Vec<_> = core.metrics.registry.gather().into_iter().filter(|family| !is_of_probes(family)).collect();
    Ok(metrics(encode(&families)?))
}

fn probes(core: &Core) -> std::result::Result<String, Refusal> {
    let families: Vec<_> = core.metrics.registry.gather().into_iter().filter(is_of_probes).collect();
    encode(&families)
}
