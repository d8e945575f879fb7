use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures::{AsyncBufReadExt as _, StreamExt as _};
use pharos_apiserver::{Mount as _, authn::UserInfo};
use pharos_transport::{
    Body, Front, FrontConfig, Handler, Io, Limits, Peer, Request, Response, Tls,
    pki::{Ca, Subject, Template, Usage},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::join::{Join, PREFIX};

const NODE: &str = "worker";

/// A server that signs what nodes ask for, and says under `/whose` with which certificate it is asked; under `/slow` it goes on
/// when it is told to.
struct Server(Join, Arc<Notify>);

#[async_trait::async_trait]
impl Handler for Server {
    async fn handle(&self, mut request: Request) -> Response {
        let certificate = request.extensions().get::<Peer>().and_then(Peer::verified_certificate).cloned();
        let Some(certificate) = certificate else { return Response::new(Body::full("nobody")) };
        if request.uri().path() == "/whose" {
            return Response::new(Body::full(hex(&certificate)));
        }
        if request.uri().path() == "/slow" {
            let go_on = self.1.clone();
            let parts = futures::stream::iter(["begun\n", "ended\n"]).then(move |part| {
                let go_on = go_on.clone();
                async move {
                    if part.starts_with("ended") {
                        go_on.notified().await;
                    }
                    std::io::Result::Ok(Bytes::from_static(part.as_bytes()))
                }
            });
            return Response::new(Body::stream(parts).long_running());
        }
        *request.uri_mut() = request.uri().path().strip_prefix(PREFIX).unwrap().parse().unwrap();
        request.extensions_mut().insert(UserInfo::new(format!("system:node:{NODE}"), ["system:nodes"]));
        self.0.handle(request).await
    }

    async fn upgrade(&self, _: http::Request<()>, _: Io) {}
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn certificate(pem: &str) -> String {
    hex(&CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
}

#[tokio::test]
async fn renewed_certificates_are_used_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Arc::new(Ca::load_or_create(dir.path(), "ca", "a CA", Clock::system()).unwrap());
    let cluster = Cluster {
        cluster_cidr: "10.42.0.0/16".into(),
        service_cidr: "10.43.0.0/16".into(),
        cluster_dns: [10, 43, 0, 10].into(),
        cluster_domain: "cluster.local".into(),
        service_node_port_range: "30000-32767".into(),
    };
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let template = Template::server("server", vec!["localhost".into()], vec![address.ip()]);
    let own = Identity::load_or_issue(ca.clone(), dir.path(), "server", template).unwrap();
    let tls = Tls { certificate: own, client_roots: Some(ca.roots()) };
    let front = FrontConfig { addresses: vec![address], tls: Some(tls), limits: Limits::default() };
    let front = Front::bind(front).await.unwrap();
    let server: Uri = format!("https://{}", front.local_addresses()[0]).parse().unwrap();
    let token = CancellationToken::new();
    let ctx = Ctx::for_test(token.clone());
    let go_on = Arc::new(Notify::new());
    let (handler, stop) = (Arc::new(Server(Join { ca: ca.clone(), cluster }, go_on.clone())), token.clone());
    let serving = ctx.spawn("front", async move { front.serve(handler, stop).await });

    // Less than a third of its life is left to it, for it began five minutes ago.
    let issue = |usage| {
        let subject = Subject::new(format!("system:node:{NODE}"), &["system:nodes"]);
        let usages = vec![Usage::DigitalSignature, usage];
        let ttl = Duration::from_secs(60);
        ca.issue(&Template { subject, names: vec![NODE.into()], addresses: vec![], usages, ttl }).unwrap()
    };
    let (first, kubelet) = (issue(Usage::ClientAuth), issue(Usage::ServerAuth));
    let renewal = Renewal {
        api: Renewable::new(server, ca.certificate_pem(), credentials(&first)).unwrap(),
        folder: dir.path().join("node"),
        node: NODE.into(),
        address: address.ip(),
        ca: ca.certificate_pem().to_owned(),
        serving: Identity::from_pem(kubelet).unwrap(),
        own: Identity::from_pem(first.clone()).unwrap(),
    };
    let (client, serves, own) = (renewal.api.client("kubelet"), renewal.serving.clone(), renewal.own.clone());
    let whose = || client.request_text(http::Request::get("/whose").body(Vec::new()).unwrap());
    assert_eq!(whose().await.unwrap(), certificate(&first.certificate_pem));

    let slow = client.request_stream(http::Request::get("/slow").body(Vec::new()).unwrap()).await.unwrap();
    let mut slow = std::pin::pin!(slow.lines());
    assert_eq!(slow.next().await.unwrap().unwrap(), "begun");

    let inner = ctx.clone();
    let renewing = ctx.spawn("renew", async move { renewal.run(inner).await });
    let renewed = async {
        while whose().await.unwrap() == certificate(&first.certificate_pem) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), renewed).await.unwrap();
    // What was asked before goes on over its connection.
    go_on.notify_one();
    assert_eq!(slow.next().await.unwrap().unwrap(), "ended");
    token.cancel();
    renewing.await.unwrap().unwrap();
    serving.await.unwrap();

    // A year, from now on, also in the files that the next start reads.
    let state = State::read(&dir.path().join("node")).unwrap().unwrap();
    assert_eq!(own.pem().certificate_pem, state.client.certificate_pem);
    assert_eq!(serves.pem().certificate_pem, state.serving.certificate_pem);
    for identity in [own, serves] {
        assert!(identity.renew_at() > Clock::system().now().as_second() + 200 * 24 * 3600);
    }
}
