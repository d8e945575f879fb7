//! HTTP/1.1, by actix-http.
//!
//! Its services are bound to a thread, so there are some threads with one service each, and connections are dealt out
//! to them. Only bytes and framing are handled there: handlers run on the shared runtime. When the client goes away, the
//! dispatcher drops what it waits for: the handler's future or the body.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use actix_http::{ConnectionType, HttpMessage as _, HttpService, KeepAlive, Payload, Protocol};
use actix_service::{Service, ServiceFactory, fn_service};
use futures::StreamExt as _;
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri, Version};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Notify, mpsc, oneshot},
    task::spawn_local,
};
use tokio_util::task::{AbortOnDropHandle, LocalPoolHandle};

use crate::{Body, BoxError, Io, Limits, Request};

use super::{
    connection::Connection,
    head::{Rewind, wants_upgrade},
    outgoing::Outgoing,
};

/// Connections that wait for a thread to take them; more than that, and their tasks wait.
const QUEUE: usize = 64;
/// Pieces of a request body between the thread that reads them and the handler: at most 64 KiB each.
const BODY_PIECES: usize = 2;
/// How long a thread keeps its service for the next connection when there is none.
const LINGER: Duration = Duration::from_secs(1);
/// How long the last bytes of the last response have to leave before an idle connection is closed at shutdown.
const FLUSH: Duration = Duration::from_millis(100);

/// The threads.
pub(super) struct Workers {
    queues: Vec<mpsc::Sender<Job>>,
    next: AtomicUsize,
}

struct Job {
    io: Socket,
    /// Dropped when the connection is done.
    done: oneshot::Sender<()>,
}

impl Workers {
    pub(super) fn start(limits: &Limits) -> Self {
        let threads = limits.http1_threads.max(1);
        let pool = LocalPoolHandle::new(threads);
        let queues = (0..threads)
            .map(|thread| {
                let (queue, jobs) = mpsc::channel(QUEUE);
                let limits = limits.clone();
                // Ends by itself when the queue's sender is dropped.
                drop(pool.spawn_pinned_by_idx(move || work(jobs, limits), thread));
                queue
            })
            .collect();
        Self { queues, next: AtomicUsize::new(0) }
    }
}

/// Serves one connection on one of the threads, to its end.
pub(super) async fn serve(io: Rewind<Io>, connection: Arc<Connection>) {
    let workers = &connection.shared.http1;
    let next = workers.next.fetch_add(1, Ordering::Relaxed) % workers.queues.len();
    let queue = workers.queues[next].clone();
    let (done, ended) = oneshot::channel();
    let job = Job { io: Socket { io, connection }, done };
    if queue.send(job).await.is_ok() {
        let _ = ended.await; // An error is how it ends: the sender was dropped.
    }
}

/// What one thread does.
async fn work(mut jobs: mpsc::Receiver<Job>, limits: Limits) {
    let build = || {
        HttpService::<Socket, _, Outgoing>::build()
            .keep_alive(KeepAlive::Timeout(limits.idle))
            .client_request_timeout(limits.head)
            // A client that ends its side has left: else its handler and watch would go on until they write.
            .h1_allow_half_closed(false)
            .client_disconnect_timeout(Duration::from_secs(5))
            .on_connect_ext(|socket: &Socket, extensions| {
                extensions.insert(socket.connection.clone());
            })
            .finish(fn_service(answer))
    };
    let closed = Rc::new(Notify::new());
    // Only while there are connections: it has a clock that ticks twice a second.
    let mut service = None;
    loop {
        let next = match &service {
            Some(service) if Rc::strong_count(service) == 1 => tokio::time::timeout(LINGER, jobs.recv()).await.ok(),
            Some(_) => tokio::select! {
                job = jobs.recv() => Some(job),
                () = closed.notified() => continue,
            },
            None => Some(jobs.recv().await),
        };
        let Some(job) = next else {
            service = None;
            continue;
        };
        let Some(Job { io, done }) = job else { return };
        let current = match &service {
            Some(current) => Rc::clone(current),
            None => {
                let Ok(made) = build().new_service(()).await else { return };
                Rc::clone(service.insert(Rc::new(made)))
            }
        };
        let closed = closed.clone();
        spawn_local(async move {
            let connection = io.connection.clone();
            let addr = connection.peer.addr;
            let dispatcher = current.call((io, Protocol::Http1, Some(addr)));
            tokio::select! {
                ended = dispatcher => if let Err(error) = ended {
                    tracing::debug!(%addr, %error, "HTTP/1.1 connection ended");
                },
                () = drained(&connection) => {}
            }
            drop((done, current));
            closed.notify_one();
        });
    }
}

/// Waits until the server stops and the connection has nothing left to do, or its time is up.
async fn drained(connection: &Connection) {
    connection.shared.stop.cancelled().await;
    let quiet = async {
        loop {
            connection.in_flight.idle().await;
            tokio::time::sleep(FLUSH).await;
            if connection.in_flight.is_idle() {
                return;
            }
        }
    };
    tokio::select! {
        () = quiet => {}
        () = connection.shared.kill.cancelled() => {}
    }
}

async fn answer(mut request: actix_http::Request) -> Result<actix_http::Response<Outgoing>, actix_http::Error> {
    let Some(connection) = request.conn_data::<Arc<Connection>>().cloned() else {
        return Err(actix_http::error::PayloadError::Incomplete(None).into()); // Cannot be: on_connect_ext put it there.
    };
    let Some(mut converted) = convert(&request) else {
        return Ok(refuse(&connection, "malformed request target or header\n"));
    };
    if wants_upgrade(converted.headers()) {
        // Clients open a connection for this. Only its first request can be handed over.
        return Ok(refuse(&connection, "upgrade on a connection that already carried a request\n"));
    }
    *converted.body_mut() = incoming(request.take_payload());
    let shared = &connection.shared;
    let task = shared.tasks.spawn_on(connection.clone().answer(converted), &shared.runtime);
    let response = match AbortOnDropHandle::new(task).await {
        Ok(response) => response,
        Err(_) => return Ok(refuse(&connection, "the server stops\n")), // Aborted: the runtime goes down.
    };
    Ok(respond(response, &connection))
}

/// A request of actix-http (and of the older `http` it uses) as one of ours.
fn convert(request: &actix_http::Request) -> Option<Request> {
    let mut converted = Request::new(Body::empty());
    *converted.method_mut() = Method::from_bytes(request.method().as_str().as_bytes()).ok()?;
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    *converted.uri_mut() = Uri::try_from(target).ok()?;
    *converted.version_mut() =
        if request.version() == actix_http::Version::HTTP_10 { Version::HTTP_10 } else { Version::HTTP_11 };
    converted.headers_mut().reserve(request.headers().len());
    for (name, value) in request.headers() {
        let name = HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
        converted.headers_mut().append(name, HeaderValue::from_bytes(value.as_bytes()).ok()?);
    }
    Some(converted)
}

/// Carries a request body, piece by piece, from the connection's thread to wherever the handler runs.
fn incoming(payload: Payload) -> Body {
    if matches!(payload, Payload::None) {
        return Body::empty();
    }
    let mut payload = payload;
    let (sender, receiver) = mpsc::channel(BODY_PIECES);
    spawn_local(async move {
        loop {
            let piece = tokio::select! {
                piece = payload.next() => piece,
                () = sender.closed() => return,
            };
            let Some(piece) = piece else { return };
            let is_last = piece.is_err();
            if sender.send(piece.map_err(|error| BoxError::from(error.to_string()))).await.is_err() || is_last {
                return;
            }
        }
    });
    Body::stream(futures::stream::unfold(
        receiver,
        |mut receiver| async move { receiver.recv().await.map(|piece| (piece, receiver)) },
    ))
}

fn respond(response: http::Response<Outgoing>, connection: &Connection) -> actix_http::Response<Outgoing> {
    let (parts, body) = response.into_parts();
    let status = actix_http::StatusCode::from_u16(parts.status.as_u16()).unwrap_or(actix_http::StatusCode::INTERNAL_SERVER_ERROR);
    let mut converted = actix_http::Response::with_body(status, body);
    for (name, value) in &parts.headers {
        if *name == http::header::CONTENT_LENGTH || *name == http::header::TRANSFER_ENCODING {
            continue; // The body says it.
        }
        let name = actix_http::header::HeaderName::from_bytes(name.as_str().as_bytes());
        let value = actix_http::header::HeaderValue::from_bytes(value.as_bytes());
        if let (Ok(name), Ok(value)) = (name, value) {
            converted.headers_mut().append(name, value);
        }
    }
    if connection.shared.stop.is_cancelled() {
        converted.head_mut().set_connection_type(ConnectionType::Close);
    }
    converted
}

fn refuse(connection: &Connection, why: &'static str) -> actix_http::Response<Outgoing> {
    let body = Outgoing::new(Body::full(why), &connection.shared.stop, connection.in_flight.enter());
    let mut response = http::Response::new(body);
    *response.status_mut() = StatusCode::BAD_REQUEST;
    let mut response = respond(response, connection);
    response.head_mut().set_connection_type(ConnectionType::Close);
    response
}

/// What the dispatcher reads and writes; it finds the connection's facts here.
struct Socket {
    io: Rewind<Io>,
    connection: Arc<Connection>,
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, out)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
