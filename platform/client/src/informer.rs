use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    sync::Arc,
    time::Duration,
};

use futures::StreamExt as _;
use kube::{
    Api, Resource,
    runtime::watcher::{self, watcher},
};
use parking_lot::{Mutex, RwLock};
use pharos_telemetry::{Backoff, Ctx};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::Key;

/// What changed in an informer's cache.
pub enum Event<K> {
    /// An object is new to the cache.
    Added(Arc<K>),
    /// An object changed.
    Updated {
        /// As it was.
        old: Arc<K>,
        /// As it is.
        new: Arc<K>,
    },
    /// An object is gone; this is its last known state.
    Deleted(Arc<K>),
}

/// A cache of the objects of one kind that matches a selector, kept up to date by one list and one watch.
///
/// Cheap to clone; all clones share the cache. Events may be merged while the watch is down: a handler must act on the
/// state it reads, not on the sequence of events (level-triggered, as in client-go).
pub struct Informer<K>(Arc<Shared<K>>);

struct Shared<K> {
    /// Lock order: `handlers`, then `objects`. Handlers run under `handlers` alone, so they see events in order and may read the cache.
    handlers: Mutex<Vec<Handler<K>>>,
    objects: RwLock<BTreeMap<Key, Arc<K>>>,
    synced: watch::Sender<bool>,
}

type Handler<K> = Box<dyn Fn(&Event<K>) + Send + Sync>;

// === impl Event ===

impl<K> Event<K> {
    /// The object as it is now, or as it was last.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Added(object) | Self::Updated { new: object, .. } | Self::Deleted(object) => object,
        }
    }
}

// === impl Informer ===

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K> Informer<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// Starts the list and watch as a task of the component; it ends when the component is stopped.
    pub fn start(ctx: &Ctx, api: Api<K>, config: watcher::Config) -> Self {
        let informer = Self::detached();
        let (shared, ctx_) = (informer.0.clone(), ctx.clone());
        ctx.spawn("informer", async move { shared.follow(ctx_, api, config).await });
        informer
    }

    /// A cache that no watch feeds, for tests: fill it with [`Informer::insert`].
    #[must_use]
    pub fn detached() -> Self {
        Self(Arc::new(Shared { handlers: Mutex::default(), objects: RwLock::default(), synced: watch::Sender::new(false) }))
    }

    /// Puts an object into the cache as if the watch had brought it.
    pub fn insert(&self, object: K) {
        self.0.apply(object);
    }

    /// Takes an object out of the cache as if the watch had said so.
    pub fn remove(&self, key: &Key) {
        self.0.delete(key);
    }

    /// An object of the cache.
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.0.objects.read().get(key).cloned()
    }

    /// All objects, in order of namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.0.objects.read().values().cloned().collect()
    }

    /// The objects of a namespace, in order of name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.0
            .objects
            .read()
            .range(Key::new(namespace, "")..)
            .take_while(|(key, _)| &*key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// How many objects the cache holds.
    pub fn len(&self) -> usize {
        self.0.objects.read().len()
    }

    /// Whether the cache holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until the first list is in the cache. Cancel-safe.
    pub async fn synced(&self) {
        let mut synced = self.0.synced.subscribe();
        // The sender lives in `self`, so this cannot fail.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    /// Whether the first list is in the cache. Nothing may be deleted because an unsynced cache lacks it.
    pub fn is_synced(&self) -> bool {
        *self.0.synced.borrow()
    }

    /// Calls `handler` for every object there is, as added, and then for every change, in order.
    ///
    /// Handlers run on the informer's task and must return at once: put a key into a queue, no more.
    pub fn on_event(&self, handler: impl Fn(&Event<K>) + Send + Sync + 'static) {
        let mut handlers = self.0.handlers.lock();
        for object in self.list() {
            handler(&Event::Added(object));
        }
        handlers.push(Box::new(handler));
    }

    /// An index over the cache by the terms that `terms` finds in an object.
    pub fn index(&self, terms: impl Fn(&K) -> Vec<String> + Send + Sync + 'static) -> Index<K> {
        let index = Index { keys: Arc::default(), informer: self.clone() };
        let keys = index.keys.clone();
        self.on_event(move |event| {
            let mut keys = keys.write();
            let mut drop_terms = |object: &K| {
                let key = Key::of(object);
                for term in terms(object) {
                    if let Some(set) = keys.get_mut(&term) {
                        set.remove(&key);
                        if set.is_empty() {
                            keys.remove(&term);
                        }
                    }
                }
            };
            match event {
                Event::Updated { old, .. } => drop_terms(old),
                Event::Deleted(object) => drop_terms(object),
                Event::Added(_) => {}
            }
            if let Event::Added(object) | Event::Updated { new: object, .. } = event {
                for term in terms(object) {
                    keys.entry(term).or_default().insert(Key::of(&**object));
                }
            }
        });
        index
    }
}

/// Finds objects of an informer by a term, such as the UID of their owner or the name of their node.
pub struct Index<K> {
    keys: Arc<RwLock<BTreeMap<String, BTreeSet<Key>>>>,
    informer: Informer<K>,
}

// === impl Index ===

impl<K> Clone for Index<K> {
    fn clone(&self) -> Self {
        Self { keys: self.keys.clone(), informer: self.informer.clone() }
    }
}

impl<K> Index<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// The objects that carry the term, in order of namespace and name.
    pub fn get(&self, term: &str) -> Vec<Arc<K>> {
        let keys = self.keys.read().get(term).cloned().unwrap_or_default();
        keys.iter().filter_map(|key| self.informer.get(key)).collect()
    }
}

// === impl Shared ===

impl<K> Shared<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    async fn follow(&self, ctx: Ctx, api: Api<K>, config: watcher::Config) {
        let mut stream = Box::pin(watcher(api, config));
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
        // Keys seen since the list began; whatever else is in the cache when it ends was deleted meanwhile.
        let mut listed: Option<BTreeSet<Key>> = None;
        loop {
            let event = tokio::select! {
                biased;
                () = ctx.stopped() => return,
                event = stream.next() => event,
            };
            match event {
                Some(Ok(event)) => {
                    backoff.reset();
                    match event {
                        watcher::Event::Init => listed = Some(BTreeSet::new()),
                        watcher::Event::InitApply(object) => {
                            if let Some(listed) = &mut listed {
                                listed.insert(Key::of(&object));
                            }
                            self.apply(object);
                        }
                        watcher::Event::InitDone => {
                            if let Some(listed) = listed.take() {
                                let gone: Vec<Key> =
                                    self.objects.read().keys().filter(|key| !listed.contains(key)).cloned().collect();
                                gone.iter().for_each(|key| self.delete(key));
                            }
                            self.synced.send_replace(true);
                        }
                        watcher::Event::Apply(object) => self.apply(object),
                        watcher::Event::Delete(object) => self.delete(&Key::of(&object)),
                    }
                }
                Some(Err(error)) => {
                    let wait = backoff.next_wait();
                    // A dropped watch is ordinary (a server restart); a repeated failure is not.
                    if backoff.attempt() > 3 {
                        tracing::warn!(
                            kind = std::any::type_name::<K>(),
                            error = &error as &dyn std::error::Error,
                            attempt = backoff.attempt(),
                            "watch failed, trying again"
                        );
                    }
                    tokio::select! {
                        () = ctx.stopped() => return,
                        () = tokio::time::sleep(wait) => {}
                    }
                }
                None => return,
            }
        }
    }

    fn apply(&self, object: K) {
        let (key, new) = (Key::of(&object), Arc::new(object));
        let handlers = self.handlers.lock();
        let old = self.objects.write().insert(key, new.clone());
        let event = match old {
            // A list after a broken watch brings back what is known already.
            Some(old) if old.meta().resource_version.is_some() && old.meta().resource_version == new.meta().resource_version => {
                return;
            }
            Some(old) => Event::Updated { old, new },
            None => Event::Added(new),
        };
        handlers.iter().for_each(|handler| handler(&event));
    }

    fn delete(&self, key: &Key) {
        let handlers = self.handlers.lock();
        let old = self.objects.write().remove(key);
        if let Some(old) = old {
            let event = Event::Deleted(old);
            handlers.iter().for_each(|handler| handler(&event));
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn config_map(name: &str, version: &str, label: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.into());
        object.metadata.namespace = Some("default".into());
        object.metadata.resource_version = Some(version.into());
        object.metadata.labels = Some([("app".to_owned(), label.to_owned())].into());
        object
    }

    #[test]
    fn handlers_see_what_there_is_and_what_changes() {
        let informer = Informer::detached();
        informer.insert(config_map("a", "1", "x"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        informer.on_event(move |event| {
            let verb = match event {
                Event::Added(_) => "added",
                Event::Updated { .. } => "updated",
                Event::Deleted(_) => "deleted",
            };
            log.lock().push(format!("{verb} {}", Key::of(&**event.object())));
        });
        informer.insert(config_map("b", "2", "x"));
        informer.insert(config_map("b", "2", "x"));
        informer.insert(config_map("b", "3", "x"));
        informer.remove(&Key::new("default", "a"));
        informer.remove(&Key::new("default", "a"));
        assert_eq!(*seen.lock(), ["added default/a", "added default/b", "updated default/b", "deleted default/a"]);
        assert_eq!(informer.in_namespace("default").len(), 1);
        assert!(informer.in_namespace("defaul").is_empty());
    }

    #[test]
    fn an_index_follows_changes() {
        let informer = Informer::detached();
        informer.insert(config_map("a", "1", "x"));
        let index = informer.index(|c: &ConfigMap| c.metadata.labels.iter().flat_map(|l| l.values().cloned()).collect());
        informer.insert(config_map("b", "2", "x"));
        assert_eq!(index.get("x").len(), 2);
        informer.insert(config_map("b", "3", "y"));
        assert_eq!((index.get("x").len(), index.get("y").len()), (1, 1));
        informer.remove(&Key::new("default", "a"));
        assert!(index.get("x").is_empty());
    }
}
