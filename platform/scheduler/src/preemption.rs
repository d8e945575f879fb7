//! `DefaultPreemption`: which pods of lower priority could go, and from which node, so that a pod fits.
//!
//! Decides, and evicts nobody. Follows `pkg/scheduler/framework/preemption` and `plugins/defaultpreemption`.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use rand::Rng as _;

use crate::{
    cycle::{fits, unavailable},
    labels::selects,
    node_info::NodeInfo,
    plugins::{Plugins, Prepared, Refusal, Snapshot},
    pod_info::PodInfo,
};

/// How many candidates are enough to choose from: a tenth of the nodes that may do, but at least a hundred
/// (`minCandidateNodesPercentage`, `minCandidateNodesAbsolute`).
const PERCENTAGE: usize = 10;
const ABSOLUTE: usize = 100;

/// A node that would do without some of its pods.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) node: String,
    /// At least one; the most important first.
    pub(crate) victims: Vec<Arc<PodInfo>>,
    /// How many of them a PodDisruptionBudget would keep.
    violations: usize,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// These have to go.
    Evict(Candidate),
    /// The pod may not have others evicted, or not yet, for this reason; it keeps its nomination.
    NotEligible(&'static str),
    /// Evictions would not help, in upstream's words; the pod loses its nomination.
    Nobody(String),
}

/// Looks whether evictions would help a pod that no node has room for. `nodes` are those that might do if pods left them.
pub(crate) fn evaluate(
    plugins: &Plugins,
    snapshot: &Snapshot<'_>,
    prepared: &Prepared,
    pod: &PodInfo,
    nodes: &[&NodeInfo],
) -> Verdict {
    if let Some(reason) = not_eligible(snapshot, pod, nodes) {
        return Verdict::NotEligible(reason);
    }
    let offset = if nodes.is_empty() { 0 } else { rand::rng().random_range(0..nodes.len()) };
    let case = Case { plugins, snapshot, prepared, pod };
    let mut reasons = BTreeMap::new();
    match candidates(case, nodes, offset, &mut reasons).into_iter().min_by_key(Candidate::cost) {
        Some(candidate) => Verdict::Evict(candidate),
        None => Verdict::Nobody(helpless(snapshot.nodes.len(), snapshot.nodes.len() - nodes.len(), reasons)),
    }
}

/// The same for a pod that no node can do for, whatever it is like.
pub(crate) fn hopeless(snapshot: &Snapshot<'_>, pod: &PodInfo) -> Verdict {
    let all = snapshot.nodes.len();
    not_eligible(snapshot, pod, &[]).map_or_else(|| Verdict::Nobody(helpless(all, all, BTreeMap::new())), Verdict::NotEligible)
}

/// Upstream's text where no eviction helps: what each node that was tried said, and how many were not worth a try.
fn helpless(all: usize, not_tried: usize, mut reasons: BTreeMap<String, usize>) -> String {
    if not_tried > 0 {
        *reasons.entry("Preemption is not helpful for scheduling".to_owned()).or_default() += not_tried;
    }
    unavailable(all, &reasons)
}

/// Why the pod may not have others evicted (`PodEligibleToPreemptOthers`).
fn not_eligible(snapshot: &Snapshot<'_>, pod: &PodInfo, nodes: &[&NodeInfo]) -> Option<&'static str> {
    if pod.spec().and_then(|s| s.preemption_policy.as_deref()) == Some("Never") {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    // A nominated node that is not among these will not do any more, whoever leaves it.
    let nominated = snapshot.nominated.node_of(&pod.uid)?;
    let node = nodes.iter().find(|node| node.name() == nominated)?;
    let leaving = node.pods.values().any(|other| other.priority < pod.priority && other.is_being_preempted());
    leaving.then_some("not eligible due to a terminating pod on the nominated node.")
}

/// Tries the nodes in turn until there are enough candidates. Those that hurt no budget come first (`DryRunPreemption`).
fn candidates(case: Case<'_>, nodes: &[&NodeInfo], offset: usize, reasons: &mut BTreeMap<String, usize>) -> Vec<Candidate> {
    let wanted = (nodes.len() * PERCENTAGE / 100).max(ABSOLUTE).min(nodes.len());
    let budgets = if nodes.is_empty() { Vec::new() } else { case.snapshot.budgets.list() };
    let (mut harmless, mut violating) = (Vec::new(), Vec::new());
    for index in 0..nodes.len() {
        let node = nodes[(offset + index) % nodes.len()];
        match victims_on(case, node, &budgets) {
            Ok(candidate) if candidate.violations == 0 => harmless.push(candidate),
            // Those that are too many are not looked at, in case harmless ones follow.
            Ok(candidate) if violating.len() < wanted => violating.push(candidate),
            Ok(_) => {}
            Err(refused) => refused.into_iter().for_each(|reason| *reasons.entry(reason).or_default() += 1),
        }
        if !harmless.is_empty() && harmless.len() + violating.len() >= wanted {
            break;
        }
    }
    harmless.append(&mut violating);
    harmless
}

/// The fewest pods that have to leave a node (`SelectVictimsOnNode`): all of lower priority leave, then as many as possible
/// may stay after all, first those that a budget would keep, the more important before others.
///
/// # Errors
/// Why the node will not do.
fn victims_on(case: Case<'_>, node: &NodeInfo, budgets: &[Arc<PodDisruptionBudget>]) -> Result<Candidate, Vec<String>> {
    let mut lower: Vec<_> = node.pods.values().filter(|other| other.priority < case.pod.priority).cloned().collect();
    if lower.is_empty() {
        return Err(vec!["No preemption victims found for incoming pod".to_owned()]);
    }
    let mut trial = Trial { case, prepared: case.prepared.clone(), node: node.clone() };
    lower.iter().for_each(|other| trial.remove(other));
    trial.fits().map_err(|(_, refusal)| refusal.reasons)?;
    let now = Timestamp::now();
    // Names decide last, so that a decision can be repeated.
    lower.sort_by_cached_key(|pod| (pod.importance(now), pod.key.clone()));
    let (kept, others) = by_budget(lower, budgets);
    let (mut victims, mut violations) = (Vec::new(), 0);
    for (other, violates) in kept.into_iter().map(|p| (p, true)).chain(others.into_iter().map(|p| (p, false))) {
        trial.add(&other);
        if trial.fits().is_err() {
            trial.remove(&other);
            violations += usize::from(violates);
            victims.push(other);
        }
    }
    if victims.is_empty() {
        return Err(vec![format!("expected at least one victim pod on node {:?}", node.name())]);
    }
    victims.sort_by_cached_key(|pod| (pod.importance(now), pod.key.clone()));
    Ok(Candidate { node: node.name().to_owned(), victims, violations })
}

/// Divides pods into those whose eviction a budget forbids, and the others; both stay in order
/// (`filterPodsWithPDBViolation`).
fn by_budget(pods: Vec<Arc<PodInfo>>, budgets: &[Arc<PodDisruptionBudget>]) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let allowed = |budget: &PodDisruptionBudget| budget.status.as_ref().and_then(|s| s.disruptions_allowed).unwrap_or_default();
    let mut budgets: Vec<_> = budgets.iter().map(|budget| (budget, allowed(budget))).collect();
    pods.into_iter().partition(|pod| {
        let mut violates = false;
        for (budget, left) in budgets.iter_mut().filter(|(budget, _)| covers(budget, pod)) {
            // What the API server has let go already was counted there.
            let disrupted = budget.status.as_ref().and_then(|s| s.disrupted_pods.as_ref());
            if disrupted.is_some_and(|pods| pods.contains_key(&*pod.key.name)) {
                continue;
            }
            *left -= 1;
            violates |= *left < 0;
        }
        violates
    })
}

/// Whether a budget is about a pod. Here, other than for evictions, an empty selector means no pod, as upstream.
fn covers(budget: &PodDisruptionBudget, pod: &PodInfo) -> bool {
    let selector = budget.spec.as_ref().and_then(|s| s.selector.as_ref());
    let is_empty = selector.is_none_or(|s| {
        s.match_labels.as_ref().is_none_or(BTreeMap::is_empty) && s.match_expressions.as_ref().is_none_or(Vec::is_empty)
    });
    budget.metadata.namespace.as_deref() == Some(&*pod.key.namespace)
        && !is_empty
        && !pod.labels().is_empty()
        && selects(selector, pod.labels())
}

/// What is to be decided.
#[derive(Clone, Copy)]
struct Case<'a> {
    plugins: &'a Plugins,
    snapshot: &'a Snapshot<'a>,
    prepared: &'a Prepared,
    pod: &'a PodInfo,
}

/// A node as it would be if pods left it.
struct Trial<'a> {
    case: Case<'a>,
    prepared: Prepared,
    node: NodeInfo,
}

// === impl Trial ===

impl Trial<'_> {
    fn remove(&mut self, other: &PodInfo) {
        let Case { plugins, snapshot, pod, .. } = self.case;
        self.node.remove(&other.uid);
        plugins.count(&mut self.prepared, snapshot, pod, other, &self.node, -1);
    }

    fn add(&mut self, other: &Arc<PodInfo>) {
        let Case { plugins, snapshot, pod, .. } = self.case;
        self.node.add(other.clone());
        plugins.count(&mut self.prepared, snapshot, pod, other, &self.node, 1);
    }

    fn fits(&self) -> Result<(), (&'static str, Refusal)> {
        let Case { plugins, snapshot, pod, .. } = self.case;
        fits(plugins, snapshot, &self.prepared, pod, &self.node)
    }
}

// === impl Candidate ===

impl Candidate {
    /// The lowest is chosen (`pickOneNodeForPreemption`): the fewest violated budgets, the lowest priority of the most
    /// important victim, the lowest sum of priorities, the fewest victims, and the shortest time for which the longest-running
    /// of the most important victims has run.
    fn cost(&self) -> (usize, i32, i64, usize, Reverse<Timestamp>) {
        let highest = self.victims.iter().map(|pod| pod.priority).max().unwrap_or(i32::MIN);
        // All are lifted above zero: otherwise many pods of a negative priority would count less than a few.
        let sum = self.victims.iter().map(|pod| i64::from(pod.priority) + (1 << 31)).sum();
        let now = Timestamp::now();
        let most_important = self.victims.iter().filter(|pod| pod.priority == highest);
        let earliest = most_important.map(|pod| pod.start_time().unwrap_or(now)).min().unwrap_or(now);
        (self.violations, highest, sum, self.victims.len(), Reverse(earliest))
    }
}

#[cfg(test)]
mod tests;
