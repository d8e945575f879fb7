//! Encryption at rest: AES-256-GCM under keys in a file only we may read.
//!
//! The key file has a line `id key` for each key, both in hexadecimal; the last is used to encrypt, all to decrypt.
//! The entry's key and revision are authenticated with the value, so a value moved elsewhere does not decrypt.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parking_lot::RwLock;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

use super::files;
use crate::{Error, Result, Revision};

const KEY_LEN: usize = 32;

/// The keys, and which entries are encrypted.
pub(super) struct Keyring {
    path: PathBuf,
    prefixes: Vec<String>,
    keys: RwLock<Vec<Key>>,
    random: SystemRandom,
}

struct Key {
    id: u32,
    secret: [u8; KEY_LEN],
    cipher: LessSafeKey,
}

/// An encrypted value.
pub(super) struct Sealed {
    pub(super) key_id: u32,
    pub(super) nonce: [u8; NONCE_LEN],
    pub(super) data: Vec<u8>,
}

impl Keyring {
    /// Reads the key file, made with a first key if something is to be encrypted and there is none.
    pub(super) fn open(path: PathBuf, prefixes: Vec<String>) -> Result<Self> {
        let keys = if path.exists() { read(&path)? } else { Vec::new() };
        let ring = Self { path, prefixes, keys: RwLock::new(keys), random: SystemRandom::new() };
        if ring.keys.read().is_empty() && !ring.prefixes.is_empty() {
            ring.rotate()?;
        }
        Ok(ring)
    }

    /// Adds a key that encrypts from now on. What older keys encrypted stays readable.
    pub(super) fn rotate(&self) -> Result<()> {
        let mut keys = self.keys.write();
        let (mut id, mut secret) = ([0; 4], [0; KEY_LEN]);
        self.fill(&mut id)?;
        self.fill(&mut secret)?;
        let key = Key::new(u32::from_le_bytes(id), secret)?;
        let mut text = String::new();
        for key in keys.iter().chain([&key]) {
            text.push_str(&format!("{:08x} {}\n", key.id, hex(&key.secret)));
        }
        files::replace(&self.path, text.as_bytes())?; // Durable before anything depends on it.
        keys.push(key);
        Ok(())
    }

    /// Encrypts a value if its key is among those to be encrypted.
    pub(super) fn seal(&self, key: &str, revision: Revision, value: &[u8]) -> Result<Option<Sealed>> {
        if !self.prefixes.iter().any(|prefix| key.starts_with(prefix)) {
            return Ok(None);
        }
        let keys = self.keys.read();
        let failed = |key_id| Error::Decrypt { key: key.into(), key_id };
        let active = keys.last().ok_or_else(|| failed(0))?;
        let mut nonce = [0; NONCE_LEN];
        self.fill(&mut nonce)?;
        let mut data = Vec::with_capacity(value.len() + AES_256_GCM.tag_len());
        data.extend_from_slice(value);
        let sealed = active.cipher.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce), // Random: safe for 2³² values under one key.
            Aad::from(context(key, revision)),
            &mut data,
        );
        sealed.map_err(|_| failed(active.id))?;
        Ok(Some(Sealed { key_id: active.id, nonce, data }))
    }

    /// Decrypts a value.
    pub(super) fn open_sealed(
        &self,
        key: &str,
        revision: Revision,
        (key_id, nonce): (u32, [u8; NONCE_LEN]),
        data: &[u8],
    ) -> Result<Bytes> {
        let failed = || Error::Decrypt { key: key.into(), key_id };
        let keys = self.keys.read();
        let cipher = &keys.iter().find(|key| key.id == key_id).ok_or_else(failed)?.cipher;
        let mut data = data.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        let opened = cipher.open_in_place(nonce, Aad::from(context(key, revision)), &mut data);
        let len = opened.map_err(|_| failed())?.len();
        data.truncate(len);
        Ok(data.into())
    }

    fn fill(&self, bytes: &mut [u8]) -> Result<()> {
        let source = || std::io::Error::other("the system gave no random bytes");
        self.random.fill(bytes).map_err(|_| Error::io("make a key for", &self.path, source()))
    }
}

impl Key {
    fn new(id: u32, secret: [u8; KEY_LEN]) -> Result<Self> {
        let key = UnboundKey::new(&AES_256_GCM, &secret).map_err(|_| Error::Invalid("encryption key".to_owned()))?;
        Ok(Self { id, secret, cipher: LessSafeKey::new(key) })
    }
}

/// What is authenticated with a value.
fn context(key: &str, revision: Revision) -> Vec<u8> {
    let mut context = revision.to_le_bytes().to_vec();
    context.extend_from_slice(key.as_bytes());
    context
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
        let (id, secret) = line.split_once(' ').ok_or_else(|| bad("line is not an id and a key"))?;
        let id = u32::from_str_radix(id, 16).map_err(|_| bad("id is not hexadecimal"))?;
        keys.push(Key::new(id, unhex(secret).ok_or_else(|| bad("key is not 32 bytes in hexadecimal"))?)?);
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
