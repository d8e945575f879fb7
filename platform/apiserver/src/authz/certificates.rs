//! Who may approve and sign certificates, and say whom to trust: the admission of CertificateSigningRequests and
//! ClusterTrustBundles.
//!
//! Follows `plugin/pkg/admission/certificates` (CertificateApproval, CertificateSigning, CertificateSubjectRestriction,
//! ClusterTrustBundleAttest).

use serde_json::Value;

use super::{Attributes, Authorizer, SYSTEM_MASTERS, rules::quote};
use crate::authn::UserInfo;

/// The API group.
pub const GROUP: &str = "certificates.k8s.io";
/// The resource.
pub const RESOURCE: &str = "certificatesigningrequests";

/// The resource of what clusters trust.
pub const TRUST_BUNDLES: &str = "clustertrustbundles";

const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// Lets a create (`old` is `None`) or update of a CertificateSigningRequest pass, or says why not: the whole message
/// of the 403.
///
/// # Errors
///
/// When the user may not approve or sign for the request's signer, or the certificate would be for `system:masters`.
pub fn admit(
    authorizer: &Authorizer,
    user: &UserInfo,
    subresource: &str,
    old: Option<&Value>,
    new: &Value,
) -> Result<(), String> {
    let signer = old.unwrap_or(new)["spec"]["signerName"].as_str().unwrap_or_default();
    let name = new["metadata"]["name"].as_str().unwrap_or_default();
    let forbidden = |why: String| Err(format!("{RESOURCE}.{GROUP} {} is forbidden: {why}", quote(name)));
    match (subresource, old) {
        ("approval", Some(_)) if !allowed(authorizer, user, "approve", signer) => {
            forbidden(format!("user not permitted to approve requests with signerName {}", quote(signer)))
        }
        ("status", Some(old)) => {
            let same = |field: &str| old["status"][field] == new["status"][field];
            if same("certificate") && same("conditions") || allowed(authorizer, user, "sign", signer) {
                return Ok(());
            }
            forbidden(format!("user not permitted to sign requests with signerName {}", quote(signer)))
        }
        ("", None) if signer == CLIENT_SIGNER && asks_for_masters(new) => {
            forbidden(format!("use of {CLIENT_SIGNER} signer with {SYSTEM_MASTERS} group is not allowed"))
        }
        _ => Ok(()),
    }
}

/// Lets a create (`old` is `None`) or update of a ClusterTrustBundle pass, or says why not.
///
/// # Errors
///
/// When the user may not attest for the bundle's signer. What only the garbage collector's fields are changed of, anybody may
/// write who may write it at all.
pub fn attest(authorizer: &Authorizer, user: &UserInfo, old: Option<&Value>, new: &Value) -> Result<(), String> {
    let signer = new["spec"]["signerName"].as_str().unwrap_or_default();
    let plain = |bundle: &Value| {
        let mut bundle = bundle.clone();
        if let Some(metadata) = bundle["metadata"].as_object_mut() {
            metadata.retain(|field, _| !matches!(field.as_str(), "ownerReferences" | "finalizers" | "managedFields"));
        }
        bundle
    };
    let same = old.is_some_and(|old| plain(old) == plain(new));
    if signer.is_empty() || same || allowed(authorizer, user, "attest", signer) {
        return Ok(());
    }
    Err(format!("user not permitted to attest for signerName {}", quote(signer)))
}

/// Writes into a new CertificateSigningRequest who asks, whatever it says itself.
pub fn stamp(request: &mut Value, user: &UserInfo) {
    let Some(spec) = request["spec"].as_object_mut() else { return };
    for field in ["username", "uid", "groups", "extra"] {
        spec.remove(field);
    }
    if let Value::Object(user) = user.to_value() {
        spec.extend(user);
    }
}

/// Whether a user may `approve`, `sign` or `attest` for a signer, by its name or its whole domain (`domain/*`).
#[must_use]
pub fn allowed(authorizer: &Authorizer, user: &UserInfo, verb: &str, signer: &str) -> bool {
    let ask = |name: &str| authorizer.authorize(&Attributes::resource(user, verb, GROUP, "signers", "", name)).allowed();
    ask(signer) || signer.split_once('/').is_some_and(|(domain, _)| ask(&format!("{domain}/*")))
}

fn asks_for_masters(request: &Value) -> bool {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use x509_parser::{certification_request::X509CertificationRequest, pem::parse_x509_pem, prelude::FromDer};
    let pem = request["spec"]["request"].as_str().and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
    let Ok((_, pem)) = parse_x509_pem(&pem) else { return false };
    X509CertificationRequest::from_der(&pem.contents).is_ok_and(|(_, request)| {
        let subject = &request.certification_request_info.subject;
        subject.iter_organization().any(|name| name.as_str() == Ok(SYSTEM_MASTERS))
    })
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use rcgen::{CertificateParams, DnType, KeyPair};
    use serde_json::json;

    use super::*;
    use crate::authz::{rbac, tests::default_policy};

    fn csr(signer: &str, organisation: &str) -> Value {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, organisation);
        let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        json!({"metadata": {"name": "c"}, "spec": {"signerName": signer, "request": STANDARD.encode(pem)}})
    }

    #[test]
    fn says_who_asks() {
        let mut request = json!({"spec": {"request": "x", "username": "admin", "extra": {"a": ["b"]}, "uid": "9"}});
        stamp(&mut request, &UserInfo::new("jane", ["dev"]));
        assert_eq!(request["spec"], json!({"request": "x", "username": "jane", "groups": ["dev"]}));
    }

    #[test]
    fn guards_signers() {
        let (authorizer, _) = default_policy();
        let role = json!({"rules": [{"apiGroups": [GROUP], "resources": ["signers"], "resourceNames": ["example.com/*"], "verbs": ["approve"]}]});
        let binding = json!({"roleRef": {"kind": "ClusterRole", "name": "r"}, "subjects": [{"kind": "User", "name": "jane"}]});
        authorizer.apply(rbac::GROUP, "clusterroles", "", "r", Some(&role));
        authorizer.apply(rbac::GROUP, "clusterrolebindings", "", "b", Some(&binding));
        let jane = UserInfo::new("jane", ["a"]);
        let check = |user: &UserInfo, subresource: &str, signer: &str, want: Result<(), &str>| {
            let old = csr(signer, "dev");
            let mut new = old.clone();
            new["status"] = json!({"certificate": "x"});
            let got = admit(&authorizer, user, subresource, Some(&old), &new);
            assert_eq!(
                got,
                want.map_err(|why| format!("{RESOURCE}.{GROUP} \"c\" is forbidden: {why}")),
                "{subresource} {signer}"
            );
        };
        check(&jane, "approval", "example.com/any", Ok(()));
        check(
            &jane,
            "approval",
            "kubernetes.io/legacy-unknown",
            Err(r#"user not permitted to approve requests with signerName "kubernetes.io/legacy-unknown""#),
        );
        check(
            &jane,
            "status",
            "example.com/any",
            Err(r#"user not permitted to sign requests with signerName "example.com/any""#),
        );
        check(&jane, "", "example.com/any", Ok(()));
        let controller = UserInfo::service_account("kube-system", "certificate-controller", "1");
        check(&controller, "status", CLIENT_SIGNER, Ok(()));
        check(
            &controller,
            "approval",
            CLIENT_SIGNER,
            Err(r#"user not permitted to approve requests with signerName "kubernetes.io/kube-apiserver-client""#),
        );
        assert!(admit(&authorizer, &jane, "", None, &csr(CLIENT_SIGNER, SYSTEM_MASTERS)).is_err());
        assert_eq!(admit(&authorizer, &jane, "", None, &csr(CLIENT_SIGNER, "dev")), Ok(()));
    }

    #[test]
    fn guards_trust_bundles() {
        let (authorizer, _) = default_policy();
        let bundle =
            |signer: &str, pem: &str| json!({"metadata": {"name": "b"}, "spec": {"signerName": signer, "trustBundle": pem}});
        let (jane, admin) = (UserInfo::new("jane", ["a"]), UserInfo::new("root", [SYSTEM_MASTERS]));
        let mut owned = bundle("example.com/a", "x");
        owned["metadata"]["finalizers"] = json!(["a/b"]);
        let refused = Err(r#"user not permitted to attest for signerName "example.com/a""#.to_owned());
        for (user, old, new, want) in [
            (&jane, None, bundle("", "x"), Ok(())),
            (&jane, None, bundle("example.com/a", "x"), refused.clone()),
            (&jane, Some(bundle("example.com/a", "x")), bundle("example.com/a", "y"), refused),
            (&jane, Some(bundle("example.com/a", "x")), owned, Ok(())),
            (&admin, None, bundle("example.com/a", "x"), Ok(())),
        ] {
            assert_eq!(attest(&authorizer, user, old.as_ref(), &new), want, "{new}");
        }
    }
}
