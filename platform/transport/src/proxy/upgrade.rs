use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncWriteExt as _, copy_bidirectional},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{
    Io,
    websocket::{refuse, text, write_header},
};

use super::{ProxyError, Target, replace};

/// Connects to a target, with TLS if it has it, for HTTP/1.1.
///
/// # Errors
///
/// If it cannot be reached in time, or its certificate is not trusted.
pub async fn dial(target: &Target) -> Result<Io, ProxyError> {
    let authority = || target.authority.to_string();
    let connect = |source| ProxyError::Connect { authority: authority(), source };
    let dialling = async {
        let stream = TcpStream::connect((target.host(), target.port())).await.map_err(connect)?;
        stream.set_nodelay(true).map_err(connect)?;
        let Some(tls) = &target.tls else { return Ok(Box::new(stream) as Io) };
        let name = target.server_name.as_deref().unwrap_or_else(|| target.host());
        let name = ServerName::try_from(name.to_owned()).map_err(|error| connect(std::io::Error::other(error)))?;
        let stream = TlsConnector::from(for_http1(tls)).connect(name, stream).await.map_err(connect)?;
        Ok(Box::new(stream) as Io)
    };
    match timeout(target.connect, dialling).await {
        Ok(dialled) => dialled,
        Err(_) => Err(ProxyError::TimedOut { action: "connect to", authority: authority() }),
    }
}

/// The configuration, offering HTTP/1.1 alone: only that can be upgraded.
fn for_http1(tls: &Arc<ClientConfig>) -> Arc<ClientConfig> {
    if tls.alpn_protocols.is_empty() {
        return tls.clone();
    }
    let mut tls = ClientConfig::clone(tls);
    tls.alpn_protocols.clear();
    Arc::new(tls)
}

/// Carries a request to upgrade to the target and joins the two connections, whatever the target answers, until both
/// directions have ended. Each may end alone.
///
/// # Errors
///
/// If the target cannot be reached, of which the client has been told by a 502.
pub async fn forward_upgrade(head: Request<()>, mut client: Io, target: Target) -> Result<(), ProxyError> {
    let mut server = match dial(&target).await {
        Ok(server) => server,
        Err(error) => {
            let status = match error {
                ProxyError::TimedOut { .. } => StatusCode::GATEWAY_TIMEOUT,
                _ => StatusCode::BAD_GATEWAY,
            };
            let _ = refuse(client, text(status, &format!("error trying to reach service: {}", chain(&error)))).await; // It left.
            return Err(error);
        }
    };
    let exchange = |error: std::io::Error| ProxyError::Exchange { authority: target.authority.to_string(), source: error.into() };
    server.write_all(&request_bytes(&head, &target)).await.map_err(exchange)?;
    server.flush().await.map_err(exchange)?;
    if let Err(error) = copy_bidirectional(&mut client, &mut server).await {
        tracing::debug!(authority = %target.authority, %error, "an upgraded connection broke");
    }
    Ok(())
}

/// The request's head as it is sent to the target. `Connection` and `Upgrade` are what it is about, and stay.
fn request_bytes(head: &Request<()>, target: &Target) -> Vec<u8> {
    let mut headers: HeaderMap = head.headers().clone();
    headers.remove(header::HOST);
    replace(&mut headers, &target.headers);
    if !headers.contains_key(header::HOST)
        && let Ok(host) = HeaderValue::from_str(target.authority.as_str())
    {
        headers.insert(header::HOST, host);
    }
    let mut bytes = format!("{} {} HTTP/1.1\r\n", head.method(), target.path_and_query(head.uri())).into_bytes();
    for (name, value) in &headers {
        write_header(&mut bytes, name.as_str(), value.as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// An error and its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
