use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use http::Request;
use tokio::sync::{Mutex, mpsc};
use tokio_util::io::StreamReader;

use crate::{
    Io,
    websocket::{Channels, Framing, Incoming, UpgradeError, accept},
};

use super::{Options, SIZES, Session, SizeParser, Streams, TerminalSize};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

const V5: &str = "v5.channel.k8s.io";
const V4: &str = "v4.channel.k8s.io";
const V4_BASE64: &str = "v4.base64.channel.k8s.io";
const BASE64: &str = "base64.channel.k8s.io";
const PROTOCOLS: [&str; 6] = [V5, V4, V4_BASE64, "channel.k8s.io", BASE64, ""];

/// Pieces of input that wait for the command; then the connection is not read.
const INPUT: usize = 16;

pub(super) async fn establish(head: &Request<()>, io: Io, options: Options) -> Result<Session, UpgradeError> {
    let (socket, protocol) = accept(head, io, &PROTOCOLS).await?;
    let framing = Framing { base64: matches!(protocol, BASE64 | V4_BASE64), close_signal: protocol == V5 };
    let (input, stdin) = mpsc::channel(INPUT);
    let (sizes, resize) = mpsc::channel(SIZES);
    let inputs = Arc::new(Mutex::new(Inputs {
        stdin: options.stdin.then_some(input),
        sizes: options.tty.then_some(sizes),
        parser: SizeParser::default(),
    }));
    let (channels, driver) = Channels::new(socket, framing, move |incoming| {
        let inputs = inputs.clone();
        async move { inputs.lock().await.take(incoming).await }
    });
    // As upstream: an empty message on the lowest channel tells the client that all is set up.
    let first = match options {
        Options { stdout: true, .. } => STDOUT,
        Options { stderr: true, .. } => STDERR,
        _ => ERROR,
    };
    channels.send(first, Bytes::new()).await;
    let stdin = futures::stream::unfold(stdin, |mut stdin: mpsc::Receiver<Bytes>| async move {
        stdin.recv().await.map(|piece| (Ok::<_, std::io::Error>(piece), stdin))
    });
    let streams = Streams {
        stdin: options.stdin.then(|| Box::pin(StreamReader::new(stdin)) as _),
        stdout: options.stdout.then(|| Box::pin(channels.writer(STDOUT)) as _),
        stderr: options.stderr.then(|| Box::pin(channels.writer(STDERR)) as _),
        resize: options.tty.then_some(resize),
    };
    let finish = Box::new(move |status: Vec<u8>| {
        async move {
            if !status.is_empty() {
                channels.send(ERROR, status.into()).await;
            }
            channels.finish().await;
        }
        .boxed()
    });
    let has_status_objects = matches!(protocol, V5 | V4 | V4_BASE64);
    Ok(Session { streams, has_status_objects, finish, driver: driver.boxed() })
}

/// Where what comes in goes.
struct Inputs {
    stdin: Option<mpsc::Sender<Bytes>>,
    sizes: Option<mpsc::Sender<TerminalSize>>,
    parser: SizeParser,
}

impl Inputs {
    async fn take(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Data(STDIN, piece) if !piece.is_empty() => {
                if let Some(stdin) = &self.stdin {
                    let _ = stdin.send(piece).await; // Nobody reads it any more.
                }
            }
            Incoming::Closed(STDIN) => self.stdin = None,
            Incoming::Data(RESIZE, piece) => {
                for size in self.parser.push(&piece) {
                    if let Some(sizes) = &self.sizes {
                        let _ = sizes.send(size).await;
                    }
                }
            }
            Incoming::Data(..) | Incoming::Closed(_) => {}
        }
    }
}
