//! Cluster IPs and node ports: which are taken, and by how many commits in flight.
//!
//! One process owns the store's Services, so a set behind a short lock is enough: a number is taken before the commit
//! that names it and given back if that commit fails. The sets are rebuilt from the stored Services at start.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    sync::Arc,
};

use parking_lot::Mutex;
use rand::Rng as _;

/// A Service network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network {
    base: IpAddr,
    prefix: u8,
}

impl Network {
    /// Parses CIDR notation.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (base, prefix) = text.split_once('/')?;
        let (base, prefix): (IpAddr, u8) = (base.parse().ok()?, prefix.parse().ok()?);
        (prefix <= if base.is_ipv4() { 32 } else { 128 }).then(|| Network { base: mask(base, prefix), prefix })
    }

    pub(crate) fn family(self) -> &'static str {
        if self.base.is_ipv4() { "IPv4" } else { "IPv6" }
    }

    pub(crate) fn contains(self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.base.is_ipv4() && mask(ip, self.prefix) == self.base
    }

    /// The number of usable addresses, without the network and (IPv4) broadcast address; at most 2^16 are handed out.
    fn size(self) -> u64 {
        let bits = if self.base.is_ipv4() { 32 } else { 128 } - u32::from(self.prefix);
        let all = 1_u64.checked_shl(bits.min(16)).unwrap_or(1 << 16);
        all.saturating_sub(if self.base.is_ipv4() { 2 } else { 1 })
    }

    /// The `index`th usable address, counting from 1.
    pub(crate) fn nth(self, index: u64) -> IpAddr {
        match self.base {
            IpAddr::V4(base) => Ipv4Addr::from_bits(base.to_bits().wrapping_add(index as u32)).into(),
            IpAddr::V6(base) => Ipv6Addr::from_bits(base.to_bits().wrapping_add(u128::from(index))).into(),
        }
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

fn mask(ip: IpAddr, prefix: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            Ipv4Addr::from_bits(ip.to_bits() & mask).into()
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            Ipv6Addr::from_bits(ip.to_bits() & mask).into()
        }
    }
}

#[derive(Debug, Default)]
struct Taken {
    ips: HashSet<IpAddr>,
    ports: HashSet<u16>,
}

/// The cluster's Service addresses and node ports.
#[derive(Debug, Clone)]
pub(crate) struct Allocator {
    networks: Arc<[Network]>,
    ports: RangeInclusive<u16>,
    taken: Arc<Mutex<Taken>>,
}

/// What one write has taken; given back when dropped, unless [`Reservation::keep`] says the write is committed.
#[derive(Debug)]
pub(crate) struct Reservation {
    taken: Arc<Mutex<Taken>>,
    ips: Vec<IpAddr>,
    ports: Vec<u16>,
    /// Given back when the write is committed: what the old object had and the new one has not.
    released_ips: Vec<IpAddr>,
    released_ports: Vec<u16>,
}

impl Allocator {
    pub(crate) fn new(networks: Vec<Network>, ports: RangeInclusive<u16>) -> Self {
        Allocator { networks: networks.into(), ports, taken: Arc::default() }
    }

    pub(crate) fn networks(&self) -> &[Network] {
        &self.networks
    }

    pub(crate) fn ports(&self) -> &RangeInclusive<u16> {
        &self.ports
    }

    /// Marks what a stored Service has as taken.
    pub(crate) fn adopt(&self, ips: impl IntoIterator<Item = IpAddr>, ports: impl IntoIterator<Item = u16>) {
        let mut taken = self.taken.lock();
        taken.ips.extend(ips);
        taken.ports.extend(ports);
    }

    pub(crate) fn reservation(&self) -> Reservation {
        Reservation {
            taken: self.taken.clone(),
            ips: Vec::new(),
            ports: Vec::new(),
            released_ips: Vec::new(),
            released_ports: Vec::new(),
        }
    }

    /// Takes a free address of a network, or `None` if it is full.
    ///
    /// The low band (upstream: min(max(16, size/16), 256) addresses) is left to clients that ask for an address.
    pub(crate) fn any_ip(&self, network: Network, into: &mut Reservation) -> Option<IpAddr> {
        let size = network.size();
        let low = if size < 16 { 0 } else { (size / 16).clamp(16, 256) };
        let mut taken = self.taken.lock();
        let ip = pick(low + 1, size, |index| !taken.ips.contains(&network.nth(index)))
            .or_else(|| (1..=low).find(|&index| !taken.ips.contains(&network.nth(index))))
            .map(|index| network.nth(index))?;
        taken.ips.insert(ip);
        into.ips.push(ip);
        Some(ip)
    }

    /// Takes one address; false if it is taken.
    pub(crate) fn this_ip(&self, ip: IpAddr, into: &mut Reservation) -> bool {
        let fresh = self.taken.lock().ips.insert(ip);
        if fresh {
            into.ips.push(ip);
        }
        fresh
    }

    /// Takes a free node port, or `None` if all are taken.
    pub(crate) fn any_port(&self, into: &mut Reservation) -> Option<u16> {
        let (first, last) = (u64::from(*self.ports.start()), u64::from(*self.ports.end()));
        let low = ((last - first + 1) / 32).clamp(16.min(last - first), 128);
        let mut taken = self.taken.lock();
        let free = |port: u64| u16::try_from(port).is_ok_and(|port| !taken.ports.contains(&port));
        let port = pick(first + low, last, free).or_else(|| (first..first + low).find(|&port| free(port)))?;
        let port = u16::try_from(port).ok()?;
        taken.ports.insert(port);
        into.ports.push(port);
        Some(port)
    }

    /// Takes one node port; false if it is taken.
    pub(crate) fn this_port(&self, port: u16, into: &mut Reservation) -> bool {
        let fresh = self.taken.lock().ports.insert(port);
        if fresh {
            into.ports.push(port);
        }
        fresh
    }

    /// Gives back what a deleted Service had.
    pub(crate) fn release(&self, ips: &[IpAddr], ports: &[u16]) {
        let mut taken = self.taken.lock();
        ips.iter().for_each(|ip| {
            taken.ips.remove(ip);
        });
        ports.iter().for_each(|port| {
            taken.ports.remove(port);
        });
    }
}

impl Reservation {
    /// Gives these back once the write is committed.
    pub(crate) fn release_on_commit(&mut self, ips: Vec<IpAddr>, ports: Vec<u16>) {
        self.released_ips.extend(ips);
        self.released_ports.extend(ports);
    }

    /// The write is committed.
    pub(crate) fn keep(mut self) {
        self.ips = std::mem::take(&mut self.released_ips);
        self.ports = std::mem::take(&mut self.released_ports);
        // Dropping gives back what is listed now.
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.ips.is_empty() && self.ports.is_empty() {
            return;
        }
        let mut taken = self.taken.lock();
        self.ips.iter().for_each(|ip| {
            taken.ips.remove(ip);
        });
        self.ports.iter().for_each(|port| {
            taken.ports.remove(port);
        });
    }
}

/// The first free number from a random start on, wrapping within `first..=last`.
fn pick(first: u64, last: u64, free: impl Fn(u64) -> bool) -> Option<u64> {
    if first > last {
        return None;
    }
    let start = rand::rng().random_range(first..=last);
    (start..=last).chain(first..start).find(|&number| free(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_each_number_once_and_gives_back() {
        let network = Network::parse("10.0.0.0/29").unwrap();
        let allocator = Allocator::new(vec![network], 30_000..=30_001);
        let mut first = allocator.reservation();
        let ips: HashSet<_> = (0..6).map(|_| allocator.any_ip(network, &mut first).unwrap()).collect();
        assert_eq!(ips.len(), 6);
        assert_eq!(allocator.any_ip(network, &mut first), None);
        assert!(!ips.contains(&"10.0.0.0".parse::<IpAddr>().unwrap()));
        assert!(allocator.any_port(&mut first).is_some() && allocator.any_port(&mut first).is_some());
        assert_eq!(allocator.any_port(&mut first), None);
        drop(first);
        let mut second = allocator.reservation();
        assert!(allocator.this_ip("10.0.0.1".parse().unwrap(), &mut second));
        second.keep();
        assert!(!allocator.this_ip("10.0.0.1".parse().unwrap(), &mut allocator.reservation()));
    }

    #[test]
    fn networks_know_their_addresses() {
        let network = Network::parse("10.43.0.0/16").unwrap();
        assert_eq!(network.nth(1).to_string(), "10.43.0.1");
        assert!(network.contains("10.43.255.1".parse().unwrap()));
        assert!(!network.contains("10.44.0.1".parse().unwrap()));
        assert_eq!(Network::parse("fd00::/108").unwrap().family(), "IPv6");
    }
}
