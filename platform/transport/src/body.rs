use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt as _, StreamBody};

/// Any error, as HTTP libraries pass it around.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request or a response: nothing, some bytes, or a stream.
///
/// Each item of a stream is sent at once; nothing waits for a buffer to fill.
#[derive(Default)]
pub struct Body {
    kind: Kind,
    long_running: bool,
}

#[derive(Default)]
enum Kind {
    #[default]
    Empty,
    Full(Bytes),
    Stream(Pin<Box<dyn http_body::Body<Data = Bytes, Error = BoxError> + Send>>),
}

/// Why a body could not be read whole.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is larger than allowed; the client is told 413.
    #[error("read a body: larger than {limit_bytes} bytes")]
    TooLarge {
        /// The most that was allowed.
        limit_bytes: usize,
    },
    /// The sender failed or went away.
    #[error("read a body")]
    Broken(#[source] BoxError),
}

impl Body {
    /// No body.
    #[must_use]
    pub const fn empty() -> Self {
        Self { kind: Kind::Empty, long_running: false }
    }

    /// These bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let kind = if bytes.is_empty() { Kind::Empty } else { Kind::Full(bytes) };
        Self { kind, long_running: false }
    }

    /// What a stream yields, for as long as it does. An error breaks the connection or stream off.
    pub fn stream<S, E>(stream: S) -> Self
    where
        S: Stream<Item = Result<Bytes, E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        Self::new(StreamBody::new(stream.map_ok(Frame::data).map_err(Into::into)))
    }

    /// Any other body.
    pub fn new<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if body.is_end_stream() {
            return Self::empty();
        }
        Self { kind: Kind::Stream(Box::pin(body.map_err(Into::into))), long_running: false }
    }

    /// Marks a body that ends only when its client leaves, such as a watch or a followed log: when the server stops,
    /// it is ended in good order instead of being waited for.
    #[must_use]
    pub fn long_running(mut self) -> Self {
        self.long_running = true;
        self
    }

    /// Whether [`Body::long_running`] was called.
    #[must_use]
    pub fn is_long_running(&self) -> bool {
        self.long_running
    }

    /// The bytes, if they are all here already.
    #[must_use]
    pub fn as_bytes(&self) -> Option<&Bytes> {
        static EMPTY: Bytes = Bytes::new();
        match &self.kind {
            Kind::Empty => Some(&EMPTY),
            Kind::Full(bytes) => Some(bytes),
            Kind::Stream(_) => None,
        }
    }

    /// Reads the whole body.
    ///
    /// What is too large is still read to its end, within bounds: a client that is reset while it sends does not read the
    /// answer that says why.
    ///
    /// # Errors
    ///
    /// If it is larger than `limit_bytes`, or breaks off.
    pub async fn into_bytes(self, limit_bytes: usize) -> Result<Bytes, ReadError> {
        let too_large = || ReadError::TooLarge { limit_bytes };
        let mut body = match self.kind {
            Kind::Empty => return Ok(Bytes::new()),
            Kind::Full(bytes) if bytes.len() > limit_bytes => return Err(too_large()),
            Kind::Full(bytes) => return Ok(bytes),
            Kind::Stream(body) => body,
        };
        if body.size_hint().lower() > limit_bytes as u64 {
            drain(body).await;
            return Err(too_large());
        }
        let mut first = Bytes::new();
        let mut joined = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(ReadError::Broken)?.into_data() else { continue };
            if first.len() + joined.len() + data.len() > limit_bytes {
                drain(body).await;
                return Err(too_large());
            }
            if joined.is_empty() && first.is_empty() {
                first = data; // Most bodies are one piece, which needs no copy.
                continue;
            }
            if joined.is_empty() {
                joined.extend_from_slice(&std::mem::take(&mut first));
            }
            joined.extend_from_slice(&data);
        }
        Ok(if joined.is_empty() { first } else { joined.freeze() })
    }

    /// The body as a stream of bytes; trailers are left out.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, BoxError>> + Send + Unpin + 'static {
        self.into_data_stream().boxed()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        match &mut this.kind {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                this.kind = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Kind::Stream(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Full(_) => false,
            Kind::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Stream(body) => body.size_hint(),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Empty => f.write_str("Body(empty)"),
            Kind::Full(bytes) => write!(f, "Body({} bytes)", bytes.len()),
            Kind::Stream(_) => f.write_str("Body(stream)"),
        }
    }
}

/// How much of a body that nobody wants is read, and for how long.
const DRAIN_BYTES: usize = 64 << 20;
const DRAIN: Duration = Duration::from_secs(10);

/// Reads on and forgets.
async fn drain(mut body: impl http_body::Body<Data = Bytes> + Unpin) {
    let mut left = DRAIN_BYTES;
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(DRAIN, reading).await;
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::full(bytes)
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self::full(bytes)
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self::full(text)
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Self::full(text)
    }
}
