//! Clusters for tests: nodes, pods that are there, pods that a node is kept for, and budgets.

use std::sync::Arc;

use k8s_openapi::api::{
    core::v1::{Node, Pod},
    policy::v1::PodDisruptionBudget,
};
use pharos_client::Informer;
use serde_json::{Value, json};

use crate::{
    cache::Cache,
    cycle::{Outcome, decide},
    nominator::Nominator,
    plugins::{Plugins, Snapshot},
    pod_info::PodInfo,
};

/// A node with two cores, unless `extra` has `allocatable`; it may have `labels` and a `spec`.
pub(crate) fn node(name: &str, mut extra: Value) -> Arc<Node> {
    let labels = extra.get("labels").cloned().unwrap_or_else(|| json!({}));
    let mut labels = labels.as_object().unwrap().clone();
    labels.insert("kubernetes.io/hostname".into(), json!(name));
    let spec = extra.get_mut("spec").map(Value::take).unwrap_or_else(|| json!({}));
    let allocatable =
        extra.get_mut("allocatable").map(Value::take).unwrap_or_else(|| json!({"cpu": "2", "memory": "4Gi", "pods": "10"}));
    Arc::new(
        serde_json::from_value(
            json!({"metadata": {"name": name, "labels": labels}, "spec": spec, "status": {"allocatable": allocatable}}),
        )
        .unwrap(),
    )
}

/// A pod in the namespace `a` with its name as UID.
pub(crate) fn pod(name: &str, labels: Value, spec: Value) -> Arc<PodInfo> {
    pod_with_status(name, labels, spec, json!({}))
}

/// The same with a status and, if that has `deletionTimestamp`, one that is going.
pub(crate) fn pod_with_status(name: &str, labels: Value, spec: Value, mut status: Value) -> Arc<PodInfo> {
    let spec = with(json!({"containers": [{"name": "c"}]}), spec);
    let going = status.as_object_mut().unwrap().remove("deletionTimestamp");
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "a", "uid": name, "labels": labels, "deletionTimestamp": going},
        "spec": spec, "status": status,
    }))
    .unwrap();
    Arc::new(PodInfo::new(Arc::new(pod)))
}

/// A spec that asks for CPU.
pub(crate) fn asks(cpu: &str) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]})
}

/// An object with more fields.
pub(crate) fn with(mut object: Value, more: Value) -> Value {
    object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    object
}

pub(crate) struct World {
    cache: Cache,
    nominator: Nominator,
    budgets: Informer<PodDisruptionBudget>,
}

impl World {
    pub(crate) fn new(nodes: &[Arc<Node>], placed: &[(Arc<PodInfo>, &str)]) -> Self {
        let mut cache = Cache::default();
        for node in nodes {
            cache.set_node(node.metadata.name.as_deref().unwrap(), Some(node.clone()));
        }
        for (pod, node) in placed {
            cache.place(pod.clone(), node, false);
        }
        Self { cache, nominator: Nominator::default(), budgets: Informer::detached() }
    }

    pub(crate) fn nominate(mut self, pod: &Arc<PodInfo>, node: &str) -> Self {
        self.nominator.set(pod.clone(), Some(node.to_owned()));
        self
    }

    /// A budget for pods with the label `app`.
    pub(crate) fn budget(self, app: &str, allowed: i32, disrupted: &[&str]) -> Self {
        let disrupted: serde_json::Map<_, _> =
            disrupted.iter().map(|name| ((*name).to_owned(), json!("2026-01-01T00:00:00Z"))).collect();
        self.budgets.insert(
            serde_json::from_value(json!({
                "metadata": {"name": app, "namespace": "a"},
                "spec": {"selector": {"matchLabels": {"app": app}}},
                "status": {"disruptionsAllowed": allowed, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0,
                    "disruptedPods": disrupted},
            }))
            .unwrap(),
        );
        self
    }

    pub(crate) fn decide(&self, pod: &PodInfo) -> Outcome {
        let (namespaces, claims, volumes) = (Informer::detached(), Informer::detached(), Informer::detached());
        let nodes = self.cache.nodes();
        let snapshot = Snapshot {
            nodes: &nodes,
            has_affinity: self.cache.has_affinity(),
            namespaces: &namespaces,
            claims: &claims,
            volumes: &volumes,
            budgets: &self.budgets,
            nominated: &self.nominator,
        };
        decide(&Plugins::default(), &snapshot, pod, &mut 0)
    }
}
