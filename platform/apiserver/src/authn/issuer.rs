//! Issues ServiceAccount tokens, and publishes the keys to verify them with (OIDC discovery).
//!
//! Follows `pkg/registry/core/serviceaccount/storage/token.go` and `pkg/serviceaccount/openidmetadata.go`.

use jiff::{SignedDuration, Timestamp};
use pharos_telemetry::Clock;
use serde_json::{Value, json};

use super::{
    Objects,
    jws::{self, PublicKey, SigningKey},
    service_account_username,
    token::LEGACY_ISSUER,
};
use crate::authz::rules::strings;

/// What a kubelet asks for when it wants a token whose use after an hour is only counted, not refused.
const WARN_ONLY_SECONDS: i64 = 60 * 60 + 7;
/// How long such a token then really lives.
const EXTENDED_SECONDS: i64 = 365 * 24 * 60 * 60;
/// The shortest life of a token.
const MIN_SECONDS: i64 = 600;
/// The longest life that can be asked for.
const MAX_SECONDS: i64 = 1 << 32;
const DEFAULT_SECONDS: i64 = 3600;

/// Where the keys are published, below the issuer.
pub const JWKS_PATH: &str = "/openid/v1/jwks";
/// Where the discovery document is published, below the issuer.
pub const DISCOVERY_PATH: &str = "/.well-known/openid-configuration";

/// Settings of the issuer.
#[derive(Debug, Clone)]
pub struct Config {
    /// The issuer in every token, a URL. Default `https://kubernetes.default.svc.cluster.local`.
    pub issuer: String,
    /// The audiences of the API server; the first default is the issuer. Tokens that name none get these.
    pub api_audiences: Vec<String>,
    /// Where clients fetch the keys; below the issuer when `None`.
    pub jwks_uri: Option<String>,
    /// The longest life of a token in seconds, at least 3600; longer wishes are shortened. Default: none.
    pub max_expiration_seconds: Option<i64>,
}

impl Config {
    /// The defaults for a cluster domain such as `cluster.local`.
    #[must_use]
    pub fn for_domain(domain: &str) -> Self {
        let issuer = format!("https://kubernetes.default.svc.{domain}");
        Config { api_audiences: vec![issuer.clone()], issuer, jwks_uri: None, max_expiration_seconds: None }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::for_domain("cluster.local")
    }
}

/// Signs tokens, and knows the keys to verify them with.
pub struct TokenIssuer {
    config: Config,
    signing: SigningKey,
    keys: Vec<PublicKey>,
    clock: Clock,
}

/// Why a `TokenRequest` is refused; each variant is a kind of `Status`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refused {
    /// 400.
    #[error("{0}")]
    BadRequest(String),
    /// 422: the field, its value and what is wrong with it.
    #[error("{field}: Invalid value: {value}: {message}")]
    Invalid {
        /// The path of the field.
        field: &'static str,
        /// Its value.
        value: Value,
        /// What is wrong.
        message: &'static str,
    },
    /// 404: the ServiceAccount, or what the token shall be bound to.
    #[error("{resource} {name:?} not found")]
    NotFound {
        /// The resource.
        resource: &'static str,
        /// The object's name.
        name: String,
    },
    /// 409: the object the token shall be bound to was replaced.
    #[error("Operation cannot be fulfilled on {resource} {name:?}: {message}")]
    Conflict {
        /// The resource.
        resource: &'static str,
        /// The object's name.
        name: String,
        /// Why.
        message: String,
    },
    /// 500.
    #[error("sign token")]
    Sign(#[from] jws::Error),
}

impl TokenIssuer {
    /// An issuer that signs with one key; tokens signed with `old_keys` are still good.
    #[must_use]
    pub fn new(config: Config, signing: SigningKey, old_keys: Vec<PublicKey>, clock: Clock) -> Self {
        let mut keys = vec![signing.public().clone()];
        keys.extend(old_keys.into_iter().filter(|key| key != signing.public()));
        TokenIssuer { config, signing, keys, clock }
    }

    /// The issuer in every token.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.config.issuer
    }

    /// The audiences of the API server.
    #[must_use]
    pub fn api_audiences(&self) -> &[String] {
        &self.config.api_audiences
    }

    /// The keys a token may be signed with.
    #[must_use]
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }

    /// Answers a `TokenRequest` for a ServiceAccount: the request with its status filled in.
    ///
    /// # Errors
    ///
    /// See [`Refused`].
    pub fn request(&self, namespace: &str, name: &str, request: &Value, objects: &dyn Objects) -> Result<Value, Refused> {
        let account = objects
            .get("", "serviceaccounts", namespace, name)
            .ok_or_else(|| Refused::NotFound { resource: "serviceaccounts", name: name.to_owned() })?;
        for (field, wanted) in [("name", name), ("namespace", namespace)] {
            let given = request["metadata"][field].as_str().unwrap_or_default();
            if !given.is_empty() && given != wanted {
                return Err(Refused::BadRequest(format!(
                    "the {field} of the provided object does not match the {field} sent on the request"
                )));
            }
        }
        let seconds = request["spec"]["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS);
        let invalid = |message| Refused::Invalid { field: "spec.expirationSeconds", value: json!(seconds), message };
        if seconds < MIN_SECONDS {
            return Err(invalid("may not specify a duration less than 10 minutes"));
        }
        if seconds > MAX_SECONDS {
            return Err(invalid("may not specify a duration larger than 2^32 seconds"));
        }
        let mut audiences = strings(&request["spec"]["audiences"]);
        if audiences.is_empty() {
            audiences = self.config.api_audiences.clone();
        }
        let for_us = audiences.iter().all(|audience| self.config.api_audiences.contains(audience));
        let bound = Bound::read(&request["spec"]["boundObjectRef"], namespace, name, objects)?;

        let now = self.clock.now().as_second();
        let mut lifetime = self.config.max_expiration_seconds.map_or(seconds, |max| seconds.min(max));
        let asked = lifetime;
        let mut private = json!({
            "namespace": namespace,
            "serviceaccount": {"name": name, "uid": account["metadata"]["uid"]},
        });
        for (kind, reference) in bound.claims {
            private[kind] = reference;
        }
        if bound.to_pod && seconds == WARN_ONLY_SECONDS && for_us {
            lifetime = EXTENDED_SECONDS;
            private["warnafter"] = json!(now + asked);
        }
        let claims = json!({
            "aud": audiences,
            "exp": now + lifetime,
            "iat": now,
            "iss": self.config.issuer,
            "jti": uuid::Uuid::new_v4().to_string(),
            "kubernetes.io": private,
            "nbf": now,
            "sub": service_account_username(namespace, name),
        });
        let token = self.signing.sign(&claims)?;

        let mut answer = request.clone();
        answer["metadata"]["name"] = json!(name);
        answer["metadata"]["namespace"] = json!(namespace);
        answer["metadata"]["creationTimestamp"] = json!(rfc3339(now));
        answer["spec"]["audiences"] = claims["aud"].clone();
        answer["spec"]["expirationSeconds"] = json!(asked);
        // The client refreshes by what it asked for, not by the extended life.
        answer["status"] = json!({"token": token, "expirationTimestamp": rfc3339(now + asked)});
        Ok(answer)
    }

    /// The token for a Secret of type `kubernetes.io/service-account-token`; it ends with the Secret.
    ///
    /// # Errors
    ///
    /// When it cannot be signed.
    pub fn secret_token(&self, namespace: &str, account: &str, account_uid: &str, secret: &str) -> Result<String, jws::Error> {
        self.signing.sign(&json!({
            "iss": LEGACY_ISSUER,
            "kubernetes.io/serviceaccount/namespace": namespace,
            "kubernetes.io/serviceaccount/secret.name": secret,
            "kubernetes.io/serviceaccount/service-account.name": account,
            "kubernetes.io/serviceaccount/service-account.uid": account_uid,
            "sub": service_account_username(namespace, account),
        }))
    }

    /// The document at [`DISCOVERY_PATH`].
    #[must_use]
    pub fn discovery(&self) -> Value {
        let jwks_uri = self.config.jwks_uri.clone();
        json!({
            "issuer": self.config.issuer,
            "jwks_uri": jwks_uri.unwrap_or_else(|| format!("{}{JWKS_PATH}", self.config.issuer)),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    /// The document at [`JWKS_PATH`].
    #[must_use]
    pub fn jwks(&self) -> Value {
        json!({"keys": self.keys.iter().map(PublicKey::to_jwk).collect::<Vec<_>>()})
    }
}

impl std::fmt::Debug for TokenIssuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenIssuer").field("config", &self.config).finish_non_exhaustive()
    }
}

/// What a token is bound to.
#[derive(Default)]
struct Bound {
    claims: Vec<(&'static str, Value)>,
    to_pod: bool,
}

impl Bound {
    fn read(reference: &Value, namespace: &str, account: &str, objects: &dyn Objects) -> Result<Self, Refused> {
        if !reference.is_object() {
            return Ok(Bound::default());
        }
        let field = |name: &str| reference[name].as_str().unwrap_or_default();
        let (resource, scope) = match (field("apiVersion"), field("kind")) {
            ("v1", "Pod") => ("pods", namespace),
            ("v1", "Secret") => ("secrets", namespace),
            ("v1", "Node") => ("nodes", ""),
            (version, kind) => {
                let gvk = match version.split_once('/') {
                    Some((group, version)) => format!("{group}/{version}, Kind={kind}"),
                    None => format!("/{version}, Kind={kind}"),
                };
                return Err(Refused::BadRequest(format!("cannot bind token to object of type {gvk}")));
            }
        };
        let name = field("name");
        let object =
            objects.get("", resource, scope, name).ok_or_else(|| Refused::NotFound { resource, name: name.to_owned() })?;
        if resource == "pods" && object["spec"]["serviceAccountName"].as_str() != Some(account) {
            return Err(Refused::BadRequest(format!(
                "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
            )));
        }
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
        let wanted = field("uid");
        if !wanted.is_empty() && wanted != uid {
            return Err(Refused::Conflict {
                resource,
                name: name.to_owned(),
                message: format!(
                    "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
                ),
            });
        }
        let own = json!({"name": name, "uid": uid});
        let mut claims = Vec::new();
        match resource {
            "pods" => {
                claims.push(("pod", own));
                // The node it runs on goes in too; gone or not there yet, only its name is known.
                if let Some(node) = object["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) {
                    let mut claim = json!({"name": node});
                    if let Some(node) = objects.get("", "nodes", "", node) {
                        claim["uid"] = node["metadata"]["uid"].clone();
                    }
                    claims.push(("node", claim));
                }
            }
            "secrets" => claims.push(("secret", own)),
            _ => claims.push(("node", own)),
        }
        Ok(Bound { to_pod: resource == "pods", claims })
    }
}

fn rfc3339(second: i64) -> String {
    // Out of range only some 290,000 years from now.
    let time = Timestamp::from_second(second).unwrap_or(Timestamp::MAX);
    time.round(jiff::Unit::Second).unwrap_or(time).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// How long the documents may be cached by those who fetch them, as upstream says in `Cache-Control`.
pub const MAX_AGE: SignedDuration = SignedDuration::from_hours(1);
