//! `garbage-collector`: deletes what nobody owns any more, in the background, in the foreground, or leaves orphans
//! (`pkg/controller/garbagecollector`).
//!
//! Watches the metadata of everything that can be deleted; a new or changed CustomResourceDefinition makes it look again at
//! what there is. [`Graph`] is what it knows, [`decide`] what it does about one object.
//!
//! Differs: an owner that the graph knows counts as being there without a request, since its end would wake its dependents;
//! upstream's virtual nodes are an index of dependents by owner instead.

mod graph;

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy},
    core::PartialObjectMeta,
    runtime::watcher::{self, watcher},
};
use parking_lot::{Mutex, RwLock};
use pharos_client::{Key, Next, Recorder, Regarding, WorkQueue, is_conflict, is_not_found};
use pharos_telemetry::{Backoff, Ctx};
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::graph::{FOREGROUND, Graph, Known, ORPHAN, Wake};
use crate::{
    Result,
    discovery::{Served, discover},
    env::Env,
    error::{During as _, Error, gone_is_fine},
};

/// After a definition changed, the API server is given this long before it is asked what it serves.
const SETTLE: Duration = Duration::from_millis(500);

struct Collector {
    ctx: Ctx,
    client: Client,
    recorder: Recorder,
    /// Locked for as long as one object takes, never while `served` is.
    graph: Mutex<Graph>,
    served: RwLock<Vec<Arc<Served>>>,
    delete: WorkQueue<Key>,
    orphan: WorkQueue<Key>,
    /// Objects that name an owner of a kind that nobody serves; looked at again when another kind is.
    unresolved: Mutex<HashSet<String>>,
    changed: Notify,
}

pub(crate) fn start(env: &Env) {
    let client = env.client("generic-garbage-collector");
    let collector = Arc::new(Collector {
        ctx: env.ctx.clone(),
        recorder: env.recorder(&client, "garbage-collector-controller"),
        client,
        graph: Mutex::default(),
        served: RwLock::default(),
        delete: env.queue("garbage_collector_attempt_to_delete"),
        orphan: env.queue("garbage_collector_attempt_to_orphan"),
        unresolved: Mutex::default(),
        changed: Notify::new(),
    });
    env.ctx.spawn("garbage collector", async move { collector.run().await });
}

impl Collector {
    /// Keeps one watch for each kind that is served, for as long as it is.
    async fn run(self: Arc<Self>) {
        let mut watches: BTreeMap<Served, CancellationToken> = BTreeMap::new();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
        let mut working = false;
        loop {
            let found = tokio::select! {
                biased;
                () = self.ctx.stopped() => return,
                found = discover(&self.client) => found,
            };
            match found {
                Ok(found) => {
                    backoff.reset();
                    let mut resources = found.resources;
                    resources.retain(|r| r.can("delete") && r.can("list") && r.can("watch") && r.plural != "events");
                    let synced = self.follow(&mut watches, resources, &found.stale);
                    if !working {
                        // Nothing is deleted on the ground of a graph that is not whole.
                        for mut synced in synced {
                            tokio::select! {
                                () = self.ctx.stopped() => return,
                                _ = synced.wait_for(|synced| *synced) => {}
                            }
                        }
                        self.start_workers();
                        working = true;
                    }
                    let unresolved = std::mem::take(&mut *self.unresolved.lock());
                    unresolved.into_iter().for_each(|uid| self.delete.add(Key::cluster(uid)));
                    tokio::select! {
                        () = self.ctx.stopped() => return,
                        () = self.changed.notified() => {}
                    }
                    tokio::select! {
                        () = self.ctx.stopped() => return,
                        () = tokio::time::sleep(SETTLE) => {}
                    }
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "discovery failed, trying again");
                    tokio::select! {
                        () = self.ctx.stopped() => return,
                        () = tokio::time::sleep(backoff.next_wait()) => {}
                    }
                }
            }
        }
    }

    /// Starts and ends watches. A group that did not answer keeps those it has.
    fn follow(
        self: &Arc<Self>,
        watches: &mut BTreeMap<Served, CancellationToken>,
        resources: Vec<Served>,
        stale: &[String],
    ) -> Vec<tokio::sync::watch::Receiver<bool>> {
        let gone: Vec<Served> = watches
            .keys()
            .filter(|r| !resources.contains(r) && !stale.contains(&format!("{}/{}", r.group, r.version)))
            .cloned()
            .collect();
        for resource in gone {
            if let Some(token) = watches.remove(&resource) {
                token.cancel();
            }
            let wake = self.graph.lock().forget_kind(&resource);
            self.wake(wake);
        }
        let mut synced = Vec::new();
        for resource in resources {
            if watches.contains_key(&resource) {
                continue;
            }
            let token = self.ctx.token();
            watches.insert(resource.clone(), token.clone());
            let (sender, receiver) = tokio::sync::watch::channel(false);
            synced.push(receiver);
            let this = self.clone();
            let resource = Arc::new(resource);
            self.ctx.spawn("metadata watch", async move { this.watch(resource, token, sender).await });
        }
        *self.served.write() = watches.keys().cloned().map(Arc::new).collect();
        synced
    }

    async fn watch(&self, resource: Arc<Served>, token: CancellationToken, synced: tokio::sync::watch::Sender<bool>) {
        let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(self.client.clone(), &resource.api_resource());
        let mut stream = Box::pin(watcher(api, watcher::Config::default()));
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
        let mut listed: HashSet<String> = HashSet::new();
        let is_definitions = resource.name() == "customresourcedefinitions.apiextensions.k8s.io";
        loop {
            let event = tokio::select! {
                biased;
                () = token.cancelled() => return,
                event = stream.next() => event,
            };
            let uid = |object: &PartialObjectMeta<DynamicObject>| object.metadata.uid.clone().unwrap_or_default();
            match event {
                None => return,
                Some(Ok(event)) => {
                    backoff.reset();
                    match event {
                        watcher::Event::Init => listed.clear(),
                        watcher::Event::InitApply(object) => {
                            listed.insert(uid(&object));
                            self.observe(&resource, &object.metadata);
                        }
                        watcher::Event::InitDone => {
                            let wake = self.graph.lock().keep_only(&resource, &listed);
                            self.wake(wake);
                            listed.clear();
                            synced.send_replace(true);
                        }
                        watcher::Event::Apply(object) => {
                            self.observe(&resource, &object.metadata);
                            if is_definitions {
                                self.changed.notify_one();
                            }
                        }
                        watcher::Event::Delete(object) => {
                            let wake = self.graph.lock().forget(&uid(&object));
                            self.wake(wake);
                            if is_definitions {
                                self.changed.notify_one();
                            }
                        }
                    }
                }
                Some(Err(error)) => {
                    if backoff.attempt() > 3 {
                        let kind = resource.name();
                        tracing::warn!(kind, error = &error as &dyn std::error::Error, "metadata watch failed, trying again");
                    }
                    tokio::select! {
                        () = token.cancelled() => return,
                        () = tokio::time::sleep(backoff.next_wait()) => {}
                    }
                }
            }
        }
    }

    fn observe(&self, resource: &Arc<Served>, meta: &ObjectMeta) {
        let wake = self.graph.lock().observe(resource, meta);
        self.wake(wake);
    }

    fn wake(&self, wake: Wake) {
        wake.delete.into_iter().for_each(|uid| self.delete.add(Key::cluster(uid)));
        wake.orphan.into_iter().for_each(|uid| self.orphan.add(Key::cluster(uid)));
    }

    fn start_workers(self: &Arc<Self>) {
        let this = self.clone();
        self.delete.spawn_workers(&self.ctx, 20, move |key| {
            let this = this.clone();
            async move { this.attempt_to_delete(&key.name).await }
        });
        let this = self.clone();
        self.orphan.spawn_workers(&self.ctx, 5, move |key| {
            let this = this.clone();
            async move { this.attempt_to_orphan(&key.name).await }
        });
    }

    fn api(&self, resource: &Served, namespace: &str) -> Api<DynamicObject> {
        if resource.namespaced {
            Api::namespaced_with(self.client.clone(), namespace, &resource.api_resource())
        } else {
            Api::all_with(self.client.clone(), &resource.api_resource())
        }
    }

    /// The object as it is now, if it still is the one that the graph knows.
    async fn live(&self, known: &Known) -> Result<Option<ObjectMeta>> {
        let got = self.api(&known.resource, &known.key.namespace).get_metadata(&known.key.name).await;
        let live = gone_is_fine(got).during("get", &known.key)?.map(|object| object.metadata);
        Ok(live.filter(|meta| meta.uid.as_deref() == Some(&known.uid)))
    }

    async fn attempt_to_delete(&self, uid: &str) -> Result<Next> {
        let Some(known) = self.graph.lock().get(uid).cloned() else { return Ok(Next::Done) };
        if known.deleting && !known.foreground {
            return Ok(Next::Done); // It is on its way.
        }
        if known.owners.is_empty() && !known.foreground {
            return Ok(Next::Done);
        }
        let Some(live) = self.live(&known).await? else {
            // The watch will say so too; do not wait for it.
            let wake = self.graph.lock().forget(uid);
            self.wake(wake);
            return Ok(Next::Done);
        };
        if known.foreground {
            return self.finish_foreground(&known, &live).await;
        }
        if live.deletion_timestamp.is_some() {
            return Ok(Next::Done);
        }
        let mut owners = Vec::new();
        for owner in live.owner_references.iter().flatten() {
            let state = self.state_of(&known, owner).await?;
            if state == Owner::Unresolved {
                self.unresolved.lock().insert(uid.to_owned());
            }
            owners.push((owner.clone(), state));
        }
        let dependents = self.graph.lock().dependents(uid);
        let action = decide(&owners, live.finalizers.as_deref().unwrap_or_default(), &dependents);
        self.act(&known, &live, action).await
    }

    async fn act(&self, known: &Known, live: &ObjectMeta, action: Action) -> Result<Next> {
        let api = self.api(&known.resource, &known.key.namespace);
        match action {
            Action::Keep => Ok(Next::Done),
            Action::DropOwners(owners) => {
                let patch = json!({"metadata": {
                    "uid": known.uid, "resourceVersion": live.resource_version, "ownerReferences": owners}});
                patched(api.patch_metadata(&known.key.name, &PatchParams::default(), &Patch::Merge(patch)).await, known)
            }
            Action::Delete { policy, unblock } => {
                let mut version = live.resource_version.clone();
                if unblock {
                    // A cycle of objects that wait for one another would wait for ever.
                    let mut owners = live.owner_references.clone().unwrap_or_default();
                    owners.iter_mut().for_each(|owner| owner.block_owner_deletion = Some(false));
                    let patch = json!({"metadata": {
                        "uid": known.uid, "resourceVersion": version, "ownerReferences": owners}});
                    let result = api.patch_metadata(&known.key.name, &PatchParams::default(), &Patch::Merge(patch)).await;
                    match gone_is_fine(result).during("unblock", &known.key)? {
                        Some(object) => version = object.metadata.resource_version,
                        None => return Ok(Next::Done),
                    }
                }
                let params = DeleteParams {
                    propagation_policy: Some(policy),
                    preconditions: Some(Preconditions { uid: Some(known.uid.clone()), resource_version: version }),
                    ..DeleteParams::default()
                };
                match api.delete(&known.key.name, &params).await {
                    Err(error) if is_not_found(&error) => Ok(Next::Done),
                    // It changed since it was read: look again.
                    Err(error) if is_conflict(&error) => Ok(Next::After(Duration::from_millis(50))),
                    result => result.during("delete", &known.key).map(|_| Next::Done),
                }
            }
        }
    }

    /// What an owner reference stands for.
    async fn state_of(&self, item: &Known, owner: &OwnerReference) -> Result<Owner> {
        {
            let graph = self.graph.lock();
            if let Some(known) = graph.get(&owner.uid) {
                let in_reach = known.key.namespace.is_empty() || known.key.namespace == item.key.namespace;
                if in_reach && *known.key.name == *owner.name && known.resource.kind == owner.kind {
                    return Ok(if known.foreground { Owner::WaitsForDependents } else { Owner::Solid });
                }
            }
        }
        let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
        let served = self.served.read().iter().find(|r| r.group == group && r.kind == owner.kind).cloned();
        let Some(served) = served else {
            tracing::debug!(kind = owner.kind, version, "owner of a kind that is not served");
            return Ok(Owner::Unresolved);
        };
        if served.namespaced && item.key.namespace.is_empty() {
            self.warn_namespace(item, owner);
            return Ok(Owner::Solid);
        }
        let got = self.api(&served, &item.key.namespace).get_metadata(&owner.name).await;
        let live = gone_is_fine(got).during("get owner", &format!("{}/{}", owner.kind, owner.name))?;
        Ok(match live.map(|object| object.metadata).filter(|meta| meta.uid.as_deref() == Some(&owner.uid)) {
            None => {
                if self.graph.lock().get(&owner.uid).is_some_and(|known| known.key.namespace != item.key.namespace) {
                    self.warn_namespace(item, owner);
                }
                Owner::Absent
            }
            Some(meta) => {
                let foreground = meta.finalizers.iter().flatten().any(|f| f == FOREGROUND);
                if meta.deletion_timestamp.is_some() && foreground { Owner::WaitsForDependents } else { Owner::Solid }
            }
        })
    }

    fn warn_namespace(&self, item: &Known, owner: &OwnerReference) {
        let text = format!(
            "ownerRef [{}/{}, namespace: {}, name: {}, uid: {}] does not exist in namespace \"{}\"",
            owner.api_version, owner.kind, item.key.namespace, owner.name, owner.uid, item.key.namespace
        );
        let regarding = Regarding {
            api_version: item.resource.api_resource().api_version,
            kind: item.resource.kind.clone(),
            namespace: item.key.namespace.to_string(),
            name: item.key.name.to_string(),
            uid: item.uid.clone(),
            field_path: String::new(),
        };
        self.recorder.warning(&regarding, "OwnerRefInvalidNamespace", text);
    }

    /// Lets an object go once nothing that blocks it is left.
    async fn finish_foreground(&self, known: &Known, live: &ObjectMeta) -> Result<Next> {
        let blocking = self.graph.lock().blocking(&known.uid);
        if !blocking.is_empty() {
            for dependent in blocking.into_iter().filter(|dependent| !dependent.foreground) {
                self.delete.add(Key::cluster(dependent.uid));
            }
            return Ok(Next::Done); // The end of each wakes this one again.
        }
        self.remove_finalizer(known, live, FOREGROUND).await
    }

    async fn attempt_to_orphan(&self, uid: &str) -> Result<Next> {
        let Some(known) = self.graph.lock().get(uid).cloned() else { return Ok(Next::Done) };
        let Some(live) = self.live(&known).await? else { return Ok(Next::Done) };
        if !live.finalizers.iter().flatten().any(|f| f == ORPHAN) {
            return Ok(Next::Done);
        }
        let dependents = self.graph.lock().dependents(uid);
        for dependent in dependents {
            // Read live: what the graph knows of its owners may be old.
            let Some(meta) = self.live(&dependent).await? else { continue };
            let owners: Vec<_> = meta.owner_references.iter().flatten().filter(|owner| owner.uid != uid).cloned().collect();
            if Some(owners.len()) == meta.owner_references.as_ref().map(Vec::len) {
                continue;
            }
            let patch = json!({"metadata": {
                "uid": dependent.uid, "resourceVersion": meta.resource_version, "ownerReferences": owners}});
            let api = self.api(&dependent.resource, &dependent.key.namespace);
            let result = api.patch_metadata(&dependent.key.name, &PatchParams::default(), &Patch::Merge(patch)).await;
            gone_is_fine(result).during("orphan", &dependent.key)?;
        }
        self.remove_finalizer(&known, &live, ORPHAN).await
    }

    async fn remove_finalizer(&self, known: &Known, live: &ObjectMeta, finalizer: &str) -> Result<Next> {
        let finalizers: Vec<_> = live.finalizers.iter().flatten().filter(|f| *f != finalizer).collect();
        if Some(finalizers.len()) == live.finalizers.as_ref().map(Vec::len) {
            return Ok(Next::Done);
        }
        let patch = json!({"metadata": {
            "uid": known.uid, "resourceVersion": live.resource_version, "finalizers": finalizers}});
        let api = self.api(&known.resource, &known.key.namespace);
        patched(api.patch_metadata(&known.key.name, &PatchParams::default(), &Patch::Merge(patch)).await, known)
    }
}

fn patched<T>(result: kube::Result<T>, known: &Known) -> Result<Next, Error> {
    match result {
        Err(error) if is_not_found(&error) => Ok(Next::Done),
        Err(error) if is_conflict(&error) => Ok(Next::After(Duration::from_millis(50))),
        result => result.during("patch", &known.key).map(|_| Next::Done),
    }
}

/// What has become of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// It is there.
    Solid,
    /// It is gone for good.
    Absent,
    /// It is being deleted, its dependents first.
    WaitsForDependents,
    /// Nobody knows its kind, so nobody knows.
    Unresolved,
}

/// What is done about an object.
#[derive(Debug, PartialEq)]
enum Action {
    Keep,
    /// Leaves only these owners.
    DropOwners(Vec<OwnerReference>),
    Delete {
        policy: PropagationPolicy,
        /// First lets its owners go without waiting for it.
        unblock: bool,
    },
}

/// Decides on an object by its owners, its finalizers and its dependents (`attemptToDeleteItem`).
fn decide(owners: &[(OwnerReference, Owner)], finalizers: &[String], dependents: &[Known]) -> Action {
    if owners.is_empty() || owners.iter().any(|(_, state)| *state == Owner::Unresolved) {
        return Action::Keep;
    }
    let solid: Vec<_> = owners.iter().filter(|(_, state)| *state == Owner::Solid).map(|(owner, _)| owner.clone()).collect();
    if solid.len() == owners.len() {
        return Action::Keep;
    }
    if !solid.is_empty() {
        return Action::DropOwners(solid);
    }
    if owners.iter().any(|(_, state)| *state == Owner::WaitsForDependents) && !dependents.is_empty() {
        let unblock = dependents.iter().any(|dependent| dependent.foreground);
        return Action::Delete { policy: PropagationPolicy::Foreground, unblock };
    }
    let has = |finalizer: &str| finalizers.iter().any(|f| f == finalizer);
    let policy = if has(ORPHAN) {
        PropagationPolicy::Orphan
    } else if has(FOREGROUND) {
        PropagationPolicy::Foreground
    } else {
        PropagationPolicy::Background
    };
    Action::Delete { policy, unblock: false }
}

#[cfg(test)]
mod tests;
