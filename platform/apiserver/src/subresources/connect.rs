//! Subresources that connect: logs, exec, attach, port-forward and proxies, carried to a kubelet or an endpoint.
//!
//! Follows `pkg/registry/core/{pod,service,node}/rest` and `pkg/registry/core/pod/strategy.go` (`streamLocation`).

use std::{fmt::Write as _, net::IpAddr, sync::Arc};

use http::{HeaderValue, Method, StatusCode, header, uri::Authority};
use pharos_transport::{
    Body, Io, Request, Response, pki,
    proxy::{self, Links, Proxy, ProxyError, Target},
    websocket,
};
use rand::seq::IndexedRandom as _;
use rustls::ClientConfig;
use serde_json::{Value, json};

use crate::{
    Config, Error,
    admission::{self, Attributes, Operation, Options},
    api::Api,
    audit::Audit,
    authn::UserInfo,
    call::Call,
    flowcontrol::Seat,
    outbound,
    request::{Query, RequestInfo},
    respond, services,
    status::{self, Status},
    took::Took,
    verbs,
};

use super::log_options;

const KUBELET_PORT: u64 = 10_250;

/// The code by which metrics count a connection that was taken over: upstream's server never sees the answer on it.
pub(crate) const TAKEN_OVER: u16 = 0;

/// What is behind this server, and how to reach it.
pub(crate) struct Upstream {
    proxy: Proxy,
    kubelet_tls: Option<Arc<ClientConfig>>,
    /// For pods and services that speak TLS: their certificates are their own business, as upstream has it.
    unverified_tls: Arc<ClientConfig>,
}

impl Upstream {
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        let unverified_tls = pki::client_config_without_verification(None).map_err(|error| Error::Config(error.to_string()))?;
        Ok(Upstream { proxy: Proxy::new(), kubelet_tls: config.kubelet_tls.clone(), unverified_tls })
    }

    fn kubelet_tls(&self) -> Result<Arc<ClientConfig>, Status> {
        self.kubelet_tls.clone().ok_or_else(|| status::unavailable("this API server has no client certificate for kubelets"))
    }
}

/// Answers a request that connects without an upgrade.
pub(crate) async fn handle(
    api: &Api,
    request: Request,
    user: &UserInfo,
    info: &RequestInfo,
    query: &Query,
) -> Result<Response, Status> {
    if info.subresource == "proxy" && info.rest.is_empty() && matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(with_slash(request.uri()));
    }
    if matches!(info.subresource.as_str(), "exec" | "attach" | "portforward") {
        return Err(status::bad_request("Upgrade request required"));
    }
    let audit = request.extensions().get::<Audit>().cloned().unwrap_or_default();
    let warnings = admit(api, user, info, query, &audit).await?;
    let mut response = carry(api, request, info, query).await?;
    for text in warnings {
        respond::warn(&mut response, &text);
    }
    Ok(response)
}

async fn carry(api: &Api, request: Request, info: &RequestInfo, query: &Query) -> Result<Response, Status> {
    let Some(target) = target(api, info, query).await? else {
        return Ok(respond::text(StatusCode::OK, "")); // Logs of a pod that is on no node yet.
    };
    let links = (info.subresource == "proxy").then(|| links(&request, info, &target));
    let response = api.0.upstream.proxy.forward(request, &target).await.map_err(unreachable_service)?;
    if let Some(links) = links {
        return Ok(links.lead_back(response));
    }
    if info.subresource != "log" {
        return Ok(response);
    }
    // A kubelet's refusal is text; a client of this server reads a Status.
    let code = response.status();
    if code.is_success() {
        return Ok(response.map(Body::long_running));
    }
    let text = response.into_body().into_bytes(64 << 10).await.unwrap_or_default();
    if let Some(status) = serde_json::from_slice(&text).ok().filter(|value: &Value| value["kind"] == "Status") {
        return Ok(respond::json_document(code, &status));
    }
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    let reason = match code.as_u16() {
        400 => "BadRequest",
        404 => "NotFound",
        422 => "Invalid",
        _ => "InternalError",
    };
    Err(Status::new(code.as_u16(), reason, text))
}

/// Asks policies and webhooks whether someone may connect; what they say on the side.
async fn admit(api: &Api, user: &UserInfo, info: &RequestInfo, query: &Query, audit: &Audit) -> Result<Vec<String>, Status> {
    if !matches!(info.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy") {
        return Ok(Vec::new()); // Logs are read, not connected to.
    }
    let kind = api.0.resources.lookup(&info.group, &info.version, &info.resource).ok_or_else(status::no_such_resource)?;
    let warnings = parking_lot::Mutex::default();
    let attributes = Attributes {
        api,
        user,
        kind: &kind,
        subresource: &info.subresource,
        namespace: &info.namespace,
        name: &info.name,
        operation: Operation::Connect,
        options: Options::None,
        warnings: &warnings,
        audit,
        elsewhere: &Took::default(),
    };
    let asked = connect_options(info, query);
    let mut options = asked.clone();
    admission::review(&attributes, &mut options, None).await?;
    if options != asked {
        return Err(status::internal("admission policies and webhooks cannot change how a connection is made"));
    }
    Ok(warnings.into_inner())
}

/// The object a connection is to admission.
fn connect_options(info: &RequestInfo, query: &Query) -> Value {
    let mut options = json!({"apiVersion": "v1"});
    let kind = match (info.subresource.as_str(), info.resource.as_str()) {
        ("exec", _) => "PodExecOptions",
        ("attach", _) => "PodAttachOptions",
        ("portforward", _) => "PodPortForwardOptions",
        (_, "services") => "ServiceProxyOptions",
        (_, "nodes") => "NodeProxyOptions",
        _ => "PodProxyOptions",
    };
    options["kind"] = json!(kind);
    match info.subresource.as_str() {
        "exec" | "attach" => {
            for flag in ["stdin", "stdout", "stderr", "tty"].into_iter().filter(|flag| query.flag(flag)) {
                options[flag] = json!(true);
            }
            if let Some(container) = query.get("container").filter(|name| !name.is_empty()) {
                options["container"] = json!(container);
            }
            let command: Vec<&str> = query.all("command").collect();
            if !command.is_empty() {
                options["command"] = json!(command);
            }
        }
        "portforward" => {
            let ports: Vec<i64> = query.all("ports").filter_map(|port| port.parse().ok()).collect();
            if !ports.is_empty() {
                options["ports"] = json!(ports);
            }
        }
        _ => options["path"] = json!(info.rest),
    }
    options
}

/// Takes over a connection that asks to be upgraded.
pub(crate) async fn upgrade(
    api: &Api,
    request: http::Request<()>,
    user: UserInfo,
    info: &RequestInfo,
    query: &Query,
    io: Io,
    seat: Option<Seat>,
) -> u16 {
    let audit = request.extensions().get::<Audit>().cloned().unwrap_or_default();
    let outcome = prepare(api, &request, user, info, query, seat, &audit).await;
    if outcome.is_ok() {
        audit.switched().await;
    }
    let (code, done) = match outcome {
        Err(status) => {
            let code = status.code().as_u16();
            audit.refused(&status);
            audit.started().await;
            respond::refuse_upgrade(io, status).await;
            return code;
        }
        Ok(Upgrade::Forward(target)) => match proxy::forward_upgrade(request, io, *target).await {
            Ok(()) => (TAKEN_OVER, Ok(())),
            Err(error @ ProxyError::TimedOut { .. }) => (504, Err(error.to_string())),
            Err(error) => (502, Err(error.to_string())),
        },
        Ok(Upgrade::Body(body)) => {
            (TAKEN_OVER, websocket::serve_body(request, io, body).await.map_err(|error| error.to_string()))
        }
        Ok(Upgrade::Texts(body)) => {
            (TAKEN_OVER, websocket::serve_texts(request, io, body).await.map_err(|error| error.to_string()))
        }
    };
    if let Err(error) = done {
        tracing::debug!(kind = info.resource, namespace = info.namespace, name = info.name, error, "upgraded connection ended");
    }
    code
}

enum Upgrade {
    Forward(Box<Target>),
    Body(Body),
    /// One whose pieces are texts.
    Texts(Body),
}

async fn prepare(
    api: &Api,
    request: &http::Request<()>,
    user: UserInfo,
    info: &RequestInfo,
    query: &Query,
    seat: Option<Seat>,
    audit: &Audit,
) -> Result<Upgrade, Status> {
    let kind = api.0.resources.lookup(&info.group, &info.version, &info.resource).filter(|_| info.is_resource);
    let kind = kind.ok_or_else(status::no_such_resource)?;
    let by_websocket = websocket::is_requested(request.headers());
    match (info.verb.as_str(), info.subresource.as_str()) {
        ("watch", "") if by_websocket => {
            let mut info = info.clone();
            if kind.group.is_empty() && kind.plural == "namespaces" {
                info.namespace.clear();
            }
            let call = Call {
                api: api.clone(),
                user,
                info,
                query: query.clone(),
                headers: request.headers().clone(),
                body: bytes::Bytes::new(),
                kind,
                warnings: parking_lot::Mutex::default(),
                seat: parking_lot::Mutex::new(seat),
                audit: audit.clone(),
                elsewhere: Took::default(),
            };
            Ok(match verbs::watch::messages(&call).await? {
                verbs::watch::Messages::Text(body) => Upgrade::Texts(body),
                verbs::watch::Messages::Binary(body) => Upgrade::Body(body),
            })
        }
        (_, "log") if by_websocket => {
            let Some(target) = target(api, info, query).await? else { return Ok(Upgrade::Body(Body::empty())) };
            let plain = http::Request::builder().method(Method::GET).uri("/").body(Body::empty());
            let plain = plain.map_err(status::internal)?;
            let response = api.0.upstream.proxy.forward(plain, &target).await.map_err(unreachable_service)?;
            Ok(Upgrade::Body(response.into_body()))
        }
        (_, "exec" | "attach" | "portforward" | "proxy") => {
            admit(api, &user, info, query, audit).await?;
            let target = target(api, info, query).await?;
            target
                .map(|target| Upgrade::Forward(Box::new(target)))
                .ok_or_else(|| status::bad_request(format!("pod {} does not have a host assigned", info.name)))
        }
        _ => Err(status::bad_request("this resource cannot be upgraded to")),
    }
}

fn unreachable_service(error: ProxyError) -> Status {
    let text = outbound::causes(&error);
    match error {
        ProxyError::TimedOut { .. } => status::timeout(format!("error trying to reach service: {text}")),
        ProxyError::Connect { .. } | ProxyError::Exchange { .. } => {
            status::unavailable(format!("error trying to reach service: {text}"))
        }
    }
}

/// Where the links of what is proxied are to lead.
fn links(request: &Request, info: &RequestInfo, target: &Target) -> Links {
    let path = request.uri().path();
    let prefix = path.strip_suffix(info.rest.as_str()).unwrap_or(path).trim_end_matches('/').to_owned();
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| request.uri().authority().map(Authority::as_str)).unwrap_or_default().to_owned();
    Links { prefix, source: target.authority.to_string(), host }
}

/// Relative links in what is proxied work only below a slash.
fn with_slash(uri: &http::Uri) -> Response {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = respond::text(StatusCode::MOVED_PERMANENTLY, "");
    if let Ok(location) = HeaderValue::from_str(&format!("{}/{query}", uri.path())) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// Where a request goes; `None` for a pod that is on no node.
async fn target(api: &Api, info: &RequestInfo, query: &Query) -> Result<Option<Target>, Status> {
    match (info.resource.as_str(), info.subresource.as_str()) {
        ("nodes", "proxy") => node_proxy(api, info, query).await.map(Some),
        ("pods", "proxy") => pod_proxy(api, info, query).await.map(Some),
        ("services", "proxy") => service_proxy(api, info, query).await.map(Some),
        ("pods", subresource) => pod_stream(api, info, query, subresource).await,
        _ => Err(status::no_such_resource()),
    }
}

async fn object(api: &Api, resource: &str, namespace: &str, name: &str) -> Result<Value, Status> {
    let object = api.0.storage.object("", resource, namespace, name).await?;
    object.ok_or_else(|| status::not_found("", resource, name))
}

/// A kubelet's address.
async fn kubelet(api: &Api, node: &str) -> Result<Authority, Status> {
    let object = object(api, "nodes", "", node).await?;
    let address = node_address(&object).ok_or_else(|| {
        status::internal(format!("no preferred addresses found; known addresses: {}", object["status"]["addresses"]))
    })?;
    let port = object["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().unwrap_or(KUBELET_PORT);
    authority(address, port)
}

fn node_address(node: &Value) -> Option<&str> {
    let of = |kind: &str| {
        let mut addresses = node["status"]["addresses"].as_array().into_iter().flatten();
        addresses.find(|address| address["type"] == kind)?["address"].as_str()
    };
    of("InternalIP").or_else(|| of("Hostname")).or_else(|| of("ExternalIP"))
}

fn authority(host: &str, port: u64) -> Result<Authority, Status> {
    let text = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    text.parse().map_err(|_| status::internal(format!("{text} is no address")))
}

/// Sets path and query of a target.
fn aim(target: &mut Target, path: &str) -> Result<(), Status> {
    target.path_and_query = Some(path.parse().map_err(|_| status::bad_request(format!("invalid path {path:?}")))?);
    Ok(())
}

/// Logs, exec, attach and port-forward: a kubelet's business.
async fn pod_stream(api: &Api, info: &RequestInfo, query: &Query, subresource: &str) -> Result<Option<Target>, Status> {
    if subresource == "log" {
        log_options::check(&info.name, query)?;
    }
    let pod = object(api, "pods", &info.namespace, &info.name).await?;
    let Some(node) = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) else { return Ok(None) };
    let mut target = Target::new(kubelet(api, node).await?, Some(api.0.upstream.kubelet_tls()?));
    aim(&mut target, &kubelet_path(&pod, info, query, subresource)?)?;
    if subresource == "log" {
        target.respond = None; // The first line of a followed log may be long in coming.
    }
    Ok(Some(target))
}

/// What a kubelet is asked for.
fn kubelet_path(pod: &Value, info: &RequestInfo, query: &Query, subresource: &str) -> Result<String, Status> {
    let (namespace, name) = (escape(&info.namespace), escape(&info.name));
    let mut parameters = url::form_urlencoded::Serializer::new(String::new());
    let path = match subresource {
        "portforward" => {
            for port in query.all("ports").chain(query.all("port")) {
                parameters.append_pair("port", port);
            }
            format!("/portForward/{namespace}/{name}")
        }
        "log" => {
            let container = container(pod, query, "a")?;
            for parameter in
                ["follow", "previous", "timestamps", "sinceSeconds", "sinceTime", "tailLines", "limitBytes", "stream"]
            {
                if let Some(value) = query.get(parameter) {
                    parameters.append_pair(parameter, value);
                }
            }
            format!("/containerLogs/{namespace}/{name}/{}", escape(&container))
        }
        _ => {
            let container = container(pod, query, "a")?;
            // The kubelet has other names for the same streams.
            for (ours, theirs) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
                if query.flag(ours) {
                    parameters.append_pair(theirs, "1");
                }
            }
            for argument in query.all("command") {
                parameters.append_pair("command", argument);
            }
            format!("/{subresource}/{namespace}/{name}/{}", escape(&container))
        }
    };
    let parameters = parameters.finish();
    Ok(if parameters.is_empty() { path } else { format!("{path}?{parameters}") })
}

fn escape(segment: &str) -> String {
    percent_encoding::utf8_percent_encode(segment, percent_encoding::NON_ALPHANUMERIC)
        .to_string()
        .replace("%2D", "-")
        .replace("%2E", ".")
}

/// The container meant: the one named, or the only one there is.
fn container(pod: &Value, query: &Query, article: &str) -> Result<String, Status> {
    let names = |list: &str| -> Vec<String> {
        let containers = pod["spec"][list].as_array().into_iter().flatten();
        containers.filter_map(|container| container["name"].as_str()).map(str::to_owned).collect()
    };
    let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let (main, init, ephemeral) = (names("containers"), names("initContainers"), names("ephemeralContainers"));
    match query.get("container").filter(|name| !name.is_empty()) {
        Some(name) if [&main, &init, &ephemeral].iter().any(|list| list.iter().any(|known| known == name)) => Ok(name.to_owned()),
        Some(name) => Err(status::bad_request(format!("container {name} is not valid for pod {pod_name}"))),
        None => match main.as_slice() {
            [only] => Ok(only.clone()),
            [] => Err(status::bad_request(format!("a container name must be specified for pod {pod_name}"))),
            several => {
                let mut text = format!(
                    "{article} container name must be specified for pod {pod_name}, choose one of: [{}]",
                    several.join(" ")
                );
                if !init.is_empty() {
                    let _ = write!(text, " or one of the init containers: [{}]", init.join(" "));
                }
                Err(status::bad_request(text))
            }
        },
    }
}

/// `[scheme:]name[:port]`.
fn split_name(text: &str) -> Result<(&str, &str, &str), Status> {
    let parts: Vec<&str> = text.split(':').collect();
    match parts.as_slice() {
        [name] => Ok(("", name, "")),
        [name, port] => Ok(("", name, port)),
        [scheme @ ("http" | "https" | ""), name, port] => Ok((scheme, name, port)),
        _ => Err(status::bad_request(format!("invalid request \"{text}\""))),
    }
}

/// What is asked for behind the proxy.
fn path_behind(info: &RequestInfo, query: &Query) -> String {
    let path = if info.rest.is_empty() { "/" } else { &info.rest };
    match query.raw() {
        "" => path.to_owned(),
        query => format!("{path}?{query}"),
    }
}

async fn node_proxy(api: &Api, info: &RequestInfo, query: &Query) -> Result<Target, Status> {
    let (scheme, name, port) = split_name(&info.name)?;
    let mut target = if port.is_empty() || port == KUBELET_PORT.to_string() {
        Target::new(kubelet(api, name).await?, Some(api.0.upstream.kubelet_tls()?))
    } else {
        let node = object(api, "nodes", "", name).await?;
        let address = node_address(&node).ok_or_else(|| status::internal("the node has no address"))?.to_owned();
        check_proxyable_host(&address).await?;
        let port = port.parse().map_err(|_| status::bad_request(format!("invalid port {port:?}")))?;
        Target::new(authority(&address, port)?, (scheme == "https").then(|| api.0.upstream.unverified_tls.clone()))
    };
    aim(&mut target, &path_behind(info, query))?;
    Ok(target)
}

async fn pod_proxy(api: &Api, info: &RequestInfo, query: &Query) -> Result<Target, Status> {
    let (scheme, name, port) = split_name(&info.name)?;
    let pod = object(api, "pods", &info.namespace, name).await?;
    let ip = pod["status"]["podIP"].as_str().filter(|ip| is_proxyable(ip)).ok_or_else(address_not_allowed)?;
    let ports = || {
        let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
        containers.flat_map(|container| container["ports"].as_array().into_iter().flatten())
    };
    let number = match port {
        "" => ports().find_map(|port| port["containerPort"].as_u64()).unwrap_or(if scheme == "https" { 443 } else { 80 }),
        text => match text.parse() {
            Ok(number) => number,
            Err(_) => ports()
                .find(|port| port["name"] == text)
                .and_then(|port| port["containerPort"].as_u64())
                .ok_or_else(|| status::bad_request(format!("pod {name} has no port named {text:?}")))?,
        },
    };
    endpoint(api, scheme, ip, number, &path_behind(info, query))
}

/// Whether a proxied request may go to this address (`IsProxyableIP` in `pkg/proxy/util/utils.go`): whoever may write a status
/// or a slice is not to reach what this machine serves to itself, or a cloud's metadata.
fn is_proxyable(ip: &str) -> bool {
    ip.parse::<IpAddr>().is_ok_and(is_global_unicast)
}

/// Go's `IP.IsGlobalUnicast`, which private networks are part of.
fn is_global_unicast(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    let local = match ip {
        IpAddr::V4(ip) => ip.is_broadcast() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(local || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast())
}

fn address_not_allowed() -> Status {
    status::bad_request("address not allowed")
}

/// Likewise for a node's address, which may be a name (`IsProxyableHostname`).
async fn check_proxyable_host(host: &str) -> Result<(), Status> {
    let mut addresses = tokio::net::lookup_host((host, 0)).await.map_err(|error| status::bad_request(error.to_string()))?;
    if addresses.all(|address| is_global_unicast(address.ip())) { Ok(()) } else { Err(address_not_allowed()) }
}

fn endpoint(api: &Api, scheme: &str, ip: &str, port: u64, path: &str) -> Result<Target, Status> {
    let tls = (scheme == "https").then(|| api.0.upstream.unverified_tls.clone());
    let mut target = Target::new(authority(ip, port)?, tls);
    aim(&mut target, path)?;
    Ok(target)
}

async fn service_proxy(api: &Api, info: &RequestInfo, query: &Query) -> Result<Target, Status> {
    let (scheme, name, port) = split_name(&info.name)?;
    let service = object(api, "services", &info.namespace, name).await?;
    let unavailable = |why: &str| status::unavailable(format!("{why} for service \"{name}\""));
    let ports: Vec<&Value> = service["spec"]["ports"].as_array().into_iter().flatten().collect();
    let wanted = match port {
        "" if ports.len() == 1 => ports[0],
        "" => return Err(unavailable("no endpoints available: a port must be named")),
        text => *ports
            .iter()
            .find(|candidate| {
                candidate["name"] == text || candidate["port"].as_u64().map(|p| p.to_string()).as_deref() == Some(text)
            })
            .ok_or_else(|| unavailable(&format!("no service port {text:?} found")))?,
    };
    let port_name = wanted["name"].as_str().unwrap_or_default();
    let mut places = services::endpoints(api, &info.namespace, name, port_name)?;
    places.retain(|(ip, _)| is_proxyable(ip));
    let (ip, port) = places.choose(&mut rand::rng()).ok_or_else(|| unavailable("no endpoints available"))?;
    endpoint(api, scheme, ip, *port, &path_behind(info, query))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_schemes_and_ports() {
        assert_eq!(split_name("a").unwrap(), ("", "a", ""));
        assert_eq!(split_name("a:80").unwrap(), ("", "a", "80"));
        assert_eq!(split_name("https:a:web").unwrap(), ("https", "a", "web"));
        assert!(split_name("ftp:a:1").is_err());
    }

    #[test]
    fn proxied_requests_stay_off_this_machine() {
        for (ip, wanted) in [
            ("10.42.0.7", true),
            ("192.168.1.1", true),
            ("8.8.8.8", true),
            ("fd00::1", true),
            ("127.0.0.1", false),
            ("::1", false),
            ("::ffff:127.0.0.1", false),
            ("0.0.0.0", false),
            ("::", false),
            ("169.254.169.254", false),
            ("fe80::1", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("localhost", false),
            ("", false),
        ] {
            assert_eq!(is_proxyable(ip), wanted, "{ip}");
        }
    }
}
