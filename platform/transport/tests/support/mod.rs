//! A front with a handler that can be asked for everything the tests need.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::{
    future::Future,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt as _;
use pharos_telemetry::Clock;
use pharos_transport::{
    Body, Front, FrontConfig, Handler, Io, Limits, Peer, Request, Response, Tls,
    pki::{Ca, Identity, Subject, Template},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

pub type Upgrade = Arc<dyn Fn(http::Request<()>, Io) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

pub struct Setup {
    pub tls: bool,
    pub ping: Duration,
    pub upgrade: Option<Upgrade>,
}

impl Default for Setup {
    fn default() -> Self {
        Self { tls: true, ping: Duration::from_secs(20), upgrade: None }
    }
}

impl Setup {
    pub fn plain() -> Self {
        Self { tls: false, ..Self::default() }
    }
}

pub struct Server {
    dir: tempfile::TempDir,
    pub ca: Arc<Ca>,
    addr: SocketAddr,
    tls: bool,
    counts: Arc<Counts>,
    stop: CancellationToken,
    serving: JoinSet<()>,
}

#[derive(Default)]
struct Counts {
    watches: AtomicUsize,
    begun: AtomicUsize,
}

impl Server {
    pub async fn start(setup: Setup) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = Arc::new(Ca::load_or_create(dir.path(), "ca", "test-ca", Clock::system()).unwrap());
        let template = Template::server("server", vec!["localhost".to_owned()], vec!["127.0.0.1".parse().unwrap()]);
        let certificate = Identity::load_or_issue(ca.clone(), dir.path(), "server", template).unwrap();
        let config = FrontConfig {
            addresses: vec!["127.0.0.1:0".parse().unwrap(), "127.0.0.1:0".parse().unwrap()],
            tls: setup.tls.then(|| Tls { certificate, client_roots: Some(ca.roots()) }),
            limits: Limits { ping: setup.ping, ..Limits::default() },
        };
        let front = Front::bind(config).await.unwrap();
        let addr = front.local_addresses()[1];
        let counts = Arc::<Counts>::default();
        let stop = CancellationToken::new();
        let handler = Arc::new(Echo { counts: counts.clone(), upgrade: setup.upgrade });
        let serving = JoinSet::from_iter([front.serve(handler, stop.clone())]);
        Self { dir, ca, addr, tls: setup.tls, counts, stop, serving }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", if self.tls { "https" } else { "http" }, self.addr)
    }

    pub fn watches(&self) -> usize {
        self.counts.watches.load(Ordering::SeqCst)
    }

    pub fn begun(&self) -> usize {
        self.counts.begun.load(Ordering::SeqCst)
    }

    pub fn issue_client(&self, name: &str, subject: Subject) {
        Identity::load_or_issue(self.ca.clone(), self.dir(), name, Template::client(subject)).unwrap();
    }

    pub fn stop(&mut self) -> impl Future<Output = ()> + use<> {
        self.stop.cancel();
        let mut serving = std::mem::take(&mut self.serving);
        async move { while serving.join_next().await.is_some() {} }
    }
}

/// A client whose certificate another CA signed.
pub fn other_ca_client(dir: &Path, name: &str) {
    let other = tempfile::tempdir().unwrap();
    let ca = Arc::new(Ca::load_or_create(other.path(), "ca", "test-ca", Clock::system()).unwrap());
    Identity::load_or_issue(ca, dir, name, Template::client(Subject::new("mallory", &["system:masters"]))).unwrap();
}

/// Waits until something is so, for at most a minute.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..6000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within a minute: {what}");
}

struct Echo {
    counts: Arc<Counts>,
    upgrade: Option<Upgrade>,
}

struct Counted(Arc<Counts>);

impl Counted {
    fn new(counts: &Arc<Counts>) -> Self {
        counts.watches.fetch_add(1, Ordering::SeqCst);
        Self(counts.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.watches.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait::async_trait]
impl Handler for Echo {
    async fn handle(&self, request: Request) -> Response {
        self.counts.begun.fetch_add(1, Ordering::SeqCst);
        let (parts, body) = request.into_parts();
        let mut response = Response::new(match parts.uri.path() {
            "/panic" => panic!("as asked"),
            "/peer" => {
                let peer = parts.extensions.get::<Peer>().unwrap();
                format!("{} {:?}", !peer.certificates.is_empty(), peer.certificate).into()
            }
            "/count" => {
                let mut body = body.into_stream();
                let mut count = 0;
                while let Some(piece) = body.next().await {
                    count += piece.unwrap().len();
                }
                count.to_string().into()
            }
            "/limited" => match body.into_bytes(1 << 20).await {
                Ok(_) => "fits".into(),
                Err(error) => error.to_string().into(),
            },
            "/large" => {
                Body::stream(futures::stream::iter(0..20).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![b'y'; 1 << 20]))))
            }
            "/watch" => {
                let counted = Counted::new(&self.counts);
                let first = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"first\n"))]);
                let rest = futures::stream::pending().inspect(move |_| _ = &counted);
                Body::stream(first.chain(rest)).long_running()
            }
            "/hang" => {
                let _counted = Counted::new(&self.counts);
                std::future::pending().await
            }
            // As much of an API server as kubectl needs to find a pod.
            "/api" => r#"{"kind":"APIVersions","versions":["v1"]}"#.into(),
            "/apis" => r#"{"kind":"APIGroupList","apiVersion":"v1","groups":[]}"#.into(),
            "/api/v1" => r#"{"kind":"APIResourceList","groupVersion":"v1","resources":[{"name":"pods","singularName":"pod",
                "namespaced":true,"kind":"Pod","verbs":["get"]}]}"#
                .into(),
            path if path.ends_with("/pods/web") => {
                r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web","namespace":"default"},
                "spec":{"containers":[{"name":"web","tty":true,"stdin":true}]},"status":{"phase":"Running"}}"#
                    .into()
            }
            "/slow" => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                "done".into()
            }
            _ => {
                let mut text = format!("{} {} ", parts.method, parts.uri).into_bytes();
                if let Some(value) = parts.headers.get("x-test") {
                    text.extend_from_slice(value.as_bytes());
                }
                text.extend_from_slice(&body.into_bytes(1 << 20).await.unwrap());
                text.into()
            }
        });
        if parts.uri.path().starts_with("/api") {
            response.headers_mut().insert("content-type", "application/json".parse().unwrap());
        }
        response
    }

    async fn upgrade(&self, request: http::Request<()>, mut io: Io) {
        if let Some(upgrade) = &self.upgrade {
            return upgrade(request, io).await;
        }
        let mut text = String::new();
        io.read_to_string(&mut text).await.unwrap();
        let answer = format!("{} {} {text}", request.method(), request.uri());
        io.write_all(answer.as_bytes()).await.unwrap();
        io.shutdown().await.unwrap();
    }
}

/// Passes bytes on until it is frozen; then it keeps its connections open and says nothing.
pub struct Pipe {
    pub addr: SocketAddr,
    frozen: CancellationToken,
    _task: JoinSet<()>,
}

impl Pipe {
    pub async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let frozen = CancellationToken::new();
        let freeze = frozen.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut server = TcpStream::connect(to).await.unwrap();
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                () = freeze.cancelled() => {
                    let _held = (client, server);
                    std::future::pending::<()>().await;
                }
            }
        });
        Self { addr, frozen, _task: task }
    }

    pub fn freeze(&self) {
        self.frozen.cancel();
    }
}
