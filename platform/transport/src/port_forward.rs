//! Port forwarding: pairs of streams, one for a connection's bytes and one for what went wrong with it.
//!
//! Follows the kubelet's `pkg/kubelet/cri/streaming/portforward` (1.32) over SPDY/3.1 (`portforward.k8s.io`), and over SPDY in a
//! WebSocket (`SPDY/3.1+portforward.k8s.io`, KEP-4006), which kubectl tries first. The older protocol in which every port has two WebSocket
//! channels is not served; such a client is told 400.

use std::{collections::HashMap, future::Future, io, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use http::{HeaderMap, Request};
use tokio::{
    io::{AsyncWriteExt as _, join},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    Io, spdy,
    spdy::{Role, Session, Stream},
    websocket,
    websocket::{Tunnel, UpgradeError},
};

const PROTOCOL: &str = "portforward.k8s.io";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// How long a pair may wait for its second stream.
const PAIRING: Duration = Duration::from_secs(30);
/// Connections at once in one session; further ones wait.
const MOST_CONNECTIONS: usize = 256;
/// Pairs that wait for their second stream.
const MOST_WAITING: usize = 64;

/// Serves one port-forward: makes the handshake the request asks for and joins each of the client's connections to what `connect`
/// opens for its port. What `connect` fails with is told to the client as it is.
///
/// Ends when the client leaves.
///
/// # Errors
///
/// If the upgrade is refused, of which the client has been told, or the connection breaks.
pub async fn serve_port_forward<F, Fut>(head: Request<()>, io: Io, connect: F) -> Result<(), UpgradeError>
where
    F: Fn(u16) -> Fut + Send + Sync,
    Fut: Future<Output = Result<Io, String>> + Send + 'static,
{
    let (mut session, driver): (Session, BoxFuture<'static, io::Result<()>>) = if websocket::is_requested(head.headers()) {
        let (socket, _) = websocket::accept(&head, io, &[TUNNEL]).await?;
        let (session, driver) = Session::new(Tunnel::new(socket), Role::Server);
        (session, driver.boxed())
    } else {
        let (io, _) = spdy::accept(&head, io, &[PROTOCOL]).await?;
        let (session, driver) = Session::new(io, Role::Server);
        (session, driver.boxed())
    };
    let mut pairs = Pairs::default();
    let mut connections = JoinSet::new();
    let serving = async {
        loop {
            let deadline = pairs.deadline();
            tokio::select! {
                stream = session.accept(), if connections.len() < MOST_CONNECTIONS => {
                    let Some(stream) = stream else { return std::future::pending().await };
                    if let Some(Pair { port, data, error }) = pairs.add(stream) {
                        connections.spawn(forward(data, error, connect(port)));
                    }
                }
                Some(_) = connections.join_next() => {}
                () = sleep_until(deadline) => pairs.expire(),
            }
        }
    };
    tokio::select! {
        ended = driver => Ok(ended?),
        () = serving => Ok(()),
    }
}

/// Joins a pair of streams to a connection until both directions have ended.
async fn forward(data: Stream, error: Stream, connect: impl Future<Output = Result<Io, String>>) {
    let mut complaint = error.writer;
    let mut client = join(data.reader, data.writer);
    let failure = match connect.await {
        Err(why) => Some(why),
        Ok(mut target) => tokio::io::copy_bidirectional(&mut client, &mut target).await.err().map(|error| error.to_string()),
    };
    // Whatever fails from here on, fails because the client left. kubectl resets a stream once it has all of it, and takes any
    // complaint for the end of the whole session.
    if let Some(why) = failure.filter(|_| !client.writer().is_reset()) {
        let _ = complaint.write_all(why.as_bytes()).await;
    }
    let _ = complaint.shutdown().await;
    let _ = client.shutdown().await;
}

struct Pair {
    port: u16,
    data: Stream,
    error: Stream,
}

/// Streams that wait for their other half, by the request they belong to.
#[derive(Default)]
struct Pairs {
    waiting: HashMap<String, (Stream, Instant)>,
}

impl Pairs {
    /// Takes a stream in, and gives the pair it completes.
    fn add(&mut self, stream: Stream) -> Option<Pair> {
        let is_error = match header(&stream.headers, "streamtype") {
            Some("error") => true,
            Some("data") => false,
            _ => return None, // Dropped unread, as upstream refuses it.
        };
        let request = request_id(&stream, is_error);
        let Some((other, since)) = self.waiting.remove(&request) else {
            if self.waiting.len() < MOST_WAITING {
                self.waiting.insert(request, (stream, Instant::now()));
            }
            return None;
        };
        if (header(&other.headers, "streamtype") == Some("error")) == is_error {
            self.waiting.insert(request, (other, since)); // The same half again.
            return None;
        }
        let (data, error) = if is_error { (other, stream) } else { (stream, other) };
        let port = header(&data.headers, "port")?.parse().ok().filter(|port| *port != 0)?;
        Some(Pair { port, data, error })
    }

    /// When the next pair has waited too long.
    fn deadline(&self) -> Instant {
        let oldest = self.waiting.values().map(|(_, since)| *since).min();
        oldest.unwrap_or_else(Instant::now) + PAIRING
    }

    fn expire(&mut self) {
        self.waiting.retain(|_, (_, since)| since.elapsed() < PAIRING);
    }
}

/// Which request a stream belongs to. Clients before 1.2 did not say, and opened the error stream just before the data stream.
fn request_id(stream: &Stream, is_error: bool) -> String {
    match header(&stream.headers, "requestid") {
        Some(id) => id.to_owned(),
        None if is_error => stream.id.to_string(),
        None => stream.id.saturating_sub(2).to_string(),
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
