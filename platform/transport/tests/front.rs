//! The front, seen from outside: with curl, with hyper's client, and with bytes written by hand.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test")]

mod support;

use std::{process::Stdio, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use pharos_transport::{PeerCertificate, pki::Subject};
use support::{Server, Setup, eventually};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::Command,
    task::JoinSet,
};

/// Runs curl against the server and returns what it printed.
async fn curl(server: &Server, arguments: &[&str]) -> String {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "20", "--cacert"])
        .arg(server.ca_file())
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_is_answered_over_both_protocols() {
    let server = Server::start(Setup::default()).await;
    for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let url = server.url("/echo?a=b%20c");
        let got = curl(&server, &[flag, "-w", " %{http_version} %{http_code}", "-d", "hello", &url]).await;
        assert_eq!(got, format!("POST /echo?a=b%20c hello {version} 200"));
        // Twice over one connection.
        let got = curl(&server, &[flag, "-w", " %{num_connects};", &url, &url]).await;
        assert_eq!(got, "GET /echo?a=b%20c  1;GET /echo?a=b%20c  0;");
        let got = curl(&server, &[flag, "-I", "-w", "%{http_code}", &url]).await;
        assert!(got.ends_with("200") && got.contains("content-length"), "{got}");
        let got = curl(&server, &[flag, "-w", " %{http_code}", &server.url("/panic")]).await;
        assert_eq!(got, "internal server error\n 500");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_are_streamed() {
    let server = Server::start(Setup::default()).await;
    let file = server.dir().join("large");
    std::fs::write(&file, vec![b'x'; 20 << 20]).unwrap();
    for flag in ["--http1.1", "--http2"] {
        let data = format!("@{}", file.display());
        let got = curl(&server, &[flag, "-H", "Expect:", "--data-binary", &data, &server.url("/count")]).await;
        assert_eq!(got, (20 << 20).to_string());
        let got = curl(&server, &[flag, "-o", "/dev/null", "-w", "%{size_download}", &server.url("/large")]).await;
        assert_eq!(got, (20 << 20).to_string());
    }
    // Over HTTP/2 this curl takes the reset that follows an early answer, as it does a Go server's, for a failure.
    let data = format!("@{}", file.display());
    let got = curl(&server, &["--http1.1", "--data-binary", &data, &server.url("/limited")]).await;
    assert_eq!(got, "read a body: larger than 1048576 bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_bytes_of_a_stream_are_sent_at_once() {
    let server = Server::start(Setup::default()).await;
    for flag in ["--http1.1", "--http2"] {
        let mut child = Command::new("curl")
            .args(["--silent", "--no-buffer", flag, "--cacert"])
            .arg(server.ca_file())
            .arg(server.url("/watch"))
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut out = child.stdout.take().unwrap();
        let mut line = [0; 6];
        tokio::time::timeout(Duration::from_secs(5), out.read_exact(&mut line)).await.unwrap().unwrap();
        assert_eq!(&line, b"first\n");
        eventually("the watch is open", || server.watches() == 1).await;
        child.kill().await.unwrap();
        eventually("the watch is freed", || server.watches() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn client_certificates_are_asked_for_and_judged() {
    let server = Server::start(Setup::default()).await;
    let url = server.url("/peer");
    let with = |name: &str| {
        let dir = server.dir();
        [dir.join(format!("{name}.crt")).display().to_string(), dir.join(format!("{name}.key")).display().to_string()]
    };
    server.issue_client("good", Subject::new("alice", &["devs"]));
    support::other_ca_client(server.dir(), "bad");
    for flag in ["--http1.1", "--http2"] {
        assert_eq!(curl(&server, &[flag, &url]).await, format!("false {:?}", PeerCertificate::None));
        let [certificate, key] = with("good");
        let got = curl(&server, &[flag, "--cert", &certificate, "--key", &key, &url]).await;
        assert_eq!(got, format!("true {:?}", PeerCertificate::Verified));
        let [certificate, key] = with("bad");
        let got = curl(&server, &[flag, "--cert", &certificate, "--key", &key, &url]).await;
        assert!(got.starts_with("true Invalid("), "{got}");
    }
}

/// A client's HTTP/2 connection.
async fn http2(server: &Server) -> (SendRequest<Empty<Bytes>>, JoinSet<()>) {
    let io = TokioIo::new(TcpStream::connect(server.addr()).await.unwrap());
    let (send, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { drop(connection.await) });
    (send, tasks)
}

async fn open_watch(send: &mut SendRequest<Empty<Bytes>>, path: &str) -> hyper::body::Incoming {
    send.ready().await.unwrap();
    let request = http::Request::get(format!("http://x{path}")).body(Empty::new()).unwrap();
    let mut body = send.send_request(request).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_reset_streams_are_freed_while_their_connection_lives() {
    let server = Server::start(Setup::plain()).await;
    let (mut send, _tasks) = http2(&server).await;
    let mut bodies = Vec::new();
    for _ in 0..1000 {
        bodies.push(open_watch(&mut send, "/watch").await);
    }
    assert_eq!(server.watches(), 1000);
    drop(bodies);
    eventually("all watches are freed", || server.watches() == 0).await;
    // The connection is as good as before.
    let again = open_watch(&mut send, "/watch").await;
    assert_eq!(server.watches(), 1);
    drop(again);
    eventually("the last is freed", || server.watches() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_is_dropped_when_its_client_gives_up() {
    let server = Server::start(Setup::plain()).await;
    let (mut send, _tasks) = http2(&server).await;
    send.ready().await.unwrap();
    let request = http::Request::get("http://x/hang").body(Empty::new()).unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(300), send.send_request(request));
    assert!(waiting.await.is_err());
    eventually("the handler over HTTP/2 is dropped", || server.watches() == 0).await;
    assert_eq!(server.begun(), 1);

    let mut stream = TcpStream::connect(server.addr()).await.unwrap();
    stream.write_all(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    eventually("the handler runs", || server.begun() == 2).await;
    drop(stream);
    eventually("the handler over HTTP/1.1 is dropped", || server.watches() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_watches_on_vanished_connections_are_freed() {
    let server = Server::start(Setup { ping: Duration::from_millis(500), ..Setup::plain() }).await;
    // Half of them hang up; the machines of the other half stop answering, as if the cable was cut.
    let mut connections = Vec::new();
    let mut pipes = Vec::new();
    for index in 0..20 {
        let silent = index % 2 == 1;
        let addr = if silent {
            let pipe = support::Pipe::start(server.addr()).await;
            let addr = pipe.addr;
            pipes.push(pipe);
            addr
        } else {
            server.addr()
        };
        let io = TokioIo::new(TcpStream::connect(addr).await.unwrap());
        let (mut send, connection) =
            hyper::client::conn::http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), io).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { drop(connection.await) });
        let mut bodies = Vec::new();
        for _ in 0..50 {
            bodies.push(open_watch(&mut send, "/watch").await);
        }
        connections.push((send, tasks, bodies));
    }
    let mut http1 = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(server.addr()).await.unwrap();
        stream.write_all(b"GET /watch HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        http1.push(stream);
    }
    eventually("all watches are open", || server.watches() == 1050).await;
    pipes.iter().for_each(support::Pipe::freeze);
    let mut index = 0;
    connections.retain(|_| {
        index += 1;
        index % 2 == 0 // Those behind a frozen pipe stay, and know nothing.
    });
    drop(http1);
    eventually("all watches are freed", || server.watches() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrades_are_handed_over_with_the_bytes_after_the_head() {
    let server = Server::start(Setup::plain()).await;
    let mut stream = TcpStream::connect(server.addr()).await.unwrap();
    let head = "POST /exec HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\nearly";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(b" late").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut got = String::new();
    stream.read_to_string(&mut got).await.unwrap();
    assert_eq!(got, "POST /exec early late");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_input_is_refused_and_harms_nobody() {
    let server = Server::start(Setup::plain()).await;
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(5000));
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(200 * 1024));
    let inputs: [&[u8]; 10] = [
        b"\0\x01\x02\x03\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nBad Header: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        many.as_bytes(),
        long.as_bytes(),
    ];
    for input in inputs {
        let mut stream = TcpStream::connect(server.addr()).await.unwrap();
        let _ = stream.write_all(input).await; // It may hang up early.
        let _ = stream.shutdown().await;
        let mut got = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut got)).await;
        assert!(read.is_ok(), "left hanging: {:?}", String::from_utf8_lossy(&input[..input.len().min(60)]));
        assert!(!got.starts_with(b"HTTP/1.1 2"), "{:?}", String::from_utf8_lossy(&got));
    }
    let got = curl(&server, &[&server.url("/echo")]).await;
    assert_eq!(got, "GET /echo ");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_finishes_requests_and_ends_watches() {
    let mut server = Server::start(Setup::plain()).await;
    let (mut send, _tasks) = http2(&server).await;
    let watch = open_watch(&mut send, "/watch").await;
    let mut http1 = TcpStream::connect(server.addr()).await.unwrap();
    http1.write_all(b"GET /watch HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut slow = TcpStream::connect(server.addr()).await.unwrap();
    slow.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut idle = TcpStream::connect(server.addr()).await.unwrap();
    idle.write_all(b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    eventually("all is under way", || server.watches() == 2 && server.begun() == 4).await;

    let stopped = server.stop();
    let rest = watch.collect().await.expect("the watch ends in good order");
    assert!(rest.to_bytes().is_empty());
    let (mut ended, mut answered, mut left) = (String::new(), String::new(), String::new());
    http1.read_to_string(&mut ended).await.unwrap();
    assert!(ended.ends_with("0\r\n\r\n"), "{ended}");
    slow.read_to_string(&mut answered).await.unwrap();
    assert!(answered.ends_with("done"), "{answered}");
    idle.read_to_string(&mut left).await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), stopped).await.unwrap();
    assert!(TcpStream::connect(server.addr()).await.is_err());
}
