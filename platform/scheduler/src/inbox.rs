use std::{collections::HashSet, sync::Arc};

use parking_lot::Mutex;
use pharos_client::Key;
use tokio::sync::Notify;

/// What changed since the scheduler last looked. Informers put names in, the scheduler's task takes them all out and reads
/// the informers' caches; so it is bounded by the number of objects, and a burst of changes to one object is looked at once.
#[derive(Clone, Default)]
pub(crate) struct Inbox(Arc<Inner>);

#[derive(Default)]
struct Inner {
    changes: Mutex<Changes>,
    some: Notify,
}

/// See [`Inbox`].
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) nodes: HashSet<String>,
    pub(crate) pods: HashSet<Key>,
    /// Volumes or claims changed.
    pub(crate) volumes: bool,
}

impl Inbox {
    pub(crate) fn put(&self, put: impl FnOnce(&mut Changes)) {
        put(&mut self.0.changes.lock());
        self.0.some.notify_one();
    }

    /// Waits for changes and takes them. Cancel-safe.
    pub(crate) async fn take(&self) -> Changes {
        loop {
            let changes = std::mem::take(&mut *self.0.changes.lock());
            if !changes.nodes.is_empty() || !changes.pods.is_empty() || changes.volumes {
                return changes;
            }
            self.0.some.notified().await;
        }
    }
}
