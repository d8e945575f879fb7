use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, File},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use super::format;
use crate::{entry::LONGEST_LINE, wal::Position};

/// Runtimes split longer lines into parts of so many bytes (containerd's `max_container_log_line_size`, Docker's read buffer).
pub(super) const PIECE: usize = 16 << 10;

/// A file that is read as it grows, across rotations.
pub(super) struct Tail {
    file: File,
    position: Position,
    /// Files that took its place meanwhile, oldest first, to be read before the one at its path.
    next: VecDeque<PathBuf>,
    /// Lines that are not complete, by stream: since which offset, when, and what there is.
    partial: BTreeMap<&'static str, (u64, i64, String)>,
}

pub(super) enum Progress {
    /// So many bytes.
    Read(usize),
    /// There is nothing new.
    End,
    /// The file was removed, and was read to its end.
    Gone,
}

impl Tail {
    /// Opens a file where it was left; also how many files were lost since then.
    pub(super) fn open(path: &Path, left: Option<Position>) -> io::Result<(Self, u64)> {
        let current = File::open(path).and_then(|file| Ok((position(&file, 0)?, file)));
        let Some(left) = left else {
            let (position, file) = current?;
            return Ok((Self::new(file, position), 0));
        };
        let is_same = |position: &Position| (position.device, position.inode) == (left.device, left.inode);
        match current {
            Ok((position, file)) if is_same(&position) => {
                // Cut short and written anew: all of it is new.
                let offset = if file.metadata()?.len() < left.offset { 0 } else { left.offset };
                Ok((Self::new(file, Position { offset, ..position }), 0))
            }
            current => {
                let mut rotated = rotated(path)?;
                let at = rotated.iter().position(|sibling| {
                    fs::metadata(sibling).is_ok_and(|data| (data.dev(), data.ino()) == (left.device, left.inode))
                });
                let Some(at) = at else {
                    let (position, file) = current?;
                    return Ok((Self::new(file, position), 1));
                };
                let file = File::open(&rotated[at])?;
                let mut tail = Self::new(file, left);
                tail.next = rotated.drain(at + 1..).collect();
                Ok((tail, 0))
            }
        }
    }

    fn new(file: File, position: Position) -> Self {
        Self { file, position, next: VecDeque::new(), partial: BTreeMap::new() }
    }

    /// Up to where a restart need not read again.
    pub(super) fn position(&self) -> Position {
        let unfinished = self.partial.values().map(|(since, ..)| *since).min();
        Position { offset: unfinished.map_or(self.position.offset, |since| since.min(self.position.offset)), ..self.position }
    }

    /// Hands over what is new, up to about `most` bytes: time, stream and line.
    pub(super) fn read(
        &mut self,
        path: &Path,
        most: usize,
        store: &mut dyn FnMut(i64, &'static str, &str),
    ) -> io::Result<Progress> {
        // Looked at before reading: what is written to a file after it was replaced is read by the next call.
        let replaced = match fs::metadata(path) {
            Ok(data) => (data.dev(), data.ino()) != (self.position.device, self.position.inode),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let parent_is_gone = !path.parent().is_some_and(Path::exists);
                let read = self.read_here(most, store)?;
                return Ok(match read {
                    0 if parent_is_gone || rotated(path).map_or(true, |rotated| rotated.is_empty()) => Progress::Gone,
                    0 => Progress::End, // Its successor will come.
                    read => Progress::Read(read),
                });
            }
            Err(error) => return Err(error),
        };
        if self.file.metadata()?.len() < self.position.offset {
            self.position.offset = 0; // It was cut short.
            self.partial.clear();
        }
        let read = self.read_here(most, store)?;
        if read > 0 || !replaced {
            return Ok(if read > 0 { Progress::Read(read) } else { Progress::End });
        }
        for (stream, (_, time, text)) in std::mem::take(&mut self.partial) {
            store(time, stream, &text);
        }
        let next = self.next.pop_front();
        self.file = File::open(next.as_deref().unwrap_or(path))?;
        self.position = position(&self.file, 0)?;
        Ok(Progress::Read(0))
    }

    fn read_here(&mut self, most: usize, store: &mut dyn FnMut(i64, &'static str, &str)) -> io::Result<usize> {
        let mut buffer = vec![0; most];
        let mut filled = 0;
        while filled < most {
            match self.file.read_at(&mut buffer[filled..], self.position.offset + filled as u64)? {
                0 => break,
                read => filled += read,
            }
        }
        let whole = match buffer[..filled].iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if filled == most => filled, // No line is so long: take it as it is.
            None => return Ok(0),
        };
        let mut offset = self.position.offset;
        for line in buffer[..whole].split_inclusive(|byte| *byte == b'\n') {
            let text = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(line));
            self.line(offset, &text, store);
            offset += line.len() as u64;
        }
        self.position.offset = offset;
        Ok(whole)
    }

    fn line(&mut self, offset: u64, line: &str, store: &mut dyn FnMut(i64, &'static str, &str)) {
        let Some(part) = format::part(line) else { return };
        // A shorter part without an end is the last of its stream.
        let unfinished = part.partial && part.text.len() >= PIECE;
        match (self.partial.remove(part.stream), unfinished) {
            (None, false) => store(part.time, part.stream, &part.text),
            (None, true) => drop(self.partial.insert(part.stream, (offset, part.time, part.text))),
            (Some((since, time, mut text)), unfinished) => {
                if text.len() < LONGEST_LINE {
                    text.push_str(&part.text);
                }
                if unfinished {
                    self.partial.insert(part.stream, (since, time, text));
                } else {
                    store(time, part.stream, &text);
                }
            }
        }
    }
}

fn position(file: &File, offset: u64) -> io::Result<Position> {
    let data = file.metadata()?;
    Ok(Position { device: data.dev(), inode: data.ino(), offset })
}

/// The files that a log was renamed to, `N.log.TIME`, oldest first; those compressed are left out.
fn rotated(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Ok(Vec::new());
    };
    let prefix = format!("{name}.");
    let mut rotated = Vec::new();
    for file in fs::read_dir(directory)? {
        let path = file?.path();
        let is_rotated = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix(&prefix));
        if is_rotated.is_some_and(|time| time.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-')) {
            rotated.push(path);
        }
    }
    rotated.sort();
    Ok(rotated)
}
