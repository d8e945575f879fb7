//! Tokens in parts, and the keys that sign them (RFC 7515, 7517, 7518).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
    RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde_json::Value;

/// What a key of an issuer may sign with. Upstream has ES512 too, which ring has not.
pub(super) const ALGORITHMS: [&str; 8] = ["RS256", "RS384", "RS512", "ES256", "ES384", "PS256", "PS384", "PS512"];

/// A compact JWS, not verified.
#[derive(Debug)]
pub(super) struct Token<'a> {
    header: Value,
    pub(super) claims: Value,
    signed: &'a str,
    signature: Vec<u8>,
}

impl<'a> Token<'a> {
    pub(super) fn parse(token: &'a str) -> Result<Self, String> {
        let (signed, signature) = token.rsplit_once('.').ok_or("it has no three parts")?;
        let (header, claims) =
            signed.split_once('.').filter(|(_, claims)| !claims.contains('.')).ok_or("it has no three parts")?;
        let json = |part: &str| -> Result<Value, String> {
            let bytes = BASE64.decode(part).map_err(|error| error.to_string())?;
            let value: Value = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
            if value.is_object() { Ok(value) } else { Err("a part is no object".to_owned()) }
        };
        let header = json(header)?;
        if !header["crit"].is_null() {
            return Err("it has critical extensions".to_owned());
        }
        let signature = BASE64.decode(signature).map_err(|error| error.to_string())?;
        Ok(Token { header, claims: json(claims)?, signed, signature })
    }

    pub(super) fn algorithm(&self) -> &str {
        self.header["alg"].as_str().unwrap_or_default()
    }

    /// Whether one of these keys signed it.
    pub(super) fn is_signed_by(&self, keys: &[Key]) -> bool {
        let id = self.header["kid"].as_str().unwrap_or_default();
        let mut candidates = keys.iter().filter(|key| id.is_empty() || key.id == id);
        let (signed, signature) = (self.signed.as_bytes(), self.signature.as_slice());
        candidates.any(|key| key.verifies(self.algorithm(), signed, signature))
    }
}

/// A public key of an issuer.
#[derive(Debug)]
pub(super) struct Key {
    id: String,
    material: Material,
}

#[derive(Debug)]
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// Uncompressed points: 0x04, X, Y.
    P256(Vec<u8>),
    P384(Vec<u8>),
}

impl Key {
    /// Reads a JWK; none if it is of a kind that signs nothing here.
    pub(super) fn from_jwk(jwk: &Value) -> Option<Self> {
        if jwk["use"].as_str().is_some_and(|usage| usage != "sig") {
            return None;
        }
        let number = |name: &str| BASE64.decode(jwk[name].as_str()?.trim_end_matches('=')).ok();
        let unsigned =
            |name: &str| number(name).map(|bytes| bytes.into_iter().skip_while(|byte| *byte == 0).collect::<Vec<u8>>());
        let point = |size: usize| {
            let (x, y) = (number("x")?, number("y")?);
            (x.len() == size && y.len() == size).then(|| [&[4_u8][..], x.as_slice(), y.as_slice()].concat())
        };
        let material = match (jwk["kty"].as_str()?, jwk["crv"].as_str()) {
            ("RSA", _) => Material::Rsa { n: unsigned("n")?, e: unsigned("e")? },
            ("EC", Some("P-256")) => Material::P256(point(32)?),
            ("EC", Some("P-384")) => Material::P384(point(48)?),
            _ => return None,
        };
        Some(Key { id: jwk["kid"].as_str().unwrap_or_default().to_owned(), material })
    }

    fn verifies(&self, algorithm: &str, signed: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Rsa { n, e } => {
                let Some(parameters) = rsa(algorithm) else { return false };
                RsaPublicKeyComponents { n, e }.verify(parameters, signed, signature).is_ok()
            }
            Material::P256(point) => {
                algorithm == "ES256" && UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(signed, signature).is_ok()
            }
            Material::P384(point) => {
                algorithm == "ES384" && UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point).verify(signed, signature).is_ok()
            }
        }
    }
}

fn rsa(algorithm: &str) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        "RS256" => &RSA_PKCS1_2048_8192_SHA256,
        "RS384" => &RSA_PKCS1_2048_8192_SHA384,
        "RS512" => &RSA_PKCS1_2048_8192_SHA512,
        "PS256" => &RSA_PSS_2048_8192_SHA256,
        "PS384" => &RSA_PSS_2048_8192_SHA384,
        "PS512" => &RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}
