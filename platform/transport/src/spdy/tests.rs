use tokio::{
    io::{AsyncReadExt as _, DuplexStream},
    task::JoinSet,
};

use super::*;

/// A server's session and a client's, joined.
fn pair() -> (Session, Session, JoinSet<io::Result<()>>) {
    let (a, b) = tokio::io::duplex(4096);
    let (server, serving) = Session::new(a, Role::Server);
    let (client, calling) = Session::new(b, Role::Client);
    let mut tasks = JoinSet::new();
    tasks.spawn(serving);
    tasks.spawn(calling);
    (server, client, tasks)
}

fn headers(name: &'static str, value: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static(name), http::HeaderValue::from_static(value))])
}

#[tokio::test]
async fn streams_carry_bytes_both_ways_and_end_one_way_at_a_time() {
    let (mut server, client, _tasks) = pair();
    let mut ours = client.open(headers("streamtype", "data")).await.unwrap();
    let mut theirs = server.accept().await.unwrap();
    assert_eq!(theirs.headers, headers("streamtype", "data"));

    let text: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
    let echo = async {
        let mut got = Vec::new();
        theirs.reader.read_to_end(&mut got).await.unwrap();
        theirs.writer.write_all(&got).await.unwrap();
        theirs.writer.shutdown().await.unwrap();
        assert!(theirs.writer.write_all(b"more").await.is_err());
    };
    let call = async {
        ours.writer.write_all(&text).await.unwrap();
        ours.writer.shutdown().await.unwrap();
        let mut got = Vec::new();
        ours.reader.read_to_end(&mut got).await.unwrap();
        got
    };
    let ((), got) = tokio::join!(echo, call);
    assert_eq!(got, text);
}

#[tokio::test(start_paused = true)]
async fn finishing_ends_every_stream_after_what_was_written() {
    let (mut server, client, mut tasks) = pair();
    let mut ours = client.open(HeaderMap::new()).await.unwrap();
    let mut theirs = server.accept().await.unwrap();
    theirs.writer.write_all(b"last words").await.unwrap();
    server.finish().await;
    let mut got = String::new();
    ours.reader.read_to_string(&mut got).await.unwrap();
    assert_eq!(got, "last words");
    drop((ours, client));
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap().unwrap();
    }
}

/// Writes frames by hand and reads the answers.
struct Scripted {
    io: DuplexStream,
    writer: Writer,
}

impl Scripted {
    fn new() -> (Self, Session, JoinSet<io::Result<()>>) {
        let (a, io) = tokio::io::duplex(1 << 20);
        let (server, serving) = Session::new(a, Role::Server);
        (Self { io, writer: Writer::new() }, server, JoinSet::from_iter([serving]))
    }

    async fn send(&mut self, frame: Frame) {
        let mut bytes = BytesMut::new();
        self.writer.encode(&frame, &mut bytes).unwrap();
        self.io.write_all(&bytes).await.unwrap();
    }
}

#[tokio::test]
async fn pings_come_back_and_bad_streams_are_reset() {
    let (mut script, mut server, _tasks) = Scripted::new();
    script.send(Frame::Ping(1)).await;
    script.send(Frame::Ping(2)).await; // Ours, which we never sent.
    script.send(Frame::SynStream { id: 2, fin: false, headers: HeaderMap::new() }).await;
    script.send(Frame::SynStream { id: 5, fin: true, headers: HeaderMap::new() }).await;
    script.send(Frame::SynStream { id: 3, fin: false, headers: HeaderMap::new() }).await;
    let mut got = String::new();
    let mut stream = server.accept().await.unwrap();
    stream.reader.read_to_string(&mut got).await.unwrap();
    assert_eq!((stream.id, got.as_str()), (5, ""));

    let mut frames = FramedRead::new(script.io, Reader::new());
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(frames.next().await.unwrap().unwrap());
    }
    assert_eq!(
        seen,
        [
            Frame::Ping(1),
            Frame::Rst { id: 2, status: PROTOCOL_ERROR },
            Frame::SynReply { id: 5, fin: false, headers: HeaderMap::new() },
            Frame::Rst { id: 3, status: PROTOCOL_ERROR },
        ]
    );
}

#[tokio::test]
async fn a_reset_is_seen_by_reader_and_writer() {
    let (mut script, mut server, _tasks) = Scripted::new();
    script.send(Frame::SynStream { id: 1, fin: false, headers: HeaderMap::new() }).await;
    let mut stream = server.accept().await.unwrap();
    script.send(Frame::Rst { id: 1, status: 5 }).await;
    let error = stream.reader.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(stream.writer.write_all(b"x").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn windows_hold_for_a_peer_that_has_them_and_not_for_others() {
    for has_windows in [false, true] {
        let (mut script, mut server, _tasks) = Scripted::new();
        if has_windows {
            script.send(Frame::Settings { initial_window: Some(1000) }).await;
        }
        script.send(Frame::SynStream { id: 1, fin: false, headers: HeaderMap::new() }).await;
        let mut stream = server.accept().await.unwrap();
        let mut writing = std::pin::pin!(stream.writer.write_all(&[7; 100_000]));
        let written = tokio::time::timeout(Duration::from_secs(1), writing.as_mut()).await;
        assert_eq!(written.is_ok(), !has_windows);
        if has_windows {
            script.send(Frame::WindowUpdate { id: 1, delta: 99_000 }).await;
            script.send(Frame::WindowUpdate { id: 0, delta: 99_000 }).await;
            writing.await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_was_read_is_acknowledged_to_a_peer_that_minds() {
    let (mut script, mut server, _tasks) = Scripted::new();
    script.send(Frame::Settings { initial_window: None }).await;
    script.send(Frame::SynStream { id: 1, fin: false, headers: HeaderMap::new() }).await;
    script.send(Frame::Data { id: 1, fin: true, data: vec![1; 20_000].into() }).await;
    let mut stream = server.accept().await.unwrap();
    let mut got = Vec::new();
    stream.reader.read_to_end(&mut got).await.unwrap();
    let mut frames = FramedRead::new(script.io, Reader::new());
    frames.next().await.unwrap().unwrap(); // The reply.
    for id in [0, 1] {
        let acknowledged = frames.next().await.unwrap().unwrap();
        assert!(matches!(acknowledged, Frame::WindowUpdate { id: of, delta: 16_384.. } if of == id), "{acknowledged:?}");
    }
}

#[tokio::test]
async fn garbage_ends_the_session() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 64],
        &[0x80, 3, 0, 1, 0, 0, 0, 4, 0, 0, 0, 1],
        &[0x80, 3, 0, 4, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff],
    ] {
        let (mut script, mut server, mut tasks) = Scripted::new();
        script.io.write_all(bytes).await.unwrap();
        script.io.shutdown().await.unwrap();
        let ended = tasks.join_next().await.unwrap().unwrap();
        assert!(bytes[0] == b'G' || ended.is_err(), "{bytes:?}"); // `G` is a data frame for no stream we have.
        assert!(server.accept().await.is_none());
    }
}
