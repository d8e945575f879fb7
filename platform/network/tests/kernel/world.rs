//! Namespaces for nodes and pods, and small servers and clients inside them.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use nix::sched::{CloneFlags, setns};
use pharos_network::{HostPort, PodIps, PodNetwork, PodNetworkConfig};

const WAIT: Duration = Duration::from_secs(2);
static WORLDS: AtomicU32 = AtomicU32::new(0);

/// Namespaces that go when it is dropped.
pub(crate) struct World {
    prefix: String,
    namespaces: Vec<String>,
}

impl World {
    /// `None`, and loudly so, when this machine does not allow the test.
    pub(crate) fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: network tests need root");
            return None;
        }
        let prefix = format!("phn{}-{}", std::process::id(), WORLDS.fetch_add(1, Ordering::Relaxed));
        Some(Self { prefix, namespaces: Vec::new() })
    }

    /// A new namespace whose loopback is up.
    pub(crate) fn namespace(&mut self, name: &str) -> PathBuf {
        let name = format!("{}-{name}", self.prefix);
        ip(&["netns", "add", &name]);
        self.namespaces.push(name.clone());
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        Path::new("/run/netns").join(name)
    }

    /// A node whose uplink is `address`, in the namespace `outside` at `gateway` (both /24).
    pub(crate) fn uplink(&self, node: &Path, outside: &Path, device: &str, address: &str, gateway: &str) {
        let (node, outside) = (file_name(node), file_name(outside));
        ip(&["-n", outside, "link", "add", device, "type", "veth", "peer", "name", "uplink", "netns", node]);
        ip(&["-n", outside, "address", "add", &format!("{gateway}/24"), "dev", device]);
        ip(&["-n", outside, "link", "set", device, "up"]);
        ip(&["-n", node, "address", "add", &format!("{address}/24"), "dev", "uplink"]);
        ip(&["-n", node, "link", "set", "uplink", "up"]);
        ip(&["-n", node, "route", "add", "default", "via", gateway]);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for name in &self.namespaces {
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}

pub(crate) fn file_name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

pub(crate) fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().unwrap();
    assert!(output.status.success(), "ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
}

/// What a program prints inside a namespace.
pub(crate) fn output(namespace: &Path, program: &str, args: &[&str]) -> String {
    let output = inside(namespace, || Command::new(program).args(args).output().unwrap());
    assert!(output.status.success(), "{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `work` on a thread inside a namespace.
pub(crate) fn inside<T: Send>(namespace: &Path, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            setns(File::open(namespace).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        run.join().unwrap()
    })
}

/// Runs a future inside a namespace.
pub(crate) fn block<T: Send, F: Future<Output = T>>(namespace: &Path, work: impl FnOnce() -> F + Send) -> T {
    inside(namespace, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work())
    })
}

/// Serves TCP and UDP: answers with `name` and the client's address. Ends with the process.
pub(crate) fn serve(namespace: &Path, name: &str, port: u16) {
    let (tcp, udp) = inside(namespace, || {
        let everywhere = if Path::new("/proc/net/if_inet6").exists() {
            IpAddr::from(Ipv6Addr::UNSPECIFIED)
        } else {
            IpAddr::from(Ipv4Addr::UNSPECIFIED)
        };
        (TcpListener::bind((everywhere, port)).unwrap(), UdpSocket::bind((everywhere, port)).unwrap())
    });
    let answer = {
        let name = name.to_owned();
        move |peer: SocketAddr| format!("{name} {}", peer.ip().to_canonical())
    };
    let again = answer.clone();
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let Ok(mut stream) = stream else { return };
            let peer = stream.peer_addr().unwrap();
            let _ = stream.write_all(again(peer).as_bytes());
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 100];
        while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(answer(peer).as_bytes(), peer);
        }
    });
}

/// What a TCP server answers to a client inside a namespace.
pub(crate) fn tcp(namespace: &Path, address: &str) -> io::Result<String> {
    let address: SocketAddr = address.parse().unwrap();
    inside(namespace, || {
        let mut stream = TcpStream::connect_timeout(&address, WAIT)?;
        stream.set_read_timeout(Some(WAIT))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })
}

/// What a UDP server answers to a client inside a namespace.
pub(crate) fn udp(namespace: &Path, address: &str) -> io::Result<String> {
    let address: SocketAddr = address.parse().unwrap();
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    inside(namespace, || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(address)?;
        socket.set_read_timeout(Some(WAIT))?;
        socket.send(b"?")?;
        let mut buffer = [0; 100];
        let length = socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    })
}

/// A sandbox that is not attached yet.
pub(crate) fn pod(id: &str, netns: &Path, host_port: Option<(u16, u16)>) -> PodNetworkConfig {
    let host_ports = host_port
        .map(|(host_port, container_port)| HostPort { protocol: "TCP".into(), host_ip: None, host_port, container_port })
        .into_iter()
        .collect();
    PodNetworkConfig {
        sandbox_id: id.into(),
        netns: Some(netns.to_owned()),
        namespace: "default".into(),
        name: id.into(),
        uid: format!("uid-{id}"),
        host_ports,
    }
}

/// Attaches a sandbox on a node.
pub(crate) fn attach(node: &Path, network: &impl PodNetwork, pod: &PodNetworkConfig) -> PodIps {
    block(node, || async { network.attach(pod).await }).unwrap_or_else(|error| panic!("{error}: {:?}", error.source))
}
