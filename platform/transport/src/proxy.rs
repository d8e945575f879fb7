//! Carries a request to another server: to a node, to a Service, to an extension API server.

mod forward; // A request and its answer,
mod links; // with its links made to lead back here,
mod upgrade; // or a connection, raw.

use std::{borrow::Cow, io, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, Uri, header, uri::PathAndQuery};
use rustls::ClientConfig;

pub use forward::Proxy;
pub use links::Links;
pub use upgrade::{dial, forward_upgrade};

/// Where a request goes.
#[derive(Clone)]
pub struct Target {
    /// Host and port.
    pub authority: http::uri::Authority,
    /// How to speak TLS to it; without, plain TCP.
    pub tls: Option<Arc<ClientConfig>>,
    /// The name its certificate must hold for, if that is not the authority's host.
    pub server_name: Option<String>,
    /// The path and query to ask for instead of the request's.
    pub path_and_query: Option<PathAndQuery>,
    /// Headers that are put in place of the request's.
    pub headers: HeaderMap,
    /// How long a connection may take to be made. Default 10 s.
    pub connect: Duration,
    /// How long the answer's head may take once the request is sent; none waits as long as the client does. Default 60 s.
    pub respond: Option<Duration>,
}

impl Target {
    /// A target with the default deadlines, asked for what the request asks for.
    #[must_use]
    pub fn new(authority: http::uri::Authority, tls: Option<Arc<ClientConfig>>) -> Self {
        Self {
            authority,
            tls,
            server_name: None,
            path_and_query: None,
            headers: HeaderMap::new(),
            connect: Duration::from_secs(10),
            respond: Some(Duration::from_secs(60)),
        }
    }

    /// The path and query to ask for.
    fn path_and_query<'a>(&'a self, asked: &'a Uri) -> Cow<'a, str> {
        let target = self.path_and_query.as_ref().or_else(|| asked.path_and_query());
        target.map_or(Cow::Borrowed("/"), |target| Cow::Borrowed(target.as_str()))
    }

    fn port(&self) -> u16 {
        self.authority.port_u16().unwrap_or(if self.tls.is_some() { 443 } else { 80 })
    }

    /// The host, without the brackets of an IPv6 address.
    fn host(&self) -> &str {
        self.authority.host().trim_start_matches('[').trim_end_matches(']')
    }
}

/// Why a request could not be carried. To the client these are 502, and 504 for [`ProxyError::TimedOut`].
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The target cannot be reached.
    #[error("connect to {authority}")]
    Connect {
        /// The target.
        authority: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The target took too long.
    #[error("{action} {authority}: timed out")]
    TimedOut {
        /// What it took too long to do.
        action: &'static str,
        /// The target.
        authority: String,
    },
    /// The target broke off, or does not speak HTTP.
    #[error("exchange with {authority}")]
    Exchange {
        /// The target.
        authority: String,
        /// Why.
        #[source]
        source: crate::BoxError,
    },
}

/// Takes out the headers that are about one connection (RFC 9110, section 7.6.1).
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    const HOP_BY_HOP: [HeaderName; 8] = [
        header::CONNECTION,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        HeaderName::from_static("keep-alive"),
    ];
    let named: Vec<HeaderName> = crate::websocket::tokens(headers, header::CONNECTION)
        .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
        .collect();
    for name in HOP_BY_HOP.into_iter().chain(named) {
        headers.remove(name);
    }
}

/// Puts headers in place of those of the same name.
fn replace(headers: &mut HeaderMap, with: &HeaderMap) {
    for name in with.keys() {
        headers.remove(name);
    }
    for (name, value) in with {
        headers.append(name, value.clone());
    }
}
