//! `node-lifecycle`: notices nodes that fell silent, taints nodes by their conditions, and marks their pods not ready
//! (`pkg/controller/nodelifecycle`). `taint_eviction` then evicts.
//!
//! Differs: a node has one timer, reset by its Lease and its status, instead of a scan every five seconds; evictions are not
//! slowed down when only part of a zone fails. As upstream, nobody is evicted while no node at all is ready.

mod decide;

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use parking_lot::Mutex;
use pharos_client::{Event, Key, Next, Recorder, Regarding, WorkQueue};
use serde_json::json;

use crate::{
    Result,
    env::Env,
    error::{During as _, gone_is_fine},
    owners, pods,
};

struct Nodes {
    env: Env,
    client: Client,
    recorder: Recorder,
    queue: WorkQueue<Key>,
    /// When each node last gave a sign of life, by our clock, and that sign.
    seen: Mutex<HashMap<Key, (Timestamp, decide::Sign)>>,
}

pub(crate) fn start(env: &Env) {
    let client = env.client("node-controller");
    let nodes = Arc::new(Nodes {
        recorder: env.recorder(&client, "node-controller"),
        client,
        queue: env.queue("node_lifecycle_controller"),
        seen: Mutex::default(),
        env: env.clone(),
    });
    let this = nodes.clone();
    env.informers.nodes.on_event(move |event| {
        let key = Key::of(&**event.object());
        match event {
            Event::Added(node) => {
                let text = format!("Node {} event: Registered Node {0} in Controller", key.name);
                this.recorder.normal(&Regarding::of(&**node), "RegisteredNode", text);
                this.queue.add(key);
                this.wake_others(node);
            }
            Event::Updated { old, new } => {
                this.queue.add(key);
                if decide::ready(old) != decide::ready(new) {
                    this.wake_others(new);
                }
            }
            Event::Deleted(node) => {
                let text = format!("Node {} event: Removing Node {0} from Controller", key.name);
                this.recorder.normal(&Regarding::of(&**node), "RemovingNode", text);
                this.seen.lock().remove(&key);
                this.wake_others(node);
            }
        }
    });
    let this = nodes.clone();
    env.informers.leases.on_event(move |event| {
        // A lease only moves the timer of its node; unless the node counts as silent there is nothing else to do.
        let key = Key::cluster(owners::name(&**event.object()));
        let Some(node) = this.env.informers.nodes.get(&key) else { return };
        this.observe(&key, &node);
        if decide::ready(&node) == "Unknown" {
            this.queue.add(key);
        }
    });
    let this = nodes.clone();
    // Pods that come to a node which is not ready are not ready either.
    env.informers.pods.on_event(move |event| {
        if let Event::Updated { old, new } = event
            && old.spec.as_ref().map(|s| &s.node_name) != new.spec.as_ref().map(|s| &s.node_name)
            && let Some(name) = new.spec.as_ref().and_then(|s| s.node_name.as_deref())
        {
            this.queue.add(Key::cluster(name));
        }
    });
    let this = nodes.clone();
    nodes.queue.spawn_workers(&env.ctx, 2, move |key| {
        let this = this.clone();
        async move { this.sync(&key).await }
    });
}

impl Nodes {
    /// Whether any node is ready matters to all that are not.
    fn wake_others(&self, changed: &Node) {
        for node in self.env.informers.nodes.list() {
            if owners::uid(&*node) != owners::uid(changed) && decide::ready(&node) != "True" {
                self.queue.add(Key::of(&*node));
            }
        }
    }

    /// Notes a sign of life if there is a new one. Returns when the last one came.
    fn observe(&self, key: &Key, node: &Node) -> Timestamp {
        let lease = self.env.informers.leases.get(&Key::new("kube-node-lease", key.name.clone()));
        let sign = decide::sign(node, lease.as_deref());
        let now = self.env.ctx.clock().now();
        let mut seen = self.seen.lock();
        match seen.get_mut(key) {
            Some((at, known)) if *known == sign => *at,
            _ => {
                seen.insert(key.clone(), (now, sign));
                now
            }
        }
    }

    async fn sync(&self, key: &Key) -> Result<Next> {
        let Some(node) = self.env.informers.nodes.get(key) else { return Ok(Next::Done) };
        let last = self.observe(key, &node);
        let now = self.env.ctx.clock().now();
        let due = last + jiff::SignedDuration::try_from(self.env.config.node_monitor_grace_period).unwrap_or_default();
        let api: Api<Node> = Api::all(self.client.clone());
        let mut node = node;
        if now >= due
            && let Some(conditions) = decide::silenced(&node, &self.env.now())
        {
            let patch = json!({"status": {"conditions": conditions}});
            let patched = api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
            let Some(updated) = gone_is_fine(patched).during("mark as unknown node", key)? else { return Ok(Next::Done) };
            if decide::ready(&node) == "True" {
                let text = format!("Node {} status is now: NodeNotReady", key.name);
                self.recorder.normal(&Regarding::of(&*node), "NodeNotReady", text);
            }
            node = Arc::new(updated);
        }
        let any_ready = self.env.informers.nodes.list().iter().any(|node| decide::ready(node) == "True");
        if let Some(taints) = decide::taints(&node, any_ready, &self.env.now()) {
            let patch = json!({
                "metadata": {"resourceVersion": node.metadata.resource_version},
                "spec": {"taints": taints}});
            let patched = api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await;
            gone_is_fine(patched).during("taint node", key)?;
        }
        if decide::ready(&node) != "True" {
            self.mark_pods(&key.name).await?;
        }
        Ok(if now < due { Next::After(Duration::try_from(due.duration_since(now)).unwrap_or_default()) } else { Next::Done })
    }

    /// Nobody answers for these pods: Services must not count on them.
    async fn mark_pods(&self, node: &str) -> Result<()> {
        for pod in
            self.env.informers.pods_by_node.get(node).into_iter().filter(|pod| pods::is_ready(pod) && !pods::is_terminal(pod))
        {
            let key = Key::of(&*pod);
            let patch = json!({
                "metadata": {"uid": owners::uid(&*pod)},
                "status": {"conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": self.env.now()}]}});
            let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
            let patched = api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
            if gone_is_fine(patched).during("mark not ready pod", &key)?.is_some() {
                self.recorder.warning(&Regarding::of(&*pod), "NodeNotReady", "Node is not ready");
            }
        }
        Ok(())
    }
}
