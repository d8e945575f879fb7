//! Who calls, and what they may: certificates here, everything else by asking the API server (`server/auth.go`).

use std::{collections::HashMap, time::Duration};

use http::{HeaderMap, Method, header};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, UserInfo},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;
use pharos_transport::Peer;
use tokio::time::Instant;

/// How long an allowance and a refusal are remembered (`authorization.webhook.cacheAuthorizedTTL`, `…UnauthorizedTTL`).
const ALLOWED_TTL: Duration = Duration::from_secs(300);
const REFUSED_TTL: Duration = Duration::from_secs(30);
/// How long a token is believed (`authentication.webhook.cacheTTL`).
const TOKEN_TTL: Duration = Duration::from_secs(120);
/// The most that is remembered of either.
const REMEMBERED: usize = 1024;
/// How long the API server has to answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// Somebody who has proven who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    name: String,
    uid: String,
    groups: Vec<String>,
}

/// User, groups, verb, subresource.
type Question = (String, Vec<String>, &'static str, &'static str);

/// Decides who may do what here.
pub(crate) struct Auth {
    client: Client,
    tokens: Mutex<HashMap<String, (User, Instant)>>,
    verdicts: Mutex<HashMap<Question, (bool, Instant)>>,
}

impl Auth {
    /// Asks through this client.
    pub(crate) fn new(client: Client) -> Self {
        Self { client, tokens: Mutex::default(), verdicts: Mutex::default() }
    }

    /// Who calls; the error is a message.
    pub(crate) async fn authenticate(&self, peer: Option<&Peer>, headers: &HeaderMap) -> Result<User, String> {
        if let Some(certificate) = peer.and_then(Peer::verified_certificate) {
            return subject(certificate).ok_or_else(|| "the client certificate names nobody".to_owned());
        }
        let bearer = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.strip_prefix("Bearer "));
        let Some(token) = bearer.map(str::trim).filter(|token| !token.is_empty()) else { return Err("Unauthorized".to_owned()) };
        if let Some((user, until)) = self.tokens.lock().get(token)
            && *until > Instant::now()
        {
            return Ok(user.clone());
        }
        let review = TokenReview {
            spec: TokenReviewSpec { token: token.to_owned(), ..TokenReviewSpec::default() },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let asked = tokio::time::timeout(DEADLINE, async { api.create(&PostParams::default(), &review).await }).await;
        let status = asked.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?.status.unwrap_or_default();
        let Some(UserInfo { username, uid, groups, .. }) = status.user.filter(|_| status.authenticated == Some(true)) else {
            return Err("Unauthorized".to_owned());
        };
        let user = User { name: username.unwrap_or_default(), uid: uid.unwrap_or_default(), groups: groups.unwrap_or_default() };
        let mut tokens = self.tokens.lock();
        forget(&mut tokens, |(_, until)| *until);
        tokens.insert(token.to_owned(), (user.clone(), Instant::now() + TOKEN_TTL));
        Ok(user)
    }

    /// Whether the user may; the error is a message.
    pub(crate) async fn authorize(&self, user: &User, method: &Method, path: &str, node: &str) -> Result<(), String> {
        let (verb, subresource) = attributes(method, path);
        let refused = || format!("Forbidden (user={}, verb={verb}, resource=nodes, subresource={subresource})", user.name);
        let key = (user.name.clone(), user.groups.clone(), verb, subresource);
        if let Some((allowed, until)) = self.verdicts.lock().get(&key)
            && *until > Instant::now()
        {
            return if *allowed { Ok(()) } else { Err(refused()) };
        }
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                uid: Some(user.uid.clone()),
                groups: Some(user.groups.clone()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.to_owned()),
                    version: Some("v1".to_owned()),
                    resource: Some("nodes".to_owned()),
                    subresource: Some(subresource.to_owned()),
                    name: Some(node.to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let asked = tokio::time::timeout(DEADLINE, async { api.create(&PostParams::default(), &review).await }).await;
        let answer = asked.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let allowed = answer.status.is_some_and(|status| status.allowed);
        let mut verdicts = self.verdicts.lock();
        forget(&mut verdicts, |(_, until)| *until);
        verdicts.insert(key, (allowed, Instant::now() + if allowed { ALLOWED_TTL } else { REFUSED_TTL }));
        if allowed { Ok(()) } else { Err(refused()) }
    }
}

/// Makes room: what has run out first, then everything.
fn forget<K: Eq + std::hash::Hash, V>(map: &mut HashMap<K, V>, until: impl Fn(&V) -> Instant) {
    if map.len() >= REMEMBERED {
        let now = Instant::now();
        map.retain(|_, value| until(value) > now);
        if map.len() >= REMEMBERED {
            map.clear();
        }
    }
}

/// The verb and the subresource of `nodes` a request is checked for.
fn attributes(method: &Method, path: &str) -> (&'static str, &'static str) {
    let verb = match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    };
    let below = |root: &str| path == root || path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'));
    let subresource = if below("/stats") {
        "stats"
    } else if below("/metrics") {
        "metrics"
    } else if below("/logs") {
        "log"
    } else if below("/checkpoint") {
        "checkpoint"
    } else if below("/healthz") {
        "healthz"
    } else if below("/configz") {
        "configz"
    } else if below("/pods") || below("/runningpods") {
        "pods"
    } else {
        "proxy"
    };
    (verb, subresource)
}

/// The common name and organizations of a certificate.
fn subject(der: &[u8]) -> Option<User> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|organization| organization.as_str().ok()).map(str::to_owned).collect();
    groups.push("system:authenticated".to_owned());
    Some(User { name, uid: String::new(), groups })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stand_for_subresources() {
        for (method, path, expect) in [
            (Method::GET, "/stats/summary", ("get", "stats")),
            (Method::GET, "/metrics", ("get", "metrics")),
            (Method::GET, "/metrics/cadvisor", ("get", "metrics")),
            (Method::GET, "/metricsx", ("get", "proxy")),
            (Method::POST, "/exec/ns/pod/c", ("create", "proxy")),
            (Method::GET, "/containerLogs/ns/pod/c", ("get", "proxy")),
            (Method::GET, "/pods", ("get", "pods")),
        ] {
            assert_eq!(attributes(&method, path), expect, "{method} {path}");
        }
    }
}
