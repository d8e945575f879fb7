//! Bootstrap tokens: `abcdef.0123456789abcdef`, kept in Secrets of type `bootstrap.kubernetes.io/token`.
//!
//! A node joins with one. Follows `plugin/pkg/auth/authenticator/token/bootstrap`.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use jiff::Timestamp;
use rand::Rng;
use serde_json::{Value, json};
use subtle::ConstantTimeEq;

use super::{ALL_AUTHENTICATED, Objects, UserInfo, Verified, token::Error};

/// The type of the Secrets.
pub const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
/// The namespace of the Secrets.
pub const NAMESPACE: &str = "kube-system";
/// The group of everyone who authenticates so.
pub const GROUP: &str = "system:bootstrappers";

const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;
const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// Whether a bearer token has the form of a bootstrap token.
#[must_use]
pub fn looks_like_one(token: &str) -> bool {
    split(token).is_some()
}

/// The name of the Secret of the token with this id.
#[must_use]
pub fn secret_name(id: &str) -> String {
    format!("bootstrap-token-{id}")
}

/// What a new token is for.
#[derive(Debug, Clone, Default)]
pub struct NewToken {
    /// The token; a random one when `None`.
    pub token: Option<String>,
    /// When it ends; never when `None`.
    pub expires: Option<Timestamp>,
    /// What people read about it.
    pub description: String,
    /// Groups besides `system:bootstrappers`, each beginning with `system:bootstrappers:`.
    pub groups: Vec<String>,
    /// Whether it signs `cluster-info` too.
    pub signing: bool,
}

/// Makes the Secret of a new token, and the token.
///
/// # Errors
///
/// When the given token or a group has not the required form.
pub fn new_secret(wanted: &NewToken) -> Result<(String, Value), String> {
    let token = wanted.token.clone().unwrap_or_else(random);
    let Some((id, secret)) = split(&token) else {
        return Err(format!("the bootstrap token is not of the form \"[a-z0-9]{{{ID_LENGTH}}}.[a-z0-9]{{{SECRET_LENGTH}}}\""));
    };
    if let Some(group) = wanted.groups.iter().find(|group| !is_bootstrap_group(group)) {
        return Err(format!(
            "bootstrap group {group:?} is invalid (must match \\Asystem:bootstrappers:[a-z0-9:-]{{0,255}}[a-z0-9]\\z)"
        ));
    }
    let mut data = json!({
        "token-id": id,
        "token-secret": secret,
        "usage-bootstrap-authentication": "true",
    });
    if wanted.signing {
        data["usage-bootstrap-signing"] = json!("true");
    }
    if let Some(expires) = wanted.expires {
        data["expiration"] = json!(expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    }
    if !wanted.description.is_empty() {
        data["description"] = json!(wanted.description);
    }
    if !wanted.groups.is_empty() {
        data["auth-extra-groups"] = json!(wanted.groups.join(","));
    }
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": secret_name(id), "namespace": NAMESPACE},
        "type": SECRET_TYPE,
        "stringData": data,
    });
    Ok((token, secret))
}

/// Tells whose a bootstrap token is.
///
/// # Errors
///
/// When there is no such token, or it is not (or no longer) for authentication. All causes read alike for the
/// client, which learns nothing about other people's tokens.
pub fn verify(token: &str, objects: &dyn Objects, now: Timestamp) -> Result<Verified, Error> {
    let (id, secret) = split(token).ok_or(Error::Bootstrap("not a bootstrap token"))?;
    let object = objects.get("", "secrets", NAMESPACE, &secret_name(id)).ok_or(Error::Bootstrap("unknown token id"))?;
    if !object["metadata"]["deletionTimestamp"].is_null() {
        return Err(Error::Bootstrap("secret is being deleted"));
    }
    if object["type"].as_str() != Some(SECRET_TYPE) {
        return Err(Error::Bootstrap("secret is of another type"));
    }
    let known = datum(&object, "token-secret").filter(|known| !known.is_empty()).ok_or(Error::Bootstrap("secret is empty"))?;
    if !bool::from(known.as_bytes().ct_eq(secret.as_bytes())) {
        return Err(Error::Bootstrap("wrong secret"));
    }
    if datum(&object, "token-id").as_deref() != Some(id) {
        return Err(Error::Bootstrap("token-id is another one"));
    }
    let expires = expiration(&object).map_err(Error::Bootstrap)?;
    if expires.is_some_and(|expires| expires <= now) {
        return Err(Error::Bootstrap("expired"));
    }
    if datum(&object, "usage-bootstrap-authentication").as_deref() != Some("true") {
        return Err(Error::Bootstrap("not for authentication"));
    }
    let mut groups = vec![GROUP.to_owned()];
    let extra = datum(&object, "auth-extra-groups").unwrap_or_default();
    for group in extra.split(',').filter(|group| !group.is_empty()) {
        if !is_bootstrap_group(group) {
            return Err(Error::Bootstrap("invalid group"));
        }
        groups.push(group.to_owned());
    }
    groups.push(ALL_AUTHENTICATED.into());
    let user = UserInfo::new(format!("system:bootstrap:{id}"), groups);
    Ok(Verified { user, audiences: None, expires: expires.map(Timestamp::as_second) })
}

/// When the token in a Secret ends, if it does.
///
/// # Errors
///
/// When its expiration is no RFC 3339 time; upstream counts such a token as expired.
pub fn expiration(secret: &Value) -> Result<Option<Timestamp>, &'static str> {
    match datum(secret, "expiration").as_deref() {
        None | Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| "expiration is no time"),
    }
}

fn random() -> String {
    let mut random = rand::rng();
    let mut part =
        |length: usize| -> String { (0..length).map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())])).collect() };
    format!("{}.{}", part(ID_LENGTH), part(SECRET_LENGTH))
}

fn split(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let good = |part: &str, length: usize| part.len() == length && part.bytes().all(|byte| ALPHABET.contains(&byte));
    (good(id, ID_LENGTH) && good(secret, SECRET_LENGTH)).then_some((id, secret))
}

fn is_bootstrap_group(group: &str) -> bool {
    group.strip_prefix("system:bootstrappers:").is_some_and(|rest| {
        rest.len() <= 256
            && rest.bytes().all(|byte| ALPHABET.contains(&byte) || byte == b':' || byte == b'-')
            && rest.bytes().last().is_some_and(|byte| ALPHABET.contains(&byte))
    })
}

fn datum(secret: &Value, key: &str) -> Option<String> {
    String::from_utf8(BASE64.decode(secret["data"][key].as_str()?).ok()?).ok()
}

#[cfg(test)]
mod tests;
