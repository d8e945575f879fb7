//! Forgets UDP flows that lead where no Service leads any more: a client that keeps sending from one port would otherwise keep
//! its old, dead endpoint.
//!
//! Follows kube-proxy's `pkg/proxy/conntrack/cleanup.go`: flows are compared with what Services are now, not with what changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use rtnetlink::sys::{Socket, SocketAddr};

use super::service::UdpFront;

const NETLINK_NETFILTER: isize = 12;
const NEW: u16 = 1 << 8;
const GET: u16 = NEW | 1;
const DELETE: u16 = NEW | 2;
const FLAG_REQUEST: u16 = 1;
const FLAG_ACK: u16 = 4;
const FLAG_DUMP: u16 = 0x300;
const TYPE_ERROR: u16 = 2;
const TYPE_DONE: u16 = 3;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const UDP: u8 = 17;

/// A flow that conntrack knows.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Flow {
    family: u8,
    protocol: u8,
    /// Where the client sent to.
    to: (IpAddr, u16),
    /// Who answers: another than `to` when the destination was changed.
    from: (IpAddr, u16),
    /// The attributes that name the flow, as the kernel gave them.
    identity: Vec<u8>,
}

/// Removes stale flows and tells how many. Blocks.
pub(super) fn clean(fronts: &BTreeMap<UdpFront, BTreeSet<(IpAddr, u16)>>) -> io::Result<u64> {
    if fronts.is_empty() {
        return Ok(0);
    }
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut stale = Vec::new();
    for family in [2_u8, 10] {
        send(&socket, GET, FLAG_REQUEST | FLAG_DUMP, family, &[])?;
        receive(&socket, |body| stale.extend(flow(body).filter(|f| is_stale(f, fronts))))?;
    }
    let mut removed = 0;
    for flow in stale {
        send(&socket, DELETE, FLAG_REQUEST | FLAG_ACK, flow.family, &flow.identity)?;
        match receive(&socket, |_| {}) {
            Ok(()) => removed += 1,
            // It ended by itself.
            Err(error) if error.raw_os_error() == Some(2) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(removed)
}

/// Whether a flow goes to a Service's address but is not answered by one of its endpoints.
fn is_stale(flow: &Flow, fronts: &BTreeMap<UdpFront, BTreeSet<(IpAddr, u16)>>) -> bool {
    if flow.protocol != UDP {
        return false;
    }
    if let Some(targets) = fronts.get(&UdpFront::Address(flow.to.0, flow.to.1)) {
        // Untouched flows count too: they began before the Service had endpoints.
        return !targets.contains(&flow.from);
    }
    match fronts.get(&UdpFront::NodePort(flow.to.1)) {
        // Another host's port of that number is none of ours; only a changed destination shows that the flow is.
        Some(targets) => flow.to != flow.from && !targets.contains(&flow.from),
        None => false,
    }
}

fn send(socket: &Socket, kind: u16, flags: u16, family: u8, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(20 + body.len()).map_err(io::Error::other)?;
    let mut message = Vec::with_capacity(20 + body.len());
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([family, 0, 0, 0]);
    message.extend(body);
    socket.send(&message, 0).map(drop)
}

/// Hands over the attributes of each flow until the answer ends.
fn receive(socket: &Socket, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while let Some((length, kind)) = header(rest) {
            let Some(message) = rest.get(..length).filter(|_| length >= 16) else { break };
            match kind {
                TYPE_DONE => return Ok(()),
                TYPE_ERROR => {
                    let code = message.get(16..20).and_then(|b| b.try_into().ok()).map_or(-5, i32::from_ne_bytes);
                    return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                }
                NEW => each(message.get(16..).unwrap_or_default()),
                _ => {}
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn header(bytes: &[u8]) -> Option<(usize, u16)> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?);
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    Some((length as usize, kind))
}

/// Reads a flow from what follows a message's header: four bytes that name the family, then attributes.
fn flow(body: &[u8]) -> Option<Flow> {
    let family = *body.first()?;
    let (mut original, mut reply, mut identity) = (None, None, Vec::new());
    for (kind, value, whole) in attributes(body.get(4..)?) {
        match kind {
            TUPLE_ORIGINAL => {
                original = tuple(value);
                identity.extend(whole);
            }
            TUPLE_REPLY => reply = tuple(value),
            ID | ZONE => identity.extend(whole),
            _ => {}
        }
    }
    let (protocol, _, to) = original?;
    let (_, from, _) = reply?;
    Some(Flow { family, protocol, to, from, identity })
}

type Side = (IpAddr, u16);

/// Protocol, source and destination.
fn tuple(bytes: &[u8]) -> Option<(u8, Side, Side)> {
    let (mut source, mut destination) = (None, None);
    let (mut protocol, mut source_port, mut destination_port) = (None, 0, 0);
    for (kind, value, _) in attributes(bytes) {
        for (inner, value, _) in attributes(value) {
            let port = || value.try_into().ok().map(u16::from_be_bytes);
            match (kind, inner) {
                (1, 1 | 3) => source = address(value),
                (1, 2 | 4) => destination = address(value),
                (2, 1) => protocol = value.first().copied(),
                (2, 2) => source_port = port()?,
                (2, 3) => destination_port = port()?,
                _ => {}
            }
        }
    }
    Some((protocol?, (source?, source_port), (destination?, destination_port)))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(octets).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|octets| Ipv6Addr::from(octets).into())
}

/// Each attribute: its kind, its value, and both with the padding.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8], &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = rest.get(4..length)?;
        let padded = length.next_multiple_of(4).min(rest.len());
        let (whole, next) = rest.split_at(padded);
        rest = next;
        Some((kind, value, whole))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(to: &str, from: &str, protocol: u8, stale: bool) {
        let side = |text: &str| {
            let address: std::net::SocketAddr = text.parse().unwrap();
            (address.ip(), address.port())
        };
        let fronts = BTreeMap::from([
            (UdpFront::Address("10.43.0.10".parse().unwrap(), 53), BTreeSet::from([side("10.42.0.2:5353")])),
            (UdpFront::NodePort(30053), BTreeSet::from([side("10.42.0.2:5353")])),
        ]);
        let flow = Flow { family: 2, protocol, to: side(to), from: side(from), identity: Vec::new() };
        assert_eq!(is_stale(&flow, &fronts), stale, "{to} {from}");
    }

    #[test]
    fn flows_to_dead_endpoints_are_stale() {
        check("10.43.0.10:53", "10.42.0.2:5353", UDP, false);
        check("10.43.0.10:53", "10.42.0.3:5353", UDP, true);
        check("10.43.0.10:53", "10.43.0.10:53", UDP, true);
        check("10.43.0.10:53", "10.42.0.3:5353", 6, false);
        check("10.43.0.10:54", "10.42.0.3:5353", UDP, false);
        check("192.168.0.1:30053", "10.42.0.3:5353", UDP, true);
        check("192.168.0.1:30053", "10.42.0.2:5353", UDP, false);
        check("192.168.0.1:30053", "192.168.0.1:30053", UDP, false);
    }

    #[test]
    fn broken_messages_are_no_flows() {
        assert_eq!(flow(&[]), None);
        assert_eq!(flow(&[2, 0, 0, 0, 255, 255, 1, 0]), None);
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
    }
}
