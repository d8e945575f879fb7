use std::{net::IpAddr, path::Path, sync::Arc, time::Duration};

use pharos_telemetry::Clock;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::{RootCertStore, pki_types::CertificateDer};
use sha2::{Digest as _, Sha256};
use x509_parser::{
    certification_request::X509CertificationRequest,
    prelude::{FromDer as _, X509Certificate},
    time::ASN1Time,
};

use super::{Error, Result, Subject, Template, Usage, files};

/// How long a new CA is valid.
const CA_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How far a certificate's validity begins in the past, for clocks that are behind (upstream's CSR signer: 5 minutes).
const BACKDATE: Duration = Duration::from_secs(300);
/// `organizationName`, a second time: rcgen keeps one value a type.
const ORGANIZATION_OID: [u64; 4] = [2, 5, 4, 10];

/// A certificate authority whose key is on this machine.
pub struct Ca {
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    key_id: Vec<u8>,
    not_after: i64,
    issuer: Issuer<'static, KeyPair>,
    clock: Clock,
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub certificate_pem: String,
    /// Its key.
    pub key_pem: String,
}

impl Ca {
    /// Reads `NAME.crt` and `NAME.key` in the directory, or makes a CA and writes them: ECDSA P-256, valid for ten years.
    ///
    /// # Errors
    ///
    /// If the files cannot be read or written, or do not hold a CA. A certificate without its key is an error; it is not
    /// replaced, for what it signed would no longer be trusted.
    pub fn load_or_create(dir: &Path, name: &str, common_name: &str, clock: Clock) -> Result<Self> {
        let path = files::certificate_path(dir, name);
        if let Some(pem) = files::read(&path)? {
            let key_path = files::key_path(dir, name);
            let key =
                files::read(&key_path)?.ok_or_else(|| files::malformed(&key_path, "missing, though its certificate is there"))?;
            let key = KeyPair::from_pem(&key).map_err(|error| files::malformed(&key_path, error))?;
            return Self::new(pem, key, clock, &path.display().to_string());
        }
        let key = files::load_or_create_key(dir, name)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(&Subject::new(common_name, &[]))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyCertSign];
        set_validity(&mut params, clock.now().as_second(), CA_TTL, i64::MAX)?;
        let pem = params.self_signed(&key)?.pem();
        files::write(&path, pem.as_bytes(), 0o644)?;
        Self::new(pem, key, clock, &path.display().to_string())
    }

    fn new(certificate_pem: String, key: KeyPair, clock: Clock, what: &str) -> Result<Self> {
        let malformed = |why: &str| Error::Malformed { what: what.to_owned(), why: why.to_owned() };
        let mut chain = files::certificates(&certificate_pem, what)?;
        let certificate = chain.swap_remove(0);
        let (key_id, not_after) = {
            let (_, parsed) = X509Certificate::from_der(&certificate).map_err(|error| malformed(&error.to_string()))?;
            if !parsed.is_ca() {
                return Err(malformed("not a CA"));
            }
            if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
                return Err(malformed("the key is another one's"));
            }
            (subject_key_id(&parsed).unwrap_or_default(), parsed.validity().not_after.timestamp())
        };
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self { certificate, certificate_pem, key_id, not_after, issuer, clock })
    }

    /// The CA's certificate, for `kube-root-ca.crt`, kubeconfigs and trust stores.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The CA's certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// A trust store that holds this CA alone.
    #[must_use]
    pub fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        // It was parsed before, and a store without it trusts nobody.
        if let Err(error) = roots.add(self.certificate.clone()) {
            tracing::error!(%error, "the CA's certificate cannot be trusted");
        }
        Arc::new(roots)
    }

    /// The SHA-256 of the certificate's PEM, in hexadecimal: what a join token pins, as k3s' do (`K10<hash>::…`).
    #[must_use]
    pub fn hash(&self) -> String {
        hash_of_pem(&self.certificate_pem)
    }

    /// The CA's clock.
    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Makes a key and a certificate for it.
    ///
    /// # Errors
    ///
    /// If the template holds something no certificate can say.
    pub fn issue(&self, template: &Template) -> Result<Issued> {
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(&template.subject)?;
        params.subject_alt_names = alternative_names(template)?;
        self.complete(&mut params, &template.usages, template.ttl)?;
        let key = files::new_key()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// Signs a certificate signing request: the key and the alternative names are the request's, the subject is too unless
    /// `subject` says otherwise, the rest is what the caller grants. The request's own wishes for usages or for being a CA
    /// are ignored. The certificate does not outlive the CA.
    ///
    /// # Errors
    ///
    /// If the request cannot be parsed, its signature is wrong, or it asks for something that cannot be signed as it is.
    pub fn sign_csr(&self, csr_pem: &str, usages: &[Usage], ttl: Duration, subject: Option<&Subject>) -> Result<String> {
        let malformed = |why: String| Error::Malformed { what: "certificate signing request".to_owned(), why };
        let (_, block) = x509_parser::pem::parse_x509_pem(csr_pem.as_bytes()).map_err(|error| malformed(error.to_string()))?;
        if block.label != "CERTIFICATE REQUEST" && block.label != "NEW CERTIFICATE REQUEST" {
            return Err(malformed(format!("PEM block is {}", block.label)));
        }
        let der = block.contents.as_slice().into();
        let mut request = CertificateSigningRequestParams::from_der(&der).map_err(|error| malformed(error.to_string()))?;
        request.params.distinguished_name = match subject {
            Some(subject) => distinguished_name(subject)?,
            None => {
                let (_, parsed) =
                    X509CertificationRequest::from_der(&block.contents).map_err(|error| malformed(error.to_string()))?;
                distinguished_name(&subject_of(&parsed.certification_request_info.subject)?)?
            }
        };
        request.params.is_ca = IsCa::NoCa;
        request.params.custom_extensions.clear();
        request.params.name_constraints = None;
        request.params.crl_distribution_points.clear();
        self.complete(&mut request.params, usages, ttl)?;
        Ok(request.signed_by(&self.issuer)?.pem())
    }

    /// Fills in what does not depend on whose certificate it is.
    fn complete(&self, params: &mut CertificateParams, usages: &[Usage], ttl: Duration) -> Result<()> {
        params.key_usages.clear();
        params.extended_key_usages.clear();
        for usage in usages {
            match purpose(*usage) {
                Purpose::Key(purpose) if !params.key_usages.contains(&purpose) => params.key_usages.push(purpose),
                Purpose::Extended(purpose) if !params.extended_key_usages.contains(&purpose) => {
                    params.extended_key_usages.push(purpose);
                }
                _ => {}
            }
        }
        params.use_authority_key_identifier_extension = true;
        let mut serial: [u8; 16] = rand::random();
        serial[0] = serial[0] & 0x7f | 0x40; // Positive, and always as long.
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        set_validity(params, self.clock.now().as_second(), ttl, self.not_after)
    }

    /// Whether a certificate was signed by this CA, as far as it says so itself.
    pub(super) fn has_signed(&self, certificate: &X509Certificate<'_>) -> bool {
        use x509_parser::extensions::ParsedExtension;
        certificate.extensions().iter().any(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().is_some_and(|id| id.0 == self.key_id),
            _ => false,
        })
    }
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca").field("hash", &self.hash()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("certificate_pem", &self.certificate_pem).finish_non_exhaustive()
    }
}

/// The SHA-256 of a CA bundle as [`Ca::hash`] gives it, to hold a downloaded bundle against a token.
#[must_use]
pub fn hash_of_pem(pem: &str) -> String {
    hex::encode(Sha256::digest(pem.as_bytes()))
}

/// Makes a key and a request to sign it; the alternative names are the template's. Returns the key's PEM, then the request's.
///
/// # Errors
///
/// If the template holds something no certificate can say.
pub fn new_csr(template: &Template) -> Result<(String, String)> {
    let key = files::new_key()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(&template.subject)?;
    params.subject_alt_names = alternative_names(template)?;
    let request = params.serialize_request(&key)?;
    Ok((key.serialize_pem(), request.pem()?))
}

/// Where a usage stands in a certificate.
enum Purpose {
    Key(KeyUsagePurpose),
    Extended(ExtendedKeyUsagePurpose),
}

fn purpose(usage: Usage) -> Purpose {
    use Purpose::{Extended, Key};
    // Those that rcgen has no name for (Go's `oidExtKeyUsage…` in `crypto/x509`).
    let other = |oid: &[u64]| Extended(ExtendedKeyUsagePurpose::Other(oid.to_vec()));
    match usage {
        Usage::DigitalSignature => Key(KeyUsagePurpose::DigitalSignature),
        Usage::ContentCommitment => Key(KeyUsagePurpose::ContentCommitment),
        Usage::KeyEncipherment => Key(KeyUsagePurpose::KeyEncipherment),
        Usage::KeyAgreement => Key(KeyUsagePurpose::KeyAgreement),
        Usage::DataEncipherment => Key(KeyUsagePurpose::DataEncipherment),
        Usage::CertSign => Key(KeyUsagePurpose::KeyCertSign),
        Usage::CrlSign => Key(KeyUsagePurpose::CrlSign),
        Usage::EncipherOnly => Key(KeyUsagePurpose::EncipherOnly),
        Usage::DecipherOnly => Key(KeyUsagePurpose::DecipherOnly),
        Usage::Any => Extended(ExtendedKeyUsagePurpose::Any),
        Usage::ServerAuth => Extended(ExtendedKeyUsagePurpose::ServerAuth),
        Usage::ClientAuth => Extended(ExtendedKeyUsagePurpose::ClientAuth),
        Usage::CodeSigning => Extended(ExtendedKeyUsagePurpose::CodeSigning),
        Usage::EmailProtection => Extended(ExtendedKeyUsagePurpose::EmailProtection),
        Usage::Timestamping => Extended(ExtendedKeyUsagePurpose::TimeStamping),
        Usage::OcspSigning => Extended(ExtendedKeyUsagePurpose::OcspSigning),
        Usage::IpsecEndSystem => other(&[1, 3, 6, 1, 5, 5, 7, 3, 5]),
        Usage::IpsecTunnel => other(&[1, 3, 6, 1, 5, 5, 7, 3, 6]),
        Usage::IpsecUser => other(&[1, 3, 6, 1, 5, 5, 7, 3, 7]),
        Usage::MicrosoftSgc => other(&[1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
        Usage::NetscapeSgc => other(&[2, 16, 840, 1, 113_730, 4, 1]),
    }
}

fn set_validity(params: &mut CertificateParams, now: i64, ttl: Duration, latest: i64) -> Result<()> {
    let date = |seconds: i64| {
        let date = ASN1Time::from_timestamp(seconds).map_err(|error| Error::Refused(format!("date out of range: {error}")))?;
        Ok::<_, Error>(date.to_datetime())
    };
    let ttl = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
    params.not_before = date(now - BACKDATE.as_secs() as i64)?;
    params.not_after = date(now.saturating_add(ttl).min(latest))?;
    Ok(())
}

fn distinguished_name(subject: &Subject) -> Result<DistinguishedName> {
    let mut name = DistinguishedName::new();
    for (index, organization) in subject.organizations.iter().enumerate() {
        let kind = match index {
            0 => DnType::OrganizationName,
            1 => DnType::CustomDnType(ORGANIZATION_OID.to_vec()),
            _ => return Err(Error::Refused("more than two organizations".to_owned())),
        };
        name.push(kind, organization.as_str());
    }
    name.push(DnType::CommonName, subject.common_name.as_str());
    Ok(name)
}

/// The subject of a request. Attributes that Kubernetes does not know would be lost, so they are refused.
fn subject_of(name: &x509_parser::x509::X509Name<'_>) -> Result<Subject> {
    use x509_parser::oid_registry::{OID_X509_COMMON_NAME, OID_X509_ORGANIZATION_NAME};
    let mut subject = Subject::default();
    for attribute in name.iter_attributes() {
        let text = || attribute.as_str().map(str::to_owned).map_err(|_| Error::Refused("subject is no text".to_owned()));
        if *attribute.attr_type() == OID_X509_COMMON_NAME {
            subject.common_name = text()?;
        } else if *attribute.attr_type() == OID_X509_ORGANIZATION_NAME {
            subject.organizations.push(text()?);
        } else {
            return Err(Error::Refused(format!("subject attribute {} is not supported", attribute.attr_type())));
        }
    }
    Ok(subject)
}

fn alternative_names(template: &Template) -> Result<Vec<SanType>> {
    let names = template.names.iter().map(|name| Ok(SanType::DnsName(name.as_str().try_into()?)));
    let addresses = template.addresses.iter().map(|address| Ok(SanType::IpAddress(*address)));
    names.chain(addresses).collect()
}

fn subject_key_id(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    use x509_parser::extensions::ParsedExtension;
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    })
}

/// The DNS names and addresses a certificate holds for, sorted.
pub(super) fn names_of(certificate: &X509Certificate<'_>) -> (Vec<String>, Vec<IpAddr>) {
    use x509_parser::extensions::GeneralName;
    let (mut names, mut addresses) = (Vec::new(), Vec::new());
    let alternative = certificate.subject_alternative_name().ok().flatten();
    for name in alternative.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::DNSName(name) => names.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => {
                let address =
                    <[u8; 4]>::try_from(*bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
                addresses.extend(address);
            }
            _ => {}
        }
    }
    names.sort();
    addresses.sort();
    (names, addresses)
}

/// Whether a certificate's subject is this.
pub(super) fn has_subject(certificate: &X509Certificate<'_>, subject: &Subject) -> bool {
    subject_of(certificate.subject()).is_ok_and(|found| found == *subject)
}
