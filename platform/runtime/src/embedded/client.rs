//! The server's side of shims and helper processes.

use std::io::{self, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

use crate::embedded::exec::{ExecJob, ExecReport};
use crate::embedded::protocol::{self, Answer, Request};
use crate::embedded::sys;
use crate::error::{Context, Error, Result};
use crate::types::Streams;

/// How long a helper process may take to answer.
pub(crate) const HELPER_DEADLINE: Duration = Duration::from_secs(60);
/// How long a shim may take to answer a request.
const SHIM_DEADLINE: Duration = Duration::from_secs(10);
/// How long output is still read after a command's end when another process holds its streams.
const DRAIN: Duration = Duration::from_secs(2);

/// A command line of this binary (or another with [`crate::shim_main`]) as a helper.
pub(crate) fn helper(program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().current_dir("/");
    // Helpers have one thread and few allocations: libcontainer forks, which a second thread would make unsafe.
    for name in ["_RJEM_MALLOC_CONF", "MALLOC_CONF"] {
        command.env(name, "background_thread:false,narenas:1,tcache:false,dirty_decay_ms:0,muzzy_decay_ms:0");
    }
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

/// Starts a helper and reads the answer it writes before it goes on or ends.
pub(crate) async fn ask<T: for<'de> serde::Deserialize<'de>>(mut command: Command, what: &'static str) -> Result<(T, Child)> {
    let mut child = command.spawn().context(|| format!("start {what}"))?;
    let mut stdout = child.stdout.take().ok_or_else(|| Error::internal(format!("start {what}"), "no output"))?;
    let mut bytes = Vec::new();
    let read = timeout(HELPER_DEADLINE, async {
        let mut buffer = [0; 4096];
        loop {
            let count = stdout.read(&mut buffer).await?;
            bytes.extend_from_slice(&buffer[..count]);
            if let Ok(answer) = serde_json::from_slice(&bytes) {
                return Ok(answer);
            }
            if count == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended without an answer"));
            }
        }
    });
    match read.await {
        Ok(answer) => Ok((answer.context(|| format!("start {what}"))?, child)),
        Err(_) => {
            // It has done nothing useful yet.
            let _ = child.start_kill();
            Err(Error::DeadlineExceeded { operation: what, timeout: HELPER_DEADLINE })
        }
    }
}

/// A connection to a shim.
#[derive(Debug)]
pub(crate) struct ShimClient {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl ShimClient {
    /// Connects to the shim of a container's directory and makes a request.
    pub(crate) async fn request(dir: &Path, request: &Request) -> Result<Self> {
        let connecting = || format!("reach the shim in {}", dir.display());
        let talk = async {
            // A socket's path has at most 107 bytes, a directory's may be longer.
            let handle = std::fs::File::open(dir)?;
            let stream = UnixStream::connect(format!("/proc/self/fd/{}/{}", handle.as_raw_fd(), protocol::SOCKET)).await?;
            let mut client = Self { stream, buffer: Vec::new() };
            client.send(protocol::REQUEST, &serde_json::to_vec(request)?).await?;
            match client.receive().await? {
                Some((protocol::ANSWER, bytes)) => Ok((serde_json::from_slice::<Answer>(&bytes)?, client)),
                _ => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            }
        };
        let (answer, client) = timeout(SHIM_DEADLINE, talk)
            .await
            .map_err(|_| Error::DeadlineExceeded { operation: "shim request", timeout: SHIM_DEADLINE })?
            .map_err(|error| Error::unavailable(connecting(), error))?;
        match answer.error {
            None => Ok(client),
            Some(error) => Err(Error::internal(connecting(), error)),
        }
    }

    pub(crate) async fn send(&mut self, kind: u8, bytes: &[u8]) -> io::Result<()> {
        let mut wire = Vec::with_capacity(bytes.len() + 5);
        protocol::frame(&mut wire, kind, bytes);
        self.stream.write_all(&wire).await
    }

    /// The next frame; `None` at the end. Cancel-safe: what was read stays in the buffer.
    pub(crate) async fn receive(&mut self) -> io::Result<Option<(u8, Vec<u8>)>> {
        loop {
            match protocol::take_frame(&mut self.buffer) {
                Ok(Some(frame)) => return Ok(Some(frame)),
                Ok(None) => {}
                Err(()) => return Err(io::Error::from(io::ErrorKind::InvalidData)),
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Carries streams until the container ends or the caller's outputs are gone.
    pub(crate) async fn attach(mut self, streams: Streams, tty: bool) -> Result<()> {
        let Streams { mut stdin, mut stdout, mut stderr, mut resize } = streams;
        let mut input = vec![0; 32 << 10];
        let failed = |error| Error::unavailable("carry attached streams", error);
        loop {
            tokio::select! {
                frame = self.receive() => match frame {
                    Ok(Some((kind, bytes))) => {
                        let target = if kind == protocol::STDERR && !tty { &mut stderr } else { &mut stdout };
                        if let Some(writer) = target
                            && (writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err())
                        {
                            *target = None;
                            if stdout.is_none() && stderr.is_none() {
                                break;
                            }
                        }
                    }
                    Ok(None) => break,
                    Err(error) => return Err(failed(error)),
                },
                count = read_some(&mut stdin, &mut input) => match count {
                    Ok(count) if count > 0 => self.send(protocol::STDIN, &input[..count]).await.map_err(failed)?,
                    // An end, or the client's going: the shim decides what that means.
                    _ => {
                        stdin = None;
                        self.send(protocol::STDIN_END, &[]).await.map_err(failed)?;
                    }
                },
                Some(size) = next_size(&mut resize) => {
                    let bytes = serde_json::to_vec(&size).context(|| "encode terminal size")?;
                    self.send(protocol::RESIZE, &bytes).await.map_err(failed)?;
                }
            }
        }
        for writer in [&mut stdout, &mut stderr].into_iter().flatten() {
            // The client may have gone first.
            let _ = writer.shutdown().await;
        }
        Ok(())
    }
}

async fn read_some(reader: &mut Option<Box<dyn AsyncRead + Send + Unpin>>, buffer: &mut [u8]) -> io::Result<usize> {
    match reader {
        Some(reader) => reader.read(buffer).await,
        None => std::future::pending().await,
    }
}

async fn next_size(
    sizes: &mut Option<tokio::sync::mpsc::Receiver<crate::types::TerminalSize>>,
) -> Option<crate::types::TerminalSize> {
    match sizes {
        Some(receiver) => match receiver.recv().await {
            Some(size) => Some(size),
            None => {
                *sizes = None;
                std::future::pending().await
            }
        },
        None => std::future::pending().await,
    }
}

/// One end of the message socket between server and exec helper.
struct MessageSocket(AsyncFd<OwnedFd>);

impl MessageSocket {
    async fn receive(&self) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        self.0.async_io(tokio::io::Interest::READABLE, sys::receive_with_fds).await
    }
}

/// A terminal's master end, read and written without blocking.
struct Terminal(AsyncFd<OwnedFd>);

impl AsyncRead for Terminal {
    fn poll_read(self: Pin<&mut Self>, context: &mut TaskContext<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            let space = buffer.initialize_unfilled();
            match guard.try_io(|fd| Ok(nix::unistd::read(fd.get_ref(), space)?)) {
                Ok(Ok(count)) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                // The other end is closed everywhere.
                Ok(Err(error)) if error.raw_os_error() == Some(nix::libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(self: Pin<&mut Self>, context: &mut TaskContext<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(context))?;
            if let Ok(result) = guard.try_io(|fd| Ok(nix::unistd::write(fd.get_ref(), bytes)?)) {
                return Poll::Ready(result);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Runs a command in a container through a helper process. Dropping the future kills the command.
pub(crate) async fn exec(program: &Path, job: ExecJob, streams: Streams) -> Result<i32> {
    let tty = job.tty;
    let preparing = || "prepare exec";
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).context(preparing)?;
    sys::set_nonblocking(&ours).context(preparing)?;
    let mut command = helper(program, &[crate::embedded::EXEC_COMMAND]);
    command.stdin(Stdio::from(theirs)).stdout(Stdio::null()).kill_on_drop(false);
    let mut child = command.spawn().context(|| "start exec helper")?;
    // The helper's end is the command's: dropped with `command`, or this end would never see it close.
    drop(command);

    let mut file = std::fs::File::from(memfd_create("exec", MFdFlags::MFD_CLOEXEC).context(preparing)?);
    file.write_all(&serde_json::to_vec(&job).context(preparing)?).and_then(|()| file.rewind()).context(preparing)?;
    let mut pipes = Pipes::default();
    let mut fds: Vec<OwnedFd> = vec![file.into()];
    if !tty {
        pipes.add(&streams, &mut fds).context(preparing)?;
    }
    let numbers: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    sys::send_with_fds(&ours, b"job", &numbers).context(|| "send job to exec helper")?;
    drop(fds);
    let socket = MessageSocket(sys::watch_fd(ours).context(preparing)?);

    let failed = |error: io::Error| Error::internal("hear from exec helper", error);
    let (bytes, mut fds) = timeout(HELPER_DEADLINE, socket.receive())
        .await
        .map_err(|_| Error::DeadlineExceeded { operation: "exec", timeout: HELPER_DEADLINE })?
        .map_err(failed)?;
    match serde_json::from_slice(&bytes).context(|| "hear from exec helper")? {
        ExecReport::Started { .. } => {}
        ExecReport::Exited { code } => return Ok(code),
        ExecReport::Failed { error } => {
            let _ = child.wait().await;
            return Err(Error::InvalidArgument(format!(
                "OCI runtime exec failed: exec failed: unable to start container process: {error}"
            )));
        }
    }
    let terminal = match fds.pop() {
        Some(fd) if tty => {
            sys::set_nonblocking(&fd).context(preparing)?;
            Some(fd)
        }
        _ => None,
    };
    let code = async {
        let (bytes, _) = socket.receive().await.map_err(failed)?;
        let code = match serde_json::from_slice(&bytes) {
            Ok(ExecReport::Exited { code }) => code,
            Ok(ExecReport::Failed { error }) => return Err(Error::internal("exec", error)),
            _ => return Err(Error::internal("exec", "the helper died")),
        };
        let _ = child.wait().await;
        Ok(code)
    };
    match terminal {
        Some(terminal) => carry_terminal(terminal, streams, code).await,
        None => pipes.carry(streams, code).await,
    }
}

#[derive(Default)]
struct Pipes {
    stdin: Option<pipe::Sender>,
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
}

impl Pipes {
    fn add(&mut self, streams: &Streams, fds: &mut Vec<OwnedFd>) -> io::Result<()> {
        let null = || std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").map(OwnedFd::from);
        let nonblocking = |fd: OwnedFd| sys::set_nonblocking(&fd).map(|()| fd);
        if streams.stdin.is_some() {
            let (read, write) = io::pipe()?;
            self.stdin = Some(pipe::Sender::from_owned_fd(nonblocking(write.into())?)?);
            fds.push(read.into());
        } else {
            fds.push(null()?);
        }
        for (wanted, slot) in [(streams.stdout.is_some(), &mut self.stdout), (streams.stderr.is_some(), &mut self.stderr)] {
            if wanted {
                let (read, write) = io::pipe()?;
                *slot = Some(pipe::Receiver::from_owned_fd(nonblocking(read.into())?)?);
                fds.push(write.into());
            } else {
                fds.push(null()?);
            }
        }
        Ok(())
    }

    async fn carry(self, streams: Streams, code: impl Future<Output = Result<i32>>) -> Result<i32> {
        let Streams { stdin, stdout, stderr, .. } = streams;
        let activity = Activity::default();
        let input = async {
            if let (Some(mut reader), Some(mut writer)) = (stdin, self.stdin) {
                // The command may close its input at any time.
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            }
            // Dropping the writer is the command's end of input. The future itself goes on so that `select` does not end.
            std::future::pending::<()>().await
        };
        let output = async {
            tokio::join!(copy_out(self.stdout, stdout, &activity), copy_out(self.stderr, stderr, &activity));
        };
        finish(code, input, output, &activity).await
    }
}

async fn carry_terminal(terminal: OwnedFd, streams: Streams, code: impl Future<Output = Result<i32>>) -> Result<i32> {
    let Streams { stdin, stdout, stderr: _, mut resize } = streams;
    let sizes = terminal.try_clone().context(|| "share terminal")?;
    let (mut reader, mut writer) = tokio::io::split(Terminal(sys::watch_fd(terminal).context(|| "watch terminal")?));
    let activity = Activity::default();
    let input = async {
        let copy = async {
            if let Some(mut stdin) = stdin {
                let ended = tokio::io::copy(&mut stdin, &mut writer).await.is_ok();
                if ended {
                    // A terminal's end of input is a character.
                    let _ = writer.write_all(&[4]).await;
                }
            }
            std::future::pending::<()>().await
        };
        let resizing = async {
            while let Some(size) = next_size(&mut resize).await {
                // The command may just have ended.
                let _ = sys::set_terminal_size(&sizes, size.width, size.height);
            }
        };
        tokio::join!(copy, resizing);
    };
    let output = async {
        copy_out(Some(&mut reader), stdout, &activity).await;
    };
    finish(code, input, output, &activity).await
}

/// When output last came.
struct Activity(parking_lot::Mutex<Instant>);

impl Default for Activity {
    fn default() -> Self {
        Self(parking_lot::Mutex::new(Instant::now()))
    }
}

async fn copy_out(
    reader: Option<impl AsyncRead + Unpin>,
    writer: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    activity: &Activity,
) {
    let (Some(mut reader), Some(mut writer)) = (reader, writer) else { return };
    let mut buffer = vec![0; 32 << 10];
    let mut open = true;
    while let Ok(count) = reader.read(&mut buffer).await {
        if count == 0 {
            break;
        }
        *activity.0.lock() = Instant::now();
        // With the client gone the command's output is read and dropped, or it would never end.
        open = open && writer.write_all(&buffer[..count]).await.is_ok() && writer.flush().await.is_ok();
    }
    let _ = writer.shutdown().await;
}

/// Waits for the command and then for its output, as long as some comes.
async fn finish(
    code: impl Future<Output = Result<i32>>,
    input: impl Future<Output = ()>,
    output: impl Future<Output = ()>,
    activity: &Activity,
) -> Result<i32> {
    tokio::pin!(code, input, output);
    let mut drained = false;
    let mut ended = None;
    loop {
        let quiet = async {
            loop {
                let until = *activity.0.lock() + DRAIN;
                if Instant::now() >= until {
                    return;
                }
                tokio::time::sleep_until(until).await;
            }
        };
        tokio::select! {
            result = &mut code, if ended.is_none() => {
                *activity.0.lock() = Instant::now();
                ended = Some(result?);
            }
            () = &mut output, if !drained => drained = true,
            () = &mut input => {}
            () = quiet, if ended.is_some() => drained = true,
        }
        if let (Some(code), true) = (ended, drained) {
            return Ok(code);
        }
    }
}

/// A container's directory.
pub(crate) fn container_dir(state: &Path, id: &str) -> PathBuf {
    state.join("containers").join(id)
}
