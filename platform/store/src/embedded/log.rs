//! The commit log: preallocated, checksummed segments, written a batch at a time with one `fdatasync` each.
//!
//! Segments are numbered without gaps. Each begins by saying how much of the one before is valid, so after a failed
//! write the log simply goes on in a new segment: whatever the failure left behind is outside. Only the last
//! segment may end in a torn batch. Damage anywhere else, and damage that a later batch proves was once whole, is
//! an error: nothing that was acknowledged is dropped in silence.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use prometheus::Histogram;

use super::record::{self, FRAME_HEADER, Logged, SEGMENT_HEADER, SegmentHeader};
use crate::{Error, Result, Revision, files};

/// Zeros written at a time to preallocate: blocks that were written once need no journal entry to be written again.
const ZEROS: &[u8] = &[0; 1 << 20];

/// The log, open for appending.
pub(super) struct Log {
    dir: PathBuf,
    segment_bytes: u64,
    /// The segment written to; `None` after a failure: the next append begins one.
    active: Option<Active>,
    /// Number and valid length of the newest segment there is.
    last: (u64, u64),
    /// The newest revision written.
    revision: Revision,
    /// A segment being made ready.
    spare: Option<JoinHandle<Result<File>>>,
}

struct Active {
    file: File,
    path: PathBuf,
}

/// A segment that is written no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sealed {
    pub(super) id: u64,
    pub(super) path: PathBuf,
    /// How much of it is valid.
    pub(super) end: u64,
}

/// What recovery found.
pub(super) struct Recovered {
    pub(super) log: Log,
    pub(super) sealed: Vec<Sealed>,
}

impl Log {
    /// Reads the log from segment `first` on and calls `visit` for each commit after `revision`, in order.
    pub(super) fn recover(
        dir: &Path,
        segment_bytes: u64,
        (first, revision): (u64, Revision),
        mut visit: impl FnMut(Revision, &[Logged<'_>]) -> Result<()>,
    ) -> Result<Recovered> {
        let mut segments = list(dir)?;
        for (_, path) in segments.extract_if(.., |(id, _)| *id < first) {
            files::remove(&path)?; // Folded into the snapshot before a crash.
        }
        let mut log = Self { dir: dir.to_owned(), segment_bytes, active: None, last: (first - 1, 0), revision, spare: None };
        let mut sealed: Vec<Sealed> = Vec::new();
        let mut segments = segments.into_iter().peekable();
        if segments.peek().is_none() && first > 1 {
            return Err(corrupt(&segment_path(dir, first), 0, "segment is missing"));
        }
        while let Some((id, path)) = segments.next() {
            if id != log.last.0 + 1 {
                return Err(corrupt(&segment_path(dir, log.last.0 + 1), 0, "segment is missing"));
            }
            let bytes = fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
            // The header was durable before the segment had its name.
            let header = SegmentHeader::decode(&bytes).map_err(|reason| corrupt(&path, 0, &reason))?;
            if header.id != id || header.revision != log.revision {
                return Err(corrupt(&path, 0, "segment does not follow the one before"));
            }
            let end = segments.peek().map(|(_, next)| previous_end(next, &bytes)).transpose()?;
            let end = log.scan(&path, id, &bytes, end, &mut visit)?;
            log.last = (id, end);
            sealed.push(Sealed { id, path, end });
        }
        if let Some(last) = sealed.pop() {
            log.reopen(&last)?;
        }
        Ok(Recovered { log, sealed })
    }

    /// Reads a segment's frames. Returns where the valid ones end.
    fn scan(
        &mut self,
        path: &Path,
        id: u64,
        bytes: &[u8],
        end: Option<u64>,
        visit: &mut dyn FnMut(Revision, &[Logged<'_>]) -> Result<()>,
    ) -> Result<u64> {
        let limit = end.map_or(bytes.len(), |end| end as usize);
        let mut at = SEGMENT_HEADER;
        while at < limit {
            let Some(frame) = record::frame_at(id, &bytes[..limit], at) else {
                // Torn if nothing later was written; what was written with it does not count.
                let later = || record::find_frame(id, bytes, at + 1, |frame| frame.batch_start > at);
                if end.is_some() || later().is_some() {
                    return Err(corrupt(path, at as u64, "frame is damaged"));
                }
                break;
            };
            let bad = |reason: String| corrupt(path, at as u64, &reason);
            let changes = record::changes(frame.payload).map_err(bad)?;
            let expected = self.revision + u64::from(!changes.is_empty());
            if frame.revision != expected {
                return Err(bad(format!("frame has revision {}, not {expected}", frame.revision)));
            }
            visit(frame.revision, &changes)?;
            self.revision = frame.revision;
            at = frame.end;
        }
        Ok(at as u64)
    }

    /// Goes on writing in the last segment, after clearing what a torn batch left.
    fn reopen(&mut self, last: &Sealed) -> Result<()> {
        let path = last.path.clone();
        let io = |e| Error::io("reopen", &path, e);
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        let mut tail = vec![0; usize::try_from(len.saturating_sub(last.end)).unwrap_or(0)];
        file.read_exact_at(&mut tail, last.end).map_err(io)?;
        if let Some(torn) = tail.iter().rposition(|byte| *byte != 0) {
            tracing::warn!(path = %path.display(), offset = last.end, bytes = torn + 1, "cut a torn batch off the log");
            tail[..=torn].fill(0);
            file.write_all_at(&tail[..=torn], last.end).and_then(|()| file.sync_data()).map_err(io)?;
        }
        self.active = Some(Active { file, path });
        Ok(())
    }

    /// Makes a batch of frames durable. Returns the segment that was sealed to do so, if one was.
    ///
    /// Nothing of it counts if this fails.
    pub(super) fn append(&mut self, batch: &mut [u8], revision: Revision, fsync_seconds: &Histogram) -> Result<Option<Sealed>> {
        let fits = self.last.1 + batch.len() as u64 <= self.segment_bytes;
        let sealed = if self.active.is_none() || !fits { self.begin_segment()? } else { None };
        let (id, offset) = self.last;
        let Some(active) = &self.active else { return Err(Error::Closed) };
        record::seal_batch(batch, id, offset as usize);
        let written = self.write(active, batch, offset).and_then(|()| {
            let _timer = fsync_seconds.start_timer();
            active.file.sync_data()
        });
        if let Err(e) = written {
            // What the kernel still holds of this file is unknown: leave it, spoil the frame, go on in a new segment.
            let _ = active.file.write_all_at(&[0; FRAME_HEADER], offset).and_then(|()| active.file.sync_data());
            let failed = Error::io("write", &active.path, e);
            self.active = None;
            return Err(failed);
        }
        self.last.1 += batch.len() as u64;
        self.revision = revision;
        if self.spare.is_none() && self.last.1 > self.segment_bytes / 2 {
            self.prepare_spare();
        }
        Ok(sealed)
    }

    fn write(&self, active: &Active, batch: &[u8], offset: u64) -> io::Result<()> {
        #[cfg(test)]
        if FAILS.lock().contains(&self.dir) {
            active.file.write_all_at(&batch[..batch.len() * 3 / 4], offset)?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        active.file.write_all_at(batch, offset)
    }

    /// Ends the log in order: a last frame proves that those before were whole.
    pub(super) fn close(&mut self, fsync_seconds: &Histogram) -> Result<()> {
        let mut batch = Vec::new();
        let start = record::begin_frame(&mut batch, self.revision, 0);
        record::finish_frame(&mut batch, start);
        let closed = match self.active {
            Some(_) if self.last.1 + batch.len() as u64 <= self.segment_bytes => {
                self.append(&mut batch, self.revision, fsync_seconds).map(drop)
            }
            _ => Ok(()), // A new segment only to say that the old one was whole would cost more than it tells.
        };
        if let Some(spare) = self.spare.take() {
            drop(spare.join());
            files::remove(&self.dir.join(SPARE))?;
        }
        closed
    }

    /// Bytes the log takes on disk.
    pub(super) fn bytes(&self, sealed: usize) -> u64 {
        (sealed as u64 + 1) * self.segment_bytes
    }

    /// Begins the next segment. The one before, if any, is sealed where it is valid to.
    fn begin_segment(&mut self) -> Result<Option<Sealed>> {
        let (last, end) = self.last;
        let spare = self.dir.join(SPARE);
        let prepared = self.spare.take().map(JoinHandle::join);
        let file = match prepared {
            Some(Ok(Ok(file))) => file,
            _ => make_segment(&spare, self.segment_bytes)?,
        };
        let id = last + 1;
        let header = SegmentHeader { id, previous_end: end, revision: self.revision };
        let path = segment_path(&self.dir, id);
        self.active = None; // From here on the segment before may be sealed on disk.
        let written = file.write_all_at(&header.encode(), 0).and_then(|()| file.sync_data());
        written.map_err(|e| Error::io("write", &spare, e))?;
        files::rename(&spare, &path)?;
        self.active = Some(Active { file, path });
        self.last = (id, SEGMENT_HEADER as u64);
        let previous = || Sealed { id: last, path: segment_path(&self.dir, last), end };
        Ok((end > 0).then(previous))
    }

    /// Makes the next segment ready in the background.
    fn prepare_spare(&mut self) {
        let (path, bytes) = (self.dir.join(SPARE), self.segment_bytes);
        let spawned = thread::Builder::new().name("store-segment".to_owned()).spawn(move || make_segment(&path, bytes));
        self.spare = spawned.ok(); // Without it the segment is made when it is needed.
    }
}

/// Directories whose writes fail half-way, as on a full disk.
#[cfg(test)]
pub(super) static FAILS: parking_lot::Mutex<Vec<PathBuf>> = parking_lot::Mutex::new(Vec::new());

const SPARE: &str = "segment.new";

/// Makes a segment's file: all zeros, and durable.
fn make_segment(path: &Path, bytes: u64) -> Result<File> {
    let file = files::create_private(path)?;
    let fill = || {
        let mut at = 0;
        while at < bytes {
            let len = ZEROS.len().min((bytes - at) as usize);
            file.write_all_at(&ZEROS[..len], at)?;
            at += len as u64;
        }
        file.sync_all()
    };
    if let Err(e) = fill() {
        let _ = fs::remove_file(path); // Gives back what it took; the error tells the rest.
        return Err(Error::io("preallocate", path, e));
    }
    Ok(file)
}

/// Reads a sealed segment's frames.
pub(super) fn read_sealed(sealed: &Sealed, mut visit: impl FnMut(Revision, &[Logged<'_>])) -> Result<Revision> {
    let bytes = fs::read(&sealed.path).map_err(|e| Error::io("read", &sealed.path, e))?;
    let header = SegmentHeader::decode(&bytes).map_err(|reason| corrupt(&sealed.path, 0, &reason))?;
    let mut revision = header.revision;
    let mut at = SEGMENT_HEADER;
    while (at as u64) < sealed.end {
        let bad = |reason: String| corrupt(&sealed.path, at as u64, &reason);
        let frame = record::frame_at(sealed.id, &bytes, at).ok_or_else(|| bad("frame is damaged".to_owned()))?;
        visit(frame.revision, &record::changes(frame.payload).map_err(bad)?);
        revision = frame.revision;
        at = frame.end;
    }
    Ok(revision)
}

fn segment_path(dir: &Path, id: u64) -> PathBuf {
    dir.join(format!("{id:016x}.log"))
}

/// The segments there are, in order.
fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| Error::io("list", dir, e))? {
        let path = entry.map_err(|e| Error::io("list", dir, e))?.path();
        let id = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| u64::from_str_radix(stem, 16).ok());
        if let (Some(id), Some("log")) = (id, path.extension().and_then(|extension| extension.to_str())) {
            segments.push((id, path));
        }
    }
    segments.sort();
    Ok(segments)
}

/// How much of a segment is valid according to its successor.
fn previous_end(next: &Path, segment: &[u8]) -> Result<u64> {
    let mut header = [0; SEGMENT_HEADER];
    let read = File::open(next).and_then(|file| file.read_exact_at(&mut header, 0));
    read.map_err(|e| Error::io("read", next, e))?;
    let header = SegmentHeader::decode(&header).map_err(|reason| corrupt(next, 0, &reason))?;
    match header.previous_end {
        end if end as usize <= segment.len() => Ok(end),
        _ => Err(corrupt(next, 0, "the segment before is shorter than this one says")),
    }
}

fn corrupt(path: &Path, offset: u64, reason: &str) -> Error {
    Error::Corrupt { path: path.to_owned(), offset, reason: reason.to_owned() }
}
