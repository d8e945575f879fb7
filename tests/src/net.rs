use std::{
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::run;

/// Network namespaces that are joined by one bridge: the machines of a cluster. They reach each other and nothing else.
pub struct Net {
    bridge: String,
    machines: Vec<String>,
}

/// Distinguishes the nets of one process.
static NEXT: AtomicU32 = AtomicU32::new(0);

impl Net {
    /// Machines at 172.31.77.1, .2 and so on, with a default route each, so that a node finds its address.
    ///
    /// # Panics
    /// If the kernel refuses.
    #[must_use]
    pub fn new(machines: usize) -> Self {
        let tag = format!("{}{}", std::process::id() % 100_000, NEXT.fetch_add(1, Ordering::Relaxed));
        let bridge = format!("ptb{tag}");
        let mut net = Self { bridge: bridge.clone(), machines: Vec::new() };
        // The bridge is in a namespace too: nothing of a test is visible on the host.
        ip(&["netns", "add", &bridge]);
        ip(&["-n", &bridge, "link", "set", "lo", "up"]);
        ip(&["-n", &bridge, "link", "add", "br0", "type", "bridge"]);
        ip(&["-n", &bridge, "address", "add", "172.31.77.254/24", "dev", "br0"]);
        ip(&["-n", &bridge, "link", "set", "br0", "up"]);
        for index in 1..=machines {
            let name = format!("pt{tag}-{index}");
            ip(&["netns", "add", &name]);
            ip(&["-n", &name, "link", "set", "lo", "up"]);
            let port = format!("port{index}");
            ip(&["-n", &name, "link", "add", "eth0", "type", "veth", "peer", "name", &port, "netns", &bridge]);
            ip(&["-n", &bridge, "link", "set", &port, "master", "br0"]);
            ip(&["-n", &bridge, "link", "set", &port, "up"]);
            ip(&["-n", &name, "address", "add", &format!("172.31.77.{index}/24"), "dev", "eth0"]);
            ip(&["-n", &name, "link", "set", "eth0", "up"]);
            ip(&["-n", &name, "route", "add", "default", "via", "172.31.77.254"]);
            net.machines.push(name);
        }
        net
    }

    /// A command on a machine, counted from 0.
    #[must_use]
    pub fn command(&self, machine: usize, program: &str) -> Command {
        // Not `ip netns exec`, which mounts another /sys without control groups.
        let mut command = Command::new("nsenter");
        command.args([&format!("--net=/run/netns/{}", self.machines[machine]), program]);
        command
    }

    /// Runs something on a thread whose sockets are a machine's.
    ///
    /// # Panics
    /// If it does, or the kernel refuses.
    pub fn on<T: Send + 'static>(&self, machine: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
        inside(&self.machines[machine], work)
    }

    /// Runs something on a thread whose sockets are those of the gateway, 172.31.77.254, which is no machine of the cluster.
    ///
    /// # Panics
    /// If it does, or the kernel refuses.
    pub fn outside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        inside(&self.bridge, work)
    }

    /// Cuts a machine off, or joins it again: packets are lost, nobody is told.
    pub fn plug(&self, machine: usize, joined: bool) {
        ip(&["-n", &self.bridge, "link", "set", &format!("port{}", machine + 1), if joined { "up" } else { "down" }]);
    }

    /// The address of a machine, counted from 0.
    #[must_use]
    pub fn address(&self, machine: usize) -> String {
        format!("172.31.77.{}", machine + 1)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in self.machines.iter().chain([&self.bridge]) {
            let _ = run(Command::new("ip").args(["netns", "delete", name]), "");
        }
    }
}

/// Sockets stay in the namespace they were made in, wherever they are used.
fn inside<T: Send + 'static>(namespace: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let namespace = std::fs::File::open(format!("/run/netns/{namespace}")).expect("the namespace is there");
    let thread = std::thread::spawn(move || {
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("tests run as root");
        work()
    });
    thread.join().expect("no panic")
}

fn ip(arguments: &[&str]) {
    let output = run(Command::new("ip").args(arguments), "");
    assert!(output.ok(), "ip {}: {}", arguments.join(" "), output.stderr);
}
