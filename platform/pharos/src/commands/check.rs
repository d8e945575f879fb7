//! `pharos check`: whether this machine is fit to run Pharos.

use std::{net::TcpListener, path::Path, process::Command};

use anyhow::bail;

use crate::{cli::CheckOptions, commands::say};

enum Verdict {
    Fine(String),
    /// Something will not work, the rest will.
    Poor(String),
    Bad(String),
}
use Verdict::{Bad, Fine, Poor};

/// # Errors
/// When something that Pharos cannot do without is missing.
pub fn run(options: &CheckOptions) -> anyhow::Result<()> {
    let mut checks = vec![
        ("root", root()),
        ("kernel", kernel()),
        ("cgroups", cgroups()),
        ("overlayfs", filesystem("overlay")),
        ("namespaces", namespaces()),
        ("nftables", nftables()),
        ("ip forwarding", forwarding()),
        ("VXLAN", module("vxlan", "pods of different nodes cannot reach each other")),
        ("disk", disk(&options.data_dir)),
    ];
    let ports: Vec<(String, Verdict)> = options.port.iter().map(|port| (format!("port {port}"), free(*port))).collect();
    checks.extend(ports.iter().map(|(name, verdict)| {
        let verdict = match verdict {
            Fine(text) => Fine(text.clone()),
            Poor(text) => Poor(text.clone()),
            Bad(text) => Bad(text.clone()),
        };
        (name.as_str(), verdict)
    }));
    let mut bad = 0;
    for (name, verdict) in checks {
        let (mark, text) = match verdict {
            Fine(text) => ("ok", text),
            Poor(text) => ("warning", text),
            Bad(text) => {
                bad += 1;
                ("failed", text)
            }
        };
        say(&format!("{name:<14} {mark:<8} {text}"));
    }
    if bad > 0 {
        bail!("{bad} of the checks failed: Pharos cannot run here");
    }
    Ok(())
}

fn root() -> Verdict {
    if nix::unistd::geteuid().is_root() { Fine("running as root".into()) } else { Bad("a node needs root".into()) }
}

fn kernel() -> Verdict {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let mut numbers = release.split(['.', '-']).map(|n| n.parse::<u32>().unwrap_or_default());
    let version = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    // Maps with intervals and the verdicts that the service proxy uses: as kube-proxy's nftables mode asks for.
    if version >= (5, 13) { Fine(format!("Linux {release}")) } else { Bad(format!("Linux {release} is older than 5.13")) }
}

fn cgroups() -> Verdict {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return Fine("version 2".into());
    }
    let missing: Vec<&str> = ["cpu", "memory", "pids", "devices", "freezer"]
        .into_iter()
        .filter(|c| !Path::new("/sys/fs/cgroup").join(c).exists())
        .collect();
    if missing.is_empty() { Fine("version 1".into()) } else { Bad(format!("controllers are missing: {}", missing.join(", "))) }
}

fn filesystem(name: &str) -> Verdict {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known.split_whitespace().any(|word| word == name) || loads(name) {
        Fine("present".into())
    } else {
        Bad(format!("the kernel has no {name}"))
    }
}

fn namespaces() -> Verdict {
    let missing: Vec<&str> =
        ["net", "pid", "mnt", "ipc", "uts"].into_iter().filter(|n| !Path::new("/proc/self/ns").join(n).exists()).collect();
    if missing.is_empty() { Fine("net, pid, mnt, ipc, uts".into()) } else { Bad(format!("missing: {}", missing.join(", "))) }
}

fn nftables() -> Verdict {
    match Command::new("nft").args(["list", "tables"]).output() {
        Ok(output) if output.status.success() => Fine("nft works".into()),
        Ok(output) => Bad(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(_) => Bad("nft is not installed (package nftables)".into()),
    }
}

fn forwarding() -> Verdict {
    match std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").as_deref().map(str::trim) {
        Ok("1") => Fine("on".into()),
        Ok(_) => Fine("off; a node turns it on".into()),
        Err(error) => Bad(error.to_string()),
    }
}

fn module(name: &str, consequence: &str) -> Verdict {
    if Path::new("/sys/module").join(name).exists() || loads(name) {
        return Fine("present".into());
    }
    Poor(format!("the kernel has no {name}: {consequence}"))
}

fn loads(module: &str) -> bool {
    Command::new("modprobe").args(["-q", "-n", module]).status().is_ok_and(|status| status.success())
}

fn disk(folder: &Path) -> Verdict {
    let existing = folder.ancestors().find(|f| f.exists()).unwrap_or(Path::new("/"));
    match nix::sys::statvfs::statvfs(existing) {
        Ok(stat) => {
            let free = (stat.blocks_available() * stat.fragment_size()) >> 20;
            let text = format!("{free} MiB free at {}", existing.display());
            if free < 512 { Poor(format!("{text}: images may not fit")) } else { Fine(text) }
        }
        Err(error) => Bad(format!("{}: {error}", existing.display())),
    }
}

fn free(port: u16) -> Verdict {
    match TcpListener::bind(("0.0.0.0", port)) {
        Ok(_) => Fine("free".into()),
        Err(error) => Bad(error.to_string()),
    }
}
