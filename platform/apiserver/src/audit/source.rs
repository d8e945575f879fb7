//! Where a request comes from, as its client and the proxies on its way tell it.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;

/// How much of a `User-Agent` is kept (`maxUserAgentLength` in `apiserver/pkg/audit/request.go`).
const USER_AGENT: usize = 1024;

/// The addresses a request came by: `X-Forwarded-For`, `X-Real-Ip`, then the connection's (`SourceIPs` in
/// `apimachinery/pkg/util/net/http.go`). All but the last are the client's to choose. A call within the process has none.
pub(super) fn addresses(headers: &HeaderMap, peer: Option<SocketAddr>) -> Vec<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut found: Vec<IpAddr> = text("x-forwarded-for").split(',').filter_map(|part| part.trim().parse().ok()).collect();
    if let Ok(address) = text("x-real-ip").parse()
        && !found.contains(&address)
    {
        found.push(address);
    }
    if let Some(peer) = peer.map(|peer| peer.ip().to_canonical())
        && found.last() != Some(&peer)
    {
        found.push(peer);
    }
    found.iter().map(ToString::to_string).collect()
}

/// The client's name for itself, cut off where it is too long.
pub(super) fn user_agent(headers: &HeaderMap) -> String {
    let agent = headers.get(http::header::USER_AGENT).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let agent = agent.unwrap_or_default();
    if agent.len() <= USER_AGENT {
        return agent.into_owned();
    }
    let end = (0..=USER_AGENT).rev().find(|end| agent.is_char_boundary(*end)).unwrap_or(0);
    format!("{}...TRUNCATED", &agent[..end])
}

/// What a client tried that could not be authenticated (`getAuthMethods` in `endpoints/filters/authn_audit.go`).
pub(super) fn failed_authentication(headers: &HeaderMap, has_certificate: bool) -> String {
    let authorization = headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let scheme = authorization.trim().split_once(' ').map(|(scheme, _)| scheme.to_ascii_lowercase());
    let mut tried = Vec::new();
    match scheme.as_deref() {
        Some("basic") => tried.push("basic"),
        Some("bearer") => tried.push("bearer"),
        _ => {}
    }
    if has_certificate {
        tried.push("x509");
    }
    if tried.is_empty() {
        return "Authentication failed, no credentials provided".to_owned();
    }
    format!("Authentication failed, attempted: {}", tried.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn addresses_in_order() {
        let check = |given: &[(&'static str, &str)], peer: &str, want: &[&str]| {
            assert_eq!(addresses(&headers(given), peer.parse().ok()), want, "{given:?}");
        };
        let peer = "192.0.2.9:4000";
        check(&[], peer, &["192.0.2.9"]);
        check(&[], "", &[]);
        check(&[], "[::ffff:192.0.2.9]:1", &["192.0.2.9"]);
        check(&[("x-forwarded-for", "198.51.100.1, nonsense,2001:db8::1")], peer, &["198.51.100.1", "2001:db8::1", "192.0.2.9"]);
        check(&[("x-forwarded-for", "198.51.100.1"), ("x-real-ip", "198.51.100.1")], peer, &["198.51.100.1", "192.0.2.9"]);
        check(&[("x-real-ip", "192.0.2.9")], peer, &["192.0.2.9"]);
    }

    #[test]
    fn long_agents_are_cut() {
        assert_eq!(user_agent(&headers(&[("user-agent", "kubectl/1.37")])), "kubectl/1.37");
        let cut = user_agent(&headers(&[("user-agent", &"x".repeat(2000))]));
        assert_eq!(cut.len(), 1024 + "...TRUNCATED".len());
    }

    #[test]
    fn what_was_tried() {
        let check = |given: &[(&'static str, &str)], certificate: bool, want: &str| {
            assert_eq!(failed_authentication(&headers(given), certificate), want);
        };
        check(&[], false, "Authentication failed, no credentials provided");
        check(&[("authorization", "Bearer x")], false, "Authentication failed, attempted: bearer");
        check(&[("authorization", "bearer x")], true, "Authentication failed, attempted: bearer, x509");
        check(&[("authorization", "Basic x")], false, "Authentication failed, attempted: basic");
    }
}
