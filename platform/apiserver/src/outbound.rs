//! Servers that objects tell this one to call: webhooks and extension API servers.
//!
//! Follows `apiserver/pkg/util/webhook/client.go`. What is behind a Service is reached at one of its endpoints, under
//! the TLS name `name.namespace.svc`.

use std::{collections::HashMap, fmt::Write as _, sync::Arc, time::Duration};

use http::{HeaderValue, Method, StatusCode, header, uri::Authority};
use parking_lot::Mutex;
use pharos_transport::{
    Body, pki,
    proxy::{Proxy, Target},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use serde_json::Value;

use crate::{api::Api, services};

/// The largest answer read.
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// TLS configurations kept, one per CA bundle. When there are more, all are made anew.
const MOST_CONFIGURATIONS: usize = 256;
/// Where systems keep the certificates they trust (Go's `crypto/x509/root_linux.go`).
const SYSTEM_ROOTS: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Connections to them.
#[derive(Default)]
pub(crate) struct Outbound {
    pub(crate) proxy: Proxy,
    /// By CA bundle, so that connections are found again.
    tls: Mutex<HashMap<Vec<u8>, Arc<ClientConfig>>>,
}

/// Where a webhook is: the `clientConfig` of its configuration.
#[derive(Debug, Clone)]
pub(crate) struct Webhook {
    place: Place,
    ca_bundle: Vec<u8>,
    user_agent: &'static str,
}

#[derive(Debug, Clone)]
enum Place {
    Url(String),
    Service { namespace: String, name: String, port: u64, path: String },
}

impl Outbound {
    /// The TLS configuration that trusts a bundle, or what the system trusts if it is empty.
    pub(crate) fn tls(&self, ca_bundle: &[u8]) -> Result<Arc<ClientConfig>, String> {
        if let Some(config) = self.tls.lock().get(ca_bundle) {
            return Ok(config.clone());
        }
        let roots = Arc::new(roots(ca_bundle)?);
        let config = pki::client_config(roots, None).map_err(|error| error.to_string())?;
        let mut all = self.tls.lock();
        if all.len() >= MOST_CONFIGURATIONS {
            all.clear();
        }
        Ok(all.entry(ca_bundle.to_vec()).or_insert(config).clone())
    }
}

pub(crate) fn roots(ca_bundle: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if ca_bundle.is_empty() {
        let pem = SYSTEM_ROOTS.iter().find_map(|path| std::fs::read(path).ok()).unwrap_or_default();
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
        return Ok(roots);
    }
    let unable = "unable to load root certificates: unable to parse bytes as PEM block";
    for certificate in CertificateDer::pem_slice_iter(ca_bundle) {
        roots
            .add(certificate.map_err(|_| unable.to_owned())?)
            .map_err(|error| format!("unable to load root certificates: {error}"))?;
    }
    if roots.is_empty() { Err(unable.to_owned()) } else { Ok(roots) }
}

/// Base64 as it is in a `caBundle`.
pub(crate) fn ca_bundle(value: &Value) -> Vec<u8> {
    use base64::Engine as _;
    let text = value.as_str().unwrap_or_default();
    base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default()
}

impl Webhook {
    /// Reads a `clientConfig`.
    pub(crate) fn parse(config: &Value, user_agent: &'static str) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let service = &config["service"];
        let place = if service.is_object() {
            let path = service["path"].as_str().filter(|path| !path.is_empty()).unwrap_or("/");
            Place::Service {
                namespace: text(&service["namespace"]),
                name: text(&service["name"]),
                port: service["port"].as_u64().unwrap_or(443),
                path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
            }
        } else {
            Place::Url(text(&config["url"]))
        };
        Webhook { place, ca_bundle: ca_bundle(&config["caBundle"]), user_agent }
    }

    fn url(&self) -> String {
        match &self.place {
            Place::Url(url) => url.clone(),
            Place::Service { namespace, name, port, path } => format!("https://{name}.{namespace}.svc:{port}{path}"),
        }
    }

    /// Posts a document and reads the answer.
    ///
    /// # Errors
    ///
    /// In the words of upstream's client: `Post "https://…?timeout=10s": context deadline exceeded`.
    pub(crate) async fn post(&self, api: &Api, body: &Value, limit: Duration) -> Result<Value, String> {
        let url = format!("{}?timeout={}s", self.url(), limit.as_secs().max(1));
        let failed = |why: String| format!("Post \"{url}\": {why}");
        let target = self.target(api, limit).map_err(failed)?;
        let uri: http::Uri = url.parse().map_err(|error| failed(format!("{error}")))?;
        let mut host = uri.authority().map(Authority::to_string).unwrap_or_default();
        if let Some(short) = host.strip_suffix(":443") {
            host = short.to_owned();
        }
        let mut target = target;
        target.headers.insert(header::HOST, HeaderValue::from_str(&host).map_err(|error| failed(error.to_string()))?);
        let request = http::Request::builder()
            .method(Method::POST)
            .uri(uri.path_and_query().map_or("/", |path| path.as_str()))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, */*")
            .header(header::USER_AGENT, self.user_agent)
            .body(Body::full(serde_json::to_vec(body).map_err(|error| failed(error.to_string()))?))
            .map_err(|error| failed(error.to_string()))?;
        let exchange = async {
            let response = api.0.outbound.proxy.forward(request, &target).await.map_err(|error| failed(reason(&error)))?;
            let code = response.status();
            let bytes = response.into_body().into_bytes(MAX_ANSWER_BYTES).await.map_err(|error| failed(reason(&error)))?;
            answer(code, &bytes)
        };
        match tokio::time::timeout(limit, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => Err(failed("context deadline exceeded".into())),
        }
    }

    fn target(&self, api: &Api, limit: Duration) -> Result<Target, String> {
        let tls = api.0.outbound.tls(&self.ca_bundle)?;
        let mut target = match &self.place {
            Place::Url(url) => {
                let uri: http::Uri = url.parse().map_err(|error| format!("{error}"))?;
                Target::new(uri.authority().cloned().ok_or("host must be specified")?, Some(tls))
            }
            Place::Service { namespace, name, port, .. } => service_target(api, namespace, name, *port, tls)?,
        };
        target.connect = limit;
        target.respond = None; // The whole exchange has a limit.
        Ok(target)
    }
}

/// A target at an endpoint of a Service.
pub(crate) fn service_target(
    api: &Api,
    namespace: &str,
    name: &str,
    port: u64,
    tls: Arc<ClientConfig>,
) -> Result<Target, String> {
    let (address, port) = services::resolve(api, namespace, name, port)?;
    let authority = if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") };
    let mut target = Target::new(authority.parse().map_err(|_| format!("{authority} is no address"))?, Some(tls));
    target.server_name = Some(format!("{name}.{namespace}.svc"));
    Ok(target)
}

/// An error and its causes.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

/// An error and its causes, the commonest in upstream's words.
pub(crate) fn reason(error: &dyn std::error::Error) -> String {
    let mut text = causes(error);
    if text.contains("UnknownIssuer") {
        text.push_str(": tls: failed to verify certificate: x509: certificate signed by unknown authority");
    }
    text
}

/// The document of a 2xx answer; client-go's texts for others.
fn answer(code: StatusCode, bytes: &[u8]) -> Result<Value, String> {
    if code.is_success() {
        return serde_json::from_slice(bytes).map_err(|error| format!("couldn't get version/kind; json parse error: {error}"));
    }
    let status: Option<Value> = serde_json::from_slice(bytes).ok().filter(|value: &Value| value["kind"] == "Status");
    if let Some(message) = status.as_ref().and_then(|status| status["message"].as_str()) {
        return Err(message.to_owned());
    }
    Err(match code.as_u16() {
        401 => "the server has asked for the client to provide credentials".to_owned(),
        403 => "unknown".to_owned(),
        404 => "the server could not find the requested resource".to_owned(),
        405 => "the server does not allow this method on the requested resource".to_owned(),
        503 => "the server is currently unable to handle the request".to_owned(),
        500..=599 => {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(2048)]);
            format!("an error on the server ({:?}) has prevented the request from succeeding", text.trim())
        }
        other => format!("the server responded with the status code {other} but did not return more information"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let service = serde_json::json!({"service": {"namespace": "n", "name": "s", "path": "p"}});
        assert_eq!(Webhook::parse(&service, "").url(), "https://s.n.svc:443/p");
        let url = serde_json::json!({"url": "https://h:1/a"});
        assert_eq!(Webhook::parse(&url, "").url(), "https://h:1/a");
    }

    #[test]
    fn answers() {
        assert_eq!(answer(StatusCode::OK, b"{}").unwrap(), serde_json::json!({}));
        let failure = answer(StatusCode::INTERNAL_SERVER_ERROR, b"oops\n").unwrap_err();
        assert_eq!(failure, "an error on the server (\"oops\") has prevented the request from succeeding");
        let status = br#"{"kind":"Status","message":"no"}"#;
        assert_eq!(answer(StatusCode::BAD_REQUEST, status).unwrap_err(), "no");
    }

    #[test]
    fn bundles() {
        assert!(roots(b"nonsense").is_err());
        assert!(roots(b"").is_ok());
    }
}
