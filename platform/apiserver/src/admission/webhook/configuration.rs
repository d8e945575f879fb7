//! Webhook configurations, compiled.

use std::{sync::Arc, time::Duration};

use pharos_store::{Cache, Item, Scope, Start};
use pharos_telemetry::Ctx;
use serde_json::Value;

use super::{GROUP, MUTATING, VALIDATING, metrics::Step};
use crate::{
    admission::{conditions::Conditions, matching::Criteria},
    api::Api,
    outbound,
};

/// One webhook of a configuration.
#[derive(Debug, Clone)]
pub(super) struct Hook {
    /// Tells webhooks apart: configuration, and place in it.
    pub(super) id: (String, usize),
    pub(super) name: String,
    pub(super) criteria: Criteria,
    pub(super) conditions: Conditions,
    pub(super) fail_open: bool,
    pub(super) timeout: Duration,
    /// Whether a dry run changes nothing at the webhook's.
    pub(super) dry_run: bool,
    /// The first version of reviews it wants that this server knows.
    pub(super) review: Option<&'static str>,
    pub(super) reinvoke: bool,
    pub(super) client: outbound::Webhook,
}

/// The webhooks of a configuration, in order.
pub(super) fn hooks(configuration: &Value, step: Step) -> Vec<Hook> {
    let of = configuration["metadata"]["name"].as_str().unwrap_or_default();
    let webhooks = configuration["webhooks"].as_array().into_iter().flatten().enumerate();
    let hook = |(at, hook): (usize, &Value)| Hook {
        id: (of.to_owned(), at),
        name: hook["name"].as_str().unwrap_or_default().to_owned(),
        criteria: Criteria::of_webhook(hook),
        conditions: Conditions::of_webhook(hook, step.as_str()),
        fail_open: hook["failurePolicy"] == "Ignore",
        timeout: Duration::from_secs(hook["timeoutSeconds"].as_u64().unwrap_or(10).clamp(1, 30)),
        dry_run: matches!(hook["sideEffects"].as_str(), Some("None" | "NoneOnDryRun")),
        review: hook["admissionReviewVersions"].as_array().into_iter().flatten().find_map(|version| match version.as_str() {
            Some("v1") => Some("v1"),
            Some("v1beta1") => Some("v1beta1"),
            _ => None,
        }),
        reinvoke: hook["reinvocationPolicy"] == "IfNeeded",
        client: outbound::Webhook::parse(&hook["clientConfig"], "kube-apiserver-admission"),
    };
    webhooks.map(hook).collect()
}

fn cache(api: &Api, resource: &str) -> Option<Arc<Cache>> {
    let kind = api.0.resources.lookup(GROUP, "v1", resource)?;
    api.0.storage.cache(&kind).ok()
}

/// Compiles all configurations of a kind anew. Their keys are in the order of their names.
fn load(api: &Api, resource: &str, cache: &Cache) {
    let snapshot = cache.snapshot();
    let configurations = snapshot.iter(&Scope::All, None);
    let parsed = configurations.filter_map(|(_, object)| serde_json::from_slice::<Value>(object.bytes()).ok());
    let step = if resource == MUTATING { Step::Mutating } else { Step::Validating };
    let hooks: Arc<Vec<Hook>> = Arc::new(parsed.flat_map(|configuration| hooks(&configuration, step)).collect());
    let webhooks = &api.0.webhooks;
    if resource == MUTATING { webhooks.mutating.store(hooks) } else { webhooks.validating.store(hooks) }
}

/// Compiles what is stored.
pub(crate) fn prime(api: &Api) {
    for resource in [MUTATING, VALIDATING] {
        if let Some(cache) = cache(api, resource) {
            load(api, resource, &cache);
        }
    }
}

/// Follows the configurations as they change.
pub(crate) fn follow(api: &Api, ctx: &Ctx) {
    for resource in [MUTATING, VALIDATING] {
        if let Some(cache) = cache(api, resource) {
            ctx.spawn("webhook configurations", follow_one(api.clone(), ctx.clone(), resource, cache));
        }
    }
}

async fn follow_one(api: Api, ctx: Ctx, resource: &'static str, cache: Arc<Cache>) {
    while !ctx.is_stopped() {
        let Ok(mut subscription) = cache.subscribe(Scope::All, Start::Now) else { return };
        load(&api, resource, &cache);
        loop {
            let item = tokio::select! {
                biased;
                () = ctx.stopped() => return,
                item = subscription.next() => item,
            };
            match item {
                Ok(Item::Event(_)) => {
                    while let Ok(Some(_)) = subscription.try_next() {}
                    load(&api, resource, &cache);
                }
                Ok(Item::Synced(_)) => {}
                Err(pharos_store::Error::Closed) => return,
                Err(_) => break, // Fell behind: start over from the whole state.
            }
        }
    }
}
