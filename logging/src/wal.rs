//! The write-ahead log: what is in the head but in no split yet, and how far each container log was read.
//!
//! A segment `NNNNNNNN.wal` is a series of records, each `length u32 | crc32 u32 | payload`, little-endian; the checksum is
//! over the payload. A payload begins with its kind:
//!
//! | kind | rest |
//! |---|---|
//! | 1 stream | `id u64`, then the labels as JSON |
//! | 2 entry | `stream id u64`, `time i64`, `level u8`, `line length u32`, line, then the metadata as JSON, or nothing |
//! | 3 position | `device u64`, `inode u64`, `offset u64`, then the file's path |
//! | 4 forgotten position | the file's path |
//! | 5 shipped | `count u64`: so many entries, the oldest that are left, are done with |
//! | 6 complete | nothing: what is left of earlier segments was written again in this one |
//!
//! The last two are a spool's, whose entries go to another index rather than into splits. Each segment begins with the positions known when it was begun and names each stream before its first entry. A record that is
//! torn or damaged ends its segment: what follows cannot be trusted.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    Result,
    entry::{Entry, Level, Stream},
    error::io,
};

const STREAM: u8 = 1;
const ENTRY: u8 = 2;
const POSITION: u8 = 3;
const FORGOTTEN: u8 = 4;
const SHIPPED: u8 = 5;
const COMPLETE: u8 = 6;

/// No record is longer: a line of 256 KiB with its metadata fits well.
const LONGEST_RECORD: usize = 4 << 20;

/// How far a file was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) offset: u64,
}

/// By path.
pub(crate) type Positions = BTreeMap<PathBuf, Position>;

/// What a write-ahead log held.
#[derive(Default)]
pub(crate) struct Replay {
    pub(crate) entries: Vec<Entry>,
    pub(crate) positions: Positions,
    /// The segments it came from.
    pub(crate) segments: Vec<u64>,
    /// Segments that ended in a torn or damaged record.
    pub(crate) torn: usize,
    /// Where the entries of the segment that is read begin.
    own: usize,
}

/// The segment that is written to.
pub(crate) struct Wal {
    directory: PathBuf,
    pub(crate) segment: u64,
    file: File,
    /// Streams this segment has named.
    named: HashSet<u64>,
    buffer: Vec<u8>,
    length: u64,
    dirty: bool,
}

// === impl Wal ===

impl Wal {
    /// Reads all segments in order, leaving out those that are in a split already, and begins a new one.
    pub(crate) fn open(directory: &Path, sealed: &HashSet<u64>) -> Result<(Self, Replay)> {
        fs::create_dir_all(directory).map_err(io("make", directory))?;
        let mut segments = Vec::new();
        for file in fs::read_dir(directory).map_err(io("read", directory))? {
            let path = file.map_err(io("read", directory))?.path();
            let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
            if let (Some(number), Some("wal")) = (number, path.extension().and_then(|e| e.to_str())) {
                segments.push(number);
            }
        }
        segments.sort_unstable();
        let mut replay = Replay::default();
        let mut streams = HashMap::new();
        for number in &segments {
            let path = path_of(directory, *number);
            let bytes = fs::read(&path).map_err(io("read", &path))?;
            // A sealed segment still tells positions, should its successor never have been begun.
            let keep = !sealed.contains(number);
            if !replay_segment(&bytes, keep, &mut streams, &mut replay) {
                replay.torn += 1;
            }
            if keep {
                replay.segments.push(*number);
            }
        }
        let next = segments.last().map_or(1, |last| last + 1).max(sealed.iter().max().map_or(1, |last| last + 1));
        let mut wal = Self::begin(directory, next, &replay.positions)?;
        wal.sync()?;
        for number in segments.iter().filter(|number| sealed.contains(number)) {
            remove(directory, *number)?;
        }
        Ok((wal, replay))
    }

    /// Begins the next segment; returns the number of the one that ended.
    pub(crate) fn rotate(&mut self, positions: &Positions) -> Result<u64> {
        self.sync()?;
        let next = Self::begin(&self.directory, self.segment + 1, positions)?;
        Ok(std::mem::replace(self, next).segment)
    }

    fn begin(directory: &Path, segment: u64, positions: &Positions) -> Result<Self> {
        let path = path_of(directory, segment);
        let file = File::options().append(true).create_new(true).open(&path).map_err(io("make", &path))?;
        let mut wal = Self {
            directory: directory.to_owned(),
            segment,
            file,
            named: HashSet::new(),
            buffer: Vec::new(),
            length: 0,
            dirty: false,
        };
        wal.append([], positions.iter().map(|(path, position)| (path, Some(position))))?;
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(io("sync", directory))?;
        Ok(wal)
    }

    /// Writes a batch by one call of the kernel: it survives the end of this process at once, that of the machine after [`Wal::sync`].
    pub(crate) fn append<'a>(
        &mut self,
        entries: impl IntoIterator<Item = &'a Entry>,
        positions: impl IntoIterator<Item = (&'a PathBuf, Option<&'a Position>)>,
    ) -> Result<()> {
        self.buffer.clear();
        let mut named = Vec::new();
        for entry in entries {
            if self.named.insert(entry.stream.id) {
                named.push(entry.stream.id);
                self.stream(&entry.stream);
            }
            self.entry(entry);
        }
        for (path, position) in positions {
            self.position(path, position);
        }
        self.write().inspect_err(|_| {
            for id in &named {
                self.named.remove(id); // To be named again.
            }
        })
    }

    /// Notes that the oldest entries that are left, so many, are another index' from now on.
    pub(crate) fn shipped(&mut self, count: usize) -> Result<()> {
        self.buffer.clear();
        self.record(|buffer| {
            buffer.push(SHIPPED);
            buffer.extend_from_slice(&(count as u64).to_le_bytes());
        });
        self.write()
    }

    /// Begins the next segment with the entries that are left, so that no earlier one is needed; returns the number of the one
    /// that ended.
    pub(crate) fn condense<'a>(&mut self, positions: &Positions, left: impl IntoIterator<Item = &'a Entry>) -> Result<u64> {
        let mut next = Self::begin(&self.directory, self.segment + 1, positions)?;
        let filled = next.append(left, []).and_then(|()| {
            next.buffer.clear();
            next.record(|buffer| buffer.push(COMPLETE));
            next.write()?;
            next.sync()
        });
        if let Err(error) = filled {
            let _ = remove(&self.directory, next.segment);
            return Err(error);
        }
        Ok(std::mem::replace(self, next).segment)
    }

    fn write(&mut self) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.file.write_all(&self.buffer) {
            // A torn record must not hide later ones: cut it off.
            let _ = self.file.set_len(self.length);
            return Err(io("write", path_of(&self.directory, self.segment))(error));
        }
        self.length += self.buffer.len() as u64;
        self.dirty = true;
        if self.buffer.capacity() > 256 * 1024 {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    /// Makes what was written survive a power cut.
    pub(crate) fn sync(&mut self) -> Result<()> {
        if std::mem::take(&mut self.dirty) {
            self.file.sync_data().map_err(io("sync", path_of(&self.directory, self.segment)))?;
        }
        Ok(())
    }

    /// Deletes segments that are in a split.
    pub(crate) fn forget(directory: &Path, segments: &[u64]) -> Result<()> {
        segments.iter().try_for_each(|number| remove(directory, *number))
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    fn record(&mut self, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 8]);
        fill(&mut self.buffer);
        let payload = &self.buffer[start + 8..];
        let (length, crc) = (u32::try_from(payload.len()).unwrap_or(u32::MAX), crc32fast::hash(payload));
        self.buffer[start..start + 4].copy_from_slice(&length.to_le_bytes());
        self.buffer[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    }

    fn stream(&mut self, stream: &Stream) {
        self.record(|buffer| {
            buffer.push(STREAM);
            buffer.extend_from_slice(&stream.id.to_le_bytes());
            // Writing strings into memory cannot fail.
            let _ = serde_json::to_writer(buffer, &stream.labels);
        });
    }

    fn entry(&mut self, entry: &Entry) {
        self.record(|buffer| {
            buffer.push(ENTRY);
            buffer.extend_from_slice(&entry.stream.id.to_le_bytes());
            buffer.extend_from_slice(&entry.time.to_le_bytes());
            buffer.push(entry.level as u8);
            buffer.extend_from_slice(&u32::try_from(entry.line.len()).unwrap_or(u32::MAX).to_le_bytes());
            buffer.extend_from_slice(entry.line.as_bytes());
            if !entry.metadata.is_empty() {
                let _ = serde_json::to_writer(buffer, &entry.metadata);
            }
        });
    }

    fn position(&mut self, path: &Path, position: Option<&Position>) {
        use std::os::unix::ffi::OsStrExt as _;
        self.record(|buffer| {
            match position {
                Some(position) => {
                    buffer.push(POSITION);
                    for number in [position.device, position.inode, position.offset] {
                        buffer.extend_from_slice(&number.to_le_bytes());
                    }
                }
                None => buffer.push(FORGOTTEN),
            }
            buffer.extend_from_slice(path.as_os_str().as_bytes());
        });
    }
}

fn path_of(directory: &Path, segment: u64) -> PathBuf {
    directory.join(format!("{segment:08}.wal"))
}

fn remove(directory: &Path, segment: u64) -> Result<()> {
    let path = path_of(directory, segment);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Reads what it can; whether the segment was whole.
fn replay_segment(mut bytes: &[u8], keep: bool, streams: &mut HashMap<u64, Arc<Stream>>, replay: &mut Replay) -> bool {
    replay.own = replay.entries.len();
    while !bytes.is_empty() {
        let mut reader = Reader(bytes);
        let (Some(length), Some(crc)) = (reader.u32(), reader.u32()) else { return false };
        let length = length as usize;
        if length > LONGEST_RECORD {
            return false;
        }
        let Some(payload) = reader.take(length) else { return false };
        if crc32fast::hash(payload) != crc || replay_record(payload, keep, streams, replay).is_none() {
            return false;
        }
        bytes = reader.0;
    }
    true
}

fn replay_record(payload: &[u8], keep: bool, streams: &mut HashMap<u64, Arc<Stream>>, replay: &mut Replay) -> Option<()> {
    use std::os::unix::ffi::OsStrExt as _;
    let mut reader = Reader(payload);
    match reader.u8()? {
        STREAM => {
            let id = reader.u64()?;
            if let std::collections::hash_map::Entry::Vacant(vacant) = streams.entry(id) {
                vacant.insert(Stream::exactly(serde_json::from_slice(reader.0).ok()?));
            }
        }
        ENTRY => {
            let stream = streams.get(&reader.u64()?)?.clone();
            let time = reader.u64()?.cast_signed();
            let level = Level::from_byte(reader.u8()?);
            let length = reader.u32()? as usize;
            let line = std::str::from_utf8(reader.take(length)?).ok()?.into();
            let metadata = if reader.0.is_empty() { Box::default() } else { serde_json::from_slice(reader.0).ok()? };
            if keep {
                replay.entries.push(Entry { time, stream, line, metadata, level });
            }
        }
        POSITION => {
            let position = Position { device: reader.u64()?, inode: reader.u64()?, offset: reader.u64()? };
            replay.positions.insert(std::ffi::OsStr::from_bytes(reader.0).into(), position);
        }
        FORGOTTEN => drop(replay.positions.remove(Path::new(std::ffi::OsStr::from_bytes(reader.0)))),
        SHIPPED => {
            let count = usize::try_from(reader.u64()?).ok()?.min(replay.entries.len());
            replay.entries.drain(..count);
            replay.own = replay.own.saturating_sub(count);
        }
        COMPLETE => drop(replay.entries.drain(..std::mem::take(&mut replay.own))),
        _ => return None,
    }
    Some(())
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Labels;

    fn entry(time: i64, line: &str) -> Entry {
        let stream = Stream::new(Labels::new([("app", "web")]));
        Entry::new(time, &stream, line, vec![("trace_id".into(), "7".into())])
    }

    #[test]
    fn what_was_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let (mut wal, _) = Wal::open(dir.path(), &HashSet::new()).unwrap();
        let position = Position { device: 1, inode: 2, offset: 3 };
        let (a, b) = (PathBuf::from("/a"), PathBuf::from("/b"));
        wal.append(&[entry(1, "one"), entry(2, "two")], [(&a, Some(&position)), (&b, Some(&position))]).unwrap();
        wal.append([], [(&b, None)]).unwrap();
        drop(wal);
        let (_, replay) = Wal::open(dir.path(), &HashSet::new()).unwrap();
        assert_eq!(replay.entries, [entry(1, "one"), entry(2, "two")]);
        assert_eq!(replay.positions, Positions::from([(a, position)]));
        assert_eq!((replay.segments, replay.torn), (vec![1], 0));
    }

    #[test]
    fn a_torn_tail_costs_only_itself() {
        let dir = tempfile::tempdir().unwrap();
        let (mut wal, _) = Wal::open(dir.path(), &HashSet::new()).unwrap();
        wal.append(&[entry(1, "one")], []).unwrap();
        wal.append(&[entry(2, "two")], []).unwrap();
        let path = path_of(dir.path(), 1);
        let whole = fs::read(&path).unwrap();
        for cut in 1..40 {
            fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let mut replay = Replay::default();
            let bytes = fs::read(&path).unwrap();
            assert!(!replay_segment(&bytes, true, &mut HashMap::new(), &mut replay));
            assert_eq!(replay.entries, [entry(1, "one")]);
        }
    }

    #[test]
    fn what_was_shipped_is_not_replayed() {
        let dir = tempfile::tempdir().unwrap();
        let lines = |replay: Replay| replay.entries.iter().map(|entry| entry.line.to_string()).collect::<Vec<_>>();
        let (mut wal, _) = Wal::open(dir.path(), &HashSet::new()).unwrap();
        wal.append(&[entry(1, "one"), entry(2, "two")], []).unwrap();
        wal.shipped(1).unwrap();
        wal.append(&[entry(3, "three")], []).unwrap();
        drop(wal);
        let (mut wal, replay) = Wal::open(dir.path(), &HashSet::new()).unwrap();
        assert_eq!(lines(replay), ["two", "three"]);
        wal.shipped(1).unwrap();
        // What is left is in the next segment too: neither with the earlier ones nor without them is it told twice.
        assert_eq!(wal.condense(&Positions::new(), &[entry(3, "three")]).unwrap(), 2);
        wal.append(&[entry(4, "four")], []).unwrap();
        drop(wal);
        let (wal, replay) = Wal::open(dir.path(), &HashSet::new()).unwrap();
        assert_eq!(replay.segments, [1, 2, 3]);
        assert_eq!(lines(replay), ["three", "four"]);
        drop(wal);
        Wal::forget(dir.path(), &[1, 2]).unwrap();
        let (_, replay) = Wal::open(dir.path(), &HashSet::new()).unwrap();
        assert_eq!(lines(replay), ["three", "four"]);
    }

    #[test]
    fn a_sealed_segment_is_not_replayed() {
        let dir = tempfile::tempdir().unwrap();
        let (mut wal, _) = Wal::open(dir.path(), &HashSet::new()).unwrap();
        wal.append(&[entry(1, "one")], []).unwrap();
        assert_eq!(wal.rotate(&Positions::new()).unwrap(), 1);
        wal.append(&[entry(2, "two")], []).unwrap();
        drop(wal);
        let (_, replay) = Wal::open(dir.path(), &HashSet::from([1])).unwrap();
        assert_eq!(replay.entries, [entry(2, "two")]);
        assert!(!path_of(dir.path(), 1).exists());
    }
}
