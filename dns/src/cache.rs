//! Answers from upstream that are kept for a while: CoreDNS' plugin `cache`. Names of the cluster are never in it.

use std::{sync::Arc, time::Duration};

use ahash::RandomState;
use quick_cache::{Lifecycle, UnitWeighter, sync};
use tokio::time::Instant;

use crate::{
    config,
    metrics::{Metrics, ServerMetrics},
    reply::Reply,
    wire::Query,
};

/// Two bounded caches, of answers and of denials.
pub(crate) struct Cache {
    sorts: Option<[Sort; 2]>,
    limits: [u32; 2],
    metrics: Arc<Metrics>,
    /// The served address to which entries are counted, as all share one cache.
    server: String,
}

type Sort = sync::Cache<Box<[u8]>, Entry, UnitWeighter, RandomState, Evictions>;

/// A reply and how long it is good for.
#[derive(Clone)]
pub(crate) struct Entry {
    pub reply: Arc<Reply>,
    pub seconds: u32,
    stored: Instant,
}

#[derive(Clone)]
struct Evictions {
    metrics: Arc<Metrics>,
    server: String,
    sort: usize,
}

/// What a reply is kept under: name, type, and the flags that change an answer.
pub(crate) struct Key(smallvec::SmallVec<[u8; 64]>);

// === impl Key ===

impl Key {
    pub(crate) fn new(name: &[u8], query: &Query<'_>) -> Self {
        let mut key = smallvec::SmallVec::from_slice(name);
        key.extend_from_slice(&query.kind.to_be_bytes());
        key.push(u8::from(query.dnssec()) | u8::from(query.checking_disabled()) << 1);
        Self(key)
    }
}

// === impl Cache ===

impl Cache {
    pub(crate) fn new(config: &config::Cache, metrics: Arc<Metrics>, server: String) -> Self {
        let sort = |sort: usize| {
            let evictions = Evictions { metrics: metrics.clone(), server: server.clone(), sort };
            sync::Cache::with(config.capacity, config.capacity as u64, UnitWeighter, RandomState::new(), evictions)
        };
        let sorts = (config.capacity > 0).then(|| [sort(0), sort(1)]);
        Self { sorts, limits: [config.success_seconds, config.denial_seconds], metrics, server }
    }

    /// A reply that is still good, and its age in seconds.
    pub(crate) fn get(&self, key: &Key, now: Instant, server: &ServerMetrics) -> Option<(Entry, u32)> {
        let sorts = self.sorts.as_ref()?;
        server.cache_requests.inc();
        for (sort, cache) in sorts.iter().enumerate() {
            if let Some(entry) = cache.get(&key.0[..]) {
                let age = now.saturating_duration_since(entry.stored);
                if age < Duration::from_secs(entry.seconds.into()) {
                    server.cache_hits[sort].inc();
                    return Some((entry, age.as_secs() as u32));
                }
                cache.remove(&key.0[..]);
            }
        }
        server.cache_misses.inc();
        None
    }

    /// Keeps a reply if it may be kept, and gives the most seconds that its records are good for.
    pub(crate) fn put(&self, key: &Key, reply: &Arc<Reply>, now: Instant) -> u32 {
        let (Some(sorts), Some(keep)) = (&self.sorts, reply.keep) else { return u32::MAX };
        let seconds = keep.seconds.min(self.limits[keep.sort]);
        sorts[keep.sort].insert(key.0[..].into(), Entry { reply: reply.clone(), seconds, stored: now });
        // A name that began or ceased to exist must not be found in the other cache.
        sorts[1 - keep.sort].remove(&key.0[..]);
        for (sort, cache) in sorts.iter().enumerate() {
            self.metrics.entries(&self.server, sort, cache.len());
        }
        seconds
    }
}

impl Lifecycle<Box<[u8]>, Entry> for Evictions {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _: Box<[u8]>, _: Entry) {
        self.metrics.evicted(&self.server, self.sort);
    }
}
