//! Logging in to registries that ask for it only where an image is.
//!
//! `oci-client` asks `/v2/` how to log in, and sends no credentials when that answers without a challenge. Some registries
//! leave `/v2/` open and challenge on the manifest, which is as good by the distribution specification: containerd follows the
//! challenge of whatever request got it (`core/remotes/docker/resolver.go`).

use http_auth::parser::ChallengeParser;
use oci_client::errors::OciDistributionError;
use oci_client::token_cache::{RegistryToken, RegistryTokenType};
use oci_client::{Reference, secrets::RegistryAuth};

use crate::image::pull::{CONNECT_DEADLINE, PROGRESS_DEADLINE, USER_AGENT};

/// What a registry asks for.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// The token for what the manifest's own challenge asks; none when it asks for nothing that `auth` could give.
///
/// # Errors
/// When the registry or its token service can't be reached, or the latter refuses.
pub(crate) async fn by_manifest(
    remote: &Reference,
    plain: bool,
    auth: &RegistryAuth,
) -> Result<Option<RegistryTokenType>, OciDistributionError> {
    let client = reqwest::Client::builder()
        .connect_timeout(CONNECT_DEADLINE)
        .timeout(PROGRESS_DEADLINE)
        .user_agent(USER_AGENT)
        // Credentials are for whom the image's name names, not for whom that one names.
        .redirect(reqwest::redirect::Policy::none())
        .build()?;
    let scheme = if plain { "http" } else { "https" };
    let version = remote.digest().or(remote.tag()).unwrap_or("latest");
    let url = format!("{scheme}://{}/v2/{}/manifests/{version}", remote.resolve_registry(), remote.repository());
    let answer = client.get(&url).send().await?;
    let headers = answer.headers().get_all(reqwest::header::WWW_AUTHENTICATE);
    match (challenge(headers.iter().filter_map(|value| value.to_str().ok())), auth) {
        (Some(Challenge::Basic), RegistryAuth::Basic(user, password)) => {
            Ok(Some(RegistryTokenType::Basic(user.clone(), password.clone())))
        }
        (Some(Challenge::Bearer { realm, service, scope }), RegistryAuth::Basic(..) | RegistryAuth::Anonymous) => {
            let unsafe_realm = !plain && !realm.starts_with("https://");
            let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", remote.repository()));
            let mut request = client.get(&realm).query(&[("scope", &scope)]);
            if let Some(service) = service {
                request = request.query(&[("service", &service)]);
            }
            if let RegistryAuth::Basic(user, password) = auth {
                if unsafe_realm {
                    let why = format!("{url} asks to send credentials unencrypted, to {realm}");
                    return Err(OciDistributionError::AuthenticationFailure(why));
                }
                request = request.basic_auth(user, Some(password));
            }
            let answer = request.send().await?;
            if !answer.status().is_success() {
                let why = format!("{realm} answered {}", answer.status());
                return Err(OciDistributionError::AuthenticationFailure(why));
            }
            let token = answer.json::<RegistryToken>().await;
            let token = token.map_err(|error| OciDistributionError::RegistryTokenDecodeError(error.to_string()))?;
            Ok(Some(RegistryTokenType::Bearer(token)))
        }
        _ => Ok(None),
    }
}

/// The challenge to answer among those of some `WWW-Authenticate` headers: a token rather than the password itself.
fn challenge<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = None;
    for header in headers {
        for one in ChallengeParser::new(header).filter_map(Result::ok) {
            let parameter = |name: &str| {
                one.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_unescaped())
            };
            if one.scheme.eq_ignore_ascii_case("Bearer")
                && let Some(realm) = parameter("realm")
            {
                return Some(Challenge::Bearer { realm, service: parameter("service"), scope: parameter("scope") });
            }
            if one.scheme.eq_ignore_ascii_case("Basic") {
                basic = Some(Challenge::Basic);
            }
        }
    }
    basic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let bearer = Challenge::Bearer {
            realm: "https://auth.example/token".to_owned(),
            service: Some("registry".to_owned()),
            scope: Some("repository:a/b:pull".to_owned()),
        };
        let text = r#"Bearer realm="https://auth.example/token",service="registry",scope="repository:a/b:pull""#;
        for (headers, expected) in [
            (&[][..], None),
            (&["Negotiate"], None),
            (&["Bearer service=\"no realm\""], None),
            (&[r#"Basic realm="private""#], Some(Challenge::Basic)),
            (&[text], Some(bearer)),
        ] {
            assert_eq!(challenge(headers.iter().copied()), expected, "{headers:?}");
        }
        assert!(matches!(challenge([r#"Basic realm="x""#, text].into_iter()), Some(Challenge::Bearer { .. })));
    }
}
