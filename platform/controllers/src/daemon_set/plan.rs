use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        Affinity, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodTemplateSpec, Taint, Toleration,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use pharos_client::{selects_node, tolerates};

use super::*;
use crate::deployment::scaled;

const FIELD: &str = "metadata.name";

/// The pods of a set by the node that they are on, or are meant for.
pub(super) type ByNode = BTreeMap<String, Vec<Arc<Pod>>>;

/// What has to be done.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// Nodes that get a pod.
    pub(super) create: Vec<String>,
    pub(super) delete: Vec<Arc<Pod>>,
    /// When to look again.
    pub(super) wait: Option<Duration>,
}

/// The node that a pod is on, or asks for by affinity.
pub(super) fn target_node(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    if let Some(name) = spec.node_name.clone().filter(|name| !name.is_empty()) {
        return Some(name);
    }
    let required =
        spec.affinity.as_ref()?.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required.node_selector_terms.first()?.match_fields.as_ref()?;
    fields.iter().find(|field| field.key == FIELD)?.values.as_ref()?.first().cloned()
}

pub(super) fn by_node(pods: &[Arc<Pod>]) -> ByNode {
    let mut nodes = ByNode::new();
    for pod in pods {
        if let Some(node) = target_node(pod) {
            nodes.entry(node).or_default().push(pod.clone());
        }
    }
    nodes
}

fn toleration(key: &str, effect: &str) -> Toleration {
    Toleration {
        key: Some(format!("node.kubernetes.io/{key}")),
        operator: Some("Exists".into()),
        effect: Some(effect.into()),
        ..Toleration::default()
    }
}

/// The set's template with what all its pods have: labels of its revision, and tolerations for trouble of nodes.
pub(super) fn template(set: &DaemonSet, hash: &str) -> PodTemplateSpec {
    let mut template = set.spec.template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH.into(), hash.to_owned());
    let generation = set.metadata.annotations.as_ref().and_then(|a| a.get("deprecated.daemonset.template.generation"));
    if let Some(generation) = generation {
        labels.insert("pod-template-generation".into(), generation.clone());
    }
    let spec = template.spec.get_or_insert_default();
    let mut more = vec![
        toleration("not-ready", "NoExecute"),
        toleration("unreachable", "NoExecute"),
        toleration("disk-pressure", "NoSchedule"),
        toleration("memory-pressure", "NoSchedule"),
        toleration("pid-pressure", "NoSchedule"),
        toleration("unschedulable", "NoSchedule"),
    ];
    if spec.host_network.unwrap_or_default() {
        more.push(toleration("network-unavailable", "NoSchedule"));
    }
    let tolerations = spec.tolerations.get_or_insert_default();
    more.retain(|toleration| !tolerations.contains(toleration));
    tolerations.extend(more);
    template
}

/// Binds a pod to its node, by affinity: the scheduler still has to agree.
pub(super) fn for_node(mut pod: Pod, node: &str) -> Pod {
    let field = NodeSelectorRequirement { key: FIELD.into(), operator: "In".into(), values: Some(vec![node.to_owned()]) };
    let spec = pod.spec.get_or_insert_default();
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    let affinity: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    let required = affinity.required_during_scheduling_ignored_during_execution.get_or_insert_with(NodeSelector::default);
    if required.node_selector_terms.is_empty() {
        required.node_selector_terms.push(NodeSelectorTerm::default());
    }
    for term in &mut required.node_selector_terms {
        term.match_fields = Some(vec![field.clone()]);
    }
    pod
}

/// Whether a node is to run a pod, and whether one that runs there may stay.
pub(super) fn suits(template: &PodTemplateSpec, node: &Node) -> (bool, bool) {
    let spec = template.spec.clone().unwrap_or_default();
    if spec.node_name.as_ref().is_some_and(|name| !name.is_empty() && name != owners::name(node)) {
        return (false, false);
    }
    if !selects_node(&spec, node) {
        return (false, false);
    }
    let tolerations = spec.tolerations.unwrap_or_default();
    let untolerated = |effect: &str| {
        let taints: Vec<&Taint> = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).collect();
        taints.iter().filter(|taint| taint.effect == effect).any(|taint| !tolerations.iter().any(|t| tolerates(t, taint)))
    };
    let (repelled, evicted) = (untolerated("NoSchedule"), untolerated("NoExecute"));
    (!repelled && !evicted, !evicted)
}

fn is_new(pod: &Pod, hash: &str) -> bool {
    owners::labels(pod).get(HASH).is_some_and(|have| have == hash)
}

fn created(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

/// How many pods may be missing and how many may be made beside old ones.
fn limits(set: &DaemonSet, nodes: i32) -> (usize, usize) {
    let rolling = set.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.clone()).unwrap_or_default();
    let surge = scaled(rolling.max_surge.as_ref(), nodes, true).max(0);
    let default = IntOrString::Int(i32::from(surge == 0));
    let unavailable = scaled(Some(rolling.max_unavailable.as_ref().unwrap_or(&default)), nodes, true).max(0);
    (usize::try_from(unavailable).unwrap_or_default(), usize::try_from(surge).unwrap_or_default())
}

/// Which nodes get a pod and which pods go: first so that every node has what it should, then for the update.
///
/// A failed pod that goes is noted in `failed`.
pub(super) fn plan(
    set: &DaemonSet,
    hash: &str,
    nodes: &[Arc<Node>],
    by_node: &ByNode,
    failed: &FailedPods,
    now: Timestamp,
) -> Work {
    let template = template(set, hash);
    let mut work = Work::default();
    let min_ready = set.spec.min_ready_seconds.unwrap_or_default();
    let desired = nodes.iter().filter(|node| suits(&template, node).0).count();
    let (max_unavailable, max_surge) = limits(set, i32::try_from(desired).unwrap_or(i32::MAX));
    let rolling = set.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()) != Some("OnDelete");
    let (mut unavailable, mut surging) = (0, 0);
    let (mut replaceable, mut surgeable): (Vec<Arc<Pod>>, Vec<String>) = (Vec::new(), Vec::new());
    for node in nodes {
        let name = owners::name(&**node).to_owned();
        let (run, stay) = suits(&template, node);
        let have = by_node.get(&name).map(Vec::as_slice).unwrap_or_default();
        if !stay {
            work.delete.extend(have.iter().filter(|pod| !owners::is_deleting(&***pod)).cloned());
            continue;
        }
        let mut alive: Vec<Arc<Pod>> = Vec::new();
        for pod in have.iter().filter(|pod| !owners::is_deleting(&***pod)) {
            match pods::phase(pod) {
                "Failed" => match failed.replace(set, &name, now) {
                    Some(wait) => work.wait = Some(work.wait.map_or(wait, |sooner| sooner.min(wait))),
                    None => work.delete.push(pod.clone()),
                },
                "Succeeded" => work.delete.push(pod.clone()),
                _ => alive.push(pod.clone()),
            }
        }
        alive.sort_by_key(|pod| {
            (pod.spec.as_ref().is_none_or(|s| s.node_name.is_none()), created(pod), owners::name(&**pod).to_owned())
        });
        let available = |pod: &Arc<Pod>| pods::is_available(pod, min_ready, now);
        let (new, old): (Vec<_>, Vec<_>) = alive.iter().cloned().partition(|pod| is_new(pod, hash));
        if have.is_empty() {
            if run {
                work.create.push(name);
                unavailable += 1;
            }
            continue;
        }
        if max_surge == 0 || !rolling {
            // One is enough: the oldest.
            work.delete.extend(alive.iter().skip(1).cloned());
            match alive.first() {
                None => unavailable += 1,
                Some(pod) if !available(pod) => {
                    unavailable += 1;
                    if !is_new(pod, hash) && rolling {
                        work.delete.push(pod.clone()); // It serves nobody anyway.
                    }
                }
                Some(pod) if !is_new(pod, hash) => replaceable.push(pod.clone()),
                Some(_) => {}
            }
            continue;
        }
        // One of each revision is enough.
        work.delete.extend(new.iter().skip(1).chain(old.iter().skip(1)).cloned());
        match (new.first(), old.first()) {
            (Some(new), Some(old)) => {
                surging += 1;
                if available(new) {
                    work.delete.push(old.clone());
                }
            }
            (None, Some(old)) if !available(old) => {
                surging += 1;
                work.create.push(name);
            }
            (None, Some(_)) => surgeable.push(name),
            _ => {}
        }
    }
    if rolling {
        replaceable.truncate(max_unavailable.saturating_sub(unavailable));
        work.delete.extend(replaceable);
        surgeable.truncate(max_surge.saturating_sub(surging));
        work.create.extend(surgeable);
    }
    // Pods that wait for a node that is gone.
    let gone = by_node.iter().filter(|(name, _)| !nodes.iter().any(|node| owners::name(&**node) == *name));
    let waiting = gone.flat_map(|(_, pods)| pods).filter(|pod| {
        pod.spec.as_ref().is_none_or(|spec| spec.node_name.as_ref().is_none_or(String::is_empty)) && !owners::is_deleting(&***pod)
    });
    work.delete.extend(waiting.cloned());
    work
}

/// The counts of the status.
pub(super) fn status(set: &DaemonSet, hash: &str, nodes: &[Arc<Node>], by_node: &ByNode, now: Timestamp) -> DaemonSetStatus {
    let template = template(set, hash);
    let old = set.status.clone().unwrap_or_default();
    let mut status = DaemonSetStatus {
        collision_count: old.collision_count,
        conditions: old.conditions,
        observed_generation: set.metadata.generation,
        ..DaemonSetStatus::default()
    };
    let (mut available, mut updated) = (0, 0);
    for node in nodes {
        let run = suits(&template, node).0;
        let pods = by_node.get(owners::name(&**node)).map(Vec::as_slice).unwrap_or_default();
        if !run {
            status.number_misscheduled += i32::from(!pods.is_empty());
            continue;
        }
        status.desired_number_scheduled += 1;
        let mut sorted = pods.to_vec();
        sorted.sort_by_key(|pod| (!pods::is_ready(pod), created(pod)));
        let Some(pod) = sorted.first() else { continue };
        status.current_number_scheduled += 1;
        if pods::is_ready(pod) {
            status.number_ready += 1;
            available += i32::from(pods::is_available(pod, set.spec.min_ready_seconds.unwrap_or_default(), now));
        }
        updated += i32::from(pods.iter().any(|pod| is_new(pod, hash)));
    }
    let nonzero = |count: i32| (count != 0).then_some(count);
    status.number_available = nonzero(available);
    status.updated_number_scheduled = nonzero(updated);
    status.number_unavailable = nonzero(status.desired_number_scheduled - available);
    status
}
