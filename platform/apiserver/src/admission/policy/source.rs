//! Policies and bindings as they come and go.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use arc_swap::ArcSwap;
use pharos_store::{Cache, Item, Scope, Start, Subscription};
use pharos_telemetry::Ctx;
use serde_json::Value;

use super::{
    GROUP, MUTATING, MUTATING_BINDINGS, Policies, VALIDATING, VALIDATING_BINDINGS,
    definition::{Binding, Hook, Mutations, Policy, Rules, Validations},
    types,
};
use crate::api::Api;

/// Where policies of one kind are kept.
type Place<R> = fn(&Policies) -> &ArcSwap<Vec<Hook<R>>>;

/// What follows the policies of one kind: compiles those that changed, and puts them where requests find them.
struct Source<R> {
    policies: Arc<Cache>,
    bindings: Arc<Cache>,
    place: Place<R>,
    /// By name, with the uid and generation they were compiled of.
    compiled: HashMap<String, (String, Arc<Policy<R>>)>,
}

impl<R: Rules> Source<R> {
    fn new(api: &Api, policies: &str, bindings: &str, place: Place<R>) -> Option<Self> {
        let cache = |resource: &str| {
            let kind = api.0.resources.lookup(GROUP, "v1", resource)?;
            api.0.storage.cache(&kind).ok()
        };
        Some(Source { policies: cache(policies)?, bindings: cache(bindings)?, place, compiled: HashMap::new() })
    }

    /// Reads all anew; compiles what is not yet.
    fn load(&mut self, api: &Api) {
        let mut bindings: BTreeMap<String, Vec<Binding>> = BTreeMap::new();
        for binding in objects(&self.bindings) {
            let policy = binding["spec"]["policyName"].as_str().unwrap_or_default().to_owned();
            bindings.entry(policy).or_default().push(Binding::compile(&binding));
        }
        let mut before = std::mem::take(&mut self.compiled);
        let mut hooks = Vec::new();
        for policy in objects(&self.policies) {
            let metadata = &policy["metadata"];
            let name = metadata["name"].as_str().unwrap_or_default().to_owned();
            let Some(bindings) = bindings.remove(&name) else { continue };
            let state = format!("{}/{}", metadata["uid"], metadata["generation"]);
            let compiled = match before.remove(&name) {
                Some((known, compiled)) if known == state => compiled,
                _ => Arc::new(Policy::compile(&policy)),
            };
            self.compiled.insert(name, (state, compiled.clone()));
            hooks.push(Hook { policy: compiled, bindings });
        }
        (self.place)(&api.0.policies).store(Arc::new(hooks));
    }

    async fn follow(mut self, api: Api, ctx: Ctx) {
        while !ctx.is_stopped() {
            let Ok(mut policies) = self.policies.subscribe(Scope::All, Start::Now) else { return };
            let Ok(mut bindings) = self.bindings.subscribe(Scope::All, Start::Now) else { return };
            self.load(&api);
            loop {
                let item = tokio::select! {
                    biased;
                    () = ctx.stopped() => return,
                    item = policies.next() => item,
                    item = bindings.next() => item,
                };
                match item {
                    Ok(Item::Event(_)) => {
                        drain(&mut policies);
                        drain(&mut bindings);
                        self.load(&api);
                    }
                    Ok(Item::Synced(_)) => {}
                    Err(pharos_store::Error::Closed) => return,
                    Err(_) => break, // Fell behind: start over from the whole state.
                }
            }
        }
    }
}

fn drain(subscription: &mut Subscription) {
    while let Ok(Some(_)) = subscription.try_next() {}
}

fn objects(cache: &Cache) -> Vec<Value> {
    let snapshot = cache.snapshot();
    snapshot.iter(&Scope::All, None).filter_map(|(_, object)| serde_json::from_slice(object.bytes()).ok()).collect()
}

fn validating(api: &Api) -> Option<Source<Validations>> {
    Source::new(api, VALIDATING, VALIDATING_BINDINGS, |policies| &policies.validating)
}

fn mutating(api: &Api) -> Option<Source<Mutations>> {
    Source::new(api, MUTATING, MUTATING_BINDINGS, |policies| &policies.mutating)
}

/// Compiles what is stored.
pub(crate) fn prime(api: &Api) {
    if let Some(mut source) = validating(api) {
        source.load(api);
    }
    if let Some(mut source) = mutating(api) {
        source.load(api);
    }
}

/// Follows policies and bindings as they change, and tells in the policies' status what is odd about their expressions.
pub(crate) fn follow(api: &Api, ctx: &Ctx) {
    if let Some(source) = validating(api) {
        let policies = source.policies.clone();
        ctx.spawn("validating admission policies", source.follow(api.clone(), ctx.clone()));
        ctx.spawn("validating admission policy status", types::follow(api.clone(), ctx.clone(), policies));
    }
    if let Some(source) = mutating(api) {
        ctx.spawn("mutating admission policies", source.follow(api.clone(), ctx.clone()));
    }
}
