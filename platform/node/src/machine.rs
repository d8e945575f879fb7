//! What the machine is: the facts behind a node's capacity and `nodeInfo`, as cAdvisor reads them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use nix::sys::statvfs::statvfs;

use crate::{
    config::Config,
    quantity::{bytes, milli, millicores},
};

/// The machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machine {
    /// CPUs this process may run on.
    pub(crate) cores: u64,
    /// Memory.
    pub(crate) memory_bytes: u64,
    /// Swap.
    pub(crate) swap_bytes: u64,
    /// Size of the filesystem of the kubelet's directory.
    pub(crate) disk_bytes: u64,
    /// Go's word for the processor's architecture.
    pub(crate) architecture: String,
    /// Changes with each boot.
    pub(crate) boot_id: String,
    /// `/etc/machine-id`.
    pub(crate) machine_id: String,
    /// The firmware's UUID.
    pub(crate) system_uuid: String,
    /// Version of the kernel.
    pub(crate) kernel: String,
    /// Name of the distribution.
    pub(crate) os_image: String,
    /// Host name in lower case.
    pub(crate) hostname: String,
}

/// Space on a filesystem.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Space {
    /// Bytes in all.
    pub(crate) capacity_bytes: u64,
    /// Bytes free for users.
    pub(crate) available_bytes: u64,
    /// Inodes in all.
    pub(crate) inodes: u64,
    /// Free inodes.
    pub(crate) inodes_free: u64,
}

impl Machine {
    /// Reads the facts; what can't be read is empty.
    pub(crate) fn read(config: &Config) -> Self {
        let text = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        let machine_id = text("/etc/machine-id");
        let system_uuid = text("/sys/class/dmi/id/product_uuid");
        Self {
            cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64),
            memory_bytes: meminfo("MemTotal"),
            swap_bytes: meminfo("SwapTotal"),
            disk_bytes: space(&config.root_dir).capacity_bytes,
            architecture: match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            }
            .to_owned(),
            boot_id: text("/proc/sys/kernel/random/boot_id"),
            system_uuid: if system_uuid.is_empty() { machine_id.clone() } else { system_uuid },
            machine_id,
            kernel: text("/proc/sys/kernel/osrelease"),
            os_image: os_release(&text("/etc/os-release")),
            hostname: text("/proc/sys/kernel/hostname").to_lowercase(),
        }
    }

    /// What the node has.
    pub(crate) fn capacity(&self, config: &Config) -> BTreeMap<String, Quantity> {
        BTreeMap::from([
            ("cpu".to_owned(), Quantity(self.cores.to_string())),
            ("memory".to_owned(), bytes(self.memory_bytes)),
            ("ephemeral-storage".to_owned(), bytes(self.disk_bytes)),
            ("pods".to_owned(), Quantity(config.max_pods.to_string())),
            ("hugepages-1Gi".to_owned(), hugepages("1048576kB")),
            ("hugepages-2Mi".to_owned(), hugepages("2048kB")),
        ])
    }

    /// What is left of it for pods: less what is reserved and, of memory and disk, the hard eviction thresholds.
    pub(crate) fn allocatable(&self, config: &Config) -> BTreeMap<String, Quantity> {
        let reserved = |name: &str| config.system_reserved.get(name).and_then(|text| milli(text)).unwrap_or(0).max(0);
        let kept = |signal: &str, capacity: u64| config.eviction_hard.get(signal).map_or(0, |text| threshold(text, capacity));
        let rest = |name: &str, capacity: u64, signal: &str| {
            let reserved = u64::try_from(reserved(name) / 1000).unwrap_or(u64::MAX);
            bytes(capacity.saturating_sub(reserved).saturating_sub(kept(signal, capacity)))
        };
        let mut all = self.capacity(config);
        all.insert("cpu".to_owned(), millicores((i128::from(self.cores) * 1000 - reserved("cpu")).max(0)));
        all.insert("memory".to_owned(), rest("memory", self.memory_bytes, "memory.available"));
        all.insert("ephemeral-storage".to_owned(), rest("ephemeral-storage", self.disk_bytes, "nodefs.available"));
        all
    }
}

/// An eviction threshold in units of the signal: a quantity, or a percentage of the capacity.
pub(crate) fn threshold(text: &str, capacity: u64) -> u64 {
    match text.strip_suffix('%').and_then(|percent| percent.parse::<f64>().ok()) {
        Some(percent) => (capacity as f64 * percent / 100.0) as u64,
        None => milli(text).and_then(|milli| u64::try_from(milli / 1000).ok()).unwrap_or(0),
    }
}

/// A line of `/proc/meminfo` in bytes.
pub(crate) fn meminfo(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Space on the filesystem of a path.
pub(crate) fn space(path: &Path) -> Space {
    let existing = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let Ok(stat) = statvfs(existing) else { return Space::default() };
    Space {
        capacity_bytes: stat.blocks() * stat.fragment_size(),
        available_bytes: stat.blocks_available() * stat.fragment_size(),
        inodes: stat.files(),
        inodes_free: stat.files_free(),
    }
}

/// What a file or tree takes of its filesystem.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Used {
    /// Bytes on disk.
    pub(crate) bytes: u64,
    /// Inodes.
    pub(crate) inodes: u64,
}

/// Measures a file or tree as `du -x` counts: a file of several names once, other file systems not at all. Blocking.
pub(crate) fn disk_usage(path: &Path) -> Used {
    let Ok(top) = fs::symlink_metadata(path) else { return Used::default() };
    let mut used = Used::default();
    let mut linked = BTreeSet::new();
    let mut todo = vec![path.to_owned()];
    while let Some(path) = todo.pop() {
        // It may be gone meanwhile.
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        let again = !metadata.is_dir() && metadata.nlink() > 1 && !linked.insert(metadata.ino());
        if again || metadata.dev() != top.dev() {
            continue;
        }
        used.bytes += metadata.blocks() * 512;
        used.inodes += 1;
        if metadata.is_dir() {
            todo.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
    }
    used
}

fn hugepages(size: &str) -> Quantity {
    let path = format!("/sys/kernel/mm/hugepages/hugepages-{size}/nr_hugepages");
    let count: u64 = fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let kilobytes: u64 = size.trim_end_matches("kB").parse().unwrap_or(0);
    bytes(count * kilobytes * 1024)
}

fn os_release(text: &str) -> String {
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map(|name| name.trim_matches('"').to_owned()).unwrap_or_else(|| "Linux".to_owned())
}

/// The address packets to the world would carry; no packet is sent.
pub(crate) fn default_ip() -> Option<IpAddr> {
    for (bind, to) in [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")] {
        let Ok(socket) = std::net::UdpSocket::bind(bind) else { continue };
        if socket.connect(to).is_ok()
            && let Ok(address) = socket.local_addr()
            && !address.ip().is_unspecified()
            && !address.ip().is_loopback()
        {
            return Some(address.ip());
        }
    }
    let addresses = nix::ifaddrs::getifaddrs().ok()?;
    addresses
        .filter_map(|interface| {
            interface.address.and_then(|address| address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip())))
        })
        .find(|ip| !ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_and_thresholds_are_kept() {
        let machine = Machine { cores: 4, memory_bytes: 8 << 30, disk_bytes: 100 << 30, ..Machine::default() };
        let config = Config {
            system_reserved: [("cpu", "500m"), ("memory", "1Gi")].map(|(k, v)| (k.into(), v.into())).into(),
            ..Config::default()
        };
        let all = machine.allocatable(&config);
        assert_eq!(all["cpu"].0, "3500m");
        assert_eq!(all["memory"].0, format!("{}Ki", (7 << 20) - 100 * 1024));
        assert_eq!(all["ephemeral-storage"].0, format!("{}Ki", 90 << 20));
        assert_eq!(all["pods"].0, "110");
        assert_eq!((threshold("10%", 1000), threshold("1Ki", 1000)), (100, 1024));
        assert_eq!(os_release("A=b\nPRETTY_NAME=\"Debian 12\"\n"), "Debian 12");
    }
}
