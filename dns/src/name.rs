//! Domain names in wire form: labels, each behind its length, ended by a zero.

use std::fmt;

/// The longest name in wire form (RFC 1035, 2.3.4).
pub(crate) const MAX_NAME: usize = 255;

/// A name in lower case, in wire form with its final zero.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct WireName(Box<[u8]>);

impl WireName {
    pub(crate) fn root() -> Self {
        Self(Box::new([0]))
    }

    pub(crate) fn is_root(&self) -> bool {
        self.0.len() == 1
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for WireName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text(&self.0))
    }
}

/// Reads dotted text, with or without the final dot.
pub(crate) fn parse(text: &str) -> Result<WireName, &'static str> {
    let mut wire = Vec::with_capacity(text.len() + 2);
    let text = text.strip_suffix('.').unwrap_or(text);
    if !text.is_empty() {
        for label in text.split('.') {
            if label.is_empty() || label.len() > 63 {
                return Err("a label must have 1 to 63 bytes");
            }
            push_label(&mut wire, label.as_bytes());
        }
    }
    wire.push(0);
    if wire.len() > MAX_NAME {
        return Err("a name must have at most 255 bytes");
    }
    Ok(WireName(wire.into_boxed_slice()))
}

/// Appends a label in lower case. The label must have at most 63 bytes.
pub(crate) fn push_label(wire: &mut Vec<u8>, label: &[u8]) {
    wire.push(label.len() as u8);
    wire.extend(label.iter().map(u8::to_ascii_lowercase));
}

/// The labels of a wire name, or of a part of one without its end.
pub(crate) fn labels(wire: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = wire;
    std::iter::from_fn(move || {
        let (&length, tail) = rest.split_first()?;
        if length == 0 || usize::from(length) > tail.len() {
            return None;
        }
        let (label, tail) = tail.split_at(usize::from(length));
        rest = tail;
        Some(label)
    })
}

/// Dotted text for logs.
pub(crate) fn text(wire: &[u8]) -> String {
    let mut text = String::new();
    for label in labels(wire) {
        text.push_str(&label.escape_ascii().to_string());
        text.push('.');
    }
    if text.is_empty() { ".".to_owned() } else { text }
}

/// The label of an address: dots and colons become dashes; no label ends in a dash.
pub(crate) fn dashed(ip: &std::net::IpAddr) -> String {
    let mut label = ip.to_string().replace(['.', ':'], "-");
    if label.ends_with('-') {
        label.push('0');
    }
    if label.starts_with('-') {
        label.insert(0, '0');
    }
    label
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        assert_eq!(text(parse("Cluster.Local.").unwrap().as_bytes()), "cluster.local.");
        assert!(parse("").unwrap().is_root());
        assert!(parse("a..b").is_err() && parse(&"a".repeat(64)).is_err() && parse(&"abc.".repeat(64)).is_err());
    }

    #[test]
    fn addresses_are_labels() {
        for (ip, label) in [("10.0.0.1", "10-0-0-1"), ("5678:abcd::1", "5678-abcd--1"), ("fd00::", "fd00--0"), ("::1", "0--1")] {
            assert_eq!(dashed(&ip.parse().unwrap()), label);
        }
    }
}
