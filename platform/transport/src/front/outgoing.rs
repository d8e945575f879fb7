use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use actix_http::body::{BodySize, MessageBody};
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::{Body, BoxError};

/// A response body on its way out. A long-running one ends when the server stops; the request counts as in flight until
/// this is dropped.
pub(super) struct Outgoing {
    body: Body,
    stop: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    _in_flight: InFlight,
}

impl Outgoing {
    pub(super) fn new(body: Body, stop: &CancellationToken, in_flight: InFlight) -> Self {
        let stop = body.is_long_running().then(|| Box::pin(stop.clone().cancelled_owned()));
        Self { body, stop, _in_flight: in_flight }
    }

    /// The same, with nothing in it.
    pub(super) fn emptied(mut self) -> Self {
        self.body = Body::empty();
        self
    }
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        if frame.is_pending() && this.stop.as_mut().is_some_and(|stop| stop.as_mut().poll(cx).is_ready()) {
            this.body = Body::empty();
            return Poll::Ready(None);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl MessageBody for Outgoing {
    type Error = Broken;

    fn size(&self) -> BodySize {
        self.body.size_hint().exact().map_or(BodySize::Stream, BodySize::Sized)
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        loop {
            return Poll::Ready(match std::task::ready!(self.as_mut().poll_frame(cx)) {
                None => None,
                Some(Err(error)) => Some(Err(Broken(error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.is_empty() => continue, // Would end a chunked body.
                    Ok(data) => Some(Ok(data)),
                    Err(_) => continue, // Trailers.
                },
            });
        }
    }
}

/// A body broke off.
#[derive(Debug, thiserror::Error)]
#[error("send a body")]
pub(super) struct Broken(#[source] BoxError);

/// Counts the requests of a connection that are not answered to the end.
#[derive(Default)]
pub(super) struct InFlightCount {
    count: AtomicUsize,
    changed: Notify,
}

/// One of them.
pub(super) struct InFlight(Arc<InFlightCount>);

impl InFlightCount {
    pub(super) fn enter(self: &Arc<Self>) -> InFlight {
        self.count.fetch_add(1, Ordering::AcqRel);
        InFlight(self.clone())
    }

    pub(super) fn is_idle(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Waits until no request is in flight.
    pub(super) async fn idle(&self) {
        loop {
            let changed = self.changed.notified();
            if self.is_idle() {
                return;
            }
            changed.await;
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.changed.notify_waiters();
        }
    }
}
