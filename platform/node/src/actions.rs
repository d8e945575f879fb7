//! What a pod needs done: the difference between its spec and what the runtime has, as a pure function.
//!
//! Follows `kuberuntime_manager.go` (`computePodActions`, `computeInitContainerActions`) of 1.37, with one difference: a
//! sidecar that fails while the pod initialises is started again before anything after it is looked at.

use k8s_openapi::api::core::v1::{Container, Pod};
use pharos_runtime::types::{ContainerState, ContainerStatus, PodSandboxState};

use crate::{
    names::{self, Role},
    pod_view::PodView,
};

/// What probes say of a running container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Health {
    /// Its startup probe, if any, has passed, and so has its postStart hook.
    pub(crate) started: bool,
    /// Its readiness probe, if any, passes.
    pub(crate) ready: bool,
    /// Its liveness probe has failed for good.
    pub(crate) unhealthy: bool,
    /// Its startup probe has failed for good.
    pub(crate) startup_failed: bool,
}

impl Health {
    /// A container without probes.
    pub(crate) const GOOD: Self = Self { started: true, ready: true, unhealthy: false, startup_failed: false };
}

/// A container to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kill {
    /// Runtime ID.
    pub(crate) id: String,
    /// Name in the pod.
    pub(crate) name: String,
    /// For the event `Killing`.
    pub(crate) message: String,
    /// Whether a probe asked for it, whose own grace period then counts.
    pub(crate) by: Option<Probe>,
}

/// Which probe asked for the end of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// Liveness.
    Liveness,
    /// Startup.
    Startup,
}

/// What is to be done now, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Actions {
    /// End everything, the sandbox included: the pod is over, or its sandbox is to be made anew.
    pub(crate) kill_pod: bool,
    /// Make a sandbox, with this attempt.
    pub(crate) create_sandbox: Option<u32>,
    /// End these containers.
    pub(crate) kill: Vec<Kill>,
    /// Start these, by name, in order.
    pub(crate) start: Vec<String>,
    /// Every init container is done.
    pub(crate) initialized: bool,
}

/// Whether a container that ended is to run again, by its own policy and rules, else the pod's.
pub(crate) fn restarts(pod: &Pod, role: Role, container: &Container, exit_code: i32) -> bool {
    match role {
        Role::Sidecar => return true,
        Role::Ephemeral => return false,
        Role::Init | Role::Main => {}
    }
    for rule in container.restart_policy_rules.iter().flatten() {
        let Some(codes) = &rule.exit_codes else { continue };
        let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
        if rule.action == "Restart" && (listed == (codes.operator == "In")) {
            return true;
        }
    }
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always");
    match container.restart_policy.as_deref().unwrap_or(of_pod) {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        // An init container that is done is done.
        _ => role != Role::Init || exit_code != 0,
    }
}

/// Whether the latest instance of a container, or its absence, calls for a start.
fn wants_start(pod: &Pod, role: Role, container: &Container, latest: Option<&ContainerStatus>) -> bool {
    match latest {
        None => true,
        Some(status) => match status.state {
            ContainerState::Running => false,
            ContainerState::Created | ContainerState::Unknown => true,
            ContainerState::Exited => restarts(pod, role, container, status.exit_code),
        },
    }
}

/// What to do. `has_ip` tells whether the ready sandbox is connected; `health` what probes say of a container by runtime ID.
pub(crate) fn compute(pod: &Pod, view: &PodView, has_ip: bool, health: &dyn Fn(&str) -> Health) -> Actions {
    let mut actions = Actions::default();
    let all = names::containers(pod);
    let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
    let ready = view.sandboxes.iter().filter(|sandbox| sandbox.state == PodSandboxState::Ready).count();
    let sandbox = view.ready_sandbox().filter(|_| ready == 1 && (has_ip || host_network));

    let Some(sandbox) = sandbox else {
        let attempt = view.sandboxes.first().map_or(0, |sandbox| sandbox.metadata.attempt + 1);
        let start: Vec<&(Role, Container)> = all
            .iter()
            .filter(|(role, container)| *role == Role::Main && wants_start(pod, *role, container, view.latest(&container.name)))
            .collect();
        actions.kill_pod = !view.sandboxes.is_empty();
        let never_begun = view.containers.is_empty();
        if start.is_empty() && !never_begun {
            return actions; // All of it is over.
        }
        let may_restart = all.iter().any(|(role, c)| matches!(role, Role::Main | Role::Init) && restarts(pod, *role, c, 1));
        if !may_restart && attempt > 0 && !never_begun {
            return actions;
        }
        actions.create_sandbox = Some(attempt);
        let init = all.iter().find(|(role, _)| matches!(role, Role::Init | Role::Sidecar));
        actions.initialized = init.is_none();
        actions.start = match init {
            Some((_, container)) => vec![container.name.clone()],
            None => start.into_iter().map(|(_, container)| container.name.clone()).collect(),
        };
        return actions;
    };

    let here = |name: &str| view.latest(name).filter(|status| status.pod_sandbox_id == sandbox.id);
    for (role, container) in &all {
        if *role == Role::Ephemeral && view.latest(&container.name).is_none() {
            actions.start.push(container.name.clone());
        }
    }
    let begun = all.iter().any(|(role, container)| *role == Role::Main && here(&container.name).is_some());
    actions.initialized = initialize(pod, &all, &here, begun, health, &mut actions);
    if !actions.initialized {
        return actions;
    }
    let mut kept = 0;
    let mut starts = Vec::new();
    for (role, container) in all.iter().filter(|(role, _)| *role == Role::Main) {
        let status = view.latest(&container.name);
        match status.filter(|status| status.state == ContainerState::Running) {
            None => {
                if wants_start(pod, *role, container, status) {
                    if let Some(status) = status.filter(|status| status.state == ContainerState::Unknown) {
                        actions.kill.push(Kill {
                            id: status.id.clone(),
                            name: container.name.clone(),
                            message: format!(
                                "Container is in \"unknown\" state, try killing it before restart: container {:?} id {:?} status unknown",
                                container.name, status.id
                            ),
                            by: None,
                        });
                    }
                    starts.push(container.name.clone());
                }
            }
            Some(status) => match unfit(pod, *role, container, status, health(&status.id)) {
                Some((kill, again)) => {
                    actions.kill.push(kill);
                    if again {
                        starts.push(container.name.clone());
                        kept += 1;
                    }
                }
                None => kept += 1,
            },
        }
    }
    if kept == 0 && starts.is_empty() {
        actions.kill_pod = true;
        actions.start.clear();
    }
    actions.start.extend(starts);
    actions
}

/// Why a running container must end, and whether it then starts again.
fn unfit(pod: &Pod, role: Role, container: &Container, status: &ContainerStatus, health: Health) -> Option<(Kill, bool)> {
    let name = &container.name;
    let kill = |what: &str, by| Kill { id: status.id.clone(), name: name.clone(), message: what.to_owned(), by };
    let changed = status.annotations.get(names::CONTAINER_HASH).is_some_and(|hash| *hash != names::hash(container));
    let again = restarts(pod, role, container, 137);
    let word = if again { "will be restarted" } else { "will be killed" };
    if changed {
        return Some((kill(&format!("Container {name} definition changed, will be restarted"), None), true));
    }
    if health.unhealthy {
        return Some((kill(&format!("Container {name} failed liveness probe, {word}"), Some(Probe::Liveness)), again));
    }
    if health.startup_failed {
        return Some((kill(&format!("Container {name} failed startup probe, {word}"), Some(Probe::Startup)), again));
    }
    None
}

/// Moves the init containers on; returns whether they are done.
fn initialize<'a>(
    pod: &Pod,
    all: &[(Role, Container)],
    here: &dyn Fn(&str) -> Option<&'a ContainerStatus>,
    begun: bool,
    health: &dyn Fn(&str) -> Health,
    actions: &mut Actions,
) -> bool {
    for (role, container) in all.iter().filter(|(role, _)| matches!(role, Role::Init | Role::Sidecar)) {
        let status = here(&container.name);
        if begun && *role == Role::Init {
            continue; // Init containers don't run again under running containers.
        }
        match (role, status) {
            (_, None) => {
                actions.start.push(container.name.clone());
                if !begun {
                    return false;
                }
            }
            (Role::Sidecar, Some(status)) if status.state == ContainerState::Running => {
                let health = health(&status.id);
                if let Some((kill, _)) = unfit(pod, *role, container, status, health) {
                    actions.kill.push(kill);
                    actions.start.push(container.name.clone());
                    if !begun {
                        return false;
                    }
                } else if !health.started && !begun {
                    return false;
                }
            }
            (_, Some(status)) => match status.state {
                ContainerState::Running => {
                    let health = health(&status.id);
                    if let Some((kill, again)) = unfit(pod, *role, container, status, health) {
                        actions.kill.push(kill);
                        if again {
                            actions.start.push(container.name.clone());
                        }
                    }
                    return false;
                }
                ContainerState::Exited if *role == Role::Init && status.exit_code == 0 => {}
                _ if wants_start(pod, *role, container, Some(status)) => {
                    actions.start.push(container.name.clone());
                    if !begun {
                        return false;
                    }
                }
                _ => {
                    actions.kill_pod = true; // It failed for good, and the pod with it.
                    return false;
                }
            },
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use pharos_runtime::types::{PodSandboxConfig, PodSandboxMetadata, PodSandboxStatus};
    use serde_json::{Value, json};

    use super::*;

    fn sandbox(id: &str, attempt: u32, ready: bool) -> PodSandboxStatus {
        PodSandboxStatus {
            id: id.into(),
            metadata: PodSandboxMetadata { attempt, ..Default::default() },
            state: if ready { PodSandboxState::Ready } else { PodSandboxState::NotReady },
            created_at: Timestamp::UNIX_EPOCH,
            netns: None,
            pid: 1,
            labels: Default::default(),
            annotations: Default::default(),
            config: PodSandboxConfig::default(),
        }
    }

    /// `name:running`, `name:exit0` and the like, in sandbox `s`, each a second newer than the one before.
    fn containers(list: &str) -> Vec<ContainerStatus> {
        list.split_whitespace()
            .enumerate()
            .map(|(index, item)| {
                let (name, state) = item.split_once(':').unwrap();
                let (state, code) = match state.strip_prefix("exit") {
                    Some(code) => (ContainerState::Exited, code.parse().unwrap()),
                    None if state == "running" => (ContainerState::Running, 0),
                    None if state == "created" => (ContainerState::Created, 0),
                    None => (ContainerState::Unknown, 0),
                };
                crate::pod_status::tests::container(name, state, code, index as i64)
            })
            .collect()
    }

    fn check(spec: Value, sandboxes: &[PodSandboxStatus], list: &str, health: Health, expect: &str) {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
        let view = PodView::new(sandboxes.to_vec(), containers(list));
        let actions = compute(&pod, &view, true, &|_| health);
        let mut words = Vec::new();
        if actions.kill_pod {
            words.push("kill-pod".to_owned());
        }
        words.extend(actions.create_sandbox.map(|attempt| format!("sandbox{attempt}")));
        words.extend(actions.kill.iter().map(|kill| format!("-{}", kill.name)));
        words.extend(actions.start.iter().map(|name| format!("+{name}")));
        assert_eq!(words.join(" "), expect, "{list} {}", pod.spec.map(|s| serde_json::to_string(&s).unwrap()).unwrap());
    }

    #[test]
    fn actions_by_state() {
        let plain = |policy: &str| json!({"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]});
        let init = |policy: &str| {
            json!({"restartPolicy": policy, "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}, {"name": "j"}],
                "containers": [{"name": "a"}]})
        };
        let good = Health::GOOD;
        let up = [sandbox("s", 0, true)];
        check(plain("Always"), &[], "", good, "sandbox0 +a +b");
        check(plain("Always"), &up, "", good, "+a +b");
        check(plain("Always"), &up, "a:running b:running", good, "");
        check(plain("Always"), &up, "a:running b:exit0", good, "+b");
        check(plain("OnFailure"), &up, "a:running b:exit0", good, "");
        check(plain("OnFailure"), &up, "a:exit1 b:exit0", good, "+a");
        check(plain("Never"), &up, "a:running b:exit1", good, "");
        check(plain("Never"), &up, "a:exit0 b:exit1", good, "kill-pod");
        check(plain("Always"), &[sandbox("s", 0, false)], "a:exit0 b:exit137", good, "kill-pod sandbox1 +a +b");
        check(plain("Never"), &[sandbox("s", 0, false)], "a:exit0 b:exit137", good, "kill-pod");
        check(plain("Always"), &up, "a:running b:unknown", good, "-b +b");
        check(init("Always"), &[], "", good, "sandbox0 +i");
        check(init("Always"), &up, "i:running", good, "");
        check(init("Always"), &up, "i:exit0", good, "+s");
        check(init("Always"), &up, "i:exit0 s:running", Health { started: false, ..good }, "");
        check(init("Always"), &up, "i:exit0 s:running", good, "+j");
        check(init("Always"), &up, "i:exit0 s:exit1", good, "+s");
        check(init("Always"), &up, "i:exit0 s:running j:exit0", good, "+a");
        check(init("Always"), &up, "i:exit1", good, "+i");
        check(init("Never"), &up, "i:exit1", good, "kill-pod");
        check(init("Always"), &up, "i:exit0 j:exit0 a:running s:exit1", good, "+s");
        check(init("Never"), &up, "i:exit0 j:exit0 s:running a:exit0", good, "kill-pod");
    }

    #[test]
    fn probes_end_containers() {
        let spec = |policy: &str| json!({"restartPolicy": policy, "containers": [{"name": "a"}]});
        let up = [sandbox("s", 0, true)];
        let sick = Health { unhealthy: true, ..Health::GOOD };
        check(spec("Always"), &up, "a:running", sick, "-a +a");
        check(spec("Never"), &up, "a:running", sick, "kill-pod -a");
        let stuck = Health { startup_failed: true, started: false, ready: false, unhealthy: false };
        check(spec("OnFailure"), &up, "a:running", stuck, "-a +a");
    }

    #[test]
    fn rules_of_a_container_come_first() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"restartPolicy": "Never", "containers": []}})).unwrap();
        let container: Container = serde_json::from_value(json!({"name": "a", "restartPolicy": "Never",
            "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}))
        .unwrap();
        assert!(restarts(&pod, Role::Main, &container, 42));
        assert!(!restarts(&pod, Role::Main, &container, 1));
    }
}
