use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::{
    SignatureScheme,
    client::ResolvesClientCert,
    crypto::ring::sign::any_supported_type,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::sync::watch;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{
    Ca, Error, Issued, Result, Template,
    ca::{has_subject, names_of},
    files,
};

/// The longest sleep between two looks at the clock, which may have been set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(6 * 3600);
/// The wait after a renewal that failed.
const RETRY: Duration = Duration::from_secs(60);

/// A certificate and key in use, by a server or a client or both, that can be replaced while connections are made.
pub struct Identity {
    current: ArcSwap<Current>,
    /// When the one in use runs out, for those who have to do something when it changes.
    told: watch::Sender<i64>,
    renewal: Option<Renewal>,
}

struct Current {
    issued: Issued,
    key: Arc<CertifiedKey>,
    not_before: i64,
    not_after: i64,
}

/// How to get the next certificate.
struct Renewal {
    ca: Arc<Ca>,
    dir: PathBuf,
    name: String,
    template: Template,
}

impl Identity {
    /// Reads `NAME.crt` and `NAME.key`, or has them issued and writes them: when they are missing, are about to run out, are
    /// another CA's, or do not say what the template says.
    ///
    /// # Errors
    ///
    /// If the files cannot be read or written, or the CA cannot sign what the template says.
    pub fn load_or_issue(ca: Arc<Ca>, dir: &Path, name: &str, template: Template) -> Result<Arc<Self>> {
        let renewal = Renewal { ca, dir: dir.to_owned(), name: name.to_owned(), template };
        let current = match renewal.load()? {
            Some(current) => current,
            None => renewal.issue()?,
        };
        Ok(Arc::new(Self::new(current, Some(renewal))))
    }

    /// An identity that somebody else issued, and will [`Identity::replace`].
    ///
    /// # Errors
    ///
    /// If the PEM texts are no certificate and its key.
    pub fn from_pem(issued: Issued) -> Result<Arc<Self>> {
        Ok(Arc::new(Self::new(Current::new(issued)?, None)))
    }

    fn new(current: Current, renewal: Option<Renewal>) -> Self {
        Self { told: watch::Sender::new(current.not_after), current: ArcSwap::from_pointee(current), renewal }
    }

    fn put(&self, current: Current) {
        let not_after = current.not_after;
        self.current.store(Arc::new(current));
        self.told.send_replace(not_after);
    }

    /// Tells when another certificate comes into use, by when it runs out.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<i64> {
        self.told.subscribe()
    }

    /// Uses another certificate and key from now on.
    ///
    /// # Errors
    ///
    /// If the PEM texts are no certificate and its key.
    pub fn replace(&self, issued: Issued) -> Result<()> {
        self.put(Current::new(issued)?);
        Ok(())
    }

    /// The certificate and key in use.
    #[must_use]
    pub fn pem(&self) -> Issued {
        self.current.load().issued.clone()
    }

    /// When the certificate runs out, in seconds since 1970.
    #[must_use]
    pub fn not_after(&self) -> i64 {
        self.current.load().not_after
    }

    /// When the certificate is to be renewed: a third of its life before it runs out. In seconds since 1970.
    #[must_use]
    pub fn renew_at(&self) -> i64 {
        self.current.load().renew_at()
    }

    /// Renews the certificate whenever it is due, for as long as it is polled. An identity from [`Identity::from_pem`] has no CA
    /// to ask, and for it this never does anything. Cancel-safe.
    pub async fn renew(self: Arc<Self>) {
        let Some(renewal) = &self.renewal else { return std::future::pending().await };
        let name = &renewal.name;
        loop {
            let due = self.renew_at() - renewal.ca.clock().now().as_second();
            if let Ok(due @ 1..) = u64::try_from(due) {
                tokio::time::sleep(Duration::from_secs(due).min(LONGEST_SLEEP)).await;
                continue;
            }
            let issuing = self.clone();
            let issued = tokio::task::spawn_blocking(move || issuing.renewal.as_ref().map(Renewal::issue)).await;
            match issued {
                Ok(Some(Ok(current))) => {
                    tracing::info!(name, not_after = current.not_after, "renewed a certificate");
                    let is_due_again = current.renew_at() <= renewal.ca.clock().now().as_second();
                    self.put(current);
                    if is_due_again {
                        tokio::time::sleep(RETRY).await; // The CA itself is about to run out.
                    }
                }
                Ok(Some(Err(error))) => {
                    tracing::error!(name, error = &error as &dyn std::error::Error, "cannot renew a certificate, retrying");
                    tokio::time::sleep(RETRY).await;
                }
                Ok(None) | Err(_) => tokio::time::sleep(RETRY).await,
            }
        }
    }
}

impl Renewal {
    /// What is on disk, if it is still good.
    fn load(&self) -> Result<Option<Current>> {
        let certificate = files::read(&files::certificate_path(&self.dir, &self.name))?;
        let key = files::read(&files::key_path(&self.dir, &self.name))?;
        let (Some(certificate_pem), Some(key_pem)) = (certificate, key) else { return Ok(None) };
        // Anything wrong with it is mended by a new one.
        let Ok(current) = Current::new(Issued { certificate_pem, key_pem }) else { return Ok(None) };
        Ok(self.is_good(&current).then_some(current))
    }

    fn is_good(&self, current: &Current) -> bool {
        let Ok((_, parsed)) = X509Certificate::from_der(&current.key.cert[0]) else { return false };
        let mut names = self.template.names.clone();
        let mut addresses = self.template.addresses.clone();
        names.sort();
        addresses.sort();
        current.renew_at() > self.ca.clock().now().as_second()
            && self.ca.has_signed(&parsed)
            && has_subject(&parsed, &self.template.subject)
            && names_of(&parsed) == (names, addresses)
    }

    fn issue(&self) -> Result<Current> {
        let issued = self.ca.issue(&self.template)?;
        files::write(&files::key_path(&self.dir, &self.name), issued.key_pem.as_bytes(), 0o600)?;
        files::write(&files::certificate_path(&self.dir, &self.name), issued.certificate_pem.as_bytes(), 0o644)?;
        Current::new(issued)
    }
}

impl Current {
    fn new(issued: Issued) -> Result<Self> {
        let malformed = |why: String| Error::Malformed { what: "certificate and key".to_owned(), why };
        let chain = files::certificates(&issued.certificate_pem, "certificate")?;
        let key =
            any_supported_type(&files::private_key(&issued.key_pem, "key")?).map_err(|error| malformed(error.to_string()))?;
        let (not_before, not_after) = {
            let (_, parsed) = X509Certificate::from_der(&chain[0]).map_err(|error| malformed(error.to_string()))?;
            (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp())
        };
        let key = CertifiedKey::new(chain, key);
        key.keys_match().map_err(|error| malformed(error.to_string()))?;
        Ok(Self { issued, key: Arc::new(key), not_before, not_after })
    }

    fn renew_at(&self) -> i64 {
        self.not_after - (self.not_after - self.not_before) / 3
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("not_after", &self.not_after()).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load().key.clone())
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load().key.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests;
