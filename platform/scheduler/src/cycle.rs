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
    let wanted = enough(nodes.len());
    let mut looked_at = 0;
    for offset in 0..nodes.len() {
        let node = nodes[(*start + offset) % nodes.len()];
        looked_at += 1;
        match plugins.filter(&prepared, pod, node) {
            Ok(()) => feasible.push(node),
            Err((plugin, why)) => {
                for reason in why {
                    *reasons.entry(reason).or_default() += 1;
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
        return Outcome::Unschedulable { message: unavailable(nodes.len(), &reasons), plugins: refused };
    }
    Outcome::Node(best(&feasible, &plugins.score(&prepared, pod, &feasible)).name().to_owned())
}

/// Upstream's text (`FitError.Error`): reasons with their counts, in the order of the resulting texts.
fn unavailable(nodes: usize, reasons: &BTreeMap<String, usize>) -> String {
    let mut texts: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    texts.sort();
    format!("0/{nodes} nodes are available: {}.", texts.join(", "))
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
