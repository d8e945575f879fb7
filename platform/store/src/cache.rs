//! The watch cache of one resource: its objects now, and the events that led there.
//!
//! Objects are an ordered persistent map, so a list takes a snapshot in constant time and reads it without a lock.
//! Events are kept once, in a bounded ring; a watcher is a position in it and holds no objects. Watchers of one
//! namespace, one name or one value of the trigger field share a ring of their own (pointers to the same events), so
//! that an event wakes only those it may concern.
//!
//! Every event in [`State::objects`] came from the store in order, so the map is exact at the newest revision applied.
//! It is just as exact at any later revision the store has announced: announcing follows applying.

mod ring;
mod subscription;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use imbl::OrdMap;
use parking_lot::RwLock;
use pharos_api::object::{Fields, Object};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::metrics::{CacheMetrics, ResourceMetrics};
use crate::{Entry, Error, Event, EventType, Range, Result, Revision, Sink, Store};
use ring::{Ring, Sizing};
pub use subscription::{Item, Start, Subscription};

/// What a cache holds and how much.
#[derive(Debug, Clone)]
pub struct CacheConfig {
    /// API group, empty for core.
    pub group: String,
    /// Plural name.
    pub resource: String,
    /// What its objects can be selected by.
    pub fields: Arc<Fields>,
    /// The selectable field watchers may be grouped by ([`Scope::Field`]), such as `spec.nodeName` for pods.
    pub trigger: Option<String>,
    /// Events kept at least. Default 100.
    pub min_events: usize,
    /// Events kept at most, however fast they come. Default 16,384.
    pub max_events: usize,
    /// Bytes of objects the events may hold, past `min_events`. Default 32 MiB.
    pub max_event_bytes: usize,
}

/// Which objects a list or watch is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All of the resource.
    All,
    /// Those of a namespace.
    Namespace(String),
    /// One object; the namespace is empty for a cluster-scoped resource.
    Name {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// Those whose trigger field has, or had just before the event, this value.
    Field(String),
}

/// What to list.
#[derive(Debug, Clone)]
pub struct ListOptions {
    /// Which objects.
    pub scope: Scope,
    /// The key to start at: [`List::next`] of the page before.
    pub start: Option<String>,
    /// How many objects at most; 0: all.
    pub limit: usize,
    /// Waits until the cache is at this revision or later.
    pub at_least: Revision,
    /// Reads at exactly this revision.
    pub exact: Option<Revision>,
}

/// Objects in key order, at one revision.
#[derive(Debug, Clone)]
pub struct List {
    /// The revision, for `metadata.resourceVersion`.
    pub revision: Revision,
    /// The objects.
    pub objects: Vec<Arc<Object>>,
    /// The key the next page starts at, if there is one.
    pub next: Option<String>,
    /// How many objects follow; unknown when a filter was given.
    pub remaining: Option<usize>,
}

/// The objects of a resource at one revision, unaffected by what follows.
#[derive(Clone)]
pub struct Snapshot {
    prefix: Arc<str>,
    trigger: Option<String>,
    revision: Revision,
    objects: OrdMap<Arc<str>, Arc<Object>>,
}

/// A change as a watch tells it. Shared by all watchers.
#[derive(Debug)]
pub struct WatchEvent {
    /// Created, changed or deleted.
    pub kind: EventType,
    /// The commit that made it.
    pub revision: Revision,
    /// The object's key in the store.
    pub key: Arc<str>,
    /// The object after; for a deletion its last state, with the deletion's revision as resource version.
    pub object: Arc<Object>,
    /// The object before, by which a selector tells who sees an addition or deletion instead of a change.
    pub previous: Option<Arc<Object>>,
}

/// The watch cache of one resource. Dropping it ends its watches with [`Error::Closed`].
pub struct Cache {
    shared: Arc<Shared>,
    store: Arc<dyn Store>,
}

/// What the store feeds and subscriptions read.
struct Shared {
    config: CacheConfig,
    prefix: Arc<str>,
    revisions: watch::Receiver<Revision>,
    metrics: ResourceMetrics,
    /// Locked briefly, and last: no other lock is taken while it is held.
    state: RwLock<State>,
}

struct State {
    objects: OrdMap<Arc<str>, Arc<Object>>,
    /// Of the objects, together.
    bytes: usize,
    /// Newest revision applied.
    revision: Revision,
    /// All events after this revision are in the ring.
    floor: Revision,
    ring: Ring,
    sizing: Sizing,
    /// Rings of watchers of a namespace (key prefix ending in a slash) or of a name (whole key).
    by_key: HashMap<Arc<str>, Ring>,
    /// Rings of watchers of a value of the trigger field.
    by_field: HashMap<Arc<str>, Ring>,
    closed: bool,
}

// === impl CacheConfig ===

impl CacheConfig {
    /// The defaults for a resource; `group` is empty for core.
    pub fn new(group: &str, resource: &str, fields: Arc<Fields>) -> Self {
        Self {
            group: group.to_owned(),
            resource: resource.to_owned(),
            fields,
            trigger: None,
            min_events: 100,
            max_events: 16_384,
            max_event_bytes: 32 << 20,
        }
    }

    /// What the resource's keys start with: `/registry/{group or core}/{resource}/`.
    pub fn prefix(&self) -> String {
        let group = if self.group.is_empty() { "core" } else { &self.group };
        format!("/registry/{group}/{}/", self.resource)
    }
}

// === impl Scope ===

impl Scope {
    /// What the keys of the scope start with.
    fn key_prefix(&self, prefix: &str) -> String {
        match self {
            Self::All | Self::Field(_) => prefix.to_owned(),
            Self::Namespace(namespace) => format!("{prefix}{namespace}/"),
            Self::Name { namespace, name } if namespace.is_empty() => format!("{prefix}{name}"),
            Self::Name { namespace, name } => format!("{prefix}{namespace}/{name}"),
        }
    }

    /// Whether an object is in it, given its key and the scope's key prefix.
    fn holds(&self, prefix: &str, trigger: Option<&str>, key: &str, object: &Object) -> bool {
        match self {
            Self::All => true,
            Self::Namespace(_) => key.starts_with(prefix),
            Self::Name { .. } => key == prefix,
            Self::Field(value) => trigger.and_then(|field| object.field(field)) == Some(value),
        }
    }
}

impl Default for ListOptions {
    fn default() -> Self {
        Self { scope: Scope::All, start: None, limit: 0, at_least: 0, exact: None }
    }
}

// === impl Cache ===

impl Cache {
    /// Makes the cache of a resource and fills it from the store; complete when this returns.
    ///
    /// # Errors
    ///
    /// Those of [`Store::attach`].
    pub async fn attach(store: Arc<dyn Store>, config: CacheConfig, metrics: &CacheMetrics) -> Result<Self> {
        let prefix: Arc<str> = config.prefix().into();
        let shared = Arc::new(Shared {
            metrics: metrics.resource(&config.group, &config.resource),
            revisions: store.revisions(),
            state: RwLock::new(State::new(Sizing::new(&config))),
            prefix: prefix.clone(),
            config,
        });
        store.attach(&prefix, shared.clone()).await?;
        Ok(Self { shared, store })
    }

    /// What the resource's keys start with.
    pub fn prefix(&self) -> &str {
        &self.shared.prefix
    }

    /// What the cache was made with.
    pub fn config(&self) -> &CacheConfig {
        &self.shared.config
    }

    /// The key of an object; `namespace` is empty for a cluster-scoped one.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        let scope = Scope::Name { namespace: namespace.to_owned(), name: name.to_owned() };
        scope.key_prefix(&self.shared.prefix)
    }

    /// The revision the cache is exact at.
    pub fn revision(&self) -> Revision {
        self.shared.revision(&self.shared.state.read())
    }

    /// Waits until the cache is at `revision` or later.
    ///
    /// # Errors
    ///
    /// Those of [`Store::reach`].
    pub async fn wait(&self, revision: Revision) -> Result<(), Error> {
        if self.revision() >= revision {
            return Ok(());
        }
        self.store.reach(revision).await
    }

    /// The objects now. Takes constant time.
    pub fn snapshot(&self) -> Snapshot {
        let state = self.shared.state.read();
        Snapshot {
            prefix: self.shared.prefix.clone(),
            trigger: self.shared.config.trigger.clone(),
            revision: self.shared.revision(&state),
            objects: state.objects.clone(),
        }
    }

    /// How many objects there are, and their bytes. Takes constant time.
    pub fn size(&self) -> (usize, usize) {
        let state = self.shared.state.read();
        (state.objects.len(), state.bytes)
    }

    /// An object, and the revision it was looked up at.
    pub fn get(&self, namespace: &str, name: &str) -> (Option<Arc<Object>>, Revision) {
        let key = self.key(namespace, name);
        let state = self.shared.state.read();
        (state.objects.get(&*key).cloned(), self.shared.revision(&state))
    }

    /// A page of objects.
    ///
    /// # Errors
    ///
    /// [`Error::FutureRevision`], and [`Error::Compacted`] for an exact revision that is gone.
    pub async fn list(&self, options: &ListOptions) -> Result<List> {
        let snapshot = self.snapshot_for(options).await?;
        let list = snapshot.list(options, |_| true);
        let rest = list.next.as_deref().map_or(0, |next| snapshot.iter(&options.scope, Some(next)).count());
        Ok(List { remaining: Some(rest), ..list })
    }

    /// A page of the objects `filter` accepts. How many more there are is not counted.
    ///
    /// # Errors
    ///
    /// As for [`list`](Cache::list).
    pub async fn list_matching(&self, options: &ListOptions, filter: impl Fn(&Object) -> bool + Send) -> Result<List> {
        let list = self.snapshot_for(options).await?.list(options, filter);
        Ok(List { remaining: None, ..list })
    }

    async fn snapshot_for(&self, options: &ListOptions) -> Result<Snapshot> {
        self.wait(options.at_least.max(options.exact.unwrap_or(0))).await?;
        let snapshot = self.snapshot();
        match options.exact {
            Some(revision) if revision != snapshot.revision => self.at(revision, options).await,
            _ => Ok(snapshot),
        }
    }

    /// The objects at an older revision, out of the store's history, from the start key on.
    async fn at(&self, revision: Revision, options: &ListOptions) -> Result<Snapshot> {
        let prefix = options.scope.key_prefix(&self.shared.prefix);
        let range = Range { prefix, start: options.start.clone(), limit: 0, at: Some(revision) };
        let page = self.store.list(range).await?;
        let current = self.snapshot();
        let objects = page.entries.into_iter().map(|entry| {
            // What has not changed since is already held, card and encodings included.
            let held = current.objects.get(&entry.key).filter(|object| object.revision() == entry.revision);
            let object = held.cloned().unwrap_or_else(|| self.shared.object(&entry));
            (entry.key, object)
        });
        Ok(Snapshot { objects: objects.collect(), revision: page.revision, ..current.clone() })
    }

    /// Starts a watch.
    ///
    /// # Errors
    ///
    /// [`Error::Compacted`] if events after the revision are no longer held; [`Error::Closed`]; [`Error::Invalid`] for
    /// a field scope without a trigger.
    pub fn subscribe(&self, scope: Scope, start: Start) -> Result<Subscription> {
        Subscription::new(&self.shared, scope, start)
    }

    /// Ends all watches with [`Error::Closed`]; the store stops feeding the cache.
    pub fn close(&self) {
        let mut state = self.shared.state.write();
        state.closed = true;
        state.wake_all();
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.close();
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// The revision it shows.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// The objects of a scope in key order, with their keys.
    pub fn iter<'a>(&'a self, scope: &'a Scope, start: Option<&str>) -> impl Iterator<Item = (&'a Arc<str>, &'a Arc<Object>)> {
        let prefix = scope.key_prefix(&self.prefix);
        let start = start.filter(|start| **start > *prefix).unwrap_or(&prefix).to_owned();
        let trigger = self.trigger.as_deref();
        let range = self.objects.range::<_, str>((std::ops::Bound::Included(start.as_str()), std::ops::Bound::Unbounded));
        let prefix_end = prefix.clone();
        range
            .take_while(move |(key, _)| key.starts_with(&*prefix_end))
            .filter(move |(key, object)| scope.holds(&prefix, trigger, key, object))
    }

    fn list(&self, options: &ListOptions, filter: impl Fn(&Object) -> bool) -> List {
        let limit = if options.limit == 0 { usize::MAX } else { options.limit };
        let mut matching = self.iter(&options.scope, options.start.as_deref()).filter(|(_, object)| filter(object));
        let objects: Vec<_> = matching.by_ref().take(limit).map(|(_, object)| object.clone()).collect();
        let next = if objects.len() < limit { None } else { matching.next().map(|(key, _)| key.to_string()) };
        List { revision: self.revision, objects, next, remaining: None }
    }
}

// === impl Shared ===

impl Shared {
    /// The revision the state is exact at. Taken while the state is locked.
    fn revision(&self, state: &State) -> Revision {
        state.revision.max(*self.revisions.borrow())
    }

    fn object(&self, entry: &Entry) -> Arc<Object> {
        let fields = self.config.fields.clone();
        Arc::new(Object::new(entry.bytes.clone(), entry.revision, entry.create_revision, fields))
    }

    /// The last state of a deleted object, at the revision of its deletion.
    fn deleted(&self, entry: &Entry, revision: Revision) -> Arc<Object> {
        let fields = self.config.fields.clone();
        Arc::new(Object::new(entry.bytes_at(revision), revision, entry.create_revision, fields))
    }

    /// Applies a change to the objects and says it as a watch does. `None` if it changes nothing.
    fn apply(&self, objects: &mut OrdMap<Arc<str>, Arc<Object>>, event: &Event) -> Option<WatchEvent> {
        let key = event.key.clone();
        let (object, previous) = match (&event.current, &event.previous) {
            (Some(entry), _) => {
                let object = self.object(entry);
                let previous = objects.insert(key.clone(), object.clone());
                (object, previous)
            }
            (None, Some(last)) => (self.deleted(last, event.revision), objects.remove(&key)),
            (None, None) => return None,
        };
        Some(WatchEvent { kind: event.kind(), revision: event.revision, key, object, previous })
    }
}

impl Sink for Shared {
    fn reset(&self, revision: Revision, entries: Vec<Entry>) {
        let objects: OrdMap<Arc<str>, Arc<Object>> =
            entries.iter().map(|entry| (entry.key.clone(), self.object(entry))).collect();
        self.metrics.set_objects(objects.len());
        let bytes = objects.values().map(|object| object.bytes().len()).sum();
        let mut state = self.state.write();
        (state.objects, state.bytes) = (objects, bytes);
        state.revision = revision;
        state.floor = revision;
        // Whoever watched before has missed what led here.
        state.forget_events();
        state.wake_all();
    }

    fn events(&self, events: &[Arc<Event>]) {
        let now = Instant::now();
        let mut state = self.state.write();
        let state = &mut *state;
        for event in events {
            if event.revision <= state.revision && state.ring.last_revision() != Some(event.revision) {
                continue; // Already in the state the cache began with.
            }
            let Some(event) = self.apply(&mut state.objects, event) else { continue };
            state.revision = event.revision;
            let gone = event.previous.as_ref().map_or(0, |previous| previous.bytes().len());
            let come = if event.kind == EventType::Deleted { 0 } else { event.object.bytes().len() };
            state.bytes = (state.bytes + come).saturating_sub(gone);
            state.push(Arc::new(event), self.config.trigger.as_deref(), now);
        }
        state.wake_dirty();
        self.metrics.set_objects(state.objects.len());
        self.metrics.events.inc_by(events.len() as u64);
        self.metrics.capacity.set(state.sizing.capacity() as i64);
    }

    fn is_closed(&self) -> bool {
        self.state.read().closed
    }
}

// === impl State ===

impl State {
    fn new(sizing: Sizing) -> Self {
        Self {
            objects: OrdMap::new(),
            bytes: 0,
            revision: 0,
            floor: 0,
            ring: Ring::default(),
            sizing,
            by_key: HashMap::new(),
            by_field: HashMap::new(),
            closed: false,
        }
    }

    /// Adds an event to every ring it belongs to and lets go of those the main ring has no room for.
    fn push(&mut self, event: Arc<WatchEvent>, trigger: Option<&str>, now: Instant) {
        self.for_groups(&event, trigger, |ring| ring.push(event.clone()));
        self.sizing.admit(&event, now, &self.ring);
        self.ring.push(event);
        while self.sizing.is_over(&self.ring) {
            let Some(old) = self.ring.pop() else { break };
            self.sizing.released(&old);
            self.floor = old.revision;
            self.for_groups(&old, trigger, |ring| ring.pop_through(old.revision));
        }
    }

    /// Calls `act` on the ring of each group the event concerns.
    fn for_groups(&mut self, event: &WatchEvent, trigger: Option<&str>, mut act: impl FnMut(&mut Ring)) {
        if !self.by_key.is_empty() {
            let namespace = event.key.rfind('/').map_or("", |slash| &event.key[..=slash]);
            for key in [&*event.key, namespace] {
                self.by_key.get_mut(key).map(&mut act);
            }
        }
        let Some(field) = trigger.filter(|_| !self.by_field.is_empty()) else { return };
        let value = event.object.field(field);
        let previous = event.previous.as_ref().and_then(|object| object.field(field));
        for value in [value, previous.filter(|previous| Some(*previous) != value)].into_iter().flatten() {
            self.by_field.get_mut(value).map(&mut act);
        }
    }

    /// The ring a scope's watchers read, if it is there.
    fn ring(&self, scope: &Scope, key_prefix: &str) -> Option<&Ring> {
        match scope {
            Scope::All => Some(&self.ring),
            Scope::Namespace(_) | Scope::Name { .. } => self.by_key.get(key_prefix),
            Scope::Field(value) => self.by_field.get(value.as_str()),
        }
    }

    /// The ring a scope's watchers read, made for the first of them.
    fn ring_for(&mut self, scope: &Scope, key_prefix: &str) -> &mut Ring {
        match scope {
            Scope::All => &mut self.ring,
            Scope::Namespace(_) | Scope::Name { .. } => self.by_key.entry(key_prefix.into()).or_default(),
            Scope::Field(value) => self.by_field.entry(value.as_str().into()).or_default(),
        }
    }

    /// Counts a watcher out, and drops a group's ring with its last.
    fn leave(&mut self, scope: &Scope, key_prefix: &str) {
        let ring = self.ring_for(scope, key_prefix);
        ring.watchers -= 1;
        if ring.watchers > 0 {
            return;
        }
        match scope {
            Scope::All => {}
            Scope::Namespace(_) | Scope::Name { .. } => drop(self.by_key.remove(key_prefix)),
            Scope::Field(value) => drop(self.by_field.remove(value.as_str())),
        }
    }

    fn rings(&mut self) -> impl Iterator<Item = &mut Ring> {
        std::iter::once(&mut self.ring).chain(self.by_key.values_mut()).chain(self.by_field.values_mut())
    }

    fn forget_events(&mut self) {
        self.rings().for_each(Ring::forget);
        self.sizing.emptied();
    }

    fn wake_all(&mut self) {
        self.rings().for_each(|ring| ring.wake());
    }
}
