//! Watches the objects that have names and keeps the index up to date: a change makes the next snapshot.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{Namespace, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{Api, Client, runtime::watcher};
use parking_lot::Mutex;
use pharos_client::{Event, Index as Terms, Informer, Key};
use pharos_telemetry::Ctx;
use tokio::sync::Notify;

use crate::{
    config::Pods,
    engine::Engine,
    index::{self, ServiceRecords},
};

const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// When the change happened that made the controller write the slice.
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// The objects that have names.
#[derive(Clone)]
pub(crate) struct Feed {
    pub services: Informer<Service>,
    pub slices: Informer<EndpointSlice>,
    pub namespaces: Informer<Namespace>,
    /// If pods are verified.
    pub pods: Option<Informer<Pod>>,
    /// No watch feeds it: what it holds is all there is.
    detached: bool,
}

/// What has changed since the last snapshot: at most each object once, however often it changes.
#[derive(Default)]
struct Dirty {
    changes: Mutex<Changes>,
    wake: Notify,
}

#[derive(Default)]
struct Changes {
    services: BTreeSet<Key>,
    namespaces: BTreeSet<Key>,
    pods: BTreeSet<Key>,
    /// For each service, when the earliest change of its endpoints happened.
    triggers: BTreeMap<Key, Timestamp>,
    synced: bool,
}

impl Feed {
    pub(crate) fn start(ctx: &Ctx, client: &Client, pods: Pods) -> Self {
        let config = watcher::Config::default;
        Self {
            services: Informer::start(ctx, Api::all(client.clone()), config()),
            // A slice without a service's name has no name itself.
            slices: Informer::start(ctx, Api::all(client.clone()), config().labels(SERVICE_NAME)),
            namespaces: Informer::start(ctx, Api::all(client.clone()), config()),
            pods: (pods == Pods::Verified).then(|| Informer::start(ctx, Api::all(client.clone()), config())),
            detached: false,
        }
    }

    /// Caches that no watch feeds.
    #[cfg(test)]
    pub(crate) fn detached(pods: Pods) -> Self {
        Self {
            services: Informer::detached(),
            slices: Informer::detached(),
            namespaces: Informer::detached(),
            pods: (pods == Pods::Verified).then(Informer::detached),
            detached: true,
        }
    }

    async fn synced(&self) {
        if self.detached {
            return;
        }
        self.services.synced().await;
        self.slices.synced().await;
        self.namespaces.synced().await;
        if let Some(pods) = &self.pods {
            pods.synced().await;
        }
    }

    /// Publishes snapshots until the component is stopped.
    pub(crate) async fn follow(self, ctx: Ctx, engine: Arc<Engine>) {
        // The index of slices is told of a change before we are, as it is asked when we look.
        let slices_of =
            self.slices.index(|slice: &EndpointSlice| service_of(slice).map(|key| key.to_string()).into_iter().collect());
        let dirty = self.observe();
        let mut publisher = Publisher { feed: self.clone(), slices_of, engine, pod_ips: HashMap::new() };
        let mut syncing = std::pin::pin!(self.synced());
        let mut synced = false;
        loop {
            tokio::select! {
                biased;
                () = ctx.stopped() => return,
                () = &mut syncing, if !synced => {
                    synced = true;
                    dirty.changes.lock().synced = true;
                }
                () = dirty.wake.notified() => {}
            }
            let mut changes = std::mem::take(&mut *dirty.changes.lock());
            changes.synced |= synced;
            publisher.publish(changes, ctx.clock().now());
        }
    }

    fn observe(&self) -> Arc<Dirty> {
        let dirty = Arc::new(Dirty::default());
        let mark = |dirty: &Arc<Dirty>, change: &dyn Fn(&mut Changes)| {
            change(&mut dirty.changes.lock());
            dirty.wake.notify_one();
        };
        let to = dirty.clone();
        self.services.on_event(move |event| {
            let key = Key::of(&**event.object());
            mark(&to, &|changes| {
                changes.services.insert(key.clone());
            });
        });
        let to = dirty.clone();
        self.namespaces.on_event(move |event| {
            let key = Key::of(&**event.object());
            mark(&to, &|changes| {
                changes.namespaces.insert(key.clone());
            });
        });
        let to = dirty.clone();
        self.slices.on_event(move |event| {
            // A slice may be moved to another service.
            let old = if let Event::Updated { old, .. } = event { service_of(old) } else { None };
            let new = service_of(event.object());
            let trigger = trigger(event);
            mark(&to, &|changes| {
                changes.services.extend(old.iter().chain(&new).cloned());
                if let (Some(at), Some(key)) = (trigger, &new) {
                    let first = changes.triggers.entry(key.clone()).or_insert(at);
                    *first = at.min(*first);
                }
            });
        });
        if let Some(pods) = &self.pods {
            let to = dirty.clone();
            pods.on_event(move |event| {
                let key = Key::of(&**event.object());
                mark(&to, &|changes| {
                    changes.pods.insert(key.clone());
                });
            });
        }
        dirty
    }
}

/// Makes the next snapshot out of the last and what has changed.
struct Publisher {
    feed: Feed,
    slices_of: Terms<EndpointSlice>,
    engine: Arc<Engine>,
    /// The addresses under which each pod is in the index.
    pod_ips: HashMap<Key, Vec<IpAddr>>,
}

impl Publisher {
    fn publish(&mut self, changes: Changes, now: Timestamp) {
        let last = self.engine.index.load_full();
        let mut next = (*last).clone();
        let mut changed = false;
        for key in &changes.services {
            let Some(name) = index::service_key(&key.namespace, &key.name) else { continue };
            let service = self.feed.services.get(key);
            let records = service.and_then(|service| ServiceRecords::new(&service, &self.slices_of.get(&key.to_string())));
            changed |= next.set_service(name, records);
        }
        for key in &changes.namespaces {
            changed |= next.set_namespace(&key.name, self.feed.namespaces.get(key).is_some());
        }
        for key in &changes.pods {
            let pod = self.feed.pods.as_ref().and_then(|pods| pods.get(key));
            let new = pod.map(|pod| index::pod_ips(&pod)).unwrap_or_default();
            let old = self.pod_ips.remove(key).unwrap_or_default();
            if old != new {
                old.iter().for_each(|ip| next.remove_pod(&key.namespace, *ip));
                new.iter().for_each(|ip| next.add_pod(&key.namespace, *ip));
                changed = true;
            }
            if !new.is_empty() {
                self.pod_ips.insert(key.clone(), new);
            }
        }
        if changed || changes.synced != last.synced {
            next.synced = changes.synced;
            next.serial = u32::try_from(now.as_second()).unwrap_or_default().max(last.serial);
            self.engine.index.store(Arc::new(next));
            self.engine.metrics.synced.set(changes.synced.into());
            self.engine.synced.send_replace(changes.synced);
        }
        // What was there before we were took no time to tell.
        if last.synced {
            self.measure(&changes.triggers, now);
        }
    }

    /// As in CoreDNS, measures headless Services with a selector only.
    fn measure(&self, triggers: &BTreeMap<Key, Timestamp>, now: Timestamp) {
        for (key, at) in triggers {
            let Some(service) = self.feed.services.get(key) else { continue };
            let Some(spec) = &service.spec else { continue };
            let headless = spec.cluster_ip.as_deref() == Some("None");
            if headless && spec.selector.as_ref().is_some_and(|selector| !selector.is_empty()) {
                let seconds = now.duration_since(*at).as_secs_f64().max(0.0);
                self.engine.metrics.programming.with_label_values(&["headless_with_selector"]).observe(seconds);
            }
        }
    }
}

fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(Key::new(slice.metadata.namespace.as_deref()?, name.as_str()))
}

/// The time of a change that this event is the first to tell.
fn trigger(event: &Event<EndpointSlice>) -> Option<Timestamp> {
    let text = |slice: &EndpointSlice| slice.metadata.annotations.as_ref()?.get(TRIGGER_TIME).cloned();
    let new = match event {
        Event::Added(slice) => text(slice)?,
        Event::Updated { old, new } => text(new).filter(|new| Some(new) != text(old).as_ref())?,
        Event::Deleted(_) => return None,
    };
    new.parse().ok()
}
