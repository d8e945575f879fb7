//! ServiceAccount tokens: projected ones, bound to a pod, Secret or node, and the old ones kept in Secrets.
//!
//! Follows `pkg/serviceaccount/{jwt,claims,legacy}.go`.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use jiff::Timestamp;
use serde_json::Value;
use subtle::ConstantTimeEq;

use super::{CREDENTIAL_ID, Metrics, Objects, UserInfo, Verified, issuer::TokenIssuer, jws};
use crate::authz::rules::{quote_list, strings};

/// The issuer of tokens kept in Secrets.
pub const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

/// The day a token in a Secret was last used, as a label of the Secret.
pub const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// Since when the token of a Secret is not believed in, as a label of the Secret.
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

/// How far clocks may differ, in seconds; also how long something deleted is still believed in.
const LEEWAY_SECONDS: i64 = 60;

/// Why a bearer token is nobody's. The texts are upstream's, who puts them into `TokenReview`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// It is no token of ours, or was changed.
    #[error(transparent)]
    Signature(#[from] jws::Error),
    /// Another issuer's.
    #[error("unexpected issuer {0:?}")]
    Issuer(String),
    /// For other audiences.
    #[error("token audiences {} is invalid for the target audiences", quote_list(.audiences))]
    Audience {
        /// What it is for.
        audiences: Vec<String>,
    },
    /// Too old.
    #[error("service account token has expired")]
    Expired,
    /// Too young.
    #[error("service account token is not valid yet")]
    NotYet,
    /// The pod, Secret or node it is bound to is gone.
    #[error("service account token has been invalidated")]
    Invalidated,
    /// Somebody has marked the token, which was not used for long, invalid.
    #[error(
        "the token in {namespace}/{secret} for service account {namespace}/{account} has been marked invalid. Use tokens from the \
         TokenRequest API or manually created secret-based tokens, or remove the 'kubernetes.io/legacy-token-invalid-since' label \
         from the secret to temporarily allow use of this token"
    )]
    MarkedInvalid {
        /// Where it is.
        namespace: String,
        /// Its Secret.
        secret: String,
        /// Whose it is.
        account: String,
    },
    /// Its ServiceAccount is gone.
    #[error("service account {0}/{1} has been deleted")]
    ServiceAccountDeleted(String, String),
    /// Its ServiceAccount does not exist.
    #[error("serviceaccounts {0:?} not found")]
    ServiceAccountNotFound(String),
    /// A later object has the name of the one it is bound to.
    #[error("{kind} UID ({found}) does not match {claim} ({claimed})")]
    Uid {
        /// What it is bound to.
        kind: &'static str,
        /// Upstream's name for where the other uid stands.
        claim: &'static str,
        /// The uid of the object that exists.
        found: String,
        /// The uid in the token.
        claimed: String,
    },
    /// A claim every token has is missing or empty.
    #[error("{0} claim is missing")]
    Claim(&'static str),
    /// No such bootstrap token; the reason is for the log.
    #[error("bootstrap token is not valid: {0}")]
    Bootstrap(&'static str),
}

/// Verifies a ServiceAccount token for any of these audiences.
pub(super) fn verify(
    token: &str,
    audiences: &[String],
    issuer: &TokenIssuer,
    objects: &dyn Objects,
    now: Timestamp,
    metrics: &Metrics,
) -> Result<Verified, Error> {
    // The issuer is looked at first: another's token is refused without the cost of a signature.
    let claimed = jws::peek(token)?;
    let named = claimed["iss"].as_str().unwrap_or_default();
    let legacy = named == LEGACY_ISSUER;
    if !legacy && named != issuer.issuer() {
        return Err(Error::Issuer(named.to_owned()));
    }
    let claims = jws::verify(token, issuer.keys())?;
    let check = Check { claims: &claims, objects, now: now.as_second() };
    if legacy {
        let user = check.legacy(token)?;
        metrics.legacy_tokens.inc();
        // They have no audiences, which means this API server's.
        if !audiences.iter().any(|audience| issuer.api_audiences().contains(audience)) {
            return Err(Error::Audience { audiences: Vec::new() });
        }
        return Ok(Verified { user, audiences: Some(issuer.api_audiences().to_vec()), expires: None });
    }
    let granted = match &claims["aud"] {
        Value::String(one) => vec![one.clone()],
        list => strings(list),
    };
    if !granted.iter().any(|audience| audiences.contains(audience)) {
        return Err(Error::Audience { audiences: granted });
    }
    let user = check.bound()?;
    match claims["kubernetes.io"]["warnafter"].as_i64() {
        None | Some(0) => {}
        Some(warn_after) if now.as_second() > warn_after => metrics.stale_tokens.inc(),
        Some(_) => metrics.valid_tokens.inc(),
    }
    Ok(Verified { user, audiences: Some(granted), expires: claims["exp"].as_i64() })
}

/// The claims of a token whose signature is good, and what to hold them against.
struct Check<'a> {
    claims: &'a Value,
    objects: &'a dyn Objects,
    now: i64,
}

impl Check<'_> {
    /// A projected token: in time, and everything it names is still there.
    fn bound(&self) -> Result<UserInfo, Error> {
        let expires = self.claims["exp"].as_i64().ok_or(Error::Claim("exp"))?;
        if self.now >= expires.saturating_add(LEEWAY_SECONDS) {
            return Err(Error::Expired);
        }
        if self.claims["nbf"].as_i64().is_some_and(|from| self.now < from.saturating_sub(LEEWAY_SECONDS)) {
            return Err(Error::NotYet);
        }
        let private = &self.claims["kubernetes.io"];
        let namespace = text(&private["namespace"]);
        let account = &private["serviceaccount"];
        let mut user = self.service_account(namespace, text(&account["name"]), text(&account["uid"]))?;
        let mut put = |key: &str, value: String| {
            user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
        };
        let secret = &private["secret"];
        if secret.is_object() {
            self.still_there("secret", "service account secret ref claim", "secrets", namespace, secret)?;
        }
        let pod = &private["pod"];
        let node = &private["node"];
        if pod.is_object() {
            self.still_there("pod", "service account pod ref claim", "pods", namespace, pod)?;
            put("pod-name", text(&pod["name"]).to_owned());
            put("pod-uid", text(&pod["uid"]).to_owned());
        } else if node.is_object() {
            // A node claim beside a pod's is information; alone it binds the token to the node.
            self.still_there("node", "service account node ref claim", "nodes", "", node)?;
        }
        if node.is_object() {
            put("node-name", text(&node["name"]).to_owned());
            if !text(&node["uid"]).is_empty() {
                put("node-uid", text(&node["uid"]).to_owned());
            }
        }
        if let Some(id) = self.claims["jti"].as_str().filter(|id| !id.is_empty()) {
            user.extra.insert(CREDENTIAL_ID.into(), vec![format!("JTI={id}")]);
        }
        Ok(user)
    }

    /// A token out of a Secret, which must still hold it.
    fn legacy(&self, token: &str) -> Result<UserInfo, Error> {
        let claim = |name: &str| text(&self.claims[format!("kubernetes.io/serviceaccount/{name}").as_str()]);
        let namespace = claim("namespace");
        if namespace.is_empty() {
            return Err(Error::Claim("namespace"));
        }
        let secret_name = claim("secret.name");
        if secret_name.is_empty() {
            return Err(Error::Claim("secretName"));
        }
        let secret = self.objects.get("", "secrets", namespace, secret_name).ok_or(Error::Invalidated)?;
        let held = secret["data"]["token"].as_str().and_then(|data| BASE64.decode(data).ok()).unwrap_or_default();
        if self.deleted(&secret) || !bool::from(held.as_slice().ct_eq(token.as_bytes())) {
            return Err(Error::Invalidated);
        }
        let account = claim("service-account.name");
        let user = self.service_account(namespace, account, claim("service-account.uid"))?;
        let label = |name: &str| text(&secret["metadata"]["labels"][name]);
        if !label(INVALID_SINCE).is_empty() {
            let (namespace, secret) = (namespace.to_owned(), secret_name.to_owned());
            return Err(Error::MarkedInvalid { namespace, secret, account: account.to_owned() });
        }
        let day =
            |seconds: i64| Timestamp::from_second(seconds).map(|at| at.strftime("%Y-%m-%d").to_string()).unwrap_or_default();
        // Another server's clock may be a day ahead.
        if ![day(self.now), day(self.now.saturating_add(24 * 3600))].iter().any(|day| day == label(LAST_USED)) {
            self.objects.note_use(namespace, secret_name, &day(self.now));
        }
        Ok(user)
    }

    fn service_account(&self, namespace: &str, name: &str, uid: &str) -> Result<UserInfo, Error> {
        if namespace.is_empty() || name.is_empty() {
            return Err(Error::Claim("serviceAccountName"));
        }
        if uid.is_empty() {
            return Err(Error::Claim("serviceAccountUID"));
        }
        // The public subject must say the same, so that both readings of a token agree.
        if self.claims["sub"].as_str() != Some(super::service_account_username(namespace, name).as_str()) {
            return Err(Error::Claim("sub"));
        }
        let account = self
            .objects
            .get("", "serviceaccounts", namespace, name)
            .ok_or_else(|| Error::ServiceAccountNotFound(name.to_owned()))?;
        if self.deleted(&account) {
            return Err(Error::ServiceAccountDeleted(namespace.to_owned(), name.to_owned()));
        }
        let found = text(&account["metadata"]["uid"]);
        if found != uid {
            return Err(Error::Uid { kind: "service account", claim: "claim", found: found.into(), claimed: uid.into() });
        }
        Ok(UserInfo::service_account(namespace, name, uid))
    }

    fn still_there(
        &self,
        kind: &'static str,
        claim: &'static str,
        resource: &str,
        namespace: &str,
        reference: &Value,
    ) -> Result<(), Error> {
        let object = self.objects.get("", resource, namespace, text(&reference["name"])).ok_or(Error::Invalidated)?;
        if self.deleted(&object) {
            return Err(Error::Invalidated);
        }
        let (found, claimed) = (text(&object["metadata"]["uid"]), text(&reference["uid"]));
        if found == claimed { Ok(()) } else { Err(Error::Uid { kind, claim, found: found.into(), claimed: claimed.into() }) }
    }

    /// Whether an object should have been gone for a while; its last moments (grace period included) still count.
    fn deleted(&self, object: &Value) -> bool {
        object["metadata"]["deletionTimestamp"]
            .as_str()
            .and_then(|time| time.parse::<Timestamp>().ok())
            .is_some_and(|time| time.as_second() < self.now - LEEWAY_SECONDS)
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests;
