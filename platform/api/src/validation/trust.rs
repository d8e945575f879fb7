//! Trust bundles and requests of pods' certificates (`pkg/apis/certificates/validation/validation.go`). What needs a parser of
//! certificates is the API server's.

use serde_json::Value;

use super::at::{At, Errors};
use super::certificates;
use crate::names;
use crate::status::FieldError;

/// The largest public key and proof that one has its private half, in bytes.
const MAX_KEY_BYTES: usize = 10 * 1024;

/// The shortest and longest time a certificate may be asked for, in seconds; Kubernetes' own signers give a day at most.
const HOUR: i64 = 3_600;
const DAY: i64 = 86_400;
const MAX_DAYS: i64 = 91;

/// What is wrong with the name of a bundle, which begins with its signer's if it has one.
pub(super) fn bundle_name(name: &str, signer: &str) -> Vec<String> {
    if signer.is_empty() {
        if name.contains(':') {
            return vec!["ClusterTrustBundle without signer name must not have \":\" in its name".to_owned()];
        }
        return names::dns1123_subdomain(name);
    }
    let prefix = format!("{}:", signer.replace('/', ":"));
    match name.strip_prefix(&prefix) {
        Some(rest) => names::dns1123_subdomain(rest),
        None => vec![format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}")],
    }
}

pub(super) fn cluster_trust_bundle(root: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    let (name, signer) = (root.field("metadata").field("name"), root.field("spec").field("signerName"));
    if !name.text().is_empty() {
        name.all(bundle_name(name.text(), signer.text()), errors);
    }
    if !signer.text().is_empty() {
        certificates::signer_name(&signer, errors);
    }
    if let Some(old) = old {
        let before = old.pointer("/spec/signerName").unwrap_or(&Value::Null);
        if signer.text() != before.as_str().unwrap_or_default() {
            errors.push(signer.invalid("field is immutable"));
        }
    }
}

pub(super) fn pod_certificate_request(root: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    let spec = root.field("spec");
    if let Some(old) = old {
        spec.immutable(old.get("spec").unwrap_or(&Value::Null), errors);
        return;
    }
    let signer = spec.field("signerName");
    certificates::signer_name(&signer, errors);
    for (name, uid) in [("podName", "podUID"), ("serviceAccountName", "serviceAccountUID"), ("nodeName", "nodeUID")] {
        let (name, uid) = (spec.field(name), spec.field(uid));
        errors.extend(
            names::dns1123_subdomain(name.text()).into_iter().map(|detail| FieldError::invalid(name.path(), name.text(), detail)),
        );
        if uid.text().is_empty() {
            errors.push(FieldError::invalid(uid.path(), "", "must not be empty"));
        }
        uid.at_most_bytes(128, errors);
    }
    lifetime(&spec.field("maxExpirationSeconds"), signer.text(), errors);
    for field in ["pkixPublicKey", "proofOfPossession", "stubPKCS10Request"] {
        let at = spec.field(field);
        // What is counted is not its base64.
        if at.text().len() / 4 * 3 > MAX_KEY_BYTES {
            errors.push(FieldError::too_long(at.path(), MAX_KEY_BYTES));
        }
    }
}

/// How long a certificate may be asked to be good for.
pub(super) fn lifetime(seconds: &At<'_>, signer: &str, errors: &mut Errors) {
    let domain = signer.split('/').next().unwrap_or_default();
    let own = domain == "kubernetes.io" || domain.ends_with(".kubernetes.io");
    let most = if own { DAY } else { MAX_DAYS * DAY };
    match seconds.int() {
        None => errors.push(seconds.required("must be set")),
        Some(given) if !(HOUR..=most).contains(&given) => {
            errors.push(seconds.invalid(format!("must be in the range [{HOUR}, {most}]")));
        }
        Some(_) => {}
    }
}

/// How a request was answered: once, and with a certificate only if it was granted.
pub(super) fn pod_certificate_status(status: &At<'_>, old: &Value, errors: &mut Errors) {
    const ANSWERS: [&str; 3] = ["Issued", "Denied", "Failed"];
    let before = errors.len();
    let mut answers = 0;
    for (index, condition) in status.field("conditions").items().enumerate() {
        let (ty, state) = (condition.field("type"), condition.field("status"));
        let path = |field: &str| format!("status.conditions.[{index}].{field}");
        if !ANSWERS.contains(&ty.text()) {
            errors.push(FieldError::not_supported(path("type"), ty.text(), &ANSWERS));
            continue;
        }
        answers += 1;
        if answers > 1 {
            let detail = "There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\"";
            errors.push(FieldError::invalid(path("type"), ty.text(), detail));
        }
        if state.text() != "True" {
            errors.push(FieldError::not_supported(path("status"), state.text(), &["True"]));
        }
    }
    if errors.len() > before {
        return;
    }
    let old_status = old.get("status").unwrap_or(&Value::Null);
    let answered = |status: &Value, answers: &[&str]| {
        let conditions = status.get("conditions").and_then(Value::as_array);
        conditions.into_iter().flatten().any(|c| c["status"] == "True" && answers.iter().any(|answer| c["type"] == *answer))
    };
    let same = |a: &Value, b: &Value| {
        ["conditions", "certificateChain", "notBefore", "notAfter", "beginRefreshAt"]
            .iter()
            .all(|field| a.get(*field).unwrap_or(&Value::Null) == b.get(*field).unwrap_or(&Value::Null))
    };
    if answered(old_status, &ANSWERS) {
        if !same(status.value(), old_status) {
            errors.push(status.invalid_unshown("immutable after PodCertificateRequest is issued, denied, or failed"));
        }
    } else if answered(status.value(), &["Denied", "Failed"]) {
        let others = ["certificateChain", "notBefore", "notAfter", "beginRefreshAt"];
        if others.iter().any(|field| !status.field(field).text().is_empty()) {
            errors.push(
                status.invalid_unshown(
                    "non-condition status fields must be empty when denying or failing the PodCertificateRequest",
                ),
            );
        }
    } else if answered(status.value(), &["Issued"]) {
        status.field("certificateChain").at_most_bytes(16 * 1024, errors);
        for (field, detail) in [
            ("notBefore", "must be present and consistent with the issued certificate"),
            ("notAfter", "must be present and consistent with the issued certificate"),
            ("beginRefreshAt", "must be present and in the range [notbefore+10min, notafter-10min]"),
        ] {
            status.field(field).must_be_set(detail, errors);
        }
    } else if !same(status.value(), old_status) {
        errors.push(status.invalid_unshown("status is immutable unless transitioning to \"Issued\", \"Denied\", or \"Failed\""));
    }
}
