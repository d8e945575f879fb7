//! `endpointslice`: which pods stand behind a Service (`pkg/controller/endpointslice`, `k8s.io/endpointslice`).
//!
//! [`wanted`] says what there is to tell, [`packed`] how it is spread over slices with as few writes as possible,
//! [`TriggerTimes`] since when there is news.

mod wanted;
mod packed;
mod trigger_times;

use std::{collections::HashMap, sync::Arc};

use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use parking_lot::Mutex;
use pharos_client::{Event, Index, Key, Next, Recorder, Regarding, WorkQueue};

use crate::{
    Result,
    env::Env,
    error::{During as _, gone_is_fine},
    owners,
    pod_control::namespace_is_terminating,
    selector::Selector,
};

pub(crate) use packed::{Changes, pack};
pub(crate) use trigger_times::{TriggerTimes, set_trigger};
pub(crate) use wanted::{find_port, subset_member};

/// Whose slices these are.
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";
const CONTROLLER: &str = "endpointslice-controller.k8s.io";

/// Slices by the Service they belong to.
pub(crate) fn by_service(env: &Env) -> Index<EndpointSlice> {
    env.informers.endpoint_slices.index(|slice| {
        let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
        owners::labels(slice).get(SERVICE_NAME).map(|name| format!("{namespace}/{name}")).into_iter().collect()
    })
}

pub(crate) fn is_managed_by(slice: &EndpointSlice, controller: &str) -> bool {
    owners::labels(slice).get(MANAGED_BY).is_some_and(|by| by == controller)
}

/// Slices that were written and may not be in the cache yet: until they are, nothing is decided (upstream's tracker).
#[derive(Default)]
pub(crate) struct Written(Mutex<HashMap<Key, HashMap<String, Option<i64>>>>);

impl Written {
    fn note(&self, service: &Key, slice: &EndpointSlice) {
        let generation = slice.metadata.generation.unwrap_or_default();
        self.0.lock().entry(service.clone()).or_default().insert(owners::uid(slice).to_owned(), Some(generation));
    }

    fn note_deleted(&self, service: &Key, slice: &EndpointSlice) {
        self.0.lock().entry(service.clone()).or_default().insert(owners::uid(slice).to_owned(), None);
    }

    /// A slice is gone: nothing is awaited of it.
    pub(crate) fn gone(&self, service: &Key, slice: &EndpointSlice) {
        let mut written = self.0.lock();
        if let Some(slices) = written.get_mut(service) {
            slices.remove(owners::uid(slice));
            if slices.is_empty() {
                written.remove(service);
            }
        }
    }

    pub(crate) fn forget(&self, service: &Key) {
        self.0.lock().remove(service);
    }

    /// Whether the cache is older than what was written.
    pub(crate) fn is_ahead_of(&self, service: &Key, cached: &[Arc<EndpointSlice>]) -> bool {
        let written = self.0.lock();
        let Some(slices) = written.get(service) else { return false };
        slices.iter().any(|(uid, generation)| {
            let cached = cached.iter().find(|slice| owners::uid(&***slice) == uid);
            match (generation, cached) {
                (Some(generation), Some(cached)) => cached.metadata.generation.unwrap_or_default() < *generation,
                (Some(_), None) => true,
                (None, cached) => cached.is_some_and(|slice| !owners::is_deleting(&**slice)),
            }
        })
    }

    /// Carries changes out.
    pub(crate) async fn apply(&self, client: &Client, service: &Key, changes: Changes) -> Result<()> {
        let api: Api<EndpointSlice> = Api::namespaced(client.clone(), &service.namespace);
        for slice in changes.create {
            match api.create(&PostParams::default(), &slice).await {
                Ok(created) => self.note(service, &created),
                Err(error) if namespace_is_terminating(&error) => return Ok(()),
                Err(error) => return Err(error).during("create an endpoint slice for", service),
            }
        }
        for slice in changes.update {
            let updated = api.replace(owners::name(&slice), &PostParams::default(), &slice).await;
            self.note(service, &updated.during("update an endpoint slice of", service)?);
        }
        for slice in changes.delete {
            let deleted = api.delete(owners::name(&*slice), &DeleteParams::default()).await;
            if gone_is_fine(deleted).during("delete an endpoint slice of", service)?.is_some() {
                self.note_deleted(service, &slice);
            }
        }
        Ok(())
    }
}

/// Wakes the Services that select a pod, when something about it changed that endpoints tell.
pub(crate) fn wake_services(env: &Env, queue: &WorkQueue<Key>) {
    let (services, queue) = (env.informers.services.clone(), queue.clone());
    env.informers.pods.on_event(move |event| {
        if let Event::Updated { old, new } = event
            && !wanted::tells_something_new(old, new)
        {
            return;
        }
        let mut pods = vec![event.object()];
        if let Event::Updated { old, .. } = event {
            pods.push(old);
        }
        for service in services.in_namespace(event.object().metadata.namespace.as_deref().unwrap_or_default()) {
            let labels = service.spec.as_ref().and_then(|spec| spec.selector.as_ref()).filter(|labels| !labels.is_empty());
            if let Some(labels) = labels
                && pods.iter().any(|pod| Selector::from_labels(labels).matches(owners::labels(&***pod)))
            {
                queue.add(Key::of(&*service));
            }
        }
    });
}

/// The pods that a Service selects.
pub(crate) fn selected(env: &Env, service: &Service) -> Vec<Arc<Pod>> {
    let Some(labels) = service.spec.as_ref().and_then(|spec| spec.selector.as_ref()) else { return Vec::new() };
    let selector = Selector::from_labels(labels);
    let mut pods = env.informers.pods.in_namespace(service.metadata.namespace.as_deref().unwrap_or_default());
    pods.retain(|pod| selector.matches(owners::labels(&**pod)));
    pods
}

struct Slices {
    env: Env,
    client: Client,
    recorder: Recorder,
    slices: Index<EndpointSlice>,
    written: Arc<Written>,
    triggers: TriggerTimes,
}

pub(crate) fn start(env: &Env) {
    let queue = env.queue("endpoint_slice");
    let client = env.client("endpointslice-controller");
    let controller = Arc::new(Slices {
        recorder: env.recorder(&client, "endpoint-slice-controller"),
        client,
        slices: by_service(env),
        written: Arc::default(),
        triggers: TriggerTimes::default(),
        env: env.clone(),
    });
    let put = queue.clone();
    env.informers.services.on_event(move |event| put.add(Key::of(&**event.object())));
    wake_services(env, &queue);
    let (put, written) = (queue.clone(), controller.written.clone());
    env.informers.endpoint_slices.on_event(move |event| {
        let slice = event.object();
        let Some(name) = owners::labels(&**slice).get(SERVICE_NAME) else { return };
        let service = Key::new(slice.metadata.namespace.as_deref().unwrap_or_default(), name.as_str());
        if let Event::Deleted(slice) = event {
            written.gone(&service, slice);
        }
        let mut ours = is_managed_by(slice, CONTROLLER);
        if let Event::Updated { old, .. } = event {
            ours |= is_managed_by(old, CONTROLLER);
        }
        if ours {
            put.add(service);
        }
    });
    // The zone of a node is part of its endpoints.
    let (put, env_) = (queue.clone(), env.clone());
    env.informers.nodes.on_event(move |event| {
        let zone = |node: &Node| owners::labels(node).get(wanted::ZONE).cloned();
        match event {
            Event::Updated { old, new } if zone(old) == zone(new) => return,
            Event::Added(node) if zone(node).is_none() => return,
            _ => {}
        }
        for pod in env_.informers.pods_by_node.get(owners::name(&**event.object())) {
            for service in env_.informers.services.in_namespace(pod.metadata.namespace.as_deref().unwrap_or_default()) {
                if selected(&env_, &service).iter().any(|selected| owners::uid(&**selected) == owners::uid(&*pod)) {
                    put.add(Key::of(&*service));
                }
            }
        }
    });
    let this = controller.clone();
    queue.spawn_workers(&env.ctx, 5, move |key| {
        let this = this.clone();
        async move { this.sync(&key).await }
    });
}

impl Slices {
    async fn sync(&self, key: &Key) -> Result<Next> {
        let Some(service) = self.env.informers.services.get(key) else {
            self.written.forget(key);
            self.triggers.forget(key);
            return Ok(Next::Done); // Its slices go with it.
        };
        let spec = service.spec.clone().unwrap_or_default();
        if spec.selector.as_ref().is_none_or(|labels| labels.is_empty()) || spec.type_.as_deref() == Some("ExternalName") {
            return Ok(Next::Done); // Whoever made it tells its endpoints.
        }
        let cached = self.slices.get(&key.to_string());
        if self.written.is_ahead_of(key, &cached) {
            return Ok(Next::Done); // The event of what was written brings it back.
        }
        let ours: Vec<_> = cached.into_iter().filter(|slice| is_managed_by(slice, CONTROLLER)).collect();
        let nodes = |name: &str| self.env.informers.nodes.get(&Key::cluster(name));
        let pods = selected(&self.env, &service);
        let mut changes = pack(&service, CONTROLLER, &ours, wanted::of(&service, &pods, &nodes));
        changes.set_trigger(self.triggers.observe(&service, &pods));
        let result = self.written.apply(&self.client, key, changes).await;
        if let Err(error) = &result
            && !error.source_request().is_some_and(pharos_client::is_conflict)
        {
            let text = format!("Error updating Endpoint Slices for Service {key}: {}", error.message());
            self.recorder.warning(&Regarding::of(&*service), "FailedToUpdateEndpointSlices", text);
        }
        result.map(|()| Next::Done)
    }
}

#[cfg(test)]
mod tests;
