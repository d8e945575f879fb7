//! Puts a directory in the place of a store's, while no server has it open. What was there is kept beside.

use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::record::Stored;
use super::snapshot::SnapshotFile;
use super::{KEY_FILE, lock};
use crate::{Error, Result, Revision, files};

/// A new directory that is to become a store's.
pub(crate) struct Replacement {
    dir: PathBuf,
    new: PathBuf,
    /// Held so that no server opens the directory meanwhile.
    _lock: Option<fs::File>,
}

impl Replacement {
    /// Begins, with the encryption keys of `key_file`, or else of the directory itself.
    pub(crate) fn begin(dir: &Path, key_file: Option<&Path>) -> Result<Self> {
        let lock = if dir.exists() { Some(lock(dir)?) } else { None };
        let new = dir.with_extension("new");
        if new.exists() {
            fs::remove_dir_all(&new).map_err(|e| Error::io("remove", &new, e))?;
        }
        files::create_dir(&new)?;
        let keys = key_file.map_or_else(|| dir.join(KEY_FILE), Path::to_owned);
        if key_file.is_some() || keys.exists() {
            let text = fs::read(&keys).map_err(|e| Error::io("read", &keys, e))?;
            files::replace(&new.join(KEY_FILE), &text)?;
        }
        Ok(Self { dir: dir.to_owned(), new, _lock: lock })
    }

    /// Where the new store is made.
    pub(crate) fn path(&self) -> &Path {
        &self.new
    }

    /// Fills the new directory with a state.
    pub(crate) fn fill<'a>(
        &self,
        revision: Revision,
        entries: impl Iterator<Item = (&'a str, Revision, Stored<'a>)>,
    ) -> Result<()> {
        SnapshotFile::new(&self.new).fill(revision, entries)
    }

    /// Gives the new directory its name. Returns where the old one is now, if there was one.
    pub(crate) fn finish(self, now_unix_seconds: i64) -> Result<Option<PathBuf>> {
        files::sync_dir(&self.new)?;
        let mut old = None;
        if self.dir.exists() {
            let name = self.dir.file_name().unwrap_or_default().to_string_lossy();
            let kept = self.dir.with_file_name(format!("{name}-old-{now_unix_seconds}"));
            files::rename(&self.dir, &kept)?;
            old = Some(kept);
        }
        files::rename(&self.new, &self.dir)?;
        Ok(old)
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if self.new.exists() {
            drop(fs::remove_dir_all(&self.new)); // Unfinished; the next attempt would remove it too.
        }
    }
}

/// Opens a file that must not exist, for us alone.
pub(crate) fn create_new(path: &Path) -> Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(path).map_err(|e| Error::io("create", path, e))
}
