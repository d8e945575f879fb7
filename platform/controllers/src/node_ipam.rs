//! `node-ipam`: gives every node its pod networks, cut from the cluster's (`pkg/controller/nodeipam`, range allocator).

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use parking_lot::Mutex;
use pharos_client::{Event, Key, Next, Recorder, Regarding};
use serde_json::json;

use crate::{
    Error, Result,
    env::Env,
    error::{During as _, gone_is_fine},
    owners,
};

/// A network as its first address, as a number, and its prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Network {
    v6: bool,
    first: u128,
    bits: u8,
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/')?;
        let bits: u8 = bits.parse().ok()?;
        let (v6, first) = match address.parse().ok()? {
            IpAddr::V4(address) => (false, u128::from(u32::from(address))),
            IpAddr::V6(address) => (true, u128::from(address)),
        };
        let network = Self { v6, first, bits };
        (bits <= network.width()).then(|| Self { first: first & !(network.size() - 1), ..network })
    }

    fn width(self) -> u8 {
        if self.v6 { 128 } else { 32 }
    }

    /// How many addresses; the whole of IPv6 counts as half, which nobody cuts from.
    fn size(self) -> u128 {
        1 << (self.width() - self.bits).min(127)
    }

    fn overlaps(self, other: Self) -> bool {
        let size = self.size().max(other.size());
        self.v6 == other.v6 && self.first / size == other.first / size
    }

    fn text(self) -> String {
        let address =
            if self.v6 { IpAddr::V6(Ipv6Addr::from(self.first)) } else { IpAddr::V4(Ipv4Addr::from(self.first as u32)) };
        format!("{address}/{}", self.bits)
    }

    /// The first part with `bits` that overlaps nothing in use.
    fn cut(self, bits: u8, used: &HashSet<Self>) -> Option<Self> {
        if bits < self.bits || bits > self.width() {
            return None;
        }
        let foreign: Vec<Self> = used.iter().filter(|n| n.v6 == self.v6 && n.bits != bits).copied().collect();
        // Each network in use can stand in the way of a part, so one more than there are is enough to look at, unless foreign
        // sizes cover many parts.
        let size = Self { bits, ..self }.size();
        (0..self.size() / size)
            .map(|i| Self { first: self.first + i * size, bits, ..self })
            .find(|part| !used.contains(part) && !foreign.iter().any(|other| other.overlaps(*part)))
    }
}

fn networks_of(node: &Node) -> Vec<Network> {
    let spec = node.spec.as_ref();
    let many = spec.and_then(|s| s.pod_cidrs.clone()).unwrap_or_default();
    let one = spec.and_then(|s| s.pod_cidr.clone());
    many.iter().chain(&one).filter_map(|text| Network::parse(text)).collect()
}

#[derive(Clone)]
struct Allocator {
    env: Env,
    client: Client,
    recorder: Recorder,
    /// What was given out and may not be in the cache yet, by node.
    given: Arc<Mutex<std::collections::HashMap<Key, Vec<Network>>>>,
}

pub(crate) fn start(env: &Env) {
    let queue = env.queue("cidrallocator");
    let client = env.client("node-controller");
    let allocator =
        Allocator { recorder: env.recorder(&client, "cidrAllocator"), client, env: env.clone(), given: Arc::default() };
    let (put, given) = (queue.clone(), allocator.given.clone());
    env.informers.nodes.on_event(move |event| {
        let key = Key::of(&**event.object());
        match event {
            Event::Deleted(_) => _ = given.lock().remove(&key),
            Event::Added(node) | Event::Updated { new: node, .. } => {
                if networks_of(node).is_empty() {
                    put.add(key);
                }
            }
        }
    });
    // One worker: whoever looks for a free network must be alone.
    queue.spawn_workers(&env.ctx, 1, move |key| {
        let allocator = allocator.clone();
        async move { allocator.sync(&key).await }
    });
}

impl Allocator {
    async fn sync(&self, key: &Key) -> Result<Next> {
        let Some(node) = self.env.informers.nodes.get(key).filter(|node| networks_of(node).is_empty()) else {
            return Ok(Next::Done);
        };
        let mut used: HashSet<Network> = self.env.informers.nodes.list().iter().flat_map(|node| networks_of(node)).collect();
        used.extend(self.given.lock().iter().filter(|(other, _)| *other != key).flat_map(|(_, networks)| networks.clone()));
        let mut networks = Vec::new();
        for text in &self.env.config.cluster_cidr {
            let Some(whole) = Network::parse(text) else {
                return Err(Error::refused(
                    "allocate a pod network for node",
                    key,
                    format!("cluster CIDR {text} is not a network"),
                ));
            };
            let bits = if whole.v6 { self.env.config.node_cidr_mask_size_ipv6 } else { self.env.config.node_cidr_mask_size_ipv4 };
            let Some(network) = whole.cut(bits, &used) else {
                self.recorder.normal(
                    &Regarding::of(&*node),
                    "CIDRNotAvailable",
                    format!("Node {} status is now: CIDRNotAvailable", key.name),
                );
                return Err(Error::refused(
                    "allocate a pod network for node",
                    key,
                    "CIDR allocation failed; there are no remaining CIDRs left to allocate in the accepted range",
                ));
            };
            networks.push(network);
        }
        let texts: Vec<String> = networks.iter().map(|n| n.text()).collect();
        self.given.lock().insert(key.clone(), networks);
        let patch = json!({"metadata": {"uid": owners::uid(&*node)}, "spec": {"podCIDR": texts.first(), "podCIDRs": texts}});
        let patched =
            Api::<Node>::all(self.client.clone()).patch(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        if patched.is_err() {
            self.given.lock().remove(key);
        }
        gone_is_fine(patched).during("set the pod network of node", key)?;
        Ok(Next::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_the_first_free_part() {
        let used = |texts: &[&str]| texts.iter().map(|text| Network::parse(text).unwrap()).collect::<HashSet<_>>();
        for (whole, bits, taken, expected) in [
            ("10.42.0.0/16", 24, &[][..], Some("10.42.0.0/24")),
            ("10.42.0.0/16", 24, &["10.42.0.0/24", "10.42.2.0/24"], Some("10.42.1.0/24")),
            ("10.42.0.0/16", 24, &["10.42.0.0/23"], Some("10.42.2.0/24")),
            ("10.42.0.0/16", 24, &["10.42.0.16/28"], Some("10.42.1.0/24")),
            ("10.42.0.0/23", 24, &["10.42.0.0/24", "10.42.1.0/24"], None),
            ("fd00::/56", 64, &["fd00::/64"], Some("fd00:0:0:1::/64")),
            ("10.42.0.0/16", 8, &[], None),
        ] {
            let part = Network::parse(whole).unwrap().cut(bits, &used(taken)).map(Network::text);
            assert_eq!(part.as_deref(), expected, "{whole} {taken:?}");
        }
    }
}
