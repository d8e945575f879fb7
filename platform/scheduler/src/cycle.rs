//! One decision: filter the nodes, score those that are left, choose.

use std::{collections::BTreeMap, sync::Arc};

use rand::Rng as _;

use crate::{
    node_info::NodeInfo,
    plugins::{Plugins, Prepared, Refusal, Snapshot},
    pod_info::PodInfo,
    preemption::{self, Verdict},
};

/// Below so many nodes all of them are looked at (`minFeasibleNodesToFind`); above, a share that shrinks with their number.
const ENOUGH: usize = 100;

/// What came of a decision.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// This node.
    Node(String),
    /// No node, for the reasons in the text; the plugins that refused, to be counted.
    Unschedulable {
        /// What users read.
        message: String,
        /// Who refused.
        plugins: Vec<&'static str>,
        /// Whether evictions would help; `None` where that was not looked at.
        preemption: Option<Verdict>,
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
        let message = "no nodes available to schedule pods".into();
        return Outcome::Unschedulable { message, plugins: Vec::new(), preemption: None };
    }
    let prepared = match plugins.prepare(snapshot, pod) {
        Ok(prepared) => prepared,
        Err((plugin, reason)) => return refused_at_once(snapshot, pod, plugin, &reason),
    };
    // Room was made for it there: nobody else may have it, and it is not worth a search.
    if let Some(node) = snapshot.nominated.node_of(&pod.uid).and_then(|name| snapshot.node(name))
        && fits(plugins, snapshot, &prepared, pod, node).is_ok()
    {
        return Outcome::Node(node.name().to_owned());
    }
    let (mut feasible, mut reasons, mut refused) = (Vec::new(), BTreeMap::<String, usize>::new(), Vec::new());
    // Nodes that might do if pods left them.
    let mut candidates = Vec::new();
    let wanted = enough(nodes.len());
    let mut looked_at = 0;
    for offset in 0..nodes.len() {
        let node = nodes[(*start + offset) % nodes.len()];
        looked_at += 1;
        match fits(plugins, snapshot, &prepared, pod, node) {
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
        let verdict = preemption::evaluate(plugins, snapshot, &prepared, pod, &candidates);
        let message = unavailable(nodes.len(), &reasons) + &told(&verdict);
        return Outcome::Unschedulable { message, plugins: refused, preemption: Some(verdict) };
    }
    Outcome::Node(best(&feasible, &plugins.score(&prepared, pod, &feasible)).name().to_owned())
}

/// Whether a node will do for a pod, now and once the pods of the same or a higher priority are there that it is kept for
/// (`RunFilterPluginsWithNominatedPods`). It has to do without them as well: none of them is sure to come.
pub(crate) fn fits(
    plugins: &Plugins,
    snapshot: &Snapshot<'_>,
    prepared: &Prepared,
    pod: &PodInfo,
    node: &NodeInfo,
) -> Result<(), (&'static str, Refusal)> {
    let is_kept_for = |other: &&Arc<PodInfo>| other.priority >= pod.priority && other.uid != pod.uid;
    let mut others = snapshot.nominated.on(node.name()).filter(is_kept_for).peekable();
    if others.peek().is_some() {
        let (mut prepared, mut node) = (prepared.clone(), node.clone());
        for other in others {
            plugins.count(&mut prepared, snapshot, pod, other, &node, 1);
            node.add(other.clone());
        }
        plugins.filter(&prepared, pod, &node)?;
    }
    plugins.filter(prepared, pod, node)
}

/// The outcome for a pod that a plugin refused before it looked at nodes.
///
/// Of the plugins that are asked whether something can be done about it, `DynamicResources` is the first. Upstream's has
/// looked at no pod that a plugin before it refused, finds nothing noted of it, and says just that; nobody else is asked then.
fn refused_at_once(snapshot: &Snapshot<'_>, pod: &PodInfo, plugin: &'static str, reason: &str) -> Outcome {
    let verdict = (plugin == "DynamicResources").then(|| preemption::hopeless(snapshot, pod));
    let suffix = verdict.as_ref().map_or_else(|| " not found".to_owned(), told);
    let message = format!("0/{} nodes are available: {reason}.{suffix}", snapshot.nodes.len());
    Outcome::Unschedulable { message, plugins: vec![plugin], preemption: verdict }
}

/// Upstream's text (`FitError.Error`): reasons with their counts, in the order of the resulting texts.
pub(crate) fn unavailable(nodes: usize, reasons: &BTreeMap<String, usize>) -> String {
    let mut texts: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    texts.sort();
    format!("0/{nodes} nodes are available: {}.", texts.join(", "))
}

/// Upstream's text, to follow the reasons, on why nobody is evicted for the pod: what the `PostFilter` plugins
/// `DynamicResources` and `DefaultPreemption` say. Nothing if somebody is.
fn told(verdict: &Verdict) -> String {
    let why = match verdict {
        Verdict::Evict(_) => return String::new(),
        Verdict::NotEligible(why) => why,
        Verdict::Nobody(why) => why.as_str(),
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
