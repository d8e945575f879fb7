use std::sync::Arc;

use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
    client::{
        Resumption, WantsClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::{Error, Identity, Result};

/// A client's side of TLS: trusts `roots`, and presents `identity` to servers that ask, as it is at that time. Sessions are not
/// resumed then, for the server would go on to see the certificate that a session began with.
///
/// # Errors
///
/// Never in practice: if the TLS library lacks its own defaults.
pub fn client_config(roots: Arc<RootCertStore>, identity: Option<Arc<Identity>>) -> Result<Arc<ClientConfig>> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(library)?
        .with_root_certificates(roots);
    Ok(Arc::new(present(builder, identity)))
}

fn present(builder: ConfigBuilder<ClientConfig, WantsClientCert>, identity: Option<Arc<Identity>>) -> ClientConfig {
    match identity {
        Some(identity) => {
            let mut config = builder.with_client_cert_resolver(identity);
            config.resumption = Resumption::disabled();
            config
        }
        None => builder.with_no_client_auth(),
    }
}

/// A client's side of TLS that believes any server, as upstream's pod and service proxies do (`https:name:port`): what runs
/// in a pod has no certificate that could be held against anything. Presents `identity` to servers that ask, which gives
/// nothing away; never send other credentials over it.
///
/// # Errors
///
/// As [`client_config`].
pub fn client_config_without_verification(identity: Option<Arc<Identity>>) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(library)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)));
    Ok(Arc::new(present(builder, identity)))
}

fn library(error: TlsError) -> Error {
    Error::Malformed { what: "TLS configuration".to_owned(), why: error.to_string() }
}

/// Believes any certificate whose key the server has.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
