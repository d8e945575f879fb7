use std::cmp::Reverse;

use pharos_runtime::types::{ContainerState, ContainerStatus, PodSandboxState, PodSandboxStatus};

/// What the runtime has of a pod; newest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodView {
    /// Its sandboxes.
    pub(crate) sandboxes: Vec<PodSandboxStatus>,
    /// Its containers, dead ones included.
    pub(crate) containers: Vec<ContainerStatus>,
}

impl PodView {
    /// From the runtime's lists, in any order.
    pub(crate) fn new(mut sandboxes: Vec<PodSandboxStatus>, mut containers: Vec<ContainerStatus>) -> Self {
        sandboxes.sort_by_key(|sandbox| Reverse((sandbox.metadata.attempt, sandbox.created_at)));
        containers.sort_by_key(|container| Reverse((container.created_at, container.metadata.attempt)));
        Self { sandboxes, containers }
    }

    /// The sandbox that is up.
    pub(crate) fn ready_sandbox(&self) -> Option<&PodSandboxStatus> {
        self.sandboxes.first().filter(|sandbox| sandbox.state == PodSandboxState::Ready)
    }

    /// The latest instance of a container.
    pub(crate) fn latest(&self, name: &str) -> Option<&ContainerStatus> {
        self.containers.iter().find(|container| container.metadata.name == name)
    }

    /// The instances of a container, newest first.
    pub(crate) fn instances<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a ContainerStatus> {
        self.containers.iter().filter(move |container| container.metadata.name == name)
    }

    /// The containers that run.
    pub(crate) fn running(&self) -> impl Iterator<Item = &ContainerStatus> {
        self.containers.iter().filter(|container| container.state == ContainerState::Running)
    }
}
