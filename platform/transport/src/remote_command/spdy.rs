use std::io;

use futures::FutureExt as _;
use http::Request;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc,
    time::timeout,
};

use crate::{
    Io,
    spdy::{Role, Session as Spdy, Stream, StreamReader, StreamWriter, accept},
    websocket::UpgradeError,
};

use super::{Options, SIZES, STREAM_CREATION, Session, SizeParser, Streams, TerminalSize};

const V4: &str = "v4.channel.k8s.io";
const V3: &str = "v3.channel.k8s.io";
const PROTOCOLS: [&str; 4] = [V4, V3, "v2.channel.k8s.io", "channel.k8s.io"];

/// The header that says what a stream is for.
const STREAM_TYPE: &str = "streamtype";

pub(super) async fn establish(head: &Request<()>, io: Io, options: Options) -> Result<Session, UpgradeError> {
    let (io, protocol) = accept(head, io, &PROTOCOLS).await?;
    let has_resize = options.tty && matches!(protocol, V4 | V3);
    let (mut session, driver) = Spdy::new(io, Role::Server);
    let mut driver = driver
        .map(|ended| {
            if let Err(error) = ended {
                tracing::debug!(%error, "SPDY session ended");
            }
        })
        .boxed();
    let opened = tokio::select! {
        opened = timeout(STREAM_CREATION, wait_for_streams(&mut session, options, has_resize)) => opened,
        () = &mut driver => return Err(io::Error::from(io::ErrorKind::ConnectionAborted).into()),
    };
    let Opened { streams, error, resize, idle } = opened
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "timed out waiting for client to create streams"))?
        .ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted))?;
    let (sizes, received) = mpsc::channel(SIZES);
    let resizing = async move {
        if let Some(resize) = resize {
            read_sizes(resize, sizes).await;
        }
    };
    let driver = async move {
        let _idle = idle; // Reading ends of streams that only we write to.
        tokio::select! {
            () = driver => {}
            () = resizing.then(|()| std::future::pending()) => {}
        }
    };
    let streams = Streams { resize: has_resize.then_some(received), ..streams };
    let finish = Box::new(move |status: Vec<u8>| {
        async move {
            let mut error = error;
            // If it breaks, the client is gone.
            let _ = error.write_all(&status).await;
            let _ = error.shutdown().await;
            session.finish().await;
        }
        .boxed()
    });
    Ok(Session { streams, has_status_objects: protocol == V4, finish, driver: driver.boxed() })
}

struct Opened {
    streams: Streams,
    error: StreamWriter,
    resize: Option<StreamReader>,
    idle: Vec<StreamReader>,
}

/// Waits until the client has opened every stream it asked for; none if it leaves first.
async fn wait_for_streams(session: &mut Spdy, options: Options, has_resize: bool) -> Option<Opened> {
    let mut streams = Streams::default();
    let (mut error, mut resize, mut idle) = (None, None, Vec::new());
    loop {
        let is_complete = error.is_some()
            && (streams.stdin.is_some() || !options.stdin)
            && (streams.stdout.is_some() || !options.stdout)
            && (streams.stderr.is_some() || !options.stderr)
            && (resize.is_some() || !has_resize);
        if is_complete {
            return Some(Opened { streams, error: error?, resize, idle });
        }
        let Stream { headers, reader, writer, id } = session.accept().await?;
        let kind = headers.get(STREAM_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        match kind {
            "error" => {
                error = Some(writer);
                idle.push(reader);
            }
            "stdin" => streams.stdin = Some(Box::pin(reader)),
            "stdout" => {
                streams.stdout = Some(Box::pin(writer));
                idle.push(reader);
            }
            "stderr" => {
                streams.stderr = Some(Box::pin(writer));
                idle.push(reader);
            }
            "resize" => resize = Some(reader),
            kind => tracing::debug!(id, kind, "unexpected stream type"),
        }
    }
}

async fn read_sizes(mut stream: StreamReader, sizes: mpsc::Sender<TerminalSize>) {
    let mut parser = SizeParser::default();
    let mut bytes = [0; 512];
    while let Ok(length @ 1..) = stream.read(&mut bytes).await {
        for size in parser.push(&bytes[..length]) {
            if sizes.send(size).await.is_err() {
                return;
            }
        }
    }
}
