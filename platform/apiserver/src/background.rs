//! What the core does beside answering: indexes that follow the caches.

use std::sync::Arc;

use pharos_api::registry::Kind;
use pharos_store::{Cache, EventType, Item, Scope, Start};
use pharos_telemetry::Ctx;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::{
    Error, Result,
    admission::resource_quota,
    api::{self, Api},
    authn::{Objects, token::LAST_USED},
    authz,
    status::Status,
};

/// Uses of tokens in Secrets that wait to be written down; those beyond are told by their next use.
const MAX_USES: usize = 256;

/// Which tokens in Secrets were used on which day, as far as it is not written down.
pub(crate) struct Uses {
    sender: mpsc::Sender<Use>,
    receiver: tokio::sync::Mutex<mpsc::Receiver<Use>>,
}

/// Namespace, Secret, day.
type Use = (String, String, String);

impl Default for Uses {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(MAX_USES);
        Self { sender, receiver: receiver.into() }
    }
}

/// Objects out of the caches, for authentication.
pub(crate) struct CachedObjects(pub(crate) Api);

impl Objects for CachedObjects {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let (_, cache) = cache_of(&self.0, group, resource)?;
        let object = cache.get(namespace, name).0?;
        serde_json::from_slice(object.bytes()).ok().map(Arc::new)
    }

    fn note_use(&self, namespace: &str, secret: &str, day: &str) {
        // A full queue means that much is being written; the next use brings it back.
        let _ = self.0.0.uses.sender.try_send((namespace.to_owned(), secret.to_owned(), day.to_owned()));
    }
}

/// Writes down the day when a token in a Secret was last used, as its label.
async fn write_uses(api: Api, ctx: Ctx) {
    let user = crate::authn::UserInfo::new("system:apiserver", [authz::SYSTEM_MASTERS]);
    let objects = CachedObjects(api.clone());
    let mut uses = api.0.uses.receiver.lock().await;
    loop {
        let next = tokio::select! {
            biased;
            () = ctx.stopped() => return,
            next = uses.recv() => next,
        };
        let Some((namespace, name, day)) = next else { return };
        // Many requests may have told the same.
        let secret = objects.get("", "secrets", &namespace, &name);
        if secret.is_none_or(|secret| secret["metadata"]["labels"][LAST_USED] == day.as_str()) {
            continue;
        }
        let patch = serde_json::json!({"metadata": {"labels": {LAST_USED: day}}});
        let path = format!("/api/v1/namespaces/{namespace}/secrets/{name}");
        let outcome =
            crate::bootstrap::send(&api, &user, http::Method::PATCH, &path, "application/merge-patch+json", &patch).await;
        if let Err(error) = outcome {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(namespace, name, error, "the last use of a token is not written down");
        }
    }
}

/// The kind of a resource in its storage version, and its cache.
fn cache_of(api: &Api, group: &str, resource: &str) -> Option<(Arc<Kind>, Arc<Cache>)> {
    let registry = api.0.resources.registry();
    let kind = registry
        .kinds()
        .find(|kind| kind.plural == resource && kind.group == group && crate::convert::is_stored_version(kind))?
        .clone();
    let cache = api.0.storage.cache(&kind).ok()?;
    Some((kind, cache))
}

/// Fills the indexes from what is stored.
pub(crate) fn prime(api: &Api) -> Result<()> {
    for (group, resource) in authz::WATCHED {
        let Some((_, cache)) = cache_of(api, group, resource) else { continue };
        let snapshot = cache.snapshot();
        for (_, object) in snapshot.iter(&Scope::All, None) {
            if let Ok(value) = serde_json::from_slice(object.bytes()) {
                api.0.authorizer.apply(group, resource, object.namespace(), object.name(), Some(&value));
            }
        }
    }
    let _ = crate::flowcontrol::load(api);
    api::adopt_services(api)
}

/// Starts the tasks that keep the indexes up to date.
pub(crate) async fn start(api: &Api, ctx: &Ctx) -> Result<()> {
    for (group, resource) in authz::WATCHED {
        let Some((_, cache)) = cache_of(api, group, resource) else { continue };
        ctx.spawn("authorizer index", follow(api.clone(), ctx.clone(), cache, group, resource));
    }
    if let Some((_, cache)) = cache_of(api, "rbac.authorization.k8s.io", "clusterroles") {
        ctx.spawn("cluster role aggregation", aggregate(api.clone(), ctx.clone(), cache));
    }
    if let Some((_, cache)) = cache_of(api, "", "resourcequotas") {
        ctx.spawn("quota count", count_quotas(api.clone(), ctx.clone(), cache));
    }
    ctx.spawn("token uses", write_uses(api.clone(), ctx.clone()));
    crate::admission::webhook::follow(api, ctx);
    crate::admission::policy::follow(api, ctx);
    api.0.auditor.start(ctx);
    crate::aggregation::start(api, ctx);
    crate::custom::start(api, ctx);
    Ok(())
}

/// Counts what is in use for quotas that are new or limit something new; from then on every write keeps the count.
async fn count_quotas(api: Api, ctx: Ctx, cache: Arc<Cache>) {
    while !ctx.is_stopped() {
        let Ok(mut subscription) = cache.subscribe(Scope::All, Start::Initial) else { return };
        loop {
            let item = tokio::select! {
                biased;
                () = ctx.stopped() => return,
                item = subscription.next() => item,
            };
            match item {
                Ok(Item::Event(event)) if event.kind != EventType::Deleted => {
                    let object = &event.object;
                    if let Err(status) = count_quota(&api, object.namespace(), object.name()).await {
                        let error = status.message();
                        tracing::warn!(namespace = object.namespace(), name = object.name(), error, "quota not counted");
                    }
                }
                Ok(_) => {}
                Err(pharos_store::Error::Closed) => return,
                Err(_) => break,
            }
        }
    }
}

async fn count_quota(api: &Api, namespace: &str, name: &str) -> std::result::Result<(), Status> {
    loop {
        let Some(quota) = api.0.storage.object("", "resourcequotas", namespace, name).await? else { return Ok(()) };
        if quota["status"]["hard"] == quota["spec"]["hard"] {
            return Ok(());
        }
        let registry = api.0.resources.registry();
        let mut objects = Vec::new();
        for kind in registry.kinds().filter(|kind| kind.namespaced && crate::convert::is_stored_version(kind)) {
            let Ok(cache) = api.0.storage.cache(kind) else { continue };
            let snapshot = cache.snapshot();
            for (_, object) in snapshot.iter(&Scope::Namespace(namespace.to_owned()), None) {
                objects.push((kind.clone(), crate::storage::parse(object.bytes())?));
            }
        }
        let counted = resource_quota::recount(&quota, objects.iter().map(|(kind, object)| (&**kind, object)));
        let op = resource_quota::update(&quota, &counted)?;
        match api.0.storage.commit(vec![op]).await {
            Ok(_) => return Ok(()),
            Err(pharos_store::Error::Conflict { .. }) => {} // Count again.
            Err(error) => return Err(error.into()),
        }
    }
}

/// Tells the authorizer of every change of one resource.
async fn follow(api: Api, ctx: Ctx, cache: Arc<Cache>, group: &'static str, resource: &'static str) {
    while !ctx.is_stopped() {
        let Ok(mut subscription) = cache.subscribe(Scope::All, Start::Initial) else { return };
        // What was deleted while nobody looked is not in the initial state, and must not be believed in.
        let mut seen = Some(std::collections::HashSet::new());
        loop {
            let item = tokio::select! {
                biased;
                () = ctx.stopped() => return,
                item = subscription.next() => item,
            };
            match item {
                Ok(Item::Event(event)) => {
                    let object = &event.object;
                    let value = match event.kind {
                        EventType::Deleted => None,
                        EventType::Added | EventType::Modified => serde_json::from_slice::<Value>(object.bytes()).ok(),
                    };
                    if let Some(seen) = &mut seen {
                        seen.insert((object.namespace().to_owned(), object.name().to_owned()));
                    }
                    api.0.authorizer.apply(group, resource, object.namespace(), object.name(), value.as_ref());
                }
                Ok(Item::Synced(_)) => {
                    if let Some(seen) = seen.take() {
                        api.0.authorizer.retain(group, resource, &seen);
                    }
                }
                Err(pharos_store::Error::Closed) => return,
                Err(_) => break, // Fell behind: start over from the whole state.
            }
        }
    }
}

/// Keeps aggregated ClusterRoles the union of what they select.
async fn aggregate(api: Api, ctx: Ctx, cache: Arc<Cache>) {
    let user = crate::authn::UserInfo::new(
        "system:serviceaccount:kube-system:clusterrole-aggregation-controller",
        [authz::SYSTEM_MASTERS],
    );
    while !ctx.is_stopped() {
        let Ok(mut subscription) = cache.subscribe(Scope::All, Start::Initial) else { return };
        loop {
            let item = tokio::select! {
                biased;
                () = ctx.stopped() => return,
                item = subscription.next() => item,
            };
            match item {
                // Each event after the initial state may make an aggregate stale; the initial state does so once.
                Ok(Item::Synced(_)) => write_stale(&api, &user).await,
                Ok(Item::Event(_)) => {
                    while let Ok(Some(_)) = subscription.try_next() {}
                    write_stale(&api, &user).await;
                }
                Err(pharos_store::Error::Closed) => return,
                Err(_) => break,
            }
        }
    }
}

async fn write_stale(api: &Api, user: &crate::authn::UserInfo) {
    // Other tasks feed the authorizer; let them see what this one saw.
    tokio::task::yield_now().await;
    for (name, rules) in api.0.authorizer.stale_aggregations() {
        let patch = serde_json::json!({"rules": rules});
        let path = format!("/apis/rbac.authorization.k8s.io/v1/clusterroles/{name}");
        let outcome = crate::bootstrap::send(api, user, http::Method::PATCH, &path, "application/merge-patch+json", &patch).await;
        if let Err(Error::Bootstrap { message, .. }) = outcome {
            tracing::warn!(name, error = message, "aggregated cluster role not updated");
        }
    }
}
