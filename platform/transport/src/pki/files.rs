use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

use super::{Error, Result};

/// A key to sign tokens with (ES256).
#[derive(Clone)]
pub struct SigningKey {
    /// The private key: PKCS #8 in PEM.
    pub private_pem: String,
    /// The public key: SubjectPublicKeyInfo in PEM.
    pub public_pem: String,
    /// The public key: SubjectPublicKeyInfo in DER, of which key ids are made.
    pub public_der: Vec<u8>,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("public_pem", &self.public_pem).finish_non_exhaustive()
    }
}

/// Reads `NAME.key` in the directory, or generates it: an ECDSA P-256 key, such as signs ServiceAccount tokens.
///
/// # Errors
///
/// If the file cannot be read or written, or holds no such key.
pub fn load_or_create_signing_key(dir: &Path, name: &str) -> Result<SigningKey> {
    let key = load_or_create_key(dir, name)?;
    Ok(SigningKey {
        private_pem: key.serialize_pem(),
        public_pem: key.public_key_pem(),
        public_der: key.subject_public_key_info(),
    })
}

pub(super) fn load_or_create_key(dir: &Path, name: &str) -> Result<KeyPair> {
    let path = key_path(dir, name);
    if let Some(pem) = read(&path)? {
        return KeyPair::from_pem(&pem).map_err(|error| malformed(&path, error));
    }
    let key = new_key()?;
    write(&path, key.serialize_pem().as_bytes(), 0o600)?;
    Ok(key)
}

pub(super) fn new_key() -> Result<KeyPair> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

pub(super) fn certificate_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.crt"))
}

pub(super) fn key_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.key"))
}

pub(super) fn malformed(path: &Path, why: impl ToString) -> Error {
    Error::Malformed { what: path.display().to_string(), why: why.to_string() }
}

/// The certificates in a PEM text.
pub(super) fn certificates(pem: &str, what: &str) -> Result<Vec<CertificateDer<'static>>> {
    let malformed = |why: String| Error::Malformed { what: what.to_owned(), why };
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(|error| malformed(error.to_string()))?;
    if chain.is_empty() { Err(malformed("no certificate".to_owned())) } else { Ok(chain) }
}

/// The private key in a PEM text.
pub(super) fn private_key(pem: &str, what: &str) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| Error::Malformed { what: what.to_owned(), why: error.to_string() })
}

/// The text of a file, if it is there.
pub(super) fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File { action: "read", path: path.to_owned(), source }),
    }
}

/// Writes a file whole or not at all, and its directory if it is missing.
pub(super) fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let write = || {
        if let Some(dir) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".new");
        let unfinished = PathBuf::from(unfinished);
        let _ = fs::remove_file(&unfinished); // Left by a crash, perhaps with another mode.
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&unfinished)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&unfinished, path)
    };
    write().map_err(|source| Error::File { action: "write", path: path.to_owned(), source })
}
