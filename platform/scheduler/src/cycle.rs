//! One decision: filter the nodes, score those that are left, choose.

use std::collections::BTreeMap;

use rand::Rng as _;

use crate::{
    node_info::NodeInfo,
    plugins::{Plugins, Snapshot},
    pod_info::PodInfo,
};

/// Below so many nodes all of them are looked at (`minFeasibleNodesToFind`); above, a share that shrinks with their number.
const ENOUGH: usize = 100;

/// What came of a decision.
#[derive(Debug, PartialEq)]
pub(crate) enum Outcome {
    /// This node.
    Node(String),
    /// No node, for the reasons in the text; the plugins that refused, to be counted.
    Unschedulable {
        /// What users read.
        message: String,
        /// Who refused.
        plugins: Vec<&'static str>,
    },
}

/// How many feasible nodes are enough to choose from. Follows `numFeasibleNodesToFind`.
fn enough(nodes: usize) -> usize {
    if nodes < ENOUGH {
        return nodes;
    }
    let share = 50_usize.saturating_sub(nodes / 125).max(5);
    (nodes * share / 100).max(ENOUGH)
}

/// Chooses a node for a pod. `start` is where the search begins, and is moved on, so that all nodes get their turn.
pub(crate) fn decide(plugins: &Plugins, snapshot: &Snapshot<'_>, pod: &PodInfo, start: &mut usize) -> Outcome {
    let nodes = snapshot.nodes;
    if nodes.is_empty() {
        return Outcome::Unschedulable { message: "no nodes available to schedule pods".into(), plugins: Vec::new() };
    }
    let prepared = match plugins.prepare(snapshot, pod) {
        Ok(prepared) => prepared,
        Err((plugin, reason)) => {
            let message = format!("0/{} nodes are available: {reason}.", nodes.len());
            return Outcome::Unschedulable { message, plugins: vec![plugin] };
        }
    };
    let (mut feasible, mut reasons, mut refused) = (Vec::new(), BTreeMap::<String, usize>::new(), Vec::new());
    // Nodes that might do if pods left them.
    let mut candidates = Vec::new();
    let wanted = enough(nodes.len());
    let mut looked_at = 0;
    for offset in 0..nodes.len() {
        let node = nodes[(*start + offset) % nodes.len()];
        looked_at += 1;
        match plugins.filter(&prepared, pod, node) {
            Ok(()) => feasible.push(node),
            Err((plugin, refusal)) => {
                for reason in refusal.reasons {
                    *reasons.entry(reason).or_default() += 1;
                }
                if refusal.resolvable {
                    candidates.push(node);
                }
                if !refused.contains(&plugin) {
                    refused.push(plugin);
                }
            }
        }
        if feasible.len() >= wanted {
            break;
        }
    }
    *start = (*start + looked_at) % nodes.len();
    if feasible.is_empty() {
        let message = unavailable(nodes.len(), &reasons) + &nobody_evicted(nodes.len(), pod, &candidates);
        return Outcome::Unschedulable { message, plugins: refused };
    }
    Outcome::Node(best(&feasible, &plugins.score(&prepared, pod, &feasible)).name().to_owned())
}

/// Upstream's text (`FitError.Error`): reasons with their counts, in the order of the resulting texts.
fn unavailable(nodes: usize, reasons: &BTreeMap<String, usize>) -> String {
    let mut texts: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    texts.sort();
    format!("0/{nodes} nodes are available: {}.", texts.join(", "))
}

/// Upstream's text, to follow the reasons, on why nobody is evicted for the pod: what the `PostFilter` plugins
/// `DynamicResources` and `DefaultPreemption` say.
///
/// Nothing if a candidate has pods of lower priority. Upstream would see whether the pod fits without them, and would say
/// nothing either once it evicts them; that they could not help, nobody has found out here.
fn nobody_evicted(nodes: usize, pod: &PodInfo, candidates: &[&NodeInfo]) -> String {
    let why = if pod.spec().and_then(|s| s.preemption_policy.as_deref()) == Some("Never") {
        "not eligible due to preemptionPolicy=Never.".to_owned()
    } else if candidates.iter().any(|node| node.pods.values().any(|other| other.priority < pod.priority)) {
        return String::new();
    } else {
        let mut reasons = BTreeMap::from([
            ("No preemption victims found for incoming pod".to_owned(), candidates.len()),
            ("Preemption is not helpful for scheduling".to_owned(), nodes - candidates.len()),
        ]);
        reasons.retain(|_, count| *count > 0);
        unavailable(nodes, &reasons)
    };
    format!(" no new claims to deallocate, preemption: {why}")
}

/// A node of the highest score, each of them with the same chance.
fn best<'a>(nodes: &[&'a NodeInfo], scores: &[i64]) -> &'a NodeInfo {
    let (mut chosen, mut ties) = (0, 1);
    for index in 1..nodes.len() {
        match scores[index].cmp(&scores[chosen]) {
            std::cmp::Ordering::Greater => (chosen, ties) = (index, 1),
            std::cmp::Ordering::Equal => {
                ties += 1;
                if rand::rng().random_range(0..ties) == 0 {
                    chosen = index;
                }
            }
            std::cmp::Ordering::Less => {}
        }
    }
    nodes[chosen]
}

#[cfg(test)]
mod tests;
