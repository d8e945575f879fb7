//! Authentication: who sends a request.
//!
//! In order: a client certificate of the cluster's CA; a bearer token, which is a ServiceAccount's ([`token`]), a bootstrap token
//! ([`bootstrap_token`]), another issuer's ([`Structured`]) or known to a webhook ([`WebhookOptions`]); else `system:anonymous`,
//! whom only RBAC lets in somewhere. On top, `Impersonate-*` headers ([`impersonation`]). In-process callers bring their
//! [`UserInfo`] along and never come here.
//!
//! Follows kube-apiserver 1.36 (`pkg/kubeapiserver/authenticator`, `pkg/serviceaccount`).

mod cache;
mod metrics;
mod oidc;
mod reload;
mod webhook;
mod x509;
pub mod bootstrap_token;
pub mod impersonation;
pub mod issuer;
pub mod jws;
pub mod token;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use http::HeaderMap;
use pharos_telemetry::Clock;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use tokio::time::Instant;

pub use metrics::Metrics;
pub use oidc::{Flags, Structured};
pub use webhook::Options as WebhookOptions;

use cache::Cache;
use issuer::TokenIssuer;
use x509::ClientCa;

/// Everyone who authenticated.
pub const ALL_AUTHENTICATED: &str = "system:authenticated";
/// Everyone who did not.
pub const ALL_UNAUTHENTICATED: &str = "system:unauthenticated";
/// Who sends a request without credentials.
pub const ANONYMOUS: &str = "system:anonymous";
/// Who this server's own requests come from.
pub(crate) const API_SERVER: &str = "system:apiserver";
/// The WebSocket subprotocol browsers send their token as, for want of headers.
const WEBSOCKET_TOKEN: &str = "base64url.bearer.authorization.k8s.io.";
/// The extra key that names the credential, for audit.
pub const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// A user, as `authentication.k8s.io/v1` UserInfo has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// The name that identifies the user.
    pub username: String,
    /// What tells users of one name apart over time, or empty.
    pub uid: String,
    /// The groups the user is in.
    pub groups: Vec<String>,
    /// What else the authenticator knows.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user in these groups.
    pub fn new(username: impl Into<String>, groups: impl IntoIterator<Item = impl Into<String>>) -> Self {
        UserInfo { username: username.into(), groups: groups.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Who sends a request without credentials.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::new(ANONYMOUS, [ALL_UNAUTHENTICATED])
    }

    /// A ServiceAccount.
    #[must_use]
    pub fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        UserInfo {
            username: service_account_username(namespace, name),
            uid: uid.to_owned(),
            groups: vec![
                "system:serviceaccounts".into(),
                format!("system:serviceaccounts:{namespace}"),
                ALL_AUTHENTICATED.into(),
            ],
            extra: BTreeMap::new(),
        }
    }

    /// The user as the API writes it.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut value = json!({"username": self.username});
        if !self.uid.is_empty() {
            value["uid"] = json!(self.uid);
        }
        if !self.groups.is_empty() {
            value["groups"] = json!(self.groups);
        }
        if !self.extra.is_empty() {
            value["extra"] = json!(self.extra);
        }
        value
    }
}

/// The user name of a ServiceAccount.
#[must_use]
pub fn service_account_username(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// The namespace and name in a ServiceAccount's user name.
#[must_use]
pub fn split_service_account_username(username: &str) -> Option<(&str, &str)> {
    let (namespace, name) = username.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

/// The live objects tokens are bound to.
pub trait Objects: Send + Sync {
    /// The present state of an object, read from memory; `namespace` is empty for cluster scope.
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>>;

    /// Takes note that a Secret's token was used on a day (`2026-05-01`), which its label does not tell yet. Does not wait.
    fn note_use(&self, namespace: &str, secret: &str, day: &str) {
        let _ = (namespace, secret, day);
    }
}

/// Why a request's credentials were not accepted. All become 401 with the message `Unauthorized`; the cause is for the log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client certificate is not one of ours, or not valid now.
    #[error("verify client certificate")]
    Certificate(#[source] rustls::Error),
    /// The client certificate cannot be read, or names nobody.
    #[error("read client certificate: {0}")]
    Subject(String),
    /// The bearer token is nobody's, or no longer.
    #[error("verify bearer token")]
    Token(#[from] token::Error),
    /// The bearer token is not of this cluster, and who else knows tokens does not accept it.
    #[error("verify bearer token: {0}")]
    Elsewhere(String),
    /// There are no credentials, and anonymous requests are off.
    #[error("no credentials")]
    NoCredentials,
}

/// Settings of the authenticator.
#[derive(Debug, Clone)]
pub struct Config {
    /// The certificates of the CAs whose client certificates are believed, DER. None: no client certificate is.
    pub client_ca: Vec<CertificateDer<'static>>,
    /// Whether requests without credentials go on as `system:anonymous`. Default true, as upstream.
    pub anonymous: bool,
    /// Which other issuers are believed. Default: none.
    pub structured: Option<Arc<Structured>>,
    /// The `AuthenticationConfiguration` that `structured` was read from; it is read again when it changes.
    pub structured_file: Option<PathBuf>,
    /// A server that is asked about tokens nobody else knows. Default: none.
    pub webhook: Option<WebhookOptions>,
}

impl Default for Config {
    fn default() -> Self {
        Config { client_ca: Vec::new(), anonymous: true, structured: None, structured_file: None, webhook: None }
    }
}

/// Tells who sends a request. Cheap to clone.
#[derive(Clone)]
pub struct Authenticator {
    shared: Arc<Shared>,
}

struct Shared {
    anonymous: bool,
    ca: Option<ClientCa>,
    issuer: Arc<TokenIssuer>,
    objects: Arc<dyn Objects>,
    cache: Cache,
    clock: Clock,
    metrics: Metrics,
    structured: ArcSwap<Structured>,
    structured_file: Option<PathBuf>,
    webhook: Option<webhook::Webhook>,
}

impl Authenticator {
    /// An authenticator for these CAs and this issuer's tokens.
    ///
    /// # Errors
    ///
    /// When a CA certificate, or the webhook's kubeconfig, cannot be used.
    pub fn new(
        config: Config,
        issuer: Arc<TokenIssuer>,
        objects: Arc<dyn Objects>,
        clock: Clock,
        metrics: Metrics,
    ) -> Result<Self, Error> {
        let ca = match config.client_ca.as_slice() {
            [] => None,
            certificates => Some(ClientCa::new(certificates)?),
        };
        let webhook = config.webhook.as_ref().map(webhook::Webhook::new).transpose().map_err(Error::Elsewhere)?;
        let shared = Shared {
            anonymous: config.anonymous,
            ca,
            issuer,
            objects,
            cache: Cache::default(),
            clock,
            metrics,
            structured: ArcSwap::new(config.structured.unwrap_or_default()),
            structured_file: config.structured_file,
            webhook,
        };
        Ok(Authenticator { shared: Arc::new(shared) })
    }

    /// Tells who sends a request for a path with these headers over a connection on which the client showed this certificate
    /// chain, its own first. What this cluster's own credentials say is known at once; other servers are asked only about
    /// tokens that are not. Impersonation is a second step: [`impersonation::Request`].
    ///
    /// # Errors
    ///
    /// When credentials were sent and are not good: the answer is 401, never anonymous.
    pub async fn authenticate(
        &self,
        headers: &HeaderMap,
        path: &str,
        certificates: &[CertificateDer<'static>],
    ) -> Result<Arc<UserInfo>, Error> {
        let start = Instant::now();
        let mut result = self.identify(headers, path, certificates);
        if let Err(Error::Token(_)) = &result
            && let Some(token) = bearer_token(headers)
            && let Some(asked) = self.ask_elsewhere(&token, self.shared.issuer.api_audiences()).await
        {
            let now = self.shared.clock.now();
            result = asked.map(|verified| self.shared.cache.put(token.as_bytes(), now, verified)).map_err(Error::Elsewhere);
        }
        self.shared.metrics.authenticated(result.as_deref(), start.elapsed());
        result
    }

    fn identify(
        &self,
        headers: &HeaderMap,
        path: &str,
        certificates: &[CertificateDer<'static>],
    ) -> Result<Arc<UserInfo>, Error> {
        let Shared { ca, cache, clock, .. } = &*self.shared;
        let now = clock.now();
        // A certificate that is not ours is no credential, unless there is no other: upstream tries the token too.
        let mut refused = None;
        if let (Some(ca), [_, ..]) = (ca, certificates) {
            match cache.get_or_verify(certificates[0].as_ref(), now, || ca.verify(certificates, now)) {
                Ok(user) => return Ok(user),
                Err(error) => refused = Some(error),
            }
        }
        if let Some(token) = bearer_token(headers) {
            return self.token(&token).map_err(Error::from);
        }
        match refused {
            Some(error) => Err(error),
            None if self.shared.structured.load().allows_anonymous(path).unwrap_or(self.shared.anonymous) => {
                Ok(Arc::new(UserInfo::anonymous()))
            }
            None => Err(Error::NoCredentials),
        }
    }

    /// Asks who else knows tokens: the issuer it names, then the webhook. None: there is nobody to ask.
    async fn ask_elsewhere(&self, token: &str, audiences: &[String]) -> Option<Result<Verified, String>> {
        let Shared { structured, issuer, webhook, clock, .. } = &*self.shared;
        let mut refused = None;
        let structured = structured.load_full();
        if !structured.issuers.is_empty() {
            let named = oidc::issuer_of(token);
            if let Some(known) = structured.issuers.iter().find(|known| Some(known.url()) == named.as_deref()) {
                // These tokens are for the API server, whatever audiences of its own the issuer gives it.
                let for_us = audiences.iter().any(|audience| issuer.api_audiences().contains(audience));
                match known.verify(token, clock.now().as_second()).await {
                    Ok(verified) if for_us => {
                        return Some(Ok(Verified { audiences: Some(issuer.api_audiences().to_vec()), ..verified }));
                    }
                    Ok(_) => refused = Some("token is not for these audiences".to_owned()),
                    Err(error) => refused = Some(error),
                }
            }
        }
        if let Some(webhook) = webhook {
            match webhook.review(token, audiences, issuer.api_audiences(), clock.now()).await {
                Ok(verified) => return Some(Ok(verified)),
                Err(error) => refused = Some(refused.map_or_else(|| error.clone(), |first| format!("[{first}, {error}]"))),
            }
        }
        refused.map(Err)
    }

    /// Tells whose a bearer token of this cluster for this API server is.
    ///
    /// # Errors
    ///
    /// When it is nobody's, or no longer.
    pub fn token(&self, token: &str) -> Result<Arc<UserInfo>, token::Error> {
        let Shared { cache, clock, metrics, .. } = &*self.shared;
        let now = clock.now();
        if let Some(user) = cache.get(token.as_bytes(), now) {
            metrics.token_cache("hit");
            return Ok(user);
        }
        metrics.token_cache("miss");
        let verified = self.verify_token(token, self.shared.issuer.api_audiences())?;
        Ok(cache.put(token.as_bytes(), now, verified))
    }

    /// Verifies a token for any of these audiences, past the cache.
    fn verify_token(&self, token: &str, audiences: &[String]) -> Result<Verified, token::Error> {
        let Shared { issuer, objects, clock, metrics, .. } = &*self.shared;
        if bootstrap_token::looks_like_one(token) {
            // Bootstrap tokens know no audiences, so they are the API server's alone.
            if !audiences.iter().any(|audience| issuer.api_audiences().contains(audience)) {
                return Err(token::Error::Audience { audiences: Vec::new() });
            }
            return bootstrap_token::verify(token, &**objects, clock.now());
        }
        token::verify(token, audiences, issuer, &**objects, clock.now(), metrics)
    }

    /// Fills in the status of a `TokenReview`.
    ///
    /// # Errors
    ///
    /// When there is no token to review, with the message for a 400.
    pub async fn review_token(&self, review: &Value) -> Result<Value, String> {
        let token = review["spec"]["token"].as_str().unwrap_or_default();
        if token.is_empty() {
            return Err("token is required for TokenReview in authentication".into());
        }
        let wanted = crate::authz::rules::strings(&review["spec"]["audiences"]);
        let audiences = if wanted.is_empty() { self.shared.issuer.api_audiences() } else { &wanted };
        let mut reviewed = review.clone();
        let verified = match self.verify_token(token, audiences) {
            Ok(verified) => Ok(verified),
            Err(error) => match self.ask_elsewhere(token, audiences).await {
                Some(asked) => asked,
                None => Err(error.to_string()),
            },
        };
        reviewed["status"] = match verified {
            Ok(verified) => {
                let mut status = json!({"authenticated": true, "user": verified.user.to_value()});
                let good: Vec<&String> = match &verified.audiences {
                    Some(granted) => audiences.iter().filter(|audience| granted.contains(audience)).collect(),
                    None => audiences.iter().collect(),
                };
                status["audiences"] = json!(good);
                status
            }
            Err(error) => json!({"user": {}, "error": format!("[invalid bearer token, {error}]")}),
        };
        Ok(reviewed)
    }

    /// The answer to a `SelfSubjectReview`: who the API server thinks the caller is.
    #[must_use]
    pub fn review_self(review: &Value, user: &UserInfo) -> Value {
        let mut reviewed = review.clone();
        reviewed["status"] = json!({"userInfo": user.to_value()});
        reviewed
    }
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator").finish_non_exhaustive()
    }
}

/// What a verified credential proves.
#[derive(Debug, Clone)]
pub struct Verified {
    /// Whose it is.
    pub user: UserInfo,
    /// Which of the asked audiences it is for; `None` when the credential knows no audiences.
    pub audiences: Option<Vec<String>>,
    /// From when on it must not be believed, in Unix seconds.
    pub expires: Option<i64>,
}

/// The bearer token in `Authorization`, or in the WebSocket subprotocol browsers have to use instead.
fn bearer_token(headers: &HeaderMap) -> Option<String> {
    use base64::Engine as _;
    if let Some(value) = headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok()) {
        let (scheme, token) = value.trim().split_once(' ')?;
        let token = token.trim();
        return (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned());
    }
    headers
        .get_all(http::header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|protocol| protocol.trim().strip_prefix(WEBSOCKET_TOKEN))
        .and_then(|encoded| base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(encoded).ok())
        .and_then(|token| String::from_utf8(token).ok())
        .filter(|token| !token.is_empty())
}

/// Removes the credentials from a request that has been authenticated, so that nobody it is passed on to sees them.
pub fn strip_credentials(headers: &mut HeaderMap) {
    headers.remove(http::header::AUTHORIZATION);
    let kept: Vec<http::HeaderValue> = headers
        .get_all(http::header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .map(|value| {
            let protocols = value.split(',').map(str::trim).filter(|protocol| !protocol.starts_with(WEBSOCKET_TOKEN));
            protocols.collect::<Vec<_>>().join(", ")
        })
        .filter(|value| !value.is_empty())
        .filter_map(|value| value.try_into().ok())
        .collect();
    headers.remove(http::header::SEC_WEBSOCKET_PROTOCOL);
    for value in kept {
        headers.append(http::header::SEC_WEBSOCKET_PROTOCOL, value);
    }
}

#[cfg(test)]
pub(crate) mod tests;
