//! Client certificates: the common name is the user, the organisations are the groups.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, UnixTime},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{ALL_AUTHENTICATED, CREDENTIAL_ID, Error, UserInfo, Verified};

/// The subject attribute upstream reads a user's uid from (`pkg/authentication/request/x509`).
const UID_OID: &str = "1.3.6.1.4.1.57683.2";

/// The CAs whose client certificates are believed.
pub(super) struct ClientCa {
    verifier: Arc<dyn ClientCertVerifier>,
}

impl ClientCa {
    pub(super) fn new(certificates: &[CertificateDer<'static>]) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots.add(certificate.clone()).map_err(Error::Certificate)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| Error::Subject(error.to_string()))?;
        Ok(ClientCa { verifier })
    }

    /// Verifies the chain a client showed, its own certificate first, and reads who it is.
    pub(super) fn verify(&self, certificates: &[CertificateDer<'static>], now: Timestamp) -> Result<Verified, Error> {
        let [own, intermediates @ ..] = certificates else { return Err(Error::NoCredentials) };
        let seconds = u64::try_from(now.as_second()).unwrap_or_default();
        let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        self.verifier.verify_client_cert(own, intermediates, time).map_err(Error::Certificate)?;
        let (_, parsed) = X509Certificate::from_der(own).map_err(|error| Error::Subject(error.to_string()))?;
        let user = read_subject(own, &parsed)?;
        Ok(Verified { user, audiences: None, expires: Some(parsed.validity().not_after.timestamp()) })
    }
}

fn read_subject(der: &CertificateDer<'_>, certificate: &X509Certificate<'_>) -> Result<UserInfo, Error> {
    let subject = certificate.subject();
    let names = subject.iter_common_name().filter_map(|name| name.as_str().ok());
    // Go takes the last common name where there are several.
    let username = names.last().filter(|name| !name.is_empty()).ok_or_else(|| Error::Subject("no common name".into()))?;
    let mut groups: Vec<String> = subject.iter_organization().filter_map(|name| name.as_str().ok()).map(str::to_owned).collect();
    groups.push(ALL_AUTHENTICATED.into());
    let mut user = UserInfo::new(username, groups);
    let uids: Vec<&str> = subject
        .iter_attributes()
        .filter(|attribute| attribute.attr_type().to_id_string() == UID_OID)
        .filter_map(|attribute| attribute.as_str().ok())
        .collect();
    match uids.as_slice() {
        [] => {}
        [uid] if !uid.is_empty() => user.uid = (*uid).to_owned(),
        _ => return Err(Error::Subject("expected 1 UID, and a non-empty one".into())),
    }
    let fingerprint = format!("X509SHA256={}", hex::encode(Sha256::digest(der)));
    user.extra.insert(CREDENTIAL_ID.into(), vec![fingerprint]);
    Ok(user)
}

#[cfg(test)]
mod tests;
