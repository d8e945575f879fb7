//! Counts and times every call of a runtime, by kubelet's names (`pkg/kubelet/metrics/metrics.go`, 1.32; operations as in
//! `pkg/kubelet/kuberuntime/instrumented_services.go`).

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};
use tokio::time::Instant;

use crate::error::Result;
use crate::runtime::Runtime;
use crate::types::*;

/// Handles of the runtime's metrics.
#[derive(Clone)]
pub struct Metrics {
    operations: IntCounterVec,
    errors: IntCounterVec,
    seconds: HistogramVec,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// When the registry has them already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let label = &["operation_type"];
        let operations = IntCounterVec::new(
            Opts::new("kubelet_runtime_operations_total", "Cumulative number of runtime operations by operation type."),
            label,
        )?;
        let errors = IntCounterVec::new(
            Opts::new(
                "kubelet_runtime_operations_errors_total",
                "Cumulative number of runtime operation errors by operation type.",
            ),
            label,
        )?;
        // Upstream's: 14 buckets from 5 ms, each 2.5 times the one before.
        let seconds = HistogramVec::new(
            HistogramOpts::new(
                "kubelet_runtime_operations_duration_seconds",
                "Duration in seconds of runtime operations. Broken down by operation type.",
            )
            .buckets(prometheus::exponential_buckets(0.005, 2.5, 14)?),
            label,
        )?;
        registry.register(Box::new(operations.clone()))?;
        registry.register(Box::new(errors.clone()))?;
        registry.register(Box::new(seconds.clone()))?;
        Ok(Self { operations, errors, seconds })
    }

    async fn observe<T>(&self, operation: &str, call: impl Future<Output = Result<T>>) -> Result<T> {
        let started = Instant::now();
        let result = call.await;
        self.operations.with_label_values(&[operation]).inc();
        self.seconds.with_label_values(&[operation]).observe(started.elapsed().as_secs_f64());
        if result.is_err() {
            self.errors.with_label_values(&[operation]).inc();
        }
        result
    }
}

/// A runtime whose calls are measured.
#[derive(Clone)]
pub struct Instrumented<R> {
    inner: R,
    metrics: Metrics,
}

impl<R: Runtime> Instrumented<R> {
    /// Wraps a runtime.
    pub fn new(inner: R, metrics: Metrics) -> Self {
        Self { inner, metrics }
    }
}

macro_rules! measured {
    ($($operation:literal $name:ident($($arg:ident: $kind:ty),*) -> $out:ty;)*) => {
        #[async_trait]
        impl<R: Runtime> Runtime for Instrumented<R> {
            $(async fn $name(&self, $($arg: $kind),*) -> Result<$out> {
                self.metrics.observe($operation, self.inner.$name($($arg),*)).await
            })*
        }
    };
}

measured! {
    "version" version() -> Version;
    "status" status() -> Vec<RuntimeCondition>;
    "run_podsandbox" run_pod_sandbox(config: &PodSandboxConfig) -> PodSandbox;
    "stop_podsandbox" stop_pod_sandbox(id: &str) -> ();
    "remove_podsandbox" remove_pod_sandbox(id: &str) -> ();
    "podsandbox_status" pod_sandbox_status(id: &str) -> PodSandboxStatus;
    "list_podsandbox" list_pod_sandboxes(filter: &PodSandboxFilter) -> Vec<PodSandboxStatus>;
    "create_container" create_container(pod_sandbox_id: &str, config: &ContainerConfig) -> String;
    "start_container" start_container(id: &str) -> ();
    "stop_container" stop_container(id: &str, timeout: Duration) -> ();
    "remove_container" remove_container(id: &str) -> ();
    "container_status" container_status(id: &str) -> ContainerStatus;
    "list_containers" list_containers(filter: &ContainerFilter) -> Vec<ContainerStatus>;
    "update_container" update_container_resources(id: &str, resources: &LinuxContainerResources) -> ();
    "update_podsandbox_resources" update_pod_sandbox_resources(id: &str, resources: &LinuxContainerResources) -> ();
    "reopen_container_log" reopen_container_log(id: &str) -> ();
    "exec" exec(request: &ExecRequest, streams: Streams) -> i32;
    "exec_sync" exec_sync(container_id: &str, cmd: &[String], timeout: Duration) -> ExecSyncResponse;
    "attach" attach(container_id: &str, streams: Streams) -> ();
    "container_stats" container_stats(id: &str) -> ContainerStats;
    "list_container_stats" list_container_stats(filter: &ContainerFilter) -> Vec<ContainerStats>;
    "podsandbox_stats" pod_sandbox_stats(id: &str) -> PodSandboxStats;
    "list_podsandbox_stats" list_pod_sandbox_stats(filter: &PodSandboxFilter) -> Vec<PodSandboxStats>;
    "get_container_events" events() -> BoxStream<'static, ContainerEvent>;
    "list_images" list_images(filter: Option<&ImageSpec>) -> Vec<Image>;
    "image_status" image_status(image: &ImageSpec) -> Option<Image>;
    "pull_image" pull_image(image: &ImageSpec, auth: &RegistryAuth) -> String;
    "remove_image" remove_image(image: &ImageSpec) -> ();
    "load_image" load_image(archive: &Path) -> Vec<Image>;
    "image_fs_info" image_fs_info() -> ImageFsInfo;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[tokio::test]
    async fn calls_and_errors_are_counted() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        assert!(Metrics::new(&registry).is_err());
        metrics.observe("version", async { Ok(()) }).await.unwrap();
        let _ = metrics.observe("version", async { Err::<(), _>(Error::not_found("container", "x")) }).await;
        assert_eq!(metrics.operations.with_label_values(&["version"]).get(), 2);
        assert_eq!(metrics.errors.with_label_values(&["version"]).get(), 1);
        assert_eq!(metrics.seconds.with_label_values(&["version"]).get_sample_count(), 2);
    }
}
