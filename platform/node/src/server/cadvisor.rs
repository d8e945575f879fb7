//! `/metrics/cadvisor`: cAdvisor's families and labels (`metrics/prometheus.go`), of the machine, pods and containers.

use std::{collections::BTreeMap, fmt::Write as _};

use jiff::Timestamp;
use pharos_runtime::types::{CgroupStats, ContainerStats, ContainerStatus};

use super::usage::{self, Interface, PodUsage};
use crate::core::Core;

/// Families in order of their names, each with its samples.
#[derive(Default)]
struct Text(BTreeMap<&'static str, (&'static str, &'static str, Vec<String>)>);

impl Text {
    fn add(
        &mut self,
        name: &'static str,
        kind: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
        value: f64,
        at: Option<Timestamp>,
    ) {
        let mut line = String::from(name);
        if !labels.is_empty() {
            line.push('{');
            for (index, (label, value)) in labels.iter().enumerate() {
                let _ = write!(line, "{}{label}=\"{}\"", if index > 0 { "," } else { "" }, escape(value));
            }
            line.push('}');
        }
        let _ = write!(line, " {value}");
        if let Some(at) = at {
            let _ = write!(line, " {}", at.as_millisecond());
        }
        self.0.entry(name).or_insert((kind, help, Vec::new())).2.push(line);
    }

    fn finish(self) -> String {
        let mut text = String::new();
        for (name, (kind, help, lines)) in self.0 {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for line in lines {
                text.push_str(&line);
                text.push('\n');
            }
        }
        text
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Whose samples these are: the six labels of cAdvisor in the kubelet.
struct Whose<'a> {
    container: &'a str,
    id: String,
    image: &'a str,
    name: &'a str,
    namespace: &'a str,
    pod: &'a str,
}

impl Whose<'_> {
    fn labels<'s>(&'s self, more: &[(&'s str, &'s str)]) -> Vec<(&'s str, &'s str)> {
        let mut all = vec![
            ("container", self.container),
            ("id", self.id.as_str()),
            ("image", self.image),
            ("name", self.name),
            ("namespace", self.namespace),
            ("pod", self.pod),
        ];
        all.extend_from_slice(more);
        all.sort_unstable_by_key(|(name, _)| *name);
        all
    }
}

/// The exposition.
pub(crate) async fn text(core: &Core) -> String {
    let (pods, machine) = tokio::join!(usage::read(core), usage::machine(core));
    let mut text = Text::default();
    let info = [
        ("cadvisorRevision", ""),
        ("cadvisorVersion", ""),
        ("dockerVersion", ""),
        ("kernelVersion", core.machine.kernel.as_str()),
        ("osVersion", core.machine.os_image.as_str()),
    ];
    text.add("cadvisor_version_info", "gauge", "A metric with a constant '1' value labeled by kernel version, OS version, docker version, cadvisor version & cadvisor revision.", &info, 1.0, None);
    let ids = [
        ("boot_id", core.machine.boot_id.as_str()),
        ("machine_id", &core.machine.machine_id),
        ("system_uuid", &core.machine.system_uuid),
    ];
    text.add("machine_cpu_cores", "gauge", "Number of logical CPU cores.", &ids, core.machine.cores as f64, None);
    text.add(
        "machine_memory_bytes",
        "gauge",
        "Amount of memory installed on the machine.",
        &ids,
        core.machine.memory_bytes as f64,
        None,
    );
    text.add(
        "machine_swap_bytes",
        "gauge",
        "Amount of swap memory available on the machine.",
        &ids,
        core.machine.swap_bytes as f64,
        None,
    );
    let now = core.clock.now();
    let root = Whose { container: "", id: "/".to_owned(), image: "", name: "", namespace: "", pod: "" };
    cgroup(&mut text, &root, &machine, now);
    network(&mut text, &root, &usage::interfaces("/proc/self/net/dev").await, now);
    spec(&mut text, &root, core.machine.memory_bytes, 0, 0);
    for pod in &pods {
        of_pod(&mut text, pod);
    }
    text.finish()
}

fn of_pod(text: &mut Text, pod: &PodUsage) {
    let at = pod.stats.timestamp;
    let whose =
        Whose { container: "", id: pod.cgroup_parent.clone(), image: "", name: "", namespace: &pod.namespace, pod: &pod.name };
    cgroup(text, &whose, &pod.stats.cgroup, at);
    // The pod's network is told under its sandbox, as with containerd.
    let sandbox = Whose { container: "", id: format!("{}/{}", pod.cgroup_parent, pod.stats.id), name: &pod.stats.id, ..whose };
    network(text, &sandbox, &pod.interfaces, at);
    for (status, stats) in &pod.containers {
        of_container(text, pod, status, stats);
    }
}

fn of_container(text: &mut Text, pod: &PodUsage, status: &ContainerStatus, stats: &ContainerStats) {
    let at = stats.timestamp;
    let whose = Whose {
        container: &status.metadata.name,
        id: format!("{}/{}", pod.cgroup_parent, status.id),
        image: &status.image_ref,
        name: &status.id,
        namespace: &pod.namespace,
        pod: &pod.name,
    };
    cgroup(text, &whose, &stats.cgroup, at);
    let layer = &stats.writable_layer;
    let device = [("device", "overlay")];
    text.add(
        "container_fs_usage_bytes",
        "gauge",
        "Number of bytes that are consumed by the container on this filesystem.",
        &whose.labels(&device),
        layer.used_bytes as f64,
        Some(at),
    );
    text.add(
        "container_fs_inodes_total",
        "gauge",
        "Number of Inodes",
        &whose.labels(&device),
        layer.inodes_used as f64,
        Some(at),
    );
    if let Some(started) = status.started_at {
        text.add(
            "container_start_time_seconds",
            "gauge",
            "Start time of the container since unix epoch in seconds.",
            &whose.labels(&[]),
            started.as_millisecond() as f64 / 1000.0,
            Some(at),
        );
    }
    let resources = &status.resources;
    spec(text, &whose, u64::try_from(resources.memory_limit_in_bytes).unwrap_or(0), resources.cpu_shares, resources.cpu_quota);
}

fn spec(text: &mut Text, whose: &Whose<'_>, memory_limit: u64, shares: u64, quota: i64) {
    let labels = whose.labels(&[]);
    text.add("container_spec_memory_limit_bytes", "gauge", "Memory limit for the container.", &labels, memory_limit as f64, None);
    text.add("container_spec_cpu_period", "gauge", "CPU period of the container.", &labels, 100_000.0, None);
    if shares > 0 {
        text.add("container_spec_cpu_shares", "gauge", "CPU share of the container.", &labels, shares as f64, None);
    }
    if quota > 0 {
        text.add("container_spec_cpu_quota", "gauge", "CPU quota of the container.", &labels, quota as f64, None);
    }
}

fn cgroup(text: &mut Text, whose: &Whose<'_>, stats: &CgroupStats, at: Timestamp) {
    let seconds = |nanos: u64| nanos as f64 / 1e9;
    let labels = whose.labels(&[]);
    let all = whose.labels(&[("cpu", "total")]);
    let (cpu, memory) = (&stats.cpu, &stats.memory);
    let at = Some(at);
    let mut counter = |name, help, labels: &[(&str, &str)], value| text.add(name, "counter", help, labels, value, at);
    counter(
        "container_cpu_usage_seconds_total",
        "Cumulative cpu time consumed in seconds.",
        &all,
        seconds(cpu.usage_core_nano_seconds),
    );
    counter(
        "container_cpu_user_seconds_total",
        "Cumulative user cpu time consumed in seconds.",
        &labels,
        seconds(cpu.user_nano_seconds),
    );
    counter(
        "container_cpu_system_seconds_total",
        "Cumulative system cpu time consumed in seconds.",
        &labels,
        seconds(cpu.system_nano_seconds),
    );
    if cpu.periods > 0 {
        counter(
            "container_cpu_cfs_periods_total",
            "Number of elapsed enforcement period intervals.",
            &labels,
            cpu.periods as f64,
        );
        counter(
            "container_cpu_cfs_throttled_periods_total",
            "Number of throttled period intervals.",
            &labels,
            cpu.throttled_periods as f64,
        );
        counter(
            "container_cpu_cfs_throttled_seconds_total",
            "Total time duration the container has been throttled.",
            &labels,
            seconds(cpu.throttled_nano_seconds),
        );
    }
    counter("container_memory_failcnt", "Number of memory usage hits limits", &labels, memory.failcnt as f64);
    counter(
        "container_oom_events_total",
        "Count of out of memory events observed for the container",
        &labels,
        memory.oom_kills as f64,
    );
    for (kind, value) in [("pgfault", memory.page_faults), ("pgmajfault", memory.major_page_faults)] {
        let labels = whose.labels(&[("failure_type", kind), ("scope", "container")]);
        counter("container_memory_failures_total", "Cumulative count of memory allocation failures.", &labels, value as f64);
    }
    for io in &stats.io {
        let (major, minor) = (io.major.to_string(), io.minor.to_string());
        let device = device(&major, &minor);
        let disk = whose.labels(&[("device", &device)]);
        counter("container_fs_reads_bytes_total", "Cumulative count of bytes read", &disk, io.read_bytes as f64);
        counter("container_fs_writes_bytes_total", "Cumulative count of bytes written", &disk, io.write_bytes as f64);
        counter("container_fs_reads_total", "Cumulative count of reads completed", &disk, io.reads as f64);
        counter("container_fs_writes_total", "Cumulative count of writes completed", &disk, io.writes as f64);
        for (operation, value) in [("Read", io.read_bytes), ("Write", io.write_bytes)] {
            let labels = whose.labels(&[("device", &device), ("major", &major), ("minor", &minor), ("operation", operation)]);
            counter("container_blkio_device_usage_total", "Blkio Device bytes usage", &labels, value as f64);
        }
    }
    let mut gauge = |name, help, value: u64| text.add(name, "gauge", help, &labels, value as f64, at);
    gauge(
        "container_memory_usage_bytes",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        memory.usage_bytes,
    );
    gauge("container_memory_working_set_bytes", "Current working set in bytes.", memory.working_set_bytes);
    gauge("container_memory_rss", "Size of RSS in bytes.", memory.rss_bytes);
    gauge("container_memory_cache", "Number of bytes of page cache memory.", memory.cache_bytes);
    gauge("container_memory_swap", "Container swap usage in bytes.", memory.swap_bytes);
    gauge("container_memory_mapped_file", "Size of memory mapped files in bytes.", memory.mapped_file_bytes);
    gauge("container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes", memory.max_usage_bytes);
    gauge("container_processes", "Number of processes running inside the container.", stats.process.process_count);
    gauge(
        "container_threads_max",
        "Maximum number of threads allowed inside the container, infinity if value is zero",
        stats.process.limit,
    );
    gauge(
        "container_last_seen",
        "Last time a container was seen by the exporter",
        at.map_or(0, |at| at.as_second().unsigned_abs()),
    );
}

fn device(major: &str, minor: &str) -> String {
    let link = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok();
    let name = link.and_then(|link| link.file_name().map(|name| name.to_string_lossy().into_owned()));
    name.map(|name| format!("/dev/{name}")).unwrap_or_default()
}

fn network(text: &mut Text, whose: &Whose<'_>, interfaces: &[Interface], at: Timestamp) {
    for interface in interfaces {
        let labels = whose.labels(&[("interface", &interface.name)]);
        let mut counter = |name, help, value: u64| text.add(name, "counter", help, &labels, value as f64, Some(at));
        counter("container_network_receive_bytes_total", "Cumulative count of bytes received", interface.rx_bytes);
        counter("container_network_receive_packets_total", "Cumulative count of packets received", interface.rx_packets);
        counter(
            "container_network_receive_errors_total",
            "Cumulative count of errors encountered while receiving",
            interface.rx_errors,
        );
        counter(
            "container_network_receive_packets_dropped_total",
            "Cumulative count of packets dropped while receiving",
            interface.rx_dropped,
        );
        counter("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", interface.tx_bytes);
        counter("container_network_transmit_packets_total", "Cumulative count of packets transmitted", interface.tx_packets);
        counter(
            "container_network_transmit_errors_total",
            "Cumulative count of errors encountered while transmitting",
            interface.tx_errors,
        );
        counter(
            "container_network_transmit_packets_dropped_total",
            "Cumulative count of packets dropped while transmitting",
            interface.tx_dropped,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_whole() {
        let mut text = Text::default();
        let whose = Whose { container: "c", id: "/kubepods/x".into(), image: "i", name: "n", namespace: "ns", pod: "p\"" };
        cgroup(&mut text, &whose, &CgroupStats::default(), Timestamp::from_second(1).unwrap());
        network(
            &mut text,
            &whose,
            &[Interface { name: "eth0".into(), ..Interface::default() }],
            Timestamp::from_second(1).unwrap(),
        );
        let text = text.finish();
        assert!(text.contains(
            "container_cpu_usage_seconds_total{container=\"c\",cpu=\"total\",id=\"/kubepods/x\",image=\"i\",name=\"n\",namespace=\"ns\",pod=\"p\\\"\"} 0 1000\n"
        ));
        assert_eq!(text.matches("# TYPE container_memory_working_set_bytes gauge").count(), 1);
        assert!(text.contains("interface=\"eth0\""));
    }
}
