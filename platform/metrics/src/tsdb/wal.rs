//! The write-ahead log and the checkpoint.
//!
//! ```text
//! 00000007.wal          segments: what was appended since the checkpoint of the same number
//! 00000007.checkpoint   all series and chunks at the time segment 7 began
//!
//! file     = magic, 8 bytes │ record…
//! record   = length of payload, u32 LE │ CRC-32 of payload, u32 LE │ payload
//! payload  = type, u8 │ body           (body of types 1 and 2: compressed by Snappy)
//!   1 series  = (id varint │ labels)…              labels  = count varint │ (name │ value)…
//!   2 samples = (id varint │ time zigzag varint, less the time before it │ value f64 LE)…
//!   3 chunks  = id varint │ count varint │ chunk…
//!   4 end     = number of series, varint           closes a checkpoint; one without it is not read
//! chunk    = min time zigzag varint │ max time less min varint │ samples varint │ bytes
//! bytes, name, value = length varint │ bytes
//! ```
//!
//! A torn last record is cut off. Damage elsewhere costs the rest of its segment, and is counted.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufWriter, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use super::{
    Sample, SeriesId,
    chunk::{Sealed, unzigzag, zigzag},
};
use crate::{Error, Result, labels::Labels, metrics::TsdbMetrics};

const WAL_MAGIC: &[u8; 8] = b"PHMWAL01";
const CHECKPOINT_MAGIC: &[u8; 8] = b"PHMCKP01";
/// A record never gets longer; a greater length is damage.
const MAX_RECORD: usize = 64 << 20;
/// What waits for a flush is written at once beyond this, so that a stalled flush cannot grow memory.
const MAX_PENDING: usize = 8 << 20;

/// What was read back.
pub(super) enum Record {
    Series(SeriesId, Labels),
    Samples(Vec<(SeriesId, Sample)>),
    Chunks(SeriesId, Vec<Sealed>),
}

/// The log that is being written.
pub(super) struct Wal {
    dir: PathBuf,
    number: u64,
    path: PathBuf,
    file: File,
    size: u64,
    series: Vec<u8>,
    samples: Vec<u8>,
    last_t: i64,
}

/// A checkpoint that is being written.
pub(super) struct Checkpoint {
    dir: PathBuf,
    number: u64,
    temporary: PathBuf,
    file: BufWriter<File>,
    count: u64,
}

// === impl Wal ===

impl Wal {
    /// Reads everything in `dir` back through `replay`, and continues the last segment.
    pub(super) fn open(dir: &Path, metrics: &TsdbMetrics, replay: &mut dyn FnMut(Record)) -> Result<Self> {
        fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        let files = numbered(dir)?;
        for (_, path) in files.iter().filter(|(_, path)| has_extension(path, "tmp")) {
            fs::remove_file(path).map_err(Error::io("remove", path))?;
        }
        let of = |extension| files.iter().filter(move |(_, path)| has_extension(path, extension));
        let mut from = 0;
        for (number, path) in of("checkpoint").rev() {
            let data = read(path)?;
            if is_whole_checkpoint(&data) {
                replay_all(&data, CHECKPOINT_MAGIC, replay);
                from = *number;
                break;
            }
            metrics.corruptions.inc();
            tracing::warn!(path = %path.display(), "checkpoint is damaged and left out");
        }
        let segments: Vec<&(u64, PathBuf)> = of("wal").filter(|(number, _)| *number >= from).collect();
        let mut end = 0;
        for (_, path) in &segments {
            let data = read(path)?;
            end = replay_all(&data, WAL_MAGIC, replay) as u64;
            if end < data.len() as u64 {
                metrics.corruptions.inc();
                tracing::warn!(path = %path.display(), offset = end, "log ends in the middle of a record, the rest is left out");
            }
        }
        let number = segments.last().map_or(from.max(1), |(number, _)| *number);
        let (path, file, size) = segment(dir, number, end)?;
        Ok(Self { dir: dir.to_owned(), number, path, file, size, series: Vec::new(), samples: Vec::new(), last_t: 0 })
    }

    pub(super) fn series(&mut self, id: SeriesId, labels: &Labels) {
        put_series(&mut self.series, id, labels);
    }

    pub(super) fn samples(&mut self, samples: &[(SeriesId, Sample)]) {
        for (id, sample) in samples {
            put(&mut self.samples, *id);
            put(&mut self.samples, zigzag(sample.t.wrapping_sub(self.last_t)));
            self.samples.extend_from_slice(&sample.v.to_le_bytes());
            self.last_t = sample.t;
        }
        if self.samples.len() > MAX_PENDING
            && let Err(error) = self.write_pending()
        {
            tracing::error!(error = %error, "samples could not be logged and are in memory only");
            self.samples.clear();
            self.last_t = 0;
        }
    }

    pub(super) fn is_dirty(&self) -> bool {
        !self.series.is_empty() || !self.samples.is_empty()
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn flush(&mut self, metrics: &TsdbMetrics) -> Result<()> {
        let outcome = self.write_pending();
        match &outcome {
            Ok(()) => metrics.wal_bytes.set(self.size as i64),
            Err(_) => metrics.write_failures.inc(),
        }
        outcome
    }

    fn write_pending(&mut self) -> Result<()> {
        if !self.is_dirty() {
            return Ok(());
        }
        let mut records = Vec::new();
        for (kind, body) in [(1, &self.series), (2, &self.samples)] {
            if !body.is_empty() {
                let packed = snap::raw::Encoder::new()
                    .compress_vec(body)
                    .map_err(|e| Error::io("compress", &self.path)(std::io::Error::other(e)))?;
                frame(&mut records, kind, &packed);
            }
        }
        if let Err(error) = self.file.write_all(&records) {
            // Half a record must not stay between whole ones.
            let _ = self.file.set_len(self.size);
            let _ = self.file.seek(SeekFrom::Start(self.size));
            return Err(Error::io("write", &self.path)(error));
        }
        self.size += records.len() as u64;
        self.series.clear();
        self.samples.clear();
        self.last_t = 0;
        for buffer in [&mut self.series, &mut self.samples] {
            buffer.shrink_to(64 << 10);
        }
        Ok(())
    }

    pub(super) fn sync(&mut self) -> Result<()> {
        self.file.sync_data().map_err(Error::io("sync", &self.path))
    }

    /// Begins the next segment, and a checkpoint that replaces all before it.
    pub(super) fn rotate(&mut self, metrics: &TsdbMetrics) -> Result<Checkpoint> {
        self.flush(metrics)?;
        let number = self.number + 1;
        let temporary = self.dir.join(format!("{number:08}.tmp"));
        let mut file = BufWriter::new(File::create(&temporary).map_err(Error::io("create", &temporary))?);
        file.write_all(CHECKPOINT_MAGIC).map_err(Error::io("write", &temporary))?;
        let (path, segment, size) = segment(&self.dir, number, 0)?;
        (self.number, self.path, self.file, self.size) = (number, path, segment, size);
        Ok(Checkpoint { dir: self.dir.clone(), number, temporary, file, count: 0 })
    }
}

// === impl Checkpoint ===

impl Checkpoint {
    pub(super) fn series(&mut self, id: SeriesId, labels: &Labels, chunks: &[Sealed]) -> Result<()> {
        let (mut series, mut body, mut records) = (Vec::new(), Vec::new(), Vec::new());
        put_series(&mut series, id, labels);
        let packed = snap::raw::Encoder::new()
            .compress_vec(&series)
            .map_err(|e| Error::io("compress", &self.temporary)(std::io::Error::other(e)))?;
        frame(&mut records, 1, &packed);
        put(&mut body, id);
        put(&mut body, chunks.len() as u64);
        for chunk in chunks {
            put(&mut body, zigzag(chunk.min_t));
            put(&mut body, chunk.max_t.wrapping_sub(chunk.min_t) as u64);
            put(&mut body, u64::from(chunk.count));
            put_bytes(&mut body, &chunk.data);
        }
        frame(&mut records, 3, &body);
        self.count += 1;
        self.file.write_all(&records).map_err(Error::io("write", &self.temporary))
    }

    /// Makes the checkpoint durable, and removes what it replaces.
    pub(super) fn finish(mut self) -> Result<()> {
        let (mut body, mut record) = (Vec::new(), Vec::new());
        put(&mut body, self.count);
        frame(&mut record, 4, &body);
        let path = self.dir.join(format!("{:08}.checkpoint", self.number));
        self.file.write_all(&record).map_err(Error::io("write", &self.temporary))?;
        self.file.flush().map_err(Error::io("write", &self.temporary))?;
        self.file.get_ref().sync_all().map_err(Error::io("sync", &self.temporary))?;
        fs::rename(&self.temporary, &path).map_err(Error::io("rename", &self.temporary))?;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(Error::io("sync", &self.dir))?;
        for (number, old) in numbered(&self.dir)? {
            if number < self.number {
                fs::remove_file(&old).map_err(Error::io("remove", &old))?;
            }
        }
        Ok(())
    }
}

/// Opens a segment for writing at `end`, cutting what lies behind; a new one gets its magic.
fn segment(dir: &Path, number: u64, end: u64) -> Result<(PathBuf, File, u64)> {
    let path = dir.join(format!("{number:08}.wal"));
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(Error::io("open", &path))?;
    let end = if end < WAL_MAGIC.len() as u64 { 0 } else { end };
    file.set_len(end).map_err(Error::io("cut", &path))?;
    file.seek(SeekFrom::Start(end)).map_err(Error::io("seek in", &path))?;
    if end == 0 {
        file.write_all(WAL_MAGIC).map_err(Error::io("write", &path))?;
        return Ok((path, file, WAL_MAGIC.len() as u64));
    }
    Ok((path, file, end))
}

/// The files whose names are numbers, in order of the numbers.
fn numbered(dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let path = entry.map_err(Error::io("list", dir))?.path();
        if let Some(number) = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse().ok()) {
            files.push((number, path));
        }
    }
    files.sort();
    Ok(files)
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e == extension)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    File::open(path).and_then(|mut f| f.read_to_end(&mut data)).map_err(Error::io("read", path))?;
    Ok(data)
}

/// The record at an offset, and the offset behind it; `None` where there is no whole record.
fn record(data: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let head = data.get(at..at + 8)?;
    let length = u32::from_le_bytes(head[..4].try_into().ok()?) as usize;
    let sum = u32::from_le_bytes(head[4..].try_into().ok()?);
    if length == 0 || length > MAX_RECORD {
        return None;
    }
    let payload = data.get(at + 8..at + 8 + length)?;
    (crc32fast::hash(payload) == sum).then_some((payload, at + 8 + length))
}

fn is_whole_checkpoint(data: &[u8]) -> bool {
    if !data.starts_with(CHECKPOINT_MAGIC) {
        return false;
    }
    let (mut at, mut series, mut closed) = (CHECKPOINT_MAGIC.len(), 0, false);
    while let Some((payload, next)) = record(data, at) {
        match payload[0] {
            3 => series += 1,
            4 => closed = Cursor(&payload[1..]).varint() == Some(series),
            _ => {}
        }
        at = next;
    }
    closed && at == data.len()
}

/// Hands every whole record to `replay`, and says where they end.
fn replay_all(data: &[u8], magic: &[u8], replay: &mut dyn FnMut(Record)) -> usize {
    if !data.starts_with(magic) {
        return 0;
    }
    let mut at = magic.len();
    while let Some((payload, next)) = record(data, at) {
        if decode(payload, replay).is_none() {
            break;
        }
        at = next;
    }
    at
}

fn decode(payload: &[u8], replay: &mut dyn FnMut(Record)) -> Option<()> {
    let (kind, body) = (payload[0], &payload[1..]);
    match kind {
        1 => {
            let body = snap::raw::Decoder::new().decompress_vec(body).ok()?;
            let mut cursor = Cursor(&body);
            while !cursor.0.is_empty() {
                let id = cursor.varint()?;
                let count = cursor.varint()?;
                let mut pairs = Vec::new();
                for _ in 0..count {
                    pairs.push((cursor.text()?, cursor.text()?));
                }
                replay(Record::Series(id, Labels::from_pairs(pairs)));
            }
        }
        2 => {
            let body = snap::raw::Decoder::new().decompress_vec(body).ok()?;
            let (mut cursor, mut t, mut samples) = (Cursor(&body), 0i64, Vec::new());
            while !cursor.0.is_empty() {
                let id = cursor.varint()?;
                t = t.wrapping_add(unzigzag(cursor.varint()?));
                let v = f64::from_le_bytes(cursor.take(8)?.try_into().ok()?);
                samples.push((id, Sample { t, v }));
            }
            replay(Record::Samples(samples));
        }
        3 => {
            let mut cursor = Cursor(body);
            let (id, count) = (cursor.varint()?, cursor.varint()?);
            let mut chunks = Vec::new();
            for _ in 0..count {
                let min_t = unzigzag(cursor.varint()?);
                let max_t = min_t.wrapping_add(cursor.varint()? as i64);
                let count = u16::try_from(cursor.varint()?).ok()?;
                let length = usize::try_from(cursor.varint()?).ok()?;
                chunks.push(Sealed { min_t, max_t, count, data: cursor.take(length)?.into() });
            }
            replay(Record::Chunks(id, chunks));
        }
        4 => {}
        _ => return None,
    }
    Some(())
}

fn frame(out: &mut Vec<u8>, kind: u8, body: &[u8]) {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&[kind]);
    sum.update(body);
    out.extend_from_slice(&(body.len() as u32 + 1).to_le_bytes());
    out.extend_from_slice(&sum.finalize().to_le_bytes());
    out.push(kind);
    out.extend_from_slice(body);
}

fn put_series(out: &mut Vec<u8>, id: SeriesId, labels: &Labels) {
    put(out, id);
    put(out, labels.len() as u64);
    for (name, value) in labels.iter() {
        put_bytes(out, name.as_bytes());
        put_bytes(out, value.as_bytes());
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads what `put` wrote.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.varint()?).ok()?;
        String::from_utf8(self.take(length)?.to_vec()).ok()
    }
}
