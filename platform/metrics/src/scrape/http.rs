use std::{io::Read as _, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::{
    Config,
    exposition::{ACCEPT, Format},
};

/// Where a page is served.
#[derive(Clone)]
pub(crate) struct Endpoint {
    /// `Some` for HTTPS.
    pub(crate) tls: Option<Arc<rustls::ClientConfig>>,
    pub(crate) scheme: &'static str,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Path and query.
    pub(crate) path: String,
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("dial tcp {0}")]
    Connect(String, #[source] std::io::Error),
    #[error("TLS with {0}")]
    Tls(String, #[source] std::io::Error),
    #[error("no TLS configuration for https targets")]
    NoTls,
    #[error("bad server name {0:?}")]
    Name(String),
    #[error("bad request")]
    Request(#[from] ::http::Error),
    #[error("talk HTTP with {0}")]
    Http(String, #[source] hyper::Error),
    #[error("server returned HTTP status {0}")]
    Status(::http::StatusCode),
    #[error("body size limit exceeded")]
    TooLarge,
    #[error("read body: {0}")]
    Body(String),
    #[error("page is not UTF-8")]
    NotText,
}

// === impl Endpoint ===

impl Endpoint {
    /// `host:port`, with brackets around an IPv6 address.
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') { format!("[{}]:{}", self.host, self.port) } else { format!("{}:{}", self.host, self.port) }
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{}{}", self.scheme, self.authority(), self.path)
    }
}

/// Reads a page. The caller sets the deadline. Cancel-safe.
pub(super) async fn fetch(endpoint: &Endpoint, limit: u64, config: &Config) -> Result<(String, Format), FetchError> {
    let authority = endpoint.authority();
    let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port))
        .await
        .map_err(|e| FetchError::Connect(authority.clone(), e))?;
    if endpoint.scheme != "https" {
        return exchange(stream, endpoint, limit, config).await;
    }
    let tls = endpoint.tls.clone().ok_or(FetchError::NoTls)?;
    let name = ServerName::try_from(endpoint.host.clone()).map_err(|_| FetchError::Name(endpoint.host.clone()))?;
    let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(|e| FetchError::Tls(authority, e))?;
    exchange(stream, endpoint, limit, config).await
}

async fn exchange<S>(stream: S, endpoint: &Endpoint, limit: u64, config: &Config) -> Result<(String, Format), FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let authority = endpoint.authority();
    let http_error = |e| FetchError::Http(authority.clone(), e);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(http_error)?;
    let request = ::http::Request::get(&endpoint.path)
        .header("host", &authority)
        .header("accept", ACCEPT)
        .header("accept-encoding", "gzip")
        .header("user-agent", concat!("Pharos/", env!("CARGO_PKG_VERSION")))
        .header("x-prometheus-scrape-timeout-seconds", config.scrape_timeout_seconds.to_string())
        .body(Empty::<Bytes>::new())?;
    let limit = if limit == 0 { usize::MAX } else { usize::try_from(limit).unwrap_or(usize::MAX) };
    let page = async {
        let response = sender.send_request(request).await.map_err(http_error)?;
        if response.status() != ::http::StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let (format, zipped) = (Format::of(&header("content-type")), header("content-encoding") == "gzip");
        let body = Limited::new(response.into_body(), limit).collect().await.map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                FetchError::TooLarge
            } else {
                FetchError::Body(error.to_string())
            }
        })?;
        let body = body.to_bytes();
        let text = if zipped { unzip(&body, limit)? } else { String::from_utf8(body.into()).map_err(|_| FetchError::NotText)? };
        Ok((text, format))
    };
    tokio::pin!(page);
    // The connection has to be driven for the page to come; what came before it closed still counts.
    tokio::select! {
        biased;
        page = &mut page => page,
        _ = connection => page.await,
    }
}

fn unzip(body: &[u8], limit: usize) -> Result<String, FetchError> {
    let (mut text, take) = (Vec::new(), (limit as u64).saturating_add(1));
    let read = flate2::read::MultiGzDecoder::new(body).take(take).read_to_end(&mut text);
    read.map_err(|error| FetchError::Body(error.to_string()))?;
    if text.len() > limit {
        return Err(FetchError::TooLarge);
    }
    String::from_utf8(text).map_err(|_| FetchError::NotText)
}
