//! Asks the resolvers of the host: CoreDNS' plugin `forward`.
//!
//! Follows CoreDNS 1.14 (`plugin/forward`, `plugin/pkg/proxy`): random policy, health checks only after a failure, two
//! failures make a resolver down, and when all are down one is tried anyway. Unlike CoreDNS, a truncated answer over UDP is
//! asked for again over TCP here, so that it can be kept; no connection is kept open; each query has a socket of its own,
//! so its port cannot be foreseen.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use pharos_telemetry::Ctx;
use rand::Rng as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
};

use crate::{
    metrics::{Metrics, Proto, rcode_name},
    name::WireName,
    reply::Reply,
    wire::{self, HEADER, Rcode, kind},
};

/// All tries together.
const DEADLINE: Duration = Duration::from_secs(5);
/// One try.
const TRY: Duration = Duration::from_secs(2);
const CHECK_EVERY: Duration = Duration::from_millis(500);
const CHECK_DEADLINE: Duration = Duration::from_secs(1);
/// Failures after which a resolver is down.
const MAX_FAILS: u32 = 2;
const PROXY: &str = "forward";

pub(crate) struct Forward {
    upstreams: ArcSwap<Vec<Arc<Upstream>>>,
    permits: Arc<Semaphore>,
    metrics: Arc<Metrics>,
    ctx: Ctx,
}

struct Upstream {
    address: SocketAddr,
    /// The address as a label.
    to: String,
    fails: AtomicU32,
    checking: AtomicBool,
}

/// What to ask.
pub(crate) struct Question<'q> {
    /// The name in wire form, in the case in which it was typed.
    pub name: &'q [u8],
    pub kind: u16,
    /// The bytes of the header that carry flags; all but RD, AD and CD are zero.
    pub flags: [u8; 2],
    pub dnssec: bool,
    pub proto: Proto,
}

/// Why nobody answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("no upstream")]
    NoUpstream,
    #[error("no answer from upstream in time")]
    Deadline,
    #[error("exchange with upstream {to}")]
    Exchange { to: String, source: io::Error },
}

// === impl Forward ===

impl Forward {
    pub(crate) fn new(max_concurrent: usize, metrics: Arc<Metrics>, ctx: Ctx) -> Self {
        let permits = Arc::new(Semaphore::new(max_concurrent.min(Semaphore::MAX_PERMITS)));
        Self { upstreams: ArcSwap::default(), permits, metrics, ctx }
    }

    /// Uses these resolvers from now on; those that stay keep their health.
    pub(crate) fn set_upstreams(&self, servers: &[SocketAddr]) {
        let old = self.upstreams.load();
        let upstream = |address: &SocketAddr| {
            let known = old.iter().find(|upstream| upstream.address == *address).cloned();
            known.unwrap_or_else(|| {
                Arc::new(Upstream { address: *address, to: address.to_string(), fails: 0.into(), checking: false.into() })
            })
        };
        self.upstreams.store(Arc::new(servers.iter().map(upstream).collect()));
    }

    /// The right to ask; `None` if too many ask already.
    pub(crate) fn permit(&self) -> Option<OwnedSemaphorePermit> {
        let permit = self.permits.clone().try_acquire_owned().ok();
        if permit.is_none() {
            self.metrics.forward_rejects.inc();
        }
        permit
    }

    /// Asks one resolver after the other until one answers. Cancel-safe.
    pub(crate) async fn ask(&self, question: &Question<'_>) -> Result<Reply, Failure> {
        let upstreams = self.upstreams.load_full();
        if upstreams.is_empty() {
            return Err(Failure::NoUpstream);
        }
        let deadline = Instant::now() + DEADLINE;
        let first = rand::rng().random_range(0..upstreams.len());
        let all_down = upstreams.iter().all(|upstream| upstream.is_down());
        if all_down {
            self.metrics.forward_broken.inc();
        }
        let mut failure = Failure::Deadline;
        // Every resolver once, then once more: the first try may have lost a packet.
        for turn in 0..2 * upstreams.len() {
            let upstream = &upstreams[(first + turn) % upstreams.len()];
            if upstream.is_down() && !all_down && upstreams.iter().any(|upstream| !upstream.is_down()) {
                continue;
            }
            match timeout_at(deadline.min(Instant::now() + TRY), self.exchange(upstream, question)).await {
                Ok(Ok(reply)) => {
                    upstream.fails.store(0, Ordering::Relaxed);
                    return Ok(reply);
                }
                Ok(Err(source)) => failure = Failure::Exchange { to: upstream.to.clone(), source },
                Err(_) => failure = Failure::Deadline,
            }
            self.check(upstream);
            if Instant::now() >= deadline {
                break;
            }
        }
        Err(failure)
    }

    async fn exchange(&self, upstream: &Upstream, question: &Question<'_>) -> io::Result<Reply> {
        let started = Instant::now();
        self.metrics.forward_requests.with_label_values(&[&upstream.to]).inc();
        let mut packet = Vec::with_capacity(HEADER + question.name.len() + 32);
        wire::query(&mut packet, rand::rng().random(), question.flags, question.name, question.kind, question.dnssec);
        let question_end = HEADER + question.name.len() + 4;
        let malformed = || io::Error::new(io::ErrorKind::InvalidData, "malformed answer");
        let read = |bytes| Reply::read(bytes, question_end, question.kind).ok_or_else(malformed);
        let mut reply = match question.proto {
            Proto::Udp => read(udp(upstream.address, &packet, question_end).await?)?,
            Proto::Tcp => read(tcp(upstream.address, &packet, question_end).await?)?,
        };
        if question.proto == Proto::Udp && reply.truncated() {
            // If TCP fails, the client is told that the answer is truncated.
            if let Ok(Ok(whole)) = timeout(CHECK_DEADLINE, tcp(upstream.address, &packet, question_end)).await {
                reply = read(whole)?;
            }
        }
        let (seconds, rcode) = (started.elapsed().as_secs_f64(), rcode_name(reply.rcode()));
        self.metrics.forward_responses.with_label_values(&[&upstream.to, rcode]).inc();
        self.metrics.forward_duration.with_label_values(&[&upstream.to, rcode]).observe(seconds);
        self.metrics.proxy_duration.with_label_values(&[PROXY, &upstream.to, rcode]).observe(seconds);
        Ok(reply)
    }

    /// Counts a failure, and checks the resolver's health until it answers or is used no more.
    fn check(&self, upstream: &Arc<Upstream>) {
        upstream.fails.fetch_add(1, Ordering::Relaxed);
        if upstream.checking.swap(true, Ordering::Relaxed) {
            return;
        }
        let (metrics, ctx, upstream) = (self.metrics.clone(), self.ctx.clone(), Arc::downgrade(upstream));
        self.ctx.spawn("health check", async move {
            loop {
                tokio::select! {
                    () = ctx.stopped() => return,
                    () = tokio::time::sleep(CHECK_EVERY) => {}
                }
                let Some(upstream) = upstream.upgrade() else { return };
                let mut packet = Vec::new();
                wire::query(&mut packet, rand::rng().random(), [1, 0], WireName::root().as_bytes(), kind::NS, false);
                let probe = udp(upstream.address, &packet, HEADER + 5);
                if let Ok(Ok(_)) = timeout(CHECK_DEADLINE, probe).await {
                    upstream.fails.store(0, Ordering::Relaxed);
                    upstream.checking.store(false, Ordering::Relaxed);
                    return;
                }
                if upstream.fails.fetch_add(1, Ordering::Relaxed) + 1 == MAX_FAILS {
                    tracing::warn!(upstream = upstream.to, "upstream is down");
                }
                metrics.forward_check_failures.with_label_values(&[&upstream.to]).inc();
                metrics.proxy_check_failures.with_label_values(&[PROXY, &upstream.to]).inc();
            }
        });
    }
}

impl Upstream {
    fn is_down(&self) -> bool {
        self.fails.load(Ordering::Relaxed) >= MAX_FAILS
    }
}

async fn udp(to: SocketAddr, packet: &[u8], question_end: usize) -> io::Result<Vec<u8>> {
    let any = if to.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)) };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(to).await?;
    socket.send(packet).await?;
    let mut bytes = vec![0; 4096];
    loop {
        let length = socket.recv(&mut bytes).await?;
        // Anything else may be forged: it is no answer, and the true one may still come.
        if wire::answers(packet, question_end, &bytes[..length]) {
            bytes.truncate(length);
            return Ok(bytes);
        }
    }
}

async fn tcp(to: SocketAddr, packet: &[u8], question_end: usize) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(to).await?;
    let mut framed = (packet.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(packet);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await?;
    if !wire::answers(packet, question_end, &bytes) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "answer to another question"));
    }
    Ok(bytes)
}

impl Failure {
    pub(crate) fn rcode(&self) -> Rcode {
        Rcode::SERVFAIL
    }
}
