use std::{
    os::unix::fs::PermissionsExt as _,
    sync::atomic::{AtomicI64, Ordering},
};

use pharos_telemetry::Clock;

use super::*;
use crate::pki::{Subject, Usage, YEAR, load_or_create_signing_key, new_csr};

const NOW: i64 = 1_790_000_000;

/// A directory, and a CA in it whose clock is set by hand.
struct Bench {
    dir: tempfile::TempDir,
    now: Arc<AtomicI64>,
    ca: Arc<Ca>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let now = Arc::new(AtomicI64::new(NOW));
        let ca = Arc::new(Ca::load_or_create(&dir.path().join("pki"), "ca", "pharos-ca", clock(&now)).unwrap());
        Self { dir, now, ca }
    }

    fn server(&self, names: &[&str]) -> Arc<Identity> {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let template = Template::server("kube-apiserver", names, vec!["10.43.0.1".parse().unwrap()]);
        Identity::load_or_issue(self.ca.clone(), &self.dir.path().join("pki"), "server", template).unwrap()
    }
}

fn clock(now: &Arc<AtomicI64>) -> Clock {
    let now = now.clone();
    Clock::from_fn(move || jiff_timestamp(now.load(Ordering::SeqCst)))
}

fn jiff_timestamp(seconds: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(seconds).unwrap()
}

#[test]
fn files_are_kept_private_and_reused() {
    let bench = Bench::new();
    let pki = bench.dir.path().join("pki");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let first = bench.server(&["kubernetes"]).pem();
    assert_eq!(mode(&pki), 0o700);
    assert_eq!(mode(&pki.join("ca.key")), 0o600);
    assert_eq!(mode(&pki.join("server.key")), 0o600);
    assert_eq!(bench.server(&["kubernetes"]).pem().certificate_pem, first.certificate_pem);
    assert_ne!(bench.server(&["kubernetes", "localhost"]).pem().certificate_pem, first.certificate_pem);

    let again = Ca::load_or_create(&pki, "ca", "pharos-ca", clock(&bench.now)).unwrap();
    assert_eq!(again.hash(), bench.ca.hash());
    std::fs::remove_file(pki.join("ca.key")).unwrap();
    assert!(Ca::load_or_create(&pki, "ca", "pharos-ca", clock(&bench.now)).is_err());
}

#[test]
fn another_ca_s_certificate_is_replaced() {
    let bench = Bench::new();
    let first = bench.server(&["a"]).pem().certificate_pem;
    let other = Bench::new();
    let template = Template::server("kube-apiserver", vec!["a".to_owned()], vec!["10.43.0.1".parse().unwrap()]);
    let second = Identity::load_or_issue(other.ca, &bench.dir.path().join("pki"), "server", template).unwrap();
    assert_ne!(first, second.pem().certificate_pem);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_renewed_a_third_of_its_life_before_its_end() {
    let bench = Bench::new();
    let identity = bench.server(&["a"]);
    let first = identity.pem().certificate_pem;
    let renewing = tokio::task::JoinSet::from_iter([identity.clone().renew()]);

    bench.now.store(NOW + YEAR.as_secs() as i64 / 2, Ordering::SeqCst);
    tokio::time::sleep(LONGEST_SLEEP * 2).await;
    assert_eq!(identity.pem().certificate_pem, first);

    bench.now.store(NOW + YEAR.as_secs() as i64 * 3 / 4, Ordering::SeqCst);
    let renewed = async {
        while identity.pem().certificate_pem == first {
            tokio::time::sleep(LONGEST_SLEEP).await;
        }
    };
    tokio::time::timeout(LONGEST_SLEEP * 100, renewed).await.unwrap();
    assert!(identity.not_after() > NOW + YEAR.as_secs() as i64);
    drop(renewing);
}

#[test]
fn signing_requests_are_granted_what_the_caller_says() {
    let bench = Bench::new();
    let template = Template::server("system:node:a", vec!["a.example".to_owned()], vec!["10.0.0.1".parse().unwrap()]);
    let template = Template { subject: Subject::new("system:node:a", &["system:nodes", "extra"]), ..template };
    let (_, csr) = new_csr(&template).unwrap();
    let usages = [Usage::DigitalSignature, Usage::ClientAuth];

    let check = |subject: Option<&Subject>, expected: &Subject| {
        let pem = bench.ca.sign_csr(&csr, &usages, YEAR * 100, subject).unwrap();
        let chain = files::certificates(&pem, "test").unwrap();
        let (_, parsed) = X509Certificate::from_der(&chain[0]).unwrap();
        assert!(has_subject(&parsed, expected), "{}", parsed.subject());
        assert!(bench.ca.has_signed(&parsed) && !parsed.is_ca());
        assert_eq!(names_of(&parsed), (template.names.clone(), template.addresses.clone()));
        let extended = parsed.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.client_auth && !extended.server_auth);
        assert!(parsed.validity().not_after.timestamp() < NOW + 11 * YEAR.as_secs() as i64, "outlives the CA");
    };
    check(None, &template.subject);
    let other = Subject::new("system:node:b", &["system:nodes"]);
    check(Some(&other), &other);
}

#[test]
fn malformed_requests_are_errors() {
    let bench = Bench::new();
    let (_, csr) = new_csr(&Template::client(Subject::new("x", &[]))).unwrap();
    let broken = csr.replace('A', "B");
    for pem in [
        "",
        "nonsense",
        bench.ca.certificate_pem(),
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        &broken,
    ] {
        assert!(bench.ca.sign_csr(pem, &[], YEAR, None).is_err(), "{pem}");
    }
    assert!(bench.ca.issue(&Template::client(Subject::new("x", &["a", "b", "c"]))).is_err());
}

#[test]
fn signing_keys_are_kept() {
    let bench = Bench::new();
    let first = load_or_create_signing_key(bench.dir.path(), "sa").unwrap();
    assert_eq!(load_or_create_signing_key(bench.dir.path(), "sa").unwrap().private_pem, first.private_pem);
    assert!(first.private_pem.starts_with("-----BEGIN PRIVATE KEY-----"));
    assert!(first.public_pem.starts_with("-----BEGIN PUBLIC KEY-----"));
}
