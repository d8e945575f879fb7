//! What the controllers of objects that own pods share: a queue of owners, into which owners and pods put who is to be synced.

use std::{fmt::Debug, sync::Arc};

use k8s_openapi::{
    api::{
        apps::v1::{ControllerRevision, DaemonSet, StatefulSet},
        batch::v1::Job,
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::Resource;
use pharos_client::{Event, Informer, Key, WorkQueue};
use serde::de::DeserializeOwned;

use crate::{env::Env, expectations::Expectations, owners, pod_control::PodControl, selector::Selector};

/// An object that owns the pods it selects.
pub(crate) trait PodOwner: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static {
    fn selector(&self) -> Option<&LabelSelector>;
}

impl PodOwner for DaemonSet {
    fn selector(&self) -> Option<&LabelSelector> {
        Some(&self.spec.selector)
    }
}

impl PodOwner for StatefulSet {
    fn selector(&self) -> Option<&LabelSelector> {
        Some(&self.spec.selector)
    }
}

impl PodOwner for Job {
    fn selector(&self) -> Option<&LabelSelector> {
        self.spec.as_ref()?.selector.as_ref()
    }
}

/// The controller of one kind of owners; each adds what a sync does.
pub(crate) struct Controller<K> {
    pub(crate) env: Env,
    pub(crate) control: PodControl,
    pub(crate) queue: WorkQueue<Key>,
    pub(crate) expectations: Expectations,
    pub(crate) informer: Informer<K>,
}

/// What a controller is called.
pub(crate) struct Names {
    /// Its ServiceAccount.
    pub(crate) account: &'static str,
    /// Whom its events name.
    pub(crate) reporter: &'static str,
    pub(crate) queue: &'static str,
}

impl<K: PodOwner> Controller<K> {
    /// A controller whose queue gets each owner that changes, and whose pods do.
    pub(crate) fn start(env: &Env, names: &Names, informer: &Informer<K>) -> Arc<Self> {
        let client = env.client(names.account);
        let controller = Arc::new(Self {
            control: PodControl { recorder: env.recorder(&client, names.reporter), client },
            queue: env.queue(names.queue),
            expectations: Expectations::default(),
            informer: informer.clone(),
            env: env.clone(),
        });
        let this = controller.clone();
        informer.on_event(move |event| {
            let key = Key::of(&**event.object());
            if matches!(event, Event::Deleted(_)) {
                this.expectations.forget(&key);
            }
            this.queue.add(key);
        });
        let this = controller.clone();
        env.informers.pods.on_event(move |event| this.on_pod(event));
        controller
    }

    /// Puts owners into the queue for changes of their revisions, too.
    pub(crate) fn follow_revisions(self: &Arc<Self>) {
        let this = self.clone();
        self.env.informers.controller_revisions.on_event(move |event: &Event<ControllerRevision>| {
            if let Some(owner) = owners::controller_key::<K, _>(&**event.object()) {
                this.queue.add(owner);
            }
        });
    }

    fn on_pod(&self, event: &Event<Pod>) {
        let pod = event.object();
        let owner = owners::controller_key::<K, _>(&**pod);
        if let Event::Updated { old, .. } = event
            && let Some(before) = owners::controller_key::<K, _>(&**old).filter(|before| Some(before) != owner.as_ref())
        {
            self.queue.add(before);
        }
        let Some(owner) = owner else {
            if owners::controller_of(&**pod).is_none() && !matches!(event, Event::Deleted(_)) {
                self.offer(pod);
            }
            return;
        };
        match event {
            Event::Added(_) => self.expectations.created(&owner, 1),
            Event::Updated { new, .. } if !owners::is_deleting(&**new) => {}
            _ => self.expectations.deleted(&owner, owners::uid(&**pod)),
        }
        self.queue.add(owner);
    }

    /// Puts those into the queue that may adopt an orphan.
    fn offer(&self, pod: &Pod) {
        for owner in self.informer.in_namespace(pod.metadata.namespace.as_deref().unwrap_or_default()) {
            if Selector::new(owner.selector()).is_ok_and(|selector| selector.matches(owners::labels(pod))) {
                self.queue.add(Key::of(&*owner));
            }
        }
    }
}
