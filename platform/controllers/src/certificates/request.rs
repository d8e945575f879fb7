//! What a request asks for, and whether Kubernetes' signers sign such a thing.

use std::collections::BTreeSet;

use jiff::Timestamp;
use x509_parser::{
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, ParsedExtension},
    parse_x509_certificate,
    pem::parse_x509_pem,
    prelude::FromDer,
};

/// Whether a request may be signed, and why not.
pub(super) type Checked = Result<(), String>;

/// A request, as far as its signers look at it.
#[derive(Debug, Default)]
pub(super) struct Request {
    pub(super) common_name: String,
    organizations: Vec<String>,
    has_dns: bool,
    has_address: bool,
    has_email: bool,
    has_uri: bool,
}

impl Request {
    /// Reads a PEM block of PKCS #10. Whether the signature is good was looked at when the object was made, and is again when
    /// it is signed.
    pub(super) fn parse(pem: &[u8]) -> Result<Self, String> {
        let block = parse_x509_pem(pem).ok().map(|(_, block)| block).filter(|block| block.label == "CERTIFICATE REQUEST");
        let block = block.ok_or("PEM block type must be CERTIFICATE REQUEST")?;
        let (_, parsed) = X509CertificationRequest::from_der(&block.contents).map_err(|error| error.to_string())?;
        let subject = &parsed.certification_request_info.subject;
        let mut request = Request {
            // Go takes the last of several.
            common_name: subject.iter_common_name().filter_map(|name| name.as_str().ok()).last().unwrap_or_default().to_owned(),
            organizations: subject.iter_organization().map(|name| name.as_str().unwrap_or_default().to_owned()).collect(),
            ..Request::default()
        };
        for extension in parsed.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(_) => request.has_dns = true,
                    GeneralName::IPAddress(_) => request.has_address = true,
                    GeneralName::RFC822Name(_) => request.has_email = true,
                    GeneralName::URI(_) => request.has_uri = true,
                    _ => {}
                }
            }
        }
        Ok(request)
    }

    /// `ValidateKubeletClientCSR`.
    pub(super) fn check_kubelet_client(&self, usages: &[String]) -> Checked {
        self.check_organization()?;
        for (is_there, what) in
            [(self.has_dns, "DNS"), (self.has_email, "Email"), (self.has_address, "IP"), (self.has_uri, "URI")]
        {
            if is_there {
                return Err(format!("{what} subjectAltNames are not allowed"));
            }
        }
        self.check_common_name()?;
        check_usages(usages, "client auth")
    }

    /// `ValidateKubeletServingCSR`.
    pub(super) fn check_kubelet_serving(&self, usages: &[String]) -> Checked {
        self.check_organization()?;
        if !self.has_dns && !self.has_address {
            return Err("DNS or IP subjectAltName is required".into());
        }
        for (is_there, what) in [(self.has_email, "Email"), (self.has_uri, "URI")] {
            if is_there {
                return Err(format!("{what} subjectAltNames are not allowed"));
            }
        }
        check_usages(usages, "server auth")?;
        self.check_common_name()
    }

    fn check_organization(&self) -> Checked {
        if self.organizations == ["system:nodes"] { Ok(()) } else { Err("subject organization is not system:nodes".into()) }
    }

    fn check_common_name(&self) -> Checked {
        if self.common_name.starts_with("system:node:") {
            return Ok(());
        }
        Err("subject common name does not begin with system:node:".into())
    }
}

/// A kubelet's usages are these, the second for RSA keys alone.
fn check_usages(usages: &[String], auth: &str) -> Checked {
    let found: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
    let all = BTreeSet::from(["digital signature", "key encipherment", auth]);
    let without_rsa = BTreeSet::from(["digital signature", auth]);
    if found == all || found == without_rsa {
        return Ok(());
    }
    Err(format!("usages did not match [{}]", all.into_iter().collect::<Vec<_>>().join(" ")))
}

/// `validAPIServerClientUsages`.
pub(super) fn check_client_usages(usages: &[String]) -> Checked {
    let optional = ["digital signature", "key encipherment", "client auth"];
    if let Some(wrong) = usages.iter().find(|usage| !optional.contains(&usage.as_str())) {
        return Err(format!("invalid usage for client certificate: {wrong}"));
    }
    if usages.iter().any(|usage| usage == "client auth") {
        return Ok(());
    }
    Err("missing required usage for client certificate: client auth".into())
}

/// When the first certificate of a PEM ends.
pub(super) fn expiry(pem: &[u8]) -> Option<Timestamp> {
    let (_, block) = parse_x509_pem(pem).ok()?;
    let (_, certificate) = parse_x509_certificate(&block.contents).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Request {
        Request { common_name: "system:node:a".into(), organizations: vec!["system:nodes".into()], ..Request::default() }
    }

    #[test]
    fn kubelets() {
        let owned = |usages: &[&str]| usages.iter().map(|usage| (*usage).to_owned()).collect::<Vec<_>>();
        let client = owned(&["client auth", "digital signature"]);
        let serving = owned(&["server auth", "key encipherment", "digital signature"]);
        assert_eq!(node().check_kubelet_client(&client), Ok(()));
        assert_eq!(
            node().check_kubelet_client(&serving),
            Err("usages did not match [client auth digital signature key encipherment]".into())
        );
        assert_eq!(node().check_kubelet_serving(&serving), Err("DNS or IP subjectAltName is required".into()));
        let named = Request { has_dns: true, ..node() };
        assert_eq!(named.check_kubelet_serving(&serving), Ok(()));
        assert_eq!(named.check_kubelet_client(&client), Err("DNS subjectAltNames are not allowed".into()));
        let other = Request { organizations: vec!["dev".into()], ..node() };
        assert_eq!(other.check_kubelet_client(&client), Err("subject organization is not system:nodes".into()));
        let person = Request { common_name: "jane".into(), ..node() };
        assert_eq!(person.check_kubelet_client(&client), Err("subject common name does not begin with system:node:".into()));
        assert!(Request::parse(b"x").is_err());
    }
}
