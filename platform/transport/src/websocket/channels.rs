//! Several streams in one connection: each message begins with the number of its channel (`v5.channel.k8s.io` and its elders).

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{SinkExt as _, StreamExt as _, stream::SplitSink};
use tokio::{io::AsyncWrite, sync::mpsc};
use tokio_tungstenite::tungstenite::{Error, Message, protocol::CloseFrame, protocol::frame::coding::CloseCode};
use tokio_util::sync::PollSender;

use super::WebSocket;

/// Messages that wait to be sent; then writers wait.
const OUTBOUND: usize = 16;
/// The most bytes in one message.
const LONGEST: usize = 32 * 1024;
/// How long a client has to answer a close.
const LINGER: Duration = Duration::from_secs(5);
/// In `v5`, what stands for the channel when the next byte's channel is closed.
const CLOSE_SIGNAL: u8 = 255;

/// How a protocol writes its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Framing {
    /// Text messages: the channel as a digit, the rest in base64.
    pub(crate) base64: bool,
    /// A client may close one channel.
    pub(crate) close_signal: bool,
}

/// What a client sent.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// Bytes on a channel.
    Data(u8, Bytes),
    /// There will be no more on a channel.
    Closed(u8),
}

/// The sending side of a connection's channels.
pub(crate) struct Channels {
    out: mpsc::Sender<Out>,
}

#[derive(Debug)]
enum Out {
    Data(u8, Bytes),
    Finish,
}

impl Channels {
    /// Channels over a connection, and the future that drives them: it hands what comes in to `take`, which may wait, and ends
    /// when the client leaves or the channels are finished.
    pub(crate) fn new<F, Fut>(socket: WebSocket, framing: Framing, take: F) -> (Self, impl Future<Output = ()> + Send)
    where
        F: FnMut(Incoming) -> Fut + Send,
        Fut: Future<Output = ()> + Send,
    {
        let (out, outbound) = mpsc::channel(OUTBOUND);
        let (sink, messages) = socket.split();
        let mut take = take;
        let mut messages = messages;
        let driver = async move {
            let reading = async {
                while let Some(Ok(message)) = messages.next().await {
                    match parse(framing, message) {
                        Some(incoming) => take(incoming).await,
                        None => continue,
                    }
                }
            };
            tokio::select! {
                () = reading => {}
                _ = write(sink, framing, outbound) => {} // It broke, or was finished.
            }
        };
        (Self { out }, driver)
    }

    pub(crate) fn writer(&self, channel: u8) -> ChannelWriter {
        ChannelWriter { channel, out: PollSender::new(self.out.clone()) }
    }

    /// Sends one message.
    pub(crate) async fn send(&self, channel: u8, bytes: Bytes) {
        let _ = self.out.send(Out::Data(channel, bytes)).await; // The client left.
    }

    /// Says goodbye, after everything that was written.
    pub(crate) async fn finish(&self) {
        let _ = self.out.send(Out::Finish).await;
    }
}

/// What a message says; none if nothing.
fn parse(framing: Framing, message: Message) -> Option<Incoming> {
    let mut bytes = match message {
        Message::Binary(bytes) => bytes,
        Message::Text(text) => Bytes::from(text),
        _ => return None,
    };
    if bytes.is_empty() {
        return None;
    }
    let channel = bytes.split_to(1)[0];
    if framing.base64 {
        let channel = channel.checked_sub(b'0').filter(|channel| *channel < 10)?;
        return Some(Incoming::Data(channel, BASE64_STANDARD.decode(&bytes).ok()?.into()));
    }
    if framing.close_signal && channel == CLOSE_SIGNAL {
        return bytes.first().map(|channel| Incoming::Closed(*channel));
    }
    Some(Incoming::Data(channel, bytes))
}

async fn write(
    mut sink: SplitSink<WebSocket, Message>,
    framing: Framing,
    mut outbound: mpsc::Receiver<Out>,
) -> Result<(), Error> {
    while let Some(out) = outbound.recv().await {
        match out {
            Out::Data(channel, bytes) if framing.base64 => {
                sink.send(Message::text(format!("{channel}{}", BASE64_STANDARD.encode(&bytes)))).await?;
            }
            Out::Data(channel, bytes) => {
                let mut message = BytesMut::with_capacity(1 + bytes.len());
                message.put_u8(channel);
                message.put_slice(&bytes);
                sink.send(Message::binary(message.freeze())).await?;
            }
            Out::Finish => {
                let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
                sink.send(Message::Close(Some(frame))).await?;
                tokio::time::sleep(LINGER).await; // The reading side ends this when the client hangs up.
                return Ok(());
            }
        }
    }
    std::future::pending().await // Nobody writes any more; the client may still.
}

/// Writes to one channel.
#[derive(Debug)]
pub(crate) struct ChannelWriter {
    channel: u8,
    out: PollSender<Out>,
}

impl AsyncWrite for ChannelWriter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.out.poll_reserve(cx)).map_err(|_| broken())?;
        let length = bytes.len().min(LONGEST);
        if length > 0 {
            let out = Out::Data(self.channel, Bytes::copy_from_slice(&bytes[..length]));
            self.out.send_item(out).map_err(|_| broken())?;
        }
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.out.close();
        Poll::Ready(Ok(()))
    }
}
