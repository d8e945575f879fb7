//! The shim: one single-threaded process for each running container.
//!
//! It makes and starts the container with libcontainer (which must never run in a process with threads), then owns its streams
//! and its end: it writes the log, serves attach, forwards signals, reaps, and leaves [`ShimStatus`] on disk. It needs nobody: the
//! server may die and come back. While nothing happens it sleeps in `poll`.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::cgroup;
use crate::embedded::log::{LogWriter, Source};
use crate::embedded::protocol::{self, Answer, Event, Request, ShimConfig, ShimStatus};
use crate::embedded::reasons::Reasons;
use crate::embedded::sys;
use crate::types::TerminalSize;

/// The most an attached client may be behind before the container's output waits for it, as in containerd.
const CLIENT_BACKLOG_BYTES: usize = 256 << 10;
/// The most input taken from clients ahead of the container.
const STDIN_BACKLOG_BYTES: usize = 64 << 10;
/// How long output is still read after the end, when some other process holds the pipes.
const DRAIN: Duration = Duration::from_secs(2);
/// How long clients may take to fetch the rest.
const GOODBYE: Duration = Duration::from_secs(10);

/// Runs a shim for the container in a directory. The answer to the server (`{}` or `{"error": …}`) goes to standard output.
pub(crate) fn run(dir: &Path) -> i32 {
    sys::detach();
    let (answer, shim) = match Shim::start(dir) {
        Ok(shim) => (Answer { error: None }, Some(shim)),
        Err(error) => {
            let status = ShimStatus {
                finished_at: Some(Timestamp::now()),
                exit_code: 128,
                message: error.clone(),
                shim_pid: nix::unistd::getpid().as_raw(),
                ..ShimStatus::default()
            };
            // The server has the answer; the file only serves a new server.
            let _ = save(dir, &status);
            (Answer { error: Some(error) }, None)
        }
    };
    let told = serde_json::to_vec(&answer).map(|bytes| io::stdout().write_all(&bytes).and_then(|()| io::stdout().flush()));
    // Whoever started this may be gone already.
    drop(told);
    if let Ok(null) = fs::OpenOptions::new().write(true).open("/dev/null") {
        let _ = sys::become_standard(&null, 1);
    }
    match shim {
        Some(shim) => shim.serve(),
        None => 1,
    }
}

struct Shim {
    dir: PathBuf,
    config: ShimConfig,
    status: ShimStatus,
    exit: OwnedFd,
    oom: Option<OomWatch>,
    listener: UnixListener,
    clients: Vec<Client>,
    log: LogWriter,
    stdout: Option<Output>,
    stderr: Option<Output>,
    stdin: Option<OwnedFd>,
    stdin_queue: VecDeque<u8>,
    stdin_ends: bool,
    terminal: Option<OwnedFd>,
}

struct Output {
    fd: OwnedFd,
    source: Source,
}

enum Role {
    New,
    Watching,
    Attached { stdin: bool },
}

struct Client {
    stream: UnixStream,
    role: Role,
    input: Vec<u8>,
    output: Vec<u8>,
    gone: bool,
}

// === impl Shim ===

impl Shim {
    fn start(dir: &Path) -> Result<Self, String> {
        let text = |what: &str| {
            let what = what.to_owned();
            move |error: &dyn std::fmt::Display| format!("{what}: {error}")
        };
        let config = fs::read(dir.join(protocol::CONFIG)).map_err(|error| text("read shim configuration")(&error))?;
        let config: ShimConfig = serde_json::from_slice(&config).map_err(|error| text("parse shim configuration")(&error))?;
        // Short names: a socket's path has at most 107 bytes.
        std::env::set_current_dir(dir).map_err(|error| text("enter container directory")(&error))?;
        let _ = fs::remove_file(protocol::SOCKET);
        let listener = UnixListener::bind(protocol::SOCKET).map_err(|error| text("listen")(&error))?;
        listener.set_nonblocking(true).map_err(|error| text("listen")(&error))?;
        let log = LogWriter::open(&config.log_path, config.log_rotation)
            .map_err(|error| format!("open log {}: {error}", config.log_path.display()))?;

        let pipes = |error: io::Error| format!("make pipes: {error}");
        let mut builder = ContainerBuilder::new(config.id.clone(), SyscallType::default());
        let console = dir.join("console.sock");
        let mut console_listener = None;
        let (mut stdout, mut stderr, mut stdin) = (None, None, None);
        if config.tty {
            let _ = fs::remove_file(&console);
            console_listener = Some(UnixListener::bind("console.sock").map_err(pipes)?);
            builder = builder.with_console_socket(Some(&console));
        } else {
            let (out, write) = io::pipe().map_err(pipes)?;
            stdout = Some(Output { fd: out.into(), source: Source::Stdout });
            builder = builder.with_stdout(OwnedFd::from(write));
            let (out, write) = io::pipe().map_err(pipes)?;
            stderr = Some(Output { fd: out.into(), source: Source::Stderr });
            builder = builder.with_stderr(OwnedFd::from(write));
            if config.stdin {
                let (read, write) = io::pipe().map_err(pipes)?;
                stdin = Some(OwnedFd::from(write));
                builder = builder.with_stdin(OwnedFd::from(read));
            } else {
                let null = fs::File::open("/dev/null").map_err(pipes)?;
                builder = builder.with_stdin(OwnedFd::from(null));
            }
        }

        let reasons = Reasons::keep(&dir.join("reasons")).map_err(|error| text("make reasons")(&error))?;
        let why = |error: &_| match reasons.first() {
            Some(cause) => format!("{}: {cause}", explain(error)),
            None => explain(error),
        };
        // The container inherits how signals are handled.
        sys::default_sigpipe(true);
        let own_score = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
        let built = (|| {
            let root = dir.join("libcontainer");
            builder.with_root_path(root)?.as_init(dir).with_systemd(false).with_detach(true).build()
        })();
        sys::default_sigpipe(false);
        // libcontainer left this process where and as the container was to start.
        let _ = std::env::set_current_dir(dir);
        let _ = fs::write("/proc/self/oom_score_adj", own_score.trim());
        let mut container = built.map_err(|error| why(&error))?;
        let pid = container.pid().ok_or("libcontainer gave no process")?.as_raw();

        let mut terminal = None;
        if let Some(listener) = console_listener {
            let (stream, _) = listener.accept().map_err(|error| text("receive terminal")(&error))?;
            let (_, mut fds) = sys::receive_with_fds(&stream).map_err(|error| text("receive terminal")(&error))?;
            let master = fds.pop().ok_or("libcontainer gave no terminal")?;
            stdout = Some(Output { fd: master.try_clone().map_err(pipes)?, source: Source::Stdout });
            if config.stdin {
                stdin = Some(master.try_clone().map_err(pipes)?);
            }
            terminal = Some(master);
            let _ = fs::remove_file("console.sock");
        }
        for fd in [&stdin, &terminal].into_iter().flatten().chain([&stdout, &stderr].into_iter().flatten().map(|one| &one.fd)) {
            sys::set_nonblocking(fd).map_err(pipes)?;
        }
        let exit = sys::pidfd_open(pid).map_err(|error| text("watch container")(&error))?;
        let oom = OomWatch::new(&config.cgroup);
        container.start().map_err(|error| why(&error))?;
        let status = ShimStatus {
            pid,
            shim_pid: nix::unistd::getpid().as_raw(),
            started_at: Some(Timestamp::now()),
            ..ShimStatus::default()
        };
        save(dir, &status).map_err(|error| text("save status")(&error))?;
        Ok(Self {
            dir: dir.to_owned(),
            config,
            status,
            exit,
            oom,
            listener,
            clients: Vec::new(),
            log,
            stdout,
            stderr,
            stdin,
            stdin_queue: VecDeque::new(),
            stdin_ends: false,
            terminal,
        })
    }

    fn serve(mut self) -> i32 {
        loop {
            let ready = self.wait(PollTimeout::NONE, true);
            self.handle(&ready);
            if ready.exit && self.reap() {
                break;
            }
        }
        self.end();
        0
    }

    /// Waits until something can be done, and says what.
    fn wait(&self, timeout: PollTimeout, alive: bool) -> Ready {
        let slow = self.clients.iter().any(|client| client.output.len() > CLIENT_BACKLOG_BYTES);
        let full = self.stdin_queue.len() > STDIN_BACKLOG_BYTES;
        let mut fds: Vec<PollFd<'_>> = Vec::new();
        let mut tags: Vec<Tag> = Vec::new();
        if alive {
            fds.push(PollFd::new(self.exit.as_fd(), PollFlags::POLLIN));
            tags.push(Tag::Exit);
        }
        if let Some(oom) = &self.oom {
            fds.push(PollFd::new(oom.as_fd(), oom.flags()));
            tags.push(Tag::Oom);
        }
        fds.push(PollFd::new(self.listener.as_fd(), PollFlags::POLLIN));
        tags.push(Tag::Listener);
        if !slow {
            for (output, tag) in [(&self.stdout, Tag::Stdout), (&self.stderr, Tag::Stderr)] {
                if let Some(output) = output {
                    fds.push(PollFd::new(output.fd.as_fd(), PollFlags::POLLIN));
                    tags.push(tag);
                }
            }
        }
        if let Some(stdin) = &self.stdin
            && !self.stdin_queue.is_empty()
        {
            fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLOUT));
            tags.push(Tag::Stdin);
        }
        for (index, client) in self.clients.iter().enumerate() {
            let mut flags = PollFlags::empty();
            if !(full && matches!(client.role, Role::Attached { stdin: true })) {
                flags |= PollFlags::POLLIN;
            }
            if !client.output.is_empty() {
                flags |= PollFlags::POLLOUT;
            }
            fds.push(PollFd::new(client.stream.as_fd(), flags));
            tags.push(Tag::Client(index));
        }
        let mut ready = Ready::default();
        if poll(&mut fds, timeout).unwrap_or(0) == 0 {
            return ready;
        }
        for (fd, tag) in fds.iter().zip(tags) {
            let events = fd.revents().unwrap_or(PollFlags::empty());
            if events.is_empty() {
                continue;
            }
            match tag {
                Tag::Exit => ready.exit = true,
                Tag::Oom => ready.oom = true,
                Tag::Listener => ready.listener = true,
                Tag::Stdout => ready.stdout = true,
                Tag::Stderr => ready.stderr = true,
                Tag::Stdin => ready.stdin = true,
                Tag::Client(index) => ready.clients.push(index),
            }
        }
        ready
    }

    fn handle(&mut self, ready: &Ready) {
        if ready.oom {
            self.out_of_memory();
        }
        if ready.listener {
            while let Ok((stream, _)) = self.listener.accept() {
                if stream.set_nonblocking(true).is_ok() {
                    self.clients.push(Client { stream, role: Role::New, input: Vec::new(), output: Vec::new(), gone: false });
                }
            }
        }
        if ready.stdout {
            self.copy_output(Source::Stdout);
        }
        if ready.stderr {
            self.copy_output(Source::Stderr);
        }
        for &index in &ready.clients {
            self.client_ready(index);
        }
        self.feed_stdin();
        for client in &mut self.clients {
            client.flush();
        }
        self.clients.retain(|client| !client.gone);
        if self.clients.is_empty() {
            // An idle shim keeps no buffers.
            self.clients = Vec::new();
        }
    }

    fn out_of_memory(&mut self) {
        if let Some(oom) = &mut self.oom
            && oom.take()
        {
            self.tell_watchers(&Event::Oom);
        }
    }

    /// Reads what there is of a stream; at its end closes it.
    fn copy_output(&mut self, source: Source) {
        let slot = match source {
            Source::Stdout => &mut self.stdout,
            Source::Stderr => &mut self.stderr,
        };
        let Some(output) = slot else { return };
        let mut buffer = [0; 32 << 10];
        let count = match nix::unistd::read(&output.fd, &mut buffer) {
            Ok(count) => count,
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => return,
            // A terminal ends with EIO.
            Err(_) => 0,
        };
        let now = Timestamp::now();
        if count == 0 {
            *slot = None;
            self.log.finish(source, now);
            return;
        }
        self.log.write(output.source, &buffer[..count], now);
        let kind = if source == Source::Stdout { protocol::STDOUT } else { protocol::STDERR };
        for client in self.clients.iter_mut().filter(|client| matches!(client.role, Role::Attached { .. })) {
            protocol::frame(&mut client.output, kind, &buffer[..count]);
        }
    }

    fn client_ready(&mut self, index: usize) {
        self.clients[index].fill();
        loop {
            let frame = match protocol::take_frame(&mut self.clients[index].input) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(()) => {
                    self.clients[index].gone = true;
                    break;
                }
            };
            self.frame(index, frame.0, &frame.1);
        }
        let client = &self.clients[index];
        if client.gone && matches!(client.role, Role::Attached { stdin: true }) && self.config.stdin_once {
            self.stdin_ends = true;
        }
    }

    fn frame(&mut self, index: usize, kind: u8, bytes: &[u8]) {
        let attached = matches!(self.clients[index].role, Role::Attached { .. });
        match kind {
            protocol::REQUEST => {
                let error = match serde_json::from_slice(bytes) {
                    Ok(request) => self.request(index, &request).err(),
                    Err(error) => Some(format!("bad request: {error}")),
                };
                let answer = serde_json::to_vec(&Answer { error }).unwrap_or_default();
                let client = &mut self.clients[index];
                // Stream data may be queued behind it already, never before.
                let mut wire = Vec::new();
                protocol::frame(&mut wire, protocol::ANSWER, &answer);
                wire.append(&mut client.output);
                client.output = wire;
            }
            protocol::STDIN if matches!(self.clients[index].role, Role::Attached { stdin: true }) => {
                if self.stdin.is_some() && !self.stdin_ends {
                    self.stdin_queue.extend(bytes);
                }
            }
            protocol::STDIN_END if matches!(self.clients[index].role, Role::Attached { stdin: true }) => {
                if self.config.stdin_once {
                    self.stdin_ends = true;
                }
            }
            protocol::RESIZE if attached => {
                if let (Some(terminal), Ok(size)) = (&self.terminal, serde_json::from_slice::<TerminalSize>(bytes)) {
                    // A terminal that ends just now has no size to set.
                    let _ = sys::set_terminal_size(terminal, size.width, size.height);
                }
            }
            _ => self.clients[index].gone = true,
        }
    }

    fn request(&mut self, index: usize, request: &Request) -> Result<(), String> {
        match request {
            Request::Watch => {
                self.clients[index].role = Role::Watching;
                Ok(())
            }
            Request::Attach { stdin } => {
                self.clients[index].role = Role::Attached { stdin: *stdin && self.stdin.is_some() };
                Ok(())
            }
            Request::ReopenLog => self.log.reopen().map_err(|error| error.to_string()),
            Request::Kill { signal, all } => {
                if *all && *signal == nix::libc::SIGKILL {
                    cgroup::kill_all(&self.config.cgroup);
                }
                let signal = Signal::try_from(*signal).map_err(|_| format!("unknown signal {signal}"))?;
                // Not yet reaped, so the number is still this container's.
                kill(Pid::from_raw(self.status.pid), signal).map_err(|error| format!("send {signal}: {error}"))
            }
        }
    }

    fn feed_stdin(&mut self) {
        let Some(stdin) = &self.stdin else {
            self.stdin_queue.clear();
            return;
        };
        while !self.stdin_queue.is_empty() {
            let (front, _) = self.stdin_queue.as_slices();
            match nix::unistd::write(stdin, front) {
                Ok(count) => {
                    self.stdin_queue.drain(..count);
                }
                Err(nix::errno::Errno::EAGAIN) => return,
                Err(nix::errno::Errno::EINTR) => {}
                Err(_) => {
                    self.stdin = None;
                    self.stdin_queue.clear();
                    return;
                }
            }
        }
        if self.stdin_ends {
            // A terminal's input ends by its own control character.
            if self.config.tty {
                let _ = nix::unistd::write(stdin, &[4]);
            }
            self.stdin = None;
        }
    }

    /// Takes the container's end; false when it has not ended.
    fn reap(&mut self) -> bool {
        let (exit_code, signal) = match waitpid(Pid::from_raw(self.status.pid), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => (code, 0),
            Ok(WaitStatus::Signaled(_, signal, _)) => (128 + signal as i32, signal as i32),
            Ok(_) | Err(nix::errno::Errno::EINTR) => return false,
            Err(_) => (255, 0),
        };
        self.status.exit_code = exit_code;
        self.status.signal = signal;
        self.status.finished_at = Some(Timestamp::now());
        true
    }

    /// Says goodbye: the rest of the output, the record, the events.
    fn end(&mut self) {
        if !self.config.own_pid_namespace {
            cgroup::kill_all(&self.config.cgroup);
        }
        self.stdin = None;
        let mut waited = Duration::ZERO;
        let step = Duration::from_millis(50);
        while (self.stdout.is_some() || self.stderr.is_some()) && waited < DRAIN {
            let ready = self.wait(PollTimeout::from(step.as_millis() as u8), false);
            if !ready.stdout && !ready.stderr {
                waited += step;
            }
            self.handle(&ready);
        }
        let now = Timestamp::now();
        self.log.finish(Source::Stdout, now);
        self.log.finish(Source::Stderr, now);
        (self.stdout, self.stderr, self.terminal) = (None, None, None);
        self.status.oom_killed |= cgroup::stats(&self.config.cgroup).is_ok_and(|stats| stats.memory.oom_kills > 0);
        self.oom = None;
        if let Err(error) = save(&self.dir, &self.status) {
            // This is the shim's own log, next to the status that could not be written.
            let _ = writeln!(io::stderr(), "save status: {error}");
        }
        // The server tries again when it removes the container.
        let _ = cgroup::remove(&self.config.cgroup);
        let status = self.status.clone();
        self.tell_watchers(&Event::Exit(status));
        for client in &mut self.clients {
            client.flush();
        }
        let mut waited = Duration::ZERO;
        while self.clients.iter().any(|client| !client.gone && !client.output.is_empty()) && waited < GOODBYE {
            let ready = self.wait(PollTimeout::from(step.as_millis() as u8), false);
            if ready.clients.is_empty() {
                waited += step;
            }
            self.handle(&ready);
        }
        let _ = fs::remove_file(self.dir.join(protocol::SOCKET));
    }

    fn tell_watchers(&mut self, event: &Event) {
        let bytes = serde_json::to_vec(event).unwrap_or_default();
        for client in self.clients.iter_mut().filter(|client| matches!(client.role, Role::Watching)) {
            protocol::frame(&mut client.output, protocol::EVENT, &bytes);
        }
    }
}

// === impl Client ===

impl Client {
    /// Reads what there is.
    fn fill(&mut self) {
        let mut buffer = [0; 32 << 10];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.gone = true,
            Ok(count) => self.input.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.gone = true,
        }
    }

    /// Writes what can be written.
    fn flush(&mut self) {
        while !self.output.is_empty() && !self.gone {
            match self.stream.write(&self.output) {
                Ok(count) => {
                    self.output.drain(..count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.gone = true,
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Tag {
    Exit,
    Oom,
    Listener,
    Stdout,
    Stderr,
    Stdin,
    Client(usize),
}

#[derive(Default)]
struct Ready {
    exit: bool,
    oom: bool,
    listener: bool,
    stdout: bool,
    stderr: bool,
    stdin: bool,
    clients: Vec<usize>,
}

/// Tells when a process of a cgroup was killed for lack of memory.
enum OomWatch {
    /// cgroup v1: an event counter registered with the memory controller. The counter also moves when the cgroup goes.
    Event { counter: OwnedFd, control: PathBuf, seen: u64 },
    /// cgroup v2: the events file itself, which reports a change as a priority event.
    File { file: fs::File, seen: u64 },
}

impl OomWatch {
    /// `None` where the kernel can't tell; the count is read at the end anyway.
    fn new(path: &str) -> Option<Self> {
        let hierarchies = cgroup::Hierarchies::get();
        let dir = hierarchies.dir("memory", path)?;
        if matches!(hierarchies, cgroup::Hierarchies::V2(_)) {
            let file = fs::File::open(dir.join("memory.events")).ok()?;
            return Some(Self::File { file, seen: 0 });
        }
        let counter = sys::event_counter().ok()?;
        let control = dir.join("memory.oom_control");
        let file = fs::File::open(&control).ok()?;
        fs::write(dir.join("cgroup.event_control"), format!("{} {}", counter.as_fd().as_raw_fd(), file.as_raw_fd())).ok()?;
        Some(Self::Event { counter, control, seen: 0 })
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Event { counter, .. } => counter.as_fd(),
            Self::File { file, .. } => file.as_fd(),
        }
    }

    fn flags(&self) -> PollFlags {
        match self {
            Self::Event { .. } => PollFlags::POLLIN,
            Self::File { .. } => PollFlags::POLLPRI,
        }
    }

    /// Whether a process was killed since last time.
    fn take(&mut self) -> bool {
        let (text, seen) = match self {
            Self::Event { counter, control, seen } => {
                let _ = nix::unistd::read(&*counter, &mut [0; 8]);
                // On v1 the event comes before the kill: the limit being hit with nothing to reclaim is the event.
                let killed = oom_kills(&fs::read_to_string(&*control).unwrap_or_default());
                let news = control.exists();
                *seen = killed;
                return news;
            }
            Self::File { file, seen } => {
                use std::io::Seek;
                let mut text = String::new();
                let _ = file.rewind().and_then(|()| file.read_to_string(&mut text));
                (text, seen)
            }
        };
        let killed = oom_kills(&text);
        let news = killed > *seen;
        *seen = killed;
        news
    }
}

fn oom_kills(text: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")).and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

fn save(dir: &Path, status: &ShimStatus) -> io::Result<()> {
    let bytes = serde_json::to_vec(status)?;
    let new = dir.join("status.json.new");
    fs::write(&new, bytes)?;
    fs::rename(&new, dir.join(protocol::STATUS))
}

/// libcontainer's chain of causes, in runc's words where clients know them.
fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    format!("OCI runtime create failed: {text}")
}
