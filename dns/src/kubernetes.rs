//! Answers names of the cluster: what CoreDNS' plugin `kubernetes` does.
//!
//! Follows the Kubernetes DNS specification 1.1.0 and CoreDNS 1.14 (`plugin/kubernetes`). Differs from CoreDNS where that
//! errs: SOA of a name that does not exist is NXDOMAIN, `dns-version` of another type than TXT is NODATA, a CNAME whose
//! target cannot be resolved is answered alone, and pods are found by all their addresses.

use std::{net::IpAddr, sync::Arc};

use ahash::RandomState;
use rand::Rng as _;
use smallvec::SmallVec;

use crate::{
    config::{Pods, Settings},
    index::{Endpoint, Index, Port, ServiceKind, ServiceRecords},
    name::WireName,
    wire::{Answer, Owner, Query, Rcode, Section, kind, query as wire_query},
};

/// TTL of `dns-version`, from the example of the specification.
const VERSION_TTL: u32 = 28800;
const VERSION: &[u8] = b"\x051.1.0";
const SVC: &[u8] = b"\x03svc";
const IN_ADDR: &[u8] = b"\x07in-addr\x04arpa\x00";
const IP6: &[u8] = b"\x03ip6\x04arpa\x00";
/// CNAMEs followed within the zone, as in CoreDNS.
const MAX_CHAIN: usize = 10;

type Addresses = SmallVec<[IpAddr; 8]>;

/// What became of a query.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The answer is written.
    Answered(Rcode),
    /// The name leads by these CNAMEs, the last of them out of the cluster.
    Elsewhere(Vec<WireName>),
    /// The name is none of the cluster's.
    NotOurs,
}

/// What a name means.
enum Found<'i> {
    NxDomain,
    NoData,
    Apex,
    /// The name that a name server has if no Service is one.
    NameServer,
    Version,
    Pod(IpAddr),
    External(&'i WireName),
    /// Something of a service: all of it, one of its endpoints, or one of its ports.
    Service {
        key: SmallVec<[u8; 64]>,
        records: &'i ServiceRecords,
        rows: Rows,
    },
    Pointers(SmallVec<[Box<[u8]>; 2]>),
}

enum Rows {
    All,
    Endpoint(SmallVec<[u8; 32]>),
    Port { name: SmallVec<[u8; 16]>, protocol: SmallVec<[u8; 8]> },
}

/// Answers a query if its name is one of the cluster's.
pub(crate) fn answer(
    settings: &Settings,
    own: &[IpAddr],
    index: &Index,
    query: &Query<'_>,
    limit: usize,
    out: &mut Vec<u8>,
) -> Verdict {
    // The label at which the zone starts in the question.
    let (found, zone_label) = match query.labels_before(settings.zone.as_bytes()) {
        Some(before) => (forward(settings, index, query, before), before),
        None => match reverse(settings, index, query) {
            Some(found) => found,
            None => return Verdict::NotOurs,
        },
    };
    let zone_at = query.label_at(zone_label);
    if let Found::External(target) = found {
        return external(settings, own, index, query, target, limit, out);
    }
    let mut answer = Answer::to(out, query.packet, query.question_end, query.edns, limit);
    answer.authoritative();
    let writer = Writer { settings, own, index, query, zone_at };
    let rcode = writer.write(&mut answer, &found);
    answer.finish(rcode);
    Verdict::Answered(rcode)
}

/// Looks up a name of the cluster zone, `before` labels longer than the zone's.
fn forward<'i>(settings: &Settings, index: &'i Index, query: &Query<'_>, before: usize) -> Found<'i> {
    let Some(last) = before.checked_sub(1) else { return Found::Apex };
    let namespace = |label: &[u8]| if index.has_namespace(label) { Found::NoData } else { Found::NxDomain };
    match (query.label(last), before) {
        (b"svc" | b"pod" | b"dns", 1) => Found::NoData,
        (b"svc", 2) => namespace(query.label(0)),
        (b"pod", 2) => namespace(query.label(0)),
        (b"svc", 3..=5) => service(index, query, last),
        (b"pod", 3) => pod(settings, index, query.label(0), query.label(1)),
        (b"dns", 2) if query.label(0) == b"ns" => Found::NameServer,
        (b"dns-version", 1) => Found::Version,
        _ => Found::NxDomain,
    }
}

fn service<'i>(index: &'i Index, query: &Query<'_>, svc: usize) -> Found<'i> {
    let key = query.labels(svc - 2, svc);
    let Some(records) = index.service(key) else { return Found::NxDomain };
    let key = SmallVec::from_slice(key);
    if let ServiceKind::External(target) = &records.kind {
        return if svc == 2 { Found::External(target) } else { Found::NxDomain };
    }
    let (exists, rows) = match svc {
        2 => (!records.endpoints.is_empty() || !matches!(records.kind, ServiceKind::Headless), Rows::All),
        3 => {
            let label = query.label(0);
            (records.endpoints.iter().any(|e| *e.label == *label), Rows::Endpoint(SmallVec::from_slice(label)))
        }
        _ => {
            let bare = |label: &[u8]| SmallVec::from_slice(label.strip_prefix(b"_").unwrap_or(label));
            let (name, protocol): (SmallVec<[u8; 16]>, _) = (bare(query.label(0)), bare(query.label(1)));
            let protocol: SmallVec<[u8; 8]> = SmallVec::from_slice(&protocol);
            let matches = |port: &Port| *port.name == name[..] && *port.protocol == protocol[..];
            let exists = match &records.kind {
                ServiceKind::Cluster { ports, .. } => ports.iter().any(matches),
                _ => records.endpoints.iter().any(|e| e.ports.iter().any(matches)),
            };
            (exists, Rows::Port { name, protocol })
        }
    };
    if exists { Found::Service { key, records, rows } } else { Found::NxDomain }
}

fn pod<'i>(settings: &Settings, index: &Index, label: &[u8], namespace: &[u8]) -> Found<'i> {
    let ip = match settings.pods {
        Pods::Disabled => None,
        Pods::Insecure if !index.has_namespace(namespace) => None,
        Pods::Insecure => undashed(label),
        Pods::Verified => undashed(label).filter(|ip| index.has_pod(namespace, *ip)),
    };
    ip.map_or(Found::NxDomain, Found::Pod)
}

/// The address of a pod's label.
fn undashed(label: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(label).ok()?;
    let v4 = text.bytes().filter(|b| *b == b'-').count() == 3 && !text.contains("--");
    let ip: IpAddr = text.replace('-', if v4 { "." } else { ":" }).parse().ok()?;
    (ip.is_ipv4() == v4).then_some(ip)
}

/// Looks up a name of a reverse zone: what it means, and the label at which the zone starts. `None`: not ours.
fn reverse<'i>(settings: &Settings, index: &'i Index, query: &Query<'_>) -> Option<(Found<'i>, usize)> {
    let (before, v4) = match query.labels_before(IN_ADDR) {
        Some(before) => (before, true),
        None => (query.labels_before(IP6)?, false),
    };
    let (mut octets, mut units) = ([0_u8; 16], 0);
    let most = if v4 { 4 } else { 32 };
    while units < before.min(most) {
        let label = query.label(before - 1 - units);
        let Some(value) = unit(label, v4) else { break };
        if v4 {
            octets[units] = value;
        } else {
            octets[units / 2] |= value << if units % 2 == 0 { 4 } else { 0 };
        }
        units += 1;
    }
    let whole = units == most && before == most;
    let (octets_of, unit_bits) = if v4 { (&octets[..4], 8) } else { (&octets[..], 4) };
    let zone_units = settings
        .cidrs
        .iter()
        .filter(|cidr| {
            cidr.address.is_ipv4() == v4 && cidr.reverse_labels() <= units && cidr.covers(octets_of, units * unit_bits)
        })
        .map(super::cidr::Cidr::reverse_labels)
        .max();
    let hit = whole.then(|| {
        let ip = if v4 { IpAddr::from(<[u8; 4]>::try_from(octets_of).unwrap_or_default()) } else { IpAddr::from(octets) };
        index.reverse(&ip)
    });
    let pointers = |reverse: &Arc<crate::index::Reverse>| {
        let names = if reverse.services.is_empty() { &reverse.endpoints } else { &reverse.services };
        Found::Pointers(names.iter().cloned().collect())
    };
    let hit = hit.flatten().map(pointers);
    match (zone_units, hit) {
        (Some(units), hit) if before == units => Some((hit.unwrap_or(Found::Apex), 0)),
        (Some(zone), Some(hit)) => Some((hit, before - zone)),
        // Between the zone and addresses there are names that have nothing but names below.
        (Some(zone), None) if units == before && !whole => Some((Found::NoData, before - zone)),
        (Some(zone), None) => Some((Found::NxDomain, before - zone)),
        // Addresses of nodes lie outside the cluster's networks, but endpoints may have them.
        (None, Some(hit)) if query.kind == kind::PTR => Some((hit, before)),
        (None, _) => None,
    }
}

/// One octet or nibble of a reverse name.
fn unit(label: &[u8], v4: bool) -> Option<u8> {
    let text = std::str::from_utf8(label).ok()?;
    if v4 {
        (text == "0" || !text.starts_with('0')).then(|| text.parse().ok())?
    } else {
        (text.len() == 1).then(|| u8::from_str_radix(text, 16).ok())?
    }
}

/// Follows an ExternalName, within the zone here, beyond it elsewhere.
fn external(
    settings: &Settings,
    own: &[IpAddr],
    index: &Index,
    query: &Query<'_>,
    first: &WireName,
    limit: usize,
    out: &mut Vec<u8>,
) -> Verdict {
    let mut chain = vec![first.clone()];
    let mut addresses = Addresses::new();
    let mut none_for_type = false;
    if query.kind == kind::SRV {
        (chain, none_for_type) = (Vec::new(), true);
    } else if query.kind != kind::CNAME {
        let mut packet = Vec::new();
        while let Some(target) = chain.last() {
            wire_query(&mut packet, 0, [0, 0], target.as_bytes(), query.kind, false);
            let Ok(step) = Query::read(&packet) else { break };
            let Some(before) = step.labels_before(settings.zone.as_bytes()) else { return Verdict::Elsewhere(chain) };
            match forward(settings, index, &step, before) {
                Found::External(next) if chain.len() < MAX_CHAIN && !chain.contains(next) => chain.push(next.clone()),
                found => {
                    addresses = found.addresses(query.kind, own);
                    break;
                }
            }
        }
    }
    let before = query.labels_before(settings.zone.as_bytes()).unwrap_or_default();
    let writer = Writer { settings, own, index, query, zone_at: query.label_at(before) };
    let mut answer = Answer::to(out, query.packet, query.question_end, query.edns, limit);
    answer.authoritative();
    cnames(&mut answer, &chain, settings.ttl);
    if let Some(target) = chain.last() {
        for ip in &addresses {
            answer.address(Section::Answer, Owner::Whole(target.as_bytes()), settings.ttl, ip);
        }
    }
    if none_for_type {
        writer.soa(&mut answer, Section::Authority);
    }
    answer.finish(Rcode::NOERROR);
    Verdict::Answered(Rcode::NOERROR)
}

/// Writes a chain of CNAMEs that starts at the question.
pub(crate) fn cnames(answer: &mut Answer<'_>, chain: &[WireName], ttl: u32) {
    let mut owner = Owner::QUESTION;
    for target in chain {
        answer.record(Section::Answer, owner, kind::CNAME, ttl, |out| out.extend_from_slice(target.as_bytes()));
        owner = Owner::Whole(target.as_bytes());
    }
}

// === impl Found ===

impl Found<'_> {
    /// The addresses of one family, each once, in an order that chance makes.
    fn addresses(&self, kind: u16, own: &[IpAddr]) -> Addresses {
        let wanted = |ip: &IpAddr| if ip.is_ipv4() { kind == kind::A } else { kind == kind::AAAA };
        let mut ips: Addresses = match self {
            Self::Pod(ip) => std::iter::once(*ip).filter(wanted).collect(),
            Self::NameServer => own.iter().copied().filter(wanted).collect(),
            Self::Service { records, rows, .. } => match (&records.kind, rows) {
                (ServiceKind::Cluster { ips, .. }, Rows::All | Rows::Port { .. }) => ips.iter().copied().filter(wanted).collect(),
                _ => records.endpoints.iter().filter(|e| rows.has(e)).map(|e| e.ip).filter(wanted).collect(),
            },
            _ => Addresses::new(),
        };
        if ips.len() > 1 {
            // Endpoints are in order of label, so the same address may come twice.
            ips.sort_unstable();
            ips.dedup();
            shuffle(&mut ips);
        }
        ips
    }
}

fn shuffle(ips: &mut [IpAddr]) {
    let mut rng = rand::rng();
    for last in (1..ips.len()).rev() {
        ips.swap(last, rng.random_range(0..=last));
    }
}

impl Rows {
    fn has(&self, endpoint: &Endpoint) -> bool {
        match self {
            Self::All => true,
            Self::Endpoint(label) => *endpoint.label == label[..],
            Self::Port { .. } => endpoint.ports.iter().any(|port| self.has_port(port)),
        }
    }

    fn has_port(&self, port: &Port) -> bool {
        match self {
            Self::All | Self::Endpoint(_) => true,
            Self::Port { name, protocol } => *port.name == name[..] && *port.protocol == protocol[..],
        }
    }
}

/// Writes records of one zone.
struct Writer<'w> {
    settings: &'w Settings,
    own: &'w [IpAddr],
    index: &'w Index,
    query: &'w Query<'w>,
    /// Where the zone's name stands in the question.
    zone_at: usize,
}

impl Writer<'_> {
    fn write(&self, answer: &mut Answer<'_>, found: &Found<'_>) -> Rcode {
        if matches!(found, Found::NxDomain) {
            self.soa(answer, Section::Authority);
            // What has not been listed yet may exist.
            return if self.index.synced { Rcode::NXDOMAIN } else { Rcode::SERVFAIL };
        }
        let ttl = self.settings.ttl;
        let mut written = true;
        match (self.query.kind, found) {
            (kind::SOA, Found::Apex) => self.soa(answer, Section::Answer),
            (kind::NS, Found::Apex) => self.name_servers(answer),
            (kind::TXT, Found::Version) => {
                answer.record(Section::Answer, Owner::QUESTION, kind::TXT, VERSION_TTL, |out| out.extend_from_slice(VERSION));
            }
            (kind::PTR, Found::Pointers(names)) => {
                for name in names {
                    answer.record(Section::Answer, Owner::QUESTION, kind::PTR, ttl, |out| {
                        out.extend_from_slice(name);
                        out.extend_from_slice(SVC);
                        out.extend_from_slice(self.settings.zone.as_bytes());
                    });
                }
            }
            (kind::SRV, Found::Service { key, records, rows }) => written = self.srv(answer, key, records, rows),
            (kind::A | kind::AAAA, found) => {
                let ips = found.addresses(self.query.kind, self.own);
                for ip in &ips {
                    answer.address(Section::Answer, Owner::QUESTION, ttl, ip);
                }
                written = !ips.is_empty();
            }
            _ => written = false,
        }
        if !written {
            self.soa(answer, Section::Authority);
        }
        Rcode::NOERROR
    }

    fn soa(&self, answer: &mut Answer<'_>, section: Section) {
        let ttl = self.settings.ttl;
        answer.record(section, Owner::Under(&[], self.zone_at), kind::SOA, ttl.min(300), |out| {
            Answer::pointing_name(out, b"\x02ns\x03dns", self.zone_at);
            Answer::pointing_name(out, b"\x0ahostmaster", self.zone_at);
            for number in [self.index.serial, 7200, 1800, 86400, ttl] {
                out.extend_from_slice(&number.to_be_bytes());
            }
        });
    }

    /// The zone's name server is the Service of our address, if there is one.
    fn name_servers(&self, answer: &mut Answer<'_>) {
        let ttl = self.settings.ttl;
        let service = self.own.iter().find_map(|ip| self.index.reverse(ip)?.services.first());
        let mut labels: SmallVec<[u8; 64]> = SmallVec::new();
        match service {
            Some(name) => {
                labels.extend_from_slice(name);
                labels.extend_from_slice(SVC);
            }
            None => labels.extend_from_slice(b"\x02ns\x03dns"),
        }
        answer.record(Section::Answer, Owner::QUESTION, kind::NS, ttl, |out| {
            Answer::pointing_name(out, &labels, self.zone_at);
        });
        for ip in self.own {
            answer.address(Section::Additional, Owner::Under(&labels, self.zone_at), ttl, ip);
        }
    }

    /// Writes SRV records and the addresses of their targets; says whether there are any.
    fn srv(&self, answer: &mut Answer<'_>, key: &[u8], records: &ServiceRecords, rows: &Rows) -> bool {
        // Rows of target (an endpoint, or the service itself), port and address; CoreDNS shares out the weight before it
        // drops rows that repeat a target.
        let mut all: Vec<(&[u8], u16, IpAddr)> = Vec::new();
        match (&records.kind, rows) {
            (ServiceKind::Cluster { ips, ports }, Rows::All | Rows::Port { .. }) => {
                for ip in ips {
                    all.extend(ports.iter().filter(|p| rows.has_port(p)).map(|port| (&[][..], port.number, *ip)));
                }
            }
            _ => {
                for endpoint in records.endpoints.iter().filter(|e| rows.has(e)) {
                    let ports = endpoint.ports.iter().filter(|p| rows.has_port(p));
                    all.extend(ports.map(|port| (&*endpoint.label, port.number, endpoint.ip)));
                }
            }
        }
        if all.is_empty() {
            return false;
        }
        let ttl = self.settings.ttl;
        let weight = u16::try_from(100 / all.len()).unwrap_or(1).max(1);
        let mut name: SmallVec<[u8; 128]> = SmallVec::new();
        let mut target = |label: &[u8]| {
            name.clear();
            if !label.is_empty() {
                name.push(label.len() as u8);
                name.extend_from_slice(label);
            }
            name.extend_from_slice(key);
            name.extend_from_slice(SVC);
            name.clone()
        };
        let mut seen = std::collections::HashSet::with_capacity_and_hasher(all.len(), RandomState::new());
        for (label, port, _) in &all {
            if seen.insert((*label, *port)) {
                let labels = target(label);
                // RFC 2782 forbids to compress a target.
                answer.record(Section::Answer, Owner::QUESTION, kind::SRV, ttl, |out| {
                    for number in [0, weight, *port] {
                        out.extend_from_slice(&number.to_be_bytes());
                    }
                    Answer::copied_name(out, &labels, self.zone_at);
                });
            }
        }
        let mut seen = std::collections::HashSet::with_capacity_and_hasher(all.len(), RandomState::new());
        for (label, _, ip) in &all {
            if seen.insert((*label, *ip)) {
                answer.address(Section::Additional, Owner::Under(&target(label), self.zone_at), ttl, ip);
            }
        }
        true
    }
}

#[cfg(test)]
pub(crate) mod tests;
