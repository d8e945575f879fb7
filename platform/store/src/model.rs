//! What every store engine speaks: operations, entries, events.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::{Error, Result};

/// A point in the store's history. Every commit that changes something makes the next one; 0 is before the first.
pub type Revision = u64;

/// One step of a commit. A commit names a key at most once.
#[derive(Debug, Clone)]
pub enum Op {
    /// Stores a value.
    Put {
        /// The key.
        key: Arc<str>,
        /// The value.
        value: Value,
        /// What must hold of the key before.
        expect: Expect,
        /// How long the value lives, rounded up to seconds. It is then deleted, with a revision. `None`: for ever.
        ttl: Option<Duration>,
    },
    /// Removes a key. Removing what is absent changes nothing (if `expect` allows it).
    Delete {
        /// The key.
        key: Arc<str>,
        /// What must hold of the key before.
        expect: Expect,
    },
    /// Changes nothing, but the whole commit depends on it.
    Check {
        /// The key.
        key: Arc<str>,
        /// What must hold of the key.
        expect: Expect,
    },
}

/// What must hold of a key for a commit to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Any,
    /// The key is absent.
    Absent,
    /// The key was last changed at this revision.
    Revision(Revision),
}

/// Bytes to store, and where in them the revision goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    bytes: Bytes,
    revision_at: Option<u32>,
}

/// A key's state at a revision. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Arc<str>,
    /// The complete bytes, revision spliced in.
    pub bytes: Bytes,
    /// The commit this state is from.
    pub revision: Revision,
    /// The commit that created the key.
    pub create_revision: Revision,
    /// When the entry is deleted by itself, in seconds of Unix time.
    pub expires_unix_seconds: Option<i64>,
    /// Where in `bytes` the digits of `revision` start.
    pub revision_at: Option<u32>,
}

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The commit that made it.
    pub revision: Revision,
    /// The key.
    pub key: Arc<str>,
    /// The new state; `None`: deleted.
    pub current: Option<Entry>,
    /// The state before; `None`: created.
    pub previous: Option<Entry>,
}

/// The kinds of change, named as a watch names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// `ADDED`
    Added,
    /// `MODIFIED`
    Modified,
    /// `DELETED`
    Deleted,
}

/// What a commit did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The revision it made, or the store's revision if nothing changed.
    pub revision: Revision,
    /// For each operation, in order, the key's state before and after.
    pub changes: Vec<Change>,
}

/// A key's state before and after a commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Before.
    pub previous: Option<Entry>,
    /// After.
    pub current: Option<Entry>,
}

/// A question for a range of keys.
#[derive(Debug, Clone, Default)]
pub struct Range {
    /// What the keys start with.
    pub prefix: String,
    /// The first key wanted, for the pages after the first.
    pub start: Option<String>,
    /// How many entries at most; 0: all.
    pub limit: usize,
    /// The revision to read at; `None`: now.
    pub at: Option<Revision>,
}

/// An answer: entries in key order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The revision read: the one asked for, or the store's own.
    pub revision: Revision,
    /// The entries.
    pub entries: Vec<Entry>,
    /// How many more there are after these.
    pub remaining: usize,
}

/// What a store tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// `embedded` or `etcd`.
    pub engine: Cow<'static, str>,
    /// The engine's version.
    pub version: String,
    /// Its directory or endpoints.
    pub place: String,
    /// The newest revision.
    pub revision: Revision,
    /// The oldest revision that can be read, if that is known.
    pub compacted_revision: Option<Revision>,
    /// Live keys.
    pub keys: u64,
    /// Bytes on disk.
    pub size_bytes: u64,
}

/// What a watch yields: all events of one or more commits, in order, none torn apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Everything up to this revision has been yielded.
    pub revision: Revision,
    /// The events; none when the batch only tells how far the watch is.
    pub events: Vec<Arc<Event>>,
}

// === impl Op ===

impl Op {
    /// Stores `value` under a key that must be absent.
    pub fn create(key: impl Into<Arc<str>>, value: Value) -> Self {
        Self::Put { key: key.into(), value, expect: Expect::Absent, ttl: None }
    }

    /// Replaces the value last changed at `revision`.
    pub fn update(key: impl Into<Arc<str>>, value: Value, revision: Revision) -> Self {
        Self::Put { key: key.into(), value, expect: Expect::Revision(revision), ttl: None }
    }

    /// Stores `value` whatever was there.
    pub fn put(key: impl Into<Arc<str>>, value: Value) -> Self {
        Self::Put { key: key.into(), value, expect: Expect::Any, ttl: None }
    }

    /// Removes a key.
    pub fn delete(key: impl Into<Arc<str>>, expect: Expect) -> Self {
        Self::Delete { key: key.into(), expect }
    }

    /// Makes the commit depend on a key it leaves alone.
    pub fn check(key: impl Into<Arc<str>>, expect: Expect) -> Self {
        Self::Check { key: key.into(), expect }
    }

    /// Lets a put live for `ttl`; without effect on the others.
    #[must_use]
    pub fn with_ttl(mut self, lifetime: Duration) -> Self {
        if let Self::Put { ttl, .. } = &mut self {
            *ttl = Some(lifetime);
        }
        self
    }

    /// The key it is about.
    pub fn key(&self) -> &Arc<str> {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } | Self::Check { key, .. } => key,
        }
    }

    /// What it expects of the key.
    pub fn expect(&self) -> Expect {
        match self {
            Self::Put { expect, .. } | Self::Delete { expect, .. } | Self::Check { expect, .. } => *expect,
        }
    }
}

impl Expect {
    /// Whether it holds of a key last changed at `revision`, or absent.
    pub fn holds(self, revision: Option<Revision>) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => revision.is_none(),
            Self::Revision(expected) => revision == Some(expected),
        }
    }
}

// === impl Value ===

impl Value {
    /// Bytes stored as they are.
    pub fn opaque(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), revision_at: None }
    }

    /// An object's JSON that holds `"resourceVersion":""`, where `revision_at` is the offset between the two quotes.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if there are no two quotes at that place.
    pub fn object(bytes: impl Into<Bytes>, revision_at: usize) -> Result<Self> {
        let bytes = bytes.into();
        let quoted = revision_at > 0 && bytes.get(revision_at - 1..=revision_at) == Some(br#""""#);
        match u32::try_from(revision_at) {
            Ok(at) if quoted => Ok(Self { bytes, revision_at: Some(at) }),
            _ => Err(Error::Invalid(format!("no empty string at offset {revision_at} for the revision"))),
        }
    }

    /// Serialises an object and makes room for its `metadata.resourceVersion`, whatever it says now.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if `object` or its `metadata` is not a JSON object.
    pub fn encode(object: &Json) -> Result<Self> {
        let invalid = |what: &str| Error::Invalid(format!("{what} is not a JSON object"));
        let root = object.as_object().ok_or_else(|| invalid("value"))?;
        let metadata = root.get("metadata").and_then(Json::as_object).ok_or_else(|| invalid("metadata"))?;
        let mut out = Vec::with_capacity(1024);
        let mut revision_at = 0;
        write_map(&mut out, root.iter().filter(|(key, _)| *key != "metadata"), |out| {
            out.extend_from_slice(br#""metadata":"#);
            write_map(out, metadata.iter().filter(|(key, _)| *key != "resourceVersion"), |out| {
                out.extend_from_slice(br#""resourceVersion":""#);
                revision_at = out.len();
                out.push(b'"');
                Ok(())
            })
        })?;
        Self::object(out, revision_at)
    }

    /// The bytes, without a revision.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Where the digits of the revision go.
    pub fn revision_at(&self) -> Option<u32> {
        self.revision_at
    }

    /// The complete bytes at a revision.
    pub fn splice(&self, revision: Revision) -> Bytes {
        let Some(at) = self.revision_at else { return self.bytes.clone() };
        splice(&self.bytes, at as usize, 0, revision)
    }
}

/// Writes a map whose first member is written by `first`: `metadata` leads, so that a card is read early.
fn write_map<'a>(
    out: &mut Vec<u8>,
    members: impl Iterator<Item = (&'a String, &'a Json)>,
    first: impl FnOnce(&mut Vec<u8>) -> Result<()>,
) -> Result<()> {
    out.push(b'{');
    first(out)?;
    for (key, value) in members {
        out.push(b',');
        let written = serde_json::to_writer(&mut *out, key).and_then(|()| {
            out.push(b':');
            serde_json::to_writer(&mut *out, value)
        });
        written.map_err(|e| Error::Invalid(e.to_string()))?;
    }
    out.push(b'}');
    Ok(())
}

/// Replaces the `old` bytes at `at` by the digits of `revision`.
fn splice(bytes: &[u8], at: usize, old: usize, revision: Revision) -> Bytes {
    let digits = revision.to_string();
    let mut out = BytesMut::with_capacity(bytes.len() - old + digits.len());
    out.put_slice(&bytes[..at]);
    out.put_slice(digits.as_bytes());
    out.put_slice(&bytes[at + old..]);
    out.freeze()
}

/// Decimal digits of a revision.
fn digits(revision: Revision) -> usize {
    revision.checked_ilog10().map_or(1, |log| log as usize + 1)
}

// === impl Entry ===

impl Entry {
    /// The value as it was put, without a revision: what another store can take over.
    pub fn value(&self) -> Value {
        let Some(at) = self.revision_at else { return Value::opaque(self.bytes.clone()) };
        let (at_index, len) = (at as usize, digits(self.revision));
        let mut out = BytesMut::with_capacity(self.bytes.len());
        out.put_slice(&self.bytes[..at_index]);
        out.put_slice(&self.bytes[at_index + len..]);
        Value { bytes: out.freeze(), revision_at: Some(at) }
    }

    /// The bytes with another revision in them: the last state of a deleted object is sent with the deletion's.
    pub fn bytes_at(&self, revision: Revision) -> Bytes {
        match self.revision_at {
            Some(at) => splice(&self.bytes, at as usize, digits(self.revision), revision),
            None => self.bytes.clone(),
        }
    }
}

// === impl Event ===

impl Event {
    /// What kind of change it is.
    pub fn kind(&self) -> EventType {
        match (&self.previous, &self.current) {
            (_, None) => EventType::Deleted,
            (None, Some(_)) => EventType::Added,
            (Some(_), Some(_)) => EventType::Modified,
        }
    }
}

impl EventType {
    /// As in a watch: `ADDED`, `MODIFIED`, `DELETED`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}
