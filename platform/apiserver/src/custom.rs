//! Custom resources: what a CustomResourceDefinition makes of the registry.
//!
//! A definition becomes one registry row a version, and from there on its kind goes the way of every other. Follows
//! `staging/src/k8s.io/apiextensions-apiserver` (naming, establishing and finalizing controllers). Validation rules are compiled
//! when the definition is served, and kept with its rows.

mod conversion; // From version to version,
mod definition; // What a definition says,
mod keywords; // what its schema asks of values,
mod rules; // what its validation rules ask,
mod schema; // and of their shape.

use std::{collections::HashMap, sync::Arc};

use parking_lot::RwLock;
use pharos_api::{
    registry::Kind,
    validation::{ErrorType, FieldError},
};
use pharos_store::{Cache, EventType, Item, Scope, Start};
use pharos_telemetry::Ctx;
use serde_json::{Value, json};

pub(crate) use conversion::convert;
pub(crate) use definition::{FINALIZER, validate};
pub(crate) use keywords::check as check_keywords;

use crate::{
    Error, Result,
    api::Api,
    authn::UserInfo,
    authz::SYSTEM_MASTERS,
    bootstrap::{self},
    names,
};

const GROUP: &str = "apiextensions.k8s.io";
const RESOURCE: &str = "customresourcedefinitions";

/// What is known of custom kinds beyond their registry rows, by group and plural.
#[derive(Default)]
pub(crate) struct Custom {
    rows: RwLock<HashMap<(String, String), Rows>>,
}

/// The rows of one definition.
#[derive(Clone, Default)]
struct Rows {
    kinds: Vec<Arc<Kind>>,
    /// The webhook that converts between versions, if there is one.
    conversion: Option<Arc<conversion::Conversion>>,
    /// By version.
    scales: HashMap<String, ScalePaths>,
    /// Validation rules, by version.
    rules: HashMap<String, Arc<rules::Rules>>,
}

/// Where a custom kind's scale is.
#[derive(Debug, Clone)]
pub(crate) struct ScalePaths {
    pub(crate) spec_replicas: String,
    pub(crate) status_replicas: String,
    pub(crate) label_selector: Option<String>,
}

/// Where a kind's scale is, if its definition says so.
pub(crate) fn scale_paths(api: &Api, kind: &Kind) -> Option<ScalePaths> {
    if !kind.custom {
        return None;
    }
    let rows = api.0.custom.rows.read();
    rows.get(&(kind.group.to_string(), kind.plural.to_string()))?.scales.get(kind.version.as_ref()).cloned()
}

/// The conversion webhook of a kind, if its definition has one.
fn conversion_of(api: &Api, kind: &Kind) -> Option<Arc<conversion::Conversion>> {
    let rows = api.0.custom.rows.read();
    rows.get(&(kind.group.to_string(), kind.plural.to_string()))?.conversion.clone()
}

/// What a custom object's validation rules say, `errors` being what is wrong with it already; `old` is what an update changes.
pub(crate) fn check_rules(api: &Api, kind: &Kind, object: &Value, old: Option<&Value>, errors: &[FieldError]) -> rules::Findings {
    let rules = {
        let rows = api.0.custom.rows.read();
        let found = rows.get(&(kind.group.to_string(), kind.plural.to_string()));
        found.and_then(|rows| rows.rules.get(kind.version.as_ref()).cloned())
    };
    let Some(rules) = rules else { return rules::Findings::default() };
    // Rules may count on the types, sizes and fields that the schema promises.
    let blocking = |error: &FieldError| {
        matches!(
            error.ty,
            ErrorType::NotSupported | ErrorType::Required | ErrorType::TooLong | ErrorType::TooMany | ErrorType::TypeInvalid
        )
    };
    if errors.iter().any(blocking) {
        let detail = "some validation rules were not checked because the object was invalid; correct the existing errors to complete \
                      validation";
        let error = crate::strategy::field_error(ErrorType::Invalid, "<nil>", Value::Null, detail);
        return rules::Findings { errors: vec![error], warnings: Vec::new() };
    }
    rules.check(object, old)
}

/// Serves the definitions that were established before.
pub(crate) async fn load(api: &Api) -> Result<()> {
    let definitions = api.0.storage.objects(GROUP, RESOURCE, "").await.map_err(stored)?;
    for definition in definitions.iter().filter(|definition| definition::has_condition(definition, "Established", "True")) {
        serve(api, definition).await?;
    }
    Ok(())
}

fn stored(status: crate::status::Status) -> Error {
    Error::Bootstrap { object: RESOURCE.to_owned(), message: status.message().to_owned() }
}

/// Follows definitions as they come and go.
pub(crate) fn start(api: &Api, ctx: &Ctx) {
    let Some(kind) = api.0.resources.lookup(GROUP, "v1", RESOURCE) else { return };
    let Ok(cache) = api.0.storage.cache(&kind) else { return };
    ctx.spawn("custom resource definitions", follow(api.clone(), ctx.clone(), cache));
}

async fn follow(api: Api, ctx: Ctx, cache: Arc<Cache>) {
    while !ctx.is_stopped() {
        let Ok(mut subscription) = cache.subscribe(Scope::All, Start::Initial) else { return };
        loop {
            let item = tokio::select! {
                biased;
                () = ctx.stopped() => return,
                item = subscription.next() => item,
            };
            let event = match item {
                Ok(Item::Event(event)) => event,
                Ok(Item::Synced(_)) => continue,
                Err(pharos_store::Error::Closed) => return,
                Err(_) => break,
            };
            let Ok(definition) = serde_json::from_slice::<Value>(event.object.bytes()) else { continue };
            let outcome = if event.kind == EventType::Deleted {
                withdraw(&api, &definition);
                Ok(())
            } else if definition["metadata"]["deletionTimestamp"].is_null() {
                establish(&api, &definition).await
            } else {
                ctx.spawn("custom resource cleanup", clean_up(api.clone(), ctx.clone(), definition.clone()));
                Ok(())
            };
            if let Err(error) = outcome {
                let name = event.object.name();
                tracing::warn!(name, error = &error as &dyn std::error::Error, "custom resource definition not served");
            }
        }
    }
}

/// Puts a definition's kinds into the registry, in place of what it said before.
async fn serve(api: &Api, definition: &Value) -> Result<()> {
    let (kinds, scales) = definition::kinds(definition);
    let Some(first) = kinds.first() else { return Ok(()) };
    let key = (first.group.to_string(), first.plural.to_string());
    api.0.storage.attach(first).await?;
    let conversion = conversion::Conversion::parse(definition).map(Arc::new);
    let known = api.0.custom.rows.read().get(&key).map(|rows| rows.rules.clone()).unwrap_or_default();
    let rules = definition::compiled_rules(definition, &known);
    let rows = Rows { kinds: kinds.clone(), conversion, scales, rules };
    let before = api.0.custom.rows.write().insert(key, rows).unwrap_or_default();
    api.0.resources.change(|registry| {
        for kind in &before.kinds {
            registry.remove(&kind.group, &kind.version, &kind.plural);
        }
        kinds.iter().for_each(|kind| registry.insert(kind.clone()));
    });
    Ok(())
}

/// Takes a definition's kinds out of the registry and ends their watches.
fn withdraw(api: &Api, definition: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let key = (text(&definition["spec"]["group"]), text(&definition["spec"]["names"]["plural"]));
    let Some(rows) = api.0.custom.rows.write().remove(&key) else { return };
    api.0.resources.change(|registry| {
        for kind in &rows.kinds {
            registry.remove(&kind.group, &kind.version, &kind.plural);
        }
    });
    if let Some(kind) = rows.kinds.first() {
        api.0.storage.detach(kind);
    }
}

/// The server's own controllers.
fn myself() -> UserInfo {
    UserInfo::new("system:apiserver", [SYSTEM_MASTERS])
}

/// Serves a definition whose names are free, and says so in its status.
async fn establish(api: &Api, definition: &Value) -> Result<()> {
    let now = names::timestamp(api.0.clock.now());
    let conflict = definition::name_conflict(definition, &api.0.resources.registry());
    if conflict.is_none() {
        serve(api, definition).await?;
    }
    let status = definition::status(definition, conflict, &now);
    if status == definition["status"] {
        return Ok(());
    }
    let name = definition["metadata"]["name"].as_str().unwrap_or_default();
    let patch = json!({
        "metadata": {"resourceVersion": definition["metadata"]["resourceVersion"]},
        "status": status,
    });
    let path = format!("/apis/{GROUP}/v1/{RESOURCE}/{name}/status");
    let sent = bootstrap::send(api, &myself(), http::Method::PATCH, &path, "application/merge-patch+json", &patch).await;
    match sent {
        // Someone wrote meanwhile; that write brings another event.
        Err(Error::Bootstrap { message, .. }) if message.contains("has been modified") || message.contains("not found") => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// Deletes all of a definition's objects, and lets the definition go once they are gone.
async fn clean_up(api: Api, ctx: Ctx, definition: Value) {
    let name = definition["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let finalizers = definition["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        return;
    }
    let (kinds, _) = definition::kinds(&definition);
    // The storage version needs no conversion.
    if let Some(kind) = kinds.iter().find(|kind| crate::convert::is_stored_version(kind)).or(kinds.first()) {
        let Ok(cache) = api.0.storage.attach(kind).await else { return };
        if !delete_all(&api, &ctx, kind, &cache).await {
            return;
        }
    }
    let left: Vec<&Value> = finalizers.iter().filter(|finalizer| *finalizer != FINALIZER).collect();
    let patch = json!({"metadata": {"finalizers": left}});
    let path = format!("/apis/{GROUP}/v1/{RESOURCE}/{name}");
    let sent = bootstrap::send(&api, &myself(), http::Method::PATCH, &path, "application/merge-patch+json", &patch).await;
    if let Err(error) = sent
        && !error.to_string().contains("not found")
    {
        tracing::warn!(name, error = &error as &dyn std::error::Error, "custom resource definition not let go");
    }
}

/// Deletes every object of a kind and waits until none is left; false if the server stops before.
async fn delete_all(api: &Api, ctx: &Ctx, kind: &Kind, cache: &Cache) -> bool {
    let Ok(mut subscription) = cache.subscribe(Scope::All, Start::Now) else { return true };
    let base = format!("/apis/{}/{}", kind.group, kind.version);
    let mut asked = std::collections::HashSet::new();
    loop {
        let snapshot = cache.snapshot();
        if snapshot.is_empty() {
            return true;
        }
        for (_, object) in snapshot.iter(&Scope::All, None) {
            if !asked.insert(object.uid().to_owned()) {
                continue; // Waits for its finalizers.
            }
            let path = if kind.namespaced {
                format!("{base}/namespaces/{}/{}/{}", object.namespace(), kind.plural, object.name())
            } else {
                format!("{base}/{}/{}", kind.plural, object.name())
            };
            if let Err(error) = bootstrap::send(api, &myself(), http::Method::DELETE, &path, "application/json", &json!({})).await
            {
                tracing::debug!(name = object.name(), error = &error as &dyn std::error::Error, "custom resource not deleted");
            }
        }
        if cache.snapshot().is_empty() {
            return true;
        }
        tokio::select! {
            biased;
            () = ctx.stopped() => return false,
            item = subscription.next() => if item.is_err() { return true },
        }
    }
}
