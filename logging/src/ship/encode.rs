//! Loki's `PushRequest`, as snappy-compressed protobuf: `logproto.proto`, whose fields `handler/push.rs` draws.

use std::{collections::HashMap, sync::Arc};

use crate::entry::{Entry, Stream};

/// The body of a push of these lines, whose order within a stream is kept.
///
/// # Errors
/// When there are more than 4 GiB.
pub(super) fn push_request(entries: &[Arc<Entry>]) -> Result<Vec<u8>, snap::Error> {
    let mut streams: Vec<(&Stream, Vec<u8>)> = Vec::new();
    let mut places: HashMap<u64, usize> = HashMap::new();
    for entry in entries {
        let place = *places.entry(entry.stream.id).or_insert_with(|| {
            streams.push((&entry.stream, Vec::new()));
            streams.len() - 1
        });
        bytes(&mut streams[place].1, 2, &line(entry));
    }
    let mut request = Vec::new();
    for (stream, lines) in streams {
        let mut message = Vec::with_capacity(lines.len() + 256);
        bytes(&mut message, 1, stream.labels.to_string().as_bytes());
        message.extend_from_slice(&lines);
        bytes(&mut request, 1, &message);
    }
    snap::raw::Encoder::new().compress_vec(&request)
}

fn line(entry: &Entry) -> Vec<u8> {
    let mut time = Vec::new();
    number(&mut time, 1, entry.time.div_euclid(1_000_000_000).cast_unsigned());
    number(&mut time, 2, entry.time.rem_euclid(1_000_000_000).cast_unsigned());
    let mut message = Vec::with_capacity(entry.line.len() + 32);
    bytes(&mut message, 1, &time);
    bytes(&mut message, 2, entry.line.as_bytes());
    for (name, value) in &entry.metadata {
        let mut pair = Vec::new();
        bytes(&mut pair, 1, name.as_bytes());
        bytes(&mut pair, 2, value.as_bytes());
        bytes(&mut message, 3, &pair);
    }
    message
}

fn number(out: &mut Vec<u8>, field: u8, value: u64) {
    out.push(field << 3);
    varint(out, value);
}

fn bytes(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
