//! What a pod's status says, computed from its spec and what the runtime has (`kubelet_pods.go`, `pkg/kubelet/status/generate.go`).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus as ApiContainer, ContainerUser, HostIP, LinuxContainerUser, Pod, PodCondition, PodIP, PodStatus,
        VolumeMountStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use pharos_runtime::types::{ContainerState, ContainerStatus};
use serde_json::{Map, Value, json};

use crate::{
    actions::{self, Health},
    names::{self, Role},
    pod_view::PodView,
    resources,
};

/// Why a container waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// One CamelCase word.
    pub(crate) reason: String,
    /// For people.
    pub(crate) message: String,
}

/// A pod that is over whatever its containers say: evicted, or past its deadline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// `Evicted`, `DeadlineExceeded`, …
    pub(crate) reason: String,
    /// For people.
    pub(crate) message: String,
    /// Whether it had to go for the node's sake, which is told as a disruption.
    pub(crate) disrupted: bool,
}

/// What a status is computed from.
pub(crate) struct Inputs<'a> {
    /// The pod, with its present status.
    pub(crate) pod: &'a Pod,
    /// What the runtime has.
    pub(crate) view: &'a PodView,
    /// Why containers wait, by name.
    pub(crate) waiting: &'a BTreeMap<String, Waiting>,
    /// Termination messages by runtime ID.
    pub(crate) messages: &'a BTreeMap<String, String>,
    /// What probes say, by runtime ID.
    pub(crate) health: &'a dyn Fn(&str) -> Health,
    /// The pod's addresses.
    pub(crate) pod_ips: &'a [IpAddr],
    /// The node's addresses.
    pub(crate) host_ips: &'a [IpAddr],
    /// Set when the pod has failed as a whole.
    pub(crate) failure: Option<&'a Failure>,
    /// Whether everything of the pod has been ended.
    pub(crate) terminal: bool,
    /// Whether the pod is being ended.
    pub(crate) terminating: bool,
    /// Names of containers whose limits are not yet those of the spec.
    pub(crate) resizing: &'a BTreeSet<String>,
    /// Scheme of container IDs: the runtime's name.
    pub(crate) runtime: &'a str,
    /// Now.
    pub(crate) now: Timestamp,
}

/// The whole status the kubelet wants; conditions of others are not in it.
pub(crate) fn compute(inputs: &Inputs<'_>) -> PodStatus {
    let pod = inputs.pod;
    let old = pod.status.clone().unwrap_or_default();
    let all = names::containers(pod);
    let statuses = |roles: &[Role], old: Option<&[ApiContainer]>| -> Option<Vec<ApiContainer>> {
        let list: Vec<ApiContainer> = all
            .iter()
            .filter(|(role, _)| roles.contains(role))
            .map(|(role, container)| {
                let before = old.unwrap_or_default().iter().find(|status| status.name == container.name);
                of_container(inputs, *role, container, before)
            })
            .collect();
        (!list.is_empty()).then_some(list)
    };
    let mut status = PodStatus {
        container_statuses: statuses(&[Role::Main], old.container_statuses.as_deref()),
        init_container_statuses: statuses(&[Role::Init, Role::Sidecar], old.init_container_statuses.as_deref()),
        ephemeral_container_statuses: statuses(&[Role::Ephemeral], old.ephemeral_container_statuses.as_deref()),
        qos_class: Some(resources::qos(pod).name().to_owned()),
        start_time: old.start_time.clone().or(Some(Time(inputs.now))),
        observed_generation: pod.metadata.generation,
        host_ip: inputs.host_ips.first().map(ToString::to_string),
        host_ips: Some(inputs.host_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect()),
        ..PodStatus::default()
    };
    // A pod that is over keeps the addresses it had.
    if inputs.pod_ips.is_empty() {
        status.pod_ip = old.pod_ip.clone();
        status.pod_ips = old.pod_ips.clone();
    } else {
        status.pod_ip = inputs.pod_ips.first().map(ToString::to_string);
        status.pod_ips = Some(inputs.pod_ips.iter().map(|ip| PodIP { ip: ip.to_string() }).collect());
    }
    let phase = match (old.phase.as_deref(), inputs.failure) {
        (Some(over @ ("Failed" | "Succeeded")), _) => over.to_owned(),
        (_, Some(_)) => "Failed".to_owned(),
        _ => phase(inputs, &all, &status).to_owned(),
    };
    match inputs.failure {
        Some(failure) => {
            status.reason = Some(failure.reason.clone());
            status.message = Some(failure.message.clone());
        }
        // What is over keeps its reason.
        None if phase == "Failed" => {
            status.reason = old.reason.clone();
            status.message = old.message.clone();
        }
        None => {}
    }
    status.phase = Some(phase);
    status.conditions = Some(conditions(inputs, &all, &status, old.conditions.as_deref().unwrap_or_default()));
    status
}

fn of_container(inputs: &Inputs<'_>, role: Role, container: &Container, before: Option<&ApiContainer>) -> ApiContainer {
    let name = &container.name;
    let mut instances = inputs.view.instances(name);
    let (latest, previous) = (instances.next(), instances.next());
    let waiting = inputs.waiting.get(name);
    let mut status = ApiContainer {
        name: name.clone(),
        image: container.image.clone().unwrap_or_default(),
        volume_mounts: mounts(container),
        restart_count: before.map_or(0, |before| before.restart_count),
        started: Some(false),
        ..ApiContainer::default()
    };
    // Of init containers too (`convertToAPIContainerStatuses`).
    let default = || {
        let init = inputs.pod.spec.as_ref().is_some_and(|s| s.init_containers.iter().flatten().next().is_some());
        Waiting { reason: if init { "PodInitializing" } else { "ContainerCreating" }.to_owned(), message: String::new() }
    };
    let Some(latest) = latest else {
        let was = before.and_then(|before| before.state.as_ref());
        status.last_state = before.and_then(|before| before.last_state.clone());
        status.state = Some(match was {
            // It ran once and nobody knows how it ended.
            Some(ApiState { running: Some(running), .. }) if inputs.terminal || inputs.terminating => ApiState {
                terminated: Some(ContainerStateTerminated {
                    exit_code: 137,
                    reason: Some("ContainerStatusUnknown".to_owned()),
                    message: Some("The container could not be located when the pod was terminated".to_owned()),
                    started_at: running.started_at.clone(),
                    finished_at: Some(Time(inputs.now)),
                    container_id: before.and_then(|before| before.container_id.clone()),
                    ..ContainerStateTerminated::default()
                }),
                ..ApiState::default()
            },
            Some(state @ ApiState { terminated: Some(_), .. }) if waiting.is_none() => {
                status.image_id = before.map(|before| before.image_id.clone()).unwrap_or_default();
                status.container_id = before.and_then(|before| before.container_id.clone());
                status.ready = role == Role::Init && state.terminated.as_ref().is_some_and(|t| t.exit_code == 0);
                state.clone()
            }
            _ => wait(waiting.cloned().unwrap_or_else(default)),
        });
        return status;
    };
    status.container_id = Some(format!("{}://{}", inputs.runtime, latest.id));
    if !latest.image.image.is_empty() {
        status.image = latest.image.image.clone();
    }
    status.image_id = latest.image_ref.clone();
    status.restart_count = i32::try_from(latest.metadata.attempt).unwrap_or(i32::MAX);
    let over = |instance: &ContainerStatus| ApiState { terminated: Some(terminated(inputs, instance)), ..ApiState::default() };
    let last = previous.filter(|previous| previous.state == ContainerState::Exited).map(over);
    let health = (inputs.health)(&latest.id);
    match latest.state {
        ContainerState::Running => {
            status.state = Some(ApiState {
                running: Some(ContainerStateRunning { started_at: latest.started_at.map(Time) }),
                ..ApiState::default()
            });
            status.last_state = last;
            status.started = Some(if role == Role::Init { true } else { health.started });
            status.ready = matches!(role, Role::Main | Role::Sidecar) && health.started && health.ready;
            status.user = Some(ContainerUser {
                linux: Some(LinuxContainerUser {
                    uid: latest.user.uid,
                    gid: latest.user.gid,
                    supplemental_groups: Some(latest.user.supplemental_groups.clone()).filter(|groups| !groups.is_empty()),
                }),
            });
            if let Some(wanted) = container.resources.as_ref().filter(|r| r.requests.is_some() || r.limits.is_some()) {
                status.allocated_resources = wanted.requests.clone();
                status.resources =
                    if inputs.resizing.contains(name) { before.and_then(|b| b.resources.clone()) } else { Some(wanted.clone()) };
            }
        }
        ContainerState::Exited => {
            let again =
                !inputs.terminal && !inputs.terminating && actions::restarts(inputs.pod, role, container, latest.exit_code);
            match waiting.filter(|_| again) {
                Some(waiting) => {
                    status.state = Some(wait(waiting.clone()));
                    status.last_state = Some(over(latest));
                }
                None => {
                    status.state = Some(over(latest));
                    status.last_state = last;
                    status.ready = role == Role::Init && latest.exit_code == 0;
                }
            }
        }
        ContainerState::Created => {
            status.state = Some(wait(waiting.cloned().unwrap_or_else(default)));
            status.last_state = last;
        }
        ContainerState::Unknown => {
            status.state = Some(ApiState {
                terminated: Some(ContainerStateTerminated {
                    exit_code: 137,
                    reason: Some("ContainerStatusUnknown".to_owned()),
                    message: Some("The container could not be located when the pod was terminated".to_owned()),
                    container_id: status.container_id.clone(),
                    ..ContainerStateTerminated::default()
                }),
                ..ApiState::default()
            });
            status.last_state = last;
        }
    }
    status
}

fn wait(waiting: Waiting) -> ApiState {
    ApiState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(waiting.reason).filter(|text| !text.is_empty()),
            message: Some(waiting.message).filter(|text| !text.is_empty()),
        }),
        ..ApiState::default()
    }
}

fn terminated(inputs: &Inputs<'_>, instance: &ContainerStatus) -> ContainerStateTerminated {
    let message = inputs.messages.get(&instance.id).cloned().filter(|text| !text.is_empty());
    // Its file is gone with the volumes, or the kubelet was restarted since.
    let message = message.or_else(|| told_before(inputs.pod, &instance.id));
    ContainerStateTerminated {
        container_id: Some(format!("{}://{}", inputs.runtime, instance.id)),
        exit_code: instance.exit_code,
        // CRI tells no signal, so the kubelet never has.
        signal: None,
        reason: Some(match instance.reason.as_str() {
            "" if instance.exit_code == 0 => "Completed".to_owned(),
            "" => "Error".to_owned(),
            reason => reason.to_owned(),
        }),
        message: message.or_else(|| Some(instance.message.clone()).filter(|text| !text.is_empty())),
        // Upstream always writes both times.
        started_at: instance.started_at.or(Some(instance.created_at)).map(Time),
        finished_at: instance.finished_at.or(instance.started_at).or(Some(instance.created_at)).map(Time),
    }
}

/// The message the status has for an instance already.
fn told_before(pod: &Pod, id: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = status
        .container_statuses
        .iter()
        .chain(&status.init_container_statuses)
        .chain(&status.ephemeral_container_statuses)
        .flatten();
    all.flat_map(|status| [&status.state, &status.last_state])
        .filter_map(|state| state.as_ref()?.terminated.as_ref())
        .find(|terminated| terminated.container_id.as_deref().is_some_and(|full| full.ends_with(id)))
        .and_then(|terminated| terminated.message.clone())
}

fn mounts(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let list: Vec<VolumeMountStatus> = container
        .volume_mounts
        .iter()
        .flatten()
        .map(|mount| VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only: mount.read_only,
            recursive_read_only: mount.read_only.filter(|read_only| *read_only).map(|_| {
                match mount.recursive_read_only.as_deref() {
                    Some("Enabled" | "IfPossible") => "Enabled",
                    _ => "Disabled",
                }
                .to_owned()
            }),
            ..VolumeMountStatus::default()
        })
        .collect();
    (!list.is_empty()).then_some(list)
}

/// Follows `getPhase`.
fn phase(inputs: &Inputs<'_>, all: &[(Role, Container)], status: &PodStatus) -> &'static str {
    let find = |name: &str| {
        status.init_container_statuses.iter().chain(&status.container_statuses).flatten().find(|status| status.name == name)
    };
    let exit = |state: Option<&ApiState>| state.and_then(|state| state.terminated.as_ref()).map(|t| t.exit_code);
    let (mut initializing, mut running, mut waiting, mut stopped, mut succeeded, mut again) = (0, 0, 0, 0, 0, 0);
    for (role, container) in all {
        let Some(found) = find(&container.name) else { continue };
        let (state, last) = (exit(found.state.as_ref()), exit(found.last_state.as_ref()));
        let runs = found.state.as_ref().is_some_and(|state| state.running.is_some());
        match role {
            Role::Ephemeral => {}
            Role::Init => match state {
                Some(0) => {}
                Some(code) if !actions::restarts(inputs.pod, *role, container, code) => return "Failed",
                _ => initializing += 1,
            },
            // A sidecar only counts until the pod has begun.
            Role::Sidecar => {
                if found.started != Some(true) && state.is_none() && last.is_none() {
                    initializing += 1;
                }
            }
            Role::Main => match (runs, state) {
                (true, _) => running += 1,
                (_, Some(code)) => {
                    stopped += 1;
                    succeeded += i32::from(code == 0);
                    again += i32::from(actions::restarts(inputs.pod, *role, container, code));
                }
                _ if last.is_some() => {
                    stopped += 1;
                    again += 1;
                }
                _ => waiting += 1,
            },
        }
    }
    if inputs.terminal {
        return if stopped > 0 && stopped == succeeded && waiting == 0 && initializing == 0 { "Succeeded" } else { "Failed" };
    }
    if initializing > 0 && running == 0 && stopped == 0 || waiting > 0 {
        return "Pending";
    }
    match (running, stopped) {
        (0, 0) => "Pending",
        (0, _) if again > 0 => "Running",
        (0, _) if stopped == succeeded => "Succeeded",
        (0, _) => "Failed",
        _ => "Running",
    }
}

fn conditions(inputs: &Inputs<'_>, all: &[(Role, Container)], status: &PodStatus, old: &[PodCondition]) -> Vec<PodCondition> {
    let generation = inputs.pod.metadata.generation;
    let phase = status.phase.as_deref().unwrap_or_default();
    let role = |name: &str| all.iter().find(|(_, c)| c.name == name).map(|(role, _)| *role);
    let make = |kind: &str, bad: Option<(&str, String)>| PodCondition {
        type_: kind.to_owned(),
        status: if bad.is_none() { "True" } else { "False" }.to_owned(),
        reason: bad.as_ref().map(|(reason, _)| (*reason).to_owned()).filter(|text| !text.is_empty()),
        message: bad.map(|(_, message)| message).filter(|text| !text.is_empty()),
        observed_generation: generation,
        ..PodCondition::default()
    };

    let sandbox_ready = inputs.view.ready_sandbox().is_some() && !inputs.pod_ips.is_empty() && !inputs.terminal;
    let mut out = vec![make("PodReadyToStartContainers", (!sandbox_ready).then(|| ("", String::new())))];

    let incomplete: Vec<&str> = status
        .init_container_statuses
        .iter()
        .flatten()
        .filter(|found| match role(&found.name) {
            Some(Role::Sidecar) => found.started != Some(true),
            _ => found.state.as_ref().and_then(|s| s.terminated.as_ref()).is_none_or(|t| t.exit_code != 0),
        })
        .map(|found| found.name.as_str())
        .collect();
    let begun = status.container_statuses.iter().flatten().any(|found| {
        found.started == Some(true)
            || found.state.as_ref().is_some_and(|s| s.running.is_some() || s.terminated.is_some())
            || found.last_state.is_some()
    });
    let mut initialized = make(
        "Initialized",
        (!incomplete.is_empty() && !begun && phase != "Succeeded")
            .then(|| ("ContainersNotInitialized", format!("containers with incomplete status: [{}]", incomplete.join(" ")))),
    );
    if phase == "Succeeded" {
        initialized.reason = Some("PodCompleted".to_owned());
    }
    out.push(initialized);

    let unready: Vec<&str> = all
        .iter()
        .filter(|(role, _)| matches!(role, Role::Main | Role::Sidecar))
        .filter(|(_, container)| {
            !status
                .container_statuses
                .iter()
                .chain(&status.init_container_statuses)
                .flatten()
                .any(|found| found.name == container.name && found.ready)
        })
        .map(|(_, container)| container.name.as_str())
        .collect();
    let not_ready: Option<(&str, String)> = match phase {
        "Succeeded" => Some(("PodCompleted", String::new())),
        "Failed" => Some(("PodFailed", String::new())),
        _ if !unready.is_empty() => {
            Some(("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" "))))
        }
        _ => None,
    };
    let gates: Vec<&str> = inputs
        .pod
        .spec
        .iter()
        .flat_map(|spec| spec.readiness_gates.iter().flatten())
        .map(|gate| gate.condition_type.as_str())
        .collect();
    let mut gate_messages = Vec::new();
    for gate in &gates {
        match old.iter().find(|condition| condition.type_ == *gate) {
            None => gate_messages.push(format!("corresponding condition of pod readiness gate \"{gate}\" does not exist.")),
            Some(condition) if condition.status != "True" => gate_messages
                .push(format!("the status of pod readiness gate \"{gate}\" is not \"True\", but {}", condition.status)),
            Some(_) => {}
        }
    }
    let ready = match &not_ready {
        Some(bad) => Some(bad.clone()),
        None if !gate_messages.is_empty() => Some(("ReadinessGatesNotReady", gate_messages.join(", "))),
        None => None,
    };
    out.push(make("Ready", ready));
    out.push(make("ContainersReady", not_ready));
    if let Some(failure) = inputs.failure.filter(|failure| failure.disrupted) {
        let mut disrupted = make("DisruptionTarget", None);
        disrupted.reason = Some("TerminationByKubelet".to_owned());
        disrupted.message = Some(failure.message.clone());
        out.push(disrupted);
    }
    for condition in &mut out {
        let before = old.iter().find(|before| before.type_ == condition.type_);
        condition.last_transition_time = match before {
            Some(before) if before.status == condition.status => before.last_transition_time.clone(),
            _ => Some(Time(inputs.now)),
        };
    }
    out
}

/// Fields of the status that are the kubelet's alone.
const OWNED: [&str; 13] = [
    "phase",
    "reason",
    "message",
    "podIP",
    "podIPs",
    "hostIP",
    "hostIPs",
    "startTime",
    "qosClass",
    "containerStatuses",
    "initContainerStatuses",
    "ephemeralContainerStatuses",
    "observedGeneration",
];

/// The strategic merge patch that turns the present status into the wanted one and touches nothing else; `None` when they
/// are equal already. Conditions are merged by type, addresses by IP.
pub(crate) fn patch(pod: &Pod, wanted: &PodStatus) -> Option<Value> {
    let old = serde_json::to_value(pod.status.clone().unwrap_or_default()).ok()?;
    let new = serde_json::to_value(wanted).ok()?;
    let mut status = Map::new();
    for field in OWNED {
        let (before, after) = (old.get(field), new.get(field));
        if before == after {
            continue;
        }
        let mut after = after.cloned().unwrap_or(Value::Null);
        if let (true, Value::Array(list)) = (matches!(field, "podIPs" | "hostIPs"), &mut after) {
            let gone: Vec<Value> = before
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter(|entry| !list.contains(entry))
                .map(|entry| json!({"$patch": "delete", "ip": entry["ip"]}))
                .collect();
            list.extend(gone);
        }
        status.insert(field.to_owned(), after);
    }
    let none = Vec::new();
    let before = old.get("conditions").and_then(Value::as_array).unwrap_or(&none);
    let changed: Vec<Value> = new
        .get("conditions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|condition| !before.contains(condition))
        .cloned()
        .map(|mut condition| {
            // What the old one has and the new one has not must go.
            let old = before.iter().find(|b| b["type"] == condition["type"]).and_then(Value::as_object);
            for field in old.into_iter().flat_map(|old| old.keys()).filter(|field| *field != "lastProbeTime") {
                if condition.get(field).is_none() {
                    condition[field.as_str()] = Value::Null;
                }
            }
            condition
        })
        .collect();
    if !changed.is_empty() {
        status.insert("conditions".to_owned(), Value::Array(changed));
    }
    (!status.is_empty()).then(|| json!({"metadata": {"uid": names::uid(pod)}, "status": status}))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::HashMap;

    use pharos_runtime::types::{ContainerMetadata, PodSandboxConfig, PodSandboxMetadata, PodSandboxState, PodSandboxStatus};

    use super::*;

    /// A container of sandbox `s`, made `age` seconds into the epoch.
    pub(crate) fn container(name: &str, state: ContainerState, exit_code: i32, age: i64) -> ContainerStatus {
        let at = Timestamp::from_second(age).unwrap();
        ContainerStatus {
            id: format!("{name}-{age}"),
            pod_sandbox_id: "s".into(),
            metadata: ContainerMetadata { name: name.into(), attempt: 0 },
            state,
            created_at: at,
            started_at: Some(at),
            finished_at: (state == ContainerState::Exited).then_some(at),
            exit_code,
            signal: 0,
            image: "image".into(),
            image_ref: "image@sha256:1".into(),
            image_id: "sha256:2".into(),
            reason: String::new(),
            message: String::new(),
            pid: 0,
            labels: Default::default(),
            annotations: Default::default(),
            mounts: Vec::new(),
            log_path: Default::default(),
            resources: Default::default(),
            user: Default::default(),
            stdin: false,
            tty: false,
        }
    }

    fn sandbox() -> PodSandboxStatus {
        PodSandboxStatus {
            id: "s".into(),
            metadata: PodSandboxMetadata::default(),
            state: PodSandboxState::Ready,
            created_at: Timestamp::UNIX_EPOCH,
            netns: None,
            pid: 1,
            labels: Default::default(),
            annotations: Default::default(),
            config: PodSandboxConfig::default(),
        }
    }

    struct Case {
        spec: Value,
        old: Value,
        containers: Vec<ContainerStatus>,
        waiting: Vec<(&'static str, &'static str)>,
        health: HashMap<String, Health>,
        failure: Option<Failure>,
        terminal: bool,
    }

    fn status(case: Case) -> PodStatus {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "generation": 3}, "spec": case.spec, "status": case.old}))
                .unwrap();
        let view = PodView::new(vec![sandbox()], case.containers);
        let waiting = case
            .waiting
            .into_iter()
            .map(|(name, reason)| (name.to_owned(), Waiting { reason: reason.into(), message: String::new() }))
            .collect();
        compute(&Inputs {
            pod: &pod,
            view: &view,
            waiting: &waiting,
            messages: &BTreeMap::new(),
            health: &|id| case.health.get(id).copied().unwrap_or(Health::GOOD),
            pod_ips: &[[10, 42, 0, 2].into()],
            host_ips: &[[10, 0, 0, 1].into()],
            failure: case.failure.as_ref(),
            terminal: case.terminal,
            terminating: case.terminal,
            resizing: &BTreeSet::new(),
            runtime: "pharos",
            now: Timestamp::from_second(100).unwrap(),
        })
    }

    /// `phase; Type=Status/Reason …; name=state/ready …`
    fn line(status: &PodStatus) -> String {
        let conditions: Vec<String> = status
            .conditions
            .iter()
            .flatten()
            .filter(|c| c.type_ != "PodReadyToStartContainers")
            .map(|c| format!("{}={}{}", c.type_, c.status, c.reason.as_ref().map(|r| format!("/{r}")).unwrap_or_default()))
            .collect();
        let containers: Vec<String> = status
            .init_container_statuses
            .iter()
            .chain(&status.container_statuses)
            .flatten()
            .map(|c| {
                let state = c.state.as_ref().unwrap();
                let word = match (&state.running, &state.terminated, &state.waiting) {
                    (Some(_), ..) => "running".to_owned(),
                    (_, Some(t), _) => format!("{}({})", t.reason.as_deref().unwrap_or_default(), t.exit_code),
                    (.., Some(w)) => w.reason.clone().unwrap_or_default(),
                    _ => "none".to_owned(),
                };
                format!("{}={word}/{}", c.name, if c.ready { "ready" } else { "-" })
            })
            .collect();
        format!("{}; {}; {}", status.phase.as_deref().unwrap_or_default(), conditions.join(" "), containers.join(" "))
    }

    fn case(policy: &str, containers: Vec<ContainerStatus>) -> Case {
        Case {
            spec: json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "image"}]}),
            old: json!({}),
            containers,
            waiting: Vec::new(),
            health: HashMap::new(),
            failure: None,
            terminal: false,
        }
    }

    #[test]
    fn phases_and_conditions() {
        use ContainerState::{Exited, Running};
        let unready = "Initialized=True Ready=False/ContainersNotReady ContainersReady=False/ContainersNotReady";
        let ready = "Initialized=True Ready=True ContainersReady=True";
        for (case_, expect) in [
            (case("Always", vec![]), format!("Pending; {unready}; a=ContainerCreating/-")),
            (case("Always", vec![container("a", Running, 0, 1)]), format!("Running; {ready}; a=running/ready")),
            (
                Case { health: [("a-1".to_owned(), Health { ready: false, ..Health::GOOD })].into(), ..case("Always", vec![container("a", Running, 0, 1)]) },
                format!("Running; {unready}; a=running/-"),
            ),
            (
                Case { waiting: vec![("a", "CrashLoopBackOff")], ..case("Always", vec![container("a", Exited, 1, 1)]) },
                format!("Running; {unready}; a=CrashLoopBackOff/-"),
            ),
            (
                Case { waiting: vec![("a", "ErrImagePull")], ..case("Always", vec![]) },
                format!("Pending; {unready}; a=ErrImagePull/-"),
            ),
            (
                case("Never", vec![container("a", Exited, 0, 1)]),
                "Succeeded; Initialized=True/PodCompleted Ready=False/PodCompleted ContainersReady=False/PodCompleted; a=Completed(0)/-".to_owned(),
            ),
            (
                case("Never", vec![container("a", Exited, 2, 1)]),
                "Failed; Initialized=True Ready=False/PodFailed ContainersReady=False/PodFailed; a=Error(2)/-".to_owned(),
            ),
            (case("OnFailure", vec![container("a", Exited, 2, 1)]), format!("Running; {unready}; a=Error(2)/-")),
            (
                Case { terminal: true, ..case("Always", vec![container("a", Exited, 143, 1)]) },
                "Failed; Initialized=True Ready=False/PodFailed ContainersReady=False/PodFailed; a=Error(143)/-".to_owned(),
            ),
        ] {
            assert_eq!(line(&status(case_)), expect);
        }
    }

    #[test]
    fn init_containers_hold_the_pod_pending() {
        use ContainerState::{Exited, Running};
        let spec = |policy: &str| json!({"restartPolicy": policy, "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "a"}]});
        let with = |policy: &str, containers| Case { spec: spec(policy), ..case(policy, containers) };
        for (case_, expect) in [
            (with("Always", vec![container("i", Running, 0, 1)]), "Pending; Initialized=False/ContainersNotInitialized"),
            (with("Never", vec![container("i", Exited, 1, 1)]), "Failed; Initialized=False/ContainersNotInitialized"),
            (with("Always", vec![container("i", Exited, 0, 1), container("s", Running, 0, 2)]), "Pending; Initialized=True"),
            (
                with("Always", vec![container("i", Exited, 0, 1), container("s", Running, 0, 2), container("a", Running, 0, 3)]),
                "Running; Initialized=True Ready=True",
            ),
        ] {
            let line = line(&status(case_));
            assert!(line.starts_with(expect), "{line} should start with {expect}");
        }
    }

    #[test]
    fn last_state_and_restart_count() {
        let mut second = container("a", ContainerState::Running, 0, 2);
        second.metadata.attempt = 1;
        let status = status(case("Always", vec![container("a", ContainerState::Exited, 3, 1), second]));
        let found = &status.container_statuses.unwrap()[0];
        assert_eq!(found.restart_count, 1);
        assert_eq!(found.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 3);
        assert_eq!(found.container_id.as_deref(), Some("pharos://a-2"));
        assert_eq!(status.observed_generation, Some(3));
    }

    #[test]
    fn a_signal_is_told_as_an_exit_code_only() {
        let mut killed = container("a", ContainerState::Exited, 137, 1);
        killed.signal = 9;
        let status = status(case("Never", vec![killed]));
        let state = status.container_statuses.unwrap()[0].state.clone().unwrap().terminated.unwrap();
        assert_eq!((state.exit_code, state.signal), (137, None));
    }

    #[test]
    fn an_eviction_for_the_nodes_sake_is_a_disruption() {
        for disrupted in [false, true] {
            let failure = Failure { reason: "Evicted".into(), message: "full. ".into(), disrupted };
            let containers = vec![container("a", ContainerState::Exited, 137, 1)];
            let status = status(Case { failure: Some(failure), terminal: true, ..case("Always", containers) });
            assert_eq!(
                (status.phase.as_deref(), status.reason.as_deref(), status.message.as_deref()),
                (Some("Failed"), Some("Evicted"), Some("full. "))
            );
            assert_eq!(status.conditions.iter().flatten().any(|c| c.type_ == "DisruptionTarget"), disrupted);
        }
    }

    #[test]
    fn gates_hold_readiness() {
        let gated = |status_: &str| Case {
            spec: json!({"readinessGates": [{"conditionType": "g"}], "containers": [{"name": "a"}]}),
            old: json!({"conditions": [{"type": "g", "status": status_}]}),
            ..case("Always", vec![container("a", ContainerState::Running, 0, 1)])
        };
        assert!(line(&status(gated("False"))).contains("Ready=False/ReadinessGatesNotReady ContainersReady=True"));
        assert!(line(&status(gated("True"))).contains("Ready=True ContainersReady=True"));
    }

    #[test]
    fn patches_only_what_changed() {
        let wanted = status(case("Always", vec![container("a", ContainerState::Running, 0, 1)]));
        let mut pod = Pod { status: Some(wanted.clone()), ..Pod::default() };
        assert_eq!(patch(&pod, &wanted), None);
        // Somebody else's condition and address stay out of it.
        let old = pod.status.as_mut().unwrap();
        old.conditions.as_mut().unwrap().push(PodCondition { type_: "other".into(), ..PodCondition::default() });
        old.reason = Some("Old".into());
        old.pod_ips = Some(vec![PodIP { ip: "10.42.0.9".into() }]);
        let patch = patch(&pod, &wanted).unwrap();
        assert_eq!(
            patch["status"],
            json!({"reason": null, "podIPs": [{"ip": "10.42.0.2"}, {"$patch": "delete", "ip": "10.42.0.9"}]})
        );
    }
}
