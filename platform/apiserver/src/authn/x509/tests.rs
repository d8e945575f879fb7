use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, date_time_ymd};

use super::*;

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

fn ca() -> Ca {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "ca");
    let certificate = params.self_signed(&key).unwrap().der().clone();
    Ca { issuer: Issuer::new(params, key), certificate }
}

fn client(ca: &Ca, names: &[(DnType, &str)], usage: ExtendedKeyUsagePurpose) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    for (kind, name) in names {
        params.distinguished_name.push(kind.clone(), *name);
    }
    params.extended_key_usages = vec![usage];
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2027, 1, 1);
    params.signed_by(&KeyPair::generate().unwrap(), &ca.issuer).unwrap().der().clone()
}

#[test]
fn reads_names() {
    let ours = ca();
    let verifier = ClientCa::new(std::slice::from_ref(&ours.certificate)).unwrap();
    let now: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
    let jane = [(DnType::CommonName, "jane"), (DnType::OrganizationName, "dev")];
    let good = client(&ours, &jane, ExtendedKeyUsagePurpose::ClientAuth);
    let verified = verifier.verify(std::slice::from_ref(&good), now).unwrap();
    assert_eq!(verified.user.username, "jane");
    assert_eq!(verified.user.groups, ["dev", ALL_AUTHENTICATED]);
    assert_eq!(verified.expires, Some(1_798_761_600));
    assert!(verified.user.extra[CREDENTIAL_ID][0].starts_with("X509SHA256="));

    let refused =
        |certificate: &CertificateDer<'static>, now: Timestamp| verifier.verify(std::slice::from_ref(certificate), now).is_err();
    assert!(refused(&good, "2027-01-02T00:00:00Z".parse().unwrap()), "too old");
    assert!(refused(&good, "2025-01-02T00:00:00Z".parse().unwrap()), "too young");
    assert!(refused(&client(&ca(), &jane, ExtendedKeyUsagePurpose::ClientAuth), now), "another CA");
    assert!(refused(&client(&ours, &jane, ExtendedKeyUsagePurpose::ServerAuth), now), "a server's");
    assert!(refused(&client(&ours, &[(DnType::OrganizationName, "dev")], ExtendedKeyUsagePurpose::ClientAuth), now), "nobody");
    assert!(refused(&CertificateDer::from(vec![1, 2, 3]), now), "no certificate");
}
