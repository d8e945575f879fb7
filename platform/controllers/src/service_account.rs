//! `serviceaccount`: every namespace has a ServiceAccount `default` (`pkg/controller/serviceaccount`).

use k8s_openapi::{api::core::v1::ServiceAccount, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, api::PostParams};
use pharos_client::{Event, Key, Next, is_already_exists, is_not_found};

use crate::{Result, env::Env, error::During as _, owners::is_deleting, pod_control::namespace_is_terminating};

pub(crate) fn start(env: &Env) {
    let queue = env.queue("serviceaccount");
    let put = queue.clone();
    env.informers.namespaces.on_event(move |event| {
        if !matches!(event, Event::Deleted(_)) {
            put.add(Key::of(&**event.object()));
        }
    });
    let put = queue.clone();
    env.informers.service_accounts.on_event(move |event| {
        if let Event::Deleted(account) = event
            && account.metadata.name.as_deref() == Some("default")
        {
            put.add(Key::cluster(account.metadata.namespace.as_deref().unwrap_or_default()));
        }
    });
    let (env_, client) = (env.clone(), env.client("service-account-controller"));
    queue.spawn_workers(&env.ctx, 1, move |key| {
        let (env, client) = (env_.clone(), client.clone());
        async move { sync(&env, client, &key).await }
    });
}

async fn sync(env: &Env, client: kube::Client, key: &Key) -> Result<Next> {
    let wanted = env.informers.namespaces.get(key).is_some_and(|namespace| !is_deleting(&*namespace));
    if !wanted || env.informers.service_accounts.get(&Key::new(key.name.clone(), "default")).is_some() {
        return Ok(Next::Done);
    }
    let account = ServiceAccount {
        metadata: ObjectMeta { name: Some("default".into()), namespace: Some(key.name.to_string()), ..ObjectMeta::default() },
        ..ServiceAccount::default()
    };
    match Api::<ServiceAccount>::namespaced(client, &key.name).create(&PostParams::default(), &account).await {
        Err(error) if is_already_exists(&error) || is_not_found(&error) || namespace_is_terminating(&error) => Ok(Next::Done),
        result => result.during("create serviceaccount default in", key).map(|_| Next::Done),
    }
}
