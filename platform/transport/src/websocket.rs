//! WebSocket, as clients of Kubernetes speak it: the server's handshake, streams of channels, and SPDY in a tunnel.

mod channels; // Several streams in one connection,
mod tunnel; // or bytes as they are.

use std::{borrow::Cow, io};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, Method, Request, StatusCode, header};
use tokio::io::AsyncWriteExt as _;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message, Utf8Bytes,
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};

use crate::{Body, Io, Response};

pub(crate) use channels::{Channels, Framing, Incoming};
pub use tunnel::Tunnel;

/// The longest message that is accepted.
const LONGEST_MESSAGE: usize = 1024 * 1024;

/// A WebSocket connection.
pub type WebSocket = WebSocketStream<Io>;

/// Why a connection was not upgraded. The client has been told.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The request is not one this can answer.
    #[error("upgrade a connection: {0}")]
    Refused(Cow<'static, str>),
    /// The connection broke.
    #[error("upgrade a connection")]
    Io(#[from] io::Error),
}

/// Whether a request asks for WebSocket.
#[must_use]
pub fn is_requested(headers: &HeaderMap) -> bool {
    tokens(headers, header::UPGRADE).any(|token| token.eq_ignore_ascii_case("websocket"))
}

/// The comma-separated items of a header, over all its lines.
pub(crate) fn tokens(headers: &HeaderMap, name: impl header::AsHeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

/// Makes the server's side of the handshake (RFC 6455, section 4.2). The first protocol of the client's that is in `protocols` is
/// taken, and returned; a client that offers none gets none if `""` is in `protocols`.
///
/// # Errors
///
/// If the request is no handshake or offers no protocol that is known, which is answered with 400; if the connection breaks.
pub async fn accept(
    head: &Request<()>,
    mut io: Io,
    protocols: &[&'static str],
) -> Result<(WebSocket, &'static str), UpgradeError> {
    let (key, protocol) = match check(head, protocols) {
        Ok(accepted) => accepted,
        Err(why) => {
            refuse(io, text(StatusCode::BAD_REQUEST, &why)).await?;
            return Err(UpgradeError::Refused(why));
        }
    };
    let mut answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n",
        derive_accept_key(key)
    );
    if !protocol.is_empty() {
        answer += &format!("Sec-WebSocket-Protocol: {protocol}\r\n");
    }
    answer += "\r\n";
    io.write_all(answer.as_bytes()).await?;
    io.flush().await?;
    let config = WebSocketConfig::default()
        .max_message_size(Some(LONGEST_MESSAGE))
        .max_frame_size(Some(LONGEST_MESSAGE))
        .read_buffer_size(16 * 1024)
        .write_buffer_size(0);
    Ok((WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await, protocol))
}

/// The client's key and the protocol to use, or why not.
fn check<'a>(head: &'a Request<()>, protocols: &[&'static str]) -> Result<(&'a [u8], &'static str), Cow<'static, str>> {
    if head.method() != Method::GET || !is_requested(head.headers()) {
        return Err("not a WebSocket handshake".into());
    }
    if head.headers().get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err("WebSocket version is not 13".into());
    }
    let Some(key) = head.headers().get(header::SEC_WEBSOCKET_KEY) else { return Err("no Sec-WebSocket-Key".into()) };
    let offered: Vec<&str> = tokens(head.headers(), header::SEC_WEBSOCKET_PROTOCOL).collect();
    let known = |name: &str| protocols.iter().copied().find(|known| *known == name);
    let protocol = if offered.is_empty() { known("") } else { offered.iter().find_map(|name| known(name)) };
    match protocol {
        Some(protocol) => Ok((key.as_bytes(), protocol)),
        None => Err(format!("requested protocol(s) are not supported: {offered:?}; supports {protocols:?}").into()),
    }
}

/// A plain-text answer.
pub(crate) fn text(status: StatusCode, why: &str) -> Response {
    let mut response = Response::new(Body::full(format!("{why}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Answers a request to upgrade with an ordinary response, at most 1 MiB long, and hangs up.
///
/// # Errors
///
/// If the connection or the body breaks.
pub async fn refuse(mut io: Io, response: Response) -> io::Result<()> {
    let (parts, body) = response.into_parts();
    let body = body.into_bytes(LONGEST_MESSAGE).await.map_err(io::Error::other)?;
    let reason = parts.status.canonical_reason().unwrap_or_default();
    let mut bytes = format!("HTTP/1.1 {} {reason}\r\n", parts.status.as_str()).into_bytes();
    for (name, value) in &parts.headers {
        if !matches!(*name, header::CONTENT_LENGTH | header::CONNECTION | header::TRANSFER_ENCODING) {
            write_header(&mut bytes, name.as_str(), value.as_bytes());
        }
    }
    write_header(&mut bytes, "content-length", body.len().to_string().as_bytes());
    write_header(&mut bytes, "connection", b"close");
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(&body);
    io.write_all(&bytes).await?;
    io.shutdown().await
}

/// A header line, as it stands in a message.
pub(crate) fn write_header(bytes: &mut Vec<u8>, name: &str, value: &[u8]) {
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(b": ");
    bytes.extend_from_slice(value);
    bytes.extend_from_slice(b"\r\n");
}

/// The protocols a body is sent by.
const OF_BODIES: [&str; 3] = ["", "binary.k8s.io", "base64.binary.k8s.io"];

/// Sends a body as messages: `binary.k8s.io`, `base64.binary.k8s.io` or no protocol, as logs and watches are asked for.
///
/// # Errors
///
/// If the handshake is refused, or the connection or the body breaks.
pub async fn serve_body(head: Request<()>, io: Io, body: Body) -> Result<(), UpgradeError> {
    let (socket, protocol) = accept(&head, io, &OF_BODIES).await?;
    let message = |piece: Bytes| match protocol {
        "base64.binary.k8s.io" => Ok(Message::text(BASE64_STANDARD.encode(&piece))),
        _ => Ok(Message::binary(piece)),
    };
    send(socket, body, message).await
}

/// Sends a body, whose pieces are whole texts, as text messages, as watches in JSON are asked for.
///
/// # Errors
///
/// If the handshake is refused, the connection or the body breaks, or a piece is no UTF-8.
pub async fn serve_texts(head: Request<()>, io: Io, body: Body) -> Result<(), UpgradeError> {
    let (socket, _) = accept(&head, io, &OF_BODIES).await?;
    send(socket, body, |piece| Utf8Bytes::try_from(piece).map(Message::Text).map_err(io::Error::other)).await
}

/// Sends each piece of a body as a message, until the client leaves.
async fn send(socket: WebSocket, body: Body, message: impl Fn(Bytes) -> io::Result<Message>) -> Result<(), UpgradeError> {
    let (mut sink, mut messages) = socket.split();
    let mut pieces = body.into_stream();
    let sending = async {
        while let Some(piece) = pieces.next().await {
            let message = message(piece.map_err(io::Error::other)?)?;
            sink.send(message).await.map_err(io::Error::other)?;
        }
        let _ = sink.send(Message::Close(None)).await; // It hung up first.
        Ok(())
    };
    // What the client says does not matter, but it must be read: pings are answered so, and its leaving is seen.
    let reading = async { while let Some(Ok(_)) = messages.next().await {} };
    tokio::select! {
        sent = sending => sent,
        () = reading => Ok(()),
    }
}
