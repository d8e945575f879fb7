//! What a server and an agent both start on their machine: the node.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::Context as _;

use crate::cli::NodeOptions;

/// This node's name: as asked for, or the host's, in lower case as node names are.
pub fn name(options: &NodeOptions) -> anyhow::Result<String> {
    let name = match &options.node_name {
        Some(name) => name.clone(),
        None => nix::unistd::gethostname().context("read the host name")?.to_string_lossy().to_lowercase(),
    };
    let mistakes = pharos_api::names::dns1123_subdomain(&name);
    anyhow::ensure!(mistakes.is_empty(), "node name {name:?}: {}", mistakes.join("; "));
    Ok(name)
}

/// This node's address: as asked for, or the one that packets to the outside would carry.
pub fn address(options: &NodeOptions) -> anyhow::Result<IpAddr> {
    if let Some(address) = options.node_ip {
        return Ok(address);
    }
    // Connecting a datagram socket sends nothing; the kernel only chooses the route.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("open a socket")?;
    let outside = SocketAddr::from(([192, 0, 2, 1], 9));
    let chosen = socket.connect(outside).and_then(|()| socket.local_addr());
    let chosen = chosen.context("this machine has no default route: say with --node-ip which address other nodes reach it at")?;
    Ok(chosen.ip())
}
