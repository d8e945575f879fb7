use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Uri, Version, header, uri::Scheme};
use http_body::{Frame, SizeHint};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connected, Connection},
    },
    rt::{TokioIo, TokioTimer},
};
use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::{Body, BoxError, Io, Request, Response};

use super::{ProxyError, Target, dial, remove_hop_by_hop, replace};

/// How long a connection waits for another request.
const IDLE: Duration = Duration::from_secs(60);
/// Idle connections kept to one target.
const IDLE_PER_TARGET: usize = 8;
/// Pools: one per TLS configuration and server name. The least recently made goes first.
const MOST_POOLS: usize = 64;

/// Carries requests over HTTP/1.1, and keeps connections for further ones.
#[derive(Clone, Default)]
pub struct Proxy {
    pools: Arc<Mutex<Vec<(PoolKey, Pool)>>>,
    tasks: TaskTracker,
}

type Pool = Client<Dial, Body>;

/// What connections must have in common to be used for one another's requests, apart from the authority.
#[derive(Clone)]
struct PoolKey {
    tls: Option<Arc<ClientConfig>>,
    server_name: Option<String>,
    connect: Duration,
}

impl PartialEq for PoolKey {
    fn eq(&self, other: &Self) -> bool {
        let same_tls = match (&self.tls, &other.tls) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        same_tls && self.server_name == other.server_name && self.connect == other.connect
    }
}

impl Proxy {
    /// A proxy without connections.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Carries a request to the target and its answer back, streaming both. Callers keep the `Arc` of a target's TLS
    /// configuration, by which connections are recognized.
    ///
    /// # Errors
    ///
    /// If the target cannot be reached, breaks off before its answer's head, or takes too long for it.
    pub async fn forward(&self, request: Request, target: &Target) -> Result<Response, ProxyError> {
        let authority = || target.authority.to_string();
        let exchange = |source: BoxError| ProxyError::Exchange { authority: authority(), source };
        let request = rewrite(request, target).map_err(|error| exchange(error.into()))?;
        let answering = self.pool(target).request(request);
        let answered = match target.respond {
            Some(limit) => timeout(limit, answering)
                .await
                .map_err(|_| ProxyError::TimedOut { action: "wait for the answer of", authority: authority() })?,
            None => answering.await,
        };
        let response = answered.map_err(|error| match connect_error(&error) {
            Some(source) if source.kind() == io::ErrorKind::TimedOut => {
                ProxyError::TimedOut { action: "connect to", authority: authority() }
            }
            Some(source) => ProxyError::Connect { authority: authority(), source },
            None => exchange(error.into()),
        })?;
        let (mut parts, body) = response.into_parts();
        remove_hop_by_hop(&mut parts.headers);
        parts.version = Version::HTTP_11;
        Ok(Response::from_parts(parts, Body::new(body)))
    }

    fn pool(&self, target: &Target) -> Pool {
        let key = PoolKey { tls: target.tls.clone(), server_name: target.server_name.clone(), connect: target.connect };
        let mut pools = self.pools.lock();
        if let Some((_, pool)) = pools.iter().find(|(known, _)| *known == key) {
            return pool.clone();
        }
        if pools.len() >= MOST_POOLS {
            pools.remove(0);
        }
        let pool = Client::builder(Tracked(self.tasks.clone()))
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_PER_TARGET)
            .pool_timer(TokioTimer::new())
            .build(Dial(key.clone()));
        pools.push((key, pool.clone()));
        pool
    }
}

/// The request as the target is to see it.
fn rewrite(request: Request, target: &Target) -> Result<http::Request<Body>, http::Error> {
    let (mut parts, body) = request.into_parts();
    parts.uri = Uri::builder()
        .scheme(if target.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP })
        .authority(target.authority.clone())
        .path_and_query(target.path_and_query(&parts.uri).as_ref())
        .build()?;
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    remove_hop_by_hop(&mut parts.headers);
    parts.headers.remove(header::HOST); // The client sets it from the authority.
    // The body's own length, if it is known to begin with; a stream keeps what the client said.
    if body.as_bytes().is_some() {
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    let length = parts.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    replace(&mut parts.headers, &target.headers);
    Ok(http::Request::from_parts(parts, Body::new(Sized { body, length })))
}

/// A body that is as long as its headers said.
struct Sized {
    body: Body,
    length: Option<u64>,
}

impl http_body::Body for Sized {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(|| self.body.size_hint(), SizeHint::with_exact)
    }
}

/// What went wrong with connecting, if that is what went wrong.
fn connect_error(error: &hyper_util::client::legacy::Error) -> Option<io::Error> {
    if !error.is_connect() {
        return None;
    }
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(ProxyError::TimedOut { .. }) = error.downcast_ref() {
            return Some(io::ErrorKind::TimedOut.into());
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(io::Error::new(error.kind(), error.to_string()));
        }
        cause = error.source();
    }
    Some(io::Error::other(error.to_string()))
}

/// Makes the connections of a pool.
#[derive(Clone)]
struct Dial(PoolKey);

impl tower::Service<Uri> for Dial {
    type Response = Dialled;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Dialled, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let key = self.0.clone();
        Box::pin(async move {
            let authority = uri.authority().cloned().ok_or("no authority")?;
            let mut target = Target::new(authority, key.tls);
            target.server_name = key.server_name;
            target.connect = key.connect;
            Ok(Dialled(TokioIo::new(dial(&target).await?)))
        })
    }
}

/// A connection of a pool.
struct Dialled(TokioIo<Io>);

impl Connection for Dialled {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Dialled {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, out)
    }
}

impl Write for Dialled {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Runs connections as tasks.
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
