//! The resolvers of the host: `/etc/resolv.conf`, watched for change.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

/// CoreDNS takes at most this many.
const MAX_SERVERS: usize = 15;

/// The resolvers that a file names.
pub(crate) fn servers(text: &str) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        // A zone such as fe80::1%eth0 is resolved by the kernel's index of the interface.
        let Some(word) = words.next() else { continue };
        let (address, zone) = word.split_once('%').map_or((word, None), |(address, zone)| (address, Some(zone)));
        let server = match (address.parse(), zone) {
            (Ok(IpAddr::V6(ip)), Some(zone)) => match nix::net::if_::if_nametoindex(zone) {
                Ok(scope) => SocketAddr::V6(std::net::SocketAddrV6::new(ip, 53, 0, scope)),
                Err(_) => continue,
            },
            (Ok(ip), _) => SocketAddr::new(ip, 53),
            (Err(_), _) => continue,
        };
        if !servers.contains(&server) && servers.len() < MAX_SERVERS {
            servers.push(server);
        }
    }
    servers
}

/// Wakes `changed` when the file changes, is replaced, or what it links to does.
pub(crate) fn watch(path: &Path, changed: Arc<Notify>) -> Result<RecommendedWatcher, notify::Error> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            changed.notify_one();
        }
    })?;
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut folders: Vec<_> = [path, &target].iter().filter_map(|p| p.parent()).collect();
    folders.dedup();
    // A file is replaced more often than written, so its folder is what to watch.
    for folder in folders {
        watcher.watch(folder, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

/// Reads the file; one that does not exist names nobody.
pub(crate) async fn read(path: &Path) -> io::Result<Vec<SocketAddr>> {
    match tokio::fs::read_to_string(path).await {
        Ok(text) => Ok(servers(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read() {
        let text =
            "# nameserver 1.1.1.1\nsearch a b\nnameserver 10.0.0.1\n\tnameserver  fd00::1 \nnameserver x\nnameserver 10.0.0.1\n";
        assert_eq!(servers(text), ["10.0.0.1:53".parse().unwrap(), "[fd00::1]:53".parse().unwrap()]);
        assert_eq!(servers("nameserver ::1%lo"), ["[::1%1]:53".parse().unwrap()]);
    }
}
