use pharos_network::{BridgeConfig, BridgeNetwork, PodNetwork as _};

use crate::world::{World, attach, block, output, pod, serve, tcp, udp};

fn network(state: &std::path::Path) -> BridgeNetwork {
    BridgeNetwork::new(BridgeConfig::new(state, vec!["10.42.0.0/16".parse().unwrap(), "fd42::/48".parse().unwrap()]))
}

#[test]
fn pods_reach_each_other_the_node_and_the_outside() {
    let Some(mut world) = World::new() else { return };
    let (node, outside) = (world.namespace("node"), world.namespace("out"));
    world.uplink(&node, &outside, "n1", "192.168.7.2", "192.168.7.1");
    let (a, b) = (world.namespace("a"), world.namespace("b"));
    let state = tempfile::tempdir().unwrap();
    let network = network(state.path());
    let ranges = ["10.42.5.0/24".to_owned(), "fd42:0:0:5::/64".to_owned()];

    assert!(block(&node, || network.not_ready()).is_some());
    assert!(block(&node, || async { network.attach(&pod("a", &a, None)).await }).is_err());
    block(&node, || network.configure(&ranges)).unwrap();
    block(&node, || network.configure(&ranges)).unwrap();
    assert_eq!(block(&node, || network.not_ready()), None);
    let pods = [pod("a", &a, None), pod("b", &b, Some((8080, 80)))];
    let ips = attach(&node, &network, &pods[0]);
    assert_eq!(ips.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.42.5.2", "fd42:0:0:5::2"]);
    attach(&node, &network, &pods[1]);
    assert_eq!(attach(&node, &network, &pods[0]), ips, "the same addresses again");

    for (namespace, name) in [(&a, "a"), (&b, "b"), (&node, "node"), (&outside, "outside")] {
        serve(namespace, name, 80);
    }
    // Between pods, both ways and both families.
    assert_eq!(tcp(&a, "10.42.5.3:80").unwrap(), "b 10.42.5.2");
    assert_eq!(udp(&b, "10.42.5.2:80").unwrap(), "a 10.42.5.3");
    assert_eq!(tcp(&a, "[fd42:0:0:5::3]:80").unwrap(), "b fd42:0:0:5::2");
    // With the node.
    assert_eq!(tcp(&node, "10.42.5.3:80").unwrap(), "b 10.42.5.1");
    assert_eq!(tcp(&a, "192.168.7.2:80").unwrap(), "node 10.42.5.2");
    // With the outside, which knows no way back to a pod.
    assert_eq!(tcp(&a, "192.168.7.1:80").unwrap(), "outside 192.168.7.2");
    // Host ports: from outside, from the node, its loopback, another pod, and the pod itself.
    assert_eq!(tcp(&outside, "192.168.7.2:8080").unwrap(), "b 192.168.7.1");
    assert_eq!(tcp(&node, "192.168.7.2:8080").unwrap(), "b 192.168.7.2");
    assert_eq!(tcp(&node, "127.0.0.1:8080").unwrap(), "b 10.42.5.1");
    assert_eq!(tcp(&a, "192.168.7.2:8080").unwrap(), "b 10.42.5.2");
    assert_eq!(tcp(&b, "192.168.7.2:8080").unwrap(), "b 10.42.5.1");
    // The uplink's 1500, less what VXLAN adds.
    assert!(output(&a, "ip", &["link", "show", "eth0"]).contains("mtu 1450"));

    // A new process knows what is in use.
    let again = self::network(state.path());
    block(&node, || again.configure(&ranges)).unwrap();
    assert_eq!(block(&node, || async { again.status(&pods[1]).await }).unwrap().unwrap()[0].to_string(), "10.42.5.3");
    assert_eq!(tcp(&outside, "192.168.7.2:8080").unwrap(), "b 192.168.7.1");
    let c = world.namespace("c");
    assert_eq!(attach(&node, &again, &pod("c", &c, None))[0].to_string(), "10.42.5.4");

    // Detached twice is detached; its host port is closed.
    for _ in 0..2 {
        block(&node, || async { again.detach(&pods[1]).await }).unwrap();
    }
    assert_eq!(block(&node, || async { again.status(&pods[1]).await }).unwrap(), None);
    assert!(tcp(&outside, "192.168.7.2:8080").is_err());
    assert!(!output(&node, "nft", &["list", "ruleset"]).contains("8080"));
}

#[test]
fn addresses_of_dead_sandboxes_are_found_when_needed() {
    let Some(mut world) = World::new() else { return };
    let node = world.namespace("node");
    let state = tempfile::tempdir().unwrap();
    let network = network(state.path());
    block(&node, async || network.configure(&["10.42.5.0/29".to_owned()]).await).unwrap();
    for n in 0..5 {
        attach(&node, &network, &pod(&format!("p{n}"), &world.namespace(&format!("p{n}")), None));
    }
    let last = world.namespace("last");
    let full = block(&node, || async { network.attach(&pod("last", &last, None)).await }).unwrap_err();
    assert_eq!(full.source.unwrap().to_string(), "no addresses available in range 10.42.5.0/29");
    // Its namespace dies without a word, and its interface with it.
    output(&node, "ip", &["link", "delete", &interface_of(&node, "10.42.5.4")]);
    assert_eq!(attach(&node, &network, &pod("last", &last, None))[0].to_string(), "10.42.5.4");
}

/// The node's interface behind which an address lives.
fn interface_of(node: &std::path::Path, address: &str) -> String {
    let _ = udp(node, &format!("{address}:9"));
    let neighbours = output(node, "ip", &["neighbour", "show", address]);
    let mac = neighbours.split_whitespace().skip_while(|w| *w != "lladdr").nth(1).unwrap().to_owned();
    let table = output(node, "bridge", &["fdb", "show", "br", "pharos0"]);
    let line = table.lines().find(|l| l.starts_with(&mac)).unwrap();
    line.split_whitespace().nth(2).unwrap().to_owned()
}
