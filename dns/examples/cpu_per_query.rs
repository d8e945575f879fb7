//! Measures the CPU time that the server spends on a query for a cluster name, with metrics on, over real sockets.
//!
//! The server runs on threads of its own, whose CPU time the kernel counts; the client's is left out. Names are asked for in
//! a window of 64 queries, so the server is never idle for long.

use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result};
use kube::client::Body;
use pharos_dns::{Config, Dns};
use pharos_telemetry::{Component as _, Ctx};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const SERVICES: usize = 10_000;
const QUERIES: usize = 600_000;
const WINDOW: usize = 64;
const THREAD: &str = "dns-server";

#[expect(clippy::print_stdout, reason = "a measurement is its output")]
fn main() -> Result<()> {
    let token = CancellationToken::new();
    let server = tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name(THREAD).enable_all().build()?;
    let guard = server.enter();
    let registry = prometheus::Registry::new();
    // With an address, it is put on the dummy interface of this network namespace, and asked there.
    let config = match std::env::args().nth(1) {
        Some(address) => Config { cluster_dns: vec![address.parse()?], sockets: 2, ..Config::default() },
        None => Config { listen: vec!["127.0.0.1:0".parse()?], sockets: 2, ..Config::default() },
    };
    let dns = Dns::new(config, kube::Client::new(tower::service_fn(list), "default"), &registry)?;
    let mut addresses = dns.addresses();
    let ctx = Ctx::for_test(token.clone());
    let run = ctx.clone();
    let running = ctx.spawn("dns", async move { dns.run(run).await });
    drop(guard);
    let wait = async {
        tokio::time::timeout(Duration::from_secs(60), addresses.wait_for(|a| !a.is_empty())).await.map(|a| a.map(|a| a[0]))
    };
    let address = server.block_on(wait)??;
    for (what, kind) in [("A", 1_u16), ("AAAA (NODATA)", 28), ("SRV", 33)] {
        ask(address, kind, QUERIES / 10)?;
        let before = cpu()?;
        let received = ask(address, kind, QUERIES)?;
        let spent = cpu()?.saturating_sub(before);
        println!(
            "{what}: {:.2} µs of CPU a query, {received} answers to {QUERIES} queries",
            spent.as_secs_f64() * 1e6 / received as f64
        );
    }
    token.cancel();
    server.block_on(running)??;
    Ok(())
}

/// The CPU time of the server's threads.
fn cpu() -> Result<Duration> {
    let mut total = 0;
    for task in fs::read_dir("/proc/self/task")? {
        let path = task?.path();
        if fs::read_to_string(path.join("comm"))?.trim() == THREAD {
            let text = fs::read_to_string(path.join("schedstat"))?;
            total += text.split(' ').next().context("schedstat is empty")?.parse::<u64>()?;
        }
    }
    Ok(Duration::from_nanos(total))
}

/// Asks in a window over two sockets; gives how many answers came.
fn ask(server: SocketAddr, kind: u16, queries: usize) -> Result<usize> {
    let sockets: Vec<UdpSocket> = (0..2).map(|_| UdpSocket::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    for socket in &sockets {
        socket.connect(server)?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    }
    let packets: Vec<Vec<u8>> = (0..256).map(|n| packet(&format!("service-{}", n * (SERVICES / 256)), kind)).collect();
    let (mut received, mut bytes) = (0, [0; 1500]);
    for round in 0..queries / WINDOW {
        let socket = &sockets[round % 2];
        for n in 0..WINDOW {
            socket.send(&packets[(round * WINDOW + n) % packets.len()])?;
        }
        for _ in 0..WINDOW {
            match socket.recv(&mut bytes) {
                Ok(_) => received += 1,
                Err(_) => break,
            }
        }
    }
    Ok(received)
}

fn packet(service: &str, kind: u16) -> Vec<u8> {
    let mut out = vec![1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    for label in [service, "shop", "svc", "cluster", "local"] {
        out.push(label.len() as u8);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&[0, 1]);
    out.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    out
}

/// An API server that lists Services and then watches nothing.
async fn list(request: http::Request<Body>) -> Result<http::Response<Body>, std::io::Error> {
    if request.uri().query().is_some_and(|query| query.contains("watch=")) {
        std::future::pending::<()>().await;
    }
    let (kind, version, items): (_, _, Vec<Value>) = match request.uri().path() {
        "/api/v1/services" => ("ServiceList", "v1", (0..SERVICES).map(service).collect()),
        "/api/v1/namespaces" => ("NamespaceList", "v1", vec![json!({"metadata": {"name": "shop", "resourceVersion": "1"}})]),
        _ => ("EndpointSliceList", "discovery.k8s.io/v1", Vec::new()),
    };
    let list = json!({"kind": kind, "apiVersion": version, "metadata": {"resourceVersion": "1"}, "items": items});
    Ok(http::Response::new(Body::from(list.to_string().into_bytes())))
}

fn service(n: usize) -> Value {
    let ip = format!("10.43.{}.{}", n / 250, n % 250 + 1);
    let labels: BTreeMap<&str, &str> = BTreeMap::new();
    json!({
        "metadata": {"name": format!("service-{n}"), "namespace": "shop", "resourceVersion": "1", "labels": labels},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [{"name": "http", "protocol": "TCP", "port": 80}]},
    })
}
