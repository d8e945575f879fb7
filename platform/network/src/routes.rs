//! Routes to the pods of other nodes: through VXLAN, or by the nodes' own addresses.
//!
//! Reads Nodes; writes this Node's annotation [`VTEP_MAC`] and its condition `NetworkUnavailable`. Keeps nothing: what the kernel
//! has is read, compared with what Nodes say, and corrected. Follows flannel (`pkg/backend/vxlan`, `pkg/backend/hostgw`).
//!
//! Start reading at [`PodRoutes`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    runtime::watcher,
};
use nix::errno::Errno;
use pharos_client::{Event, Informer, Key};
use pharos_telemetry::{Backoff, Component, Ctx, Register as _};
use prometheus::{IntCounter, IntGauge, Registry};
use rtnetlink::{
    Handle, LinkVxlan, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        link::{InfoData, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol},
    },
};
use serde_json::json;
use tokio::sync::Notify;

use crate::{
    Backend,
    cidr::Cidr,
    error::{Doing as _, Error, Result, errno},
    netlink,
    proxy::chain,
};

/// The annotation that tells other nodes the hardware address of a node's VXLAN device.
pub const VTEP_MAC: &str = "pharos.io/vtep-mac";

/// The VXLAN device: name, network identifier and UDP port. The port is flannel's, which firewalls know.
const DEVICE: &str = "pharos.1";
const VNI: u32 = 1;
const UDP_PORT: u16 = 8472;

/// Marks our routes in the kernel's table (a number that iproute2 leaves to administrators).
const PROTOCOL: RouteProtocol = RouteProtocol::Other(112);

/// Settings of [`PodRoutes`].
#[derive(Clone, Debug)]
pub struct RoutesConfig {
    /// This node's name.
    pub node_name: String,
    /// How packets reach other nodes.
    pub backend: Backend,
}

/// Keeps the routes to other nodes' pods.
pub struct PodRoutes {
    config: RoutesConfig,
    client: Client,
    metrics: Metrics,
}

struct Metrics {
    peers: IntGauge,
    failures: IntCounter,
}

/// What a node says of itself, as far as routes need it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Peer {
    address: IpAddr,
    ranges: Vec<Cidr>,
    /// Of its VXLAN device.
    mac: Option<[u8; 6]>,
}

// === impl PodRoutes ===

impl PodRoutes {
    /// Routes that are kept while it runs.
    ///
    /// # Errors
    /// When the metrics are registered already.
    pub fn new(config: RoutesConfig, client: Client, registry: &Registry) -> Result<Self> {
        let peers = registry.gauge("pharos_network_peers", "Other nodes whose pods can be reached from this node")?;
        let failures =
            registry.counter("pharos_network_sync_failures_total", "Attempts to set routes to other nodes' pods that failed")?;
        Ok(Self { config, client, metrics: Metrics { peers, failures } })
    }

    /// Brings routes, neighbours and what this Node says of itself to what Nodes say.
    async fn sync(&self, nodes: &Informer<Node>, ctx: &Ctx) -> Result<()> {
        let Some(node) = nodes.get(&Key::cluster(self.config.node_name.as_str())) else { return Ok(()) };
        // Until the node has an address and a range there is nothing to tell others; both come with an event.
        let Some(this) = peer(&node) else { return Ok(()) };
        let peers: Vec<Peer> = nodes
            .list()
            .iter()
            .filter(|n| n.metadata.name != node.metadata.name)
            .filter_map(|n| peer(n))
            .filter(|p| p.address != this.address && p.ranges.iter().all(|r| !this.ranges.contains(r)))
            .collect();
        match self.config.backend {
            Backend::Vxlan => {
                let own = mac_of_node(&self.config.node_name);
                netlink::with_netlink("set routes through VXLAN", |handle| vxlan(handle, &this, own, &peers)).await?;
                self.annotate(&node, own).await?;
                self.metrics.peers.set(peers.iter().filter(|p| p.mac.is_some()).count() as i64);
            }
            Backend::HostGw => {
                netlink::with_netlink("set routes to nodes", |handle| host_gw(handle, &peers)).await?;
                self.metrics.peers.set(peers.len() as i64);
            }
        }
        self.available(&node, ctx).await
    }

    async fn annotate(&self, node: &Node, mac: [u8; 6]) -> Result<()> {
        let mac = mac_text(mac);
        if node.metadata.annotations.as_ref().and_then(|a| a.get(VTEP_MAC)) == Some(&mac) {
            return Ok(());
        }
        let patch = json!({"metadata": {"annotations": {VTEP_MAC: mac}}});
        let nodes = Api::<Node>::all(self.client.clone());
        let done = nodes.patch(&self.config.node_name, &PatchParams::default(), &Patch::Merge(patch)).await;
        done.map(drop).doing(|| format!("annotate node {}", self.config.node_name))
    }

    /// Says that pods can be reached; the scheduler waits for it.
    async fn available(&self, node: &Node, ctx: &Ctx) -> Result<()> {
        let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
        if conditions.into_iter().any(|c| c.type_ == "NetworkUnavailable" && c.status == "False") {
            return Ok(());
        }
        let now = ctx.clock().now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let patch = json!({"status": {"conditions": [{
            "type": "NetworkUnavailable", "status": "False", "reason": "PharosIsUp", "message": "Pharos is running on this node",
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        }]}});
        let nodes = Api::<Node>::all(self.client.clone());
        let done = nodes.patch_status(&self.config.node_name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        done.map(drop).doing(|| format!("set condition NetworkUnavailable of node {}", self.config.node_name))
    }
}

impl Component for PodRoutes {
    const NAME: &'static str = "pharos-network";
    type Error = Error;

    async fn run(&self, ctx: Ctx) -> Result<()> {
        let nodes = Informer::start(&ctx, Api::<Node>::all(self.client.clone()), watcher::Config::default());
        let changed = Arc::new(Notify::new());
        let notify = changed.clone();
        nodes.on_event(move |event| {
            // Nodes are updated all the time; few of it concerns routes.
            if let Event::Updated { old, new } = event
                && peer(old) == peer(new)
                && old.metadata.annotations == new.metadata.annotations
            {
                return;
            }
            notify.notify_one();
        });
        tokio::select! {
            biased;
            () = ctx.stopped() => return Ok(()),
            () = nodes.synced() => {}
        }
        let mut retry = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        loop {
            let wait = match self.sync(&nodes, &ctx).await {
                Ok(()) => {
                    ctx.ready();
                    retry.reset();
                    Duration::MAX
                }
                Err(error) => {
                    self.metrics.failures.inc();
                    let wait = retry.next_wait();
                    tracing::warn!(
                        error = chain(&error),
                        attempt = retry.attempt(),
                        "setting routes to nodes failed, trying again"
                    );
                    wait
                }
            };
            tokio::select! {
                biased;
                // Routes stay: pods talk on while this process is away.
                () = ctx.stopped() => return Ok(()),
                () = changed.notified() => {}
                () = sleep(wait) => {}
            }
        }
    }
}

async fn sleep(wait: Duration) {
    if wait == Duration::MAX { std::future::pending().await } else { tokio::time::sleep(wait).await }
}

/// What a Node says of itself; `None` before it has an address and a range.
fn peer(node: &Node) -> Option<Peer> {
    let spec = node.spec.as_ref()?;
    let texts = spec.pod_cidrs.clone().unwrap_or_else(|| spec.pod_cidr.iter().cloned().collect());
    let ranges: Vec<Cidr> =
        texts.iter().filter_map(|t| t.parse::<Cidr>().ok()).map(|c| Cidr { address: c.network(), prefix: c.prefix }).collect();
    let addresses: Vec<IpAddr> = node
        .status
        .iter()
        .flat_map(|s| s.addresses.iter().flatten())
        .filter(|a| a.type_ == "InternalIP")
        .filter_map(|a| a.address.parse().ok())
        .collect();
    let address = addresses.iter().find(|a| a.is_ipv4()).or(addresses.first())?;
    let mac = node.metadata.annotations.as_ref().and_then(|a| parse_mac(a.get(VTEP_MAC)?));
    (!ranges.is_empty()).then_some(Peer { address: *address, ranges, mac })
}

/// A locally administered hardware address that follows from the node's name, so that it survives the device.
fn mac_of_node(name: &str) -> [u8; 6] {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
    let [a, b, c, d, e, ..] = hash.to_be_bytes();
    [0x0a, a, b, c, d, e]
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Vec<u8> = text.split(':').map(|b| u8::from_str_radix(b, 16)).collect::<Result<_, _>>().ok()?;
    bytes.try_into().ok()
}

// === VXLAN ===

async fn vxlan(handle: Handle, this: &Peer, own: [u8; 6], peers: &[Peer]) -> Result<()> {
    let index = device(&handle, this, own).await?;
    for range in &this.ranges {
        netlink::add_address(&handle, index, range.network(), if range.is_ipv4() { 32 } else { 128 }).await?;
    }
    // A packet for a pod goes to its range's first address, which is the other device's, at the hardware address that it
    // told, which is behind the other node's address.
    let mut routes: BTreeMap<Cidr, RouteMessage> = BTreeMap::new();
    let mut neighbours: BTreeMap<IpAddr, [u8; 6]> = BTreeMap::new();
    let mut forwarding: BTreeMap<[u8; 6], IpAddr> = BTreeMap::new();
    for peer in peers {
        let Some(mac) = peer.mac else { continue };
        forwarding.insert(mac, peer.address);
        for range in &peer.ranges {
            neighbours.insert(range.network(), mac);
            routes.insert(*range, route(*range, range.network(), Some(index)));
        }
    }
    set_forwarding(&handle, index, &forwarding).await?;
    set_neighbours(&handle, index, &neighbours).await?;
    set_routes(&handle, routes).await
}

/// The VXLAN device, made anew when it has other properties.
async fn device(handle: &Handle, this: &Peer, own: [u8; 6]) -> Result<u32> {
    let found = netlink::link(handle, DEVICE).await?;
    if let Some(link) = &found {
        if is_device(link, this.address, own) {
            return Ok(link.header.index);
        }
        netlink::remove_link(handle, DEVICE).await?;
    }
    let uplink = netlink::interface_with(handle, this.address).await?;
    let mtu = uplink.as_ref().and_then(netlink::mtu_of).unwrap_or(1500);
    let mtu = mtu.saturating_sub(Backend::Vxlan.overhead(this.address.is_ipv6())).max(576);
    let mut builder = LinkVxlan::new(DEVICE, VNI).port(UDP_PORT).learning(false).address(own.to_vec()).mtu(mtu).up();
    builder = match this.address {
        IpAddr::V4(address) => builder.local(address),
        IpAddr::V6(address) => builder.local6(address),
    };
    if let Some(uplink) = uplink {
        builder = builder.dev(uplink.header.index);
    }
    handle.link().add(builder.build()).execute().await.doing(|| format!("create VXLAN device {DEVICE}"))?;
    let made = netlink::link(handle, DEVICE).await?;
    Ok(made.ok_or_else(|| Error::Invalid(format!("VXLAN device {DEVICE} vanished")))?.header.index)
}

fn is_device(link: &LinkMessage, address: IpAddr, own: [u8; 6]) -> bool {
    let infos = link.attributes.iter().find_map(|a| match a {
        LinkAttribute::LinkInfo(infos) => infos.iter().find_map(|i| match i {
            LinkInfo::Data(InfoData::Vxlan(infos)) => Some(infos),
            _ => None,
        }),
        _ => None,
    });
    let Some(infos) = infos else { return false };
    let local = match address {
        IpAddr::V4(address) => InfoVxlan::Local(address),
        IpAddr::V6(address) => InfoVxlan::Local6(address),
    };
    netlink::mac_of(link) == Some(own.as_slice())
        && [local, InfoVxlan::Id(VNI), InfoVxlan::Port(UDP_PORT)].iter().all(|wanted| infos.contains(wanted))
}

async fn set_forwarding(handle: &Handle, index: u32, wanted: &BTreeMap<[u8; 6], IpAddr>) -> Result<()> {
    let mut present = BTreeSet::new();
    for entry in neighbours_of(handle, index, AddressFamily::Bridge).await? {
        let (mac, to) = (entry_mac(&entry), entry_address(&entry));
        match mac {
            Some(mac) if to.is_some() && wanted.get(&mac).copied() == to => {
                present.insert(mac);
            }
            _ => remove_neighbour(handle, entry).await?,
        }
    }
    for (mac, to) in wanted.iter().filter(|(mac, _)| !present.contains(*mac)) {
        let add = handle.neighbours().add_bridge(index, mac).destination(*to).flags(NeighbourFlags::Own);
        let add = add.state(NeighbourState::Permanent).replace();
        add.execute().await.doing(|| format!("add forwarding entry {} to {to}", mac_text(*mac)))?;
    }
    Ok(())
}

async fn set_neighbours(handle: &Handle, index: u32, wanted: &BTreeMap<IpAddr, [u8; 6]>) -> Result<()> {
    let mut present = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        for entry in neighbours_of(handle, index, family).await? {
            let Some(ip) = entry_address(&entry) else { continue };
            if wanted.get(&ip).is_some_and(|mac| entry_mac(&entry) == Some(*mac))
                && entry.header.state == NeighbourState::Permanent
            {
                present.insert(ip);
            } else if entry.header.state == NeighbourState::Permanent && !wanted.contains_key(&ip) {
                remove_neighbour(handle, entry).await?;
            }
        }
    }
    for (ip, mac) in wanted.iter().filter(|(ip, _)| !present.contains(*ip)) {
        let add = handle.neighbours().add(index, *ip).link_layer_address(mac).state(NeighbourState::Permanent).replace();
        add.execute().await.doing(|| format!("add neighbour {ip}"))?;
    }
    Ok(())
}

async fn neighbours_of(handle: &Handle, index: u32, family: AddressFamily) -> Result<Vec<NeighbourMessage>> {
    let request = handle.neighbours().get().set_address_family(family);
    let all: Vec<NeighbourMessage> = request.execute().try_collect().await.doing(|| "list neighbours".to_owned())?;
    Ok(all.into_iter().filter(|n| n.header.ifindex == index).collect())
}

async fn remove_neighbour(handle: &Handle, entry: NeighbourMessage) -> Result<()> {
    match handle.neighbours().del(entry).execute().await {
        Err(error) if errno(&error) != Some(Errno::ENOENT as i32) => {
            Err(error).doing(|| format!("remove a neighbour of {DEVICE}"))
        }
        _ => Ok(()),
    }
}

fn entry_mac(entry: &NeighbourMessage) -> Option<[u8; 6]> {
    entry.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::LinkLayerAddress(mac) => mac.as_slice().try_into().ok(),
        _ => None,
    })
}

fn entry_address(entry: &NeighbourMessage) -> Option<IpAddr> {
    entry.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        // Of a forwarding entry, whose family does not tell its destination's.
        NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => match bytes.len() {
            4 => <[u8; 4]>::try_from(bytes.as_slice()).ok().map(|b| Ipv4Addr::from(b).into()),
            16 => <[u8; 16]>::try_from(bytes.as_slice()).ok().map(|b| Ipv6Addr::from(b).into()),
            _ => None,
        },
        _ => None,
    })
}

// === Routes ===

async fn host_gw(handle: Handle, peers: &[Peer]) -> Result<()> {
    let mut routes = BTreeMap::new();
    for peer in peers {
        for range in peer.ranges.iter().filter(|r| r.is_ipv4() == peer.address.is_ipv4()) {
            routes.insert(*range, route(*range, peer.address, None));
        }
    }
    set_routes(&handle, routes).await?;
    // Of the other backend.
    netlink::remove_link(&handle, DEVICE).await
}

fn route(range: Cidr, via: IpAddr, device: Option<u32>) -> RouteMessage {
    match (range.network(), via) {
        (IpAddr::V4(network), IpAddr::V4(via)) => {
            let route = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(network, range.prefix).gateway(via);
            match device {
                Some(index) => route.output_interface(index).onlink().protocol(PROTOCOL).build(),
                None => route.protocol(PROTOCOL).build(),
            }
        }
        (network, via) => {
            let v6 = |ip: IpAddr| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            let route = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(v6(network), range.prefix).gateway(v6(via));
            match device {
                Some(index) => route.output_interface(index).onlink().protocol(PROTOCOL).build(),
                None => route.protocol(PROTOCOL).build(),
            }
        }
    }
}

/// Makes our routes those that are wanted.
async fn set_routes(handle: &Handle, mut wanted: BTreeMap<Cidr, RouteMessage>) -> Result<()> {
    for ipv4 in [true, false] {
        for present in netlink::routes(handle, ipv4).await?.into_iter().filter(|r| r.header.protocol == PROTOCOL) {
            let Some(range) = destination(&present) else { continue };
            match wanted.get(&range) {
                Some(route) if same(route, &present) => {
                    wanted.remove(&range);
                }
                // Replaced below.
                Some(_) => {}
                None => match handle.route().del(present).execute().await {
                    Err(error) if errno(&error) != Some(Errno::ESRCH as i32) => {
                        return Err(error).doing(|| format!("remove route to {range}"));
                    }
                    _ => {}
                },
            }
        }
    }
    let mut failed = None;
    for (range, route) in wanted {
        // One node that can't be reached must not keep the others from being.
        let done = handle.route().add(route).replace().execute().await.doing(|| format!("add route to {range}"));
        failed = failed.or(done.err());
    }
    failed.map_or(Ok(()), Err)
}

fn destination(route: &RouteMessage) -> Option<Cidr> {
    let address = route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(address) => ip_of(address),
        _ => None,
    })?;
    Some(Cidr { address, prefix: route.header.destination_prefix_length })
}

/// Whether two routes have the same gateway, and the same interface if one is wanted.
fn same(wanted: &RouteMessage, present: &RouteMessage) -> bool {
    let gateway = |route: &RouteMessage| {
        route.attributes.iter().find_map(|a| match a {
            RouteAttribute::Gateway(address) => ip_of(address),
            _ => None,
        })
    };
    let interface = netlink::interface_of(wanted);
    gateway(wanted) == gateway(present) && (interface.is_none() || interface == netlink::interface_of(present))
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_tells_its_place() {
        let check = |node: serde_json::Value| peer(&serde_json::from_value(node).unwrap());
        assert_eq!(check(json!({"metadata": {}, "spec": {"podCIDR": "10.42.1.0/24"}})), None);
        let addresses = json!([{"type": "Hostname", "address": "x"}, {"type": "InternalIP", "address": "192.168.0.2"}]);
        assert_eq!(check(json!({"metadata": {}, "spec": {}, "status": {"addresses": addresses}})), None);
        let found = check(json!({
            "metadata": {"annotations": {VTEP_MAC: "0a:00:ff:01:02:03"}}, "spec": {"podCIDRs": ["10.42.1.0/24", "fd00:1::/64"]},
            "status": {"addresses": addresses}
        }))
        .unwrap();
        assert_eq!(found.address.to_string(), "192.168.0.2");
        assert_eq!(found.ranges.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.42.1.0/24", "fd00:1::/64"]);
        assert_eq!(found.mac, Some([0x0a, 0, 0xff, 1, 2, 3]));
    }

    #[test]
    fn hardware_addresses_are_stable_text() {
        let mac = mac_of_node("node-1");
        assert_eq!(parse_mac(&mac_text(mac)), Some(mac));
        assert_ne!(mac, mac_of_node("node-2"));
        assert_eq!(parse_mac("0a:00"), None);
        assert_eq!(parse_mac("x"), None);
    }
}
