//! The server as its clients see it: with dig, and with packets that dig does not send.

use std::{net::SocketAddr, process::Stdio};

use hickory_proto::op::Message;
use pharos_client::Key;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use crate::{
    Forward as ForwardConfig, Pods,
    kubernetes::tests::{Cluster, packet},
    wire,
};

const DEADLINE: Duration = Duration::from_secs(20);

struct Running {
    address: SocketAddr,
    feed: Feed,
    registry: Registry,
    ctx: Ctx,
    _stop: DropGuard,
}

/// A client of an API server that is not there: the tests feed the caches.
fn no_client() -> Client {
    type Body = kube::client::Body;
    let service =
        tower::service_fn(|_: http::Request<Body>| async { Err::<http::Response<Body>, _>(std::io::Error::other("none")) });
    Client::new(service, "default")
}

async fn start(config: Config) -> Running {
    let token = CancellationToken::new();
    let ctx = Ctx::for_test(token.clone());
    let registry = Registry::new();
    let config = Config {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        cluster_cidrs: ["10.42.0.0/16", "10.43.0.0/16"].map(str::to_owned).to_vec(),
        ..config
    };
    let dns = Dns::new(config, no_client(), &registry).unwrap();
    let feed = Feed::detached(dns.settings.pods);
    let cluster = Cluster::read();
    cluster.namespaces.into_iter().for_each(|object| feed.namespaces.insert(object));
    cluster.services.into_iter().for_each(|object| feed.services.insert(object));
    cluster.slices.into_iter().for_each(|object| feed.slices.insert(object));
    let mut addresses = dns.addresses();
    let (run, with) = (ctx.clone(), feed.clone());
    ctx.spawn("dns", async move { dns.serve(&run, || with).await.unwrap() });
    let address = tokio::time::timeout(DEADLINE, addresses.wait_for(|a| !a.is_empty())).await.unwrap().unwrap()[0];
    Running { address, feed, registry, ctx, _stop: token.drop_guard() }
}

/// An upstream that answers A queries: `big.` with more than UDP carries, `no.` not at all, others with 192.0.2.1.
struct Upstream {
    address: SocketAddr,
    asked: Arc<std::sync::atomic::AtomicUsize>,
}

async fn upstream(ctx: &Ctx) -> Upstream {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let udp = UdpSocket::bind(address).await.unwrap();
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = asked.clone();
    ctx.spawn("upstream udp", async move {
        let mut bytes = [0; 4096];
        while let Ok((length, from)) = udp.recv_from(&mut bytes).await {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let answer = upstream_answer(&bytes[..length], false);
            // A forged answer comes first; it has another ID.
            let mut forged = answer.clone();
            forged[0] ^= 1;
            udp.send_to(&forged, from).await.unwrap();
            udp.send_to(&answer, from).await.unwrap();
        }
    });
    ctx.spawn("upstream tcp", async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            let length = stream.read_u16().await.unwrap();
            let mut bytes = vec![0; usize::from(length)];
            stream.read_exact(&mut bytes).await.unwrap();
            let answer = upstream_answer(&bytes, true);
            stream.write_u16(answer.len() as u16).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    });
    Upstream { address, asked }
}

fn upstream_answer(query: &[u8], tcp: bool) -> Vec<u8> {
    let read = wire::Query::read(query).ok().unwrap();
    let mut out = Vec::new();
    let mut answer = wire::Answer::to(&mut out, query, read.question_end, read.edns, if tcp { 65535 } else { 512 });
    let name = name::text(read.name());
    let count = if name == "big." { 60 } else { u8::from(!name.starts_with("no.")) };
    if read.kind == kind::A {
        for n in 1..=count {
            answer.address(wire::Section::Answer, wire::Owner::QUESTION, 300, &[192, 0, 2, n].into());
        }
    }
    if count == 0 {
        let soa = b"\x00\x00\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x14";
        answer.record(wire::Section::Authority, wire::Owner::QUESTION, kind::SOA, 60, |out| out.extend_from_slice(soa));
        answer.finish(wire::Rcode::NXDOMAIN);
    } else {
        answer.finish(wire::Rcode::NOERROR);
    }
    out
}

async fn dig(server: SocketAddr, arguments: &str) -> String {
    let output = tokio::process::Command::new("dig")
        .arg("@127.0.0.1")
        .args(["-p", &server.port().to_string(), "+tries=1", "+time=8"])
        .args(arguments.split(' '))
        .stdin(Stdio::null())
        .output()
        .await
        .expect("dig is installed (package bind9-dnsutils)");
    String::from_utf8(output.stdout).unwrap()
}

async fn check(server: SocketAddr, arguments: &str, lines: &[&str]) {
    let text = dig(server, arguments).await;
    let squeezed: Vec<String> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in lines {
        assert!(squeezed.iter().any(|got| got.contains(line)), "dig {arguments}: no {line:?} in\n{text}");
    }
}

fn metric(registry: &Registry, start: &str) -> f64 {
    let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    let lines = text.lines().filter(|line| line.starts_with(start));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn dig_gets_answers() {
    let running = start(Config::default()).await;
    let at = running.address;
    check(
        at,
        "web.shop.svc.cluster.local A",
        &["status: NOERROR", "flags: qr aa rd;", "web.shop.svc.cluster.local. 5 IN A 10.43.0.20", "EDNS: version: 0"],
    )
    .await;
    check(at, "+tcp web.shop.svc.cluster.local A", &["web.shop.svc.cluster.local. 5 IN A 10.43.0.20", "(TCP)"]).await;
    check(at, "WEB.Shop.svc.cluster.local A", &["WEB.Shop.svc.cluster.local. 5 IN A 10.43.0.20"]).await;
    check(
        at,
        "no.shop.svc.cluster.local A",
        &["status: NXDOMAIN", "cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local."],
    )
    .await;
    check(
        at,
        "_pg._tcp.db.shop.svc.cluster.local SRV",
        &["IN SRV 0 33 5432 db-0.db.shop.svc.cluster.local.", "db-1.db.shop.svc.cluster.local. 5 IN A 10.42.0.11"],
    )
    .await;
    check(at, "-x 10.43.0.20", &["IN PTR web.shop.svc.cluster.local."]).await;
    check(at, "dns-version.cluster.local TXT", &["28800 IN TXT \"1.1.0\""]).await;
    check(at, "+noedns cluster.local SOA", &["cluster.local. 5 IN SOA", "ADDITIONAL: 0"]).await;
    check(at, "+edns=7 +noednsneg web.shop.svc.cluster.local A", &["status: BADVERS"]).await;
    check(at, "-c CH version.bind TXT", &["status: REFUSED"]).await;
    check(at, "cluster.local AXFR", &["Transfer failed"]).await;
    check(at, "+opcode=NOTIFY cluster.local SOA", &["status: NOTIMP"]).await;
    assert!(running.ctx.is_ready());
    assert!(metric(&running.registry, r#"coredns_dns_responses_total{plugin="kubernetes",rcode="NOERROR""#) >= 6.0);
    assert!(metric(&running.registry, "coredns_dns_request_duration_seconds_count") >= 9.0);
    assert!(metric(&running.registry, "coredns_plugin_enabled") >= 8.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_answered_at_once() {
    let running = start(Config { pods: Pods::Verified, ..Config::default() }).await;
    let at = running.address;
    check(at, "web.shop.svc.cluster.local A", &["IN A 10.43.0.20"]).await;
    let mut web = (*running.feed.services.get(&Key::new("shop", "web")).unwrap()).clone();
    web.spec.as_mut().unwrap().cluster_ips = Some(vec!["10.43.0.99".to_owned()]);
    running.feed.services.insert(web);
    running.feed.services.remove(&Key::new("shop", "plain"));
    running.feed.slices.remove(&Key::new("shop", "db-c"));
    running.feed.namespaces.remove(&Key::cluster("kube-system"));
    let pod = Cluster::read().pods.remove(0);
    running.feed.pods.as_ref().unwrap().insert(pod);
    for _ in 0..200 {
        if dig(at, "+short plain.shop.svc.cluster.local A").await.is_empty() {
            break;
        }
    }
    check(at, "web.shop.svc.cluster.local A", &["IN A 10.43.0.99"]).await;
    check(at, "-x 10.43.0.20", &["status: NXDOMAIN", "43.10.in-addr.arpa. 5 IN SOA"]).await;
    check(at, "db.shop.svc.cluster.local AAAA", &["status: NOERROR", "ANSWER: 0"]).await;
    check(at, "kube-system.svc.cluster.local A", &["status: NXDOMAIN"]).await;
    check(at, "10-42-0-5.shop.pod.cluster.local A", &["IN A 10.42.0.5"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_names_are_forwarded_and_kept() {
    let token = CancellationToken::new();
    let up = upstream(&Ctx::for_test(token.clone())).await;
    let forward = ForwardConfig { servers: vec![up.address], ..ForwardConfig::default() };
    let running = start(Config { forward, ..Config::default() }).await;
    let (at, asked) = (running.address, || up.asked.load(std::sync::atomic::Ordering::Relaxed));
    check(at, "Some.Example A", &["status: NOERROR", "Some.Example. 30 IN A 192.0.2.1"]).await;
    let before = asked();
    check(at, "sOME.example A", &["status: NOERROR", "sOME.example.", "IN A 192.0.2.1"]).await;
    check(at, "+noedns +tcp some.example A", &["IN A 192.0.2.1", "ADDITIONAL: 0"]).await;
    assert_eq!(asked(), before, "an answer that is kept is not asked for again");
    check(at, "no.example A", &["status: NXDOMAIN", "AUTHORITY: 1", "no.example. 20 IN SOA"]).await;
    check(at, "no.example A", &["status: NXDOMAIN"]).await;
    // What is too long for UDP is fetched over TCP, and truncated for those who cannot take it.
    check(at, "+ignore +noedns big A", &["flags: qr tc rd"]).await;
    check(at, "+tcp big A", &["ANSWER: 60"]).await;
    check(at, "+bufsize=1232 big A", &["ANSWER: 60"]).await;
    // An ExternalName leads elsewhere.
    check(
        at,
        "ext.shop.svc.cluster.local A",
        &["ext.shop.svc.cluster.local. 5 IN CNAME www.example.org.", "www.example.org. 300 IN A 192.0.2.1"],
    )
    .await;
    check(at, "ext.shop.svc.cluster.local A", &["IN CNAME www.example.org.", "IN A 192.0.2.1"]).await;
    let text = prometheus::TextEncoder::new().encode_to_string(&running.registry.gather()).unwrap();
    for start in [
        "coredns_cache_entries",
        "coredns_cache_hits_total",
        "coredns_cache_misses_total",
        "coredns_forward_requests_total",
        "coredns_proxy_request_duration_seconds_count",
    ] {
        assert!(metric(&running.registry, start) >= 2.0, "{start}\n{text}");
    }
    token.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_upstream_other_names_fail() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("resolv.conf");
    let forward = ForwardConfig { resolv_conf: file.clone(), ..ForwardConfig::default() };
    let running = start(Config { forward, ..Config::default() }).await;
    check(running.address, "example.org A", &["status: SERVFAIL"]).await;
    check(running.address, "ext.shop.svc.cluster.local A", &["status: NOERROR", "IN CNAME www.example.org.", "ANSWER: 1"]).await;
    // The file is watched: a resolver that appears is asked, if only for a loop.
    std::fs::write(&file, "nameserver 127.0.0.9\n").unwrap();
    let asked = async {
        while metric(&running.registry, r#"coredns_forward_requests_total{to="127.0.0.9:53"}"#) == 0.0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, asked).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_is_found() {
    // An upstream that asks us again.
    let relay = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let forward = ForwardConfig { servers: vec![relay.local_addr().unwrap()], ..ForwardConfig::default() };
    let running = start(Config { forward, ..Config::default() }).await;
    let at = running.address;
    running.ctx.spawn("relay", async move {
        let mut bytes = [0; 4096];
        let mut clients = std::collections::HashMap::new();
        while let Ok((length, from)) = relay.recv_from(&mut bytes).await {
            let id = [bytes[0], bytes[1]];
            let to = if from == at { clients.get(&id).copied() } else { clients.insert(id, from).map_or(Some(at), |_| Some(at)) };
            if let Some(to) = to {
                relay.send_to(&bytes[..length], to).await.unwrap();
            }
        }
    });
    let found = async {
        while metric(&running.registry, "pharos_coredns_loop_detected") == 0.0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, found).await.unwrap();
    check(at, "example.org A", &["status: SERVFAIL"]).await;
    check(at, "web.shop.svc.cluster.local A", &["IN A 10.43.0.20"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_that_are_no_queries_harm_nobody() {
    let running = start(Config::default()).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(running.address).await.unwrap();
    let good = packet("web.shop.svc.cluster.local", 1, None);
    let mut response = good.clone();
    response[2] |= 0x80;
    for silent in [&good[..5], &response] {
        socket.send(silent).await.unwrap();
    }
    let mut bytes = [0; 512];
    socket.send(&good[..20]).await.unwrap();
    let length = socket.recv(&mut bytes).await.unwrap();
    assert_eq!((length, bytes[3] & 15), (12, 1), "FORMERR");
    socket.send(&good).await.unwrap();
    let length = socket.recv(&mut bytes).await.unwrap();
    assert_eq!(Message::from_vec(&bytes[..length]).unwrap().answers.len(), 1);
    assert_eq!(metric(&running.registry, "pharos_coredns_malformed_requests_total"), 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_queries_are_pipelined() {
    let running = start(Config::default()).await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let mut queries = Vec::new();
    for id in 0..200_u16 {
        let mut query = packet("web.shop.svc.cluster.local", 1, None);
        query[..2].copy_from_slice(&id.to_be_bytes());
        queries.extend_from_slice(&(query.len() as u16).to_be_bytes());
        queries.extend_from_slice(&query);
    }
    stream.write_all(&queries).await.unwrap();
    for id in 0..200_u16 {
        let length = stream.read_u16().await.unwrap();
        let mut bytes = vec![0; usize::from(length)];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(bytes[..2], id.to_be_bytes());
    }
}

/// Every metric that the README lists is registered, and every one registered is listed.
#[tokio::test]
async fn the_readme_lists_the_metrics() {
    let registry = Registry::new();
    let config = Config { listen: vec!["127.0.0.1:0".parse().unwrap()], ..Config::default() };
    let dns = Dns::new(config, no_client(), &registry).unwrap();
    dns.metrics.touch();
    let have: std::collections::BTreeSet<String> = registry.gather().iter().map(|family| family.name().to_owned()).collect();
    let readme = include_str!("../../README.md");
    let table = readme.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let listed: std::collections::BTreeSet<String> = table.filter(|name| name.contains("coredns_")).map(str::to_owned).collect();
    assert_eq!(have, listed);
}

#[test]
fn the_readmes_configuration_is_read() {
    let readme = include_str!("../../README.md");
    let yaml = readme.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let config: Config = serde_norway::from_str(yaml).unwrap();
    config.check().unwrap();
}
