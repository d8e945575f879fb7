//! Scraping: targets, when they are read, and what becomes of what they say.
//!
//! Follows Prometheus' `scrape`: `up` and the other report series, staleness markers for what is gone, limits, honoured labels
//! and times, starts spread over the interval. A target's first scrape does not wait for its place in the interval.

pub(crate) mod discovery;
mod http;
mod target;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::RwLock;
use pharos_telemetry::Ctx;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub(crate) use target::{Health, Target};

use self::target::Loop;
use crate::Shared;

/// The targets there are, for the API. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Targets(Arc<RwLock<BTreeMap<String, Arc<Target>>>>);

impl Targets {
    pub(crate) fn all(&self) -> Vec<Arc<Target>> {
        self.0.read().values().cloned().collect()
    }
}

/// Keeps one task for each target that discovery names, until the component is stopped.
pub(crate) async fn run(ctx: &Ctx, shared: &Shared, discovery: &discovery::Discovery, changed: &Notify) {
    let mut running: BTreeMap<String, CancellationToken> = BTreeMap::new();
    loop {
        let desired = discovery.targets();
        for (key, token) in &running {
            if !desired.contains_key(key) {
                token.cancel();
            }
        }
        running.retain(|key, _| desired.contains_key(key));
        shared.targets.0.write().retain(|key, _| desired.contains_key(key));
        let mut counts: BTreeMap<String, i64> = BTreeMap::new();
        for (key, spec) in desired {
            *counts.entry(spec.job.clone()).or_default() += 1;
            if running.contains_key(&key) {
                continue;
            }
            let target = Arc::new(Target::new(&key, spec));
            shared.targets.0.write().insert(key.clone(), target.clone());
            let token = ctx.token();
            running.insert(key, token.clone());
            let worker = Loop::new(target, shared.clone());
            let ctx_ = ctx.clone();
            ctx.spawn("scrape", async move { worker.run(&ctx_, token).await });
        }
        shared.own.scrape.targets.reset();
        for (job, count) in counts {
            shared.own.scrape.targets.with_label_values(&[&job]).set(count);
            shared.own.scrape.sync.with_label_values(&[&job]).inc();
        }
        tokio::select! {
            () = ctx.stopped() => return,
            () = changed.notified() => {}
            // Components of this process that start later say nothing.
            () = tokio::time::sleep(shared.config.interval()) => continue,
        }
        // Changes come in bursts.
        tokio::select! {
            () = ctx.stopped() => return,
            () = tokio::time::sleep(std::time::Duration::from_secs(1)) => {}
        }
    }
}
