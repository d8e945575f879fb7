use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::{Buf as _, Bytes};
use http::HeaderMap;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
};
use tokio_util::sync::PollSender;

use super::{Out, frame::Frame};

/// What may be sent on a stream, and in a session, before it is acknowledged, unless the peer says otherwise.
const INITIAL_WINDOW: i64 = 64 * 1024;
/// What is read before it is acknowledged.
const CREDIT: u32 = 16 * 1024;
/// The status of a stream that is not wanted any more.
const CANCEL: u32 = 5;
/// The most bytes in one frame.
const LONGEST_WRITE: usize = 32 * 1024;

/// A stream of a session.
#[derive(Debug)]
pub struct Stream {
    /// Its number.
    pub id: u32,
    /// What it was opened with.
    pub headers: HeaderMap,
    /// What the peer sends on it.
    pub reader: StreamReader,
    /// What is sent to the peer on it.
    pub writer: StreamWriter,
}

/// What the session keeps of a stream.
#[derive(Debug)]
pub(super) struct Inbound {
    pieces: Option<mpsc::Sender<Bytes>>,
    pub(super) window: Arc<Window>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The peer has given the stream up.
    reset: AtomicBool,
    /// We have sent all we have to.
    written: AtomicBool,
}

pub(super) fn new(id: u32, headers: HeaderMap, out: mpsc::Sender<Out>, flow: Arc<Flow>, inbound: usize) -> (Stream, Inbound) {
    let (sender, pieces) = mpsc::channel(inbound);
    let window = Arc::new(Window::new(flow.initial_window()));
    let state = Arc::<State>::default();
    let out = PollSender::new(out);
    let reader =
        StreamReader { id, pieces, current: Bytes::new(), credit: 0, out: out.clone(), flow: flow.clone(), state: state.clone() };
    let writer = StreamWriter { id, out, window: window.clone(), flow, state: state.clone() };
    (Stream { id, headers, reader, writer }, Inbound { pieces: Some(sender), window, state })
}

impl Inbound {
    /// Hands a piece to the stream's reader, when it has room. If there is no reader any more, says so.
    pub(super) async fn deliver(&self, piece: Bytes) -> Result<(), ()> {
        match &self.pieces {
            Some(pieces) => pieces.send(piece).await.map_err(|_| ()),
            None => Err(()),
        }
    }

    pub(super) fn end(&mut self) {
        self.pieces = None;
    }

    pub(super) fn reset(self) {
        self.state.reset.store(true, Ordering::Release);
        self.window.wake();
    }

    pub(super) fn is_written(&self) -> bool {
        self.state.written.load(Ordering::Acquire)
    }

    pub(super) fn is_over(&self) -> bool {
        self.pieces.is_none() && self.is_written()
    }
}

/// What the peer sends on a stream.
#[derive(Debug)]
pub struct StreamReader {
    id: u32,
    pieces: mpsc::Receiver<Bytes>,
    current: Bytes,
    /// What was read and not acknowledged.
    credit: u32,
    out: PollSender<Out>,
    flow: Arc<Flow>,
    state: Arc<State>,
}

impl StreamReader {
    /// Acknowledges what was read, if the peer minds. If there is no room to say so, the task is woken when there is.
    fn acknowledge(&mut self, cx: &mut Context<'_>) {
        if self.credit > 0 && self.flow.is_on() && matches!(self.out.poll_reserve(cx), Poll::Ready(Ok(()))) {
            let _ = self.out.send_item(Out::Acknowledge { id: self.id, bytes: std::mem::take(&mut self.credit) });
        }
    }
}

impl AsyncRead for StreamReader {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.current.is_empty() {
            match this.pieces.poll_recv(cx) {
                Poll::Ready(Some(piece)) => this.current = piece,
                Poll::Ready(None) if this.state.reset.load(Ordering::Acquire) => {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    this.acknowledge(cx);
                    return Poll::Pending;
                }
            }
        }
        let length = this.current.len().min(out.remaining());
        out.put_slice(&this.current[..length]);
        this.current.advance(length);
        this.credit = this.credit.saturating_add(length as u32);
        if this.credit >= CREDIT {
            this.acknowledge(cx);
        }
        Poll::Ready(Ok(()))
    }
}

/// What is sent to the peer on a stream. Shutting it down ends this direction; dropping it does not.
#[derive(Debug)]
pub struct StreamWriter {
    id: u32,
    out: PollSender<Out>,
    window: Arc<Window>,
    flow: Arc<Flow>,
    state: Arc<State>,
}

impl StreamWriter {
    /// Whether the peer has given the stream up.
    #[must_use]
    pub fn is_reset(&self) -> bool {
        self.state.reset.load(Ordering::Acquire)
    }

    /// Gives the stream up, in both directions.
    ///
    /// # Errors
    ///
    /// If the peer has done so already, or this direction has ended.
    pub async fn reset(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_ready(cx)).await?;
        self.state.written.store(true, Ordering::Release);
        let frame = Frame::Rst { id: self.id, status: CANCEL };
        self.out.send_item(Out::Frame(frame)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.state.reset.load(Ordering::Acquire) || self.state.written.load(Ordering::Acquire) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        self.out.poll_reserve(cx).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn send(&mut self, data: Bytes, fin: bool) -> io::Result<()> {
        let frame = Frame::Data { id: self.id, fin, data };
        self.out.send_item(Out::Frame(frame)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl AsyncWrite for StreamWriter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_ready(cx))?;
        let wanted = bytes.len().min(LONGEST_WRITE);
        let granted = if wanted == 0 { 0 } else { std::task::ready!(self.flow.poll_take(&self.window, wanted, cx)) };
        self.send(Bytes::copy_from_slice(&bytes[..granted]), false)?;
        Poll::Ready(Ok(granted))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // The session writes what there is as soon as it can.
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.state.written.load(Ordering::Acquire) || self.state.reset.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        std::task::ready!(self.poll_ready(cx))?;
        self.state.written.store(true, Ordering::Release);
        Poll::Ready(self.send(Bytes::new(), true))
    }
}

/// What may still be sent.
#[derive(Debug)]
pub(super) struct Window(Mutex<WindowState>);

#[derive(Debug)]
struct WindowState {
    left: i64,
    waiting: Vec<Waker>,
}

impl Window {
    fn new(left: i64) -> Self {
        Self(Mutex::new(WindowState { left, waiting: Vec::new() }))
    }

    fn add(&self, delta: i64) {
        let mut state = self.0.lock();
        state.left = state.left.saturating_add(delta);
        state.waiting.drain(..).for_each(Waker::wake);
    }

    fn wake(&self) {
        self.add(0);
    }
}

/// A session's flow control.
#[derive(Debug)]
pub(super) struct Flow {
    /// Whether the peer does flow control, which it shows by a frame of its.
    on: AtomicBool,
    /// What a new stream's window is.
    initial: AtomicI64,
    session: Window,
}

impl Default for Flow {
    fn default() -> Self {
        Self { on: AtomicBool::new(false), initial: AtomicI64::new(INITIAL_WINDOW), session: Window::new(INITIAL_WINDOW) }
    }
}

impl Flow {
    pub(super) fn is_on(&self) -> bool {
        self.on.load(Ordering::Acquire)
    }

    fn initial_window(&self) -> i64 {
        self.initial.load(Ordering::Acquire)
    }

    /// Takes note of the peer's settings; windows that are open change with it.
    pub(super) fn settings<'a>(&self, initial: Option<u32>, windows: impl Iterator<Item = &'a Window>) {
        self.on.store(true, Ordering::Release);
        if let Some(initial) = initial {
            let initial = i64::from(initial);
            let before = self.initial.swap(initial, Ordering::AcqRel);
            windows.for_each(|window| window.add(initial - before));
        }
    }

    pub(super) fn update_session(&self, delta: u32) {
        self.on.store(true, Ordering::Release);
        self.session.add(delta.into());
    }

    pub(super) fn update(&self, window: Option<&Window>, delta: u32) {
        self.on.store(true, Ordering::Release);
        if let Some(window) = window {
            window.add(delta.into());
        }
    }

    /// Takes up to `wanted` bytes out of a stream's window and the session's, once there are any.
    fn poll_take(&self, window: &Window, wanted: usize, cx: &mut Context<'_>) -> Poll<usize> {
        let mut stream = window.0.lock(); // A stream's window is locked before the session's.
        let mut session = self.session.0.lock();
        let mut granted = wanted as i64;
        if self.is_on() {
            granted = granted.min(stream.left).min(session.left);
        }
        if granted <= 0 {
            let waiting = if stream.left <= 0 { &mut stream.waiting } else { &mut session.waiting };
            waiting.retain(|waker| !waker.will_wake(cx.waker()));
            waiting.push(cx.waker().clone());
            return Poll::Pending;
        }
        stream.left -= granted;
        session.left -= granted;
        Poll::Ready(granted as usize)
    }
}
