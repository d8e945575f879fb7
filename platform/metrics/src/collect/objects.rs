//! The state of objects: a part of kube-state-metrics' metrics, from informers' caches.

use std::sync::Arc;

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
        core::v1::{Namespace, Node, Pod, Service},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, runtime::watcher};
use pharos_api::quantity::Quantity;
use pharos_client::Informer;
use pharos_telemetry::Ctx;

use crate::exposition::Page;

/// Caches of the kinds that metrics are made of.
pub(crate) struct Objects {
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    services: Informer<Service>,
    namespaces: Informer<Namespace>,
    deployments: Informer<Deployment>,
    replica_sets: Informer<ReplicaSet>,
    daemon_sets: Informer<DaemonSet>,
    stateful_sets: Informer<StatefulSet>,
}

type Pairs<'a> = Vec<(&'a str, &'a str)>;

impl Objects {
    /// Starts the informers that are not there yet.
    pub(crate) fn start(
        ctx: &Ctx,
        client: &Client,
        nodes: Informer<Node>,
        pods: Informer<Pod>,
        services: Informer<Service>,
    ) -> Self {
        let config = watcher::Config::default();
        Self {
            nodes,
            pods,
            services,
            namespaces: Informer::start(ctx, Api::all(client.clone()), config.clone()),
            deployments: Informer::start(ctx, Api::all(client.clone()), config.clone()),
            replica_sets: Informer::start(ctx, Api::all(client.clone()), config.clone()),
            daemon_sets: Informer::start(ctx, Api::all(client.clone()), config.clone()),
            stateful_sets: Informer::start(ctx, Api::all(client.clone()), config),
        }
    }

    /// Whether every cache holds what there is: half a picture would look like objects that are gone.
    pub(crate) fn is_synced(&self) -> bool {
        self.nodes.is_synced()
            && self.pods.is_synced()
            && self.services.is_synced()
            && self.namespaces.is_synced()
            && self.deployments.is_synced()
            && self.replica_sets.is_synced()
            && self.daemon_sets.is_synced()
            && self.stateful_sets.is_synced()
    }

    /// The page.
    pub(crate) fn page(&self) -> String {
        let mut page = Page::default();
        nodes(&mut page, &self.nodes.list());
        pods(&mut page, &self.pods.list());
        self.workloads(&mut page);
        page.finish()
    }

    fn workloads(&self, page: &mut Page) {
        let namespaces = self.namespaces.list();
        family(page, "kube_namespace_status_phase", "kubernetes namespace status phase.", |add| {
            for object in &namespaces {
                let phase = object.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Active");
                for one in ["Active", "Terminating"] {
                    add(vec![("namespace", name(&object.metadata)), ("phase", one)], flag(phase == one));
                }
            }
        });
        family(page, "kube_service_info", "Information about service.", |add| {
            for object in self.services.list() {
                let ip = object.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()).unwrap_or_default();
                let mut labels = place(&object.metadata, "service");
                labels.push(("cluster_ip", ip));
                add(labels, 1.0);
            }
        });
        let list = self.deployments.list();
        counts(
            page,
            "kube_deployment",
            "deployment",
            &list,
            |o| &o.metadata,
            &[
                ("spec_replicas", "Number of desired pods for a deployment.", |o| o.spec.replicas),
                ("status_replicas", "The number of replicas per deployment.", |o| o.status.as_ref()?.replicas.or(Some(0))),
                ("status_replicas_ready", "The number of ready replicas per deployment.", |o| {
                    o.status.as_ref()?.ready_replicas.or(Some(0))
                }),
                ("status_replicas_available", "The number of available replicas per deployment.", |o| {
                    o.status.as_ref()?.available_replicas.or(Some(0))
                }),
                ("status_replicas_unavailable", "The number of unavailable replicas per deployment.", |o| {
                    o.status.as_ref()?.unavailable_replicas.or(Some(0))
                }),
                ("status_replicas_updated", "The number of updated replicas per deployment.", |o| {
                    o.status.as_ref()?.updated_replicas.or(Some(0))
                }),
            ],
        );
        let list = self.replica_sets.list();
        counts(
            page,
            "kube_replicaset",
            "replicaset",
            &list,
            |o| &o.metadata,
            &[
                ("spec_replicas", "Number of desired pods for a ReplicaSet.", |o| o.spec.replicas),
                ("status_replicas", "The number of replicas per ReplicaSet.", |o| Some(o.status.as_ref()?.replicas)),
                ("status_ready_replicas", "The number of ready replicas per ReplicaSet.", |o| {
                    o.status.as_ref()?.ready_replicas.or(Some(0))
                }),
            ],
        );
        owners(page, "kube_replicaset_owner", "replicaset", list.iter().map(|o| &o.metadata));
        let list = self.daemon_sets.list();
        counts(
            page,
            "kube_daemonset",
            "daemonset",
            &list,
            |o| &o.metadata,
            &[
                ("status_desired_number_scheduled", "The number of nodes that should be running the daemon pod.", |o| {
                    Some(o.status.as_ref()?.desired_number_scheduled)
                }),
                (
                    "status_current_number_scheduled",
                    "The number of nodes running at least one daemon pod and are supposed to.",
                    |o| Some(o.status.as_ref()?.current_number_scheduled),
                ),
                (
                    "status_number_ready",
                    "The number of nodes that should be running the daemon pod and have one or more of the daemon pod running and ready.",
                    |o| Some(o.status.as_ref()?.number_ready),
                ),
                (
                    "status_number_available",
                    "The number of nodes that should be running the daemon pod and have one or more of the daemon pod running and available",
                    |o| o.status.as_ref()?.number_available.or(Some(0)),
                ),
                ("status_number_misscheduled", "The number of nodes running a daemon pod but are not supposed to.", |o| {
                    Some(o.status.as_ref()?.number_misscheduled)
                }),
            ],
        );
        let list = self.stateful_sets.list();
        counts(
            page,
            "kube_statefulset",
            "statefulset",
            &list,
            |o| &o.metadata,
            &[
                ("replicas", "Number of desired pods for a StatefulSet.", |o| o.spec.replicas),
                ("status_replicas", "The number of replicas per StatefulSet.", |o| Some(o.status.as_ref()?.replicas)),
                ("status_replicas_ready", "The number of ready replicas per StatefulSet.", |o| {
                    o.status.as_ref()?.ready_replicas.or(Some(0))
                }),
                ("status_replicas_updated", "The number of updated replicas per StatefulSet.", |o| {
                    o.status.as_ref()?.updated_replicas.or(Some(0))
                }),
            ],
        );
    }
}

fn nodes(page: &mut Page, nodes: &[Arc<Node>]) {
    family(page, "kube_node_info", "Information about a cluster node.", |add| {
        for node in nodes {
            let Some(info) = node.status.as_ref().and_then(|s| s.node_info.as_ref()) else { continue };
            let addresses = node.status.iter().flat_map(|s| s.addresses.iter().flatten());
            let ip = addresses.filter(|a| a.type_ == "InternalIP").map(|a| a.address.as_str()).next().unwrap_or_default();
            add(
                vec![
                    ("node", name(&node.metadata)),
                    ("kernel_version", &info.kernel_version),
                    ("os_image", &info.os_image),
                    ("container_runtime_version", &info.container_runtime_version),
                    ("kubelet_version", &info.kubelet_version),
                    ("internal_ip", ip),
                    ("system_uuid", &info.system_uuid),
                ],
                1.0,
            );
        }
    });
    family(page, "kube_node_status_condition", "The condition of a cluster node.", |add| {
        for node in nodes {
            for condition in node.status.iter().flat_map(|s| s.conditions.iter().flatten()) {
                for status in ["true", "false", "unknown"] {
                    let labels =
                        vec![("node", name(&node.metadata)), ("condition", condition.type_.as_str()), ("status", status)];
                    add(labels, flag(condition.status.eq_ignore_ascii_case(status)));
                }
            }
        }
    });
    family(page, "kube_node_spec_unschedulable", "Whether a node can schedule new pods.", |add| {
        for node in nodes {
            let unschedulable = node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true);
            add(vec![("node", name(&node.metadata))], flag(unschedulable));
        }
    });
    for (metric, help) in [
        ("kube_node_status_capacity", "The total amount of resources available for a node."),
        (
            "kube_node_status_allocatable",
            "The amount of resources allocatable for pods (after reserving some for system daemons).",
        ),
    ] {
        family(page, metric, help, |add| {
            for node in nodes {
                let Some(status) = &node.status else { continue };
                let all = if metric.ends_with("capacity") { &status.capacity } else { &status.allocatable };
                for (resource, quantity) in all.iter().flatten() {
                    let resource_ = underscored(resource);
                    if let Some(value) = number(&quantity.0) {
                        add(vec![("node", name(&node.metadata)), ("resource", &resource_), ("unit", unit(resource))], value);
                    }
                }
            }
        });
    }
}

fn pods(page: &mut Page, pods: &[Arc<Pod>]) {
    family(page, "kube_pod_info", "Information about pod.", |add| {
        for pod in pods {
            let (spec, status) = (pod.spec.as_ref(), pod.status.as_ref());
            let owner = pod.metadata.owner_references.iter().flatten().find(|o| o.controller == Some(true));
            let mut labels = place(&pod.metadata, "pod");
            labels.extend([
                ("uid", pod.metadata.uid.as_deref().unwrap_or_default()),
                ("host_ip", status.and_then(|s| s.host_ip.as_deref()).unwrap_or_default()),
                ("pod_ip", status.and_then(|s| s.pod_ip.as_deref()).unwrap_or_default()),
                ("node", spec.and_then(|s| s.node_name.as_deref()).unwrap_or_default()),
                ("created_by_kind", owner.map_or("", |o| o.kind.as_str())),
                ("created_by_name", owner.map_or("", |o| o.name.as_str())),
                ("priority_class", spec.and_then(|s| s.priority_class_name.as_deref()).unwrap_or_default()),
                ("host_network", if spec.and_then(|s| s.host_network) == Some(true) { "true" } else { "false" }),
            ]);
            add(labels, 1.0);
        }
    });
    owners(page, "kube_pod_owner", "pod", pods.iter().map(|o| &o.metadata));
    family(page, "kube_pod_status_phase", "The pods current phase.", |add| {
        for pod in pods {
            let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Unknown");
            for one in ["Pending", "Succeeded", "Failed", "Unknown", "Running"] {
                let mut labels = place(&pod.metadata, "pod");
                labels.push(("phase", one));
                add(labels, flag(phase == one));
            }
        }
    });
    family(page, "kube_pod_status_ready", "Describes whether the pod is ready to serve requests.", |add| {
        for pod in pods {
            let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
            let Some(ready) = conditions.filter(|c| c.type_ == "Ready").map(|c| c.status.to_ascii_lowercase()).next() else {
                continue;
            };
            for one in ["true", "false", "unknown"] {
                let mut labels = place(&pod.metadata, "pod");
                labels.push(("condition", one));
                add(labels, flag(ready == one));
            }
        }
    });
    family_of(
        page,
        "kube_pod_container_status_restarts_total",
        "counter",
        "The number of container restarts per container.",
        |add| {
            for pod in pods {
                for status in pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten()) {
                    let mut labels = place(&pod.metadata, "pod");
                    labels.push(("container", &status.name));
                    add(labels, f64::from(status.restart_count));
                }
            }
        },
    );
    family(
        page,
        "kube_pod_container_status_waiting_reason",
        "Describes the reason the container is currently in waiting state.",
        |add| {
            for pod in pods {
                for status in pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten()) {
                    let waiting = status.state.as_ref().and_then(|s| s.waiting.as_ref());
                    let Some(reason) = waiting.and_then(|w| w.reason.as_deref()) else { continue };
                    let mut labels = place(&pod.metadata, "pod");
                    labels.extend([("container", status.name.as_str()), ("reason", reason)]);
                    add(labels, 1.0);
                }
            }
        },
    );
    for (metric, help) in [
        ("kube_pod_container_resource_requests", "The number of requested request resource by a container."),
        ("kube_pod_container_resource_limits", "The number of requested limit resource by a container."),
    ] {
        family(page, metric, help, |add| {
            for pod in pods {
                let Some(spec) = &pod.spec else { continue };
                let node = spec.node_name.as_deref().unwrap_or_default();
                for container in &spec.containers {
                    let Some(resources) = &container.resources else { continue };
                    let all = if metric.ends_with("requests") { &resources.requests } else { &resources.limits };
                    for (resource, quantity) in all.iter().flatten() {
                        let Some(value) = number(&quantity.0) else { continue };
                        let resource_ = underscored(resource);
                        let mut labels = place(&pod.metadata, "pod");
                        labels.extend([
                            ("container", container.name.as_str()),
                            ("node", node),
                            ("resource", &resource_),
                            ("unit", unit(resource)),
                        ]);
                        add(labels, value);
                    }
                }
            }
        });
    }
}

fn family(page: &mut Page, metric: &str, help: &str, fill: impl FnOnce(&mut dyn FnMut(Pairs<'_>, f64))) {
    family_of(page, metric, "gauge", help, fill);
}

fn family_of(page: &mut Page, metric: &str, kind: &str, help: &str, fill: impl FnOnce(&mut dyn FnMut(Pairs<'_>, f64))) {
    page.family(metric, kind, help);
    fill(&mut |labels, value| page.sample(metric, &labels, value));
}

/// A number of a kind's objects: the metric's suffix, its help, and where it is found.
type Count<K> = (&'static str, &'static str, fn(&K) -> Option<i32>);

fn counts<K>(page: &mut Page, prefix: &str, label: &str, objects: &[Arc<K>], meta: fn(&K) -> &ObjectMeta, counts: &[Count<K>]) {
    for (suffix, help, count) in counts {
        let metric = format!("{prefix}_{suffix}");
        family(page, &metric, help, |add| {
            for object in objects {
                if let Some(value) = count(object) {
                    add(place(meta(object), label), f64::from(value));
                }
            }
        });
    }
}

fn owners<'a>(page: &mut Page, metric: &str, label: &str, objects: impl Iterator<Item = &'a ObjectMeta>) {
    family(page, metric, &format!("Information about the {label}'s owner."), |add| {
        for meta in objects {
            let mut any = false;
            for owner in meta.owner_references.iter().flatten() {
                let controller = if owner.controller == Some(true) { "true" } else { "false" };
                let mut labels = place(meta, label);
                labels.extend([
                    ("owner_kind", owner.kind.as_str()),
                    ("owner_name", owner.name.as_str()),
                    ("owner_is_controller", controller),
                ]);
                add(labels, 1.0);
                any = true;
            }
            if !any {
                let mut labels = place(meta, label);
                labels.extend([("owner_kind", ""), ("owner_name", ""), ("owner_is_controller", "")]);
                add(labels, 1.0);
            }
        }
    });
}

fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

fn place<'a>(meta: &'a ObjectMeta, label: &'a str) -> Pairs<'a> {
    vec![("namespace", meta.namespace.as_deref().unwrap_or_default()), (label, name(meta))]
}

fn flag(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}

fn underscored(resource: &str) -> String {
    resource.replace(['-', '.', '/'], "_")
}

fn unit(resource: &str) -> &'static str {
    match resource {
        "cpu" => "core",
        "memory" | "ephemeral-storage" | "storage" => "byte",
        other if other.starts_with("hugepages-") => "byte",
        _ => "integer",
    }
}

fn number(quantity: &str) -> Option<f64> {
    Quantity::parse(quantity).ok().map(|q| q.as_f64())
}
