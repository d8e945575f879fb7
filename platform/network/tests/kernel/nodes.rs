use std::path::{Path, PathBuf};

use pharos_network::{
    Backend, BridgeConfig, BridgeNetwork, PodNetwork as _, PodRoutes, ProxyConfig, RoutesConfig, ServiceProxy, VTEP_MAC,
};
use serde_json::json;

use crate::{
    api::{Api, NODES, Running, SERVICES, SLICES, eventually, node, service, slice},
    world::{World, attach, block, file_name, ip, output, pod, serve, tcp, udp},
};

/// The pod ranges of node `n`.
fn ranges(n: u8) -> [String; 2] {
    [format!("10.42.{n}.0/24"), format!("fd42:0:0:{n}::/64")]
}

/// A bridge on a node, with one pod on it.
fn pod_on(world: &mut World, node: &Path, n: u8, backend: Backend, state: &Path) -> PathBuf {
    let cluster = vec!["10.42.0.0/16".parse().unwrap(), "fd42::/48".parse().unwrap()];
    let mut config = BridgeConfig::new(state.join(n.to_string()), cluster);
    config.backend = backend;
    let network = BridgeNetwork::new(config);
    block(node, async || network.configure(&ranges(n)).await).unwrap_or_else(|e| panic!("{e}: {:?}", e.source));
    let netns = world.namespace(&format!("pod{n}"));
    attach(node, &network, &pod(&format!("p{n}"), &netns, None));
    serve(&netns, &format!("p{n}"), 80);
    netns
}

fn routes(api: &Api, namespace: &Path, name: &str, backend: Backend) -> Running {
    let node_name = name.to_owned();
    api.start(namespace, move |client| {
        PodRoutes::new(RoutesConfig { node_name, backend }, client, &prometheus::Registry::new()).unwrap()
    })
}

fn announce(api: &Api, n: u8, address: &str) {
    let [v4, v6] = ranges(n);
    api.put(NODES, node(&format!("n{n}"), &[&v4, &v6], address));
}

#[test]
fn pods_of_two_nodes_meet_through_vxlan() {
    let Some(mut world) = World::new() else { return };
    // Two nodes in different networks, with a router between.
    let (n1, n2, router) = (world.namespace("n1"), world.namespace("n2"), world.namespace("router"));
    world.uplink(&n1, &router, "n1", "192.168.1.2", "192.168.1.1");
    world.uplink(&n2, &router, "n2", "192.168.2.2", "192.168.2.1");
    output(&router, "sysctl", &["-w", "net.ipv4.ip_forward=1"]);
    let state = tempfile::tempdir().unwrap();
    let p1 = pod_on(&mut world, &n1, 1, Backend::Vxlan, state.path());
    let p2 = pod_on(&mut world, &n2, 2, Backend::Vxlan, state.path());
    let api = Api::default();
    announce(&api, 1, "192.168.1.2");
    announce(&api, 2, "192.168.2.2");
    let (first, _second) = (routes(&api, &n1, "n1", Backend::Vxlan), routes(&api, &n2, "n2", Backend::Vxlan));

    for (n, name) in [(&n1, "n1"), (&n2, "n2")] {
        eventually("routes", || {
            output(n, "ip", &["route"]).contains("dev pharos.1") && output(n, "ip", &["-6", "route"]).contains("dev pharos.1")
        });
        eventually("condition", || api.get(NODES, name)["status"]["conditions"][0]["type"] == "NetworkUnavailable");
        let node = api.get(NODES, name);
        assert_eq!(node["status"]["conditions"][0]["status"], "False");
        assert!(node["metadata"]["annotations"][VTEP_MAC].is_string());
    }
    // Both ways, both families, with the pod's own address; and from the node itself.
    assert_eq!(tcp(&p1, "10.42.2.2:80").unwrap(), "p2 10.42.1.2");
    assert_eq!(udp(&p2, "10.42.1.2:80").unwrap(), "p1 10.42.2.2");
    assert_eq!(tcp(&p1, "[fd42:0:0:2::2]:80").unwrap(), "p2 fd42:0:0:1::2");
    assert_eq!(tcp(&n1, "10.42.2.2:80").unwrap(), "p2 10.42.1.0");
    assert!(output(&n1, "ip", &["-d", "link", "show", "pharos.1"]).contains("vxlan id 1 local 192.168.1.2"));
    assert!(output(&n1, "ip", &["-d", "link", "show", "pharos.1"]).contains("dstport 8472"));

    // A Service whose only endpoint is on the other node.
    api.put(SERVICES, service(json!({})));
    api.put(SLICES, slice("web", "IPv4", &[("10.42.2.2", "n2")]));
    let _proxy = api.start(&n1, |client| {
        let config = ProxyConfig { node_name: "n1".into(), cluster_cidrs: vec!["10.42.0.0/16".into()], ..ProxyConfig::default() };
        ServiceProxy::new(&config, client, &prometheus::Registry::new()).unwrap()
    });
    eventually("rules", || tcp(&p1, "10.43.0.7:80").is_ok());
    assert_eq!(tcp(&p1, "10.43.0.7:80").unwrap(), "p2 10.42.1.2");
    assert_eq!(tcp(&n1, "10.43.0.7:80").unwrap(), "p2 10.42.1.0");

    // Nothing is made anew by a restart; what went meanwhile goes.
    let before = output(&n1, "ip", &["link", "show", "pharos.1"]);
    drop(first);
    assert_eq!(tcp(&p1, "10.42.2.2:80").unwrap(), "p2 10.42.1.2");
    api.delete(NODES, "n2");
    let _first = routes(&api, &n1, "n1", Backend::Vxlan);
    eventually("no route", || !output(&n1, "ip", &["route"]).contains("10.42.2.0"));
    eventually("no entry", || !output(&n1, "bridge", &["fdb", "show", "dev", "pharos.1"]).contains("192.168.2.2"));
    assert!(!output(&n1, "ip", &["neighbour", "show", "dev", "pharos.1"]).contains("10.42.2.0"));
    assert_eq!(output(&n1, "ip", &["link", "show", "pharos.1"]), before);
}

#[test]
fn pods_of_two_neighbours_meet_by_routes() {
    let Some(mut world) = World::new() else { return };
    let (n1, n2) = (world.namespace("n1"), world.namespace("n2"));
    world.uplink(&n1, &n2, "peer", "192.168.1.1", "192.168.1.2");
    ip(&["-n", file_name(&n2), "route", "add", "default", "via", "192.168.1.1"]);
    let state = tempfile::tempdir().unwrap();
    let p1 = pod_on(&mut world, &n1, 1, Backend::HostGw, state.path());
    let p2 = pod_on(&mut world, &n2, 2, Backend::HostGw, state.path());
    let api = Api::default();
    announce(&api, 1, "192.168.1.1");
    announce(&api, 2, "192.168.1.2");
    let _running = [routes(&api, &n1, "n1", Backend::HostGw), routes(&api, &n2, "n2", Backend::HostGw)];
    eventually("routes", || {
        output(&n1, "ip", &["route"]).contains("10.42.2.0/24 via 192.168.1.2")
            && output(&n2, "ip", &["route"]).contains("10.42.1.0/24 via 192.168.1.1")
    });
    assert_eq!(tcp(&p1, "10.42.2.2:80").unwrap(), "p2 10.42.1.2");
    assert_eq!(tcp(&p2, "10.42.1.2:80").unwrap(), "p1 10.42.2.2");
    assert!(output(&p1, "ip", &["link", "show", "eth0"]).contains("mtu 1500"));
    api.delete(NODES, "n2");
    eventually("no route", || !output(&n1, "ip", &["route"]).contains("10.42.2.0/24"));
}
