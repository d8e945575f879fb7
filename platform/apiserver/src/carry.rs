//! Bodies that are still being made when the answer has begun, and what lasts until they end: a seat, a count, an audit event.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use pharos_transport::{Body, BoxError};

struct Carrying<T> {
    body: Body,
    _carried: T,
}

/// Lets a body carry what is to be dropped at its end; at once, if it is all there.
pub(crate) fn carry<T: Send + Unpin + 'static>(body: Body, carried: T) -> Body {
    if body.as_bytes().is_some() {
        return body;
    }
    let long_running = body.is_long_running();
    let body = Body::new(Carrying { body, _carried: carried });
    if long_running { body.long_running() } else { body }
}

impl<T: Unpin> http_body::Body for Carrying<T> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
