//! HTTP, for probes and lifecycle hooks (`pkg/probe/http`): certificates aren't checked, redirects to the same host are followed.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::{
    api::core::v1::{ContainerPort, HTTPGetAction},
    apimachinery::pkg::util::intstr::IntOrString,
};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

use super::Outcome;

/// How much of a body is kept for messages.
const BODY_LIMIT: usize = 10 * 1024;
/// How many redirects are followed.
const REDIRECTS: usize = 10;

/// What to get.
#[derive(Clone, Debug)]
pub(crate) struct Get {
    /// Whether to speak TLS.
    pub(crate) tls: bool,
    /// Host, without brackets.
    pub(crate) host: String,
    /// Port.
    pub(crate) port: u16,
    /// Path and query.
    pub(crate) path: String,
    /// Headers.
    pub(crate) headers: HeaderMap,
}

/// An answer's status, headers and the beginning of its body.
pub(crate) struct Answer {
    /// Status code.
    pub(crate) code: u16,
    /// `Location`.
    location: Option<String>,
    /// Beginning of the body.
    pub(crate) body: String,
}

impl Get {
    /// From an action; `host` is where the pod is.
    pub(crate) fn new(action: &HTTPGetAction, host: &str, ports: &[ContainerPort], agent: &str) -> Result<Self, String> {
        let mut headers = HeaderMap::new();
        for header in action.http_headers.iter().flatten() {
            let name = HeaderName::try_from(&header.name).map_err(|error| format!("header {:?}: {error}", header.name))?;
            let value = HeaderValue::try_from(&header.value).map_err(|error| format!("header {:?}: {error}", header.name))?;
            // An empty value removes a default header.
            headers.append(name, value);
        }
        headers
            .entry(header::USER_AGENT)
            .or_insert(HeaderValue::from_str(agent).unwrap_or(HeaderValue::from_static("kube-probe/1.37")));
        headers.entry(header::ACCEPT).or_insert(HeaderValue::from_static("*/*"));
        let path = action.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
        Ok(Self {
            tls: action.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")),
            host: action.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| host.to_owned()),
            port: port(&action.port, ports)?,
            path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
            headers,
        })
    }

    fn authority(&self) -> String {
        if self.host.contains(':') { format!("[{}]:{}", self.host, self.port) } else { format!("{}:{}", self.host, self.port) }
    }
}

/// A port by number or by its name among the container's.
pub(crate) fn port(port: &IntOrString, ports: &[ContainerPort]) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => match ports.iter().find(|port| port.name.as_deref() == Some(name)) {
            Some(port) => port.container_port,
            None => name.parse().map_err(|_| format!("couldn't find port: {name}"))?,
        },
    };
    u16::try_from(number).ok().filter(|port| *port > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

/// Asks; the whole exchange has `timeout`.
pub(crate) async fn probe(get: &Get, timeout: Duration) -> Outcome {
    match tokio::time::timeout(timeout, follow(get)).await {
        Err(_) => Outcome::Failure(format!(
            "Get \"{}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
            url(get)
        )),
        Ok(Err(error)) => Outcome::Failure(format!("Get \"{}\": {error}", url(get))),
        Ok(Ok(answer)) => match answer.code {
            200..=299 => Outcome::Success,
            300..=399 => Outcome::Warning(format!("Probe terminated redirects, Response body: {}", answer.body)),
            code => Outcome::Failure(format!("HTTP probe failed with statuscode: {code}")),
        },
    }
}

/// Makes the request and says no more than whether it was answered well, for hooks.
pub(crate) async fn hook(get: &Get, timeout: Duration) -> Result<(), String> {
    let answer = tokio::time::timeout(timeout, once(get)).await.map_err(|_| format!("Get \"{}\": timed out", url(get)))??;
    if answer.code >= 400 { Err(format!("HTTP hook failed with statuscode: {}", answer.code)) } else { Ok(()) }
}

fn url(get: &Get) -> String {
    format!("{}://{}{}", if get.tls { "https" } else { "http" }, get.authority(), get.path)
}

async fn follow(get: &Get) -> Result<Answer, String> {
    let mut at = get.clone();
    for _ in 0..REDIRECTS {
        let answer = once(&at).await?;
        let Some(location) = answer.location.as_ref().filter(|_| matches!(answer.code, 301 | 302 | 303 | 307 | 308)) else {
            return Ok(answer);
        };
        let base = url::Url::parse(&url(&at)).map_err(|error| error.to_string())?;
        let next = base.join(location).map_err(|error| error.to_string())?;
        // Another host is not this container: upstream calls that a warning.
        if next.host_str() != base.host_str() {
            return Ok(answer);
        }
        at.tls = next.scheme() == "https";
        at.port = next.port_or_known_default().unwrap_or(80);
        at.path = next[url::Position::BeforePath..url::Position::AfterQuery].to_owned();
    }
    Err("stopped after 10 redirects".to_owned())
}

async fn once(get: &Get) -> Result<Answer, String> {
    let stream = TcpStream::connect((get.host.as_str(), get.port))
        .await
        .map_err(|error| format!("dial tcp {}: connect: {}", get.authority(), plain(&error)))?;
    if get.tls {
        let name = ServerName::try_from(get.host.clone()).map_err(|error| error.to_string())?;
        let stream =
            tokio_rustls::TlsConnector::from(tls_config()?).connect(name, stream).await.map_err(|error| plain(&error))?;
        exchange(get, TokioIo::new(stream)).await
    } else {
        exchange(get, TokioIo::new(stream)).await
    }
}

/// How TLS is spoken to every container: making it takes longer than most probes. It keeps no sessions, as upstream's probes
/// begin anew each time.
fn tls_config() -> Result<Arc<rustls::ClientConfig>, String> {
    static CONFIG: OnceLock<Arc<rustls::ClientConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(config.clone());
    }
    let mut config = pharos_transport::pki::client_config_without_verification(None).map_err(|error| error.to_string())?;
    Arc::make_mut(&mut config).resumption = rustls::client::Resumption::disabled();
    Ok(CONFIG.get_or_init(|| config).clone())
}

async fn exchange<I>(get: &Get, io: I) -> Result<Answer, String>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(|error| error.to_string())?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = get.path.parse::<Uri>().map_err(|error| error.to_string())?;
    *request.headers_mut() = get.headers.clone();
    if !get.headers.contains_key(header::HOST) {
        let host = HeaderValue::try_from(get.authority()).map_err(|error| error.to_string())?;
        request.headers_mut().insert(header::HOST, host);
    }
    request.headers_mut().entry(header::CONNECTION).or_insert(HeaderValue::from_static("close"));
    let asked = async {
        let response = sender.send_request(request).await.map_err(|error| crate::error::chain(&error))?;
        let code = response.status().as_u16();
        let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
        // A long body is cut off, not waited for.
        let body = Limited::new(response.into_body(), BODY_LIMIT).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        Ok(Answer { code, location, body: String::from_utf8_lossy(&body).into_owned() })
    };
    tokio::pin!(connection);
    tokio::pin!(asked);
    // The connection must be driven beside the request; a closed one still lets the request finish.
    tokio::select! {
        answer = &mut asked => answer,
        _ = &mut connection => asked.await,
    }
}

fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        std::io::ErrorKind::ConnectionReset => "connection reset by peer".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    async fn answer(text: &'static str) -> Outcome {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let action = serde_json::from_value(json!({"port": port, "path": "/healthz"})).unwrap();
        let get = Get::new(&action, "127.0.0.1", &[], "kube-probe/1.37").unwrap();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            let read = stream.read(&mut head).await.unwrap();
            assert!(head[..read].starts_with(b"GET /healthz HTTP/1.1\r\n"));
            stream.write_all(text.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        };
        tokio::join!(probe(&get, Duration::from_secs(5)), serve).0
    }

    #[tokio::test]
    async fn answers() {
        assert_eq!(answer("HTTP/1.1 204 No Content\r\n\r\n").await, Outcome::Success);
        assert_eq!(
            answer("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n").await,
            Outcome::Failure("HTTP probe failed with statuscode: 500".into())
        );
        assert!(matches!(
            answer("HTTP/1.1 302 Found\r\nlocation: http://elsewhere/\r\ncontent-length: 0\r\n\r\n").await,
            Outcome::Warning(_)
        ));
    }

    #[tokio::test]
    async fn https_with_a_certificate_that_nobody_vouches_for() {
        let certificate = rcgen::generate_simple_self_signed(["elsewhere".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(certificate.signing_key.serialize_der()).unwrap();
        let server = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.cert.der().clone()], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let action = serde_json::from_value(json!({"port": port, "scheme": "HTTPS"})).unwrap();
        let get = Get::new(&action, "127.0.0.1", &[], "kube-probe/1.37").unwrap();
        for (text, expected) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Outcome::Success),
            ("HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n", Outcome::Failure("HTTP probe failed with statuscode: 503".into())),
        ] {
            let serve = async {
                let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
                let mut head = [0; 1024];
                let read = stream.read(&mut head).await.unwrap();
                assert!(head[..read].starts_with(b"GET / HTTP/1.1\r\n"));
                stream.write_all(text.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            };
            assert_eq!(tokio::join!(probe(&get, Duration::from_secs(5)), serve).0, expected);
        }
        assert!(Arc::ptr_eq(&tls_config().unwrap(), &tls_config().unwrap()), "made once");
    }

    #[test]
    fn ports_by_name() {
        let ports: Vec<ContainerPort> = serde_json::from_value(json!([{"name": "web", "containerPort": 8080}])).unwrap();
        assert_eq!(port(&IntOrString::String("web".into()), &ports), Ok(8080));
        assert_eq!(port(&IntOrString::String("81".into()), &ports), Ok(81));
        assert_eq!(port(&IntOrString::Int(0), &ports), Err("invalid port number: 0".into()));
        assert_eq!(port(&IntOrString::String("x".into()), &ports), Err("couldn't find port: x".into()));
    }
}
