//! Certificate signing requests (`pkg/apis/certificates/validation`, and `ValidateSignerName` of
//! `pkg/apis/core/validation/names.go`).
//!
//! What needs a parser of certificates is the API server's to check: whether the request is one, and what was signed.

use std::collections::BTreeSet;

use serde_json::Value;

use super::at::{At, Errors};
use crate::names;
use crate::status::FieldError;

/// The signer that only objects of older API versions may name.
const LEGACY_UNKNOWN: &str = "kubernetes.io/legacy-unknown";

/// The least `expirationSeconds`.
const LEAST_SECONDS: i64 = 600;

/// What a certificate may be for, sorted.
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// Conditions that can only be true, and that stay.
const LASTING: [&str; 3] = ["Approved", "Denied", "Failed"];

/// A domain's and a path's longest: `DNS1123SubdomainMaxLength`, and a namespace's name and a point more.
const LONGEST_DOMAIN: usize = 253;
const LONGEST_PATH: usize = 253 + 63 + 1;

/// What a write may change.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Write {
    /// Neither approval nor certificate.
    Main,
    /// The certificate, once, and conditions other than of the approval.
    Status,
    /// Approved and Denied.
    Approval,
}

/// A request to be created, or as one of its writes would leave it.
pub(super) fn request(root: &At<'_>, old: Option<&Value>, write: Write, errors: &mut Errors) {
    let spec = root.field("spec");
    let usages = spec.field("usages");
    let before = At::root(old.unwrap_or(&Value::Null));
    // What was stored already is put up with.
    let tolerated = |wrong: fn(&At<'_>) -> bool| old.is_some() && wrong(&before);
    usages.must_be_set("", errors);
    if !tolerated(has_unknown_usage) {
        for usage in usages.items().filter(|usage| !USAGES.contains(&usage.text())) {
            errors.push(FieldError::not_supported(usage.path(), usage.text(), &USAGES));
        }
    }
    if !tolerated(|old| has_twice(old.field("spec").field("usages").items())) {
        let mut seen = BTreeSet::new();
        errors.extend(usages.items().filter(|usage| !seen.insert(usage.text())).map(|usage| usage.duplicate()));
    }
    let signer = spec.field("signerName");
    if signer.text() == LEGACY_UNKNOWN {
        if !tolerated(|old| old.field("spec").field("signerName").text() == LEGACY_UNKNOWN) {
            errors.push(signer.invalid("the legacy signerName is not allowed via this API version"));
        }
    } else {
        signer_name(&signer, errors);
    }
    let expiration = spec.field("expirationSeconds");
    if expiration.int().is_some_and(|seconds| seconds < LEAST_SECONDS) {
        errors.push(expiration.invalid("may not specify a duration less than 600 seconds (10 minutes)"));
    }
    let conditions = root.field("status").field("conditions");
    self::conditions(&conditions, &before.field("status").field("conditions"), old.is_some(), errors);
    if old.is_some() {
        kept(root, &before, write, errors);
    }
}

fn has_unknown_usage(object: &At<'_>) -> bool {
    object.field("spec").field("usages").items().any(|usage| !USAGES.contains(&usage.text()))
}

fn has_twice<'a>(mut items: impl Iterator<Item = At<'a>>) -> bool {
    let mut seen = BTreeSet::new();
    items.any(|item| !seen.insert(item.text()))
}

/// A signer's name is `domain/path`.
pub(super) fn signer_name(at: &At<'_>, errors: &mut Errors) {
    if !at.must_be_set("", errors) {
        return;
    }
    let name = at.text();
    let Some((domain, path)) = name.split_once('/').filter(|(_, path)| !path.contains('/')) else {
        errors.push(at.invalid("must be a fully qualified domain and path of the form 'example.com/signer-name'"));
        return;
    };
    if domain.len() > LONGEST_DOMAIN {
        errors.push(FieldError::too_long(at.path(), LONGEST_DOMAIN));
    }
    // Of several wrong labels the first is told.
    let mut wrong = |part: &str, check: fn(&str) -> Vec<String>| {
        let first = part.split('.').map(|label| (label, check(label))).find(|(_, complaints)| !complaints.is_empty());
        for complaint in first.iter().flat_map(|(_, complaints)| complaints) {
            let label = first.as_ref().map_or("", |(label, _)| label);
            errors.push(FieldError::invalid(at.path(), part, format!("validating label {label:?}: {complaint}")));
        }
    };
    wrong(domain, names::dns1123_label);
    wrong(path, names::dns1123_subdomain);
    if !domain.contains('.') {
        errors.push(FieldError::invalid(at.path(), domain, "should be a domain with at least two segments separated by dots"));
    }
    if path.len() > LONGEST_PATH {
        errors.push(FieldError::too_long(at.path(), LONGEST_PATH));
    }
}

fn conditions(list: &At<'_>, before: &At<'_>, is_update: bool, errors: &mut Errors) {
    let types = |list: &At<'_>| list.items().map(|condition| condition.field("type").text().to_owned()).collect::<Vec<_>>();
    let old = types(before);
    let has_old = |ty: &str| old.iter().any(|old| old == ty);
    let both = is_update && has_old("Approved") && has_old("Denied");
    let twice = is_update && old.iter().collect::<BTreeSet<_>>().len() < old.len();
    let empty = is_update && has_old("");
    let mut seen = BTreeSet::new();
    for condition in list.items() {
        let (ty, status) = (condition.field("type"), condition.field("status"));
        if !empty {
            ty.must_be_set("", errors);
        }
        let allowed: &[&str] = if LASTING.contains(&ty.text()) { &["True"] } else { &["False", "True", "Unknown"] };
        status.must_be_one_of(allowed, errors);
        let other = match ty.text() {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        if !both && !other.is_empty() && seen.contains(other) {
            errors.push(ty.invalid("Approved and Denied conditions are mutually exclusive"));
        }
        if !seen.insert(ty.text()) && !twice {
            errors.push(ty.duplicate());
        }
    }
}

/// What a write has to leave as it was.
fn kept(root: &At<'_>, before: &At<'_>, write: Write, errors: &mut Errors) {
    let list = root.field("status").field("conditions");
    let old_list = before.field("status").field("conditions");
    let of = |list: &At<'_>, ty: &str| -> Vec<Value> {
        list.items().filter(|condition| condition.field("type").text() == ty).map(|c| c.value().clone()).collect()
    };
    for ty in LASTING {
        if of(&list, ty).len() < of(&old_list, ty).len() {
            errors.push(list.forbidden(format!("updates may not remove a condition of type {ty:?}")));
        }
    }
    if write != Write::Approval {
        for ty in ["Approved", "Denied"] {
            let (new, old) = (of(&list, ty), of(&old_list, ty));
            if new.len() > old.len() {
                errors.push(list.forbidden(format!("updates may not add a condition of type {ty:?}")));
            } else if new.len() == old.len() && new != old {
                errors.push(list.forbidden(format!("updates may not modify a condition of type {ty:?}")));
            }
        }
    }
    let certificate = root.field("status").field("certificate");
    let old_certificate = before.field("status").field("certificate");
    if certificate.text() != old_certificate.text() {
        if write != Write::Status {
            errors.push(certificate.forbidden("updates may not set certificate content"));
        } else if !old_certificate.text().is_empty() {
            errors.push(certificate.forbidden("updates may not modify existing certificate content"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(new: &Value, old: Option<&Value>, write: Write) -> Vec<String> {
        let mut errors = Errors::new();
        request(&At::root(new), old, write, &mut errors);
        errors.iter().map(|error| format!("{}: {}", error.field, error.body())).collect()
    }

    fn good() -> Value {
        json!({"spec": {"request": "eA==", "signerName": "example.com/a", "usages": ["client auth"]}})
    }

    fn with(path: &str, value: Value) -> Value {
        let mut object = good();
        match path.split_once('.') {
            Some((outer, inner)) => object[outer][inner] = value,
            None => object[path] = value,
        }
        object
    }

    #[test]
    fn requests() {
        assert_eq!(check(&good(), None, Write::Main), Vec::<String>::new());
        let table = [
            ("spec.signerName", json!(""), "spec.signerName: Required value"),
            ("spec.signerName", json!("a"), "spec.signerName: Invalid value: \"a\": must be a fully qualified domain and path"),
            (
                "spec.signerName",
                json!("a/b/c"),
                "must be a fully qualified domain and path of the form 'example.com/signer-name'",
            ),
            ("spec.signerName", json!("com/b"), "should be a domain with at least two segments separated by dots"),
            ("spec.signerName", json!("A.com/b"), "validating label \"A\": "),
            ("spec.signerName", json!("a.com/b_c"), "validating label \"b_c\": "),
            ("spec.signerName", json!(LEGACY_UNKNOWN), "the legacy signerName is not allowed via this API version"),
            ("spec.usages", json!([]), "spec.usages: Required value"),
            ("spec.usages", json!(["flying"]), "spec.usages[0]: Unsupported value: \"flying\""),
            ("spec.usages", json!(["any", "any"]), "spec.usages[1]: Duplicate value: \"any\""),
            ("spec.expirationSeconds", json!(599), "may not specify a duration less than 600 seconds (10 minutes)"),
        ];
        for (path, value, expected) in table {
            let found = check(&with(path, value.clone()), None, Write::Main);
            assert!(found.len() == 1 && found[0].contains(expected), "{path} {value}: {found:?}");
        }
        // What is stored stays usable.
        for (path, value) in [("spec.signerName", json!(LEGACY_UNKNOWN)), ("spec.usages", json!(["any", "any", "flying"]))] {
            let stored = with(path, value);
            assert_eq!(check(&stored, Some(&stored), Write::Status), Vec::<String>::new(), "{path}");
        }
    }

    #[test]
    fn what_a_write_may_change() {
        let condition = |ty: &str, status: &str| json!({"type": ty, "status": status});
        let status =
            |conditions: Value, certificate: &str| with("status", json!({"conditions": conditions, "certificate": certificate}));
        let none = good();
        let approved = status(json!([condition("Approved", "True")]), "");
        let issued = status(json!([condition("Approved", "True")]), "eA==");
        let table = [
            (&none, approved.clone(), Write::Approval, ""),
            (&none, approved.clone(), Write::Status, "updates may not add a condition of type \"Approved\""),
            (&none, status(json!([condition("Approved", "False")]), ""), Write::Approval, "Unsupported value: \"False\""),
            (&none, status(json!([condition("Approved", "")]), ""), Write::Approval, "conditions[0].status: Required value"),
            (&none, status(json!([condition("Mine", "Unknown")]), ""), Write::Status, ""),
            (
                &none,
                status(json!([condition("Approved", "True"), condition("Denied", "True")]), ""),
                Write::Approval,
                "status.conditions[1].type: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive",
            ),
            (&approved, none.clone(), Write::Approval, "updates may not remove a condition of type \"Approved\""),
            (&approved, issued.clone(), Write::Status, ""),
            (&approved, issued.clone(), Write::Approval, "updates may not set certificate content"),
            (&issued, status(json!([condition("Approved", "True")]), "eQ=="), Write::Status, "updates may not modify existing"),
        ];
        for (old, new, write, expected) in table {
            let found = check(&new, Some(old), write);
            let as_expected =
                if expected.is_empty() { found.is_empty() } else { found.len() == 1 && found[0].contains(expected) };
            assert!(as_expected, "{new}: {found:?}");
        }
    }
}
