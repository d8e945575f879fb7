//! SPDY/3.1, as far as `kubectl` needs it for exec, attach and port-forward.
//!
//! A [`Session`] runs over any byte stream; its driver is a future the caller polls along with what uses the streams.
//! Streams are opened by the client and answered at once.
//!
//! Flow control is for peers that do it, which is seen by their sending SETTINGS or WINDOW_UPDATE. moby/spdystream, which
//! is what client-go uses, does neither: it never acknowledges what it read, so a server that waited for its
//! windows would stop after 64 KiB. TCP holds such a peer back, as it does upstream.

mod frame; // What is on the wire,
mod headers; // and the packed part of it;
mod stream; // what is seen of it.

use std::{collections::HashMap, future::Future, io, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf},
    sync::{mpsc, oneshot},
};
use tokio_util::codec::FramedRead;

use frame::{Frame, Reader, Writer};
use stream::{Flow, Inbound};
pub use stream::{Stream, StreamReader, StreamWriter};

use crate::{
    Io,
    websocket::{UpgradeError, refuse, text, tokens},
};

/// Streams at once in a session.
const MOST_STREAMS: usize = 1024;
/// Pieces that wait for a stream's reader; then the connection is not read, as upstream does it.
const INBOUND: usize = 16;
/// Frames that wait to be written; then writers wait.
const OUTBOUND: usize = 32;
/// How long a peer has to hang up after it was told that all is done.
const LINGER: Duration = Duration::from_secs(5);

const PROTOCOL_ERROR: u32 = 1;
const INVALID_STREAM: u32 = 2;
const REFUSED_STREAM: u32 = 3;

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("SPDY: malformed {what}"))
}

/// The header in which the protocol over a session is agreed on.
pub(crate) const PROTOCOL_HEADER: &str = "x-stream-protocol-version";

/// Makes the server's side of the upgrade to SPDY. The first protocol of the client's that is in `protocols` is taken, and
/// returned; a client that names none gets `""` (`httpstream.Handshake`).
///
/// # Errors
///
/// If the client names no protocol that is known, which is answered with 403; if the connection breaks.
pub async fn accept(head: &Request<()>, mut io: Io, protocols: &[&'static str]) -> Result<(Io, &'static str), UpgradeError> {
    let mut offered = tokens(head.headers(), PROTOCOL_HEADER).peekable();
    let protocol = match offered.peek() {
        None => Some(""),
        Some(_) => offered.find_map(|name| protocols.iter().copied().find(|known| *known == name)),
    };
    let Some(protocol) = protocol else {
        let why = "unable to upgrade: unable to negotiate protocol";
        let mut response = text(StatusCode::FORBIDDEN, why);
        for known in protocols {
            response.headers_mut().append("x-accepted-stream-protocol-versions", HeaderValue::from_static(known));
        }
        refuse(io, response).await?;
        return Err(UpgradeError::Refused(why.into()));
    };
    let mut answer = String::from("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n");
    if !protocol.is_empty() {
        answer += &format!("X-Stream-Protocol-Version: {protocol}\r\n");
    }
    answer += "\r\n";
    io.write_all(answer.as_bytes()).await?;
    io.flush().await?;
    Ok((io, protocol))
}

/// Which side of a session this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It answers streams.
    Server,
    /// It opens streams.
    Client,
}

/// A session's streams.
#[derive(Debug)]
pub struct Session {
    accepted: mpsc::Receiver<Stream>,
    out: mpsc::Sender<Out>,
    opens: mpsc::Sender<Open>,
}

/// What the writing side does next.
#[derive(Debug)]
enum Out {
    Frame(Frame),
    /// Say that these bytes were read, on this stream and in the session.
    Acknowledge {
        id: u32,
        bytes: u32,
    },
    /// End all streams and the session.
    Finish,
}

/// A request to open a stream.
#[derive(Debug)]
struct Open {
    headers: HeaderMap,
    opened: oneshot::Sender<Stream>,
}

impl Session {
    /// A session over `io`, and the future that drives it: it ends when the peer hangs up, the session is finished or the
    /// peer breaks the protocol.
    pub fn new<T>(io: T, role: Role) -> (Self, impl Future<Output = io::Result<()>> + Send + 'static)
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (accept, accepted) = mpsc::channel(INBOUND);
        let (out, outbound) = mpsc::channel(OUTBOUND);
        let (opens, to_open) = mpsc::channel(1);
        let (read, write) = tokio::io::split(io);
        let flow = Arc::new(Flow::default());
        let next_id = if role == Role::Client { 1 } else { 2 };
        let reading = Reading { role, streams: HashMap::new(), accept, out: out.clone(), flow, next_id, last_id: 0 };
        let driver = async move {
            tokio::select! {
                read = reading.run(read, to_open) => read,
                written = write_frames(write, outbound) => written,
            }
        };
        (Self { accepted, out, opens }, driver)
    }

    /// The next stream the peer opened; none once the session is over. Cancel-safe.
    pub async fn accept(&mut self) -> Option<Stream> {
        self.accepted.recv().await
    }

    /// Opens a stream.
    ///
    /// # Errors
    ///
    /// If the session is over.
    pub async fn open(&self, headers: HeaderMap) -> io::Result<Stream> {
        let over = || io::Error::from(io::ErrorKind::NotConnected);
        let (opened, stream) = oneshot::channel();
        self.opens.send(Open { headers, opened }).await.map_err(|_| over())?;
        stream.await.map_err(|_| over())
    }

    /// Ends all streams in good order and tells the peer to go away. What was written before still arrives.
    pub async fn finish(&self) {
        let _ = self.out.send(Out::Finish).await; // It is over already, then.
    }
}

/// The reading side, which owns the streams.
struct Reading {
    role: Role,
    streams: HashMap<u32, Inbound>,
    accept: mpsc::Sender<Stream>,
    out: mpsc::Sender<Out>,
    flow: Arc<Flow>,
    next_id: u32,
    last_id: u32,
}

impl Reading {
    async fn run<T: AsyncRead>(mut self, read: ReadHalf<T>, mut to_open: mpsc::Receiver<Open>) -> io::Result<()> {
        let mut frames = FramedRead::new(read, Reader::new());
        loop {
            tokio::select! {
                frame = frames.next() => match frame {
                    None => return Ok(()),
                    Some(Ok(frame)) => self.take(frame).await,
                    Some(Err(error)) => {
                        self.send(Frame::GoAway { last: self.last_id, status: PROTOCOL_ERROR }).await;
                        return Err(error);
                    }
                },
                Some(open) = to_open.recv() => self.open(open).await,
            }
        }
    }

    async fn send(&self, frame: Frame) {
        let _ = self.out.send(Out::Frame(frame)).await; // The writing side is gone; so is the session in a moment.
    }

    async fn open(&mut self, Open { headers, opened }: Open) {
        let id = self.next_id;
        self.next_id += 2;
        let stream = self.new_stream(id, headers.clone());
        self.send(Frame::SynStream { id, fin: false, headers }).await;
        let _ = opened.send(stream); // Nobody waits for it any more.
    }

    fn new_stream(&mut self, id: u32, headers: HeaderMap) -> Stream {
        let (stream, inbound) = stream::new(id, headers, self.out.clone(), self.flow.clone(), INBOUND);
        self.streams.insert(id, inbound);
        stream
    }

    async fn take(&mut self, frame: Frame) {
        match frame {
            Frame::SynStream { id, fin, headers } => self.accept(id, fin, headers).await,
            Frame::SynReply { id, fin, .. } | Frame::Headers { id, fin } => {
                if fin {
                    self.end(id);
                }
            }
            Frame::Data { id, fin, data } => self.data(id, fin, data).await,
            Frame::Rst { id, .. } => {
                if let Some(inbound) = self.streams.remove(&id) {
                    inbound.reset();
                }
            }
            Frame::Ping(id) => {
                // Odd ones are the client's; what is our own comes back unasked, for we send none.
                if (id % 2 == 1) == (self.role == Role::Server) {
                    self.send(Frame::Ping(id)).await;
                }
            }
            Frame::Settings { initial_window } => {
                let windows = self.streams.values().map(|inbound| &*inbound.window);
                self.flow.settings(initial_window, windows);
            }
            Frame::WindowUpdate { id: 0, delta } => self.flow.update_session(delta),
            Frame::WindowUpdate { id, delta } => self.flow.update(self.streams.get(&id).map(|inbound| &*inbound.window), delta),
            // The streams that are open may still finish; the peer hangs up when they have.
            Frame::GoAway { .. } | Frame::Unknown => {}
        }
    }

    async fn accept(&mut self, id: u32, fin: bool, headers: HeaderMap) {
        let is_valid = self.role == Role::Server && id % 2 == 1 && id > self.last_id;
        if !is_valid {
            return self.send(Frame::Rst { id, status: PROTOCOL_ERROR }).await;
        }
        self.last_id = id;
        if self.streams.len() >= MOST_STREAMS {
            return self.send(Frame::Rst { id, status: REFUSED_STREAM }).await;
        }
        let stream = self.new_stream(id, headers);
        if fin {
            self.end(id);
        }
        self.send(Frame::SynReply { id, fin: false, headers: HeaderMap::new() }).await;
        if self.accept.send(stream).await.is_err() {
            self.streams.remove(&id);
        }
    }

    async fn data(&mut self, id: u32, fin: bool, data: Bytes) {
        let Some(inbound) = self.streams.get(&id) else {
            if id > self.last_id.max(self.next_id) {
                self.send(Frame::Rst { id, status: INVALID_STREAM }).await;
            }
            return; // It ended meanwhile.
        };
        let bytes = data.len() as u32;
        if bytes > 0 && inbound.deliver(data).await.is_err() && self.flow.is_on() {
            let _ = self.out.send(Out::Acknowledge { id: 0, bytes }).await; // Read, in a way.
        }
        if fin {
            self.end(id);
        }
    }

    /// Takes note that the peer has sent all it has to on a stream.
    fn end(&mut self, id: u32) {
        if let Some(inbound) = self.streams.get_mut(&id) {
            inbound.end();
            if !inbound.is_written() {
                return; // Resets and window updates may still come.
            }
        }
        self.streams.retain(|_, inbound| !inbound.is_over());
    }
}

async fn write_frames<T: AsyncWrite>(mut io: WriteHalf<T>, mut outbound: mpsc::Receiver<Out>) -> io::Result<()> {
    /// The bytes that are gathered before they are written.
    const GATHER: usize = 64 * 1024;
    let mut writer = Writer::new();
    let mut open = std::collections::BTreeSet::new();
    let mut bytes = BytesMut::new();
    let mut next = outbound.recv().await;
    while let Some(out) = next {
        match out {
            Out::Frame(frame) => {
                match &frame {
                    Frame::SynReply { id, fin: false, .. } | Frame::SynStream { id, fin: false, .. } => drop(open.insert(*id)),
                    Frame::Data { id, fin: true, .. } | Frame::Rst { id, .. } => drop(open.remove(id)),
                    _ => {}
                }
                writer.encode(&frame, &mut bytes)?;
            }
            Out::Acknowledge { id, bytes: delta } => {
                writer.encode(&Frame::WindowUpdate { id: 0, delta }, &mut bytes)?;
                if id != 0 {
                    writer.encode(&Frame::WindowUpdate { id, delta }, &mut bytes)?;
                }
            }
            Out::Finish => {
                for id in std::mem::take(&mut open) {
                    writer.encode(&Frame::Data { id, fin: true, data: Bytes::new() }, &mut bytes)?;
                }
                writer.encode(&Frame::GoAway { last: 0, status: 0 }, &mut bytes)?;
                io.write_all(&bytes).await?;
                io.flush().await?;
                tokio::time::sleep(LINGER).await; // The reading side ends this when the peer hangs up.
                return io.shutdown().await;
            }
        }
        next = match outbound.try_recv() {
            Ok(out) if bytes.len() < GATHER => Some(out),
            waiting => {
                io.write_all(&bytes).await?;
                io.flush().await?;
                bytes.clear();
                match waiting {
                    Ok(out) => Some(out),
                    Err(_) => outbound.recv().await,
                }
            }
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests;
