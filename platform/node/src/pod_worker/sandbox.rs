use std::{net::IpAddr, path::Path, time::Duration};

use k8s_openapi::api::node::v1::RuntimeClass;
use pharos_client::Regarding;
use pharos_network::{HostPort, PodNetworkConfig};
use pharos_runtime::types::{ContainerState, NamespaceMode, PodSandboxState, PodSandboxStatus, Protocol};

use super::Worker;
use crate::{container_config, core::NETWORK_DEADLINE, error::chain, hosts, names, pod_view::PodView};

impl Worker {
    pub(super) fn host_network(&self) -> bool {
        self.pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false)
    }

    /// Learns the addresses of the ready sandbox; one that is not connected, though containers run in it, is connected again.
    ///
    /// An error says that nobody knows, and nothing may be concluded from it.
    pub(super) async fn find_addresses(&mut self, view: &PodView) -> Result<(), String> {
        let Some(sandbox) = view.ready_sandbox() else {
            self.ips = None;
            return Ok(());
        };
        if self.ips.as_ref().is_some_and(|(id, _)| *id == sandbox.id) {
            return Ok(());
        }
        if self.host_network() {
            self.set_addresses(Some((sandbox.id.clone(), self.core.node_ips.clone())));
            return Ok(());
        }
        let network = network_config(sandbox);
        let late = |_| "ask for the pod's addresses: no answer".to_owned();
        let status = tokio::time::timeout(NETWORK_DEADLINE, self.core.network.status(&network)).await.map_err(late)?;
        let mut ips = status.map_err(|error| format!("ask for the pod's addresses: {}", chain(&error)))?;
        if ips.is_none() && view.running().next().is_some() {
            let attached = tokio::time::timeout(NETWORK_DEADLINE, self.core.network.attach(&network)).await.map_err(late)?;
            ips = Some(attached.map_err(|error| format!("connect the pod again: {}", chain(&error)))?);
        }
        self.set_addresses(ips.filter(|ips| !ips.is_empty()).map(|ips| (sandbox.id.clone(), ips)));
        Ok(())
    }

    fn set_addresses(&mut self, ips: Option<(String, Vec<IpAddr>)>) {
        if let Some((_, ips)) = &ips {
            self.core.pod_ips.write().insert(self.uid(), ips.clone());
        }
        self.ips = ips;
    }

    /// Makes the sandbox and connects it; takes down what was there before.
    pub(super) async fn make_sandbox(&mut self, view: &PodView, attempt: u32) -> Result<PodSandboxStatus, String> {
        let regarding = Regarding::of(&*self.pod);
        if !view.sandboxes.is_empty() {
            if view.ready_sandbox().is_none() {
                self.core.recorder.normal(&regarding, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.");
            }
            self.stop_sandboxes(view).await?;
        }
        let core = self.core.clone();
        let failed = move |error: String| {
            let message = format!("Failed to create pod sandbox: {error}");
            core.recorder.warning(&regarding, "FailedCreatePodSandBox", message.as_str());
            core.metrics.started_pods_errors.with_label_values(&["CreatePodSandboxError"]).inc();
            message
        };
        self.check_runtime_class().await.map_err(&failed)?;
        let settings = &self.core.config;
        let (dns, left_out) = hosts::dns(&self.pod, &self.core.node_dns, &settings.cluster_dns, &settings.cluster_domain);
        for message in left_out {
            self.core.recorder.warning(&Regarding::of(&*self.pod), "DNSConfigForming", message);
        }
        let config = container_config::sandbox(&self.pod, attempt, dns, settings).map_err(&failed)?;
        tokio::fs::create_dir_all(&config.log_directory).await.map_err(|error| failed(error.to_string()))?;
        self.core.metrics.started_pods.inc();
        let made = self.core.observe("run_podsandbox", self.core.runtime.run_pod_sandbox(&config)).await;
        let made = made.map_err(|error| failed(error.chain()))?;
        let status = self.core.runtime.pod_sandbox_status(&made.id).await.map_err(|error| failed(error.chain()))?;
        if self.host_network() {
            self.set_addresses(Some((made.id, self.core.node_ips.clone())));
            return Ok(status);
        }
        let attached = match tokio::time::timeout(NETWORK_DEADLINE, self.core.network.attach(&network_config(&status))).await {
            Ok(Ok(ips)) if !ips.is_empty() => Ok(ips),
            Ok(Ok(_)) => Err("the pod network gave no address".to_owned()),
            Ok(Err(error)) => Err(chain(&error)),
            Err(_) => Err(format!("no answer within {NETWORK_DEADLINE:?}")),
        };
        match attached {
            Ok(ips) => {
                self.set_addresses(Some((made.id, ips)));
                Ok(status)
            }
            Err(error) => {
                let message = failed(format!("failed to setup network for sandbox \"{}\": {error}", made.id));
                self.discard(&status).await;
                Err(message)
            }
        }
    }

    /// Takes down a sandbox that never got its network.
    async fn discard(&self, sandbox: &PodSandboxStatus) {
        if let Err(error) = self.core.network.detach(&network_config(sandbox)).await {
            tracing::warn!(error = chain(&error), "cannot detach a failed sandbox");
        }
        if let Err(error) = self.core.runtime.remove_pod_sandbox(&sandbox.id).await {
            tracing::warn!(error = error.chain(), "cannot remove a failed sandbox");
        }
    }

    /// Disconnects and stops every sandbox of the pod.
    pub(super) async fn stop_sandboxes(&mut self, view: &PodView) -> Result<(), String> {
        for sandbox in &view.sandboxes {
            stop_sandbox(&self.core, sandbox).await?;
        }
        self.ips = None;
        Ok(())
    }

    async fn check_runtime_class(&self) -> Result<(), String> {
        let Some(name) = self.pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.clone()) else { return Ok(()) };
        let classes: kube::Api<RuntimeClass> = kube::Api::all(self.core.client.clone());
        let get =
            tokio::time::timeout(Duration::from_secs(30), classes.get_opt(&name)).await.map_err(|error| error.to_string())?;
        let class =
            get.map_err(|error| error.to_string())?.ok_or_else(|| format!("RuntimeClass.node.k8s.io \"{name}\" not found"))?;
        match class.handler.as_str() {
            "runc" | "pharos" => Ok(()),
            handler => Err(format!("no runtime for \"{handler}\" is configured")),
        }
    }

    /// Removes dead containers but the last two of each name, and sandboxes that hold nothing any more.
    pub(super) async fn collect(&mut self, view: &PodView) {
        let mut seen: std::collections::BTreeMap<&str, u32> = std::collections::BTreeMap::new();
        let mut gone: Vec<&str> = Vec::new();
        for container in &view.containers {
            let count = seen.entry(&container.metadata.name).or_default();
            *count += 1;
            // The newest instance is the state, the one before it `lastState`.
            if *count > 2 && container.state != ContainerState::Running {
                match self.core.observe("remove_container", self.core.runtime.remove_container(&container.id)).await {
                    Ok(()) => {
                        gone.push(&container.id);
                        remove_logs(&container.log_path).await;
                    }
                    Err(error) => {
                        tracing::debug!(
                            container = container.metadata.name,
                            error = error.chain(),
                            "cannot remove a dead container"
                        );
                    }
                }
            }
        }
        for sandbox in view.sandboxes.iter().skip(1).filter(|sandbox| sandbox.state == PodSandboxState::NotReady) {
            let used = view.containers.iter().any(|c| c.pod_sandbox_id == sandbox.id && !gone.contains(&c.id.as_str()));
            if used {
                continue;
            }
            if let Err(error) = self.core.observe("remove_podsandbox", self.core.runtime.remove_pod_sandbox(&sandbox.id)).await {
                tracing::debug!(error = error.chain(), "cannot remove an old sandbox");
            }
        }
    }
}

/// Disconnects and stops a sandbox; what is done already is no error.
pub(crate) async fn stop_sandbox(core: &crate::core::Core, sandbox: &PodSandboxStatus) -> Result<(), String> {
    if sandbox.config.linux.security_context.namespace_options.network != NamespaceMode::Node {
        tokio::time::timeout(NETWORK_DEADLINE, core.network.detach(&network_config(sandbox)))
            .await
            .map_err(|_| "detach the network: no answer".to_owned())?
            .map_err(|error| format!("detach the network: {}", chain(&error)))?;
    }
    // One that is down may still have containers.
    match core.observe("stop_podsandbox", core.runtime.stop_pod_sandbox(&sandbox.id)).await {
        Ok(()) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(format!("stop sandbox: {}", error.chain())),
    }
}

/// Removes a log and its rotated parts.
async fn remove_logs(path: &Path) {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else { return };
    let Ok(mut entries) = tokio::fs::read_dir(dir).await else { return };
    while let Ok(Some(entry)) = entries.next_entry().await {
        let found = entry.file_name();
        if found.to_str().is_some_and(|found| found == name || found.starts_with(&format!("{name}."))) {
            let _ = tokio::fs::remove_file(entry.path()).await;
        }
    }
}

/// A sandbox as the pod network knows it.
pub(crate) fn network_config(sandbox: &PodSandboxStatus) -> PodNetworkConfig {
    let label = |name: &str| sandbox.labels.get(name).cloned().unwrap_or_default();
    PodNetworkConfig {
        sandbox_id: sandbox.id.clone(),
        netns: sandbox.netns.clone(),
        namespace: label(names::POD_NAMESPACE),
        name: label(names::POD_NAME),
        uid: label(names::POD_UID),
        host_ports: sandbox
            .config
            .port_mappings
            .iter()
            .map(|port| HostPort {
                protocol: match port.protocol {
                    Protocol::Tcp => "TCP",
                    Protocol::Udp => "UDP",
                    Protocol::Sctp => "SCTP",
                }
                .to_owned(),
                host_ip: port.host_ip.parse().ok(),
                host_port: port.host_port,
                container_port: port.container_port,
            })
            .collect(),
    }
}
