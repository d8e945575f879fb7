//! Where objects are: the store, and a watch cache per resource in front of it.

use std::{collections::HashMap, sync::Arc};

use parking_lot::RwLock;
use pharos_api::{
    object::{Field, Fields},
    registry::{Kind, Storage as Place},
    schema::Str,
};
use pharos_store::{Cache, CacheConfig, CacheMetrics, Commit, Entry, Op, Revision, Store};
use serde_json::Value;
use tokio::sync::watch;

use crate::status::Status;

/// The store and its caches.
pub(crate) struct Storage {
    store: Arc<dyn Store>,
    metrics: CacheMetrics,
    /// By group and resource: the version objects are stored in may change.
    caches: RwLock<HashMap<Resource, Arc<Cache>>>,
}

type Resource = (Str, Str);

fn resource(place: &Place) -> Resource {
    (place.group.clone(), place.resource.clone())
}

impl Storage {
    pub(crate) fn new(store: Arc<dyn Store>, metrics: CacheMetrics) -> Self {
        Storage { store, metrics, caches: RwLock::default() }
    }

    /// Attaches the cache of a kind, unless it is there.
    pub(crate) async fn attach(&self, kind: &Kind) -> Result<Arc<Cache>, pharos_store::Error> {
        if let Some(cache) = self.caches.read().get(&resource(&kind.storage)) {
            return Ok(cache.clone());
        }
        let fields = Fields::new(kind.fields.iter().map(|field| Field {
            name: field.label.to_string(),
            paths: field.paths.iter().map(|path| path.join(".")).collect(),
            default: field.absent.to_string(),
        }));
        let group = if kind.storage.group == "core" { "" } else { kind.storage.group.as_ref() };
        let mut config = CacheConfig::new(group, &kind.storage.resource, Arc::new(fields));
        config.trigger = (kind.plural == "pods" && kind.group.is_empty()).then(|| "spec.nodeName".to_owned());
        let cache = Arc::new(Cache::attach(self.store.clone(), config, &self.metrics).await?);
        Ok(self.caches.write().entry(resource(&kind.storage)).or_insert(cache).clone())
    }

    /// Ends the watches of a kind that is no longer served.
    pub(crate) fn detach(&self, kind: &Kind) {
        if let Some(cache) = self.caches.write().remove(&resource(&kind.storage)) {
            cache.close();
        }
    }

    /// The cache of a kind.
    pub(crate) fn cache(&self, kind: &Kind) -> Result<Arc<Cache>, Status> {
        let cache = self.caches.read().get(&resource(&kind.storage)).cloned();
        cache.ok_or_else(|| crate::status::unavailable("storage is (re)initializing").with_retry_after(1))
    }

    /// The newest state of an object.
    pub(crate) async fn get(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Option<Entry>, Status> {
        Ok(self.store.get(&kind.key(namespace, name), None).await?)
    }

    /// The newest state of an object of a built-in kind, as stored; `namespace` is empty for cluster scope.
    pub(crate) async fn object(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Result<Option<Value>, Status> {
        let group = if group.is_empty() { "core" } else { group };
        let key = match namespace {
            "" => format!("/registry/{group}/{resource}/{name}"),
            _ => format!("/registry/{group}/{resource}/{namespace}/{name}"),
        };
        self.store.get(&key, None).await?.map(|entry| parse(&entry.bytes)).transpose()
    }

    /// The objects of a built-in kind, as stored, in one namespace or (empty) everywhere.
    pub(crate) async fn objects(&self, group: &str, resource: &str, namespace: &str) -> Result<Vec<Value>, Status> {
        let group = if group.is_empty() { "core" } else { group };
        let mut prefix = format!("/registry/{group}/{resource}/");
        if !namespace.is_empty() {
            prefix.push_str(namespace);
            prefix.push('/');
        }
        let page = self.store.list(pharos_store::Range { prefix, ..Default::default() }).await?;
        page.entries.iter().map(|entry| parse(&entry.bytes)).collect()
    }

    /// Commits; a conflict keeps its type so that the caller may read again.
    pub(crate) async fn commit(&self, ops: Vec<Op>) -> Result<Commit, pharos_store::Error> {
        self.store.commit(ops).await
    }

    pub(crate) async fn revision(&self) -> Result<Revision, Status> {
        Ok(self.store.revision().await?)
    }

    pub(crate) fn revisions(&self) -> watch::Receiver<Revision> {
        self.store.revisions()
    }
}

/// Parses what the store holds.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, Status> {
    serde_json::from_slice(bytes).map_err(|error| {
        tracing::error!(error = &error as &dyn std::error::Error, "stored object is not JSON");
        crate::status::internal("stored object cannot be read")
    })
}
