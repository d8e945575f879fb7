//! Large answers, compressed for clients that read gzip.
//!
//! Follows `endpoints/handlers/responsewriters/writers.go` of apiserver 1.37. What is answered by this server itself and is
//! whole already is marked on its way out, and compressed last of all, when everybody who looks into it has done so. It is
//! done piece by piece as the client takes them, so that no answer keeps a thread for long, and none is held twice.

use std::io::{self, Write as _};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures::{Stream, stream};
use http::{HeaderMap, HeaderValue, header};
use pharos_transport::{Body, Response};

/// Answers up to this size go out as they are (`defaultGzipThresholdBytes`).
const THRESHOLD_BYTES: usize = 128 << 10;

/// The effort (`defaultGzipContentEncodingLevel`).
const LEVEL: u32 = 1;

/// How much is compressed at a time.
const PIECE_BYTES: usize = 64 << 10;

/// Marks an answer that is to be compressed.
#[derive(Clone, Copy)]
struct Wanted;

/// Whether a client reads gzip.
pub(crate) fn accepted(headers: &HeaderMap) -> bool {
    // Without weights, as upstream; Go's clients send nothing but `gzip`.
    let tokens = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    tokens.flat_map(|value| value.split(',')).any(|token| token.trim() == "gzip")
}

/// Whether a body is large enough for it to be worth the effort.
pub(crate) fn is_large(body: &Bytes) -> bool {
    body.len() > THRESHOLD_BYTES
}

/// Marks an answer for [`finish`] if it is large and whole; for clients that [`accepted`] says read it.
pub(crate) fn mark(response: &mut Response) {
    let is_plain = !response.headers().contains_key(header::CONTENT_ENCODING);
    if is_plain && response.body().as_bytes().is_some_and(is_large) {
        response.extensions_mut().insert(Wanted);
    }
}

/// Compresses an answer that is marked.
pub(crate) fn finish(mut response: Response) -> Response {
    if response.extensions_mut().remove::<Wanted>().is_none() {
        return response;
    }
    label(response.headers_mut());
    response.map(|body| match body.as_bytes() {
        Some(bytes) => Body::stream(pieces(bytes.clone())),
        None => body,
    })
}

/// Says in an answer's headers that it is compressed.
pub(crate) fn label(headers: &mut HeaderMap) {
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    headers.remove(header::CONTENT_LENGTH);
}

/// The whole, compressed at once: for documents that are kept.
pub(crate) fn whole(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 8), Compression::new(LEVEL));
    // Writing to memory does not fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default().into()
}

/// What is left to compress, and what compresses it; `None` when that is done.
struct Pieces {
    rest: Bytes,
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl Pieces {
    /// What goes out next; nothing at the end.
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        while let Some(mut encoder) = self.encoder.take() {
            if self.rest.is_empty() {
                return Ok(Some(encoder.finish()?.into()));
            }
            let piece = self.rest.split_to(PIECE_BYTES.min(self.rest.len()));
            encoder.write_all(&piece)?;
            let out = std::mem::take(encoder.get_mut());
            self.encoder = Some(encoder);
            if !out.is_empty() {
                return Ok(Some(out.into()));
            }
        }
        Ok(None)
    }
}

fn pieces(bytes: Bytes) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let encoder = GzEncoder::new(Vec::new(), Compression::new(LEVEL));
    stream::try_unfold(Pieces { rest: bytes, encoder: Some(encoder) }, |mut pieces| async move {
        // Others get their turn between two pieces, however fast the client reads.
        tokio::task::yield_now().await;
        Ok::<_, io::Error>(pieces.next()?.map(|piece| (piece, pieces)))
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use http::StatusCode;

    use super::*;
    use crate::respond;

    #[test]
    fn clients_say_what_they_read() {
        for (value, want) in [
            ("gzip", true),
            ("deflate, , gzip,", true),
            ("gzip, deflate, br", true),
            ("identity", false),
            ("", false),
            ("gzip;q=0", false),
            ("deflate", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(value));
            assert_eq!(accepted(&headers), want, "{value}");
        }
        assert!(!accepted(&HeaderMap::new()));
    }

    fn text(size: usize) -> String {
        let lines = (0_u32..).map(|n| format!("all work and no play {n}\n"));
        lines.flat_map(|line| line.chars().collect::<Vec<_>>()).take(size).collect()
    }

    #[tokio::test]
    async fn large_answers_are_compressed() {
        for (size, want) in [(THRESHOLD_BYTES, false), (THRESHOLD_BYTES + 1, true), (5 * PIECE_BYTES, true)] {
            let plain = text(size);
            let mut response = respond::bytes(StatusCode::OK, "application/json", plain.clone());
            mark(&mut response);
            let response = finish(response);
            assert_eq!(response.headers().contains_key(header::CONTENT_ENCODING), want, "{size}");
            let body = response.into_body().into_bytes(1 << 20).await.unwrap();
            if !want {
                assert_eq!(body, plain);
                continue;
            }
            let mut read = String::new();
            flate2::read::GzDecoder::new(&body[..]).read_to_string(&mut read).unwrap();
            assert!(read == plain, "{size}");
            assert!(body.len() < size / 2, "{size}: {}", body.len());
        }
    }

    #[test]
    fn kept_documents_are_compressed_at_once() {
        let plain = text(1 << 20);
        let mut read = String::new();
        flate2::read::GzDecoder::new(&whole(plain.as_bytes())[..]).read_to_string(&mut read).unwrap();
        assert!(read == plain);
    }

    #[test]
    fn what_is_compressed_is_not_compressed_again() {
        let mut response = respond::bytes(StatusCode::OK, "application/json", text(1 << 20));
        label(response.headers_mut());
        mark(&mut response);
        assert!(response.extensions_mut().remove::<Wanted>().is_none());
    }
}
