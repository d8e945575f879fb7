//! Which targets there are: this process, kubelets, and pods and services that ask for it by annotation.
//!
//! Annotations `prometheus.io/{scrape,scheme,path,port}` mean what they mean in the scrape configuration of Prometheus'
//! Helm chart, whose job names and labels are used too.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::{
        core::v1::{Node, Pod, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, runtime::watcher};
use pharos_client::{Informer, Key};
use pharos_telemetry::Ctx;
use tokio::sync::Notify;

use super::{
    http::Endpoint,
    target::{Kind, Spec},
};
use crate::{
    Shared,
    collect::{node, objects::Objects},
    labels::{Labels, is_legacy_label_name},
};

/// The informers that targets are derived from.
pub(crate) struct Discovery {
    shared: Shared,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    objects: Arc<Objects>,
    node_collector: Arc<node::Collector>,
}

type Specs = BTreeMap<String, Spec>;

impl Discovery {
    /// Starts the informers; `changed` is notified when targets may have changed.
    pub(crate) fn start(ctx: &Ctx, client: &Client, shared: &Shared, changed: &Arc<Notify>) -> Self {
        let config = watcher::Config::default();
        let nodes = Informer::start(ctx, Api::<Node>::all(client.clone()), config.clone());
        let pods = Informer::start(ctx, Api::<Pod>::all(client.clone()), config.clone());
        let services = Informer::start(ctx, Api::<Service>::all(client.clone()), config.clone());
        let slices = Informer::start(ctx, Api::<EndpointSlice>::all(client.clone()), config);
        let notify = |changed: &Arc<Notify>| {
            let changed = changed.clone();
            move || changed.notify_one()
        };
        let (n, p, s, e) = (notify(changed), notify(changed), notify(changed), notify(changed));
        nodes.on_event(move |_| n());
        pods.on_event(move |_| p());
        services.on_event(move |_| s());
        slices.on_event(move |_| e());
        let objects = Arc::new(Objects::start(ctx, client, nodes.clone(), pods.clone(), services.clone()));
        let node_collector = Arc::new(node::Collector::new(shared.config.node_name.clone()));
        Self { shared: shared.clone(), nodes, pods, services, slices, objects, node_collector }
    }

    /// The targets there should be now, by key.
    pub(crate) fn targets(&self) -> Specs {
        let mut specs = Specs::new();
        self.in_process(&mut specs);
        self.kubelets(&mut specs);
        self.pods(&mut specs);
        self.endpoints(&mut specs);
        specs
    }

    fn in_process(&self, specs: &mut Specs) {
        let instance = self.shared.config.node_name.as_str();
        let mut add = |job: &str, component: &str, kind: Kind, more: &[(&str, &str)]| {
            let mut labels = vec![("job", job), ("instance", instance)];
            labels.extend_from_slice(more);
            let spec = Spec {
                job: job.to_owned(),
                kind,
                labels: Labels::from_pairs(labels),
                discovered: Labels::from_pairs([
                    ("__address__", component),
                    ("__metrics_path__", "/metrics"),
                    ("__scheme__", "inprocess"),
                ]),
                honor_labels: true,
                honor_timestamps: false,
            };
            specs.insert(format!("inprocess/{component}"), spec);
        };
        for (component, registry) in self.shared.sources.registries.all() {
            // Over HTTPS the kubelet of this node is a target like those of others.
            if component == "kubelet" && self.shared.sources.kubelet_tls.is_some() {
                continue;
            }
            let more: &[(&str, &str)] =
                if component == "kubelet" { &[("metrics_path", "/metrics"), ("node", instance)] } else { &[] };
            add(job(&component), &component, Kind::Registry(registry), more);
        }
        let collector = self.node_collector.clone();
        add("node-exporter", "node-exporter", Kind::Page(Arc::new(move || collector.page())), &[]);
        if self.objects.is_synced() {
            let objects = self.objects.clone();
            add("kube-state-metrics", "kube-state-metrics", Kind::Page(Arc::new(move || objects.page())), &[]);
        }
    }

    fn kubelets(&self, specs: &mut Specs) {
        let Some(tls) = &self.shared.sources.kubelet_tls else { return };
        for node in self.nodes.list() {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            let Some((host, port)) = kubelet_endpoint(&node) else { continue };
            let endpoint = |path: &str| Endpoint {
                tls: Some(tls.clone()),
                scheme: "https",
                host: host.clone(),
                port,
                path: path.to_owned(),
            };
            for path in ["/metrics", "/metrics/cadvisor", "/metrics/resource", "/metrics/probes"] {
                let instance = endpoint(path).authority();
                let labels =
                    Labels::from_pairs([("job", "kubelet"), ("instance", &instance), ("node", name), ("metrics_path", path)]);
                add_kubelet(specs, name, "kubelet", endpoint(path), labels);
            }
            // What runs in this process is read there.
            if name == self.shared.config.node_name {
                continue;
            }
            for component in &self.shared.sources.node_components {
                let job = job(component);
                let labels = Labels::from_pairs([("job", job), ("instance", name)]);
                add_kubelet(specs, name, job, endpoint(&format!("/metrics/components/{component}")), labels);
            }
        }
    }

    fn pods(&self, specs: &mut Specs) {
        for pod in self.pods.list() {
            let Some(wish) = Wish::of(&pod.metadata) else { continue };
            let Some(status) = pod.status.as_ref().filter(|s| s.phase.as_deref() == Some("Running")) else { continue };
            let (Some(ip), Some(spec)) = (status.pod_ip.as_deref().filter(|ip| !ip.is_empty()), &pod.spec) else { continue };
            let declared = || {
                spec.containers.iter().flat_map(|c| {
                    let tcp = c.ports.iter().flatten().filter(|p| p.protocol.as_deref().is_none_or(|p| p == "TCP"));
                    tcp.filter_map(|p| Some((u16::try_from(p.container_port).ok()?, c.name.as_str())))
                })
            };
            let ports: Vec<(u16, &str)> = match wish.port {
                Some(port) => {
                    let only = if spec.containers.len() == 1 { spec.containers[0].name.as_str() } else { "" };
                    vec![(port, declared().find(|(p, _)| *p == port).map_or(only, |(_, name)| name))]
                }
                None => declared().collect(),
            };
            let meta = &pod.metadata;
            let (namespace, name) = (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
            for (port, container) in ports {
                let places = [
                    ("namespace", namespace),
                    ("pod", name),
                    ("container", container),
                    ("node", spec.node_name.as_deref().unwrap_or_default()),
                ];
                self.add_wished(specs, "kubernetes-pods", &format!("pod/{namespace}/{name}"), &wish, ip, port, meta, &places);
            }
        }
    }

    fn endpoints(&self, specs: &mut Specs) {
        for slice in self.slices.list() {
            let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
            let labels = slice.metadata.labels.as_ref();
            let Some(owner) = labels.and_then(|l| l.get("kubernetes.io/service-name")) else { continue };
            let Some(service) = self.services.get(&Key::new(namespace, owner.as_str())) else { continue };
            let Some(wish) = Wish::of(&service.metadata) else { continue };
            let ports: Vec<u16> = match wish.port {
                Some(port) => vec![port],
                None => slice.ports.iter().flatten().filter_map(|p| u16::try_from(p.port?).ok()).collect(),
            };
            for endpoint in slice.endpoints.iter().flatten() {
                if endpoint.conditions.as_ref().and_then(|c| c.ready) == Some(false) {
                    continue;
                }
                let pod =
                    endpoint.target_ref.as_ref().filter(|t| t.kind.as_deref() == Some("Pod")).and_then(|t| t.name.as_deref());
                let places = [
                    ("namespace", namespace),
                    ("service", owner.as_str()),
                    ("pod", pod.unwrap_or_default()),
                    ("node", endpoint.node_name.as_deref().unwrap_or_default()),
                ];
                for (address, port) in endpoint.addresses.iter().flat_map(|a| ports.iter().map(move |p| (a, *p))) {
                    let job = "kubernetes-service-endpoints";
                    let origin = format!("service/{namespace}/{owner}");
                    self.add_wished(specs, job, &origin, &wish, address, port, &service.metadata, &places);
                }
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "pods and endpoints differ in exactly these")]
    fn add_wished(
        &self,
        specs: &mut Specs,
        job: &str,
        origin: &str,
        wish: &Wish,
        host: &str,
        port: u16,
        meta: &ObjectMeta,
        places: &[(&str, &str)],
    ) {
        let tls = self.shared.sources.pod_tls.clone();
        let endpoint = Endpoint { tls, scheme: wish.scheme, host: host.to_owned(), port, path: wish.path.clone() };
        let mut builder = Labels::default().builder();
        for (name, value) in meta.labels.iter().flatten() {
            builder.set(sanitized(name), value.as_str());
        }
        for (name, value) in places {
            builder.set(*name, *value);
        }
        builder.set("job", job);
        builder.set("instance", endpoint.authority());
        let mut discovered = Labels::default().builder();
        discovered.set("__address__", endpoint.authority());
        discovered.set("__metrics_path__", wish.path.as_str());
        discovered.set("__scheme__", wish.scheme);
        for (name, value) in meta.annotations.iter().flatten().filter(|(name, _)| name.starts_with("prometheus.io/")) {
            discovered.set(format!("__meta_kubernetes_annotation_{}", sanitized(name)), value.as_str());
        }
        for (name, value) in places {
            discovered.set(format!("__meta_kubernetes_{name}"), *value);
        }
        let key = format!("{job}/{origin}/{}", endpoint.url());
        let spec = Spec {
            job: job.to_owned(),
            kind: Kind::Http(endpoint),
            labels: builder.build(),
            discovered: discovered.build(),
            honor_labels: job == "kubernetes-service-endpoints",
            honor_timestamps: true,
        };
        specs.insert(key, spec);
    }
}

/// What an object's annotations ask for.
struct Wish {
    scheme: &'static str,
    path: String,
    port: Option<u16>,
}

impl Wish {
    fn of(meta: &ObjectMeta) -> Option<Self> {
        let annotation =
            |name: &str| meta.annotations.as_ref().and_then(|a| a.get(&format!("prometheus.io/{name}"))).map(String::as_str);
        if annotation("scrape") != Some("true") {
            return None;
        }
        let path = annotation("path").filter(|p| !p.is_empty()).unwrap_or("/metrics");
        Some(Self {
            scheme: if annotation("scheme") == Some("https") { "https" } else { "http" },
            path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
            port: annotation("port").and_then(|p| p.parse().ok()),
        })
    }
}

/// Where a node's kubelet is reached.
fn kubelet_endpoint(node: &Node) -> Option<(String, u16)> {
    let status = node.status.as_ref()?;
    let port = status.daemon_endpoints.as_ref()?.kubelet_endpoint.as_ref()?.port;
    let port = u16::try_from(port).ok().filter(|port| *port > 0)?;
    let address = |kind: &str| status.addresses.iter().flatten().find(|a| a.type_ == kind).map(|a| a.address.clone());
    Some((["InternalIP", "ExternalIP", "Hostname"].into_iter().find_map(address)?, port))
}

/// A page of a node's kubelet as a target.
fn add_kubelet(specs: &mut Specs, node: &str, job: &str, endpoint: Endpoint, labels: Labels) {
    let instance = endpoint.authority();
    let discovered = Labels::from_pairs([
        ("__address__", instance.as_str()),
        ("__metrics_path__", &endpoint.path),
        ("__scheme__", "https"),
        ("__meta_kubernetes_node_name", node),
    ]);
    let key = format!("kubelet/{node}/{instance}{}", endpoint.path);
    let kind = Kind::Http(endpoint);
    let spec = Spec { job: job.to_owned(), kind, labels, discovered, honor_labels: true, honor_timestamps: false };
    specs.insert(key, spec);
}

/// The job that upstream's component of this name is scraped under.
fn job(component: &str) -> &str {
    match component {
        "prometheus" => "prometheus-k8s",
        other => other,
    }
}

/// A label's name as Prometheus' discovery writes it: what is no letter, digit or underscore becomes an underscore.
fn sanitized(name: &str) -> String {
    let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if is_legacy_label_name(&name) { name } else { format!("_{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_tells_where_its_kubelet_is() {
        let node = |port: i32, addresses: &[(&str, &str)]| -> Node {
            let addresses: Vec<_> =
                addresses.iter().map(|(kind, address)| serde_json::json!({"type": kind, "address": address})).collect();
            serde_json::from_value(serde_json::json!({"status": {
                "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}, "addresses": addresses}}))
            .unwrap()
        };
        let both = [("Hostname", "worker"), ("InternalIP", "10.0.0.2")];
        assert_eq!(kubelet_endpoint(&node(10250, &both)), Some(("10.0.0.2".to_owned(), 10250)));
        assert_eq!(kubelet_endpoint(&node(10250, &both[..1])), Some(("worker".to_owned(), 10250)));
        assert_eq!(kubelet_endpoint(&node(0, &both)), None);
        assert_eq!(kubelet_endpoint(&node(10250, &[])), None);
    }

    #[test]
    fn annotations() {
        let check = |pairs: &[(&str, &str)], want: Option<(&str, &str, Option<u16>)>| {
            let annotations = pairs.iter().map(|(k, v)| (format!("prometheus.io/{k}"), (*v).to_owned())).collect();
            let wish = Wish::of(&ObjectMeta { annotations: Some(annotations), ..ObjectMeta::default() });
            assert_eq!(wish.as_ref().map(|w| (w.scheme, w.path.as_str(), w.port)), want);
        };
        check(&[], None);
        check(&[("scrape", "false")], None);
        check(&[("scrape", "true")], Some(("http", "/metrics", None)));
        check(&[("scrape", "true"), ("scheme", "https"), ("path", "m?x=1"), ("port", "81")], Some(("https", "/m?x=1", Some(81))));
        assert_eq!(sanitized("app.kubernetes.io/name"), "app_kubernetes_io_name");
    }
}
