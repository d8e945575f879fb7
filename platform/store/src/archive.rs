//! A store's state at one revision in a file, and moves of a state between engines.
//!
//! The file is for every engine alike. What is encrypted at rest is encrypted in it, under the same keys, which are not in
//! it. A SHA-256 of everything stands at its end: a file that is torn or altered is refused. Integers are little-endian:
//!
//! - `PHAROSNP`, format version (4, now 1), revision (8), when it was taken in seconds of Unix time (8);
//! - for each entry a byte 1, key length (4), key, revision (8), length (4) and value, both as in the embedded engine's log;
//! - a byte 0, how many entries there are (8), the SHA-256 (32).

use std::fs;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ring::digest;

use crate::embedded::record::{self, Fields, Stored};
use crate::embedded::restore::{Replacement, create_new};
use crate::keyring::Keyring;
use crate::{Config, Embedded, Entry, Error, Metrics, Op, Page, Range, Result, Revision, Store, files};

const MAGIC: &[u8; 8] = b"PHAROSNP";
const VERSION: u32 = 1;
const SUM_LEN: usize = 32;
const ENTRY: u8 = 1;
const END: u8 = 0;
/// Entries read from a store at once.
const PAGE: usize = 1000;
/// Entries and bytes written to a store at once: well within etcd's limits.
const BATCH: (usize, usize) = (64, 256 << 10);

/// A snapshot that was read and found whole.
pub struct Archive {
    path: PathBuf,
    bytes: Vec<u8>,
    /// The revision of the state.
    pub revision: Revision,
    /// When it was taken, in seconds of Unix time.
    pub taken_unix_seconds: i64,
    /// How many entries it has.
    pub entries: u64,
}

/// An entry of an archive.
struct Record<'a> {
    key: &'a str,
    revision: Revision,
    stored: Stored<'a>,
}

impl Archive {
    /// Writes the state of a store to a new file, which is there whole or not at all. Returns what [`read`](Archive::read)
    /// would.
    ///
    /// # Errors
    ///
    /// Those of [`Store::list`]; [`Error::Io`], also if there is such a file; [`Error::DiskFull`].
    pub async fn write(store: &dyn Store, path: &Path, now_unix_seconds: i64) -> Result<Self> {
        if path.exists() {
            return Err(Error::io("create", path, std::io::ErrorKind::AlreadyExists.into()));
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let part = path.with_file_name(name);
        files::remove(&part)?;
        let outcome = Self::write_part(store, &part, now_unix_seconds).await;
        let named = outcome.and_then(|()| files::rename(&part, path));
        if named.is_err() {
            drop(fs::remove_file(&part)); // Of no use.
        }
        named?;
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || Self::read(&path)).await.unwrap_or(Err(Error::Closed))
    }

    async fn write_part(store: &dyn Store, part: &Path, now_unix_seconds: i64) -> Result<()> {
        let io = |e| Error::io("write", part, e);
        let mut out = BufWriter::new(create_new(part)?);
        let mut sum = digest::Context::new(&digest::SHA256);
        let keyring = store.keyring().clone();
        let mut pages = Pages::new(store);
        let first = pages.next().await?;
        let mut chunk = Vec::new();
        chunk.extend_from_slice(MAGIC);
        chunk.extend_from_slice(&VERSION.to_le_bytes());
        chunk.extend_from_slice(&pages.revision().to_le_bytes());
        chunk.extend_from_slice(&now_unix_seconds.to_le_bytes());
        let mut count = 0_u64;
        let mut page = first;
        while let Some(entries) = page {
            for entry in &entries {
                encode(&mut chunk, &keyring, entry)?;
            }
            count += entries.len() as u64;
            sum.update(&chunk);
            out.write_all(&chunk).map_err(io)?;
            chunk.clear();
            page = pages.next().await?;
        }
        chunk.push(END);
        chunk.extend_from_slice(&count.to_le_bytes());
        sum.update(&chunk);
        chunk.extend_from_slice(sum.finish().as_ref());
        out.write_all(&chunk).map_err(io)?;
        let file = out.into_inner().map_err(|e| io(e.into_error()))?;
        file.sync_all().map_err(io)
    }

    /// Reads a file and checks all of it.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; [`Error::Corrupt`] if the file is not a snapshot, or torn, or altered.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(|e| Error::io("read", path, e))?;
        let corrupt = |reason: &str| Error::Corrupt { path: path.into(), offset: 0, reason: reason.to_owned() };
        if !bytes.starts_with(MAGIC) {
            return Err(corrupt("not a snapshot"));
        }
        let Some((body, sum)) = bytes.split_at_checked(bytes.len().saturating_sub(SUM_LEN)) else {
            return Err(corrupt("it is cut off"));
        };
        if digest::digest(&digest::SHA256, body).as_ref() != sum {
            return Err(corrupt("the checksum does not match: it is cut off or altered"));
        }
        let mut fields = Fields(&body[MAGIC.len()..]);
        let (version, revision, taken) = header(&mut fields).map_err(|reason| corrupt(&reason))?;
        if version != VERSION {
            return Err(corrupt(&format!("snapshot format {version} is not known")));
        }
        let mut archive = Self { path: path.to_owned(), revision, taken_unix_seconds: taken, entries: 0, bytes };
        let mut entries = 0;
        archive.each(|_| {
            entries += 1;
            Ok(())
        })?;
        archive.entries = entries;
        Ok(archive)
    }

    /// Bytes of the file.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Makes the snapshot the state of an embedded store that no server has open, with the encryption keys of `key_file` or
    /// else of the store. With `bump` its revision is so much higher than the snapshot's: clients that have seen later ones
    /// are then not misled. Returns where the former directory is now.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`]; [`Error::Decrypt`] if a key is missing; [`Error::Io`] and [`Error::DiskFull`] with nothing
    /// changed.
    pub fn restore(&self, config: &Config, key_file: Option<&Path>, bump: u64, now_unix_seconds: i64) -> Result<Option<PathBuf>> {
        let replacement = Replacement::begin(&config.dir, key_file)?;
        let keyring = Keyring::open(replacement.path().join(crate::KEY_FILE), config.encrypted_prefixes.clone())?;
        let mut records = Vec::new();
        self.each(|record| {
            if let Some(seal) = record.stored.seal {
                keyring.open_sealed(record.key, &record::context(record.key, record.revision), seal, record.stored.data)?;
            }
            records.push((record.key, record.revision, record.stored));
            Ok(())
        })?;
        replacement.fill(self.revision.saturating_add(bump), records.into_iter())?;
        replacement.finish(now_unix_seconds)
    }

    /// Visits all entries.
    fn each<'a>(&'a self, mut visit: impl FnMut(Record<'a>) -> Result<()>) -> Result<()> {
        let corrupt = |reason: String| Error::Corrupt { path: self.path.clone(), offset: 0, reason };
        let body = &self.bytes[MAGIC.len()..self.bytes.len() - SUM_LEN];
        let mut fields = Fields(body);
        header(&mut fields).map_err(corrupt)?;
        let mut count = 0;
        while let Some(record) = record(&mut fields).map_err(corrupt)? {
            visit(record)?;
            count += 1;
        }
        let expected = fields.u64().map_err(corrupt)?;
        if expected == count && fields.0.is_empty() { Ok(()) } else { Err(corrupt("entries are missing".to_owned())) }
    }
}

fn header(fields: &mut Fields<'_>) -> Result<(u32, Revision, i64), String> {
    Ok((fields.u32()?, fields.u64()?, fields.u64()? as i64))
}

fn record<'a>(fields: &mut Fields<'a>) -> Result<Option<Record<'a>>, String> {
    match fields.u8()? {
        END => return Ok(None),
        ENTRY => {}
        kind => return Err(format!("entry of unknown kind {kind}")),
    }
    let len = fields.u32()? as usize;
    let key = std::str::from_utf8(fields.take(len)?).map_err(|e| format!("key is not UTF-8: {e}"))?;
    let revision = fields.u64()?;
    let len = fields.u32()? as usize;
    Ok(Some(Record { key, revision, stored: Stored::decode(fields.take(len)?)? }))
}

fn encode(out: &mut Vec<u8>, keyring: &Keyring, entry: &Entry) -> Result<()> {
    let sealed = keyring.seal(&entry.key, &record::context(&entry.key, entry.revision), &entry.bytes)?;
    let stored = Stored {
        create_revision: entry.create_revision,
        revision_at: entry.revision_at,
        expires_unix_seconds: entry.expires_unix_seconds,
        seal: sealed.as_ref().map(|sealed| (sealed.key_id, sealed.nonce)),
        data: sealed.as_ref().map_or(&entry.bytes, |sealed| &sealed.data),
    };
    out.push(ENTRY);
    out.extend_from_slice(&(entry.key.len() as u32).to_le_bytes());
    out.extend_from_slice(entry.key.as_bytes());
    out.extend_from_slice(&entry.revision.to_le_bytes());
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    stored.encode(out);
    let len = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&len.to_le_bytes());
    Ok(())
}

/// Reads all of a store, at one revision.
struct Pages<'a> {
    store: &'a dyn Store,
    next: Option<Range>,
    revision: Revision,
}

impl<'a> Pages<'a> {
    fn new(store: &'a dyn Store) -> Self {
        Self { store, next: Some(Range { limit: PAGE, ..Range::default() }), revision: 0 }
    }

    async fn next(&mut self) -> Result<Option<Vec<Entry>>> {
        let Some(range) = self.next.take() else { return Ok(None) };
        let Page { revision, entries, remaining } = self.store.list(range).await?;
        self.revision = revision;
        if let Some(last) = entries.last().filter(|_| remaining > 0) {
            let start = Some(format!("{}\0", last.key));
            self.next = Some(Range { start, limit: PAGE, at: Some(revision), ..Range::default() });
        }
        Ok(Some(entries))
    }

    fn revision(&self) -> Revision {
        self.revision
    }
}

/// Copies the state of a store into an empty one. Objects get new revisions. Returns how many there are.
///
/// # Errors
///
/// [`Error::Invalid`] if the other is not empty; those of both stores, with what was copied until then left there.
pub async fn copy(from: &dyn Store, to: &dyn Store, now_unix_seconds: i64) -> Result<u64> {
    if !to.list(Range { limit: 1, ..Range::default() }).await?.entries.is_empty() {
        return Err(Error::Invalid("there are entries already where they are to be copied to".to_owned()));
    }
    let mut pages = Pages::new(from);
    let mut count = 0;
    while let Some(entries) = pages.next().await? {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for entry in entries {
            let left = entry.expires_unix_seconds.map(|at| at - now_unix_seconds);
            if left.is_some_and(|left| left <= 0) {
                continue;
            }
            if !batch.is_empty() && (batch.len() == BATCH.0 || bytes + entry.bytes.len() > BATCH.1) {
                to.commit(std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
            bytes += entry.bytes.len();
            count += 1;
            let op = Op::create(entry.key.clone(), entry.value());
            batch.push(match left {
                Some(left) => op.with_ttl(Duration::from_secs(left.unsigned_abs())),
                None => op,
            });
        }
        if !batch.is_empty() {
            to.commit(batch).await?;
        }
    }
    Ok(count)
}

impl Embedded {
    /// Copies the state of another store into a new embedded one, in the place of a directory that no server has open and
    /// that has no entries, with the encryption keys in it. Returns how many there are.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`], [`Error::Invalid`] if there are entries already, and those of both stores: nothing has changed then.
    pub async fn copy_from(from: &dyn Store, config: Config, clock: pharos_telemetry::Clock, metrics: Metrics) -> Result<u64> {
        let now = clock.now().as_second();
        let dir = config.dir.clone();
        let is_store = |path: PathBuf| path.extension().is_some_and(|extension| extension == "log" || extension == "redb");
        if fs::read_dir(&dir).is_ok_and(|mut files| files.any(|file| file.is_ok_and(|file| is_store(file.path())))) {
            return Err(Error::Invalid(format!("{} has a store already; move it away first", dir.display())));
        }
        let replacement = Replacement::begin(&dir, None)?;
        let new = Config { dir: replacement.path().to_owned(), ..config };
        let store: Arc<Self> =
            tokio::task::spawn_blocking(move || Self::open(new, clock, metrics)).await.unwrap_or(Err(Error::Closed))?;
        let copied = copy(from, &*store, now).await;
        store.close().await;
        drop(store);
        let copied = copied?;
        replacement.finish(now)?;
        Ok(copied)
    }
}
