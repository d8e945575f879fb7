//! `disruption`: how many pods of a PodDisruptionBudget may be evicted now (`pkg/controller/disruption`).
//!
//! The API server's eviction counts down `disruptionsAllowed` and notes each pod in `disruptedPods`; this controller counts
//! anew, and drops pods from the note once they are gone, or two minutes later. So long may a pod also say that it is about to
//! be disrupted: if it is still not on its way then, it says so no more.

mod stale;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet, StatefulSet},
        core::v1::{Pod, ReplicationController},
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus},
    },
    apimachinery::pkg::{
        apis::meta::v1::{Condition, LabelSelector, OwnerReference, Time},
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
    error::During as _,
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
    stale::start(env, &client);
    let (put, budgets, teller) = (queue.clone(), env.informers.budgets.clone(), recorder.clone());
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
        let mut matching = Vec::new();
        for budget in budgets.in_namespace(pod.metadata.namespace.as_deref().unwrap_or_default()) {
            let matches = |pod: &Pod| selector(&budget).is_some_and(|s| s.matches(owners::labels(pod)));
            let matches_now = matches(pod);
            if matches_now || matches!(event, Event::Updated { old, .. } if matches(old)) {
                put.add(Key::of(&*budget));
            }
            if matches_now {
                matching.push(budget);
            }
        }
        if let [first, _, ..] = matching.as_slice() {
            let Key { namespace, name } = Key::of(&**pod);
            let chosen = owners::name(&**first);
            let message =
                format!("Pod {namespace:?}/{name:?} matches multiple PodDisruptionBudgets.  Chose {chosen:?} arbitrarily.");
            teller.warning(&Regarding::of(&**pod), "MultiplePodDisruptionBudgets", message);
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
    let expected = match needs_scale {
        true => expected_by_controllers(env, client, &selected).await,
        false => Ok(Expected { pods: selected.len() as i32, unmanaged: false }),
    };
    let (status, wait) = match expected {
        Ok(expected) => {
            if expected.unmanaged {
                let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
                recorder.warning(&regarding, "UnmanagedPods", unmanaged(selector));
            }
            for pod in overdue(&budget, &selected, env.now().0) {
                let message = format!("Pod was expected by PDB {key} to be deleted but it wasn't");
                recorder.warning(&Regarding::of(&**pod), "NotDeleted", message);
            }
            evaluate(&budget, &selected, expected.pods, &env.now())
        }
        Err(text) => {
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

/// How many pods there should be.
struct Expected {
    pods: i32,
    /// Whether some of those that there are have no controller, so that nobody knows.
    unmanaged: bool,
}

/// The sum of the sizes that the pods' controllers want (`getExpectedScale`).
///
/// # Errors
/// What users are to be told, in upstream's words.
async fn expected_by_controllers(env: &Env, client: &Client, selected: &[Arc<Pod>]) -> Result<Expected, String> {
    let mut sizes: BTreeMap<String, i32> = BTreeMap::new();
    let mut unmanaged = false;
    for pod in selected {
        let Some(owner) = owners::controller_of(&**pod) else {
            unmanaged = true;
            continue;
        };
        if sizes.contains_key(&owner.uid) {
            continue;
        }
        let key = Key::new(pod.metadata.namespace.as_deref().unwrap_or_default(), owner.name.as_str());
        let size = match known_size(env, owner, &key) {
            Some(known) => Some(known),
            None => scale_of(client, owner, &key).await?,
        };
        let (uid, size) = size.ok_or_else(|| format!("found no controllers for pod {:?}", owners::name(&**pod)))?;
        sizes.insert(uid, size);
    }
    Ok(Expected { pods: sizes.values().sum(), unmanaged })
}

/// The size of a controller of a kind that is known here, and whose it is.
fn known_size(env: &Env, owner: &OwnerReference, key: &Key) -> Option<(String, i32)> {
    let informers = &env.informers;
    match (owner.kind.as_str(), owner.api_version.split_once('/').map_or("", |(group, _)| group)) {
        ("ReplicaSet", "apps") => {
            let set = informers.replica_sets.get(key).filter(|set| owners::uid(&**set) == owner.uid)?;
            // A ReplicaSet of a Deployment: the Deployment knows better.
            let deployment = owners::controller_key::<Deployment, _>(&*set).and_then(|key| informers.deployments.get(&key));
            Some(match deployment {
                Some(deployment) => (owners::uid(&*deployment).to_owned(), deployment.spec.replicas.unwrap_or(1)),
                None => (owner.uid.clone(), set.spec.replicas.unwrap_or(1)),
            })
        }
        ("StatefulSet", "apps") => {
            let set = informers.stateful_sets.get(key).filter(|set| owners::uid(&**set) == owner.uid)?;
            Some((owner.uid.clone(), set.spec.replicas.unwrap_or(1)))
        }
        ("ReplicationController", "") => {
            let set = informers.replication_controllers.get(key).filter(|set| owners::uid(&**set) == owner.uid)?;
            Some((owner.uid.clone(), set.replicas_wanted().unwrap_or(1)))
        }
        _ => None,
    }
}

/// The size of any controller, by its scale subresource; `None` if there is no such controller any more.
async fn scale_of(client: &Client, owner: &OwnerReference, key: &Key) -> Result<Option<(String, i32)>, String> {
    let told = |error: crate::Error| error.message();
    let found = discover(client).await.during("discover the scale of", key).map_err(told)?;
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    let served: Option<Served> = found.resources.into_iter().find(|r| r.group == group && r.kind == owner.kind);
    let served = served.ok_or_else(|| format!("no matches for kind {:?} in version {:?}", owner.kind, owner.api_version))?;
    if !served.scale {
        return Err(format!("{} does not implement the scale subresource", served.name()));
    }
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &key.namespace, &served.api_resource());
    match api.get_scale(&key.name).await {
        Ok(scale) if scale.metadata.uid.as_deref() == Some(owner.uid.as_str()) => {
            Ok(Some((owner.uid.clone(), scale.spec.and_then(|spec| spec.replicas).unwrap_or_default())))
        }
        Ok(_) => Ok(None),
        Err(error) if is_not_found(&error) => Ok(None),
        error => error.during("get the scale of", key).map(|_| None).map_err(told),
    }
}

/// Upstream's text on pods without a controller.
fn unmanaged(selector: Option<&LabelSelector>) -> String {
    let labels: String =
        selector.iter().flat_map(|s| s.match_labels.iter().flatten()).map(|(key, value)| format!("{key}: {value},")).collect();
    let expressions: String = selector
        .iter()
        .flat_map(|s| s.match_expressions.iter().flatten())
        .map(|one| {
            let values = one.values.clone().unwrap_or_default().join(" ");
            format!("LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},", one.key, one.operator)
        })
        .collect();
    format!(
        "Pods selected by this PodDisruptionBudget (selector: &LabelSelector{{MatchLabels:map[string]string{{{labels}}},\
         MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}) were found to be unmanaged. As a result, the status of \
         the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \
         \".spec.minAvailable\" field of the PDB to an integer value."
    )
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
    for (pod, at) in noted(old, selected) {
        let due = at.0 + DELETION_TIMEOUT;
        if due < now {
            continue;
        }
        disrupted.insert(owners::name(&**pod).to_owned(), at.clone());
        let left = Duration::try_from(due.duration_since(now)).unwrap_or_default() + Duration::from_secs(1);
        wait = Some(wait.map_or(left, |sooner| sooner.min(left)));
    }
    (disrupted, wait)
}

/// The pods that are noted as evicted and are not on their way yet, with the time of the eviction.
fn noted<'a>(status: &'a PodDisruptionBudgetStatus, selected: &'a [Arc<Pod>]) -> impl Iterator<Item = (&'a Arc<Pod>, &'a Time)> {
    status.disrupted_pods.iter().flatten().filter_map(|(name, at)| {
        let pod = selected.iter().find(|pod| owners::name(&***pod) == name)?;
        (!owners::is_deleting(&**pod)).then_some((pod, at))
    })
}

/// The pods that should have been deleted by now.
fn overdue<'a>(budget: &'a PodDisruptionBudget, selected: &'a [Arc<Pod>], now: Timestamp) -> Vec<&'a Arc<Pod>> {
    let noted = budget.status.iter().flat_map(|status| noted(status, selected));
    noted.filter(|(_, at)| at.0 + DELETION_TIMEOUT < now).map(|(pod, _)| pod).collect()
}

/// Nothing may be evicted while it is not known how many there should be.
fn failed(budget: &PodDisruptionBudget, message: &str, now: &Time) -> PodDisruptionBudgetStatus {
    let old = budget.status.clone().unwrap_or_default();
    // The generation has not been observed: its evictions wait for that.
    let conditions = with_condition(&old, "False", "SyncFailed", message, old.observed_generation, now);
    // The counts are those of the last success; none were known before the first.
    PodDisruptionBudgetStatus {
        current_healthy: old.current_healthy.or(Some(0)),
        desired_healthy: old.desired_healthy.or(Some(0)),
        expected_pods: old.expected_pods.or(Some(0)),
        disruptions_allowed: Some(0),
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
            assert!(overdue(&budget, &pods, at(210).0).is_empty());
            assert_eq!(overdue(&budget, &pods, at(211).0).iter().map(|pod| owners::name(&***pod)).collect::<Vec<_>>(), ["a"]);
            assert_eq!(evaluate(&budget, &pods, 4, &at(211)).0.current_healthy, Some(2), "it was not evicted after all");
        }
    }

    #[test]
    fn nobody_may_go_while_nothing_is_known() {
        let at = seconds(Timestamp::from_second(100).unwrap());
        let status = PodDisruptionBudgetStatus {
            disruptions_allowed: Some(2),
            observed_generation: Some(1),
            current_healthy: Some(3),
            ..Default::default()
        };
        let mut budget = PodDisruptionBudget { status: Some(status), ..Default::default() };
        budget.metadata.generation = Some(2);
        let status = failed(&budget, "found no controllers for pod \"p\"", &at);
        assert_eq!((status.disruptions_allowed, status.current_healthy, status.observed_generation), (Some(0), Some(3), Some(1)));
        assert_eq!(status.desired_healthy, Some(0));
        let condition = &status.conditions.unwrap()[0];
        assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", "SyncFailed"));
        assert_eq!((condition.message.as_str(), condition.observed_generation), ("found no controllers for pod \"p\"", Some(1)));
    }

    #[test]
    fn what_is_said_of_pods_without_a_controller() {
        let selector = serde_json::from_value(serde_json::json!({"matchLabels": {"a": "b", "c": "d"},
            "matchExpressions": [{"key": "e", "operator": "In", "values": ["f", "g"]}]}));
        let text = unmanaged(Some(&selector.unwrap()));
        let expected = "Pods selected by this PodDisruptionBudget (selector: &LabelSelector{MatchLabels:map[string]string{a: b,c: d,},\
            MatchExpressions:[]LabelSelectorRequirement{LabelSelectorRequirement{Key:e,Operator:In,Values:[f g],},},}) were found \
            to be unmanaged. ";
        assert_eq!(text.split_inclusive("unmanaged. ").next(), Some(expected));
    }
}
