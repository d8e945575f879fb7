//! Bodies that are still being made when the answer has begun: their request is served until they end.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use pharos_transport::{Body, BoxError};

use super::Seat;

struct Held {
    body: Body,
    _seat: Seat,
}

/// Holds a seat until the end of a body.
pub(crate) fn hold(body: Body, seat: Seat) -> Body {
    if body.as_bytes().is_some() {
        return body;
    }
    Body::new(Held { body, _seat: seat })
}

impl http_body::Body for Held {
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
