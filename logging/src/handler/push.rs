//! `push`: lines from other shippers, as JSON or as snappy-compressed protobuf, plain or gzipped.

use std::{borrow::Cow, io::Read as _, sync::Arc};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use pharos_transport::{Body, Response};
use serde::Deserialize;

use super::{Answer, LogsHandler, PushedBy, Refusal};
use crate::{
    entry::{Entry, Labels, Stream},
    index::Batch,
    logql::{self, MatchOp},
    metrics::Source,
};

/// The most that a push may hold once it is unpacked.
const MOST_BYTES: usize = 16 << 20;

/// Lines that claim to be from further in the future are dated so.
const FUTURE: i64 = 600_000_000_000;

/// Lines that are stored together.
const BATCH: usize = 1024;

type Metadata = Vec<(Box<str>, Box<str>)>;

pub(super) async fn push(handler: &LogsHandler, request: Request<Bytes>) -> Answer {
    let text = |name| request.headers().get(name).and_then(|value: &http::HeaderValue| value.to_str().ok()).unwrap_or_default();
    let kind = text(header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim().to_owned();
    let body = match text(header::CONTENT_ENCODING) {
        "gzip" => Cow::Owned(gunzip(request.body())?),
        "" | "identity" | "snappy" => Cow::Borrowed(&request.body()[..]),
        other => return Err(Refusal::bad(format!("Content-Encoding {other:?} not supported"))),
    };
    let latest = handler.now().saturating_add(FUTURE);
    let entries = match kind.as_str() {
        "application/json" => json(&body, latest)?,
        "application/x-protobuf" | "" => protobuf(&body, latest)?,
        other => {
            return Err(Refusal {
                status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
                message: format!("Content-Type {other:?} not supported"),
            });
        }
    };
    if let Some(PushedBy(node)) = request.extensions().get()
        && let Some(entry) = entries.iter().find(|entry| entry.stream.labels.get("node") != Some(node.as_str()))
    {
        let message = format!("node {node:?} may not push lines of {}", entry.stream.labels);
        return Err(Refusal { status: StatusCode::FORBIDDEN, message });
    }
    let mut entries = entries.into_iter().peekable();
    while entries.peek().is_some() {
        let batch = Batch { entries: entries.by_ref().take(BATCH).collect(), positions: Vec::new() };
        handler.index.append(Source::Push, batch).await;
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

fn gunzip(body: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut plain = Vec::new();
    let read = flate2::read::GzDecoder::new(body).take(MOST_BYTES as u64 + 1).read_to_end(&mut plain);
    match read {
        Ok(_) if plain.len() > MOST_BYTES => Err(too_large()),
        Ok(_) => Ok(plain),
        Err(error) => Err(Refusal::bad(format!("gzip: {error}"))),
    }
}

fn too_large() -> Refusal {
    Refusal { status: StatusCode::PAYLOAD_TOO_LARGE, message: format!("message size too large than max ({MOST_BYTES})") }
}

#[derive(Deserialize)]
struct JsonPush {
    streams: Vec<JsonStream>,
}

#[derive(Deserialize)]
struct JsonStream {
    stream: Labels,
    values: Vec<JsonEntry>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum JsonEntry {
    Plain(String, String),
    WithMetadata(String, String, Labels),
}

fn json(body: &[u8], latest: i64) -> Result<Vec<Entry>, Refusal> {
    let push: JsonPush = serde_json::from_slice(body).map_err(|error| Refusal::bad(error.to_string()))?;
    let mut entries = Vec::new();
    for one in push.streams {
        let stream = stream(one.stream)?;
        for entry in one.values {
            let (time, line, metadata) = match entry {
                JsonEntry::Plain(time, line) => (time, line, Labels::default()),
                JsonEntry::WithMetadata(time, line, metadata) => (time, line, metadata),
            };
            let time = time.parse::<i64>().map_err(|_| Refusal::bad(format!("parse timestamp {time:?}")))?;
            let metadata = metadata.iter().map(|(name, value)| (name.into(), value.into())).collect();
            entries.push(Entry::new(time.min(latest), &stream, &line, metadata));
        }
    }
    Ok(entries)
}

fn stream(labels: Labels) -> Result<Arc<Stream>, Refusal> {
    if labels.is_empty() {
        return Err(Refusal::bad("error at least one label pair is required per stream"));
    }
    if let Some(wrong) = labels.iter().find_map(|(name, _)| wrong_in_name(name)) {
        let why = format!("parse error: unexpected character inside braces: '{wrong}'");
        return Err(Refusal::bad(format!("Error parsing labels '{labels}' with error: {why}")));
    }
    Ok(Stream::new(labels))
}

/// What no query could name: the first character that a label's name may not have.
fn wrong_in_name(name: &str) -> Option<char> {
    let allowed = |at: usize, c: char| c == '_' || c.is_ascii_alphabetic() || at > 0 && c.is_ascii_digit();
    if name.is_empty() { Some('=') } else { name.char_indices().find(|(at, c)| !allowed(*at, *c)).map(|(_, c)| c) }
}

/// `PushRequest{streams=1{labels=1, entries=2{timestamp=1{seconds=1, nanos=2}, line=2, structuredMetadata=3{name=1, value=2}}}}`
fn protobuf(body: &[u8], latest: i64) -> Result<Vec<Entry>, Refusal> {
    if snap::raw::decompress_len(body).map_err(|error| Refusal::bad(error.to_string()))? > MOST_BYTES {
        return Err(too_large());
    }
    let body = snap::raw::Decoder::new().decompress_vec(body).map_err(|error| Refusal::bad(error.to_string()))?;
    let malformed = || Refusal::bad("proto: malformed push request");
    let mut entries = Vec::new();
    for (number, field) in Message(&body) {
        let (1, Field::Bytes(one)) = (number, field.ok_or_else(malformed)?) else { continue };
        let (mut labels, mut lines) = (Labels::default(), Vec::new());
        for (number, field) in Message(one) {
            match (number, field.ok_or_else(malformed)?) {
                (1, Field::Bytes(text)) => labels = selector_labels(std::str::from_utf8(text).map_err(|_| malformed())?)?,
                (2, Field::Bytes(line)) => lines.push(line),
                _ => {}
            }
        }
        let stream = stream(labels)?;
        for line in lines {
            let (time, text, metadata) = entry(line).ok_or_else(malformed)?;
            entries.push(Entry::new(time.min(latest), &stream, &text, metadata));
        }
    }
    Ok(entries)
}

/// Labels as the protocol writes them: `{a="b", c="d"}`.
fn selector_labels(text: &str) -> Result<Labels, Refusal> {
    let matchers = logql::parse_selector(text).map_err(|error| Refusal::bad(format!("couldn't parse labels: {error}")))?;
    if matchers.iter().any(|matcher| matcher.op != MatchOp::Equal) {
        return Err(Refusal::bad(format!("couldn't parse labels: {text}")));
    }
    Ok(Labels::new(matchers.iter().map(|matcher| (matcher.name.as_str(), matcher.value.as_str()))))
}

fn entry(message: &[u8]) -> Option<(i64, String, Metadata)> {
    let (mut time, mut line, mut metadata) = (0_i64, String::new(), Metadata::new());
    for (number, field) in Message(message) {
        match (number, field?) {
            (1, Field::Bytes(timestamp)) => {
                for (number, field) in Message(timestamp) {
                    match (number, field?) {
                        (1, Field::Number(seconds)) => {
                            time = time.checked_add(seconds.cast_signed().checked_mul(1_000_000_000)?)?
                        }
                        (2, Field::Number(nanos)) => time = time.checked_add(nanos.cast_signed())?,
                        _ => {}
                    }
                }
            }
            (2, Field::Bytes(text)) => line = String::from_utf8_lossy(text).into_owned(),
            (3, Field::Bytes(pair)) => {
                let (mut name, mut value) = (Box::default(), Box::default());
                for (number, field) in Message(pair) {
                    match (number, field?) {
                        (1, Field::Bytes(text)) => name = String::from_utf8_lossy(text).into(),
                        (2, Field::Bytes(text)) => value = String::from_utf8_lossy(text).into(),
                        _ => {}
                    }
                }
                metadata.push((name, value));
            }
            _ => {}
        }
    }
    Some((time, line, metadata))
}

/// The fields of a protobuf message; a malformed one ends it with `None`.
struct Message<'a>(&'a [u8]);

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of a fixed width: nothing here has one.
    Other,
}

impl<'a> Message<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..70).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn bytes(&mut self, length: u64) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(bytes)
    }

    fn field(&mut self) -> Option<(u64, Field<'a>)> {
        let tag = self.varint()?;
        let field = match tag & 7 {
            0 => Field::Number(self.varint()?),
            1 => self.bytes(8).map(|_| Field::Other)?,
            2 => {
                let length = self.varint()?;
                Field::Bytes(self.bytes(length)?)
            }
            5 => self.bytes(4).map(|_| Field::Other)?,
            _ => return None,
        };
        Some((tag >> 3, field))
    }
}

impl<'a> Iterator for Message<'a> {
    type Item = (u64, Option<Field<'a>>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        match self.field() {
            Some((number, field)) => Some((number, Some(field))),
            None => {
                self.0 = &[];
                Some((0, None))
            }
        }
    }
}
