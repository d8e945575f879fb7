//! Certificates: an own CA, what it signs, and identities that are renewed while in use.
//!
//! Everything lives as PEM in a directory (mode 0700) of the data directory: `NAME.crt` and `NAME.key`, keys with mode 0600.
//! Files are written whole or not at all. Keys are ECDSA P-256, in PKCS #8.

mod ca; // Who signs,
mod files; // where it is kept,
mod identity; // and who uses it,
mod client; // or is asked to.

use std::{io, net::IpAddr, path::PathBuf, time::Duration};

pub use ca::{Ca, Issued, hash_of_pem, new_csr};
pub use client::{client_config, client_config_without_verification};
pub use files::{SigningKey, load_or_create_signing_key};
pub use identity::Identity;

/// Why something about certificates failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk.
    #[error("{action} {path}")]
    File {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file or a message does not hold what it should.
    #[error("read {what}: {why}")]
    Malformed {
        /// What was read.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// Generating or signing failed.
    #[error("sign a certificate")]
    Sign(#[from] rcgen::Error),
    /// What was asked for is not something this CA signs.
    #[error("refuse to sign: {0}")]
    Refused(String),
}

/// A result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whose a certificate is: to Kubernetes, a user and its groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The user.
    pub common_name: String,
    /// Its groups; at most two.
    pub organizations: Vec<String>,
}

impl Subject {
    /// A user in some groups.
    #[must_use]
    pub fn new(common_name: impl Into<String>, organizations: &[&str]) -> Self {
        let organizations = organizations.iter().map(|name| (*name).to_owned()).collect();
        Self { common_name: common_name.into(), organizations }
    }
}

/// What a certificate may be used for: upstream's `KeyUsage` of `certificates.k8s.io/v1`, by its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// `digital signature`, `signing`
    DigitalSignature,
    /// `content commitment`
    ContentCommitment,
    /// `key encipherment`
    KeyEncipherment,
    /// `key agreement`
    KeyAgreement,
    /// `data encipherment`
    DataEncipherment,
    /// `cert sign`
    CertSign,
    /// `crl sign`
    CrlSign,
    /// `encipher only`
    EncipherOnly,
    /// `decipher only`
    DecipherOnly,
    /// `any`
    Any,
    /// `server auth`
    ServerAuth,
    /// `client auth`
    ClientAuth,
    /// `code signing`
    CodeSigning,
    /// `email protection`, `s/mime`
    EmailProtection,
    /// `ipsec end system`
    IpsecEndSystem,
    /// `ipsec tunnel`
    IpsecTunnel,
    /// `ipsec user`
    IpsecUser,
    /// `timestamping`
    Timestamping,
    /// `ocsp signing`
    OcspSigning,
    /// `microsoft sgc`
    MicrosoftSgc,
    /// `netscape sgc`
    NetscapeSgc,
}

impl Usage {
    /// The usage of a name (`keyUsageDict` and `extKeyUsageDict` of `pkg/controller/certificates/authority/policies.go`).
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "digital signature" | "signing" => Self::DigitalSignature,
            "content commitment" => Self::ContentCommitment,
            "key encipherment" => Self::KeyEncipherment,
            "key agreement" => Self::KeyAgreement,
            "data encipherment" => Self::DataEncipherment,
            "cert sign" => Self::CertSign,
            "crl sign" => Self::CrlSign,
            "encipher only" => Self::EncipherOnly,
            "decipher only" => Self::DecipherOnly,
            "any" => Self::Any,
            "server auth" => Self::ServerAuth,
            "client auth" => Self::ClientAuth,
            "code signing" => Self::CodeSigning,
            "email protection" | "s/mime" => Self::EmailProtection,
            "ipsec end system" => Self::IpsecEndSystem,
            "ipsec tunnel" => Self::IpsecTunnel,
            "ipsec user" => Self::IpsecUser,
            "timestamping" => Self::Timestamping,
            "ocsp signing" => Self::OcspSigning,
            "microsoft sgc" => Self::MicrosoftSgc,
            "netscape sgc" => Self::NetscapeSgc,
            _ => return None,
        })
    }
}

/// What a certificate is to say.
#[derive(Clone, Debug)]
pub struct Template {
    /// Whose it is.
    pub subject: Subject,
    /// The DNS names it holds for.
    pub names: Vec<String>,
    /// The addresses it holds for.
    pub addresses: Vec<IpAddr>,
    /// What it may be used for.
    pub usages: Vec<Usage>,
    /// How long it is valid.
    pub ttl: Duration,
}

/// A year: how long certificates are valid unless asked otherwise.
pub const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

impl Template {
    /// A server that is reached by these names and addresses, valid for a year.
    #[must_use]
    pub fn server(common_name: impl Into<String>, names: Vec<String>, addresses: Vec<IpAddr>) -> Self {
        let usages = vec![Usage::DigitalSignature, Usage::KeyEncipherment, Usage::ServerAuth];
        Self { subject: Subject::new(common_name, &[]), names, addresses, usages, ttl: YEAR }
    }

    /// A user in some groups, valid for a year.
    #[must_use]
    pub fn client(subject: Subject) -> Self {
        let usages = vec![Usage::DigitalSignature, Usage::KeyEncipherment, Usage::ClientAuth];
        Self { subject, names: Vec::new(), addresses: Vec::new(), usages, ttl: YEAR }
    }
}
