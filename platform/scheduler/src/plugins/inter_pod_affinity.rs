//! `InterPodAffinity`: near to some pods, away from others; and the same asked by pods that are there already.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::PodAffinityTerm,
    apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement},
};
use pharos_client::Key;

use super::{MAX_SCORE, Refusal, Snapshot};
use crate::{labels::selects, node_info::NodeInfo, pod_info::PodInfo};

/// Topology key and value: a domain.
type Domain = (String, String);

/// What was counted over all nodes.
#[derive(Clone, Default)]
pub(super) struct Prepared {
    /// Domains where a placed pod does not want this one.
    refused: BTreeMap<Domain, i64>,
    /// For each required term, the domains with matching pods.
    near: Vec<(String, BTreeMap<Domain, i64>)>,
    away: Vec<(String, BTreeMap<Domain, i64>)>,
    /// The pod itself matches the terms that it must be near to: while nothing else does, the first of its kind may go
    /// anywhere.
    matches_itself: bool,
    /// Domains by how much they are preferred.
    preferred: BTreeMap<Domain, i64>,
}

pub(super) fn prepare(snapshot: &Snapshot<'_>, pod: &PodInfo) -> Prepared {
    let mut prepared = Prepared::default();
    if pod.affinity().is_none_or(|a| a.pod_affinity.is_none() && a.pod_anti_affinity.is_none()) && !snapshot.has_affinity {
        return prepared;
    }
    let count = |term: &PodAffinityTerm| {
        let mut domains = BTreeMap::new();
        for node in snapshot.nodes {
            if let Some(value) = node.labels().get(&term.topology_key) {
                let matching = node.pods.values().filter(|other| matches(snapshot, term, pod, other)).count() as i64;
                if matching > 0 {
                    *domains.entry((term.topology_key.clone(), value.clone())).or_default() += matching;
                }
            }
        }
        (term.topology_key.clone(), domains)
    };
    prepared.near = pod.required_affinity().iter().map(count).collect();
    prepared.away = pod.required_anti_affinity().iter().map(count).collect();
    prepared.matches_itself = pod.required_affinity().iter().all(|term| matches(snapshot, term, pod, pod));

    let affinity = pod.affinity();
    let near = affinity.and_then(|a| a.pod_affinity.as_ref()?.preferred_during_scheduling_ignored_during_execution.as_deref());
    let away =
        affinity.and_then(|a| a.pod_anti_affinity.as_ref()?.preferred_during_scheduling_ignored_during_execution.as_deref());
    for (terms, sign) in [(near, 1), (away, -1)] {
        for weighted in terms.unwrap_or_default() {
            for (domain, matching) in count(&weighted.pod_affinity_term).1 {
                *prepared.preferred.entry(domain).or_default() += sign * i64::from(weighted.weight) * matching;
            }
        }
    }
    if snapshot.has_affinity {
        for node in snapshot.nodes {
            for other in node.pods.values() {
                for term in other.required_anti_affinity() {
                    if let Some(value) = node.labels().get(&term.topology_key)
                        && matches(snapshot, term, other, pod)
                    {
                        *prepared.refused.entry((term.topology_key.clone(), value.clone())).or_default() += 1;
                    }
                }
            }
        }
    }
    prepared
}

// === impl Prepared ===

impl Prepared {
    /// See [`super::Plugins::count`]. Preferences are not counted anew: they choose among nodes that will do.
    pub(super) fn count(&mut self, snapshot: &Snapshot<'_>, pod: &PodInfo, other: &PodInfo, node: &NodeInfo, by: i64) {
        let near = pod.required_affinity().iter().zip(&mut self.near);
        for (term, (key, domains)) in near.chain(pod.required_anti_affinity().iter().zip(&mut self.away)) {
            if let Some(domain) = domain(node, key).filter(|_| matches(snapshot, term, pod, other)) {
                change(domains, domain, by);
            }
        }
        for term in other.required_anti_affinity() {
            if let Some(domain) = domain(node, &term.topology_key).filter(|_| matches(snapshot, term, other, pod)) {
                change(&mut self.refused, domain, by);
            }
        }
    }
}

/// A domain without pods is none.
fn change(domains: &mut BTreeMap<Domain, i64>, domain: Domain, by: i64) {
    let pods = domains.get(&domain).copied().unwrap_or_default() + by;
    if pods > 0 {
        domains.insert(domain, pods)
    } else {
        domains.remove(&domain)
    };
}

/// Whether `other` is one of the pods that a term of `owner` means. A pod that is going counts until it is gone, as upstream.
fn matches(snapshot: &Snapshot<'_>, term: &PodAffinityTerm, owner: &PodInfo, other: &PodInfo) -> bool {
    let named = term.namespaces.as_deref().unwrap_or_default();
    let in_namespace = match &term.namespace_selector {
        None if named.is_empty() => other.key.namespace == owner.key.namespace,
        None => named.iter().any(|n| **n == *other.key.namespace),
        Some(selector) => {
            named.iter().any(|n| **n == *other.key.namespace) || {
                let namespace = snapshot.namespaces.get(&Key::cluster(other.key.namespace.clone()));
                namespace.is_some_and(|n| selects(Some(selector), n.metadata.labels.as_ref().unwrap_or(&BTreeMap::new())))
            }
        }
    };
    in_namespace && selects(selector_of(term, owner).as_ref(), other.labels())
}

/// The term's selector with the owner's values of `matchLabelKeys` and `mismatchLabelKeys` added.
fn selector_of(term: &PodAffinityTerm, owner: &PodInfo) -> Option<LabelSelector> {
    let mut selector = term.label_selector.clone()?;
    for (keys, operator) in [(&term.match_label_keys, "In"), (&term.mismatch_label_keys, "NotIn")] {
        let own = keys.iter().flatten().filter_map(|key| {
            let value = owner.labels().get(key)?.clone();
            Some(LabelSelectorRequirement { key: key.clone(), operator: operator.into(), values: Some(vec![value]) })
        });
        selector.match_expressions.get_or_insert_default().extend(own);
    }
    Some(selector)
}

fn domain(node: &NodeInfo, key: &str) -> Option<Domain> {
    Some((key.to_owned(), node.labels().get(key)?.clone()))
}

pub(super) fn filter(prepared: &super::Prepared, _: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
    let prepared = &prepared.affinity;
    let first_of_its_kind = prepared.matches_itself && prepared.near.iter().all(|(_, domains)| domains.is_empty());
    let near = prepared
        .near
        .iter()
        .all(|(key, domains)| domain(node, key).is_some_and(|d| first_of_its_kind || domains.contains_key(&d)));
    if !near {
        return Err(Refusal::by_node("node(s) didn't match pod affinity rules"));
    }
    if prepared.away.iter().any(|(key, domains)| domain(node, key).is_some_and(|d| domains.contains_key(&d))) {
        return Err(Refusal::by_pods("node(s) didn't match pod anti-affinity rules"));
    }
    if prepared.refused.keys().any(|(key, value)| node.labels().get(key) == Some(value)) {
        return Err(Refusal::by_pods("node(s) didn't satisfy existing pods anti-affinity rules"));
    }
    Ok(())
}

pub(super) fn score(prepared: &super::Prepared, _: &PodInfo, nodes: &[&NodeInfo]) -> Vec<i64> {
    let preferred = &prepared.affinity.preferred;
    let raw: Vec<i64> = nodes
        .iter()
        .map(|node| preferred.iter().filter(|((k, v), _)| node.labels().get(k) == Some(v)).map(|(_, weight)| weight).sum())
        .collect();
    let (lowest, highest) = (raw.iter().copied().min().unwrap_or_default(), raw.iter().copied().max().unwrap_or_default());
    raw.iter().map(|sum| if highest == lowest { 0 } else { (sum - lowest) * MAX_SCORE / (highest - lowest) }).collect()
}
