use std::{sync::Arc, time::Duration};

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header};
use kube::{
    Client, Config,
    client::Body,
    config::{AuthInfo, Kubeconfig},
};
use parking_lot::RwLock;
use tower::{BoxError, Service, util::MapRequest};

/// What a remote component proves its identity with. Secret material: never logged.
#[derive(Clone)]
pub enum Credentials {
    /// A client certificate chain and its key, both PEM.
    Certificate {
        /// The chain, leaf first.
        chain_pem: String,
        /// The private key.
        key_pem: String,
    },
    /// A bearer token.
    Token(String),
}

/// A client that calls the API core in this process: no TCP, no TLS.
///
/// The service already knows on whose behalf it calls. Must be called inside a Tokio runtime.
pub fn in_process<S, B>(service: S) -> Client
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    Client::new(service, "default")
}

/// Like [`in_process`], and the requests say which component they come from: the API server takes the beginning of the
/// `User-Agent` for the field manager of whoever names none.
pub fn in_process_as<S, B>(component: &str, service: S) -> Client
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let agent = user_agent(component);
    in_process(MapRequest::new(service, move |mut request: Request<Body>| {
        request.headers_mut().entry(header::USER_AGENT).or_insert_with(|| agent.clone());
        request
    }))
}

/// `kubelet/v1.2.3`.
fn user_agent(component: &str) -> HeaderValue {
    HeaderValue::from_str(&format!("{component}/v{}", env!("CARGO_PKG_VERSION")))
        .unwrap_or_else(|_| HeaderValue::from_static("pharos"))
}

/// A client that speaks HTTPS to `server`, trusting only the given CA certificate (PEM).
///
/// # Errors
/// When the certificate or the credentials cannot be used.
pub fn https(server: Uri, ca_pem: &str, credentials: Credentials) -> kube::Result<Client> {
    let mut config = Config::new(server);
    let roots: Vec<Vec<u8>> = pem_blocks(ca_pem);
    config.root_cert = Some(roots);
    config.connect_timeout = Some(Duration::from_secs(10));
    // Watches are long; they are bounded by their own timeoutSeconds.
    config.read_timeout = None;
    config.auth_info = match credentials {
        Credentials::Certificate { chain_pem, key_pem } => AuthInfo {
            client_certificate_data: Some(base64::engine::general_purpose::STANDARD.encode(chain_pem)),
            client_key_data: Some(base64::engine::general_purpose::STANDARD.encode(key_pem).into()),
            ..AuthInfo::default()
        },
        Credentials::Token(token) => AuthInfo { token: Some(token.into()), ..AuthInfo::default() },
    };
    Client::try_from(config)
}

/// A client over HTTPS whose credentials can be replaced while it is in use. Cheap to clone.
#[derive(Clone)]
pub struct Renewable {
    server: Uri,
    ca_pem: Arc<str>,
    /// Held for a look or a change, never across a wait.
    current: Arc<RwLock<Client>>,
}

impl Renewable {
    /// Like [`https`].
    ///
    /// # Errors
    /// When the certificate or the credentials cannot be used.
    pub fn new(server: Uri, ca_pem: &str, credentials: Credentials) -> kube::Result<Self> {
        let current = https(server.clone(), ca_pem, credentials)?;
        Ok(Self { server, ca_pem: ca_pem.into(), current: Arc::new(RwLock::new(current)) })
    }

    /// A client of a component that sends each request with the credentials of that moment.
    #[must_use]
    pub fn client(&self, component: &str) -> Client {
        let current = self.current.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let client = current.read().clone();
            async move { client.send(request).await }
        });
        in_process_as(component, service)
    }

    /// Uses other credentials from now on, over new connections. Answers that are coming in, such as watches, end as they
    /// would have.
    ///
    /// # Errors
    /// When the credentials cannot be used; the old ones stay.
    pub fn replace(&self, credentials: Credentials) -> kube::Result<()> {
        let next = https(self.server.clone(), &self.ca_pem, credentials)?;
        *self.current.write() = next;
        Ok(())
    }
}

/// The DER bytes of each certificate in a PEM text.
fn pem_blocks(pem: &str) -> Vec<Vec<u8>> {
    let mut blocks = Vec::new();
    let mut text: Option<String> = None;
    for line in pem.lines().map(str::trim) {
        match line {
            "-----BEGIN CERTIFICATE-----" => text = Some(String::new()),
            "-----END CERTIFICATE-----" => {
                if let Some(Ok(der)) = text.take().map(|t| base64::engine::general_purpose::STANDARD.decode(t)) {
                    blocks.push(der);
                }
            }
            _ => {
                if let Some(text) = &mut text {
                    text.push_str(line);
                }
            }
        }
    }
    blocks
}

/// A client from a kubeconfig file's text, with its current context.
///
/// # Errors
/// When the kubeconfig cannot be read or used.
pub async fn kubeconfig(yaml: &str) -> Result<Client, BoxError> {
    let config = Config::from_custom_kubeconfig(Kubeconfig::from_yaml(yaml)?, &Default::default()).await?;
    Ok(Client::try_from(config)?)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[tokio::test]
    async fn requests_name_their_component() {
        let client = in_process_as(
            "kubelet",
            tower::service_fn(|request: Request<Body>| async move {
                let agent = request.headers()[header::USER_AGENT].to_str().unwrap().to_owned();
                Ok::<_, Infallible>(Response::new(Body::from(agent.into_bytes())))
            }),
        );
        let ask = |request: http::request::Builder| client.request_text(request.body(Vec::new()).unwrap());
        let agent = ask(Request::get("/a")).await.unwrap();
        assert!(agent.starts_with("kubelet/v"), "{agent}");
        assert_eq!(ask(Request::get("/a").header(header::USER_AGENT, "other")).await.unwrap(), "other");
    }
}
