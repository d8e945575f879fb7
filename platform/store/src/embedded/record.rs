//! How commits are written: the bytes of a frame. README.md draws them field by field.

use bytes::BufMut;

use crate::Revision;

/// Bytes of a segment's header.
pub(crate) const SEGMENT_HEADER: usize = 64;
/// Bytes of a frame's header.
pub(crate) const FRAME_HEADER: usize = 24;

const SEGMENT_MAGIC: &[u8; 8] = b"PHAROLOG";
const FRAME_MAGIC: [u8; 4] = *b"PhFr";
const VERSION: u32 = 1;
/// Frames start at multiples of this, so that a search for them after damage has few places to look.
const ALIGN: usize = 8;

const PUT: u8 = 1;
const DELETE: u8 = 2;
const HAS_REVISION_AT: u8 = 1;
const HAS_EXPIRY: u8 = 2;
const IS_SEALED: u8 = 4;

/// What a segment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) id: u64,
    /// How much of the segment before is valid. What follows there was never acknowledged.
    pub(crate) previous_end: u64,
    /// The newest revision before this segment.
    pub(crate) revision: Revision,
}

/// A frame found in a segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub(crate) revision: Revision,
    /// Where the batch it was written with starts.
    pub(crate) batch_start: usize,
    pub(crate) payload: &'a [u8],
    /// Where the next frame starts.
    pub(crate) end: usize,
}

/// A change as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Logged<'a> {
    pub(crate) key: &'a str,
    /// `None`: deleted.
    pub(crate) put: Option<Stored<'a>>,
}

/// A value as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stored<'a> {
    pub(crate) create_revision: Revision,
    pub(crate) revision_at: Option<u32>,
    pub(crate) expires_unix_seconds: Option<i64>,
    /// If encrypted: id of the encryption key, and the nonce.
    pub(crate) seal: Option<(u32, [u8; 12])>,
    pub(crate) data: &'a [u8],
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER] {
        let mut out = [0; SEGMENT_HEADER];
        out[..8].copy_from_slice(SEGMENT_MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[16..24].copy_from_slice(&self.id.to_le_bytes());
        out[24..32].copy_from_slice(&self.previous_end.to_le_bytes());
        out[32..40].copy_from_slice(&self.revision.to_le_bytes());
        let crc = crc32fast::hash(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads and checks a header.
    pub(crate) fn decode(segment: &[u8]) -> Result<Self, String> {
        let header: &[u8; SEGMENT_HEADER] = segment.first_chunk().ok_or("segment has no whole header")?;
        if &header[..8] != SEGMENT_MAGIC {
            return Err("not a log segment".to_owned());
        }
        let mut blank = *header;
        blank[12..16].fill(0);
        let mut fields = Fields(&header[8..]);
        let (version, crc) = (fields.u32()?, fields.u32()?);
        if crc != crc32fast::hash(&blank) {
            return Err("header checksum does not match".to_owned());
        }
        if version != VERSION {
            return Err(format!("log format {version} is not known"));
        }
        Ok(Self { id: fields.u64()?, previous_end: fields.u64()?, revision: fields.u64()? })
    }
}

/// Begins a frame in a batch; [`finish_frame`] completes it.
pub(crate) fn begin_frame(batch: &mut Vec<u8>, revision: Revision, changes: usize) -> usize {
    let start = batch.len();
    batch.put_slice(&FRAME_MAGIC);
    batch.put_bytes(0, 12); // Length, checksum, batch start: known later.
    batch.put_u64_le(revision);
    batch.put_u32_le(changes as u32);
    start
}

/// Writes a change into the frame begun last.
pub(crate) fn put_change(batch: &mut Vec<u8>, change: &Logged<'_>) {
    batch.put_u8(if change.put.is_some() { PUT } else { DELETE });
    batch.put_u32_le(change.key.len() as u32);
    batch.put_slice(change.key.as_bytes());
    if let Some(stored) = &change.put {
        stored.encode(batch);
    }
}

/// Sets a frame's length and pads it.
pub(crate) fn finish_frame(batch: &mut Vec<u8>, start: usize) {
    let len = batch.len() - start - FRAME_HEADER;
    batch[start + 4..start + 8].copy_from_slice(&(len as u32).to_le_bytes());
    batch.resize(batch.len().next_multiple_of(ALIGN), 0);
}

/// Completes the frames of a batch for the place they go to.
pub(crate) fn seal_batch(batch: &mut [u8], segment: u64, offset: usize) {
    let mut start = 0;
    while start < batch.len() {
        let len = u32::from_le_bytes([batch[start + 4], batch[start + 5], batch[start + 6], batch[start + 7]]) as usize;
        batch[start + 12..start + 16].copy_from_slice(&(offset as u32).to_le_bytes());
        let end = start + FRAME_HEADER + len;
        let crc = frame_crc(segment, offset + start, &batch[start..end]);
        batch[start + 8..start + 12].copy_from_slice(&crc.to_le_bytes());
        start = end.next_multiple_of(ALIGN);
    }
}

/// Checksums a frame and its place: what was meant for another segment or offset never passes.
fn frame_crc(segment: u64, offset: usize, frame: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&segment.to_le_bytes());
    crc.update(&(offset as u64).to_le_bytes());
    crc.update(&frame[..8]);
    crc.update(&frame[12..]);
    crc.finalize()
}

/// The frame at an offset, if there is a whole and valid one.
pub(crate) fn frame_at(segment: u64, bytes: &[u8], offset: usize) -> Option<Frame<'_>> {
    let header = bytes.get(offset..offset + FRAME_HEADER)?;
    let mut fields = Fields(header.strip_prefix(&FRAME_MAGIC)?);
    let len = fields.u32().ok()? as usize;
    let crc = fields.u32().ok()?;
    let batch_start = fields.u32().ok()? as usize;
    let revision = fields.u64().ok()?;
    let end = offset.checked_add(FRAME_HEADER)?.checked_add(len)?;
    let frame = bytes.get(offset..end)?;
    (frame_crc(segment, offset, frame) == crc).then(|| Frame {
        revision,
        batch_start,
        payload: &frame[FRAME_HEADER..],
        end: end.next_multiple_of(ALIGN),
    })
}

/// The first valid frame at or after an offset that `wanted` accepts.
pub(crate) fn find_frame(segment: u64, bytes: &[u8], offset: usize, wanted: impl Fn(&Frame<'_>) -> bool) -> Option<usize> {
    let mut at = offset.next_multiple_of(ALIGN);
    while at + FRAME_HEADER <= bytes.len() {
        if bytes[at..at + 4] == FRAME_MAGIC && frame_at(segment, bytes, at).is_some_and(|frame| wanted(&frame)) {
            return Some(at);
        }
        at += ALIGN;
    }
    None
}

/// The changes of a frame.
pub(crate) fn changes(payload: &[u8]) -> Result<Vec<Logged<'_>>, String> {
    let mut fields = Fields(payload);
    let count = fields.u32()? as usize;
    let mut changes = Vec::with_capacity(count.min(payload.len()));
    for _ in 0..count {
        let kind = fields.u8()?;
        let len = fields.u32()? as usize;
        let key = std::str::from_utf8(fields.take(len)?).map_err(|e| format!("key is not UTF-8: {e}"))?;
        let put = match kind {
            PUT => Some(Stored::decode_from(&mut fields)?),
            DELETE => None,
            kind => return Err(format!("change of unknown kind {kind}")),
        };
        changes.push(Logged { key, put });
    }
    if fields.0.is_empty() { Ok(changes) } else { Err("frame is longer than its changes".to_owned()) }
}

impl<'a> Stored<'a> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let flag = |is: bool, flag: u8| if is { flag } else { 0 };
        out.put_u8(
            flag(self.revision_at.is_some(), HAS_REVISION_AT)
                | flag(self.expires_unix_seconds.is_some(), HAS_EXPIRY)
                | flag(self.seal.is_some(), IS_SEALED),
        );
        out.put_u64_le(self.create_revision);
        if let Some(at) = self.revision_at {
            out.put_u32_le(at);
        }
        if let Some(seconds) = self.expires_unix_seconds {
            out.put_i64_le(seconds);
        }
        if let Some((key_id, nonce)) = self.seal {
            out.put_u32_le(key_id);
            out.put_slice(&nonce);
        }
        out.put_u32_le(self.data.len() as u32);
        out.put_slice(self.data);
    }

    /// Reads a value that is all there is.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, String> {
        let mut fields = Fields(bytes);
        let stored = Self::decode_from(&mut fields)?;
        if fields.0.is_empty() { Ok(stored) } else { Err("value is followed by something".to_owned()) }
    }

    fn decode_from(fields: &mut Fields<'a>) -> Result<Self, String> {
        let flags = fields.u8()?;
        let has = |flag: u8| flags & flag != 0;
        Ok(Self {
            create_revision: fields.u64()?,
            revision_at: has(HAS_REVISION_AT).then(|| fields.u32()).transpose()?,
            expires_unix_seconds: has(HAS_EXPIRY).then(|| fields.u64()).transpose()?.map(|n| n as i64),
            seal: has(IS_SEALED).then(|| Ok::<_, String>((fields.u32()?, fields.array()?))).transpose()?,
            data: {
                let len = fields.u32()? as usize;
                fields.take(len)?
            },
        })
    }
}

/// What is authenticated with an encrypted value.
pub(crate) fn context(key: &str, revision: Revision) -> Vec<u8> {
    let mut context = revision.to_le_bytes().to_vec();
    context.extend_from_slice(key.as_bytes());
    context
}

/// Little-endian fields yet to be read.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or("ends too early")?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (taken, rest) = self.0.split_first_chunk().ok_or("ends too early")?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, String> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array()?))
    }
}
