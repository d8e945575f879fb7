//! Addresses, as Go's `net/url` reads them; `staging/src/k8s.io/apiserver/pkg/cel/library/urls.go`.

use std::collections::BTreeMap;

/// An absolute URI or an absolute path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    text: String,
    scheme: String,
    host: String,
    path: String,
    query: String,
}

impl Url {
    /// # Errors
    ///
    /// Upstream's text, with Go's reason.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        Self::read(text).map_err(|why| format!("URL parse error during conversion from string: parse {text:?}: {why}"))
    }

    fn read(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Err("empty url");
        }
        if text.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
            return Err("net/url: invalid control character in URL");
        }
        let (scheme, rest) = scheme(text)?;
        // What asks with ParseRequestURI means no fragment by '#'.
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        if scheme.is_empty() && !rest.starts_with('/') {
            return Err("invalid URI for request");
        }
        let opaque = !rest.starts_with('/');
        if opaque {
            // `mailto:someone`: it has no host and no path.
            return Ok(Self { text: text.into(), scheme, host: String::new(), path: String::new(), query: query.into() });
        }
        let (host, path) = match rest.strip_prefix("//") {
            Some(rest) if !scheme.is_empty() || !rest.starts_with('/') => {
                let end = rest.find('/').unwrap_or(rest.len());
                let authority = &rest[..end];
                (authority.rsplit_once('@').map_or(authority, |(_, host)| host), &rest[end..])
            }
            _ => ("", rest),
        };
        check_host(host)?;
        if unescape(path, false).is_none() {
            return Err("invalid URL escape");
        }
        Ok(Self { text: text.into(), scheme, host: host.into(), path: path.into(), query: query.into() })
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn scheme(&self) -> &str {
        &self.scheme
    }

    /// Host and port.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The host without its port, and without an IPv6 address' brackets.
    pub(crate) fn hostname(&self) -> &str {
        let host = match self.host.strip_prefix('[') {
            Some(rest) => return rest.split_once(']').map_or(rest, |(host, _)| host),
            None => &self.host,
        };
        host.rsplit_once(':').map_or(host, |(host, _)| host)
    }

    pub(crate) fn port(&self) -> &str {
        let after = match self.host.rsplit_once(']') {
            Some((_, after)) => after,
            None => &self.host,
        };
        after.rsplit_once(':').map_or("", |(_, port)| port)
    }

    /// The path with what must be escaped escaped.
    pub(crate) fn escaped_path(&self) -> String {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@!'()*[]%".contains(&byte);
        let mut text = String::new();
        for byte in self.path.bytes() {
            if plain(byte) {
                text.push(char::from(byte));
            } else {
                text.push_str(&format!("%{byte:02X}"));
            }
        }
        text
    }

    /// The query's parameters, each with all its values.
    pub(crate) fn query(&self) -> BTreeMap<String, Vec<String>> {
        let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pair in self.query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if let (Some(name), Some(value)) = (unescape(name, true), unescape(value, true)) {
                all.entry(name).or_default().push(value);
            }
        }
        all
    }
}

fn scheme(text: &str) -> Result<(String, &str), &'static str> {
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at == 0 => return Err("missing protocol scheme"),
            b':' => return Ok((text[..at].to_ascii_lowercase(), &text[at + 1..])),
            _ => break,
        }
    }
    Ok((String::new(), text))
}

fn check_host(host: &str) -> Result<(), &'static str> {
    let port =
        |text: &str| text.is_empty() || text.strip_prefix(':').is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    if let Some(rest) = host.strip_prefix('[') {
        let Some((_, after)) = rest.rsplit_once(']') else { return Err("missing ']' in host") };
        return if port(after) { Ok(()) } else { Err("invalid port after host") };
    }
    if host.bytes().any(|byte| matches!(byte, b' ' | b'<' | b'>' | b'"' | b'\\' | b'^' | b'`' | b'{' | b'}' | b'|')) {
        return Err("invalid character in host name");
    }
    match host.rfind(':') {
        Some(at) if !port(&host[at..]) => Err("invalid port after host"),
        _ => Ok(()),
    }
}

fn unescape(text: &str, plus: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (digit(rest.next())?, digit(rest.next())?);
                bytes.push(u8::try_from(high * 16 + low).ok()?);
            }
            b'+' if plus => bytes.push(b' '),
            byte => bytes.push(byte),
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        for (text, scheme, host, hostname, port, path) in [
            ("https://example.com:80/a b?x=1", "https", "example.com:80", "example.com", "80", "/a%20b"),
            ("https://[::1]:80/", "https", "[::1]:80", "::1", "80", "/"),
            ("https://user@example.com", "https", "example.com", "example.com", "", ""),
            ("/path?q", "", "", "", "", "/path"),
        ] {
            let url = Url::parse(text).expect(text);
            let found = (url.scheme(), url.host(), url.hostname(), url.port());
            assert_eq!(found, (scheme, host, hostname, port), "{text}");
            assert_eq!(url.escaped_path(), path, "{text}");
        }
        for text in ["", "example.com", "../a", "https://a:b/", ":a", "https://a/%zz", "https://[::1"] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
        let query = Url::parse("https://a/?k=1&k=2&e=%20+").expect("a URL").query();
        assert_eq!(query["k"], ["1", "2"]);
        assert_eq!(query["e"], ["  "]);
    }
}
