use std::{
    io::Write as _,
    sync::atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use http::{Response, StatusCode};
use pharos_telemetry::Clock;
use pharos_transport::Body;
use tracing_subscriber::layer::SubscriberExt as _;

use super::*;
use crate::{
    LogsHandler, PushedBy,
    entry::{Labels, Stream},
    index::tests::{find, open},
};

fn entry(time: i64, line: &str) -> Entry {
    let stream = Stream::new(Labels::new([("node", "n1"), ("stream", if time % 2 == 0 { "stdout" } else { "stderr" })]));
    Entry::new(time, &stream, line, vec![("trace_id".into(), "7".into())])
}

fn spool(dir: &std::path::Path) -> Spool {
    Spool::open(dir, 1 << 20, ShipperMetrics::new(&Registry::new()).unwrap()).unwrap()
}

fn append(spool: &Spool, entries: Vec<Entry>) {
    spool.append_now(Source::Container, Batch { entries, positions: vec![] });
}

fn lines(spool: &Spool) -> Vec<String> {
    spool.oldest(usize::MAX).iter().map(|entry| entry.line.to_string()).collect()
}

#[test]
fn a_spool_keeps_what_was_not_shipped() {
    let dir = tempfile::tempdir().unwrap();
    let first = spool(dir.path());
    append(&first, vec![entry(1, "one"), entry(2, "two")]);
    first.done_now(1);
    append(&first, vec![entry(3, "three")]);
    assert_eq!(lines(&first), ["two", "three"]);
    assert_eq!(first.oldest(1).len(), 1, "one at least");
    std::mem::forget(first); // As if killed: nothing is flushed or closed.
    let second = spool(dir.path());
    assert_eq!(lines(&second), ["two", "three"]);
    second.done_now(2);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "what is not needed is deleted");
    assert_eq!(lines(&spool(dir.path())), Vec::<String>::new());
}

#[test]
fn a_long_log_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let first = spool(dir.path());
    let long = "x".repeat(200_000);
    for time in 0..100 {
        append(&first, vec![entry(time, &long), entry(time, "short")]);
        first.done_now(if time == 0 { 1 } else { 2 });
    }
    let bytes: u64 = std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes < 17 << 20, "{bytes}");
    assert_eq!(lines(&first), ["short"]);
    assert_eq!(lines(&spool(dir.path())), ["short"]);
}

#[tokio::test]
async fn a_full_spool_makes_containers_wait() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Arc::new(Spool::open(dir.path(), 1, ShipperMetrics::new(&Registry::new()).unwrap()).unwrap());
    append(&spool, vec![entry(1, "one")]);
    let batch = || Batch { entries: vec![entry(2, "two")], positions: vec![] };
    let stopping = CancellationToken::new();
    let waits = spool.append(Source::Container, batch(), &stopping);
    tokio::pin!(waits);
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut waits).await.is_err());
    spool.clone().done(1).await;
    waits.await;
    assert_eq!(lines(&spool), ["two"]);
    stopping.cancel();
    spool.append(Source::Container, batch(), &stopping).await;
    assert_eq!(lines(&spool), ["two", "two"], "who stops keeps everything");
}

#[tokio::test]
async fn a_push_says_what_was_collected() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path(), usize::MAX);
    let handler = LogsHandler::new(index.clone(), Clock::system());
    let entries = [entry(1, "level=error one"), entry(2_500_000_000, "zwei – ü"), entry(3, "")].map(Arc::new);
    let body = || Bytes::from(encode::push_request(&entries).unwrap());
    let push = |node: &str| {
        let request = Request::post("/loki/api/v1/push").header(header::CONTENT_TYPE, "application/x-protobuf");
        handler.handle(request.extension(PushedBy(node.to_owned())).body(body()).unwrap())
    };
    assert_eq!(push("n2").await.status(), StatusCode::FORBIDDEN, "lines of another node");
    assert_eq!(push("n1").await.status(), StatusCode::NO_CONTENT);
    assert_eq!(find(&index, r#"{node="n1"}"#), ["level=error one", "", "zwei – ü"]);
    assert_eq!(find(&index, r#"{node="n1", stream="stderr"} | trace_id="7" | detected_level="error""#), ["level=error one"]);
    assert_eq!(find(&index, r#"{service_name="unknown_service"}"#).len(), 3);
}

/// A server that can be away.
fn server(handler: LogsHandler, is_away: Arc<AtomicBool>) -> Client {
    pharos_client::in_process(tower::service_fn(move |request: Request<kube::client::Body>| {
        let (handler, is_away) = (handler.clone(), is_away.clone());
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect_bytes().await?;
            let path = head.uri.path().to_owned();
            let answer = match path.strip_prefix("/observe/loki") {
                Some(path) if !is_away.load(Ordering::SeqCst) => {
                    let mut request = Request::from_parts(head, body);
                    *request.uri_mut() = path.parse().unwrap();
                    handler.handle(request).await
                }
                _ => Response::builder().status(StatusCode::INTERNAL_SERVER_ERROR).body(Body::empty()).unwrap(),
            };
            Ok::<_, tower::BoxError>(answer)
        }
    }))
}

#[tokio::test]
async fn lines_reach_the_server_once_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(&dir.path().join("server"), usize::MAX);
    let is_away = Arc::new(AtomicBool::new(true));
    let client = server(LogsHandler::new(index.clone(), Clock::system()), is_away.clone());
    let config = ShipperConfig {
        data_dir: dir.path().join("spool"),
        node: "n1".to_owned(),
        pod_logs_dir: dir.path().join("pods"),
        ..ShipperConfig::default()
    };
    let folder = config.pod_logs_dir.join("default_web-1_1234/app");
    std::fs::create_dir_all(&folder).unwrap();
    let mut log = std::fs::File::create(folder.join("0.log")).unwrap();
    let mut write = |line: &str| writeln!(log, "{} stdout F {line}", jiff::Timestamp::now()).unwrap();
    let containers = r#"{namespace="default", pod="web-1", container="app", node="n1", stream="stdout"}"#;
    let start = || {
        let registry = Registry::new();
        let (layer, records) = pharos_telemetry::logs::layer(&registry).unwrap();
        let shipper = LogShipper::new(config.clone(), records, client.clone(), &registry).unwrap();
        let token = CancellationToken::new();
        let ctx = Ctx::for_test(token.clone());
        let inner = ctx.clone();
        (token, ctx.spawn("run", async move { shipper.run(inner).await }), layer)
    };
    let are_found = async |query: &str, expected: &[&str]| {
        let look = async {
            while find(&index, query).len() < expected.len() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(10), look).await;
        assert_eq!(find(&index, query), expected);
    };

    // While the server is away everything is kept, across a restart too.
    write("one");
    let (token, run, layer) = start();
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        tracing::warn!(component = "kubelet", pod = "web", "probe failed");
        tracing::debug!(target: "hyper::client", "of no interest");
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    token.cancel();
    run.await.unwrap().unwrap();
    assert_eq!(find(&index, r#"{node="n1"}"#), Vec::<String>::new());

    let (token, run, _layer) = start();
    is_away.store(false, Ordering::SeqCst);
    are_found(containers, &["one"]).await;
    let record = r#"level=warn target=pharos_logging::ship::tests msg="probe failed" component=kubelet pod=web"#;
    are_found(r#"{job="pharos", component="kubelet", level="warn", node="n1"}"#, &[record]).await;
    assert_eq!(find(&index, r#"{component="pharos"}"#), Vec::<String>::new());

    // Lines come once, soon, and those that came last before a stop too.
    let began = tokio::time::Instant::now();
    write("two");
    are_found(containers, &["one", "two"]).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    token.cancel();
    run.await.unwrap().unwrap();
    write("three");
    let (token, run, _layer) = start();
    are_found(containers, &["one", "two", "three"]).await;
    token.cancel();
    run.await.unwrap().unwrap();
}
