use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use pharos_client::Key;

use crate::discovery::Served;

pub(super) const FOREGROUND: &str = "foregroundDeletion";
pub(super) const ORPHAN: &str = "orphan";

/// Everything that can be deleted, by UID, and who depends on whom. Bounded by what the API server holds.
#[derive(Default)]
pub(super) struct Graph {
    objects: HashMap<String, Known>,
    /// The UIDs of those that name an owner, by its UID, whether it is there or not.
    dependents: HashMap<String, HashSet<String>>,
}

/// What the graph knows of an object.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) resource: Arc<Served>,
    pub(super) key: Key,
    pub(super) uid: String,
    pub(super) owners: Vec<OwnerReference>,
    pub(super) deleting: bool,
    /// It is being deleted once its dependents are gone.
    pub(super) foreground: bool,
    /// It is being deleted once its dependents are released.
    orphaning: bool,
}

/// UIDs to be looked at.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Wake {
    pub(super) delete: Vec<String>,
    pub(super) orphan: Vec<String>,
}

fn blocks(owner: &OwnerReference) -> bool {
    owner.block_owner_deletion == Some(true)
}

impl Graph {
    pub(super) fn get(&self, uid: &str) -> Option<&Known> {
        self.objects.get(uid)
    }

    /// The objects that name an owner.
    pub(super) fn dependents(&self, uid: &str) -> Vec<Known> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|uid| self.objects.get(uid)).cloned().collect()
    }

    /// The dependents that an owner's deletion waits for.
    pub(super) fn blocking(&self, uid: &str) -> Vec<Known> {
        let mut dependents = self.dependents(uid);
        dependents.retain(|dependent| dependent.owners.iter().any(|owner| owner.uid == uid && blocks(owner)));
        dependents
    }

    fn waits(&self, uid: &str) -> bool {
        self.objects.get(uid).is_some_and(|owner| owner.foreground)
    }

    /// An object is there, as it is described.
    pub(super) fn observe(&mut self, resource: &Arc<Served>, meta: &ObjectMeta) -> Wake {
        let uid = meta.uid.clone().unwrap_or_default();
        let deleting = meta.deletion_timestamp.is_some();
        let has = |finalizer: &str| meta.finalizers.iter().flatten().any(|f| f == finalizer);
        let new = Known {
            resource: resource.clone(),
            key: Key::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default()),
            uid: uid.clone(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            deleting,
            foreground: deleting && has(FOREGROUND),
            orphaning: deleting && has(ORPHAN),
        };
        let old = self.objects.insert(uid.clone(), new.clone());
        let mut wake = Wake::default();
        // Owners that are let go, or no longer made to wait.
        for before in old.iter().flat_map(|old| &old.owners) {
            let now = new.owners.iter().find(|owner| owner.uid == before.uid);
            if now.is_none()
                && let Some(set) = self.dependents.get_mut(&before.uid)
            {
                set.remove(&uid);
                if set.is_empty() {
                    self.dependents.remove(&before.uid);
                }
            }
            if blocks(before) && !now.is_some_and(blocks) && self.waits(&before.uid) {
                wake.delete.push(before.uid.clone());
            }
        }
        for owner in &new.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
        }
        let is_new_owner = |owner: &OwnerReference| !old.iter().any(|old| old.owners.iter().any(|o| o.uid == owner.uid));
        let doubtful = |owner: &OwnerReference| {
            self.objects.get(&owner.uid).is_none_or(|known| {
                known.foreground
                    || *known.key.name != *owner.name
                    || (!known.key.namespace.is_empty() && known.key.namespace != new.key.namespace)
            })
        };
        if new.owners.iter().any(|owner| is_new_owner(owner) && doubtful(owner)) {
            wake.delete.push(uid.clone());
        }
        if new.orphaning && !old.as_ref().is_some_and(|old| old.orphaning) {
            wake.orphan.push(uid.clone());
        }
        if new.foreground && !old.as_ref().is_some_and(|old| old.foreground) {
            wake.delete.extend(self.dependents.get(&uid).into_iter().flatten().cloned());
            wake.delete.push(uid);
        }
        wake
    }

    /// An object is gone.
    pub(super) fn forget(&mut self, uid: &str) -> Wake {
        let Some(gone) = self.objects.remove(uid) else { return Wake::default() };
        let mut wake = Wake::default();
        for owner in &gone.owners {
            if let Some(set) = self.dependents.get_mut(&owner.uid) {
                set.remove(uid);
                if set.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
            if self.waits(&owner.uid) {
                wake.delete.push(owner.uid.clone());
            }
        }
        wake.delete.extend(self.dependents.get(uid).into_iter().flatten().cloned());
        wake
    }

    /// Of a kind only these are left: a list after a broken watch.
    pub(super) fn keep_only(&mut self, resource: &Served, listed: &HashSet<String>) -> Wake {
        let gone: Vec<String> = self
            .objects
            .values()
            .filter(|known| *known.resource == *resource && !listed.contains(&known.uid))
            .map(|known| known.uid.clone())
            .collect();
        let mut wake = Wake::default();
        for uid in gone {
            wake.delete.extend(self.forget(&uid).delete);
        }
        wake
    }

    /// A kind is served no longer.
    pub(super) fn forget_kind(&mut self, resource: &Served) -> Wake {
        self.keep_only(resource, &HashSet::new())
    }
}
