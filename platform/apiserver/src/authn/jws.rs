//! Compact JWS with ES256 (RFC 7515, RFC 7518 §3.4), all the JWT cryptography this cluster's own tokens need.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What can be wrong with a key or a token.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Not three dot-separated base64url parts of JSON.
    #[error("token is not a compact JWS")]
    Malformed,
    /// Signed by an algorithm other than ES256.
    #[error("unexpected signature algorithm {0:?}; expected [\"ES256\"]")]
    Algorithm(String),
    /// Signed by a key we do not have.
    #[error("no key with id {0:?}")]
    UnknownKey(String),
    /// Signed by another key than it says, or changed since.
    #[error("signature does not match")]
    Signature,
    /// The key is not a P-256 key in PKCS #8.
    #[error("not a P-256 key in PKCS #8 ({0})")]
    Key(String),
    /// The random generator failed.
    #[error("sign token")]
    Sign,
}

/// A P-256 key that signs.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    public: PublicKey,
}

/// A P-256 key that verifies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    id: String,
    /// Uncompressed: 0x04, X, Y.
    point: [u8; 65],
}

impl SigningKey {
    /// Makes a new key, as PKCS #8 DER.
    ///
    /// # Errors
    ///
    /// When the random generator fails.
    pub fn generate() -> Result<Vec<u8>, Error> {
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .map(|document| document.as_ref().to_vec())
            .map_err(|_| Error::Sign)
    }

    /// Reads a key from PKCS #8 DER.
    ///
    /// # Errors
    ///
    /// When it is not a P-256 key.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, Error> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &SystemRandom::new())
            .map_err(|error| Error::Key(error.to_string()))?;
        let public = PublicKey::from_point(pair.public_key().as_ref())?;
        Ok(SigningKey { pair, public })
    }

    /// Reads a key from PEM (`BEGIN PRIVATE KEY`).
    ///
    /// # Errors
    ///
    /// When it is not a P-256 key.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        let body: String = pem
            .lines()
            .skip_while(|line| !line.starts_with("-----BEGIN PRIVATE KEY-----"))
            .skip(1)
            .take_while(|line| !line.starts_with("-----END"))
            .map(str::trim)
            .collect();
        let der = base64::engine::general_purpose::STANDARD.decode(body).map_err(|error| Error::Key(error.to_string()))?;
        Self::from_pkcs8(&der)
    }

    /// The key to verify with.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs claims into a token.
    ///
    /// # Errors
    ///
    /// When the random generator fails.
    pub fn sign(&self, claims: &Value) -> Result<String, Error> {
        let header = json!({"alg": "ES256", "kid": self.public.id});
        let mut token = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
        let signature = self.pair.sign(&SystemRandom::new(), token.as_bytes()).map_err(|_| Error::Sign)?;
        token.push('.');
        BASE64.encode_string(signature, &mut token);
        Ok(token)
    }
}

impl PublicKey {
    fn from_point(point: &[u8]) -> Result<Self, Error> {
        let point: [u8; 65] = point.try_into().map_err(|_| Error::Key("point of another curve".into()))?;
        // RFC 7638: the SHA-256 of the members in order, no spaces.
        let thumbprint = format!(
            r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#,
            BASE64.encode(&point[1..33]),
            BASE64.encode(&point[33..])
        );
        Ok(PublicKey { id: BASE64.encode(Sha256::digest(thumbprint)), point })
    }

    /// Reads a key from a JWK.
    ///
    /// # Errors
    ///
    /// When it is not a P-256 key.
    pub fn from_jwk(jwk: &Value) -> Result<Self, Error> {
        let coordinate = |name: &str| {
            let text = jwk[name].as_str().unwrap_or_default();
            BASE64.decode(text).map_err(|error| Error::Key(error.to_string()))
        };
        let mut point = vec![4];
        point.extend(coordinate("x")?);
        point.extend(coordinate("y")?);
        Self::from_point(&point)
    }

    /// The key's id: its JWK thumbprint (RFC 7638).
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The key as a JWK.
    #[must_use]
    pub fn to_jwk(&self) -> Value {
        json!({
            "use": "sig",
            "kty": "EC",
            "kid": self.id,
            "crv": "P-256",
            "alg": "ES256",
            "x": BASE64.encode(&self.point[1..33]),
            "y": BASE64.encode(&self.point[33..]),
        })
    }
}

/// The claims of a token, read without believing them.
///
/// # Errors
///
/// When it is no token.
pub fn peek(token: &str) -> Result<Value, Error> {
    let (signed, _) = token.rsplit_once('.').ok_or(Error::Malformed)?;
    let (header, claims) = signed.split_once('.').ok_or(Error::Malformed)?;
    if header.is_empty() || claims.contains('.') {
        return Err(Error::Malformed);
    }
    json_part(claims)
}

/// The claims of a token that one of these keys signed.
///
/// # Errors
///
/// When it is no token, or none of the keys signed it.
pub fn verify(token: &str, keys: &[PublicKey]) -> Result<Value, Error> {
    let claims = peek(token)?;
    let (signed, signature) = token.rsplit_once('.').ok_or(Error::Malformed)?;
    let (header, _) = signed.split_once('.').ok_or(Error::Malformed)?;
    let header = json_part(header)?;
    // The algorithm is fixed, so a token cannot choose a weaker one; `crit` names extensions we do not know.
    match header["alg"].as_str() {
        Some("ES256") if header["crit"].is_null() => {}
        other => return Err(Error::Algorithm(other.unwrap_or_default().to_owned())),
    }
    let signature = BASE64.decode(signature).map_err(|_| Error::Malformed)?;
    let by = |key: &PublicKey| {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &key.point).verify(signed.as_bytes(), &signature).is_ok()
    };
    match header["kid"].as_str() {
        Some(id) => {
            let key = keys.iter().find(|key| key.id == id).ok_or_else(|| Error::UnknownKey(id.to_owned()))?;
            by(key).then_some(claims).ok_or(Error::Signature)
        }
        None => keys.iter().any(by).then_some(claims).ok_or(Error::Signature),
    }
}

fn json_part(part: &str) -> Result<Value, Error> {
    let bytes = BASE64.decode(part).map_err(|_| Error::Malformed)?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|_| Error::Malformed)?;
    value.is_object().then_some(value).ok_or(Error::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SigningKey {
        SigningKey::from_pkcs8(&SigningKey::generate().unwrap()).unwrap()
    }

    #[test]
    fn signs_and_verifies() {
        let (ours, other) = (key(), key());
        let claims = json!({"iss": "us", "n": 1});
        let token = ours.sign(&claims).unwrap();
        assert_eq!(verify(&token, &[other.public().clone(), ours.public().clone()]), Ok(claims));
        assert!(matches!(verify(&token, &[other.public().clone()]), Err(Error::UnknownKey(_))));
        assert_eq!(PublicKey::from_jwk(&ours.public().to_jwk()), Ok(ours.public().clone()));
    }

    #[test]
    fn refuses_what_was_changed() {
        let key = key();
        let token = key.sign(&json!({"admin": false})).unwrap();
        let keys = [key.public().clone()];
        let parts: Vec<&str> = token.split('.').collect();
        let check = |header: &Value, claims: &Value, signature: &str, want: Error| {
            let token = format!("{}.{}.{signature}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
            assert_eq!(verify(&token, &keys), Err(want), "{header} {claims}");
        };
        let kid = key.public().id();
        let good = json!({"alg": "ES256", "kid": kid});
        check(&good, &json!({"admin": true}), parts[2], Error::Signature);
        check(&good, &json!({"admin": false}), "", Error::Signature);
        check(&json!({"alg": "none"}), &json!({}), "", Error::Algorithm("none".into()));
        check(&json!({"alg": "HS256", "kid": kid}), &json!({}), parts[2], Error::Algorithm("HS256".into()));
        check(&json!({"alg": "ES256"}), &json!({"admin": true}), parts[2], Error::Signature);
        for bad in ["", "a", "a.b", "a.b.c", "..", "a.b.c.d", &format!("{token}x.y")] {
            assert!(verify(bad, &keys).is_err(), "{bad}");
        }
    }
}
