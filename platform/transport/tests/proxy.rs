//! The proxy, between a client and a front.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test")]

mod support;

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt as _;
use http::{HeaderValue, header};
use pharos_transport::{
    Body, Request,
    pki::{Identity, Issued, Subject, client_config, client_config_without_verification},
    proxy::{Proxy, ProxyError, Target, forward_upgrade},
};
use rustls::ClientConfig;
use support::{Server, Setup, eventually};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};

fn tls(server: &Server) -> Arc<ClientConfig> {
    server.issue_client("proxy", Subject::new("proxy", &[]));
    let identity = Identity::from_pem(Issued {
        certificate_pem: std::fs::read_to_string(server.dir().join("proxy.crt")).unwrap(),
        key_pem: std::fs::read_to_string(server.dir().join("proxy.key")).unwrap(),
    });
    client_config(server.ca.roots(), Some(identity.unwrap())).unwrap()
}

fn target(server: &Server) -> Target {
    Target::new(server.addr().to_string().parse().unwrap(), Some(tls(server)))
}

fn request(path: &str, body: Body) -> Request {
    http::Request::post(path).body(body).unwrap()
}

async fn text(response: pharos_transport::Response) -> String {
    let bytes = response.into_body().into_bytes(1 << 20).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_rewritten_and_bodies_streamed() {
    let server = Server::start(Setup::default()).await;
    let proxy = Proxy::new();
    let mut target = target(&server);
    let got = proxy.forward(request("/echo?x=1", "hello".into()), &target).await.unwrap();
    assert_eq!(text(got).await, "POST /echo?x=1 hello");
    let got = proxy.forward(request("/peer", Body::empty()), &target).await.unwrap();
    assert_eq!(text(got).await, "true Verified");

    target.path_and_query = Some("/count".parse().unwrap());
    let pieces = futures::stream::iter(0..100).map(|_| Ok::<_, io::Error>(Bytes::from(vec![0; 100_000])));
    let got = proxy.forward(request("/elsewhere", Body::stream(pieces)), &target).await.unwrap();
    assert_eq!(text(got).await, "10000000");

    target.path_and_query = None;
    target.headers.insert("x-test", HeaderValue::from_static("ours,"));
    let mut asked = request("/echo", Body::empty());
    asked.headers_mut().insert("x-test", HeaderValue::from_static("theirs,"));
    asked.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("x-private, close"));
    let got = proxy.forward(asked, &target).await.unwrap();
    assert!(!got.headers().contains_key(header::CONNECTION));
    assert_eq!(text(got).await, "POST /echo ours,");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_s_first_bytes_come_at_once_and_its_end_frees_the_target() {
    let server = Server::start(Setup::default()).await;
    let response = Proxy::new().forward(request("/watch", Body::empty()), &target(&server)).await.unwrap();
    let mut body = response.into_body().into_stream();
    assert_eq!(body.next().await.unwrap().unwrap(), "first\n");
    assert_eq!(server.watches(), 1);
    drop(body);
    eventually("the target's watch is freed", || server.watches() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_say_what_failed() {
    let server = Server::start(Setup::default()).await;
    let proxy = Proxy::new();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = Target::new(free.local_addr().unwrap().to_string().parse().unwrap(), None);
    drop(free);
    let error = proxy.forward(request("/", Body::empty()), &nobody).await.unwrap_err();
    assert!(matches!(error, ProxyError::Connect { .. }), "{error:?}");

    let mut slow = target(&server);
    slow.respond = Some(Duration::from_millis(200));
    let error = proxy.forward(request("/hang", Body::empty()), &slow).await.unwrap_err();
    assert!(matches!(error, ProxyError::TimedOut { .. }), "{error:?}");
    eventually("the target's handler is dropped", || server.watches() == 0).await;

    let other = Server::start(Setup::default()).await;
    let mut distrusted = target(&server);
    distrusted.tls = Some(tls(&other));
    let error = proxy.forward(request("/", Body::empty()), &distrusted).await.unwrap_err();
    assert!(matches!(error, ProxyError::Connect { .. }), "{error:?}");
    distrusted.tls = Some(client_config_without_verification(None).unwrap());
    let got = proxy.forward(request("/peer", Body::empty()), &distrusted).await.unwrap();
    assert_eq!(text(got).await, "false None");
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrades_are_piped_each_way_until_it_ends() {
    let server = Server::start(Setup::default()).await;
    let mut head = http::Request::post("/exec?command=id").body(()).unwrap();
    head.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    head.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    let (mut client, io) = tokio::io::duplex(1024);
    let mut piping = JoinSet::new();
    piping.spawn(forward_upgrade(head.clone(), Box::new(io), target(&server)));
    client.write_all(b"bytes").await.unwrap();
    client.shutdown().await.unwrap(); // The other direction goes on.
    let mut got = String::new();
    client.read_to_string(&mut got).await.unwrap();
    assert_eq!(got, "POST /exec?command=id bytes");
    piping.join_next().await.unwrap().unwrap().unwrap();

    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = Target::new(free.local_addr().unwrap().to_string().parse().unwrap(), None);
    drop(free);
    let (mut client, io) = tokio::io::duplex(1024);
    piping.spawn(forward_upgrade(head, Box::new(io), nobody));
    let mut got = String::new();
    client.read_to_string(&mut got).await.unwrap();
    assert!(got.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{got}");
    assert!(piping.join_next().await.unwrap().unwrap().is_err());
}
