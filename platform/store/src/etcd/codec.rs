//! How keys and values look in etcd.
//!
//! A key is the store's, with the prefix in place of the root. The value of an object is its JSON with an empty
//! `resourceVersion`, as upstream stores it, readable with `etcdctl get`. What must say more has a head in front:
//!
//! - `pharos:v1:{offset}:{expiry}:` and the bytes: where the revision's digits go, if anywhere, and when the entry
//!   expires, in seconds of Unix time, if ever. The lease that ends it does not tell, and another engine must know.
//! - `k8s:enc:aesgcm:v1:{key id}:` and nonce (12 bytes), ciphertext and tag of all that, in upstream's form: authenticated
//!   is the key in etcd.

use std::sync::Arc;

use bytes::Bytes;

use crate::keyring::Keyring;
use crate::{Entry, Error, Result, Revision, Value};

/// What the JSON of an object begins with, as [`Value::encode`] writes it.
const OBJECT: &[u8] = br#"{"metadata":{"resourceVersion":"""#;
const HEAD: &[u8] = b"pharos:v1:";
pub(super) const SEALED: &[u8] = b"k8s:enc:aesgcm:v1:";
const NONCE_LEN: usize = 12;
/// A key that only marks how far a watch is. Not an entry.
const MARKER: &str = "/.pharos-progress";

pub(super) struct Codec {
    prefix: String,
    root: String,
    keyring: Arc<Keyring>,
}

/// A key and value as etcd gives them.
#[derive(Clone, Copy)]
pub(super) struct Raw<'a> {
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    pub(super) create_revision: i64,
    pub(super) mod_revision: i64,
}

impl<'a> From<&'a etcd_client::KeyValue> for Raw<'a> {
    fn from(kv: &'a etcd_client::KeyValue) -> Self {
        Self { key: kv.key(), value: kv.value(), create_revision: kv.create_revision(), mod_revision: kv.mod_revision() }
    }
}

impl Codec {
    pub(super) fn new(prefix: String, root: String, keyring: Arc<Keyring>) -> Self {
        Self { prefix, root, keyring }
    }

    pub(super) fn keyring(&self) -> &Arc<Keyring> {
        &self.keyring
    }

    /// What everything in etcd starts with.
    pub(super) fn base(&self) -> String {
        format!("{}/", self.prefix)
    }

    pub(super) fn marker(&self) -> String {
        format!("{}{MARKER}", self.prefix)
    }

    /// A key in etcd.
    pub(super) fn key(&self, key: &str) -> Result<String> {
        match key.strip_prefix(&self.root) {
            Some(rest) if rest.starts_with('/') => Ok(format!("{}{rest}", self.prefix)),
            _ => Err(Error::Invalid(format!("key {key:?} is not below {}/", self.root))),
        }
    }

    /// The range of keys in etcd that start with a prefix: the first, and the one after the last.
    pub(super) fn range(&self, prefix: &str, start: Option<&str>) -> Result<(String, String)> {
        // Everything may be asked for without knowing the root.
        let first = if self.root.starts_with(prefix) { self.base() } else { self.key(prefix)? };
        let end = after_prefix(&first);
        let start = start.filter(|start| *start > prefix).map(|start| self.key(start)).transpose()?;
        Ok((start.filter(|start| *start > first).unwrap_or(first), end))
    }

    /// A key of the store; `None`: not an entry.
    pub(super) fn decode_key(&self, key: &[u8]) -> Result<Option<Arc<str>>> {
        let text = std::str::from_utf8(key).ok().and_then(|key| key.strip_prefix(&self.prefix));
        match text {
            Some(MARKER) => Ok(None),
            Some(rest) => Ok(Some(format!("{}{rest}", self.root).into())),
            None => Err(Error::Backend(format!("key {} is not ours", String::from_utf8_lossy(key)))),
        }
    }

    /// A value in etcd.
    pub(super) fn encode(&self, key: &str, value: &Value, expires_unix_seconds: Option<i64>) -> Result<Vec<u8>> {
        let (bytes, at) = (value.bytes(), value.revision_at());
        let is_object = at == Some(OBJECT.len() as u32 - 1) && bytes.starts_with(OBJECT);
        let is_plain = at.is_none() && !bytes.starts_with(OBJECT) && !bytes.starts_with(HEAD) && !bytes.starts_with(SEALED);
        let mut out = Vec::with_capacity(bytes.len() + 64);
        if expires_unix_seconds.is_some() || !(is_object || is_plain) {
            let text = |number: Option<i64>| number.map(|number| number.to_string()).unwrap_or_default();
            out.extend_from_slice(HEAD);
            out.extend_from_slice(format!("{}:{}:", text(at.map(i64::from)), text(expires_unix_seconds)).as_bytes());
        }
        out.extend_from_slice(bytes);
        let Some(sealed) = self.keyring.seal(key, self.key(key)?.as_bytes(), &out)? else { return Ok(out) };
        let mut out = SEALED.to_vec();
        out.extend_from_slice(format!("{:08x}:", sealed.key_id).as_bytes());
        out.extend_from_slice(&sealed.nonce);
        out.extend_from_slice(&sealed.data);
        Ok(out)
    }

    /// An entry; `None`: not one.
    pub(super) fn decode(&self, raw: Raw<'_>) -> Result<Option<Entry>> {
        let Some(key) = self.decode_key(raw.key)? else { return Ok(None) };
        let bad = |what: &str| Error::Backend(format!("value of {key} {what}"));
        let plain = match sealed_by(raw.value) {
            Some((key_id, rest)) => {
                let (nonce, data) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(|| bad("is cut off"))?;
                self.keyring.open_sealed(&key, raw.key, (key_id, *nonce), data)?
            }
            None if raw.value.starts_with(SEALED) => return Err(bad("names no encryption key")),
            None => Bytes::copy_from_slice(raw.value),
        };
        let (bytes, revision_at, expires_unix_seconds) = match head(&plain).map_err(bad)? {
            Some(head) => (plain.slice(head.len..), head.revision_at, head.expires_unix_seconds),
            None if plain.starts_with(OBJECT) => (plain, Some(OBJECT.len() as u32 - 1), None),
            None => (plain, None, None),
        };
        let value = match revision_at {
            Some(at) => Value::object(bytes, at as usize)?,
            None => Value::opaque(bytes),
        };
        let revision = revision(raw.mod_revision);
        Ok(Some(Entry {
            key,
            bytes: value.splice(revision),
            revision,
            create_revision: self::revision(raw.create_revision),
            expires_unix_seconds,
            revision_at,
        }))
    }
}

/// The id of the key that a value is encrypted with, and what follows it.
pub(super) fn sealed_by(value: &[u8]) -> Option<(u32, &[u8])> {
    let (id, rest) = value.strip_prefix(SEALED)?.split_at_checked(8)?;
    let id = u32::from_str_radix(std::str::from_utf8(id).ok()?, 16).ok()?;
    Some((id, rest.strip_prefix(b":")?))
}

/// What a head says.
struct Head {
    revision_at: Option<u32>,
    expires_unix_seconds: Option<i64>,
    /// Bytes of the head itself.
    len: usize,
}

/// The head of a value, if it has one.
fn head(value: &[u8]) -> Result<Option<Head>, &'static str> {
    let Some(rest) = value.strip_prefix(HEAD) else { return Ok(None) };
    let mut fields = rest.splitn(3, |byte| *byte == b':');
    let mut number = || {
        let text = fields.next().and_then(|field| std::str::from_utf8(field).ok()).ok_or("has a head that is cut off")?;
        if text.is_empty() {
            return Ok(None);
        }
        text.parse::<i64>().map(Some).map_err(|_| "has a head that is not understood")
    };
    let (revision_at, expires_unix_seconds) = (number()?, number()?);
    let data = fields.next().ok_or("has a head that is cut off")?;
    let revision_at = revision_at.map(u32::try_from).transpose().map_err(|_| "has a head that is not understood")?;
    Ok(Some(Head { revision_at, expires_unix_seconds, len: value.len() - data.len() }))
}

/// The first key that does not start with a prefix.
fn after_prefix(prefix: &str) -> String {
    // A prefix here is not empty; its last character is ASCII in practice, and any other has a successor too.
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        let next = if last == '\u{d7ff}' { Some('\u{e000}') } else { char::from_u32(last as u32 + 1) };
        if let Some(next) = next {
            chars.push(next);
            return chars.into_iter().collect();
        }
    }
    "\0".to_owned()
}

/// etcd counts with a sign.
pub(super) fn revision(signed: i64) -> Revision {
    Revision::try_from(signed).unwrap_or(0)
}

pub(super) fn signed(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codec(dir: &std::path::Path) -> Codec {
        let keyring = Keyring::open(dir.join("keys"), vec!["/registry/core/secrets/".to_owned()]).unwrap();
        Codec::new("/other".to_owned(), "/registry".to_owned(), Arc::new(keyring))
    }

    #[test]
    fn values_come_back_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let codec = codec(dir.path());
        let object = Value::encode(&serde_json::json!({"metadata": {"name": "a"}, "kind": "Pod"})).unwrap();
        let late = Value::object(r#"{"kind":"Pod","metadata":{"resourceVersion":""}}"#, 45).unwrap();
        for (value, expiry, stored) in [
            (object.clone(), None, &br#"{"metadata":{"resourceVersion":"","name":"a"}"#[..]),
            (object.clone(), Some(77), b"pharos:v1:32:77:{\"metadata\""),
            (late, None, b"pharos:v1:45::{\"kind\""),
            (Value::opaque("x"), None, b"x"),
            (Value::opaque(""), None, b""),
            (Value::opaque(object.bytes().clone()), None, b"pharos:v1:::{\"metadata\""),
            (Value::opaque("pharos:v1:a"), None, b"pharos:v1:::pharos:v1:a"),
            (Value::opaque("k8s:enc:aesgcm:v1:x"), None, b"pharos:v1:::k8s:enc"),
        ] {
            for key in ["/registry/core/pods/n/a", "/registry/core/secrets/n/a"] {
                let bytes = codec.encode(key, &value, expiry).unwrap();
                let expected = if key.contains("secrets") { SEALED } else { stored };
                assert!(bytes.starts_with(expected), "{}", String::from_utf8_lossy(&bytes));
                let in_etcd = codec.key(key).unwrap();
                let raw = Raw { key: in_etcd.as_bytes(), value: &bytes, create_revision: 5, mod_revision: 1234 };
                let entry = codec.decode(raw).unwrap().unwrap();
                assert_eq!((&*entry.key, entry.revision, entry.create_revision), (key, 1234, 5));
                assert_eq!((entry.value(), entry.expires_unix_seconds), (value.clone(), expiry));
                assert_eq!(entry.bytes, value.splice(1234));
                if key.contains("secrets") {
                    let moved = Raw { key: b"/other/core/secrets/n/b", ..raw };
                    assert!(matches!(codec.decode(moved), Err(Error::Decrypt { .. })));
                    assert!(codec.decode(Raw { value: &bytes[..22], ..raw }).is_err());
                }
            }
        }
        for bad in ["pharos:v1:", "pharos:v1:x::y", "pharos:v1:1:y", "pharos:v1:99::y", "k8s:enc:aesgcm:v1:zz"] {
            let raw = Raw { key: b"/other/a", value: bad.as_bytes(), create_revision: 1, mod_revision: 1 };
            assert!(codec.decode(raw).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_are_below_the_prefix() {
        let dir = tempfile::tempdir().unwrap();
        let codec = codec(dir.path());
        for bad in ["", "/", "/registryx/a", "/registry", "a"] {
            assert!(codec.key(bad).is_err(), "{bad}");
        }
        let range = |prefix: &str, start: Option<&str>| codec.range(prefix, start).unwrap();
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(range("/registry/core/pods/", None), pair("/other/core/pods/", "/other/core/pods0"));
        assert_eq!(range("/registry/a/", Some("/registry/a/b")), pair("/other/a/b", "/other/a0"));
        assert_eq!(range("/registry/b/", Some("/registry/a/b")), pair("/other/b/", "/other/b0"));
        for everything in ["", "/", "/registry"] {
            assert_eq!(range(everything, None), pair("/other/", "/other0"));
        }
        assert_eq!(after_prefix("a\u{10ffff}"), "b");
        assert_eq!(codec.decode_key(codec.marker().as_bytes()).unwrap(), None);
        assert!(codec.decode_key(b"/elsewhere/a").is_err());
    }
}
