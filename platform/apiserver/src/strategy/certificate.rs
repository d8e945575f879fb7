//! What is special to CertificateSigningRequests: what of them is a certificate, and when their conditions changed.
//!
//! Follows `pkg/registry/certificates/certificates/strategy.go`, and `validateCSR` and `validateCertificate` of
//! `pkg/apis/certificates/validation`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use pharos_api::validation::{ErrorType, FieldError};
use serde_json::{Value, json};
use x509_parser::{
    certification_request::X509CertificationRequest,
    parse_x509_certificate,
    pem::{Pem, parse_x509_pem},
    prelude::FromDer,
};

use super::field_error;

/// A request is a PEM block of PKCS #10 that its own key signed.
pub(super) fn validate_request(object: &Value) -> Vec<FieldError> {
    let request = &object["spec"]["request"];
    match check_request(&decode(request)) {
        Ok(()) => Vec::new(),
        Err(why) => vec![field_error(ErrorType::Invalid, "spec.request", request.clone(), &why)],
    }
}

fn check_request(pem: &[u8]) -> Result<(), String> {
    let block = parse_x509_pem(pem).ok().map(|(_, block)| block).filter(|block| block.label == "CERTIFICATE REQUEST");
    let block = block.ok_or("PEM block type must be CERTIFICATE REQUEST")?;
    let (_, request) = X509CertificationRequest::from_der(&block.contents).map_err(|error| format!("x509: {error}"))?;
    request.verify_signature().map_err(|error| format!("x509: {error}"))
}

/// What a signer writes is a chain of certificates. What it leaves alone is not looked at.
pub(super) fn validate_certificate(new: &Value, old: &Value) -> Vec<FieldError> {
    let certificate = &new["status"]["certificate"];
    if certificate.as_str().unwrap_or_default().is_empty() || *certificate == old["status"]["certificate"] {
        return Vec::new();
    }
    match check_chain(&decode(certificate)) {
        Ok(()) => Vec::new(),
        Err(why) => vec![field_error(ErrorType::Invalid, "status.certificate", json!("<certificate data>"), &why)],
    }
}

fn check_chain(pem: &[u8]) -> Result<(), String> {
    let mut blocks = 0;
    for block in Pem::iter_from_buffer(pem) {
        let block = block.map_err(|error| error.to_string())?;
        if block.label != "CERTIFICATE" {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label));
        }
        if block.contents.is_empty() {
            return Err("found CERTIFICATE PEM block containing 0 certificates".into());
        }
        parse_x509_certificate(&block.contents).map_err(|error| format!("x509: {error}"))?;
        blocks += 1;
    }
    if blocks == 0 { Err("must contain at least one CERTIFICATE PEM block".into()) } else { Ok(()) }
}

fn decode(value: &Value) -> Vec<u8> {
    value.as_str().and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default()
}

/// Dates conditions that do not say themselves when they changed.
pub(super) fn date_conditions(new: &mut Value, old: &Value, now: Timestamp) {
    let now = json!(now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    let before = old["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    let conditions = new.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten().filter(|condition| condition.is_object()) {
        if condition["lastUpdateTime"].is_null() {
            condition["lastUpdateTime"] = now.clone();
        }
        if condition["lastTransitionTime"].is_null() {
            let same = |old: &&Value| old["type"] == condition["type"] && old["status"] == condition["status"];
            let since = before.iter().find(same).map(|old| &old["lastTransitionTime"]).filter(|time| !time.is_null());
            condition["lastTransitionTime"] = since.unwrap_or(&now).clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn request() -> String {
        CertificateParams::default().serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
    }

    #[test]
    fn requests() {
        let check = |pem: &str| {
            let found = validate_request(&json!({"spec": {"request": STANDARD.encode(pem)}}));
            found.first().map(|error| error.detail.clone()).unwrap_or_default()
        };
        let good = request();
        assert_eq!(check(&good), "");
        assert_eq!(check("nonsense"), "PEM block type must be CERTIFICATE REQUEST");
        assert_eq!(check(&good.replace("CERTIFICATE REQUEST", "CERTIFICATE")), "PEM block type must be CERTIFICATE REQUEST");
        // The signature stands at the end.
        let mut block = parse_x509_pem(good.as_bytes()).unwrap().1.contents;
        let last = block.len() - 1;
        block[last] ^= 1;
        let forged =
            format!("-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n", STANDARD.encode(&block));
        assert_ne!(check(&forged), "");
    }

    #[test]
    fn chains() {
        let certificate = CertificateParams::default().self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
        assert_eq!(check_chain(format!("{certificate}{certificate}").as_bytes()), Ok(()));
        assert_eq!(check_chain(b"x"), Err("must contain at least one CERTIFICATE PEM block".into()));
        let wrong = check_chain(request().as_bytes());
        assert_eq!(wrong, Err("only CERTIFICATE PEM blocks are allowed, found \"CERTIFICATE REQUEST\"".into()));
    }

    #[test]
    fn conditions_are_dated() {
        let now: Timestamp = "2026-05-01T12:00:00.5Z".parse().unwrap();
        let old =
            json!({"status": {"conditions": [{"type": "A", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        let mut new = json!({"status": {"conditions": [{"type": "A", "status": "True"}, {"type": "B", "status": "True"}]}});
        date_conditions(&mut new, &old, now);
        let expected = json!([
            {"type": "A", "status": "True", "lastUpdateTime": "2026-05-01T12:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            {"type": "B", "status": "True", "lastUpdateTime": "2026-05-01T12:00:00Z", "lastTransitionTime": "2026-05-01T12:00:00Z"},
        ]);
        assert_eq!(new["status"]["conditions"], expected);
        let mut none = json!({});
        date_conditions(&mut none, &json!({}), now);
        assert_eq!(none, json!({}));
    }
}
