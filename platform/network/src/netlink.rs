//! Talks to the kernel about interfaces, addresses and routes: here, or inside another network namespace.

use std::{fs::File, future::Future, net::IpAddr, os::fd::AsFd as _, path::Path, time::Duration};

use futures::TryStreamExt as _;
use nix::{errno::Errno, sched::CloneFlags};
use rtnetlink::{
    Handle,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressFlags},
        link::{LinkAttribute, LinkMessage},
        route::{RouteAttribute, RouteMessage},
    },
};

use crate::{
    cidr::Cidr,
    error::{Doing as _, Error, Result, errno},
};

/// The kernel answers in microseconds; waiting on its one lock of all interfaces may take seconds on a busy machine.
const DEADLINE: Duration = Duration::from_secs(10);

/// Opens a netlink socket in the caller's network namespace for the length of `work`. Cancel-safe.
pub(crate) async fn with_netlink<T, F>(action: &str, work: impl FnOnce(Handle) -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let (connection, handle, _) = rtnetlink::new_connection().doing(|| "open a netlink socket".to_owned())?;
    tokio::select! {
        biased;
        done = tokio::time::timeout(DEADLINE, work(handle)) => {
            done.unwrap_or_else(|_| Err(Error::Deadline { action: action.to_owned(), after: DEADLINE }))
        }
        () = connection => Err(std::io::Error::from(std::io::ErrorKind::ConnectionAborted)).doing(|| action.to_owned()),
    }
}

/// Runs `work` on a thread of its own inside a network namespace.
///
/// Never on an async worker: a thread's namespace is its own, and another task would find itself in the pod's.
pub(crate) async fn in_namespace<T, F, W>(path: &Path, action: &'static str, work: W) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>>,
    W: FnOnce(Handle) -> F + Send + 'static,
{
    let (send, receive) = tokio::sync::oneshot::channel();
    let path = path.to_owned();
    let body = move || -> Result<T> {
        let namespace = File::open(&path).doing(|| format!("open network namespace {}", path.display()))?;
        nix::sched::setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)
            .doing(|| format!("enter network namespace {}", path.display()))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .doing(|| "start a runtime in a network namespace".to_owned())?;
        runtime.block_on(with_netlink(action, work))
    };
    std::thread::Builder::new()
        .name("netns".into())
        .spawn(move || {
            // Nobody waits any more when the caller was cancelled.
            let _ = send.send(body());
        })
        .doing(|| "start a thread".to_owned())?;
    receive.await.map_err(|_| std::io::Error::other("the thread in the namespace panicked")).doing(|| action.to_owned())?
}

/// An interface by name; `None` if there is none.
pub(crate) async fn link(handle: &Handle, name: &str) -> Result<Option<LinkMessage>> {
    match handle.link().get().match_name(name).execute().try_next().await {
        Ok(link) => Ok(link),
        Err(error) if errno(&error) == Some(Errno::ENODEV as i32) => Ok(None),
        Err(error) => Err(error).doing(|| format!("look for interface {name}")),
    }
}

/// Removes an interface. That there is none is success.
pub(crate) async fn remove_link(handle: &Handle, name: &str) -> Result<()> {
    let Some(link) = link(handle, name).await? else { return Ok(()) };
    match handle.link().del(link.header.index).execute().await {
        Err(error) if errno(&error) != Some(Errno::ENODEV as i32) => Err(error).doing(|| format!("remove interface {name}")),
        _ => Ok(()),
    }
}

/// The names of all interfaces.
pub(crate) async fn link_names(handle: &Handle) -> Result<Vec<String>> {
    let links: Vec<LinkMessage> = handle.link().get().execute().try_collect().await.doing(|| "list interfaces".to_owned())?;
    Ok(links.iter().filter_map(name_of).map(str::to_owned).collect())
}

/// An interface's name.
pub(crate) fn name_of(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

/// An interface's MTU in bytes.
pub(crate) fn mtu_of(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|a| match a {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}

/// An interface's hardware address.
pub(crate) fn mac_of(link: &LinkMessage) -> Option<&[u8]> {
    link.attributes.iter().find_map(|a| match a {
        LinkAttribute::Address(address) => Some(address.as_slice()),
        _ => None,
    })
}

/// Adds an address without IPv6 duplicate detection, which would keep it unusable for a second. Idempotent.
pub(crate) async fn add_address(handle: &Handle, index: u32, address: IpAddr, prefix: u8) -> Result<()> {
    let mut request = handle.address().add(index, address, prefix).replace();
    if address.is_ipv6() {
        request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Permanent));
    }
    match request.execute().await {
        Err(error) if errno(&error) != Some(Errno::EEXIST as i32) => {
            Err(error).doing(|| format!("add address {address}/{prefix}"))
        }
        _ => Ok(()),
    }
}

/// The addresses of an interface, or of all.
pub(crate) async fn addresses(handle: &Handle, index: Option<u32>) -> Result<Vec<Cidr>> {
    let mut request = handle.address().get();
    if let Some(index) = index {
        request = request.set_link_index_filter(index);
    }
    let mut found = Vec::new();
    let messages: Vec<_> = request.execute().try_collect().await.doing(|| "list addresses".to_owned())?;
    for message in messages {
        // The kernel ignores the filter unless it checks strictly.
        if index.is_some_and(|index| index != message.header.index) {
            continue;
        }
        let local = message.attributes.iter().find_map(|a| match a {
            AddressAttribute::Local(address) => Some(*address),
            _ => None,
        });
        let address = local.or_else(|| {
            message.attributes.iter().find_map(|a| match a {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            })
        });
        if let Some(address) = address {
            found.push(Cidr { address, prefix: message.header.prefix_len });
        }
    }
    Ok(found)
}

/// The routes of the main table, of one family.
pub(crate) async fn routes(handle: &Handle, ipv4: bool) -> Result<Vec<RouteMessage>> {
    let mut filter = RouteMessage::default();
    filter.header.address_family = if ipv4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let routes: Vec<RouteMessage> =
        handle.route().get(filter).execute().try_collect().await.doing(|| "list routes".to_owned())?;
    Ok(routes.into_iter().filter(|r| r.header.table == 254).collect())
}

/// The interface a route leads out of.
pub(crate) fn interface_of(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

/// The interface of the default route, of IPv4 or else of IPv6.
pub(crate) async fn uplink(handle: &Handle) -> Result<Option<LinkMessage>> {
    for ipv4 in [true, false] {
        let default = routes(handle, ipv4).await?.into_iter().find(|r| r.header.destination_prefix_length == 0);
        if let Some(index) = default.as_ref().and_then(interface_of) {
            return handle
                .link()
                .get()
                .match_index(index)
                .execute()
                .try_next()
                .await
                .doing(|| "look for the interface of the default route".to_owned());
        }
    }
    Ok(None)
}

/// The interface that has an address.
pub(crate) async fn interface_with(handle: &Handle, address: IpAddr) -> Result<Option<LinkMessage>> {
    let request = handle.address().get().set_address_filter(address);
    let found: Vec<_> = request.execute().try_collect().await.doing(|| format!("look for address {address}"))?;
    let Some(index) = found.first().map(|m| m.header.index) else { return Ok(None) };
    handle.link().get().match_index(index).execute().try_next().await.doing(|| format!("look for the interface of {address}"))
}

/// Writes a kernel setting of the caller's network namespace, such as `net/ipv4/ip_forward`, if it has another value.
pub(crate) fn sysctl(name: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys").join(name);
    if std::fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    std::fs::write(&path, value).doing(|| format!("set {name} to {value}"))
}

/// Lets an interface use its IPv6 addresses at once. Otherwise it tries for a second or two whether others have them, and till
/// then forwards nothing, for want of an address to ask for neighbours with. A kernel without IPv6 has nothing to set.
pub(crate) fn without_duplicate_detection(interface: &str) -> Result<()> {
    let name = format!("net/ipv6/conf/{interface}/accept_dad");
    if Path::new("/proc/sys").join(&name).exists() { sysctl(&name, "0") } else { Ok(()) }
}
