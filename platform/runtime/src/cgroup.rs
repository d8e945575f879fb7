//! Control groups, v1 and v2: make, limit, read, kill, remove. A path here is relative to every hierarchy, as
//! `/kubepods/burstable/pod<uid>`.
//!
//! Only file I/O, so it may be called from any thread; each call is a handful of small reads or writes in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::{Context, Error, Result};
use crate::types::{CgroupStats, DiskIo, LinuxContainerResources};

/// Where the hierarchies of this machine are.
#[derive(Debug)]
pub(crate) enum Hierarchies {
    /// cgroup v1: mount point by controller; `systemd` is the named one.
    V1(BTreeMap<String, PathBuf>),
    /// cgroup v2.
    V2(PathBuf),
}

/// The controllers containers are put in on v1.
const V1_CONTROLLERS: &[&str] =
    &["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "hugetlb", "perf_event", "net_cls", "systemd"];

impl Hierarchies {
    /// Those of this machine, found once.
    pub(crate) fn get() -> &'static Self {
        static FOUND: OnceLock<Hierarchies> = OnceLock::new();
        FOUND.get_or_init(|| Self::parse(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default()))
    }

    fn parse(mountinfo: &str) -> Self {
        let mut v1 = BTreeMap::new();
        let mut v2 = None;
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(point) = left.split(' ').nth(4).map(PathBuf::from) else { continue };
            let mut right = right.split(' ');
            let (kind, options) = (right.next().unwrap_or_default(), right.nth(1).unwrap_or_default());
            match kind {
                "cgroup2" if v2.is_none() => v2 = Some(point),
                "cgroup" => {
                    for option in options.split(',') {
                        let name = option.strip_prefix("name=").unwrap_or(option);
                        if V1_CONTROLLERS.contains(&name) {
                            v1.entry(name.to_owned()).or_insert_with(|| point.clone());
                        }
                    }
                }
                _ => {}
            }
        }
        // A hybrid machine has its controllers in v1.
        match v2 {
            Some(root) if !v1.contains_key("memory") => Self::V2(root),
            _ => Self::V1(v1),
        }
    }

    /// Directories of one cgroup, once each.
    fn dirs(&self, path: &str) -> Vec<PathBuf> {
        let path = path.trim_start_matches('/');
        match self {
            Self::V1(points) => {
                let mut dirs: Vec<PathBuf> = points.values().map(|point| point.join(path)).collect();
                dirs.sort();
                dirs.dedup();
                dirs
            }
            Self::V2(root) => vec![root.join(path)],
        }
    }

    /// How a container sees its own cgroup on v1: each mount point, and what of it is there. Nothing on v2, and nothing of the
    /// named hierarchy, where libcontainer leaves containers with their shims.
    pub(crate) fn v1_views(&self, path: &str) -> Vec<(&Path, PathBuf)> {
        let Self::V1(points) = self else { return Vec::new() };
        let points: BTreeSet<&Path> =
            points.iter().filter(|(name, _)| *name != "systemd").map(|(_, point)| point.as_path()).collect();
        points.into_iter().map(|point| (point, point.join(path.trim_start_matches('/')))).collect()
    }

    /// Directory of one cgroup in one controller.
    pub(crate) fn dir(&self, controller: &str, path: &str) -> Option<PathBuf> {
        let path = path.trim_start_matches('/');
        match self {
            Self::V1(points) => points.get(controller).map(|point| point.join(path)),
            Self::V2(root) => Some(root.join(path)),
        }
    }
}

/// Makes a cgroup and its parents, with all controllers available inside.
pub(crate) fn create(path: &str) -> Result<()> {
    match Hierarchies::get() {
        Hierarchies::V1(points) => {
            for (controller, point) in points {
                let mut dir = point.clone();
                for part in path.split('/').filter(|part| !part.is_empty()) {
                    let parent = dir.clone();
                    dir.push(part);
                    match fs::create_dir(&dir) {
                        // A fresh cpuset is empty, and nothing can live in it.
                        Ok(()) if controller == "cpuset" => {
                            for file in ["cpuset.cpus", "cpuset.mems"] {
                                let value = fs::read_to_string(parent.join(file)).unwrap_or_default();
                                write(&dir.join(file), value.trim())?;
                            }
                        }
                        Ok(()) => {}
                        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                        Err(error) => return Err(Error::internal(format!("create cgroup {}", dir.display()), error)),
                    }
                }
            }
            Ok(())
        }
        Hierarchies::V2(root) => {
            let mut dir = root.clone();
            for part in path.split('/').filter(|part| !part.is_empty()) {
                enable_controllers(&dir)?;
                dir.push(part);
                match fs::create_dir(&dir) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(Error::internal(format!("create cgroup {}", dir.display()), error));
                    }
                    _ => {}
                }
            }
            enable_controllers(&dir)
        }
    }
}

fn enable_controllers(dir: &Path) -> Result<()> {
    let available = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    let enabled = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
    let missing: Vec<String> = available
        .split_whitespace()
        .filter(|name| !enabled.split_whitespace().any(|one| one == *name))
        .map(|name| format!("+{name}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    write(&dir.join("cgroup.subtree_control"), &missing.join(" "))
}

/// Puts a process into a cgroup of every hierarchy.
pub(crate) fn join(path: &str, pid: i32) -> Result<()> {
    for dir in Hierarchies::get().dirs(path) {
        write(&dir.join("cgroup.procs"), &pid.to_string())?;
    }
    Ok(())
}

/// The cgroup a process is in, by the memory controller.
pub(crate) fn path_of(pid: i32) -> Result<String> {
    let table = fs::read_to_string(format!("/proc/{pid}/cgroup")).context(|| format!("read cgroups of process {pid}"))?;
    let unified = matches!(Hierarchies::get(), Hierarchies::V2(_));
    table
        .lines()
        .filter_map(|line| line.split_once(':')?.1.split_once(':'))
        .find(
            |(controllers, _)| {
                if unified { controllers.is_empty() } else { controllers.split(',').any(|name| name == "memory") }
            },
        )
        .map(|(_, path)| path.to_owned())
        .ok_or_else(|| Error::not_found("cgroup", format!("of process {pid}")))
}

/// The `cgroup.procs` files of the cgroups a process is in.
pub(crate) fn procs_files_of(pid: i32) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string(format!("/proc/{pid}/cgroup")).context(|| format!("read cgroups of process {pid}"))?;
    let mut files = Vec::new();
    for line in table.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let dir = match Hierarchies::get() {
            Hierarchies::V2(root) if controllers.is_empty() => Some(root.join(path.trim_start_matches('/'))),
            Hierarchies::V2(_) => None,
            hierarchies => {
                controllers.split(',').find_map(|name| hierarchies.dir(name.strip_prefix("name=").unwrap_or(name), path))
            }
        };
        files.extend(dir.map(|dir| dir.join("cgroup.procs")));
    }
    Ok(files)
}

/// Processes in a cgroup and, with `below`, in those under it.
pub(crate) fn processes(path: &str, below: bool) -> Vec<i32> {
    let mut found = Vec::new();
    let Some(dir) = Hierarchies::get().dir("memory", path) else { return found };
    collect_processes(&dir, below, &mut found);
    found
}

fn collect_processes(dir: &Path, below: bool, found: &mut Vec<i32>) {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    if below && let Ok(entries) = fs::read_dir(dir) {
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            collect_processes(&entry.path(), true, found);
        }
    }
}

/// Kills everything in a cgroup. Processes made meanwhile are caught by the next round.
pub(crate) fn kill_all(path: &str) {
    if let Hierarchies::V2(root) = Hierarchies::get()
        && fs::write(root.join(path.trim_start_matches('/')).join("cgroup.kill"), "1").is_ok()
    {
        return;
    }
    for _ in 0..8 {
        let pids = processes(path, true);
        if pids.is_empty() {
            return;
        }
        for pid in pids {
            // It may be gone already.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Removes a cgroup and those below it. Waits up to half a second for killed processes to be gone.
pub(crate) fn remove(path: &str) -> Result<()> {
    if path.trim_matches('/').is_empty() {
        return Ok(());
    }
    for dir in Hierarchies::get().dirs(path) {
        let mut tries = 0;
        while let Err(error) = remove_tree(&dir) {
            if error.raw_os_error() != Some(nix::libc::EBUSY) || tries == 50 {
                return Err(Error::internal(format!("remove cgroup {}", dir.display()), error));
            }
            tries += 1;
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(())
}

/// Removes a cgroup that has nothing below it; says whether it is gone.
pub(crate) fn remove_if_empty(path: &str) -> bool {
    let mut gone = true;
    for dir in Hierarchies::get().dirs(path) {
        gone &= fs::remove_dir(&dir).is_ok() || !dir.exists();
    }
    gone
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Writes the limits that are set; the others stay.
pub(crate) fn apply(path: &str, resources: &LinuxContainerResources) -> Result<()> {
    let writes = match Hierarchies::get() {
        Hierarchies::V1(_) => v1_writes(resources),
        Hierarchies::V2(_) => v2_writes(resources),
    };
    for (controller, file, value) in &writes {
        let dir = Hierarchies::get()
            .dir(controller, path)
            .ok_or_else(|| Error::Unsupported(format!("this machine has no cgroup controller {controller}")))?;
        let file = dir.join(file);
        // Where memory and swap are limited together, their order depends on which way the limit moves.
        if let Err(error) = fs::write(&file, value) {
            if file.ends_with("memory.limit_in_bytes") && resources.memory_swap_limit_in_bytes != 0 {
                write(&dir.join("memory.memsw.limit_in_bytes"), &resources.memory_swap_limit_in_bytes.to_string())?;
                write(&file, value)?;
                continue;
            }
            if !file.exists() {
                return Err(Error::Unsupported(format!("this kernel has no {}", file.display())));
            }
            return Err(Error::internal(format!("write {value} to {}", file.display()), error));
        }
    }
    Ok(())
}

type Write = (&'static str, String, String);

fn v1_writes(resources: &LinuxContainerResources) -> Vec<Write> {
    let mut writes: Vec<Write> = Vec::new();
    let mut set = |controller, file: &str, value: String| writes.push((controller, file.to_owned(), value));
    if resources.cpu_shares != 0 {
        set("cpu", "cpu.shares", resources.cpu_shares.to_string());
    }
    if resources.cpu_period != 0 {
        set("cpu", "cpu.cfs_period_us", resources.cpu_period.to_string());
    }
    if resources.cpu_quota != 0 {
        set("cpu", "cpu.cfs_quota_us", resources.cpu_quota.max(-1).to_string());
    }
    if !resources.cpuset_cpus.is_empty() {
        set("cpuset", "cpuset.cpus", resources.cpuset_cpus.clone());
    }
    if !resources.cpuset_mems.is_empty() {
        set("cpuset", "cpuset.mems", resources.cpuset_mems.clone());
    }
    if resources.memory_limit_in_bytes != 0 {
        set("memory", "memory.limit_in_bytes", resources.memory_limit_in_bytes.to_string());
    }
    if resources.memory_swap_limit_in_bytes != 0 {
        set("memory", "memory.memsw.limit_in_bytes", resources.memory_swap_limit_in_bytes.to_string());
    }
    if resources.pids_limit != 0 {
        set("pids", "pids.max", pids(resources.pids_limit));
    }
    for limit in &resources.hugepage_limits {
        set("hugetlb", &format!("hugetlb.{}.limit_in_bytes", limit.page_size), limit.limit.to_string());
    }
    writes
}

fn v2_writes(resources: &LinuxContainerResources) -> Vec<Write> {
    let mut writes: Vec<Write> = Vec::new();
    let mut set = |file: &str, value: String| writes.push(("memory", file.to_owned(), value));
    if resources.cpu_shares != 0 {
        set("cpu.weight", weight(resources.cpu_shares).to_string());
    }
    if resources.cpu_quota != 0 || resources.cpu_period != 0 {
        let quota = if resources.cpu_quota > 0 { resources.cpu_quota.to_string() } else { "max".to_owned() };
        let period = if resources.cpu_period == 0 { 100_000 } else { resources.cpu_period };
        set("cpu.max", format!("{quota} {period}"));
    }
    if !resources.cpuset_cpus.is_empty() {
        set("cpuset.cpus", resources.cpuset_cpus.clone());
    }
    if !resources.cpuset_mems.is_empty() {
        set("cpuset.mems", resources.cpuset_mems.clone());
    }
    if resources.memory_limit_in_bytes != 0 {
        set("memory.max", bytes_or_max(resources.memory_limit_in_bytes));
    }
    if resources.memory_swap_limit_in_bytes != 0 {
        // v2 limits swap alone, the message both together.
        let swap = match resources.memory_swap_limit_in_bytes {
            total if total < 0 => -1,
            total => total.saturating_sub(resources.memory_limit_in_bytes.max(0)),
        };
        set("memory.swap.max", if swap < 0 { "max".to_owned() } else { swap.to_string() });
    }
    if resources.pids_limit != 0 {
        set("pids.max", pids(resources.pids_limit));
    }
    for limit in &resources.hugepage_limits {
        set(&format!("hugetlb.{}.max", limit.page_size), limit.limit.to_string());
    }
    for (file, value) in &resources.unified {
        set(file, value.clone());
    }
    writes
}

fn pids(limit: i64) -> String {
    if limit < 0 { "max".to_owned() } else { limit.to_string() }
}

fn bytes_or_max(limit: i64) -> String {
    if limit < 0 { "max".to_owned() } else { limit.to_string() }
}

/// v1 shares (2..=262144) as v2 weight (1..=10000), as runc's `ConvertCPUSharesToCgroupV2Value`.
pub(crate) fn weight(shares: u64) -> u64 {
    1 + ((shares.clamp(2, 262_144) - 2) * 9_999) / 262_142
}

fn write(file: &Path, value: &str) -> Result<()> {
    fs::write(file, value).context(|| format!("write {value} to {}", file.display()))
}

/// What a cgroup has used. Files the kernel lacks count as zero.
///
/// # Errors
/// [`Error::NotFound`] when there is no such cgroup.
pub(crate) fn stats(path: &str) -> Result<CgroupStats> {
    let exists = Hierarchies::get().dir("memory", path).is_some_and(|dir| dir.exists());
    if !exists {
        return Err(Error::not_found("cgroup", path));
    }
    Ok(match Hierarchies::get() {
        Hierarchies::V1(_) => v1_stats(path),
        Hierarchies::V2(root) => v2_stats(&root.join(path.trim_start_matches('/'))),
    })
}

fn number(file: &Path) -> u64 {
    fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn table(file: &Path) -> HashMap<String, u64> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(key, value)| Some((key.to_owned(), value.trim().parse().ok()?)))
        .collect()
}

/// A limit as v1 writes it: none is a huge number of pages.
fn v1_limit(value: u64) -> u64 {
    if value > 1 << 62 { 0 } else { value }
}

fn v1_stats(path: &str) -> CgroupStats {
    let hierarchies = Hierarchies::get();
    let file = |controller: &str, name: &str| hierarchies.dir(controller, path).map(|dir| dir.join(name)).unwrap_or_default();
    let mut stats = CgroupStats::default();

    let throttling = table(&file("cpu", "cpu.stat"));
    let get = |table: &HashMap<String, u64>, key: &str| table.get(key).copied().unwrap_or(0);
    stats.cpu.usage_core_nano_seconds = number(&file("cpuacct", "cpuacct.usage"));
    stats.cpu.user_nano_seconds = number(&file("cpuacct", "cpuacct.usage_user"));
    stats.cpu.system_nano_seconds = number(&file("cpuacct", "cpuacct.usage_sys"));
    stats.cpu.periods = get(&throttling, "nr_periods");
    stats.cpu.throttled_periods = get(&throttling, "nr_throttled");
    stats.cpu.throttled_nano_seconds = get(&throttling, "throttled_time");

    let memory = table(&file("memory", "memory.stat"));
    stats.memory.usage_bytes = number(&file("memory", "memory.usage_in_bytes"));
    stats.memory.max_usage_bytes = number(&file("memory", "memory.max_usage_in_bytes"));
    stats.memory.working_set_bytes = stats.memory.usage_bytes.saturating_sub(get(&memory, "total_inactive_file"));
    stats.memory.rss_bytes = get(&memory, "total_rss");
    stats.memory.cache_bytes = get(&memory, "total_cache");
    stats.memory.mapped_file_bytes = get(&memory, "total_mapped_file");
    stats.memory.swap_bytes = get(&memory, "total_swap");
    stats.memory.page_faults = get(&memory, "total_pgfault");
    stats.memory.major_page_faults = get(&memory, "total_pgmajfault");
    stats.memory.limit_bytes = v1_limit(number(&file("memory", "memory.limit_in_bytes")));
    stats.memory.failcnt = number(&file("memory", "memory.failcnt"));
    stats.memory.oom_kills = get(&table(&file("memory", "memory.oom_control")), "oom_kill");

    stats.process.process_count = number(&file("pids", "pids.current"));
    stats.process.limit = number(&file("pids", "pids.max"));

    let bytes = fs::read_to_string(file("blkio", "blkio.throttle.io_service_bytes_recursive")).unwrap_or_default();
    let operations = fs::read_to_string(file("blkio", "blkio.throttle.io_serviced_recursive")).unwrap_or_default();
    stats.io = v1_io(&bytes, &operations);
    stats
}

fn v1_io(bytes: &str, operations: &str) -> Vec<DiskIo> {
    let mut devices: BTreeMap<(u64, u64), DiskIo> = BTreeMap::new();
    let mut add = |text: &str, field: fn(&mut DiskIo, &str, u64)| {
        for line in text.lines() {
            let mut parts = line.split_whitespace();
            let (Some(device), Some(operation), Some(value)) = (parts.next(), parts.next(), parts.next()) else { continue };
            let Some(key) = device_number(device) else { continue };
            let Ok(value) = value.parse() else { continue };
            field(
                devices.entry(key).or_insert_with(|| DiskIo { major: key.0, minor: key.1, ..DiskIo::default() }),
                operation,
                value,
            );
        }
    };
    add(bytes, |io, operation, value| match operation {
        "Read" => io.read_bytes = value,
        "Write" => io.write_bytes = value,
        _ => {}
    });
    add(operations, |io, operation, value| match operation {
        "Read" => io.reads = value,
        "Write" => io.writes = value,
        _ => {}
    });
    devices.into_values().collect()
}

fn device_number(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn v2_stats(dir: &Path) -> CgroupStats {
    let mut stats = CgroupStats::default();
    let get = |table: &HashMap<String, u64>, key: &str| table.get(key).copied().unwrap_or(0);

    let cpu = table(&dir.join("cpu.stat"));
    stats.cpu.usage_core_nano_seconds = get(&cpu, "usage_usec") * 1_000;
    stats.cpu.user_nano_seconds = get(&cpu, "user_usec") * 1_000;
    stats.cpu.system_nano_seconds = get(&cpu, "system_usec") * 1_000;
    stats.cpu.periods = get(&cpu, "nr_periods");
    stats.cpu.throttled_periods = get(&cpu, "nr_throttled");
    stats.cpu.throttled_nano_seconds = get(&cpu, "throttled_usec") * 1_000;

    let memory = table(&dir.join("memory.stat"));
    let events = table(&dir.join("memory.events"));
    stats.memory.usage_bytes = number(&dir.join("memory.current"));
    stats.memory.max_usage_bytes = number(&dir.join("memory.peak"));
    stats.memory.working_set_bytes = stats.memory.usage_bytes.saturating_sub(get(&memory, "inactive_file"));
    stats.memory.rss_bytes = get(&memory, "anon");
    stats.memory.cache_bytes = get(&memory, "file");
    stats.memory.mapped_file_bytes = get(&memory, "file_mapped");
    stats.memory.swap_bytes = number(&dir.join("memory.swap.current"));
    stats.memory.page_faults = get(&memory, "pgfault");
    stats.memory.major_page_faults = get(&memory, "pgmajfault");
    stats.memory.limit_bytes = number(&dir.join("memory.max"));
    stats.memory.failcnt = get(&events, "max");
    stats.memory.oom_kills = get(&events, "oom_kill");

    stats.process.process_count = number(&dir.join("pids.current"));
    stats.process.limit = number(&dir.join("pids.max"));

    let io = fs::read_to_string(dir.join("io.stat")).unwrap_or_default();
    for line in io.lines() {
        let mut parts = line.split(' ');
        let Some((major, minor)) = parts.next().and_then(device_number) else { continue };
        let mut device = DiskIo { major, minor, ..DiskIo::default() };
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            let value = value.parse().unwrap_or(0);
            match key {
                "rbytes" => device.read_bytes = value,
                "wbytes" => device.write_bytes = value,
                "rios" => device.reads = value,
                "wios" => device.writes = value,
                _ => {}
            }
        }
        stats.io.push(device);
    }
    stats
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_both_kinds() {
        let v1 = "31 30 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
                  32 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                  33 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                  34 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let Hierarchies::V1(points) = Hierarchies::parse(v1) else { panic!("hybrid is v1") };
        assert_eq!(points["systemd"], Path::new("/sys/fs/cgroup/systemd"));
        assert_eq!(points.len(), 3);
        let both = "31 30 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n";
        let views = Hierarchies::parse(both);
        assert_eq!(
            views.v1_views("/a/b"),
            [(Path::new("/sys/fs/cgroup/cpu,cpuacct"), PathBuf::from("/sys/fs/cgroup/cpu,cpuacct/a/b"))]
        );
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        assert!(matches!(Hierarchies::parse(v2), Hierarchies::V2(root) if root == Path::new("/sys/fs/cgroup")));
    }

    #[test]
    fn shares_become_weight() {
        assert_eq!([2, 1024, 262_144].map(weight), [1, 39, 10_000]);
    }

    #[test]
    fn unset_limits_are_not_written() {
        assert!(v1_writes(&LinuxContainerResources::default()).is_empty());
        assert!(v2_writes(&LinuxContainerResources::default()).is_empty());
    }

    #[test]
    fn block_devices_add_up() {
        let io = v1_io("8:0 Read 10\n8:0 Write 20\n8:0 Total 30\nTotal 30\n", "8:0 Read 1\n8:0 Write 2\n");
        assert_eq!(io, [DiskIo { major: 8, minor: 0, read_bytes: 10, write_bytes: 20, reads: 1, writes: 2 }]);
    }
}
