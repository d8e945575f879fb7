//! Whether other API servers answer, said in their APIServices' `Available` condition.
//!
//! Follows `pkg/controllers/status/remote/remote_available_controller.go`.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::Method;
use pharos_store::{Cache, Item, Scope, Start, Subscription};
use pharos_telemetry::Ctx;
use pharos_transport::Body;
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use super::{Found, GROUP, RESOURCE, Remote, definition, introduce, registration, specification};
use crate::{api::Api, authn::UserInfo, authz::SYSTEM_MASTERS, bootstrap, names, outbound, services};

/// How often a server is asked though nothing has changed here: it may have failed by itself.
const PERIOD: Duration = Duration::from_secs(30);
/// How long it has to answer.
const TIMEOUT: Duration = Duration::from_secs(6);
/// Servers asked at once.
const PARALLEL: usize = 8;
/// The largest document of discovery read.
const MAX_BYTES: usize = 16 << 20;

/// What the condition says.
struct Verdict {
    available: bool,
    reason: &'static str,
    message: String,
}

fn bad(reason: &'static str, message: String) -> Verdict {
    Verdict { available: false, reason, message }
}

/// Follows APIServices and what is behind them.
pub(crate) fn start(api: &Api, ctx: &Ctx) {
    ctx.spawn("api services", follow(api.clone(), ctx.clone()));
    ctx.spawn("own api services", registration::follow(api.clone(), ctx.clone()));
}

pub(super) fn cache(api: &Api, group: &str, resource: &str) -> Option<Arc<Cache>> {
    let kind = api.0.resources.lookup(group, "v1", resource)?;
    api.0.storage.cache(&kind).ok()
}

async fn follow(api: Api, ctx: Ctx) {
    let watched = [(GROUP, RESOURCE), ("", "services"), ("discovery.k8s.io", "endpointslices")];
    let caches: Vec<Arc<Cache>> = watched.iter().filter_map(|(group, resource)| cache(&api, group, resource)).collect();
    let [definitions, services, slices] = caches.as_slice() else { return };
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !ctx.is_stopped() {
        let subscribe = |cache: &Arc<Cache>| cache.subscribe(Scope::All, Start::Now);
        let (Ok(mut definitions_changed), Ok(mut services_changed), Ok(mut slices_changed)) =
            (subscribe(definitions), subscribe(services), subscribe(slices))
        else {
            return;
        };
        load(&api, definitions);
        check(&api, definitions).await;
        loop {
            let concerned = tokio::select! {
                biased;
                () = ctx.stopped() => return,
                item = definitions_changed.next() => item.map(|item| about_others(&api, &item, &mut definitions_changed)),
                item = services_changed.next() => item.map(|item| concerns(&api, &item, &mut services_changed)),
                item = slices_changed.next() => item.map(|item| concerns(&api, &item, &mut slices_changed)),
                _ = ticks.tick() => Ok(!api.0.aggregation.remotes.load().is_empty()),
            };
            match concerned {
                Ok(true) => {
                    load(&api, definitions);
                    check(&api, definitions).await;
                }
                Ok(false) => {}
                Err(pharos_store::Error::Closed) => return,
                Err(_) => break, // Fell behind: start over from the whole state.
            }
        }
    }
}

/// Whether a change of APIServices, or one that is there already, is about another server. Those of this server's own groups
/// are available from their beginning, and nobody is to be asked because of them.
fn about_others(api: &Api, first: &Item, subscription: &mut Subscription) -> bool {
    let remotes = api.0.aggregation.remotes.load();
    let about = |item: &Item| {
        let Item::Event(event) = item else { return false };
        let object: Value = serde_json::from_slice(event.object.bytes()).unwrap_or_default();
        let was = || remotes.values().any(|remote| remote.name == event.object.name());
        object["spec"]["service"].is_object() || !object["status"]["conditions"].is_array() || was()
    };
    let mut any = about(first);
    while let Ok(Some(item)) = subscription.try_next() {
        any |= about(&item);
    }
    any
}

/// Whether a change of Services or endpoints, or one that is there already, is about another server.
fn concerns(api: &Api, first: &Item, subscription: &mut Subscription) -> bool {
    let remotes = api.0.aggregation.remotes.load();
    let about = |item: &Item| {
        let Item::Event(event) = item else { return false };
        let service = event.object.label("kubernetes.io/service-name").unwrap_or_else(|| event.object.name());
        remotes.values().any(|remote| remote.namespace == event.object.namespace() && remote.service == service)
    };
    let mut any = about(first);
    while let Ok(Some(item)) = subscription.try_next() {
        any |= about(&item);
    }
    any
}

pub(super) fn objects(definitions: &Cache) -> Vec<Value> {
    let snapshot = definitions.snapshot();
    snapshot.iter(&Scope::All, None).filter_map(|(_, object)| serde_json::from_slice(object.bytes()).ok()).collect()
}

/// Takes the APIServices as they are now; what is known of unchanged ones stays known.
fn load(api: &Api, definitions: &Cache) {
    let before = api.0.aggregation.remotes.load_full();
    let mut after = HashMap::new();
    for object in objects(definitions) {
        let Some(remote) = definition::remote(api, &object) else { continue };
        let key = (remote.group.clone(), remote.version.clone());
        if is_local(api, &remote) {
            continue;
        }
        let kept = before.get(&key).filter(|known| known.spec == remote.spec).cloned();
        after.insert(key, kept.unwrap_or_else(|| Arc::new(remote)));
    }
    let same =
        before.len() == after.len() && after.iter().all(|(key, new)| before.get(key).is_some_and(|old| Arc::ptr_eq(old, new)));
    if !same {
        api.0.aggregation.remotes.store(Arc::new(after));
        api.0.resources.forget_documents();
    }
}

/// Whether this server has that group version itself.
fn is_local(api: &Api, remote: &Remote) -> bool {
    api.0.resources.registry().kinds().any(|kind| kind.group == remote.group && kind.version == remote.version)
}

/// Asks every server, and says in its APIService whether it answers.
async fn check(api: &Api, definitions: &Cache) {
    let checks: Vec<_> = objects(definitions).into_iter().map(|object| check_one(api, object)).collect();
    stream::iter(checks).buffer_unordered(PARALLEL).collect::<()>().await;
}

async fn check_one(api: &Api, object: Value) {
    let verdict = match definition::remote(api, &object) {
        None => Verdict { available: true, reason: definition::LOCAL.0, message: definition::LOCAL.1.into() },
        Some(remote) if is_local(api, &remote) => {
            bad("ServedLocally", format!("{}/{} is served by this API server itself", remote.group, remote.version))
        }
        Some(remote) => {
            let known = api.0.aggregation.remotes.load().get(&(remote.group, remote.version)).cloned();
            match known {
                Some(remote) => judge(api, &remote).await,
                None => return,
            }
        }
    };
    tell(api, &object, &verdict).await;
}

async fn judge(api: &Api, remote: &Remote) -> Verdict {
    let (verdict, found) = match reachable(api, remote) {
        Err(verdict) => (verdict, None),
        Ok(()) => match discover(api, remote).await {
            Ok(found) => {
                (Verdict { available: true, reason: "Passed", message: "all checks passed".into() }, Some(Arc::new(found)))
            }
            Err(why) => (bad("FailedDiscoveryCheck", why), None),
        },
    };
    let before = remote.found.load_full();
    if before != found {
        remote.found.store(found);
        api.0.resources.forget_documents();
    }
    verdict
}

/// Whether there is something to connect to.
fn reachable(api: &Api, remote: &Remote) -> Result<(), Verdict> {
    let Remote { namespace, service: name, port, .. } = remote;
    let service = services::service(api, namespace, name)
        .ok_or_else(|| bad("ServiceNotFound", format!("service/{name} in {namespace:?} is not present")))?;
    if service["spec"]["type"] == "ExternalName" {
        return Ok(());
    }
    let mut ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let found = ports
        .find(|candidate| candidate["port"].as_u64() == Some(*port))
        .ok_or_else(|| bad("ServicePortError", format!("service/{name} in {namespace:?} is not listening on port {port}")))?;
    let port_name = found["name"].as_str().unwrap_or_default();
    let endpoints = services::endpoints(api, namespace, name, port_name).unwrap_or_default();
    if endpoints.is_empty() {
        let message = format!("endpoints for service/{name} in {namespace:?} have no addresses with port name {port_name:?}");
        return Err(bad("MissingEndpoints", message));
    }
    Ok(())
}

/// What a server says it has.
async fn discover(api: &Api, remote: &Remote) -> Result<Found, String> {
    let path = format!("/apis/{}/{}", remote.group, remote.version);
    let url = format!("https://{}.{}.svc:{}{path}", remote.service, remote.namespace, remote.port);
    let list = match ask(api, remote, &path, "").await {
        Ok(answer @ Answer { code: 200..=299, .. }) => answer.json(),
        Ok(Answer { code, .. }) => return Err(format!("failing or missing response from {url}: bad status from {url}: {code}")),
        Err(why) => return Err(format!("failing or missing response from {url}: Get \"{url}\": {why}")),
    };
    let resources = list["resources"].as_array().cloned().unwrap_or_default();
    let entry = format!("apis/{}/{}", remote.group, remote.version);
    // A server without OpenAPI version 3 answers 404; it is as available as any.
    let openapi = match ask(api, remote, "/openapi/v3", "").await {
        Ok(answer @ Answer { code: 200, .. }) => answer.json()["paths"].get(&entry).cloned(),
        _ => None,
    };
    Ok(Found { resources, openapi, specification: specification::refresh(api, remote).await })
}

/// What another server answered.
pub(super) struct Answer {
    pub(super) code: u16,
    pub(super) etag: String,
    pub(super) body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Asks another server for something, unless it is what is known by `etag` (if that is not blank).
pub(super) async fn ask(api: &Api, remote: &Remote, path: &str, etag: &str) -> Result<Answer, String> {
    let target = remote.target(api)?;
    let request = http::Request::builder().method(Method::GET).uri(path).header(http::header::ACCEPT, "application/json");
    let request = if etag.is_empty() { request } else { request.header(http::header::IF_NONE_MATCH, etag) };
    let mut request = request.body(Body::empty()).map_err(|error| error.to_string())?;
    introduce(request.headers_mut(), &UserInfo::new("system:kube-aggregator", [SYSTEM_MASTERS]));
    let exchange = async {
        let response = api.0.outbound.proxy.forward(request, &target).await.map_err(|error| outbound::reason(&error))?;
        let code = response.status().as_u16();
        let etag = response.headers().get(http::header::ETAG).and_then(|etag| etag.to_str().ok()).unwrap_or_default().to_owned();
        let body = response.into_body().into_bytes(MAX_BYTES).await.map_err(|error| outbound::reason(&error))?;
        Ok(Answer { code, etag, body })
    };
    tokio::time::timeout(TIMEOUT, exchange).await.unwrap_or_else(|_| Err("context deadline exceeded".to_owned()))
}

/// Writes the condition, if it says something new.
async fn tell(api: &Api, object: &Value, verdict: &Verdict) {
    let status = if verdict.available { "True" } else { "False" };
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let old = conditions.iter().find(|condition| condition["type"] == "Available");
    let says = |old: &Value| old["status"] == status && old["reason"] == verdict.reason && old["message"] == verdict.message;
    if old.is_some_and(says) {
        return;
    }
    let since = match old {
        Some(old) if old["status"] == status => old["lastTransitionTime"].clone(),
        _ => json!(names::timestamp(api.0.clock.now())),
    };
    let mut conditions: Vec<Value> = conditions.iter().filter(|condition| condition["type"] != "Available").cloned().collect();
    conditions.push(json!({
        "type": "Available", "status": status, "reason": verdict.reason, "message": verdict.message, "lastTransitionTime": since,
    }));
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let path = format!("/apis/{GROUP}/v1/{RESOURCE}/{name}/status");
    let patch = json!({"status": {"conditions": conditions}});
    let myself = UserInfo::new("system:apiserver", [SYSTEM_MASTERS]);
    let sent = bootstrap::send(api, &myself, Method::PATCH, &path, "application/merge-patch+json", &patch).await;
    if let Err(error) = sent
        && !error.to_string().contains("not found")
    {
        tracing::warn!(name, error = &error as &dyn std::error::Error, "availability of an api service not written");
    }
}
