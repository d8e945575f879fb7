//! `disruption`: how many pods of a PodDisruptionBudget may be evicted now (`pkg/controller/disruption`).
//!
//! The API server's eviction counts down `disruptionsAllowed` and notes each pod in `disruptedPods`; this controller counts
//! anew, and drops pods from the note once they are gone, or two minutes later.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet, StatefulSet},
        core::v1::{Pod, ReplicationController},
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus},
    },
    apimachinery::pkg::{
        apis::meta::v1::{Condition, Time},
        util::intstr::IntOrString,
    },
};
use kube::{
    Api, Client,
    api::{DynamicObject, PostParams},
};
use pharos_client::{Event, Key, Next, Recorder, Regarding, is_not_found};

use crate::{
    Result,
    deployment::scaled,
    discovery::{Served, discover},
    env::Env,
    error::{During as _, gone_is_fine},
    owners, pods,
    selector::Selector,
};

/// How long an evicted pod may take to be deleted before it counts again (upstream's `DeletionTimeout`).
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_secs(120);

pub(crate) fn start(env: &Env) {
    let queue = env.queue("disruption");
    let client = env.client("disruption-controller");
    let recorder = env.recorder(&client, "controllermanager");
    let put = queue.clone();
    env.informers.budgets.on_event(move |event| put.add(Key::of(&**event.object())));
    let (put, budgets) = (queue.clone(), env.informers.budgets.clone());
    env.informers.pods.on_event(move |event| {
        if let Event::Updated { old, new } = event {
            let told = |pod: &Pod| {
                (pods::is_ready(pod), pods::is_active(pod), pod.metadata.labels.clone(), pod.metadata.owner_references.clone())
            };
            if told(old) == told(new) {
                return;
            }
        }
        let pod = event.object();
        for budget in budgets.in_namespace(pod.metadata.namespace.as_deref().unwrap_or_default()) {
            let mut touched = selector(&budget).is_some_and(|s| s.matches(owners::labels(&**pod)));
            if let Event::Updated { old, .. } = event {
                touched |= selector(&budget).is_some_and(|s| s.matches(owners::labels(&**old)));
            }
            if touched {
                put.add(Key::of(&*budget));
            }
        }
    });
    // The expected number of pods is their controllers'.
    macro_rules! follow {
        ($($informer:ident $kind:ty),+) => {$(
            let (put, budgets) = (queue.clone(), env.informers.budgets.clone());
            env.informers.$informer.on_event(move |event| {
                let replicas = |set: &$kind| set.replicas_wanted();
                if let Event::Updated { old, new } = event
                    && replicas(old) == replicas(new)
                {
                    return;
                }
                for budget in budgets.in_namespace(event.object().metadata.namespace.as_deref().unwrap_or_default()) {
                    put.add(Key::of(&*budget));
                }
            });
        )+};
    }
    follow!(replica_sets ReplicaSet, deployments Deployment, stateful_sets StatefulSet, replication_controllers ReplicationController);
    let env_ = env.clone();
    queue.spawn_workers(&env.ctx, 2, move |key| {
        let (env, client, recorder) = (env_.clone(), client.clone(), recorder.clone());
        async move { sync(&env, &client, &recorder, &key).await }
    });
}

trait Wanted {
    fn replicas_wanted(&self) -> Option<i32>;
}

impl Wanted for ReplicaSet {
    fn replicas_wanted(&self) -> Option<i32> {
        self.spec.replicas
    }
}

impl Wanted for Deployment {
    fn replicas_wanted(&self) -> Option<i32> {
        self.spec.replicas
    }
}

impl Wanted for StatefulSet {
    fn replicas_wanted(&self) -> Option<i32> {
        self.spec.replicas
    }
}

impl Wanted for ReplicationController {
    fn replicas_wanted(&self) -> Option<i32> {
        self.spec.as_ref().and_then(|spec| spec.replicas)
    }
}

/// In `policy/v1` an empty selector is every pod, an absent one none.
fn selector(budget: &PodDisruptionBudget) -> Option<Selector> {
    Selector::new(budget.spec.as_ref()?.selector.as_ref()).ok()
}

async fn sync(env: &Env, client: &Client, recorder: &Recorder, key: &Key) -> Result<Next> {
    let Some(budget) = env.informers.budgets.get(key) else { return Ok(Next::Done) };
    let regarding = Regarding::of(&*budget);
    let mut selected = env.informers.pods.in_namespace(&key.namespace);
    let Some(selector) = selector(&budget) else { return Ok(Next::Done) };
    selected.retain(|pod| selector.matches(owners::labels(&**pod)));
    if selected.is_empty() {
        recorder.normal(&regarding, "NoPods", "No matching pods found");
    }
    let needs_scale = budget
        .spec
        .as_ref()
        .is_some_and(|spec| spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_))));
    let expected = if needs_scale { expected_by_controllers(env, client, &selected).await } else { Ok(selected.len() as i32) };
    let (status, wait) = match expected {
        Ok(expected) => evaluate(&budget, &selected, expected, &env.now()),
        Err(error) => {
            let text = error.message();
            recorder.warning(
                &regarding,
                "CalculateExpectedPodCountFailed",
                format!("Failed to calculate the number of expected pods: {text}"),
            );
            (failed(&budget, &text, &env.now()), None)
        }
    };
    if budget.status.as_ref() != Some(&status) {
        let mut updated = (*budget).clone();
        updated.status = Some(status);
        let api: Api<PodDisruptionBudget> = Api::namespaced(client.clone(), &key.namespace);
        match api.replace_status(&key.name, &PostParams::default(), &updated).await {
            Err(error) if is_not_found(&error) => {}
            result => _ = result.during("update the status of poddisruptionbudget", key)?,
        }
    }
    Ok(wait.map_or(Next::Done, Next::After))
}

/// The sum of the sizes that the pods' controllers want.
async fn expected_by_controllers(env: &Env, client: &Client, selected: &[Arc<Pod>]) -> Result<i32> {
    let mut sizes: BTreeMap<String, i32> = BTreeMap::new();
    for pod in selected {
        let Some(owner) = owners::controller_of(&**pod) else { continue };
        if sizes.contains_key(&owner.uid) {
            continue;
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let key = Key::new(namespace, owner.name.as_str());
        let known = match (owner.kind.as_str(), owner.api_version.split_once('/').map_or("", |(group, _)| group)) {
            ("ReplicaSet", "apps") => env.informers.replica_sets.get(&key).map(|set| {
                // A ReplicaSet of a Deployment: the Deployment knows better.
                let parent = owners::controller_key::<Deployment, _>(&*set).and_then(|key| env.informers.deployments.get(&key));
                match parent {
                    Some(parent) => (owners::uid(&*parent).to_owned(), parent.spec.replicas.unwrap_or(1)),
                    None => (owners::uid(&*set).to_owned(), set.spec.replicas.unwrap_or(1)),
                }
            }),
            ("StatefulSet", "apps") => {
                env.informers.stateful_sets.get(&key).map(|set| (owners::uid(&*set).to_owned(), set.spec.replicas.unwrap_or(1)))
            }
            ("ReplicationController", "") => env
                .informers
                .replication_controllers
                .get(&key)
                .map(|set| (owners::uid(&*set).to_owned(), set.replicas_wanted().unwrap_or(1))),
            _ => Some((owner.uid.clone(), scale_of(client, &owner.api_version, &owner.kind, &key).await?)),
        };
        if let Some((uid, size)) = known {
            sizes.insert(uid, size);
        }
    }
    Ok(sizes.values().sum())
}

/// The size of a custom controller, by its scale subresource.
async fn scale_of(client: &Client, api_version: &str, kind: &str, key: &Key) -> Result<i32> {
    let found = discover(client).await.during("discover the scale of", key)?;
    let (group, _) = api_version.split_once('/').unwrap_or(("", api_version));
    let served: Option<Served> = found.resources.into_iter().find(|r| r.group == group && r.kind == kind);
    let served = served.ok_or_else(|| crate::Error::refused("find the scale of", key, format!("kind {kind} is not served")))?;
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &key.namespace, &served.api_resource());
    let scale = gone_is_fine(api.get_scale(&key.name).await).during("get the scale of", key)?;
    Ok(scale.and_then(|scale| scale.spec?.replicas).unwrap_or_default())
}

/// The counts, and when to look again (`trySync`).
fn evaluate(
    budget: &PodDisruptionBudget,
    selected: &[Arc<Pod>],
    controllers_want: i32,
    now: &Time,
) -> (PodDisruptionBudgetStatus, Option<Duration>) {
    let spec = budget.spec.clone().unwrap_or_default();
    let old = budget.status.clone().unwrap_or_default();
    let (disrupted, wait) = still_disrupted(&old, selected, now.0);
    let (expected, desired) = match (&spec.max_unavailable, &spec.min_available) {
        (Some(max), _) => (controllers_want, (controllers_want - scaled(Some(max), controllers_want, true)).max(0)),
        (None, Some(min @ IntOrString::String(_))) => (controllers_want, scaled(Some(min), controllers_want, true)),
        (None, Some(min)) => (selected.len() as i32, scaled(Some(min), 0, true)),
        (None, None) => (selected.len() as i32, 0),
    };
    let healthy = selected
        .iter()
        .filter(|pod| pods::is_active(pod) && pods::is_ready(pod) && !disrupted.contains_key(owners::name(&***pod)))
        .count() as i32;
    let allowed = if expected <= 0 { 0 } else { (healthy - desired).max(0) };
    let (value, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let status = PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        expected_pods: Some(expected),
        disruptions_allowed: Some(allowed),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        observed_generation: budget.metadata.generation,
        conditions: Some(with_condition(&old, value, reason, "", budget.metadata.generation, now)),
    };
    (status, wait)
}

fn still_disrupted(
    old: &PodDisruptionBudgetStatus,
    selected: &[Arc<Pod>],
    now: Timestamp,
) -> (BTreeMap<String, Time>, Option<Duration>) {
    let mut disrupted = BTreeMap::new();
    let mut wait: Option<Duration> = None;
    for (name, at) in old.disrupted_pods.iter().flatten() {
        let Some(pod) = selected.iter().find(|pod| owners::name(&***pod) == name) else { continue };
        let due = at.0 + DELETION_TIMEOUT;
        if owners::is_deleting(&**pod) || due < now {
            continue;
        }
        disrupted.insert(name.clone(), at.clone());
        let left = Duration::try_from(due.duration_since(now)).unwrap_or_default() + Duration::from_secs(1);
        wait = Some(wait.map_or(left, |sooner| sooner.min(left)));
    }
    (disrupted, wait)
}

/// Nothing may be evicted while it is not known how many there should be.
fn failed(budget: &PodDisruptionBudget, message: &str, now: &Time) -> PodDisruptionBudgetStatus {
    let old = budget.status.clone().unwrap_or_default();
    let conditions = with_condition(&old, "False", "SyncFailed", message, budget.metadata.generation, now);
    PodDisruptionBudgetStatus {
        disruptions_allowed: Some(0),
        observed_generation: budget.metadata.generation,
        conditions: Some(conditions),
        ..old
    }
}

fn with_condition(
    old: &PodDisruptionBudgetStatus,
    status: &str,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now: &Time,
) -> Vec<Condition> {
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let before = conditions.iter().position(|c| c.type_ == "DisruptionAllowed").map(|at| conditions.remove(at));
    let since = before.filter(|c| c.status == status).map_or_else(|| now.clone(), |c| c.last_transition_time);
    conditions.push(Condition {
        type_: "DisruptionAllowed".into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        observed_generation: generation,
        last_transition_time: since,
    });
    conditions
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::policy::v1::PodDisruptionBudgetSpec;

    use super::*;
    use crate::{env::seconds, pods::testing::pod};

    #[test]
    fn so_many_may_go() {
        let at = |second| seconds(Timestamp::from_second(second).unwrap());
        let pods =
            [pod("a", "n", "Running", Some(1)), pod("b", "n", "Running", Some(1)), pod("c", "n", "Running", None)].map(Arc::new);
        let int = IntOrString::Int;
        let text = |text: &str| IntOrString::String(text.into());
        for (min, max, expected) in [
            (Some(int(1)), None, (3, 1, 2, 1)),
            (Some(int(2)), None, (3, 2, 2, 0)),
            (Some(text("50%")), None, (4, 2, 2, 0)),
            (None, Some(int(2)), (4, 2, 2, 0)),
            (None, Some(int(3)), (4, 1, 2, 1)),
            (None, Some(text("100%")), (4, 0, 2, 2)),
        ] {
            let spec = PodDisruptionBudgetSpec { min_available: min, max_unavailable: max, ..Default::default() };
            let mut budget = PodDisruptionBudget { spec: Some(spec), ..Default::default() };
            let (status, _) = evaluate(&budget, &pods, 4, &at(100));
            let told = (
                status.expected_pods.unwrap(),
                status.desired_healthy.unwrap(),
                status.current_healthy.unwrap(),
                status.disruptions_allowed.unwrap(),
            );
            assert_eq!(told, expected);
            budget.status = Some(PodDisruptionBudgetStatus {
                disrupted_pods: Some([("a".to_owned(), at(90)), ("gone".to_owned(), at(90))].into()),
                ..status
            });
            let (status, wait) = evaluate(&budget, &pods, 4, &at(100));
            assert_eq!(status.current_healthy, Some(1), "one is being evicted");
            assert_eq!(status.disrupted_pods.map(|pods| pods.len()), Some(1));
            assert_eq!(wait, Some(Duration::from_secs(111)));
        }
    }
}
