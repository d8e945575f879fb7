use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, File, Metadata},
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
    /// The files it was rotated to that are to be read before the one at its path, oldest first.
    next: VecDeque<Rotated>,
    /// All rotated files as they were seen last: only others are new.
    known: Vec<Rotated>,
    /// Files that went before they were read, until somebody takes the number.
    lost: u64,
    /// Lines that are not complete, by stream: since which offset, when, and what there is.
    partial: BTreeMap<&'static str, (u64, i64, String)>,
}

/// Device and inode: what a file stays under every name.
type Identity = (u64, u64);

/// A file that a log was renamed to; in order of its name, which is the time of that.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rotated {
    path: PathBuf,
    identity: Identity,
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
    /// Opens a file where it was left. What was never read begins with the oldest file that is still there.
    pub(super) fn open(path: &Path, left: Option<Position>) -> io::Result<Self> {
        // Before the rotated files are listed: if it is rotated right now, the list has it.
        let current = File::open(path).and_then(|file| Ok((identity(&file.metadata()?), file)));
        let known = rotated(path)?;
        let is_left = |identity: Identity| left.is_some_and(|left| (left.device, left.inode) == identity);
        let at = known.iter().position(|file| is_left(file.identity));
        let is_current = at.is_none() && matches!(&current, Ok((identity, _)) if is_left(*identity));
        let mut lost = u64::from(left.is_some() && at.is_none() && !is_current);
        let mut next = VecDeque::new();
        if !is_current {
            next.extend(known[at.unwrap_or(0)..].iter().cloned());
        }
        let file = match first(&mut next, &mut lost)? {
            Some(file) => file,
            None => current?.1,
        };
        let data = file.metadata()?;
        // One that is shorter was cut short and written anew: all of it is new.
        let left = left.filter(|left| is_left(identity(&data)) && left.offset <= data.len());
        let position = Position { offset: left.map_or(0, |left| left.offset), ..start(&file)? };
        Ok(Self { file, position, next, known, lost, partial: BTreeMap::new() })
    }

    /// How many files were lost since this was asked last, at least: those that came and went unseen are counted as one.
    pub(super) fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
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
        let current = match fs::metadata(path) {
            Ok(data) => Some(identity(&data)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let is_replaced = current != Some(self.identity());
        if is_replaced {
            self.look(path)?;
        }
        if self.file.metadata()?.len() < self.position.offset {
            self.position.offset = 0; // It was cut short.
            self.partial.clear();
        }
        let read = self.read_here(most, store)?;
        if read > 0 {
            return Ok(Progress::Read(read));
        }
        if !is_replaced {
            return Ok(Progress::End);
        }
        if current.is_none() && self.next.is_empty() {
            let parent_is_gone = !path.parent().is_some_and(Path::exists);
            // While there are rotated files its successor will come.
            return Ok(if parent_is_gone || self.known.is_empty() { Progress::Gone } else { Progress::End });
        }
        self.advance(path, store)?;
        Ok(Progress::Read(0))
    }

    /// Queues what was rotated since this was called last.
    fn look(&mut self, path: &Path) -> io::Result<()> {
        let listed = rotated(path)?;
        let own = self.identity();
        let has_last = match self.next.back() {
            Some(last) => listed.contains(last),
            None => listed.iter().any(|file| file.identity == own),
        };
        let fresh: Vec<_> = listed.iter().filter(|file| file.identity != own && !self.known.contains(file)).cloned().collect();
        if !has_last && !fresh.is_empty() {
            // The oldest go first: what came between the last known and these may be gone, too.
            self.lost += 1;
        }
        self.next.extend(fresh);
        self.known = listed;
        Ok(())
    }

    /// Goes on to the next file, which is the one at the path when no rotated one is left.
    fn advance(&mut self, path: &Path, store: &mut dyn FnMut(i64, &'static str, &str)) -> io::Result<()> {
        // Before the rotated files are listed: if it is rotated right now, the list has it.
        let current = match File::open(path) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        self.look(path)?;
        let Some(file) = first(&mut self.next, &mut self.lost)?.or(current) else { return Ok(()) };
        self.position = start(&file)?;
        self.file = file;
        for (stream, (_, time, text)) in std::mem::take(&mut self.partial) {
            store(time, stream, &text);
        }
        Ok(())
    }

    fn identity(&self) -> Identity {
        (self.position.device, self.position.inode)
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

impl Rotated {
    /// Opens it, unless it is gone or its name was given to another file.
    fn open(&self) -> io::Result<Option<File>> {
        match File::open(&self.path) {
            Ok(file) => {
                let is_same = identity(&file.metadata()?) == self.identity;
                Ok(is_same.then_some(file))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Takes the first file that is still there; counts those that are not.
fn first(files: &mut VecDeque<Rotated>, lost: &mut u64) -> io::Result<Option<File>> {
    while let Some(rotated) = files.front() {
        let file = rotated.open()?;
        files.pop_front();
        if file.is_some() {
            return Ok(file);
        }
        *lost += 1;
    }
    Ok(None)
}

fn identity(data: &Metadata) -> Identity {
    (data.dev(), data.ino())
}

fn start(file: &File) -> io::Result<Position> {
    let (device, inode) = identity(&file.metadata()?);
    Ok(Position { device, inode, offset: 0 })
}

/// The files that a log was renamed to, oldest first: `N.log.TIME`, or `N.log.TIME.NUMBER` when it was not the first of its
/// second. Those compressed are left out.
fn rotated(path: &Path) -> io::Result<Vec<Rotated>> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Ok(Vec::new());
    };
    let files = match fs::read_dir(directory) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let prefix = format!("{name}.");
    let mut rotated = Vec::new();
    for file in files {
        let path = file?.path();
        let suffix = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix(&prefix));
        let is_rotated = suffix.is_some_and(|time| time.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'.')));
        if !is_rotated {
            continue;
        }
        match fs::metadata(&path) {
            Ok(data) => rotated.push(Rotated { path, identity: identity(&data) }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {} // Removed just now.
            Err(error) => return Err(error),
        }
    }
    rotated.sort();
    Ok(rotated)
}
