use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read as _, Write as _},
    net::UdpSocket,
    path::{Path, PathBuf},
    time::Duration,
};

use pharos_network::{BridgeConfig, BridgeNetwork, PodNetwork as _, ProxyConfig, ServiceProxy};
use serde_json::json;

use crate::{
    api::{Api, NODES, Running, SERVICES, SLICES, eventually, node, service, slice},
    world::{World, attach, block, inside, output, pod, serve, tcp, udp},
};

/// One node with an uplink, a pod that asks, and two that answer.
struct Scene {
    world: World,
    node: PathBuf,
    outside: PathBuf,
    client: PathBuf,
    b: PathBuf,
    api: Api,
    _state: tempfile::TempDir,
}

const CLIENT: &str = "10.42.5.2";
const B: &str = "10.42.5.3";
const C: &str = "10.42.5.4";
/// As a pod sees the node.
const GATEWAY: &str = "10.42.5.1";

fn scene() -> Option<Scene> {
    let mut world = World::new()?;
    let (node_ns, outside) = (world.namespace("node"), world.namespace("out"));
    world.uplink(&node_ns, &outside, "n1", "192.168.7.2", "192.168.7.1");
    let state = tempfile::tempdir().unwrap();
    let network = BridgeNetwork::new(BridgeConfig::new(state.path(), vec!["10.42.0.0/16".parse().unwrap()]));
    let ranges = ["10.42.5.0/24".to_owned(), "fd42:0:0:5::/64".to_owned()];
    block(&node_ns, || network.configure(&ranges)).unwrap();
    let pods: Vec<PathBuf> = ["a", "b", "c"].iter().map(|name| world.namespace(name)).collect();
    for (name, netns) in ["a", "b", "c"].iter().zip(&pods) {
        attach(&node_ns, &network, &pod(name, netns, None));
        serve(netns, name, 80);
    }
    let api = Api::default();
    api.put(NODES, node("n1", &["10.42.5.0/24"], "192.168.7.2"));
    let [client, b, _] = <[PathBuf; 3]>::try_from(pods).unwrap();
    Some(Scene { world, node: node_ns, outside, client, b, api, _state: state })
}

impl Scene {
    fn proxy(&self) -> Running {
        self.api.start(&self.node, |client| {
            let config = ProxyConfig {
                node_name: "n1".into(),
                cluster_cidrs: vec!["10.42.0.0/16".into()],
                min_sync_period_seconds: 0.0,
                ..ProxyConfig::default()
            };
            ServiceProxy::new(&config, client, &prometheus::Registry::new()).unwrap()
        })
    }

    fn rules(&self) -> String {
        output(&self.node, "nft", &["list", "ruleset"])
    }

    /// Waits until rules name, or no longer name, a text.
    fn wait(&self, text: &str, present: bool) {
        eventually(text, || self.rules().contains(text) == present);
    }
}

/// The names that answer to many tries.
fn answers(from: &Path, address: &str) -> BTreeSet<String> {
    (0..40).map(|_| tcp(from, address).unwrap()).collect()
}

fn set(texts: &[String]) -> BTreeSet<String> {
    texts.iter().cloned().collect()
}

#[test]
fn services_lead_to_their_endpoints() {
    let Some(scene) = scene() else { return };
    scene.api.put(SERVICES, service(json!({
        "type": "NodePort", "externalIPs": ["192.168.7.9"],
        "clusterIPs": ["10.43.0.7", "fd43::7"],
        "ports": [{"name": "tcp", "port": 80, "protocol": "TCP", "nodePort": 30080}, {"name": "udp", "port": 80, "protocol": "UDP"}]
    })));
    scene.api.put(SLICES, slice("web-4", "IPv4", &[(B, "n1"), (C, "n1")]));
    scene.api.put(SLICES, slice("web-6", "IPv6", &[("fd42:0:0:5::3", "n1")]));
    let proxy = scene.proxy();
    scene.wait("10.43.0.7 . tcp . 80", true);

    // From a pod, both endpoints, with the pod's own address; by UDP and IPv6 too.
    assert_eq!(answers(&scene.client, "10.43.0.7:80"), set(&[format!("b {CLIENT}"), format!("c {CLIENT}")]));
    assert!(udp(&scene.client, "10.43.0.7:80").unwrap().ends_with(CLIENT));
    assert_eq!(tcp(&scene.client, "[fd43::7]:80").unwrap(), "b fd42:0:0:5::2");
    // From the node, and from outside by node port and external address.
    assert_eq!(answers(&scene.node, "10.43.0.7:80"), set(&[format!("b {GATEWAY}"), format!("c {GATEWAY}")]));
    assert_eq!(answers(&scene.outside, "192.168.7.2:30080"), set(&[format!("b {GATEWAY}"), format!("c {GATEWAY}")]));
    assert_eq!(answers(&scene.node, "192.168.7.2:30080").len(), 2);
    assert_eq!(answers(&scene.client, "192.168.7.2:30080").len(), 2);
    // Not at addresses that are none of the Node's own.
    assert_eq!(tcp(&scene.client, &format!("{GATEWAY}:30080")).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    output(&scene.outside, "ip", &["route", "add", "192.168.7.9", "via", "192.168.7.2"]);
    assert_eq!(answers(&scene.outside, "192.168.7.9:80").len(), 2);
    // A port that the Service does not have is refused at once.
    assert_eq!(tcp(&scene.client, "10.43.0.7:81").unwrap_err().kind(), ErrorKind::ConnectionRefused);

    // A pod that is its own endpoint reaches itself.
    scene.api.put(SLICES, slice("web-4", "IPv4", &[(B, "n1")]));
    eventually("one endpoint", || !scene.rules().contains(C));
    assert_eq!(tcp(&scene.b, "10.43.0.7:80").unwrap(), format!("b {GATEWAY}"));

    // No endpoint: refused, not lost.
    scene.api.put(SLICES, slice("web-4", "IPv4", &[]));
    scene.wait(B, false);
    for from in [&scene.client, &scene.node] {
        assert_eq!(tcp(from, "10.43.0.7:80").unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
    assert_eq!(udp(&scene.client, "10.43.0.7:80").unwrap_err().kind(), ErrorKind::ConnectionRefused);
    // The kernel tells the node's own UDP clients when they send.
    assert_eq!(udp(&scene.node, "10.43.0.7:80").unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(tcp(&scene.outside, "192.168.7.2:30080").unwrap_err().kind(), ErrorKind::ConnectionRefused);
    scene.api.put(SLICES, slice("web-4", "IPv4", &[(C, "n1")]));
    scene.wait(C, true);
    assert_eq!(tcp(&scene.client, "10.43.0.7:80").unwrap(), format!("c {CLIENT}"));

    // Stopped, it leaves the rules; started again, it knows what went meanwhile.
    drop(proxy);
    assert_eq!(tcp(&scene.client, "10.43.0.7:80").unwrap(), format!("c {CLIENT}"));
    scene.api.put(SLICES, slice("web-4", "IPv4", &[(B, "n1")]));
    let _proxy = scene.proxy();
    scene.wait(C, false);
    assert_eq!(tcp(&scene.client, "10.43.0.7:80").unwrap(), format!("b {CLIENT}"));

    scene.api.delete(SERVICES, "web");
    scene.wait("10.43.0.7", false);
    assert!(!scene.rules().contains("default/web"), "{}", scene.rules());
    drop(scene.world);
}

#[test]
fn clients_stay_with_their_endpoint() {
    let Some(scene) = scene() else { return };
    scene.api.put(
        SERVICES,
        service(json!({
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 100}}
        })),
    );
    scene.api.put(SLICES, slice("web", "IPv4", &[(B, "n1"), (C, "n1")]));
    let _proxy = scene.proxy();
    scene.wait("10.43.0.7 . tcp . 80", true);
    let first = answers(&scene.client, "10.43.0.7:80");
    assert_eq!(first.len(), 1, "{first:?}");
    // Other changes do not make it forget.
    let (other, stays) = if first.contains(&format!("b {CLIENT}")) { ("10.42.5.9", B) } else { (B, C) };
    scene.api.put(SLICES, slice("web", "IPv4", &[(other, "n1"), (stays, "n1")]));
    scene.wait(other, true);
    assert_eq!(answers(&scene.client, "10.43.0.7:80"), first);
    // Its endpoint gone, it finds another.
    let (gone, left) = if stays == B { (B, C) } else { (C, B) };
    scene.api.put(SLICES, slice("web", "IPv4", &[(left, "n1")]));
    scene.wait(gone, false);
    assert_ne!(answers(&scene.client, "10.43.0.7:80"), first);
}

#[test]
fn a_udp_client_that_never_stops_notices() {
    let Some(scene) = scene() else { return };
    scene.api.put(SERVICES, service(json!({})));
    scene.api.put(SLICES, slice("web", "IPv4", &[]));
    let _proxy = scene.proxy();
    scene.wait("10.43.0.7 . udp . 80", true);
    let socket = inside(&scene.client, || UdpSocket::bind("0.0.0.0:0").unwrap());
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let ask = || {
        socket.send_to(b"?", "10.43.0.7:80")?;
        let mut buffer = [0; 100];
        socket.recv(&mut buffer).map(|n| String::from_utf8_lossy(&buffer[..n]).into_owned())
    };
    assert!(ask().is_err());
    for (endpoint, name) in [(B, "b"), (C, "c"), (B, "b")] {
        scene.api.put(SLICES, slice("web", "IPv4", &[(endpoint, "n1")]));
        eventually(name, || ask().is_ok_and(|answer| answer == format!("{name} {CLIENT}")));
    }
}

#[test]
fn policy_local_keeps_the_clients_address_and_the_node() {
    let Some(scene) = scene() else { return };
    let ports = json!([{"name": "tcp", "port": 80, "protocol": "TCP", "nodePort": 30080}]);
    let local = json!({"type": "NodePort", "ports": ports, "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"});
    scene.api.put(SERVICES, service(local));
    scene.api.put(SLICES, slice("web", "IPv4", &[(B, "n1"), ("10.42.6.2", "n2")]));
    let _proxy = scene.proxy();
    scene.wait("10.43.0.7 . tcp . 80", true);
    assert_eq!(answers(&scene.outside, "192.168.7.2:30080"), set(&["b 192.168.7.1".to_owned()]));
    assert_eq!(answers(&scene.client, "10.43.0.7:80"), set(&[format!("b {CLIENT}")]));
    // None here: a client outside is dropped, to try another node.
    scene.api.put(SLICES, slice("web", "IPv4", &[("10.42.6.2", "n2")]));
    scene.wait(B, false);
    assert_ne!(tcp(&scene.outside, "192.168.7.2:30080").unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_ne!(tcp(&scene.client, "10.43.0.7:80").unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn another_proxys_service_is_left_alone_and_an_address_has_one_owner() {
    let Some(scene) = scene() else { return };
    let mut dns = service(json!({"clusterIP": "10.43.0.10", "clusterIPs": ["10.43.0.10"]}));
    dns["metadata"]["name"] = json!("dns");
    dns["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "pharos-dns"});
    scene.api.put(SERVICES, dns);
    let external = json!({"externalIPs": ["192.168.7.9"]});
    scene.api.put(SERVICES, service(external.clone()));
    scene.api.put(SLICES, slice("web", "IPv4", &[(B, "n1")]));
    let mut second = service(external);
    second["metadata"]["name"] = json!("zweite");
    second["spec"]["clusterIP"] = json!("10.43.0.8");
    second["spec"]["clusterIPs"] = json!(["10.43.0.8"]);
    let mut second_slice = slice("zweite", "IPv4", &[(C, "n1")]);
    second_slice["metadata"]["labels"]["kubernetes.io/service-name"] = json!("zweite");
    scene.api.put(SERVICES, second);
    scene.api.put(SLICES, second_slice);
    let _proxy = scene.proxy();
    scene.wait("10.43.0.8 . tcp . 80", true);
    assert!(!scene.rules().contains("10.43.0.10"));
    assert_eq!(tcp(&scene.client, "192.168.7.9:80").unwrap(), format!("b {GATEWAY}"));
    assert_eq!(tcp(&scene.client, "10.43.0.8:80").unwrap(), format!("c {CLIENT}"));
    // The first gives it up.
    scene.api.delete(SERVICES, "web");
    scene.wait("10.43.0.7", false);
    assert_eq!(tcp(&scene.client, "192.168.7.9:80").unwrap(), format!("c {GATEWAY}"));
}

#[test]
fn load_balancers_are_answered() {
    let Some(scene) = scene() else { return };
    let ports = json!([{"name": "tcp", "port": 80, "protocol": "TCP", "nodePort": 30080}]);
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31080, "ports": ports});
    scene.api.put(SERVICES, service(spec));
    scene.api.put(SLICES, slice("web-4", "IPv4", &[(B, "n1"), (C, "n1"), ("10.42.6.9", "n2")]));
    let _proxy = scene.proxy();
    let ask = |address: &str| inside(&scene.outside, || http(address));
    eventually("two endpoints", || {
        ask("192.168.7.2:31080").is_some_and(|a| a.contains("200 OK") && a.contains("\"localEndpoints\": 2"))
    });
    scene.api.put(SLICES, slice("web-4", "IPv4", &[("10.42.6.9", "n2")]));
    eventually("no endpoint here", || {
        ask("192.168.7.2:31080").is_some_and(|a| a.contains("503 ") && a.contains("\"localEndpoints\": 0"))
    });
    assert!(ask("192.168.7.2:10256").is_some_and(|a| a.contains("404 ")), "only paths that are asked");
    // The node's other addresses do not answer.
    assert!(inside(&scene.client, || http(&format!("{GATEWAY}:31080"))).is_none());
}

/// What is answered to `GET /`.
fn http(address: &str) -> Option<String> {
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: lb\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}
