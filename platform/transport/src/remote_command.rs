//! Exec and attach: one set of streams, whichever transport the client chose.
//!
//! Follows the kubelet's `pkg/kubelet/cri/streaming/remotecommand` (1.32): SPDY/3.1 with `v4.channel.k8s.io` and its elders, and WebSocket
//! with `v5.channel.k8s.io` and its elders, also in base64. The command's result is sent as a `Status` on the error stream, all
//! streams are ended, and then the connection is closed.

mod spdy; // Over SPDY,
mod status; // how it ended,
mod websocket; // and over WebSocket.

use std::{future::Future, pin::Pin, time::Duration};

use bytes::{Buf as _, BytesMut};
use futures::future::BoxFuture;
use http::Request;
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};

use crate::{Io, websocket::UpgradeError};

pub use status::ExitOutcome;

/// How long a client has to open the streams it asked for.
const STREAM_CREATION: Duration = Duration::from_secs(30);
/// How long the end of a session may take.
const GOODBYE: Duration = Duration::from_secs(10);
/// Terminal sizes that wait to be applied; older ones matter little, so the client waits.
const SIZES: usize = 4;

/// Which streams the client asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// It sends input.
    pub stdin: bool,
    /// It reads output.
    pub stdout: bool,
    /// It reads error output; never with a terminal, which has one output.
    pub stderr: bool,
    /// It is a terminal.
    pub tty: bool,
}

/// What the client sends.
pub type Input = Pin<Box<dyn AsyncRead + Send>>;
/// What is sent to the client.
pub type Output = Pin<Box<dyn AsyncWrite + Send>>;

/// The streams of a command. Those that were not asked for are not there.
#[derive(Default)]
pub struct Streams {
    /// The client's input; it ends when the client closes it or leaves.
    pub stdin: Option<Input>,
    /// The command's output.
    pub stdout: Option<Output>,
    /// The command's error output.
    pub stderr: Option<Output>,
    /// The sizes the client's terminal takes on; only with a terminal.
    pub resize: Option<mpsc::Receiver<TerminalSize>>,
}

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// Serves one exec or attach: makes the handshake the request asks for, runs `run` with the streams, reports its outcome.
///
/// `run` must have written all output when it returns. It is dropped where it stands when the client leaves.
///
/// # Errors
///
/// If the upgrade is refused, of which the client has been told, or the connection breaks before the streams are there.
pub async fn serve_exec<F, Fut>(head: Request<()>, io: Io, options: Options, run: F) -> Result<(), UpgradeError>
where
    F: FnOnce(Streams) -> Fut + Send,
    Fut: Future<Output = ExitOutcome> + Send,
{
    let options = Options { stderr: options.stderr && !options.tty, ..options };
    let session = if crate::websocket::is_requested(head.headers()) {
        websocket::establish(&head, io, options).await?
    } else {
        spdy::establish(&head, io, options).await?
    };
    let Session { streams, has_status_objects, finish, mut driver } = session;
    let outcome = tokio::select! {
        outcome = run(streams) => outcome,
        () = &mut driver => return Ok(()), // The client left.
    };
    let goodbye = async {
        tokio::select! {
            () = async {
                finish(outcome.on_the_wire(has_status_objects)).await;
                std::future::pending::<()>().await
            } => {}
            () = &mut driver => {}
        }
    };
    let _ = tokio::time::timeout(GOODBYE, goodbye).await; // A client that does not hang up is hung up on.
    Ok(())
}

/// A connection with its streams open.
struct Session {
    streams: Streams,
    /// Whether the protocol has a `Status` on the error stream (v4 and later), or text.
    has_status_objects: bool,
    /// Sends this on the error stream and says goodbye.
    finish: Finish,
    /// Moves the bytes; ends when the connection does.
    driver: BoxFuture<'static, ()>,
}

type Finish = Box<dyn FnOnce(Vec<u8>) -> BoxFuture<'static, ()> + Send>;

/// Reads terminal sizes out of JSON objects that follow each other, cut anywhere.
#[derive(Default)]
struct SizeParser {
    text: BytesMut,
}

impl SizeParser {
    /// The longest text without a whole object.
    const LONGEST: usize = 4096;

    fn push(&mut self, bytes: &[u8]) -> Vec<TerminalSize> {
        self.text.extend_from_slice(bytes);
        let mut sizes = Vec::new();
        let mut objects = serde_json::Deserializer::from_slice(&self.text).into_iter();
        let mut failed = false;
        loop {
            match objects.next() {
                Some(Ok(size)) => sizes.push(size),
                Some(Err(error)) => {
                    failed = !error.is_eof();
                    break;
                }
                None => break,
            }
        }
        let used = objects.byte_offset();
        self.text.advance(used);
        if failed || self.text.len() > Self::LONGEST {
            self.text.clear(); // Not sizes; the next message may be.
        }
        sizes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pieces: &[&str], expected: &[(u16, u16)]) {
        let mut parser = SizeParser::default();
        let sizes: Vec<_> = pieces.iter().flat_map(|piece| parser.push(piece.as_bytes())).collect();
        assert_eq!(sizes.iter().map(|size| (size.width, size.height)).collect::<Vec<_>>(), expected, "{pieces:?}");
    }

    #[test]
    fn sizes_are_read_however_they_are_cut() {
        check(&["{\"Width\":80,\"Height\":24}\n"], &[(80, 24)]);
        check(&["{\"Width\":80,", "\"Height\":24}", "{\"Width\":1,\"Height\":2}{\"Wid"], &[(80, 24), (1, 2)]);
        check(&["{\"Width\":-1}", "nonsense", "{\"Width\":3,\"Height\":4}"], &[(3, 4)]);
        check(&["[", &"[".repeat(5000), "{\"Width\":3,\"Height\":4}"], &[(3, 4)]);
    }

    #[test]
    fn outcomes_are_told_as_upstream_tells_them() {
        let check = |outcome: ExitOutcome, has_status_objects, expected: &str| {
            let bytes = outcome.on_the_wire(has_status_objects);
            assert_eq!(String::from_utf8(bytes).unwrap(), expected);
        };
        check(ExitOutcome::Success, true, r#"{"metadata":{},"status":"Success"}"#);
        check(ExitOutcome::Success, false, "");
        check(ExitOutcome::ExitCode(3), false, "command terminated with non-zero exit code: exit status 3");
        let failure: serde_json::Value = serde_json::from_slice(&ExitOutcome::ExitCode(3).on_the_wire(true)).unwrap();
        assert_eq!(failure["reason"], "NonZeroExitCode");
        assert_eq!(failure["details"]["causes"][0], serde_json::json!({"reason": "ExitCode", "message": "3"}));
    }
}
