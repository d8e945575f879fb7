use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
};

use async_trait::async_trait;
use nix::errno::Errno;
use rtnetlink::{
    Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        link::{InfoData, InfoKind, InfoVeth},
        route::RouteScope,
    },
};
use tokio::sync::Mutex;

use crate::{
    BridgeConfig, PodIps, PodNetwork, PodNetworkConfig, PodNetworkError,
    addresses::{Addresses, Record},
    cidr::Cidr,
    error::{Doing as _, Error, Result, errno},
    netlink, nft, pod_rules,
};

/// The interface that a pod sees.
const POD_INTERFACE: &str = "eth0";

/// Connects pods by one bridge and a pair of virtual interfaces each.
///
/// A pod has its address alone (`/32`, `/128`) and sends everything to the bridge's, so that pods of one node reach each other
/// through the node's routing, too: the answer of a Service's endpoint then always passes the connection tracking that
/// must turn its source back, and no `br_netfilter` is needed.
///
/// Works in the network namespace of the thread that calls it.
pub struct BridgeNetwork {
    config: BridgeConfig,
    /// One change at a time: the kernel makes interfaces one by one anyway.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    addresses: Option<Addresses>,
    /// The node's ranges, at most one of each family, once they are known and the bridge is up.
    ranges: Vec<Cidr>,
    mtu: u32,
}

// === impl BridgeNetwork ===

impl BridgeNetwork {
    /// A network that [`PodNetwork::configure`] is to tell its ranges.
    #[must_use]
    pub fn new(config: BridgeConfig) -> Self {
        Self { config, state: Mutex::default() }
    }

    async fn set_up(&self, pod_cidrs: &[String]) -> Result<()> {
        let ranges = one_of_each_family(pod_cidrs)?;
        let mut state = self.state.lock().await;
        if state.ranges == ranges {
            return Ok(());
        }
        self.load(&mut state).await?;
        let uplink = netlink::with_netlink("set up the pod bridge", async |handle| {
            let uplink = netlink::uplink(&handle).await?.as_ref().and_then(netlink::mtu_of).unwrap_or(1500);
            Ok(uplink)
        })
        .await?;
        let ipv6 = ranges.iter().any(|r| !r.is_ipv4());
        let mtu = self.config.mtu.unwrap_or_else(|| uplink.saturating_sub(self.config.backend.overhead(false)).max(576));
        let keep: Vec<IpAddr> = self.collect(&mut state).await?;
        netlink::with_netlink("set up the pod bridge", |handle| self.set_up_bridge(handle, &ranges, mtu, keep)).await?;
        self.forward(ipv6)?;
        if let Some(addresses) = &state.addresses {
            nft::apply(&pod_rules::replace_all(&self.config.bridge, &ranges, &self.config.cluster_cidrs, addresses.iter()))
                .await?;
        }
        for range in &ranges {
            if let Err(error) = nft::pass_iptables(range).await {
                tracing::warn!(error = crate::proxy::chain(&error), "iptables may drop what pods send, if its policy is to drop");
            }
        }
        state.ranges = ranges;
        state.mtu = mtu;
        Ok(())
    }

    /// Reads what an earlier process left, once.
    async fn load(&self, state: &mut State) -> Result<()> {
        if state.addresses.is_none() {
            let dir = self.config.state_dir.join("addresses");
            let loaded = tokio::task::spawn_blocking(move || Addresses::load(&dir)).await;
            state.addresses = Some(loaded.map_err(std::io::Error::other).doing(|| "read addresses".to_owned())??);
        }
        Ok(())
    }

    /// Frees what belongs to sandboxes that are gone, and gives the addresses in use.
    ///
    /// The kernel removes a pod's interface along with its namespace, so a sandbox without one is dead.
    async fn collect(&self, state: &mut State) -> Result<Vec<IpAddr>> {
        let links: HashSet<String> = netlink::with_netlink("list interfaces", async |handle| netlink::link_names(&handle).await)
            .await?
            .into_iter()
            .collect();
        let Some(addresses) = &mut state.addresses else { return Ok(Vec::new()) };
        let dead: Vec<String> =
            addresses.iter().filter(|r| !links.contains(&host_interface(&r.sandbox_id))).map(|r| r.sandbox_id.clone()).collect();
        for id in dead {
            tracing::info!(sandbox = id, "freed the addresses of a sandbox that is gone");
            addresses.release(&id)?;
        }
        Ok(addresses.iter().flat_map(|r| r.ips.iter().copied()).collect())
    }

    async fn set_up_bridge(&self, handle: Handle, ranges: &[Cidr], mtu: u32, keep: Vec<IpAddr>) -> Result<()> {
        let name = &self.config.bridge;
        let gateways: Vec<Cidr> = ranges.iter().filter_map(gateway).collect();
        if netlink::link(&handle, name).await?.is_none() {
            // A fixed hardware address: a bridge otherwise takes its ports' lowest, which changes under its neighbours.
            let address = gateways.first().map(|g| mac(g.address)).unwrap_or([0x0a, 0x58, 0, 0, 0, 1]);
            let bridge = LinkBridge::new(name).address(address.to_vec()).mtu(mtu).down().build();
            match handle.link().add(bridge).execute().await {
                Err(error) if errno(&error) != Some(Errno::EEXIST as i32) => {
                    return Err(error).doing(|| format!("create bridge {name}"));
                }
                _ => {}
            }
        }
        let link = netlink::link(&handle, name).await?;
        let index = link.ok_or_else(|| Error::Invalid(format!("bridge {name} vanished")))?.header.index;
        netlink::without_duplicate_detection(name)?;
        let up = LinkUnspec::new_with_index(index).mtu(mtu).up().build();
        handle.link().set(up).execute().await.doing(|| format!("set bridge {name} up"))?;
        for gateway in &gateways {
            netlink::add_address(&handle, index, gateway.address, gateway.prefix).await?;
        }
        // Ranges of an earlier cluster; one that still has pods stays until they are gone.
        for old in netlink::addresses(&handle, Some(index)).await? {
            let link_local = matches!(old.address, IpAddr::V6(a) if a.is_unicast_link_local());
            if !link_local && !gateways.contains(&old) && !keep.iter().any(|ip| old.contains(*ip)) {
                self.remove_address(&handle, index, old).await?;
            }
        }
        Ok(())
    }

    async fn remove_address(&self, handle: &Handle, index: u32, old: Cidr) -> Result<()> {
        let message = handle.address().add(index, old.address, old.prefix).message_mut().clone();
        match handle.address().del(message).execute().await {
            Err(error) if errno(&error) != Some(Errno::EADDRNOTAVAIL as i32) => {
                Err(error).doing(|| format!("remove address {old} from {}", self.config.bridge))
            }
            _ => Ok(()),
        }
    }

    /// Lets the kernel forward between pods, and turn host ports on 127.0.0.1 back.
    fn forward(&self, ipv6: bool) -> Result<()> {
        let bridge = &self.config.bridge;
        netlink::sysctl("net/ipv4/ip_forward", "1")?;
        netlink::sysctl(&format!("net/ipv4/conf/{bridge}/forwarding"), "1")?;
        netlink::sysctl(&format!("net/ipv4/conf/{bridge}/route_localnet"), "1")?;
        // Pods of one node are to talk through the node, never past it.
        netlink::sysctl(&format!("net/ipv4/conf/{bridge}/send_redirects"), "0")?;
        if ipv6 {
            netlink::sysctl("net/ipv6/conf/all/forwarding", "1")?;
        }
        Ok(())
    }

    async fn connect(&self, pod: &PodNetworkConfig) -> Result<PodIps> {
        let netns = pod.netns.clone().ok_or_else(|| Error::Invalid("the sandbox has no network namespace".to_owned()))?;
        let mut state = self.state.lock().await;
        if state.ranges.is_empty() {
            return Err(Error::Invalid("the node has no pod range yet".to_owned()));
        }
        let (ranges, mtu) = (state.ranges.clone(), state.mtu);
        let had_ports = state.ports();
        let record = match state.assign(pod, &ranges) {
            Err(Error::Exhausted(_)) => {
                self.collect(&mut state).await?;
                state.assign(pod, &ranges)?
            }
            assigned => assigned?,
        };
        match self.plug(&netns, &record, &ranges, mtu).await {
            Ok(()) => {}
            Err(error) => {
                // Without an interface the record would only be found by chance later.
                let _ = self.unplug(&pod.sandbox_id).await;
                if let Some(addresses) = &mut state.addresses {
                    addresses.release(&pod.sandbox_id)?;
                }
                return Err(error);
            }
        }
        self.host_ports(&state, had_ports).await?;
        Ok(record.ips)
    }

    async fn host_ports(&self, state: &State, before: Vec<(String, usize)>) -> Result<()> {
        match &state.addresses {
            Some(addresses) if state.ports() != before => nft::apply(&pod_rules::host_ports(addresses.iter())).await,
            _ => Ok(()),
        }
    }

    /// Makes the pair of interfaces, one end in the pod, and what the pod needs to use it.
    async fn plug(&self, netns: &Path, record: &Record, ranges: &[Cidr], mtu: u32) -> Result<()> {
        let host = host_interface(&record.sandbox_id);
        let file = tokio::fs::File::open(netns).await.doing(|| format!("open network namespace {}", netns.display()))?;
        let namespace: OwnedFd = file.into_std().await.into();
        let address = record.ips.first().map_or([0x0a, 0x58, 0, 0, 0, 2], |ip| mac(*ip));
        let configure = {
            let (ips, ranges) = (record.ips.clone(), ranges.to_vec());
            move || async {
                netlink::in_namespace(netns, "configure a pod's interface", move |handle| configure_pod(handle, ips, ranges))
                    .await
            }
        };
        netlink::with_netlink("create a pod's interface", async |handle| {
            let bridge = netlink::link(&handle, &self.config.bridge).await?;
            let bridge = bridge.ok_or_else(|| Error::Invalid(format!("bridge {} is gone", self.config.bridge)))?;
            if netlink::link(&handle, &host).await?.is_none() {
                let peer = LinkMessageBuilder::<LinkUnspec>::default()
                    .name(POD_INTERFACE)
                    .mtu(mtu)
                    .address(address.to_vec())
                    .setns_by_fd(namespace.as_raw_fd())
                    .build();
                let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
                    .name(host.clone())
                    .mtu(mtu)
                    .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
                    .build();
                handle.link().add(pair).execute().await.doing(|| format!("create interface {host}"))?;
            }
            let link = netlink::link(&handle, &host).await?;
            let index = link.ok_or_else(|| Error::Invalid(format!("interface {host} vanished")))?.header.index;
            let up = LinkUnspec::new_with_index(index).controller(bridge.header.index).up().build();
            handle.link().set(up).execute().await.doing(|| format!("join {host} to the bridge"))?;
            let port = LinkBridgePort::new(index).hairpin(true).build();
            handle.link().set_port(port).execute().await.doing(|| format!("set hairpin mode of {host}"))?;
            Ok(())
        })
        .await?;
        configure().await
    }

    async fn unplug(&self, sandbox_id: &str) -> Result<()> {
        let host = host_interface(sandbox_id);
        netlink::with_netlink("remove a pod's interface", async |handle| netlink::remove_link(&handle, &host).await).await
    }

    async fn disconnect(&self, pod: &PodNetworkConfig) -> Result<()> {
        let mut state = self.state.lock().await;
        self.load(&mut state).await?;
        let had_ports = state.ports();
        self.unplug(&pod.sandbox_id).await?;
        if let Some(addresses) = &mut state.addresses {
            addresses.release(&pod.sandbox_id)?;
        }
        if state.ranges.is_empty() { Ok(()) } else { self.host_ports(&state, had_ports).await }
    }
}

#[async_trait]
impl PodNetwork for BridgeNetwork {
    async fn configure(&self, pod_cidrs: &[String]) -> Result<(), PodNetworkError> {
        self.set_up(pod_cidrs).await.map_err(|e| e.during(format!("set up the pod network for {}", pod_cidrs.join(", "))))
    }

    async fn not_ready(&self) -> Option<String> {
        self.state.lock().await.ranges.is_empty().then(|| "the node has no pod range (spec.podCIDR) yet".to_owned())
    }

    async fn attach(&self, pod: &PodNetworkConfig) -> Result<PodIps, PodNetworkError> {
        self.connect(pod).await.map_err(|e| e.during(format!("connect sandbox {} to the pod network", pod.sandbox_id)))
    }

    async fn detach(&self, pod: &PodNetworkConfig) -> Result<(), PodNetworkError> {
        self.disconnect(pod).await.map_err(|e| e.during(format!("disconnect sandbox {} from the pod network", pod.sandbox_id)))
    }

    async fn status(&self, pod: &PodNetworkConfig) -> Result<Option<PodIps>, PodNetworkError> {
        let mut state = self.state.lock().await;
        self.load(&mut state).await.map_err(|e| e.during(format!("look up sandbox {}", pod.sandbox_id)))?;
        Ok(state.addresses.as_ref().and_then(|a| a.get(&pod.sandbox_id)).map(|r| r.ips.clone()))
    }
}

// === impl State ===

impl State {
    fn assign(&mut self, pod: &PodNetworkConfig, ranges: &[Cidr]) -> Result<Record> {
        let addresses = self.addresses.as_mut().ok_or_else(|| Error::Invalid("the pod network is not set up".to_owned()))?;
        addresses.assign(pod, ranges)
    }

    /// Which sandboxes have host ports, to see whether rules must change.
    fn ports(&self) -> Vec<(String, usize)> {
        let records = self.addresses.iter().flat_map(|a| a.iter());
        records.filter(|r| !r.host_ports.is_empty()).map(|r| (r.sandbox_id.clone(), r.host_ports.len())).collect()
    }
}

/// Runs inside the pod's namespace.
async fn configure_pod(handle: Handle, ips: PodIps, ranges: Vec<Cidr>) -> Result<()> {
    let find = async |name: &str| {
        let link = netlink::link(&handle, name).await?;
        link.map(|l| l.header.index).ok_or_else(|| Error::Invalid(format!("the pod has no interface {name}")))
    };
    let (loopback, index) = (find("lo").await?, find(POD_INTERFACE).await?);
    netlink::without_duplicate_detection(POD_INTERFACE)?;
    for index in [loopback, index] {
        let up = LinkUnspec::new_with_index(index).up().build();
        handle.link().set(up).execute().await.doing(|| "set a pod's interface up".to_owned())?;
    }
    for name in ["all", POD_INTERFACE] {
        netlink::sysctl(&format!("net/ipv4/conf/{name}/accept_redirects"), "0")?;
        // Without IPv6 in the kernel there is nothing to set.
        let _ = netlink::sysctl(&format!("net/ipv6/conf/{name}/accept_redirects"), "0");
    }
    for (ip, range) in ips.iter().zip(&ranges) {
        netlink::add_address(&handle, index, *ip, if ip.is_ipv4() { 32 } else { 128 }).await?;
        let Some(gateway) = gateway(range) else { continue };
        let routes = match gateway.address {
            IpAddr::V4(gateway) => {
                let to = RouteMessageBuilder::<Ipv4Addr>::new().output_interface(index);
                [
                    to.clone().destination_prefix(gateway, 32).scope(RouteScope::Link).build(),
                    to.destination_prefix(Ipv4Addr::UNSPECIFIED, 0).gateway(gateway).build(),
                ]
            }
            IpAddr::V6(gateway) => {
                let to = RouteMessageBuilder::<Ipv6Addr>::new().output_interface(index);
                [
                    to.clone().destination_prefix(gateway, 128).build(),
                    to.destination_prefix(Ipv6Addr::UNSPECIFIED, 0).gateway(gateway).build(),
                ]
            }
        };
        for route in routes {
            handle.route().add(route).replace().execute().await.doing(|| format!("add the pod's route by {gateway}"))?;
        }
    }
    Ok(())
}

/// The bridge's address in a range: the first after the network's.
fn gateway(range: &Cidr) -> Option<Cidr> {
    range.nth(1).map(|address| Cidr { address, prefix: range.prefix })
}

fn one_of_each_family(pod_cidrs: &[String]) -> Result<Vec<Cidr>> {
    let mut ranges: Vec<Cidr> = Vec::new();
    for text in pod_cidrs {
        let range: Cidr = text.parse()?;
        let smallest = if range.is_ipv4() { 30 } else { 126 };
        if range.prefix > smallest {
            return Err(Error::Invalid(format!("pod range {range} has no room for pods")));
        }
        if !ranges.iter().any(|r| r.is_ipv4() == range.is_ipv4()) {
            ranges.push(Cidr { address: range.network(), prefix: range.prefix });
        }
    }
    if ranges.is_empty() {
        return Err(Error::Invalid("no pod range given".to_owned()));
    }
    Ok(ranges)
}

/// A hardware address that follows from an IP address, as CNI's bridge plugin makes it: a neighbour that remembers it is right
/// about the address' next owner too.
fn mac(address: IpAddr) -> [u8; 6] {
    let last: [u8; 4] = match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => (address.to_bits() as u32).to_be_bytes(),
    };
    [0x0a, 0x58, last[0], last[1], last[2], last[3]]
}

/// The node's end of a sandbox' pair: its name follows from the sandbox' ID (FNV-1a, 44 bits, for 15 bytes in all).
fn host_interface(sandbox_id: &str) -> String {
    let hash = sandbox_id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("veth{:011x}", hash >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_differ() {
        let names: HashSet<String> = (0..10_000).map(|n| host_interface(&format!("sandbox-{n}"))).collect();
        assert_eq!(names.len(), 10_000);
        assert!(names.iter().all(|n| n.len() == 15));
    }

    #[test]
    fn ranges_are_checked() {
        let check = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|t| (*t).to_owned()).collect();
            one_of_each_family(&texts).map(|r| r.iter().map(ToString::to_string).collect::<Vec<_>>()).map_err(|e| e.to_string())
        };
        assert_eq!(check(&["10.42.1.0/24", "10.43.0.0/24", "fd00::/64"]).unwrap(), ["10.42.1.0/24", "fd00::/64"]);
        assert_eq!(check(&[]).unwrap_err(), "no pod range given");
        assert_eq!(check(&["10.42.1.0/31"]).unwrap_err(), "pod range 10.42.1.0/31 has no room for pods");
        assert!(check(&["x"]).is_err());
    }
}
