//! `token-cleaner`: a bootstrap token that has expired is deleted (`pkg/controller/bootstrap/tokencleaner.go`).

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    api::{DeleteParams, Preconditions},
};
use pharos_client::{Event, Key, Next, is_conflict};

use crate::{
    Result,
    env::Env,
    error::{During as _, gone_is_fine},
    owners,
};

/// Clocks may be set: a token is looked at again after this time at the latest.
const LOOK_AGAIN: Duration = Duration::from_secs(24 * 3600);

pub(crate) fn start(env: &Env) {
    let queue = env.queue("token_cleaner");
    let put = queue.clone();
    env.informers.bootstrap_tokens.on_event(move |event| {
        if !matches!(event, Event::Deleted(_)) {
            put.add(Key::of(&**event.object()));
        }
    });
    let (env_, client) = (env.clone(), env.client("token-cleaner"));
    queue.spawn_workers(&env.ctx, 1, move |key| {
        let (env, client) = (env_.clone(), client.clone());
        async move { sync(&env, client, &key).await }
    });
}

async fn sync(env: &Env, client: Client, key: &Key) -> Result<Next> {
    let Some(secret) = env.informers.bootstrap_tokens.get(key) else { return Ok(Next::Done) };
    if owners::is_deleting(&*secret) {
        return Ok(Next::Done);
    }
    match left(&secret, env.ctx.clock().now()) {
        None => Ok(Next::Done),
        Some(Duration::ZERO) => {
            let preconditions = Preconditions { uid: secret.metadata.uid.clone(), resource_version: None };
            let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            let api: Api<Secret> = Api::namespaced(client, &key.namespace);
            match api.delete(&key.name, &params).await {
                Err(error) if is_conflict(&error) => {} // Another token has its name now; its event comes.
                result => _ = gone_is_fine(result).during("delete secret", key)?,
            }
            Ok(Next::Done)
        }
        Some(left) => Ok(Next::After(left.min(LOOK_AGAIN))),
    }
}

/// How long a token is still valid; `None` is for ever. What is no date has passed, as in upstream.
fn left(secret: &Secret, now: Timestamp) -> Option<Duration> {
    let expiration = secret.data.as_ref()?.get("expiration").filter(|bytes| !bytes.0.is_empty())?;
    let expiration = std::str::from_utf8(&expiration.0).ok().and_then(|text| text.parse::<Timestamp>().ok());
    let left = expiration.and_then(|expiration| Duration::try_from(expiration.duration_since(now)).ok());
    Some(left.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    #[test]
    fn tokens_expire() {
        let now: Timestamp = "2026-05-01T12:00:00Z".parse().unwrap();
        for (expiration, expected) in [
            (None, None),
            (Some(""), None),
            (Some("2026-05-01T12:00:30Z"), Some(30)),
            (Some("2026-05-01T14:00:30+02:00"), Some(30)),
            (Some("2026-05-01T12:00:00Z"), Some(0)),
            (Some("2026-05-01T11:59:59Z"), Some(0)),
            (Some("tomorrow"), Some(0)),
        ] {
            let data = expiration.map(|text| ("expiration".to_owned(), ByteString(text.as_bytes().to_vec())));
            let secret = Secret { data: Some(data.into_iter().collect()), ..Secret::default() };
            assert_eq!(left(&secret, now), expected.map(Duration::from_secs), "{expiration:?}");
        }
        assert_eq!(left(&Secret::default(), now), None);
    }
}
