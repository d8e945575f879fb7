//! The arithmetic of rollouts (`pkg/controller/deployment/util/deployment_util.go`, `sync.go`, `rolling.go`).

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{HASH_LABEL, Sets, annotations};
use crate::owners;

pub(super) fn wanted(d: &Deployment) -> i32 {
    d.spec.replicas.unwrap_or(1)
}

pub(super) fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or_default()
}

fn total<'a>(sets: impl Iterator<Item = &'a ReplicaSet>) -> i32 {
    sets.map(replicas).sum()
}

pub(super) fn is_recreate(d: &Deployment) -> bool {
    d.spec.strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

pub(super) fn is_paused(d: &Deployment) -> bool {
    d.spec.paused.unwrap_or_default()
}

/// A number, or a percentage of `whole` rounded up or down.
pub(crate) fn scaled(value: Option<&IntOrString>, whole: i32, up: bool) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let percent: i64 = text.strip_suffix('%').and_then(|p| p.parse().ok()).unwrap_or_default();
            let product = percent * i64::from(whole);
            i32::try_from(if up { (product + 99).div_euclid(100) } else { product.div_euclid(100) }).unwrap_or(i32::MAX)
        }
    }
}

/// How many pods may be made beyond what is wanted, and how many may be missing; never both none.
fn fenceposts(d: &Deployment) -> (i32, i32) {
    let rolling = d.spec.strategy.as_ref().and_then(|strategy| strategy.rolling_update.clone()).unwrap_or_default();
    let surge = scaled(rolling.max_surge.as_ref(), wanted(d), true);
    let unavailable = scaled(rolling.max_unavailable.as_ref(), wanted(d), false);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

pub(super) fn max_surge(d: &Deployment) -> i32 {
    if is_recreate(d) { 0 } else { fenceposts(d).0 }
}

pub(super) fn max_unavailable(d: &Deployment) -> i32 {
    if is_recreate(d) || wanted(d) == 0 { 0 } else { fenceposts(d).1.min(wanted(d)) }
}

/// Whether a set was made for the Deployment's present template.
pub(super) fn same_template(d: &Deployment, set: &ReplicaSet) -> bool {
    let strip = |template: Option<&PodTemplateSpec>| {
        let mut template = template.cloned().unwrap_or_default();
        let meta = template.metadata.get_or_insert_default();
        if let Some(labels) = &mut meta.labels {
            labels.remove(HASH_LABEL);
        }
        // Absent and empty are the same to upstream.
        meta.labels = meta.labels.take().filter(|labels| !labels.is_empty());
        meta.annotations = meta.annotations.take().filter(|annotations| !annotations.is_empty());
        template
    };
    strip(Some(&d.spec.template)) == strip(set.spec.template.as_ref())
}

fn age(set: &ReplicaSet) -> (Option<jiff::Timestamp>, String) {
    (set.metadata.creation_timestamp.as_ref().map(|time| time.0), owners::name(set).to_owned())
}

/// The oldest set of the present template is the new one; all others are old.
pub(super) fn split(d: &Deployment, mut claimed: Vec<ReplicaSet>) -> Sets {
    claimed.sort_by_cached_key(age);
    let new = claimed.iter().position(|set| same_template(d, set)).map(|at| claimed.remove(at));
    Sets { new, old: claimed }
}

/// Whether the number of replicas was changed since the sets were sized.
pub(super) fn is_scaling(d: &Deployment, claimed: &[ReplicaSet]) -> bool {
    claimed.iter().filter(|set| replicas(set) > 0).any(|set| annotations::desired(set).is_some_and(|n| n != wanted(d)))
}

/// The size that the new set may have now.
pub(super) fn new_replicas(d: &Deployment, sets: &Sets) -> i32 {
    let Some(new) = &sets.new else { return 0 };
    if is_recreate(d) || replicas(new) >= wanted(d) {
        return wanted(d);
    }
    let room = wanted(d) + max_surge(d) - total(sets.all());
    if room <= 0 { replicas(new) } else { replicas(new) + room.min(wanted(d) - replicas(new)) }
}

/// The sizes that old sets shrink to now: first pods that do not work, then as many as availability allows.
pub(super) fn scale_down_old(d: &Deployment, sets: &Sets) -> Vec<(ReplicaSet, i32)> {
    let mut old: Vec<(ReplicaSet, i32)> = sets.old.iter().filter(|s| replicas(s) > 0).map(|s| (s.clone(), replicas(s))).collect();
    if old.is_empty() {
        return Vec::new();
    }
    let min_available = wanted(d) - max_unavailable(d);
    let new_unavailable = sets.new.as_ref().map_or(0, |new| replicas(new) - available(new));
    let mut budget = total(sets.all()) - min_available - new_unavailable;
    if budget <= 0 {
        return Vec::new();
    }
    old.sort_by_cached_key(|(set, _)| age(set));
    for (set, size) in &mut old {
        let broken = (*size - available(set)).clamp(0, budget.max(0));
        *size -= broken;
        budget -= broken;
    }
    let mut spare = sets.all().map(available).sum::<i32>() - min_available;
    for (_, size) in &mut old {
        let less = (*size).clamp(0, spare.max(0));
        *size -= less;
        spare -= less;
    }
    old.retain(|(set, size)| replicas(set) != *size);
    old
}

/// The sizes after the number of replicas changed, in the middle of a rollout or not.
pub(super) fn proportional(d: &Deployment, sets: &Sets) -> Vec<(ReplicaSet, i32)> {
    let active: Vec<&ReplicaSet> = sets.all().filter(|set| replicas(set) > 0).collect();
    let latest = match active.as_slice() {
        [] => sets.new.as_ref().or_else(|| sets.old.iter().max_by_key(|set| age(set))),
        [one] => Some(*one),
        _ => None,
    };
    if let Some(latest) = latest {
        return if replicas(latest) == wanted(d) { Vec::new() } else { vec![(latest.clone(), wanted(d))] };
    }
    if let Some(new) = &sets.new
        && annotations::desired(new) == Some(wanted(d))
        && replicas(new) == wanted(d)
        && available(new) == wanted(d)
    {
        return sets.old.iter().filter(|set| replicas(set) > 0).map(|set| (set.clone(), 0)).collect();
    }
    if is_recreate(d) {
        return Vec::new();
    }
    let allowed = if wanted(d) > 0 { wanted(d) + max_surge(d) } else { 0 };
    let to_add = allowed - active.iter().map(|set| replicas(set)).sum::<i32>();
    let mut active: Vec<&ReplicaSet> = active;
    // The biggest first; of equals the newest when growing, the oldest when shrinking.
    active.sort_by(|a, b| {
        let by_age = if to_add > 0 { age(b).cmp(&age(a)) } else { age(a).cmp(&age(b)) };
        replicas(b).cmp(&replicas(a)).then(by_age)
    });
    let mut added = 0;
    let mut sizes = Vec::with_capacity(active.len());
    for set in &active {
        let share = if to_add == 0 { 0 } else { proportion(d, set, to_add, added) };
        added += share;
        sizes.push(replicas(set) + share);
    }
    if to_add != 0
        && let Some(first) = sizes.first_mut()
    {
        *first = (*first + to_add - added).max(0);
    }
    active.into_iter().cloned().zip(sizes).collect()
}

/// A set's share of a change, by its share of what there was when it was sized (`GetReplicaSetProportion`).
fn proportion(d: &Deployment, set: &ReplicaSet, to_add: i32, added: i32) -> i32 {
    if replicas(set) == 0 || to_add == added {
        return 0;
    }
    let allowed = to_add - added;
    let share = if wanted(d) == 0 {
        -replicas(set)
    } else {
        let before = annotations::maximum(set)
            .filter(|max| *max > 0)
            .or_else(|| d.status.as_ref().and_then(|s| s.replicas))
            .filter(|max| *max > 0)
            .unwrap_or(1);
        let size = f64::from(replicas(set)) * f64::from(wanted(d) + max_surge(d)) / f64::from(before);
        size.round() as i32 - replicas(set)
    };
    if to_add > 0 { share.min(allowed) } else { share.max(allowed) }
}

/// The old sets to delete.
pub(super) fn beyond_history<'a>(d: &Deployment, old: &'a [ReplicaSet]) -> Vec<&'a ReplicaSet> {
    let limit = d.spec.revision_history_limit.unwrap_or(i32::MAX);
    let mut alive: Vec<&ReplicaSet> = old.iter().filter(|set| !owners::is_deleting(*set)).collect();
    let surplus = i64::try_from(alive.len()).unwrap_or_default() - i64::from(limit);
    alive.sort_by_key(|set| annotations::revision(set));
    alive
        .into_iter()
        .take(usize::try_from(surplus).unwrap_or_default())
        .filter(|set| {
            let status = set.status.clone().unwrap_or_default();
            status.replicas == 0
                && replicas(set) == 0
                && set.metadata.generation <= Some(status.observed_generation.unwrap_or_default())
        })
        .collect()
}
