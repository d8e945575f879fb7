//! Encryption at rest: AES-256-GCM under keys in a file only we may read. Above the engines, so that all keep the same promise.
//!
//! The key file has a line `id key` for each key, both in hexadecimal, and maybe a word behind: `prepared` (decrypts, does
//! not encrypt yet) or `retired` (nothing current needs it). The last key without a word encrypts, all decrypt. What is
//! authenticated with a value names its place, so a value moved elsewhere does not decrypt.
//!
//! Rotation follows k3s' `secrets-encrypt`: prepare, rotate, reencrypt.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

use crate::{Error, Result, files};

const KEY_LEN: usize = 32;

/// The keys, and which entries are encrypted.
pub struct Keyring {
    path: PathBuf,
    prefixes: Vec<String>,
    keys: RwLock<Vec<Key>>,
    /// How far a rewriting of values is: it lives no longer than the process.
    rewriting: AtomicU8,
    random: SystemRandom,
}

/// How far a rotation is, in the words of k3s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// One key for all.
    Start,
    /// A key is ready that does not encrypt yet.
    Prepare,
    /// A new key encrypts; values under older ones are left.
    Rotate,
    /// Values are being rewritten.
    Reencrypting,
    /// All values were rewritten since the start of this process.
    Reencrypted,
}

/// A key as it is shown; the secret is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    /// Its name in encrypted values: eight hexadecimal digits.
    pub id: String,
    /// Whether it encrypts.
    pub is_active: bool,
    /// `prepared`, `retired`, or nothing.
    pub word: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Encrypts if it is the last of these, and decrypts.
    Current,
    Prepared,
    Retired,
}

struct Key {
    id: u32,
    secret: [u8; KEY_LEN],
    cipher: LessSafeKey,
    usage: Use,
}

/// An encrypted value.
pub(crate) struct Sealed {
    pub(crate) key_id: u32,
    pub(crate) nonce: [u8; NONCE_LEN],
    pub(crate) data: Vec<u8>,
}

impl Keyring {
    /// Reads the key file, made with a first key if something is to be encrypted and there is none.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if others may read the file, [`Error::Corrupt`], [`Error::Io`].
    pub fn open(path: impl Into<PathBuf>, prefixes: Vec<String>) -> Result<Self> {
        let path = path.into();
        let keys = if path.exists() { read(&path)? } else { Vec::new() };
        let rewriting = AtomicU8::default();
        let ring = Self { path, prefixes, keys: RwLock::new(keys), rewriting, random: SystemRandom::new() };
        if ring.keys.read().is_empty() && !ring.prefixes.is_empty() {
            ring.change(|keys| {
                keys.push(ring.make(Use::Current)?);
                Ok(())
            })?;
        }
        Ok(ring)
    }

    /// What the keys of encrypted entries start with.
    pub fn prefixes(&self) -> &[String] {
        &self.prefixes
    }

    /// The key file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How far a rotation is.
    pub fn stage(&self) -> Stage {
        let keys = self.keys.read();
        let count = |usage| keys.iter().filter(|key| key.usage == usage).count();
        match self.rewriting.load(Ordering::Relaxed) {
            1 => Stage::Reencrypting,
            _ if count(Use::Prepared) > 0 => Stage::Prepare,
            _ if count(Use::Current) > 1 => Stage::Rotate,
            2 => Stage::Reencrypted,
            _ => Stage::Start,
        }
    }

    /// The keys, oldest first.
    pub fn list(&self) -> Vec<KeyInfo> {
        let keys = self.keys.read();
        let active = active(&keys).map(|key| key.id);
        let info = |key: &Key| KeyInfo {
            id: format!("{:08x}", key.id),
            is_active: Some(key.id) == active,
            word: key.usage.word().trim_start(),
        };
        keys.iter().map(info).collect()
    }

    /// Makes a key that decrypts, and will encrypt once [`rotate`](Keyring::rotate) says so: time to give the file to other
    /// servers of the same etcd.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] out of turn, [`Error::Io`] with nothing changed.
    pub fn prepare(&self) -> Result<()> {
        self.in_stage(&[Stage::Start, Stage::Reencrypted], "prepare")?;
        self.change(|keys| {
            keys.push(self.make(Use::Prepared)?);
            Ok(())
        })
    }

    /// Lets the prepared key encrypt from now on. What older keys encrypted stays readable.
    ///
    /// # Errors
    ///
    /// As for [`prepare`](Keyring::prepare).
    pub fn rotate(&self) -> Result<()> {
        self.in_stage(&[Stage::Prepare], "rotate")?;
        self.change(|keys| {
            keys.iter_mut().filter(|key| key.usage == Use::Prepared).for_each(|key| key.usage = Use::Current);
            Ok(())
        })
    }

    /// Adds a key that encrypts, out of turn.
    #[cfg(test)]
    pub(crate) fn add(&self) -> Result<()> {
        self.change(|keys| {
            keys.push(self.make(Use::Current)?);
            Ok(())
        })
    }

    /// Begins a rewriting of values; the guard's end is its end.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if one is under way, or a key is prepared and not used yet.
    pub(crate) fn begin_rewriting(&self) -> Result<Rewriting<'_>> {
        self.in_stage(&[Stage::Start, Stage::Rotate, Stage::Reencrypted], "reencrypt")?;
        match self.rewriting.swap(1, Ordering::Relaxed) {
            1 => Err(Error::Invalid("values are being rewritten already".to_owned())),
            _ => Ok(Rewriting { keyring: self, done: false }),
        }
    }

    /// Forgets retired keys that nothing uses any more, told the ids that something does. Called before anything is written.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] with nothing changed.
    pub(crate) fn forget_retired(&self, used: &HashSet<u32>) -> Result<()> {
        let is_idle = |key: &Key| key.usage == Use::Retired && !used.contains(&key.id);
        if !self.keys.read().iter().any(is_idle) {
            return Ok(());
        }
        self.change(|keys| {
            keys.retain(|key| !is_idle(key));
            Ok(())
        })
    }

    /// Whether there are keys that could be forgotten.
    pub(crate) fn has_retired(&self) -> bool {
        self.keys.read().iter().any(|key| key.usage == Use::Retired)
    }

    /// Whether an entry's value is to be encrypted.
    pub(crate) fn covers(&self, key: &str) -> bool {
        self.prefixes.iter().any(|prefix| key.starts_with(prefix))
    }

    /// Encrypts a value if its key is among those to be encrypted.
    pub(crate) fn seal(&self, key: &str, context: &[u8], value: &[u8]) -> Result<Option<Sealed>> {
        if !self.covers(key) {
            return Ok(None);
        }
        let keys = self.keys.read();
        let failed = |key_id| Error::Decrypt { key: key.into(), key_id };
        let active = active(&keys).ok_or_else(|| failed(0))?;
        let mut nonce = [0; NONCE_LEN];
        self.fill(&mut nonce)?;
        let mut data = Vec::with_capacity(value.len() + AES_256_GCM.tag_len());
        data.extend_from_slice(value);
        let sealed = active.cipher.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce), // Random: safe for 2³² values under one key.
            Aad::from(context),
            &mut data,
        );
        sealed.map_err(|_| failed(active.id))?;
        Ok(Some(Sealed { key_id: active.id, nonce, data }))
    }

    /// Decrypts a value. A key that is not known may have come into the file since: another server's.
    pub(crate) fn open_sealed(
        &self,
        key: &str,
        context: &[u8],
        (key_id, nonce): (u32, [u8; NONCE_LEN]),
        data: &[u8],
    ) -> Result<Bytes> {
        let failed = || Error::Decrypt { key: key.into(), key_id };
        if !self.knows(key_id) {
            let fresh = read(&self.path)?;
            if fresh.iter().any(|key| key.id == key_id) {
                *self.keys.write() = fresh;
            }
        }
        let keys = self.keys.read();
        let cipher = &keys.iter().find(|key| key.id == key_id).ok_or_else(failed)?.cipher;
        let mut data = data.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        let opened = cipher.open_in_place(nonce, Aad::from(context), &mut data);
        let len = opened.map_err(|_| failed())?.len();
        data.truncate(len);
        Ok(data.into())
    }

    pub(crate) fn knows(&self, key_id: u32) -> bool {
        self.keys.read().iter().any(|key| key.id == key_id)
    }

    fn in_stage(&self, allowed: &[Stage], action: &str) -> Result<()> {
        let stage = self.stage();
        if allowed.contains(&stage) {
            return Ok(());
        }
        // In the manner of k3s (`pkg/secretsencrypt`).
        let after: Vec<_> = allowed.iter().map(|stage| stage.as_str()).collect();
        let (stage, after) = (stage.as_str(), after.join(" or "));
        Err(Error::Invalid(format!("cannot {action} in rotation stage {stage}; it must be {after}")))
    }

    /// Changes the keys, in the file first.
    fn change(&self, change: impl FnOnce(&mut Vec<Key>) -> Result<()>) -> Result<()> {
        let mut keys = self.keys.write();
        let mut changed = keys.clone();
        change(&mut changed)?;
        let mut text = String::new();
        for key in &changed {
            text.push_str(&format!("{:08x} {}{}\n", key.id, hex(&key.secret), key.usage.word()));
        }
        files::replace(&self.path, text.as_bytes())?; // Durable before anything depends on it.
        *keys = changed;
        Ok(())
    }

    fn make(&self, usage: Use) -> Result<Key> {
        let (mut id, mut secret) = ([0; 4], [0; KEY_LEN]);
        self.fill(&mut id)?;
        self.fill(&mut secret)?;
        Key::new(u32::from_le_bytes(id), secret, usage)
    }

    fn fill(&self, bytes: &mut [u8]) -> Result<()> {
        let source = || std::io::Error::other("the system gave no random bytes");
        self.random.fill(bytes).map_err(|_| Error::io("make a key for", &self.path, source()))
    }
}

/// A rewriting of values under way.
pub(crate) struct Rewriting<'a> {
    keyring: &'a Keyring,
    done: bool,
}

impl Rewriting<'_> {
    /// All values are under the newest key: the others are retired. They leave the file at a start that finds them unused,
    /// as logs and history may hold values of theirs until then.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.keyring.change(|keys| {
            let newest = active(keys).map(|key| key.id);
            let old = keys.iter_mut().filter(|key| key.usage == Use::Current && Some(key.id) != newest);
            old.for_each(|key| key.usage = Use::Retired);
            Ok(())
        })?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Rewriting<'_> {
    fn drop(&mut self) {
        self.keyring.rewriting.store(if self.done { 2 } else { 0 }, Ordering::Relaxed);
    }
}

impl Stage {
    /// As k3s names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Prepare => "prepare",
            Self::Rotate => "rotate",
            Self::Reencrypting => "reencrypt_active",
            Self::Reencrypted => "reencrypt_finished",
        }
    }
}

impl Use {
    fn word(self) -> &'static str {
        match self {
            Self::Current => "",
            Self::Prepared => " prepared",
            Self::Retired => " retired",
        }
    }
}

impl Key {
    fn new(id: u32, secret: [u8; KEY_LEN], usage: Use) -> Result<Self> {
        let key = UnboundKey::new(&AES_256_GCM, &secret).map_err(|_| Error::Invalid("encryption key".to_owned()))?;
        Ok(Self { id, secret, cipher: LessSafeKey::new(key), usage })
    }
}

impl Clone for Key {
    fn clone(&self) -> Self {
        Self { id: self.id, secret: self.secret, cipher: self.cipher.clone(), usage: self.usage }
    }
}

/// The key that encrypts.
fn active(keys: &[Key]) -> Option<&Key> {
    keys.iter().rfind(|key| key.usage == Use::Current)
}

fn read(path: &Path) -> Result<Vec<Key>> {
    let io = |e| Error::io("read", path, e);
    if fs::metadata(path).map_err(io)?.permissions().mode() & 0o077 != 0 {
        return Err(Error::Invalid(format!("{} is open to others; its mode must be 0600", path.display())));
    }
    let text = fs::read_to_string(path).map_err(io)?;
    let mut offset = 0;
    let mut keys = Vec::new();
    for line in text.lines() {
        let bad = |reason: &str| Error::Corrupt { path: path.into(), offset, reason: reason.to_owned() };
        let mut words = line.split(' ');
        let (Some(id), Some(secret)) = (words.next(), words.next()) else { return Err(bad("line is not an id and a key")) };
        let usage = match (words.next(), words.next()) {
            (None, _) => Use::Current,
            (Some("prepared"), None) => Use::Prepared,
            (Some("retired"), None) => Use::Retired,
            _ => return Err(bad("what follows the key is not known")),
        };
        let id = u32::from_str_radix(id, 16).map_err(|_| bad("id is not hexadecimal"))?;
        keys.push(Key::new(id, unhex(secret).ok_or_else(|| bad("key is not 32 bytes in hexadecimal"))?, usage)?);
        offset += line.len() as u64 + 1;
    }
    Ok(keys)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; KEY_LEN]> {
    let mut out = [0; KEY_LEN];
    if text.len() != 2 * KEY_LEN || !text.is_ascii() {
        return None;
    }
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "/registry/core/secrets/n/s";

    fn keyring(path: &Path) -> Keyring {
        Keyring::open(path, vec!["/registry/core/secrets/".to_owned()]).unwrap()
    }

    fn words(ring: &Keyring) -> Vec<(bool, &'static str)> {
        ring.list().into_iter().map(|key| (key.is_active, key.word)).collect()
    }

    #[test]
    fn a_rotation_goes_through_its_stages() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("encryption.keys");
        let ring = keyring(&path);
        assert_eq!((ring.stage(), words(&ring)), (Stage::Start, vec![(true, "")]));
        assert!(matches!(ring.rotate(), Err(Error::Invalid(_))));

        let old = ring.seal(SECRET, b"place", b"value").unwrap().unwrap();
        ring.prepare().unwrap();
        assert_eq!((ring.stage(), words(&ring)), (Stage::Prepare, vec![(true, ""), (false, "prepared")]));
        assert!(ring.prepare().is_err() && ring.begin_rewriting().is_err());
        assert_eq!(ring.seal(SECRET, b"place", b"value").unwrap().unwrap().key_id, old.key_id);

        ring.rotate().unwrap();
        assert_eq!((ring.stage(), words(&ring)), (Stage::Rotate, vec![(false, ""), (true, "")]));
        assert_eq!(ring.open_sealed(SECRET, b"place", (old.key_id, old.nonce), &old.data).unwrap(), "value");
        assert!(ring.open_sealed(SECRET, b"elsewhere", (old.key_id, old.nonce), &old.data).is_err());

        let rewriting = ring.begin_rewriting().unwrap();
        assert_eq!(ring.stage(), Stage::Reencrypting);
        assert!(ring.begin_rewriting().is_err());
        drop(rewriting);
        assert_eq!(ring.stage(), Stage::Rotate);
        ring.begin_rewriting().unwrap().finish().unwrap();
        assert_eq!((ring.stage(), words(&ring)), (Stage::Reencrypted, vec![(false, "retired"), (true, "")]));

        let again = keyring(&path);
        assert_eq!((again.stage(), again.list()), (Stage::Start, ring.list()));
        again.forget_retired(&HashSet::from([old.key_id])).unwrap();
        assert_eq!(again.list().len(), 2);
        again.forget_retired(&HashSet::new()).unwrap();
        assert_eq!(words(&again), [(true, "")]);
    }

    #[test]
    fn a_key_that_comes_into_the_file_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (here, there) = (dir.path().join("here"), dir.path().join("there"));
        let (ring, other) = (keyring(&here), keyring(&there));
        let sealed = other.seal(SECRET, b"", b"value").unwrap().unwrap();
        let seal = (sealed.key_id, sealed.nonce);
        assert!(matches!(ring.open_sealed(SECRET, b"", seal, &sealed.data), Err(Error::Decrypt { .. })));
        let both = fs::read_to_string(&there).unwrap() + &fs::read_to_string(&here).unwrap();
        fs::write(&here, both).unwrap();
        assert_eq!(ring.open_sealed(SECRET, b"", seal, &sealed.data).unwrap(), "value");
        assert!(other.seal("/registry/core/configmaps/n/c", b"", b"value").unwrap().is_none());
    }
}
