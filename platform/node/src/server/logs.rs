//! A container's log as a client wants it: some of it, or on and on (`pkg/kubelet/kuberuntime/logs`).
//!
//! Files are in CRI's format, `<time> <stream> <tags> <text>`; a log is `N.log` and the older parts it was rotated to:
//! upstream reads the current file alone, which hides what the node still has. New lines are told of by inotify; nothing is asked
//! twice.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use futures::Stream;
use jiff::Timestamp;
use lines::Lines;
use notify::{RecursiveMode, Watcher as _};
use pharos_runtime::types::{ContainerState, ContainerStatus};
use tokio::sync::{Notify, mpsc};

use crate::core::Core;

/// Chunks that wait for the client; more makes the reader wait.
const CHUNKS: usize = 16;
/// Lines are gathered to about so many bytes.
const CHUNK_BYTES: usize = 16 * 1024;

/// What a client wants of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Go on with new lines.
    pub(crate) follow: bool,
    /// Of the instance before this one.
    pub(crate) previous: bool,
    /// The time before each line.
    pub(crate) timestamps: bool,
    /// Only the last lines.
    pub(crate) tail: Option<usize>,
    /// Only from then on.
    pub(crate) since: Option<Timestamp>,
    /// Only so many bytes.
    pub(crate) limit: Option<usize>,
    /// Only this stream.
    pub(crate) stream: Option<&'static str>,
}

impl Options {
    /// From a query; the error is a message.
    pub(crate) fn parse(query: &BTreeMap<String, Vec<String>>, now: Timestamp) -> Result<Self, String> {
        let one =
            |name: &str| query.get(name).and_then(|values| values.first()).map(String::as_str).filter(|text| !text.is_empty());
        let flag = |name: &str| one(name).is_some_and(|text| matches!(text, "1" | "true" | "True" | "t"));
        let number = |name: &str| {
            one(name)
                .map(|text| text.parse::<i64>().map_err(|_| format!("{name}: Invalid value: {text:?}: must be an integer")))
                .transpose()
        };
        let tail = number("tailLines")?;
        if tail.is_some_and(|lines| lines < 0) {
            return Err("tailLines: Invalid value: must be greater than or equal to 0".to_owned());
        }
        let limit = number("limitBytes")?;
        if limit.is_some_and(|bytes| bytes < 1) {
            return Err("limitBytes: Invalid value: must be greater than 0".to_owned());
        }
        let seconds = number("sinceSeconds")?;
        let time =
            one("sinceTime").map(|text| text.parse::<Timestamp>().map_err(|error| format!("sinceTime: {error}"))).transpose()?;
        let since = match (seconds, time) {
            (Some(_), Some(_)) => return Err("at most one of `sinceTime` or `sinceSeconds` may be specified".to_owned()),
            (Some(seconds), None) if seconds < 1 => return Err("sinceSeconds: Invalid value: must be greater than 0".to_owned()),
            (Some(seconds), None) => Some(now - jiff::SignedDuration::from_secs(seconds)),
            (None, time) => time,
        };
        let stream = match one("stream") {
            None | Some("All") => None,
            Some("Stdout") => Some("stdout"),
            Some("Stderr") => Some("stderr"),
            Some(other) => return Err(format!("stream: Unsupported value: {other:?}")),
        };
        Ok(Self {
            follow: flag("follow"),
            previous: flag("previous"),
            timestamps: flag("timestamps"),
            tail: tail.and_then(|lines| usize::try_from(lines).ok()),
            since,
            limit: limit.and_then(|bytes| usize::try_from(bytes).ok()),
            stream,
        })
    }
}

/// The log of a container as a stream of bytes.
pub(crate) fn stream(
    core: Arc<Core>,
    container: ContainerStatus,
    options: Options,
) -> impl Stream<Item = Result<Bytes, io::Error>> {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let ctx = core.ctx.clone();
    core.ctx.clone().spawn("log", async move {
        let mut sink = Sink { sender, buffer: BytesMut::new(), left: options.limit.unwrap_or(usize::MAX), options };
        tokio::select! {
            () = ctx.stopped() => {}
            result = read(&core, &container, &mut sink) => {
                match result {
                    Ok(()) => { let _ = sink.flush().await; }
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                    Err(error) => { let _ = sink.sender.send(Err(error)).await; }
                }
            }
        }
    });
    tokio_stream_of(receiver)
}

fn tokio_stream_of<T>(receiver: mpsc::Receiver<T>) -> impl Stream<Item = T> {
    futures::stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|item| (item, receiver)) })
}

/// Where lines go.
struct Sink {
    sender: mpsc::Sender<Result<Bytes, io::Error>>,
    buffer: BytesMut,
    left: usize,
    options: Options,
}

impl Sink {
    /// Sends a line on if it is wanted; `false` when no more may come.
    async fn line(&mut self, raw: &[u8]) -> io::Result<bool> {
        let Some(line) = Line::parse(raw) else { return Ok(true) };
        if self.options.stream.is_some_and(|stream| stream.as_bytes() != line.stream) {
            return Ok(true);
        }
        if let Some(since) = self.options.since
            && std::str::from_utf8(line.time)
                .ok()
                .and_then(|text| text.parse::<Timestamp>().ok())
                .is_some_and(|time| time < since)
        {
            return Ok(true);
        }
        let mut out = Vec::with_capacity(line.text.len() + 40);
        if self.options.timestamps {
            out.extend_from_slice(line.time);
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        if !line.partial {
            out.push(b'\n');
        }
        out.truncate(self.left);
        self.left -= out.len();
        self.buffer.extend_from_slice(&out);
        if self.buffer.len() >= CHUNK_BYTES || self.left == 0 {
            self.flush().await?;
        }
        Ok(self.left > 0)
    }

    async fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = self.buffer.split().freeze();
        self.sender.send(Ok(chunk)).await.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

/// A line of a CRI log.
struct Line<'a> {
    time: &'a [u8],
    stream: &'a [u8],
    partial: bool,
    text: &'a [u8],
}

impl<'a> Line<'a> {
    fn parse(raw: &'a [u8]) -> Option<Self> {
        let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
        let mut parts = raw.splitn(4, |byte| *byte == b' ');
        let (time, stream, tags) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self { time, stream, partial: tags.first() == Some(&b'P'), text: parts.next().unwrap_or_default() })
    }
}

/// The parts of a log, oldest first: what it was rotated to, then itself.
fn parts(path: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return vec![path.to_owned()];
    };
    let mut older: Vec<PathBuf> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(|found| found.starts_with(&format!("{name}."))))
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_none_or(|extension| extension != "tmp"))
        .collect();
    // Rotated parts carry their date, which sorts.
    older.sort();
    older.push(path.to_owned());
    older
}

async fn read(core: &Core, container: &ContainerStatus, sink: &mut Sink) -> io::Result<()> {
    let path = container.log_path.clone();
    let wake = Arc::new(Notify::new());
    // Watched before the first read, so that nothing falls between.
    let _watcher = if sink.options.follow { Some(watch(&path, &wake)?) } else { None };
    let all = parts(&path);
    let mut lines = match sink.options.tail {
        Some(tail) => {
            let (keep, last) = last_lines(all, tail, sink.options.stream).await?;
            for line in keep {
                if !sink.line(&line).await? {
                    return Ok(());
                }
            }
            last
        }
        None => {
            let mut last = None;
            for part in all {
                let mut lines = match Lines::open(&part).await {
                    Ok(lines) => lines,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                };
                while let Some(line) = lines.next().await? {
                    if !sink.line(&line).await? {
                        return Ok(());
                    }
                }
                last = Some(lines);
            }
            last
        }
    };
    sink.flush().await?;
    if !sink.options.follow {
        if let Some(rest) = lines.as_mut().and_then(Lines::rest) {
            sink.line(&rest).await?;
        }
        return Ok(());
    }
    follow(core, container, &path, lines, &wake, sink).await
}

/// Goes on until the container has ended and everything it wrote is sent.
async fn follow(
    core: &Core,
    container: &ContainerStatus,
    path: &Path,
    mut lines: Option<Lines>,
    wake: &Arc<Notify>,
    sink: &mut Sink,
) -> io::Result<()> {
    let mut events = core.runtime.events().await.map_err(io::Error::other)?;
    let mut over = runs_no_more(core, &container.id).await;
    loop {
        if lines.is_none() {
            lines = Lines::open(path).await.ok();
        }
        if let Some(open) = &mut lines {
            while let Some(line) = open.next().await? {
                if !sink.line(&line).await? {
                    return Ok(());
                }
            }
            sink.flush().await?;
            if open.replaced(path).await {
                // Rotated: the old file has been read to its end, the new one begins.
                lines = None;
                continue;
            }
        }
        if over {
            return Ok(());
        }
        tokio::select! {
            () = wake.notified() => {}
            () = sink.sender.closed() => return Err(io::ErrorKind::BrokenPipe.into()),
            event = futures::StreamExt::next(&mut events) => {
                match event {
                    Some(event) if event.id != container.id && !event.id.is_empty() => {}
                    _ => over = runs_no_more(core, &container.id).await,
                }
            }
        }
    }
}

async fn runs_no_more(core: &Core, id: &str) -> bool {
    core.runtime
        .container_status(id)
        .await
        .map_or(true, |status| matches!(status.state, ContainerState::Exited | ContainerState::Unknown))
}

/// Tells of every change in the log's directory.
fn watch(path: &Path, wake: &Arc<Notify>) -> io::Result<notify::RecommendedWatcher> {
    let wake = wake.clone();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            wake.notify_one();
        }
    })
    .map_err(io::Error::other)?;
    let dir = path.parent().unwrap_or(path);
    watcher.watch(dir, RecursiveMode::NonRecursive).map_err(io::Error::other)?;
    Ok(watcher)
}

/// The last lines of a log, and the reader of its live part, at its end.
async fn last_lines(parts: Vec<PathBuf>, tail: usize, stream: Option<&'static str>) -> io::Result<(Vec<Vec<u8>>, Option<Lines>)> {
    let mut keep: std::collections::VecDeque<Vec<u8>> = std::collections::VecDeque::new();
    let mut full = 0_usize;
    let mut last = None;
    for part in parts {
        let Ok(mut lines) = Lines::open(&part).await else { continue };
        while let Some(raw) = lines.next().await? {
            let Some(line) = Line::parse(&raw) else { continue };
            if stream.is_some_and(|stream| stream.as_bytes() != line.stream) {
                continue;
            }
            full += usize::from(!line.partial);
            keep.push_back(raw);
            // Parts of a line count with its end.
            while full > tail {
                let Some(gone) = keep.pop_front() else { break };
                full -= usize::from(Line::parse(&gone).is_some_and(|line| !line.partial));
            }
        }
        last = Some(lines);
    }
    if tail == 0 {
        keep.clear();
    }
    Ok((keep.into(), last))
}

/// Whole lines out of a file that grows.
mod lines {
    use std::{io, os::unix::fs::MetadataExt as _, path::Path};

    use tokio::{fs::File, io::AsyncReadExt as _};

    /// How much is read at once.
    const READ: usize = 32 * 1024;

    /// Reads lines; a line without its end waits for it.
    pub(super) struct Lines {
        file: File,
        inode: u64,
        buffer: Vec<u8>,
        at: usize,
    }

    impl Lines {
        pub(super) async fn open(path: &Path) -> io::Result<Self> {
            let file = File::open(path).await?;
            let inode = file.metadata().await?.ino();
            Ok(Self { file, inode, buffer: Vec::new(), at: 0 })
        }

        /// The next whole line with its end; `None` at the end of what is there now.
        pub(super) async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
            let mut from = self.at;
            loop {
                if let Some(end) = self.buffer[from..].iter().position(|byte| *byte == b'\n') {
                    let line = self.buffer[self.at..=from + end].to_vec();
                    self.at = from + end + 1;
                    return Ok(Some(line));
                }
                self.buffer.drain(..self.at);
                self.at = 0;
                let before = self.buffer.len();
                self.buffer.resize(before + READ, 0);
                let read = self.file.read(&mut self.buffer[before..]).await;
                self.buffer.truncate(before + read.as_ref().copied().unwrap_or(0));
                if read? == 0 {
                    return Ok(None);
                }
                from = before;
            }
        }

        /// What is there of a line without its end.
        pub(super) fn rest(&mut self) -> Option<Vec<u8>> {
            let rest = self.buffer.split_off(self.at);
            (!rest.is_empty()).then_some(rest)
        }

        /// Whether another file stands in its place.
        pub(super) async fn replaced(&self, path: &Path) -> bool {
            tokio::fs::metadata(path).await.is_ok_and(|meta| meta.ino() != self.inode)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:01Z stderr P tw\n2026-01-01T00:00:01Z stderr F o\n2026-01-01T00:00:02Z stdout F three\n";

    async fn check(query: &[(&str, &str)], expect: &str) {
        let dir = std::env::temp_dir().join(format!("pharos-logs-{}-{}", std::process::id(), rand::random::<u32>()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("0.log");
        let (old, new) = LOG.split_at(34);
        std::fs::write(dir.join("0.log.20260101-000000"), old).unwrap();
        std::fs::write(&path, new).unwrap();
        let query = query.iter().map(|(name, value)| ((*name).to_owned(), vec![(*value).to_owned()])).collect();
        let options = Options::parse(&query, Timestamp::UNIX_EPOCH).unwrap();
        let (sender, mut receiver) = mpsc::channel(CHUNKS);
        let mut sink = Sink { sender, buffer: BytesMut::new(), left: options.limit.unwrap_or(usize::MAX), options };
        let lines = match sink.options.tail {
            Some(tail) => last_lines(parts(&path), tail, sink.options.stream).await.unwrap().0,
            None => last_lines(parts(&path), usize::MAX, None).await.unwrap().0,
        };
        for line in lines {
            if !sink.line(&line).await.unwrap() {
                break;
            }
        }
        sink.flush().await.unwrap();
        drop(sink);
        let mut text = Vec::new();
        while let Some(chunk) = receiver.recv().await {
            text.extend_from_slice(&chunk.unwrap());
        }
        assert_eq!(String::from_utf8(text).unwrap(), expect, "{query:?}");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[tokio::test]
    async fn selections() {
        check(&[], "one\ntwo\nthree\n").await;
        check(&[("tailLines", "1")], "three\n").await;
        check(&[("tailLines", "2")], "two\nthree\n").await;
        check(&[("tailLines", "0")], "").await;
        check(&[("tailLines", "1"), ("timestamps", "true")], "2026-01-01T00:00:02Z three\n").await;
        check(&[("sinceTime", "2026-01-01T00:00:01Z")], "two\nthree\n").await;
        check(&[("limitBytes", "5")], "one\nt").await;
        check(&[("stream", "Stderr"), ("tailLines", "5")], "two\n").await;
    }

    #[test]
    fn bad_queries() {
        for (name, value) in
            [("tailLines", "-1"), ("tailLines", "x"), ("limitBytes", "0"), ("sinceSeconds", "0"), ("stream", "Odd")]
        {
            let query = [(name.to_owned(), vec![value.to_owned()])].into();
            assert!(Options::parse(&query, Timestamp::UNIX_EPOCH).is_err(), "{name}={value}");
        }
    }
}
