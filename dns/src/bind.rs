//! Addresses to serve on: the cluster DNS address is put on a dummy interface of the node, so that it answers without any
//! translation of addresses, from the node as from its pods.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use futures::TryStreamExt as _;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket,
    sockopt::{Ipv6V6Only, RcvBuf, ReuseAddr, ReusePort},
};
use rtnetlink::{
    Handle, LinkBridge, LinkDummy, LinkUnspec,
    packet_route::address::{AddressAttribute, AddressFlags},
};
use tokio::net::{TcpListener, TcpSocket};

use crate::{Error, Result};

/// The interface that carries the cluster DNS address.
const INTERFACE: &str = "pharos-dns";
/// The kernel answers in microseconds; waiting on its one lock of all interfaces may take seconds on a busy machine.
const DEADLINE: Duration = Duration::from_secs(10);
/// What the kernel keeps of queries while all workers are busy: some 2,000 of them.
const RECEIVE_BUFFER: usize = 1 << 20;
const BACKLOG: u32 = 1024;

/// Puts addresses on the dummy interface of the process' network namespace, which it makes if need be. Idempotent.
pub(crate) async fn claim(addresses: &[IpAddr]) -> Result<()> {
    if addresses.is_empty() {
        return Ok(());
    }
    with_netlink("claim the cluster DNS address", async |handle| {
        let index = match index(&handle).await? {
            Some(index) => index,
            None => {
                add(&handle).await?;
                index(&handle).await?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?
            }
        };
        handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await.map_err(other)?;
        for address in addresses {
            let prefix = if address.is_ipv4() { 32 } else { 128 };
            let mut request = handle.address().add(index, *address, prefix).replace();
            if address.is_ipv6() {
                // Duplicate detection would keep it unusable for a second, and there is nobody to detect.
                let flags = AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Permanent);
                request.message_mut().attributes.push(flags);
            }
            request.execute().await.map_err(other)?;
        }
        Ok(())
    })
    .await
}

/// Removes the dummy interface, and with it the addresses. That there is none is success.
pub(crate) async fn release() -> Result<()> {
    with_netlink("release the cluster DNS address", async |handle| match index(&handle).await? {
        Some(index) => handle.link().del(index).execute().await.map_err(other),
        None => Ok(()),
    })
    .await
}

/// Makes the interface: a dummy one, or a bridge with no ports, which is as good, where the kernel has no dummy ones.
async fn add(handle: &Handle) -> io::Result<()> {
    match handle.link().add(LinkDummy::new(INTERFACE).build()).execute().await {
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -(nix::errno::Errno::EOPNOTSUPP as i32) => {
            handle.link().add(LinkBridge::new(INTERFACE).build()).execute().await.map_err(other)
        }
        outcome => outcome.map_err(other),
    }
}

async fn index(handle: &Handle) -> io::Result<Option<u32>> {
    match handle.link().get().match_name(INTERFACE).execute().try_next().await {
        Ok(link) => Ok(link.map(|link| link.header.index)),
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -(nix::errno::Errno::ENODEV as i32) => Ok(None),
        Err(error) => Err(other(error)),
    }
}

async fn with_netlink(action: &str, work: impl AsyncFnOnce(Handle) -> io::Result<()>) -> Result<()> {
    let failed = |source| Error::Interface { action: action.to_owned(), source };
    let (connection, handle, _) = rtnetlink::new_connection().map_err(failed)?;
    tokio::select! {
        biased;
        done = tokio::time::timeout(DEADLINE, work(handle)) => {
            done.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(failed)
        }
        () = connection => Err(failed(io::ErrorKind::ConnectionAborted.into())),
    }
}

fn other(error: rtnetlink::Error) -> io::Error {
    io::Error::other(error)
}

/// UDP sockets that share one address, among which the kernel spreads clients, and the TCP listener at the same port.
pub(crate) fn listen(address: SocketAddr, sockets: usize) -> Result<(SocketAddr, Vec<UdpSocket>, TcpListener)> {
    let failed = |source| Error::Listen { address, source };
    // Port 0: the port that TCP gets may be taken for UDP, then another is tried.
    let mut tries = if address.port() == 0 { 16 } else { 1 };
    loop {
        tries -= 1;
        let listener = tcp(address).map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let udp: io::Result<Vec<_>> = (0..sockets.max(1)).map(|_| udp(bound).map_err(io::Error::from)).collect();
        match udp {
            Ok(udp) => return Ok((bound, udp, listener)),
            Err(error) if tries > 0 && error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn udp(address: SocketAddr) -> nix::Result<UdpSocket> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, ReuseAddr, &true)?;
    setsockopt(&fd, ReusePort, &true)?;
    if address.is_ipv6() {
        setsockopt(&fd, Ipv6V6Only, &true)?;
    }
    // The kernel gives less where it may not give as much.
    let _ = setsockopt(&fd, RcvBuf, &RECEIVE_BUFFER);
    bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &SockaddrStorage::from(address))?;
    Ok(UdpSocket::from(fd))
}
