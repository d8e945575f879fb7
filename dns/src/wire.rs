//! The wire format of RFC 1035 and RFC 6891, as far as a server needs it: a query read in place, an answer written in place.
//!
//! By hand, because it runs for each query: a general decoder spends more on one message than everything else together.

use std::net::IpAddr;

use crate::name::MAX_NAME;

pub(crate) const HEADER: usize = 12;

/// Types of records and queries (IANA DNS parameters).
pub(crate) mod kind {
    pub(crate) const A: u16 = 1;
    pub(crate) const NS: u16 = 2;
    pub(crate) const CNAME: u16 = 5;
    pub(crate) const SOA: u16 = 6;
    pub(crate) const PTR: u16 = 12;
    pub(crate) const HINFO: u16 = 13;
    pub(crate) const TXT: u16 = 16;
    pub(crate) const AAAA: u16 = 28;
    pub(crate) const SRV: u16 = 33;
    pub(crate) const OPT: u16 = 41;
    pub(crate) const IXFR: u16 = 251;
    pub(crate) const AXFR: u16 = 252;
}

const CLASS_IN: u16 = 1;

/// A response code; those above 15 need EDNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rcode(pub u16);

impl Rcode {
    pub(crate) const NOERROR: Self = Self(0);
    pub(crate) const FORMERR: Self = Self(1);
    pub(crate) const SERVFAIL: Self = Self(2);
    pub(crate) const NXDOMAIN: Self = Self(3);
    pub(crate) const NOTIMP: Self = Self(4);
    pub(crate) const REFUSED: Self = Self(5);
    pub(crate) const BADVERS: Self = Self(16);
}

/// EDNS of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edns {
    /// The largest UDP payload that the client takes.
    pub size: u16,
    pub version: u8,
    /// The client wants DNSSEC records.
    pub dnssec: bool,
}

/// A query, read in place.
pub(crate) struct Query<'a> {
    /// The whole packet.
    pub packet: &'a [u8],
    /// Where the question ends.
    pub question_end: usize,
    /// The name in lower case, in wire form with its final zero.
    name: [u8; MAX_NAME],
    name_length: usize,
    /// Where each label starts in `name`.
    starts: [u8; MAX_NAME / 2 + 1],
    label_count: usize,
    pub kind: u16,
    pub edns: Option<Edns>,
}

/// What a packet that is no query deserves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reject {
    /// Nothing: it is too short, or a response.
    Ignore,
    /// A header alone, as the packet cannot be read: it is malformed.
    Header(Rcode),
    /// The question and a code.
    Question(Rcode, usize, Option<Edns>),
}

impl<'a> Query<'a> {
    /// Reads a packet. Accepts what miekg/dns' `DefaultMsgAcceptFunc` accepts.
    pub(crate) fn read(packet: &'a [u8]) -> Result<Self, Reject> {
        if packet.len() < HEADER || packet[2] & 0x80 != 0 {
            return Err(Reject::Ignore);
        }
        let count = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
        if packet[2] >> 3 & 15 != 0 {
            return Err(Reject::Header(Rcode::NOTIMP));
        }
        let malformed = Reject::Header(Rcode::FORMERR);
        if count(4) != 1 || count(6) > 1 || count(8) > 1 || count(10) > 2 {
            return Err(malformed);
        }
        let mut query = Self {
            packet,
            question_end: 0,
            name: [0; MAX_NAME],
            name_length: 0,
            starts: [0; MAX_NAME / 2 + 1],
            label_count: 0,
            kind: 0,
            edns: None,
        };
        let end = query.read_name().ok_or(malformed)?;
        let [kind_high, kind_low, class_high, class_low] =
            *packet.get(end..end + 4).and_then(|b| b.first_chunk()).ok_or(malformed)?;
        query.kind = u16::from_be_bytes([kind_high, kind_low]);
        query.question_end = end + 4;
        let mut at = query.question_end;
        for section in [6, 8, 10] {
            for _ in 0..count(section) {
                let record = Record::read(packet, at).ok_or(malformed)?;
                if record.kind == kind::OPT {
                    if section != 10 || query.edns.is_some() || packet[at] != 0 {
                        return Err(malformed);
                    }
                    query.edns =
                        Some(Edns { size: record.class, version: (record.ttl >> 16) as u8, dnssec: record.ttl & 0x8000 != 0 });
                }
                at = record.end;
            }
        }
        if query.edns.is_some_and(|edns| edns.version != 0) {
            return Err(Reject::Question(Rcode::BADVERS, query.question_end, query.edns));
        }
        if u16::from_be_bytes([class_high, class_low]) != CLASS_IN || matches!(query.kind, kind::AXFR | kind::IXFR) {
            return Err(Reject::Question(Rcode::REFUSED, query.question_end, query.edns));
        }
        Ok(query)
    }

    /// Reads the name of the question, which nothing may compress; gives where it ends.
    fn read_name(&mut self) -> Option<usize> {
        let wire = &self.packet[HEADER..];
        let mut at = 0;
        loop {
            let length = usize::from(*wire.get(at)?);
            if length == 0 {
                self.name_length = at + 1;
                return Some(HEADER + at + 1);
            }
            // The final zero must fit, too.
            if length > 63 || at + length + 2 > MAX_NAME {
                return None;
            }
            let label = wire.get(at + 1..at + 1 + length)?;
            self.starts[self.label_count] = at as u8;
            self.label_count += 1;
            self.name[at] = length as u8;
            for (to, from) in self.name[at + 1..].iter_mut().zip(label) {
                *to = from.to_ascii_lowercase();
            }
            at += 1 + length;
        }
    }

    pub(crate) fn name(&self) -> &[u8] {
        &self.name[..self.name_length]
    }

    /// A label in lower case, counted from the left.
    pub(crate) fn label(&self, index: usize) -> &[u8] {
        let at = usize::from(self.starts[index]);
        &self.name[at + 1..at + 1 + usize::from(self.name[at])]
    }

    /// The labels `from..to` in lower case and wire form, without an end.
    pub(crate) fn labels(&self, from: usize, to: usize) -> &[u8] {
        &self.name[self.start(from)..self.start(to)]
    }

    /// Where in the packet the label starts.
    pub(crate) fn label_at(&self, index: usize) -> usize {
        HEADER + self.start(index)
    }

    fn start(&self, index: usize) -> usize {
        if index == self.label_count { self.name_length - 1 } else { usize::from(self.starts[index]) }
    }

    /// How many labels stand before `zone`; `None` if the name is not in the zone.
    pub(crate) fn labels_before(&self, zone: &[u8]) -> Option<usize> {
        let at = self.name_length.checked_sub(zone.len())?;
        if &self.name[at..self.name_length] != zone {
            return None;
        }
        if at + 1 == self.name_length {
            return Some(self.label_count);
        }
        self.starts[..self.label_count].iter().position(|start| usize::from(*start) == at)
    }

    pub(crate) fn checking_disabled(&self) -> bool {
        self.packet[3] & 0x10 != 0
    }

    pub(crate) fn dnssec(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec)
    }
}

/// The fixed part of a record, and where its parts are.
pub(crate) struct Record {
    pub kind: u16,
    pub class: u16,
    pub ttl: u32,
    pub ttl_at: usize,
    pub data: usize,
    pub end: usize,
}

impl Record {
    /// Reads the record at an offset; `None` if it does not lie in the packet.
    pub(crate) fn read(packet: &[u8], at: usize) -> Option<Self> {
        let fixed = skip_name(packet, at)?;
        let bytes: &[u8; 10] = packet.get(fixed..)?.first_chunk()?;
        let (data, length) = (fixed + 10, usize::from(u16::from_be_bytes([bytes[8], bytes[9]])));
        let end = data + length;
        (end <= packet.len()).then(|| Self {
            kind: u16::from_be_bytes([bytes[0], bytes[1]]),
            class: u16::from_be_bytes([bytes[2], bytes[3]]),
            ttl: u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
            ttl_at: fixed + 4,
            data,
            end,
        })
    }
}

/// Where the name at an offset ends. Follows no pointer, so it cannot loop.
pub(crate) fn skip_name(packet: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match usize::from(*packet.get(at)?) {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + length,
            // A pointer must lead back.
            high @ 192.. => {
                let low = usize::from(*packet.get(at + 1)?);
                return ((((high & 63) << 8) | low) < at).then_some(at + 2);
            }
            _ => return None,
        }
    }
}

/// The name of a new record.
#[derive(Clone, Copy)]
pub(crate) enum Owner<'a> {
    /// Labels in wire form without an end, then what stands in the packet at an offset of at most 0x3fff.
    Under(&'a [u8], usize),
    /// A whole name in wire form.
    Whole(&'a [u8]),
}

impl Owner<'_> {
    /// The name of the question, as it was typed.
    pub(crate) const QUESTION: Owner<'static> = Owner::Under(&[], HEADER);
}

/// An answer in the making.
pub(crate) struct Answer<'b> {
    out: &'b mut Vec<u8>,
    limit: usize,
    edns: Option<Edns>,
    full: bool,
}

/// Sections of a message, by the offset of their count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    Answer = 6,
    Authority = 8,
    Additional = 10,
}

const OPT_LENGTH: usize = 11;
/// The payload that we take over UDP (DNS flag day 2020).
pub(crate) const UDP_PAYLOAD: u16 = 1232;

impl<'b> Answer<'b> {
    /// Starts an answer to `packet`: header and question are copied, so names keep the case in which they were typed.
    pub(crate) fn to(out: &'b mut Vec<u8>, packet: &[u8], question_end: usize, edns: Option<Edns>, limit: usize) -> Self {
        out.clear();
        out.extend_from_slice(&packet[..question_end.max(HEADER)]);
        // Response; opcode and RD are the query's, CD too.
        out[2] = 0x80 | packet[2] & 0x79;
        out[3] = packet[3] & 0x10;
        let questions = u8::from(question_end > HEADER);
        out[4..HEADER].copy_from_slice(&[0, questions, 0, 0, 0, 0, 0, 0]);
        let limit = limit - if edns.is_some() { OPT_LENGTH } else { 0 };
        Self { out, limit, edns, full: false }
    }

    pub(crate) fn authoritative(&mut self) {
        self.out[2] |= 4;
    }

    /// Marks the message as truncated.
    pub(crate) fn truncated(&mut self) {
        self.out[2] |= 2;
    }

    /// Writes a record whose data `data` appends. One that does not fit is left out, and so are all after it; if it
    /// belongs to the answer, the message is marked as truncated.
    pub(crate) fn record(&mut self, section: Section, owner: Owner<'_>, kind: u16, ttl: u32, data: impl FnOnce(&mut Vec<u8>)) {
        if self.full {
            return;
        }
        let start = self.out.len();
        match owner {
            Owner::Under(labels, at) => push_under(self.out, labels, at),
            Owner::Whole(name) => self.out.extend_from_slice(name),
        }
        let mut fixed = [0; 10];
        fixed[..2].copy_from_slice(&kind.to_be_bytes());
        fixed[2..4].copy_from_slice(&CLASS_IN.to_be_bytes());
        fixed[4..8].copy_from_slice(&ttl.to_be_bytes());
        self.out.extend_from_slice(&fixed);
        let from = self.out.len();
        data(self.out);
        if self.out.len() > self.limit {
            self.out.truncate(start);
            self.full = true;
            if section != Section::Additional {
                self.out[2] |= 2;
            }
            return;
        }
        let length = (self.out.len() - from) as u16;
        self.out[from - 2..from].copy_from_slice(&length.to_be_bytes());
        let at = section as usize;
        let count = u16::from_be_bytes([self.out[at], self.out[at + 1]]) + 1;
        self.out[at..at + 2].copy_from_slice(&count.to_be_bytes());
    }

    pub(crate) fn address(&mut self, section: Section, owner: Owner<'_>, ttl: u32, ip: &IpAddr) {
        match ip {
            IpAddr::V4(ip) => self.record(section, owner, kind::A, ttl, |out| out.extend_from_slice(&ip.octets())),
            IpAddr::V6(ip) => self.record(section, owner, kind::AAAA, ttl, |out| out.extend_from_slice(&ip.octets())),
        }
    }

    /// A name whose end is a pointer.
    pub(crate) fn pointing_name(out: &mut Vec<u8>, labels: &[u8], at: usize) {
        push_under(out, labels, at);
    }

    /// A name that has no pointer in it: `labels`, then the end of the question's name from an offset on, copied.
    pub(crate) fn copied_name(out: &mut Vec<u8>, labels: &[u8], at: usize) {
        out.extend_from_slice(labels);
        let end = skip_name(out, at).unwrap_or(at);
        out.extend_from_within(at..end);
    }

    pub(crate) fn finish(self, rcode: Rcode) {
        self.out[3] |= (rcode.0 & 15) as u8;
        if let Some(edns) = self.edns {
            push_opt(self.out, UDP_PAYLOAD, (rcode.0 >> 4) as u8, edns.dnssec);
        }
    }
}

fn push_under(out: &mut Vec<u8>, labels: &[u8], at: usize) {
    out.extend_from_slice(labels);
    out.extend_from_slice(&(0xc000 | at as u16).to_be_bytes());
}

/// Appends an OPT record and counts it.
pub(crate) fn push_opt(out: &mut Vec<u8>, size: u16, rcode_high: u8, dnssec: bool) {
    let [high, low] = size.to_be_bytes();
    out.extend_from_slice(&[0, 0, kind::OPT as u8, high, low, rcode_high, 0, u8::from(dnssec) << 7, 0, 0, 0]);
    let count = u16::from_be_bytes([out[10], out[11]]) + 1;
    out[10..12].copy_from_slice(&count.to_be_bytes());
}

/// A query for upstream: our own header and OPT, nothing of the client's but the question and its flags RD, AD, CD.
pub(crate) fn query(out: &mut Vec<u8>, id: u16, flags: [u8; 2], name: &[u8], kind: u16, dnssec: bool) {
    out.clear();
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(&flags);
    out.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(name);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&CLASS_IN.to_be_bytes());
    push_opt(out, UDP_PAYLOAD, 0, dnssec);
}

/// Whether `reply` is a response to the question of `query`, whatever its case.
pub(crate) fn answers(query: &[u8], question_end: usize, reply: &[u8]) -> bool {
    reply.len() >= question_end
        && reply[..2] == query[..2]
        && reply[2] & 0x80 != 0
        && reply[4..6] == [0, 1]
        && reply[HEADER..question_end].eq_ignore_ascii_case(&query[HEADER..question_end])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::name;

    fn packet(name: &str, kind: u16) -> Vec<u8> {
        let mut out = Vec::new();
        query(&mut out, 7, [1, 0], name::parse(name).unwrap().as_bytes(), kind, true);
        out
    }

    #[test]
    fn a_query_reads_back() {
        let packet = packet("a.bc.cluster.local", kind::SRV);
        let query = Query::read(&packet).ok().unwrap();
        assert_eq!(name::text(query.name()), "a.bc.cluster.local.");
        assert_eq!((query.kind, query.label_count, query.label(1)), (kind::SRV, 4, &b"bc"[..]));
        assert_eq!(query.labels_before(name::parse("cluster.local").unwrap().as_bytes()), Some(2));
        assert_eq!(query.labels_before(name::parse("luster.local").unwrap().as_bytes()), None);
        assert_eq!(query.labels(0, 2), b"\x01a\x02bc");
        assert!(query.dnssec());
    }

    #[test]
    fn what_is_no_query_is_rejected() {
        let good = packet("a.b", kind::A);
        let check = |change: &dyn Fn(&mut Vec<u8>), expect: Reject| {
            let mut bad = good.clone();
            change(&mut bad);
            assert_eq!(Query::read(&bad).err(), Some(expect));
        };
        let formerr = Reject::Header(Rcode::FORMERR);
        check(&|p| p.truncate(11), Reject::Ignore);
        check(&|p| p[2] |= 0x80, Reject::Ignore);
        check(&|p| p[2] |= 5 << 3, Reject::Header(Rcode::NOTIMP));
        check(&|p| p[5] = 0, formerr);
        check(&|p| p[5] = 2, formerr);
        check(&|p| p[11] = 3, formerr);
        check(&|p| p[12] = 0xc0, formerr);
        check(&|p| p.truncate(20), formerr);
        check(&|p| p.truncate(25), formerr);
        let edns = |version| Some(Edns { size: UDP_PAYLOAD, version, dnssec: true });
        check(&|p| p[20] = 3, Reject::Question(Rcode::REFUSED, 21, edns(0)));
        check(&|p| p[27] = 1, Reject::Question(Rcode::BADVERS, 21, edns(1)));
    }

    proptest! {
        #[test]
        fn no_packet_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Query::read(&bytes);
            let mut at = HEADER;
            while let Some(record) = Record::read(&bytes, at) {
                prop_assert!(record.end > at);
                at = record.end;
            }
        }
    }
}
