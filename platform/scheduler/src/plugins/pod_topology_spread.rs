//! `PodTopologySpread`: pods of one kind are spread over nodes and zones.
//!
//! Constraints of the pod are followed as upstream. Without any, upstream spreads by the selectors of the Services and
//! controllers that the pod belongs to; here pods with the same controller are counted, by host name and zone.

use std::collections::{BTreeMap, HashSet};

use k8s_openapi::{
    api::core::v1::TopologySpreadConstraint,
    apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement},
};

use super::{MAX_SCORE, Refusal, Snapshot, node_affinity, taint_toleration::tolerates};
use crate::{labels::selects, node_info::NodeInfo, pod_info::PodInfo};

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// The constraints, with the pods counted.
#[derive(Clone)]
pub(super) struct Prepared {
    hard: Vec<Counted>,
    soft: Vec<Counted>,
    /// The keys of all constraints; a node without one of them does not count.
    keys: HashSet<String>,
}

#[derive(Clone)]
struct Counted {
    key: String,
    /// Which pods are counted,
    selector: LabelSelector,
    /// and on which nodes: those whose affinity or taints the pod puts up with.
    honours_affinity: bool,
    honours_taints: bool,
    max_skew: i64,
    /// Matching pods in each domain that counts.
    domains: BTreeMap<String, i64>,
    /// Fewer domains than this count as one more, empty, domain.
    min_domains: usize,
    /// Whether the pod itself matches.
    itself: bool,
}

pub(super) fn prepare(snapshot: &Snapshot<'_>, pod: &PodInfo) -> Prepared {
    let constraints = pod.spec().and_then(|s| s.topology_spread_constraints.as_deref()).unwrap_or_default();
    let (mut hard, mut soft) = (Vec::new(), Vec::new());
    let keys: HashSet<String> = constraints.iter().map(|c| c.topology_key.clone()).collect();
    for constraint in constraints {
        let counted = count(snapshot, pod, constraint, &keys);
        if constraint.when_unsatisfiable == "DoNotSchedule" { hard.push(counted) } else { soft.push(counted) }
    }
    if constraints.is_empty()
        && let Some(controller) = pod.controller()
    {
        for (key, max_skew) in [(HOSTNAME, 3), (ZONE, 5)] {
            let mut domains = BTreeMap::new();
            for node in snapshot.nodes {
                if let Some(domain) = node.labels().get(key) {
                    let siblings = node.pods.values().filter(|p| p.controller() == Some(controller) && !p.is_deleting());
                    *domains.entry(domain.clone()).or_default() += siblings.count() as i64;
                }
            }
            soft.push(Counted {
                key: key.into(),
                selector: LabelSelector::default(),
                honours_affinity: false,
                honours_taints: false,
                max_skew,
                domains,
                min_domains: 0,
                itself: true,
            });
        }
    }
    Prepared { hard, soft, keys }
}

fn count(snapshot: &Snapshot<'_>, pod: &PodInfo, constraint: &TopologySpreadConstraint, keys: &HashSet<String>) -> Counted {
    let selector = with_match_label_keys(constraint, pod);
    let honours = |policy: &Option<String>, default: bool| policy.as_deref().map_or(default, |p| p == "Honor");
    let mut counted = Counted {
        key: constraint.topology_key.clone(),
        itself: selects(Some(&selector), pod.labels()),
        selector,
        honours_affinity: honours(&constraint.node_affinity_policy, true),
        honours_taints: honours(&constraint.node_taints_policy, false),
        max_skew: i64::from(constraint.max_skew),
        domains: BTreeMap::new(),
        min_domains: constraint.min_domains.unwrap_or(1).max(1) as usize,
    };
    for node in snapshot.nodes {
        if let Some(domain) = counted.domain(pod, node, keys) {
            let matching = node.pods.values().filter(|other| counted.means(pod, other)).count() as i64;
            *counted.domains.entry(domain).or_default() += matching;
        }
    }
    counted
}

// === impl Counted ===

impl Counted {
    /// The domain of a node, if the node counts.
    fn domain(&self, pod: &PodInfo, node: &NodeInfo, keys: &HashSet<String>) -> Option<String> {
        let counts = keys.iter().all(|key| node.labels().contains_key(key))
            && (!self.honours_affinity || node_affinity::matches(pod, node))
            && (!self.honours_taints
                || node.taints().iter().filter(|t| t.effect != "PreferNoSchedule").all(|t| tolerates(pod.tolerations(), t)));
        node.labels().get(&self.key).filter(|_| counts).cloned()
    }

    /// Whether another pod is one of those that are counted.
    fn means(&self, pod: &PodInfo, other: &PodInfo) -> bool {
        other.key.namespace == pod.key.namespace && !other.is_deleting() && selects(Some(&self.selector), other.labels())
    }
}

// === impl Prepared ===

impl Prepared {
    /// See [`super::Plugins::count`]. Soft constraints are not counted anew: they choose among nodes that will do.
    pub(super) fn count(&mut self, pod: &PodInfo, other: &PodInfo, node: &NodeInfo, by: i64) {
        for counted in &mut self.hard {
            if let Some(domain) = counted.domain(pod, node, &self.keys).filter(|_| counted.means(pod, other)) {
                *counted.domains.entry(domain).or_default() += by;
            }
        }
    }
}

/// The selector with the pod's own values of `matchLabelKeys` added.
fn with_match_label_keys(constraint: &TopologySpreadConstraint, pod: &PodInfo) -> LabelSelector {
    let mut selector = constraint.label_selector.clone().unwrap_or_default();
    let own = constraint.match_label_keys.iter().flatten().filter_map(|key| {
        let value = pod.labels().get(key)?.clone();
        Some(LabelSelectorRequirement { key: key.clone(), operator: "In".into(), values: Some(vec![value]) })
    });
    selector.match_expressions.get_or_insert_default().extend(own);
    selector
}

pub(super) fn filter(prepared: &super::Prepared, _: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
    for counted in &prepared.spread.hard {
        let Some(domain) = node.labels().get(&counted.key) else {
            return Err(Refusal::by_node("node(s) didn't match pod topology spread constraints (missing required label)"));
        };
        let lowest = if counted.domains.len() < counted.min_domains {
            0
        } else {
            counted.domains.values().copied().min().unwrap_or_default()
        };
        let here = counted.domains.get(domain).copied().unwrap_or_default();
        if here + i64::from(counted.itself) - lowest > counted.max_skew {
            return Err(Refusal::by_pods("node(s) didn't match pod topology spread constraints"));
        }
    }
    Ok(())
}

pub(super) fn score(prepared: &super::Prepared, _: &PodInfo, nodes: &[&NodeInfo]) -> Vec<i64> {
    let raw: Vec<Option<f64>> = nodes
        .iter()
        .map(|node| {
            let mut cost = 0.0;
            for counted in &prepared.spread.soft {
                // A node without the label takes no part, unless the constraint is the built-in one by zone.
                let Some(domain) = node.labels().get(&counted.key) else {
                    if counted.key == ZONE && counted.domains.is_empty() {
                        continue;
                    }
                    return None;
                };
                let here = counted.domains.get(domain).copied().unwrap_or_default() as f64;
                cost += here * ((counted.domains.len() + 2) as f64).ln() + (counted.max_skew - 1) as f64;
            }
            Some(cost)
        })
        .collect();
    let known = || raw.iter().flatten().copied();
    let (lowest, highest) = (known().fold(f64::INFINITY, f64::min), known().fold(0.0, f64::max));
    raw.iter()
        .map(|cost| match cost {
            None => 0,
            Some(_) if highest == 0.0 => MAX_SCORE,
            Some(cost) => (MAX_SCORE as f64 * (highest + lowest - cost) / highest) as i64,
        })
        .collect()
}
