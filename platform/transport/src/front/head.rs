use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// How an HTTP/2 connection begins when the client knows beforehand that the server speaks it.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the first bytes of a connection are.
#[derive(Debug)]
pub(super) enum First {
    /// HTTP/2, with prior knowledge.
    Http2,
    /// A request that asks to leave HTTP; its head is this long.
    Upgrade(Box<Request<()>>, usize),
    /// Anything else, to be answered (or refused) by the HTTP/1.1 server.
    Http1,
    /// Nothing: the client left.
    Nothing,
}

/// Reads the head of the first request into `buffer`, at most `limit_bytes`. Whatever was read must be replayed.
pub(super) async fn read_first<T>(io: &mut T, buffer: &mut BytesMut, limit_bytes: usize) -> io::Result<First>
where
    T: AsyncRead + Unpin,
{
    let mut searched = 0;
    loop {
        if io.read_buf(buffer).await? == 0 {
            return Ok(if buffer.is_empty() { First::Nothing } else { First::Http1 });
        }
        if buffer.starts_with(HTTP2_PREFACE) {
            return Ok(First::Http2);
        }
        if HTTP2_PREFACE.starts_with(buffer) {
            continue; // Shorter than the preface, and the head of no other request.
        }
        let from = searched.min(buffer.len());
        if let Some(at) = find_end(&buffer[from..]) {
            return Ok(upgrade(&buffer[..from + at]).map_or(First::Http1, |head| First::Upgrade(head, from + at)));
        }
        if buffer.len() >= limit_bytes {
            return Ok(First::Http1); // Which answers 431.
        }
        searched = buffer.len().saturating_sub(3);
    }
}

/// Where a head that ends in this text ends.
fn find_end(text: &[u8]) -> Option<usize> {
    text.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// The head, if it is a request to upgrade to something that is ours to speak.
fn upgrade(bytes: &[u8]) -> Option<Box<Request<()>>> {
    let mut headers = [httparse::EMPTY_HEADER; 128];
    let mut parsed = httparse::Request::new(&mut headers);
    parsed.parse(bytes).ok().filter(httparse::Status::is_complete)?;
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(parsed.method?.as_bytes()).ok()?;
    *request.uri_mut() = Uri::try_from(parsed.path?).ok()?;
    *request.version_mut() = if parsed.version? == 1 { Version::HTTP_11 } else { return None };
    for header in parsed.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        request.headers_mut().append(name, HeaderValue::from_bytes(header.value).ok()?);
    }
    wants_upgrade(request.headers()).then(|| Box::new(request))
}

/// Whether a request's headers ask for WebSocket or SPDY. Others (`h2c`) may be ignored, and are.
pub(super) fn wants_upgrade(headers: &HeaderMap) -> bool {
    has_token(headers, http::header::CONNECTION, &["upgrade"])
        && has_token(headers, http::header::UPGRADE, &["websocket", "spdy/3.1"])
}

fn has_token(headers: &HeaderMap, name: HeaderName, any_of: &[&str]) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|token| any_of.iter().any(|wanted| token.trim().eq_ignore_ascii_case(wanted)))
}

/// A connection some of whose bytes were read already; they come first.
pub(super) struct Rewind<T> {
    before: Bytes,
    io: T,
}

impl<T> Rewind<T> {
    pub(super) fn new(before: Bytes, io: T) -> Self {
        Self { before, io }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Rewind<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.before.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, out);
        }
        let length = self.before.len().min(out.remaining());
        out.put_slice(&self.before[..length]);
        self.before.advance(length);
        if self.before.is_empty() {
            self.before = Bytes::new(); // Lets go of the buffer.
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Rewind<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `pieces` one at a time and tells what was seen.
    fn check(pieces: &[&str], expected: &str) {
        let mut builder = tokio_test_io(pieces);
        let mut buffer = BytesMut::new();
        let first = futures::executor::block_on(read_first(&mut builder, &mut buffer, 1024)).unwrap();
        let seen = match first {
            First::Http2 => "http2".to_owned(),
            First::Http1 => "http1".to_owned(),
            First::Nothing => "nothing".to_owned(),
            First::Upgrade(head, length) => {
                format!("{} {} {:?}", head.method(), head.uri(), std::str::from_utf8(&buffer[length..]).unwrap())
            }
        };
        assert_eq!(seen, expected, "{pieces:?}");
    }

    fn tokio_test_io(pieces: &[&str]) -> impl AsyncRead + Unpin + use<> {
        let pieces: Vec<io::Result<Bytes>> = pieces.iter().map(|piece| Ok(Bytes::from(piece.to_string()))).collect();
        tokio_util::io::StreamReader::new(futures::stream::iter(pieces))
    }

    #[test]
    fn tells_protocols_apart() {
        let upgrade = "GET /exec?a=b HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n";
        check(&[upgrade], r#"GET /exec?a=b """#);
        check(&[upgrade, "more"], r#"GET /exec?a=b """#);
        check(&[&format!("{upgrade}more")], r#"GET /exec?a=b "more""#);
        check(&[&upgrade[..upgrade.len() - 2], "\r\n"], r#"GET /exec?a=b """#);
        check(&["GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"], "http1");
        check(&["GET / HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"], "http1");
        check(&["PRI * HTTP", "/2.0\r\n\r\nSM\r\n\r\n"], "http2");
        check(&["POST / HTTP/1.1\r\n", "\r\n"], "http1");
        check(&["\0\u{1}\u{2}garbage\r\n\r\n"], "http1");
        check(&["GET / HT"], "http1");
        check(&[], "nothing");
        check(&[&"a".repeat(2000)], "http1");
    }
}
