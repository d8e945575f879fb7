//! The snapshot: live state on disk as of the end of a log segment, in a redb file.
//!
//! It is made by folding sealed segments into it, each in one transaction; so it costs what changed, not what there
//! is, needs no lock on the living state, and copies encrypted values as they are. A plain file, rewritten whole every
//! time, was the alternative: simpler, but a cluster's every object for each 16 MiB of log. redb does not verify
//! what it reads, so each entry carries a checksum, and a digest over all shows that none went missing.
//!
//! The file is open only while it is folded into or loaded: at rest it costs no memory.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::{Builder, Database, ReadableDatabase as _, ReadableTable, TableDefinition};

use super::log::{self, Sealed};
use super::record::{Fields, Stored};
use crate::{Error, Result, Revision, files};

/// Key to checksum, revision and value.
const ENTRIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("entries");
/// What is known of the whole.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// redb's page cache while the file is open.
const CACHE_BYTES: usize = 8 << 20;

/// Where the snapshot is, and how far it goes.
pub(super) struct SnapshotFile {
    path: PathBuf,
}

/// What holds of the whole snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Meta {
    /// Newest revision in it.
    pub(super) revision: Revision,
    /// Last segment folded into it; 0: none.
    pub(super) segment: u64,
    entries: u64,
    /// Sum over [`digest`] of all entries.
    digest: u64,
}

impl SnapshotFile {
    pub(super) fn new(dir: &Path) -> Self {
        Self { path: dir.join("snapshot.redb") }
    }

    /// Bytes of the file.
    pub(super) fn bytes(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |metadata| metadata.len())
    }

    /// Reads and checks everything.
    pub(super) fn load(&self, mut visit: impl FnMut(&str, Revision, &Stored<'_>) -> Result<()>) -> Result<Meta> {
        if !self.path.exists() {
            return Ok(Meta::default());
        }
        self.guarded(|database| {
            let read = database.begin_read().map_err(|e| self.failed(e))?;
            let meta = Meta::read(&read.open_table(META).map_err(|e| self.failed(e))?).map_err(|e| self.failed(e))?;
            let mut found = Meta { entries: 0, digest: 0, ..meta };
            let entries = read.open_table(ENTRIES).map_err(|e| self.failed(e))?;
            for entry in entries.iter().map_err(|e| self.failed(e))? {
                let (key, value) = entry.map_err(|e| self.failed(e))?;
                let (key, value) = (key.value(), value.value());
                let bad = |reason: String| self.corrupt(format!("entry {key}: {reason}"));
                found.count(key, value, true);
                let mut fields = Fields(value);
                if fields.u32().map_err(bad)? != checksum(key, &value[4..]) {
                    return Err(bad("checksum does not match".to_owned()));
                }
                let revision = fields.u64().map_err(bad)?;
                visit(key, revision, &Stored::decode(fields.0).map_err(bad)?)?;
            }
            if found != meta {
                return Err(self.corrupt("entries are missing".to_owned()));
            }
            Ok(meta)
        })
    }

    /// Folds a sealed segment in. Does nothing if that was done before.
    pub(super) fn fold(&self, sealed: &Sealed) -> Result<()> {
        let mut changes: HashMap<String, Option<Vec<u8>>> = HashMap::new();
        let revision = log::read_sealed(sealed, |revision, logged| {
            for change in logged {
                let value = change.put.map(|stored| encode(change.key, revision, &stored));
                changes.insert(change.key.to_owned(), value);
            }
        })?;
        self.guarded(|database| {
            let write = database.begin_write().map_err(|e| self.failed(e))?;
            {
                let mut table = write.open_table(META).map_err(|e| self.failed(e))?;
                let mut meta = Meta::read(&table).map_err(|e| self.failed(e))?;
                if meta.segment >= sealed.id {
                    return Ok(());
                }
                let mut entries = write.open_table(ENTRIES).map_err(|e| self.failed(e))?;
                for (key, value) in &changes {
                    let old = match value {
                        Some(value) => entries.insert(key.as_str(), value.as_slice()),
                        None => entries.remove(key.as_str()),
                    };
                    if let Some(old) = old.map_err(|e| self.failed(e))? {
                        meta.count(key, old.value(), false);
                    }
                    if let Some(value) = value {
                        meta.count(key, value, true);
                    }
                }
                (meta.revision, meta.segment) = (revision, sealed.id);
                meta.write(&mut table).map_err(|e| self.failed(e))?;
            }
            write.commit().map_err(|e| self.failed(e))
        })
    }

    /// Makes the file of entries that come from elsewhere, with no log before it.
    pub(super) fn fill<'a>(
        &self,
        revision: Revision,
        entries: impl Iterator<Item = (&'a str, Revision, Stored<'a>)>,
    ) -> Result<()> {
        self.guarded(|database| {
            let write = database.begin_write().map_err(|e| self.failed(e))?;
            {
                let mut table = write.open_table(META).map_err(|e| self.failed(e))?;
                let mut meta = Meta { revision, ..Meta::default() };
                let mut values = write.open_table(ENTRIES).map_err(|e| self.failed(e))?;
                for (key, revision, stored) in entries {
                    let value = encode(key, revision, &stored);
                    values.insert(key, value.as_slice()).map_err(|e| self.failed(e))?;
                    meta.count(key, &value, true);
                }
                meta.write(&mut table).map_err(|e| self.failed(e))?;
            }
            write.commit().map_err(|e| self.failed(e))
        })
    }

    /// Gives space that is not used back to the file system.
    pub(super) fn compact(&self) -> Result<()> {
        if !self.path.exists() {
            return Ok(());
        }
        let compact = || -> Result<(), redb::Error> {
            let mut database = Builder::new().set_cache_size(CACHE_BYTES).open(&self.path)?;
            while database.compact()? {}
            Ok(())
        };
        let outcome = catch_unwind(AssertUnwindSafe(compact));
        outcome.unwrap_or_else(|_| Err(redb::Error::Corrupted("structure is damaged".to_owned()))).map_err(|e| self.failed(e))
    }

    /// Opens the file for `act`, made if there is none. A damaged file may make redb panic; that is then an error like any
    /// other.
    fn guarded<T>(&self, act: impl FnOnce(&Database) -> Result<T>) -> Result<T> {
        let open = || {
            if !self.path.exists() {
                self.create()?;
            }
            let database = Builder::new().set_cache_size(CACHE_BYTES).open(&self.path).map_err(|e| self.failed(e))?;
            act(&database)
        };
        let outcome = catch_unwind(AssertUnwindSafe(open));
        outcome.unwrap_or_else(|_| Err(self.corrupt("structure is damaged".to_owned())))
    }

    /// Makes an empty snapshot under another name first: one half made, on a full disk, never has the real one.
    fn create(&self) -> Result<()> {
        let new = self.path.with_extension("new");
        files::remove(&new)?;
        let make = || -> Result<(), redb::Error> {
            let write = Builder::new().set_cache_size(CACHE_BYTES).create(&new)?.begin_write()?;
            write.open_table(ENTRIES)?;
            write.open_table(META)?;
            Ok(write.commit()?)
        };
        make().map_err(|e| self.failed(e))?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).map_err(|e| Error::io("restrict", &new, e))?;
        files::rename(&new, &self.path)
    }

    fn failed(&self, error: impl Into<redb::Error>) -> Error {
        match error.into() {
            redb::Error::Io(e) => Error::io("use", &self.path, e),
            redb::Error::Corrupted(reason) => self.corrupt(reason),
            other => self.corrupt(other.to_string()),
        }
    }

    fn corrupt(&self, reason: String) -> Error {
        Error::Corrupt { path: self.path.clone(), offset: 0, reason }
    }
}

impl Meta {
    fn read(table: &impl ReadableTable<&'static str, u64>) -> Result<Self, redb::StorageError> {
        let get = |name| table.get(name).map(|value| value.map_or(0, |value| value.value()));
        Ok(Self { revision: get("revision")?, segment: get("segment")?, entries: get("entries")?, digest: get("digest")? })
    }

    fn write(&self, table: &mut redb::Table<'_, &'static str, u64>) -> Result<(), redb::StorageError> {
        for (name, value) in
            [("revision", self.revision), ("segment", self.segment), ("entries", self.entries), ("digest", self.digest)]
        {
            table.insert(name, value)?;
        }
        Ok(())
    }

    /// Counts an entry in or out.
    fn count(&mut self, key: &str, value: &[u8], is_in: bool) {
        let digest = digest(key, value);
        if is_in {
            (self.entries, self.digest) = (self.entries.wrapping_add(1), self.digest.wrapping_add(digest));
        } else {
            (self.entries, self.digest) = (self.entries.wrapping_sub(1), self.digest.wrapping_sub(digest));
        }
    }
}

fn encode(key: &str, revision: Revision, stored: &Stored<'_>) -> Vec<u8> {
    let mut value = vec![0; 4];
    value.extend_from_slice(&revision.to_le_bytes());
    stored.encode(&mut value);
    let crc = checksum(key, &value[4..]);
    value[..4].copy_from_slice(&crc.to_le_bytes());
    value
}

fn checksum(key: &str, content: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(key.as_bytes());
    crc.update(&[0]);
    crc.update(content);
    crc.finalize()
}

/// Stands for an entry in a sum: its checksum, spread over 64 bits.
fn digest(key: &str, value: &[u8]) -> u64 {
    let crc = value.first_chunk().map_or(0, |crc| u32::from_le_bytes(*crc));
    let mixed = (u64::from(crc) << 32 | u64::from(crc32fast::hash(key.as_bytes()))).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}
