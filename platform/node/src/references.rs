//! ConfigMaps and Secrets that pods read, each followed by a watch of its own for as long as a pod reads it.
//!
//! The Node authorizer allows no more than that, and no node needs to know others' secrets.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Debug,
    sync::{Arc, Weak},
    time::Duration,
};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client, Resource, runtime::watcher::watch_object};
use parking_lot::Mutex;
use pharos_telemetry::{Backoff, Ctx};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::objects::{Kind, Objects, Reference};

/// How long the first answer about an object is waited for.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// The watches of one kind, by namespace and name. Locked for a look or a change only.
type All<K> = Mutex<HashMap<(String, String), Weak<Watched<K>>>>;

/// The watches of all pods. Cheap to clone.
#[derive(Clone)]
pub(crate) struct References {
    ctx: Ctx,
    client: Client,
    maps: Arc<All<ConfigMap>>,
    secrets: Arc<All<Secret>>,
}

/// What one pod holds on to. Dropping it ends the watches nobody else needs.
#[derive(Default)]
pub(crate) struct Held {
    maps: HashMap<String, Arc<Watched<ConfigMap>>>,
    secrets: HashMap<String, Arc<Watched<Secret>>>,
}

struct Watched<K> {
    /// `None` until the first answer; then the object or its absence.
    value: watch::Receiver<Option<Option<Arc<K>>>>,
    wakers: Arc<Mutex<Vec<Weak<Notify>>>>,
    _end: DropGuard,
}

// === impl References ===

impl References {
    /// No watches yet.
    pub(crate) fn new(ctx: Ctx, client: Client) -> Self {
        Self { ctx, client, maps: Arc::default(), secrets: Arc::default() }
    }

    /// Makes `held` follow exactly these objects; `wake` is told of changes.
    pub(crate) fn follow(&self, held: &mut Held, namespace: &str, wanted: &BTreeSet<Reference>, wake: &Arc<Notify>) {
        let of = |kind: Kind| wanted.iter().filter(move |(k, _)| *k == kind).map(|(_, name)| name.as_str());
        self.follow_kind(&self.maps, &mut held.maps, namespace, of(Kind::ConfigMap).collect(), wake);
        self.follow_kind(&self.secrets, &mut held.secrets, namespace, of(Kind::Secret).collect(), wake);
    }

    fn follow_kind<K>(
        &self,
        all: &All<K>,
        held: &mut HashMap<String, Arc<Watched<K>>>,
        namespace: &str,
        wanted: BTreeSet<&str>,
        wake: &Arc<Notify>,
    ) where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        held.retain(|name, _| wanted.contains(name.as_str()));
        for name in wanted {
            if held.contains_key(name) {
                continue;
            }
            let mut all = all.lock();
            all.retain(|_, entry| entry.strong_count() > 0);
            let key = (namespace.to_owned(), name.to_owned());
            let watched = match all.get(&key).and_then(Weak::upgrade) {
                Some(watched) => watched,
                None => {
                    let watched = Arc::new(self.start::<K>(namespace, name));
                    all.insert(key, Arc::downgrade(&watched));
                    watched
                }
            };
            watched.wakers.lock().push(Arc::downgrade(wake));
            held.insert(name.to_owned(), watched);
        }
    }

    fn start<K>(&self, namespace: &str, name: &str) -> Watched<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        let (sender, value) = watch::channel(None);
        let wakers: Arc<Mutex<Vec<Weak<Notify>>>> = Arc::default();
        let token = CancellationToken::new();
        let (stop, ctx, wakers_) = (token.clone(), self.ctx.clone(), wakers.clone());
        let mut stream = Box::pin(watch_object(Api::<K>::namespaced(self.client.clone(), namespace), name));
        self.ctx.spawn("reference", async move {
            let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
            loop {
                let next = tokio::select! {
                    () = ctx.stopped() => return,
                    () = stop.cancelled() => return,
                    next = stream.next() => next,
                };
                match next {
                    Some(Ok(object)) => {
                        backoff.reset();
                        sender.send_replace(Some(object.map(Arc::new)));
                        let mut wakers = wakers_.lock();
                        wakers.retain(|waker| waker.upgrade().map(|waker| waker.notify_one()).is_some());
                    }
                    Some(Err(error)) => {
                        let wait = backoff.next_wait();
                        // At first it is ordinary: the API server learns a moment later than this node that the node has a
                        // pod that may read the object, and refuses until then.
                        if backoff.attempt() > 4 {
                            tracing::warn!(error = %error, attempt = backoff.attempt(), "watch of a referenced object failed, trying again");
                        }
                        tokio::select! {
                            () = ctx.stopped() => return,
                            () = stop.cancelled() => return,
                            () = tokio::time::sleep(wait) => {}
                        }
                    }
                    None => return,
                }
            }
        });
        Watched { value, wakers, _end: token.drop_guard() }
    }
}

// === impl Held ===

impl Held {
    /// What the objects are now; waits for the first answer about each. An object without one counts as absent.
    pub(crate) async fn objects(&self) -> Objects {
        let mut objects = Objects::default();
        for (name, watched) in &self.maps {
            objects.config_maps.insert(name.clone(), first(watched).await);
        }
        for (name, watched) in &self.secrets {
            objects.secrets.insert(name.clone(), first(watched).await);
        }
        objects
    }
}

async fn first<K>(watched: &Watched<K>) -> Option<Arc<K>> {
    let mut value = watched.value.clone();
    let found = tokio::time::timeout(FIRST_ANSWER, value.wait_for(Option::is_some)).await;
    match found {
        Ok(Ok(value)) => value.clone().flatten(),
        _ => None,
    }
}
