//! The plugins: each says of one concern whether a node will do (filter) and how well (score).
//!
//! A plugin is one file here, and one line in [`Plugins::default`]. Names, weights, order and texts are upstream's
//! (`pkg/scheduler/apis/config/v1/default_plugins.go`).

mod node_unschedulable;
mod node_name;
mod taint_toleration;
mod node_affinity;
mod node_ports;
mod node_resources_fit;
mod node_resources_balanced_allocation;
mod volume_binding;
mod dynamic_resources;
mod pod_topology_spread;
mod inter_pod_affinity;

use k8s_openapi::api::{
    core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim},
    policy::v1::PodDisruptionBudget,
};
use pharos_client::Informer;

use crate::{node_info::NodeInfo, nominator::Nominator, pod_info::PodInfo};

/// The highest score a node can get from one plugin.
const MAX_SCORE: i64 = 100;

/// The cluster as one decision sees it.
pub(crate) struct Snapshot<'a> {
    /// In order of name.
    pub(crate) nodes: &'a [&'a NodeInfo],
    /// Whether any placed pod has affinity that a new pod must be held against.
    pub(crate) has_affinity: bool,
    pub(crate) namespaces: &'a Informer<Namespace>,
    pub(crate) claims: &'a Informer<PersistentVolumeClaim>,
    pub(crate) volumes: &'a Informer<PersistentVolume>,
    pub(crate) budgets: &'a Informer<PodDisruptionBudget>,
    pub(crate) nominated: &'a Nominator,
}

/// What plugins found out about the pod once, before they look at nodes (upstream's `CycleState`).
#[derive(Clone)]
pub(crate) struct Prepared {
    volumes: volume_binding::Prepared,
    spread: pod_topology_spread::Prepared,
    affinity: inter_pod_affinity::Prepared,
}

/// Why a node will not do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// In the words of upstream.
    pub(crate) reasons: Vec<String>,
    /// Whether the node might do if pods left it (upstream's `Unschedulable`); if not, it is the node itself that will not do
    /// (`UnschedulableAndUnresolvable`).
    pub(crate) resolvable: bool,
}

/// A filter: says why a node will not do.
type Filter = fn(&Prepared, &PodInfo, &NodeInfo) -> Result<(), Refusal>;
/// A score of every node, each from 0 to [`MAX_SCORE`].
type Score = fn(&Prepared, &PodInfo, &[&NodeInfo]) -> Vec<i64>;

/// The plugins that take part, in order.
pub(crate) struct Plugins {
    filters: Vec<(&'static str, Filter)>,
    scores: Vec<(i64, Score)>,
}

// === impl Snapshot ===

impl<'a> Snapshot<'a> {
    /// A node that exists.
    pub(crate) fn node(&self, name: &str) -> Option<&'a NodeInfo> {
        self.nodes.binary_search_by(|node| node.name().cmp(name)).ok().map(|index| self.nodes[index])
    }
}

// === impl Refusal ===

impl Refusal {
    /// Pods on the node, or near it, are in the way.
    fn by_pods(reason: &str) -> Self {
        Self { reasons: vec![reason.to_owned()], resolvable: true }
    }

    /// The node would not do if it were empty.
    fn by_node(reason: &str) -> Self {
        Self { reasons: vec![reason.to_owned()], resolvable: false }
    }
}

// === impl Plugins ===

impl Default for Plugins {
    fn default() -> Self {
        Self {
            filters: vec![
                ("NodeUnschedulable", node_unschedulable::filter),
                ("NodeName", node_name::filter),
                ("TaintToleration", taint_toleration::filter),
                ("NodeAffinity", node_affinity::filter),
                ("NodePorts", node_ports::filter),
                ("NodeResourcesFit", node_resources_fit::filter),
                ("VolumeBinding", volume_binding::filter),
                ("PodTopologySpread", pod_topology_spread::filter),
                ("InterPodAffinity", inter_pod_affinity::filter),
            ],
            scores: vec![
                (3, taint_toleration::score),
                (2, node_affinity::score),
                (2, pod_topology_spread::score),
                (2, inter_pod_affinity::score),
                (1, node_resources_fit::score),
                (1, node_resources_balanced_allocation::score),
            ],
        }
    }
}

impl Plugins {
    /// Looks at the pod once.
    ///
    /// # Errors
    /// The plugin and the reason, if no node can do whatever it is like.
    pub(crate) fn prepare(&self, snapshot: &Snapshot<'_>, pod: &PodInfo) -> Result<Prepared, (&'static str, String)> {
        dynamic_resources::prepare(pod).map_err(|reason| ("DynamicResources", reason))?;
        Ok(Prepared {
            volumes: volume_binding::prepare(snapshot, pod).map_err(|reason| ("VolumeBinding", reason))?,
            spread: pod_topology_spread::prepare(snapshot, pod),
            affinity: inter_pod_affinity::prepare(snapshot, pod),
        })
    }

    /// Counts another pod on a node as one that came (`by` is 1) or left (-1) since the plugins looked at the pod (upstream's
    /// `PreFilterExtensions`).
    pub(crate) fn count(
        &self,
        prepared: &mut Prepared,
        snapshot: &Snapshot<'_>,
        pod: &PodInfo,
        other: &PodInfo,
        node: &NodeInfo,
        by: i64,
    ) {
        prepared.spread.count(pod, other, node, by);
        prepared.affinity.count(snapshot, pod, other, node, by);
    }

    /// Whether a node will do; if not, the first plugin that refuses it, and why.
    pub(crate) fn filter(&self, prepared: &Prepared, pod: &PodInfo, node: &NodeInfo) -> Result<(), (&'static str, Refusal)> {
        self.filters.iter().try_for_each(|(name, filter)| filter(prepared, pod, node).map_err(|refusal| (*name, refusal)))
    }

    /// The weighted sum of all scores of each node.
    pub(crate) fn score(&self, prepared: &Prepared, pod: &PodInfo, nodes: &[&NodeInfo]) -> Vec<i64> {
        let mut sums = vec![0; nodes.len()];
        if nodes.len() > 1 {
            for (weight, score) in &self.scores {
                for (sum, score) in sums.iter_mut().zip(score(prepared, pod, nodes)) {
                    *sum += weight * score;
                }
            }
        }
        sums
    }
}

/// Stretches raw scores so that the highest becomes [`MAX_SCORE`]; `reverse` turns them around, for counts of what is bad.
/// Follows `DefaultNormalizeScore`.
fn normalize(raw: &[i64], reverse: bool) -> Vec<i64> {
    let highest = raw.iter().copied().max().unwrap_or_default();
    raw.iter()
        .map(|score| match (highest, reverse) {
            (0, true) => MAX_SCORE,
            (0, false) => 0,
            (_, true) => MAX_SCORE - score * MAX_SCORE / highest,
            (_, false) => score * MAX_SCORE / highest,
        })
        .collect()
}
