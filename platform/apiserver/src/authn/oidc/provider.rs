//! An issuer's server: which keys it has now.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use http::{Method, header, uri::Authority};
use pharos_transport::{
    Body, pki,
    proxy::{Proxy, Target},
};
use rustls::ClientConfig;
use serde_json::Value;
use tokio::{sync::Mutex, time::Instant};

use super::{
    keys::{Key, Token},
    object,
};
use crate::outbound;

/// How long both documents together may take.
const LIMIT: Duration = Duration::from_secs(10);
/// The shortest time between two looks at an issuer's keys, so that made-up tokens cannot make this server ask often.
const PAUSE: Duration = Duration::from_secs(10);
/// The longest wait after failures; it doubles from [`PAUSE`].
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
const MAX_DOCUMENT_BYTES: usize = 1 << 20;
/// Keys kept of one issuer.
const MAX_KEYS: usize = 256;

/// Fetches an issuer's keys and keeps them.
pub(super) struct Provider {
    issuer: String,
    discovery: String,
    tls: Arc<ClientConfig>,
    proxy: Proxy,
    known: ArcSwap<Known>,
    /// Held by who fetches.
    next: Mutex<Next>,
}

/// Keys, and how often they were fetched.
#[derive(Default)]
struct Known {
    keys: Vec<Key>,
    fetched: u64,
}

/// When they may be fetched again.
#[derive(Default)]
struct Next {
    at: Option<Instant>,
    failures: u32,
    error: String,
}

impl std::fmt::Debug for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Provider").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

impl Provider {
    /// A provider that trusts these CA certificates, or the system's if there are none.
    pub(super) fn new(issuer: &str, discovery_url: &str, ca: &[u8]) -> Result<Self, String> {
        let roots = outbound::roots(ca)?;
        let tls = pki::client_config(Arc::new(roots), None).map_err(|error| error.to_string())?;
        let discovery = match discovery_url {
            "" => format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/')),
            url => url.to_owned(),
        };
        let issuer = issuer.to_owned();
        Ok(Provider { issuer, discovery, tls, proxy: Proxy::new(), known: ArcSwap::default(), next: Mutex::default() })
    }

    /// Whether the issuer signed a token; looks for new keys if none of the known ones did.
    pub(super) async fn verify(&self, token: &Token<'_>) -> Result<(), String> {
        let known = self.known.load_full();
        if token.is_signed_by(&known.keys) {
            return Ok(());
        }
        self.refresh(known.fetched).await?;
        if token.is_signed_by(&self.known.load().keys) {
            return Ok(());
        }
        Err("failed to verify signature: failed to verify id token signature".into())
    }

    /// Fetches the keys, unless somebody did since, or a moment ago.
    async fn refresh(&self, seen: u64) -> Result<(), String> {
        let mut next = self.next.lock().await;
        if self.known.load().fetched != seen {
            return Ok(());
        }
        if next.at.is_some_and(|at| Instant::now() < at) {
            // After a success the keys are those of a moment ago: the signature is judged by them.
            return if next.error.is_empty() { Ok(()) } else { Err(next.error.clone()) };
        }
        let fetched = match tokio::time::timeout(LIMIT, self.fetch()).await {
            Ok(fetched) => fetched,
            Err(_) => Err("context deadline exceeded".to_owned()),
        };
        match fetched {
            Ok(keys) => {
                *next = Next { at: Some(Instant::now() + PAUSE), ..Next::default() };
                self.known.store(Arc::new(Known { keys, fetched: seen + 1 }));
                Ok(())
            }
            Err(error) => {
                let pause = PAUSE.saturating_mul(1 << next.failures.min(5)).min(LONGEST_PAUSE);
                let error = format!("fetching keys {error}");
                tracing::warn!(issuer = self.issuer, error, "the keys of a token issuer cannot be fetched");
                let failures = next.failures.saturating_add(1);
                *next = Next { at: Some(Instant::now() + pause), failures, error: error.clone() };
                Err(error)
            }
        }
    }

    async fn fetch(&self) -> Result<Vec<Key>, String> {
        let document = self.get(&self.discovery).await?;
        let found = document["issuer"].as_str().unwrap_or_default();
        if found != self.issuer {
            return Err(format!(
                "oidc: issuer did not match the issuer returned by provider, expected {:?} got {found:?}",
                self.issuer
            ));
        }
        let uri = document["jwks_uri"].as_str().ok_or_else(|| format!("{}: there is no jwks_uri", self.discovery))?;
        let jwks = self.get(uri).await?;
        let keys = jwks["keys"].as_array().ok_or_else(|| format!("{uri}: there are no keys"))?;
        Ok(keys.iter().filter_map(Key::from_jwk).take(MAX_KEYS).collect())
    }

    async fn get(&self, url: &str) -> Result<Value, String> {
        let failed = |why: String| format!("Get {url:?}: {why}");
        let uri: http::Uri = url.parse().map_err(|error| failed(format!("{error}")))?;
        if uri.scheme_str() != Some("https") {
            return Err(failed("URL scheme must be https".into()));
        }
        let authority: Authority = uri.authority().cloned().ok_or_else(|| failed("host must be specified".into()))?;
        let request = http::Request::builder()
            .method(Method::GET)
            .uri(uri.path_and_query().map_or("/", |path| path.as_str()))
            .header(header::HOST, authority.as_str())
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("pharos-apiserver/", env!("CARGO_PKG_VERSION")))
            .body(Body::empty())
            .map_err(|error| failed(error.to_string()))?;
        let mut target = Target::new(authority, Some(self.tls.clone()));
        target.connect = LIMIT;
        let response = self.proxy.forward(request, &target).await.map_err(|error| failed(outbound::reason(&error)))?;
        let code = response.status();
        let bytes =
            response.into_body().into_bytes(MAX_DOCUMENT_BYTES).await.map_err(|error| failed(outbound::reason(&error)))?;
        if !code.is_success() {
            return Err(failed(format!("{code}")));
        }
        let value = serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string()))?;
        object(value).map(Value::Object).ok_or_else(|| failed("the answer is no JSON object".into()))
    }
}
