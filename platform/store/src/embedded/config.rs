//! What can be set of the embedded engine.

use std::path::PathBuf;

use serde::Deserialize;

use crate::{Error, Result};

/// Settings of the embedded engine.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    /// Directory of all files, used by one process at a time. Default `/var/lib/pharos/store`.
    pub dir: PathBuf,
    /// Keys whose values are encrypted at rest start with one of these. Default: Secrets, `/registry/core/secrets/`.
    pub encrypted_prefixes: Vec<String>,
    /// Bytes of a log segment, 64 KiB to 1 GiB. At most about two lie between a restart and readiness. Default 16 MiB.
    pub segment_bytes: u64,
    /// Bytes of a commit, keys and values together, at most half a segment. Default 3 MiB.
    pub max_commit_bytes: usize,
    /// Bytes of replaced and deleted values kept for reads and watches of the past; older ones go before compaction
    /// is due. Default 256 MiB.
    pub max_history_bytes: usize,
    /// Commits waiting at most; more wait where they are made. Default 4,096.
    pub queue_commits: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            dir: "/var/lib/pharos/store".into(),
            encrypted_prefixes: vec!["/registry/core/secrets/".to_owned()],
            segment_bytes: 16 << 20,
            max_commit_bytes: 3 << 20,
            max_history_bytes: 256 << 20,
            queue_commits: 4096,
        }
    }
}

impl Config {
    /// The defaults, in a directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), ..Self::default() }
    }

    /// Finds all mistakes at once.
    pub(super) fn check(&self) -> Result<()> {
        let mut mistakes = Vec::new();
        if !(64 << 10..=1 << 30).contains(&self.segment_bytes) {
            mistakes.push("segmentBytes is not within 64 KiB and 1 GiB");
        }
        if self.max_commit_bytes == 0 || self.max_commit_bytes as u64 > self.segment_bytes / 2 {
            mistakes.push("maxCommitBytes is not within 1 and half of segmentBytes");
        }
        if self.queue_commits == 0 {
            mistakes.push("queueCommits is 0");
        }
        if mistakes.is_empty() { Ok(()) } else { Err(Error::Invalid(mistakes.join("; "))) }
    }
}
