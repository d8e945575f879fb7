//! Watches that end leave nothing behind, and those whose clients vanish end.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http_body_util::Empty;
use hyper::{Request, body::Bytes, body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pharos_tests::{Cluster, eventually};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::{net::TcpStream, task::JoinSet};

type Client = http2::SendRequest<Empty<Bytes>>;

const PATH: &str = "/api/v1/namespaces/default/configmaps?watch=true";

/// Watches at once on one connection.
const AT_ONCE: usize = 100;
/// A watch that leaked would keep more than 2 KiB: ten thousand of them, 20 MiB.
const MOST_GROWTH_KIB: u64 = 16 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_watches_leave_no_memory_behind() {
    let cluster = Cluster::with(2, &["--disable=agent"]);
    let tls = tls(&cluster);
    let rounds = async |count: usize| {
        for _ in 0..count {
            let client = connect(&cluster, &tls).await;
            drop(watches(&client, AT_ONCE).await);
        }
    };
    let open = || watching(&cluster);
    // What a server keeps once it has been busy, it keeps for ever; so that comes first.
    rounds(40).await;
    eventually("the watches of the warm-up are freed", Duration::from_secs(30), || {
        if open() == 0 { Ok(()) } else { Err(open().to_string()) }
    });
    let before = resident_kib(&cluster);
    rounds(100).await;
    eventually("all watches are freed", Duration::from_secs(30), || if open() == 0 { Ok(()) } else { Err(open().to_string()) });
    let after = resident_kib(&cluster);
    assert!(after < before + MOST_GROWTH_KIB, "from {before} KiB to {after} KiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_of_vanished_clients_are_freed_within_a_minute() {
    let cluster = Cluster::with(2, &["--disable=agent"]);
    let tls = tls(&cluster);
    let mut kept = Vec::new();
    for _ in 0..4 {
        let client = connect(&cluster, &tls).await;
        kept.push((watches(&client, 250).await, client));
    }
    assert_eq!(watching(&cluster), 1000);
    // No FIN, no RST: the cable is cut.
    cluster.net().plug(1, false);
    eventually("the watches are freed", Duration::from_secs(60), || match watching(&cluster) {
        0 => Ok(()),
        count => Err(format!("{count} watches are open")),
    });
    drop(kept);
}

/// Opens watches, and waits until each has been answered.
async fn watches(client: &Client, count: usize) -> Vec<hyper::Response<Incoming>> {
    let mut opening = JoinSet::new();
    for _ in 0..count {
        let mut client = client.clone();
        opening.spawn(async move {
            client.ready().await.unwrap();
            let request = Request::get(format!("https://172.31.77.1:6443{PATH}")).body(Empty::new()).unwrap();
            let response = client.send_request(request).await.unwrap();
            assert_eq!(response.status(), 200);
            response
        });
    }
    opening.join_all().await
}

/// A connection from the second machine to the server.
async fn connect(cluster: &Cluster, tls: &Arc<ClientConfig>) -> Client {
    let socket = cluster.net().on(1, || std::net::TcpStream::connect("172.31.77.1:6443").unwrap());
    socket.set_nonblocking(true).unwrap();
    let connector = tokio_rustls::TlsConnector::from(tls.clone());
    let name = ServerName::try_from("172.31.77.1").unwrap();
    let stream = connector.connect(name, TcpStream::from_std(socket).unwrap()).await.unwrap();
    let (client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "ends with the client")]
    tokio::spawn(connection);
    client
}

/// The administrator's TLS, for HTTP/2.
fn tls(cluster: &Cluster) -> Arc<ClientConfig> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = std::fs::read_to_string(cluster.kubeconfig()).unwrap();
    let field = |name: &str| {
        let text = config.lines().find_map(|line| line.trim().strip_prefix(name)).unwrap().trim();
        BASE64_STANDARD.decode(text).unwrap()
    };
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&field("certificate-authority-data:")).unwrap()).unwrap();
    let chain = CertificateDer::pem_slice_iter(&field("client-certificate-data:")).collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(&field("client-key-data:")).unwrap();
    let mut tls = ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(chain, key).unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(tls)
}

/// How many of our watches the server counts.
fn watching(cluster: &Cluster) -> u64 {
    let metrics = cluster.kubectl(&["get", "--raw", "/metrics"]).success();
    let ours = |line: &&str| {
        let labels = [r#"verb="WATCH""#, r#"resource="configmaps""#, r#"scope="namespace""#];
        line.starts_with("apiserver_longrunning_requests{") && labels.iter().all(|label| line.contains(label))
    };
    metrics.lines().filter(ours).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

fn resident_kib(cluster: &Cluster) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", cluster.pid(0))).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
