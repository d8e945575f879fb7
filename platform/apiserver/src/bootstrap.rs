//! The objects every cluster has, made at start where they are missing.

use futures::{StreamExt as _, stream};
use http::{Method, StatusCode, header};
use pharos_api::validation::FieldError;
use pharos_transport::Body;
use serde_json::{Value, json};

use crate::{
    Error, Result,
    api::{Api, Service},
    authn::UserInfo,
    authz::{self, bootstrap::Step},
    call::Call,
};

/// How many objects are written at once.
const PARALLEL: usize = 32;

/// The name of the server itself, as upstream's loopback client.
const MYSELF: &str = crate::authn::API_SERVER;

pub(crate) fn myself() -> UserInfo {
    UserInfo::new(MYSELF, [authz::SYSTEM_MASTERS])
}

/// Drops the complaint that this server is at a loopback address, which on a machine without a network it is: where it is it
/// may tell, if nobody else may.
pub(crate) fn allow_own_address(call: &Call, name: &str, errors: &mut Vec<FieldError>) {
    let own = call.user.username == MYSELF && call.info.namespace == "default" && name == "kubernetes";
    if own && (call.kind.plural == "endpoints" || call.kind.plural == "endpointslices") {
        errors.retain(|error| !error.detail.starts_with("may not be in the loopback range"));
    }
}

/// Makes what is missing. Called again after a failure.
pub(crate) async fn run(api: &Api) -> Result<()> {
    let namespaces = ["default", "kube-system", "kube-public", "kube-node-lease"].map(|name| {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        async move { ensure(api, "/api/v1/namespaces", &namespace).await }
    });
    futures::future::try_join_all(namespaces).await?;
    // Many at once, so that they share the store's commits.
    let mut roles = stream::iter(authz::bootstrap::objects())
        .map(|object| async move { role(api, &object).await })
        .buffer_unordered(PARALLEL);
    while let Some(outcome) = roles.next().await {
        outcome?;
    }
    for (name, value, text) in [
        (
            "system-node-critical",
            2_000_001_000_i64,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ] {
        let class = json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": text,
        });
        ensure(api, "/apis/scheduling.k8s.io/v1/priorityclasses", &class).await?;
    }
    crate::aggregation::register(api).await?;
    if let Err(error) = crate::flowcontrol::maintain(api).await {
        // It is done again as soon as the server is up, which it can be without: what all need is known anyway.
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, "objects of API priority and fairness are not made yet");
    }
    authentication(api).await?;
    kubernetes_service(api).await
}

/// One default RBAC object, brought up to date without taking away what an administrator added.
async fn role(api: &Api, wanted: &Value) -> Result<()> {
    let resource = authz::bootstrap::resource(wanted);
    let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
    let path = match wanted["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/{resource}"),
        None => format!("/apis/rbac.authorization.k8s.io/v1/{resource}"),
    };
    let object = format!("{path}/{name}");
    let existing = match call(api, &myself(), Method::GET, &object, "application/json", None).await? {
        (StatusCode::NOT_FOUND, _) => None,
        (_, value) => Some(value),
    };
    match authz::bootstrap::reconcile(existing.as_ref(), wanted) {
        Step::Keep => Ok(()),
        Step::Create(value) => ensure(api, &path, &value).await,
        Step::Update(value) => send(api, &myself(), Method::PUT, &object, "application/json", &value).await.map(drop),
        Step::Recreate(value) => {
            let _ = call(api, &myself(), Method::DELETE, &object, "application/json", None).await?;
            ensure(api, &path, &value).await
        }
    }
}

/// What extension API servers read to believe this one (`pkg/controlplane/controller/clusterauthenticationtrust`).
async fn authentication(api: &Api) -> Result<()> {
    let ca = &api.0.config.client_ca_pem;
    if ca.is_empty() {
        return Ok(());
    }
    let mut map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": {"client-ca-file": ca},
    });
    let front_proxy = &api.0.config.front_proxy_ca_pem;
    if !front_proxy.is_empty() {
        pharos_api::patch::merge::merge(&mut map["data"], &crate::aggregation::trust(front_proxy));
    }
    put(api, "/api/v1/namespaces/kube-system/configmaps", &map).await
}

/// The `kubernetes` Service and its endpoints, by which pods reach this server.
async fn kubernetes_service(api: &Api) -> Result<()> {
    let config = &api.0.config;
    let ip = api.0.allocator.networks()[0].nth(1);
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
        "spec": {
            "clusterIP": ip.to_string(), "clusterIPs": [ip.to_string()], "type": "ClusterIP",
            "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": config.secure_port}],
        },
    });
    ensure(api, "/api/v1/namespaces/default/services", &service).await?;
    let address = config.advertise_address;
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{
            "addresses": [{"ip": address.to_string()}],
            "ports": [{"name": "https", "port": config.secure_port, "protocol": "TCP"}],
        }],
    });
    put(api, "/api/v1/namespaces/default/endpoints", &endpoints).await?;
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [address.to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": config.secure_port, "protocol": "TCP"}],
    });
    put(api, "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", &slice).await
}

/// Creates an object unless it is there.
async fn ensure(api: &Api, path: &str, object: &Value) -> Result<()> {
    // Asking first: a Service is refused for its address, which is its own, before its name is found to be taken.
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let (code, _) = call(api, &myself(), Method::GET, &format!("{path}/{name}"), "application/json", None).await?;
    if code.is_success() {
        return Ok(());
    }
    let (code, value) = call(api, &myself(), Method::POST, path, "application/json", Some(object)).await?;
    if code.is_success() || value["reason"] == "AlreadyExists" {
        return Ok(());
    }
    Err(failed(path, &value))
}

/// Creates an object, or brings it to this state.
async fn put(api: &Api, path: &str, object: &Value) -> Result<()> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let there = format!("{path}/{name}");
    let (code, value) = call(api, &myself(), Method::GET, &there, "application/json", None).await?;
    if code == StatusCode::NOT_FOUND {
        return send(api, &myself(), Method::POST, path, "application/json", object).await.map(drop);
    }
    if !code.is_success() {
        return Err(failed(&there, &value));
    }
    let mut merged = value.clone();
    pharos_api::patch::merge::merge(&mut merged, object);
    if merged == value {
        return Ok(());
    }
    send(api, &myself(), Method::PATCH, &there, "application/merge-patch+json", object).await.map(drop)
}

pub(crate) fn failed(path: &str, value: &Value) -> Error {
    Error::Bootstrap { object: path.to_owned(), message: value["message"].as_str().unwrap_or("no reason given").to_owned() }
}

/// Sends a request that has to succeed.
pub(crate) async fn send(
    api: &Api,
    user: &UserInfo,
    method: Method,
    path: &str,
    content_type: &str,
    body: &Value,
) -> Result<Value> {
    let (code, value) = call(api, user, method, path, content_type, Some(body)).await?;
    if code.is_success() { Ok(value) } else { Err(failed(path, &value)) }
}

/// Sends a request through the front door.
pub(crate) async fn call(
    api: &Api,
    user: &UserInfo,
    method: Method,
    path: &str,
    content_type: &str,
    body: Option<&Value>,
) -> Result<(StatusCode, Value)> {
    let body = body.map_or_else(Body::empty, |value| Body::full(value.to_string()));
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, content_type)
        .header(header::USER_AGENT, "pharos-apiserver")
        .body(body)
        .map_err(|error| Error::Bootstrap { object: path.to_owned(), message: error.to_string() })?;
    let mut service: Service = api.service(user.clone());
    let response = match tower::Service::call(&mut service, request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let code = response.status();
    let bytes = response
        .into_body()
        .into_bytes(16 << 20)
        .await
        .map_err(|error| Error::Bootstrap { object: path.to_owned(), message: error.to_string() })?;
    let value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    Ok((code, value))
}
