//! How a node joins: with a bootstrap token it asks the server to sign its certificates, and learns the cluster's settings.
//!
//! The token carries the hash of the CA (`K10<hash>::<id>.<secret>`). The node first reads the CA from the public
//! ConfigMap `kube-public/cluster-info`, as kubeadm's nodes do, holds it against the hash, and sends the token only
//! over a connection that this CA vouches for. Keys never leave the node.

use std::{net::IpAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use http::StatusCode;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, Config,
    api::{Patch, PatchParams},
};
use pharos_apiserver::{Mount, authn::UserInfo};
use pharos_client::Credentials;
use pharos_transport::{
    Body, Request, Response,
    pki::{self, Ca, Subject, Usage},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    commands::{said, token::GROUP},
    observe::PUSH_PATH,
};

/// Where nodes post to.
pub const PREFIX: &str = "/v1-pharos";
const PATH: &str = "/join";
const MAX_BODY: usize = 64 * 1024;

/// What a node asks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ask {
    /// Its name.
    pub node: String,
    /// The request for its client certificate, PEM.
    pub client_csr: String,
    /// The request for the kubelet's serving certificate, PEM; its alternative names are kept.
    pub serving_csr: String,
}

/// What it gets.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// Its client certificate, PEM: user `system:node:NAME`, group `system:nodes`.
    pub client_certificate: String,
    /// The kubelet's serving certificate, PEM.
    pub serving_certificate: String,
    /// The cluster's settings.
    pub cluster: Cluster,
}

/// What every node of a cluster must agree on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    /// The network of pods.
    pub cluster_cidr: String,
    /// The network of Services.
    pub service_cidr: String,
    /// The address of the cluster DNS.
    pub cluster_dns: IpAddr,
    /// The domain of the cluster.
    pub cluster_domain: String,
    /// Ports for Services of type NodePort.
    pub service_node_port_range: String,
}

/// The server's side.
pub struct Join {
    pub ca: Arc<Ca>,
    pub cluster: Cluster,
}

#[async_trait::async_trait]
impl Mount for Join {
    async fn handle(&self, request: Request) -> Response {
        let user = request.extensions().get::<UserInfo>().cloned();
        match self.answer(user, request).await {
            Ok(grant) => answer(StatusCode::OK, serde_json::to_vec(&grant).unwrap_or_default()),
            Err((code, message)) => {
                let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                    "message": message, "reason": if code == 403 { "Forbidden" } else { "BadRequest" }, "code": code});
                answer(StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_REQUEST), status.to_string().into_bytes())
            }
        }
    }
}

impl Join {
    async fn answer(&self, user: Option<UserInfo>, request: Request) -> Result<Grant, (u16, String)> {
        if request.uri().path() != PATH || request.method() != http::Method::POST {
            return Err((404, format!("only POST {PREFIX}{PATH} is answered")));
        }
        let body = request.into_body().into_bytes(MAX_BODY).await.map_err(|e| (400, e.to_string()))?;
        let ask: Ask = serde_json::from_slice(&body).map_err(|e| (400, e.to_string()))?;
        let subject = Subject::new(format!("system:node:{}", ask.node), &["system:nodes"]);
        // A node may renew its own certificates; a token may make any node.
        let user = user.ok_or((403, "nobody asks".to_owned()))?;
        if user.groups.iter().any(|g| g == "system:nodes") && user.username != subject.common_name {
            return Err((403, format!("{} may not ask for the certificates of node {}", user.username, ask.node)));
        }
        if !pharos_api::names::dns1123_subdomain(&ask.node).is_empty() {
            return Err((400, format!("{:?} is no name for a node", ask.node)));
        }
        let sign = |csr: &str, usage| {
            let usages = [Usage::DigitalSignature, Usage::KeyEncipherment, usage];
            self.ca.sign_csr(csr, &usages, pki::YEAR, Some(&subject)).map_err(|e| (400, e.to_string()))
        };
        tracing::info!(node = ask.node, by = user.username, "node joins");
        Ok(Grant {
            client_certificate: sign(&ask.client_csr, Usage::ClientAuth)?,
            serving_certificate: sign(&ask.serving_csr, Usage::ServerAuth)?,
            cluster: self.cluster.clone(),
        })
    }
}

fn answer(code: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = code;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

/// The objects that let nodes find the CA and post to the join path. Applied at every start of a server.
pub async fn publish(client: &Client, ca_pem: &str, server: &str) -> anyhow::Result<()> {
    let kubeconfig = serde_norway::to_string(&json!({
        "apiVersion": "v1", "kind": "Config",
        "clusters": [{"name": "", "cluster": {"server": server, "certificate-authority-data": base64(ca_pem)}}],
    }))?;
    let rbac = "rbac.authorization.k8s.io/v1";
    let objects = [
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cluster-info", "namespace": "kube-public"},
            "data": {"kubeconfig": kubeconfig}}),
        json!({"apiVersion": rbac, "kind": "Role", "metadata": {"name": "pharos:cluster-info", "namespace": "kube-public"},
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["cluster-info"], "verbs": ["get"]}]}),
        json!({"apiVersion": rbac, "kind": "RoleBinding", "metadata": {"name": "pharos:cluster-info", "namespace": "kube-public"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "pharos:cluster-info"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:anonymous"}]}),
        json!({"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": "pharos:node-join"},
            "rules": [{"nonResourceURLs": [format!("{PREFIX}{PATH}")], "verbs": ["post"]}]}),
        // What is logged on a node is sent to the log index of the server, which holds each line against the node's name.
        json!({"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": "pharos:node-logs"},
            "rules": [{"nonResourceURLs": [PUSH_PATH], "verbs": ["post"]}]}),
        json!({"apiVersion": rbac, "kind": "ClusterRoleBinding", "metadata": {"name": "pharos:node-logs"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "pharos:node-logs"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:nodes"}]}),
        // The cluster DNS of a node reads with the node's own credentials.
        json!({"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": "pharos:node-dns"},
            "rules": [
                {"apiGroups": [""], "resources": ["namespaces", "services"], "verbs": ["list", "watch"]},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]}]}),
        json!({"apiVersion": rbac, "kind": "ClusterRoleBinding", "metadata": {"name": "pharos:node-dns"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "pharos:node-dns"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:nodes"}]}),
        json!({"apiVersion": rbac, "kind": "ClusterRoleBinding", "metadata": {"name": "pharos:node-join"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "pharos:node-join"},
            "subjects": [
                {"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": GROUP},
                {"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:nodes"}]}),
    ];
    for object in objects {
        apply(client, &object).await?;
    }
    Ok(())
}

/// Server-side applies an object of a kind that is named in this file and `server.rs`.
pub async fn apply(client: &Client, object: &serde_json::Value) -> anyhow::Result<()> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
    let (name, namespace) = (text(&object["metadata"]["name"]), text(&object["metadata"]["namespace"]));
    let (group, version) = version.split_once('/').unwrap_or(("", &version));
    let resource = kube::api::ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk(group, version, &kind));
    let api: Api<kube::core::DynamicObject> = if namespace.is_empty() {
        Api::all_with(client.clone(), &resource)
    } else {
        Api::namespaced_with(client.clone(), &namespace, &resource)
    };
    let applied = api.patch(&name, &PatchParams::apply("pharos").force(), &Patch::Apply(object)).await;
    applied.map(drop).with_context(|| format!("apply {kind} {name}"))
}

/// The node's side: certificates and settings from a server, for a token.
pub async fn ask(
    server: &str,
    token: &str,
    node: &str,
    names: Vec<String>,
    addresses: Vec<IpAddr>,
) -> anyhow::Result<(Joined, String)> {
    let (hash, token) = parse(token)?;
    let server: http::Uri = server.parse().with_context(|| format!("--server {server}"))?;
    let ca = public_ca(&server).await?;
    if pki::hash_of_pem(&ca) != hash {
        bail!("the CA of {server} is not the one that the token names: wrong server, or an attacker in between");
    }
    let what = format!("join {server}");
    let client = pharos_client::https(server, &ca, Credentials::Token(token.to_owned()))?;
    Ok((request(&client, node, names, addresses).await.context(what)?, ca))
}

/// What a node holds once it joined.
pub struct Joined {
    pub client: pki::Issued,
    pub serving: pki::Issued,
    pub cluster: Cluster,
}

/// Asks for certificates over an established client: a token's, or the node's own for renewal.
pub async fn request(client: &Client, node: &str, names: Vec<String>, addresses: Vec<IpAddr>) -> anyhow::Result<Joined> {
    let user = Subject::new(format!("system:node:{node}"), &["system:nodes"]);
    let (client_key, client_csr) = pki::new_csr(&pki::Template::client(user.clone()))?;
    let (serving_key, serving_csr) =
        pki::new_csr(&pki::Template { subject: user, ..pki::Template::server("", names, addresses) })?;
    let ask = Ask { node: node.to_owned(), client_csr, serving_csr };
    let post = http::Request::post(format!("{PREFIX}{PATH}"))
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(serde_json::to_vec(&ask)?)?;
    let grant: Grant =
        tokio::time::timeout(Duration::from_secs(30), client.request(post)).await.context("no answer in time")?.map_err(said)?;
    Ok(Joined {
        client: pki::Issued { certificate_pem: grant.client_certificate, key_pem: client_key },
        serving: pki::Issued { certificate_pem: grant.serving_certificate, key_pem: serving_key },
        cluster: grant.cluster,
    })
}

/// Splits `K10<hash>::<id>.<secret>`.
fn parse(token: &str) -> anyhow::Result<(&str, &str)> {
    let parts = token.trim().strip_prefix("K10").and_then(|rest| rest.split_once("::"));
    let (hash, token) = parts.context("the token has no CA hash: it is written K10<hash>::<id>.<secret>")?;
    if hash.len() != 64 || !token.contains('.') {
        bail!("the token is not written K10<hash>::<id>.<secret>");
    }
    Ok((hash, token))
}

/// The CA that a server publishes. Nothing vouches for it yet.
async fn public_ca(server: &http::Uri) -> anyhow::Result<String> {
    let mut config = Config::new(server.clone());
    config.accept_invalid_certs = true;
    config.connect_timeout = Some(Duration::from_secs(10));
    config.read_timeout = Some(Duration::from_secs(10));
    let api: Api<ConfigMap> = Api::namespaced(Client::try_from(config)?, "kube-public");
    let info = api.get("cluster-info").await.map_err(said).with_context(|| format!("read the CA of {server}"))?;
    let kubeconfig = info.data.and_then(|mut data| data.remove("kubeconfig")).context("cluster-info has no kubeconfig")?;
    crate::files::ca_of_kubeconfig(&kubeconfig)
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens() {
        let hash = "a".repeat(64);
        assert_eq!(parse(&format!("K10{hash}::abc.def\n")).unwrap(), (hash.as_str(), "abc.def"));
        for bad in ["abc.def", "K10short::abc.def", &format!("K10{hash}::abcdef"), ""] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
