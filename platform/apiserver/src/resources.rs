//! The kinds this server knows now, and the documents made from them.

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use pharos_api::registry::{Kind, Registry};
use tokio::sync::Notify;

/// A document that changes only when the kinds do.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    pub(crate) body: Bytes,
    /// Quoted.
    pub(crate) etag: String,
    /// The same compressed, once somebody has asked for it.
    pub(crate) compressed: Arc<OnceLock<Bytes>>,
}

impl Document {
    pub(crate) fn new(body: impl Into<Bytes>, etag: String) -> Self {
        Document { body: body.into(), etag, compressed: Arc::default() }
    }
}

/// The registry, replaced as a whole when a kind comes or goes.
pub(crate) struct Resources {
    registry: ArcSwap<Registry>,
    /// By path; forgotten when a kind comes or goes.
    documents: Mutex<HashMap<String, Document>>,
    /// Rises whenever documents are forgotten.
    generation: AtomicU64,
    /// Wakes whoever follows the kinds.
    changed: Notify,
}

impl Resources {
    pub(crate) fn new() -> Self {
        Resources {
            registry: ArcSwap::from_pointee(Registry::builtin()),
            documents: Mutex::default(),
            generation: AtomicU64::new(0),
            changed: Notify::new(),
        }
    }

    pub(crate) fn registry(&self) -> Arc<Registry> {
        self.registry.load_full()
    }

    pub(crate) fn lookup(&self, group: &str, version: &str, resource: &str) -> Option<Arc<Kind>> {
        self.registry.load().lookup(group, version, resource).cloned()
    }

    /// Changes the set of kinds.
    pub(crate) fn change(&self, change: impl Fn(&mut Registry)) {
        self.registry.rcu(|registry| {
            let mut registry = Registry::clone(registry);
            change(&mut registry);
            registry
        });
        self.forget_documents();
        self.changed.notify_one();
    }

    /// Waits until kinds come or go, or have done so since the last call; for the one who follows them.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Forgets all documents: something else they are made from has changed.
    pub(crate) fn forget_documents(&self) {
        let mut documents = self.documents.lock();
        self.generation.fetch_add(1, Ordering::Relaxed);
        documents.clear();
    }

    /// The document of a path, made at its first use.
    pub(crate) fn document(&self, path: &str, make: impl FnOnce(&Registry) -> Option<Document>) -> Option<Document> {
        if let Some(document) = self.documents.lock().get(path) {
            return Some(document.clone());
        }
        let generation = self.generation.load(Ordering::Relaxed);
        let registry = self.registry();
        let made = make(&registry)?;
        // A kind that came meanwhile has replaced the registry: keep nothing that is out of date.
        let mut documents = self.documents.lock();
        if generation == self.generation.load(Ordering::Relaxed) {
            documents.insert(path.to_owned(), made.clone());
        }
        Some(made)
    }
}
