//! The machine: a part of node_exporter's metrics, read from `/proc` and `statfs`-free sources at each scrape.

use std::{collections::BTreeMap, fs};

use crate::exposition::Page;

/// Reads the machine this process runs on.
pub struct Collector {
    node: String,
}

/// Clock ticks of `/proc/stat` in a second; fixed for user space on Linux.
const TICKS: f64 = 100.0;

impl Collector {
    /// A collector for the machine of the node of this name.
    #[must_use]
    pub fn new(node: String) -> Self {
        Self { node }
    }

    /// The page, from files of the kernel; blocks a little.
    #[must_use]
    pub fn page(&self) -> String {
        let mut page = Page::default();
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        load(&mut page, &read("/proc/loadavg"));
        cpu(&mut page, &read("/proc/stat"));
        memory(&mut page, &read("/proc/meminfo"));
        network(&mut page, &read("/proc/net/dev"));
        disks(&mut page, &read("/proc/diskstats"));
        vmstat(&mut page, &read("/proc/vmstat"));
        self.uname(&mut page, &read);
        page.finish()
    }

    fn uname(&self, page: &mut Page, read: &impl Fn(&str) -> String) {
        let of = |name: &str| read(&format!("/proc/sys/kernel/{name}")).trim().to_owned();
        let (release, version, system, domain) = (of("osrelease"), of("version"), of("ostype"), of("domainname"));
        page.family("node_uname_info", "gauge", "Labeled system information as provided by the uname system call.");
        page.sample(
            "node_uname_info",
            &[
                ("sysname", &system),
                ("release", &release),
                ("version", &version),
                ("machine", std::env::consts::ARCH),
                ("nodename", &self.node),
                ("domainname", &domain),
            ],
            1.0,
        );
    }
}

fn number(text: Option<&str>) -> f64 {
    text.and_then(|t| t.parse().ok()).unwrap_or(0.0)
}

fn load(page: &mut Page, text: &str) {
    for (name, word) in ["1", "5", "15"].iter().zip(text.split_whitespace()) {
        let metric = format!("node_load{name}");
        page.family(&metric, "gauge", &format!("{name}m load average."));
        page.sample(&metric, &[], number(Some(word)));
    }
}

fn cpu(page: &mut Page, text: &str) {
    const MODES: [&str; 8] = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];
    page.family("node_cpu_seconds_total", "counter", "Seconds the CPUs spent in each mode.");
    let mut others = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(first) = words.next() else { continue };
        match first.strip_prefix("cpu") {
            Some("") => {}
            Some(cpu) => {
                for (mode, ticks) in MODES.iter().zip(words) {
                    page.sample("node_cpu_seconds_total", &[("cpu", cpu), ("mode", mode)], number(Some(ticks)) / TICKS);
                }
            }
            None => drop(others.insert(first, number(words.next()))),
        }
    }
    for (key, metric, kind, help) in [
        ("btime", "node_boot_time_seconds", "gauge", "Node boot time, in unixtime."),
        ("ctxt", "node_context_switches_total", "counter", "Total number of context switches."),
        ("processes", "node_forks_total", "counter", "Total number of forks."),
        ("procs_running", "node_procs_running", "gauge", "Number of processes in runnable state."),
        ("procs_blocked", "node_procs_blocked", "gauge", "Number of processes blocked waiting for I/O to complete."),
    ] {
        if let Some(value) = others.get(key) {
            page.family(metric, kind, help);
            page.sample(metric, &[], *value);
        }
    }
}

fn memory(page: &mut Page, text: &str) {
    for line in text.lines() {
        let Some((key, rest)) = line.split_once(':') else { continue };
        let mut words = rest.split_whitespace();
        let value = number(words.next());
        // `Active(anon)` is `Active_anon`; a unit of kB makes bytes.
        let key = key.replace('(', "_").replace(')', "");
        let (metric, value) = match words.next() {
            Some("kB") => (format!("node_memory_{key}_bytes"), value * 1024.0),
            _ => (format!("node_memory_{key}"), value),
        };
        page.family(&metric, "gauge", &format!("Memory information field {metric}."));
        page.sample(&metric, &[], value);
    }
}

fn network(page: &mut Page, text: &str) {
    const FIELDS: [(&str, usize); 8] = [
        ("receive_bytes", 0),
        ("receive_packets", 1),
        ("receive_errs", 2),
        ("receive_drop", 3),
        ("transmit_bytes", 8),
        ("transmit_packets", 9),
        ("transmit_errs", 10),
        ("transmit_drop", 11),
    ];
    let devices: Vec<(&str, Vec<&str>)> = text
        .lines()
        .filter_map(|l| l.split_once(':'))
        .map(|(device, rest)| (device.trim(), rest.split_whitespace().collect()))
        // One of a pod: the kubelet tells of those.
        .filter(|(device, _): &(&str, Vec<&str>)| !device.starts_with("veth"))
        .collect();
    for (field, at) in FIELDS {
        let metric = format!("node_network_{field}_total");
        page.family(&metric, "counter", &format!("Network device statistic {field}."));
        for (device, words) in &devices {
            page.sample(&metric, &[("device", device)], number(words.get(at).copied()));
        }
    }
}

fn disks(page: &mut Page, text: &str) {
    const SECTOR: f64 = 512.0;
    const MILLI: f64 = 0.001;
    const FIELDS: [(&str, &str, usize, f64); 7] = [
        ("node_disk_reads_completed_total", "The total number of reads completed successfully.", 3, 1.0),
        ("node_disk_read_bytes_total", "The total number of bytes read successfully.", 5, SECTOR),
        ("node_disk_read_time_seconds_total", "The total number of seconds spent by all reads.", 6, MILLI),
        ("node_disk_writes_completed_total", "The total number of writes completed successfully.", 7, 1.0),
        ("node_disk_written_bytes_total", "The total number of bytes written successfully.", 9, SECTOR),
        ("node_disk_write_time_seconds_total", "This is the total number of seconds spent by all writes.", 10, MILLI),
        ("node_disk_io_time_seconds_total", "Total seconds spent doing I/Os.", 12, MILLI),
    ];
    let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
    for (metric, help, at, factor) in FIELDS {
        page.family(metric, "counter", help);
        for words in &lines {
            let device = words.get(2).copied().unwrap_or_default();
            if device.is_empty() || ["ram", "loop", "fd"].iter().any(|p| device.starts_with(p)) {
                continue;
            }
            page.sample(metric, &[("device", device)], number(words.get(at).copied()) * factor);
        }
    }
}

fn vmstat(page: &mut Page, text: &str) {
    for line in text.lines() {
        let Some((key, value)) = line.split_once(' ') else { continue };
        if matches!(key, "pgfault" | "pgmajfault" | "pgpgin" | "pgpgout" | "pswpin" | "pswpout" | "oom_kill") {
            let metric = format!("node_vmstat_{key}");
            page.family(&metric, "untyped", &format!("/proc/vmstat information field {key}."));
            page.sample(&metric, &[], number(Some(value)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_files() {
        let mut page = Page::default();
        load(&mut page, "0.50 1.25 2.00 1/100 42");
        cpu(&mut page, "cpu 1 2\ncpu0 100 0 50 200 0 0 0 0 0 0\nbtime 17\n");
        memory(&mut page, "MemTotal:  10 kB\nHugePages_Total: 3\nActive(anon): 2 kB\n");
        network(&mut page, "h|h\n eth0: 1 2 3 4 0 0 0 0 9 10 11 12 0 0 0 0\n");
        disks(&mut page, " 8 0 sda 5 0 2 7 6 0 4 8 0 9 10\n");
        let text = page.finish();
        for line in [
            "node_load5 1.25",
            "node_cpu_seconds_total{cpu=\"0\",mode=\"idle\"} 2",
            "node_boot_time_seconds 17",
            "node_memory_MemTotal_bytes 10240",
            "node_memory_HugePages_Total 3",
            "node_memory_Active_anon_bytes 2048",
            "node_network_transmit_bytes_total{device=\"eth0\"} 9",
            "node_disk_read_bytes_total{device=\"sda\"} 1024",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
    }

    #[test]
    fn reads_this_machine() {
        let text = Collector::new("n".into()).page();
        assert!(
            text.contains("node_load1 ") && text.contains("node_memory_MemAvailable_bytes ") && text.contains("nodename=\"n\"")
        );
    }
}
