//! HTTP/2, by hyper rather than by actix-http.
//!
//! actix-http 3.20 polls neither a stream's reset nor its connection's loss while it waits for a response or for the next
//! piece of a body, so a watch or a followed log whose client is gone lives until it next has something to send,
//! and a handler until it is done. It sets no limit on concurrent streams either. hyper drops both the handler's
//! future and the body at the reset, and runs them on the shared runtime instead of one thread.

use std::{convert::Infallible, future::Future, sync::Arc};

use http::{
    HeaderValue, Method, Uri,
    header::{CONTENT_LENGTH, HOST},
};
use http_body::Body as _;
use hyper::{body::Incoming, server::conn::http2::Builder, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::task::TaskTracker;

use crate::{Body, Request};

use super::{connection::Connection, outgoing::Outgoing};

/// What a client may send ahead, per stream and per connection: upstream's figures (`secure_serving.go`).
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 25 * 1024 * 1024;

/// Streams a client may give up before they were looked at; more is an attack ("rapid reset"). The library's 20 is less than
/// the requests an informer factory cancels at once.
const MOST_PENDING_RESETS: usize = 200;

/// What may wait to be sent on one stream.
const SEND_BUFFER_BYTES: usize = 256 * 1024;

pub(super) async fn serve<T>(io: T, connection: Arc<Connection>)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let shared = connection.shared.clone();
    let limits = &shared.limits;
    let mut builder = Builder::new(Tracked(shared.tasks.clone()));
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(limits.streams_per_connection)
        .max_pending_accept_reset_streams(MOST_PENDING_RESETS)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .keep_alive_interval(limits.ping)
        .keep_alive_timeout(limits.ping);
    let addr = connection.peer.addr;
    let service = service_fn(move |request: http::Request<Incoming>| {
        let connection = connection.clone();
        async move {
            let is_head = request.method() == Method::HEAD;
            let response = connection.answer(normalize(request)).await;
            Ok::<_, Infallible>(if is_head { without_body(response) } else { response })
        }
    });
    let mut served = std::pin::pin!(builder.serve_connection(TokioIo::new(io), service));
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = shared.stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            tokio::select! {
                ended = served.as_mut() => ended,
                () = shared.kill.cancelled() => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%addr, %error, "HTTP/2 connection ended");
    }
}

/// The answer to HEAD: it says how long the body would be, and has none. (hyper sees to that only in HTTP/1.1.)
fn without_body(mut response: http::Response<Outgoing>) -> http::Response<Outgoing> {
    if let Some(length) = response.body().size_hint().exact() {
        response.headers_mut().entry(CONTENT_LENGTH).or_insert(length.into());
    }
    response.map(Outgoing::emptied)
}

/// Makes a request look as it would have over HTTP/1.1: the target is path and query, the authority is in `Host`.
fn normalize(request: http::Request<Incoming>) -> Request {
    let (mut parts, body) = request.into_parts();
    if let Some(authority) = parts.uri.authority()
        && !parts.headers.contains_key(HOST)
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        parts.headers.insert(HOST, host);
    }
    let mut target = http::uri::Parts::default();
    target.path_and_query = parts.uri.path_and_query().cloned();
    parts.uri = Uri::from_parts(target).unwrap_or_default();
    Request::from_parts(parts, Body::new(body))
}

/// Runs streams as tasks that the front waits for.
#[derive(Clone)]
struct Tracked(TaskTracker);

impl<F> hyper::rt::Executor<F> for Tracked
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}
