//! Addresses to serve on: the cluster DNS address is put on a dummy interface of the node, so that it answers without any
//! translation of addresses, from the node as from its pods.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket,
    sockopt::{Ipv6V6Only, RcvBuf, ReuseAddr, ReusePort},
};
use pharos_telemetry::{Backoff, Ctx};
use rtnetlink::{
    Handle, LinkBridge, LinkDummy, LinkUnspec, MulticastGroup,
    packet_core::NetlinkPayload,
    packet_route::{
        RouteNetlinkMessage,
        address::{AddressAttribute, AddressFlags},
        link::{LinkAttribute, LinkFlags, LinkMessage},
    },
};
use tokio::net::{TcpListener, TcpSocket};

use crate::{Error, Result};

/// The interface that carries the cluster DNS address.
const INTERFACE: &str = "pharos-dns";
/// The kernel answers in microseconds; waiting on its one lock of all interfaces may take seconds on a busy machine.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long to wait for what is told together.
const SETTLE: Duration = Duration::from_millis(50);
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

/// Puts the addresses back whenever somebody takes them, or the interface, away, until the component is stopped.
pub(crate) async fn keep(ctx: Ctx, addresses: Vec<IpAddr>) {
    let mut retry = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    loop {
        let failed = tokio::select! {
            biased;
            () = ctx.stopped() => return,
            failed = keep_once(&addresses, &mut retry) => failed,
        };
        let wait = retry.next_wait();
        tracing::warn!(
            error = &failed as &dyn std::error::Error,
            attempt = retry.attempt(),
            "the cluster DNS address is not watched, trying again"
        );
        tokio::select! {
            () = ctx.stopped() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Claims and watches; returns why that ended.
async fn keep_once(addresses: &[IpAddr], retry: &mut Backoff) -> Error {
    let failed = |source| Error::Interface { action: "watch the cluster DNS address".to_owned(), source };
    // Opened before the claim: nothing is missed in between.
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let (connection, _handle, mut told) = match rtnetlink::new_multicast_connection(&groups) {
        Ok(opened) => opened,
        Err(error) => return failed(error),
    };
    let follow = async {
        if let Err(error) = claim(addresses).await {
            return error;
        }
        while let Some((message, _)) = told.next().await {
            if !takes_away(&message.payload, addresses) {
                continue;
            }
            tracing::warn!(interface = INTERFACE, "the cluster DNS address was taken away, claiming it again");
            // An interface goes with its addresses: one claim answers for what was told together.
            tokio::time::sleep(SETTLE).await;
            while told.next().now_or_never().flatten().is_some() {}
            if let Err(error) = claim(addresses).await {
                return error;
            }
            retry.reset();
        }
        failed(io::ErrorKind::ConnectionAborted.into())
    };
    tokio::select! {
        error = follow => error,
        () = connection => failed(io::ErrorKind::ConnectionAborted.into()),
    }
}

/// Whether the kernel tells that the interface is gone or down, or that it lost one of the addresses.
fn takes_away(payload: &NetlinkPayload<RouteNetlinkMessage>, addresses: &[IpAddr]) -> bool {
    let NetlinkPayload::InnerMessage(message) = payload else { return matches!(payload, NetlinkPayload::Overrun(_)) };
    let is_ours = |link: &LinkMessage| {
        link.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::IfName(name) if name == INTERFACE))
    };
    match message {
        RouteNetlinkMessage::DelLink(link) => is_ours(link),
        RouteNetlinkMessage::NewLink(link) => is_ours(link) && !link.header.flags.contains(LinkFlags::Up),
        RouteNetlinkMessage::DelAddress(address) => address.attributes.iter().any(|attribute| match attribute {
            AddressAttribute::Address(address) | AddressAttribute::Local(address) => addresses.contains(address),
            _ => false,
        }),
        _ => false,
    }
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

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;

    async fn is_claimed() -> bool {
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        let look = async {
            let Some(index) = index(&handle).await.unwrap() else { return false };
            let found: Vec<_> = handle.address().get().execute().try_collect().await.unwrap();
            found.iter().any(|message| message.header.index == index && message.header.prefix_len == 32)
        };
        tokio::select! {
            found = look => found,
            () = connection => panic!("netlink ended"),
        }
    }

    async fn until_claimed() {
        for _ in 0..200 {
            if is_claimed().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the address is not there");
    }

    #[test]
    fn an_address_that_is_taken_away_comes_back() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        // A network namespace of this test's own thread.
        let body = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                let token = CancellationToken::new();
                let ctx = Ctx::for_test(token.clone());
                let address: IpAddr = "10.96.0.10".parse().unwrap();
                let kept = ctx.spawn("keep", keep(ctx.clone(), vec![address]));
                until_claimed().await;
                // Twice: putting it back must not end the watch.
                for _ in 0..2 {
                    release().await.unwrap();
                    until_claimed().await;
                }
                token.cancel();
                kept.await.unwrap();
            });
        };
        std::thread::spawn(body).join().unwrap();
    }
}
