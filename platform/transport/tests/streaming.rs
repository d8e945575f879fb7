//! Exec and port-forward, from the client's side of the wire.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test")]

use std::{io, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use pharos_transport::{
    Body, Io,
    port_forward::serve_port_forward,
    remote_command::{ExitOutcome, Options, Streams, serve_exec},
    spdy::{Role, Session, Stream},
    websocket::{UpgradeError, serve_body, serve_texts},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    task::JoinSet,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, client::IntoClientRequest as _, protocol::Role as Side},
};

/// A command that tells its terminal's first size, upper-cases its input, complains, and fails with 3.
async fn shout(mut streams: Streams) -> ExitOutcome {
    let mut stdout = streams.stdout.take().unwrap();
    if let Some(resize) = &mut streams.resize {
        let size = resize.recv().await.unwrap();
        stdout.write_all(format!("{}x{} ", size.width, size.height).as_bytes()).await.unwrap();
    }
    if let Some(mut stdin) = streams.stdin.take() {
        let mut text = String::new();
        stdin.read_to_string(&mut text).await.unwrap();
        stdout.write_all(text.to_uppercase().as_bytes()).await.unwrap();
    }
    if let Some(mut stderr) = streams.stderr.take() {
        stderr.write_all(b"too loud").await.unwrap();
    }
    ExitOutcome::ExitCode(3)
}

fn options(tty: bool) -> Options {
    Options { stdin: true, stdout: true, stderr: !tty, tty }
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())).collect()
}

fn request(pairs: &[(&'static str, &str)]) -> Request<()> {
    let mut request = Request::post("/exec").body(()).unwrap();
    *request.headers_mut() = headers(pairs);
    request
}

/// Reads the head of the answer, and nothing after it.
async fn read_head(io: &mut DuplexStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

async fn read(stream: &mut Stream) -> String {
    let mut text = String::new();
    stream.reader.read_to_string(&mut text).await.unwrap();
    text
}

type Served = JoinSet<Result<(), UpgradeError>>;

/// A client's SPDY session with whatever `serve` serves.
async fn spdy<F, Fut>(protocols: &str, serve: F) -> (String, Session, Served, JoinSet<io::Result<()>>)
where
    F: FnOnce(Request<()>, Io) -> Fut,
    Fut: Future<Output = Result<(), UpgradeError>> + Send + 'static,
{
    let (mut client, server) = tokio::io::duplex(16 * 1024);
    let head = request(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", protocols)]);
    let served = JoinSet::from_iter([serve(head, Box::new(server))]);
    let answer = read_head(&mut client).await;
    let (session, driver) = Session::new(client, Role::Client);
    (answer, session, served, JoinSet::from_iter([driver]))
}

#[tokio::test]
async fn exec_over_spdy() {
    for tty in [false, true] {
        let (answer, session, mut served, driver) =
            spdy("v5.channel.k8s.io, v4.channel.k8s.io", move |head, io| serve_exec(head, io, options(tty), shout)).await;
        assert!(answer.starts_with("HTTP/1.1 101 ") && answer.contains("Version: v4.channel.k8s.io\r\n"), "{answer}");
        let open = |kind: &'static str| session.open(headers(&[("streamtype", kind)]));
        let mut error = open("error").await.unwrap();
        let mut stdin = open("stdin").await.unwrap();
        let mut stdout = open("stdout").await.unwrap();
        if tty {
            let mut resize = open("resize").await.unwrap();
            resize.writer.write_all(b"{\"Width\":80,\"Height\":24}\n").await.unwrap();
        } else {
            let mut stderr = open("stderr").await.unwrap();
            stdin.writer.write_all(b"hello").await.unwrap();
            stdin.writer.shutdown().await.unwrap();
            assert_eq!(read(&mut stderr).await, "too loud");
        }
        if tty {
            stdin.writer.write_all(b"hello").await.unwrap();
            stdin.writer.shutdown().await.unwrap();
        }
        assert_eq!(read(&mut stdout).await, if tty { "80x24 HELLO" } else { "HELLO" });
        let status: serde_json::Value = serde_json::from_str(&read(&mut error).await).unwrap();
        assert_eq!(status["details"]["causes"][0]["message"], "3");
        drop((session, driver)); // Hangs up, as kubectl does now.
        served.join_next().await.unwrap().unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_command() {
    let (ran, mut running) = tokio::sync::mpsc::channel::<()>(1);
    let (_, session, mut served, driver) = spdy("v4.channel.k8s.io", move |head, io| {
        serve_exec(head, io, Options { stdout: true, ..Options::default() }, move |_| async move {
            let _ran = ran;
            std::future::pending().await
        })
    })
    .await;
    let _error = session.open(headers(&[("streamtype", "error")])).await.unwrap();
    let _stdout = session.open(headers(&[("streamtype", "stdout")])).await.unwrap();
    drop((session, driver));
    assert!(running.recv().await.is_none());
    served.join_next().await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn an_unknown_protocol_is_refused() {
    let (answer, _session, mut served, _driver) =
        spdy("v9.channel.k8s.io", |head, io| serve_exec(head, io, options(false), shout)).await;
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("v4.channel.k8s.io"), "{answer}");
    assert!(matches!(served.join_next().await.unwrap().unwrap(), Err(UpgradeError::Refused(_))));
}

/// A client's WebSocket connection with whatever `serve` serves.
async fn websocket<F, Fut>(protocol: &str, serve: F) -> (String, WebSocketStream<DuplexStream>, Served)
where
    F: FnOnce(Request<()>, Io) -> Fut,
    Fut: Future<Output = Result<(), UpgradeError>> + Send + 'static,
{
    let (mut client, server) = tokio::io::duplex(16 * 1024);
    let mut head = "ws://x/exec".into_client_request().unwrap();
    if !protocol.is_empty() {
        head.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    }
    let served = JoinSet::from_iter([serve(head, Box::new(server))]);
    let answer = read_head(&mut client).await;
    (answer, WebSocketStream::from_raw_socket(client, Side::Client, None).await, served)
}

/// Collects what the server sends until it closes, by channel.
async fn collect(socket: &mut WebSocketStream<DuplexStream>, base64: bool) -> [String; 4] {
    let mut texts: [String; 4] = Default::default();
    while let Some(Ok(message)) = socket.next().await {
        if message.is_close() {
            break;
        }
        assert_eq!(message.is_text(), base64);
        let bytes = message.into_data();
        let (channel, bytes) = if base64 {
            (bytes[0] - b'0', BASE64_STANDARD.decode(&bytes[1..]).unwrap())
        } else {
            (bytes[0], bytes[1..].to_vec())
        };
        texts[usize::from(channel)] += std::str::from_utf8(&bytes).unwrap();
    }
    texts
}

#[tokio::test]
async fn exec_over_websocket() {
    let serve = |head, io| serve_exec(head, io, options(false), shout);
    let (answer, mut socket, mut served) = websocket("v5.channel.k8s.io", serve).await;
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.contains("Protocol: v5.channel.k8s.io\r\n"), "{answer}");
    socket.send(Message::binary(&b"\0hello"[..])).await.unwrap();
    socket.send(Message::Ping("alive?".into())).await.unwrap();
    socket.send(Message::binary(&[255, 0][..])).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::binary(&[1][..])); // All is set up.
    let mut pongs = 0;
    let mut texts: [String; 4] = Default::default();
    while let Some(Ok(message)) = socket.next().await {
        match message {
            Message::Pong(_) => pongs += 1,
            Message::Binary(bytes) => texts[usize::from(bytes[0])] += std::str::from_utf8(&bytes[1..]).unwrap(),
            Message::Close(_) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((pongs, &*texts[1], &*texts[2]), (1, "HELLO", "too loud"));
    let status: serde_json::Value = serde_json::from_str(&texts[3]).unwrap();
    assert_eq!(status["reason"], "NonZeroExitCode");
    drop(socket);
    served.join_next().await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn older_websocket_protocols_differ_in_framing_and_status() {
    for (protocol, is_base64, has_status) in [
        ("v4.channel.k8s.io", false, true),
        ("channel.k8s.io", false, false),
        ("", false, false),
        ("base64.channel.k8s.io", true, false),
        ("v4.base64.channel.k8s.io", true, true),
    ] {
        let options = Options { stdout: true, stderr: true, ..Options::default() };
        let (_, mut socket, _served) = websocket(protocol, |head, io| serve_exec(head, io, options, shout)).await;
        let [_, stdout, stderr, error] = collect(&mut socket, is_base64).await;
        assert_eq!((&*stdout, &*stderr), ("", "too loud"), "{protocol}");
        assert_eq!(error.starts_with('{'), has_status, "{protocol}: {error}");
    }
    let (answer, _socket, _served) = websocket("chat", |head, io| serve_exec(head, io, Options::default(), shout)).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[tokio::test]
async fn logs_over_websocket() {
    for protocol in ["binary.k8s.io", "base64.binary.k8s.io", ""] {
        let lines = futures::stream::iter([Ok::<_, io::Error>("one\n".into()), Ok("two\n".into())]);
        let (_, socket, _served) = websocket(protocol, |head, io| serve_body(head, io, Body::stream(lines))).await;
        let messages = socket.filter_map(|message| async { message.ok().filter(|message| !message.is_close()) });
        let text: Vec<u8> = messages
            .map(|message| match message {
                Message::Text(text) => BASE64_STANDARD.decode(text.as_bytes()).unwrap(),
                message => message.into_data().to_vec(),
            })
            .concat()
            .await;
        assert_eq!(text, b"one\ntwo\n");
    }
}

#[tokio::test]
async fn watches_over_websocket() {
    let lines = futures::stream::iter([Ok::<_, io::Error>("{}\n".into()), Ok("[]\n".into())]);
    let (_, socket, _served) = websocket("", |head, io| serve_texts(head, io, Body::stream(lines))).await;
    let messages = socket.filter_map(|message| async { message.ok().filter(|message| !message.is_close()) });
    let messages: Vec<Message> = messages.collect().await;
    assert_eq!(messages, [Message::text("{}\n"), Message::text("[]\n")]);
}

/// What ports lead to: 80 echoes, others are closed.
async fn connect(port: u16) -> Result<Io, String> {
    if port != 80 {
        return Err(format!("error forwarding port {port}: connection refused"));
    }
    let (near, far) = tokio::io::duplex(1024);
    let (mut read, mut write) = tokio::io::split(far);
    #[expect(clippy::disallowed_methods, reason = "ends with the connection")]
    tokio::spawn(async move {
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    });
    Ok(Box::new(near))
}

async fn check_port_forward(session: Session) {
    let open = |kind: &'static str, port: &'static str, id: &'static str| {
        session.open(headers(&[("streamtype", kind), ("port", port), ("requestid", id)]))
    };
    // kubectl resets a stream that it is done with. It must hear no complaint: it would end the whole session.
    let mut error = open("error", "80", "9").await.unwrap();
    error.writer.shutdown().await.unwrap();
    let mut data = open("data", "80", "9").await.unwrap();
    data.writer.write_all(b"hello").await.unwrap();
    data.reader.read_exact(&mut [0; 5]).await.unwrap();
    data.writer.reset().await.unwrap();
    assert_eq!(read(&mut error).await, "");

    for (port, id, echoes) in [("80", "0", true), ("81", "1", false), ("80", "2", true)] {
        let mut error = open("error", port, id).await.unwrap();
        error.writer.shutdown().await.unwrap();
        let mut data = open("data", port, id).await.unwrap();
        let sent = vec![b'z'; 300_000];
        let (mut reader, mut writer) = (data.reader, data.writer);
        let sending = async {
            let _ = writer.write_all(&sent).await;
            let _ = writer.shutdown().await;
        };
        let mut got = Vec::new();
        let receiving = async { reader.read_to_end(&mut got).await };
        let complaining = async { read(&mut error).await };
        let ((), _, complaint) = tokio::join!(sending, receiving, complaining);
        assert_eq!(got.len(), if echoes { sent.len() } else { 0 });
        assert_eq!(complaint, if echoes { "" } else { "error forwarding port 81: connection refused" });
        data.id = 0;
    }
}

#[tokio::test]
async fn port_forward_over_spdy() {
    let (answer, session, mut served, driver) =
        spdy("portforward.k8s.io", |head, io| serve_port_forward(head, io, connect)).await;
    assert!(answer.contains("Version: portforward.k8s.io\r\n"), "{answer}");
    check_port_forward(session).await;
    drop(driver);
    served.join_next().await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn port_forward_over_spdy_in_a_websocket() {
    let serve = |head, io| serve_port_forward(head, io, connect);
    let (answer, socket, mut served) = websocket("SPDY/3.1+portforward.k8s.io", serve).await;
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.contains("SPDY/3.1+portforward.k8s.io"), "{answer}");
    // The client's end of the tunnel, out of messages.
    let (near, far) = tokio::io::duplex(1024);
    let (mut sink, mut messages) = socket.split();
    let (mut read, mut write) = tokio::io::split(far);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut bytes = vec![0; 1000];
        while let Ok(length @ 1..) = read.read(&mut bytes).await {
            sink.send(Message::binary(bytes[..length].to_vec())).await.unwrap();
        }
    });
    tasks.spawn(async move {
        while let Some(Ok(Message::Binary(bytes))) = messages.next().await {
            write.write_all(&bytes).await.unwrap();
        }
    });
    let (session, driver) = Session::new(near, Role::Client);
    let driver = JoinSet::from_iter([driver]);
    check_port_forward(session).await;
    drop((driver, tasks));
    let ended = tokio::time::timeout(Duration::from_secs(5), served.join_next()).await;
    assert!(ended.is_ok());
}
