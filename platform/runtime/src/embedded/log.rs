//! The CRI log format: `2006-01-02T15:04:05.999999999Z stdout F line`, one file a container, rotated by its writer.
//!
//! A line longer than [`LINE_LIMIT`] is written in parts tagged `P`, the last one `F`. A rotated file is named
//! `<file>.<YYYYMMDD-HHMMSS>`, as kubelet's container log manager names it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::types::LogRotation;

/// Longest piece of a line, as in containerd.
const LINE_LIMIT: usize = 16 << 10;

/// Where output came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Stdout,
    Stderr,
}

impl Source {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Writes one container's log.
#[derive(Debug)]
pub(crate) struct LogWriter {
    path: PathBuf,
    rotation: LogRotation,
    file: Option<File>,
    size: u64,
    // Unfinished lines of stdout and stderr, each below LINE_LIMIT.
    pending: [Vec<u8>; 2],
    out: Vec<u8>,
}

impl LogWriter {
    /// Opens the log; an empty path means none.
    pub(crate) fn open(path: &Path, rotation: LogRotation) -> io::Result<Self> {
        let mut writer =
            Self { path: path.to_owned(), rotation, file: None, size: 0, pending: [Vec::new(), Vec::new()], out: Vec::new() };
        writer.reopen()?;
        Ok(writer)
    }

    /// Opens the file anew, after it was moved away.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        if self.path.as_os_str().is_empty() {
            return Ok(());
        }
        if let Some(parent) = self.path.parent() {
            fs::create_dir_all(parent)?;
        }
        let file = OpenOptions::new().create(true).append(true).mode(0o640).open(&self.path)?;
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Takes output as it comes. Errors of the disk lose lines, never block the container.
    pub(crate) fn write(&mut self, source: Source, mut bytes: &[u8], now: Timestamp) {
        if self.file.is_none() {
            return;
        }
        let mut pending = std::mem::take(&mut self.pending[source as usize]);
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end);
            self.pieces(source, &mut pending, line, now);
            self.entry(source, 'F', &pending, now);
            pending.clear();
            bytes = &rest[1..];
        }
        self.pieces(source, &mut pending, bytes, now);
        self.pending[source as usize] = pending;
        self.flush();
    }

    /// Writes one line, or a part of one, that is known as such.
    pub(crate) fn line(&mut self, source: Source, tag: char, line: &[u8], at: Timestamp) {
        if self.file.is_some() {
            self.entry(source, tag, line, at);
            self.flush();
        }
    }

    /// Ends a stream. What is left of its last line had no end, so it is a part of one, as containerd has it.
    pub(crate) fn finish(&mut self, source: Source, now: Timestamp) {
        let pending = std::mem::take(&mut self.pending[source as usize]);
        if !pending.is_empty() && self.file.is_some() {
            self.entry(source, 'P', &pending, now);
            self.flush();
        }
    }

    /// Adds to an unfinished line, writing out full pieces.
    fn pieces(&mut self, source: Source, pending: &mut Vec<u8>, mut bytes: &[u8], now: Timestamp) {
        while pending.len() + bytes.len() > LINE_LIMIT {
            let (piece, rest) = bytes.split_at(LINE_LIMIT - pending.len());
            pending.extend_from_slice(piece);
            self.entry(source, 'P', pending, now);
            pending.clear();
            bytes = rest;
        }
        pending.extend_from_slice(bytes);
    }

    fn entry(&mut self, source: Source, tag: char, line: &[u8], now: Timestamp) {
        // Writing into memory can't fail.
        let _ = write!(self.out, "{now:.9} {} {tag} ", source.name());
        self.out.extend_from_slice(line);
        self.out.push(b'\n');
        if self.rotation.max_size_bytes > 0 && self.size + self.out.len() as u64 >= self.rotation.max_size_bytes {
            self.flush();
            self.rotate(now);
        } else if self.out.len() >= 256 << 10 {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if let Some(file) = &mut self.file
            && file.write_all(&self.out).is_ok()
        {
            self.size += self.out.len() as u64;
        }
        self.out.clear();
    }

    fn rotate(&mut self, now: Timestamp) {
        let base = format!("{}.{}", self.path.display(), now.strftime("%Y%m%d-%H%M%S"));
        // Several in one second are numbered on, even when the first are gone, so that names sort by age.
        let last = rotated(&self.path).pop().map(|path| path.display().to_string()).unwrap_or_default();
        let name = match last.strip_prefix(&base) {
            Some(rest) => format!("{base}.{:03}", rest.trim_start_matches('.').parse::<u32>().unwrap_or(0) + 1),
            None => base,
        };
        // When the file can't be moved it grows on; the next line tries again.
        if fs::rename(&self.path, &name).is_err() || self.reopen().is_err() {
            return;
        }
        let mut old = rotated(&self.path);
        let keep = self.rotation.max_files.max(2) as usize - 1;
        while old.len() > keep {
            let _ = fs::remove_file(old.remove(0));
        }
    }
}

/// Rotated files of a log, oldest first.
fn rotated(path: &Path) -> Vec<PathBuf> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Vec::new() };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut files: Vec<PathBuf> = fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(inputs: &[(Source, &[u8])], expect: &str) {
        let dir = std::env::temp_dir().join(format!("pharos-log-{}", uuid::Uuid::new_v4()));
        let path = dir.join("0.log");
        let mut writer = LogWriter::open(&path, LogRotation::default()).unwrap();
        let now = Timestamp::UNIX_EPOCH;
        for (source, bytes) in inputs {
            writer.write(*source, bytes, now);
        }
        writer.finish(Source::Stdout, now);
        writer.finish(Source::Stderr, now);
        let text = fs::read_to_string(&path).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(text.replace("1970-01-01T00:00:00.000000000Z ", ""), expect);
    }

    #[test]
    fn lines_are_tagged() {
        let long = "x".repeat(LINE_LIMIT + 3);
        check(
            &[(Source::Stdout, b"a\nb"), (Source::Stderr, b"e\n"), (Source::Stdout, b"c\n")],
            "stdout F a\nstderr F e\nstdout F bc\n",
        );
        check(&[(Source::Stdout, b"no newline")], "stdout P no newline\n");
        check(&[(Source::Stdout, b"\n\n")], "stdout F \nstdout F \n");
        let expect = format!("stdout P {}\nstdout F xxx\n", &long[..LINE_LIMIT]);
        check(&[(Source::Stdout, long.as_bytes()), (Source::Stdout, b"\n")], &expect);
    }

    #[test]
    fn rotation_keeps_the_newest() {
        let dir = std::env::temp_dir().join(format!("pharos-log-{}", uuid::Uuid::new_v4()));
        let path = dir.join("0.log");
        let mut writer = LogWriter::open(&path, LogRotation { max_size_bytes: 100, max_files: 3 }).unwrap();
        for number in 0..20 {
            writer.write(Source::Stdout, format!("line {number:03} {}\n", "x".repeat(20)).as_bytes(), Timestamp::UNIX_EPOCH);
        }
        assert_eq!(rotated(&path).len(), 2);
        assert!(fs::read_to_string(rotated(&path).last().unwrap()).unwrap().contains("line 019"));
        assert!(path.metadata().unwrap().len() < 100);
        fs::remove_dir_all(&dir).unwrap();
    }
}
