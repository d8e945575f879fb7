//! An answer from upstream: checked, stripped of what is between it and us, and ready to be told to many clients.

use hickory_proto::{
    op::Message,
    serialize::binary::{BinEncodable as _, BinEncoder, NameEncoding},
};

use crate::{
    kubernetes,
    name::WireName,
    wire::{Answer, HEADER, Owner, Query, Rcode, Record, Section, UDP_PAYLOAD, kind, push_opt},
};

/// SERVFAIL is kept this long (RFC 2308 allows 300 seconds).
const SERVFAIL_SECONDS: u32 = 5;
/// Nothing is kept shorter than this, as in CoreDNS.
const MIN_SECONDS: u32 = 5;

/// A response with one question, without its OPT record.
pub(crate) struct Reply {
    bytes: Vec<u8>,
    question_end: usize,
    /// Of each record: its section, where its TTL stands, and where it ends.
    records: Vec<(Section, usize, usize)>,
    /// How it may be kept; `None` if not at all.
    pub keep: Option<Keep>,
}

/// Which of the two caches a reply belongs to, and for how many seconds before limits are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keep {
    /// 0 for answers, 1 for denials.
    pub sort: usize,
    pub seconds: u32,
}

impl Reply {
    /// Reads a response to a question of type `asked` that ends at `question_end`; `None` if it is malformed.
    pub(crate) fn read(mut bytes: Vec<u8>, question_end: usize, asked: u16) -> Option<Self> {
        let count = |at: usize| usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
        let (mut at, mut records) = (question_end, Vec::new());
        let (mut least, mut soa, mut answered, mut additional, mut opt) = (u32::MAX, None, false, 0_u16, false);
        for section in [Section::Answer, Section::Authority, Section::Additional] {
            for _ in 0..count(section as usize) {
                let record = Record::read(&bytes, at)?;
                if record.kind == kind::OPT {
                    // It is about this hop alone. What follows it may point behind it, and is left out with it.
                    opt = true;
                    break;
                }
                additional += u16::from(section == Section::Additional);
                answered |= section == Section::Answer && (record.kind == asked || asked == 255);
                if section == Section::Authority && record.kind == kind::SOA {
                    let minimum = bytes.get(record.end.checked_sub(4)?..record.end)?;
                    let minimum = u32::from_be_bytes(minimum.try_into().ok()?);
                    soa = Some(record.ttl.min(minimum));
                }
                least = least.min(record.ttl);
                records.push((section, record.ttl_at, record.end));
                at = record.end;
            }
            if opt {
                break;
            }
        }
        let (rcode, truncated) = (u16::from(bytes[3] & 15), bytes[2] & 2 != 0);
        let keep = match (Rcode(rcode), soa) {
            _ if truncated => None,
            (Rcode::NOERROR, _) if answered => Some(Keep { sort: 0, seconds: least }),
            (Rcode::NOERROR | Rcode::NXDOMAIN, Some(seconds)) => Some(Keep { sort: 1, seconds: seconds.min(least) }),
            (Rcode::SERVFAIL, _) => Some(Keep { sort: 1, seconds: SERVFAIL_SECONDS }),
            _ => None,
        };
        let keep = keep.map(|keep| Keep { seconds: keep.seconds.max(MIN_SECONDS), ..keep });
        bytes.truncate(at);
        bytes[10..12].copy_from_slice(&additional.to_be_bytes());
        bytes.shrink_to_fit();
        Some(Self { bytes, question_end, records, keep })
    }

    pub(crate) fn rcode(&self) -> Rcode {
        Rcode(u16::from(self.bytes[3] & 15))
    }

    pub(crate) fn truncated(&self) -> bool {
        self.bytes[2] & 2 != 0
    }

    /// Writes it as the answer to `query`, whose question it answers: in the query's case, with its flags, without records
    /// that do not fit. `limit_ttl` bounds each TTL before `age` is taken off; `cached` answers have no authority.
    pub(crate) fn write(&self, query: &Query<'_>, out: &mut Vec<u8>, limit: usize, limit_ttl: u32, age: u32, cached: bool) {
        out.clear();
        out.extend_from_slice(&self.bytes);
        out[..2].copy_from_slice(&query.packet[..2]);
        // AA and TC are the upstream's, RD is the query's; RA, AD and the code are the upstream's, CD is the query's.
        let authority = if cached { 2 } else { 6 };
        out[2] = 0x80 | out[2] & authority | query.packet[2] & 1;
        out[3] = out[3] & 0xaf | query.packet[3] & 0x10;
        if !query.dnssec() && query.packet[3] & 0x20 == 0 {
            out[3] &= !0x20;
        }
        out[HEADER..self.question_end].copy_from_slice(&query.packet[HEADER..query.question_end]);
        for (_, at, _) in &self.records {
            let ttl = u32::from_be_bytes([out[*at], out[at + 1], out[at + 2], out[at + 3]]);
            let ttl = ttl.min(limit_ttl).saturating_sub(age);
            out[*at..at + 4].copy_from_slice(&ttl.to_be_bytes());
        }
        let limit = limit - if query.edns.is_some() { 11 } else { 0 };
        if out.len() > limit {
            self.shorten(out, limit);
        }
        if let Some(edns) = query.edns {
            push_opt(out, UDP_PAYLOAD, 0, edns.dnssec);
        }
    }

    fn shorten(&self, out: &mut Vec<u8>, limit: usize) {
        let fit = self.records.iter().take_while(|(_, _, end)| *end <= limit).count();
        out.truncate(fit.checked_sub(1).map_or(self.question_end, |last| self.records[last].2));
        for section in [Section::Answer, Section::Authority, Section::Additional] {
            let count = self.records[..fit].iter().filter(|(s, _, _)| *s == section).count() as u16;
            out[section as usize..section as usize + 2].copy_from_slice(&count.to_be_bytes());
        }
        // Additional records are a courtesy: their lack is no truncation.
        if self.records[fit..].iter().any(|(section, _, _)| *section != Section::Additional) {
            out[2] |= 2;
        }
    }

    /// Writes the answer to a query that leads by CNAMEs to the question of this reply. Gives the code.
    pub(crate) fn write_behind(
        &self,
        query: &Query<'_>,
        chain: &[WireName],
        ttl: u32,
        age: u32,
        out: &mut Vec<u8>,
        limit: usize,
    ) -> Rcode {
        // Names are compressed against this reply's own packet: decoded here, written whole there.
        let records = Message::from_vec(&self.bytes).map(|message| message.answers).unwrap_or_default();
        let mut answer = Answer::to(out, query.packet, query.question_end, query.edns, limit);
        answer.authoritative();
        kubernetes::cnames(&mut answer, chain, ttl);
        let mut bytes = Vec::new();
        for record in records {
            bytes.clear();
            let mut encoder = BinEncoder::new(&mut bytes);
            encoder.set_name_encoding(NameEncoding::Uncompressed);
            if record.emit(&mut encoder).is_err() {
                continue;
            }
            let Some(read) = Record::read(&bytes, 0) else { continue };
            let (owner, data) = (&bytes[..read.ttl_at - 4], &bytes[read.data..read.end]);
            answer.record(Section::Answer, Owner::Whole(owner), read.kind, read.ttl.saturating_sub(age), |out| {
                out.extend_from_slice(data);
            });
        }
        if self.truncated() {
            answer.truncated();
        }
        answer.finish(Rcode::NOERROR);
        Rcode::NOERROR
    }
}
