//! The Node object: registration, status and Lease (`pkg/kubelet/kubelet_node_status.go`, `nodestatus/setters.go`).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{
            ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeStatus, NodeSystemInfo,
            Taint,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time},
    },
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
    runtime::watcher,
};
use pharos_client::{Informer, Key, Regarding, is_already_exists, is_not_found};
use pharos_telemetry::Backoff;
use serde_json::json;
use tokio::{sync::Notify, time::Instant};

use crate::core::Core;

/// The version this kubelet tells, which is the one its behaviour follows.
pub(crate) const VERSION: &str = "v1.37.0";
/// The most images a node tells of (`nodeStatusMaxImages`).
const MAX_IMAGES: usize = 50;

/// Where the Node's events point: upstream uses the name for the UID, and `kubectl describe node` looks for that.
pub(crate) fn regarding(core: &Core) -> Regarding {
    Regarding {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: core.config.node_name.clone(),
        uid: core.config.node_name.clone(),
        ..Regarding::default()
    }
}

fn api(core: &Core) -> Api<Node> {
    Api::all(core.client.clone())
}

/// Creates the Node, or brings the labels of the one that is there up to date. Tries until it succeeds.
pub(crate) async fn register(core: &Core) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(7));
    loop {
        match try_register(core).await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(node = core.config.node_name, error = %error, attempt = backoff.attempt(), "cannot register the node, trying again");
                tokio::select! {
                    () = core.ctx.stopped() => return,
                    () = tokio::time::sleep(backoff.next_wait()) => {}
                }
            }
        }
    }
}

async fn try_register(core: &Core) -> kube::Result<()> {
    let mut node = wanted(core);
    node.status = Some(status(core, None, BTreeMap::new()).await);
    match api(core).create(&PostParams::default(), &node).await {
        Ok(_) => {
            tracing::info!(node = core.config.node_name, "registered the node");
            Ok(())
        }
        Err(error) if is_already_exists(&error) => {
            let patch = json!({"metadata": {"labels": node.metadata.labels}});
            api(core).patch(&core.config.node_name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
        }
        Err(error) => Err(error),
    }
}

fn wanted(core: &Core) -> Node {
    let (name, arch) = (&core.config.node_name, &core.machine.architecture);
    let mut labels: BTreeMap<String, String> = [
        ("kubernetes.io/hostname", name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", arch),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    labels.extend(core.config.node_labels.clone());
    let taints: Vec<Taint> = core.config.register_with_taints.iter().filter_map(|text| taint(text)).collect();
    Node {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            labels: Some(labels),
            annotations: Some([("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), "true".to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(k8s_openapi::api::core::v1::NodeSpec {
            taints: Some(taints).filter(|taints| !taints.is_empty()),
            ..Default::default()
        }),
        status: None,
    }
}

/// `key=value:Effect` or `key:Effect`.
fn taint(text: &str) -> Option<Taint> {
    let (key, effect) = text.rsplit_once(':')?;
    let (key, value) = key.split_once('=').map_or((key, None), |(key, value)| (key, Some(value.to_owned())));
    Some(Taint { key: key.to_owned(), value, effect: effect.to_owned(), time_added: None })
}

type Amounts = BTreeMap<String, Quantity>;

/// The Node as the API server has it, from now on.
pub(crate) fn follow(core: &Core) -> Informer<Node> {
    let config = watcher::Config::default().fields(&format!("metadata.name={}", core.config.node_name));
    Informer::start(&core.ctx, api(core), config)
}

/// What others have said that the node has (extended resources), which pods may use in full.
fn extended(node: Option<&Node>, own: &Amounts) -> Amounts {
    let capacity = node.and_then(|node| node.status.as_ref()?.capacity.clone()).unwrap_or_default();
    capacity.into_iter().filter(|(name, _)| !own.contains_key(name)).collect()
}

/// What the node was said to have for pods, and has no more.
fn withdrawn(node: Option<&Node>, allocatable: Option<&Amounts>) -> Vec<String> {
    let told = node.and_then(|node| node.status.as_ref()?.allocatable.as_ref());
    let is_left = |name: &String| allocatable.is_some_and(|amounts| amounts.contains_key(name));
    told.into_iter().flat_map(BTreeMap::keys).filter(|name| !is_left(name)).cloned().collect()
}

/// The whole status; times of conditions that have not changed are taken from `old`.
async fn status(core: &Core, old: Option<&NodeStatus>, extended: Amounts) -> NodeStatus {
    let machine = &core.machine;
    let mut addresses: Vec<NodeAddress> =
        core.node_ips.iter().map(|ip| NodeAddress { type_: "InternalIP".to_owned(), address: ip.to_string() }).collect();
    addresses.push(NodeAddress { type_: "Hostname".to_owned(), address: core.config.node_name.clone() });
    NodeStatus {
        addresses: Some(addresses),
        capacity: Some(machine.capacity(&core.config)),
        allocatable: Some(core.allocatable.clone().into_iter().chain(extended).collect()),
        conditions: Some(conditions(core, old.and_then(|old| old.conditions.as_deref()).unwrap_or_default()).await),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(core.config.port) }),
        }),
        images: Some(images(core).await),
        node_info: Some(NodeSystemInfo {
            architecture: machine.architecture.clone(),
            boot_id: machine.boot_id.clone(),
            container_runtime_version: format!("{}://{}", core.runtime_name, core.runtime_version),
            kernel_version: machine.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: VERSION.to_owned(),
            machine_id: machine.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: machine.os_image.clone(),
            system_uuid: machine.system_uuid.clone(),
            ..NodeSystemInfo::default()
        }),
        ..NodeStatus::default()
    }
}

async fn images(core: &Core) -> Vec<ContainerImage> {
    let mut images = core.runtime.list_images(None).await.unwrap_or_default();
    images.sort_by_key(|image| std::cmp::Reverse(image.size_bytes));
    images
        .into_iter()
        .take(MAX_IMAGES)
        .map(|image| {
            // At most five names each, digests first, as upstream.
            let names: Vec<String> = image.repo_digests.into_iter().chain(image.repo_tags).take(5).collect();
            ContainerImage { names: Some(names), size_bytes: i64::try_from(image.size_bytes).ok() }
        })
        .collect()
}

async fn conditions(core: &Core, old: &[NodeCondition]) -> Vec<NodeCondition> {
    let now = core.clock.now();
    let pressure = core.pressure.read().clone();
    let make = |kind: &str, holds: bool, reason: &str, message: String| {
        let status = if holds { "True" } else { "False" };
        let before = old.iter().find(|condition| condition.type_ == kind);
        let since = before.filter(|before| before.status == status).and_then(|before| before.last_transition_time.clone());
        NodeCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: since.or(Some(Time(now))),
        }
    };
    let state = |kind: &'static str, bad: (&str, &str), good: (&str, &str)| {
        let holds = pressure.contains(kind);
        let (reason, message) = if holds { bad } else { good };
        make(kind, holds, reason, message.to_owned())
    };
    let troubles = troubles(core).await;
    vec![
        state(
            "MemoryPressure",
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        state(
            "DiskPressure",
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        state(
            "PIDPressure",
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
        match troubles.is_empty() {
            true => make("Ready", true, "KubeletReady", "kubelet is posting ready status".to_owned()),
            false => make("Ready", false, "KubeletNotReady", troubles.join(", ")),
        },
    ]
}

/// Why the node is not ready.
async fn troubles(core: &Core) -> Vec<String> {
    let mut troubles = Vec::new();
    match core.runtime.status().await {
        Ok(conditions) => {
            for condition in conditions.into_iter().filter(|condition| !condition.status) {
                troubles.push(format!(
                    "container runtime not ready: {}=false reason:{} message:{}",
                    condition.kind, condition.reason, condition.message
                ));
            }
        }
        Err(error) => troubles.push(format!("container runtime status check may not have completed yet: {}", error.chain())),
    }
    if let Some(message) = core.network.not_ready().await {
        troubles.push(format!(
            "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:{message}"
        ));
    }
    troubles
}

/// Without the times, which change with every look.
fn essence(status: &NodeStatus) -> serde_json::Value {
    let mut value = serde_json::to_value(status).unwrap_or_default();
    for condition in value["conditions"].as_array_mut().into_iter().flatten() {
        if let Some(fields) = condition.as_object_mut() {
            fields.remove("lastHeartbeatTime");
            fields.remove("lastTransitionTime");
        }
    }
    value
}

/// Keeps the Node's status true: writes it when it has changed, and at least every five minutes.
pub(crate) async fn keep_status(core: Arc<Core>, own: Informer<Node>) {
    let key = Key::cluster(core.config.node_name.as_str());
    let capacity = core.machine.capacity(&core.config);
    let (wake, given) = (core.status_wake.clone(), capacity.clone());
    own.on_event(move |event| {
        let node = event.object();
        let extended = extended(Some(node), &given);
        let told = node.status.as_ref().and_then(|status| status.allocatable.clone()).unwrap_or_default();
        if extended != told.into_iter().filter(|(name, _)| !given.contains_key(name)).collect::<Amounts>() {
            wake.notify_one();
        }
    });
    let mut written: Option<NodeStatus> = None;
    // Since when conditions hold is not forgotten with a restart.
    let before = api(&core).get_opt(&core.config.node_name).await.ok().flatten().and_then(|node| node.status);
    let report = Duration::from_secs(core.config.node_status_report_seconds.max(1));
    let mut due = Instant::now();
    let mut was_ready = false;
    loop {
        let node = own.get(&key);
        let status = status(&core, written.as_ref().or(before.as_ref()), extended(node.as_deref(), &capacity)).await;
        let withdrawn = withdrawn(node.as_deref(), status.allocatable.as_ref());
        let changed = !withdrawn.is_empty() || written.as_ref().is_none_or(|written| essence(written) != essence(&status));
        let mut next = due;
        if changed || Instant::now() >= due {
            let mut patch = json!({"status": status});
            for name in &withdrawn {
                patch["status"]["allocatable"][name.as_str()] = json!(null);
            }
            let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
            match api(&core).patch_status(&core.config.node_name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                Ok(_) => {
                    due = Instant::now() + report;
                    next = due;
                    tell_changes(&core, written.as_ref(), &status);
                    written = Some(status);
                    if ready && !was_ready {
                        core.metrics.node_startup.set(core.clock.now().duration_since(core.began_at).as_secs_f64());
                    }
                    was_ready = ready;
                }
                Err(error) if is_not_found(&error) => {
                    register(&core).await;
                    written = None;
                    next = Instant::now() + Duration::from_secs(1);
                }
                Err(error) => {
                    tracing::warn!(node = core.config.node_name, error = %error, "cannot write the node's status, trying again");
                    next = Instant::now() + Duration::from_secs(5);
                }
            }
        }
        tokio::select! {
            () = core.ctx.stopped() => return,
            () = core.status_wake.notified() => {}
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

fn tell_changes(core: &Core, old: Option<&NodeStatus>, new: &NodeStatus) {
    for condition in new.conditions.iter().flatten() {
        let before = old
            .and_then(|old| old.conditions.iter().flatten().find(|before| before.type_ == condition.type_))
            .map(|before| before.status.as_str());
        if before == Some(condition.status.as_str()) {
            continue;
        }
        let reason = match (condition.type_.as_str(), condition.status.as_str()) {
            ("Ready", "True") => "NodeReady",
            ("Ready", _) if before.is_some() => "NodeNotReady",
            ("MemoryPressure", "True") => "NodeHasInsufficientMemory",
            ("MemoryPressure", _) => "NodeHasSufficientMemory",
            ("DiskPressure", "True") => "NodeHasDiskPressure",
            ("DiskPressure", _) => "NodeHasNoDiskPressure",
            ("PIDPressure", "True") => "NodeHasInsufficientPID",
            ("PIDPressure", _) => "NodeHasSufficientPID",
            _ => continue,
        };
        core.recorder.normal(&regarding(core), reason, format!("Node {} status is now: {reason}", core.config.node_name));
    }
}

/// Renews the node's Lease, which tells the control plane that it lives.
pub(crate) async fn keep_lease(core: Arc<Core>) {
    let leases: Api<Lease> = Api::namespaced(core.client.clone(), "kube-node-lease");
    let name = core.config.node_name.clone();
    let mut exists = false;
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(7));
    loop {
        let now = MicroTime(core.clock.now());
        let result = if exists {
            let patch = json!({"spec": {"renewTime": now, "holderIdentity": name, "leaseDurationSeconds": core.config.node_lease_duration_seconds}});
            leases.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await
        } else {
            create_lease(&core, &leases, now).await
        };
        let wait = match result {
            Ok(_) => {
                exists = true;
                backoff.reset();
                core.config.renew()
            }
            Err(error) if is_already_exists(&error) => {
                exists = true;
                Duration::ZERO
            }
            Err(error) => {
                exists = exists && !is_not_found(&error);
                let wait = backoff.next_wait();
                if backoff.attempt() > 3 {
                    tracing::warn!(node = name, error = %error, attempt = backoff.attempt(), "cannot renew the node's lease, trying again");
                }
                wait
            }
        };
        tokio::select! {
            () = core.ctx.stopped() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn create_lease(core: &Core, leases: &Api<Lease>, now: MicroTime) -> kube::Result<Lease> {
    let name = &core.config.node_name;
    let node = api(core).get_opt(name).await?;
    let owner = node.map(|node| OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.clone(),
        uid: node.metadata.uid.unwrap_or_default(),
        ..OwnerReference::default()
    });
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some("kube-node-lease".to_owned()),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.clone()),
            lease_duration_seconds: i32::try_from(core.config.node_lease_duration_seconds).ok(),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    };
    leases.create(&PostParams::default(), &lease).await
}

/// Follows the Node: gives the pod network the node's pod ranges as soon as a controller has allocated them.
pub(crate) async fn follow_pod_cidrs(core: Arc<Core>, own: Informer<Node>) {
    let name = core.config.node_name.clone();
    let wake = Arc::new(Notify::new());
    let (waker, core_) = (wake.clone(), core.clone());
    own.on_event(move |event| {
        *core_.node.write() = Some(event.object().clone());
        waker.notify_one();
    });
    let mut given: Vec<String> = Vec::new();
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
    loop {
        let node = own.get(&Key::cluster(name.as_str()));
        let spec = node.as_ref().and_then(|node| node.spec.as_ref());
        let mut cidrs = spec.and_then(|spec| spec.pod_cidrs.clone()).unwrap_or_default();
        if cidrs.is_empty() {
            cidrs.extend(spec.and_then(|spec| spec.pod_cidr.clone()));
        }
        let mut again = None;
        if !cidrs.is_empty() && cidrs != given {
            match tokio::time::timeout(crate::core::NETWORK_DEADLINE, core.network.configure(&cidrs)).await {
                Ok(Ok(())) => {
                    tracing::info!(node = name, cidrs = cidrs.join(","), "the pod network has its ranges");
                    given = cidrs;
                    backoff.reset();
                    core.status_wake.notify_one();
                }
                failed => {
                    let error = match failed {
                        Ok(Err(error)) => crate::error::chain(&error),
                        _ => "no answer in time".to_owned(),
                    };
                    tracing::warn!(node = name, error, "cannot configure the pod network, trying again");
                    again = Some(backoff.next_wait());
                }
            }
        }
        tokio::select! {
            () = core.ctx.stopped() => return,
            () = wake.notified() => {}
            () = tokio::time::sleep(again.unwrap_or(Duration::MAX)), if again.is_some() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints() {
        let found = taint("node-role.kubernetes.io/control-plane:NoSchedule").unwrap();
        assert_eq!(
            (found.key.as_str(), found.value, found.effect.as_str()),
            ("node-role.kubernetes.io/control-plane", None, "NoSchedule")
        );
        let found = taint("a=b:NoExecute").unwrap();
        assert_eq!((found.key.as_str(), found.value.as_deref()), ("a", Some("b")));
        assert!(taint("nothing").is_none());
    }

    #[test]
    fn extended_resources_are_for_pods() {
        let amounts = |list: &[(&str, &str)]| -> Amounts {
            list.iter().map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned()))).collect()
        };
        let own = amounts(&[("cpu", "2")]);
        for (capacity, told, expected, gone) in [
            (&[("cpu", "2")][..], &[("cpu", "2")][..], &[][..], &[][..]),
            (&[("cpu", "8"), ("example.com/a", "3")], &[("cpu", "2")], &[("example.com/a", "3")], &[]),
            (&[("cpu", "2")], &[("cpu", "2"), ("example.com/a", "3")], &[], &["example.com/a"]),
        ] {
            let (capacity, allocatable) = (Some(amounts(capacity)), Some(amounts(told)));
            let status = NodeStatus { capacity, allocatable, ..NodeStatus::default() };
            let node = Node { status: Some(status), ..Node::default() };
            let extended = extended(Some(&node), &own);
            assert_eq!(extended, amounts(expected));
            let left: Amounts = own.clone().into_iter().chain(extended).collect();
            assert_eq!(withdrawn(Some(&node), Some(&left)), gone);
        }
        assert!(extended(None, &own).is_empty() && withdrawn(None, Some(&own)).is_empty());
    }
}
