//! TLS as upstream's API server does it: a client certificate is asked for but not needed, and one that is no good does
//! not fail the handshake. The client proves that it has the key; whether to believe the certificate is decided apart.

use std::sync::Arc;

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use tokio_rustls::TlsAcceptor;

use crate::{PeerCertificate, Tls};

/// Says what a client's certificate is worth.
pub(super) type Verifier = Option<Arc<dyn ClientCertVerifier>>;

pub(super) fn acceptor(tls: Tls) -> Result<(TlsAcceptor, Verifier), Error> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let roots = tls.client_roots.filter(|roots| !roots.is_empty());
    let (builder, verifier) = match roots {
        None => (builder.with_no_client_auth(), None),
        Some(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
                .build()
                .map_err(|error| Error::General(error.to_string()))?;
            let request = RequestOnly { hints: verifier.clone(), provider };
            (builder.with_client_cert_verifier(Arc::new(request)), Some(verifier))
        }
    };
    let mut config = builder.with_cert_resolver(tls.certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((TlsAcceptor::from(Arc::new(config)), verifier))
}

/// What the chain a client presented is worth now.
pub(super) fn judge(verifier: &Verifier, chain: &[CertificateDer<'static>]) -> PeerCertificate {
    let Some((own, intermediates)) = chain.split_first() else { return PeerCertificate::None };
    let Some(verifier) = verifier else { return PeerCertificate::None };
    match verifier.verify_client_cert(own, intermediates, UnixTime::now()) {
        Ok(_) => PeerCertificate::Verified,
        Err(error) => PeerCertificate::Invalid(error.to_string()),
    }
}

/// Go's `tls.RequestClientCert`: asks, checks the proof of possession, and nothing more.
#[derive(Debug)]
struct RequestOnly {
    /// Names the CAs, by which clients choose among their certificates.
    hints: Arc<dyn ClientCertVerifier>,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for RequestOnly {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.hints.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
