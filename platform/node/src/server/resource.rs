//! `/metrics/resource`: what the metrics server and autoscalers read (`pkg/kubelet/metrics/collectors/resource_metrics.go`).

use std::fmt::Write as _;

use super::usage;
use crate::core::Core;

/// The exposition.
pub(crate) async fn text(core: &Core) -> String {
    let (pods, machine) = tokio::join!(usage::read(core), usage::machine(core));
    let mut text = String::new();
    let now = core.clock.now().as_millisecond();
    let cpu = |nanos: u64| nanos as f64 / 1e9;
    let mut family = |name: &str, kind: &str, help: &str, lines: Vec<String>| {
        let _ = writeln!(text, "# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}");
        for line in lines {
            let _ = writeln!(text, "{name}{line}");
        }
    };
    let containers = |value: &dyn Fn(&pharos_runtime::types::ContainerStats) -> f64| -> Vec<String> {
        let mut lines = Vec::new();
        for pod in &pods {
            for (status, stats) in &pod.containers {
                lines.push(format!(
                    "{{container=\"{}\",namespace=\"{}\",pod=\"{}\"}} {} {}",
                    status.metadata.name,
                    pod.namespace,
                    pod.name,
                    value(stats),
                    stats.timestamp.as_millisecond()
                ));
            }
        }
        lines
    };
    let of_pods = |value: &dyn Fn(&pharos_runtime::types::CgroupStats) -> f64| -> Vec<String> {
        let line = |pod: &usage::PodUsage| {
            format!(
                "{{namespace=\"{}\",pod=\"{}\"}} {} {}",
                pod.namespace,
                pod.name,
                value(&pod.stats.cgroup),
                pod.stats.timestamp.as_millisecond()
            )
        };
        pods.iter().map(line).collect()
    };
    family(
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the container in core-seconds",
        containers(&|stats| cpu(stats.cgroup.cpu.usage_core_nano_seconds)),
    );
    family(
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set of the container in bytes",
        containers(&|stats| stats.cgroup.memory.working_set_bytes as f64),
    );
    let mut starts = Vec::new();
    for pod in &pods {
        for (status, _) in &pod.containers {
            if let Some(at) = status.started_at {
                starts.push(format!(
                    "{{container=\"{}\",namespace=\"{}\",pod=\"{}\"}} {}",
                    status.metadata.name,
                    pod.namespace,
                    pod.name,
                    at.as_millisecond() as f64 / 1000.0
                ));
            }
        }
    }
    family("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds", starts);
    family(
        "node_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the node in core-seconds",
        vec![format!(" {} {now}", cpu(machine.cpu.usage_core_nano_seconds))],
    );
    family(
        "node_memory_working_set_bytes",
        "gauge",
        "Current working set of the node in bytes",
        vec![format!(" {} {now}", machine.memory.working_set_bytes)],
    );
    family(
        "pod_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the pod in core-seconds",
        of_pods(&|stats| cpu(stats.cpu.usage_core_nano_seconds)),
    );
    family(
        "pod_memory_working_set_bytes",
        "gauge",
        "Current working set of the pod in bytes",
        of_pods(&|stats| stats.memory.working_set_bytes as f64),
    );
    family(
        "resource_scrape_error",
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
        vec![" 0".to_owned()],
    );
    text
}
