//! `tokens-controller`: a Secret of type `kubernetes.io/service-account-token` that names a ServiceAccount gets its token, and
//! goes with it (`pkg/controller/serviceaccount/tokens_controller.go`).

use std::collections::BTreeMap;

use k8s_openapi::{
    ByteString,
    api::core::v1::{Secret, ServiceAccount},
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams, Preconditions},
};
use pharos_client::{Event, Key, Next, is_conflict};

use crate::{
    Result,
    config::SignToken,
    env::Env,
    error::{During as _, Error, gone_is_fine},
    owners,
};

const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

pub(crate) fn start(env: &Env) {
    let queue = env.queue("serviceaccount_tokens_secret");
    let put = queue.clone();
    env.informers.token_secrets.on_event(move |event| {
        if !matches!(event, Event::Deleted(_)) {
            put.add(Key::of(&**event.object()));
        }
    });
    let (put, secrets) = (queue.clone(), env.informers.token_secrets.clone());
    env.informers.service_accounts.on_event(move |event| {
        let account = event.object();
        for secret in secrets.in_namespace(account.metadata.namespace.as_deref().unwrap_or_default()) {
            if annotation(&secret, ACCOUNT_NAME) == Some(owners::name(&**account)) {
                put.add(Key::of(&*secret));
            }
        }
    });
    let (env_, client) = (env.clone(), env.client("generic-garbage-collector"));
    queue.spawn_workers(&env.ctx, 2, move |key| {
        let (env, client) = (env_.clone(), client.clone());
        async move { sync(&env, client, &key).await }
    });
}

fn annotation<'a>(secret: &'a Secret, name: &str) -> Option<&'a str> {
    secret.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// What is done about a Secret.
#[derive(Debug, PartialEq)]
enum Action {
    Keep,
    Fill(Box<Secret>),
    /// Its account is gone.
    Delete,
}

async fn sync(env: &Env, client: Client, key: &Key) -> Result<Next> {
    let Some(secret) = env.informers.token_secrets.get(key) else { return Ok(Next::Done) };
    let Some(name) = annotation(&secret, ACCOUNT_NAME) else { return Ok(Next::Done) };
    let account_key = Key::new(key.namespace.clone(), name);
    let mut account = env.informers.service_accounts.get(&account_key);
    if account.is_none() {
        // The cache may be older than the account: nothing is deleted on its word alone.
        let api: Api<ServiceAccount> = Api::namespaced(client.clone(), &key.namespace);
        account = gone_is_fine(api.get(name).await).during("get serviceaccount", &account_key)?.map(Into::into);
    }
    let api: Api<Secret> = Api::namespaced(client, &key.namespace);
    let sign = env.config.sign_token.as_ref();
    match decide(&secret, account.as_deref(), &env.config.root_ca_pem, sign)
        .map_err(|e| Error::refused("sign the token of", key, e))?
    {
        Action::Keep => {}
        Action::Fill(filled) => match api.replace(&key.name, &PostParams::default(), &filled).await {
            Err(error) if is_conflict(&error) => {} // Its event comes.
            result => _ = gone_is_fine(result).during("fill secret", key)?,
        },
        Action::Delete => {
            let preconditions = Preconditions { uid: secret.metadata.uid.clone(), resource_version: None };
            let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            gone_is_fine(api.delete(&key.name, &params).await).during("delete secret", key)?;
        }
    }
    Ok(Next::Done)
}

/// Decides on one Secret: whose account is gone, or another of its name, goes too; what is missing or old is filled in.
fn decide(secret: &Secret, account: Option<&ServiceAccount>, ca_pem: &str, sign: Option<&SignToken>) -> Result<Action, String> {
    if owners::is_deleting(secret) {
        return Ok(Action::Keep);
    }
    let named = annotation(secret, ACCOUNT_UID).unwrap_or_default();
    let Some(account) = account.filter(|account| named.is_empty() || named == owners::uid(*account)) else {
        return Ok(Action::Delete);
    };
    let namespace = secret.metadata.namespace.clone().unwrap_or_default();
    let mut data: BTreeMap<String, ByteString> = secret.data.clone().unwrap_or_default();
    if !ca_pem.is_empty() {
        data.insert("ca.crt".into(), ByteString(ca_pem.as_bytes().to_vec()));
    }
    if data.get("namespace").is_none_or(|value| value.0.is_empty()) {
        data.insert("namespace".into(), ByteString(namespace.clone().into_bytes()));
    }
    if data.get("token").is_none_or(|value| value.0.is_empty())
        && let Some(sign) = sign
    {
        let token = sign(&namespace, owners::name(account), owners::uid(account), owners::name(secret), owners::uid(secret));
        data.insert("token".into(), ByteString(token.map_err(|error| error.to_string())?.into_bytes()));
    }
    let mut filled = secret.clone();
    filled.data = Some(data);
    filled.metadata.annotations.get_or_insert_default().insert(ACCOUNT_UID.into(), owners::uid(account).into());
    Ok(if filled == *secret { Action::Keep } else { Action::Fill(Box::new(filled)) })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn filled_once_and_deleted_with_its_account() {
        let sign: SignToken = Arc::new(|ns, name, uid, secret, _| Ok(format!("{ns}/{name}/{uid}/{secret}")));
        let mut account = ServiceAccount::default();
        account.metadata.name = Some("robot".into());
        account.metadata.uid = Some("u1".into());
        let mut secret = Secret::default();
        secret.metadata.name = Some("robot-token".into());
        secret.metadata.namespace = Some("default".into());
        let Ok(Action::Fill(filled)) = decide(&secret, Some(&account), "PEM", Some(&sign)) else { panic!("not filled") };
        assert_eq!(filled.data.as_ref().unwrap()["token"].0, b"default/robot/u1/robot-token");
        assert_eq!(filled.data.as_ref().unwrap()["namespace"].0, b"default");
        assert_eq!(decide(&filled, Some(&account), "PEM", Some(&sign)), Ok(Action::Keep));
        assert_eq!(decide(&filled, None, "PEM", Some(&sign)), Ok(Action::Delete));
        account.metadata.uid = Some("u2".into());
        assert_eq!(decide(&filled, Some(&account), "PEM", Some(&sign)), Ok(Action::Delete));
    }
}
