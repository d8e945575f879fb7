//! ClusterTrustBundles: that they hold the certificates of authorities (`pkg/apis/certificates/validation/validation.go`).

use std::collections::BTreeMap;

use pharos_api::validation::FieldError;
use serde_json::Value;
use x509_parser::{parse_x509_certificate, pem::Pem};

const FIELD: &str = "spec.trustBundle";

/// The largest bundle, in bytes.
const MAX_BYTES: usize = 1024 * 1024;

/// What is wrong with the certificates of a bundle; those that an update leaves alone are not looked at.
pub(super) fn validate(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let bundle = new["spec"]["trustBundle"].as_str().unwrap_or_default();
    if old.is_some_and(|old| old["spec"]["trustBundle"] == bundle) {
        return Vec::new();
    }
    if bundle.len() > MAX_BYTES {
        return vec![FieldError::too_long(FIELD, MAX_BYTES)];
    }
    let wrong = |detail: String| FieldError::invalid(FIELD, "<value omitted>", detail);
    let mut errors = Vec::new();
    let mut anchors: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
    for (index, block) in Pem::iter_from_buffer(bundle.as_bytes()).map_while(Result::ok).enumerate() {
        if block.label != "CERTIFICATE" {
            errors.push(wrong(format!("entry {index} has bad block type: {}", block.label)));
            continue;
        }
        let is_authority = match parse_x509_certificate(&block.contents) {
            Ok((_, certificate)) => certificate.is_ca(),
            Err(_) => {
                errors.push(wrong(format!("entry {index} does not parse as X.509")));
                continue;
            }
        };
        if is_authority {
            anchors.entry(block.contents).or_default().push(index);
        } else {
            errors.push(wrong(format!("entry {index} does not have the CA bit set")));
        }
    }
    if !errors.is_empty() {
        return errors;
    }
    if anchors.is_empty() {
        errors.push(wrong("at least one trust anchor must be provided".to_owned()));
    }
    for indices in anchors.values().filter(|indices| indices.len() > 1) {
        let shown: Vec<String> = indices.iter().map(usize::to_string).collect();
        errors.push(wrong(format!("duplicate trust anchor (indices [{}])", shown.join(" "))));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bundles_hold_authorities() {
        let bundle = |text: &str| json!({"spec": {"trustBundle": text}});
        let texts = |text: &str| -> Vec<String> { validate(&bundle(text), None).iter().map(ToString::to_string).collect() };
        let shown = |detail: &str| vec![format!("spec.trustBundle: Invalid value: \"<value omitted>\": {detail}")];
        assert_eq!(texts(""), shown("at least one trust anchor must be provided"));
        let key = "-----BEGIN THING-----\neA==\n-----END THING-----\n";
        assert_eq!(texts(key), shown("entry 0 has bad block type: THING"));
        let odd = "-----BEGIN CERTIFICATE-----\neA==\n-----END CERTIFICATE-----\n";
        assert_eq!(texts(odd), shown("entry 0 does not parse as X.509"));
        assert!(validate(&bundle(odd), Some(&bundle(odd))).is_empty());
    }
}
