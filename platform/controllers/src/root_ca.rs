//! `root-ca-cert-publisher`: every namespace has a ConfigMap `kube-root-ca.crt` (`pkg/controller/certificates/rootcacertpublisher`).

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, api::PostParams};
use pharos_client::{Event, Key, Next, is_already_exists, is_not_found};

use crate::{Result, env::Env, error::During as _, owners::is_deleting, pod_control::namespace_is_terminating};

const NAME: &str = "kube-root-ca.crt";
const DESCRIPTION: (&str, &str) = (
    "kubernetes.io/description",
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.",
);

pub(crate) fn start(env: &Env) {
    let queue = env.queue("root_ca_cert_publisher");
    let put = queue.clone();
    env.informers.namespaces.on_event(move |event| {
        if !matches!(event, Event::Deleted(_)) {
            put.add(Key::of(&**event.object()));
        }
    });
    let put = queue.clone();
    env.informers.root_ca.on_event(move |event| {
        if !matches!(event, Event::Added(_)) {
            put.add(Key::cluster(event.object().metadata.namespace.as_deref().unwrap_or_default()));
        }
    });
    let (env_, client) = (env.clone(), env.client("root-ca-cert-publisher"));
    queue.spawn_workers(&env.ctx, 1, move |key| {
        let (env, client) = (env_.clone(), client.clone());
        async move { sync(&env, client, &key).await }
    });
}

/// The ConfigMap as it is to be, or `None` if it is so already.
fn wanted(current: Option<&ConfigMap>, namespace: &str, ca_pem: &str) -> Option<ConfigMap> {
    let data = BTreeMap::from([("ca.crt".to_owned(), ca_pem.to_owned())]);
    let annotation = (DESCRIPTION.0.to_owned(), DESCRIPTION.1.to_owned());
    match current {
        None => Some(ConfigMap {
            metadata: ObjectMeta {
                name: Some(NAME.into()),
                namespace: Some(namespace.into()),
                annotations: Some([annotation].into()),
                ..ObjectMeta::default()
            },
            data: Some(data),
            ..ConfigMap::default()
        }),
        Some(current) => {
            let mut map = current.clone();
            map.metadata.annotations.get_or_insert_default().insert(annotation.0, annotation.1);
            map.data = Some(data);
            (map != *current).then_some(map)
        }
    }
}

async fn sync(env: &Env, client: kube::Client, key: &Key) -> Result<Next> {
    if env.informers.namespaces.get(key).is_none_or(|namespace| is_deleting(&*namespace)) {
        return Ok(Next::Done);
    }
    let current = env.informers.root_ca.get(&Key::new(key.name.clone(), NAME));
    let Some(map) = wanted(current.as_deref(), &key.name, &env.config.root_ca_pem) else { return Ok(Next::Done) };
    let api: Api<ConfigMap> = Api::namespaced(client, &key.name);
    let result = match current {
        None => api.create(&PostParams::default(), &map).await,
        Some(_) => api.replace(NAME, &PostParams::default(), &map).await,
    };
    match result {
        Err(error) if is_already_exists(&error) || is_not_found(&error) || namespace_is_terminating(&error) => Ok(Next::Done),
        result => result.during("publish the root CA in", key).map(|_| Next::Done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_once_and_repaired() {
        let made = wanted(None, "default", "PEM").unwrap();
        assert!(wanted(Some(&made), "default", "PEM").is_none());
        let mut broken = made.clone();
        broken.data = Some([("ca.crt".to_owned(), "other".to_owned())].into());
        assert_eq!(wanted(Some(&broken), "default", "PEM"), Some(made));
    }
}
